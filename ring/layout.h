// SPDX-License-Identifier: MIT
// Where the ranks of a communicator are: hosts after each other, each host's ranks in a chain, and who talks to the network.
//
//   seats of all ranks (a rank's own part of a decision, topo/decide.h)  -->  the order of the ring, streams and their leaders
//
// Pure, and the same on all ranks of a communicator, as all have the same seats. For the ranks of a whole job it gives
// what rdi_decide() gives for their hosts (tests/unit/test_layout.c compares them).
#ifndef RDI_RING_LAYOUT_H
#define RDI_RING_LAYOUT_H

#include "transport/transport.h"

#include <stdbool.h>
#include <stdint.h>

#define RDI_SEAT_NICS 16
#define RDI_SEAT_WIRE (5 + RDI_SEAT_NICS)

// One rank among those of its host. NICs are numbered as in the host's topology; those after the first
// RDI_SEAT_NICS are left out.
struct rdi_seat {
    uint8_t nics;              // 0: none is known, and the system finds the way
    uint16_t uses;             // bits: NICs that this rank uses
    uint16_t chain;            // its place beside those that are near
    uint8_t to[RDI_SEAT_NICS]; // rondo_topo_distance to each
};
// Whether NICs should read and write a GPU's memory themselves.
struct rdi_gpu_way {
    char pci[24];      // the GPU that it is said of; "" = of none
    char against[160]; // why not; "" = nothing stands against it
};

void rdi_seat_write(const struct rdi_seat *s, uint8_t out[RDI_SEAT_WIRE]);
// Takes any bytes: what makes no sense is no NIC.
void rdi_seat_read(struct rdi_seat *s, const uint8_t in[RDI_SEAT_WIRE]);

// What crosses the network on one rail, or on several that the same ranks lead.
struct rdi_stream {
    uint32_t weight; // rails
    int *leaders;    // of each host, in the order of the ring
};

struct rdi_layout {
    int size, hosts, host; // ranks, hosts, this rank's host (0 .. hosts-1)
    int pos;               // this rank's place in the ring
    int *order;            // the rank at each place; NULL: as they are numbered
    int nlocals, *locals;  // ranks of this rank's host, the lowest first
    int nstreams,
        rails; // streams, none where no host has to reduce first; the sum of their weights
    struct rdi_stream *streams;
    uint32_t max_local; // most ranks on one host
    uint64_t hash;      // of all of this that is the same on all ranks
};

// `host[r]`: the lowest rank that shares a host with rank r; `seat(arg, r)` its seat. RONDO_ERR_NOMEM: nothing to free.
rondo_status rdi_layout_make(struct rdi_layout *l, int size, int rank, const int *host,
                             const struct rdi_seat *(*seat)(const void *arg, int rank),
                             const void *arg);
void rdi_layout_free(struct rdi_layout *l);

static inline int rdi_layout_rank(const struct rdi_layout *l, int pos) {
    return l->order ? l->order[pos] : pos;
}
// Where a rank stands; looked for, as there is no table of it.
static inline int rdi_layout_pos(const struct rdi_layout *l, int rank) {
    int pos = rank;
    while (l->order && l->order[pos] != rank) {
        pos = pos + 1 < l->size ? pos + 1 : 0;
    }
    return pos;
}
// The rank that is so many places after this one.
static inline int rdi_layout_next(const struct rdi_layout *l, int steps) {
    return rdi_layout_rank(l, (l->pos + steps) % l->size);
}

#endif
