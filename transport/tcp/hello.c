// SPDX-License-Identifier: MIT
// Encoding and checked decoding of addresses and handshake payloads.
#include "transport/tcp/hello.h"

#include "transport/tcp/bytes.h"

#define BLOB_VERSION 2
#define HELLO_VERSION 1
#define LOOPBACK 1u // flags of an address
#define PREFERRED 2u

static struct rdi_cursor reader(const void *in, size_t len) {
    // The cursor writes for encoders only.
    return (struct rdi_cursor){.at = (uint8_t *)(uintptr_t)in, .size = len, .ok = true};
}

static struct rdi_cursor writer(uint8_t *out, size_t size) {
    return (struct rdi_cursor){.at = out, .size = size, .ok = true};
}

static bool finished(const struct rdi_cursor *c) { return c->ok && c->used == c->size; }

// ---- Addresses -----------------------------------------------------------------------------------

size_t rdi_tcp_blob_write(const struct rdi_tcp_blob *b, uint8_t out[RDI_BLOB_MAX]) {
    struct rdi_cursor c = writer(out, RDI_BLOB_MAX);
    rdi_cursor_put(&c, BLOB_VERSION, 1);
    rdi_cursor_put_bytes(&c, b->host_id, sizeof b->host_id);
    rdi_cursor_put_text(&c, b->host, sizeof b->host);
    rdi_cursor_put(&c, b->count, 1);
    for (unsigned i = 0; i < b->count; i++) {
        const struct rdi_tcp_addr *a = &b->addr[i];
        rdi_cursor_put(&c, a->family, 1);
        rdi_cursor_put(&c, a->device, 1);
        rdi_cursor_put(&c, a->prefix, 1);
        rdi_cursor_put(&c, (a->loopback ? LOOPBACK : 0) | (a->preferred ? PREFERRED : 0), 1);
        rdi_cursor_put(&c, a->port, 2);
        rdi_cursor_put(&c, a->scope, 4);
        rdi_cursor_put_bytes(&c, a->ip, a->family == 4 ? 4 : 16);
    }
    return c.ok ? c.used : 0;
}

static bool read_addr(struct rdi_tcp_addr *a, struct rdi_cursor *c) {
    memset(a, 0, sizeof *a);
    a->family = (uint8_t)rdi_cursor_get(c, 1);
    a->device = (uint8_t)rdi_cursor_get(c, 1);
    a->prefix = (uint8_t)rdi_cursor_get(c, 1);
    uint64_t flags = rdi_cursor_get(c, 1);
    a->loopback = flags & LOOPBACK;
    a->preferred = flags & PREFERRED;
    a->port = (uint16_t)rdi_cursor_get(c, 2);
    a->scope = (uint32_t)rdi_cursor_get(c, 4);
    if (!c->ok || (a->family != 4 && a->family != 6) || flags > PREFERRED || a->port == 0) {
        return false;
    }
    unsigned bytes = a->family == 4 ? 4 : 16;
    rdi_cursor_get_bytes(c, a->ip, bytes);
    return c->ok && a->prefix <= 8 * bytes;
}

bool rdi_tcp_blob_read(struct rdi_tcp_blob *b, const void *in, size_t len) {
    struct rdi_cursor c = reader(in, len);
    if (rdi_cursor_get(&c, 1) != BLOB_VERSION) {
        return false;
    }
    rdi_cursor_get_bytes(&c, b->host_id, sizeof b->host_id);
    rdi_cursor_get_text(&c, b->host, sizeof b->host);
    b->count = (unsigned)rdi_cursor_get(&c, 1);
    if (!c.ok || b->count > RDI_TCP_ADDRS) {
        return false;
    }
    for (unsigned i = 0; i < b->count; i++) {
        if (!read_addr(&b->addr[i], &c)) {
            return false;
        }
    }
    return finished(&c);
}

rondo_status rdi_tcp_blob_fail(const void *in, size_t len, const char *whose) {
    unsigned version = len > 0 ? *(const uint8_t *)in : BLOB_VERSION;
    if (version != BLOB_VERSION) {
        return rdi_fail(RONDO_ERR_INVALID,
                        "the tcp address of %s has format %u, and this version of Rondo knows "
                        "format %d: use one version on all hosts",
                        whose, version, BLOB_VERSION);
    }
    return rdi_fail(RONDO_ERR_INVALID, "the tcp address of %s, %zu bytes, is malformed", whose,
                    len);
}

// ---- Hello ---------------------------------------------------------------------------------------

size_t rdi_tcp_hello_write(const struct rdi_tcp_hello *h, uint8_t out[RDI_HS_PAYLOAD]) {
    struct rdi_cursor c = writer(out, RDI_HS_PAYLOAD);
    rdi_cursor_put(&c, HELLO_VERSION, 1);
    rdi_cursor_put(&c, h->flags, 1);
    rdi_cursor_put(&c, h->id.comm, 8);
    rdi_cursor_put(&c, h->id.from, 4);
    rdi_cursor_put(&c, h->id.to, 4);
    rdi_cursor_put(&c, h->id.channel, 4);
    rdi_cursor_put(&c, h->session, 8);
    rdi_cursor_put(&c, h->epoch, 4);
    rdi_cursor_put(&c, h->attempt, 4);
    rdi_cursor_put(&c, h->path, 2);
    rdi_cursor_put(&c, h->paths, 2);
    rdi_cursor_put(&c, h->slots, 4);
    rdi_cursor_put(&c, h->max_msg, 4);
    rdi_cursor_put(&c, h->port, 2);
    rdi_cursor_put_text(&c, h->host, sizeof h->host);
    return c.ok ? c.used : 0;
}

static bool sizes_are_sane(uint32_t slots, uint32_t max_msg) {
    return slots >= 1 && slots <= RDI_TCP_SLOTS_MAX && max_msg >= 64 &&
           max_msg <= RDI_TCP_MSG_MAX && max_msg % 64 == 0;
}

bool rdi_tcp_hello_read(struct rdi_tcp_hello *h, const void *in, size_t len) {
    struct rdi_cursor c = reader(in, len);
    if (rdi_cursor_get(&c, 1) != HELLO_VERSION) {
        return false;
    }
    h->flags = (unsigned)rdi_cursor_get(&c, 1);
    h->id.comm = rdi_cursor_get(&c, 8);
    h->id.from = (uint32_t)rdi_cursor_get(&c, 4);
    h->id.to = (uint32_t)rdi_cursor_get(&c, 4);
    h->id.channel = (uint32_t)rdi_cursor_get(&c, 4);
    h->session = rdi_cursor_get(&c, 8);
    h->epoch = (uint32_t)rdi_cursor_get(&c, 4);
    h->attempt = (uint32_t)rdi_cursor_get(&c, 4);
    h->path = (uint32_t)rdi_cursor_get(&c, 2);
    h->paths = (uint32_t)rdi_cursor_get(&c, 2);
    h->slots = (uint32_t)rdi_cursor_get(&c, 4);
    h->max_msg = (uint32_t)rdi_cursor_get(&c, 4);
    h->port = (uint16_t)rdi_cursor_get(&c, 2);
    rdi_cursor_get_text(&c, h->host, sizeof h->host);
    return finished(&c) && h->flags <= (RDI_TCP_RESUME | RDI_TCP_PROBE | RDI_TCP_SEALED) &&
           h->paths >= 1 && h->paths <= RDI_TCP_PATHS && h->path < h->paths &&
           sizes_are_sane(h->slots, h->max_msg);
}

// ---- Reply ---------------------------------------------------------------------------------------

size_t rdi_tcp_reply_write(const struct rdi_tcp_reply *r, uint8_t out[RDI_HS_PAYLOAD]) {
    struct rdi_cursor c = writer(out, RDI_HS_PAYLOAD);
    rdi_cursor_put(&c, HELLO_VERSION, 1);
    rdi_cursor_put(&c, (uint32_t)(int)r->status, 4);
    rdi_cursor_put(&c, r->slots, 4);
    rdi_cursor_put(&c, r->max_msg, 4);
    rdi_cursor_put(&c, r->arrived, 8);
    rdi_cursor_put(&c, r->released, 8);
    rdi_cursor_put_text(&c, r->text, sizeof r->text);
    return c.ok ? c.used : 0;
}

bool rdi_tcp_reply_read(struct rdi_tcp_reply *r, const void *in, size_t len) {
    struct rdi_cursor c = reader(in, len);
    if (rdi_cursor_get(&c, 1) != HELLO_VERSION) {
        return false;
    }
    int32_t status = (int32_t)(uint32_t)rdi_cursor_get(&c, 4);
    r->slots = (uint32_t)rdi_cursor_get(&c, 4);
    r->max_msg = (uint32_t)rdi_cursor_get(&c, 4);
    r->arrived = rdi_cursor_get(&c, 8);
    r->released = rdi_cursor_get(&c, 8);
    rdi_cursor_get_text(&c, r->text, sizeof r->text);
    if (!finished(&c) || status > RONDO_AGAIN || status < RONDO_ERR_INTERNAL) {
        return false;
    }
    r->status = (rondo_status)status;
    // The answer to a probe has no sizes.
    return r->released <= r->arrived &&
           ((r->slots == 0 && r->max_msg == 0) || sizes_are_sane(r->slots, r->max_msg));
}
