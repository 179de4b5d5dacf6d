// SPDX-License-Identifier: MIT
// The handle that listen() makes and NCCL carries to connect(). Pure: bytes and structs.
//
//   0     4     36      44       60      64     65           120
//   RNC1  key   listen  host id  number  count  addresses    token, connect()'s own
//
//   address  family (4, 6; +128: loopback) 1 | prefix 1 | port 2 | address 4 or 16 | zone 4 (family 6)
//
// It is not the net's address, which is longer, but leads to a directory where that is told; the directory is
// a tcp net, so whoever reads the handle needs the key to ask, and learns nothing from whoever has it not.
#include "transport/nccl/core.h"
#include "transport/tcp/bytes.h"
#include "transport/tcp/hello.h"

#include <arpa/inet.h>
#include <limits.h>

#define TOKEN 120u
#define V4_BYTES 8u
#define V6_BYTES 24u
#define LOOPBACK 0x80u

static const uint8_t magic[4] = {'R', 'N', 'C', '1'};

static void put_address(struct rdi_cursor *c, const struct rdi_tcp_addr *a) {
    rdi_cursor_put(c, a->family | (a->loopback ? LOOPBACK : 0), 1);
    rdi_cursor_put(c, a->prefix, 1);
    rdi_cursor_put(c, a->port, 2);
    rdi_cursor_put_bytes(c, a->ip, a->family == 4 ? 4 : 16);
    if (a->family == 6) {
        rdi_cursor_put(c, a->scope, 4);
    }
}

static bool get_address(struct rdi_cursor *c, struct rdi_tcp_addr *a) {
    unsigned family = (unsigned)rdi_cursor_get(c, 1);
    *a = (struct rdi_tcp_addr){.loopback = family & LOOPBACK};
    a->family = (uint8_t)(family & ~LOOPBACK);
    a->prefix = (uint8_t)rdi_cursor_get(c, 1);
    a->port = (uint16_t)rdi_cursor_get(c, 2);
    if (!c->ok || (a->family != 4 && a->family != 6) || a->prefix > (a->family == 4 ? 32 : 128) ||
        a->port == 0) {
        return false;
    }
    rdi_cursor_get_bytes(c, a->ip, a->family == 4 ? 4 : 16);
    a->scope = a->family == 6 ? (uint32_t)rdi_cursor_get(c, 4) : 0;
    return c->ok;
}

bool rdi_nccl_handle_write(const struct rdi_nccl_handle *h, const struct rdi_tcp_blob *address,
                           uint8_t out[RDI_NCCL_HANDLE]) {
    struct rdi_cursor c = {.at = out, .size = TOKEN, .ok = true};
    memset(out, 0, RDI_NCCL_HANDLE);
    rdi_cursor_put_bytes(&c, magic, sizeof magic);
    rdi_cursor_put_bytes(&c, h->key, sizeof h->key);
    rdi_cursor_put(&c, h->listen, 8);
    rdi_cursor_put_bytes(&c, address->host_id, sizeof address->host_id);
    rdi_cursor_put(&c, (uint32_t)h->number, 4);
    size_t at = c.used;
    uint8_t count = 0;
    rdi_cursor_put(&c, count, 1);
    for (unsigned i = 0; i < address->count; i++) {
        const struct rdi_tcp_addr *a = &address->addr[i];
        if (c.size - c.used >= (a->family == 4 ? V4_BYTES : V6_BYTES)) {
            put_address(&c, a);
            count++;
        }
    }
    out[at] = count;
    return c.ok && count > 0;
}

bool rdi_nccl_handle_read(struct rdi_nccl_handle *h, struct rdi_tcp_blob *address,
                          const uint8_t in[RDI_NCCL_HANDLE]) {
    // The cursor only reads it.
    struct rdi_cursor c = {.at = (uint8_t *)(uintptr_t)in, .size = TOKEN, .ok = true};
    uint8_t word[sizeof magic];
    memset(address, 0, sizeof *address);
    rdi_cursor_get_bytes(&c, word, sizeof word);
    rdi_cursor_get_bytes(&c, h->key, sizeof h->key);
    h->listen = rdi_cursor_get(&c, 8);
    rdi_cursor_get_bytes(&c, address->host_id, sizeof address->host_id);
    uint32_t number = (uint32_t)rdi_cursor_get(&c, 4);
    unsigned count = (unsigned)rdi_cursor_get(&c, 1);
    if (!c.ok || memcmp(word, magic, sizeof word) != 0 || number >= INT_MAX || count == 0 ||
        count > RDI_TCP_ADDRS) {
        return false;
    }
    h->number = (int)number;
    for (; address->count < count; address->count++) {
        struct rdi_tcp_addr *a = &address->addr[address->count];
        if (!get_address(&c, a)) {
            return false;
        }
        a->device = (uint8_t)address->count;
    }
    // Until the directory tells the host's name, texts name it so.
    inet_ntop(address->addr[0].family == 4 ? AF_INET : AF_INET6, address->addr[0].ip, address->host,
              sizeof address->host);
    return true;
}

uint64_t rdi_nccl_handle_token(const uint8_t handle[RDI_NCCL_HANDLE]) {
    return rdi_get_le(handle + TOKEN, 8);
}

void rdi_nccl_handle_set_token(uint8_t handle[RDI_NCCL_HANDLE], uint64_t token) {
    rdi_put_le(handle + TOKEN, token, 8);
}
