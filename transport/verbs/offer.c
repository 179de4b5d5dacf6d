// SPDX-License-Identifier: MIT
// Set-up, the sender's side: attempts, proof that they work, ways that are left out.
//
//   WAITING --inner link up--> OFFERED --GRANT--> PINGING --all completed--> RUNNING
//      ^                          |                  |
//      +------ next attempt <-----+------------------+   a way failed: without it, later with all again
#include "transport/verbs/verbs.h"

#include <stdio.h>
#include <string.h>

#define BACKOFF_MIN 10 // ms between attempts with the same pairs of ports, doubled each time
#define BACKOFF_MAX 200
#define INNER_PATIENCE (2000 * RDI_MS)
#define SILENCE (500 * RDI_MS) // of a peer whose path is lost, the first time

// ---- Attempts ------------------------------------------------------------------------------------

// Pairs are sorted by tier: the first that is usable says which tier it is.
static void choose_pairs(struct rdi_verbs_link *l) {
    struct rdi_verbs_net *n = rdi_verbs_net_of(l);
    bool alive = false;
    l->nused = 0;
    for (unsigned i = 0; i < l->npairs; i++) {
        unsigned rail = l->pairs[i].mine;
        bool usable = !n->dead[rail] && !n->rails[rail].down;
        alive = alive || !n->dead[rail];
        bool tier = l->nused == 0 || l->pairs[i].tier == l->pairs[l->used[0]].tier;
        if (usable && tier && !(l->down & 1u << i)) {
            l->mtu[l->nused] = l->pairs[i].mtu < n->mtu ? l->pairs[i].mtu : (uint8_t)n->mtu;
            l->used[l->nused++] = (uint8_t)i;
        }
    }
    if (!alive) {
        char who[128];
        rdi_verbs_link_fail(l, true, RONDO_ERR_PATH,
                            "no RDMA device is left to reach %s: %s; restart the job, or use "
                            "option transport=tcp",
                            rdi_verbs_peer_name(l, who, sizeof who),
                            l->reason[0] != '\0' ? l->reason : "they were removed");
    }
}

static void choose_mode(struct rdi_verbs_link *l) {
    const struct rdi_verbs_net *n = rdi_verbs_net_of(l);
    if (l->was_up) {
        return; // slots are posted or registered for it
    }
    l->mode = n->mode;
    for (unsigned i = 0; i < l->npairs && n->mode_auto; i++) {
        if (!l->pairs[i].immediates) {
            l->mode = RDI_VERBS_SEND;
        }
    }
}

static void wait_for_next(struct rdi_verbs_link *l) {
    l->backoff_ms = l->backoff_ms == 0 ? BACKOFF_MIN : 2 * l->backoff_ms;
    l->backoff_ms = l->backoff_ms > BACKOFF_MAX ? BACKOFF_MAX : l->backoff_ms;
    l->retry_at = rdi_verbs_now(rdi_verbs_net_of(l)) + l->backoff_ms * RDI_MS;
    l->step = RDI_VERBS_WAITING;
}

void rdi_verbs_offer_start(struct rdi_verbs_link *l) {
    rdi_verbs_link_drop(l);
    l->attempt++;
    l->retry_at = 0;
    choose_mode(l);
    choose_pairs(l);
    if (l->base.state == RDI_LINK_FAILED) {
        return;
    }
    if (l->nused == 0) {
        if (l->reason[0] == '\0') {
            snprintf(l->reason, sizeof l->reason, "no port is active");
        }
        l->down = 0;
        wait_for_next(l);
        return;
    }
    l->nqps = l->nused * rdi_verbs_net_of(l)->qps;
    for (unsigned i = 0; i < l->nqps; i++) {
        rondo_status s = rdi_verbs_qp_make(l, i);
        if (s == RONDO_ERR_SYSTEM) { // this device; others may do better
            rdi_verbs_offer_failed(l, 1u << l->used[i % l->nused], rondo_last_error());
            return;
        }
        if (s != RONDO_OK) {
            rdi_verbs_link_fail(l, true, s, "%s", rondo_last_error());
            return;
        }
    }
    l->step = RDI_VERBS_OFFERED;
    rdi_verbs_say_step(l);
}

void rdi_verbs_offer_failed(struct rdi_verbs_link *l, unsigned pairs, const char *reason) {
    rdi_log(&l->base.net->params.env, RONDO_LOG_INFO, "%s", reason);
    snprintf(l->reason, sizeof l->reason, "%s", reason);
    rdi_verbs_link_drop(l);
    unsigned all = (1u << l->npairs) - 1;
    if (pairs != 0 && (l->down | pairs) != all) {
        l->down |= pairs;
        rdi_verbs_offer_start(l);
        return;
    }
    // None is left: all get another chance.
    l->down = 0;
    wait_for_next(l);
}

static void give_up(struct rdi_verbs_link *l) {
    struct rdi_verbs_net *n = rdi_verbs_net_of(l);
    char who[128], why[RDI_VERBS_TEXT];
    snprintf(why, sizeof why, "%s", l->reason[0] != '\0' ? l->reason : "it gave no answer");
    rdi_verbs_peer_name(l, who, sizeof who);
    if (l->was_up && !l->heard) {
        // That the inner link is up says nothing: it takes long to notice a silent host.
        rdi_verbs_link_fail(l, true, RONDO_ERR_PEER,
                            "the lost RDMA path to %s did not come back within %u ms, and nothing "
                            "answers there; the process, its host or the network to it is gone: %s",
                            who, n->grace_ms, why);
    } else if (l->was_up) {
        rdi_verbs_link_fail(l, true, RONDO_ERR_PATH,
                            "the RDMA path to %s, which lives, did not come back within %u ms: %s",
                            who, n->grace_ms, why);
    } else {
        rdi_verbs_link_fail(l, true, RONDO_ERR_PATH, "no RDMA path to %s within %u ms: %s", who,
                            n->connect_ms, why);
    }
}

// ---- Answers -------------------------------------------------------------------------------------

static const char *check_grant(const struct rdi_verbs_link *l, const struct rdi_verbs_msg *m) {
    const struct rdi_verbs_net *n = rdi_verbs_net_of(l);
    const struct rdi_link *b = &l->base;
    if (m->mode != l->mode || m->npairs != l->nused || m->nqps != l->nqps) {
        return "other queue pairs than were offered";
    }
    for (unsigned i = 0; i < l->nused; i++) {
        const struct rdi_verbs_pair *p = &l->pairs[l->used[i]];
        if (m->pairs[i].from != p->mine || m->pairs[i].to != p->theirs ||
            m->pairs[i].mtu > l->mtu[i]) {
            return "other pairs of ports than were offered";
        }
    }
    if (m->apart && !rdi_verbs_may_part(l)) {
        return "slots in device memory, which were not asked for";
    }
    if (l->memory != NULL && m->apart != l->apart) {
        return "slots in other memory than before";
    }
    if (!l->was_up) {
        bool larger = m->slots > n->slots || (!m->apart && m->max_msg > n->max_msg);
        return larger || m->arrived != 0 ? "more slots than were offered" : NULL;
    }
    if (m->slots != b->slots || m->max_msg != b->max_msg || m->arrived > b->posted ||
        m->arrived < b->sent || m->released + b->slots < b->credit) {
        return "numbers that do not fit what was sent";
    }
    return NULL;
}

static rondo_status prepare_memory(struct rdi_verbs_link *l, const struct rdi_verbs_msg *m) {
    if (l->memory == NULL) {
        l->apart = m->apart;
        rondo_status s = rdi_verbs_link_memory(l, m->slots, m->max_msg);
        if (s != RONDO_OK) {
            return s;
        }
    }
    for (unsigned i = 0; i < l->nused; i++) {
        rondo_status s = rdi_verbs_link_register(l, l->pairs[l->used[i]].mine);
        if (s != RONDO_OK) {
            return s;
        }
    }
    return RONDO_OK;
}

// Connects all queue pairs and asks each for proof. 0, or the bit of the pair of ports that failed.
static unsigned connect_all(struct rdi_verbs_link *l, char *why, size_t cap) {
    for (unsigned i = 0; i < l->nqps; i++) {
        struct rdi_verbs_qp *q = &l->qps[i];
        const char *what = "";
        char ends[400];
        int err = rdi_verbs_qp_connect(q, &what);
        if (err == 0) {
            what = "filled";
            err = rdi_verbs_rx_fill(q);
        }
        if (err == 0) {
            what = "used";
            err = rdi_verbs_ping(q);
        }
        if (err != 0) {
            snprintf(why, cap, "the queue pair between %s cannot be %s: %s",
                     rdi_verbs_ends(l, q, ends, sizeof ends), what, strerrordesc_np(err));
            return 1u << rdi_verbs_pair_of(l, q);
        }
    }
    return 0;
}

void rdi_verbs_take_grant(struct rdi_verbs_link *l, const struct rdi_verbs_msg *m) {
    struct rdi_verbs_net *n = rdi_verbs_net_of(l);
    char who[128], why[RDI_VERBS_TEXT];
    if (l->step != RDI_VERBS_OFFERED) {
        return; // it was said twice
    }
    const char *wrong = check_grant(l, m);
    if (wrong != NULL) {
        rdi_verbs_link_fail(l, true, RONDO_ERR_INTERNAL, "%s grants %s; please report this",
                            rdi_verbs_peer_name(l, who, sizeof who), wrong);
        return;
    }
    rondo_status s = prepare_memory(l, m);
    if (s != RONDO_OK) {
        rdi_verbs_link_fail(l, true, s, "%s", rondo_last_error());
        return;
    }
    l->remote = m->base;
    l->remote_payload = m->payload;
    l->granted_arrived = m->arrived;
    l->granted_released = m->released;
    l->period = l->base.slots / (4 * l->nqps);
    l->period = l->period < 1 || l->mode == RDI_VERBS_SEND ? 1 : l->period;
    for (unsigned i = 0; i < l->nused; i++) {
        l->rkey[i] = m->pairs[i].rkey;
        l->payload_rkey[i] = m->pairs[i].payload_rkey;
        l->mtu[i] = m->pairs[i].mtu;
    }
    for (unsigned i = 0; i < l->nqps; i++) {
        l->qps[i].peer_qpn = m->qps[i].qpn;
        l->qps[i].peer_psn = m->qps[i].psn;
    }
    l->npings = l->nqps;
    l->step = RDI_VERBS_PINGING;
    // The device gives up by itself; it may take up to four times as long as it was told.
    l->ping_until = rdi_verbs_now(n) +
                    (4 * rdi_verbs_giveup_ms(n->timeout, n->retries) + 1000) * RDI_MS;
    unsigned bad = connect_all(l, why, sizeof why);
    if (bad != 0) {
        rdi_verbs_offer_failed(l, bad, why);
    }
}

void rdi_verbs_pinged(struct rdi_verbs_link *l) {
    struct rdi_link *b = &l->base;
    if (l->step != RDI_VERBS_PINGING || --l->npings > 0) {
        return;
    }
    b->posted = b->sent = l->granted_arrived;
    b->credit = l->granted_released + b->slots;
    rdi_verbs_link_up(l);
    rdi_verbs_say_step(l);
}

// ---- Time ----------------------------------------------------------------------------------------

static void ping_timeout(struct rdi_verbs_link *l) {
    unsigned bad = 0;
    char why[RDI_VERBS_TEXT] = "", ends[400];
    for (unsigned i = 0; i < l->nqps; i++) {
        struct rdi_verbs_qp *q = &l->qps[i];
        if (q->sq_head == q->sq_tail) {
            continue;
        }
        if (bad == 0) {
            snprintf(why, sizeof why, "the path between %s failed: no completion came",
                     rdi_verbs_ends(l, q, ends, sizeof ends));
        }
        bad |= 1u << rdi_verbs_pair_of(l, q);
    }
    rdi_verbs_offer_failed(l, bad, why);
}

// When the inner link is made anew. While the network is away, it waits longer and longer between its attempts
// and would notice the return late. A peer that is only busy is disturbed less and less often.
static uint64_t silent_at(const struct rdi_verbs_link *l) {
    bool waits = l->base.state == RDI_LINK_CONNECTING && l->was_up && l->inner_up &&
                 (l->step == RDI_VERBS_OFFERED || l->step == RDI_VERBS_WAITING);
    unsigned shift = l->inner_resets < 3 ? l->inner_resets : 3;
    return waits && l->base.sender ? l->quiet_since + (SILENCE << shift) : UINT64_MAX;
}

uint64_t rdi_verbs_offer_next(const struct rdi_verbs_link *l) {
    uint64_t at = silent_at(l);
    at = l->deadline < at ? l->deadline : at;
    at = l->retry_at != 0 && l->retry_at < at ? l->retry_at : at;
    return l->step == RDI_VERBS_PINGING && l->ping_until < at ? l->ping_until : at;
}

void rdi_verbs_offer_tick(struct rdi_verbs_link *l, uint64_t now) {
    if (l->base.state != RDI_LINK_CONNECTING) {
        return;
    }
    // When the inner link does not come up at first, its own words tell more.
    if (now >= l->deadline + (l->inner_up || l->was_up ? 0 : INNER_PATIENCE)) {
        give_up(l);
    } else if (now >= silent_at(l)) {
        l->inner_resets++;
        l->inner_up = false;
        // Errors show as its state.
        (void)l->inner->ops->reset(l->inner, l->inner->epoch + 1);
    } else if (l->step == RDI_VERBS_PINGING && now >= l->ping_until) {
        ping_timeout(l);
    } else if (l->step == RDI_VERBS_WAITING && l->inner_up && now >= l->retry_at) {
        rdi_verbs_offer_start(l);
    }
}
