// SPDX-License-Identifier: MIT
// A link's life apart from how its paths are made: memory, states, and what the engine asks for.
//
//   CONNECTING --all paths open--> UP --path lost--> LOST --reset() / the peer comes back--> CONNECTING
//        \------- gives up ----------> FAILED <-- gives up --/        UP --BYE--> CLOSED
#include "transport/tcp/tcp.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <unistd.h>

int rdi_tcp_peer_rank(const struct rdi_tcp_link *l) {
    return (int)(l->base.sender ? l->base.id.to : l->base.id.from);
}

const char *rdi_tcp_peer_name(const struct rdi_tcp_link *l, char *buf, size_t cap) {
    snprintf(buf, cap, "rank %d on host %s", rdi_tcp_peer_rank(l), l->host);
    return buf;
}

// ---- Memory and lists ----------------------------------------------------------------------------

struct rdi_tcp_link *rdi_tcp_link_new(struct rdi_tcp_net *n, const struct rdi_link_id *id,
                                      bool sender) {
    struct rdi_tcp_link *l = calloc(1, sizeof *l);
    if (l == NULL) {
        return NULL;
    }
    l->base.ops = n->base.ops;
    l->base.net = &n->base;
    l->base.id = *id;
    l->base.sender = sender;
    l->base.state = RDI_LINK_CONNECTING;
    n->unsettled++;
    l->next = n->links;
    if (l->next != NULL) {
        l->next->prev = l;
    }
    n->links = l;
    return l;
}

rondo_status rdi_tcp_link_slots(struct rdi_tcp_link *l, uint32_t slots, uint32_t max_msg) {
    if (l->base.sender) {
        l->out = calloc(slots, sizeof *l->out);
    } else {
        l->in = calloc(slots, sizeof *l->in);
        // Pages that no message ever touches cost nothing.
        l->memory = mmap(NULL, (size_t)slots * max_msg, PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        l->memory = l->memory == MAP_FAILED ? NULL : l->memory;
    }
    if (l->base.sender ? l->out == NULL : l->in == NULL || l->memory == NULL) {
        free(l->in);
        l->in = NULL;
        return rdi_fail(
            RONDO_ERR_NOMEM,
            "no memory for %u slots of %u bytes of a link; lower options slots or chunk", slots,
            max_msg);
    }
    l->base.slots = slots;
    l->base.max_msg = max_msg;
    return RONDO_OK;
}

void rdi_tcp_link_dirty(struct rdi_tcp_link *l) {
    if (!l->dirty && !l->gone) {
        struct rdi_tcp_net *n = rdi_tcp_net_of(l);
        l->dirty = true;
        l->next_dirty = n->dirty;
        n->dirty = l;
    }
}

void rdi_tcp_link_drop_paths(struct rdi_tcp_link *l) {
    for (unsigned i = 0; i < RDI_TCP_PATHS; i++) {
        if (l->paths[i] != NULL) {
            rdi_tcp_path_close(l->paths[i]);
            l->paths[i] = NULL;
        }
    }
    if (l->probe != NULL) {
        rdi_tcp_path_close(l->probe);
        l->probe = NULL;
    }
}

void rdi_tcp_link_free(struct rdi_tcp_link *l) {
    struct rdi_tcp_net *n = rdi_tcp_net_of(l);
    rdi_tcp_link_drop_paths(l);
    rdi_tcp_link_state(l, RDI_LINK_CLOSED);
    *(l->prev != NULL ? &l->prev->next : &n->links) = l->next;
    if (l->next != NULL) {
        l->next->prev = l->prev;
    }
    for (struct rdi_tcp_link **d = &n->dirty; *d != NULL; d = &(*d)->next_dirty) {
        if (*d == l) {
            *d = l->next_dirty;
            break;
        }
    }
    if (l->memory != NULL) {
        munmap(l->memory, (size_t)l->base.slots * l->base.max_msg);
    }
    free(l->in);
    free(l->out);
    l->in = NULL;
    l->out = NULL;
    l->memory = NULL;
    l->gone = true;
    l->next = n->dead_links;
    n->dead_links = l;
}

// ---- States --------------------------------------------------------------------------------------

static bool has_timers(enum rdi_link_state s) {
    return s == RDI_LINK_CONNECTING || s == RDI_LINK_LOST;
}

void rdi_tcp_link_state(struct rdi_tcp_link *l, enum rdi_link_state state) {
    struct rdi_tcp_net *n = rdi_tcp_net_of(l);
    n->unsettled -= has_timers(l->base.state);
    n->unsettled += has_timers(state);
    n->stalls -= l->stalls && l->base.state == RDI_LINK_UP;
    n->stalls += l->stalls && state == RDI_LINK_UP;
    l->base.state = state;
}

// First message from `from` on that travels on path `index`.
static uint64_t first_of_path(uint64_t from, unsigned index, unsigned npaths) {
    return from + (index + npaths - from % npaths) % npaths;
}

// With option encrypt, all paths seal what they carry from here on. False: the link failed.
static bool seal_paths(struct rdi_tcp_link *l) {
    for (unsigned i = 0; i < l->npaths && rdi_tcp_net_of(l)->encrypt; i++) {
        if (!rdi_tcp_sealed_begin(l->paths[i])) {
            rdi_tcp_link_fail(l, RONDO_ERR_NOMEM, "no memory for an encrypted connection");
            return false;
        }
    }
    return true;
}

void rdi_tcp_link_up(struct rdi_tcp_link *l) {
    uint64_t from = l->base.sender ? l->base.posted : l->base.arrived;
    if (!seal_paths(l)) {
        return;
    }
    for (unsigned i = 0; i < l->npaths; i++) {
        struct rdi_tcp_path *p = l->paths[i];
        p->rx.next = p->tx.next = first_of_path(from, i, l->npaths);
        p->stage = RDI_TCP_OPEN;
        rdi_tcp_path_watch(p, EPOLLIN);
        if (!l->base.sender) {
            rdi_tcp_path_heat(p);
        }
    }
    if (l->was_up) {
        char who[128];
        rdi_log(&l->base.net->params.env, RONDO_LOG_INFO,
                "the link to %s is up again (epoch %u, message %llu)",
                rdi_tcp_peer_name(l, who, sizeof who), l->base.epoch, (unsigned long long)from);
    }
    l->was_up = true;
    rdi_tcp_stall_begin(l);
    l->ack_wanted = 0;
    l->bye = false;
    l->base.why[0] = '\0';
    rdi_tcp_link_state(l, RDI_LINK_UP);
    rdi_tcp_link_dirty(l);
}

// What the receiver can say later of the ways that it had: "10.0.0.1 to 10.0.0.2, 10.0.1.1 to 10.0.1.2".
static void note_ways(struct rdi_tcp_link *l) {
    size_t n = 0;
    for (unsigned i = 0; i < l->npaths && n < sizeof l->reason; i++) {
        char local[RDI_TCP_NAME], remote[RDI_TCP_NAME];
        bool again = l->paths[i] == NULL;
        for (unsigned k = 0; k < i && !again; k++) {
            again = l->paths[k] != NULL &&
                    rdi_tcp_same_ip(&l->paths[k]->local, &l->paths[i]->local) &&
                    rdi_tcp_same_ip(&l->paths[k]->remote, &l->paths[i]->remote);
        }
        if (!again) {
            rdi_tcp_ip_name(&l->paths[i]->remote, remote);
            rdi_tcp_ip_name(&l->paths[i]->local, local);
            n += (size_t)snprintf(l->reason + n, sizeof l->reason - n, "%s%s to %s",
                                  n == 0 ? "" : ", ", remote, local);
        }
    }
}

void rdi_tcp_link_lost(struct rdi_tcp_link *l, const struct rdi_tcp_path *p, const char *what,
                       int err) {
    struct rdi_tcp_net *n = rdi_tcp_net_of(l);
    char local[RDI_TCP_NAME], remote[RDI_TCP_NAME], who[128], buffer[96];
    rdi_tcp_name(&p->local, local);
    rdi_tcp_name(&p->remote, remote);
    const char *name = err != 0 ? strerrorname_np(err) : NULL;
    int length = snprintf(l->base.why, sizeof l->base.why,
                          "the connection of rank %d (%s) with %s (%s) was lost: %s%s%s%s%s",
                          n->base.params.job->rank, local, rdi_tcp_peer_name(l, who, sizeof who),
                          remote, what, err != 0 ? ": " : "",
                          err != 0 ? strerror_r(err, buffer, sizeof buffer) : "",
                          name != NULL ? ", " : "", name != NULL ? name : "");
    if (length < 0) {
        l->base.why[0] = '\0';
    }
    bool silent = err == ETIMEDOUT || err == EHOSTUNREACH || err == ENETUNREACH || err == ENETDOWN;
    bool knows = l->railed || n->base.params.narrow;
    l->suspect = l->base.sender && knows && silent ? p->route + 1 : 0;
    if (!l->base.sender) {
        note_ways(l);
    }
    uint64_t now = rdi_tcp_now(n);
    l->deadline = now + n->grace_ms * RDI_MS;
    l->probe_at = now;
    l->probe_answered = false;
    rdi_tcp_link_drop_paths(l);
    rdi_tcp_link_state(l, RDI_LINK_LOST);
    rdi_log(&n->base.params.env, RONDO_LOG_INFO, "%s", l->base.why);
}

void rdi_tcp_link_fail(struct rdi_tcp_link *l, rondo_status s, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(l->base.why, sizeof l->base.why, fmt, ap);
    va_end(ap);
    l->base.status = s;
    rdi_tcp_link_drop_paths(l);
    rdi_tcp_link_state(l, RDI_LINK_FAILED);
}

void rdi_tcp_link_bye(struct rdi_tcp_link *l) {
    rdi_tcp_link_drop_paths(l);
    rdi_tcp_link_state(l, RDI_LINK_CLOSED);
}

// ---- What the engine asks for --------------------------------------------------------------------

rondo_status rdi_tcp_op_connect(struct rdi_net *net, const struct rdi_link_id *id, const void *blob,
                                size_t len, struct rdi_link **out) {
    struct rdi_tcp_net *n = (struct rdi_tcp_net *)net;
    struct rdi_tcp_blob peer;
    char whose[32];
    if (!rdi_tcp_blob_read(&peer, blob, len)) {
        snprintf(whose, sizeof whose, "rank %u", id->to);
        return rdi_tcp_blob_fail(blob, len, whose);
    }
    struct rdi_tcp_link *l = rdi_tcp_link_new(n, id, true);
    if (l == NULL) {
        return rdi_fail(RONDO_ERR_NOMEM, "no memory for a link to rank %u", id->to);
    }
    memcpy(l->host, peer.host, sizeof l->host);
    net->params.env.random(net->params.env.self, &l->session, sizeof l->session);
    l->nroutes = rdi_tcp_routes(&n->self, &peer, l->routes);
    l->deadline = rdi_tcp_now(n) + n->connect_ms * RDI_MS;
    rondo_status s;
    if (l->nroutes == 0) {
        s = rdi_fail(RONDO_ERR_UNSUPPORTED, "rank %u on host %s has no address that tcp can reach",
                     id->to, l->host);
        goto err_free;
    }
    rdi_tcp_connect_start(l);
    if (l->base.state == RDI_LINK_FAILED) {
        s = rdi_fail(l->base.status, "%s", l->base.why);
        goto err_free;
    }
    *out = &l->base;
    return RONDO_OK;

err_free:
    rdi_tcp_link_free(l);
    if (n->depth == 0) {
        rdi_tcp_reap(n);
    }
    return s;
}

rondo_status rdi_tcp_op_reset(struct rdi_link *link, uint32_t epoch) {
    struct rdi_tcp_link *l = (struct rdi_tcp_link *)link;
    struct rdi_tcp_net *n = rdi_tcp_net_of(l);
    if (!link->sender || epoch <= link->epoch || !l->was_up) {
        return rdi_fail(RONDO_ERR_USAGE,
                        "reset of a tcp link that cannot be reset (epoch %u to %u)", link->epoch,
                        epoch);
    }
    rdi_tcp_link_drop_paths(l);
    link->epoch = epoch;
    l->attempt = 0;
    l->backoff_ms = 0;
    l->refused_since = 0;
    memset(l->down, 0, sizeof l->down);
    l->tried_at = 0;
    l->told = 0;
    rdi_tcp_leave_suspect(l);
    l->deadline = rdi_tcp_now(n) + n->grace_ms * RDI_MS;
    rdi_tcp_link_state(l, RDI_LINK_CONNECTING);
    rdi_tcp_connect_start(l);
    return link->state == RDI_LINK_FAILED ? rdi_fail(link->status, "%s", link->why) : RONDO_OK;
}

// Whether everything that was posted is with the kernel or, if little is left, behind tx.ctl.
static bool finish_output(struct rdi_tcp_path *p) {
    struct rdi_tcp_tx *t = &p->tx;
    struct rdi_tcp_link *l = p->link;
    t->ctl_off = t->ctl_len == 0 ? 0 : t->ctl_off;
    if (l->base.sender) {
        while (t->next < l->base.posted) {
            const struct rdi_tcp_out *o = &l->out[t->next % l->base.slots];
            size_t used = t->ctl_off + t->ctl_len + RDI_TCP_HEADER;
            size_t room = used < sizeof t->ctl ? sizeof t->ctl - used : 0;
            size_t rest = (size_t)o->head_len + o->len - t->off;
            // A message under way must go on before anything else, and the buffer before the next one.
            if (rest > room || (t->off > 0 && t->ctl_len > 0)) {
                return false;
            }
            uint8_t *at = t->ctl + t->ctl_off + t->ctl_len;
            size_t head = t->off < o->head_len ? o->head_len - t->off : 0;
            memcpy(at, o->head + o->head_len - head, head);
            if (rest > head) {
                memcpy(at + head, (const uint8_t *)o->data + o->len - (rest - head), rest - head);
            }
            t->ctl_len += (uint32_t)rest;
            t->off = 0;
            t->next += l->npaths;
        }
    }
    struct rdi_tcp_frame bye = {.type = RDI_TCP_BYE,
                                .epoch = l->base.epoch,
                                .seq = l->base.sender ? l->base.posted : l->base.arrived,
                                .tag = l->base.sender ? 0 : l->base.released};
    return rdi_tcp_tx_frame(p, &bye, NULL);
}

void rdi_tcp_op_close_link(struct rdi_link *link, bool bye) {
    struct rdi_tcp_link *l = (struct rdi_tcp_link *)link;
    struct rdi_tcp_net *n = rdi_tcp_net_of(l);
    for (unsigned i = 0; i < l->npaths && bye && link->state == RDI_LINK_UP; i++) {
        struct rdi_tcp_path *p = l->paths[i];
        rdi_tcp_tx(p);
        if (!p->tx.dead && finish_output(p)) {
            l->paths[i] = NULL;
            rdi_tcp_path_linger(p);
        }
    }
    rdi_tcp_link_free(l);
    if (n->depth == 0) {
        rdi_tcp_reap(n);
    }
}

// " over the decided NICs" where some were.
static const char *whose_rails(const struct rdi_tcp_link *l) {
    static const char *const words[] = {" beside the decided NICs", " over one end's decided NICs",
                                        " over the decided NICs"};
    if (!l->base.sender || l->nroutes == 0 || l->npaths == 0 || l->paths[0] == NULL) {
        return "";
    }
    return l->routes[0].worth > 0 ? words[l->routes[l->paths[0]->route].worth] : "";
}

void rdi_tcp_op_describe(struct rdi_link *link, char *buf, size_t cap) {
    static const char *const states[] = {"connecting", "up", "lost", "failed", "closed"};
    struct rdi_tcp_link *l = (struct rdi_tcp_link *)link;
    char who[128], local[RDI_TCP_NAME] = "-", remote[RDI_TCP_NAME] = "-";
    if (l->npaths > 0 && l->paths[0] != NULL) {
        rdi_tcp_name(&l->paths[0]->local, local);
        rdi_tcp_name(&l->paths[0]->remote, remote);
    }
    size_t used = strlen(buf);
    if (used >= cap) {
        return;
    }
    int n = snprintf(buf + used, cap - used, "tcp link %s %s (%s, %s, epoch %u, %u path%s%s) %s",
                     link->sender ? "to" : "from", rdi_tcp_peer_name(l, who, sizeof who), local,
                     remote, link->epoch, l->npaths, l->npaths == 1 ? "" : "s", whose_rails(l),
                     states[link->state]);
    used = n < 0 || (size_t)n >= cap - used ? cap : used + (size_t)n;
    if (used < cap && link->sender) {
        uint64_t wire = link->posted;
        for (unsigned i = 0; i < l->npaths; i++) {
            if (l->paths[i] != NULL && l->paths[i]->tx.next < wire) {
                wire = l->paths[i]->tx.next;
            }
        }
        snprintf(buf + used, cap - used, ": credit %llu posted %llu in the kernel %llu sent %llu\n",
                 (unsigned long long)link->credit, (unsigned long long)link->posted,
                 (unsigned long long)wire, (unsigned long long)link->sent);
    } else if (used < cap) {
        snprintf(buf + used, cap - used, ": arrived %llu released %llu told %llu %llu\n",
                 (unsigned long long)link->arrived, (unsigned long long)link->released,
                 (unsigned long long)l->told_arrived, (unsigned long long)l->told_released);
    }
}
