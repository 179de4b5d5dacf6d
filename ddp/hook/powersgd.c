// SPDX-License-Identifier: MIT
// PowerSGD (Vogels, Karimireddy and Jaggi, 2019), a bucket at a time.
//
//   round 0:  vectors (what is not compressed) start;  M += error;  P = M Q starts, of all matrices in one piece
//   then:     when P is there:  P orthonormalised;  Q = M' P starts;  error = M - P Q' of this rank
//   then:     when Q is there:  M = P Q'
//
// The error is that of this rank's own part, as in the paper's algorithm 2: added up over ranks it is what the sum lacks,
// and it stays small where ranks' gradients differ for long, or ranks are lost.
#include "ddp/hook/powersgd.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ddp/hook/convert.h"
#include "ring/internal.h"

enum { MAX_RANK = 64 };

// ---- One bucket ----------------------------------------------------------------------------------

// The values that matrix m is computed with: in the bucket, or of halves widened.
static void *values(const struct rdi_powersgd_work *w, const rondo_ddp_bucket *b,
                    const struct rdi_low_rank *m) {
    return rdi_powersgd_at(w, w->wide ? w->wide : b->data, w->wide ? m->m : m->offset);
}

static void *halves(const rondo_ddp_bucket *b, const struct rdi_low_rank *m) {
    return (uint16_t *)b->data + m->offset;
}

static rondo_status start_vectors(struct rdi_powersgd *h, rondo_ddp_bucket *b,
                                  struct rdi_powersgd_work *w) {
    const size_t size = rondo_type_size(b->type);
    for (size_t i = 0; i < w->nrest; i++) {
        memcpy((char *)w->vectors + w->rest[i].offset * size,
               (const char *)b->data + w->rest_at[i] * size, w->rest[i].count * size);
    }
    w->norm += rdi_sum_squares(b->type, w->vectors, w->vector_count);
    return w->nrest == 0 ? RONDO_OK
                         : rdi_stage_begin(&w->vector_stage, &h->inner, b, w->vectors,
                                           w->vector_count, b->type, w->rest, w->nrest);
}

static rondo_status start_left(struct rdi_powersgd *h, rondo_ddp_bucket *b,
                               struct rdi_powersgd_work *w) {
    rondo_status s = start_vectors(h, b, w);
    if (s != RONDO_OK && s != RONDO_AGAIN) {
        return s;
    }
    for (size_t i = 0; i < w->nmatrices; i++) {
        const struct rdi_low_rank *m = &w->matrices[i];
        void *error = w->error[0] ? rdi_powersgd_at(w, w->error[0], m->m) : NULL;
        if (w->wide) {
            rdi_from_half(b->type, halves(b, m), w->type, values(w, b, m), m->rows * m->cols);
        }
        w->norm += w->ops->project(values(w, b, m), error, m->rows, m->cols,
                                   rdi_powersgd_at(w, w->start, m->q), m->rank,
                                   rdi_powersgd_at(w, w->p, m->p));
    }
    w->phase = RDI_LEFT;
    s = rdi_stage_begin(&w->p_stage, &h->inner, b, w->p, w->p_count, w->type, NULL, 0);
    return s == RONDO_OK ? RONDO_AGAIN : s;
}

// A gradient that is not finite gives NaNs, so that the program sees it, and leaves nothing behind: neither its error nor
// its factor would ever become finite again. P is the same on all ranks, so all do the same.
static void lose(const struct rdi_powersgd_work *w, struct rdi_low_rank *m) {
    m->lost = true;
    for (size_t i = 0; i < m->rows * m->rank; i++) {
        if (w->type == RONDO_F64) {
            ((double *)w->p)[m->p + i] = (double)NAN;
        } else {
            ((float *)w->p)[m->p + i] = NAN;
        }
    }
    memset(rdi_powersgd_at(w, w->q, m->q), 0, m->cols * m->rank * w->element);
}

static void keep_error(struct rdi_powersgd_work *w, const rondo_ddp_bucket *b) {
    for (size_t i = 0; i < w->nmatrices; i++) {
        const struct rdi_low_rank *m = &w->matrices[i];
        void *error = w->error[1] ? rdi_powersgd_at(w, w->error[1], m->m) : NULL;
        if (!m->lost) {
            w->left_out += w->ops->residual(error, values(w, b, m), m->rows, m->cols,
                                            rdi_powersgd_at(w, w->p, m->p),
                                            rdi_powersgd_at(w, w->mine, m->q), m->rank);
        } else if (error) {
            memset(error, 0, m->rows * m->cols * w->element);
        }
    }
}

static rondo_status start_right(struct rdi_powersgd *h, rondo_ddp_bucket *b,
                                struct rdi_powersgd_work *w) {
    for (size_t i = 0; i < w->nmatrices; i++) {
        struct rdi_low_rank *m = &w->matrices[i];
        void *p = rdi_powersgd_at(w, w->p, m->p);
        if (w->ops->orthonormalise(p, m->rows, m->rank)) {
            w->ops->transposed(values(w, b, m), m->rows, m->cols, p, m->rank,
                               rdi_powersgd_at(w, w->q, m->q));
        } else {
            lose(w, m);
        }
    }
    memcpy(w->mine, w->q, w->q_count * w->element);
    w->phase = RDI_RIGHT;
    rondo_status s = rdi_stage_begin(&w->q_stage, &h->inner, b, w->q, w->q_count, w->type, NULL, 0);
    if (s == RONDO_OK || s == RONDO_AGAIN) {
        keep_error(w, b);
        return RONDO_AGAIN;
    }
    return s;
}

static rondo_status complete(rondo_ddp_bucket *b, struct rdi_powersgd_work *w) {
    const size_t size = rondo_type_size(b->type);
    for (size_t i = 0; i < w->nmatrices; i++) {
        const struct rdi_low_rank *m = &w->matrices[i];
        w->ops->expand(values(w, b, m), m->rows, m->cols, rdi_powersgd_at(w, w->p, m->p),
                       rdi_powersgd_at(w, w->q, m->q), m->rank);
        if (w->wide) {
            rdi_to_half(b->type, halves(b, m), w->type, values(w, b, m), m->rows * m->cols, NULL,
                        NULL);
        }
    }
    for (size_t i = 0; i < w->nrest; i++) {
        memcpy((char *)b->data + w->rest_at[i] * size,
               (const char *)w->vectors + w->rest[i].offset * size, w->rest[i].count * size);
    }
    const rondo_ddp_bucket *v = &w->vector_stage.bucket, *q = &w->q_stage.bucket;
    b->bytes += v->bytes + w->p_stage.bucket.bytes + q->bytes;
    // What an inner hook leaves out of P only turns the space that is projected on.
    b->error += w->left_out + v->error + q->error;
    b->norm += w->norm;
    w->complete = true;
    return RONDO_OK;
}

// ---- The hook ------------------------------------------------------------------------------------

static rondo_status through_whole(rondo_ddp_bucket *b, const struct rdi_powersgd_work *w,
                                  rondo_status s) {
    if (s == RONDO_OK) {
        b->bytes += w->whole.bucket.bytes;
        b->error += w->whole.bucket.error;
        b->norm += w->norm;
    }
    return s;
}

static rondo_status begin(struct rdi_powersgd *h, rondo_ddp_bucket *b) {
    struct rdi_powersgd_work *w = b->work;
    rondo_status s = w ? RONDO_OK : rdi_powersgd_work(h, b, &w);
    if (s != RONDO_OK) {
        return s;
    }
    if (w->nmatrices == 0 || b->step < h->options.start_step) {
        w->phase = RDI_WHOLE;
        w->norm = rdi_sum_squares(b->type, b->data, b->count);
        s = rdi_stage_begin(&w->whole, &h->inner, b, b->data, b->count, b->type, b->slices,
                            b->nslices);
        return through_whole(b, w, s);
    }
    rdi_powersgd_begin(h, b, w);
    return start_left(h, b, w);
}

static rondo_status powersgd_round(void *state, rondo_ddp_bucket *b, int round) {
    struct rdi_powersgd *h = state;
    struct rdi_powersgd_work *w = b->work;
    if (!rdi_powersgd_takes(b->type)) {
        return h->inner.round(h->inner.state, b, round);
    }
    if (round == 0) {
        return begin(h, b);
    }
    if (w->phase == RDI_WHOLE) {
        return through_whole(b, w, rdi_stage_continue(&w->whole, &h->inner));
    }
    rondo_status v = rdi_stage_continue(&w->vector_stage, &h->inner);
    if (v != RONDO_OK && v != RONDO_AGAIN) {
        return v;
    }
    const bool left = w->phase == RDI_LEFT;
    rondo_status s = rdi_stage_continue(left ? &w->p_stage : &w->q_stage, &h->inner);
    if (s != RONDO_OK) {
        return s;
    }
    if (left) {
        return start_right(h, b, w);
    }
    return v == RONDO_OK ? complete(b, w) : v;
}

static void drain(void *state, rondo_ddp_bucket *b) {
    struct rdi_powersgd *h = state;
    struct rdi_powersgd_work *w = b->work;
    if (rdi_powersgd_takes(b->type)) {
        if (w) {
            rdi_stage_drain(&w->whole, &h->inner);
            rdi_stage_drain(&w->vector_stage, &h->inner);
            rdi_stage_drain(&w->p_stage, &h->inner);
            rdi_stage_drain(&w->q_stage, &h->inner);
        }
    } else if (h->inner.drain) {
        h->inner.drain(h->inner.state, b);
    }
}

static void release(void *state, rondo_ddp_bucket *b) {
    struct rdi_powersgd *h = state;
    struct rdi_powersgd_work *w = b->work;
    if (rdi_powersgd_takes(b->type)) {
        if (w) {
            rdi_stage_release(&w->whole, &h->inner);
            rdi_stage_release(&w->vector_stage, &h->inner);
            rdi_stage_release(&w->p_stage, &h->inner);
            rdi_stage_release(&w->q_stage, &h->inner);
            rdi_powersgd_free(w);
            b->work = NULL;
        }
    } else if (h->inner.release) {
        h->inner.release(h->inner.state, b);
    }
}

static void destroy(void *state) {
    struct rdi_powersgd *h = state;
    rondo_ddp_hook_destroy(&h->inner);
    free(h);
}

// ---- Creation ------------------------------------------------------------------------------------

static rondo_status check(const rondo_powersgd_options *o, const rondo_ddp_hook *out) {
    if (!out) {
        return rdi_fail(RONDO_ERR_INVALID, "rondo_ddp_hook_powersgd: `out` is NULL");
    }
    if (o->size != sizeof *o) {
        return rdi_fail(RONDO_ERR_INVALID,
                        "rondo_powersgd_options.size is %zu, and not %zu, that of this version; "
                        "start from RONDO_POWERSGD_OPTIONS_INIT",
                        o->size, sizeof *o);
    }
    if (o->rank < 1 || o->rank > MAX_RANK) {
        return rdi_fail(RONDO_ERR_INVALID, "rondo_powersgd_options.rank is %d; it can be 1 to %d",
                        o->rank, MAX_RANK);
    }
    if (!(o->min_saving >= 0) || isinf(o->min_saving)) {
        return rdi_fail(RONDO_ERR_INVALID,
                        "rondo_powersgd_options.min_saving is %g; it can be 0 or any larger finite "
                        "number",
                        o->min_saving);
    }
    return RONDO_OK;
}

// The name is compared over ranks, so it says whatever has to be the same on all of them.
static void name_it(struct rdi_powersgd *h, const char *inner) {
    const rondo_powersgd_options *o = &h->options;
    const rondo_powersgd_options usual = RONDO_POWERSGD_OPTIONS_INIT;
    char more[128] = "";
    if (o->start_step || !o->warm_start || !o->error_feedback || o->seed ||
        o->min_saving > usual.min_saving || o->min_saving < usual.min_saving) {
        snprintf(more, sizeof more, "(start=%llu,warm=%d,feedback=%d,saving=%g,seed=%llu)",
                 (unsigned long long)o->start_step, o->warm_start != 0, o->error_feedback != 0,
                 o->min_saving, (unsigned long long)o->seed);
    }
    snprintf(h->name, sizeof h->name, "powersgd:%d%s%s%s", o->rank, more, inner ? "+" : "",
             inner ? inner : "");
}

rondo_status rondo_ddp_hook_powersgd(const rondo_powersgd_options *options,
                                     const rondo_ddp_hook *inner, rondo_ddp_hook *out) {
    const rondo_powersgd_options usual = RONDO_POWERSGD_OPTIONS_INIT;
    rondo_ddp_hook taken;
    rondo_status s = rdi_hook_take(inner, "rondo_ddp_hook_powersgd", &taken);
    if (s != RONDO_OK) {
        return s;
    }
    s = check(options ? options : &usual, out);
    struct rdi_powersgd *h = s == RONDO_OK ? calloc(1, sizeof *h) : NULL;
    if (s == RONDO_OK && !h) {
        s = rdi_fail(RONDO_ERR_NOMEM, "out of memory for a communication hook");
    }
    if (s != RONDO_OK) {
        rondo_ddp_hook_destroy(&taken);
        return s;
    }
    h->options = options ? *options : usual;
    h->inner = taken;
    name_it(h, inner ? taken.name : NULL);
    *out = (rondo_ddp_hook){.size = sizeof *out,
                            .name = h->name,
                            .round = powersgd_round,
                            .drain = drain,
                            .release = release,
                            .destroy = destroy,
                            .state = h};
    return RONDO_OK;
}
