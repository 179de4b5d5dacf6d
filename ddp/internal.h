// SPDX-License-Identifier: MIT
// The DDP layer's private header.
#ifndef RDI_DDP_INTERNAL_H
#define RDI_DDP_INTERNAL_H

#include "ddp/ddp.h"
#include "ddp/place.h"
#include "ring/internal.h"

// One parameter as DDP keeps it.
struct rdi_param {
    char *name;
    void *data;
    size_t count, bytes;
    rondo_type type;
    size_t bucket, offset; // where its gradient lives
    bool ready;            // in this step
};

// Gradients that are reduced together: one type, contiguous.
struct rdi_bucket {
    rondo_type type;
    size_t count;           // elements
    char *mem;              // of the place
    size_t params, pending; // parameters in it; those not ready yet in this step
    rondo_request *req;
    uint64_t launched, finished; // ns, of this step
};

// Assigns parameters, taken in `order`, to buckets: a bucket per type is filled until its limit, the first one
// that is emitted up to `first` bytes, later ones up to `cap`. Sets bucket and offset of each parameter; the
// caller frees *buckets. Pure but for memory.
rondo_status rdi_bucket_assign(struct rdi_param *params, size_t n, const size_t *order,
                               size_t first, size_t cap, struct rdi_bucket **buckets,
                               size_t *nbuckets);
// Whether what a peer sent is an order of n parameters, each of them once; then it is in `order`.
bool rdi_bucket_order(const uint64_t *from, size_t n, size_t *order);
rondo_status rdi_bucket_alloc(struct rondo_ddp *d, struct rdi_bucket *b, size_t n);
void rdi_bucket_free(struct rondo_ddp *d, struct rdi_bucket *b, size_t n);

struct rdi_ddp_device;

struct rondo_ddp {
    rondo_comm *comm; // its own, for gradients; elastic: NULL while there is none
    rondo_comm
        *world; // the same ranks: the caller's, or (own_world) what shrink and grow made of it
    bool own_world;
    const struct rdi_place *place;
    struct rdi_ddp_device *device; // device.c's
    struct rdi_param *params;
    size_t nparams;
    struct rdi_bucket *buckets;
    size_t nbuckets, next; // next: first bucket not launched in this step
    size_t *order;         // parameters in the order in which they got ready in this step
    size_t *layout;        // and in that by which buckets were assigned
    size_t nready;
    size_t first_bytes, cap_bytes;
    bool average, rebuild, rebuilt, sync;
    rondo_ddp_stats stats;
    uint64_t sent_before; // on `comm` by creation, which does not count as a step's
    uint64_t sent;        // on communicators before
    uint64_t traced;      // ns, where the last piece of a step ended; 0: there is no trace

    // Elastic only.
    bool elastic;
    bool fresh;  // has no state of the job yet
    bool origin; // its parameters are the ones that the job begins with
    bool joined;
    bool hopeless; // what went wrong cannot be mended by going on without somebody
    void (*save)(void *arg);
    void (*restore)(void *arg);
    void *hook_arg;
    rondo_ddp_state *states;
    size_t nstates;
};

// trace.c: at the first gradient of a step, at the call of finish, at its end.
void rdi_ddp_trace_backward(struct rondo_ddp *d);
void rdi_ddp_trace_wait(struct rondo_ddp *d);
void rdi_ddp_trace_end(struct rondo_ddp *d);

// verify.c: the same parameters on all ranks, then rank 0's values everywhere.
rondo_status rdi_ddp_verify(struct rondo_ddp *d);
rondo_status rdi_ddp_broadcast(struct rondo_ddp *d, int root);

// ddp.c: after a step that does not count, and buckets by another order (the old ones' contents are lost)
void rdi_ddp_reset_step(struct rondo_ddp *d);
rondo_status rdi_ddp_zero(struct rondo_ddp *d);
uint64_t rdi_ddp_bytes_sent(const struct rondo_ddp *d);
rondo_status rdi_ddp_relayout(struct rondo_ddp *d, const size_t *order);

// state.c: options are the same on all ranks, and ranks without state get it from one that has it. Collective.
rondo_status rdi_ddp_hand_over(struct rondo_ddp *d);

// elastic.c
// Whether a communicator has failed, so that the step cannot count.
bool rdi_ddp_is_broken(const struct rondo_ddp *d);
// The first communicators and states; `prepared`: whether this rank can take part at all.
rondo_status rdi_ddp_begin(struct rondo_ddp *d, rondo_status prepared);
// All agree on a step that went `s` here. RONDO_OK: it counts. RONDO_RETRY_STEP: communicators and states are in order
// again. Else: it is over.
rondo_status rdi_ddp_settle(struct rondo_ddp *d, rondo_status s);

#endif
