// SPDX-License-Identifier: MIT
// Gradients on a CUDA device: buckets in device memory, reduced on a stream of their own while the caller's goes on.
//
//   caller's stream   backward … grad 7, divide … grad 6, divide | grad 5 …             | wait | optimizer
//                                                                 \ event         event /
//   our stream                                                     all_reduce of bucket 0
//
// The host enqueues and goes on. Times come from events, of which there are several sets: a step's are read when the
// device is through with it, which may be some steps later.
#include "ddp/internal.h"
#include "ring/cuda/gpu.h"

#include <stdlib.h>
#include <string.h>

#define SETS 4 // steps that the host may be ahead of the device

struct set { // of events, of one step
    rdi_cu_event ready, begun, reached,
        over; // ready: a bucket is full; begun: first launch; over: last reduction
    bool used;
};

struct rdi_ddp_device {
    struct rdi_cuda_device *cuda;
    rdi_cu_stream compute, comm;
    struct set sets[SETS];
    unsigned current;
    rondo_ddp_stats times; // the times in it
    bool launched;         // something of the current step
};

// The communicator's device layer offers kernels and the context; everything here runs on the caller's thread.
static rondo_status failed(rdi_cu_result r, const char *what) {
    return r == RDI_CU_OK ? RONDO_OK : rdi_cuda_fail(r, "DDP on a device cannot %s", what);
}

// ---- Life ----------------------------------------------------------------------------------------

static rdi_cu_result make_sets(struct rdi_ddp_device *v, const struct rdi_cuda_api *cu) {
    rdi_cu_result r = RDI_CU_OK;
    for (unsigned i = 0; i < SETS && r == RDI_CU_OK; i++) {
        struct set *s = &v->sets[i];
        r = cu->event_create(&s->ready, RDI_CU_EVENT_DISABLE_TIMING);
        r = r == RDI_CU_OK ? cu->event_create(&s->begun, RDI_CU_EVENT_DEFAULT) : r;
        r = r == RDI_CU_OK ? cu->event_create(&s->reached, RDI_CU_EVENT_DEFAULT) : r;
        r = r == RDI_CU_OK ? cu->event_create(&s->over, RDI_CU_EVENT_DEFAULT) : r;
    }
    return r;
}

rondo_status rdi_ddp_device_open(struct rondo_ddp *d, int ordinal, rondo_stream stream) {
    struct rdi_ddp_device *v = calloc(1, sizeof *v);
    if (!v) {
        return rdi_fail(RONDO_ERR_NOMEM, "out of memory for DDP on a device");
    }
    d->device = v;
    if (strcmp(d->comm->engine->options.str[RDI_OPT_PROGRESS], "caller") == 0) {
        return rdi_fail(RONDO_ERR_USAGE,
                        "DDP on a device waits for streams, which need a thread that moves their "
                        "operations: use progress=auto or thread instead of caller");
    }
    v->compute = (rdi_cu_stream)stream;
    rondo_status s = rondo_comm_attach(d->comm, ordinal);
    if (s != RONDO_OK) {
        return s;
    }
    v->cuda = d->comm->gpu->device;
    s = rdi_cuda_enter(v->cuda);
    if (s != RONDO_OK) {
        return s;
    }
    int least = 0, greatest = 0;
    (void)v->cuda->cu->stream_priorities(&least, &greatest);
    rdi_cu_result r = v->cuda->cu->stream_create(&v->comm, RDI_CU_STREAM_NON_BLOCKING, greatest);
    r = r == RDI_CU_OK ? make_sets(v, v->cuda->cu) : r;
    rdi_cuda_leave(v->cuda);
    return failed(r, "make its stream and events");
}

void rdi_ddp_device_close(struct rondo_ddp *d) {
    struct rdi_ddp_device *v = d->device;
    if (v && v->cuda && rdi_cuda_enter(v->cuda) == RONDO_OK) {
        const struct rdi_cuda_api *cu = v->cuda->cu;
        for (unsigned i = 0; i < SETS; i++) {
            const rdi_cu_event all[] = {v->sets[i].ready, v->sets[i].begun, v->sets[i].reached,
                                        v->sets[i].over};
            for (unsigned k = 0; k < 4; k++) {
                if (all[k]) {
                    (void)cu->event_destroy(all[k]);
                }
            }
        }
        if (v->comm) {
            (void)cu->stream_destroy(v->comm);
        }
        rdi_cuda_leave(v->cuda);
    }
    free(v);
    d->device = NULL;
}

rondo_status rdi_ddp_device_check(const struct rondo_ddp *d) {
    int ordinal = d->device->cuda->ordinal;
    for (size_t i = 0; i < d->nparams; i++) {
        const struct rdi_param *p = &d->params[i];
        struct rdi_cuda_where w;
        rondo_status s = rdi_cuda_classify(p->data, p->bytes, &w);
        if (s == RONDO_OK && (w.kind != RDI_CUDA_DEVICE || w.ordinal != ordinal)) {
            s = rdi_fail(RONDO_ERR_INVALID,
                         "parameter %zu (\"%s\") at %p is %s, not on CUDA device %d as "
                         "options.device says",
                         i, p->name, p->data,
                         w.kind == RDI_CUDA_DEVICE ? "on another device" : "host memory", ordinal);
        }
        if (s != RONDO_OK) {
            return s;
        }
    }
    rondo_status s = rdi_cuda_enter(d->device->cuda);
    if (s == RONDO_OK) {
        s = failed(d->device->cuda->cu->stream_sync(d->device->compute), "use the caller's stream");
        rdi_cuda_leave(d->device->cuda);
    }
    return s;
}

// ---- Memory --------------------------------------------------------------------------------------

static rondo_status zero(struct rondo_ddp *d, void *mem, size_t bytes) {
    struct rdi_ddp_device *v = d->device;
    rondo_status s = rdi_cuda_enter(v->cuda);
    if (s == RONDO_OK) {
        s = failed(v->cuda->cu->set_async((uintptr_t)mem, 0, bytes, v->compute), "zero gradients");
        rdi_cuda_leave(v->cuda);
    }
    return s;
}

static rondo_status alloc(struct rondo_ddp *d, size_t bytes, void **mem) {
    struct rdi_ddp_device *v = d->device;
    rdi_cu_ptr p = 0;
    rondo_status s = rdi_cuda_enter(v->cuda);
    if (s != RONDO_OK) {
        return s;
    }
    rdi_cu_result r = v->cuda->cu->mem_alloc(&p, bytes);
    rdi_cuda_leave(v->cuda);
    if (r != RDI_CU_OK) {
        return rdi_cuda_fail(r, "no device memory for a gradient bucket of %zu bytes", bytes);
    }
    *mem = (void *)(uintptr_t)p;
    return zero(d, *mem, bytes);
}

static void release(struct rondo_ddp *d, void *mem) {
    struct rdi_ddp_device *v = d->device;
    if (mem && rdi_cuda_enter(v->cuda) == RONDO_OK) {
        (void)v->cuda->cu->stream_sync(v->comm);
        (void)v->cuda->cu->stream_sync(v->compute);
        (void)v->cuda->cu->mem_free((uintptr_t)mem);
        rdi_cuda_leave(v->cuda);
    }
}

static rondo_status copy(struct rondo_ddp *d, void *to, const void *from, size_t bytes) {
    struct rdi_ddp_device *v = d->device;
    rondo_status s = rdi_cuda_enter(v->cuda);
    if (s == RONDO_OK) {
        s = failed(v->cuda->cu->copy_async((uintptr_t)to, (uintptr_t)from, bytes, v->compute),
                   "copy gradients");
        rdi_cuda_leave(v->cuda);
    }
    return s;
}

static rondo_status divide(struct rondo_ddp *d, void *to, const void *from, size_t count,
                           rondo_type type) {
    struct rdi_ddp_device *v = d->device;
    uint32_t ranks = d->average ? (uint32_t)rondo_comm_size(d->comm) : 1;
    if (to == from && ranks == 1) {
        return RONDO_OK;
    }
    rondo_status s = rdi_cuda_enter(v->cuda);
    if (s == RONDO_OK) {
        s = rdi_gpu_scale(d->comm->gpu, (uintptr_t)to, (uintptr_t)from, count, type, ranks,
                          v->compute);
        rdi_cuda_leave(v->cuda);
    }
    return s;
}

// ---- A step --------------------------------------------------------------------------------------

// The times of one step, if the device is through with it. `wait`: until it is.
static void collect(struct rdi_ddp_device *v, struct set *s, bool wait) {
    const struct rdi_cuda_api *cu = v->cuda->cu;
    float comm = 0, exposed = 0;
    if (!s->used) {
        return;
    }
    if (wait) {
        (void)cu->event_sync(s->over);
        (void)cu->event_sync(s->reached);
    }
    if (cu->event_query(s->over) != RDI_CU_OK || cu->event_query(s->reached) != RDI_CU_OK) {
        return;
    }
    s->used = false;
    if (cu->event_elapsed(&comm, s->begun, s->over) == RDI_CU_OK &&
        cu->event_elapsed(&exposed, s->reached, s->over) == RDI_CU_OK) {
        v->times.step_comm = (double)comm * 1e-3;
        v->times.step_exposed = exposed > 0 ? (double)exposed * 1e-3 : 0.0;
        v->times.total_comm += v->times.step_comm;
        v->times.total_exposed += v->times.step_exposed;
    }
}

void rdi_ddp_device_times(const struct rondo_ddp *d, rondo_ddp_stats *out) {
    struct rdi_ddp_device *v = d->device;
    if (rdi_cuda_enter(v->cuda) == RONDO_OK) {
        for (unsigned i = 1; i <= SETS; i++) { // the oldest first
            collect(v, &v->sets[(v->current + i) % SETS], false);
        }
        rdi_cuda_leave(v->cuda);
    }
    out->step_comm = v->times.step_comm;
    out->step_exposed = v->times.step_exposed;
    out->total_comm = v->times.total_comm;
    out->total_exposed = v->times.total_exposed;
}

static rdi_cu_result order_after_compute(struct rdi_ddp_device *v, struct set *s) {
    const struct rdi_cuda_api *cu = v->cuda->cu;
    rdi_cu_result r = cu->event_record(s->ready, v->compute);
    r = r == RDI_CU_OK ? cu->stream_wait_event(v->comm, s->ready, 0) : r;
    if (r == RDI_CU_OK && !v->launched) {
        r = cu->event_record(s->begun, v->comm);
    }
    return r;
}

static rondo_status launch(struct rondo_ddp *d, struct rdi_bucket *b) {
    struct rdi_ddp_device *v = d->device;
    rondo_status s = rdi_cuda_enter(v->cuda);
    if (s != RONDO_OK) {
        return s;
    }
    if (!v->launched) {
        v->current = (v->current + 1) % SETS;
        collect(v, &v->sets[v->current], true);
    }
    s = failed(order_after_compute(v, &v->sets[v->current]), "order a reduction");
    rdi_cuda_leave(v->cuda);
    if (s == RONDO_OK) {
        v->launched = true;
        s = rondo_all_reduce_stream(b->mem, b->mem, b->count, b->type, RONDO_SUM, d->comm, v->comm);
    }
    return s;
}

static rondo_status finish(struct rondo_ddp *d) {
    struct rdi_ddp_device *v = d->device;
    rondo_status s = rondo_comm_error(d->comm);
    if (s != RONDO_OK || !v->launched) {
        return s;
    }
    s = rdi_cuda_enter(v->cuda);
    if (s != RONDO_OK) {
        return s;
    }
    const struct rdi_cuda_api *cu = v->cuda->cu;
    struct set *set = &v->sets[v->current];
    rdi_cu_result r = cu->event_record(set->over, v->comm);
    r = r == RDI_CU_OK ? cu->event_record(set->reached, v->compute) : r;
    r = r == RDI_CU_OK ? cu->stream_wait_event(v->compute, set->over, 0) : r;
    rdi_cuda_leave(v->cuda);
    set->used = r == RDI_CU_OK;
    v->launched = false;
    return failed(r, "end a step");
}

static void drain(struct rondo_ddp *d) { d->device->launched = false; }

const struct rdi_place rdi_place_device = {.alloc = alloc,
                                           .release = release,
                                           .zero = zero,
                                           .copy = copy,
                                           .divide = divide,
                                           .launch = launch,
                                           .finish = finish,
                                           .drain = drain};
