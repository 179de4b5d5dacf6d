// SPDX-License-Identifier: MIT
// Memory that NCCL announces. Registering tells Rondo's registry of it; a transport that wants memory registered
// with its device does so at the first message from it and keeps that, so a send needs no copy.
#include "transport/nccl/core.h"

#include <stdlib.h>

struct region {
    void *data;
    size_t size;
};

static int refuse(struct rdi_nccl_comm *c, int type) {
    rdi_fail(RONDO_ERR_UNSUPPORTED,
             "memory of type %d (1 host, 2 CUDA, 4 DMA-BUF) cannot be registered with device %d "
             "(%s), which "
             "takes types %d",
             type, c->dev, rdi_nccl_device_name(c->dev), rdi_nccl_pointer_support(c->dev));
    return rdi_nccl_report(RONDO_ERR_UNSUPPORTED, "regMr()", rondo_last_error());
}

int rdi_nccl_reg(struct rdi_nccl_comm *c, void *data, size_t size, int type, void **mhandle) {
    if (type != RDI_NCCL_PTR_HOST || !(rdi_nccl_pointer_support(c->dev) & type)) {
        return refuse(c, type);
    }
    struct region *r = malloc(sizeof *r);
    if (r == NULL) {
        rdi_fail(RONDO_ERR_NOMEM, "no memory to remember a registration");
        return rdi_nccl_report(RONDO_ERR_NOMEM, "regMr()", rondo_last_error());
    }
    *r = (struct region){.data = data, .size = size};
    rondo_status s = size > 0 ? rondo_mem_register(data, size) : RONDO_OK;
    if (s != RONDO_OK) {
        free(r);
        return rdi_nccl_report(s, "regMr()", rondo_last_error());
    }
    *mhandle = r;
    return RDI_NCCL_SUCCESS;
}

int rdi_nccl_reg_dmabuf(struct rdi_nccl_comm *c, void *data, size_t size, int type, uint64_t offset,
                        int fd, void **mhandle) {
    (void)data;
    (void)size;
    (void)type;
    (void)offset;
    (void)fd;
    (void)mhandle;
    return refuse(c, RDI_NCCL_PTR_DMABUF);
}

int rdi_nccl_dereg(struct rdi_nccl_comm *c, void *mhandle) {
    (void)c;
    struct region *r = mhandle;
    if (r == NULL) {
        return RDI_NCCL_SUCCESS;
    }
    rondo_status s = r->size > 0 ? rondo_mem_unregister(r->data) : RONDO_OK;
    free(r);
    return s == RONDO_OK ? RDI_NCCL_SUCCESS : rdi_nccl_report(s, "deregMr()", rondo_last_error());
}
