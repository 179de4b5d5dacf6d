// SPDX-License-Identifier: MIT
// Holds the results of one or two sides against what the operations mean, element by element, and writes a report
// as JSON. Exit code 0: everything is right; 1: something is not; 2: wrong usage.
//
//   nccl_compare --plan FILE --rondo PREFIX [--nccl PREFIX | --mpi PREFIX] --out FILE
#include "data.h"
#include "judge.h"
#include "load.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SIDES = 2 };
static const char *const side_names[] = {
    [JUDGE_RONDO] = "rondo", [JUDGE_NCCL] = "nccl", [JUDGE_MPI] = "mpi"};

// What became of one case on one side.
struct outcome {
    const char *verdict; // ok, wrong, unsupported, failed, missing
    uint64_t elements, wrong, stray;
    bool exact; // one result only was right, for every element
    bool ranks_differ;
    double ulps, share, us;
    char detail[512];
};

struct comparison {
    struct plan plan;
    int sides;
    enum judge_side kind[SIDES];
    struct loaded_side side[SIDES];
    uint64_t rules[SIDES][RULE_COUNT];
    bool good;
    FILE *out;
};

// One case at work.
struct work {
    struct comparison *k;
    const struct test_case *c;
    const struct number_format *f;
    bool exact;
    const unsigned char *result[SIDES][CASES_MAX_RANKS];
    bool usable[SIDES];
    struct outcome outcome[SIDES];
    uint64_t differ; // elements in which the two sides are not the same bits
};

// ---- Elements ------------------------------------------------------------------------------------

// Whose element a receive buffer's element i is, where nothing is reduced.
static uint64_t moved(const struct work *w, int rank, uint64_t i) {
    const struct test_case *c = w->c;
    const int ranks = w->k->plan.ranks;
    switch (c->coll) {
    case CASE_ALL_GATHER:
        return data_element(c, ranks, (int)(i / c->count), i % c->count);
    case CASE_BROADCAST:
        return data_element(c, ranks, c->root, i);
    case CASE_ALL_TO_ALL:
        return data_element(c, ranks, (int)(i / c->count),
                            (uint64_t)rank * c->count + i % c->count);
    default:
        return data_element(c, ranks, (rank + ranks - 1) % ranks, i);
    }
}

static void note_wrong(struct work *w, int s, int rank, uint64_t i, const uint64_t *operands, int n,
                       uint64_t got) {
    struct outcome *o = &w->outcome[s];
    o->verdict = "wrong";
    if (o->wrong++ > 0) {
        return;
    }
    int at = snprintf(o->detail, sizeof o->detail,
                      "rank %d, element %" PRIu64 ": got 0x%" PRIx64 " from", rank, i, got);
    for (int r = 0; r < n; r++) {
        at += snprintf(o->detail + at, sizeof o->detail - (size_t)at, " 0x%" PRIx64, operands[r]);
    }
}

static void judge_element(struct work *w, int rank, uint64_t i) {
    struct comparison *k = w->k;
    const bool reduces = case_reduces(w->c);
    uint64_t operands[CASES_MAX_RANKS];
    const int n = reduces ? k->plan.ranks : 1;
    const uint64_t index = w->c->coll == CASE_REDUCE_SCATTER ? (uint64_t)rank * w->c->count + i : i;
    for (int r = 0; r < n; r++) {
        operands[r] = reduces ? data_element(w->c, n, r, index) : moved(w, rank, i);
    }
    for (int s = 0; s < k->sides; s++) {
        if (!w->usable[s]) {
            continue;
        }
        struct outcome *o = &w->outcome[s];
        const uint64_t got = number_load(w->f, w->result[s][rank], i);
        struct judgement j = {.good = got == operands[0], .exact = true};
        if (reduces) {
            j = judge(w->c, k->kind[s], w->exact, n, operands, got);
        }
        if (!j.good) {
            note_wrong(w, s, rank, i, operands, n, got);
        }
        o->exact = o->exact && j.exact;
        o->ulps = j.ulps > o->ulps ? j.ulps : o->ulps;
        o->share = j.share > o->share ? j.share : o->share;
        for (int r = 0; r < RULE_COUNT; r++) {
            k->rules[s][r] += j.rules >> r & 1;
        }
    }
}

// Whether rank 0's element, which has been judged, is this rank's on every side.
static bool same_as_first(struct work *w, int rank, uint64_t i) {
    const size_t bytes = w->f->bytes;
    bool same = true;
    for (int s = 0; s < w->k->sides; s++) {
        if (w->usable[s] &&
            memcmp(w->result[s][0] + i * bytes, w->result[s][rank] + i * bytes, bytes) != 0) {
            w->outcome[s].ranks_differ = true;
            same = false;
        }
    }
    return same;
}

static void judge_rank(struct work *w, int rank) {
    const uint64_t n = w->c->count * (uint64_t)(case_receives_all(w->c) ? w->k->plan.ranks : 1);
    const bool both = w->k->sides == 2 && w->usable[0] && w->usable[1];
    for (uint64_t i = 0; i < n; i++) {
        if (w->c->coll != CASE_ALL_REDUCE || rank == 0 || !same_as_first(w, rank, i)) {
            judge_element(w, rank, i);
        }
        w->differ += both && number_load(w->f, w->result[0][rank], i) !=
                                 number_load(w->f, w->result[1][rank], i);
    }
    for (int s = 0; s < w->k->sides; s++) {
        w->outcome[s].elements += w->usable[s] ? n : 0;
    }
}

// ---- Cases ---------------------------------------------------------------------------------------

static void gather(struct work *w, int s) {
    static const char *const verdicts[] = {"ok", "unsupported", "failed"};
    struct outcome *o = &w->outcome[s];
    *o = (struct outcome){.verdict = "ok", .exact = true};
    for (int rank = 0; rank < w->k->plan.ranks; rank++) {
        struct result_record r;
        if (!load_case(&w->k->side[s], rank, w->c->index, &r, &w->result[s][rank])) {
            o->verdict = "missing";
            break;
        }
        if (r.status != RESULT_OK) {
            o->verdict = r.status == RESULT_UNSUPPORTED ? verdicts[1] : verdicts[2];
            snprintf(o->detail, sizeof o->detail, "rank %d: %s", rank, r.text);
            break;
        }
        o->stray += r.stray;
        o->us = r.us > o->us ? r.us : o->us; // done when the last rank is
    }
    w->usable[s] = strcmp(o->verdict, "ok") == 0;
}

static void conclude(struct work *w, int s) {
    struct outcome *o = &w->outcome[s];
    if (o->stray > 0) {
        o->verdict = "wrong";
        snprintf(o->detail, sizeof o->detail,
                 "%" PRIu64 " bytes changed outside the result (around it, or in the send buffer)",
                 o->stray);
    }
    // All ranks have the same bits: Rondo promises that.
    if (o->ranks_differ && w->k->kind[s] == JUDGE_RONDO) {
        o->verdict = "wrong";
        if (o->detail[0] == '\0') {
            snprintf(o->detail, sizeof o->detail, "ranks differ in their bits");
        }
    }
    const bool unsupported = strcmp(o->verdict, "unsupported") == 0;
    if (strcmp(o->verdict, "ok") != 0 && (!unsupported || w->k->kind[s] == JUDGE_RONDO)) {
        w->k->good = false;
    }
}

static void put_text(FILE *f, const char *text) {
    fputc('"', f);
    for (; *text != '\0'; text++) {
        const unsigned char b = (unsigned char)*text;
        if (b == '"' || b == '\\') {
            fprintf(f, "\\%c", b);
        } else if (b < 0x20 || b > 0x7e) {
            fprintf(f, "\\u%04x", b);
        } else {
            fputc(b, f);
        }
    }
    fputc('"', f);
}

static void put_outcome(FILE *f, const char *name, const struct outcome *o) {
    fprintf(f,
            ", \"%s\": {\"verdict\": \"%s\", \"elements\": %" PRIu64 ", \"wrong\": %" PRIu64
            ", \"exact\": %s, \"ranks_differ\": %s, \"max_ulps\": %.6g, \"of_bound\": %.6g, "
            "\"us\": %.3f, \"detail\": ",
            name, o->verdict, o->elements, o->wrong, o->exact ? "true" : "false",
            o->ranks_differ ? "true" : "false", o->ulps, o->share, o->us);
    put_text(f, o->detail);
    fputc('}', f);
}

static void compare_case(struct comparison *k, unsigned index) {
    struct work w = {.k = k, .c = &k->plan.list[index]};
    const struct test_case *c = w.c;
    w.f = number_format(c->type);
    w.exact = !case_reduces(c) || data_is_exact(c, k->plan.ranks);
    for (int s = 0; s < k->sides; s++) {
        gather(&w, s);
    }
    for (int rank = 0; rank < k->plan.ranks; rank++) {
        if (case_has_result(c, rank)) {
            judge_rank(&w, rank);
        }
    }
    FILE *f = k->out;
    fprintf(f,
            "%s\n  {\"index\": %u, \"collective\": \"%s\", \"type\": \"%s\", \"op\": \"%s\", "
            "\"count\": %zu, \"bytes\": %zu, \"root\": %d, \"in_place\": %s, \"data\": \"%s\", "
            "\"differ\": %" PRIu64,
            index > 0 ? "," : "", c->index, case_coll_name(c->coll), case_type_name(c->type),
            case_op_name(c->op), c->count, c->count * w.f->bytes, c->root,
            c->in_place ? "true" : "false", case_data_name(c->data), w.differ);
    for (int s = 0; s < k->sides; s++) {
        conclude(&w, s);
        put_outcome(f, side_names[k->kind[s]], &w.outcome[s]);
    }
    fputc('}', f);
}

// ---- The report ----------------------------------------------------------------------------------

static void put_sides(struct comparison *k) {
    fprintf(k->out, "{\"ranks\": %d, \"sides\": [", k->plan.ranks);
    for (int s = 0; s < k->sides; s++) {
        fprintf(k->out, "%s\n  {\"name\": \"%s\", \"version\": ", s > 0 ? "," : "",
                side_names[k->kind[s]]);
        put_text(k->out, k->side[s].rank[0].version);
        fprintf(k->out, ", \"problem\": ");
        put_text(k->out, k->side[s].problem);
        fputc('}', k->out);
        k->good = k->good && k->side[s].problem[0] == '\0';
    }
    fprintf(k->out, "],\n\"cases\": [");
}

static void put_rules(struct comparison *k) {
    fprintf(k->out, "],\n\"rules\": [");
    for (int r = 0; r < RULE_COUNT; r++) {
        const struct judge_rule_text *t = &judge_rules[r];
        fprintf(k->out, "%s\n  {\"name\": \"%s\", \"reason\": ", r > 0 ? "," : "", t->name);
        put_text(k->out, t->reason);
        fprintf(k->out, ", \"asked\": {\"rondo\": ");
        put_text(k->out, t->rondo);
        fprintf(k->out, ", \"nccl\": ");
        put_text(k->out, t->nccl);
        fprintf(k->out, ", \"mpi\": ");
        put_text(k->out, t->mpi);
        fprintf(k->out, "}, \"elements\": {");
        for (int s = 0; s < k->sides; s++) {
            fprintf(k->out, "%s\"%s\": %" PRIu64, s > 0 ? ", " : "", side_names[k->kind[s]],
                    k->rules[s][r]);
        }
        fprintf(k->out, "}}");
    }
    fprintf(k->out, "],\n\"good\": %s}\n", k->good ? "true" : "false");
}

static int usage(const char *program) {
    fprintf(stderr,
            "usage: %s --plan FILE --rondo PREFIX [--nccl PREFIX | --mpi PREFIX] --out FILE\n",
            program);
    return 2;
}

int main(int argc, char **argv) {
    static struct comparison k;
    const char *prefix[SIDES], *plan = NULL, *out = NULL;
    for (int i = 1; i < argc; i += 2) {
        if (i + 1 == argc) {
            return usage(argv[0]);
        }
        const char *name = argv[i], *value = argv[i + 1];
        if (strcmp(name, "--plan") == 0) {
            plan = value;
        } else if (strcmp(name, "--out") == 0) {
            out = value;
        } else {
            int kind = JUDGE_RONDO;
            while (kind <= JUDGE_MPI && strcmp(name + 2, side_names[kind]) != 0) {
                kind++;
            }
            if (strncmp(name, "--", 2) != 0 || kind > JUDGE_MPI || k.sides == SIDES) {
                return usage(argv[0]);
            }
            k.kind[k.sides] = (enum judge_side)kind;
            prefix[k.sides++] = value;
        }
    }
    if (plan == NULL || out == NULL || k.sides == 0 || !plan_read(plan, &k.plan)) {
        return usage(argv[0]);
    }
    k.out = fopen(out, "w");
    if (k.out == NULL) {
        perror(out);
        return 2;
    }
    k.good = true;
    for (int s = 0; s < k.sides; s++) {
        load_side(prefix[s], &k.plan, &k.side[s]);
    }
    put_sides(&k);
    for (unsigned i = 0; i < k.plan.cases; i++) {
        compare_case(&k, i);
    }
    put_rules(&k);
    const bool written = fclose(k.out) == 0;
    for (int s = 0; s < k.sides; s++) {
        load_free(&k.side[s]);
    }
    plan_free(&k.plan);
    return k.good && written ? 0 : 1;
}
