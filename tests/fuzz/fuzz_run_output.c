// SPDX-License-Identifier: MIT
// rondo-run's relay: what ranks print, in pieces of any size, with readers that are slow or gone. Pipes and polls are
// the target's. On a pipe or file, every line of every rank comes out whole, once, and in its order.
//
//   input[0]  bits 0-1 ranks - 1, 2 terminal, 3 one file for output and errors, 4 the reader is slow, 5 it goes
//   steps     which stream, how many bytes, the bytes
#include "ddp/run/run.h"
#include "fuzz.h"

#include <errno.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/stat.h>
#include <unistd.h>

#define RANKS 4
#define PIPE 1000 // descriptor of the first stream
#define ROOM (1u << 16)

struct text {
    char bytes[ROOM];
    size_t n;
};
static struct text said[2 * RANKS], got[2];
static const uint8_t *ready; // what a read gives now
static size_t nready;
static bool open_ends[2 * RANKS], watched[2 * RANKS];
static uint8_t how;
static unsigned pipes, polls;
enum { TERMINAL = 4, ONE_FILE = 8, SLOW = 16, GOES = 32 };

// ---- The system ----------------------------------------------------------------------------------

ssize_t __real_read(int fd, void *to, size_t n);
ssize_t __wrap_read(int fd, void *to, size_t n);
ssize_t __wrap_read(int fd, void *to, size_t n) {
    if (fd < PIPE) {
        return __real_read(fd, to, n);
    }
    MUST(fd < PIPE + 2 * RANKS && open_ends[fd - PIPE]);
    if (nready == 0) {
        errno = EAGAIN;
        return -1;
    }
    n = n < nready ? n : nready;
    memcpy(to, ready, n);
    ready += n;
    nready -= n;
    return (ssize_t)n;
}

ssize_t __real_write(int fd, const void *from, size_t n);
ssize_t __wrap_write(int fd, const void *from, size_t n);
ssize_t __wrap_write(int fd, const void *from, size_t n) {
    MUST(fd == 1 || fd == 2);
    if (how & GOES && polls > 3) {
        errno = EPIPE;
        return -1;
    }
    struct text *t = &got[fd - 1];
    n = how & SLOW && n > 5 ? 5 : n;
    if (how & TERMINAL) {
        return (
            ssize_t)n; // a line that grows is drawn again and again; nothing is said of that here
    }
    MUST(t->n + n <= ROOM);
    memcpy(t->bytes + t->n, from, n);
    t->n += n;
    return (ssize_t)n;
}

int __wrap_poll(struct pollfd *p, nfds_t n, int ms);
int __wrap_poll(struct pollfd *p, nfds_t n, int ms) {
    MUST(n == 1 && ms == 0 && (p->fd == 1 || p->fd == 2));
    polls++;
    return how & SLOW && polls % 3 == 0 ? 0 : 1;
}

int __wrap_epoll_ctl(int epfd, int op, int fd, struct epoll_event *e);
int __wrap_epoll_ctl(int epfd, int op, int fd, struct epoll_event *e) {
    MUST(epfd == 5 && e != NULL);
    if (fd >= PIPE) {
        bool on = op == EPOLL_CTL_ADD;
        MUST(open_ends[fd - PIPE] && watched[fd - PIPE] != on);
        watched[fd - PIPE] = on;
    }
    return 0;
}

int __wrap_pipe2(int ends[2], int flags);
int __wrap_pipe2(int ends[2], int flags) {
    MUST(pipes < 2 * RANKS && flags != 0);
    open_ends[pipes] = true;
    ends[0] = PIPE + (int)pipes++;
    ends[1] = 9;
    return 0;
}

int __real_close(int fd);
int __wrap_close(int fd);
int __wrap_close(int fd) {
    if (fd < PIPE) {
        return __real_close(fd);
    }
    MUST(open_ends[fd - PIPE]);
    open_ends[fd - PIPE] = false;
    return 0;
}

int __wrap_fcntl(int fd, int command, ...);
int __wrap_fcntl(int fd, int command, ...) {
    (void)command;
    MUST(fd >= PIPE);
    return 0;
}

int __wrap_isatty(int fd);
int __wrap_isatty(int fd) {
    MUST(fd == 1 || fd == 2);
    return how & TERMINAL ? 1 : 0;
}

int __wrap_fstat(int fd, struct stat *st);
int __wrap_fstat(int fd, struct stat *st) {
    *st = (struct stat){.st_mode = S_IFIFO, .st_ino = how & ONE_FILE ? 7 : (ino_t)fd};
    return 0;
}

// ---- What must come out --------------------------------------------------------------------------

// The next line of what a stream said, or of what is left.
static bool next_line(const struct text *t, size_t *at, const char **line, size_t *n) {
    if (*at >= t->n) {
        return false;
    }
    const char *from = t->bytes + *at, *end = memchr(from, '\n', t->n - *at);
    *line = from;
    *n = end != NULL ? (size_t)(end - from) : t->n - *at;
    *at += *n + 1;
    return true;
}

// Each line of `k` is the next one of the stream that its prefix names.
static void check_lines(int k, int ranks) {
    size_t at = 0, n, taken[2 * RANKS] = {0};
    const char *line;
    while (next_line(&got[k], &at, &line, &n)) {
        MUST(n >= 4 && line[0] == '[' && line[1] >= '0' && line[1] < '0' + ranks);
        MUST(line[2] == ']' && line[3] == ' ');
        bool found = false;
        for (int s = 0; s < 2 && !found; s++) {
            int i = 2 * (line[1] - '0') + s;
            size_t want, next = taken[i];
            const char *expected;
            found = (s == k || how & ONE_FILE) && next_line(&said[i], &next, &expected, &want) &&
                    want == n - 4 && memcmp(expected, line + 4, want) == 0;
            taken[i] = found ? next : taken[i];
        }
        // Of two streams into one file that say the same, either may have been meant.
        MUST(found || how & ONE_FILE);
    }
    for (int i = 0; i < 2 * ranks && !(how & ONE_FILE); i++) {
        MUST(i % 2 != k || taken[i] >= said[i].n);
    }
}

// ---- Steps ---------------------------------------------------------------------------------------

static void print(struct run_output *out, struct input *in, int ranks) {
    int i = take_byte(in) % (2 * ranks);
    size_t n;
    ready = take_bytes(in, take_byte(in), &n);
    if (!open_ends[i] || !watched[i]) { // the pipe would keep it
        return;
    }
    nready = n;
    MUST(said[i].n + n <= ROOM);
    memcpy(said[i].bytes + said[i].n, ready, n);
    said[i].n += n;
    run_output_event(out, RUN_EV_STREAM, (uint32_t)i);
    MUST(nready == 0 || !watched[i]);
    nready = 0;
}

static void reset(uint8_t first) {
    how = first;
    pipes = polls = 0;
    memset(open_ends, 0, sizeof open_ends);
    memset(watched, 0, sizeof watched);
    for (int i = 0; i < 2 * RANKS; i++) {
        said[i].n = 0;
    }
    got[0].n = got[1].n = 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct input in = {.at = data, .left = size};
    struct run_options o = {.prefix_format = "[%r] "};
    struct run_output *out = NULL;
    struct run_rank_io io;
    uint8_t first = take_byte(&in);
    int ranks = 1 + (first & 3);
    reset(first);
    MUST(run_output_open(&o, ranks, 5, &out) == RONDO_OK);
    for (int r = 0; r < ranks; r++) {
        MUST(run_output_rank(out, r, r, 0, false, &io) == RONDO_OK);
    }
    while (in.left > 0) {
        print(out, &in, ranks);
        if (how & SLOW) {
            run_output_event(out, RUN_EV_SINK, polls & 1);
        }
    }
    for (int turns = 0; !run_output_drain(out); turns++) {
        MUST(turns < 1 << 20);
    }
    for (int i = 0; i < 2 * ranks; i++) {
        MUST(!open_ends[i] && !watched[i]);
    }
    if (!(how & (TERMINAL | GOES))) {
        check_lines(0, ranks);
        check_lines(1, ranks);
    }
    run_output_close(out);
    return 0;
}
