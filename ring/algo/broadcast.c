// SPDX-License-Identifier: MIT
// broadcast: a binomial tree for small counts (log2(n) hand-overs), a pipelined chain through the ranks for
// large ones (every rank sends the data once). Both are "receive from a parent, pass on to children", and go by places in
// the ring, so that they enter and leave each host as seldom as they can. v: places after the root's.
#include "ring/work.h"

static int after_root(const struct rondo_request *r) {
    const struct rdi_layout *l = &r->comm->layout;
    return (l->pos - rdi_layout_pos(l, r->root) + l->size) % l->size;
}

static rondo_status add(struct rondo_request *r, bool out, int v) {
    const struct rdi_layout *l = &r->comm->layout;
    bool at_root = r->comm->rank == r->root;
    int peer = rdi_layout_next(l, (v - after_root(r) + l->size) % l->size);
    return rdi_flow_add(r, out, peer, 0, r->bytes, out && at_root ? r->bytes : 0);
}

static bool is_trivial(struct rondo_request *r) {
    if (r->comm->rank == r->root && r->bytes && r->send != r->recv) {
        rdi_work_copy(r, r->recv, r->send, r->bytes);
    }
    return r->comm->size == 1 || r->bytes == 0;
}

static rondo_status tree_setup(struct rondo_request *r) {
    int n = r->comm->size, v = after_root(r);
    if (is_trivial(r)) {
        return RONDO_OK;
    }
    rondo_status s = rdi_flow_reserve(r, 33);
    int low = v ? v & -v : n;
    if (s == RONDO_OK && v) {
        s = add(r, false, v - low);
    }
    int top = 1;
    while (2 * top < low && v + 2 * top < n) {
        top *= 2;
    }
    // The largest subtree first: it takes longest.
    for (int d = top; d >= 1 && s == RONDO_OK; d /= 2) {
        if (d < low && v + d < n) {
            s = add(r, true, v + d);
        }
    }
    return s;
}

static rondo_status chain_setup(struct rondo_request *r) {
    int n = r->comm->size, v = after_root(r);
    if (is_trivial(r)) {
        return RONDO_OK;
    }
    rondo_status s = rdi_flow_reserve(r, 2);
    if (s == RONDO_OK && v > 0) {
        s = add(r, false, v - 1);
    }
    if (s == RONDO_OK && v + 1 < n) {
        s = add(r, true, v + 1);
    }
    return s;
}

static const char *source(const struct rondo_request *r, const struct rdi_flow *f, uint64_t off,
                          uint64_t *len) {
    *len = f->total - off;
    return (r->comm->rank == r->root ? r->send : r->recv) + off;
}

static char *land(const struct rondo_request *r, const struct rdi_flow *f, uint64_t off,
                  uint64_t *len) {
    *len = f->total - off;
    return r->recv + off;
}

static int advance(struct rondo_request *r) {
    if (r->comm->rank == r->root || !r->nflows) {
        return 0;
    }
    struct rdi_flow *in = &r->flows[0];
    const char *data;
    uint64_t len;
    int moved = 0;
    while (in->done < in->total && rdi_flow_peek(in, &data, &len)) {
        if (data != r->recv + in->done) {
            rdi_work_copy(r, r->recv + in->done, data, len);
        }
        rdi_flow_consume(in, len);
        for (unsigned i = 1; i < r->nflows; i++) {
            r->flows[i].ready = in->done;
            rdi_edge_send(r->flows[i].edge);
        }
        moved++;
    }
    return moved;
}

const struct rdi_algo rdi_algo_bcast_tree = {
    .id = RDI_ALGO_TREE, .setup = tree_setup, .source = source, .land = land, .advance = advance};
const struct rdi_algo rdi_algo_bcast_chain = {
    .id = RDI_ALGO_CHAIN, .setup = chain_setup, .source = source, .land = land, .advance = advance};
