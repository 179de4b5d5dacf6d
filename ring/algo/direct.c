// SPDX-License-Identifier: MIT
// all_reduce for small counts: everybody sends everything to everybody, and everybody folds the ranks'
// contributions in the order of ranks. One message of latency; n-1 messages a rank; the same bits on all
// ranks, which are those of order=strict when the fold rounds after every addition.
#include "ring/work.h"

static rondo_status setup(struct rondo_request *r) {
    int n = r->comm->size, me = r->comm->rank;
    if (n == 1 || r->bytes == 0) {
        if (r->send != r->recv && r->bytes) {
            rdi_work_copy(r, r->recv, r->send, r->bytes);
        }
        return RONDO_OK;
    }
    if (n > RDI_REDUCE_MAX_SOURCES) {
        return rdi_fail(RONDO_ERR_INVALID,
                        "algorithm=direct serves up to %d ranks, not %d; use ring or auto",
                        RDI_REDUCE_MAX_SOURCES, n);
    }
    rondo_status s = rdi_flow_reserve(r, 2 * (unsigned)(n - 1));
    for (int d = 1; d < n && s == RONDO_OK; d++) {
        int to = (me + d) % n;
        s = rdi_flow_add(r, true, to, to, r->bytes, r->bytes);
        // Two ranks in place would wait for each other to consume what the other one reads.
        r->flows[d - 1].copy = r->send == r->recv;
    }
    for (int d = 1; d < n && s == RONDO_OK; d++) {
        int from = (me + d) % n;
        s = rdi_flow_add(r, false, from, from, r->bytes, 0);
    }
    return s;
}

static const char *source(const struct rondo_request *r, const struct rdi_flow *f, uint64_t off,
                          uint64_t *len) {
    *len = f->total - off;
    return r->send + off;
}

static int advance(struct rondo_request *r) {
    unsigned n = (unsigned)r->comm->size, me = (unsigned)r->comm->rank;
    if (!r->nflows) {
        return 0;
    }
    struct rdi_flow *out = r->flows, *in = r->flows + (n - 1);
    int moved = 0;
    while (in->done < in->total) {
        // The part that has come from everybody; the fold needs all of them at once.
        uint64_t at = in->done, len = r->bytes - at;
        const void *src[RDI_REDUCE_MAX_SOURCES];
        src[me] = r->send + at;
        for (unsigned i = 0; i < n - 1; i++) {
            const char *data;
            uint64_t have;
            if (!rdi_flow_peek(&in[i], &data, &have)) {
                return moved;
            }
            src[in[i].index] = data;
            len = have < len ? have : len;
            // In place, our own part must have left before it is written over.
            if (r->send == r->recv && out[i].done - at < len) {
                len = out[i].done - at;
            }
        }
        if (len == 0) {
            return moved;
        }
        rdi_work_reduce_n(r, r->recv + at, src, n, len);
        rdi_work_average(r, r->recv + at, len);
        for (unsigned i = 0; i < n - 1; i++) {
            rdi_flow_consume(&in[i], len);
        }
        moved++;
    }
    return moved;
}

const struct rdi_algo rdi_algo_direct = {
    .id = RDI_ALGO_DIRECT, .setup = setup, .source = source, .advance = advance};
