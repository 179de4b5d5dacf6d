// SPDX-License-Identifier: MIT
// rondo-doctor --listen: the end that waits, and does what the other one asks.
#include "transport/doctor/peer.h"
#include "transport/tcp/bytes.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define PATIENCE_S 600u // greatest that a peer may ask for
#define STRANGERS_TOLD 8u

// One socket for both families, or for IPv4 where the kernel has no IPv6. -1: errno.
static int listen_on(int port) {
    int on = 1, off = 0;
    for (int six = 1; six >= 0; six--) {
        struct sockaddr_in6 a6 = {.sin6_family = AF_INET6, .sin6_port = htons((uint16_t)port)};
        struct sockaddr_in a4 = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
        int fd = socket(six ? AF_INET6 : AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (fd < 0 && six) {
            continue;
        }
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
        if (six) {
            setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off);
        }
        if (fd >= 0 &&
            bind(fd, six ? (void *)&a6 : (void *)&a4, six ? sizeof a6 : sizeof a4) == 0 &&
            listen(fd, 16) == 0) {
            return fd;
        }
        int err = errno;
        if (fd >= 0) {
            close(fd);
        }
        errno = err;
        if (err == EADDRINUSE || err == EACCES || !six) {
            return -1;
        }
    }
    return -1;
}

// Takes connections until one proves the key and wants to be the control connection.
static bool wait_for_peer(struct dr_session *s, int listener, uint64_t deadline) {
    while (dr_wait(&s->d->env, listener, POLLIN, deadline)) {
        struct sockaddr_storage from = {.ss_family = AF_UNSPEC};
        socklen_t from_len = sizeof from;
        int fd =
            accept4(listener, (struct sockaddr *)&from, &from_len, SOCK_CLOEXEC | SOCK_NONBLOCK);
        uint8_t hello[RDI_HS_PAYLOAD];
        size_t len = sizeof hello;
        struct dr_outcome o = {.stage = DR_CONNECT};
        if (fd < 0) {
            continue;
        }
        uint64_t soon = rdi_now(&s->d->env) + DR_STRANGER_NS;
        if (dr_shake(s, fd, false, hello, &len, soon, &o) && len == 2 + DR_TOKEN &&
            hello[1] == DR_FOR_CONTROL) {
            int one = 1;
            setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
            memcpy(s->token, hello + 2, DR_TOKEN);
            s->control = fd;
            return true;
        }
        char name[RDI_TCP_NAME];
        rdi_tcp_name(&from, name);
        if (s->strangers++ < STRANGERS_TOLD) {
            dr_add(s->d, DR_INFO, name, "connected and was dropped: %s",
                   o.why[0] != '\0' ? o.why : "it said nothing of Rondo");
        }
        close(fd);
    }
    return false;
}

// ---- What is asked -------------------------------------------------------------------------------

static rondo_status answer_clock(struct dr_session *s) {
    struct timespec t;
    uint8_t now[8];
    clock_gettime(CLOCK_REALTIME, &t);
    rdi_put_le(now, (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec, 8);
    return dr_send(s, DR_MSG_CLOCK, now, sizeof now);
}

static rondo_status answer_dial(struct dr_session *s, const uint8_t *message, size_t len) {
    struct dr_outcome o;
    uint8_t out[DR_MESSAGE];
    if (len != 7 || message[0] >= s->mine.where.count || message[1] >= s->theirs.where.count) {
        return rdi_fail(RONDO_ERR_INVALID, "%s asked for addresses that there are not", s->peer);
    }
    uint64_t seconds = rdi_get_le(message + 3, 4);
    s->answer_ns = (seconds < 1 ? 1 : seconds > PATIENCE_S ? PATIENCE_S : seconds) * DR_SECOND;
    dr_probe(s, &s->mine.where.addr[message[0]], &s->theirs.where.addr[message[1]], message[2] != 0,
             &o);
    return dr_send(s, DR_MSG_OUTCOME, out, dr_outcome_write(&o, out));
}

static rondo_status answer_net(struct dr_session *s, const uint8_t *message, size_t len) {
    static const struct rdi_net_ops *const nets[] = {&rdi_tcp_ops, &rdi_verbs_ops};
    for (size_t i = 0; i < 2; i++) {
        if (strlen(nets[i]->name) == len && memcmp(nets[i]->name, message, len) == 0) {
            dr_link_test(s, nets[i], false);
            return RONDO_OK;
        }
    }
    return rdi_fail(RONDO_ERR_INVALID, "%s asked for a transport that there is not", s->peer);
}

static rondo_status serve(struct dr_session *s, uint32_t *bad) {
    for (;;) {
        uint8_t message[DR_MESSAGE];
        enum dr_message type;
        size_t len;
        uint64_t deadline = rdi_now(&s->d->env) + 6 * s->answer_ns + 60 * DR_SECOND;
        rondo_status status = dr_serve(s, &type, message, &len, deadline);
        if (status != RONDO_OK) {
            return status;
        }
        switch (type) {
        case DR_MSG_CARD:
            status = dr_read_card(s, message, len)
                         ? dr_send_card(s)
                         : rdi_fail(RONDO_ERR_INVALID, "the other end's card cannot be read");
            break;
        case DR_MSG_CLOCK:
            status = answer_clock(s);
            break;
        case DR_MSG_DIAL:
            status = answer_dial(s, message, len);
            break;
        case DR_MSG_NET:
            status = answer_net(s, message, len);
            break;
        case DR_MSG_BYE:
            *bad = len == 4 ? (uint32_t)rdi_get_le(message, 4) : 0;
            return RONDO_OK;
        default:
            status = rdi_fail(RONDO_ERR_INVALID, "%s sent message %d", s->peer, (int)type);
        }
        if (status != RONDO_OK) {
            return status;
        }
    }
}

// ---- The whole -----------------------------------------------------------------------------------

static void tell_end(struct dr_session *s, rondo_status status, uint32_t bad) {
    struct doctor *d = s->d;
    if (status != RONDO_OK) {
        dr_add(d, DR_ERROR, s->peer, "%s", rondo_last_error());
        dr_means(d, "the test is not complete");
        dr_remedy(d, "look at the report there");
    } else if (bad > 0) {
        dr_add(d, DR_WARNING, s->peer, "tested; %u way%s failed", bad, bad == 1 ? "" : "s");
        dr_means(d, "the report there says which, and whether a job can run");
        dr_remedy(d, "as the report there says");
    } else {
        dr_add(d, DR_OK, s->peer, "tested; all ways work");
    }
    if (s->strangers > 0) {
        dr_add(d, DR_INFO, NULL, "%u connection%s without the key dropped", s->strangers,
               s->strangers == 1 ? "" : "s");
    }
}

void dr_listen(struct doctor *d) {
    struct dr_session s;
    int port = d->ask.port > 0 ? d->ask.port : DR_PORT;
    int seconds = d->ask.timeout_s > 0 ? d->ask.timeout_s : DR_LISTEN_S;
    d->check = &dr_peer_checks[DR_PEER_CONNECT];
    if (!dr_session_open(&s, d)) {
        dr_session_close(&s);
        return;
    }
    int listener = listen_on(port);
    if (listener < 0) {
        char text[128];
        dr_add(d, DR_ERROR, NULL, "cannot listen on port %d: %s", port,
               strerror_r(errno, text, sizeof text));
        dr_means(d, "no other host can test the way to this one");
        dr_remedy(d,
                  "another port with --port, the same with --peer HOST:PORT; ss -ltnp shows who has"
                  " it");
        dr_session_close(&s);
        return;
    }
    fprintf(stderr,
            "rondo-doctor: waits on port %d for up to %d s; now on the other host:"
            " rondo-doctor --peer %s%s%.0d\n",
            port, seconds, d->host, port != DR_PORT ? ":" : "", port != DR_PORT ? port : 0);
    if (wait_for_peer(&s, listener, rdi_now(&d->env) + (uint64_t)seconds * DR_SECOND)) {
        uint32_t bad = 0;
        rondo_status status = serve(&s, &bad);
        tell_end(&s, status, bad);
    } else {
        dr_add(d, DR_ERROR, NULL, "nobody with the key came within %d s", seconds);
        dr_means(d, "the way from the other host to this one is not known to work");
        dr_remedy(d, "rondo-doctor --peer %s there; its report says what hindered it", d->host);
    }
    close(listener);
    dr_session_close(&s);
}
