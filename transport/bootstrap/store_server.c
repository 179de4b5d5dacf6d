// SPDX-License-Identifier: MIT
// The store's server: one thread, epoll, and a state per connection. No connection can hold up another:
// nothing blocks, the work done for one at a time is bounded, and whoever does not finish a handshake or a
// message in time is dropped. Strangers are bounded in number: the oldest gives way.
//
//            proved                  head            body, SET: reply at once
//   HANDSHAKE ------> HEAD ---------------> BODY -----------------------------> REPLY --> HEAD
//                                             |  GET of a key that is not there    ^
//                                             +-------------> WAIT ----------------+
//                                                         set, or time out
#include "transport/bootstrap/bootstrap.h"
#include "transport/bootstrap/store_data.h"
#include "transport/bootstrap/store_listen.h"
#include "transport/bootstrap/store_wire.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <signal.h>
#include <sodium.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#define MS 1000000u         // nanoseconds
#define BUDGET (256u << 10) // bytes moved for one connection before the others get their turn
#define ACCEPT_PAUSE_MS 100 // after the process ran out of descriptors
#define WAIT_MAX_MS (7u * 24 * 3600 * 1000)

const struct rdi_store_limits rdi_store_default_limits = {.clients = 16384,
                                                          .strangers = 1024,
                                                          .handshake_ms = 10000,
                                                          .stall_ms = 30000,
                                                          .bytes = (size_t)1 << 30};

enum state { HANDSHAKE, HEAD, BODY, WAIT, REPLY, DEAD };

struct conn {
    struct rdi_waiter waiter;     // first: the entry's ring leads back to the connection
    struct conn *next, *previous; // in the list of strangers or of clients, oldest first
    int fd;
    enum state state;
    uint32_t events;   // what epoll watches for
    uint64_t deadline; // 0: none
    struct rdi_hs *hs; // until the peer has proved itself
    uint8_t head[RDI_STORE_REQUEST_HEAD];
    size_t got; // bytes of the head, or of key and value together
    struct rdi_store_request request;
    uint8_t key[RDI_STORE_KEY_MAX];
    struct rdi_value *value; // being received, or being sent
    struct rdi_value *will;  // to be set when the connection ends; NULL: none
    uint8_t *will_key;
    size_t will_key_len;
    uint8_t reply[RDI_STORE_RESPONSE_HEAD];
    size_t sent;
};

struct conn_list {
    struct conn *first, *last;
    size_t count;
};

struct rdi_store_server {
    struct rdi_job job;
    struct rdi_env env;
    struct rdi_store_limits limits;
    struct rdi_listeners listeners;
    int epoll, stop;
    pthread_t thread;
    struct rdi_data data;
    struct conn_list strangers, clients, graveyard;
    uint64_t check_at;        // no deadline is earlier; UINT64_MAX: none
    uint64_t accept_again_at; // 0: accepting
    bool closing;
    pthread_mutex_t lock; // for the next two
    uint64_t strangers_dropped;
    char last_stranger[320];
    _Atomic size_t clients_now;
    atomic_int starved; // errno of the last accept, if this process lacked something for it
};

// ---- Lists and deadlines -------------------------------------------------------------------------

static void list_add(struct conn_list *l, struct conn *c) {
    c->next = NULL;
    c->previous = l->last;
    *(l->last != NULL ? &l->last->next : &l->first) = c;
    l->last = c;
    l->count++;
}

static void list_remove(struct conn_list *l, struct conn *c) {
    *(c->previous != NULL ? &c->previous->next : &l->first) = c->next;
    *(c->next != NULL ? &c->next->previous : &l->last) = c->previous;
    l->count--;
}

static void set_deadline(struct rdi_store_server *s, struct conn *c, uint64_t ms) {
    c->deadline = rdi_now(&s->env) + ms * MS;
    if (c->deadline < s->check_at) {
        s->check_at = c->deadline;
    }
}

static void watch(struct rdi_store_server *s, struct conn *c, uint32_t events) {
    if (c->events != events) {
        struct epoll_event e = {.events = events, .data.ptr = c};
        epoll_ctl(s->epoll, EPOLL_CTL_MOD, c->fd, &e);
        c->events = events;
    }
}

static void note_stranger(struct rdi_store_server *s, const struct conn *c) {
    struct sockaddr_storage a;
    socklen_t len = sizeof a;
    char host[64] = "an unknown address";
    if (getpeername(c->fd, (struct sockaddr *)&a, &len) == 0) {
        getnameinfo((const struct sockaddr *)&a, len, host, sizeof host, NULL, 0, NI_NUMERICHOST);
    }
    const char *why = c->hs->state == RDI_HS_FAILED ? c->hs->why
                      : c->hs->step == 0            ? "it did not say what it wants"
                                                    : "it did not prove to know this job's key";
    pthread_mutex_lock(&s->lock);
    s->strangers_dropped++;
    snprintf(s->last_stranger, sizeof s->last_stranger, "%s: %s", host, why);
    pthread_mutex_unlock(&s->lock);
}

// The memory goes when the present batch of events, which may name it, is through.
static void drop(struct rdi_store_server *s, struct conn *c) {
    if (c->state == DEAD) {
        return;
    }
    if (c->state == HANDSHAKE) {
        list_remove(&s->strangers, c);
        note_stranger(s, c);
    } else {
        list_remove(&s->clients, c);
        atomic_fetch_sub(&s->clients_now, 1);
    }
    rdi_data_unwait(&c->waiter);
    rdi_value_unref(c->value);
    free(c->hs);
    // A forked child of this process may hold a copy of the descriptor: then close(2) alone neither ends the
    // connection nor stops epoll from reporting it.
    epoll_ctl(s->epoll, EPOLL_CTL_DEL, c->fd, NULL);
    shutdown(c->fd, SHUT_RDWR);
    close(c->fd);
    c->state = DEAD;
    list_add(&s->graveyard, c);
}

// ---- Bytes ---------------------------------------------------------------------------------------

// Bytes received; 0: none now, come again; -1: the peer is gone.
static ssize_t receive(struct conn *c, void *buf, size_t n) {
    ssize_t got;
    do {
        got = recv(c->fd, buf, n, 0);
    } while (got < 0 && errno == EINTR);
    if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
        return 0;
    }
    return got > 0 ? got : -1;
}

static ssize_t send_some(struct conn *c, const void *buf, size_t n) {
    ssize_t sent;
    do {
        sent = send(c->fd, buf, n, MSG_NOSIGNAL);
    } while (sent < 0 && errno == EINTR);
    if (sent < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
        return 0;
    }
    return sent;
}

// ---- Replies -------------------------------------------------------------------------------------

static void await_request(struct conn *c) {
    c->state = HEAD;
    c->got = 0;
    c->deadline = 0; // a client may be idle as long as it likes
}

static void send_reply(struct rdi_store_server *s, struct conn *c) {
    size_t value_len = c->value != NULL ? c->value->len : 0;
    for (size_t moved = 0; c->sent < sizeof c->reply + value_len && moved < BUDGET;) {
        bool head = c->sent < sizeof c->reply;
        const uint8_t *from = head ? c->reply + c->sent
                                   : c->value->bytes + (c->sent - sizeof c->reply);
        size_t left = (head ? sizeof c->reply : sizeof c->reply + value_len) - c->sent;
        ssize_t n = send_some(c, from, left);
        if (n < 0) {
            drop(s, c);
            return;
        }
        if (n == 0) {
            break;
        }
        c->sent += (size_t)n;
        moved += (size_t)n;
        set_deadline(s, c, (uint64_t)s->limits.stall_ms);
    }
    if (c->sent < sizeof c->reply + value_len) {
        watch(s, c, EPOLLOUT);
        return;
    }
    rdi_value_unref(c->value);
    c->value = NULL;
    await_request(c);
    watch(s, c, EPOLLIN);
}

// `value` may be NULL and is shared.
static void begin_reply(struct rdi_store_server *s, struct conn *c, rondo_status status,
                        struct rdi_value *value) {
    struct rdi_store_response r = {.status = status, .value_len = value != NULL ? value->len : 0};
    rdi_store_encode_response(c->reply, &r);
    rdi_value_unref(c->value);
    c->value = value;
    if (value != NULL) {
        value->refs++;
    }
    c->sent = 0;
    c->state = REPLY;
    set_deadline(s, c, (uint64_t)s->limits.stall_ms);
    send_reply(s, c);
}

// ---- Requests ------------------------------------------------------------------------------------

// Takes over *value unless there is no room for it; who waits for the key gets it.
static rondo_status publish(struct rdi_store_server *s, const uint8_t *key, size_t key_len,
                            struct rdi_value **value) {
    struct rdi_entry *e = rdi_data_entry(&s->data, key, key_len);
    if (e == NULL || !rdi_data_set(&s->data, e, *value)) {
        return RONDO_ERR_NOMEM;
    }
    *value = NULL;
    while (e->waiters.next != &e->waiters) {
        struct conn *other = (struct conn *)e->waiters.next;
        rdi_data_unwait(&other->waiter);
        begin_reply(s, other, RONDO_OK, e->value);
    }
    return RONDO_OK;
}

static void handle_set(struct rdi_store_server *s, struct conn *c) {
    begin_reply(s, c, publish(s, c->key, c->request.key_len, &c->value), NULL);
}

static void drop_will(struct conn *c) {
    rdi_value_unref(c->will);
    free(c->will_key);
    c->will = NULL;
    c->will_key = NULL;
}

static void handle_will(struct rdi_store_server *s, struct conn *c) {
    drop_will(c);
    if (c->value->len > 0) {
        c->will_key = malloc(c->request.key_len);
        if (c->will_key == NULL) {
            begin_reply(s, c, RONDO_ERR_NOMEM, NULL);
            return;
        }
        memcpy(c->will_key, c->key, c->request.key_len);
        c->will_key_len = c->request.key_len;
        c->will = c->value;
        c->value = NULL;
    }
    begin_reply(s, c, RONDO_OK, NULL);
}

// Publishing a will may drop another connection, which is then buried too.
static void bury(struct rdi_store_server *s) {
    while (s->graveyard.first != NULL) {
        struct conn *c = s->graveyard.first;
        list_remove(&s->graveyard, c);
        if (c->will != NULL && !s->closing) {
            publish(s, c->will_key, c->will_key_len, &c->will);
        }
        drop_will(c);
        free(c);
    }
}

static void handle_get(struct rdi_store_server *s, struct conn *c) {
    struct rdi_entry *e = rdi_data_entry(&s->data, c->key, c->request.key_len);
    if (e == NULL) {
        begin_reply(s, c, RONDO_ERR_NOMEM, NULL);
    } else if (e->value != NULL) {
        begin_reply(s, c, RONDO_OK, e->value);
    } else if (c->request.timeout_ms == 0) {
        begin_reply(s, c, RONDO_ERR_TIMEOUT, NULL);
    } else {
        uint32_t ms = c->request.timeout_ms;
        c->state = WAIT;
        rdi_data_wait(e, &c->waiter);
        set_deadline(s, c, ms < WAIT_MAX_MS ? ms : WAIT_MAX_MS);
    }
}

static bool begin_body(struct conn *c) {
    if (rdi_store_decode_request(c->head, &c->request) != NULL) {
        return false;
    }
    if (c->request.op != RDI_STORE_GET) {
        c->value = rdi_value_new(c->request.value_len);
        if (c->value == NULL) {
            return false;
        }
    }
    c->state = BODY;
    c->got = 0;
    return true;
}

// Receives head and body; false: the connection is to be dropped.
static bool read_request(struct rdi_store_server *s, struct conn *c) {
    for (size_t moved = 0; moved < BUDGET;) {
        size_t key_len = c->request.key_len;
        uint8_t *to;
        size_t want;
        if (c->state == HEAD) {
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
        set_deadline(s, c, (uint64_t)s->limits.stall_ms); // what was begun has to go on
        c->got += (size_t)n;
        moved += (size_t)n;
        if (c->state == HEAD && c->got == sizeof c->head && !begin_body(c)) {
            return false;
        }
        if (c->state == BODY && c->got == c->request.key_len + c->request.value_len) {
            if (rdi_store_check_key(c->key, c->request.key_len) != NULL) {
                return false;
            }
            (c->request.op == RDI_STORE_SET   ? handle_set
             : c->request.op == RDI_STORE_GET ? handle_get
                                              : handle_will)(s, c);
            return true;
        }
    }
    return true;
}

// ---- Handshake -----------------------------------------------------------------------------------

// False: the peer is gone.
static bool send_handshake(struct rdi_store_server *s, struct conn *c) {
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

static void proved(struct rdi_store_server *s, struct conn *c) {
    list_remove(&s->strangers, c);
    list_add(&s->clients, c);
    atomic_fetch_add(&s->clients_now, 1);
    free(c->hs);
    c->hs = NULL;
    await_request(c);
}

static bool do_handshake(struct rdi_store_server *s, struct conn *c) {
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

// ---- Connections ---------------------------------------------------------------------------------

static void serve(struct rdi_store_server *s, struct conn *c) {
    uint8_t byte;
    bool alive = true;
    switch (c->state) {
    case HANDSHAKE:
        alive = do_handshake(s, c);
        break;
    case HEAD:
    case BODY:
        alive = read_request(s, c);
        break;
    case WAIT:
        alive = receive(c, &byte, 1) == 0; // one request at a time: this is a hang-up, or nonsense
        break;
    case REPLY:
        send_reply(s, c);
        break;
    case DEAD:
        break;
    }
    if (!alive) {
        drop(s, c);
    }
}

static void pause_accepting(struct rdi_store_server *s, bool pause) {
    for (size_t i = 0; i < s->listeners.count; i++) {
        struct epoll_event e = {.events = pause ? 0 : EPOLLIN, .data.ptr = &s->listeners.fd[i]};
        epoll_ctl(s->epoll, EPOLL_CTL_MOD, s->listeners.fd[i], &e);
    }
    s->accept_again_at = pause ? rdi_now(&s->env) + ACCEPT_PAUSE_MS * MS : 0;
    if (pause && s->accept_again_at < s->check_at) {
        s->check_at = s->accept_again_at;
    }
}

static void adopt(struct rdi_store_server *s, int fd) {
    struct conn *c = calloc(1, sizeof *c);
    struct rdi_hs *hs = malloc(sizeof *hs);
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = c};
    if (c == NULL || hs == NULL || s->strangers.count + s->clients.count >= s->limits.clients ||
        epoll_ctl(s->epoll, EPOLL_CTL_ADD, fd, &e) != 0) {
        free(c);
        free(hs);
        close(fd);
        return;
    }
    int on = 1, idle = 30;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on); // a host that vanished ends its waits
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof idle);
    if (s->strangers.count >= s->limits.strangers) {
        drop(s, s->strangers.first);
    }
    c->fd = fd;
    c->events = EPOLLIN;
    c->hs = hs;
    rdi_hs_accept(hs, RDI_HS_STORE, &s->job, &s->env);
    list_add(&s->strangers, c);
    set_deadline(s, c, (uint64_t)s->limits.handshake_ms);
}

static void accept_some(struct rdi_store_server *s, int listener) {
    for (int i = 0; i < 64; i++) {
        int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (fd >= 0) {
            atomic_store(&s->starved, 0);
            adopt(s, fd);
        } else if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
            atomic_store(&s->starved, errno);
            pause_accepting(s, true); // the listener stays readable: do not spin on it
            return;
        } else if (errno != EINTR && errno != ECONNABORTED) {
            return;
        }
    }
}

static void expire(struct rdi_store_server *s, struct conn *c, uint64_t now) {
    if (c->deadline != 0 && c->deadline <= now) {
        if (c->state == WAIT) {
            rdi_data_unwait(&c->waiter);
            begin_reply(s, c, RONDO_ERR_TIMEOUT, NULL);
        } else {
            drop(s, c);
        }
    }
    if (c->state != DEAD && c->deadline != 0 && c->deadline < s->check_at) {
        s->check_at = c->deadline;
    }
}

static void check_deadlines(struct rdi_store_server *s) {
    uint64_t now = rdi_now(&s->env);
    if (now < s->check_at) {
        return;
    }
    s->check_at = s->accept_again_at != 0 ? s->accept_again_at : UINT64_MAX;
    if (s->accept_again_at != 0 && s->accept_again_at <= now) {
        s->check_at = UINT64_MAX;
        pause_accepting(s, false);
    }
    struct conn_list *lists[] = {&s->strangers, &s->clients};
    for (int i = 0; i < 2; i++) {
        for (struct conn *c = lists[i]->first, *next; c != NULL; c = next) {
            next = c->next;
            expire(s, c, now);
        }
    }
}

// ---- The thread ----------------------------------------------------------------------------------

static int sleep_ms(struct rdi_store_server *s) {
    uint64_t now = rdi_now(&s->env);
    if (s->check_at == UINT64_MAX) {
        return -1;
    }
    uint64_t ms = s->check_at > now ? (s->check_at - now + MS - 1) / MS : 0;
    return ms < 60000 ? (int)ms : 60000;
}

static const int *as_listener(const struct rdi_store_server *s, const void *who) {
    for (size_t i = 0; i < s->listeners.count; i++) {
        if (who == &s->listeners.fd[i]) {
            return &s->listeners.fd[i];
        }
    }
    return NULL;
}

static void *run(void *arg) {
    struct rdi_store_server *s = arg;
    for (;;) {
        struct epoll_event events[64];
        int n = epoll_wait(s->epoll, events, 64, sleep_ms(s));
        for (int i = 0; i < n; i++) {
            void *who = events[i].data.ptr;
            if (who == NULL) {
                return NULL; // stop
            }
            const int *listener = as_listener(s, who);
            if (listener != NULL) {
                accept_some(s, *listener);
            } else {
                serve(s, who);
            }
        }
        check_deadlines(s);
        bury(s);
    }
}

static rondo_status prepare(struct rdi_store_server *s) {
    s->epoll = epoll_create1(EPOLL_CLOEXEC);
    s->stop = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = NULL};
    if (s->epoll < 0 || s->stop < 0 || epoll_ctl(s->epoll, EPOLL_CTL_ADD, s->stop, &e) != 0) {
        return rdi_fail_errno(RONDO_ERR_SYSTEM, errno, "cannot serve the store on port %d",
                              s->listeners.port);
    }
    for (size_t i = 0; i < s->listeners.count; i++) {
        e.data.ptr = &s->listeners.fd[i];
        if (epoll_ctl(s->epoll, EPOLL_CTL_ADD, s->listeners.fd[i], &e) != 0) {
            return rdi_fail_errno(RONDO_ERR_SYSTEM, errno, "cannot serve the store on port %d",
                                  s->listeners.port);
        }
    }
    // The program's signals are for the program's threads.
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int err = pthread_create(&s->thread, NULL, run, s);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (err != 0) {
        return rdi_fail_errno(RONDO_ERR_SYSTEM, err, "cannot start the store's thread");
    }
    pthread_setname_np(s->thread, "rondo-store");
    return RONDO_OK;
}

static void release(struct rdi_store_server *s) {
    s->closing = true;
    while (s->strangers.first != NULL) {
        drop(s, s->strangers.first);
    }
    while (s->clients.first != NULL) {
        drop(s, s->clients.first);
    }
    bury(s);
    rdi_data_free(&s->data);
    rdi_listen_close(&s->listeners);
    if (s->stop >= 0) {
        close(s->stop);
    }
    if (s->epoll >= 0) {
        close(s->epoll);
    }
    pthread_mutex_destroy(&s->lock);
    sodium_memzero(&s->job, sizeof s->job);
    free(s);
}

rondo_status rdi_store_server_start_limited(const char *addr, int port, const struct rdi_job *job,
                                            const struct rdi_store_limits *limits,
                                            struct rdi_store_server **out) {
    struct rdi_store_server *s = calloc(1, sizeof *s);
    if (s == NULL) {
        return rdi_fail(RONDO_ERR_NOMEM, "no memory for the store's server");
    }
    s->job = *job;
    s->limits = *limits;
    s->epoll = s->stop = -1;
    pthread_mutex_init(&s->lock, NULL);
    s->check_at = UINT64_MAX;
    rdi_env_system(&s->env, NULL, NULL);
    rondo_status status = RONDO_OK;
    if (!rdi_data_init(&s->data, limits->bytes)) {
        status = rdi_fail(RONDO_ERR_NOMEM, "no memory for the store's server");
    }
    if (status == RONDO_OK) {
        status = rdi_listen(addr, port, &s->listeners);
    }
    if (status == RONDO_OK) {
        status = prepare(s);
    }
    if (status != RONDO_OK) {
        release(s);
        return status;
    }
    *out = s;
    return RONDO_OK;
}

rondo_status rdi_store_server_start(const char *addr, int port, const struct rdi_job *job,
                                    struct rdi_store_server **out) {
    return rdi_store_server_start_limited(addr, port, job, &rdi_store_default_limits, out);
}

int rdi_store_server_port(const struct rdi_store_server *s) { return s->listeners.port; }

uint64_t rdi_store_server_strangers(struct rdi_store_server *s, char *last, size_t cap) {
    pthread_mutex_lock(&s->lock);
    uint64_t n = s->strangers_dropped;
    snprintf(last, cap, "%s", s->last_stranger);
    pthread_mutex_unlock(&s->lock);
    return n;
}

int rdi_store_server_starved(struct rdi_store_server *s) { return atomic_load(&s->starved); }

size_t rdi_store_server_clients(struct rdi_store_server *s) { return atomic_load(&s->clients_now); }

void rdi_store_server_stop(struct rdi_store_server *s) {
    if (s == NULL) {
        return;
    }
    uint64_t one = 1;
    while (write(s->stop, &one, sizeof one) < 0 && errno == EINTR) {}
    pthread_join(s->thread, NULL);
    release(s);
}
