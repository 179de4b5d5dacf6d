// SPDX-License-Identifier: MIT
// The model and the optimizer on a CUDA device: matrix products by cuBLAS, everything else by the
// kernels of gpt_kernels.h. Nothing here waits.
//
// Differences from the CPU are those of rounding: other orders of additions, fused multiply-adds,
// another exponential function.
#include <math.h>

#include "gpt_cuda.h"

static struct gpt_cuda *of(struct gpt_device *d) { return (struct gpt_cuda *)d; }

// ---- Launching ----------------------------------------------------------------------------------

enum { ELEMENTS = 1, ROWS = GPT_WARP }; // threads of a unit

// `arguments` is the kernel's struct, whose count is `units`.
static void launch(struct gpt_cuda *g, enum gpt_kernel kernel, void *arguments, uint64_t units,
                   unsigned threads) {
    const uint64_t blocks = (units * threads + GPT_BLOCK - 1) / GPT_BLOCK;
    const unsigned grid = blocks < GPT_BLOCKS ? (unsigned)blocks : GPT_BLOCKS;
    if (units) {
        gpt_cuda_ok(g,
                    g->cu.launch(g->kernel[kernel], grid, 1, 1, GPT_BLOCK, 1, 1, 0,
                                 g->device.stream, (void *[]){arguments}, NULL),
                    "launching a kernel");
    }
}

#define element_unit ELEMENTS
#define row_unit ROWS
#define LAUNCHER(kind, name)                                                    \
    static void launch_##name(struct gpt_cuda *g, struct gpt_##name##_args a) { \
        launch(g, GPT_KERNEL_##name, &a, a.count, kind##_unit);                 \
    }
GPT_KERNELS(LAUNCHER)

// A part of the results is on its way to the host, and `event` tells when it is there.
static void announce(struct gpt_cuda *g, double *host, const double *there, void *event) {
    g->device.does->fetch(&g->device, host, there, sizeof *host);
    gpt_cuda_ok(g, g->cu.event_record(event, g->device.stream), "recording an event");
}

// ---- Matrix products ----------------------------------------------------------------------------

enum { PLAIN = 0, TURNED = 1 }; // CUBLAS_OP_N, CUBLAS_OP_T

// A matrix, or the first of several that lie `stride` floats apart.
struct matrix {
    const float *at;
    int row; // floats from one row to the next
    long long stride;
    int turned; // it is transposed before it is multiplied
};

// c[rows][cols] = a * b, row-major. cuBLAS counts by columns and so sees each matrix transposed; it is
// asked for c^T = b^T a^T.
static void product(struct gpt_cuda *g, float *c, int row, struct matrix a, struct matrix b,
                    int rows, int cols, int inner) {
    const float one = 1.0f, zero = 0.0f;
    gpt_blas_ok(g, g->blas.sgemm(g->handle, b.turned, a.turned, cols, rows, inner, &one, b.at,
                                 b.row, a.at, a.row, &zero, c, row));
}

static void products(struct gpt_cuda *g, struct matrix c, struct matrix a, struct matrix b,
                     int rows, int cols, int inner, int count) {
    const float one = 1.0f, zero = 0.0f;
    gpt_blas_ok(g, g->blas.sgemm_batch(g->handle, b.turned, a.turned, cols, rows, inner, &one, b.at,
                                       b.row, b.stride, a.at, a.row, a.stride, &zero,
                                       (float *)(uintptr_t)c.at, c.row, c.stride, count));
}

static void cuda_linear(struct gpt_device *d, float *y, const float *x, const float *w, int n,
                        int in, int out) {
    product(of(d), y, out, (struct matrix){x, in, 0, PLAIN}, (struct matrix){w, in, 0, TURNED}, n,
            out, in);
}

static void cuda_linear_dx(struct gpt_device *d, float *dx, const float *dy, const float *w, int n,
                           int in, int out) {
    product(of(d), dx, in, (struct matrix){dy, out, 0, PLAIN}, (struct matrix){w, in, 0, PLAIN}, n,
            in, out);
}

static void cuda_linear_dw(struct gpt_device *d, float *dw, const float *dy, const float *x, int n,
                           int in, int out) {
    product(of(d), dw, in, (struct matrix){dy, out, 0, TURNED}, (struct matrix){x, in, 0, PLAIN},
            out, in, n);
}

// ---- Attention ----------------------------------------------------------------------------------

// The heads of all sequences are one product each. cuBLAS takes many at once if they lie at equal
// distances, as the heads of a sequence do, and the sequences of a head: the larger of the two numbers
// is left to it, the other is a loop.
struct span {
    int count;
    long long qkv, mix, scores; // floats from one to the next
};

static void spans(const struct gpt_heads *h, struct span *loop, struct span *batch) {
    const long long c = h->dim, t = h->length, size = h->dim / h->heads;
    const struct span over_heads = {h->heads, size, size, t * t};
    const struct span over_sequences = {h->batch, t * 3 * c, t * c, h->heads * t * t};
    *loop = h->heads < h->batch ? over_heads : over_sequences;
    *batch = h->heads < h->batch ? over_sequences : over_heads;
}

static void cuda_attention(struct gpt_device *d, const struct gpt_heads *h, float *mix, float *prob,
                           const float *qkv) {
    const int c = h->dim, t = h->length, size = c / h->heads, row = 3 * c;
    struct gpt_cuda *g = of(d);
    struct span loop, batch;
    spans(h, &loop, &batch);
    for (int i = 0; i < loop.count; i++) {
        const float *q = qkv + i * loop.qkv;
        products(g, (struct matrix){prob + i * loop.scores, t, batch.scores, PLAIN},
                 (struct matrix){q, row, batch.qkv, PLAIN},
                 (struct matrix){q + c, row, batch.qkv, TURNED}, t, t, size, batch.count);
    }
    launch_softmax(g,
                   (struct gpt_softmax_args){.count = (uint64_t)(h->batch * h->heads) * (uint64_t)t,
                                             .s = prob,
                                             .length = t,
                                             .scale = 1.0f / sqrtf((float)size)});
    for (int i = 0; i < loop.count; i++) {
        products(g, (struct matrix){mix + i * loop.mix, c, batch.mix, PLAIN},
                 (struct matrix){prob + i * loop.scores, t, batch.scores, PLAIN},
                 (struct matrix){qkv + 2 * (size_t)c + i * loop.qkv, row, batch.qkv, PLAIN}, t,
                 size, t, batch.count);
    }
}

static void cuda_attention_backward(struct gpt_device *d, const struct gpt_heads *h, float *dqkv,
                                    float *scores, const float *dmix, const float *prob,
                                    const float *qkv) {
    const int c = h->dim, t = h->length, size = c / h->heads, row = 3 * c;
    struct gpt_cuda *g = of(d);
    struct span loop, batch;
    spans(h, &loop, &batch);
    for (int i = 0; i < loop.count; i++) {
        const struct matrix v = {qkv + 2 * (size_t)c + i * loop.qkv, row, batch.qkv, TURNED};
        const struct matrix dv = {dqkv + 2 * (size_t)c + i * loop.qkv, row, batch.qkv, PLAIN};
        const struct matrix dm = {dmix + i * loop.mix, c, batch.mix, PLAIN};
        const struct matrix p = {prob + i * loop.scores, t, batch.scores, TURNED};
        const struct matrix ds = {scores + i * loop.scores, t, batch.scores, PLAIN};
        products(g, ds, dm, v, t, t, size, batch.count);
        products(g, dv, p, dm, t, size, t, batch.count);
    }
    launch_softmax_dx(
        g, (struct gpt_softmax_dx_args){.count = (uint64_t)(h->batch * h->heads) * (uint64_t)t,
                                        .ds = scores,
                                        .p = prob,
                                        .length = t,
                                        .scale = 1.0f / sqrtf((float)size)});
    for (int i = 0; i < loop.count; i++) {
        const struct matrix q = {qkv + i * loop.qkv, row, batch.qkv, PLAIN};
        const struct matrix k = {qkv + c + i * loop.qkv, row, batch.qkv, PLAIN};
        const struct matrix dq = {dqkv + i * loop.qkv, row, batch.qkv, PLAIN};
        const struct matrix dk = {dqkv + c + i * loop.qkv, row, batch.qkv, PLAIN};
        const struct matrix ds = {scores + i * loop.scores, t, batch.scores, PLAIN};
        const struct matrix turned = {scores + i * loop.scores, t, batch.scores, TURNED};
        products(g, dq, ds, k, t, size, t, batch.count);
        products(g, dk, turned, q, t, size, t, batch.count);
    }
}

// ---- Loops --------------------------------------------------------------------------------------

static void cuda_layernorm(struct gpt_device *d, float *y, float *mean, float *rstd, const float *x,
                           const float *gain, const float *bias, int n, int c) {
    launch_norm(of(d), (struct gpt_norm_args){(uint64_t)n, y, mean, rstd, x, gain, bias, c});
}

static void cuda_layernorm_backward(struct gpt_device *d, float *dx, float *dgain, float *dbias,
                                    const float *dy, const float *x, const float *mean,
                                    const float *rstd, const float *gain, int n, int c) {
    struct gpt_cuda *g = of(d);
    const int chunks = (n + GPT_CHUNK - 1) / GPT_CHUNK;
    const size_t sums = (size_t)chunks * (size_t)c;
    float *part = gpt_cuda_scratch(g, 2 * sums);
    launch_norm_dx(g, (struct gpt_norm_dx_args){(uint64_t)n, dx, dy, x, mean, rstd, gain, c});
    if (part) {
        launch_norm_part(
            g, (struct gpt_norm_part_args){sums, part, part + sums, dy, x, mean, rstd, n, c});
        launch_norm_fold(g, (struct gpt_norm_fold_args){(uint64_t)c, dgain, dbias, part,
                                                        part + sums, chunks, c});
    }
}

static void cuda_gelu(struct gpt_device *d, float *y, const float *x, size_t count) {
    launch_gelu(of(d), (struct gpt_gelu_args){count, y, x});
}

static void cuda_gelu_backward(struct gpt_device *d, float *dy, const float *x, size_t count) {
    launch_gelu_dx(of(d), (struct gpt_gelu_dx_args){count, dy, x});
}

static void cuda_add(struct gpt_device *d, float *x, const float *y, size_t count) {
    launch_add(of(d), (struct gpt_add_args){count, x, y});
}

static void cuda_embed(struct gpt_device *d, float *x, const float *token, const float *position,
                       const uint8_t *in, int n, int length, int c) {
    launch_embed(of(d), (struct gpt_embed_args){(uint64_t)n * (uint64_t)c, x, token, position, in,
                                                length, c});
}

static void cuda_embed_backward(struct gpt_device *d, float *dtoken, float *dposition,
                                const float *dx, const uint8_t *in, int n, int length, int context,
                                int c) {
    struct gpt_cuda *g = of(d);
    launch_position_grad(g, (struct gpt_position_grad_args){(uint64_t)context * (uint64_t)c,
                                                            dposition, dx, n / length, length, c});
    launch_token_grad(g,
                      (struct gpt_token_grad_args){GPT_VOCAB * (uint64_t)c, dtoken, dx, in, n, c});
}

static void cuda_cross_entropy(struct gpt_device *d, float *logits, const uint8_t *target, int n,
                               int vocab, float scale) {
    struct gpt_cuda *g = of(d);
    double *loss = (double *)(void *)gpt_cuda_scratch(g, 2 * (size_t)n);
    if (loss) {
        launch_cross_entropy(
            g, (struct gpt_cross_entropy_args){(uint64_t)n, logits, target, loss, vocab, scale});
        launch_loss(g, (struct gpt_loss_args){1, g->there, loss, n});
        announce(g, &g->results->loss, &g->there->loss, g->loss_known);
    }
}

// ---- Optimizer ----------------------------------------------------------------------------------

// A warp sums 4096 elements or more.
static void cuda_squares(struct gpt_device *d, const float *x, size_t count) {
    const uint64_t warps = (count + 4095) / 4096;
    launch_squares(of(d), (struct gpt_squares_args){warps < GPT_PARTS ? warps : GPT_PARTS,
                                                    of(d)->part, x, count});
}

static void cuda_clip(struct gpt_device *d, double limit) {
    struct gpt_cuda *g = of(d);
    launch_clip(g, (struct gpt_clip_args){1, g->there, g->part, limit});
    announce(g, &g->results->norm, &g->there->norm, g->norm_known);
}

static void cuda_adamw(struct gpt_device *d, float *param, float *m, float *v, const float *grad,
                       size_t count, const struct gpt_update *u) {
    struct gpt_cuda *g = of(d);
    launch_adamw(g,
                 (struct gpt_adamw_args){count, param, m, v, grad, g->there, u->rate, u->decay,
                                         u->beta1, u->beta2, u->unbias1, u->unbias2, u->epsilon});
}

void gpt_cuda_fill(struct gpt_operations *does) {
    does->linear = cuda_linear;
    does->linear_dx = cuda_linear_dx;
    does->linear_dw = cuda_linear_dw;
    does->layernorm = cuda_layernorm;
    does->layernorm_backward = cuda_layernorm_backward;
    does->gelu = cuda_gelu;
    does->gelu_backward = cuda_gelu_backward;
    does->add = cuda_add;
    does->attention = cuda_attention;
    does->attention_backward = cuda_attention_backward;
    does->embed = cuda_embed;
    does->embed_backward = cuda_embed_backward;
    does->cross_entropy = cuda_cross_entropy;
    does->squares = cuda_squares;
    does->clip = cuda_clip;
    does->adamw = cuda_adamw;
}
