// SPDX-License-Identifier: MIT
// The ranks of the job, the clock that moves them, and the launcher that starts them again.
#include "tests/sim/job/job.h"
#include "transport/watch/core.h"

#include <stdio.h>
#include <string.h>

#define TIME_BOUND (180000 * MS)
#define TURNS 100000
#define EVENTS UINT64_C(5000000) // a hundred times what a job takes: messages that beget messages
#define PAUSE (100 * MS)         // the launcher's before it starts a rank again
#define PAUSES (2000 * MS) // at most so much more: the process has to load and to meet the store

static void broken(void *arg, const char *rule, const char *detail) {
    (void)arg;
    give_up("a rule of the transport's contract was broken: %s\n  %s", rule, detail);
}

static void trace(void *arg, const char *line) {
    (void)arg;
    printf("%s\n", line);
}

static void on_news(void *arg) {
    struct rank *k = arg;
    fiber_wake(k->fiber);
}

// NICs that agree with nothing, and with those of the process before even less: all have to lay out alike with them.
static struct rdi_seat seat_of(int r, uint32_t incarnation) {
    uint64_t x = rdi_mix(rdi_mix(job.net.seed, (uint64_t)r), incarnation);
    struct rdi_seat s = {.nics = (uint8_t)(job.net.seed % 3)};
    s.uses = (uint16_t)(s.nics ? 1 + x % ((UINT64_C(1) << s.nics) - 1) : 0);
    s.chain = (uint16_t)(x >> 8 & 7);
    for (unsigned i = 0; i < s.nics; i++) {
        s.to[i] = (uint8_t)(x >> (16 + 8 * i) & 3);
    }
    return s;
}

static void make_engine(int r, uint32_t incarnation, int node, int watch_node) {
    struct rank *k = &job.ranks[r];
    struct rdi_env env;
    struct rdi_job j = {.rank = r, .size = job.n, .local_rank = -1};
    const struct rdi_net_ops *ops = &rdi_sim_ops;
    struct rdi_driver *d;
    rdi_sim_env(job.sim, &env);
    snprintf(j.host, sizeof j.host, "host%d", job.hosts[r]);
    j.host_id[0] = (uint8_t)(1 + job.hosts[r]);
    k->rank = r;
    k->node = rdi_sim_node(job.sim, node);
    k->watch_node = rdi_sim_node(job.sim, watch_node);
    if (rdi_engine_create(&env, &job.options, &j, &ops, 1, k->node, NULL, &k->engine) != RONDO_OK) {
        give_up("rank %d cannot be made: %s", r, rondo_last_error());
    }
    k->engine->incarnation = k->incarnation = incarnation;
    k->engine->seat = seat_of(r, incarnation);
    if (rdi_engine_watch(k->engine, &rdi_sim_ops, k->watch_node, on_news, k) != RONDO_OK ||
        rdi_driver_create(k->engine, &d) != RONDO_OK) {
        give_up("rank %d cannot be made: %s", r, rondo_last_error());
    }
    k->engine->peers[r].pid = 1000 + r + 100 * (int)incarnation;
    k->engine->watch->mesh = job.mesh;
}

// What ranks have published at the launcher's store.
static struct record {
    uint8_t bytes[RDI_RECORD_MAX];
    size_t len;
} store[RANKS];

static void publish(int r) {
    store[r].len = rdi_engine_record(job.ranks[r].engine, &job.plan, store[r].bytes);
}

static void learn(int r, int of) {
    if (rdi_engine_add_peer(job.ranks[r].engine, of, store[of].bytes, store[of].len, NULL) !=
        RONDO_OK) {
        give_up("rdi_engine_add_peer: %s", rondo_last_error());
    }
}

static void start(int r) {
    struct rank *k = &job.ranks[r];
    k->began_at = rdi_sim_now(job.sim);
    k->fiber = fiber_new(job.ddp ? trainer : program, k);
    if (rdi_engine_watch_begin(k->engine, false) != RONDO_OK || !k->engine->watch) {
        give_up("the watch does not begin: %s", rondo_last_error());
    }
}

static void meet(void) {
    for (int r = 0; r < job.n; r++) {
        make_engine(r, 0, r, job.n + r);
        publish(r);
    }
    for (int r = 0; r < job.n; r++) {
        for (int q = 0; q < job.n; q++) {
            learn(q, r);
        }
    }
    for (int r = 0; r < job.n; r++) {
        start(r);
    }
    job.next_node = 2 * job.n;
}

// ---- The launcher --------------------------------------------------------------------------------

void world_fell(struct rank *k) {
    bool finished = false;
    for (int r = 0; r < job.n; r++) {
        finished = finished || (job.ranks[r].over && job.ranks[r].end == RONDO_OK);
    }
    // It does not when others have finished, as far as it has seen that.
    if (job.restarts > 0 && (!finished || chance(20))) {
        job.restarts--;
        uint64_t more = below(chance(70) ? PAUSES / 10 : PAUSES);
        k->restart_at = rdi_sim_now(job.sim) + PAUSE + (chance(50) ? 0 : more);
    }
}

// A process of its own on nodes of its own, which connects from where the former one was.
static void start_again(int r, uint64_t now) {
    struct rank *k = &job.ranks[r];
    uint32_t incarnation = k->incarnation + 1;
    if (job.nlives == RANKS + RESTARTS || job.next_node + 2 > job.net.nodes) {
        give_up("too many restarts");
    }
    say("rank %d is started again (%u)", r, incarnation);
    job.lives[job.nlives++] = *k;
    *k = (struct rank){.rank = r};
    make_engine(r, incarnation, job.next_node, job.next_node + 1);
    job.next_node += 2;
    fault_started_again(k, now);
    for (int q = 0; q < job.n; q++) {
        if (q != r) {
            learn(r, q);
        }
    }
    publish(r);
    rdi_watch_join(k->engine->watch, store[r].bytes, store[r].len);
    learn(r, r);
    start(r);
}

static void launcher_do(uint64_t now) {
    for (int r = 0; r < job.n; r++) {
        if (job.ranks[r].restart_at && now >= job.ranks[r].restart_at) {
            start_again(r, now);
        }
    }
}

// ---- Turns ---------------------------------------------------------------------------------------

static bool runs(const struct rank *k) { return !k->dead && !k->stopped && k->engine; }

static bool turn_watch(struct rank *k, uint64_t now) {
    struct rdi_watch *w = runs(k) ? k->engine->watch : NULL;
    if (!w || (!rdi_sim_take_turn(k->watch_node) && now < k->watch_at)) {
        return false;
    }
    int i = 0;
    while (rdi_watch_progress(w)) {
        if (++i > TURNS) {
            give_up("rank %d's watch does not come to rest", k->rank);
        }
    }
    k->watch_at = rdi_watch_next(w);
    return true;
}

static void look_at_invitations(struct rank *k) {
    const struct rdi_watch *w = k->engine ? k->engine->watch : NULL;
    uint64_t now = w ? w->invited[0] : 0, fresh = now & ~k->inviting;
    k->inviting = now;
    if (fresh) {
        fault_invited(__builtin_ctzll(fresh));
    }
}

static bool turn_rank(struct rank *k, uint64_t now) {
    if (!runs(k)) {
        return false;
    }
    bool did = false;
    if (rdi_sim_take_turn(k->node)) {
        if (fiber_is_light(k->fiber)) {
            fiber_wake(k->fiber);
        } else {
            did = driver_background(k->engine);
        }
    }
    if (fiber_is_due(k->fiber, now)) {
        fiber_run(k->fiber);
        look_at_invitations(k);
        did = true;
        if (fiber_is_over(k->fiber)) {
            k->over = true;
            k->ended_at = now;
            if (k->end != RONDO_OK && job.ddp) {
                world_fell(k);
            }
        }
    }
    return did;
}

static uint64_t min64(uint64_t a, uint64_t b) { return a < b ? a : b; }

static uint64_t next_time(void) {
    uint64_t at = min64(rdi_sim_next(job.sim), fault_next());
    for (int r = 0; r < job.n; r++) {
        struct rank *k = &job.ranks[r];
        at = k->restart_at ? min64(at, k->restart_at) : at;
        if (runs(k)) {
            at = min64(at, fiber_until(k->fiber));
            at = min64(at, k->engine->watch ? k->watch_at : UINT64_MAX);
        }
    }
    return at;
}

static bool all_over(void) {
    for (int r = 0; r < job.n; r++) {
        const struct rank *k = &job.ranks[r];
        if ((!k->dead && !k->over) || k->restart_at) {
            return false;
        }
    }
    return true;
}

// All who trained have failed, and ranks that came again wait for the operations' deadline that somebody admits them.
static bool only_newcomers(void) {
    for (int r = 0; r < job.n; r++) {
        const struct rank *k = &job.ranks[r];
        bool waits = !k->dead && !k->over;
        if ((waits && (k->incarnation == 0 || k->first_step >= 0)) ||
            (k->over && k->end == RONDO_OK)) {
            return false;
        }
    }
    return true;
}

static void stuck(const char *how) {
    char text[4096];
    size_t n = 0;
    for (int r = 0; r < job.n && n < sizeof text - 300; r++) {
        const struct rank *k = &job.ranks[r];
        int got = snprintf(text + n, sizeof text - n,
                           "\n  rank %d (%u): %s, %d steps committed, %d failures, decision %llu",
                           r, k->incarnation,
                           k->dead      ? "dead"
                           : k->over    ? "over"
                           : k->stopped ? "stopped"
                                        : "waits",
                           job.ddp ? k->ncounted : k->ncommitted, k->nseen,
                           (unsigned long long)(k->engine && k->engine->watch
                                                    ? rdi_watch_epoch(k->engine->watch)
                                                    : 0));
        n += got > 0 ? (size_t)got : 0;
    }
    give_up("%s%s", how, text);
}

void world_run(void) {
    job.net.broken = broken;
    job.net.trace = job.verbose ? trace : NULL;
    job.sim = rdi_sim_create(&job.net);
    if (!job.sim) {
        give_up("out of memory for the simulation");
    }
    if (job.ddp) {
        trainer_prepare();
    }
    meet();
    while (!all_over()) {
        uint64_t now = rdi_sim_now(job.sim);
        int first = (int)below((uint64_t)job.n), turns = 0;
        fault_do(now);
        launcher_do(now);
        for (bool did = true; did;) {
            did = false;
            for (int i = 0; i < job.n; i++) {
                struct rank *k = &job.ranks[(first + i) % job.n];
                did |= turn_watch(k, now);
                did |= turn_rank(k, now);
            }
            if (++turns > TURNS) {
                stuck("the ranks do not come to rest");
            }
        }
        if (all_over()) {
            return;
        }
        uint64_t at = next_time();
        struct rdi_sim_stats st;
        rdi_sim_get_stats(job.sim, &st);
        if (st.events > EVENTS) {
            stuck("there is no end of messages");
        }
        if (at == UINT64_MAX) {
            stuck("all wait and nothing will happen any more");
        }
        if (at > TIME_BOUND && only_newcomers()) {
            return;
        }
        if (at > TIME_BOUND) {
            stuck("the job did not end in time");
        }
        rdi_sim_advance(job.sim, at > now ? at : now);
    }
}
