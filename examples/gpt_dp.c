// SPDX-License-Identifier: MIT
// What a program has to do for DP: a model for each device whose tensors are the replica's, with activations of its
// own, and one function that computes the rows of a part with them. Everything else is as on one device.
#include "gpt_dp.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "gpt_math.h"
#include "gpt_run.h"

struct replica {
    struct gpt_device *device; // keeps sums of what it computed
    struct gpt_model model;    // borrowed memory; only the table of tensors is its own
    struct gpt_activations *act;
    struct gpt_gradients gradients;
    struct gpt_dp *owner;
    int index;
    double loss;
};

struct gpt_dp {
    rondo_dp *dp;
    struct replica *replica;
    int devices;
};

int gpt_dp_most(const struct gpt_run *r, int all) { return (int)((all + r->o.dp - 1) / r->o.dp); }

// ---- Replicas -----------------------------------------------------------------------------------

static float *gradient_of(void *arg, size_t i) {
    const struct replica *replica = arg;
    return rondo_dp_grad(replica->owner->dp, replica->index, i);
}

static void on_ready(void *arg, size_t i) {
    (void)arg; // DP adds up when all are there
    (void)i;
}

// A replica's own device, memory and table of tensors; on the device's thread.
static bool make_replica(const struct gpt_run *r, struct replica *replica, struct gpt_error *e) {
    static pthread_mutex_t opening = PTHREAD_MUTEX_INITIALIZER; // libraries are loaded
    struct gpt_model *m = &replica->model;
    const size_t bytes = r->model.tensors * sizeof *m->tensor;
    pthread_mutex_lock(&opening);
    replica->device = r->o.device == GPT_DEVICE_CUDA ? gpt_cuda_open(replica->index, e)
                                                     : gpt_cpu_create(e);
    pthread_mutex_unlock(&opening);
    if (!replica->device) {
        return false;
    }
    *m = (struct gpt_model){.shape = r->model.shape,
                            .tensor = malloc(bytes),
                            .tensors = r->model.tensors,
                            .count = r->model.count,
                            .device = replica->device};
    if (!m->tensor) {
        return gpt_fail(e, "no memory for a list of tensors");
    }
    memcpy(m->tensor, r->model.tensor, bytes);
    for (size_t i = 0; i < m->tensors; i++) {
        m->tensor[i].data = rondo_dp_param(replica->owner->dp, replica->index, i);
    }
    replica->act = gpt_activations_create(m, gpt_dp_most(r, (int)r->o.batch), e);
    return replica->act != NULL;
}

static rondo_status open_one(rondo_dp_part *part, void *arg) {
    const struct gpt_run *r = arg;
    struct gpt_error why;
    if (part->device > 0 && !make_replica(r, &r->dp->replica[part->device], &why)) {
        snprintf(part->why, sizeof part->why, "%.255s", why.text);
        return RONDO_ERR_SYSTEM;
    }
    return RONDO_OK;
}

static rondo_status close_one(rondo_dp_part *part, void *arg) {
    struct replica *replica = &((const struct gpt_run *)arg)->dp->replica[part->device];
    if (part->device > 0) {
        gpt_activations_free(replica->act);
        free(replica->model.tensor);
        if (replica->device) {
            replica->device->does->close(replica->device);
        }
    }
    return RONDO_OK;
}

static void say(void *arg, rondo_log_level level, const char *line) {
    (void)arg;
    if (level <= RONDO_LOG_WARN) {
        fprintf(stderr, "train_gpt: %s\n", line);
    }
}

static bool create(struct gpt_run *r, struct gpt_dp *d) {
    const struct gpt_model *m = &r->model;
    rondo_param *params = calloc(m->tensors, sizeof *params);
    rondo_dp_options options = RONDO_DP_OPTIONS_INIT;
    int ordinals[RONDO_DP_MAX_DEVICES];
    options.log = say;
    if (r->o.device == GPT_DEVICE_CUDA) {
        const int there = gpt_cuda_count(r->device);
        for (int k = 0; k < d->devices; k++) {
            ordinals[k] = k % there;
        }
        options.cuda = ordinals;
    }
    for (size_t i = 0; params && i < m->tensors; i++) {
        const struct gpt_tensor *t = &m->tensor[i];
        params[i] =
            (rondo_param){.name = t->name, .data = t->data, .count = t->count, .type = RONDO_F32};
    }
    bool ok = gpt_worked(r, params || gpt_fail(&r->error, "no memory for a list of tensors")) &&
              gpt_succeeded(r, rondo_dp_create(params, m->tensors, d->devices, &options, &d->dp),
                            "creating DP");
    free(params);
    return ok;
}

// The first device computes on the run's own model.
static void begin_replicas(struct gpt_run *r, struct gpt_dp *d) {
    for (int k = 0; k < d->devices; k++) {
        struct replica *replica = &d->replica[k];
        replica->owner = d;
        replica->index = k;
        replica->gradients =
            (struct gpt_gradients){.where = gradient_of, .ready = on_ready, .arg = replica};
    }
    d->replica[0].device = r->device;
    d->replica[0].model = r->model;
    d->replica[0].act = r->act;
    r->gradients = d->replica[0].gradients;
}

bool gpt_dp_create(struct gpt_run *r) {
    struct gpt_dp *d = r->dp = calloc(1, sizeof *d);
    if (d) {
        d->devices = (int)r->o.dp;
        d->replica = calloc((size_t)d->devices, sizeof *d->replica);
    }
    if (!d || !d->replica) {
        return gpt_worked(r, gpt_fail(&r->error, "no memory for replicas"));
    }
    if (!create(r, d)) {
        return false;
    }
    if (d->devices > 1 && r->o.device == GPT_DEVICE_CPU && !gpt_blas_shared()) {
        fprintf(stderr, "train_gpt: this OpenBLAS is built for one thread, so the devices multiply "
                        "matrices one at a time; with libopenblas0-pthread they do it together\n");
    }
    begin_replicas(r, d);
    return gpt_succeeded(r, rondo_dp_apply(d->dp, (uint64_t)d->devices, open_one, r),
                         "making replicas");
}

void gpt_dp_free(struct gpt_run *r) {
    struct gpt_dp *d = r->dp;
    if (d && d->dp) {
        gpt_succeeded(r, rondo_dp_apply(d->dp, (uint64_t)d->devices, close_one, r), "leaving");
        gpt_succeeded(r, rondo_dp_destroy(d->dp), "leaving");
    }
    if (d) {
        free(d->replica);
    }
    free(d);
    r->dp = NULL;
}

// ---- Passes -------------------------------------------------------------------------------------

struct work {
    struct gpt_run *r;
    float scale;
    bool backward;
};

// On the device's thread.
static rondo_status compute(rondo_dp_part *part, void *arg) {
    const struct work *work = arg;
    const struct gpt_run *r = work->r;
    struct replica *replica = &r->dp->replica[part->device];
    const int context = (int)r->o.context;
    const size_t at = (size_t)part->first * (size_t)context;
    struct gpt_error why;
    gpt_forward(&replica->model, replica->act, r->in + at, (int)part->count, context);
    if (work->backward) {
        gpt_backward(&replica->model, replica->act, r->target + at, work->scale,
                     &replica->gradients);
    } else {
        gpt_measure(replica->act, r->target + at);
    }
    // A CUDA device has a stream of the model's own, of which DP does not know.
    if (!gpt_loss(replica->act, &replica->loss, &why) ||
        !replica->device->does->wait(replica->device, &why)) {
        snprintf(part->why, sizeof part->why, "%.255s", why.text);
        return RONDO_ERR_SYSTEM;
    }
    return RONDO_OK;
}

// Always in the order of the devices, so that the same run gives the same figures.
static double losses(const struct gpt_run *r, int sequences) {
    double sum = 0.0;
    for (int k = 0; k < r->dp->devices && k < sequences; k++) {
        sum += r->dp->replica[k].loss;
    }
    return sum;
}

// A CUDA device may still be at the optimizer's step.
static bool parameters_complete(struct gpt_run *r) {
    return gpt_worked(r, r->device->does->wait(r->device, &r->error));
}

bool gpt_dp_train(struct gpt_run *r, int sequences, float scale, double *loss) {
    struct work work = {.r = r, .scale = scale, .backward = true};
    bool ok =
        parameters_complete(r) &&
        gpt_succeeded(r, rondo_dp_step(r->dp->dp, (uint64_t)sequences, compute, &work), "a step");
    *loss = losses(r, sequences);
    return ok;
}

bool gpt_dp_test(struct gpt_run *r, int sequences, double *loss) {
    struct work work = {.r = r};
    bool ok = parameters_complete(r) &&
              gpt_succeeded(r, rondo_dp_replicate(r->dp->dp), "measuring the loss") &&
              gpt_succeeded(r, rondo_dp_apply(r->dp->dp, (uint64_t)sequences, compute, &work),
                            "measuring the loss");
    *loss = losses(r, sequences);
    return ok;
}

void gpt_dp_times(const struct gpt_run *r, double *replicating, double *reducing) {
    rondo_dp_stats stats = {.size = sizeof stats};
    (void)rondo_dp_get_stats(r->dp->dp, &stats);
    *replicating = stats.replicating;
    *reducing = stats.reducing;
}
