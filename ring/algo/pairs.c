// SPDX-License-Identifier: MIT
// all_to_all and send/recv: plain transfers between pairs, all at once.
#include "ring/work.h"

static rondo_status all_to_all_setup(struct rondo_request *r) {
    int n = r->comm->size, me = r->comm->rank;
    uint64_t own = (uint64_t)me * r->bytes;
    if (r->bytes == 0) {
        return RONDO_OK;
    }
    rdi_work_copy(r, r->recv + own, r->send + own, r->bytes);
    rondo_status s = rdi_flow_reserve(r, 2 * (unsigned)n);
    // Each rank begins with another peer, so that nobody is everybody's first.
    for (int d = 1; d < n && s == RONDO_OK; d++) {
        int to = (me + d) % n, from = (me + n - d) % n;
        s = rdi_flow_add(r, true, to, to, r->bytes, r->bytes);
        if (s == RONDO_OK) {
            s = rdi_flow_add(r, false, from, from, r->bytes, 0);
        }
    }
    return s;
}

// send/recv of 0 bytes send one byte that is not part of the data: the signatures must meet.
static rondo_status p2p_setup(struct rondo_request *r) {
    uint64_t total = r->bytes ? r->bytes : 1;
    bool out = r->kind == RDI_SEND;
    rondo_status s = rdi_flow_reserve(r, 1);
    return s == RONDO_OK ? rdi_flow_add(r, out, r->root, 0, total, out ? total : 0) : s;
}

static const char *source(const struct rondo_request *r, const struct rdi_flow *f, uint64_t off,
                          uint64_t *len) {
    *len = f->total - off;
    return r->bytes ? r->send + (uint64_t)f->index * r->bytes + off : "";
}

static char *land(const struct rondo_request *r, const struct rdi_flow *f, uint64_t off,
                  uint64_t *len) {
    *len = f->total - off;
    return r->bytes ? r->recv + (uint64_t)f->index * r->bytes + off : NULL;
}

static int advance(struct rondo_request *r) {
    int moved = 0;
    for (unsigned i = 0; i < r->nflows; i++) {
        struct rdi_flow *f = &r->flows[i];
        const char *data;
        uint64_t len;
        while (!f->out && f->done < f->total && rdi_flow_peek(f, &data, &len)) {
            char *to = r->recv + (uint64_t)f->index * r->bytes + f->done;
            if (r->bytes && data != to) {
                rdi_work_copy(r, to, data, len);
            }
            rdi_flow_consume(f, len);
            moved++;
        }
    }
    return moved;
}

const struct rdi_algo rdi_algo_pairs = {.id = RDI_ALGO_PAIRS,
                                        .setup = all_to_all_setup,
                                        .source = source,
                                        .land = land,
                                        .advance = advance};
const struct rdi_algo rdi_algo_p2p = {
    .id = RDI_ALGO_NONE, .setup = p2p_setup, .source = source, .land = land, .advance = advance};
