// SPDX-License-Identifier: MIT
// Single processes for the launcher: how one ended, in words, and which processes belong to a rank.
#include "ddp/launch.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

// ---- How it ended -------------------------------------------------------------------------------

void rdi_exit_describe(const struct rdi_exit *e, char *buf, size_t cap) {
    char how[96];
    if (e->signal > 0) {
        const char *name = sigabbrev_np(e->signal);
        snprintf(how, sizeof how, "killed by signal %d (%s%s)%s", e->signal,
                 name != NULL ? "SIG" : "no name", name != NULL ? name : "",
                 e->core ? ", core dumped" : "");
    } else if (e->signal < 0) {
        snprintf(how, sizeof how, "its exit status was taken by another wait() in this process");
    } else {
        snprintf(how, sizeof how, "exit code %d", e->code);
    }
    snprintf(buf, cap, "rank %d (pid %d, local rank %d) failed: %s", e->rank, (int)e->pid,
             e->local_rank, how);
}

int rdi_exit_code(const struct rdi_exit *e) {
    if (e->signal > 0) {
        return 128 + e->signal;
    }
    return e->signal < 0 ? 255 : e->code;
}

// ---- Members of a session -----------------------------------------------------------------------

bool rdi_proc_stat_parse(const char *text, struct rdi_proc_stat *out) {
    // "pid (name) state ppid pgrp session …"; the name may hold anything, also ") R 1 1 1".
    const char *name_end = strrchr(text, ')');
    char state;
    int ppid, pgrp, session;
    if (name_end == NULL ||
        sscanf(name_end + 1, " %c %d %d %d", &state, &ppid, &pgrp, &session) != 4) {
        return false;
    }
    *out = (struct rdi_proc_stat){.state = state, .pgrp = pgrp, .session = session};
    return true;
}

static bool read_stat(int proc, const char *pid, struct rdi_proc_stat *out) {
    char path[32], text[512];
    snprintf(path, sizeof path, "%.20s/stat", pid);
    int fd = openat(proc, path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return false;
    }
    ssize_t n = read(fd, text, sizeof text - 1);
    close(fd);
    if (n <= 0) {
        return false;
    }
    text[n] = '\0';
    return rdi_proc_stat_parse(text, out);
}

static bool is_member(const struct rdi_proc_stat *s, const pid_t *leaders, size_t n) {
    if (s->state == 'Z' || s->state == 'X') {
        return false;
    }
    for (size_t i = 0; i < n; i++) {
        // Session 0 is that of everybody whose leader lives outside of our pid namespace.
        if (leaders[i] > 0 && s->session == leaders[i]) {
            return true;
        }
    }
    return false;
}

void rdi_sessions_scan(const pid_t *leaders, size_t n,
                       void (*visit)(void *arg, struct rdi_member m), void *arg) {
    DIR *dir = opendir("/proc");
    if (dir == NULL) {
        return;
    }
    struct dirent *entry;
    while ((entry = readdir(dir)) != NULL) {
        char *end;
        long pid = strtol(entry->d_name, &end, 10);
        struct rdi_proc_stat s;
        if (*end != '\0' || pid <= 0 || !read_stat(dirfd(dir), entry->d_name, &s) ||
            !is_member(&s, leaders, n)) {
            continue;
        }
        int pidfd = (int)syscall(SYS_pidfd_open, (pid_t)pid, 0);
        // Between the two calls the number could have gone to a stranger; what it says now is true
        // of the process behind the descriptor, or that one has ended and a signal to it does
        // nothing.
        if (pidfd < 0 || !read_stat(dirfd(dir), entry->d_name, &s) || !is_member(&s, leaders, n)) {
            if (pidfd >= 0) {
                close(pidfd);
            }
            continue;
        }
        visit(arg, (struct rdi_member){(pid_t)pid, s.pgrp, s.session, pidfd});
    }
    closedir(dir);
}
