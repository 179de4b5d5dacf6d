// SPDX-License-Identifier: MIT
// The simulated world: virtual clock, events in order of time, randomness from a seed, nodes and their faults.
#include "transport/sim/world.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// ---- Randomness, trace, errors -------------------------------------------------------------------

uint64_t sim_random(struct rdi_sim *s) {
    // splitmix64: small, and good enough to choose among events.
    uint64_t z = s->random += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

uint64_t sim_below(struct rdi_sim *s, uint64_t n) { return n ? sim_random(s) % n : 0; }

bool sim_chance(struct rdi_sim *s, unsigned per_mille) {
    return per_mille && sim_below(s, 1000) < per_mille;
}

void sim_trace_line(struct rdi_sim *s, const char *fmt, ...) {
    char line[512];
    int n = snprintf(line, sizeof line, "%12.3f us  ", (double)s->now / 1000);
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(line + n, sizeof line - (size_t)n, fmt, ap);
    va_end(ap);
    s->config.trace(s->config.arg, line);
}

void sim_broken(struct rdi_sim *s, const struct rdi_link *l, const char *rule) {
    char detail[256];
    snprintf(
        detail, sizeof detail,
        "link %u -> %u channel %u, %s, epoch %u: credit %llu posted %llu sent %llu arrived %llu "
        "released %llu",
        l->id.from, l->id.to, l->id.channel, l->sender ? "sender" : "receiver", l->epoch,
        (unsigned long long)l->credit, (unsigned long long)l->posted, (unsigned long long)l->sent,
        (unsigned long long)l->arrived, (unsigned long long)l->released);
    s->config.broken(s->config.arg, rule, detail);
}

void *sim_alloc(struct rdi_sim *s, size_t n) {
    void *p = calloc(1, n ? n : 1);
    if (!p) {
        s->config.broken(s->config.arg, "memory", "the simulation is out of memory");
    }
    return p;
}

static uint64_t env_now(void *self) { return ((struct rdi_sim *)self)->now; }

static void env_random(void *self, void *buf, size_t n) {
    uint8_t *p = buf;
    for (size_t i = 0; i < n; i++) {
        p[i] = (uint8_t)sim_random(self);
    }
}

static void env_log(void *self, rondo_log_level level, const char *line) {
    (void)level;
    sim_trace_line(self, "%s", line);
}

void rdi_sim_env(struct rdi_sim *s, struct rdi_env *env) {
    *env = (struct rdi_env){.self = s, .now = env_now, .random = env_random};
    if (s->config.trace) {
        env->log = env_log;
    }
}

// ---- Time -------------------------------------------------------------------------------------------

uint64_t rdi_sim_now(const struct rdi_sim *s) { return s->now; }

uint64_t rdi_sim_next(const struct rdi_sim *s) {
    const struct sim_event *e = sim_first_event(s);
    return e ? e->at : UINT64_MAX;
}

// Thousands of ranks do not fit into the processor's cache: what the next events touch is asked for before.
static void fetch_ahead(const struct rdi_sim *s) {
    const struct sim_wire *far = sim_wire_ahead(s, 12), *near = sim_wire_ahead(s, 5);
    if (far) {
        __builtin_prefetch(far, 1);
        __builtin_prefetch((const char *)far + 64, 1);
        __builtin_prefetch((const char *)far + 128, 1);
    }
    if (near && near->receiver) {
        __builtin_prefetch(&near->receiver->here, 1);
        __builtin_prefetch(&near->receiver->dirty, 1);
        __builtin_prefetch(near->under_way.head, 1);
        __builtin_prefetch(near->to, 1);
    }
}

void rdi_sim_advance(struct rdi_sim *s, uint64_t to) {
    const struct sim_event *first;
    while ((first = sim_first_event(s)) && first->at <= to) {
        struct sim_event e = sim_take_event(s);
        s->now = e.at;
        s->stats.events++;
        fetch_ahead(s);
        sim_event_do(s, &e);
        if (e.kind != SIM_POKE) {
            sim_wire_unref(e.wire);
        }
    }
    s->now = to > s->now ? to : s->now;
}

// ---- Life ----------------------------------------------------------------------------------------

struct rdi_sim *rdi_sim_create(const struct rdi_sim_config *c) {
    struct rdi_sim *s = calloc(1, sizeof *s);
    struct rdi_sim_node *nodes = calloc((size_t)c->nodes, sizeof *nodes);
    if (!s || !nodes) {
        free(s);
        free(nodes);
        return NULL;
    }
    s->config = *c;
    s->turns = c->per_host > 0 ? calloc((size_t)c->nodes, sizeof(void *)) : NULL;
    if (c->per_host > 0 && (!sim_cost_create(s) || !s->turns)) {
        sim_cost_free(s);
        free(s->turns);
        free(s);
        free(nodes);
        return NULL;
    }
    s->random = c->seed;
    s->nodes = nodes;
    for (int i = 0; i < c->nodes; i++) {
        nodes[i] = (struct rdi_sim_node){.sim = s, .rank = i};
    }
    return s;
}

void rdi_sim_destroy(struct rdi_sim *s) {
    sim_events_free(s);
    for (int i = 0; i < s->config.nodes; i++) {
        for (unsigned k = 0; k < s->nodes[i].ncalls; k++) {
            sim_wire_unref(s->nodes[i].calls[k]);
        }
        free(s->nodes[i].calls);
    }
    while (s->spare) {
        struct sim_message *m = s->spare;
        s->spare = m->next;
        free(m);
    }
    free(s->nodes);
    sim_cost_free(s);
    free(s->turns);
    free(s);
}

void rdi_sim_get_stats(const struct rdi_sim *s, struct rdi_sim_stats *out) { *out = s->stats; }

// ---- Nodes ---------------------------------------------------------------------------------------

struct rdi_sim_node *rdi_sim_node(struct rdi_sim *s, int rank) {
    return &s->nodes[rank];
}

bool rdi_sim_take_turn(struct rdi_sim_node *n) {
    if (!n->turn || n->dead || n->sim->now < n->paused_until) {
        return false;
    }
    n->turn = false;
    return true;
}

void sim_turn(struct rdi_sim_node *n) {
    n->turn = true;
    struct rdi_sim *s = n->sim;
    if (s->turns && !n->queued) {
        n->queued = true;
        s->turns[(s->turn_head + s->nturns++) % (size_t)s->config.nodes] = n;
    }
}

void rdi_sim_poke(struct rdi_sim_node *n) { sim_turn(n); }

struct rdi_sim_node *rdi_sim_next_turn(struct rdi_sim *s) {
    s->running = NULL;
    while (s->nturns && !s->running) {
        struct rdi_sim_node *n = s->turns[s->turn_head];
        s->turn_head = (s->turn_head + 1) % (size_t)s->config.nodes;
        s->nturns--;
        n->queued = false;
        if (n->turn && !n->dead && sim_cost_begin(n) && rdi_sim_take_turn(n)) {
            s->running = n;
        }
    }
    return s->running;
}

struct rdi_sim_node *rdi_sim_turn_ahead(const struct rdi_sim *s, size_t turns) {
    return turns < s->nturns ? s->turns[(s->turn_head + turns) % (size_t)s->config.nodes] : NULL;
}

int rdi_sim_rank(const struct rdi_sim_node *n) { return n->rank; }

void sim_poke_at(struct rdi_sim_node *n, uint64_t at) {
    struct sim_event e = {.at = at, .kind = SIM_POKE};
    e.node = n;
    sim_schedule(n->sim, e);
}

bool rdi_sim_is_dead(const struct rdi_sim_node *n) { return n->dead; }

void rdi_sim_vanish(struct rdi_sim_node *n) {
    sim_trace(n->sim, "rank %d vanishes with its host", n->rank);
    n->dead = n->silent = true;
    for (struct sim_end *e = n->ends; e; e = e->next) {
        sim_wire_lose(e->wire, UINT64_MAX / 4);
    }
}

static void reach_changed(struct rdi_sim_node *n) {
    for (struct sim_end *e = n->ends; e; e = e->next) {
        struct sim_wire *w = e->wire;
        if (sim_wire_cut(w) && !w->down) {
            sim_wire_lose(w, UINT64_MAX / 4);
        } else if (!sim_wire_cut(w) && w->down && !w->from->dead && !w->to->dead) {
            w->down_until = n->sim->now;
        }
    }
}

void rdi_sim_side(struct rdi_sim_node *n, int side) {
    sim_trace(n->sim, "rank %d is on side %d", n->rank, side);
    n->side = side;
    reach_changed(n);
}

void rdi_sim_path_end(struct rdi_sim_node *n, unsigned path, int end) {
    sim_trace(n->sim, "rank %d is at end %d of path %u", n->rank, end, path);
    for (int i = 0; i < 2; i++) {
        n->path_ends[i] &= ~(UINT32_C(1) << path);
        n->path_ends[i] |= (uint32_t)(end == i + 1) << path;
    }
    reach_changed(n);
}

void rdi_sim_pause(struct rdi_sim_node *n, uint64_t until) {
    sim_trace(n->sim, "rank %d pauses for %llu us", n->rank,
              (unsigned long long)(until - n->sim->now) / 1000);
    n->paused_until = until;
    sim_poke_at(n, until);
}

void rdi_sim_kill(struct rdi_sim_node *n) {
    struct rdi_sim *s = n->sim;
    sim_trace(s, "rank %d dies", n->rank);
    n->dead = true;
    for (struct sim_end *e = n->ends; e; e = e->next) {
        struct sim_wire *w = e->wire;
        char why[128];
        snprintf(why, sizeof why, "rank %d died (link from rank %u to rank %u)", n->rank,
                 w->id.from, w->id.to);
        // What was under way may still come; then the other end notices.
        sim_wire_lose(w, UINT64_MAX / 4);
        sim_wire_end(w, !e->base.sender, s->now + 1 + sim_below(s, s->config.detect_ns), false, 0,
                     RONDO_ERR_PEER, why);
    }
}

int rdi_sim_lose(struct rdi_sim *s, int from, int to, uint64_t down_ns) {
    int lost = 0;
    for (struct sim_end *e = s->nodes[from].ends; e; e = e->next) {
        struct sim_wire *w = e->wire;
        if (e->base.sender && w->to->rank == to && w->answered && w->receiver && !w->to->dead) {
            sim_wire_lose(w, down_ns);
            lost++;
        }
    }
    return lost;
}
