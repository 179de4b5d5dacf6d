// SPDX-License-Identifier: MIT
// The option `interface`, names and subnets joined by '+', against a host with many kinds of addresses. Whatever
// it says, what is chosen is there, is up, is of the family, and is listed once.
//
//   input[0]  family: 0 auto, 1 ipv4, 2 ipv6       input[1]  room for so many addresses
#include "fuzz.h"
#include "transport/netif.h"

#include <arpa/inet.h>

enum { LOOPBACK = 1, DOWN = 2, NO_CARRIER = 4, BRIDGE = 8 };
static const struct {
    const char *name, *address;
    unsigned prefix, flags;
} host[] = {
    {"lo", "127.0.0.1", 8, LOOPBACK},
    {"lo", "::1", 128, LOOPBACK},
    {"eth0", "10.1.2.3", 24, 0},
    {"eth0", "10.1.2.4", 24, 0},
    {"eth0", "fe80::1", 64, 0},
    {"eth0", "fd00:1::5", 64, 0},
    {"eth1", "10.2.0.1", 16, 0},
    {"eth1", "fd00:2::1", 48, 0},
    {"eth2", "192.168.7.9", 29, NO_CARRIER},
    {"ib0", "172.16.0.1", 12, DOWN},
    {"docker0", "172.17.0.1", 16, 0},
    {"br7", "10.9.0.1", 24, BRIDGE},
    {"usb0", "169.254.3.4", 16, 0},
    {"abcdefghijklmno", "2001:db8::1", 0, 0},
};
#define ADDRESSES (sizeof host / sizeof host[0])

static struct rdi_netif_seen known[ADDRESSES];

static void know_host(void) {
    for (size_t i = 0; i < ADDRESSES; i++) {
        struct rdi_netif_seen *s = &known[i];
        snprintf(s->at.name, sizeof s->at.name, "%s", host[i].name);
        s->at.family = strchr(host[i].address, ':') != NULL ? AF_INET6 : AF_INET;
        MUST(inet_pton(s->at.family, host[i].address, s->at.addr) == 1);
        s->at.prefix = host[i].prefix;
        s->at.loopback = host[i].flags & LOOPBACK;
        s->index = (unsigned)(i + 1);
        s->up = !(host[i].flags & DOWN);
        s->carrier = !(host[i].flags & NO_CARRIER);
        s->private_bridge = host[i].flags & BRIDGE;
    }
}

static bool is_up(const struct rdi_netif *a) {
    for (size_t i = 0; i < ADDRESSES; i++) {
        const struct rdi_netif *at = &known[i].at;
        if (strcmp(at->name, a->name) == 0 && memcmp(at->addr, a->addr, sizeof at->addr) == 0) {
            return known[i].up;
        }
    }
    return false;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const char *const families[] = {"auto", "ipv4", "ipv6"};
    struct input in = {data, size};
    struct rdi_netif_seen seen[ADDRESSES];
    if (known[0].index == 0) {
        know_host();
    }
    memcpy(seen, known, sizeof seen);
    struct rdi_netif out[ADDRESSES];
    const char *family = families[take_byte(&in) % 3];
    size_t cap = take_byte(&in) % (ADDRESSES + 1), n = SIZE_MAX;
    char *text = take_text(&in);
    rondo_status s = rdi_netif_choose(seen, ADDRESSES, text, family, out, cap, &n);
    if (s == RONDO_OK) {
        MUST(n <= cap);
        for (size_t i = 0; i < n; i++) {
            MUST(is_up(&out[i]));
            MUST(family[0] == 'a' || (out[i].family == AF_INET) == (family[3] == '4'));
            for (size_t k = 0; k < i; k++) {
                MUST(memcmp(out[i].addr, out[k].addr, sizeof out[i].addr) != 0);
            }
        }
    } else {
        MUST(s == RONDO_ERR_INVALID || s == RONDO_ERR_UNSUPPORTED);
        MUST(rondo_last_error()[0] != '\0');
    }
    free(text);
    return 0;
}
