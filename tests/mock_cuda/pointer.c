// SPDX-License-Identifier: MIT
// What the driver says of a pointer.
#include "tests/mock_cuda/mock.h"

static bool legacy_ipc(const struct mc_mem *m) {
    return m->kind == MC_MALLOC && mc_config.attributes[m->ordinal].ipc;
}

static rdi_cu_result attribute_of(const struct mc_mem *m, int what, void *value) {
    bool device = mc_is_device(m);
    switch (what) {
    case RDI_CU_PTR_CONTEXT:
        *(rdi_cu_ctx *)value = m->kind == MC_VMM ? NULL : m->ctx->handle;
        break;
    case RDI_CU_PTR_MEMORY_TYPE:
        *(unsigned *)value = device || m->kind == MC_MANAGED ? RDI_CU_MEM_DEVICE : RDI_CU_MEM_HOST;
        break;
    case RDI_CU_PTR_HOST_POINTER:
        if (device)
            return RDI_CU_INVALID_VALUE;
        *(void **)value = (void *)(uintptr_t)m->address;
        break;
    case RDI_CU_PTR_SYNC_MEMOPS:
        *(unsigned *)value = m->sync_memops;
        break;
    case RDI_CU_PTR_BUFFER_ID:
        *(unsigned long long *)value = m->id;
        break;
    case RDI_CU_PTR_IS_MANAGED:
        *(unsigned *)value = m->kind == MC_MANAGED;
        break;
    case RDI_CU_PTR_DEVICE_ORDINAL:
        *(int *)value = m->ordinal;
        break;
    case RDI_CU_PTR_LEGACY_IPC:
        *(int *)value = legacy_ipc(m);
        break;
    case RDI_CU_PTR_RANGE_START:
        *(rdi_cu_ptr *)value = m->address;
        break;
    case RDI_CU_PTR_RANGE_SIZE:
        *(size_t *)value = m->bytes;
        break;
    case RDI_CU_PTR_GDR_CAPABLE:
        *(unsigned *)value = m->gdr;
        break;
    default:
        return RDI_CU_INVALID_VALUE;
    }
    return RDI_CU_OK;
}

// What cuPointerGetAttributes() says of memory that the driver does not know.
static rdi_cu_result attribute_of_none(int what, void *value) {
    switch (what) {
    case RDI_CU_PTR_CONTEXT:
    case RDI_CU_PTR_HOST_POINTER:
        *(void **)value = NULL;
        break;
    case RDI_CU_PTR_BUFFER_ID:
    case RDI_CU_PTR_RANGE_START:
        *(unsigned long long *)value = 0;
        break;
    case RDI_CU_PTR_RANGE_SIZE:
        *(size_t *)value = 0;
        break;
    case RDI_CU_PTR_MEMORY_TYPE:
    case RDI_CU_PTR_SYNC_MEMOPS:
    case RDI_CU_PTR_IS_MANAGED:
    case RDI_CU_PTR_LEGACY_IPC:
    case RDI_CU_PTR_GDR_CAPABLE:
        *(unsigned *)value = 0;
        break;
    case RDI_CU_PTR_DEVICE_ORDINAL:
        *(int *)value = -2;
        break;
    default:
        return RDI_CU_INVALID_VALUE;
    }
    return RDI_CU_OK;
}

rdi_cu_result cuPointerGetAttribute(void *value, int what, rdi_cu_ptr p) {
    MC_ENTER(cuPointerGetAttribute, MC_NEED_INIT);
    struct mc_mem *m = value ? mc_mem_find(p) : NULL;
    if (!m)
        return RDI_CU_INVALID_VALUE;
    rdi_cu_result r = attribute_of(m, what, value);
    // In a pinned block the host pointer is the argument's own.
    if (r == RDI_CU_OK && what == RDI_CU_PTR_HOST_POINTER)
        *(void **)value = (void *)(uintptr_t)p;
    mc_mem_put(m);
    return r;
}

rdi_cu_result cuPointerGetAttributes(unsigned n, const int *what, void **values, rdi_cu_ptr p) {
    MC_ENTER(cuPointerGetAttributes, MC_NEED_INIT);
    if (n == 0 || !what || !values)
        return RDI_CU_INVALID_VALUE;
    struct mc_mem *m = mc_mem_find(p);
    rdi_cu_result r = RDI_CU_OK;
    for (unsigned i = 0; i < n && r == RDI_CU_OK; i++) {
        if (!m || (what[i] == RDI_CU_PTR_HOST_POINTER && mc_is_device(m)))
            r = attribute_of_none(what[i], values[i]);
        else
            r = attribute_of(m, what[i], values[i]);
        if (r == RDI_CU_OK && m && !mc_is_device(m) && what[i] == RDI_CU_PTR_HOST_POINTER)
            *(void **)values[i] = (void *)(uintptr_t)p;
    }
    if (m)
        mc_mem_put(m);
    return r;
}

rdi_cu_result cuPointerSetAttribute(const void *value, int what, rdi_cu_ptr p) {
    MC_ENTER(cuPointerSetAttribute, MC_NEED_INIT);
    struct mc_mem *m = value && what == RDI_CU_PTR_SYNC_MEMOPS ? mc_mem_find(p) : NULL;
    if (!m)
        return RDI_CU_INVALID_VALUE;
    bool can = m->kind == MC_MALLOC || m->kind == MC_IPC;
    if (can)
        m->sync_memops = *(const unsigned *)value != 0;
    mc_mem_put(m);
    return can ? RDI_CU_OK : RDI_CU_INVALID_VALUE;
}

rdi_cu_result cuMemGetAddressRange_v2(rdi_cu_ptr *base, size_t *bytes, rdi_cu_ptr p) {
    MC_ENTER(cuMemGetAddressRange_v2, MC_NEED_CTX);
    struct mc_mem *m = mc_mem_find(p);
    if (!m)
        return RDI_CU_NOT_FOUND;
    if (base)
        *base = m->address;
    if (bytes)
        *bytes = m->bytes;
    mc_mem_put(m);
    return RDI_CU_OK;
}
