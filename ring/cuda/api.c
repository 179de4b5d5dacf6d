// SPDX-License-Identifier: MIT
// The public calls for device memory.
#include "ring/cuda/gpu.h"

#include <stdio.h>
#include <string.h>

rondo_status rondo_comm_attach(rondo_comm *comm, int device) {
    if (!comm) {
        return rdi_fail(RONDO_ERR_INVALID, "rondo_comm_attach: the communicator is NULL");
    }
    rondo_status s = rdi_driver_check(comm->engine->driver);
    if (s != RONDO_OK) {
        return s;
    }
    if (!comm->gpu) {
        return rdi_gpu_attach(comm, device);
    }
    if (comm->gpu->device->ordinal != device) {
        return rdi_fail(
            RONDO_ERR_USAGE,
            "rondo_comm_attach: the communicator is attached to CUDA device %d already, "
            "so not to %d; split another one off",
            comm->gpu->device->ordinal, device);
    }
    return RONDO_OK;
}

rondo_status rondo_comm_reaches(const rondo_comm *comm, char *buf, size_t cap) {
    if (!comm || !buf || cap == 0) {
        return rdi_fail(RONDO_ERR_INVALID,
                        "rondo_comm_reaches: a pointer is NULL or the buffer is empty");
    }
    if (!comm->gpu) {
        return rdi_fail(RONDO_ERR_USAGE,
                        "rondo_comm_reaches: the communicator is not attached to a device");
    }
    snprintf(buf, cap, "%s", comm->gpu->reasons ? comm->gpu->reasons : "");
    return RONDO_OK;
}

// The device of the first buffer that this rank uses.
static rondo_status device_of(enum rdi_kind kind, const void *send, const void *recv,
                              int *ordinal) {
    struct rdi_cuda_where w;
    const void *ptr = send ? send : recv;
    if (!rdi_cuda(RDI_CUDA_LOAD)) {
        return rdi_fail(RONDO_ERR_UNSUPPORTED, "%s on a stream: %s", rdi_kind_name(kind),
                        rdi_cuda_state());
    }
    rondo_status s = rdi_cuda_classify(ptr, 0, &w);
    if (s == RONDO_OK && w.kind != RDI_CUDA_DEVICE) {
        s = rdi_fail(RONDO_ERR_INVALID,
                     "%s on a stream: %p is not device memory; attach the communicator first "
                     "(rondo_comm_attach) if the buffers are empty",
                     rdi_kind_name(kind), ptr);
    }
    *ordinal = w.ordinal;
    return s;
}

static rondo_status ready(struct rondo_comm *comm, enum rdi_kind kind, const void *send,
                          const void *recv) {
    if (!comm) {
        return rdi_fail(RONDO_ERR_INVALID, "%s: the communicator is NULL", rdi_kind_name(kind));
    }
    rondo_status s = rdi_driver_check(comm->engine->driver);
    if (s != RONDO_OK || comm->gpu) {
        return s;
    }
    int ordinal = -1;
    if (kind == RDI_SEND || kind == RDI_RECV) {
        return rdi_fail(
            RONDO_ERR_USAGE,
            "send and recv on a stream need a communicator that all ranks have attached "
            "to their devices: call rondo_comm_attach()");
    }
    s = device_of(kind, send, recv, &ordinal);
    return s == RONDO_OK ? rdi_gpu_attach(comm, ordinal) : s;
}

static rondo_status on_stream(enum rdi_kind kind, const void *send, void *recv, size_t count,
                              rondo_type type, rondo_op op, int root, rondo_comm *comm,
                              rondo_stream stream) {
    rondo_status s = ready(comm, kind, send, recv);
    return s == RONDO_OK ? rdi_gpu_submit(comm, kind, send, recv, count, type, op, root,
                                          (rdi_cu_stream)stream, NULL)
                         : s;
}

rondo_status rondo_all_reduce_stream(const void *send, void *recv, size_t count, rondo_type type,
                                     rondo_op op, rondo_comm *comm, rondo_stream stream) {
    return on_stream(RDI_ALL_REDUCE, send, recv, count, type, op, 0, comm, stream);
}

rondo_status rondo_reduce_scatter_stream(const void *send, void *recv, size_t count,
                                         rondo_type type, rondo_op op, rondo_comm *comm,
                                         rondo_stream stream) {
    return on_stream(RDI_REDUCE_SCATTER, send, recv, count, type, op, 0, comm, stream);
}

rondo_status rondo_all_gather_stream(const void *send, void *recv, size_t count, rondo_type type,
                                     rondo_comm *comm, rondo_stream stream) {
    return on_stream(RDI_ALL_GATHER, send, recv, count, type, RONDO_SUM, 0, comm, stream);
}

rondo_status rondo_broadcast_stream(const void *send, void *recv, size_t count, rondo_type type,
                                    int root, rondo_comm *comm, rondo_stream stream) {
    return on_stream(RDI_BROADCAST, comm && comm->rank != root ? NULL : send, recv, count, type,
                     RONDO_SUM, root, comm, stream);
}

rondo_status rondo_reduce_stream(const void *send, void *recv, size_t count, rondo_type type,
                                 rondo_op op, int root, rondo_comm *comm, rondo_stream stream) {
    return on_stream(RDI_REDUCE, send, recv, count, type, op, root, comm, stream);
}

rondo_status rondo_all_to_all_stream(const void *send, void *recv, size_t count, rondo_type type,
                                     rondo_comm *comm, rondo_stream stream) {
    return on_stream(RDI_ALL_TO_ALL, send, recv, count, type, RONDO_SUM, 0, comm, stream);
}

rondo_status rondo_send_stream(const void *buf, size_t count, rondo_type type, int peer,
                               rondo_comm *comm, rondo_stream stream) {
    return on_stream(RDI_SEND, buf, NULL, count, type, RONDO_SUM, peer, comm, stream);
}

rondo_status rondo_recv_stream(void *buf, size_t count, rondo_type type, int peer, rondo_comm *comm,
                               rondo_stream stream) {
    return on_stream(RDI_RECV, NULL, buf, count, type, RONDO_SUM, peer, comm, stream);
}
