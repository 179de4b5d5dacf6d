// SPDX-License-Identifier: MIT
// The 128 bytes that NCCL carries from listen() to connect(), as they come out of somebody's network. What is
// accepted must be within the bounds of the transports, and must encode to a handle that reads the same.
#include "fuzz.h"
#include "transport/nccl/core.h"
#include "transport/tcp/hello.h"

#include <limits.h>

static void check_addresses(const struct rdi_tcp_blob *b) {
    MUST(b->count >= 1 && b->count <= RDI_TCP_ADDRS && memchr(b->host, 0, sizeof b->host) != NULL);
    for (unsigned i = 0; i < b->count; i++) {
        const struct rdi_tcp_addr *a = &b->addr[i];
        MUST(a->family == 4 || a->family == 6);
        MUST(a->prefix <= (a->family == 4 ? 32 : 128) && a->port != 0 && a->device == i);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct rdi_nccl_handle h = {.listen = 0}, again = {.listen = 0};
    struct rdi_tcp_blob address, other;
    uint8_t handle[RDI_NCCL_HANDLE] = {0}, out[RDI_NCCL_HANDLE], blob[RDI_BLOB_MAX];
    memcpy(handle, data, size < sizeof handle ? size : sizeof handle);
    uint64_t token = rdi_nccl_handle_token(handle);
    if (!rdi_nccl_handle_read(&h, &address, handle)) {
        return 0;
    }
    MUST(h.number >= 0 && h.number < INT_MAX);
    check_addresses(&address);
    // It is what a net then connects to.
    size_t len = rdi_tcp_blob_write(&address, blob);
    MUST(len > 0 && rdi_tcp_blob_read(&other, blob, len));
    MUST(rdi_nccl_handle_write(&h, &address, out));
    MUST(rdi_nccl_handle_read(&again, &other, out));
    MUST(memcmp(&h, &again, sizeof h) == 0 && memcmp(&address, &other, sizeof address) == 0);
    rdi_nccl_handle_set_token(out, token);
    MUST(rdi_nccl_handle_token(out) == token);
    return 0;
}
