// SPDX-License-Identifier: MIT
// Streams of messages whose every byte, length, tag, signature and order is verified.
#include "transport/conform/check.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// ---- Contents ------------------------------------------------------------------------------------

// Eight bytes at a time: word i of message seq.
static uint64_t word_at(uint64_t start, uint64_t i) {
    uint64_t x = start + i * UINT64_C(0x9e3779b97f4a7c15);
    x = (x ^ (x >> 32)) * UINT64_C(0xd6e8feb86659fd93);
    return x ^ (x >> 32);
}

static uint64_t start_of(uint64_t key, uint64_t seq, uint32_t len) {
    return word_at(key, seq) ^ (uint64_t)len << 40;
}

void cf_fill(void *at, uint64_t key, uint64_t seq, uint32_t len) {
    uint64_t start = start_of(key, seq, len), i = 0;
    char *to = at;
    for (; len >= 8; to += 8, len -= 8, i++) {
        uint64_t w = word_at(start, i);
        memcpy(to, &w, 8);
    }
    uint64_t last = word_at(start, i);
    memcpy(to, &last, len);
}

bool cf_matches(const void *at, uint64_t key, uint64_t seq, uint32_t len) {
    uint64_t start = start_of(key, seq, len), i = 0;
    const char *from = at;
    for (; len >= 8; from += 8, len -= 8, i++) {
        uint64_t w = word_at(start, i);
        if (memcmp(from, &w, 8) != 0) {
            return false;
        }
    }
    uint64_t last = word_at(start, i);
    return memcmp(from, &last, len) == 0;
}

// ---- Sizes ---------------------------------------------------------------------------------------

uint32_t cf_any_size(uint64_t key, uint64_t seq, uint32_t max) {
    const uint32_t sizes[] = {0,    1,       max,   7,    64,      max - 1, 4096,  63,
                              65,   max / 2, 31,    4097, 0,       96,      max,   2,
                              1023, 220,     16384, 221,  max / 3, 16383,   12345, 92};
    uint32_t n = sizes[(seq + key % 5) % (sizeof sizes / sizeof *sizes)];
    return n < max ? n : max;
}

uint32_t cf_max_size(uint64_t key, uint64_t seq, uint32_t max) {
    (void)key, (void)seq;
    return max;
}

uint32_t cf_small_size(uint64_t key, uint64_t seq, uint32_t max) {
    uint32_t n = (uint32_t)(word_at(key, seq) % 65);
    return n < max ? n : max;
}

uint32_t cf_wild_size(uint64_t key, uint64_t seq, uint32_t max) {
    return seq % 2 == 0 ? max : (uint32_t)(word_at(key, seq) % 3);
}

// ---- Flows ---------------------------------------------------------------------------------------

#define TAG(f, seq) ((seq)*5 + (f)->key % 1000)

void cf_flow_begin(struct cf_flow *f, struct cf *c, struct rdi_link *link, uint64_t count,
                   cf_sizes size) {
    *f = (struct cf_flow){.c = c, .link = link, .count = count, .size = size};
    if (link == NULL) {
        return;
    }
    // What both ends know of the link.
    f->key = word_at(c->shared_random,
                     link->id.comm * 1000003 + link->id.from * UINT64_C(1009) + link->id.to);
    f->stride = ((size_t)link->max_msg + 128) & ~(size_t)63;
    if (link->sender) {
        f->scribbled = link->sent;
        f->memory = malloc(link->slots * f->stride);
        cf_expect(c, f->memory != NULL, "no memory");
    }
}

static uint8_t *source_of(const struct cf_flow *f, uint64_t seq) {
    return f->memory + seq % f->link->slots * f->stride + (f->shifts ? seq % 64 : 0);
}

static bool put_next(struct cf_flow *f) {
    struct rdi_link *l = f->link;
    uint64_t seq = l->posted;
    uint8_t sig[RDI_SIG_BYTES], *at = source_of(f, seq);
    struct rdi_put put = {.data = at,
                          .len = f->size(f->key, seq, l->max_msg),
                          .flags = f->flags,
                          .tag = TAG(f, seq),
                          .sig = f->signs && seq % 2 == 1 ? sig : NULL};
    cf_fill(at, f->key, seq, put.len);
    cf_fill(sig, f->key, ~seq, sizeof sig);
    rondo_status s = l->ops->put(l, &put);
    memset(sig, 0xaa, sizeof sig); // put() has copied it
    cf_expect(f->c, s == RONDO_OK || s == RONDO_AGAIN || l->state != RDI_LINK_UP,
              "put() of message %llu, %u bytes, says %s: %s", (unsigned long long)seq, put.len,
              rondo_status_name(s), rondo_last_error());
    cf_expect(f->c, l->posted == seq + (s == RONDO_OK),
              "put() says %s and posted went from %llu to "
              "%llu",
              rondo_status_name(s), (unsigned long long)seq, (unsigned long long)l->posted);
    return s == RONDO_OK;
}

// What was sent is the caller's own again: it may be overwritten.
static void scribble(struct cf_flow *f) {
    struct rdi_link *l = f->link;
    for (; f->scribble && f->scribbled < l->sent; f->scribbled++) {
        memset(source_of(f, f->scribbled), 0xdd, f->size(f->key, f->scribbled, l->max_msg));
    }
}

static unsigned move_sender(struct cf_flow *f) {
    struct rdi_link *l = f->link;
    unsigned moved = 0;
    scribble(f);
    while (l->state == RDI_LINK_UP && l->posted < f->count && l->posted < l->credit &&
           l->posted < l->sent + l->slots && put_next(f)) {
        moved++;
        scribble(f);
    }
    return moved;
}

static void verify(struct cf_flow *f, uint64_t seq) {
    struct rdi_link *l = f->link;
    struct rdi_msg m;
    l->ops->peek(l, seq, &m);
    uint32_t len = f->size(f->key, seq, l->max_msg);
    unsigned long long q = seq;
    cf_expect(f->c, m.tag == TAG(f, seq) && m.len == len,
              "message %llu arrived with tag %llu and %u bytes instead of tag %llu and %u bytes", q,
              (unsigned long long)m.tag, m.len, (unsigned long long)TAG(f, seq), len);
    cf_expect(f->c, cf_matches(m.data, f->key, seq, len),
              "message %llu of %u bytes arrived with other contents", q, len);
    bool wants = f->signs && seq % 2 == 1;
    cf_expect(f->c, (m.sig != NULL) == wants, "message %llu arrived %s a signature", q,
              wants ? "without" : "with");
    cf_expect(f->c, !wants || cf_matches(m.sig, f->key, ~seq, RDI_SIG_BYTES),
              "message %llu arrived with another signature", q);
    f->bytes += len;
}

static unsigned move_receiver(struct cf_flow *f) {
    struct rdi_link *l = f->link;
    unsigned moved = 0;
    // What comes behind belongs to somebody else.
    for (; f->taken < l->arrived && f->taken < f->count; f->taken++, moved++) {
        verify(f, f->taken);
    }
    uint64_t keep = f->taken < f->count ? f->hold : 0;
    uint64_t upto = f->taken > keep ? f->taken - keep : 0;
    if (upto > l->released) {
        l->ops->release(l, upto);
    }
    return moved;
}

unsigned cf_flow_move(struct cf_flow *f) {
    if (f->link == NULL) {
        return 0;
    }
    cf_expect(f->c,
              f->may_end || (f->link->state != RDI_LINK_LOST && f->link->state != RDI_LINK_FAILED),
              "a link was lost or failed, and nothing had been done to it: %s", f->link->why);
    return f->link->sender ? move_sender(f) : move_receiver(f);
}

bool cf_flow_done(const struct cf_flow *f) {
    const struct rdi_link *l = f->link;
    if (l == NULL) {
        return true;
    }
    return l->sender ? l->sent >= f->count : f->taken >= f->count;
}

void cf_flow_end(struct cf_flow *f) {
    if (!f->lent) {
        free(f->memory);
    }
    f->memory = NULL;
}

void cf_flow_run(struct cf *c, struct cf_flow *out, struct cf_flow *in) {
    cf_await(c, "all messages were sent and received",
             (cf_flow_move(out), cf_flow_move(in), cf_flow_done(out) && cf_flow_done(in)));
    cf_flow_end(out);
    cf_flow_end(in);
}

void cf_pair_stream(struct cf_pair *p, struct cf *c, uint64_t count, cf_sizes size, bool signs) {
    struct cf_flow out, in;
    cf_flow_begin(&out, c, p->out, p->out != NULL ? p->out->posted + count : 0, size);
    cf_flow_begin(&in, c, p->in, p->in != NULL ? p->in->released + count : 0, size);
    in.taken = p->in != NULL ? p->in->released : 0;
    out.signs = in.signs = signs;
    out.flags = RDI_PUT_ACK;
    cf_flow_run(c, &out, &in);
}

void cf_pair_hello(struct cf_pair *p, struct cf *c) { cf_pair_stream(p, c, 1, cf_any_size, false); }

rondo_status cf_put(struct rdi_link *link, const void *data, uint32_t len, uint64_t tag,
                    unsigned flags) {
    struct rdi_put put = {.data = data, .len = len, .tag = tag, .flags = flags};
    return link->ops->put(link, &put);
}

void cf_put_wait(struct cf *c, struct rdi_link *link, const void *data, uint32_t len, uint64_t tag,
                 unsigned flags) {
    rondo_status s;
    cf_await(c, "put() took a message", (s = cf_put(link, data, len, tag, flags)) != RONDO_AGAIN);
    cf_expect(c, s == RONDO_OK, "put() of %u bytes says %s: %s", len, rondo_status_name(s),
              rondo_last_error());
}
