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

void sim_trace(struct rdi_sim *s, const char *fmt, ...) {
    if (!s->config.trace) {
        return;
    }
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
    sim_trace(self, "%s", line);
}

void rdi_sim_env(struct rdi_sim *s, struct rdi_env *env) {
    *env = (struct rdi_env){.self = s, .now = env_now, .random = env_random};
    if (s->config.trace) {
        env->log = env_log;
    }
}

// ---- Events --------------------------------------------------------------------------------------

static bool sooner(const struct sim_event *a, const struct sim_event *b) {
    return a->at != b->at ? a->at < b->at : a->order < b->order;
}

static bool grow(struct rdi_sim *s, struct sim_event **list, size_t *cap, size_t n) {
    if (n < *cap) {
        return true;
    }
    size_t more = *cap ? 2 * *cap : 256;
    struct sim_event *p = realloc(*list, more * sizeof *p);
    if (!p) {
        s->config.broken(s->config.arg, "memory", "the simulation is out of memory");
        return false;
    }
    *list = p;
    *cap = more;
    return true;
}

// In a ring: its beginning moves to the end of the array when that grows.
static bool push_fifo(struct rdi_sim *s, const struct sim_event *e) {
    size_t cap = s->fifo_cap;
    if (s->fifo_n == cap) {
        if (!grow(s, &s->fifo, &s->fifo_cap, cap)) {
            return false;
        }
        for (size_t i = 0; i < s->fifo_head; i++) {
            s->fifo[cap + i] = s->fifo[i];
        }
    }
    s->fifo[(s->fifo_head + s->fifo_n++) % s->fifo_cap] = *e;
    return true;
}

void sim_schedule(struct rdi_sim *s, struct sim_event e) {
    e.order = s->order++;
    e.at = e.at < s->now ? s->now : e.at;
    const struct sim_event *last =
        s->fifo_n ? &s->fifo[(s->fifo_head + s->fifo_n - 1) % s->fifo_cap] : NULL;
    if (e.wire) {
        e.wire->refs++;
    }
    if (!last || e.at >= last->at) {
        (void)push_fifo(s, &e);
        return;
    }
    if (!grow(s, &s->heap, &s->cap_heap, s->nheap)) {
        return;
    }
    size_t i = s->nheap++;
    for (; i > 0 && sooner(&e, &s->heap[(i - 1) / 2]); i = (i - 1) / 2) {
        s->heap[i] = s->heap[(i - 1) / 2];
    }
    s->heap[i] = e;
}

static const struct sim_event *first_event(const struct rdi_sim *s) {
    const struct sim_event *a = s->nheap ? &s->heap[0] : NULL;
    const struct sim_event *b = s->fifo_n ? &s->fifo[s->fifo_head] : NULL;
    return !a || (b && sooner(b, a)) ? b : a;
}

static struct sim_event take_first(struct rdi_sim *s) {
    if (s->fifo_n && first_event(s) == &s->fifo[s->fifo_head]) {
        struct sim_event e = s->fifo[s->fifo_head];
        s->fifo_head = (s->fifo_head + 1) % s->fifo_cap;
        s->fifo_n--;
        return e;
    }
    struct sim_event first = s->heap[0], last = s->heap[--s->nheap];
    size_t i = 0;
    for (;;) {
        size_t child = 2 * i + 1;
        if (child + 1 < s->nheap && sooner(&s->heap[child + 1], &s->heap[child])) {
            child++;
        }
        if (child >= s->nheap || !sooner(&s->heap[child], &last)) {
            break;
        }
        s->heap[i] = s->heap[child];
        i = child;
    }
    s->heap[i] = last;
    return first;
}

uint64_t rdi_sim_now(const struct rdi_sim *s) { return s->now; }

uint64_t rdi_sim_next(const struct rdi_sim *s) {
    const struct sim_event *e = first_event(s);
    return e ? e->at : UINT64_MAX;
}

void rdi_sim_advance(struct rdi_sim *s, uint64_t to) {
    while (rdi_sim_next(s) <= to && first_event(s)) {
        struct sim_event e = take_first(s);
        s->now = e.at;
        s->stats.events++;
        sim_event_do(s, &e);
        if (e.wire) {
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
    if (c->per_host > 0) {
        s->config.cores = c->cores < 1 ? 1 : c->cores > SIM_CORES ? SIM_CORES : c->cores;
        s->hosts = calloc((size_t)(c->nodes / c->per_host + 1), sizeof *s->hosts);
        if (!s->hosts) {
            free(s);
            free(nodes);
            return NULL;
        }
    }
    s->random = c->seed;
    s->nodes = nodes;
    for (int i = 0; i < c->nodes; i++) {
        nodes[i] = (struct rdi_sim_node){.sim = s, .rank = i};
    }
    return s;
}

void rdi_sim_destroy(struct rdi_sim *s) {
    while (first_event(s)) {
        struct sim_event e = take_first(s);
        sim_event_drop(&e);
        if (e.wire) {
            sim_wire_unref(e.wire);
        }
    }
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
    free(s->hosts);
    free(s->fifo);
    free(s->heap);
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
    if (n->sim->config.per_host && !n->queued) {
        n->queued = true;
        n->next_turn = NULL;
        *(n->sim->turn_tail ? &n->sim->turn_tail->next_turn : &n->sim->turn_head) = n;
        n->sim->turn_tail = n;
    }
}

void rdi_sim_poke(struct rdi_sim_node *n) { sim_turn(n); }

struct rdi_sim_node *rdi_sim_next_turn(struct rdi_sim *s) {
    struct rdi_sim_node *n;
    while ((n = s->turn_head) != NULL) {
        s->turn_head = n->next_turn;
        s->turn_tail = s->turn_head ? s->turn_tail : NULL;
        n->queued = false;
        if (rdi_sim_take_turn(n)) {
            return n;
        }
    }
    return NULL;
}

int rdi_sim_rank(const struct rdi_sim_node *n) { return n->rank; }

void sim_poke_at(struct rdi_sim_node *n, uint64_t at) {
    sim_schedule(n->sim, (struct sim_event){.at = at, .kind = SIM_POKE, .node = n});
}

bool rdi_sim_is_dead(const struct rdi_sim_node *n) { return n->dead; }

void rdi_sim_vanish(struct rdi_sim_node *n) {
    sim_trace(n->sim, "rank %d vanishes with its host", n->rank);
    n->dead = n->silent = true;
    for (struct sim_end *e = n->ends; e; e = e->next) {
        sim_wire_lose(e->wire, UINT64_MAX / 4);
    }
}

void rdi_sim_side(struct rdi_sim_node *n, int side) {
    sim_trace(n->sim, "rank %d is on side %d", n->rank, side);
    n->side = side;
    for (struct sim_end *e = n->ends; e; e = e->next) {
        struct sim_wire *w = e->wire;
        if (sim_wire_cut(w) && !w->down) {
            sim_wire_lose(w, UINT64_MAX / 4);
        } else if (!sim_wire_cut(w) && w->down && !w->from->dead && !w->to->dead) {
            w->down_until = n->sim->now;
        }
    }
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
