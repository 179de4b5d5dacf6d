// SPDX-License-Identifier: MIT
// What is decided of machines: which GPU, memory, processor and NICs each rank uses, and the order of the rings.
//
//   topologies, and the ranks on them --> place.c (GPU, memory, thread) --> rails.c (NICs) --> order.c (rings) --> a decision
//
// Pure: the same input gives the same decision, on whatever host and in whatever process it is made. Nothing is looked
// at, opened or bound here; that is for those who carry it out. Each decision has its reason, in words.
#ifndef RDI_TOPO_DECIDE_H
#define RDI_TOPO_DECIDE_H

#include "topo/set.h"
#include "topo/topo.h"

#include <stdbool.h>

#define RDI_DECIDE_HOSTS 4096
#define RDI_DECIDE_LOCAL 1024 // ranks of one host
#define RDI_DECIDE_RANKS 65536

#define RDI_DECIDE_ANY (-1)  // let it be decided
#define RDI_DECIDE_NONE (-2) // a rank without a GPU, on a host that has some

// ---- What is given -------------------------------------------------------------------------------

struct rdi_decide_place {
    int rank;                   // in the job
    int gpu;                    // device, RDI_DECIDE_ANY or RDI_DECIDE_NONE
    const struct rdi_set *cpus; // that it is bound to; NULL = all that are allowed
};

struct rdi_decide_host {
    const char *name;
    const rondo_topo *topo; // lives at least as long as the decision
    int ranks;              // at least 1
    // As many as ranks, in the order of local ranks. NULL, then for all hosts: ranks are numbered host after host, and
    // everything is RDI_DECIDE_ANY.
    const struct rdi_decide_place *places;
};

// ---- What is decided -----------------------------------------------------------------------------
// Numbers of GPUs, NICs and NUMA nodes are those of the host's topology.

// A NIC that a rank uses.
struct rdi_decided_rail {
    int nic;
    rondo_topo_distance distance; // from the GPU, or from the memory of a rank without one
    int rail;                     // the ring that crosses the network here; -1 = none
    bool gpudirect;
    const char *why, *gpudirect_why;
};

struct rdi_decided_rank {
    int host, local;                // the host, and which of its ranks
    int gpu;                        // -1 = none
    int numa;                       // for its memory
    int cpu;                        // for its progress thread; -1 = anywhere
    int nrails;                     // 0: the host has no NIC, and the system finds the way
    struct rdi_decided_rail *rails; // the nearest first
    const char *gpu_why, *numa_why, *cpu_why;
};

struct rdi_decided_nic {
    int nic;
    bool fit;  // to carry a rail; false: left out
    int ranks; // that use it
    int rail;  // -1 = none
    const char *why;
};

struct rdi_decided_host {
    const char *name;
    const rondo_topo *topo;
    int nranks, nnics;
    int *ranks; // local rank --> rank
    int *chain; // ranks, each beside one that is near
    struct rdi_decided_nic *nics;
};

// Where a ring passes a host. Where ranks of the host reduce in memory first, `enter` alone talks to the network.
struct rdi_decided_leg {
    int nic;          // the rail's here; -1 = the system finds the way
    int enter, leave; // ranks
    const char *why;
};

struct rdi_decided_ring {
    int *order;                   // all ranks, hosts after each other
    struct rdi_decided_leg *legs; // one for each host
};

enum rdi_decided_plan {
    RDI_DECIDED_MEMORY = 0,     // one host: nothing crosses the network
    RDI_DECIDED_FLAT = 1,       // one rank on each host
    RDI_DECIDED_NODE_FIRST = 2, // reduce within each host, then one stream a rail between hosts
};

struct rdi_decision {
    enum rdi_decided_plan plan;
    const char *plan_why, *rails_why;
    int nhosts, nranks;
    int nrails; // that cross the network; 0 on one host
    int nrings; // one for each rail, and one on one host
    struct rdi_decided_host *hosts;
    struct rdi_decided_rank *ranks; // by their number in the job
    struct rdi_decided_ring *rings;
    // Private.
    struct rdi_decide_block *blocks;
    bool nomem;
};

// Decides for the ranks of a job; free it with rdi_decision_free().
// Errors: RONDO_ERR_INVALID: a host without ranks, a rank twice or missing, a GPU that is none; RONDO_ERR_NOMEM.
rondo_status rdi_decide(const struct rdi_decide_host *hosts, int n, struct rdi_decision **out);
void rdi_decision_free(struct rdi_decision *d);

// "memory only" and so on.
const char *rdi_decided_plan_name(enum rdi_decided_plan plan);

// What each host has to send at least for an all_reduce of `bytes`, 2(H-1)/H of them, or of that what one rail carries.
uint64_t rdi_decision_host_bytes(const struct rdi_decision *d, uint64_t bytes);
uint64_t rdi_decision_rail_bytes(const struct rdi_decision *d, uint64_t bytes);

// The GPU at a PCI address such as "0000:3b:00.0"; -1 = none.
int rdi_decide_gpu_at(const rondo_topo *topo, const char *pci);
// Ranks for a host of which nobody says how many: one a GPU, or else one a NUMA node with processors.
int rdi_decide_default_ranks(const rondo_topo *topo);

// ---- Within decide.c, place.c, rails.c, order.c --------------------------------------------------

// Zeroed memory, or text, that lives as long as d. NULL and "" after memory ran out, and d->nomem.
void *rdi_decide_alloc(struct rdi_decision *d, size_t n, size_t size);
const char *rdi_decide_say(struct rdi_decision *d, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));

int rdi_decide_gpus(const rondo_topo *topo);
// NUMA node k is the first with its processors, and some of them and its memory may be used.
bool rdi_decide_node_fits(const rondo_topo *topo, int k);
// Rank i of h.
struct rdi_decided_rank *rdi_decide_rank(const struct rdi_decision *d,
                                         const struct rdi_decided_host *h, int i);
// From a rank's GPU, or else its memory, to a NIC.
rondo_topo_distance rdi_decide_to_nic(const rondo_topo *topo, const struct rdi_decided_rank *r,
                                      int nic);

void rdi_decide_places(struct rdi_decision *d, struct rdi_decided_host *h,
                       const struct rdi_decide_place *places);
void rdi_decide_nics(struct rdi_decision *d, struct rdi_decided_host *h);
void rdi_decide_rings(struct rdi_decision *d);

#endif
