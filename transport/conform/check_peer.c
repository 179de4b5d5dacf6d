// SPDX-License-Identifier: MIT
// Partners that end: in order, without a word, by a signal, or only seemingly.
#include "transport/conform/check.h"

#include <stdlib.h>
#include <string.h>

#define SOME 60u                 // messages, before something happens
#define PATIENT "path_grace=60s" // whoever is gone must be seen by something better than patience

static struct rdi_link *mine(const struct cf *c, const struct cf_pair *p) {
    return c->first ? p->out : p->in;
}

static void close_mine(struct cf *c, struct cf_pair *p, bool bye) {
    cf_close(p->n, mine(c, p), bye);
    p->out = p->in = NULL;
}

// ---- In order ------------------------------------------------------------------------------------

void cf_check_peer_bye(struct cf *c) {
    struct cf_pair p = {.n = cf_net_open(c, "slots=8,chunk=64K")};
    cf_meet(c, p.n);
    p.peer = &p.n->peers[c->peer];
    for (uint64_t round = 0; round < 20; round++) {
        static uint8_t bytes[8][2000];
        cf_pair_links(&p, c, CF_TO, round);
        uint64_t count = round % 9;
        for (uint64_t i = 0; c->first && i < count; i++) {
            uint32_t len = (uint32_t)(i * 250 + round);
            cf_fill(bytes[i], 5, i, len);
            cf_put_wait(c, p.out, bytes[i], len, i, 0);
        }
        if (c->first) {
            close_mine(c, &p, true); // nobody has looked whether anything arrived
            memset(bytes, 0xdd, sizeof bytes);
            cf_sync(c);
            continue;
        }
        cf_await(c, "the good-bye came", p.in->state != RDI_LINK_UP);
        cf_expect(c, p.in->state == RDI_LINK_CLOSED, "the link is in state %d: %s", p.in->state,
                  p.in->why);
        cf_expect(c, p.in->arrived == count, "%llu messages arrived before the good-bye, of %llu",
                  (unsigned long long)p.in->arrived, (unsigned long long)count);
        for (uint64_t i = 0; i < count; i++) {
            struct rdi_msg m;
            uint32_t len = (uint32_t)(i * 250 + round);
            p.in->ops->peek(p.in, i, &m);
            cf_expect(c, m.tag == i && m.len == len && cf_matches(m.data, 5, i, len),
                      "message %llu is not what was sent", (unsigned long long)i);
        }
        close_mine(c, &p, true);
        cf_sync(c);
    }
    cf_net_close(p.n);
}

void cf_check_peer_bye_back(struct cf *c) {
    struct cf_pair p;
    cf_pair_open(&p, c, NULL, CF_TO);
    cf_pair_hello(&p, c);
    if (!c->first) {
        close_mine(c, &p, true);
    } else {
        cf_await(c, "the receiver's good-bye came", p.out->state != RDI_LINK_UP);
        cf_expect(c, p.out->state == RDI_LINK_CLOSED, "the link is in state %d: %s", p.out->state,
                  p.out->why);
        rondo_status s = cf_put(p.out, "x", 1, 0, 0), t = p.out->ops->ctrl(p.out, 1, "x", 1);
        cf_expect(c, s == RONDO_ERR_PEER && t == RONDO_ERR_PEER,
                  "on a closed link put() says %s and ctrl() %s", rondo_status_name(s),
                  rondo_status_name(t));
        close_mine(c, &p, true);
    }
    cf_sync(c);
    cf_net_close(p.n);
}

// ---- Without a word ------------------------------------------------------------------------------

static void expect_gone(struct cf *c, struct cf_pair *p) {
    uint64_t start = cf_now(c);
    cf_await_failed(c, mine(c, p), RONDO_ERR_PEER, RONDO_ERR_PEER);
    cf_expect(c, cf_now(c) - start < 25 * CF_SECOND, "it took %.0f s to see that the peer is gone",
              (double)(cf_now(c) - start) / 1e9);
    rondo_status s = mine(c, p)->ops->ctrl(mine(c, p), 1, "x", 1);
    cf_expect(c, s == RONDO_ERR_PEER, "ctrl() on the failed link says %s", rondo_status_name(s));
}

void cf_check_peer_drop(struct cf *c) {
    for (int who = 0; who < 2; who++) {
        struct cf_pair p;
        cf_pair_open(&p, c, PATIENT, CF_TO);
        cf_pair_hello(&p, c);
        cf_sync(c);
        if (c->first == (who == 0)) {
            close_mine(c, &p, false);
        } else {
            expect_gone(c, &p);
            close_mine(c, &p, false);
        }
        cf_sync(c);
        cf_net_close(p.n);
    }
}

static void end_receiver(struct cf *c, void (*end)(struct cf *c)) {
    struct cf_pair p;
    cf_pair_open(&p, c, PATIENT, CF_TO);
    cf_pair_hello(&p, c);
    cf_sync(c);
    if (!c->first) {
        cf_turns(c, 50);
        end(c);
    }
    expect_gone(c, &p);
    close_mine(c, &p, false);
    cf_net_close(p.n);
}

void cf_check_peer_killed(struct cf *c) { end_receiver(c, cf_die); }
void cf_check_peer_exits(struct cf *c) { end_receiver(c, cf_leave); }

// The sender is killed in the middle of a flood.
void cf_check_peer_killed_sending(struct cf *c) {
    struct cf_pair p;
    struct cf_flow f;
    cf_pair_open(&p, c, PATIENT, CF_TO);
    cf_flow_begin(&f, c, mine(c, &p), 1u << 20, cf_wild_size);
    f.may_end = true;
    if (c->first) {
        cf_await(c, "some messages were sent", (cf_flow_move(&f), p.out->sent >= SOME));
        cf_die(c);
    }
    cf_await(c, "the link failed", (cf_flow_move(&f), p.in->state == RDI_LINK_FAILED));
    // What arrived is whole, up to the last.
    cf_flow_move(&f);
    cf_expect(c, f.taken == p.in->arrived && p.in->arrived >= SOME, "%llu messages arrived",
              (unsigned long long)p.in->arrived);
    expect_gone(c, &p);
    close_mine(c, &p, false);
    cf_net_close(p.n);
}

// ---- Only seemingly ------------------------------------------------------------------------------

// A process that is stopped lives: nothing fails, and all goes on when it does.
void cf_check_peer_stopped(struct cf *c) {
    struct cf_pair p;
    struct cf_flow out, in;
    cf_pair_open(&p, c, NULL, CF_BOTH);
    cf_flow_begin(&out, c, p.out, cf_many(c, 400) + SOME, cf_wild_size);
    cf_flow_begin(&in, c, p.in, cf_many(c, 400) + SOME, cf_wild_size);
    cf_await(c, "some messages arrived", (cf_flow_move(&out), cf_flow_move(&in), in.taken >= SOME));
    if (!c->first) {
        cf_be_stopped(c, 1500);
    }
    cf_await(c, "all messages were sent and received",
             (cf_flow_move(&out), cf_flow_move(&in), cf_flow_done(&out) && cf_flow_done(&in)));
    cf_expect(c, p.out->epoch == 0 && p.in->epoch == 0 && p.out->state == RDI_LINK_UP,
              "the link was lost (epoch %u) although its peer was only stopped", p.out->epoch);
    cf_flow_end(&out);
    cf_flow_end(&in);
    cf_pair_close(&p, c);
}

// ---- Both at once --------------------------------------------------------------------------------

void cf_check_peer_both_close(struct cf *c) {
    for (unsigned i = 0; i < 8; i++) {
        struct cf_pair p;
        struct cf_flow out, in;
        cf_pair_open(&p, c, "chunk=64K", CF_BOTH);
        cf_flow_begin(&out, c, p.out, 1u << 20, cf_wild_size);
        cf_flow_begin(&in, c, p.in, 1u << 20, cf_wild_size);
        out.may_end = in.may_end = true;
        cf_sync(c);
        // One may be done, and its good-bye be here, while the other still floods.
        uint64_t end = cf_now(c) + 20 * CF_MS;
        while (cf_now(c) < end && p.in->state == RDI_LINK_UP && p.out->state == RDI_LINK_UP) {
            cf_flow_move(&out);
            cf_flow_move(&in);
            cf_turn(c);
        }
        cf_close(p.n, p.out, i % 2 == 0);
        cf_close(p.n, p.in, i % 4 < 2);
        free(out.memory); // from now on nobody reads it
        cf_sync(c);
        cf_net_close(p.n);
    }
}
