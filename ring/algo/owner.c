// SPDX-License-Identifier: MIT
// all_reduce and reduce_scatter with an owner per block: rank b gets block b from everybody, folds it in the
// order of ranks in one pass, and (all_reduce) sends the result to everybody. As many bytes as the ring, two
// hand-overs instead of 2(n-1); it is the choice on one host, where all ranks share one memory, and for
// order=strict, as its fold is the left fold over ranks.
//
//   stream from rank r to rank p, per segment:   [ r's data of block p ][ the sum of block r ]
//                                                  ready at once          ready as it is folded
//
// Segments of n * plan.block bytes keep what was folded in the cache until it is sent on. A part of block p
// may be overwritten by its sum without waiting: rank p had our part before it could make the sum.
#include "ring/algo/blocks.h"
#include "ring/work.h"

enum { S_SEGS, S_FOLDED }; // indexes of req->state; FOLDED: bytes of the own blocks that are folded

static bool gathers(const struct rondo_request *r) { return r->kind == RDI_ALL_REDUCE; }

static struct rdi_seg segment(const struct rondo_request *r, uint64_t k) {
    uint64_t n = (uint64_t)r->comm->size;
    return gathers(r) ? rdi_seg_cut(k, n, r->comm->plan.block, r->bytes)
                      : (struct rdi_seg){.bytes = n * r->bytes, .len = r->bytes};
}

static uint64_t size(const struct rdi_seg *g, uint64_t b) {
    return rdi_seg_before(g, b + 1) - rdi_seg_before(g, b);
}

// Bytes of block b in all segments before segment k; all but the last segment are full.
static uint64_t block_bytes_before(const struct rondo_request *r, uint64_t k, uint64_t b) {
    if (k < r->state[S_SEGS]) {
        return k * r->comm->plan.block;
    }
    struct rdi_seg last = segment(r, k - 1);
    return (k - 1) * r->comm->plan.block + size(&last, b);
}

// A place in the stream between two ranks. `part`: the block whose data comes first; `sum`: the block whose
// sum follows.
struct place {
    struct rdi_seg g;
    uint64_t k;
    bool is_sum;
    uint64_t within, left;
};

static struct place place_of(const struct rondo_request *r, uint64_t part, uint64_t sum,
                             uint64_t off) {
    uint64_t full = (gathers(r) ? 2 : 1) * r->comm->plan.block;
    struct place p = {.k = 0};
    if (r->state[S_SEGS] > 1) {
        p.k = rdi_min64(off / full, r->state[S_SEGS] - 1);
    }
    p.g = segment(r, p.k);
    off -= p.k * full;
    uint64_t first = size(&p.g, part);
    p.is_sum = off >= first;
    p.within = p.is_sum ? off - first : off;
    p.left = (p.is_sum ? size(&p.g, sum) : first) - p.within;
    return p;
}

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
                        "order=strict serves up to %d ranks for this operation, not %d",
                        RDI_REDUCE_MAX_SOURCES, n);
    }
    uint64_t seg = (uint64_t)n * r->comm->plan.block;
    r->state[S_SEGS] = gathers(r) ? (r->bytes + seg - 1) / seg : 1;
    r->state[S_FOLDED] = 0;
    uint64_t segs = r->state[S_SEGS], mine = block_bytes_before(r, segs, (uint64_t)me);
    if (!gathers(r)) {
        mine = r->bytes;
    }
    struct rdi_seg g0 = segment(r, 0);
    rondo_status s = rdi_flow_reserve(r, 2 * (unsigned)(n - 1));
    for (int d = 1; d < n && s == RONDO_OK; d++) {
        int p = (me + d) % n;
        uint64_t theirs = gathers(r) ? block_bytes_before(r, segs, (uint64_t)p) : r->bytes;
        uint64_t total = theirs + (gathers(r) ? mine : 0);
        s = rdi_flow_add(r, true, p, p, total, size(&g0, (uint64_t)p));
        if (s == RONDO_OK) {
            s = rdi_flow_add(r, false, p, p, mine + (gathers(r) ? theirs : 0), 0);
        }
    }
    return s;
}

static const char *source(const struct rondo_request *r, const struct rdi_flow *f, uint64_t off,
                          uint64_t *len) {
    uint64_t me = (uint64_t)r->comm->rank, peer = (uint64_t)f->index;
    struct place p = place_of(r, peer, me, off);
    *len = p.left;
    return (p.is_sum ? r->recv : r->send) + p.g.base + rdi_seg_before(&p.g, p.is_sum ? me : peer) +
           p.within;
}

static char *land(const struct rondo_request *r, const struct rdi_flow *f, uint64_t off,
                  uint64_t *len) {
    struct place p = place_of(r, (uint64_t)r->comm->rank, (uint64_t)f->index, off);
    *len = p.left;
    return p.is_sum ? r->recv + p.g.base + rdi_seg_before(&p.g, (uint64_t)f->index) + p.within
                    : NULL;
}

// What may be sent: of the segment that is being folded, the peer's part and the folded part of the sum; and
// the next segment's part once the sum is whole.
static void raise_ready(struct rondo_request *r) {
    uint64_t block = r->comm->plan.block;
    uint64_t k = gathers(r) ? rdi_min64(r->state[S_FOLDED] / block, r->state[S_SEGS] - 1) : 0;
    struct rdi_seg g = segment(r, k);
    for (unsigned i = 0; i < r->nflows; i++) {
        struct rdi_flow *f = &r->flows[i];
        if (!f->out) {
            continue;
        }
        uint64_t ready = size(&g, (uint64_t)f->index);
        if (gathers(r)) {
            ready += k * 2 * block + (r->state[S_FOLDED] - k * block);
        }
        f->ready = rdi_min64(ready, f->total);
        rdi_edge_send(f->edge);
    }
}

// Takes the sums that arrived at the head of their streams.
static int take_sums(struct rondo_request *r) {
    int moved = 0;
    for (unsigned i = 0; i < r->nflows; i++) {
        struct rdi_flow *f = &r->flows[i];
        const char *data;
        uint64_t len;
        while (!f->out && f->done < f->total) {
            struct place p = place_of(r, (uint64_t)r->comm->rank, (uint64_t)f->index, f->done);
            if (!p.is_sum || !rdi_flow_peek(f, &data, &len)) {
                break;
            }
            char *to = r->recv + p.g.base + rdi_seg_before(&p.g, (uint64_t)f->index) + p.within;
            len = rdi_min64(len, p.left);
            if (data != to) {
                rdi_work_copy(r, to, data, len);
            }
            rdi_flow_consume(f, len);
            moved++;
        }
    }
    return moved;
}

// Folds what has come from everybody of the own block.
static bool fold(struct rondo_request *r) {
    uint64_t n = (uint64_t)r->comm->size, me = (uint64_t)r->comm->rank, len = UINT64_MAX;
    const void *src[RDI_REDUCE_MAX_SOURCES];
    struct place p = {.k = 0};
    for (unsigned i = 0; i < r->nflows; i++) {
        struct rdi_flow *f = &r->flows[i];
        const char *data;
        uint64_t have;
        if (f->out) {
            continue;
        }
        if (f->done == f->total) {
            return false;
        }
        struct place q = place_of(r, me, (uint64_t)f->index, f->done);
        // A peer's stream that is at the sum of an earlier segment holds the fold of this one.
        if (q.is_sum || !rdi_flow_peek(f, &data, &have)) {
            return false;
        }
        src[f->index] = data;
        len = rdi_min64(len, rdi_min64(have, q.left));
        p = q;
    }
    uint64_t at = p.g.base + rdi_seg_before(&p.g, me) + p.within;
    char *to = gathers(r) ? r->recv + at : r->recv + p.within;
    src[me] = r->send + at;
    rdi_work_reduce_n(r, to, src, (unsigned)n, len);
    rdi_work_average(r, to, len);
    for (unsigned i = 0; i < r->nflows; i++) {
        if (!r->flows[i].out) {
            rdi_flow_consume(&r->flows[i], len);
        }
    }
    r->state[S_FOLDED] += len;
    return true;
}

static int advance(struct rondo_request *r) {
    if (!r->nflows) {
        return 0;
    }
    int moved = take_sums(r);
    while (fold(r)) {
        raise_ready(r);
        moved += 1 + take_sums(r);
    }
    return moved;
}

const struct rdi_algo rdi_algo_owner = {
    .id = RDI_ALGO_OWNER, .setup = setup, .source = source, .land = land, .advance = advance};
