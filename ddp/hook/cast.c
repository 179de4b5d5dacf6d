// SPDX-License-Identifier: MIT
// Gradients that travel as f16 or bf16.
//
//   round 0:  data -> half, a buffer of the bucket's own;  inner's round 0 on it
//   round r:  inner's round r; when it is through:  half -> data
#include "ring/internal.h"

#include <stdio.h>
#include <stdlib.h>

#include "ddp/hook/convert.h"
#include "ddp/hook/stage.h"

struct cast {
    rondo_type type;
    rondo_ddp_hook inner;
    char name[256];
};

struct cast_work {
    struct rdi_stage stage;
    void *half;
};

static bool is_wider(const rondo_ddp_bucket *b) {
    return b->type == RONDO_F32 || b->type == RONDO_F64;
}

static rondo_status get_work(rondo_ddp_bucket *b, struct cast_work **out) {
    struct cast_work *w = b->work;
    if (!w) {
        w = calloc(1, sizeof *w);
        if (!w) {
            return rdi_fail(RONDO_ERR_NOMEM, "out of memory for a bucket of a communication hook");
        }
        rondo_status s = rondo_mem_alloc(b->count * sizeof(uint16_t), &w->half);
        if (s != RONDO_OK) {
            free(w);
            return s;
        }
        b->work = w;
    }
    *out = w;
    return RONDO_OK;
}

static rondo_status convert_round(void *state, rondo_ddp_bucket *b, int round) {
    struct cast *c = state;
    if (!is_wider(b)) {
        return c->inner.round(c->inner.state, b, round);
    }
    struct cast_work *w = NULL;
    rondo_status s = get_work(b, &w);
    if (s != RONDO_OK) {
        return s;
    }
    if (round == 0) {
        rdi_to_half(c->type, w->half, b->type, b->data, b->count, &b->error, &b->norm);
        s = rdi_stage_begin(&w->stage, &c->inner, b, w->half, b->count, c->type, b->slices,
                            b->nslices);
    } else {
        s = rdi_stage_continue(&w->stage, &c->inner);
    }
    if (s == RONDO_OK) {
        rdi_from_half(c->type, w->half, b->type, b->data, b->count);
        b->bytes += w->stage.bucket.bytes;
        b->error += w->stage.bucket.error;
    }
    return s;
}

static void drain(void *state, rondo_ddp_bucket *b) {
    struct cast *c = state;
    struct cast_work *w = b->work;
    if (is_wider(b)) {
        if (w) {
            rdi_stage_drain(&w->stage, &c->inner);
        }
    } else if (c->inner.drain) {
        c->inner.drain(c->inner.state, b);
    }
}

static void release(void *state, rondo_ddp_bucket *b) {
    struct cast *c = state;
    struct cast_work *w = b->work;
    if (is_wider(b)) {
        if (w) {
            rdi_stage_release(&w->stage, &c->inner);
            (void)rondo_mem_free(w->half);
            free(w);
            b->work = NULL;
        }
    } else if (c->inner.release) {
        c->inner.release(c->inner.state, b);
    }
}

static void destroy(void *state) {
    struct cast *c = state;
    rondo_ddp_hook_destroy(&c->inner);
    free(c);
}

rondo_status rondo_ddp_hook_cast(rondo_type type, const rondo_ddp_hook *inner,
                                 rondo_ddp_hook *out) {
    rondo_ddp_hook taken;
    rondo_status s = rdi_hook_take(inner, "rondo_ddp_hook_cast", &taken);
    if (s != RONDO_OK) {
        return s;
    }
    const char *name = type == RONDO_F16 ? "fp16" : "bf16";
    struct cast *c = NULL;
    if (!out) {
        s = rdi_fail(RONDO_ERR_INVALID, "rondo_ddp_hook_cast: `out` is NULL");
    } else if (type != RONDO_F16 && type != RONDO_BF16) {
        const char *given = rondo_type_name(type);
        s = rdi_fail(RONDO_ERR_INVALID,
                     "rondo_ddp_hook_cast: the type is %s (%d); it can be RONDO_F16 or RONDO_BF16",
                     given ? given : "none", (int)type);
    } else if ((c = calloc(1, sizeof *c)) == NULL) {
        s = rdi_fail(RONDO_ERR_NOMEM, "out of memory for a communication hook");
    }
    if (s != RONDO_OK) {
        rondo_ddp_hook_destroy(&taken);
        return s;
    }
    c->type = type;
    c->inner = taken;
    snprintf(c->name, sizeof c->name, "%s%s%s", name, inner ? "+" : "", inner ? taken.name : "");
    *out = (rondo_ddp_hook){.size = sizeof *out,
                            .name = c->name,
                            .round = convert_round,
                            .drain = drain,
                            .release = release,
                            .destroy = destroy,
                            .state = c};
    return RONDO_OK;
}
