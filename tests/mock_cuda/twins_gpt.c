// SPDX-License-Identifier: MIT
// The kernels of examples/train_gpt in C: the same bodies, one unit of work after the other.
//
// A twin first asks the mock driver for the memory behind each address, as much as the kernel may touch there, so that
// a kernel that is launched with wrong sizes is found.
#include "examples/gpt_kernels_body.h"
#include "tests/mock_cuda/mock_cuda.h"

#include <stdio.h>
#include <stdlib.h>

enum { VOCAB = 256 }; // GPT_VOCAB

// Replaces the address in a field by the host's, for `n` elements.
#define AT(field, n) \
    a->field = mock_cuda_range((uintptr_t)a->field, sizeof *a->field * (unsigned long long)(n))

static void reach_embed(struct gpt_embed_args *a) {
    const uint64_t rows = a->count / (uint64_t)a->dim;
    AT(x, a->count);
    AT(token, VOCAB * a->dim);
    AT(position, a->length * a->dim);
    AT(in, rows);
}

static void reach_position_grad(struct gpt_position_grad_args *a) {
    AT(position, a->count);
    AT(dx, a->batch * a->length * a->dim);
}

static void reach_token_grad(struct gpt_token_grad_args *a) {
    AT(token, a->count);
    AT(dx, a->n * a->dim);
    AT(in, a->n);
}

static void reach_norm(struct gpt_norm_args *a) {
    const uint64_t values = a->count * (uint64_t)a->dim;
    AT(y, values);
    AT(x, values);
    AT(mean, a->count);
    AT(rstd, a->count);
    AT(gain, a->dim);
    AT(bias, a->dim);
}

static void reach_norm_dx(struct gpt_norm_dx_args *a) {
    const uint64_t values = a->count * (uint64_t)a->dim;
    AT(dx, values);
    AT(dy, values);
    AT(x, values);
    AT(mean, a->count);
    AT(rstd, a->count);
    AT(gain, a->dim);
}

static void reach_norm_part(struct gpt_norm_part_args *a) {
    AT(gain, a->count);
    AT(bias, a->count);
    AT(dy, a->n * a->dim);
    AT(x, a->n * a->dim);
    AT(mean, a->n);
    AT(rstd, a->n);
}

static void reach_norm_fold(struct gpt_norm_fold_args *a) {
    AT(dgain, a->count);
    AT(dbias, a->count);
    AT(gain, a->chunks * a->dim);
    AT(bias, a->chunks * a->dim);
}

static void reach_gelu(struct gpt_gelu_args *a) {
    AT(y, a->count);
    AT(x, a->count);
}

static void reach_gelu_dx(struct gpt_gelu_dx_args *a) {
    AT(dy, a->count);
    AT(x, a->count);
}

static void reach_add(struct gpt_add_args *a) {
    AT(x, a->count);
    AT(y, a->count);
}

static void reach_softmax(struct gpt_softmax_args *a) { AT(s, a->count * (uint64_t)a->length); }

static void reach_softmax_dx(struct gpt_softmax_dx_args *a) {
    AT(ds, a->count * (uint64_t)a->length);
    AT(p, a->count * (uint64_t)a->length);
}

static void reach_cross_entropy(struct gpt_cross_entropy_args *a) {
    AT(logits, a->count * (uint64_t)a->vocab);
    AT(target, a->count);
    AT(loss, a->count);
}

static void reach_loss(struct gpt_loss_args *a) {
    AT(results, 1);
    AT(loss, a->n);
}

static void reach_squares(struct gpt_squares_args *a) {
    AT(part, a->count);
    AT(x, a->n);
}

static void reach_clip(struct gpt_clip_args *a) {
    AT(results, 1);
    AT(part, GPT_PARTS);
}

static void reach_adamw(struct gpt_adamw_args *a) {
    AT(param, a->count);
    AT(m, a->count);
    AT(v, a->count);
    AT(grad, a->count);
    AT(results, 1);
}

// A grid may be smaller than the work, because its threads go on, but must consist of whole warps.
static void check_grid(const char *name, const unsigned grid[3], const unsigned block[3]) {
    if (block[0] != GPT_BLOCK || block[1] != 1 || block[2] != 1 || grid[0] > GPT_BLOCKS ||
        grid[1] != 1 || grid[2] != 1) {
        fprintf(stderr, "%s: grid %u,%u,%u block %u,%u,%u\n", name, grid[0], grid[1], grid[2],
                block[0], block[1], block[2]);
        abort();
    }
}

#define TWIN(kind, name)                                                                    \
    static void twin_##name(void **args, const unsigned grid[3], const unsigned block[3]) { \
        struct gpt_##name##_args a = *(const struct gpt_##name##_args *)args[0];            \
        check_grid("gpt_" #name, grid, block);                                              \
        reach_##name(&a);                                                                   \
        for (uint64_t i = 0; i < a.count; i++) {                                            \
            gpt_do_##name(&a, i);                                                           \
        }                                                                                   \
    }
GPT_KERNELS(TWIN)

#define ROW(kind, name) {"gpt_" #name, twin_##name, 1, {sizeof(struct gpt_##name##_args)}},
__attribute__((visibility("default"))) extern const struct mock_cuda_twin mock_twin_table[];
const struct mock_cuda_twin mock_twin_table[] = {GPT_KERNELS(ROW){NULL, NULL, 0, {0}}};
