// SPDX-License-Identifier: MIT
// all_reduce of hosts with several ranks: each host reduces its ranks' data in memory, one stream a rail crosses the
// network, and each host hands the results out to its ranks. What crosses hosts is 2(H-1)/H of the data for H hosts,
// the least there is, however many ranks they have (the two levels of Thakur, Rabenseifner and Gropp, "Optimization of
// collective communication operations in MPICH", 2005, with the ring of ring.c between hosts).
//
// The data is cut into parts, one for each stream of the layout. Of a part each host has a leader, and leaders stand in a
// ring. Here host 1 of 3, of which rank b leads:
//
//                     rank a   rank c                   DATA    a rank's own blocks 1 0 2, in the order in which its
//                 DATA |  ^     | ^ RESULT                      leader needs them
//                      v  |     v |                     RING    as in ring.c: blocks 1 0 2 1 out, 0 2 1 0 in
//   leader of 0 -RING-> rank b -----RING-> leader of 2  RESULT  blocks 2 1 0, as they become whole
//
//   RING out, step 0       the sum of DATA of block 1
//   RING in, step 0        block 0: added to the DATA of block 0, goes out as step 1
//   RING in, step 1        block 2: the same, and is whole: goes out as step 2, and as the first RESULT
//   RING in, step 2, 3     blocks 1, 0 as they are on all hosts: pass on, and RESULT
//
// So each element is the left fold over hosts from its block's on, and on each host over its ranks, the lowest first.
//
// Nothing waits in a circle: DATA needs nothing, RING needs DATA and RING, RESULT needs both; and a rank that leads one
// part and hands in another one's sends RESULT on a channel of its own, so it is never behind DATA on an edge.
// Overwriting is safe without waiting: a result comes only after all, so also the leader here, have consumed that block.
#include "ring/algo/blocks.h"
#include "ring/work.h"

#include <stdlib.h>

enum kind { DATA_OUT, DATA_IN, RING_OUT, RING_IN, RESULT_OUT, RESULT_IN, KINDS };

struct part {
    uint64_t base, bytes, segs;
    bool leads;
    uint64_t folded; // leader: bytes of DATA that are in sums
    unsigned data, ring,
        results; // leader: first of nlocals-1 in-flows, ring in and out, first of nlocals-1 out
};

struct op {
    uint64_t hosts, host; // of the communicator, this rank's
    unsigned nlocals, nparts;
    unsigned me; // place of this rank among its locals
    struct part parts[];
};

static const struct op *op_of(const struct rondo_request *r) { return (const void *)r->scratch; }

static struct part *part_of(const struct rondo_request *r, const struct rdi_flow *f) {
    struct op *o = (void *)r->scratch;
    return &o->parts[f->index / KINDS];
}

static enum kind kind_of(const struct rdi_flow *f) { return (enum kind)(f->index % KINDS); }

// ---- Geometry ------------------------------------------------------------------------------------

static uint64_t steps_of(const struct op *o, enum kind k) {
    return k == RING_IN || k == RING_OUT ? 2 * o->hosts - 2 : o->hosts;
}

static uint64_t first_of(const struct op *o, enum kind k) {
    uint64_t shift = k == RING_IN ? o->hosts - 1 : k == RESULT_IN || k == RESULT_OUT ? 1 : 0;
    return (o->host + shift) % o->hosts;
}

static struct rdi_seg segment(const struct rondo_request *r, const struct part *p, uint64_t k) {
    return rdi_seg_cut(k, op_of(r)->hosts, r->comm->plan.block, p->bytes);
}

// The segment that byte `off` of a stream of this kind belongs to; the stream's end belongs to the last.
static struct rdi_seg segment_at(const struct rondo_request *r, const struct part *p, enum kind k,
                                 uint64_t off) {
    uint64_t full = steps_of(op_of(r), k) * r->comm->plan.block;
    struct rdi_seg g = segment(r, p, rdi_min64(off / full, p->segs - 1));
    g.stream = g.k * full;
    return g;
}

struct place {
    uint64_t at;         // in the operation's buffers
    uint64_t step, left; // left: bytes to the end of the block
};

static struct place place_of(const struct rondo_request *r, const struct part *p, enum kind k,
                             uint64_t off) {
    const struct op *o = op_of(r);
    struct rdi_seg g = segment_at(r, p, k, off);
    struct place x;
    uint64_t block, within;
    rdi_seg_locate(&g, o->hosts, first_of(o, k), off - g.stream, &x.step, &block, &within);
    x.at = p->base + g.base + block * g.len + within;
    x.left = rdi_seg_before(&g, block + 1) - rdi_seg_before(&g, block) - within;
    return x;
}

static uint64_t ring_total(const struct rondo_request *r, const struct part *p, enum kind k) {
    const struct op *o = op_of(r);
    struct rdi_seg g = segment(r, p, p->segs - 1);
    return g.k * steps_of(o, k) * r->comm->plan.block +
           rdi_seg_descend(&g, o->hosts, first_of(o, k), steps_of(o, k));
}

// ---- Setup ---------------------------------------------------------------------------------------

static unsigned place_among(const struct rdi_layout *l, int rank) {
    unsigned i = 0;
    while (l->locals[i] != rank) {
        i++;
    }
    return i;
}

// In whole cache lines, so that no element is cut; streams of more rails carry more.
static void cut(struct op *o, const struct rdi_layout *l, uint64_t bytes, uint64_t block) {
    uint64_t lines = (bytes + 63) / 64, rails = 0, from = 0;
    for (unsigned s = 0; s < o->nparts; s++) {
        rails += l->streams[s].weight;
        uint64_t all = (uint64_t)l->rails;
        uint64_t to = rdi_min64((lines / all * rails + lines % all * rails / all) * 64, bytes);
        uint64_t seg = o->hosts * block;
        o->parts[s] = (struct part){.base = from, .bytes = to - from};
        o->parts[s].segs = (to - from + seg - 1) / seg;
        from = to;
    }
}

static rondo_status add(struct rondo_request *r, unsigned part, enum kind k, int peer,
                        uint64_t total, uint64_t ready) {
    const struct op *o = op_of(r);
    bool out = k == DATA_OUT || k == RING_OUT || k == RESULT_OUT;
    bool back = o->nparts > 1 && (k == RESULT_OUT || k == RESULT_IN);
    return rdi_flow_add_on(r, out, peer, back ? RDI_CH_RESULT : -1, (int)(part * KINDS + k), total,
                           ready);
}

static rondo_status lead(struct rondo_request *r, struct part *p, unsigned i,
                         const struct rdi_stream *stream) {
    const struct op *o = op_of(r);
    const struct rdi_layout *l = &r->comm->layout;
    rondo_status s = RONDO_OK;
    p->data = r->nflows;
    for (unsigned m = 0; m < o->nlocals && s == RONDO_OK; m++) {
        s = m == o->me ? RONDO_OK : add(r, i, DATA_IN, l->locals[m], p->bytes, 0);
    }
    p->ring = r->nflows;
    if (s == RONDO_OK) {
        s = add(r, i, RING_IN, stream->leaders[(o->host + o->hosts - 1) % o->hosts],
                ring_total(r, p, RING_IN), 0);
    }
    if (s == RONDO_OK) {
        s = add(r, i, RING_OUT, stream->leaders[(o->host + 1) % o->hosts],
                ring_total(r, p, RING_OUT), 0);
    }
    p->results = r->nflows;
    for (unsigned m = 0; m < o->nlocals && s == RONDO_OK; m++) {
        s = m == o->me ? RONDO_OK : add(r, i, RESULT_OUT, l->locals[m], p->bytes, 0);
    }
    return s;
}

static rondo_status add_part(struct rondo_request *r, struct part *p, unsigned i) {
    const struct rdi_stream *stream = &r->comm->layout.streams[i];
    int leader = stream->leaders[op_of(r)->host];
    p->leads = leader == r->comm->rank;
    if (p->leads) {
        return lead(r, p, i, stream);
    }
    rondo_status s = add(r, i, DATA_OUT, leader, p->bytes, p->bytes);
    return s == RONDO_OK ? add(r, i, RESULT_IN, leader, p->bytes, 0) : s;
}

static int progress_part(struct rondo_request *r, struct part *p);

static rondo_status setup(struct rondo_request *r) {
    const struct rdi_layout *l = &r->comm->layout;
    unsigned n = (unsigned)l->nstreams;
    if (r->bytes == 0) {
        return RONDO_OK;
    }
    struct op *o = malloc(sizeof *o + n * sizeof *o->parts);
    if (!o) {
        return rdi_fail(RONDO_ERR_NOMEM, "all_reduce: out of memory for %u streams", n);
    }
    r->scratch = (void *)o;
    *o = (struct op){.hosts = (uint64_t)l->hosts,
                     .host = (uint64_t)l->host,
                     .nlocals = (unsigned)l->nlocals,
                     .nparts = n,
                     .me = place_among(l, r->comm->rank)};
    cut(o, l, r->bytes, r->comm->plan.block);
    rondo_status s = rdi_flow_reserve(r, 2 * n * (o->nlocals + 1));
    for (unsigned i = 0; i < n && s == RONDO_OK; i++) {
        s = o->parts[i].bytes > 0 ? add_part(r, &o->parts[i], i) : RONDO_OK;
    }
    for (unsigned i = 0; i < n && s == RONDO_OK; i++) {
        (void)progress_part(r, &o->parts[i]);
    }
    return s;
}

// ---- Where bytes come from and go to -------------------------------------------------------------

// A host's only rank has no sums to send at step 0.
static const char *source(const struct rondo_request *r, const struct rdi_flow *f, uint64_t off,
                          uint64_t *len) {
    enum kind k = kind_of(f);
    struct place x = place_of(r, part_of(r, f), k, off);
    bool own = k == DATA_OUT || (k == RING_OUT && x.step == 0 && op_of(r)->nlocals == 1);
    *len = x.left;
    return (own ? r->send : r->recv) + x.at;
}

static char *land(const struct rondo_request *r, const struct rdi_flow *f, uint64_t off,
                  uint64_t *len) {
    enum kind k = kind_of(f);
    struct place x = place_of(r, part_of(r, f), k, off);
    *len = x.left;
    bool whole = k == RESULT_IN || (k == RING_IN && x.step >= op_of(r)->hosts - 1);
    return whole ? r->recv + x.at : NULL;
}

// ---- The leader ----------------------------------------------------------------------------------

// Adds up what all locals have at x, and before them `sum`, what came from the ring, if any. Bytes taken; 0: not all of
// it is here.
static uint64_t fold(struct rondo_request *r, struct part *p, const struct place *x,
                     const char *sum, uint64_t len) {
    const struct op *o = op_of(r);
    const void *from[RDI_REDUCE_MAX_SOURCES];
    unsigned n = 0, at = p->data;
    if (sum) {
        from[n++] = sum;
    }
    for (unsigned m = 0; m < o->nlocals; m++) {
        const char *data = r->send + x->at;
        uint64_t have = len;
        if (m != o->me && !rdi_flow_peek(&r->flows[at++], &data, &have)) {
            return 0;
        }
        from[n++] = data;
        len = rdi_min64(len, have);
    }
    if (n > 1) {
        rdi_work_reduce_n(r, r->recv + x->at, from, n, len);
    }
    for (unsigned m = 0; m + 1 < o->nlocals; m++) {
        rdi_flow_consume(&r->flows[p->data + m], len);
    }
    p->folded += len;
    return len;
}

// The block that this host sends at step 0 of a segment.
static bool fold_first(struct rondo_request *r, struct part *p) {
    if (p->folded == p->bytes) {
        return false;
    }
    struct place x = place_of(r, p, DATA_IN, p->folded);
    return x.step == 0 && fold(r, p, &x, NULL, x.left) > 0;
}

// What comes next from the ring: to be added to, or whole.
static bool take_ring(struct rondo_request *r, struct part *p) {
    struct rdi_flow *in = &r->flows[p->ring];
    uint64_t hosts = op_of(r)->hosts, len;
    const char *data;
    if (in->done == in->total || !rdi_flow_peek(in, &data, &len)) {
        return false;
    }
    struct place x = place_of(r, p, RING_IN, in->done);
    len = rdi_min64(len, x.left);
    if (x.step >= hosts - 1) {
        if (data != r->recv + x.at) {
            rdi_work_copy(r, r->recv + x.at, data, len);
        }
    } else {
        // The locals' blocks come in the same order; of this segment the first must have gone out.
        if (p->folded == p->bytes || place_of(r, p, DATA_IN, p->folded).at != x.at) {
            return false;
        }
        len = fold(r, p, &x, data, len);
        if (len == 0) {
            return false;
        }
        if (x.step == hosts - 2) {
            rdi_work_average(r, r->recv + x.at, len);
        }
    }
    rdi_flow_consume(in, len);
    return true;
}

static void raise_ready(struct rondo_request *r, struct part *p) {
    const struct op *o = op_of(r);
    struct rdi_flow *in = &r->flows[p->ring], *out = in + 1;
    uint64_t n = o->hosts, block = r->comm->plan.block;
    struct rdi_seg g = segment_at(r, p, RING_IN, in->done);
    uint64_t come = in->done - g.stream,
             before = g.k * n * block; // of this segment; bytes of those before
    uint64_t first = rdi_seg_descend(&g, n, o->host, 1);
    uint64_t total = rdi_seg_descend(&g, n, o->host, 2 * n - 2);
    uint64_t partial = rdi_seg_descend(&g, n, first_of(o, RING_IN), n - 2);
    uint64_t summed = rdi_min64(p->folded - before, first);
    out->ready = g.stream + (come > 0 ? rdi_min64(first + come, total) : summed);
    rdi_edge_send(out->edge);
    for (unsigned m = 0; m + 1 < o->nlocals; m++) {
        struct rdi_flow *f = &r->flows[p->results + m];
        f->ready = before + rdi_min64(come > partial ? come - partial : 0, g.bytes);
        rdi_edge_send(f->edge);
    }
}

static int progress_part(struct rondo_request *r, struct part *p) {
    int moved = 0;
    while (p->leads && p->bytes > 0 && (fold_first(r, p) || take_ring(r, p))) {
        raise_ready(r, p);
        moved++;
    }
    return moved;
}

// ---- All -----------------------------------------------------------------------------------------

static int take_result(struct rondo_request *r, struct rdi_flow *f) {
    const char *data;
    uint64_t len;
    int moved = 0;
    while (f->done < f->total && rdi_flow_peek(f, &data, &len)) {
        struct place x = place_of(r, part_of(r, f), RESULT_IN, f->done);
        len = rdi_min64(len, x.left);
        if (data != r->recv + x.at) {
            rdi_work_copy(r, r->recv + x.at, data, len);
        }
        rdi_flow_consume(f, len);
        moved++;
    }
    return moved;
}

static int advance(struct rondo_request *r) {
    struct op *o = (void *)r->scratch;
    int moved = 0;
    for (unsigned i = 0; o && i < o->nparts; i++) {
        moved += progress_part(r, &o->parts[i]);
    }
    for (unsigned i = 0; i < r->nflows; i++) {
        if (kind_of(&r->flows[i]) == RESULT_IN) {
            moved += take_result(r, &r->flows[i]);
        }
    }
    return moved;
}

const struct rdi_algo rdi_algo_node = {
    .id = RDI_ALGO_NODE, .setup = setup, .source = source, .land = land, .advance = advance};
