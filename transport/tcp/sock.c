// SPDX-License-Identifier: MIT
// Sockets: creating them with the options we want, and their names in messages.
#include "transport/tcp/tcp.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

socklen_t rdi_tcp_sockaddr(const struct rdi_tcp_addr *a, uint16_t port,
                           struct sockaddr_storage *out) {
    memset(out, 0, sizeof *out);
    if (a->family == 4) {
        struct sockaddr_in *s = (struct sockaddr_in *)out;
        s->sin_family = AF_INET;
        s->sin_port = htons(port);
        memcpy(&s->sin_addr, a->ip, 4);
        return sizeof *s;
    }
    struct sockaddr_in6 *s = (struct sockaddr_in6 *)out;
    s->sin6_family = AF_INET6;
    s->sin6_port = htons(port);
    s->sin6_scope_id = a->scope;
    memcpy(&s->sin6_addr, a->ip, 16);
    return sizeof *s;
}

static socklen_t length_of(const struct sockaddr_storage *a) {
    return a->ss_family == AF_INET ? sizeof(struct sockaddr_in) : sizeof(struct sockaddr_in6);
}

void rdi_tcp_name(const struct sockaddr_storage *a, char out[RDI_TCP_NAME]) {
    char ip[INET6_ADDRSTRLEN];
    if (a->ss_family == AF_INET) {
        const struct sockaddr_in *s = (const struct sockaddr_in *)a;
        inet_ntop(AF_INET, &s->sin_addr, ip, sizeof ip);
        snprintf(out, RDI_TCP_NAME, "%s:%u", ip, ntohs(s->sin_port));
    } else if (a->ss_family == AF_INET6) {
        const struct sockaddr_in6 *s = (const struct sockaddr_in6 *)a;
        inet_ntop(AF_INET6, &s->sin6_addr, ip, sizeof ip);
        char scope[12] = "";
        if (s->sin6_scope_id != 0) {
            snprintf(scope, sizeof scope, "%%%u", s->sin6_scope_id);
        }
        snprintf(out, RDI_TCP_NAME, "[%s%s]:%u", ip, scope, ntohs(s->sin6_port));
    } else {
        snprintf(out, RDI_TCP_NAME, "?");
    }
}

void rdi_tcp_ip_name(const struct sockaddr_storage *a, char out[RDI_TCP_NAME]) {
    rdi_tcp_name(a, out);
    char *port = strrchr(out, ':');
    if (port != NULL) {
        *port = '\0';
    }
}

void rdi_tcp_ip(const struct rdi_tcp_addr *a, char out[RDI_TCP_NAME]) {
    struct sockaddr_storage s;
    rdi_tcp_sockaddr(a, 0, &s);
    rdi_tcp_ip_name(&s, out);
}

static int open_socket(int family) {
    int fd = socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) {
        return -errno;
    }
    int one = 1;
    if (family == AF_INET6) {
        setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof one);
    }
    return fd;
}

int rdi_tcp_listen(struct rdi_tcp_addr *a) {
    struct sockaddr_storage s;
    socklen_t len = rdi_tcp_sockaddr(a, 0, &s);
    int fd = open_socket(s.ss_family);
    if (fd < 0) {
        return fd;
    }
    if (bind(fd, (struct sockaddr *)&s, len) != 0 || listen(fd, SOMAXCONN) != 0 ||
        getsockname(fd, (struct sockaddr *)&s, &len) != 0) {
        int err = errno;
        close(fd);
        return -err;
    }
    a->port = ntohs(s.ss_family == AF_INET ? ((struct sockaddr_in *)&s)->sin_port
                                           : ((struct sockaddr_in6 *)&s)->sin6_port);
    return fd;
}

int rdi_tcp_dial(const struct sockaddr_storage *from, const struct sockaddr_storage *to) {
    int fd = open_socket(to->ss_family);
    if (fd < 0) {
        return fd;
    }
    struct sockaddr_storage s = *from;
    if (s.ss_family == AF_INET) {
        ((struct sockaddr_in *)&s)->sin_port = 0;
    } else {
        ((struct sockaddr_in6 *)&s)->sin6_port = 0;
    }
    // The port is chosen at connect(), when the whole pair of addresses has to be unique and not just ours.
    int one = 1;
    setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one);
    if (bind(fd, (struct sockaddr *)&s, length_of(&s)) == 0 &&
        (connect(fd, (const struct sockaddr *)to, length_of(to)) == 0 || errno == EINPROGRESS ||
         errno == EINTR)) {
        return fd;
    }
    int err = errno;
    close(fd);
    return -err;
}

bool rdi_tcp_same_ip(const struct sockaddr_storage *a, const struct sockaddr_storage *b) {
    if (a->ss_family != b->ss_family) {
        return false;
    }
    if (a->ss_family == AF_INET) {
        return ((const struct sockaddr_in *)a)->sin_addr.s_addr ==
               ((const struct sockaddr_in *)b)->sin_addr.s_addr;
    }
    return memcmp(&((const struct sockaddr_in6 *)a)->sin6_addr,
                  &((const struct sockaddr_in6 *)b)->sin6_addr, 16) == 0;
}

void rdi_tcp_tune(int fd, const struct rdi_tcp_net *n, bool own_host) {
    // None of these can fail in a way that matters: the connection is a little slower then, or notices a
    // silent host later.
    int one = 1;
    if (own_host) {
        // Nothing is lost within a host, so what counts is that nothing is paced, as bbr would. Reno is in
        // every kernel and open to everybody.
        setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, "reno", 4);
    }
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    // The kernel repeats what nobody acknowledges less and less often, so that for seconds after an outage nothing would
    // come. Where silence is what counts, a new connection is tried instead, again and again (REDIAL).
    unsigned timeout = n->base.params.prompt || n->grace_ms < 1000 ? 1000 : n->grace_ms;
    setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &timeout, sizeof timeout);
    int seconds = (int)(timeout / 4000);
    seconds = seconds < 1 ? 1 : seconds;
    int probes = 3;
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &seconds, sizeof seconds);
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &seconds, sizeof seconds);
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &probes, sizeof probes);
    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof one);
}

void rdi_tcp_limit_text(char *out, size_t cap) {
    struct rlimit limit = {0};
    getrlimit(RLIMIT_NOFILE, &limit);
    snprintf(
        out, cap,
        "out of file descriptors (this process may have %llu): raise the limit with 'ulimit -n'",
        (unsigned long long)limit.rlim_cur);
}
