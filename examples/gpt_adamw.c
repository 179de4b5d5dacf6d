// SPDX-License-Identifier: MIT
// AdamW. Every rank runs it on the same reduced gradients and so arrives at the same parameters,
// bit by bit; no parameter is ever sent after the first broadcast.
#include "gpt_adamw.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "gpt_math.h"

bool gpt_adamw_create(struct gpt_adamw *o, const struct gpt_model *model, double decay,
                      struct gpt_error *e) {
    // beta2 is below Adam's 0.999, as is usual for transformers: its memory then fits a run of few
    // steps.
    struct gpt_adamw adamw = {.beta1 = 0.9f,
                              .beta2 = 0.99f,
                              .epsilon = 1e-8f,
                              .decay = (float)decay,
                              .count = model->count};
    adamw.m = calloc(model->count, sizeof *adamw.m);
    adamw.v = calloc(model->count, sizeof *adamw.v);
    if (!adamw.m || !adamw.v) {
        gpt_adamw_free(&adamw);
        return gpt_fail(e, "no memory for the optimizer's %zu moments: lower --layers or --dim",
                        2 * model->count);
    }
    *o = adamw;
    return true;
}

void gpt_adamw_free(struct gpt_adamw *o) {
    free(o->m);
    free(o->v);
    memset(o, 0, sizeof *o);
}

void gpt_adamw_step(struct gpt_adamw *o, struct gpt_model *model,
                    const struct gpt_gradients *gradients, float rate, float scale) {
    o->steps++;
    // The moments start at 0; these factors take that bias out.
    const float unbias1 = (float)(1.0 / (1.0 - pow((double)o->beta1, (double)o->steps)));
    const float unbias2 = (float)(1.0 / (1.0 - pow((double)o->beta2, (double)o->steps)));
    for (size_t i = 0; i < model->tensors; i++) {
        const struct gpt_tensor *t = &model->tensor[i];
        const size_t at = (size_t)(t->data - model->params);
        const struct gpt_update u = {
            .rate = rate,
            .scale = scale,
            .decay = t->matrix ? o->decay : 0.0f,
            .beta1 = o->beta1,
            .beta2 = o->beta2,
            .unbias1 = unbias1,
            .unbias2 = unbias2,
            .epsilon = o->epsilon,
        };
        gpt_adamw_update(t->data, o->m + at, o->v + at, gradients->where(gradients->arg, i),
                         t->count, &u);
    }
}

double gpt_gradient_norm(const struct gpt_model *model, const struct gpt_gradients *gradients) {
    double sum = 0.0;
    for (size_t i = 0; i < model->tensors; i++) {
        sum += gpt_sum_of_squares(gradients->where(gradients->arg, i), model->tensor[i].count);
    }
    return sqrt(sum);
}

double gpt_learning_rate(double peak, double floor, uint64_t step, uint64_t warmup,
                         double progress) {
    const double rise = step < warmup ? (double)(step + 1) / (double)(warmup + 1) : 1.0;
    const double p = progress < 1.0 ? progress : 1.0;
    return peak * rise * (floor + (1.0 - floor) * 0.5 * (1.0 + cos(3.14159265358979324 * p)));
}
