// SPDX-License-Identifier: MIT
// DMA-BUF descriptors of device memory, and the flush of what NICs wrote.
//
// The descriptor is one of the memfd, and its file position says where in it the range begins: mmap(2) has no notion of
// a file that begins later. fake_verbs adds the position to the offsets of ibv_reg_dmabuf_mr(), whose first byte is that
// of the range.
#include "tests/mock_cuda/mock.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static int descriptor_at(int of, uint64_t position) {
    char path[48];
    snprintf(path, sizeof path, "/proc/self/fd/%d", of);
    int fd = open(path, O_RDWR | O_CLOEXEC); // not dup(2): a position of its own
    if (fd >= 0 && lseek(fd, (off_t)position, SEEK_SET) < 0) {
        close(fd);
        fd = -1;
    }
    return fd;
}

rdi_cu_result cuMemGetHandleForAddressRange(void *handle, rdi_cu_ptr p, size_t bytes, int type,
                                            uint64_t flags) {
    MC_ENTER(cuMemGetHandleForAddressRange, MC_NEED_CTX);
    if (!mc_attributes_of(mc_ctx_current())->dmabuf)
        return RDI_CU_NOT_SUPPORTED;
    if (!handle || type != RDI_CU_HANDLE_DMA_BUF_FD || flags || bytes == 0 || p % MC_PAGE ||
        bytes % MC_PAGE)
        return RDI_CU_INVALID_VALUE;
    struct mc_mem *m = mc_mem_overlap(p, bytes);
    if (!m)
        return RDI_CU_INVALID_VALUE;
    // Whole pages: the first one may begin before the allocation, as it does where allocations share pages.
    bool inside = (m->kind == MC_MALLOC || m->kind == MC_VMM) && p >= m->span_address &&
                  p + bytes <= m->span_address + m->span_bytes;
    rdi_cu_result r = inside ? RDI_CU_OK : RDI_CU_INVALID_VALUE;
    if (inside && !m->gdr)
        r = RDI_CU_NOT_SUPPORTED;
    if (r == RDI_CU_OK) {
        int fd = descriptor_at(m->backing ? m->backing->fd : m->fd, p - m->span_address);
        if (fd < 0)
            r = RDI_CU_OUT_OF_MEMORY;
        else
            memcpy(handle, &fd, sizeof fd);
    }
    mc_mem_put(m);
    return r;
}

rdi_cu_result cuFlushGPUDirectRDMAWrites(int target, int scope) {
    MC_ENTER(cuFlushGPUDirectRDMAWrites, MC_NEED_CTX);
    if (target != RDI_CU_FLUSH_CURRENT_CTX || (scope != RDI_CU_FLUSH_TO_OWNER && scope != 200))
        return RDI_CU_INVALID_VALUE;
    return mc_attributes_of(mc_ctx_current())->flush_options & 1 ? RDI_CU_OK : RDI_CU_NOT_SUPPORTED;
}
