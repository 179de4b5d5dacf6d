// SPDX-License-Identifier: MIT
// Verdicts and votes: agreement about communicators, ordered by the same coordinators as the epochs.
//
//   verdict   REPORT (again and again) --> lowest live rank --VERDICT--> all         the first report wins
//   vote      VOTE (again and again) ----> lowest live member --RESULT--> members    when all live members have
//                                                                                    voted in the same epoch
//
// A coordinator that takes over (a member below it has failed) asks all members for the result (QUERY) that its
// predecessor may have told some of them: who has it does not vote, so the new one cannot decide without it.
#include "transport/watch/core.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define REPEAT (100 * RDI_W_MS)

// ---- Verdicts ------------------------------------------------------------------------------------

static struct rdi_w_verdict_entry *find_verdict(struct rdi_watch *w, uint64_t comm) {
    unsigned n = w->nverdicts < RDI_W_VERDICTS ? w->nverdicts : RDI_W_VERDICTS;
    for (unsigned i = 0; i < n; i++) {
        if (w->verdicts[i].comm == comm) {
            return &w->verdicts[i];
        }
    }
    return NULL;
}

static struct rdi_w_verdict_entry *add_verdict(struct rdi_watch *w, uint64_t comm, rondo_status s,
                                               uint32_t culprit, const char *text) {
    struct rdi_w_verdict_entry *v = &w->verdicts[w->nverdicts++ % RDI_W_VERDICTS];
    *v = (struct rdi_w_verdict_entry){.comm = comm, .status = s, .culprit = culprit};
    snprintf(v->text, sizeof v->text, "%s", text);
    return v;
}

static void fill(const struct rdi_w_verdict_entry *v, struct rdi_w_verdict *m) {
    *m = (struct rdi_w_verdict){
        .comm = v->comm, .epoch = v->epoch, .status = v->status, .culprit = v->culprit};
    memcpy(m->text, v->text, sizeof m->text);
}

static void decide(struct rdi_watch *w, struct rdi_w_verdict_entry *v, int from, bool all) {
    struct rdi_w_verdict m;
    v->decided = true;
    fill(v, &m);
    for (int i = 0; i < w->size; i++) {
        if (i != w->rank && i != from && rdi_w_live(w, i) && (all || w->ranks[i].watched)) {
            rdi_w_send(w, i, RDI_W_VERDICT, &m, sizeof m);
        }
    }
    rdi_w_tell(w);
}

// A lower rank may give verdicts of its own behind a lost path, or may have given some before it ended, until it is
// decided whether it lives.
static bool below_is_suspected(const struct rdi_watch *w) {
    for (int i = 0; i < w->rank; i++) {
        if (rdi_w_live(w, i) && w->ranks[i].cause != RDI_CAUSE_NONE) {
            return true;
        }
    }
    return false;
}

void rdi_w_on_report(struct rdi_watch *w, int from, const struct rdi_w_verdict *m) {
    struct rdi_w_verdict_entry *v = find_verdict(w, m->comm);
    if (v && v->decided) {
        struct rdi_w_verdict answer;
        fill(v, &answer);
        rdi_w_send(w, from, RDI_W_VERDICT, &answer, sizeof answer);
        return;
    }
    // One that is to join knows nothing of what its predecessor may have said.
    if (w->joining || rdi_w_coordinator(w) != w->rank || w->unsure_since || below_is_suspected(w)) {
        return; // it will tell the right one, or this one once it agrees
    }
    v = v ? v : add_verdict(w, m->comm, (rondo_status)m->status, m->culprit, m->text);
    v->epoch = w->epoch;
    decide(w, v, w->rank, true);
}

void rdi_w_on_verdict(struct rdi_watch *w, int from, const struct rdi_w_verdict *m) {
    struct rdi_w_verdict_entry *v = find_verdict(w, m->comm);
    if (v && v->decided) {
        return;
    }
    v = v ? v : add_verdict(w, m->comm, (rondo_status)m->status, m->culprit, m->text);
    v->status = (rondo_status)m->status;
    v->culprit = m->culprit;
    v->epoch = m->epoch;
    memcpy(v->text, m->text, sizeof v->text);
    decide(w, v, from, false);
}

static void report_again(struct rdi_watch *w) {
    int to = rdi_w_coordinator(w);
    unsigned n = w->nverdicts < RDI_W_VERDICTS ? w->nverdicts : RDI_W_VERDICTS;
    for (unsigned i = 0; i < n; i++) {
        struct rdi_w_verdict m;
        if (!w->verdicts[i].decided) {
            fill(&w->verdicts[i], &m);
            rdi_w_send(w, to, RDI_W_REPORT, &m, sizeof m);
        }
    }
}

void rdi_watch_report(struct rdi_watch *w, uint64_t comm, rondo_status s, int culprit,
                      const char *text) {
    pthread_mutex_lock(&w->lock);
    if (w->state == RONDO_OK && !find_verdict(w, comm)) {
        struct rdi_w_verdict_entry *v = add_verdict(w, comm, s, (uint32_t)(culprit + 1), text);
        struct rdi_w_verdict m;
        fill(v, &m);
        rdi_w_send(w, rdi_w_coordinator(w), RDI_W_REPORT, &m, sizeof m);
    }
    pthread_mutex_unlock(&w->lock);
    rdi_w_thread_wake(w);
}

bool rdi_watch_verdict(struct rdi_watch *w, uint64_t comm, uint64_t *epoch, rondo_status *s,
                       int *culprit, char text[RDI_ERROR_TEXT]) {
    pthread_mutex_lock(&w->lock);
    const struct rdi_w_verdict_entry *v = find_verdict(w, comm);
    bool known = v && v->decided;
    if (known) {
        *epoch = v->epoch;
        *s = v->status;
        *culprit = (int)v->culprit - 1;
        memcpy(text, v->text, RDI_ERROR_TEXT);
    }
    pthread_mutex_unlock(&w->lock);
    return known;
}

// ---- Votes ---------------------------------------------------------------------------------------

static const struct rdi_w_final *find_final(const struct rdi_watch *w, uint64_t comm,
                                            uint64_t tag) {
    for (unsigned i = 0; i < RDI_W_RESULTS && i < w->nfinals; i++) {
        if (w->finals[i].comm == comm && w->finals[i].tag == tag && w->finals[i].live) {
            return &w->finals[i];
        }
    }
    return NULL;
}

static struct rdi_w_ballot *find_ballot(struct rdi_watch *w, uint64_t comm, uint64_t tag,
                                        bool make) {
    struct rdi_w_ballot *spare = NULL, *foreign = NULL;
    for (unsigned i = 0; i < RDI_WATCH_BALLOTS; i++) {
        struct rdi_w_ballot *b = &w->ballots[i];
        if (b->open && b->comm == comm && b->tag == tag) {
            return b;
        }
        spare = b->open ? spare : b;
        foreign = b->open && !b->mine && !foreign ? b : foreign;
    }
    if (!make) {
        return NULL;
    }
    if (!spare && foreign) {
        // Others voted and will again; this rank's own ballots go first.
        free(foreign->votes);
        spare = foreign;
    }
    if (spare) {
        *spare = (struct rdi_w_ballot){.open = true, .comm = comm, .tag = tag};
    }
    return spare;
}

static void close_ballot(struct rdi_w_ballot *b) {
    free(b->members);
    free(b->votes);
    *b = (struct rdi_w_ballot){.open = false};
}

static void keep_final(struct rdi_watch *w, const struct rdi_w_result *m) {
    struct rdi_w_ballot *b = find_ballot(w, m->comm, m->tag, false);
    unsigned words = RDI_WATCH_SET;
    while (words > 1 && !m->live[words - 1]) {
        words--;
    }
    struct rdi_w_final *f = &w->finals[w->nfinals++ % RDI_W_RESULTS];
    free(f->live);
    *f = (struct rdi_w_final){
        .comm = m->comm, .tag = m->tag, .flags = m->flags, .epoch = m->epoch, .words = words};
    f->live = malloc(words * sizeof *f->live);
    if (f->live) {
        memcpy(f->live, m->live, words * sizeof *f->live);
    }
    if (b) {
        close_ballot(b);
    }
    rdi_w_invited(w, m->comm);
    rdi_w_tell(w);
}

static void fill_result(const struct rdi_w_final *f, struct rdi_w_result *m) {
    *m =
        (struct rdi_w_result){.comm = f->comm, .tag = f->tag, .flags = f->flags, .epoch = f->epoch};
    memcpy(m->live, f->live, f->words * sizeof *f->live);
}

static bool tell_final(struct rdi_watch *w, int to, uint64_t comm, uint64_t tag) {
    const struct rdi_w_final *f = find_final(w, comm, tag);
    struct rdi_w_result m;
    if (f) {
        fill_result(f, &m);
        rdi_w_send(w, to, RDI_W_RESULT, &m, sizeof m);
    }
    return f != NULL;
}

static bool member_lives(const struct rdi_watch *w, const struct rdi_w_ballot *b, int i) {
    const struct rdi_w_rank *r = &w->ranks[b->members[i]];
    return b->members[i] == w->rank || (!r->left && r->failed_at <= b->birth);
}

static int ballot_coordinator(const struct rdi_watch *w, const struct rdi_w_ballot *b,
                              bool *first) {
    int lowest = w->size, all = w->size;
    for (int i = 0; i < b->n; i++) {
        all = b->members[i] < all ? b->members[i] : all;
        // One that is gone may have said good-bye to the others, who then decide nothing about it.
        const struct rdi_w_rank *r = &w->ranks[b->members[i]];
        bool gone = r->own && r->cause == RDI_CAUSE_DEAD;
        if (member_lives(w, b, i) && !gone && b->members[i] < lowest) {
            lowest = b->members[i];
        }
    }
    *first = lowest == all;
    return lowest;
}

void rdi_w_on_vote(struct rdi_watch *w, int from, const struct rdi_w_vote *m) {
    if (tell_final(w, from, m->comm, m->tag)) {
        return;
    }
    struct rdi_w_ballot *b = find_ballot(w, m->comm, m->tag, true);
    if (!b) {
        return;
    }
    for (unsigned i = 0; i < b->nvotes; i++) {
        if (b->votes[i].rank == from) {
            b->votes[i].flags = m->flags;
            b->votes[i].epoch = m->epoch;
            return;
        }
    }
    if (b->nvotes == b->cap_votes) {
        unsigned cap = b->cap_votes ? 2 * b->cap_votes : 16;
        void *more = realloc(b->votes, cap * sizeof *b->votes);
        if (!more) {
            return;
        }
        b->votes = more;
        b->cap_votes = cap;
    }
    b->votes[b->nvotes].rank = from;
    b->votes[b->nvotes].flags = m->flags;
    b->votes[b->nvotes++].epoch = m->epoch;
}

void rdi_w_on_query(struct rdi_watch *w, int from, const struct rdi_w_vote *m) {
    (void)tell_final(w, from, m->comm, m->tag);
}

void rdi_w_on_result(struct rdi_watch *w, int from, const struct rdi_w_result *m) {
    (void)from;
    if (!find_final(w, m->comm, m->tag)) {
        keep_final(w, m);
    }
}

static bool vote_of(const struct rdi_watch *w, const struct rdi_w_ballot *b, int rank,
                    uint64_t *flags) {
    if (rank == w->rank) {
        *flags = b->flags;
        return true;
    }
    for (unsigned i = 0; i < b->nvotes; i++) {
        if (b->votes[i].rank == rank && b->votes[i].epoch == w->epoch) {
            *flags = b->votes[i].flags;
            return true;
        }
    }
    return false;
}

// Coordinator: decides when everybody has voted; asks for an earlier decision when it took over.
static int count(struct rdi_watch *w, struct rdi_w_ballot *b, bool first) {
    struct rdi_w_result m = {.comm = b->comm, .tag = b->tag, .flags = b->flags, .epoch = w->epoch};
    bool whole = true;
    for (int i = 0; i < b->n; i++) {
        uint64_t flags;
        if (!member_lives(w, b, i)) {
            continue;
        }
        if (!vote_of(w, b, b->members[i], &flags)) {
            whole = false;
            if (!first && !(b->queried && b->queried_epoch == w->epoch)) {
                const struct rdi_w_vote q = {.comm = b->comm, .tag = b->tag, .epoch = w->epoch};
                rdi_w_send(w, b->members[i], RDI_W_QUERY, &q, sizeof q);
            }
            continue;
        }
        m.flags &= flags;
        rdi_ranks_add(m.live, i);
    }
    b->queried = true;
    b->queried_epoch = w->epoch;
    if (!whole) {
        return 0;
    }
    for (int i = 0; i < b->n; i++) {
        if (rdi_ranks_has(m.live, i) && b->members[i] != w->rank) {
            rdi_w_send(w, b->members[i], RDI_W_RESULT, &m, sizeof m);
        }
    }
    keep_final(w, &m);
    return 1;
}

static int ballot_progress(struct rdi_watch *w, struct rdi_w_ballot *b, uint64_t now) {
    bool first;
    int to = ballot_coordinator(w, b, &first);
    if (to == w->rank) {
        return count(w, b, first);
    }
    if (b->told_epoch == w->epoch && now < b->sent_at + REPEAT) {
        return 0;
    }
    const struct rdi_w_vote m = {
        .comm = b->comm, .tag = b->tag, .flags = b->flags, .epoch = w->epoch};
    b->told_epoch = w->epoch;
    b->sent_at = now;
    rdi_w_send(w, to, RDI_W_VOTE, &m, sizeof m);
    return 1;
}

rondo_status rdi_watch_vote(struct rdi_watch *w, uint64_t comm, uint64_t tag, const int *members,
                            int n, uint64_t birth, uint64_t flags) {
    rondo_status s = RONDO_OK;
    pthread_mutex_lock(&w->lock);
    struct rdi_w_ballot *b = find_final(w, comm, tag) ? NULL : find_ballot(w, comm, tag, true);
    int *copy = b ? malloc((size_t)n * sizeof *copy) : NULL;
    if (copy) {
        memcpy(copy, members, (size_t)n * sizeof *copy);
        free(b->members);
        b->members = copy;
        b->n = n;
        b->mine = true;
        b->birth = birth;
        b->flags = flags;
        b->told_epoch = UINT64_MAX;
        // One that had to stop, or may have been given up, decides nothing, least of all alone.
        if (w->state == RONDO_OK && !w->unsure_since) {
            (void)ballot_progress(w, b, rdi_w_now(w));
        }
    } else if (!find_final(w, comm, tag)) {
        s = rdi_fail(RONDO_ERR_NOMEM, "no room for one more vote: at most %d are open at a time",
                     RDI_WATCH_BALLOTS);
    }
    pthread_mutex_unlock(&w->lock);
    rdi_w_thread_wake(w);
    return s;
}

bool rdi_watch_result(struct rdi_watch *w, uint64_t comm, uint64_t tag,
                      struct rdi_watch_result *out) {
    pthread_mutex_lock(&w->lock);
    const struct rdi_w_final *f = find_final(w, comm, tag);
    bool known = f && f->epoch <= w->epoch;
    if (known) {
        *out = (struct rdi_watch_result){.flags = f->flags, .epoch = f->epoch};
        memcpy(out->live, f->live, f->words * sizeof *f->live);
    }
    pthread_mutex_unlock(&w->lock);
    return known;
}

void rdi_watch_forget(struct rdi_watch *w, uint64_t comm, uint64_t tag) {
    pthread_mutex_lock(&w->lock);
    struct rdi_w_ballot *b = find_ballot(w, comm, tag, false);
    if (b) {
        close_ballot(b);
    }
    rdi_w_invited(w, comm);
    pthread_mutex_unlock(&w->lock);
}

int rdi_w_agree_progress(struct rdi_watch *w, uint64_t now) {
    int moved = 0;
    if (w->state != RONDO_OK || w->unsure_since) {
        return 0;
    }
    for (unsigned i = 0; i < RDI_WATCH_BALLOTS; i++) {
        if (w->ballots[i].open && w->ballots[i].mine) {
            moved += ballot_progress(w, &w->ballots[i], now);
        }
    }
    if (now >= w->report_at) {
        w->report_at = now + REPEAT;
        report_again(w);
    }
    return moved;
}
