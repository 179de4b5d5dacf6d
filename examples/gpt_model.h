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
// needs. Nor does it know who computes: gpt_device.h.
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

struct gpt_device;

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
    size_t rows; // of a matrix, row-major; 0 = a vector
    bool matrix; // weight decay applies to these
};

struct gpt_model {
    struct gpt_shape shape;
    struct gpt_tensor *tensor;
    size_t tensors;
    float *params; // all tensors, one after the other, where the device computes
    float *host;   // the same in host memory, for files and hashes; params itself on the CPU
    size_t count;
    struct gpt_device *device;
};

// Allocates the model on the CPU and draws its parameters from `seed`. The caller frees it with
// gpt_model_free(), before its device is closed.
bool gpt_model_create(struct gpt_model *m, const struct gpt_shape *shape, uint64_t seed,
                      struct gpt_error *e);
void gpt_model_free(struct gpt_model *m);

// Makes `device` the one that computes; gpt_model_upload() is still to come.
bool gpt_model_move(struct gpt_model *m, struct gpt_device *device, struct gpt_error *e);

// Between `host` and `params`; each is complete when the device's wait() is done.
void gpt_model_upload(const struct gpt_model *m);
void gpt_model_fetch(const struct gpt_model *m);

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
// gpt_backward), and the news that it is complete, or will be when the device has done what was
// enqueued so far.
struct gpt_gradients {
    float *(*where)(void *arg, size_t i);
    void (*ready)(void *arg, size_t i);
    void *arg;
};

// `batch` sequences in[batch][length]; logits and all that backward needs are left in `a`.
void gpt_forward(const struct gpt_model *m, struct gpt_activations *a, const uint8_t *in, int batch,
                 int length);

// After gpt_forward: copies the logits of row `row` of batch * length.
bool gpt_logits(const struct gpt_activations *a, int row, float logits[GPT_VOCAB],
                struct gpt_error *e);

// After gpt_forward: begins to sum the cross entropy, in nats, of predicting target[batch][length].
void gpt_measure(struct gpt_activations *a, const uint8_t *target);

// Instead of gpt_measure: the same sum, and the gradient of that sum times `scale` for every tensor.
void gpt_backward(const struct gpt_model *m, struct gpt_activations *a, const uint8_t *target,
                  float scale, const struct gpt_gradients *gradients);

// The sum that gpt_measure or gpt_backward began; waits for it, not for the gradients.
bool gpt_loss(const struct gpt_activations *a, double *sum, struct gpt_error *e);

#endif
