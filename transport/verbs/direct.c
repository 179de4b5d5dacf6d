// SPDX-License-Identifier: MIT
// Device memory (of GPUs) that RDMA devices read and write without the host in between.
//
//   a DMA-BUF descriptor          ibv_reg_dmabuf_mr()     kernel and driver know what that is
//   refused, or there is none     ibv_reg_mr()            nvidia-peermem finds the memory by its address
//   neither                       RONDO_ERR_UNSUPPORTED   the layer above copies through host memory
#include "transport/mem.h"
#include "transport/verbs/parts.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

// ---- What there is -------------------------------------------------------------------------------

bool rdi_verbs_has_dmabuf(const struct rdi_ibv *v, struct ibv_pd *pd) {
    if (v->reg_dmabuf_mr == NULL) {
        return false;
    }
    // No descriptor at all: who knows the call complains of that, who does not complains of the call.
    errno = 0;
    struct ibv_mr *mr =
        v->reg_dmabuf_mr(pd, 0, (size_t)sysconf(_SC_PAGESIZE), 0, -1, IBV_ACCESS_LOCAL_WRITE);
    if (mr != NULL) {
        v->dereg_mr(mr);
        return true;
    }
    return errno == EBADF;
}

bool rdi_verbs_has_peermem(const char *root) {
    static const char *const signs[] = {"/sys/module/nvidia_peermem/version",
                                        "/sys/kernel/mm/memory_peers/nv_mem/version",
                                        "/sys/kernel/mm/memory_peers/nv_mem_nc/version"};
    for (size_t i = 0; i < sizeof signs / sizeof *signs; i++) {
        char path[512];
        int n = snprintf(path, sizeof path, "%s%s", root, signs[i]);
        if (n > 0 && n < (int)sizeof path && access(path, F_OK) == 0) {
            return true;
        }
    }
    return false;
}

// ---- DMA-BUF -------------------------------------------------------------------------------------

static struct ibv_mr *try_once(struct rdi_verbs_rail *r, int fd, uint64_t offset, size_t len,
                               uint64_t iova, int access) {
    errno = 0;
    return r->v->reg_dmabuf_mr(r->pd, offset, len, iova, fd, access);
}

// 0 or an errno; ENOSYS: the library does not know the call.
static int try_dmabuf(struct rdi_verbs_rail *r, int fd, uint64_t offset, size_t len, uint64_t iova,
                      int access, struct ibv_mr **mr) {
    if (r->v->reg_dmabuf_mr == NULL) {
        return ENOSYS;
    }
    *mr = NULL;
    if (r->relaxed) {
        // Completions are written without that flag, so they still come behind the payload.
        *mr = try_once(r, fd, offset, len, iova, access | (int)IBV_ACCESS_RELAXED_ORDERING);
    }
    if (*mr == NULL && (!r->relaxed || rdi_verbs_is_refusal(errno))) {
        *mr = try_once(r, fd, offset, len, iova, access);
    }
    return *mr != NULL ? 0 : errno != 0 ? errno : EIO;
}

rondo_status rdi_verbs_reg_dmabuf(struct rdi_verbs_rail *r, int fd, uint64_t offset, size_t len,
                                  uint64_t iova, int access, struct ibv_mr **mr) {
    uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
    if (offset % page != iova % page) {
        return rdi_fail(RONDO_ERR_INVALID,
                        "cannot register a DMA-BUF: offset %llu and address %#llx differ within a "
                        "page",
                        (unsigned long long)offset, (unsigned long long)iova);
    }
    int err = try_dmabuf(r, fd, offset, len, iova, access, mr);
    if (err == 0) {
        return RONDO_OK;
    }
    if (r->v->reg_dmabuf_mr == NULL) {
        return rdi_fail(RONDO_ERR_UNSUPPORTED,
                        "cannot register a DMA-BUF: libibverbs is too old; install 1.12 or later");
    }
    if (rdi_verbs_is_refusal(err)) {
        return rdi_fail_errno(RONDO_ERR_UNSUPPORTED, err,
                              "cannot register a DMA-BUF of %zu bytes on RDMA port %s:%u: the "
                              "driver or the kernel has no support for it",
                              len, r->info.device, r->info.port);
    }
    return rdi_verbs_fail_device(r, err, "register a DMA-BUF of %zu bytes", len);
}

// ---- Either way ----------------------------------------------------------------------------------

static const char *sys_root = "";
void rdi_verbs_test_root(const char *root) { sys_root = root; }
bool rdi_verbs_peermem(void) { return rdi_verbs_has_peermem(sys_root); }

// What stood in the way of a DMA-BUF, of which `err` tells.
static const char *obstacle(const struct rdi_verbs_rail *r, const struct rdi_mem_device *m,
                            int err) {
    if (m->fd < 0) {
        return "the device's driver gave no DMA-BUF";
    }
    if (r->v->reg_dmabuf_mr == NULL) {
        return "libibverbs is older than 1.12 and knows no DMA-BUF";
    }
    return rdi_verbs_is_refusal(err) ? "the kernel or the port's driver takes no DMA-BUF"
                                     : "the kernel did not take the DMA-BUF";
}

static rondo_status refuse(const struct rdi_verbs_rail *r, size_t len, int err, const char *why,
                           const char *peermem) {
    if (err == ENOMEM || err == EPERM || err == EAGAIN) {
        return rdi_verbs_fail_device(r, err, "register %zu bytes of device memory", len);
    }
    return rdi_fail_errno(RONDO_ERR_UNSUPPORTED, err,
                          "RDMA port %s:%u cannot register %zu bytes of device memory: %s%s",
                          r->info.device, r->info.port, len, why, peermem);
}

static rondo_status reg(struct rdi_verbs_rail *r, const struct rdi_mem_device *m, const void *ptr,
                        size_t len, int access, struct ibv_mr **mr) {
    int err = ENOTSUP;
    if (m->fd >= 0) {
        // A registration is no larger than it must be: peers could write to the rest of a page.
        uint64_t offset = m->offset + ((uintptr_t)ptr - (uintptr_t)m->start);
        uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
        err = offset % page == (uintptr_t)ptr % page
                  ? try_dmabuf(r, m->fd, offset, len, (uintptr_t)ptr, access, mr)
                  : EINVAL;
        if (err == 0) {
            return RONDO_OK;
        }
    }
    const char *why = obstacle(r, m, err);
    if (!rdi_verbs_is_refusal(err)) {
        return refuse(r, len, err, why, "");
    }
    if (!rdi_verbs_peermem()) {
        return refuse(r, len, err, why,
                      ", and nvidia-peermem is not loaded (modprobe nvidia-peermem)");
    }
    err = rdi_verbs_try_reg(r, (void *)(uintptr_t)ptr, len, access, mr);
    return err == 0 ? RONDO_OK
                    : refuse(r, len, err, why, ", and nvidia-peermem does not know this memory");
}

rondo_status rdi_verbs_reg_device(struct rdi_verbs_rail *r, const void *ptr, size_t len, int access,
                                  struct ibv_mr **mr) {
    struct rdi_mem_device m;
    rondo_status s = rdi_mem_find_device(ptr, len, &m);
    if (s != RONDO_OK) {
        return s;
    }
    s = reg(r, &m, ptr, len, access, mr);
    if (m.fd >= 0) {
        close(m.fd);
    }
    return s;
}
