// SPDX-License-Identifier: MIT
// How communicators come and go: bootstrap, split, abort, destroy.
#include "ring/cuda/gpu.h"
#include "ring/internal.h"
#include "ring/place.h"
#include "ring/record/observe.h"
#include "transport/memfile.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define DEFAULT_BLOCK UINT64_C(262144)
#define GOODBYE_NS UINT64_C(1000000000)
#define FIRST_GRACE_MS 1000
#define MS_NS UINT64_C(1000000)

static void plan_from_options(const struct rdi_options *o, struct rdi_plan *p) {
    *p = (struct rdi_plan){.strict = strcmp(o->str[RDI_OPT_ORDER], "strict") == 0,
                           .direct_max = (uint64_t)o->num[RDI_OPT_DIRECT_MAX],
                           .block = DEFAULT_BLOCK};
    static const char *const words[] = {"auto", "direct", "doubling", "ring", "node"};
    for (uint32_t i = 0; i < sizeof words / sizeof *words; i++) {
        if (strcmp(o->str[RDI_OPT_ALGORITHM], words[i]) == 0) {
            p->algorithm = i;
        }
    }
}

static unsigned choose_nets(const struct rdi_options *o, const struct rdi_net_ops **ops) {
    const char *t = o->str[RDI_OPT_TRANSPORT];
    unsigned n = 0;
    // In the order of preference for a peer that several reach.
    if (strcmp(t, "auto") == 0 || strcmp(t, "shm") == 0) {
        ops[n++] = &rdi_shm_ops;
    }
    if (strcmp(t, "auto") == 0 || strcmp(t, "verbs") == 0) {
        ops[n++] = &rdi_verbs_ops;
    }
    if (strcmp(t, "auto") == 0 || strcmp(t, "tcp") == 0) {
        ops[n++] = &rdi_tcp_ops;
    }
    return n;
}

// What each rank tells the others: a random number (rank 0's names the communicator) and its record.
static rondo_status meet(struct rdi_engine *e, struct rdi_bootstrap *b, struct rdi_plan *plan,
                         uint64_t *id) {
    size_t n = (size_t)e->job.size, len;
    uint8_t *mine = malloc(8 + RDI_RECORD_MAX);
    void **all = calloc(n, sizeof *all);
    size_t *lens = calloc(n, sizeof *lens);
    rondo_status s = RONDO_ERR_NOMEM;
    if (!mine || !all || !lens) {
        rdi_fail(s, "out of memory for the records of %zu ranks", n);
        goto out;
    }
    e->env.random(e->env.self, mine, 8);
    len = 8 + rdi_engine_record(e, plan, mine + 8);
    s = rdi_bootstrap_exchange(b, "world", mine, len, all, lens);
    for (size_t r = 0; r < n && s == RONDO_OK; r++) {
        if (lens[r] < 8) {
            s = rdi_fail(RONDO_ERR_VERSION,
                         "rank %zu sent no record; use one version of Rondo on all hosts", r);
            break;
        }
        s = rdi_engine_add_peer(e, (int)r, (uint8_t *)all[r] + 8, lens[r] - 8,
                                r == 0 ? plan : NULL);
    }
    if (s == RONDO_OK) {
        memcpy(id, all[0], sizeof *id);
    }
out:
    for (size_t r = 0; all && r < n; r++) {
        free(all[r]);
    }
    free(all);
    free(lens);
    free(mine);
    return s;
}

static rondo_status world_comm(struct rdi_engine *e, uint64_t id, const struct rdi_plan *plan,
                               struct rondo_comm **out) {
    int *world = malloc((size_t)e->job.size * sizeof *world);
    if (!world) {
        return rdi_fail(RONDO_ERR_NOMEM, "out of memory for %d ranks", e->job.size);
    }
    for (int r = 0; r < e->job.size; r++) {
        world[r] = r;
    }
    rondo_status s = rdi_comm_create(e, id, e->job.rank, e->job.size, world, plan, out);
    free(world);
    return s;
}

// For ranks that are started again later.
static rondo_status publish(struct rdi_engine *e, struct rdi_bootstrap *b,
                            const struct rdi_plan *plan) {
    uint8_t *record = malloc(RDI_RECORD_MAX);
    if (!record) {
        return rdi_fail(RONDO_ERR_NOMEM, "out of memory for a record");
    }
    size_t len = rdi_engine_record(e, plan, record);
    rondo_status s = rdi_bootstrap_publish(b, e->incarnation, record, len);
    if (s == RONDO_OK && e->incarnation > 0) {
        rdi_watch_join(e->watch, record, len);
        s = rdi_engine_add_peer(e, e->job.rank, record, len, NULL);
    }
    free(record);
    return s;
}

// A rank that was started again: the others' records tell where they are.
static rondo_status find_members(struct rdi_engine *e, struct rdi_bootstrap *b) {
    int found = 0;
    for (int r = 0; r < e->job.size; r++) {
        void *record = NULL;
        size_t len;
        uint32_t number;
        rondo_status s = r == e->job.rank ? RONDO_AGAIN
                                          : rdi_bootstrap_member(b, r, &number, &record, &len);
        if (s == RONDO_OK) {
            s = rdi_engine_add_peer(e, r, record, len, NULL);
            found += s == RONDO_OK;
        }
        free(record);
        if (s != RONDO_OK && s != RONDO_AGAIN) {
            return s;
        }
    }
    return found > 0 ? RONDO_OK
                     : rdi_fail(RONDO_ERR_PEER,
                                "rank %d was started again, but no rank of its job is known at the "
                                "store: all of them have to start anew",
                                e->job.rank);
}

// Its way into the job, up to a communicator.
static rondo_status enter(struct rdi_engine *e, struct rdi_bootstrap *b,
                          const struct rdi_plan *plan, struct rdi_driver **d,
                          struct rondo_comm **c) {
    if (!e->watch) {
        return rdi_fail(RONDO_ERR_UNSUPPORTED,
                        "rank %d was started again, but its job's ranks cannot be watched (the log "
                        "says why), so it cannot join them",
                        e->job.rank);
    }
    rondo_status s = find_members(e, b);
    s = s == RONDO_OK ? publish(e, b, plan) : s;
    s = s == RONDO_OK ? rdi_driver_create(e, d) : s;
    s = s == RONDO_OK ? rdi_engine_watch_begin(e, true) : s;
    s = s == RONDO_OK ? rdi_elastic_enter(e, c) : s;
    if (s == RONDO_OK) {
        (void)rdi_bootstrap_admitted(
            b, e->incarnation); // a store that is lost meanwhile is needed no more
    }
    return s == RONDO_OK ? rdi_observe_open(*c) : s;
}

// The first operation: finds paths that do not work before the job does. A link that cannot be opened fails
// after connect_timeout and knows the reason, so it is given the time to say it.
rondo_status rdi_comm_first_barrier(struct rondo_comm *c, uint64_t until) {
    const struct rdi_options *o = &c->engine->options;
    uint64_t now = rdi_now(&c->engine->env), left = until > now ? (until - now) / MS_NS + 1 : 1;
    uint64_t most = (uint64_t)o->num[RDI_OPT_CONNECT_TIMEOUT] + FIRST_GRACE_MS;
    atomic_store(&c->timeout_ms, (int64_t)(left < most ? left : most));
    rondo_status s = rondo_barrier(c);
    atomic_store(&c->timeout_ms, o->num[RDI_OPT_OP_TIMEOUT]);
    // A rank that is lost is named first, wherever it was lost.
    return s == RONDO_OK || s == RONDO_ERR_PEER ? s
                                                : rdi_fail_prefix(s, "connecting the ranks failed");
}

// All ranks meet, and make the communicator of all.
static rondo_status assemble(struct rdi_engine *e, struct rdi_bootstrap *b, struct rdi_plan *plan,
                             struct rdi_driver **d, struct rondo_comm **c) {
    uint64_t id = 0;
    rondo_status s = meet(e, b, plan, &id);
    if (s == RONDO_OK) {
        rdi_log(&e->env, RONDO_LOG_DEBUG, "rank %d: all %d ranks have met, now they connect",
                e->job.rank, e->job.size);
        s = rdi_driver_create(e, d);
    }
    s = s == RONDO_OK ? rdi_engine_watch_begin(e, true) : s;
    if (s == RONDO_OK && e->watch && rdi_bootstrap_outlives(b)) {
        s = publish(e, b, plan);
    }
    s = s == RONDO_OK ? world_comm(e, id, plan, c) : s;
    s = s == RONDO_OK ? rdi_observe_open(*c) : s; // so that a barrier that hangs can be looked at
    return s == RONDO_OK ? rdi_comm_first_barrier(*c, UINT64_MAX) : s;
}

// "rank 3 (host a, pid 7)"
static size_t name_length(const char *text) {
    const char *end = strncmp(text, "rank ", 5) == 0 ? strchr(text, ')') : NULL;
    return end ? (size_t)(end - text) + 1 : 0;
}

// The watch names the lowest of those that are lost. Before all were connected some of them may have given up because of
// the one that really was.
static void blame_the_first(struct rdi_bootstrap *b) {
    char seen[RDI_ERROR_TEXT], first[RDI_ERROR_TEXT];
    snprintf(seen, sizeof seen, "%s", rondo_last_error());
    bool known = rdi_bootstrap_first_lost(b, first) == RONDO_OK;
    size_t n = known ? name_length(first) : 0;
    rdi_set_last_error(n > 0 && strncmp(seen, first, n) != 0 ? first : seen);
}

// On the watch's thread.
static void on_news(void *arg) {
    const struct rdi_engine *e = arg;
    if (e->driver) {
        rdi_driver_nudge(e->driver);
        rdi_observe_news();
    }
}

rondo_status rondo_init(const rondo_config *config, rondo_comm **comm) {
    if (!comm || (config && config->size != sizeof *config)) {
        return rdi_fail(RONDO_ERR_INVALID,
                        comm ? "rondo_init: config.size is not that of this version; start "
                               "from RONDO_CONFIG_INIT"
                             : "rondo_init: the pointer to the communicator is NULL");
    }
    rondo_config cfg = RONDO_CONFIG_INIT;
    cfg = config ? *config : cfg;
    struct rdi_env env;
    rdi_env_system(&env, cfg.log, cfg.log_arg);
    struct rdi_options *options = malloc(sizeof *options);
    struct rdi_bootstrap *b = NULL;
    struct rdi_engine *e = NULL;
    struct rdi_driver *d = NULL;
    struct rondo_comm *c = NULL;
    struct rdi_job job = {.rank = 0};
    struct rdi_plan plan;
    struct rdi_place place;
    const struct rdi_net_ops *ops[RDI_MAX_NETS];
    rondo_status s = options ? rdi_options_load(options, cfg.options, getenv)
                             : rdi_fail(RONDO_ERR_NOMEM, "out of memory for the options");
    if (s != RONDO_OK) {
        goto out;
    }
    s = rdi_bootstrap_open(&cfg, options, &env, &job, &b);
    if (s != RONDO_OK) {
        goto out;
    }
    s = rdi_place_find(options, &job, getenv, &env, &place);
    if (s != RONDO_OK) {
        goto out;
    }
    s = rdi_engine_create(&env, options, &job, ops, job.size > 1 ? choose_nets(options, ops) : 0,
                          NULL, place.rails.count > 0 ? &place.rails : NULL, &e);
    if (s != RONDO_OK) {
        goto out;
    }
    e->seat = place.seat;
    e->cpu = place.cpu;
    e->gpu_way = place.way;
    rdi_memfile_prefer_node(place.node);
    e->peers[job.rank].pid = (int)getpid();
    plan_from_options(options, &plan);
    if (job.size > 1) {
        s = rdi_bootstrap_restart_number(getenv, &e->incarnation);
        s = s == RONDO_OK ? rdi_engine_watch(e, &rdi_tcp_ops, NULL, on_news, e) : s;
    }
    if (s == RONDO_OK) {
        s = e->incarnation > 0 ? enter(e, b, &plan, &d, &c) : assemble(e, b, &plan, &d, &c);
    }
    if (s == RONDO_ERR_PEER && d && e->incarnation == 0) {
        blame_the_first(b);
    }
    if (s == RONDO_OK && strcmp(options->str[RDI_OPT_PROGRESS], "thread") == 0) {
        s = rdi_driver_start_thread(d);
    }
out:
    if (s == RONDO_OK) {
        *comm = c;
    } else if (d) {
        rdi_driver_destroy(d);
    } else if (e) {
        rdi_engine_destroy(e);
    }
    // They have met: after the barrier, or an agreement on who is lost, nobody needs the store any more.
    if (d && (s == RONDO_OK || s == RONDO_ERR_PEER)) {
        if (s == RONDO_OK) {
            rdi_set_last_error(""); // the store would take it for the reason of leaving
        }
        rdi_bootstrap_drop(b);
    } else if (b) {
        rdi_bootstrap_close(b);
    }
    rdi_job_clear(&job);
    free(options);
    return s;
}

rondo_status rdi_comm_start_thread(struct rondo_comm *c) {
    return rdi_driver_start_thread(c->engine->driver);
}

// ---- Split ---------------------------------------------------------------------------------------

struct ticket {
    int64_t color, key;
};

uint64_t rdi_mix(uint64_t a, uint64_t b) {
    // splitmix64's finaliser over a combination of both; ids need to differ, not to be secret.
    uint64_t x = a + UINT64_C(0x9e3779b97f4a7c15) * (b + 1);
    x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
    return x ^ (x >> 31);
}

// Ranks of our colour, ordered by (key, rank): insertion, as split is rare and members come in rank order.
static int members(const struct ticket *t, int n, int64_t color, int *list) {
    int m = 0;
    for (int r = 0; r < n; r++) {
        if (t[r].color != color) {
            continue;
        }
        int at = m++;
        while (at > 0 && t[list[at - 1]].key > t[r].key) {
            list[at] = list[at - 1];
            at--;
        }
        list[at] = r;
    }
    return m;
}

rondo_status rondo_comm_split(rondo_comm *comm, int color, int key, rondo_comm **out) {
    if (!comm || !out || color < -1) {
        return rdi_fail(RONDO_ERR_INVALID, "rondo_comm_split: %s",
                        color < -1 ? "the colour must be -1 or more" : "a pointer is NULL");
    }
    int n = comm->size;
    struct ticket mine = {color, key}, *all = malloc((size_t)n * sizeof *all);
    int *list = malloc((size_t)n * sizeof *list);
    if (!all || !list) {
        free(all);
        free(list);
        return rdi_fail(RONDO_ERR_NOMEM, "out of memory for a split of %d ranks", n);
    }
    rondo_status s = rondo_all_gather(&mine, all, 2, RONDO_I64, comm);
    struct rondo_comm *c = NULL;
    uint64_t number = comm->split_seq++;
    if (s == RONDO_OK && color >= 0) {
        int m = members(all, n, color, list), me = -1;
        for (int i = 0; i < m; i++) {
            me = list[i] == comm->rank ? i : me;
            list[i] = comm->world[list[i]];
        }
        uint64_t id = rdi_mix(rdi_mix(comm->id, number), (uint64_t)color);
        rdi_driver_lock(comm->engine->driver);
        s = rdi_comm_create(comm->engine, id, me, m, list, &comm->plan, &c);
        if (s == RONDO_OK) {
            c->birth = comm->birth;
            comm->engine->watch_seen = UINT64_MAX; // of what was decided meanwhile
        }
        rdi_driver_unlock(comm->engine->driver);
    }
    free(all);
    free(list);
    if (c && s == RONDO_OK) {
        // So that every member has created it, and its paths are known to work, before anybody uses or leaves it.
        s = rdi_comm_first_barrier(c, UINT64_MAX);
        if (s != RONDO_OK) {
            (void)rondo_comm_destroy(c);
        }
    }
    if (s == RONDO_OK) {
        *out = c;
    }
    return s;
}

// ---- Abort and destroy ---------------------------------------------------------------------------

rondo_status rondo_comm_abort(rondo_comm *comm, const char *reason) {
    if (!comm) {
        return rdi_fail(RONDO_ERR_INVALID, "rondo_comm_abort: the communicator is NULL");
    }
    struct rdi_driver *d = comm->engine->driver;
    rondo_status s = rdi_driver_check(d);
    if (s != RONDO_OK) {
        return s;
    }
    char who[128];
    rdi_driver_lock(d);
    rdi_comm_fail(comm, RONDO_ERR_ABORTED, "%s aborted the communicator%s%.300s",
                  rdi_comm_who(comm, comm->rank, who, sizeof who), reason ? ": " : "",
                  reason ? reason : "");
    (void)rdi_engine_progress(comm->engine, false);
    rdi_driver_unlock(d);
    rdi_driver_kick(d);
    return RONDO_OK;
}

static bool is_idle(const void *arg) {
    const struct rondo_comm *c = arg;
    return !c->head && !atomic_load(&c->engine->inbox);
}

// Everything sent has been acknowledged: the peers need nothing of us any more.
static bool is_quiet(const void *arg) {
    const struct rondo_comm *c = arg;
    if (atomic_load(&c->status) != RONDO_OK) {
        return c->drained;
    }
    for (const struct rdi_edge *e = c->edges; e; e = e->next) {
        bool ended = !e->link || e->link->state == RDI_LINK_CLOSED ||
                     e->link->state == RDI_LINK_FAILED;
        if (e->out && !ended && e->acked < e->posted) {
            return false;
        }
    }
    return true;
}

bool rdi_comm_leave(rondo_comm *comm) {
    struct rdi_engine *e = comm->engine;
    struct rdi_driver *d = e->driver;
    rdi_gpu_check_device(comm);
    (void)rdi_driver_wait_owned(d, is_idle, comm, UINT64_MAX);
    (void)rdi_driver_wait_owned(d, is_quiet, comm, rdi_now(&e->env) + GOODBYE_NS);
    rdi_driver_lock(d);
    struct rdi_gpu *gpu = rdi_gpu_detach(comm);
    rdi_comm_free(comm, true);
    bool last = e->comms == NULL;
    rdi_driver_unlock(d);
    if (gpu) {
        rdi_gpu_free(gpu);
    }
    return last;
}

rondo_status rondo_comm_destroy(rondo_comm *comm) {
    if (!comm) {
        return RONDO_OK;
    }
    struct rdi_driver *d = comm->engine->driver;
    rondo_status s = rdi_driver_check(d);
    if (s == RONDO_OK && rdi_comm_leave(comm)) {
        rdi_driver_destroy(d);
    }
    return s;
}
