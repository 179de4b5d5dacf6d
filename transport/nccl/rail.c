// SPDX-License-Identifier: MIT
// Whether a device is a good way to a peer. NCCL pairs devices by their numbers and knows no subnets: on hosts
// with several, eth0 here may be given an eth1 there, which no route leads to.
#include "transport/nccl/core.h"
#include "transport/tcp/hello.h"

#include <string.h>

static bool same_subnet(const struct rdi_tcp_addr *a, const struct rdi_tcp_addr *b) {
    if (a->family != b->family || a->prefix != b->prefix) {
        return false;
    }
    unsigned whole = a->prefix / 8, rest = a->prefix % 8;
    return memcmp(a->ip, b->ip, whole) == 0 &&
           (rest == 0 || (a->ip[whole] ^ b->ip[whole]) >> (8 - rest) == 0);
}

// The peer's address is one that was read already, by reach().
bool rdi_nccl_rail_leads(struct rdi_nccl_hub *h, const void *peer, size_t len) {
    uint8_t blob[RDI_BLOB_MAX];
    size_t own_len = 0;
    struct rdi_tcp_blob own, theirs;
    struct rdi_tcp_route routes[RDI_TCP_ROUTES];
    pthread_mutex_lock(&h->lock);
    rondo_status s = h->net->ops->address(h->net, blob, &own_len);
    pthread_mutex_unlock(&h->lock);
    if (s != RONDO_OK || !rdi_tcp_blob_read(&own, blob, own_len) ||
        !rdi_tcp_blob_read(&theirs, peer, len) || rdi_tcp_routes(&own, &theirs, routes) == 0) {
        return false;
    }
    return memcmp(own.host_id, theirs.host_id, sizeof own.host_id) == 0 ||
           same_subnet(&routes[0].local, &routes[0].remote);
}
