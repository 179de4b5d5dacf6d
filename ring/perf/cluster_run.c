// SPDX-License-Identifier: MIT
// One operation of the product's own engine, an engine a rank, over the simulated network of a described cluster.
//
// Time depends on how many messages of how many bytes go where, not on what is in them: so payload is scaled down
// (one byte stands for up to 1024), along with blocks, chunks and the plan's thresholds, and 16,384 ranks fit in
// memory. With `check` nothing is scaled and every element of every result is compared.
#include "ring/perf/cluster.h"
#include "ring/reduce.h"
#include "transport/sim/sim.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define CHUNK 65536u
#define TELL_EVERY 65536u

struct member { // a rank
    struct rdi_engine *engine;
    struct rdi_sim_node *node;
    struct rondo_comm *comm[3]; // of each phase; NULL: it has no part in it
    struct rondo_request *req;
    int phase;
    char *send, *recv;
};

struct run {
    const struct cluster_job *job;
    struct rdi_sim *sim;
    struct rdi_plan plan;
    uint64_t scale, count, elements; // elements: of a buffer
    int phases, left;
    struct member *member;
    uint64_t progress, broken;
};

const char *cluster_way_name(enum cluster_way way) {
    static const char *const names[CLUSTER_WAYS] = {"plan", "direct", "doubling", "owner", "ring",
                                                    "tree", "chain",  "pairs",    "nodes"};
    return names[way];
}

bool cluster_can(enum rdi_kind kind, enum cluster_way way, int ranks, int ranks_per_host) {
    switch (way) {
    case CLUSTER_DIRECT:
        return kind == RDI_ALL_REDUCE && ranks <= RDI_REDUCE_MAX_SOURCES;
    case CLUSTER_DOUBLING:
        return kind == RDI_ALL_REDUCE;
    case CLUSTER_OWNER:
        return (kind == RDI_ALL_REDUCE || kind == RDI_REDUCE_SCATTER) &&
               ranks <= RDI_REDUCE_MAX_SOURCES;
    case CLUSTER_RING:
        return kind == RDI_ALL_REDUCE || kind == RDI_REDUCE_SCATTER || kind == RDI_ALL_GATHER;
    case CLUSTER_TREE:
    case CLUSTER_CHAIN:
        return kind == RDI_BROADCAST || kind == RDI_REDUCE;
    case CLUSTER_PAIRS:
        return kind == RDI_ALL_TO_ALL;
    case CLUSTER_NODES:
        return kind == RDI_ALL_REDUCE && ranks_per_host > 1 && ranks > ranks_per_host &&
               ranks % ranks_per_host == 0;
    default:
        return true;
    }
}

static int per_host(const struct cluster_job *j) {
    return j->cluster->ranks_per_host < j->ranks ? j->cluster->ranks_per_host : j->ranks;
}

double cluster_messages(const struct cluster_job *j) {
    double n = j->ranks, chunks = (double)j->bytes / CHUNK;
    double blocks = chunks / n > 1 ? chunks / n : 1;
    struct rdi_plan plan;
    cluster_plan(j, &plan);
    if (j->way == CLUSTER_NODES) {
        double hosts = n / per_host(j), b = chunks / hosts > 1 ? chunks / hosts : 1;
        return 2 * hosts * hosts * b + 2 * n * (chunks > 1 ? chunks : 1);
    }
    switch (rdi_plan_choose(&plan, j->kind, j->bytes)) {
    case RDI_ALGO_DIRECT:
        return n * n * (chunks > 1 ? chunks : 1);
    case RDI_ALGO_DOUBLING:
        return n * 14 * (chunks > 1 ? chunks : 1);
    case RDI_ALGO_TREE:
    case RDI_ALGO_CHAIN:
        return n * (chunks > 1 ? chunks : 1);
    default:
        return (j->kind == RDI_ALL_REDUCE ? 2 : 1) * n * n * blocks;
    }
}

void cluster_plan(const struct cluster_job *j, struct rdi_plan *plan) {
    *plan = (struct rdi_plan){.ranks = (uint32_t)j->ranks,
                              .max_local = (uint32_t)per_host(j),
                              .direct_max = 64 << 10,
                              .block = 256 << 10};
    switch (j->way) {
    case CLUSTER_DIRECT:
        plan->algorithm = 1;
        break;
    case CLUSTER_DOUBLING:
        plan->algorithm = 2;
        break;
    case CLUSTER_RING:
        plan->algorithm = 3;
        break;
    case CLUSTER_OWNER:
        plan->strict = 1;
        plan->direct_max = 0;
        break;
    case CLUSTER_CHAIN:
        plan->direct_max = 0;
        break;
    case CLUSTER_TREE:
        plan->direct_max = UINT64_C(1) << 40;
        break;
    default:
        break;
    }
}

// ---- Making it -----------------------------------------------------------------------------------

static void broken(void *arg, const char *rule, const char *detail) {
    struct run *r = arg;
    (void)rdi_fail(RONDO_ERR_INTERNAL, "the simulation broke a rule: %s (%s)", rule, detail);
    r->broken++;
}

static char *no_environment(const char *name) {
    (void)name;
    return NULL;
}

static uint64_t ns(double us) { return (uint64_t)(us * 1000); }

static uint64_t per_second(double gb) { return (uint64_t)(gb * 1e9); }

static rondo_status make_sim(struct run *r) {
    const struct cluster *c = r->job->cluster;
    const struct rdi_sim_config config = {.seed = c->seed,
                                          .nodes = r->job->ranks,
                                          .per_host = per_host(r->job),
                                          .latency_ns = ns(c->nic_us),
                                          .jitter_ns = ns(c->jitter_us),
                                          .bytes_per_s = per_second(c->nic_gbps),
                                          .inner_latency_ns = ns(c->inner_us),
                                          .inner_bytes_per_s = per_second(c->inner_gbps),
                                          .cpu_ns = ns(c->message_us),
                                          .touch_bytes_per_s = per_second(c->touch_gbps),
                                          .scale = r->scale,
                                          .cores = c->cores_per_host,
                                          .detect_ns = 1,
                                          .broken = broken,
                                          .arg = r};
    r->sim = rdi_sim_create(&config);
    return r->sim ? RONDO_OK
                  : rdi_fail(RONDO_ERR_NOMEM, "out of memory for %d ranks", r->job->ranks);
}

static rondo_status make_engine(struct run *r, int rank, const struct rdi_options *o) {
    struct member *m = &r->member[rank];
    const struct rdi_net_ops *ops = &rdi_sim_ops;
    struct rdi_env env;
    struct rdi_job job = {.rank = rank, .size = r->job->ranks, .local_rank = -1};
    int host = rank / per_host(r->job);
    rdi_sim_env(r->sim, &env);
    snprintf(job.host, sizeof job.host, "host%d", host);
    memcpy(job.host_id, &host, sizeof host);
    job.host_id[8] = 1;
    m->node = rdi_sim_node(r->sim, rank);
    rondo_status s = rdi_engine_create(&env, o, &job, &ops, 1, m->node, &m->engine);
    uint8_t record[RDI_RECORD_MAX];
    if (s == RONDO_OK) {
        size_t len = rdi_engine_record(m->engine, &r->plan, record);
        s = rdi_engine_add_peer(r->member[0].engine, rank, record, len, NULL);
    }
    return s;
}

static rondo_status make_comm(struct run *r, int rank, int phase, int first, int step, int n) {
    int *world = malloc((size_t)n * sizeof *world);
    if (!world) {
        return rdi_fail(RONDO_ERR_NOMEM, "out of memory for a list of %d ranks", n);
    }
    for (int i = 0; i < n; i++) {
        world[i] = first + i * step;
    }
    struct member *m = &r->member[rank];
    uint64_t id = 1 + (uint64_t)first + ((uint64_t)step << 20) + ((uint64_t)phase << 40);
    rondo_status s =
        rdi_comm_create(m->engine, id, (rank - first) / step, n, world, &r->plan, &m->comm[phase]);
    free(world);
    if (s == RONDO_OK) {
        m->comm[phase]->timeout_ms = INT32_MAX;
    }
    return s;
}

static rondo_status make_comms(struct run *r, int rank) {
    int n = r->job->ranks, local = per_host(r->job), first = rank / local * local;
    if (r->job->way != CLUSTER_NODES) {
        return make_comm(r, rank, 0, 0, 1, n);
    }
    rondo_status s = make_comm(r, rank, 0, first, 1, local);
    if (s == RONDO_OK && rank == first) {
        s = make_comm(r, rank, 1, 0, local, n / local);
    }
    return s == RONDO_OK ? make_comm(r, rank, 2, first, 1, local) : s;
}

// ---- The operation -------------------------------------------------------------------------------

static enum rdi_kind kind_of(const struct run *r, int phase) {
    static const enum rdi_kind nodes[] = {RDI_REDUCE, RDI_ALL_REDUCE, RDI_BROADCAST};
    return r->job->way == CLUSTER_NODES ? nodes[phase] : r->job->kind;
}

static bool is_split(enum rdi_kind k) {
    return k == RDI_REDUCE_SCATTER || k == RDI_ALL_GATHER || k == RDI_ALL_TO_ALL;
}

static rondo_status begin(struct run *r, struct member *m) {
    while (m->phase < r->phases && !m->comm[m->phase]) {
        m->phase++;
    }
    if (m->phase == r->phases) {
        r->left--;
        return RONDO_OK;
    }
    enum rdi_kind kind = kind_of(r, m->phase);
    const char *send = m->phase > 0 ? m->recv : m->send;
    rondo_status s = rdi_request_new(m->comm[m->phase], kind, send, m->recv, r->count, RONDO_I32,
                                     RONDO_SUM, 0, &m->req);
    if (s == RONDO_OK) {
        rdi_engine_push(m->engine, m->req);
        rdi_sim_poke(m->node);
    }
    return s;
}

static rondo_status turn(struct run *r, struct member *m) {
    for (;;) {
        while (rdi_engine_progress(m->engine, false)) {}
        if (!m->req || !atomic_load_explicit(&m->req->complete, memory_order_acquire)) {
            break;
        }
        rondo_status s = m->req->status;
        if (s != RONDO_OK) {
            return rdi_fail(s, "rank %d: %s", m->engine->job.rank, m->comm[m->phase]->why);
        }
        rdi_request_free(m->req);
        m->req = NULL;
        m->phase++;
        s = begin(r, m);
        if (s != RONDO_OK) {
            return s;
        }
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
        r->member[i].phase = 0;
        s = begin(r, &r->member[i]);
    }
    while (r->left > 0 && s == RONDO_OK && !r->broken) {
        // Only ranks that something happened to are looked at.
        struct rdi_sim_node *node;
        while (s == RONDO_OK && (node = rdi_sim_next_turn(r->sim))) {
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
    return r->broken ? RONDO_ERR_INTERNAL : s;
}

// ---- Payload -------------------------------------------------------------------------------------

static int32_t value(int rank, uint64_t i) { return (int32_t)(rank + 1) * (int32_t)(i % 1009 + 1); }

static rondo_status make_buffers(struct run *r, char **shared) {
    size_t bytes = r->elements * 4;
    int n = r->job->ranks;
    bool own = r->job->check;
    *shared = calloc(own ? 2 * (size_t)n : 2, bytes ? bytes : 1);
    if (!*shared) {
        return rdi_fail(RONDO_ERR_NOMEM, "out of memory for buffers of %zu bytes", bytes);
    }
    for (int i = 0; i < n; i++) {
        r->member[i].send = *shared + (own ? 2 * (size_t)i * bytes : 0);
        r->member[i].recv = r->member[i].send + bytes;
        for (uint64_t k = 0; own && k < r->elements; k++) {
            ((int32_t *)(void *)r->member[i].send)[k] = value(i, k);
        }
    }
    return RONDO_OK;
}

static uint64_t check(const struct run *r) {
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

// How many bytes one byte of payload stands for: no more than leaves a block of elements to each rank.
static uint64_t choose_scale(const struct cluster_job *j) {
    uint64_t scale = 1;
    while (!j->check && scale < CHUNK / 64 && j->bytes / (scale * 2) >= 4 * (uint64_t)j->ranks) {
        scale *= 2;
    }
    return scale;
}

static double seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void close_all(struct run *r) {
    for (int i = r->job->ranks - 1; r->member && i >= 0; i--) {
        struct member *m = &r->member[i];
        if (m->req) {
            struct rondo_comm *c = m->comm[m->phase];
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
}

static rondo_status prepare(struct run *r, struct rdi_options *o) {
    cluster_plan(r->job, &r->plan);
    r->scale = choose_scale(r->job);
    r->plan.direct_max /= r->scale;
    r->plan.block = r->plan.block / r->scale < 64 ? 64 : r->plan.block / r->scale;
    r->phases = r->job->way == CLUSTER_NODES ? 3 : 1;
    r->elements = r->job->bytes / r->scale / 4;
    r->count = is_split(r->job->kind) ? r->elements / (uint64_t)r->job->ranks : r->elements;
    r->elements = is_split(r->job->kind) ? r->count * (uint64_t)r->job->ranks : r->elements;
    rondo_status s = rdi_options_load(o, "record=0", no_environment);
    o->num[RDI_OPT_CHUNK] = (int64_t)(r->job->check ? 256 : CHUNK / r->scale);
    if (r->job->check) {
        o->num[RDI_OPT_SLOTS] = 16;
    }
    r->member = calloc((size_t)r->job->ranks, sizeof *r->member);
    if (s == RONDO_OK && !r->member) {
        s = rdi_fail(RONDO_ERR_NOMEM, "out of memory for %d ranks", r->job->ranks);
    }
    return s;
}

rondo_status cluster_run(const struct cluster_job *j, struct cluster_result *out) {
    struct run r = {.job = j};
    struct rdi_options *o = malloc(sizeof *o);
    char *shared = NULL;
    double start = seconds();
    rondo_status s = o ? prepare(&r, o) : rdi_fail(RONDO_ERR_NOMEM, "out of memory for options");
    s = s == RONDO_OK ? make_sim(&r) : s;
    for (int i = 0; i < j->ranks && s == RONDO_OK; i++) {
        s = make_engine(&r, i, o);
    }
    // All of them look at the first one's table of peers.
    for (int i = 1; i < j->ranks && s == RONDO_OK; i++) {
        s = rdi_engine_lend_peers(r.member[0].engine, r.member[i].engine);
    }
    for (int i = 0; i < j->ranks && s == RONDO_OK; i++) {
        s = make_comms(&r, i);
    }
    s = s == RONDO_OK ? make_buffers(&r, &shared) : s;
    // The first time links are made; only where that would take long is it part of what is timed.
    if (s == RONDO_OK && cluster_messages(j) < 2e6) {
        s = drive(&r);
    }
    uint64_t from = s == RONDO_OK ? rdi_sim_now(r.sim) : 0;
    struct rdi_sim_stats before = {0}, after = {0};
    if (s == RONDO_OK) {
        rdi_sim_get_stats(r.sim, &before);
        s = drive(&r);
    }
    if (s == RONDO_OK) {
        rdi_sim_get_stats(r.sim, &after);
        *out = (struct cluster_result){.seconds = (double)(rdi_sim_now(r.sim) - from) / 1e9,
                                       .events = after.events - before.events,
                                       .messages = after.messages - before.messages,
                                       .real_seconds = seconds() - start,
                                       .wrong = j->check ? check(&r) : 0,
                                       .algo = rdi_plan_choose(&r.plan, j->kind, r.elements * 4)};
    }
    close_all(&r);
    free(shared);
    free(o);
    return s;
}
