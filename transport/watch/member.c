// SPDX-License-Identifier: MIT
// From evidence to decisions.
//
// Whoever has evidence tells the coordinator, the lowest live rank that it does not suspect, again and again until
// an epoch has taken it in. The coordinator waits a moment (several ranks may be dying together) and then decides:
//
//   coordinator                        every other survivor
//     PROPOSE epoch E+1, round, set -->  accepts, unless it accepted a higher round
//                                  <--   ACK | PRIOR: what it had accepted from another coordinator
//                                  <--   ALIVE: I hear one of those who are said to be silent
//     all have answered:
//     COMMIT ------------------------->  applies it, passes it on
//
// A survivor is one who is not in the set, and all survivors have to answer: who does not will be suspected itself
// and is in the set of the next round. A set that was committed by a coordinator which died then has been accepted
// by all survivors, so its successor hears of it from all of them, and commits it before its own: that is the one
// rule that makes survivors agree (a single-decree Paxos with all survivors as quorum; Lamport, "Paxos Made
// Simple", 2001). One that is stopped, for now, need not answer: it cannot have decided anything that the others have
// not accepted, and hears of the decision when it runs again.
//
// Whether those who are silent are dead or cut off nobody can tell, so a set with silent ranks needs a majority of
// those who may live on this side; a tie goes to the side with the lowest rank. Without one the coordinator only
// asks (PROPOSE with `ask`) whether nobody hears them, and its side stops when all have confirmed it: it may be
// just its own paths that are lost.
#include "transport/watch/core.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SETTLE_DEAD (100 * RDI_W_MS)
#define REPEAT (100 * RDI_W_MS)
#define STALE (1000 * RDI_W_MS)

const char *rdi_w_who(const struct rdi_watch *w, int rank, char *buf, size_t cap) {
    const struct rdi_watch_peer *p = &w->ranks[rank].peer;
    snprintf(buf, cap, "rank %d (host %s, pid %d)", rank, p->host, p->pid);
    return buf;
}

void rdi_w_end(struct rdi_watch *w, rondo_status s, const char *fmt, ...) {
    if (w->state != RONDO_OK) {
        return;
    }
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(w->why, sizeof w->why, fmt, ap);
    va_end(ap);
    w->state = s;
    rdi_log(&w->env, RONDO_LOG_ERROR, "%s", w->why);
    rdi_w_tell(w);
}

// ---- Suspicions ----------------------------------------------------------------------------------

static void suspect(struct rdi_watch *w, int rank, enum rdi_watch_cause cause, bool own,
                    const char *text) {
    struct rdi_w_rank *r = &w->ranks[rank];
    uint64_t now = rdi_w_now(w);
    if (r->cause == RDI_CAUSE_NONE) {
        r->since = now;
    }
    r->refreshed = now;
    // A process that is gone is no longer merely silent; and what this rank saw itself counts more.
    bool better = r->cause == RDI_CAUSE_NONE ||
                  (r->cause != RDI_CAUSE_DEAD && cause == RDI_CAUSE_DEAD) || (own && !r->own);
    if (better && !(r->cause == RDI_CAUSE_DEAD && cause != RDI_CAUSE_DEAD)) {
        r->cause = cause;
        snprintf(r->text, sizeof r->text, "%s", text);
    }
    r->own = r->own || own;
}

void rdi_w_evidence(struct rdi_watch *w, int rank, enum rdi_watch_cause cause, const char *fmt,
                    ...) {
    struct rdi_w_rank *r = &w->ranks[rank];
    char text[RDI_WATCH_TEXT], who[160];
    // A newcomer is nobody's judge: members may close its links when they decide about its predecessor.
    if (rank == w->rank || w->joining || !rdi_w_live(w, rank) || w->closing ||
        w->state != RONDO_OK || (r->own && (r->cause == cause || r->cause == RDI_CAUSE_DEAD)) ||
        (cause != RDI_CAUSE_DEAD && rdi_w_now(w) < r->alive_until)) {
        return;
    }
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    if (cause != RDI_CAUSE_SILENT || !r->told_silent) {
        rdi_log(&w->env, RONDO_LOG_INFO, "%s %s", rdi_w_who(w, rank, who, sizeof who), text);
    }
    r->told_silent = cause == RDI_CAUSE_SILENT;
    suspect(w, rank, cause, true, text);
    w->tick_at = 0;
}

void rdi_w_clear(struct rdi_watch *w, int rank) {
    struct rdi_w_rank *r = &w->ranks[rank];
    r->cause = RDI_CAUSE_NONE;
    r->own = false;
}

void rdi_w_look_again(struct rdi_watch *w) {
    uint64_t now = rdi_w_now(w);
    for (int i = 0; i < w->size; i++) {
        struct rdi_w_rank *r = &w->ranks[i];
        r->since = r->cause == RDI_CAUSE_SILENT ? now : r->since;
    }
}

int rdi_w_coordinator(const struct rdi_watch *w) {
    for (int r = 0; r < w->size; r++) {
        if (r == w->rank || (rdi_w_live(w, r) && w->ranks[r].cause == RDI_CAUSE_NONE &&
                             !w->ranks[r].told_stopped)) {
            return r;
        }
    }
    return w->rank;
}

void rdi_w_on_suspect(struct rdi_watch *w, int from, const struct rdi_w_suspect *m) {
    struct rdi_w_rank *r = &w->ranks[m->rank];
    int rank = (int)m->rank;
    if (rank == w->rank || !rdi_w_live(w, rank) || m->incarnation != r->peer.incarnation) {
        return;
    }
    bool hears = rdi_w_hears(w, rank);
    if (m->cause != RDI_CAUSE_DEAD && (hears || rdi_w_now(w) < r->alive_until)) {
        // One step is all that is relayed: who was only told so names the one that hears it.
        const struct rdi_w_alive a = {.epoch = w->epoch + 1,
                                      .rank = m->rank,
                                      .via = (uint32_t)(hears ? w->rank + 1 : r->via)};
        rdi_w_send(w, from, RDI_W_ALIVE, &a, sizeof a);
        return;
    }
    suspect(w, rank, (enum rdi_watch_cause)m->cause, false, m->text);
}

static void tell_coordinator(struct rdi_watch *w, int to) {
    for (int i = 0; i < w->size; i++) {
        const struct rdi_w_rank *r = &w->ranks[i];
        if (!r->own || r->cause == RDI_CAUSE_NONE || !rdi_w_live(w, i)) {
            continue;
        }
        struct rdi_w_suspect m = {.epoch = w->epoch,
                                  .rank = (uint32_t)i,
                                  .incarnation = r->peer.incarnation,
                                  .cause = r->cause};
        memcpy(m.text, r->text, sizeof m.text);
        rdi_w_send(w, to, RDI_W_SUSPECT, &m, sizeof m);
    }
}

// ---- Proposals -----------------------------------------------------------------------------------

static uint64_t settle(const struct rdi_watch *w, enum rdi_watch_cause c) {
    return c == RDI_CAUSE_DEAD || w->beat_ns < SETTLE_DEAD ? SETTLE_DEAD : w->beat_ns;
}

// Fills what there is to decide; false: nothing, or not yet.
static bool compose(struct rdi_watch *w, uint64_t now, struct rdi_w_decision *d) {
    bool due = false;
    int first = -1, joined = 0;
    *d = (struct rdi_w_decision){.epoch = w->epoch + 1, .coordinator = (uint32_t)w->rank};
    for (int i = 0; i < w->size; i++) {
        const struct rdi_w_rank *r = &w->ranks[i];
        if (rdi_w_live(w, i) && r->cause != RDI_CAUSE_NONE && i != w->rank) {
            rdi_ranks_add(d->failed, i);
            due |= now >= r->since + settle(w, r->cause);
            d->soft |= r->cause != RDI_CAUSE_DEAD;
            if (first < 0) {
                first = i;
                d->cause = r->cause;
                memcpy(d->text, r->text, sizeof d->text);
            }
        } else if (r->ready && !rdi_w_live(w, i) && joined < RDI_W_JOINED) {
            d->joined[joined][0] = (uint32_t)i + 1;
            d->joined[joined++][1] = r->record_incarnation;
            due = true;
        }
    }
    return due;
}

static bool survives(const struct rdi_watch *w, const struct rdi_w_decision *d, int rank) {
    return rdi_w_live(w, rank) && !rdi_ranks_has(d->failed, rank);
}

enum majority { NONE, NOT_YET, MAJORITY };

// Whether this side may decide about silent ranks. One that is stopped will be on the first side that it hears from
// when it runs again, so it counts for none until then, or until it is given up.
static enum majority majority_of(const struct rdi_watch *w, const struct rdi_w_decision *d) {
    int here = 0, stopped = 0, base = 0, lowest = -1;
    for (int i = 0; i < w->size; i++) {
        if (!rdi_w_live(w, i)) {
            continue;
        }
        bool s = survives(w, d, i);
        // Of the dead those count that may have gone on without this side before they ended.
        if (s || w->ranks[i].cause == RDI_CAUSE_SILENT || w->ranks[i].apart) {
            lowest = lowest < 0 ? i : lowest;
            base++;
            here += s;
            stopped += s && w->ranks[i].told_stopped && i != w->rank;
        }
    }
    bool first = lowest >= 0 && survives(w, d, lowest) && !w->ranks[lowest].told_stopped;
    if (base == here) {
        return MAJORITY; // nobody is silent
    }
    int sure = here - stopped;
    if (2 * sure > base || (2 * sure == base && first)) {
        return MAJORITY;
    }
    return 2 * here >= base && stopped > 0 ? NOT_YET : NONE;
}

static void cut_off(struct rdi_watch *w, const struct rdi_w_decision *d) {
    const struct rdi_w_cut cut = {.epoch = 0};
    int here = 0, silent = 0;
    for (int i = 0; i < w->size; i++) {
        here += survives(w, d, i);
        silent += rdi_w_live(w, i) && rdi_ranks_has(d->failed, i);
        if (i != w->rank && survives(w, d, i)) {
            rdi_w_send(w, i, RDI_W_CUT, &cut, sizeof cut);
        }
    }
    rdi_w_end(w, RONDO_ERR_PARTITIONED,
              "this side of a partition has no majority: %d ranks can be reached from rank %d, %d "
              "are silent. Those may go on without this side, so it has to stop; what it would "
              "write would be no result of the job",
              here, w->rank, silent);
}

static bool same(const struct rdi_w_decision *a, const struct rdi_w_decision *b) {
    return a->epoch == b->epoch && a->soft == b->soft && a->ask == b->ask &&
           memcmp(a->failed, b->failed, sizeof a->failed) == 0 &&
           memcmp(a->joined, b->joined, sizeof a->joined) == 0;
}

static void spread(struct rdi_watch *w) {
    for (int i = 0; i < w->size; i++) {
        if (i != w->rank && survives(w, &w->proposal, i) && !rdi_ranks_has(w->acked, i)) {
            rdi_w_send(w, i, RDI_W_PROPOSE, &w->proposal, sizeof w->proposal);
        }
    }
    w->proposed_at = rdi_w_now(w);
}

static void note_prior(struct rdi_watch *w, int rank, const struct rdi_w_decision *d) {
    if (w->has_prior && !(same(&w->prior_decision, d) && w->prior_decision.round == d->round)) {
        w->prior_differs = true;
        return;
    }
    w->has_prior = true;
    w->prior_decision = *d;
    rdi_ranks_add(w->prior, rank);
}

static void propose(struct rdi_watch *w, const struct rdi_w_decision *d) {
    w->proposal = *d;
    w->proposal.round = ++w->round;
    w->proposing = true;
    memset(w->acked, 0, sizeof w->acked);
    memset(w->prior, 0, sizeof w->prior);
    w->has_prior = w->prior_differs = false;
    // This rank's own answer.
    if (w->has_accepted && w->accepted.epoch == d->epoch &&
        w->accepted.coordinator != (uint32_t)w->rank) {
        note_prior(w, w->rank, &w->accepted);
    }
    rdi_ranks_add(w->acked, w->rank);
    spread(w);
}

static void commit_if_whole(struct rdi_watch *w) {
    bool all_prior = w->has_prior && !w->prior_differs;
    for (int i = 0; i < w->size; i++) {
        if (!survives(w, &w->proposal, i)) {
            continue;
        }
        if (w->ranks[i].told_stopped && i != w->rank) {
            continue;
        }
        if (!rdi_ranks_has(w->acked, i)) {
            return;
        }
        all_prior = all_prior && rdi_ranks_has(w->prior, i);
    }
    const struct rdi_w_decision d = all_prior ? w->prior_decision : w->proposal;
    if (w->proposal.ask) {
        cut_off(w, &w->proposal);
    } else if (majority_of(w, &d) == MAJORITY) {
        rdi_w_on_commit(w, w->rank, &d);
    }
}

void rdi_w_on_ack(struct rdi_watch *w, int from, uint64_t epoch, uint64_t round) {
    if (!w->proposing || epoch != w->proposal.epoch) {
        return;
    }
    if (round > w->proposal.round) {
        // It follows another coordinator's higher round. Ours, should we still be one, has to be higher.
        w->round = round;
        w->proposing = false;
    } else if (round == w->proposal.round && survives(w, &w->proposal, from)) {
        rdi_ranks_add(w->acked, from);
        commit_if_whole(w);
    }
}

void rdi_w_on_prior(struct rdi_watch *w, int from, const struct rdi_w_decision *m) {
    if (w->proposing && m->epoch == w->proposal.epoch && survives(w, &w->proposal, from)) {
        note_prior(w, from, m);
    }
}

void rdi_w_on_alive(struct rdi_watch *w, int from, const struct rdi_w_alive *m) {
    struct rdi_w_rank *r = &w->ranks[m->rank];
    char a[160], b[160];
    if (m->epoch != w->epoch + 1 || r->cause == RDI_CAUSE_NONE || r->cause == RDI_CAUSE_DEAD) {
        return;
    }
    if (r->cause == RDI_CAUSE_SILENT && rdi_w_now(w) >= r->alive_until + w->timeout_ns) {
        rdi_log(&w->env, RONDO_LOG_WARN,
                "%s is silent here but %s hears it: it lives, the path to it is lost",
                rdi_w_who(w, (int)m->rank, a, sizeof a),
                rdi_w_who(w, m->via > 0 ? (int)m->via - 1 : from, b, sizeof b));
    }
    rdi_w_lives_behind(w, (int)m->rank, (int)m->via - 1);
    w->proposing = false;
}

// ---- A member's part -----------------------------------------------------------------------------

static bool knows_joined(const struct rdi_watch *w, const struct rdi_w_decision *d) {
    for (int i = 0; i < RDI_W_JOINED && d->joined[i][0]; i++) {
        const struct rdi_w_rank *r = &w->ranks[d->joined[i][0] - 1];
        bool self = (int)d->joined[i][0] - 1 == w->rank && d->joined[i][1] == w->incarnation;
        if (!self && (!r->record || r->record_incarnation != d->joined[i][1] ||
                      r->record_len < r->record_total)) {
            return false;
        }
    }
    return true;
}

// Whether nobody in the set was heard after the question came. Who was heard shortly before it may still speak:
// the answer waits for the next heartbeat's time (the question is repeated).
static bool confirms_silence(struct rdi_watch *w, int from, const struct rdi_w_decision *m) {
    uint64_t now = rdi_w_now(w);
    struct rdi_w_rank *asks = &w->ranks[from]; // both ends of a lost path may, in turns
    bool unsure = false;
    if (asks->asked_epoch != m->epoch) {
        asks->asked_epoch = m->epoch;
        asks->asked_at = now;
    }
    for (int i = 0; i < w->size; i++) {
        // Of one that is known to be dead its successor may be heard.
        if (!rdi_ranks_has(m->failed, i) || !rdi_w_live(w, i) || !rdi_w_hears(w, i) ||
            w->ranks[i].cause == RDI_CAUSE_DEAD) {
            continue;
        }
        if (w->ranks[i].heard > asks->asked_at) {
            const struct rdi_w_alive a = {.epoch = m->epoch,
                                          .round = m->round,
                                          .rank = (uint32_t)i,
                                          .via = (uint32_t)w->rank + 1};
            rdi_w_send(w, from, RDI_W_ALIVE, &a, sizeof a);
            return false;
        }
        unsure = true;
    }
    return !unsure || now > asks->asked_at + w->beat_ns + w->beat_ns / 4;
}

void rdi_w_on_propose(struct rdi_watch *w, int from, const struct rdi_w_decision *m) {
    if (w->joining) {
        return; // its predecessor's answer is asked for, which may be part of another decision
    }
    if (m->epoch <= w->epoch) {
        const struct rdi_w_decision *d = &w->log[m->epoch % RDI_W_LOG];
        if (d->epoch == m->epoch) {
            rdi_w_send(w, from, RDI_W_COMMIT, d, sizeof *d);
        }
        return;
    }
    // One that has missed decisions gets them first; one that cannot know a newcomer answers later.
    if (m->epoch != w->epoch + 1 || rdi_ranks_has(m->failed, w->rank) || !knows_joined(w, m) ||
        (int)m->coordinator != from) {
        return;
    }
    struct rdi_w_ack ack = {.epoch = m->epoch, .round = m->round};
    bool had = w->has_accepted && w->accepted.epoch == m->epoch;
    if (had && w->accepted.round > m->round) {
        ack.round = w->accepted.round;
        rdi_w_send(w, from, RDI_W_ACK, &ack, sizeof ack);
        return;
    }
    if (m->round > w->round) {
        w->round = m->round;
    }
    if (m->soft && !confirms_silence(w, from, m)) {
        return;
    }
    if (m->ask) {
        rdi_w_send(w, from, RDI_W_ACK, &ack, sizeof ack);
        return;
    }
    if (had && w->accepted.coordinator != m->coordinator) {
        rdi_w_send(w, from, RDI_W_PRIOR, &w->accepted, sizeof w->accepted);
    }
    w->accepted = *m;
    w->has_accepted = true;
    rdi_w_send(w, from, RDI_W_ACK, &ack, sizeof ack);
}

static void fail_rank(struct rdi_watch *w, int rank, const struct rdi_w_decision *d, int lowest) {
    struct rdi_w_rank *r = &w->ranks[rank];
    char who[160];
    r->failed_at = d->epoch;
    r->failed_incarnation = r->peer.incarnation;
    if (rank == lowest) {
        memcpy(r->verdict, d->text, sizeof r->verdict);
    } else {
        snprintf(r->verdict, sizeof r->verdict, "was lost together with %.*s", 120,
                 rdi_w_who(w, lowest, who, sizeof who));
    }
    rdi_w_clear(w, rank);
    r->ready = false;
    r->wanted = r->watched = false;
    rdi_w_drop_out(r);
    if (rank == w->rank) {
        rdi_w_end(w, RONDO_ERR_PEER,
                  "this rank, %s, was declared lost by the others (decision %llu): it %s",
                  rdi_w_who(w, rank, who, sizeof who), (unsigned long long)d->epoch, r->verdict);
    } else {
        rdi_w_unlink(w, rank, false);
        rdi_log(&w->env, RONDO_LOG_WARN, "decision %llu: %s %s", (unsigned long long)d->epoch,
                rdi_w_who(w, rank, who, sizeof who), r->verdict);
    }
}

static void let_join(struct rdi_watch *w, int rank, uint32_t incarnation, uint64_t epoch) {
    struct rdi_w_rank *r = &w->ranks[rank];
    char who[160];
    if (r->record && r->record_incarnation == incarnation &&
        r->record_len >= sizeof(struct rdi_watch_peer)) {
        memcpy(&r->peer, r->record, sizeof r->peer);
        rdi_printable(r->peer.host, RDI_HOST_MAX);
        r->peer.blob_len = r->peer.blob_len <= RDI_BLOB_MAX ? r->peer.blob_len : 0;
    }
    w->joining = w->joining && rank != w->rank;
    r->peer.incarnation = incarnation;
    r->joined_at = epoch;
    r->ready = r->left = r->told_stopped = false;
    r->heard = rdi_w_now(w);
    r->apart = false;
    r->beat_heard = 0;
    r->lived_at = 0;
    rdi_w_clear(w, rank);
    rdi_log(&w->env, RONDO_LOG_WARN, "decision %llu: %s, started again (%u), joins",
            (unsigned long long)epoch, rdi_w_who(w, rank, who, sizeof who), incarnation);
}

void rdi_w_on_commit(struct rdi_watch *w, int from, const struct rdi_w_decision *m) {
    const struct rdi_w_decision d = *m;
    if (d.epoch != w->epoch + 1 || !knows_joined(w, &d) || w->state != RONDO_OK) {
        return; // known, or told again when those before it are
    }
    int lowest = -1;
    w->epoch = d.epoch;
    w->log[d.epoch % RDI_W_LOG] = d;
    w->proposing = w->has_accepted = false;
    // Before anything else: should this rank end now, the others know.
    for (int i = 0; i < w->size; i++) {
        bool pass = from == w->rank || w->ranks[i].watched;
        if (i != w->rank && i != from && pass && rdi_w_live(w, i)) {
            rdi_w_send(w, i, RDI_W_COMMIT, &d, sizeof d);
        }
    }
    for (int i = 0; i < w->size; i++) {
        // Of a newcomer that has not joined yet its predecessor is meant. One that said good-bye may have said it to
        // some only: it is lost for all.
        bool before = i == w->rank && w->joining;
        if (rdi_ranks_has(d.failed, i) && (rdi_w_live(w, i) || w->ranks[i].left) && !before) {
            lowest = lowest < 0 ? i : lowest;
            fail_rank(w, i, &d, lowest);
        }
    }
    for (int i = 0; i < RDI_W_JOINED && d.joined[i][0]; i++) {
        let_join(w, (int)d.joined[i][0] - 1, d.joined[i][1], d.epoch);
        if (from == w->rank && (int)d.joined[i][0] - 1 != w->rank) {
            rdi_w_send(w, (int)d.joined[i][0] - 1, RDI_W_COMMIT, &d, sizeof d);
        }
    }
    rdi_w_watch_choose(w);
    rdi_w_tell(w);
}

void rdi_w_on_cut(struct rdi_watch *w, int from, const struct rdi_w_cut *m) {
    char who[160];
    if (m->epoch > 0) {
        rdi_w_end(w, RONDO_ERR_PEER,
                  "this rank was declared lost by the others (decision %llu), as %s tells: it did "
                  "not answer for too long; they have gone on without it",
                  (unsigned long long)m->epoch, rdi_w_who(w, from, who, sizeof who));
    } else {
        rdi_w_end(w, RONDO_ERR_PARTITIONED,
                  "this side of a partition has no majority, as %s tells; it has to stop",
                  rdi_w_who(w, from, who, sizeof who));
    }
}

// ---- This rank itself ----------------------------------------------------------------------------

// What was not heard meanwhile says nothing about others. And they may have given this rank up and gone on without
// it, perhaps to their end: so it decides nothing before it has heard from most of them again.
void rdi_w_gap(struct rdi_watch *w, uint64_t now, uint64_t gap) {
    for (int i = 0; i < w->size; i++) {
        w->ranks[i].heard = now;
        if (w->ranks[i].cause != RDI_CAUSE_DEAD) {
            rdi_w_clear(w, i);
        }
    }
    rdi_log(&w->env, RONDO_LOG_WARN, "rank %d did not run for %.1f s", w->rank, (double)gap / 1e9);
    if (gap >= w->timeout_ns || gap >= w->grace_ns) {
        w->unsure_since = now;
        w->proposing = false;
    }
}

static bool is_unsure(struct rdi_watch *w, uint64_t now) {
    int others = 0, heard = 0;
    if (!w->unsure_since) {
        return false;
    }
    // What was on the way already is no news.
    uint64_t since = w->unsure_since + 2 * w->beat_ns;
    for (int i = 0; i < w->size; i++) {
        const struct rdi_w_rank *r = &w->ranks[i];
        // Who leaves meanwhile may have come to its end without this rank.
        bool left = r->left && r->left_since >= w->unsure_since;
        if (i != w->rank && (rdi_w_live(w, i) || left)) {
            others++;
            // Of one that is known to be dead its successor is heard, which knows nothing of what the job decided.
            heard += !left && r->cause != RDI_CAUSE_DEAD && r->heard > since;
        }
    }
    if (2 * heard >= others) {
        w->unsure_since = 0;
        return false;
    }
    if (now > since + w->timeout_ns) {
        rdi_w_end(w, RONDO_ERR_PARTITIONED,
                  "rank %d did not run for too long, and now hears only %d of %d other ranks: they "
                  "may have gone on without it, so it has to stop",
                  w->rank, heard, others);
    }
    return true;
}

// ---- Time ----------------------------------------------------------------------------------------

int rdi_w_member_progress(struct rdi_watch *w, uint64_t now) {
    struct rdi_w_decision d;
    if (w->state != RONDO_OK || w->joining) {
        return 0;
    }
    for (int i = 0; i < w->size; i++) {
        struct rdi_w_rank *r = &w->ranks[i];
        if (r->cause != RDI_CAUSE_NONE && !r->own && now > r->refreshed + STALE) {
            rdi_w_clear(w, i);
        }
    }
    if (is_unsure(w, now)) {
        return 0;
    }
    bool due = compose(w, now, &d);
    enum majority majority = majority_of(w, &d);
    d.ask = majority == NONE;
    int to = rdi_w_coordinator(w);
    if (to != w->rank) {
        w->proposing = false;
        if (now >= w->tick_at) {
            w->tick_at = now + REPEAT;
            tell_coordinator(w, to);
        }
        return 0;
    }
    if (!due || majority == NOT_YET) {
        w->proposing = false;
        return 0;
    }
    if (w->proposing && same(&d, &w->proposal)) {
        commit_if_whole(w); // one that is stopped by now need not answer
        if (w->proposing && now >= w->proposed_at + REPEAT) {
            spread(w);
        }
        return 0;
    }
    propose(w, &d);
    commit_if_whole(w);
    return 1;
}
