// SPDX-License-Identifier: MIT
// A hook inside another one.
#include "ring/internal.h"

#include "ddp/hook/stage.h"

static rondo_status call(struct rdi_stage *stage, const rondo_ddp_hook *inner) {
    rondo_status s = inner->round(inner->state, &stage->bucket, stage->round);
    stage->round++;
    stage->busy = s == RONDO_AGAIN;
    return s;
}

rondo_status rdi_stage_begin(struct rdi_stage *stage, const rondo_ddp_hook *inner,
                             const rondo_ddp_bucket *outer, void *data, size_t count,
                             rondo_type type, const rondo_ddp_slice *slices, size_t nslices) {
    void *work = stage->bucket.work;
    stage->bucket = (rondo_ddp_bucket){.size = sizeof stage->bucket,
                                       .index = outer->index,
                                       .buckets = outer->buckets,
                                       .data = data,
                                       .count = count,
                                       .type = type,
                                       .nslices = nslices,
                                       .slices = slices,
                                       .step = outer->step,
                                       .comm = outer->comm,
                                       .work = work};
    stage->round = 0;
    return call(stage, inner);
}

rondo_status rdi_stage_continue(struct rdi_stage *stage, const rondo_ddp_hook *inner) {
    return stage->busy ? call(stage, inner) : RONDO_OK;
}

void rdi_stage_drain(struct rdi_stage *stage, const rondo_ddp_hook *inner) {
    if (inner->drain && stage->bucket.size) {
        inner->drain(inner->state, &stage->bucket);
    }
    stage->busy = false;
}

void rdi_stage_release(struct rdi_stage *stage, const rondo_ddp_hook *inner) {
    if (inner->release && stage->bucket.size) {
        inner->release(inner->state, &stage->bucket);
    }
    *stage = (struct rdi_stage){.busy = false};
}

rondo_status rdi_hook_take(const rondo_ddp_hook *inner, const char *caller, rondo_ddp_hook *out) {
    if (!inner) {
        *out = rondo_ddp_hook_all_reduce();
        return RONDO_OK;
    }
    if (inner->size != sizeof *inner) {
        return rdi_fail(RONDO_ERR_INVALID,
                        "%s: inner.size is %zu, and not %zu, that of this version's rondo_ddp_hook",
                        caller, inner->size, sizeof *inner);
    }
    *out = *inner;
    if (!inner->round || !inner->name) {
        rondo_ddp_hook_destroy(out);
        return rdi_fail(RONDO_ERR_INVALID, "%s: the inner hook has no %s", caller,
                        inner->name ? "function `round`" : "name");
    }
    return RONDO_OK;
}
