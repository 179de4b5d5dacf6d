// SPDX-License-Identifier: MIT
// The driver's contract (ring/internal.h) on fibers: there is one thread, so the token is never taken, and to wait is
// to give the processor to the clock. Takes the place of ring/driver.c at link time.
#include "tests/sim/job/job.h"

#include <stdlib.h>

struct rdi_driver {
    struct rdi_engine *engine;
    bool thread;
};

rondo_status rdi_driver_create(struct rdi_engine *e, struct rdi_driver **out) {
    struct rdi_driver *d = calloc(1, sizeof *d);
    if (!d) {
        give_up("out of memory for a driver");
    }
    d->engine = e;
    e->driver = d;
    *out = d;
    return RONDO_OK;
}

void rdi_driver_destroy(struct rdi_driver *d) {
    if (d->engine) {
        job.ranks[d->engine->job.rank].engine = NULL;
        rdi_engine_destroy(d->engine);
    }
    free(d);
}

rondo_status rdi_driver_check(const struct rdi_driver *d) {
    (void)d;
    return RONDO_OK;
}

void rdi_driver_lock(struct rdi_driver *d) { (void)d; }

bool rdi_driver_lock_until(struct rdi_driver *d, uint64_t until) {
    (void)d, (void)until;
    return true;
}

void rdi_driver_unlock(struct rdi_driver *d) { (void)d; }

void rdi_driver_kick(struct rdi_driver *d) { (void)rdi_engine_progress(d->engine, false); }

void rdi_driver_nudge(struct rdi_driver *d) {
    struct rank *k = &job.ranks[d->engine->job.rank];
    fiber_wake(k->fiber);
}

static bool arm(struct rdi_engine *e) {
    for (unsigned i = 0; i < e->nnets; i++) {
        uint64_t timeout = UINT64_MAX;
        if (e->nets[i]->ops->arm(e->nets[i], &timeout) != RONDO_OK) {
            return false;
        }
    }
    return true;
}

bool rdi_driver_wait(struct rdi_driver *d, bool (*done)(const void *arg), const void *arg,
                     uint64_t until) {
    struct rdi_engine *e = d->engine;
    rdi_sim_poke(job.ranks[e->job.rank].watch_node); // it may have been given something to do
    while (!done(arg)) {
        if (rdi_engine_progress(e, false)) {
            continue;
        }
        if (rdi_now(&e->env) >= until) {
            return false;
        }
        if (!done(arg) && arm(e) && !atomic_load(&e->inbox)) {
            uint64_t next = rdi_engine_next_deadline(e);
            fiber_sleep(next < until ? next : until, true);
        }
    }
    return true;
}

bool rdi_driver_wait_owned(struct rdi_driver *d, bool (*done)(const void *arg), const void *arg,
                           uint64_t until) {
    return rdi_driver_wait(d, done, arg, until);
}

rondo_status rdi_driver_poll(struct rdi_driver *d) {
    return rdi_engine_progress(d->engine, false) ? RONDO_OK : RONDO_AGAIN;
}

rondo_status rdi_driver_start_thread(struct rdi_driver *d) {
    d->thread = true;
    return RONDO_OK;
}

uint64_t rdi_driver_sleeps(const struct rdi_driver *d) {
    (void)d;
    return 0;
}

bool driver_background(struct rdi_engine *e) {
    if (!e->driver || !e->driver->thread) {
        return false;
    }
    bool moved = false;
    while (rdi_engine_progress(e, false)) {
        moved = true;
    }
    (void)arm(e);
    return moved;
}
