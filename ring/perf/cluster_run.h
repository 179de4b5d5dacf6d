// SPDX-License-Identifier: MIT
// One simulated operation, as its parts share it.
//
//   cluster_way.c    which algorithms there are, and the plans that choose them
//   cluster_make.c   ranks, communicators and buffers
//   cluster_run.c    the operation, to its end on all ranks
//   cluster_fetch.c  a rank's state into the processor's cache before its turn
#ifndef RDI_PERF_CLUSTER_RUN_H
#define RDI_PERF_CLUSTER_RUN_H

#include "ring/perf/cluster.h"
#include "transport/sim/sim.h"

struct member { // a rank
    struct rdi_engine *engine;
    struct rdi_sim_node *node;
    struct rondo_comm *comm;
    struct rondo_request *req;
    char *send, *recv;
    struct run *run;
    struct rdi_work work;
};

struct run {
    const struct cluster_job *job;
    struct rdi_sim *sim;
    struct rdi_plan plan;
    uint64_t count, elements; // elements: of a buffer
    double touch_ns;          // a byte
    int left;
    struct member *member;
    void *buffers;
    size_t buffer_bytes; // of all of them
    uint64_t progress, broken, end;
};

// cluster_way.c
int cluster_per_host(const struct cluster_job *j);

// cluster_make.c
rondo_status cluster_make(struct run *r, const struct rdi_options *o);
// Clears the results, so that those of the operation before are not taken for the next one's.
void cluster_forget(struct run *r);
uint64_t cluster_wrong(const struct run *r);
void cluster_close(struct run *r);

// cluster_fetch.c: called at each turn.
void cluster_fetch(const struct run *r);

#endif
