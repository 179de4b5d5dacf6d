// SPDX-License-Identifier: MIT
// rondo_spawn(): the ranks of a job as forks of the calling program.
//
// The parent serves the store, on a thread. A child of a process with threads can do little (a lock
// may be held by a thread that does not exist in it), so the ranks are forked first and wait at a
// gate, a pipe, out of which each reads the store's port once the server runs. If it cannot run,
// the gate closes without a word and they end.
#include "ddp/ddp.h"
#include "ddp/launch.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SPAWN_MAX 4096

struct spawn {
    int (*fn)(int rank, int world, void *arg);
    void *arg;
    int n;
    int gate[2]; // read end for the ranks, write end for the parent
    int key_fd;
    char run_id[RDI_RUN_ID_CAP];
    struct rdi_signals signals;
    struct rdi_group group;
    struct rdi_env env;
    int sent; // signal that asked the whole job to end, 0 = none
};

// Signals of a terminal and of whoever stops a job. The ranks get them, and when they have ended
// the caller gets it too, with whatever it has set up for that signal.
static const int spawn_signals[] = {SIGINT, SIGQUIT, SIGTERM, SIGHUP};

// ---- In a rank ----------------------------------------------------------------------------------

static int set_variable(void *arg, const char *name, const char *value) {
    (void)arg;
    return value != NULL ? setenv(name, value, 1) : unsetenv(name);
}

// Ranks share a terminal and cannot share its input.
static void close_input(void) {
    int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    if (fd > 0) {
        dup2(fd, STDIN_FILENO);
        close(fd);
    }
}

_Noreturn static void run_rank(const struct spawn *sp, int rank) {
    int port;
    ssize_t n;
    close(sp->gate[1]);
    do {
        n = read(sp->gate[0], &port, sizeof port);
    } while (n < 0 && errno == EINTR);
    close(sp->gate[0]);
    if (n != (ssize_t)sizeof port) {
        _exit(1);
    }
    close_input();
    struct rdi_place place = {.rank = rank,
                              .world = sp->n,
                              .local_rank = rank,
                              .local_world = sp->n,
                              .nodes = 1,
                              .master_addr = "127.0.0.1",
                              .master_port = port,
                              .run_id = sp->run_id,
                              .key_fd = sp->key_fd,
                              .one_thread = rdi_place_one_thread(sp->n)};
    if (rdi_place_env(&place, set_variable, NULL) != 0) {
        fprintf(stderr, "rondo_spawn: rank %d has no memory for its environment\n", rank);
        _exit(1);
    }
    int code = sp->fn(rank, sp->n, sp->arg);
    // An exit code has eight bits; 256 must not look like success.
    exit(code >= 0 && code <= 255 ? code : 255);
}

// ---- In the parent ------------------------------------------------------------------------------

static rondo_status start_ranks(struct spawn *sp) {
    // What is still in buffers would be written by every child.
    fflush(NULL);
    for (int rank = 0; rank < sp->n; rank++) {
        pid_t pid;
        rondo_status s = rdi_group_fork(&sp->group, &sp->signals, &pid);
        if (s != RONDO_OK) {
            return s;
        }
        if (pid == 0) {
            run_rank(sp, rank);
        }
    }
    return RONDO_OK;
}

// Reads and writes of so few bytes are atomic on a pipe, and all of them fit into it: no rank gets
// half a number, and this does not block. Our own copy of the read end keeps SIGPIPE away if ranks
// have died.
static void open_gate(struct spawn *sp, int port) {
    for (int rank = 0; rank < sp->n; rank++) {
        while (write(sp->gate[1], &port, sizeof port) < 0 && errno == EINTR) {}
    }
}

static void close_gate(struct spawn *sp, int end) {
    if (sp->gate[end] >= 0) {
        close(sp->gate[end]);
        sp->gate[end] = -1;
    }
}

static int sleep_ms(uint64_t deadline, uint64_t now) {
    if (deadline == UINT64_MAX) {
        return -1;
    }
    uint64_t ms = deadline > now ? (deadline - now + 999999) / 1000000 : 0;
    return ms < INT_MAX ? (int)ms : INT_MAX;
}

static void wait_for_ranks(struct spawn *sp) {
    struct rdi_group *g = &sp->group;
    for (;;) {
        int sig;
        while ((sig = rdi_signals_next(&sp->signals)) != 0) {
            // The first is a request to the ranks, a second ^C the end of patience.
            if (sig == SIGINT && sp->sent == SIGINT) {
                rdi_group_end(g, rdi_now(&sp->env), 0);
            } else {
                rdi_group_signal(g, sig, true);
            }
            sp->sent = sig;
        }
        rdi_group_progress(g, rdi_now(&sp->env));
        if (g->state == RDI_GROUP_DONE) {
            return;
        }
        struct pollfd p[] = {{.fd = g->epfd, .events = POLLIN},
                             {.fd = sp->signals.fd, .events = POLLIN}};
        poll(p, 2, sleep_ms(g->deadline, rdi_now(&sp->env)));
    }
}

static rondo_status verdict(const struct spawn *sp) {
    char text[256];
    int local_rank;
    if (sp->group.failed) {
        rdi_exit_describe(&sp->group.first, text, sizeof text);
        return rdi_fail(RONDO_ERR_PEER, "%s%s%s", text, sp->sent != 0 ? " after SIG" : "",
                        sp->sent != 0 ? sigabbrev_np(sp->sent) : "");
    }
    if (rdi_group_stuck(&sp->group, &local_rank) > 0) {
        return rdi_fail(RONDO_ERR_TIMEOUT,
                        "rank %d (pid %d) does not end even after SIGKILL: it waits in the kernel",
                        local_rank, (int)sp->group.pids[local_rank]);
    }
    if (sp->group.ending && sp->sent != 0) {
        return rdi_fail(RONDO_ERR_PEER, "the ranks were ended by SIG%s", sigabbrev_np(sp->sent));
    }
    return RONDO_OK;
}

static rondo_status run_job(struct spawn *sp, const struct rdi_job *job) {
    struct rdi_store_server *server = NULL;
    rondo_status s = start_ranks(sp);
    if (s == RONDO_OK) {
        s = rdi_store_server_start("127.0.0.1", 0, job, &server);
    }
    if (s == RONDO_OK) {
        open_gate(sp, rdi_store_server_port(server));
    }
    close_gate(sp, 0);
    close_gate(sp, 1);
    if (s == RONDO_OK) {
        wait_for_ranks(sp);
        rdi_store_server_stop(server);
        s = verdict(sp);
    }
    rdi_group_close(&sp->group);
    return s;
}

rondo_status rondo_spawn(int (*fn)(int rank, int world, void *arg), int nprocs, void *arg) {
    if (fn == NULL) {
        return rdi_fail(RONDO_ERR_INVALID, "rondo_spawn: fn is NULL");
    }
    if (nprocs < 1 || nprocs > SPAWN_MAX) {
        return rdi_fail(RONDO_ERR_INVALID, "rondo_spawn: nprocs is %d; it can be 1 to %d", nprocs,
                        SPAWN_MAX);
    }
    struct spawn sp = {.fn = fn, .arg = arg, .n = nprocs, .gate = {-1, -1}, .key_fd = -1};
    struct rdi_options options;
    struct rdi_job job;
    memset(&job, 0, sizeof job);
    rdi_env_system(&sp.env, NULL, NULL);
    rdi_run_id(&sp.env, sp.run_id);

    rondo_status s = rdi_options_load(&options, NULL, getenv);
    if (s == RONDO_OK) {
        s = rdi_launch_key(&options, true, &job, &sp.key_fd);
    }
    if (s != RONDO_OK) {
        return s;
    }
    if (pipe2(sp.gate, O_CLOEXEC) != 0) {
        s = rdi_fail_errno(RONDO_ERR_SYSTEM, errno, "rondo_spawn: cannot open a pipe");
        goto out_key;
    }
    s = rdi_signals_open(&sp.signals, spawn_signals,
                         sizeof spawn_signals / sizeof spawn_signals[0]);
    if (s != RONDO_OK) {
        goto out_gate;
    }
    s = rdi_group_open(&sp.group, nprocs, 0);
    if (s == RONDO_OK) {
        s = run_job(&sp, &job);
    }
    rdi_signals_close(&sp.signals);
out_gate:
    close_gate(&sp, 0);
    close_gate(&sp, 1);
out_key:
    if (sp.key_fd >= 0) {
        close(sp.key_fd);
    }
    rdi_job_clear(&job);
    if (sp.sent != 0) {
        raise(sp.sent);
    }
    return s;
}
