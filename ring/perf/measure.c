// SPDX-License-Identifier: MIT
// Times one row: a barrier, then `iters` operations back to back; the time of an operation is the total
// divided by iters, averaged over the ranks, as nccl-tests do it. Percentiles need a clock reading for each
// operation, so they have a loop of their own and do not disturb the first.
#include "ring/perf/perf.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

double perf_now_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec * 1e-3;
}

// ---- Buffers -------------------------------------------------------------------------------------

static rondo_status alloc_buffer(bool use_malloc, size_t bytes, char **out) {
    void *p = NULL;
    if (!use_malloc) {
        rondo_status s = rondo_mem_alloc(bytes, &p);
        *out = p;
        return s;
    }
    *out = malloc(bytes);
    return *out != NULL ? RONDO_OK : RONDO_ERR_NOMEM;
}

rondo_status perf_alloc(struct perf_run *r) {
    const struct perf_options *o = r->options;
    bool pairs = r->coll->kind != PERF_COLLECTIVE;
    size_t bytes = r->max_bytes + (pairs ? PERF_SPREAD : PERF_GUARD);
    rondo_status s = alloc_buffer(o->use_malloc, bytes, &r->send);
    if (s == RONDO_OK) {
        s = alloc_buffer(o->use_malloc, bytes, &r->recv);
    }
    if (s == RONDO_OK && (o->percentiles || pairs)) {
        r->times = malloc((size_t)perf_iters(o, 0) * sizeof *r->times);
        s = r->times != NULL ? RONDO_OK : RONDO_ERR_NOMEM;
    }
    return s;
}

void perf_free(struct perf_run *r) {
    free(r->times);
    if (r->options->use_malloc) {
        free(r->send);
        free(r->recv);
    } else {
        (void)rondo_mem_free(r->send);
        (void)rondo_mem_free(r->recv);
    }
}

struct perf_buffers perf_place(const struct perf_run *r, const struct perf_row *row,
                               bool in_place) {
    const struct perf_coll *c = r->coll;
    size_t block = row->count * rondo_type_size(row->type);
    struct perf_buffers b = {
        .send = r->send,
        .recv = r->recv,
        .send_bytes = block * (c->send_all ? (size_t)r->ranks : 1),
        .recv_bytes = block * (c->recv_all ? (size_t)r->ranks : 1),
    };
    if (in_place) {
        size_t mine = block * (size_t)r->rank;
        b.send = r->recv + (c->split && !c->send_all ? mine : 0);
        b.recv = r->recv + (c->split && !c->recv_all ? mine : 0);
    }
    return b;
}

rondo_status perf_call(const struct perf_run *r, const struct perf_row *row,
                       const struct perf_buffers *b) {
    return r->coll->run(b->send, b->recv, row->count, row->type,
                        row->op == PERF_NONE ? RONDO_SUM : (rondo_op)row->op, row->root, r->comm);
}

// ---- Time ----------------------------------------------------------------------------------------

// Operations back to back; `times`, if not NULL, gets the time of each.
static rondo_status loop(const struct perf_run *r, const struct perf_row *row,
                         const struct perf_buffers *b, int n, double *times, double *total) {
    rondo_status s = rondo_barrier(r->comm);
    double begin = perf_now_us(), last = begin;
    for (int i = 0; i < n && s == RONDO_OK; i++) {
        s = perf_call(r, row, b);
        if (times != NULL) {
            double t = perf_now_us();
            times[i] = t - last;
            last = t;
        }
    }
    *total = perf_now_us() - begin;
    return s;
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double nearest_rank(const double *sorted, int n, int percent) {
    int64_t i = ((int64_t)n * percent + 99) / 100 - 1;
    return sorted[i < 0 ? 0 : i];
}

struct perf_stats perf_statistics(double *t, int n) {
    double sum = 0, square = 0;
    qsort(t, (size_t)n, sizeof *t, by_value);
    for (int i = 0; i < n; i++) {
        sum += t[i];
    }
    for (int i = 0; i < n; i++) {
        square += (t[i] - sum / n) * (t[i] - sum / n);
    }
    return (struct perf_stats){.min = t[0],
                               .max = t[n - 1],
                               .avg = sum / n,
                               .p50 = t[n / 2],
                               .p95 = nearest_rank(t, n, 95),
                               .p99 = nearest_rank(t, n, 99),
                               .stdev = sqrt(square / n)};
}

static rondo_status time_half(struct perf_run *r, const struct perf_row *row, bool in_place,
                              struct perf_half *half) {
    const struct perf_options *o = r->options;
    struct perf_buffers b = perf_place(r, row, in_place);
    struct perf_values v = {.type = row->type, .op = row->op, .ranks = r->ranks, .rep = ++r->rep};
    double total, sum;
    // Ordinary numbers: garbage could be denormal, which some processors add a hundred times slower.
    perf_fill(&v, r->rank, 0, b.send_bytes / rondo_type_size(row->type), b.send);

    rondo_status s = loop(r, row, &b, o->warmup, NULL, &total);
    s = s == RONDO_OK ? loop(r, row, &b, o->iters, NULL, &total) : s;
    total /= o->iters;
    s = s == RONDO_OK ? rondo_all_reduce(&total, &sum, 1, RONDO_F64, RONDO_SUM, r->comm) : s;
    if (s != RONDO_OK) {
        return s;
    }
    half->us = sum / r->ranks;
    half->algbw = half->us > 0 ? (double)row->bytes / half->us * 1e-3 : 0;
    half->busbw = half->algbw * perf_bus_factor(r->coll, r->ranks);
    if (o->percentiles) {
        s = loop(r, row, &b, o->iters, r->times, &total);
        s = s == RONDO_OK ? rondo_all_reduce(r->times, r->times, (size_t)o->iters, RONDO_F64,
                                             RONDO_MAX, r->comm)
                          : s;
        half->each = perf_statistics(r->times, o->iters);
    }
    return s;
}

rondo_status perf_measure(struct perf_run *r, struct perf_row *row) {
    for (int h = 0; h < 2; h++) {
        // What has no in-place form is measured out of place twice and checked once.
        bool in_place = h == 1 && r->coll->in_place;
        struct perf_half *half = &row->half[h];
        rondo_status s = time_half(r, row, in_place, half);
        half->wrong = -1;
        if (s == RONDO_OK && r->options->check && (h == 0 || in_place)) {
            int64_t wrong = 0;
            s = perf_verify(r, row, in_place, &wrong);
            r->failures += wrong != 0;
            s = s == RONDO_OK
                    ? rondo_all_reduce(&wrong, &half->wrong, 1, RONDO_I64, RONDO_SUM, r->comm)
                    : s;
        }
        if (s != RONDO_OK) {
            return s;
        }
    }
    return RONDO_OK;
}
