// SPDX-License-Identifier: MIT
// Set-up, the receiver's side: an offer is checked, the old queue pairs are emptied, new ones are granted.
//
//   WAITING --OFFER--> [DRAINING --all receives are back-->] GRANTED --READY or a message--> RUNNING
//
// What the device told the sender as done has completed here before the receives behind it come back, so
// `arrived` in the grant never is less than what the sender counts as sent.
#include "transport/verbs/verbs.h"

#include <stdio.h>
#include <string.h>

#define DRAIN_PATIENCE (2000 * RDI_MS) // a device that does not give receives back is broken

static bool is_drained(const struct rdi_verbs_link *l) {
    for (unsigned i = 0; i < l->nqps; i++) {
        const struct rdi_verbs_qp *q = &l->qps[i];
        if (q->qp != NULL && q->rq_left > 0 && !rdi_verbs_net_of(l)->dead[q->rail]) {
            return false;
        }
    }
    return true;
}

static void say_again(struct rdi_verbs_link *l, unsigned bad, const char *text) {
    struct rdi_verbs_msg m = {.type = RDI_VERBS_AGAIN, .bad = bad};
    snprintf(m.text, sizeof m.text, "%s", text);
    rdi_verbs_link_drop(l);
    l->step = RDI_VERBS_WAITING;
    // When it gets lost with its inner link, the sender makes the same offer again.
    rdi_verbs_say(l, &m);
}

// Finds the offer's pairs of ports among ours. The offer's bit of the first that is down is added to *bad.
static const char *match_pairs(struct rdi_verbs_link *l, const struct rdi_verbs_msg *m,
                               unsigned *bad) {
    struct rdi_verbs_net *n = rdi_verbs_net_of(l);
    *bad = 0;
    l->nused = 0;
    for (unsigned k = 0; k < m->npairs; k++) {
        unsigned i = 0;
        while (i < l->npairs &&
               (l->pairs[i].mine != m->pairs[k].to || l->pairs[i].theirs != m->pairs[k].from)) {
            i++;
        }
        if (i == l->npairs || m->pairs[k].mtu > l->pairs[i].mtu) {
            return "offers a pair of ports that this end does not know";
        }
        if (m->mode != RDI_VERBS_SEND && !l->pairs[i].immediates) {
            return "wants immediate values, which a device here has not (option verbs_mode)";
        }
        for (unsigned j = 0; j < l->nused; j++) {
            if (l->used[j] == i) {
                return "offers a pair of ports twice";
            }
        }
        unsigned rail = l->pairs[i].mine;
        *bad |= n->dead[rail] || n->rails[rail].down ? 1u << k : 0;
        l->mtu[l->nused] = m->pairs[k].mtu < n->mtu ? m->pairs[k].mtu : (uint8_t)n->mtu;
        l->used[l->nused++] = (uint8_t)i;
    }
    return NULL;
}

static rondo_status build(struct rdi_verbs_link *l, unsigned *bad, char *why, size_t cap) {
    const struct rdi_verbs_msg *m = &l->offer;
    *bad = 0;
    l->nqps = m->nqps;
    for (unsigned i = 0; i < l->nused; i++) {
        rondo_status s = rdi_verbs_link_register(l, l->pairs[l->used[i]].mine);
        if (s != RONDO_OK) {
            return s;
        }
    }
    for (unsigned i = 0; i < l->nqps; i++) {
        rondo_status s = rdi_verbs_qp_make(l, i);
        if (s == RONDO_ERR_SYSTEM) { // this device; others may do better
            *bad = 1u << i % l->nused;
            snprintf(why, cap, "%s", rondo_last_error());
            return RONDO_OK;
        }
        if (s != RONDO_OK) {
            return s;
        }
    }
    for (unsigned i = 0; i < l->nqps; i++) {
        struct rdi_verbs_qp *q = &l->qps[i];
        const char *what = "";
        char ends[400];
        q->peer_qpn = m->qps[i].qpn;
        q->peer_psn = m->qps[i].psn;
        int err = rdi_verbs_qp_connect(q, &what);
        if (err == 0) {
            what = "filled";
            err = rdi_verbs_rx_fill(q);
        }
        if (err != 0) {
            snprintf(why, cap, "the queue pair between %s cannot be %s: %s",
                     rdi_verbs_ends(l, q, ends, sizeof ends), what, strerrordesc_np(err));
            *bad |= 1u << i % l->nused;
            return RONDO_OK;
        }
    }
    return RONDO_OK;
}

// The old queue pairs are empty. Answers the offer.
static void grant(struct rdi_verbs_link *l) {
    struct rdi_verbs_net *n = rdi_verbs_net_of(l);
    const struct rdi_net_events *events = n->base.params.events;
    char who[128], why[RDI_VERBS_TEXT] = "";
    unsigned bad;
    rdi_verbs_link_drop(l);
    rdi_verbs_peer_name(l, who, sizeof who);
    const char *wrong = match_pairs(l, &l->offer, &bad);
    if (wrong != NULL) {
        rdi_verbs_link_fail(l, true, RONDO_ERR_UNSUPPORTED, "%s %s", who, wrong);
        return;
    }
    if (bad != 0) {
        const struct rdi_verbs_port *p = &n->rails[l->pairs[l->used[__builtin_ctz(bad)]].mine].info;
        snprintf(why, sizeof why, "%s port %u on host %s is down", p->device, p->port,
                 n->base.params.job->host);
        say_again(l, bad, why);
        return;
    }
    for (uint64_t seq = l->base.arrived; seq < l->base.released + l->base.slots; seq++) {
        struct rdi_verbs_in *in = &l->in[seq % l->base.slots];
        in->seen = 0;
        in->stripes = 0;
        in->whole = false;
    }
    rondo_status s = build(l, &bad, why, sizeof why);
    if (s != RONDO_OK) {
        rdi_verbs_link_fail(l, true, s, "%s", rondo_last_error());
        return;
    }
    if (bad != 0) {
        say_again(l, bad, why);
        return;
    }
    if (!l->accepted) {
        s = events->accept(events->self, &l->base);
        if (l->gone) {
            return;
        }
        if (s != RONDO_OK) {
            rdi_verbs_link_fail(l, true, s, "%s", rondo_last_error());
            return;
        }
        l->accepted = true;
    }
    l->step = RDI_VERBS_GRANTED;
    rdi_verbs_say_step(l);
}

// Asks the engine for slots in device memory; *slots and *max_msg come with what the transport would take.
static rondo_status ask_for_slots(struct rdi_verbs_link *l, uint32_t *slots, uint32_t *max_msg) {
    const struct rdi_net_events *events = l->base.net->params.events;
    struct rdi_device_slots io = {.slots = *slots, .max_msg = *max_msg};
    if (!rdi_verbs_may_part(l) || events->slots == NULL ||
        !events->slots(events->self, &l->base, &io)) {
        return RONDO_OK;
    }
    if (io.ptr == NULL || io.slots == 0 || io.slots > *slots || io.max_msg == 0 ||
        io.max_msg % 64 != 0 || io.max_msg > RDI_VERBS_MSG_MAX) {
        return rdi_fail(RONDO_ERR_INVALID,
                        "%u slots of %u bytes in device memory at %p, where up to %u of a multiple "
                        "of 64 bytes up to %u can be",
                        io.slots, io.max_msg, io.ptr, *slots, RDI_VERBS_MSG_MAX);
    }
    l->apart = true;
    l->payload = io.ptr;
    *slots = io.slots;
    *max_msg = io.max_msg;
    return RONDO_OK;
}

// The first offer decides what stays for the link's life.
static rondo_status begin(struct rdi_verbs_link *l, const struct rdi_verbs_msg *m) {
    struct rdi_verbs_net *n = rdi_verbs_net_of(l);
    char why[512] = "";
    memcpy(l->host, m->host, sizeof l->host);
    l->peer = m->address;
    l->mode = m->mode;
    l->npairs = rdi_verbs_pairs(&n->self, &l->peer, l->pairs, why, sizeof why);
    if (l->npairs == 0) {
        return rdi_fail(RONDO_ERR_UNSUPPORTED, "verbs: %s", why);
    }
    uint32_t slots = m->slots < n->slots ? m->slots : n->slots;
    uint32_t max_msg = m->max_msg < n->max_msg ? m->max_msg : n->max_msg;
    rondo_status s = ask_for_slots(l, &slots, &max_msg);
    return s == RONDO_OK ? rdi_verbs_link_memory(l, slots, max_msg) : s;
}

void rdi_verbs_take_offer(struct rdi_verbs_link *l, const struct rdi_verbs_msg *m) {
    struct rdi_verbs_net *n = rdi_verbs_net_of(l);
    bool later = m->epoch > l->base.epoch ||
                 (m->epoch == l->base.epoch && m->attempt > l->attempt) || l->memory == NULL;
    bool same = m->epoch == l->base.epoch && m->attempt == l->attempt;
    if (l->base.state == RDI_LINK_CLOSED || l->base.state == RDI_LINK_FAILED) {
        return; // over
    }
    if (!later) {
        // Said again. An AGAIN may have been lost; a grant as well.
        if (same && l->step == RDI_VERBS_GRANTED) {
            rdi_verbs_say_step(l);
        } else if (same && l->step == RDI_VERBS_WAITING && l->base.state == RDI_LINK_CONNECTING) {
            grant(l);
        }
        return;
    }
    l->base.epoch = m->epoch;
    l->attempt = m->attempt;
    if (l->memory == NULL) {
        rondo_status s = begin(l, m);
        if (s != RONDO_OK) {
            rdi_verbs_link_fail(l, true, s, "%s", rondo_last_error());
            return;
        }
    } else if (m->mode != l->mode || m->slots < l->base.slots ||
               (!l->apart && m->max_msg < l->base.max_msg)) {
        char who[128];
        rdi_verbs_link_fail(l, true, RONDO_ERR_INTERNAL,
                            "%s changes a link while it sets it up anew; please report this",
                            rdi_verbs_peer_name(l, who, sizeof who));
        return;
    }
    l->offer = *m;
    uint64_t now = rdi_verbs_now(n);
    l->deadline = now + (l->was_up ? rdi_verbs_receiver_ms(n) : n->connect_ms) * RDI_MS;
    l->retry_at = now + DRAIN_PATIENCE;
    l->step = RDI_VERBS_DRAINING;
    for (unsigned i = 0; i < l->nqps; i++) {
        rdi_verbs_qp_error(&l->qps[i]);
    }
    rdi_verbs_link_state(l, RDI_LINK_CONNECTING);
    if (is_drained(l)) {
        l->retry_at = 0;
        grant(l);
    }
}

void rdi_verbs_grant_tick(struct rdi_verbs_link *l, uint64_t now) {
    struct rdi_verbs_net *n = rdi_verbs_net_of(l);
    if (l->step == RDI_VERBS_DRAINING && (is_drained(l) || now >= l->retry_at)) {
        l->retry_at = 0;
        grant(l);
        return;
    }
    if (now < l->deadline) {
        return;
    }
    if (!l->accepted) {
        rdi_verbs_link_free(l, false);
        return;
    }
    char who[128], why[sizeof l->base.why];
    memcpy(why, l->base.why, sizeof why);
    rdi_verbs_link_fail(l, true, l->heard ? RONDO_ERR_PATH : RONDO_ERR_PEER,
                        "the lost RDMA path from %s did not come back within %u ms, %s%s%s",
                        rdi_verbs_peer_name(l, who, sizeof who), rdi_verbs_receiver_ms(n),
                        l->heard ? "though the process lives" : "and nothing answers there",
                        why[0] != '\0' ? ": " : "", why);
}
