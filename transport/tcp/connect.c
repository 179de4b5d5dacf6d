// SPDX-License-Identifier: MIT
// The sender's side of making connections: attempts, what a failed one means, rails that are given up for
// others; and the receiver's question to a silent sender.
//
// An attempt opens all paths of a link at once. When one fails all are closed and a new attempt follows,
// because the receiver answers only when it has all of them. What is final: the peer has another key or
// version, refuses the link, or nobody listens any more where somebody did.
#include "transport/tcp/tcp.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>

#define BACKOFF_MIN 10 // ms between attempts, doubled each time
#define BACKOFF_MAX 500
#define REFUSED_PATIENCE (3000 * RDI_MS)    // a peer that refuses for so long will not come
#define PROMPT_PATIENCE (30 * RDI_MS)       // ... where it listened before we knew its address
#define RAIL_PATIENCE (3000 * RDI_MS)       // a rail that others are so far ahead of is given up
#define LOST_RAIL_PATIENCE (1000 * RDI_MS)  // the same, of a rail that may be why the link was lost
#define PROMPT_RAIL_PATIENCE (500 * RDI_MS) // ... where silence is soon taken for more
#define REDIAL (300 * RDI_MS)               // the kernel would repeat itself less and less often
#define OTHERS_TEXT 220                     // bytes of the list of paths that were tried

// ---- Attempts ------------------------------------------------------------------------------------

// Those of the greatest worth that are not given up, or the first of them.
static unsigned usable_routes(const struct rdi_tcp_link *l, unsigned out[RDI_TCP_ADDRS]) {
    unsigned n = 0, most = l->base.net->params.narrow ? 1 : RDI_TCP_ADDRS;
    for (unsigned i = 0; i < l->nroutes && n < most; i++) {
        if (!l->down[i] && (n == 0 || l->routes[i].worth == l->routes[out[0]].worth)) {
            out[n++] = i;
        }
    }
    return n;
}

static void say_hello(struct rdi_tcp_path *p, const struct rdi_tcp_link *l, unsigned flags) {
    struct rdi_tcp_net *n = p->net;
    struct rdi_tcp_hello h = {.flags = flags | (n->encrypt ? (unsigned)RDI_TCP_SEALED : 0u),
                              .id = l->base.id,
                              .session = l->session,
                              .epoch = l->base.epoch,
                              .attempt = l->attempt,
                              .path = p->index,
                              .paths = l->npaths,
                              .slots = l->base.slots != 0 ? l->base.slots : n->slots,
                              .max_msg = l->base.max_msg != 0 ? l->base.max_msg : n->max_msg,
                              .port = l->base.sender ? l->routes[p->route].local.port : 0};
    memcpy(h.host, n->self.host, sizeof h.host);
    uint8_t bytes[RDI_HS_PAYLOAD];
    size_t len = rdi_tcp_hello_write(&h, bytes);
    rdi_hs_connect(&p->hs, RDI_HS_TCP, n->base.params.job, &n->base.params.env, bytes, len);
}

static void fail_no_descriptor(struct rdi_tcp_link *l) {
    char text[160], who[128];
    rdi_tcp_limit_text(text, sizeof text);
    rdi_tcp_link_fail(l, RONDO_ERR_SYSTEM, "cannot connect to %s: %s",
                      rdi_tcp_peer_name(l, who, sizeof who), text);
}

// One more path of the running attempt. 0 or -errno.
static int dial(struct rdi_tcp_link *l, unsigned index, unsigned route) {
    struct sockaddr_storage from, to;
    const struct rdi_tcp_route *r = &l->routes[route];
    struct rdi_tcp_addr remote = r->remote;
    remote.scope = r->local.scope; // the peer's zone numbers mean nothing here
    rdi_tcp_sockaddr(&r->local, 0, &from);
    rdi_tcp_sockaddr(&remote, remote.port, &to);
    int fd = rdi_tcp_dial(&from, &to);
    if (fd < 0) {
        return fd;
    }
    struct rdi_tcp_path *p = rdi_tcp_path_new(rdi_tcp_net_of(l), fd, RDI_TCP_CONNECTING);
    if (p == NULL) {
        return errno != 0 ? -errno : -ENOMEM;
    }
    p->link = l;
    p->index = index;
    p->route = route;
    p->remote = to;
    l->paths[index] = p;
    rdi_tcp_path_watch(p, EPOLLOUT);
    return 0;
}

static void attempt_failed(struct rdi_tcp_link *l, unsigned route, rondo_status s, int err,
                           const char *what);

void rdi_tcp_connect_start(struct rdi_tcp_link *l) {
    struct rdi_tcp_net *n = rdi_tcp_net_of(l);
    unsigned routes[RDI_TCP_ADDRS];
    unsigned usable = usable_routes(l, routes);
    l->others = usable < l->nroutes;
    l->attempt++;
    l->attempt_at = rdi_tcp_now(n);
    if (l->tried_at == 0) {
        l->tried_at = l->attempt_at;
    }
    l->retry_at = 0;
    l->npaths = usable * (n->base.params.narrow ? 1 : n->sockets);
    for (unsigned i = 0; i < l->npaths; i++) {
        unsigned route = routes[i % usable];
        int err = -dial(l, i, route);
        if (err == EMFILE || err == ENFILE) {
            fail_no_descriptor(l);
            return;
        }
        if (err != 0) {
            attempt_failed(l, route, RONDO_ERR_PATH, err, "connect");
            return;
        }
    }
}

// ---- Failed attempts -----------------------------------------------------------------------------

static void describe_failure(struct rdi_tcp_link *l, unsigned route, int err, const char *what) {
    struct sockaddr_storage to;
    char local[RDI_TCP_NAME], remote[RDI_TCP_NAME], who[128], buffer[96];
    rdi_tcp_ip(&l->routes[route].local, local);
    rdi_tcp_sockaddr(&l->routes[route].remote, l->routes[route].remote.port, &to);
    rdi_tcp_name(&to, remote);
    snprintf(l->reason, sizeof l->reason, "%s (%s, from %s): %s%s%s",
             rdi_tcp_peer_name(l, who, sizeof who), remote, local, what, err != 0 ? ": " : "",
             err != 0 ? strerror_r(err, buffer, sizeof buffer) : "");
}

// A rail that fails while there are others is left out until the next reset.
static void give_up_rail(struct rdi_tcp_link *l, unsigned route) {
    unsigned routes[RDI_TCP_ADDRS];
    l->tried_at = 0;
    l->down[route] = true;
    if (usable_routes(l, routes) == 0) {
        memset(l->down, 0, sizeof l->down);
        return;
    }
    bool told = l->told >> route & 1;
    l->told |= 1u << route;
    rdi_log(&l->base.net->params.env, told ? RONDO_LOG_DEBUG : RONDO_LOG_WARN,
            "going on without a path to %s", l->reason);
}

void rdi_tcp_leave_suspect(struct rdi_tcp_link *l) {
    if (l->suspect != 0) {
        describe_failure(l, l->suspect - 1, 0, "silent");
        give_up_rail(l, l->suspect - 1);
        l->suspect = 0;
    }
}

// Nobody listens where the peer listened.
static void gone(struct rdi_tcp_link *l, const struct sockaddr_storage *where) {
    char who[128], remote[RDI_TCP_NAME];
    rdi_tcp_name(where, remote);
    rdi_tcp_link_fail(l, RONDO_ERR_PEER,
                      "%s (%s) is gone: connection refused; its own output may tell why it ended",
                      rdi_tcp_peer_name(l, who, sizeof who), remote);
}

static void route_gone(struct rdi_tcp_link *l, unsigned route) {
    struct sockaddr_storage to;
    rdi_tcp_sockaddr(&l->routes[route].remote, l->routes[route].remote.port, &to);
    gone(l, &to);
}

static void attempt_failed(struct rdi_tcp_link *l, unsigned route, rondo_status s, int err,
                           const char *what) {
    struct rdi_tcp_net *n = rdi_tcp_net_of(l);
    uint64_t now = rdi_tcp_now(n);
    describe_failure(l, route, err, what);
    l->reason_status = s;
    rdi_tcp_link_drop_paths(l);
    if (err == ECONNREFUSED || s == RONDO_AGAIN) {
        // Nobody listens there. Who listened once is gone for good; else it may be about to come.
        if (l->was_up && err == ECONNREFUSED) {
            route_gone(l, route);
            return;
        }
        l->refused_route = route;
        l->refused_since = l->refused_since != 0 ? l->refused_since : now;
    } else {
        l->refused_since = 0;
        if (err != 0 && err != ECONNRESET && err != EPIPE && l->nroutes > 1) {
            give_up_rail(l, route);
        }
    }
    l->backoff_ms = l->backoff_ms == 0 ? BACKOFF_MIN : 2 * l->backoff_ms;
    l->backoff_ms = l->backoff_ms > BACKOFF_MAX ? BACKOFF_MAX : l->backoff_ms;
    l->retry_at = now + l->backoff_ms * RDI_MS;
}

// "; the paths that were tried: 10.0.0.1 to 10.0.0.2, 10.0.1.1 to 10.0.1.2 and 2 more", or nothing where there is one only.
static void name_others(const struct rdi_tcp_link *l, char out[OTHERS_TEXT]) {
    static const char more[] = " and 99 more";
    size_t n = 0;
    out[0] = '\0';
    for (unsigned i = 0; i < l->nroutes && l->nroutes > 1; i++) {
        char local[RDI_TCP_NAME], remote[RDI_TCP_NAME], item[2 * RDI_TCP_NAME + 64];
        rdi_tcp_ip(&l->routes[i].local, local);
        rdi_tcp_ip(&l->routes[i].remote, remote);
        size_t len = (size_t)snprintf(item, sizeof item, "%s%s to %s",
                                      i == 0 ? "; the paths that were tried: " : ", ", local,
                                      remote);
        if (n + len + sizeof more > OTHERS_TEXT) {
            snprintf(out + n, OTHERS_TEXT - n, " and %u more", l->nroutes - i);
            return;
        }
        memcpy(out + n, item, len + 1);
        n += len;
    }
}

static void give_up(struct rdi_tcp_link *l) {
    struct rdi_tcp_net *n = rdi_tcp_net_of(l);
    char others[OTHERS_TEXT];
    if (l->reason[0] == '\0') {
        describe_failure(l, 0, 0, "no answer");
    }
    name_others(l, others);
    if (l->was_up) {
        rdi_tcp_link_fail(l, RONDO_ERR_PATH, "the lost path did not come back within %u ms: %s%s",
                          n->grace_ms, l->reason, others);
    } else {
        rdi_tcp_link_fail(l, RONDO_ERR_TIMEOUT,
                          "no connection within %u ms: %s%s; check that the address is the right "
                          "one (option interface) and no firewall is between",
                          n->connect_ms, l->reason, others);
    }
}

// ---- Answers -------------------------------------------------------------------------------------

static void all_ready(struct rdi_tcp_link *l, const struct rdi_tcp_reply *r) {
    struct rdi_link *b = &l->base;
    char who[128];
    if (l->was_up && (r->slots != b->slots || r->max_msg != b->max_msg || r->arrived < b->sent ||
                      r->arrived > b->posted)) {
        rdi_tcp_link_fail(l, RONDO_ERR_INTERNAL, "%s resumes a link with numbers that do not fit",
                          rdi_tcp_peer_name(l, who, sizeof who));
        return;
    }
    if (!l->was_up && (r->slots == 0 || r->slots > rdi_tcp_net_of(l)->slots ||
                       r->max_msg > rdi_tcp_net_of(l)->max_msg || r->arrived != 0)) {
        rdi_tcp_link_fail(l, RONDO_ERR_INTERNAL, "%s opens a link with numbers that do not fit",
                          rdi_tcp_peer_name(l, who, sizeof who));
        return;
    }
    if (l->out == NULL && rdi_tcp_link_slots(l, r->slots, r->max_msg) != RONDO_OK) {
        rdi_tcp_link_fail(l, RONDO_ERR_NOMEM, "%s", rondo_last_error());
        return;
    }
    b->posted = b->sent = r->arrived;
    b->credit = r->released + b->slots;
    rdi_tcp_link_up(l);
    for (unsigned i = 0; i < l->npaths && b->state == RDI_LINK_UP; i++) {
        if (rdi_tcp_rx_waits(l->paths[i])) {
            rdi_tcp_rx(l->paths[i]);
        }
    }
}

static void refused(struct rdi_tcp_link *l, const struct rdi_tcp_path *p,
                    const struct rdi_tcp_reply *r) {
    if (r->status == RONDO_AGAIN) {
        attempt_failed(l, p->route, RONDO_AGAIN, 0, r->text);
        return;
    }
    char who[128];
    l->base.answered = true;
    rdi_tcp_link_fail(l, r->status, "refused by %s: %s", rdi_tcp_peer_name(l, who, sizeof who),
                      r->text);
}

static void answered(struct rdi_tcp_path *p) {
    struct rdi_tcp_link *l = p->link;
    struct rdi_tcp_reply r;
    char who[128];
    if (!rdi_tcp_reply_read(&r, p->hs.peer, p->hs.peer_len)) {
        rdi_tcp_link_fail(l, RONDO_ERR_VERSION,
                          "%s answers in a way that this version does not know",
                          rdi_tcp_peer_name(l, who, sizeof who));
        return;
    }
    if (r.status != RONDO_OK) {
        refused(l, p, &r);
        return;
    }
    p->stage = RDI_TCP_READY;
    rdi_tcp_path_watch(p, 0); // frames wait until all paths are ready
    for (unsigned i = 0; i < l->npaths; i++) {
        if (l->paths[i]->stage != RDI_TCP_READY) {
            return;
        }
    }
    all_ready(l, &r);
}

// ---- Events --------------------------------------------------------------------------------------

static bool same_address(const struct sockaddr_storage *a, const struct sockaddr_storage *b) {
    char x[RDI_TCP_NAME], y[RDI_TCP_NAME];
    rdi_tcp_name(a, x);
    rdi_tcp_name(b, y);
    return strcmp(x, y) == 0;
}

// The connection stands or has failed: 0 or an errno.
static int connected(struct rdi_tcp_path *p) {
    int err = 0;
    socklen_t len = sizeof err;
    if (getsockopt(p->fd, SOL_SOCKET, SO_ERROR, &err, &len) != 0) {
        err = errno;
    }
    len = sizeof p->local;
    getsockname(p->fd, (struct sockaddr *)&p->local, &len);
    // Within a host, connecting to a port that nobody listens on can meet itself.
    return err == 0 && same_address(&p->local, &p->remote) ? ECONNREFUSED : err;
}

static void probe_over(struct rdi_tcp_link *l, bool alive) {
    rdi_tcp_path_close(l->probe);
    l->probe = NULL;
    l->probe_answered = l->probe_answered || alive;
}

static void probe_event(struct rdi_tcp_path *p) {
    struct rdi_tcp_link *l = p->link;
    struct rdi_tcp_reply r;
    int err = 0;
    if (p->stage == RDI_TCP_CONNECTING) {
        err = connected(p);
        if (err == ECONNREFUSED) {
            gone(l, &p->remote);
            return;
        }
        if (err != 0) {
            probe_over(l, false);
            return;
        }
        p->stage = RDI_TCP_SHAKING;
        say_hello(p, l, RDI_TCP_PROBE);
    }
    enum rdi_tcp_shaken s = rdi_tcp_shake(p, &err);
    if (s == RDI_TCP_WAIT) {
        return;
    }
    bool alive = s == RDI_TCP_DONE && rdi_tcp_reply_read(&r, p->hs.peer, p->hs.peer_len);
    probe_over(l, alive);
    if (alive && r.status != RONDO_OK && r.status != RONDO_AGAIN) {
        char who[128];
        rdi_tcp_link_fail(l, RONDO_ERR_PEER, "%s ended a link without good-bye: %s",
                          rdi_tcp_peer_name(l, who, sizeof who), r.text);
    }
}

int rdi_tcp_connect_event(struct rdi_tcp_path *p, uint32_t events) {
    struct rdi_tcp_link *l = p->link;
    int err = 0;
    if (p->probe) {
        probe_event(p);
        return 1;
    }
    if (p->stage == RDI_TCP_READY) {
        if (events & (EPOLLHUP | EPOLLERR)) {
            attempt_failed(l, p->route, RONDO_ERR_PATH, 0, "closed while connecting");
        }
        return 1;
    }
    if (p->stage == RDI_TCP_CONNECTING) {
        err = connected(p);
        if (err != 0) {
            attempt_failed(l, p->route, RONDO_ERR_PATH, err, "connect");
            return 1;
        }
        p->stage = RDI_TCP_SHAKING;
        l->tried_at = rdi_tcp_now(p->net);
        rdi_tcp_tune(p->fd, p->net, rdi_tcp_same_ip(&p->local, &p->remote));
        say_hello(p, l, l->was_up ? RDI_TCP_RESUME : 0);
    }
    switch (rdi_tcp_shake(p, &err)) {
    case RDI_TCP_DONE:
        answered(p);
        break;
    case RDI_TCP_REFUSED: {
        char who[128], remote[RDI_TCP_NAME];
        rdi_tcp_name(&p->remote, remote);
        // Where our peer listened, now somebody else does.
        rondo_status s = l->was_up ? RONDO_ERR_PEER : p->hs.error;
        rdi_tcp_link_fail(l, s, "%s (%s): %s", rdi_tcp_peer_name(l, who, sizeof who), remote,
                          p->hs.why);
        break;
    }
    case RDI_TCP_BROKEN:
        attempt_failed(l, p->route, RONDO_ERR_PATH, err, "closed during the handshake");
        break;
    case RDI_TCP_WAIT:
    case RDI_TCP_PROVEN:
        break;
    }
    return 1;
}

// ---- Time ----------------------------------------------------------------------------------------

// A path that still waits for its connection while another rail's is already there: its rail is dead.
static const struct rdi_tcp_path *slow_path(const struct rdi_tcp_link *l) {
    const struct rdi_tcp_path *slow = NULL;
    bool others = false;
    for (unsigned i = 0; i < l->npaths; i++) {
        if (l->nroutes < 2 || l->retry_at != 0 || l->paths[i] == NULL) {
            return NULL;
        }
        if (l->paths[i]->stage == RDI_TCP_CONNECTING) {
            slow = l->paths[i];
        } else {
            others = true;
        }
    }
    return others ? slow : NULL;
}

// There is to be time for the others before the link is given up.
static uint64_t rail_patience(const struct rdi_tcp_link *l) {
    const struct rdi_tcp_net *n = rdi_tcp_net_of(l);
    uint64_t most = !l->was_up              ? RAIL_PATIENCE
                    : n->base.params.prompt ? PROMPT_RAIL_PATIENCE
                                            : LOST_RAIL_PATIENCE;
    uint64_t part = (l->was_up ? n->grace_ms : n->connect_ms) * RDI_MS / 4;
    return part < most ? part : most;
}

static bool is_unanswered(const struct rdi_tcp_link *l) {
    for (unsigned i = 0; i < l->npaths; i++) {
        if (l->paths[i] == NULL || l->paths[i]->stage != RDI_TCP_CONNECTING) {
            return false;
        }
    }
    return l->retry_at == 0;
}

// Nothing answers where the peer was: the network is away, and may come back at any time.
static bool is_away(const struct rdi_tcp_link *l) { return l->was_up && is_unanswered(l); }

// Nothing answers on any of the rails in use, and there are others, less good or given up before.
static void leave_rails(struct rdi_tcp_link *l) {
    unsigned last = l->paths[0]->route;
    for (unsigned i = 1; i < l->npaths; i++) {
        unsigned route = l->paths[i]->route;
        if (route != last && !l->down[route]) {
            describe_failure(l, route, ETIMEDOUT, "connect");
            give_up_rail(l, route);
        }
    }
    attempt_failed(l, last, RONDO_ERR_PATH, ETIMEDOUT, "connect");
}

void rdi_tcp_connect_tick(struct rdi_tcp_link *l, uint64_t now) {
    if (l->base.state != RDI_LINK_CONNECTING) {
        return;
    }
    uint64_t patience = l->reason_status != RONDO_AGAIN && l->base.net->params.prompt
                            ? PROMPT_PATIENCE
                            : REFUSED_PATIENCE;
    if (l->refused_since != 0 && now - l->refused_since >= patience) {
        if (l->reason_status == RONDO_AGAIN) {
            rdi_tcp_link_fail(l, RONDO_ERR_SYSTEM, "%s", l->reason);
        } else {
            route_gone(l, l->refused_route);
        }
    } else if (now >= l->deadline) {
        give_up(l);
    } else if (l->retry_at != 0 && now >= l->retry_at) {
        rdi_tcp_connect_start(l);
    } else if (l->others && now - l->tried_at >= rail_patience(l) && is_unanswered(l)) {
        leave_rails(l);
    } else if (now - l->attempt_at >= REDIAL && is_away(l)) {
        rdi_tcp_link_drop_paths(l);
        rdi_tcp_connect_start(l);
    } else if (now - l->attempt_at >= rail_patience(l) && slow_path(l) != NULL) {
        attempt_failed(l, slow_path(l)->route, RONDO_ERR_PATH, ETIMEDOUT, "connect");
    }
}

uint64_t rdi_tcp_connect_next(const struct rdi_tcp_link *l) {
    uint64_t at = l->deadline;
    if (l->base.sender) {
        at = l->retry_at != 0 && l->retry_at < at ? l->retry_at : at;
        if (l->others && is_unanswered(l) && l->tried_at + rail_patience(l) < at) {
            at = l->tried_at + rail_patience(l);
        }
        if (is_away(l) && l->attempt_at + REDIAL < at) {
            at = l->attempt_at + REDIAL;
        } else if (slow_path(l) != NULL && l->attempt_at + rail_patience(l) < at) {
            at = l->attempt_at + rail_patience(l);
        }
    } else if (l->base.state == RDI_LINK_LOST && l->probe == NULL && l->probe_to.ss_family != 0 &&
               l->probe_at < at) {
        at = l->probe_at;
    }
    return at;
}

// ---- Is the sender alive? ------------------------------------------------------------------------

#define PROBE_EVERY (200 * RDI_MS)

void rdi_tcp_probe_tick(struct rdi_tcp_link *l, uint64_t now) {
    if (l->probe != NULL || now < l->probe_at || l->probe_to.ss_family == 0) {
        return;
    }
    l->probe_at = now + PROBE_EVERY;
    int fd = rdi_tcp_dial(&l->probe_from, &l->probe_to);
    if (fd < 0) {
        if (fd == -ECONNREFUSED) {
            gone(l, &l->probe_to);
        }
        return;
    }
    struct rdi_tcp_path *p = rdi_tcp_path_new(rdi_tcp_net_of(l), fd, RDI_TCP_CONNECTING);
    if (p != NULL) {
        p->link = l;
        p->probe = true;
        p->remote = l->probe_to;
        l->probe = p;
        rdi_tcp_path_watch(p, EPOLLOUT);
    }
}
