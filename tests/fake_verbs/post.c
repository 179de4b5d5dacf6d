// SPDX-License-Identifier: MIT
// Posting work requests: what hardware refuses, and what it would not notice.
#include "fake.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static bool is_write(enum ibv_wr_opcode op) {
    return op == IBV_WR_RDMA_WRITE || op == IBV_WR_RDMA_WRITE_WITH_IMM;
}
static bool is_send(enum ibv_wr_opcode op) {
    return op == IBV_WR_SEND || op == IBV_WR_SEND_WITH_IMM;
}
static bool is_atomic(enum ibv_wr_opcode op) {
    return op == IBV_WR_ATOMIC_CMP_AND_SWP || op == IBV_WR_ATOMIC_FETCH_AND_ADD;
}

static int refuse(const char *rule, const char *text, unsigned a, unsigned b) {
    fv_rule(rule, text, a, b);
    return EINVAL;
}

static int check_opcode(const struct fv_qp *q, const struct ibv_send_wr *wr) {
    bool imm = wr->opcode == IBV_WR_RDMA_WRITE_WITH_IMM || wr->opcode == IBV_WR_SEND_WITH_IMM;
    bool iwarp = q->nic->device.config.link == FV_IWARP;
    if (imm && (iwarp || q->nic->faults.no_imm))
        return EINVAL; // to be found out by trying
    if (is_atomic(wr->opcode) && iwarp)
        return EINVAL;
    if (!is_write(wr->opcode) && !is_send(wr->opcode) && !is_atomic(wr->opcode) &&
        wr->opcode != IBV_WR_RDMA_READ)
        return refuse("SEND_OPCODE", "operation %u is not one of a reliable connection", wr->opcode,
                      0);
    if ((wr->opcode == IBV_WR_RDMA_READ || is_atomic(wr->opcode)) && q->attr.max_rd_atomic == 0)
        return refuse("READ_DEPTH", "operation %u on a queue pair with max_rd_atomic %u",
                      wr->opcode, 0);
    const unsigned known = IBV_SEND_FENCE | IBV_SEND_SIGNALED | IBV_SEND_SOLICITED |
                           IBV_SEND_INLINE;
    if (wr->send_flags & ~known)
        return refuse("SEND_FLAGS", "flags 0x%x are not known", wr->send_flags, 0);
    return 0;
}

static int check_size(const struct fv_qp *q, const struct ibv_send_wr *wr, uint32_t *length) {
    uint64_t sum = 0;
    if (wr->num_sge < 0 || (unsigned)wr->num_sge > q->init.cap.max_send_sge)
        return refuse("SGE_LIMIT", "%u entries in the list, and the queue pair was made for %u",
                      (unsigned)wr->num_sge, q->init.cap.max_send_sge);
    for (int i = 0; i < wr->num_sge; i++)
        sum += wr->sg_list[i].length;
    if (sum > FV_MSG_MAX)
        return refuse("MESSAGE_SIZE", "a message of %u MiB", (unsigned)(sum >> 20), 0);
    if (is_atomic(wr->opcode) && (sum != 8 || wr->wr.atomic.remote_addr % 8))
        return refuse("ATOMIC", "an atomic operation on %u bytes, or not aligned", (unsigned)sum,
                      0);
    if (wr->send_flags & IBV_SEND_INLINE) {
        if (!is_send(wr->opcode) && !is_write(wr->opcode))
            return refuse("INLINE_OPCODE", "operation %u cannot be inline", wr->opcode, 0);
        if (sum > q->init.cap.max_inline_data)
            return refuse("INLINE_LIMIT", "%u bytes inline, and the queue pair was made for %u",
                          (unsigned)sum, q->init.cap.max_inline_data);
    }
    *length = (uint32_t)sum;
    return 0;
}

static int check_room(struct fv_qp *q) {
    if (q->sq_head - q->sq_tail < q->init.cap.max_send_wr)
        return 0;
    if (q->signaled == 0 && q->state == IBV_QPS_RTS && q->init.cap.max_send_wr)
        fv_rule("SQ_NEVER_SIGNALED",
                "all %u work requests of the send queue are unsignaled: it stays full for ever",
                q->init.cap.max_send_wr);
    return ENOMEM;
}

static void check_keys(const struct fv_qp *q, const struct ibv_sge *list, int n, int access,
                       const char *where) {
    for (int i = 0; i < n; i++) {
        const char *why;
        if (list[i].length && !fv_mr_local(q->nic, q->v.pd, &list[i], access, NULL, &why))
            fv_rule("BAD_LKEY", "%s 0x%llx+%u, lkey 0x%x: %s", where,
                    (unsigned long long)list[i].addr, list[i].length, list[i].lkey, why);
    }
}

// What the source holds now, so that a change before the completion is seen.
static int take_source(struct fv_qp *q, struct fv_wqe *w) {
    if (w->inlined) {
        uint32_t at = 0;
        w->data = malloc(w->length + 1);
        if (!w->data)
            return ENOMEM;
        for (int i = 0; i < w->nsge; i++)
            if (!fv_readable((const void *)(uintptr_t)w->sge[i].addr, w->sge[i].length)) {
                fv_rule("INLINE_MEMORY", "0x%llx+%u is inline, but no processor can read it",
                        (unsigned long long)w->sge[i].addr, w->sge[i].length);
                return EFAULT;
            }
        for (int i = 0; i < w->nsge; i++) {
            memcpy(w->data + at, (const void *)(uintptr_t)w->sge[i].addr, w->sge[i].length);
            at += w->sge[i].length;
        }
        return 0;
    }
    bool source = is_send(w->op) || is_write(w->op);
    check_keys(q, w->sge, w->nsge, source ? 0 : IBV_ACCESS_LOCAL_WRITE,
               source ? "source" : "destination");
    w->sum = 0;
    for (int i = 0; i < w->nsge && source; i++) {
        const char *why;
        const void *at = fv_mr_local(q->nic, q->v.pd, &w->sge[i], 0, NULL, &why);
        if (at)
            w->sum = fv_sum(w->sum, at, w->sge[i].length);
    }
    return 0;
}

static int post_one(struct fv_qp *q, const struct ibv_send_wr *wr) {
    uint32_t length;
    int rc = check_opcode(q, wr);
    if (rc == 0)
        rc = check_size(q, wr, &length);
    if (rc == 0)
        rc = check_room(q);
    if (rc)
        return rc;
    bool atomic = is_atomic(wr->opcode);
    struct fv_wqe *w = &q->sq[q->sq_head % q->init.cap.max_send_wr];
    *w = (struct fv_wqe){.wr_id = wr->wr_id,
                         .op = wr->opcode,
                         .imm = wr->imm_data,
                         .raddr = atomic ? wr->wr.atomic.remote_addr : wr->wr.rdma.remote_addr,
                         .rkey = atomic ? wr->wr.atomic.rkey : wr->wr.rdma.rkey,
                         .length = length,
                         .nsge = wr->num_sge,
                         .signaled = q->init.sq_sig_all || (wr->send_flags & IBV_SEND_SIGNALED),
                         .solicited = wr->send_flags & IBV_SEND_SOLICITED,
                         .fence = wr->send_flags & IBV_SEND_FENCE,
                         .inlined = wr->send_flags & IBV_SEND_INLINE,
                         .psn = q->next_psn,
                         .packets = 1};
    if (atomic) {
        w->compare_add = wr->wr.atomic.compare_add;
        w->swap = wr->wr.atomic.swap;
    } else if (wr->opcode != IBV_WR_RDMA_READ && length) {
        w->packets = (length + FV_PIECE - 1) / FV_PIECE;
    }
    if (wr->num_sge)
        memcpy(w->sge, wr->sg_list, (size_t)wr->num_sge * sizeof w->sge[0]);
    rc = take_source(q, w);
    if (rc)
        return rc;
    q->next_psn = fv_psn(q->next_psn + w->packets);
    q->sq_head++;
    q->signaled += w->signaled;
    return 0;
}

int fv_post_send(struct ibv_qp *v, struct ibv_send_wr *wr, struct ibv_send_wr **bad) {
    struct fv_qp *q = FV_CONTAINER(v, struct fv_qp, v);
    fv_check_alive(q->magic, "queue pair", "ibv_post_send()");
    struct fv_nic *nic = fv_enter_locked(v->context);
    int rc = nic->gone ? EIO : 0;
    if (q->state != IBV_QPS_RTS && q->state != IBV_QPS_ERR) {
        fv_rule("SEND_STATE", "ibv_post_send() in state %s", fv_state_name(q->state));
        rc = EINVAL;
    }
    for (; wr && rc == 0; wr = rc ? wr : wr->next)
        rc = post_one(q, wr);
    if (rc)
        *bad = wr;
    q->flush = q->flush || q->state == IBV_QPS_ERR;
    fv_leave(nic);
    fv_kick(nic);
    return rc;
}

static int post_recv_one(struct fv_qp *q, const struct ibv_recv_wr *wr) {
    if (wr->num_sge < 0 || (unsigned)wr->num_sge > q->init.cap.max_recv_sge)
        return refuse("SGE_LIMIT", "%u entries in the list, and the queue pair was made for %u",
                      (unsigned)wr->num_sge, q->init.cap.max_recv_sge);
    if (q->rq_head - q->rq_tail >= q->init.cap.max_recv_wr)
        return ENOMEM;
    check_keys(q, wr->sg_list, wr->num_sge, IBV_ACCESS_LOCAL_WRITE, "receive buffer");
    struct fv_rqe *r = &q->rq[q->rq_head % q->init.cap.max_recv_wr];
    *r = (struct fv_rqe){.wr_id = wr->wr_id, .nsge = wr->num_sge};
    for (int i = 0; i < wr->num_sge; i++) {
        r->sge[i] = wr->sg_list[i];
        r->length += wr->sg_list[i].length;
    }
    q->rq_head++;
    return 0;
}

int fv_post_recv(struct ibv_qp *v, struct ibv_recv_wr *wr, struct ibv_recv_wr **bad) {
    struct fv_qp *q = FV_CONTAINER(v, struct fv_qp, v);
    fv_check_alive(q->magic, "queue pair", "ibv_post_recv()");
    struct fv_nic *nic = fv_enter_locked(v->context);
    int rc = nic->gone ? EIO : 0;
    if (q->state == IBV_QPS_RESET) {
        fv_rule("RECV_STATE", "ibv_post_recv() in state RESET");
        rc = EINVAL;
    }
    for (; wr && rc == 0; wr = rc ? wr : wr->next)
        rc = post_recv_one(q, wr);
    if (rc)
        *bad = wr;
    bool err = q->state == IBV_QPS_ERR;
    q->flush = q->flush || err;
    fv_leave(nic);
    if (err)
        fv_kick(nic);
    return rc;
}
