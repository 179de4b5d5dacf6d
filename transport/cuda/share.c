// SPDX-License-Identifier: MIT
// Memory that others get at: pinned host memory for devices, device memory for other processes and for NICs.
//
//   exporter: block_alloc, block_ticket --- ticket through the communicator ---> importer: map_open
//     IPC   cuMemAlloc, a handle of 64 bytes                                     cuIpcOpenMemHandle
//     VMM   cuMemCreate, a descriptor                                            pidfd_getfd, cuMemMap
//
// IPC comes first: every driver has it and no descriptor has to travel. VMM serves where a device refuses IPC.
//
// Blocks are kept when they are freed, for later communicators: freeing device memory waits for all of the device, and
// memory that a peer still maps, or reads after a failure, must not go away under it. An importer opens each block
// once, whoever asks for it.
#include "transport/cuda/cuda.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { TICKET_NONE = RDI_CUDA_TICKET_NONE, TICKET_IPC, TICKET_FD = RDI_CUDA_TICKET_FD };

// Whole units of what devices allocate: peers map nothing else of ours with them.
#define UNIT ((size_t)2 << 20)

struct spare {
    struct spare *next;
    int ordinal;
    struct rdi_cuda_block block;
};
struct opened {
    struct opened *next;
    int ordinal;
    unsigned users;
    struct rdi_cuda_ticket ticket;
    struct rdi_cuda_map map;
};
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; // of both lists
static struct spare *spares;
static struct opened *opens;

// ---- Pinned host memory --------------------------------------------------------------------------

rondo_status rdi_cuda_pinned_alloc(const struct rdi_cuda_device *d, size_t bytes,
                                   struct rdi_cuda_pinned *out) {
    *out = (struct rdi_cuda_pinned){.bytes = bytes};
    rdi_cu_result r =
        d->cu->host_alloc(&out->host, bytes, RDI_CU_HOST_PORTABLE | RDI_CU_HOST_DEVICEMAP);
    if (r != RDI_CU_OK) {
        return rdi_cuda_fail(r, "cannot allocate %zu bytes of pinned host memory", bytes);
    }
    memset(out->host, 0, bytes);
    r = d->cu->host_device_ptr(&out->device, out->host, 0);
    if (r != RDI_CU_OK) {
        (void)d->cu->host_free(out->host);
        return rdi_cuda_fail(r, "CUDA device %d cannot address pinned host memory", d->ordinal);
    }
    return RONDO_OK;
}

void rdi_cuda_pinned_free(const struct rdi_cuda_device *d, struct rdi_cuda_pinned *p) {
    if (p->host) {
        (void)d->cu->host_free(p->host);
    }
    *p = (struct rdi_cuda_pinned){0};
}

// ---- Blocks of device memory ---------------------------------------------------------------------

static rdi_cu_allocation properties(const struct rdi_cuda_device *d) {
    return (rdi_cu_allocation){.type = RDI_CU_ALLOCATION_PINNED,
                               .handle_types = RDI_CU_SHARE_POSIX_FD,
                               .location = {RDI_CU_LOCATION_DEVICE, d->device},
                               .flags = {.gdr_capable = d->gdr}};
}

// Maps a physical allocation for reading and writing by this device.
static rdi_cu_result map_vmm(const struct rdi_cuda_device *d, rdi_cu_mem mem, size_t bytes,
                             rdi_cu_ptr *ptr) {
    const rdi_cu_access access = {{RDI_CU_LOCATION_DEVICE, d->device}, RDI_CU_ACCESS_READ_WRITE};
    rdi_cu_result r = d->cu->vmm_reserve(ptr, bytes, 0, 0, 0);
    if (r != RDI_CU_OK) {
        return r;
    }
    r = d->cu->vmm_map(*ptr, bytes, 0, mem, 0);
    if (r == RDI_CU_OK) {
        r = d->cu->vmm_access(*ptr, bytes, &access, 1);
        if (r == RDI_CU_OK) {
            return r;
        }
        (void)d->cu->vmm_unmap(*ptr, bytes);
    }
    (void)d->cu->vmm_unreserve(*ptr, bytes);
    return r;
}

static void unmap_vmm(const struct rdi_cuda_device *d, rdi_cu_mem mem, rdi_cu_ptr ptr,
                      size_t bytes) {
    (void)d->cu->vmm_unmap(ptr, bytes);
    (void)d->cu->vmm_unreserve(ptr, bytes);
    (void)d->cu->vmm_release(mem);
}

static rdi_cu_result alloc_vmm(const struct rdi_cuda_device *d, size_t bytes,
                               struct rdi_cuda_block *b) {
    const rdi_cu_allocation prop = properties(d);
    size_t unit = 0;
    rdi_cu_result r = d->cu->vmm_granularity(&unit, &prop, 0);
    if (r != RDI_CU_OK || unit == 0) {
        return r != RDI_CU_OK ? r : RDI_CU_NOT_SUPPORTED;
    }
    b->bytes = (bytes + unit - 1) / unit * unit;
    r = d->cu->vmm_create(&b->mem, b->bytes, &prop, 0);
    if (r != RDI_CU_OK) {
        return r;
    }
    r = map_vmm(d, b->mem, b->bytes, &b->ptr);
    if (r != RDI_CU_OK) {
        (void)d->cu->vmm_release(b->mem);
        return r;
    }
    b->vmm = true;
    r = d->cu->vmm_export(&b->fd, b->mem, RDI_CU_SHARE_POSIX_FD, 0);
    if (r != RDI_CU_OK) {
        b->fd = -1;
        unmap_vmm(d, b->mem, b->ptr, b->bytes);
    }
    return r;
}

static bool take_spare(const struct rdi_cuda_device *d, size_t bytes, struct rdi_cuda_block *out) {
    pthread_mutex_lock(&lock);
    struct spare **at = &spares;
    while (*at && ((*at)->ordinal != d->ordinal || (*at)->block.bytes != bytes)) {
        at = &(*at)->next;
    }
    struct spare *s = *at;
    if (s) {
        *at = s->next;
    }
    pthread_mutex_unlock(&lock);
    if (s) {
        *out = s->block;
        free(s);
    }
    return s != NULL;
}

rondo_status rdi_cuda_block_alloc(const struct rdi_cuda_device *d, size_t bytes,
                                  struct rdi_cuda_block *out) {
    bytes = (bytes + UNIT - 1) / UNIT * UNIT;
    if (take_spare(d, bytes, out)) {
        return RONDO_OK;
    }
    *out = (struct rdi_cuda_block){.bytes = bytes, .fd = -1};
    rdi_cu_result r = d->cu->mem_alloc(&out->ptr, bytes);
    if (r != RDI_CU_OK) {
        return rdi_cuda_fail(r, "cannot allocate %zu bytes on CUDA device %d (%s)", bytes,
                             d->ordinal, d->name);
    }
    rdi_cu_ipc_mem handle;
    if (!d->posix_fd || d->cu->ipc_export(&handle, out->ptr) == RDI_CU_OK) {
        // The NIC's writes and the stream's reads of one address must not pass each other.
        const unsigned yes = 1;
        (void)d->cu->ptr_set_attribute(&yes, RDI_CU_PTR_SYNC_MEMOPS, out->ptr);
        return RONDO_OK;
    }
    struct rdi_cuda_block b = {.fd = -1};
    if (alloc_vmm(d, bytes, &b) == RDI_CU_OK) {
        (void)d->cu->mem_free(out->ptr);
        *out = b;
    }
    return RONDO_OK; // at worst a block that peers cannot map
}

void rdi_cuda_block_free(const struct rdi_cuda_device *d, struct rdi_cuda_block *b) {
    struct spare *s = b->ptr ? malloc(sizeof *s) : NULL;
    if (s) { // else it stays allocated and is not used again
        *s = (struct spare){.ordinal = d->ordinal, .block = *b};
        pthread_mutex_lock(&lock);
        s->next = spares;
        spares = s;
        pthread_mutex_unlock(&lock);
    }
    *b = (struct rdi_cuda_block){.fd = -1};
}

void rdi_cuda_block_ticket(const struct rdi_cuda_device *d, const struct rdi_cuda_block *b,
                           struct rdi_cuda_ticket *out) {
    rdi_cu_ipc_mem handle;
    *out = (struct rdi_cuda_ticket){.pid = (uint32_t)getpid(), .fd = b->fd, .bytes = b->bytes};
    if (b->vmm) {
        out->kind = TICKET_FD;
    } else if (b->ptr && d->cu->ipc_export(&handle, b->ptr) == RDI_CU_OK) {
        out->kind = TICKET_IPC;
        memcpy(out->handle, handle.reserved, sizeof out->handle);
    }
}

// ---- Another process's block ---------------------------------------------------------------------

// A duplicate of descriptor `fd` of process `pid`: its owner must let us trace it, as processes of one user do.
static int fetch_fd(uint32_t pid, int fd) {
#if defined(SYS_pidfd_open) && defined(SYS_pidfd_getfd)
    int pidfd = (int)syscall(SYS_pidfd_open, (pid_t)pid, 0);
    if (pidfd < 0) {
        return -1;
    }
    int got = (int)syscall(SYS_pidfd_getfd, pidfd, fd, 0);
    int err = errno;
    close(pidfd);
    errno = err;
    return got;
#else
    (void)pid;
    (void)fd;
    errno = ENOSYS;
    return -1;
#endif
}

static rondo_status open_fd(const struct rdi_cuda_device *d, const struct rdi_cuda_ticket *t,
                            struct rdi_cuda_map *out) {
    if (!d->vmm) {
        return rdi_fail(RONDO_ERR_UNSUPPORTED,
                        "CUDA device %d has no virtual memory management, which the peer's memory "
                        "needs",
                        d->ordinal);
    }
    int fd = fetch_fd(t->pid, t->fd);
    if (fd < 0) {
        return rdi_fail_errno(RONDO_ERR_UNSUPPORTED, errno,
                              "cannot fetch the descriptor of process %u's device memory (see "
                              "kernel.yama.ptrace_scope)",
                              t->pid);
    }
    void *handle = (void *)(intptr_t)fd;
    rdi_cu_result r = d->cu->vmm_import(&out->mem, handle, RDI_CU_SHARE_POSIX_FD);
    close(fd);
    if (r == RDI_CU_OK) {
        r = map_vmm(d, out->mem, t->bytes, &out->ptr);
        if (r == RDI_CU_OK) {
            out->vmm = true;
            return RONDO_OK;
        }
        (void)d->cu->vmm_release(out->mem);
    }
    return rdi_cuda_fail(r, "cannot map the device memory of process %u", t->pid);
}

static rondo_status open_ticket(const struct rdi_cuda_device *d, const struct rdi_cuda_ticket *t,
                                struct rdi_cuda_map *out) {
    *out = (struct rdi_cuda_map){.bytes = t->bytes};
    if (t->kind == TICKET_FD) {
        return open_fd(d, t, out);
    }
    if (t->kind != TICKET_IPC) {
        return rdi_fail(RONDO_ERR_UNSUPPORTED,
                        "process %u's device cannot export memory to other processes", t->pid);
    }
    rdi_cu_ipc_mem handle;
    memcpy(handle.reserved, t->handle, sizeof handle.reserved);
    rdi_cu_result r = d->cu->ipc_open(&out->ptr, handle, RDI_CU_IPC_LAZY_PEER_ACCESS);
    if (r == RDI_CU_OK) {
        return RONDO_OK;
    }
    out->ptr = 0;
    return rdi_cuda_fail(r, "CUDA device %d (%s) cannot map the device memory of process %u",
                         d->ordinal, d->name, t->pid);
}

rondo_status rdi_cuda_map_open(const struct rdi_cuda_device *d, const struct rdi_cuda_ticket *t,
                               struct rdi_cuda_map *out) {
    rondo_status s = RONDO_OK;
    pthread_mutex_lock(&lock);
    struct opened *o = opens;
    while (o && (o->ordinal != d->ordinal || memcmp(&o->ticket, t, sizeof *t) != 0)) {
        o = o->next;
    }
    if (!o) {
        o = calloc(1, sizeof *o);
        s = o ? open_ticket(d, t, &o->map) : rdi_fail(RONDO_ERR_NOMEM, "out of memory for a map");
        if (s != RONDO_OK) {
            free(o);
            pthread_mutex_unlock(&lock);
            return s;
        }
        o->ordinal = d->ordinal;
        o->ticket = *t;
        o->next = opens;
        opens = o;
    }
    o->users++;
    *out = o->map;
    pthread_mutex_unlock(&lock);
    return s;
}

void rdi_cuda_map_close(const struct rdi_cuda_device *d, struct rdi_cuda_map *m) {
    pthread_mutex_lock(&lock);
    struct opened **at = &opens;
    while (*at && (!m->ptr || (*at)->ordinal != d->ordinal || (*at)->map.ptr != m->ptr)) {
        at = &(*at)->next;
    }
    struct opened *o = *at;
    if (o && --o->users == 0) {
        *at = o->next;
    } else {
        o = NULL;
    }
    pthread_mutex_unlock(&lock);
    if (o && o->map.vmm) {
        unmap_vmm(d, o->map.mem, o->map.ptr, o->map.bytes);
    } else if (o) {
        (void)d->cu->ipc_close(o->map.ptr);
    }
    free(o);
    *m = (struct rdi_cuda_map){0};
}

// ---- For NICs ------------------------------------------------------------------------------------

rondo_status rdi_cuda_dmabuf(const struct rdi_cuda_device *d, rdi_cu_ptr ptr, size_t bytes, int *fd,
                             uint64_t *offset) {
    if (!d->dmabuf) {
        return rdi_fail(RONDO_ERR_UNSUPPORTED,
                        "CUDA device %d (%s) exports no DMA-BUF (it needs the open kernel modules "
                        "and driver 515 or later)",
                        d->ordinal, d->name);
    }
    const rdi_cu_ptr page = (rdi_cu_ptr)sysconf(_SC_PAGESIZE), start = ptr / page * page;
    size_t span = (size_t)((ptr + bytes + page - 1) / page * page - start);
    rdi_cu_result r = d->cu->mem_dmabuf(fd, start, span, RDI_CU_HANDLE_DMA_BUF_FD, 0);
    if (r != RDI_CU_OK) {
        return rdi_cuda_fail(r, "no DMA-BUF of %zu bytes on CUDA device %d", bytes, d->ordinal);
    }
    *offset = ptr - start;
    return RONDO_OK;
}
