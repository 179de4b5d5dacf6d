// SPDX-License-Identifier: MIT
// Memory operations: 32-bit waits and writes in stream order.
#include "tests/mock_cuda/mock.h"

#include <stdlib.h>

// Hardware would wait for ever, or write somewhere: memory that the device cannot address aborts.
static struct mc_mem *target(const struct mc_stream *s, uint64_t address) {
    struct mc_mem *m = mc_mem_find(address);
    if (!m || m->kind == MC_MANAGED || !mc_mem_holds(m, address, 4))
        mc_rule(
            "memop-address",
            "a memory operation of stream %u on 0x%llx, which is neither pinned, registered nor "
            "device memory",
            s->number, (unsigned long long)address);
    return m;
}

static rdi_cu_result check(const struct mc_stream *s, uint64_t address, unsigned flags, bool wait) {
    const struct mc_attributes *a = mc_attributes_of(s->ctx);
    unsigned known = wait ? 3u | RDI_CU_WAIT_FLUSH : 1u;
    if (!a->memops)
        return RDI_CU_NOT_SUPPORTED;
    if (address % 4 || (flags & ~known))
        return RDI_CU_INVALID_VALUE;
    if (wait && (flags & 3) > RDI_CU_WAIT_EQ)
        return RDI_CU_NOT_SUPPORTED; // AND and NOR: the mock has no need of them
    if (wait && (flags & RDI_CU_WAIT_FLUSH) && !a->can_flush)
        return RDI_CU_NOT_SUPPORTED;
    return RDI_CU_OK;
}

static struct mc_op *make(const struct mc_stream *s, uint64_t address, uint32_t value,
                          unsigned flags, bool wait) {
    struct mc_op *op = mc_op_new(wait ? MC_WAIT32 : MC_WRITE32);
    mc_op_use(op, 0, target(s, address));
    op->to = address;
    op->value = value;
    op->flags = flags;
    mc_count(wait ? MC_N_WAITS : MC_N_WRITES, 1);
    return op;
}

// The stream; it must be the current context's, as CUDA leaves undefined what happens otherwise.
static rdi_cu_result stream_of(rdi_cu_stream handle, struct mc_stream **s) {
    rdi_cu_result r = mc_stream_of(handle, s);
    if (r == RDI_CU_OK && (*s)->ctx != mc_ctx_current())
        mc_rule("foreign-context",
                "a memory operation for stream %u of device %d, while the context "
                "of device %d is current",
                (*s)->number, (*s)->ctx->ordinal, mc_ctx_current()->ordinal);
    return r;
}

static rdi_cu_result one(rdi_cu_stream stream, rdi_cu_ptr address, uint32_t value, unsigned flags,
                         bool wait) {
    struct mc_stream *s;
    rdi_cu_result r = stream_of(stream, &s);
    if (r == RDI_CU_OK)
        r = check(s, address, flags, wait);
    if (r == RDI_CU_OK)
        mc_enqueue(s, make(s, address, value, flags, wait));
    return r;
}

rdi_cu_result cuStreamWaitValue32_v2(rdi_cu_stream stream, rdi_cu_ptr address, uint32_t value,
                                     unsigned flags) {
    MC_ENTER(cuStreamWaitValue32_v2, MC_NEED_CTX);
    return one(stream, address, value, flags, true);
}

rdi_cu_result cuStreamWriteValue32_v2(rdi_cu_stream stream, rdi_cu_ptr address, uint32_t value,
                                      unsigned flags) {
    MC_ENTER(cuStreamWriteValue32_v2, MC_NEED_CTX);
    return one(stream, address, value, flags, false);
}

rdi_cu_result cuStreamBatchMemOp_v2(rdi_cu_stream stream, unsigned n, rdi_cu_memop *ops,
                                    unsigned flags) {
    MC_ENTER(cuStreamBatchMemOp_v2, MC_NEED_CTX);
    struct mc_stream *s;
    rdi_cu_result r = stream_of(stream, &s);
    if (r)
        return r;
    if (n == 0 || n > 256 || !ops || flags)
        return RDI_CU_INVALID_VALUE;
    for (unsigned i = 0; i < n; i++) {
        uint32_t kind = ops[i].value32.kind;
        if (kind != RDI_CU_OP_WAIT32 && kind != RDI_CU_OP_WRITE32)
            return RDI_CU_INVALID_VALUE;
        r = check(s, ops[i].value32.address, ops[i].value32.flags, kind == RDI_CU_OP_WAIT32);
        if (r)
            return r;
    }
    for (unsigned i = 0; i < n; i++)
        mc_enqueue(s, make(s, ops[i].value32.address, ops[i].value32.value, ops[i].value32.flags,
                           ops[i].value32.kind == RDI_CU_OP_WAIT32));
    return RDI_CU_OK;
}
