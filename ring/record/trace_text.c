// SPDX-License-Identifier: MIT
// Events in Chrome's trace event format: an array of objects, ts and dur in microseconds. What may overlap
// (operations, buckets) are asynchronous slices (b, e), the rest complete ones (X) that nest by track; s and f are
// the two ends of a message's arrow.
#include "ring/record/trace.h"

#include <stdlib.h>
#include <string.h>

enum { TRACK_STEPS = 1, TRACK_BUCKETS = 2, TRACK_OPS = 3, TRACK_PEERS = 16 };

static void begin(struct rdi_trace_writer *w, struct rdi_text *t, const char *phase,
                  const char *name, unsigned track) {
    rdi_text_add(t, "%s\n", w->begun ? "," : "[");
    w->begun = true;
    rdi_text_add(t, "{\"ph\": \"%s\", \"pid\": %d, \"tid\": %u, \"name\": \"%s\"", phase, w->rank,
                 track, name);
}

static void at(struct rdi_text *t, uint64_t ns) {
    rdi_text_add(t, ", \"ts\": %llu.%03u", (unsigned long long)(ns / 1000), (unsigned)(ns % 1000));
}

static void lasting(struct rdi_text *t, uint64_t from, uint64_t ns) {
    at(t, from);
    rdi_text_add(t, ", \"dur\": %llu.%03u", (unsigned long long)(ns / 1000), (unsigned)(ns % 1000));
}

// ---- Names ---------------------------------------------------------------------------------------

static void metadata(struct rdi_trace_writer *w, struct rdi_text *t, const char *what,
                     unsigned track, const char *key, const char *value) {
    begin(w, t, "M", what, track);
    rdi_text_add(t, ", \"args\": {");
    rdi_json_string(t, key, value);
    rdi_text_add(t, "}}");
}

static bool is_named(struct rdi_trace_writer *w, size_t track) {
    if (track >= w->tracks) {
        size_t n = track + 64;
        unsigned char *more = realloc(w->seen, n);
        if (!more) {
            return true; // the track keeps its number for a name
        }
        memset(more + w->tracks, 0, n - w->tracks);
        w->seen = more;
        w->tracks = n;
    }
    bool was = w->seen[track];
    w->seen[track] = 1;
    return was;
}

static unsigned named(struct rdi_trace_writer *w, struct rdi_text *t, unsigned track,
                      const char *fmt, int number) {
    char name[64];
    struct rdi_text made = {0};
    if (is_named(w, track)) {
        return track;
    }
    rdi_text_add(&made, fmt, number);
    strncpy(name, made.buf ? made.buf : "", sizeof name - 1);
    name[sizeof name - 1] = '\0';
    rdi_text_free(&made);
    metadata(w, t, "thread_name", track, "name", name);
    begin(w, t, "M", "thread_sort_index", track);
    rdi_text_add(t, ", \"args\": {\"sort_index\": %u}}", track);
    return track;
}

void rdi_trace_open_text(struct rdi_trace_writer *w, struct rdi_text *t, const char *host, int pid,
                         const char *boot, uint64_t unix_minus_monotonic) {
    struct rdi_text name = {0};
    rdi_text_add(&name, "rank %d (host %s, pid %d)", w->rank, host, pid);
    metadata(w, t, "process_name", 0, "name", name.buf);
    rdi_text_free(&name);
    begin(w, t, "M", "process_sort_index", 0);
    rdi_text_add(t, ", \"args\": {\"sort_index\": %d}}", w->rank);
    // For those who put the traces of several hosts together.
    begin(w, t, "M", "rondo_clock", 0);
    rdi_text_add(t, ", \"args\": {");
    rdi_json_string(t, "boot", boot);
    rdi_json_u64(t, "unix_minus_monotonic_ns", unix_minus_monotonic);
    rdi_text_add(t, "}}");
}

void rdi_trace_close_text(struct rdi_trace_writer *w, struct rdi_text *t, uint64_t dropped) {
    begin(w, t, "M", "rondo_end", 0);
    rdi_text_add(t, ", \"args\": {\"dropped\": %llu}}\n]\n", (unsigned long long)dropped);
    free(w->seen);
    w->seen = NULL;
    w->tracks = 0;
}

// ---- Events --------------------------------------------------------------------------------------

static void put_op(struct rdi_trace_writer *w, struct rdi_text *t,
                   const struct rdi_trace_event *e) {
    bool begins = e->kind == RDI_TRACE_OP_BEGIN;
    enum rdi_kind kind = (enum rdi_kind)(e->what & 0xff);
    const char *name = kind == RDI_SEND ? "send" : kind == RDI_RECV ? "recv" : rdi_kind_name(kind);
    begin(w, t, begins ? "b" : "e", name, named(w, t, TRACK_OPS, "operations", 0));
    at(t, e->at);
    rdi_text_add(t, ", \"cat\": \"operation\", \"id\": \"0x%llx\"", (unsigned long long)e->id);
    if (begins) {
        rdi_text_add(t, ", \"args\": {\"seq\": %llu, \"bytes\": %llu, ", (unsigned long long)e->seq,
                     (unsigned long long)e->bytes);
        rdi_text_add(t, "\"type\": \"%s\", \"algorithm\": \"%s\", \"comm\": \"%016llx\"}}",
                     rondo_type_name((rondo_type)(e->what >> 8 & 0xff)),
                     rdi_algo_name((enum rdi_algo_id)(e->what >> 24)), (unsigned long long)e->comm);
    } else {
        rdi_text_add(t, ", \"args\": {\"status\": \"%s\"}}",
                     rondo_status_name((rondo_status)e->peer));
    }
}

static void put_message(struct rdi_trace_writer *w, struct rdi_text *t,
                        const struct rdi_trace_event *e) {
    bool out = e->kind == RDI_TRACE_SEND;
    unsigned track = TRACK_PEERS + 2 * (unsigned)e->peer + !out;
    (void)named(w, t, track, out ? "to rank %d" : "from rank %d", e->peer);
    begin(w, t, "X", out ? "send" : "consume", track);
    lasting(t, e->at, e->dur);
    rdi_text_add(t, ", \"cat\": \"message\", \"args\": {\"message\": %llu, \"bytes\": %llu}}",
                 (unsigned long long)e->seq, (unsigned long long)e->bytes);
    begin(w, t, out ? "s" : "f", "message", track);
    at(t, e->at);
    rdi_text_add(t, ", \"cat\": \"message\", \"id\": \"0x%llx\"%s}", (unsigned long long)e->id,
                 out ? "" : ", \"bp\": \"e\"");
}

static void put_step(struct rdi_trace_writer *w, struct rdi_text *t,
                     const struct rdi_trace_event *e) {
    static const char *const names[] = {"optimizer, forward", "backward", "wait for gradients"};
    unsigned track = named(w, t, TRACK_STEPS, "steps", 0);
    begin(w, t, "X", names[e->what % 3], track);
    lasting(t, e->at, e->dur);
    rdi_text_add(t, ", \"cat\": \"step\", \"args\": {\"step\": %llu}}", (unsigned long long)e->seq);
}

static void put_bucket(struct rdi_trace_writer *w, struct rdi_text *t,
                       const struct rdi_trace_event *e) {
    unsigned track = named(w, t, TRACK_BUCKETS, "buckets", 0);
    for (int end = 0; end < 2; end++) {
        begin(w, t, end ? "e" : "b", "bucket", track);
        at(t, e->at + (end ? e->dur : 0));
        rdi_text_add(t, ", \"cat\": \"bucket\", \"id\": \"0x%llx\"", (unsigned long long)e->id);
        rdi_text_add(t, ", \"args\": {\"bucket\": %llu, \"bytes\": %llu}}",
                     (unsigned long long)e->seq, (unsigned long long)e->bytes);
    }
}

void rdi_trace_event_text(struct rdi_trace_writer *w, struct rdi_text *t,
                          const struct rdi_trace_event *e) {
    switch (e->kind) {
    case RDI_TRACE_OP_BEGIN:
    case RDI_TRACE_OP_END:
        put_op(w, t, e);
        break;
    case RDI_TRACE_SEND:
    case RDI_TRACE_RECV:
        put_message(w, t, e);
        break;
    case RDI_TRACE_STEP:
        put_step(w, t, e);
        break;
    case RDI_TRACE_BUCKET:
        put_bucket(w, t, e);
        break;
    }
}
