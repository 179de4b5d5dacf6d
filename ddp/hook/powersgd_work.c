// SPDX-License-Identifier: MIT
// A bucket's memory for PowerSGD: which gradients are compressed, and where their factors lie.
#include <stdlib.h>

#include "ddp/hook/powersgd.h"
#include "ring/internal.h"

bool rdi_powersgd_takes(rondo_type type) {
    return type == RONDO_F32 || type == RONDO_F64 || type == RONDO_F16 || type == RONDO_BF16;
}

static size_t least(size_t a, size_t b) { return a < b ? a : b; }

static bool is_compressed(const rondo_powersgd_options *o, const rondo_ddp_slice *s) {
    if (s->rows < 2 || s->count % s->rows != 0) {
        return false;
    }
    const size_t width = s->count / s->rows;
    const double rows = (double)s->rows, cols = (double)width;
    return rows * cols > o->min_saving * o->rank * (rows + cols);
}

static void add_matrix(const rondo_powersgd_options *o, struct rdi_powersgd_work *w,
                       const rondo_ddp_slice *s) {
    const size_t cols = s->count / s->rows;
    const size_t rank = least((size_t)o->rank, least(s->rows, cols));
    w->matrices[w->nmatrices++] = (struct rdi_low_rank){.param = s->param,
                                                        .offset = s->offset,
                                                        .rows = s->rows,
                                                        .cols = cols,
                                                        .rank = (unsigned)rank,
                                                        .p = w->p_count,
                                                        .q = w->q_count,
                                                        .m = w->m_count};
    w->p_count += rank * s->rows;
    w->q_count += rank * cols;
    w->m_count += s->count;
}

static void add_rest(struct rdi_powersgd_work *w, const rondo_ddp_slice *s) {
    w->rest_at[w->nrest] = s->offset;
    w->rest[w->nrest++] = (rondo_ddp_slice){s->param, w->vector_count, s->count, s->rows};
    w->vector_count += s->count;
}

static rondo_status no_memory(size_t bytes) {
    return rdi_fail(RONDO_ERR_NOMEM,
                    "out of memory for PowerSGD: %zu bytes of one bucket's factors and errors",
                    bytes);
}

static rondo_status get(void **mem, size_t count, size_t element) {
    *mem = calloc(count + 1, element);
    return *mem ? RONDO_OK : no_memory(count * element);
}

static rondo_status allocate(const struct rdi_powersgd *h, const rondo_ddp_bucket *b,
                             struct rdi_powersgd_work *w) {
    const bool half = b->type != w->type;
    rondo_status s = rondo_mem_alloc(w->vector_count * rondo_type_size(b->type), &w->vectors);
    s = s == RONDO_OK ? rondo_mem_alloc(w->p_count * w->element, &w->p) : s;
    s = s == RONDO_OK ? rondo_mem_alloc(w->q_count * w->element, &w->q) : s;
    s = s == RONDO_OK ? get(&w->start, w->q_count, w->element) : s;
    s = s == RONDO_OK ? get(&w->mine, w->q_count, w->element) : s;
    s = s == RONDO_OK && half ? get(&w->wide, w->m_count, w->element) : s;
    for (int i = 0; i < 2 && s == RONDO_OK && h->options.error_feedback; i++) {
        s = get(&w->error[i], w->m_count, w->element);
    }
    return s;
}

rondo_status rdi_powersgd_work(const struct rdi_powersgd *h, rondo_ddp_bucket *b,
                               struct rdi_powersgd_work **out) {
    struct rdi_powersgd_work *w = calloc(1, sizeof *w);
    if (!w) {
        return no_memory(sizeof *w);
    }
    w->type = b->type == RONDO_F64 ? RONDO_F64 : RONDO_F32;
    w->element = rondo_type_size(w->type);
    w->ops = rdi_matrix_ops(w->type == RONDO_F64);
    w->matrices = calloc(b->nslices + 1, sizeof *w->matrices);
    w->rest = calloc(b->nslices + 1, sizeof *w->rest);
    w->rest_at = calloc(b->nslices + 1, sizeof *w->rest_at);
    rondo_status s = w->matrices && w->rest && w->rest_at ? RONDO_OK : no_memory(b->nslices);
    for (size_t i = 0; i < b->nslices && s == RONDO_OK; i++) {
        if (is_compressed(&h->options, &b->slices[i])) {
            add_matrix(&h->options, w, &b->slices[i]);
        } else {
            add_rest(w, &b->slices[i]);
        }
    }
    s = s == RONDO_OK && w->nmatrices ? allocate(h, b, w) : s;
    if (s != RONDO_OK) {
        rdi_powersgd_free(w);
        return s;
    }
    b->work = w;
    *out = w;
    return RONDO_OK;
}

void rdi_powersgd_free(struct rdi_powersgd_work *w) {
    (void)rondo_mem_free(w->vectors);
    (void)rondo_mem_free(w->p);
    (void)rondo_mem_free(w->q);
    free(w->start);
    free(w->mine);
    free(w->wide);
    free(w->error[0]);
    free(w->error[1]);
    free(w->matrices);
    free(w->rest);
    free(w->rest_at);
    free(w);
}
