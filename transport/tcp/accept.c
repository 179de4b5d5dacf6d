// SPDX-License-Identifier: MIT
// The receiver's side of making connections: strangers, links that begin, links that come back.
//
// Nothing is kept for a connection before it proved the job's key but the connection itself, and of those
// there are at most HALF_OPEN_MAX (fewer where the process may have few descriptors), each for HALF_OPEN_TIME.
#include "transport/tcp/tcp.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#define HALF_OPEN_MAX 256u
#define ACCEPT_AT_ONCE 16        // a crowd at the door must not keep the links waiting
#define IDLE_TIME (250 * RDI_MS) // nobody who knows the key takes so long to say it
#define HALF_OPEN_TIME (10000 * RDI_MS)
#define LOG_EVERY (1000 * RDI_MS)
#define SPARE_RETRY (100 * RDI_MS)
#define SPARE_TIME (1000 * RDI_MS)

// ---- Strangers -----------------------------------------------------------------------------------

static void drop_stranger(struct rdi_tcp_path *p, const char *why) {
    char name[RDI_TCP_NAME];
    rdi_tcp_name(&p->remote, name);
    rdi_net_stranger(&p->net->base, name, why);
    rdi_tcp_path_close(p);
}

// The oldest that was accepted before that time. False: there is none.
static bool drop_oldest_stranger(struct rdi_tcp_net *n, uint64_t before) {
    for (struct rdi_tcp_path *p = n->loose_head; p != NULL; p = p->next) {
        if (p->stage == RDI_TCP_SHAKING && !p->reserve) {
            bool old = p->deadline - HALF_OPEN_TIME <= before;
            if (old) {
                drop_stranger(p, "too many connections at once");
            }
            return old;
        }
    }
    return false;
}

// ---- New connections -----------------------------------------------------------------------------

static void watch_listeners(struct rdi_tcp_net *n, bool on) {
    for (unsigned i = 0; i < n->self.count; i++) {
        struct epoll_event e = {.events = on ? EPOLLIN : 0, .data.ptr = &n->listeners[i]};
        epoll_ctl(n->epfd, EPOLL_CTL_MOD, n->listeners[i].fd, &e);
    }
    n->listening = on;
}

static bool take_connection(struct rdi_tcp_net *n, int fd, bool reserve) {
    struct rdi_tcp_path *p = rdi_tcp_path_new(n, fd, RDI_TCP_SHAKING);
    if (p == NULL) {
        return false;
    }
    p->reserve = reserve;
    rdi_hs_accept(&p->hs, RDI_HS_TCP, n->base.params.job, &n->base.params.env);
    if (n->half_open >= rdi_strangers_max(HALF_OPEN_MAX)) {
        drop_oldest_stranger(n, UINT64_MAX);
    }
    rdi_tcp_loose_add(p, rdi_tcp_now(n) + (reserve ? SPARE_TIME : HALF_OPEN_TIME));
    return true;
}

void rdi_tcp_spare_returned(struct rdi_tcp_net *n) {
    n->spare = open("/dev/null", O_RDONLY | O_CLOEXEC);
    n->spare_at = n->spare < 0 ? rdi_tcp_now(n) + SPARE_RETRY : 0;
    if (n->spare >= 0) {
        watch_listeners(n, true);
    }
}

// The process has no descriptor for the next connection. One that is idle makes room for it. Else the spare one
// serves to tell that peer why, one peer at a time; the others wait in the listeners' queues meanwhile.
static void out_of_descriptors(struct rdi_tcp_net *n, struct rdi_tcp_listener *from) {
    uint64_t now = rdi_tcp_now(n);
    if (drop_oldest_stranger(n, now - IDLE_TIME)) {
        return;
    }
    if (n->limit_logged == 0 || now - n->limit_logged >= LOG_EVERY) {
        char text[160];
        rdi_tcp_limit_text(text, sizeof text);
        rdi_log(&n->base.params.env, RONDO_LOG_ERROR, "cannot accept a connection: %s", text);
        n->limit_logged = now;
    }
    watch_listeners(n, false);
    if (n->spare < 0) {
        n->spare_at = now + SPARE_RETRY;
        return;
    }
    close(n->spare);
    n->spare = -1;
    int fd = accept4(from->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0 || !take_connection(n, fd, true)) {
        rdi_tcp_spare_returned(n);
    }
}

int rdi_tcp_accept(struct rdi_tcp_net *n, struct rdi_tcp_listener *from) {
    int moved = 0;
    while (n->listening && moved < ACCEPT_AT_ONCE) {
        int fd = accept4(from->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd >= 0) {
            moved += take_connection(n, fd, false);
        } else if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
            out_of_descriptors(n, from);
            return moved + 1;
        } else if (errno == EAGAIN) {
            break;
        } else {
            moved++; // that connection is already over: ECONNABORTED, EPROTO and others
        }
    }
    return moved;
}

// ---- Answers -------------------------------------------------------------------------------------

// The last thing to be said to this connection; it stays until the peer has closed it.
static void answer(struct rdi_tcp_path *p, const struct rdi_tcp_reply *r) {
    uint8_t bytes[RDI_HS_PAYLOAD];
    int err;
    rdi_hs_reply(&p->hs, bytes, rdi_tcp_reply_write(r, bytes));
    p->stage = RDI_TCP_ANSWERED;
    p->link = NULL;
    rdi_tcp_loose_add(p, rdi_tcp_now(p->net) + HALF_OPEN_TIME);
    if (rdi_tcp_shake(p, &err) == RDI_TCP_BROKEN) {
        rdi_tcp_path_close(p);
    }
}

static void refuse(struct rdi_tcp_path *p, rondo_status s, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
static void refuse(struct rdi_tcp_path *p, rondo_status s, const char *fmt, ...) {
    struct rdi_tcp_reply r = {.status = s};
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(r.text, sizeof r.text, fmt, ap);
    va_end(ap);
    answer(p, &r);
}

// Tells every parked path the same bad news.
static void refuse_all(struct rdi_tcp_link *l, rondo_status s, const char *text) {
    for (unsigned i = 0; i < l->npaths; i++) {
        struct rdi_tcp_path *p = l->paths[i];
        l->paths[i] = NULL;
        refuse(p, s, "%s", text);
    }
}

// ---- Links ---------------------------------------------------------------------------------------

static struct rdi_tcp_link *find_link(struct rdi_tcp_net *n, const struct rdi_link_id *id,
                                      bool sender) {
    for (struct rdi_tcp_link *l = n->links; l != NULL; l = l->next) {
        const struct rdi_link_id *k = &l->base.id;
        // Ends that are over are only waiting for the engine to close them.
        if (l->base.sender == sender && l->base.state != RDI_LINK_FAILED &&
            l->base.state != RDI_LINK_CLOSED && k->comm == id->comm && k->from == id->from &&
            k->to == id->to && k->channel == id->channel) {
            return l;
        }
    }
    return NULL;
}

// Whether all paths of a CONNECTING link are OPEN: the last reply is with the kernel.
static void check_open(struct rdi_tcp_link *l) {
    for (unsigned i = 0; i < l->npaths; i++) {
        if (l->paths[i] == NULL || l->paths[i]->stage != RDI_TCP_SHAKING ||
            l->paths[i]->hs.state != RDI_HS_DONE) {
            return;
        }
    }
    rdi_tcp_link_up(l);
}

// The sender will start a new attempt with all paths, if it lives.
static void path_failed(struct rdi_tcp_path *p, int err) {
    struct rdi_tcp_link *l = p->link;
    if (l->accepted) {
        rdi_tcp_link_lost(l, p, "closed while connecting", err);
    } else {
        l->paths[p->index] = NULL;
        rdi_tcp_path_close(p);
    }
}

// All paths have proved themselves: asks the engine, then answers.
static void all_parked(struct rdi_tcp_link *l) {
    const struct rdi_net_events *events = l->base.net->params.events;
    if (!l->accepted) {
        l->accepted = true;
        rondo_status s = events->accept(events->self, &l->base);
        if (l->gone) {
            return;
        }
        if (s != RONDO_OK) {
            refuse_all(l, s, rondo_last_error());
            rdi_tcp_link_free(l);
            return;
        }
    }
    struct rdi_tcp_reply r = {.status = RONDO_OK,
                              .slots = l->base.slots,
                              .max_msg = l->base.max_msg,
                              .arrived = l->base.arrived,
                              .released = l->base.released};
    l->told_arrived = r.arrived;
    l->told_released = r.released;
    uint8_t bytes[RDI_HS_PAYLOAD];
    size_t len = rdi_tcp_reply_write(&r, bytes);
    for (unsigned i = 0; i < l->npaths; i++) {
        struct rdi_tcp_path *p = l->paths[i];
        int err;
        rdi_hs_reply(&p->hs, bytes, len);
        p->stage = RDI_TCP_SHAKING;
        rdi_tcp_tune(p->fd, p->net, rdi_tcp_same_ip(&p->local, &p->remote));
        if (rdi_tcp_shake(p, &err) == RDI_TCP_BROKEN) {
            path_failed(p, err);
            return;
        }
    }
    check_open(l);
}

// Nothing of the time before can write or be delivered any more once this returns.
static void begin_epoch(struct rdi_tcp_link *l, const struct rdi_tcp_hello *h) {
    struct rdi_tcp_net *n = rdi_tcp_net_of(l);
    rdi_tcp_link_drop_paths(l);
    for (uint64_t seq = l->base.arrived; seq < l->base.released + l->base.slots; seq++) {
        l->in[seq % l->base.slots].whole = false;
    }
    l->base.epoch = h->epoch;
    l->attempt = h->attempt;
    l->npaths = h->paths;
    l->bye = false;
    l->ack_now = false;
    uint64_t patience = n->grace_ms * RDI_MS;
    l->deadline = rdi_tcp_now(n) + (patience < 1000 * RDI_MS ? 1000 * RDI_MS : patience);
    rdi_tcp_link_state(l, RDI_LINK_CONNECTING);
}

static struct rdi_tcp_link *begin_link(struct rdi_tcp_path *p, const struct rdi_tcp_hello *h) {
    struct rdi_tcp_net *n = p->net;
    struct rdi_tcp_link *l = rdi_tcp_link_new(n, &h->id, false);
    if (l == NULL) {
        refuse(p, RONDO_ERR_NOMEM, "no memory for a link");
        return NULL;
    }
    if (rdi_tcp_link_slots(l, h->slots < n->slots ? h->slots : n->slots,
                           h->max_msg < n->max_msg ? h->max_msg : n->max_msg) != RONDO_OK) {
        refuse(p, RONDO_ERR_NOMEM, "%s", rondo_last_error());
        rdi_tcp_link_free(l);
        return NULL;
    }
    memcpy(l->host, h->host, sizeof l->host);
    l->session = h->session;
    begin_epoch(l, h);
    l->deadline = rdi_tcp_now(n) + HALF_OPEN_TIME;
    return l;
}

// The sender has forgotten this link and opens it anew. What it said before is read first, as it may have
// been good-bye.
static void replace_link(struct rdi_tcp_link *l) {
    for (unsigned i = 0; i < l->npaths && !l->gone && l->base.state == RDI_LINK_UP; i++) {
        rdi_tcp_rx(l->paths[i]);
    }
    if (l->gone) {
        return;
    }
    if (!l->accepted) {
        rdi_tcp_link_free(l);
    } else if (l->base.state != RDI_LINK_CLOSED && l->base.state != RDI_LINK_FAILED) {
        char who[128];
        rdi_tcp_link_fail(l, RONDO_ERR_PEER, "%s dropped this link and opened it anew",
                          rdi_tcp_peer_name(l, who, sizeof who));
    }
}

static bool is_later(const struct rdi_tcp_hello *h, const struct rdi_tcp_link *l) {
    return h->epoch > l->base.epoch || (h->epoch == l->base.epoch && h->attempt > l->attempt);
}

static bool is_awaited(const struct rdi_tcp_hello *h, const struct rdi_tcp_link *l) {
    return h->epoch == l->base.epoch && h->attempt == l->attempt && h->paths == l->npaths &&
           l->base.state == RDI_LINK_CONNECTING && l->paths[h->path] == NULL;
}

// Finds or makes the link that the hello speaks of. NULL: the path was refused.
static struct rdi_tcp_link *link_of_hello(struct rdi_tcp_path *p, const struct rdi_tcp_hello *h) {
    struct rdi_tcp_net *n = p->net;
    const struct rdi_job *job = n->base.params.job;
    struct rdi_tcp_link *l = find_link(n, &h->id, false);
    if (l != NULL && l->session != h->session) {
        replace_link(l);
        l = NULL;
    }
    if (l == NULL) {
        if (h->flags & RDI_TCP_RESUME) {
            refuse(p, RONDO_ERR_PEER, "rank %d on host %s has closed this link", job->rank,
                   job->host);
            return NULL;
        }
        return begin_link(p, h);
    }
    if (is_later(h, l)) {
        begin_epoch(l, h);
    } else if (!is_awaited(h, l)) {
        refuse(p, RONDO_ERR_USAGE, "epoch %u of this link is over", h->epoch);
        return NULL;
    }
    return l;
}

// Where to ask later whether the sender's process lives: the same address, its listener's port.
static void note_probe_address(struct rdi_tcp_link *l, const struct rdi_tcp_path *p,
                               const struct rdi_tcp_hello *h) {
    if (h->port == 0 || h->path != 0) {
        return;
    }
    l->probe_from = p->local;
    l->probe_to = p->remote;
    if (p->remote.ss_family == AF_INET) {
        ((struct sockaddr_in *)&l->probe_to)->sin_port = htons(h->port);
    } else {
        ((struct sockaddr_in6 *)&l->probe_to)->sin6_port = htons(h->port);
    }
}

static void handle_hello(struct rdi_tcp_path *p) {
    struct rdi_tcp_net *n = p->net;
    const struct rdi_job *job = n->base.params.job;
    struct rdi_tcp_hello h;
    rdi_tcp_loose_remove(p);
    p->stage = RDI_TCP_PARKED;
    if (!rdi_tcp_hello_read(&h, p->hs.peer, p->hs.peer_len)) {
        refuse(p, RONDO_ERR_VERSION, "rank %d on host %s does not understand what is wanted",
               job->rank, job->host);
        return;
    }
    // Nobody on the way can change it: the hello is part of what the handshake proved.
    bool sealed = h.flags & RDI_TCP_SEALED;
    if (sealed != n->encrypt) {
        refuse(p, RONDO_ERR_INVALID,
               "rank %d on host %s has encrypt=%s, rank %u on host %s has encrypt=%s: give all "
               "ranks the "
               "same (RONDO_ENCRYPT)",
               job->rank, job->host, n->encrypt ? "yes" : "no", h.id.from, h.host,
               sealed ? "yes" : "no");
        return;
    }
    if (h.flags & RDI_TCP_PROBE) {
        // A receiver asks for a link of ours; we are alive, but do we still have it?
        struct rdi_tcp_link *l = find_link(n, &h.id, true);
        if (l != NULL && l->session == h.session) {
            refuse(p, RONDO_OK, "alive");
        } else {
            refuse(p, RONDO_ERR_PEER, "rank %d on host %s has closed this link", job->rank,
                   job->host);
        }
        return;
    }
    if (p->reserve) {
        char text[160];
        rdi_tcp_limit_text(text, sizeof text);
        refuse(p, RONDO_AGAIN, "rank %d on host %s is %s", job->rank, job->host, text);
        return;
    }
    if (h.id.to != (uint32_t)job->rank || h.id.from >= (uint32_t)job->size) {
        refuse(p, RONDO_ERR_INVALID, "this is rank %d of %d on host %s, not rank %u", job->rank,
               job->size, job->host, h.id.to);
        return;
    }
    struct rdi_tcp_link *l = link_of_hello(p, &h);
    if (l == NULL) {
        return;
    }
    p->link = l;
    p->index = h.path;
    l->paths[h.path] = p;
    note_probe_address(l, p, &h);
    for (unsigned i = 0; i < l->npaths; i++) {
        if (l->paths[i] == NULL || l->paths[i]->stage != RDI_TCP_PARKED) {
            return;
        }
    }
    all_parked(l);
}

// ---- Events and time -----------------------------------------------------------------------------

// A path that has nothing to say for now. Anything but silence ends it.
static void check_silence(struct rdi_tcp_path *p) {
    uint8_t byte;
    ssize_t k = recv(p->fd, &byte, 1, MSG_DONTWAIT);
    if (k >= 0 || (errno != EAGAIN && errno != EINTR)) {
        if (p->link != NULL) {
            path_failed(p, k < 0 ? errno : 0);
        } else {
            rdi_tcp_path_close(p);
        }
    }
}

int rdi_tcp_accept_event(struct rdi_tcp_path *p) {
    int err = 0;
    if (p->stage == RDI_TCP_PARKED ||
        (p->stage == RDI_TCP_ANSWERED && p->hs.state == RDI_HS_DONE)) {
        check_silence(p);
        return 1;
    }
    switch (rdi_tcp_shake(p, &err)) {
    case RDI_TCP_PROVEN:
        handle_hello(p);
        break;
    case RDI_TCP_DONE:
        if (p->link != NULL) {
            check_open(p->link);
        }
        break;
    case RDI_TCP_REFUSED:
        drop_stranger(p, p->hs.why);
        break;
    case RDI_TCP_BROKEN:
        if (p->link != NULL) {
            path_failed(p, err);
        } else if (p->stage == RDI_TCP_ANSWERED) {
            rdi_tcp_path_close(p);
        } else {
            drop_stranger(p, err != 0 ? strerrordesc_np(err) : "closed before it had said enough");
        }
        break;
    case RDI_TCP_WAIT:
        break;
    }
    return 1;
}

void rdi_tcp_accept_tick(struct rdi_tcp_net *n, uint64_t now) {
    if (n->spare_at != 0 && now >= n->spare_at) {
        rdi_tcp_spare_returned(n);
    }
    for (struct rdi_tcp_path *p = n->loose_head, *next; p != NULL; p = next) {
        next = p->next;
        if (now < p->deadline) {
            continue;
        }
        if (p->stage == RDI_TCP_SHAKING) {
            drop_stranger(p, "no handshake within 10 s");
        } else {
            rdi_tcp_path_close(p);
        }
    }
}

void rdi_tcp_accept_timeout(struct rdi_tcp_link *l, uint64_t now) {
    if (now < l->deadline) {
        return;
    }
    if (!l->accepted) {
        rdi_tcp_link_free(l);
        return;
    }
    char who[128];
    unsigned ms = rdi_tcp_net_of(l)->grace_ms;
    if (l->probe_answered) {
        rdi_tcp_link_fail(l, RONDO_ERR_PATH,
                          "the lost connection from %s (%s) did not come back within %u ms, though "
                          "the process lives and can be reached",
                          rdi_tcp_peer_name(l, who, sizeof who), l->reason, ms);
    } else {
        rdi_tcp_link_fail(l, RONDO_ERR_PEER,
                          "the lost connection from %s (%s) did not come back within %u ms, and "
                          "nothing answers there",
                          rdi_tcp_peer_name(l, who, sizeof who), l->reason, ms);
    }
}
