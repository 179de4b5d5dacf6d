// SPDX-License-Identifier: MIT
// Links that do not come to be, and who is let in: each end is told why, in time, and nobody else is disturbed.
#include "transport/conform/check.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define SLACK_NS (10 * CF_SECOND) // on top of a deadline; the machine may be busy

// A pair with a working link, beside which something goes wrong.
static void open_beside(struct cf_pair *p, struct cf *c, const char *options) {
    cf_pair_open(p, c, options, CF_TO);
    cf_pair_hello(p, c);
}

static void close_beside(struct cf_pair *p, struct cf *c) {
    cf_step(c, "using the link beside");
    cf_pair_stream(p, c, 20, cf_any_size, true);
    cf_pair_close(p, c);
}

// ---- Nobody there --------------------------------------------------------------------------------

static void expect_in_time(struct cf *c, uint64_t start, unsigned ms) {
    cf_expect(c, cf_now(c) - start < ms * CF_MS + SLACK_NS,
              "the link failed after %.1f s; connect_timeout is %u ms",
              (double)(cf_now(c) - start) / 1e9, ms);
}

void cf_check_connect_absent(struct cf *c) {
    struct cf_net *n = cf_net_open(c, "connect_timeout=1500ms");
    cf_meet(c, n);
    if (!c->first) {
        cf_net_close(n);
        cf_sync(c);
        cf_sync(c);
        return;
    }
    cf_sync(c);
    uint64_t start = cf_now(c);
    struct rdi_link *l = cf_connect(n, &n->peers[c->peer], c->peer, 1);
    cf_await_failed(c, l, RONDO_ERR_PEER, RONDO_ERR_TIMEOUT);
    expect_in_time(c, start, 1500);
    rondo_status s = cf_put(l, "x", 1, 0, 0);
    cf_expect(c, s == l->status, "put() on the failed link says %s", rondo_status_name(s));
    cf_close(n, l, false);
    cf_net_close(n);
    cf_sync(c);
}

void cf_check_connect_deaf(struct cf *c) {
    struct cf_pair p;
    open_beside(&p, c, "connect_timeout=700ms");
    if (c->first) {
        uint64_t start = cf_now(c), timeout = UINT64_MAX;
        cf_sync(c);
        struct rdi_link *l = cf_connect(p.n, p.peer, c->peer, 2);
        rondo_status s = c->ops->arm(p.n->net, &timeout);
        c->ops->disarm(p.n->net);
        cf_expect(c, s == RONDO_AGAIN || timeout <= 700 * CF_MS,
                  "arm() wants no progress() before the deadline");
        cf_await_failed(c, l, RONDO_ERR_TIMEOUT, RONDO_ERR_TIMEOUT);
        expect_in_time(c, start, 700);
        cf_close(p.n, l, false);
        cf_sync(c);
    } else {
        p.n->held = true; // alive, and not listening
        cf_sync(c);
        cf_sync(c);
        p.n->held = false;
    }
    close_beside(&p, c);
}

// ---- Refused -------------------------------------------------------------------------------------

void cf_check_connect_refused(struct cf *c) {
    struct cf_pair p;
    open_beside(&p, c, NULL);
    p.n->refuse = c->first ? RONDO_OK : RONDO_ERR_MISMATCH;
    cf_sync(c);
    for (uint64_t i = 0; c->first && i < 5; i++) {
        struct rdi_link *l = cf_connect(p.n, p.peer, c->peer, 100 + i);
        cf_await_failed(c, l, RONDO_ERR_MISMATCH, RONDO_ERR_MISMATCH);
        cf_expect(c, strstr(l->why, "not today") != NULL,
                  "the reason that accept() gave (\"not today\") is not in \"%s\"", l->why);
        cf_close(p.n, l, false);
    }
    cf_sync(c);
    cf_expect(c, c->first || p.n->accepts == 6, "accept() was called %u times instead of 6",
              p.n->accepts);
    p.n->refuse = RONDO_OK;
    close_beside(&p, c);
}

void cf_check_connect_key(struct cf *c) {
    struct cf_pair p;
    if (!c->place->job.auth) {
        cf_skip(c, "this job has no key (auth=none)");
    }
    open_beside(&p, c, NULL);
    unsigned accepts = p.n->accepts;
    if (c->first) {
        struct cf_net *other = cf_net_prepare(c, NULL);
        rdi_key_set(&other->job, "a key of some other job", 23);
        cf_expect(c, cf_net_start(other) == RONDO_OK, "%s", rondo_last_error());
        struct rdi_link *l = cf_connect(other, p.peer, c->peer, 3);
        cf_await_failed(c, l, RONDO_ERR_AUTH, RONDO_ERR_AUTH);
        cf_expect(c, strstr(l->why, "key") != NULL, "the text does not speak of the key: \"%s\"",
                  l->why);
        cf_close(other, l, false);
        cf_net_close(other);
    }
    cf_sync(c);
    if (!c->first) {
        cf_await_for(c, 10, "the stranger was counted", p.n->net->strangers > 0);
        cf_expect(c, p.n->accepts == accepts, "accept() was asked about somebody without the key");
    }
    close_beside(&p, c);
}

// ---- Another version -----------------------------------------------------------------------------

#define HEADER 10 // of every message of the handshake: "RNDO", version, type, kind, length

// Reads into `at` until `n` bytes are there, driving the nets. False: the other side closed.
static bool read_all(struct cf *c, int fd, uint8_t *at, size_t n) {
    uint64_t end = cf_wait_begin(c, 0, "the peer answered");
    for (size_t got = 0; got < n;) {
        ssize_t k = recv(fd, at + got, n - got, MSG_DONTWAIT);
        if (k == 0 || (k < 0 && errno != EAGAIN && errno != EINTR)) {
            return false;
        }
        got += k > 0 ? (size_t)k : 0;
        cf_wait_turn(c, end, "the peer answered");
    }
    return true;
}

void cf_check_connect_version_in(struct cf *c) {
    struct cf_pair p;
    open_beside(&p, c, NULL);
    unsigned accepts = p.n->accepts;
    if (c->first) {
        struct rdi_hs hs;
        uint8_t answer[HEADER];
        int fd = cf_dial(c, p.peer);
        cf_expect(c, fd >= 0, "the partner's listener cannot be reached: %s", strerror(errno));
        rdi_hs_connect(&hs, cf_handshake_kind(c), &p.n->job, &c->env, "hello", 5);
        hs.out[5] = 77; // a version that nobody speaks
        cf_expect(c, send(fd, hs.out, hs.out_len, MSG_NOSIGNAL) == (ssize_t)hs.out_len, "send: %s",
                  strerror(errno));
        cf_expect(c, read_all(c, fd, answer, sizeof answer),
                  "a peer of another version was not told which one is spoken here");
        cf_expect(c, memcmp(answer, "RNDO", 4) == 0 && answer[5] != 77,
                  "the answer to another version is not understood");
        cf_expect(c, !read_all(c, fd, answer, 1), "the connection was not closed");
        close(fd);
    }
    cf_sync(c);
    cf_expect(c, p.n->accepts == accepts, "accept() was asked about a peer of another version");
    close_beside(&p, c);
}

void cf_check_connect_version_out(struct cf *c) {
    struct cf_pair p;
    struct cf_addr other;
    open_beside(&p, c, "connect_timeout=10s");
    if (c->first) {
        uint8_t hello[HEADER];
        int fd = -1, listener = cf_listen_like(c, &p.n->own, &other);
        struct rdi_link *l = cf_connect(p.n, &other, c->peer, 4);
        cf_await(c, "the link's connection came", (fd = cf_accept_one(listener)) >= 0);
        cf_expect(c, recv(fd, hello, 0, MSG_PEEK) >= 0 || errno == EAGAIN, "recv: %s",
                  strerror(errno));
        uint8_t answer[HEADER] = {'R', 'N', 'D', 'O', 0, 77, 2, (uint8_t)cf_handshake_kind(c)};
        cf_turns(c, 50);
        cf_expect(c, send(fd, answer, sizeof answer, MSG_NOSIGNAL) == HEADER, "send: %s",
                  strerror(errno));
        cf_await_failed(c, l, RONDO_ERR_VERSION, RONDO_ERR_VERSION);
        cf_expect(c, strstr(l->why, "77") != NULL, "the text does not name the version 77: \"%s\"",
                  l->why);
        cf_close(p.n, l, false);
        close(fd);
        close(listener);
    }
    close_beside(&p, c);
}

// ---- Addresses -----------------------------------------------------------------------------------

void cf_check_connect_address(struct cf *c) {
    struct cf_pair p;
    open_beside(&p, c, NULL);
    const struct rdi_net_ops *ops = c->ops;
    struct cf_addr again, bad;
    struct rdi_link *l;
    cf_expect(c,
              ops->address(p.n->net, again.blob, &again.len) == RONDO_OK &&
                  again.len == p.n->own.len && memcmp(again.blob, p.n->own.blob, again.len) == 0,
              "address() changes");
    for (size_t n = 0; n < p.peer->len; n++) {
        rondo_status s = ops->reach(p.n->net, p.peer->blob, n);
        cf_expect(c, s == RONDO_ERR_INVALID, "reach() of the first %zu of %zu bytes says %s", n,
                  p.peer->len, rondo_status_name(s));
        bad = *p.peer;
        bad.len = n;
        s = cf_try_connect(p.n, &bad, c->peer, 5, &l);
        cf_expect(c, s == RONDO_ERR_INVALID && l == NULL,
                  "connect() to the first %zu of %zu bytes says %s", n, p.peer->len,
                  rondo_status_name(s));
    }
    for (unsigned i = 0; i < 5000; i++) {
        bad = *p.peer;
        for (uint64_t k = cf_random(c) % 4 + 1; k > 0; k--) {
            bad.blob[cf_random(c) % bad.len] ^= (uint8_t)(1 + cf_random(c) % 255);
        }
        rondo_status s = ops->reach(p.n->net, bad.blob, bad.len);
        cf_expect(c, s == RONDO_OK || s == RONDO_ERR_INVALID || s == RONDO_ERR_UNSUPPORTED,
                  "reach() of a damaged address says %s", rondo_status_name(s));
    }
    close_beside(&p, c);
}
