// SPDX-License-Identifier: MIT
// What a peer can claim on a verbs link, over the fake library of tests/fake_verbs, whose device refuses what a real
// one would: addresses and keys that are not rank 0's, set-up that does not fit, messages and credit from nowhere.
#include "peer.h"

#include "transport/verbs/verbs.h"

#include <arpa/inet.h>
#include <dlfcn.h>
#include <stdio.h>
#include <unistd.h>

static struct rdi_verbs_link *verbs(struct rdi_link *l) { return (struct rdi_verbs_link *)l; }

// ---- Set-up messages -----------------------------------------------------------------------------

static void tell(struct rdi_verbs_link *l, struct rdi_verbs_msg *m) {
    uint8_t bytes[RDI_CTRL_MAX];
    size_t len = rdi_verbs_msg_write(m, bytes);
    if (l->inner->ops->ctrl(l->inner, m->type, bytes, len) != RONDO_OK) {
        _exit(9);
    }
}

// A good offer for the next epoch, as far as it goes.
static struct rdi_verbs_msg offer_of(const struct rdi_verbs_link *l) {
    struct rdi_verbs_msg m = {.type = RDI_VERBS_OFFER,
                              .epoch = l->base.epoch + 1,
                              .attempt = 1,
                              .mode = l->mode,
                              .slots = l->base.slots,
                              .max_msg = l->base.max_msg,
                              .npairs = l->nused,
                              .nqps = l->nqps,
                              .host = "nowhere",
                              .address = rdi_verbs_net_of(l)->self};
    for (unsigned i = 0; i < l->nused; i++) {
        const struct rdi_verbs_pair *p = &l->pairs[l->used[i]];
        m.pairs[i].from = l->base.sender ? p->mine : p->theirs;
        m.pairs[i].to = l->base.sender ? p->theirs : p->mine;
        m.pairs[i].mtu = l->mtu[i];
    }
    for (unsigned i = 0; i < l->nqps; i++) {
        m.qps[i] = (struct rdi_verbs_qp_id){0xabcdef, 0x123456};
    }
    return m;
}

enum { O_PAIR, O_SLOTS, O_MODE, O_QPS, O_TWICE };
static void offer(struct peer *p, unsigned variant) {
    struct rdi_verbs_link *l = verbs(p->out);
    struct rdi_verbs_msg m = offer_of(l);
    switch (variant) {
    case O_PAIR:
        m.pairs[0].to = 3;
        break;
    case O_SLOTS:
        m.slots = 1;
        break;
    case O_MODE:
        m.mode = RDI_VERBS_SPLIT;
        break;
    case O_QPS: // queue pairs that do not exist
        break;
    case O_TWICE:
        m.npairs = 2;
        m.nqps = 2 * l->nqps;
        m.pairs[1] = m.pairs[0];
        break;
    }
    tell(l, &m);
}

static void malformed(struct peer *p, unsigned variant) {
    uint8_t bytes[RDI_CTRL_MAX];
    struct rdi_verbs_link *l = verbs(p->out);
    memset(bytes, 0xee, sizeof bytes);
    (void)l->inner->ops->ctrl(l->inner, variant, bytes, sizeof bytes);
}

// What the receiver says of itself when the link is set up anew is not true: key, address, what has arrived. The
// device of the sender writes where it is told to, and the receiver's refuses it.
enum { G_RKEY, G_ADDRESS, G_ARRIVED, G_RELEASED };
static void grant(struct peer *p, unsigned variant) {
    struct rdi_verbs_link *l = verbs(p->in);
    switch (variant) {
    case G_RKEY:
        l->mr[l->qps[0].rail]->rkey ^= 0x5a5a5a;
        break;
    case G_ADDRESS:
        l->memory += 1u << 30;
        break;
    case G_ARRIVED:
        l->base.arrived += 4;
        break;
    case G_RELEASED:
        l->base.arrived = l->base.released = 0;
        break;
    }
    rdi_verbs_link_lost(l, "for the sake of the test");
    // The dance of the new epoch, for a while; what is posted in its course would go to our own memory.
    for (int i = 0; i < 1500 && l->base.state != RDI_LINK_FAILED; i++) {
        struct rdi_net *net = l->base.net;
        net->ops->progress(net, false);
        usleep(1000);
    }
    _exit(0); // this process' own state is of no use any more
}

static void final_words(struct peer *p, unsigned variant) {
    struct rdi_verbs_msg m = {.type = variant, .status = RONDO_ERR_INTERNAL, .bad = 0xff};
    struct rdi_verbs_link *l = verbs(variant == RDI_VERBS_AGAIN ? p->in : p->out);
    m.epoch = l->base.epoch;
    m.attempt = l->attempt;
    memset(m.text, '!', sizeof m.text - 1);
    m.posted = UINT64_MAX;
    tell(l, &m);
}

// ---- On the queue pair ---------------------------------------------------------------------------

enum { M_NO_CREDIT, M_STRIPE, M_LONG, M_SIGNATURE, M_BESIDE, M_KEY, M_CREDIT };
static void write_it(struct peer *p, unsigned variant) {
    struct rdi_verbs_link *l = verbs(variant == M_CREDIT ? p->in : p->out);
    struct rdi_verbs_qp *q = &l->qps[0];
    uint64_t seq = l->base.posted + (variant == M_NO_CREDIT ? 1000 : 0);
    struct rdi_verbs_header h = {.len = variant == M_LONG ? UINT32_MAX : 64};
    h.has_sig = variant == M_LONG ? 0 : 1;
    peer_signature(p, true, h.sig);
    memcpy(l->memory, &h, sizeof h);
    struct ibv_sge sge = {(uintptr_t)l->memory, RDI_VERBS_HEADER + 64, l->mr[q->rail]->lkey};
    struct ibv_send_wr wr = {.opcode = IBV_WR_RDMA_WRITE_WITH_IMM, .sg_list = &sge, .num_sge = 1};
    wr.imm_data = htonl(rdi_verbs_imm(variant == M_STRIPE ? 9 : 0, 1, seq));
    wr.wr.rdma.remote_addr = l->remote + seq % l->base.slots * l->stride;
    wr.wr.rdma.rkey = l->rkey[0];
    if (variant == M_BESIDE) {
        wr.wr.rdma.remote_addr += UINT64_C(1) << 40;
    } else if (variant == M_KEY) {
        wr.wr.rdma.rkey ^= 0x5a5a5a;
    } else if (variant == M_CREDIT) {
        wr = (struct ibv_send_wr){.opcode = IBV_WR_SEND_WITH_IMM,
                                  .imm_data = htonl((uint32_t)l->base.released + 1000)};
    }
    if (!rdi_verbs_qp_send(q, &wr, 1, RDI_VERBS_NONE, true)) {
        _exit(9);
    }
    // The device needs our hand to see it done.
    for (int i = 0; i < 300; i++) {
        rdi_verbs_poll(rdi_verbs_net_of(l));
        usleep(1000);
    }
}

// ---- The table -----------------------------------------------------------------------------------

static const struct attack attacks[] = {
    {"verbs: offer of a port that is not there", offer, O_PAIR, FAILS, "pair of ports"},
    {"verbs: offer of fewer slots", offer, O_SLOTS, FAILS, "changes a link"},
    {"verbs: offer of another mode", offer, O_MODE, FAILS, "changes a link"},
    {"verbs: offer of queue pairs that are not there", offer, O_QPS, FAILS, "rank 1"},
    {"verbs: offer of a pair of ports twice", offer, O_TWICE, FAILS, "rank 1"},
    {"verbs: offer of nonsense", malformed, RDI_VERBS_OFFER, FAILS, "malformed"},
    {"verbs: grant of nonsense", malformed, RDI_VERBS_GRANT, FAILS, "malformed"},
    {"verbs: unknown set-up message", malformed, 77, FAILS, "malformed"},
    {"verbs: grant with another key", grant, G_RKEY, FAILS, "rank 1"},
    {"verbs: grant of another address", grant, G_ADDRESS, FAILS, "rank 1"},
    {"verbs: grant of messages that were not sent", grant, G_ARRIVED, FAILS, "rank 1"},
    {"verbs: grant that forgets messages", grant, G_RELEASED, FAILS, "rank 1"},
    {"verbs: refusal in the middle", final_words, RDI_VERBS_FAIL, FAILS, "rank 1"},
    {"verbs: good-bye after message 2^64-1", final_words, RDI_VERBS_BYE, FAILS, "good-bye"},
    {"verbs: another attempt, please", final_words, RDI_VERBS_AGAIN, GOES_ON, NULL},
    {"verbs: message without credit", write_it, M_NO_CREDIT, FAILS, "without credit"},
    {"verbs: stripe 9 of 1", write_it, M_STRIPE, FAILS, "without credit"},
    {"verbs: message of 4 GiB", write_it, M_LONG, FAILS, "cannot be"},
    {"verbs: signature of nonsense", write_it, M_SIGNATURE, FAILS, "unknown"},
    {"verbs: write beside the slots", write_it, M_BESIDE, SURVIVES, NULL},
    {"verbs: write with another key", write_it, M_KEY, SURVIVES, NULL},
    {"verbs: release of the future", write_it, M_CREDIT, FAILS, "not sent"},
};

void peer_verbs(const char *only) {
    peer_run(attacks, sizeof attacks / sizeof attacks[0],
             "transport=verbs,interface=lo,device=fake0,connect_timeout=20s", only);
}
