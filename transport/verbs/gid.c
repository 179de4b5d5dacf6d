// SPDX-License-Identifier: MIT
// GIDs: reading a port's table, and which entries are good for what.
//
// A RoCE port has an entry for each address of its network interfaces, twice: as RoCE v1 (an Ethernet frame,
// stays within the segment) and as RoCE v2 (UDP, can be routed). Both ends must use the same version. Entries
// come and go with the addresses, so an index means nothing across hosts or reboots.
#include "transport/verbs/parts.h"

#include <arpa/inet.h>
#include <errno.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <stdio.h>
#include <string.h>

#define TABLE_MAX 1024u // entries that are looked at

static const uint8_t mapped[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};

void rdi_verbs_gid_set(struct rdi_verbs_gid *g, const uint8_t raw[16], uint8_t type) {
    memmove(g->raw, raw, 16);
    g->type = type;
    g->family = memcmp(raw, mapped, sizeof mapped) == 0 ? 4 : 6;
    g->link_local = g->family == 4 ? raw[12] == 169 && raw[13] == 254
                                   : raw[0] == 0xfe && (raw[1] & 0xc0) == 0x80;
}

const char *rdi_verbs_gid_text(const struct rdi_verbs_gid *g, char *buf, size_t cap) {
    const uint8_t *r = g->raw;
    char text[INET6_ADDRSTRLEN] = "";
    if (g->type == RDI_GID_IB) {
        size_t used = 0;
        for (unsigned i = 0; i < 16; i += 2) {
            used += (size_t)snprintf(text + used, sizeof text - used, "%s%02x%02x",
                                     i > 0 ? ":" : "", r[i], r[i + 1]);
        }
    } else {
        inet_ntop(g->family == 4 ? AF_INET : AF_INET6, g->family == 4 ? r + 12 : r, text,
                  sizeof text);
    }
    snprintf(buf, cap, "%s", text);
    return buf;
}

// ---- Weighing ------------------------------------------------------------------------------------

static bool is_zero(const uint8_t raw[16]) {
    static const uint8_t zero[16];
    return memcmp(raw, zero, 16) == 0;
}

int rdi_verbs_gid_rank(const struct rdi_verbs_gid *g, const struct rdi_options *o) {
    bool roce = g->type != RDI_GID_IB;
    // ::ffff:0.0.0.0 is an interface without an address.
    if (is_zero(g->raw) || (roce && g->family == 4 && memcmp(g->raw + 12, "\0\0\0", 4) == 0)) {
        return 0;
    }
    if (o != NULL) {
        const char *family = o->str[RDI_OPT_FAMILY];
        if (!o->is_auto[RDI_OPT_VERBS_GID] && o->num[RDI_OPT_VERBS_GID] != g->index) {
            return 0;
        }
        if (roce && ((strcmp(family, "ipv4") == 0 && g->family != 4) ||
                     (strcmp(family, "ipv6") == 0 && g->family != 6))) {
            return 0;
        }
    }
    return 1 + (g->type == RDI_GID_ROCE_V2 ? 4 : 0) + (g->link_local ? 0 : 2) +
           (roce && g->family == 4 ? 1 : 0);
}

// Bits that two addresses of one family have in common.
static unsigned common_bits(const struct rdi_verbs_gid *a, const struct rdi_verbs_gid *b) {
    unsigned from = a->family == 4 ? 12 : 0, n = 0;
    for (unsigned i = from; i < 16; i++) {
        unsigned differ = a->raw[i] ^ b->raw[i];
        if (differ != 0) {
            return n + (unsigned)__builtin_clz(differ) - 24;
        }
        n += 8;
    }
    return n;
}

// Where an end does not know its prefix length, the usual one is taken.
static bool same_subnet(const struct rdi_verbs_gid *a, const struct rdi_verbs_gid *b) {
    unsigned usual = a->family == 4 ? 24 : 64;
    unsigned bits_a = a->prefix != 0 ? a->prefix : usual;
    unsigned bits_b = b->prefix != 0 ? b->prefix : usual;
    return common_bits(a, b) >= (bits_a > bits_b ? bits_a : bits_b);
}

bool rdi_verbs_gid_near(const struct rdi_verbs_gid *a, const struct rdi_verbs_gid *b) {
    return !a->link_local && same_subnet(a, b);
}

int rdi_verbs_gid_fit(const struct rdi_verbs_gid *a, const struct rdi_verbs_gid *b) {
    if (a->type != b->type) {
        return 0;
    }
    if (a->type == RDI_GID_IB) {
        return memcmp(a->raw, b->raw, 8) == 0 ? 2 : 1;
    }
    // A link-local address reaches its own segment only, and that is not known from it.
    if (a->family != b->family || a->link_local != b->link_local) {
        return 0;
    }
    return 1 + (a->type == RDI_GID_ROCE_V2 ? 8 : 0) + (a->link_local ? 0 : 4) +
           (rdi_verbs_gid_near(a, b) ? 2 : 0) + (a->family == 4 ? 1 : 0);
}

// ---- Reading the table ---------------------------------------------------------------------------

// The first line of a file of the port in sysfs, without its end. False: there is none.
static bool read_sysfs(const struct rdi_verbs_port *p, const char *what, unsigned index, char *out,
                       size_t cap) {
    char path[160];
    snprintf(path, sizeof path, "/sys/class/infiniband/%s/ports/%u/gid_attrs/%s/%u", p->device,
             p->port, what, index);
    FILE *f = fopen(path, "re");
    if (f == NULL) {
        return false;
    }
    bool found = fgets(out, (int)cap, f) != NULL; // an empty entry gives EINVAL
    fclose(f);
    if (found) {
        out[strcspn(out, "\n")] = '\0';
    }
    return found;
}

// The type and interface of an entry where the library cannot tell them. The kernel calls RoCE v1 and
// InfiniBand by one name.
static uint8_t sysfs_type(const struct rdi_verbs_port *p, unsigned index, char netdev[32]) {
    char text[32];
    if (!read_sysfs(p, "ndevs", index, netdev, 32)) {
        netdev[0] = '\0';
    }
    if (!p->roce) {
        return RDI_GID_IB;
    }
    return read_sysfs(p, "types", index, text, sizeof text) && strcmp(text, "RoCE v2") == 0
               ? RDI_GID_ROCE_V2
               : RDI_GID_ROCE_V1;
}

static bool read_entry(const struct rdi_ibv *v, struct ibv_context *context,
                       const struct rdi_verbs_port *p, unsigned index, struct rdi_verbs_gid *g,
                       char netdev[32]) {
    struct ibv_gid_entry e = {.gid_index = 0};
    *g = (struct rdi_verbs_gid){.index = (uint16_t)index};
    netdev[0] = '\0';
    int err = v->query_gid_ex != NULL ? v->query_gid_ex(context, p->port, index, &e, 0, sizeof e)
                                      : EOPNOTSUPP;
    if (err == ENODATA) { // an empty entry
        return false;
    }
    if (err == 0) {
        uint8_t type = !p->roce                             ? RDI_GID_IB
                       : e.gid_type == IBV_GID_TYPE_ROCE_V2 ? RDI_GID_ROCE_V2
                                                            : RDI_GID_ROCE_V1;
        rdi_verbs_gid_set(g, e.gid.raw, type);
        char name[IF_NAMESIZE];
        if (e.ndev_ifindex != 0 && if_indextoname(e.ndev_ifindex, name) != NULL) {
            snprintf(netdev, 32, "%s", name);
        }
        return !is_zero(g->raw);
    }
    // No such function, or a kernel that does not know the question.
    union ibv_gid gid;
    if (v->query_gid(context, p->port, (int)index, &gid) != 0 || is_zero(gid.raw)) {
        return false;
    }
    rdi_verbs_gid_set(g, gid.raw, sysfs_type(p, index, netdev));
    return true;
}

static uint8_t bits_of(const uint8_t *mask, unsigned bytes) {
    uint8_t n = 0;
    while (n < 8 * bytes && (mask[n / 8] & (0x80u >> n % 8)) != 0) {
        n++;
    }
    return n;
}

// The prefix length of the interface that has the GID's address, 0 if none has: it may live in another
// network namespace.
static uint8_t find_prefix(const struct ifaddrs *all, const struct rdi_verbs_gid *g) {
    for (const struct ifaddrs *a = all; a != NULL; a = a->ifa_next) {
        if (a->ifa_addr == NULL || a->ifa_netmask == NULL) {
            continue;
        }
        // The sockaddr may lie anywhere: read it as bytes.
        if (g->family == 4 && a->ifa_addr->sa_family == AF_INET) {
            struct sockaddr_in addr, mask;
            memcpy(&addr, a->ifa_addr, sizeof addr);
            memcpy(&mask, a->ifa_netmask, sizeof mask);
            if (memcmp(&addr.sin_addr, g->raw + 12, 4) == 0) {
                return bits_of((const uint8_t *)&mask.sin_addr, 4);
            }
        } else if (g->family == 6 && a->ifa_addr->sa_family == AF_INET6) {
            struct sockaddr_in6 addr, mask;
            memcpy(&addr, a->ifa_addr, sizeof addr);
            memcpy(&mask, a->ifa_netmask, sizeof mask);
            if (memcmp(&addr.sin6_addr, g->raw, 16) == 0) {
                return bits_of((const uint8_t *)&mask.sin6_addr, 16);
            }
        }
    }
    return 0;
}

// Keeps the best RDI_VERBS_GIDS in order, of equal ones those with the smaller index.
static bool insert(struct rdi_verbs_port *p, const struct rdi_verbs_gid *g) {
    int rank = rdi_verbs_gid_rank(g, NULL);
    unsigned at = p->ngids;
    while (at > 0 && rdi_verbs_gid_rank(&p->gids[at - 1], NULL) < rank) {
        at--;
    }
    if (at == RDI_VERBS_GIDS) {
        return false;
    }
    unsigned last = p->ngids < RDI_VERBS_GIDS ? p->ngids++ : RDI_VERBS_GIDS - 1;
    memmove(&p->gids[at + 1], &p->gids[at], (last - at) * sizeof p->gids[0]);
    p->gids[at] = *g;
    return at == 0;
}

void rdi_verbs_gids_read(const struct rdi_ibv *v, struct ibv_context *context,
                         const struct rdi_options *o, struct rdi_verbs_port *p) {
    struct ifaddrs *all = NULL;
    if (p->roce && getifaddrs(&all) != 0) {
        all = NULL; // without prefixes the usual ones are taken
    }
    p->ngids = 0;
    for (unsigned i = 0; i < p->gid_table && i < TABLE_MAX; i++) {
        struct rdi_verbs_gid g;
        char netdev[32];
        if (!read_entry(v, context, p, i, &g, netdev) || rdi_verbs_gid_rank(&g, o) == 0) {
            continue;
        }
        g.prefix = p->roce ? find_prefix(all, &g) : 0;
        if (insert(p, &g) && netdev[0] != '\0') {
            snprintf(p->netdev, sizeof p->netdev, "%s", netdev);
        }
    }
    if (all != NULL) {
        freeifaddrs(all);
    }
}
