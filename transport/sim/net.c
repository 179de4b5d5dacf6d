// SPDX-License-Identifier: MIT
// A rank's simulated net: news becomes counters and upcalls here, and only here.
#include "transport/sim/world.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// Address: magic and rank.
#define MAGIC 0x6d697372u
#define ADDRESS_BYTES 8

static struct sim_net *net_of(struct rdi_net *net) { return (struct sim_net *)net; }

// ---- Life ----------------------------------------------------------------------------------------

static rondo_status sim_open(const struct rdi_net_params *params, struct rdi_net **out) {
    struct rdi_sim_node *node = params->extra;
    if (!node) {
        return rdi_fail(RONDO_ERR_UNSUPPORTED, "the simulated transport lives in tests only");
    }
    struct sim_net *n = calloc(1, sizeof *n);
    if (!n) {
        return rdi_fail(RONDO_ERR_NOMEM, "out of memory for a simulated net");
    }
    const struct rdi_sim_config *c = &node->sim->config;
    n->base.ops = &rdi_sim_ops;
    n->base.params = *params;
    n->base.attr = (struct rdi_net_attr){.latency_ns = c->latency_ns,
                                         .bytes_per_s = c->bytes_per_s,
                                         .chunk = (uint32_t)params->options->num[RDI_OPT_CHUNK],
                                         .lands = c->land > 0};
    n->node = node;
    node->net = n;
    *out = &n->base;
    return RONDO_OK;
}

// Frees closed ends that are on no list any more.
static void bury(struct rdi_sim_node *node, bool all) {
    struct sim_end **at = &node->graves;
    while (*at) {
        struct sim_end *e = *at;
        if (e->dirty && !all) {
            at = &e->next;
        } else {
            *at = e->next;
            sim_end_free(e);
        }
    }
}

static void sim_close(struct rdi_net *net) {
    struct sim_net *n = net_of(net);
    struct rdi_sim_node *node = n->node;
    if (node->ends) {
        sim_broken(node->sim, &node->ends->base, "all links are closed before their net");
    }
    node->dirty_head = node->dirty_tail = NULL;
    bury(node, true);
    node->net = NULL;
    node->closed = true;
    free(n);
}

static rondo_status sim_address(struct rdi_net *net, void *blob, size_t *len) {
    const uint32_t words[2] = {MAGIC, (uint32_t)net_of(net)->node->rank};
    memcpy(blob, words, ADDRESS_BYTES);
    *len = ADDRESS_BYTES;
    return RONDO_OK;
}

static rondo_status sim_reach(struct rdi_net *net, const void *blob, size_t len) {
    uint32_t words[2];
    if (len != ADDRESS_BYTES || (memcpy(words, blob, len), words[0]) != MAGIC ||
        words[1] >= (uint32_t)net_of(net)->node->sim->config.nodes) {
        return rdi_fail(RONDO_ERR_INVALID, "not the address of a simulated rank");
    }
    return RONDO_OK;
}

// ---- Receiving -----------------------------------------------------------------------------------

static void ask_landing(struct sim_net *n, struct sim_end *e, struct sim_message *m) {
    struct rdi_sim *s = n->node->sim;
    if (m->asked) {
        return;
    }
    m->asked = true;
    if (m->len && sim_chance(s, s->config.land)) {
        const struct rdi_net_events *ev = n->base.params.events;
        m->landing = ev->land(ev->self, &e->base, m->tag, m->len);
        s->stats.landed += m->landing != NULL;
    }
}

static void place(struct sim_end *e, struct sim_message *m) {
    uint64_t i = e->base.arrived % e->base.slots;
    uint8_t *to = m->landing ? m->landing : e->memory + i * e->base.max_msg;
    memcpy(to, m->bytes, m->len);
    e->slot[i] = (struct sim_slot){.data = to, .tag = m->tag, .len = m->len, .has_sig = m->has_sig};
    e->slot[i].in_place = e->wire->by_reference && !(m->flags & RDI_PUT_COPY);
    if (m->has_sig) {
        memcpy(e->slot[i].sig, m->sig, sizeof m->sig);
    }
    m->placed = true;
}

// In a described cluster messages stay where they are until they are released. That they arrived is told at once of
// those whose source the sender may wait for; of what it copies to send it, the next credit tells early enough.
#define COPIED_MAX 2048
static int keep_arrived(struct sim_net *n, struct sim_end *e) {
    int moved = 0;
    for (struct sim_message *m; (m = sim_pop(&e->here)); moved++) {
        if (e->base.arrived - e->base.released >= e->base.slots) {
            sim_broken(n->node->sim, &e->base, "arrived <= released + slots");
        }
        e->kept[e->base.arrived++ % e->base.slots] = m;
        e->ack_due |= (m->flags & RDI_PUT_ACK) != 0 || m->len > COPIED_MAX;
        n->base.bytes_received += m->len;
        sim_cost_message(n->node);
    }
    return moved;
}

// Counts what is here, in order; `all`: also what was to be counted later.
static int count_arrived(struct sim_net *n, struct sim_end *e, bool all) {
    struct rdi_sim *s = n->node->sim;
    int moved = 0;
    if (e->kept) {
        return keep_arrived(n, e);
    }
    while (e->here.head) {
        struct sim_message *m = e->here.head;
        if (e->base.arrived - e->base.released >= e->base.slots) {
            sim_broken(s, &e->base, "arrived <= released + slots");
        }
        if (!m->placed) {
            ask_landing(n, e, m);
            place(e, m);
            if (!all && sim_chance(s, s->config.late)) {
                m->hold_until = s->now + 1 + sim_below(s, 50000);
                sim_poke_at(e->node, m->hold_until);
            }
        }
        if (!all && m->hold_until > s->now) {
            break;
        }
        e->base.arrived++;
        e->ack_due |= (m->flags & RDI_PUT_ACK) != 0;
        n->base.bytes_received += m->len;
        sim_message_free(s, sim_pop(&e->here));
        moved++;
    }
    // The next one may be on its way into its place already.
    struct sim_message *coming = e->wire->under_way.head;
    if (!e->here.head && coming && e->base.state == RDI_LINK_UP && sim_chance(s, 300)) {
        ask_landing(n, e, coming);
    }
    return moved;
}

// The new path begins with what the receiver has whole.
static void rejoin(struct sim_net *n, struct sim_end *e) {
    struct rdi_sim *s = n->node->sim;
    struct sim_wire *w = e->wire;
    e->rejoin = e->lost = false;
    if (sim_chance(s, 500)) {
        (void)count_arrived(n, e, true);
    }
    for (struct sim_message *m; (m = sim_pop(&e->here));) {
        sim_message_free(s, m);
    }
    w->gen++; // the answer to an attempt before this one is void
    w->down = false;
    w->said[0] = w->said[1] = w->heard[0] = w->heard[1] = 0;
    e->base.epoch = w->sender ? w->sender->base.epoch : e->base.epoch + 1;
    e->base.state = RDI_LINK_UP;
    e->told_arrived = e->base.arrived;
    e->told_released = e->base.released;
    e->ack_due = false;
    w->last_back = sim_travel(w);
    sim_wire_send(w, SIM_REPLY, true, w->last_back, e->base.arrived, e->base.released, NULL);
}

// ---- News ----------------------------------------------------------------------------------------

static int take_ctrl(struct sim_net *n, struct sim_end *e) {
    int moved = 0;
    const struct rdi_net_events *ev = n->base.params.events;
    while (e->ctrl_head && !e->gone) {
        struct sim_ctrl *c = e->ctrl_head;
        e->ctrl_head = c->next;
        e->ctrl_tail = e->ctrl_head ? e->ctrl_tail : NULL;
        ev->ctrl(ev->self, &e->base, c->type, c->bytes, c->len);
        free(c);
        moved++;
    }
    return moved;
}

static int sender_news(struct sim_end *e) {
    struct rdi_link *l = &e->base;
    int moved = 0;
    if (e->reply) {
        e->reply = false;
        l->slots = e->wire->slots;
        l->max_msg = e->wire->max_msg;
        l->state = RDI_LINK_UP;
        l->posted = l->sent = e->news_arrived;
        e->was_up = true;
        moved++;
    }
    if (e->lost) {
        e->lost = false;
        if (l->state == RDI_LINK_UP || (l->state == RDI_LINK_CONNECTING && e->wire->answered)) {
            l->state = RDI_LINK_LOST;
            snprintf(l->why, sizeof l->why, "simulated path from rank %u to rank %u", l->id.from,
                     l->id.to);
            moved++;
        }
    }
    if (e->was_up && l->state == RDI_LINK_UP) {
        moved += l->sent < e->news_arrived || l->credit < e->news_released + l->slots;
        l->sent = e->news_arrived > l->sent ? e->news_arrived : l->sent;
        l->credit = e->news_released + l->slots;
    }
    return moved;
}

static int receiver_news(struct sim_net *n, struct sim_end *e) {
    struct rdi_link *l = &e->base;
    int moved = 0;
    if (e->rejoin && e->rejoin_gen == e->wire->gen) {
        rejoin(n, e);
        moved++;
    }
    e->rejoin = false;
    if (e->lost) {
        e->lost = false;
        l->state = l->state == RDI_LINK_UP ? RDI_LINK_LOST : l->state;
        snprintf(l->why, sizeof l->why, "simulated path from rank %u to rank %u", l->id.from,
                 l->id.to);
        moved++;
    }
    if (l->state != RDI_LINK_FAILED) {
        moved += count_arrived(n, e, false);
        sim_end_tell(e, false);
    }
    return moved;
}

static int take_ending(struct sim_end *e) {
    struct rdi_link *l = &e->base;
    if (!e->ending || e->here.head || l->state == RDI_LINK_FAILED || l->state == RDI_LINK_CLOSED) {
        return 0;
    }
    if (!e->ending->bye) {
        sim_end_fail(e, e->ending->status, e->ending->why);
        return 1;
    }
    if (l->sender && e->was_up) {
        l->sent = e->ending->arrived > l->sent ? e->ending->arrived : l->sent;
        l->sent = l->sent > l->posted ? l->posted : l->sent;
    }
    l->state = RDI_LINK_CLOSED;
    return 1;
}

static int end_progress(struct sim_net *n, struct sim_end *e) {
    int moved = e->base.sender ? sender_news(e) : receiver_news(n, e);
    moved += take_ctrl(n, e);
    return e->gone ? moved + 1 : moved + take_ending(e);
}

// A peer opens a link to this rank.
static void answer(struct sim_net *n, struct sim_wire *w) {
    if (!w->sender) {
        return;
    }
    struct sim_end *e = sim_end_new(n->node, w, false);
    const struct rdi_net_events *ev = n->base.params.events;
    w->receiver = e;
    sim_end_open_slots(e);
    e->base.state = RDI_LINK_UP;
    rondo_status s = ev->accept(ev->self, &e->base);
    if (e->gone) {
        return;
    }
    char why[256];
    if (s != RONDO_OK) {
        snprintf(why, sizeof why, "%.200s", rondo_last_error());
        w->receiver = NULL;
        sim_wire_end(w, true, sim_travel(w), false, 0, s, why);
        sim_end_discard(e);
        return;
    }
    w->answered = true;
    if (w->from->dead) {
        snprintf(why, sizeof why, "rank %d died", w->from->rank);
        sim_wire_end(w, false, sim_travel(w), false, 0, RONDO_ERR_PEER, why);
        return;
    }
    w->last_back = sim_travel(w);
    sim_wire_send(w, SIM_REPLY, true, w->last_back, 0, 0, NULL);
}

static int sim_progress(struct rdi_net *net, bool busy) {
    (void)busy;
    struct sim_net *n = net_of(net);
    struct rdi_sim_node *node = n->node;
    int moved = (int)node->ncalls;
    n->in_progress = true;
    for (unsigned i = 0; i < node->ncalls; i++) {
        answer(n, node->calls[i]);
        sim_wire_unref(node->calls[i]);
    }
    node->ncalls = 0;
    struct sim_end *list = node->dirty_head;
    node->dirty_head = node->dirty_tail = NULL;
    while (list) {
        struct sim_end *e = list;
        list = e->next_dirty;
        e->dirty = false;
        if (!e->gone) {
            moved += end_progress(n, e);
            if (!e->gone && e->here.head) {
                sim_end_dirty(e); // held back: looked at again when the time has come
            }
        }
    }
    n->in_progress = false;
    bury(node, false);
    return moved;
}

// ---- Sleep ---------------------------------------------------------------------------------------

static rondo_status sim_arm(struct rdi_net *net, uint64_t *timeout_ns) {
    (void)timeout_ns;
    struct rdi_sim_node *node = net_of(net)->node;
    // In a described cluster what is due was told at once.
    for (struct sim_end *e = node->sim->config.per_host ? NULL : node->ends; e; e = e->next) {
        sim_end_tell(e, true);
    }
    node->turn = false;
    for (struct sim_end *e = node->dirty_head; e; e = e->next_dirty) {
        if (!e->here.head || e->here.head->hold_until <= node->sim->now) {
            sim_turn(node);
        }
    }
    return node->ncalls || node->turn ? RONDO_AGAIN : RONDO_OK;
}

static void sim_disarm(struct rdi_net *net) { (void)net; }

static int sim_fd(struct rdi_net *net) {
    (void)net;
    return -1;
}

const struct rdi_net_ops rdi_sim_ops = {
    .size = sizeof(struct rdi_net_ops),
    .name = "sim",
    .open = sim_open,
    .close = sim_close,
    .address = sim_address,
    .reach = sim_reach,
    .connect = sim_op_connect,
    .put = sim_op_put,
    .peek = sim_op_peek,
    .release = sim_op_release,
    .ctrl = sim_op_ctrl,
    .delivered = sim_op_delivered,
    .reset = sim_op_reset,
    .close_link = sim_op_close_link,
    .progress = sim_progress,
    .arm = sim_arm,
    .disarm = sim_disarm,
    .fd = sim_fd,
    .describe = sim_op_describe,
};
