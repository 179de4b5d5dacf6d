// SPDX-License-Identifier: MIT
// The algorithms of a simulation, and the plans that choose them.
#include "ring/perf/cluster_run.h"
#include "ring/reduce.h"

#include <math.h>

#define CHUNK 65536.0 // as cluster_run.c has it
#define BLOCK_UNIT 64 // the ring's blocks are multiples of it

const char *cluster_way_name(enum cluster_way way) {
    static const char *const names[CLUSTER_WAYS] = {"plan", "direct", "doubling", "owner", "ring",
                                                    "tree", "chain",  "pairs",    "node"};
    return names[way];
}

bool cluster_can(enum rdi_kind kind, enum cluster_way way, int ranks, int ranks_per_host) {
    switch (way) {
    case CLUSTER_DIRECT:
        return kind == RDI_ALL_REDUCE && ranks <= RDI_REDUCE_MAX_SOURCES;
    case CLUSTER_DOUBLING:
        return kind == RDI_ALL_REDUCE;
    case CLUSTER_OWNER:
        return (kind == RDI_ALL_REDUCE || kind == RDI_REDUCE_SCATTER) &&
               ranks <= RDI_REDUCE_MAX_SOURCES;
    case CLUSTER_RING:
        return kind == RDI_ALL_REDUCE || kind == RDI_REDUCE_SCATTER || kind == RDI_ALL_GATHER;
    case CLUSTER_TREE:
    case CLUSTER_CHAIN:
        return kind == RDI_BROADCAST || kind == RDI_REDUCE;
    case CLUSTER_PAIRS:
        return kind == RDI_ALL_TO_ALL;
    case CLUSTER_NODE:
        return kind == RDI_ALL_REDUCE && ranks_per_host > 1 && ranks > ranks_per_host &&
               ranks_per_host < RDI_REDUCE_MAX_SOURCES;
    default:
        return true;
    }
}

int cluster_per_host(const struct cluster_job *j) {
    return j->cluster->ranks_per_host < j->ranks ? j->cluster->ranks_per_host : j->ranks;
}

// Of a ring that each of the blocks of `bytes` goes round: short data has fewer blocks than there are ranks.
static double ring_messages(double ranks, double bytes) {
    double block = ceil(bytes / ranks / BLOCK_UNIT) * BLOCK_UNIT;
    return (ranks - 1) * ceil(bytes / block) * ceil(block / CHUNK);
}

double cluster_messages(const struct cluster_job *j) {
    double n = j->ranks, bytes = (double)j->bytes, pieces = ceil(bytes / CHUNK);
    struct rdi_plan plan;
    cluster_plan(j, &plan);
    switch (rdi_plan_choose(&plan, j->kind, j->bytes)) {
    case RDI_ALGO_DIRECT:
        return n * n * pieces;
    case RDI_ALGO_DOUBLING:
        return n * ceil(log2(n)) * pieces;
    case RDI_ALGO_NODE:
        return 2 * ring_messages(plan.hosts, bytes) + 2 * n * pieces;
    case RDI_ALGO_TREE:
    case RDI_ALGO_CHAIN:
        return n * pieces;
    case RDI_ALGO_RING:
        if (j->kind == RDI_ALL_REDUCE) {
            return 2 * ring_messages(n, bytes);
        }
        return n * n * ceil(bytes / n / CHUNK);
    default:
        return (j->kind == RDI_ALL_REDUCE ? 2 : 1) * n * n * ceil(bytes / n / CHUNK);
    }
}

void cluster_plan(const struct cluster_job *j, struct rdi_plan *plan) {
    uint32_t hosts = (uint32_t)((j->ranks + cluster_per_host(j) - 1) / cluster_per_host(j));
    *plan = (struct rdi_plan){.ranks = (uint32_t)j->ranks,
                              .max_local = (uint32_t)cluster_per_host(j),
                              .hosts = hosts,
                              .direct_max = 64 << 10,
                              .block = 256 << 10};
    switch (j->way) {
    case CLUSTER_DIRECT:
        plan->algorithm = 1;
        break;
    case CLUSTER_DOUBLING:
        plan->algorithm = 2;
        break;
    case CLUSTER_RING:
        plan->algorithm = 3;
        break;
    case CLUSTER_NODE:
        plan->algorithm = 4;
        break;
    case CLUSTER_OWNER:
        plan->strict = 1;
        plan->direct_max = 0;
        break;
    case CLUSTER_CHAIN:
        plan->direct_max = 0;
        break;
    case CLUSTER_TREE:
        plan->direct_max = UINT64_C(1) << 40;
        break;
    default:
        break;
    }
}
