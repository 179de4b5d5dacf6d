// SPDX-License-Identifier: MIT
// The kernels of train_gpt: their names and arguments, for the host (gpt_cuda_math.c), for the device
// (gpt_kernels.cu) and for C that stands for a device in tests. What they do is in
// gpt_kernels_body.h.
//
// Each kernel takes one struct. `count` is how many units of work there are: elements, of which each
// thread takes one after the other, or rows, of which each warp does.
#ifndef GPT_KERNELS_H
#define GPT_KERNELS_H

#include <stdint.h>

// X(kind, name)
#define GPT_KERNELS(X)        \
    X(element, embed)         \
    X(element, position_grad) \
    X(element, token_grad)    \
    X(row, norm)              \
    X(row, norm_dx)           \
    X(element, norm_part)     \
    X(element, norm_fold)     \
    X(element, gelu)          \
    X(element, gelu_dx)       \
    X(element, add)           \
    X(row, softmax)           \
    X(row, softmax_dx)        \
    X(row, cross_entropy)     \
    X(row, loss)              \
    X(row, squares)           \
    X(row, clip)              \
    X(element, adamw)

enum {
    GPT_WARP = 32,
    GPT_BLOCK = 256,   // threads of a block
    GPT_BLOCKS = 4096, // most blocks of a grid
    GPT_CHUNK = 32,    // rows that are summed by one thread of norm_part
    GPT_PARTS = 1024,  // warps that sum squares, at most
};

// What the host reads, and the next kernel.
struct gpt_results {
    double loss, norm;
    float scale; // of the gradients
};

struct gpt_embed_args { // an element of x each
    uint64_t count;
    float *x;
    const float *token, *position;
    const uint8_t *in;
    int length, dim;
};

struct gpt_position_grad_args { // an element of `position` each
    uint64_t count;
    float *position;
    const float *dx;
    int batch, length, dim;
};

struct gpt_token_grad_args { // an element of `token` each
    uint64_t count;
    float *token;
    const float *dx;
    const uint8_t *in;
    int n, dim;
};

struct gpt_norm_args { // a row each
    uint64_t count;
    float *y, *mean, *rstd;
    const float *x, *gain, *bias;
    int dim;
};

struct gpt_norm_dx_args { // a row each
    uint64_t count;
    float *dx;
    const float *dy, *x, *mean, *rstd, *gain;
    int dim;
};

// The gradients of gain and bias are sums over all rows: first over GPT_CHUNK of them, for each chunk
// and column, then over the chunks, for each column.
struct gpt_norm_part_args {
    uint64_t count;
    float *gain, *bias; // [chunk][dim]
    const float *dy, *x, *mean, *rstd;
    int n, dim;
};

struct gpt_norm_fold_args {
    uint64_t count;
    float *dgain, *dbias;
    const float *gain, *bias; // [chunk][dim]
    int chunks, dim;
};

struct gpt_gelu_args {
    uint64_t count;
    float *y;
    const float *x;
};

struct gpt_gelu_dx_args {
    uint64_t count;
    float *dy;
    const float *x;
};

struct gpt_add_args {
    uint64_t count;
    float *x;
    const float *y;
};

struct gpt_softmax_args { // a row of scores each
    uint64_t count;
    float *s;
    int length;
    float scale;
};

struct gpt_softmax_dx_args {
    uint64_t count;
    float *ds;
    const float *p;
    int length;
    float scale;
};

struct gpt_cross_entropy_args { // a row of logits each
    uint64_t count;
    float *logits;
    const uint8_t *target;
    double *loss;
    int vocab;
    float scale;
};

struct gpt_loss_args { // one row: the sum of all losses
    uint64_t count;
    struct gpt_results *results;
    const double *loss;
    int n;
};

struct gpt_squares_args { // a warp's share each, added to `part`
    uint64_t count;
    double *part;
    const float *x;
    uint64_t n;
};

struct gpt_clip_args { // one row: sums `part` and clears it
    uint64_t count;
    struct gpt_results *results;
    double *part;
    double limit;
};

struct gpt_adamw_args { // names as in struct gpt_update
    uint64_t count;
    float *param, *m, *v;
    const float *grad;
    const struct gpt_results *results;
    float rate, decay, beta1, beta2, unbias1, unbias2, epsilon;
};

#endif
