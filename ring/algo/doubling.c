// SPDX-License-Identifier: MIT
// Scripts of whole-vector exchanges: all_reduce by recursive doubling (Thakur, Rabenseifner, Gropp,
// "Optimization of Collective Communication Operations in MPICH", 2005) and the dissemination barrier
// (Hensgen, Finkel, Manber, "Two algorithms for barrier synchronization", 1988).
//
// The flows of an operation are a script, in the order of the array: an out-flow is ready when every in-flow
// before it is consumed; of an in-flow as many bytes are consumed as have left of the out-flow before it (they
// share the accumulator; to wait for the whole of it would block both peers once their slots are full). Recursive doubling with n = 6 (4 + 2): ranks 0 and 2 hand their data to 1 and 3 first.
//
//     0 -> 1      2 -> 3                     fold in
//     1 <-> 3     4 <-> 5                    distance 1 among {1, 3, 4, 5}
//     1 <-> 4     3 <-> 5                    distance 2
//     0 <- 1      2 <- 3                     result back
#include "ring/work.h"

enum { FOLD, RESULT, TOKEN }; // a flow's index: what is done with what arrives
enum { S_FOLDS, S_FINISHED }; // req->state: folds that are left, AVG's division done

static unsigned log2_floor(unsigned v) {
    unsigned k = 0;
    while (v >>= 1) {
        k++;
    }
    return k;
}

static rondo_status add_exchange(struct rondo_request *r, int peer) {
    rondo_status s = rdi_flow_add(r, true, peer, FOLD, r->bytes, 0);
    if (s == RONDO_OK) {
        s = rdi_flow_add(r, false, peer, FOLD, r->bytes, 0);
        r->state[S_FOLDS]++;
    }
    return s;
}

static void raise_ready(struct rondo_request *r);

// The accumulator is written once it has left: it must not be read in place by a partner who waits the same way.
static void send_copies(struct rondo_request *r) {
    for (unsigned i = 0; i < r->nflows; i++) {
        r->flows[i].copy = r->flows[i].out;
    }
    raise_ready(r);
}

static rondo_status doubling_setup(struct rondo_request *r) {
    int n = r->comm->size, me = r->comm->rank;
    if (r->bytes && r->recv != r->send) {
        rdi_work_copy(r, r->recv, r->send, r->bytes);
    }
    if (n == 1 || r->bytes == 0) {
        return RONDO_OK;
    }
    unsigned rounds = log2_floor((unsigned)n);
    int rest = n - (1 << rounds);
    rondo_status s = rdi_flow_reserve(r, 2 * rounds + 2);
    if (s == RONDO_OK && me < 2 * rest && me % 2 == 0) {
        s = rdi_flow_add(r, true, me + 1, FOLD, r->bytes, 0);
        if (s == RONDO_OK) {
            s = rdi_flow_add(r, false, me + 1, RESULT, r->bytes, 0);
        }
        send_copies(r);
        return s;
    }
    if (s == RONDO_OK && me < 2 * rest) {
        s = rdi_flow_add(r, false, me - 1, FOLD, r->bytes, 0);
        r->state[S_FOLDS]++;
    }
    int v = me < 2 * rest ? me / 2 : me - rest;
    for (unsigned k = 0; k < rounds && s == RONDO_OK; k++) {
        int w = v ^ (1 << k);
        s = add_exchange(r, w < rest ? 2 * w + 1 : w + rest);
    }
    if (s == RONDO_OK && me < 2 * rest) {
        s = rdi_flow_add(r, true, me - 1, RESULT, r->bytes, 0);
    }
    send_copies(r);
    return s;
}

static const char *doubling_source(const struct rondo_request *r, const struct rdi_flow *f,
                                   uint64_t off, uint64_t *len) {
    *len = f->total - off;
    return r->recv + off;
}

static rondo_status barrier_setup(struct rondo_request *r) {
    int n = r->comm->size, me = r->comm->rank;
    rondo_status s = rdi_flow_reserve(r, 2 * (log2_floor((unsigned)n) + 1));
    for (int d = 1; d < n && s == RONDO_OK; d *= 2) {
        s = rdi_flow_add(r, true, (me + d) % n, TOKEN, 1, 0);
        if (s == RONDO_OK) {
            s = rdi_flow_add(r, false, (me + n - d) % n, TOKEN, 1, 0);
        }
    }
    raise_ready(r);
    return s;
}

static const char *barrier_source(const struct rondo_request *r, const struct rdi_flow *f,
                                  uint64_t off, uint64_t *len) {
    (void)r;
    (void)f;
    (void)off;
    *len = 1;
    return "";
}

static void raise_ready(struct rondo_request *r) {
    for (unsigned i = 0; i < r->nflows; i++) {
        struct rdi_flow *f = &r->flows[i];
        if (!f->out && f->done < f->total) {
            return;
        }
        if (f->out && f->ready == 0) {
            f->ready = f->total;
            if (f->edge->link) {
                rdi_edge_send(f->edge);
            }
        }
    }
}

static void apply(struct rondo_request *r, const struct rdi_flow *f, const char *data,
                  uint64_t len) {
    char *to = r->recv + f->done;
    if (f->index == FOLD) {
        rdi_work_reduce2(r, to, to, data, len);
    } else if (f->index == RESULT) {
        rdi_work_copy(r, to, data, len);
    }
}

static void finish_folds(struct rondo_request *r) {
    if (r->kind == RDI_ALL_REDUCE) {
        rdi_work_average(r, r->recv, r->bytes);
    }
    r->state[S_FINISHED] = 1;
}

static int advance(struct rondo_request *r) {
    int moved = 0;
    uint64_t left = UINT64_MAX;
    for (unsigned i = 0; i < r->nflows; i++) {
        struct rdi_flow *f = &r->flows[i];
        if (f->out) {
            left = f->done;
            continue;
        }
        const char *data;
        uint64_t len;
        while (f->done < f->total) {
            if (f->done == left || !rdi_flow_peek(f, &data, &len)) {
                return moved;
            }
            len = len < left - f->done ? len : left - f->done;
            apply(r, f, data, len);
            rdi_flow_consume(f, len);
            moved++;
            if (f->done == f->total) {
                r->state[S_FOLDS] -= f->index == FOLD;
                if (f->index == FOLD && r->state[S_FOLDS] == 0) {
                    finish_folds(r);
                }
                raise_ready(r);
            }
        }
    }
    return moved;
}

const struct rdi_algo rdi_algo_doubling = {.id = RDI_ALGO_DOUBLING,
                                           .setup = doubling_setup,
                                           .source = doubling_source,
                                           .advance = advance};
const struct rdi_algo rdi_algo_barrier = {
    .id = RDI_ALGO_DOUBLING, .setup = barrier_setup, .source = barrier_source, .advance = advance};
