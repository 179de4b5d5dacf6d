// SPDX-License-Identifier: MIT
// The bodies of the device's kernels (ring/cuda/body.h) as functions of the host, by type and op, and what they are
// held against: rdi_reduce2() and rdi_divide().
#ifndef RDI_GPU_PIECES_H
#define RDI_GPU_PIECES_H

#include <stdlib.h>

#include "ring/cuda/body.h"
#include "tests/unit/reduce_reference.h"

typedef void piece_fn(struct rdi_piece p);

#define PIECE_FUNCTION(op, t) \
    static void piece_##op##_##t(struct rdi_piece p) { rdi_piece_##op##_##t(p); }
RDI_FOR_KERNELS(PIECE_FUNCTION)

#define PIECE_ROW(op)                                                              \
    {                                                                              \
        [RONDO_F32] = piece_##op##_f32, [RONDO_F64] = piece_##op##_f64,            \
        [RONDO_F16] = piece_##op##_f16, [RONDO_BF16] = piece_##op##_bf16,          \
        [RONDO_I8] = piece_##op##_i8, [RONDO_U8] = piece_##op##_u8,                \
        [RONDO_I32] = piece_##op##_i32, [RONDO_U32] = piece_##op##_u32,            \
        [RONDO_I64] = piece_##op##_i64, [RONDO_U64] = piece_##op##_u64,            \
        [RONDO_F8E4M3] = piece_##op##_f8e4m3, [RONDO_F8E5M2] = piece_##op##_f8e5m2 \
    }

static piece_fn *const pieces[RONDO_MAX + 1][RONDO_TYPE_COUNT] = {
    [RONDO_SUM] = PIECE_ROW(sum),
    [RONDO_PROD] = PIECE_ROW(prod),
    [RONDO_MIN] = PIECE_ROW(min),
    [RONDO_MAX] = PIECE_ROW(max),
};

static inline uint64_t address_of(const void *p) { return (uint64_t)(uintptr_t)p; }

// The step as `threads` threads of a grid do it, in any order.
static inline void run_step(rondo_type type, rondo_op op, struct rdi_gpu_step s, uint32_t threads) {
    for (uint32_t t = threads; t-- > 0;) {
        pieces[op][type](rdi_piece_of(s, t, threads));
    }
}

// What the step has to give: count elements at `want`; `in` or `local` may be NULL.
static inline void expected_step(void *want, const void *in, const void *local, size_t count,
                                 rondo_type type, rondo_op op, uint32_t divisor) {
    if (in != NULL && local != NULL) {
        rdi_reduce2(want, in, local, count, type, op);
    } else {
        memcpy(want, in != NULL ? in : local, count * rdi_type_size(type));
    }
    rdi_divide(want, count, type, divisor);
}

// Any bits at all, and every fourth float of a size at which sums round; NaNs, infinities and denormals among them.
static inline void fill_bits(void *p, size_t count, rondo_type type, uint64_t seed) {
    for (size_t i = 0; i < count; i++) {
        const uint64_t r = next_random(&seed);
        uint64_t bits = r >> 8;
        if (is_float(type) && (r & 3) == 0) {
            bits = encode(type, ldexp((double)(r >> 40), -(int)(r >> 8 & 31)) * (r & 4 ? 1 : -1));
        } else if (is_float(type) && (r & 63) == 1) {
            const uint64_t special[] = {
                0, 1, inf_bits(type), inf_bits(type) - 1, inf_bits(type) + 1, nan_bits(type)};
            bits = special[(r >> 8) % 6] | (r & 64 ? sign_bit(type) : 0);
        }
        put(p, i, type, bits);
    }
}

#endif
