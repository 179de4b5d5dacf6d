// SPDX-License-Identifier: MIT
// Placing what arrives into memory: in any order and, with the fault `late`, at any time before the
// completion that covers it. Messages of a queue pair are delivered in order.
#include "fake.h"

#include <stdlib.h>
#include <string.h>

#define BLOCK 4096u
#define LATE_NS 400000u

static struct fv_cq *recv_cq(const struct fv_qp *q) {
    return FV_CONTAINER(q->v.recv_cq, struct fv_cq, v);
}

struct fv_msg *fv_msg_begin(struct fv_qp *q) {
    struct fv_msg *m = calloc(1, sizeof *m);
    if (!m)
        abort();
    *q->msgs_end = m;
    q->msgs_end = &m->next;
    return m;
}

// The last bytes first, as nobody may count on the opposite.
static void put(uint8_t *to, const uint8_t *from, size_t bytes) {
    while (bytes > 0) {
        size_t n = bytes % BLOCK ? bytes % BLOCK : BLOCK;
        if (n > 64) { // and the very last line before the rest of its block
            memcpy(to + bytes - 64, from + bytes - 64, 64);
            memcpy(to + bytes - n, from + bytes - n, n - 64);
        } else {
            memcpy(to + bytes - n, from + bytes - n, n);
        }
        bytes -= n;
    }
}

static void place(struct fv_qp *q, struct fv_piece *p) {
    const uint8_t *from = p->buf->data;
    for (int i = 0; i < p->n; i++) {
        put(p->to[i].iov_base, from, p->to[i].iov_len);
        from += p->to[i].iov_len;
    }
    fv_buf_give(q->nic, p->buf);
    free(p);
}

void fv_msg_piece(struct fv_qp *q, struct fv_msg *m, struct fv_buf *b, const struct iovec *to,
                  struct fv_mr *const *mr, int n, uint64_t now) {
    struct fv_piece *p = calloc(1, sizeof *p);
    if (!p)
        abort();
    p->buf = b;
    p->n = n;
    for (int i = 0; i < n; i++) {
        p->to[i] = to[i];
        p->mr[i] = mr[i];
    }
    struct fv_nic *nic = q->nic;
    if (!nic->faults.late) {
        place(q, p);
        return;
    }
    for (int i = 0; i < n; i++) // what lies there until then means nothing
        memset(to[i].iov_base, 0xdb, to[i].iov_len);
    p->due = now + fv_random(&nic->rng) % (2 * LATE_NS);
    struct fv_piece **at = &m->pieces;
    while (*at && fv_random(&nic->rng) % 2)
        at = &(*at)->next;
    p->next = *at;
    *at = p;
}

void fv_msg_end(struct fv_qp *q, struct fv_msg *m, uint64_t now) {
    struct fv_nic *nic = q->nic;
    m->complete = true;
    m->due = now;
    if (nic->faults.late) {
        m->due += fv_random(&nic->rng) % LATE_NS;
        m->ack_late = fv_random(&nic->rng) % 2;
        m->last_psn = q->epsn;
    }
    if (m->due < q->last_due)
        m->due = q->last_due;
    q->last_due = m->due;
    if (!m->ack_late)
        q->ack_due = true;
    fv_msg_tick(q, now);
}

static void place_due(struct fv_qp *q, struct fv_msg *m, uint64_t until) {
    for (struct fv_piece **at = &m->pieces; *at;) {
        struct fv_piece *p = *at;
        if (p->due > until) {
            at = &p->next;
            continue;
        }
        *at = p->next;
        place(q, p);
    }
}

// The oldest message, which is complete.
static void deliver(struct fv_qp *q) {
    struct fv_msg *m = q->msgs;
    q->msgs = m->next;
    if (!q->msgs)
        q->msgs_end = &q->msgs;
    place_due(q, m, FV_NEVER);
    if (m->has_cqe)
        fv_cq_push(recv_cq(q), &m->cqe);
    if (m->ack_late)
        q->ack_due = true;
    free(m);
}

uint64_t fv_msg_tick(struct fv_qp *q, uint64_t now) {
    uint64_t next = FV_NEVER;
    while (q->msgs && q->msgs->complete && q->msgs->due <= now)
        deliver(q);
    for (struct fv_msg *m = q->msgs; m; m = m->next) {
        place_due(q, m, now);
        for (struct fv_piece *p = m->pieces; p; p = p->next)
            next = fv_min(next, p->due);
        if (m->complete)
            next = fv_min(next, m->due);
    }
    return next;
}

void fv_msg_place(struct fv_qp *q) {
    for (struct fv_msg *m = q->msgs; m; m = m->next)
        place_due(q, m, FV_NEVER);
}

void fv_msg_flush(struct fv_qp *q) {
    while (q->msgs && q->msgs->complete)
        deliver(q);
    while (q->msgs) {
        struct fv_msg *m = q->msgs;
        q->msgs = m->next;
        while (m->pieces) {
            struct fv_piece *p = m->pieces;
            m->pieces = p->next;
            fv_buf_give(q->nic, p->buf);
            free(p);
        }
        free(m);
    }
    q->msgs_end = &q->msgs;
    q->msg = NULL;
}
