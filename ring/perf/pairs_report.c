// SPDX-License-Identifier: MIT
// The figures of put, get and pingpong: a table in the manner of the collectives', with the columns that a
// message has, and the same for programs.
#include "ring/perf/pairs.h"

static bool has_percentiles(const struct perf_report *r) { return r->coll->kind != PERF_PUT; }

static double per_second(const struct perf_half *h) { return h->us > 0 ? 1e6 / h->us : 0; }

// ---- Text ----------------------------------------------------------------------------------------

void perf_text_pair_columns(const struct perf_report *r) {
    FILE *f = r->text;
    fprintf(f, "#\n# %10s  %8s  %8s  %7s  %7s  %9s", "size", "iters", "time", "bw", "total",
            "rate");
    if (has_percentiles(r)) {
        fprintf(f, "  %8s  %8s", "p50", "p99");
    }
    fprintf(f, "  %6s \n# %10s  %8s  %8s  %7s  %7s  %9s", "#wrong", "(B)", "", "(us)", "(GB/s)",
            "(GB/s)", "(1/s)");
    if (has_percentiles(r)) {
        fprintf(f, "  %8s  %8s", "(us)", "(us)");
    }
    fprintf(f, "  %6s \n", "(B)");
}

void perf_text_pair_row(const struct perf_report *r, const struct perf_row *row) {
    const struct perf_half *h = &row->half[0];
    FILE *f = r->text;
    char b[16];
    fprintf(f, "%12zu  %8d  %8s", row->bytes, row->iters, perf_fit_number(h->us, 8, b));
    fprintf(f, "  %7s", perf_fit_number(h->algbw, 7, b));
    fprintf(f, "  %7s  %9.0f", perf_fit_number(h->busbw, 7, b), per_second(h));
    if (has_percentiles(r)) {
        fprintf(f, "  %8s", perf_fit_number(h->each.p50, 8, b));
        fprintf(f, "  %8s", perf_fit_number(h->each.p99, 8, b));
    }
    if (h->wrong >= 0) {
        fprintf(f, "  %6g\n", (double)h->wrong);
    } else {
        fprintf(f, "  %6s\n", "N/A");
    }
    fflush(f);
}

// ---- JSON and CSV --------------------------------------------------------------------------------

void perf_json_pair_row(const struct perf_report *r, const struct perf_row *row) {
    const struct perf_half *h = &row->half[0];
    FILE *f = r->json;
    fprintf(f,
            "%s\n{\"size\":%zu,\"time\":%.6f,\"bw\":%.6f,\"total_bw\":%.6f,"
            "\"messages_per_second\":%.3f,\"nwrong\":",
            r->nrows > 1 ? "," : "", row->bytes, h->us, h->algbw, h->busbw, per_second(h));
    if (h->wrong >= 0) {
        fprintf(f, "%lld", (long long)h->wrong);
    } else {
        fputs("null", f);
    }
    if (has_percentiles(r)) {
        fputs(",\"per_iter\":", f);
        perf_json_stats(f, &h->each);
    }
    fprintf(f, ",\"actual_iterations\":%d}", row->iters);
}

void perf_csv_pair_begin(const struct perf_report *r) {
    fprintf(r->csv, "size_B,iterations,time_us,bw_GBps,total_bw_GBps,messages_per_second%s,wrong\n",
            has_percentiles(r) ? ",p50_us,p99_us" : "");
}

void perf_csv_pair_row(const struct perf_report *r, const struct perf_row *row) {
    const struct perf_half *h = &row->half[0];
    FILE *f = r->csv;
    fprintf(f, "%zu,%d,%.6g,%.6g,%.6g,%.6g,", row->bytes, row->iters, h->us, h->algbw, h->busbw,
            per_second(h));
    if (has_percentiles(r)) {
        fprintf(f, "%.6g,%.6g,", h->each.p50, h->each.p99);
    }
    if (h->wrong >= 0) {
        fprintf(f, "%lld", (long long)h->wrong);
    }
    fputc('\n', f);
    fflush(f);
}
