// SPDX-License-Identifier: MIT
// Nets and links without an engine: opening, upcalls, turns, sleep, and what must hold at all times.
#include "transport/conform/check.h"

#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NAP_NS (2 * CF_MS)

// ---- Upcalls -------------------------------------------------------------------------------------

static rondo_status on_accept(void *self, struct rdi_link *link) {
    struct cf_net *n = self;
    n->accepts++;
    if (n->refuse != RONDO_OK) {
        return rdi_fail(n->refuse, "not today");
    }
    cf_expect(n->c, n->naccepted < CF_LINKS, "more than %d links came", CF_LINKS);
    cf_expect(n->c,
              !link->sender && link->id.to == (uint32_t)n->c->rank &&
                  link->id.from < (uint32_t)n->c->size,
              "accept() was given a link from rank %u to rank %u, sender %d", link->id.from,
              link->id.to, link->sender);
    link->owner = n;
    n->accepted[n->naccepted++] = link;
    cf_track(n->c, link);
    return RONDO_OK;
}

static void *on_land(void *self, struct rdi_link *link, uint64_t tag, uint32_t len) {
    struct cf_net *n = self;
    cf_expect(n->c, !link->sender && len <= link->max_msg,
              "land() was asked for %u bytes on a link for %u", len, link->max_msg);
    return n->on_land != NULL ? n->on_land(n, link, tag, len) : NULL;
}

static void on_ctrl(void *self, struct rdi_link *link, unsigned type, const void *msg, size_t len) {
    struct cf_net *n = self;
    cf_expect(n->c, len <= RDI_CTRL_MAX, "a control message of %zu bytes arrived", len);
    n->ctrls++;
    n->ctrl_type = type;
    n->ctrl_len = len;
    memcpy(n->ctrl, msg, len);
    if (n->on_ctrl != NULL) {
        n->on_ctrl(n, link, type, msg, len);
    }
}

static void on_log(void *self, rondo_log_level level, const char *line) {
    struct cf_net *n = self;
    (void)level;
    n->lines++;
    snprintf(n->last_line, sizeof n->last_line, "%s", line);
}

// ---- Nets ----------------------------------------------------------------------------------------

struct cf_net *cf_net_prepare(struct cf *c, const char *options) {
    unsigned i = 0;
    while (i < CF_NETS && c->nets[i] != NULL) {
        i++;
    }
    struct cf_net *n = i < CF_NETS ? calloc(1, sizeof *n) : NULL;
    cf_expect(c, n != NULL, "no memory for a net");
    c->nets[i] = n;
    n->c = c;
    rdi_job_copy(&n->job, &c->place->job);
    cf_expect(c, cf_load_options(c->place->options, options, &n->options) == RONDO_OK, "%s",
              rondo_last_error());
    n->events =
        (struct rdi_net_events){.self = n, .accept = on_accept, .land = on_land, .ctrl = on_ctrl};
    n->params =
        (struct rdi_net_params){.options = &n->options, .job = &n->job, .events = &n->events};
    rdi_env_system(&n->params.env, on_log, n);
    return n;
}

rondo_status cf_net_start(struct cf_net *n) {
    rondo_status s = n->c->ops->open(&n->params, &n->net);
    if (s != RONDO_OK) {
        n->net = NULL;
        return s;
    }
    s = n->c->ops->address(n->net, n->own.blob, &n->own.len);
    cf_expect(n->c, s == RONDO_OK && n->own.len <= RDI_BLOB_MAX,
              "address() says %s, %zu bytes; at most %d are allowed", rondo_status_name(s),
              n->own.len, RDI_BLOB_MAX);
    return RONDO_OK;
}

struct cf_net *cf_net_open(struct cf *c, const char *options) {
    struct cf_net *n = cf_net_prepare(c, options);
    rondo_status s = cf_net_start(n);
    cf_expect(c, s == RONDO_OK, "open() says %s: %s", rondo_status_name(s), rondo_last_error());
    return n;
}

void cf_net_close(struct cf_net *n) {
    struct cf *c = n->c;
    cf_step(c, "closing the net");
    while (n->naccepted > 0) {
        cf_close(n, n->accepted[0], true);
    }
    if (n->net != NULL) {
        c->ops->close(n->net);
    }
    for (unsigned i = 0; i < CF_NETS; i++) {
        c->nets[i] = c->nets[i] == n ? NULL : c->nets[i];
    }
    rdi_job_clear(&n->job);
    free(n->peers);
    free(n);
}

void cf_meet(struct cf *c, struct cf_net *n) {
    cf_exchange(c, n != NULL ? n->own.blob : NULL, n != NULL ? n->own.len : 0);
    if (n == NULL) {
        return;
    }
    free(n->peers);
    n->peers = calloc((size_t)c->size, sizeof *n->peers);
    cf_expect(c, n->peers != NULL, "no memory");
    for (int r = 0; r < c->size; r++) {
        if (!cf_takes_part(c, r) || c->boxes[r].len == 0) {
            continue;
        }
        struct cf_addr *a = &n->peers[r];
        cf_expect(c, c->boxes[r].len <= sizeof a->blob, "the address of rank %d is too long", r);
        a->len = c->boxes[r].len;
        memcpy(a->blob, c->boxes[r].bytes, a->len);
        rondo_status s = r != c->rank ? c->ops->reach(n->net, a->blob, a->len) : RONDO_OK;
        cf_expect(c, s == RONDO_OK, "rank %d cannot reach rank %d (host %s): %s, %s", c->rank, r,
                  c->place->hosts[r], rondo_status_name(s), rondo_last_error());
    }
}

// ---- Links ---------------------------------------------------------------------------------------

rondo_status cf_try_connect(struct cf_net *n, const struct cf_addr *to, int rank, uint64_t comm,
                            struct rdi_link **out) {
    struct rdi_link_id id = {.comm = comm, .from = (uint32_t)n->c->rank, .to = (uint32_t)rank};
    *out = NULL;
    rondo_status s = n->c->ops->connect(n->net, &id, to->blob, to->len, out);
    if (s == RONDO_OK) {
        cf_track(n->c, *out);
    }
    return s;
}

struct rdi_link *cf_connect(struct cf_net *n, const struct cf_addr *to, int rank, uint64_t comm) {
    struct rdi_link *link;
    rondo_status s = cf_try_connect(n, to, rank, comm, &link);
    cf_expect(n->c, s == RONDO_OK, "connect() to rank %d says %s: %s", rank, rondo_status_name(s),
              rondo_last_error());
    cf_expect(n->c, link->state == RDI_LINK_CONNECTING && link->sender && link->id.comm == comm,
              "connect() gave a link in state %d, sender %d", link->state, link->sender);
    return link;
}

struct rdi_link *cf_accepted(const struct cf_net *n, int from, uint64_t comm) {
    for (unsigned i = 0; i < n->naccepted; i++) {
        struct rdi_link *l = n->accepted[i];
        if (l->id.from == (uint32_t)from && l->id.comm == comm && l->state != RDI_LINK_CONNECTING) {
            return l;
        }
    }
    return NULL;
}

void cf_close(struct cf_net *n, struct rdi_link *link, bool bye) {
    for (unsigned i = 0; i < n->naccepted; i++) {
        if (n->accepted[i] == link) {
            n->accepted[i] = n->accepted[--n->naccepted];
        }
    }
    cf_untrack(n->c, link);
    link->ops->close_link(link, bye);
}

void cf_track(struct cf *c, struct rdi_link *link) {
    cf_expect(c, c->nseen < CF_LINKS, "more than %d links", CF_LINKS);
    c->seen[c->nseen++] = (struct cf_seen){.link = link, .epoch = link->epoch};
}

void cf_untrack(struct cf *c, const struct rdi_link *link) {
    for (unsigned i = 0; i < c->nseen; i++) {
        if (c->seen[i].link == link) {
            c->seen[i] = c->seen[--c->nseen];
            return;
        }
    }
}

// ---- What always holds ---------------------------------------------------------------------------

static void check_sender(struct cf *c, const struct cf_seen *s, const struct rdi_link *l) {
    // What was posted and did not arrive is posted again after a reset.
    bool reset = s->epoch != l->epoch || s->state == RDI_LINK_CONNECTING ||
                 l->state == RDI_LINK_CONNECTING;
    cf_expect(
        c, l->sent >= s->sent && l->credit >= s->credit && (reset || l->posted >= s->posted),
        "a sender's counter went back: credit %llu to %llu, posted %llu to %llu, sent %llu to "
        "%llu",
        (unsigned long long)s->credit, (unsigned long long)l->credit, (unsigned long long)s->posted,
        (unsigned long long)l->posted, (unsigned long long)s->sent, (unsigned long long)l->sent);
    cf_expect(
        c,
        l->state != RDI_LINK_UP ||
            (l->sent <= l->posted && l->posted <= l->credit && l->credit <= l->posted + l->slots),
        "sent <= posted <= credit <= posted + slots does not hold: %llu %llu %llu with %u slots",
        (unsigned long long)l->sent, (unsigned long long)l->posted, (unsigned long long)l->credit,
        l->slots);
}

static void check_receiver(struct cf *c, const struct cf_seen *s, const struct rdi_link *l) {
    cf_expect(c, l->arrived >= s->arrived && l->released >= s->released,
              "a receiver's counter went back: arrived %llu to %llu, released %llu to %llu",
              (unsigned long long)s->arrived, (unsigned long long)l->arrived,
              (unsigned long long)s->released, (unsigned long long)l->released);
    cf_expect(c, l->released <= l->arrived && l->arrived <= l->released + l->slots,
              "released <= arrived <= released + slots does not hold: %llu %llu with %u slots",
              (unsigned long long)l->released, (unsigned long long)l->arrived, l->slots);
}

void cf_invariants(struct cf *c) {
    for (unsigned i = 0; i < c->nseen; i++) {
        struct cf_seen *s = &c->seen[i];
        const struct rdi_link *l = s->link;
        cf_expect(c, l->epoch >= s->epoch, "an epoch went back from %u to %u", s->epoch, l->epoch);
        if (l->sender) {
            check_sender(c, s, l);
        } else {
            check_receiver(c, s, l);
        }
        s->epoch = l->epoch;
        s->state = l->state;
        s->credit = l->credit;
        s->posted = l->posted;
        s->sent = l->sent;
        s->arrived = l->arrived;
        s->released = l->released;
    }
}

void cf_describe(struct cf *c, char *text, size_t cap) {
    text[0] = '\0';
    for (unsigned i = 0; i < c->nseen && i < 8; i++) {
        struct rdi_link *l = c->seen[i].link;
        l->ops->describe(l, text, cap);
        size_t used = strlen(text);
        if (l->why[0] != '\0' && used < cap) {
            snprintf(text + used, cap - used, "  %s\n", l->why);
        }
    }
}

// ---- Turns ---------------------------------------------------------------------------------------

bool cf_sleep(struct cf *c, uint64_t ns) {
    struct pollfd fds[CF_NETS];
    struct cf_net *armed[CF_NETS];
    uint64_t timeout = ns;
    nfds_t n = 0;
    bool ready = false;
    for (unsigned i = 0; i < CF_NETS && !ready; i++) {
        struct cf_net *net = c->nets[i];
        if (net == NULL || net->net == NULL || net->held) {
            continue;
        }
        rondo_status s = c->ops->arm(net->net, &timeout);
        cf_expect(c, s == RONDO_OK || s == RONDO_AGAIN, "arm() says %s", rondo_status_name(s));
        armed[n] = net;
        fds[n++] = (struct pollfd){.fd = c->ops->fd(net->net), .events = POLLIN};
        ready = s == RONDO_AGAIN;
    }
    cf_expect(c, timeout <= ns, "arm() raised the timeout");
    int found = ready ? 1 : poll(fds, n, (int)((timeout + CF_MS - 1) / CF_MS));
    for (nfds_t i = 0; i < n; i++) {
        c->ops->disarm(armed[i]->net);
    }
    return found != 0 || timeout < ns;
}

void cf_turn(struct cf *c) {
    int moved = 0;
    bool busy = c->turns++ % 3 != 0 || c->restless; // both ways of asking
    for (unsigned i = 0; i < CF_NETS; i++) {
        struct cf_net *n = c->nets[i];
        if (n != NULL && n->net != NULL && !n->held) {
            moved += c->ops->progress(n->net, busy);
        }
    }
    cf_invariants(c);
    if (moved == 0 && c->restless) {
        sched_yield();
    } else if (moved == 0 && !busy) {
        cf_sleep(c, NAP_NS);
    }
}

void cf_turns(struct cf *c, unsigned ms) {
    for (uint64_t end = cf_now(c) + ms * CF_MS; cf_now(c) < end;) {
        cf_turn(c);
    }
}

uint64_t cf_wait_begin(struct cf *c, unsigned seconds, const char *what) {
    uint64_t end = cf_now(c) + seconds * CF_SECOND * (CF_SANITIZED ? 3 : 1);
    cf_step(c, "waiting until %s", what);
    return seconds > 0 && end < c->deadline ? end : c->deadline;
}

void cf_wait_turn(struct cf *c, uint64_t end, const char *what) {
    cf_turn(c);
    if (c->turns % 64 == 0) {
        cf_describe(c, c->note->links, sizeof c->note->links);
        cf_watch(c);
    }
    if (cf_now(c) > end) {
        char links[1400];
        cf_describe(c, links, sizeof links);
        c->note->step[0] = '\0';
        cf_fail(c, "in vain it waited until %s; links: %s", what, links);
    }
}

bool cf_revive(struct cf *c, struct rdi_link *link) {
    if (link->state != RDI_LINK_LOST || !link->sender) {
        return false;
    }
    cf_expect(c, link->why[0] != '\0', "a lost link says nothing in `why`");
    rondo_status s = link->ops->reset(link, link->epoch + 1);
    cf_expect(c, s == RONDO_OK || link->state == RDI_LINK_FAILED,
              "reset() of a lost link says %s: %s", rondo_status_name(s), rondo_last_error());
    return true;
}

void cf_await_failed(struct cf *c, struct rdi_link *link, rondo_status s, rondo_status or_s) {
    char peer[32];
    cf_await(c, "the link failed", (cf_revive(c, link), link->state == RDI_LINK_FAILED));
    cf_expect(c, link->status == s || link->status == or_s,
              "the link failed with %s instead of %s: %s", rondo_status_name(link->status),
              rondo_status_name(s), link->why);
    snprintf(peer, sizeof peer, "rank %u", link->sender ? link->id.to : link->id.from);
    cf_expect(c, strstr(link->why, peer) != NULL, "the link's text does not name %s: \"%s\"", peer,
              link->why);
}
