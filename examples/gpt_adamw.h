// SPDX-License-Identifier: MIT
// The optimizer: Adam with decoupled weight decay (Loshchilov and Hutter, "Decoupled Weight Decay
// Regularization", 2019), warm-up and cosine decay of the learning rate, clipping of the gradient's
// norm.
#ifndef GPT_ADAMW_H
#define GPT_ADAMW_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "gpt_model.h"

struct gpt_adamw {
    float beta1, beta2, epsilon, decay;
    float *m, *v; // moments, in the order of the model's parameters
    size_t count;
    uint64_t steps; // done so far
};

bool gpt_adamw_create(struct gpt_adamw *o, const struct gpt_model *model, double decay,
                      struct gpt_error *e);
void gpt_adamw_free(struct gpt_adamw *o);

// One step with the gradients that `gradients->where` names (`ready` is not used); each is
// multiplied by `scale` first.
void gpt_adamw_step(struct gpt_adamw *o, struct gpt_model *model,
                    const struct gpt_gradients *gradients, float rate, float scale);

// Euclidean norm of all gradients together.
double gpt_gradient_norm(const struct gpt_model *model, const struct gpt_gradients *gradients);

// Learning rate of a step: rises linearly over `warmup` steps to `peak`, multiplied by a cosine
// that falls from 1 at progress 0 to `floor` at progress 1. Pure.
double gpt_learning_rate(double peak, double floor, uint64_t step, uint64_t warmup,
                         double progress);

#endif
