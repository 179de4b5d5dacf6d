// SPDX-License-Identifier: MIT
// One connection of the store's server, as a state machine. No connection can hold up another:
// nothing blocks, the work done for one at a time is bounded, and whoever does not finish a
// handshake or go on with a message in time is dropped.
//
//            proved                  head            body, SET: reply at once
//   HANDSHAKE ------> HEAD ---------------> BODY -----------------------------> REPLY --> HEAD
//                                             |  GET of a key that is not there    ^
//                                             +-------------> WAIT ----------------+
//                                                         set, or time out
#include "transport/bootstrap/store_server.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define BUDGET (256u << 10)   // bytes moved for one connection before the others get their turn
#define IDLE_MS UINT64_C(250) // nobody who knows the key takes so long to say it
#define TELL_EVERY (1000u * (uint64_t)RDI_MS)

// ---- Lists and deadlines ------------------------------------------------------------------------

static void list_add(struct rdi_conn_list *l, struct rdi_conn *c) {
    c->next = NULL;
    c->previous = l->last;
    *(l->last != NULL ? &l->last->next : &l->first) = c;
    l->last = c;
    l->count++;
}

static void list_remove(struct rdi_conn_list *l, struct rdi_conn *c) {
    *(c->previous != NULL ? &c->previous->next : &l->first) = c->next;
    *(c->next != NULL ? &c->next->previous : &l->last) = c->previous;
    l->count--;
}

void rdi_conn_deadline(struct rdi_store_server *s, struct rdi_conn *c, uint64_t ms) {
    c->deadline = rdi_now(&s->env) + ms * RDI_MS;
    if (c->deadline < s->check_at) {
        s->check_at = c->deadline;
    }
}

static void watch(struct rdi_store_server *s, struct rdi_conn *c, uint32_t events) {
    if (c->events != events) {
        struct epoll_event e = {.events = events, .data.ptr = c};
        epoll_ctl(s->epoll, EPOLL_CTL_MOD, c->fd, &e);
        c->events = events;
    }
}

static void note_stranger(struct rdi_store_server *s, const struct rdi_conn *c) {
    struct sockaddr_storage a;
    socklen_t len = sizeof a;
    char host[64] = "an unknown address";
    if (getpeername(c->fd, (struct sockaddr *)&a, &len) == 0) {
        getnameinfo((const struct sockaddr *)&a, len, host, sizeof host, NULL, 0, NI_NUMERICHOST);
    }
    const char *why = c->hs->state == RDI_HS_FAILED ? c->hs->why
                      : c->hs->step == 0            ? "it did not say what it wants"
                                                    : "it did not prove to know this job's key";
    uint64_t now = rdi_now(&s->env);
    pthread_mutex_lock(&s->lock);
    uint64_t n = ++s->strangers_dropped;
    snprintf(s->last_stranger, sizeof s->last_stranger, "%s: %s", host, why);
    struct rdi_env log = s->log;
    pthread_mutex_unlock(&s->lock);
    if (s->stranger_told_at == 0 || now - s->stranger_told_at >= TELL_EVERY) {
        rdi_log(&log, RONDO_LOG_WARN,
                "the store dropped a connection from %s: %s (%llu since the last such line)", host,
                why, (unsigned long long)(n - s->strangers_told));
        s->stranger_told_at = now;
        s->strangers_told = n;
    }
}

bool rdi_conn_drop_idle(struct rdi_store_server *s) {
    struct rdi_conn *c = s->strangers.first;
    uint64_t age = (uint64_t)s->limits.handshake_ms * RDI_MS;
    if (c == NULL || rdi_now(&s->env) - (c->deadline - age) < IDLE_MS * RDI_MS) {
        return false;
    }
    rdi_conn_drop(s, c);
    return true;
}

void rdi_conn_drop(struct rdi_store_server *s, struct rdi_conn *c) {
    if (c->state == CONN_DEAD) {
        return;
    }
    if (c->state == CONN_HANDSHAKE) {
        list_remove(&s->strangers, c);
        note_stranger(s, c);
    } else {
        list_remove(&s->clients, c);
        atomic_fetch_sub(&s->clients_now, 1);
    }
    rdi_data_unwait(&c->waiter);
    rdi_value_unref(c->value);
    free(c->hs);
    // A forked child of this process may hold a copy of the descriptor: then close(2) alone neither
    // ends the connection nor stops epoll from reporting it.
    epoll_ctl(s->epoll, EPOLL_CTL_DEL, c->fd, NULL);
    shutdown(c->fd, SHUT_RDWR);
    close(c->fd);
    c->state = CONN_DEAD;
    list_add(&s->graveyard, c);
}

// ---- Bytes --------------------------------------------------------------------------------------

// Bytes received; 0: none now, come again; -1: the peer is gone.
static ssize_t receive(struct rdi_conn *c, void *buf, size_t n) {
    ssize_t got;
    do {
        got = recv(c->fd, buf, n, 0);
    } while (got < 0 && errno == EINTR);
    if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
        return 0;
    }
    c->broke = got < 0 ? errno : 0;
    if (got > 0) {
        rdi_roll_heard(c);
    }
    return got > 0 ? got : -1;
}

static ssize_t send_some(struct rdi_conn *c, const void *buf, size_t n) {
    ssize_t sent;
    do {
        sent = send(c->fd, buf, n, MSG_NOSIGNAL);
    } while (sent < 0 && errno == EINTR);
    if (sent < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
        return 0;
    }
    if (sent < 0) {
        c->broke = errno;
    } else if (sent > 0) {
        rdi_roll_heard(c); // it has made room
    }
    return sent;
}

// ---- Replies ------------------------------------------------------------------------------------

static void await_request(struct rdi_conn *c) {
    c->state = CONN_HEAD;
    c->got = 0;
    c->deadline = 0; // a client may be idle as long as it likes
}

void rdi_conn_next(struct rdi_store_server *s, struct rdi_conn *c) {
    rdi_value_unref(c->value);
    c->value = NULL;
    await_request(c);
    watch(s, c, EPOLLIN);
}

static void send_reply(struct rdi_store_server *s, struct rdi_conn *c) {
    size_t value_len = c->value != NULL ? c->value->len : 0;
    for (size_t moved = 0; c->sent < sizeof c->reply + value_len && moved < BUDGET;) {
        bool head = c->sent < sizeof c->reply;
        const uint8_t *from = head ? c->reply + c->sent
                                   : c->value->bytes + (c->sent - sizeof c->reply);
        size_t left = (head ? sizeof c->reply : sizeof c->reply + value_len) - c->sent;
        ssize_t n = send_some(c, from, left);
        if (n < 0) {
            rdi_conn_drop(s, c);
            return;
        }
        if (n == 0) {
            break;
        }
        c->sent += (size_t)n;
        moved += (size_t)n;
        rdi_conn_deadline(s, c, (uint64_t)s->limits.stall_ms);
    }
    if (c->sent < sizeof c->reply + value_len) {
        watch(s, c, EPOLLOUT);
        return;
    }
    rdi_conn_next(s, c);
}

void rdi_conn_reply(struct rdi_store_server *s, struct rdi_conn *c, rondo_status status,
                    struct rdi_value *value) {
    struct rdi_store_response r = {.status = status, .value_len = value != NULL ? value->len : 0};
    rdi_store_encode_response(c->reply, &r);
    rdi_value_unref(c->value);
    c->value = value;
    if (value != NULL) {
        value->refs++;
    }
    c->sent = 0;
    c->state = CONN_REPLY;
    rdi_conn_deadline(s, c, (uint64_t)s->limits.stall_ms);
    send_reply(s, c);
}

void rdi_conn_stop_waiting(struct rdi_store_server *s, struct rdi_conn *c, struct rdi_value *why) {
    if (c->state == CONN_WAIT) {
        rdi_data_unwait(&c->waiter);
        rdi_conn_reply(s, c, RONDO_ERR_PEER, why);
    }
}

void rdi_conn_pulse(struct rdi_store_server *s, struct rdi_conn *c) {
    static const uint8_t pulse = RDI_STORE_PULSE;
    ssize_t n = 0;
    if (c->state != CONN_REPLY && c->state != CONN_DEAD) {
        do {
            n = send(c->fd, &pulse, 1, MSG_NOSIGNAL);
        } while (n < 0 && errno == EINTR);
    }
    if (n < 0 && errno != EAGAIN && errno != EWOULDBLOCK) {
        c->broke = errno;
        rdi_conn_drop(s, c);
    }
}

// ---- Requests -----------------------------------------------------------------------------------

static bool begin_body(struct rdi_conn *c) {
    if (rdi_store_decode_request(c->head, &c->request) != NULL) {
        return false;
    }
    if (c->request.op != RDI_STORE_GET) {
        c->value = rdi_value_new(c->request.value_len);
        if (c->value == NULL) {
            return false;
        }
    }
    c->state = CONN_BODY;
    c->got = 0;
    return true;
}

// A will that comes true may drop another connection, which is then buried too.
void rdi_conn_bury(struct rdi_store_server *s) {
    while (s->graveyard.first != NULL) {
        struct rdi_conn *c = s->graveyard.first;
        list_remove(&s->graveyard, c);
        rdi_request_end(s, c);
        rdi_roll_gone(s, c);
        free(c);
    }
}

// Takes the pulses away that stand before a message; returns what is left of n bytes.
static size_t without_pulses(uint8_t *bytes, size_t n) {
    size_t pulses = 0;
    while (pulses < n && bytes[pulses] == RDI_STORE_PULSE) {
        pulses++;
    }
    memmove(bytes, bytes + pulses, n - pulses);
    return n - pulses;
}

// Receives head and body; false: the connection is to be dropped.
static bool read_request(struct rdi_store_server *s, struct rdi_conn *c) {
    for (size_t moved = 0; moved < BUDGET;) {
        size_t key_len = c->request.key_len;
        uint8_t *to;
        size_t want;
        if (c->state == CONN_HEAD) {
            to = c->head + c->got;
            want = sizeof c->head - c->got;
        } else if (c->got < key_len) {
            to = c->key + c->got;
            want = key_len - c->got;
        } else {
            to = c->value->bytes + (c->got - key_len);
            want = key_len + c->request.value_len - c->got;
        }
        ssize_t n = receive(c, to, want);
        if (n <= 0) {
            return n == 0;
        }
        moved += (size_t)n;
        if (c->member != NULL && c->state == CONN_HEAD && c->got == 0) {
            n = (ssize_t)without_pulses(to, (size_t)n);
            if (n == 0) {
                continue;
            }
        }
        rdi_conn_deadline(s, c, (uint64_t)s->limits.stall_ms); // what was begun has to go on
        c->got += (size_t)n;
        if (c->state == CONN_HEAD && c->got == sizeof c->head && !begin_body(c)) {
            return false;
        }
        if (c->state == CONN_BODY && c->got == c->request.key_len + c->request.value_len) {
            if (rdi_store_check_key(c->key, c->request.key_len) != NULL) {
                return false;
            }
            rdi_request_handle(s, c);
            return true;
        }
    }
    return true;
}

// One request at a time: what comes is a sign of life, a hang-up, or nonsense.
static bool read_while_waiting(struct rdi_conn *c) {
    uint8_t bytes[64];
    ssize_t n = receive(c, bytes, sizeof bytes);
    return n == 0 || (n > 0 && c->member != NULL && without_pulses(bytes, (size_t)n) == 0);
}

// ---- Handshake ----------------------------------------------------------------------------------

// False: the peer is gone.
static bool send_handshake(struct rdi_store_server *s, struct rdi_conn *c) {
    struct rdi_hs *hs = c->hs;
    while (hs->out_off < hs->out_len) {
        ssize_t n = send_some(c, hs->out + hs->out_off, hs->out_len - hs->out_off);
        if (n < 0) {
            return false;
        }
        if (n == 0) {
            break;
        }
        rdi_hs_sent(hs, (size_t)n);
    }
    watch(s, c, EPOLLIN | (hs->out_off < hs->out_len ? EPOLLOUT : 0u));
    return true;
}

static void proved(struct rdi_store_server *s, struct rdi_conn *c) {
    list_remove(&s->strangers, c);
    list_add(&s->clients, c);
    atomic_fetch_add(&s->clients_now, 1);
    free(c->hs);
    c->hs = NULL;
    await_request(c);
}

static bool do_handshake(struct rdi_store_server *s, struct rdi_conn *c) {
    uint8_t buf[RDI_HS_BUFFER];
    ssize_t n = receive(c, buf, sizeof buf);
    if (n < 0) {
        return false;
    }
    size_t used;
    rdi_hs_input(c->hs, buf, (size_t)n, &used);
    if (c->hs->state == RDI_HS_NEED_REPLY) {
        rdi_hs_reply(c->hs, NULL, 0);
    }
    if (!send_handshake(s, c)) {
        return false;
    }
    if (c->hs->state == RDI_HS_FAILED) {
        return false; // what another version has to know of ours has been sent
    }
    if (used < (size_t)n) {
        return false; // nobody speaks before he has been welcomed
    }
    if (c->hs->state == RDI_HS_DONE) {
        proved(s, c);
    }
    return true;
}

// ---- Connections --------------------------------------------------------------------------------

void rdi_conn_serve(struct rdi_store_server *s, struct rdi_conn *c) {
    bool alive = true;
    switch (c->state) {
    case CONN_HANDSHAKE:
        alive = do_handshake(s, c);
        break;
    case CONN_HEAD:
    case CONN_BODY:
        alive = read_request(s, c);
        break;
    case CONN_WAIT:
        alive = read_while_waiting(c);
        break;
    case CONN_REPLY:
        send_reply(s, c);
        break;
    case CONN_DEAD:
        break;
    }
    if (!alive) {
        rdi_conn_drop(s, c);
    }
}

void rdi_conn_adopt(struct rdi_store_server *s, int fd) {
    struct rdi_conn *c = calloc(1, sizeof *c);
    struct rdi_hs *hs = malloc(sizeof *hs);
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = c};
    if (c == NULL || hs == NULL || s->strangers.count + s->clients.count >= s->limits.clients ||
        epoll_ctl(s->epoll, EPOLL_CTL_ADD, fd, &e) != 0) {
        free(c);
        free(hs);
        close(fd);
        return;
    }
    int on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    rdi_store_silence(fd, s->limits.silence_ms); // a host that vanished ends its waits
    if (s->strangers.count >= rdi_strangers_max((unsigned)s->limits.strangers)) {
        rdi_conn_drop(s, s->strangers.first);
    }
    c->fd = fd;
    c->events = EPOLLIN;
    c->hs = hs;
    rdi_hs_accept(hs, RDI_HS_STORE, &s->job, &s->env);
    list_add(&s->strangers, c);
    rdi_conn_deadline(s, c, (uint64_t)s->limits.handshake_ms);
}

void rdi_conn_expire(struct rdi_store_server *s, struct rdi_conn *c, uint64_t now) {
    if (c->deadline != 0 && c->deadline <= now) {
        if (c->state == CONN_WAIT) {
            rdi_data_unwait(&c->waiter);
            rdi_conn_reply(s, c, RONDO_ERR_TIMEOUT, NULL);
        } else {
            rdi_conn_drop(s, c);
        }
    }
    if (c->state != CONN_DEAD && c->deadline != 0 && c->deadline < s->check_at) {
        s->check_at = c->deadline;
    }
}
