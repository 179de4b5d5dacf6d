// SPDX-License-Identifier: MIT
// One operation of the product's own engine, an engine a rank, over the simulated network of a described cluster.
//
// Time depends on how many messages of how many bytes go where, not on what is in them: so messages have a length and
// no payload, work on payload is counted and not done, and 16,384 ranks fit in memory. With `check` all of it is done
// and every element of every result is compared.
#include "ring/perf/cluster_run.h"

#include <stdlib.h>
#include <time.h>

#define CHUNK 65536u
#define TELL_EVERY 65536u

// ---- The operation -------------------------------------------------------------------------------

static bool is_split(enum rdi_kind k) {
    return k == RDI_REDUCE_SCATTER || k == RDI_ALL_GATHER || k == RDI_ALL_TO_ALL;
}

static rondo_status begin(const struct run *r, struct member *m) {
    rondo_status s = rdi_request_new(m->comm, r->job->kind, m->send, m->recv, r->count, RONDO_I32,
                                     RONDO_SUM, 0, &m->req);
    if (s == RONDO_OK) {
        rdi_engine_push(m->engine, m->req);
        rdi_sim_poke(m->node);
    }
    return s;
}

static rondo_status turn(struct run *r, struct member *m) {
    while (rdi_engine_progress(m->engine, false)) {}
    if (m->req && atomic_load_explicit(&m->req->complete, memory_order_acquire)) {
        rondo_status s = m->req->status;
        if (s != RONDO_OK) {
            return rdi_fail(s, "rank %d: %s", m->engine->job.rank, m->comm->why);
        }
        rdi_request_free(m->req);
        m->req = NULL;
        uint64_t end = rdi_sim_busy_until(m->node);
        r->end = end > r->end ? end : r->end;
        r->left--;
    }
    uint64_t timeout = UINT64_MAX;
    (void)m->engine->nets[0]->ops->arm(m->engine->nets[0], &timeout);
    return RONDO_OK;
}

static void tell(struct run *r) {
    struct rdi_sim_stats st;
    if (r->job->progress && ++r->progress % TELL_EVERY == 0) {
        rdi_sim_get_stats(r->sim, &st);
        r->job->progress(r->job->arg, st.events);
    }
}

// To the end of the operation on all ranks.
static rondo_status drive(struct run *r) {
    int n = r->job->ranks;
    rondo_status s = RONDO_OK;
    r->left = n;
    for (int i = 0; i < n && s == RONDO_OK; i++) {
        s = begin(r, &r->member[i]);
    }
    while (r->left > 0 && s == RONDO_OK && !r->broken) {
        // Only ranks that something happened to are looked at.
        struct rdi_sim_node *node;
        while (s == RONDO_OK && (node = rdi_sim_next_turn(r->sim))) {
            cluster_fetch(r);
            s = turn(r, &r->member[rdi_sim_rank(node)]);
            tell(r);
        }
        uint64_t at = rdi_sim_next(r->sim);
        if (r->left > 0 && s == RONDO_OK && at == UINT64_MAX) {
            s = rdi_fail(RONDO_ERR_INTERNAL, "all ranks wait and nothing is under way");
        } else if (r->left > 0) {
            rdi_sim_advance(r->sim, at);
        }
    }
    // The next operation begins when all are through.
    if (s == RONDO_OK && r->end > rdi_sim_now(r->sim)) {
        rdi_sim_advance(r->sim, r->end);
    }
    return r->broken ? RONDO_ERR_INTERNAL : s;
}

// ---- All of it -----------------------------------------------------------------------------------

static double seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static char *no_environment(const char *name) {
    (void)name;
    return NULL;
}

static rondo_status prepare(struct run *r, struct rdi_options *o) {
    cluster_plan(r->job, &r->plan);
    r->elements = r->job->bytes / 4;
    r->count = is_split(r->job->kind) ? r->elements / (uint64_t)r->job->ranks : r->elements;
    r->elements = is_split(r->job->kind) ? r->count * (uint64_t)r->job->ranks : r->elements;
    rondo_status s = rdi_options_load(o, "record=0", no_environment);
    o->num[RDI_OPT_CHUNK] = (int64_t)(r->job->check ? 256 : CHUNK);
    if (r->job->check) {
        o->num[RDI_OPT_SLOTS] = 16;
    }
    return s;
}

rondo_status cluster_run(const struct cluster_job *j, struct cluster_result *out) {
    struct run r = {.job = j};
    struct rdi_options *o = malloc(sizeof *o);
    double start = seconds(), began = start;
    rondo_status s = o ? prepare(&r, o) : rdi_fail(RONDO_ERR_NOMEM, "out of memory for options");
    s = s == RONDO_OK ? cluster_make(&r, o) : s;
    // The first time links are made; only where that would take long is it part of what is timed.
    if (s == RONDO_OK && cluster_messages(j) < 2e6) {
        s = drive(&r);
        cluster_forget(&r);
    }
    uint64_t from = r.end;
    struct rdi_sim_stats before = {0}, after = {0};
    if (s == RONDO_OK) {
        rdi_sim_get_stats(r.sim, &before);
        began = seconds();
        s = drive(&r);
    }
    if (s == RONDO_OK) {
        rdi_sim_get_stats(r.sim, &after);
        *out = (struct cluster_result){.seconds = (double)(r.end - from) / 1e9,
                                       .events = after.events - before.events,
                                       .messages = after.messages - before.messages,
                                       .real_seconds = seconds() - began,
                                       .whole_seconds = seconds() - start,
                                       .wrong = j->check ? cluster_wrong(&r) : 0,
                                       .algo = rdi_plan_choose(&r.plan, j->kind, r.elements * 4)};
    }
    cluster_close(&r);
    free(o);
    return s;
}
