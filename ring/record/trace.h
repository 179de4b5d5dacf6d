// SPDX-License-Identifier: MIT
// A trace: what a rank did, event by event, for a timeline. Off, it costs a look at one pointer; on, events go into
// a bounded queue (any thread puts, one takes), from which the observer writes them to a file.
#ifndef RDI_RECORD_TRACE_H
#define RDI_RECORD_TRACE_H

#include "ring/internal.h"
#include "transport/text.h"

enum rdi_trace_kind {
    RDI_TRACE_OP_BEGIN, // id; what, seq, bytes, comm
    RDI_TRACE_OP_END,   // id; status in peer
    RDI_TRACE_SEND,     // a message to `peer`: id of the arrow, seq, bytes
    RDI_TRACE_RECV,     // its consumption (reduction or copy) from `peer`
    RDI_TRACE_STEP,     // DDP; what: enum rdi_trace_step, seq: number of the step
    RDI_TRACE_BUCKET,   // DDP; seq: index, from its launch to its end
};
enum rdi_trace_step { RDI_STEP_FORWARD, RDI_STEP_BACKWARD, RDI_STEP_WAIT };

struct rdi_trace_event {
    uint64_t at, dur; // ns
    uint64_t id, comm, seq, bytes;
    uint32_t what; // kind, type, op, algorithm from the lowest byte on
    int32_t peer;  // world rank
    enum rdi_trace_kind kind;
};

// Dmitry Vyukov's bounded queue: `turn` tells whose the slot is.
struct rdi_trace_slot {
    _Alignas(64) _Atomic uint64_t turn;
    struct rdi_trace_event event;
};
struct rdi_trace {
    _Atomic int on;
    _Atomic uint64_t head, dropped;
    uint64_t tail, cap; // tail: the taker's
    struct rdi_trace_slot slots[];
};
struct rdi_trace *rdi_trace_new(uint64_t cap); // a power of two; NULL without memory
void rdi_trace_put(struct rdi_trace *t, const struct rdi_trace_event *e);
bool rdi_trace_take(struct rdi_trace *t, struct rdi_trace_event *out);

// NULL while there is no trace.
static inline struct rdi_trace *rdi_tracing(const struct rdi_engine *e) {
    struct rdi_trace *t = atomic_load_explicit(&e->recorder.trace, memory_order_acquire);
    return t && atomic_load_explicit(&t->on, memory_order_relaxed) ? t : NULL;
}
// The clock for events that last; 0 while there is no trace, which looks at no clock.
static inline uint64_t rdi_trace_clock(const struct rondo_comm *c) {
    return rdi_tracing(c->engine) ? rdi_now(&c->engine->env) : 0;
}

// The engine's events. `began`: of rdi_trace_clock().
void rdi_trace_op(const struct rondo_request *r, bool begins);
void rdi_trace_message(const struct rdi_flow *f, uint64_t len, uint64_t began);
// DDP's.
void rdi_trace_step(const struct rondo_comm *c, enum rdi_trace_step step, uint64_t number,
                    uint64_t from, uint64_t to);
void rdi_trace_bucket(const struct rondo_comm *c, uint64_t index, uint64_t bytes, uint64_t from,
                      uint64_t to);

// ---- As text -------------------------------------------------------------------------------------

// Chrome's trace event format, as Perfetto reads it: a line an event, each preceded by a comma but the first.
// A process is a rank; its tracks are steps, buckets, operations, and one each way for every peer.
struct rdi_trace_writer {
    int rank;
    bool begun;
    unsigned char *seen; // tracks that have their name; of `tracks` bytes
    size_t tracks;
};
void rdi_trace_open_text(struct rdi_trace_writer *w, struct rdi_text *t, const char *host, int pid,
                         const char *boot, uint64_t unix_minus_monotonic);
void rdi_trace_event_text(struct rdi_trace_writer *w, struct rdi_text *t,
                          const struct rdi_trace_event *e);
void rdi_trace_close_text(struct rdi_trace_writer *w, struct rdi_text *t, uint64_t dropped);

#endif
