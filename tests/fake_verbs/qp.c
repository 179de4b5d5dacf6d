// SPDX-License-Identifier: MIT
// Queue pairs and their states.
#include "fake.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static struct fv_qp *qp_of(struct ibv_qp *v) { return FV_CONTAINER(v, struct fv_qp, v); }
static struct fv_cq *cq_of(struct ibv_cq *v) { return FV_CONTAINER(v, struct fv_cq, v); }

// ---- Create, destroy -----------------------------------------------------------------------------

static int check_caps(const struct fv_nic *nic, const struct ibv_qp_init_attr *a) {
    const struct ibv_qp_cap *c = &a->cap;
    if (a->qp_type != IBV_QPT_RC || a->srq || !a->send_cq || !a->recv_cq)
        return a->qp_type != IBV_QPT_RC || a->srq ? EOPNOTSUPP : EINVAL;
    if (c->max_send_wr > nic->faults.max_wr || c->max_recv_wr > nic->faults.max_wr ||
        c->max_send_sge > FV_SGE || c->max_recv_sge > FV_SGE ||
        c->max_inline_data > nic->faults.inline_max)
        return EINVAL;
    return 0;
}

static int give_number(struct fv_nic *nic, struct fv_qp *q) {
    const uint32_t all = 1u << FV_QPN_BITS;
    for (uint32_t i = 0; i < all; i++) {
        uint32_t low = ++nic->next_qpn % all;
        if (nic->qp[low])
            continue;
        nic->qp[low] = q;
        q->v.qp_num = nic->id << FV_QPN_BITS | low;
        q->v.handle = low;
        return 0;
    }
    return ENOMEM;
}

static int attach(struct fv_nic *nic, struct fv_qp *q, const struct ibv_qp_init_attr *a) {
    int rc = nic->gone ? EIO : check_caps(nic, a);
    if (rc)
        return rc;
    q->sq = calloc(a->cap.max_send_wr + 1, sizeof *q->sq);
    q->rq = calloc(a->cap.max_recv_wr + 1, sizeof *q->rq);
    if (!q->sq || !q->rq)
        return ENOMEM;
    rc = give_number(nic, q);
    if (rc)
        return rc;
    q->next = nic->qps;
    nic->qps = q;
    nic->nqps++;
    cq_of(a->send_cq)->users++;
    cq_of(a->recv_cq)->users++;
    FV_CONTAINER(q->v.pd, struct fv_pd, v)->users++;
    return 0;
}

FV_EXPORT struct ibv_qp *ibv_create_qp(struct ibv_pd *pd, struct ibv_qp_init_attr *a) {
    fv_check_alive(FV_CONTAINER(pd, struct fv_pd, v)->magic, "protection domain",
                   "ibv_create_qp()");
    struct fv_qp *q = calloc(1, sizeof *q);
    if (!q)
        return NULL;
    q->magic = FV_ALIVE;
    q->nic = fv_enter_locked(pd->context);
    q->init = *a;
    q->msgs_end = &q->msgs;
    q->answers_end = &q->answers;
    q->queue_end = &q->queue;
    q->v = (struct ibv_qp){.context = pd->context,
                           .qp_context = a->qp_context,
                           .pd = pd,
                           .send_cq = a->send_cq,
                           .recv_cq = a->recv_cq,
                           .qp_type = a->qp_type};
    int rc = attach(q->nic, q, a);
    fv_leave(q->nic);
    if (rc == 0)
        return &q->v;
    fv_qp_free(q);
    free(q);
    errno = rc;
    return NULL;
}

void fv_qp_free(struct fv_qp *q) {
    fv_requester_free(q);
    while (q->queue) {
        struct fv_buf *b = q->queue;
        q->queue = b->next;
        free(b);
    }
    q->queue_end = &q->queue;
    free(q->sq);
    free(q->rq);
    q->sq = NULL;
    q->rq = NULL;
}

// Everything that is under way is forgotten, as in RESET; what has arrived whole is delivered.
static void forget(struct fv_qp *q) {
    fv_responder_send(q); // acknowledgements that are due
    fv_msg_flush(q);
    while (q->answers) {
        struct fv_answer *a = q->answers;
        q->answers = a->next;
        free(a);
    }
    q->answers_end = &q->answers;
    q->nanswers = 0;
    fv_requester_free(q);
    while (q->queue) {
        struct fv_buf *b = q->queue;
        q->queue = b->next;
        fv_buf_give(q->nic, b);
    }
    q->queue_end = &q->queue;
    fv_cq_clean(cq_of(q->v.send_cq), q);
    fv_cq_clean(cq_of(q->v.recv_cq), q);
    q->sq_head = q->sq_tx = q->sq_una = q->sq_tail = 0;
    q->rq_head = q->rq_next = q->rq_tail = 0;
    q->signaled = 0;
    q->tx_packet = q->reads = q->retries = q->rnr_retries = 0;
    q->timer = q->rnr_until = q->last_due = q->queue_due = 0;
    q->flush = q->nak_sent = q->ack_due = q->established = false;
    q->nak_due = 0;
    memset(q->atomics, 0, sizeof q->atomics);
}

static void check_acked(const struct fv_qp *q) {
    if (q->async_got != q->async_acked)
        fv_rule("UNACKED_EVENTS",
                "ibv_destroy_qp() would wait for ever: %u asynchronous events were got and %u "
                "acknowledged",
                q->async_got, q->async_acked);
}

FV_EXPORT int ibv_destroy_qp(struct ibv_qp *v) {
    struct fv_qp *q = qp_of(v);
    fv_check_alive(q->magic, "queue pair", "ibv_destroy_qp()");
    struct fv_nic *nic = fv_enter_locked(v->context);
    check_acked(q);
    forget(q);
    fv_pipe_remove(v->context->async_fd, nic->async_write, 12, 8, 1u << 24 | v->qp_num);
    struct fv_qp **at = &nic->qps;
    while (*at != q)
        at = &(*at)->next;
    *at = q->next;
    nic->nqps--;
    nic->qp[v->handle] = NULL;
    cq_of(v->send_cq)->users--;
    cq_of(v->recv_cq)->users--;
    FV_CONTAINER(v->pd, struct fv_pd, v)->users--;
    fv_qp_free(q);
    q->magic = FV_DEAD;
    fv_bury(nic, q);
    fv_leave(nic);
    return 0;
}

// ---- States --------------------------------------------------------------------------------------

enum {
    STATE = IBV_QP_STATE | IBV_QP_CUR_STATE,
    TO_INIT = IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_ACCESS_FLAGS,
    TO_RTR = IBV_QP_AV | IBV_QP_PATH_MTU | IBV_QP_DEST_QPN | IBV_QP_RQ_PSN |
             IBV_QP_MAX_DEST_RD_ATOMIC | IBV_QP_MIN_RNR_TIMER,
    TO_RTS = IBV_QP_TIMEOUT | IBV_QP_RETRY_CNT | IBV_QP_RNR_RETRY | IBV_QP_SQ_PSN |
             IBV_QP_MAX_QP_RD_ATOMIC,
};

// The state table of reliable connections: what an attribute mask must and may have.
static const struct {
    enum ibv_qp_state from, to;
    int must, may;
} transitions[] = {
    {IBV_QPS_RESET, IBV_QPS_INIT, TO_INIT, 0},
    {IBV_QPS_INIT, IBV_QPS_INIT, 0, TO_INIT},
    {IBV_QPS_INIT, IBV_QPS_RTR, TO_RTR, IBV_QP_ACCESS_FLAGS | IBV_QP_PKEY_INDEX},
    {IBV_QPS_RTR, IBV_QPS_RTS, TO_RTS, IBV_QP_ACCESS_FLAGS | IBV_QP_MIN_RNR_TIMER},
    {IBV_QPS_RTS, IBV_QPS_RTS, 0, IBV_QP_ACCESS_FLAGS | IBV_QP_MIN_RNR_TIMER},
};

static int check_mask(const struct fv_qp *q, enum ibv_qp_state to, int mask) {
    if (to == IBV_QPS_RESET || to == IBV_QPS_ERR) {
        if ((mask & ~STATE) == 0)
            return 0;
        fv_rule("QP_MASK", "to %s, with superfluous attributes 0x%x", fv_state_name(to),
                mask & ~STATE);
        return EINVAL;
    }
    for (size_t i = 0; i < sizeof transitions / sizeof transitions[0]; i++) {
        if (transitions[i].from != q->state || transitions[i].to != to)
            continue;
        int missing = transitions[i].must & ~mask;
        int extra = mask & ~(STATE | transitions[i].must | transitions[i].may);
        if (!missing && !extra)
            return 0;
        fv_rule("QP_MASK", "from %s to %s: the mask 0x%x lacks 0x%x and has a superfluous 0x%x",
                fv_state_name(q->state), fv_state_name(to), mask, missing, extra);
        return EINVAL;
    }
    fv_rule("QP_STATE", "there is no way from %s to %s", fv_state_name(q->state),
            fv_state_name(to));
    return EINVAL;
}

static int bad_value(const char *what, unsigned value) {
    fv_rule("QP_VALUE", "%s is %u", what, value);
    return EINVAL;
}

static int check_values(const struct fv_nic *nic, const struct ibv_qp_attr *a, int mask) {
    if ((mask & IBV_QP_PORT) && (a->port_num < 1 || a->port_num > nic->device.config.ports))
        return bad_value("port_num", a->port_num);
    if ((mask & IBV_QP_PKEY_INDEX) && a->pkey_index != 0)
        return EINVAL;
    if ((mask & IBV_QP_PATH_MTU) && (a->path_mtu < IBV_MTU_256 || a->path_mtu > IBV_MTU_4096))
        return bad_value("path_mtu", a->path_mtu);
    if ((mask & IBV_QP_DEST_QPN) && a->dest_qp_num > 0xffffff)
        return bad_value("dest_qp_num", a->dest_qp_num);
    if (((mask & IBV_QP_RQ_PSN) && a->rq_psn > 0xffffff) ||
        ((mask & IBV_QP_SQ_PSN) && a->sq_psn > 0xffffff))
        return bad_value("a packet sequence number", mask & IBV_QP_SQ_PSN ? a->sq_psn : a->rq_psn);
    if ((mask & IBV_QP_MIN_RNR_TIMER) && a->min_rnr_timer > 31)
        return bad_value("min_rnr_timer", a->min_rnr_timer);
    if ((mask & IBV_QP_TIMEOUT) && a->timeout > 31)
        return bad_value("timeout", a->timeout);
    if ((mask & IBV_QP_RETRY_CNT) && a->retry_cnt > 7)
        return bad_value("retry_cnt", a->retry_cnt);
    if ((mask & IBV_QP_RNR_RETRY) && a->rnr_retry > 7)
        return bad_value("rnr_retry", a->rnr_retry);
    if (((mask & IBV_QP_MAX_QP_RD_ATOMIC) && a->max_rd_atomic > FV_RD_ATOMIC) ||
        ((mask & IBV_QP_MAX_DEST_RD_ATOMIC) && a->max_dest_rd_atomic > FV_RD_ATOMIC))
        return EINVAL;
    return 0;
}

static int check_address(struct fv_qp *q, const struct ibv_ah_attr *ah) {
    const struct fv_config *c = &q->nic->device.config;
    if (ah->port_num != q->attr.port_num)
        return bad_value("ah_attr.port_num", ah->port_num);
    if (!ah->is_global && c->link != FV_IB) {
        fv_rule("GRH_REQUIRED",
                "a path on Ethernet needs a global route (is_global, sgid_index, dgid)");
        return EINVAL;
    }
    if (!ah->is_global)
        return 0;
    static const uint8_t none[16];
    fv_gid(c, q->nic->device.number, ah->port_num, ah->grh.sgid_index, q->sgid, &q->gid_type);
    return memcmp(q->sgid, none, 16) == 0 || memcmp(ah->grh.dgid.raw, none, 16) == 0 ? EINVAL : 0;
}

static void copy(struct fv_qp *q, const struct ibv_qp_attr *a, int mask) {
    struct ibv_qp_attr *to = &q->attr;
#define COPY(bit, field) \
    if (mask & (bit))    \
    to->field = a->field
    COPY(IBV_QP_PKEY_INDEX, pkey_index);
    COPY(IBV_QP_PORT, port_num);
    COPY(IBV_QP_ACCESS_FLAGS, qp_access_flags);
    COPY(IBV_QP_AV, ah_attr);
    COPY(IBV_QP_PATH_MTU, path_mtu);
    COPY(IBV_QP_DEST_QPN, dest_qp_num);
    COPY(IBV_QP_RQ_PSN, rq_psn);
    COPY(IBV_QP_MAX_DEST_RD_ATOMIC, max_dest_rd_atomic);
    COPY(IBV_QP_MIN_RNR_TIMER, min_rnr_timer);
    COPY(IBV_QP_TIMEOUT, timeout);
    COPY(IBV_QP_RETRY_CNT, retry_cnt);
    COPY(IBV_QP_RNR_RETRY, rnr_retry);
    COPY(IBV_QP_SQ_PSN, sq_psn);
    COPY(IBV_QP_MAX_QP_RD_ATOMIC, max_rd_atomic);
#undef COPY
    if (mask & IBV_QP_RQ_PSN)
        q->epsn = a->rq_psn;
    if (mask & IBV_QP_SQ_PSN) {
        q->next_psn = a->sq_psn;
        q->acked = q->sent_psn = fv_psn(a->sq_psn - 1);
    }
}

static int modify(struct fv_qp *q, struct ibv_qp_attr *a, int mask) {
    enum ibv_qp_state to = mask & IBV_QP_STATE ? a->qp_state : q->state;
    if ((mask & IBV_QP_CUR_STATE) && a->cur_qp_state != q->state)
        return EINVAL;
    int rc = q->nic->gone && to != IBV_QPS_ERR && to != IBV_QPS_RESET ? EIO : 0;
    if (rc == 0)
        rc = check_mask(q, to, mask);
    if (rc == 0)
        rc = check_values(q->nic, a, mask);
    if (rc == 0 && (mask & IBV_QP_AV))
        rc = check_address(q, &a->ah_attr);
    if (rc)
        return rc;
    copy(q, a, mask);
    if (to == IBV_QPS_RESET)
        forget(q);
    if (to == IBV_QPS_ERR)
        fv_qp_fail(q);
    q->state = q->v.state = to;
    return 0;
}

FV_EXPORT int ibv_modify_qp(struct ibv_qp *v, struct ibv_qp_attr *a, int mask) {
    struct fv_qp *q = qp_of(v);
    fv_check_alive(q->magic, "queue pair", "ibv_modify_qp()");
    struct fv_nic *nic = fv_enter_locked(v->context);
    int rc = modify(q, a, mask);
    fv_leave(nic);
    return rc;
}

FV_EXPORT int ibv_query_qp(struct ibv_qp *v, struct ibv_qp_attr *a, int mask,
                           struct ibv_qp_init_attr *init) {
    (void)mask;
    struct fv_qp *q = qp_of(v);
    fv_check_alive(q->magic, "queue pair", "ibv_query_qp()");
    struct fv_nic *nic = fv_enter_locked(v->context);
    *a = q->attr;
    a->qp_state = a->cur_qp_state = q->state;
    a->cap = q->init.cap;
    *init = q->init;
    fv_leave(nic);
    return 0;
}

// There is no extended interface.
FV_EXPORT struct ibv_qp_ex *ibv_qp_to_qp_ex(struct ibv_qp *v) {
    (void)v;
    return NULL;
}

// What no program may count on: that data comes in order.
FV_EXPORT int ibv_query_qp_data_in_order(struct ibv_qp *v, enum ibv_wr_opcode op, uint32_t flags) {
    (void)v;
    (void)op;
    (void)flags;
    return 0;
}

void fv_qp_fail(struct fv_qp *q) {
    if (q->state == IBV_QPS_RESET)
        return;
    q->state = q->v.state = IBV_QPS_ERR;
    q->flush = true;
    fv_kick(q->nic);
}

bool fv_qp_uses(const struct fv_qp *q, uint32_t lkey) {
    for (uint64_t i = q->sq_tail; i < q->sq_head; i++) {
        const struct fv_wqe *w = &q->sq[i % q->init.cap.max_send_wr];
        for (int s = 0; s < w->nsge && !w->inlined; s++)
            if (w->sge[s].lkey == lkey && w->sge[s].length)
                return true;
    }
    for (uint64_t i = q->rq_tail; i < q->rq_head; i++) {
        const struct fv_rqe *r = &q->rq[i % q->init.cap.max_recv_wr];
        for (int s = 0; s < r->nsge; s++)
            if (r->sge[s].lkey == lkey && r->sge[s].length)
                return true;
    }
    return false;
}
