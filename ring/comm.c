// SPDX-License-Identifier: MIT
// Communicators: edges by peer, signatures compared, failure flooded to every rank.
//
// Failure. The first cause wins (fault.c decides which that is), then every link is told (RDI_CTRL_ABORT in both
// directions, so that it travels against the stream of data too), and peers pass it on. Links are closed, and
// only then requests complete: nothing can touch their buffers any more.
//
//   OK --decided--> FAILED: abort sent on every link, answer awaited (at most DRAIN) --> links closed, requests
//                                                                                     complete with the error
#include "ring/cuda/gpu.h"
#include "ring/internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DEVICE_GRACE_NS \
    UINT64_C(10000000000) // for streams to go through what is left of a failed communicator

struct abort_msg {
    int32_t status;
    int32_t origin;
    char text[RDI_ERROR_TEXT];
};
_Static_assert(sizeof(struct abort_msg) <= RDI_CTRL_MAX, "an abort fits a control message");

const char *rdi_comm_who(const struct rondo_comm *c, int rank, char *buf, size_t cap) {
    const struct rdi_peer *p = &c->engine->peers[c->world[rank]];
    snprintf(buf, cap, "rank %d (host %s, pid %d)", rank, p->host, p->pid);
    return buf;
}

// ---- Edges ---------------------------------------------------------------------------------------

static unsigned bucket(const struct rondo_comm *c, bool out, int peer, unsigned channel) {
    return ((unsigned)peer * 2 * RDI_CHANNELS + channel * 2 + out) % c->hash_size;
}

static struct rdi_edge *find_edge(struct rondo_comm *c, bool out, int peer, unsigned channel) {
    struct rdi_edge *e = c->hash[bucket(c, out, peer, channel)];
    while (e && (e->out != out || e->peer != peer || e->channel != channel)) {
        e = e->hash_next;
    }
    return e;
}

static struct rdi_edge *new_edge(struct rondo_comm *c, bool out, int peer, unsigned channel) {
    struct rdi_edge *e = calloc(1, sizeof *e);
    if (!e) {
        rdi_fail(RONDO_ERR_NOMEM, "out of memory for an edge to rank %d", peer);
        return NULL;
    }
    *e = (struct rdi_edge){.comm = c, .out = out, .peer = peer, .channel = channel};
    unsigned b = bucket(c, out, peer, channel);
    e->hash_next = c->hash[b];
    c->hash[b] = e;
    e->next = c->edges;
    c->edges = e;
    return e;
}

rondo_status rdi_comm_edge(struct rondo_comm *c, bool out, int peer, unsigned channel,
                           struct rdi_edge **edge) {
    struct rdi_edge *e = find_edge(c, out, peer, channel);
    if (!e) {
        e = new_edge(c, out, peer, channel);
        if (!e) {
            return RONDO_ERR_NOMEM;
        }
    }
    if (out && !e->link) {
        struct rdi_engine *g = c->engine;
        struct rdi_net *net;
        int to = c->world[peer];
        rondo_status s = rdi_engine_route(g, to, &net);
        if (s != RONDO_OK) {
            return s;
        }
        const struct rdi_peer *p = &g->peers[to];
        struct rdi_link_id id = {
            .comm = c->id, .from = (uint32_t)g->job.rank, .to = (uint32_t)to, .channel = channel};
        s = net->ops->connect(net, &id, p->blob[p->net], p->blob_len[p->net], &e->link);
        if (s != RONDO_OK) {
            return s;
        }
        e->link->owner = e;
    }
    *edge = e;
    return RONDO_OK;
}

struct rdi_edge *rdi_comm_adopt(struct rondo_comm *c, struct rdi_link *link) {
    int from = (int)link->id.from, peer = -1;
    if (from < c->size && c->world[from] == from) {
        peer = from; // as in the world's own communicator
    }
    for (int r = 0; r < c->size && peer < 0; r++) {
        peer = c->world[r] == from ? r : -1;
    }
    struct rdi_edge *e = peer < 0 ? NULL : find_edge(c, false, peer, link->id.channel);
    if (peer >= 0 && !e) {
        e = new_edge(c, false, peer, link->id.channel);
    }
    if (!e || e->link) {
        // Not a member, or a second link for the same edge: only a broken peer does that.
        link->ops->close_link(link, false);
        return NULL;
    }
    e->link = link;
    link->owner = e;
    return e;
}

// ---- Life ----------------------------------------------------------------------------------------

static const struct rdi_seat *seat_of(const void *arg, int rank) {
    const struct rondo_comm *c = arg;
    return &c->engine->peers[c->world[rank]].seat;
}

// By the communicator's own lowest rank: those of the job need not be among its members.
static rondo_status find_hosts(struct rondo_comm *c, int *host) {
    const struct rdi_engine *g = c->engine;
    int *lowest = rdi_engine_know_hosts(c->engine) ? malloc((size_t)g->job.size * sizeof *lowest)
                                                   : NULL;
    if (!lowest) {
        return rdi_fail(RONDO_ERR_NOMEM, "out of memory for the hosts of %d ranks", c->size);
    }
    memset(lowest, 0xff, (size_t)g->job.size * sizeof *lowest); // -1
    for (int r = 0; r < c->size; r++) {
        int *at = &lowest[g->peers[c->world[r]].first];
        *at = *at < 0 ? r : *at;
        host[r] = *at;
    }
    free(lowest);
    return RONDO_OK;
}

static rondo_status lay_out(struct rondo_comm *c) {
    int *host = malloc((size_t)c->size * sizeof *host);
    rondo_status s =
        host ? find_hosts(c, host)
             : rdi_fail(RONDO_ERR_NOMEM, "out of memory for the hosts of %d ranks", c->size);
    s = s == RONDO_OK ? rdi_layout_make(&c->layout, c->size, c->rank, host, seat_of, c) : s;
    free(host);
    if (s != RONDO_OK) {
        return s;
    }
    const struct rdi_layout *l = &c->layout;
    c->local_size = l->nlocals;
    for (int i = 0; i < l->nlocals; i++) {
        c->local_rank += l->locals[i] < c->rank;
    }
    c->plan.max_local = l->max_local;
    c->plan.hosts = (uint32_t)l->hosts;
    c->plan.layout = l->hash;
    return RONDO_OK;
}

rondo_status rdi_comm_create(struct rdi_engine *g, uint64_t id, int rank, int size,
                             const int *world, const struct rdi_plan *plan,
                             struct rondo_comm **out) {
    struct rondo_comm *c = calloc(1, sizeof *c);
    unsigned hash_size = 16;
    while (hash_size < 4096 && hash_size < 4 * (unsigned)size) {
        hash_size *= 2;
    }
    if (c) {
        c->world = malloc((size_t)size * sizeof *c->world);
        c->hash = calloc(hash_size, sizeof *c->hash);
    }
    if (!c || !c->world || !c->hash) {
        if (c) {
            free(c->world);
            free(c->hash);
            free(c);
        }
        return rdi_fail(RONDO_ERR_NOMEM, "out of memory for a communicator of %d ranks", size);
    }
    memcpy(c->world, world, (size_t)size * sizeof *world);
    c->engine = g;
    c->id = id;
    c->rank = rank;
    c->size = size;
    c->hash_size = hash_size;
    c->plan = *plan;
    c->plan.ranks = (uint32_t)size;
    rondo_status s = lay_out(c);
    if (s != RONDO_OK) {
        free(c->world);
        free(c->hash);
        free(c);
        return s;
    }
    c->plan_hash = rdi_plan_hash(&c->plan);
    atomic_store(&c->timeout_ms, g->options.num[RDI_OPT_OP_TIMEOUT]);
    c->record = rdi_record_open(c);
    c->next = g->comms;
    g->comms = c;
    for (unsigned i = 0; i < g->norphans;) {
        struct rdi_orphan o = g->orphans[i];
        if (o.link->id.comm != id) {
            i++;
            continue;
        }
        g->orphans[i] = g->orphans[--g->norphans];
        const struct rdi_edge *e = rdi_comm_adopt(c, o.link);
        if (e && o.has_sig) {
            rdi_comm_check_sig(c, e->peer, &o.sig);
        }
    }
    *out = c;
    return RONDO_OK;
}

static void bury(const struct rondo_comm *c) {
    struct rdi_engine *g = c->engine;
    struct rdi_tomb *t = &g->tombs[g->ntombs++ % RDI_TOMBS];
    t->id = c->id;
    t->status = (rondo_status)atomic_load(&c->status);
    memcpy(t->why, c->why, sizeof t->why);
}

void rdi_comm_free(struct rondo_comm *c, bool bye) {
    bury(c);
    rdi_record_close(c);
    struct rondo_comm **at = &c->engine->comms;
    while (*at != c) {
        at = &(*at)->next;
    }
    *at = c->next;
    while (c->edges) {
        struct rdi_edge *e = c->edges;
        c->edges = e->next;
        rdi_edge_free(e, bye);
    }
    rdi_layout_free(&c->layout);
    free(c->hash);
    free(c->world);
    free(c->p2p_seq);
    free(atomic_load(&c->sent));
    free(c->failure.failed);
    free(c);
}

// ---- Failure -------------------------------------------------------------------------------------

void rdi_comm_fail(struct rondo_comm *c, rondo_status s, const char *fmt, ...) {
    char text[RDI_ERROR_TEXT];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    rdi_fault_accuse(c, -1, s, text);
}

void rdi_comm_fail_link(struct rondo_comm *c, int peer, rondo_status s, const char *fmt, ...) {
    char text[RDI_ERROR_TEXT];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    rdi_fault_accuse(c, peer, s, text);
}

// Ends the operations of a communicator that has failed. A device has to be through with its part, too: its
// waits are released, and what it then reads and writes is still there. One that does not come through (its stream
// is held up, or the device is in error) is abandoned after a while, with the memory that it may touch.
static int complete_all(struct rondo_comm *c, uint64_t now) {
    int moved = 0;
    for (struct rondo_request *r = c->head, *next; r; r = next) {
        next = r->next;
        if (r->gpu) {
            rdi_gpu_poison(r);
        }
        if (r->gpu && !rdi_gpu_idle(r) && now < c->drain_until + DEVICE_GRACE_NS) {
            continue;
        }
        rdi_op_complete(r, (rondo_status)atomic_load(&c->status));
        moved++;
    }
    return moved;
}

static int drain(struct rondo_comm *c, uint64_t now) {
    struct abort_msg m = {.status = atomic_load(&c->status), .origin = c->rank};
    memcpy(m.text, c->why, sizeof m.text);
    bool waiting = false;
    int moved = 0;
    for (struct rdi_edge *e = c->edges; e; e = e->next) {
        if (rdi_fault_is_lost(c, e->peer)) {
            continue; // it will not answer
        }
        if (e->link && e->link->state == RDI_LINK_CONNECTING) {
            // The peer may have accepted already: closed without a word, it would blame us.
            waiting = true;
        }
        if (!e->link || e->link->state != RDI_LINK_UP) {
            continue;
        }
        if (!e->abort_sent &&
            e->link->ops->ctrl(e->link, RDI_CTRL_ABORT, &m, sizeof m) == RONDO_OK) {
            e->abort_sent = true;
            moved++;
        }
        waiting |= !e->abort_sent || !e->abort_got;
    }
    if (waiting && now < c->drain_until) {
        return moved;
    }
    for (struct rdi_edge *e = c->edges; e; e = e->next) {
        if (e->link) {
            e->link->ops->close_link(e->link, e->abort_sent);
            e->link = NULL;
        }
        e->head = e->tail = NULL;
    }
    c->drained = true;
    complete_all(c, now);
    return moved + 1;
}

void rdi_comm_ctrl(struct rondo_comm *c, struct rdi_edge *e, unsigned type, const void *msg,
                   size_t len) {
    if (type == RDI_CTRL_SIG && len == sizeof(struct rdi_sig)) {
        struct rdi_sig sig;
        memcpy(&sig, msg, sizeof sig);
        rdi_comm_check_sig(c, e->peer, &sig);
    } else if (type == RDI_CTRL_ABORT && len == sizeof(struct abort_msg)) {
        struct abort_msg m;
        memcpy(&m, msg, sizeof m);
        rdi_printable(m.text, sizeof m.text);
        e->abort_got = true;
        char who[128];
        if (m.text[0] == '\0') {
            snprintf(m.text, sizeof m.text, "%s ended the communicator without a reason",
                     rdi_comm_who(c, e->peer, who, sizeof who));
        }
        if (m.status == RONDO_ERR_PARTITIONED) {
            // Its side had to stop; whether this rank has to, its own watch knows.
            rdi_comm_fail_link(c, e->peer, RONDO_ERR_PEER, "%s had to stop: %s",
                               rdi_comm_who(c, e->peer, who, sizeof who), m.text);
            return;
        }
        rdi_comm_fail(c, m.status < 0 ? (rondo_status)m.status : RONDO_ERR_ABORTED, "%s", m.text);
    }
}

// ---- Signatures ----------------------------------------------------------------------------------

void rdi_comm_mismatch(struct rondo_comm *c, int from, const struct rdi_sig *theirs,
                       const struct rdi_sig *ours) {
    char a[256], b[256], who[2][128];
    rdi_comm_fail(
        c, RONDO_ERR_MISMATCH,
        "ranks called different operations as number %llu of their communicator: %s called %s; %s "
        "called %s. All ranks must call the same operations in the same order",
        (unsigned long long)ours->seq, rdi_comm_who(c, from, who[0], sizeof who[0]),
        rdi_op_describe(theirs, a, sizeof a), rdi_comm_who(c, c->rank, who[1], sizeof who[1]),
        rdi_op_describe(ours, b, sizeof b));
}

void rdi_comm_check_sig(struct rondo_comm *c, int from, const struct rdi_sig *sig) {
    if (sig->comm != c->id || sig->kind >= RDI_KIND_COUNT) {
        rdi_comm_fail(c, RONDO_ERR_INTERNAL, "rank %d sent a signature of another communicator",
                      from);
        return;
    }
    if (sig->kind == RDI_SEND) {
        return; // compared when the local recv reaches it, see rdi_flow_peek()
    }
    if (sig->seq < c->seq) {
        const struct rdi_sig *ours = &c->history[sig->seq % RDI_SIG_HISTORY];
        if (ours->seq == sig->seq && memcmp(ours, sig, sizeof *sig) != 0) {
            rdi_comm_mismatch(c, from, sig, ours);
        }
        return;
    }
    for (unsigned i = 0; i < c->nearly; i++) {
        if (c->early[i].from == from && c->early[i].sig.seq == sig->seq) {
            return;
        }
    }
    // A rank that is far ahead is compared again when its messages are reached: dropping is no loss.
    if (c->nearly < RDI_EARLY_SIGS) {
        c->early[c->nearly].sig = *sig;
        c->early[c->nearly++].from = from;
    }
}

// ---- Progress ------------------------------------------------------------------------------------

static bool send_pending_sig(struct rondo_request *r) {
    struct rondo_comm *c = r->comm;
    struct rdi_edge *e;
    rondo_status s = rdi_comm_edge(c, true, rdi_layout_next(&c->layout, 1), RDI_CH_COLL, &e);
    if (s != RONDO_OK) {
        rdi_comm_fail(c, s, "%s", rondo_last_error());
        return false;
    }
    // A neighbour that said good-bye has had this operation, too, and needs no signature any more.
    if (e->link->state != RDI_LINK_CLOSED) {
        s = e->link->ops->ctrl(e->link, RDI_CTRL_SIG, &r->sig, sizeof r->sig);
    }
    if (s == RONDO_OK) {
        r->sig_pending = false;
        return true;
    }
    // Any other state of the link is dealt with by rdi_edge_progress().
    if (s != RONDO_AGAIN && e->link->state == RDI_LINK_UP) {
        rdi_comm_fail(c, s, "%s", rondo_last_error());
    }
    return false;
}

// A rank that is late is no failure; it is named, less and less often.
static void warn_slow(struct rondo_request *r, uint64_t now) {
    int peer;
    char what[256], who[128];
    const char *wait;
    (void)rdi_op_wait(r, &peer, &wait);
    uint64_t started = r->deadline - r->timeout_ns;
    r->warn_at = now + 2 * (now - started);
    rdi_log(&r->comm->engine->env, RONDO_LOG_WARN,
            "rank %d: %s no. %llu waits since %.1f s%s%s (%s); that rank is late, or waits for "
            "another one itself",
            r->comm->rank, rdi_op_describe(&r->sig, what, sizeof what),
            (unsigned long long)r->sig.seq, (double)(now - started) / 1e9, peer >= 0 ? " for " : "",
            peer >= 0 ? rdi_comm_who(r->comm, peer, who, sizeof who) : "", wait);
}

static int op_progress(struct rondo_request *r, uint64_t now) {
    int moved = r->algo ? r->algo->advance(r) : 0;
    if (r->sig_pending) {
        moved += send_pending_sig(r);
    }
    if (r->flows_left == 0 && !r->sig_pending && (!r->gpu || rdi_gpu_over(r))) {
        rdi_op_complete(r, RONDO_OK);
        return moved + 1;
    }
    if (now >= r->deadline) {
        char text[RDI_ERROR_TEXT];
        rdi_op_report(r, text, sizeof text);
        rdi_comm_fail(r->comm, RONDO_ERR_TIMEOUT, "%s", text);
    } else if (now >= r->warn_at) {
        warn_slow(r, now);
    }
    return moved;
}

int rdi_comm_progress(struct rondo_comm *c, uint64_t now, bool links_only) {
    int moved = 0;
    if (c->drained) {
        return complete_all(c, now);
    }
    if (atomic_load_explicit(&c->status, memory_order_relaxed) != RONDO_OK) {
        return drain(c, now);
    }
    if (c->accused.stage != RDI_NOT_ACCUSED) {
        return 0; // stands still until the failure is decided
    }
    for (struct rdi_edge *e = c->edges; e; e = e->next) {
        moved += rdi_edge_progress(e, now);
        rdi_edge_check_unclaimed(e);
    }
    for (struct rondo_request *r = links_only ? NULL : c->head, *next; r; r = next) {
        next = r->next;
        moved += op_progress(r, now);
        if (atomic_load_explicit(&c->status, memory_order_relaxed) != RONDO_OK) {
            return drain(c, now) + 1;
        }
    }
    return moved;
}
