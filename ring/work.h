// SPDX-License-Identifier: MIT
// Payload at work: the copies and reductions of algorithms, which a simulation may count instead of doing them.
#ifndef RDI_WORK_H
#define RDI_WORK_H

#include "ring/internal.h"
#include "ring/reduce.h"

#include <string.h>

// Tells the simulation, if there is one; true: the work is to be done.
static inline bool rdi_work(const struct rondo_request *r, enum rdi_work_kind kind,
                            uint64_t bytes) {
    const struct rdi_work *w = r->comm->engine->work;
    if (__builtin_expect(!w, 1)) {
        return true;
    }
    w->done(w->self, kind, bytes);
    return !w->spare;
}

static inline void rdi_work_copy(const struct rondo_request *r, void *to, const void *from,
                                 uint64_t bytes) {
    if (rdi_work(r, RDI_WORK_COPY, bytes)) {
        memmove(to, from, bytes);
    }
}

// The operation's reduction of `bytes` from each of two operands.
static inline void rdi_work_reduce2(const struct rondo_request *r, void *to, const void *a,
                                    const void *b, uint64_t bytes) {
    if (rdi_work(r, RDI_WORK_REDUCE, bytes)) {
        rdi_reduce2(to, a, b, bytes / r->esize, r->type, r->op);
    }
}

// The same from each of n, folded as the plan says.
static inline void rdi_work_reduce_n(const struct rondo_request *r, void *to,
                                     const void *const *from, unsigned n, uint64_t bytes) {
    if (rdi_work(r, RDI_WORK_REDUCE, (n - 1) * bytes)) {
        rdi_reduce_n(to, from, n, bytes / r->esize, r->type, r->op, r->comm->plan.strict);
    }
}

// AVG: what was summed over all ranks is divided by their number.
static inline void rdi_work_average(const struct rondo_request *r, void *x, uint64_t bytes) {
    if (r->op == RONDO_AVG && rdi_work(r, RDI_WORK_REDUCE, bytes)) {
        rdi_divide(x, bytes / r->esize, r->type, (uint64_t)r->comm->size);
    }
}

#endif
