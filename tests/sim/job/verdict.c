// SPDX-License-Identifier: MIT
// What must hold when the job is over, whatever happened to it.
#include "tests/sim/job/job.h"

#include <string.h>

// Whether nothing but paths was lost, and until that time there was a rank that still reached all others.
static bool is_between(uint64_t at) {
    uint32_t ends = 0;
    for (int i = 0; i < job.nfaults; i++) {
        const struct fault *f = &job.faults[i];
        if (f->done && f->what != PATH && f->what != FLAP) {
            return false;
        }
        ends |= f->done && f->what == PATH ? f->mask | f->other : 0;
    }
    for (int r = 0; r < job.n; r++) {
        const struct rank *k = &job.ranks[r];
        if (!(ends >> r & 1) && k->incarnation == 0 && (!k->over || k->ended_at > at)) {
            return true;
        }
    }
    return false;
}

// A path that does not come back: what is tried over it ends as lost, or, where it is new, in time.
bool verdict_for_good(void) {
    for (int i = 0; i < job.nfaults; i++) {
        if (job.faults[i].done && job.faults[i].what == PATH && job.faults[i].lasted >= FOR_GOOD) {
            return true;
        }
    }
    return false;
}

static bool is_path(rondo_status s) { return s == RONDO_ERR_PATH || s == RONDO_ERR_TIMEOUT; }

// Ranks that something happened to, which may be called failed. A cut makes both sides suspects.
static uint32_t suspects(uint64_t at) {
    uint32_t m = 0;
    for (int i = 0; i < job.nfaults; i++) {
        const struct fault *f = &job.faults[i];
        if (!f->done) {
            continue;
        }
        uint32_t all = (UINT32_C(1) << job.n) - 1;
        m |= f->what == CUT ? all : f->what == FLAP || f->what == PATH ? 0 : f->mask;
        // Its ends are heard by those between, unless something happens to them.
        m |= f->what == PATH && !is_between(at) ? f->mask | f->other : 0;
    }
    for (int r = 0; r < job.n; r++) {
        // One that had to stop ends its part, and the others see that.
        m |= job.ranks[r].end == RONDO_ERR_PARTITIONED ? UINT32_C(1) << r : 0;
    }
    return m;
}

bool verdict_had(enum what w) {
    for (int i = 0; i < job.nfaults; i++) {
        if (job.faults[i].done && job.faults[i].what == w) {
            return true;
        }
    }
    return false;
}

bool verdict_stays(const struct rank *k) {
    return !k->dead && k->end != RONDO_ERR_PARTITIONED &&
           !(k->end == RONDO_ERR_PEER && strstr(k->why, "declared lost") != NULL);
}

static void check_seen(const struct rank *a, const struct rank *b, const struct seen *x,
                       const struct seen *y) {
    if (x->status != y->status || x->culprit_world != y->culprit_world || x->failed != y->failed ||
        x->epoch != y->epoch) {
        give_up("ranks %d and %d differ on communicator %#llx: %s, culprit %d, set %#x, decision "
                "%llu; and %s, culprit %d, set %#x, decision %llu",
                a->rank, b->rank, (unsigned long long)x->id, rondo_status_name(x->status),
                x->culprit_world, x->failed, (unsigned long long)x->epoch,
                rondo_status_name(y->status), y->culprit_world, y->failed,
                (unsigned long long)y->epoch);
    }
}

static void check_agreement(const struct rank *a, const struct rank *b) {
    for (int i = 0; i < a->nseen; i++) {
        for (int j = 0; j < b->nseen; j++) {
            if (a->seen[i].id == b->seen[j].id) {
                check_seen(a, b, &a->seen[i], &b->seen[j]);
            }
        }
    }
    int n = a->ncommitted < b->ncommitted ? a->ncommitted : b->ncommitted;
    for (int i = 0; i < n; i++) {
        if (memcmp(&a->committed[i], &b->committed[i], sizeof a->committed[i]) != 0) {
            give_up("ranks %d and %d committed different things as number %d: step %d of members "
                    "%#x, and step %d of members %#x",
                    a->rank, b->rank, i, a->committed[i].step, a->committed[i].members,
                    b->committed[i].step, b->committed[i].members);
        }
    }
    if (a->end == RONDO_OK && b->end == RONDO_OK && a->ncommitted != b->ncommitted) {
        give_up("ranks %d and %d committed %d and %d steps", a->rank, b->rank, a->ncommitted,
                b->ncommitted);
    }
}

static void check_culprits(const struct rank *k) {
    for (int i = 0; i < k->nseen; i++) {
        const struct seen *s = &k->seen[i];
        uint32_t may = suspects(s->at);
        bool path = s->status == RONDO_ERR_PATH || (verdict_for_good() && is_path(s->status));
        bool excused = path && (verdict_had(CUT) || verdict_had(PATH) || verdict_had(FLAP) ||
                                verdict_had(VANISH));
        if (s->failed & ~may) {
            give_up("rank %d: ranks %#x are said to have failed; nothing happened to %#x", k->rank,
                    s->failed, s->failed & ~may);
        }
        if (s->failed == 0 && !excused && s->status != RONDO_ERR_PARTITIONED) {
            give_up("rank %d: communicator %#llx failed with %s and no failed rank", k->rank,
                    (unsigned long long)s->id, rondo_status_name(s->status));
        }
        if (s->failed && s->culprit_world != __builtin_ctz(s->failed)) {
            give_up("rank %d: the culprit of %#x is rank %d", k->rank, s->failed, s->culprit_world);
        }
    }
}

// How long after the first thing that happened a failure may show. Known exactly only when nothing else did.
static void check_times(const struct rank *k) {
    if (job.ddp || job.nfaults != 1 || k->nseen == 0 || !job.faults[0].done) {
        return;
    }
    const struct fault *f = &job.faults[0];
    if (f->mask >> k->rank & 1) {
        return; // it did not run itself
    }
    uint64_t late = 0;
    switch (f->what) {
    case KILL:
        late = 1000 * MS;
        break;
    case VANISH:
        late = job.peer_timeout + 1000 * MS;
        break;
    case STOP:
        if (f->lasted + 1000 * MS < job.stop_grace && k->seen[0].failed) {
            give_up("rank %d: a stop of %.3f ms was taken for a failure", k->rank,
                    (double)f->lasted / 1e6);
        }
        late = job.stop_grace + 1000 * MS;
        break;
    case PATH: // how soon a path counts as lost is another matter, but the ranks agree by way of a third
        if (verdict_for_good()) {
            return;
        }
        late = f->lasted + job.peer_timeout + 1000 * MS;
        if (k->longest_shrink > late) {
            give_up("rank %d: a shrink took %.3f ms beside a lost path", k->rank,
                    (double)k->longest_shrink / 1e6);
        }
        return;
    default:
        return;
    }
    // What this rank computes before it looks is not counted against the library.
    uint64_t bound = f->at + late + job.compute;
    if (k->seen[0].at > bound) {
        give_up("rank %d learnt of %s at %.3f ms only at %.3f ms", k->rank, what_name(f->what),
                (double)f->at / 1e6, (double)k->seen[0].at / 1e6);
    }
}

// Of the two sides of a cut one has the majority, or half and the lowest rank: that one goes on.
static void check_somebody_goes_on(void) {
    bool well = false, began = !job.ddp;
    for (int r = 0; r < job.n; r++) {
        began = began || job.ranks[r].first_step >= 0;
        well = well || (job.ranks[r].over && job.ranks[r].end == RONDO_OK);
    }
    if (job.nfaults == 1 && job.faults[0].what == CUT && began && !well) {
        give_up("the job was cut in two, ranks %#x and the others, and no side went on",
                job.faults[0].mask);
    }
}

// Who may have to stop: one that cannot reach the others, or did not run.
static void check_partitioned(const struct rank *k) {
    // Two paths can cut a host off, and one can when those between have left.
    bool cut = verdict_had(CUT) || verdict_had(VANISH) || verdict_had(STOP) ||
               (verdict_had(PATH) && !is_between(k->ended_at));
    if (k->end == RONDO_ERR_PARTITIONED && !cut) {
        give_up("rank %d stopped, though no path was lost for long: %s", k->rank, k->why);
    }
}

void verdict(void) {
    int left = 0;
    bool lasting = verdict_had(CUT);
    // If a path that does not come back kept them from meeting at all, each ends as it finds out.
    bool began = false;
    for (int r = 0; r < job.n; r++) {
        began = began || job.ranks[r].ncommitted > 0 || job.ranks[r].ncounted > 0;
    }
    if (job.ddp) {
        verdict_gather();
    }
    for (int r = 0; r < job.n; r++) {
        const struct rank *k = &job.ranks[r];
        check_partitioned(k);
        if (!verdict_stays(k)) {
            continue;
        }
        left++;
        check_culprits(k);
        check_times(k);
        for (int q = r + 1; q < job.n; q++) {
            if (verdict_stays(&job.ranks[q])) {
                check_agreement(k, &job.ranks[q]);
            }
        }
        // Whoever is left finishes; only paths that do not come back may end it.
        bool excused = k->incarnation > 0 || (job.ddp && verdict_never_began(k));
        bool other = strstr(k->why, "another rank could not make") != NULL;
        excused = excused || (verdict_for_good() && (is_path(k->end) || other || !began));
        if (k->end != RONDO_OK && !excused && !lasting && !verdict_had(FLAP) &&
            !verdict_had(VANISH)) {
            give_up("rank %d ended with %s: %s", r, rondo_status_name(k->end), k->why);
        }
        int steps = job.ddp ? k->first_step + k->ncounted : k->ncommitted;
        if (k->end == RONDO_OK && k->over && steps != job.steps) {
            give_up("rank %d ended well after %d of %d steps", r, steps, job.steps);
        }
    }
    if (job.ddp) {
        verdict_steps();
    }
    check_somebody_goes_on();
    if (job.nfaults == 0 && left != job.n) {
        give_up("nothing happened, and %d of %d ranks are left", left, job.n);
    }
}
