// SPDX-License-Identifier: MIT
// What the parts of PowerSGD share: powersgd.c has the rounds, powersgd_work.c a bucket's memory, powersgd_factor.c the
// factors that a step begins with.
#ifndef RDI_HOOK_POWERSGD_H
#define RDI_HOOK_POWERSGD_H

#include "ddp/hook/matrix.h"
#include "ddp/hook/stage.h"

struct rdi_powersgd {
    rondo_ddp_hook inner;
    rondo_powersgd_options options;
    char name[256];
};

// A gradient that is compressed.
struct rdi_low_rank {
    size_t param, offset, rows, cols; // offset in the bucket
    unsigned rank;
    size_t p, q, m; // where its factors and its error (or widened values) begin, in elements
    bool lost;      // not finite in this step
};

// What is kept for a bucket. Elements are `type`: f32, or f64 for buckets of f64.
struct rdi_powersgd_work {
    rondo_type type;
    size_t element;
    const struct rdi_matrix_ops *ops;
    struct rdi_low_rank *matrices;
    size_t nmatrices;
    rondo_ddp_slice *rest; // the other gradients, as they lie in `vectors`
    size_t *rest_at;       // and where they lie in the bucket
    size_t nrest, vector_count, p_count, q_count, m_count;
    void *vectors, *p, *q; // travel
    void *start, *mine;    // Q that the step begins with; this rank's part of Q
    void *wide;            // f16 and bf16: the matrices as f32
    void *error[2];        // what was left out before this step, and in it; NULL without feedback
    struct rdi_stage whole, vector_stage, p_stage, q_stage;
    enum { RDI_WHOLE, RDI_LEFT, RDI_RIGHT } phase;
    double left_out, norm; // of this step
    uint64_t step;         // that the above belongs to
    uint64_t comm;         // identity of its communicator
    bool begun, complete;  // there was one; it came to its end here
};

// Types that are compressed.
bool rdi_powersgd_takes(rondo_type type);

// Makes bucket->work. `*out` stays the bucket's.
rondo_status rdi_powersgd_work(const struct rdi_powersgd *h, rondo_ddp_bucket *b,
                               struct rdi_powersgd_work **out);
void rdi_powersgd_free(struct rdi_powersgd_work *w);

// Errors and factors that this step begins with; a step that is repeated begins with the same ones.
void rdi_powersgd_begin(const struct rdi_powersgd *h, const rondo_ddp_bucket *b,
                        struct rdi_powersgd_work *w);

// Element i of a block of memory of the work's type.
static inline void *rdi_powersgd_at(const struct rdi_powersgd_work *w, void *mem, size_t i) {
    return (char *)mem + i * w->element;
}

#endif
