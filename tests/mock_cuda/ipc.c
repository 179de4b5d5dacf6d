// SPDX-License-Identifier: MIT
// CUDA IPC: a handle tells where in /proc the memory's descriptor is found. What was opened lives on by itself, also
// when the other process frees it or ends.
#include "tests/mock_cuda/mock.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct handle {
    uint64_t magic, sum;
    uint32_t pid;
    int32_t fd;
    uint64_t id, inode, bytes, offset;
    uint32_t physical, reserved;
};
_Static_assert(sizeof(struct handle) <= sizeof(rdi_cu_ipc_mem), "a handle is 64 bytes");
#define MAGIC 0x6d6f636b63756461ull

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; // of opening and closing

static uint64_t sum_of(const struct handle *h) {
    uint64_t sum = MAGIC;
    const uint64_t parts[] = {h->pid,   (uint32_t)h->fd, h->id,      h->inode,
                              h->bytes, h->offset,       h->physical};
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++)
        sum = (sum ^ parts[i]) * 0x9e3779b97f4a7c15ull;
    return sum;
}

rdi_cu_result cuIpcGetMemHandle(rdi_cu_ipc_mem *out, rdi_cu_ptr p) {
    MC_ENTER(cuIpcGetMemHandle, MC_NEED_CTX);
    if (!out)
        return RDI_CU_INVALID_VALUE;
    struct mc_mem *m = mc_mem_find(p);
    struct stat st;
    rdi_cu_result r = RDI_CU_OK;
    if (!m || m->kind != MC_MALLOC || fstat(m->fd, &st) != 0)
        r = RDI_CU_INVALID_VALUE;
    else if (!mc_config.attributes[m->ordinal].ipc)
        r = RDI_CU_NOT_SUPPORTED;
    if (r == RDI_CU_OK) {
        struct handle h = {.magic = MAGIC,
                           .pid = (uint32_t)getpid(),
                           .fd = m->fd,
                           .id = m->id,
                           .inode = st.st_ino,
                           .bytes = m->bytes,
                           .offset = m->address - m->span_address,
                           .physical = (uint32_t)mc_config.physical[m->ordinal]};
        h.sum = sum_of(&h);
        memset(out, 0, sizeof *out);
        memcpy(out, &h, sizeof h);
    }
    if (m)
        mc_mem_put(m);
    return r;
}

// ---- Opening -------------------------------------------------------------------------------------

struct search {
    const struct handle *h;
    const struct mc_ctx *ctx;
    struct mc_mem *found;
};

static void is_same(struct mc_mem *m, void *arg) {
    struct search *s = arg;
    if (m->kind == MC_IPC && m->ipc_pid == s->h->pid && m->ipc_id == s->h->id && m->ctx == s->ctx)
        s->found = m;
}

static int open_descriptor(const struct handle *h) {
    char path[48];
    snprintf(path, sizeof path, "/proc/%u/fd/%d", h->pid, h->fd);
    int fd = open(path, O_RDWR | O_CLOEXEC);
    struct stat st;
    if (fd >= 0 && (fstat(fd, &st) != 0 || st.st_ino != h->inode ||
                    (uint64_t)st.st_size < h->offset + h->bytes)) {
        close(fd); // freed meanwhile, or the process is another one
        fd = -1;
    }
    return fd;
}

static rdi_cu_result may_open(const struct handle *h, const struct mc_ctx *c) {
    int mine = mc_config.physical[c->ordinal];
    if (h->magic != MAGIC || h->sum != sum_of(h))
        return RDI_CU_INVALID_VALUE;
    if (h->pid == (uint32_t)getpid())
        return RDI_CU_INVALID_CONTEXT;
    if ((int)h->physical != mine && !mc_attributes_of(c)->peer)
        return RDI_CU_PEER_ACCESS_UNSUPPORTED;
    return RDI_CU_OK;
}

static rdi_cu_result open_new(const struct handle *h, struct mc_ctx *c, rdi_cu_ptr *p) {
    int fd = open_descriptor(h);
    if (fd < 0)
        return RDI_CU_INVALID_VALUE;
    uint64_t span = (h->offset + h->bytes + MC_PAGE - 1) & ~(MC_PAGE - 1);
    uint64_t at = mc_arena_take(span, MC_PAGE);
    if (!at || !mc_arena_map(at, span, fd, 0)) {
        close(fd);
        return MC_MAP_FAILED;
    }
    struct mc_mem *m = mc_mem_new(MC_IPC, c, at + h->offset, h->bytes);
    m->fd = fd;
    m->gdr = mc_attributes_of(c)->gdr;
    m->ipc_pid = h->pid;
    m->ipc_id = h->id;
    m->opened = 1;
    for (int i = 0; i < mc_config.devices; i++)
        if (mc_config.physical[i] == (int)h->physical)
            m->ordinal = i;
    if (!mc_mem_add(m))
        mc_rule("environment", "the address 0x%llx is in use", (unsigned long long)at);
    *p = m->address;
    return RDI_CU_OK;
}

rdi_cu_result cuIpcOpenMemHandle_v2(rdi_cu_ptr *p, rdi_cu_ipc_mem bytes, unsigned flags) {
    MC_ENTER(cuIpcOpenMemHandle_v2, MC_NEED_CTX);
    struct mc_ctx *c = mc_ctx_current();
    if (!p || flags != RDI_CU_IPC_LAZY_PEER_ACCESS)
        return RDI_CU_INVALID_VALUE;
    struct handle h;
    memcpy(&h, &bytes, sizeof h);
    rdi_cu_result r = may_open(&h, c);
    if (r)
        return r;
    struct search s = {&h, c, NULL};
    pthread_mutex_lock(&lock);
    mc_mem_each(is_same, &s);
    if (s.found) { // the same address once more
        s.found->opened++;
        *p = s.found->address;
    } else {
        r = open_new(&h, c, p);
    }
    pthread_mutex_unlock(&lock);
    return r;
}

rdi_cu_result cuIpcCloseMemHandle(rdi_cu_ptr p) {
    MC_ENTER(cuIpcCloseMemHandle, MC_NEED_CTX);
    pthread_mutex_lock(&lock);
    struct mc_mem *m = mc_mem_find(p);
    bool is = m && m->kind == MC_IPC && m->address == p;
    if (is && --m->opened == 0) {
        int uses = atomic_load_explicit(&m->uses, memory_order_relaxed);
        if (uses)
            mc_rule("ipc-close-in-use", "0x%llx is closed, which %d enqueued operations use",
                    (unsigned long long)p, uses);
        mc_ctx_drain(m->ctx, "cuIpcCloseMemHandle()");
        mc_mem_remove(m);
        mc_arena_unmap(m->span_address, m->span_bytes);
    }
    pthread_mutex_unlock(&lock);
    if (m)
        mc_mem_put(m);
    return is ? RDI_CU_OK : RDI_CU_INVALID_VALUE;
}
