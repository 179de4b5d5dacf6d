// SPDX-License-Identifier: MIT
// One connection: its life and lists, what epoll watches, the handshake's bytes, and the orderly end.
#include "transport/tcp/tcp.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#define LINGER (10000 * RDI_MS)

// ---- Life ----------------------------------------------------------------------------------------

struct rdi_tcp_path *rdi_tcp_path_new(struct rdi_tcp_net *n, int fd, enum rdi_tcp_stage stage) {
    struct rdi_tcp_path *p = malloc(sizeof *p);
    if (p == NULL) {
        close(fd);
        return NULL;
    }
    // The buffers need no zeros, and most of their pages will never be touched.
    memset(p, 0, offsetof(struct rdi_tcp_path, hs));
    memset(&p->rx, 0, offsetof(struct rdi_tcp_rx, buf));
    memset(&p->tx, 0, offsetof(struct rdi_tcp_tx, ctl));
    p->source = RDI_TCP_PATH;
    p->stage = stage;
    p->net = n;
    p->fd = fd;
    p->events = EPOLLIN;
    struct epoll_event e = {.events = p->events, .data.ptr = p};
    if (epoll_ctl(n->epfd, EPOLL_CTL_ADD, fd, &e) != 0) {
        int err = errno;
        close(fd);
        free(p);
        errno = err;
        return NULL;
    }
    socklen_t len = sizeof p->local;
    getsockname(fd, (struct sockaddr *)&p->local, &len);
    len = sizeof p->remote;
    getpeername(fd, (struct sockaddr *)&p->remote, &len);
    return p;
}

void rdi_tcp_path_cool(struct rdi_tcp_path *p) {
    for (int i = 0; i < RDI_TCP_HOT && p->hot; i++) {
        if (p->net->hot[i] == p) {
            p->net->hot[i] = NULL;
            p->hot = false;
        }
    }
}

void rdi_tcp_path_close(struct rdi_tcp_path *p) {
    if (p->stage == RDI_TCP_CLOSED) {
        return;
    }
    struct rdi_tcp_net *n = p->net;
    rdi_tcp_loose_remove(p);
    rdi_tcp_path_cool(p);
    // A child made by fork() may hold the socket too: close() alone would neither end the connection nor
    // take it out of epoll.
    epoll_ctl(n->epfd, EPOLL_CTL_DEL, p->fd, NULL);
    shutdown(p->fd, SHUT_RDWR);
    close(p->fd);
    rdi_tcp_sealed_end(p);
    p->fd = -1;
    p->stage = RDI_TCP_CLOSED;
    p->next = n->dead_paths;
    n->dead_paths = p;
    if (p->reserve) {
        rdi_tcp_spare_returned(n);
    }
}

void rdi_tcp_reap(struct rdi_tcp_net *n) {
    while (n->dead_paths != NULL) {
        struct rdi_tcp_path *p = n->dead_paths;
        n->dead_paths = p->next;
        free(p->sealed);
        free(p);
    }
    while (n->dead_links != NULL) {
        struct rdi_tcp_link *l = n->dead_links;
        n->dead_links = l->next;
        free(l);
    }
}

void rdi_tcp_path_watch(struct rdi_tcp_path *p, uint32_t events) {
    if (p->events != events && p->stage != RDI_TCP_CLOSED) {
        struct epoll_event e = {.events = events, .data.ptr = p};
        if (epoll_ctl(p->net->epfd, EPOLL_CTL_MOD, p->fd, &e) == 0) {
            p->events = events;
        }
    }
}

void rdi_tcp_path_forget(struct rdi_tcp_path *p) {
    epoll_ctl(p->net->epfd, EPOLL_CTL_DEL, p->fd, NULL);
}

void rdi_tcp_path_heat(struct rdi_tcp_path *p) {
    struct rdi_tcp_net *n = p->net;
    p->misses = 0;
    if (p->hot) {
        return;
    }
    int at = 0;
    for (int i = 0; i < RDI_TCP_HOT; i++) {
        if (n->hot[i] == NULL) {
            at = i;
            break;
        }
        if (n->hot[i]->misses > n->hot[at]->misses) {
            at = i;
        }
    }
    if (n->hot[at] != NULL) {
        n->hot[at]->hot = false;
    }
    n->hot[at] = p;
    p->hot = true;
}

// ---- Paths without a link ------------------------------------------------------------------------

static bool counts_as_half_open(const struct rdi_tcp_path *p) {
    return p->stage == RDI_TCP_SHAKING && !p->hs.connector;
}

void rdi_tcp_loose_add(struct rdi_tcp_path *p, uint64_t deadline) {
    struct rdi_tcp_net *n = p->net;
    p->deadline = deadline;
    p->next = NULL;
    p->prev = n->loose_tail;
    *(n->loose_tail != NULL ? &n->loose_tail->next : &n->loose_head) = p;
    n->loose_tail = p;
    n->half_open += counts_as_half_open(p);
}

void rdi_tcp_loose_remove(struct rdi_tcp_path *p) {
    struct rdi_tcp_net *n = p->net;
    if (p->prev == NULL && n->loose_head != p) {
        return;
    }
    *(p->prev != NULL ? &p->prev->next : &n->loose_head) = p->next;
    *(p->next != NULL ? &p->next->prev : &n->loose_tail) = p->prev;
    p->prev = p->next = NULL;
    n->half_open -= counts_as_half_open(p);
}

// ---- Handshake -----------------------------------------------------------------------------------

// False: the socket failed. *flushed tells whether everything is in the kernel.
static bool send_handshake(struct rdi_tcp_path *p, bool *flushed, int *err) {
    struct rdi_hs *hs = &p->hs;
    *flushed = true;
    while (hs->out_off < hs->out_len) {
        ssize_t k = send(p->fd, hs->out + hs->out_off, hs->out_len - hs->out_off,
                         MSG_DONTWAIT | MSG_NOSIGNAL);
        if (k > 0) {
            rdi_hs_sent(hs, (size_t)k);
        } else if (errno == EAGAIN) {
            *flushed = false;
            return true;
        } else if (errno != EINTR) {
            *err = errno;
            return false;
        }
    }
    return true;
}

static enum rdi_tcp_shaken verdict(const struct rdi_hs *hs) {
    switch (hs->state) {
    case RDI_HS_NEED_REPLY:
        return RDI_TCP_PROVEN;
    case RDI_HS_DONE:
        return RDI_TCP_DONE;
    case RDI_HS_FAILED:
        return RDI_TCP_REFUSED;
    case RDI_HS_RUNNING:
        break;
    }
    return RDI_TCP_WAIT;
}

enum rdi_tcp_shaken rdi_tcp_shake(struct rdi_tcp_path *p, int *err) {
    *err = 0;
    for (;;) {
        bool flushed;
        if (!send_handshake(p, &flushed, err)) {
            return RDI_TCP_BROKEN;
        }
        // Both ends speak in turn: while our words are not out there is nothing to read.
        rdi_tcp_path_watch(p, flushed ? EPOLLIN : EPOLLOUT);
        enum rdi_tcp_shaken v = verdict(&p->hs);
        if (v != RDI_TCP_WAIT || !flushed) {
            return v;
        }
        uint8_t bytes[RDI_HS_BUFFER];
        ssize_t k = recv(p->fd, bytes, sizeof bytes, MSG_DONTWAIT);
        if (k < 0 && errno == EINTR) {
            continue;
        }
        if (k < 0 && errno == EAGAIN) {
            return RDI_TCP_WAIT;
        }
        if (k <= 0) {
            *err = k < 0 ? errno : 0;
            return RDI_TCP_BROKEN;
        }
        size_t used;
        rdi_hs_input(&p->hs, bytes, (size_t)k, &used);
        if (used < (size_t)k) {
            // The first frames may come right behind the welcome. Nobody else may go on before an answer.
            if (p->hs.state == RDI_HS_DONE && p->hs.connector) {
                p->rx.fill = (uint32_t)((size_t)k - used);
                memcpy(p->rx.buf, bytes + used, p->rx.fill);
            } else if (p->hs.state == RDI_HS_NEED_REPLY) {
                return RDI_TCP_BROKEN;
            }
        }
    }
}

// ---- The orderly end -----------------------------------------------------------------------------

static uint32_t last_words(const struct rdi_tcp_path *p) {
    return p->sealed != NULL ? p->sealed->out_len : p->tx.ctl_len;
}

static ssize_t say_last_words(struct rdi_tcp_path *p) {
    struct rdi_tcp_tx *t = &p->tx;
    if (p->sealed != NULL) {
        return rdi_tcp_sealed_send(p);
    }
    ssize_t k = send(p->fd, t->ctl + t->ctl_off, t->ctl_len, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (k > 0) {
        t->ctl_off += (uint32_t)k;
        t->ctl_len -= (uint32_t)k;
    }
    return k;
}

int rdi_tcp_linger_event(struct rdi_tcp_path *p) {
    while (last_words(p) > 0) {
        ssize_t k = say_last_words(p);
        if (k < 0 && errno == EINTR) {
            continue;
        }
        if (k < 0) {
            if (errno != EAGAIN) {
                rdi_tcp_path_close(p);
            }
            return 1;
        }
        if (last_words(p) == 0) {
            shutdown(p->fd, SHUT_WR);
            rdi_tcp_path_watch(p, EPOLLIN);
        }
    }
    // What the peer still sends is read and thrown away: closing over it would reset the connection, and
    // our last words with it.
    for (int i = 0; i < 64; i++) {
        ssize_t k = recv(p->fd, p->rx.buf, sizeof p->rx.buf, MSG_DONTWAIT);
        if (k < 0 && errno == EAGAIN) {
            return 1;
        }
        if (k == 0 || (k < 0 && errno != EINTR)) {
            rdi_tcp_path_close(p);
            return 1;
        }
    }
    return 1;
}

void rdi_tcp_path_linger(struct rdi_tcp_path *p) {
    if (p->over) { // its peer wants no words any more
        rdi_tcp_path_close(p);
        return;
    }
    rdi_tcp_path_cool(p);
    p->link = NULL;
    p->stage = RDI_TCP_CLOSING;
    rdi_tcp_loose_add(p, rdi_tcp_now(p->net) + LINGER);
    if (p->sealed != NULL) {
        rdi_tcp_sealed_last(p);
    }
    if (last_words(p) == 0) {
        shutdown(p->fd, SHUT_WR);
    }
    rdi_tcp_path_watch(p, last_words(p) > 0 ? EPOLLIN | EPOLLOUT : EPOLLIN);
    rdi_tcp_linger_event(p);
}
