// SPDX-License-Identifier: MIT
// Rondo's side, started by rondo-run: the blocking calls on host memory, or the calls of a stream on device memory.
#include "gpu.h"

#include <rondo/ring.h>
#include <rondo/rondo.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// `gpu` first: the side's memory functions take the state for a struct gpu.
struct state {
    struct gpu gpu;
    rondo_comm *comm;
};

static rondo_status neighbours(const struct side *s, const struct test_case *c, const void *send,
                               void *recv, rondo_comm *comm) {
    rondo_request *reqs[2] = {NULL, NULL};
    rondo_status status =
        rondo_send_start(send, c->count, c->type, (s->rank + 1) % s->ranks, comm, &reqs[0]);
    if (status == RONDO_OK) {
        const int from = (s->rank + s->ranks - 1) % s->ranks;
        status = rondo_recv_start(recv, c->count, c->type, from, comm, &reqs[1]);
    }
    const rondo_status waited = rondo_wait_all(reqs, 2);
    return status != RONDO_OK ? status : waited;
}

static rondo_status on_host(const struct side *s, const struct test_case *c, const void *send,
                            void *recv, rondo_comm *comm) {
    switch (c->coll) {
    case CASE_ALL_REDUCE:
        return rondo_all_reduce(send, recv, c->count, c->type, c->op, comm);
    case CASE_REDUCE_SCATTER:
        return rondo_reduce_scatter(send, recv, c->count, c->type, c->op, comm);
    case CASE_REDUCE:
        return rondo_reduce(send, recv, c->count, c->type, c->op, c->root, comm);
    case CASE_ALL_GATHER:
        return rondo_all_gather(send, recv, c->count, c->type, comm);
    case CASE_BROADCAST:
        return rondo_broadcast(send, recv, c->count, c->type, c->root, comm);
    case CASE_ALL_TO_ALL:
        return rondo_all_to_all(send, recv, c->count, c->type, comm);
    default:
        return neighbours(s, c, send, recv, comm);
    }
}

static rondo_status on_stream(const struct side *s, const struct test_case *c, const void *send,
                              void *recv, struct state *state) {
    rondo_comm *comm = state->comm;
    rondo_stream stream = state->gpu.stream;
    rondo_status status;
    switch (c->coll) {
    case CASE_ALL_REDUCE:
        return rondo_all_reduce_stream(send, recv, c->count, c->type, c->op, comm, stream);
    case CASE_REDUCE_SCATTER:
        return rondo_reduce_scatter_stream(send, recv, c->count, c->type, c->op, comm, stream);
    case CASE_REDUCE:
        return rondo_reduce_stream(send, recv, c->count, c->type, c->op, c->root, comm, stream);
    case CASE_ALL_GATHER:
        return rondo_all_gather_stream(send, recv, c->count, c->type, comm, stream);
    case CASE_BROADCAST:
        return rondo_broadcast_stream(send, recv, c->count, c->type, c->root, comm, stream);
    case CASE_ALL_TO_ALL:
        return rondo_all_to_all_stream(send, recv, c->count, c->type, comm, stream);
    default:
        // A stream each: a send holds its stream until the peer has come.
        status = rondo_send_stream(send, c->count, c->type, (s->rank + 1) % s->ranks, comm, stream);
        return status != RONDO_OK
                   ? status
                   : rondo_recv_stream(recv, c->count, c->type, (s->rank + s->ranks - 1) % s->ranks,
                                       comm, state->gpu.second);
    }
}

static enum result_status run(struct side *s, const struct test_case *c, const void *send,
                              void *recv, char *why, size_t cap) {
    struct state *state = s->state;
    rondo_status status;
    if (s->alloc == NULL) {
        status = on_host(s, c, send, recv, state->comm);
    } else {
        status = on_stream(s, c, send, recv, state);
        if (status == RONDO_OK && !gpu_sync(&state->gpu)) {
            snprintf(why, cap, "%s", state->gpu.why);
            return RESULT_FAILED;
        }
        status = status == RONDO_OK ? rondo_comm_error(state->comm) : status;
    }
    if (status != RONDO_OK) {
        snprintf(why, cap, "%s", rondo_last_error());
        return RESULT_FAILED;
    }
    return RESULT_OK;
}

static bool barrier(struct side *s) {
    const struct state *state = s->state;
    return rondo_barrier(state->comm) == RONDO_OK;
}

static int complain(const char *what) {
    fprintf(stderr, "%s: %s\n", what, rondo_last_error());
    return 1;
}

int main(int argc, char **argv) {
    static struct state state;
    struct side_options o;
    struct side s = {.run = run, .barrier = barrier, .state = &state};
    if (!side_parse(argc, argv, &o)) {
        return 2;
    }
    if (rondo_init(NULL, &state.comm) != RONDO_OK) {
        return complain("rondo_init");
    }
    s.rank = rondo_comm_rank(state.comm);
    s.ranks = rondo_comm_size(state.comm);
    snprintf(s.version, sizeof s.version, "Rondo %s, %s memory", rondo_version(),
             o.device != NULL ? "device" : "host");
    if (o.device != NULL) {
        if (!gpu_open(&state.gpu, o.device, &s)) {
            fprintf(stderr, "%s\n", state.gpu.why);
            return 1;
        }
        if (rondo_comm_attach(state.comm, state.gpu.ordinal) != RONDO_OK) {
            return complain("rondo_comm_attach");
        }
    }
    const int rc = side_run(&s, &o);
    if (rondo_comm_destroy(state.comm) != RONDO_OK) {
        return complain("rondo_comm_destroy");
    }
    gpu_close(&state.gpu);
    return rc;
}
