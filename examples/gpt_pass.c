// SPDX-License-Identifier: MIT
// Forward and backward of the model. The rows of all sequences of the batch go through the linear
// layers at once (n = batch * length rows), because one large matrix product is much faster than
// many small ones; only attention works sequence by sequence and head by head.
//
// Backward walks the model from its end to its beginning and tells of every gradient as soon as it
// is complete, so that its reduction over the ranks can run while earlier layers are still
// computed. The token embedding comes last of all: it is used at both ends of the model.
#include "gpt_math.h"
#include "gpt_model.h"

#include <cblas.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

// What one layer leaves for its backward; n rows each.
struct layer_state {
    float *x;                             // input                                [n][dim]
    float *norm1, *norm2;                 // outputs of the norms                 [n][dim]
    float *mean1, *rstd1, *mean2, *rstd2; //                      [n]
    float *qkv;                           // queries, keys, values side by side   [n][3 dim]
    float *prob;     // attention                            [batch][heads][length][length]
    float *mix;      // probabilities times values           [n][dim]
    float *mid;      // x after attention                    [n][dim]
    float *up, *act; // before and after GELU                [n][4 dim]
};

struct gpt_activations {
    int max_batch;
    int batch, length; // of the last forward
    const uint8_t *in;
    struct layer_state *layer;
    float *x; // after the last layer                 [n][dim]
    float *norm, *mean, *rstd;
    float *logits;  //                                      [n][GPT_VOCAB]
    float *dx, *dy; // gradients on the way back            [n][dim]
    float *wide;    // gradient of qkv or of the MLP's inside [n][4 dim]
    float *scores;  // gradient of one head's scores        [length][length]
    float *memory;  // all of the above
};

// ---- Memory -------------------------------------------------------------------------------------

// Hands out `count` floats of a block, or only counts them while there is no block yet.
static float *take(float *base, size_t *used, size_t count) {
    float *p = base ? base + *used : NULL;
    *used += (count + 15) & ~(size_t)15; // whole cache lines
    return p;
}

// Called twice: without a block to learn its size, then with it.
static size_t lay_out(const struct gpt_model *m, struct gpt_activations *a, float *base) {
    const size_t c = (size_t)m->shape.dim, t = (size_t)m->shape.context, b = (size_t)a->max_batch;
    const size_t n = b * t;
    size_t used = 0;
    for (int i = 0; i < m->shape.layers; i++) {
        struct layer_state *s = &a->layer[i];
        s->x = take(base, &used, n * c);
        s->norm1 = take(base, &used, n * c);
        s->norm2 = take(base, &used, n * c);
        s->mean1 = take(base, &used, n);
        s->rstd1 = take(base, &used, n);
        s->mean2 = take(base, &used, n);
        s->rstd2 = take(base, &used, n);
        s->qkv = take(base, &used, n * 3 * c);
        s->prob = take(base, &used, n * t * (size_t)m->shape.heads);
        s->mix = take(base, &used, n * c);
        s->mid = take(base, &used, n * c);
        s->up = take(base, &used, n * 4 * c);
        s->act = take(base, &used, n * 4 * c);
    }
    a->x = take(base, &used, n * c);
    a->norm = take(base, &used, n * c);
    a->mean = take(base, &used, n);
    a->rstd = take(base, &used, n);
    a->logits = take(base, &used, n * GPT_VOCAB);
    a->dx = take(base, &used, n * c);
    a->dy = take(base, &used, n * c);
    a->wide = take(base, &used, n * 4 * c);
    a->scores = take(base, &used, t * t);
    return used;
}

struct gpt_activations *gpt_activations_create(const struct gpt_model *m, int max_batch,
                                               struct gpt_error *e) {
    struct gpt_activations *a = calloc(1, sizeof *a);
    if (!a || !(a->layer = calloc((size_t)m->shape.layers, sizeof *a->layer))) {
        gpt_activations_free(a);
        gpt_fail(e, "no memory for %d layers", m->shape.layers);
        return NULL;
    }
    a->max_batch = max_batch;
    const size_t count = lay_out(m, a, NULL);
    a->memory = aligned_alloc(64, count * sizeof(float));
    if (!a->memory) {
        gpt_activations_free(a);
        gpt_fail(
            e,
            "no memory for the activations of %d sequences (%zu MiB): lower --batch, --context or "
            "--layers",
            max_batch, count * sizeof(float) >> 20);
        return NULL;
    }
    lay_out(m, a, a->memory);
    return a;
}

void gpt_activations_free(struct gpt_activations *a) {
    if (a) {
        free(a->memory);
        free(a->layer);
        free(a);
    }
}

// ---- Helpers ------------------------------------------------------------------------------------

static const float *layer_tensor(const struct gpt_model *m, int layer, enum gpt_layer_tensor i) {
    return m->tensor[GPT_FIRST_LAYER + (size_t)layer * GPT_PER_LAYER + (size_t)i].data;
}

static float *where(const struct gpt_gradients *g, size_t i) { return g->where(g->arg, i); }

static void ready(const struct gpt_gradients *g, size_t i) { g->ready(g->arg, i); }

// c[rows][cols] = a * b with the leading dimensions that the layout of q, k and v asks for.
static void product(float *c, int ldc, CBLAS_TRANSPOSE ta, const float *a, int lda,
                    CBLAS_TRANSPOSE tb, const float *b, int ldb, int rows, int cols, int inner) {
    cblas_sgemm(CblasRowMajor, ta, tb, rows, cols, inner, 1.0f, a, lda, b, ldb, 0.0f, c, ldc);
}

// ---- Attention ----------------------------------------------------------------------------------

// Scaled dot products under a causal mask (Vaswani et al., "Attention Is All You Need", 2017).
static void attention(const struct gpt_shape *shape, const struct layer_state *s, int batch,
                      int t) {
    const int c = shape->dim, size = c / shape->heads, row = 3 * c;
    const float scale = 1.0f / sqrtf((float)size);
    for (int b = 0; b < batch; b++) {
        for (int h = 0; h < shape->heads; h++) {
            const float *q = s->qkv + (size_t)b * (size_t)t * (size_t)row + h * size;
            const float *k = q + c, *v = q + 2 * c;
            float *prob = s->prob + (size_t)(b * shape->heads + h) * (size_t)(t * t);
            float *mix = s->mix + (size_t)b * (size_t)t * (size_t)c + h * size;
            product(prob, t, CblasNoTrans, q, row, CblasTrans, k, row, t, t, size);
            gpt_causal_softmax(prob, t, scale);
            product(mix, c, CblasNoTrans, prob, t, CblasNoTrans, v, row, t, size, t);
        }
    }
}

// From dmix to dqkv.
static void attention_backward(const struct gpt_shape *shape, const struct layer_state *s,
                               float *dqkv, const float *dmix, float *ds, int batch, int t) {
    const int c = shape->dim, size = c / shape->heads, row = 3 * c;
    const float scale = 1.0f / sqrtf((float)size);
    for (int b = 0; b < batch; b++) {
        for (int h = 0; h < shape->heads; h++) {
            const size_t at = (size_t)b * (size_t)t * (size_t)row + (size_t)(h * size);
            const float *q = s->qkv + at, *k = q + c, *v = q + 2 * c;
            float *dq = dqkv + at, *dk = dq + c, *dv = dq + 2 * c;
            const float *prob = s->prob + (size_t)(b * shape->heads + h) * (size_t)(t * t);
            const float *dm = dmix + (size_t)b * (size_t)t * (size_t)c + h * size;
            product(ds, t, CblasNoTrans, dm, c, CblasTrans, v, row, t, t, size);
            product(dv, row, CblasTrans, prob, t, CblasNoTrans, dm, c, t, size, t);
            gpt_causal_softmax_backward(ds, prob, t, scale);
            product(dq, row, CblasNoTrans, ds, t, CblasNoTrans, k, row, t, size, t);
            product(dk, row, CblasTrans, ds, t, CblasNoTrans, q, row, t, size, t);
        }
    }
}

// ---- Forward ------------------------------------------------------------------------------------

static void embed(const struct gpt_model *m, float *x, const uint8_t *in, int batch, int t) {
    const size_t c = (size_t)m->shape.dim;
    const float *token = m->tensor[GPT_TOKEN].data, *position = m->tensor[GPT_POSITION].data;
    for (int i = 0; i < batch * t; i++, x += c) {
        memcpy(x, token + in[i] * c, c * sizeof *x);
        gpt_add(x, position + (size_t)(i % t) * c, c);
    }
}

// `next` is where the layer's result goes: the next layer's input.
static void layer_forward(const struct gpt_model *m, struct gpt_activations *a, int i,
                          float *next) {
    const struct layer_state *s = &a->layer[i];
    const int c = m->shape.dim, n = a->batch * a->length;
    const size_t values = (size_t)n * (size_t)c;
    gpt_layernorm(s->norm1, s->mean1, s->rstd1, s->x, layer_tensor(m, i, GPT_NORM1_GAIN),
                  layer_tensor(m, i, GPT_NORM1_BIAS), n, c);
    gpt_linear(s->qkv, s->norm1, layer_tensor(m, i, GPT_QKV), n, c, 3 * c);
    attention(&m->shape, s, a->batch, a->length);
    gpt_linear(s->mid, s->mix, layer_tensor(m, i, GPT_OUT), n, c, c);
    gpt_add(s->mid, s->x, values);

    gpt_layernorm(s->norm2, s->mean2, s->rstd2, s->mid, layer_tensor(m, i, GPT_NORM2_GAIN),
                  layer_tensor(m, i, GPT_NORM2_BIAS), n, c);
    gpt_linear(s->up, s->norm2, layer_tensor(m, i, GPT_UP), n, c, 4 * c);
    gpt_gelu(s->act, s->up, 4 * values);
    gpt_linear(next, s->act, layer_tensor(m, i, GPT_DOWN), n, 4 * c, c);
    gpt_add(next, s->mid, values);
}

const float *gpt_forward(const struct gpt_model *m, struct gpt_activations *a, const uint8_t *in,
                         int batch, int length) {
    const int layers = m->shape.layers, c = m->shape.dim, n = batch * length;
    a->batch = batch;
    a->length = length;
    a->in = in;
    embed(m, a->layer[0].x, in, batch, length);
    for (int i = 0; i < layers; i++) {
        layer_forward(m, a, i, i + 1 < layers ? a->layer[i + 1].x : a->x);
    }
    const struct gpt_tensor *norm = &m->tensor[m->tensors - 2];
    gpt_layernorm(a->norm, a->mean, a->rstd, a->x, norm[0].data, norm[1].data, n, c);
    gpt_linear(a->logits, a->norm, m->tensor[GPT_TOKEN].data, n, c, GPT_VOCAB);
    return a->logits;
}

double gpt_loss(struct gpt_activations *a, const uint8_t *target) {
    return gpt_cross_entropy(a->logits, target, a->batch * a->length, GPT_VOCAB, 0.0f);
}

// ---- Backward -----------------------------------------------------------------------------------

// On entry a->dx is the gradient of the layer's result, on return that of its input.
static void layer_backward(const struct gpt_model *m, struct gpt_activations *a, int i,
                           const struct gpt_gradients *g) {
    const struct layer_state *s = &a->layer[i];
    const int c = m->shape.dim, n = a->batch * a->length;
    const size_t first = GPT_FIRST_LAYER + (size_t)i * GPT_PER_LAYER;

    gpt_linear_dw(where(g, first + GPT_DOWN), a->dx, s->act, n, 4 * c, c);
    ready(g, first + GPT_DOWN);
    gpt_linear_dx(a->wide, a->dx, layer_tensor(m, i, GPT_DOWN), n, 4 * c, c);
    gpt_gelu_backward(a->wide, s->up, (size_t)n * 4 * (size_t)c);
    gpt_linear_dw(where(g, first + GPT_UP), a->wide, s->norm2, n, c, 4 * c);
    ready(g, first + GPT_UP);
    gpt_linear_dx(a->dy, a->wide, layer_tensor(m, i, GPT_UP), n, c, 4 * c);
    gpt_layernorm_backward(a->dx, where(g, first + GPT_NORM2_GAIN),
                           where(g, first + GPT_NORM2_BIAS), a->dy, s->mid, s->mean2, s->rstd2,
                           layer_tensor(m, i, GPT_NORM2_GAIN), n, c);
    ready(g, first + GPT_NORM2_BIAS);
    ready(g, first + GPT_NORM2_GAIN);

    gpt_linear_dw(where(g, first + GPT_OUT), a->dx, s->mix, n, c, c);
    ready(g, first + GPT_OUT);
    gpt_linear_dx(a->dy, a->dx, layer_tensor(m, i, GPT_OUT), n, c, c);
    attention_backward(&m->shape, s, a->wide, a->dy, a->scores, a->batch, a->length);
    gpt_linear_dw(where(g, first + GPT_QKV), a->wide, s->norm1, n, c, 3 * c);
    ready(g, first + GPT_QKV);
    gpt_linear_dx(a->dy, a->wide, layer_tensor(m, i, GPT_QKV), n, c, 3 * c);
    gpt_layernorm_backward(a->dx, where(g, first + GPT_NORM1_GAIN),
                           where(g, first + GPT_NORM1_BIAS), a->dy, s->x, s->mean1, s->rstd1,
                           layer_tensor(m, i, GPT_NORM1_GAIN), n, c);
    ready(g, first + GPT_NORM1_BIAS);
    ready(g, first + GPT_NORM1_GAIN);
}

// The token embedding's gradient holds the head's share already; the input's share is added.
static void embed_backward(const struct gpt_model *m, const struct gpt_activations *a,
                           const struct gpt_gradients *g) {
    const size_t c = (size_t)m->shape.dim;
    float *token = where(g, GPT_TOKEN), *position = where(g, GPT_POSITION);
    const float *dx = a->dx;
    memset(position, 0, m->tensor[GPT_POSITION].count * sizeof *position);
    for (int i = 0; i < a->batch * a->length; i++, dx += c) {
        gpt_add(position + (size_t)(i % a->length) * c, dx, c);
        gpt_add(token + a->in[i] * c, dx, c);
    }
    ready(g, GPT_POSITION);
    ready(g, GPT_TOKEN);
}

double gpt_backward(const struct gpt_model *m, struct gpt_activations *a, const uint8_t *target,
                    float scale, const struct gpt_gradients *g) {
    const int c = m->shape.dim, n = a->batch * a->length;
    const size_t gain = m->tensors - 2, bias = m->tensors - 1;
    double loss = gpt_cross_entropy(a->logits, target, n, GPT_VOCAB, scale);

    gpt_linear_dw(where(g, GPT_TOKEN), a->logits, a->norm, n, c, GPT_VOCAB);
    gpt_linear_dx(a->dy, a->logits, m->tensor[GPT_TOKEN].data, n, c, GPT_VOCAB);
    memset(a->dx, 0, (size_t)n * (size_t)c * sizeof *a->dx);
    gpt_layernorm_backward(a->dx, where(g, gain), where(g, bias), a->dy, a->x, a->mean, a->rstd,
                           m->tensor[gain].data, n, c);
    ready(g, bias);
    ready(g, gain);
    for (int i = m->shape.layers - 1; i >= 0; i--) {
        layer_backward(m, a, i, g);
    }
    embed_backward(m, a, g);
    return loss;
}
