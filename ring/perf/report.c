// SPDX-License-Identifier: MIT
// The text table, letter for letter that of nccl-tests (src/util.cu there), so that what reads theirs reads
// ours; and the opening and closing of all reports.
#include "ring/perf/perf.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

// ---- Files ---------------------------------------------------------------------------------------

static bool open_one(struct perf_report *r, const char *name, FILE **f) {
    if (name == NULL) {
        return true;
    }
    r->opening = name;
    *f = strcmp(name, "-") == 0 ? stdout : fopen(name, "we");
    return *f != NULL;
}

bool perf_report_open(struct perf_report *r) {
    const struct perf_options *o = r->options;
    bool ok = open_one(r, o->json, &r->json) && open_one(r, o->csv, &r->csv) &&
              open_one(r, o->plot, &r->plot);
    bool taken = r->json == stdout || r->csv == stdout || r->plot == stdout;
    r->text = taken ? NULL : stdout;
    return ok;
}

static bool close_one(struct perf_report *r, const char *name, FILE **f) {
    if (*f == NULL) {
        return true;
    }
    errno = 0;
    bool ok = fflush(*f) == 0 && !ferror(*f);
    ok = (*f == stdout || fclose(*f) == 0) && ok;
    r->opening = ok ? r->opening : name;
    *f = NULL;
    return ok;
}

bool perf_report_close(struct perf_report *r) {
    const struct perf_options *o = r->options;
    bool ok = close_one(r, "stdout", &r->text);
    ok = close_one(r, o->json, &r->json) && ok;
    ok = close_one(r, o->csv, &r->csv) && ok;
    ok = close_one(r, o->plot, &r->plot) && ok;
    free(r->rows);
    r->rows = NULL;
    return ok;
}

// ---- Text ----------------------------------------------------------------------------------------

static bool is_pairs(const struct perf_report *r) { return r->coll->kind != PERF_COLLECTIVE; }

static const char *test_name(const struct perf_report *r) {
    return is_pairs(r) ? "Point-to-point" : "Collective";
}

static void text_head(const struct perf_report *r) {
    const struct perf_options *o = r->options;
    FILE *f = r->text;
    fprintf(f, "# rondo version %s plan: %s\n", rondo_version(), r->plan);
    fprintf(f, "# %s test starting: rondo-perf %s\n", test_name(r), r->coll->name);
    fprintf(
        f,
        "# nThread 1 nGpus 1 minBytes %zu maxBytes %zu step: %zu(%s) warmup iters: %d iters: %d "
        "agg iters: 1 validation: %d graph: 0 unalign: 0\n",
        o->min_bytes, o->max_bytes, o->step_factor > 1 ? (size_t)o->step_factor : o->step_bytes,
        o->step_factor > 1 ? "factor" : "bytes", perf_warmup(o, o->min_bytes),
        perf_iters(o, o->min_bytes), o->check);
    if (!r->coll->in_place && !is_pairs(r)) {
        fprintf(f, "# %s has no in-place form: the right half is measured out of place as well\n",
                r->coll->name);
    }
    fprintf(f, "#\n# Using devices\n");
}

static void text_devices(const struct perf_report *r, const struct perf_device *d) {
    for (int i = 0; i < r->ranks; i++) {
        fprintf(r->text, "#  Rank %2d Group %2d Pid %6d on %10s device %2d [%04x:%02x:%02x] %s\n",
                d[i].rank, 0, d[i].pid, d[i].host, d[i].local_rank, d[i].node, d[i].package,
                d[i].cpu, d[i].name);
    }
    if (r->max_bytes < r->options->max_bytes) {
        fprintf(r->text, "#\n# Reducing maxBytes to %zu due to memory limitation\n", r->max_bytes);
    }
}

static void text_columns(const struct perf_report *r) {
    FILE *f = r->text;
    fprintf(f, "#\n");
    if (!r->options->percentiles) {
        fprintf(f,
                "# %10s  %12s  %8s  %6s  %6s           out-of-place          "
                "             in-place          \n",
                "", "", "", "", "");
        fprintf(f, "# %10s  %12s  %8s  %6s  %6s  %7s  %6s  %6s  %6s  %7s  %6s  %6s  %6s \n", "size",
                "count", "type", "redop", "root", "time", "algbw", "busbw", "#wrong", "time",
                "algbw", "busbw", "#wrong");
        fprintf(f, "# %10s  %12s  %8s  %6s  %6s  %7s  %6s  %6s  %6s  %7s  %6s  %6s  %6s \n", "(B)",
                "(elements)", "", "", "", "(us)", "(GB/s)", "(GB/s)", "", "(us)", "(GB/s)",
                "(GB/s)", "");
        return;
    }
    fprintf(f,
            "# %10s  %12s  %8s  %6s  %6s            out-of-place (+ percentiles)           "
            "             in-place (+ percentiles)            \n",
            "", "", "", "", "");
    fprintf(f, "# %10s  %12s  %8s  %6s  %6s", "size", "count", "type", "redop", "root");
    for (int h = 0; h < 2; h++) {
        fprintf(f, "  %7s  %6s  %6s  %6s  %7s  %7s", "time", "algbw", "busbw", "#wrong", "p50",
                "p99");
    }
    fprintf(f, " \n# %10s  %12s  %8s  %6s  %6s", "(B)", "(elements)", "", "", "");
    for (int h = 0; h < 2; h++) {
        fprintf(f, "  %7s  %6s  %6s  %6s  %7s  %7s", "(us)", "(GB/s)", "(GB/s)", "", "(us)",
                "(us)");
    }
    fprintf(f, " \n");
}

const char *perf_fit_number(double v, int width, char buf[16]) {
    for (int digits = 2; digits >= 0; digits--) {
        if (snprintf(buf, 16, "%*.*f", width, digits, v) <= width) {
            return buf;
        }
    }
    snprintf(buf, 16, "%*.*e", width, width >= 7 ? 1 : 0, v);
    return buf;
}

static void text_half(const struct perf_report *r, const struct perf_half *h) {
    char time[16], algbw[16], busbw[16];
    fprintf(r->text, "  %7s  %6s  %6s", perf_fit_number(h->us, 7, time),
            perf_fit_number(h->algbw, 6, algbw), perf_fit_number(h->busbw, 6, busbw));
    if (h->wrong >= 0) {
        fprintf(r->text, "  %6g", (double)h->wrong);
    } else {
        fprintf(r->text, "    N/A");
    }
    if (r->options->percentiles) {
        fprintf(r->text, "  %7s  %7s", perf_fit_number(h->each.p50, 7, time),
                perf_fit_number(h->each.p99, 7, algbw));
    }
}

const char *perf_row_op(const struct perf_row *row) {
    return row->op == PERF_NONE ? "none" : rondo_op_name((rondo_op)row->op);
}

static void text_row(const struct perf_report *r, const struct perf_row *row) {
    fprintf(r->text, "%12zu  %12zu  %8s  %6s  %6d", row->bytes, row->count,
            rondo_type_name(row->type), perf_row_op(row), row->root);
    text_half(r, &row->half[0]);
    text_half(r, &row->half[1]);
    fprintf(r->text, "\n");
    // A row appears when it is measured, also in a pipe.
    fflush(r->text);
}

static void text_foot(const struct perf_report *r, int64_t failures, const char *error) {
    fprintf(r->text, "# %-20s : %lld %s\n", "Out of bounds values", (long long)failures,
            failures != 0 ? "FAILED" : "OK");
    fprintf(r->text, "# %-20s : %g %s\n", is_pairs(r) ? "Avg bandwidth" : "Avg bus bandwidth",
            perf_average_busbw(r), "");
    fprintf(r->text, "#\n# %s test concluded: rondo-perf %s\n#\n", test_name(r), r->coll->name);
    if (error != NULL) {
        fprintf(r->text, "# error: %s\n", error);
    } else {
        fprintf(r->text, "\n");
    }
}

// ---- All of them ---------------------------------------------------------------------------------

double perf_average_busbw(const struct perf_report *r) {
    double sum = 0;
    for (size_t i = 0; i < r->nrows; i++) {
        const struct perf_half *h = r->rows[i].half;
        sum += is_pairs(r) ? h[0].algbw : (h[0].busbw + h[1].busbw) / 2;
    }
    return r->nrows > 0 ? sum / (double)r->nrows : 0;
}

void perf_report_begin(struct perf_report *r, const struct perf_device *devices) {
    r->begun = true;
    snprintf(r->device, sizeof r->device, "%s", devices[0].name);
    if (r->text != NULL) {
        text_head(r);
        text_devices(r, devices);
        (is_pairs(r) ? perf_text_pair_columns : text_columns)(r);
        fflush(r->text);
    }
    if (r->json != NULL) {
        perf_json_begin(r, devices);
    }
    if (r->csv != NULL) {
        (is_pairs(r) ? perf_csv_pair_begin : perf_csv_begin)(r);
    }
}

bool perf_report_row(struct perf_report *r, const struct perf_row *row) {
    if (r->nrows == r->cap) {
        size_t cap = r->cap > 0 ? 2 * r->cap : 64;
        struct perf_row *rows = realloc(r->rows, cap * sizeof *rows);
        if (rows == NULL) {
            return false;
        }
        r->rows = rows;
        r->cap = cap;
    }
    r->rows[r->nrows++] = *row;
    if (r->text != NULL) {
        (is_pairs(r) ? perf_text_pair_row : text_row)(r, row);
    }
    if (r->json != NULL) {
        (is_pairs(r) ? perf_json_pair_row : perf_json_row)(r, row);
    }
    if (r->csv != NULL) {
        (is_pairs(r) ? perf_csv_pair_row : perf_csv_row)(r, row);
    }
    return true;
}

void perf_report_end(struct perf_report *r, int64_t failures, const char *error) {
    if (r->text != NULL) {
        text_foot(r, failures, error);
    }
    if (r->json != NULL) {
        perf_json_end(r, failures, error);
    }
    if (r->plot != NULL) {
        perf_plot(r);
    }
}
