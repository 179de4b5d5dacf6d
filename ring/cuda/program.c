// SPDX-License-Identifier: MIT
// An operation as the list of a rank's moves: a pure function of the call, the same cut on all ranks.
//
// The ranks stand in the order of the ring (ring/layout.h). A block of data goes its way over their places, from place
// s upwards: position x of the way is the rank at place s + x (modulo n). Up to position `fold` each rank adds its own
// data; from there on the value is final, and travels on to the end. Blocks of reduce_scatter and all_gather are
// numbered by place. With order=strict the places of what is reduced are the ranks' numbers.
//
//                   s            fold     end        x:       0     1     2 … fold … end
//   all_reduce      b            n-1      2n-2       value:   own   sum2  sum3  all   all
//   reduce_scatter  b + 1        n-1      n-1        (fold and end in positions; b: number of the block)
//   all_gather      b            0        n-1
//   broadcast       root         0        n-1
//   reduce          root + 1     n-1      n-1
//   order=strict    0            n-1      as far as the rank that wants it (all_reduce: 2n-2)
//
// These are the ways of the ring on the host (ring/algo/ring.c), with the same blocks and segments: so each
// element meets the same partners in the same order, and comes out with the same bits.
//
// Time: position x of segment k has time T(k) + x, where RDI_GPU_WIDTH segments of a ring share a T and the segments
// of a way with one start follow each other by one. Moves are listed by time; see gpu.h for why that is enough.
#include "ring/algo/blocks.h"
#include "ring/cuda/gpu.h"

#include <stdlib.h>

// A block of a segment. start: a place.
struct item {
    uint64_t bytes, local, dst; // local, dst: offsets in the caller's buffers
    int start, fold, end;
};

static struct rdi_gpu_move *add(struct rdi_gpu_program *p) {
    if (p->n == p->cap) {
        size_t cap = p->cap ? 2 * p->cap : 64;
        struct rdi_gpu_move *more = realloc(p->moves, cap * sizeof *more);
        if (!more) {
            return NULL;
        }
        p->moves = more;
        p->cap = cap;
    }
    struct rdi_gpu_move *m = &p->moves[p->n++];
    *m = (struct rdi_gpu_move){.in = -1, .out = -1};
    return m;
}

static bool reduces(const struct rdi_gpu_call *c) {
    return c->kind == RDI_ALL_REDUCE || c->kind == RDI_REDUCE_SCATTER || c->kind == RDI_REDUCE;
}

// ---- Places --------------------------------------------------------------------------------------

bool rdi_gpu_by_rank(const struct rdi_gpu_call *c) { return c->strict && reduces(c); }

static int rank_at(const struct rdi_gpu_call *c, int place) {
    return c->order && !rdi_gpu_by_rank(c) ? c->order[place] : place;
}

static int place_of(const struct rdi_gpu_call *c, int rank) {
    int place = 0;
    while (place < c->size && rank_at(c, place) != rank) {
        place++;
    }
    return place;
}

// ---- A rank's part in a way ----------------------------------------------------------------------

// A call, and where this rank and the root stand.
struct view {
    const struct rdi_gpu_call *c;
    int place, root, before, after; // before, after: the ranks there
};

static struct view view_of(const struct rdi_gpu_call *c) {
    int n = c->size, place = place_of(c, c->rank);
    return (struct view){.c = c,
                         .place = place,
                         .root = place_of(c, c->root),
                         .before = rank_at(c, (place + n - 1) % n),
                         .after = rank_at(c, (place + 1) % n)};
}

// Whether the rank at position x stores the value for its caller.
static bool wants(const struct rdi_gpu_call *c, const struct item *i, int x) {
    if (c->kind == RDI_REDUCE_SCATTER || c->kind == RDI_REDUCE) {
        return x == i->end;
    }
    return x >= i->fold;
}

// This rank's part in the item's way, when it stands at position x.
static bool visit(const struct view *v, const struct item *i, int x, struct rdi_gpu_program *p) {
    const struct rdi_gpu_call *c = v->c;
    if (i->bytes == 0 || x < 0 || x > i->end) {
        return true;
    }
    struct rdi_gpu_move *m = add(p);
    if (!m) {
        return false;
    }
    m->bytes = i->bytes;
    m->in = x > 0 ? v->before : -1;
    m->out = x < i->end ? v->after : -1;
    m->has_local = x == 0 || (x <= i->fold && reduces(c));
    m->local = i->local;
    m->has_dst = wants(c, i, x);
    m->dst = i->dst;
    m->divide = c->divide && x == i->fold && c->size > 1;
    return true;
}

// ---- Ways that begin at another place for each block ---------------------------------------------

static struct item ring_item(const struct rdi_gpu_call *c, uint64_t k, int block) {
    uint64_t b = (uint64_t)block;
    struct item i = {.start = block, .fold = c->size - 1, .end = c->size - 1};
    if (c->kind == RDI_ALL_REDUCE) {
        struct rdi_seg g = rdi_seg_cut(k, (uint64_t)c->size, c->piece, c->bytes);
        i.local = g.base + rdi_seg_before(&g, b);
        i.bytes = rdi_seg_before(&g, b + 1) - rdi_seg_before(&g, b);
        i.dst = i.local;
        i.end = 2 * c->size - 2;
        return i;
    }
    uint64_t base = k * c->piece, whole = (uint64_t)rank_at(c, block) * c->bytes + base;
    i.bytes = rdi_min64(c->piece, c->bytes - base);
    if (c->kind == RDI_REDUCE_SCATTER) {
        i.start = (block + 1) % c->size;
        i.local = whole;
        i.dst = base;
    } else {
        i.fold = 0;
        i.local = base;
        i.dst = whole;
    }
    return i;
}

static bool ring(const struct rdi_gpu_call *c, struct rdi_gpu_program *p) {
    uint64_t unit = c->piece * (c->kind == RDI_ALL_REDUCE ? (uint64_t)c->size : 1);
    uint64_t segs = (c->bytes + unit - 1) / unit;
    int shift = c->kind == RDI_REDUCE_SCATTER ? 1 : 0;
    int end = c->kind == RDI_ALL_REDUCE ? 2 * c->size - 2 : c->size - 1;
    struct view v = view_of(c);
    for (uint64_t group = 0; group < segs; group += RDI_GPU_WIDTH) {
        for (int x = 0; x <= end; x++) {
            int block = (v.place - x - shift + 3 * c->size) % c->size;
            for (uint64_t k = group; k < rdi_min64(segs, group + RDI_GPU_WIDTH); k++) {
                struct item i = ring_item(c, k, block);
                if (!visit(&v, &i, x, p)) {
                    return false;
                }
            }
        }
    }
    return true;
}

// ---- Ways that all begin at one place ------------------------------------------------------------

static struct item way_item(const struct view *v, uint64_t k) {
    const struct rdi_gpu_call *c = v->c;
    int n = c->size;
    struct item i = {.fold = n - 1, .end = n - 1};
    if (c->kind == RDI_REDUCE_SCATTER) { // strict: a way for each piece of each block
        uint64_t block = k % (uint64_t)n, base = k / (uint64_t)n * c->piece;
        i.bytes = rdi_min64(c->piece, c->bytes - base);
        i.local = block * c->bytes + base;
        i.dst = base;
        i.end = n - 1 + ((int)block + 1) % n;
        return i;
    }
    i.local = i.dst = k * c->piece;
    i.bytes = rdi_min64(c->piece, c->bytes - i.local);
    if (c->kind == RDI_ALL_REDUCE) {
        i.end = 2 * n - 2;
    } else if (c->kind == RDI_BROADCAST) {
        i.start = v->root;
        i.fold = 0;
    } else if (c->strict) {
        i.end = n - 1 + (v->root + 1) % n;
    } else {
        i.start = (v->root + 1) % n;
    }
    return i;
}

// At time t a rank serves item t - x at its first position x, and n items before that one at its second, x + n.
static bool ways(const struct rdi_gpu_call *c, struct rdi_gpu_program *p) {
    uint64_t n = (uint64_t)c->size, items = (c->bytes + c->piece - 1) / c->piece;
    items *= c->kind == RDI_REDUCE_SCATTER ? n : 1;
    struct view v = view_of(c);
    for (uint64_t t = 0; items && t < items + n; t++) {
        for (unsigned second = 0; second < 2; second++) {
            uint64_t k = second ? t : t - n; // the older one comes first
            if (k >= items) {
                continue; // also when t < n: k wraps around
            }
            struct item i = way_item(&v, k);
            int x = (v.place - i.start + c->size) % c->size + (second ? 0 : c->size);
            if (!visit(&v, &i, x, p)) {
                return false;
            }
        }
    }
    return true;
}

// ---- Pairs ---------------------------------------------------------------------------------------

static bool half(struct rdi_gpu_program *p, uint64_t bytes, int in, int out, uint64_t local,
                 uint64_t dst) {
    struct rdi_gpu_move *m = add(p);
    if (!m) {
        return false;
    }
    m->bytes = bytes;
    m->in = in;
    m->out = out;
    m->has_local = in < 0;
    m->local = local;
    m->has_dst = out < 0;
    m->dst = dst;
    return true;
}

static bool all_to_all(const struct rdi_gpu_call *c, struct rdi_gpu_program *p) {
    uint64_t own = (uint64_t)c->rank * c->bytes;
    if (c->bytes && !half(p, c->bytes, -1, -1, own, own)) {
        return false;
    }
    for (int d = 1; d < c->size; d++) {
        int to = (c->rank + d) % c->size, from = (c->rank - d + c->size) % c->size;
        for (uint64_t at = 0; at < c->bytes; at += c->piece) {
            uint64_t n = rdi_min64(c->piece, c->bytes - at);
            if (!half(p, n, -1, to, (uint64_t)to * c->bytes + at, 0) ||
                !half(p, n, from, -1, 0, (uint64_t)from * c->bytes + at)) {
                return false;
            }
        }
    }
    return true;
}

static bool one_way(const struct rdi_gpu_call *c, struct rdi_gpu_program *p) {
    bool send = c->kind == RDI_SEND;
    for (uint64_t at = 0; at < c->bytes; at += c->piece) {
        uint64_t n = rdi_min64(c->piece, c->bytes - at);
        if (!half(p, n, send ? -1 : c->root, send ? c->root : -1, at, at)) {
            return false;
        }
    }
    return true;
}

bool rdi_gpu_program(const struct rdi_gpu_call *c, struct rdi_gpu_program *p) {
    if (c->size == 1 && c->kind != RDI_SEND && c->kind != RDI_RECV) {
        return c->bytes == 0 || half(p, c->bytes, -1, -1, 0, 0);
    }
    switch (c->kind) {
    case RDI_ALL_REDUCE:
    case RDI_REDUCE_SCATTER:
        return c->strict ? ways(c, p) : ring(c, p);
    case RDI_ALL_GATHER:
        return ring(c, p);
    case RDI_BROADCAST:
    case RDI_REDUCE:
        return ways(c, p);
    case RDI_ALL_TO_ALL:
        return all_to_all(c, p);
    default:
        return one_way(c, p);
    }
}
