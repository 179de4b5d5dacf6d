// SPDX-License-Identifier: MIT
// What a step of PowerSGD begins with: the last one's Q, or random numbers that are the same on all ranks.
//
// A step that does not count is repeated, maybe with other ranks. Errors and factors that it left are then set aside, so
// what it begins with is kept until the next step begins. A newcomer has no Q of the last step: after a change of the
// communicator all begin with random numbers again.
#include <string.h>

#include "ddp/hook/powersgd.h"
#include "ring/internal.h"

// A well mixed function of its argument (Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators", 2014).
static uint64_t mix(uint64_t x) {
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

// Column k of the factor at q, uniform in [-1, 1): a function of nothing but its arguments, and exact on any machine.
static void fill(const struct rdi_powersgd *h, const struct rdi_powersgd_work *w,
                 const struct rdi_low_rank *m, unsigned k, uint64_t step, void *q) {
    const uint64_t key = mix(mix(mix(h->options.seed) ^ m->param) ^ step) ^ k;
    for (size_t i = 0; i < m->cols; i++) {
        const double x = (double)(int32_t)(mix(mix(key) + i) >> 32) * 0x1p-31;
        const size_t at = k * m->cols + i;
        if (w->type == RONDO_F64) {
            ((double *)q)[at] = x;
        } else {
            ((float *)q)[at] = (float)x;
        }
    }
}

static bool is_zero(const struct rdi_powersgd_work *w, const struct rdi_low_rank *m, unsigned k,
                    const void *q) {
    const char *column = (const char *)q + k * m->cols * w->element;
    for (size_t i = 0; i < m->cols * w->element; i++) {
        if (column[i] != 0) {
            return false;
        }
    }
    return true;
}

// Makes the columns orthonormal: products with them are then as large as the gradient, which matters where these travel
// as f16. A column that says nothing any more gets random numbers, or its part of the rank would be lost for good.
static void condition(const struct rdi_powersgd *h, const struct rdi_powersgd_work *w,
                      const struct rdi_low_rank *m, uint64_t step, bool fresh) {
    void *q = rdi_powersgd_at(w, w->start, m->q);
    if (!fresh) {
        fresh = !w->ops->orthonormalise(q, m->cols, m->rank);
    }
    for (unsigned k = 0; k < m->rank; k++) {
        if (fresh || is_zero(w, m, k, q)) {
            fill(h, w, m, k, step, q);
        }
    }
    (void)w->ops->orthonormalise(q, m->cols, m->rank);
}

void rdi_powersgd_begin(const struct rdi_powersgd *h, const rondo_ddp_bucket *b,
                        struct rdi_powersgd_work *w) {
    const bool repeated = w->begun && w->step == b->step, same = w->begun && w->comm == b->comm->id;
    if (w->complete && !repeated) {
        void *error = w->error[0];
        w->error[0] = w->error[1];
        w->error[1] = error;
        memcpy(w->start, w->q, w->q_count * w->element);
    }
    const bool fresh = !w->begun || !same || !h->options.warm_start;
    for (size_t i = 0; i < w->nmatrices; i++) {
        w->matrices[i].lost = false;
        if (fresh || !repeated) {
            condition(h, w, &w->matrices[i], b->step, fresh);
        }
    }
    w->begun = true;
    w->complete = false;
    w->step = b->step;
    w->comm = b->comm->id;
    w->left_out = w->norm = 0;
}
