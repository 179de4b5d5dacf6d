// SPDX-License-Identifier: MIT
// Sending. Header and payload are contiguous on the wire though they may lie apart here:
//
//   small      heads[slot]: header, payload       copied; inline where the device takes it
//   registered heads[slot]: header | the engine's memory
//   other      heads[slot]: header | staging[slot], a copy
//   device     heads[slot]: header | device memory, of any size, which no instruction here may touch
//
// Where the receiver's payloads lie apart the header is the first stripe, and the cut is through the payload.
//
// A message is sent when all its work requests are done; `sent` counts those without a gap. Only some work
// requests ask for a completion, which retires all before it on its queue pair.
//
// Algorithms of the layer above overwrite a source before that where the peer must have consumed the message
// first. That is safe on a reliable connection: what the device may then still repeat, the peer's device has
// had and drops.
#include "transport/verbs/verbs.h"

#include <arpa/inet.h>
#include <errno.h>
#include <string.h>
#include <sys/mman.h>

// ---- What is done --------------------------------------------------------------------------------

static void forget(struct rdi_verbs_link *l, struct rdi_verbs_out *o) {
    for (unsigned i = 0; i < RDI_VERBS_RAILS; i++) {
        if (o->held[i] != NULL) {
            rdi_verbs_mr_put(&rdi_verbs_net_of(l)->rails[i], o->held[i]);
            o->held[i] = NULL;
        }
    }
    o->left = 0;
    o->foreign = false;
}

void rdi_verbs_tx_forget(struct rdi_verbs_link *l) {
    for (uint32_t i = 0; i < l->base.slots; i++) {
        forget(l, &l->out[i]);
    }
}

void rdi_verbs_tx_done(struct rdi_verbs_link *l, uint64_t seq) {
    struct rdi_link *b = &l->base;
    struct rdi_verbs_out *o = &l->out[seq % b->slots];
    if (--o->left == 0) {
        forget(l, o);
    }
    while (b->sent < b->posted && l->out[b->sent % b->slots].left == 0) {
        b->sent++;
    }
}

// ---- Where the payload is ------------------------------------------------------------------------

static rondo_status stage_ready(struct rdi_verbs_link *l, unsigned rail) {
    struct rdi_link *b = &l->base;
    size_t bytes = (size_t)b->slots * b->max_msg;
    if (l->staging == NULL) {
        l->staging = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (l->staging == MAP_FAILED) {
            l->staging = NULL;
            return rdi_fail(RONDO_ERR_NOMEM, "no memory for %zu bytes of staging of a link", bytes);
        }
    }
    if (l->staging_mr[rail] != NULL) {
        return RONDO_OK;
    }
    return rdi_verbs_reg(&rdi_verbs_net_of(l)->rails[rail], l->staging, bytes,
                         IBV_ACCESS_LOCAL_WRITE, &l->staging_mr[rail]);
}

struct source {
    const uint8_t *payload;
    uint32_t lkey[RDI_VERBS_RAILS]; // of the payload
    uint8_t *head;
    bool small;
    bool device; // the payload must not be inline: the library would read it
};

// All of the message's queue pairs' rails must be able to read it.
static bool use_registered(struct rdi_verbs_link *l, const struct rdi_put *put,
                           struct rdi_verbs_out *o, unsigned rails, struct source *s) {
    struct rdi_verbs_net *n = rdi_verbs_net_of(l);
    for (unsigned i = 0; i < n->nrails; i++) {
        if (!(rails & 1u << i)) {
            continue;
        }
        struct ibv_mr *mr = rdi_verbs_mr_get(&n->rails[i], put->data, put->len, &o->held[i]);
        if (mr == NULL) {
            o->held[i] = NULL;
            forget(l, o);
            return false;
        }
        s->lkey[i] = mr->lkey;
    }
    o->foreign = true;
    s->payload = put->data;
    return true;
}

static rondo_status use_device(struct rdi_verbs_link *l, const struct rdi_put *put,
                               struct rdi_verbs_out *o, unsigned rails, struct source *s) {
    struct rdi_verbs_net *n = rdi_verbs_net_of(l);
    for (unsigned i = 0; i < n->nrails; i++) {
        struct ibv_mr *mr;
        if (!(rails & 1u << i)) {
            continue;
        }
        rondo_status status =
            rdi_verbs_mr_get_device(&n->rails[i], put->data, put->len, &o->held[i], &mr);
        if (status != RONDO_OK) {
            o->held[i] = NULL;
            forget(l, o);
            return status;
        }
        s->lkey[i] = mr->lkey;
    }
    o->foreign = true;
    s->device = true;
    s->payload = put->data;
    return RONDO_OK;
}

static rondo_status find_source(struct rdi_verbs_link *l, const struct rdi_put *put,
                                struct rdi_verbs_out *o, unsigned rails, struct source *s) {
    uint32_t slot = (uint32_t)(l->base.posted % l->base.slots);
    struct rdi_verbs_header h = {
        .tag = put->tag, .len = put->len, .has_sig = put->sig != NULL ? 1 : 0};
    if (put->sig != NULL) {
        memcpy(h.sig, put->sig, sizeof h.sig);
    }
    s->head = l->memory + (size_t)slot * RDI_VERBS_HEAD;
    memcpy(s->head, &h, sizeof h);
    if (put->flags & RDI_PUT_DEVICE && put->len > 0) {
        return use_device(l, put, o, rails, s);
    }
    s->small = put->len <= RDI_VERBS_SMALL;
    if (s->small) {
        if (put->len > 0) {
            memcpy(s->head + RDI_VERBS_HEADER, put->data, put->len);
        }
        return RONDO_OK;
    }
    if (use_registered(l, put, o, rails, s)) {
        return RONDO_OK;
    }
    for (unsigned i = 0; i < rdi_verbs_net_of(l)->nrails; i++) {
        if (!(rails & 1u << i)) {
            continue;
        }
        rondo_status status = stage_ready(l, i);
        if (status != RONDO_OK) {
            return status;
        }
        s->lkey[i] = l->staging_mr[i]->lkey;
    }
    uint8_t *to = l->staging + (size_t)slot * l->base.max_msg;
    memcpy(to, put->data, put->len);
    s->payload = to;
    return RONDO_OK;
}

// The pieces of the bytes [off, off + n) of header and payload.
static int gather(const struct rdi_verbs_link *l, const struct rdi_verbs_qp *q,
                  const struct source *s, uint32_t off, uint32_t n, struct ibv_sge sge[2]) {
    int k = 0;
    if (s->small) {
        sge[k++] = (struct ibv_sge){(uintptr_t)(s->head + off), n, l->mr[q->rail]->lkey};
        return k;
    }
    if (off < RDI_VERBS_HEADER) {
        uint32_t head = RDI_VERBS_HEADER - off < n ? RDI_VERBS_HEADER - off : n;
        sge[k++] = (struct ibv_sge){(uintptr_t)(s->head + off), head, l->mr[q->rail]->lkey};
        off += head;
        n -= head;
    }
    if (n > 0) {
        sge[k++] = (struct ibv_sge){(uintptr_t)(s->payload + (off - RDI_VERBS_HEADER)), n,
                                    s->lkey[q->rail]};
    }
    return k;
}

// ---- Work requests -------------------------------------------------------------------------------

struct stripe {
    unsigned index, count;
    uint32_t off, len;
    bool signaled;
};

// Where the stripe goes: to the slot in host memory, or to that of the payload.
static void aim(const struct rdi_verbs_qp *q, const struct stripe *t, struct ibv_send_wr *wr) {
    const struct rdi_verbs_link *l = q->link;
    uint64_t slot = l->base.posted % l->base.slots;
    unsigned pair = q->index % l->nused;
    if (l->apart && t->off >= RDI_VERBS_HEADER) {
        wr->wr.rdma.remote_addr = l->remote_payload + slot * l->base.max_msg +
                                  (t->off - RDI_VERBS_HEADER);
        wr->wr.rdma.rkey = l->payload_rkey[pair];
    } else {
        wr->wr.rdma.remote_addr = l->remote + slot * l->stride + t->off;
        wr->wr.rdma.rkey = l->rkey[pair];
    }
}

static bool post_stripe(struct rdi_verbs_qp *q, const struct source *s, const struct stripe *t) {
    struct rdi_verbs_link *l = q->link;
    uint64_t seq = l->base.posted;
    struct ibv_sge sge[2];
    struct ibv_send_wr wr[2] = {{.sg_list = sge}};
    wr[0].num_sge = gather(l, q, s, t->off, t->len, sge);
    bool touches = s->device && t->off + t->len > RDI_VERBS_HEADER;
    wr[0].send_flags = t->len <= q->inline_max && !touches ? IBV_SEND_INLINE : 0;
    if (l->mode == RDI_VERBS_SEND) {
        wr[0].opcode = IBV_WR_SEND;
        return rdi_verbs_qp_send(q, wr, 1, seq, t->signaled);
    }
    wr[0].opcode = IBV_WR_RDMA_WRITE_WITH_IMM;
    wr[0].imm_data = htonl(rdi_verbs_imm(t->index, t->count, seq));
    aim(q, t, &wr[0]);
    if (l->mode == RDI_VERBS_IMM) {
        return rdi_verbs_qp_send(q, wr, 1, seq, t->signaled);
    }
    wr[1] = wr[0];
    wr[1].num_sge = 0;
    wr[1].sg_list = NULL;
    wr[1].send_flags = 0;
    wr[0].opcode = IBV_WR_RDMA_WRITE;
    return rdi_verbs_qp_send(q, wr, 2, seq, t->signaled);
}

static int post_empty(struct rdi_verbs_qp *q, uint64_t what) {
    struct rdi_verbs_link *l = q->link;
    struct ibv_send_wr wr = {.opcode = l->mode == RDI_VERBS_SEND ? IBV_WR_SEND : IBV_WR_RDMA_WRITE};
    if (l->mode != RDI_VERBS_SEND) {
        wr.wr.rdma.remote_addr = l->remote;
        wr.wr.rdma.rkey = l->rkey[q->index % l->nused];
    }
    return rdi_verbs_qp_send(q, &wr, 1, what, true) ? 0 : EIO;
}

int rdi_verbs_ping(struct rdi_verbs_qp *q) { return post_empty(q, RDI_VERBS_PING); }

int rdi_verbs_flush(struct rdi_verbs_link *l) {
    if (l->base.state != RDI_LINK_UP || l->broken) {
        return 0;
    }
    if (!l->base.sender) {
        return rdi_verbs_tell_credit(l);
    }
    int moved = 0;
    for (unsigned i = 0; i < l->nqps; i++) {
        // Never in mode send, where each message is signaled.
        if (l->qps[i].unsignaled > 0) {
            post_empty(&l->qps[i], RDI_VERBS_NONE);
            moved++;
        }
    }
    return moved;
}

// ---- Messages ------------------------------------------------------------------------------------

static rondo_status not_up(const struct rdi_link *link) {
    switch (link->state) {
    case RDI_LINK_FAILED:
        return rdi_fail(link->status, "%s", link->why);
    case RDI_LINK_LOST:
        return rdi_fail(RONDO_ERR_PATH, "%s", link->why);
    case RDI_LINK_CLOSED:
        return rdi_fail(RONDO_ERR_PEER, "rank %u has closed the link",
                        link->sender ? link->id.to : link->id.from);
    case RDI_LINK_CONNECTING:
    case RDI_LINK_UP:
        break;
    }
    return RONDO_AGAIN;
}

// The queue pairs of the next message: `count` from `first` on. False: one of them has no room.
static bool choose_qps(struct rdi_verbs_link *l, unsigned count, unsigned *first, unsigned *rails) {
    unsigned wrs = (l->mode == RDI_VERBS_SPLIT ? 2 : 1) * ((count + l->nqps - 1) / l->nqps);
    *first = l->mode == RDI_VERBS_SEND ? (unsigned)(l->base.posted % l->nqps) : l->turn;
    *rails = 0;
    for (unsigned i = 0; i < count; i++) {
        const struct rdi_verbs_qp *q = &l->qps[(*first + i) % l->nqps];
        if (!rdi_verbs_qp_room(q, wrs)) {
            return false;
        }
        *rails |= 1u << q->rail;
    }
    return true;
}

// How header and payload are cut: the first stripe, and the pieces behind it.
struct parts {
    unsigned stripes;
    uint32_t first, piece;
};

static struct parts cut_message(const struct rdi_verbs_link *l, uint32_t len) {
    uint32_t total = RDI_VERBS_HEADER + len, least = rdi_verbs_net_of(l)->stripe;
    struct rdi_verbs_cut c = {.stripes = 0};
    if (l->mode == RDI_VERBS_SEND) {
        return (struct parts){.stripes = 1, .first = total};
    }
    if (!l->apart) {
        c = rdi_verbs_cut(total, least, l->nqps);
        return (struct parts){c.stripes, c.piece < total ? c.piece : total, c.piece};
    }
    if (len > 0) {
        unsigned most = l->nqps < RDI_VERBS_STRIPES ? l->nqps : RDI_VERBS_STRIPES - 1;
        c = rdi_verbs_cut(len, least, most);
    }
    return (struct parts){1 + c.stripes, RDI_VERBS_HEADER, c.piece};
}

static bool post_all(struct rdi_verbs_link *l, const struct rdi_put *put, const struct source *s,
                     struct parts cut, unsigned first) {
    uint32_t total = RDI_VERBS_HEADER + put->len;
    bool last_credit = l->base.posted + 1 == l->base.credit;
    for (unsigned i = 0; i < cut.stripes; i++) {
        struct rdi_verbs_qp *q = &l->qps[(first + i) % l->nqps];
        struct stripe t = {.index = i, .count = cut.stripes, .len = cut.first};
        if (i > 0) {
            t.off = cut.first + (i - 1) * cut.piece;
            t.len = total - t.off < cut.piece ? total - t.off : cut.piece;
        }
        t.signaled = put->flags & RDI_PUT_ACK || last_credit || q->unsignaled + 1 >= l->period;
        if (!post_stripe(q, s, &t)) {
            return false;
        }
    }
    l->turn = (first + cut.stripes) % l->nqps;
    return true;
}

rondo_status rdi_verbs_op_put(struct rdi_link *link, const struct rdi_put *put) {
    struct rdi_verbs_link *l = (struct rdi_verbs_link *)link;
    if (link->state != RDI_LINK_UP) {
        return not_up(link);
    }
    if (link->posted >= link->credit || link->posted - link->sent >= link->slots || l->broken) {
        return RONDO_AGAIN;
    }
    if (put->len > link->max_msg) {
        return rdi_fail(RONDO_ERR_INVALID, "a message of %u bytes on a link for %u", put->len,
                        link->max_msg);
    }
    struct parts cut = cut_message(l, put->len);
    unsigned first, rails;
    if (!choose_qps(l, cut.stripes, &first, &rails)) {
        return RONDO_AGAIN;
    }
    struct rdi_verbs_out *o = &l->out[link->posted % link->slots];
    struct source source = {0};
    rondo_status s = find_source(l, put, o, rails, &source);
    if (s == RONDO_ERR_INVALID) {
        return s; // not device memory, as the caller said
    }
    if (s != RONDO_OK) {
        rdi_verbs_link_fail(l, true, s, "%s", rondo_last_error());
        return s;
    }
    o->left = cut.stripes;
    if (!post_all(l, put, &source, cut, first)) {
        return RONDO_AGAIN; // the link is LOST as soon as progress() looks at it
    }
    link->posted++;
    link->net->bytes_sent += put->len;
    link->net->messages_sent++;
    return RONDO_OK;
}

rondo_status rdi_verbs_op_ctrl(struct rdi_link *link, unsigned type, const void *msg, size_t len) {
    struct rdi_verbs_link *l = (struct rdi_verbs_link *)link;
    if (link->state != RDI_LINK_UP) {
        return not_up(link);
    }
    if (len > RDI_CTRL_MAX || type >= RDI_VERBS_OFFER) {
        return rdi_fail(RONDO_ERR_INVALID,
                        "a control message of type %u and %zu bytes; at most %d are allowed", type,
                        len, RDI_CTRL_MAX);
    }
    if (l->inner == NULL || l->inner->state != RDI_LINK_UP) {
        return RONDO_AGAIN; // it comes back, or the link fails
    }
    return l->inner->ops->ctrl(l->inner, type, msg, len);
}

// ---- Credit --------------------------------------------------------------------------------------

void rdi_verbs_take_credit(struct rdi_verbs_qp *q, const struct ibv_wc *wc) {
    struct rdi_verbs_link *l = q->link;
    struct rdi_link *b = &l->base;
    uint64_t known = b->credit - b->slots, released;
    uint64_t *word = (uint64_t *)(void *)(l->memory + l->words) + (uint32_t)wc->wr_id;
    if (l->mode == RDI_VERBS_SEND) {
        released = wc->byte_len == sizeof *word ? *word : UINT64_MAX;
    } else {
        released = wc->wc_flags & IBV_WC_WITH_IMM ? rdi_verbs_later(known, ntohl(wc->imm_data))
                                                  : UINT64_MAX;
    }
    if (released < known || released > b->posted) {
        char who[128];
        rdi_verbs_link_fail(l, true, RONDO_ERR_INTERNAL,
                            "%s released a message that was not sent; please report this",
                            rdi_verbs_peer_name(l, who, sizeof who));
        return;
    }
    b->credit = released + b->slots;
    if (!q->error) {
        rdi_verbs_qp_receive(q, (uint32_t)wc->wr_id, l->mode == RDI_VERBS_SEND ? word : NULL,
                             sizeof *word);
    }
}
