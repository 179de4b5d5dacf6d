// SPDX-License-Identifier: MIT
// Encoders and decoders of the store's messages and of the bootstrap's table; see the header for
// the layout.
#include "transport/bootstrap/store_wire.h"

#include <string.h>

static void put32(uint8_t *at, uint32_t v) {
    at[0] = (uint8_t)(v >> 24);
    at[1] = (uint8_t)(v >> 16);
    at[2] = (uint8_t)(v >> 8);
    at[3] = (uint8_t)v;
}

static uint32_t get32(const uint8_t *at) {
    return (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
}

// A status travels as its negative; only failures that this version knows come back as themselves.
static uint8_t encode_status(rondo_status s) {
    return s <= 0 && s >= RONDO_ERR_INTERNAL ? (uint8_t)-s : (uint8_t)-RONDO_ERR_INTERNAL;
}

static rondo_status decode_status(uint8_t byte) {
    return byte <= -RONDO_ERR_INTERNAL ? (rondo_status)-byte : RONDO_ERR_INTERNAL;
}

// ---- Messages -----------------------------------------------------------------------------------

void rdi_store_encode_request(uint8_t head[RDI_STORE_REQUEST_HEAD],
                              const struct rdi_store_request *r) {
    put32(head, (uint32_t)(RDI_STORE_REQUEST_HEAD - 4 + r->key_len + r->value_len));
    head[4] = (uint8_t)r->op;
    head[5] = (uint8_t)r->key_len;
    head[6] = head[7] = 0;
    put32(head + 8, r->timeout_ms);
}

const char *rdi_store_decode_request(const uint8_t head[RDI_STORE_REQUEST_HEAD],
                                     struct rdi_store_request *out) {
    size_t length = get32(head), key_len = head[5];
    unsigned op = head[4];
    if (op < RDI_STORE_SET || op > RDI_STORE_LEAVE) {
        return "unknown operation";
    }
    if (head[6] != 0 || head[7] != 0) {
        return "reserved bytes are not zero";
    }
    if (key_len == 0) {
        return "empty key";
    }
    if (length < RDI_STORE_REQUEST_HEAD - 4 + key_len) {
        return "length is too small for the key";
    }
    size_t value_len = length - (RDI_STORE_REQUEST_HEAD - 4) - key_len;
    if (value_len > RDI_STORE_VALUE_MAX) {
        return "value is too long";
    }
    if (op == RDI_STORE_GET && value_len != 0) {
        return "a get that carries a value";
    }
    if (op == RDI_STORE_WILL && value_len > RDI_STORE_WILL_MAX) {
        return "the value of a will is too long";
    }
    if (op == RDI_STORE_COME && value_len != RDI_STORE_COME_BYTES) {
        return "whoever comes has to say who it is";
    }
    if (op == RDI_STORE_LEAVE && value_len > RDI_ERROR_TEXT) {
        return "a reason that is too long";
    }
    *out = (struct rdi_store_request){
        .op = op, .timeout_ms = get32(head + 8), .key_len = key_len, .value_len = value_len};
    return NULL;
}

void rdi_store_encode_response(uint8_t head[RDI_STORE_RESPONSE_HEAD],
                               const struct rdi_store_response *r) {
    put32(head, (uint32_t)(RDI_STORE_RESPONSE_HEAD - 4 + r->value_len));
    head[4] = encode_status(r->status);
    head[5] = head[6] = head[7] = 0;
}

const char *rdi_store_decode_response(const uint8_t head[RDI_STORE_RESPONSE_HEAD],
                                      struct rdi_store_response *out) {
    size_t length = get32(head);
    if (length < RDI_STORE_RESPONSE_HEAD - 4 ||
        length - (RDI_STORE_RESPONSE_HEAD - 4) > RDI_STORE_VALUE_MAX) {
        return "impossible length";
    }
    if (head[5] != 0 || head[6] != 0 || head[7] != 0) {
        return "reserved bytes are not zero";
    }
    rondo_status status = decode_status(head[4]);
    size_t value_len = length - (RDI_STORE_RESPONSE_HEAD - 4);
    if (status != RONDO_OK && value_len > (status == RONDO_ERR_PEER ? RDI_ERROR_TEXT : 0)) {
        return "a failure that carries a value";
    }
    *out = (struct rdi_store_response){.status = status, .value_len = value_len};
    return NULL;
}

// ---- Who is who ---------------------------------------------------------------------------------

static void put_host(uint8_t *out, const char *host) {
    memset(out, 0, RDI_HOST_MAX);
    memcpy(out, host, strnlen(host, RDI_HOST_MAX - 1));
}

static void get_host(const uint8_t *in, char *host) {
    memcpy(host, in, RDI_HOST_MAX);
    rdi_printable(host, RDI_HOST_MAX);
}

void rdi_store_encode_come(uint8_t out[RDI_STORE_COME_BYTES], const struct rdi_store_come *c) {
    put32(out, (uint32_t)c->rank);
    put32(out + 4, (uint32_t)c->size);
    put32(out + 8, (uint32_t)c->pid);
    put32(out + 12, c->grace_ms);
    put32(out + 16, c->silence_ms);
    put32(out + 20, (uint32_t)(c->launch >> 32));
    put32(out + 24, (uint32_t)c->launch);
    put_host(out + 28, c->host);
}

const char *rdi_store_decode_come(const uint8_t in[RDI_STORE_COME_BYTES],
                                  struct rdi_store_come *out) {
    uint32_t rank = get32(in), size = get32(in + 4), pid = get32(in + 8);
    uint32_t grace = get32(in + 12), silence = get32(in + 16);
    if (size > RDI_STORE_RANKS || rank >= size || pid > INT32_MAX) {
        return "no rank of a job";
    }
    if (grace > RDI_STORE_GRACE_MAX || silence == 0 || silence > RDI_STORE_GRACE_MAX) {
        return "no time to wait for a sign of life";
    }
    *out = (struct rdi_store_come){.rank = (int)rank,
                                   .size = (int)size,
                                   .pid = (int)pid,
                                   .grace_ms = grace,
                                   .silence_ms = silence,
                                   .launch = (uint64_t)get32(in + 20) << 32 | get32(in + 24)};
    get_host(in + 28, out->host);
    return NULL;
}

void rdi_store_encode_host(uint8_t out[RDI_STORE_HOST_BYTES], const struct rdi_store_host *h) {
    memset(out, 0, 8);
    put32(out, (uint32_t)h->pid);
    out[4] = h->rank_0;
    put_host(out + 8, h->host);
}

const char *rdi_store_decode_host(const uint8_t *in, size_t len, struct rdi_store_host *out) {
    if (len != RDI_STORE_HOST_BYTES || get32(in) > INT32_MAX || in[4] > 1 || in[5] != 0 ||
        in[6] != 0 || in[7] != 0) {
        return "it does not say who serves it";
    }
    *out = (struct rdi_store_host){.pid = (int)get32(in), .rank_0 = in[4] == 1};
    get_host(in + 8, out->host);
    return NULL;
}

const char *rdi_store_check_key(const void *key, size_t len) {
    if (len == 0) {
        return "empty key";
    }
    if (len > RDI_STORE_KEY_MAX) {
        return "key is longer than 255 bytes";
    }
    return memchr(key, '\0', len) != NULL ? "key contains a NUL" : NULL;
}

// ---- Table --------------------------------------------------------------------------------------

#define TABLE_VERSION 1

size_t rdi_table_size(const size_t *lens, size_t n) {
    size_t size = RDI_TABLE_HEAD + 4 * n;
    for (size_t i = 0; i < n; i++) {
        size += lens[i];
    }
    return size;
}

void rdi_table_encode(uint8_t *out, void *const *records, const size_t *lens, size_t n) {
    memset(out, 0, RDI_TABLE_HEAD);
    out[0] = TABLE_VERSION;
    put32(out + 4, (uint32_t)n);
    uint8_t *at = out + RDI_TABLE_HEAD + 4 * n;
    for (size_t i = 0; i < n; i++) {
        put32(out + RDI_TABLE_HEAD + 4 * i, (uint32_t)lens[i]);
        if (lens[i] > 0) {
            memcpy(at, records[i], lens[i]);
        }
        at += lens[i];
    }
}

size_t rdi_table_encode_failure(uint8_t *out, size_t cap, rondo_status status, const char *text) {
    size_t n = strlen(text);
    n = n < cap - RDI_TABLE_HEAD ? n : cap - RDI_TABLE_HEAD;
    memset(out, 0, RDI_TABLE_HEAD);
    out[0] = TABLE_VERSION;
    out[1] = status != RONDO_OK ? encode_status(status) : (uint8_t)-RONDO_ERR_INTERNAL;
    put32(out + 4, (uint32_t)n);
    memcpy(out + RDI_TABLE_HEAD, text, n);
    return RDI_TABLE_HEAD + n;
}

const char *rdi_table_decode(const uint8_t *bytes, size_t len, size_t n, size_t *lens,
                             const uint8_t **records, rondo_status *failure, const char **text,
                             size_t *text_len) {
    if (len < RDI_TABLE_HEAD) {
        return "too short";
    }
    if (bytes[0] != TABLE_VERSION || bytes[2] != 0 || bytes[3] != 0) {
        return "another version of Rondo wrote it";
    }
    size_t count = get32(bytes + 4), rest = len - RDI_TABLE_HEAD;
    if (bytes[1] != 0) {
        if (count != rest) {
            return "the length of its text is wrong";
        }
        *failure = decode_status(bytes[1]);
        *text = (const char *)bytes + RDI_TABLE_HEAD;
        *text_len = rest;
        return NULL;
    }
    if (count != n) {
        return "it has another number of ranks";
    }
    if (rest / 4 < n) {
        return "too short";
    }
    rest -= 4 * n;
    for (size_t i = 0; i < n; i++) {
        size_t one = get32(bytes + RDI_TABLE_HEAD + 4 * i);
        if (one > RDI_EXCHANGE_MAX || one > rest) {
            return "the length of a record is wrong";
        }
        lens[i] = one;
        rest -= one;
    }
    if (rest != 0) {
        return "bytes follow the last record";
    }
    *records = bytes + RDI_TABLE_HEAD + 4 * n;
    *failure = RONDO_OK;
    return NULL;
}
