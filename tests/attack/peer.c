// SPDX-License-Identifier: MIT
#include "peer.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define AT_ONCE 8        // jobs; most of the time they wait
#define DEADLINE_MS 2000 // of operations, where the attack is that nothing follows

static const struct attack *current;
static struct peer peer; // in rank 1

static void find_links(struct peer *p, struct rondo_comm *c) {
    for (struct rdi_edge *e = c->edges; e != NULL; e = e->next) {
        if (e->peer == 0 && e->channel == RDI_CH_COLL) {
            *(e->out ? &p->out : &p->in) = e->link;
        }
    }
    if (p->out == NULL || p->in == NULL) {
        fprintf(stderr, "there are no links to attack\n");
        _exit(9);
    }
}

void peer_signature(const struct peer *p, bool nonsense, uint8_t out[RDI_SIG_BYTES]) {
    const struct rondo_comm *c = p->rank->comm;
    struct rdi_sig sig = {.comm = 0};
    for (int i = 0; i < RDI_SIG_HISTORY; i++) {
        if (c->history[i].comm == c->id && c->history[i].count == JOB_LARGE) {
            sig = c->history[i]; // the same call, some rounds ago
        }
    }
    if (sig.comm == 0) {
        fprintf(stderr, "there is no signature to copy\n");
        _exit(9);
    }
    if (nonsense) {
        memset(&sig, 0xee, sizeof sig);
        sig.comm = c->id;
        sig.kind = RDI_REDUCE; // of which rank 0 prints all
    }
    sig.seq = c->seq;
    memcpy(out, &sig, sizeof sig);
}

static void act_as_peer(struct rank *r) {
    rank_join(r);
    peer = (struct peer){.rank = r};
    struct rdi_driver *d = r->comm->engine->driver;
    rdi_driver_lock(d);
    find_links(&peer, r->comm);
    current->act(&peer, current->variant);
    rdi_driver_unlock(d);
    if (current->verdict == GOES_ON) {
        rank_report(r, rank_reduce(r, JOB_LARGE, 7), job_now());
    }
    rank_wait(r);
    for (int i = 0; i < peer.nheld; i++) {
        close(peer.held[i]);
    }
}

static void judge(const struct attack *a, const struct report *v) {
    bool timed = v->status == RONDO_ERR_TIMEOUT;
    switch (a->verdict) {
    case FAILS:
        if (v->status >= 0 || timed || strstr(v->text, a->text) == NULL ||
            strstr(v->text, "rank 1") == NULL) {
            fail_msg("%s: rank 0 says %s after %.1f s: '%s', which has not '%s' and 'rank 1'",
                     a->name, rondo_status_name(v->status), v->seconds, v->text, a->text);
        }
        break;
    case TIMES_OUT:
        if (!timed || strstr(v->text, "rank 1") == NULL) {
            fail_msg("%s: rank 0 does not wait for its deadline, but says %s: %s", a->name,
                     rondo_status_name(v->status), v->text);
        }
        break;
    case GOES_ON:
        if (v->status != RONDO_OK) {
            fail_msg("%s: rank 0 says %s: %s", a->name, rondo_status_name(v->status), v->text);
        }
        break;
    case SURVIVES:
        break;
    }
}

static void start(struct job *j, const struct attack *a, const char *options) {
    char victim[256], attacker[256];
    int ms = a->verdict == TIMES_OUT || a->verdict == SURVIVES ? DEADLINE_MS : 60000;
    snprintf(victim, sizeof victim, "%s,path_grace=1s,op_timeout=%dms", options,
             (int)(ms * job_patience()));
    snprintf(attacker, sizeof attacker, "%s,progress=caller,path_grace=1s", options);
    *j = (struct job){.size = 2, .options = {victim, attacker}, .body = {rank_victim, act_as_peer}};
    current = a;
    job_start(j);
}

static void finish(struct job *j, const struct attack *a) {
    struct report v = job_report(j, 0, 20);
    bool with_peer = a->verdict == GOES_ON && v.status == RONDO_OK;
    struct report p = {.status = RONDO_OK};
    if (with_peer) {
        p = job_report(j, 1, 20);
    }
    // A peer that spoils its own state to lie may not survive that.
    job_end(j, 1);
    printf("    %-48s %5.2f s  %s\n", a->name, v.seconds, rondo_status_name(v.status));
    if (getenv("ATTACK_VERBOSE") != NULL) {
        printf("        %s\n", v.text);
    }
    judge(a, &v);
    assert_int_equal(p.status, RONDO_OK);
}

void peer_run(const struct attack *attacks, size_t n, const char *options, const char *only) {
    struct job jobs[AT_ONCE];
    const struct attack *of[AT_ONCE];
    for (size_t next = 0; next < n;) {
        int running = 0;
        for (; next < n && running < AT_ONCE; next++) {
            if (only == NULL || strstr(attacks[next].name, only) != NULL) {
                of[running] = &attacks[next];
                start(&jobs[running++], &attacks[next], options);
            }
        }
        for (int i = 0; i < running; i++) {
            finish(&jobs[i], of[i]);
        }
    }
}
