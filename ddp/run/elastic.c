// SPDX-License-Identifier: MIT
// An elastic job: ranks that fail are started again, and those that are left go on meanwhile.
//
// Who has failed, and what a program makes of it, is the business of the ranks themselves: the
// launcher only keeps the store, starts processes, and ends the job when too few of them are left.
#include "ddp/run/run.h"
#include "transport/bootstrap/bootstrap.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PAUSE_NS \
    100000000u // before the first restart of a rank: its sockets and memory are given back
#define PAUSE_MAX_NS 5000000000u

// On the thread of the store's server.
static void on_admitted(void *arg, const char *key, const void *value, size_t len) {
    struct run_job *job = arg;
    // Nothing of the group: it is closed while the store is still served.
    int rank, first = job->elastic.first_rank;
    char text[16] = "";
    memcpy(text, value, len < sizeof text ? len : sizeof text - 1);
    if (sscanf(key + strlen(RDI_STORE_ADMITTED), "%9d", &rank) == 1 && rank >= first &&
        rank < first + job->o->nproc) {
        job->elastic.ranks[rank - first].admitted = atoi(text);
    }
}

rondo_status run_elastic_open(struct run_job *job, struct rdi_store_server *server) {
    struct run_elastic *el = &job->elastic;
    if (job->o->elastic_max == 0) {
        return RONDO_OK;
    }
    *el = (struct run_elastic){
        .on = true, .left = job->o->max_restarts, .first_rank = job->group.first_rank};
    el->ranks = calloc((size_t)job->o->nproc, sizeof *el->ranks);
    if (el->ranks == NULL) {
        return rdi_fail(RONDO_ERR_NOMEM, "no memory to keep track of %d ranks", job->o->nproc);
    }
    job->group.keep = true;
    if (server != NULL) {
        rdi_store_server_tell(server, RDI_STORE_ADMITTED, on_admitted, job);
    }
    return RONDO_OK;
}

void run_elastic_close(struct run_job *job) {
    free(job->elastic.ranks);
    job->elastic = (struct run_elastic){.on = false};
}

static uint64_t pause_before(int restarts) {
    uint64_t pause = PAUSE_NS;
    for (int i = 0; i < restarts && pause < PAUSE_MAX_NS; i++) {
        pause *= 2;
    }
    return pause < PAUSE_MAX_NS ? pause : PAUSE_MAX_NS;
}

// ---- Losses -------------------------------------------------------------------------------------

static void lose(struct run_job *job, const struct rdi_exit *e, const char *text, const char *why) {
    struct run_elastic *el = &job->elastic;
    char first[RUN_TEXT];
    el->lost++;
    rdi_group_let_go(&job->group);
    run_say(job, 0, "%s; it is not started again: %s", text, why);
    // What had not failed when others finished ends the job by its own code, in the end.
    if (job->group.finished > 0 && el->ranks[e->local_rank].restarts == 0 && !el->spoiled) {
        el->spoiled = true;
        el->late = *e;
    }
    if (job->nodes != NULL) {
        run_describe(job, &el->first, first);
        run_nodes_lost(job->nodes, el->lost, rdi_exit_code(&el->first), first);
    }
}

// Ends the job if fewer ranks than it needs are left. Node 0 knows of all of them; a node that lost
// node 0 knows only that it needs some.
static void check_left(struct run_job *job) {
    const struct run_elastic *el = &job->elastic;
    const struct run_options *o = job->o;
    char text[RUN_TEXT], said[RUN_TEXT] = "";
    int code = 0, lost = el->lost, world = job->alone ? o->nproc : job->world;
    int need = job->alone ? 1 : o->elastic_min;
    if (job->decided || (job->nodes != NULL && o->node_rank > 0 && !job->alone)) {
        return;
    }
    if (job->nodes != NULL && o->node_rank == 0) {
        do {
            lost = el->lost + run_nodes_losses(job->nodes, &code, text, said);
            if (said[0] != '\0') {
                run_say(job, 0, "%s", said);
            }
        } while (said[0] != '\0');
    }
    if (world - lost >= need) {
        return;
    }
    if (el->failures > 0) {
        code = rdi_exit_code(&el->first);
        run_describe(job, &el->first, text);
    }
    run_decide(job, code,
               "%.440s; it was the first to fail. %d of %d ranks are left, fewer than --elastic "
               "%s needs",
               text, world - lost, world, o->elastic);
}

// ---- Failures -----------------------------------------------------------------------------------

static void on_failure(struct run_job *job, const struct rdi_exit *e, uint64_t now) {
    struct run_elastic *el = &job->elastic;
    struct run_fate *fate = &el->ranks[e->local_rank];
    char text[RUN_TEXT];
    if (job->forwarded != 0) {
        // Asked to end: nothing is started any more.
        rdi_group_let_go(&job->group);
        run_decide_failed(job, e);
        return;
    }
    if (el->failures++ == 0) {
        el->first = *e;
    }
    run_describe(job, e, text);
    if (job->group.finished > 0) {
        lose(job, e, text, "another rank has finished");
    } else if (job->alone) {
        lose(job, e, text, "the launcher of node 0, which keeps the store, is lost");
    } else if (el->left == 0) {
        lose(job, e, text,
             job->o->max_restarts == 0 ? "--max-restarts is 0"
                                       : "all restarts of --max-restarts are used");
    } else {
        el->left--;
        fate->e = *e;
        fate->due = now + pause_before(fate->restarts);
        run_say(job, 0, "%s; restarted (%d of %d)", text, job->o->max_restarts - el->left,
                job->o->max_restarts);
    }
}

static void start_due(struct run_job *job, uint64_t now) {
    struct run_elastic *el = &job->elastic;
    for (int i = 0; i < job->o->nproc && !job->decided; i++) {
        struct run_fate *fate = &el->ranks[i];
        int exit_code;
        if (fate->due == 0 || now < fate->due) {
            continue;
        }
        fate->due = 0;
        if (job->group.finished > 0) {
            char text[RUN_TEXT];
            run_describe(job, &fate->e, text);
            lose(job, &fate->e, text, "another rank has finished");
            continue;
        }
        fate->restarts++;
        if (job->start_rank(job->start_arg, i, fate->restarts, &exit_code) != RONDO_OK) {
            char text[RDI_ERROR_TEXT];
            snprintf(text, sizeof text, "%s", rondo_last_error());
            run_decide(job, exit_code, "%.500s", text);
        }
    }
}

// Whether all that are left on this node wait to be admitted to a job that is over.
static bool only_latecomers(struct run_job *job) {
    const struct run_elastic *el = &job->elastic;
    if (job->group.finished == 0 || job->group.alive == 0 || job->group.ending) {
        return false;
    }
    for (int i = 0; i < job->group.started; i++) {
        if (job->group.pidfds[i] >= 0 && el->ranks[i].admitted == el->ranks[i].restarts) {
            return false;
        }
    }
    return true;
}

// They have some time to end by themselves, since they may be on their way.
static void end_latecomers(struct run_job *job, uint64_t now) {
    struct run_elastic *el = &job->elastic;
    uint64_t grace = (uint64_t)(job->o->grace * 1e9);
    if (!only_latecomers(job)) {
        el->over_at = 0;
        return;
    }
    if (el->over_at == 0) {
        el->over_at = now + grace;
    }
    if (now < el->over_at) {
        return;
    }
    for (int i = 0; i < job->group.started && job->nodes != NULL; i++) {
        if (job->group.pidfds[i] >= 0 && job->o->node_rank > 0) {
            el->ranks[i].admitted = run_nodes_admitted(job->nodes, job->group.first_rank + i);
        }
    }
    if (!only_latecomers(job)) {
        return;
    }
    run_say(job, 0, "the job is over; %d ranks that were started again came too late for it",
            job->group.alive);
    rdi_group_end(&job->group, now, grace);
}

void run_elastic_step(struct run_job *job, uint64_t now) {
    struct run_elastic *el = &job->elastic;
    struct rdi_exit e;
    if (!el->on) {
        return;
    }
    do {
        while (rdi_group_take_fallen(&job->group, &e)) {
            on_failure(job, &e, now);
        }
        if (!job->decided) {
            start_due(job, now);
            check_left(job);
            end_latecomers(job, now);
        }
        // The last one may have been let go, and one that was just started may have failed already.
        rdi_group_progress(&job->group, now);
    } while (job->group.nfallen > 0);
    if (job->group.state == RDI_GROUP_DONE && el->spoiled) {
        run_decide_failed(job, &el->late);
    }
}

uint64_t run_elastic_next(const struct run_job *job) {
    uint64_t next = UINT64_MAX;
    for (int i = 0; job->elastic.on && !job->decided && i < job->o->nproc; i++) {
        uint64_t due = job->elastic.ranks[i].due;
        next = due != 0 && due < next ? due : next;
    }
    uint64_t over = job->elastic.over_at;
    return over != 0 && !job->group.ending && over < next ? over : next;
}
