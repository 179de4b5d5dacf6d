// SPDX-License-Identifier: MIT
// The model's parameters: their table, their memory, their first values; and the small helpers that
// all parts of the example use.
#include "gpt_model.h"

#include "gpt_device.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

bool gpt_fail(struct gpt_error *e, const char *format, ...) {
    va_list args;
    va_start(args, format);
    vsnprintf(e->text, sizeof e->text, format, args);
    va_end(args);
    return false;
}

uint64_t gpt_hash(uint64_t hash, const void *bytes, size_t len) {
    const unsigned char *p = bytes;
    for (size_t i = 0; i < len; i++) {
        hash = (hash ^ p[i]) * 0x100000001b3u;
    }
    return hash;
}

uint64_t gpt_random(uint64_t stream, uint64_t n) {
    uint64_t z = stream * 0xd1342543de82ef95u + (n + 1) * 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

// Two normal deviates from two uniform ones (Box and Muller, 1958); even n takes the cosine, odd
// the sine.
static float normal(uint64_t stream, uint64_t n) {
    uint64_t pair = n & ~(uint64_t)1;
    double u = ((double)(gpt_random(stream, pair) >> 11) + 1.0) * 0x1p-53;
    double v = (double)(gpt_random(stream, pair + 1) >> 11) * 0x1p-53 * 6.28318530717958648;
    return (float)(sqrt(-2.0 * log(u)) * (n & 1 ? sin(v) : cos(v)));
}

// ---- The table ----------------------------------------------------------------------------------

// One row of the table of a layer's tensors. Sizes are in units of dim, or of dim * dim for a
// matrix; rows of a matrix, one for each output, in units of dim.
static const struct {
    const char *name;
    size_t units, rows;
    bool matrix;
} layer_row[GPT_PER_LAYER] = {
    [GPT_NORM1_GAIN] = {"norm1.gain", 1, 0, false},
    [GPT_NORM1_BIAS] = {"norm1.bias", 1, 0, false},
    [GPT_QKV] = {"attention.qkv", 3, 3, true},
    [GPT_OUT] = {"attention.out", 1, 1, true},
    [GPT_NORM2_GAIN] = {"norm2.gain", 1, 0, false},
    [GPT_NORM2_BIAS] = {"norm2.bias", 1, 0, false},
    [GPT_UP] = {"mlp.up", 4, 4, true},
    [GPT_DOWN] = {"mlp.down", 4, 1, true},
};

bool gpt_shape_valid(const struct gpt_shape *s) {
    return s->layers >= 1 && s->layers <= GPT_MAX_LAYERS && s->heads >= 1 &&
           s->heads <= GPT_MAX_HEADS && s->dim >= 1 && s->dim <= GPT_MAX_DIM &&
           s->dim % s->heads == 0 && s->context >= GPT_MIN_CONTEXT && s->context <= GPT_MAX_CONTEXT;
}

size_t gpt_shape_count(const struct gpt_shape *s) {
    const size_t c = (size_t)s->dim;
    size_t layer = 0;
    for (size_t i = 0; i < GPT_PER_LAYER; i++) {
        layer += layer_row[i].units * (layer_row[i].matrix ? c * c : c);
    }
    return ((size_t)GPT_VOCAB + (size_t)s->context + 2) * c + (size_t)s->layers * layer;
}

// Adds a row; its data follows that of the row before. Returns the new row.
static struct gpt_tensor *add(struct gpt_model *m, size_t count, size_t rows) {
    struct gpt_tensor *t = &m->tensor[m->tensors++];
    t->data = m->params + m->count;
    t->count = count;
    t->rows = rows;
    t->matrix = rows != 0;
    m->count += count;
    return t;
}

static void build_table(struct gpt_model *m) {
    const size_t c = (size_t)m->shape.dim;
    struct gpt_tensor *t = add(m, GPT_VOCAB * c, GPT_VOCAB);
    snprintf(t->name, sizeof t->name, "token");
    t = add(m, (size_t)m->shape.context * c, (size_t)m->shape.context);
    snprintf(t->name, sizeof t->name, "position");
    for (int layer = 0; layer < m->shape.layers; layer++) {
        for (int i = 0; i < GPT_PER_LAYER; i++) {
            t = add(m, layer_row[i].units * (layer_row[i].matrix ? c * c : c),
                    layer_row[i].rows * c);
            snprintf(t->name, sizeof t->name, "layer%d.%s", layer, layer_row[i].name);
        }
    }
    t = add(m, c, 0);
    snprintf(t->name, sizeof t->name, "norm.gain");
    t = add(m, c, 0);
    snprintf(t->name, sizeof t->name, "norm.bias");
}

// ---- First values -------------------------------------------------------------------------------

// Standard deviations, as a multiple of 1 / sqrt(inputs), so that they hold for every width. The
// two matrices that add to the residual stream start small, so that each layer begins near the
// identity (Zhang, Dauphin and Ma, "Fixup Initialization", 2019), and queries and keys small, so
// that attention begins as a plain mean. The shared embedding starts large enough for its head to
// tell bytes apart: with GPT-2's 0.02 a short run spends its first half growing it.
static float deviation(const struct gpt_model *m, size_t i) {
    const float width = sqrtf((float)m->shape.dim), depth = sqrtf(2.0f * (float)m->shape.layers);
    if (i < GPT_FIRST_LAYER) {
        return 1.0f / width;
    }
    switch ((i - GPT_FIRST_LAYER) % GPT_PER_LAYER) {
    case GPT_QKV:
        return 0.5f / width;
    case GPT_OUT:
        return 0.1f / (width * depth);
    case GPT_DOWN:
        return 0.1f / (2.0f * width * depth); // has four times the inputs
    default:
        return 1.0f / width;
    }
}

static void draw_parameters(struct gpt_model *m, uint64_t seed) {
    for (size_t i = 0; i < m->tensors; i++) {
        struct gpt_tensor *t = &m->tensor[i];
        const size_t length = strlen(t->name);
        const bool gain = length >= 4 && strcmp(t->name + length - 4, "gain") == 0;
        const float scale = deviation(m, i);
        const uint64_t stream = gpt_random(seed, i);
        for (size_t j = 0; j < t->count; j++) {
            t->data[j] = t->matrix ? scale * normal(stream, j) : gain ? 1.0f : 0.0f;
        }
    }
}

bool gpt_model_create(struct gpt_model *m, const struct gpt_shape *shape, uint64_t seed,
                      struct gpt_error *e) {
    const size_t count = gpt_shape_count(shape);
    struct gpt_model model = {.shape = *shape, .device = gpt_cpu()};
    model.tensor =
        calloc(GPT_FIRST_LAYER + (size_t)shape->layers * GPT_PER_LAYER + 2, sizeof *model.tensor);
    model.params = malloc(count * sizeof *model.params);
    if (!model.tensor || !model.params) {
        free(model.tensor);
        free(model.params);
        return gpt_fail(e, "no memory for a model of %zu parameters: lower --layers or --dim",
                        count);
    }
    model.host = model.params;
    build_table(&model);
    draw_parameters(&model, seed);
    *m = model;
    return true;
}

bool gpt_model_move(struct gpt_model *m, struct gpt_device *device, struct gpt_error *e) {
    float *params = device->does->place(device, m->host, m->count);
    if (!params) {
        return gpt_fail(e, "no memory for a model of %zu parameters on %s: lower --layers or --dim",
                        m->count, device->name);
    }
    m->device = device;
    m->params = params;
    for (size_t i = 0; i < m->tensors; i++) {
        m->tensor[i].data = params;
        params += m->tensor[i].count;
    }
    return true;
}

void gpt_model_upload(const struct gpt_model *m) {
    m->device->does->upload(m->device, m->params, m->host, m->count * sizeof *m->host);
}

void gpt_model_fetch(const struct gpt_model *m) {
    m->device->does->fetch(m->device, m->host, m->params, m->count * sizeof *m->host);
}

void gpt_model_free(struct gpt_model *m) {
    if (m->params != m->host) {
        m->device->does->release(m->device, m->params);
    }
    free(m->tensor);
    free(m->host);
    memset(m, 0, sizeof *m);
}
