// SPDX-License-Identifier: MIT
// Numbers in little-endian byte order, and a cursor that never leaves its buffer.
//
// Everything that TCP peers tell each other goes through here, so that structs, their padding and the order
// of bytes of a machine never reach the wire.
#ifndef RDI_TRANSPORT_TCP_BYTES_H
#define RDI_TRANSPORT_TCP_BYTES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

static inline void rdi_put_le(uint8_t *at, uint64_t v, unsigned bytes) {
    for (unsigned i = 0; i < bytes; i++) {
        at[i] = (uint8_t)(v >> (8 * i));
    }
}

static inline uint64_t rdi_get_le(const uint8_t *at, unsigned bytes) {
    uint64_t v = 0;
    for (unsigned i = 0; i < bytes; i++) {
        v |= (uint64_t)at[i] << (8 * i);
    }
    return v;
}

// Reads or writes `size` bytes from the start of `at`. A step beyond the end moves nothing, reads zeros and
// clears `ok`, which is looked at once at the end.
struct rdi_cursor {
    uint8_t *at;
    size_t size, used;
    bool ok;
};

static inline uint8_t *rdi_cursor_take(struct rdi_cursor *c, size_t n) {
    if (!c->ok || n > c->size - c->used) {
        c->ok = false;
        return NULL;
    }
    uint8_t *p = c->at + c->used;
    c->used += n;
    return p;
}

static inline uint64_t rdi_cursor_get(struct rdi_cursor *c, unsigned bytes) {
    uint8_t *p = rdi_cursor_take(c, bytes);
    return p != NULL ? rdi_get_le(p, bytes) : 0;
}

static inline void rdi_cursor_put(struct rdi_cursor *c, uint64_t v, unsigned bytes) {
    uint8_t *p = rdi_cursor_take(c, bytes);
    if (p != NULL) {
        rdi_put_le(p, v, bytes);
    }
}

static inline void rdi_cursor_get_bytes(struct rdi_cursor *c, void *out, size_t n) {
    uint8_t *p = rdi_cursor_take(c, n);
    if (p != NULL) {
        memcpy(out, p, n);
    } else {
        memset(out, 0, n);
    }
}

static inline void rdi_cursor_put_bytes(struct rdi_cursor *c, const void *in, size_t n) {
    uint8_t *p = rdi_cursor_take(c, n);
    if (p != NULL) {
        memcpy(p, in, n);
    }
}

// Text as one byte of length and the bytes; `cap` includes the NUL. Only printable ASCII is let in, so that
// it can go into a log line or an error as it is.
static inline void rdi_cursor_put_text(struct rdi_cursor *c, const char *text, size_t cap) {
    size_t n = strnlen(text, cap - 1 < 255 ? cap - 1 : 255);
    rdi_cursor_put(c, n, 1);
    rdi_cursor_put_bytes(c, text, n);
}

static inline void rdi_cursor_get_text(struct rdi_cursor *c, char *out, size_t cap) {
    size_t n = rdi_cursor_get(c, 1);
    out[0] = '\0';
    if (n >= cap) {
        c->ok = false;
        return;
    }
    rdi_cursor_get_bytes(c, out, n);
    out[n] = '\0';
    for (size_t i = 0; i < n; i++) {
        if (out[i] < 0x20 || out[i] > 0x7e) {
            out[i] = '?';
        }
    }
}

#endif
