// SPDX-License-Identifier: MIT
// How the ranks of train_gpt get ready: they check that all were started alike, rank 0 sees to the
// files, DDP gets the list of parameters and spreads those of rank 0.
#include <inttypes.h>
#include <stdlib.h>
#include <unistd.h>

#include "gpt_checkpoint.h"
#include "gpt_dp.h"
#include "gpt_file.h"
#include "gpt_hook.h"
#include "gpt_math.h"
#include "gpt_run.h"

bool gpt_succeeded(struct gpt_run *r, rondo_status status, const char *doing) {
    if (status != RONDO_OK && r->elastic && r->ddp && rondo_comm_error(r->comm) != RONDO_OK) {
        r->shaken = true;
        return false;
    }
    if (status != RONDO_OK && !r->failed) {
        r->failed = true;
        gpt_fail(&r->error, "%s: %s", doing, rondo_last_error());
    }
    return status == RONDO_OK;
}

bool gpt_worked(struct gpt_run *r, bool ok) {
    r->failed = r->failed || !ok;
    return ok;
}

// ---- Gradients ----------------------------------------------------------------------------------

// The model writes its gradients straight into DDP's buckets.
static float *gradient_of(void *arg, size_t i) {
    return rondo_ddp_grad(((struct gpt_run *)arg)->ddp, i);
}

static void on_ready(void *arg, size_t i) {
    struct gpt_run *r = arg;
    gpt_succeeded(r, rondo_ddp_grad_ready(r->ddp, i), "handing over a gradient");
}

static bool create_ddp(struct gpt_run *r) {
    struct gpt_model *m = &r->model;
    rondo_param *params = calloc(m->tensors, sizeof *params);
    size_t *rows = calloc(m->tensors, sizeof *rows);
    rondo_ddp_hook hook;
    bool any = false;
    if (!gpt_worked(r,
                    (params && rows) ||
                        gpt_fail(&r->error, "no memory for a list of %zu tensors", m->tensors)) ||
        !gpt_worked(r, gpt_hook_make(r->o.hook, &hook, &any, &r->error))) {
        free(params);
        free(rows);
        return false;
    }
    for (size_t i = 0; i < m->tensors; i++) {
        const struct gpt_tensor *t = &m->tensor[i];
        params[i] =
            (rondo_param){.name = t->name, .data = t->data, .count = t->count, .type = RONDO_F32};
        rows[i] = t->rows;
    }
    // Sums instead of means: each rank's gradient already is that of the mean over the global
    // batch, which is right also when some ranks have a sequence more than others. The library's
    // buckets are for models of gigabytes; this one is small, and with one bucket for all there
    // would be nothing to overlap.
    rondo_ddp_options options = RONDO_DDP_OPTIONS_INIT;
    options.average = 0;
    options.device = r->device->ordinal;
    options.stream = r->device->stream;
    if (r->o.bucket == GPT_BUCKET_AUTO) {
        options.bucket_bytes = RONDO_DDP_BUCKET_AUTO;
    } else {
        options.first_bucket_bytes = options.bucket_bytes = (size_t)r->o.bucket << 10;
    }
    options.shard = r->o.zero;
    options.hook = any ? &hook : NULL;
    options.rows = rows;
    // What a rank that comes later needs besides parameters. Nothing has to be saved for a step that
    // is repeated: it is a function of parameters and its number.
    const size_t moments = r->adamw.count * sizeof(float);
    const rondo_ddp_state states[] = {{r->adamw.host_m, moments},
                                      {r->adamw.host_v, moments},
                                      {&r->adamw.steps, sizeof r->adamw.steps},
                                      {&r->course, sizeof r->course}};
    options.elastic = r->elastic;
    options.states = states;
    options.nstates = sizeof states / sizeof states[0];
    bool ok = gpt_succeeded(r, rondo_ddp_create(r->comm, params, m->tensors, &options, &r->ddp),
                            "creating DDP");
    free(params);
    free(rows);
    r->gradients = (struct gpt_gradients){.where = gradient_of, .ready = on_ready, .arg = r};
    return ok && (!r->o.zero || gpt_zero_create(r));
}

// ---- Setting up ---------------------------------------------------------------------------------

bool gpt_compare(struct gpt_run *r, uint64_t *value, int *odd) {
    uint64_t *all = calloc((size_t)r->share.world, sizeof *all);
    bool ok =
        gpt_worked(r, all || gpt_fail(&r->error, "no memory for %d numbers", r->share.world)) &&
        gpt_succeeded(r, rondo_all_gather(value, all, 1, RONDO_U64, r->comm), "comparing ranks");
    *odd = 0;
    for (int i = r->share.world - 1; ok && i > 0; i--) {
        *odd = all[i] != all[0] ? i : *odd;
    }
    *value = ok ? all[0] : *value;
    free(all);
    return ok;
}

// Ranks with another text or other options would train on different windows without a word, or
// wait for each other at different steps.
static bool same_start(struct gpt_run *r) {
    const uint64_t options = gpt_options_hash(&r->o);
    uint64_t hash = gpt_hash(gpt_corpus_hash(&r->corpus), &options, sizeof options);
    int odd;
    if (!gpt_compare(r, &hash, &odd)) {
        return false;
    }
    r->everywhere = odd != 0;
    return gpt_worked(
        r, !odd || gpt_fail(&r->error,
                            "ranks 0 and %d have different text or options: give all ranks "
                            "the same command line and the same files",
                            odd));
}

// What only rank 0 does with files; all ranks hear how it went, and if it failed, why.
static bool prepare_files(struct gpt_run *r) {
    const struct gpt_options *o = &r->o;
    struct {
        uint64_t ok, steps;
        struct gpt_error why;
    } outcome = {.ok = 1};
    if (r->share.rank == 0) {
        struct gpt_error *e = &outcome.why;
        outcome.ok = (!o->resume || gpt_checkpoint_load(o->resume, &r->model, &r->adamw, e)) &&
                     (!o->checkpoint || gpt_file_probe(o->checkpoint, e)) &&
                     (!o->plot || gpt_file_probe(o->plot, e)) &&
                     gpt_curve_open(&r->curve, o->csv, e);
        outcome.steps = r->adamw.steps;
    }
    if (!gpt_succeeded(r, rondo_broadcast(&outcome, &outcome, sizeof outcome, RONDO_U8, 0, r->comm),
                       "starting")) {
        return false;
    }
    r->adamw.steps = r->course.first_step = outcome.steps;
    r->everywhere = !outcome.ok;
    return gpt_worked(r, outcome.ok || gpt_fail(&r->error, "%.511s", outcome.why.text));
}

// DDP spreads rank 0's parameters; a run that goes on needs its moments everywhere as well.
static bool spread_moments(struct gpt_run *r) {
    struct gpt_adamw *a = &r->adamw;
    return !r->o.resume ||
           (gpt_succeeded(r, rondo_broadcast(a->host_m, a->host_m, a->count, RONDO_F32, 0, r->comm),
                          "resuming") &&
            gpt_succeeded(r, rondo_broadcast(a->host_v, a->host_v, a->count, RONDO_F32, 0, r->comm),
                          "resuming"));
}

static bool upload(struct gpt_run *r) {
    gpt_model_upload(&r->model);
    gpt_adamw_upload(&r->adamw);
    return gpt_worked(r, r->device->does->wait(r->device, &r->error));
}

static bool open_device(struct gpt_run *r) {
    if (r->o.device == GPT_DEVICE_CUDA) {
        struct gpt_device *d = gpt_cuda_open(rondo_comm_local_rank(r->comm), &r->error);
        r->device = d ? d : r->device;
        return gpt_worked(r, d != NULL);
    }
    gpt_blas_threads((int)r->o.threads);
    return true;
}

// What ranks that begin together do. A newcomer's peers are in the middle of a step: it gets all from
// them when its DDP is created.
static bool begin_together(struct gpt_run *r) {
    return rondo_comm_is_newcomer(r->job) ||
           (same_start(r) && prepare_files(r) && spread_moments(r));
}

// What DP cannot do, and a batch that leaves ranks or devices without work.
static bool check_size(struct gpt_run *r) {
    const struct gpt_options *o = &r->o;
    struct gpt_error *e = &r->error;
    const int parts = o->dp ? (int)o->dp : r->share.world;
    bool ok = !o->dp || (r->share.world == 1 && !r->elastic) ||
              gpt_fail(e,
                       "--dp %" PRId64
                       " is one process, and this is rank %d of a job of %d%s: start "
                       "it without rondo-run, or leave --dp out",
                       o->dp, r->share.rank, r->share.world, r->elastic ? ", elastic" : "");
    ok = ok && (o->batch >= parts ||
                gpt_fail(e, "--batch %" PRId64 " is less than one sequence for each of the %d %s",
                         o->batch, parts, o->dp ? "devices" : "ranks"));
    if (!ok) {
        // None may leave while others still join.
        r->everywhere = rondo_barrier(r->comm) == RONDO_OK;
        r->code = 2;
    }
    return gpt_worked(r, ok);
}

bool gpt_set_up(struct gpt_run *r) {
    const struct gpt_options *o = &r->o;
    const struct gpt_shape shape = gpt_options_shape(o);
    struct gpt_error *e = &r->error;
    r->comm = r->job;
    r->elastic = o->elastic || getenv("RONDO_ELASTIC");
    r->curve.careful = r->elastic;
    r->share = (struct gpt_share){
        .rank = rondo_comm_rank(r->comm), .world = rondo_comm_size(r->comm), .batch = o->batch};
    if (!check_size(r)) {
        return false;
    }
    r->progress =
        (struct gpt_progress){.live = o->live || isatty(STDOUT_FILENO), .quiet = o->quiet};
    return open_device(r) &&
           gpt_worked(r, gpt_model_create(&r->model, &shape, (uint64_t)o->seed, e)) &&
           gpt_worked(r, gpt_model_move(&r->model, r->device, e)) &&
           gpt_worked(r, gpt_adamw_create(&r->adamw, &r->model, o->decay, e)) && gpt_make_room(r) &&
           gpt_samples_open(r) && begin_together(r) && upload(r) &&
           (o->dp ? gpt_dp_create(r) : create_ddp(r)) && (!r->elastic || gpt_regroup(r));
}
