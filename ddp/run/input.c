// SPDX-License-Identifier: MIT
// Standard input for rank 0. Nothing is read ahead of what rank 0 takes, except one buffer.
#include "ddp/run/run.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/epoll.h>
#include <unistd.h>

static void watch(struct run_input *in, int op, int fd, uint32_t events) {
    struct epoll_event e = {.events = events, .data.u64 = run_ev_pack(RUN_EV_INPUT, 0)};
    epoll_ctl(in->epfd, op, fd, &e);
}

rondo_status run_input_open(struct run_input *in, int epfd, int *child_fd) {
    int ends[2];
    *in = (struct run_input){.epfd = epfd, .from = -1, .to = -1};
    if (!isatty(STDIN_FILENO)) {
        *child_fd = fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 3);
        return *child_fd >= 0
                   ? RONDO_OK
                   : rdi_fail_errno(RONDO_ERR_SYSTEM, errno, "--stdin: cannot copy the descriptor");
    }
    if (pipe2(ends, O_CLOEXEC) != 0) {
        return rdi_fail_errno(RONDO_ERR_SYSTEM, errno, "--stdin: cannot open a pipe");
    }
    fcntl(ends[1], F_SETFL, O_NONBLOCK);
    in->from = STDIN_FILENO;
    in->to = ends[1];
    *child_fd = ends[0];
    watch(in, EPOLL_CTL_ADD, in->from, EPOLLIN);
    return RONDO_OK;
}

void run_input_close(struct run_input *in) {
    if (in->to >= 0) {
        watch(in, EPOLL_CTL_DEL, in->from, 0);
        // Closing the only copy takes it out of epoll.
        close(in->to);
        in->to = in->from = -1;
    }
}

// Terminal and pipe are never watched at the same time: either the buffer is empty, or the pipe is
// full.
void run_input_event(struct run_input *in) {
    if (in->to < 0) {
        return;
    }
    bool was_full = in->off < in->len;
    if (!was_full) {
        ssize_t n = read(in->from, in->buf, sizeof in->buf);
        if (n < 0 && (errno == EINTR || errno == EAGAIN)) {
            return;
        }
        if (n <= 0) {
            run_input_close(in);
            return;
        }
        in->off = 0;
        in->len = (size_t)n;
    }
    while (in->off < in->len) {
        ssize_t n = write(in->to, in->buf + in->off, in->len - in->off);
        if (n < 0 && errno == EAGAIN) {
            if (!was_full) {
                watch(in, EPOLL_CTL_DEL, in->from, 0);
                watch(in, EPOLL_CTL_ADD, in->to, EPOLLOUT);
            }
            return;
        }
        if (n < 0 && errno != EINTR) {
            run_input_close(in);
            return;
        }
        in->off += n > 0 ? (size_t)n : 0;
    }
    if (was_full) {
        watch(in, EPOLL_CTL_DEL, in->to, 0);
        watch(in, EPOLL_CTL_ADD, in->from, EPOLLIN);
    }
}
