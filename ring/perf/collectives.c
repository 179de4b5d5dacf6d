// SPDX-License-Identifier: MIT
// The table of collectives. Sizes, counts and the factor between algbw and busbw are those of nccl-tests, so
// that figures can be compared line by line.
#include "ring/perf/perf.h"

// Of pairs, when the user gives no number of iterations.
#define MANY 1000
#define FEW 20
#define ENOUGH_BYTES ((size_t)1 << 30)

static rondo_status run_all_reduce(const void *send, void *recv, size_t count, rondo_type type,
                                   rondo_op op, int root, rondo_comm *comm) {
    (void)root;
    return rondo_all_reduce(send, recv, count, type, op, comm);
}

static rondo_status run_reduce_scatter(const void *send, void *recv, size_t count, rondo_type type,
                                       rondo_op op, int root, rondo_comm *comm) {
    (void)root;
    return rondo_reduce_scatter(send, recv, count, type, op, comm);
}

static rondo_status run_all_gather(const void *send, void *recv, size_t count, rondo_type type,
                                   rondo_op op, int root, rondo_comm *comm) {
    (void)op;
    (void)root;
    return rondo_all_gather(send, recv, count, type, comm);
}

static rondo_status run_broadcast(const void *send, void *recv, size_t count, rondo_type type,
                                  rondo_op op, int root, rondo_comm *comm) {
    (void)op;
    return rondo_broadcast(send, recv, count, type, root, comm);
}

static rondo_status run_reduce(const void *send, void *recv, size_t count, rondo_type type,
                               rondo_op op, int root, rondo_comm *comm) {
    return rondo_reduce(send, recv, count, type, op, root, comm);
}

static rondo_status run_all_to_all(const void *send, void *recv, size_t count, rondo_type type,
                                   rondo_op op, int root, rondo_comm *comm) {
    (void)op;
    (void)root;
    return rondo_all_to_all(send, recv, count, type, comm);
}

// Every rank sends to the next one and receives from the one before.
static rondo_status run_sendrecv(const void *send, void *recv, size_t count, rondo_type type,
                                 rondo_op op, int root, rondo_comm *comm) {
    (void)op;
    (void)root;
    int n = rondo_comm_size(comm), rank = rondo_comm_rank(comm);
    rondo_request *reqs[2] = {NULL, NULL};
    rondo_status s = rondo_recv_start(recv, count, type, (rank + n - 1) % n, comm, &reqs[0]);
    if (s == RONDO_OK) {
        s = rondo_send_start(send, count, type, (rank + 1) % n, comm, &reqs[1]);
        if (s != RONDO_OK) {
            // The receive must not wait for a peer that waits for us.
            (void)rondo_comm_abort(comm, rondo_last_error());
        }
    }
    rondo_status waited = rondo_wait_all(reqs, 2);
    return s == RONDO_OK ? waited : s;
}

const struct perf_coll perf_colls[] = {
    {.name = "all_reduce",
     .reduces = true,
     .in_place = true,
     .traversals = 2,
     .run = run_all_reduce},
    {.name = "reduce_scatter",
     .reduces = true,
     .in_place = true,
     .split = true,
     .send_all = true,
     .traversals = 1,
     .run = run_reduce_scatter},
    {.name = "all_gather",
     .in_place = true,
     .split = true,
     .recv_all = true,
     .traversals = 1,
     .run = run_all_gather},
    {.name = "broadcast", .rooted = true, .in_place = true, .run = run_broadcast},
    {.name = "reduce", .reduces = true, .rooted = true, .in_place = true, .run = run_reduce},
    {.name = "all_to_all",
     .split = true,
     .send_all = true,
     .recv_all = true,
     .traversals = 1,
     .run = run_all_to_all},
    {.name = "sendrecv", .two = true, .run = run_sendrecv},
    {.name = "put", .kind = PERF_PUT, .two = true},
    {.name = "get", .kind = PERF_GET, .two = true},
    {.name = "pingpong", .kind = PERF_PINGPONG, .two = true},
};
const int perf_ncolls = sizeof perf_colls / sizeof *perf_colls;

size_t perf_count(const struct perf_coll *c, size_t bytes, size_t esize, int ranks) {
    size_t count = bytes / esize;
    return c->split ? count / (size_t)ranks & ~(16 / esize - 1) : count;
}

size_t perf_send_elements(const struct perf_coll *c, size_t count, int ranks) {
    return c->send_all ? count * (size_t)ranks : count;
}

size_t perf_recv_elements(const struct perf_coll *c, size_t count, int ranks) {
    return c->recv_all ? count * (size_t)ranks : count;
}

int perf_iters(const struct perf_options *o, size_t bytes) {
    size_t n = ENOUGH_BYTES / (bytes > 0 ? bytes : 1);
    return o->iters > 0 ? o->iters : n > MANY ? MANY : n < FEW ? FEW : (int)n;
}

int perf_warmup(const struct perf_options *o, size_t bytes) {
    return o->warmup >= 0 ? o->warmup : perf_iters(o, bytes) / 10;
}

double perf_bus_factor(const struct perf_coll *c, int ranks) {
    return c->traversals == 0 ? 1 : c->traversals * (double)(ranks - 1) / ranks;
}
