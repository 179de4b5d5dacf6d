// SPDX-License-Identifier: MIT
// Wires: what travels between the two ends of a link, and what happens to it on the way.
//
//   sender's put() --> under_way, in order --SIM_ARRIVE--> receiver's `here` --progress()--> counted
//                          |
//                          \-- path lost: any first part still arrives, the rest never does
#include "transport/sim/world.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// ---- Messages ------------------------------------------------------------------------------------

uint64_t sim_sum(const void *data, size_t n) {
    const uint8_t *p = data;
    uint64_t h = UINT64_C(0xcbf29ce484222325) ^ n;
    for (; n >= 8; n -= 8, p += 8) {
        uint64_t v;
        memcpy(&v, p, 8);
        h = (h ^ v) * UINT64_C(0x9e3779b97f4a7c15);
        h ^= h >> 29;
    }
    for (; n; n--, p++) {
        h = (h ^ *p) * UINT64_C(0x100000001b3);
    }
    return h;
}

void sim_push(struct sim_queue *q, struct sim_message *m) {
    m->next = NULL;
    if (q->tail) {
        q->tail->next = m;
    } else {
        q->head = m;
    }
    q->tail = m;
    q->n++;
}

struct sim_message *sim_pop(struct sim_queue *q) {
    struct sim_message *m = q->head;
    if (m) {
        q->head = m->next;
        q->tail = q->head ? q->tail : NULL;
        q->n--;
    }
    return m;
}

struct sim_message *sim_message_new(struct rdi_sim *s) {
    struct sim_message *m = s->spare;
    if (!m) {
        return sim_alloc(s, sizeof *m);
    }
    s->spare = m->next;
    memset(m, 0, offsetof(struct sim_message, small));
    return m;
}

void sim_message_free(struct rdi_sim *s, struct sim_message *m) {
    if (m->bytes != m->small) {
        free(m->bytes);
    }
    if (!s->config.per_host) {
        free(m); // so that a use of it shows
        return;
    }
    m->next = s->spare;
    s->spare = m;
}

// Memory for the payload.
void sim_message_room(struct rdi_sim *s, struct sim_message *m) {
    m->bytes = m->len <= sizeof m->small ? m->small : sim_alloc(s, m->len);
}

// Reads the sender's memory, for the last time, and looks whether it was left alone since put().
void sim_message_fetch(struct sim_wire *w, struct sim_message *m) {
    if (!m->source) {
        return;
    }
    bool checked = !w->sim->config.per_host && !w->sim->config.mismatch;
    if (checked && sim_sum(m->source, m->len) != m->sum && w->sender) {
        sim_broken(w->sim, &w->sender->base,
                   "data must stay unchanged until `sent` has passed its message");
    }
    if (!m->bytes) {
        sim_message_room(w->sim, m);
        memcpy(m->bytes, m->source, m->len);
    }
    m->source = NULL;
}

// ---- Travel --------------------------------------------------------------------------------------

void sim_wire_unref(struct sim_wire *w) {
    if (--w->refs) {
        return;
    }
    for (struct sim_message *m; (m = sim_pop(&w->under_way));) {
        sim_message_free(w->sim, m);
    }
    free(w);
}

uint64_t sim_travel(struct sim_wire *w) {
    struct rdi_sim *s = w->sim;
    if (s->config.per_host) {
        bool inner = w->from->rank / s->config.per_host == w->to->rank / s->config.per_host;
        // What a rank says in its turn, it says when it has worked that far.
        uint64_t from = s->running && s->running->busy_until > s->now ? s->running->busy_until
                                                                      : s->now;
        return from + (inner ? s->config.inner_latency_ns : s->config.latency_ns);
    }
    uint64_t t = w->latency_ns + sim_below(s, s->config.jitter_ns);
    return s->now + t + (sim_chance(s, s->config.spike) ? sim_below(s, s->config.spike_ns) : 0);
}

void sim_wire_send(struct sim_wire *w, enum sim_kind kind, bool to_sender, uint64_t at, uint64_t a,
                   uint64_t b, void *ptr) {
    struct sim_event e = {.at = at, .kind = (uint8_t)kind, .to_sender = to_sender, .gen = w->gen};
    e.wire = w;
    e.a = a;
    if (ptr) {
        e.ptr = ptr;
    } else {
        e.b = b;
    }
    sim_schedule(w->sim, e);
}

void sim_wire_end(struct sim_wire *w, bool to_sender, uint64_t at, bool bye, uint64_t arrived,
                  rondo_status s, const char *why) {
    struct sim_ending *end = sim_alloc(w->sim, sizeof *end);
    end->bye = bye;
    end->arrived = arrived;
    end->status = s;
    snprintf(end->why, sizeof end->why, "%s", why);
    sim_wire_send(w, SIM_END, to_sender, at, 0, 0, end);
}

static struct sim_end *end_of(struct sim_wire *w, bool sender) {
    return sender ? w->sender : w->receiver;
}

static void reach_receiver(struct sim_wire *w, struct sim_message *m) {
    if (!w->receiver || w->receiver->base.state == RDI_LINK_FAILED || w->to->dead) {
        sim_message_free(w->sim, m);
        return;
    }
    sim_message_fetch(w, m);
    sim_push(&w->receiver->here, m);
    sim_end_dirty(w->receiver);
}

// A message that breaks off may have been written in part to where it was to land.
static void break_off(struct rdi_sim *s, struct sim_message *m) {
    if (m->landing && m->len) {
        memset(m->landing, 0xba, sim_below(s, m->len) + 1);
    }
}

void sim_wire_lose(struct sim_wire *w, uint64_t down_ns) {
    struct rdi_sim *s = w->sim;
    uint64_t keep = sim_below(s, w->under_way.n + 1);
    sim_trace(s, "path %u -> %u channel %u is lost: %llu of %u messages under way still arrive",
              w->id.from, w->id.to, w->id.channel, (unsigned long long)keep, w->under_way.n);
    for (struct sim_message *m; (m = sim_pop(&w->under_way));) {
        if (keep) {
            keep--;
            reach_receiver(w, m);
        } else {
            if (w->receiver) {
                break_off(s, m);
            }
            sim_message_free(s, m);
        }
    }
    s->stats.losses++;
    w->gen++;
    w->down = true;
    w->down_until = s->now + down_ns;
    w->last_arrival = s->now;
    uint64_t grace = 0;
    for (int i = 0; i < 2; i++) {
        const struct sim_end *e = end_of(w, i);
        sim_wire_send(w, SIM_LOST, i, s->now + 1 + sim_below(s, s->config.detect_ns), 0, 0, NULL);
        if (e && e->node->net) {
            grace = (uint64_t)e->node->net->base.params.options->num[RDI_OPT_PATH_GRACE] * 1000000;
        }
    }
    sim_wire_send(w, SIM_GRACE, true, s->now + grace + s->config.detect_ns, 0, 0, NULL);
}

// ---- Events --------------------------------------------------------------------------------------

static void fail_soon(struct sim_wire *w, bool to_sender, rondo_status status, const char *what) {
    char why[256];
    snprintf(why, sizeof why, "link from rank %u to rank %u: %s", w->id.from, w->id.to, what);
    sim_wire_end(w, to_sender, w->sim->now, false, 0, status, why);
}

static void do_connect(struct rdi_sim *s, struct sim_wire *w) {
    struct rdi_sim_node *n = w->to;
    if (!w->sender) {
        return;
    }
    // A host refuses what nobody listens to; one that may be about to listen is given some time.
    bool refuses = w->prompt || (s->config.refuse && s->now >= w->patience_until);
    if ((n->dead || n->closed) && !sim_wire_cut(w) && refuses) {
        fail_soon(w, true, RONDO_ERR_PEER, "connection refused");
        return;
    }
    if (!n->net || n->dead || sim_wire_cut(w)) {
        if (s->now >= w->connect_until) {
            fail_soon(w, true, RONDO_ERR_TIMEOUT, "the peer did not answer within connect_timeout");
        } else {
            uint64_t again = s->now + 1000 + sim_below(s, sim_wire_cut(w) ? 20000000 : 1000000);
            sim_wire_send(w, SIM_CONNECT, false,
                          again < w->connect_until ? again : w->connect_until, 0, 0, NULL);
        }
        return;
    }
    if (n->ncalls == n->cap_calls) {
        unsigned cap = n->cap_calls ? 2 * n->cap_calls : 8;
        struct sim_wire **more = realloc(n->calls, cap * sizeof *more);
        if (!more) {
            s->config.broken(s->config.arg, "memory", "the simulation is out of memory");
            return;
        }
        n->calls = more;
        n->cap_calls = cap;
    }
    n->calls[n->ncalls++] = w;
    w->refs++;
    sim_turn(n);
}

static void do_reset(struct rdi_sim *s, struct sim_wire *w) {
    if (!w->sender || !w->receiver || w->to->dead) {
        return; // the end's own event tells
    }
    if (w->sender->base.state != RDI_LINK_CONNECTING) {
        return; // of an attempt before the one that came through: its path is gone
    }
    if (s->now < w->down_until || sim_wire_cut(w)) {
        // Either tries on, or gives this epoch up: both are right.
        if (sim_chance(s, 300)) {
            sim_wire_send(w, SIM_LOST, true, s->now + 1000, 0, 0, NULL);
        } else {
            uint64_t most = sim_wire_cut(w) ? 20000000 : s->config.detect_ns;
            sim_wire_send(w, SIM_RESET, false, s->now + 1000 + sim_below(s, most), 0, 0, NULL);
        }
        return;
    }
    w->receiver->rejoin = true;
    w->receiver->rejoin_gen = w->gen;
    sim_end_dirty(w->receiver);
}

static void add_ctrl(struct sim_end *e, struct sim_ctrl *c) {
    if (e->ctrl_tail) {
        e->ctrl_tail->next = c;
    } else {
        e->ctrl_head = c;
    }
    e->ctrl_tail = c;
    sim_end_dirty(e);
}

static uint64_t max64(uint64_t a, uint64_t b) { return a > b ? a : b; }

// News for one end; the payload in `ptr` is the event's until taken.
static void do_news(struct sim_event *e, struct sim_end *to) {
    struct sim_wire *w = e->wire;
    switch (e->kind) {
    case SIM_REPLY:
        to->reply = true;
        to->lost = false;
        to->news_arrived = max64(to->news_arrived, e->a);
        to->news_released = max64(to->news_released, e->b);
        break;
    case SIM_SENT:
        to->news_arrived = max64(to->news_arrived, e->a);
        break;
    case SIM_CREDIT:
        to->news_released = max64(to->news_released, e->a);
        break;
    case SIM_BACK:
        to->news_arrived = max64(to->news_arrived, e->a);
        to->news_released = max64(to->news_released, e->b);
        break;
    case SIM_CTRL:
        w->heard[!e->to_sender]++;
        add_ctrl(to, e->ptr);
        e->ptr = NULL;
        break;
    case SIM_LOST:
        if (!w->down) {
            return;
        }
        to->lost = true;
        to->reply = false;
        break;
    case SIM_END:
        if (!to->ending) {
            to->ending = e->ptr;
            e->ptr = NULL;
        }
        break;
    default:
        break;
    }
    sim_end_dirty(to);
}

void sim_event_drop(struct sim_event *e) {
    if (e->kind == SIM_CTRL || e->kind == SIM_END) {
        free(e->ptr);
    }
}

// Whether the other end's host tells it; that time is over an end finds out by itself.
static bool is_told(const struct sim_ending *end) {
    return end->status != RONDO_ERR_PATH && end->status != RONDO_ERR_TIMEOUT;
}

void sim_event_do(struct rdi_sim *s, struct sim_event *e) {
    if (e->kind == SIM_POKE) {
        sim_turn(e->node);
        return;
    }
    struct sim_wire *w = e->wire;
    bool stale = e->gen != w->gen;
    switch (e->kind) {
    case SIM_CONNECT:
        do_connect(s, w);
        return;
    case SIM_ARRIVE:
        if (!stale) {
            reach_receiver(w, sim_pop(&w->under_way));
        }
        return;
    case SIM_RESET:
        if (!stale) {
            do_reset(s, w);
        }
        return;
    case SIM_GRACE:
        if (!stale && w->down) {
            fail_soon(w, true, RONDO_ERR_PATH,
                      "the path was lost and did not come back within path_grace");
            fail_soon(w, false, RONDO_ERR_PATH,
                      "the path was lost and did not come back within path_grace");
        }
        return;
    default:
        break;
    }
    struct sim_end *to = end_of(w, e->to_sender);
    if (to && e->kind == SIM_END && is_told(e->ptr) && sim_wire_cut(w) && !w->from->silent &&
        !w->to->silent) {
        // That a process has ended shows when something passes again.
        sim_wire_send(w, SIM_END, e->to_sender, s->now + 5000000, 0, 0, e->ptr);
        e->ptr = NULL;
        return;
    }
    if (to && !to->node->dead && (!stale || e->kind == SIM_END)) {
        do_news(e, to);
    }
    sim_event_drop(e);
}
