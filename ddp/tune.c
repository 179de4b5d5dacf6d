// SPDX-License-Identifier: MIT
// RONDO_DDP_BUCKET_AUTO: sizes of buckets are tried out in the first steps, and the fastest stays.
//
// Small buckets begin to travel early, large ones cost fewer operations; which is better depends on the model, the wire
// and on how long backward takes, so it is measured: whole steps, from one's end to the next one's, the best of a few
// for each size, and of all ranks the slowest. All ranks see the same figures, so they come to the same end.
#include "ddp/internal.h"

#include <float.h>
#include <stdlib.h>
#include <string.h>

enum { WARM = 1, MEASURED = 2 }; // steps with each size

static const size_t sizes[] = {256u << 10, 1u << 20, 4u << 20, 16u << 20, 64u << 20, SIZE_MAX};
#define SIZES (sizeof sizes / sizeof sizes[0])
_Static_assert(SIZES <= sizeof((struct rdi_tune *)0)->time / sizeof(double),
               "a time for each size");

static size_t largest(const struct rondo_ddp *d) {
    size_t bytes = 0;
    for (size_t i = 0; i < d->nparams; i++) {
        bytes += d->params[i].sparse ? 0 : d->params[i].bytes + 64;
    }
    return bytes ? bytes : 1;
}

// A size as it makes a difference: no bucket is larger than all gradients.
static size_t size_at(const struct rondo_ddp *d, size_t k) {
    size_t most = largest(d);
    return sizes[k] < most ? sizes[k] : most;
}

static bool is_last(const struct rondo_ddp *d, size_t k) {
    return k + 1 == SIZES || sizes[k] >= largest(d);
}

static size_t best(const struct rdi_tune *t, size_t n) {
    size_t b = 0;
    for (size_t k = 1; k < n; k++) {
        b = t->time[k] < t->time[b] ? k : b;
    }
    return b;
}

// Those that come take over sizes with the order of parameters, and have no part in what was measured.
rondo_status rdi_tune_stop(struct rondo_ddp *d) {
    struct rdi_tune *t = &d->tune;
    if (!t->on) {
        return RONDO_OK;
    }
    t->on = false;
    d->cap_bytes = t->next > 0 ? size_at(d, best(t, t->next))
                               : (size_t)d->world->engine->options.num[RDI_OPT_DDP_BUCKET];
    size_t *order = malloc((d->nparams + 1) * sizeof *order);
    if (!order) {
        return rdi_fail(RONDO_ERR_NOMEM, "out of memory to rebuild buckets");
    }
    memcpy(order, d->layout, d->nparams * sizeof *order);
    rondo_status s = rdi_ddp_relayout(d, order);
    rdi_ddp_reset_step(d);
    free(order);
    return s;
}

rondo_status rdi_tune_step(struct rondo_ddp *d, size_t *cap) {
    struct rdi_tune *t = &d->tune;
    *cap = 0;
    if (!t->on) {
        return RONDO_OK;
    }
    uint64_t now = rdi_ddp_now(d), began = t->began;
    t->began = now;
    if (began == 0) { // the first step only tells where the second begins
        t->time[0] = DBL_MAX;
        *cap = size_at(d, 0);
        return RONDO_OK;
    }
    double seconds = (double)(now - began) * 1e-9;
    rondo_status s = RONDO_OK;
    if (t->step++ >= WARM) {
        s = rondo_all_reduce(&seconds, &seconds, 1, RONDO_F64, RONDO_MAX, d->comm);
        t->time[t->next] = seconds < t->time[t->next] ? seconds : t->time[t->next];
    }
    if (s != RONDO_OK || t->step < WARM + MEASURED) {
        return s;
    }
    t->on = !is_last(d, t->next);
    t->next++;
    t->step = 0;
    if (t->on) {
        t->time[t->next] = DBL_MAX;
        *cap = size_at(d, t->next);
    } else {
        *cap = size_at(d, best(t, t->next));
    }
    return RONDO_OK;
}
