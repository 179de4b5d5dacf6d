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
    float *m, *v; // moments, in the order of the model's parameters, where the device computes
    float *host_m, *host_v; // the same in host memory, for files; m and v themselves on the CPU
    size_t count;
    uint64_t steps; // done so far
    struct gpt_device *device;
};

// For a model on its device.
bool gpt_adamw_create(struct gpt_adamw *o, const struct gpt_model *model, double decay,
                      struct gpt_error *e);
void gpt_adamw_free(struct gpt_adamw *o);

// Between host_m, host_v and m, v; each is complete when the device's wait() is done.
void gpt_adamw_upload(const struct gpt_adamw *o);
void gpt_adamw_fetch(const struct gpt_adamw *o);

// One step with the gradients that `gradients->where` names (`ready` is not used). When the
// Euclidean norm of all gradients together is above `limit` they are scaled down to it first (0 = no
// limit). gpt_adamw_norm() waits for that norm, not for the step.
void gpt_adamw_step(struct gpt_adamw *o, struct gpt_model *model,
                    const struct gpt_gradients *gradients, float rate, double limit);
bool gpt_adamw_norm(const struct gpt_adamw *o, double *norm, struct gpt_error *e);

// For a sharded optimizer on the CPU: `count` elements of tensor i, from `first` on, with moments that
// are kept elsewhere. steps is already that of this step.
void gpt_adamw_piece(const struct gpt_adamw *o, const struct gpt_model *model, size_t i,
                     size_t first, size_t count, const float *gradient, float *m, float *v,
                     float rate);
// Gives the memory of all moments back, and gets it again (zeros).
void gpt_adamw_drop(struct gpt_adamw *o);
bool gpt_adamw_make_room(struct gpt_adamw *o, struct gpt_error *e);

// Learning rate of a step: rises linearly over `warmup` steps to `peak`, multiplied by a cosine
// that falls from 1 at progress 0 to `floor` at progress 1. Pure.
double gpt_learning_rate(double peak, double floor, uint64_t step, uint64_t warmup,
                         double progress);

#endif
