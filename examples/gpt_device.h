// SPDX-License-Identifier: MIT
// Who computes: the CPU, or a CUDA device. All arithmetic of the model and of its optimizer goes
// through the table below; the passes, DDP, checkpoints, evaluation and the loop know no difference.
//
// Operations are enqueued and run in the order of the calls; only loss(), norm() and wait() wait for
// them (on the CPU everything is done at once, of course). What goes wrong in between is kept and told
// by the next of these three. Matrices are row-major, all pointers but those called `host` point to
// the device's memory.
#ifndef GPT_DEVICE_H
#define GPT_DEVICE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "gpt_math.h"
#include "gpt_model.h"

struct gpt_device {
    const struct gpt_operations *does;
    int ordinal;   // of a CUDA device, as DDP wants it; -1 = the CPU
    void *stream;  // CUDA: on which everything is enqueued
    char name[96]; // for the report; empty for the CPU
};

// Of a pass through attention.
struct gpt_heads {
    int batch, length; // sequences, positions
    int heads, dim;    // dim of all heads together
};

struct gpt_operations {
    bool
        at_once; // attention takes all heads together, and needs room for the scores of all of them
    void (*close)(struct gpt_device *d);

    // ---- Memory
    // `count` floats, uninitialised; NULL if there is no memory.
    float *(*allocate)(struct gpt_device *d, size_t count);
    // The same for what host memory holds already: `host` itself where the device computes there.
    float *(*place)(struct gpt_device *d, float *host, size_t count);
    void (*release)(struct gpt_device *d, void *p); // NULL is allowed
    void (*zero)(struct gpt_device *d, float *x, size_t count);
    // To and from host memory, which must not change before wait().
    void (*upload)(struct gpt_device *d, void *to, const void *host, size_t bytes);
    void (*fetch)(struct gpt_device *d, void *host, const void *from, size_t bytes);

    // ---- The model: what the functions of the same name in gpt_math.h say
    void (*linear)(struct gpt_device *d, float *y, const float *x, const float *w, int n, int in,
                   int out);
    void (*linear_dx)(struct gpt_device *d, float *dx, const float *dy, const float *w, int n,
                      int in, int out);
    void (*linear_dw)(struct gpt_device *d, float *dw, const float *dy, const float *x, int n,
                      int in, int out);
    void (*layernorm)(struct gpt_device *d, float *y, float *mean, float *rstd, const float *x,
                      const float *gain, const float *bias, int n, int c);
    void (*layernorm_backward)(struct gpt_device *d, float *dx, float *dgain, float *dbias,
                               const float *dy, const float *x, const float *mean,
                               const float *rstd, const float *gain, int n, int c);
    void (*gelu)(struct gpt_device *d, float *y, const float *x, size_t count);
    void (*gelu_backward)(struct gpt_device *d, float *dy, const float *x, size_t count);
    void (*add)(struct gpt_device *d, float *x, const float *y, size_t count);

    // qkv[n][3 dim] to prob[batch][heads][length][length] and mix[n][dim]; and from dmix to dqkv, with
    // room for the scores' gradients.
    void (*attention)(struct gpt_device *d, const struct gpt_heads *h, float *mix, float *prob,
                      const float *qkv);
    void (*attention_backward)(struct gpt_device *d, const struct gpt_heads *h, float *dqkv,
                               float *scores, const float *dmix, const float *prob,
                               const float *qkv);

    // x[i] = token[in[i]] + position[i % length], rows of c floats.
    void (*embed)(struct gpt_device *d, float *x, const float *token, const float *position,
                  const uint8_t *in, int n, int length, int c);
    // Adds to dtoken[GPT_VOCAB][c]; overwrites dposition[context][c].
    void (*embed_backward)(struct gpt_device *d, float *dtoken, float *dposition, const float *dx,
                           const uint8_t *in, int n, int length, int context, int c);

    // The sum of the losses of n rows becomes loss(); logits as gpt_cross_entropy() says.
    void (*cross_entropy)(struct gpt_device *d, float *logits, const uint8_t *target, int n,
                          int vocab, float scale);

    // ---- The optimizer
    // Adds squares; clip() takes their sum: its root becomes norm(), and adamw() scales gradients so
    // that the norm is `limit` at most (0 = no limit).
    void (*squares)(struct gpt_device *d, const float *x, size_t count);
    void (*clip)(struct gpt_device *d, double limit);
    void (*adamw)(struct gpt_device *d, float *param, float *m, float *v, const float *grad,
                  size_t count, const struct gpt_update *u);

    // ---- Results
    bool (*loss)(struct gpt_device *d, double *sum, struct gpt_error *e);
    bool (*norm)(struct gpt_device *d, double *norm, struct gpt_error *e);
    bool (*wait)(struct gpt_device *d, struct gpt_error *e); // for all that was enqueued
};

// The CPU; always there, close() does nothing. For another model that computes at the same time: one of its own,
// which close() frees.
struct gpt_device *gpt_cpu(void);
struct gpt_device *gpt_cpu_create(struct gpt_error *e);

// A CUDA device for the local_rank-th process of this host. NULL, with the reason in `e`: no driver,
// no cuBLAS, no device, or a build without kernels. The caller ends it with does->close().
struct gpt_device *gpt_cuda_open(int local_rank, struct gpt_error *e);

// How many CUDA devices there are for it to choose of, as one that is open knows.
int gpt_cuda_count(struct gpt_device *d);

#endif
