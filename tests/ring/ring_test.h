// SPDX-License-Identifier: MIT
// What the tests of the ring layer share: ranks as processes, through the public interface only. A test starts
// its ranks by itself, or is one of them, where a launcher has set RANK.
#ifndef RDI_RING_TEST_H
#define RDI_RING_TEST_H

#include <rondo/rondo.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// Fails the rank with the place and the library's last error.
#define CHECK(cond)                                                                            \
    do {                                                                                       \
        if (!(cond)) {                                                                         \
            fprintf(stderr, "%s:%d: %s is false; last error: %s\n", __FILE__, __LINE__, #cond, \
                    rondo_last_error());                                                       \
            return 1;                                                                          \
        }                                                                                      \
    } while (0)
#define OK(call) CHECK((call) == RONDO_OK)

struct rt_body {
    const char *options;
    int (*fn)(rondo_comm *comm, void *arg);
    void *arg;
};

static int rt_rank(int rank, int world, void *arg) {
    struct rt_body *b = arg;
    rondo_config config = RONDO_CONFIG_INIT;
    rondo_comm *comm = NULL;
    config.options = b->options;
    OK(rondo_init(&config, &comm));
    CHECK(rondo_comm_rank(comm) == rank && rondo_comm_size(comm) == world);
    int rc = b->fn(comm, b->arg);
    OK(rondo_comm_destroy(comm));
    return rc;
}

// This process is one rank of a launcher's job. Each call is a job of its own; where rank 0 keeps the store,
// each has a port of its own, as ranks may still leave the one before.
static inline int rt_join(int ranks, struct rt_body *b) {
    static int jobs;
    const char *port = getenv("MASTER_PORT");
    char next[16];
    if (port != NULL && getenv("RONDO_STORE") == NULL && jobs++ > 0) {
        snprintf(next, sizeof next, "%d", atoi(port) + 1);
        setenv("MASTER_PORT", next, 1);
    }
    return rt_rank(atoi(getenv("RANK")), ranks, b);
}

// Runs fn on `ranks` processes with these options; 0 when all ranks return 0, or this one if it is one of them.
static inline int rt_run(int ranks, const char *options, int (*fn)(rondo_comm *comm, void *arg),
                         void *arg) {
    struct rt_body b = {options, fn, arg};
    if (getenv("RANK") != NULL) {
        return rt_join(ranks, &b);
    }
    if (rondo_spawn(rt_rank, ranks, &b) != RONDO_OK) {
        fprintf(stderr, "%d ranks, options \"%s\": %s\n", ranks, options, rondo_last_error());
        return 1;
    }
    return 0;
}

#endif
