// SPDX-License-Identifier: MIT
// The ranks of a simulation, with their engines, communicators and buffers; and their end.
#include "ring/perf/cluster_run.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

// ---- Making it -----------------------------------------------------------------------------------

static void broken(void *arg, const char *rule, const char *detail) {
    struct run *r = arg;
    (void)rdi_fail(RONDO_ERR_INTERNAL, "the simulation broke a rule: %s (%s)", rule, detail);
    r->broken++;
}

static uint64_t ns(double us) { return (uint64_t)(us * 1000); }

static uint64_t per_second(double gb) { return (uint64_t)(gb * 1e9); }

static rondo_status make_sim(struct run *r) {
    const struct cluster *c = r->job->cluster;
    const struct rdi_sim_config config = {.seed = c->seed,
                                          .nodes = r->job->ranks,
                                          .per_host = cluster_per_host(r->job),
                                          .nics = c->nics_per_host,
                                          .latency_ns = ns(c->nic_us),
                                          .jitter_ns = ns(c->jitter_us),
                                          .bytes_per_s = per_second(c->nic_gbps),
                                          .inner_latency_ns = ns(c->inner_us),
                                          .inner_bytes_per_s = per_second(c->inner_gbps),
                                          .cpu_ns = ns(c->message_us),
                                          .switch_ns = ns(c->switch_us),
                                          .empty = !r->job->check,
                                          .cores = c->cores_per_host,
                                          .detect_ns = 1,
                                          .broken = broken,
                                          .arg = r};
    r->sim = rdi_sim_create(&config);
    return r->sim ? RONDO_OK
                  : rdi_fail(RONDO_ERR_NOMEM, "out of memory for %d ranks", r->job->ranks);
}

static void work_done(void *self, enum rdi_work_kind kind, uint64_t bytes) {
    const struct member *m = self;
    (void)kind;
    rdi_sim_work(m->node, (uint64_t)((double)bytes * m->run->touch_ns));
}

// A rank's NICs are those of its node, all as near as any.
static struct rdi_seat seat_of(const struct run *r, int rank) {
    const struct rdi_sim_nics own = rdi_sim_nics(r->member[rank].node);
    struct rdi_seat s = {.nics = (uint8_t)r->job->cluster->nics_per_host,
                         .chain = (uint16_t)(rank % cluster_per_host(r->job))};
    for (int k = 0; k < own.count; k++) {
        s.uses |= (uint16_t)(1u << (own.first + k * own.step));
    }
    return s;
}

static rondo_status make_engine(struct run *r, int rank, const struct rdi_options *o) {
    struct member *m = &r->member[rank];
    const struct rdi_net_ops *ops = &rdi_sim_ops;
    struct rdi_env env;
    struct rdi_job job = {.rank = rank, .size = r->job->ranks, .local_rank = -1};
    int host = rank / cluster_per_host(r->job);
    rdi_sim_env(r->sim, &env);
    snprintf(job.host, sizeof job.host, "host%d", host);
    memcpy(job.host_id, &host, sizeof host);
    job.host_id[8] = 1;
    m->node = rdi_sim_node(r->sim, rank);
    rondo_status s = rdi_engine_create(&env, o, &job, &ops, 1, m->node, NULL, &m->engine);
    uint8_t record[RDI_RECORD_MAX];
    if (s == RONDO_OK) {
        m->run = r;
        m->work = (struct rdi_work){.self = m, .spare = !r->job->check, .done = work_done};
        m->engine->work = &m->work;
        m->engine->seat = seat_of(r, rank);
        size_t len = rdi_engine_record(m->engine, &r->plan, record);
        s = rdi_engine_add_peer(r->member[0].engine, rank, record, len, NULL);
    }
    return s;
}

static rondo_status make_comm(struct run *r, int rank, const int *world) {
    struct member *m = &r->member[rank];
    rondo_status s = rdi_comm_create(m->engine, 1, rank, r->job->ranks, world, &r->plan, &m->comm);
    if (s == RONDO_OK) {
        m->comm->timeout_ms = INT32_MAX;
    }
    return s;
}

static rondo_status make_comms(struct run *r) {
    int n = r->job->ranks, *world = malloc((size_t)n * sizeof *world);
    if (!world) {
        return rdi_fail(RONDO_ERR_NOMEM, "out of memory for a list of %d ranks", n);
    }
    for (int i = 0; i < n; i++) {
        world[i] = i;
    }
    rondo_status s = RONDO_OK;
    for (int i = 0; i < n && s == RONDO_OK; i++) {
        s = make_comm(r, i, world);
    }
    free(world);
    return s;
}

// ---- Payload -------------------------------------------------------------------------------------

static int32_t value(int rank, uint64_t i) { return (int32_t)(rank + 1) * (int32_t)(i % 1009 + 1); }

// Without `check` there is one pair of buffers for all, that nothing may touch.
static rondo_status make_buffers(struct run *r) {
    bool own = r->job->check;
    size_t bytes = (r->elements * 4 + 63) / 64 * 64 + 64;
    int n = r->job->ranks;
    r->buffer_bytes = bytes * (own ? 2 * (size_t)n : 2);
    r->buffers = mmap(NULL, r->buffer_bytes, own ? PROT_READ | PROT_WRITE : PROT_NONE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (r->buffers == MAP_FAILED) {
        r->buffers = NULL;
        return rdi_fail(RONDO_ERR_NOMEM, "out of memory for buffers of %zu bytes", bytes);
    }
    for (int i = 0; i < n; i++) {
        r->member[i].send = (char *)r->buffers + (own ? 2 * (size_t)i * bytes : 0);
        r->member[i].recv = r->member[i].send + bytes;
        for (uint64_t k = 0; own && k < r->elements; k++) {
            ((int32_t *)(void *)r->member[i].send)[k] = value(i, k);
        }
    }
    return RONDO_OK;
}

void cluster_forget(struct run *r) {
    for (int i = 0; r->job->check && i < r->job->ranks; i++) {
        memset(r->member[i].recv, 0, r->elements * 4);
    }
}

uint64_t cluster_wrong(const struct run *r) {
    int64_t ranks = r->job->ranks;
    uint64_t wrong = 0;
    for (int i = 0; i < r->job->ranks; i++) {
        const int32_t *got = (const int32_t *)(const void *)r->member[i].recv;
        for (uint64_t k = 0; k < r->elements && r->job->kind == RDI_ALL_REDUCE; k++) {
            wrong += got[k] != (int32_t)(ranks * (ranks + 1) / 2 * (int64_t)(k % 1009 + 1));
        }
    }
    return wrong;
}

// ---- All of it -----------------------------------------------------------------------------------

rondo_status cluster_make(struct run *r, const struct rdi_options *o) {
    int n = r->job->ranks;
    r->touch_ns = 1 / r->job->cluster->touch_gbps;
    r->member = calloc((size_t)n, sizeof *r->member);
    if (!r->member) {
        return rdi_fail(RONDO_ERR_NOMEM, "out of memory for %d ranks", n);
    }
    rondo_status s = make_sim(r);
    for (int i = 0; i < n && s == RONDO_OK; i++) {
        s = make_engine(r, i, o);
    }
    // All of them look at the first one's table of peers.
    for (int i = 1; i < n && s == RONDO_OK; i++) {
        s = rdi_engine_lend_peers(r->member[0].engine, r->member[i].engine);
    }
    s = s == RONDO_OK ? make_comms(r) : s;
    return s == RONDO_OK ? make_buffers(r) : s;
}

void cluster_close(struct run *r) {
    for (int i = r->job->ranks - 1; r->member && i >= 0; i--) {
        struct member *m = &r->member[i];
        if (m->req) {
            struct rondo_comm *c = m->comm;
            rdi_comm_fail(c, RONDO_ERR_ABORTED, "the simulation ends");
            c->drain_until = 0;
            (void)rdi_comm_progress(c, UINT64_MAX, false);
            rdi_request_free(m->req);
        }
        if (m->engine) {
            rdi_engine_destroy(m->engine);
        }
    }
    if (r->sim) {
        rdi_sim_destroy(r->sim);
    }
    free(r->member);
    if (r->buffers) {
        munmap(r->buffers, r->buffer_bytes);
    }
}
