// SPDX-License-Identifier: MIT
// What the kernels do, as C that nvcc and C compilers take: gpt_do_NAME(arguments, unit) does one unit
// of work, an element or a row (gpt_kernels.h).
//
// A row belongs to the 32 lanes of a warp; lane l takes columns l, l + 32 and so on. On a device the
// lanes run side by side; in C, EACH_LANE is a loop and a variable of the LANES an array. Sums of the
// lanes are folded in a fixed order, and no two units write to the same place: the same input gives
// the same bits in every run.
#ifndef GPT_KERNELS_BODY_H
#define GPT_KERNELS_BODY_H

#include "gpt_kernels.h"

#if defined(__CUDACC__)

#define GPT_FN static __device__ __forceinline__
#define LANES(type, name) type name = 0
#define EACH_LANE for (int lane = threadIdx.x % GPT_WARP, once = 1; once; once = 0)
#define OF(name) name

#define FOLD(name, type, expression)                              \
    GPT_FN type fold_##name(type mine) {                          \
        for (int width = GPT_WARP / 2; width > 0; width /= 2) {   \
            const type other = __shfl_xor_sync(~0u, mine, width); \
            mine = expression;                                    \
        }                                                         \
        return mine;                                              \
    }

#else

#include <math.h>

#define GPT_FN static inline __attribute__((always_inline, unused))
#define LANES(type, name) type name[GPT_WARP] = {0}
#define EACH_LANE for (int lane = 0; lane < GPT_WARP; lane++)
#define OF(name) name[lane]

#define FOLD(name, type, expression)                                        \
    GPT_FN type fold_##name(type *lanes) {                                  \
        for (int width = GPT_WARP / 2; width > 0; width /= 2) {             \
            for (int lane = 0; lane < width; lane++) {                      \
                const type mine = lanes[lane], other = lanes[lane + width]; \
                lanes[lane] = expression;                                   \
            }                                                               \
        }                                                                   \
        return lanes[0];                                                    \
    }

#endif

// Of all lanes; the result is the same on each.
FOLD(sum, float, mine + other)
FOLD(max, float, other > mine ? other : mine)
FOLD(total, double, mine + other)

// ---- Embedding ----------------------------------------------------------------------------------

GPT_FN void gpt_do_embed(const struct gpt_embed_args *a, uint64_t i) {
    const uint64_t dim = (uint64_t)a->dim, row = i / dim, j = i % dim;
    a->x[i] = a->token[a->in[row] * dim + j] + a->position[row % (uint64_t)a->length * dim + j];
}

GPT_FN void gpt_do_position_grad(const struct gpt_position_grad_args *a, uint64_t i) {
    const uint64_t sequence = (uint64_t)a->length * (uint64_t)a->dim;
    float sum = 0.0f;
    for (int b = 0; i < sequence && b < a->batch; b++) {
        sum += a->dx[(uint64_t)b * sequence + i];
    }
    a->position[i] = sum;
}

// All threads look at all bytes for their own one.
GPT_FN void gpt_do_token_grad(const struct gpt_token_grad_args *a, uint64_t i) {
    const uint64_t dim = (uint64_t)a->dim, byte = i / dim, j = i % dim;
    float sum = a->token[i];
    for (int row = 0; row < a->n; row++) {
        if (a->in[row] == byte) {
            sum += a->dx[(uint64_t)row * dim + j];
        }
    }
    a->token[i] = sum;
}

// ---- Layer norm ---------------------------------------------------------------------------------

GPT_FN void gpt_do_norm(const struct gpt_norm_args *a, uint64_t row) {
    const int c = a->dim;
    const float *x = a->x + row * (uint64_t)c;
    float *y = a->y + row * (uint64_t)c;
    LANES(float, sum);
    LANES(float, square);
    EACH_LANE {
        for (int j = lane; j < c; j += GPT_WARP) {
            OF(sum) += x[j];
        }
    }
    const float mean = fold_sum(sum) / (float)c;
    EACH_LANE {
        for (int j = lane; j < c; j += GPT_WARP) {
            OF(square) += (x[j] - mean) * (x[j] - mean);
        }
    }
    const float rstd = 1.0f / sqrtf(fold_sum(square) / (float)c + 1e-5f);
    EACH_LANE {
        for (int j = lane; j < c; j += GPT_WARP) {
            y[j] = (x[j] - mean) * rstd * a->gain[j] + a->bias[j];
        }
        if (lane == 0) {
            a->mean[row] = mean;
            a->rstd[row] = rstd;
        }
    }
}

// With h = (x - mean) * rstd and g = dy * gain:  dx = rstd * (g - mean(g) - h * mean(g * h)).
GPT_FN void gpt_do_norm_dx(const struct gpt_norm_dx_args *a, uint64_t row) {
    const int c = a->dim;
    const float *x = a->x + row * (uint64_t)c, *dy = a->dy + row * (uint64_t)c;
    const float mean = a->mean[row], rstd = a->rstd[row];
    float *dx = a->dx + row * (uint64_t)c;
    LANES(float, g);
    LANES(float, gh);
    EACH_LANE {
        for (int j = lane; j < c; j += GPT_WARP) {
            OF(g) += dy[j] * a->gain[j];
            OF(gh) += dy[j] * a->gain[j] * (x[j] - mean);
        }
    }
    const float g_mean = fold_sum(g) / (float)c, gh_mean = fold_sum(gh) * rstd / (float)c;
    EACH_LANE {
        for (int j = lane; j < c; j += GPT_WARP) {
            const float h = (x[j] - mean) * rstd;
            dx[j] += rstd * (dy[j] * a->gain[j] - g_mean - h * gh_mean);
        }
    }
}

GPT_FN void gpt_do_norm_part(const struct gpt_norm_part_args *a, uint64_t i) {
    const uint64_t dim = (uint64_t)a->dim, first = i / dim * GPT_CHUNK, j = i % dim;
    float gain = 0.0f, bias = 0.0f;
    for (uint64_t row = first; row < first + GPT_CHUNK && row < (uint64_t)a->n; row++) {
        const float dy = a->dy[row * dim + j];
        gain += dy * ((a->x[row * dim + j] - a->mean[row]) * a->rstd[row]);
        bias += dy;
    }
    a->gain[i] = gain;
    a->bias[i] = bias;
}

GPT_FN void gpt_do_norm_fold(const struct gpt_norm_fold_args *a, uint64_t j) {
    float gain = 0.0f, bias = 0.0f;
    for (uint64_t chunk = 0; chunk < (uint64_t)a->chunks; chunk++) {
        gain += a->gain[chunk * (uint64_t)a->dim + j];
        bias += a->bias[chunk * (uint64_t)a->dim + j];
    }
    a->dgain[j] = gain;
    a->dbias[j] = bias;
}

// ---- Element by element -------------------------------------------------------------------------

// As in gpt_math.c: x / (1 + e^-2u), 2u = a (x + b x^3).
#define GELU_A 1.59576912160573072f
#define GELU_B 0.044715f

GPT_FN void gpt_do_gelu(const struct gpt_gelu_args *a, uint64_t i) {
    const float v = a->x[i];
    a->y[i] = v / (1.0f + expf(-GELU_A * (v + GELU_B * v * v * v)));
}

GPT_FN void gpt_do_gelu_dx(const struct gpt_gelu_dx_args *a, uint64_t i) {
    const float v = a->x[i];
    const float s = 1.0f / (1.0f + expf(-GELU_A * (v + GELU_B * v * v * v)));
    const float slope = GELU_A * (1.0f + 3.0f * GELU_B * v * v);
    a->dy[i] *= s + v * s * (1.0f - s) * slope;
}

GPT_FN void gpt_do_add(const struct gpt_add_args *a, uint64_t i) { a->x[i] += a->y[i]; }

// ---- Softmax ------------------------------------------------------------------------------------

// Row i of a head's square of scores keeps columns 0 .. i.
GPT_FN void gpt_do_softmax(const struct gpt_softmax_args *a, uint64_t row) {
    const int t = a->length, n = (int)(row % (uint64_t)t) + 1;
    float *s = a->s + row * (uint64_t)t;
    const float first = s[0];
    LANES(float, most);
    LANES(float, sum);
    EACH_LANE {
        OF(most) = first;
        for (int j = lane; j < n; j += GPT_WARP) {
            OF(most) = s[j] > OF(most) ? s[j] : OF(most);
        }
    }
    const float max = fold_max(most);
    EACH_LANE {
        for (int j = lane; j < n; j += GPT_WARP) {
            s[j] = expf((s[j] - max) * a->scale);
            OF(sum) += s[j];
        }
    }
    const float inverse = 1.0f / fold_sum(sum);
    EACH_LANE {
        for (int j = lane; j < t; j += GPT_WARP) {
            s[j] = j < n ? s[j] * inverse : 0.0f;
        }
    }
}

// Columns behind the diagonal come out as 0 since p is 0 there.
GPT_FN void gpt_do_softmax_dx(const struct gpt_softmax_dx_args *a, uint64_t row) {
    const int t = a->length, n = (int)(row % (uint64_t)t) + 1;
    float *ds = a->ds + row * (uint64_t)t;
    const float *p = a->p + row * (uint64_t)t;
    LANES(float, sum);
    EACH_LANE {
        for (int j = lane; j < n; j += GPT_WARP) {
            OF(sum) += ds[j] * p[j];
        }
    }
    const float mean = fold_sum(sum);
    EACH_LANE {
        for (int j = lane; j < t; j += GPT_WARP) {
            ds[j] = p[j] * (ds[j] - mean) * a->scale;
        }
    }
}

// ---- Loss ---------------------------------------------------------------------------------------

GPT_FN void gpt_do_cross_entropy(const struct gpt_cross_entropy_args *a, uint64_t row) {
    const int vocab = a->vocab, target = a->target[row];
    float *logits = a->logits + row * (uint64_t)vocab;
    const float first = logits[0];
    LANES(float, most);
    LANES(float, sum);
    LANES(float, hit); // the logit of the target, on the lane that has it
    EACH_LANE {
        OF(most) = first;
        for (int j = lane; j < vocab; j += GPT_WARP) {
            OF(most) = logits[j] > OF(most) ? logits[j] : OF(most);
            OF(hit) = j == target ? logits[j] : OF(hit);
        }
    }
    const float max = fold_max(most);
    EACH_LANE {
        for (int j = lane; j < vocab; j += GPT_WARP) {
            OF(sum) += expf(logits[j] - max);
        }
    }
    const float total = fold_sum(sum), logit = fold_sum(hit), factor = a->scale / total;
    EACH_LANE {
        if (lane == 0) {
            a->loss[row] = log((double)total) - (double)(logit - max);
        }
        for (int j = lane; a->scale != 0.0f && j < vocab; j += GPT_WARP) {
            logits[j] = expf(logits[j] - max) * factor - (j == target ? a->scale : 0.0f);
        }
    }
}

GPT_FN void gpt_do_loss(const struct gpt_loss_args *a, uint64_t row) {
    LANES(double, sum);
    EACH_LANE {
        for (int i = lane; i < a->n; i += GPT_WARP) {
            OF(sum) += a->loss[i];
        }
    }
    const double total = fold_total(sum);
    EACH_LANE {
        if (lane == 0) {
            a->results[row].loss = total;
        }
    }
}

// ---- Optimizer ----------------------------------------------------------------------------------

GPT_FN void gpt_do_squares(const struct gpt_squares_args *a, uint64_t row) {
    LANES(double, sum);
    EACH_LANE {
        for (uint64_t i = row * GPT_WARP + (uint64_t)lane; i < a->n; i += a->count * GPT_WARP) {
            OF(sum) += (double)a->x[i] * (double)a->x[i];
        }
    }
    const double total = fold_total(sum);
    EACH_LANE {
        if (lane == 0) {
            a->part[row] += total;
        }
    }
}

GPT_FN void gpt_do_clip(const struct gpt_clip_args *a, uint64_t row) {
    LANES(double, sum);
    EACH_LANE {
        for (int i = lane; i < GPT_PARTS; i += GPT_WARP) {
            OF(sum) += a->part[i];
            a->part[i] = 0.0;
        }
    }
    const double norm = sqrt(fold_total(sum));
    EACH_LANE {
        if (lane == 0) {
            a->results[row].norm = norm;
            a->results[row].scale =
                (float)(a->limit > 0.0 && norm > a->limit ? a->limit / norm : 1.0);
        }
    }
}

GPT_FN void gpt_do_adamw(const struct gpt_adamw_args *a, uint64_t i) {
    const float g = a->grad[i] * a->results->scale;
    const float m = a->m[i] + (1.0f - a->beta1) * (g - a->m[i]);
    const float v = a->v[i] + (1.0f - a->beta2) * (g * g - a->v[i]);
    const float direction = m * a->unbias1 / (sqrtf(v * a->unbias2) + a->epsilon);
    a->m[i] = m;
    a->v[i] = v;
    a->param[i] -= a->rate * (direction + a->decay * a->param[i]);
}

#endif
