// SPDX-License-Identifier: MIT
// What a user's program does: steps of computing and reducing; a step counts when all agree that it did; on failure
// shrink and repeat the step.
#include "tests/sim/job/job.h"

#include <stdlib.h>
#include <string.h>

uint32_t program_members(const rondo_comm *c) {
    uint32_t m = 0;
    for (int r = 0; r < c->size; r++) {
        m |= UINT32_C(1) << c->world[r];
    }
    return m;
}

void program_note(struct rank *k, const rondo_comm *c) {
    rondo_failure f = {.size = sizeof f};
    if (rondo_comm_failure(c, &f) != RONDO_OK || f.status == RONDO_OK || k->nseen == COMMS) {
        return;
    }
    struct seen *s = &k->seen[k->nseen++];
    *s = (struct seen){.id = c->id,
                       .status = f.status,
                       .epoch = f.epoch,
                       .at = rdi_sim_now(job.sim),
                       .culprit_world = f.culprit >= 0 ? c->world[f.culprit] : -1,
                       .nfailed = f.nfailed,
                       .size = c->size,
                       .members = program_members(c)};
    for (int i = 0; i < f.nfailed; i++) {
        s->failed |= UINT32_C(1) << c->world[f.failed[i]];
    }
    say("rank %d: communicator of %d failed: %s, culprit %d, epoch %llu: %s", k->rank, c->size,
        rondo_status_name(f.status), s->culprit_world, (unsigned long long)f.epoch, c->why);
}

// One step: the sum of what each member gives must be right, whoever they are.
static rondo_status step(struct rank *k, rondo_comm *c, int number, uint64_t *out) {
    size_t count = 1 + (size_t)((number * 37) % 5000);
    int64_t *x = malloc(count * sizeof *x);
    if (!x) {
        give_up("out of memory for a buffer");
    }
    int64_t want = 0;
    for (int r = 0; r < c->size; r++) {
        want += (int64_t)c->world[r] + 1 + number;
    }
    for (size_t i = 0; i < count; i++) {
        x[i] = k->rank + 1 + number;
    }
    rondo_status s = rondo_all_reduce(x, x, count, RONDO_I64, RONDO_SUM, c);
    for (size_t i = 0; i < count && s == RONDO_OK; i++) {
        if (x[i] != want) {
            give_up("rank %d, step %d: element %zu of %zu is %lld instead of %lld", k->rank, number,
                    i, count, (long long)x[i], (long long)want);
        }
    }
    *out = s == RONDO_OK ? (uint64_t)x[0] : 0;
    free(x);
    return s;
}

static rondo_status shrink(struct rank *k, rondo_comm **c, rondo_comm *world) {
    rondo_comm *smaller = NULL;
    program_note(k, *c);
    fault_call();
    uint64_t began = rdi_sim_now(job.sim);
    rondo_status s = rondo_comm_shrink(*c, &smaller);
    uint64_t took = rdi_sim_now(job.sim) - began;
    k->longest_shrink = took > k->longest_shrink ? took : k->longest_shrink;
    say("rank %d: shrink: %s%s%s", k->rank, rondo_status_name(s), s ? ": " : "",
        s ? rondo_last_error() : "");
    if (s == RONDO_OK) {
        if (*c != world) {
            (void)rondo_comm_destroy(*c);
        }
        *c = smaller;
    }
    return s;
}

static rondo_status train(struct rank *k, rondo_comm **c, rondo_comm *world) {
    rondo_status s = RONDO_OK;
    for (int number = 0; number < job.steps && s == RONDO_OK;) {
        uint64_t sum = 0, flags;
        fiber_sleep(rdi_sim_now(job.sim) + below(job.compute), false);
        flags = step(k, *c, number, &sum) == RONDO_OK;
        fault_call();
        s = rondo_comm_agree(*c, &flags);
        if (s == RONDO_OK && flags) {
            if (k->ncommitted == STEPS * 2) {
                give_up("rank %d commits too many steps", k->rank);
            }
            k->committed[k->ncommitted].step = number;
            k->committed[k->ncommitted].sum = sum;
            k->committed[k->ncommitted++].members = program_members(*c);
            number++;
        } else if (s == RONDO_OK) {
            s = shrink(k, c, world);
        }
    }
    return s;
}

rondo_comm *program_world(struct rank *k) {
    rondo_comm *world = NULL;
    int list[RANKS];
    for (int r = 0; r < job.n; r++) {
        list[r] = r;
    }
    if (rdi_comm_create(k->engine, 1, k->rank, job.n, list, &job.plan, &world) != RONDO_OK) {
        give_up("rdi_comm_create: %s", rondo_last_error());
    }
    return world;
}

void program(void *arg) {
    struct rank *k = arg;
    fiber_sleep(rdi_sim_now(job.sim) + below(job.compute), false);
    rondo_comm *world = program_world(k), *c = world;
    rondo_status s = RONDO_OK;
    // A rank whose barrier fails while another's does not has to agree with it like after a step.
    uint64_t flags = 1;
    if (rdi_comm_first_barrier(c, UINT64_MAX) != RONDO_OK) {
        flags = 0;
        s = rondo_comm_agree(c, &flags);
        s = s == RONDO_OK ? shrink(k, &c, world) : s;
    }
    s = s == RONDO_OK ? train(k, &c, world) : s;
    k->end = s;
    strncpy(k->why, s == RONDO_OK ? "" : rondo_last_error(), sizeof k->why - 1);
    program_note(k, c);
    say("rank %d ends: %s %s", k->rank, rondo_status_name(s), k->why);
    if (c != world) {
        (void)rondo_comm_destroy(c);
    }
    (void)rondo_comm_destroy(world);
}
