// SPDX-License-Identifier: MIT
// A cluster described in JSON, and what the product's own engine would take on it, in virtual time.
//
//   cluster.c    the description: reading and checking it
//   cluster_run.c  one operation on the simulated network (transport/sim)
//   simulate.c   the table of sizes and algorithms
#ifndef RDI_PERF_CLUSTER_H
#define RDI_PERF_CLUSTER_H

#include "ring/internal.h"

#define CLUSTER_RANKS 16384

struct cluster {
    char name[64];
    int hosts, ranks_per_host, cores_per_host, nics_per_host;
    double nic_gbps, nic_us;     // GB = 1e9 bytes a second; one way
    double inner_gbps, inner_us; // between ranks of a host
    double touch_gbps;           // at which a core reduces or copies what arrived
    double message_us;           // of a core, for each message that it sends or receives
    double switch_us;            // of a core that goes from one rank to another
    double jitter_us;
    uint64_t seed;
};

// Reads a description of `len` bytes; pure. False: `why` tells line and key, and what is allowed.
bool cluster_read(const char *text, size_t len, struct cluster *out, char *why, size_t cap);

enum cluster_way {
    CLUSTER_PLAN, // what the plan chooses
    CLUSTER_DIRECT,
    CLUSTER_DOUBLING,
    CLUSTER_OWNER,
    CLUSTER_RING,
    CLUSTER_TREE,
    CLUSTER_CHAIN,
    CLUSTER_PAIRS,
    CLUSTER_NODE,
    CLUSTER_WAYS
};

struct cluster_job {
    const struct cluster *cluster;
    int ranks;
    enum rdi_kind kind;
    enum cluster_way way;
    uint64_t bytes; // of the largest buffer
    bool check;     // messages have payload, and every result is compared
    void (*progress)(void *arg, uint64_t events);
    void *arg;
};
struct cluster_result {
    double seconds; // virtual
    uint64_t events, messages;
    double real_seconds;  // of the operation
    double whole_seconds; // with the making of all ranks
    uint64_t wrong;
    enum rdi_algo_id algo;
};
// Messages that it would take, about.
double cluster_messages(const struct cluster_job *j);
// Whether that algorithm can do that operation.
bool cluster_can(enum rdi_kind kind, enum cluster_way way, int ranks, int ranks_per_host);
const char *cluster_way_name(enum cluster_way way);
rondo_status cluster_run(const struct cluster_job *j, struct cluster_result *out);
// The options of the library that a simulation uses.
void cluster_plan(const struct cluster_job *j, struct rdi_plan *plan);

#endif
