// SPDX-License-Identifier: MIT
// Empties the queue of events into a file, in pieces, by the observer's thread.
#include "ring/record/observe_trace.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define QUEUE_EVENTS (1u << 16) // 8 MiB; the observer comes every 20 ms
#define PIECE_BYTES (256u << 10)

struct rdi_trace_file {
    struct rdi_trace *queue;
    struct rdi_trace_writer writer;
    struct rdi_text text;
    int fd, err;
    uint64_t written, too_many, dropped_before;
    char path[];
};

static uint64_t clock_of(clockid_t id) {
    struct timespec t;
    clock_gettime(id, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void flush(struct rdi_trace_file *f) {
    size_t at = 0;
    f->err = f->text.failed && !f->err ? ENOMEM : f->err;
    while (at < f->text.len && !f->err) {
        ssize_t n = write(f->fd, f->text.buf + at, f->text.len - at);
        if (n < 0 && errno != EINTR) {
            f->err = errno;
        }
        at += n > 0 ? (size_t)n : 0;
    }
    f->written += at;
    f->text.len = 0;
}

rondo_status rdi_trace_file_open(const struct rdi_observed *o, const char *path,
                                 struct rdi_trace_file **out) {
    struct rdi_recorder *k = &o->engine->recorder;
    struct rdi_trace *queue = atomic_load(&k->trace);
    size_t n = strlen(path) + 1;
    struct rdi_trace_file *f = calloc(1, sizeof *f + n);
    if (f && !queue) {
        queue = rdi_trace_new(QUEUE_EVENTS);
        atomic_store(&k->trace, queue);
    }
    if (!f || !queue) {
        free(f);
        return rdi_fail(RONDO_ERR_NOMEM, "out of memory for a trace");
    }
    memcpy(f->path, path, n);
    f->queue = queue;
    f->writer.rank = o->rank;
    f->dropped_before = atomic_load(&queue->dropped);
    // Replaced, not followed: in a folder that others may write, the name could be a link.
    (void)unlink(path);
    f->fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (f->fd < 0) {
        rondo_status s = rdi_fail_errno(RONDO_ERR_SYSTEM, errno, "cannot write the trace %s", path);
        free(f);
        return s;
    }
    struct rdi_trace_event old; // put by a thread that saw the trace before end
    while (rdi_trace_take(queue, &old)) {}
    rdi_trace_open_text(&f->writer, &f->text, o->host, o->pid, o->boot,
                        clock_of(CLOCK_REALTIME) - clock_of(CLOCK_MONOTONIC));
    flush(f);
    *out = f;
    return RONDO_OK;
}

void rdi_trace_file_drain(struct rdi_trace_file *f) {
    struct rdi_trace_event e;
    while (rdi_trace_take(f->queue, &e)) {
        if (f->err || f->written + f->text.len > RDI_TRACE_FILE_MAX) {
            f->too_many++;
            continue;
        }
        rdi_trace_event_text(&f->writer, &f->text, &e);
        if (f->text.len > PIECE_BYTES) {
            flush(f);
        }
    }
    flush(f);
}

rondo_status rdi_trace_file_close(struct rdi_trace_file *f) {
    rdi_trace_file_drain(f);
    rdi_trace_close_text(&f->writer, &f->text,
                         atomic_load(&f->queue->dropped) - f->dropped_before + f->too_many);
    flush(f);
    if (close(f->fd) != 0 && !f->err) {
        f->err = errno;
    }
    rondo_status s = RONDO_OK;
    if (f->err) {
        s = rdi_fail_errno(RONDO_ERR_SYSTEM, f->err, "cannot write the trace %s", f->path);
    }
    rdi_text_free(&f->text);
    free(f);
    return s;
}
