// SPDX-License-Identifier: MIT
// The store's client: blocking calls over one connection, each with a deadline. Connecting is tried
// again until its deadline, because ranks start in any order; what cannot get better (another job's
// key, another version, a stranger on the port) fails at once.
#include "transport/bootstrap/store_client.h"

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

// ---- Bytes with a deadline ----------------------------------------------------------------------

uint64_t rdi_store_after_ms(const struct rdi_store *st, int64_t ms) {
    return rdi_now(&st->env) + (uint64_t)(ms > 0 ? ms : 0) * MS;
}

// RONDO_ERR_TIMEOUT: the deadline passed. RONDO_ERR_PEER: the server gave no sign of life for its grace, though its
// host answers. That is counted in pieces, so that this process, when it was stopped itself, does not blame others.
static rondo_status wait_for(struct rdi_store *st, short events, uint64_t deadline) {
    uint64_t beat = st->grace_ms > 0 ? rdi_store_beat_ms(st->grace_ms) : 60000;
    for (uint64_t quiet = 0;;) {
        uint64_t now = rdi_now(&st->env);
        uint64_t left = deadline > now ? (deadline - now + MS - 1) / MS : 0;
        struct pollfd p = {.fd = st->fd, .events = events};
        int n = poll(&p, 1, left < beat ? (int)left : (int)beat);
        if (n > 0) {
            return RONDO_OK;
        }
        if ((n < 0 && errno != EINTR) || (n == 0 && left == 0)) {
            return RONDO_ERR_TIMEOUT;
        }
        quiet += n == 0 ? beat : 0;
        if (st->grace_ms > 0 && quiet > st->grace_ms &&
            rdi_store_acknowledged(st->fd, (unsigned)quiet)) {
            st->mute = true;
            return RONDO_ERR_PEER;
        }
    }
}

// Moves n bytes. RONDO_ERR_TIMEOUT; RONDO_ERR_PEER, with errno 0 after an orderly close. Sets no
// text.
static rondo_status move(struct rdi_store *st, bool out, void *buf, size_t n, uint64_t deadline) {
    for (size_t done = 0; done < n;) {
        uint8_t *at = (uint8_t *)buf + done;
        ssize_t got = out ? send(st->fd, at, n - done, MSG_NOSIGNAL)
                          : recv(st->fd, at, n - done, 0);
        if (got > 0) {
            done += (size_t)got;
        } else if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
            rondo_status s = wait_for(st, out ? POLLOUT : POLLIN, deadline);
            if (s != RONDO_OK) {
                return s;
            }
        } else if (got == 0 || errno != EINTR) {
            errno = got == 0 ? 0 : errno;
            return RONDO_ERR_PEER;
        }
    }
    return RONDO_OK;
}

void rdi_store_silence(int fd, int silence_ms) {
    int on = 1, probe = silence_ms > 3000 ? silence_ms / 3000 : 1, probes = 2;
    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &probe, sizeof probe);
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &probe, sizeof probe);
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &probes, sizeof probes);
    setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &silence_ms, sizeof silence_ms);
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
            s = wait_for(st, POLLIN, deadline);
            if (s != RONDO_OK) {
                break;
            }
            got = recv(st->fd, buf, sizeof buf, 0);
            if (got == 0 || (got < 0 && errno != EINTR && errno != EAGAIN)) {
                errno = got == 0 ? 0 : errno;
                s = RONDO_ERR_PEER;
            }
        }
        if (s != RONDO_OK && st->mute) {
            r->status = RONDO_ERR_PEER;
            snprintf(
                r->text, sizeof r->text,
                "it accepts connections and then says nothing for stop_grace (%g s): the process"
                " that serves it (rank 0 or the launcher) is stopped",
                st->grace_ms / 1000.0);
            return false;
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

// A host that does not answer yet is none that has stopped.
static rondo_status connected(struct rdi_store *st, uint64_t deadline) {
    unsigned grace = st->grace_ms;
    st->grace_ms = 0;
    rondo_status s = wait_for(st, POLLOUT, deadline);
    st->grace_ms = grace;
    return s;
}

static bool connect_address(struct rdi_store *st, const struct addrinfo *a,
                            const struct rdi_job *job, uint64_t deadline, struct reason *r) {
    uint64_t one = rdi_store_after_ms(st, ATTEMPT_MS);
    // One that accepts connections and is stopped is given its grace.
    uint64_t greet = st->grace_ms > 0 ? deadline : one;
    one = one < deadline ? one : deadline;
    greet = greet < deadline ? greet : deadline;
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
    rdi_store_silence(st->fd, (int)st->silence_ms);
    if (connect(st->fd, a->ai_addr, a->ai_addrlen) != 0 && errno != EINPROGRESS && errno != EINTR) {
        try_later(r, "no connection", errno);
    } else if (connected(st, one) != RONDO_OK) {
        try_later(r, "no connection", ETIMEDOUT);
    } else if (getsockopt(st->fd, SOL_SOCKET, SO_ERROR, &err, &len) != 0 || err != 0) {
        try_later(r, "no connection", err != 0 ? err : errno);
    } else if (shake_hands(st, job, greet, r)) {
        return true;
    }
    close(st->fd);
    st->fd = -1;
    return false;
}

// One attempt at all addresses of a name. A final failure at one of them ends it.
static bool connect_name(struct rdi_store *st, const char *host, int port,
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
        ok = connect_address(st, a, job, deadline, r);
    }
    freeaddrinfo(list);
    return ok;
}

// The same for all names.
static bool connect_once(struct rdi_store *st, const char *hosts, int port,
                         const struct rdi_job *job, uint64_t deadline, struct reason *r) {
    char name[256];
    for (const char *at = hosts;;) {
        size_t n = strcspn(at, ",");
        snprintf(name, sizeof name, "%.*s", (int)(n < sizeof name ? n : 0), at);
        if (connect_name(st, name, port, job, deadline, r)) {
            return true;
        }
        if (r->status != RONDO_AGAIN || at[n] == '\0') {
            return false;
        }
        at += n + 1;
    }
}

static void pause_ms(int ms) {
    struct timespec t = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * (long)MS};
    while (nanosleep(&t, &t) != 0 && errno == EINTR) {}
}

static void destroy(struct rdi_store *st) {
    pthread_mutex_destroy(&st->write);
    free(st);
}

rondo_status rdi_store_connect(const char *host, int port, const struct rdi_job *job,
                               int timeout_ms, struct rdi_store **out) {
    return rdi_store_connect_vigilant(host, port, job, timeout_ms, 0,
                                      (unsigned)rdi_store_default_limits.silence_ms, out);
}

rondo_status rdi_store_connect_vigilant(const char *host, int port, const struct rdi_job *job,
                                        int timeout_ms, unsigned grace_ms, unsigned silence_ms,
                                        struct rdi_store **out) {
    struct rdi_store *st = calloc(1, sizeof *st);
    if (st == NULL) {
        return rdi_fail(RONDO_ERR_NOMEM, "no memory for a connection to the store");
    }
    st->fd = -1;
    st->grace_ms = grace_ms;
    st->silence_ms = silence_ms;
    pthread_mutex_init(&st->write, NULL);
    rdi_env_system(&st->env, NULL, NULL);
    snprintf(st->where, sizeof st->where, "%s, port %d", host, port);
    uint64_t deadline = rdi_store_after_ms(st, timeout_ms);
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
        } else if (rdi_store_after_ms(st, pause) >= deadline) {
            s = rdi_fail(
                RONDO_ERR_TIMEOUT,
                "%s could not reach the store at %s within %g s (%s): is its host right"
                " (MASTER_ADDR, MASTER_PORT), is rank 0 or the launcher running there, and does no"
                " firewall stand between?",
                who, st->where, timeout_ms / 1000.0, r.text);
        }
        if (s != RONDO_OK) {
            destroy(st);
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
        rdi_store_pulse_stop(st);
        if (st->fd >= 0) {
            // A forked child may hold a copy of the descriptor; the server shall see the end all
            // the same.
            shutdown(st->fd, SHUT_RDWR);
            close(st->fd);
        }
        destroy(st);
    }
}

// ---- Requests -----------------------------------------------------------------------------------

// After half a message nothing on this connection can be understood any more.
static rondo_status broken(struct rdi_store *st, rondo_status status, const char *doing, int err) {
    char who[512];
    pthread_mutex_lock(&st->write);
    close(st->fd);
    st->fd = -1;
    pthread_mutex_unlock(&st->write);
    if (st->server[0] != '\0') {
        snprintf(who, sizeof who, "%s, which serves the store at %s,", st->server, st->where);
    } else {
        snprintf(who, sizeof who,
                 "the process (rank 0 or the launcher) that serves the store at %s", st->where);
    }
    if (st->mute) {
        return rdi_fail(RONDO_ERR_PEER,
                        "%s is stopped: its host answers, its process gave no sign of life for"
                        " stop_grace (%g s), noticed while %s",
                        who, st->grace_ms / 1000.0, doing);
    }
    if (status == RONDO_ERR_TIMEOUT) {
        // Not RONDO_ERR_TIMEOUT, which is the store's own answer to a get: that nobody has set the key.
        return rdi_fail(
            RONDO_ERR_PEER,
            "%s did not answer in time while %s: the process is stopped, or its host is cut off",
            who, doing);
    }
    if (err == 0 || err == ECONNRESET || err == EPIPE) {
        return rdi_fail(status, "%s ended or gave up: it closed the connection while %s", who,
                        doing);
    }
    if (err == ETIMEDOUT || err == EHOSTUNREACH || err == ENETUNREACH) {
        return rdi_fail_errno(
            status, err, "%s is silent: its host acknowledges nothing any more, noticed while %s",
            who, doing);
    }
    return rdi_fail_errno(status, err, "the connection to the store at %s broke while %s",
                          st->where, doing);
}

rondo_status rdi_store_send(struct rdi_store *st, const struct rdi_store_request *q,
                            const char *key, const void *value, uint64_t deadline) {
    uint8_t start[RDI_STORE_REQUEST_HEAD + RDI_STORE_KEY_MAX];
    rdi_store_encode_request(start, q);
    memcpy(start + RDI_STORE_REQUEST_HEAD, key, q->key_len);
    pthread_mutex_lock(&st->write);
    rondo_status s = move(st, true, start, RDI_STORE_REQUEST_HEAD + q->key_len, deadline);
    if (s == RONDO_OK) {
        s = move(st, true, (void *)(uintptr_t)value, q->value_len, deadline);
    }
    int saved = errno;
    pthread_mutex_unlock(&st->write);
    errno = saved;
    return s;
}

// The head of the response, after the server's signs of life.
static rondo_status receive_head(struct rdi_store *st, uint8_t head[RDI_STORE_RESPONSE_HEAD],
                                 uint64_t deadline) {
    rondo_status s;
    do {
        s = move(st, false, head, 1, deadline);
    } while (s == RONDO_OK && head[0] == RDI_STORE_PULSE && rdi_now(&st->env) < deadline);
    s = s == RONDO_OK && head[0] == RDI_STORE_PULSE ? RONDO_ERR_TIMEOUT : s;
    return s == RONDO_OK ? move(st, false, head + 1, RDI_STORE_RESPONSE_HEAD - 1, deadline) : s;
}

rondo_status rdi_store_ask(struct rdi_store *st, unsigned op, const char *key, const void *value,
                           size_t len, int timeout_ms, uint64_t deadline, const char *doing,
                           bool *answered, void **got, size_t *got_len) {
    const char *wrong = rdi_store_check_key(key, strlen(key));
    *answered = false;
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
    uint8_t head[RDI_STORE_RESPONSE_HEAD];
    struct rdi_store_response response;
    rondo_status s = rdi_store_send(st, &q, key, value, deadline);
    s = s == RONDO_OK ? receive_head(st, head, deadline) : s;
    if (s != RONDO_OK) {
        return broken(st, s, doing, errno);
    }
    wrong = rdi_store_decode_response(head, &response);
    if (wrong != NULL) {
        broken(st, RONDO_ERR_PEER, doing, EPROTO);
        return rdi_fail_prefix(RONDO_ERR_PEER, "%s", wrong);
    }
    uint8_t *bytes = malloc(response.value_len + 1);
    if (bytes == NULL) {
        broken(st, RONDO_ERR_NOMEM, doing, ENOMEM);
        return RONDO_ERR_NOMEM;
    }
    s = move(st, false, bytes, response.value_len, deadline);
    if (s != RONDO_OK) {
        free(bytes);
        return broken(st, s, doing, errno);
    }
    bytes[response.value_len] = '\0';
    *answered = true;
    *got = bytes;
    *got_len = response.value_len;
    return response.status;
}

static rondo_status send_value(struct rdi_store *st, unsigned op, const char *key,
                               const void *value, size_t len, int timeout_ms, const char *doing) {
    bool answered;
    void *got;
    size_t got_len;
    rondo_status s = rdi_store_ask(st, op, key, value, len, timeout_ms,
                                   rdi_store_after_ms(st, (int64_t)timeout_ms), doing, &answered,
                                   &got, &got_len);
    if (!answered) {
        return s;
    }
    free(got);
    if (got_len != 0) {
        return broken(st, RONDO_ERR_PEER, doing, EPROTO);
    }
    return s == RONDO_OK ? RONDO_OK
                         : rdi_fail(s, "the store at %s refused %s: %s", st->where, doing,
                                    s == RONDO_ERR_NOMEM ? "it is full" : rondo_status_string(s));
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
    char doing[320];
    bool answered;
    void *bytes;
    size_t n;
    snprintf(doing, sizeof doing, "waiting for '%.*s'", RDI_STORE_KEY_MAX, key);
    uint64_t deadline =
        rdi_store_after_ms(st, (int64_t)(timeout_ms > 0 ? timeout_ms : 0) + SLACK_MS);
    rondo_status s = rdi_store_ask(st, RDI_STORE_GET, key, NULL, 0, timeout_ms, deadline, doing,
                                   &answered, &bytes, &n);
    if (!answered) {
        return s;
    }
    if (s == RONDO_OK) {
        *value = bytes;
        *len = n;
        return s;
    }
    if (s == RONDO_ERR_PEER && *(const char *)bytes != '\0') {
        rdi_printable(bytes, n + 1);
        rdi_fail(s, "%s", (const char *)bytes);
    } else if (s == RONDO_ERR_TIMEOUT) {
        rdi_fail(s, "nobody set '%s' at the store at %s within %g s", key, st->where,
                 timeout_ms / 1000.0);
    } else {
        rdi_fail(s, "the store at %s refused %s: %s", st->where, doing, rondo_status_string(s));
    }
    free(bytes);
    return s;
}

const rondo_store_ops rdi_store_tcp_ops = {
    .size = sizeof(rondo_store_ops), .set = store_set, .get = store_get};
