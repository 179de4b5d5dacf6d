// SPDX-License-Identifier: MIT
// The store's server: one thread with epoll, listening sockets, and deadlines. Strangers are
// bounded in number (the oldest gives way), and so is everything that is kept.
#include "transport/bootstrap/store_server.h"
#include "transport/thread.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#define ACCEPT_PAUSE_MS UINT64_C(100) // after the process ran out of descriptors

const struct rdi_store_limits rdi_store_default_limits = {.clients = 16384,
                                                          .strangers = 1024,
                                                          .handshake_ms = 10000,
                                                          .stall_ms = 30000,
                                                          .bytes = (size_t)1 << 30,
                                                          .silence_ms = 60000};

// ---- Accepting, and time ------------------------------------------------------------------------

static void pause_accepting(struct rdi_store_server *s, bool pause) {
    for (size_t i = 0; i < s->listeners.count; i++) {
        struct epoll_event e = {.events = pause ? 0 : EPOLLIN, .data.ptr = &s->listeners.fd[i]};
        epoll_ctl(s->epoll, EPOLL_CTL_MOD, s->listeners.fd[i], &e);
    }
    s->accept_again_at = pause ? rdi_now(&s->env) + ACCEPT_PAUSE_MS * RDI_MS : 0;
    if (pause && s->accept_again_at < s->check_at) {
        s->check_at = s->accept_again_at;
    }
}

static void accept_some(struct rdi_store_server *s, int listener) {
    for (int i = 0; i < 64; i++) {
        int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (fd >= 0) {
            atomic_store(&s->starved, 0);
            rdi_conn_adopt(s, fd);
        } else if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
            int err = errno;
            if (rdi_conn_drop_idle(s)) {
                continue;
            }
            atomic_store(&s->starved, err);
            pause_accepting(s, true); // the listener stays readable: do not spin on it
            return;
        } else if (errno != EINTR && errno != ECONNABORTED) {
            return;
        }
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
    struct rdi_conn_list *lists[] = {&s->strangers, &s->clients};
    for (int i = 0; i < 2; i++) {
        for (struct rdi_conn *c = lists[i]->first, *next; c != NULL; c = next) {
            next = c->next;
            rdi_conn_expire(s, c, now);
        }
    }
}

// ---- The thread ---------------------------------------------------------------------------------

static int sleep_ms(struct rdi_store_server *s) {
    uint64_t now = rdi_now(&s->env);
    uint64_t at = s->tick_at != 0 && s->tick_at < s->check_at ? s->tick_at : s->check_at;
    if (at == UINT64_MAX) {
        return -1;
    }
    uint64_t ms = at > now ? (at - now + RDI_MS - 1) / RDI_MS : 0;
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
                rdi_conn_serve(s, who);
            }
        }
        check_deadlines(s);
        if (n < 64) { // all that was said has been heard
            rdi_roll_tick(s, rdi_now(&s->env));
        }
        rdi_conn_bury(s);
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
    int err = rdi_thread_create(&s->thread, NULL, run, s);
    if (err != 0) {
        return rdi_fail_errno(RONDO_ERR_SYSTEM, err, "cannot start the store's thread");
    }
    pthread_setname_np(s->thread, "rondo-store");
    return RONDO_OK;
}

static void release(struct rdi_store_server *s) {
    s->closing = true;
    while (s->strangers.first != NULL) {
        rdi_conn_drop(s, s->strangers.first);
    }
    while (s->clients.first != NULL) {
        rdi_conn_drop(s, s->clients.first);
    }
    rdi_conn_bury(s);
    rdi_roll_close(s);
    rdi_data_free(&s->data);
    rdi_listen_close(&s->listeners);
    if (s->stop >= 0) {
        close(s->stop);
    }
    if (s->epoll >= 0) {
        close(s->epoll);
    }
    pthread_mutex_destroy(&s->lock);
    rdi_job_clear(&s->job);
    free(s);
}

rondo_status rdi_store_server_start_limited(const char *addr, int port, const struct rdi_job *job,
                                            const struct rdi_store_limits *limits,
                                            struct rdi_store_server **out) {
    struct rdi_store_server *s = calloc(1, sizeof *s);
    if (s == NULL) {
        return rdi_fail(RONDO_ERR_NOMEM, "no memory for the store's server");
    }
    rdi_job_copy(&s->job, job);
    s->limits = *limits;
    s->pid = (int)getpid();
    if (s->job.host[0] == '\0') {
        rdi_host_find(&s->job); // a launcher's job need not know it
    }
    s->epoll = s->stop = -1;
    pthread_mutex_init(&s->lock, NULL);
    s->check_at = UINT64_MAX;
    rdi_env_system(&s->env, NULL, NULL);
    rondo_status status = RONDO_OK;
    if (!rdi_data_init(&s->data, limits->bytes)) {
        status = rdi_fail(RONDO_ERR_NOMEM, "no memory for the store's server");
    }
    if (status == RONDO_OK) {
        status = rdi_listen_soon(addr, port, s->limits.busy_ms, &s->listeners);
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

void rdi_store_server_tell(struct rdi_store_server *s, const char *prefix, rdi_store_told told,
                           void *arg) {
    pthread_mutex_lock(&s->lock);
    if (s->ntell < RDI_STORE_TOLD) {
        s->tell[s->ntell++] = (struct rdi_store_tell){prefix, told, arg};
    }
    pthread_mutex_unlock(&s->lock);
}

void rdi_store_server_log(struct rdi_store_server *s, const struct rdi_env *env) {
    pthread_mutex_lock(&s->lock);
    s->log = *env;
    pthread_mutex_unlock(&s->lock);
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
