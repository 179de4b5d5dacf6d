// SPDX-License-Identifier: MIT
// Who is waited for. Every wait for a peer is an arrow from a rank to a rank; a rank that others reach by arrows and
// that has none of its own is the one that all of them wait for. A pure function of what is known.
//
//   rank 0 --WIRE--> rank 3 --WIRE--> rank 2            rank 2 has no operation under way: it has not called it
//   rank 1 --PEER_CREDIT------------>
#include "ring/top/top.h"

#include <stdlib.h>
#include <string.h>

#define LONG_S 1.0 // what waits for less is not worth a word in a running job

struct arrow {
    int from, to; // indexes in job->ranks
    const struct top_comm *comm;
    const struct top_op *op;
    const struct top_wait *wait;
};

struct graph {
    struct arrow *arrows;
    size_t n;
};

// ---- Operations ----------------------------------------------------------------------------------

void top_describe(const struct top_op *o, char *buf, size_t cap) {
    snprintf(buf, cap, "%s no. %llu (%llu x %s%s%s)", o->op, (unsigned long long)o->seq,
             (unsigned long long)o->count, o->type, o->redop[0] ? ", " : "", o->redop);
}

double top_age(const struct top_rank *r, const struct top_comm *c, const struct top_op *o) {
    uint64_t upto = c && c->failed_at ? c->failed_at : r->monotonic;
    return upto > o->submitted ? (double)(upto - o->submitted) * 1e-9 : 0;
}

const struct top_op *top_current(const struct top_rank *r, const struct top_comm **comm) {
    const struct top_op *oldest = NULL;
    for (size_t i = 0; i < r->ncomms; i++) {
        for (size_t k = 0; k < r->comms[i].nactive; k++) {
            const struct top_op *o = &r->comms[i].active[k];
            if (!oldest || o->submitted < oldest->submitted) {
                oldest = o;
                if (comm) {
                    *comm = &r->comms[i];
                }
            }
        }
    }
    return oldest;
}

// On the clock that all hosts more or less share.
static double unix_s(const struct top_rank *r, uint64_t monotonic) {
    return ((double)r->unix_ns + ((double)monotonic - (double)r->monotonic)) * 1e-9;
}

static const struct top_comm *comm_of(const struct top_rank *r, uint64_t id) {
    for (size_t i = 0; i < r->ncomms; i++) {
        if (r->comms[i].id == id) {
            return &r->comms[i];
        }
    }
    return NULL;
}

// When the first rank saw a communicator fail; 0 = it has not.
static double failed_at(const struct top_job *job, uint64_t id) {
    double first = 0;
    for (size_t i = 0; i < job->nranks; i++) {
        const struct top_comm *c = comm_of(&job->ranks[i], id);
        double at = c && c->failed_at ? unix_s(&job->ranks[i], c->failed_at) : 0;
        first = at > 0 && (first == 0 || at < first) ? at : first;
    }
    return first;
}

// A rank that comes when the others have given up finds its operation failed: it is not one of those who waited.
static bool came_late(const struct top_job *job, const struct top_rank *r, const struct top_comm *c,
                      const struct top_op *o) {
    double at = failed_at(job, c->id);
    return at > 0 && unix_s(r, o->submitted) > at;
}

// ---- Arrows --------------------------------------------------------------------------------------

static int index_of(const struct top_job *job, int rank) {
    for (size_t i = 0; i < job->nranks; i++) {
        if (job->ranks[i].rank == rank) {
            return (int)i;
        }
    }
    return -1;
}

// Ranks that are waited for and of which nothing else is known.
static void add_strangers(struct top_job *job) {
    for (size_t i = 0; i < job->nranks; i++) {
        for (size_t c = 0; c < job->ranks[i].ncomms; c++) {
            for (size_t k = 0; k < job->ranks[i].comms[c].nactive; k++) {
                // The array of ranks may move: found anew each time.
                for (size_t w = 0; w < job->ranks[i].comms[c].active[k].nwaits; w++) {
                    struct top_wait v = job->ranks[i].comms[c].active[k].waits[w];
                    if (v.rank < 0 || top_job_rank(job, v.rank)) {
                        continue;
                    }
                    bool before = v.rank < job->ranks[i].rank;
                    struct top_rank *r = top_job_add(job, v.rank);
                    if (r) {
                        r->pid = v.pid;
                        memcpy(r->host, v.host, sizeof r->host);
                        i += before;
                    }
                }
            }
        }
    }
}

static void add_arrows(struct graph *g, const struct top_job *job, int from,
                       const struct top_comm *c, const struct top_op *o) {
    for (size_t w = 0; w < o->nwaits; w++) {
        int to = o->waits[w].for_peer ? index_of(job, o->waits[w].rank) : -1;
        struct arrow *more = to < 0 ? NULL : realloc(g->arrows, (g->n + 1) * sizeof *more);
        if (more) {
            g->arrows = more;
            more[g->n++] = (struct arrow){from, to, c, o, &o->waits[w]};
        }
    }
}

// Of each communicator the oldest operation that waits for a peer: later ones wait for that one.
static void collect(struct graph *g, const struct top_job *job) {
    for (size_t i = 0; i < job->nranks; i++) {
        for (size_t c = 0; c < job->ranks[i].ncomms; c++) {
            const struct top_comm *m = &job->ranks[i].comms[c];
            size_t before = g->n;
            for (size_t k = 0; k < m->nactive && g->n == before; k++) {
                if (!came_late(job, &job->ranks[i], m, &m->active[k])) {
                    add_arrows(g, job, (int)i, m, &m->active[k]);
                }
            }
        }
    }
}

// How many ranks reach `to`; marks them in `seen`.
static size_t count_waiting(const struct graph *g, int to, bool *seen, size_t n) {
    size_t count = 0;
    memset(seen, 0, n * sizeof *seen);
    seen[to] = true;
    for (bool more = true; more;) {
        more = false;
        for (size_t a = 0; a < g->n; a++) {
            if (seen[g->arrows[a].to] && !seen[g->arrows[a].from]) {
                seen[g->arrows[a].from] = more = true;
                count++;
            }
        }
    }
    return count;
}

// ---- Words ---------------------------------------------------------------------------------------

static const char *who(const struct top_rank *r, char *buf, size_t cap) {
    if (r->host[0] && r->pid > 0) {
        snprintf(buf, cap, "rank %d (host %s, pid %d)", r->rank, r->host, r->pid);
    } else if (r->pid > 0) {
        snprintf(buf, cap, "rank %d (pid %d)", r->rank, r->pid);
    } else {
        snprintf(buf, cap, "rank %d", r->rank);
    }
    return buf;
}

static const char *state_words(const struct top_rank *r) {
    switch (r->local ? r->state : '?') {
    case 'T':
        return "; its process is stopped (SIGSTOP or ^Z)";
    case 't':
        return "; its process is stopped by a debugger";
    case 'Z':
    case 'X':
        return "; its process has ended";
    case 'D':
        return "; its process waits in the kernel, for a disk or a network file system (D)";
    case 'R':
        return "; its process computes (R)";
    case 'S':
        return "; its process sleeps (S)";
    default:
        return "";
    }
}

// "; it ended all_reduce no. 16 3.2 s ago"
static void last_words(const struct top_rank *r, const struct top_comm *c, char *buf, size_t cap) {
    const struct top_op *last = NULL;
    for (size_t i = 0; c && i < c->nrecent; i++) {
        last = c->recent[i].finished && !c->recent[i].active ? &c->recent[i] : last;
    }
    buf[0] = '\0';
    if (last && r->monotonic >= last->finished && !c->failed_at) {
        snprintf(buf, cap, "; it ended %s no. %llu %.1f s ago", last->op,
                 (unsigned long long)last->seq, (double)(r->monotonic - last->finished) * 1e-9);
    }
}

static enum top_reason reason_of(const struct top_job *job, const struct top_rank *r,
                                 const struct arrow *a, double *late) {
    if (!r->answered) {
        return r->local ? TOP_NO_ANSWER : TOP_NOT_SEEN;
    }
    const struct top_comm *c = comm_of(r, a->comm->id);
    bool called = c && !a->op->p2p && c->calls > a->op->seq;
    for (size_t k = 0; c && k < c->nactive; k++) {
        const struct top_op *o = &c->active[k];
        bool same = a->op->p2p ? o->p2p && o->seq == a->op->seq && strcmp(o->op, a->op->op) != 0
                               : !o->p2p && o->seq == a->op->seq;
        if (same && came_late(job, r, c, o)) {
            *late = unix_s(r, o->submitted) - unix_s(&job->ranks[a->from], a->op->submitted);
            return TOP_LATE;
        }
        called = called || same;
    }
    return called ? TOP_WORKING : TOP_NOT_CALLED;
}

static void say(struct top_verdict *v, const struct top_job *job, const struct top_rank *r,
                const struct arrow *a) {
    char name[128], last[128], waiting[64];
    double late = 0;
    const struct top_comm *c = comm_of(r, a->comm->id);
    v->reason = reason_of(job, r, a, &late);
    top_describe(a->op, v->op, sizeof v->op);
    last_words(r, c, last, sizeof last);
    who(r, name, sizeof name);
    snprintf(waiting, sizeof waiting, "%zu rank%s wait%s for", v->waiting,
             v->waiting == 1 ? "" : "s", v->waiting == 1 ? "s" : "");
    switch (v->reason) {
    case TOP_NOT_CALLED:
        snprintf(v->text, sizeof v->text, "%s %s, which has not called %s%s%s", waiting, name,
                 v->op, last, state_words(r));
        break;
    case TOP_LATE:
        snprintf(v->text, sizeof v->text,
                 "%s %s, which called %s %.1f s later than rank %d, when the others had given up",
                 waiting, name, v->op, late, job->ranks[a->from].rank);
        break;
    case TOP_NO_ANSWER:
        snprintf(v->text, sizeof v->text, "%s %s, which does not answer%s", waiting, name,
                 state_words(r));
        break;
    case TOP_NOT_SEEN:
        snprintf(v->text, sizeof v->text,
                 "%s %s in %s; nothing is known of that rank here: look at its host, or give its "
                 "dump",
                 waiting, name, v->op);
        break;
    default:
        snprintf(v->text, sizeof v->text,
                 "%s %s, which is in %s, too, and waits for nobody: it is slow%s", waiting, name,
                 v->op, state_words(r));
        break;
    }
}

// ---- No end to the arrows ------------------------------------------------------------------------

static const struct top_edge *edge_of(const struct top_comm *c, bool out, int rank,
                                      const char *channel) {
    for (size_t i = 0; i < c->nedges; i++) {
        const struct top_edge *e = &c->edges[i];
        if (e->out == out && e->rank == rank && strcmp(e->channel, channel) == 0) {
            return e;
        }
    }
    return NULL;
}

// All wait for each other: some message is lost on its way.
static void find_path(struct top_verdict *v, const struct top_job *job, const struct graph *g) {
    v->reason = TOP_UNKNOWN;
    snprintf(v->text, sizeof v->text, "%zu ranks wait for each other in a circle", v->waiting);
    for (size_t a = 0; a < g->n; a++) {
        const struct top_rank *from = &job->ranks[g->arrows[a].to];
        const struct top_rank *to = &job->ranks[g->arrows[a].from];
        const struct top_comm *cf = comm_of(from, g->arrows[a].comm->id);
        const struct top_comm *ct = g->arrows[a].comm;
        for (size_t i = 0; cf && i < cf->nedges; i++) {
            const struct top_edge *out = &cf->edges[i];
            const struct top_edge *in = out->out && out->rank == to->rank
                                            ? edge_of(ct, false, from->rank, out->channel)
                                            : NULL;
            if (in && out->posted > in->arrived) {
                char name[128], other[128];
                v->reason = TOP_CIRCLE;
                v->culprit = from->rank;
                v->other = to->rank;
                snprintf(v->text, sizeof v->text,
                         "%zu ranks wait for each other: of %llu messages that %s sent over %s, %s "
                         "has %llu. Look at the path between them",
                         v->waiting, (unsigned long long)out->posted, who(from, name, sizeof name),
                         out->wire, who(to, other, sizeof other), (unsigned long long)in->arrived);
                return;
            }
        }
    }
}

// ---- Stragglers ----------------------------------------------------------------------------------

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static const struct top_op *recent_of(const struct top_comm *c, uint64_t seq) {
    for (size_t i = 0; i < c->nrecent; i++) {
        const struct top_op *o = &c->recent[i];
        if (!o->p2p && !o->active && o->seq == seq) {
            return o;
        }
    }
    return NULL;
}

// Who came last to an operation, and how long after the median of the others; -1: too few are known. Only ranks of
// one machine share a clock that is good enough.
static int last_to(const struct top_job *job, const struct top_rank *base, uint64_t id,
                   uint64_t seq, double *times, double *late) {
    int last = -1;
    size_t n = 0;
    double latest = 0;
    for (size_t i = 0; i < job->nranks; i++) {
        const struct top_rank *r = &job->ranks[i];
        const struct top_comm *c = strcmp(r->boot, base->boot) == 0 ? comm_of(r, id) : NULL;
        const struct top_op *o = c ? recent_of(c, seq) : NULL;
        if (!o) {
            continue;
        }
        times[n++] = (double)o->submitted * 1e-9;
        if (last < 0 || times[n - 1] > latest) {
            latest = times[n - 1];
            last = r->rank;
        }
    }
    if (n < 2) {
        return -1;
    }
    qsort(times, n, sizeof *times, ascending);
    *late = latest - times[(n - 1) / 2];
    return last;
}

static void find_straggler(struct top_verdict *v, const struct top_job *job) {
    const struct top_rank *base = NULL;
    for (size_t i = 0; i < job->nranks && !base; i++) {
        base = job->ranks[i].answered && job->ranks[i].ncomms ? &job->ranks[i] : NULL;
    }
    size_t *count = calloc(job->nranks + 1, sizeof *count), seen = 0;
    double *times = calloc(job->nranks + 1, sizeof *times);
    double late[64];
    int which[64];
    for (size_t c = 0; base && count && times && c < base->ncomms; c++) {
        for (size_t k = 0; k < base->comms[c].nrecent && seen < 64; k++) {
            const struct top_op *o = &base->comms[c].recent[k];
            int last = o->p2p || o->active
                           ? -1
                           : last_to(job, base, base->comms[c].id, o->seq, times, &late[seen]);
            if (last >= 0) {
                count[index_of(job, last)]++;
                which[seen++] = last;
            }
        }
    }
    for (size_t i = 0; count && times && i < job->nranks; i++) {
        if (seen >= 8 && count[i] * 2 > seen) {
            size_t n = 0;
            for (size_t k = 0; k < seen; k++) {
                late[n] = late[k];
                n += which[k] == job->ranks[i].rank;
            }
            qsort(late, n, sizeof *late, ascending);
            v->straggler = job->ranks[i].rank;
            v->last = count[i];
            v->seen = seen;
            v->late = late[n / 2];
        }
    }
    free(count);
    free(times);
}

// ---- The verdict ---------------------------------------------------------------------------------

static double longest(const struct top_job *job, const struct graph *g, const bool *seen) {
    double most = 0;
    for (size_t a = 0; a < g->n; a++) {
        const struct top_rank *r = &job->ranks[g->arrows[a].from];
        double age = top_age(r, g->arrows[a].comm, g->arrows[a].op);
        most = (!seen || seen[g->arrows[a].from]) && age > most ? age : most;
    }
    return most;
}

static void judge(struct top_verdict *v, const struct top_job *job, const struct graph *g,
                  bool *seen, bool *waits, bool *waited_for) {
    int best = -1;
    size_t all = 0;
    for (size_t a = 0; a < g->n; a++) {
        all += !waits[g->arrows[a].from];
        waits[g->arrows[a].from] = waited_for[g->arrows[a].to] = true;
    }
    for (size_t i = 0; i < job->nranks; i++) {
        bool end = waited_for[i] && !waits[i];
        size_t n = end ? count_waiting(g, (int)i, seen, job->nranks) : 0;
        if (n > v->waiting) {
            v->waiting = n;
            best = (int)i;
        }
    }
    if (best < 0) {
        v->waiting = all;
        v->seconds = longest(job, g, NULL);
        find_path(v, job, g);
        return;
    }
    (void)count_waiting(g, best, seen, job->nranks);
    v->culprit = job->ranks[best].rank;
    v->seconds = longest(job, g, seen);
    for (size_t a = 0; a < g->n; a++) {
        if (g->arrows[a].to == best) {
            say(v, job, &job->ranks[best], &g->arrows[a]);
            break;
        }
    }
}

void top_analyse(struct top_job *job, bool post_mortem, struct top_verdict *v) {
    struct graph g = {0};
    *v = (struct top_verdict){.culprit = -1, .other = -1, .straggler = -1};
    add_strangers(job);
    collect(&g, job);
    bool *marks = calloc(3 * (job->nranks + 1), sizeof *marks);
    if (marks && g.n > 0) {
        size_t n = job->nranks + 1;
        judge(v, job, &g, marks, marks + n, marks + 2 * n);
    }
    if (g.n == 0 || (!post_mortem && v->seconds < LONG_S)) {
        *v = (struct top_verdict){.culprit = -1, .other = -1, .straggler = -1};
        snprintf(v->text, sizeof v->text, "no rank waits long for another");
    }
    find_straggler(v, job);
    free(marks);
    free(g.arrows);
}
