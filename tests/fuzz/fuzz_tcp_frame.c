// SPDX-License-Identifier: MIT
// Everything that the tcp transport decodes from bytes of others: frame headers, handshake payloads and
// addresses. What is accepted must be within the bounds that the rest of the code relies on, and must encode
// to the very bytes that it came from.
//
// The first byte of an input chooses what the others are.
#include "fuzz.h"
#include "transport/tcp/frame.h"
#include "transport/tcp/hello.h"

#include <string.h>

// Text may have been cleaned, so it is not compared.
static void same_bytes(const uint8_t *in, const uint8_t *out, size_t len, size_t text_at) {
    MUST(memcmp(in, out, len < text_at ? len : text_at) == 0);
}

static void try_frame(const uint8_t *in, size_t len) {
    struct rdi_tcp_frame f;
    uint8_t out[RDI_TCP_HEADER];
    if (len < RDI_TCP_HEADER + 1) {
        return;
    }
    const struct rdi_tcp_expect expect = {.from_sender = in[0] & 1,
                                          .epoch = in[0] >> 1 & 3,
                                          .max_msg = 4096,
                                          .next = in[0] >> 3 & 7,
                                          .limit = 8,
                                          .sendable = in[0] >> 4};
    if (rdi_tcp_frame_read(&f, in + 1, &expect) != NULL) {
        return;
    }
    MUST(f.epoch == expect.epoch);
    MUST(f.type != RDI_TCP_DATA || (expect.from_sender && f.len <= expect.max_msg &&
                                    f.seq == expect.next && f.seq < expect.limit));
    MUST(f.type != RDI_TCP_ACK ||
         (!expect.from_sender && f.seq <= expect.sendable && f.tag <= f.seq));
    MUST(f.type != RDI_TCP_CTRL || f.len <= RDI_CTRL_MAX);
    MUST(f.type == RDI_TCP_DATA || f.type == RDI_TCP_CTRL || f.len == 0);
    rdi_tcp_frame_write(&f, out);
    same_bytes(in + 1, out, sizeof out, sizeof out);
}

static void try_blob(const uint8_t *in, size_t len) {
    struct rdi_tcp_blob b, other;
    struct rdi_tcp_route routes[RDI_TCP_ROUTES];
    uint8_t out[RDI_BLOB_MAX];
    if (!rdi_tcp_blob_read(&b, in, len)) {
        return;
    }
    MUST(b.count <= RDI_TCP_ADDRS && memchr(b.host, 0, sizeof b.host) != NULL);
    MUST(rdi_tcp_blob_write(&b, out) == len);
    same_bytes(in, out, len, 18);
    other = b;
    for (int i = 0; i < 2; i++) {
        unsigned n = rdi_tcp_routes(&b, &other, routes);
        MUST(n <= RDI_TCP_ROUTES);
        for (unsigned k = 0; k < n; k++) {
            MUST(i == 0 ||
                 routes[k].worth == routes[k].local.preferred + routes[k].remote.preferred);
            MUST(k == 0 || routes[k].worth <= routes[k - 1].worth);
        }
        other.host_id[0] ^= 1;
        for (unsigned k = 0; k < other.count; k++) {
            other.addr[k].ip[3] ^= 1;
        }
    }
}

static void try_hello(const uint8_t *in, size_t len) {
    struct rdi_tcp_hello h;
    uint8_t out[RDI_HS_PAYLOAD];
    if (!rdi_tcp_hello_read(&h, in, len)) {
        return;
    }
    MUST(h.paths >= 1 && h.paths <= RDI_TCP_PATHS && h.path < h.paths);
    MUST(h.slots >= 1 && h.slots <= RDI_TCP_SLOTS_MAX && h.max_msg >= 64 &&
         h.max_msg <= RDI_TCP_MSG_MAX);
    MUST(memchr(h.host, 0, sizeof h.host) != NULL);
    MUST(rdi_tcp_hello_write(&h, out) == len);
    same_bytes(in, out, len, 53);
}

static void try_reply(const uint8_t *in, size_t len) {
    struct rdi_tcp_reply r;
    uint8_t out[RDI_HS_PAYLOAD];
    if (!rdi_tcp_reply_read(&r, in, len)) {
        return;
    }
    MUST(r.released <= r.arrived && memchr(r.text, 0, sizeof r.text) != NULL);
    MUST(rondo_status_name(r.status)[0] == 'R');
    MUST(rdi_tcp_reply_write(&r, out) == len);
    same_bytes(in, out, len, 30);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static void (*const tries[])(const uint8_t *, size_t) = {try_frame, try_blob, try_hello,
                                                             try_reply};
    if (size == 0) {
        return 0;
    }
    // A block of its own, so that a sanitizer sees a read behind the end.
    uint8_t *exact = malloc(size);
    MUST(exact != NULL);
    memcpy(exact, data + 1, size - 1);
    tries[data[0] % 4](exact, size - 1);
    free(exact);
    return 0;
}
