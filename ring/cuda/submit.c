// SPDX-License-Identifier: MIT
// A collective of device memory: checked, made, put on its stream and handed to the engine. All under one lock, so
// that the order on the device is the engine's.
//
//   stream A:  ... work | op 1 | work ...              op 2 waits for op 1 (event), though on another stream: slots
//   stream B:  ...        (event) op 2 | work ...      are used in the order of calls, and the device knows why it waits
#include "ring/cuda/gpu.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// ---- An operation's memory -----------------------------------------------------------------------

void rdi_gpu_op_free(struct rdi_gpu_op *op) {
    for (unsigned i = 0; op->lanes && i < op->nlanes; i++) {
        free(op->lanes[i].ends);
    }
    free(op->lanes);
    free(op->talks);
    free(op->in_lane);
    free(op->out_lane);
    free(op->program.moves);
    if (op->words) {
        rdi_gpu_words_put(op->gpu, op->words);
    }
    free(op);
}

void rdi_gpu_reclaim(struct rdi_gpu *g) {
    struct rdi_gpu_op *op = atomic_exchange(&g->finished, NULL);
    while (op) {
        struct rdi_gpu_op *next = op->next;
        rdi_gpu_op_free(op);
        op = next;
    }
}

static enum rdi_gpu_class class_of(const struct rdi_gpu_call *c) {
    bool pairs = c->kind == RDI_ALL_TO_ALL || (c->order && rdi_gpu_by_rank(c));
    return c->kind == RDI_SEND || c->kind == RDI_RECV ? RDI_GPU_P2P
           : pairs                                    ? RDI_GPU_PAIRS
                                                      : RDI_GPU_RING;
}

static struct rdi_gpu_talk *talk(struct rdi_gpu_op *op, int peer) {
    for (unsigned i = 0; i < op->ntalks; i++) {
        if (op->talks[i].peer == peer) {
            return &op->talks[i];
        }
    }
    op->talks[op->ntalks] = (struct rdi_gpu_talk){.peer = peer};
    return &op->talks[op->ntalks++];
}

// Counts the pieces of each lane.
static rondo_status count_lanes(struct rdi_gpu_op *op, const struct rdi_gpu_call *c) {
    struct rdi_gpu *g = op->gpu;
    size_t n = (size_t)c->size;
    op->in_lane = malloc(n * sizeof *op->in_lane);
    op->out_lane = malloc(n * sizeof *op->out_lane);
    op->lanes = calloc(2 * n, sizeof *op->lanes);
    op->talks = calloc(n, sizeof *op->talks);
    if (!op->in_lane || !op->out_lane || !op->lanes || !op->talks) {
        return rdi_fail(RONDO_ERR_NOMEM, "out of memory for an operation's lanes");
    }
    memset(op->in_lane, -1, n * sizeof *op->in_lane);
    memset(op->out_lane, -1, n * sizeof *op->out_lane);
    for (size_t i = 0; i < op->program.n; i++) {
        const struct rdi_gpu_move *m = &op->program.moves[i];
        for (int out = 0; out < 2; out++) {
            int peer = out ? m->out : m->in;
            int32_t *lane = peer < 0 ? NULL : out ? &op->out_lane[peer] : &op->in_lane[peer];
            if (lane && *lane < 0) {
                *lane = (int32_t)op->nlanes;
                struct rdi_gpu_lane *l = &op->lanes[op->nlanes++];
                rondo_status s = rdi_gpu_edge_get(g, peer, out, class_of(c), &l->edge);
                if (s != RONDO_OK) {
                    return s;
                }
                l->base = l->edge->given;
            }
            if (lane) {
                op->lanes[*lane].count++;
            }
        }
    }
    return RONDO_OK;
}

static rondo_status lay_lanes(struct rdi_gpu_op *op) {
    for (unsigned i = 0; i < op->nlanes; i++) {
        struct rdi_gpu_lane *l = &op->lanes[i];
        l->ends = malloc(l->count * sizeof *l->ends);
        if (!l->ends) {
            return rdi_fail(RONDO_ERR_NOMEM, "out of memory for an operation's pieces");
        }
        l->flag =
            (_Atomic uint32_t *)(void *)((char *)op->words->memory.host + (size_t)64 * (i + 1));
        l->flag_device = op->words->memory.device + (size_t)64 * (i + 1);
        atomic_store_explicit(l->flag, 0, memory_order_relaxed);
        if (l->edge->reach == RDI_REACH_MEMORY) {
            struct rdi_gpu_talk *t = talk(op, l->edge->peer);
            *(l->edge->out ? &t->out : &t->in) = l;
        }
        l->count = 0; // counted again as steps are written
    }
    return RONDO_OK;
}

// The next piece of a lane: where it is, and which value of the flag it waits for.
static uint64_t next_piece(struct rdi_gpu_op *op, int32_t lane, uint64_t bytes, uint64_t *flag,
                           uint32_t *value) {
    struct rdi_gpu_lane *l = &op->lanes[lane];
    uint32_t k = l->count++;
    l->ends[k] = (k ? l->ends[k - 1] : 0) + bytes;
    *flag = l->flag_device;
    *value = k + 1;
    return l->edge->base + (l->base + k) % l->edge->slots * op->gpu->piece;
}

static void write_steps(struct rdi_gpu_op *op, const struct rondo_request *r) {
    for (size_t i = 0; i < op->program.n; i++) {
        const struct rdi_gpu_move *m = &op->program.moves[i];
        // Steps that follow each other handle different blocks; where a block comes back to a rank, its piece
        // arrives only because the rank was through with the step that sent it. So each may begin early.
        struct rdi_gpu_step s = {.bytes = m->bytes,
                                 .flags = RDI_STEP_EARLY | (m->divide ? RDI_STEP_DIVIDE : 0),
                                 .ranks = (uint32_t)r->comm->size};
        if (m->in >= 0) {
            s.in = next_piece(op, op->in_lane[m->in], m->bytes, &s.in_flag, &s.in_value);
        }
        if (m->out >= 0) {
            s.out = next_piece(op, op->out_lane[m->out], m->bytes, &s.out_flag, &s.out_value);
        }
        if (m->has_local) {
            s.local = (uintptr_t)r->send + m->local;
        }
        if (m->has_dst) {
            s.dst = (uintptr_t)r->recv + m->dst;
        }
        // In place, and unchanged.
        if (s.dst == s.local && !s.in && !(s.flags & RDI_STEP_DIVIDE)) {
            s.dst = 0;
        }
        op->steps[i] = s;
    }
}

static rondo_status make_op(struct rdi_gpu *g, const struct rondo_request *r,
                            struct rdi_gpu_op **out) {
    const struct rdi_gpu_call call = {.kind = r->kind,
                                      .rank = r->comm->rank,
                                      .size = r->comm->size,
                                      .root = r->root,
                                      .order = r->comm->layout.order,
                                      .strict = r->comm->plan.strict != 0,
                                      .divide = r->op == RONDO_AVG,
                                      .bytes = r->bytes,
                                      .piece = g->piece};
    struct rdi_gpu_op *op = calloc(1, sizeof *op);
    if (!op) {
        return rdi_fail(RONDO_ERR_NOMEM, "out of memory for an operation on a device");
    }
    op->gpu = g;
    rondo_status s = RONDO_OK;
    if (!rdi_gpu_program(&call, &op->program)) {
        s = rdi_fail(RONDO_ERR_NOMEM, "out of memory for the steps of %zu bytes", (size_t)r->bytes);
    }
    s = s == RONDO_OK ? count_lanes(op, &call) : s;
    size_t head = 64 * ((size_t)op->nlanes + 1);
    if (s == RONDO_OK) {
        s = rdi_gpu_words_get(g, head + op->program.n * sizeof *op->steps, &op->words);
    }
    s = s == RONDO_OK ? lay_lanes(op) : s;
    if (s != RONDO_OK) {
        rdi_gpu_op_free(op);
        return s;
    }
    op->done = op->words->memory.host;
    op->done_device = op->words->memory.device;
    atomic_store_explicit(op->done, 0, memory_order_relaxed);
    op->steps = (struct rdi_gpu_step *)(void *)((char *)op->words->memory.host + head);
    op->steps_device = op->words->memory.device + head;
    write_steps(op, r);
    *out = op;
    return RONDO_OK;
}

// ---- Checks --------------------------------------------------------------------------------------

static rondo_status check_buffer(const struct rdi_gpu *g, const char *what, const void *ptr,
                                 uint64_t bytes) {
    struct rdi_cuda_where w;
    if (!ptr || bytes == 0) {
        return RONDO_OK;
    }
    rondo_status s = rdi_cuda_classify(ptr, bytes, &w);
    if (s != RONDO_OK) {
        return s;
    }
    if (w.kind != RDI_CUDA_DEVICE) {
        return rdi_fail(RONDO_ERR_INVALID,
                        "the %s buffer (%p) is host memory; calls on a stream take device memory "
                        "for both buffers",
                        what, ptr);
    }
    if (w.ordinal != g->device->ordinal) {
        return rdi_fail(RONDO_ERR_INVALID,
                        "the %s buffer (%p) is on CUDA device %d, but the communicator is attached "
                        "to device %d",
                        what, ptr, w.ordinal, g->device->ordinal);
    }
    return RONDO_OK;
}

static rondo_status check_stream(const struct rdi_gpu *g, rdi_cu_stream stream) {
    const struct rdi_cuda_api *cu = g->device->cu;
    int capturing = RDI_CU_CAPTURE_NONE;
    rdi_cu_ctx ctx = NULL;
    rdi_cu_result r = cu->stream_capturing(stream, &capturing);
    if (r == RDI_CU_STREAM_CAPTURE_UNSUPPORTED || (r == RDI_CU_OK && capturing)) {
        return rdi_fail(RONDO_ERR_UNSUPPORTED,
                        "the stream is being captured into a graph, which collectives of Rondo do "
                        "not support; call them outside of the capture");
    }
    if (r == RDI_CU_OK && stream) {
        r = cu->stream_ctx(stream, &ctx);
    }
    if (r != RDI_CU_OK) {
        return rdi_cuda_fail(r, "%p is no stream that can be used", (void *)stream);
    }
    if (stream && ctx != g->device->ctx) {
        return rdi_fail(RONDO_ERR_INVALID,
                        "the stream %p is not of the primary context of CUDA device %d, to which "
                        "the communicator is attached",
                        (void *)stream, g->device->ordinal);
    }
    return RONDO_OK;
}

static rondo_status check(struct rdi_gpu *g, const struct rondo_request *r, rdi_cu_stream stream) {
    uint64_t ns, nr;
    rdi_buffer_sizes(r, &ns, &nr);
    bool sends = !(r->kind == RDI_BROADCAST && r->root != r->comm->rank);
    bool receives = !(r->kind == RDI_REDUCE && r->root != r->comm->rank);
    rondo_status s = sends ? check_buffer(g, "send", r->send, ns) : RONDO_OK;
    s = s == RONDO_OK && receives ? check_buffer(g, "receive", r->recv, nr) : s;
    return s == RONDO_OK ? check_stream(g, stream) : s;
}

// ---- Submission ----------------------------------------------------------------------------------

// The others wait for our part of an operation that could not be begun, or not wholly.
rondo_status rdi_gpu_give_up(struct rondo_comm *c, rondo_status s) {
    char text[RDI_ERROR_TEXT];
    snprintf(text, sizeof text, "%s", rondo_last_error());
    rdi_driver_lock(c->engine->driver);
    rdi_comm_fail(c, s, "%s", text);
    rdi_driver_unlock(c->engine->driver);
    rdi_set_last_error(text);
    return s;
}

// send and recv use rings of their own, so they are ordered for each peer and direction only; for calls without a
// stream each of these rings has one.
struct order {
    rdi_cu_event *event;
    bool *used;
    rdi_cu_stream stream;
};

static rondo_status order_of(struct rdi_gpu *g, const struct rondo_request *r, struct order *o) {
    *o = (struct order){&g->ordered, &g->used, g->own};
    if (r->kind != RDI_SEND && r->kind != RDI_RECV) {
        return RONDO_OK;
    }
    struct rdi_gpu_edge *e;
    const struct rdi_cuda_api *cu = g->device->cu;
    rondo_status s = rdi_gpu_edge_get(g, r->root, r->kind == RDI_SEND, RDI_GPU_P2P, &e);
    if (s != RONDO_OK) {
        return s;
    }
    rdi_cu_result made = RDI_CU_OK;
    if (!e->ordered) {
        made = cu->event_create(&e->ordered, RDI_CU_EVENT_DISABLE_TIMING);
        made = made == RDI_CU_OK ? cu->stream_create(&e->stream, RDI_CU_STREAM_NON_BLOCKING, 0)
                                 : made;
    }
    *o = (struct order){&e->ordered, &e->used, e->stream};
    return made == RDI_CU_OK ? RONDO_OK : rdi_cuda_fail(made, "cannot make a stream for a pair");
}

// Handles are not compared: one may name another stream by now, or another one in each thread.
static rondo_status after_the_last(struct rdi_gpu *g, const struct order *o, rdi_cu_stream stream) {
    rdi_cu_result r = *o->used ? g->device->cu->stream_wait_event(stream, *o->event, 0) : RDI_CU_OK;
    return r == RDI_CU_OK ? RONDO_OK
                          : rdi_cuda_fail(r, "cannot order a stream after the operation before");
}

// The engine has the operation before the stream does: where the driver's queue is full the call waits until the
// first moves are through. `r` may be complete, and gone, as soon as the operation's last move is enqueued.
static rondo_status begin(struct rdi_gpu *g, struct rondo_request *r, struct rdi_gpu_op *op,
                          const struct order *o, rdi_cu_stream stream) {
    const rondo_type type = r->type;
    const rondo_op what = r->op;
    struct rondo_comm *c = r->comm;
    rondo_status s = after_the_last(g, o, stream);
    for (unsigned i = 0; i < op->nlanes; i++) {
        op->lanes[i].edge->given += op->lanes[i].count;
    }
    r->gpu = op;
    atomic_store(&op->limit, RDI_GPU_ENQUEUING);
    rdi_engine_push(c->engine, r);
    rdi_driver_kick(c->engine->driver);
    if (s == RONDO_OK) {
        s = rdi_gpu_enqueue(g, op, type, what, stream);
    } else {
        atomic_store(&op->limit, 0);
    }
    *o->used = true;
    rdi_cu_result e = g->device->cu->event_record(*o->event, stream);
    if (s == RONDO_OK && e != RDI_CU_OK) {
        s = rdi_cuda_fail(e, "cannot mark the end of an operation");
    }
    return s == RONDO_OK ? s : rdi_gpu_give_up(c, s);
}

// Holding the lock, device entered. *begun: the engine has the request.
static rondo_status put(struct rdi_gpu *g, struct rondo_request *r, rdi_cu_stream stream,
                        bool *begun) {
    struct order o;
    struct rdi_gpu_op *op = NULL;
    const bool own = !r->detached;
    *begun = false;
    // What is wrong with the call is the caller's alone; what goes wrong afterwards concerns all ranks.
    rondo_status s = check(g, r, own ? g->own : stream);
    if (s != RONDO_OK) {
        return s;
    }
    s = order_of(g, r, &o);
    s = s == RONDO_OK ? make_op(g, r, &op) : s;
    if (s != RONDO_OK) {
        return rdi_gpu_give_up(r->comm, s);
    }
    *begun = true;
    return begin(g, r, op, &o, own ? o.stream : stream);
}

rondo_status rdi_gpu_submit(struct rondo_comm *c, enum rdi_kind kind, const void *send, void *recv,
                            size_t count, rondo_type type, rondo_op op, int root,
                            rdi_cu_stream stream, struct rondo_request **req) {
    struct rondo_request *r;
    rondo_status s = rdi_request_new(c, kind, send, recv, count, type, op, root, &r);
    if (s != RONDO_OK) {
        return s;
    }
    struct rdi_gpu *g = c->gpu;
    bool begun = false;
    r->detached = req == NULL;
    pthread_mutex_lock(&g->lock);
    rdi_gpu_reclaim(g);
    s = rdi_cuda_enter(g->device);
    if (s == RONDO_OK) {
        s = put(g, r, stream, &begun);
        rdi_cuda_leave(g->device);
    }
    pthread_mutex_unlock(&g->lock);
    if (!begun) {
        rdi_request_drop(r);
        return s;
    }
    if (req) {
        *req = r;
        return RONDO_OK; // the request tells
    }
    return s;
}
