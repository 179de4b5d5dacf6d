// SPDX-License-Identifier: MIT
// The ranks of one host: forks them, notes which one failed first, and ends the others (see
// launch.h).
//
// A rank that ended stays a zombie until rdi_group_close(): as long as it does, neither its process
// id nor the session of that number can become somebody else's, so every signal here reaches whom
// it is meant for.
#include "ddp/launch.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

rondo_status rdi_group_open(struct rdi_group *g, int n, int first_rank) {
    *g = (struct rdi_group){.n = n,
                            .first_rank = first_rank,
                            .epfd = -1,
                            .deadline = UINT64_MAX,
                            .grace = RDI_GRACE_NS};
    g->pids = calloc((size_t)n, sizeof *g->pids);
    g->pidfds = calloc((size_t)n, sizeof *g->pidfds);
    g->fallen = calloc((size_t)n, sizeof *g->fallen);
    if (g->pids == NULL || g->pidfds == NULL || g->fallen == NULL) {
        rdi_group_close(g);
        return rdi_fail(RONDO_ERR_NOMEM, "no memory to keep track of %d ranks", n);
    }
    g->epfd = epoll_create1(EPOLL_CLOEXEC);
    if (g->epfd < 0) {
        rondo_status s = rdi_fail_errno(RONDO_ERR_SYSTEM, errno, "cannot open an epoll descriptor");
        rdi_group_close(g);
        return s;
    }
    return RONDO_OK;
}

static void close_fds(struct rdi_group *g) {
    for (int i = 0; i < g->started; i++) {
        if (g->pidfds[i] >= 0) {
            close(g->pidfds[i]);
        }
    }
    for (int i = 0; i < g->nmembers; i++) {
        if (g->members[i] >= 0) {
            close(g->members[i]);
        }
    }
    if (g->epfd >= 0) {
        close(g->epfd);
    }
}

static void free_group(struct rdi_group *g) {
    close_fds(g);
    free(g->pids);
    free(g->pidfds);
    free(g->fallen);
    free(g->members);
    *g = (struct rdi_group){.state = RDI_GROUP_DONE, .epfd = -1, .deadline = UINT64_MAX};
}

static void reap(pid_t pid, int flags) {
    while (waitid(P_PID, (id_t)pid, NULL, WEXITED | flags) != 0 && errno == EINTR) {}
}

void rdi_group_close(struct rdi_group *g) {
    // SIGKILL has no effect on what ended; what cannot be killed is left to init.
    rdi_group_signal(g, SIGKILL, true);
    for (int i = 0; i < g->started; i++) {
        reap(g->pids[i], g->state == RDI_GROUP_DONE ? WNOHANG : 0);
    }
    free_group(g);
}

// ---- Starting -----------------------------------------------------------------------------------

static void become_rank(struct rdi_group *g, struct rdi_signals *signals, pid_t parent) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) {
        _exit(128 + SIGKILL);
    }
    setsid();
    free_group(g);
    rdi_signals_close(signals);
}

static rondo_status watch(struct rdi_group *g, int pidfd, uint64_t id) {
    struct epoll_event e = {.events = EPOLLIN, .data.u64 = id};
    if (epoll_ctl(g->epfd, EPOLL_CTL_ADD, pidfd, &e) != 0) {
        return rdi_fail_errno(RONDO_ERR_SYSTEM, errno, "cannot watch a process");
    }
    return RONDO_OK;
}

static rondo_status fork_rank(struct rdi_group *g, struct rdi_signals *signals, int local_rank,
                              pid_t *pid, int *fd) {
    int rank = g->first_rank + local_rank;
    pid_t parent = getpid(), child = fork();
    if (child == 0) {
        become_rank(g, signals, parent);
        *pid = 0;
        return RONDO_OK;
    }
    if (child < 0) {
        return rdi_fail_errno(
            RONDO_ERR_SYSTEM, errno,
            "cannot start rank %d; see 'ulimit -u' and the memory and pids limits of "
            "the control group",
            rank);
    }
    int pidfd = (int)syscall(SYS_pidfd_open, child, 0);
    rondo_status s = RONDO_OK;
    if (pidfd < 0) {
        s = rdi_fail_errno(
            RONDO_ERR_SYSTEM, errno,
            "cannot watch rank %d; Linux 5.3 or newer and a free descriptor (ulimit -n) "
            "are needed",
            rank);
    } else if ((s = watch(g, pidfd, (uint64_t)local_rank)) != RONDO_OK) {
        close(pidfd);
    }
    if (s != RONDO_OK) {
        kill(child, SIGKILL);
        reap(child, 0);
        return s;
    }
    g->alive++;
    *pid = child;
    *fd = pidfd;
    return RONDO_OK;
}

rondo_status rdi_group_fork(struct rdi_group *g, struct rdi_signals *signals, pid_t *pid) {
    int fd = -1, i = g->started;
    rondo_status s = fork_rank(g, signals, i, pid, &fd);
    if (s == RONDO_OK && *pid != 0) {
        g->pids[i] = *pid;
        g->pidfds[i] = fd;
        g->started++;
    }
    return s;
}

rondo_status rdi_group_fork_again(struct rdi_group *g, struct rdi_signals *signals, int local_rank,
                                  pid_t *pid) {
    int fd = -1;
    rondo_status s = fork_rank(g, signals, local_rank, pid, &fd);
    if (s == RONDO_OK && *pid != 0) {
        // Only now may the number of the one before become somebody else's.
        reap(g->pids[local_rank], WNOHANG);
        g->pids[local_rank] = *pid;
        g->pidfds[local_rank] = fd;
        g->held--;
    }
    return s;
}

// ---- Signals ------------------------------------------------------------------------------------

void rdi_group_signal(struct rdi_group *g, int sig, bool whole_group) {
    for (int i = 0; i < g->started; i++) {
        // A process that was forked just now does not lead its group yet.
        if (!whole_group || kill(-g->pids[i], sig) != 0) {
            kill(g->pids[i], sig);
        }
    }
}

struct straggler_arg {
    struct rdi_group *g;
    int sig;
};

// Those of a rank's session that made process groups of their own.
static void signal_straggler(void *arg, struct rdi_member m) {
    const struct straggler_arg *a = arg;
    if (m.pgrp != m.session) {
        syscall(SYS_pidfd_send_signal, m.pidfd, a->sig, NULL, 0);
        if (a->sig == SIGTERM) {
            syscall(SYS_pidfd_send_signal, m.pidfd, SIGCONT, NULL, 0);
        }
    }
    close(m.pidfd);
}

static void signal_all(struct rdi_group *g, int sig) {
    rdi_group_signal(g, sig, true);
    if (sig == SIGTERM) {
        // A process that is stopped would not see it.
        rdi_group_signal(g, SIGCONT, true);
    }
    struct straggler_arg a = {g, sig};
    rdi_sessions_scan(g->pids, (size_t)g->started, signal_straggler, &a);
}

// ---- Ending -------------------------------------------------------------------------------------

static void enter_kill(struct rdi_group *g, uint64_t now) {
    g->state = RDI_GROUP_KILL;
    g->deadline = now + RDI_KILL_NS;
    signal_all(g, SIGKILL);
}

void rdi_group_end(struct rdi_group *g, uint64_t now, uint64_t grace) {
    g->ending = true;
    if (g->state == RDI_GROUP_RUNNING && grace > 0) {
        g->state = RDI_GROUP_TERM;
        g->deadline = now + grace;
        signal_all(g, SIGTERM);
    } else if (g->state <= RDI_GROUP_TERM && grace == 0) {
        enter_kill(g, now);
    }
}

// A forked child may hold a copy for a moment, so closing alone would not take it out of epoll.
static void unwatch(struct rdi_group *g, int *pidfd) {
    epoll_ctl(g->epfd, EPOLL_CTL_DEL, *pidfd, NULL);
    close(*pidfd);
    *pidfd = -1;
}

static void rank_ended(struct rdi_group *g, int i) {
    siginfo_t info = {0};
    struct rdi_exit e = {.rank = g->first_rank + i, .local_rank = i, .pid = g->pids[i]};
    if (waitid(P_PID, (id_t)g->pids[i], &info, WEXITED | WNOWAIT | WNOHANG) != 0) {
        e.signal = -1;
    } else if (info.si_pid == 0) {
        return;
    } else if (info.si_code == CLD_EXITED) {
        e.code = info.si_status & 0xff;
    } else {
        e.signal = info.si_status;
        e.core = info.si_code == CLD_DUMPED;
    }
    unwatch(g, &g->pidfds[i]);
    g->alive--;
    if (e.code == 0 && e.signal == 0) {
        g->finished++;
    } else if (g->keep && !g->ending) {
        g->fallen[g->nfallen++] = e;
        g->held++;
    } else if (!g->failed && !g->ending) {
        g->failed = true;
        g->first = e;
    }
}

static void kill_member(void *arg, struct rdi_member m) {
    (void)arg;
    syscall(SYS_pidfd_send_signal, m.pidfd, SIGKILL, NULL, 0);
    close(m.pidfd);
}

bool rdi_group_take_fallen(struct rdi_group *g, struct rdi_exit *out) {
    if (g->nfallen == 0) {
        return false;
    }
    *out = g->fallen[0];
    memmove(g->fallen, g->fallen + 1, (size_t)--g->nfallen * sizeof *g->fallen);
    pid_t leader = out->pid;
    kill(-leader, SIGKILL);
    rdi_sessions_scan(&leader, 1, kill_member, NULL);
    return true;
}

void rdi_group_let_go(struct rdi_group *g) { g->held--; }

static void member_ended(struct rdi_group *g, int i) {
    unwatch(g, &g->members[i]);
    g->watched--;
}

// Called for each process that is left when the ranks have ended.
static void watch_member(void *arg, struct rdi_member m) {
    struct rdi_group *g = arg;
    if (g->state == RDI_GROUP_KILL) {
        syscall(SYS_pidfd_send_signal, m.pidfd, SIGKILL, NULL, 0);
    }
    if (g->nmembers == g->members_cap) {
        int cap = g->members_cap > 0 ? 2 * g->members_cap : 16;
        int *more = realloc(g->members, (size_t)cap * sizeof *more);
        if (more == NULL) {
            close(m.pidfd);
            return;
        }
        g->members = more;
        g->members_cap = cap;
    }
    if (watch(g, m.pidfd, (uint64_t)g->n + (uint64_t)g->nmembers) != RONDO_OK) {
        close(m.pidfd);
        return;
    }
    g->members[g->nmembers++] = m.pidfd;
    g->watched++;
}

// All ranks have ended: is anything left that they started?
static void sweep(struct rdi_group *g, uint64_t now) {
    g->nmembers = 0;
    rdi_sessions_scan(g->pids, (size_t)g->started, watch_member, g);
    if (g->watched == 0) {
        g->state = RDI_GROUP_DONE;
        g->deadline = UINT64_MAX;
    } else if (g->state == RDI_GROUP_RUNNING) {
        rdi_group_end(g, now, g->grace);
    }
}

void rdi_group_progress(struct rdi_group *g, uint64_t now) {
    struct epoll_event events[64];
    int n;
    do {
        // epoll hands descriptors out in the order in which they became ready: of several ranks
        // that ended since the last call, the one that ended first comes first, and is the one to
        // blame.
        n = epoll_wait(g->epfd, events, 64, 0);
        for (int i = 0; i < n; i++) {
            uint64_t id = events[i].data.u64;
            if (id < (uint64_t)g->n) {
                rank_ended(g, (int)id);
            } else {
                member_ended(g, (int)(id - (uint64_t)g->n));
            }
        }
    } while (n == 64);

    if (g->failed) {
        rdi_group_end(g, now, g->grace);
    }
    bool awaited = g->held > 0 && !g->ending;
    if (g->state != RDI_GROUP_DONE && g->alive == 0 && g->watched == 0 && !awaited) {
        sweep(g, now);
    }
    if (now >= g->deadline) {
        if (g->state == RDI_GROUP_TERM) {
            enter_kill(g, now);
        } else {
            g->state = RDI_GROUP_DONE;
            g->deadline = UINT64_MAX;
        }
    }
}

int rdi_group_stuck(const struct rdi_group *g, int *local_rank) {
    for (int i = 0; i < g->started; i++) {
        if (g->pidfds[i] >= 0) {
            *local_rank = i;
            break;
        }
    }
    return g->alive;
}
