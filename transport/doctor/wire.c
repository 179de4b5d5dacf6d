// SPDX-License-Identifier: MIT
// The control connection: bytes with a deadline, the handshake, messages, and what a session begins with.
#include "transport/doctor/peer.h"
#include "transport/tcp/bytes.h"

#include <errno.h>
#include <poll.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define HEAD 8
#define NETIFS 64

// ---- Bytes ---------------------------------------------------------------------------------------

static int left_ms(const struct rdi_env *env, uint64_t deadline) {
    uint64_t now = rdi_now(env);
    uint64_t ms = deadline > now ? (deadline - now + 999999) / 1000000 : 0;
    return ms < 60000 ? (int)ms : 60000;
}

bool dr_wait(const struct rdi_env *env, int fd, short events, uint64_t deadline) {
    for (;;) {
        int ms = left_ms(env, deadline);
        struct pollfd p = {.fd = fd, .events = events};
        int n = poll(&p, 1, ms);
        if (n > 0) {
            return true;
        }
        if ((n < 0 && errno != EINTR) || (n == 0 && left_ms(env, deadline) == 0)) {
            return false;
        }
    }
}

int dr_move(const struct rdi_env *env, int fd, bool out, void *buf, size_t n, uint64_t deadline) {
    for (size_t done = 0; done < n;) {
        uint8_t *at = (uint8_t *)buf + done;
        ssize_t got = out ? send(fd, at, n - done, MSG_NOSIGNAL) : recv(fd, at, n - done, 0);
        if (got > 0) {
            done += (size_t)got;
        } else if (got == 0) {
            return -1;
        } else if (errno == EAGAIN || errno == EWOULDBLOCK) {
            if (!dr_wait(env, fd, out ? POLLOUT : POLLIN, deadline)) {
                return ETIMEDOUT;
            }
        } else if (errno != EINTR) {
            return errno;
        }
    }
    return 0;
}

// ---- Handshake -----------------------------------------------------------------------------------

static int give(const struct rdi_env *env, int fd, struct rdi_hs *hs, uint64_t deadline) {
    size_t n = hs->out_len - hs->out_off;
    int err = dr_move(env, fd, true, hs->out + hs->out_off, n, deadline);
    if (err == 0) {
        rdi_hs_sent(hs, n);
    }
    return err;
}

// Byte by byte, so that nothing behind the handshake is taken.
static int take(const struct rdi_env *env, int fd, struct rdi_hs *hs, uint64_t deadline) {
    uint8_t byte;
    size_t used;
    int err = dr_move(env, fd, false, &byte, 1, deadline);
    if (err == 0) {
        rdi_hs_input(hs, &byte, 1, &used);
    }
    return err;
}

bool dr_shake(struct dr_session *s, int fd, bool connector, uint8_t hello[RDI_HS_PAYLOAD],
              size_t *len, uint64_t deadline, struct dr_outcome *o) {
    const struct rdi_env *env = &s->d->env;
    struct rdi_hs hs;
    int err = 0;
    if (connector) {
        rdi_hs_connect(&hs, RDI_HS_DOCTOR, &s->job, env, hello, *len);
    } else {
        rdi_hs_accept(&hs, RDI_HS_DOCTOR, &s->job, env);
    }
    while (err == 0 && hs.state != RDI_HS_DONE && hs.state != RDI_HS_FAILED) {
        if (hs.out_len > hs.out_off) {
            err = give(env, fd, &hs, deadline);
        } else if (hs.state == RDI_HS_NEED_REPLY) {
            rdi_hs_reply(&hs, NULL, 0);
        } else {
            err = take(env, fd, &hs, deadline);
        }
    }
    if (err == 0 && hs.state == RDI_HS_FAILED) {
        o->status = hs.error;
        snprintf(o->why, sizeof o->why, "%s", hs.why);
        give(env, fd, &hs, deadline); // a peer of another version is told so
    }
    o->stage = DR_HANDSHAKE;
    o->err = err > 0 ? err : 0;
    bool ok = err == 0 && hs.state == RDI_HS_DONE;
    if (ok && !connector) {
        memcpy(hello, hs.peer, hs.peer_len);
        *len = hs.peer_len;
    }
    sodium_memzero(&hs, sizeof hs);
    return ok;
}

// ---- Messages ------------------------------------------------------------------------------------

static rondo_status broken(struct dr_session *s, int err) {
    if (err == ETIMEDOUT) {
        return rdi_fail(RONDO_ERR_TIMEOUT, "rondo-doctor on %s did not answer in time", s->peer);
    }
    return err > 0 ? rdi_fail_errno(RONDO_ERR_PEER, err,
                                    "the connection to rondo-doctor on %s broke", s->peer)
                   : rdi_fail(RONDO_ERR_PEER, "rondo-doctor on %s has ended", s->peer);
}

rondo_status dr_send(struct dr_session *s, enum dr_message type, const void *payload, size_t len) {
    uint8_t message[HEAD + DR_MESSAGE];
    rdi_put_le(message, (uint64_t)type, 4);
    rdi_put_le(message + 4, len, 4);
    memcpy(message + HEAD, payload, len);
    int err = dr_move(&s->d->env, s->control, true, message, HEAD + len,
                      rdi_now(&s->d->env) + s->answer_ns);
    return err == 0 ? RONDO_OK : broken(s, err);
}

rondo_status dr_receive(struct dr_session *s, enum dr_message *type, uint8_t *payload, size_t *len,
                        uint64_t deadline) {
    uint8_t head[HEAD];
    int err = dr_move(&s->d->env, s->control, false, head, HEAD, deadline);
    if (err != 0) {
        return broken(s, err);
    }
    *type = (enum dr_message)rdi_get_le(head, 4);
    *len = (size_t)rdi_get_le(head + 4, 4);
    if (*len > DR_MESSAGE) {
        return rdi_fail(RONDO_ERR_INVALID, "rondo-doctor on %s sent a message of %zu bytes",
                        s->peer, *len);
    }
    err = dr_move(&s->d->env, s->control, false, payload, *len, deadline);
    return err == 0 ? RONDO_OK : broken(s, err);
}

rondo_status dr_serve(struct dr_session *s, enum dr_message *type, uint8_t *payload, size_t *len,
                      uint64_t deadline) {
    for (;;) {
        struct pollfd p[1 + RDI_TCP_ADDRS] = {{.fd = s->control, .events = POLLIN}};
        for (unsigned i = 0; i < s->mine.where.count; i++) {
            p[1 + i] = (struct pollfd){.fd = s->listeners[i], .events = POLLIN};
        }
        int ms = left_ms(&s->d->env, deadline);
        int n = poll(p, 1 + s->mine.where.count, ms);
        if (n == 0 && left_ms(&s->d->env, deadline) == 0) {
            return broken(s, ETIMEDOUT);
        }
        // Probes first: what comes over the control connection may be about them.
        for (unsigned i = 0; n > 0 && i < s->mine.where.count; i++) {
            if (p[1 + i].revents != 0) {
                dr_take_probe(s, s->listeners[i]);
            }
        }
        if (n > 0 && p[0].revents != 0) {
            return dr_receive(s, type, payload, len, rdi_now(&s->d->env) + s->answer_ns);
        }
    }
}

rondo_status dr_await(struct dr_session *s, enum dr_message want, uint8_t *payload, size_t *len,
                      uint64_t deadline) {
    enum dr_message type;
    rondo_status status = dr_serve(s, &type, payload, len, deadline);
    if (status == RONDO_OK && type != want) {
        return rdi_fail(RONDO_ERR_INVALID,
                        "rondo-doctor on %s sent message %d instead of %d: install the same release"
                        " on all hosts",
                        s->peer, (int)type, (int)want);
    }
    return status;
}

// ---- The beginning of a session ------------------------------------------------------------------

static void open_listeners(struct dr_session *s, const struct rdi_netif *list, size_t n) {
    struct rdi_tcp_blob *b = &s->mine.where;
    for (size_t i = 0; i < n && b->count < RDI_TCP_ADDRS; i++) {
        struct rdi_tcp_addr a = {.family = list[i].family == AF_INET ? 4 : 6,
                                 .prefix = (uint8_t)list[i].prefix,
                                 .loopback = list[i].loopback,
                                 .scope = list[i].scope};
        memcpy(a.ip, list[i].addr, a.family == 4 ? 4 : 16);
        while (strcmp(list[a.device].name, list[i].name) != 0) {
            a.device++;
        }
        int fd = rdi_tcp_listen(&a);
        uint64_t mtu = 0;
        if (fd >= 0) {
            dr_read_number(s->d, &mtu, "/sys/class/net/%s/mtu", list[i].name);
            s->mine.mtu[b->count] = (uint32_t)mtu;
            s->listeners[b->count] = fd;
            b->addr[b->count++] = a;
        }
    }
}

bool dr_session_open(struct dr_session *s, struct doctor *d) {
    *s = (struct dr_session){.d = d, .control = -1, .job = {.size = 2, .local_rank = -1}};
    s->answer_ns =
        (uint64_t)(d->ask.timeout_s > 0 && !d->ask.listen ? d->ask.timeout_s : DR_ANSWER_S) *
        DR_SECOND;
    struct rdi_netif list[NETIFS];
    struct rdi_launch launch = d->launch;
    char source[RDI_KEY_SOURCE];
    size_t n = 0;
    if (d->options_error != NULL) {
        dr_add(d, DR_ERROR, NULL, "%s", d->options_error);
        dr_means(d, "it is not known which interfaces and which key the job would use");
        dr_remedy(d, "correct or unset the variable");
        return false;
    }
    launch.single_host = false;
    rdi_host_find(&s->job);
    rondo_status status =
        rdi_key_look_for(&d->config, &d->options, &launch, getenv, &s->job, source);
    if (status != RONDO_OK) {
        dr_add(d, DR_ERROR, NULL, "%s", rondo_last_error());
        dr_means(d, "both ends of every connection have to prove the same key, also here");
        dr_remedy(d,
                  "copy one key file to both hosts (mode 600) and set RONDO_KEY_FILE; to test the"
                  " network alone: RONDO_AUTH=none on both");
        return false;
    }
    if (rdi_netif_list(&d->options, list, NETIFS, &n) != RONDO_OK) {
        dr_add(d, DR_ERROR, NULL, "%s", rondo_last_error());
        dr_means(d, "there is no address to test");
        dr_remedy(d, "see network.interfaces");
        return false;
    }
    memcpy(s->mine.where.host_id, s->job.host_id, sizeof s->job.host_id);
    snprintf(s->mine.where.host, sizeof s->mine.where.host, "%s", s->job.host);
    s->mine.version = rondo_version_number();
    d->env.random(d->env.self, s->token, sizeof s->token);
    open_listeners(s, list, n);
    return true;
}

void dr_session_close(struct dr_session *s) {
    for (unsigned i = 0; i < s->mine.where.count; i++) {
        close(s->listeners[i]);
    }
    if (s->control >= 0) {
        close(s->control);
    }
    rdi_job_clear(&s->job);
}

rondo_status dr_send_card(struct dr_session *s) {
    uint8_t message[DR_MESSAGE], blob[RDI_BLOB_MAX];
    struct rdi_cursor c = {.at = message, .size = sizeof message, .ok = true};
    size_t n = rdi_tcp_blob_write(&s->mine.where, blob);
    rdi_cursor_put(&c, (uint64_t)s->mine.version, 4);
    for (unsigned i = 0; i < RDI_TCP_ADDRS; i++) {
        rdi_cursor_put(&c, s->mine.mtu[i], 4);
    }
    rdi_cursor_put_bytes(&c, blob, n);
    return dr_send(s, DR_MSG_CARD, message, c.used);
}

bool dr_read_card(struct dr_session *s, const uint8_t *payload, size_t len) {
    uint8_t copy[DR_MESSAGE];
    struct rdi_cursor c = {.at = copy, .size = len, .ok = true};
    memcpy(copy, payload, len);
    s->theirs.version = (int)rdi_cursor_get(&c, 4);
    for (unsigned i = 0; i < RDI_TCP_ADDRS; i++) {
        s->theirs.mtu[i] = (uint32_t)rdi_cursor_get(&c, 4);
    }
    if (!c.ok || !rdi_tcp_blob_read(&s->theirs.where, copy + c.used, len - c.used)) {
        return false;
    }
    snprintf(s->peer, sizeof s->peer, "%s", s->theirs.where.host);
    return true;
}
