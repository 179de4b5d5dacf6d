// SPDX-License-Identifier: MIT
// Device memory, pinned and registered host memory. Freeing waits for the work that was enqueued before, as the driver
// does; work that uses pinned memory at that time is a mistake all the same, and so is any with MOCK_CUDA_STRICT.
#include "tests/mock_cuda/mock.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

static uint64_t pages(uint64_t bytes) { return (bytes + MC_PAGE - 1) & ~(MC_PAGE - 1); }

// Small allocations do not begin at a page, as they are parts of larger ones with the real driver.
static uint64_t place_in_page(uint64_t bytes) {
    static _Atomic uint64_t n;
    if (bytes >= 1u << 20)
        return 0;
    return atomic_fetch_add_explicit(&n, 1, memory_order_relaxed) * 0x300 % MC_PAGE & ~255ull;
}

static bool over_limit(const struct mc_ctx *c, uint64_t bytes) {
    uint64_t limit = (uint64_t)mc_attributes_of(c)->memory_mib << 20;
    uint64_t used = mc_mem_total(MC_MALLOC, MC_MALLOC, c->ordinal, NULL);
    return bytes > limit || used > limit - bytes;
}

rdi_cu_result cuMemAlloc_v2(rdi_cu_ptr *p, size_t bytes) {
    MC_ENTER(cuMemAlloc_v2, MC_NEED_CTX);
    struct mc_ctx *c = mc_ctx_current();
    if (!p || bytes == 0)
        return RDI_CU_INVALID_VALUE;
    if (over_limit(c, bytes))
        return RDI_CU_OUT_OF_MEMORY;
    uint64_t offset = place_in_page(bytes), span = pages(offset + bytes);
    int fd = memfd_create("mock-cuda", MFD_CLOEXEC);
    uint64_t align = bytes >= MC_GRANULARITY ? MC_GRANULARITY : MC_PAGE;
    uint64_t at = fd < 0 || ftruncate(fd, (off_t)span) != 0 ? 0 : mc_arena_take(span, align);
    if (!at || !mc_arena_map(at, span, fd, 0)) {
        if (fd >= 0)
            close(fd);
        return RDI_CU_OUT_OF_MEMORY;
    }
    struct mc_mem *m = mc_mem_new(MC_MALLOC, c, at + offset, bytes);
    m->fd = fd;
    m->gdr = mc_attributes_of(c)->gdr;
    mc_junk(mc_mem_view(m, at), span);
    if (!mc_mem_add(m))
        mc_rule("environment", "the address 0x%llx is in use", (unsigned long long)at);
    *p = m->address;
    return RDI_CU_OK;
}

// ---- Freeing -------------------------------------------------------------------------------------

static void check_uses(const struct mc_mem *m, const char *rule, const char *function) {
    int uses = atomic_load_explicit(&m->uses, memory_order_relaxed);
    if (uses)
        mc_rule(rule, "%s of %s 0x%llx, which %d enqueued operations use", function,
                mc_kind_name(m->kind), (unsigned long long)m->address, uses);
}

// The memory that begins at `address` and is of this kind, with a reference.
static struct mc_mem *beginning_at(uint64_t address, enum mc_kind kind) {
    struct mc_mem *m = mc_mem_find(address);
    if (m && m->address == address && m->kind == kind)
        return m;
    if (m)
        mc_mem_put(m);
    return NULL;
}

rdi_cu_result cuMemFree_v2(rdi_cu_ptr p) {
    MC_ENTER(cuMemFree_v2, MC_NEED_CTX);
    if (p == 0)
        return RDI_CU_OK;
    struct mc_mem *m = beginning_at(p, MC_MALLOC);
    if (!m)
        return RDI_CU_INVALID_VALUE;
    if (mc_config.strict)
        check_uses(m, "free-in-use", "cuMemFree()");
    mc_ctx_drain(m->ctx, "cuMemFree()");
    mc_mem_remove(m);
    mc_arena_unmap(m->span_address, m->span_bytes);
    mc_mem_put(m);
    return RDI_CU_OK;
}

rdi_cu_result cuMemHostAlloc(void **p, size_t bytes, unsigned flags) {
    MC_ENTER(cuMemHostAlloc, MC_NEED_CTX);
    if (!p || bytes == 0 || flags > 7)
        return RDI_CU_INVALID_VALUE;
    void *host = mc_arena_host(pages(bytes));
    if (!host)
        return RDI_CU_OUT_OF_MEMORY;
    struct mc_mem *m = mc_mem_new(MC_PINNED, mc_ctx_current(), (uintptr_t)host, bytes);
    m->flags = flags;
    mc_junk(host, bytes);
    if (!mc_mem_add(m))
        mc_rule("environment", "the address %p is in use", host);
    *p = host;
    return RDI_CU_OK;
}

rdi_cu_result cuMemFreeHost(void *p) {
    MC_ENTER(cuMemFreeHost, MC_NEED_INIT);
    if (!p)
        return RDI_CU_OK;
    struct mc_mem *m = beginning_at((uintptr_t)p, MC_PINNED);
    if (!m)
        return RDI_CU_INVALID_VALUE;
    check_uses(m, "pinned-free-in-use", "cuMemFreeHost()");
    mc_ctx_drain(m->ctx, "cuMemFreeHost()");
    mc_mem_remove(m);
    mc_arena_host_give(p, pages(m->bytes));
    mc_mem_put(m);
    return RDI_CU_OK;
}

static bool is_mapped(const void *p, size_t bytes) {
    enum { STEP = 4096 };
    unsigned char vec[STEP];
    uint64_t at = (uintptr_t)p & ~(MC_PAGE - 1), end = (uintptr_t)p + bytes;
    for (; at < end; at += STEP * MC_PAGE) {
        uint64_t n = end - at < STEP * MC_PAGE ? end - at : STEP * MC_PAGE;
        if (mincore((void *)(uintptr_t)at, n, vec) != 0)
            return false;
    }
    return true;
}

rdi_cu_result cuMemHostRegister_v2(void *p, size_t bytes, unsigned flags) {
    MC_ENTER(cuMemHostRegister_v2, MC_NEED_CTX);
    if (!p || bytes == 0 || flags > 15 || mc_arena_has((uintptr_t)p) || !is_mapped(p, bytes))
        return RDI_CU_INVALID_VALUE;
    struct mc_mem *m = mc_mem_new(MC_REGISTERED, mc_ctx_current(), (uintptr_t)p, bytes);
    m->flags = flags;
    if (mc_mem_add(m))
        return RDI_CU_OK;
    mc_mem_put(m);
    return RDI_CU_HOST_MEMORY_ALREADY_REGISTERED;
}

rdi_cu_result cuMemHostUnregister(void *p) {
    MC_ENTER(cuMemHostUnregister, MC_NEED_INIT);
    struct mc_mem *m = beginning_at((uintptr_t)p, MC_REGISTERED);
    if (!m)
        return p ? MC_HOST_MEMORY_NOT_REGISTERED : RDI_CU_INVALID_VALUE;
    check_uses(m, "unregister-in-use", "cuMemHostUnregister()");
    mc_mem_remove(m);
    mc_mem_put(m);
    return RDI_CU_OK;
}

rdi_cu_result cuMemHostGetDevicePointer_v2(rdi_cu_ptr *device, void *host, unsigned flags) {
    MC_ENTER(cuMemHostGetDevicePointer_v2, MC_NEED_CTX);
    if (!device || flags)
        return RDI_CU_INVALID_VALUE;
    struct mc_mem *m = mc_mem_find((uintptr_t)host);
    bool host_memory = m && (m->kind == MC_PINNED || m->kind == MC_REGISTERED);
    if (m)
        mc_mem_put(m);
    if (!host_memory)
        return RDI_CU_INVALID_VALUE;
    *device = (uintptr_t)host;
    return RDI_CU_OK;
}
