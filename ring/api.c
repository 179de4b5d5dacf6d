// SPDX-License-Identifier: MIT
// The public calls: each makes a request, hands it to the engine, and, in the blocking form, waits for it.
#include "ring/cuda/gpu.h"
#include "ring/internal.h"
#include "ring/record/observe.h"
#include "ring/reduce.h"

#include <stdio.h>
#include <string.h>

// ---- Names ---------------------------------------------------------------------------------------

size_t rondo_type_size(rondo_type type) { return rdi_type_size(type); }

const char *rondo_type_name(rondo_type type) {
    static const char *const names[RONDO_TYPE_COUNT] = {"float", "double", "half",   "bfloat16",
                                                        "int8",  "uint8",  "int32",  "uint32",
                                                        "int64", "uint64", "f8e4m3", "f8e5m2"};
    return (unsigned)type < RONDO_TYPE_COUNT ? names[type] : NULL;
}

const char *rondo_op_name(rondo_op op) {
    static const char *const names[RONDO_OP_COUNT] = {"sum", "prod", "min", "max", "avg"};
    return (unsigned)op < RONDO_OP_COUNT ? names[op] : NULL;
}

// ---- Requests ------------------------------------------------------------------------------------

static bool is_complete(const void *arg) {
    const struct rondo_request *r = arg;
    return atomic_load_explicit(&r->complete, memory_order_acquire) != 0;
}

// Reports a complete request and releases it.
static rondo_status collect(struct rondo_request **req) {
    struct rondo_request *r = *req;
    rondo_status s = r->status;
    if (s != RONDO_OK) {
        rdi_observe_settle(r->comm->engine);
        rdi_set_last_error(r->comm->why);
    }
    rdi_request_free(r);
    *req = NULL;
    return s;
}

rondo_status rondo_test(rondo_request **req) {
    if (!req) {
        return rdi_fail(RONDO_ERR_INVALID, "rondo_test: the pointer to the request is NULL");
    }
    if (!*req) {
        return RONDO_OK;
    }
    struct rdi_driver *d = (*req)->comm->engine->driver;
    rondo_status s = rdi_driver_check(d);
    if (s != RONDO_OK) {
        return s;
    }
    if (!is_complete(*req)) {
        (void)rdi_driver_poll(d);
    }
    return is_complete(*req) ? collect(req) : RONDO_AGAIN;
}

rondo_status rdi_wait_stamped(rondo_request **req, uint64_t *finished) {
    if (!*req) {
        return RONDO_OK;
    }
    struct rdi_driver *d = (*req)->comm->engine->driver;
    rondo_status s = rdi_driver_check(d);
    if (s != RONDO_OK) {
        return s;
    }
    // The operation's own deadline ends this wait: it fails the communicator, which completes the request.
    (void)rdi_driver_wait(d, is_complete, *req, UINT64_MAX);
    *finished = (*req)->finished;
    return collect(req);
}

rondo_status rondo_wait(rondo_request **req) {
    uint64_t finished;
    if (!req) {
        return rdi_fail(RONDO_ERR_INVALID, "rondo_wait: the pointer to the request is NULL");
    }
    return rdi_wait_stamped(req, &finished);
}

rondo_status rondo_wait_all(rondo_request **reqs, size_t n) {
    if (n && !reqs) {
        return rdi_fail(RONDO_ERR_INVALID, "rondo_wait_all: the array of requests is NULL");
    }
    rondo_status first = RONDO_OK;
    for (size_t i = 0; i < n; i++) {
        rondo_status s = rondo_wait(&reqs[i]);
        first = first == RONDO_OK ? s : first;
    }
    return first;
}

rondo_status rondo_progress(rondo_comm *comm) {
    if (!comm) {
        return rdi_fail(RONDO_ERR_INVALID, "rondo_progress: the communicator is NULL");
    }
    rondo_status s = rdi_driver_check(comm->engine->driver);
    return s == RONDO_OK ? rdi_driver_poll(comm->engine->driver) : s;
}

// ---- Submission ----------------------------------------------------------------------------------

struct call {
    enum rdi_kind kind;
    const void *send;
    void *recv;
    size_t count;
    rondo_type type;
    rondo_op op;
    int root;
};

// Whether a call gets device memory, which a stream of the communicator's own then serves.
static rondo_status on_device(const struct call *a, const rondo_comm *comm, bool *yes) {
    struct rdi_cuda_where w[2] = {{.kind = RDI_CUDA_HOST}, {.kind = RDI_CUDA_HOST}};
    rondo_status s = rdi_cuda_classify(a->send, 0, &w[0]);
    s = s == RONDO_OK ? rdi_cuda_classify(a->recv, 0, &w[1]) : s;
    *yes = w[0].kind == RDI_CUDA_DEVICE || w[1].kind == RDI_CUDA_DEVICE;
    if (s == RONDO_OK && *yes && !comm->gpu) {
        s = rdi_fail(RONDO_ERR_USAGE,
                     "%s: %p is device memory, but the communicator is not attached to a device: "
                     "call rondo_comm_attach() on all ranks first",
                     rdi_kind_name(a->kind), w[0].kind == RDI_CUDA_DEVICE ? a->send : a->recv);
    }
    return s;
}

// `stamp`: the operation may lie in the inbox for a while, so the recorder is told when it came. A blocking call
// takes it to the engine itself, and is spared the look at the clock.
static rondo_status submit(const struct call *a, rondo_comm *comm, bool stamp,
                           rondo_request **req) {
    bool device = false;
    if (comm) {
        rondo_status s = rdi_driver_check(comm->engine->driver);
        if (s == RONDO_OK && rdi_cuda_in_use()) {
            s = on_device(a, comm, &device);
        }
        if (s != RONDO_OK) {
            return s;
        }
    }
    if (device) {
        return rdi_gpu_submit(comm, a->kind, a->send, a->recv, a->count, a->type, a->op, a->root,
                              NULL, req);
    }
    rondo_status s =
        rdi_request_new(comm, a->kind, a->send, a->recv, a->count, a->type, a->op, a->root, req);
    if (s == RONDO_OK) {
        (*req)->marks.submitted = stamp ? rdi_now(&comm->engine->env) : 0;
        rdi_engine_push(comm->engine, *req);
    }
    return s;
}

static rondo_status start(struct call a, rondo_comm *comm, rondo_request **req) {
    if (!req) {
        return rdi_fail(RONDO_ERR_INVALID, "%s_start: the pointer to the request is NULL",
                        rdi_kind_name(a.kind));
    }
    rondo_request *r;
    rondo_status s = submit(&a, comm, true, &r);
    if (s == RONDO_OK) {
        rdi_driver_kick(comm->engine->driver);
        *req = r;
    }
    return s;
}

static rondo_status run(struct call a, rondo_comm *comm) {
    rondo_request *r;
    rondo_status s = submit(&a, comm, false, &r);
    return s == RONDO_OK ? rondo_wait(&r) : s;
}

#define ARGS(k, s, r, n, t, o, root) \
    (struct call) { k, s, r, n, t, o, root }

rondo_status rondo_all_reduce(const void *send, void *recv, size_t count, rondo_type type,
                              rondo_op op, rondo_comm *comm) {
    return run(ARGS(RDI_ALL_REDUCE, send, recv, count, type, op, 0), comm);
}

rondo_status rondo_all_reduce_start(const void *send, void *recv, size_t count, rondo_type type,
                                    rondo_op op, rondo_comm *comm, rondo_request **req) {
    return start(ARGS(RDI_ALL_REDUCE, send, recv, count, type, op, 0), comm, req);
}

rondo_status rondo_reduce_scatter(const void *send, void *recv, size_t count, rondo_type type,
                                  rondo_op op, rondo_comm *comm) {
    return run(ARGS(RDI_REDUCE_SCATTER, send, recv, count, type, op, 0), comm);
}

rondo_status rondo_reduce_scatter_start(const void *send, void *recv, size_t count, rondo_type type,
                                        rondo_op op, rondo_comm *comm, rondo_request **req) {
    return start(ARGS(RDI_REDUCE_SCATTER, send, recv, count, type, op, 0), comm, req);
}

rondo_status rondo_all_gather(const void *send, void *recv, size_t count, rondo_type type,
                              rondo_comm *comm) {
    return run(ARGS(RDI_ALL_GATHER, send, recv, count, type, RONDO_SUM, 0), comm);
}

rondo_status rondo_all_gather_start(const void *send, void *recv, size_t count, rondo_type type,
                                    rondo_comm *comm, rondo_request **req) {
    return start(ARGS(RDI_ALL_GATHER, send, recv, count, type, RONDO_SUM, 0), comm, req);
}

rondo_status rondo_broadcast(const void *send, void *recv, size_t count, rondo_type type, int root,
                             rondo_comm *comm) {
    return run(ARGS(RDI_BROADCAST, send, recv, count, type, RONDO_SUM, root), comm);
}

rondo_status rondo_broadcast_start(const void *send, void *recv, size_t count, rondo_type type,
                                   int root, rondo_comm *comm, rondo_request **req) {
    return start(ARGS(RDI_BROADCAST, send, recv, count, type, RONDO_SUM, root), comm, req);
}

rondo_status rondo_reduce(const void *send, void *recv, size_t count, rondo_type type, rondo_op op,
                          int root, rondo_comm *comm) {
    return run(ARGS(RDI_REDUCE, send, recv, count, type, op, root), comm);
}

rondo_status rondo_reduce_start(const void *send, void *recv, size_t count, rondo_type type,
                                rondo_op op, int root, rondo_comm *comm, rondo_request **req) {
    return start(ARGS(RDI_REDUCE, send, recv, count, type, op, root), comm, req);
}

rondo_status rondo_all_to_all(const void *send, void *recv, size_t count, rondo_type type,
                              rondo_comm *comm) {
    return run(ARGS(RDI_ALL_TO_ALL, send, recv, count, type, RONDO_SUM, 0), comm);
}

rondo_status rondo_all_to_all_start(const void *send, void *recv, size_t count, rondo_type type,
                                    rondo_comm *comm, rondo_request **req) {
    return start(ARGS(RDI_ALL_TO_ALL, send, recv, count, type, RONDO_SUM, 0), comm, req);
}

rondo_status rondo_barrier(rondo_comm *comm) {
    return run(ARGS(RDI_BARRIER, NULL, NULL, 0, RONDO_U8, RONDO_SUM, 0), comm);
}

rondo_status rondo_barrier_start(rondo_comm *comm, rondo_request **req) {
    return start(ARGS(RDI_BARRIER, NULL, NULL, 0, RONDO_U8, RONDO_SUM, 0), comm, req);
}

rondo_status rondo_send(const void *buf, size_t count, rondo_type type, int peer,
                        rondo_comm *comm) {
    return run(ARGS(RDI_SEND, buf, NULL, count, type, RONDO_SUM, peer), comm);
}

rondo_status rondo_send_start(const void *buf, size_t count, rondo_type type, int peer,
                              rondo_comm *comm, rondo_request **req) {
    return start(ARGS(RDI_SEND, buf, NULL, count, type, RONDO_SUM, peer), comm, req);
}

rondo_status rondo_recv(void *buf, size_t count, rondo_type type, int peer, rondo_comm *comm) {
    return run(ARGS(RDI_RECV, NULL, buf, count, type, RONDO_SUM, peer), comm);
}

rondo_status rondo_recv_start(void *buf, size_t count, rondo_type type, int peer, rondo_comm *comm,
                              rondo_request **req) {
    return start(ARGS(RDI_RECV, NULL, buf, count, type, RONDO_SUM, peer), comm, req);
}

// ---- Questions -----------------------------------------------------------------------------------

int rondo_comm_rank(const rondo_comm *comm) { return comm ? comm->rank : -1; }

int rondo_comm_size(const rondo_comm *comm) { return comm ? comm->size : -1; }

int rondo_comm_local_rank(const rondo_comm *comm) { return comm ? comm->local_rank : -1; }

int rondo_comm_local_size(const rondo_comm *comm) { return comm ? comm->local_size : -1; }

rondo_status rondo_comm_error(const rondo_comm *comm) {
    if (!comm) {
        return rdi_fail(RONDO_ERR_INVALID, "rondo_comm_error: the communicator is NULL");
    }
    int s = atomic_load(&comm->status);
    if (s != RONDO_OK) {
        rdi_set_last_error(comm->why);
    }
    return (rondo_status)s;
}

rondo_status rondo_set_timeout(rondo_comm *comm, int timeout_ms) {
    if (!comm || timeout_ms < 1) {
        return rdi_fail(RONDO_ERR_INVALID, "rondo_set_timeout: %s",
                        comm ? "the time must be at least 1 ms" : "the communicator is NULL");
    }
    atomic_store(&comm->timeout_ms, timeout_ms);
    return RONDO_OK;
}

static uint64_t strangers_of(const struct rdi_engine *e) {
    uint64_t n = e->watch ? rdi_watch_strangers(e->watch) : 0;
    for (unsigned i = 0; i < e->nnets; i++) {
        n += atomic_load(&e->nets[i]->strangers);
    }
    return n;
}

static uint64_t damaged_of(const struct rdi_engine *e) {
    uint64_t n = e->watch ? rdi_watch_damaged(e->watch) : 0;
    for (unsigned i = 0; i < e->nnets; i++) {
        n += atomic_load(&e->nets[i]->damaged);
    }
    return n;
}

rondo_status rondo_comm_get_stats(const rondo_comm *comm, rondo_comm_stats *out) {
    if (!comm || !out || out->size < sizeof(size_t)) {
        return rdi_fail(RONDO_ERR_INVALID,
                        "rondo_comm_get_stats: a pointer is NULL or out->size is not set");
    }
    rondo_comm_stats s = {.size = out->size,
                          .operations = atomic_load(&comm->operations),
                          .bytes_sent = atomic_load(&comm->bytes_sent),
                          .bytes_received = atomic_load(&comm->bytes_received),
                          .bytes_sent_shm = atomic_load(&comm->bytes_shm),
                          .bytes_sent_tcp = atomic_load(&comm->bytes_tcp),
                          .messages_sent = atomic_load(&comm->messages),
                          .resets = atomic_load(&comm->resets),
                          .sleeps = rdi_driver_sleeps(comm->engine->driver),
                          .bytes_sent_verbs = atomic_load(&comm->bytes_verbs),
                          .strangers = strangers_of(comm->engine),
                          .damaged = damaged_of(comm->engine)};
    memcpy(out, &s, out->size < sizeof s ? out->size : sizeof s);
    return RONDO_OK;
}

rondo_status rondo_comm_plan(const rondo_comm *comm, size_t bytes, char *buf, size_t cap) {
    if (!comm || !buf || cap == 0) {
        return rdi_fail(RONDO_ERR_INVALID,
                        "rondo_comm_plan: a pointer is NULL or the buffer is empty");
    }
    const struct rdi_plan *p = &comm->plan;
    int streams = comm->layout.nstreams > 0 ? comm->layout.nstreams : 1;
    snprintf(
        buf, cap,
        "all_reduce of %zu bytes on %u ranks (%u host%s, at most %u per host, %d stream%s): %s, "
        "order %s, blocks of %llu bytes",
        bytes, p->ranks, p->hosts, p->hosts == 1 ? "" : "s", p->max_local, streams,
        streams == 1 ? "" : "s", rdi_algo_name(rdi_plan_choose(p, RDI_ALL_REDUCE, bytes)),
        p->strict ? "strict" : "default", (unsigned long long)p->block);
    return RONDO_OK;
}
