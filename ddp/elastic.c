// SPDX-License-Identifier: MIT
// Elastic training: a step counts when all that are left agree on it, and they go on with whom there is.
//
//   step, or creation --> vote --- all did it, nobody waits -----------------------------> counts
//                          |  ^
//                          |  |   all did it, restarted ranks wait:  grow    \   split, verify,
//                          |  +-- somebody did not:                  shrink   >  hand over states --> vote ...
//                          |                                                 /   (a further loss is the next "did not")
//                          +--- somebody has an error that no loss explains, or this side no majority --> over
//
// The vote (rondo_comm_agree) goes over the control connections, so it works while data paths are in error, and its
// result is the same on all ranks, also on those that do not know yet what happened. What a rank does next depends on
// nothing but that result.
#include "ddp/internal.h"

#include <stdio.h>
#include <stdlib.h>

enum { VOTE_DONE = 1, VOTE_MENDABLE = 2 };
#define BARREN_MAX 3 // attempts in a row that failed although nobody was lost

struct outcome {
    bool done, newcomers;
};

bool rdi_ddp_is_broken(const struct rondo_ddp *d) {
    return !d->comm || rondo_comm_error(d->comm) != RONDO_OK ||
           rondo_comm_error(d->world) != RONDO_OK;
}

// ---- Voting --------------------------------------------------------------------------------------

// Why this rank cannot count the step, RONDO_OK if it can; the last error says more.
static rondo_status reason(const struct rondo_ddp *d, rondo_status s) {
    rondo_status w = rondo_comm_error(d->world);
    if (w != RONDO_OK || s != RONDO_OK) {
        return w != RONDO_OK ? w : s;
    }
    return d->comm ? rondo_comm_error(d->comm) : RONDO_OK;
}

// Whether the loss of a rank or a path explains it. Our own communicator is aborted by nobody but stop_others(): who
// finds it so has no reason of its own.
static bool is_mendable(const struct rondo_ddp *d, rondo_status s) {
    bool aborted = s == RONDO_ERR_ABORTED && rondo_comm_error(d->world) == RONDO_OK;
    return !d->hopeless && (s == RONDO_OK || s == RONDO_ERR_PEER || s == RONDO_ERR_PATH || aborted);
}

// Others may wait for buckets that this rank will not reduce. (What ranks find by comparing, all find.)
static void stop_others(struct rondo_ddp *d, rondo_status why, const char *text) {
    if (d->comm && why != RONDO_OK && why != RONDO_ERR_MISMATCH && !d->hopeless &&
        rondo_comm_error(d->comm) == RONDO_OK) {
        (void)rondo_comm_abort(d->comm, text);
    }
}

// Another rank's error, which reaches this one by our communicator.
static rondo_status others_error(struct rondo_ddp *d) {
    rondo_status s = d->comm ? rondo_barrier(d->comm) : RONDO_OK;
    return s != RONDO_OK ? s
                         : rdi_fail(RONDO_ERR_ABORTED,
                                    "another rank has an error that going on without it would not "
                                    "mend; it says which");
}

static rondo_status vote(struct rondo_ddp *d, rondo_status s, struct outcome *out) {
    char text[RDI_ERROR_TEXT];
    struct rdi_agreement a;
    rondo_status why = reason(d, s);
    snprintf(text, sizeof text, "%s", why == RONDO_OK ? "" : rondo_last_error());
    bool mendable = is_mendable(d, why);
    stop_others(d, why, text);
    if (d->comm) {
        rdi_ddp_drain(d);
    }
    uint64_t flags = (why == RONDO_OK ? VOTE_DONE : 0) | (mendable ? VOTE_MENDABLE : 0);
    s = rdi_comm_agree(d->world, flags, &a);
    if (s != RONDO_OK) {
        return s;
    }
    out->done = (a.flags & VOTE_DONE) != 0;
    out->newcomers = rdi_comm_newcomers_at(d->world, a.epoch, NULL) > 0;
    if (out->done || (a.flags & VOTE_MENDABLE)) {
        return RONDO_OK;
    }
    if (why == RONDO_OK) {
        return others_error(d);
    }
    rdi_set_last_error(text);
    return why;
}

// ---- Communicators -------------------------------------------------------------------------------

static void drop_comm(struct rondo_ddp *d) {
    if (d->comm) {
        d->sent += rdi_ddp_bytes_sent(d);
        d->sent_before = 0;
        (void)rondo_comm_destroy(d->comm);
        d->comm = NULL;
    }
}

static void replace_world(struct rondo_ddp *d, rondo_comm *next) {
    rondo_comm *old = d->world;
    rdi_hook_forget(d);
    drop_comm(d);
    d->world = next;
    if (d->own_world) {
        (void)rondo_comm_destroy(old);
    }
    d->own_world = true;
}

// From a world to ranks that can train.
static rondo_status join(struct rondo_ddp *d, rondo_status prepared) {
    rondo_status s = rondo_comm_split(d->world, 0, rondo_comm_rank(d->world), &d->comm);
    if (s != RONDO_OK || prepared != RONDO_OK) {
        return prepared != RONDO_OK ? prepared : s;
    }
    s = rdi_comm_start_thread(d->comm);
    s = s == RONDO_OK ? rdi_ddp_verify(d) : s;
    s = s == RONDO_OK ? rdi_ddp_hand_over(d) : s;
    if (s == RONDO_OK) {
        d->sent_before = 0;
        d->sent_before = rdi_ddp_bytes_sent(d);
    }
    return s;
}

// After a vote that demands it. RONDO_AGAIN: the newcomers are gone again, and all is as it was.
static rondo_status mend(struct rondo_ddp *d, bool grow) {
    struct outcome o;
    rondo_status s = RONDO_OK;
    for (int barren = 0; barren <= BARREN_MAX;) {
        int before = rondo_comm_size(d->world);
        rondo_comm *next = NULL;
        s = grow ? rondo_comm_grow(d->world, &next) : rondo_comm_shrink(d->world, &next);
        if (grow && (s == RONDO_ERR_PEER || s == RONDO_ERR_PATH)) {
            grow = false; // a rank was lost meanwhile, or the newcomer
            continue;
        }
        if (s != RONDO_OK) {
            return s;
        }
        replace_world(d, next);
        d->stats.grows += grow;
        d->stats.shrinks += rondo_comm_size(next) < before;
        barren = rondo_comm_size(next) == before ? barren + 1 : 0;
        s = vote(d, join(d, RONDO_OK), &o);
        if (s != RONDO_OK || o.done) {
            return s;
        }
        grow = false;
    }
    return rdi_fail(RONDO_ERR_PATH,
                    "%d attempts to go on with the %d ranks that live failed, though none of them "
                    "was lost meanwhile: %.400s",
                    BARREN_MAX + 1, rondo_comm_size(d->world), rondo_last_error());
}

// ---- What DDP calls ------------------------------------------------------------------------------

rondo_status rdi_ddp_begin(struct rondo_ddp *d, rondo_status prepared) {
    struct outcome o = {.done = false};
    char text[RDI_ERROR_TEXT];
    snprintf(text, sizeof text, "%s", rondo_last_error());
    rondo_status s = join(d, prepared);
    if (prepared != RONDO_OK && s == prepared) {
        rdi_set_last_error(text);
    }
    if (!d->elastic) {
        return s; // as others see it
    }
    s = vote(d, s, &o);
    if (s == RONDO_OK && !o.done) {
        s = mend(d, false);
    }
    d->fresh = false;
    if (s == RONDO_OK && d->save) {
        d->save(d->hook_arg);
    }
    return s;
}

rondo_status rdi_ddp_settle(struct rondo_ddp *d, rondo_status s) {
    struct outcome o;
    s = vote(d, s, &o);
    if (s != RONDO_OK || (o.done && !o.newcomers)) {
        return s;
    }
    // Back to where the step began, before a newcomer gets to see it.
    rdi_ddp_reset_step(d);
    rdi_usage_reset(d, true);
    s = rdi_tune_stop(d);
    s = s == RONDO_OK ? rdi_ddp_zero(d) : s;
    if (s == RONDO_OK && d->restore) {
        d->restore(d->hook_arg);
    }
    s = s == RONDO_OK ? mend(d, o.done) : s;
    if (s != RONDO_OK && s != RONDO_AGAIN) {
        return s;
    }
    d->stats.retries++;
    return RONDO_RETRY_STEP;
}
