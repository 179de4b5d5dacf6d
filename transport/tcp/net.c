// SPDX-License-Identifier: MIT
// The TCP transport: opening, addresses, progress and sleep.
//
// All sockets are in one epoll set, level triggered; its descriptor is what the driver sleeps on. A caller
// that polls in a loop is served without asking epoll each time: the few paths where something arrived lately
// ("hot") are read directly, which is one system call less in every message's latency.
#include "transport/tcp/tcp.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#define DEFAULT_CHUNK (256u << 10)
#define LATENCY_NS 15000
#define BYTES_PER_S UINT64_C(2000000000)
#define ROUND 64 // calls of progress(busy) with hot paths between two looks at epoll: some 20 us
#define EVENTS 64
#define COLD 4096 // reads of a hot path in a row that find nothing before it is hot no more
#define NETIFS 64

// ---- Opening -------------------------------------------------------------------------------------

// The first address of the same interface.
static size_t first_of(const struct rdi_netif *list, size_t i) {
    size_t first = 0;
    while (strcmp(list[first].name, list[i].name) != 0) {
        first++;
    }
    return first;
}

static void take_address(struct rdi_tcp_blob *self, const struct rdi_rails *rails,
                         const struct rdi_netif *list, size_t i) {
    struct rdi_tcp_addr *a = &self->addr[self->count++];
    a->family = list[i].family == AF_INET ? 4 : 6;
    a->prefix = (uint8_t)list[i].prefix;
    a->loopback = list[i].loopback;
    a->preferred = !a->loopback && rdi_rails_net(rails, list[i].name) != NULL;
    a->scope = list[i].scope;
    memcpy(a->ip, list[i].addr, a->family == 4 ? 4 : 16);
    a->device = (uint8_t)first_of(list, i);
}

// Chooses the addresses, those of decided NICs first; when there are too many, one of loopback stays among them.
static void choose_addresses(struct rdi_tcp_blob *self, const struct rdi_rails *rails,
                             const struct rdi_netif *list, size_t n) {
    size_t loopback = n;
    for (size_t i = n; i-- > 0;) {
        loopback = list[i].loopback ? i : loopback;
    }
    bool reserve = loopback < n && n > RDI_TCP_ADDRS;
    for (int decided = 1; decided >= 0; decided--) {
        for (size_t i = 0; i < n && self->count < RDI_TCP_ADDRS - reserve; i++) {
            bool is = !list[i].loopback && rdi_rails_net(rails, list[i].name) != NULL;
            if (is == (decided == 1) && !(reserve && i == loopback)) {
                take_address(self, rails, list, i);
            }
        }
    }
    if (reserve) {
        take_address(self, rails, list, loopback);
    }
}

// Says once which NICs come first, and why.
static void tell_rails(const struct rdi_net_params *p, const struct rdi_netif *list, size_t n) {
    unsigned found = 0;
    for (size_t i = 0; i < n; i++) {
        const struct rdi_rail *r = rdi_rails_net(p->rails, list[i].name);
        if (r != NULL && !list[i].loopback && first_of(list, i) == i) {
            rdi_log(&p->env, RONDO_LOG_INFO, "tcp: rank %d prefers %s: %s", p->job->rank,
                    list[i].name, r->why);
            found++;
        }
    }
    if (found == 0 && p->rails != NULL && p->rails->count > 0) {
        rdi_log(&p->env, RONDO_LOG_INFO,
                "tcp: no interface that rank %d may use is one of those decided for it (%s%s); all "
                "are as good",
                p->job->rank, p->rails->at[0].net, p->rails->count > 1 ? ", ..." : "");
    }
}

static rondo_status listen_failed(const struct rdi_tcp_addr *a, int err) {
    struct sockaddr_storage s;
    char name[RDI_TCP_NAME], text[160];
    rdi_tcp_sockaddr(a, 0, &s);
    rdi_tcp_name(&s, name);
    if (err == EMFILE || err == ENFILE) {
        rdi_tcp_limit_text(text, sizeof text);
        return rdi_fail(RONDO_ERR_SYSTEM, "cannot listen on %s: %s", name, text);
    }
    return rdi_fail_errno(RONDO_ERR_SYSTEM, err, "cannot listen on %s", name);
}

static rondo_status open_listeners(struct rdi_tcp_net *n, struct rdi_tcp_blob *wanted) {
    int err = 0;
    const struct rdi_tcp_addr *failed = NULL;
    for (unsigned i = 0; i < wanted->count; i++) {
        struct rdi_tcp_addr *a = &wanted->addr[i];
        int fd = rdi_tcp_listen(a);
        if (fd < 0) {
            // An address that just went away, or IPv6 that is switched off, need not stop the others.
            err = -fd;
            failed = a;
            if (err == EMFILE || err == ENFILE) {
                break;
            }
            continue;
        }
        struct rdi_tcp_listener *l = &n->listeners[n->self.count];
        *l = (struct rdi_tcp_listener){.source = RDI_TCP_LISTENER, .fd = fd};
        n->self.addr[n->self.count++] = *a;
        struct epoll_event e = {.events = EPOLLIN, .data.ptr = l};
        if (epoll_ctl(n->epfd, EPOLL_CTL_ADD, fd, &e) != 0) {
            return rdi_fail_errno(RONDO_ERR_SYSTEM, errno, "cannot watch a listening socket");
        }
    }
    if (failed != NULL && (n->self.count == 0 || err == EMFILE || err == ENFILE)) {
        return listen_failed(failed, err);
    }
    n->listening = true;
    return RONDO_OK;
}

static rondo_status open_descriptors(struct rdi_tcp_net *n) {
    n->epfd = epoll_create1(EPOLL_CLOEXEC);
    n->spare = n->epfd >= 0 ? open("/dev/null", O_RDONLY | O_CLOEXEC) : -1;
    if (n->spare >= 0) {
        return RONDO_OK;
    }
    int err = errno;
    if (err == EMFILE || err == ENFILE) {
        char text[160];
        rdi_tcp_limit_text(text, sizeof text);
        return rdi_fail(RONDO_ERR_SYSTEM, "cannot open the tcp transport: %s", text);
    }
    return rdi_fail_errno(RONDO_ERR_SYSTEM, err, "cannot open the tcp transport");
}

static void net_close(struct rdi_net *net) {
    struct rdi_tcp_net *n = (struct rdi_tcp_net *)net;
    while (n->loose_head != NULL) {
        struct rdi_tcp_path *p = n->loose_head;
        p->reserve = false;
        if (p->stage == RDI_TCP_CLOSING) {
            rdi_tcp_linger_event(p); // the last chance for last words
        }
        rdi_tcp_path_close(p);
    }
    while (n->links != NULL) {
        rdi_tcp_link_free(n->links); // those that the engine was never told of
    }
    rdi_tcp_reap(n);
    for (unsigned i = 0; i < n->self.count; i++) {
        close(n->listeners[i].fd);
    }
    if (n->spare >= 0) {
        close(n->spare);
    }
    if (n->epfd >= 0) {
        close(n->epfd);
    }
    free(n);
}

static rondo_status net_open(const struct rdi_net_params *params, struct rdi_net **out) {
    const struct rdi_options *o = params->options;
    struct rdi_netif list[NETIFS];
    struct rdi_tcp_blob wanted = {0};
    size_t count = 0;
    if (o->num[RDI_OPT_ENCRYPT] != 0 && params->job->key == NULL) {
        return rdi_fail(
            RONDO_ERR_INVALID,
            "option encrypt=yes needs a key that others do not have, and this job has none%s: "
            "start it with rondo-run, or give all ranks one with key_file",
            params->job->auth ? "" : " (auth=none)");
    }
    rondo_status s = rdi_netif_list(o, list, NETIFS, &count);
    if (s != RONDO_OK) {
        return s;
    }
    // Who says which interfaces has decided.
    const struct rdi_rails *rails = o->str[RDI_OPT_INTERFACE][0] == '\0' ? params->rails : NULL;
    choose_addresses(&wanted, rails, list, count);
    if (wanted.count == 0) {
        return rdi_fail(RONDO_ERR_UNSUPPORTED,
                        "tcp: no network interface is up, not even loopback");
    }
    struct rdi_tcp_net *n = calloc(1, sizeof *n);
    if (n == NULL) {
        return rdi_fail(RONDO_ERR_NOMEM, "no memory for the tcp transport");
    }
    n->base.ops = &rdi_tcp_ops;
    n->base.params = *params;
    n->base.params.rails = rails;
    n->slots = (uint32_t)o->num[RDI_OPT_SLOTS];
    n->max_msg = o->num[RDI_OPT_CHUNK] != 0 ? (uint32_t)o->num[RDI_OPT_CHUNK] : DEFAULT_CHUNK;
    n->sockets = (unsigned)o->num[RDI_OPT_TCP_SOCKETS];
    n->connect_ms = (unsigned)o->num[RDI_OPT_CONNECT_TIMEOUT];
    n->grace_ms = (unsigned)o->num[RDI_OPT_PATH_GRACE];
    n->encrypt = o->num[RDI_OPT_ENCRYPT] != 0;
    n->base.attr = (struct rdi_net_attr){
        .latency_ns = LATENCY_NS, .bytes_per_s = BYTES_PER_S, .chunk = n->max_msg, .lands = true};
    memcpy(n->self.host_id, params->job->host_id, sizeof n->self.host_id);
    memcpy(n->self.host, params->job->host, sizeof n->self.host);
    s = open_descriptors(n);
    if (s == RONDO_OK) {
        s = open_listeners(n, &wanted);
    }
    if (s != RONDO_OK) {
        net_close(&n->base);
        return s;
    }
    if (!params->narrow) {
        tell_rails(&n->base.params, list, count);
    }
    n->base.params.rails = NULL; // may end before the net does
    *out = &n->base;
    return RONDO_OK;
}

// ---- Addresses -----------------------------------------------------------------------------------

static rondo_status net_address(struct rdi_net *net, void *blob, size_t *len) {
    *len = rdi_tcp_blob_write(&((struct rdi_tcp_net *)net)->self, blob);
    return RONDO_OK;
}

static rondo_status net_reach(struct rdi_net *net, const void *blob, size_t len) {
    struct rdi_tcp_net *n = (struct rdi_tcp_net *)net;
    struct rdi_tcp_blob peer;
    struct rdi_tcp_route routes[RDI_TCP_ROUTES];
    if (!rdi_tcp_blob_read(&peer, blob, len)) {
        return rdi_tcp_blob_fail(blob, len, "a peer");
    }
    if (rdi_tcp_routes(&n->self, &peer, routes) == 0) {
        return rdi_fail(
            RONDO_ERR_UNSUPPORTED,
            "tcp: host %s and this host %s have no pair of addresses of one family that "
            "can talk to each other (loopback does not count); see options interface and "
            "family",
            peer.host, n->self.host);
    }
    return RONDO_OK;
}

// ---- Progress ------------------------------------------------------------------------------------

static int flush_dirty(struct rdi_tcp_net *n, bool all) {
    int moved = 0;
    struct rdi_tcp_link *l = n->dirty, *next;
    n->dirty = NULL;
    for (; l != NULL; l = next) {
        // Only from here on can it get on the new list.
        next = l->next_dirty;
        l->dirty = false;
        if (!l->gone) {
            moved += rdi_tcp_tx_flush(l, all);
        }
    }
    return moved;
}

static int read_path(struct rdi_tcp_path *p) {
    int moved = rdi_tcp_rx(p);
    if (moved > 0 && p->stage == RDI_TCP_OPEN) {
        rdi_tcp_path_heat(p);
    }
    return moved;
}

// Whether somebody waits for what may be there: messages, or an acknowledgement without which the sender
// comes to a halt. All else the look at epoll finds.
static bool worth_reading(const struct rdi_tcp_path *p) {
    const struct rdi_tcp_link *l = p->link;
    return !l->base.sender || l->base.sent < l->ack_wanted ||
           l->base.credit - l->base.posted <= l->base.slots / 4;
}

static int read_hot(struct rdi_tcp_net *n, bool *any) {
    int moved = 0;
    for (int i = 0; i < RDI_TCP_HOT; i++) {
        struct rdi_tcp_path *p = n->hot[i];
        if (p == NULL) {
            continue;
        }
        *any = true;
        if (!worth_reading(p)) {
            continue;
        }
        int k = read_path(p);
        moved += k;
        if (k == 0 && ++p->misses >= COLD) {
            rdi_tcp_path_cool(p);
        }
    }
    return moved;
}

static int path_event(struct rdi_tcp_path *p, uint32_t events) {
    switch (p->stage) {
    case RDI_TCP_CONNECTING:
    case RDI_TCP_READY:
        return rdi_tcp_connect_event(p, events);
    case RDI_TCP_SHAKING:
        return p->hs.connector ? rdi_tcp_connect_event(p, events) : rdi_tcp_accept_event(p);
    case RDI_TCP_PARKED:
    case RDI_TCP_ANSWERED:
        return rdi_tcp_accept_event(p);
    case RDI_TCP_OPEN:
        if (events & EPOLLOUT) {
            // Sending itself is the dirty list's matter.
            rdi_tcp_path_watch(p, EPOLLIN);
        }
        return events & ~(uint32_t)EPOLLOUT ? read_path(p) : 0;
    case RDI_TCP_CLOSING:
        return rdi_tcp_linger_event(p);
    case RDI_TCP_CLOSED:
        break;
    }
    return 0;
}

static void link_tick(struct rdi_tcp_link *l, uint64_t now) {
    if (l->base.sender) {
        rdi_tcp_connect_tick(l, now);
    } else if (l->base.state == RDI_LINK_CONNECTING || l->base.state == RDI_LINK_LOST) {
        if (l->base.state == RDI_LINK_LOST) {
            rdi_tcp_probe_tick(l, now);
        }
        if (l->base.state != RDI_LINK_FAILED) {
            rdi_tcp_accept_timeout(l, now);
        }
    }
}

static void tick(struct rdi_tcp_net *n) {
    if (n->unsettled == 0 && n->loose_head == NULL && n->spare_at == 0 && n->stalls == 0) {
        return;
    }
    uint64_t now = rdi_tcp_now(n);
    rdi_tcp_accept_tick(n, now);
    rdi_tcp_stall_tick(n, now);
    if (n->unsettled == 0) {
        return;
    }
    for (struct rdi_tcp_link *l = n->links, *next; l != NULL; l = next) {
        next = l->next;
        link_tick(l, now);
    }
}

static int look_around(struct rdi_tcp_net *n) {
    struct epoll_event events[EVENTS];
    int moved = 0;
    int count = epoll_wait(n->epfd, events, EVENTS, 0);
    for (int i = 0; i < count; i++) {
        if (*(enum rdi_tcp_source *)events[i].data.ptr == RDI_TCP_LISTENER) {
            moved += rdi_tcp_accept(n, events[i].data.ptr);
        } else {
            moved += path_event(events[i].data.ptr, events[i].events);
        }
    }
    tick(n);
    return moved;
}

static int net_progress(struct rdi_net *net, bool busy) {
    struct rdi_tcp_net *n = (struct rdi_tcp_net *)net;
    bool any_hot = false;
    int moved = 0;
    n->depth++;
    n->tick++;
    if (n->dirty != NULL) {
        moved += flush_dirty(n, false);
    }
    if (busy) {
        moved += read_hot(n, &any_hot);
    }
    if (!any_hot || n->tick % ROUND == 0) {
        moved += look_around(n);
    }
    n->idle = moved > 0 ? 0 : n->idle + 1;
    n->depth--;
    if (n->depth == 0 && (n->dead_paths != NULL || n->dead_links != NULL)) {
        rdi_tcp_reap(n);
    }
    return moved;
}

// ---- Sleep ---------------------------------------------------------------------------------------

static uint64_t next_time(const struct rdi_tcp_net *n) {
    uint64_t at = n->spare_at != 0 ? n->spare_at : UINT64_MAX;
    at = n->stalls > 0 && n->look_at < at ? n->look_at : at;
    for (const struct rdi_tcp_path *p = n->loose_head; p != NULL; p = p->next) {
        at = p->deadline < at ? p->deadline : at;
    }
    for (const struct rdi_tcp_link *l = n->unsettled > 0 ? n->links : NULL; l != NULL;
         l = l->next) {
        bool timed = l->base.state == RDI_LINK_CONNECTING ||
                     (l->base.state == RDI_LINK_LOST && !l->base.sender);
        uint64_t t = timed ? rdi_tcp_connect_next(l) : UINT64_MAX;
        at = t < at ? t : at;
    }
    return at;
}

static rondo_status net_arm(struct rdi_net *net, uint64_t *timeout_ns) {
    struct rdi_tcp_net *n = (struct rdi_tcp_net *)net;
    flush_dirty(n, true);
    for (struct rdi_tcp_link *l = n->dirty; l != NULL; l = l->next_dirty) {
        for (unsigned i = 0; i < l->npaths && l->base.state == RDI_LINK_UP; i++) {
            if (rdi_tcp_tx_pending(l->paths[i]) && !l->paths[i]->tx.dead) {
                rdi_tcp_path_watch(l->paths[i], EPOLLIN | EPOLLOUT);
            }
        }
    }
    uint64_t at = next_time(n);
    if (at != UINT64_MAX) {
        uint64_t now = rdi_tcp_now(n);
        uint64_t left = at > now ? at - now : 0;
        *timeout_ns = left < *timeout_ns ? left : *timeout_ns;
    }
    return RONDO_OK;
}

// What arm() watches is left so: a path that can send again makes the descriptor readable, and progress()
// then stops watching for it.
static void net_disarm(struct rdi_net *net) { (void)net; }

static int net_fd(struct rdi_net *net) { return ((struct rdi_tcp_net *)net)->epfd; }

// ---- For tests -----------------------------------------------------------------------------------

bool rdi_tcp_test_cut(struct rdi_link *link, unsigned path) {
    struct rdi_tcp_link *l = (struct rdi_tcp_link *)link;
    if (link->state != RDI_LINK_UP || path >= l->npaths) {
        return false;
    }
    return shutdown(l->paths[path]->fd, SHUT_RDWR) == 0;
}

unsigned rdi_tcp_test_paths(const struct rdi_link *link) {
    return ((const struct rdi_tcp_link *)link)->npaths;
}

const struct rdi_net_ops rdi_tcp_ops = {
    .size = sizeof(struct rdi_net_ops),
    .name = "tcp",
    .open = net_open,
    .close = net_close,
    .address = net_address,
    .reach = net_reach,
    .connect = rdi_tcp_op_connect,
    .put = rdi_tcp_op_put,
    .peek = rdi_tcp_op_peek,
    .release = rdi_tcp_op_release,
    .ctrl = rdi_tcp_op_ctrl,
    .delivered = rdi_tcp_op_delivered,
    .reset = rdi_tcp_op_reset,
    .close_link = rdi_tcp_op_close_link,
    .progress = net_progress,
    .arm = net_arm,
    .disarm = net_disarm,
    .fd = net_fd,
    .describe = rdi_tcp_op_describe,
};
