// SPDX-License-Identifier: MIT
// Every reduce loop, written once. A ring/reduce_<isa>.c defines what follows and includes this file, which
// then defines the table KERNELS:
//
//   KERNELS, KERNELS_NAME      the table's symbol, the instruction set's name
//   KERNEL_ATTR                attributes that every function needs (target)
//   LANES                      halves in one step, two vectors of floats
//   vf                         struct of these two vectors, x and y, which take + * /
//   load_f16, load_bf16        vf from LANES halves at an unaligned address, in any order
//   store_f16, store_bf16      the same back, rounded to nearest even, every NaN made canonical
//
// Loops over whole types are plain C that the compiler vectorises under KERNEL_ATTR (O3 is asked for, so that
// a library built with O2 has them too), also those of the 8-bit floats, whose conversions have no branches.
// It does not do that well for f16 and bf16, hence the vectors.
#include <stdint.h>
#include <string.h>

#include "ring/fp8.h"
#include "ring/reduce_kernels.h"

#if defined(__clang__)
// Clang warns where it heeds INDEPENDENT but does not vectorise, as in a build with sanitizers.
#pragma clang diagnostic ignored "-Wpass-failed"
#define KERNEL_FN static KERNEL_ATTR
#define INDEPENDENT _Pragma("clang loop vectorize(assume_safety)")
#else
#define KERNEL_FN static KERNEL_ATTR __attribute__((optimize("O3")))
#define INDEPENDENT _Pragma("GCC ivdep")
#endif
#define KERNEL_INLINE KERNEL_FN inline __attribute__((always_inline))

// Elements at any address, inside buffers of any declared type.
#define ANYWHERE(T) typedef T T##_any __attribute__((aligned(1), may_alias))
ANYWHERE(float);
ANYWHERE(double);
ANYWHERE(int8_t);
ANYWHERE(uint8_t);
ANYWHERE(uint16_t);
ANYWHERE(int32_t);
ANYWHERE(uint32_t);
ANYWHERE(int64_t);
ANYWHERE(uint64_t);

// ---- Plain loops ---------------------------------------------------------------------------------

// d[i] of type D from x = a[i] of type A and y = b[i] of type B. dst equals a source or is apart from it, so no
// iteration touches what another one does: INDEPENDENT says so.
#define LOOP(name, D, A, B, EXPR)                                              \
    KERNEL_FN void name(void *dst, const void *va, const void *vb, size_t n) { \
        D##_any *d = dst;                                                      \
        const A##_any *a = va;                                                 \
        const B##_any *b = vb;                                                 \
        INDEPENDENT for (size_t i = 0; i < n; i++) {                           \
            const A x = a[i];                                                  \
            const B y = b[i];                                                  \
            d[i] = (D)(EXPR);                                                  \
        }                                                                      \
    }
#define LOOP2(name, D, T, EXPR) LOOP(name, D, T, T, EXPR)

// The same from one source and s = (S)scale.
#define LOOP1(name, D, T, S, EXPR)                                            \
    KERNEL_FN void name(void *dst, const void *src, size_t n, double scale) { \
        D##_any *d = dst;                                                     \
        const T##_any *a = src;                                               \
        const S s = (S)scale;                                                 \
        INDEPENDENT for (size_t i = 0; i < n; i++) {                          \
            const T x = a[i];                                                 \
            d[i] = (D)(EXPR);                                                 \
        }                                                                     \
    }

// Integers: arithmetic in the unsigned W, which wraps; order in the type itself. Signed and unsigned sums and
// products have the same bits.
#define INTEGERS(b, W)                                       \
    LOOP2(sum_u##b, uint##b##_t, uint##b##_t, (W)x + (W)y)   \
    LOOP2(prod_u##b, uint##b##_t, uint##b##_t, ((W)x) * y)   \
    LOOP2(min_u##b, uint##b##_t, uint##b##_t, x < y ? x : y) \
    LOOP2(max_u##b, uint##b##_t, uint##b##_t, x > y ? x : y) \
    LOOP2(min_i##b, int##b##_t, int##b##_t, x < y ? x : y)   \
    LOOP2(max_i##b, int##b##_t, int##b##_t, x > y ? x : y)

INTEGERS(8, uint32_t)
INTEGERS(32, uint32_t)
INTEGERS(64, uint64_t)

// A floating quotient truncates as the integer one does: where it is no integer it is at least 1/n away from
// one, which is far more than the rounding.
LOOP1(div_i8, int8_t, int8_t, float, (float)x / s)
LOOP1(div_u8, uint8_t, uint8_t, float, (float)x / s)
LOOP1(div_i32, int32_t, int32_t, double, (double)x / s)
LOOP1(div_u32, uint32_t, uint32_t, double, (double)x / s)

// MIN and MAX of halves, on their bits. They order like integers once the magnitude bits of negative numbers
// are flipped, and then -0 lies below +0.
KERNEL_INLINE int16_t order_key(uint16_t h) { return (int16_t)(h ^ ((int16_t)h >> 15 & 0x7fff)); }

#define IS_NAN(h, INF) ((int16_t)((h)&0x7fff) > (INF))
#define ORDER_HALVES(t, INF, NAN_BITS)                             \
    KERNEL_INLINE uint16_t least_##t(uint16_t x, uint16_t y) {     \
        const uint16_t h = order_key(x) < order_key(y) ? x : y;    \
        return (IS_NAN(x, INF) | IS_NAN(y, INF)) ? (NAN_BITS) : h; \
    }                                                              \
    KERNEL_INLINE uint16_t most_##t(uint16_t x, uint16_t y) {      \
        const uint16_t h = order_key(x) > order_key(y) ? x : y;    \
        return (IS_NAN(x, INF) | IS_NAN(y, INF)) ? (NAN_BITS) : h; \
    }                                                              \
    LOOP2(min_##t, uint16_t, uint16_t, least_##t(x, y))            \
    LOOP2(max_##t, uint16_t, uint16_t, most_##t(x, y))

ORDER_HALVES(f16, 0x7c00, 0x7e00)
ORDER_HALVES(bf16, 0x7f80, 0x7fc0)

// f8e4m3 and f8e5m2: MIN and MAX as those of halves; the rest in f32, which is also the running result of a
// fold. LAST: bits of the largest magnitude that is a number; NaNs are 0x7f.
#define EIGHTS(t, LAST)                                                                          \
    KERNEL_INLINE uint8_t least_##t(uint8_t x, uint8_t y) {                                      \
        const int8_t kx = (int8_t)(x ^ ((int8_t)x >> 7 & 0x7f));                                 \
        const int8_t ky = (int8_t)(y ^ ((int8_t)y >> 7 & 0x7f));                                 \
        const uint8_t b = kx < ky ? x : y;                                                       \
        return (((int8_t)(x & 0x7f) > (LAST)) | ((int8_t)(y & 0x7f) > (LAST))) ? 0x7f : b;       \
    }                                                                                            \
    KERNEL_INLINE uint8_t most_##t(uint8_t x, uint8_t y) {                                       \
        const int8_t kx = (int8_t)(x ^ ((int8_t)x >> 7 & 0x7f));                                 \
        const int8_t ky = (int8_t)(y ^ ((int8_t)y >> 7 & 0x7f));                                 \
        const uint8_t b = kx > ky ? x : y;                                                       \
        return (((int8_t)(x & 0x7f) > (LAST)) | ((int8_t)(y & 0x7f) > (LAST))) ? 0x7f : b;       \
    }                                                                                            \
    LOOP2(min_##t, uint8_t, uint8_t, least_##t(x, y))                                            \
    LOOP2(max_##t, uint8_t, uint8_t, most_##t(x, y))                                             \
    LOOP2(sum_##t, uint8_t, uint8_t, rdi_f32_to_##t(rdi_##t##_to_f32(x) + rdi_##t##_to_f32(y)))  \
    LOOP2(prod_##t, uint8_t, uint8_t, rdi_f32_to_##t(rdi_##t##_to_f32(x) * rdi_##t##_to_f32(y))) \
    LOOP2(sum_first_##t, float, uint8_t, rdi_##t##_to_f32(x) + rdi_##t##_to_f32(y))              \
    LOOP2(prod_first_##t, float, uint8_t, rdi_##t##_to_f32(x) * rdi_##t##_to_f32(y))             \
    LOOP(sum_next_##t, float, float, uint8_t, x + rdi_##t##_to_f32(y))                           \
    LOOP(prod_next_##t, float, float, uint8_t, x *rdi_##t##_to_f32(y))                           \
    LOOP(sum_last_##t, uint8_t, float, uint8_t, rdi_f32_to_##t(x + rdi_##t##_to_f32(y)))         \
    LOOP(prod_last_##t, uint8_t, float, uint8_t, rdi_f32_to_##t(x *rdi_##t##_to_f32(y)))         \
    LOOP1(div_##t, uint8_t, uint8_t, float, rdi_f32_to_##t(rdi_##t##_to_f32(x) / s))             \
    LOOP1(scale_##t, uint8_t, uint8_t, float, rdi_f32_to_##t(rdi_##t##_to_f32(x) * s))

EIGHTS(f8e4m3, 0x7e)
EIGHTS(f8e5m2, 0x7c)

// f32 and f64. NaNs are chosen among integers: among floats a compiler may take one NaN for another. Two
// selects that differ in their answer to x == y meet in MIN and MAX: they differ for zeros of unlike sign only,
// where the two signs together give the sign wanted.
#define FLOATS(t, F, U, NAN_BITS)                                                          \
    KERNEL_INLINE U raw_##t(F f) {                                                         \
        U u;                                                                               \
        memcpy(&u, &f, sizeof u);                                                          \
        return u;                                                                          \
    }                                                                                      \
    KERNEL_INLINE U bits_##t(F f) { return __builtin_isnan(f) ? (NAN_BITS) : raw_##t(f); } \
    KERNEL_INLINE U least_##t(F x, F y) {                                                  \
        const U u = raw_##t(x < y ? x : y) | raw_##t(y < x ? y : x);                       \
        return __builtin_isunordered(x, y) ? (NAN_BITS) : u;                               \
    }                                                                                      \
    KERNEL_INLINE U most_##t(F x, F y) {                                                   \
        const U u = raw_##t(x > y ? x : y) & raw_##t(y > x ? y : x);                       \
        return __builtin_isunordered(x, y) ? (NAN_BITS) : u;                               \
    }                                                                                      \
    LOOP2(sum_##t, U, F, bits_##t(x + y))                                                  \
    LOOP2(prod_##t, U, F, bits_##t((x)*y))                                                 \
    LOOP2(min_##t, U, F, least_##t(x, y))                                                  \
    LOOP2(max_##t, U, F, most_##t(x, y))                                                   \
    LOOP1(div_##t, U, F, F, bits_##t(x / s))                                               \
    LOOP1(scale_##t, U, F, F, bits_##t((x)*s))

FLOATS(f32, float, uint32_t, 0x7fc00000)
FLOATS(f64, double, uint64_t, 0x7ff8000000000000)

// ---- f16 and bf16: loops over vectors ------------------------------------------------------------

KERNEL_INLINE vf load_f32(const void *p) {
    vf v;
    memcpy(&v.x, p, sizeof v.x);
    memcpy(&v.y, (const char *)p + sizeof v.x, sizeof v.y);
    return v;
}

KERNEL_INLINE void store_f32(void *p, vf v) {
    memcpy(p, &v.x, sizeof v.x);
    memcpy((char *)p + sizeof v.x, &v.y, sizeof v.y);
}

// D, A, B: types of dst, a and b as in load_<type>, and their sizes; f32 is the running result of a fold, in
// the order that load_<type> left and with room for whole vectors. The last n % LANES halves go through
// vectors on the stack, so that nothing outside the arrays is read or written.
#define VLOOP2(name, D, DSIZE, A, ASIZE, B, BSIZE, OP)                                   \
    KERNEL_INLINE void name##_step(void *d, const void *a, const void *b) {              \
        const vf s = load_##A(a), t = load_##B(b);                                       \
        store_##D(d, (vf){s.x OP t.x, s.y OP t.y});                                      \
    }                                                                                    \
    KERNEL_FN void name(void *dst, const void *va, const void *vb, size_t n) {           \
        unsigned char *d = dst;                                                          \
        const unsigned char *a = va, *b = vb;                                            \
        for (; n >= LANES; n -= LANES) {                                                 \
            name##_step(d, a, b);                                                        \
            d += LANES * DSIZE;                                                          \
            a += LANES * ASIZE;                                                          \
            b += LANES * BSIZE;                                                          \
        }                                                                                \
        if (n != 0) {                                                                    \
            unsigned char ta[LANES * 2] = {0}, tb[LANES * 2] = {0}, td[LANES * 2];       \
            memcpy(tb, b, n * 2);                                                        \
            name##_step(DSIZE == 2 ? td : d, ASIZE == 2 ? memcpy(ta, a, n * 2) : a, tb); \
            if (DSIZE == 2) {                                                            \
                memcpy(d, td, n * 2);                                                    \
            }                                                                            \
        }                                                                                \
    }

#define VLOOP1(name, T, OP)                                                   \
    KERNEL_INLINE void name##_step(void *d, const void *a, float s) {         \
        const vf t = load_##T(a);                                             \
        store_##T(d, (vf){t.x OP s, t.y OP s});                               \
    }                                                                         \
    KERNEL_FN void name(void *dst, const void *src, size_t n, double scale) { \
        unsigned char *d = dst;                                               \
        const unsigned char *a = src;                                         \
        const float s = (float)scale;                                         \
        for (; n >= LANES; n -= LANES, d += LANES * 2, a += LANES * 2) {      \
            name##_step(d, a, s);                                             \
        }                                                                     \
        if (n != 0) {                                                         \
            unsigned char t[LANES * 2] = {0};                                 \
            memcpy(t, a, n * 2);                                              \
            name##_step(t, t, s);                                             \
            memcpy(d, t, n * 2);                                              \
        }                                                                     \
    }

#define HALVES(t)                                  \
    VLOOP2(sum_##t, t, 2, t, 2, t, 2, +)           \
    VLOOP2(prod_##t, t, 2, t, 2, t, 2, *)          \
    VLOOP2(sum_first_##t, f32, 4, t, 2, t, 2, +)   \
    VLOOP2(prod_first_##t, f32, 4, t, 2, t, 2, *)  \
    VLOOP2(sum_next_##t, f32, 4, f32, 4, t, 2, +)  \
    VLOOP2(prod_next_##t, f32, 4, f32, 4, t, 2, *) \
    VLOOP2(sum_last_##t, t, 2, f32, 4, t, 2, +)    \
    VLOOP2(prod_last_##t, t, 2, f32, 4, t, 2, *)   \
    VLOOP1(div_##t, t, /)                          \
    VLOOP1(scale_##t, t, *)

HALVES(f16)
HALVES(bf16)

// ---- The table -----------------------------------------------------------------------------------

#define FLOAT_ROW(t) \
    { sum_##t, prod_##t, min_##t, max_##t }
#define SIGNED_ROW(b) \
    { sum_u##b, prod_u##b, min_i##b, max_i##b }
#define UNSIGNED_ROW(b) \
    { sum_u##b, prod_u##b, min_u##b, max_u##b }
#define FOLD_ROW(t)                                      \
    {                                                    \
        {sum_first_##t, sum_next_##t, sum_last_##t}, {   \
            prod_first_##t, prod_next_##t, prod_last_##t \
        }                                                \
    }

const struct rdi_kernels KERNELS = {
    .name = KERNELS_NAME,
    .reduce =
        {
            [RONDO_F32] = FLOAT_ROW(f32),
            [RONDO_F64] = FLOAT_ROW(f64),
            [RONDO_F16] = FLOAT_ROW(f16),
            [RONDO_BF16] = FLOAT_ROW(bf16),
            [RONDO_I8] = SIGNED_ROW(8),
            [RONDO_U8] = UNSIGNED_ROW(8),
            [RONDO_I32] = SIGNED_ROW(32),
            [RONDO_U32] = UNSIGNED_ROW(32),
            [RONDO_I64] = SIGNED_ROW(64),
            [RONDO_U64] = UNSIGNED_ROW(64),
            [RONDO_F8E4M3] = FLOAT_ROW(f8e4m3),
            [RONDO_F8E5M2] = FLOAT_ROW(f8e5m2),
        },
    .fold = {FOLD_ROW(f16), FOLD_ROW(bf16), FOLD_ROW(f8e4m3), FOLD_ROW(f8e5m2)},
    .divide =
        {
            [RONDO_F32] = div_f32,
            [RONDO_F64] = div_f64,
            [RONDO_F16] = div_f16,
            [RONDO_BF16] = div_bf16,
            [RONDO_I8] = div_i8,
            [RONDO_U8] = div_u8,
            [RONDO_I32] = div_i32,
            [RONDO_U32] = div_u32,
            [RONDO_F8E4M3] = div_f8e4m3,
            [RONDO_F8E5M2] = div_f8e5m2,
        },
    .scale =
        {
            [RONDO_F32] = scale_f32,
            [RONDO_F64] = scale_f64,
            [RONDO_F16] = scale_f16,
            [RONDO_BF16] = scale_bf16,
            [RONDO_F8E4M3] = scale_f8e4m3,
            [RONDO_F8E5M2] = scale_f8e5m2,
        },
};
