// SPDX-License-Identifier: MIT
// Listening sockets of the store: one port on all the addresses of a name.
#ifndef RDI_BOOTSTRAP_STORE_LISTEN_H
#define RDI_BOOTSTRAP_STORE_LISTEN_H

#include "transport/internal.h"

#define RDI_STORE_LISTENERS 8

struct rdi_listeners {
    int fd[RDI_STORE_LISTENERS];
    size_t count;
    int port;
    bool busy; // why there are none: another process has the port
};
// `addr` NULL: all addresses of both families; a name that means several addresses gets them all.
// `port` 0: any that is free. The sockets do not block.
rondo_status rdi_listen(const char *addr, int port, struct rdi_listeners *out);
// The same, but waits for a port that is in use: one that another job's ranks meet at is free in a moment.
rondo_status rdi_listen_soon(const char *addr, int port, int busy_ms, struct rdi_listeners *out);
// Closes them so that the port is free at once, also when a forked child still holds copies.
void rdi_listen_close(struct rdi_listeners *l);

#endif
