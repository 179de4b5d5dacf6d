// SPDX-License-Identifier: MIT
// The parent of the checked processes. Once it has joined, the keeper has threads, and a child of a process with
// threads may find locked for ever what one of them held. So it forks this process before, which has none, and
// asks it for each check.
//
//   keeper                                  parent
//     place of this rank, key, hosts  --->    (once)
//     which check, which round        --->    cf_run_child(), which forks
//                                     <---    outcome
//     (end of file)                   --->    ends
//
// Both are one program up to the fork: pointers to checks and options hold on either side.
#include "transport/conform/conform.h"

#include <errno.h>
#include <signal.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

struct wish {
    const struct cf_check *check;
    int seq, round;
};
struct brief {
    struct cf_place place; // without what its pointers to memory of the keeper's point to
    bool has_key;
    uint8_t key[RDI_KEY_BYTES];
};

static bool send_all(int fd, const void *bytes, size_t n) {
    const char *at = bytes;
    while (n > 0) {
        ssize_t sent = send(fd, at, n, MSG_NOSIGNAL);
        if (sent < 0 && errno != EINTR) {
            return false;
        }
        at += sent > 0 ? sent : 0;
        n -= sent > 0 ? (size_t)sent : 0;
    }
    return true;
}

static bool receive_all(int fd, void *bytes, size_t n) {
    char *at = bytes;
    while (n > 0) {
        ssize_t got = recv(fd, at, n, 0);
        if (got == 0 || (got < 0 && errno != EINTR)) {
            return false;
        }
        at += got > 0 ? got : 0;
        n -= got > 0 ? (size_t)got : 0;
    }
    return true;
}

// ---- The parent ----------------------------------------------------------------------------------

static bool take_brief(int wire, struct cf_place *place) {
    struct brief b = {.has_key = false}; // the keeper may end before it says anything
    bool ok = receive_all(wire, &b, sizeof b);
    *place = b.place;
    place->job.key = NULL;
    if (ok && b.has_key) {
        ok = rdi_job_key(&place->job, b.key) == RONDO_OK;
    }
    sodium_memzero(&b, sizeof b);
    size_t n = ok ? (size_t)place->job.size : 0;
    place->hosts = ok ? calloc(n, sizeof *place->hosts) : NULL;
    return place->hosts != NULL && receive_all(wire, place->hosts, n * sizeof *place->hosts);
}

static _Noreturn void be_parent(int wire) {
    struct cf_place place = {0};
    struct cf_outcome out;
    struct wish wish;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    bool ok = take_brief(wire, &place);
    while (ok && receive_all(wire, &wish, sizeof wish)) {
        cf_run_child(&place, wish.check, wish.seq, wish.round, &out);
        ok = send_all(wire, &out, sizeof out);
    }
    rdi_job_clear(&place.job);
    free(place.hosts);
    _exit(0);
}

// ---- The keeper's side ---------------------------------------------------------------------------

rondo_status cf_parent_start(struct cf_parent *p) {
    int wire[2] = {-1, -1};
    *p = (struct cf_parent){.wire = -1, .pid = -1};
    fflush(NULL);
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, wire) == 0) {
        p->pid = fork();
    }
    if (p->pid == 0) {
        close(wire[0]);
        be_parent(wire[1]);
    }
    int why = errno;
    if (wire[1] >= 0) {
        close(wire[1]);
    }
    p->wire = wire[0];
    return p->pid > 0 ? RONDO_OK
                      : rdi_fail(RONDO_ERR_SYSTEM, "no process for the checks: %s", strerror(why));
}

static rondo_status lost(void) {
    return rdi_fail(RONDO_ERR_SYSTEM, "the process that starts the checks has ended");
}

rondo_status cf_parent_brief(struct cf_parent *p, const struct cf_place *place) {
    struct brief b = {.place = *place, .has_key = place->job.key != NULL};
    if (b.has_key) {
        memcpy(b.key, place->job.key, sizeof b.key);
    }
    bool ok = send_all(p->wire, &b, sizeof b) &&
              send_all(p->wire, place->hosts, (size_t)place->job.size * sizeof *place->hosts);
    sodium_memzero(&b, sizeof b);
    return ok ? RONDO_OK : lost();
}

rondo_status cf_parent_run(struct cf_parent *p, const struct cf_check *check, int seq, int round,
                           struct cf_outcome *out) {
    struct wish wish = {.check = check, .seq = seq, .round = round};
    bool ok = send_all(p->wire, &wish, sizeof wish) && receive_all(p->wire, out, sizeof *out);
    return ok ? RONDO_OK : lost();
}

void cf_parent_end(struct cf_parent *p) {
    if (p->wire >= 0) {
        close(p->wire);
    }
    if (p->pid > 0) {
        while (waitpid(p->pid, NULL, 0) < 0 && errno == EINTR) {}
    }
    *p = (struct cf_parent){.wire = -1, .pid = -1};
}
