// SPDX-License-Identifier: MIT
// What hooks share that hand a part of their work to another one.
#ifndef RDI_HOOK_STAGE_H
#define RDI_HOOK_STAGE_H

#include <stdbool.h>

#include "ddp/ddp.h"

// A buffer that goes through an inner hook as a bucket of its own. Zeros before the first use.
struct rdi_stage {
    rondo_ddp_bucket bucket; // `work` in it is the inner hook's, kept from step to step
    int round;
    bool busy; // the inner hook asked for another round
};

// Begins: calls the inner hook's round 0 on `count` elements of `type` at `data`, in the place of `outer`; slices say
// what lies there, and stay the caller's. RONDO_AGAIN: rdi_stage_continue() is to be called in a later round.
rondo_status rdi_stage_begin(struct rdi_stage *stage, const rondo_ddp_hook *inner,
                             const rondo_ddp_bucket *outer, void *data, size_t count,
                             rondo_type type, const rondo_ddp_slice *slices, size_t nslices);

// Calls the next round; RONDO_OK at once when there is none.
rondo_status rdi_stage_continue(struct rdi_stage *stage, const rondo_ddp_hook *inner);

// As the hook's functions of the same name.
void rdi_stage_drain(struct rdi_stage *stage, const rondo_ddp_hook *inner);
void rdi_stage_release(struct rdi_stage *stage, const rondo_ddp_hook *inner);

// Takes over what the caller gave as `inner` (NULL: all_reduce). RONDO_ERR_INVALID when it is no hook.
rondo_status rdi_hook_take(const rondo_ddp_hook *inner, const char *caller, rondo_ddp_hook *out);

#endif
