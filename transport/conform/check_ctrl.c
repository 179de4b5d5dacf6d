// SPDX-License-Identifier: MIT
// Control messages: both ways, in order among themselves, whatever the messages do.
#include "transport/conform/check.h"

#include <string.h>

// Counts what came; number and contents of each follow from how many came before.
struct stream {
    uint64_t key_in, key_out;
    unsigned came, sent, total;
};

static uint32_t size_of(uint64_t key, unsigned i) {
    static const uint32_t sizes[] = {0, 1, RDI_CTRL_MAX, 64, 895, 7, 512};
    return sizes[(i + key) % (sizeof sizes / sizeof *sizes)];
}

static void take(struct cf_net *n, struct rdi_link *link, unsigned type, const uint8_t *msg,
                 size_t len) {
    struct stream *s = n->arg;
    (void)link;
    unsigned i = s->came++;
    cf_expect(n->c, type == i % 7, "control message %u came as type %u instead of %u", i, type,
              i % 7);
    cf_expect(n->c, len == size_of(s->key_in, i),
              "control message %u came with %zu bytes instead of %u", i, len,
              size_of(s->key_in, i));
    cf_expect(n->c, cf_matches(msg, s->key_in, i, (uint32_t)len),
              "control message %u came with other contents", i);
}

static bool give(struct cf *c, struct rdi_link *l, struct stream *s) {
    uint8_t msg[RDI_CTRL_MAX];
    while (s->sent < s->total) {
        uint32_t len = size_of(s->key_out, s->sent);
        cf_fill(msg, s->key_out, s->sent, len);
        rondo_status r = l->ops->ctrl(l, s->sent % 7, msg, len);
        memset(msg, 0xaa, sizeof msg);
        if (r == RONDO_AGAIN) {
            return false;
        }
        cf_expect(c, r == RONDO_OK, "ctrl() of %u bytes says %s: %s", len, rondo_status_name(r),
                  rondo_last_error());
        s->sent++;
    }
    return true;
}

static void begin(struct cf *c, struct cf_pair *p, struct stream *s, unsigned total) {
    *s = (struct stream){.key_in = 31 + (uint64_t)c->peer, .key_out = 31 + (uint64_t)c->rank};
    s->total = total;
    p->n->arg = s;
    p->n->on_ctrl = take;
    cf_sync(c);
}

void cf_check_ctrl_sizes(struct cf *c) {
    struct cf_pair p;
    struct stream s;
    static const uint8_t big[RDI_CTRL_MAX + 1];
    cf_pair_open(&p, c, NULL, CF_TO);
    struct rdi_link *l = c->first ? p.out : p.in; // a receiver sends them too
    rondo_status r = l->ops->ctrl(l, 1, big, sizeof big);
    cf_expect(c, r == RONDO_ERR_INVALID, "ctrl() of %zu bytes says %s", sizeof big,
              rondo_status_name(r));
    begin(c, &p, &s, 40);
    cf_await(c, "all control messages came", give(c, l, &s) && s.came == s.total);
    cf_pair_close(&p, c);
}

void cf_check_ctrl_order(struct cf *c) {
    struct cf_pair p;
    struct stream s;
    cf_pair_open(&p, c, NULL, CF_TO);
    begin(c, &p, &s, (unsigned)cf_many(c, 3000));
    struct rdi_link *l = c->first ? p.out : p.in;
    cf_await(c, "all control messages came",
             (give(c, l, &s), s.sent == s.total) && s.came == s.total);
    cf_pair_close(&p, c);
}

void cf_check_ctrl_beside(struct cf *c) {
    struct cf_pair p;
    struct stream s;
    struct cf_flow out, in;
    cf_pair_open(&p, c, NULL, CF_BOTH);
    begin(c, &p, &s, 400);
    cf_flow_begin(&out, c, p.out, cf_many(c, 200), cf_wild_size);
    cf_flow_begin(&in, c, p.in, cf_many(c, 200), cf_wild_size);
    cf_await(c, "all messages of both kinds came",
             (give(c, p.out, &s), cf_flow_move(&out), cf_flow_move(&in), s.came == s.total) &&
                 s.sent == s.total && cf_flow_done(&out) && cf_flow_done(&in));
    cf_flow_end(&out);
    cf_flow_end(&in);
    cf_pair_close(&p, c);
}

// No slot is free, and nobody takes anything: control messages pass all the same.
void cf_check_ctrl_blocked(struct cf *c) {
    struct cf_pair p;
    struct stream s;
    static uint8_t bytes[65536];
    cf_pair_open(&p, c, "slots=4,chunk=64K", CF_TO);
    begin(c, &p, &s, 100);
    while (c->first && p.out->posted < p.out->credit) {
        cf_put_wait(c, p.out, bytes, sizeof bytes, 0, 0);
    }
    struct rdi_link *l = c->first ? p.out : p.in;
    cf_await(c, "control messages passed while no slot was free",
             (give(c, l, &s), s.came == s.total) && s.sent == s.total);
    cf_await(c, "the messages arrived", c->first || p.in->arrived == 4);
    cf_sync(c);
    if (!c->first) {
        p.in->ops->release(p.in, 4);
    }
    cf_pair_close(&p, c);
}

// While the link is being opened there is no room for anything.
void cf_check_ctrl_connecting(struct cf *c) {
    struct cf_pair p = {.n = cf_net_open(c, NULL)};
    cf_meet(c, p.n);
    p.n->held = !c->first;
    cf_sync(c);
    struct rdi_link *l = NULL;
    for (int i = 0; c->first && i < 50; i++) {
        l = l == NULL ? cf_connect(p.n, &p.n->peers[c->peer], c->peer, 1) : l;
        rondo_status s = l->ops->ctrl(l, 1, "early", 5), t = cf_put(l, "early", 5, 0, 0);
        cf_expect(c, l->state == RDI_LINK_CONNECTING, "the link is in state %d and not connecting",
                  l->state);
        cf_expect(c, s == RONDO_AGAIN && t == RONDO_AGAIN && l->posted == 0,
                  "while connecting ctrl() says %s and put() says %s", rondo_status_name(s),
                  rondo_status_name(t));
        cf_turn(c);
    }
    cf_sync(c);
    p.n->held = false;
    cf_await(c, "the link came up",
             c->first ? l->state == RDI_LINK_UP : (p.in = cf_accepted(p.n, c->peer, 1)) != NULL);
    p.out = l;
    cf_pair_hello(&p, c);
    cf_pair_close(&p, c);
}
