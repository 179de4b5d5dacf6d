// SPDX-License-Identifier: MIT
// The pipelined ring: all_reduce, reduce_scatter, all_gather (Patarasuk and Yuan, "Bandwidth optimal
// all-reduce algorithms for clusters of workstations", 2009).
//
// The data is cut in n blocks. The ranks stand around the ring as the layout says (ring/layout.h), below as they are
// numbered. Each sends to the next and receives from the one before. all_reduce with n = 4, each column a rank, block numbers as they are sent, partial sums while step < n-1, results after that:
//
//             rank 0   rank 1   rank 2   rank 3
//   step 0      0        1        2        3      own data
//   step 1      3        0        1        2      sum of two
//   step 2      2        3        0        1      sum of three
//   step 3      1        2        3        0      results (block r+1 is complete on rank r)
//   step 4      0        1        2        3      passed on
//   step 5      3        0        1        2      passed on
//
// Seen as a stream, rank r sends blocks r, r-1, r-2 … (2n-2 of them, counted modulo n) and receives r-1, r-2
// …: what it receives as number s it sends as number s+1. So the whole dependency is one line: the
// out-stream is ready up to (its first block) + (what the in-stream has consumed). There are no steps to wait
// for; chunks flow as they come.
//
// Data larger than n * plan.block goes in segments, one after the other in the same streams, so that what is
// reduced is passed on while it is still in the cache. Overwriting is safe without waiting: a result for a
// block can only arrive after everybody, also our right neighbour, has consumed our part of it.
#include "ring/algo/blocks.h"
#include "ring/work.h"

#include <stdlib.h>

enum { S_BLOCK, S_SEGS, S_STEPS, S_FULL }; // indexes of req->state

static struct rdi_seg segment(const struct rondo_request *r, uint64_t k) {
    uint64_t n = (uint64_t)r->comm->size, block = r->state[S_BLOCK];
    struct rdi_seg g = {.k = k, .base = k * block};
    if (r->kind == RDI_ALL_REDUCE) {
        g = rdi_seg_cut(k, n, block, r->bytes);
    } else {
        g.len = rdi_min64(block, r->bytes - g.base);
        g.bytes = n * g.len;
    }
    g.stream = k * r->state[S_FULL];
    return g;
}

// First block of the stream: for reduce_scatter one lower, so that each block ends where it belongs.
static uint64_t first_block(const struct rondo_request *r, bool out) {
    uint64_t n = (uint64_t)r->comm->size, at = (uint64_t)r->comm->layout.pos;
    return (at + 2 * n - (out ? 0 : 1) - (r->kind == RDI_REDUCE_SCATTER ? 1 : 0)) % n;
}

static uint64_t stream_total(const struct rondo_request *r, bool out) {
    struct rdi_seg last = segment(r, r->state[S_SEGS] - 1);
    return last.stream +
           rdi_seg_descend(&last, (uint64_t)r->comm->size, first_block(r, out), r->state[S_STEPS]);
}

struct place {
    struct rdi_seg g;
    uint64_t step, block, within, left; // left: bytes to the end of the block
};

static struct place place_of(const struct rondo_request *r, bool out, uint64_t off) {
    struct place p;
    p.g = segment(r, rdi_min64(off / r->state[S_FULL], r->state[S_SEGS] - 1));
    rdi_seg_locate(&p.g, (uint64_t)r->comm->size, first_block(r, out), off - p.g.stream, &p.step,
                   &p.block, &p.within);
    p.left = rdi_seg_before(&p.g, p.block + 1) - rdi_seg_before(&p.g, p.block) - p.within;
    return p;
}

// Where a place lies in a buffer that holds all blocks.
static uint64_t offset_of(const struct rondo_request *r, const struct place *p) {
    if (r->kind == RDI_ALL_REDUCE) {
        return p->g.base + p->block * p->g.len + p->within;
    }
    return (uint64_t)rdi_layout_rank(&r->comm->layout, (int)p->block) * r->bytes + p->g.base +
           p->within;
}

// Raises the out-flow's `ready` to what the in-flow has consumed. Both streams exist always: each block is
// in each of them at least once.
static void raise_ready(struct rondo_request *r) {
    struct rdi_flow *in = &r->flows[0], *out = &r->flows[1];
    struct rdi_seg g = segment(r, rdi_min64(in->done / r->state[S_FULL], r->state[S_SEGS] - 1));
    uint64_t n = (uint64_t)r->comm->size, b0 = first_block(r, true);
    uint64_t first = rdi_seg_descend(&g, n, b0, 1),
             total = rdi_seg_descend(&g, n, b0, r->state[S_STEPS]);
    out->ready = g.stream + rdi_min64(first + in->done - g.stream, total);
}

// `block`: bytes of a block in a full segment.
static rondo_status setup_streams(struct rondo_request *r, uint64_t block, uint64_t segs,
                                  uint64_t steps) {
    uint64_t n = (uint64_t)r->comm->size;
    r->state[S_BLOCK] = block;
    r->state[S_SEGS] = segs;
    r->state[S_STEPS] = steps;
    r->state[S_FULL] = steps * block;
    rondo_status s = rdi_flow_reserve(r, 2);
    if (s == RONDO_OK) {
        s = rdi_flow_add(r, false, rdi_layout_next(&r->comm->layout, (int)n - 1), 0,
                         stream_total(r, false), 0);
    }
    if (s == RONDO_OK) {
        s = rdi_flow_add(r, true, rdi_layout_next(&r->comm->layout, 1), 1, stream_total(r, true),
                         0);
    }
    if (s == RONDO_OK) {
        raise_ready(r);
    }
    return s;
}

// ---- all_reduce ----------------------------------------------------------------------------------

static rondo_status ar_setup(struct rondo_request *r) {
    uint64_t n = (uint64_t)r->comm->size, seg = n * r->comm->plan.block;
    if (n == 1 || r->bytes == 0) {
        if (r->send != r->recv && r->bytes) {
            rdi_work_copy(r, r->recv, r->send, r->bytes);
        }
        return RONDO_OK;
    }
    return setup_streams(r, r->comm->plan.block, (r->bytes + seg - 1) / seg, 2 * n - 2);
}

// Own data goes out as it is; everything later is what the step before has left in recv.
static const char *ar_source(const struct rondo_request *r, const struct rdi_flow *f, uint64_t off,
                             uint64_t *len) {
    (void)f;
    struct place p = place_of(r, true, off);
    *len = p.left;
    return (p.step == 0 ? r->send : r->recv) + offset_of(r, &p);
}

static char *ar_land(const struct rondo_request *r, const struct rdi_flow *f, uint64_t off,
                     uint64_t *len) {
    (void)f;
    struct place p = place_of(r, false, off);
    *len = p.left;
    return p.step < (uint64_t)r->comm->size - 1 ? NULL : r->recv + offset_of(r, &p);
}

static int ar_advance(struct rondo_request *r) {
    if (!r->nflows) {
        return 0;
    }
    struct rdi_flow *in = &r->flows[0];
    uint64_t n = (uint64_t)r->comm->size, len;
    const char *data;
    int moved = 0;
    while (in->done < in->total && rdi_flow_peek(in, &data, &len)) {
        struct place p = place_of(r, false, in->done);
        uint64_t at = offset_of(r, &p);
        len = rdi_min64(len, p.left);
        if (p.step >= n - 1) {
            if (data != r->recv + at) {
                rdi_work_copy(r, r->recv + at, data, len);
            }
        } else {
            rdi_work_reduce2(r, r->recv + at, data, r->send + at, len);
            if (p.step == n - 2) {
                rdi_work_average(r, r->recv + at, len);
            }
        }
        rdi_flow_consume(in, len);
        raise_ready(r);
        rdi_edge_send(r->flows[1].edge);
        moved++;
    }
    return moved;
}

const struct rdi_algo rdi_algo_ring_ar = {.id = RDI_ALGO_RING,
                                          .setup = ar_setup,
                                          .source = ar_source,
                                          .land = ar_land,
                                          .advance = ar_advance};

// ---- all_gather ----------------------------------------------------------------------------------

static rondo_status ag_setup(struct rondo_request *r) {
    uint64_t n = (uint64_t)r->comm->size;
    char *own = r->recv + (uint64_t)r->comm->rank * r->bytes;
    if (r->bytes && r->send != own) {
        rdi_work_copy(r, own, r->send, r->bytes);
    }
    if (n == 1 || r->bytes == 0) {
        return RONDO_OK;
    }
    return setup_streams(r, r->bytes, 1, n - 1);
}

static const char *ag_source(const struct rondo_request *r, const struct rdi_flow *f, uint64_t off,
                             uint64_t *len) {
    (void)f;
    struct place p = place_of(r, true, off);
    *len = p.left;
    return r->recv + offset_of(r, &p);
}

static char *ag_land(const struct rondo_request *r, const struct rdi_flow *f, uint64_t off,
                     uint64_t *len) {
    (void)f;
    struct place p = place_of(r, false, off);
    *len = p.left;
    return r->recv + offset_of(r, &p);
}

static int ag_advance(struct rondo_request *r) {
    if (!r->nflows) {
        return 0;
    }
    struct rdi_flow *in = &r->flows[0];
    uint64_t len;
    const char *data;
    int moved = 0;
    while (in->done < in->total && rdi_flow_peek(in, &data, &len)) {
        struct place p = place_of(r, false, in->done);
        char *to = r->recv + offset_of(r, &p);
        len = rdi_min64(len, p.left);
        if (data != to) {
            rdi_work_copy(r, to, data, len);
        }
        rdi_flow_consume(in, len);
        raise_ready(r);
        rdi_edge_send(r->flows[1].edge);
        moved++;
    }
    return moved;
}

const struct rdi_algo rdi_algo_ring_ag = {.id = RDI_ALGO_RING,
                                          .setup = ag_setup,
                                          .source = ag_source,
                                          .land = ag_land,
                                          .advance = ag_advance};

// ---- reduce_scatter ------------------------------------------------------------------------------
//
// Partial sums must not go to the send buffer, and recv holds one block only: they live in two scratch
// blocks that alternate by step. A scratch block may be written again once the step that sent it is done.

static rondo_status rs_setup(struct rondo_request *r) {
    uint64_t n = (uint64_t)r->comm->size, block = rdi_min64(r->comm->plan.block, r->bytes);
    if (n == 1 || r->bytes == 0) {
        if (r->send != r->recv && r->bytes) {
            rdi_work_copy(r, r->recv, r->send, r->bytes);
        }
        return RONDO_OK;
    }
    if (n > 2) {
        r->scratch = malloc(2 * block);
        if (!r->scratch) {
            return rdi_fail(RONDO_ERR_NOMEM,
                            "reduce_scatter: out of memory for %llu bytes of scratch",
                            2ULL * block);
        }
    }
    return setup_streams(r, block, (r->bytes + block - 1) / block, n - 1);
}

static char *rs_scratch(const struct rondo_request *r, const struct place *p, uint64_t step) {
    uint64_t number = p->g.k * r->state[S_STEPS] + step;
    return r->scratch + (number & 1) * r->state[S_BLOCK] + p->within;
}

static const char *rs_source(const struct rondo_request *r, const struct rdi_flow *f, uint64_t off,
                             uint64_t *len) {
    (void)f;
    struct place p = place_of(r, true, off);
    *len = p.left;
    return p.step == 0 ? r->send + offset_of(r, &p) : rs_scratch(r, &p, p.step - 1);
}

// Bytes of the out-stream that must be done before step `number` may write `within + len` of its scratch.
static uint64_t rs_needs(const struct rondo_request *r, uint64_t number, uint64_t end) {
    if (number < 2) {
        return 0;
    }
    uint64_t k = (number - 1) / r->state[S_STEPS], step = (number - 1) % r->state[S_STEPS];
    struct rdi_seg g = segment(r, k);
    return g.stream + step * g.len + rdi_min64(end, g.len);
}

static int rs_advance(struct rondo_request *r) {
    if (!r->nflows) {
        return 0;
    }
    struct rdi_flow *in = &r->flows[0], *out = &r->flows[1];
    uint64_t n = (uint64_t)r->comm->size, len;
    const char *data;
    int moved = 0;
    while (in->done < in->total && rdi_flow_peek(in, &data, &len)) {
        struct place p = place_of(r, false, in->done);
        bool last = p.step == n - 2;
        len = rdi_min64(len, p.left);
        if (!last && out->done < rs_needs(r, p.g.k * (n - 1) + p.step, p.within + len)) {
            break;
        }
        char *to = last ? r->recv + p.g.base + p.within : rs_scratch(r, &p, p.step);
        rdi_work_reduce2(r, to, data, r->send + offset_of(r, &p), len);
        if (last) {
            rdi_work_average(r, to, len);
        }
        rdi_flow_consume(in, len);
        raise_ready(r);
        rdi_edge_send(out->edge);
        moved++;
    }
    return moved;
}

const struct rdi_algo rdi_algo_ring_rs = {
    .id = RDI_ALGO_RING, .setup = rs_setup, .source = rs_source, .advance = rs_advance};
