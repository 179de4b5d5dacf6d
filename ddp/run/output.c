// SPDX-License-Identifier: MIT
// What the ranks print, made into whole lines with a prefix, or sent to a file a rank.
//
// Each rank's standard output and standard error are pipes of their own; a line is passed on when
// its end has come, so lines of several ranks never mix. What happens to an unfinished line:
//   - at the end of the stream, or at RUN_LINE_MAX bytes, it is ended and passed on;
//   - on a terminal, that of the first local rank is shown at the bottom meanwhile. A carriage return begins
//     it anew, so progress displays look as they should; of other ranks, and once the line is complete, only
//     what follows the last carriage return is shown;
//   - elsewhere (pipe, file) carriage returns are passed on as they are.
// When our reader is slow, the pipes fill and the ranks wait, as they would without us.
#include "ddp/run/sink.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/stat.h>
#include <unistd.h>

#define RUN_LINE_MAX (256u << 10)
#define RUN_READ (64u << 10)
#define RUN_DRAIN_READS 32 // of RUN_READ: a process that left the job may write for ever
#define RUN_PREFIX_MAX 256

struct stream {
    int fd; // -1 = ended
    int local_rank;
    bool paused; // not in epoll: the sink is full
    struct run_sink *sink;
    char *prefix;
    size_t prefix_len;
    char *part; // a line without its end
    size_t part_len, part_cap;
    int drained; // reads by run_output_drain()
};

struct run_output {
    const struct run_options *o;
    int epfd, n;
    struct run_sink sinks[2];
    struct run_sink *err;   // &sinks[1], or &sinks[0] when both are the same file
    struct stream *streams; // 2 a rank: output, errors
    struct stream *live;    // of the first local rank: the one that printed last
    char buf[RUN_READ];
};

// ---- Lines --------------------------------------------------------------------------------------

// What a terminal would show of text with carriage returns.
static const char *visible(const char *text, size_t *len) {
    while (*len > 0 && text[*len - 1] == '\r') {
        --*len;
    }
    const char *last = *len > 0 ? memrchr(text, '\r', *len) : NULL;
    if (last != NULL) {
        *len -= (size_t)(last + 1 - text);
        return last + 1;
    }
    return text;
}

static void print_line(struct stream *s, const char *text, size_t len) {
    if (s->sink->terminal) {
        text = visible(text, &len);
    }
    run_sink_hide_live(s->sink);
    run_sink_put(s->sink, s->prefix, s->prefix_len);
    run_sink_put(s->sink, text, len);
    run_sink_put(s->sink, "\n", 1);
}

static void end_part(struct stream *s) {
    print_line(s, s->part, s->part_len);
    s->part_len = 0;
}

static bool reserve_part(struct stream *s, size_t len) {
    if (len > s->part_cap) {
        size_t cap = len * 2 < RUN_LINE_MAX ? len * 2 : RUN_LINE_MAX;
        char *more = realloc(s->part, cap);
        if (more == NULL) {
            return false;
        }
        s->part = more;
        s->part_cap = cap;
    }
    return true;
}

static void add_to_part(struct stream *s, const char *bytes, size_t n) {
    while (n > 0) {
        size_t now = n < RUN_LINE_MAX - s->part_len ? n : RUN_LINE_MAX - s->part_len;
        if (!reserve_part(s, s->part_len + now)) {
            // No memory to keep it: pass it on as it is.
            end_part(s);
            print_line(s, bytes, n);
            return;
        }
        memcpy(s->part + s->part_len, bytes, now);
        s->part_len += now;
        if (s->sink->terminal && memchr(bytes, '\r', now) != NULL) {
            size_t len = s->part_len;
            const char *rest = visible(s->part, &len);
            s->part_len -= (size_t)(rest - s->part);
            memmove(s->part, rest, s->part_len);
        }
        bytes += now;
        n -= now;
        if (s->part_len == RUN_LINE_MAX) {
            end_part(s);
        }
    }
}

// Called after reading `s`: shows the unfinished line of the first local rank, if there is one.
static void show_live(struct run_output *out, struct stream *s) {
    if (s->local_rank == 0) {
        out->live = s;
    }
    for (int i = 0; out->live != NULL && i < 2; i++) {
        // The one that printed last, or else its sibling.
        struct stream *l = i == 0 ? out->live : &out->streams[out->live == out->streams];
        size_t len = l->part_len;
        const char *text = visible(l->part, &len);
        if (l->sink == s->sink && l->sink->terminal && len > 0) {
            run_sink_show_live(l->sink, l->prefix, l->prefix_len, text, len);
            return;
        }
    }
    run_sink_hide_live(s->sink);
}

static void take(struct stream *s, const char *bytes, size_t n) {
    while (n > 0) {
        const char *end = memchr(bytes, '\n', n);
        if (end == NULL) {
            add_to_part(s, bytes, n);
            return;
        }
        size_t len = (size_t)(end - bytes);
        if (s->part_len == 0) {
            print_line(s, bytes, len);
        } else {
            add_to_part(s, bytes, len);
            end_part(s);
        }
        bytes += len + 1;
        n -= len + 1;
    }
}

// ---- Streams ------------------------------------------------------------------------------------

static void watch(struct run_output *out, struct stream *s, bool on) {
    struct epoll_event e = {.events = EPOLLIN,
                            .data.u64 = run_ev_pack(RUN_EV_STREAM, (uint32_t)(s - out->streams))};
    epoll_ctl(out->epfd, on ? EPOLL_CTL_ADD : EPOLL_CTL_DEL, s->fd, &e);
    s->paused = !on;
}

static void end_stream(struct run_output *out, struct stream *s) {
    if (!s->paused) {
        watch(out, s, false);
    }
    close(s->fd);
    s->fd = -1;
    if (s->part_len > 0) {
        end_part(s);
    }
    free(s->part);
    s->part = NULL;
    s->part_cap = 0;
}

// Reads once. False when there is nothing to read now, or no more ever.
static bool read_stream(struct run_output *out, struct stream *s) {
    ssize_t n = read(s->fd, out->buf, sizeof out->buf);
    if (n > 0) {
        take(s, out->buf, (size_t)n);
        show_live(out, s);
        return true;
    }
    if (n == 0 || (errno != EAGAIN && errno != EINTR)) {
        end_stream(out, s);
        show_live(out, s);
    }
    return n < 0 && errno == EINTR;
}

// A reader that has gone is told to the ranks as it was told to us: their next write fails.
static void end_streams_of(struct run_output *out, const struct run_sink *k) {
    for (int i = 0; i < 2 * out->n; i++) {
        struct stream *s = &out->streams[i];
        if (s->fd >= 0 && s->sink == k) {
            end_stream(out, s);
        }
    }
}

static void resume(struct run_output *out, const struct run_sink *k) {
    for (int i = 0; i < 2 * out->n; i++) {
        struct stream *s = &out->streams[i];
        if (s->fd >= 0 && s->paused && s->sink == k) {
            watch(out, s, true);
        }
    }
}

// Writes what can be written. Whoever makes room lets the streams that wait for it go on.
static void flush(struct run_output *out, struct run_sink *k) {
    run_sink_flush(k);
    if (k->broken) {
        end_streams_of(out, k);
    } else if (k->full && run_sink_waiting(k) < RUN_SINK_LOW) {
        k->full = false;
        resume(out, k);
    }
}

void run_output_event(struct run_output *out, uint32_t kind, uint32_t index) {
    if (kind == RUN_EV_STREAM) {
        struct stream *s = &out->streams[index];
        if (s->fd < 0 || s->paused) {
            return;
        }
        read_stream(out, s);
        flush(out, s->sink);
        if (s->fd >= 0 && run_sink_waiting(s->sink) > RUN_SINK_HIGH) {
            s->sink->full = true;
            watch(out, s, false);
        }
    } else {
        flush(out, &out->sinks[index]);
    }
}

void run_output_say(struct run_output *out, const char *line) {
    run_sink_hide_live(out->err);
    run_sink_put(out->err, "rondo-run: ", 11);
    run_sink_put(out->err, line, strlen(line));
    run_sink_put(out->err, "\n", 1);
    flush(out, out->err);
}

bool run_output_drain(struct run_output *out) {
    for (int i = 0; i < 2 * out->n; i++) {
        struct stream *s = &out->streams[i];
        while (s->fd >= 0) {
            if (run_sink_waiting(s->sink) > RUN_SINK_HIGH) {
                flush(out, s->sink);
                if (run_sink_waiting(s->sink) > RUN_SINK_HIGH) {
                    return false;
                }
            }
            if (s->fd >= 0 && (!read_stream(out, s) || ++s->drained > RUN_DRAIN_READS) &&
                s->fd >= 0) {
                end_stream(out, s);
            }
        }
    }
    flush(out, &out->sinks[0]);
    flush(out, &out->sinks[1]);
    return run_sink_waiting(&out->sinks[0]) == 0 && run_sink_waiting(&out->sinks[1]) == 0;
}

// ---- Beginning and end --------------------------------------------------------------------------

static bool same_file(int a, int b) {
    struct stat x, y;
    return fstat(a, &x) == 0 && fstat(b, &y) == 0 && x.st_dev == y.st_dev && x.st_ino == y.st_ino &&
           x.st_rdev == y.st_rdev;
}

rondo_status run_output_open(const struct run_options *o, int n, int epfd,
                             struct run_output **result) {
    struct run_output *out = calloc(1, sizeof *out);
    struct stream *streams = calloc(2 * (size_t)n, sizeof *streams);
    if (out == NULL || streams == NULL) {
        free(out);
        free(streams);
        return rdi_fail(RONDO_ERR_NOMEM, "no memory for the output of %d ranks", n);
    }
    out->o = o;
    out->epfd = epfd;
    out->n = n;
    out->streams = streams;
    for (int i = 0; i < 2 * n; i++) {
        streams[i].fd = -1;
    }
    run_sink_open(&out->sinks[0], epfd, 0, STDOUT_FILENO);
    run_sink_open(&out->sinks[1], epfd, 1, STDERR_FILENO);
    // One queue, so that what came first is seen first.
    out->err = same_file(STDOUT_FILENO, STDERR_FILENO) ? &out->sinks[0] : &out->sinks[1];

    rondo_status s = o->log_dir != NULL ? run_make_directory("log-dir", o->log_dir) : RONDO_OK;
    if (s != RONDO_OK) {
        run_output_close(out);
        return s;
    }
    *result = out;
    return RONDO_OK;
}

void run_output_close(struct run_output *out) {
    if (out == NULL) {
        return;
    }
    for (int i = 0; i < 2 * out->n; i++) {
        struct stream *s = &out->streams[i];
        if (s->fd >= 0) {
            close(s->fd);
        }
        free(s->part);
        free(s->prefix);
    }
    run_sink_close(&out->sinks[0]);
    run_sink_close(&out->sinks[1]);
    free(out->streams);
    free(out);
}

static char *make_prefix(const struct run_options *o, const struct run_sink *k, int local_rank,
                         int rank, int node) {
    char text[RUN_PREFIX_MAX], host[RDI_HOST_MAX] = "?";
    // Red is left to errors.
    static const char colours[] = "234516";
    bool coloured = k->terminal && getenv("NO_COLOR") == NULL;
    const char *format = o->prefix_format != NULL ? o->prefix_format : "[%r] ";
    size_t len = 0;
    if (o->no_prefix) {
        return strdup("");
    }
    if (coloured) {
        len = (size_t)snprintf(text, sizeof text, "\033[3%cm", colours[rank % 6]);
    }
    for (const char *c = format; *c != '\0' && len < sizeof text - 80; c++) {
        int add;
        if (*c != '%') {
            add = snprintf(text + len, sizeof text - len, "%c", *c);
        } else if (*++c == 'h') {
            gethostname(host, sizeof host - 1);
            add = snprintf(text + len, sizeof text - len, "%s", host);
        } else if (*c == '%') {
            add = snprintf(text + len, sizeof text - len, "%%");
        } else {
            int value = *c == 'r' ? rank : *c == 'l' ? local_rank : node;
            add = snprintf(text + len, sizeof text - len, "%d", value);
        }
        len += (size_t)add;
    }
    snprintf(text + len, sizeof text - len, "%s", coloured ? "\033[0m" : "");
    return strdup(text);
}

static rondo_status open_log(const struct run_options *o, int rank, const char *kind, bool again,
                             int *fd) {
    char path[4096];
    snprintf(path, sizeof path, "%s/rank-%d.%s", o->log_dir, rank, kind);
    int fresh = again ? 0 : O_TRUNC;
    *fd = open(path, O_WRONLY | O_CREAT | fresh | O_APPEND | O_CLOEXEC, 0666);
    return *fd >= 0 ? RONDO_OK
                    : rdi_fail_errno(RONDO_ERR_SYSTEM, errno, "--log-dir: cannot write %s", path);
}

static rondo_status open_pipe(struct run_output *out, struct stream *s, struct run_sink *k,
                              int *fd) {
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) != 0) {
        return rdi_fail_errno(RONDO_ERR_SYSTEM, errno,
                              "cannot open a pipe for a rank's output; see 'ulimit -n'");
    }
    fcntl(ends[0], F_SETFL, O_NONBLOCK);
    s->fd = ends[0];
    s->sink = k;
    watch(out, s, true);
    *fd = ends[1];
    return RONDO_OK;
}

// Nobody writes to these pipes any more but what has left the rank's session, which may do so for ever.
static void end_predecessor(struct run_output *out, struct stream *s) {
    for (int i = 0; s->fd >= 0 && i < RUN_DRAIN_READS && read_stream(out, s); i++) {}
    if (s->fd >= 0) {
        end_stream(out, s);
    }
    free(s->prefix);
    s->prefix = NULL;
}

rondo_status run_output_rank(struct run_output *out, int local_rank, int rank, int node, bool again,
                             struct run_rank_io *io) {
    const struct run_options *o = out->o;
    rondo_status status;
    io->out = io->err = -1;
    if (o->log_dir != NULL) {
        status = open_log(o, rank, "out", again, &io->out);
        return status == RONDO_OK ? open_log(o, rank, "err", again, &io->err) : status;
    }
    if (out->n == 1 && o->prefix_format == NULL) {
        // Nothing to keep apart: the rank writes to our output itself, be it a terminal or what
        // else.
        io->out = fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 3);
        io->err = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 3);
        return io->out >= 0 && io->err >= 0
                   ? RONDO_OK
                   : rdi_fail_errno(RONDO_ERR_SYSTEM, errno, "cannot copy a descriptor");
    }
    struct stream *s = &out->streams[2 * (size_t)local_rank];
    if (again) {
        end_predecessor(out, &s[0]);
        end_predecessor(out, &s[1]);
    }
    s[0].local_rank = s[1].local_rank = local_rank;
    s[0].prefix = make_prefix(o, &out->sinks[0], local_rank, rank, node);
    s[1].prefix = make_prefix(o, out->err, local_rank, rank, node);
    if (s[0].prefix == NULL || s[1].prefix == NULL) {
        return rdi_fail(RONDO_ERR_NOMEM, "no memory for the output of rank %d", rank);
    }
    s[0].prefix_len = strlen(s[0].prefix);
    s[1].prefix_len = strlen(s[1].prefix);
    status = open_pipe(out, &s[0], &out->sinks[0], &io->out);
    return status == RONDO_OK ? open_pipe(out, &s[1], out->err, &io->err) : status;
}
