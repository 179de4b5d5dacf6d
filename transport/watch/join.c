// SPDX-License-Identifier: MIT
// Newcomers: a process that was started again as a rank of a running job. The picture is in watch.h.
//
// It is admitted by a decision like any other, so that all ranks agree from when on it is one of them. All of them
// must have its record before, as each may have to reach it right afterwards.
#include "transport/watch/core.h"

#include <stdlib.h>
#include <string.h>

#define LONELY (10000 * RDI_W_MS) // a newcomer whom nobody of the job answers gives up
#define AGAIN (300 * RDI_W_MS)

static void invite_again(struct rdi_watch *w, uint64_t now);

// ---- The newcomer --------------------------------------------------------------------------------

void rdi_watch_join(struct rdi_watch *w, const void *record, size_t len) {
    size_t head = sizeof w->self;
    pthread_mutex_lock(&w->lock);
    free(w->record);
    w->record = len <= RDI_WATCH_RECORD - head ? malloc(head + len) : NULL;
    if (w->record) {
        memcpy(w->record, &w->self, head);
        memcpy(w->record + head, record, len);
        w->record_len = head + len;
        w->joining = w->outsider = true;
    }
    pthread_mutex_unlock(&w->lock);
}

static void send_record(struct rdi_watch *w, int to) {
    struct rdi_w_join m = {.incarnation = w->incarnation, .total = (uint32_t)w->record_len};
    while (m.offset < m.total) {
        m.len = m.total - m.offset < RDI_W_PART ? m.total - m.offset : RDI_W_PART;
        memcpy(m.bytes, w->record + m.offset, m.len);
        rdi_w_send(w, to, RDI_W_JOIN, &m, sizeof m);
        m.offset += m.len;
    }
}

void rdi_w_on_join_ack(struct rdi_watch *w, int from, const struct rdi_w_live *m) {
    w->join_heard = rdi_w_now(w);
    if (!w->joining || m->incarnation != w->incarnation || m->epoch < w->join_epoch) {
        return;
    }
    if (m->epoch > w->join_epoch || !w->has_live) {
        w->has_live = true;
        w->join_epoch = m->epoch;
        memcpy(w->live_join, m->live, sizeof w->live_join);
        memset(w->acked_join, 0, sizeof w->acked_join);
    }
    rdi_ranks_add(w->acked_join, from);
}

// What the job has decided so far, as far as a newcomer needs to know.
static void take_over(struct rdi_watch *w) {
    w->epoch = w->join_epoch;
    for (int i = 0; i < w->size; i++) {
        struct rdi_w_rank *r = &w->ranks[i];
        bool lives = rdi_ranks_has(w->live_join, i);
        if (i != w->rank) {
            r->failed_at = lives ? 0 : w->epoch;
            r->joined_at = lives && r->peer.incarnation > 0 ? w->epoch : 0;
        }
    }
}

int rdi_w_join_progress(struct rdi_watch *w, uint64_t now) {
    invite_again(w, now);
    if (!w->joining || now < w->join_at || w->state != RONDO_OK) {
        return 0;
    }
    bool all = w->has_live;
    int lowest = -1;
    w->join_at = now + AGAIN;
    for (int i = 0; i < w->size; i++) {
        w->ranks[i].wanted = i != w->rank;
        if (i != w->rank && rdi_w_linked(w, i)) {
            send_record(w, i);
        }
        if (w->has_live && rdi_ranks_has(w->live_join, i) && i != w->rank) {
            lowest = lowest < 0 ? i : lowest;
            all = all && rdi_ranks_has(w->acked_join, i);
        }
    }
    // Other newcomers may be there, but they cannot let it in.
    if (now > (w->join_heard > w->began ? w->join_heard : w->began) + LONELY) {
        rdi_w_end(
            w, RONDO_ERR_PEER,
            "rank %d was started again, but no rank of its job answers: all of them have ended",
            w->rank);
    }
    // What was decided since will be acknowledged, too: there is no way back.
    if (all && lowest >= 0 && w->join_epoch >= w->epoch) {
        struct rdi_w_live m = {.epoch = w->join_epoch, .incarnation = w->incarnation};
        memcpy(m.live, w->acked_join, sizeof m.live);
        take_over(w);
        rdi_w_send(w, lowest, RDI_W_READY, &m, sizeof m);
    }
    return 1;
}

// ---- The members ---------------------------------------------------------------------------------

static void keep_part(struct rdi_w_rank *r, const struct rdi_w_join *m) {
    if (m->offset == 0) {
        uint8_t *p = realloc(r->record, m->total ? m->total : 1);
        if (!p) {
            return;
        }
        r->record = p;
        r->record_total = m->total;
        r->record_len = 0;
        r->record_incarnation = m->incarnation;
    }
    // Parts come in order; one that does not fit begins anew with the next repetition.
    if (r->record && m->incarnation == r->record_incarnation && m->total == r->record_total &&
        m->offset == r->record_len) {
        memcpy(r->record + m->offset, m->bytes, m->len);
        r->record_len += m->len;
    }
}

void rdi_w_on_join(struct rdi_watch *w, int from, const struct rdi_w_join *m) {
    struct rdi_w_rank *r = &w->ranks[from];
    if (w->joining) {
        // Another newcomer, whom this one has to know should one decision admit both. It cannot let it in.
        keep_part(r, m);
        return;
    }
    if (m->incarnation <= r->peer.incarnation && (r->joined_at > 0 || r->peer.incarnation > 0)) {
        return; // one that has joined already, or an older one
    }
    if (rdi_w_live(w, from)) {
        // The launcher started it again, so the former process is gone, whether seen or not.
        rdi_w_evidence(w, from, RDI_CAUSE_DEAD, "ended, and was started again");
        return;
    }
    keep_part(r, m);
    if (!r->record || r->record_len < r->record_total) {
        return;
    }
    struct rdi_w_live ack = {.epoch = w->epoch, .incarnation = m->incarnation};
    for (int i = 0; i < w->size; i++) {
        if (rdi_w_live(w, i)) {
            rdi_ranks_add(ack.live, i);
        }
    }
    rdi_w_send(w, from, RDI_W_JOIN_ACK, &ack, sizeof ack);
}

void rdi_w_on_ready(struct rdi_watch *w, int from, const struct rdi_w_live *m) {
    struct rdi_w_rank *r = &w->ranks[from];
    bool all = m->epoch == w->epoch && r->record && m->incarnation == r->record_incarnation &&
               r->record_len == r->record_total;
    for (int i = 0; i < w->size; i++) {
        all = all && (i == w->rank || !rdi_w_live(w, i) || rdi_ranks_has(m->live, i));
    }
    r->ready = all;
}

bool rdi_watch_record(struct rdi_watch *w, int rank, uint32_t *incarnation, void *buf,
                      size_t *len) {
    const size_t head = sizeof(struct rdi_watch_peer);
    pthread_mutex_lock(&w->lock);
    const struct rdi_w_rank *r = &w->ranks[rank];
    bool have = r->record && r->record_len == r->record_total && r->record_len >= head;
    if (have) {
        *incarnation = r->record_incarnation;
        *len = r->record_len - head;
        memcpy(buf, r->record + head, *len);
    }
    pthread_mutex_unlock(&w->lock);
    return have;
}

void rdi_watch_entered(struct rdi_watch *w) {
    pthread_mutex_lock(&w->lock);
    w->outsider = false;
    pthread_mutex_unlock(&w->lock);
}

// ---- Invitations ---------------------------------------------------------------------------------

void rdi_watch_invite(struct rdi_watch *w, int rank, const struct rdi_watch_invite *in) {
    pthread_mutex_lock(&w->lock);
    if (w->inviting.comm != in->comm) {
        w->inviting = *in;
        memset(w->invited, 0, sizeof w->invited);
    }
    rdi_ranks_add(w->invited, rank);
    rdi_w_send(w, rank, RDI_W_INVITE, in, sizeof *in);
    w->invite_at = rdi_w_now(w) + AGAIN;
    pthread_mutex_unlock(&w->lock);
    rdi_w_thread_wake(w);
}

static void invite_again(struct rdi_watch *w, uint64_t now) {
    if (now < w->invite_at) {
        return;
    }
    w->invite_at = now + AGAIN;
    for (int i = 0; i < w->size; i++) {
        if (rdi_ranks_has(w->invited, i) && rdi_w_live(w, i)) {
            rdi_w_send(w, i, RDI_W_INVITE, &w->inviting, sizeof w->inviting);
        }
    }
}

void rdi_w_invited(struct rdi_watch *w, uint64_t comm) {
    if (w->inviting.comm == comm) {
        memset(w->invited, 0, sizeof w->invited);
    }
}

// The same one may come from several members and several times; it is answered once.
void rdi_w_on_invite(struct rdi_watch *w, const struct rdi_watch_invite *m) {
    if (m->comm != w->invite.comm || m->epoch != w->invite.epoch) {
        w->invite = *m;
        w->has_invite = true;
        rdi_w_tell(w);
    }
}

bool rdi_watch_invited(struct rdi_watch *w, struct rdi_watch_invite *out) {
    pthread_mutex_lock(&w->lock);
    bool have = w->has_invite;
    if (have) {
        *out = w->invite;
        w->has_invite = false;
    }
    pthread_mutex_unlock(&w->lock);
    return have;
}
