// SPDX-License-Identifier: MIT
// Copies and sets, with what CUDA says of pinned and pageable host memory:
//
//     to the device    from pinned memory: read when the stream comes to it; from pageable memory: read at the call
//     to the host      into pinned memory: when the stream comes to it; into pageable memory: done at return
//
// and without Async: done at return, but for up to 64 KiB from pageable memory, which then only were read.
#include "tests/mock_cuda/mock.h"

#include <stdlib.h>
#include <string.h>

#define SMALL 65536u

// The device's end of a copy.
static rdi_cu_result device_end(uint64_t address, size_t bytes, struct mc_op *op, unsigned use) {
    struct mc_mem *m = mc_mem_find(address);
    if (!m)
        return RDI_CU_INVALID_VALUE;
    if (!mc_mem_holds(m, address, bytes)) {
        mc_mem_put(m);
        return RDI_CU_INVALID_VALUE;
    }
    mc_op_use(op, use, m);
    return RDI_CU_OK;
}

// The host's end: *pinned tells whether the driver knows the memory.
static rdi_cu_result host_end(const void *p, size_t bytes, struct mc_op *op, unsigned use,
                              bool *pinned) {
    struct mc_mem *m = mc_mem_find((uintptr_t)p);
    *pinned = m != NULL;
    if (!m) {
        if (mc_arena_has((uintptr_t)p))
            mc_rule("copy-direction", "the host's end of a copy is the device address %p, freed",
                    p);
        return RDI_CU_OK;
    }
    if (mc_is_device(m))
        mc_rule("copy-direction", "the host's end of a copy is the device address %p", p);
    if (!mc_mem_holds(m, (uintptr_t)p, bytes)) {
        mc_mem_put(m);
        return RDI_CU_INVALID_VALUE;
    }
    mc_op_use(op, use, m);
    return RDI_CU_OK;
}

static rdi_cu_result enqueue(rdi_cu_stream stream, struct mc_op *op, rdi_cu_result r, bool wait) {
    struct mc_stream *s;
    if (r == RDI_CU_OK)
        r = mc_stream_of(stream, &s);
    if (r) {
        mc_op_free(op);
        return r;
    }
    uint64_t ticket = mc_enqueue(s, op);
    if (wait) {
        mc_stream_wait(s, ticket, "a copy");
        r = atomic_load(&s->ctx->error);
    }
    return r;
}

static rdi_cu_result to_device(rdi_cu_ptr to, const void *from, size_t bytes, rdi_cu_stream stream,
                               bool async) {
    if (bytes == 0)
        return RDI_CU_OK;
    struct mc_op *op = mc_op_new(MC_COPY);
    op->to = to;
    op->bytes = bytes;
    bool pinned = false;
    rdi_cu_result r = device_end(to, bytes, op, 0);
    if (r == RDI_CU_OK)
        r = host_end(from, bytes, op, 1, &pinned);
    bool wait = !async && (pinned || bytes > SMALL);
    if (r == RDI_CU_OK && pinned) {
        op->from = (uintptr_t)from;
    } else if (r == RDI_CU_OK) {
        op->host_from = malloc(bytes);
        op->staged = true;
        if (!op->host_from)
            r = RDI_CU_OUT_OF_MEMORY;
        else
            memcpy(op->host_from, from, bytes);
        mc_count(MC_N_STAGED, 1);
    }
    mc_count(MC_N_H2D, 1);
    mc_count(MC_N_H2D_BYTES, bytes);
    return enqueue(stream, op, r, wait);
}

static rdi_cu_result to_host(void *to, rdi_cu_ptr from, size_t bytes, rdi_cu_stream stream,
                             bool async) {
    if (bytes == 0)
        return RDI_CU_OK;
    struct mc_op *op = mc_op_new(MC_COPY);
    op->from = from;
    op->bytes = bytes;
    bool pinned = false;
    rdi_cu_result r = device_end(from, bytes, op, 0);
    if (r == RDI_CU_OK)
        r = host_end(to, bytes, op, 1, &pinned);
    if (pinned) {
        op->to = (uintptr_t)to;
    } else {
        op->host_to = to;
        mc_count(MC_N_STAGED, 1);
    }
    mc_count(MC_N_D2H, 1);
    mc_count(MC_N_D2H_BYTES, bytes);
    return enqueue(stream, op, r, !async || !pinned);
}

rdi_cu_result cuMemcpyHtoD_v2(rdi_cu_ptr to, const void *from, size_t bytes) {
    MC_ENTER(cuMemcpyHtoD_v2, MC_NEED_CTX);
    return to_device(to, from, bytes, NULL, false);
}

rdi_cu_result cuMemcpyDtoH_v2(void *to, rdi_cu_ptr from, size_t bytes) {
    MC_ENTER(cuMemcpyDtoH_v2, MC_NEED_CTX);
    return to_host(to, from, bytes, NULL, false);
}

rdi_cu_result cuMemcpyHtoDAsync_v2(rdi_cu_ptr to, const void *from, size_t bytes,
                                   rdi_cu_stream stream) {
    MC_ENTER(cuMemcpyHtoDAsync_v2, MC_NEED_CTX);
    return to_device(to, from, bytes, stream, true);
}

rdi_cu_result cuMemcpyDtoHAsync_v2(void *to, rdi_cu_ptr from, size_t bytes, rdi_cu_stream stream) {
    MC_ENTER(cuMemcpyDtoHAsync_v2, MC_NEED_CTX);
    return to_host(to, from, bytes, stream, true);
}

rdi_cu_result cuMemcpyDtoDAsync_v2(rdi_cu_ptr to, rdi_cu_ptr from, size_t bytes,
                                   rdi_cu_stream stream) {
    MC_ENTER(cuMemcpyDtoDAsync_v2, MC_NEED_CTX);
    if (bytes == 0)
        return RDI_CU_OK;
    struct mc_op *op = mc_op_new(MC_COPY);
    op->to = to;
    op->from = from;
    op->bytes = bytes;
    rdi_cu_result r = device_end(to, bytes, op, 0);
    if (r == RDI_CU_OK)
        r = device_end(from, bytes, op, 1);
    mc_count(MC_N_D2D, 1);
    mc_count(MC_N_D2D_BYTES, bytes);
    return enqueue(stream, op, r, false);
}

rdi_cu_result cuMemsetD8Async(rdi_cu_ptr to, unsigned char value, size_t bytes,
                              rdi_cu_stream stream) {
    MC_ENTER(cuMemsetD8Async, MC_NEED_CTX);
    if (bytes == 0)
        return RDI_CU_OK;
    struct mc_op *op = mc_op_new(MC_SET);
    op->to = to;
    op->value = value;
    op->bytes = bytes;
    mc_count(MC_N_SETS, 1);
    mc_count(MC_N_SET_BYTES, bytes);
    return enqueue(stream, op, device_end(to, bytes, op, 0), false);
}
