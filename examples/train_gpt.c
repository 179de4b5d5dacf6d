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
// With --elastic, rondo_ddp_finish() may say that ranks have failed or come again: then the step is
// repeated with those that there are (gpt_elastic.c). With --dp N all of it is one process, and what
// devices do is in gpt_dp.c.
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
#include "gpt_dp.h"
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

// Sum of the losses of r->in[sequences].
static bool measure(struct gpt_run *r, int sequences, double *sum) {
    if (r->dp) {
        return gpt_dp_test(r, sequences, sum);
    }
    gpt_forward(&r->model, r->act, r->in, sequences, (int)r->o.context);
    gpt_measure(r->act, r->target);
    return gpt_worked(r, gpt_loss(r->act, sum, &r->error));
}

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
            const size_t at = (size_t)n * (size_t)context;
            gpt_held_window(&r->corpus, context, HELD_WINDOWS, i, r->in + at, r->target + at);
        }
        double part;
        if (!measure(r, n, &part)) {
            return false;
        }
        sum += part;
    }
    if (!gpt_succeeded(r, rondo_all_reduce(&sum, &sum, 1, RONDO_F64, RONDO_SUM, r->comm),
                       "adding up losses")) {
        return false;
    }
    *mean = sum / ((double)windows * context);
    r->course.tested += now() - start;
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

static enum gpt_verdict no_number(struct gpt_run *r, const struct gpt_point *point) {
    r->everywhere = true;
    gpt_worked(r, gpt_fail(&r->error,
                           "the loss is no longer a number after %" PRIu64
                           " steps: lower --lr or raise "
                           "--warmup",
                           point->step));
    return GPT_OVER;
}

// After backward: adds up what the ranks tell each other, and reduces their gradients. A GPU still
// computes them meanwhile; it is waited for only until the loss is known.
static enum gpt_verdict reduce(struct gpt_run *r, double tally[TALLY_SIZE]) {
    tally[TALLY_LOSS] = r->loss;
    if (r->failed || !(r->dp || gpt_worked(r, gpt_loss(r->act, &tally[TALLY_LOSS], &r->error)))) {
        return GPT_OVER;
    }
    tally[TALLY_INTERRUPTED] = interrupted;
    tally[TALLY_TERMINATED] = terminated;
    tally[TALLY_FRACTION] = fraction_done(r);
    // Started before the wait for the gradients, so that the two share one wait.
    rondo_request *request = NULL;
    gpt_succeeded(
        r,
        rondo_all_reduce_start(tally, tally, TALLY_SIZE, RONDO_F64, RONDO_SUM, r->comm, &request),
        "a step");
    if (r->elastic) {
        // It has a part in the vote, and the next step may have another communicator. Gradients travel meanwhile.
        const double start = now();
        gpt_succeeded(r, rondo_wait(&request), "a step");
        r->waited += now() - start;
    }
    const enum gpt_verdict verdict = gpt_agree(r, rondo_ddp_finish, "reducing gradients");
    return gpt_succeeded(r, rondo_wait(&request), "a step") ? verdict : GPT_OVER;
}

static void forward_backward(struct gpt_run *r, int sequences, float scale) {
    if (r->dp) {
        (void)gpt_dp_train(r, sequences, scale, &r->loss);
    } else {
        gpt_forward(&r->model, r->act, r->in, sequences, (int)r->o.context);
        gpt_backward(&r->model, r->act, r->target, scale, &r->gradients);
    }
}

static bool optimize(struct gpt_run *r, struct gpt_point *point) {
    if (r->zero) {
        return gpt_zero_step(r, point->rate, r->o.clip, &point->norm);
    }
    gpt_adamw_step(&r->adamw, &r->model, &r->gradients, (float)point->rate, r->o.clip);
    return gpt_worked(r, gpt_adamw_norm(&r->adamw, &point->norm, &r->error));
}

// Forward, backward, reduction and optimizer. point->train, rate and norm are filled in.
static enum gpt_verdict train_step(struct gpt_run *r, struct gpt_point *point) {
    const struct gpt_options *o = &r->o;
    const int context = (int)o->context, sequences = gpt_share_count(&r->share);
    const double tokens = (double)o->batch * context;
    if (!gpt_train_batch(&r->corpus, &r->share, (uint64_t)o->seed, r->adamw.steps, context, r->in,
                         r->target, r->sample)) {
        gpt_succeeded(r, RONDO_ERR_INVALID, "dealing out the batch");
        return GPT_OVER;
    }
    forward_backward(r, sequences, (float)(1.0 / tokens));
    double tally[TALLY_SIZE] = {0};
    const enum gpt_verdict verdict = reduce(r, tally);
    if (verdict != GPT_COUNTS) {
        return verdict;
    }
    if (!gpt_samples_add(r, r->adamw.steps)) {
        return GPT_OVER;
    }

    point->train = tally[TALLY_LOSS] / tokens;
    if (!isfinite(point->train)) {
        return no_number(r, point);
    }
    point->rate =
        gpt_learning_rate(o->rate, 0.05, r->adamw.steps, (uint64_t)o->warmup, r->course.fraction);
    if (!optimize(r, point)) {
        return GPT_OVER;
    }
    if (!isfinite(point->norm)) {
        return no_number(r, point);
    }
    r->course.fraction = tally[TALLY_FRACTION];
    r->course.signal = tally[TALLY_INTERRUPTED] > 0.0  ? SIGINT
                       : tally[TALLY_TERMINATED] > 0.0 ? SIGTERM
                                                       : 0;
    return GPT_COUNTS;
}

static double speed(const struct gpt_run *r) {
    const double seconds = now() - r->began - r->course.tested;
    return (double)(r->adamw.steps - r->course.first_step) * (double)(r->o.batch * r->o.context) /
           fmax(seconds, 1e-9);
}

static void show(struct gpt_run *r, const struct gpt_point *p, bool measured) {
    rondo_ddp_stats stats = {.size = sizeof stats};
    const bool many = r->share.world > 1 && rondo_ddp_get_stats(r->ddp, &stats) == RONDO_OK;
    const struct gpt_status status = {
        .step = p->step,
        .fraction = r->course.fraction,
        .seconds = now() - r->began,
        .speed = speed(r),
        .train = p->train,
        .held = r->course.held_last,
        .hidden = many && stats.total_comm > 0.0
                      ? fmax(1.0 - (stats.total_exposed + r->waited) / stats.total_comm, 0.0)
                      : NAN,
    };
    gpt_progress_show(&r->progress, &status, measured);
}

static bool fetch_parameters(struct gpt_run *r) {
    gpt_model_fetch(&r->model);
    return gpt_worked(r, r->device->does->wait(r->device, &r->error));
}

// Rank 0 has them only for a checkpoint, where the optimizer is sharded.
static bool drop_moments(struct gpt_run *r) {
    if (r->zero) {
        gpt_adamw_drop(&r->adamw);
    }
    return true;
}

static bool save(struct gpt_run *r) {
    if (r->o.checkpoint && r->zero && !gpt_zero_fetch(r)) {
        return false;
    }
    if (!r->o.checkpoint || r->share.rank != 0) {
        return true;
    }
    // Those who were lost, or cut off from the others, do not write over what the others have. What
    // becomes of it shows at the next agreement.
    if (r->elastic && rondo_comm_error(r->comm) != RONDO_OK) {
        return true;
    }
    gpt_adamw_fetch(&r->adamw);
    // What went wrong in a reduction on a GPU shows only now, and would be saved.
    rondo_ddp_stats stats = {.size = sizeof stats};
    return fetch_parameters(r) &&
           (r->dp || gpt_succeeded(r, rondo_ddp_get_stats(r->ddp, &stats), "reducing gradients")) &&
           gpt_worked(r, gpt_checkpoint_save(r->o.checkpoint, &r->model, &r->adamw, &r->error)) &&
           drop_moments(r);
}

// The held-out loss before the first step.
static enum gpt_verdict begin(struct gpt_run *r) {
    double held = NAN;
    (void)test(r, &held);
    const enum gpt_verdict verdict = gpt_agree(r, rondo_ddp_commit, "measuring the first loss");
    if (verdict == GPT_COUNTS) {
        struct gpt_course *c = &r->course;
        c->begun = 1;
        c->held_first = held;
        c->tested = 0.0;
        c->fraction = r->o.steps ? (double)c->first_step / (double)r->o.steps : 0.0;
        r->began = now();
    }
    return verdict;
}

// One round of the loop, up to the optimizer's step; a loss that is due comes first.
static enum gpt_verdict round_of(struct gpt_run *r, struct gpt_point *point, bool due) {
    if (due && test(r, &r->course.held_last)) {
        point->held = r->course.held_last;
    }
    point->seconds = r->course.seconds = now() - r->began;
    if (r->shaken) {
        return gpt_agree(r, rondo_ddp_finish, "measuring the loss");
    }
    return r->failed ? GPT_OVER : train_step(r, point);
}

// What was learned in a round, and what is kept of it.
static bool conclude(struct gpt_run *r, const struct gpt_point *point, bool due) {
    const struct gpt_options *o = &r->o;
    // Whoever may come to be the lowest rank.
    if ((r->share.rank == 0 || r->elastic) &&
        !gpt_worked(r, gpt_curve_add(&r->curve, point, &r->error))) {
        return false;
    }
    if (r->share.rank == 0) {
        show(r, point, due);
    }
    return (!due || save_picture(r)) &&
           (!o->save_every || r->adamw.steps % (uint64_t)o->save_every != 0 || save(r));
}

static bool train(struct gpt_run *r) {
    const struct gpt_options *o = &r->o;
    struct gpt_course *c = &r->course;
    enum gpt_verdict verdict = GPT_COUNTS;
    r->began = now() - c->seconds; // of a newcomer
    while (verdict != GPT_OVER && !c->begun) {
        verdict = begin(r);
    }
    while (verdict != GPT_OVER && c->fraction < 1.0 && !c->signal) {
        const uint64_t step = r->adamw.steps;
        const bool first = step == c->first_step;
        const bool due = !first && o->eval_every && step % (uint64_t)o->eval_every == 0;
        struct gpt_point point = {.step = step, .held = first ? c->held_first : NAN};
        verdict = round_of(r, &point, due);
        if (verdict == GPT_COUNTS && !conclude(r, &point, due)) {
            return false;
        }
    }
    return verdict != GPT_OVER;
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
    if (r->dp) {
        s->equal = true;
        gpt_dp_times(r, &s->replicating, &s->reducing);
        return true;
    }
    if (!gpt_compare(r, &s->hash, &odd) ||
        !gpt_succeeded(r, rondo_ddp_get_stats(r->ddp, &stats), "reading statistics")) {
        return false;
    }
    double times[2] = {stats.total_comm, fmin(stats.total_exposed + r->waited, stats.total_comm)};
    s->sent = stats.bytes_sent;
    if (!gpt_succeeded(r, rondo_all_reduce(times, times, 2, RONDO_F64, RONDO_AVG, r->comm),
                       "adding up times") ||
        !gpt_succeeded(r, rondo_all_reduce(&s->sent, &s->sent, 1, RONDO_U64, RONDO_MAX, r->comm),
                       "adding up bytes")) {
        return false;
    }
    if (r->zero && !gpt_succeeded(r, rondo_zero_bytes(r->zero, &s->moments, &s->all_moments),
                                  "reading statistics")) {
        return false;
    }
    s->bucket = r->o.bucket == GPT_BUCKET_AUTO ? stats.bucket_bytes : 0;
    s->handed = stats.hook_bytes;
    s->left_out = stats.hook_error;
    s->equal = odd == 0;
    s->comm = times[0];
    s->exposed = times[1];
    s->reduced = stats.bytes_reduced;
    return true;
}

static struct gpt_summary summary_of(const struct gpt_run *r) {
    return (struct gpt_summary){
        .ranks = r->share.world,
        .devices = (int)r->o.dp,
        .steps = r->adamw.steps - r->course.first_step,
        .seconds = now() - r->began,
        .speed = speed(r),
        .before = r->course.held_first,
        .picture = r->o.plot,
        .checkpoint = r->o.checkpoint,
        .device = r->device->name,
        .hook = r->o.hook,
        .windows = gpt_held_count(&r->corpus, (int)r->o.context, HELD_WINDOWS),
    };
}

static bool report(struct gpt_run *r, const struct gpt_summary *s) {
    const struct gpt_point last = {.step = r->adamw.steps,
                                   .seconds = s->seconds,
                                   .rate = NAN,
                                   .train = NAN,
                                   .norm = NAN,
                                   .held = s->after};
    gpt_progress_end(&r->progress);
    if (!gpt_worked(r, gpt_curve_add(&r->curve, &last, &r->error)) || !save_picture(r)) {
        return false;
    }
    gpt_report(s);
    return true;
}

static bool finish(struct gpt_run *r) {
    struct gpt_summary s;
    enum gpt_verdict verdict;
    do {
        s = summary_of(r);
        (void)(test(r, &s.after) && summarise(r, &s) && save(r));
        verdict = gpt_agree(r, rondo_ddp_commit, "the end");
    } while (verdict == GPT_AGAIN);
    if (verdict == GPT_OVER || (r->share.rank == 0 && !report(r, &s))) {
        return false;
    }
    r->everywhere = !s.equal;
    return gpt_worked(r, s.equal ||
                             gpt_fail(&r->error, "the ranks' parameters differ after training"));
}

// A signal ended the training: what was reached is saved. The ranks wait for that, because a
// launcher takes the first rank that ends for a failure and ends the others.
static int stop(struct gpt_run *r) {
    enum gpt_verdict verdict;
    gpt_progress_end(&r->progress);
    do {
        (void)(save(r) && gpt_succeeded(r, rondo_barrier(r->comm), "stopping"));
        verdict = gpt_agree(r, rondo_ddp_commit, "stopping");
    } while (verdict == GPT_AGAIN);
    if (verdict == GPT_COUNTS && r->share.rank == 0) {
        printf("stopped by %s after %" PRIu64 " steps%s%s\n",
               r->course.signal == SIGINT ? "SIGINT" : "SIGTERM", r->adamw.steps,
               r->o.checkpoint ? "; saved to " : "", r->o.checkpoint ? r->o.checkpoint : "");
        fflush(stdout);
    }
    return verdict == GPT_COUNTS ? 128 + (int)r->course.signal : r->code;
}

// The library writes it; it ends with the communicator.
static bool trace(struct gpt_run *r) {
    char path[4096];
    snprintf(path, sizeof path, rondo_comm_size(r->job) > 1 ? "%s.%d" : "%s", r->o.trace,
             gpt_job_rank(r));
    return gpt_succeeded(r, rondo_trace_start(r->job, path), "--trace");
}

static int run(struct gpt_run *r) {
    if (!gpt_succeeded(r, rondo_init(NULL, &r->job), "joining the job") ||
        (r->o.trace && !trace(r)) || !gpt_set_up(r)) {
        return r->code;
    }
    catch_signals(on_signal);
    const bool ok = train(r);
    catch_signals(r->course.signal ? SIG_IGN : SIG_DFL);
    if (ok && r->course.signal) {
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
    r->elastic = false; // nobody votes any more
    gpt_dp_free(r);
    gpt_succeeded(r, rondo_zero_destroy(r->zero), "leaving");
    gpt_succeeded(r, rondo_ddp_destroy(r->ddp), "leaving");
    gpt_succeeded(r, rondo_comm_destroy(r->job), "leaving");
    if (code == 0 && r->share.rank == 0 && r->o.sample) {
        gpt_worked(r, gpt_sample(&r->model, r->act, (uint64_t)r->o.seed, r->o.temperature,
                                 (size_t)r->o.sample, &r->error));
    }
    gpt_worked(r, gpt_curve_close(&r->curve, &r->error));
    gpt_worked(r, !r->samples || fclose(r->samples) == 0 ||
                      gpt_fail(&r->error, "cannot write %s", r->o.samples));
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
    free(r->sample);
    return code;
}

int main(int argc, char **argv) {
    struct gpt_run r = {
        .course = {.held_first = NAN, .held_last = NAN}, .code = 1, .device = gpt_cpu()};
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
