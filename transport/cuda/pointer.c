// SPDX-License-Identifier: MIT
// Whose memory is this? The driver knows every address that it gave out; all others are the host's.
#include "transport/cuda/cuda.h"

#include <string.h>

// The driver knows memory by allocations, or by what was mapped at a time (VMM): a buffer may span several of these.
static rondo_status device_range(const struct rdi_cuda_api *cu, const void *ptr, size_t len,
                                 struct rdi_cuda_where *out) {
    static const int what[] = {RDI_CU_PTR_MEMORY_TYPE, RDI_CU_PTR_DEVICE_ORDINAL,
                               RDI_CU_PTR_RANGE_START, RDI_CU_PTR_RANGE_SIZE};
    const rdi_cu_ptr first = (rdi_cu_ptr)(uintptr_t)ptr, end = first + len;
    rdi_cu_ptr p = first;
    do {
        rdi_cu_ptr start = 0;
        size_t bytes = 0;
        int type = 0, ordinal = -1;
        void *values[] = {&type, &ordinal, &start, &bytes};
        rdi_cu_result r = cu->ptr_attributes(4, what, values, p);
        if (r != RDI_CU_OK) {
            return rdi_cuda_fail(r, "the CUDA driver does not tell whose device memory %p is", ptr);
        }
        out->ordinal = p == first ? ordinal : out->ordinal;
        if (type != RDI_CU_MEM_DEVICE || ordinal != out->ordinal || p < start ||
            p - start >= bytes) {
            return rdi_fail(
                RONDO_ERR_INVALID,
                "the %zu bytes at %p leave their allocation on CUDA device %d after %llu", len, ptr,
                out->ordinal, p - first);
        }
        p = start + bytes;
    } while (p < end);
    return RONDO_OK;
}

// Whether the driver says by this that it does not know the address. Anything else is trouble, such as an error of
// work before, and must not make device memory look like the host's.
static bool is_unknown(rdi_cu_result r) {
    return r == RDI_CU_INVALID_VALUE || r == RDI_CU_NOT_INITIALIZED || r == RDI_CU_DEINITIALIZED;
}

rondo_status rdi_cuda_classify(const void *ptr, size_t len, struct rdi_cuda_where *out) {
    const struct rdi_cuda_api *cu = rdi_cuda(RDI_CUDA_IF_LOADED);
    *out = (struct rdi_cuda_where){.kind = RDI_CUDA_HOST, .ordinal = -1};
    if (cu == NULL || ptr == NULL) {
        return RONDO_OK;
    }
    // Asked together and for any address: unknown ones give zeros and no error.
    int type = 0, managed = 0;
    static const int what[] = {RDI_CU_PTR_MEMORY_TYPE, RDI_CU_PTR_IS_MANAGED};
    void *values[] = {&type, &managed};
    rdi_cu_result r = cu->ptr_attributes(2, what, values, (rdi_cu_ptr)(uintptr_t)ptr);
    if (r != RDI_CU_OK && !is_unknown(r)) {
        return rdi_cuda_fail(r, "the CUDA driver does not tell whose memory %p is", ptr);
    }
    if (r != RDI_CU_OK || !type) {
        return RONDO_OK;
    }
    if (managed) {
        return rdi_fail(RONDO_ERR_UNSUPPORTED,
                        "%p is managed memory (cudaMallocManaged), which may move between host and "
                        "device while the wire reads it; use cudaMalloc or cudaMallocHost",
                        ptr);
    }
    if (type == RDI_CU_MEM_HOST) {
        out->kind = RDI_CUDA_PINNED;
        return RONDO_OK;
    }
    out->kind = RDI_CUDA_DEVICE;
    return device_range(cu, ptr, len, out);
}
