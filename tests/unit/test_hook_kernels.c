// SPDX-License-Identifier: MIT
// The loops of communication hooks: conversion to halves against ring/half.h, products against plain ones, and the same
// bits from every instruction set.
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "ddp/hook/convert.h"
#include "ddp/hook/matrix.h"
#include "ring/half.h"
#include "ring/reduce.h"
#include "tests/unit/reduce_reference.h"

static const char *const sets[] = {"c", "avx2", "avx512", "neon"};
enum { SETS = sizeof sets / sizeof sets[0], COUNT = 70001 };

// Any bits, so also NaNs, infinities and denormals; but most of them near the range of f16.
static float any_float(uint64_t *seed) {
    const uint32_t bits = (uint32_t)next_random(seed);
    const bool any = next_random(seed) % 4 == 0;
    return rdi_f32_from_bits(
        any ? bits : (bits & 0x87ffffffu) + 0x30000000u + (bits & 0x0fu) * 0x1000000u);
}

static uint16_t half_of(rondo_type type, float f) {
    if (type == RONDO_BF16) {
        return rdi_f32_to_bf16(f);
    }
    const uint16_t h = rdi_f32_to_f16(f);
    return (h & 0x7fff) == 0x7c00 && isfinite(f) ? (uint16_t)(h - 1) : h;
}

static void test_to_half(void **state) {
    (void)state;
    float *x = malloc(COUNT * sizeof *x), *back = malloc(COUNT * sizeof *back);
    uint16_t *h = malloc(COUNT * sizeof *h);
    uint64_t seed = 5;
    for (size_t i = 0; i < COUNT; i++) {
        x[i] = any_float(&seed);
    }
    for (size_t s = 0; s < SETS; s++) {
        for (rondo_type type = RONDO_F16; type <= RONDO_BF16 && rdi_reduce_select(sets[s]);
             type++) {
            rdi_to_half(type, h, RONDO_F32, x, COUNT, NULL, NULL);
            rdi_from_half(type, h, RONDO_F32, back, COUNT);
            for (size_t i = 0; i < COUNT; i++) {
                const uint16_t want = half_of(type, x[i]);
                assert_int_equal(h[i], want);
                const float f = type == RONDO_F16 ? rdi_f16_to_f32(want) : rdi_bf16_to_f32(want);
                assert_int_equal(rdi_f32_bits(back[i]), rdi_f32_bits(f));
            }
        }
    }
    rdi_reduce_select(NULL);
    free(x);
    free(back);
    free(h);
}

// From f64 in one rounding: just beside the middle of two halves, where a rounding to f32 on the way would meet it.
static void test_once(void **state) {
    (void)state;
    for (rondo_type type = RONDO_F16; type <= RONDO_BF16; type++) {
        const double ulp = type == RONDO_F16 ? 0x1p-10 : 0x1p-7;
        const double x[] = {1 + ulp / 2 + 0x1p-40,
                            1 + ulp / 2,
                            1 + 3 * ulp / 2 - 0x1p-40,
                            1 + 3 * ulp / 2,
                            -1 - ulp / 2 - 0x1p-40,
                            1e300,
                            (double)NAN,
                            -(double)INFINITY,
                            0x1p-300};
        enum { N = sizeof x / sizeof x[0] };
        uint16_t h[N];
        double back[N];
        rdi_to_half(type, h, RONDO_F64, x, N, NULL, NULL);
        rdi_from_half(type, h, RONDO_F64, back, N);
        const double most = type == RONDO_F16 ? 65504 : (double)INFINITY;
        const double want[] = {1 + ulp, 1, 1 + ulp, 1 + 2 * ulp, -1 - ulp, most};
        for (size_t i = 0; i < 6; i++) {
            assert_true(back[i] >= want[i] && back[i] <= want[i]);
        }
        assert_true(isnan(back[6]) && isinf(back[7]) && back[7] < 0 && fabs(back[8]) <= 0);
    }
}

static void test_account(void **state) {
    (void)state;
    float x[1003];
    uint16_t h[1003];
    double error = 1, norm = 2, want_error = 1, want_norm = 2;
    for (size_t i = 0; i < 1003; i++) {
        x[i] = sinf((float)i);
        const double d = (double)x[i] - (double)rdi_bf16_to_f32(rdi_f32_to_bf16(x[i]));
        want_error += d * d;
        want_norm += (double)x[i] * (double)x[i];
    }
    rdi_to_half(RONDO_BF16, h, RONDO_F32, x, 1003, &error, &norm);
    assert_true(fabs(error - want_error) < 1e-12 && fabs(norm - want_norm) < 1e-9);
    assert_true(fabs(rdi_sum_squares(RONDO_F32, x, 1003) + 2 - want_norm) < 1e-9);
    assert_true(fabs(rdi_sum_squares(RONDO_BF16, h, 1003) + 2 - want_norm) < 5);
}

// ---- Products ------------------------------------------------------------------------------------

static double at(bool f64, const void *v, size_t i) {
    return f64 ? ((const double *)v)[i] : (double)((const float *)v)[i];
}

static void random_values(bool f64, void *v, size_t n, uint64_t *seed) {
    for (size_t i = 0; i < n; i++) {
        const double x = (double)(int32_t)(next_random(seed) >> 32) * 0x1p-31;
        if (f64) {
            ((double *)v)[i] = x;
        } else {
            ((float *)v)[i] = (float)x;
        }
    }
}

static void check_products(bool f64, size_t rows, size_t cols, unsigned rank, uint64_t *digest) {
    const struct rdi_matrix_ops *ops = rdi_matrix_ops(f64);
    const size_t size = f64 ? 8 : 4, n = rows * cols;
    const double tolerance = (f64 ? 1e-15 : 1e-6) * (double)(rows + cols + rank);
    uint64_t seed = 9 + rows;
    void *m = malloc(n * size), *e = malloc(n * size), *left = malloc(n * size);
    void *p = malloc(rows * rank * size), *q = malloc(cols * rank * size);
    double *before = malloc(n * sizeof *before), norm = 0;
    random_values(f64, m, n, &seed);
    random_values(f64, e, n, &seed);
    random_values(f64, q, cols * rank, &seed);
    for (size_t i = 0; i < n; i++) {
        norm += at(f64, m, i) * at(f64, m, i);
        before[i] = at(f64, m, i) + at(f64, e, i);
    }
    assert_true(fabs(ops->project(m, e, rows, cols, q, rank, p) - norm) <= 1e-12 * norm);
    for (size_t i = 0; i < rows; i++) {
        for (unsigned k = 0; k < rank; k++) {
            double sum = 0;
            for (size_t j = 0; j < cols; j++) {
                sum += before[i * cols + j] * at(f64, q, k * cols + j);
            }
            assert_true(fabs(at(f64, p, k * rows + i) - sum) < tolerance);
        }
    }
    ops->transposed(m, rows, cols, p, rank, q);
    for (size_t j = 0; j < cols; j++) {
        for (unsigned k = 0; k < rank; k++) {
            double sum = 0, size_of = 1;
            for (size_t i = 0; i < rows; i++) {
                const double term = at(f64, m, i * cols + j) * at(f64, p, k * rows + i);
                sum += term;
                size_of += fabs(term);
            }
            assert_true(fabs(at(f64, q, k * cols + j) - sum) < tolerance * size_of);
        }
    }
    const double error = ops->residual(left, m, rows, cols, p, q, rank);
    assert_true(fabs(ops->residual(NULL, m, rows, cols, p, q, rank) - error) <= 0);
    double want = 0;
    for (size_t i = 0; i < n; i++) {
        want += at(f64, left, i) * at(f64, left, i);
    }
    assert_true(fabs(want - error) <= 1e-9 * want);
    ops->expand(e, rows, cols, p, q, rank);
    for (size_t i = 0; i < n; i++) {
        double sum = 0, size_of = 1;
        for (unsigned k = 0; k < rank; k++) {
            const double term = at(f64, p, k * rows + i / cols) * at(f64, q, k * cols + i % cols);
            sum += term;
            size_of += fabs(term);
        }
        assert_true(fabs(at(f64, e, i) - sum) < tolerance * size_of);
        assert_true(fabs(at(f64, m, i) - sum - at(f64, left, i)) < tolerance * size_of);
    }
    for (size_t i = 0; i < n * size; i++) {
        *digest = *digest * 31 + ((const unsigned char *)e)[i] + ((const unsigned char *)left)[i];
    }
    free(m);
    free(e);
    free(left);
    free(p);
    free(q);
    free(before);
}

static void test_products(void **state) {
    (void)state;
    static const size_t sizes[][3] = {{1, 1, 1},   {3, 5, 2},    {4, 8, 4},   {7, 1030, 3},
                                      {65, 33, 5}, {130, 40, 9}, {6, 2051, 6}};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        for (int f64 = 0; f64 < 2; f64++) {
            uint64_t first = 0;
            for (size_t s = 0; s < SETS; s++) {
                uint64_t digest = 1;
                if (rdi_reduce_select(sets[s])) {
                    check_products(f64, sizes[i][0], sizes[i][1], (unsigned)sizes[i][2], &digest);
                    assert_true(first == 0 || digest == first);
                    first = digest;
                }
            }
        }
    }
    rdi_reduce_select(NULL);
}

static double dot(bool f64, const void *x, size_t n, size_t a, size_t b) {
    double sum = 0;
    for (size_t i = 0; i < n; i++) {
        sum += at(f64, x, a * n + i) * at(f64, x, b * n + i);
    }
    return sum;
}

static void test_orthonormalise(void **state) {
    (void)state;
    enum { N = 203, RANK = 6 };
    for (int f64 = 0; f64 < 2; f64++) {
        const struct rdi_matrix_ops *ops = rdi_matrix_ops(f64);
        const double tolerance = f64 ? 1e-14 : 1e-6;
        double x[N * RANK];
        uint64_t seed = 4;
        random_values(f64, x, N * RANK, &seed);
        // Column 2 nearly column 0, far smaller; column 3 zeros; column 4 twice column 1.
        const size_t size = f64 ? 8 : 4;
        char *bytes = (char *)x;
        memcpy(bytes + 2 * N * size, bytes, N * size);
        memset(bytes + 3 * N * size, 0, N * size);
        if (f64) {
            x[2 * N] += 1e-9;
        } else {
            ((float *)(void *)x)[2 * N] += 1e-4f;
        }
        memcpy(bytes + 4 * N * size, bytes + N * size, N * size);
        assert_true(ops->orthonormalise(x, N, RANK));
        for (size_t a = 0; a < RANK; a++) {
            for (size_t b = 0; b < a; b++) {
                assert_true(fabs(dot(f64, x, N, a, b)) < tolerance);
            }
            const double length = dot(f64, x, N, a, a);
            assert_true(fabs(length - 1) < tolerance || (length <= 0 && (a == 3 || a == 4)));
        }
        assert_true(dot(f64, x, N, 3, 3) <= 0);
        if (f64) {
            x[7] = (double)NAN;
        } else {
            ((float *)(void *)x)[7] = INFINITY;
        }
        assert_false(ops->orthonormalise(x, N, RANK));
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_to_half),        cmocka_unit_test(test_once),
        cmocka_unit_test(test_account),        cmocka_unit_test(test_products),
        cmocka_unit_test(test_orthonormalise),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
