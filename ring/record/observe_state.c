// SPDX-License-Identifier: MIT
// An engine's state, taken from the observer's thread or by a call.
#include "ring/record/observe.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define BORROW_NS UINT64_C(100000000) // how long to wait for the engine

// ---- Who it is -----------------------------------------------------------------------------------

// Times of two processes can be compared when this is the same.
static void read_boot(char out[40]) {
    int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
    ssize_t n = fd >= 0 ? read(fd, out, 39) : -1;
    out[n > 0 ? n : 0] = '\0';
    out[strcspn(out, "\n")] = '\0';
    if (fd >= 0) {
        close(fd);
    }
}

// rondo-run's name for the job, which restarted ranks have too; else a number that its ranks agreed on.
static void name_job(char out[RDI_JOB_MAX], uint64_t world) {
    const char *run = getenv("TORCHELASTIC_RUN_ID");
    size_t n = run ? strspn(run, "abcdefghijklmnopqrstuvwxyz0123456789") : 0;
    if (n > 5 && n < RDI_JOB_MAX && run[n] == '\0' && strncmp(run, "rondo", 5) == 0) {
        memcpy(out, run, n + 1);
    } else {
        snprintf(out, RDI_JOB_MAX, "%016llx", (unsigned long long)world);
    }
}

void rdi_observe_identify(struct rdi_observed *o, const struct rondo_comm *world) {
    const struct rdi_job *job = &world->engine->job;
    name_job(o->job, world->id);
    memcpy(o->host, job->host, sizeof o->host);
    read_boot(o->boot);
    o->rank = job->rank;
    o->size = job->size;
    o->local_rank = job->local_rank >= 0 ? job->local_rank : world->local_rank;
    o->pid = (int)getpid();
}

static uint64_t clock_of(clockid_t id) {
    struct timespec t;
    clock_gettime(id, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

// ---- What it does --------------------------------------------------------------------------------

// Not whole when the engine's owner does not come back: a very long reduction, or it is stuck in the kernel.
static void borrow(const struct rdi_engine *e, struct rdi_snap *s) {
    *s = (struct rdi_snap){0};
    if (rdi_driver_lock_until(e->driver, rdi_now(&e->env) + BORROW_NS)) {
        if (rdi_snap_take(e, s) != RONDO_OK) {
            s->whole = false;
        }
        rdi_driver_unlock(e->driver);
    }
}

rondo_status rdi_observe_text(const struct rdi_observed *o, const char *cause, uint64_t recent,
                              struct rdi_text *t) {
    struct rdi_snap s;
    borrow(o->engine, &s);
    struct rdi_dump_head head = {.cause = cause,
                                 .job = o->job,
                                 .program = program_invocation_short_name,
                                 .host = o->host,
                                 .boot = o->boot,
                                 .rank = o->rank,
                                 .size = o->size,
                                 .pid = o->pid,
                                 .monotonic = clock_of(CLOCK_MONOTONIC),
                                 .unix_ns = clock_of(CLOCK_REALTIME)};
    rdi_dump_json(t, &head, &s, &o->engine->recorder, recent);
    rdi_snap_free(&s);
    return t->failed
               ? rdi_fail(RONDO_ERR_NOMEM, "out of memory to write down rank %d's state", o->rank)
               : RONDO_OK;
}

rondo_status rdi_observe_metrics(struct rdi_observed *o, struct rdi_text *t) {
    struct rdi_snap s;
    borrow(o->engine, &s);
    rdi_metrics_take(&o->last, &s, &o->engine->recorder);
    rdi_snap_free(&s);
    int active = atomic_load(&o->engine->active);
    o->last.active = active > 0 ? (uint64_t)active : 0;
    o->last.sleeps = rdi_driver_sleeps(o->engine->driver);
    o->last.rank = o->rank;
    o->last.job = o->job;
    rdi_metrics_text(t, &o->last, 1);
    return t->failed ? rdi_fail(RONDO_ERR_NOMEM, "out of memory for metrics") : RONDO_OK;
}
