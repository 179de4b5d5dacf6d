// SPDX-License-Identifier: MIT
// train_gpt --zero: each rank keeps the moments of its share of the parameters only (ZeRO stage 1),
// updates that share, and the library puts the parameters together again.
#include <float.h>
#include <math.h>
#include <stdlib.h>

#include "gpt_run.h"

enum { MOMENT_M, MOMENT_V, MOMENTS };

static rondo_status update(void *arg, const rondo_zero_piece *piece) {
    struct gpt_run *r = arg;
    gpt_adamw_piece(&r->adamw, &r->model, piece->param, piece->first, piece->count, piece->grad,
                    piece->state[MOMENT_M], piece->state[MOMENT_V], r->rate);
    return RONDO_OK;
}

// What a resumed run knows of moments goes to the shares.
static bool load(struct gpt_run *r) {
    bool ok = true;
    for (size_t i = 0; ok && i < r->model.tensors; i++) {
        const size_t at = (size_t)(r->model.tensor[i].data - r->model.params);
        ok = gpt_succeeded(r, rondo_zero_load(r->zero, i, MOMENT_M, r->adamw.host_m + at),
                           "resuming") &&
             gpt_succeeded(r, rondo_zero_load(r->zero, i, MOMENT_V, r->adamw.host_v + at),
                           "resuming");
    }
    return ok;
}

bool gpt_zero_create(struct gpt_run *r) {
    const rondo_zero_options options = {.size = sizeof options,
                                        .state_bytes = sizeof(float),
                                        .state_arrays = MOMENTS,
                                        .update = update,
                                        .arg = r};
    if (!gpt_succeeded(r, rondo_zero_create(r->ddp, &options, &r->zero),
                       "creating the sharded optimizer") ||
        (r->o.resume && !load(r))) {
        return false;
    }
    gpt_adamw_drop(&r->adamw);
    return true;
}

bool gpt_zero_step(struct gpt_run *r, double rate, double limit, double *norm) {
    const rondo_status status =
        rondo_ddp_clip_grad_norm(r->ddp, limit > 0.0 ? limit : DBL_MAX, 2.0, norm);
    if (status != RONDO_OK && !isfinite(*norm)) {
        return true; // the caller says what to do about it
    }
    r->rate = (float)rate;
    r->adamw.steps++;
    return gpt_succeeded(r, status, "clipping") &&
           gpt_succeeded(r, rondo_zero_step(r->zero), "the optimizer's step");
}

bool gpt_zero_fetch(struct gpt_run *r) {
    bool ok = r->share.rank != 0 || gpt_worked(r, gpt_adamw_make_room(&r->adamw, &r->error));
    for (size_t i = 0; ok && i < r->model.tensors; i++) {
        const size_t at = (size_t)(r->model.tensor[i].data - r->model.params);
        float *m = r->adamw.host_m ? r->adamw.host_m + at : NULL;
        float *v = r->adamw.host_v ? r->adamw.host_v + at : NULL;
        ok = gpt_succeeded(r, rondo_zero_save(r->zero, i, MOMENT_M, 0, m), "saving") &&
             gpt_succeeded(r, rondo_zero_save(r->zero, i, MOMENT_V, 0, v), "saving");
    }
    return ok;
}
