// SPDX-License-Identifier: MIT
// Reports for programs. JSON has the keys and shapes of nccl-tests' -J (version 3, where a truth is the text
// "true"), with rondo_version in the place of nccl_version and without the environment, which holds secrets.
#include "ring/perf/perf.h"

#include <string.h>
#include <time.h>

// ---- JSON ----------------------------------------------------------------------------------------

// Length of the UTF-8 sequence at s, 0 if it is none.
static int utf8_length(const unsigned char *s) {
    int n = s[0] < 0x80                   ? 1
            : s[0] >= 0xc2 && s[0] < 0xe0 ? 2
            : (s[0] & 0xf0) == 0xe0       ? 3
            : s[0] >= 0xf0 && s[0] < 0xf5 ? 4
                                          : 0;
    for (int i = 1; i < n; i++) {
        if ((s[i] & 0xc0) != 0x80) {
            return 0;
        }
    }
    // Overlong forms, surrogates and what lies beyond U+10FFFF.
    if ((s[0] == 0xe0 && s[1] < 0xa0) || (s[0] == 0xed && s[1] > 0x9f) ||
        (s[0] == 0xf0 && s[1] < 0x90) || (s[0] == 0xf4 && s[1] > 0x8f)) {
        return 0;
    }
    return n;
}

static void json_string(FILE *f, const char *text) {
    fputc('"', f);
    for (const unsigned char *s = (const unsigned char *)text; *s != '\0';) {
        int n = utf8_length(s);
        if (n == 0) {
            fputs("\\ufffd", f);
            s++;
        } else if (*s < 0x20 || *s == 0x7f) {
            fprintf(f, "\\u%04x", *s++);
        } else {
            if (*s == '"' || *s == '\\') {
                fputc('\\', f);
            }
            fwrite(s, 1, (size_t)n, f);
            s += n;
        }
    }
    fputc('"', f);
}

static void json_time(FILE *f, const char *key) {
    char text[64] = "";
    time_t now = time(NULL);
    struct tm tm;
    if (localtime_r(&now, &tm) != NULL) {
        strftime(text, sizeof text, "%Y-%m-%d %H:%M:%S", &tm);
    }
    fprintf(f, "\"%s\":\"%s\"", key, text);
}

static void json_config(const struct perf_report *r, const struct perf_device *d) {
    const struct perf_options *o = r->options;
    FILE *f = r->json;
    fprintf(f,
            "\"config\":{\"nthreads\":1,\"ngpus\":1,\"minimum_bytes\":%zu,\"maximum_bytes\":%zu,",
            o->min_bytes, r->max_bytes);
    fprintf(f, "\"%s\":%zu,", o->step_factor > 1 ? "step_factor" : "step_bytes",
            o->step_factor > 1 ? (size_t)o->step_factor : o->step_bytes);
    fprintf(f,
            "\"warmup_iters\":%d,\"iterations\":%d,\"aggregated_iterations\":1,\"validation\":%d,"
            "\"graph\":0,\"blocking_collectives\":\"false\",\"per_iter_timing\":\"%s\","
            "\"per_iter_skip\":0,\"parallel_init\":\"false\",\"in_place\":\"%s\",\n\"devices\":[",
            perf_warmup(o, o->min_bytes), perf_iters(o, o->min_bytes), o->check,
            o->percentiles || r->coll->kind > PERF_PUT ? "true" : "false",
            r->coll->in_place ? "true" : "false");
    for (int i = 0; i < r->ranks; i++) {
        fprintf(f, "%s\n{\"rank\":%d,\"group\":0,\"pid\":%d,\"hostname\":", i > 0 ? "," : "",
                d[i].rank, d[i].pid);
        json_string(f, d[i].host);
        fprintf(f, ",\"device\":%d,\"device_hex\":\"%04x:%02x:%02x\",\"device_info\":",
                d[i].local_rank, d[i].node, d[i].package, d[i].cpu);
        json_string(f, d[i].name);
        fputc('}', f);
    }
    fputs("]},\n", f);
}

void perf_json_begin(const struct perf_report *r, const struct perf_device *devices) {
    FILE *f = r->json;
    fputs("{\"version\":3,", f);
    json_time(f, "start_time");
    fprintf(f, ",\"rondo_version\":%d,\"collective\":\"%s\",\"ranks\":%d,\"plan\":",
            rondo_version_number(), r->coll->name, r->ranks);
    json_string(f, r->plan);
    fputs(",\"args\":[", f);
    for (int i = 0; i < r->options->argc; i++) {
        fputs(i > 0 ? "," : "", f);
        json_string(f, r->options->argv[i]);
    }
    fputs("],\n", f);
    json_config(r, devices);
    fputs("\"results\":[", f);
}

void perf_json_stats(FILE *f, const struct perf_stats *s) {
    fprintf(f,
            "{\"skipped_iterations\":0,\"min_us\":%.6f,\"max_us\":%.6f,\"avg_us\":%.6f,"
            "\"p50_us\":%.6f,\"p95_us\":%.6f,\"p99_us\":%.6f,\"stdev_us\":%.6f,\"cv_pct\":%.6f}",
            s->min, s->max, s->avg, s->p50, s->p95, s->p99, s->stdev,
            s->avg > 0 ? 100 * s->stdev / s->avg : 0);
}

static void json_half(const struct perf_report *r, const char *key, const struct perf_half *h) {
    FILE *f = r->json;
    fprintf(f, ",\"%s\":{\"time\":%.6f,\"alg_bw\":%.6f,\"bus_bw\":%.6f,\"nwrong\":", key, h->us,
            h->algbw, h->busbw);
    if (h->wrong >= 0) {
        fprintf(f, "%lld}", (long long)h->wrong);
    } else {
        fputs("null}", f);
    }
    if (r->options->percentiles) {
        fprintf(f, ",\"%s_per_iter\":", key);
        perf_json_stats(f, &h->each);
    }
}

void perf_json_row(const struct perf_report *r, const struct perf_row *row) {
    fprintf(r->json,
            "%s\n{\"size\":%zu,\"count\":%zu,\"type\":\"%s\",\"redop\":\"%s\",\"root\":\"%6d\"",
            r->nrows > 1 ? "," : "", row->bytes, row->count, rondo_type_name(row->type),
            perf_row_op(row), row->root);
    json_half(r, "out_of_place", &row->half[0]);
    json_half(r, "in_place", &row->half[1]);
    fprintf(r->json, ",\"actual_iterations\":%d,\"experiment_name\":\"\"}", r->options->iters);
}

void perf_json_end(const struct perf_report *r, int64_t failures, const char *error) {
    FILE *f = r->json;
    fprintf(f,
            "],\n\"out_of_bounds\":{\"count\":%lld,\"okay\":\"%s\"},\n"
            "\"average_bus_bandwidth\":{\"bandwidth\":%.6f,\"okay\":\"unchecked\"},\n\"errors\":[",
            (long long)failures, failures == 0 ? "true" : "false", perf_average_busbw(r));
    if (error != NULL) {
        json_string(f, error);
    }
    fputs("],\n", f);
    json_time(f, "end_time");
    fputs("}\n", f);
}

// ---- CSV -----------------------------------------------------------------------------------------

void perf_csv_begin(const struct perf_report *r) {
    fputs("size_B,count,type,redop,root", r->csv);
    for (int h = 0; h < 2; h++) {
        const char *p = h == 0 ? "out_of_place" : "in_place";
        fprintf(r->csv, ",%s_time_us,%s_algbw_GBps,%s_busbw_GBps,%s_wrong", p, p, p, p);
        if (r->options->percentiles) {
            fprintf(r->csv, ",%s_p50_us,%s_p99_us", p, p);
        }
    }
    fputc('\n', r->csv);
}

void perf_csv_row(const struct perf_report *r, const struct perf_row *row) {
    fprintf(r->csv, "%zu,%zu,%s,%s,%d", row->bytes, row->count, rondo_type_name(row->type),
            perf_row_op(row), row->root);
    for (int h = 0; h < 2; h++) {
        const struct perf_half *half = &row->half[h];
        fprintf(r->csv, ",%.6g,%.6g,%.6g,", half->us, half->algbw, half->busbw);
        if (half->wrong >= 0) {
            fprintf(r->csv, "%lld", (long long)half->wrong);
        }
        if (r->options->percentiles) {
            fprintf(r->csv, ",%.6g,%.6g", half->each.p50, half->each.p99);
        }
    }
    fputc('\n', r->csv);
    fflush(r->csv);
}
