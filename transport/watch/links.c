// SPDX-License-Identifier: MIT
// Connections, heartbeats, and the evidence that they give.
//
// Of two ranks the higher one connects to the lower one, so that all can reach a coordinator, which is the lowest.
// Up to RDI_W_MESH ranks everybody watches everybody; of more, rank r watches r +- 1, 2, 4, 8 ... (degree O(log n)),
// and links to others are made when there is something to say.
//
//   heard   < peer_timeout                        alive
//   silent, all that we sent is acknowledged      the host lives, the process does not run: STOPPED after stop_grace
//   silent, not acknowledged                      SILENT after peer_timeout
//   the connection ends and is refused again      DEAD (the TCP net finds out by itself)
#include "transport/watch/core.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define RETRY_NS (200 * RDI_W_MS)
#define PATIENCE_NS (500 * RDI_W_MS)
#define OUT_MAX 256 // messages that wait for one link

// ---- Sending -------------------------------------------------------------------------------------

void rdi_w_drop_out(struct rdi_w_rank *r) {
    while (r->out) {
        struct rdi_w_out *o = r->out;
        r->out = o->next;
        free(o);
    }
    r->out_tail = NULL;
    r->nout = 0;
}

static void dispatch(struct rdi_watch *w, int from, unsigned type, const union rdi_w_any *m);

bool rdi_w_linked(const struct rdi_watch *w, int rank) {
    const struct rdi_link *l = w->ranks[rank].link;
    return l && l->state == RDI_LINK_UP;
}

void rdi_w_send(struct rdi_watch *w, int to, unsigned type, const void *msg, size_t len) {
    struct rdi_w_rank *r = &w->ranks[to];
    if (to == w->rank) {
        union rdi_w_any m;
        memcpy(&m, msg, len);
        dispatch(w, to, type, &m);
        return;
    }
    r->wanted = true;
    if (rdi_w_relay(w, to, type, msg, len)) {
        return;
    }
    if (!r->out && rdi_w_linked(w, to) && r->link->ops->ctrl(r->link, type, msg, len) == RONDO_OK) {
        return;
    }
    // All that is said is said again while it matters: what finds no room may be lost.
    struct rdi_w_out *o = r->nout < OUT_MAX ? malloc(sizeof *o + len) : NULL;
    if (!o) {
        return;
    }
    *o = (struct rdi_w_out){.type = type, .len = len};
    memcpy(o->bytes, msg, len);
    *(r->out_tail ? &r->out_tail->next : &r->out) = o;
    r->out_tail = o;
    r->nout++;
}

static int flush(struct rdi_watch *w, int rank) {
    struct rdi_w_rank *r = &w->ranks[rank];
    int moved = 0;
    while (r->out && rdi_w_linked(w, rank)) {
        struct rdi_w_out *o = r->out;
        if (r->link->ops->ctrl(r->link, o->type, o->bytes, o->len) != RONDO_OK) {
            break;
        }
        r->out = o->next;
        r->out_tail = r->out ? r->out_tail : NULL;
        r->nout--;
        free(o);
        moved++;
    }
    return moved;
}

// ---- Receiving -----------------------------------------------------------------------------------

rondo_status rdi_w_accept(void *self, struct rdi_link *link) {
    struct rdi_watch *w = self;
    uint32_t from = link->id.from;
    if (link->id.comm != RDI_W_COMM || from >= (uint32_t)w->size || (int)from == w->rank) {
        return rdi_fail(RONDO_ERR_INVALID, "a link that the watch does not know");
    }
    struct rdi_w_rank *r = &w->ranks[from];
    if (r->link && r->link->sender && r->link->state == RDI_LINK_CONNECTING &&
        w->rank > (int)from) {
        // Both ends connect at the same time: the higher one's link is to stay.
        return rdi_fail(RONDO_AGAIN, "rank %d is connecting to rank %u itself", w->rank, from);
    }
    if (r->link) {
        // A process that was started again, or whose link failed there and not yet here.
        r->link->ops->close_link(r->link, false);
    }
    r->link = link;
    r->was_up = r->up = false;
    r->left = false;
    r->heard = rdi_w_now(w);
    link->owner = r;
    return RONDO_OK;
}

static void dispatch(struct rdi_watch *w, int from, unsigned type, const union rdi_w_any *m) {
    switch ((enum rdi_watch_type)type) {
    case RDI_W_SUSPECT:
        rdi_w_on_suspect(w, from, &m->suspect);
        break;
    case RDI_W_PROPOSE:
        rdi_w_on_propose(w, from, &m->decision);
        break;
    case RDI_W_ACK:
        rdi_w_on_ack(w, from, m->ack.epoch, m->ack.round);
        break;
    case RDI_W_PRIOR:
        rdi_w_on_prior(w, from, &m->decision);
        break;
    case RDI_W_ALIVE:
        rdi_w_on_alive(w, from, &m->alive);
        break;
    case RDI_W_COMMIT:
        rdi_w_on_commit(w, from, &m->decision);
        break;
    case RDI_W_REPORT:
        rdi_w_on_report(w, from, &m->verdict);
        break;
    case RDI_W_VERDICT:
        rdi_w_on_verdict(w, from, &m->verdict);
        break;
    case RDI_W_VOTE:
        rdi_w_on_vote(w, from, &m->vote);
        break;
    case RDI_W_QUERY:
        rdi_w_on_query(w, from, &m->vote);
        break;
    case RDI_W_RESULT:
        rdi_w_on_result(w, from, &m->result);
        break;
    case RDI_W_JOIN:
        rdi_w_on_join(w, from, &m->join);
        break;
    case RDI_W_JOIN_ACK:
        rdi_w_on_join_ack(w, from, &m->live);
        break;
    case RDI_W_READY:
        rdi_w_on_ready(w, from, &m->live);
        break;
    case RDI_W_INVITE:
        rdi_w_on_invite(w, &m->invite);
        break;
    case RDI_W_CUT:
        rdi_w_on_cut(w, from, &m->cut);
        break;
    case RDI_W_RELAY:
        rdi_w_on_relay(w, from, &m->relay);
        break;
    case RDI_W_BEAT:
    case RDI_W_TYPES:
        break;
    }
}

static void on_beat(struct rdi_watch *w, int from, const struct rdi_w_beat *m) {
    struct rdi_w_rank *r = &w->ranks[from];
    if (m->incarnation == r->peer.incarnation) { // not its successor, which knows nothing of that
        bool here = m->epoch <= w->epoch && (int32_t)(m->heard - r->apart_at) > 0;
        r->beat_heard = m->number;
        r->apart = r->apart && !here;
    }
    // No more than are remembered, whatever it says.
    uint64_t e = w->epoch > RDI_W_LOG ? w->epoch - RDI_W_LOG : 0;
    for (e = m->epoch > e ? m->epoch : e; e < w->epoch && rdi_w_live(w, from);) {
        e++;
        const struct rdi_w_decision *d = &w->log[e % RDI_W_LOG];
        if (d->epoch == e) {
            rdi_w_send(w, from, RDI_W_COMMIT, d, sizeof *d);
        }
    }
    // A process that this job has given up and that runs again: it has to learn that.
    if (m->incarnation == r->failed_incarnation && r->failed_at > r->joined_at) {
        const struct rdi_w_cut cut = {.epoch = r->failed_at};
        rdi_w_send(w, from, RDI_W_CUT, &cut, sizeof cut);
    }
}

void rdi_w_ctrl(void *self, struct rdi_link *link, unsigned type, const void *msg, size_t len) {
    struct rdi_watch *w = self;
    struct rdi_w_rank *r = link->owner;
    union rdi_w_any m;
    if (!r || r->link != link || !rdi_w_read(type, msg, len, w->size, &m)) {
        rdi_log(&w->env, RONDO_LOG_WARN, "the watch dropped a malformed message of type %u", type);
        return;
    }
    int from = (int)(r - w->ranks);
    r->heard = rdi_w_now(w);
    r->told_silent = false;
    r->via = 0;
    if (r->cause != RDI_CAUSE_NONE && r->own && r->cause != RDI_CAUSE_DEAD) {
        rdi_w_clear(w, from);
    }
    if (r->told_stopped) {
        char who[160];
        r->told_stopped = false;
        rdi_log(&w->env, RONDO_LOG_WARN, "%s runs again", rdi_w_who(w, from, who, sizeof who));
    }
    if (type == RDI_W_BEAT) {
        on_beat(w, from, &m.beat);
        return;
    }
    rdi_w_receive(w, from, type, &m);
}

// One that was declared lost has no part in what the others decide; a newcomer first joins.
void rdi_w_receive(struct rdi_watch *w, int from, unsigned type, const union rdi_w_any *m) {
    bool part = rdi_w_live(w, from) || type == RDI_W_JOIN || type == RDI_W_READY || w->joining;
    if (part || type == RDI_W_CUT || type == RDI_W_COMMIT) {
        dispatch(w, from, type, m);
    }
}

// ---- Connections ---------------------------------------------------------------------------------

// Up to a power of two on either side, so that a rank has O(log n) neighbours and the graph stays connected.
static bool is_neighbour(const struct rdi_watch *w, int rank) {
    int up = (rank - w->rank + w->size) % w->size, down = (w->rank - rank + w->size) % w->size;
    return (up & (up - 1)) == 0 || (down & (down - 1)) == 0;
}

// Beyond the mesh everybody also watches the lowest ranks, as one of them coordinates; the more ranks are
// suspected, the more of them, so that a side of a partition that has none of the lowest finds its own.
void rdi_w_watch_choose(struct rdi_watch *w) {
    int window = RDI_W_WINDOW;
    for (int r = 0; r < w->size; r++) {
        window += 2 * (rdi_w_live(w, r) && w->ranks[r].cause != RDI_CAUSE_NONE);
    }
    for (int r = 0; r < w->size; r++) {
        struct rdi_w_rank *k = &w->ranks[r];
        bool lives = rdi_w_live(w, r), was = k->watched;
        k->watched = r != w->rank && lives &&
                     (w->size <= w->mesh || is_neighbour(w, r) || window > 0);
        window -= lives;
        if (k->watched && !was) {
            k->wanted = true;
            k->heard = rdi_w_now(w);
        }
    }
}

void rdi_w_unlink(struct rdi_watch *w, int rank, bool bye) {
    struct rdi_w_rank *r = &w->ranks[rank];
    if (r->link) {
        r->link->ops->close_link(r->link, bye);
        r->link = NULL;
    }
}

static void try_connect(struct rdi_watch *w, int rank, uint64_t now) {
    struct rdi_w_rank *r = &w->ranks[rank];
    const struct rdi_link_id id = {
        .comm = RDI_W_COMM, .from = (uint32_t)w->rank, .to = (uint32_t)rank};
    r->connect_at = now + RETRY_NS;
    r->was_up = false;
    rondo_status s = w->net->ops->connect(w->net, &id, r->peer.blob, r->peer.blob_len, &r->link);
    if (s == RONDO_OK) {
        r->link->owner = r;
    } else {
        r->link = NULL;
        if (s == RONDO_ERR_SYSTEM || s == RONDO_ERR_NOMEM) {
            snprintf(w->trouble, sizeof w->trouble, "%s", rondo_last_error());
        }
        rdi_log(&w->env, RONDO_LOG_DEBUG, "the watch cannot connect to rank %d: %s", rank,
                rondo_last_error());
    }
}

// A newcomer connects to everybody: it is not known to be expected. And who was to connect to us and did not come
// may be gone.
static bool connects(const struct rdi_watch *w, int rank, uint64_t now) {
    return rank < w->rank || w->joining || w->ranks[rank].doubt ||
           now > w->ranks[rank].heard + PATIENCE_NS;
}

// A link that was up may have failed because the other end replaced it. A new one tells: its address was given to
// us when it listened already, so a connection that is refused at once means that the process is gone, unless it was
// that process that refused it: it may have closed the link that we come back to.
static void link_failed(struct rdi_watch *w, int rank, uint64_t now) {
    struct rdi_w_rank *r = &w->ranks[rank];
    if (r->link->status == RONDO_ERR_SYSTEM || r->link->status == RONDO_ERR_NOMEM) {
        snprintf(w->trouble, sizeof w->trouble, "%s", r->link->why);
    }
    bool peer = r->link->status == RONDO_ERR_PEER && !r->link->answered;
    rdi_log(&w->env, RONDO_LOG_DEBUG, "the watch's link to rank %d failed: %s", rank, r->link->why);
    if (peer && !r->was_up) {
        rdi_w_evidence(w, rank, RDI_CAUSE_DEAD,
                       "ended: its connections closed and nobody listens there any more");
    }
    r->connect_at = peer && r->was_up ? now : now + RETRY_NS;
    r->doubt = peer && r->was_up;
    r->was_up = false;
    rdi_w_unlink(w, rank, false);
}

static int link_state(struct rdi_watch *w, int rank, uint64_t now) {
    struct rdi_w_rank *r = &w->ranks[rank];
    struct rdi_link *l = r->link;
    bool up = l->state == RDI_LINK_UP;
    if (up && !(r->up && r->up_epoch == l->epoch)) {
        r->up_epoch = l->epoch;
        r->up_at = now;
    }
    r->up = up;
    switch (l->state) {
    case RDI_LINK_LOST:
        if (l->sender && l->ops->reset) {
            return l->ops->reset(l, l->epoch + 1) == RONDO_OK;
        }
        return 0;
    case RDI_LINK_FAILED:
        link_failed(w, rank, now);
        return 1;
    case RDI_LINK_CLOSED:
        rdi_w_unlink(w, rank, false);
        r->left = true;
        r->left_since = now;
        rdi_w_look_again(w);
        r->wanted = r->watched = false;
        rdi_w_drop_out(r);
        rdi_w_tell(w);
        return 1;
    case RDI_LINK_UP:
        r->was_up = true;
        w->trouble[0] = '\0';
        r->doubt = false;
        break;
    case RDI_LINK_CONNECTING:
        break;
    }
    return 0;
}

// ---- Silence -------------------------------------------------------------------------------------

static void stopped(struct rdi_watch *w, int rank, uint64_t silent, uint64_t now) {
    struct rdi_w_rank *r = &w->ranks[rank];
    // While there was no path the process may have run as well.
    uint64_t with_path = r->up ? now - r->up_at : silent;
    silent = silent < with_path ? silent : with_path;
    char what[128], who[160];
    if (!r->told_stopped && silent >= rdi_w_lately(w)) {
        rdi_w_stopped_text(w, rank, what, sizeof what);
        r->told_stopped = true;
        rdi_log(&w->env, RONDO_LOG_WARN,
                "%s %s since %.1f s; it will be given up after stop_grace (%.1f s)",
                rdi_w_who(w, rank, who, sizeof who), what, (double)silent / 1e9,
                (double)w->grace_ns / 1e9);
    }
    if (silent >= w->grace_ns) {
        rdi_w_stopped_text(w, rank, what, sizeof what);
        rdi_w_evidence(w, rank, RDI_CAUSE_STOPPED, "%s for more than stop_grace (%.1f s)", what,
                       (double)w->grace_ns / 1e9);
    }
}

static void look_at_silence(struct rdi_watch *w, int rank, uint64_t now) {
    struct rdi_w_rank *r = &w->ranks[rank];
    uint64_t silent = now > r->heard ? now - r->heard : 0;
    if (!r->watched || !rdi_w_live(w, rank) || silent < 2 * w->beat_ns) {
        r->acknowledged = now;
        return;
    }
    // What shares this host is known by its pid: silence can only mean that it does not run.
    bool acknowledged = (r->peer.pid_space != 0 && r->peer.pid_space == w->self.pid_space &&
                         memcmp(r->peer.host_id, w->self.host_id, 16) == 0) ||
                        (r->link && r->link->ops->delivered && r->link->ops->delivered(r->link));
    if (acknowledged) {
        r->acknowledged = now;
        stopped(w, rank, silent, now);
        return;
    }
    // What was said a moment ago is not acknowledged yet, and a host may wait before it does.
    if (now < r->acknowledged + rdi_w_lately(w)) {
        return;
    }
    if (!r->apart && silent >= rdi_w_lately(w)) {
        r->apart = true;
        r->apart_at = w->beats;
    }
    if (silent >= w->timeout_ns) {
        rdi_w_evidence(w, rank, RDI_CAUSE_SILENT,
                       "is silent: its host has acknowledged nothing for peer_timeout (%.1f s)",
                       (double)w->timeout_ns / 1e9);
    }
}

static void say_beat(struct rdi_watch *w, int rank) {
    struct rdi_w_rank *r = &w->ranks[rank];
    const struct rdi_w_beat b = {.epoch = w->epoch,
                                 .incarnation = w->incarnation,
                                 .number = w->beats,
                                 .heard = r->beat_heard};
    r->beat_due = r->link->ops->ctrl(r->link, RDI_W_BEAT, &b, sizeof b) != RONDO_OK;
}

int rdi_w_links_progress(struct rdi_watch *w, uint64_t now) {
    int moved = 0;
    bool beat = now >= w->beat_at;
    if (beat) {
        w->beats++;
        w->beat_at = now + w->beat_ns;
        rdi_w_watch_choose(w);
    }
    for (int i = 0; i < w->size; i++) {
        struct rdi_w_rank *r = &w->ranks[i];
        if (i == w->rank) {
            continue;
        }
        if (r->link) {
            moved += link_state(w, i, now);
        } else if (r->wanted && w->state == RONDO_OK && connects(w, i, now) && !r->left &&
                   r->peer.blob_len && now >= r->connect_at) {
            try_connect(w, i, now);
            moved++;
        }
        // Before more is said: what was said a moment ago cannot have been acknowledged yet.
        look_at_silence(w, i, now);
        moved += r->out ? flush(w, i) : 0;
        r->beat_due = (r->beat_due || beat) && rdi_w_linked(w, i);
        if (r->beat_due) {
            say_beat(w, i);
        }
    }
    return moved;
}
