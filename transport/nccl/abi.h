// SPDX-License-Identifier: MIT
// The binary interface between NCCL and a network plugin, versions 8 to 12, as far as this plugin needs it.
// NCCL looks for the symbols ncclNetPlugin_v12, v11, ... and takes the first that it finds; what each points to
// is laid out here. The assertions at the end hold the layout; tests/nccl_net/test_abi.c repeats them against
// what was built.
//
//   v8   sizes of messages are int
//   v9   sizes are size_t; properties grow: forceFlush, fused devices, greatest sizes
//   v10  a profiler: a callback in init(), a handle with each message; connect() gets the traffic class
//   v11  a context for each communicator, made by init(), ended by finalize(); setNetAttr(); multi-requests
//   v12  eight instead of four fused devices; rail and plane
#ifndef RDI_NCCL_ABI_H
#define RDI_NCCL_ABI_H

#include <stddef.h>
#include <stdint.h>

enum rdi_nccl_result {
    RDI_NCCL_SUCCESS = 0,
    RDI_NCCL_SYSTEM = 2,   // a system call, a device or memory
    RDI_NCCL_INTERNAL = 3, // wrong use of the plugin by NCCL, or a bug
    RDI_NCCL_USAGE = 5,    // wrong use by the program or its user
    RDI_NCCL_REMOTE = 6,   // a peer is gone
};

enum { RDI_NCCL_LOG_WARN = 2, RDI_NCCL_LOG_INFO = 3, RDI_NCCL_LOG_TRACE = 5 };
enum { RDI_NCCL_SUB_INIT = 1, RDI_NCCL_SUB_NET = 16 };
enum { RDI_NCCL_PTR_HOST = 1, RDI_NCCL_PTR_CUDA = 2, RDI_NCCL_PTR_DMABUF = 4 };

#define RDI_NCCL_HANDLE 128
#define RDI_NCCL_REQUESTS 32                  // in flight on a comm, at the least
#define RDI_NCCL_MAX_BYTES (INT64_C(1) << 40) // more NCCL does not let a plugin promise
#define RDI_NCCL_DEVICE_HOST 0
#define RDI_NCCL_UNDEFINED (-1)

typedef void (*rdi_nccl_log_fn)(int level, unsigned long subsystems, const char *file, int line,
                                const char *fmt, ...);
typedef int (*rdi_nccl_profile_fn)(void **event, int type, void *handle, int64_t plugin,
                                   void *data);

struct rdi_nccl_config {
    int traffic_class; // RDI_NCCL_UNDEFINED: none was chosen
};

// ---- Properties ----------------------------------------------------------------------------------

#define RDI_NCCL_PROPS_BEGIN                        \
    char *name;                                     \
    char *pci_path; /* below /sys, NULL: not PCI */ \
    uint64_t guid;  /* of the card */               \
    int ptr_support;                                \
    int reg_is_global
#define RDI_NCCL_PROPS_MIDDLE           \
    int speed; /* Mbit/s */             \
    int port;                           \
    float latency; /* us */             \
    int max_comms;                      \
    int max_recvs; /* in one irecv() */ \
    int device_type;                    \
    int device_version

struct rdi_nccl_fused4 {
    int count, devices[4];
};
struct rdi_nccl_fused8 {
    int count, devices[8];
};

struct rdi_nccl_props_v8 {
    RDI_NCCL_PROPS_BEGIN;
    RDI_NCCL_PROPS_MIDDLE;
};
struct rdi_nccl_props_v9 { // and v10
    RDI_NCCL_PROPS_BEGIN;
    int force_flush;
    RDI_NCCL_PROPS_MIDDLE;
    struct rdi_nccl_fused4 fused;
    size_t max_p2p, max_coll;
};
struct rdi_nccl_props_v11 {
    RDI_NCCL_PROPS_BEGIN;
    int force_flush;
    RDI_NCCL_PROPS_MIDDLE;
    struct rdi_nccl_fused4 fused;
    size_t max_p2p, max_coll;
    int max_multi_request;
};
struct rdi_nccl_props_v12 {
    RDI_NCCL_PROPS_BEGIN;
    int force_flush;
    RDI_NCCL_PROPS_MIDDLE;
    struct rdi_nccl_fused8 fused;
    size_t max_p2p, max_coll;
    int max_multi_request;
    int16_t rail, plane;
};

// ---- Functions -----------------------------------------------------------------------------------

// Versions differ in a few places; the rest is the same text.
#define RDI_NCCL_FNS_ACCEPT_REG                                                                  \
    int (*accept)(void *listen_comm, void **recv_comm, void **offload);                          \
    int (*reg_mr)(void *comm, void *data, size_t size, int type, void **mhandle);                \
    int (*reg_mr_dmabuf)(void *comm, void *data, size_t size, int type, uint64_t offset, int fd, \
                         void **mhandle);                                                        \
    int (*dereg_mr)(void *comm, void *mhandle)
#define RDI_NCCL_FNS_END                                                            \
    int (*iflush)(void *recv_comm, int n, void **data, int *sizes, void **mhandles, \
                  void **request);                                                  \
    int (*test)(void *request, int *done, int *sizes);                              \
    int (*close_send)(void *comm);                                                  \
    int (*close_recv)(void *comm);                                                  \
    int (*close_listen)(void *comm);                                                \
    int (*get_device_mr)(void *comm, void *mhandle, void **device_mhandle);         \
    int (*irecv_consumed)(void *comm, int n, void *request)

struct rdi_nccl_net_v8 {
    const char *name;
    int (*init)(rdi_nccl_log_fn log);
    int (*devices)(int *n);
    int (*get_properties)(int dev, struct rdi_nccl_props_v8 *out);
    int (*listen)(int dev, void *handle, void **listen_comm);
    int (*connect)(int dev, void *handle, void **send_comm, void **offload);
    RDI_NCCL_FNS_ACCEPT_REG;
    int (*isend)(void *comm, void *data, int size, int tag, void *mhandle, void **request);
    int (*irecv)(void *comm, int n, void **data, int *sizes, int *tags, void **mhandles,
                 void **request);
    RDI_NCCL_FNS_END;
};

struct rdi_nccl_net_v9 {
    const char *name;
    int (*init)(rdi_nccl_log_fn log);
    int (*devices)(int *n);
    int (*get_properties)(int dev, struct rdi_nccl_props_v9 *out);
    int (*listen)(int dev, void *handle, void **listen_comm);
    int (*connect)(int dev, void *handle, void **send_comm, void **offload);
    RDI_NCCL_FNS_ACCEPT_REG;
    int (*isend)(void *comm, void *data, size_t size, int tag, void *mhandle, void **request);
    int (*irecv)(void *comm, int n, void **data, size_t *sizes, int *tags, void **mhandles,
                 void **request);
    RDI_NCCL_FNS_END;
    int (*make_vdevice)(int *dev, struct rdi_nccl_fused4 *fused);
};

#define RDI_NCCL_FNS_MESSAGE_V10                                                             \
    int (*isend)(void *comm, void *data, size_t size, int tag, void *mhandle, void *phandle, \
                 void **request);                                                            \
    int (*irecv)(void *comm, int n, void **data, size_t *sizes, int *tags, void **mhandles,  \
                 void **phandles, void **request)

struct rdi_nccl_net_v10 {
    const char *name;
    int (*init)(rdi_nccl_log_fn log, rdi_nccl_profile_fn profile);
    int (*devices)(int *n);
    int (*get_properties)(int dev, struct rdi_nccl_props_v9 *out);
    int (*listen)(int dev, void *handle, void **listen_comm);
    int (*connect)(int dev, struct rdi_nccl_config *config, void *handle, void **send_comm,
                   void **offload);
    RDI_NCCL_FNS_ACCEPT_REG;
    RDI_NCCL_FNS_MESSAGE_V10;
    RDI_NCCL_FNS_END;
    int (*make_vdevice)(int *dev, struct rdi_nccl_fused4 *fused);
};

#define RDI_NCCL_FNS_BEGIN_V11(props)                                             \
    const char *name;                                                             \
    int (*init)(void **context, uint64_t comm_id, struct rdi_nccl_config *config, \
                rdi_nccl_log_fn log, rdi_nccl_profile_fn profile);                \
    int (*devices)(int *n);                                                       \
    int (*get_properties)(int dev, props *out);                                   \
    int (*listen)(void *context, int dev, void *handle, void **listen_comm);      \
    int (*connect)(void *context, int dev, void *handle, void **send_comm, void **offload)

struct rdi_nccl_net_v11 {
    RDI_NCCL_FNS_BEGIN_V11(struct rdi_nccl_props_v11);
    RDI_NCCL_FNS_ACCEPT_REG;
    RDI_NCCL_FNS_MESSAGE_V10;
    RDI_NCCL_FNS_END;
    int (*make_vdevice)(int *dev, struct rdi_nccl_fused4 *fused);
    int (*finalize)(void *context);
    int (*set_net_attr)(void *context, void *attr);
};

struct rdi_nccl_net_v12 {
    RDI_NCCL_FNS_BEGIN_V11(struct rdi_nccl_props_v12);
    RDI_NCCL_FNS_ACCEPT_REG;
    RDI_NCCL_FNS_MESSAGE_V10;
    RDI_NCCL_FNS_END;
    int (*make_vdevice)(int *dev, struct rdi_nccl_fused8 *fused);
    int (*finalize)(void *context);
    int (*set_net_attr)(void *context, void *attr);
};

// ---- Layout --------------------------------------------------------------------------------------

// Of 64-bit machines, which are all that NCCL runs on.
#define RDI_NCCL_AT(type, field, where) \
    _Static_assert(offsetof(struct type, field) == (where), #type "." #field)
#define RDI_NCCL_SIZE(type, bytes) _Static_assert(sizeof(struct type) == (bytes), #type)
RDI_NCCL_SIZE(rdi_nccl_props_v8, 64);
RDI_NCCL_AT(rdi_nccl_props_v8, speed, 32);
RDI_NCCL_AT(rdi_nccl_props_v8, device_version, 56);
RDI_NCCL_SIZE(rdi_nccl_props_v9, 104);
RDI_NCCL_AT(rdi_nccl_props_v9, force_flush, 32);
RDI_NCCL_AT(rdi_nccl_props_v9, fused, 64);
RDI_NCCL_AT(rdi_nccl_props_v9, max_p2p, 88);
RDI_NCCL_SIZE(rdi_nccl_props_v11, 112);
RDI_NCCL_AT(rdi_nccl_props_v11, max_multi_request, 104);
RDI_NCCL_SIZE(rdi_nccl_props_v12, 128);
RDI_NCCL_AT(rdi_nccl_props_v12, max_p2p, 104);
RDI_NCCL_AT(rdi_nccl_props_v12, rail, 124);
RDI_NCCL_SIZE(rdi_nccl_net_v8, 152);
RDI_NCCL_AT(rdi_nccl_net_v8, isend, 80);
RDI_NCCL_AT(rdi_nccl_net_v8, irecv_consumed, 144);
RDI_NCCL_SIZE(rdi_nccl_net_v9, 160);
RDI_NCCL_SIZE(rdi_nccl_net_v10, 160);
RDI_NCCL_AT(rdi_nccl_net_v10, make_vdevice, 152);
RDI_NCCL_SIZE(rdi_nccl_net_v11, 176);
RDI_NCCL_AT(rdi_nccl_net_v11, finalize, 160);
RDI_NCCL_SIZE(rdi_nccl_net_v12, 176);
RDI_NCCL_AT(rdi_nccl_net_v12, set_net_attr, 168);

#endif
