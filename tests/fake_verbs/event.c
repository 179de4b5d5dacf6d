// SPDX-License-Identifier: MIT
// Asynchronous events.
#include "fake.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum kind { OF_DEVICE, OF_QP, OF_CQ };
struct record {
    uint32_t type, kind, id; // id: of the object, or the port
};

static void put(struct fv_nic *nic, enum ibv_event_type type, enum kind kind, uint32_t id) {
    struct record r = {
        .type = type, .kind = kind, .id = kind == OF_DEVICE ? id : (uint32_t)kind << 24 | id};
    if (write(nic->async_write, &r, sizeof r) < 0)
        fv_rule("ASYNC_FULL", "nobody reads the asynchronous events of %s", nic->device.v.name);
}

void fv_event_port(struct fv_nic *nic, enum ibv_event_type type, unsigned port) {
    put(nic, type, OF_DEVICE, port);
}
void fv_event_qp(struct fv_qp *qp, enum ibv_event_type type) {
    put(qp->nic, type, OF_QP, qp->v.qp_num);
}
void fv_event_cq(struct fv_cq *cq, enum ibv_event_type type) {
    put(fv_nic_of(cq->v.context), type, OF_CQ, cq->id);
}

void fv_pipe_remove(int read_fd, int write_fd, size_t record, size_t at, uint32_t id) {
    char kept[8192];
    size_t n = 0;
    struct pollfd p = {.fd = read_fd, .events = POLLIN};
    while (n + record <= sizeof kept && poll(&p, 1, 0) == 1 && (p.revents & POLLIN)) {
        if (read(read_fd, kept + n, record) != (ssize_t)record)
            break;
        if (memcmp(kept + n + at, &id, sizeof id) != 0)
            n += record;
    }
    if (n && write(write_fd, kept, n) < 0)
        fv_rule("ASYNC_FULL", "events were lost");
}

// The object is counted as one that waits for an acknowledgement; false: it is destroyed.
static bool resolve(struct fv_nic *nic, const struct record *r, struct ibv_async_event *event) {
    uint32_t id = r->id & 0xffffffu;
    if (r->kind == OF_QP) {
        struct fv_qp *q = nic->qp[id % (1u << FV_QPN_BITS)];
        if (!q || q->v.qp_num != id)
            return false;
        q->async_got++;
        event->element.qp = &q->v;
    } else if (r->kind == OF_CQ) {
        struct fv_cq *c = nic->cqs;
        while (c && c->id != id)
            c = c->next;
        if (!c)
            return false;
        c->async_got++;
        event->element.cq = &c->v;
    } else {
        event->element.port_num = (int)r->id;
    }
    event->event_type = r->type;
    return true;
}

FV_EXPORT int ibv_get_async_event(struct ibv_context *context, struct ibv_async_event *event) {
    struct fv_nic *nic = fv_enter(context);
    bool there = false;
    while (!there) {
        struct record r;
        if (read(context->async_fd, &r, sizeof r) != sizeof r)
            return -1;
        memset(event, 0, sizeof *event);
        pthread_mutex_lock(&nic->lock);
        there = resolve(nic, &r, event);
        pthread_mutex_unlock(&nic->lock);
    }
    return 0;
}

static void ack_one(unsigned got, unsigned *acked) {
    if (++*acked > got)
        fv_rule("ACKED_TWICE", "an asynchronous event was acknowledged twice");
}

// As the real one: an event of a queue has the queue in it, and must be acknowledged before that goes.
FV_EXPORT void ibv_ack_async_event(struct ibv_async_event *event) {
    switch (event->event_type) {
    case IBV_EVENT_CQ_ERR: {
        struct fv_cq *c = FV_CONTAINER(event->element.cq, struct fv_cq, v);
        struct fv_nic *nic = fv_enter_locked(c->v.context);
        ack_one(c->async_got, &c->async_acked);
        fv_leave(nic);
        break;
    }
    case IBV_EVENT_QP_FATAL:
    case IBV_EVENT_QP_REQ_ERR:
    case IBV_EVENT_QP_ACCESS_ERR:
    case IBV_EVENT_COMM_EST: {
        struct fv_qp *q = FV_CONTAINER(event->element.qp, struct fv_qp, v);
        struct fv_nic *nic = fv_enter_locked(q->v.context);
        ack_one(q->async_got, &q->async_acked);
        fv_leave(nic);
        break;
    }
    default:
        break;
    }
}
