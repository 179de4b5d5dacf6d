// SPDX-License-Identifier: MIT
// Which of our addresses talks to which of a peer's. Pure, so that every case can be tested.
//
// On one host a single way is enough, and loopback serves. Between hosts loopback is never used; each of our
// interfaces that shares a subnet with one of the peer's makes a rail. Without a common subnet the routing
// table has to know, and then only the first pair is taken: pairing the others would be a guess.
//
// Where NICs were decided for ranks, rails of two of these come first, then those of one, then the others. The
// first of these three that has any is used, so a rank that has a NIC of its own keeps to it wherever it leads, and
// the next one where all of it fails.
#include "transport/tcp/hello.h"

#include <string.h>

static unsigned ip_bytes(const struct rdi_tcp_addr *a) { return a->family == 4 ? 4 : 16; }

static bool same_ip(const struct rdi_tcp_addr *a, const struct rdi_tcp_addr *b) {
    return a->family == b->family && memcmp(a->ip, b->ip, ip_bytes(a)) == 0;
}

static bool link_local(const struct rdi_tcp_addr *a) {
    return a->family == 6 ? a->ip[0] == 0xfe && (a->ip[1] & 0xc0) == 0x80
                          : a->ip[0] == 169 && a->ip[1] == 254;
}

static bool same_subnet(const struct rdi_tcp_addr *a, const struct rdi_tcp_addr *b) {
    if (a->family != b->family || a->prefix != b->prefix) {
        return false;
    }
    unsigned whole = a->prefix / 8, rest = a->prefix % 8;
    if (memcmp(a->ip, b->ip, whole) != 0) {
        return false;
    }
    return rest == 0 || ((a->ip[whole] ^ b->ip[whole]) >> (8 - rest)) == 0;
}

static unsigned same_host_route(const struct rdi_tcp_blob *mine, const struct rdi_tcp_blob *peer,
                                struct rdi_tcp_route *out) {
    unsigned best = 0;
    for (unsigned i = 0; i < mine->count; i++) {
        for (unsigned j = 0; j < peer->count; j++) {
            const struct rdi_tcp_addr *a = &mine->addr[i], *b = &peer->addr[j];
            if (a->family != b->family) {
                continue;
            }
            unsigned worth = !same_ip(a, b) ? 1 : a->loopback ? 3 : 2;
            if (worth > best) {
                best = worth;
                *out = (struct rdi_tcp_route){*a, *b, 0};
            }
        }
    }
    return best > 0;
}

static bool is_mine(const struct rdi_tcp_blob *mine, const struct rdi_tcp_addr *a) {
    for (unsigned i = 0; i < mine->count; i++) {
        if (same_ip(&mine->addr[i], a)) {
            return true;
        }
    }
    return false;
}

// A peer's address that leads to the peer and not back to this host (bridges have the same address
// everywhere).
static bool leads_away(const struct rdi_tcp_blob *mine, const struct rdi_tcp_addr *a) {
    return !a->loopback && !is_mine(mine, a);
}

// Each interface of either side serves one rail, whatever number of addresses it has.
static bool device_used(const struct rdi_tcp_route *out, unsigned n, const struct rdi_tcp_addr *a,
                        const struct rdi_tcp_addr *b) {
    for (unsigned i = 0; i < n; i++) {
        if (out[i].local.device == a->device || out[i].remote.device == b->device) {
            return true;
        }
    }
    return false;
}

static unsigned subnet_routes(const struct rdi_tcp_blob *mine, const struct rdi_tcp_blob *peer,
                              uint8_t worth, struct rdi_tcp_route *out) {
    unsigned n = 0;
    for (unsigned i = 0; i < mine->count; i++) {
        for (unsigned j = 0; j < peer->count; j++) {
            const struct rdi_tcp_addr *a = &mine->addr[i], *b = &peer->addr[j];
            if (!a->loopback && leads_away(mine, b) && same_subnet(a, b) &&
                a->preferred + b->preferred == worth && !device_used(out, n, a, b)) {
                out[n++] = (struct rdi_tcp_route){*a, *b, worth};
            }
        }
    }
    return n;
}

static unsigned routed(const struct rdi_tcp_blob *mine, const struct rdi_tcp_blob *peer,
                       uint8_t worth, struct rdi_tcp_route *out) {
    for (unsigned i = 0; i < mine->count; i++) {
        for (unsigned j = 0; j < peer->count; j++) {
            const struct rdi_tcp_addr *a = &mine->addr[i], *b = &peer->addr[j];
            if (a->family == b->family && !a->loopback && !link_local(a) && !link_local(b) &&
                a->preferred + b->preferred == worth && leads_away(mine, b)) {
                *out = (struct rdi_tcp_route){*a, *b, worth};
                return 1;
            }
        }
    }
    return 0;
}

unsigned rdi_tcp_routes(const struct rdi_tcp_blob *mine, const struct rdi_tcp_blob *peer,
                        struct rdi_tcp_route out[RDI_TCP_ROUTES]) {
    unsigned n = 0;
    if (memcmp(mine->host_id, peer->host_id, sizeof mine->host_id) == 0) {
        return same_host_route(mine, peer, out);
    }
    for (uint8_t worth = 3; worth-- > 0;) {
        n += subnet_routes(mine, peer, worth, out + n);
    }
    for (uint8_t worth = 3; worth-- > 0 && n == 0;) {
        n = routed(mine, peer, worth, out);
    }
    return n;
}
