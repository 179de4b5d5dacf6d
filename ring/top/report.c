// SPDX-License-Identifier: MIT
// The same for programs.
#include "ring/top/top.h"

#include <jansson.h>

static json_t *wait_json(const struct top_wait *w) {
    return json_pack("{s:s, s:s, s:b, s:s, s:i, s:I, s:I}", "wait", w->wait, "why", w->why,
                     "for_peer", w->for_peer, "direction", w->out ? "to" : "from", "rank", w->rank,
                     "done", (json_int_t)w->done, "total", (json_int_t)w->total);
}

static json_t *op_json(const struct top_rank *r, const struct top_comm *c, const struct top_op *o) {
    json_t *waits = json_array();
    for (size_t i = 0; i < o->nwaits; i++) {
        json_array_append_new(waits, wait_json(&o->waits[i]));
    }
    return json_pack("{s:s, s:I, s:I, s:I, s:s, s:s, s:s, s:f, s:o}", "op", o->op, "seq",
                     (json_int_t)o->seq, "count", (json_int_t)o->count, "bytes",
                     (json_int_t)o->bytes, "type", o->type, "redop", o->redop, "algorithm",
                     o->algorithm, "seconds", top_age(r, c, o), "waits", waits);
}

static json_t *rank_json(const struct top_rank *r) {
    char state[2] = {r->state, '\0'};
    const struct top_comm *c = NULL;
    const struct top_op *o = top_current(r, &c);
    json_t *errors = json_array();
    for (size_t i = 0; i < r->ncomms; i++) {
        if (r->comms[i].error && r->comms[i].error[0]) {
            json_array_append_new(errors, json_pack("{s:s, s:s}", "status", r->comms[i].status,
                                                    "error", r->comms[i].error));
        }
    }
    json_t *rates =
        json_pack("{s:f, s:f}", "sent_per_s", r->send_rate, "received_per_s", r->receive_rate);
    return json_pack("{s:i, s:i, s:s, s:s, s:b, s:b, s:s, s:o, s:o, s:o}", "rank", r->rank, "pid",
                     r->pid, "host", r->host, "program", r->program, "answered", r->answered,
                     "whole", r->whole, "process_state", state, "operation",
                     o ? op_json(r, c, o) : json_null(), "errors", errors, "bytes", rates);
}

bool top_report(FILE *f, const struct top_job *job, const struct top_verdict *v) {
    static const char *const reasons[] = {"nobody_waits", "not_called", "late", "no_answer",
                                          "not_seen",     "working",    "path", "unknown"};
    json_t *ranks = json_array();
    for (size_t i = 0; i < job->nranks; i++) {
        json_array_append_new(ranks, rank_json(&job->ranks[i]));
    }
    json_t *verdict = json_pack("{s:s, s:i, s:i, s:I, s:f, s:s, s:s}", "reason", reasons[v->reason],
                                "culprit", v->culprit, "other", v->other, "waiting",
                                (json_int_t)v->waiting, "seconds", v->seconds, "operation", v->op,
                                "text", v->text);
    json_t *straggler = json_pack("{s:i, s:I, s:I, s:f}", "rank", v->straggler, "last",
                                  (json_int_t)v->last, "of", (json_int_t)v->seen, "late_s",
                                  v->late);
    json_t *all = json_pack("{s:s, s:i, s:o, s:o, s:o}", "job", job->name, "size", job->size,
                            "ranks", ranks, "verdict", verdict, "straggler", straggler);
    bool ok = all && json_dumpf(all, f, JSON_INDENT(1) | JSON_REAL_PRECISION(9)) == 0 &&
              fputc('\n', f) != EOF;
    json_decref(all);
    return ok;
}
