// SPDX-License-Identifier: MIT
// Credit: what a sender may send, how it learns of more, and that nothing is counted twice or lost.
#include "transport/conform/check.h"

#include <stdlib.h>
#include <string.h>

enum { SLOTS = 4, TRIES = 1000 };

// Puts until there is no credit; everything else but OK and AGAIN is wrong.
static void exhaust(struct cf *c, struct rdi_link *l, const uint8_t *bytes) {
    uint64_t limit = l->credit;
    cf_expect(c, limit == l->posted + l->slots, "credit is %llu with %llu posted and %u slots",
              (unsigned long long)limit, (unsigned long long)l->posted, l->slots);
    while (l->posted < limit) {
        cf_put_wait(c, l, bytes, l->max_msg, l->posted, 0);
        cf_expect(c, l->posted <= limit, "more was posted than there is credit");
    }
    for (int i = 0; i < TRIES; i++) {
        rondo_status s = cf_put(l, bytes, i % 2 == 0 ? 0 : l->max_msg, 0, 0);
        cf_expect(c, s == RONDO_AGAIN && l->posted == limit,
                  "put() without credit says %s, posted is %llu of %llu", rondo_status_name(s),
                  (unsigned long long)l->posted, (unsigned long long)limit);
        c->ops->progress(l->net, i % 3 == 0);
    }
}

void cf_check_credit_again(struct cf *c) {
    struct cf_pair p;
    cf_pair_open(&p, c, "slots=4,chunk=64K", CF_TO);
    uint8_t *bytes = calloc(1, 64u << 10);
    cf_expect(c, bytes != NULL, "no memory");
    for (uint64_t round = 0; round < 5; round++) {
        if (c->first) {
            exhaust(c, p.out, bytes);
        } else {
            cf_await(c, "all that there is room for arrived", p.in->arrived == (round + 1) * SLOTS);
        }
        cf_sync(c);
        if (!c->first) {
            p.in->ops->release(p.in, p.in->arrived);
        } else {
            cf_await(c, "the credit came back", p.out->credit == p.out->posted + p.out->slots);
        }
    }
    cf_await(c, "everything was sent", p.out == NULL || p.out->sent == p.out->posted);
    cf_pair_close(&p, c);
    free(bytes);
}

// Credit for half of the slots needs no turn of the receiver's but release() itself; the rest needs arm().
void cf_check_credit_half(struct cf *c) {
    struct cf_pair p;
    cf_pair_open(&p, c, "slots=8,chunk=8K", CF_TO);
    for (int i = 0; c->first && i < 8; i++) {
        cf_put_wait(c, p.out, "credit", 6, 0, 0);
    }
    cf_await(c, "eight messages arrived", c->first || p.in->arrived == 8);
    cf_sync(c);
    if (!c->first) {
        p.in->ops->release(p.in, 4);
        p.n->held = true;
    }
    cf_await(c, "half of the slots became credit", !c->first || p.out->credit >= 12);
    cf_sync(c);
    if (!c->first) {
        uint64_t timeout = CF_SECOND;
        p.in->ops->release(p.in, 5);
        c->ops->arm(p.n->net, &timeout);
        c->ops->disarm(p.n->net);
    }
    cf_await(c, "arm() of the receiver gave credit for one slot", !c->first || p.out->credit >= 13);
    cf_expect(c, !c->first || p.out->credit == 13, "credit is %llu instead of 13",
              (unsigned long long)p.out->credit);
    cf_sync(c);
    p.n->held = false;
    if (!c->first) {
        p.in->ops->release(p.in, 8);
    }
    cf_await(c, "everything was sent", !c->first || p.out->sent == 8);
    cf_pair_close(&p, c);
}

// A receiver that is slow: the sender waits, and neither side stores more than the slots.
void cf_check_credit_slow(struct cf *c) {
    struct cf_pair p;
    struct cf_flow f;
    struct cf_usage before;
    cf_pair_open(&p, c, "slots=4,chunk=256K", CF_TO);
    cf_flow_begin(&f, c, c->first ? p.out : p.in, 300, cf_max_size);
    f.hold = c->first ? 0 : 3;
    bool counting = false;
    while (!cf_flow_done(&f)) {
        if (c->first || cf_random(c) % 4 == 0) {
            cf_flow_move(&f);
        }
        if (!counting && (c->first ? p.out->sent : f.taken) > 20) {
            cf_usage_take(&before);
            counting = true;
        }
        cf_wait_turn(c, c->deadline, "the slow receiver had taken all messages");
    }
    cf_usage_expect(c, &before, 8u << 20, "while a receiver was slow");
    cf_flow_end(&f);
    cf_pair_close(&p, c);
}

// What both ends counted in the end is the same.
void cf_check_credit_counters(struct cf *c) {
    struct counts {
        uint64_t out, in, bytes_out, bytes_in, messages;
    } mine = {0}, other;
    struct cf_pair p;
    cf_pair_open(&p, c, "chunk=32K", CF_BOTH);
    cf_pair_stream(&p, c, 500, cf_any_size, true);
    cf_pair_stream(&p, c, 500, cf_small_size, false);
    cf_sync(c);
    cf_expect(c, p.out->posted == 1000 && p.out->sent == 1000, "posted %llu and sent %llu of 1000",
              (unsigned long long)p.out->posted, (unsigned long long)p.out->sent);
    cf_expect(c, p.in->arrived == 1000 && p.in->released == 1000,
              "arrived %llu and released %llu of 1000", (unsigned long long)p.in->arrived,
              (unsigned long long)p.in->released);
    mine.out = p.out->posted;
    mine.in = p.in->arrived;
    mine.bytes_out = p.n->net->bytes_sent;
    mine.bytes_in = p.n->net->bytes_received;
    mine.messages = p.n->net->messages_sent;
    cf_exchange(c, &mine, sizeof mine);
    memcpy(&other, c->boxes[c->peer].bytes, sizeof other);
    cf_expect(c, mine.out == other.in && mine.in == other.out && mine.messages == 1000,
              "%llu of %llu messages arrived; the net counted %llu", (unsigned long long)other.in,
              (unsigned long long)mine.out, (unsigned long long)mine.messages);
    cf_expect(c, mine.bytes_in == other.bytes_out,
              "the nets counted %llu bytes received and %llu sent",
              (unsigned long long)mine.bytes_in, (unsigned long long)other.bytes_out);
    cf_pair_close(&p, c);
}
