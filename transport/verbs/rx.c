// SPDX-License-Identifier: MIT
// Receiving: stripes make messages, messages are released, credit goes back.
//
// A receive is posted for every stripe that may come. Where a message is sent and not written (mode send) the
// receives hold the slots: message q on queue pair q % nqps, in order, so one is posted when its slot gets free.
#include "transport/verbs/verbs.h"

#include <arpa/inet.h>
#include <string.h>

#define ID_PING 0xffffffffu // a receive for the empty send that proves the way

static void violation(struct rdi_verbs_link *l, const char *what) {
    char who[128];
    rdi_verbs_link_fail(l, true, RONDO_ERR_INTERNAL,
                        "%s broke the protocol: %s; please report this",
                        rdi_verbs_peer_name(l, who, sizeof who), what);
}

// ---- Receives ------------------------------------------------------------------------------------

static uint8_t *slot_of(const struct rdi_verbs_link *l, uint64_t seq) {
    return l->memory + (seq % l->base.slots) * l->stride;
}

static int post_slot(struct rdi_verbs_link *l, uint64_t seq) {
    return rdi_verbs_qp_receive(&l->qps[seq % l->nqps], (uint32_t)(seq % l->base.slots),
                                slot_of(l, seq), l->stride);
}

static int fill_sender(struct rdi_verbs_qp *q) {
    struct rdi_verbs_link *l = q->link;
    uint64_t *words = (uint64_t *)(void *)(l->memory + l->words);
    for (uint32_t i = 0; q->index == 0 && i < l->base.slots; i++) {
        int err =
            rdi_verbs_qp_receive(q, i, l->mode == RDI_VERBS_SEND ? &words[i] : NULL, sizeof *words);
        if (err != 0) {
            return err;
        }
    }
    return 0;
}

int rdi_verbs_rx_fill(struct rdi_verbs_qp *q) {
    struct rdi_verbs_link *l = q->link;
    int err = 0;
    if (l->base.sender) {
        return fill_sender(q);
    }
    if (l->mode != RDI_VERBS_SEND) {
        // Of a message that is apart, two stripes may come on one queue pair.
        for (uint32_t i = 0; i < l->base.slots * (l->apart ? 2 : 1) && err == 0; i++) {
            err = rdi_verbs_qp_receive(q, 0, NULL, 0);
        }
        return err;
    }
    err = rdi_verbs_qp_receive(q, ID_PING, NULL, 0);
    for (uint64_t seq = l->base.arrived; seq < l->base.released + l->base.slots && err == 0;
         seq++) {
        if (seq % l->nqps == q->index) {
            err = post_slot(l, seq);
        }
    }
    return err;
}

// ---- Messages ------------------------------------------------------------------------------------

// All of message `seq` is there. What the header says is checked and copied once.
static void message_complete(struct rdi_verbs_link *l, uint64_t seq) {
    struct rdi_verbs_in *in = &l->in[seq % l->base.slots];
    struct rdi_verbs_header h;
    memcpy(&h, slot_of(l, seq), sizeof h);
    if (h.len > l->base.max_msg || h.has_sig > 1 ||
        (l->apart && (h.len > 0) != (in->stripes > 1))) {
        violation(l, "a message's header has fields that cannot be");
        return;
    }
    in->tag = h.tag;
    in->len = h.len;
    in->has_sig = h.has_sig;
    in->whole = true;
    l->base.net->bytes_received += h.len;
    while (l->base.arrived < l->base.released + l->base.slots &&
           l->in[l->base.arrived % l->base.slots].whole) {
        l->base.arrived++;
    }
    rdi_verbs_check_bye(l);
}

static void take_sent(struct rdi_verbs_qp *q, const struct ibv_wc *wc) {
    struct rdi_verbs_link *l = q->link;
    uint32_t id = (uint32_t)wc->wr_id;
    if (id == ID_PING) {
        return;
    }
    // The slot's message that is neither arrived nor beyond credit.
    uint64_t seq = l->base.arrived, slots = l->base.slots;
    seq += (id + slots - seq % slots) % slots;
    const struct rdi_verbs_in *in = &l->in[id];
    struct rdi_verbs_header h;
    memcpy(&h, slot_of(l, seq), sizeof h);
    if (seq >= l->base.released + slots || in->whole || wc->byte_len < sizeof h ||
        wc->byte_len != sizeof h + (uint64_t)h.len) {
        violation(l, "a message of another length than it says");
        return;
    }
    message_complete(l, seq);
}

static void take_stripe(struct rdi_verbs_qp *q, const struct ibv_wc *wc) {
    struct rdi_verbs_link *l = q->link;
    unsigned index, stripes;
    uint64_t seq;
    if (!(wc->wc_flags & IBV_WC_WITH_IMM) ||
        !rdi_verbs_imm_read(ntohl(wc->imm_data), l->base.arrived, l->base.released + l->base.slots,
                            &index, &stripes, &seq)) {
        violation(l, "a message without credit");
        return;
    }
    struct rdi_verbs_in *in = &l->in[seq % l->base.slots];
    if (in->whole || in->seen & 1u << index || (in->stripes != 0 && in->stripes != stripes)) {
        violation(l, "a stripe that was there already");
        return;
    }
    in->stripes = (uint16_t)stripes;
    in->seen = (uint16_t)(in->seen | 1u << index);
    if (!q->error) {
        rdi_verbs_qp_receive(q, 0, NULL, 0);
    }
    if (in->seen == (1u << stripes) - 1) {
        message_complete(l, seq);
    }
}

void rdi_verbs_rx(struct rdi_verbs_qp *q, const struct ibv_wc *wc) {
    struct rdi_verbs_link *l = q->link;
    if (l->step == RDI_VERBS_GRANTED &&
        (l->mode != RDI_VERBS_SEND || (uint32_t)wc->wr_id != ID_PING)) {
        rdi_verbs_link_up(l); // the sender is ready: else it would not send
    }
    if (l->mode == RDI_VERBS_SEND) {
        take_sent(q, wc);
    } else {
        take_stripe(q, wc);
    }
}

// ---- What the engine asks for --------------------------------------------------------------------

void rdi_verbs_op_peek(struct rdi_link *link, uint64_t seq, struct rdi_msg *out) {
    const struct rdi_verbs_link *l = (struct rdi_verbs_link *)link;
    const struct rdi_verbs_in *in = &l->in[seq % link->slots];
    const uint8_t *slot = slot_of(l, seq);
    *out = (struct rdi_msg){
        .data = l->apart ? l->payload + (seq % link->slots) * link->max_msg
                         : slot + RDI_VERBS_HEADER,
        .len = in->len,
        .tag = in->tag,
        .sig = in->has_sig ? ((const struct rdi_verbs_header *)(const void *)slot)->sig : NULL};
}

int rdi_verbs_tell_credit(struct rdi_verbs_link *l) {
    struct rdi_link *b = &l->base;
    struct rdi_verbs_qp *q = &l->qps[0];
    if (b->state != RDI_LINK_UP || l->broken || l->told_released == b->released ||
        !rdi_verbs_qp_room(q, 1)) {
        return 0;
    }
    struct ibv_sge sge = {.length = sizeof(uint64_t)};
    struct ibv_send_wr wr = {.opcode = IBV_WR_SEND_WITH_IMM,
                             .imm_data = htonl((uint32_t)b->released)};
    if (l->mode == RDI_VERBS_SEND) {
        uint64_t *word = (uint64_t *)(void *)(l->memory + l->words) + q->sq_tail % (b->slots + 4);
        *word = b->released;
        sge.addr = (uintptr_t)word;
        sge.lkey = l->mr[q->rail]->lkey;
        wr =
            (struct ibv_send_wr){.opcode = IBV_WR_SEND,
                                 .sg_list = &sge,
                                 .num_sge = 1,
                                 .send_flags = q->inline_max >= sizeof *word ? IBV_SEND_INLINE : 0};
    }
    if (!rdi_verbs_qp_send(q, &wr, 1, RDI_VERBS_NONE, q->unsignaled + 1 >= b->slots / 2)) {
        return 0;
    }
    l->told_released = b->released;
    return 1;
}

void rdi_verbs_op_release(struct rdi_link *link, uint64_t upto) {
    struct rdi_verbs_link *l = (struct rdi_verbs_link *)link;
    uint64_t from = link->released;
    link->released = upto;
    for (uint64_t seq = from; seq < upto; seq++) {
        struct rdi_verbs_in *in = &l->in[seq % link->slots];
        in->whole = false;
        in->seen = 0;
        in->stripes = 0;
        if (l->mode == RDI_VERBS_SEND && l->nqps > 0 &&
            (link->state == RDI_LINK_UP || l->step == RDI_VERBS_GRANTED) && !l->qps[0].error) {
            post_slot(l, seq + link->slots);
        }
    }
    if (link->state == RDI_LINK_UP && upto - l->told_released >= (link->slots + 1) / 2) {
        rdi_verbs_tell_credit(l);
    }
}
