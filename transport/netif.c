// SPDX-License-Identifier: MIT
// Which addresses of this host to use. By default those that other hosts have a chance to reach;
// docker's and other bridges that lead only to containers look the same on every host and reach
// none, which is why they are left out.
#include "transport/netif.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <ifaddrs.h>
#include <limits.h>
#include <net/if.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

// The carrier is there. IFF_RUNNING says much the same, but up to a second late after an interface
// was set up. (<linux/if.h> has the name, and cannot be included together with <net/if.h>.)
#define LOWER_UP (1u << 16)

// Most addresses of a host that are looked at; the rest is left out.
#define SEEN_MAX 512

// ---- The choice ---------------------------------------------------------------------------------

static size_t address_bytes(int family) { return family == AF_INET ? 4 : 16; }

static bool is_link_local(const struct rdi_netif *a) {
    return a->family == AF_INET ? a->addr[0] == 169 && a->addr[1] == 254
                                : a->addr[0] == 0xfe && (a->addr[1] & 0xc0) == 0x80;
}

static bool is_virtual_name(const char *name) {
    static const char *const prefixes[] = {"docker", "br-",    "virbr",   "lxcbr", "lxdbr",
                                           "cni",    "podman", "flannel", "cali"};
    for (size_t i = 0; i < sizeof prefixes / sizeof prefixes[0]; i++) {
        if (strncmp(name, prefixes[i], strlen(prefixes[i])) == 0) {
            return true;
        }
    }
    return false;
}

struct subnet {
    int family;
    uint8_t addr[16];
    unsigned prefix;
};

// "10.1.0.0/16", "fd00::/8", or an address alone. False: it is a name.
static bool parse_subnet(const char *text, size_t n, struct subnet *out) {
    char address[INET6_ADDRSTRLEN + 1];
    const char *slash = memchr(text, '/', n);
    size_t length = slash != NULL ? (size_t)(slash - text) : n;
    if (length >= sizeof address) {
        return false;
    }
    memcpy(address, text, length);
    address[length] = '\0';
    memset(out, 0, sizeof *out);
    if (inet_pton(AF_INET, address, out->addr) == 1) {
        out->family = AF_INET;
    } else if (inet_pton(AF_INET6, address, out->addr) == 1) {
        out->family = AF_INET6;
    } else {
        return false;
    }
    unsigned most = (unsigned)(8 * address_bytes(out->family));
    out->prefix = most;
    if (slash != NULL) {
        size_t digits = n - length - 1;
        out->prefix = 0;
        if (digits == 0 || digits > 3) {
            return false;
        }
        for (size_t i = 1; i <= digits; i++) {
            if (slash[i] < '0' || slash[i] > '9') {
                return false;
            }
            out->prefix = out->prefix * 10 + (unsigned)(slash[i] - '0');
        }
    }
    return out->prefix <= most;
}

static bool in_subnet(const struct rdi_netif *a, const struct subnet *net) {
    if (a->family != net->family) {
        return false;
    }
    unsigned whole = net->prefix / 8, rest = net->prefix % 8;
    if (memcmp(a->addr, net->addr, whole) != 0) {
        return false;
    }
    return rest == 0 || (uint8_t)(a->addr[whole] ^ net->addr[whole]) >> (8 - rest) == 0;
}

// IPv4 first, in the kernel's order of interfaces; loopback last.
static int compare(const void *a, const void *b) {
    const struct rdi_netif_seen *x = a, *y = b;
    if (x->at.loopback != y->at.loopback) {
        return x->at.loopback ? 1 : -1;
    }
    if (x->at.family != y->at.family) {
        return x->at.family == AF_INET ? -1 : 1;
    }
    if (x->index != y->index) {
        return x->index < y->index ? -1 : 1;
    }
    return memcmp(x->at.addr, y->at.addr, sizeof x->at.addr);
}

// "lo 127.0.0.1/8, eth0 10.0.0.5/24 (down)", for error texts.
static void describe_all(const struct rdi_netif_seen *seen, size_t count, char *buf, size_t cap) {
    size_t used = 0;
    snprintf(buf, cap, "%s", count == 0 ? "none" : "");
    for (size_t i = 0; i < count; i++) {
        char address[INET6_ADDRSTRLEN];
        inet_ntop(seen[i].at.family, seen[i].at.addr, address, sizeof address);
        int n = snprintf(buf + used, cap - used, "%s%s %s/%u%s", i > 0 ? ", " : "", seen[i].at.name,
                         address, seen[i].at.prefix, seen[i].up ? "" : " (down)");
        if (n < 0 || (size_t)n >= cap - used) {
            snprintf(buf + (used < cap - 4 ? used : cap - 4), 4, "...");
            return;
        }
        used += (size_t)n;
    }
}

struct choice {
    const struct rdi_netif_seen *seen;
    size_t count;
    int family; // AF_UNSPEC: both
    struct rdi_netif *out;
    size_t cap, n;
};

static bool family_fits(const struct choice *c, const struct rdi_netif_seen *s) {
    return c->family == AF_UNSPEC || c->family == s->at.family;
}

static void take(struct choice *c, const struct rdi_netif_seen *s) {
    for (size_t i = 0; i < c->n; i++) {
        const struct rdi_netif *o = &c->out[i];
        if (o->family == s->at.family && strcmp(o->name, s->at.name) == 0 &&
            memcmp(o->addr, s->at.addr, sizeof o->addr) == 0) {
            return;
        }
    }
    if (c->n < c->cap) {
        c->out[c->n++] = s->at;
    }
}

// One address per interface and family: a host with several (IPv6 privacy addresses) has not more
// wires.
static bool is_first_of_interface(const struct choice *c, const struct rdi_netif_seen *s) {
    for (size_t i = 0; i < c->n; i++) {
        if (c->out[i].family == s->at.family && strcmp(c->out[i].name, s->at.name) == 0) {
            return false;
        }
    }
    return true;
}

static void take_defaults(struct choice *c) {
    for (size_t i = 0; i < c->count; i++) {
        const struct rdi_netif_seen *s = &c->seen[i];
        if (s->up && s->carrier && family_fits(c, s) && !is_link_local(&s->at) &&
            !s->private_bridge && !is_virtual_name(s->at.name) && is_first_of_interface(c, s)) {
            take(c, s);
        }
    }
}

// Takes what one name or subnet of the option means; returns how many addresses that is. A name
// means the interface's link-local addresses only if it has no others.
static size_t take_item(struct choice *c, const char *item, size_t n) {
    struct subnet net;
    bool is_subnet = parse_subnet(item, n, &net);
    size_t found = 0;
    for (int link_local = 0; link_local <= 1 && found == 0; link_local++) {
        for (size_t i = 0; i < c->count; i++) {
            const struct rdi_netif_seen *s = &c->seen[i];
            bool fits = is_subnet ? in_subnet(&s->at, &net)
                                  : strlen(s->at.name) == n && memcmp(s->at.name, item, n) == 0 &&
                                        is_link_local(&s->at) == (link_local == 1);
            if (fits && s->up && family_fits(c, s)) {
                take(c, s);
                found++;
            }
        }
    }
    return found;
}

static rondo_status take_items(struct choice *c, const char *interface, const char *family) {
    for (const char *item = interface; item != NULL;) {
        const char *plus = strchr(item, '+');
        size_t n = plus != NULL ? (size_t)(plus - item) : strlen(item);
        if (take_item(c, item, n) == 0) {
            char all[400];
            describe_all(c->seen, c->count, all, sizeof all);
            bool any = c->family == AF_UNSPEC;
            return rdi_fail(
                RONDO_ERR_INVALID,
                "option interface: '%.*s' is neither the name nor the subnet of an%s%s address"
                " of this host that is up; there are: %s",
                n > 64 ? 64 : (int)n, item, any ? "" : " ", any ? "" : family, all);
        }
        item = plus != NULL ? plus + 1 : NULL;
    }
    return RONDO_OK;
}

rondo_status rdi_netif_choose(struct rdi_netif_seen *seen, size_t count, const char *interface,
                              const char *family, struct rdi_netif *out, size_t cap, size_t *n) {
    struct choice c = {.seen = seen, .count = count, .out = out, .cap = cap};
    c.family = strcmp(family, "ipv4") == 0   ? AF_INET
               : strcmp(family, "ipv6") == 0 ? AF_INET6
                                             : AF_UNSPEC;
    if (count > 0) {
        qsort(seen, count, sizeof seen[0], compare);
    }
    if (interface[0] != '\0') {
        rondo_status s = take_items(&c, interface, family);
        if (s != RONDO_OK) {
            return s;
        }
    } else {
        take_defaults(&c);
        if (c.n == 0) {
            char all[400];
            describe_all(seen, count, all, sizeof all);
            return rdi_fail(RONDO_ERR_UNSUPPORTED,
                            "no network interface to use (option family=%s): none that is up has a"
                            " suitable address; there are: %s",
                            family, all);
        }
    }
    *n = c.n;
    return RONDO_OK;
}

// ---- What there is ------------------------------------------------------------------------------

static unsigned prefix_of(const uint8_t *mask, size_t bytes) {
    unsigned bits = 0;
    while (bits < 8 * bytes && (mask[bits / 8] & (0x80 >> bits % 8)) != 0) {
        bits++;
    }
    return bits;
}

static bool exists(const char *format, const char *name) {
    char path[PATH_MAX];
    snprintf(path, sizeof path, format, name);
    return access(path, F_OK) == 0;
}

// A bridge none of whose ports is a device: all it leads to are veth pairs and taps of this host.
static bool is_private_bridge(const char *name) {
    char path[PATH_MAX];
    snprintf(path, sizeof path, "/sys/class/net/%s/brif", name);
    DIR *ports = opendir(path);
    if (ports == NULL) {
        return false;
    }
    bool private = true;
    for (struct dirent *port = readdir(ports); private && port != NULL; port = readdir(ports)) {
        private = port->d_name[0] == '.' || !exists("/sys/class/net/%s/device", port->d_name);
    }
    closedir(ports);
    return private;
}

// False: not an address that we can use.
static bool read_entry(const struct ifaddrs *a, struct rdi_netif_seen *s) {
    if (a->ifa_addr == NULL || a->ifa_netmask == NULL || strlen(a->ifa_name) >= sizeof s->at.name) {
        return false;
    }
    memset(s, 0, sizeof *s);
    s->at.family = a->ifa_addr->sa_family;
    uint8_t mask[16];
    if (s->at.family == AF_INET) {
        struct sockaddr_in address, netmask;
        memcpy(&address, a->ifa_addr, sizeof address);
        memcpy(&netmask, a->ifa_netmask, sizeof netmask);
        memcpy(s->at.addr, &address.sin_addr, 4);
        memcpy(mask, &netmask.sin_addr, 4);
    } else if (s->at.family == AF_INET6) {
        struct sockaddr_in6 address, netmask;
        memcpy(&address, a->ifa_addr, sizeof address);
        memcpy(&netmask, a->ifa_netmask, sizeof netmask);
        memcpy(s->at.addr, &address.sin6_addr, 16);
        memcpy(mask, &netmask.sin6_addr, 16);
        s->at.scope = is_link_local(&s->at) ? address.sin6_scope_id : 0;
    } else {
        return false;
    }
    snprintf(s->at.name, sizeof s->at.name, "%s", a->ifa_name);
    s->at.prefix = prefix_of(mask, address_bytes(s->at.family));
    s->at.loopback = (a->ifa_flags & IFF_LOOPBACK) != 0;
    s->index = if_nametoindex(a->ifa_name);
    s->up = (a->ifa_flags & IFF_UP) != 0;
    s->carrier = (a->ifa_flags & LOWER_UP) != 0;
    s->private_bridge = is_private_bridge(a->ifa_name);
    return true;
}

rondo_status rdi_netif_list(const struct rdi_options *options, struct rdi_netif *out, size_t cap,
                            size_t *n) {
    struct ifaddrs *all;
    if (getifaddrs(&all) != 0) {
        return rdi_fail_errno(RONDO_ERR_SYSTEM, errno, "cannot list the network interfaces");
    }
    struct rdi_netif_seen *seen = calloc(SEEN_MAX, sizeof *seen);
    if (seen == NULL) {
        freeifaddrs(all);
        return rdi_fail(RONDO_ERR_NOMEM, "no memory to list the network interfaces");
    }
    size_t count = 0;
    for (const struct ifaddrs *a = all; a != NULL && count < SEEN_MAX; a = a->ifa_next) {
        if (read_entry(a, &seen[count])) {
            count++;
        }
    }
    freeifaddrs(all);
    rondo_status s = rdi_netif_choose(seen, count, options->str[RDI_OPT_INTERFACE],
                                      options->str[RDI_OPT_FAMILY], out, cap, n);
    free(seen);
    return s;
}
