// SPDX-License-Identifier: MIT
// The handshake against somebody who has no key.
//
//   input[0]  0: bytes for an acceptor  1: bytes for a connector  2: changes to a real handshake
//   input[1]  how the bytes are cut
//   the rest  0, 1: the bytes            2: triples of message, offset, bits to flip
//
// In the first two nobody may get in; in the third both ends come to the same end if nothing was
// altered, and never both if something was.
#include "fuzz.h"
#include "transport/internal.h"

#include <string.h>

static void count_up(void *self, void *buf, size_t n) {
    (void)self;
    static uint8_t next;
    for (size_t i = 0; i < n; i++) {
        ((uint8_t *)buf)[i] = next++;
    }
}

static const struct rdi_env env = {.random = count_up};
static const uint8_t key[RDI_KEY_BYTES] = "a key that no input can have";
static const struct rdi_job job = {.size = 2, .auth = true, .key = key};

static void check(const struct rdi_hs *hs) {
    MUST(hs->out_off <= hs->out_len && hs->out_len <= RDI_HS_BUFFER);
    MUST(hs->in_len <= RDI_HS_BUFFER && hs->peer_len <= RDI_HS_PAYLOAD);
    MUST(memchr(hs->why, '\0', sizeof hs->why) != NULL);
    if (hs->state == RDI_HS_FAILED) {
        MUST(hs->peer_len == 0 && hs->why[0] != '\0');
        MUST(hs->error == RONDO_ERR_AUTH || hs->error == RONDO_ERR_VERSION ||
             hs->error == RONDO_ERR_INVALID);
    }
}

static void feed(struct rdi_hs *hs, const uint8_t *bytes, size_t n, size_t cut) {
    while (n > 0) {
        size_t part = n < cut ? n : cut, used = SIZE_MAX;
        rdi_hs_input(hs, bytes, part, &used);
        MUST(used <= part);
        check(hs);
        if (used < part) {
            return;
        }
        bytes += part;
        n -= part;
    }
}

static void intrude(bool connector, const uint8_t *bytes, size_t n, size_t cut) {
    struct rdi_hs hs;
    if (connector) {
        rdi_hs_connect(&hs, RDI_HS_TCP, &job, &env, "hello", 5);
        rdi_hs_sent(&hs, hs.out_len);
    } else {
        rdi_hs_accept(&hs, RDI_HS_TCP, &job, &env);
    }
    feed(&hs, bytes, n, cut);
    MUST(hs.state == RDI_HS_RUNNING || hs.state == RDI_HS_FAILED);
}

// Carries what waits to be sent to the other side, altered. Whether a bit was flipped.
static bool carry(struct rdi_hs *from, struct rdi_hs *to, uint8_t message, const uint8_t *triples,
                  size_t n, size_t cut) {
    uint8_t wire[RDI_HS_BUFFER], original[RDI_HS_BUFFER];
    size_t len = from->out_len - from->out_off;
    memcpy(wire, from->out + from->out_off, len);
    memcpy(original, wire, len);
    rdi_hs_sent(from, len);
    for (size_t i = 0; i + 3 <= n && len > 0; i += 3) {
        if (triples[i] % 4 == message) {
            wire[triples[i + 1] * len / 256] ^= triples[i + 2];
        }
    }
    feed(to, wire, len, cut);
    return memcmp(wire, original, len) != 0;
}

static void alter(const uint8_t *triples, size_t n, size_t cut) {
    struct rdi_hs c, a;
    rdi_hs_connect(&c, RDI_HS_SHM, &job, &env, "hello", 5);
    rdi_hs_accept(&a, RDI_HS_SHM, &job, &env);
    bool altered = carry(&c, &a, 0, triples, n, cut);
    altered = carry(&a, &c, 1, triples, n, cut) || altered;
    altered = carry(&c, &a, 2, triples, n, cut) || altered;
    if (a.state == RDI_HS_NEED_REPLY) {
        MUST(!altered);
        rdi_hs_reply(&a, "reply", 5);
    }
    altered = carry(&a, &c, 3, triples, n, cut) || altered;
    if (altered) {
        MUST(c.state != RDI_HS_DONE);
    } else {
        MUST(c.state == RDI_HS_DONE && a.state == RDI_HS_DONE);
        MUST(a.peer_len == 5 && memcmp(a.peer, "hello", 5) == 0);
        MUST(c.peer_len == 5 && memcmp(c.peer, "reply", 5) == 0);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size < 2) {
        return 0;
    }
    size_t cut = (size_t)data[1] + 1;
    if (data[0] % 3 == 2) {
        alter(data + 2, size - 2, cut);
    } else {
        intrude(data[0] % 3 == 1, data + 2, size - 2, cut);
    }
    return 0;
}
