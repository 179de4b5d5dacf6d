// SPDX-License-Identifier: MIT
// Blocks of one segment, and streams of them that go down around a circle of n: what ring.c, node.c and owner.c send, and
// what devices do (ring/cuda/program.c).
#ifndef RDI_ALGO_BLOCKS_H
#define RDI_ALGO_BLOCKS_H

#include <stdint.h>

// Blocks b = 0 .. n-1 of one segment: all `len` bytes, the last ones shorter or empty.
struct rdi_seg {
    uint64_t base;   // of the segment: in the data (all_reduce) or in each block (reduce_scatter)
    uint64_t bytes;  // of all blocks
    uint64_t len;    // of a block
    uint64_t stream; // offset in the flow's stream where the segment begins
    uint64_t k;      // number of the segment
};

static inline uint64_t rdi_min64(uint64_t a, uint64_t b) { return a < b ? a : b; }

// Segment k of data that is cut in segments of n blocks. The last one is shared out evenly, in whole cache lines so that
// no element is cut. `stream` is the caller's.
static inline struct rdi_seg rdi_seg_cut(uint64_t k, uint64_t n, uint64_t block, uint64_t bytes) {
    struct rdi_seg g = {.k = k, .base = k * n * block, .len = block};
    g.bytes = rdi_min64(n * block, bytes - g.base);
    if (g.bytes < n * block) {
        g.len = ((g.bytes + n - 1) / n + 63) / 64 * 64;
    }
    return g;
}

// Bytes of blocks [0, b).
static inline uint64_t rdi_seg_before(const struct rdi_seg *g, uint64_t b) {
    return rdi_min64(b * g->len, g->bytes);
}

// Bytes of `steps` blocks going down from b0, modulo n.
static inline uint64_t rdi_seg_descend(const struct rdi_seg *g, uint64_t n, uint64_t b0,
                                       uint64_t steps) {
    uint64_t whole = steps / n * g->bytes, s = steps % n;
    if (s <= b0 + 1) {
        return whole + rdi_seg_before(g, b0 + 1) - rdi_seg_before(g, b0 + 1 - s);
    }
    return whole + rdi_seg_before(g, b0 + 1) + g->bytes - rdi_seg_before(g, n - (s - b0 - 1));
}

// The inverse: byte x of the blocks going down from b0 lies in `block` at `within`, in step `step`.
static inline void rdi_seg_locate(const struct rdi_seg *g, uint64_t n, uint64_t b0, uint64_t x,
                                  uint64_t *step, uint64_t *block, uint64_t *within) {
    uint64_t cycle = x / g->bytes, head = rdi_seg_before(g, b0 + 1);
    x %= g->bytes;
    uint64_t top = x < head ? head : g->bytes + head; // byte x, counted down from here
    uint64_t b = (top - 1 - x) / g->len;
    *block = b;
    *within = x - (top - rdi_seg_before(g, b + 1));
    *step = cycle * n + (x < head ? b0 - b : b0 + n - b);
}

#endif
