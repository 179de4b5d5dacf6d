// SPDX-License-Identifier: MIT
// The bodies of the kernels, as C that nvcc and C compilers take: ring/cuda/kernels.cu wraps them for devices,
// tests/mock_cuda/twins_ring.c and tests/unit/test_gpu_kernels.c run them on hosts.
//
// A piece is cut into chunks of 16 bytes; chunk i is thread i's, then thread (i + threads)'s and so on. A thread has
// four chunks of each operand under way at a time. What is left when there is no whole chunk, or all of a piece that
// is not aligned, goes word by word, each in units as wide as alignment lets.
#ifndef RDI_CUDA_BODY_H
#define RDI_CUDA_BODY_H

#include "ring/cuda/ops.h"
#include "ring/cuda/step.h"

#if defined(__GNUC__) && !defined(__clang__) && !defined(__CUDACC__)
// Chunks are loaded, used and stored under one and the same condition, which gcc does not follow at -O3.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif

// X(op, type) for types whose operations take words of 4 bytes, and of 8; for all types; for all kernels.
#define RDI_FOR_WORDS(X, op) \
    X(op, f32)               \
    X(op, f16) X(op, bf16) X(op, i8) X(op, u8) X(op, i32) X(op, u32) X(op, f8e4m3) X(op, f8e5m2)
#define RDI_FOR_PAIRS(X, op) X(op, f64) X(op, i64) X(op, u64)
#define RDI_FOR_TYPES(X, op) RDI_FOR_WORDS(X, op) RDI_FOR_PAIRS(X, op)
#define RDI_FOR_OPS(TYPES, X) TYPES(X, sum) TYPES(X, prod) TYPES(X, min) TYPES(X, max)
#define RDI_FOR_KERNELS(X) RDI_FOR_OPS(RDI_FOR_TYPES, X)

enum { RDI_AHEAD = 4 }; // chunks of an operand that a thread has under way

// ---- Words at any address ------------------------------------------------------------------------

// `bytes` bytes, 1 to 4 (8: two words), in units of `unit` bytes, which divides both; zeros behind.
RDI_DEVICE_FN uint32_t rdi_get_word(uint64_t at, uint32_t bytes, uint32_t unit) {
    uint32_t w = 0;
    if (unit == 4) {
        return rdi_load_u32(at);
    }
    RDI_NO_UNROLL for (uint32_t k = 0; k < bytes; k += unit) {
        w |= (unit == 2 ? (uint32_t)rdi_load_u16(at + k) : (uint32_t)rdi_load_u8(at + k)) << 8 * k;
    }
    return w;
}

RDI_DEVICE_FN void rdi_put_word(uint64_t at, uint32_t w, uint32_t bytes, uint32_t unit) {
    if (unit == 4) {
        rdi_store_u32(at, w);
        return;
    }
    RDI_NO_UNROLL for (uint32_t k = 0; k < bytes; k += unit, w >>= 8 * unit) {
        if (unit == 2) {
            rdi_store_u16(at + k, (uint16_t)w);
        } else {
            rdi_store_u8(at + k, (uint8_t)w);
        }
    }
}

RDI_DEVICE_FN uint64_t rdi_get_pair(uint64_t at, uint32_t unit) {
    return rdi_get_word(at, 4, unit) | (uint64_t)rdi_get_word(at + 4, 4, unit) << 32;
}

RDI_DEVICE_FN void rdi_put_pair(uint64_t at, uint64_t w, uint32_t unit) {
    rdi_put_word(at, (uint32_t)w, 4, unit);
    rdi_put_word(at + 4, (uint32_t)(w >> 32), 4, unit);
}

// The widest unit, at most 4, that divides all of this: the lowest bit.
RDI_DEVICE_FN uint32_t rdi_unit(uint32_t or_of_addresses, uint32_t bytes) {
    const uint32_t all = or_of_addresses | bytes | 4;
    return all & (0 - all);
}

// ---- Pieces --------------------------------------------------------------------------------------

// What a thread does of a piece. `b` 0: no second operand; `n` above 1: divide; `dst`, `out` 0: not wanted.
struct rdi_piece {
    uint64_t a, b, dst, out, bytes;
    uint32_t n, thread, threads;
};

RDI_DEVICE_FN struct rdi_piece rdi_piece_of(struct rdi_gpu_step s, uint32_t thread,
                                            uint32_t threads) {
    struct rdi_piece p;
    p.a = s.in ? s.in : s.local;
    p.b = s.in ? s.local : 0;
    p.dst = s.dst;
    p.out = s.out;
    p.bytes = p.a ? s.bytes : 0;
    p.n = s.flags & RDI_STEP_DIVIDE ? s.ranks : 1;
    p.thread = thread;
    p.threads = threads;
    return p;
}

// Runs STATEMENT for the chunks that a thread has under way: number u of them is chunk c of the piece.
#define RDI_EACH_CHUNK(STATEMENT)                         \
    RDI_UNROLL for (uint32_t u = 0; u < RDI_AHEAD; u++) { \
        const uint64_t c = i + u * step;                  \
        if (c < whole) {                                  \
            STATEMENT;                                    \
        }                                                 \
    }

// With one operand and no division these are bytes, whatever they mean.
#define RDI_PIECE(op, t)                                                                        \
    RDI_DEVICE_FN void rdi_piece_##op##_##t(struct rdi_piece p) {                               \
        const uint32_t or_of_addresses = (uint32_t)(p.a | p.b | p.dst | p.out);                 \
        const uint64_t whole = or_of_addresses % 16 == 0 ? p.bytes / 16 : 0;                    \
        const uint64_t step = p.threads;                                                        \
        uint64_t i = p.thread;                                                                  \
        RDI_NO_UNROLL for (; i < whole; i += RDI_AHEAD * step) {                                \
            struct rdi_v16 x[RDI_AHEAD], y[RDI_AHEAD];                                          \
            RDI_EACH_CHUNK(x[u] = rdi_load16(p.a + 16 * c))                                     \
            if (p.b) {                                                                          \
                RDI_EACH_CHUNK(y[u] = rdi_load16(p.b + 16 * c))                                 \
                RDI_EACH_CHUNK(x[u] = rdi_combine_##op##_##t(x[u], y[u]))                       \
            }                                                                                   \
            if (p.n > 1) {                                                                      \
                RDI_EACH_CHUNK(x[u] = rdi_divide_##t(x[u], p.n))                                \
            }                                                                                   \
            if (p.dst) {                                                                        \
                RDI_EACH_CHUNK(rdi_store16(p.dst + 16 * c, x[u]))                               \
            }                                                                                   \
            if (p.out) {                                                                        \
                RDI_EACH_CHUNK(rdi_store16(p.out + 16 * c, x[u]))                               \
            }                                                                                   \
        }                                                                                       \
        for (i = 16 * whole + p.thread * RDI_WORD_##t; i < p.bytes; i += step * RDI_WORD_##t) { \
            rdi_one_##op##_##t(p, i, or_of_addresses);                                          \
        }                                                                                       \
    }

// ---- Words of 4 and 8 bytes ----------------------------------------------------------------------

#define RDI_WORDS(op, t)                                                                      \
    RDI_DEVICE_FN struct rdi_v16 rdi_combine_##op##_##t(struct rdi_v16 x, struct rdi_v16 y) { \
        RDI_UNROLL for (int j = 0; j < 4; j++) { x.w[j] = rdi_##op##_##t(x.w[j], y.w[j]); }   \
        return x;                                                                             \
    }                                                                                         \
    RDI_DEVICE_FN void rdi_one_##op##_##t(struct rdi_piece p, uint64_t at, uint32_t align) {  \
        const uint32_t bytes = p.bytes - at < 4 ? (uint32_t)(p.bytes - at) : 4;               \
        const uint32_t unit = rdi_unit(align, bytes);                                         \
        uint32_t x = rdi_get_word(p.a + at, bytes, unit);                                     \
        if (p.b) {                                                                            \
            x = rdi_##op##_##t(x, rdi_get_word(p.b + at, bytes, unit));                       \
        }                                                                                     \
        x = p.n > 1 ? rdi_quotients_##t(x, p.n) : x;                                          \
        if (p.dst) {                                                                          \
            rdi_put_word(p.dst + at, x, bytes, unit);                                         \
        }                                                                                     \
        if (p.out) {                                                                          \
            rdi_put_word(p.out + at, x, bytes, unit);                                         \
        }                                                                                     \
    }
#define RDI_PAIRS(op, t)                                                                      \
    RDI_DEVICE_FN struct rdi_v16 rdi_combine_##op##_##t(struct rdi_v16 x, struct rdi_v16 y) { \
        RDI_UNROLL for (int j = 0; j < 4; j += 2) {                                           \
            rdi_set(&x, j, rdi_##op##_##t(rdi_pair(x, j), rdi_pair(y, j)));                   \
        }                                                                                     \
        return x;                                                                             \
    }                                                                                         \
    RDI_DEVICE_FN void rdi_one_##op##_##t(struct rdi_piece p, uint64_t at, uint32_t align) {  \
        const uint32_t unit = rdi_unit(align, 8);                                             \
        uint64_t x = rdi_get_pair(p.a + at, unit);                                            \
        if (p.b) {                                                                            \
            x = rdi_##op##_##t(x, rdi_get_pair(p.b + at, unit));                              \
        }                                                                                     \
        x = p.n > 1 ? rdi_quotients_##t(x, p.n) : x;                                          \
        if (p.dst) {                                                                          \
            rdi_put_pair(p.dst + at, x, unit);                                                \
        }                                                                                     \
        if (p.out) {                                                                          \
            rdi_put_pair(p.out + at, x, unit);                                                \
        }                                                                                     \
    }

RDI_DEVICE_FN uint64_t rdi_pair(struct rdi_v16 v, int j) {
    return v.w[j] | (uint64_t)v.w[j + 1] << 32;
}

RDI_DEVICE_FN void rdi_set(struct rdi_v16 *v, int j, uint64_t pair) {
    v->w[j] = (uint32_t)pair;
    v->w[j + 1] = (uint32_t)(pair >> 32);
}

// Divisions are rare, and long: called.
#define RDI_DIVIDE_WORDS(op, t)                                                           \
    RDI_DEVICE_CALL uint32_t rdi_quotients_##t(uint32_t x, uint32_t n) {                  \
        return rdi_div_##t(x, n);                                                         \
    }                                                                                     \
    RDI_DEVICE_FN struct rdi_v16 rdi_divide_##t(struct rdi_v16 x, uint32_t n) {           \
        RDI_UNROLL for (int j = 0; j < 4; j++) { x.w[j] = rdi_quotients_##t(x.w[j], n); } \
        return x;                                                                         \
    }
#define RDI_DIVIDE_PAIRS(op, t)                                                 \
    RDI_DEVICE_CALL uint64_t rdi_quotients_##t(uint64_t x, uint32_t n) {        \
        return rdi_div_##t(x, n);                                               \
    }                                                                           \
    RDI_DEVICE_FN struct rdi_v16 rdi_divide_##t(struct rdi_v16 x, uint32_t n) { \
        RDI_UNROLL for (int j = 0; j < 4; j += 2) {                             \
            rdi_set(&x, j, rdi_quotients_##t(rdi_pair(x, j), n));               \
        }                                                                       \
        return x;                                                               \
    }

#define RDI_WORD_f32 4
#define RDI_WORD_f16 4
#define RDI_WORD_bf16 4
#define RDI_WORD_i8 4
#define RDI_WORD_u8 4
#define RDI_WORD_i32 4
#define RDI_WORD_u32 4
#define RDI_WORD_f8e4m3 4
#define RDI_WORD_f8e5m2 4
#define RDI_WORD_f64 8
#define RDI_WORD_i64 8
#define RDI_WORD_u64 8

RDI_FOR_WORDS(RDI_DIVIDE_WORDS, div)
RDI_FOR_PAIRS(RDI_DIVIDE_PAIRS, div)
RDI_FOR_OPS(RDI_FOR_WORDS, RDI_WORDS)
RDI_FOR_OPS(RDI_FOR_PAIRS, RDI_PAIRS)
RDI_FOR_KERNELS(RDI_PIECE)

// ---- The walk ------------------------------------------------------------------------------------
//
//   one thread of each block                        the counter, with 3 blocks
//   before(k)  until all blocks did step k - 1      4 k
//              until the step's flags allow it
//   (all threads of the block: the piece)
//   after(k)   + 1                                  4 k + 1, 4 k + 2, 4 k + 3
//              the last block: done = k + 1, + 1    4 k + 4
//
// The last block's second step keeps *done from going back: nobody does step k + 1 before k + 1 is stored. A block
// that has met poison goes on counting, but neither waits for flags nor touches data.

struct rdi_walk {
    uint64_t done, arrive; // addresses
    uint32_t n, blocks;
};

RDI_DEVICE_FN void rdi_wait_counter(const struct rdi_walk *w, uint32_t k) {
    const uint32_t all = k * (w->blocks + 1);
    uint32_t ns = 32;
    while ((int32_t)(rdi_load_counter(w->arrive) - all) < 0) {
        rdi_pause(&ns);
    }
}

// False: poisoned.
RDI_DEVICE_FN bool rdi_wait_flag(uint64_t flag, uint32_t value) {
    uint32_t ns = 32;
    while (flag != 0) {
        const uint32_t now = rdi_load_flag(flag);
        if (now == RDI_STEP_POISON) {
            return false;
        }
        if ((int32_t)(now - value) >= 0) {
            return true;
        }
        rdi_pause(&ns);
    }
    return true;
}

// Returns whether the block does the step; `alive`: whether it did those before.
RDI_DEVICE_FN bool rdi_walk_before(const struct rdi_walk *w, uint32_t k, struct rdi_gpu_step s,
                                   bool alive) {
    if ((s.flags & RDI_STEP_EARLY) == 0) {
        rdi_wait_counter(w, k);
    }
    return alive && rdi_wait_flag(s.in_flag, s.in_value) && rdi_wait_flag(s.out_flag, s.out_value);
}

RDI_DEVICE_FN void rdi_walk_after(const struct rdi_walk *w, uint32_t k) {
    const uint32_t all = k * (w->blocks + 1);
    rdi_fence();
    rdi_wait_counter(w, k);
    if (rdi_add_counter(w->arrive, 1) + 1 != all + w->blocks) {
        return;
    }
    if (k + 1 == w->n) {
        rdi_clear_counter(w->arrive);
    }
    rdi_fence();
    rdi_store_flag(w->done, k + 1);
    if (k + 1 != w->n) {
        rdi_fence();
        (void)rdi_add_counter(w->arrive, 1);
    }
}

#endif
