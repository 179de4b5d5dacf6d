// SPDX-License-Identifier: MIT
// The vectorised loops against plain double arithmetic, at lengths with and without a rest.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "gpt_math.h"
#include "gpt_model.h"

#include <cmocka.h>

enum { MOST = 70 };

// Uniform in [-scale, scale), different for every call.
static uint64_t drawn;
static float value(double scale) {
    return (float)(scale * ((double)(gpt_random(7, drawn++) >> 11) * 0x1p-52 - 1.0));
}

static void fill(float *x, size_t n, double scale) {
    for (size_t i = 0; i < n; i++) {
        x[i] = value(scale);
    }
}

// Also keeps the largest difference, to be printed.
static double worst;
static void assert_near(double a, double b, double tolerance) {
    const double difference = fabs(a - b);
    worst = fmax(worst, difference);
    if (!(difference <= tolerance)) {
        fail_msg("%.9g and %.9g differ by %.3g, more than %.3g", a, b, difference, tolerance);
    }
}

static void test_exp(void **state) {
    (void)state;
    double error = 0.0;
    for (double x = -87.0; x <= 88.0; x += 0.001) {
        const double want = exp((double)(float)x);
        error = fmax(error, fabs((double)gpt_exp((float)x) - want) / want);
    }
    print_message("exp: relative error %.3g\n", error);
    assert_true(error < 2.5e-7);
    assert_true(gpt_exp(-1000.0f) > 0.0f && gpt_exp(-1000.0f) < 2e-38f);
    assert_true(isfinite(gpt_exp(1000.0f)));
}

static double gelu(double x) {
    return 0.5 * x * (1.0 + tanh(sqrt(2.0 / 3.14159265358979324) * (x + 0.044715 * x * x * x)));
}

static void test_gelu(void **state) {
    (void)state;
    enum { N = 2001 };
    static float x[N], y[N], d[N];
    for (int i = 0; i < N; i++) {
        x[i] = (float)(i - N / 2) * 0.01f;
        d[i] = 1.0f;
    }
    gpt_gelu(y, x, N);
    gpt_gelu_backward(d, x, N);
    worst = 0.0;
    for (int i = 0; i < N; i++) {
        const double v = (double)x[i], h = 1e-5;
        assert_near((double)y[i], gelu(v), 2e-6);
        assert_near((double)d[i], (gelu(v + h) - gelu(v - h)) / (2.0 * h), 2e-6);
    }
    print_message("gelu and its slope, |x| <= 10: absolute error %.3g\n", worst);
}

static void test_layernorm(void **state) {
    (void)state;
    for (int c = 1; c <= MOST; c++) {
        float x[3 * MOST], y[3 * MOST], gain[MOST], bias[MOST], mean[3], rstd[3];
        fill(x, (size_t)(3 * c), 2.0);
        fill(gain, (size_t)c, 1.0);
        fill(bias, (size_t)c, 1.0);
        gpt_layernorm(y, mean, rstd, x, gain, bias, 3, c);
        for (int row = 0; row < 3; row++) {
            double m = 0.0, v = 0.0;
            for (int i = 0; i < c; i++) {
                m += (double)x[row * c + i] / c;
            }
            for (int i = 0; i < c; i++) {
                v += pow((double)x[row * c + i] - m, 2.0) / c;
            }
            for (int i = 0; i < c; i++) {
                const double h = ((double)x[row * c + i] - m) / sqrt(v + 1e-5);
                assert_near((double)y[row * c + i], h * (double)gain[i] + (double)bias[i], 1e-4);
            }
        }
    }
}

static void test_causal_softmax(void **state) {
    (void)state;
    for (int t = 1; t <= MOST; t++) {
        static float s[MOST * MOST], p[MOST * MOST];
        fill(s, (size_t)(t * t), 5.0);
        memcpy(p, s, sizeof p);
        gpt_causal_softmax(p, t, 0.7f);
        for (int i = 0; i < t; i++) {
            double sum = 0.0;
            for (int j = 0; j <= i; j++) {
                sum += exp((double)s[i * t + j] * 0.7);
            }
            for (int j = 0; j < t; j++) {
                const double want = j <= i ? exp((double)s[i * t + j] * 0.7) / sum : 0.0;
                assert_near((double)p[i * t + j], want, 1e-6);
            }
        }
    }
}

static void test_cross_entropy(void **state) {
    (void)state;
    enum { ROWS = 5 };
    static float x[ROWS * GPT_VOCAB], d[ROWS * GPT_VOCAB];
    const uint8_t target[ROWS] = {0, 1, 100, 254, 255};
    fill(x, ROWS * GPT_VOCAB, 10.0);
    memcpy(d, x, sizeof d);
    const double loss = gpt_cross_entropy(d, target, ROWS, GPT_VOCAB, 0.0f);
    assert_memory_equal(d, x, sizeof d);
    assert_true(gpt_cross_entropy(d, target, ROWS, GPT_VOCAB, 0.5f) == loss);
    double want = 0.0;
    for (int i = 0; i < ROWS; i++) {
        double sum = 0.0;
        for (int j = 0; j < GPT_VOCAB; j++) {
            sum += exp((double)x[i * GPT_VOCAB + j]);
        }
        want += log(sum) - (double)x[i * GPT_VOCAB + target[i]];
        for (int j = 0; j < GPT_VOCAB; j++) {
            const double p = exp((double)x[i * GPT_VOCAB + j]) / sum - (j == target[i]);
            assert_near((double)d[i * GPT_VOCAB + j], 0.5 * p, 1e-6);
        }
    }
    assert_near(loss, want, 1e-5);
}

static void test_sums(void **state) {
    (void)state;
    for (size_t n = 0; n <= MOST; n++) {
        float x[MOST] = {0}, y[MOST] = {0};
        double squares = 0.0;
        fill(x, n, 3.0);
        fill(y, n, 3.0);
        for (size_t i = 0; i < n; i++) {
            squares += (double)x[i] * (double)x[i];
        }
        assert_near(gpt_sum_of_squares(x, n), squares, 1e-12 * (squares + 1.0));
        float sum[MOST];
        memcpy(sum, x, sizeof sum);
        gpt_add(sum, y, n);
        for (size_t i = 0; i < n; i++) {
            assert_true(sum[i] == x[i] + y[i]);
        }
    }
}

// One tensor for three steps against Algorithm 2 of Loshchilov and Hutter, in double.
static void test_adamw(void **state) {
    (void)state;
    float p[MOST], m[MOST] = {0}, v[MOST] = {0};
    double want[MOST], wm[MOST] = {0}, wv[MOST] = {0};
    fill(p, MOST, 1.0);
    for (int i = 0; i < MOST; i++) {
        want[i] = (double)p[i];
    }
    for (int t = 1; t <= 3; t++) {
        float g[MOST];
        fill(g, MOST, 1.0);
        const struct gpt_update u = {.rate = 0.01f,
                                     .scale = 0.5f,
                                     .decay = 0.1f,
                                     .beta1 = 0.9f,
                                     .beta2 = 0.99f,
                                     .unbias1 = (float)(1.0 / (1.0 - pow(0.9, t))),
                                     .unbias2 = (float)(1.0 / (1.0 - pow(0.99, t))),
                                     .epsilon = 1e-8f};
        gpt_adamw_update(p, m, v, g, MOST, &u);
        for (int i = 0; i < MOST; i++) {
            const double grad = 0.5 * (double)g[i];
            wm[i] = 0.9 * wm[i] + 0.1 * grad;
            wv[i] = 0.99 * wv[i] + 0.01 * grad * grad;
            const double mh = wm[i] / (1.0 - pow(0.9, t)), vh = wv[i] / (1.0 - pow(0.99, t));
            want[i] -= 0.01 * (mh / (sqrt(vh) + 1e-8) + 0.1 * want[i]);
            assert_near((double)p[i], want[i], 1e-6);
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_exp),           cmocka_unit_test(test_gelu),
        cmocka_unit_test(test_layernorm),     cmocka_unit_test(test_causal_softmax),
        cmocka_unit_test(test_cross_entropy), cmocka_unit_test(test_sums),
        cmocka_unit_test(test_adamw),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
