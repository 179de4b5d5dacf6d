// SPDX-License-Identifier: MIT
// Binding the store's port, and saying what is wrong when that does not work.
#include "transport/bootstrap/store_listen.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define BUSY_PAUSE_MS 20 // between looks whether a port is free

static int bind_one(const struct sockaddr *address, socklen_t len, bool both_families) {
    int fd = socket(address->sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) {
        return -1;
    }
    int on = 1, only = both_families ? 0 : 1;
    // A job may start again right after another: connections in TIME_WAIT are no hindrance.
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if ((address->sa_family == AF_INET6 &&
         setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &only, sizeof only) != 0) ||
        bind(fd, address, len) != 0 || listen(fd, 1024) != 0) {
        int saved = errno;
        close(fd);
        errno = saved;
        return -1;
    }
    return fd;
}

static int port_of(int fd) {
    struct sockaddr_storage a = {.ss_family = AF_UNSPEC};
    socklen_t len = sizeof a;
    if (getsockname(fd, (struct sockaddr *)&a, &len) != 0) {
        return 0;
    }
    return ntohs(a.ss_family == AF_INET ? ((struct sockaddr_in *)&a)->sin_port
                                        : ((struct sockaddr_in6 *)&a)->sin6_port);
}

static rondo_status bind_failed(const char *addr, int port, int err) {
    if (err == EADDRINUSE) {
        return rdi_fail_errno(
            RONDO_ERR_BOOTSTRAP, err,
            "port %d of this host is in use, so the store cannot be served there: choose"
            " another with MASTER_PORT (rondo-run --master-port), or end the program"
            " that has it (ss -ltnp shows which)",
            port);
    }
    if (err == EACCES) {
        return rdi_fail_errno(RONDO_ERR_BOOTSTRAP, err,
                              "this user may not listen on port %d: choose one from 1024 up with"
                              " MASTER_PORT (rondo-run --master-port)",
                              port);
    }
    return rdi_fail_errno(RONDO_ERR_BOOTSTRAP, err, "cannot listen on %s, port %d",
                          addr != NULL ? addr : "all addresses", port);
}

static rondo_status listen_on_all(int port, struct rdi_listeners *out) {
    struct sockaddr_in6 six = {.sin6_family = AF_INET6, .sin6_port = htons((uint16_t)port)};
    six.sin6_addr = in6addr_any;
    int fd = bind_one((const struct sockaddr *)&six, sizeof six, true);
    if (fd < 0 && errno != EADDRINUSE && errno != EACCES) {
        // A kernel without IPv6.
        struct sockaddr_in four = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
        fd = bind_one((const struct sockaddr *)&four, sizeof four, false);
    }
    if (fd < 0) {
        out->busy = errno == EADDRINUSE;
        return bind_failed(NULL, port, errno);
    }
    *out = (struct rdi_listeners){.fd = {fd}, .count = 1, .port = port_of(fd)};
    return RONDO_OK;
}

static rondo_status listen_on_name(const char *addr, int port, struct rdi_listeners *out) {
    char service[16];
    snprintf(service, sizeof service, "%d", port);
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV};
    struct addrinfo *list = NULL;
    int err = getaddrinfo(addr, service, &hints, &list);
    if (err != 0) {
        return rdi_fail(RONDO_ERR_BOOTSTRAP,
                        "the address %s to serve the store at cannot be resolved: %s", addr,
                        gai_strerror(err));
    }
    struct rdi_listeners l = {.port = port};
    int failure = EADDRNOTAVAIL;
    for (const struct addrinfo *a = list; a != NULL && l.count < RDI_STORE_LISTENERS;
         a = a->ai_next) {
        // With any port, the first address chooses it for the others.
        struct sockaddr_storage address;
        memcpy(&address, a->ai_addr, a->ai_addrlen);
        if (address.ss_family == AF_INET) {
            ((struct sockaddr_in *)&address)->sin_port = htons((uint16_t)l.port);
        } else {
            ((struct sockaddr_in6 *)&address)->sin6_port = htons((uint16_t)l.port);
        }
        int fd = bind_one((const struct sockaddr *)&address, a->ai_addrlen, false);
        if (fd >= 0) {
            l.fd[l.count++] = fd;
            l.port = port_of(fd);
        } else {
            // Half of a name's addresses would serve only some of the ranks; one that this host
            // does not have (::1 without IPv6) is no loss.
            failure = errno;
            if (failure != EADDRNOTAVAIL && failure != EAFNOSUPPORT) {
                rdi_listen_close(&l);
                break;
            }
        }
    }
    freeaddrinfo(list);
    if (l.count == 0) {
        out->busy = failure == EADDRINUSE;
        return bind_failed(addr, port, failure);
    }
    *out = l;
    return RONDO_OK;
}

rondo_status rdi_listen(const char *addr, int port, struct rdi_listeners *out) {
    *out = (struct rdi_listeners){.count = 0};
    return addr == NULL ? listen_on_all(port, out) : listen_on_name(addr, port, out);
}

rondo_status rdi_listen_soon(const char *addr, int port, int busy_ms, struct rdi_listeners *out) {
    const struct timespec pause = {.tv_nsec = BUSY_PAUSE_MS * 1000000L};
    rondo_status s = rdi_listen(addr, port, out);
    for (int left = busy_ms; left > 0 && out->busy; left -= BUSY_PAUSE_MS) {
        nanosleep(&pause, NULL);
        s = rdi_listen(addr, port, out);
    }
    return s;
}

void rdi_listen_close(struct rdi_listeners *l) {
    for (size_t i = 0; i < l->count; i++) {
        shutdown(l->fd[i], SHUT_RDWR);
        close(l->fd[i]);
    }
    l->count = 0;
}
