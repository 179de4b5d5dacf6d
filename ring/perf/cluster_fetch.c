// SPDX-License-Identifier: MIT
// Thousands of ranks do not fit into the processor's cache, and each is looked at for a moment: without help a turn is
// nothing but waiting for memory. So what the next turns will touch is asked for some turns ahead, each pointer after
// the one that leads to it.
#include "ring/perf/cluster_run.h"

static void fetch(const void *at, size_t bytes) {
    for (size_t i = 0; i < bytes; i += 64) {
        __builtin_prefetch((const char *)at + i, 1);
    }
    __builtin_prefetch((const char *)at + bytes - 1, 1);
}

#define FETCH(p, from, to)                                      \
    fetch((const char *)(p) + offsetof(__typeof__(*(p)), from), \
          offsetof(__typeof__(*(p)), to) - offsetof(__typeof__(*(p)), from))

static void fetch_rank(const struct member *m) {
    const struct rdi_engine *e = m->engine;
    const struct rondo_comm *c = m->comm;
    FETCH(e, env, recorder.times);
    FETCH(c, engine, accused.since);
    fetch(m->req, sizeof *m->req);
    rdi_sim_fetch_node(m->node);
}

static const struct rdi_edge *edge_of(const struct member *m, unsigned i) {
    const struct rondo_request *r = m->req;
    return r && i < r->nflows ? r->flows[i].edge : NULL;
}

static void fetch_edges(const struct member *m) {
    for (unsigned i = 0; i < 2; i++) {
        const struct rdi_edge *e = edge_of(m, i);
        if (e) {
            fetch(e, sizeof *e);
        }
    }
}

static void fetch_links(const struct member *m) {
    for (unsigned i = 0; i < 2; i++) {
        const struct rdi_edge *e = edge_of(m, i);
        if (e && e->link) {
            rdi_sim_fetch_link(e->link, false);
        }
    }
}

// What comes next on them.
static void fetch_messages(const struct run *r, const struct member *m) {
    for (unsigned i = 0; i < 2; i++) {
        const struct rdi_edge *e = edge_of(m, i);
        if (!e || !e->link) {
            continue;
        }
        rdi_sim_fetch_link(e->link, true);
        if (!e->window || !e->link->slots) {
            continue;
        }
        uint64_t slot = e->posted % e->link->slots, len;
        fetch(&e->window[slot], offsetof(struct rdi_sent, sig));
        const struct rdi_flow *f = &m->req->flows[i];
        if (r->job->check && f->posted < f->total) {
            const char *next = m->req->algo->source(m->req, f, f->posted, &len);
            bool received = next >= m->recv;
            __builtin_prefetch(e->copies + slot * RDI_COPY_MAX, 1);
            __builtin_prefetch(next, 1);
            __builtin_prefetch(received ? next - (m->recv - m->send) : next, 0);
        }
    }
}

void cluster_fetch(const struct run *r) {
    for (size_t ahead = 0; ahead < 5; ahead++) {
        struct rdi_sim_node *n = rdi_sim_turn_ahead(r->sim, ahead);
        if (!n) {
            return;
        }
        const struct member *m = &r->member[rdi_sim_rank(n)];
        if (ahead == 4) {
            fetch(m, sizeof *m);
        } else if (!m->req) {
            continue;
        } else if (ahead == 3) {
            fetch_rank(m);
        } else if (ahead == 2) {
            fetch_edges(m);
        } else if (ahead == 1) {
            fetch_links(m);
        } else {
            fetch_messages(r, m);
        }
    }
}
