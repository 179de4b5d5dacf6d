// SPDX-License-Identifier: MIT
// The CPU as a device: the loops of gpt_math.c, and those that are built of them. Attention works
// sequence by sequence and head by head.
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "gpt_device.h"

// Of each model on it, the sums of what was computed last.
struct cpu {
    struct gpt_device device;
    double loss, squares, norm, scale;
};

static struct cpu *cpu_of(struct gpt_device *d) { return (struct cpu *)d; }

// ---- Memory -------------------------------------------------------------------------------------

static void cpu_close(struct gpt_device *d) {
    if (d != gpt_cpu()) {
        free(cpu_of(d));
    }
}

static float *cpu_allocate(struct gpt_device *d, size_t count) {
    (void)d;
    return aligned_alloc(64, ((count + 15) & ~(size_t)15) * sizeof(float)); // whole cache lines
}

static float *cpu_place(struct gpt_device *d, float *host, size_t count) {
    (void)d;
    (void)count;
    return host;
}

static void cpu_release(struct gpt_device *d, void *p) {
    (void)d;
    free(p);
}

static void cpu_zero(struct gpt_device *d, float *x, size_t count) {
    (void)d;
    memset(x, 0, count * sizeof *x);
}

static void cpu_copy(struct gpt_device *d, void *to, const void *from, size_t bytes) {
    (void)d;
    if (to != from) {
        memcpy(to, from, bytes);
    }
}

// ---- Loops that gpt_math.c has ------------------------------------------------------------------

static void cpu_linear(struct gpt_device *d, float *y, const float *x, const float *w, int n,
                       int in, int out) {
    (void)d;
    gpt_linear(y, x, w, n, in, out);
}

static void cpu_linear_dx(struct gpt_device *d, float *dx, const float *dy, const float *w, int n,
                          int in, int out) {
    (void)d;
    gpt_linear_dx(dx, dy, w, n, in, out);
}

static void cpu_linear_dw(struct gpt_device *d, float *dw, const float *dy, const float *x, int n,
                          int in, int out) {
    (void)d;
    gpt_linear_dw(dw, dy, x, n, in, out);
}

static void cpu_layernorm(struct gpt_device *d, float *y, float *mean, float *rstd, const float *x,
                          const float *gain, const float *bias, int n, int c) {
    (void)d;
    gpt_layernorm(y, mean, rstd, x, gain, bias, n, c);
}

static void cpu_layernorm_backward(struct gpt_device *d, float *dx, float *dgain, float *dbias,
                                   const float *dy, const float *x, const float *mean,
                                   const float *rstd, const float *gain, int n, int c) {
    (void)d;
    gpt_layernorm_backward(dx, dgain, dbias, dy, x, mean, rstd, gain, n, c);
}

static void cpu_gelu(struct gpt_device *d, float *y, const float *x, size_t count) {
    (void)d;
    gpt_gelu(y, x, count);
}

static void cpu_gelu_backward(struct gpt_device *d, float *dy, const float *x, size_t count) {
    (void)d;
    gpt_gelu_backward(dy, x, count);
}

static void cpu_add(struct gpt_device *d, float *x, const float *y, size_t count) {
    (void)d;
    gpt_add(x, y, count);
}

static void cpu_cross_entropy(struct gpt_device *d, float *logits, const uint8_t *target, int n,
                              int vocab, float scale) {
    cpu_of(d)->loss = gpt_cross_entropy(logits, target, n, vocab, scale);
}

// ---- Attention ----------------------------------------------------------------------------------

// Scaled dot products under a causal mask (Vaswani et al., "Attention Is All You Need", 2017).
static void cpu_attention(struct gpt_device *d, const struct gpt_heads *at, float *all_mix,
                          float *all_prob, const float *qkv) {
    const int c = at->dim, t = at->length, size = c / at->heads, row = 3 * c;
    const float scale = 1.0f / sqrtf((float)size);
    (void)d;
    for (int b = 0; b < at->batch; b++) {
        for (int h = 0; h < at->heads; h++) {
            const float *q = qkv + (size_t)b * (size_t)t * (size_t)row + (size_t)(h * size);
            const float *k = q + c, *v = k + c;
            float *prob = all_prob + (size_t)(b * at->heads + h) * (size_t)(t * t);
            float *mix = all_mix + (size_t)b * (size_t)t * (size_t)c + (size_t)(h * size);
            gpt_product(prob, t, false, q, row, true, k, row, t, t, size);
            gpt_causal_softmax(prob, t, scale);
            gpt_product(mix, c, false, prob, t, false, v, row, t, size, t);
        }
    }
}

static void cpu_attention_backward(struct gpt_device *d, const struct gpt_heads *at, float *dqkv,
                                   float *ds, const float *dmix, const float *all_prob,
                                   const float *qkv) {
    const int c = at->dim, t = at->length, size = c / at->heads, row = 3 * c;
    const float scale = 1.0f / sqrtf((float)size);
    (void)d;
    for (int b = 0; b < at->batch; b++) {
        for (int h = 0; h < at->heads; h++) {
            const size_t first = (size_t)b * (size_t)t * (size_t)row + (size_t)(h * size);
            const float *q = qkv + first, *k = q + c, *v = k + c;
            float *dq = dqkv + first, *dk = dq + c, *dv = dk + c;
            const float *prob = all_prob + (size_t)(b * at->heads + h) * (size_t)(t * t);
            const float *dm = dmix + (size_t)b * (size_t)t * (size_t)c + (size_t)(h * size);
            gpt_product(ds, t, false, dm, c, true, v, row, t, t, size);
            gpt_product(dv, row, true, prob, t, false, dm, c, t, size, t);
            gpt_causal_softmax_backward(ds, prob, t, scale);
            gpt_product(dq, row, false, ds, t, false, k, row, t, size, t);
            gpt_product(dk, row, true, ds, t, false, q, row, t, size, t);
        }
    }
}

// ---- Embedding ----------------------------------------------------------------------------------

static void cpu_embed(struct gpt_device *d, float *x, const float *token, const float *position,
                      const uint8_t *in, int n, int length, int dim) {
    const size_t c = (size_t)dim;
    (void)d;
    for (int i = 0; i < n; i++, x += c) {
        memcpy(x, token + in[i] * c, c * sizeof *x);
        gpt_add(x, position + (size_t)(i % length) * c, c);
    }
}

static void cpu_embed_backward(struct gpt_device *d, float *dtoken, float *dposition,
                               const float *dx, const uint8_t *in, int n, int length, int context,
                               int dim) {
    const size_t c = (size_t)dim;
    (void)d;
    memset(dposition, 0, (size_t)context * c * sizeof *dposition);
    for (int i = 0; i < n; i++, dx += c) {
        gpt_add(dposition + (size_t)(i % length) * c, dx, c);
        gpt_add(dtoken + in[i] * c, dx, c);
    }
}

// ---- Optimizer ----------------------------------------------------------------------------------

static void cpu_squares(struct gpt_device *d, const float *x, size_t count) {
    cpu_of(d)->squares += gpt_sum_of_squares(x, count);
}

static void cpu_clip(struct gpt_device *d, double limit) {
    struct cpu *cpu = cpu_of(d);
    cpu->norm = sqrt(cpu->squares);
    cpu->squares = 0.0;
    cpu->scale = limit > 0.0 && cpu->norm > limit ? limit / cpu->norm : 1.0;
}

static void cpu_adamw(struct gpt_device *d, float *param, float *m, float *v, const float *grad,
                      size_t count, const struct gpt_update *update) {
    struct gpt_update u = *update;
    u.scale = (float)cpu_of(d)->scale;
    gpt_adamw_update(param, m, v, grad, count, &u);
}

// ---- Results ------------------------------------------------------------------------------------

static bool cpu_loss(struct gpt_device *d, double *sum, struct gpt_error *e) {
    (void)e;
    *sum = cpu_of(d)->loss;
    return true;
}

static bool cpu_norm(struct gpt_device *d, double *norm, struct gpt_error *e) {
    (void)e;
    *norm = cpu_of(d)->norm;
    return true;
}

static bool cpu_wait(struct gpt_device *d, struct gpt_error *e) {
    (void)d;
    (void)e;
    return true;
}

struct gpt_device *gpt_cpu(void) {
    static const struct gpt_operations does = {
        .close = cpu_close,
        .allocate = cpu_allocate,
        .place = cpu_place,
        .release = cpu_release,
        .zero = cpu_zero,
        .upload = cpu_copy,
        .fetch = cpu_copy,
        .linear = cpu_linear,
        .linear_dx = cpu_linear_dx,
        .linear_dw = cpu_linear_dw,
        .layernorm = cpu_layernorm,
        .layernorm_backward = cpu_layernorm_backward,
        .gelu = cpu_gelu,
        .gelu_backward = cpu_gelu_backward,
        .add = cpu_add,
        .attention = cpu_attention,
        .attention_backward = cpu_attention_backward,
        .embed = cpu_embed,
        .embed_backward = cpu_embed_backward,
        .cross_entropy = cpu_cross_entropy,
        .squares = cpu_squares,
        .clip = cpu_clip,
        .adamw = cpu_adamw,
        .loss = cpu_loss,
        .norm = cpu_norm,
        .wait = cpu_wait,
    };
    static struct cpu cpu = {.device = {.does = &does, .ordinal = -1}, .scale = 1.0};
    return &cpu.device;
}

struct gpt_device *gpt_cpu_create(struct gpt_error *e) {
    struct cpu *cpu = malloc(sizeof *cpu);
    if (!cpu) {
        gpt_fail(e, "no memory for a device");
        return NULL;
    }
    *cpu = (struct cpu){.device = *gpt_cpu(), .scale = 1.0};
    return &cpu->device;
}
