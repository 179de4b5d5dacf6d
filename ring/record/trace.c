// SPDX-License-Identifier: MIT
// Events: how they are made, and the queue that they go through.
#include "ring/record/trace.h"

#include <stdlib.h>
#include <string.h>

// ---- The queue -----------------------------------------------------------------------------------

struct rdi_trace *rdi_trace_new(uint64_t cap) {
    size_t bytes = sizeof(struct rdi_trace) + cap * sizeof(struct rdi_trace_slot);
    struct rdi_trace *t = aligned_alloc(64, (bytes + 63) / 64 * 64);
    if (!t) {
        return NULL;
    }
    memset(t, 0, sizeof *t);
    t->cap = cap;
    for (uint64_t i = 0; i < cap; i++) {
        atomic_init(&t->slots[i].turn, i);
    }
    return t;
}

// Slot i is free for event number i when its turn is i, and holds it when its turn is i + 1.
void rdi_trace_put(struct rdi_trace *t, const struct rdi_trace_event *e) {
    uint64_t at = atomic_load_explicit(&t->head, memory_order_relaxed);
    for (;;) {
        struct rdi_trace_slot *s = &t->slots[at & (t->cap - 1)];
        uint64_t turn = atomic_load_explicit(&s->turn, memory_order_acquire);
        if (turn == at) {
            if (atomic_compare_exchange_weak_explicit(&t->head, &at, at + 1, memory_order_relaxed,
                                                      memory_order_relaxed)) {
                s->event = *e;
                atomic_store_explicit(&s->turn, at + 1, memory_order_release);
                return;
            }
        } else if (turn < at) { // full: better a gap in the picture than a rank that waits
            atomic_fetch_add_explicit(&t->dropped, 1, memory_order_relaxed);
            return;
        } else {
            at = atomic_load_explicit(&t->head, memory_order_relaxed);
        }
    }
}

bool rdi_trace_take(struct rdi_trace *t, struct rdi_trace_event *out) {
    struct rdi_trace_slot *s = &t->slots[t->tail & (t->cap - 1)];
    if (atomic_load_explicit(&s->turn, memory_order_acquire) != t->tail + 1) {
        return false;
    }
    *out = s->event;
    atomic_store_explicit(&s->turn, t->tail + t->cap, memory_order_release);
    t->tail++;
    return true;
}

// ---- Events --------------------------------------------------------------------------------------

void rdi_trace_op(const struct rondo_request *r, bool begins) {
    const struct rondo_comm *c = r->comm;
    struct rdi_trace *t = rdi_tracing(c->engine);
    if (!t) {
        return;
    }
    struct rdi_trace_event e = {.at = begins ? r->marks.submitted : r->finished,
                                .id = rdi_mix(c->id, r->marks.number),
                                .comm = c->id,
                                .seq = r->sig.seq,
                                .bytes = r->bytes,
                                .what = (uint32_t)r->kind | (uint32_t)r->type << 8 |
                                        (uint32_t)r->op << 16 | (uint32_t)r->sig.algo << 24,
                                .peer = begins ? r->root : (int32_t)r->status,
                                .kind = begins ? RDI_TRACE_OP_BEGIN : RDI_TRACE_OP_END};
    rdi_trace_put(t, &e);
}

void rdi_trace_message(const struct rdi_flow *f, uint64_t len, uint64_t began) {
    const struct rdi_edge *g = f->edge;
    const struct rondo_comm *c = g->comm;
    struct rdi_trace *t = rdi_tracing(c->engine);
    if (!t || !began) {
        return;
    }
    uint64_t me = (uint64_t)c->world[c->rank], peer = (uint64_t)c->world[g->peer];
    uint64_t number = (f->out ? g->posted : g->link->released) - 1;
    // Both ends find the same id for the arrow between them.
    uint64_t ends = (f->out ? me << 32 | peer : peer << 32 | me) * RDI_CHANNELS + g->channel;
    struct rdi_trace_event e = {.at = began,
                                .dur = rdi_now(&c->engine->env) - began,
                                .id = rdi_mix(rdi_mix(c->id, ends), number),
                                .comm = c->id,
                                .seq = number,
                                .bytes = len,
                                .peer = (int32_t)peer,
                                .kind = f->out ? RDI_TRACE_SEND : RDI_TRACE_RECV};
    rdi_trace_put(t, &e);
}

void rdi_trace_step(const struct rondo_comm *c, enum rdi_trace_step step, uint64_t number,
                    uint64_t from, uint64_t to) {
    struct rdi_trace *t = rdi_tracing(c->engine);
    if (t && from && to >= from) {
        rdi_trace_put(
            t,
            &(struct rdi_trace_event){
                .at = from, .dur = to - from, .seq = number, .what = step, .kind = RDI_TRACE_STEP});
    }
}

void rdi_trace_bucket(const struct rondo_comm *c, uint64_t index, uint64_t bytes, uint64_t from,
                      uint64_t to) {
    struct rdi_trace *t = rdi_tracing(c->engine);
    if (t && from && to >= from) {
        rdi_trace_put(t, &(struct rdi_trace_event){.at = from,
                                                   .dur = to - from,
                                                   .id = rdi_mix(rdi_mix(c->id, from), index),
                                                   .seq = index,
                                                   .bytes = bytes,
                                                   .kind = RDI_TRACE_BUCKET});
    }
}
