// SPDX-License-Identifier: MIT
// Should rondo-run be killed in a way that it cannot react to, its guard ends what it leaves
// behind.
#include "ddp/run/run.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define GUARD_ROUNDS 100 // a process that forks faster than this is not caught

static void kill_member(void *arg, struct rdi_member m) {
    ++*(int *)arg;
    syscall(SYS_pidfd_send_signal, m.pidfd, SIGKILL, NULL, 0);
    close(m.pidfd);
}

_Noreturn static void guard(int pipe, const pid_t *leaders, int n) {
    char byte;
    sigset_t all;
    prctl(PR_SET_NAME, "rondo-guard");
    // In no terminal's process group, and deaf: what is meant for the job must not end its guard.
    setsid();
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, NULL);
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    for (int fd = 0; fd < 3 && null >= 0; fd++) {
        dup2(null, fd);
    }
    while (read(pipe, &byte, 1) < 0 && errno == EINTR) {}
    int found = 1;
    for (int round = 0; found > 0 && round < GUARD_ROUNDS; round++) {
        found = 0;
        rdi_sessions_scan(leaders, (size_t)n, kill_member, &found);
    }
    _exit(0);
}

rondo_status run_guard_open(struct run_guard *g, int n) {
    int ends[2];
    size_t bytes = (size_t)n * sizeof *g->leaders;
    *g = (struct run_guard){.pipe = -1, .n = n};
    g->leaders = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (g->leaders == MAP_FAILED) {
        g->leaders = NULL;
        return rdi_fail_errno(RONDO_ERR_NOMEM, errno, "no memory for the guard process");
    }
    if (pipe2(ends, O_CLOEXEC) != 0) {
        rondo_status s = rdi_fail_errno(RONDO_ERR_SYSTEM, errno, "cannot open a pipe");
        run_guard_close(g);
        return s;
    }
    g->pid = fork();
    if (g->pid == 0) {
        close(ends[1]);
        guard(ends[0], g->leaders, n);
    }
    close(ends[0]);
    g->pipe = ends[1];
    if (g->pid < 0) {
        rondo_status s = rdi_fail_errno(RONDO_ERR_SYSTEM, errno, "cannot start the guard process");
        g->pid = 0;
        run_guard_close(g);
        return s;
    }
    return RONDO_OK;
}

void run_guard_add(struct run_guard *g, int local_rank, pid_t pid) {
    __atomic_store_n(&g->leaders[local_rank], pid, __ATOMIC_RELEASE);
}

void run_guard_close(struct run_guard *g) {
    if (g->pid > 0) {
        kill(g->pid, SIGKILL);
        while (waitpid(g->pid, NULL, 0) < 0 && errno == EINTR) {}
        g->pid = 0;
    }
    if (g->pipe >= 0) {
        close(g->pipe);
        g->pipe = -1;
    }
    if (g->leaders != NULL) {
        munmap(g->leaders, (size_t)g->n * sizeof *g->leaders);
        g->leaders = NULL;
    }
}
