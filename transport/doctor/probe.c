// SPDX-License-Identifier: MIT
// One TCP connection between a pair of addresses, from both ends: does it open, do both ends have the key, do
// large packets get through, how fast is it.
#include "transport/doctor/peer.h"
#include "transport/tcp/bytes.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sodium.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define STEP 5 // 'B' and a size, or 'S' and 0
#define HELLO (2 + DR_TOKEN)
#define HELLO_FORMAT 1

size_t dr_hello(const struct dr_session *s, uint8_t purpose, uint8_t out[RDI_HS_PAYLOAD]) {
    out[0] = HELLO_FORMAT;
    out[1] = purpose;
    memcpy(out + 2, s->token, DR_TOKEN);
    return HELLO;
}

// The buffer that is sent, and that is received into: bytes of no meaning.
static uint8_t bulk[DR_BURST];

// ---- From this end -------------------------------------------------------------------------------

int dr_dial(struct dr_session *s, const struct sockaddr_storage *from,
            const struct sockaddr_storage *to, struct dr_outcome *o) {
    const struct rdi_env *env = &s->d->env;
    uint64_t begin = rdi_now(env);
    int fd = rdi_tcp_dial(from, to), err = 0, one = 1;
    socklen_t len = sizeof err;
    o->stage = DR_CONNECT;
    if (fd < 0) {
        o->err = -fd;
        return -1;
    }
    if (!dr_wait(env, fd, POLLOUT, begin + s->answer_ns)) {
        err = ETIMEDOUT;
    } else if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &err, &len) != 0) {
        err = errno;
    }
    if (err != 0) {
        o->err = err;
        close(fd);
        return -1;
    }
    o->connect_ns = rdi_now(env) - begin;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    return fd;
}

// True when the step went well; else o->err says why not.
static bool step(struct dr_outcome *o, enum dr_stage stage, int err) {
    o->stage = stage;
    o->err = err > 0 ? err : 0;
    return err == 0;
}

static bool send_large(struct dr_session *s, int fd, struct dr_outcome *o) {
    const struct rdi_env *env = &s->d->env;
    uint64_t deadline = rdi_now(env) + s->answer_ns;
    uint8_t head[STEP] = {'B'}, answer[STEP];
    rdi_put_le(head + 1, sizeof bulk, 4);
    if (!step(o, DR_LARGE, dr_move(env, fd, true, head, STEP, deadline)) ||
        !step(o, DR_LARGE, dr_move(env, fd, true, bulk, sizeof bulk, deadline)) ||
        !step(o, DR_LARGE, dr_move(env, fd, false, answer, STEP, deadline))) {
        return false;
    }
    struct tcp_info info = {.tcpi_state = 0};
    socklen_t len = sizeof info;
    if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &len) == 0) {
        o->mss = info.tcpi_snd_mss;
        o->pmtu = info.tcpi_pmtu;
    }
    return memcmp(head, answer, STEP) == 0 || step(o, DR_LARGE, EPROTO);
}

static bool send_stream(struct dr_session *s, int fd, struct dr_outcome *o) {
    const struct rdi_env *env = &s->d->env;
    uint64_t end = rdi_now(env) + DR_STREAM_NS, deadline = end + s->answer_ns;
    uint8_t head[STEP] = {'S'}, answer[16];
    int err = dr_move(env, fd, true, head, STEP, deadline);
    while (err == 0 && rdi_now(env) < end) {
        err = dr_move(env, fd, true, bulk, sizeof bulk, deadline);
    }
    if (err == 0 && shutdown(fd, SHUT_WR) != 0) {
        err = errno;
    }
    if (!step(o, DR_STREAM, err) ||
        !step(o, DR_STREAM, dr_move(env, fd, false, answer, sizeof answer, deadline))) {
        return false;
    }
    o->bytes = rdi_get_le(answer, 8);
    o->ns = rdi_get_le(answer + 8, 8);
    return true;
}

void dr_probe(struct dr_session *s, const struct rdi_tcp_addr *from, const struct rdi_tcp_addr *to,
              bool stream, struct dr_outcome *o) {
    struct sockaddr_storage a, b;
    uint8_t hello[RDI_HS_PAYLOAD];
    size_t len = dr_hello(s, DR_FOR_PROBE, hello);
    *o = (struct dr_outcome){.stage = DR_CONNECT};
    rdi_tcp_sockaddr(from, 0, &a);
    rdi_tcp_sockaddr(to, to->port, &b);
    if (b.ss_family == AF_INET6) {
        ((struct sockaddr_in6 *)&b)->sin6_scope_id = from->scope; // a zone is this host's own
    }
    int fd = dr_dial(s, &a, &b, o);
    if (fd < 0) {
        return;
    }
    uint64_t deadline = rdi_now(&s->d->env) + s->answer_ns;
    if (dr_shake(s, fd, true, hello, &len, deadline, o) && send_large(s, fd, o) &&
        (!stream || send_stream(s, fd, o))) {
        o->stage = DR_DONE;
    }
    close(fd);
}

// ---- From the other end --------------------------------------------------------------------------

static bool take_large(struct dr_session *s, int fd, uint8_t head[STEP]) {
    uint64_t deadline = rdi_now(&s->d->env) + s->answer_ns;
    size_t n = (size_t)rdi_get_le(head + 1, 4);
    return n <= sizeof bulk && dr_move(&s->d->env, fd, false, bulk, n, deadline) == 0 &&
           dr_move(&s->d->env, fd, true, head, STEP, deadline) == 0;
}

static void take_stream(struct dr_session *s, int fd) {
    const struct rdi_env *env = &s->d->env;
    uint64_t begin = rdi_now(env), deadline = begin + 2 * DR_STREAM_NS + s->answer_ns, bytes = 0;
    ssize_t got = 1;
    while (got != 0 && rdi_now(env) < deadline) {
        got = recv(fd, bulk, sizeof bulk, 0);
        if (got > 0) {
            bytes += (uint64_t)got;
        } else if (got < 0 && errno != EINTR &&
                   (errno != EAGAIN || !dr_wait(env, fd, POLLIN, deadline))) {
            return;
        }
    }
    uint8_t answer[16];
    rdi_put_le(answer, bytes, 8);
    rdi_put_le(answer + 8, rdi_now(env) - begin, 8);
    dr_move(env, fd, true, answer, sizeof answer, rdi_now(env) + s->answer_ns);
}

static bool is_ours(const struct dr_session *s, const uint8_t *hello, size_t len) {
    return len == HELLO && hello[0] == HELLO_FORMAT && hello[1] == DR_FOR_PROBE &&
           sodium_memcmp(hello + 2, s->token, DR_TOKEN) == 0;
}

void dr_take_probe(struct dr_session *s, int listener) {
    int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC), one = 1;
    uint8_t hello[RDI_HS_PAYLOAD], head[STEP];
    size_t len = sizeof hello;
    struct dr_outcome o = {.stage = DR_CONNECT};
    if (fd < 0) {
        return;
    }
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (!dr_shake(s, fd, false, hello, &len, rdi_now(&s->d->env) + DR_STRANGER_NS, &o) ||
        !is_ours(s, hello, len)) {
        s->strangers++;
        close(fd);
        return;
    }
    while (dr_move(&s->d->env, fd, false, head, STEP, rdi_now(&s->d->env) + s->answer_ns) == 0) {
        if (head[0] != 'B' || !take_large(s, fd, head)) {
            if (head[0] == 'S') {
                take_stream(s, fd);
            }
            break;
        }
    }
    close(fd);
}

// ---- Outcomes as messages ------------------------------------------------------------------------

size_t dr_outcome_write(const struct dr_outcome *o, uint8_t out[DR_MESSAGE]) {
    struct rdi_cursor c = {.at = out, .size = DR_MESSAGE, .ok = true};
    rdi_cursor_put(&c, (uint64_t)o->stage, 1);
    rdi_cursor_put(&c, (uint64_t)o->err, 4);
    rdi_cursor_put(&c, (uint64_t)-o->status, 1);
    rdi_cursor_put(&c, o->connect_ns, 8);
    rdi_cursor_put(&c, o->bytes, 8);
    rdi_cursor_put(&c, o->ns, 8);
    rdi_cursor_put(&c, o->mss, 4);
    rdi_cursor_put(&c, o->pmtu, 4);
    rdi_cursor_put_text(&c, o->why, sizeof o->why);
    return c.used;
}

bool dr_outcome_read(struct dr_outcome *o, const uint8_t *in, size_t len) {
    uint8_t copy[DR_MESSAGE];
    struct rdi_cursor c = {.at = copy, .size = len, .ok = true};
    memcpy(copy, in, len);
    unsigned stage = (unsigned)rdi_cursor_get(&c, 1);
    o->err = (int)(rdi_cursor_get(&c, 4) & 0xffff);
    o->status = (rondo_status) - (int)(rdi_cursor_get(&c, 1) & 31);
    o->connect_ns = rdi_cursor_get(&c, 8);
    o->bytes = rdi_cursor_get(&c, 8);
    o->ns = rdi_cursor_get(&c, 8);
    o->mss = (uint32_t)rdi_cursor_get(&c, 4);
    o->pmtu = (uint32_t)rdi_cursor_get(&c, 4);
    rdi_cursor_get_text(&c, o->why, sizeof o->why);
    o->stage = stage <= DR_DONE ? (enum dr_stage)stage : DR_CONNECT;
    return c.ok && stage <= DR_DONE && c.used == len;
}
