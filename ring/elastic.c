// SPDX-License-Identifier: MIT
// Agreement, shrink and grow: how those who are left go on, and how a restarted rank comes back.
//
//   shrink   agree who lives --> new communicator --> its first barrier --> agree that all of it worked, else again
//   grow     agree who joined -> new communicator --> its first barrier --> the same, with the newcomers' votes
//
// Whatever fails in between (a further death, a path) fails the last agreement for all, so either all have the new
// communicator or none has. The way of agreeing follows MPI_Comm_agree and MPI_Comm_shrink of ULFM (Bland,
// Bouteiller, Herault, Bosilca, Dongarra, "Post-failure recovery of MPI communication capability", IJHPCA 2013).
#include "ring/cuda/gpu.h"
#include "ring/internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MS_NS UINT64_C(1000000)
#define SETTLE_NS UINT64_C(1000000000)
#define TAG(kind, number) ((uint64_t)(kind) << 56 | (number))
enum { TAG_USER = 1, TAG_SHRINK, TAG_SHRUNK, TAG_GROW, TAG_GROWN };

// ---- Ballots -------------------------------------------------------------------------------------

struct ballot {
    struct rdi_watch *watch;
    uint64_t comm, tag, news;
    bool looked, known;
    rondo_status state;
    char why[RDI_ERROR_TEXT];
    struct rdi_watch_result result;
};

static bool is_counted(const void *arg) {
    struct ballot *b = (struct ballot *)arg;
    uint64_t news = rdi_watch_news(b->watch);
    if (!b->looked || news != b->news) {
        b->looked = true;
        b->news = news;
        b->known = rdi_watch_result(b->watch, b->comm, b->tag, &b->result);
        b->state = rdi_watch_state(b->watch, b->why);
    }
    return b->known || b->state != RONDO_OK;
}

static rondo_status vote(struct rdi_engine *e, uint64_t comm, uint64_t tag, const int *members,
                         int n, uint64_t birth, uint64_t flags, uint64_t until,
                         struct rdi_watch_result *out) {
    struct ballot b = {.watch = e->watch, .comm = comm, .tag = tag};
    if (!e->watch) {
        return rdi_fail(RONDO_ERR_UNSUPPORTED,
                        "this job's ranks are not watched (the log says why), so they cannot agree "
                        "on who lives");
    }
    rondo_status s = rdi_watch_vote(e->watch, comm, tag, members, n, birth, flags);
    if (s != RONDO_OK) {
        return s;
    }
    bool done = rdi_driver_wait(e->driver, is_counted, &b, until);
    if (!done || !b.known) {
        rdi_watch_forget(e->watch, comm, tag);
        return done ? rdi_fail(b.state, "%s", b.why)
                    : rdi_fail(RONDO_ERR_TIMEOUT,
                               "an agreement did not come about: not all ranks that live called "
                               "for it in time. All have to call the same agreements in the same "
                               "order; raise the time with rondo_set_timeout()");
    }
    *out = b.result;
    return RONDO_OK;
}

static uint64_t deadline(const struct rondo_comm *c) {
    return rdi_now(&c->engine->env) + (uint64_t)atomic_load(&c->timeout_ms) * MS_NS;
}

static rondo_status agree(struct rondo_comm *c, uint64_t tag, uint64_t flags, uint64_t until,
                          struct rdi_agreement *out) {
    struct rdi_watch_result r;
    if (c->size == 1) {
        *out = (struct rdi_agreement){
            .flags = flags, .epoch = c->engine->watch ? rdi_watch_epoch(c->engine->watch) : 0};
        rdi_ranks_add(out->live, 0);
        if (c->engine->job.size == 1 || !c->engine->watch) {
            return RONDO_OK;
        }
    }
    rondo_status s = vote(c->engine, c->id, tag, c->world, c->size, c->birth, flags, until, &r);
    if (s == RONDO_OK) {
        out->flags = r.flags;
        out->epoch = r.epoch;
        memcpy(out->live, r.live, sizeof out->live);
    }
    return s;
}

rondo_status rdi_comm_agree(struct rondo_comm *c, uint64_t flags, struct rdi_agreement *out) {
    return agree(c, TAG(TAG_USER, ++c->agree_seq), flags, deadline(c), out);
}

static rondo_status check(const struct rondo_comm *c, const void *out, const char *name) {
    if (!c || !out) {
        return rdi_fail(RONDO_ERR_INVALID, "%s: a pointer is NULL", name);
    }
    return rdi_driver_check(c->engine->driver);
}

rondo_status rondo_comm_agree(rondo_comm *comm, uint64_t *flags) {
    struct rdi_agreement a;
    rondo_status s = check(comm, flags, "rondo_comm_agree");
    if (s == RONDO_OK) {
        s = rdi_comm_agree(comm, *flags, &a);
    }
    if (s == RONDO_OK) {
        *flags = a.flags;
    }
    return s;
}

// ---- A communicator of other members -------------------------------------------------------------

static int rank_among(const int *world, int n, int rank) {
    for (int i = 0; i < n; i++) {
        if (world[i] == rank) {
            return i;
        }
    }
    return -1;
}

// Makes it and tries its paths. *out is set when it exists, whatever else happened.
static rondo_status make(struct rdi_engine *e, uint64_t id, const int *world, int n, uint64_t birth,
                         const struct rdi_plan *plan, uint64_t until, struct rondo_comm **out) {
    struct rondo_comm *c = NULL;
    rdi_driver_lock(e->driver);
    rondo_status s = rdi_comm_create(e, id, rank_among(world, n, e->job.rank), n, world, plan, &c);
    if (s == RONDO_OK) {
        c->birth = birth;
        e->watch_seen = UINT64_MAX; // looked at once more, for what was decided meanwhile
    }
    rdi_driver_unlock(e->driver);
    *out = c;
    return s == RONDO_OK ? rdi_comm_first_barrier(c, until) : s;
}

// All have it, or all destroy it.
static rondo_status settle(struct rdi_engine *e, uint64_t comm, uint64_t tag, const int *world,
                           int n, uint64_t birth, rondo_status made, struct rondo_comm **c,
                           uint64_t until, bool *again) {
    struct rdi_watch_result r = {.flags = 0};
    char text[RDI_ERROR_TEXT];
    snprintf(text, sizeof text, "%s", made == RONDO_OK ? "" : rondo_last_error());
    // Also when the attempt took all the time that there was: the others are to learn of it.
    uint64_t least = rdi_now(&e->env) + SETTLE_NS;
    until = until > least ? until : least;
    rondo_status s = vote(e, comm, tag, world, n, birth, made == RONDO_OK, until, &r);
    *again = s == RONDO_OK && (!(r.flags & 1) || r.epoch != (*c ? (*c)->birth : birth));
    if (s == RONDO_OK && !*again) {
        return RONDO_OK;
    }
    if (*c) {
        char keep[RDI_ERROR_TEXT];
        snprintf(keep, sizeof keep, "%s", rondo_last_error());
        (void)rdi_comm_leave(*c); // the engine goes on
        *c = NULL;
        rdi_set_last_error(keep);
    }
    if (s == RONDO_OK) {
        rdi_set_last_error(text[0] ? text : "another rank could not make the new communicator");
        s = made == RONDO_OK ? RONDO_ERR_PEER : made;
    }
    return s;
}

// ---- Shrink --------------------------------------------------------------------------------------

static rondo_status shrink_once(struct rondo_comm *c, uint64_t until, struct rondo_comm **out,
                                bool *again) {
    struct rdi_engine *e = c->engine;
    struct rdi_agreement a;
    uint64_t attempt = ++c->shrink_seq;
    *again = false;
    rondo_status s = agree(c, TAG(TAG_SHRINK, attempt), 0, until, &a);
    int *list = s == RONDO_OK ? malloc((size_t)c->size * sizeof *list) : NULL;
    if (!list) {
        return s != RONDO_OK ? s : rdi_fail(RONDO_ERR_NOMEM, "out of memory for a list of ranks");
    }
    int n = 0;
    for (int r = 0; r < c->size; r++) {
        if (rdi_ranks_has(a.live, r)) {
            list[n++] = c->world[r];
        }
    }
    uint64_t id = rdi_mix(rdi_mix(c->id, UINT64_C(0x6b6e69726873) + attempt), a.epoch);
    s = make(e, id, list, n, a.epoch, &c->plan, until, out);
    s = settle(e, c->id, TAG(TAG_SHRUNK, attempt), c->world, c->size, c->birth, s, out, until,
               again);
    free(list);
    return s;
}

rondo_status rondo_comm_shrink(rondo_comm *comm, rondo_comm **out) {
    struct rondo_comm *c = NULL;
    bool again = true;
    rondo_status s = check(comm, out, "rondo_comm_shrink");
    if (s != RONDO_OK) {
        return s;
    }
    uint64_t until = deadline(comm);
    // Each further attempt means that a rank died, or that a path did not work, during the one before.
    for (int i = 0; again && i < comm->size + 3; i++) {
        s = shrink_once(comm, until, &c, &again);
    }
    if (s == RONDO_OK) {
        *out = c;
    }
    return s;
}

// ---- Newcomers -----------------------------------------------------------------------------------

int rdi_comm_newcomers_at(const struct rondo_comm *c, uint64_t epoch, int *list) {
    struct rdi_watch *w = c->engine->watch;
    int n = 0;
    for (int r = 0; w && r < c->engine->job.size; r++) {
        uint64_t joined = rdi_watch_joined_at(w, r), failed = rdi_watch_failed_at(w, r);
        bool lives = joined > 0 && joined <= epoch && !(failed > joined && failed <= epoch);
        if (lives && rank_among(c->world, c->size, r) < 0) {
            if (list) {
                list[n] = r;
            }
            n++;
        }
    }
    return n;
}

int rondo_comm_newcomers(const rondo_comm *comm) {
    return comm && comm->engine->watch
               ? rdi_comm_newcomers_at(comm, rdi_watch_epoch(comm->engine->watch), NULL)
               : 0;
}

int rondo_comm_is_newcomer(const rondo_comm *comm) { return comm && comm->newcomer; }

struct extra { // what an invitation says besides the members
    uint64_t plan_bytes;
    struct rdi_plan plan;
};
_Static_assert(sizeof(struct extra) <= sizeof((struct rdi_watch_invite){0}.extra),
               "a plan fits an invitation");

static void invite(const struct rondo_comm *c, uint64_t id, uint64_t epoch, const int *world, int n,
                   const int *fresh, int nfresh) {
    struct extra x = {.plan_bytes = sizeof x.plan, .plan = c->plan};
    struct rdi_watch_invite in = {
        .comm = id, .epoch = epoch, .n = (uint32_t)n, .extra_len = sizeof x};
    memcpy(in.extra, &x, sizeof x);
    for (int i = 0; i < n; i++) {
        rdi_ranks_add(in.members, world[i]);
    }
    for (int i = 0; i < nfresh; i++) {
        rdi_watch_invite(c->engine->watch, fresh[i], &in);
    }
}

// The newcomers' addresses, from the records that they sent. A newcomer itself does not know which of the others are
// newcomers, too (`maybe`): the store may have told it their former addresses.
static rondo_status meet(struct rdi_engine *e, const int *list, int n, bool maybe) {
    uint8_t *record = malloc(RDI_WATCH_RECORD);
    rondo_status s = record ? RONDO_OK : rdi_fail(RONDO_ERR_NOMEM, "out of memory for a record");
    rdi_driver_lock(e->driver);
    for (int i = 0; i < n && s == RONDO_OK; i++) {
        uint32_t incarnation;
        size_t len;
        bool have = list[i] != e->job.rank &&
                    rdi_watch_record(e->watch, list[i], &incarnation, record, &len);
        if (have && maybe) {
            have = incarnation == rdi_watch_incarnation(e->watch, list[i]);
        }
        if (have) {
            s = rdi_engine_add_peer(e, list[i], record, len, NULL);
        } else if (!maybe) {
            s = rdi_fail(RONDO_ERR_PEER, "rank %d joined without a record", list[i]);
        }
    }
    rdi_driver_unlock(e->driver);
    free(record);
    return s;
}

static int ascending(const void *a, const void *b) { return *(const int *)a - *(const int *)b; }

static rondo_status grow_once(struct rondo_comm *c, uint64_t until, struct rondo_comm **out,
                              bool *again) {
    struct rdi_engine *e = c->engine;
    struct rdi_agreement a;
    uint64_t attempt = ++c->grow_seq;
    *again = false;
    rondo_status s = agree(c, TAG(TAG_GROW, attempt), 0, until, &a);
    int *list = s == RONDO_OK ? malloc(2 * (size_t)e->job.size * sizeof *list) : NULL;
    if (!list) {
        return s != RONDO_OK ? s : rdi_fail(RONDO_ERR_NOMEM, "out of memory for a list of ranks");
    }
    int *fresh = list + e->job.size, n = 0;
    int nfresh = rdi_comm_newcomers_at(c, a.epoch, fresh);
    for (int r = 0; r < c->size; r++) {
        if (rdi_ranks_has(a.live, r)) {
            list[n++] = c->world[r];
        }
    }
    if (n < c->size) {
        s = rdi_fail(RONDO_ERR_PEER,
                     "rondo_comm_grow: %d of %d ranks of this communicator are lost: shrink it "
                     "first",
                     c->size - n, c->size);
    } else if (nfresh == 0) {
        s = RONDO_AGAIN;
    }
    if (s == RONDO_OK) {
        memcpy(list + n, fresh, (size_t)nfresh * sizeof *list);
        n += nfresh;
        int *copy = malloc((size_t)nfresh * sizeof *copy);
        if (copy) {
            memcpy(copy, fresh, (size_t)nfresh * sizeof *copy);
        }
        qsort(list, (size_t)n, sizeof *list, ascending);
        uint64_t id = rdi_mix(rdi_mix(c->id, UINT64_C(0x776f7267) + attempt), a.epoch);
        s = copy ? meet(e, copy, nfresh, false) : rdi_fail(RONDO_ERR_NOMEM, "out of memory");
        // Two of them, should one be about to die.
        if (s == RONDO_OK && c->rank < 2) {
            invite(c, id, a.epoch, list, n, copy, nfresh);
        }
        s = s == RONDO_OK ? make(e, id, list, n, a.epoch, &c->plan, until, out) : s;
        s = settle(e, id, TAG(TAG_GROWN, 1), list, n, a.epoch, s, out, until, again);
        free(copy);
    }
    free(list);
    return s;
}

rondo_status rondo_comm_grow(rondo_comm *comm, rondo_comm **out) {
    struct rondo_comm *c = NULL;
    bool again = true;
    rondo_status s = check(comm, out, "rondo_comm_grow");
    if (s != RONDO_OK) {
        return s;
    }
    uint64_t until = deadline(comm);
    for (int i = 0; again && i < 3; i++) {
        s = grow_once(comm, until, &c, &again);
    }
    if (s == RONDO_OK) {
        *out = c;
    }
    return s;
}

struct waiting {
    struct rdi_watch *watch;
    bool invited;
    rondo_status state;
    char why[RDI_ERROR_TEXT];
    struct rdi_watch_invite invite;
};

static bool is_invited(const void *arg) {
    struct waiting *x = (struct waiting *)arg;
    x->invited = x->invited || rdi_watch_invited(x->watch, &x->invite);
    x->state = rdi_watch_state(x->watch, x->why);
    return x->invited || x->state != RONDO_OK;
}

static rondo_status enter_once(struct rdi_engine *e, const struct rdi_watch_invite *in,
                               uint64_t until, struct rondo_comm **out, bool *again) {
    struct extra x;
    int *list = malloc((size_t)e->job.size * sizeof *list), n = 0;
    memcpy(&x, in->extra, sizeof x);
    for (int r = 0; list && r < e->job.size; r++) {
        if (rdi_ranks_has(in->members, r)) {
            list[n++] = r;
        }
    }
    rondo_status s = list ? RONDO_OK : rdi_fail(RONDO_ERR_NOMEM, "out of memory for %d ranks", n);
    if (s == RONDO_OK && (in->extra_len != sizeof x || x.plan_bytes != sizeof x.plan ||
                          !rdi_plan_valid(&x.plan) || rank_among(list, n, e->job.rank) < 0)) {
        s = rdi_fail(RONDO_ERR_VERSION,
                     "the job's ranks sent an invitation that this version (%s) cannot read",
                     rondo_version());
    }
    s = s == RONDO_OK ? meet(e, list, n, true) : s;
    if (s == RONDO_OK) {
        s = make(e, in->comm, list, n, in->epoch, &x.plan, until, out);
        s = settle(e, in->comm, TAG(TAG_GROWN, 1), list, n, in->epoch, s, out, until, again);
    }
    free(list);
    return s;
}

rondo_status rdi_elastic_enter(struct rdi_engine *e, struct rondo_comm **out) {
    uint64_t until = rdi_now(&e->env) + (uint64_t)e->options.num[RDI_OPT_OP_TIMEOUT] * MS_NS;
    bool again = true;
    rondo_status s = RONDO_OK;
    struct rondo_comm *c = NULL;
    while (again) {
        struct waiting x = {.watch = e->watch};
        again = false;
        if (!rdi_driver_wait(e->driver, is_invited, &x, until)) {
            return rdi_fail(RONDO_ERR_TIMEOUT,
                            "rank %d was started again, but the job did not admit it: its ranks "
                            "have to call rondo_comm_grow() (DDP with elastic=1 does)",
                            e->job.rank);
        }
        if (!x.invited) {
            return rdi_fail(x.state, "%s", x.why);
        }
        s = enter_once(e, &x.invite, until, &c, &again);
    }
    if (s == RONDO_OK) {
        c->newcomer = true;
        rdi_watch_entered(e->watch);
        *out = c;
    }
    return s;
}
