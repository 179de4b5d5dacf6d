// SPDX-License-Identifier: MIT
// How a communicator's one failure comes about.
//
//      rdi_comm_fail_link(), or another                  rdi_comm_fail(): abort, mismatch, timeout
//      rank says that one is lost                               |
//                   v    the peer lives, or time is over        v
//   OK ---------> HELD ------------------------------------> REPORTED to the watch
//    |              |                                            |
//    |              +---- a rank was declared failed ----+       |  verdict, or no answer in time
//    +---------------------------------------------------+---+---+
//                                                            v
//                                                         DECIDED: `status` is set, links are closed (comm.c)
//
// A link that fails may be the first that is seen of a death, and which of several ranks is seen first differs from
// rank to rank: so nothing is said until the watch has decided, and then all say the same. Without a watch the
// first failure that is seen here is the one.
#include "ring/internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DRAIN_NS UINT64_C(300000000)
#define REPORT_NS UINT64_C(1000000000) // for a verdict to come back
#define ALIVE_NS UINT64_C(300000000)   // heard so long after a link failed: that rank lives
#define LOOK_NS UINT64_C(50000000)
#define MS_NS UINT64_C(1000000)

// ---- Deciding ------------------------------------------------------------------------------------

// What this rank was doing, for the error's text and rondo_comm_failure().
static size_t local_part(struct rondo_comm *c, char *buf, size_t cap) {
    const struct rondo_request *r = c->head;
    char what[256], who[128];
    c->failure.stage = r ? rdi_kind_name(r->kind) : "idle";
    c->failure.operation = r ? r->sig.seq : c->seq;
    c->failure.waiting_for = -1;
    const char *words = "";
    enum rdi_wait wait = r ? rdi_op_wait(r, &c->failure.waiting_for, &words) : RDI_WAIT_NONE;
    snprintf(c->failure.wait, sizeof c->failure.wait, "%s%s%s", rdi_wait_name(wait),
             words[0] ? ": " : "", words);
    buf[0] = '\0';
    if (!r || cap < 64) {
        return 0;
    }
    int n = snprintf(buf, cap, ". Here %s no. %llu was under way",
                     rdi_op_describe(&r->sig, what, sizeof what), (unsigned long long)r->sig.seq);
    if (c->failure.waiting_for >= 0 && n > 0 && (size_t)n < cap) {
        n += snprintf(buf + n, cap - (size_t)n, ", waiting for %s (%s)",
                      rdi_comm_who(c, c->failure.waiting_for, who, sizeof who), words);
    }
    return n > 0 ? (size_t)n : 0;
}

void rdi_fault_decide(struct rondo_comm *c, rondo_status s, const char *cause) {
    char here[RDI_ERROR_TEXT];
    if (atomic_load(&c->status) != RONDO_OK) {
        return;
    }
    if (c->failure.nfailed == 0) {
        c->failure.culprit = -1;
    }
    snprintf(c->failure.cause, sizeof c->failure.cause, "%s", cause);
    (void)local_part(c, here, sizeof here);
    // A timeout's text has it already.
    bool add = s != RONDO_ERR_TIMEOUT && s != RONDO_ERR_MISMATCH;
    char trouble[RDI_WATCH_TEXT] = "";
    if (c->engine->watch && c->failure.nfailed == 0) {
        rdi_watch_trouble(c->engine->watch, trouble);
    }
    if (trouble[0]) {
        // What this rank lacks is the likely cause, whoever was the first to say something.
        snprintf(c->why, sizeof c->why, "%s. %.*s", trouble, (int)(sizeof c->why / 2), cause);
    } else {
        int most = (int)(add ? sizeof c->why * 2 / 3 : sizeof c->why);
        snprintf(c->why, sizeof c->why, "%.*s%s", most, cause, add ? here : "");
    }
    rdi_record_fail(c, s);
    c->drain_until = rdi_now(&c->engine->env) + DRAIN_NS;
    atomic_store(&c->status, s);
    rdi_log(&c->engine->env, RONDO_LOG_ERROR, "rank %d: %s", c->rank, c->why);
}

// Of ranks that one decision declared failed the lowest is the culprit, as there is no other order among them.
static void decide_failure(struct rondo_comm *c, uint64_t epoch) {
    struct rdi_watch *w = c->engine->watch;
    char words[RDI_WATCH_TEXT], who[128], cause[RDI_ERROR_TEXT];
    int n = 0;
    free(c->failure.failed);
    c->failure.failed = calloc((size_t)c->size, sizeof *c->failure.failed);
    c->failure.culprit = -1;
    for (int r = 0; r < c->size; r++) {
        if (rdi_watch_failed_at(w, c->world[r]) != epoch) {
            continue;
        }
        c->failure.culprit = c->failure.culprit < 0 ? r : c->failure.culprit;
        if (c->failure.failed) {
            c->failure.failed[n] = r;
        }
        n++;
    }
    if (c->failure.culprit < 0) {
        return; // it joined again meanwhile; another epoch will tell
    }
    c->failure.nfailed = n;
    c->failure.epoch = epoch;
    rdi_watch_text(w, c->world[c->failure.culprit], words);
    int at = snprintf(cause, sizeof cause, "%s %s",
                      rdi_comm_who(c, c->failure.culprit, who, sizeof who), words);
    for (int i = 1; i < n && c->failure.failed && at > 0 && at < 480; i++) {
        at += snprintf(cause + at, sizeof cause - (size_t)at, "%s%d%s",
                       i == 1 ? "; lost with it: rank " : ", ", c->failure.failed[i],
                       at > 470 && i + 1 < n ? " ..." : "");
    }
    rdi_fault_decide(c, RONDO_ERR_PEER, cause);
}

bool rdi_fault_is_lost(const struct rondo_comm *c, int rank) {
    for (int i = 0; c->failure.failed && i < c->failure.nfailed; i++) {
        if (c->failure.failed[i] == rank) {
            return true;
        }
    }
    return false;
}

// A rank that lives, or left in good order, but ended its part.
static void blame(struct rondo_comm *c, int world_rank) {
    for (int r = 0; r < c->size && !c->failure.failed; r++) {
        if (c->world[r] == world_rank) {
            c->failure.culprit = r;
            c->failure.failed = malloc(sizeof *c->failure.failed);
            c->failure.nfailed = c->failure.failed ? 1 : 0;
            if (c->failure.failed) {
                c->failure.failed[0] = r;
            }
        }
    }
}

// Looks whether all ranks have agreed on something that ends this communicator.
static void look(struct rondo_comm *c) {
    struct rdi_watch *w = c->engine->watch;
    char text[RDI_ERROR_TEXT];
    rondo_status s;
    uint64_t epoch;
    uint64_t failed = rdi_watch_first_failure(w, c->world, c->size, c->birth);
    int culprit;
    bool verdict = rdi_watch_verdict(w, c->id, &epoch, &s, &culprit, text);
    if (verdict && (failed == 0 || epoch < failed)) {
        blame(c, culprit);
        rdi_fault_decide(c, s, text);
    } else if (failed) {
        decide_failure(c, failed);
    }
    s = rdi_watch_state(w, text);
    if (s != RONDO_OK) {
        rdi_fault_decide(c, s, text);
    }
}

// ---- Accusing ------------------------------------------------------------------------------------

// The rank that decides may be silent itself; then the others have to find that out before another one can.
static uint64_t patience(const struct rdi_engine *e) {
    return (uint64_t)e->options.num[RDI_OPT_PEER_TIMEOUT] * MS_NS + REPORT_NS;
}

static void report(struct rondo_comm *c, uint64_t now) {
    c->accused.stage = RDI_REPORTED;
    c->accused.until = now + patience(c->engine);
    bool blame = c->accused.status == RONDO_ERR_PEER && c->accused.peer >= 0;
    rdi_watch_report(c->engine->watch, c->id, c->accused.status,
                     blame ? c->world[c->accused.peer] : -1, c->accused.why);
}

void rdi_fault_accuse(struct rondo_comm *c, int peer, rondo_status s, const char *text) {
    struct rdi_engine *e = c->engine;
    if (atomic_load(&c->status) != RONDO_OK || c->accused.stage != RDI_NOT_ACCUSED) {
        return;
    }
    if (!e->watch || c->size == 1) {
        rdi_fault_decide(c, s, text);
        return;
    }
    uint64_t now = rdi_now(&e->env);
    c->accused.status = s;
    c->accused.peer = peer;
    c->accused.since = now;
    char here[128], there[128];
    if (peer >= 0 && s == RONDO_ERR_PATH) {
        snprintf(c->accused.why, sizeof c->accused.why, "the path between %s and %s is lost: %.*s",
                 rdi_comm_who(c, c->rank, here, 128), rdi_comm_who(c, peer, there, 128),
                 (int)sizeof c->accused.why / 2, text);
    } else {
        snprintf(c->accused.why, sizeof c->accused.why, "%s", text);
    }
    bool may_be_death = peer >= 0 &&
                        (s == RONDO_ERR_PEER || s == RONDO_ERR_PATH || s == RONDO_ERR_TIMEOUT);
    // Another rank says that one is lost. As a rule that has been decided, and the decision is under way to this rank, too;
    // a verdict of this rank's, should the others pass it over as it does not run, would say less than they know.
    bool is_told = peer < 0 && s == RONDO_ERR_PEER;
    if (!may_be_death && !is_told) {
        report(c, now);
        return;
    }
    c->accused.stage = RDI_HELD;
    c->accused.until = now + (is_told ? REPORT_NS : patience(e));
    rdi_log(&e->env, RONDO_LOG_DEBUG, "rank %d: a link failed: %s", c->rank, text);
    if (peer >= 0) {
        rdi_watch_hint(e->watch, c->world[peer]);
    }
}

// Whether the rank whose link failed is known not to have died by that.
static bool lives(const struct rondo_comm *c) {
    const struct rdi_engine *e = c->engine;
    if (c->accused.peer < 0) {
        return false;
    }
    int peer = c->world[c->accused.peer];
    // A path fails when it was gone for path_grace. Somebody who heard that rank meanwhile heard it without the path.
    uint64_t grace = (uint64_t)e->options.num[RDI_OPT_PATH_GRACE] * MS_NS;
    uint64_t since = c->accused.since + ALIVE_NS;
    return rdi_watch_heard(e->watch, peer, since) || rdi_watch_has_left(e->watch, peer) ||
           (c->accused.status == RONDO_ERR_PATH && since > grace &&
            rdi_watch_vouched(e->watch, peer, since - grace));
}

static int accused_progress(struct rondo_comm *c, uint64_t now) {
    if (c->accused.stage == RDI_HELD) {
        if (lives(c) || now >= c->accused.until) {
            report(c, now);
            return 1;
        }
    } else if (now >= c->accused.until) {
        rdi_fault_decide(c, c->accused.status, c->accused.why);
        return 1;
    }
    return 0;
}

int rdi_fault_progress(struct rdi_engine *e, uint64_t now) {
    if (!e->watch) {
        return 0;
    }
    uint64_t news = rdi_watch_news(e->watch);
    int moved = news != e->watch_seen;
    for (struct rondo_comm *c = e->comms; c; c = c->next) {
        if (atomic_load_explicit(&c->status, memory_order_relaxed) != RONDO_OK || c->size == 1) {
            continue;
        }
        if (news != e->watch_seen) {
            look(c);
        }
        if (c->accused.stage != RDI_NOT_ACCUSED) {
            moved += accused_progress(c, now);
        }
    }
    e->watch_seen = news;
    return moved;
}

uint64_t rdi_fault_next(const struct rdi_engine *e) {
    uint64_t at = UINT64_MAX;
    for (const struct rondo_comm *c = e->watch ? e->comms : NULL; c; c = c->next) {
        if (c->accused.stage == RDI_NOT_ACCUSED || atomic_load(&c->status) != RONDO_OK) {
            continue;
        }
        // HELD: whether the peer was heard is looked at now and then.
        uint64_t t = c->accused.stage == RDI_HELD ? rdi_now(&e->env) + LOOK_NS : c->accused.until;
        at = t < at ? t : at;
    }
    return at;
}

// ---- Questions -----------------------------------------------------------------------------------

rondo_status rondo_comm_failure(const rondo_comm *comm, rondo_failure *out) {
    if (!comm || !out || out->size < sizeof(size_t)) {
        return rdi_fail(RONDO_ERR_INVALID,
                        "rondo_comm_failure: a pointer is NULL or out->size is not set");
    }
    rondo_failure f = {.size = out->size,
                       .culprit = -1,
                       .waiting_for = -1,
                       .host = "",
                       .cause = "",
                       .stage = "",
                       .wait = ""};
    f.status = (rondo_status)atomic_load(&comm->status);
    if (f.status != RONDO_OK) {
        f.epoch = comm->failure.epoch;
        f.culprit = comm->failure.culprit;
        f.nfailed = comm->failure.failed ? comm->failure.nfailed : 0;
        f.failed = comm->failure.failed;
        f.cause = comm->failure.cause;
        f.stage = comm->failure.stage;
        f.operation = comm->failure.operation;
        f.wait = comm->failure.wait;
        f.waiting_for = comm->failure.waiting_for;
        f.host = f.culprit >= 0 ? comm->engine->peers[comm->world[f.culprit]].host : "";
    }
    memcpy(out, &f, out->size < sizeof f ? out->size : sizeof f);
    return RONDO_OK;
}
