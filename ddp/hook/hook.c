// SPDX-License-Identifier: MIT
// DDP's side of communication hooks: what a hook sees of a bucket, and its rounds.
//
// Rounds are called in an order that depends on nothing but the buckets' numbers and the hook's own answers, so the
// operations that they start meet those of the other ranks.
#include "ddp/internal.h"

#include <math.h>
#include <stdlib.h>

rondo_status rdi_hook_bucket(struct rondo_ddp *d, struct rdi_bucket *buckets, size_t n) {
    if (!d->hook.round) {
        return RONDO_OK;
    }
    for (size_t b = 0; b < n; b++) {
        rondo_ddp_slice *slices = calloc(buckets[b].params + 1, sizeof *slices);
        if (!slices) {
            return rdi_fail(RONDO_ERR_NOMEM, "out of memory for a list of %zu gradients",
                            buckets[b].params);
        }
        buckets[b].hooked = (rondo_ddp_bucket){.size = sizeof(rondo_ddp_bucket),
                                               .index = b,
                                               .buckets = n,
                                               .data = buckets[b].mem,
                                               .count = buckets[b].count,
                                               .type = buckets[b].type,
                                               .slices = slices};
    }
    for (size_t i = 0; i < d->nparams; i++) {
        const struct rdi_param *p = &d->params[i];
        if (!p->sparse) {
            rondo_ddp_bucket *h = &buckets[p->bucket].hooked;
            rondo_ddp_slice *slices = (rondo_ddp_slice *)(uintptr_t)h->slices;
            slices[h->nslices++] =
                (rondo_ddp_slice){i, p->offset / rondo_type_size(p->type), p->count, p->rows};
        }
    }
    return RONDO_OK;
}

static rondo_status call(struct rondo_ddp *d, struct rdi_bucket *b) {
    rondo_status s = d->hook.round(d->hook.state, &b->hooked, b->round);
    b->round = s == RONDO_AGAIN ? b->round + 1 : 0;
    if (s == RONDO_OK) {
        b->finished = rdi_ddp_now(d);
    }
    return s == RONDO_AGAIN ? RONDO_OK : s;
}

rondo_status rdi_hook_launch(struct rondo_ddp *d, struct rdi_bucket *b) {
    b->launched = rdi_ddp_now(d);
    b->round = 0;
    b->hooked.step = d->stats.steps;
    b->hooked.comm = d->comm;
    b->hooked.bytes = 0;
    b->hooked.error = b->hooked.norm = 0;
    return call(d, b);
}

static void add_up(struct rondo_ddp *d) {
    double error = 0, norm = 0;
    for (size_t b = 0; b < d->nbuckets; b++) {
        d->stats.hook_bytes += d->buckets[b].hooked.bytes;
        error += d->buckets[b].hooked.error;
        norm += d->buckets[b].hooked.norm;
    }
    // No number where gradients are none, or too large for their squares.
    d->stats.hook_error = norm == 0 ? 0 : isfinite(error / norm) ? sqrt(error / norm) : NAN;
}

rondo_status rdi_hook_finish(struct rondo_ddp *d) {
    rondo_status s = RONDO_OK;
    bool more = true;
    while (s == RONDO_OK && more) {
        more = false;
        for (size_t b = 0; b < d->nbuckets && s == RONDO_OK; b++) {
            if (d->buckets[b].round) {
                s = call(d, &d->buckets[b]);
                more = more || d->buckets[b].round;
            }
        }
    }
    if (s == RONDO_OK) {
        add_up(d);
    }
    return s;
}

void rdi_hook_drain(struct rondo_ddp *d) {
    for (size_t b = 0; b < d->nbuckets; b++) {
        if (d->hook.drain) {
            d->hook.drain(d->hook.state, &d->buckets[b].hooked);
        }
        d->buckets[b].round = 0;
    }
}

// What ranks that come do not have, those that stay must not have either.
void rdi_hook_forget(struct rondo_ddp *d) {
    for (size_t b = 0; d->hook.release && b < d->nbuckets; b++) {
        d->hook.release(d->hook.state, &d->buckets[b].hooked);
    }
}

void rdi_hook_release(struct rondo_ddp *d, struct rdi_bucket *b, size_t n) {
    for (size_t i = 0; b && i < n; i++) {
        if (d->hook.release && b[i].hooked.slices) {
            d->hook.release(d->hook.state, &b[i].hooked);
        }
        free((void *)(uintptr_t)b[i].hooked.slices);
        b[i].hooked.slices = NULL;
    }
}
