// SPDX-License-Identifier: MIT
// Connections that failed: each way of failing has its own consequence and remedy.
#include "transport/doctor/peer.h"

#include <errno.h>
#include <string.h>

static void port_range(const struct doctor *d, char *text, size_t cap) {
    unsigned low, high;
    char range[64];
    if (dr_read(d, range, sizeof range, "/proc/sys/net/ipv4/ip_local_port_range") &&
        sscanf(range, "%u %u", &low, &high) == 2) {
        snprintf(text, cap, "%u-%u", low, high);
    } else {
        snprintf(text, cap, "32768-60999");
    }
}

static void explain_refused(struct doctor *d, int port) {
    if (port > 0) {
        dr_means(d,
                 "the host answers, but nobody listens on port %d; a firewall that rejects looks"
                 " the same",
                 port);
        dr_remedy(d,
                  "start 'rondo-doctor --listen' there first (with --port when it is not %d), or"
                  " open the port",
                  DR_PORT);
        return;
    }
    char range[64];
    port_range(d, range, sizeof range);
    dr_means(d,
             "the other end listens, so a firewall rejects: ranks listen on ports that the kernel"
             " chooses");
    dr_remedy(d,
              "open TCP ports %s between the hosts, such as: nft add rule inet filter input tcp"
              " dport %s ip saddr SUBNET accept",
              range, range);
}

static void explain_silence(struct doctor *d, int port) {
    char range[64];
    port_range(d, range, sizeof range);
    dr_means(d, "nothing comes back: a firewall drops the packets, or the host is down; ranks would"
                " wait until connect_timeout");
    if (port > 0) {
        dr_remedy(
            d,
            "ping the host; open TCP port %d and %s there (nft, firewalld, the cloud's security"
            " group)",
            port, range);
    } else {
        dr_remedy(d,
                  "open TCP ports %s between these addresses (nft, firewalld, the cloud's security"
                  " group), or choose other interfaces with RONDO_INTERFACE",
                  range);
    }
}

static void explain_connect(struct doctor *d, const struct dr_outcome *o, int port) {
    switch (o->err) {
    case ECONNREFUSED:
        explain_refused(d, port);
        break;
    case ETIMEDOUT:
        explain_silence(d, port);
        break;
    case EHOSTUNREACH:
    case ENETUNREACH:
        dr_means(d,
                 "no way leads there: no route, nobody with this address in the subnet, or a router"
                 " or firewall that says so");
        dr_remedy(d, "ip route get ADDRESS; or choose interfaces that reach each other with"
                     " RONDO_INTERFACE");
        break;
    case EACCES:
    case EPERM:
        dr_means(d, "this host itself forbids it");
        dr_remedy(d, "look at the rules for output (nft list ruleset) and at prohibiting routes (ip"
                     " route)");
        break;
    case EADDRNOTAVAIL:
        dr_means(d, "the address has gone, or all local ports are in use");
        dr_remedy(d, "ip addr; sysctl net.ipv4.ip_local_port_range");
        break;
    default:
        dr_means(d, "ranks cannot connect on this way");
        dr_remedy(d, "look at routes (ip route) and rules (nft list ruleset) on both hosts");
        break;
    }
}

static void explain_handshake(struct doctor *d, const struct dr_outcome *o) {
    if (o->status == RONDO_ERR_AUTH) {
        dr_means(d, "ranks of these hosts would refuse each other");
        dr_remedy(d, "the same key file on both hosts: compare sha256sum of RONDO_KEY_FILE or"
                     " ~/.config/rondo/key");
    } else if (o->status == RONDO_ERR_VERSION) {
        dr_means(d, "ranks of these hosts would refuse each other");
        dr_remedy(d, "install the same release of Rondo on both hosts");
    } else if (o->status != RONDO_OK) {
        dr_means(d, "another program answers at this port");
        dr_remedy(
            d, "give the port of 'rondo-doctor --listen' (HOST:PORT), or look for proxies between");
    } else {
        dr_means(
            d, "the connection was accepted but nothing of Rondo came: another program, a proxy, or"
               " a firewall that answers for the host");
        dr_remedy(d, "ss -ltnp on the other host shows who listens; look for proxies between");
    }
}

void dr_explain(struct dr_session *s, enum dr_level level, const char *subject,
                const struct dr_outcome *o, int port) {
    static const char *const doing[] = {"no connection", "no handshake",
                                        "small packets pass, large ones do not", "the stream broke",
                                        "done"};
    struct doctor *d = s->d;
    char text[128];
    const char *reason = o->why[0] != '\0'     ? o->why
                         : o->err == 0         ? "closed by the other end"
                         : o->err == ETIMEDOUT ? "no answer in time"
                                               : strerror_r(o->err, text, sizeof text);
    dr_add(d, level, subject, "%s: %s", doing[o->stage], reason);
    if (o->stage == DR_CONNECT) {
        explain_connect(d, o, port);
    } else if (o->stage == DR_HANDSHAKE) {
        explain_handshake(d, o);
    } else if (o->err == ETIMEDOUT) {
        dr_means(
            d, "ranks connect, and hang with the first large message: somewhere between the MTU is"
               " smaller than that of the interfaces, and nobody is told (ICMP is filtered)");
        dr_remedy(
            d, "the same MTU on all hosts and switches (ping -M do -s 8972 ADDRESS tests 9000), or"
               " as root: sysctl net.ipv4.tcp_mtu_probing=1");
    } else {
        dr_means(d, "connections are cut while data flows");
        dr_remedy(d, "look for firewalls that track connections or limit rates between the hosts");
    }
}
