// SPDX-License-Identifier: MIT
// What a step looks like on a timeline. Only what DDP sees: the first gradient tells that backward has begun, so
// before it lie the optimizer, the data and forward.
//
//   finish                first mark                 finish() called        returns
//     |  optimizer, forward   |        backward            |  wait for gradients |
#include "ring/record/trace.h"
#include "ddp/internal.h"

static uint64_t piece(struct rondo_ddp *d, enum rdi_trace_step step) {
    // An elastic job that came to its end has no communicator any more.
    uint64_t now = d->comm ? rdi_trace_clock(d->comm) : 0;
    if (now) {
        rdi_trace_step(d->comm, step, d->stats.steps, d->traced, now);
    }
    d->traced = now;
    // For rondo_ddp_logging_data(), whether there is a trace or not.
    uint64_t at = rdi_ddp_now(d);
    if (d->last && at > d->last) {
        d->seconds[step - RDI_STEP_FORWARD] += (double)(at - d->last) * 1e-9;
    }
    d->last = at;
    return now;
}

void rdi_ddp_trace_backward(struct rondo_ddp *d) { (void)piece(d, RDI_STEP_FORWARD); }

void rdi_ddp_trace_wait(struct rondo_ddp *d) { (void)piece(d, RDI_STEP_BACKWARD); }

void rdi_ddp_trace_end(struct rondo_ddp *d) {
    uint64_t now = piece(d, RDI_STEP_WAIT);
    // Times of buckets in device memory are the device's own; their operations are there.
    for (size_t b = 0; now && !d->device && b < d->nbuckets; b++) {
        const struct rdi_bucket *k = &d->buckets[b];
        rdi_trace_bucket(d->comm, b, k->count * rondo_type_size(k->type), k->launched, k->finished);
    }
}
