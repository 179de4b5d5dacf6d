// SPDX-License-Identifier: MIT
// What NCCL finds: a table of functions for each version of its plugin interface. The code behind them is the
// same; only what the versions disagree on is here.
#include "transport/nccl/core.h"

#include <string.h>

#define EXPORT __attribute__((visibility("default")))

// Each is declared before it is defined, as no header of ours has them.
extern const struct rdi_nccl_net_v8 ncclNetPlugin_v8;
extern const struct rdi_nccl_net_v9 ncclNetPlugin_v9;
extern const struct rdi_nccl_net_v10 ncclNetPlugin_v10;
extern const struct rdi_nccl_net_v11 ncclNetPlugin_v11;
extern const struct rdi_nccl_net_v12 ncclNetPlugin_v12;

// ---- All versions --------------------------------------------------------------------------------

static int net_devices(int *n) {
    *n = rdi_nccl_device_count();
    return RDI_NCCL_SUCCESS;
}

static int net_accept(void *listen_comm, void **recv_comm, void **offload) {
    (void)offload; // we are not a device that GPUs talk to
    struct rdi_nccl_comm *c = NULL;
    int r = rdi_nccl_accept(listen_comm, &c);
    *recv_comm = c;
    return r;
}

static int net_reg(void *comm, void *data, size_t size, int type, void **mhandle) {
    return rdi_nccl_reg(comm, data, size, type, mhandle);
}

static int net_reg_dmabuf(void *comm, void *data, size_t size, int type, uint64_t offset, int fd,
                          void **mhandle) {
    return rdi_nccl_reg_dmabuf(comm, data, size, type, offset, fd, mhandle);
}

static int net_dereg(void *comm, void *mhandle) { return rdi_nccl_dereg(comm, mhandle); }

// Host memory needs no flush: what test() reports as received is visible. A request of NULL is complete.
static int net_iflush(void *comm, int n, void **data, int *sizes, void **mhandles, void **request) {
    (void)comm;
    (void)n;
    (void)data;
    (void)sizes;
    (void)mhandles;
    *request = NULL;
    return RDI_NCCL_SUCCESS;
}

static int net_test(void *request, int *done, int *sizes) {
    return rdi_nccl_test(request, done, sizes);
}

static int net_close(void *comm) { return rdi_nccl_comm_close(comm); }
static int net_close_listen(void *comm) { return rdi_nccl_close_listen(comm); }

#define ACCEPT_AND_MEMORY \
    .accept = net_accept, .reg_mr = net_reg, .reg_mr_dmabuf = net_reg_dmabuf, .dereg_mr = net_dereg
#define THE_REST                                                                              \
    .iflush = net_iflush, .test = net_test, .close_send = net_close, .close_recv = net_close, \
    .close_listen = net_close_listen

// ---- Sizes are size_t ----------------------------------------------------------------------------

static int isend(void *comm, void *data, size_t size, int tag, void *mhandle, void **request) {
    (void)tag; // tells apart receives that are grouped, of which there is one in a group
    (void)mhandle;
    struct rdi_nccl_request *r = NULL;
    int result = rdi_nccl_isend(comm, data, size, &r);
    *request = r;
    return result;
}

static int irecv(void *comm, int n, void **data, size_t *sizes, int *tags, void **mhandles,
                 void **request) {
    (void)tags;
    (void)mhandles;
    struct rdi_nccl_request *r = NULL;
    int result = rdi_nccl_irecv(comm, n, data, sizes, &r);
    *request = r; // always: NCCL may have put a mark there
    return result;
}

static int isend_v10(void *comm, void *data, size_t size, int tag, void *mhandle, void *phandle,
                     void **request) {
    (void)phandle;
    return isend(comm, data, size, tag, mhandle, request);
}

static int irecv_v10(void *comm, int n, void **data, size_t *sizes, int *tags, void **mhandles,
                     void **phandles, void **request) {
    (void)phandles;
    return irecv(comm, n, data, sizes, tags, mhandles, request);
}

// ---- Versions 11 and 12 --------------------------------------------------------------------------

static int init_v11(void **context, uint64_t comm_id, struct rdi_nccl_config *config,
                    rdi_nccl_log_fn log, rdi_nccl_profile_fn profile) {
    (void)comm_id;
    (void)profile;
    struct rdi_nccl_context *c = NULL;
    int r = rdi_nccl_init(&c, config != NULL ? config->traffic_class : RDI_NCCL_UNDEFINED, log);
    *context = c;
    return r;
}

static int class_of(const struct rdi_nccl_context *context) {
    return context != NULL ? context->traffic_class : RDI_NCCL_UNDEFINED;
}

static int listen_class(int traffic_class, int dev, void *handle, void **listen_comm) {
    struct rdi_nccl_listen *l = NULL;
    int r = rdi_nccl_listen(traffic_class, dev, handle, &l);
    *listen_comm = l;
    return r;
}

static int connect_class(int traffic_class, int dev, void *handle, void **send_comm) {
    struct rdi_nccl_comm *c = NULL;
    int r = rdi_nccl_connect(traffic_class, dev, handle, &c);
    *send_comm = c;
    return r;
}

static int listen_v11(void *context, int dev, void *handle, void **listen_comm) {
    return listen_class(class_of(context), dev, handle, listen_comm);
}

static int connect_v11(void *context, int dev, void *handle, void **send_comm, void **offload) {
    (void)offload;
    return connect_class(class_of(context), dev, handle, send_comm);
}

static int finalize_v11(void *context) { return rdi_nccl_finalize(context); }

static int properties_v11(int dev, struct rdi_nccl_props_v11 *out) {
    struct rdi_nccl_props_v12 p;
    int r = rdi_nccl_properties(dev, &p);
    if (r != RDI_NCCL_SUCCESS) {
        return r;
    }
    *out = (struct rdi_nccl_props_v11){
        .name = p.name,
        .pci_path = p.pci_path,
        .guid = p.guid,
        .ptr_support = p.ptr_support,
        .reg_is_global = p.reg_is_global,
        .force_flush = p.force_flush,
        .speed = p.speed,
        .port = p.port,
        .latency = p.latency,
        .max_comms = p.max_comms,
        .max_recvs = p.max_recvs,
        .device_type = p.device_type,
        .device_version = p.device_version,
        .fused = {.count = 1, .devices = {dev}},
        .max_p2p = p.max_p2p,
        .max_coll = p.max_coll,
        .max_multi_request = p.max_multi_request,
    };
    return r;
}

EXPORT const struct rdi_nccl_net_v12 ncclNetPlugin_v12 = {
    .name = RDI_NCCL_NAME,
    .init = init_v11,
    .devices = net_devices,
    .get_properties = rdi_nccl_properties,
    .listen = listen_v11,
    .connect = connect_v11,
    ACCEPT_AND_MEMORY,
    .isend = isend_v10,
    .irecv = irecv_v10,
    THE_REST,
    .finalize = finalize_v11,
};

EXPORT const struct rdi_nccl_net_v11 ncclNetPlugin_v11 = {
    .name = RDI_NCCL_NAME,
    .init = init_v11,
    .devices = net_devices,
    .get_properties = properties_v11,
    .listen = listen_v11,
    .connect = connect_v11,
    ACCEPT_AND_MEMORY,
    .isend = isend_v10,
    .irecv = irecv_v10,
    THE_REST,
    .finalize = finalize_v11,
};

// ---- Versions 8 to 10: one init() for the process, no end ----------------------------------------

static int init_v8(rdi_nccl_log_fn log) { return rdi_nccl_init(NULL, RDI_NCCL_UNDEFINED, log); }

static int init_v10(rdi_nccl_log_fn log, rdi_nccl_profile_fn profile) {
    (void)profile;
    return init_v8(log);
}

static int listen_v8(int dev, void *handle, void **listen_comm) {
    return listen_class(RDI_NCCL_UNDEFINED, dev, handle, listen_comm);
}

static int connect_v8(int dev, void *handle, void **send_comm, void **offload) {
    (void)offload;
    return connect_class(RDI_NCCL_UNDEFINED, dev, handle, send_comm);
}

static int connect_v10(int dev, struct rdi_nccl_config *config, void *handle, void **send_comm,
                       void **offload) {
    (void)offload;
    int traffic_class = config != NULL ? config->traffic_class : RDI_NCCL_UNDEFINED;
    return connect_class(traffic_class, dev, handle, send_comm);
}

static int properties_v9(int dev, struct rdi_nccl_props_v9 *out) {
    struct rdi_nccl_props_v11 p;
    int r = properties_v11(dev, &p);
    if (r == RDI_NCCL_SUCCESS) {
        // The older struct is a beginning of the newer one; see the assertions in abi.h.
        memcpy(out, &p, sizeof *out);
    }
    return r;
}

static int properties_v8(int dev, struct rdi_nccl_props_v8 *out) {
    struct rdi_nccl_props_v12 p;
    int r = rdi_nccl_properties(dev, &p);
    if (r != RDI_NCCL_SUCCESS) {
        return r;
    }
    *out = (struct rdi_nccl_props_v8){
        .name = p.name,
        .pci_path = p.pci_path,
        .guid = p.guid,
        .ptr_support = p.ptr_support,
        .reg_is_global = p.reg_is_global,
        .speed = p.speed,
        .port = p.port,
        .latency = p.latency,
        .max_comms = p.max_comms,
        .max_recvs = p.max_recvs,
        .device_type = p.device_type,
        .device_version = p.device_version,
    };
    return r;
}

static int isend_v8(void *comm, void *data, int size, int tag, void *mhandle, void **request) {
    if (size < 0) {
        *request = NULL;
        return RDI_NCCL_INTERNAL;
    }
    return isend(comm, data, (size_t)size, tag, mhandle, request);
}

static int irecv_v8(void *comm, int n, void **data, int *sizes, int *tags, void **mhandles,
                    void **request) {
    *request = NULL;
    if (n != 1 || sizes[0] < 0) {
        return RDI_NCCL_INTERNAL;
    }
    size_t size = (size_t)sizes[0];
    return irecv(comm, n, data, &size, tags, mhandles, request);
}

EXPORT const struct rdi_nccl_net_v10 ncclNetPlugin_v10 = {
    .name = RDI_NCCL_NAME,
    .init = init_v10,
    .devices = net_devices,
    .get_properties = properties_v9,
    .listen = listen_v8,
    .connect = connect_v10,
    ACCEPT_AND_MEMORY,
    .isend = isend_v10,
    .irecv = irecv_v10,
    THE_REST,
};

EXPORT const struct rdi_nccl_net_v9 ncclNetPlugin_v9 = {
    .name = RDI_NCCL_NAME,
    .init = init_v8,
    .devices = net_devices,
    .get_properties = properties_v9,
    .listen = listen_v8,
    .connect = connect_v8,
    ACCEPT_AND_MEMORY,
    .isend = isend,
    .irecv = irecv,
    THE_REST,
};

EXPORT const struct rdi_nccl_net_v8 ncclNetPlugin_v8 = {
    .name = RDI_NCCL_NAME,
    .init = init_v8,
    .devices = net_devices,
    .get_properties = properties_v8,
    .listen = listen_v8,
    .connect = connect_v8,
    ACCEPT_AND_MEMORY,
    .isend = isend_v8,
    .irecv = irecv_v8,
    THE_REST,
};
