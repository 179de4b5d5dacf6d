// SPDX-License-Identifier: MIT
// Somebody at the door who has no business there: dropped and counted, and nobody else is disturbed.
#include "transport/conform/check.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static bool is_closed(int fd) {
    char bytes[256];
    ssize_t k = recv(fd, bytes, sizeof bytes, MSG_DONTWAIT);
    return k == 0 || (k < 0 && errno != EAGAIN && errno != EINTR);
}

static int dial(struct cf *c, const struct cf_pair *p) {
    int fd = cf_dial(c, p->peer);
    cf_expect(c, fd >= 0, "the partner's listener cannot be reached: %s", strerror(errno));
    return fd;
}

static void say_and_be_dropped(struct cf *c, const struct cf_pair *p, const void *words, size_t n) {
    int fd = dial(c, p);
    if (n > 0) {
        // The other side may have closed already, which is as good.
        ssize_t sent = send(fd, words, n, MSG_NOSIGNAL);
        cf_expect(c, sent == (ssize_t)n || errno == EPIPE || errno == ECONNRESET, "send: %s",
                  strerror(errno));
    }
    if (n < 8) {
        shutdown(fd, SHUT_WR); // too little to be judged by
    }
    cf_await(c, "the stranger was dropped", is_closed(fd));
    close(fd);
}

void cf_check_stranger_garbage(struct cf *c) {
    static const char *const words[] = {"GET / HTTP/1.1\r\n\r\n", "", "SSH-2.0-OpenSSH_9.2p1\r\n",
                                        "RNDO\xff\xff\xff\xff\xff\xff", "R"};
    enum { WORDS = sizeof words / sizeof *words, RANDOM = 12 };
    struct cf_pair p;
    uint8_t noise[600];
    cf_pair_open(&p, c, NULL, CF_BOTH);
    unsigned accepts = p.n->accepts;
    for (unsigned i = 0; c->first && i < WORDS; i++) {
        say_and_be_dropped(c, &p, words[i], strlen(words[i]));
    }
    // Also what begins as a handshake does.
    for (unsigned i = 0; c->first && i < RANDOM; i++) {
        struct rdi_hs hs;
        rdi_hs_connect(&hs, cf_handshake_kind(c), &p.n->job, &c->env, "hello", 5);
        for (size_t k = 0; k < sizeof noise; k++) {
            noise[k] = (uint8_t)cf_random(c);
        }
        size_t known = i % 2 == 0 ? 0 : hs.out_len < sizeof noise ? hs.out_len : sizeof noise;
        memcpy(noise, hs.out, known);
        say_and_be_dropped(c, &p, noise, sizeof noise);
    }
    cf_pair_stream(&p, c, 50, cf_any_size, true);
    if (!c->first) {
        cf_await_for(c, 10, "all strangers were counted", p.n->net->strangers >= WORDS + RANDOM);
        cf_expect(c, p.n->net->strangers == WORDS + RANDOM, "%llu strangers were counted of %d",
                  (unsigned long long)p.n->net->strangers, WORDS + RANDOM);
        cf_expect(c, p.n->accepts == accepts, "accept() was asked about a stranger");
    }
    cf_pair_close(&p, c);
}

// Silent connections, more than may be half open: whoever knows the key gets in all the same.
void cf_check_stranger_many(struct cf *c) {
    enum { CROWD = 300 };
    static int fds[CROWD];
    struct cf_pair p;
    cf_pair_open(&p, c, NULL, CF_TO);
    for (int i = 0; c->first && i < CROWD; i++) {
        fds[i] = dial(c, &p);
        cf_turn(c);
    }
    cf_sync(c);
    struct cf_pair q = p;
    cf_pair_links(&q, c, CF_BOTH, 9);
    cf_pair_stream(&q, c, 30, cf_any_size, true);
    cf_pair_stream(&p, c, 30, cf_any_size, true);
    cf_sync(c);
    for (int i = 0; c->first && i < CROWD; i++) {
        close(fds[i]);
    }
    cf_close(q.n, q.out, true);
    cf_close(q.n, q.in, true);
    cf_pair_close(&p, c);
}
