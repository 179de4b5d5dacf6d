// SPDX-License-Identifier: MIT
// The arithmetic of the kernels, on words of 4 bytes (8 for 64-bit types) that hold one to four elements, with the
// bits of ring/reduce.h in every case: NaNs are canonical, -0 < +0, integers wrap. For each <type>:
//
//   rdi_<op>_<type>(a, b)    op: sum, prod, min, max
//   rdi_div_<type>(a, n)     n > 1, as rdi_divide()
//
// Devices have instructions for what is spelled out for C. They round the exact result once, C twice (to f32, then
// to the type); f32 is so much wider that this gives the same bits (Figueroa, 1995: for sums and products p digits
// are enough for q when p >= 2q + 2). That holds for f16 and bf16 in f32, and for 8-bit floats in f16, where the
// range is enough, too: what overflows f16 is beyond the largest 8-bit float, what f16 rounds is below half of the
// smallest. tests/unit/test_gpu_kernels.c tries all pairs.
#ifndef RDI_CUDA_OPS_H
#define RDI_CUDA_OPS_H

#include "ring/cuda/port.h"
#include "ring/fp8.h"

#define RDI_OP(name, W, ...) \
    RDI_DEVICE_FN W name(W a, W b) { __VA_ARGS__ }

// ---- NaNs in all lanes of a word -----------------------------------------------------------------

// `last`: bits of the largest magnitude that is a number. The sum's top bit tells what is above.
RDI_DEVICE_FN uint32_t rdi_quiet_halves(uint32_t w, uint32_t last, uint32_t nan) {
    const uint32_t is_nan = ((w & 0x7fff7fffu) + (0x7fffu - last) * 0x00010001u) & 0x80008000u;
    const uint32_t lanes = is_nan | (is_nan - (is_nan >> 15));
    return (w & ~lanes) | (nan * 0x00010001u & lanes);
}

// Every NaN becomes 0x7f.
RDI_DEVICE_FN uint32_t rdi_quiet_eights(uint32_t w, uint32_t last) {
    const uint32_t is_nan = ((w & 0x7f7f7f7fu) + (0x7fu - last) * 0x01010101u) & 0x80808080u;
    return (w | (is_nan - (is_nan >> 7))) & ~is_nan;
}

// ---- f32, f64 ------------------------------------------------------------------------------------

RDI_DEVICE_FN uint64_t rdi_f64_bits(double f) {
    uint64_t u;
    memcpy(&u, &f, sizeof u);
    return u;
}

RDI_DEVICE_FN double rdi_f64_from_bits(uint64_t u) {
    double f;
    memcpy(&f, &u, sizeof f);
    return f;
}

// MIN and MAX on bits: sign and magnitude order like integers once the magnitudes of negative numbers are flipped.
#define RDI_WIDE_FLOAT(t, F, U, I, INF, NAN_BITS)                                                  \
    RDI_DEVICE_FN U rdi_quiet_##t(F f) { return f != f ? (NAN_BITS) : rdi_##t##_bits(f); }         \
    RDI_DEVICE_FN I rdi_key_##t(U a) {                                                             \
        const I s = (I)a;                                                                          \
        return s ^ (I)((U)(s >> (8 * sizeof s - 1)) >> 1);                                         \
    }                                                                                              \
    RDI_DEVICE_FN U rdi_choose_##t(U a, U b, U c) {                                                \
        const U most = ((U)-1) >> 1;                                                               \
        return (a & most) > (INF) || (b & most) > (INF) ? (NAN_BITS) : c;                          \
    }                                                                                              \
    RDI_OP(rdi_sum_##t, U, return rdi_quiet_##t(rdi_##t##_from_bits(a) + rdi_##t##_from_bits(b));) \
    RDI_OP(rdi_prod_##t, U,                                                                        \
           return rdi_quiet_##t(rdi_##t##_from_bits(a) * rdi_##t##_from_bits(b));)                 \
    RDI_OP(rdi_min_##t, U, return rdi_choose_##t(a, b, rdi_key_##t(a) < rdi_key_##t(b) ? a : b);)  \
    RDI_OP(rdi_max_##t, U, return rdi_choose_##t(a, b, rdi_key_##t(a) > rdi_key_##t(b) ? a : b);)  \
    RDI_DEVICE_FN U rdi_div_##t(U a, uint32_t n) {                                                 \
        return rdi_quiet_##t(rdi_##t##_from_bits(a) / (F)n);                                       \
    }

RDI_WIDE_FLOAT(f32, float, uint32_t, int32_t, 0x7f800000u, 0x7fc00000u)
RDI_WIDE_FLOAT(f64, double, uint64_t, int64_t, 0x7ff0000000000000u, 0x7ff8000000000000u)

// ---- Lanes of 16 and 8 bits ----------------------------------------------------------------------

// Two operations of one lane make that of a word.
#define RDI_HALVES(name, one)                               \
    RDI_OP(name, uint32_t,                                  \
           return (uint32_t)one((uint16_t)a, (uint16_t)b) | \
                  (uint32_t)one((uint16_t)(a >> 16), (uint16_t)(b >> 16)) << 16;)

#define RDI_EIGHTS(name, one)                                                   \
    RDI_OP(name, uint32_t,                                                      \
           return (uint32_t)one((uint8_t)a, (uint8_t)b) |                       \
                  (uint32_t)one((uint8_t)(a >> 8), (uint8_t)(b >> 8)) << 8 |    \
                  (uint32_t)one((uint8_t)(a >> 16), (uint8_t)(b >> 16)) << 16 | \
                  (uint32_t)one((uint8_t)(a >> 24), (uint8_t)(b >> 24)) << 24;)

#define RDI_HALVES_BY(name, one)                                                            \
    RDI_DEVICE_FN uint32_t name(uint32_t a, uint32_t n) {                                   \
        return (uint32_t)one((uint16_t)a, n) | (uint32_t)one((uint16_t)(a >> 16), n) << 16; \
    }

#define RDI_EIGHTS_BY(name, one)                                                         \
    RDI_DEVICE_FN uint32_t name(uint32_t a, uint32_t n) {                                \
        return (uint32_t)one((uint8_t)a, n) | (uint32_t)one((uint8_t)(a >> 8), n) << 8 | \
               (uint32_t)one((uint8_t)(a >> 16), n) << 16 |                              \
               (uint32_t)one((uint8_t)(a >> 24), n) << 24;                               \
    }

// Order of the lanes of a float type: MIN and MAX as above, lane by lane. LANES: RDI_HALVES or RDI_EIGHTS.
#define RDI_ORDER(t, U, I, LANES, LAST, NAN_BITS)                                                \
    RDI_DEVICE_FN I rdi_key_##t(U a) { return (I)(a ^ ((U)((I)a >> (8 * sizeof a - 1)) >> 1)); } \
    RDI_DEVICE_FN U rdi_choose_##t(U a, U b, U c) {                                              \
        const uint32_t most = ((U)-1) >> 1;                                                      \
        return (a & most) > (LAST) || (b & most) > (LAST) ? (U)(NAN_BITS) : c;                   \
    }                                                                                            \
    RDI_DEVICE_FN U rdi_least_##t(U a, U b) {                                                    \
        return rdi_choose_##t(a, b, rdi_key_##t(a) < rdi_key_##t(b) ? a : b);                    \
    }                                                                                            \
    RDI_DEVICE_FN U rdi_most_##t(U a, U b) {                                                     \
        return rdi_choose_##t(a, b, rdi_key_##t(a) > rdi_key_##t(b) ? a : b);                    \
    }                                                                                            \
    LANES(rdi_min_##t, rdi_least_##t)                                                            \
    LANES(rdi_max_##t, rdi_most_##t)

RDI_ORDER(f16, uint16_t, int16_t, RDI_HALVES, 0x7c00u, 0x7e00u)
RDI_ORDER(bf16, uint16_t, int16_t, RDI_HALVES, 0x7f80u, 0x7fc0u)
RDI_ORDER(f8e4m3, uint8_t, int8_t, RDI_EIGHTS, 0x7eu, 0x7fu)
RDI_ORDER(f8e5m2, uint8_t, int8_t, RDI_EIGHTS, 0x7cu, 0x7fu)

// ---- Sums and products of narrow floats ----------------------------------------------------------

RDI_DEVICE_FN float rdi_wide_f16(uint16_t h) {
#if defined(__CUDA_ARCH__)
    float f;
    asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(h));
    return f;
#else
    return rdi_f16_to_f32(h);
#endif
}

RDI_DEVICE_FN uint16_t rdi_round_f16(float f) {
    uint16_t h;
#if defined(__CUDA_ARCH__)
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(h) : "f"(f));
#else
    h = rdi_f32_to_f16(f);
#endif
    return f != f ? (uint16_t)0x7e00 : h;
}

RDI_DEVICE_FN float rdi_wide_bf16(uint16_t h) { return rdi_bf16_to_f32(h); }

RDI_DEVICE_FN uint16_t rdi_round_bf16(float f) {
    return f != f ? (uint16_t)0x7fc0 : rdi_f32_to_bf16(f);
}

#define RDI_NARROW_FLOAT(t, U)                                   \
    RDI_DEVICE_FN U rdi_add_##t(U a, U b) {                      \
        return rdi_round_##t(rdi_wide_##t(a) + rdi_wide_##t(b)); \
    }                                                            \
    RDI_DEVICE_FN U rdi_mul_##t(U a, U b) {                      \
        return rdi_round_##t(rdi_wide_##t(a) * rdi_wide_##t(b)); \
    }                                                            \
    RDI_DEVICE_FN U rdi_quotient_##t(U a, uint32_t n) {          \
        return rdi_round_##t(rdi_wide_##t(a) / (float)n);        \
    }

#define rdi_wide_f8e4m3 rdi_f8e4m3_to_f32
#define rdi_wide_f8e5m2 rdi_f8e5m2_to_f32
#define rdi_round_f8e4m3 rdi_f32_to_f8e4m3
#define rdi_round_f8e5m2 rdi_f32_to_f8e5m2
RDI_NARROW_FLOAT(f16, uint16_t)
RDI_NARROW_FLOAT(bf16, uint16_t)
RDI_NARROW_FLOAT(f8e4m3, uint8_t)
RDI_NARROW_FLOAT(f8e5m2, uint8_t)
RDI_HALVES_BY(rdi_div_f16, rdi_quotient_f16)
RDI_HALVES_BY(rdi_div_bf16, rdi_quotient_bf16)
RDI_EIGHTS_BY(rdi_div_f8e4m3, rdi_quotient_f8e4m3)
RDI_EIGHTS_BY(rdi_div_f8e5m2, rdi_quotient_f8e5m2)

#if defined(__CUDA_ARCH__)
#define RDI_PAIR(name, instruction, LAST, NAN_BITS)       \
    RDI_DEVICE_FN uint32_t name(uint32_t a, uint32_t b) { \
        uint32_t w;                                       \
        asm(instruction : "=r"(w) : "r"(a), "r"(b));      \
        return rdi_quiet_halves(w, LAST, NAN_BITS);       \
    }
RDI_PAIR(rdi_sum_f16, "add.rn.f16x2 %0, %1, %2;", 0x7c00u, 0x7e00u)
RDI_PAIR(rdi_prod_f16, "mul.rn.f16x2 %0, %1, %2;", 0x7c00u, 0x7e00u)
// a * 1 + b and a * b - 0: compute capability 8 has no other arithmetic of bf16.
RDI_PAIR(rdi_sum_bf16, "{.reg .b32 one; mov.b32 one, 0x3f803f80; fma.rn.bf16x2 %0, %1, one, %2;}",
         0x7f80u, 0x7fc0u)
RDI_PAIR(rdi_prod_bf16,
         "{.reg .b32 zero; mov.b32 zero, 0x80008000; fma.rn.bf16x2 %0, %1, %2, zero;}", 0x7f80u,
         0x7fc0u)
#else
RDI_HALVES(rdi_sum_f16, rdi_add_f16)
RDI_HALVES(rdi_prod_f16, rdi_mul_f16)
RDI_HALVES(rdi_sum_bf16, rdi_add_bf16)
RDI_HALVES(rdi_prod_bf16, rdi_mul_bf16)
#endif

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 890
// Two elements are the low half of a register, the others the high one; each pair is widened to f16.
#define RDI_QUAD(name, format, op, LAST)                                              \
    RDI_DEVICE_FN uint32_t name(uint32_t a, uint32_t b) {                             \
        uint32_t w;                                                                   \
        asm("{\n\t"                                                                   \
            ".reg .b16 al, ah, bl, bh;\n\t"                                           \
            ".reg .b32 xl, xh, yl, yh;\n\t"                                           \
            "mov.b32 {al, ah}, %1;\n\t"                                               \
            "mov.b32 {bl, bh}, %2;\n\t"                                               \
            "cvt.rn.f16x2." format "x2 xl, al;\n\t"                                   \
            "cvt.rn.f16x2." format "x2 xh, ah;\n\t"                                   \
            "cvt.rn.f16x2." format "x2 yl, bl;\n\t"                                   \
            "cvt.rn.f16x2." format "x2 yh, bh;\n\t" op ".rn.f16x2 xl, xl, yl;\n\t" op \
            ".rn.f16x2 xh, xh, yh;\n\t"                                               \
            "cvt.rn.satfinite." format "x2.f16x2 al, xl;\n\t"                         \
            "cvt.rn.satfinite." format "x2.f16x2 ah, xh;\n\t"                         \
            "mov.b32 %0, {al, ah};\n\t"                                               \
            "}"                                                                       \
            : "=r"(w)                                                                 \
            : "r"(a), "r"(b));                                                        \
        return rdi_quiet_eights(w, LAST);                                             \
    }
RDI_QUAD(rdi_sum_f8e4m3, "e4m3", "add", 0x7eu)
RDI_QUAD(rdi_prod_f8e4m3, "e4m3", "mul", 0x7eu)
RDI_QUAD(rdi_sum_f8e5m2, "e5m2", "add", 0x7cu)
RDI_QUAD(rdi_prod_f8e5m2, "e5m2", "mul", 0x7cu)
#else
RDI_EIGHTS(rdi_sum_f8e4m3, rdi_add_f8e4m3)
RDI_EIGHTS(rdi_prod_f8e4m3, rdi_mul_f8e4m3)
RDI_EIGHTS(rdi_sum_f8e5m2, rdi_add_f8e5m2)
RDI_EIGHTS(rdi_prod_f8e5m2, rdi_mul_f8e5m2)
#endif

// ---- Integers ------------------------------------------------------------------------------------

// Sums of four bytes in one: the top bits apart, so that nothing is carried into the next byte.
#define RDI_SUM_BYTES return ((a & 0x7f7f7f7fu) + (b & 0x7f7f7f7fu)) ^ ((a ^ b) & 0x80808080u);

#define RDI_BYTE(t, T)                                                                             \
    RDI_DEVICE_FN uint8_t rdi_mul_##t(uint8_t a, uint8_t b) { return (uint8_t)((uint32_t)a * b); } \
    RDI_DEVICE_FN uint8_t rdi_least_##t(uint8_t a, uint8_t b) { return (T)a < (T)b ? a : b; }      \
    RDI_DEVICE_FN uint8_t rdi_most_##t(uint8_t a, uint8_t b) { return (T)a > (T)b ? a : b; }       \
    RDI_DEVICE_FN uint8_t rdi_quotient_##t(uint8_t a, uint32_t n) {                                \
        return (uint8_t)(T)((float)(T)a / (float)n);                                               \
    }                                                                                              \
    RDI_OP(rdi_sum_##t, uint32_t, RDI_SUM_BYTES)                                                   \
    RDI_EIGHTS(rdi_prod_##t, rdi_mul_##t)                                                          \
    RDI_EIGHTS(rdi_min_##t, rdi_least_##t)                                                         \
    RDI_EIGHTS(rdi_max_##t, rdi_most_##t)                                                          \
    RDI_EIGHTS_BY(rdi_div_##t, rdi_quotient_##t)
RDI_BYTE(i8, int8_t)
RDI_BYTE(u8, uint8_t)

#define RDI_INTEGER(t, T, U)                            \
    RDI_OP(rdi_sum_##t, U, return a + b;)               \
    RDI_OP(rdi_prod_##t, U, return a * b;)              \
    RDI_OP(rdi_min_##t, U, return (T)a < (T)b ? a : b;) \
    RDI_OP(rdi_max_##t, U, return (T)a > (T)b ? a : b;) \
    RDI_DEVICE_FN U rdi_div_##t(U a, uint32_t n) {      \
        const U q = ((T)a < 0 ? 0 - a : a) / n;         \
        return (T)a < 0 ? 0 - q : q;                    \
    }
RDI_INTEGER(i32, int32_t, uint32_t)
RDI_INTEGER(i64, int64_t, uint64_t)
#define rdi_sum_u32 rdi_sum_i32
#define rdi_prod_u32 rdi_prod_i32
#define rdi_sum_u64 rdi_sum_i64
#define rdi_prod_u64 rdi_prod_i64
RDI_OP(rdi_min_u32, uint32_t, return a < b ? a : b;)
RDI_OP(rdi_max_u32, uint32_t, return a > b ? a : b;)
RDI_OP(rdi_min_u64, uint64_t, return a < b ? a : b;)
RDI_OP(rdi_max_u64, uint64_t, return a > b ? a : b;)
RDI_DEVICE_FN uint32_t rdi_div_u32(uint32_t a, uint32_t n) { return a / n; }
RDI_DEVICE_FN uint64_t rdi_div_u64(uint64_t a, uint32_t n) { return a / n; }

#endif
