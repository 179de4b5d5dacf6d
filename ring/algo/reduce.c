// SPDX-License-Identifier: MIT
// reduce: a binomial tree for small counts, a pipelined chain in the order of ranks for large ones and for
// order=strict (the chain is the left fold over ranks). Both are "fold what the children send into the own
// data, pass the partial sum to the parent".
//
//   chain, n = 4, root 1:      0 --> 1 --> 2 --> 3 --result--> 1
//
// Partial sums of ranks that are not root live in a window of WINDOW bytes that is used round and round.
#include "ring/work.h"

#include <stdlib.h>

#define WINDOW UINT64_C(4194304)
enum { CHILD, RESULT };     // a flow's index
enum { S_CHILDREN, S_OUT }; // req->state: number of in-flows to fold; index of the out-flow + 1

static uint64_t min64(uint64_t a, uint64_t b) { return a < b ? a : b; }

static uint64_t window(const struct rondo_request *r) {
    return min64(WINDOW, (r->bytes + 63) / 64 * 64);
}

static rondo_status begin(struct rondo_request *r, bool *trivial) {
    *trivial = r->comm->size == 1 || r->bytes == 0;
    if (*trivial) {
        if (r->bytes && r->recv != r->send) {
            rdi_work_copy(r, r->recv, r->send, r->bytes);
        }
        return RONDO_OK;
    }
    if (r->comm->rank != r->root) {
        r->scratch = malloc(window(r));
        if (!r->scratch) {
            return rdi_fail(RONDO_ERR_NOMEM, "reduce: out of memory for %llu bytes of partial sums",
                            (unsigned long long)window(r));
        }
    }
    return rdi_flow_reserve(r, 34);
}

static rondo_status add_out(struct rondo_request *r, int peer) {
    // A leaf sends its own data as it is.
    rondo_status s = rdi_flow_add(r, true, peer, 0, r->bytes, r->state[S_CHILDREN] ? 0 : r->bytes);
    r->state[S_OUT] = r->nflows;
    return s;
}

static rondo_status tree_setup(struct rondo_request *r) {
    int n = r->comm->size, v = (r->comm->rank - r->root + n) % n;
    bool trivial;
    rondo_status s = begin(r, &trivial);
    if (s != RONDO_OK || trivial) {
        return s;
    }
    int low = v ? v & -v : n;
    for (int d = 1; d < low && v + d < n && s == RONDO_OK; d *= 2) {
        s = rdi_flow_add(r, false, (v + d + r->root) % n, CHILD, r->bytes, 0);
        r->state[S_CHILDREN]++;
    }
    return s == RONDO_OK && v ? add_out(r, (v - low + r->root) % n) : s;
}

static rondo_status chain_setup(struct rondo_request *r) {
    int n = r->comm->size, me = r->comm->rank;
    bool trivial;
    rondo_status s = begin(r, &trivial);
    if (s != RONDO_OK || trivial) {
        return s;
    }
    if (me > 0) {
        s = rdi_flow_add(r, false, me - 1, CHILD, r->bytes, 0);
        r->state[S_CHILDREN]++;
    }
    if (s == RONDO_OK && me + 1 < n) {
        s = add_out(r, me + 1);
    } else if (s == RONDO_OK && me != r->root) {
        s = add_out(r, r->root);
    }
    if (s == RONDO_OK && me == r->root && me + 1 < n) {
        s = rdi_flow_add(r, false, n - 1, RESULT, r->bytes, 0);
    }
    return s;
}

// Where the partial sum of byte `off` lives.
static char *partial(const struct rondo_request *r, uint64_t off, uint64_t *len) {
    if (r->comm->rank == r->root) {
        *len = r->bytes - off;
        return r->recv + off;
    }
    uint64_t w = window(r);
    *len = min64(w - off % w, r->bytes - off);
    return r->scratch + off % w;
}

static const char *source(const struct rondo_request *r, const struct rdi_flow *f, uint64_t off,
                          uint64_t *len) {
    if (r->state[S_CHILDREN] == 0) {
        *len = f->total - off;
        return r->send + off;
    }
    return partial(r, off, len);
}

static char *land(const struct rondo_request *r, const struct rdi_flow *f, uint64_t off,
                  uint64_t *len) {
    *len = f->total - off;
    return f->index == RESULT ? r->recv + off : NULL;
}

static struct rdi_flow *out_flow(struct rondo_request *r) {
    return r->state[S_OUT] ? &r->flows[r->state[S_OUT] - 1] : NULL;
}

// Division belongs to whoever adds the last contribution: the chain's end or the tree's root.
static bool ends_sum(const struct rondo_request *r) {
    return r->algo->id == RDI_ALGO_CHAIN ? r->comm->rank == r->comm->size - 1
                                         : r->comm->rank == r->root;
}

// Folds one piece of child i; the children's order is fixed, each stays behind the one before it.
static bool fold_piece(struct rondo_request *r, unsigned i) {
    struct rdi_flow *f = &r->flows[i], *out = out_flow(r);
    const char *data;
    uint64_t len, room;
    if (f->done == f->total || !rdi_flow_peek(f, &data, &len)) {
        return false;
    }
    char *to = partial(r, f->done, &room);
    len = min64(len, room);
    if (i > 0) {
        len = min64(len, r->flows[i - 1].done - f->done);
    }
    // The window may be used again once what it held has left.
    if (len == 0 || (r->scratch && out && f->done + len > out->done + window(r))) {
        return false;
    }
    rdi_work_reduce2(r, to, data, i == 0 ? r->send + f->done : to, len);
    bool last = i + 1 == r->state[S_CHILDREN];
    if (last && ends_sum(r)) {
        rdi_work_average(r, to, len);
    }
    rdi_flow_consume(f, len);
    if (last && out) {
        out->ready = f->done;
        rdi_edge_send(out->edge);
    }
    return true;
}

static int take_result(struct rondo_request *r) {
    struct rdi_flow *f = &r->flows[r->nflows - 1];
    const char *data;
    uint64_t len;
    int moved = 0;
    while (!f->out && f->index == RESULT && f->done < f->total && rdi_flow_peek(f, &data, &len)) {
        if (data != r->recv + f->done) {
            rdi_work_copy(r, r->recv + f->done, data, len);
        }
        rdi_flow_consume(f, len);
        moved++;
    }
    return moved;
}

static int advance(struct rondo_request *r) {
    if (!r->nflows) {
        return 0;
    }
    int moved = 0;
    for (unsigned i = 0; i < r->state[S_CHILDREN]; i++) {
        while (fold_piece(r, i)) {
            moved++;
        }
    }
    return moved + take_result(r);
}

const struct rdi_algo rdi_algo_reduce_tree = {
    .id = RDI_ALGO_TREE, .setup = tree_setup, .source = source, .land = land, .advance = advance};
const struct rdi_algo rdi_algo_reduce_chain = {
    .id = RDI_ALGO_CHAIN, .setup = chain_setup, .source = source, .land = land, .advance = advance};
