// SPDX-License-Identifier: MIT
// Counters in Prometheus' text format, version 0.0.4. A name appears once, with one HELP and one TYPE line, and all
// its samples follow: so the loops go by name first and by rank within.
#include "ring/internal.h"
#include "ring/record/dump.h"

#include <string.h>

void rdi_metrics_take(struct rdi_metrics *m, const struct rdi_snap *s,
                      const struct rdi_recorder *k) {
    for (int i = 0; i < RDI_KIND_COUNT; i++) {
        for (int b = 0; b < RDI_TIME_BUCKETS; b++) {
            m->times[i][b] = atomic_load(&k->times[i][b]);
        }
        m->seconds[i] = atomic_load(&k->seconds[i]);
    }
    for (int i = 0; i < RDI_WAIT_COUNT; i++) {
        m->waited[i] = atomic_load(&k->waited[i]);
    }
    for (int i = 0; i < 32; i++) {
        m->failures[i] = atomic_load(&k->failures[i]);
    }
    if (!s->whole) {
        return; // the rest stays as it was
    }
    m->operations = s->past[0];
    m->bytes_received = s->past[1];
    m->messages = s->past[2];
    m->resets = s->past[3];
    m->strangers = s->strangers;
    m->damaged = s->damaged;
    memcpy(m->wire, s->past_wire, sizeof m->wire);
    for (unsigned i = 0; i < s->ncomms; i++) {
        const struct rdi_snap_comm *c = &s->comms[i];
        m->operations += c->operations;
        m->bytes_received += c->bytes_received;
        m->messages += c->messages;
        m->resets += c->resets;
        for (int w = 0; w < 3; w++) {
            m->wire[w] += c->wire[w];
        }
    }
}

// ---- Text ----------------------------------------------------------------------------------------

static void head(struct rdi_text *t, const char *name, const char *type, const char *help) {
    rdi_text_add(t, "# HELP rondo_%s %s\n# TYPE rondo_%s %s\n", name, help, name, type);
}

static void one(struct rdi_text *t, const char *name, const char *type, const char *help,
                const struct rdi_metrics *m, size_t n, size_t offset) {
    head(t, name, type, help);
    for (size_t i = 0; i < n; i++) {
        uint64_t value;
        memcpy(&value, (const char *)&m[i] + offset, sizeof value);
        rdi_text_add(t, "rondo_%s{rank=\"%d\"} %llu\n", name, m[i].rank, (unsigned long long)value);
    }
}

static void wires(struct rdi_text *t, const struct rdi_metrics *m, size_t n) {
    static const char *const names[3] = {"shm", "tcp", "verbs"};
    head(t, "sent_bytes_total", "counter", "Payload given to the wires.");
    for (size_t i = 0; i < n; i++) {
        for (int w = 0; w < 3; w++) {
            rdi_text_add(t, "rondo_sent_bytes_total{rank=\"%d\",wire=\"%s\"} %llu\n", m[i].rank,
                         names[w], (unsigned long long)m[i].wire[w]);
        }
    }
}

static void failures(struct rdi_text *t, const struct rdi_metrics *m, size_t n) {
    head(t, "failures_total", "counter", "Communicators that failed, by status.");
    for (size_t i = 0; i < n; i++) {
        for (int s = 1; s <= -RONDO_ERR_INTERNAL; s++) {
            rdi_text_add(t, "rondo_failures_total{rank=\"%d\",status=\"%s\"} %llu\n", m[i].rank,
                         rondo_status_name((rondo_status)-s), (unsigned long long)m[i].failures[s]);
        }
    }
}

static void waits(struct rdi_text *t, const struct rdi_metrics *m, size_t n) {
    head(t, "wait_seconds_total", "counter",
         "Time asleep while operations were under way, by what the oldest one waited for.");
    for (size_t i = 0; i < n; i++) {
        for (int w = RDI_WAIT_NONE + 1; w < RDI_WAIT_COUNT; w++) {
            rdi_text_add(t, "rondo_wait_seconds_total{rank=\"%d\",wait=\"%s\"} %.9g\n", m[i].rank,
                         rdi_wait_name((enum rdi_wait)w), (double)m[i].waited[w] * 1e-9);
        }
    }
}

static void histogram(struct rdi_text *t, const struct rdi_metrics *m, int kind) {
    const char *op = kind == RDI_SEND   ? "send"
                     : kind == RDI_RECV ? "recv"
                                        : rdi_kind_name((enum rdi_kind)kind);
    uint64_t sum = 0;
    for (int b = 0; b < RDI_TIME_BUCKETS; b++) {
        sum += m->times[kind][b];
    }
    if (sum == 0) {
        return;
    }
    uint64_t count = 0;
    for (int b = 0; b < RDI_TIME_BUCKETS - 1; b++) {
        count += m->times[kind][b];
        rdi_text_add(t, "rondo_operation_seconds_bucket{rank=\"%d\",op=\"%s\",le=\"%.9g\"} %llu\n",
                     m->rank, op, (double)(UINT64_C(1) << b) * 1e-6, (unsigned long long)count);
    }
    rdi_text_add(t, "rondo_operation_seconds_bucket{rank=\"%d\",op=\"%s\",le=\"+Inf\"} %llu\n",
                 m->rank, op, (unsigned long long)sum);
    rdi_text_add(t, "rondo_operation_seconds_sum{rank=\"%d\",op=\"%s\"} %.9g\n", m->rank, op,
                 (double)m->seconds[kind] * 1e-9);
    rdi_text_add(t, "rondo_operation_seconds_count{rank=\"%d\",op=\"%s\"} %llu\n", m->rank, op,
                 (unsigned long long)sum);
}

void rdi_metrics_text(struct rdi_text *t, const struct rdi_metrics *m, size_t n) {
    head(t, "info", "gauge", "The library and the job.");
    for (size_t i = 0; i < n; i++) {
        rdi_text_add(t, "rondo_info{rank=\"%d\",version=\"%s\",job=\"%s\"} 1\n", m[i].rank,
                     rondo_version(), m[i].job);
    }
#define ONE(name, type, member, help) \
    one(t, name, type, help, m, n, offsetof(struct rdi_metrics, member))
    ONE("operations_total", "counter", operations, "Operations that ended, also with an error.");
    ONE("operations_active", "gauge", active, "Operations under way.");
    ONE("received_bytes_total", "counter", bytes_received, "Payload that arrived.");
    ONE("messages_sent_total", "counter", messages, "Messages given to the wires.");
    ONE("path_resets_total", "counter", resets, "Paths that were lost and replaced.");
    ONE("strangers_dropped_total", "counter", strangers,
        "Connections that did not prove the job's key.");
    ONE("damaged_connections_total", "counter", damaged,
        "Encrypted connections on which something else came than was sent.");
    ONE("sleeps_total", "counter", sleeps, "Times that a thread slept while it waited.");
#undef ONE
    wires(t, m, n);
    failures(t, m, n);
    waits(t, m, n);
    head(t, "operation_seconds", "histogram", "Time of operations that succeeded.");
    for (size_t i = 0; i < n; i++) {
        for (int kind = 0; kind < RDI_KIND_COUNT; kind++) {
            histogram(t, &m[i], kind);
        }
    }
}
