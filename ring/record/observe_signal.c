// SPDX-License-Identifier: MIT
// SIGUSR1. A library must not take a signal from its program: it is taken only when a dump is asked for by an
// option, and only while the program lets it do what it does by default, which would be to die of it.
#include "ring/record/observe.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

static _Atomic int wake = -1, seen, owner;

static void on_signal(int number) {
    (void)number;
    int saved = errno, fd = atomic_load(&wake);
    uint64_t one = 1;
    // Not in a forked child, whose descriptor is the parent's.
    if (fd >= 0 && atomic_load(&owner) == (int)getpid()) {
        atomic_store(&seen, 1);
        ssize_t n = write(fd, &one, sizeof one);
        (void)n; // full: it is awake
    }
    errno = saved;
}

void rdi_observe_signal_take(int fd) {
    struct sigaction now, ours;
    atomic_store(&owner, (int)getpid());
    atomic_store(&wake, fd);
    memset(&ours, 0, sizeof ours);
    ours.sa_handler = on_signal;
    ours.sa_flags = SA_RESTART;
    sigemptyset(&ours.sa_mask);
    if (sigaction(SIGUSR1, NULL, &now) == 0 && !(now.sa_flags & SA_SIGINFO) &&
        now.sa_handler == SIG_DFL) {
        sigaction(SIGUSR1, &ours, NULL);
    }
}

void rdi_observe_signal_give(void) {
    struct sigaction now;
    if (sigaction(SIGUSR1, NULL, &now) == 0 && !(now.sa_flags & SA_SIGINFO) &&
        now.sa_handler == on_signal) {
        now.sa_handler = SIG_DFL;
        sigaction(SIGUSR1, &now, NULL);
    }
    atomic_store(&wake, -1);
}

bool rdi_observe_signalled(void) { return atomic_exchange(&seen, 0) != 0; }
