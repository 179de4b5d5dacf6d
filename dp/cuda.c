// SPDX-License-Identifier: MIT
// CUDA devices. Each has a stream of its own, on which everything is enqueued that it does; what the calls of dp.h
// return is complete. The fold over devices is on device 0, by the kernels of ring/cuda, in the order of the devices:
//
//   device 0's stream    | copy grads 1 | add | copy grads 2 | add | …      the copy only where another device has them
//
// The driver finds the way between two devices by itself: their link, or the host's memory.
#include "transport/cuda/cuda.h"
#include "dp/internal.h"
#include "ring/cuda/step.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct rdi_dp_cuda {
    struct rdi_cuda_device *cuda;
    rdi_cu_stream stream;
    rdi_cu_ptr staging;                    // device 0: a block of another device's gradients
    rdi_cu_function sum[RONDO_TYPE_COUNT]; // device 0: of the types that there are
};

static rondo_status failed(const struct rdi_dp_device *k, rdi_cu_result r, const char *what) {
    return r == RDI_CU_OK ? RONDO_OK
                          : rdi_cuda_fail(r, "device %d (%s) cannot %s", k->index, k->name, what);
}

static rdi_cu_ptr address(const void *p) { return (rdi_cu_ptr)(uintptr_t)p; }

// ---- Finding -------------------------------------------------------------------------------------

static rondo_status find_kernels(struct rondo_dp *dp, struct rdi_dp_cuda *c) {
    static const char *const types[RONDO_TYPE_COUNT] = {
        [RONDO_F32] = "f32",   [RONDO_F64] = "f64",       [RONDO_F16] = "f16",
        [RONDO_BF16] = "bf16", [RONDO_F8E4M3] = "f8e4m3", [RONDO_F8E5M2] = "f8e5m2"};
    rondo_status s = RONDO_OK;
    for (size_t i = 0; i < dp->nruns && s == RONDO_OK && dp->devices > 1; i++) {
        const rondo_type t = dp->runs[i].type;
        char name[40];
        snprintf(name, sizeof name, "rdi_step_sum_%s", types[t]);
        s = c->sum[t] ? RONDO_OK : rdi_cuda_kernel(c->cuda, name, &c->sum[t]);
    }
    return s;
}

static rondo_status find_one(struct rdi_dp_device *k, int ordinal) {
    k->cuda = calloc(1, sizeof *k->cuda);
    if (!k->cuda) {
        return rdi_fail(RONDO_ERR_NOMEM, "out of memory for device %d", k->index);
    }
    rondo_status s = rdi_cuda_device(ordinal, &k->cuda->cuda);
    if (s != RONDO_OK) {
        return rdi_fail_prefix(s, "options.cuda[%d], device %d", k->index, k->index);
    }
    const struct rdi_cuda_device *d = k->cuda->cuda;
    size_t memory = 0;
    snprintf(k->name, sizeof k->name, "CUDA device %d (%s)", ordinal, d->name);
    k->core_word = "multiprocessors";
    k->cores = d->multiprocessors > 0 ? (unsigned)d->multiprocessors : 0;
    k->memory = d->cu->device_memory(&memory, d->device) == RDI_CU_OK ? memory : 0;
    return RONDO_OK;
}

rondo_status rdi_dp_cuda_find(struct rondo_dp *dp, const int *ordinals) {
    rondo_status s = RONDO_OK;
    for (int i = 0; i < dp->devices && s == RONDO_OK; i++) {
        s = find_one(&dp->device[i], ordinals[i]);
    }
    return s;
}

void rdi_dp_cuda_forget(struct rondo_dp *dp) {
    for (int i = 0; dp->device && i < dp->devices; i++) {
        free(dp->device[i].cuda);
    }
}

// ---- Life ----------------------------------------------------------------------------------------

static rondo_status check_params(const struct rdi_dp_device *k) {
    const struct rondo_dp *dp = k->dp;
    const int ordinal = k->cuda->cuda->ordinal;
    for (size_t i = 0; i < dp->nparams; i++) {
        struct rdi_cuda_where w;
        rondo_status s = rdi_cuda_classify(dp->params[i].data, dp->params[i].bytes, &w);
        if (s == RONDO_OK && (w.kind != RDI_CUDA_DEVICE || w.ordinal != ordinal)) {
            s = rdi_fail(RONDO_ERR_INVALID,
                         "parameter %zu at %p is %s, not on CUDA device %d, which is device 0", i,
                         dp->params[i].data,
                         w.kind == RDI_CUDA_DEVICE ? "on another device" : "host memory", ordinal);
        }
        if (s != RONDO_OK) {
            return s;
        }
    }
    return RONDO_OK;
}

static rdi_cu_result take(struct rdi_dp_device *k, rdi_cu_ptr *out) {
    const struct rdi_cuda_api *cu = k->cuda->cuda->cu;
    rdi_cu_result r = cu->mem_alloc(out, k->dp->block);
    return r == RDI_CU_OK ? cu->set_async(*out, 0, k->dp->block, k->cuda->stream) : r;
}

// Whether some device's gradients are not in device 0's memory.
static bool needs_staging(const struct rondo_dp *dp) {
    for (int i = 1; i < dp->devices; i++) {
        if (dp->device[i].cuda->cuda != dp->device[0].cuda->cuda) {
            return true;
        }
    }
    return false;
}

static rondo_status open_inside(struct rdi_dp_device *k) {
    struct rdi_dp_cuda *c = k->cuda;
    const struct rdi_cuda_api *cu = c->cuda->cu;
    rondo_status s = k->index == 0 ? check_params(k) : RONDO_OK;
    s = s == RONDO_OK && k->index == 0 ? find_kernels(k->dp, c) : s;
    if (s != RONDO_OK) {
        return s;
    }
    rdi_cu_ptr grads = 0, params = 0;
    s = failed(k, cu->stream_create(&c->stream, RDI_CU_STREAM_NON_BLOCKING, 0), "make a stream");
    rdi_cu_result r = s == RONDO_OK ? take(k, &grads) : RDI_CU_OK;
    r = s == RONDO_OK && r == RDI_CU_OK && k->index > 0 ? take(k, &params) : r;
    r = s == RONDO_OK && r == RDI_CU_OK && k->index == 0 && needs_staging(k->dp)
            ? take(k, &c->staging)
            : r;
    k->grads = (unsigned char *)(uintptr_t)grads;
    k->params = (unsigned char *)(uintptr_t)params;
    if (r != RDI_CU_OK) {
        return rdi_cuda_fail(r, "no memory for blocks of %zu bytes on device %d (%s)", k->dp->block,
                             k->index, k->name);
    }
    return s == RONDO_OK ? failed(k, cu->stream_sync(c->stream), "zero its gradients") : s;
}

static rondo_status open_cuda(struct rdi_dp_device *k) {
    rondo_status s = rdi_cuda_enter(k->cuda->cuda);
    if (s == RONDO_OK) {
        s = open_inside(k);
        rdi_cuda_leave(k->cuda->cuda);
    }
    return s;
}

static void close_cuda(struct rdi_dp_device *k) {
    struct rdi_dp_cuda *c = k->cuda;
    if (rdi_cuda_enter(c->cuda) != RONDO_OK) {
        return;
    }
    const rdi_cu_ptr blocks[] = {address(k->grads), address(k->params), c->staging};
    for (size_t i = 0; i < sizeof blocks / sizeof blocks[0]; i++) {
        if (blocks[i]) {
            (void)c->cuda->cu->mem_free(blocks[i]);
        }
    }
    if (c->stream) {
        (void)c->cuda->cu->stream_destroy(c->stream);
    }
    rdi_cuda_leave(c->cuda);
}

// ---- Work ----------------------------------------------------------------------------------------

static rondo_status begin(struct rdi_dp_device *k, rondo_stream *stream) {
    *stream = (rondo_stream)k->cuda->stream;
    return rdi_cuda_enter(k->cuda->cuda);
}

// Waits for what was enqueued, and ends begin().
static rondo_status settle(struct rdi_dp_device *k) {
    rondo_status s =
        failed(k, k->cuda->cuda->cu->stream_sync(k->cuda->stream), "complete its work");
    rdi_cuda_leave(k->cuda->cuda);
    return s;
}

// After begin(): the work is complete, or the first thing that went wrong is told.
static rondo_status end(struct rdi_dp_device *k, rdi_cu_result r, const char *what) {
    rondo_status s = failed(k, r, what);
    char text[RDI_ERROR_TEXT];
    snprintf(text, sizeof text, "%s", rondo_last_error());
    rondo_status settled = settle(k);
    if (s != RONDO_OK) {
        rdi_set_last_error(text);
    }
    return s == RONDO_OK ? settled : s;
}

static rondo_status copy(struct rdi_dp_device *k, const void *from, void *to, size_t bytes,
                         const char *what) {
    rondo_stream stream;
    rondo_status s = begin(k, &stream);
    return s == RONDO_OK ? end(k,
                               k->cuda->cuda->cu->copy_async(address(to), address(from), bytes,
                                                             k->cuda->stream),
                               what)
                         : s;
}

static rondo_status replicate(struct rdi_dp_device *k) {
    const struct rondo_dp *dp = k->dp;
    rondo_stream stream;
    rondo_status s = k->index > 0 ? begin(k, &stream) : RONDO_OK;
    if (s != RONDO_OK || k->index == 0) {
        return s;
    }
    rdi_cu_result r = RDI_CU_OK;
    for (size_t i = 0; i < dp->nparams && r == RDI_CU_OK; i++) {
        const struct rdi_dp_param *p = &dp->params[i];
        r = k->cuda->cuda->cu->copy_async(address(k->params) + p->at, address(p->data), p->bytes,
                                          k->cuda->stream);
    }
    return end(k, r, "copy the parameters of device 0");
}

static rondo_status zero(struct rdi_dp_device *k) {
    rondo_stream stream;
    rondo_status s = begin(k, &stream);
    return s == RONDO_OK ? end(k,
                               k->cuda->cuda->cu->set_async(address(k->grads), 0, k->dp->block,
                                                            k->cuda->stream),
                               "zero its gradients")
                         : s;
}

// Adds a run of a block at `from` to device 0's.
static rdi_cu_result add(struct rdi_dp_device *k, const struct rdi_dp_run *r, rdi_cu_ptr from) {
    const struct rdi_dp_cuda *c = k->cuda;
    const uint64_t sum = address(k->grads) + r->at;
    struct rdi_gpu_step step = {.in = sum, .local = from + r->at, .dst = sum, .bytes = r->bytes};
    void *args[] = {&step};
    const uint64_t block = RDI_STEP_BLOCK *
                           UINT64_C(64); // bytes that a block of threads has under way
    const uint64_t want = (r->bytes + block - 1) / block, most = 2 * (uint64_t)(k->cores + 1);
    return c->cuda->cu->launch(c->sum[r->type], (unsigned)(want < most ? want : most), 1, 1,
                               RDI_STEP_BLOCK, 1, 1, 0, c->stream, args, NULL);
}

static rondo_status reduce(struct rdi_dp_device *k, int used) {
    const struct rondo_dp *dp = k->dp;
    const struct rdi_cuda_api *cu = k->cuda->cuda->cu;
    rondo_stream stream;
    rondo_status s = k->index == 0 ? begin(k, &stream) : RONDO_OK;
    if (s != RONDO_OK || k->index > 0) {
        return s;
    }
    rdi_cu_result r = RDI_CU_OK;
    for (int d = 1; d < used && r == RDI_CU_OK; d++) {
        rdi_cu_ptr from = address(dp->device[d].grads);
        if (dp->device[d].cuda->cuda != k->cuda->cuda) {
            r = cu->copy_async(k->cuda->staging, from, dp->block, k->cuda->stream);
            from = k->cuda->staging;
        }
        for (size_t i = 0; i < dp->nruns && r == RDI_CU_OK; i++) {
            r = add(k, &dp->runs[i], from);
        }
    }
    return end(k, r, "add up gradients");
}

static rondo_status gather(struct rdi_dp_device *k, const void *part, void *to, size_t bytes) {
    return part == to ? RONDO_OK : copy(k, part, to, bytes, "copy its rows to device 0");
}

const struct rdi_dp_place rdi_dp_place_cuda = {.open = open_cuda,
                                               .close = close_cuda,
                                               .replicate = replicate,
                                               .zero = zero,
                                               .reduce = reduce,
                                               .gather = gather,
                                               .begin = begin,
                                               .settle = settle};
