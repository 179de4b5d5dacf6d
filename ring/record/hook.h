// SPDX-License-Identifier: MIT
// What the engine tells the recorder for every message: short enough to be inlined.
#ifndef RDI_RECORD_HOOK_H
#define RDI_RECORD_HOOK_H

#include "ring/internal.h"

static inline void rdi_record_message(struct rdi_flow *f, uint64_t len) {
    struct rdi_op_marks *m = &f->req->marks;
    m->last = f->edge->comm->engine->recorder.now;
    m->first = m->first ? m->first : m->last;
    *(f->out ? &m->sent : &m->received) += len;
    m->msgs++;
}

#endif
