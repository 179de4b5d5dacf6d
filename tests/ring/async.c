// SPDX-License-Identifier: MIT
// Requests, threads, deadlines, abort, fork: async RANKS OPTIONS
#include "ring_test.h"

#include <pthread.h>
#include <stdint.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static double seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

// Many operations of several kinds at once, completed out of order.
static int in_flight(rondo_comm *c) {
    enum { OPS = 40 };
    int n = rondo_comm_size(c), me = rondo_comm_rank(c);
    rondo_request *q[OPS];
    float *x[OPS];
    size_t len[OPS];
    for (int i = 0; i < OPS; i++) {
        len[i] = (size_t)(i * i * 37 + 1);
        x[i] = malloc(len[i] * (size_t)n * sizeof **x);
        for (size_t k = 0; k < len[i] * (size_t)n; k++) {
            x[i][k] = (float)(me + i);
        }
        if (i % 3 == 2) {
            OK(rondo_all_gather_start(x[i] + (size_t)me * len[i], x[i], len[i], RONDO_F32, c,
                                      &q[i]));
        } else {
            OK(rondo_all_reduce_start(x[i], x[i], len[i], RONDO_F32, RONDO_SUM, c, &q[i]));
        }
    }
    // Test some until done, wait for the rest backwards.
    for (int i = 0; i < OPS; i += 4) {
        rondo_status s;
        while ((s = rondo_test(&q[i])) == RONDO_AGAIN) {}
        CHECK(s == RONDO_OK && q[i] == NULL);
    }
    for (int i = OPS - 1; i >= 0; i--) {
        OK(rondo_wait(&q[i]));
    }
    for (int i = 0; i < OPS; i++) {
        for (size_t k = 0; k < len[i]; k++) {
            CHECK(x[i][k] == (i % 3 == 2 ? (float)i : (float)(n * i + n * (n - 1) / 2)));
        }
        free(x[i]);
    }
    return 0;
}

struct job {
    rondo_comm *comm;
    int id, rc;
};

// Each thread has a communicator of its own; all share one engine.
static int thread_work(rondo_comm *c, int id) {
    int n = rondo_comm_size(c);
    for (int i = 0; i < 50; i++) {
        int64_t v[100];
        for (int k = 0; k < 100; k++) {
            v[k] = id * 1000 + i + k;
        }
        OK(rondo_all_reduce(v, v, 100, RONDO_I64, RONDO_SUM, c));
        for (int k = 0; k < 100; k++) {
            CHECK(v[k] == (int64_t)n * (id * 1000 + i + k));
        }
    }
    return 0;
}

static void *thread_main(void *arg) {
    struct job *j = arg;
    j->rc = thread_work(j->comm, j->id);
    return NULL;
}

static int threads(rondo_comm *c) {
    enum { THREADS = 3 };
    pthread_t t[THREADS];
    struct job j[THREADS];
    for (int i = 0; i < THREADS; i++) {
        j[i] = (struct job){.id = i};
        OK(rondo_comm_split(c, 0, rondo_comm_rank(c), &j[i].comm));
    }
    for (int i = 0; i < THREADS; i++) {
        CHECK(pthread_create(&t[i], NULL, thread_main, &j[i]) == 0);
    }
    int rc = 0;
    for (int i = 0; i < THREADS; i++) {
        pthread_join(t[i], NULL);
        rc |= j[i].rc;
        OK(rondo_comm_destroy(j[i].comm));
    }
    return rc;
}

static int splits(rondo_comm *c) {
    int n = rondo_comm_size(c), me = rondo_comm_rank(c);
    rondo_comm *half = NULL, *rev = NULL, *none = (rondo_comm *)c;
    OK(rondo_comm_split(c, me % 2, me, &half));
    int32_t v = me;
    OK(rondo_all_reduce(&v, &v, 1, RONDO_I32, RONDO_SUM, half));
    int want = 0;
    for (int r = me % 2; r < n; r += 2) {
        want += r;
    }
    CHECK(v == want && rondo_comm_rank(half) == me / 2);
    OK(rondo_comm_split(c, 0, -me, &rev));
    CHECK(rondo_comm_rank(rev) == n - 1 - me);
    v = me == 0 ? 77 : 0;
    OK(rondo_broadcast(&v, &v, 1, RONDO_I32, n - 1, rev));
    CHECK(v == 77);
    OK(rondo_comm_split(c, me == 0 ? -1 : 4, 0, &none));
    CHECK((none == NULL) == (me == 0));
    OK(rondo_comm_destroy(none));
    OK(rondo_comm_destroy(half));
    OK(rondo_comm_destroy(rev));
    return 0;
}

static int arguments(rondo_comm *c) {
    float x[4] = {0};
    rondo_request *q = NULL;
    CHECK(rondo_all_reduce(x, x, 4, (rondo_type)99, RONDO_SUM, c) == RONDO_ERR_INVALID);
    CHECK(strstr(rondo_last_error(), "99"));
    CHECK(rondo_all_reduce(x, x, 4, RONDO_F32, (rondo_op)-1, c) == RONDO_ERR_INVALID);
    CHECK(rondo_all_reduce(NULL, x, 4, RONDO_F32, RONDO_SUM, c) == RONDO_ERR_INVALID);
    CHECK(rondo_broadcast(x, x, 4, RONDO_F32, rondo_comm_size(c), c) == RONDO_ERR_INVALID);
    CHECK(rondo_send(x, 4, RONDO_F32, rondo_comm_rank(c), c) == RONDO_ERR_INVALID);
    CHECK(rondo_all_reduce(x, x, 4, RONDO_F32, RONDO_SUM, NULL) == RONDO_ERR_INVALID);
    CHECK(rondo_all_reduce_start(x, x, 4, RONDO_F32, RONDO_SUM, c, NULL) == RONDO_ERR_INVALID);
    CHECK(rondo_set_timeout(c, 0) == RONDO_ERR_INVALID);
    CHECK(rondo_test(&q) == RONDO_OK && rondo_wait(&q) == RONDO_OK);
    OK(rondo_barrier(c)); // nothing of the above reached the others
    return 0;
}

static int memory(rondo_comm *c) {
    void *p = NULL;
    rondo_request *q = NULL;
    OK(rondo_mem_alloc(1 << 20, &p));
    memset(p, 0, 1 << 20);
    OK(rondo_all_reduce_start(p, p, 1 << 18, RONDO_F32, RONDO_SUM, c, &q));
    // May be complete already; if not, the block must not go away.
    rondo_status s = rondo_mem_free(p);
    CHECK(s == RONDO_ERR_USAGE || s == RONDO_OK);
    OK(rondo_wait(&q));
    if (s != RONDO_OK) {
        OK(rondo_mem_free(p));
    }
    return 0;
}

static int forked(rondo_comm *c) {
    pid_t pid = fork();
    if (pid == 0) {
        float x = 1;
        int ok = rondo_all_reduce(&x, &x, 1, RONDO_F32, RONDO_SUM, c) == RONDO_ERR_FORKED &&
                 rondo_comm_destroy(c) == RONDO_ERR_FORKED && rondo_progress(c) == RONDO_ERR_FORKED;
        _exit(ok ? 0 : 1);
    }
    int status;
    CHECK(pid > 0 && waitpid(pid, &status, 0) == pid && WIFEXITED(status) &&
          WEXITSTATUS(status) == 0);
    OK(rondo_barrier(c));
    return 0;
}

static int statistics(rondo_comm *c) {
    int n = rondo_comm_size(c);
    size_t count = 1 << 18;
    float *x = calloc(count, sizeof *x);
    rondo_comm_stats a = {.size = sizeof a}, b = {.size = sizeof b};
    OK(rondo_comm_get_stats(c, &a));
    OK(rondo_all_reduce(x, x, count, RONDO_F32, RONDO_SUM, c));
    OK(rondo_comm_get_stats(c, &b));
    // The bound of Patarasuk and Yuan; both the ring and the owner algorithm meet it exactly.
    uint64_t want = 2 * (uint64_t)(n - 1) * count * sizeof *x / (uint64_t)n;
    uint64_t got = b.bytes_sent - a.bytes_sent;
    CHECK(n == 1 ? got == 0 : got >= want - 4096 && got <= want + 4096);
    CHECK(b.operations == a.operations + 1);
    char plan[200];
    OK(rondo_comm_plan(c, 4 * count, plan, sizeof plan));
    CHECK(strstr(plan, "1048576 bytes"));
    free(x);
    return 0;
}

// Rank 0 stays away: the others' deadline names it and the counter that waits. Ends the communicator.
static int deadline(rondo_comm *world) {
    rondo_comm *c = NULL;
    int n = rondo_comm_size(world), me = rondo_comm_rank(world);
    OK(rondo_comm_split(world, 0, me, &c));
    OK(rondo_barrier(c));
    if (n > 1) {
        float x = 1;
        rondo_status s = RONDO_OK;
        double t0 = seconds();
        if (me == 0) {
            while (rondo_comm_error(c) == RONDO_OK && seconds() - t0 < 20) {
                (void)rondo_progress(c);
                usleep(1000);
            }
            s = rondo_comm_error(c);
        } else {
            OK(rondo_set_timeout(c, 300 + 50 * me));
            s = rondo_all_reduce(&x, &x, 1, RONDO_F32, RONDO_SUM, c);
        }
        CHECK(s == RONDO_ERR_TIMEOUT);
        CHECK(strstr(rondo_last_error(), "rank 0 (") && strstr(rondo_last_error(), "WIRE"));
        CHECK(seconds() - t0 < 10);
        // In error it stays in error, at once.
        CHECK(rondo_barrier(c) == RONDO_ERR_TIMEOUT);
    }
    OK(rondo_comm_destroy(c));
    return 0;
}

static void *abort_main(void *arg) {
    usleep(100000);
    rondo_comm_abort(arg, "enough is enough");
    return NULL;
}

static int aborts(rondo_comm *world) {
    rondo_comm *c = NULL;
    int n = rondo_comm_size(world), me = rondo_comm_rank(world);
    OK(rondo_comm_split(world, 0, me, &c));
    float x = 1;
    if (n > 1) {
        pthread_t t;
        OK(rondo_barrier(c));
        if (me == 0) {
            // From another thread than the one that waits.
            CHECK(pthread_create(&t, NULL, abort_main, c) == 0);
        }
        double t0 = seconds();
        rondo_status s = rondo_recv(&x, 1, RONDO_F32, (me + 1) % n, c);
        CHECK(s == RONDO_ERR_ABORTED);
        CHECK(strstr(rondo_last_error(), "rank 0 (") &&
              strstr(rondo_last_error(), "enough is enough"));
        CHECK(seconds() - t0 < 5);
        if (me == 0) {
            pthread_join(t, NULL);
        }
    }
    OK(rondo_comm_destroy(c));
    return 0;
}

static int body(rondo_comm *c, void *arg) {
    (void)arg;
    static int (*const parts[])(rondo_comm *) = {in_flight, threads,    splits,   arguments, memory,
                                                 forked,    statistics, deadline, aborts};
    static const char *const names[] = {"in_flight",  "threads",  "splits",
                                        "arguments",  "memory",   "forked",
                                        "statistics", "deadline", "aborts"};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        if (parts[i](c) != 0) {
            fprintf(stderr, "rank %d of %d: part %s failed\n", rondo_comm_rank(c),
                    rondo_comm_size(c), names[i]);
            return 1;
        }
        OK(rondo_barrier(c));
    }
    return 0;
}

int main(int argc, char **argv) {
    if (argc != 3) {
        fprintf(stderr, "usage: async RANKS OPTIONS\n");
        return 2;
    }
    return rt_run(atoi(argv[1]), argv[2], body, NULL);
}
