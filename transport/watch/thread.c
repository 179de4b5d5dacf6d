// SPDX-License-Identifier: MIT
// The watch in a process: its thread, and what the kernel tells of processes of this host.
//
// A pidfd becomes readable when the process ends, even if a child that it forked still holds its sockets open.
#include "transport/watch/core.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define WAKE UINT64_MAX
#define NET (UINT64_MAX - 1)
#define EVENTS 16

struct rdi_w_thread {
    struct rdi_watch *watch;
    pthread_t thread;
    int epfd, wake;
    _Atomic int stop;
    int *pidfd;    // by rank; -1
    int *pid;      // that it stands for
    uint64_t seen; // news at which they were looked over
};

// ---- Processes of this host ----------------------------------------------------------------------

uint64_t rdi_w_pid_space(void) {
    struct stat st;
    return stat("/proc/self/ns/pid", &st) == 0 ? (uint64_t)st.st_ino : 0;
}

int rdi_w_pid(void) { return (int)getpid(); }

static bool on_this_host(const struct rdi_watch *w, int rank) {
    const struct rdi_watch_peer *p = &w->ranks[rank].peer;
    return p->pid_space != 0 && p->pid_space == w->self.pid_space && p->pid > 0 &&
           memcmp(p->host_id, w->self.host_id, sizeof p->host_id) == 0;
}

// The state letter of /proc/PID/stat, which follows the last parenthesis; '\0' if it cannot be read.
static char process_state(int pid) {
    char path[32], text[512];
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    FILE *f = fopen(path, "re");
    if (!f) {
        return '\0';
    }
    size_t n = fread(text, 1, sizeof text - 1, f);
    fclose(f);
    text[n] = '\0';
    const char *end = strrchr(text, ')');
    return end && end[1] == ' ' ? end[2] : '\0';
}

void rdi_w_stopped_text(const struct rdi_watch *w, int rank, char *buf, size_t cap) {
    char state = w->thread && on_this_host(w, rank) ? process_state(w->ranks[rank].peer.pid) : '\0';
    if (state == 'T' || state == 't') {
        snprintf(buf, cap, "is stopped (%s)",
                 state == 'T' ? "SIGSTOP, state T" : "by a debugger, state t");
    } else if (state) {
        snprintf(buf, cap, "does not run (its process is in state %c)", state);
    } else {
        snprintf(buf, cap, "is stopped: its host answers, its process does not");
    }
}

static void drop_pidfd(struct rdi_w_thread *t, int rank) {
    if (t->pidfd[rank] >= 0) {
        close(t->pidfd[rank]);
        t->pidfd[rank] = -1;
    }
}

// With the lock: watches the processes of this host that live now.
static void watch_processes(struct rdi_w_thread *t) {
    struct rdi_watch *w = t->watch;
    for (int i = 0; i < w->size; i++) {
        int pid = w->ranks[i].peer.pid;
        bool want = i != w->rank && rdi_w_live(w, i) && on_this_host(w, i) && pid != w->self.pid;
        if (t->pidfd[i] >= 0 && (!want || t->pid[i] != pid)) {
            drop_pidfd(t, i);
        }
        if (!want || t->pidfd[i] >= 0 || t->pid[i] == pid) {
            continue; // one attempt a process
        }
        t->pid[i] = pid;
        t->pidfd[i] = (int)syscall(SYS_pidfd_open, pid, 0);
        struct epoll_event ev = {.events = EPOLLIN, .data.u64 = (uint64_t)i};
        if (t->pidfd[i] >= 0 && epoll_ctl(t->epfd, EPOLL_CTL_ADD, t->pidfd[i], &ev) != 0) {
            drop_pidfd(t, i);
        } else if (t->pidfd[i] < 0 && errno == ESRCH) {
            rdi_w_evidence(w, i, RDI_CAUSE_DEAD, "ended: there is no such process any more");
        }
    }
}

static void process_ended(struct rdi_w_thread *t, int rank) {
    struct rdi_watch *w = t->watch;
    pthread_mutex_lock(&w->lock);
    drop_pidfd(t, rank);
    // It may have said good-bye just before: that is read first.
    (void)w->net->ops->progress(w->net, false);
    (void)rdi_w_links_progress(w, rdi_w_now(w));
    rdi_w_evidence(w, rank, RDI_CAUSE_DEAD, "ended: its process is gone");
    pthread_mutex_unlock(&w->lock);
}

// ---- The thread ----------------------------------------------------------------------------------

// When to wake up, or 0: there is something to do now.
static uint64_t prepare(struct rdi_w_thread *t) {
    struct rdi_watch *w = t->watch;
    uint64_t at = rdi_watch_next(w), now = rdi_w_now(w);
    pthread_mutex_lock(&w->lock);
    if (t->seen != atomic_load(&w->news)) {
        t->seen = atomic_load(&w->news);
        watch_processes(t);
    }
    uint64_t timeout = at > now ? at - now : 0;
    if (w->closing || w->net->ops->arm(w->net, &timeout) != RONDO_OK) {
        timeout = 0;
    }
    pthread_mutex_unlock(&w->lock);
    return timeout ? now + timeout : 0;
}

static void sleep_until(struct rdi_w_thread *t, uint64_t until) {
    struct rdi_watch *w = t->watch;
    struct epoll_event ev[EVENTS];
    uint64_t now = rdi_w_now(w), ns = until > now ? until - now : 0;
    int n = epoll_wait(t->epfd, ev, EVENTS, (int)((ns + 999999) / 1000000));
    for (int i = 0; i < n; i++) {
        if (ev[i].data.u64 == WAKE) {
            uint64_t count;
            ssize_t got = read(t->wake, &count, sizeof count);
            (void)got;
        } else if (ev[i].data.u64 != NET) {
            process_ended(t, (int)ev[i].data.u64);
        }
    }
}

static void *thread_main(void *arg) {
    struct rdi_w_thread *t = arg;
    struct rdi_watch *w = t->watch;
    while (!atomic_load(&t->stop)) {
        int moved = rdi_watch_progress(w);
        uint64_t until = moved ? 0 : prepare(t);
        if (until) {
            sleep_until(t, until);
            pthread_mutex_lock(&w->lock);
            w->net->ops->disarm(w->net);
            pthread_mutex_unlock(&w->lock);
        }
    }
    return NULL;
}

void rdi_w_thread_wake(struct rdi_watch *w) {
    uint64_t one = 1;
    if (w->thread) {
        ssize_t n = write(w->thread->wake, &one, sizeof one);
        (void)n;
    }
}

void rdi_w_thread_pause(void) {
    const struct timespec t = {.tv_nsec = 1000000};
    nanosleep(&t, NULL);
}

static void thread_free(struct rdi_w_thread *t) {
    for (int i = 0; t->pidfd && i < t->watch->size; i++) {
        drop_pidfd(t, i);
    }
    if (t->epfd >= 0) {
        close(t->epfd);
    }
    if (t->wake >= 0) {
        close(t->wake);
    }
    free(t->pidfd);
    free(t->pid);
    free(t);
}

rondo_status rdi_w_thread_start(struct rdi_watch *w) {
    struct rdi_w_thread *t = calloc(1, sizeof *t);
    if (!t) {
        return rdi_fail(RONDO_ERR_NOMEM, "out of memory for the watch's thread");
    }
    *t = (struct rdi_w_thread){.watch = w, .epfd = -1, .wake = -1, .seen = UINT64_MAX};
    t->pidfd = malloc((size_t)w->size * sizeof *t->pidfd);
    t->pid = calloc((size_t)w->size, sizeof *t->pid);
    for (int i = 0; t->pidfd && i < w->size; i++) {
        t->pidfd[i] = -1;
    }
    t->epfd = epoll_create1(EPOLL_CLOEXEC);
    t->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    struct epoll_event wake = {.events = EPOLLIN, .data.u64 = WAKE};
    struct epoll_event net = {.events = EPOLLIN, .data.u64 = NET};
    int err = t->pidfd && t->pid ? 0 : ENOMEM;
    if (!err &&
        (t->epfd < 0 || t->wake < 0 || epoll_ctl(t->epfd, EPOLL_CTL_ADD, t->wake, &wake) != 0 ||
         epoll_ctl(t->epfd, EPOLL_CTL_ADD, w->net->ops->fd(w->net), &net) != 0)) {
        err = errno;
    }
    if (!err) {
        w->thread = t;
        err = pthread_create(&t->thread, NULL, thread_main, t);
    }
    if (err) {
        w->thread = NULL;
        thread_free(t);
        return rdi_fail_errno(RONDO_ERR_SYSTEM, err, "cannot start the watch's thread");
    }
    return RONDO_OK;
}

void rdi_w_thread_stop(struct rdi_watch *w) {
    struct rdi_w_thread *t = w->thread;
    if (t) {
        atomic_store(&t->stop, 1);
        rdi_w_thread_wake(w);
        pthread_join(t->thread, NULL);
        w->thread = NULL;
        thread_free(t);
    }
}
