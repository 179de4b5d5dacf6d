// SPDX-License-Identifier: MIT
// Completion queues and their channels.
#include "fake.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static struct fv_cq *cq_of(struct ibv_cq *v) { return FV_CONTAINER(v, struct fv_cq, v); }

FV_EXPORT struct ibv_comp_channel *ibv_create_comp_channel(struct ibv_context *context) {
    int fds[2];
    struct fv_channel *c = calloc(1, sizeof *c);
    if (!c || fv_pipe(fds) != 0) {
        free(c);
        return NULL;
    }
    c->magic = FV_ALIVE;
    c->v.context = context;
    c->v.fd = fds[0];
    c->write_fd = fds[1];
    struct fv_nic *nic = fv_enter_locked(context);
    c->next = nic->channels;
    nic->channels = c;
    nic->nchannels++;
    fv_leave(nic);
    return &c->v;
}

FV_EXPORT int ibv_destroy_comp_channel(struct ibv_comp_channel *v) {
    struct fv_channel *c = FV_CONTAINER(v, struct fv_channel, v);
    fv_check_alive(c->magic, "completion channel", "ibv_destroy_comp_channel()");
    struct fv_nic *nic = fv_enter_locked(v->context);
    int rc = v->refcnt ? EBUSY : 0;
    if (rc == 0) {
        struct fv_channel **at = &nic->channels;
        while (*at != c)
            at = &(*at)->next;
        *at = c->next;
        nic->nchannels--;
        close(v->fd);
        close(c->write_fd);
        c->magic = FV_DEAD;
        fv_bury(nic, c);
    }
    fv_leave(nic);
    return rc;
}

// ---- Create, destroy -----------------------------------------------------------------------------

static int attach(struct fv_nic *nic, struct fv_cq *cq) {
    if (nic->gone)
        return EIO;
    if (cq->v.cqe < 1 || (unsigned)cq->v.cqe > nic->faults.max_cqe)
        return EINVAL;
    cq->entries = calloc((size_t)cq->v.cqe, sizeof *cq->entries);
    if (!cq->entries)
        return ENOMEM;
    cq->capacity = (unsigned)cq->v.cqe;
    cq->id = ++nic->next_cq;
    cq->rng = fv_random(&nic->rng) | 1;
    cq->next = nic->cqs;
    nic->cqs = cq;
    nic->ncqs++;
    if (cq->v.channel)
        cq->v.channel->refcnt++;
    return 0;
}

FV_EXPORT struct ibv_cq *ibv_create_cq(struct ibv_context *context, int cqe, void *cq_context,
                                       struct ibv_comp_channel *channel, int comp_vector) {
    struct fv_cq *cq = comp_vector == 0 ? calloc(1, sizeof *cq) : NULL;
    int rc = comp_vector == 0 ? ENOMEM : EINVAL;
    if (cq) {
        cq->magic = FV_ALIVE;
        cq->v.context = context;
        cq->v.channel = channel;
        cq->v.cq_context = cq_context;
        cq->v.cqe = cqe;
        pthread_mutex_init(&cq->lock, NULL);
        struct fv_nic *nic = fv_enter_locked(context);
        rc = attach(nic, cq);
        fv_leave(nic);
        if (rc == 0)
            return &cq->v;
        pthread_mutex_destroy(&cq->lock);
        free(cq);
    }
    errno = rc;
    return NULL;
}

static void check_acked(const struct fv_cq *cq) {
    if (cq->events_got != cq->events_acked || cq->async_got != cq->async_acked)
        fv_rule("UNACKED_EVENTS",
                "ibv_destroy_cq() would wait for ever: %u completion events were got and %u "
                "acknowledged, %u asynchronous events and %u",
                cq->events_got, cq->events_acked, cq->async_got, cq->async_acked);
}

FV_EXPORT int ibv_destroy_cq(struct ibv_cq *v) {
    struct fv_cq *cq = cq_of(v);
    fv_check_alive(cq->magic, "completion queue", "ibv_destroy_cq()");
    struct fv_nic *nic = fv_enter_locked(v->context);
    if (cq->users) {
        fv_leave(nic);
        return EBUSY;
    }
    check_acked(cq);
    struct fv_cq **at = &nic->cqs;
    while (*at != cq)
        at = &(*at)->next;
    *at = cq->next;
    nic->ncqs--;
    if (v->channel) {
        v->channel->refcnt--;
        fv_pipe_remove(v->channel->fd, FV_CONTAINER(v->channel, struct fv_channel, v)->write_fd,
                       sizeof cq->id, 0, cq->id);
    }
    pthread_mutex_lock(&cq->lock);
    cq->magic = FV_DEAD;
    free(cq->entries);
    cq->entries = NULL;
    cq->count = 0;
    pthread_mutex_unlock(&cq->lock);
    fv_bury(nic, cq);
    fv_leave(nic);
    return 0;
}

// ---- Entries -------------------------------------------------------------------------------------

static void notify(struct fv_cq *cq) {
    cq->armed = 0;
    if (!cq->v.channel)
        return;
    int fd = FV_CONTAINER(cq->v.channel, struct fv_channel, v)->write_fd;
    if (write(fd, &cq->id, sizeof cq->id) < 0)
        fv_rule("CHANNEL_FULL", "nobody reads the events of a completion channel");
}

// What is of no meaning has a meaningless value, which may look like a good one.
static void poison(struct fv_cqe *e, uint64_t *rng) {
    static const enum ibv_wc_opcode wrong[] = {IBV_WC_SEND, IBV_WC_RDMA_WRITE, IBV_WC_RECV,
                                               IBV_WC_RECV_RDMA_WITH_IMM};
    struct ibv_wc good = e->wc;
    memset(&e->wc, 0xa5, sizeof e->wc);
    e->wc.wr_id = good.wr_id;
    e->wc.status = good.status;
    e->wc.qp_num = good.qp_num;
    if (good.status != IBV_WC_SUCCESS) {
        e->wc.vendor_err = good.vendor_err;
        e->wc.opcode = wrong[fv_random(rng) % 4];
        return;
    }
    e->wc.opcode = good.opcode;
    e->wc.wc_flags = good.wc_flags;
    if (good.opcode & IBV_WC_RECV || good.opcode == IBV_WC_RDMA_READ ||
        good.opcode == IBV_WC_COMP_SWAP || good.opcode == IBV_WC_FETCH_ADD)
        e->wc.byte_len = good.byte_len;
    if (good.wc_flags & IBV_WC_WITH_IMM)
        e->wc.imm_data = good.imm_data;
}

static void overrun(struct fv_cq *cq) {
    fv_rule("CQ_OVERRUN", "a completion queue of %u entries is full and one more comes",
            cq->capacity);
    cq->broken = true;
}

void fv_cq_push(struct fv_cq *cq, const struct fv_cqe *e) {
    bool broke = false;
    pthread_mutex_lock(&cq->lock);
    if (cq->count == cq->capacity && !cq->broken) {
        overrun(cq);
        broke = true;
    }
    if (!cq->broken) {
        struct fv_cqe *to = &cq->entries[(cq->head + cq->count) % cq->capacity];
        *to = *e;
        poison(to, &cq->rng);
        cq->count++;
        if (cq->armed == 1 || (cq->armed == 2 && (e->solicited || e->wc.status)))
            notify(cq);
    }
    pthread_mutex_unlock(&cq->lock);
    if (!broke)
        return;
    fv_event_cq(cq, IBV_EVENT_CQ_ERR);
    for (struct fv_qp *q = fv_nic_of(cq->v.context)->qps; q; q = q->next)
        if (q->v.send_cq == &cq->v || q->v.recv_cq == &cq->v)
            fv_qp_fail(q);
}

void fv_cq_clean(struct fv_cq *cq, const struct fv_qp *qp) {
    pthread_mutex_lock(&cq->lock);
    unsigned kept = 0;
    for (unsigned i = 0; i < cq->count; i++) {
        struct fv_cqe *e = &cq->entries[(cq->head + i) % cq->capacity];
        if (e->qp != qp)
            cq->entries[(cq->head + kept++) % cq->capacity] = *e;
    }
    cq->count = kept;
    pthread_mutex_unlock(&cq->lock);
}

// The work requests that a polled entry covers are the application's again.
static void retire(const struct fv_cqe *e) {
    struct fv_qp *q = e->qp;
    if (e->send) {
        q->sq_tail = e->retires;
        q->signaled -= e->signaled;
    } else {
        q->rq_tail = e->retires;
    }
}

int fv_poll_cq(struct ibv_cq *v, int n, struct ibv_wc *wc) {
    struct fv_cq *cq = cq_of(v);
    fv_enter(v->context);
    fv_check_alive(cq->magic, "completion queue", "ibv_poll_cq()");
    if (cq->count == 0)
        return 0;
    int got = 0;
    pthread_mutex_lock(&cq->lock);
    for (; got < n && cq->count > 0 && !cq->broken; got++) {
        struct fv_cqe *e = &cq->entries[cq->head];
        wc[got] = e->wc;
        retire(e);
        cq->head = (cq->head + 1) % cq->capacity;
        cq->count--;
    }
    pthread_mutex_unlock(&cq->lock);
    return got;
}

// ---- Events --------------------------------------------------------------------------------------

// Tells of what comes after it, not of what is there. An event may come without a reason, too.
int fv_req_notify_cq(struct ibv_cq *v, int solicited_only) {
    struct fv_cq *cq = cq_of(v);
    struct fv_nic *nic = fv_enter(v->context);
    fv_check_alive(cq->magic, "completion queue", "ibv_req_notify_cq()");
    pthread_mutex_lock(&cq->lock);
    bool armed = cq->armed != 0;
    cq->armed = cq->armed == 1 || !solicited_only ? 1 : 2;
    if (!armed && fv_random(&cq->rng) % 16 == 0)
        notify(cq);
    pthread_mutex_unlock(&cq->lock);
    (void)nic;
    return 0;
}

FV_EXPORT int ibv_get_cq_event(struct ibv_comp_channel *v, struct ibv_cq **cq, void **cq_context) {
    struct fv_nic *nic = fv_enter(v->context);
    fv_check_alive(FV_CONTAINER(v, struct fv_channel, v)->magic, "completion channel",
                   "ibv_get_cq_event()");
    for (;;) {
        uint32_t id;
        if (read(v->fd, &id, sizeof id) != sizeof id)
            return -1;
        pthread_mutex_lock(&nic->lock);
        struct fv_cq *c = nic->cqs;
        while (c && c->id != id)
            c = c->next;
        if (c)
            c->events_got++;
        pthread_mutex_unlock(&nic->lock);
        if (c) {
            *cq = &c->v;
            *cq_context = c->v.cq_context;
            return 0;
        }
    }
}

FV_EXPORT void ibv_ack_cq_events(struct ibv_cq *v, unsigned n) {
    struct fv_cq *cq = cq_of(v);
    fv_check_alive(cq->magic, "completion queue", "ibv_ack_cq_events()");
    struct fv_nic *nic = fv_enter_locked(v->context);
    cq->events_acked += n;
    if (cq->events_acked > cq->events_got)
        fv_rule("ACKED_TWICE", "%u completion events were got and %u acknowledged", cq->events_got,
                cq->events_acked);
    fv_leave(nic);
}
