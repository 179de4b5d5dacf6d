// SPDX-License-Identifier: MIT
// rondo_probe(): probe RANKS OPTIONS. Ranks above 0 send, rank 0 looks before it receives.
#include "ring_test.h"

#include <pthread.h>
#include <stdint.h>
#include <time.h>
#include <unistd.h>

#define BIG 300000

static double seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static int arguments(rondo_comm *c) {
    int me = rondo_comm_rank(c), n = rondo_comm_size(c), from = -7;
    CHECK(rondo_probe(NULL, -1, 0, &from) == RONDO_ERR_INVALID);
    CHECK(rondo_probe(c, -1, 0, NULL) == RONDO_ERR_INVALID);
    CHECK(rondo_probe(c, me, 0, &from) == RONDO_ERR_INVALID);
    CHECK(rondo_probe(c, n, 0, &from) == RONDO_ERR_INVALID);
    CHECK(rondo_probe(c, -1, -1, &from) == RONDO_ERR_INVALID);
    CHECK(strstr(rondo_last_error(), "-1 ms") != NULL);
    CHECK(rondo_probe(c, -1, 0, &from) == RONDO_AGAIN);
    double t0 = seconds();
    CHECK(rondo_probe(c, (me + 1) % n, 50, &from) == RONDO_AGAIN);
    CHECK(seconds() - t0 >= 0.049 && seconds() - t0 < 5 && from == -7);
    return 0;
}

// Everybody sends twice to rank 0, which takes what comes as it comes.
static int any_rank(rondo_comm *c) {
    int me = rondo_comm_rank(c), n = rondo_comm_size(c);
    static float x[BIG];
    if (me > 0) {
        usleep((unsigned)(n - me) * 20000);
        for (int k = 0; k < BIG; k++) {
            x[k] = (float)me;
        }
        OK(rondo_send(&x[0], 1, RONDO_F32, 0, c));
        OK(rondo_send(x, BIG, RONDO_F32, 0, c));
        return 0;
    }
    int got[64] = {0};
    for (int i = 0; i < 2 * (n - 1); i++) {
        int from = -1;
        OK(rondo_probe(c, -1, 20000, &from));
        CHECK(from > 0 && from < n && got[from] < 2);
        int again = -1;
        OK(rondo_probe(c, from, 0, &again)); // looking takes nothing away
        CHECK(again == from);
        size_t count = got[from]++ == 0 ? 1 : BIG;
        memset(x, 0, sizeof x);
        OK(rondo_recv(x, count, RONDO_F32, from, c));
        CHECK(x[0] == (float)from && x[count - 1] == (float)from);
    }
    int from = -1;
    CHECK(rondo_probe(c, -1, 20, &from) == RONDO_AGAIN);
    return 0;
}

// What a recv was called for is no news; what comes after it is.
static int called_for(rondo_comm *c) {
    int me = rondo_comm_rank(c), from = -1;
    float x[2] = {1, 2}, y[2] = {0, 0};
    if (me == 0) {
        rondo_request *q;
        OK(rondo_recv_start(&y[0], 1, RONDO_F32, 1, c, &q));
        OK(rondo_barrier(c));
        OK(rondo_probe(c, 1, 20000, &from));
        CHECK(from == 1);
        OK(rondo_wait(&q));
        OK(rondo_recv(&y[1], 1, RONDO_F32, 1, c));
        CHECK(y[0] == 1 && y[1] == 2);
        CHECK(rondo_probe(c, 1, 20, &from) == RONDO_AGAIN);
    } else {
        OK(rondo_barrier(c));
        for (int k = 0; me == 1 && k < 2; k++) {
            usleep(20000);
            OK(rondo_send(&x[k], 1, RONDO_F32, 0, c));
        }
    }
    return 0;
}

struct watcher {
    rondo_comm *comm;
    int peer, from;
    rondo_status status;
    double took;
};

static void *watch_main(void *arg) {
    struct watcher *w = arg;
    double t0 = seconds();
    w->status = rondo_probe(w->comm, w->peer, 20000, &w->from);
    w->took = seconds() - t0;
    return NULL;
}

// Two threads of rank 0 look at once, for ranks of which the last one sends first.
static int two_threads(rondo_comm *c) {
    int me = rondo_comm_rank(c), n = rondo_comm_size(c), last = n - 1;
    float x = (float)me;
    if (me == 0) {
        struct watcher w[2] = {{.comm = c, .peer = 1}, {.comm = c, .peer = last}};
        pthread_t t[2];
        for (int i = 0; i < 2; i++) {
            CHECK(pthread_create(&t[i], NULL, watch_main, &w[i]) == 0);
            usleep(20000); // so that the first drives and the second is parked
        }
        OK(rondo_barrier(c));
        for (int i = 0; i < 2; i++) {
            pthread_join(t[i], NULL);
            CHECK(w[i].status == RONDO_OK && w[i].from == w[i].peer && w[i].took < 10);
        }
        for (int r = 1; r < n; r++) {
            OK(rondo_recv(&x, 1, RONDO_F32, r, c));
            CHECK(x == (float)r);
        }
    } else {
        OK(rondo_barrier(c));
        usleep(me == last ? 0 : 200000);
        OK(rondo_send(&x, 1, RONDO_F32, 0, c));
    }
    return 0;
}

static void *abort_main(void *arg) {
    usleep(100000);
    rondo_comm_abort(arg, "nobody sends");
    return NULL;
}

static int fails(rondo_comm *world) {
    int me = rondo_comm_rank(world), from = -1;
    rondo_comm *c = NULL;
    OK(rondo_comm_split(world, 0, me, &c));
    pthread_t t;
    OK(rondo_barrier(c));
    if (me == 1) {
        CHECK(pthread_create(&t, NULL, abort_main, c) == 0);
    }
    double t0 = seconds();
    CHECK(rondo_probe(c, -1, 20000, &from) == RONDO_ERR_ABORTED);
    CHECK(strstr(rondo_last_error(), "nobody sends") != NULL && seconds() - t0 < 5);
    if (me == 1) {
        pthread_join(t, NULL);
    }
    OK(rondo_comm_destroy(c));
    return 0;
}

static int body(rondo_comm *c, void *arg) {
    (void)arg;
    static int (*const parts[])(rondo_comm *) = {arguments, any_rank, called_for, two_threads,
                                                 fails};
    static const char *const names[] = {"arguments", "any_rank", "called_for", "two_threads",
                                        "fails"};
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
        fprintf(stderr, "usage: probe RANKS OPTIONS\n");
        return 2;
    }
    return rt_run(atoi(argv[1]), argv[2], body, NULL);
}
