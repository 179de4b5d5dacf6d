// SPDX-License-Identifier: MIT
// Messages: sizes, places, order, floods.
#include "transport/conform/check.h"

#include <stdlib.h>
#include <string.h>

void cf_check_message_sizes(struct cf *c) {
    struct cf_pair p;
    cf_pair_open(&p, c, NULL, CF_BOTH);
    cf_pair_stream(&p, c, 150, cf_any_size, true);
    cf_pair_stream(&p, c, 150, cf_any_size, false);
    cf_pair_close(&p, c);
}

void cf_check_message_unaligned(struct cf *c) {
    struct cf_pair p;
    struct cf_flow out, in;
    cf_pair_open(&p, c, "chunk=64K", CF_BOTH);
    cf_flow_begin(&out, c, p.out, 256, cf_any_size);
    cf_flow_begin(&in, c, p.in, 256, cf_any_size);
    out.shifts = true;
    cf_flow_run(c, &out, &in);
    cf_pair_close(&p, c);
}

void cf_check_message_too_long(struct cf *c) {
    struct cf_pair p;
    cf_pair_open(&p, c, "chunk=8K", CF_BOTH);
    struct rdi_link *l = p.out;
    uint8_t *bytes = calloc(1, (size_t)l->max_msg + 1);
    cf_expect(c, bytes != NULL, "no memory");
    uint64_t posted = l->posted;
    rondo_status s = cf_put(l, bytes, l->max_msg + 1, 0, 0);
    cf_expect(c, s == RONDO_ERR_INVALID, "put() of max_msg + 1 bytes says %s",
              rondo_status_name(s));
    s = cf_put(l, bytes, UINT32_MAX, 0, 0);
    cf_expect(c, s == RONDO_ERR_INVALID, "put() of 2^32 - 1 bytes says %s", rondo_status_name(s));
    cf_expect(c, l->posted == posted && l->state == RDI_LINK_UP,
              "a refused put() changed the link: posted %llu, state %d",
              (unsigned long long)l->posted, l->state);
    free(bytes);
    cf_pair_stream(&p, c, 20, cf_max_size, false);
    cf_pair_close(&p, c);
}

static void stream(struct cf *c, const char *options, unsigned links, uint64_t count,
                   cf_sizes size) {
    struct cf_pair p;
    cf_pair_open(&p, c, options, links);
    cf_pair_stream(&p, c, count, size, true);
    cf_pair_close(&p, c);
}

void cf_check_message_order(struct cf *c) {
    stream(c, "slots=64,chunk=4K", CF_TO, cf_many(c, 16000), cf_small_size);
    stream(c, "slots=2,chunk=4K", CF_TO, cf_many(c, 2000), cf_small_size);
}

void cf_check_message_overtake(struct cf *c) {
    stream(c, "slots=16,chunk=1M", CF_TO, cf_many(c, 160), cf_wild_size);
}

void cf_check_message_flood(struct cf *c) {
    stream(c, NULL, CF_BOTH, cf_many(c, 300), cf_wild_size);
}

// ---- Landing -------------------------------------------------------------------------------------

enum { LANDINGS = 64 };

struct landing {
    uint8_t *memory;
    size_t stride;
    unsigned asked;
    const void *at[LANDINGS]; // the last answers, and for which message
    uint64_t tag[LANDINGS];
};

// Every second message lands in memory of ours, at odd places.
static void *land(struct cf_net *n, struct rdi_link *link, uint64_t tag, uint32_t len) {
    struct landing *w = n->arg;
    (void)link;
    unsigned i = w->asked++ % LANDINGS;
    uint8_t *at = w->memory + i * w->stride + i % 32;
    memset(at, 0xee, len);
    w->tag[i] = tag;
    w->at[i] = w->asked % 2 == 0 ? at : NULL;
    return w->asked % 2 == 0 ? at : NULL;
}

// Messages that travel on several connections are asked about in another order.
static bool lies_there(const struct landing *w, const struct rdi_msg *m) {
    const uint8_t *data = m->data;
    bool ours = data >= w->memory && data < w->memory + LANDINGS * w->stride;
    unsigned i = 0;
    while (i < LANDINGS && (i >= w->asked || w->tag[i] != m->tag)) {
        i++;
    }
    return i < LANDINGS && (w->at[i] != NULL ? data == w->at[i] : !ours || m->len == 0);
}

void cf_check_message_land(struct cf *c) {
    struct cf_pair p;
    struct landing w = {.stride = (64u << 10) + 64};
    struct cf_flow f;
    w.memory = calloc(LANDINGS, w.stride);
    cf_expect(c, w.memory != NULL, "no memory");
    cf_pair_open(&p, c, "chunk=64K,slots=8", CF_TO);
    cf_sync(c);
    if (!p.n->net->attr.lands) {
        cf_skip(c, "%s receives into slots only (attr.lands)", c->ops->name);
    }
    p.n->arg = &w;
    p.n->on_land = land;
    cf_sync(c);
    struct rdi_link *l = c->first ? p.out : p.in;
    cf_flow_begin(&f, c, l, 200, cf_any_size);
    uint64_t seen = 0;
    while (!cf_flow_done(&f)) {
        struct rdi_msg m;
        for (; !c->first && seen < l->arrived; seen++) {
            l->ops->peek(l, seen, &m);
            cf_expect(c, lies_there(&w, &m), "message %llu does not lie where land() said",
                      (unsigned long long)seen);
        }
        cf_flow_move(&f);
        cf_wait_turn(c, c->deadline, "all messages had landed");
    }
    cf_expect(c, c->first || w.asked == f.count, "land() was asked %u times for %llu messages",
              w.asked, (unsigned long long)f.count);
    cf_flow_end(&f);
    cf_pair_close(&p, c);
    free(w.memory);
}

// ---- Long ----------------------------------------------------------------------------------------

void cf_check_message_sequence(struct cf *c) {
    stream(c, "slots=64,chunk=4K", CF_TO, (UINT64_C(1) << 24) + 100000, cf_small_size);
}

// More than 4 GiB on one link: every counter of bytes has to be wide enough.
void cf_check_message_bytes(struct cf *c) {
    struct cf_pair p;
    struct cf_flow f;
    cf_pair_open(&p, c, NULL, CF_TO);
    struct rdi_link *l = c->first ? p.out : p.in;
    uint64_t count = (UINT64_C(4352) << 20) / l->max_msg;
    cf_flow_begin(&f, c, l, count, cf_max_size);
    cf_flow_run(c, &f, &(struct cf_flow){.link = NULL});
    uint64_t bytes = c->first ? p.n->net->bytes_sent : p.n->net->bytes_received;
    cf_expect(c, bytes == count * l->max_msg, "the net counted %llu bytes instead of %llu",
              (unsigned long long)bytes, (unsigned long long)(count * l->max_msg));
    cf_pair_close(&p, c);
}
