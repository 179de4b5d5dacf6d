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
    size_t rows;           // as a matrix; 0: it is none
    size_t bucket, offset; // where its gradient lives; nowhere if it is sparse
    bool sparse;
    bool ready;               // in this step
    bool used;                // marked since gradients were last reduced
    uint32_t marks, expected; // of this step, and of each where the graph is static
    uint64_t last;            // when its last mark came: by which mark of the step
};

// Gradients that are reduced together: one type, contiguous.
struct rdi_bucket {
    rondo_type type;
    size_t count;           // elements
    char *mem;              // of the place
    size_t params, pending; // parameters in it; those not ready yet in this step
    rondo_request *req;
    uint64_t launched, finished; // ns, of this step
    rondo_ddp_bucket hooked;     // what a hook sees of it
    int round;                   // the hook's next; 0: none
};

// Rows of a sparse gradient.
struct rdi_rows {
    uint64_t *row;
    char *values;
    size_t n, cap;
};

struct rdi_sparse {
    size_t param, width, bytes; // columns, bytes of a row
    struct rdi_rows mine, sum;
};

struct rdi_buffer {
    char *name;
    void *data;
    size_t count;
    rondo_type type;
};

// Uneven inputs.
struct rdi_join {
    bool on, told; // told: who has input in this step
    bool shadow;   // this rank has none
    rondo_ddp_join_options options;
    uint8_t *flags; // a byte a rank
    rondo_request *req;
    int root;   // lowest rank with input in the step, or in the last step; -1: none
    int out;    // first that was found without; -1: none
    int active; // ranks with input in the step
};

// Bucket sizes that are tried out, see tune.c.
struct rdi_tune {
    bool on;
    size_t next, step; // candidate, and step of it
    uint64_t began;    // ns
    double time[8];    // best of each candidate
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

    // Parameters that take no part, usage.c.
    bool find_unused, static_graph, learned;
    bool learns; // learned, if the step counts
    size_t nmarks;
    uint8_t *used_map; // of the last finished step, over all ranks
    rondo_request *used_req;
    rondo_status used_status; // what became of it

    struct rdi_buffer *buffers;
    size_t nbuffers;
    struct rdi_sparse *sparse;
    size_t nsparse;
    struct rdi_join join;
    rondo_ddp_hook hook; // round NULL: there is none
    struct rdi_tune tune;
    bool shard;
    struct rondo_zero *zero;
    size_t *moved; // shard: an order of parameters by which buckets will be rebuilt
    bool move;
    size_t asked_bytes; // cap of buckets as it was asked for

    // For figures, trace.c and logging.c.
    uint64_t last;        // ns, where the last piece of a step ended
    double seconds[3];    // forward, backward, waiting: all steps
    size_t first_buckets; // before buckets were rebuilt
};

char *rdi_ddp_view(const struct rondo_ddp *d, size_t i);
rondo_status rdi_ddp_between_steps(const struct rondo_ddp *d, const char *name);
static inline uint64_t rdi_ddp_now(const struct rondo_ddp *d) {
    return d->comm ? rdi_now(&d->comm->engine->env) : 0;
}

// bucket.c: elements of each bucket so that every rank has an equal share.
void rdi_bucket_pad(const struct rondo_ddp *d, struct rdi_bucket *b, size_t n);
// hook/hook.c
rondo_status rdi_hook_bucket(struct rondo_ddp *d, struct rdi_bucket *buckets, size_t n);
rondo_status rdi_hook_launch(struct rondo_ddp *d, struct rdi_bucket *b);
rondo_status rdi_hook_finish(struct rondo_ddp *d);
void rdi_hook_drain(struct rondo_ddp *d);
void rdi_hook_forget(struct rondo_ddp *d);
void rdi_hook_release(struct rondo_ddp *d, struct rdi_bucket *b, size_t n);
// options.c
void rdi_ddp_free_options(struct rondo_ddp *d);
// step.c
rondo_status rdi_ddp_begin_step(struct rondo_ddp *d);
void rdi_ddp_complete(struct rondo_ddp *d, size_t i);
rondo_status rdi_ddp_launch(struct rondo_ddp *d);
rondo_status rdi_ddp_divide(struct rondo_ddp *d, size_t i, const void *grad);
rondo_status
rdi_ddp_step(struct rondo_ddp *d); // everything between the last mark and the step's end
rondo_status rdi_ddp_end_step(struct rondo_ddp *d,
                              bool broken); // with agreement, and buckets rebuilt
void rdi_ddp_tell_failure(struct rondo_ddp *d, rondo_status s);
void rdi_ddp_drain(struct rondo_ddp *d); // waits for all that a step has begun
// rebuild.c: the order in which rank 0's gradients got ready, to all; and buckets by another order.
rondo_status rdi_ddp_spread_order(struct rondo_ddp *d, size_t *order);
rondo_status rdi_ddp_rearrange(struct rondo_ddp *d, const size_t *order, bool keep);
// usage.c. Whether a bucket waits for the parameter: not where it takes no part in a static graph.
static inline bool rdi_usage_counts(const struct rondo_ddp *d, const struct rdi_param *p) {
    return !p->sparse && !(d->static_graph && d->learned && p->expected == 0);
}
// mark: whether the gradient is complete with it.
rondo_status rdi_usage_mark(struct rondo_ddp *d, size_t i, bool used, bool *complete);
rondo_status rdi_usage_end(struct rondo_ddp *d);    // of a pass, for what was not marked
rondo_status rdi_usage_tell(struct rondo_ddp *d);   // after the last launch
rondo_status rdi_usage_shadow(struct rondo_ddp *d); // all zeros
void rdi_usage_reset(struct rondo_ddp *d, bool reduced);
void rdi_usage_settled(struct rondo_ddp *d); // the step counts
rondo_status rdi_usage_wait(struct rondo_ddp *d);
// buffers.c
rondo_status rdi_ddp_broadcast_buffers(struct rondo_ddp *d, int root);
// join.c: at the first mark, before the end; a step that must not count.
rondo_status rdi_join_tell(struct rondo_ddp *d, bool input);
rondo_status rdi_join_hear(struct rondo_ddp *d);
void rdi_join_scale(struct rondo_ddp *d);
rondo_status rdi_join_end(struct rondo_ddp *d);
// sparse.c
rondo_status rdi_sparse_open(struct rondo_ddp *d, const size_t *list, size_t n);
rondo_status rdi_sparse_reduce(struct rondo_ddp *d);
void rdi_sparse_reset(struct rondo_ddp *d);
void rdi_sparse_close(struct rondo_ddp *d);
// tune.c: after a step. *cap: another size of buckets to go on with, or 0.
rondo_status rdi_tune_step(struct rondo_ddp *d, size_t *cap);
// When ranks were lost or came: the best of what was tried.
rondo_status rdi_tune_stop(struct rondo_ddp *d);
// zero.c: how many elements of a gradient rank `rank` has the reduced values of, from *first on: all but for options.shard.
size_t rdi_ddp_part(const struct rondo_ddp *d, const struct rdi_param *p, int rank, size_t *first);
// Buckets as d->moved says, and the optimizer's state with them.
rondo_status rdi_zero_relayout(struct rondo_ddp *d);

// trace.c: at the first gradient of a step, at the call of finish, at its end.
void rdi_ddp_trace_backward(struct rondo_ddp *d);
void rdi_ddp_trace_wait(struct rondo_ddp *d);
void rdi_ddp_trace_end(struct rondo_ddp *d);

// verify.c: the same parameters on all ranks, then rank 0's values everywhere.
uint64_t rdi_ddp_hash(const char *name);
rondo_status rdi_ddp_verify(struct rondo_ddp *d);
rondo_status rdi_ddp_broadcast(struct rondo_ddp *d, int root);

// options.c: what a rank can do by itself.
rondo_status rdi_ddp_prepare(struct rondo_ddp *d, const rondo_param *params, size_t nparams,
                             const rondo_ddp_options *options, int *device, rondo_stream *stream);
// step.c and ddp.c: after a step that does not count, and buckets by another order (the old ones' contents are lost)
void rdi_ddp_reset_step(struct rondo_ddp *d);
rondo_status rdi_ddp_zero(struct rondo_ddp *d);
void rdi_ddp_scale(struct rondo_ddp *d, double scale); // all gradients, in host memory
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
