// SPDX-License-Identifier: MIT
// rondo-topo --decide.
#ifndef RDI_TOPO_SHOW_DECIDE_H
#define RDI_TOPO_SHOW_DECIDE_H

#include "topo/decide.h"
#include "transport/text.h"

// The same decision has the same text, which can be kept and compared.
void ts_decide_text(struct rdi_text *out, const struct rdi_decision *d);
void ts_decide_json(struct rdi_text *out, const struct rdi_decision *d);

// "ranks 8-15"; not in a row: all of them.
void ts_ranks(struct rdi_text *out, const int *ranks, int n);

#endif
