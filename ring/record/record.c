// SPDX-License-Identifier: MIT
// A communicator's ring of operations. One writer at a time, the engine's owner; readers check the version
// before and after (a seqlock whose words are atomics, so that a torn copy is noticed and never undefined).
#include "ring/record/trace.h"

#include <stdlib.h>
#include <string.h>

_Static_assert(sizeof(struct rdi_entry_slot) == 128, "an entry is two cache lines");
_Static_assert(sizeof((struct rdi_recorder *)0)->times /
                       sizeof((struct rdi_recorder *)0)->times[0] ==
                   RDI_KIND_COUNT,
               "a histogram a kind");

// ---- Life ----------------------------------------------------------------------------------------

static struct rdi_record *reuse(struct rdi_recorder *k, uint64_t cap) {
    struct rdi_record *r = atomic_load_explicit(&k->records, memory_order_relaxed);
    while (r && (atomic_load_explicit(&r->used, memory_order_relaxed) || r->cap != cap)) {
        r = atomic_load_explicit(&r->next, memory_order_relaxed);
    }
    return r;
}

struct rdi_record *rdi_record_open(struct rondo_comm *c) {
    struct rdi_recorder *k = &c->engine->recorder;
    uint64_t cap = 0, wanted = (uint64_t)c->engine->options.num[RDI_OPT_RECORD];
    while (cap < wanted) { // a power of two, so that an index is a mask
        cap = cap ? 2 * cap : 1;
    }
    struct rdi_record *r = reuse(k, cap);
    bool fresh = !r;
    if (fresh) {
        size_t bytes = sizeof *r + cap * sizeof *r->slots;
        r = aligned_alloc(sizeof *r->slots, bytes);
        if (!r) {
            return NULL;
        }
        memset(r, 0, bytes);
    }
    r->cap = cap;
    // A reader that meets the old communicator's entries under the new id drops them: their numbers are not
    // in 1 .. head.
    atomic_store(&r->head, 0);
    atomic_store(&r->calls, 0);
    atomic_store(&r->comm, c->id);
    atomic_store(&r->rank, c->rank);
    atomic_store(&r->size, c->size);
    atomic_store(&r->used, 1);
    if (fresh) {
        atomic_store(&r->next, atomic_load(&k->records));
        atomic_store(&k->records, r);
    }
    return r;
}

// Counters for ever grow: what a communicator had counted stays when it goes.
void rdi_record_close(struct rondo_comm *c) {
    struct rdi_recorder *k = &c->engine->recorder;
    k->past[0] += atomic_load(&c->operations);
    k->past[1] += atomic_load(&c->bytes_received);
    k->past[2] += atomic_load(&c->messages);
    k->past[3] += atomic_load(&c->resets);
    k->past_wire[0] += atomic_load(&c->bytes_shm);
    k->past_wire[1] += atomic_load(&c->bytes_tcp);
    k->past_wire[2] += atomic_load(&c->bytes_verbs);
    if (c->record) {
        atomic_store(&c->record->used, 0);
    }
}

void rdi_recorder_free(struct rdi_recorder *k) {
    free(atomic_load(&k->trace));
    for (struct rdi_record *r = atomic_load(&k->records), *next; r; r = next) {
        next = atomic_load(&r->next);
        free(r);
    }
    for (unsigned i = 0; i < RDI_FAILURES_KEPT; i++) {
        rdi_snap_comm_free(k->failed[i]);
    }
}

// ---- Entries -------------------------------------------------------------------------------------
//
// Words are stored with release order, so that none is seen before the odd version; on x86 that is a plain
// store. They are made in registers: a struct that is written in bytes and copied in words would stall.

static void put(struct rdi_entry_slot *s, int word, uint64_t value) {
    atomic_store_explicit(&s->word[word], value, memory_order_release);
}

static uint64_t open_slot(struct rdi_entry_slot *s) {
    uint64_t version = atomic_load_explicit(&s->version, memory_order_relaxed);
    atomic_store_explicit(&s->version, version + 1, memory_order_relaxed);
    return version + 2;
}

static void close_slot(struct rdi_entry_slot *s, uint64_t version) {
    atomic_store_explicit(&s->version, version, memory_order_release);
}

static uint64_t pack_what(const struct rondo_request *r) {
    return (uint64_t)r->kind | (uint64_t)r->type << 8 | (uint64_t)r->op << 16 |
           (uint64_t)r->sig.algo << 24 | (uint64_t)(uint32_t)r->root << 32;
}

void rdi_record_begin(struct rondo_request *r) {
    struct rdi_record *k = r->comm->record;
    struct rdi_op_marks *m = &r->marks;
    uint64_t number = k ? atomic_load_explicit(&k->head, memory_order_relaxed) + 1 : 1;
    m->number = number;
    m->started = r->deadline - r->timeout_ns;
    m->submitted = m->submitted ? m->submitted : m->started;
    m->first = m->last = m->sent = m->received = m->msgs = 0;
    rdi_trace_op(r, true);
    if (!k) {
        return;
    }
    if (k->cap) {
        struct rdi_entry_slot *s = &k->slots[(number - 1) & (k->cap - 1)];
        uint64_t version = open_slot(s);
        put(s, RDI_SLOT_NUMBER, number);
        put(s, RDI_SLOT_SEQ, r->sig.seq);
        put(s, RDI_SLOT_COUNT, r->count);
        put(s, RDI_SLOT_WHAT, pack_what(r));
        put(s, RDI_SLOT_SUBMITTED, m->submitted);
        put(s, RDI_SLOT_STARTED, m->started);
        put(s, RDI_SLOT_STATE, RDI_OP_STARTED);
        close_slot(s, version);
    }
    atomic_store_explicit(&k->calls, r->comm->seq, memory_order_relaxed);
    atomic_store_explicit(&k->head, number, memory_order_release);
}

static void end_slot(const struct rondo_request *r, struct rdi_record *k) {
    const struct rdi_op_marks *m = &r->marks;
    struct rdi_entry_slot *s = &k->slots[(m->number - 1) & (k->cap - 1)];
    uint64_t version = open_slot(s);
    uint64_t state = r->status == RONDO_OK ? RDI_OP_DONE : RDI_OP_FAILED;
    put(s, RDI_SLOT_STATE, state | (uint64_t)(uint32_t)r->status << 32);
    put(s, RDI_SLOT_FINISHED, r->finished);
    put(s, RDI_SLOT_FIRST, m->first);
    put(s, RDI_SLOT_LAST, m->last);
    put(s, RDI_SLOT_SENT, m->sent);
    put(s, RDI_SLOT_RECEIVED, m->received);
    put(s, RDI_SLOT_MSGS, m->msgs);
    close_slot(s, version);
}

static unsigned time_bucket(uint64_t ns) {
    uint64_t us = ns ? (ns - 1) / 1000 : 0; // a bound belongs to its bucket
    unsigned i = us ? 64 - (unsigned)__builtin_clzll(us) : 0;
    return i < RDI_TIME_BUCKETS ? i : RDI_TIME_BUCKETS - 1;
}

void rdi_record_end(struct rondo_request *r) {
    struct rdi_record *k = r->comm->record;
    struct rdi_recorder *all = &r->comm->engine->recorder;
    const struct rdi_op_marks *m = &r->marks;
    rdi_trace_op(r, false);
    if (r->status == RONDO_OK) {
        uint64_t ns = r->finished > m->submitted ? r->finished - m->submitted : 0;
        rdi_count(&all->times[r->kind][time_bucket(ns)], 1);
        rdi_count(&all->seconds[r->kind], ns);
    }
    // More operations at once than entries: its own may be another's already.
    if (k && k->cap && m->number &&
        atomic_load_explicit(&k->head, memory_order_relaxed) - m->number < k->cap) {
        end_slot(r, k);
    }
}

void rdi_record_entry(const struct rondo_request *r, struct rdi_op_entry *out) {
    *out = (struct rdi_op_entry){.m = r->marks,
                                 .seq = r->sig.seq,
                                 .count = r->count,
                                 .bytes = r->bytes,
                                 .kind = (uint8_t)r->kind,
                                 .type = (uint8_t)r->type,
                                 .op = (uint8_t)r->op,
                                 .algo = r->sig.algo,
                                 .root = r->root,
                                 .state = RDI_OP_STARTED};
}

enum rdi_wait rdi_record_waiting(const struct rdi_engine *e) {
    const struct rondo_request *oldest = NULL;
    for (const struct rondo_comm *c = e->comms; c; c = c->next) {
        const struct rondo_request *r = c->head;
        oldest = r && (!oldest || r->marks.started < oldest->marks.started) ? r : oldest;
    }
    int peer;
    const char *text;
    return oldest ? rdi_op_wait(oldest, &peer, &text) : RDI_WAIT_NONE;
}

// ---- Reading -------------------------------------------------------------------------------------

static void unpack(const uint64_t *word, struct rdi_op_entry *out) {
    uint64_t what = word[RDI_SLOT_WHAT], state = word[RDI_SLOT_STATE];
    *out = (struct rdi_op_entry){.seq = word[RDI_SLOT_SEQ],
                                 .count = word[RDI_SLOT_COUNT],
                                 .kind = (uint8_t)what,
                                 .type = (uint8_t)(what >> 8),
                                 .op = (uint8_t)(what >> 16),
                                 .algo = (uint8_t)(what >> 24),
                                 .root = (int)(uint32_t)(what >> 32),
                                 .state = (enum rdi_op_state)(uint32_t)state,
                                 .status = (rondo_status)(uint32_t)(state >> 32)};
    out->bytes = out->count * rondo_type_size((rondo_type)out->type);
    out->m.number = word[RDI_SLOT_NUMBER];
    out->m.submitted = word[RDI_SLOT_SUBMITTED];
    out->m.started = word[RDI_SLOT_STARTED];
    // The rest is an earlier operation's as long as this one is under way.
    if (out->state != RDI_OP_STARTED) {
        out->finished = word[RDI_SLOT_FINISHED];
        out->m.first = word[RDI_SLOT_FIRST];
        out->m.last = word[RDI_SLOT_LAST];
        out->m.sent = word[RDI_SLOT_SENT];
        out->m.received = word[RDI_SLOT_RECEIVED];
        out->m.msgs = word[RDI_SLOT_MSGS];
    }
}

bool rdi_record_read(const struct rdi_record *r, uint64_t number, struct rdi_op_entry *out) {
    uint64_t head = atomic_load_explicit(&r->head, memory_order_acquire);
    if (number == 0 || number > head || head - number >= r->cap) {
        return false;
    }
    const struct rdi_entry_slot *s = &r->slots[(number - 1) & (r->cap - 1)];
    uint64_t word[RDI_SLOT_WORDS];
    for (int tries = 0; tries < 100; tries++) {
        uint64_t version = atomic_load_explicit(&s->version, memory_order_acquire);
        for (int i = 0; i < RDI_SLOT_WORDS; i++) {
            word[i] = atomic_load_explicit(&s->word[i], memory_order_acquire);
        }
        if (version % 2 == 0 &&
            atomic_load_explicit(&s->version, memory_order_relaxed) == version) {
            unpack(word, out);
            return out->m.number == number;
        }
    }
    return false; // its writer was interrupted in the middle
}
