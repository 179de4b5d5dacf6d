// SPDX-License-Identifier: MIT
// The store's client: blocking calls over one connection, each with a deadline. Connecting is tried
// again until its deadline, because ranks start in any order; what cannot get better (another job's
// key, another version, a stranger on the port) fails at once.
#include "transport/bootstrap/bootstrap.h"
#include "transport/bootstrap/store_wire.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define MS 1000000u
#define ATTEMPT_MS 5000 // for one address: TCP's own patience is too long
#define PAUSE_MIN_MS 10 // between attempts, doubling
#define PAUSE_MAX_MS 500
#define SLACK_MS 10000 // after the deadline of a get, for a busy server to say so

struct rdi_store {
    int fd; // -1: the connection broke
    struct rdi_env env;
    char where[320]; // "host port 29500"
};

// ---- Bytes with a deadline ----------------------------------------------------------------------

static uint64_t after_ms(const struct rdi_store *st, int64_t ms) {
    return rdi_now(&st->env) + (uint64_t)(ms > 0 ? ms : 0) * MS;
}

// False: the deadline passed.
static bool wait_for(const struct rdi_store *st, short events, uint64_t deadline) {
    for (;;) {
        uint64_t now = rdi_now(&st->env);
        uint64_t left = deadline > now ? (deadline - now + MS - 1) / MS : 0;
        struct pollfd p = {.fd = st->fd, .events = events};
        int n = poll(&p, 1, left < 60000 ? (int)left : 60000);
        if (n > 0) {
            return true;
        }
        if ((n < 0 && errno != EINTR) || (n == 0 && left == 0)) {
            return false;
        }
    }
}

// Moves n bytes. RONDO_ERR_TIMEOUT; RONDO_ERR_PEER, with errno 0 after an orderly close. Sets no
// text.
static rondo_status move(const struct rdi_store *st, bool out, void *buf, size_t n,
                         uint64_t deadline) {
    for (size_t done = 0; done < n;) {
        uint8_t *at = (uint8_t *)buf + done;
        ssize_t got = out ? send(st->fd, at, n - done, MSG_NOSIGNAL)
                          : recv(st->fd, at, n - done, 0);
        if (got > 0) {
            done += (size_t)got;
        } else if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
            if (!wait_for(st, out ? POLLOUT : POLLIN, deadline)) {
                return RONDO_ERR_TIMEOUT;
            }
        } else if (got == 0 || errno != EINTR) {
            errno = got == 0 ? 0 : errno;
            return RONDO_ERR_PEER;
        }
    }
    return RONDO_OK;
}

void rdi_store_silence(int fd, int silence_s) {
    int on = 1, probe = silence_s / 3, probes = 2, ms = silence_s * 1000;
    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &probe, sizeof probe);
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &probe, sizeof probe);
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &probes, sizeof probes);
    setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &ms, sizeof ms);
}

void rdi_store_vigilant(struct rdi_store *st, int silence_s) {
    if (st->fd >= 0) {
        rdi_store_silence(st->fd, silence_s);
    }
}

// ---- Connecting ---------------------------------------------------------------------------------

// Why an attempt failed, until the last one decides what the caller is told.
struct reason {
    rondo_status status; // of the failures that are final; otherwise RONDO_AGAIN
    char text[256];
};

static void try_later(struct reason *r, const char *what, int err) {
    r->status = RONDO_AGAIN;
    if (err != 0) {
        char buffer[128];
        snprintf(r->text, sizeof r->text, "%s: %s", what, strerror_r(err, buffer, sizeof buffer));
    } else {
        snprintf(r->text, sizeof r->text, "%s", what);
    }
}

// Both directions until the handshake ends.
static bool shake_hands(struct rdi_store *st, const struct rdi_job *job, uint64_t deadline,
                        struct reason *r) {
    struct rdi_hs hs;
    rdi_hs_connect(&hs, RDI_HS_STORE, job, &st->env, NULL, 0);
    for (;;) {
        size_t n = hs.out_len - hs.out_off;
        rondo_status s = move(st, true, hs.out + hs.out_off, n, deadline);
        rdi_hs_sent(&hs, n);
        if (s == RONDO_OK && hs.state == RDI_HS_DONE) {
            return true;
        }
        // Byte by byte would do; the store sends nothing of its own after the handshake.
        uint8_t buf[RDI_HS_BUFFER];
        ssize_t got = 0;
        while (s == RONDO_OK && got <= 0) {
            if (!wait_for(st, POLLIN, deadline)) {
                s = RONDO_ERR_TIMEOUT;
                break;
            }
            got = recv(st->fd, buf, sizeof buf, 0);
            if (got == 0 || (got < 0 && errno != EINTR && errno != EAGAIN)) {
                errno = got == 0 ? 0 : errno;
                s = RONDO_ERR_PEER;
            }
        }
        if (s != RONDO_OK) {
            try_later(r,
                      s == RONDO_ERR_TIMEOUT ? "the connection was accepted, but no answer came"
                                             : "the connection was accepted and then closed",
                      s == RONDO_ERR_PEER ? errno : 0);
            return false;
        }
        size_t used;
        rdi_hs_input(&hs, buf, (size_t)got, &used);
        if (hs.state == RDI_HS_FAILED) {
            r->status = hs.error;
            snprintf(r->text, sizeof r->text, "%s", hs.why);
            return false;
        }
    }
}

static bool connect_address(struct rdi_store *st, const struct addrinfo *a,
                            const struct rdi_job *job, uint64_t deadline, struct reason *r) {
    st->fd = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (st->fd < 0) {
        if (errno == EMFILE || errno == ENFILE) {
            r->status = rdi_fail_errno(RONDO_ERR_SYSTEM, errno, "no socket");
            snprintf(r->text, sizeof r->text, "%s", rondo_last_error());
        } else {
            try_later(r, "no socket", errno);
        }
        return false;
    }
    int on = 1, err = 0;
    socklen_t len = sizeof err;
    setsockopt(st->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    rdi_store_silence(st->fd, rdi_store_default_limits.silence_s);
    if (connect(st->fd, a->ai_addr, a->ai_addrlen) != 0 && errno != EINPROGRESS && errno != EINTR) {
        try_later(r, "no connection", errno);
    } else if (!wait_for(st, POLLOUT, deadline)) {
        try_later(r, "no connection", ETIMEDOUT);
    } else if (getsockopt(st->fd, SOL_SOCKET, SO_ERROR, &err, &len) != 0 || err != 0) {
        try_later(r, "no connection", err != 0 ? err : errno);
    } else if (shake_hands(st, job, deadline, r)) {
        return true;
    }
    close(st->fd);
    st->fd = -1;
    return false;
}

// One attempt at all addresses of the host. A final failure at one of them ends it.
static bool connect_once(struct rdi_store *st, const char *host, int port,
                         const struct rdi_job *job, uint64_t deadline, struct reason *r) {
    char service[16];
    snprintf(service, sizeof service, "%d", port);
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV}, *list;
    int err = getaddrinfo(host, service, &hints, &list);
    if (err != 0) {
        // A name may appear a little later (containers that are just being started).
        try_later(r, "the name cannot be resolved", err == EAI_SYSTEM ? errno : 0);
        if (err != EAI_SYSTEM) {
            size_t used = strlen(r->text);
            snprintf(r->text + used, sizeof r->text - used, ": %s", gai_strerror(err));
        }
        return false;
    }
    bool ok = false;
    r->status = RONDO_AGAIN;
    for (const struct addrinfo *a = list; a != NULL && !ok && r->status == RONDO_AGAIN;
         a = a->ai_next) {
        uint64_t one = after_ms(st, ATTEMPT_MS);
        ok = connect_address(st, a, job, one < deadline ? one : deadline, r);
    }
    freeaddrinfo(list);
    return ok;
}

static void pause_ms(int ms) {
    struct timespec t = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * (long)MS};
    while (nanosleep(&t, &t) != 0 && errno == EINTR) {}
}

rondo_status rdi_store_connect(const char *host, int port, const struct rdi_job *job,
                               int timeout_ms, struct rdi_store **out) {
    struct rdi_store *st = calloc(1, sizeof *st);
    if (st == NULL) {
        return rdi_fail(RONDO_ERR_NOMEM, "no memory for a connection to the store");
    }
    st->fd = -1;
    rdi_env_system(&st->env, NULL, NULL);
    snprintf(st->where, sizeof st->where, "%s, port %d", host, port);
    uint64_t deadline = after_ms(st, timeout_ms);
    struct reason r = {.status = RONDO_AGAIN};
    char who[32] = "this launcher"; // which has no rank
    if (job->rank >= 0) {
        snprintf(who, sizeof who, "rank %d", job->rank);
    }
    int pause = PAUSE_MIN_MS;
    while (!connect_once(st, host, port, job, deadline, &r)) {
        rondo_status s = RONDO_OK;
        if (r.status != RONDO_AGAIN) {
            s = rdi_fail(r.status, "%s cannot use the store at %s: %s", who, st->where, r.text);
        } else if (after_ms(st, pause) >= deadline) {
            s = rdi_fail(
                RONDO_ERR_TIMEOUT,
                "%s could not reach the store at %s within %g s (%s): is its host right"
                " (MASTER_ADDR, MASTER_PORT), is rank 0 or the launcher running there, and does no"
                " firewall stand between?",
                who, st->where, timeout_ms / 1000.0, r.text);
        }
        if (s != RONDO_OK) {
            free(st);
            return s;
        }
        pause_ms(pause);
        pause = 2 * pause < PAUSE_MAX_MS ? 2 * pause : PAUSE_MAX_MS;
    }
    *out = st;
    return RONDO_OK;
}

void rdi_store_close(struct rdi_store *st) {
    if (st != NULL) {
        if (st->fd >= 0) {
            // A forked child may hold a copy of the descriptor; the server shall see the end all
            // the same.
            shutdown(st->fd, SHUT_RDWR);
            close(st->fd);
        }
        free(st);
    }
}

// ---- Requests -----------------------------------------------------------------------------------

// After half a message nothing on this connection can be understood any more.
static rondo_status broken(struct rdi_store *st, rondo_status status, const char *doing, int err) {
    close(st->fd);
    st->fd = -1;
    if (status == RONDO_ERR_TIMEOUT) {
        // Not RONDO_ERR_TIMEOUT, which is the store's own answer to a get: that nobody has set the key.
        return rdi_fail(
            RONDO_ERR_PEER,
            "the store at %s did not answer in time while %s: the process that serves it"
            " (rank 0 or the launcher) is stopped, or its host is cut off",
            st->where, doing);
    }
    if (err == 0 || err == ECONNRESET || err == EPIPE) {
        return rdi_fail(
            status,
            "the store at %s closed the connection while %s: the process that serves it (rank 0"
            " or the launcher) has ended or given up",
            st->where, doing);
    }
    if (err == ETIMEDOUT || err == EHOSTUNREACH || err == ENETUNREACH) {
        return rdi_fail_errno(
            status, err,
            "the store at %s acknowledges nothing any more, noticed while %s: the host"
            " of the process that serves it (rank 0 or the launcher) is gone or cut off",
            st->where, doing);
    }
    return rdi_fail_errno(status, err, "the connection to the store at %s broke while %s",
                          st->where, doing);
}

// Sends a request and receives the head of the response.
static rondo_status ask(struct rdi_store *st, unsigned op, const char *key, const void *value,
                        size_t len, int timeout_ms, uint64_t deadline, const char *doing,
                        struct rdi_store_response *response) {
    const char *wrong = rdi_store_check_key(key, strlen(key));
    if (wrong != NULL || len > RDI_STORE_VALUE_MAX) {
        return rdi_fail(RONDO_ERR_INVALID, "%s: %s", doing,
                        wrong != NULL ? wrong : "the value is larger than 16 MiB");
    }
    if (st->fd < 0) {
        return rdi_fail(RONDO_ERR_USAGE, "the connection to the store at %s broke before",
                        st->where);
    }
    struct rdi_store_request q = {.op = op, .key_len = strlen(key), .value_len = len};
    q.timeout_ms = timeout_ms > 0 ? (uint32_t)timeout_ms : 0;
    uint8_t start[RDI_STORE_REQUEST_HEAD + RDI_STORE_KEY_MAX], head[RDI_STORE_RESPONSE_HEAD];
    rdi_store_encode_request(start, &q);
    memcpy(start + RDI_STORE_REQUEST_HEAD, key, q.key_len);
    rondo_status s = move(st, true, start, RDI_STORE_REQUEST_HEAD + q.key_len, deadline);
    if (s == RONDO_OK) {
        s = move(st, true, (void *)(uintptr_t)value, len, deadline);
    }
    if (s == RONDO_OK) {
        s = move(st, false, head, sizeof head, deadline);
    }
    if (s != RONDO_OK) {
        return broken(st, s, doing, errno);
    }
    wrong = rdi_store_decode_response(head, response);
    if (wrong != NULL) {
        broken(st, RONDO_ERR_PEER, doing, EPROTO);
        return rdi_fail_prefix(RONDO_ERR_PEER, "%s", wrong);
    }
    return RONDO_OK;
}

static rondo_status send_value(struct rdi_store *st, unsigned op, const char *key,
                               const void *value, size_t len, int timeout_ms, const char *doing) {
    struct rdi_store_response response = {.status = RONDO_OK};
    rondo_status s = ask(st, op, key, value, len, timeout_ms, after_ms(st, (int64_t)timeout_ms),
                         doing, &response);
    if (s != RONDO_OK) {
        return s;
    }
    if (response.value_len != 0) {
        return broken(st, RONDO_ERR_PEER, doing, EPROTO);
    }
    return response.status == RONDO_OK
               ? RONDO_OK
               : rdi_fail(response.status, "the store at %s refused %s: %s", st->where, doing,
                          response.status == RONDO_ERR_NOMEM
                              ? "it is full"
                              : rondo_status_string(response.status));
}

static rondo_status store_set(void *store, const char *key, const void *value, size_t len,
                              int timeout_ms) {
    char doing[320];
    snprintf(doing, sizeof doing, "setting '%.*s'", RDI_STORE_KEY_MAX, key);
    return send_value(store, RDI_STORE_SET, key, value, len, timeout_ms, doing);
}

rondo_status rdi_store_will(struct rdi_store *st, const char *key, const void *value, size_t len,
                            int timeout_ms) {
    char doing[320];
    snprintf(doing, sizeof doing, "leaving a will for '%.*s'", RDI_STORE_KEY_MAX, key);
    if (len > RDI_STORE_WILL_MAX) {
        return rdi_fail(RONDO_ERR_INVALID, "%s: the value is larger than %d bytes", doing,
                        RDI_STORE_WILL_MAX);
    }
    return send_value(st, RDI_STORE_WILL, key, value, len, timeout_ms, doing);
}

static rondo_status store_get(void *store, const char *key, void **value, size_t *len,
                              int timeout_ms) {
    struct rdi_store *st = store;
    struct rdi_store_response response;
    char doing[320];
    snprintf(doing, sizeof doing, "waiting for '%.*s'", RDI_STORE_KEY_MAX, key);
    uint64_t deadline = after_ms(st, (int64_t)(timeout_ms > 0 ? timeout_ms : 0) + SLACK_MS);
    rondo_status s = ask(st, RDI_STORE_GET, key, NULL, 0, timeout_ms, deadline, doing, &response);
    if (s != RONDO_OK) {
        return s;
    }
    if (response.status == RONDO_ERR_TIMEOUT) {
        return rdi_fail(RONDO_ERR_TIMEOUT, "nobody set '%s' at the store at %s within %g s", key,
                        st->where, timeout_ms / 1000.0);
    }
    if (response.status != RONDO_OK) {
        return rdi_fail(response.status, "the store at %s refused %s: %s", st->where, doing,
                        rondo_status_string(response.status));
    }
    void *bytes = malloc(response.value_len > 0 ? response.value_len : 1);
    if (bytes == NULL) {
        broken(st, RONDO_ERR_NOMEM, doing, ENOMEM);
        return RONDO_ERR_NOMEM;
    }
    s = move(st, false, bytes, response.value_len, deadline);
    if (s != RONDO_OK) {
        free(bytes);
        return broken(st, s, doing, errno);
    }
    *value = bytes;
    *len = response.value_len;
    return RONDO_OK;
}

const rondo_store_ops rdi_store_tcp_ops = {
    .size = sizeof(rondo_store_ops), .set = store_set, .get = store_get};
