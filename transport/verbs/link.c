// SPDX-License-Identifier: MIT
// A link's life apart from set-up: memory, states, the inner link, and what the engine asks for.
//
//   CONNECTING --READY--> UP --a queue pair fails--> LOST --reset() / OFFER--> CONNECTING
//        \-- gives up --> FAILED <-- gives up, the inner link FAILED --/   UP --BYE--> CLOSED
#include "transport/verbs/verbs.h"

#include "transport/tcp/hello.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

const char *rdi_verbs_peer_name(const struct rdi_verbs_link *l, char *buf, size_t cap) {
    snprintf(buf, cap, "rank %u on host %s", l->base.sender ? l->base.id.to : l->base.id.from,
             l->host[0] != '\0' ? l->host : "?");
    return buf;
}

// ---- Memory and lists ----------------------------------------------------------------------------

struct rdi_verbs_link *rdi_verbs_link_new(struct rdi_verbs_net *n, const struct rdi_link_id *id,
                                          bool sender) {
    struct rdi_verbs_link *l = calloc(1, sizeof *l);
    if (l == NULL) {
        return NULL;
    }
    l->qps = calloc((size_t)RDI_VERBS_LINK_QPS, sizeof *l->qps);
    if (l->qps == NULL) {
        free(l);
        return NULL;
    }
    l->base.ops = n->base.ops;
    l->base.net = &n->base;
    l->base.id = *id;
    l->base.sender = sender;
    l->base.state = RDI_LINK_CONNECTING;
    n->unsettled++;
    l->next = n->links;
    if (l->next != NULL) {
        l->next->prev = l;
    }
    n->links = l;
    return l;
}

static void *map_pages(size_t bytes) {
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return p == MAP_FAILED ? NULL : p;
}

rondo_status rdi_verbs_link_memory(struct rdi_verbs_link *l, uint32_t slots, uint32_t max_msg) {
    uint32_t each = RDI_VERBS_HEAD;
    l->stride = RDI_VERBS_HEADER + (l->apart ? 0 : max_msg);
    if (l->base.sender) {
        l->out = calloc(slots, sizeof *l->out);
    } else {
        l->in = calloc(slots, sizeof *l->in);
        each = l->stride;
    }
    // Words of credit behind: one for each receive of the sender, each send of the receiver.
    l->words = (size_t)slots * each;
    l->bytes = l->words + (slots + 4) * sizeof(uint64_t);
    l->memory = map_pages(l->bytes);
    if (l->memory == NULL || (l->base.sender ? l->out == NULL : l->in == NULL)) {
        return rdi_fail(RONDO_ERR_NOMEM,
                        "no memory for %u slots of %u bytes of a link; lower options slots or "
                        "chunk",
                        slots, max_msg);
    }
    l->base.slots = slots;
    l->base.max_msg = max_msg;
    return RONDO_OK;
}

rondo_status rdi_verbs_link_register(struct rdi_verbs_link *l, unsigned rail) {
    if (l->mr[rail] != NULL) {
        return RONDO_OK; // a link whose registration failed half-way has FAILED
    }
    int access = IBV_ACCESS_LOCAL_WRITE;
    access |= !l->base.sender && l->mode != RDI_VERBS_SEND ? IBV_ACCESS_REMOTE_WRITE : 0;
    struct rdi_verbs_rail *r = &rdi_verbs_net_of(l)->rails[rail];
    if (!l->apart) {
        return rdi_verbs_reg(r, l->memory, l->bytes, access, &l->mr[rail]);
    }
    rondo_status s = rdi_verbs_reg_ordered(r, l->memory, l->bytes, access, &l->mr[rail]);
    if (s == RONDO_OK && !l->base.sender) {
        s = rdi_verbs_reg_device(r, l->payload, (size_t)l->base.slots * l->base.max_msg, access,
                                 &l->payload_mr[rail]);
    }
    return s;
}

static void deregister(struct rdi_verbs_net *n, struct ibv_mr **mr) {
    if (*mr != NULL) {
        n->v->dereg_mr(*mr);
        *mr = NULL;
    }
}

void rdi_verbs_link_drop(struct rdi_verbs_link *l) {
    for (unsigned i = 0; i < l->nqps; i++) {
        rdi_verbs_qp_destroy(&l->qps[i]);
    }
    l->nqps = 0;
    l->npings = 0;
    if (l->broken) {
        l->broken = false;
        rdi_verbs_net_of(l)->nbroken--;
    }
    if (l->out != NULL) {
        rdi_verbs_tx_forget(l);
    }
}

void rdi_verbs_close_inner(struct rdi_verbs_link *l, bool bye) {
    if (l->inner != NULL) {
        struct rdi_link *inner = l->inner;
        l->inner = NULL;
        inner->owner = NULL;
        inner->ops->close_link(inner, bye);
    }
}

void rdi_verbs_link_free(struct rdi_verbs_link *l, bool bye) {
    struct rdi_verbs_net *n = rdi_verbs_net_of(l);
    rdi_verbs_link_drop(l);
    rdi_verbs_close_inner(l, bye);
    rdi_verbs_link_state(l, RDI_LINK_CLOSED);
    n->unsettled -= l->closing;
    *(l->prev != NULL ? &l->prev->next : &n->links) = l->next;
    if (l->next != NULL) {
        l->next->prev = l->prev;
    }
    for (unsigned i = 0; i < n->nrails; i++) {
        deregister(n, &l->mr[i]);
        deregister(n, &l->payload_mr[i]);
        deregister(n, &l->staging_mr[i]);
    }
    if (l->memory != NULL) {
        munmap(l->memory, l->bytes);
    }
    if (l->staging != NULL) {
        munmap(l->staging, (size_t)l->base.slots * l->base.max_msg);
    }
    free(l->in);
    free(l->out);
    l->in = NULL;
    l->out = NULL;
    l->gone = true;
    l->prev = NULL;
    l->next = n->dead_links;
    n->dead_links = l;
}

void rdi_verbs_reap(struct rdi_verbs_net *n) {
    while (n->dead_links != NULL) {
        struct rdi_verbs_link *l = n->dead_links;
        n->dead_links = l->next;
        free(l->qps);
        free(l);
    }
}

// ---- States --------------------------------------------------------------------------------------

bool rdi_verbs_has_timers(enum rdi_link_state s) {
    return s == RDI_LINK_CONNECTING || s == RDI_LINK_LOST;
}

void rdi_verbs_link_state(struct rdi_verbs_link *l, enum rdi_link_state state) {
    struct rdi_verbs_net *n = rdi_verbs_net_of(l);
    n->unsettled -= rdi_verbs_has_timers(l->base.state);
    n->unsettled += rdi_verbs_has_timers(state);
    l->base.state = state;
}

void rdi_verbs_link_up(struct rdi_verbs_link *l) {
    if (l->was_up) {
        char who[128];
        rdi_log(&l->base.net->params.env, RONDO_LOG_INFO,
                "the link to %s is up again (epoch %u, %u of %u pairs of ports, message %llu)",
                rdi_verbs_peer_name(l, who, sizeof who), l->base.epoch, l->nused, l->npairs,
                (unsigned long long)(l->base.sender ? l->base.posted : l->base.arrived));
    }
    l->was_up = true;
    l->step = RDI_VERBS_RUNNING;
    l->base.why[0] = '\0';
    l->reason[0] = '\0';
    l->backoff_ms = 0;
    rdi_verbs_link_state(l, RDI_LINK_UP);
}

void rdi_verbs_link_lost(struct rdi_verbs_link *l, const char *why) {
    struct rdi_verbs_net *n = rdi_verbs_net_of(l);
    if (l->closing) {
        rdi_verbs_link_free(l, true);
        return;
    }
    snprintf(l->base.why, sizeof l->base.why, "%s", why);
    snprintf(l->reason, sizeof l->reason, "%s", why);
    for (unsigned i = 0; i < l->nqps; i++) {
        rdi_verbs_qp_error(&l->qps[i]);
    }
    l->deadline = rdi_verbs_now(n) + rdi_verbs_receiver_ms(n) * RDI_MS;
    l->heard = false;
    l->step = RDI_VERBS_WAITING;
    rdi_verbs_link_state(l, RDI_LINK_LOST);
    rdi_log(&n->base.params.env, RONDO_LOG_INFO, "%s", why);
    rdi_verbs_say_step(l);
}

void rdi_verbs_link_fail(struct rdi_verbs_link *l, bool tell, rondo_status s, const char *fmt,
                         ...) {
    struct rdi_verbs_msg m = {.type = RDI_VERBS_FAIL, .status = s};
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(m.text, sizeof m.text, fmt, ap);
    va_end(ap);
    snprintf(l->base.why, sizeof l->base.why, "%s", m.text);
    l->base.status = s;
    bool told = tell && rdi_verbs_say(l, &m);
    if (l->closing || (!l->base.sender && !l->accepted)) {
        rdi_verbs_link_free(l, told); // nobody else will
        return;
    }
    rdi_verbs_link_drop(l);
    rdi_verbs_close_inner(l, told);
    l->step = RDI_VERBS_WAITING;
    rdi_verbs_link_state(l, RDI_LINK_FAILED);
}

void rdi_verbs_check_bye(struct rdi_verbs_link *l) {
    if (!l->bye || l->base.state == RDI_LINK_CLOSED || l->base.state == RDI_LINK_FAILED) {
        return;
    }
    if (l->base.sender) {
        // What has not arrived is of no interest any more.
        rdi_verbs_link_drop(l);
        rdi_verbs_link_state(l, RDI_LINK_CLOSED);
    } else if (l->base.arrived >= l->bye_at) {
        // The queue pairs stay: the device may still have to repeat an acknowledgement.
        rdi_verbs_link_state(l, RDI_LINK_CLOSED);
    }
}

// ---- What the engine asks for --------------------------------------------------------------------

rondo_status rdi_verbs_op_connect(struct rdi_net *net, const struct rdi_link_id *id,
                                  const void *blob, size_t len, struct rdi_link **out) {
    struct rdi_verbs_net *n = (struct rdi_verbs_net *)net;
    struct rdi_verbs_address peer;
    struct rdi_tcp_blob tcp;
    const uint8_t *inner;
    size_t inner_len;
    char why[512] = "";
    if (!rdi_verbs_blob_read(blob, len, &inner, &inner_len, &peer)) {
        snprintf(why, sizeof why, "rank %u", id->to);
        return rdi_verbs_blob_fail(blob, len, why);
    }
    struct rdi_verbs_link *l = rdi_verbs_link_new(n, id, true);
    if (l == NULL) {
        return rdi_fail(RONDO_ERR_NOMEM, "no memory for a link to rank %u", id->to);
    }
    l->peer = peer;
    l->npairs = rdi_verbs_pairs(&n->self, &peer, l->pairs, why, sizeof why);
    l->deadline = rdi_verbs_now(n) + n->connect_ms * RDI_MS;
    if (rdi_tcp_blob_read(&tcp, inner, inner_len)) {
        memcpy(l->host, tcp.host, sizeof l->host);
    }
    rondo_status s = l->npairs > 0
                         ? n->inner->ops->connect(n->inner, id, inner, inner_len, &l->inner)
                         : rdi_fail(RONDO_ERR_UNSUPPORTED, "verbs: %s", why);
    if (s != RONDO_OK) {
        l->inner = NULL;
        rdi_verbs_link_free(l, false);
        if (n->depth == 0) {
            rdi_verbs_reap(n);
        }
        return s;
    }
    l->inner->owner = l;
    *out = &l->base;
    return RONDO_OK;
}

rondo_status rdi_verbs_op_reset(struct rdi_link *link, uint32_t epoch) {
    struct rdi_verbs_link *l = (struct rdi_verbs_link *)link;
    struct rdi_verbs_net *n = rdi_verbs_net_of(l);
    if (!link->sender || epoch <= link->epoch || !l->was_up || l->inner == NULL) {
        return rdi_fail(RONDO_ERR_USAGE,
                        "reset of a verbs link that cannot be reset (epoch %u to %u)", link->epoch,
                        epoch);
    }
    link->epoch = epoch;
    l->attempt = 0;
    l->backoff_ms = 0;
    l->down = 0;
    l->heard = false;
    l->inner_resets = 0;
    l->quiet_since = rdi_verbs_now(n);
    l->deadline = l->quiet_since + n->grace_ms * RDI_MS;
    rdi_verbs_link_state(l, RDI_LINK_CONNECTING);
    rdi_verbs_offer_start(l);
    return link->state == RDI_LINK_FAILED ? rdi_fail(link->status, "%s", link->why) : RONDO_OK;
}

// Whether what is under way can go on without the engine: all of it lies in memory of the link.
static bool can_linger(const struct rdi_verbs_link *l) {
    for (uint64_t seq = l->base.sent; seq < l->base.posted; seq++) {
        if (l->out[seq % l->base.slots].foreign) {
            return false;
        }
    }
    return l->base.sent < l->base.posted;
}

void rdi_verbs_op_close_link(struct rdi_link *link, bool bye) {
    struct rdi_verbs_link *l = (struct rdi_verbs_link *)link;
    struct rdi_verbs_net *n = rdi_verbs_net_of(l);
    if (bye && link->state == RDI_LINK_UP) {
        struct rdi_verbs_msg m = {.type = RDI_VERBS_BYE,
                                  .posted = link->posted,
                                  .arrived = link->arrived,
                                  .released = link->released};
        rdi_verbs_flush(l);
        rdi_verbs_say(l, &m);
        if (link->sender && !l->broken && can_linger(l)) {
            l->closing = true;
            n->unsettled++;
            l->deadline = rdi_verbs_now(n) + (n->grace_ms + 1000) * RDI_MS;
            return;
        }
    }
    rdi_verbs_link_free(l, bye);
    if (n->depth == 0) {
        rdi_verbs_reap(n);
    }
}

// ", over the decided NICs" where some were.
static const char *whose_rails(const struct rdi_verbs_link *l) {
    static const char *const words[] = {", beside the decided NICs",
                                        ", over one end's decided NICs", ", over the decided NICs",
                                        ", over one end's decided NICs", ", over the decided NICs"};
    return l->npairs > 0 && l->nused > 0 && l->pairs[0].tier > 0 ? words[l->pairs[l->used[0]].tier]
                                                                 : "";
}

void rdi_verbs_op_describe(struct rdi_link *link, char *buf, size_t cap) {
    static const char *const states[] = {"connecting", "up", "lost", "failed", "closed"};
    static const char *const modes[] = {"imm", "split", "send"};
    struct rdi_verbs_link *l = (struct rdi_verbs_link *)link;
    char ends[400] = "no queue pair yet", who[128];
    if (l->nqps > 0) {
        rdi_verbs_ends(l, &l->qps[0], ends, sizeof ends);
    }
    size_t used = strlen(buf);
    if (used >= cap) {
        return;
    }
    int k = snprintf(buf + used, cap - used,
                     "verbs link %s %s, %s (mode %s, epoch %u, %u queue pairs%s%s) %s",
                     link->sender ? "to" : "from", rdi_verbs_peer_name(l, who, sizeof who), ends,
                     modes[l->mode], link->epoch, l->nqps, whose_rails(l),
                     l->apart ? ", into device memory" : "", states[link->state]);
    used = k < 0 || (size_t)k >= cap - used ? cap : used + (size_t)k;
    if (used < cap && link->sender) {
        snprintf(buf + used, cap - used, ": credit %llu posted %llu sent %llu\n",
                 (unsigned long long)link->credit, (unsigned long long)link->posted,
                 (unsigned long long)link->sent);
    } else if (used < cap) {
        snprintf(buf + used, cap - used, ": arrived %llu released %llu told %llu\n",
                 (unsigned long long)link->arrived, (unsigned long long)link->released,
                 (unsigned long long)l->told_released);
    }
}
