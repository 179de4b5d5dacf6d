// SPDX-License-Identifier: MIT
// The loops of the transformer that are not matrix products, and a short spelling of those that
// are. Everything is row-major float; no function here allocates or fails.
#ifndef GPT_MATH_H
#define GPT_MATH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// Threads that the BLAS may use in this process. Without this call OpenBLAS takes all cores, and
// ranks that share a machine would fight for them. Does nothing where the BLAS is not OpenBLAS.
void gpt_blas_threads(int threads);

// Whether several threads may multiply at a time. An OpenBLAS that was built for one thread mixes up their memory.
bool gpt_blas_shared(void);

// c[rows][cols] = a b, or with ta, tb their transposes, of matrices whose rows are lda, ldb, ldc floats apart. Any
// thread; where the BLAS cannot, one at a time.
void gpt_product(float *c, int ldc, bool ta, const float *a, int lda, bool tb, const float *b,
                 int ldb, int rows, int cols, int inner);

// y[n][out] = x[n][in] * w[out][in]^T, the product of a linear layer.
void gpt_linear(float *y, const float *x, const float *w, int n, int in, int out);

// Its backward: dx[n][in] = dy * w, and dw[out][in] = dy^T * x (both are overwritten).
void gpt_linear_dx(float *dx, const float *dy, const float *w, int n, int in, int out);
void gpt_linear_dw(float *dw, const float *dy, const float *x, int n, int in, int out);

// Layer norm over the rows of x[n][c] (Ba, Kiros and Hinton, "Layer Normalization", 2016).
// mean[n] and rstd[n] are kept for the backward.
void gpt_layernorm(float *y, float *mean, float *rstd, const float *x, const float *gain,
                   const float *bias, int n, int c);

// Adds the gradient to dx; overwrites dgain[c] and dbias[c].
void gpt_layernorm_backward(float *dx, float *dgain, float *dbias, const float *dy, const float *x,
                            const float *mean, const float *rstd, const float *gain, int n, int c);

// GELU, tanh form (Hendrycks and Gimpel, "Gaussian Error Linear Units", 2016). The backward turns
// dy into dx in place.
void gpt_gelu(float *y, const float *x, size_t count);
void gpt_gelu_backward(float *dy, const float *x, size_t count);

// Causal softmax of s[t][t] in place: row i keeps columns 0 .. i, the others become 0. Scores are
// multiplied by `scale` first.
void gpt_causal_softmax(float *s, int t, float scale);

// Turns ds = gradient of the probabilities p into the gradient of the unscaled scores, in place.
void gpt_causal_softmax_backward(float *ds, const float *p, int t, float scale);

// Sum over rows of -log softmax(logits[n][vocab])[target]. Turns logits into the gradient of that
// sum times `scale`; scale 0 leaves the logits as they are.
double gpt_cross_entropy(float *logits, const uint8_t *target, int n, int vocab, float scale);

// Sum of squares, in double: the order of the additions does not show in the result.
double gpt_sum_of_squares(const float *x, size_t count);

// x += y, element by element.
void gpt_add(float *x, const float *y, size_t count);

// The inner loop of AdamW (gpt_adamw.h) over one tensor.
struct gpt_update {
    float rate;  // learning rate
    float scale; // of the gradient, for clipping
    float decay;
    float beta1, beta2;
    float unbias1, unbias2; // 1 / (1 - beta^t)
    float epsilon;
};
void gpt_adamw_update(float *param, float *m, float *v, const float *grad, size_t count,
                      const struct gpt_update *u);

// The exponential function that the above use, here for its test: relative error below 2.5e-7 for
// -87 <= x <= 88, clamped outside.
float gpt_exp(float x);

#endif
