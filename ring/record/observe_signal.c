// SPDX-License-Identifier: MIT
// What wakes the observer from where no lock may be taken: a signal, and the watch's thread.
//
// SIGUSR1. A library must not take a signal from its program: it is taken only when a dump is asked for by an
// option, and only while the program lets it do what it does by default, which would be to die of it.
#include "ring/record/observe.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

static _Atomic int wake = -1, inside, owner, signalled, news;

// `inside` keeps the descriptor from being closed, and its number from becoming another file's, in between.
static void poke(_Atomic int *what) {
    int saved = errno;
    uint64_t one = 1;
    atomic_fetch_add(&inside, 1);
    int fd = atomic_load(&wake);
    // Not in a forked child, whose descriptor is the parent's.
    if (fd >= 0 && atomic_load(&owner) == (int)getpid()) {
        atomic_store(what, 1);
        ssize_t n = write(fd, &one, sizeof one);
        (void)n; // full: it is awake
    }
    atomic_fetch_sub(&inside, 1);
    errno = saved;
}

static void on_signal(int number) {
    (void)number;
    poke(&signalled);
}

void rdi_observe_news(void) { poke(&news); }

void rdi_observe_wake_by(int fd) {
    atomic_store(&owner, (int)getpid());
    atomic_store(&wake, fd);
}

void rdi_observe_signal_take(void) {
    struct sigaction now, ours;
    memset(&ours, 0, sizeof ours);
    ours.sa_handler = on_signal;
    ours.sa_flags = SA_RESTART;
    sigemptyset(&ours.sa_mask);
    if (sigaction(SIGUSR1, NULL, &now) == 0 && !(now.sa_flags & SA_SIGINFO) &&
        now.sa_handler == SIG_DFL) {
        sigaction(SIGUSR1, &ours, NULL);
    }
}

void rdi_observe_wake_off(void) {
    struct sigaction now;
    if (sigaction(SIGUSR1, NULL, &now) == 0 && !(now.sa_flags & SA_SIGINFO) &&
        now.sa_handler == on_signal) {
        now.sa_handler = SIG_DFL;
        sigaction(SIGUSR1, &now, NULL);
    }
    atomic_store(&wake, -1);
    while (atomic_load(&inside)) {
        sched_yield();
    }
}

bool rdi_observe_signalled(void) { return atomic_exchange(&signalled, 0) != 0; }

bool rdi_observe_has_news(void) { return atomic_exchange(&news, 0) != 0; }
