// SPDX-License-Identifier: MIT
// Whose memory is this? The driver knows every address that it gave out; all others are the host's.
#include "transport/cuda/cuda.h"

#include <string.h>

static rondo_status device_range(const struct rdi_cuda_api *cu, const void *ptr, size_t len,
                                 struct rdi_cuda_where *out) {
    rdi_cu_ptr start = 0, p = (rdi_cu_ptr)(uintptr_t)ptr;
    size_t bytes = 0;
    static const int what[] = {RDI_CU_PTR_DEVICE_ORDINAL, RDI_CU_PTR_RANGE_START,
                               RDI_CU_PTR_RANGE_SIZE};
    void *values[] = {&out->ordinal, &start, &bytes};
    rdi_cu_result r = cu->ptr_attributes(3, what, values, p);
    if (r != RDI_CU_OK) {
        return rdi_cuda_fail(r, "the CUDA driver does not tell whose device memory %p is", ptr);
    }
    if (p < start || p - start > bytes || len > bytes - (p - start)) {
        return rdi_fail(RONDO_ERR_INVALID,
                        "the %zu bytes at %p leave their allocation on CUDA device %d (%zu bytes "
                        "at %#llx)",
                        len, ptr, out->ordinal, bytes, start);
    }
    return RONDO_OK;
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
    if (cu->ptr_attributes(2, what, values, (rdi_cu_ptr)(uintptr_t)ptr) != RDI_CU_OK || !type) {
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
