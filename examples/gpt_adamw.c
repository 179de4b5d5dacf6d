// SPDX-License-Identifier: MIT
// AdamW. Every rank runs it on the same reduced gradients and so arrives at the same parameters,
// bit by bit; no parameter is ever sent after the first broadcast.
#include "gpt_adamw.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "gpt_device.h"
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
    struct gpt_device *d = adamw.device = model->device;
    adamw.host_m = calloc(model->count, sizeof *adamw.host_m);
    adamw.host_v = calloc(model->count, sizeof *adamw.host_v);
    if (adamw.host_m && adamw.host_v) {
        adamw.m = d->does->place(d, adamw.host_m, model->count);
        adamw.v = d->does->place(d, adamw.host_v, model->count);
    }
    if (!adamw.m || !adamw.v) {
        gpt_adamw_free(&adamw);
        return gpt_fail(e, "no memory for the optimizer's %zu moments: lower --layers or --dim",
                        2 * model->count);
    }
    *o = adamw;
    return true;
}

void gpt_adamw_free(struct gpt_adamw *o) {
    if (o->m != o->host_m) {
        o->device->does->release(o->device, o->m);
    }
    if (o->v != o->host_v) {
        o->device->does->release(o->device, o->v);
    }
    free(o->host_m);
    free(o->host_v);
    memset(o, 0, sizeof *o);
}

void gpt_adamw_upload(const struct gpt_adamw *o) {
    o->device->does->upload(o->device, o->m, o->host_m, o->count * sizeof *o->m);
    o->device->does->upload(o->device, o->v, o->host_v, o->count * sizeof *o->v);
}

void gpt_adamw_fetch(const struct gpt_adamw *o) {
    o->device->does->fetch(o->device, o->host_m, o->m, o->count * sizeof *o->m);
    o->device->does->fetch(o->device, o->host_v, o->v, o->count * sizeof *o->v);
}

static void clip(struct gpt_device *d, const struct gpt_model *model,
                 const struct gpt_gradients *gradients, double limit) {
    for (size_t i = 0; i < model->tensors; i++) {
        d->does->squares(d, gradients->where(gradients->arg, i), model->tensor[i].count);
    }
    d->does->clip(d, limit);
}

static struct gpt_update update_of(const struct gpt_adamw *o, const struct gpt_tensor *t,
                                   float rate) {
    // The moments start at 0; `unbias` takes that bias out.
    return (struct gpt_update){
        .rate = rate,
        .decay = t->matrix ? o->decay : 0.0f,
        .beta1 = o->beta1,
        .beta2 = o->beta2,
        .unbias1 = (float)(1.0 / (1.0 - pow((double)o->beta1, (double)o->steps))),
        .unbias2 = (float)(1.0 / (1.0 - pow((double)o->beta2, (double)o->steps))),
        .epsilon = o->epsilon,
    };
}

void gpt_adamw_piece(const struct gpt_adamw *o, const struct gpt_model *model, size_t i,
                     size_t first, size_t count, const float *gradient, float *m, float *v,
                     float rate) {
    const struct gpt_update u = update_of(o, &model->tensor[i], rate);
    o->device->does->adamw(o->device, model->tensor[i].data + first, m, v, gradient, count, &u);
}

void gpt_adamw_drop(struct gpt_adamw *o) {
    free(o->host_m);
    free(o->host_v);
    o->m = o->v = o->host_m = o->host_v = NULL;
}

bool gpt_adamw_make_room(struct gpt_adamw *o, struct gpt_error *e) {
    gpt_adamw_drop(o);
    o->m = o->host_m = calloc(o->count, sizeof *o->host_m);
    o->v = o->host_v = calloc(o->count, sizeof *o->host_v);
    return (o->host_m && o->host_v) || gpt_fail(e, "no memory for the moments of a checkpoint");
}

void gpt_adamw_step(struct gpt_adamw *o, struct gpt_model *model,
                    const struct gpt_gradients *gradients, float rate, double limit) {
    struct gpt_device *d = o->device;
    o->steps++;
    clip(d, model, gradients, limit);
    for (size_t i = 0; i < model->tensors; i++) {
        const struct gpt_tensor *t = &model->tensor[i];
        const size_t at = (size_t)(t->data - model->params);
        const struct gpt_update u = update_of(o, t, rate);
        d->does->adamw(d, t->data, o->m + at, o->v + at, gradients->where(gradients->arg, i),
                       t->count, &u);
    }
}

bool gpt_adamw_norm(const struct gpt_adamw *o, double *norm, struct gpt_error *e) {
    return o->device->does->norm(o->device, norm, e);
}

double gpt_learning_rate(double peak, double floor, uint64_t step, uint64_t warmup,
                         double progress) {
    const double rise = step < warmup ? (double)(step + 1) / (double)(warmup + 1) : 1.0;
    const double p = progress < 1.0 ? progress : 1.0;
    return peak * rise * (floor + (1.0 - floor) * 0.5 * (1.0 + cos(3.14159265358979324 * p)));
}
