// SPDX-License-Identifier: MIT
#include "ring/record/dump.h"

#include "ring/internal.h"

#include <string.h>

// ---- Operations ----------------------------------------------------------------------------------

static const char *kind_name(unsigned kind) {
    return kind == RDI_SEND   ? "send"
           : kind == RDI_RECV ? "recv"
                              : rdi_kind_name((enum rdi_kind)kind);
}

static void put_what(struct rdi_text *t, const struct rdi_op_entry *e) {
    rdi_json_u64(t, "number", e->m.number);
    rdi_json_u64(t, "seq", e->seq);
    rdi_json_string(t, "op", kind_name(e->kind));
    rdi_json_u64(t, "count", e->count);
    rdi_json_string(t, "type", rondo_type_name((rondo_type)e->type));
    if (e->kind == RDI_ALL_REDUCE || e->kind == RDI_REDUCE_SCATTER || e->kind == RDI_REDUCE) {
        rdi_json_string(t, "redop", rondo_op_name((rondo_op)e->op));
    }
    if (e->kind == RDI_BROADCAST || e->kind == RDI_REDUCE) {
        rdi_json_int(t, "root", e->root);
    } else if (e->kind == RDI_SEND || e->kind == RDI_RECV) {
        rdi_json_int(t, "peer", e->root);
    }
    rdi_json_string(t, "algorithm", rdi_algo_name((enum rdi_algo_id)e->algo));
    rdi_json_u64(t, "bytes", e->bytes);
}

static void put_op(struct rdi_text *t, const struct rdi_op_entry *e) {
    static const char *const states[] = {"started", "done", "failed"};
    put_what(t, e);
    rdi_json_string(t, "state", states[e->state]);
    if (e->state == RDI_OP_FAILED) {
        rdi_json_string(t, "status", rondo_status_name(e->status));
    }
    rdi_json_u64(t, "submitted", e->m.submitted);
    rdi_json_u64(t, "started", e->m.started);
    rdi_json_u64(t, "first_message", e->m.first);
    rdi_json_u64(t, "last_message", e->m.last);
    rdi_json_u64(t, "finished", e->finished);
    rdi_json_u64(t, "sent", e->m.sent);
    rdi_json_u64(t, "received", e->m.received);
    rdi_json_u64(t, "messages", e->m.msgs);
}

static void put_peer(struct rdi_text *t, const struct rdi_snap *s, int peer, int world) {
    rdi_json_int(t, "peer", peer);
    rdi_json_int(t, "rank", world);
    if (s->peers && world >= 0 && world < s->size) {
        rdi_json_string(t, "host", s->peers[world].host);
        rdi_json_int(t, "pid", s->peers[world].pid);
    }
}

static void put_wait(struct rdi_text *t, const struct rdi_snap *s, const struct rdi_snap_wait *w) {
    rdi_json_line(t);
    rdi_json_begin(t, NULL, '{');
    rdi_json_string(t, "wait", rdi_wait_name(w->wait));
    rdi_json_string(t, "why", w->text);
    rdi_json_bool(t, "for_peer", rdi_wait_is_for_peer(w->wait));
    rdi_json_string(t, "direction", w->out ? "to" : "from");
    put_peer(t, s, w->peer, w->world);
    rdi_json_u64(t, "done", w->done);
    rdi_json_u64(t, "total", w->total);
    rdi_json_end(t, '}');
}

static void put_active(struct rdi_text *t, const struct rdi_snap *s, const struct rdi_snap_op *o) {
    rdi_json_line(t);
    rdi_json_begin(t, NULL, '{');
    put_op(t, &o->entry);
    rdi_json_u64(t, "deadline", o->deadline);
    if (o->device[0]) {
        rdi_json_string(t, "device", o->device + (o->device[0] == ' '));
    }
    rdi_json_begin(t, "waits", '[');
    for (unsigned i = 0; i < o->nwaits; i++) {
        put_wait(t, s, &o->waits[i]);
    }
    rdi_json_end(t, ']');
    if (o->left_out) {
        rdi_json_u64(t, "waits_left_out", o->left_out);
    }
    rdi_json_end(t, '}');
}

// ---- Communicators -------------------------------------------------------------------------------

static void put_edge(struct rdi_text *t, const struct rdi_snap *s, const struct rdi_snap_edge *e) {
    static const char *const channels[RDI_CHANNELS] = {"collectives", "p2p", "device", "back",
                                                       "result"};
    rdi_json_line(t);
    rdi_json_begin(t, NULL, '{');
    rdi_json_string(t, "direction", e->out ? "to" : "from");
    put_peer(t, s, e->peer, e->world);
    rdi_json_string(t, "channel", e->channel < RDI_CHANNELS ? channels[e->channel] : "unknown");
    rdi_json_string(t, "wire", e->wire);
    rdi_json_string(t, "state", e->state);
    rdi_json_u64(t, "credit", e->n.credit);
    rdi_json_u64(t, "ready", e->n.ready);
    rdi_json_u64(t, "posted", e->n.posted);
    rdi_json_u64(t, "sent", e->n.sent);
    rdi_json_u64(t, "arrived", e->n.arrived);
    rdi_json_u64(t, "released", e->n.released);
    rdi_json_end(t, '}');
}

static void put_members(struct rdi_text *t, const struct rdi_snap_comm *c) {
    bool all = true;
    for (int r = 0; r < c->size && all; r++) {
        all = c->world[r] == r;
    }
    // Without it members are the ranks 0 .. size-1 of the job.
    for (int r = 0; r < c->size && !all; r++) {
        if (r == 0) {
            rdi_json_begin(t, "ranks", '[');
        }
        rdi_json_int(t, NULL, c->world[r]);
        if (r == c->size - 1) {
            rdi_json_end(t, ']');
        }
    }
}

static void put_state(struct rdi_text *t, const struct rdi_snap *s, const struct rdi_snap_comm *c) {
    put_members(t, c);
    rdi_json_u64(t, "calls", c->calls);
    rdi_json_string(t, "status", rondo_status_name(c->status));
    rdi_json_string(t, "error", c->why);
    rdi_json_u64(t, "operations", c->operations);
    rdi_json_u64(t, "bytes_sent", c->wire[0] + c->wire[1] + c->wire[2]);
    rdi_json_u64(t, "bytes_received", c->bytes_received);
    rdi_json_u64(t, "messages", c->messages);
    rdi_json_u64(t, "resets", c->resets);
    rdi_json_begin(t, "active", '[');
    for (unsigned i = 0; i < c->nops; i++) {
        put_active(t, s, &c->ops[i]);
    }
    rdi_json_end(t, ']');
    if (c->ops_left_out) {
        rdi_json_u64(t, "active_left_out", c->ops_left_out);
    }
    rdi_json_begin(t, "edges", '[');
    for (unsigned i = 0; i < c->nedges; i++) {
        put_edge(t, s, &c->edges[i]);
    }
    rdi_json_end(t, ']');
    if (c->edges_left_out) {
        rdi_json_u64(t, "edges_left_out", c->edges_left_out);
    }
}

static void put_comm_head(struct rdi_text *t, uint64_t id, int rank, int size) {
    rdi_json_line(t);
    rdi_json_begin(t, NULL, '{');
    rdi_json_hex(t, "id", id);
    rdi_json_int(t, "rank", rank);
    rdi_json_int(t, "size", size);
}

// Oldest first. With `only_active` those that have not ended.
static void put_ring(struct rdi_text *t, const char *key, const struct rdi_record *r,
                     uint64_t recent, bool only_active) {
    uint64_t head = atomic_load(&r->head), n = recent < r->cap ? recent : r->cap;
    struct rdi_op_entry e;
    rdi_json_begin(t, key, '[');
    for (uint64_t i = head > n ? head - n + 1 : 1; i <= head; i++) {
        if (rdi_record_read(r, i, &e) && !(only_active && e.state != RDI_OP_STARTED)) {
            rdi_json_line(t);
            rdi_json_begin(t, NULL, '{');
            put_op(t, &e);
            rdi_json_end(t, '}');
        }
    }
    rdi_json_end(t, ']');
}

static const struct rdi_record *record_of(const struct rdi_recorder *k, uint64_t id) {
    const struct rdi_record *r = atomic_load(&k->records);
    while (r && (!atomic_load(&r->used) || atomic_load(&r->comm) != id)) {
        r = atomic_load(&r->next);
    }
    return r;
}

static void put_whole(struct rdi_text *t, const struct rdi_snap *s, const struct rdi_recorder *k,
                      uint64_t recent) {
    for (unsigned i = 0; i < s->ncomms; i++) {
        const struct rdi_snap_comm *c = &s->comms[i];
        const struct rdi_record *r = record_of(k, c->id);
        put_comm_head(t, c->id, c->rank, c->size);
        put_state(t, s, c);
        if (r) {
            put_ring(t, "recent", r, recent, false);
        }
        rdi_json_end(t, '}');
    }
}

// What can be told without the engine.
static void put_rings(struct rdi_text *t, const struct rdi_recorder *k, uint64_t recent) {
    for (const struct rdi_record *r = atomic_load(&k->records); r; r = atomic_load(&r->next)) {
        if (!atomic_load(&r->used)) {
            continue;
        }
        put_comm_head(t, atomic_load(&r->comm), atomic_load(&r->rank), atomic_load(&r->size));
        rdi_json_u64(t, "calls", atomic_load(&r->calls));
        put_ring(t, "active", r, r->cap, true);
        put_ring(t, "recent", r, recent, false);
        rdi_json_end(t, '}');
    }
}

// ---- The whole -----------------------------------------------------------------------------------

static void put_failures(struct rdi_text *t, const struct rdi_snap *s) {
    rdi_json_line(t);
    rdi_json_begin(t, "failures", '[');
    for (unsigned i = 0; i < s->nfailures; i++) {
        const struct rdi_snap_comm *c = s->failures[i];
        put_comm_head(t, c->id, c->rank, c->size);
        rdi_json_u64(t, "at", c->at);
        put_state(t, s, c);
        rdi_json_end(t, '}');
    }
    rdi_json_end(t, ']');
}

static void put_head(struct rdi_text *t, const struct rdi_dump_head *h) {
    rdi_json_string(t, "format", RDI_DUMP_FORMAT);
    rdi_json_string(t, "version", rondo_version());
    rdi_json_string(t, "cause", h->cause);
    rdi_json_string(t, "job", h->job);
    rdi_json_int(t, "rank", h->rank);
    rdi_json_int(t, "size", h->size);
    rdi_json_string(t, "host", h->host);
    rdi_json_string(t, "boot", h->boot);
    rdi_json_int(t, "pid", h->pid);
    rdi_json_string(t, "program", h->program);
    rdi_json_u64(t, "monotonic_ns", h->monotonic);
    rdi_json_u64(t, "unix_ns", h->unix_ns);
}

void rdi_dump_json(struct rdi_text *t, const struct rdi_dump_head *head, const struct rdi_snap *s,
                   const struct rdi_recorder *k, uint64_t recent) {
    rdi_json_begin(t, NULL, '{');
    put_head(t, head);
    rdi_json_bool(t, "whole", s->whole);
    if (s->whole) {
        rdi_json_u64(t, "inbox", s->inbox);
        rdi_json_u64(t, "strangers", s->strangers);
        rdi_json_u64(t, "damaged", s->damaged);
        put_failures(t, s);
    }
    rdi_json_line(t);
    rdi_json_begin(t, "communicators", '[');
    if (s->whole) {
        put_whole(t, s, k, recent);
    } else {
        put_rings(t, k, recent);
    }
    rdi_json_end(t, ']');
    rdi_json_end(t, '}');
    rdi_json_line(t);
}
