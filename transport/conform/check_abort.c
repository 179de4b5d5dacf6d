// SPDX-License-Identifier: MIT
// A rank that gives up in the middle: it is rid of its links at once, and nothing is left on either side.
#include "transport/conform/check.h"

#include <poll.h>
#include <stdlib.h>
#include <string.h>

#define ROUNDS 24

// Links that were accepted meanwhile go when their other end has.
static void close_accepted(struct cf *c, struct cf_net *n) {
    while (n->naccepted > 0) {
        struct rdi_link *l = n->accepted[0];
        cf_await(c, "the partner's end of the link was seen to be gone",
                 l->state == RDI_LINK_FAILED || l->state == RDI_LINK_CLOSED);
        cf_close(n, l, false);
    }
}

// The sender closes after each possible number of steps.
void cf_check_connect_close(struct cf *c) {
    struct cf_net *n = cf_net_open(c, "path_grace=1s");
    struct cf_usage before;
    cf_meet(c, n);
    struct cf_pair p = {.n = n, .peer = &n->peers[c->peer]};
    // What a device keeps for a peer that it has met once stays with the net.
    cf_pair_links(&p, c, CF_BOTH, 999);
    cf_pair_hello(&p, c);
    cf_sync(c);
    cf_close(n, p.out, true);
    cf_close(n, p.in, true);
    cf_turns(c, 200);
    cf_usage_take(&before);
    for (unsigned round = 0; round < ROUNDS; round++) {
        cf_sync(c);
        if (c->first) {
            struct rdi_link *l = cf_connect(n, &n->peers[c->peer], c->peer, round);
            for (unsigned i = 0; i < round / 2; i++) {
                c->ops->progress(n->net, i % 2 == 0);
                poll(NULL, 0, round % 2 == 0 ? 0 : 1);
            }
            cf_close(n, l, round % 3 == 0);
        }
        cf_sync(c);
        cf_turns(c, 30);
        close_accepted(c, n);
    }
    cf_sync(c);
    cf_usage_expect(c, &before, 24u << 20, "after links were closed while they were being opened");
    cf_sync(c);
    cf_pair_links(&p, c, CF_BOTH, 1000);
    cf_pair_stream(&p, c, 20, cf_any_size, true);
    cf_pair_close(&p, c);
}

// The same, and the net goes with the link.
void cf_check_abort_connecting(struct cf *c) {
    struct cf_usage before = {0};
    for (unsigned round = 0; round < 12; round++) {
        struct cf_net *n = cf_net_open(c, "path_grace=1s");
        cf_meet(c, n);
        struct rdi_link *l = cf_connect(n, &n->peers[c->peer], c->peer, 1);
        for (unsigned i = 0; i < round; i++) {
            c->ops->progress(n->net, false);
        }
        cf_sync(c);
        cf_close(n, l, false);
        cf_net_close(n);
        cf_sync(c);
        if (round == 1) {
            cf_usage_take(&before);
        }
    }
    cf_usage_expect(c, &before, 24u << 20, "after aborting while connecting");
}

// In the middle of a flood. The sources are freed and unmapped at once: nothing may read them any more.
void cf_check_abort_flood(struct cf *c) {
    struct cf_usage before = {0};
    for (unsigned round = 0; round < 6; round++) {
        struct cf_pair p;
        struct cf_flow out, in;
        bool quits = c->first == (round % 2 == 0);
        cf_pair_open(&p, c, "path_grace=1s", CF_BOTH);
        cf_flow_begin(&out, c, p.out, 1u << 20, cf_wild_size);
        cf_flow_begin(&in, c, p.in, 1u << 20, cf_wild_size);
        out.may_end = in.may_end = true;
        if (quits) {
            cf_await(c, "messages flow",
                     (cf_flow_move(&out), cf_flow_move(&in), p.out->sent > 20 && in.taken > 20));
        } else {
            cf_await(c, "both links failed",
                     (cf_flow_move(&out), cf_flow_move(&in), cf_revive(c, p.out),
                      p.out->state == RDI_LINK_FAILED && p.in->state == RDI_LINK_FAILED));
        }
        cf_close(p.n, p.out, false);
        cf_close(p.n, p.in, false);
        memset(out.memory, 0xdd, out.stride);
        free(out.memory);
        cf_turns(c, 20);
        cf_sync(c);
        cf_net_close(p.n);
        if (round == 1) {
            cf_usage_take(&before);
        }
    }
    cf_usage_expect(c, &before, 48u << 20, "after aborting in a flood");
}

// While the partner sleeps in its descriptor.
void cf_check_abort_sleeping(struct cf *c) {
    for (unsigned round = 0; round < 8; round++) {
        struct cf_pair p;
        bool quits = c->first == (round % 2 == 0);
        cf_pair_open(&p, c, "path_grace=1s", CF_TO);
        cf_pair_hello(&p, c);
        cf_sync(c);
        struct rdi_link *l = c->first ? p.out : p.in;
        if (quits) {
            poll(NULL, 0, 20);
        }
        while (!quits && l->state != RDI_LINK_FAILED) {
            cf_revive(c, l);
            if (c->ops->progress(p.n->net, false) == 0) {
                cf_sleep(c, CF_SECOND);
            }
            cf_expect(c, cf_now(c) < c->deadline, "the link did not fail: %s", l->why);
        }
        cf_close(p.n, l, false);
        cf_sync(c);
        cf_net_close(p.n);
    }
}
