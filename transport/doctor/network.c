// SPDX-License-Identifier: MIT
// Interfaces and TCP's settings.
#include "transport/doctor/doctor.h"

#include <arpa/inet.h>
#include <errno.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>
#include <string.h>

#define NETIFS 64
#define WINDOW_LEAST (UINT64_C(4) << 20) // 10 Gb/s over 3 ms
#define FAST_MBIT 10000u

// ---- Interfaces ----------------------------------------------------------------------------------

static void describe(struct doctor *d, const struct rdi_netif *i, unsigned order) {
    char address[INET6_ADDRSTRLEN], speed[48] = "";
    uint64_t mtu = 0, mbit = 0;
    inet_ntop(i->family, i->addr, address, sizeof address);
    dr_read_number(d, &mtu, "/sys/class/net/%s/mtu", i->name);
    if (dr_read_number(d, &mbit, "/sys/class/net/%s/speed", i->name) && mbit < 10000000) {
        snprintf(speed, sizeof speed, ", %.3g Gb/s", (double)mbit / 1000);
    }
    dr_add(d, DR_OK, i->name, "number %u: %s/%u, MTU %llu%s%s", order, address, i->prefix,
           (unsigned long long)mtu, speed, i->loopback ? ", for ranks of this host only" : "");
    if (mbit >= FAST_MBIT && mbit < 10000000 && mtu > 0 && mtu < 8000) {
        dr_means(d, "small packets on a fast network cost processor time");
        dr_remedy(d, "where switches and all hosts permit: ip link set %s mtu 9000", i->name);
    }
}

static bool is_chosen(const struct rdi_netif *list, size_t n, const struct ifaddrs *a,
                      const void *ip) {
    for (size_t i = 0; i < n; i++) {
        if (list[i].family == a->ifa_addr->sa_family &&
            memcmp(list[i].addr, ip, list[i].family == AF_INET ? 4 : 16) == 0) {
            return true;
        }
    }
    return false;
}

// What is not used: down, of another family, link-local, a bridge of containers …
static void describe_others(struct doctor *d, const struct rdi_netif *list, size_t n) {
    struct ifaddrs *all;
    char text[512] = "";
    size_t used = 0;
    if (getifaddrs(&all) != 0) {
        return;
    }
    for (const struct ifaddrs *a = all; a != NULL && used < sizeof text; a = a->ifa_next) {
        char address[INET6_ADDRSTRLEN];
        if (a->ifa_addr == NULL ||
            (a->ifa_addr->sa_family != AF_INET && a->ifa_addr->sa_family != AF_INET6)) {
            continue;
        }
        const void *ip = a->ifa_addr->sa_family == AF_INET
                             ? (const void *)&((struct sockaddr_in *)a->ifa_addr)->sin_addr
                             : (const void *)&((struct sockaddr_in6 *)a->ifa_addr)->sin6_addr;
        if (is_chosen(list, n, a, ip)) {
            continue;
        }
        inet_ntop(a->ifa_addr->sa_family, ip, address, sizeof address);
        used += (size_t)snprintf(text + used, sizeof text - used, "%s%s %s%s", used > 0 ? ", " : "",
                                 a->ifa_name, address,
                                 (a->ifa_flags & IFF_UP) == 0        ? " (down)"
                                 : (a->ifa_flags & IFF_RUNNING) == 0 ? " (no carrier)"
                                                                     : "");
    }
    freeifaddrs(all);
    if (used > 0) {
        dr_add(d, DR_INFO, NULL, "not used: %s", text);
        dr_remedy(d, "RONDO_INTERFACE=NAME or SUBNET, joined by '+', chooses otherwise");
    }
}

// Of its interface, which may have addresses of both families.
static bool is_first(const struct rdi_netif *list, size_t i) {
    size_t first = 0;
    while (strcmp(list[first].name, list[i].name) != 0) {
        first++;
    }
    return first == i;
}

void dr_network_interfaces(struct doctor *d) {
    struct rdi_netif list[NETIFS];
    size_t n = 0;
    bool several = d->per_node < d->ranks;
    if (rdi_netif_list(&d->options, list, NETIFS, &n) != RONDO_OK) {
        bool needed = several || dr_insists(d, "tcp");
        dr_add(d, needed && dr_wants(d, "tcp") ? DR_ERROR : DR_WARNING, NULL, "%s",
               rondo_last_error());
        dr_means(d, "ranks on different hosts cannot meet; those of this host still share memory");
        dr_remedy(d, "bring an interface up, or correct RONDO_INTERFACE and RONDO_FAMILY");
        return;
    }
    unsigned outside = 0;
    for (size_t i = 0; i < n; i++) {
        describe(d, &list[i], (unsigned)i + 1);
        outside += !list[i].loopback && is_first(list, i);
    }
    if (outside > 1 && d->options.str[RDI_OPT_INTERFACE][0] == '\0') {
        dr_add(d, DR_INFO, NULL,
               "of %u interfaces each rank prefers those that are near to its GPU or memory; "
               "rondo-topo --decide shows which, and the log of each rank",
               outside);
    }
    if (outside == 0) {
        dr_add(d, several ? DR_ERROR : DR_INFO, NULL, "there is only the loopback interface");
        dr_means(d, "no other host can be reached");
        dr_remedy(d,
                  "bring an interface up (ip link, ip addr), or start the container with a network"
                  " (docker run --network host)");
    }
    describe_others(d, list, n);
}

// ---- Settings ------------------------------------------------------------------------------------

// The third number of net.ipv4.tcp_rmem or tcp_wmem.
static bool largest(const struct doctor *d, const char *name, uint64_t *out) {
    char text[128];
    unsigned long long v[3];
    if (!dr_read(d, text, sizeof text, "/proc/sys/net/ipv4/%s", name) ||
        sscanf(text, "%llu %llu %llu", &v[0], &v[1], &v[2]) != 3) {
        return false;
    }
    *out = v[2];
    return true;
}

void dr_network_buffers(struct doctor *d) {
    uint64_t receive, send;
    char a[32], b[32];
    if (!largest(d, "tcp_rmem", &receive) || !largest(d, "tcp_wmem", &send)) {
        dr_add(d, DR_INFO, NULL, "the sizes of TCP's buffers are not visible here");
        return;
    }
    bool little = receive < WINDOW_LEAST || send < WINDOW_LEAST;
    dr_add(d, little ? DR_INFO : DR_OK, NULL,
           "TCP's buffers grow to %s for receiving, %s for sending", dr_bytes(receive, a),
           dr_bytes(send, b));
    if (little) {
        // Half of a receive buffer is room for bookkeeping.
        double bytes = (double)(receive / 2 < send ? receive / 2 : send);
        dr_means(d, "one connection moves at most %.2g GB/s at 1 ms round-trip time",
                 bytes / 1e-3 / 1e9);
        dr_remedy(d, "on fast long networks, as root: sysctl -w net.ipv4.tcp_rmem='4096 131072"
                     " 16777216' net.ipv4.tcp_wmem='4096 65536 16777216'; or RONDO_TCP_SOCKETS=4");
    }
}

void dr_network_ports(struct doctor *d) {
    char text[128];
    unsigned low, high;
    uint64_t queue;
    if (dr_read(d, text, sizeof text, "/proc/sys/net/ipv4/ip_local_port_range") &&
        sscanf(text, "%u %u", &low, &high) == 2 && high >= low) {
        // Each local rank dials every other one, and dials again after a loss.
        uint64_t need = (uint64_t)d->per_node * (uint64_t)d->ranks *
                        (uint64_t)d->options.num[RDI_OPT_TCP_SOCKETS];
        unsigned have = high - low + 1;
        dr_add(d, have < need || have < 1000 ? DR_WARNING : DR_OK, NULL,
               "ports %u to %u for connections and for the ranks' listeners", low, high);
        if (have < need || have < 1000) {
            dr_means(d,
                     "%llu connections of a job may not find a port, also because ports rest for a"
                     " minute after use (EADDRNOTAVAIL)",
                     (unsigned long long)need);
            dr_remedy(d, "as root: sysctl -w net.ipv4.ip_local_port_range='15000 60999'");
        }
    }
    if (dr_read_number(d, &queue, "/proc/sys/net/core/somaxconn")) {
        bool little = queue < 1024 && queue < (uint64_t)d->ranks;
        dr_add(d, little ? DR_WARNING : DR_OK, NULL, "listeners queue %llu connections",
               (unsigned long long)queue);
        if (little) {
            dr_means(d,
                     "of %d ranks that reach the store at once some are made to wait a second or"
                     " more",
                     d->ranks);
            dr_remedy(d, "as root: sysctl -w net.core.somaxconn=1024");
        }
    }
}
