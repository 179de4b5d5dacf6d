// SPDX-License-Identifier: MIT
// Virtual memory management: physical allocations, reserved addresses, and mappings of the one at the other.
#include "tests/mock_cuda/mock.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define NAME "mock-cuda-vmm" // of a memfd: how an imported descriptor is known

struct reservation {
    uint64_t address, bytes;
    struct reservation *next;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; // of reservations, mapping and unmapping
static struct reservation *reservations;

static bool whole(uint64_t n) { return n && n % MC_GRANULARITY == 0; }

static rdi_cu_result check_prop(const rdi_cu_allocation *p) {
    if (!p || p->type != RDI_CU_ALLOCATION_PINNED || p->location.type != RDI_CU_LOCATION_DEVICE)
        return RDI_CU_INVALID_VALUE;
    if (p->location.id < 0 || p->location.id >= mc_config.devices)
        return RDI_CU_INVALID_DEVICE;
    if (!mc_config.attributes[p->location.id].vmm)
        return RDI_CU_NOT_SUPPORTED;
    return p->handle_types & ~RDI_CU_SHARE_POSIX_FD ? RDI_CU_NOT_SUPPORTED : RDI_CU_OK;
}

rdi_cu_result cuMemGetAllocationGranularity(size_t *bytes, const rdi_cu_allocation *prop,
                                            int option) {
    MC_ENTER(cuMemGetAllocationGranularity, MC_NEED_INIT);
    rdi_cu_result r = check_prop(prop);
    if (r == RDI_CU_OK && (!bytes || option < 0 || option > 1))
        r = RDI_CU_INVALID_VALUE;
    if (r == RDI_CU_OK)
        *bytes = MC_GRANULARITY;
    return r;
}

// ---- Physical allocations ------------------------------------------------------------------------

static struct mc_physical *new_physical(int fd, uint64_t bytes, int ordinal) {
    struct mc_physical *p = calloc(1, sizeof *p);
    if (!p)
        mc_rule("environment", "out of memory");
    p->fd = fd;
    p->bytes = bytes;
    p->ordinal = ordinal;
    p->refs = 1;
    p->handle = mc_handle_new(MC_PHYSICAL, p);
    return p;
}

static void put_physical(struct mc_physical *p) {
    if (atomic_fetch_sub(&p->refs, 1) != 1)
        return;
    close(p->fd);
    free(p);
}

rdi_cu_result cuMemCreate(rdi_cu_mem *mem, size_t bytes, const rdi_cu_allocation *prop,
                          uint64_t flags) {
    MC_ENTER(cuMemCreate, MC_NEED_INIT);
    rdi_cu_result r = check_prop(prop);
    if (r)
        return r;
    if (!mem || !whole(bytes) || flags)
        return RDI_CU_INVALID_VALUE;
    const struct mc_attributes *a = &mc_config.attributes[prop->location.id];
    if (((prop->handle_types & RDI_CU_SHARE_POSIX_FD) && !a->posix_fd) ||
        (prop->flags.gdr_capable && !(a->gdr && a->gdr_vmm)))
        return RDI_CU_NOT_SUPPORTED;
    if (bytes > (uint64_t)a->memory_mib << 20)
        return RDI_CU_OUT_OF_MEMORY;
    char name[64];
    snprintf(name, sizeof name, NAME ":%d:%d", mc_config.physical[prop->location.id],
             prop->flags.gdr_capable);
    int fd = memfd_create(name, MFD_CLOEXEC);
    if (fd < 0 || ftruncate(fd, (off_t)bytes) != 0) {
        if (fd >= 0)
            close(fd);
        return RDI_CU_OUT_OF_MEMORY;
    }
    struct mc_physical *p = new_physical(fd, bytes, prop->location.id);
    p->exportable = prop->handle_types & RDI_CU_SHARE_POSIX_FD;
    p->gdr = prop->flags.gdr_capable;
    *mem = (uintptr_t)p->handle;
    return RDI_CU_OK;
}

static struct mc_physical *physical_of(rdi_cu_mem mem) {
    return mc_handle_get(MC_PHYSICAL, (const void *)(uintptr_t)mem);
}

rdi_cu_result cuMemRelease(rdi_cu_mem mem) {
    MC_ENTER(cuMemRelease, MC_NEED_INIT);
    struct mc_physical *p = physical_of(mem);
    if (!p)
        return RDI_CU_INVALID_VALUE;
    mc_handle_kill(p->handle);
    put_physical(p); // mappings keep it
    return RDI_CU_OK;
}

rdi_cu_result cuMemExportToShareableHandle(void *handle, rdi_cu_mem mem, int type, uint64_t flags) {
    MC_ENTER(cuMemExportToShareableHandle, MC_NEED_INIT);
    const struct mc_physical *p = physical_of(mem);
    if (!p || !handle || type != RDI_CU_SHARE_POSIX_FD || flags || !p->exportable)
        return RDI_CU_INVALID_VALUE;
    int fd = fcntl(p->fd, F_DUPFD_CLOEXEC, 3);
    if (fd < 0)
        return RDI_CU_OUT_OF_MEMORY;
    memcpy(handle, &fd, sizeof fd);
    return RDI_CU_OK;
}

static int ordinal_of(int physical) {
    for (int i = 0; i < mc_config.devices; i++)
        if (mc_config.physical[i] == physical)
            return i;
    return -1;
}

rdi_cu_result cuMemImportFromShareableHandle(rdi_cu_mem *mem, void *handle, int type) {
    MC_ENTER(cuMemImportFromShareableHandle, MC_NEED_INIT);
    if (!mem || type != RDI_CU_SHARE_POSIX_FD)
        return RDI_CU_INVALID_VALUE;
    int fd = (int)(intptr_t)handle, physical, gdr;
    char path[48], name[128];
    struct stat st;
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(path, name, sizeof name - 1);
    name[n > 0 ? n : 0] = '\0';
    if (sscanf(name, "/memfd:" NAME ":%d:%d", &physical, &gdr) != 2 || fstat(fd, &st) != 0)
        return RDI_CU_INVALID_VALUE;
    if (ordinal_of(physical) < 0)
        return RDI_CU_INVALID_DEVICE;
    int own = fcntl(fd, F_DUPFD_CLOEXEC, 3); // the caller closes its own
    if (own < 0)
        return RDI_CU_OUT_OF_MEMORY;
    struct mc_physical *p = new_physical(own, (uint64_t)st.st_size, ordinal_of(physical));
    p->gdr = gdr;
    *mem = (uintptr_t)p->handle;
    return RDI_CU_OK;
}

// ---- Addresses -----------------------------------------------------------------------------------

rdi_cu_result cuMemAddressReserve(rdi_cu_ptr *p, size_t bytes, size_t align, rdi_cu_ptr hint,
                                  uint64_t flags) {
    MC_ENTER(cuMemAddressReserve, MC_NEED_INIT);
    (void)hint; // which the driver need not follow, and here it never does
    if (!p || !whole(bytes) || flags || (align & (align - 1)))
        return RDI_CU_INVALID_VALUE;
    uint64_t at = mc_arena_take(bytes, align > MC_GRANULARITY ? align : MC_GRANULARITY);
    struct reservation *r = at ? calloc(1, sizeof *r) : NULL;
    if (!r)
        return RDI_CU_OUT_OF_MEMORY;
    pthread_mutex_lock(&lock);
    *r = (struct reservation){at, bytes, reservations};
    reservations = r;
    pthread_mutex_unlock(&lock);
    *p = at;
    return RDI_CU_OK;
}

static bool anything_in(uint64_t address, uint64_t bytes) {
    struct mc_mem *m = mc_mem_overlap(address, bytes);
    if (m)
        mc_mem_put(m);
    return m != NULL;
}

rdi_cu_result cuMemAddressFree(rdi_cu_ptr p, size_t bytes) {
    MC_ENTER(cuMemAddressFree, MC_NEED_INIT);
    pthread_mutex_lock(&lock);
    struct reservation **at = &reservations, *r;
    while (*at && ((*at)->address != p || (*at)->bytes != bytes))
        at = &(*at)->next;
    r = *at;
    bool free_it = r && !anything_in(p, bytes);
    if (free_it) {
        *at = r->next;
        free(r);
    }
    pthread_mutex_unlock(&lock);
    return free_it ? RDI_CU_OK : RDI_CU_INVALID_VALUE;
}

static bool reserved(uint64_t p, uint64_t bytes) {
    for (const struct reservation *r = reservations; r; r = r->next)
        if (p >= r->address && bytes <= r->bytes && p - r->address <= r->bytes - bytes)
            return true;
    return false;
}

// ---- Mappings ------------------------------------------------------------------------------------

rdi_cu_result cuMemMap(rdi_cu_ptr p, size_t bytes, size_t offset, rdi_cu_mem mem, uint64_t flags) {
    MC_ENTER(cuMemMap, MC_NEED_INIT);
    struct mc_physical *b = physical_of(mem);
    // The driver has room for an offset in its interface, but takes only 0.
    if (!b || !whole(bytes) || p % MC_GRANULARITY || offset || flags || bytes > b->bytes)
        return RDI_CU_INVALID_VALUE;
    pthread_mutex_lock(&lock);
    rdi_cu_result r = RDI_CU_INVALID_VALUE;
    if (reserved(p, bytes) && !anything_in(p, bytes)) {
        r = mc_arena_map(p, bytes, b->fd, offset) ? RDI_CU_OK : RDI_CU_OUT_OF_MEMORY;
        if (r == RDI_CU_OK) {
            struct mc_mem *m = mc_mem_new(MC_VMM, &mc_ctxs[b->ordinal], p, bytes);
            m->gdr = b->gdr;
            atomic_fetch_add(&b->refs, 1);
            m->backing = b;
            mc_mem_add(m);
        }
    }
    pthread_mutex_unlock(&lock);
    return r;
}

// Runs f on the mappings that make up the range, of which none may be cut.
static rdi_cu_result each(uint64_t p, uint64_t bytes, void (*f)(struct mc_mem *m, void *arg),
                          void *arg) {
    for (unsigned round = 0; round < 2; round++)
        for (uint64_t at = p; at < p + bytes;) {
            struct mc_mem *m = mc_mem_find(at);
            bool is = m && m->kind == MC_VMM && m->address == at && at + m->bytes <= p + bytes;
            uint64_t next = is ? at + m->bytes : at;
            if (is && round == 1)
                f(m, arg);
            if (m)
                mc_mem_put(m);
            if (!is)
                return RDI_CU_INVALID_VALUE;
            at = next;
        }
    return RDI_CU_OK;
}

static void unmap_one(struct mc_mem *m, void *unused) {
    (void)unused;
    int uses = atomic_load_explicit(&m->uses, memory_order_relaxed);
    if (uses)
        mc_rule("unmap-in-use", "0x%llx is unmapped, which %d enqueued operations use",
                (unsigned long long)m->address, uses);
    struct mc_physical *b = m->backing;
    mc_arena_unmap(m->address, m->bytes);
    mc_mem_remove(m);
    put_physical(b);
}

rdi_cu_result cuMemUnmap(rdi_cu_ptr p, size_t bytes) {
    MC_ENTER(cuMemUnmap, MC_NEED_INIT);
    if (!whole(bytes))
        return RDI_CU_INVALID_VALUE;
    pthread_mutex_lock(&lock);
    rdi_cu_result r = each(p, bytes, unmap_one, NULL);
    pthread_mutex_unlock(&lock);
    return r;
}

struct access {
    const rdi_cu_access *list;
    size_t n;
};

static void access_one(struct mc_mem *m, void *arg) {
    const struct access *a = arg;
    for (size_t i = 0; i < a->n; i++) {
        uint32_t bit = 1u << a->list[i].location.id;
        if (a->list[i].flags == RDI_CU_ACCESS_READ_WRITE)
            atomic_fetch_or(&m->access, bit);
        else
            atomic_fetch_and(&m->access, ~bit);
    }
}

rdi_cu_result cuMemSetAccess(rdi_cu_ptr p, size_t bytes, const rdi_cu_access *access, size_t n) {
    MC_ENTER(cuMemSetAccess, MC_NEED_INIT);
    if (!whole(bytes) || !access || n == 0)
        return RDI_CU_INVALID_VALUE;
    for (size_t i = 0; i < n; i++)
        if (access[i].location.type != RDI_CU_LOCATION_DEVICE || access[i].location.id < 0 ||
            access[i].location.id >= mc_config.devices ||
            (access[i].flags != 0 && access[i].flags != RDI_CU_ACCESS_READ &&
             access[i].flags != RDI_CU_ACCESS_READ_WRITE))
            return RDI_CU_INVALID_VALUE;
    struct access a = {access, n};
    pthread_mutex_lock(&lock);
    rdi_cu_result r = each(p, bytes, access_one, &a);
    pthread_mutex_unlock(&lock);
    return r;
}
