// SPDX-License-Identifier: MIT
// Completions and asynchronous events, and what a bad one means.
//
// A bad completion's status is read before anything else, and of the rest only wr_id and vendor_err count. The
// first that is not a flush is the cause; when only flushes are seen (the device took the queue pair down by
// itself) the cause gets a little time to come by another way.
#include "transport/verbs/verbs.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define BATCH 16
#define ROUNDS 8 // batches from one completion queue before others get their turn
#define CAUSE_PATIENCE (20 * RDI_MS)

// ---- What is broken ------------------------------------------------------------------------------

static void note_broken(struct rdi_verbs_qp *q) {
    struct rdi_verbs_link *l = q->link;
    struct rdi_verbs_net *n = rdi_verbs_net_of(l);
    if (!l->broken) {
        l->broken = true;
        l->cause_known = false;
        l->broken_pairs = 0;
        l->cause[0] = '\0';
        l->broken_at = rdi_verbs_now(n);
        n->nbroken++;
    }
    l->broken_pairs |= 1u << rdi_verbs_pair_of(l, q);
}

void rdi_verbs_broken(struct rdi_verbs_qp *q, const char *fmt, ...) {
    struct rdi_verbs_link *l = q->link;
    char what[RDI_VERBS_TEXT], ends[400];
    note_broken(q);
    if (l->cause_known) {
        return;
    }
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(what, sizeof what, fmt, ap);
    va_end(ap);
    snprintf(l->cause, sizeof l->cause, "the path between %s failed: %s",
             rdi_verbs_ends(l, q, ends, sizeof ends), what);
    l->cause_known = true;
}

static void bad_completion(struct rdi_verbs_qp *q, const struct ibv_wc *wc) {
    if (q->error) {
        return; // our own doing
    }
    if (wc->status == IBV_WC_WR_FLUSH_ERR) {
        note_broken(q);
        return;
    }
    rdi_verbs_broken(q, "%s (status %d, vendor error 0x%x); %s", rdi_verbs_status_text(wc->status),
                     (int)wc->status, wc->vendor_err, rdi_verbs_status_remedy(wc->status));
}

// Nothing but flushes: the port may tell.
static void guess_cause(struct rdi_verbs_link *l) {
    struct rdi_verbs_net *n = rdi_verbs_net_of(l);
    for (unsigned i = 0; i < l->nqps; i++) {
        struct rdi_verbs_qp *q = &l->qps[i];
        if (q->qp != NULL && l->broken_pairs & 1u << rdi_verbs_pair_of(l, q)) {
            rdi_verbs_broken(q, "%s; %s", rdi_verbs_status_text(IBV_WC_WR_FLUSH_ERR),
                             n->rails[q->rail].down ? "the port is down"
                                                    : "the device did not tell the cause");
            return;
        }
    }
}

static void mend_link(struct rdi_verbs_link *l) {
    char why[RDI_VERBS_TEXT];
    memcpy(why, l->cause, sizeof why);
    if (l->base.state == RDI_LINK_UP) {
        rdi_verbs_link_lost(l, why);
    } else if (l->base.state == RDI_LINK_CONNECTING && l->base.sender) {
        rdi_verbs_offer_failed(l, l->broken_pairs, why);
    } else if (l->base.state == RDI_LINK_CONNECTING && l->step == RDI_VERBS_GRANTED) {
        rdi_verbs_link_lost(l, why);
    }
}

int rdi_verbs_mend(struct rdi_verbs_net *n) {
    int moved = 0;
    // The peer's last words may explain it, or say that all is well.
    n->inner->ops->progress(n->inner, false);
    rdi_verbs_async(n);
    uint64_t now = rdi_verbs_now(n);
    for (struct rdi_verbs_link *l = n->links, *next; l != NULL; l = next) {
        next = l->next;
        if (!l->broken) {
            continue;
        }
        if (!l->cause_known && now - l->broken_at < CAUSE_PATIENCE) {
            continue;
        }
        if (!l->cause_known) {
            guess_cause(l);
        }
        l->broken = false;
        n->nbroken--;
        mend_link(l);
        moved++;
    }
    return moved;
}

// ---- Completions ---------------------------------------------------------------------------------

static void complete(struct rdi_verbs_net *n, unsigned rail, const struct ibv_wc *wc) {
    struct rdi_verbs_qp *q = rdi_verbs_qp_find(n, rail, wc->qp_num);
    if (q == NULL || (wc->wr_id >> 32 & 0x7fffffff) != q->generation) {
        return; // destroyed meanwhile
    }
    bool receive = wc->wr_id & RDI_VERBS_RECV;
    q->rq_left -= receive;
    if (wc->status != IBV_WC_SUCCESS) {
        bad_completion(q, wc);
    } else if (!receive) {
        rdi_verbs_qp_retire(q, (uint32_t)wc->wr_id);
    } else if (q->link->base.sender) {
        rdi_verbs_take_credit(q, wc);
    } else {
        rdi_verbs_rx(q, wc);
    }
}

static void all_broken(struct rdi_verbs_net *n, unsigned rail, const char *why) {
    for (struct rdi_verbs_link *l = n->links; l != NULL; l = l->next) {
        for (unsigned i = 0; i < l->nqps; i++) {
            struct rdi_verbs_qp *q = &l->qps[i];
            if (q->qp != NULL && !q->error && q->rail == rail) {
                rdi_verbs_broken(q, "%s", why);
            }
        }
    }
}

static int poll_rail(struct rdi_verbs_net *n, unsigned rail) {
    struct ibv_wc wc[BATCH];
    int total = 0;
    for (int round = 0; round < ROUNDS; round++) {
        int k = ibv_poll_cq(n->rails[rail].cq, BATCH, wc);
        if (k < 0) {
            if (!n->dead[rail]) {
                n->dead[rail] = true;
                all_broken(n, rail, "its completion queue cannot be read any more");
            }
            break;
        }
        for (int i = 0; i < k; i++) {
            complete(n, rail, &wc[i]);
        }
        total += k;
        if (k < BATCH) {
            break;
        }
    }
    return total;
}

int rdi_verbs_poll(struct rdi_verbs_net *n) {
    int moved = 0;
    for (unsigned i = 0; i < n->nrails; i++) {
        if (!n->dead[i]) {
            moved += poll_rail(n, i);
        }
    }
    return moved;
}

// ---- Events --------------------------------------------------------------------------------------

struct qp_event {
    struct rdi_verbs_net *net;
    unsigned rail;
};

static void on_qp_event(void *self, struct ibv_qp *qp, enum ibv_event_type type) {
    const struct qp_event *e = self;
    struct rdi_verbs_qp *q = rdi_verbs_qp_find(e->net, e->rail, qp->qp_num);
    if (q == NULL || q->error) {
        return;
    }
    switch (type) {
    case IBV_EVENT_QP_FATAL:
        rdi_verbs_broken(q, "the device stopped the queue pair by a fatal error");
        break;
    case IBV_EVENT_QP_REQ_ERR:
        rdi_verbs_broken(q, "the device stopped the queue pair by an invalid request");
        break;
    case IBV_EVENT_QP_ACCESS_ERR:
        rdi_verbs_broken(q, "the peer wrote where it may not");
        break;
    case IBV_EVENT_PATH_MIG_ERR:
        rdi_verbs_broken(q, "the device could not migrate the path");
        break;
    default:
        break;
    }
}

int rdi_verbs_async(struct rdi_verbs_net *n) {
    int events = 0;
    for (unsigned i = 0; i < n->nrails; i++) {
        struct rdi_verbs_rail *r = &n->rails[i];
        struct qp_event e = {.net = n, .rail = i};
        char why[256] = "";
        bool fatal = false, was_down = r->down;
        int k =
            rdi_verbs_rail_async(r, &n->base.params.env, &fatal, why, sizeof why, on_qp_event, &e);
        events += k > 0 ? k : 0;
        if (fatal && !n->dead[i]) {
            n->dead[i] = true;
            all_broken(n, i, why);
        } else if (r->down && !was_down) {
            all_broken(n, i, "the port is down");
        }
    }
    return events;
}

void rdi_verbs_drain_channels(struct rdi_verbs_net *n) {
    for (unsigned i = 0; i < n->nrails; i++) {
        struct rdi_verbs_rail *r = &n->rails[i];
        struct ibv_cq *cq;
        void *context;
        while (n->v->get_cq_event(r->channel, &cq, &context) == 0) {
            // Acknowledging takes a lock, so many are done at once; the rest at the end.
            if (++r->events >= 64) {
                n->v->ack_cq_events(r->cq, r->events);
                r->events = 0;
            }
        }
    }
}
