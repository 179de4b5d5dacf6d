// SPDX-License-Identifier: MIT
// Somebody between two ranks, for tests: forwards what one rank's net says to the other's, keeps it, and may change it.
// Driven in turns like the nets themselves.
#ifndef RDI_TESTS_TCP_MIDDLE_H
#define RDI_TESTS_TCP_MIDDLE_H

#include "tests/unit/tcp_pair.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#define MIDDLE_CONNECTIONS 256
#define MIDDLE_KEPT (4u << 20)
#define MIDDLE_HELD (256u << 10)

struct middle;

// One direction: bytes that were read and not sent on.
struct middle_way {
    uint8_t *held;
    size_t len;
    uint64_t passed; // bytes read so far, the handshake's too
    int words;       // handshake messages that are through
    size_t word_left;
    uint8_t head[10];
    size_t head_len;
    bool ended;
};

struct middle_connection {
    int fd[2]; // of the connector, of the acceptor
    struct middle_way way[2];
};

// Sees n bytes from end `from` behind the handshake, which may be changed in place, and their number (room for twice as
// many). False: this connection is to end.
typedef bool middle_change(struct middle *m, struct middle_connection *c, int from, uint8_t *bytes,
                           size_t *n);

struct middle {
    int listener;
    uint16_t port, target;
    middle_change *change;
    void *arg;
    unsigned count;
    struct middle_connection connection[MIDDLE_CONNECTIONS];
    uint8_t *kept; // all that passed, handshakes too, as it came
    size_t nkept;
};

static inline int middle_socket(uint16_t port, bool listens) {
    struct sockaddr_in a = {
        .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0);
    if (listens) {
        assert_int_equal(bind(fd, (struct sockaddr *)&a, sizeof a), 0);
        assert_int_equal(listen(fd, 64), 0);
    } else if (connect(fd, (struct sockaddr *)&a, sizeof a) != 0) {
        close(fd);
        return -1;
    }
    return fd;
}

// Puts itself before the net's only address, which `blob` becomes.
static inline void middle_open(struct middle *m, struct rdi_net *net, uint8_t blob[RDI_BLOB_MAX],
                               size_t *len) {
    struct rdi_tcp_blob b;
    struct sockaddr_in a;
    socklen_t size = sizeof a;
    memset(m, 0, sizeof *m);
    assert_int_equal(net->ops->address(net, blob, len), RONDO_OK);
    assert_true(rdi_tcp_blob_read(&b, blob, *len));
    assert_int_equal(b.count, 1);
    m->target = b.addr[0].port;
    m->listener = middle_socket(0, true);
    assert_int_equal(getsockname(m->listener, (struct sockaddr *)&a, &size), 0);
    m->port = b.addr[0].port = ntohs(a.sin_port);
    *len = rdi_tcp_blob_write(&b, blob);
    m->kept = malloc(MIDDLE_KEPT);
    assert_non_null(m->kept);
}

static inline void middle_end(struct middle_connection *c) {
    for (int i = 0; i < 2; i++) {
        if (c->fd[i] >= 0) {
            close(c->fd[i]);
            c->fd[i] = -1;
        }
        free(c->way[i].held);
        c->way[i].held = NULL;
    }
}

static inline void middle_close(struct middle *m) {
    for (unsigned i = 0; i < m->count; i++) {
        middle_end(&m->connection[i]);
    }
    close(m->listener);
    free(m->kept);
}

static inline void middle_accept(struct middle *m) {
    int fd = accept4(m->listener, NULL, NULL, SOCK_CLOEXEC);
    assert_true(fd >= 0 && m->count < MIDDLE_CONNECTIONS);
    struct middle_connection *c = &m->connection[m->count];
    memset(c, 0, sizeof *c);
    c->fd[0] = fd;
    c->fd[1] = middle_socket(m->target, false);
    if (c->fd[1] < 0) {
        close(fd);
        return;
    }
    m->count++;
    for (int i = 0; i < 2; i++) {
        c->way[i].held = malloc(2 * MIDDLE_HELD);
        assert_non_null(c->way[i].held);
    }
}

// How many of n bytes belong to the two handshake messages of a direction.
static inline size_t middle_handshake(struct middle_way *w, const uint8_t *bytes, size_t n) {
    size_t at = 0;
    while (at < n && w->words < 2) {
        if (w->head_len < sizeof w->head) {
            w->head[w->head_len++] = bytes[at++];
            w->word_left = (size_t)w->head[8] << 8 | w->head[9];
            continue;
        }
        size_t take = w->word_left < n - at ? w->word_left : n - at;
        at += take;
        w->word_left -= take;
        if (w->word_left == 0) {
            w->words++;
            w->head_len = 0;
        }
    }
    return at;
}

static inline bool middle_read(struct middle *m, struct middle_connection *c, int from) {
    struct middle_way *w = &c->way[from];
    ssize_t k = recv(c->fd[from], w->held, MIDDLE_HELD, MSG_DONTWAIT);
    if (k <= 0) {
        w->ended = k == 0 || errno != EAGAIN;
        return true;
    }
    size_t n = (size_t)k, keep = n < MIDDLE_KEPT - m->nkept ? n : MIDDLE_KEPT - m->nkept;
    memcpy(m->kept + m->nkept, w->held, keep);
    m->nkept += keep;
    size_t before = middle_handshake(w, w->held, n), rest = n - before;
    if (rest > 0 && m->change != NULL && !m->change(m, c, from, w->held + before, &rest)) {
        return false;
    }
    w->passed += n;
    w->len = before + rest;
    return true;
}

static inline bool middle_write(struct middle_connection *c, int from) {
    struct middle_way *w = &c->way[from];
    ssize_t k = send(c->fd[1 - from], w->held, w->len, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (k > 0) {
        w->len -= (size_t)k;
        memmove(w->held, w->held + k, w->len);
    }
    return k > 0 || errno == EAGAIN;
}

static inline void middle_turn(struct middle *m) {
    struct pollfd p = {.fd = m->listener, .events = POLLIN};
    while (poll(&p, 1, 0) > 0) {
        middle_accept(m);
    }
    for (unsigned i = 0; i < m->count; i++) {
        struct middle_connection *c = &m->connection[i];
        for (int from = 0; from < 2 && c->fd[0] >= 0; from++) {
            struct middle_way *w = &c->way[from];
            bool ok = w->len > 0 || middle_read(m, c, from);
            ok = ok && (w->len == 0 || middle_write(c, from));
            if (ok && w->ended && w->len == 0) {
                shutdown(c->fd[1 - from], SHUT_WR);
            }
            if (!ok || (c->way[0].ended && c->way[1].ended)) {
                middle_end(c);
            }
        }
    }
}

static inline bool middle_saw(const struct middle *m, const void *what, size_t n) {
    return memmem(m->kept, m->nkept, what, n) != NULL;
}

#endif
