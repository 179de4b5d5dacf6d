// SPDX-License-Identifier: MIT
// A decoder-only transformer over bytes: GPT-2's layout (Radford et al., "Language Models are
// Unsupervised Multitask Learners", 2019) with pre-norm blocks, learned positions and a head that
// shares the token embedding (Press and Wolf, "Using the Output Embedding to Improve Language
// Models", 2017); the linear layers have no bias.
//
//     x = token[byte] + position[t]
//     each layer:  x += attention(norm1(x));  x += down(gelu(up(norm2(x))))
//     logits = norm(x) * token^T
//
// The model knows nothing of ranks: gpt_backward() takes a gpt_gradients, which says where a
// gradient is to be written and hears when it is complete. That is all that data-parallel training
// needs.
#ifndef GPT_MODEL_H
#define GPT_MODEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { GPT_VOCAB = 256 }; // a token is a byte

// Why a function of the example failed, for a person.
struct gpt_error {
    char text[512];
};

// Writes the text and returns false, so that a function can `return gpt_fail(e, ...)`.
bool gpt_fail(struct gpt_error *e, const char *format, ...) __attribute__((format(printf, 2, 3)));

struct gpt_shape {
    int layers;
    int heads; // divides dim
    int dim;
    int context; // the longest sequence
};

// The tensors in the order of definition. The order matters: backward completes them exactly from
// the last to the first, which is what DDP's buckets are laid out for.
enum gpt_tensor_index { GPT_TOKEN, GPT_POSITION, GPT_FIRST_LAYER };
enum gpt_layer_tensor {
    GPT_NORM1_GAIN,
    GPT_NORM1_BIAS,
    GPT_QKV,
    GPT_OUT,
    GPT_NORM2_GAIN,
    GPT_NORM2_BIAS,
    GPT_UP,
    GPT_DOWN,
    GPT_PER_LAYER
};

struct gpt_tensor {
    char name[32];
    float *data;
    size_t count;
    bool matrix; // weight decay applies to these
};

struct gpt_model {
    struct gpt_shape shape;
    struct gpt_tensor *tensor;
    size_t tensors;
    float *params; // all tensors, one after the other
    size_t count;
};

// Allocates the model and draws its parameters from `seed`. The caller frees it with
// gpt_model_free().
bool gpt_model_create(struct gpt_model *m, const struct gpt_shape *shape, uint64_t seed,
                      struct gpt_error *e);
void gpt_model_free(struct gpt_model *m);

// The largest numbers of a shape. With them no size below overflows; memory sets a limit long
// before.
enum {
    GPT_MAX_LAYERS = 96,
    GPT_MAX_HEADS = 256,
    GPT_MAX_DIM = 8192,
    GPT_MIN_CONTEXT = 2,
    GPT_MAX_CONTEXT = 4096
};

// Whether all numbers are in range and heads divides dim. Pure.
bool gpt_shape_valid(const struct gpt_shape *shape);

// Number of parameters of a valid shape. Pure.
size_t gpt_shape_count(const struct gpt_shape *shape);

// 64-bit FNV-1a; chain calls through `hash`, start with GPT_HASH_START.
#define GPT_HASH_START 0xcbf29ce484222325u
uint64_t gpt_hash(uint64_t hash, const void *bytes, size_t len);

// Well mixed bits for counter n of a stream (Steele, Lea and Flood's SplitMix64, 2014). Pure.
uint64_t gpt_random(uint64_t stream, uint64_t n);

// ---- Forward and backward -----------------------------------------------------------------------

// What forward computed and backward needs, for up to max_batch sequences of length shape.context.
struct gpt_activations;
struct gpt_activations *gpt_activations_create(const struct gpt_model *m, int max_batch,
                                               struct gpt_error *e);
void gpt_activations_free(struct gpt_activations *a);

// Where the gradient of tensor i goes (tensor[i].count floats, overwritten or accumulated into by
// gpt_backward), and the news that it is complete.
struct gpt_gradients {
    float *(*where)(void *arg, size_t i);
    void (*ready)(void *arg, size_t i);
    void *arg;
};

// Logits of `batch` sequences in[batch][length], row-major [batch * length][GPT_VOCAB]; they live
// in `a`.
const float *gpt_forward(const struct gpt_model *m, struct gpt_activations *a, const uint8_t *in,
                         int batch, int length);

// After gpt_forward: the sum over all positions of the cross entropy, in nats, of predicting
// target[batch][length].
double gpt_loss(struct gpt_activations *a, const uint8_t *target);

// After gpt_forward, instead of gpt_loss: the same sum, and the gradient of that sum times `scale`
// for every tensor.
double gpt_backward(const struct gpt_model *m, struct gpt_activations *a, const uint8_t *target,
                    float scale, const struct gpt_gradients *gradients);

#endif
