// SPDX-License-Identifier: MIT
// Moves on a stream.
//
//   chain    per move:  wait in-flag, wait out-flag | kernel | write done        up to RDI_GPU_CHAIN_OPS operations
//   walker   one kernel, which does the same for all moves and holds its multiprocessors meanwhile
//
// The write of one move and the waits of the next go to the driver in one call. The device flushes what NICs
// wrote where its architecture does not order such writes before a flag; only the stream's wait can do that.
#include "ring/cuda/gpu.h"

#include <stdio.h>
#include <string.h>

#define VECTOR UINT64_C(16) // bytes that a thread moves at once

static const char *const types[RONDO_TYPE_COUNT] = {
    "f32", "f64", "f16", "bf16", "i8", "u8", "i32", "u32", "i64", "u64", "f8e4m3", "f8e5m2"};
static const char *const ops[] = {"sum", "prod", "min", "max"};

rondo_status rdi_gpu_kernel(struct rdi_gpu *g, bool walk, rondo_type type, rondo_op op,
                            rdi_cu_function *out) {
    unsigned k = op == RONDO_AVG ? RONDO_SUM : (unsigned)op;
    rdi_cu_function *known = walk ? &g->walk[k][type] : &g->step[k][type];
    if (!*known) {
        char name[64];
        snprintf(name, sizeof name, "rdi_%s_%s_%s", walk ? "walk" : "step", ops[k], types[type]);
        rondo_status s = rdi_cuda_kernel(g->device, name, known);
        if (s != RONDO_OK) {
            *known = NULL;
            return s;
        }
    }
    *out = *known;
    return RONDO_OK;
}

static unsigned blocks_for(const struct rdi_gpu *g, uint64_t bytes) {
    uint64_t want = (bytes + RDI_GPU_THREADS * VECTOR - 1) / (RDI_GPU_THREADS * VECTOR);
    return want < 1 ? 1 : want < g->blocks ? (unsigned)want : g->blocks;
}

// ---- Chain ---------------------------------------------------------------------------------------

static void add_wait(rdi_cu_memop *ops_, unsigned *n, uint64_t flag, uint32_t value, bool flush) {
    if (flag) {
        ops_[*n] = (rdi_cu_memop){0};
        ops_[*n].value32.kind = RDI_CU_OP_WAIT32;
        ops_[*n].value32.address = flag;
        ops_[*n].value32.value = value;
        ops_[*n].value32.flags = RDI_CU_WAIT_GEQ | (flush ? RDI_CU_WAIT_FLUSH : 0);
        (*n)++;
    }
}

static void add_write(rdi_cu_memop *ops_, unsigned *n, rdi_cu_ptr address, uint32_t value) {
    ops_[*n] = (rdi_cu_memop){0};
    ops_[*n].value32.kind = RDI_CU_OP_WRITE32;
    ops_[*n].value32.address = address;
    ops_[*n].value32.value = value;
    (*n)++;
}

// Whether the move reads what a NIC wrote, on a device that does not order such writes.
static bool needs_flush(const struct rdi_gpu *g, const struct rdi_gpu_op *op,
                        const struct rdi_gpu_move *m) {
    return m->in >= 0 && !g->device->ordered &&
           op->lanes[op->in_lane[m->in]].edge->reach == RDI_REACH_DIRECT;
}

static rdi_cu_result chain(struct rdi_gpu *g, struct rdi_gpu_op *op, rdi_cu_function f,
                           rdi_cu_stream stream, size_t *enqueued) {
    const struct rdi_cuda_api *cu = g->device->cu;
    for (size_t i = 0; i < op->program.n; i++) {
        struct rdi_gpu_step *step = &op->steps[i];
        bool flush = needs_flush(g, op, &op->program.moves[i]);
        rdi_cu_memop memops[3];
        unsigned n = 0;
        if (i > 0) {
            add_write(memops, &n, op->done_device, (uint32_t)i);
        }
        add_wait(memops, &n, step->in_flag, step->in_value, flush);
        add_wait(memops, &n, step->out_flag, step->out_value, false);
        rdi_cu_result r = n ? cu->batch_memop(stream, n, memops, 0) : RDI_CU_OK;
        if (r != RDI_CU_OK) {
            return r;
        }
        *enqueued = i;
        void *args[] = {step};
        r = cu->launch(f, blocks_for(g, step->bytes), 1, 1, RDI_GPU_THREADS, 1, 1, 0, stream, args,
                       NULL);
        if (r != RDI_CU_OK) {
            return r;
        }
    }
    rdi_cu_result r =
        cu->write_value(stream, op->done_device, (uint32_t)op->program.n, RDI_CU_WRITE_DEFAULT);
    *enqueued = r == RDI_CU_OK ? op->program.n : *enqueued;
    return r;
}

// ---- Walker --------------------------------------------------------------------------------------

static rdi_cu_result walker(struct rdi_gpu *g, struct rdi_gpu_op *op, rdi_cu_function f,
                            rdi_cu_stream stream, size_t *enqueued) {
    uint32_t n = (uint32_t)op->program.n;
    void *args[] = {&op->steps_device, &n, &op->done_device, &op->words->arrive};
    rdi_cu_result r = g->device->cu->launch(f, blocks_for(g, g->piece), 1, 1, RDI_GPU_THREADS, 1, 1,
                                            0, stream, args, NULL);
    *enqueued = r == RDI_CU_OK ? n : 0;
    return r;
}

static bool must_chain(const struct rdi_gpu *g, const struct rdi_gpu_op *op) {
    for (size_t i = 0; i < op->program.n; i++) {
        if (needs_flush(g, op, &op->program.moves[i])) {
            return true;
        }
    }
    return false;
}

rondo_status rdi_gpu_enqueue(struct rdi_gpu *g, struct rdi_gpu_op *op, rondo_type type,
                             rondo_op what, rdi_cu_stream stream) {
    rdi_cu_function f;
    size_t enqueued = 0;
    bool walk = op->program.n * 4 > RDI_GPU_CHAIN_OPS && !must_chain(g, op);
    rondo_status s = rdi_gpu_kernel(g, walk, type, what, &f);
    rdi_cu_result r = RDI_CU_OK;
    if (s == RONDO_OK && op->program.n > 0) {
        r = walk ? walker(g, op, f, stream, &enqueued) : chain(g, op, f, stream, &enqueued);
    }
    // What is on the stream by now cannot be taken back.
    atomic_store_explicit(&op->limit, enqueued, memory_order_release);
    return r == RDI_CU_OK
               ? s
               : rdi_cuda_fail(r, "cannot put a collective on a stream of CUDA device %d (%s)",
                               g->device->ordinal, g->device->name);
}

rondo_status rdi_gpu_scale(struct rdi_gpu *g, rdi_cu_ptr dst, rdi_cu_ptr src, size_t count,
                           rondo_type type, uint32_t divisor, rdi_cu_stream stream) {
    rdi_cu_function f;
    rondo_status s = rdi_gpu_kernel(g, false, type, RONDO_SUM, &f);
    if (s != RONDO_OK || count == 0) {
        return s;
    }
    struct rdi_gpu_step step = {.local = src,
                                .dst = dst,
                                .bytes = count * rondo_type_size(type),
                                .flags = divisor > 1 ? RDI_STEP_DIVIDE : 0,
                                .ranks = divisor};
    void *args[] = {&step};
    // The computation waits for this copy: all multiprocessors may help.
    uint64_t want = (step.bytes + RDI_GPU_THREADS * VECTOR * 4 - 1) /
                    (RDI_GPU_THREADS * VECTOR * 4);
    uint64_t most = 2 * (uint64_t)(g->device->multiprocessors > 0 ? g->device->multiprocessors : 1);
    rdi_cu_result r = g->device->cu->launch(f, (unsigned)(want < most ? want : most), 1, 1,
                                            RDI_GPU_THREADS, 1, 1, 0, stream, args, NULL);
    return r == RDI_CU_OK ? RONDO_OK : rdi_cuda_fail(r, "cannot copy a gradient on the device");
}
