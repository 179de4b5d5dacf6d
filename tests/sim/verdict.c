// SPDX-License-Identifier: MIT
// What must hold: the counters after each step of an engine, and how a run may have ended.
#include "tests/sim/sim_test.h"

#include <stdio.h>
#include <string.h>

// ---- After each step -----------------------------------------------------------------------------

static void check_edge(const struct rank *k, const struct rdi_edge *e) {
    const struct rdi_link *l = e->link;
    if (!l || l->slots == 0) {
        return;
    }
    bool ok = e->out ? l->sent <= l->posted && l->posted <= e->posted && l->posted <= l->credit &&
                           e->acked <= e->posted && e->posted - e->acked <= l->slots
                     : l->released <= l->arrived && l->arrived <= l->released + l->slots;
    for (const struct rdi_flow *f = e->head; f && ok; f = f->next) {
        ok = f->done <= f->total &&
             (!f->out || (f->done <= f->posted && f->posted <= f->ready && f->ready <= f->total));
    }
    if (!ok) {
        give_up("rank %d, edge %s rank %d channel %u: counters are out of order: credit %llu "
                "posted %llu/%llu "
                "acked %llu sent %llu arrived %llu released %llu",
                k->rank, e->out ? "to" : "from", e->peer, e->channel, (unsigned long long)l->credit,
                (unsigned long long)l->posted, (unsigned long long)e->posted,
                (unsigned long long)e->acked, (unsigned long long)l->sent,
                (unsigned long long)l->arrived, (unsigned long long)l->released);
    }
}

// A communicator that some of its ranks never got to make, since the split failed there.
static bool half_made(const struct cluster *c, int g) {
    const struct group *group = &c->sc->groups[g];
    for (int i = 0; i < group->n; i++) {
        if (c->ranks[group->world[i]].made[g] == FAILED) {
            return true;
        }
    }
    return false;
}

// Whether one of these ranks waits in such a communicator, until its time is over, and comes too late to this one.
static bool comes_late(const struct cluster *c, const struct group *group) {
    for (int g = 0; g < c->sc->ngroups; g++) {
        for (int i = 0; i < group->n && half_made(c, g); i++) {
            if (rank_in(&c->sc->groups[g], group->world[i]) >= 0) {
                return true;
            }
        }
    }
    return false;
}

// Whether this communicator may fail at all.
static bool may_fail(const struct cluster *c, int g) {
    const struct scenario *sc = c->sc;
    const struct group *group = &sc->groups[g];
    switch (sc->fault) {
    case FAULT_DEATH:
        if (!c->fault_at) {
            return false;
        }
        break;
    case FAULT_ABORT:
        if (g == 0 && c->fault_at) {
            return true;
        }
        break;
    case FAULT_MISMATCH:
        if (sc->ops[sc->mismatch_op].group == g) {
            return true;
        }
        break;
    case FAULT_CUT:
        return c->fault_at != 0;
    default:
        return false;
    }
    if (sc->fault == FAULT_DEATH && rank_in(group, sc->victim) >= 0) {
        return true;
    }
    return half_made(c, g) || comes_late(c, group);
}

void verdict_step(struct cluster *c, struct rank *k) {
    for (int g = 0; g < c->sc->ngroups; g++) {
        const struct rondo_comm *m = k->comm[g];
        if (!m) {
            continue;
        }
        for (const struct rdi_edge *e = m->edges; e; e = e->next) {
            check_edge(k, e);
        }
        rondo_status s = (rondo_status)atomic_load(&m->status);
        if (s == RONDO_OK || k->failed[g] != RONDO_OK) {
            continue;
        }
        k->failed[g] = s;
        k->failed_at[g] = rdi_sim_now(c->sim);
        snprintf(k->why[g], sizeof k->why[g], "%s", m->why);
        if (!may_fail(c, g)) {
            cluster_report(c);
            give_up("rank %d: communicator %d fails without a cause: %s: %s", k->rank, g,
                    rondo_status_name(s), m->why);
        }
    }
}

// ---- At the end ----------------------------------------------------------------------------------

static bool names_rank(const char *text, int rank) {
    char word[64];
    int n = snprintf(word, sizeof word, "rank %d", rank);
    while ((text = strstr(text, word)) != NULL) {
        text += n;
        if (*text < '0' || *text > '9') {
            return true;
        }
    }
    return false;
}

static void check_mismatch(struct cluster *c) {
    const struct scenario *sc = c->sc;
    const struct op *op = &sc->ops[sc->mismatch_op];
    const struct group *group = &sc->groups[op->group];
    uint64_t last = 0;
    for (int i = 0; i < group->n; i++) {
        const struct rank *k = &c->ranks[group->world[i]];
        last = op->part[i].submitted > last ? op->part[i].submitted : last;
        if (k->made[op->group] != MADE) {
            return;
        }
    }
    for (int i = 0; i < group->n; i++) {
        const struct rank *k = &c->ranks[group->world[i]];
        const char *why = k->why[op->group];
        struct call buf;
        if (!call_of(op, i, &buf)) {
            continue; // not in this send/recv, and maybe without a link to those who are
        }
        if (k->failed[op->group] != RONDO_ERR_MISMATCH) {
            give_up("rank %d of communicator %d does not see the mismatch, but %s: %s", i,
                    op->group, rondo_status_name(k->failed[op->group]), why);
        }
        if (k->failed_at[op->group] > last + 1000 * MS) {
            give_up("rank %d sees the mismatch after %.3f s", i,
                    (double)(k->failed_at[op->group] - last) / 1e9);
        }
        // Two ranks: the one that differs, and one that does not.
        int others = 0;
        for (int r = 0; r < group->n; r++) {
            others += r != op->deviant && names_rank(why, r);
        }
        if (!names_rank(why, op->deviant) || others != 1) {
            give_up("rank %d: the mismatch does not name rank %d and another: %s", i, op->deviant,
                    why);
        }
    }
}

static void check_death(struct cluster *c) {
    const struct scenario *sc = c->sc;
    for (int g = 0; g < sc->ngroups && c->fault_at; g++) {
        const struct group *group = &sc->groups[g];
        int victim = rank_in(group, sc->victim);
        for (int i = 0; i < group->n && victim >= 0; i++) {
            const struct rank *k = &c->ranks[group->world[i]];
            // Who has no link to the dead rank, nor to one that has, only sees its own deadline.
            if (k->rank == sc->victim || k->failed[g] == RONDO_OK ||
                k->failed[g] == RONDO_ERR_TIMEOUT) {
                continue;
            }
            // The world's number of the dead rank, from the transport, or the communicator's, from the engine.
            if (!names_rank(k->why[g], sc->victim) && !names_rank(k->why[g], victim)) {
                give_up("rank %d: the error does not name the dead rank %d: %s", k->rank,
                        sc->victim, k->why[g]);
            }
        }
    }
}

static void check_abort(struct cluster *c) {
    for (int r = 0; r < c->sc->n && c->fault_at; r++) {
        const struct rank *k = &c->ranks[r];
        bool ok = k->failed[0] == RONDO_OK || k->failed[0] == RONDO_ERR_TIMEOUT ||
                  (k->failed[0] == RONDO_ERR_ABORTED && strstr(k->why[0], "had enough"));
        if (!ok) {
            give_up("rank %d does not tell the abort: %s", r, k->why[0]);
        }
    }
}

static void check_parts(struct cluster *c, int i) {
    struct scenario *sc = c->sc;
    struct op *op = &sc->ops[i];
    const struct group *group = &sc->groups[op->group];
    struct call buf;
    for (int r = 0; r < group->n; r++) {
        const struct rank *k = &c->ranks[group->world[r]];
        struct part *p = &op->part[r];
        if (rdi_sim_is_dead(k->node) || !call_of(op, r, &buf)) {
            continue;
        }
        if (p->state != DONE) {
            give_up("op %d never ended on rank %d", i, r);
        }
        if (p->status != RONDO_OK && !may_fail(c, op->group)) {
            give_up("op %d failed on rank %d without a cause: %s", i, r,
                    rondo_status_name(p->status));
        }
        if (p->memory[0]) {
            part_check_untouched(sc, i, r);
        }
    }
}

void verdict_end(struct cluster *c) {
    struct rdi_sim_stats st;
    for (int i = 0; i < c->sc->nops; i++) {
        check_parts(c, i);
    }
    if (c->sc->fault == FAULT_MISMATCH) {
        check_mismatch(c);
    }
    if (c->sc->fault == FAULT_DEATH) {
        check_death(c);
    }
    if (c->sc->fault == FAULT_ABORT) {
        check_abort(c);
    }
    rdi_sim_get_stats(c->sim, &st);
    if (st.links) {
        give_up("%u ends of links were never closed", st.links);
    }
}
