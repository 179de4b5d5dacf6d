// SPDX-License-Identifier: MIT
// The requester: sends what is posted, takes acknowledgements, retransmits, completes in order.
//
//     tail          una            tx          head
//      | completed,  | sent, waits  | to be     |
//      | not polled  | for its ack  | sent      |
//
// Loss is made good by going back to the oldest packet that is not acknowledged (`acked` + 1).
#include "fake.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>

static struct fv_cq *send_cq(const struct fv_qp *q) {
    return FV_CONTAINER(q->v.send_cq, struct fv_cq, v);
}
static struct fv_wqe *wqe(const struct fv_qp *q, uint64_t i) {
    return &q->sq[i % q->init.cap.max_send_wr];
}
static bool is_atomic(const struct fv_wqe *w) {
    return w->op == IBV_WR_ATOMIC_CMP_AND_SWP || w->op == IBV_WR_ATOMIC_FETCH_AND_ADD;
}
static bool is_answered(const struct fv_wqe *w) {
    return w->op == IBV_WR_RDMA_READ || is_atomic(w);
}

// ---- Completing ----------------------------------------------------------------------------------

struct fv_cqe fv_send_cqe(struct fv_qp *q, const struct fv_wqe *w, enum ibv_wc_status status) {
    static const enum ibv_wc_opcode opcodes[] = {
        [IBV_WR_RDMA_WRITE] = IBV_WC_RDMA_WRITE,
        [IBV_WR_RDMA_WRITE_WITH_IMM] = IBV_WC_RDMA_WRITE,
        [IBV_WR_SEND] = IBV_WC_SEND,
        [IBV_WR_SEND_WITH_IMM] = IBV_WC_SEND,
        [IBV_WR_RDMA_READ] = IBV_WC_RDMA_READ,
        [IBV_WR_ATOMIC_CMP_AND_SWP] = IBV_WC_COMP_SWAP,
        [IBV_WR_ATOMIC_FETCH_AND_ADD] = IBV_WC_FETCH_ADD,
    };
    return (struct fv_cqe){.wc = {.wr_id = w->wr_id,
                                  .status = status,
                                  .opcode = opcodes[w->op],
                                  .vendor_err = 0x100u + status,
                                  .byte_len = w->length,
                                  .qp_num = q->v.qp_num},
                           .qp = q,
                           .send = true,
                           .signaled = w->signaled};
}

// Ends the oldest request. Errors are always told, success where it was asked for.
static void end_oldest(struct fv_qp *q, enum ibv_wc_status status) {
    struct fv_wqe *w = wqe(q, q->sq_una);
    struct fv_cqe e = fv_send_cqe(q, w, status);
    e.retires = ++q->sq_una;
    free(w->data);
    w->data = NULL;
    if (is_answered(w) && q->reads > 0 && q->sq_tx >= q->sq_una)
        q->reads--;
    if (w->signaled || status != IBV_WC_SUCCESS)
        fv_cq_push(send_cq(q), &e);
}

void fv_requester_flush(struct fv_qp *q) {
    if (q->sq_tx < q->sq_una)
        q->sq_tx = q->sq_una;
    while (q->sq_una < q->sq_head)
        end_oldest(q, IBV_WC_WR_FLUSH_ERR);
    q->sq_tx = q->sq_head;
    q->reads = 0;
    q->timer = q->rnr_until = 0;
}

void fv_requester_free(struct fv_qp *q) {
    for (; q->sq_una < q->sq_head; q->sq_una++) {
        free(wqe(q, q->sq_una)->data);
        wqe(q, q->sq_una)->data = NULL;
    }
}

static void fail(struct fv_qp *q, enum ibv_wc_status status) {
    if (q->sq_una < q->sq_head)
        end_oldest(q, status);
    fv_qp_fail(q);
}

// `again`: the NIC has read it before.
static void check_source(const struct fv_qp *q, const struct fv_wqe *w, bool again) {
    if (w->inlined || is_answered(w) || (again && !q->nic->device.config.source_strict))
        return;
    uint64_t sum = 0;
    for (int i = 0; i < w->nsge; i++) {
        const char *why;
        const void *at = fv_mr_local(q->nic, q->v.pd, &w->sge[i], 0, NULL, &why);
        if (w->sge[i].length && !at)
            return; // found where it is sent
        sum = fv_sum(sum, at, w->sge[i].length);
    }
    if (sum != w->sum)
        fv_rule(
            "SOURCE_CHANGED",
            "the source of work request 0x%llx (0x%llx+%u) was changed between its posting and its "
            "completion",
            (unsigned long long)w->wr_id, w->nsge ? (unsigned long long)w->sge[0].addr : 0,
            w->length);
}

static uint64_t timeout_ns(const struct fv_qp *q) { return 4096ull << q->attr.timeout; }

static void set_timer(struct fv_qp *q, uint64_t now) {
    bool waits = q->sq_una < q->sq_tx || (q->sq_una == q->sq_tx && q->tx_packet > 0);
    q->timer = waits && q->attr.timeout ? now + timeout_ns(q) : 0;
}

static void complete(struct fv_qp *q, uint64_t now) {
    while (q->sq_una < q->sq_head) {
        struct fv_wqe *w = wqe(q, q->sq_una);
        if (fv_psn_diff(fv_psn(w->psn + w->packets - 1), q->acked) > 0)
            break;
        if (is_answered(w) && !w->answered)
            break;
        check_source(q, w, true);
        end_oldest(q, IBV_WC_SUCCESS);
    }
    if (q->sq_tx < q->sq_una) {
        q->sq_tx = q->sq_una;
        q->tx_packet = 0;
    }
    set_timer(q, now);
}

// ---- Sending -------------------------------------------------------------------------------------

// The memory of [offset, offset+bytes) of a request. -1: it is not there any more.
static int gather(const struct fv_qp *q, const struct fv_wqe *w, uint32_t offset, uint32_t bytes,
                  int access, struct iovec iov[FV_SGE]) {
    int n = 0;
    if (w->inlined) {
        iov[0] = (struct iovec){.iov_base = w->data + offset, .iov_len = bytes};
        return bytes ? 1 : 0;
    }
    for (int i = 0; i < w->nsge && bytes > 0; i++) {
        struct ibv_sge part = w->sge[i];
        if (offset >= part.length) {
            offset -= part.length;
            continue;
        }
        part.addr += offset;
        part.length -= offset;
        part.length = part.length < bytes ? part.length : bytes;
        const char *why;
        uint8_t *at = fv_mr_local(q->nic, q->v.pd, &part, access, NULL, &why);
        if (!at) {
            fv_rule("BAD_LKEY", "0x%llx+%u, lkey 0x%x, when the NIC comes to it: %s",
                    (unsigned long long)part.addr, part.length, part.lkey, why);
            return -1;
        }
        iov[n++] = (struct iovec){.iov_base = at, .iov_len = part.length};
        bytes -= part.length;
        offset = 0;
    }
    return n;
}

static bool may_send(const struct fv_qp *q, const struct fv_wqe *w, uint64_t now) {
    if (q->rnr_until > now)
        return false;
    if (fv_psn_diff(fv_psn(w->psn + q->tx_packet), q->acked) > (int32_t)FV_WINDOW)
        return false;
    if (q->reads > 0 && w->fence && q->tx_packet == 0)
        return false;
    return !is_answered(w) || q->reads < q->attr.max_rd_atomic;
}

static void fill(const struct fv_wqe *w, uint32_t packet, struct fv_packet *p) {
    p->op = (uint8_t)w->op;
    p->psn = fv_psn(w->psn + packet);
    p->first = packet == 0;
    p->last = packet + 1 == w->packets;
    p->solicited = w->solicited;
    p->imm = w->imm;
    p->rkey = w->rkey;
    p->raddr = w->raddr;
    p->compare_add = w->compare_add;
    p->swap = w->swap;
    p->length = w->length;
    p->offset = packet * FV_PIECE;
    if (!is_answered(w))
        p->bytes = p->last ? w->length - p->offset : FV_PIECE;
}

// After going back, what was to be sent again may be acknowledged meanwhile.
static void skip_acked(struct fv_qp *q) {
    while (q->sq_tx < q->sq_head && !is_answered(wqe(q, q->sq_tx))) {
        const struct fv_wqe *w = wqe(q, q->sq_tx);
        int32_t done = fv_psn_diff(fv_psn(q->acked + 1), w->psn);
        if (done < (int32_t)w->packets) {
            if (done > (int32_t)q->tx_packet)
                q->tx_packet = (uint32_t)done;
            return;
        }
        q->sq_tx++;
        q->tx_packet = 0;
    }
}

bool fv_requester_send(struct fv_qp *q, uint64_t now) {
    skip_acked(q);
    if (q->state != IBV_QPS_RTS || q->sq_tx >= q->sq_head)
        return false;
    struct fv_wqe *w = wqe(q, q->sq_tx);
    if (!may_send(q, w, now))
        return false;
    struct fv_packet p;
    struct iovec iov[FV_SGE];
    fv_packet_init(q, &p, FV_REQUEST);
    fill(w, q->tx_packet, &p);
    if (p.first)
        check_source(q, w, fv_psn_diff(p.psn, q->sent_psn) <= 0);
    int n = gather(q, w, p.offset, p.bytes, 0, iov);
    if (n < 0) {
        fail(q, q->sq_tx == q->sq_una ? IBV_WC_LOC_PROT_ERR : IBV_WC_WR_FLUSH_ERR);
        return true;
    }
    if (fv_send(q, &p, iov, n) == FV_BLOCKED)
        return false;
    if (fv_psn_diff(p.psn, q->sent_psn) > 0)
        q->sent_psn = p.psn;
    q->reads += is_answered(w);
    if (++q->tx_packet == w->packets) {
        q->sq_tx++;
        q->tx_packet = 0;
    }
    if (!q->timer)
        set_timer(q, now);
    return true;
}

// To the oldest packet that is not acknowledged, or the oldest request without its answer.
static void go_back(struct fv_qp *q, uint64_t now) {
    q->sq_tx = q->sq_una;
    q->tx_packet = 0;
    q->reads = 0;
    skip_acked(q);
    set_timer(q, now);
}

// ---- Answers -------------------------------------------------------------------------------------

static void acknowledge(struct fv_qp *q, uint32_t psn, uint64_t now) {
    if (fv_psn_diff(psn, q->acked) > 0 && fv_psn_diff(psn, q->sent_psn) <= 0) {
        q->acked = psn;
        q->retries = q->rnr_retries = 0;
        q->rnr_until = 0;
    }
    complete(q, now);
}

// In ns, for the timer codes 0 to 31; the shortest are longer here, to spare the processor.
static uint64_t rnr_ns(uint8_t code) {
    static const uint32_t us[32] = {655360, 10,    20,    30,     40,     60,     80,     120,
                                    160,    240,   320,   480,    640,    960,    1280,   1920,
                                    2560,   3840,  5120,  7680,   10240,  15360,  20480,  30720,
                                    40960,  61440, 81920, 122880, 163840, 245760, 327680, 491520};
    return us[code & 31] * 1000ull + 100000;
}

static void refused(struct fv_qp *q, const struct fv_packet *p, uint64_t now) {
    acknowledge(q, fv_psn(p->psn - 1), now);
    fv_counters.naks++;
    switch (p->code) {
    case FV_NAK_SEQUENCE:
        if (fv_psn_diff(p->psn, q->sent_psn) > 0)
            return; // of what was acknowledged meanwhile
        if (q->retries++ >= q->attr.retry_cnt)
            fail(q, IBV_WC_RETRY_EXC_ERR);
        else
            go_back(q, now);
        return;
    case FV_NAK_RNR:
        if (q->attr.rnr_retry != 7 && q->rnr_retries++ >= q->attr.rnr_retry) {
            fail(q, IBV_WC_RNR_RETRY_EXC_ERR);
            return;
        }
        go_back(q, now);
        q->timer = 0;
        q->rnr_until = now + rnr_ns(p->rnr_code);
        return;
    case FV_NAK_ACCESS:
        fail(q, IBV_WC_REM_ACCESS_ERR);
        return;
    case FV_NAK_INVALID:
        fail(q, IBV_WC_REM_INV_REQ_ERR);
        return;
    default:
        fail(q, IBV_WC_REM_OP_ERR);
    }
}

static struct fv_wqe *find(const struct fv_qp *q, uint32_t psn) {
    for (uint64_t i = q->sq_una; i < q->sq_head; i++)
        if (wqe(q, i)->psn == psn)
            return wqe(q, i);
    return NULL;
}

static void answered(struct fv_qp *q, const struct fv_buf *b, uint64_t now) {
    const struct fv_packet *p = &b->p;
    struct fv_wqe *w = find(q, p->psn);
    if (!w || !is_answered(w) || w->answered || p->offset != w->got ||
        p->bytes > w->length - w->got)
        return; // of an older attempt
    struct iovec iov[FV_SGE];
    int n = gather(q, w, w->got, p->bytes, IBV_ACCESS_LOCAL_WRITE, iov);
    if (n < 0) {
        fail(q, IBV_WC_LOC_PROT_ERR);
        return;
    }
    const uint8_t *from = b->data;
    for (int i = 0; i < n; i++) {
        memcpy(iov[i].iov_base, from, iov[i].iov_len);
        from += iov[i].iov_len;
    }
    w->got += p->bytes;
    q->retries = 0;
    w->answered = w->got == w->length;
    if (w->answered)
        acknowledge(q, p->psn, now);
    else
        set_timer(q, now);
}

void fv_requester_answer(struct fv_qp *q, struct fv_buf *b, uint64_t now) {
    if (q->state != IBV_QPS_RTS)
        return;
    if (b->p.type == FV_ACK)
        acknowledge(q, b->p.psn, now);
    else if (b->p.type == FV_NAK)
        refused(q, &b->p, now);
    else if (b->p.type == FV_RESPONSE)
        answered(q, b, now);
}

// ---- Time ----------------------------------------------------------------------------------------

static bool something_to_read(const struct fv_nic *nic) {
    for (unsigned i = 0; i < nic->nin; i++) {
        struct pollfd p = {.fd = nic->in[i], .events = POLLIN};
        if (poll(&p, 1, 0) == 1)
            return true;
    }
    struct pollfd l = {.fd = nic->listen_fd, .events = POLLIN};
    return poll(&l, 1, 0) == 1;
}

// A peer whose thread had no processor yet is slow, which hardware is not: only silence counts.
static bool is_silent(const struct fv_qp *q) {
    struct fv_nic *nic = q->nic;
    uint32_t id = q->attr.dest_qp_num >> FV_QPN_BITS;
    enum fv_life life = fv_registry_life(nic, id);
    bool unread = fv_link_unread(nic, id) > 0;
    if (life == FV_GONE || nic->cut || nic->down[q->attr.port_num])
        return true;
    return life == FV_IDLE && !unread && !something_to_read(nic);
}

void fv_requester_timer(struct fv_qp *q, uint64_t now) {
    if (q->rnr_until && q->rnr_until <= now)
        q->rnr_until = 0;
    if (q->state != IBV_QPS_RTS || !q->timer || q->timer > now)
        return;
    if (is_silent(q)) {
        fv_counters.timeouts++;
        if (q->retries++ >= q->attr.retry_cnt) {
            fail(q, IBV_WC_RETRY_EXC_ERR);
            return;
        }
        go_back(q, now);
    }
    q->timer = now + timeout_ns(q);
}

uint64_t fv_requester_due(const struct fv_qp *q) {
    if (q->state != IBV_QPS_RTS)
        return FV_NEVER;
    return fv_min(q->timer ? q->timer : FV_NEVER, q->rnr_until ? q->rnr_until : FV_NEVER);
}
