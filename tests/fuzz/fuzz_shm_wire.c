// SPDX-License-Identifier: MIT
// Everything that the shm transport decodes from a peer's bytes: addresses, handshake payloads, records. What is
// accepted must be within the bounds that the rest of the code relies on, and must encode to bytes that read the
// same.
//
//   input[0]  what the rest is: 0 address, 1 hello, 2 reply, 3 record with input[1] descriptors
#include "fuzz.h"
#include "transport/shm/layout.h"
#include "transport/shm/wire.h"

static void address(const uint8_t *in, size_t n) {
    struct shm_address a;
    uint8_t out[RDI_BLOB_MAX];
    if (shm_address_parse(in, n, &a)) {
        MUST(shm_address_write(&a, out) == n && memcmp(in, out, n) == 0);
    }
}

static void check_geometry(uint32_t slots, uint32_t max_msg) {
    MUST(slots >= 1 && slots <= SHM_SLOTS_MAX);
    MUST(max_msg >= 64 && max_msg <= SHM_MSG_MAX && max_msg % 64 == 0);
}

static void hello(const uint8_t *in, size_t n) {
    struct shm_hello h;
    uint8_t out[RDI_HS_PAYLOAD];
    if (shm_hello_parse(in, n, &h)) {
        check_geometry(h.slots, h.max_msg);
        MUST(shm_hello_write(&h, out) == n && memcmp(in, out, n) == 0);
    }
}

static void reply(const uint8_t *in, size_t n) {
    struct shm_reply r, again;
    uint8_t out[RDI_HS_PAYLOAD];
    // The handshake carries no more.
    if (n > RDI_HS_PAYLOAD || !shm_reply_parse(in, n, &r)) {
        return;
    }
    if (r.status == RONDO_OK) {
        check_geometry(r.slots, r.max_msg);
    }
    MUST(r.status <= RONDO_OK && r.status >= RONDO_ERR_INTERNAL && is_clean(r.text));
    size_t len = shm_reply_write(&r, out);
    MUST(len <= n && shm_reply_parse(out, len, &again));
    MUST(again.status == r.status && strcmp(again.text, r.text) == 0);
}

static void record(const uint8_t *in, size_t n, size_t n_fds) {
    static const size_t fds[] = {0, 3, 2, 0, 1, 0, 0};
    struct shm_record r, again;
    uint8_t out[SHM_RECORD_MAX];
    if (!shm_record_parse(in, n, n_fds, &r)) {
        return;
    }
    MUST(r.type >= SHM_REGION && r.type <= SHM_TAKE_BACK && n_fds == fds[r.type]);
    MUST(r.type != SHM_MAPPED || r.value <= 1);
    MUST(r.type != SHM_VERDICT || (r.value <= -(int64_t)RONDO_ERR_INTERNAL && is_clean(r.text)));
    size_t len = shm_record_write(&r, out);
    MUST(len <= n && shm_record_parse(out, len, n_fds, &again));
    MUST(again.type == r.type && again.handle == r.handle && again.value == r.value);
    MUST(strcmp(again.text, r.text) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct input in = {data, size};
    unsigned kind = take_byte(&in) % 4;
    size_t n_fds = kind == 3 ? take_byte(&in) % 5 : 0;
    uint8_t *bytes = own_copy(in.at, in.left);
    switch (kind) {
    case 0:
        address(bytes, in.left);
        break;
    case 1:
        hello(bytes, in.left);
        break;
    case 2:
        reply(bytes, in.left);
        break;
    default:
        record(bytes, in.left, n_fds);
        break;
    }
    free(bytes);
    return 0;
}
