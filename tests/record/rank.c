// SPDX-License-Identifier: MIT
// A rank that gives the recorder something to see, through the public interface only.
//   rank work SECONDS COUNT         all_reduce until the time is over
//   rank late RANK TIMEOUT COUNT    after ten all_reduce that rank sleeps and does not call the next one
//   rank chain RANK TIMEOUT         that rank sleeps; another waits for it on a communicator of their own, the
//                                   rest for that one
//   rank slow RANK TIMES            small all_reduce; that rank comes 20 ms late each time
//   rank calls DIR                  rondo_dump(), rondo_trace_start() and _stop(), right and wrong
// With OWN_HANDLER set it has a handler of its own for SIGUSR1; rank STUCK logs slowly.
// Prints "ready" once it has joined. Exit code 3 for an error of an operation, whose text it prints.
#include <rondo/rondo.h>

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static rondo_comm *comm;
static int rank, size;
static volatile sig_atomic_t signals;

static void on_signal(int number) {
    (void)number;
    signals++;
}

// Keeps the thread that logs, and with it the engine, for a while.
static void slow_log(void *arg, rondo_log_level level, const char *line) {
    (void)arg;
    if (level == RONDO_LOG_ERROR) {
        printf("stuck in: %s\n", line);
        sleep(3);
    }
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int failed(const char *what) {
    printf("%s failed: %s\n", what, rondo_last_error());
    rondo_comm_destroy(comm);
    return 3;
}

static int wrong(const char *what) {
    printf("wrong: %s; last error: %s\n", what, rondo_last_error());
    rondo_comm_abort(comm, what);
    rondo_comm_destroy(comm);
    return 1;
}

static int reduce(int times, size_t count, rondo_comm *c) {
    static float x[1 << 20];
    for (int i = 0; i < times; i++) {
        if (rondo_all_reduce(x, x, count, RONDO_F32, RONDO_SUM, c) != RONDO_OK) {
            return 3;
        }
    }
    return 0;
}

static int work(double seconds, size_t count) {
    double until = now() + seconds;
    int go_on = 1;
    while (go_on) {
        if (reduce(20, count, comm) != 0) {
            return failed("all_reduce");
        }
        usleep(2000);
        go_on = now() < until;
        if (rondo_broadcast(&go_on, &go_on, 1, RONDO_I32, 0, comm) != RONDO_OK) {
            return failed("broadcast");
        }
    }
    return 0;
}

static int late(int who, int timeout, size_t count) {
    if (reduce(10, count, comm) != 0) {
        return failed("all_reduce");
    }
    rondo_set_timeout(comm, timeout);
    if (rank == who) {
        usleep((useconds_t)timeout * 1000 + (getenv("STUCK") ? 3500000 : 500000));
    }
    return reduce(1, count, comm) != 0 ? failed("all_reduce") : 0;
}

static int chain(int who, int timeout) {
    int middle = (who + 1) % size;
    rondo_comm *pair;
    if (rondo_comm_split(comm, rank == who || rank == middle ? 0 : -1, 0, &pair) != RONDO_OK) {
        return failed("split");
    }
    rondo_set_timeout(comm, timeout);
    if (rank == who) {
        usleep((useconds_t)timeout * 1000 + 500000);
    }
    if (pair != NULL) {
        rondo_set_timeout(pair, timeout + 200);
    }
    if (pair != NULL && reduce(1, 10, pair) != 0) {
        return failed("all_reduce of two");
    }
    return reduce(1, 10, comm) != 0 ? failed("all_reduce of all") : 0;
}

static int slow(int who, int times) {
    for (int i = 0; i < times * 50; i++) {
        usleep(rank == who ? 20000 : 1000);
        if (reduce(1, 10, comm) != 0) {
            return failed("all_reduce");
        }
    }
    return 0;
}

static int calls(const char *dir) {
    char path[512];
    if (rondo_dump(NULL, "x") != RONDO_ERR_INVALID || rondo_dump(comm, "") != RONDO_ERR_INVALID) {
        return wrong("rondo_dump() with wrong arguments");
    }
    snprintf(path, sizeof path, "%s/missing/dump.%d", dir, rank);
    if (rondo_dump(comm, path) != RONDO_ERR_SYSTEM || !strstr(rondo_last_error(), path)) {
        return wrong("rondo_dump() into a folder that is not there");
    }
    if (rondo_trace_start(comm, path) != RONDO_ERR_SYSTEM) {
        return wrong("rondo_trace_start() into a folder that is not there");
    }
    if (rondo_trace_stop(comm) != RONDO_ERR_USAGE) {
        return wrong("rondo_trace_stop() without a trace");
    }
    for (int i = 0; i < 2; i++) { // the second one replaces the first
        snprintf(path, sizeof path, "%s/trace.%d.json", dir, rank);
        if (rondo_trace_start(comm, path) != RONDO_OK ||
            rondo_trace_start(comm, path) != RONDO_ERR_USAGE) {
            return wrong("rondo_trace_start()");
        }
        if (reduce(5, 100, comm) != 0) {
            return failed("all_reduce");
        }
        if (rondo_trace_stop(comm) != RONDO_OK) {
            return wrong("rondo_trace_stop()");
        }
        reduce(5, 100, comm);
        snprintf(path, sizeof path, "%s/dump.%d.json", dir, rank);
        if (rondo_dump(comm, path) != RONDO_OK) {
            return wrong("rondo_dump()");
        }
    }
    return 0;
}

int main(int argc, char **argv) {
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (getenv("OWN_HANDLER") != NULL) {
        signal(SIGUSR1, on_signal);
    }
    rondo_config config = RONDO_CONFIG_INIT;
    const char *stuck = getenv("STUCK"), *me = getenv("RANK");
    if (stuck != NULL && me != NULL && strcmp(stuck, me) == 0) {
        config.log = slow_log;
    }
    if (argc < 3 || rondo_init(&config, &comm) != RONDO_OK) {
        printf("rondo_init failed: %s\n", rondo_last_error());
        return 3;
    }
    rank = rondo_comm_rank(comm);
    size = rondo_comm_size(comm);
    printf("ready %d\n", (int)getpid());
    int arg[3] = {0};
    for (int i = 0; i < 3 && i + 2 < argc; i++) {
        arg[i] = atoi(argv[i + 2]);
    }
    int code = strcmp(argv[1], "work") == 0    ? work(atof(argv[2]), (size_t)arg[1])
               : strcmp(argv[1], "late") == 0  ? late(arg[0], arg[1], (size_t)arg[2])
               : strcmp(argv[1], "chain") == 0 ? chain(arg[0], arg[1])
               : strcmp(argv[1], "slow") == 0  ? slow(arg[0], arg[1])
               : strcmp(argv[1], "calls") == 0 ? calls(argv[2])
                                               : wrong("there is no such test");
    if (code != 0) {
        return code;
    }
    if (rondo_comm_destroy(comm) != RONDO_OK) {
        return 1;
    }
    printf("signals %d\n", (int)signals);
    return 0;
}
