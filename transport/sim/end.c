// SPDX-License-Identifier: MIT
// The ends of simulated links: the functions that the engine calls on a link, and the checks that it keeps
// to the contract.
#include "transport/sim/world.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DEFAULT_CHUNK 65536

static struct sim_end *end_of(struct rdi_link *link) { return (struct sim_end *)link; }

static struct rdi_sim *world_of(const struct sim_end *e) { return e->node->sim; }

// ---- Life ----------------------------------------------------------------------------------------

void sim_end_dirty(struct sim_end *e) {
    struct rdi_sim_node *n = e->node;
    sim_turn(n);
    if (e->dirty || e->gone) {
        return;
    }
    e->dirty = true;
    e->next_dirty = NULL;
    if (n->dirty_tail) {
        n->dirty_tail->next_dirty = e;
    } else {
        n->dirty_head = e;
    }
    n->dirty_tail = e;
}

struct sim_end *sim_end_new(struct rdi_sim_node *n, struct sim_wire *w, bool sender) {
    struct sim_end *e = sim_alloc(n->sim, sizeof *e);
    e->base.ops = &rdi_sim_ops;
    e->base.net = &n->net->base;
    e->base.id = w->id;
    e->base.sender = sender;
    e->base.state = RDI_LINK_CONNECTING;
    e->wire = w;
    w->refs++;
    e->node = n;
    e->next = n->ends;
    if (n->ends) {
        n->ends->prev = e;
    }
    n->ends = e;
    n->sim->stats.links++;
    return e;
}

void sim_end_open_slots(struct sim_end *e) {
    struct rdi_sim *s = world_of(e);
    e->base.slots = e->wire->slots;
    e->base.max_msg = e->wire->max_msg;
    if (s->config.per_host) {
        e->kept = sim_alloc(s, e->base.slots * sizeof *e->kept);
        return;
    }
    e->slot = sim_alloc(s, e->base.slots * sizeof *e->slot);
    e->memory = sim_alloc(s, (size_t)e->base.slots * e->base.max_msg);
}

void sim_end_free(struct sim_end *e) {
    for (uint64_t q = e->base.released; e->kept && q < e->base.arrived; q++) {
        sim_message_free(world_of(e), e->kept[q % e->base.slots]);
    }
    free(e->kept);
    for (struct sim_message *m; (m = sim_pop(&e->here));) {
        sim_message_free(world_of(e), m);
    }
    while (e->ctrl_head) {
        struct sim_ctrl *c = e->ctrl_head;
        e->ctrl_head = c->next;
        free(c);
    }
    sim_wire_unref(e->wire);
    free(e->ending);
    free(e->slot);
    free(e->memory);
    free(e);
}

void sim_end_fail(struct sim_end *e, rondo_status s, const char *why) {
    e->base.state = RDI_LINK_FAILED;
    e->base.status = s;
    snprintf(e->base.why, sizeof e->base.why, "%s", why);
    sim_trace(world_of(e), "rank %d: link fails: %s", e->node->rank, why);
}

void sim_end_discard(struct sim_end *e) {
    struct rdi_sim_node *n = e->node;
    if (e->prev) {
        e->prev->next = e->next;
    } else {
        n->ends = e->next;
    }
    if (e->next) {
        e->next->prev = e->prev;
    }
    n->sim->stats.links--;
    e->gone = true;
    if (n->net->in_progress || e->dirty) {
        e->next = n->graves;
        n->graves = e;
        sim_turn(n);
    } else {
        sim_end_free(e);
    }
}

static uint64_t max64(uint64_t a, uint64_t b) { return a > b ? a : b; }

// In a real transport the two ends propose; what they agree on may differ from link to link.
static void agree(struct rdi_sim *s, struct sim_wire *w, const struct rdi_options *o) {
    w->slots = (uint32_t)o->num[RDI_OPT_SLOTS];
    w->max_msg = o->num[RDI_OPT_CHUNK] ? (uint32_t)o->num[RDI_OPT_CHUNK] : DEFAULT_CHUNK;
    if (s->config.uneven) {
        w->slots = 2 + (uint32_t)sim_below(s, w->slots - 1);
        w->max_msg = 64 * (1 + (uint32_t)sim_below(s, w->max_msg / 64));
    }
}

rondo_status sim_op_connect(struct rdi_net *net, const struct rdi_link_id *id, const void *blob,
                            size_t len, struct rdi_link **out) {
    rondo_status st = net->ops->reach(net, blob, len);
    if (st != RONDO_OK) {
        return st;
    }
    struct sim_net *n = (struct sim_net *)net;
    struct rdi_sim *s = n->node->sim;
    uint32_t rank;
    memcpy(&rank, (const uint8_t *)blob + 4, 4);
    struct sim_wire *w = sim_alloc(s, sizeof *w);
    w->sim = s;
    w->from = n->node;
    w->to = &s->nodes[rank];
    w->id = *id;
    w->prompt = net->params.prompt;
    w->by_reference = !s->config.per_host && sim_chance(s, 300);
    w->latency_ns = s->config.latency_ns / 2 + sim_below(s, s->config.latency_ns);
    agree(s, w, net->params.options);
    w->connect_until = s->now +
                       (uint64_t)net->params.options->num[RDI_OPT_CONNECT_TIMEOUT] * 1000000;
    w->patience_until = s->now + UINT64_C(3000000000);
    w->sender = sim_end_new(n->node, w, true);
    sim_wire_send(w, SIM_CONNECT, false, sim_travel(w), 0, 0, NULL);
    *out = &w->sender->base;
    return RONDO_OK;
}

void sim_op_close_link(struct rdi_link *link, bool bye) {
    struct sim_end *e = end_of(link);
    struct sim_wire *w = e->wire;
    struct rdi_sim *s = world_of(e);
    if (e->gone) {
        sim_broken(s, link, "no use of a link after close_link()");
    }
    sim_trace(s, "rank %d closes its end of %u -> %u channel %u%s", e->node->rank, w->id.from,
              w->id.to, w->id.channel, bye ? ", good-bye" : "");
    char why[128];
    snprintf(why, sizeof why, "rank %d closed the link from rank %u to rank %u", e->node->rank,
             w->id.from, w->id.to);
    uint64_t at = sim_travel(w);
    if (link->sender) {
        w->sender = NULL;
        if (!e->node->dead) {
            // Nothing of ours may be read from now on.
            for (struct sim_message *m = w->under_way.head; m; m = m->next) {
                w->sender = e;
                sim_message_fetch(w, m);
                w->sender = NULL;
            }
            at = max64(at, max64(w->last_arrival, w->last_ctrl[0]));
            sim_wire_end(w, false, at, bye, 0, RONDO_ERR_PEER, why);
        }
    } else {
        w->receiver = NULL;
        for (struct sim_message *m = w->under_way.head; m; m = m->next) {
            m->landing = NULL;
        }
        if (!e->node->dead) {
            at = max64(at, max64(w->last_back, w->last_ctrl[1]));
            sim_wire_end(w, true, at, bye, link->arrived, RONDO_ERR_PEER, why);
        }
    }
    sim_end_discard(e);
}

// ---- Sender --------------------------------------------------------------------------------------

static rondo_status not_up(const struct rdi_link *link) {
    switch (link->state) {
    case RDI_LINK_CONNECTING:
        return RONDO_AGAIN;
    case RDI_LINK_LOST:
        return rdi_fail(RONDO_ERR_PATH, "%s", link->why);
    case RDI_LINK_CLOSED:
        return rdi_fail(RONDO_ERR_PEER, "the peer closed the link");
    default:
        return rdi_fail(link->status, "%s", link->why);
    }
}

static rondo_status again(struct sim_end *e) {
    // The engine will be asked to try again, as it would by a descriptor that gets writable.
    sim_poke_at(e->node, world_of(e)->now + 100 + sim_below(world_of(e), 20000));
    return RONDO_AGAIN;
}

rondo_status sim_op_put(struct rdi_link *link, const struct rdi_put *put) {
    struct sim_end *e = end_of(link);
    struct sim_wire *w = e->wire;
    struct rdi_sim *s = world_of(e);
    if (e->gone || !link->sender) {
        sim_broken(s, link, "put() is for the open sender's end");
    }
    if (link->state != RDI_LINK_UP) {
        return not_up(link);
    }
    if (link->posted >= link->credit) {
        sim_broken(s, link, "put() needs credit");
    }
    if (put->len > link->max_msg || (put->len && !put->data)) {
        sim_broken(s, link, "put() takes up to max_msg bytes");
    }
    if (sim_chance(s, s->config.again)) {
        return again(e);
    }
    struct sim_message *m = sim_message_new(s);
    m->source = put->data;
    m->len = put->len;
    m->flags = put->flags;
    m->tag = put->tag;
    m->has_sig = put->sig != NULL;
    if (put->sig) {
        memcpy(m->sig, put->sig, sizeof m->sig);
    }
    m->sum = s->config.per_host ? 0 : sim_sum(put->data, put->len);
    if (s->config.empty) {
        m->source = NULL;
    } else if (s->config.per_host || sim_chance(s, s->config.early)) {
        sim_message_room(s, m);
        memcpy(m->bytes, put->data, m->len);
    }
    sim_trace(s, "rank %d puts %u -> %u channel %u no. %llu, %u bytes, tag %llx%s", e->node->rank,
              w->id.from, w->id.to, w->id.channel, (unsigned long long)link->posted, put->len,
              (unsigned long long)put->tag, w->down ? " (into a lost path)" : "");
    link->posted++;
    s->stats.messages++;
    link->net->messages_sent++;
    link->net->bytes_sent += put->len;
    if (w->down) {
        sim_message_free(s, m);
        return RONDO_OK;
    }
    uint64_t at;
    if (s->config.per_host) {
        at = max64(w->last_arrival, sim_cost_put(w, put->len));
    } else {
        uint64_t start = max64(s->now, e->node->tx_free);
        e->node->tx_free = start + put->len * UINT64_C(1000000000) / s->config.bytes_per_s;
        at = max64(w->last_arrival, sim_travel(w) + e->node->tx_free - s->now);
    }
    w->last_arrival = at;
    sim_push(&w->under_way, m);
    sim_wire_send(w, SIM_ARRIVE, false, at, 0, 0, NULL);
    return RONDO_OK;
}

rondo_status sim_op_reset(struct rdi_link *link, uint32_t epoch) {
    struct sim_end *e = end_of(link);
    struct rdi_sim *s = world_of(e);
    if (e->gone || !link->sender || link->state != RDI_LINK_LOST) {
        sim_broken(s, link, "reset() is for a lost sender's end");
    }
    if (epoch != link->epoch + 1) {
        sim_broken(s, link, "reset() goes to the next epoch");
    }
    sim_trace(s, "rank %d resets %u -> %u channel %u to epoch %u", e->node->rank, link->id.from,
              link->id.to, link->id.channel, epoch);
    link->epoch = epoch;
    link->state = RDI_LINK_CONNECTING;
    sim_wire_send(e->wire, SIM_RESET, false, sim_travel(e->wire), 0, 0, NULL);
    return RONDO_OK;
}

// ---- Receiver ------------------------------------------------------------------------------------

void sim_op_peek(struct rdi_link *link, uint64_t seq, struct rdi_msg *out) {
    struct sim_end *e = end_of(link);
    if (e->gone || link->sender || seq < link->released || seq >= link->arrived) {
        sim_broken(world_of(e), link, "peek() looks at released <= seq < arrived");
    }
    if (e->kept) {
        const struct sim_message *m = e->kept[seq % link->slots];
        *out = (struct rdi_msg){.data = m->bytes ? m->bytes : m->small,
                                .len = m->len,
                                .tag = m->tag,
                                .sig = m->has_sig ? m->sig : NULL};
        return;
    }
    const struct sim_slot *slot = &e->slot[seq % link->slots];
    *out = (struct rdi_msg){.data = slot->data,
                            .len = slot->len,
                            .tag = slot->tag,
                            .sig = slot->has_sig ? slot->sig : NULL};
}

void sim_op_release(struct rdi_link *link, uint64_t upto) {
    struct sim_end *e = end_of(link);
    if (e->gone || link->sender || upto <= link->released || upto > link->arrived) {
        sim_broken(world_of(e), link, "release() needs released < upto <= arrived");
    }
    // The sender may write these slots from now on, so what is in them is worth nothing.
    for (; link->released < upto; link->released++) {
        uint64_t i = link->released % link->slots;
        if (e->kept) {
            sim_message_free(world_of(e), e->kept[i]);
            continue;
        }
        e->ack_due |= e->slot[i].in_place;
        memset(e->memory + i * link->max_msg, 0xdd, link->max_msg);
        memset(&e->slot[i], 0xdd, sizeof e->slot[i]);
    }
    sim_end_tell(e, false);
}

// What the sender may change: everything before the first message that is still read at its place.
static uint64_t first_in_place(const struct sim_end *e) {
    uint64_t q = e->base.released;
    while (q < e->base.arrived && !e->slot[q % e->base.slots].in_place) {
        q++;
    }
    return q;
}

void sim_end_tell(struct sim_end *e, bool force) {
    struct sim_wire *w = e->wire;
    struct rdi_sim *s = world_of(e);
    struct rdi_link *l = &e->base;
    if (l->sender || l->state != RDI_LINK_UP || e->gone ||
        (e->told_arrived == l->arrived && e->told_released == l->released)) {
        return;
    }
    // In a described cluster what was told is free and comes early enough when half of the slots are.
    force = force && !s->config.per_host;
    bool due = e->ack_due || 2 * (l->released - e->told_released) >= l->slots;
    if (!force && !due && (s->config.per_host || sim_chance(s, s->config.lazy))) {
        return;
    }
    e->ack_due = false;
    e->told_arrived = l->arrived;
    e->told_released = l->released;
    if (w->down) {
        return;
    }
    if (e->kept) {
        w->last_back = max64(w->last_back, sim_travel(w));
        sim_wire_send(w, SIM_BACK, true, w->last_back, l->arrived, l->released, NULL);
        return;
    }
    // One may come much later than the other, and they may overtake each other.
    uint64_t sent = sim_travel(w), credit = sim_travel(w);
    sim_wire_send(w, SIM_SENT, true, sent, first_in_place(e), 0, NULL);
    sim_wire_send(w, SIM_CREDIT, true, credit, l->released, 0, NULL);
    w->last_back = max64(w->last_back, max64(sent, credit));
}

// ---- Both ----------------------------------------------------------------------------------------

rondo_status sim_op_ctrl(struct rdi_link *link, unsigned type, const void *msg, size_t len) {
    struct sim_end *e = end_of(link);
    struct sim_wire *w = e->wire;
    struct rdi_sim *s = world_of(e);
    if (e->gone || len > RDI_CTRL_MAX) {
        sim_broken(s, link, "ctrl() takes up to RDI_CTRL_MAX bytes on an open link");
    }
    if (link->state == RDI_LINK_LOST) {
        return RONDO_AGAIN;
    }
    if (link->state != RDI_LINK_UP) {
        return not_up(link);
    }
    if (sim_chance(s, s->config.again)) {
        return again(e);
    }
    sim_trace(s, "rank %d sends control message %u on %u -> %u channel %u", e->node->rank, type,
              link->id.from, link->id.to, link->id.channel);
    w->said[link->sender]++;
    if (w->down) {
        return RONDO_OK;
    }
    struct sim_ctrl *c = sim_alloc(s, sizeof *c + len);
    c->type = type;
    c->len = len;
    memcpy(c->bytes, msg, len);
    uint64_t *last = &w->last_ctrl[!link->sender];
    *last = max64(*last, sim_travel(w));
    sim_wire_send(w, SIM_CTRL, !link->sender, *last, 0, 0, c);
    return RONDO_OK;
}

bool sim_op_delivered(struct rdi_link *link) {
    const struct sim_wire *w = end_of(link)->wire;
    if (link->state == RDI_LINK_CONNECTING) {
        return !sim_wire_cut(w) && !w->to->dead && !w->from->dead; // the host's kernel answers
    }
    return link->state == RDI_LINK_UP && !w->down &&
           w->said[link->sender] == w->heard[link->sender];
}

void sim_op_describe(struct rdi_link *link, char *buf, size_t cap) {
    const struct sim_end *e = end_of(link);
    snprintf(buf, cap, "simulated link from rank %u to rank %u, %u messages under way",
             link->id.from, link->id.to, e->wire->under_way.n);
}
