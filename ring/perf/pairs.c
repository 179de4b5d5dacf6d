// SPDX-License-Identifier: MIT
// Times and checks one row of put, get or pingpong.
#include "ring/perf/pairs.h"

#include <string.h>

static bool both_ways(const struct perf_run *r) {
    return r->coll->kind == PERF_PINGPONG ||
           (r->coll->kind == PERF_PUT && r->options->bidirectional);
}

// Whether this rank's clock counts: that of a sender of put, of the one who asks or begins otherwise.
static bool has_clock(const struct perf_run *r) {
    return r->pair->peer >= 0 &&
           (r->pair->first || (r->coll->kind == PERF_PUT && r->options->bidirectional));
}

bool perf_pair_receives(const struct perf_options *o, int rank, int ranks) {
    enum perf_kind kind = perf_colls[o->coll].kind;
    bool first = rank % 2 == 0;
    bool receives = kind == PERF_PINGPONG ? true
                    : kind == PERF_GET    ? first
                    : o->bidirectional    ? true
                                          : !first;
    return receives && (rank ^ 1) < ranks;
}

void perf_pair_plan(const struct perf_run *r, char *buf, size_t cap) {
    const struct perf_pair *p = r->pair;
    snprintf(buf, cap, "%s%s over %s in messages of at most %u bytes, %u slots, waiting %s",
             r->coll->name, r->options->bidirectional ? " both ways" : "", perf_pair_wire(p),
             p->out->max_msg, p->out->slots, r->options->sleep ? "asleep" : "awake");
}

static rondo_status run_phase(const struct perf_run *r, size_t bytes, uint64_t ops,
                              struct perf_phase *f) {
    struct perf_pair *p = r->pair;
    bool get = r->coll->kind == PERF_GET, first = p->first;
    // Of put only one direction carries anything; get's other direction carries questions.
    f->out = (struct perf_flow){.bytes = get && first ? 0 : bytes,
                                .ops = first || get || both_ways(r) ? ops : 0};
    f->in = (struct perf_flow){.bytes = get && !first ? 0 : bytes,
                               .ops = !first || get || both_ways(r) ? ops : 0};
    f->turns = r->coll->kind != PERF_PUT;
    rondo_status s = rondo_barrier(r->comm);
    return s == RONDO_OK && p->peer >= 0 ? perf_pair_run(p, f) : s;
}

// ---- Time ----------------------------------------------------------------------------------------

static rondo_status time_row(struct perf_run *r, struct perf_row *row) {
    struct perf_half *half = &row->half[0];
    bool turns = r->coll->kind != PERF_PUT, clock = has_clock(r);
    uint64_t iters = (uint64_t)row->iters, warmup = (uint64_t)perf_warmup(r->options, row->bytes);
    struct perf_phase warm = {0}, f = {.skip = turns ? warmup : 0, .times = r->times};
    memset(r->times, 0, (size_t)row->iters * sizeof *r->times);
    rondo_status s = turns ? RONDO_OK : run_phase(r, row->bytes, warmup, &warm);
    s = s == RONDO_OK ? run_phase(r, row->bytes, iters + f.skip, &f) : s;
    // Of a round trip that is the same both ways, half.
    double scale = r->coll->kind == PERF_PINGPONG ? 0.5 : 1;
    double us = clock ? (f.end - f.begin) / row->iters * scale : 0;
    double mine[3] = {us, us > 0 ? (double)row->bytes / us * 1e-3 : 0, clock}, sum[3];
    s = s == RONDO_OK ? rondo_all_reduce(mine, sum, 3, RONDO_F64, RONDO_SUM, r->comm) : s;
    if (s != RONDO_OK) {
        return s;
    }
    half->us = sum[0] / sum[2];
    half->algbw = sum[1] / sum[2];
    half->busbw = sum[1];
    if (turns) {
        for (int i = 0; i < row->iters; i++) {
            r->times[i] *= scale;
        }
        s = rondo_all_reduce(r->times, r->times, (size_t)row->iters, RONDO_F64, RONDO_MAX, r->comm);
        half->each = perf_statistics(r->times, row->iters);
    }
    return s;
}

// ---- Check ---------------------------------------------------------------------------------------

static rondo_status check_row(struct perf_run *r, struct perf_row *row) {
    struct perf_values v = perf_pair_values(r, ++r->rep);
    size_t spread = row->bytes + PERF_SPREAD;
    struct perf_phase f = {.check = true, .rep = r->rep};
    rondo_status s = RONDO_OK;
    f.corrupt = r->options->corrupt == r->rank && !r->corrupted && row->bytes > 0;
    perf_fill(&v, r->rank, 0, spread, r->send);
    if (r->pair->peer >= 0) {
        s = run_phase(r, row->bytes, perf_pair_rounds(r->pair, row->bytes), &f);
        f.wrong += perf_check(&v, r->rank, 0, spread, r->send);
        r->corrupted |= r->options->corrupt == r->rank && row->bytes > 0;
    } else {
        s = rondo_barrier(r->comm);
    }
    r->failures += f.wrong != 0;
    return s == RONDO_OK
               ? rondo_all_reduce(&f.wrong, &row->half[0].wrong, 1, RONDO_I64, RONDO_SUM, r->comm)
               : s;
}

rondo_status perf_pair_measure(struct perf_run *r, struct perf_row *row) {
    row->iters = perf_iters(r->options, row->bytes);
    row->half[0].wrong = -1;
    rondo_status s = time_row(r, row);
    return s == RONDO_OK && r->options->check ? check_row(r, row) : s;
}
