// SPDX-License-Identifier: MIT
// What a rank tells: how it failed, and what it holds of the system.
#include "tests/fault/rank.h"

#include <dirent.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#ifdef __SANITIZE_THREAD__
#define OWN_THREADS 2
#else
#define OWN_THREADS 1
#endif

void log_line(void *arg, rondo_log_level level, const char *text) {
    struct line l;
    (void)arg;
    line_begin(&l, "log", 0);
    line_int(&l, "level", (int)level);
    line_text(&l, "text", text);
    line_end(&l);
}

void say_ready(const struct job *j, const char *event, uint64_t t) {
    struct line l;
    line_begin(&l, event, t);
    line_int(&l, "generation", j->generation);
    line_ints(&l, "members", j->members, j->n);
    line_end(&l);
}

static int in_job(const struct job *j, int rank) {
    return rank >= 0 && rank < j->n ? j->members[rank] : -1;
}

void say_failed(const struct job *j, rondo_status s, const char *call, uint64_t t, uint64_t steps) {
    struct line l;
    char text[3000];
    snprintf(text, sizeof text, "%s", rondo_last_error());
    line_begin(&l, "failed", t);
    line_int(&l, "generation", j->generation);
    line_text(&l, "call", call);
    line_text(&l, "status", rondo_status_name(s));
    line_int(&l, "steps", (int64_t)steps);
    rondo_failure f = {.size = sizeof f};
    if (j->comm && rondo_comm_failure(j->comm, &f) == RONDO_OK && f.status != RONDO_OK) {
        int failed[MAX_RANKS], n = 0;
        for (; n < f.nfailed && n < MAX_RANKS; n++) {
            failed[n] = in_job(j, f.failed[n]);
        }
        line_text(&l, "comm_status", rondo_status_name(f.status));
        line_int(&l, "epoch", (int64_t)f.epoch);
        line_int(&l, "culprit", in_job(j, f.culprit));
        line_ints(&l, "failed", failed, n);
        line_text(&l, "host", f.host);
        line_text(&l, "cause", f.cause);
        line_text(&l, "stage", f.stage);
        line_int(&l, "operation", (int64_t)f.operation);
        line_text(&l, "wait", f.wait);
        line_int(&l, "waiting_for", in_job(j, f.waiting_for));
    }
    line_text(&l, "text", text);
    line_end(&l);
}

static int count(const char *folder) {
    DIR *d = opendir(folder);
    int n = 0;
    for (struct dirent *e; d && (e = readdir(d)) != NULL;) {
        n += e->d_name[0] != '.';
    }
    if (d) {
        closedir(d);
    }
    return n;
}

// Names what is open, so that a leak is found at once. The kernel still lists a thread for a moment when
// pthread_join() has returned.
void say_open(const char *event) {
    struct line l;
    char path[64], target[256];
    int fds = count("/proc/self/fd"), threads = count("/proc/self/task");
    for (int i = 0; i < 50 && threads > OWN_THREADS; i++) {
        usleep(10000);
        threads = count("/proc/self/task");
    }
    line_begin(&l, event, 0);
    line_int(&l, "fds", fds);
    // ThreadSanitizer starts one of its own when a program starts its first.
    line_int(&l, "threads", threads > OWN_THREADS ? threads : 1);
    for (int fd = 3; fd < 1024; fd++) {
        snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
        ssize_t n = readlink(path, target, sizeof target - 1);
        if (n > 0) {
            target[n] = '\0';
            snprintf(path, sizeof path, "fd%d", fd);
            line_text(&l, path, target);
        }
    }
    line_end(&l);
}

void listen_to(struct job *j, int ms) {
    struct pollfd p = {.fd = STDIN_FILENO, .events = POLLIN};
    char words[64];
    if (poll(&p, 1, ms) <= 0) {
        return;
    }
    ssize_t n = read(STDIN_FILENO, words, sizeof words);
    for (ssize_t i = 0; i < n; i++) {
        j->stop |= words[i] == 's';
        j->go |= words[i] == 'g';
    }
    if (n <= 0) {
        j->stop = j->go = true; // nobody is there any more
    }
}

void wrong(struct job *j, const char *fmt, ...) {
    struct line l;
    char text[400];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    j->is_wrong = true;
    line_begin(&l, "wrong", 0);
    line_text(&l, "text", text);
    line_end(&l);
}
