// SPDX-License-Identifier: MIT
// A libibverbs of two devices that only remembers what was made and undone, for tests of the device layer:
//
//   mock0  port 1: RoCE, active, 100 Gbit/s; GIDs 0 fe80::1 v1, 1 fe80::1 v2, 2 10.9.0.1 v1, 3 10.9.0.1 v2,
//                  5 fd00::1 v2 (4 is empty)
//          port 2: RoCE, down
//   mock1  port 1: InfiniBand, active, 200 Gbit/s, LID 7; GID 0 fe80::2
#ifndef RDI_TESTS_VERBS_MOCK_H
#define RDI_TESTS_VERBS_MOCK_H

#include "transport/verbs/parts.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MOCK_EVENTS 16

static struct {
    struct ibv_device device[2];
    int open, pds, mrs, channels, cqs; // alive
    int registrations;                 // ever tried
    int last_access;
    int reg_errno, relaxed_errno, dmabuf_errno, open_errno, list_errno;
    int fail_cq; // errno of create_cq
    int devices;
    int max_cqe;
    int acked_cq_events;
    struct ibv_async_event events[MOCK_EVENTS];
    int nevents, next_event, acked;
    int event_errno; // after the last event
} mock;

static struct ibv_device **mock_list(int *n) {
    static struct ibv_device *list[3];
    if (mock.list_errno != 0) {
        errno = mock.list_errno;
        return NULL;
    }
    for (int i = 0; i < mock.devices; i++) {
        list[i] = &mock.device[i];
    }
    list[mock.devices] = NULL;
    *n = mock.devices;
    return list;
}

static void mock_free_list(struct ibv_device **list) { (void)list; }
static const char *mock_name(struct ibv_device *d) { return d->name; }

static struct ibv_context *mock_open(struct ibv_device *d) {
    if (mock.open_errno != 0) {
        errno = mock.open_errno;
        return NULL;
    }
    struct ibv_context *c = calloc(1, sizeof *c);
    c->device = d;
    c->async_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    mock.open++;
    return c;
}

static int mock_close(struct ibv_context *c) {
    close(c->async_fd);
    free(c);
    mock.open--;
    return 0;
}

static bool mock_is_ib(struct ibv_context *c) { return c->device == &mock.device[1]; }

static int mock_query_device(struct ibv_context *c, struct ibv_device_attr *a) {
    memset(a, 0, sizeof *a);
    a->phys_port_cnt = mock_is_ib(c) ? 1 : 2;
    a->max_cqe = mock.max_cqe;
    return 0;
}

static int mock_query_port(struct ibv_context *c, uint8_t port, struct _compat_ibv_port_attr *out) {
    struct ibv_port_attr *a = (struct ibv_port_attr *)out;
    a->state = port == 1 ? IBV_PORT_ACTIVE : IBV_PORT_DOWN;
    a->max_mtu = a->active_mtu = IBV_MTU_4096;
    a->gid_tbl_len = 6;
    a->active_width = 2;
    a->active_speed = mock_is_ib(c) ? 64 : 32;
    a->link_layer = mock_is_ib(c) ? IBV_LINK_LAYER_INFINIBAND : IBV_LINK_LAYER_ETHERNET;
    a->lid = mock_is_ib(c) ? 7 : 0;
    a->phys_state = 5;
    return 0;
}

static int mock_query_gid_ex(struct ibv_context *c, uint32_t port, uint32_t index,
                             struct ibv_gid_entry *e, uint32_t flags, size_t size) {
    static const struct {
        const char *text;
        uint32_t type;
    } table[6] = {{"fe80::1", IBV_GID_TYPE_ROCE_V1},
                  {"fe80::1", IBV_GID_TYPE_ROCE_V2},
                  {"::ffff:10.9.0.1", IBV_GID_TYPE_ROCE_V1},
                  {"::ffff:10.9.0.1", IBV_GID_TYPE_ROCE_V2},
                  {"::", IBV_GID_TYPE_ROCE_V1},
                  {"fd00::1", IBV_GID_TYPE_ROCE_V2}};
    (void)flags;
    if (index > 5 || size != sizeof *e || port != 1 || (mock_is_ib(c) && index > 0)) {
        return ENODATA;
    }
    memset(e, 0, sizeof *e);
    inet_pton(AF_INET6, mock_is_ib(c) ? "fe80::2" : table[index].text, e->gid.raw);
    e->gid_type = mock_is_ib(c) ? IBV_GID_TYPE_IB : table[index].type;
    return 0;
}

static int mock_query_gid(struct ibv_context *c, uint8_t port, int index, union ibv_gid *gid) {
    struct ibv_gid_entry e;
    int err = mock_query_gid_ex(c, port, (uint32_t)index, &e, 0, sizeof e);
    *gid = e.gid;
    return err == 0 ? 0 : -1;
}

static struct ibv_pd *mock_alloc_pd(struct ibv_context *c) {
    struct ibv_pd *pd = calloc(1, sizeof *pd);
    pd->context = c;
    mock.pds++;
    return pd;
}

static int mock_dealloc_pd(struct ibv_pd *pd) {
    free(pd);
    mock.pds--;
    return 0;
}

static struct ibv_mr *mock_make_mr(struct ibv_pd *pd, void *at, size_t len, int access, int err) {
    mock.registrations++;
    if (err != 0) {
        errno = err;
        return NULL;
    }
    struct ibv_mr *mr = calloc(1, sizeof *mr);
    mr->pd = pd;
    mr->addr = at;
    mr->length = len;
    mock.last_access = access;
    mock.mrs++;
    return mr;
}

static struct ibv_mr *mock_reg(struct ibv_pd *pd, void *at, size_t len, int access) {
    return mock_make_mr(pd, at, len, access, mock.reg_errno);
}

static struct ibv_mr *mock_reg2(struct ibv_pd *pd, void *at, size_t len, uint64_t iova,
                                unsigned access) {
    int err = iova != (uintptr_t)at ? EINVAL : mock.relaxed_errno;
    return mock_make_mr(pd, at, len, (int)access, err != 0 ? err : mock.reg_errno);
}

static struct ibv_mr *mock_reg_dmabuf(struct ibv_pd *pd, uint64_t offset, size_t len, uint64_t iova,
                                      int fd, int access) {
    (void)offset;
    (void)iova;
    int err = mock.dmabuf_errno != 0 ? mock.dmabuf_errno : fd < 0 ? EBADF : 0;
    return mock_make_mr(pd, NULL, len, access, err);
}

static int mock_dereg(struct ibv_mr *mr) {
    free(mr);
    mock.mrs--;
    return 0;
}

static struct ibv_comp_channel *mock_channel(struct ibv_context *c) {
    struct ibv_comp_channel *channel = calloc(1, sizeof *channel);
    channel->context = c;
    channel->fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    mock.channels++;
    return channel;
}

static int mock_destroy_channel(struct ibv_comp_channel *channel) {
    close(channel->fd);
    free(channel);
    mock.channels--;
    return 0;
}

static struct ibv_cq *mock_cq(struct ibv_context *c, int cqe, void *self,
                              struct ibv_comp_channel *channel, int vector) {
    if (mock.fail_cq != 0 || vector != 0 || cqe > mock.max_cqe) {
        errno = mock.fail_cq != 0 ? mock.fail_cq : EINVAL;
        return NULL;
    }
    struct ibv_cq *cq = calloc(1, sizeof *cq);
    cq->context = c;
    cq->channel = channel;
    cq->cq_context = self;
    cq->cqe = cqe;
    mock.cqs++;
    return cq;
}

static int mock_destroy_cq(struct ibv_cq *cq) {
    free(cq);
    mock.cqs--;
    return 0;
}

static void mock_ack_cq(struct ibv_cq *cq, unsigned n) {
    (void)cq;
    mock.acked_cq_events += (int)n;
}

static int mock_get_event(struct ibv_context *c, struct ibv_async_event *e) {
    (void)c;
    if (mock.next_event == mock.nevents) {
        errno = mock.event_errno;
        return -1;
    }
    *e = mock.events[mock.next_event++];
    return 0;
}

static void mock_ack_event(struct ibv_async_event *e) {
    (void)e;
    mock.acked++;
}

static const char *mock_event_text(enum ibv_event_type type) {
    return type == IBV_EVENT_PORT_ERR ? "port error" : "some event";
}

static int mock_fork_init(void) { return 0; }

static struct rdi_ibv mock_ibv(void) {
    memset(&mock, 0, sizeof mock);
    mock.devices = 2;
    mock.max_cqe = 1000;
    mock.event_errno = EAGAIN;
    snprintf(mock.device[0].name, sizeof mock.device[0].name, "mock0");
    snprintf(mock.device[1].name, sizeof mock.device[1].name, "mock1");
    return (struct rdi_ibv){
        .get_device_list = mock_list,
        .free_device_list = mock_free_list,
        .get_device_name = mock_name,
        .open_device = mock_open,
        .close_device = mock_close,
        .query_device = mock_query_device,
        .query_gid = mock_query_gid,
        .alloc_pd = mock_alloc_pd,
        .dealloc_pd = mock_dealloc_pd,
        .reg_mr = mock_reg,
        .dereg_mr = mock_dereg,
        .create_comp_channel = mock_channel,
        .destroy_comp_channel = mock_destroy_channel,
        .create_cq = mock_cq,
        .destroy_cq = mock_destroy_cq,
        .ack_cq_events = mock_ack_cq,
        .get_async_event = mock_get_event,
        .ack_async_event = mock_ack_event,
        .event_type_str = mock_event_text,
        .fork_init = mock_fork_init,
        .query_port_compat = mock_query_port,
        .reg_mr_iova2 = mock_reg2,
        .reg_dmabuf_mr = mock_reg_dmabuf,
        .query_gid_ex = mock_query_gid_ex,
    };
}

static inline char *mock_no_environment(const char *name) {
    (void)name;
    return NULL;
}

static inline struct rdi_options mock_options(const char *text) {
    struct rdi_options o;
    if (rdi_options_load(&o, text, mock_no_environment) != RONDO_OK) {
        abort();
    }
    return o;
}

// Whether everything that was made is gone.
static inline bool mock_is_clean(void) {
    return mock.open == 0 && mock.pds == 0 && mock.mrs == 0 && mock.channels == 0 && mock.cqs == 0;
}

#endif
