// SPDX-License-Identifier: MIT
// A pair's net and links: opened beside those of the communicator, over the wire that it would choose.
#include "ring/internal.h"
#include "ring/perf/pairs.h"

#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#define MS UINT64_C(1000000)
#define GRACE_MS 1000 // a link that cannot be opened knows why, and is given the time to say it
#define YIELD_NS UINT64_C(2000)
#define NAP_MS 1000 // longest sleep: a peer that is gone for good is noticed by the clock

// What a rank tells its peer. Names and addresses are unchecked bytes until they have been looked at.
struct card {
    char wire[8];
    uint32_t len;
    uint8_t blob[RDI_BLOB_MAX];
};

// ---- Upcalls -------------------------------------------------------------------------------------

static rondo_status on_accept(void *self, struct rdi_link *link) {
    struct perf_pair *p = self;
    if (p->in != NULL || link->id.comm != p->comm || link->id.from != (uint32_t)p->peer) {
        return rdi_fail(RONDO_ERR_INVALID,
                        "rank %u opened a link that the pair of ranks %d and %d has no use for",
                        link->id.from, p->run->rank, p->peer);
    }
    p->in = link;
    return RONDO_OK;
}

// Slots are what is measured, also where the transport could do without.
static void *on_land(void *self, struct rdi_link *link, uint64_t tag, uint32_t len) {
    (void)self;
    (void)link;
    (void)tag;
    (void)len;
    return NULL;
}

static void on_ctrl(void *self, struct rdi_link *link, unsigned type, const void *msg, size_t len) {
    (void)self;
    (void)link;
    (void)type;
    (void)msg;
    (void)len;
}

// ---- Opening -------------------------------------------------------------------------------------

// The net by which the communicator reaches the peer says which transport it is; this is another of its kind.
static rondo_status open_net(struct perf_pair *p, struct card *mine) {
    const struct rondo_comm *c = p->run->comm;
    struct rdi_engine *e = c->engine;
    struct rdi_net *like;
    rdi_driver_lock(e->driver);
    rondo_status s = rdi_engine_route(e, c->world[p->peer], &like);
    rdi_driver_unlock(e->driver);
    if (s != RONDO_OK) {
        return s;
    }
    struct rdi_net_params params = {
        .env = e->env, .options = &e->options, .job = &e->job, .events = &p->events};
    s = like->ops->open(&params, &p->net);
    if (s != RONDO_OK) {
        p->net = NULL;
        return s;
    }
    size_t len = sizeof mine->blob;
    s = p->net->ops->address(p->net, mine->blob, &len);
    mine->len = (uint32_t)len;
    snprintf(mine->wire, sizeof mine->wire, "%s", p->net->ops->name);
    return s;
}

static rondo_status connect_link(struct perf_pair *p, const struct card *mine,
                                 const struct card *peer) {
    if (strncmp(mine->wire, peer->wire, sizeof mine->wire) != 0) {
        return rdi_fail(RONDO_ERR_PATH,
                        "rank %d reaches rank %d by %s, which answers by %.8s; name one with "
                        "--transport",
                        p->run->rank, p->peer, mine->wire, peer->wire);
    }
    if (peer->len > sizeof peer->blob) {
        return rdi_fail(RONDO_ERR_INVALID, "rank %d sent a malformed address", p->peer);
    }
    rondo_status s = p->net->ops->reach(p->net, peer->blob, peer->len);
    struct rdi_link_id id = {
        .comm = p->comm, .from = (uint32_t)p->run->rank, .to = (uint32_t)p->peer};
    return s == RONDO_OK ? p->net->ops->connect(p->net, &id, peer->blob, peer->len, &p->out) : s;
}

static rondo_status wait_until_up(struct perf_pair *p) {
    rondo_status s = RONDO_OK;
    while (s == RONDO_OK && (p->out->state == RDI_LINK_CONNECTING || p->in == NULL ||
                             p->in->state == RDI_LINK_CONNECTING)) {
        if (p->net->ops->progress(p->net, false) > 0) {
            p->idle_since = 0;
        } else {
            s = perf_pair_idle(p);
        }
        s = s == RONDO_OK ? perf_pair_check(p) : s;
    }
    return s;
}

rondo_status perf_pair_open(struct perf_run *r, struct perf_pair *p) {
    const struct rdi_options *options = &r->comm->engine->options;
    *p = (struct perf_pair){.run = r, .peer = r->rank ^ 1, .first = r->rank % 2 == 0};
    p->peer = p->peer < r->ranks ? p->peer : -1;
    p->comm = ~r->comm->id;
    p->events =
        (struct rdi_net_events){.self = p, .accept = on_accept, .land = on_land, .ctrl = on_ctrl};
    p->patience_ns = ((uint64_t)options->num[RDI_OPT_CONNECT_TIMEOUT] + GRACE_MS) * MS;
    r->pair = p;
    struct card mine, *all = calloc((size_t)r->ranks, sizeof *all);
    memset(&mine, 0, sizeof mine);
    rondo_status s = all != NULL ? RONDO_OK : rdi_fail(RONDO_ERR_NOMEM, "out of memory");
    s = s == RONDO_OK && p->peer >= 0 ? open_net(p, &mine) : s;
    s = s == RONDO_OK ? rondo_all_gather(&mine, all, sizeof mine, RONDO_U8, r->comm) : s;
    if (s == RONDO_OK && p->peer >= 0) {
        s = connect_link(p, &mine, &all[p->peer]);
        s = s == RONDO_OK ? wait_until_up(p) : s;
    }
    free(all);
    p->patience_ns = (uint64_t)r->options->timeout_s * 1000 * MS;
    return s;
}

void perf_pair_close(struct perf_pair *p, bool bye) {
    if (p->out != NULL) {
        p->out->ops->close_link(p->out, bye);
    }
    if (p->in != NULL) {
        p->in->ops->close_link(p->in, bye);
    }
    if (p->net != NULL) {
        p->net->ops->close(p->net);
    }
    p->out = p->in = NULL;
    p->net = NULL;
}

const char *perf_pair_wire(const struct perf_pair *p) {
    return p->net != NULL ? p->net->ops->name : "no wire";
}

// ---- Waiting -------------------------------------------------------------------------------------

static void spin(struct perf_pair *p, uint64_t now) {
    // Two ranks may have been put on one core.
    if (now - p->yielded > YIELD_NS) {
        sched_yield();
        p->yielded = now;
        return;
    }
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static void doze(struct perf_pair *p) {
    uint64_t timeout = NAP_MS * MS;
    if (p->net->ops->arm(p->net, &timeout) == RONDO_OK) {
        struct pollfd fd = {.fd = p->net->ops->fd(p->net), .events = POLLIN};
        // An interrupted sleep is a short one.
        (void)poll(&fd, 1, (int)((timeout + MS - 1) / MS));
    }
    p->net->ops->disarm(p->net);
}

static rondo_status give_up(const struct perf_pair *p) {
    char text[512] = "";
    if (p->out != NULL) {
        p->net->ops->describe(p->out, text, sizeof text);
    }
    if (p->in != NULL) {
        p->net->ops->describe(p->in, text, sizeof text);
    }
    // A line for each link becomes a part of one.
    for (char *c = text; (c = strchr(c, '\n')) != NULL;) {
        *c = c[1] != '\0' ? '|' : '\0';
    }
    return rdi_fail(RONDO_ERR_TIMEOUT,
                    "nothing moved between rank %d and rank %d for %llu ms; see what rank %d does: "
                    "%s",
                    p->run->rank, p->peer, (unsigned long long)(p->patience_ns / MS), p->peer,
                    text);
}

rondo_status perf_pair_idle(struct perf_pair *p) {
    uint64_t now = rdi_now(&p->net->params.env);
    p->idle_since = p->idle_since != 0 ? p->idle_since : now;
    if (now - p->idle_since > p->patience_ns) {
        return give_up(p);
    }
    if (p->run->options->sleep) {
        doze(p);
    } else {
        spin(p, now);
    }
    return RONDO_OK;
}

static rondo_status check_link(struct perf_pair *p, struct rdi_link *l) {
    switch (l->state) {
    case RDI_LINK_CONNECTING:
    case RDI_LINK_UP:
        break;
    case RDI_LINK_LOST:
        // What was not received is put again, as link->posted says; the other end waits.
        if (l->sender && l->ops->reset != NULL) {
            return l->ops->reset(l, l->epoch + 1);
        }
        break;
    case RDI_LINK_FAILED:
        return rdi_fail(l->status, "%s", l->why);
    case RDI_LINK_CLOSED:
        return rdi_fail(RONDO_ERR_PEER, "rank %d left while rank %d was at work with it", p->peer,
                        p->run->rank);
    }
    return RONDO_OK;
}

rondo_status perf_pair_check(struct perf_pair *p) {
    rondo_status s = check_link(p, p->out);
    return s == RONDO_OK && p->in != NULL ? check_link(p, p->in) : s;
}
