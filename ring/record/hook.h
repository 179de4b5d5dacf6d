// SPDX-License-Identifier: MIT
// What the engine tells the recorder for every message: short enough to be inlined.
#ifndef RDI_RECORD_HOOK_H
#define RDI_RECORD_HOOK_H

#include "ring/record/trace.h"

// Message `began` .. now on a flow's edge; `began` of rdi_trace_clock().
static inline void rdi_record_message(struct rdi_flow *f, uint64_t len, uint64_t began) {
    struct rdi_op_marks *m = &f->req->marks;
    m->last = f->edge->comm->engine->recorder.now;
    m->first = m->first ? m->first : m->last;
    *(f->out ? &m->sent : &m->received) += len;
    m->msgs++;
    if (began) {
        rdi_trace_message(f, len, began);
    }
}

#endif
