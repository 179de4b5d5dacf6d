// SPDX-License-Identifier: MIT
// Devices that are sets of processors. All memory is in one address space, so nothing is sent: replicas are copied by
// those who will read them, and the fold over devices is one pass of the ring's reduce kernels over all gradients, of
// which each device's thread does a part of the elements.
#include "dp/internal.h"
#include "ring/reduce.h"

#include <stdlib.h>
#include <string.h>

static rondo_status take(struct rdi_dp_device *k, unsigned char **out, const char *what) {
    size_t bytes = k->dp->block;
    *out = aligned_alloc(RDI_DP_ALIGN, bytes);
    if (!*out) {
        return rdi_fail(RONDO_ERR_NOMEM, "no memory for %zu bytes of %s on device %d (%s)", bytes,
                        what, k->index, k->name);
    }
    // On the device's own thread: the pages are then near its processors.
    memset(*out, 0, bytes);
    return RONDO_OK;
}

static rondo_status open_host(struct rdi_dp_device *k) {
    rondo_status s = take(k, &k->grads, "gradients");
    return s == RONDO_OK && k->index > 0 ? take(k, &k->params, "parameters") : s;
}

static void close_host(struct rdi_dp_device *k) {
    free(k->grads);
    free(k->params);
    k->grads = k->params = NULL;
}

static rondo_status replicate(struct rdi_dp_device *k) {
    const struct rondo_dp *dp = k->dp;
    for (size_t i = 0; i < dp->nparams && k->index > 0; i++) {
        memcpy(k->params + dp->params[i].at, dp->params[i].data, dp->params[i].bytes);
    }
    return RONDO_OK;
}

static rondo_status zero(struct rdi_dp_device *k) {
    memset(k->grads, 0, k->dp->block);
    return RONDO_OK;
}

// Where a device's share of a block begins: at whole lines, which hold whole elements of every type.
static size_t cut(const struct rondo_dp *dp, int device) {
    size_t lines = dp->block / RDI_DP_ALIGN, n = (size_t)dp->devices, at = (size_t)device;
    return (lines / n * at + lines % n * at / n) * RDI_DP_ALIGN;
}

static rondo_status reduce(struct rdi_dp_device *k, int used) {
    const struct rondo_dp *dp = k->dp;
    const size_t from = cut(dp, k->index), to = cut(dp, k->index + 1);
    for (size_t i = 0; i < dp->nruns && used > 1; i++) {
        const struct rdi_dp_run *r = &dp->runs[i];
        const size_t a = r->at > from ? r->at : from;
        const size_t end = r->at + r->bytes, b = end < to ? end : to;
        const void *src[RDI_REDUCE_MAX_SOURCES];
        for (int d = 0; d < used; d++) {
            src[d] = dp->device[d].grads + a;
        }
        if (a < b) {
            rdi_reduce_n(dp->device[0].grads + a, src, (unsigned)used,
                         (b - a) / rdi_type_size(r->type), r->type, RONDO_SUM, true);
        }
    }
    return RONDO_OK;
}

static rondo_status gather(struct rdi_dp_device *k, const void *part, void *to, size_t bytes) {
    (void)k;
    if (part != to) {
        memcpy(to, part, bytes);
    }
    return RONDO_OK;
}

static rondo_status begin(struct rdi_dp_device *k, rondo_stream *stream) {
    (void)k;
    *stream = NULL;
    return RONDO_OK;
}

static rondo_status settle(struct rdi_dp_device *k) {
    (void)k;
    return RONDO_OK;
}

_Static_assert(RONDO_DP_MAX_DEVICES <= RDI_REDUCE_MAX_SOURCES, "the fold is one pass");

const struct rdi_dp_place rdi_dp_place_host = {.open = open_host,
                                               .close = close_host,
                                               .replicate = replicate,
                                               .zero = zero,
                                               .reduce = reduce,
                                               .gather = gather,
                                               .begin = begin,
                                               .settle = settle};
