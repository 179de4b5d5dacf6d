// SPDX-License-Identifier: MIT
// The choice among network interfaces, apart from asking the system for them, so that it can be
// tested on hosts that do not exist.
#ifndef RDI_TRANSPORT_NETIF_H
#define RDI_TRANSPORT_NETIF_H

#include "transport/internal.h"

// One address of an interface, as the system tells it.
struct rdi_netif_seen {
    struct rdi_netif at;
    unsigned index;      // the kernel's number of the interface
    bool up;             // administratively up
    bool carrier;        // the other end of the cable is up
    bool private_bridge; // a bridge that leads to containers or virtual machines only
};

// As rdi_netif_list(), out of seen[0..count-1] (which it sorts). `interface` and `family` are the
// options' words.
rondo_status rdi_netif_choose(struct rdi_netif_seen *seen, size_t count, const char *interface,
                              const char *family, struct rdi_netif *out, size_t cap, size_t *n);

#endif
