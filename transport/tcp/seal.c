// SPDX-License-Identifier: MIT
// Sealing and opening of records; see the header for what that gives.
//
// secretstream's keys and nonces move on with every record, so nothing here counts, and a stream may be of any length.
#include "transport/tcp/seal.h"

#include "transport/tcp/bytes.h"

#include <sodium.h>

struct rdi_seal_keys {
    crypto_secretstream_xchacha20poly1305_state out;
    union {
        uint8_t key[RDI_KEY_BYTES]; // until the prefix is there
        crypto_secretstream_xchacha20poly1305_state state;
    } in;
    uint8_t prefix[RDI_SEAL_PREFIX]; // until it is sent; no secret
};
_Static_assert(sizeof(struct rdi_seal_keys) <= RDI_SECRET_BYTES, "fits into secret memory");
_Static_assert(RDI_SEAL_PREFIX == crypto_secretstream_xchacha20poly1305_HEADERBYTES, "prefix");
_Static_assert(RDI_KEY_BYTES == crypto_secretstream_xchacha20poly1305_KEYBYTES, "key");
_Static_assert(RDI_SEAL_MORE == RDI_SEAL_LENGTH + crypto_secretstream_xchacha20poly1305_ABYTES,
               "a record is longer than what it holds");

bool rdi_seal_begin(struct rdi_seal *s, const struct rdi_hs *hs) {
    uint8_t key[RDI_KEY_BYTES];
    *s = (struct rdi_seal){.keys = rdi_secret_new()};
    if (s->keys == NULL) {
        return false;
    }
    rdi_hs_session_key(hs, hs->connector, key);
    crypto_secretstream_xchacha20poly1305_init_push(&s->keys->out, s->keys->prefix, key);
    rdi_hs_session_key(hs, !hs->connector, s->keys->in.key);
    sodium_memzero(key, sizeof key);
    sodium_stackzero(RDI_STACK_WIPE);
    return true;
}

void rdi_seal_end(struct rdi_seal *s) {
    if (s->keys != NULL) {
        rdi_secret_free(s->keys);
        s->keys = NULL;
    }
}

size_t rdi_seal_write(struct rdi_seal *s, const void *plain, size_t n, uint8_t *out) {
    uint8_t *at = out;
    if (!s->sent_prefix) {
        memcpy(at, s->keys->prefix, RDI_SEAL_PREFIX);
        at += RDI_SEAL_PREFIX;
        s->sent_prefix = true;
    }
    rdi_put_le(at, n + RDI_SEAL_MORE - RDI_SEAL_LENGTH, RDI_SEAL_LENGTH);
    crypto_secretstream_xchacha20poly1305_push(&s->keys->out, at + RDI_SEAL_LENGTH, NULL, plain, n,
                                               at, RDI_SEAL_LENGTH,
                                               crypto_secretstream_xchacha20poly1305_TAG_MESSAGE);
    return (size_t)(at - out) + n + RDI_SEAL_MORE;
}

static void take_prefix(struct rdi_seal *s, const uint8_t *prefix) {
    uint8_t key[RDI_KEY_BYTES]; // the state takes its place
    memcpy(key, s->keys->in.key, sizeof key);
    crypto_secretstream_xchacha20poly1305_init_pull(&s->keys->in.state, prefix, key);
    sodium_memzero(key, sizeof key);
    sodium_stackzero(RDI_STACK_WIPE);
    s->got_prefix = true;
}

enum rdi_seal_found rdi_seal_look(struct rdi_seal *s, const uint8_t *in, size_t n, size_t *skip,
                                  size_t *whole, size_t *plain) {
    *skip = 0;
    if (!s->got_prefix) {
        if (n < RDI_SEAL_PREFIX) {
            *whole = RDI_SEAL_PREFIX + RDI_SEAL_LENGTH;
            return RDI_SEAL_PART;
        }
        take_prefix(s, in);
        *skip = RDI_SEAL_PREFIX;
        in += RDI_SEAL_PREFIX;
        n -= RDI_SEAL_PREFIX;
    }
    *whole = RDI_SEAL_LENGTH;
    if (n < RDI_SEAL_LENGTH) {
        return RDI_SEAL_PART;
    }
    size_t length = (size_t)rdi_get_le(in, RDI_SEAL_LENGTH);
    const size_t least = RDI_SEAL_MORE - RDI_SEAL_LENGTH + 1;
    if (length < least || length - least >= RDI_SEAL_BIG) {
        return RDI_SEAL_BROKEN;
    }
    *whole = RDI_SEAL_LENGTH + length;
    *plain = *whole - RDI_SEAL_MORE;
    return n < *whole ? RDI_SEAL_PART : RDI_SEAL_WHOLE;
}

bool rdi_seal_read(struct rdi_seal *s, const uint8_t *record, size_t whole, uint8_t *out) {
    unsigned char tag;
    // libsodium writes nothing, and leaves the state as it is, before the record has proved itself.
    return crypto_secretstream_xchacha20poly1305_pull(
               &s->keys->in.state, out, NULL, &tag, record + RDI_SEAL_LENGTH,
               whole - RDI_SEAL_LENGTH, record, RDI_SEAL_LENGTH) == 0 &&
           tag == crypto_secretstream_xchacha20poly1305_TAG_MESSAGE;
}
