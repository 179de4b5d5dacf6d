// SPDX-License-Identifier: MIT
// Block by block through f32, with the blocks in the first-level cache.
#include "ddp/hook/convert.h"

#include <stdbool.h>
#include <string.h>

#include "ring/half.h"
#include "ring/reduce.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

enum { BLOCK = 512, LANES = 8 };

// The loops below are to be vectorised also in a library that is built with O2.
#if defined(__clang__)
#define LOOPS
#else
#define LOOPS __attribute__((optimize("O3")))
#endif

// ---- One block -----------------------------------------------------------------------------------

// To f32, rounded to odd: a second rounding, to fewer bits, is then as if there had been but one.
LOOPS static void narrow(float *to, const double *from, size_t n) {
    for (size_t i = 0; i < n; i++) {
        const float f = (float)from[i];
        const double back = (double)f, size = __builtin_fabs(from[i]);
        uint32_t bits = rdi_f32_bits(f);
        // One step towards zero where rounding went away from it; infinity by rounding becomes the largest.
        const uint32_t away = __builtin_fabs(back) > size;
        const uint32_t inexact = back != from[i] && from[i] == from[i];
        bits = (bits - away) | inexact;
        to[i] = rdi_f32_from_bits(bits);
    }
}

// Finite values beyond 65504 become it.
LOOPS static void saturate(float *x, size_t n) {
    for (size_t i = 0; i < n; i++) {
        const uint32_t bits = rdi_f32_bits(x[i]), magnitude = bits & 0x7fffffffu;
        const bool beyond = magnitude > 0x477fe000u && magnitude < 0x7f800000u;
        x[i] = rdi_f32_from_bits(beyond ? (bits & 0x80000000u) | 0x477fe000u : bits);
    }
}

static void f16_from(uint16_t *half, const float *x, size_t n) {
    for (size_t i = 0; i < n; i++) {
        half[i] = rdi_f32_to_f16(x[i]);
    }
}

static void f16_to(float *x, const uint16_t *half, size_t n) {
    for (size_t i = 0; i < n; i++) {
        x[i] = rdi_f16_to_f32(half[i]);
    }
}

#if defined(__x86_64__)
__attribute__((target("avx2,f16c"))) static void f16_from_fast(uint16_t *half, const float *x,
                                                               size_t n) {
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        const __m128i h = _mm256_cvtps_ph(_mm256_loadu_ps(x + i), _MM_FROUND_TO_NEAREST_INT);
        _mm_storeu_si128((__m128i *)(void *)(half + i), h);
    }
    _mm256_zeroupper(); // not done by the compiler before a tail call; SSE code after it would be slow
    f16_from(half + i, x + i, n - i);
}

__attribute__((target("avx2,f16c"))) static void f16_to_fast(float *x, const uint16_t *half,
                                                             size_t n) {
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        const __m128i h = _mm_loadu_si128((const __m128i *)(const void *)(half + i));
        _mm256_storeu_ps(x + i, _mm256_cvtph_ps(h));
    }
    _mm256_zeroupper();
    f16_to(x + i, half + i, n - i);
}

// The reductions' choice, which a test may have made.
static bool fast(void) { return strcmp(rdi_reduce_isa(), "c") != 0; }
#else
#define f16_from_fast f16_from
#define f16_to_fast f16_to
static bool fast(void) { return false; }
#endif

LOOPS static void bf16_from(uint16_t *half, const float *x, size_t n) {
    for (size_t i = 0; i < n; i++) {
        half[i] = rdi_f32_to_bf16(x[i]);
    }
}

LOOPS static void bf16_to(float *x, const uint16_t *half, size_t n) {
    for (size_t i = 0; i < n; i++) {
        x[i] = rdi_bf16_to_f32(half[i]);
    }
}

static void block_to_half(rondo_type type, uint16_t *half, float *x, size_t n) {
    if (type == RONDO_BF16) {
        bf16_from(half, x, n);
        return;
    }
    saturate(x, n);
    (fast() ? f16_from_fast : f16_from)(half, x, n);
}

static void block_from_half(rondo_type type, float *x, const uint16_t *half, size_t n) {
    if (type == RONDO_BF16) {
        bf16_to(x, half, n);
    } else {
        (fast() ? f16_to_fast : f16_to)(x, half, n);
    }
}

// ---- Sums of squares -----------------------------------------------------------------------------

// Squares of x - y, and of x; y may be NULL. In lanes, so that the compiler need not keep the order of additions.
#define SQUARES(name, T)                                                                        \
    LOOPS static void name(const T *x, const float *y, size_t n, double *error, double *norm) { \
        double e[LANES] = {0}, s[LANES] = {0};                                                  \
        size_t i = 0;                                                                           \
        for (; i + LANES <= n; i += LANES) {                                                    \
            for (size_t l = 0; l < LANES; l++) {                                                \
                const double v = (double)x[i + l], d = y ? v - (double)y[i + l] : 0.0;          \
                s[l] += v * v;                                                                  \
                e[l] += d * d;                                                                  \
            }                                                                                   \
        }                                                                                       \
        for (; i < n; i++) {                                                                    \
            const double v = (double)x[i], d = y ? v - (double)y[i] : 0.0;                      \
            s[0] += v * v;                                                                      \
            e[0] += d * d;                                                                      \
        }                                                                                       \
        for (size_t l = 0; l < LANES; l++) {                                                    \
            *norm += s[l];                                                                      \
            *error += e[l];                                                                     \
        }                                                                                       \
    }
SQUARES(squares_f32, float)
SQUARES(squares_f64, double)

double rdi_sum_squares(rondo_type type, const void *x, size_t count) {
    double error = 0, norm = 0;
    if (type == RONDO_F64) {
        squares_f64(x, NULL, count, &error, &norm);
    } else if (type == RONDO_F32) {
        squares_f32(x, NULL, count, &error, &norm);
    } else {
        float block[BLOCK];
        for (size_t i = 0; i < count; i += BLOCK) {
            const size_t n = count - i < BLOCK ? count - i : BLOCK;
            block_from_half(type, block, (const uint16_t *)x + i, n);
            squares_f32(block, NULL, n, &error, &norm);
        }
    }
    return norm;
}

// ---- Whole arrays --------------------------------------------------------------------------------

void rdi_to_half(rondo_type type, void *half, rondo_type from_type, const void *from, size_t count,
                 double *error, double *norm) {
    uint16_t *h = half;
    float x[BLOCK];
    double e = 0, s = 0;
    for (size_t i = 0; i < count; i += BLOCK) {
        const size_t n = count - i < BLOCK ? count - i : BLOCK;
        if (from_type == RONDO_F64) {
            narrow(x, (const double *)from + i, n);
        } else {
            memcpy(x, (const float *)from + i, n * sizeof *x);
        }
        block_to_half(type, h + i, x, n);
        if (error || norm) {
            block_from_half(type, x, h + i, n);
            if (from_type == RONDO_F64) {
                squares_f64((const double *)from + i, x, n, &e, &s);
            } else {
                squares_f32((const float *)from + i, x, n, &e, &s);
            }
        }
    }
    if (error) {
        *error += e;
    }
    if (norm) {
        *norm += s;
    }
}

void rdi_from_half(rondo_type type, const void *half, rondo_type to_type, void *to, size_t count) {
    const uint16_t *h = half;
    if (to_type == RONDO_F32) {
        block_from_half(type, to, h, count);
        return;
    }
    float x[BLOCK];
    for (size_t i = 0; i < count; i += BLOCK) {
        const size_t n = count - i < BLOCK ? count - i : BLOCK;
        block_from_half(type, x, h + i, n);
        for (size_t k = 0; k < n; k++) {
            ((double *)to)[i + k] = (double)x[k];
        }
    }
}
