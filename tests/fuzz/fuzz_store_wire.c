// SPDX-License-Identifier: MIT
// The decoders of the store's messages, of what is in them, and of the bootstrap's table. What they accept is within the
// limits, and encoding it again gives the same bytes.
//
//   input[0]  which decoder: 0 request, 1 response, 2 table of input[1] ranks, 3 who comes, 4 who serves;
//             the rest: its bytes
#include "fuzz.h"
#include "transport/bootstrap/store_wire.h"

#include <string.h>

static void request(const uint8_t *bytes, size_t n) {
    struct rdi_store_request r;
    uint8_t again[RDI_STORE_REQUEST_HEAD];
    if (n < sizeof again || rdi_store_decode_request(bytes, &r) != NULL) {
        return;
    }
    MUST(r.op >= RDI_STORE_SET && r.op <= RDI_STORE_LEAVE);
    MUST(r.op != RDI_STORE_COME || r.value_len == RDI_STORE_COME_BYTES);
    MUST(r.op != RDI_STORE_LEAVE || r.value_len <= RDI_ERROR_TEXT);
    MUST(r.key_len >= 1 && r.key_len <= RDI_STORE_KEY_MAX);
    MUST(r.value_len <= RDI_STORE_VALUE_MAX);
    MUST(r.op != RDI_STORE_GET || r.value_len == 0);
    rdi_store_encode_request(again, &r);
    MUST(memcmp(again, bytes, sizeof again) == 0);
    if (n - sizeof again >= r.key_len &&
        rdi_store_check_key(bytes + sizeof again, r.key_len) == NULL) {
        MUST(memchr(bytes + sizeof again, '\0', r.key_len) == NULL);
    }
}

static void response(const uint8_t *bytes, size_t n) {
    struct rdi_store_response r;
    uint8_t again[RDI_STORE_RESPONSE_HEAD];
    if (n < sizeof again || rdi_store_decode_response(bytes, &r) != NULL) {
        return;
    }
    MUST(r.status <= RONDO_OK && r.status >= RONDO_ERR_INTERNAL);
    MUST(r.value_len <= RDI_STORE_VALUE_MAX);
    MUST(r.status == RONDO_OK || r.value_len == 0 ||
         (r.status == RONDO_ERR_PEER && r.value_len <= RDI_ERROR_TEXT));
    rdi_store_encode_response(again, &r);
    if (r.status != RONDO_ERR_INTERNAL) { // which also stands for statuses of later versions
        MUST(memcmp(again, bytes, sizeof again) == 0);
    }
}

static void table(const uint8_t *bytes, size_t n, size_t ranks) {
    size_t lens[256], text_len = SIZE_MAX;
    const uint8_t *records = NULL;
    const char *text = NULL;
    rondo_status failure = RONDO_AGAIN;
    if (rdi_table_decode(bytes, n, ranks, lens, &records, &failure, &text, &text_len) != NULL) {
        return;
    }
    if (failure != RONDO_OK) {
        MUST(failure < RONDO_OK && failure >= RONDO_ERR_INTERNAL);
        MUST((const uint8_t *)text >= bytes && text_len <= n);
        MUST((const uint8_t *)text + text_len == bytes + n);
        return;
    }
    void *parts[256];
    const uint8_t *at = records;
    for (size_t i = 0; i < ranks; i++) {
        MUST(lens[i] <= RDI_EXCHANGE_MAX);
        parts[i] = (void *)(uintptr_t)at;
        at += lens[i];
    }
    MUST(at == bytes + n && rdi_table_size(lens, ranks) == n);
    uint8_t *again = malloc(n);
    MUST(again != NULL);
    rdi_table_encode(again, parts, lens, ranks);
    MUST(memcmp(again, bytes, n) == 0);
    free(again);
}

static void come(const uint8_t *bytes, size_t n) {
    struct rdi_store_come c;
    uint8_t again[RDI_STORE_COME_BYTES];
    if (n < sizeof again || rdi_store_decode_come(bytes, &c) != NULL) {
        return;
    }
    MUST(c.rank >= 0 && c.rank < c.size && c.size <= RDI_STORE_RANKS && c.pid >= 0);
    MUST(c.silence_ms > 0 && memchr(c.host, '\0', sizeof c.host) != NULL && is_clean(c.host));
    rdi_store_encode_come(again, &c);
    MUST(memcmp(again, bytes, sizeof again - sizeof c.host) == 0);
}

static void host(const uint8_t *bytes, size_t n) {
    struct rdi_store_host h;
    uint8_t again[RDI_STORE_HOST_BYTES];
    if (rdi_store_decode_host(bytes, n, &h) != NULL) {
        return;
    }
    MUST(n == sizeof again && h.pid >= 0 && is_clean(h.host));
    rdi_store_encode_host(again, &h);
    MUST(memcmp(again, bytes, 8) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size < 2) {
        return 0;
    }
    switch (data[0] % 5) {
    case 0:
        request(data + 1, size - 1);
        break;
    case 1:
        response(data + 1, size - 1);
        break;
    case 3:
        come(data + 1, size - 1);
        break;
    case 4:
        host(data + 1, size - 1);
        break;
    default:
        table(data + 2, size - 2, data[1]);
        break;
    }
    return 0;
}
