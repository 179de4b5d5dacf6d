// SPDX-License-Identifier: MIT
// See sink.h.
#include "ddp/run/sink.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/stat.h>
#include <unistd.h>

#define LIVE_MAX 4096 // bytes, what sets colours included

void run_sink_open(struct run_sink *k, int epfd, uint32_t index, int fd) {
    struct stat st;
    const char *term = getenv("TERM");
    *k = (struct run_sink){.epfd = epfd, .index = index, .fd = fd, .piece = PIPE_BUF};
    if (fstat(fd, &st) == 0 && (S_ISREG(st.st_mode) || S_ISBLK(st.st_mode))) {
        k->piece = 1 << 20;
    }
    k->terminal = isatty(fd) && term != NULL && strcmp(term, "dumb") != 0;
}

void run_sink_close(struct run_sink *k) {
    if (k->armed) {
        epoll_ctl(k->epfd, EPOLL_CTL_DEL, k->fd, NULL);
    }
    free(k->buf);
    k->buf = NULL;
    k->broken = true;
}

static void arm(struct run_sink *k, bool on) {
    if (on == k->armed) {
        return;
    }
    struct epoll_event e = {.events = EPOLLOUT, .data.u64 = run_ev_pack(RUN_EV_SINK, k->index)};
    k->armed = epoll_ctl(k->epfd, on ? EPOLL_CTL_ADD : EPOLL_CTL_DEL, k->fd, &e) == 0 && on;
}

static void give_up(struct run_sink *k) {
    arm(k, false);
    k->broken = true;
    k->off = k->len = 0;
}

void run_sink_put(struct run_sink *k, const char *bytes, size_t n) {
    if (k->broken || n == 0) {
        return;
    }
    if (k->len + n > k->cap && k->off > 0) {
        memmove(k->buf, k->buf + k->off, k->len - k->off);
        k->len -= k->off;
        k->off = 0;
    }
    if (k->len + n > k->cap) {
        size_t cap = (k->len + n) * 2;
        char *more = realloc(k->buf, cap);
        if (more == NULL) {
            give_up(k);
            return;
        }
        k->buf = more;
        k->cap = cap;
    }
    memcpy(k->buf + k->len, bytes, n);
    k->len += n;
}

// Return to the first column, erase to the end of the line.
void run_sink_hide_live(struct run_sink *k) {
    if (k->live) {
        run_sink_put(k, "\r\033[K", 4);
        k->live = false;
    }
}

void run_sink_show_live(struct run_sink *k, const char *prefix, size_t prefix_len, const char *text,
                        size_t len) {
    run_sink_hide_live(k);
    // Without automatic wrapping, the terminal itself cuts the text at its right edge, so that
    // erasing one line erases all of it.
    run_sink_put(k, "\033[?7l", 5);
    run_sink_put(k, prefix, prefix_len);
    // No terminal is so wide; and a line that never ends would be written again in full for each byte more.
    run_sink_put(k, text, len < LIVE_MAX ? len : LIVE_MAX);
    run_sink_put(k, "\033[?7h", 5);
    k->live = true;
}

void run_sink_flush(struct run_sink *k) {
    while (!k->broken && k->off < k->len) {
        struct pollfd p = {.fd = k->fd, .events = POLLOUT};
        int ready = poll(&p, 1, 0);
        if (ready == 0) {
            arm(k, true);
            return;
        }
        size_t n = k->len - k->off;
        ssize_t done = write(k->fd, k->buf + k->off, n < k->piece ? n : k->piece);
        if (done < 0 && (errno == EAGAIN || errno == EINTR)) {
            continue;
        }
        if (done < 0) {
            give_up(k);
            return;
        }
        k->off += (size_t)done;
    }
    k->off = k->len = 0;
    arm(k, false);
}
