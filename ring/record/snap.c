// SPDX-License-Identifier: MIT
// Snapshots: every counter of a communicator, and why each of its operations does not move, copied by the
// engine's owner in microseconds, so that they can be written down without it.
#include "ring/cuda/gpu.h"
#include "ring/internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// Of one operation; an all_to_all between thousands of ranks waits for as many.
#define MAX_WAITS 256
// Of one communicator.
#define MAX_OPS 256
#define MAX_EDGES 8192

// ---- Edges ---------------------------------------------------------------------------------------

static const char *state_name(const struct rdi_link *l) {
    static const char *const names[] = {"connecting", "up", "lost", "failed", "closed"};
    return l && l->state <= RDI_LINK_CLOSED ? names[l->state] : "none";
}

// In messages, as the other counters of an edge: what is ready is not cut yet, so it is only told apart from
// nothing.
static uint64_t ready(const struct rdi_edge *e) {
    const struct rdi_flow *f = e->out ? e->head : NULL;
    uint32_t most = e->link ? e->link->max_msg : 0;
    return e->posted + (f && most ? (f->ready - f->posted + most - 1) / most : 0);
}

static void take_edge(const struct rdi_edge *e, struct rdi_snap_edge *out) {
    const struct rdi_link *l = e->link;
    *out = (struct rdi_snap_edge){.out = e->out,
                                  .peer = e->peer,
                                  .world = e->comm->world[e->peer],
                                  .channel = e->channel,
                                  .wire = l ? l->ops->name : "none",
                                  .state = state_name(l),
                                  .n = {.credit = l ? l->credit : 0,
                                        .ready = ready(e),
                                        .posted = e->posted,
                                        .sent = l ? l->sent : 0,
                                        .arrived = l ? l->arrived : 0,
                                        .released = l ? l->released : 0}};
}

static bool take_edges(const struct rondo_comm *c, struct rdi_snap_comm *out) {
    unsigned n = 0;
    for (const struct rdi_edge *e = c->edges; e; e = e->next) {
        n++;
    }
    out->edges_left_out = n > MAX_EDGES ? n - MAX_EDGES : 0;
    n -= out->edges_left_out;
    out->edges = calloc(n + 1, sizeof *out->edges);
    for (const struct rdi_edge *e = c->edges; out->edges && e && out->nedges < n; e = e->next) {
        take_edge(e, &out->edges[out->nedges++]);
    }
    return out->edges != NULL;
}

// ---- Operations ----------------------------------------------------------------------------------

static void add_wait(struct rdi_snap_op *out, struct rdi_snap_wait w) {
    if (out->nwaits < MAX_WAITS) {
        out->waits[out->nwaits++] = w;
    } else {
        out->left_out++;
    }
}

// Waits for a peer's data come first: they name who is late.
static bool take_op(const struct rondo_request *r, struct rdi_snap_op *out) {
    const struct rondo_comm *c = r->comm;
    *out = (struct rdi_snap_op){.deadline = r->deadline};
    rdi_record_entry(r, &out->entry);
    unsigned cap = (r->nflows < MAX_WAITS ? r->nflows : MAX_WAITS) + 1;
    out->waits = calloc(cap, sizeof *out->waits);
    if (!out->waits) {
        return false;
    }
    for (int pass = 0; pass < 2; pass++) {
        for (unsigned i = 0; i < r->nflows; i++) {
            const struct rdi_flow *f = &r->flows[i];
            struct rdi_snap_wait w = {
                .out = f->out, .peer = f->edge->peer, .done = f->done, .total = f->total};
            if (f->out == (pass == 1) && (w.wait = rdi_flow_wait(f, &w.text)) != RDI_WAIT_NONE) {
                w.world = c->world[w.peer];
                add_wait(out, w);
            }
        }
    }
    struct rdi_snap_wait whole = {.out = true};
    whole.wait = rdi_op_wait(r, &whole.peer, &whole.text);
    if (out->nwaits == 0 && whole.wait != RDI_WAIT_NONE) {
        whole.world = whole.peer >= 0 ? c->world[whole.peer] : -1;
        add_wait(out, whole);
    }
    if (r->gpu) {
        (void)rdi_gpu_report(r, out->device, sizeof out->device);
    }
    return true;
}

static bool take_ops(const struct rondo_comm *c, struct rdi_snap_comm *out) {
    unsigned n = 0;
    for (const struct rondo_request *r = c->head; r; r = r->next) {
        n++;
    }
    out->ops_left_out = n > MAX_OPS ? n - MAX_OPS : 0;
    n -= out->ops_left_out;
    out->ops = calloc(n + 1, sizeof *out->ops);
    for (const struct rondo_request *r = c->head; out->ops && r && out->nops < n; r = r->next) {
        if (!take_op(r, &out->ops[out->nops])) {
            return false;
        }
        out->nops++;
    }
    return out->ops != NULL;
}

// ---- Communicators -------------------------------------------------------------------------------

static void empty(struct rdi_snap_comm *s) {
    for (unsigned i = 0; s->ops && i < s->nops; i++) {
        free(s->ops[i].waits);
    }
    free(s->ops);
    free(s->edges);
    free(s->world);
    free(s->why);
}

rondo_status rdi_snap_comm_take(const struct rondo_comm *c, uint64_t now,
                                struct rdi_snap_comm *out) {
    memset(out, 0, sizeof *out);
    out->id = c->id;
    out->at = now;
    out->rank = c->rank;
    out->size = c->size;
    out->calls = c->seq;
    out->status = (rondo_status)atomic_load(&c->status);
    out->operations = atomic_load(&c->operations);
    out->bytes_received = atomic_load(&c->bytes_received);
    out->messages = atomic_load(&c->messages);
    out->resets = atomic_load(&c->resets);
    out->wire[0] = atomic_load(&c->bytes_shm);
    out->wire[1] = atomic_load(&c->bytes_tcp);
    out->wire[2] = atomic_load(&c->bytes_verbs);
    out->why = strdup(out->status != RONDO_OK ? c->why : "");
    out->world = malloc((size_t)c->size * sizeof *out->world);
    if (!out->why || !out->world || !take_edges(c, out) || !take_ops(c, out)) {
        empty(out);
        return rdi_fail(RONDO_ERR_NOMEM, "out of memory to take down a communicator's state");
    }
    memcpy(out->world, c->world, (size_t)c->size * sizeof *out->world);
    return RONDO_OK;
}

void rdi_snap_comm_free(struct rdi_snap_comm *s) {
    if (s && atomic_fetch_sub(&s->refs, 1) == 1) {
        empty(s);
        free(s);
    }
}

void rdi_record_fail(struct rondo_comm *c, rondo_status s) {
    struct rdi_recorder *k = &c->engine->recorder;
    struct rdi_snap_comm *taken = malloc(sizeof *taken), **at;
    atomic_fetch_add_explicit(&k->failures[s < 0 ? -s % 32 : 0], 1, memory_order_relaxed);
    // Without memory there is no record of it; the failure is what it was.
    if (taken && rdi_snap_comm_take(c, rdi_now(&c->engine->env), taken) == RONDO_OK) {
        atomic_init(&taken->refs, 1);
        taken->status = s;
        free(taken->why);
        taken->why = strdup(c->why);
        at = &k->failed[k->nfailed++ % RDI_FAILURES_KEPT];
        rdi_snap_comm_free(*at);
        *at = taken;
    } else {
        free(taken);
    }
    if (k->notice) {
        k->notice(k->notice_arg);
    }
}

// ---- The engine ----------------------------------------------------------------------------------

static bool take_peers(const struct rdi_engine *e, struct rdi_snap *out) {
    out->peers = calloc((size_t)e->job.size, sizeof *out->peers);
    for (int r = 0; out->peers && r < e->job.size; r++) {
        memcpy(out->peers[r].host, e->peers[r].host, sizeof out->peers[r].host);
        out->peers[r].pid = e->peers[r].pid;
    }
    return out->peers != NULL;
}

static void take_failures(const struct rdi_recorder *k, struct rdi_snap *out) {
    unsigned n = k->nfailed < RDI_FAILURES_KEPT ? k->nfailed : RDI_FAILURES_KEPT;
    for (unsigned i = k->nfailed - n; i < k->nfailed; i++) {
        struct rdi_snap_comm *f = k->failed[i % RDI_FAILURES_KEPT];
        atomic_fetch_add(&f->refs, 1);
        out->failures[out->nfailures++] = f;
    }
}

rondo_status rdi_snap_take(const struct rdi_engine *e, struct rdi_snap *out) {
    unsigned n = 0;
    for (const struct rondo_comm *c = e->comms; c; c = c->next) {
        n++;
    }
    memset(out, 0, sizeof *out);
    out->whole = true;
    out->at = rdi_now(&e->env);
    out->rank = e->job.rank;
    out->size = e->job.size;
    memcpy(out->host, e->job.host, sizeof out->host);
    for (unsigned i = 0; i < e->nnets; i++) {
        out->strangers += atomic_load(&e->nets[i]->strangers);
        out->damaged += atomic_load(&e->nets[i]->damaged);
    }
    for (const struct rondo_request *r = atomic_load(&e->inbox); r; r = r->next) {
        out->inbox++;
    }
    memcpy(out->past, e->recorder.past, sizeof out->past);
    memcpy(out->past_wire, e->recorder.past_wire, sizeof out->past_wire);
    take_failures(&e->recorder, out);
    out->comms = calloc(n + 1, sizeof *out->comms);
    bool ok = out->comms && take_peers(e, out);
    for (const struct rondo_comm *c = e->comms; ok && c; c = c->next) {
        ok = rdi_snap_comm_take(c, out->at, &out->comms[out->ncomms]) == RONDO_OK;
        out->ncomms += ok;
    }
    if (!ok) {
        rdi_snap_free(out);
        return rdi_fail(RONDO_ERR_NOMEM, "out of memory to take down the engine's state");
    }
    return RONDO_OK;
}

void rdi_snap_free(struct rdi_snap *s) {
    for (unsigned i = 0; i < s->ncomms; i++) {
        empty(&s->comms[i]);
    }
    for (unsigned i = 0; i < s->nfailures; i++) {
        rdi_snap_comm_free(s->failures[i]);
    }
    free(s->comms);
    free(s->peers);
    memset(s, 0, sizeof *s);
}
