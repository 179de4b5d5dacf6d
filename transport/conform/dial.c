// SPDX-License-Identifier: MIT
// The doors of a net as a stranger sees them: plain connections to its listener, and listeners of our own that
// pass for one.
#include "transport/conform/check.h"
#include "transport/shm/shm.h"
#include "transport/tcp/tcp.h"
#include "transport/verbs/verbs.h"

#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define DIAL_SECONDS 3
#define ACCEPT_MS 10

static bool is_shm(const struct cf *c) { return strcmp(c->ops->name, "shm") == 0; }

enum rdi_hs_kind cf_handshake_kind(const struct cf *c) {
    return is_shm(c) ? RDI_HS_SHM : RDI_HS_TCP;
}

// The part of an address that tells where tcp listens; verbs sets its links up through a tcp net of its own.
static void find_tcp(struct cf *c, const struct cf_addr *a, struct rdi_tcp_blob *out, size_t *at,
                     size_t *len) {
    const uint8_t *inner = a->blob;
    struct rdi_verbs_address ports;
    *len = a->len;
    bool ok = strcmp(c->ops->name, "verbs") != 0 ||
              rdi_verbs_blob_read(a->blob, a->len, &inner, len, &ports);
    cf_expect(c, ok && rdi_tcp_blob_read(out, inner, *len), "the net's address cannot be read");
    *at = (size_t)(inner - a->blob);
}

static int dial_tcp(struct cf *c, const struct cf_addr *to) {
    struct rdi_tcp_blob blob;
    size_t at, len;
    find_tcp(c, to, &blob, &at, &len);
    bool near = memcmp(blob.host_id, c->place->job.host_id, sizeof blob.host_id) == 0;
    for (unsigned i = 0; i < blob.count; i++) {
        struct sockaddr_storage s;
        struct timeval patience = {.tv_sec = DIAL_SECONDS};
        if (blob.addr[i].loopback && !near) {
            continue;
        }
        socklen_t n = rdi_tcp_sockaddr(&blob.addr[i], blob.addr[i].port, &s);
        int fd = socket(s.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (fd >= 0) {
            setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
            if (connect(fd, (struct sockaddr *)&s, n) == 0) {
                return fd;
            }
            close(fd);
        }
    }
    return -1;
}

int cf_dial(struct cf *c, const struct cf_addr *to) {
    struct shm_address a;
    if (!is_shm(c)) {
        return dial_tcp(c, to);
    }
    cf_expect(c, shm_address_parse(to->blob, to->len, &a), "the net's address cannot be read");
    return shm_dial(&a);
}

static int listen_tcp(struct cf *c, const struct cf_addr *like, struct cf_addr *out) {
    struct rdi_tcp_blob blob;
    size_t at, len;
    struct sockaddr_in6 s6 = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_ANY_INIT};
    struct sockaddr_in s4 = {.sin_family = AF_INET};
    socklen_t n6 = sizeof s6, n4 = sizeof s4;
    uint16_t port = 0;
    find_tcp(c, like, &blob, &at, &len);
    int off = 0, fd = socket(AF_INET6, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd >= 0 && setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off) == 0 &&
        bind(fd, (struct sockaddr *)&s6, n6) == 0 && listen(fd, 16) == 0 &&
        getsockname(fd, (struct sockaddr *)&s6, &n6) == 0) {
        port = s6.sin6_port;
    } else {
        if (fd >= 0) {
            close(fd);
        }
        fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        cf_expect(c,
                  fd >= 0 && bind(fd, (struct sockaddr *)&s4, n4) == 0 && listen(fd, 16) == 0 &&
                      getsockname(fd, (struct sockaddr *)&s4, &n4) == 0,
                  "cannot listen: %s", strerror(errno));
        port = s4.sin_port;
    }
    for (unsigned i = 0; i < blob.count; i++) {
        blob.addr[i].port = ntohs(port);
    }
    uint8_t bytes[RDI_BLOB_MAX];
    cf_expect(c, rdi_tcp_blob_write(&blob, bytes) == len, "another address is longer");
    *out = *like;
    memcpy(out->blob + at, bytes, len);
    return fd;
}

int cf_listen_like(struct cf *c, const struct cf_addr *like, struct cf_addr *out) {
    struct shm_address a;
    if (!is_shm(c)) {
        return listen_tcp(c, like, out);
    }
    cf_expect(c, shm_address_parse(like->blob, like->len, &a), "the net's address cannot be read");
    c->env.random(c->env.self, a.name, sizeof a.name);
    out->len = shm_address_write(&a, out->blob);
    int fd = shm_listen(&a);
    cf_expect(c, fd >= 0, "cannot listen: %s", strerror(errno));
    return fd;
}

int cf_accept_one(int listener) {
    struct pollfd p = {.fd = listener, .events = POLLIN};
    return poll(&p, 1, ACCEPT_MS) == 1 ? accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK)
                                       : -1;
}
