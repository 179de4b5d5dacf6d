// SPDX-License-Identifier: MIT
// Which port of ours is connected to which port of a peer, and by which GIDs.
//
// Both ends compute this for themselves and must agree. So the two addresses are put into an order that does
// not depend on who asks (by their bytes); where they are equal, both ranks use the same ports, and each port
// is paired with itself.
//
// Ports of NICs that were decided for a rank come first. That two NICs of different subnets are decided does not join
// them: then what is in one subnet with one of them is better, as rails may be apart.
#include "transport/verbs/parts.h"

#include <stdio.h>
#include <string.h>

struct combination {
    uint64_t score; // 0: cannot be connected
    uint8_t a, b, gid_a, gid_b;
    bool grh;
    uint8_t tier;
};

static bool same_port(const struct rdi_verbs_rail_info *a, const struct rdi_verbs_rail_info *b) {
    return strcmp(a->device, b->device) == 0 && a->port == b->port;
}

// The best of the GIDs of both; false: none fit.
static bool choose_gids(const struct rdi_verbs_rail_info *a, const struct rdi_verbs_rail_info *b,
                        struct combination *c, int *fit) {
    *fit = 0;
    for (uint8_t i = 0; i < a->ngids; i++) {
        for (uint8_t k = 0; k < b->ngids; k++) {
            int f = rdi_verbs_gid_fit(&a->gids[i], &b->gids[k]);
            if (f > *fit) {
                *fit = f;
                c->gid_a = i;
                c->gid_b = k;
            }
        }
    }
    return *fit > 0;
}

static uint8_t tier(const struct rdi_verbs_rail_info *a, const struct rdi_verbs_rail_info *b,
                    const struct combination *c, int fit) {
    unsigned preferred = (unsigned)a->preferred + b->preferred;
    bool near = a->link_layer == 0 ? fit == 2
                                   : rdi_verbs_gid_near(&a->gids[c->gid_a], &b->gids[c->gid_b]);
    return (uint8_t)(preferred == 0 ? 0 : near ? 2 + preferred : preferred);
}

// Ports of one quality are paired by name, else by place: rails of a cluster are cabled that way.
static uint64_t score(const struct rdi_verbs_rail_info *a, const struct rdi_verbs_rail_info *b,
                      uint8_t tier, int fit, unsigned distance) {
    uint32_t speed = a->mbit_per_s < b->mbit_per_s ? a->mbit_per_s : b->mbit_per_s;
    return (uint64_t)tier << 48 | (uint64_t)fit << 40 | (uint64_t)speed << 8 |
           (same_port(a, b) ? 0x10u : 0) | (0xfu - distance);
}

static struct combination combine(const struct rdi_verbs_address *x,
                                  const struct rdi_verbs_address *y, uint8_t i, uint8_t k) {
    const struct rdi_verbs_rail_info *a = &x->rails[i], *b = &y->rails[k];
    struct combination c = {.a = i, .b = k, .grh = true};
    int fit = 0;
    if (a->link_layer != b->link_layer) {
        return c;
    }
    bool gids_fit = choose_gids(a, b, &c, &fit);
    if (a->link_layer == 0 && a->lid != 0 && b->lid != 0 && (fit == 2 || !gids_fit)) {
        c.grh = false; // one subnet, or nothing known of another
        fit = 2;
    } else if (!gids_fit) {
        return c;
    }
    c.tier = tier(a, b, &c, fit);
    c.score = score(a, b, c.tier, fit, i > k ? i - k : k - i);
    return c;
}

static void put(struct rdi_verbs_pair *out, const struct combination *c, bool swapped,
                const struct rdi_verbs_rail_info *a, const struct rdi_verbs_rail_info *b) {
    *out = (struct rdi_verbs_pair){
        .mine = swapped ? c->b : c->a,
        .theirs = swapped ? c->a : c->b,
        .my_gid = swapped ? c->gid_b : c->gid_a,
        .their_gid = swapped ? c->gid_a : c->gid_b,
        .grh = c->grh,
        .mtu = a->mtu < b->mtu ? a->mtu : b->mtu,
        .immediates = a->immediates && b->immediates,
        .tier = c->tier,
    };
}

// The best combination of rails that are not used yet.
static struct combination choose(const struct rdi_verbs_address *x,
                                 const struct rdi_verbs_address *y, bool diagonal, unsigned used_x,
                                 unsigned used_y) {
    struct combination best = {.score = 0};
    for (uint8_t i = 0; i < x->nrails; i++) {
        for (uint8_t k = 0; k < y->nrails; k++) {
            if ((used_x >> i & 1) != 0 || (used_y >> k & 1) != 0 || (diagonal && i != k)) {
                continue;
            }
            struct combination c = combine(x, y, i, k);
            best = c.score > best.score ? c : best;
        }
    }
    return best;
}

// ---- When nothing fits ---------------------------------------------------------------------------

static void describe(const struct rdi_verbs_rail_info *r, char *buf, size_t cap) {
    static const char *const layers[] = {"InfiniBand", "RoCE", "iWARP"};
    size_t n = (size_t)snprintf(buf, cap, "%s:%u (%s", r->device, r->port,
                                r->link_layer < 3 ? layers[r->link_layer] : "?");
    if (r->link_layer == 0 && n < cap) {
        n += (size_t)snprintf(buf + n, cap - n, ", LID %u", r->lid);
    }
    for (unsigned i = 0; i < r->ngids && n < cap; i++) {
        char text[48];
        const struct rdi_verbs_gid *g = &r->gids[i];
        n +=
            (size_t)snprintf(buf + n, cap - n, ", %s%s%s",
                             r->link_layer == 1 ? (g->type == RDI_GID_ROCE_V2 ? "v2 " : "v1 ") : "",
                             g->link_local && r->link_layer == 1 ? "link-local " : "",
                             rdi_verbs_gid_text(g, text, sizeof text));
    }
    if (n < cap) {
        snprintf(buf + n, cap - n, ")");
    }
}

static const char *obstacle(const struct rdi_verbs_rail_info *a,
                            const struct rdi_verbs_rail_info *b) {
    if (a->link_layer != b->link_layer) {
        return "different link layers";
    }
    if (a->ngids == 0 || b->ngids == 0) {
        return a->link_layer == 0 ? "no LID and no GID" : "no GID";
    }
    return "no two GIDs of one RoCE version, address family and scope";
}

static void explain(const struct rdi_verbs_address *mine, const struct rdi_verbs_address *theirs,
                    char *why, size_t cap) {
    size_t n = 0;
    for (unsigned i = 0; i < mine->nrails; i++) {
        for (unsigned k = 0; k < theirs->nrails && n < cap; k++) {
            const struct rdi_verbs_rail_info *a = &mine->rails[i], *b = &theirs->rails[k];
            char ours[160], peers[160];
            describe(a, ours, sizeof ours);
            describe(b, peers, sizeof peers);
            n += (size_t)snprintf(why + n, cap - n, "%s%s and the peer's %s: %s", n > 0 ? "; " : "",
                                  ours, peers, obstacle(a, b));
        }
    }
}

// ---- All pairs -----------------------------------------------------------------------------------

// <0, 0, >0 as memcmp(). What the peer knows of us are these bytes, so both ends come to the same order.
static int compare(const struct rdi_verbs_address *x, const struct rdi_verbs_address *y) {
    uint8_t a[RDI_VERBS_ADDRESS_MAX] = {0}, b[RDI_VERBS_ADDRESS_MAX] = {0};
    rdi_verbs_address_write(x, a);
    rdi_verbs_address_write(y, b);
    return memcmp(a, b, sizeof a);
}

unsigned rdi_verbs_pairs(const struct rdi_verbs_address *mine,
                         const struct rdi_verbs_address *theirs,
                         struct rdi_verbs_pair out[RDI_VERBS_RAILS], char *why, size_t cap) {
    int order = compare(mine, theirs);
    const struct rdi_verbs_address *x = order <= 0 ? mine : theirs;
    const struct rdi_verbs_address *y = order <= 0 ? theirs : mine;
    unsigned n = 0, used_x = 0, used_y = 0;
    while (n < RDI_VERBS_RAILS) {
        struct combination c = choose(x, y, order == 0, used_x, used_y);
        if (c.score == 0) {
            break;
        }
        used_x |= 1u << c.a;
        used_y |= 1u << c.b;
        put(&out[n++], &c, order > 0, &x->rails[c.a], &y->rails[c.b]);
    }
    if (n == 0 && cap > 0) {
        why[0] = '\0';
        explain(mine, theirs, why, cap);
    }
    return n;
}
