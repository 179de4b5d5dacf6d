// SPDX-License-Identifier: MIT
// The responder: checks each request, takes receive requests, acknowledges, refuses, answers reads.
#include "fake.h"

#include <stdlib.h>
#include <string.h>

static struct fv_cq *recv_cq(const struct fv_qp *q) {
    return FV_CONTAINER(q->v.recv_cq, struct fv_cq, v);
}
static bool is_write(uint8_t op) {
    return op == IBV_WR_RDMA_WRITE || op == IBV_WR_RDMA_WRITE_WITH_IMM;
}
static bool has_imm(uint8_t op) {
    return op == IBV_WR_RDMA_WRITE_WITH_IMM || op == IBV_WR_SEND_WITH_IMM;
}

struct fv_cqe fv_recv_cqe(struct fv_qp *q, const struct fv_rqe *r, enum ibv_wc_status status) {
    return (struct fv_cqe){.wc = {.wr_id = r->wr_id,
                                  .status = status,
                                  .opcode = IBV_WC_RECV,
                                  .vendor_err = 0x200u + status,
                                  .qp_num = q->v.qp_num},
                           .qp = q,
                           .retires = q->rq_next};
}

void fv_responder_flush(struct fv_qp *q) {
    fv_msg_flush(q);
    while (q->rq_next < q->rq_head) {
        const struct fv_rqe *r = &q->rq[q->rq_next++ % q->init.cap.max_recv_wr];
        struct fv_cqe e = fv_recv_cqe(q, r, IBV_WC_WR_FLUSH_ERR);
        fv_cq_push(recv_cq(q), &e);
    }
}

// ---- Refusing ------------------------------------------------------------------------------------

static void nak(struct fv_qp *q, enum fv_nak code) {
    q->nak_sent = true; // one, until what is expected comes
    q->nak_due = code;
}

void fv_responder_error(struct fv_qp *q, enum fv_nak code, enum ibv_event_type event) {
    nak(q, code);
    fv_responder_send(q);
    fv_event_qp(q, event);
    fv_qp_fail(q);
}

static bool refuse_access(struct fv_qp *q) {
    fv_responder_error(q, FV_NAK_ACCESS, IBV_EVENT_QP_ACCESS_ERR);
    return false;
}

static bool refuse_invalid(struct fv_qp *q) {
    fv_responder_error(q, FV_NAK_INVALID, IBV_EVENT_QP_REQ_ERR);
    return false;
}

// A receive request that cannot take the message ends with an error of its own.
static bool refuse_receive(struct fv_qp *q, const struct fv_rqe *r, enum ibv_wc_status status,
                           enum fv_nak code) {
    fv_msg_flush(q); // what came before it is told before it
    struct fv_cqe e = fv_recv_cqe(q, r, status);
    fv_cq_push(recv_cq(q), &e);
    nak(q, code);
    fv_responder_send(q);
    fv_qp_fail(q);
    return false;
}

static bool receiver_not_ready(struct fv_qp *q) {
    nak(q, FV_NAK_RNR);
    fv_counters.rnr_naks++;
    q->rnr_code = q->attr.min_rnr_timer;
    return false;
}

// ---- Messages ------------------------------------------------------------------------------------

static bool needs_receive(const struct fv_packet *p) {
    return is_write(p->op) ? p->op == IBV_WR_RDMA_WRITE_WITH_IMM && p->last : p->first;
}

static const struct fv_rqe *take_receive(struct fv_qp *q) {
    if (q->rq_next == q->rq_head || fv_chance(&q->nic->rng, q->nic->faults.rnr))
        return NULL;
    return &q->rq[q->rq_next++ % q->init.cap.max_recv_wr];
}

static void fill_cqe(struct fv_qp *q, const struct fv_packet *p, const struct fv_rqe *r) {
    struct fv_msg *m = q->msg;
    m->has_cqe = true;
    m->cqe = fv_recv_cqe(q, r, IBV_WC_SUCCESS);
    m->cqe.solicited = p->solicited;
    m->cqe.wc.byte_len = p->length;
    m->cqe.wc.opcode = is_write(p->op) ? IBV_WC_RECV_RDMA_WITH_IMM : IBV_WC_RECV;
    if (has_imm(p->op)) {
        m->cqe.wc.imm_data = p->imm;
        m->cqe.wc.wc_flags = IBV_WC_WITH_IMM;
    }
}

// Where the packet's payload goes by the receive request. -1: it cannot.
static int scatter(struct fv_qp *q, const struct fv_rqe *r, const struct fv_packet *p,
                   struct iovec to[FV_SGE], struct fv_mr *mr[FV_SGE]) {
    uint32_t offset = p->offset, bytes = p->bytes;
    int n = 0;
    for (int i = 0; i < r->nsge && bytes > 0; i++) {
        struct ibv_sge part = r->sge[i];
        if (offset >= part.length) {
            offset -= part.length;
            continue;
        }
        part.addr += offset;
        part.length -= offset;
        part.length = part.length < bytes ? part.length : bytes;
        const char *why;
        uint8_t *at = fv_mr_local(q->nic, q->v.pd, &part, IBV_ACCESS_LOCAL_WRITE, &mr[n], &why);
        if (!at) {
            fv_rule("BAD_LKEY", "receive buffer 0x%llx+%u, lkey 0x%x, when the NIC comes to it: %s",
                    (unsigned long long)part.addr, part.length, part.lkey, why);
            return -1;
        }
        to[n++] = (struct iovec){.iov_base = at, .iov_len = part.length};
        bytes -= part.length;
        offset = 0;
    }
    return bytes ? -1 : n;
}

// After the packet was accepted.
static void accepted(struct fv_qp *q, const struct fv_packet *p, uint64_t now) {
    struct fv_msg *m = q->msg;
    if (q->state == IBV_QPS_RTR && !q->established) {
        q->established = true; // the first message came before we were ready to send
        fv_event_qp(q, IBV_EVENT_COMM_EST);
    }
    if (p->last) {
        q->msg = NULL;
        q->since_ack = 0;
    } else if (++q->since_ack >= FV_ACK_EVERY) {
        q->since_ack = 0;
        q->ack_due = true;
    }
    q->nak_sent = false;
    q->epsn = fv_psn(q->epsn + 1);
    if (p->last)
        fv_msg_end(q, m, now);
}

static bool write_packet(struct fv_qp *q, struct fv_buf *b, uint64_t now) {
    // A copy: with the payload in its place the buffer may be gone.
    const struct fv_packet packet = b->p, *p = &packet;
    if (!(q->attr.qp_access_flags & IBV_ACCESS_REMOTE_WRITE))
        return refuse_invalid(q);
    struct iovec to = {0};
    struct fv_mr *mr = NULL;
    if (p->length) { // all of it, so that a message that is not allowed writes nothing
        uint8_t *at = fv_mr_remote(q->nic, q->v.pd, p->rkey, p->raddr, p->length,
                                   IBV_ACCESS_REMOTE_WRITE, &mr);
        if (!at)
            return refuse_access(q);
        to = (struct iovec){.iov_base = at + p->offset, .iov_len = p->bytes};
    }
    const struct fv_rqe *r = NULL;
    if (needs_receive(p) && !(r = take_receive(q)))
        return receiver_not_ready(q);
    if (p->first)
        q->msg = fv_msg_begin(q);
    if (r)
        fill_cqe(q, p, r);
    if (p->bytes)
        fv_msg_piece(q, q->msg, b, &to, &mr, 1, now);
    accepted(q, p, now);
    return p->bytes > 0;
}

static bool send_packet(struct fv_qp *q, struct fv_buf *b, uint64_t now) {
    const struct fv_packet packet = b->p, *p = &packet;
    const struct fv_rqe *r;
    if (p->first) {
        r = take_receive(q);
        if (!r)
            return receiver_not_ready(q);
        if (p->length > r->length)
            return refuse_receive(q, r, IBV_WC_LOC_LEN_ERR, FV_NAK_INVALID);
    } else {
        r = &q->rq[(q->msg->cqe.retires - 1) % q->init.cap.max_recv_wr];
    }
    struct iovec to[FV_SGE];
    struct fv_mr *mr[FV_SGE];
    int n = scatter(q, r, p, to, mr);
    if (n < 0)
        return refuse_receive(q, r, IBV_WC_LOC_PROT_ERR, FV_NAK_OPERATION);
    if (p->first) {
        q->msg = fv_msg_begin(q);
        fill_cqe(q, p, r);
    }
    if (p->bytes)
        fv_msg_piece(q, q->msg, b, to, mr, n, now);
    accepted(q, p, now);
    return p->bytes > 0;
}

// ---- Reads and atomic operations -----------------------------------------------------------------

static struct fv_answer *add_answer(struct fv_qp *q, const struct fv_packet *p, bool again) {
    struct fv_answer *a = calloc(1, sizeof *a);
    if (!a)
        abort();
    *a = (struct fv_answer){
        .psn = p->psn, .length = p->length, .rkey = p->rkey, .raddr = p->raddr, .again = again};
    *q->answers_end = a;
    q->answers_end = &a->next;
    q->nanswers += !again;
    return a;
}

static uint64_t operate(const struct fv_packet *p, uint8_t *at) {
    uint64_t *word = (uint64_t *)(void *)at, before = p->compare_add;
    if (p->op == IBV_WR_ATOMIC_FETCH_AND_ADD)
        return __atomic_fetch_add(word, p->compare_add, __ATOMIC_SEQ_CST);
    __atomic_compare_exchange_n(word, &before, p->swap, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
    return before;
}

static bool atomic_packet(struct fv_qp *q, const struct fv_packet *p) {
    struct fv_mr *mr;
    if (!(q->attr.qp_access_flags & IBV_ACCESS_REMOTE_ATOMIC) || p->raddr % 8)
        return refuse_invalid(q);
    uint8_t *at =
        fv_mr_remote(q->nic, q->v.pd, p->rkey, p->raddr, 8, IBV_ACCESS_REMOTE_ATOMIC, &mr);
    if (!at)
        return refuse_access(q);
    struct fv_answer *a = add_answer(q, p, false);
    a->atomic = true;
    a->value = operate(p, at);
    unsigned i = q->next_atomic++ % FV_RD_ATOMIC;
    q->atomics[i].psn = p->psn;
    q->atomics[i].value = a->value;
    q->atomics[i].valid = true;
    return true;
}

static bool answered_packet(struct fv_qp *q, const struct fv_packet *p) {
    struct fv_mr *mr;
    if (q->nanswers >= q->attr.max_dest_rd_atomic)
        return refuse_invalid(q);
    fv_msg_place(q); // a read sees the writes before it
    if (p->op != IBV_WR_RDMA_READ) {
        if (!atomic_packet(q, p))
            return false;
    } else {
        if (!(q->attr.qp_access_flags & IBV_ACCESS_REMOTE_READ))
            return refuse_invalid(q);
        if (p->length && !fv_mr_remote(q->nic, q->v.pd, p->rkey, p->raddr, p->length,
                                       IBV_ACCESS_REMOTE_READ, &mr))
            return refuse_access(q);
        add_answer(q, p, false);
    }
    q->nak_sent = false;
    q->epsn = fv_psn(q->epsn + 1);
    return false;
}

// A request that came before: its answer or acknowledgement was lost.
static void duplicate(struct fv_qp *q, const struct fv_packet *p) {
    for (struct fv_answer *a = q->answers; a; a = a->next)
        if (a->psn == p->psn)
            return; // being answered
    if (p->op == IBV_WR_RDMA_READ) {
        add_answer(q, p, true);
        return;
    }
    if (p->op != IBV_WR_ATOMIC_CMP_AND_SWP && p->op != IBV_WR_ATOMIC_FETCH_AND_ADD) {
        q->ack_due = true;
        return;
    }
    for (unsigned i = 0; i < FV_RD_ATOMIC; i++) {
        if (!q->atomics[i].valid || q->atomics[i].psn != p->psn)
            continue;
        struct fv_answer *a = add_answer(q, p, true);
        a->atomic = true;
        a->value = q->atomics[i].value;
    }
}

bool fv_responder_request(struct fv_qp *q, struct fv_buf *b, uint64_t now) {
    const struct fv_packet *p = &b->p;
    int32_t ahead = fv_psn_diff(p->psn, q->epsn);
    if (ahead < 0)
        duplicate(q, p);
    if (ahead > 0 && !q->nak_sent)
        nak(q, FV_NAK_SEQUENCE);
    if (ahead != 0)
        return false;
    bool whole = p->offset <= p->length && p->bytes <= p->length - p->offset &&
                 p->length <= FV_MSG_MAX;
    if (!whole || (p->op <= IBV_WR_SEND_WITH_IMM && p->first == (q->msg != NULL)))
        return refuse_invalid(q);
    switch (p->op) {
    case IBV_WR_RDMA_WRITE:
    case IBV_WR_RDMA_WRITE_WITH_IMM:
        return write_packet(q, b, now);
    case IBV_WR_SEND:
    case IBV_WR_SEND_WITH_IMM:
        return send_packet(q, b, now);
    default:
        return answered_packet(q, p);
    }
}

// ---- Sending -------------------------------------------------------------------------------------

static bool send_answer(struct fv_qp *q) {
    struct fv_answer *a = q->answers;
    struct fv_packet p;
    fv_packet_init(q, &p, FV_RESPONSE);
    p.psn = a->psn;
    p.length = a->length;
    p.offset = a->offset;
    p.bytes = a->length - a->offset < FV_PIECE ? a->length - a->offset : FV_PIECE;
    struct iovec iov = {.iov_base = &a->value, .iov_len = p.bytes};
    struct fv_mr *mr;
    if (!a->atomic && p.bytes) {
        iov.iov_base = fv_mr_remote(q->nic, q->v.pd, a->rkey, a->raddr + a->offset, p.bytes,
                                    IBV_ACCESS_REMOTE_READ, &mr);
        if (!iov.iov_base)
            return refuse_access(q);
    }
    if (fv_send(q, &p, &iov, p.bytes ? 1 : 0) == FV_BLOCKED)
        return false;
    a->offset += p.bytes;
    if (a->offset == a->length) {
        q->answers = a->next;
        if (!q->answers)
            q->answers_end = &q->answers;
        q->nanswers -= !a->again;
        free(a);
    }
    return true;
}

// What is acknowledged: everything before what is expected, and what is delivered late only then.
static uint32_t acked_psn(const struct fv_qp *q) {
    for (const struct fv_msg *m = q->msgs; m; m = m->next)
        if (m->complete && m->ack_late)
            return fv_psn(m->last_psn - 1);
    return fv_psn(q->epsn - 1);
}

bool fv_responder_send(struct fv_qp *q) {
    if (q->state == IBV_QPS_RESET || q->state == IBV_QPS_INIT)
        return false;
    if (q->nak_due) {
        struct fv_packet p;
        fv_packet_init(q, &p, FV_NAK);
        p.psn = q->epsn;
        p.code = q->nak_due;
        p.rnr_code = q->rnr_code;
        if (fv_send(q, &p, NULL, 0) == FV_BLOCKED)
            return false;
        q->nak_due = 0;
        q->ack_due = false;
        return true;
    }
    if (q->ack_due) {
        struct fv_packet p;
        fv_packet_init(q, &p, FV_ACK);
        p.psn = acked_psn(q);
        if (fv_send(q, &p, NULL, 0) == FV_BLOCKED)
            return false;
        q->ack_due = false;
        return true;
    }
    return q->answers && q->state != IBV_QPS_ERR ? send_answer(q) : false;
}
