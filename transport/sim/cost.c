// SPDX-License-Identifier: MIT
// What things cost in a described cluster. A rank is one thread. What it does in a turn (messages that it sends and
// takes note of, and the work that rdi_sim_work() tells) takes time on a core of its host, one thing after the other;
// what it sends leaves when it has come to it, and its next turn begins when it is through. Where a host has more ranks
// than cores, a rank waits for a core, and a core that changes ranks loses switch_ns. Where both ends have several NICs,
// a message is cut into as many parts, and is there when all are.
//
//     turn begins                        rank's next turn, core free
//        | take note | work | put | work |
//                             |-- bytes on the path, latency --> arrives
#include "transport/sim/world.h"

#include <stdlib.h>

struct sim_cost {
    double inner_ns, nic_ns; // a byte
    struct sim_core *cores;  // of all hosts
};

bool sim_cost_create(struct rdi_sim *s) {
    struct rdi_sim_config *c = &s->config;
    size_t hosts = (size_t)((c->nodes + c->per_host - 1) / c->per_host);
    c->nics = c->nics < 1 ? 1 : c->nics > SIM_NICS ? SIM_NICS : c->nics;
    c->cores = c->cores < 1 ? 1 : c->cores > SIM_CORES ? SIM_CORES : c->cores;
    s->hosts = calloc(hosts, sizeof *s->hosts);
    s->cost = calloc(1, sizeof *s->cost);
    if (!s->hosts || !s->cost) {
        return false;
    }
    s->cost->inner_ns = 1e9 / (double)c->inner_bytes_per_s;
    s->cost->nic_ns = 1e9 / (double)c->bytes_per_s;
    if (c->cores >= c->per_host) {
        return true;
    }
    s->cost->cores = calloc(hosts * (size_t)c->cores, sizeof *s->cost->cores);
    for (size_t i = 0; s->cost->cores && i < hosts; i++) {
        s->hosts[i].core = &s->cost->cores[i * (size_t)c->cores];
    }
    return s->cost->cores != NULL;
}

void sim_cost_free(struct rdi_sim *s) {
    if (s->cost) {
        free(s->cost->cores);
    }
    free(s->cost);
    free(s->hosts);
}

static struct sim_host *host_of(const struct rdi_sim_node *n) {
    return &n->sim->hosts[n->rank / n->sim->config.per_host];
}

static uint64_t max64(uint64_t a, uint64_t b) { return a > b ? a : b; }

void rdi_sim_work(struct rdi_sim_node *n, uint64_t ns) {
    n->busy_until = max64(n->busy_until, n->sim->now) + ns;
    if (n->core) {
        n->core->free = n->busy_until;
    }
}

uint64_t rdi_sim_busy_until(const struct rdi_sim_node *n) { return n->busy_until; }

void sim_cost_message(struct rdi_sim_node *n) { rdi_sim_work(n, n->sim->config.cpu_ns); }

struct rdi_sim_nics rdi_sim_nics(const struct rdi_sim_node *n) {
    const struct rdi_sim_config *c = &n->sim->config;
    int local = n->rank % c->per_host, left = c->nodes - (n->rank - local);
    int ranks = left < c->per_host ? left : c->per_host;
    int count = c->nics > ranks ? (c->nics - local - 1) / ranks + 1 : 1;
    return (struct rdi_sim_nics){.first = local % c->nics, .step = ranks, .count = count};
}

// Through NICs of both hosts, from `leaves` on. When it is there.
static uint64_t cross(struct sim_wire *w, uint32_t len, uint64_t leaves) {
    const struct rdi_sim *s = w->sim;
    struct sim_host *from = host_of(w->from), *to = host_of(w->to);
    struct rdi_sim_nics a = rdi_sim_nics(w->from), b = rdi_sim_nics(w->to);
    int parts = a.count < b.count ? a.count : b.count;
    uint64_t wire = (uint64_t)(len * s->cost->nic_ns / parts), at = 0;
    for (int i = 0; i < parts; i++) {
        uint64_t *tx = &from->tx_free[a.first + i * a.step];
        uint64_t *rx = &to->rx_free[b.first + i * b.step];
        uint64_t start = max64(leaves, *tx);
        *tx = start + wire;
        // The first byte is there after the latency; the last one when both NICs are through with it.
        *rx = max64(start + s->config.latency_ns, *rx) + wire;
        at = max64(at, *rx);
    }
    return at;
}

uint64_t sim_cost_put(struct sim_wire *w, uint32_t len) {
    struct rdi_sim *s = w->sim;
    const struct rdi_sim_config *c = &s->config;
    uint64_t at;
    if (host_of(w->from) == host_of(w->to)) {
        // The sender's core moves the bytes.
        rdi_sim_work(w->from, c->cpu_ns + (uint64_t)(len * s->cost->inner_ns));
        at = w->from->busy_until + c->inner_latency_ns;
    } else {
        rdi_sim_work(w->from, c->cpu_ns);
        at = cross(w, len, w->from->busy_until);
    }
    return at + (c->jitter_ns ? sim_below(s, c->jitter_ns) : 0);
}

// The core on which it ran last if that is free, else the one that is free first.
static struct sim_core *choose_core(struct rdi_sim_node *n) {
    struct sim_core *core = host_of(n)->core, *best = core;
    if (n->core && n->core->last == n && n->core->free <= n->sim->now) {
        return n->core;
    }
    for (int i = 1; i < n->sim->config.cores; i++) {
        best = core[i].free < best->free ? &core[i] : best;
    }
    return best;
}

bool sim_cost_begin(struct rdi_sim_node *n) {
    struct rdi_sim *s = n->sim;
    struct sim_core *core = host_of(n)->core ? choose_core(n) : NULL;
    uint64_t at = max64(n->busy_until, core ? core->free : 0);
    if (at > s->now) {
        if (n->poked_at <= s->now) {
            n->poked_at = at;
            sim_poke_at(n, at);
        }
        return false;
    }
    n->core = core;
    n->busy_until = s->now;
    if (core) {
        rdi_sim_work(n, core->last == n ? 0 : s->config.switch_ns);
        core->last = n;
    }
    return true;
}
