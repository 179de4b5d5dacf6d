// SPDX-License-Identifier: MIT
// What a user's program does that trains with elastic DDP: the loop that ddp.h describes. After each step that counts
// the model must be what it is without any failure.
#include "tests/sim/job/job.h"

#include <stdlib.h>
#include <string.h>

#define FIRST_BUCKET 256

struct trainer {
    struct rank *k;
    rondo_ddp *ddp;
    struct model m;
    uint64_t saved, saves, restores; // saved: passes
    int64_t grad[LARGEST];
};

static void save(void *arg) {
    struct trainer *t = arg;
    t->saved = t->m.course.passes;
    t->saves++;
}

static void restore(void *arg) {
    struct trainer *t = arg;
    t->m.course.passes = t->saved;
    t->restores++;
}

// Position `at` of the whole run.
static uint64_t sample_at(uint64_t at) {
    const rondo_sampler s = {.samples = job.samples,
                             .seed = job.seed,
                             .epoch = at / job.samples,
                             .world = 1,
                             .shuffle = 1};
    uint64_t sample = 0;
    if (rondo_sampler_get(&s, at % job.samples, &sample) != RONDO_OK) {
        give_up("rondo_sampler_get: %s", rondo_last_error());
    }
    return sample;
}

// The gradient of parameter p over samples first .. first + count - 1 of this step's batch that belong to this pass.
static void gradient(const struct model *m, int p, int pass, uint64_t first, uint64_t count,
                     int64_t *grad) {
    uint64_t base = m->course.step * (uint64_t)job.batch;
    for (uint64_t i = first; i < first + count; i++) {
        if ((int)(i % (uint64_t)job.accumulate) == pass) {
            model_gradient(m, p, sample_at(base + i), grad);
        }
    }
}

// What each step has to come to: the same training by one rank, without Rondo.
void trainer_prepare(void) {
    struct model *m = malloc(sizeof *m);
    if (!m) {
        give_up("out of memory for a model");
    }
    model_begin(m);
    for (int s = 0; s <= job.steps; s++) {
        int64_t grad[PARAMS][LARGEST] = {{0}};
        job.right[s] = model_hash(m);
        for (int pass = 0; pass < job.accumulate; pass++, m->course.passes++) {
            for (int p = 0; p < PARAMS; p++) {
                gradient(m, p, pass, 0, (uint64_t)job.batch, grad[p]);
            }
        }
        for (int p = 0; p < PARAMS; p++) {
            model_update(m, p, grad[p]);
        }
        m->course.step++;
    }
    free(m);
}

static void check_model(const struct trainer *t) {
    uint64_t step = t->m.course.step;
    if (step > (uint64_t)job.steps || model_hash(&t->m) != job.right[step]) {
        give_up("rank %d (%u): the model is not what it has to be before step %llu of %d",
                t->k->rank, t->k->incarnation, (unsigned long long)step, job.steps);
    }
}

static void note(struct trainer *t, uint64_t id, bool evaluates, rondo_status s) {
    struct rank *k = t->k;
    if (k->noutcomes == OUTCOMES) {
        give_up("rank %d repeats steps without end", k->rank);
    }
    k->outcomes[k->noutcomes++] = (struct outcome){.id = id,
                                                   .at = rdi_sim_now(job.sim),
                                                   .step = (int)t->m.course.step,
                                                   .evaluates = evaluates,
                                                   .status = s};
    say("rank %d (%u): %s %llu: %s", k->rank, k->incarnation, evaluates ? "evaluation" : "step",
        (unsigned long long)t->m.course.step, rondo_status_name(s));
}

// Backward: in an order of this rank's own.
static rondo_status backward(struct trainer *t, int pass, uint64_t first, uint64_t count) {
    int order[PARAMS];
    for (int i = 0; i < PARAMS; i++) {
        int at = chance(70) ? 0 : (int)below((uint64_t)i + 1);
        memmove(order + at + 1, order + at, (size_t)(i - at) * sizeof *order);
        order[at] = i;
    }
    for (int i = 0; i < PARAMS; i++) {
        int p = order[i];
        memset(t->grad, 0, sizeof t->grad);
        gradient(&t->m, p, pass, first, count, t->grad);
        void *view = rondo_ddp_grad(t->ddp, (size_t)p);
        for (size_t e = 0; e < model_count[p]; e++) {
            if (p % 2) {
                ((double *)view)[e] += (double)t->grad[e];
            } else {
                ((float *)view)[e] += (float)t->grad[e];
            }
        }
        if (chance(20)) {
            fiber_sleep(rdi_sim_now(job.sim) + below(2 * MS), false);
        }
        rondo_status s = rondo_ddp_grad_ready(t->ddp, (size_t)p);
        if (s != RONDO_OK) {
            return s;
        }
    }
    return RONDO_OK;
}

// A collective of the program's own: that it fails is told by finish().
static void add_up_loss(const struct trainer *t, const rondo_comm *c) {
    int64_t x = 1 + t->k->rank, want = 0;
    for (int r = 0; r < c->size; r++) {
        want += 1 + c->world[r];
    }
    if (rondo_all_reduce(&x, &x, 1, RONDO_I64, RONDO_SUM, rondo_ddp_comm(t->ddp)) == RONDO_OK &&
        x != want) {
        give_up("rank %d: the loss is %lld instead of %lld", t->k->rank, (long long)x,
                (long long)want);
    }
}

static void optimize(struct trainer *t) {
    for (int p = 0; p < PARAMS; p++) {
        const void *view = rondo_ddp_grad(t->ddp, (size_t)p);
        for (size_t e = 0; e < model_count[p]; e++) {
            t->grad[e] =
                (int64_t)(p % 2 ? ((const double *)view)[e] : (double)((const float *)view)[e]);
        }
        model_update(&t->m, p, t->grad);
    }
}

static rondo_status attempt(struct trainer *t) {
    const rondo_comm *c = rondo_ddp_comm(t->ddp);
    struct rank *k = t->k;
    uint64_t first = 0, count = 0, id = c->id;
    k->pending = (struct share){.id = id,
                                .step = (int)t->m.course.step,
                                .size = rondo_comm_size(c),
                                .place = rondo_comm_rank(c),
                                .members = program_members(c)};
    rondo_status s =
        rondo_sampler_share((uint64_t)job.batch, k->pending.place, k->pending.size, &first, &count);
    k->pending.first = first;
    k->pending.count = count;
    for (int pass = 0; pass < job.accumulate && s == RONDO_OK; pass++) {
        bool last = pass == job.accumulate - 1;
        fiber_sleep(rdi_sim_now(job.sim) + below(job.compute), false);
        s = rondo_ddp_set_sync(t->ddp, last);
        s = s == RONDO_OK ? backward(t, pass, first, count) : s;
        t->m.course.passes++;
        if (s == RONDO_OK && last && job.loss) {
            add_up_loss(t, c);
        }
        if (last) {
            fault_call();
        }
        s = s == RONDO_OK ? rondo_ddp_finish(t->ddp) : s;
    }
    note(t, id, false, s);
    return s;
}

static rondo_status step(struct trainer *t) {
    struct rank *k = t->k;
    rondo_status s = attempt(t);
    if (s == RONDO_OK) {
        if (k->ncounted == STEPS) {
            give_up("rank %d counts too many steps", k->rank);
        }
        k->counted[k->ncounted++] = k->pending;
        k->pending.size = 0;
        optimize(t);
        // Of a step that does not count finish() does it.
        s = rondo_ddp_zero_grad(t->ddp);
        t->m.course.step++;
        t->m.course.evaluate = t->m.course.step % (uint64_t)job.evaluate_every == 0 ||
                               t->m.course.step == (uint64_t)job.steps;
        check_model(t);
    }
    return s;
}

static rondo_status evaluate(struct trainer *t) {
    uint64_t id = rondo_ddp_comm(t->ddp)->id;
    fiber_sleep(rdi_sim_now(job.sim) + below(job.compute), false);
    fault_call();
    rondo_status s = rondo_ddp_commit(t->ddp);
    note(t, id, true, s);
    if (s == RONDO_OK) {
        t->m.course.evaluate = 0;
    }
    return s;
}

static rondo_status train(struct trainer *t) {
    struct course *at = &t->m.course;
    rondo_status s = RONDO_OK;
    while (s == RONDO_OK && (at->step < (uint64_t)job.steps || at->evaluate)) {
        uint64_t saves = t->saves, restores = t->restores;
        s = at->evaluate ? evaluate(t) : step(t);
        if (t->saves - saves != (s == RONDO_OK)) {
            give_up("rank %d: save() was called %llu times by a step that ended with %s",
                    t->k->rank, (unsigned long long)(t->saves - saves), rondo_status_name(s));
        }
        if (s == RONDO_RETRY_STEP) {
            if (t->restores != restores + 1) {
                give_up("rank %d: restore() was called %llu times before a repetition", t->k->rank,
                        (unsigned long long)(t->restores - restores));
            }
            check_model(t);
            s = RONDO_OK;
        }
    }
    return s;
}

static rondo_status create(struct trainer *t, rondo_comm *world) {
    static const char *const names[PARAMS] = {"a", "b", "c", "d", "e", "f"};
    const rondo_ddp_state states[] = {{&t->m.course, sizeof t->m.course},
                                      {t->m.moment, sizeof t->m.moment}};
    rondo_param params[PARAMS];
    rondo_ddp_options o = RONDO_DDP_OPTIONS_INIT;
    for (int p = 0; p < PARAMS; p++) {
        params[p] = (rondo_param){.name = names[p],
                                  .data = p % 2 ? (void *)t->m.d[p] : (void *)t->m.f[p],
                                  .count = model_count[p],
                                  .type = p % 2 ? RONDO_F64 : RONDO_F32};
    }
    o.average = 0;
    o.elastic = 1;
    o.first_bucket_bytes = FIRST_BUCKET;
    o.bucket_bytes = job.bucket;
    o.rebuild = job.seed % 3 != 0;
    o.save = save;
    o.restore = restore;
    o.hook_arg = t;
    o.states = states;
    o.nstates = sizeof states / sizeof *states;
    // Only rank 0's first values are the model's; everybody else gets them.
    if (t->k->rank == 0 && t->k->incarnation == 0) {
        model_begin(&t->m);
    }
    return rondo_ddp_create(world, params, PARAMS, &o, &t->ddp);
}

static void begin(struct trainer *t) {
    struct rank *k = t->k;
    bool newcomer = k->incarnation > 0;
    if (rondo_ddp_joined(t->ddp) != newcomer) {
        give_up("rank %d (%u): rondo_ddp_joined() is %d", k->rank, k->incarnation,
                rondo_ddp_joined(t->ddp));
    }
    k->first_step = (int)t->m.course.step;
    say("rank %d (%u): trains from step %d on", k->rank, k->incarnation, k->first_step);
    check_model(t);
}

void trainer(void *arg) {
    struct rank *k = arg;
    struct trainer *t = calloc(1, sizeof *t);
    rondo_comm *world = NULL;
    rondo_status s = RONDO_OK;
    if (!t) {
        give_up("out of memory for a model");
    }
    t->k = k;
    k->first_step = -1;
    if (k->incarnation > 0) {
        s = rdi_elastic_enter(k->engine, &world);
    } else {
        fiber_sleep(rdi_sim_now(job.sim) + below(job.compute), false);
        world = program_world(k);
        (void)rdi_comm_first_barrier(world, UINT64_MAX); // DDP finds out what it was
    }
    s = s == RONDO_OK ? create(t, world) : s;
    if (s == RONDO_OK) {
        begin(t);
        s = train(t);
    }
    k->end = s;
    strncpy(k->why, s == RONDO_OK ? "" : rondo_last_error(), sizeof k->why - 1);
    say("rank %d (%u) ends: %s %s", k->rank, k->incarnation, rondo_status_name(s), k->why);
    (void)rondo_ddp_destroy(t->ddp);
    if (world) {
        (void)rondo_comm_destroy(world);
    } else {
        rdi_driver_destroy(k->engine->driver);
    }
    free(t);
}
