// SPDX-License-Identifier: MIT
// What the observer listens on: an abstract socket for rondo-top, and a port or a path for metrics.
//
// An abstract name lives as long as somebody has the socket open, so a killed process leaves nothing behind. It
// has no mode: whoever connects is asked for by the kernel (SO_PEERCRED), see observe_serve.c.
#include "ring/record/observe.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define BACKLOG 256

rondo_status rdi_observe_listen_view(struct rdi_observed *o, const struct rdi_env *env) {
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    uint32_t number;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    // The number keeps others from occupying the name before us.
    env->random(env->self, &number, sizeof number);
    int n = snprintf(a.sun_path + 1, sizeof a.sun_path - 1, RDI_VIEW_NAME "%s.%d.%d.%08x", o->job,
                     o->rank, o->pid, number);
    socklen_t len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)n);
    if (fd < 0 || bind(fd, (struct sockaddr *)&a, len) != 0 || listen(fd, BACKLOG) != 0) {
        int err = errno;
        if (fd >= 0) {
            close(fd);
        }
        return rdi_fail_errno(RONDO_ERR_SYSTEM, err, "cannot listen for rondo-top");
    }
    o->view = fd;
    return RONDO_OK;
}

// ---- Metrics -------------------------------------------------------------------------------------

static rondo_status bad_value(const char *where) {
    return rdi_fail(RONDO_ERR_INVALID,
                    "option metrics=%.80s is not allowed; it can be a port from 1 to 65535 or "
                    "unix:/path, in which %%r stands for the rank",
                    where);
}

static rondo_status listen_port(struct rdi_observed *o, const char *where) {
    char *end;
    errno = 0;
    long port = strtol(where, &end, 10);
    if (where[0] < '0' || where[0] > '9' || *end != '\0' || errno || port < 1 || port > 65535) {
        return bad_value(where);
    }
    port += o->local_rank;
    if (port > 65535) {
        return rdi_fail(RONDO_ERR_INVALID,
                        "option metrics=%s: rank %d would listen on port %ld, as each rank of a "
                        "host has a port of its own; begin with a lower one",
                        where, o->rank, port);
    }
    struct sockaddr_in a = {.sin_family = AF_INET,
                            .sin_port = htons((uint16_t)port),
                            .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), one = 1;
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) != 0 ||
        bind(fd, (struct sockaddr *)&a, sizeof a) != 0 || listen(fd, BACKLOG) != 0) {
        int err = errno;
        if (fd >= 0) {
            close(fd);
        }
        return rdi_fail_errno(RONDO_ERR_SYSTEM, err,
                              "option metrics=%s: rank %d cannot listen on 127.0.0.1 port %ld; "
                              "choose ports that nobody else uses",
                              where, o->rank, port);
    }
    o->metrics = fd;
    return RONDO_OK;
}

// "%r" becomes the rank. False: it does not fit.
static bool fill_in(const char *path, int rank, char *out, size_t cap, bool *has_rank) {
    size_t at = 0;
    *has_rank = false;
    for (const char *c = path; *c && at < cap; c++) {
        if (c[0] == '%' && c[1] == 'r') {
            at += (size_t)snprintf(out + at, cap - at, "%d", rank);
            *has_rank = true;
            c++;
        } else {
            out[at++] = *c;
        }
    }
    if (at >= cap) {
        return false;
    }
    out[at] = '\0';
    return true;
}

// Whether a process of this network namespace has the path: also one that does not listen yet.
static bool is_bound(const char *path) {
    char line[512];
    bool found = false;
    FILE *f = fopen("/proc/net/unix", "re");
    while (f && !found && fgets(line, sizeof line, f)) {
        const char *at = strchr(line, '/');
        found = at && strncmp(at, path, strlen(path)) == 0 && at[strlen(path)] == '\n';
    }
    if (f) {
        fclose(f);
    }
    return found;
}

// A socket that a killed process left behind: this user's, nobody answers, and nobody has it.
static bool is_stale(const struct sockaddr_un *a) {
    struct stat st;
    if (lstat(a->sun_path, &st) != 0 || !S_ISSOCK(st.st_mode) || st.st_uid != geteuid()) {
        return false;
    }
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    bool refused = fd >= 0 && connect(fd, (const struct sockaddr *)a, sizeof *a) != 0 &&
                   errno == ECONNREFUSED;
    if (fd >= 0) {
        close(fd);
    }
    return refused && !is_bound(a->sun_path);
}

static rondo_status listen_path(struct rdi_observed *o, const char *path, int local_size) {
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    bool has_rank;
    if (path[0] != '/' || !fill_in(path, o->rank, a.sun_path, sizeof a.sun_path, &has_rank)) {
        return rdi_fail(RONDO_ERR_INVALID,
                        "option metrics=unix:%.80s: the path must be absolute and shorter than %zu",
                        path, sizeof a.sun_path);
    }
    if (!has_rank && local_size > 1) {
        return rdi_fail(RONDO_ERR_INVALID,
                        "option metrics=unix:%.80s: %d ranks share this host; write %%r into the "
                        "path, it becomes the rank",
                        path, local_size);
    }
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    bool bound = fd >= 0 && bind(fd, (struct sockaddr *)&a, sizeof a) == 0;
    if (fd >= 0 && !bound && errno == EADDRINUSE && is_stale(&a) && unlink(a.sun_path) == 0) {
        bound = bind(fd, (struct sockaddr *)&a, sizeof a) == 0;
    }
    // Nobody can connect before listen(), so the mode comes in time.
    if (!bound || chmod(a.sun_path, 0600) != 0 || listen(fd, BACKLOG) != 0) {
        int err = errno;
        if (bound) {
            (void)unlink(a.sun_path);
        }
        if (fd >= 0) {
            close(fd);
        }
        return rdi_fail_errno(RONDO_ERR_SYSTEM, err, "option metrics: cannot listen on %s",
                              a.sun_path);
    }
    o->metrics = fd;
    memcpy(o->metrics_path, a.sun_path, sizeof o->metrics_path);
    return RONDO_OK;
}

rondo_status rdi_observe_listen_metrics(struct rdi_observed *o, const char *where, int local_size) {
    return strncmp(where, "unix:", 5) == 0 ? listen_path(o, where + 5, local_size)
                                           : listen_port(o, where);
}
