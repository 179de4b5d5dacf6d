// SPDX-License-Identifier: MIT
// Links that come to be: in any order, many at once, and again and again.
#include "transport/conform/check.h"

#include <stdio.h>
#include <string.h>

// ---- Agreement -----------------------------------------------------------------------------------

struct agreed {
    uint32_t slots, max_msg, epoch, zero; // no gap, so that they can be compared as bytes
    uint64_t comm, channel;
};

void cf_check_connect_agree(struct cf *c) {
    struct cf_pair p;
    cf_pair_open(&p, c, c->first ? "slots=4,chunk=128K" : "slots=9,chunk=8K", CF_BOTH);
    struct rdi_link *links[2] = {p.out, p.in};
    for (int i = 0; i < 2; i++) {
        struct rdi_link *l = links[i];
        cf_expect(c, l->slots >= 1 && l->slots <= 4 && l->max_msg >= 64 && l->max_msg <= 8192,
                  "%u slots of %u bytes were agreed; the ends offered 4 of 131072 and 9 of 8192",
                  l->slots, l->max_msg);
        cf_expect(c, l->max_msg % 64 == 0, "max_msg is %u, no multiple of 64", l->max_msg);
        cf_expect(c, l->posted == 0 && l->sent == 0 && l->arrived == 0 && l->released == 0,
                  "the counters of a new link are not 0");
        cf_expect(c, !l->sender || l->credit == l->slots, "a new link has credit %llu, not %u",
                  (unsigned long long)l->credit, l->slots);
    }
    // One link after the other: first to second, then back.
    for (int i = 0; i < 2; i++) {
        struct rdi_link *l = (i == 0) == c->first ? p.out : p.in;
        struct agreed mine, other;
        mine = (struct agreed){l->slots, l->max_msg, l->epoch, 0, l->id.comm, l->id.channel};
        cf_exchange(c, &mine, sizeof mine);
        memcpy(&other, c->boxes[c->peer].bytes, sizeof other);
        cf_expect(c, memcmp(&mine, &other, sizeof mine) == 0,
                  "the ends differ: %u slots of %u bytes in epoch %u here, %u of %u in %u there",
                  mine.slots, mine.max_msg, mine.epoch, other.slots, other.max_msg, other.epoch);
    }
    cf_pair_stream(&p, c, 30, cf_any_size, true);
    cf_pair_close(&p, c);
}

// ---- Order ---------------------------------------------------------------------------------------

void cf_check_connect_late(struct cf *c) {
    for (int who = 0; who < 2; who++) {
        struct cf_pair p = {.n = cf_net_open(c, NULL)};
        cf_meet(c, p.n);
        p.peer = &p.n->peers[c->peer];
        // The one who is late does not move while the other connects, or waits to be connected to.
        if (c->first == (who == 0)) {
            cf_step(c, "being late");
            p.n->held = true;
            cf_turns(c, 300);
            p.n->held = false;
        }
        cf_pair_links(&p, c, CF_BOTH, 11);
        cf_pair_hello(&p, c);
        cf_pair_close(&p, c);
    }
}

// ---- Many links ----------------------------------------------------------------------------------

struct crowd {
    struct cf *c;
    struct cf_net *n;
    unsigned links; // numbers that are used
    bool all;       // each in both directions; else even ones one way and odd ones the other
    struct rdi_link *out[CF_LINKS];
    struct cf_flow flows[CF_LINKS];
    unsigned nflows;
};

static bool crowd_is_mine(const struct crowd *w, unsigned i) {
    return w->all || (i % 2 == 0) == w->c->first;
}

static bool crowd_is_up(const struct crowd *w) {
    unsigned up = 0;
    for (unsigned i = 0; i < w->links; i++) {
        if (w->out[i] != NULL) {
            cf_expect(w->c, w->out[i]->state != RDI_LINK_FAILED, "link %u failed: %s", i,
                      w->out[i]->why);
            up += w->out[i]->state == RDI_LINK_UP;
        }
        up += cf_accepted(w->n, w->c->peer, 100 + i) != NULL;
    }
    return up == (w->all ? 2 * w->links : w->links);
}

static bool crowd_move(struct crowd *w) {
    bool done = true;
    for (unsigned i = 0; i < w->nflows; i++) {
        cf_flow_move(&w->flows[i]);
        done = done && cf_flow_done(&w->flows[i]);
    }
    return done;
}

static void crowd_run(struct cf *c, unsigned links, bool all, uint64_t count, cf_sizes size) {
    static struct crowd w;
    w = (struct crowd){.c = c, .n = cf_net_open(c, "chunk=16K"), .links = links, .all = all};
    cf_meet(c, w.n);
    for (unsigned i = 0; i < links; i++) {
        w.out[i] = crowd_is_mine(&w, i) ? cf_connect(w.n, &w.n->peers[c->peer], c->peer, 100 + i)
                                        : NULL;
    }
    cf_await(c, "all links were up", crowd_is_up(&w));
    for (unsigned i = 0; i < links; i++) {
        struct rdi_link *in = cf_accepted(w.n, c->peer, 100 + i);
        if (w.out[i] != NULL) {
            cf_flow_begin(&w.flows[w.nflows++], c, w.out[i], count, size);
        }
        if (in != NULL) {
            cf_flow_begin(&w.flows[w.nflows++], c, in, count, size);
        }
    }
    cf_await(c, "all messages of all links were there", crowd_move(&w));
    for (unsigned i = 0; i < w.nflows; i++) {
        cf_flow_end(&w.flows[i]);
    }
    cf_sync(c);
    for (unsigned i = 0; i < links; i++) {
        if (w.out[i] != NULL) {
            cf_close(w.n, w.out[i], true);
        }
    }
    cf_net_close(w.n);
}

void cf_check_connect_together(struct cf *c) { crowd_run(c, 8, true, 20, cf_any_size); }
void cf_check_connect_links(struct cf *c) { crowd_run(c, 32, false, 20, cf_any_size); }
void cf_check_message_links(struct cf *c) { crowd_run(c, 6, true, cf_many(c, 200), cf_wild_size); }

// ---- Many peers ----------------------------------------------------------------------------------

struct party {
    struct cf_net *n;
    struct rdi_link *out[64];
    struct cf_flow sends[64], takes[64];
};

static bool party_is_up(struct cf *c, struct party *w) {
    bool up = true;
    for (int r = 0; r < c->size; r++) {
        if (r != c->rank) {
            cf_expect(c, w->out[r]->state != RDI_LINK_FAILED, "the link to rank %d failed: %s", r,
                      w->out[r]->why);
            up = up && w->out[r]->state == RDI_LINK_UP && cf_accepted(w->n, r, 5) != NULL;
        }
    }
    return up;
}

static bool party_move(struct cf *c, struct party *w) {
    bool done = true;
    for (int r = 0; r < c->size; r++) {
        if (r != c->rank) {
            cf_flow_move(&w->sends[r]);
            cf_flow_move(&w->takes[r]);
            done = done && cf_flow_done(&w->sends[r]) && cf_flow_done(&w->takes[r]);
        }
    }
    return done;
}

void cf_check_connect_peers(struct cf *c) {
    static struct party w;
    w.n = cf_net_open(c, "chunk=16K");
    cf_expect(c, c->size <= 64, "this check knows at most 64 ranks");
    cf_meet(c, w.n);
    for (int r = 0; r < c->size; r++) {
        w.out[r] = r != c->rank ? cf_connect(w.n, &w.n->peers[r], r, 5) : NULL;
    }
    cf_await(c, "the links with all ranks were up", party_is_up(c, &w));
    for (int r = 0; r < c->size; r++) {
        if (r != c->rank) {
            cf_flow_begin(&w.sends[r], c, w.out[r], 50, cf_any_size);
            cf_flow_begin(&w.takes[r], c, cf_accepted(w.n, r, 5), 50, cf_any_size);
        }
    }
    cf_await(c, "all messages of all ranks were there", party_move(c, &w));
    cf_sync(c);
    for (int r = 0; r < c->size; r++) {
        if (r != c->rank) {
            cf_flow_end(&w.sends[r]);
            cf_flow_end(&w.takes[r]);
            cf_close(w.n, w.out[r], true);
        }
    }
    cf_net_close(w.n);
}

// ---- Again and again -----------------------------------------------------------------------------

void cf_check_connect_again(struct cf *c) {
    struct cf_pair p = {.n = cf_net_open(c, "chunk=16K")};
    struct cf_usage before = {0};
    uint64_t rounds = 10 + cf_many(c, 40);
    cf_meet(c, p.n);
    p.peer = &p.n->peers[c->peer];
    for (uint64_t i = 0; i < rounds; i++) {
        if (i == 5) {
            cf_usage_take(&before);
        }
        // The same id again: the link before is over on both ends.
        cf_pair_links(&p, c, CF_TO, 21);
        cf_pair_hello(&p, c);
        bool closes = c->first == (i % 2 == 0);
        struct rdi_link *l = c->first ? p.out : p.in;
        if (!closes) {
            cf_await(c, "the partner's good-bye came", l->state == RDI_LINK_CLOSED);
        }
        cf_close(p.n, l, true);
        cf_sync(c);
    }
    // Last bytes of the last links may still be on their way.
    cf_turns(c, 200);
    cf_usage_expect(c, &before, 24u << 20, "after links had come and gone");
    cf_net_close(p.n);
}
