// SPDX-License-Identifier: MIT
// Forward and backward of the model. The rows of all sequences of the batch go through the linear
// layers at once (n = batch * length rows), because one large matrix product is much faster than
// many small ones; only attention works sequence by sequence and head by head.
//
// Backward walks the model from its end to its beginning and tells of every gradient as soon as it
// is complete, so that its reduction over the ranks can run while earlier layers are still
// computed. The token embedding comes last of all: it is used at both ends of the model.
//
// Every line of arithmetic is a call of the device's table (gpt_device.h), so that this file is the
// model on the CPU and on GPUs.
#include "gpt_device.h"
#include "gpt_model.h"

#include <stdlib.h>

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
    struct gpt_device *device;
    int max_batch;
    int batch, length; // of the last forward
    uint8_t *in, *target;
    struct layer_state *layer;
    float *x; // after the last layer                 [n][dim]
    float *norm, *mean, *rstd;
    float *logits;  //                                      [n][GPT_VOCAB]
    float *dx, *dy; // gradients on the way back            [n][dim]
    float *wide;    // gradient of qkv or of the MLP's inside [n][4 dim]
    float *scores;  // gradient of one head's scores, or of all's [length][length]
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
    a->scores =
        take(base, &used, t * t * (m->device->does->at_once ? b * (size_t)m->shape.heads : 1));
    a->in = (uint8_t *)take(base, &used, (n + 3) / 4);
    a->target = (uint8_t *)take(base, &used, (n + 3) / 4);
    return used;
}

struct gpt_activations *gpt_activations_create(const struct gpt_model *m, int max_batch,
                                               struct gpt_error *e) {
    struct gpt_device *d = m->device;
    struct gpt_activations *a = calloc(1, sizeof *a);
    if (a) {
        a->device = d;
    }
    if (!a || !(a->layer = calloc((size_t)m->shape.layers, sizeof *a->layer))) {
        gpt_activations_free(a);
        gpt_fail(e, "no memory for %d layers", m->shape.layers);
        return NULL;
    }
    a->max_batch = max_batch;
    const size_t count = lay_out(m, a, NULL);
    a->memory = d->does->allocate(d, count);
    if (!a->memory) {
        gpt_activations_free(a);
        gpt_fail(e,
                 "no memory for the activations of %d sequences (%zu MiB)%s%s: lower --batch, "
                 "--context or --layers",
                 max_batch, count * sizeof(float) >> 20, *d->name ? " on " : "", d->name);
        return NULL;
    }
    lay_out(m, a, a->memory);
    return a;
}

void gpt_activations_free(struct gpt_activations *a) {
    if (a) {
        a->device->does->release(a->device, a->memory);
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

static struct gpt_heads heads_of(const struct gpt_model *m, const struct gpt_activations *a) {
    return (struct gpt_heads){
        .batch = a->batch, .length = a->length, .heads = m->shape.heads, .dim = m->shape.dim};
}

// ---- Forward ------------------------------------------------------------------------------------

// `next` is where the layer's result goes: the next layer's input.
static void layer_forward(const struct gpt_model *m, struct gpt_activations *a, int i,
                          float *next) {
    struct gpt_device *d = a->device;
    const struct gpt_operations *op = d->does;
    const struct gpt_heads heads = heads_of(m, a);
    const struct layer_state *s = &a->layer[i];
    const int c = m->shape.dim, n = a->batch * a->length;
    const size_t values = (size_t)n * (size_t)c;
    op->layernorm(d, s->norm1, s->mean1, s->rstd1, s->x, layer_tensor(m, i, GPT_NORM1_GAIN),
                  layer_tensor(m, i, GPT_NORM1_BIAS), n, c);
    op->linear(d, s->qkv, s->norm1, layer_tensor(m, i, GPT_QKV), n, c, 3 * c);
    op->attention(d, &heads, s->mix, s->prob, s->qkv);
    op->linear(d, s->mid, s->mix, layer_tensor(m, i, GPT_OUT), n, c, c);
    op->add(d, s->mid, s->x, values);

    op->layernorm(d, s->norm2, s->mean2, s->rstd2, s->mid, layer_tensor(m, i, GPT_NORM2_GAIN),
                  layer_tensor(m, i, GPT_NORM2_BIAS), n, c);
    op->linear(d, s->up, s->norm2, layer_tensor(m, i, GPT_UP), n, c, 4 * c);
    op->gelu(d, s->act, s->up, 4 * values);
    op->linear(d, next, s->act, layer_tensor(m, i, GPT_DOWN), n, 4 * c, c);
    op->add(d, next, s->mid, values);
}

void gpt_forward(const struct gpt_model *m, struct gpt_activations *a, const uint8_t *in, int batch,
                 int length) {
    struct gpt_device *d = a->device;
    const struct gpt_operations *op = d->does;
    const int layers = m->shape.layers, c = m->shape.dim, n = batch * length;
    a->batch = batch;
    a->length = length;
    op->upload(d, a->in, in, (size_t)n);
    op->embed(d, a->layer[0].x, m->tensor[GPT_TOKEN].data, m->tensor[GPT_POSITION].data, a->in, n,
              length, c);
    for (int i = 0; i < layers; i++) {
        layer_forward(m, a, i, i + 1 < layers ? a->layer[i + 1].x : a->x);
    }
    const struct gpt_tensor *norm = &m->tensor[m->tensors - 2];
    op->layernorm(d, a->norm, a->mean, a->rstd, a->x, norm[0].data, norm[1].data, n, c);
    op->linear(d, a->logits, a->norm, m->tensor[GPT_TOKEN].data, n, c, GPT_VOCAB);
}

bool gpt_logits(const struct gpt_activations *a, int row, float logits[GPT_VOCAB],
                struct gpt_error *e) {
    struct gpt_device *d = a->device;
    d->does->fetch(d, logits, a->logits + (size_t)row * GPT_VOCAB, GPT_VOCAB * sizeof *logits);
    return d->does->wait(d, e);
}

// ---- Loss ---------------------------------------------------------------------------------------

static void cross_entropy(struct gpt_activations *a, const uint8_t *target, float scale) {
    struct gpt_device *d = a->device;
    const int n = a->batch * a->length;
    d->does->upload(d, a->target, target, (size_t)n);
    d->does->cross_entropy(d, a->logits, a->target, n, GPT_VOCAB, scale);
}

void gpt_measure(struct gpt_activations *a, const uint8_t *target) {
    cross_entropy(a, target, 0.0f);
}

bool gpt_loss(const struct gpt_activations *a, double *sum, struct gpt_error *e) {
    return a->device->does->loss(a->device, sum, e);
}

// ---- Backward -----------------------------------------------------------------------------------

// On entry a->dx is the gradient of the layer's result, on return that of its input.
static void layer_backward(const struct gpt_model *m, struct gpt_activations *a, int i,
                           const struct gpt_gradients *g) {
    struct gpt_device *d = a->device;
    const struct gpt_operations *op = d->does;
    const struct gpt_heads heads = heads_of(m, a);
    const struct layer_state *s = &a->layer[i];
    const int c = m->shape.dim, n = a->batch * a->length;
    const size_t first = GPT_FIRST_LAYER + (size_t)i * GPT_PER_LAYER;

    op->linear_dw(d, where(g, first + GPT_DOWN), a->dx, s->act, n, 4 * c, c);
    ready(g, first + GPT_DOWN);
    op->linear_dx(d, a->wide, a->dx, layer_tensor(m, i, GPT_DOWN), n, 4 * c, c);
    op->gelu_backward(d, a->wide, s->up, (size_t)n * 4 * (size_t)c);
    op->linear_dw(d, where(g, first + GPT_UP), a->wide, s->norm2, n, c, 4 * c);
    ready(g, first + GPT_UP);
    op->linear_dx(d, a->dy, a->wide, layer_tensor(m, i, GPT_UP), n, c, 4 * c);
    op->layernorm_backward(d, a->dx, where(g, first + GPT_NORM2_GAIN),
                           where(g, first + GPT_NORM2_BIAS), a->dy, s->mid, s->mean2, s->rstd2,
                           layer_tensor(m, i, GPT_NORM2_GAIN), n, c);
    ready(g, first + GPT_NORM2_BIAS);
    ready(g, first + GPT_NORM2_GAIN);

    op->linear_dw(d, where(g, first + GPT_OUT), a->dx, s->mix, n, c, c);
    ready(g, first + GPT_OUT);
    op->linear_dx(d, a->dy, a->dx, layer_tensor(m, i, GPT_OUT), n, c, c);
    op->attention_backward(d, &heads, a->wide, a->scores, a->dy, s->prob, s->qkv);
    op->linear_dw(d, where(g, first + GPT_QKV), a->wide, s->norm1, n, c, 3 * c);
    ready(g, first + GPT_QKV);
    op->linear_dx(d, a->dy, a->wide, layer_tensor(m, i, GPT_QKV), n, c, 3 * c);
    op->layernorm_backward(d, a->dx, where(g, first + GPT_NORM1_GAIN),
                           where(g, first + GPT_NORM1_BIAS), a->dy, s->x, s->mean1, s->rstd1,
                           layer_tensor(m, i, GPT_NORM1_GAIN), n, c);
    ready(g, first + GPT_NORM1_BIAS);
    ready(g, first + GPT_NORM1_GAIN);
}

void gpt_backward(const struct gpt_model *m, struct gpt_activations *a, const uint8_t *target,
                  float scale, const struct gpt_gradients *g) {
    struct gpt_device *d = a->device;
    const struct gpt_operations *op = d->does;
    const int c = m->shape.dim, n = a->batch * a->length;
    const size_t gain = m->tensors - 2, bias = m->tensors - 1;
    cross_entropy(a, target, scale);

    op->linear_dw(d, where(g, GPT_TOKEN), a->logits, a->norm, n, c, GPT_VOCAB);
    op->linear_dx(d, a->dy, a->logits, m->tensor[GPT_TOKEN].data, n, c, GPT_VOCAB);
    op->zero(d, a->dx, (size_t)n * (size_t)c);
    op->layernorm_backward(d, a->dx, where(g, gain), where(g, bias), a->dy, a->x, a->mean, a->rstd,
                           m->tensor[gain].data, n, c);
    ready(g, bias);
    ready(g, gain);
    for (int i = m->shape.layers - 1; i >= 0; i--) {
        layer_backward(m, a, i, g);
    }
    // The token embedding's gradient holds the head's share already; the input's share is added.
    op->embed_backward(d, where(g, GPT_TOKEN), where(g, GPT_POSITION), a->dx, a->in, n, a->length,
                       m->shape.context, c);
    ready(g, GPT_POSITION);
    ready(g, GPT_TOKEN);
}
