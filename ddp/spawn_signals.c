// SPDX-License-Identifier: MIT
// The launcher's signals as a descriptor: no handlers, so nothing of the program's own is replaced.
#include "ddp/launch.h"

#include <errno.h>
#include <sys/signalfd.h>
#include <unistd.h>

rondo_status rdi_signals_open(struct rdi_signals *s, const int *list, size_t n) {
    sigset_t set;
    sigemptyset(&set);
    for (size_t i = 0; i < n; i++) {
        struct sigaction now;
        if (sigaction(list[i], NULL, &now) == 0 &&
            ((now.sa_flags & SA_SIGINFO) != 0 || now.sa_handler != SIG_IGN)) {
            sigaddset(&set, list[i]);
        }
    }
    int fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    if (fd < 0) {
        return rdi_fail_errno(RONDO_ERR_SYSTEM, errno, "cannot open a descriptor for signals");
    }
    struct sigaction chld = {.sa_handler = SIG_DFL};
    s->fd = fd;
    s->set = set;
    sigaction(SIGCHLD, &chld, &s->saved_chld);
    pthread_sigmask(SIG_BLOCK, &set, &s->saved);
    return RONDO_OK;
}

int rdi_signals_next(struct rdi_signals *s) {
    struct signalfd_siginfo info;
    ssize_t n;
    do {
        n = read(s->fd, &info, sizeof info);
    } while (n < 0 && errno == EINTR);
    return n == (ssize_t)sizeof info ? (int)info.ssi_signo : 0;
}

void rdi_signals_close(struct rdi_signals *s) {
    if (s->fd < 0) {
        return;
    }
    close(s->fd);
    s->fd = -1;
    sigaction(SIGCHLD, &s->saved_chld, NULL);
    pthread_sigmask(SIG_SETMASK, &s->saved, NULL);
}
