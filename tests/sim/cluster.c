// SPDX-License-Identifier: MIT
// The simulated cluster: an engine a rank, the program that each rank runs, and the clock. It does what
// driver.c, rondo_init(), rondo_comm_split() and rondo_comm_destroy() do in a process.
#include "tests/sim/sim_test.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_LOSSES 300
#define GOODBYE (1000 * MS)
#define TIME_BOUND (120000 * MS)
#define STEP_BOUND UINT64_C(20000000)
#define TURN_BOUND 200000

// ---- Life ----------------------------------------------------------------------------------------

static void broken(void *arg, const char *rule, const char *detail) {
    (void)arg;
    give_up("the engine broke a rule of the transport's contract: %s\n  %s", rule, detail);
}

static void trace(void *arg, const char *line) {
    (void)arg;
    printf("%s\n", line);
}

static void make_engine(struct cluster *c, int r) {
    struct scenario *sc = c->sc;
    struct rdi_env env;
    rdi_sim_env(c->sim, &env);
    struct rdi_job job = {.rank = r, .size = sc->n, .local_rank = -1};
    snprintf(job.host, sizeof job.host, "host%d", sc->hosts[r]);
    job.host_id[0] = (uint8_t)(1 + sc->hosts[r]);
    const struct rdi_net_ops *ops = &rdi_sim_ops;
    struct rank *k = &c->ranks[r];
    k->rank = r;
    k->node = rdi_sim_node(c->sim, r);
    if (rdi_engine_create(&env, &sc->options, &job, &ops, 1, k->node, NULL, &k->engine) !=
        RONDO_OK) {
        give_up("rdi_engine_create: %s", rondo_last_error());
    }
    k->engine->peers[r].pid = 1000 + r;
    k->engine->seat = sc->seats[r];
    k->next_at = below(sc, sc->max_delay + 1);
    rdi_sim_poke(k->node);
}

static void make_comm(struct cluster *c, struct rank *k, int g) {
    const struct group *group = &c->sc->groups[g];
    rondo_status s = rdi_comm_create(k->engine, group->id, rank_in(group, k->rank), group->n,
                                     group->world, &c->sc->plan, &k->comm[g]);
    if (s != RONDO_OK) {
        give_up("rdi_comm_create: %s", rondo_last_error());
    }
    k->made[g] = MADE;
}

static void meet(struct cluster *c) {
    for (int r = 0; r < c->sc->n; r++) {
        make_engine(c, r);
    }
    uint8_t record[RDI_RECORD_MAX];
    for (int r = 0; r < c->sc->n; r++) {
        size_t len = rdi_engine_record(c->ranks[r].engine, &c->sc->plan, record);
        for (int q = 0; q < c->sc->n; q++) {
            if (rdi_engine_add_peer(c->ranks[q].engine, r, record, len, NULL) != RONDO_OK) {
                give_up("rdi_engine_add_peer: %s", rondo_last_error());
            }
        }
    }
    for (int r = 0; r < c->sc->n; r++) {
        make_comm(c, &c->ranks[r], 0);
    }
}

// A killed process takes its memory along; here it is given back, without a word to anybody.
static void bury(struct cluster *c, struct rank *k) {
    for (struct rondo_comm *m = k->engine->comms; m; m = m->next) {
        rdi_comm_fail(m, RONDO_ERR_ABORTED, "dead");
        m->drain_until = 0;
        (void)rdi_comm_progress(m, UINT64_MAX, false);
    }
    for (int i = 0; i < c->sc->nops; i++) {
        int me = rank_in(&c->sc->groups[c->sc->ops[i].group], k->rank);
        struct part *p = me >= 0 ? &c->sc->ops[i].part[me] : NULL;
        if (p && p->req) {
            rdi_request_free(p->req);
            p->req = NULL;
        }
    }
}

// ---- A rank's program ----------------------------------------------------------------------------

static void after_split(struct cluster *c, struct rank *k, const struct op *op, int me,
                        rondo_status s) {
    int g = op->groups[me];
    if (g >= 0 && s == RONDO_OK) {
        make_comm(c, k, g);
    } else if (g >= 0) {
        k->made[g] = FAILED;
    }
}

static void finish(struct cluster *c, struct rank *k, int i, rondo_status s) {
    struct op *op = &c->sc->ops[i];
    int me = rank_in(&c->sc->groups[op->group], k->rank);
    struct part *p = &op->part[me];
    p->state = DONE;
    p->status = s;
    if (c->sc->verbose) {
        printf("%12.3f us  rank %d: op %d ends: %s\n", (double)rdi_sim_now(c->sim) / 1000, k->rank,
               i, rondo_status_name(s));
    }
    c->completed++;
    if (p->memory[0]) {
        part_check(c->sc, i, me);
    }
    if (op->split) {
        after_split(c, k, op, me, s);
    }
}

static bool poll(struct cluster *c, struct rank *k, bool *running) {
    bool did = false;
    *running = false;
    for (int i = 0; i < k->pc; i++) {
        int me = rank_in(&c->sc->groups[c->sc->ops[i].group], k->rank);
        struct part *p = me >= 0 ? &c->sc->ops[i].part[me] : NULL;
        if (!p || p->state != RUNNING) {
            continue;
        }
        if (!atomic_load_explicit(&p->req->complete, memory_order_acquire)) {
            *running = true;
            continue;
        }
        rondo_status s = p->req->status;
        rdi_request_free(p->req);
        p->req = NULL;
        finish(c, k, i, s);
        did = true;
    }
    return did;
}

static void submit(struct cluster *c, struct rank *k, int i, int me, const struct call *call) {
    struct op *op = &c->sc->ops[i];
    struct part *p = &op->part[me];
    part_make(c->sc, i, me);
    p->submitted = rdi_sim_now(c->sim);
    if (c->sc->verbose) {
        printf("%12.3f us  rank %d: op %d begins\n", (double)p->submitted / 1000, k->rank, i);
    }
    rondo_status s = rdi_request_new(k->comm[op->group], call->kind, p->send, p->recv, call->count,
                                     call->type, call->op, call->root, &p->req);
    if (s == RONDO_OK) {
        p->state = RUNNING;
        rdi_engine_push(k->engine, p->req);
    } else if (k->failed[op->group] == RONDO_OK) {
        give_up("op %d cannot be made: %s", i, rondo_last_error());
    } else {
        finish(c, k, i, s);
    }
}

// Submits what is due. False: nothing was done.
static bool program(struct cluster *c, struct rank *k) {
    bool running, did = poll(c, k, &running);
    k->wake_at = UINT64_MAX;
    while (k->phase == PROGRAM && k->pc < c->sc->nops) {
        struct op *op = &c->sc->ops[k->pc];
        int me = rank_in(&c->sc->groups[op->group], k->rank);
        struct call buf;
        const struct call *call = me >= 0 ? call_of(op, me, &buf) : NULL;
        if (!call) {
            k->pc++;
            continue;
        }
        if ((op->wait && running) || k->made[op->group] == NONE) {
            return did; // for a completion
        }
        if (rdi_sim_now(c->sim) < k->next_at) {
            k->wake_at = k->next_at;
            return did;
        }
        if (k->made[op->group] == FAILED) {
            op->part[me].state = DONE;
            op->part[me].status = RONDO_ERR_ABORTED;
            if (op->split) {
                after_split(c, k, op, me, RONDO_ERR_ABORTED);
            }
        } else {
            submit(c, k, k->pc, me, call);
            running = true;
        }
        k->pc++;
        k->next_at = rdi_sim_now(c->sim) +
                     (chance(c->sc, 50) ? 0 : below(c->sc, c->sc->max_delay + 1));
        did = true;
    }
    if (k->phase == PROGRAM && !running) {
        k->phase = LEAVING;
        k->leave_at = rdi_sim_now(c->sim) + GOODBYE;
        for (int r = 0; r < c->sc->n; r++) {
            rdi_sim_poke(c->ranks[r].node); // who waits for the last one to come here
        }
        did = true;
    }
    return did;
}

// As rondo_comm_destroy() waits: what was sent has been acknowledged.
static bool is_quiet(const struct rondo_comm *m) {
    if (atomic_load(&m->status) != RONDO_OK) {
        return m->drained;
    }
    for (const struct rdi_edge *e = m->edges; e; e = e->next) {
        bool ended = !e->link || e->link->state == RDI_LINK_CLOSED ||
                     e->link->state == RDI_LINK_FAILED;
        if (e->out && !ended && e->acked < e->posted) {
            return false;
        }
    }
    return true;
}

// Ranks that differ must not run away before the others have seen it: an operation that waits for nobody
// (count 0) ends at once, and its signature is still on the way.
static bool may_leave(const struct cluster *c, const struct rank *k) {
    if (c->sc->fault != FAULT_MISMATCH) {
        return true;
    }
    const struct group *g = &c->sc->groups[c->sc->ops[c->sc->mismatch_op].group];
    for (int i = 0; i < g->n; i++) {
        const struct rank *q = &c->ranks[g->world[i]];
        if (q->phase == PROGRAM ||
            (q->failed[g - c->sc->groups] == RONDO_OK && rdi_sim_now(c->sim) < k->leave_at)) {
            return false;
        }
    }
    return true;
}

static bool leave(struct cluster *c, struct rank *k) {
    bool did = false, left = false;
    if (k->phase != LEAVING) {
        return false;
    }
    if (!may_leave(c, k)) {
        k->wake_at = rdi_sim_now(c->sim) < k->leave_at ? k->leave_at : k->wake_at;
        return false;
    }
    for (int g = 0; g < c->sc->ngroups; g++) {
        struct rondo_comm *m = k->comm[g];
        if (!m) {
            continue;
        }
        if (!is_quiet(m) && rdi_sim_now(c->sim) < k->leave_at) {
            k->wake_at = k->leave_at;
            left = true;
            continue;
        }
        rdi_comm_free(m, true);
        k->comm[g] = NULL;
        did = true;
    }
    k->phase = left ? LEAVING : GONE;
    return did || !left;
}

// ---- Time ----------------------------------------------------------------------------------------

static bool dead(const struct rank *k) { return rdi_sim_is_dead(k->node); }

static void do_fault(struct cluster *c) {
    struct scenario *sc = c->sc;
    int a = (int)below(sc, (uint64_t)sc->n), b = (int)below(sc, (uint64_t)sc->n);
    switch (sc->fault) {
    case FAULT_PATH:
        if (below(sc, 100000) < sc->fault_chance && a != b && c->losses < MAX_LOSSES) {
            c->losses += rdi_sim_lose(c->sim, a, b, below(sc, 2) ? 0 : below(sc, 100 * MS));
        }
        break;
    case FAULT_PAUSE:
        if (below(sc, 100000) < sc->fault_chance) {
            rdi_sim_pause(c->ranks[a].node, rdi_sim_now(c->sim) + below(sc, 50 * MS));
        }
        break;
    case FAULT_CUT:
        if (c->steps >= sc->fault_step && !c->fault_at && a != b &&
            rdi_sim_lose(c->sim, a, b, 1000000 * MS)) {
            c->fault_at = rdi_sim_now(c->sim);
        }
        break;
    case FAULT_DEATH:
        if (c->steps >= sc->fault_step && !c->fault_at) {
            c->fault_at = rdi_sim_now(c->sim) + 1;
            rdi_sim_kill(c->ranks[sc->victim].node);
        }
        break;
    case FAULT_ABORT:
        if (c->steps >= sc->fault_step && !c->fault_at && c->ranks[sc->victim].comm[0]) {
            c->fault_at = rdi_sim_now(c->sim) + 1;
            rdi_comm_fail(c->ranks[sc->victim].comm[0], RONDO_ERR_ABORTED, "rank %d had enough",
                          sc->victim);
            rdi_sim_poke(c->ranks[sc->victim].node);
        }
        break;
    default:
        break;
    }
}

static void turn(struct cluster *c, struct rank *k) {
    for (int i = 0;; i++) {
        int moved = rdi_engine_progress(k->engine, true);
        c->steps++;
        verdict_step(c, k);
        bool did = program(c, k);
        did = leave(c, k) || did;
        do_fault(c);
        if (dead(k)) {
            return;
        }
        if (k->phase == GONE && c->sc->exits) {
            rdi_engine_destroy(k->engine);
            k->engine = NULL;
            return;
        }
        if (chance(c->sc, 3)) {
            rdi_sim_poke(k->node); // the thread loses its core here
            return;
        }
        if (!moved && !did) {
            uint64_t timeout = UINT64_MAX;
            struct rdi_net *net = k->engine->nets[0];
            rondo_status s = net->ops->arm(net, &timeout);
            net->ops->disarm(net);
            if (s == RONDO_OK) {
                break;
            }
        }
        if (i == TURN_BOUND) {
            give_up("rank %d: rdi_engine_progress() finds something to do for ever", k->rank);
        }
    }
    uint64_t deadline = rdi_engine_next_deadline(k->engine);
    k->wake_at = deadline < k->wake_at ? deadline : k->wake_at;
}

static bool all_turns(struct cluster *c) {
    bool any = false;
    int first = (int)below(c->sc, (uint64_t)c->sc->n);
    for (int i = 0; i < c->sc->n; i++) {
        struct rank *k = &c->ranks[(first + i) % c->sc->n];
        if (k->engine && rdi_sim_take_turn(k->node)) {
            any = true;
            turn(c, k);
        }
    }
    return any;
}

static bool all_gone(const struct cluster *c) {
    for (int r = 0; r < c->sc->n; r++) {
        if (c->ranks[r].phase != GONE && !dead(&c->ranks[r])) {
            return false;
        }
    }
    return true;
}

void cluster_report(const struct cluster *c) {
    char text[RDI_ERROR_TEXT];
    for (int r = 0; r < c->sc->n; r++) {
        const struct rdi_engine *e = c->ranks[r].engine;
        for (struct rondo_comm *m = e ? e->comms : NULL; m; m = m->next) {
            for (struct rondo_request *q = m->head; q; q = q->next) {
                rdi_op_report(q, text, sizeof text);
                printf("  rank %d: %s\n", r, text);
            }
        }
    }
}

static void hang(struct cluster *c, const char *what) {
    cluster_report(c);
    give_up("hang: %s at %.3f ms", what, (double)rdi_sim_now(c->sim) / 1e6);
}

// Moves the clock to whatever comes next: an event, a deadline or the next step of a rank's program.
static void pass_time(struct cluster *c) {
    uint64_t to = rdi_sim_next(c->sim), now = rdi_sim_now(c->sim);
    for (int r = 0; r < c->sc->n; r++) {
        const struct rank *k = &c->ranks[r];
        if (!dead(k) && k->phase != GONE && k->wake_at < to) {
            to = k->wake_at;
        }
    }
    if (to == UINT64_MAX) {
        hang(c, "no event will come any more");
    }
    rdi_sim_advance(c->sim, to > now ? to : now);
    now = rdi_sim_now(c->sim);
    for (int r = 0; r < c->sc->n; r++) {
        struct rank *k = &c->ranks[r];
        if (!dead(k) && k->phase != GONE && k->wake_at <= now) {
            k->wake_at = UINT64_MAX;
            rdi_sim_poke(k->node);
        }
    }
    if (now > TIME_BOUND || c->steps > STEP_BOUND) {
        hang(c, now > TIME_BOUND ? "too much virtual time has passed" : "too many steps");
    }
}

void cluster_run(struct scenario *sc, struct totals *t) {
    struct cluster *c = calloc(1, sizeof *c);
    if (!c) {
        give_up("out of memory for a cluster");
    }
    c->sc = sc;
    sc->net.broken = broken;
    sc->net.trace = sc->verbose ? trace : NULL;
    c->sim = rdi_sim_create(&sc->net);
    if (!c->sim) {
        give_up("out of memory for a simulation");
    }
    meet(c);
    while (!all_gone(c)) {
        if (!all_turns(c)) {
            pass_time(c);
        }
    }
    for (int r = 0; r < sc->n; r++) {
        if (dead(&c->ranks[r]) && c->ranks[r].engine) {
            bury(c, &c->ranks[r]);
        }
        if (c->ranks[r].engine) {
            rdi_engine_destroy(c->ranks[r].engine);
        }
    }
    verdict_end(c);
    struct rdi_sim_stats st;
    rdi_sim_get_stats(c->sim, &st);
    t->seeds++;
    t->operations += c->completed;
    t->events += st.events;
    t->messages += st.messages;
    t->losses += st.losses;
    t->landed += st.landed;
    t->steps += c->steps;
    t->faults[sc->fault]++;
    rdi_sim_destroy(c->sim);
    free(c);
}
