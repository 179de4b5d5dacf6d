// SPDX-License-Identifier: MIT
// Sleep: whoever is armed is woken by everything that progress() would find, and by nothing else.
//
// Two ranks that sleep after every single thing they wait for, with tiny random delays in between, so that one
// acts at every possible moment of the other's falling asleep. A sleep that ends by its timeout although there
// is something is a lost wake-up; one that ends so because the partner is slow is not.
#include "transport/conform/check.h"

#include <poll.h>
#include <string.h>

#define ASLEEP_NS (2 * CF_SECOND)

// Mostly nothing, sometimes up to a few microseconds.
static void dawdle(struct cf *c) {
    uint64_t r = cf_random(c);
    for (volatile uint64_t i = 0; (r & 3) == 0 && i < (r >> 8) % 3000; i = i + 1) {}
}

// Moves once; sleeps when there is nothing to move.
static void doze(struct cf *c, struct cf_net *n) {
    uint64_t timeout = ASLEEP_NS;
    if (c->ops->progress(n->net, false) > 0) {
        return;
    }
    dawdle(c);
    rondo_status s = c->ops->arm(n->net, &timeout);
    int found = 1;
    if (s == RONDO_OK) {
        struct pollfd p = {.fd = c->ops->fd(n->net), .events = POLLIN};
        found = poll(&p, 1, (int)((timeout + CF_MS - 1) / CF_MS));
    }
    c->ops->disarm(n->net);
    int moved = found == 0 ? c->ops->progress(n->net, false) : 0;
    cf_expect(c, moved == 0 || timeout < ASLEEP_NS,
              "a wake-up was lost: it slept %.0f s, and then there was something",
              (double)ASLEEP_NS / 1e9);
    cf_invariants(c);
    cf_expect(c, cf_now(c) < c->deadline, "its time is over");
    if (found == 0) {
        cf_watch(c);
    }
}

#define doze_until(c, n, condition) \
    do {                            \
        while (!(condition)) {      \
            doze(c, n);             \
        }                           \
    } while (0)

static void put_one(struct cf *c, struct cf_pair *p, uint64_t value) {
    rondo_status s;
    doze_until(c, p->n,
               (s = cf_put(p->out, &value, sizeof value, value, RDI_PUT_COPY)) != RONDO_AGAIN);
    cf_expect(c, s == RONDO_OK, "put() says %s: %s", rondo_status_name(s), rondo_last_error());
    // The value lives on this stack.
    doze_until(c, p->n, p->out->sent == p->out->posted);
}

static void take_one(struct cf *c, struct cf_pair *p, uint64_t value) {
    struct rdi_msg m;
    doze_until(c, p->n, p->in->arrived > p->in->released);
    p->in->ops->peek(p->in, p->in->released, &m);
    cf_expect(c, m.tag == value, "message %llu came instead of %llu", (unsigned long long)m.tag,
              (unsigned long long)value);
    p->in->ops->release(p->in, p->in->released + 1);
}

void cf_check_sleep_message(struct cf *c) {
    struct cf_pair p;
    cf_pair_open(&p, c, "slots=2,chunk=4K", CF_BOTH);
    cf_sync(c);
    cf_step(c, "sending one message to and fro, asleep in between");
    for (uint64_t i = 0, n = cf_many(c, 2500); i < n; i++) {
        if (c->first) {
            put_one(c, &p, i);
            dawdle(c);
            take_one(c, &p, i);
        } else {
            take_one(c, &p, i);
            dawdle(c);
            put_one(c, &p, i);
        }
    }
    cf_pair_close(&p, c);
}

// Two slots: the sender sleeps for credit, the receiver for messages.
void cf_check_sleep_credit(struct cf *c) {
    static uint64_t values[4];
    struct cf_pair p;
    cf_pair_open(&p, c, "slots=2,chunk=4K", CF_TO);
    cf_sync(c);
    cf_step(c, "streaming through two slots, asleep in between");
    for (uint64_t i = 0, n = cf_many(c, 4000); i < n; i++) {
        if (c->first) {
            struct rdi_link *l = p.out;
            rondo_status s;
            doze_until(c, p.n, l->sent + 4 > l->posted);
            values[i % 4] = i;
            doze_until(c, p.n, (s = cf_put(l, &values[i % 4], 8, i, 0)) != RONDO_AGAIN);
            cf_expect(c, s == RONDO_OK, "put() says %s: %s", rondo_status_name(s),
                      rondo_last_error());
        } else {
            take_one(c, &p, i);
        }
        dawdle(c);
    }
    cf_pair_close(&p, c);
}

void cf_check_sleep_ctrl(struct cf *c) {
    struct cf_pair p;
    cf_pair_open(&p, c, NULL, CF_TO);
    cf_sync(c);
    cf_step(c, "sending control messages, asleep in between");
    for (unsigned i = 0, n = (unsigned)cf_many(c, 2500); i < n; i++) {
        rondo_status s;
        if (!c->first) {
            doze_until(c, p.n, p.n->ctrls > i);
        } else {
            doze_until(c, p.n, (s = p.out->ops->ctrl(p.out, i % 32, &i, sizeof i)) != RONDO_AGAIN);
            cf_expect(c, s == RONDO_OK, "ctrl() says %s: %s", rondo_status_name(s),
                      rondo_last_error());
        }
        dawdle(c);
    }
    cf_pair_close(&p, c);
}

// ---- What was there before -----------------------------------------------------------------------

static bool readable(struct cf *c, struct cf_net *n, unsigned ms) {
    struct pollfd p = {.fd = c->ops->fd(n->net), .events = POLLIN};
    return poll(&p, 1, (int)ms) == 1;
}

// The partner has done something while this net did not move: arm() or the descriptor says so, as often as
// one asks, until it is counted. arm() itself may count what it finds, and says RONDO_AGAIN then.
static void expect_news(struct cf *c, struct cf_net *n, const uint64_t *counter, const char *what) {
    uint64_t before = *counter;
    for (int i = 0; i < 3 && *counter == before; i++) {
        uint64_t timeout = 60 * CF_SECOND;
        rondo_status s = c->ops->arm(n->net, &timeout);
        bool told = s == RONDO_AGAIN || readable(c, n, 10000) || timeout < 10 * CF_SECOND;
        bool again = s == RONDO_AGAIN || readable(c, n, 0) || timeout < 10 * CF_SECOND;
        c->ops->disarm(n->net);
        cf_expect(c, told, "%s: arm() says RONDO_OK and the descriptor never gets readable", what);
        cf_expect(c, again, "%s: the descriptor is not level triggered", what);
        cf_expect(c, s == RONDO_AGAIN || *counter == before, "arm() counted news and kept it");
    }
}

void cf_check_sleep_armed(struct cf *c) {
    struct cf_pair p;
    cf_pair_open(&p, c, "slots=4,chunk=64K", CF_TO);
    cf_pair_hello(&p, c);
    static uint8_t bytes[65536];
    static const char *const what[] = {"an empty message", "a large message", "a control message"};
    for (uint64_t i = 0; i < 9; i++) {
        cf_sync(c);
        uint64_t before = c->first ? p.out->posted : p.in->arrived, ctrls = p.n->ctrls;
        p.n->held = !c->first;
        cf_sync(c);
        if (c->first && i % 3 == 2) {
            cf_await(c, "ctrl() took a message",
                     p.out->ops->ctrl(p.out, 1, bytes, RDI_CTRL_MAX) == RONDO_OK);
        } else if (c->first) {
            cf_put_wait(c, p.out, bytes, i % 3 == 0 ? 0 : sizeof bytes, i, 0);
        }
        cf_turns(c, 50); // on its way
        cf_sync(c);
        p.n->held = false;
        if (!c->first) {
            expect_news(c, p.n, i % 3 == 2 ? &p.n->ctrls : &p.in->arrived, what[i % 3]);
            cf_await(c, "progress() found what was there",
                     i % 3 == 2 ? p.n->ctrls > ctrls : p.in->arrived > before);
            if (i % 3 != 2) {
                p.in->ops->release(p.in, p.in->arrived);
            }
        } else if (i % 3 != 2) {
            cf_await(c, "the message was sent", p.out->sent > before);
        }
    }
    cf_pair_close(&p, c);
}

// Nothing happens: nobody wakes, apart from a net's own timers, and these seldom.
void cf_check_sleep_quiet(struct cf *c) {
    struct cf_pair p;
    cf_pair_open(&p, c, NULL, CF_BOTH);
    cf_pair_hello(&p, c);
    cf_turns(c, 300);
    cf_sync(c);
    unsigned wakes = 0;
    for (uint64_t end = cf_now(c) + CF_SECOND; cf_now(c) < end;) {
        uint64_t now = cf_now(c), timeout = end > now ? end - now : 0;
        rondo_status s = c->ops->arm(p.n->net, &timeout);
        if (s == RONDO_AGAIN || readable(c, p.n, (unsigned)((timeout + CF_MS - 1) / CF_MS)) ||
            cf_now(c) < end) {
            wakes++;
        }
        c->ops->disarm(p.n->net);
        c->ops->progress(p.n->net, false);
    }
    cf_expect(c, wakes <= 50, "a net with nothing to do woke %u times in a second", wakes);
    cf_pair_close(&p, c);
}

// ---- Links that come and go ----------------------------------------------------------------------

void cf_check_sleep_connect(struct cf *c) {
    struct cf_pair p = {.n = cf_net_open(c, NULL)};
    cf_meet(c, p.n);
    p.peer = &p.n->peers[c->peer];
    for (uint64_t i = 0; i < 20; i++) {
        cf_sync(c);
        cf_step(c, "asleep until link %llu is up", (unsigned long long)i);
        if (c->first) {
            p.out = cf_connect(p.n, p.peer, c->peer, i);
            doze_until(c, p.n, p.out->state != RDI_LINK_CONNECTING);
            cf_expect(c, p.out->state == RDI_LINK_UP || p.out->state == RDI_LINK_CLOSED,
                      "the link is in state %d: %s", p.out->state, p.out->why);
        } else {
            doze_until(c, p.n, (p.in = cf_accepted(p.n, c->peer, i)) != NULL);
        }
        cf_step(c, "asleep until the good-bye of link %llu", (unsigned long long)i);
        bool closes = c->first == (i % 2 == 0);
        struct rdi_link *l = c->first ? p.out : p.in;
        dawdle(c);
        if (!closes) {
            doze_until(c, p.n, l->state == RDI_LINK_CLOSED);
        }
        cf_close(p.n, l, true);
    }
    cf_sync(c);
    cf_net_close(p.n);
}

// A partner that ends without a word wakes the sleeper, who finds the link failed.
void cf_check_sleep_end(struct cf *c) {
    struct cf_pair p;
    cf_pair_open(&p, c, "path_grace=2s", CF_BOTH);
    cf_pair_hello(&p, c);
    cf_sync(c);
    if (!c->first) {
        cf_turns(c, 100);
        cf_die(c);
    }
    cf_step(c, "asleep until the partner's death");
    while (p.out->state != RDI_LINK_FAILED || p.in->state != RDI_LINK_FAILED) {
        cf_revive(c, p.out);
        doze(c, p.n);
    }
    cf_close(p.n, p.out, false);
    cf_net_close(p.n);
}
