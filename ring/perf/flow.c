// SPDX-License-Identifier: MIT
// A phase: operations back to back over the links of a pair.
//
// Where a message comes from, its length and its tag follow from its number alone. So when a path was lost
// and link->posted falls back to what the receiver has whole, the same messages simply go out again.
#include "ring/perf/pairs.h"

#include <string.h>

#define STEP 67 // odd, so that payload begins at any alignment
#define PHASE_SHIFT 48

struct piece {
    uint64_t op, tag;
    size_t off;  // in the operation
    size_t from; // of the operation's first byte, in the buffers
    uint32_t len;
    bool last; // of its operation
};

// Message number `i` of a flow.
static struct piece cut(const struct perf_pair *p, const struct perf_phase *f,
                        const struct perf_flow *w, uint64_t i, uint32_t max_msg) {
    struct piece c = {.op = i / w->chunks, .tag = p->phases << PHASE_SHIFT | i};
    uint64_t k = i - c.op * w->chunks;
    c.off = (size_t)k * max_msg;
    c.len = w->bytes - c.off < max_msg ? (uint32_t)(w->bytes - c.off) : max_msg;
    c.last = k + 1 == w->chunks;
    c.from = f->check ? (size_t)(c.op * STEP % PERF_SPREAD) : 0;
    return c;
}

static void set_flow(struct perf_flow *w, uint64_t base, uint32_t max_msg) {
    w->base = base;
    w->chunks = w->bytes > 0 ? (w->bytes + max_msg - 1) / max_msg : 1;
}

uint64_t perf_pair_rounds(const struct perf_pair *p, size_t bytes) {
    struct perf_flow out = {.bytes = bytes}, in = {.bytes = bytes};
    set_flow(&out, 0, p->out->max_msg);
    set_flow(&in, 0, p->in->max_msg);
    uint64_t a = (2 * (uint64_t)p->out->slots + out.chunks - 1) / out.chunks;
    uint64_t b = (2 * (uint64_t)p->in->slots + in.chunks - 1) / in.chunks;
    return a > b ? a : b;
}

struct perf_values perf_pair_values(const struct perf_run *r, uint32_t rep) {
    return (struct perf_values){.type = RONDO_U8, .op = PERF_NONE, .ranks = r->ranks, .rep = rep};
}

// ---- Sending -------------------------------------------------------------------------------------

static bool may_send(const struct perf_pair *p, const struct perf_phase *f, uint64_t op) {
    uint64_t answered = (p->in->released - f->in.base) / f->in.chunks;
    return !f->turns || op < answered + p->first;
}

static int send_ready(struct perf_pair *p, const struct perf_phase *f, rondo_status *s) {
    struct rdi_link *l = p->out;
    uint64_t end = f->out.base + f->out.ops * f->out.chunks;
    int moved = 0;
    while (l->state == RDI_LINK_UP && l->posted < end && l->posted < l->credit) {
        struct piece c = cut(p, f, &f->out, l->posted - f->out.base, l->max_msg);
        if (!may_send(p, f, c.op)) {
            break;
        }
        // `sent` shall say that the receiver has the bytes, not that it has read them in place.
        struct rdi_put put = {.data = p->run->send + c.from + c.off,
                              .len = c.len,
                              .flags = RDI_PUT_COPY | (l->posted + 1 == end ? RDI_PUT_ACK : 0u),
                              .tag = c.tag};
        rondo_status got = l->ops->put(l, &put);
        if (got != RONDO_OK) {
            // A link that is lost or failed is perf_pair_check()'s matter.
            bool link = got == RONDO_AGAIN || l->state == RDI_LINK_LOST ||
                        l->state == RDI_LINK_FAILED;
            *s = link ? RONDO_OK : got;
            break;
        }
        moved++;
    }
    return moved;
}

// ---- Receiving -----------------------------------------------------------------------------------

static void check_piece(const struct perf_pair *p, struct perf_phase *f, const struct piece *c,
                        const void *data) {
    const struct perf_run *r = p->run;
    struct perf_values v = perf_pair_values(r, f->rep);
    char *to = r->recv + c->off;
    if (c->len == 0) {
        return;
    }
    memcpy(to, data, c->len);
    if (f->corrupt) {
        to[c->len / 2] ^= 1;
        f->corrupt = false;
    }
    f->wrong += perf_check(&v, p->peer, c->from + c->off, c->len, to);
}

static void count_op(const struct perf_pair *p, struct perf_phase *f, uint64_t op) {
    if (!f->turns || !p->first || op + 1 < f->skip) {
        return;
    }
    double now = perf_now_us();
    if (op + 1 == f->skip) {
        f->begin = now;
    } else if (f->times != NULL) {
        f->times[op - f->skip] = now - f->end;
    }
    f->end = now;
}

static int take_arrived(struct perf_pair *p, struct perf_phase *f, rondo_status *s) {
    struct rdi_link *l = p->in;
    uint64_t end = f->in.base + f->in.ops * f->in.chunks;
    int moved = 0;
    for (; l->released < l->arrived && l->released < end; moved++) {
        struct piece c = cut(p, f, &f->in, l->released - f->in.base, l->max_msg);
        struct rdi_msg m;
        l->ops->peek(l, l->released, &m);
        if (m.tag != c.tag || m.len != c.len) {
            *s = rdi_fail(RONDO_ERR_INTERNAL,
                          "rank %d received a message of %u bytes with tag %llx from rank %d, and "
                          "%u bytes with tag %llx are due; please report this",
                          p->run->rank, m.len, (unsigned long long)m.tag, p->peer, c.len,
                          (unsigned long long)c.tag);
            break;
        }
        if (f->check) {
            check_piece(p, f, &c, m.data);
        }
        l->ops->release(l, l->released + 1);
        if (c.last) {
            count_op(p, f, c.op);
        }
    }
    return moved;
}

// ---- All of it -----------------------------------------------------------------------------------

static bool is_over(const struct perf_pair *p, const struct perf_phase *f) {
    return p->out->sent >= f->out.base + f->out.ops * f->out.chunks &&
           p->in->released >= f->in.base + f->in.ops * f->in.chunks;
}

rondo_status perf_pair_run(struct perf_pair *p, struct perf_phase *f) {
    rondo_status s = RONDO_OK;
    // All that was sent before has arrived, and all that arrived was taken.
    set_flow(&f->out, p->out->posted, p->out->max_msg);
    set_flow(&f->in, p->in->released, p->in->max_msg);
    p->phases++;
    p->idle_since = 0;
    f->begin = f->end = perf_now_us();
    while (s == RONDO_OK && !is_over(p, f)) {
        int moved = send_ready(p, f, &s);
        moved += p->net->ops->progress(p->net, true);
        moved += s == RONDO_OK ? take_arrived(p, f, &s) : 0;
        s = s == RONDO_OK ? perf_pair_check(p) : s;
        if (moved > 0) {
            p->idle_since = 0;
        } else if (s == RONDO_OK && !is_over(p, f)) {
            s = perf_pair_idle(p);
        }
    }
    if (!f->turns) {
        f->end = perf_now_us();
    }
    return s;
}
