// SPDX-License-Identifier: MIT
// What ranks tell each other of their RDMA ports: encoding and checked decoding.
#include "transport/tcp/bytes.h"
#include "transport/verbs/parts.h"

#include <stdio.h>

#define NO_IMMEDIATES 1u // flags of a rail
#define PREFERRED 2u

// What cannot be said in a byte or two is derived again by the reader: a GID's family and scope.
//
//   version 2 | nrails 1 | rails: device text | port 1 | link layer 1 | mtu 1 | flags 1 | lid 2 |
//                          mbit/s 4 | ngids 1 | GIDs: raw 16 | prefix 1 | index and type << 12 2

void rdi_verbs_rail_tell(const struct rdi_verbs_port *p, struct rdi_verbs_rail_info *out) {
    *out = (struct rdi_verbs_rail_info){
        .port = p->port,
        .link_layer = p->iwarp  ? 2
                      : p->roce ? 1
                                : 0,
        .mtu = p->mtu,
        .immediates = !p->iwarp, // rare there, and no driver says whether it has them
        .lid = p->lid,
        .mbit_per_s = p->mbit_per_s,
    };
    snprintf(out->device, sizeof out->device, "%s", p->device);
    for (char *c = out->device; *c != '\0'; c++) {
        *c = *c < 0x20 || *c > 0x7e ? '?' : *c; // as the reader will
    }
    if (p->ngids > 0) {
        out->gids[out->ngids++] = p->gids[0];
    }
    unsigned second = 1;
    while (p->roce && second < p->ngids && p->gids[second].family == p->gids[0].family) {
        second++;
    }
    if (second >= p->ngids) {
        second = 1;
    }
    if (second < p->ngids) {
        out->gids[out->ngids++] = p->gids[second];
    }
}

size_t rdi_verbs_address_write(const struct rdi_verbs_address *a,
                               uint8_t out[RDI_VERBS_ADDRESS_MAX]) {
    struct rdi_cursor c = {.at = out, .size = RDI_VERBS_ADDRESS_MAX, .ok = true};
    rdi_cursor_put(&c, RDI_VERBS_ADDRESS_VERSION, 1);
    rdi_cursor_put(&c, a->nrails, 1);
    for (unsigned i = 0; i < a->nrails; i++) {
        const struct rdi_verbs_rail_info *r = &a->rails[i];
        rdi_cursor_put_text(&c, r->device, sizeof r->device);
        rdi_cursor_put(&c, r->port, 1);
        rdi_cursor_put(&c, r->link_layer, 1);
        rdi_cursor_put(&c, r->mtu, 1);
        rdi_cursor_put(&c, (r->immediates ? 0 : NO_IMMEDIATES) | (r->preferred ? PREFERRED : 0), 1);
        rdi_cursor_put(&c, r->lid, 2);
        rdi_cursor_put(&c, r->mbit_per_s, 4);
        rdi_cursor_put(&c, r->ngids, 1);
        for (unsigned k = 0; k < r->ngids; k++) {
            const struct rdi_verbs_gid *g = &r->gids[k];
            rdi_cursor_put_bytes(&c, g->raw, sizeof g->raw);
            rdi_cursor_put(&c, g->prefix, 1);
            rdi_cursor_put(&c, (unsigned)g->index | (unsigned)g->type << 12, 2);
        }
    }
    return c.ok ? c.used : 0;
}

static bool read_gid(struct rdi_verbs_gid *g, uint8_t link_layer, struct rdi_cursor *c) {
    uint8_t raw[16];
    memset(g, 0, sizeof *g);
    rdi_cursor_get_bytes(c, raw, sizeof raw);
    g->prefix = (uint8_t)rdi_cursor_get(c, 1);
    unsigned word = (unsigned)rdi_cursor_get(c, 2);
    g->index = word & 0xfff;
    rdi_verbs_gid_set(g, raw, (uint8_t)(word >> 12));
    bool type_fits = link_layer == 1 ? g->type == RDI_GID_ROCE_V1 || g->type == RDI_GID_ROCE_V2
                                     : g->type == RDI_GID_IB;
    unsigned bits = link_layer != 1 ? 0 : g->family == 4 ? 32 : 128;
    return c->ok && type_fits && g->prefix <= bits && rdi_verbs_gid_rank(g, NULL) > 0;
}

static bool read_rail(struct rdi_verbs_rail_info *r, struct rdi_cursor *c) {
    memset(r, 0, sizeof *r);
    rdi_cursor_get_text(c, r->device, sizeof r->device);
    r->port = (uint8_t)rdi_cursor_get(c, 1);
    r->link_layer = (uint8_t)rdi_cursor_get(c, 1);
    r->mtu = (uint8_t)rdi_cursor_get(c, 1);
    uint64_t flags = rdi_cursor_get(c, 1);
    r->immediates = !(flags & NO_IMMEDIATES);
    r->preferred = flags & PREFERRED;
    r->lid = (uint16_t)rdi_cursor_get(c, 2);
    r->mbit_per_s = (uint32_t)rdi_cursor_get(c, 4);
    r->ngids = (unsigned)rdi_cursor_get(c, 1);
    if (!c->ok || r->device[0] == '\0' || r->port == 0 || r->link_layer > 2 ||
        r->mtu < IBV_MTU_256 || r->mtu > IBV_MTU_4096 || flags > (NO_IMMEDIATES | PREFERRED) ||
        r->ngids > 2) {
        return false;
    }
    for (unsigned i = 0; i < r->ngids; i++) {
        if (!read_gid(&r->gids[i], r->link_layer, c)) {
            return false;
        }
    }
    return true;
}

bool rdi_verbs_address_read(struct rdi_verbs_address *a, const void *in, size_t len) {
    // The cursor writes for encoders only.
    struct rdi_cursor c = {.at = (uint8_t *)(uintptr_t)in, .size = len, .ok = true};
    memset(a, 0, sizeof *a);
    uint64_t version = rdi_cursor_get(&c, 1);
    a->nrails = (unsigned)rdi_cursor_get(&c, 1);
    if (!c.ok || version != RDI_VERBS_ADDRESS_VERSION || len > RDI_VERBS_ADDRESS_MAX ||
        a->nrails == 0 || a->nrails > RDI_VERBS_RAILS) {
        return false;
    }
    for (unsigned i = 0; i < a->nrails; i++) {
        if (!read_rail(&a->rails[i], &c)) {
            return false;
        }
    }
    return c.ok && c.used == c.size;
}
