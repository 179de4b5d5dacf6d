// SPDX-License-Identifier: MIT
// Encodes and decodes what wire.h describes. A peer that proved the job's key may still be wrong, so every
// field is checked here as far as it can be without knowing the link, and against the link afterwards.
#include "transport/verbs/wire.h"

#include "transport/tcp/bytes.h"

#define MAGIC 0x7752u // "Rw"
#define ID_MAX 0xffffffu

// ---- Set-up --------------------------------------------------------------------------------------

static void put_queue_pairs(struct rdi_cursor *c, const struct rdi_verbs_msg *m) {
    rdi_cursor_put(c, m->mode, 1);
    rdi_cursor_put(c, m->slots, 4);
    rdi_cursor_put(c, m->max_msg, 4);
    rdi_cursor_put(c, m->npairs, 1);
    rdi_cursor_put(c, m->nqps, 1);
    for (unsigned i = 0; i < m->npairs; i++) {
        rdi_cursor_put(c, m->pairs[i].from, 1);
        rdi_cursor_put(c, m->pairs[i].to, 1);
        rdi_cursor_put(c, m->pairs[i].mtu, 1);
        rdi_cursor_put(c, m->pairs[i].rkey, 4);
    }
    for (unsigned i = 0; i < m->nqps; i++) {
        rdi_cursor_put(c, m->qps[i].qpn, 3);
        rdi_cursor_put(c, m->qps[i].psn, 3);
    }
}

static void get_queue_pairs(struct rdi_cursor *c, struct rdi_verbs_msg *m) {
    unsigned mode = (unsigned)rdi_cursor_get(c, 1);
    m->mode = (enum rdi_verbs_mode)mode;
    m->slots = (uint32_t)rdi_cursor_get(c, 4);
    m->max_msg = (uint32_t)rdi_cursor_get(c, 4);
    m->npairs = (unsigned)rdi_cursor_get(c, 1);
    m->nqps = (unsigned)rdi_cursor_get(c, 1);
    if (mode > RDI_VERBS_SEND || m->slots == 0 || m->slots > 1024 || m->max_msg == 0 ||
        m->max_msg > RDI_VERBS_MSG_MAX || m->max_msg % 64 != 0 || m->npairs == 0 ||
        m->npairs > RDI_VERBS_RAILS || m->nqps == 0 || m->nqps % m->npairs != 0 ||
        m->nqps / m->npairs > RDI_VERBS_QPS) {
        c->ok = false;
        return;
    }
    for (unsigned i = 0; i < m->npairs; i++) {
        m->pairs[i].from = (uint8_t)rdi_cursor_get(c, 1);
        m->pairs[i].to = (uint8_t)rdi_cursor_get(c, 1);
        m->pairs[i].mtu = (uint8_t)rdi_cursor_get(c, 1);
        m->pairs[i].rkey = (uint32_t)rdi_cursor_get(c, 4);
        c->ok = c->ok && m->pairs[i].from < RDI_VERBS_RAILS && m->pairs[i].to < RDI_VERBS_RAILS &&
                m->pairs[i].mtu >= IBV_MTU_256 && m->pairs[i].mtu <= IBV_MTU_4096;
    }
    for (unsigned i = 0; i < m->nqps; i++) {
        m->qps[i].qpn = (uint32_t)rdi_cursor_get(c, 3);
        m->qps[i].psn = (uint32_t)rdi_cursor_get(c, 3);
    }
}

static void put_memory(struct rdi_cursor *c, const struct rdi_verbs_msg *m) {
    rdi_cursor_put(c, m->base, 8);
    rdi_cursor_put(c, m->apart, 1);
    rdi_cursor_put(c, m->payload, 8);
    for (unsigned i = 0; i < m->npairs; i++) {
        rdi_cursor_put(c, m->pairs[i].payload_rkey, 4);
    }
}

// A message's address is computed without a check later on.
static bool wraps(uint64_t base, uint64_t slots, uint64_t each) {
    return base > UINT64_MAX - slots * each;
}

static void get_memory(struct rdi_cursor *c, struct rdi_verbs_msg *m) {
    m->base = rdi_cursor_get(c, 8);
    unsigned apart = (unsigned)rdi_cursor_get(c, 1);
    m->apart = apart == 1;
    m->payload = rdi_cursor_get(c, 8);
    for (unsigned i = 0; i < m->npairs && c->ok; i++) {
        m->pairs[i].payload_rkey = (uint32_t)rdi_cursor_get(c, 4);
    }
    c->ok = c->ok && apart <= 1 && (!m->apart || m->mode != RDI_VERBS_SEND) &&
            !wraps(m->base, m->slots, RDI_VERBS_HEADER + (uint64_t)m->max_msg) &&
            !wraps(m->payload, m->slots, m->max_msg);
}

static void put_address(struct rdi_cursor *c, const struct rdi_verbs_address *a) {
    uint8_t bytes[RDI_VERBS_ADDRESS_MAX];
    size_t n = rdi_verbs_address_write(a, bytes);
    rdi_cursor_put(c, n, 2);
    rdi_cursor_put_bytes(c, bytes, n);
}

static void get_address(struct rdi_cursor *c, struct rdi_verbs_address *a) {
    size_t n = (size_t)rdi_cursor_get(c, 2);
    const uint8_t *bytes = rdi_cursor_take(c, n);
    c->ok = bytes != NULL && rdi_verbs_address_read(a, bytes, n);
}

// A text of up to RDI_VERBS_TEXT bytes: longer than rdi_cursor_put_text() takes.
static void put_text(struct rdi_cursor *c, const char *text) {
    size_t n = strnlen(text, RDI_VERBS_TEXT - 1);
    rdi_cursor_put(c, n, 2);
    rdi_cursor_put_bytes(c, text, n);
}

static void get_text(struct rdi_cursor *c, char out[RDI_VERBS_TEXT]) {
    size_t n = (size_t)rdi_cursor_get(c, 2);
    out[0] = '\0';
    if (n >= RDI_VERBS_TEXT) {
        c->ok = false;
        return;
    }
    rdi_cursor_get_bytes(c, out, n);
    out[n] = '\0';
    for (size_t i = 0; i < n; i++) {
        // It goes into log lines as it is.
        if (out[i] < 0x20 || out[i] > 0x7e) {
            out[i] = '?';
        }
    }
}

size_t rdi_verbs_msg_write(const struct rdi_verbs_msg *m, uint8_t out[RDI_CTRL_MAX]) {
    struct rdi_cursor c = {.at = out, .size = RDI_CTRL_MAX, .ok = true};
    rdi_cursor_put(&c, MAGIC, 2);
    rdi_cursor_put(&c, m->epoch, 4);
    rdi_cursor_put(&c, m->attempt, 4);
    switch (m->type) {
    case RDI_VERBS_OFFER:
        put_queue_pairs(&c, m);
        rdi_cursor_put_text(&c, m->host, sizeof m->host);
        put_address(&c, &m->address);
        break;
    case RDI_VERBS_GRANT:
        put_queue_pairs(&c, m);
        put_memory(&c, m);
        rdi_cursor_put(&c, m->arrived, 8);
        rdi_cursor_put(&c, m->released, 8);
        break;
    case RDI_VERBS_AGAIN:
        rdi_cursor_put(&c, m->bad, 1);
        put_text(&c, m->text);
        break;
    case RDI_VERBS_FAIL:
        rdi_cursor_put(&c, (uint64_t)(-(int)m->status), 1);
        put_text(&c, m->text);
        break;
    case RDI_VERBS_LOST:
        put_text(&c, m->text);
        break;
    case RDI_VERBS_BYE:
        rdi_cursor_put(&c, m->posted, 8);
        rdi_cursor_put(&c, m->arrived, 8);
        rdi_cursor_put(&c, m->released, 8);
        break;
    case RDI_VERBS_READY:
        break;
    }
    return c.used;
}

bool rdi_verbs_msg_read(struct rdi_verbs_msg *m, unsigned type, const void *in, size_t len) {
    // The cursor only reads it.
    struct rdi_cursor c = {.at = (uint8_t *)(uintptr_t)in, .size = len, .ok = true};
    memset(m, 0, sizeof *m);
    c.ok = rdi_cursor_get(&c, 2) == MAGIC;
    m->epoch = (uint32_t)rdi_cursor_get(&c, 4);
    m->attempt = (uint32_t)rdi_cursor_get(&c, 4);
    m->type = (enum rdi_verbs_type)type;
    switch (type) {
    case RDI_VERBS_OFFER:
        get_queue_pairs(&c, m);
        rdi_cursor_get_text(&c, m->host, sizeof m->host);
        get_address(&c, &m->address);
        break;
    case RDI_VERBS_GRANT:
        get_queue_pairs(&c, m);
        get_memory(&c, m);
        m->arrived = rdi_cursor_get(&c, 8);
        m->released = rdi_cursor_get(&c, 8);
        c.ok = c.ok && m->released <= m->arrived && m->arrived - m->released <= m->slots;
        break;
    case RDI_VERBS_AGAIN:
        m->bad = (unsigned)rdi_cursor_get(&c, 1);
        get_text(&c, m->text);
        break;
    case RDI_VERBS_FAIL:
        m->status = (rondo_status)(-(int)rdi_cursor_get(&c, 1));
        get_text(&c, m->text);
        c.ok = c.ok && m->status < 0;
        break;
    case RDI_VERBS_LOST:
        get_text(&c, m->text);
        break;
    case RDI_VERBS_BYE:
        m->posted = rdi_cursor_get(&c, 8);
        m->arrived = rdi_cursor_get(&c, 8);
        m->released = rdi_cursor_get(&c, 8);
        c.ok = c.ok && m->released <= m->arrived;
        break;
    case RDI_VERBS_READY:
        break;
    default:
        return false;
    }
    return c.ok && c.used == len;
}

// ---- Stripes -------------------------------------------------------------------------------------

struct rdi_verbs_cut rdi_verbs_cut(uint32_t bytes, uint32_t least, unsigned nqps) {
    uint64_t most = nqps < RDI_VERBS_STRIPES ? nqps : RDI_VERBS_STRIPES;
    uint64_t n = bytes / least;
    n = n < 1 ? 1 : n > most ? most : n;
    uint64_t piece = ((bytes + n - 1) / n + 63) / 64 * 64;
    return (struct rdi_verbs_cut){.stripes = (unsigned)((bytes + piece - 1) / piece),
                                  .piece = (uint32_t)piece};
}

uint32_t rdi_verbs_imm(unsigned index, unsigned stripes, uint64_t seq) {
    return (uint32_t)index << 28 | (uint32_t)(stripes - 1) << RDI_VERBS_SEQ_BITS |
           ((uint32_t)seq & ID_MAX);
}

bool rdi_verbs_imm_read(uint32_t imm, uint64_t from, uint64_t limit, unsigned *index,
                        unsigned *stripes, uint64_t *seq) {
    *index = imm >> 28;
    *stripes = (imm >> RDI_VERBS_SEQ_BITS & 0xf) + 1;
    *seq = from + ((imm - (uint32_t)from) & ID_MAX);
    return *index < *stripes && *seq < limit;
}
