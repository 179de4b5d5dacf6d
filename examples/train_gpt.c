// SPDX-License-Identifier: MIT
// Trains a small GPT on text, data-parallel over the ranks of a job:
//     rondo-run -n 4 train_gpt
//
// This file and gpt_setup.c are the part that has to do with Rondo; the model, its optimizer and
// the rest know nothing of ranks. Each step, every rank
//   1. takes its share of the global batch                                    gpt_train_batch
//   2. runs forward and backward, which hands each gradient to DDP as soon
//      as it is complete, so that it travels while earlier layers are computed   on_ready
//   3. waits for the gradients that are still on their way                    rondo_ddp_finish
//   4. makes the same optimizer step as all others.                           gpt_adamw_step
#include <inttypes.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include <rondo/rondo.h>

#include "gpt_adamw.h"
#include "gpt_checkpoint.h"
#include "gpt_curve.h"
#include "gpt_data.h"
#include "gpt_device.h"
#include "gpt_model.h"
#include "gpt_options.h"
#include "gpt_report.h"
#include "gpt_run.h"
#include "gpt_sample.h"

enum { HELD_WINDOWS = 512 }; // on which the held-out loss is measured, if there are so many

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

// ---- Signals ------------------------------------------------------------------------------------

static volatile sig_atomic_t interrupted, terminated;

// The step is finished first. The second signal of a kind ends the process as it would have without
// this handler: for a job that hangs.
static void on_signal(int number) {
    volatile sig_atomic_t *seen = number == SIGINT ? &interrupted : &terminated;
    if (*seen) {
        signal(number, SIG_DFL);
        raise(number);
    }
    *seen = 1;
}

static void catch_signals(void (*handler)(int)) {
    struct sigaction action = {.sa_handler = handler, .sa_flags = SA_RESTART};
    sigemptyset(&action.sa_mask);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
}

// ---- Held-out text ------------------------------------------------------------------------------

// Mean loss on the held-out windows, in nats per byte; each rank measures its share of them.
static bool test(struct gpt_run *r, double *mean) {
    const double start = now();
    const int context = (int)r->o.context, most = gpt_share_count(&r->share);
    const size_t windows = gpt_held_count(&r->corpus, context, HELD_WINDOWS);
    double sum = 0.0;
    size_t i = (size_t)r->share.rank;
    while (i < windows) {
        int n = 0;
        for (; n < most && i < windows; n++, i += (size_t)r->share.world) {
            gpt_held_window(&r->corpus, context, HELD_WINDOWS, i, r->in + n * context,
                            r->target + n * context);
        }
        double part;
        gpt_forward(&r->model, r->act, r->in, n, context);
        gpt_measure(r->act, r->target);
        if (!gpt_worked(r, gpt_loss(r->act, &part, &r->error))) {
            return false;
        }
        sum += part;
    }
    if (!gpt_succeeded(r, rondo_all_reduce(&sum, &sum, 1, RONDO_F64, RONDO_SUM, r->comm),
                       "adding up losses")) {
        return false;
    }
    *mean = sum / ((double)windows * context);
    r->tested += now() - start;
    return true;
}

static bool save_picture(struct gpt_run *r) {
    const struct gpt_caption caption = {.ranks = r->share.world,
                                        .parameters = r->model.count,
                                        .shape = r->model.shape,
                                        .batch = r->o.batch,
                                        .text = r->corpus.train_len};
    return !r->o.plot || r->share.rank != 0 ||
           gpt_worked(r, gpt_curve_save_svg(&r->curve, r->o.plot, &caption, &r->error));
}

// ---- Training -----------------------------------------------------------------------------------

// What the ranks tell each other in a step besides gradients; summed.
enum { TALLY_LOSS, TALLY_INTERRUPTED, TALLY_TERMINATED, TALLY_FRACTION, TALLY_SIZE };

// How much of the run will be done after the step that is under way. Only rank 0's clock counts:
// all ranks have to agree on the learning rate and on the last step.
static double fraction_done(const struct gpt_run *r) {
    const double steps = r->o.steps ? (double)(r->adamw.steps + 1) / (double)r->o.steps : 0.0;
    const double time = r->o.minutes > 0.0 ? (now() - r->began) / (60.0 * r->o.minutes) : 0.0;
    return r->share.rank == 0 ? fmax(steps, time) : 0.0;
}

static bool no_number(struct gpt_run *r, const struct gpt_point *point) {
    r->everywhere = true;
    return gpt_worked(r, gpt_fail(&r->error,
                                  "the loss is no longer a number after %" PRIu64
                                  " steps: lower --lr or raise "
                                  "--warmup",
                                  point->step));
}

// After backward: adds up what the ranks tell each other, and reduces their gradients. A GPU still
// computes them meanwhile; it is waited for only until the loss is known.
static bool reduce(struct gpt_run *r, double tally[TALLY_SIZE]) {
    if (r->failed || !gpt_worked(r, gpt_loss(r->act, &tally[TALLY_LOSS], &r->error))) {
        return false;
    }
    tally[TALLY_INTERRUPTED] = interrupted;
    tally[TALLY_TERMINATED] = terminated;
    tally[TALLY_FRACTION] = fraction_done(r);
    // Started before the wait for the gradients, so that the two share one wait.
    rondo_request *request = NULL;
    if (!gpt_succeeded(r,
                       rondo_all_reduce_start(tally, tally, TALLY_SIZE, RONDO_F64, RONDO_SUM,
                                              r->comm, &request),
                       "a step")) {
        return false;
    }
    const bool reduced = gpt_succeeded(r, rondo_ddp_finish(r->ddp), "reducing gradients");
    return gpt_succeeded(r, rondo_wait(&request), "a step") && reduced;
}

// Forward, backward, reduction and optimizer. point->train, rate and norm are filled in.
static bool train_step(struct gpt_run *r, struct gpt_point *point) {
    const struct gpt_options *o = &r->o;
    const int context = (int)o->context, sequences = gpt_share_count(&r->share);
    const double tokens = (double)o->batch * context;
    if (!gpt_train_batch(&r->corpus, &r->share, (uint64_t)o->seed, r->adamw.steps, context, r->in,
                         r->target)) {
        return gpt_succeeded(r, RONDO_ERR_INVALID, "dealing out the batch");
    }
    gpt_forward(&r->model, r->act, r->in, sequences, context);
    gpt_backward(&r->model, r->act, r->target, (float)(1.0 / tokens), &r->gradients);
    double tally[TALLY_SIZE] = {0};
    if (!reduce(r, tally)) {
        return false;
    }

    point->train = tally[TALLY_LOSS] / tokens;
    if (!isfinite(point->train)) {
        return no_number(r, point);
    }
    point->rate =
        gpt_learning_rate(o->rate, 0.05, r->adamw.steps, (uint64_t)o->warmup, r->fraction);
    gpt_adamw_step(&r->adamw, &r->model, &r->gradients, (float)point->rate, o->clip);
    if (!gpt_worked(r, gpt_adamw_norm(&r->adamw, &point->norm, &r->error))) {
        return false;
    }
    if (!isfinite(point->norm)) {
        return no_number(r, point);
    }
    r->fraction = tally[TALLY_FRACTION];
    r->signal = tally[TALLY_INTERRUPTED] > 0.0  ? SIGINT
                : tally[TALLY_TERMINATED] > 0.0 ? SIGTERM
                                                : 0;
    return true;
}

static double speed(const struct gpt_run *r) {
    const double seconds = now() - r->began - r->tested;
    return (double)(r->adamw.steps - r->first_step) * (double)(r->o.batch * r->o.context) /
           fmax(seconds, 1e-9);
}

static void show(struct gpt_run *r, const struct gpt_point *p, bool measured) {
    rondo_ddp_stats stats = {.size = sizeof stats};
    const bool many = r->share.world > 1 && rondo_ddp_get_stats(r->ddp, &stats) == RONDO_OK;
    const struct gpt_status status = {
        .step = p->step,
        .fraction = r->fraction,
        .seconds = now() - r->began,
        .speed = speed(r),
        .train = p->train,
        .held = r->held_last,
        .hidden = many && stats.total_comm > 0.0 ? 1.0 - stats.total_exposed / stats.total_comm
                                                 : NAN,
    };
    gpt_progress_show(&r->progress, &status, measured);
}

static bool fetch_parameters(struct gpt_run *r) {
    gpt_model_fetch(&r->model);
    return gpt_worked(r, r->device->does->wait(r->device, &r->error));
}

static bool save(struct gpt_run *r) {
    if (!r->o.checkpoint || r->share.rank != 0) {
        return true;
    }
    gpt_adamw_fetch(&r->adamw);
    // What went wrong in a reduction on a GPU shows only now, and would be saved.
    rondo_ddp_stats stats = {.size = sizeof stats};
    return fetch_parameters(r) &&
           gpt_succeeded(r, rondo_ddp_get_stats(r->ddp, &stats), "reducing gradients") &&
           gpt_worked(r, gpt_checkpoint_save(r->o.checkpoint, &r->model, &r->adamw, &r->error));
}

static bool train(struct gpt_run *r) {
    const struct gpt_options *o = &r->o;
    if (!test(r, &r->held_first)) {
        return false;
    }
    r->tested = 0.0;
    r->began = now();
    r->fraction = o->steps ? (double)r->first_step / (double)o->steps : 0.0;
    for (bool begin = true; r->fraction < 1.0 && !r->signal; begin = false) {
        const uint64_t step = r->adamw.steps;
        struct gpt_point point = {.step = step, .held = begin ? r->held_first : NAN};
        const bool due = !begin && o->eval_every && step % (uint64_t)o->eval_every == 0;
        if (due && test(r, &r->held_last)) {
            point.held = r->held_last;
        }
        point.seconds = now() - r->began;
        if (r->failed || !train_step(r, &point)) {
            return false;
        }
        if (r->share.rank == 0 && !gpt_worked(r, gpt_curve_add(&r->curve, &point, &r->error))) {
            return false;
        }
        if (r->share.rank == 0) {
            show(r, &point, due);
        }
        if ((due && !save_picture(r)) ||
            (o->save_every && r->adamw.steps % (uint64_t)o->save_every == 0 && !save(r))) {
            return false;
        }
    }
    return true;
}

// ---- The end ------------------------------------------------------------------------------------

// Compares the parameters of all ranks and adds up what they measured.
static bool summarise(struct gpt_run *r, struct gpt_summary *s) {
    rondo_ddp_stats stats = {.size = sizeof stats};
    int odd;
    if (!fetch_parameters(r)) {
        return false;
    }
    s->hash = gpt_hash(GPT_HASH_START, r->model.host, r->model.count * sizeof(float));
    if (!gpt_compare(r, &s->hash, &odd) ||
        !gpt_succeeded(r, rondo_ddp_get_stats(r->ddp, &stats), "reading statistics")) {
        return false;
    }
    double times[2] = {stats.total_comm, stats.total_exposed};
    s->sent = stats.bytes_sent;
    if (!gpt_succeeded(r, rondo_all_reduce(times, times, 2, RONDO_F64, RONDO_AVG, r->comm),
                       "adding up times") ||
        !gpt_succeeded(r, rondo_all_reduce(&s->sent, &s->sent, 1, RONDO_U64, RONDO_MAX, r->comm),
                       "adding up bytes")) {
        return false;
    }
    s->equal = odd == 0;
    s->comm = times[0];
    s->exposed = times[1];
    s->reduced = stats.bytes_reduced;
    return true;
}

static bool finish(struct gpt_run *r) {
    const double seconds = now() - r->began, tokens_per_second = speed(r);
    struct gpt_summary s = {
        .ranks = r->share.world,
        .steps = r->adamw.steps - r->first_step,
        .seconds = seconds,
        .speed = tokens_per_second,
        .before = r->held_first,
        .picture = r->o.plot,
        .checkpoint = r->o.checkpoint,
        .device = r->device->name,
        .windows = gpt_held_count(&r->corpus, (int)r->o.context, HELD_WINDOWS),
    };
    if (!save(r) || !test(r, &s.after) || !summarise(r, &s)) {
        return false;
    }
    if (r->share.rank == 0) {
        const struct gpt_point last = {.step = r->adamw.steps,
                                       .seconds = seconds,
                                       .rate = NAN,
                                       .train = NAN,
                                       .norm = NAN,
                                       .held = s.after};
        gpt_progress_end(&r->progress);
        if (!gpt_worked(r, gpt_curve_add(&r->curve, &last, &r->error)) || !save_picture(r)) {
            return false;
        }
        gpt_report(&s);
    }
    r->everywhere = !s.equal;
    return gpt_worked(r, s.equal ||
                             gpt_fail(&r->error, "the ranks' parameters differ after training"));
}

// A signal ended the training: what was reached is saved. The ranks wait for that, because a
// launcher takes the first rank that ends for a failure and ends the others.
static int stop(struct gpt_run *r) {
    gpt_progress_end(&r->progress);
    if (save(r) && r->share.rank == 0) {
        printf("stopped by %s after %" PRIu64 " steps%s%s\n",
               r->signal == SIGINT ? "SIGINT" : "SIGTERM", r->adamw.steps,
               r->o.checkpoint ? "; saved to " : "", r->o.checkpoint ? r->o.checkpoint : "");
        fflush(stdout);
    }
    return !r->failed && gpt_succeeded(r, rondo_barrier(r->comm), "stopping") ? 128 + r->signal
                                                                              : r->code;
}

// The library writes it; it ends with the communicator.
static bool trace(struct gpt_run *r) {
    char path[4096];
    snprintf(path, sizeof path, rondo_comm_size(r->comm) > 1 ? "%s.%d" : "%s", r->o.trace,
             rondo_comm_rank(r->comm));
    return gpt_succeeded(r, rondo_trace_start(r->comm, path), "--trace");
}

static int run(struct gpt_run *r) {
    if (!gpt_succeeded(r, rondo_init(NULL, &r->comm), "joining the job") ||
        (r->o.trace && !trace(r)) || !gpt_set_up(r)) {
        return r->code;
    }
    catch_signals(on_signal);
    const bool ok = train(r);
    catch_signals(r->signal ? SIG_IGN : SIG_DFL);
    if (ok && r->signal) {
        return stop(r);
    }
    return ok && finish(r) ? 0 : r->code;
}

static void complain(struct gpt_run *r) {
    gpt_progress_end(&r->progress);
    fprintf(stderr, "train_gpt: %s\n", r->error.text);
}

// Parts from the other ranks and frees everything. Rank 0 writes the sample when they are gone, so
// that they need not wait for it.
static int leave(struct gpt_run *r, int code) {
    if (r->failed) {
        complain(r);
    }
    if (r->failed && !r->everywhere) {
        // Such as a full disk: the other ranks wait for this one.
        (void)rondo_comm_abort(r->comm, r->error.text);
    }
    const bool failed = r->failed;
    gpt_succeeded(r, rondo_ddp_destroy(r->ddp), "leaving");
    gpt_succeeded(r, rondo_comm_destroy(r->comm), "leaving");
    if (code == 0 && r->share.rank == 0 && r->o.sample) {
        gpt_worked(r, gpt_sample(&r->model, r->act, (uint64_t)r->o.seed, r->o.temperature,
                                 (size_t)r->o.sample, &r->error));
    }
    gpt_worked(r, gpt_curve_close(&r->curve, &r->error));
    if (r->failed && !failed) {
        complain(r);
        code = 1;
    }
    gpt_activations_free(r->act);
    gpt_adamw_free(&r->adamw);
    gpt_model_free(&r->model);
    r->device->does->close(r->device);
    gpt_corpus_free(&r->corpus);
    gpt_options_free(&r->o);
    free(r->in);
    free(r->target);
    return code;
}

int main(int argc, char **argv) {
    struct gpt_run r = {.held_first = NAN, .held_last = NAN, .code = 1, .device = gpt_cpu()};
    switch (gpt_options_parse(argc, argv, &r.o, &r.error)) {
    case GPT_OPTIONS_HELP:
        gpt_options_help(stdout);
        return 0;
    case GPT_OPTIONS_WRONG:
        fprintf(stderr, "train_gpt: %s\n", r.error.text);
        return 2;
    case GPT_OPTIONS_RUN:
        break;
    }
    // Before the ranks meet: text that is missing is missing everywhere, and nobody has to wait to
    // say so.
    if (!gpt_corpus_load(&r.corpus, r.o.data, r.o.files, (int)r.o.context, &r.error)) {
        fprintf(stderr, "train_gpt: %s\n", r.error.text);
        gpt_options_free(&r.o);
        return 1;
    }
    return leave(&r, run(&r));
}
