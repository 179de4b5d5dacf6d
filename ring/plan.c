// SPDX-License-Identifier: MIT
// Which algorithm runs: a pure function of the operation and of the plan, which all ranks share.
#include "ring/internal.h"
#include "ring/reduce.h"

#include <string.h>

uint64_t rdi_plan_hash(const struct rdi_plan *p) {
    // FNV-1a over the fields, not over the struct's memory: padding must not count.
    const uint64_t v[] = {p->ranks,      p->max_local, p->strict, p->algorithm,
                          p->direct_max, p->block,     p->hosts,  p->layout};
    uint64_t h = UINT64_C(0xcbf29ce484222325);
    for (size_t i = 0; i < sizeof v / sizeof *v; i++) {
        for (int b = 0; b < 64; b += 8) {
            h = (h ^ ((v[i] >> b) & 0xff)) * UINT64_C(0x100000001b3);
        }
    }
    return h;
}

#define BLOCK_MAX (UINT64_C(1) << 30)

bool rdi_plan_valid(const struct rdi_plan *p) {
    // Algorithms divide by the block and cut elements of up to 8 bytes out of it.
    return p->strict <= 1 && p->algorithm <= 4 && p->block >= 64 && p->block <= BLOCK_MAX &&
           p->block % 64 == 0;
}

// Everybody-to-everybody costs n-1 messages a rank; up to here that beats log2(n) rounds of latency.
#define DIRECT_RANKS 8
// On one host the ranks' memory is one wire: one pass over all contributions beats 2(n-1) hand-overs.
#define OWNER_RANKS 64

// A leader adds up what its host's ranks have, and what comes from the network, at once.
static bool can_go_by_node(const struct rdi_plan *p) {
    return p->hosts > 1 && p->max_local > 1 && p->max_local < RDI_REDUCE_MAX_SOURCES;
}

static enum rdi_algo_id all_reduce(const struct rdi_plan *p, uint64_t bytes) {
    if (p->strict) {
        // Only these two give the left fold over ranks.
        return bytes <= p->direct_max && p->ranks <= DIRECT_RANKS ? RDI_ALGO_DIRECT
                                                                  : RDI_ALGO_OWNER;
    }
    switch (p->algorithm) {
    case 1:
        return RDI_ALGO_DIRECT;
    case 2:
        return RDI_ALGO_DOUBLING;
    case 3:
        return RDI_ALGO_RING;
    case 4:
        if (can_go_by_node(p)) {
            return RDI_ALGO_NODE;
        }
        break;
    default:
        break;
    }
    if (bytes <= p->direct_max) {
        return p->ranks <= DIRECT_RANKS ? RDI_ALGO_DIRECT : RDI_ALGO_DOUBLING;
    }
    if (p->max_local == p->ranks && p->ranks <= OWNER_RANKS) {
        return RDI_ALGO_OWNER;
    }
    return can_go_by_node(p) ? RDI_ALGO_NODE : RDI_ALGO_RING;
}

enum rdi_algo_id rdi_plan_choose(const struct rdi_plan *p, enum rdi_kind kind, uint64_t bytes) {
    switch (kind) {
    case RDI_ALL_REDUCE:
        return all_reduce(p, bytes);
    case RDI_REDUCE_SCATTER:
        return p->strict ? RDI_ALGO_OWNER : RDI_ALGO_RING;
    case RDI_ALL_GATHER:
        return RDI_ALGO_RING;
    case RDI_BROADCAST:
        return bytes <= p->direct_max ? RDI_ALGO_TREE : RDI_ALGO_CHAIN;
    case RDI_REDUCE:
        return bytes <= p->direct_max && !p->strict ? RDI_ALGO_TREE : RDI_ALGO_CHAIN;
    case RDI_ALL_TO_ALL:
        return RDI_ALGO_PAIRS;
    case RDI_BARRIER:
        return RDI_ALGO_DOUBLING;
    default:
        return RDI_ALGO_NONE;
    }
}

const char *rdi_algo_name(enum rdi_algo_id id) {
    static const char *const names[RDI_ALGO_COUNT] = {
        "none", "direct", "owner", "doubling", "ring", "tree", "chain", "pairs", "device", "node"};
    return id < RDI_ALGO_COUNT ? names[id] : "none";
}

const struct rdi_algo *rdi_algo_get(enum rdi_algo_id id, enum rdi_kind kind) {
    switch (kind) {
    case RDI_ALL_REDUCE:
        return id == RDI_ALGO_DIRECT     ? &rdi_algo_direct
               : id == RDI_ALGO_OWNER    ? &rdi_algo_owner
               : id == RDI_ALGO_DOUBLING ? &rdi_algo_doubling
               : id == RDI_ALGO_NODE     ? &rdi_algo_node
                                         : &rdi_algo_ring_ar;
    case RDI_REDUCE_SCATTER:
        return id == RDI_ALGO_OWNER ? &rdi_algo_owner : &rdi_algo_ring_rs;
    case RDI_ALL_GATHER:
        return &rdi_algo_ring_ag;
    case RDI_BROADCAST:
        return id == RDI_ALGO_TREE ? &rdi_algo_bcast_tree : &rdi_algo_bcast_chain;
    case RDI_REDUCE:
        return id == RDI_ALGO_TREE ? &rdi_algo_reduce_tree : &rdi_algo_reduce_chain;
    case RDI_ALL_TO_ALL:
        return &rdi_algo_pairs;
    case RDI_BARRIER:
        return &rdi_algo_barrier;
    default:
        return &rdi_algo_p2p;
    }
}
