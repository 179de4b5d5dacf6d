// SPDX-License-Identifier: MIT
// A rank's state as JSON: what dumps hold, and what rondo-top is served. docs/man/rondo-top.1 has the format.
#ifndef RDI_RECORD_DUMP_H
#define RDI_RECORD_DUMP_H

#include "ring/record/record.h"
#include "transport/text.h"

#define RDI_DUMP_FORMAT "rondo-dump 1"
#define RDI_JOB_MAX 33

// What the engine does not know of the process.
struct rdi_dump_head {
    const char *cause; // "signal", "failure", "call", "view"
    const char *job, *program, *host, *boot;
    int rank, size, pid;
    uint64_t monotonic, unix_ns; // the same moment on both clocks
};

// `s` may be not whole: then the rings say what there is. `recent`: at most so many operations of each ring.
void rdi_dump_json(struct rdi_text *t, const struct rdi_dump_head *head, const struct rdi_snap *s,
                   const struct rdi_recorder *k, uint64_t recent);

// The same process's counters in Prometheus' text format; see metrics.c.
struct rdi_metrics {
    int rank;
    const char *job;
    uint64_t operations, bytes_received, messages, resets, wire[3], strangers, damaged, sleeps,
        active;
    uint64_t times[9][RDI_TIME_BUCKETS], seconds[9], waited[RDI_WAIT_COUNT], failures[32];
};
// Whatever the recorder holds, and, when `s` is whole, the communicators' counters.
void rdi_metrics_take(struct rdi_metrics *m, const struct rdi_snap *s,
                      const struct rdi_recorder *k);
void rdi_metrics_text(struct rdi_text *t, const struct rdi_metrics *m, size_t n);

#endif
