// SPDX-License-Identifier: MIT
// One rank of a job that a launcher started without a word to Rondo: says which rank it is, where, and over which
// wire it sends; with --loop it goes on to work until somebody stops it.
//     slurm_probe [--loop SECONDS] [--ignore-term]
#include "tests/fault/say.h"

#include <rondo/rondo.h>

#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { COUNT = 100000 };

static int failed(const rondo_comm *comm, rondo_status status) {
    char text[1024];
    struct line l;
    snprintf(text, sizeof text, "%s", rondo_last_error());
    rondo_failure failure = {.size = sizeof failure};
    bool told = comm != NULL && rondo_comm_failure(comm, &failure) == RONDO_OK;
    line_begin(&l, "failed", 0);
    line_text(&l, "status", rondo_status_name(status));
    line_int(&l, "culprit", told ? failure.culprit : -1);
    line_text(&l, "text", text);
    line_end(&l);
    return 3;
}

// The wire to the right neighbour, by what it carries of a message that a ring would send.
static rondo_status find_wire(rondo_comm *comm, const char **wire) {
    static float in[COUNT], out[COUNT];
    int n = rondo_comm_size(comm), me = rondo_comm_rank(comm);
    rondo_comm_stats before = {.size = sizeof before}, after = before;
    rondo_request *q[2] = {NULL, NULL};
    *wire = "none";
    rondo_status s = rondo_comm_get_stats(comm, &before);
    if (s != RONDO_OK || n == 1) {
        return s;
    }
    s = rondo_send_start(out, COUNT, RONDO_F32, (me + 1) % n, comm, &q[0]);
    if (s == RONDO_OK) {
        s = rondo_recv_start(in, COUNT, RONDO_F32, (me + n - 1) % n, comm, &q[1]);
    }
    rondo_status done = rondo_wait_all(q, 2);
    s = s == RONDO_OK ? done : s;
    if (s == RONDO_OK) {
        s = rondo_comm_get_stats(comm, &after);
    }
    if (s == RONDO_OK) {
        *wire = after.bytes_sent_shm > before.bytes_sent_shm       ? "shm"
                : after.bytes_sent_tcp > before.bytes_sent_tcp     ? "tcp"
                : after.bytes_sent_verbs > before.bytes_sent_verbs ? "verbs"
                                                                   : "other";
    }
    return s;
}

static void line_variable(struct line *l, const char *name) {
    const char *value = getenv(name);
    if (value != NULL) {
        line_text(l, name, value);
    }
}

// Whether all ranks are of one step of Slurm, or of what else the test calls a job.
static rondo_status find_step(rondo_comm *comm, bool *same) {
    const char *named = getenv("PROBE_JOB"), *step = getenv("SLURM_STEP_ID");
    const char *job = named != NULL ? named : getenv("SLURM_JOB_ID");
    int64_t id = (job != NULL ? atoi(job) * INT64_C(100000) : 0) + (step != NULL ? atoi(step) : 0);
    int64_t range[2] = {id, -id};
    rondo_status s = rondo_all_reduce(range, range, 2, RONDO_I64, RONDO_MAX, comm);
    *same = range[0] == -range[1];
    return s;
}

static rondo_status tell_place(rondo_comm *comm) {
    char host[256] = "";
    struct line l;
    const char *wire;
    bool same = false;
    int sum = rondo_comm_rank(comm);
    rondo_status s = rondo_all_reduce(&sum, &sum, 1, RONDO_I32, RONDO_SUM, comm);
    if (s == RONDO_OK) {
        s = find_step(comm, &same);
    }
    if (s == RONDO_OK) {
        s = find_wire(comm, &wire);
    }
    if (s != RONDO_OK) {
        return s;
    }
    gethostname(host, sizeof host - 1);
    line_begin(&l, "place", 0);
    line_int(&l, "rank", rondo_comm_rank(comm));
    line_int(&l, "size", rondo_comm_size(comm));
    line_int(&l, "local_rank", rondo_comm_local_rank(comm));
    line_int(&l, "local_size", rondo_comm_local_size(comm));
    line_int(&l, "sum", sum);
    line_int(&l, "one_step", same);
    line_int(&l, "pid", getpid());
    line_text(&l, "host", host);
    line_text(&l, "wire", wire);
    // What Slurm says of the same, to compare.
    line_variable(&l, "SLURM_PROCID");
    line_variable(&l, "SLURM_LOCALID");
    line_variable(&l, "SLURM_NODEID");
    line_end(&l);
    return RONDO_OK;
}

static rondo_status work(rondo_comm *comm, int seconds) {
    static float x[1000];
    const struct timespec pause = {.tv_nsec = 10 * 1000 * 1000};
    const uint64_t end = now_ns() + (uint64_t)seconds * UINT64_C(1000000000);
    int go_on = 1;
    rondo_status s = RONDO_OK;
    while (s == RONDO_OK && go_on != 0) {
        s = rondo_all_reduce(x, x, 1000, RONDO_F32, RONDO_SUM, comm);
        go_on = now_ns() < end;
        if (s == RONDO_OK) {
            s = rondo_all_reduce(&go_on, &go_on, 1, RONDO_I32, RONDO_MIN, comm);
        }
        nanosleep(&pause, NULL);
    }
    return s;
}

int main(int argc, char **argv) {
    int seconds = 0;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--loop") == 0 && i + 1 < argc) {
            seconds = atoi(argv[++i]);
        } else if (strcmp(argv[i], "--ignore-term") == 0) {
            signal(SIGTERM, SIG_IGN);
        } else {
            fprintf(stderr, "usage: slurm_probe [--loop SECONDS] [--ignore-term]\n");
            return 2;
        }
    }
    rondo_comm *comm = NULL;
    rondo_status s = rondo_init(NULL, &comm);
    if (s == RONDO_OK) {
        s = tell_place(comm);
    }
    if (s == RONDO_OK && seconds > 0) {
        s = work(comm, seconds);
    }
    if (s != RONDO_OK) {
        return failed(comm, s);
    }
    s = rondo_comm_destroy(comm);
    if (s != RONDO_OK) {
        return failed(NULL, s);
    }
    say("end");
    return 0;
}
