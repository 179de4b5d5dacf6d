// SPDX-License-Identifier: MIT
// What must hold of a job that trained with DDP, over all of its processes, also those that are gone.
#include "tests/sim/job/job.h"

#include <stdlib.h>
#include <string.h>

static const struct rank *lives[2 * RANKS + RESTARTS];
static int nlives;

void verdict_gather(void) {
    nlives = 0;
    for (int i = 0; i < job.nlives; i++) {
        lives[nlives++] = &job.lives[i];
    }
    for (int r = 0; r < job.n; r++) {
        lives[nlives++] = &job.ranks[r];
    }
}

// ---- A step counts on all survivors, or on none --------------------------------------------------

static const struct share *counted(const struct rank *k, int step) {
    int i = k->ncounted ? step - k->counted[0].step : -1;
    return i >= 0 && i < k->ncounted ? &k->counted[i] : NULL;
}

static bool repeated(const struct rank *k, uint64_t id, int step) {
    for (int i = 0; i < k->noutcomes; i++) {
        const struct outcome *o = &k->outcomes[i];
        if (o->id == id && o->step == step && o->status == RONDO_RETRY_STEP) {
            return true;
        }
    }
    return false;
}

// A rank that is lost in the very moment of the agreement may have heard its result as the last one, when nobody else
// will: then those who go on do not count the step, and repeat it with others. It was their step, too.
static bool may_differ(const struct rank *a, const struct share *x, const struct share *y) {
    bool last = x == &a->counted[a->ncounted - 1];
    for (int i = 0; i < nlives && last && !verdict_stays(a); i++) {
        const struct share *z = counted(lives[i], y->step);
        if (z && z->id == y->id && repeated(lives[i], x->id, x->step)) {
            return true;
        }
    }
    return false;
}

static void check_pair(const struct rank *a, const struct rank *b) {
    for (int i = 0; i < a->ncounted; i++) {
        const struct share *x = &a->counted[i], *y = counted(b, x->step);
        if (y && (x->id != y->id || x->members != y->members || x->size != y->size) &&
            !may_differ(a, x, y) && !may_differ(b, y, x)) {
            give_up(
                "step %d counts on rank %d (%u) with members %#x, and on rank %d (%u) with members "
                "%#x",
                x->step, a->rank, a->incarnation, x->members, b->rank, b->incarnation, y->members);
        }
    }
}

// ---- Everybody that is left hears the same -------------------------------------------------------

// The n-th outcome on a communicator.
static const struct outcome *outcome_on(const struct rank *k, uint64_t id, int n) {
    for (int i = 0; i < k->noutcomes; i++) {
        if (k->outcomes[i].id == id && n-- == 0) {
            return &k->outcomes[i];
        }
    }
    return NULL;
}

static bool is_end(rondo_status s) { return s < 0; }

static void check_outcomes(const struct rank *a, const struct rank *b) {
    for (int i = 0; i < a->noutcomes; i++) {
        const struct outcome *x = &a->outcomes[i];
        int n = 0;
        for (int j = 0; j < i; j++) {
            n += a->outcomes[j].id == x->id;
        }
        const struct outcome *y = outcome_on(b, x->id, n);
        bool member = outcome_on(b, x->id, 0) != NULL;
        // That nothing more can be done each says in its own words.
        if (y && verdict_for_good() && is_end(x->status) && is_end(y->status)) {
            continue;
        }
        if (member &&
            (!y || x->status != y->status || x->step != y->step || x->evaluates != y->evaluates)) {
            give_up("%s %d: rank %d (%u) was told %s, rank %d (%u) %s of %d",
                    x->evaluates ? "evaluation" : "step", x->step, a->rank, a->incarnation,
                    rondo_status_name(x->status), b->rank, b->incarnation,
                    y ? rondo_status_name(y->status) : "nothing", y ? y->step : -1);
        }
    }
}

// ---- Samples -------------------------------------------------------------------------------------

// What the process of a rank did in a step; of one that died before it heard the result, what it was about to.
static const struct share *part_of(int rank, const struct share *x) {
    for (int i = 0; i < nlives; i++) {
        const struct rank *k = lives[i];
        const struct share *y = k->rank == rank ? counted(k, x->step) : NULL;
        if (y && y->id == x->id) {
            return y;
        }
        if (k->rank == rank && k->pending.size && k->pending.step == x->step &&
            k->pending.id == x->id) {
            return &k->pending;
        }
    }
    give_up("step %d counts with rank %d, which had no part in it", x->step, rank);
}

static void check_samples(const struct share *x) {
    int times[64] = {0};
    for (int r = 0; r < job.n; r++) {
        if (!(x->members >> r & 1)) {
            continue;
        }
        const struct share *y = part_of(r, x);
        for (uint64_t i = y->first; i < y->first + y->count; i++) {
            if (i >= (uint64_t)job.batch) {
                give_up("step %d: rank %d took sample %llu of %d", x->step, r,
                        (unsigned long long)i, job.batch);
            }
            times[i]++;
        }
    }
    for (int i = 0; i < job.batch; i++) {
        if (times[i] != 1) {
            give_up("step %d of members %#x: sample %d of %d was used %d times", x->step,
                    x->members, i, job.batch, times[i]);
        }
    }
}

static void check_whole(void) {
    bool finished = false;
    for (int i = 0; i < nlives; i++) {
        finished = finished || (lives[i]->end == RONDO_OK && lives[i]->over);
    }
    for (int s = 0; s < job.steps && finished; s++) {
        bool any = false;
        for (int i = 0; i < nlives; i++) {
            any = any || counted(lives[i], s) != NULL;
        }
        if (!any) {
            give_up("the job ended well, but step %d never counted", s);
        }
    }
}

// ---- Ends ----------------------------------------------------------------------------------------

// One that was started again may come too late: when nobody trains any more.
static void check_newcomer(const struct rank *k) {
    bool lonely = true;
    for (int i = 0; i < nlives; i++) {
        const struct rank *o = lives[i];
        bool trains = o->first_step >= 0 && !o->dead && o->ended_at > k->ended_at;
        lonely = lonely && (o == k || !trains);
    }
    bool excused = verdict_had(CUT) || verdict_had(VANISH) || verdict_had(STOP) ||
                   verdict_had(FLAP) || verdict_had(PATH) || lonely;
    if (k->incarnation > 0 && k->over && k->end != RONDO_OK && !excused) {
        give_up("rank %d was started again (%u) and not admitted: %s: %s", k->rank, k->incarnation,
                rondo_status_name(k->end), k->why);
    }
}

// Rank 0's parameters are the job's first ones: when it is lost before all have them, there is nothing to train.
bool verdict_never_began(const struct rank *k) {
    bool lost = strstr(k->why, "was lost before all had them") != NULL;
    for (int i = 0; i < nlives; i++) {
        const struct rank *o = lives[i];
        lost = lost && o->ncounted == 0;
        lost = lost && !(o->rank == 0 && o->incarnation == 0 && verdict_stays(o));
    }
    return lost;
}

void verdict_steps(void) {
    for (int i = 0; i < nlives; i++) {
        const struct rank *a = lives[i];
        check_newcomer(a);
        for (int s = 0; s < a->ncounted; s++) {
            if (a->counted[s].step != a->first_step + s) {
                give_up("rank %d (%u) counts step %d after step %d", a->rank, a->incarnation,
                        a->counted[s].step, a->first_step + s - 1);
            }
            check_samples(&a->counted[s]);
        }
        for (int j = i + 1; j < nlives; j++) {
            check_pair(a, lives[j]);
            if (verdict_stays(a) && verdict_stays(lives[j])) {
                check_outcomes(a, lives[j]);
                check_outcomes(lives[j], a);
            }
        }
    }
    check_whole();
}
