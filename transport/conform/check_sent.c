// SPDX-License-Identifier: MIT
// `sent`: when it passes a message, and what the sender may do then.
#include "transport/conform/check.h"

#include <stdlib.h>
#include <string.h>

// A block of rondo_mem_alloc(), or of malloc().
static uint8_t *memory_of(struct cf *c, bool shared, size_t bytes) {
    void *at = NULL;
    rondo_status s = RONDO_OK;
    if (shared) {
        s = rondo_mem_alloc(bytes, &at);
    } else {
        at = malloc(bytes);
    }
    cf_expect(c, s == RONDO_OK && at != NULL, "no memory: %s", rondo_last_error());
    return at;
}

static void free_memory(struct cf *c, bool shared, void *at) {
    if (!shared) {
        free(at);
    } else {
        rondo_status s = rondo_mem_free(at);
        cf_expect(c, s == RONDO_OK, "rondo_mem_free() says %s: %s", rondo_status_name(s),
                  rondo_last_error());
    }
}

// The source is overwritten the moment that `sent` passes its message; the receiver must not see that.
void cf_check_sent_scribble(struct cf *c) {
    static const unsigned flags[] = {0, RDI_PUT_ACK, RDI_PUT_COPY, RDI_PUT_ACK | RDI_PUT_COPY};
    struct cf_pair p;
    cf_pair_open(&p, c, "slots=8,chunk=128K", CF_TO);
    for (unsigned i = 0; i < 8; i++) {
        struct cf_flow f;
        bool shared = i % 2 == 0;
        struct rdi_link *l = c->first ? p.out : p.in;
        uint64_t done = c->first ? l->posted : l->released;
        cf_flow_begin(&f, c, l, done + 100, i < 4 ? cf_wild_size : cf_any_size);
        f.taken = done;
        f.flags = flags[i / 2];
        f.scribble = true;
        f.hold = c->first ? 0 : 2;
        if (c->first && shared) {
            free(f.memory);
            f.lent = true;
            f.memory = memory_of(c, true, l->slots * f.stride);
        }
        uint8_t *lent = f.memory;
        cf_flow_run(c, &f, &(struct cf_flow){.link = NULL});
        if (c->first && shared) {
            free_memory(c, true, lent);
        }
        cf_sync(c);
    }
    cf_pair_close(&p, c);
}

// Sends one message of this length from this memory; the receiver polls only and keeps it. Then it is released.
static void send_and_keep(struct cf *c, struct cf_pair *p, const uint8_t *from, uint32_t len,
                          unsigned flags, const char *what) {
    uint64_t seq = c->first ? p->out->posted : p->in->released;
    c->restless = !c->first;
    if (c->first) {
        cf_put_wait(c, p->out, from, len, seq, flags);
        cf_await(c, what, p->out->sent > seq);
    } else {
        cf_await(c, "the message arrived", p->in->arrived > seq);
    }
    cf_sync(c);
    c->restless = false;
    if (!c->first) {
        p->in->ops->release(p->in, seq + 1);
    }
    cf_sync(c);
}

static const uint32_t lengths[] = {0, 1, 64, 5000, 16384, 65536};
#define LENGTHS (sizeof lengths / sizeof *lengths)

void cf_check_sent_ack(struct cf *c) {
    struct cf_pair p;
    cf_pair_open(&p, c, "slots=8,chunk=64K", CF_TO);
    uint8_t *bytes = memory_of(c, false, 65536);
    memset(bytes, 1, 65536);
    for (size_t i = 0; i < 3 * LENGTHS; i++) {
        send_and_keep(c, &p, bytes, lengths[i % LENGTHS], RDI_PUT_ACK | RDI_PUT_COPY,
                      "`sent` passed the message, as RDI_PUT_ACK asks");
    }
    cf_pair_close(&p, c);
    free(bytes);
}

// Memory that the receiver could read in place: RDI_PUT_COPY forbids to wait for its release.
void cf_check_sent_copy(struct cf *c) {
    struct cf_pair p;
    cf_pair_open(&p, c, "slots=8,chunk=64K", CF_TO);
    uint8_t *bytes = memory_of(c, true, 65536);
    for (size_t i = 0; i < 3 * LENGTHS; i++) {
        send_and_keep(c, &p, bytes, lengths[i % LENGTHS], RDI_PUT_ACK | RDI_PUT_COPY,
                      "`sent` passed the message, as RDI_PUT_COPY promises");
    }
    free_memory(c, true, bytes);
    cf_pair_close(&p, c);
}

// Nobody asked for it: the news comes at the latest when the receiver arms.
void cf_check_sent_lazy(struct cf *c) {
    struct cf_pair p;
    cf_pair_open(&p, c, "slots=8,chunk=64K", CF_TO);
    for (uint64_t i = 0; i < 20; i++) {
        for (int shared = 0; shared < 2; shared++) {
            uint8_t *bytes = memory_of(c, shared != 0, 65536);
            uint64_t seq = 2 * i + (uint64_t)shared;
            if (c->first) {
                cf_put_wait(c, p.out, bytes, lengths[i % LENGTHS], seq, 0);
                cf_await(c, "`sent` passed a message that nobody asked for", p.out->sent > seq);
            } else {
                cf_await(c, "the message arrived", p.in->arrived > seq);
                p.in->ops->release(p.in, seq + 1);
                uint64_t timeout = CF_SECOND;
                c->ops->arm(p.n->net, &timeout);
                c->ops->disarm(p.n->net);
            }
            cf_sync(c);
            free_memory(c, shared != 0, bytes);
        }
    }
    cf_pair_close(&p, c);
}
