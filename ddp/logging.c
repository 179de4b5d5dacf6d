// SPDX-License-Identifier: MIT
// What PyTorch's get_ddp_logging_data() tells, for logs and dashboards: names as there where the thing is the same.
#include "ddp/internal.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

// Text that is measured whether it fits or not.
struct text {
    char *buf;
    size_t cap, len;
};

__attribute__((format(printf, 2, 3))) static void put(struct text *t, const char *format, ...) {
    va_list args;
    va_start(args, format);
    size_t left = t->len < t->cap ? t->cap - t->len : 0;
    int n = vsnprintf(left ? t->buf + t->len : NULL, left, format, args);
    va_end(args);
    t->len += n > 0 ? (size_t)n : 0;
}

// A hook's name is its author's.
static void put_string(struct text *t, const char *s) {
    put(t, "\"");
    for (; *s; s++) {
        if ((unsigned char)*s < 0x20 || *s == '"' || *s == '\\') {
            put(t, "\\u%04x", (unsigned)(unsigned char)*s);
        } else {
            put(t, "%c", *s);
        }
    }
    put(t, "\"");
}

static void put_model(struct text *t, const struct rondo_ddp *d) {
    size_t bytes = 0, sparse = 0;
    bool types[RONDO_TYPE_COUNT] = {false};
    for (size_t i = 0; i < d->nparams; i++) {
        bytes += d->params[i].bytes;
        sparse += d->params[i].sparse;
        types[d->params[i].type] = true;
    }
    put(t,
        "\"num_parameter_tensors\": %zu, \"total_parameter_size_bytes\": %zu, "
        "\"sparse_parameter_tensors\": %zu, \"dtypes\": [",
        d->nparams, bytes, sparse);
    const char *comma = "";
    for (int k = 0; k < RONDO_TYPE_COUNT; k++) {
        if (types[k]) {
            put(t, "%s\"%s\"", comma, rondo_type_name((rondo_type)k));
            comma = ", ";
        }
    }
    put(t, "], \"num_buffers\": %zu, ", d->nbuffers);
}

static void put_options(struct text *t, const struct rondo_ddp *d) {
    put(t,
        "\"find_unused_parameters\": %d, \"static_graph\": %d, \"gradient_as_bucket_view\": 1, "
        "\"elastic\": %d, \"sharded\": %d, \"average\": %d, \"join\": %d, \"comm_hook\": ",
        d->find_unused, d->static_graph, d->elastic, d->shard, d->average, d->join.on);
    put_string(t, d->hook.round ? d->hook.name : "all_reduce");
    put(t, ", \"device\": \"%s\", ", d->device ? "cuda" : "cpu");
}

static void put_buckets(struct text *t, const struct rondo_ddp *d) {
    put(t,
        "\"bucket_cap_bytes\": %zu, \"first_bucket_cap_bytes\": %zu, \"bucket_tuning\": %d, "
        "\"initial_buckets\": %zu, "
        "\"has_rebuilt_buckets\": %d, \"bucket_sizes\": [",
        d->cap_bytes, d->first_bytes, d->tune.on, d->first_buckets, d->rebuilt);
    for (size_t b = 0; b < d->nbuckets; b++) {
        put(t, "%s%zu", b ? ", " : "", d->buckets[b].count * rondo_type_size(d->buckets[b].type));
    }
    put(t, "], ");
}

static void put_times(struct text *t, const struct rondo_ddp *d, const rondo_ddp_stats *s) {
    double steps = s->steps ? (double)s->steps : 1.0;
    char error[32] = "null"; // JSON has no NaN
    if (isfinite(s->hook_error)) {
        snprintf(error, sizeof error, "%.9g", s->hook_error);
    }
    size_t unused = 0;
    for (size_t i = 0; i < d->nparams; i++) {
        // Of a map that is still on its way this rank's own part is known.
        unused += d->used_map[i] ? 0 : d->params[i].bytes;
    }
    put(t,
        "\"num_iterations\": %llu, \"unused_parameter_size_bytes\": %zu, "
        "\"avg_forward_compute_time_s\": %.9f, "
        "\"avg_backward_compute_time_s\": %.9f, \"avg_backward_comm_time_s\": %.9f, "
        "\"avg_backward_compute_comm_overlap_time_s\": %.9f, \"avg_wait_time_s\": %.9f, ",
        (unsigned long long)s->steps, unused, d->seconds[0] / steps, d->seconds[1] / steps,
        s->total_comm / steps,
        (s->total_comm > s->total_exposed ? s->total_comm - s->total_exposed : 0.0) / steps,
        d->seconds[2] / steps);
    put(t,
        "\"bytes_reduced\": %llu, \"bytes_sent\": %llu, \"hook_bytes\": %llu, \"hook_error\": "
        "%s, "
        "\"retries\": %llu}",
        (unsigned long long)s->bytes_reduced, (unsigned long long)s->bytes_sent,
        (unsigned long long)s->hook_bytes, error, (unsigned long long)s->retries);
}

rondo_status rondo_ddp_logging_data(const rondo_ddp *d, char *buf, size_t cap) {
    rondo_ddp_stats s = {.size = sizeof s};
    if (!d || !buf || cap == 0) {
        return rdi_fail(RONDO_ERR_INVALID,
                        "rondo_ddp_logging_data: a pointer is NULL, or there is no room at all");
    }
    rondo_status status = rondo_ddp_get_stats(d, &s);
    struct text t = {.buf = buf, .cap = cap};
    put(&t, "{\"backend_name\": \"rondo\", \"world_size\": %d, \"rank\": %d, ",
        rondo_comm_size(d->world), rondo_comm_rank(d->world));
    put_model(&t, d);
    put_options(&t, d);
    put_buckets(&t, d);
    put_times(&t, d, &s);
    if (t.len >= cap) {
        buf[0] = '\0';
        return rdi_fail(RONDO_ERR_INVALID,
                        "rondo_ddp_logging_data: %zu bytes are too few, %zu are needed", cap,
                        t.len + 1);
    }
    return status;
}
