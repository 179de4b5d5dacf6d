// SPDX-License-Identifier: MIT
// What goes on around a link: words to and from the peer's end on the inner tcp link, that link's own state,
// and time.
#include "transport/verbs/verbs.h"

#include <stdio.h>
#include <string.h>

#define OFFER_PATIENCE (10000 * RDI_MS) // for the first word on an accepted inner link

// ---- Words ---------------------------------------------------------------------------------------

bool rdi_verbs_say(struct rdi_verbs_link *l, struct rdi_verbs_msg *m) {
    uint8_t bytes[RDI_CTRL_MAX];
    if (l->inner == NULL || l->inner->state != RDI_LINK_UP) {
        return false;
    }
    m->epoch = l->base.epoch;
    m->attempt = l->attempt;
    size_t len = rdi_verbs_msg_write(m, bytes);
    return l->inner->ops->ctrl(l->inner, m->type, bytes, len) == RONDO_OK;
}

rondo_status rdi_verbs_inner_accept(void *self, struct rdi_link *inner) {
    struct rdi_verbs_net *n = self;
    if (n->closing) {
        return rdi_fail(RONDO_ERR_PEER, "rank %d ends", n->base.params.job->rank);
    }
    struct rdi_verbs_link *l = rdi_verbs_link_new(n, &inner->id, false);
    if (l == NULL) {
        return rdi_fail(RONDO_ERR_NOMEM, "no memory for a link");
    }
    l->inner = inner;
    l->deadline = rdi_verbs_now(n) + OFFER_PATIENCE;
    inner->owner = l;
    return RONDO_OK;
}

static void take_bye(struct rdi_verbs_link *l, const struct rdi_verbs_msg *m) {
    struct rdi_link *b = &l->base;
    if (!b->sender && (m->posted < b->arrived || m->posted > b->released + b->slots)) {
        char who[128];
        rdi_verbs_link_fail(l, true, RONDO_ERR_INTERNAL,
                            "%s says good-bye behind a message that cannot be; please report this",
                            rdi_verbs_peer_name(l, who, sizeof who));
        return;
    }
    l->bye = true;
    l->bye_at = m->posted;
    if (b->sender && m->arrived <= b->posted && m->arrived >= b->sent) {
        b->sent = m->arrived;
        uint64_t credit = m->released + b->slots;
        b->credit = credit > b->credit ? credit : b->credit;
    }
    rdi_verbs_check_bye(l);
}

static void note_life(struct rdi_verbs_link *l) {
    l->heard = true;
    l->quiet_since = rdi_verbs_now(rdi_verbs_net_of(l));
}

// The bits say which of the pairs that were offered; here they count among all.
static void take_again(struct rdi_verbs_link *l, const struct rdi_verbs_msg *m) {
    unsigned pairs = 0;
    for (unsigned i = 0; i < l->nused; i++) {
        pairs |= m->bad & 1u << i ? 1u << l->used[i] : 0;
    }
    rdi_verbs_offer_failed(l, pairs, m->text);
}

static void take_lost(struct rdi_verbs_link *l, const struct rdi_verbs_msg *m) {
    if (l->base.state == RDI_LINK_UP) {
        rdi_verbs_link_lost(l, m->text);
    } else if (l->base.sender && l->step == RDI_VERBS_PINGING) {
        rdi_verbs_offer_failed(l, 0, m->text);
    } else if (!l->base.sender && l->step == RDI_VERBS_GRANTED) {
        rdi_verbs_link_lost(l, m->text);
    }
}

void rdi_verbs_inner_ctrl(void *self, struct rdi_link *inner, unsigned type, const void *msg,
                          size_t len) {
    struct rdi_verbs_net *n = self;
    struct rdi_verbs_link *l = inner->owner;
    struct rdi_verbs_msg m;
    if (l == NULL || l->gone) {
        return;
    }
    note_life(l);
    if (type < RDI_VERBS_OFFER) {
        const struct rdi_net_events *events = n->base.params.events;
        if (!l->closing && (l->base.sender || l->accepted)) {
            events->ctrl(events->self, &l->base, type, msg, len);
        }
        return;
    }
    bool to_sender = type == RDI_VERBS_GRANT || type == RDI_VERBS_AGAIN;
    bool to_receiver = type == RDI_VERBS_OFFER || type == RDI_VERBS_READY;
    if (!rdi_verbs_msg_read(&m, type, msg, len) || (to_sender && !l->base.sender) ||
        (to_receiver && l->base.sender)) {
        char who[128];
        rdi_verbs_link_fail(l, true, RONDO_ERR_INTERNAL,
                            "%s sent a set-up message that is malformed; please report this",
                            rdi_verbs_peer_name(l, who, sizeof who));
        return;
    }
    if (type == RDI_VERBS_OFFER) {
        rdi_verbs_take_offer(l, &m);
    } else if (type == RDI_VERBS_FAIL) {
        char who[128];
        rdi_verbs_link_fail(l, false, m.status, l->was_up ? "%s gave up: %s" : "refused by %s: %s",
                            rdi_verbs_peer_name(l, who, sizeof who), m.text);
    } else if (type == RDI_VERBS_BYE) {
        take_bye(l, &m);
    } else if (m.epoch != l->base.epoch || m.attempt != l->attempt) {
        return; // of a time that is over
    } else if (type == RDI_VERBS_GRANT) {
        rdi_verbs_take_grant(l, &m);
    } else if (type == RDI_VERBS_AGAIN && l->step == RDI_VERBS_OFFERED) {
        take_again(l, &m);
    } else if (type == RDI_VERBS_READY && l->step == RDI_VERBS_GRANTED) {
        rdi_verbs_link_up(l);
    } else if (type == RDI_VERBS_LOST) {
        take_lost(l, &m);
    }
}

void rdi_verbs_say_step(struct rdi_verbs_link *l) {
    struct rdi_verbs_net *n = rdi_verbs_net_of(l);
    struct rdi_verbs_msg m = {.type = RDI_VERBS_READY};
    bool silent = false;
    if (l->base.state == RDI_LINK_LOST) {
        m.type = RDI_VERBS_LOST;
        snprintf(m.text, sizeof m.text, "%s", l->base.why);
    } else if (l->step == RDI_VERBS_OFFERED || l->step == RDI_VERBS_GRANTED) {
        m.type = l->base.sender ? RDI_VERBS_OFFER : RDI_VERBS_GRANT;
        m.mode = l->mode;
        m.slots = l->base.slots != 0 ? l->base.slots : n->slots;
        m.max_msg = l->base.max_msg != 0 ? l->base.max_msg : n->max_msg;
        m.npairs = l->nused;
        m.nqps = l->nqps;
        for (unsigned i = 0; i < l->nused; i++) {
            const struct rdi_verbs_pair *p = &l->pairs[l->used[i]];
            m.pairs[i].from = l->base.sender ? p->mine : p->theirs;
            m.pairs[i].to = l->base.sender ? p->theirs : p->mine;
            m.pairs[i].mtu = l->mtu[i];
            m.pairs[i].rkey = l->base.sender ? 0 : l->mr[p->mine]->rkey;
            m.pairs[i].payload_rkey = l->base.sender || !l->apart ? 0
                                                                  : l->payload_mr[p->mine]->rkey;
        }
        for (unsigned i = 0; i < l->nqps; i++) {
            m.qps[i] = (struct rdi_verbs_qp_id){l->qps[i].qp->qp_num, l->qps[i].psn};
        }
        memcpy(m.host, n->base.params.job->host, sizeof m.host);
        m.address = n->self;
        m.base = (uintptr_t)l->memory;
        m.apart = l->apart;
        m.payload = (uintptr_t)l->payload;
        m.arrived = l->base.arrived;
        m.released = l->base.released;
        l->told_released = l->base.released;
    } else {
        silent = !(l->base.sender && l->step == RDI_VERBS_RUNNING);
    }
    l->unsaid = !silent && !rdi_verbs_say(l, &m);
}

// ---- Time ----------------------------------------------------------------------------------------

static void inner_failed(struct rdi_verbs_link *l) {
    rondo_status s = l->inner->status;
    char why[sizeof l->inner->why];
    memcpy(why, l->inner->why, sizeof why);
    if (l->closing || (!l->base.sender && !l->accepted)) {
        rdi_verbs_link_free(l, false);
    } else {
        rdi_verbs_link_fail(l, false, s, "%s", why);
    }
}

// The peer has closed the inner link in good order. Its last word may have been lost on the way when the inner
// link had several connections; what it sent before has completed by then.
static void inner_closed(struct rdi_verbs_link *l, uint64_t now) {
    struct rdi_verbs_net *n = rdi_verbs_net_of(l);
    if (l->closing || (!l->base.sender && !l->accepted)) {
        rdi_verbs_link_free(l, false);
        return;
    }
    if (!l->bye) {
        rdi_verbs_poll(n);
        l->bye = true;
        l->bye_at = l->base.arrived;
        l->deadline = now;
    }
    rdi_verbs_check_bye(l);
    if (l->base.state == RDI_LINK_CLOSED) {
        rdi_verbs_close_inner(l, true);
    } else if (now >= l->deadline || l->base.state != RDI_LINK_UP) {
        char who[128];
        rdi_verbs_link_fail(l, false, RONDO_ERR_PEER,
                            "%s closed the link before its last messages had arrived",
                            rdi_verbs_peer_name(l, who, sizeof who));
    }
}

// True: the link is over.
static bool look_at_inner(struct rdi_verbs_link *l, uint64_t now) {
    struct rdi_link *inner = l->inner;
    bool up = inner->state == RDI_LINK_UP;
    if (inner->state == RDI_LINK_FAILED) {
        inner_failed(l);
        return true;
    }
    if (inner->state == RDI_LINK_CLOSED) {
        if (l->inner_up) {
            l->deadline = now + (rdi_verbs_net_of(l)->grace_ms + 1000) * RDI_MS;
        }
        l->inner_up = false;
        inner_closed(l, now);
        return true;
    }
    if (inner->state == RDI_LINK_LOST && l->base.sender) {
        // Errors show as its state.
        (void)inner->ops->reset(inner, inner->epoch + 1);
    }
    if (up && (!l->inner_up || l->unsaid)) {
        rdi_verbs_say_step(l);
    }
    if (up && !l->inner_up) {
        note_life(l);
    }
    l->inner_up = up;
    return false;
}

static void close_tick(struct rdi_verbs_link *l, uint64_t now) {
    if (l->base.sent >= l->base.posted || l->base.state != RDI_LINK_UP || now >= l->deadline) {
        rdi_verbs_link_free(l, true);
    }
}

void rdi_verbs_link_tick(struct rdi_verbs_link *l, uint64_t now) {
    if (l->inner == NULL || look_at_inner(l, now)) {
        return;
    }
    if (l->closing) {
        close_tick(l, now);
    } else if (rdi_verbs_has_timers(l->base.state)) {
        if (l->base.sender) {
            rdi_verbs_offer_tick(l, now);
        } else {
            rdi_verbs_grant_tick(l, now);
        }
    }
}

uint64_t rdi_verbs_link_next(const struct rdi_verbs_link *l) {
    if (l->inner == NULL || (!l->closing && !rdi_verbs_has_timers(l->base.state))) {
        return l->inner != NULL && l->bye && l->base.state == RDI_LINK_UP ? l->deadline
                                                                          : UINT64_MAX;
    }
    return rdi_verbs_offer_next(l);
}
