// SPDX-License-Identifier: MIT
// The loops of the transformer. They are plain C, written so that the compiler vectorises them: no
// branches inside, no libm calls inside, reductions over sixteen partial sums (a compiler may not
// reorder float additions by itself, so the order has to be in the source).
#include "gpt_math.h"

#include <cblas.h>
#include <math.h>
#include <pthread.h>
#include <string.h>

#if defined(__GNUC__) && !defined(__clang__)
// -O2 does not vectorise loops of unknown length, and errno stands in the way of a vector sqrt.
#pragma GCC optimize("O3", "no-math-errno", "no-trapping-math")
#endif

// The program must run on every processor of its architecture and use the best units of this one:
// the compiler makes one copy for each and picks one when the program is loaded. The sanitizers'
// runtime is not up yet at that moment, so they get one copy.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && \
    !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define HOT __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define HOT
#endif

#define INLINE static inline __attribute__((always_inline))

enum { LANES = 16 };
typedef float lanes __attribute__((vector_size(LANES * sizeof(float)), aligned(4), may_alias));

// ---- Rows ---------------------------------------------------------------------------------------

INLINE float fold_sum(const lanes *v) {
    float s[LANES];
    memcpy(s, v, sizeof s);
    for (int width = LANES / 2; width > 0; width /= 2) {
        for (int i = 0; i < width; i++) {
            s[i] += s[i + width];
        }
    }
    return s[0];
}

INLINE float row_sum(const float *x, int n) {
    lanes acc = {0};
    int i = 0;
    for (; i + LANES <= n; i += LANES) {
        acc += *(const lanes *)(x + i);
    }
    float sum = fold_sum(&acc);
    for (; i < n; i++) {
        sum += x[i];
    }
    return sum;
}

INLINE float row_dot(const float *x, const float *y, int n) {
    lanes acc = {0};
    int i = 0;
    for (; i + LANES <= n; i += LANES) {
        acc += *(const lanes *)(x + i) * *(const lanes *)(y + i);
    }
    float sum = fold_sum(&acc);
    for (; i < n; i++) {
        sum += x[i] * y[i];
    }
    return sum;
}

INLINE float row_max(const float *x, int n) {
    float max[LANES];
    for (int j = 0; j < LANES; j++) {
        max[j] = x[0];
    }
    int i = 0;
    for (; i + LANES <= n; i += LANES) {
        for (int j = 0; j < LANES; j++) {
            max[j] = x[i + j] > max[j] ? x[i + j] : max[j];
        }
    }
    for (; i < n; i++) {
        max[0] = x[i] > max[0] ? x[i] : max[0];
    }
    for (int j = 1; j < LANES; j++) {
        max[0] = max[j] > max[0] ? max[j] : max[0];
    }
    return max[0];
}

// e^x = 2^n * e^r with |r| <= ln(2)/2 and the polynomial of Moshier's Cephes library (expf).
INLINE float exp_fast(float x) {
    x = x > -87.0f ? x : -87.0f; // this order also turns a NaN into a number
    x = x < 88.0f ? x : 88.0f;
    float n = (x * 1.44269504088896341f + 12582912.0f) -
              12582912.0f;                                 // rounds to the nearest integer
    float r = (x - n * 0.693359375f) + n * 2.12194440e-4f; // ln(2) in two parts
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    int32_t bits = ((int32_t)n + 127) << 23;
    float power;
    memcpy(&power, &bits, sizeof power);
    return p * power;
}

float gpt_exp(float x) { return exp_fast(x); }

// ---- Matrix products ----------------------------------------------------------------------------

// Weak: another library that offers cblas_sgemm() has no such functions.
extern void openblas_set_num_threads(int threads) __attribute__((weak));
extern int openblas_get_parallel(void) __attribute__((weak));

void gpt_blas_threads(int threads) {
    if (openblas_set_num_threads) {
        openblas_set_num_threads(threads);
    }
}

bool gpt_blas_shared(void) { return !openblas_get_parallel || openblas_get_parallel() != 0; }

static pthread_mutex_t one_at_a_time = PTHREAD_MUTEX_INITIALIZER;

void gpt_product(float *c, int ldc, bool ta, const float *a, int lda, bool tb, const float *b,
                 int ldb, int rows, int cols, int inner) {
    const bool alone = !gpt_blas_shared();
    if (alone) {
        pthread_mutex_lock(&one_at_a_time);
    }
    cblas_sgemm(CblasRowMajor, ta ? CblasTrans : CblasNoTrans, tb ? CblasTrans : CblasNoTrans, rows,
                cols, inner, 1.0f, a, lda, b, ldb, 0.0f, c, ldc);
    if (alone) {
        pthread_mutex_unlock(&one_at_a_time);
    }
}

void gpt_linear(float *y, const float *x, const float *w, int n, int in, int out) {
    gpt_product(y, out, false, x, in, true, w, in, n, out, in);
}

void gpt_linear_dx(float *dx, const float *dy, const float *w, int n, int in, int out) {
    gpt_product(dx, in, false, dy, out, false, w, in, n, in, out);
}

void gpt_linear_dw(float *dw, const float *dy, const float *x, int n, int in, int out) {
    gpt_product(dw, in, true, dy, out, false, x, in, out, in, n);
}

// ---- Layer norm ---------------------------------------------------------------------------------

HOT void gpt_layernorm(float *y, float *mean, float *rstd, const float *x, const float *gain,
                       const float *bias, int n, int c) {
    for (int i = 0; i < n; i++, x += c, y += c) {
        float m = row_sum(x, c) / (float)c;
        for (int j = 0; j < c; j++) {
            y[j] = x[j] - m;
        }
        float r = 1.0f / sqrtf(row_dot(y, y, c) / (float)c + 1e-5f);
        for (int j = 0; j < c; j++) {
            y[j] = y[j] * r * gain[j] + bias[j];
        }
        mean[i] = m;
        rstd[i] = r;
    }
}

// With h = (x - mean) * rstd and g = dy * gain:  dx = rstd * (g - mean(g) - h * mean(g * h)).
HOT void gpt_layernorm_backward(float *dx, float *dgain, float *dbias, const float *dy,
                                const float *x, const float *mean, const float *rstd,
                                const float *gain, int n, int c) {
    memset(dgain, 0, (size_t)c * sizeof *dgain);
    memset(dbias, 0, (size_t)c * sizeof *dbias);
    for (int i = 0; i < n; i++, x += c, dx += c, dy += c) {
        const float m = mean[i], r = rstd[i];
        float g_sum = row_dot(dy, gain, c);
        lanes acc = {0};
        int j = 0;
        for (; j + LANES <= c; j += LANES) {
            acc += *(const lanes *)(dy + j) * *(const lanes *)(gain + j) *
                   (*(const lanes *)(x + j) - m);
        }
        float gh_sum = fold_sum(&acc);
        for (; j < c; j++) {
            gh_sum += dy[j] * gain[j] * (x[j] - m);
        }
        const float g_mean = g_sum / (float)c, gh_mean = gh_sum * r / (float)c;
        for (j = 0; j < c; j++) {
            float h = (x[j] - m) * r;
            dgain[j] += dy[j] * h;
            dbias[j] += dy[j];
            dx[j] += r * (dy[j] * gain[j] - g_mean - h * gh_mean);
        }
    }
}

// ---- GELU ---------------------------------------------------------------------------------------

// gelu(x) = x/2 * (1 + tanh(u)), u = sqrt(2/pi) * (x + 0.044715 x^3). Since 1 + tanh(u) = 2 / (1 +
// e^-2u), no tanh is needed and nothing cancels.
static const float gelu_a = 2.0f * 0.79788456080286536f;
static const float gelu_b = 0.044715f;

HOT void gpt_gelu(float *y, const float *x, size_t count) {
    for (size_t i = 0; i < count; i++) {
        float v = x[i];
        y[i] = v / (1.0f + exp_fast(-gelu_a * (v + gelu_b * v * v * v)));
    }
}

HOT void gpt_gelu_backward(float *dy, const float *x, size_t count) {
    for (size_t i = 0; i < count; i++) {
        float v = x[i];
        float s = 1.0f / (1.0f + exp_fast(-gelu_a * (v + gelu_b * v * v * v)));
        float slope = gelu_a * (1.0f + 3.0f * gelu_b * v * v);
        dy[i] *= s + v * s * (1.0f - s) * slope;
    }
}

// ---- Softmax ------------------------------------------------------------------------------------

HOT void gpt_causal_softmax(float *s, int t, float scale) {
    for (int i = 0; i < t; i++, s += t) {
        const int n = i + 1;
        const float max = row_max(s, n);
        for (int j = 0; j < n; j++) {
            s[j] = exp_fast((s[j] - max) * scale);
        }
        const float inverse = 1.0f / row_sum(s, n);
        for (int j = 0; j < n; j++) {
            s[j] *= inverse;
        }
        memset(s + n, 0, (size_t)(t - n) * sizeof *s);
    }
}

// dscore_j = p_j * (dp_j - sum_k p_k dp_k). Columns behind the diagonal come out as 0 since p is 0
// there.
HOT void gpt_causal_softmax_backward(float *ds, const float *p, int t, float scale) {
    for (int i = 0; i < t; i++, ds += t, p += t) {
        const float mean = row_dot(ds, p, i + 1);
        for (int j = 0; j < t; j++) {
            ds[j] = p[j] * (ds[j] - mean) * scale;
        }
    }
}

HOT double gpt_cross_entropy(float *logits, const uint8_t *target, int n, int vocab, float scale) {
    double loss = 0.0;
    float p[256];
    for (int i = 0; i < n; i++, logits += vocab) {
        const float max = row_max(logits, vocab);
        for (int j = 0; j < vocab; j++) {
            p[j] = exp_fast(logits[j] - max);
        }
        const float sum = row_sum(p, vocab);
        loss += log((double)sum) - (double)(logits[target[i]] - max);
        if (scale != 0.0f) {
            const float factor = scale / sum;
            for (int j = 0; j < vocab; j++) {
                logits[j] = p[j] * factor;
            }
            logits[target[i]] -= scale;
        }
    }
    return loss;
}

// ---- Odds and ends ------------------------------------------------------------------------------

HOT double gpt_sum_of_squares(const float *x, size_t count) {
    double acc[8] = {0};
    size_t i = 0;
    for (; i + 8 <= count; i += 8) {
        for (int j = 0; j < 8; j++) {
            acc[j] += (double)x[i + (size_t)j] * (double)x[i + (size_t)j];
        }
    }
    for (; i < count; i++) {
        acc[0] += (double)x[i] * (double)x[i];
    }
    return ((acc[0] + acc[1]) + (acc[2] + acc[3])) + ((acc[4] + acc[5]) + (acc[6] + acc[7]));
}

HOT void gpt_add(float *x, const float *y, size_t count) {
    for (size_t i = 0; i < count; i++) {
        x[i] += y[i];
    }
}

HOT void gpt_adamw_update(float *param, float *m, float *v, const float *grad, size_t count,
                          const struct gpt_update *update) {
    const struct gpt_update u = *update; // a copy: the compiler knows that the stores miss it
    for (size_t i = 0; i < count; i++) {
        float g = grad[i] * u.scale;
        m[i] += (1.0f - u.beta1) * (g - m[i]);
        v[i] += (1.0f - u.beta2) * (g * g - v[i]);
        float direction = m[i] * u.unbias1 / (sqrtf(v[i] * u.unbias2) + u.epsilon);
        param[i] -= u.rate * (direction + u.decay * param[i]);
    }
}
