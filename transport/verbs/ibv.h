// SPDX-License-Identifier: MIT
// libibverbs, loaded at run time, so that one binary starts on machines with and without it.
//
// Only <infiniband/verbs.h> is needed to build. Its inline functions that go through a context's own table
// (ibv_post_send, ibv_post_recv, ibv_poll_cq, ibv_req_notify_cq) are used as they are; everything that would
// be a symbol of the library is called through this table instead.
#ifndef RDI_TRANSPORT_VERBS_IBV_H
#define RDI_TRANSPORT_VERBS_IBV_H

#include "transport/internal.h"

#include <infiniband/verbs.h>

// Members are named as the functions without "ibv_". Those after `optional` may be NULL (older libraries).
struct rdi_ibv {
    struct ibv_device **(*get_device_list)(int *n);
    void (*free_device_list)(struct ibv_device **list);
    const char *(*get_device_name)(struct ibv_device *device);
    struct ibv_context *(*open_device)(struct ibv_device *device);
    int (*close_device)(struct ibv_context *context);
    int (*query_device)(struct ibv_context *context, struct ibv_device_attr *attr);
    int (*query_gid)(struct ibv_context *context, uint8_t port, int index, union ibv_gid *gid);
    int (*query_pkey)(struct ibv_context *context, uint8_t port, int index, __be16 *pkey);
    struct ibv_pd *(*alloc_pd)(struct ibv_context *context);
    int (*dealloc_pd)(struct ibv_pd *pd);
    struct ibv_mr *(*reg_mr)(struct ibv_pd *pd, void *addr, size_t length, int access);
    int (*dereg_mr)(struct ibv_mr *mr);
    struct ibv_comp_channel *(*create_comp_channel)(struct ibv_context *context);
    int (*destroy_comp_channel)(struct ibv_comp_channel *channel);
    struct ibv_cq *(*create_cq)(struct ibv_context *context, int cqe, void *cq_context,
                                struct ibv_comp_channel *channel, int comp_vector);
    int (*destroy_cq)(struct ibv_cq *cq);
    int (*get_cq_event)(struct ibv_comp_channel *channel, struct ibv_cq **cq, void **cq_context);
    void (*ack_cq_events)(struct ibv_cq *cq, unsigned n);
    struct ibv_qp *(*create_qp)(struct ibv_pd *pd, struct ibv_qp_init_attr *attr);
    int (*modify_qp)(struct ibv_qp *qp, struct ibv_qp_attr *attr, int mask);
    int (*query_qp)(struct ibv_qp *qp, struct ibv_qp_attr *attr, int mask,
                    struct ibv_qp_init_attr *init);
    int (*destroy_qp)(struct ibv_qp *qp);
    int (*get_async_event)(struct ibv_context *context, struct ibv_async_event *event);
    void (*ack_async_event)(struct ibv_async_event *event);
    const char *(*wc_status_str)(enum ibv_wc_status status);
    const char *(*event_type_str)(enum ibv_event_type event);
    int (*fork_init)(void);
    // The old form of ibv_query_port(); use rdi_ibv_query_port().
    int (*query_port_compat)(struct ibv_context *context, uint8_t port,
                             struct _compat_ibv_port_attr *attr);
    // ---- optional ----
    struct ibv_mr *(*reg_mr_iova2)(struct ibv_pd *pd, void *addr, size_t length, uint64_t iova,
                                   unsigned access); // takes IBV_ACCESS_RELAXED_ORDERING
    struct ibv_mr *(*reg_dmabuf_mr)(struct ibv_pd *pd, uint64_t offset, size_t length,
                                    uint64_t iova, int fd, int access);
    enum ibv_fork_status (*is_fork_initialized)(void);
    int (*query_gid_ex)(struct ibv_context *context, uint32_t port, uint32_t index,
                        struct ibv_gid_entry *entry, uint32_t flags, size_t entry_size);
};

// Loads libibverbs.so.1 the first time (thread-safe; it stays loaded). NULL when this machine has none: `why`
// then has one line with the cause and the remedy, such as the package to install.
const struct rdi_ibv *rdi_ibv_load(char *why, size_t cap);

// ibv_query_port() with all fields that the provider knows; 0 or an errno.
int rdi_ibv_query_port(const struct rdi_ibv *v, struct ibv_context *context, uint8_t port,
                       struct ibv_port_attr *attr);

#endif
