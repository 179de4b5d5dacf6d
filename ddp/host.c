// SPDX-License-Identifier: MIT
// Gradients in host memory: buckets from rondo_mem_alloc(), reduced by requests that the progress thread moves.
#include "ddp/internal.h"
#include "ring/reduce.h"

#include <string.h>

static rondo_status alloc(struct rondo_ddp *d, size_t bytes, void **mem) {
    (void)d;
    return rondo_mem_alloc(bytes, mem);
}

static void release(struct rondo_ddp *d, void *mem) {
    (void)d;
    (void)rondo_mem_free(mem);
}

static rondo_status zero(struct rondo_ddp *d, void *mem, size_t bytes) {
    (void)d;
    memset(mem, 0, bytes);
    return RONDO_OK;
}

static rondo_status copy(struct rondo_ddp *d, void *to, const void *from, size_t bytes) {
    (void)d;
    memcpy(to, from, bytes);
    return RONDO_OK;
}

static rondo_status divide(struct rondo_ddp *d, void *to, const void *from, size_t count,
                           rondo_type type) {
    double scale = d->average ? 1.0 / rondo_comm_size(d->comm) : 1.0;
    if (from != to || scale != 1.0) {
        rdi_scale_copy(to, from, count, type, scale);
    }
    return RONDO_OK;
}

static rondo_status launch(struct rondo_ddp *d, struct rdi_bucket *b) {
    if (d->hook.round) {
        return rdi_hook_launch(d, b);
    }
    b->launched = rdi_ddp_now(d);
    if (d->shard) {
        size_t share = b->count / (size_t)rondo_comm_size(d->comm);
        char *mine = b->mem + (size_t)rondo_comm_rank(d->comm) * share * rondo_type_size(b->type);
        return rondo_reduce_scatter_start(b->mem, mine, share, b->type, RONDO_SUM, d->comm,
                                          &b->req);
    }
    return rondo_all_reduce_start(b->mem, b->mem, b->count, b->type, RONDO_SUM, d->comm, &b->req);
}

// Communication time: the union of the buckets' intervals, which begin in order.
static void count_times(struct rondo_ddp *d, uint64_t began) {
    uint64_t busy = 0, end = 0;
    for (size_t b = 0; b < d->nbuckets; b++) {
        const struct rdi_bucket *k = &d->buckets[b];
        uint64_t from = k->launched > end ? k->launched : end;
        if (k->finished > from) {
            busy += k->finished - from;
            end = k->finished;
        }
    }
    d->stats.step_comm = (double)busy * 1e-9;
    d->stats.step_exposed = end > began ? (double)(end - began) * 1e-9 : 0.0;
    d->stats.total_comm += d->stats.step_comm;
    d->stats.total_exposed += d->stats.step_exposed;
}

static rondo_status finish(struct rondo_ddp *d) {
    uint64_t began = rdi_ddp_now(d);
    rondo_status s = d->hook.round ? rdi_hook_finish(d) : RONDO_OK;
    for (size_t b = 0; b < d->nbuckets && !d->hook.round; b++) {
        rondo_status w = rdi_wait_stamped(&d->buckets[b].req, &d->buckets[b].finished);
        s = s == RONDO_OK ? w : s;
    }
    if (s == RONDO_OK) {
        count_times(d, began);
    }
    return s;
}

static void drain(struct rondo_ddp *d) {
    for (size_t b = 0; b < d->nbuckets; b++) {
        (void)rondo_wait(&d->buckets[b].req);
    }
}

const struct rdi_place rdi_place_host = {.alloc = alloc,
                                         .release = release,
                                         .zero = zero,
                                         .copy = copy,
                                         .divide = divide,
                                         .launch = launch,
                                         .finish = finish,
                                         .drain = drain};
