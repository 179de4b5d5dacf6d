// SPDX-License-Identifier: MIT
#include "cases.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const coll_names[CASE_COLL_COUNT] = {
    "all_reduce", "reduce_scatter", "reduce", "all_gather", "broadcast", "all_to_all", "send_recv"};
static const char *const data_names[DATA_COUNT] = {"small",    "uniform", "wide", "cancel",
                                                   "denormal", "special", "bits"};
static const char *const type_names[RONDO_TYPE_COUNT] = {
    [RONDO_F32] = "f32", [RONDO_F64] = "f64", [RONDO_F16] = "f16",       [RONDO_BF16] = "bf16",
    [RONDO_I8] = "i8",   [RONDO_U8] = "u8",   [RONDO_I32] = "i32",       [RONDO_U32] = "u32",
    [RONDO_I64] = "i64", [RONDO_U64] = "u64", [RONDO_F8E4M3] = "f8e4m3", [RONDO_F8E5M2] = "f8e5m2",
};
static const char *const op_names[RONDO_OP_COUNT] = {
    [RONDO_SUM] = "sum", [RONDO_PROD] = "prod", [RONDO_MIN] = "min",
    [RONDO_MAX] = "max", [RONDO_AVG] = "avg",
};

const char *case_coll_name(enum case_coll coll) { return coll_names[coll]; }
const char *case_data_name(enum case_data data) { return data_names[data]; }
const char *case_type_name(rondo_type type) { return type_names[type]; }
const char *case_op_name(rondo_op op) { return op_names[op]; }

bool case_reduces(const struct test_case *c) { return c->coll <= CASE_REDUCE; }

bool case_sends_all(const struct test_case *c) {
    return c->coll == CASE_REDUCE_SCATTER || c->coll == CASE_ALL_TO_ALL;
}

bool case_receives_all(const struct test_case *c) {
    return c->coll == CASE_ALL_GATHER || c->coll == CASE_ALL_TO_ALL;
}

bool case_has_result(const struct test_case *c, int rank) {
    return c->coll != CASE_REDUCE || rank == c->root;
}

static int find(const char *word, const char *const *names, int n) {
    for (int i = 0; i < n; i++) {
        if (strcmp(word, names[i]) == 0) {
            return i;
        }
    }
    return -1;
}

static bool parse_case(const char *line, int ranks, struct test_case *c) {
    char coll[16], type[16], op[16], data[16];
    unsigned in_place;
    if (sscanf(line, "%u %15s %15s %15s %zu %d %u %15s %" SCNu64 " %d", &c->index, coll, type, op,
               &c->count, &c->root, &in_place, data, &c->seed, &c->repeat) != 10) {
        return false;
    }
    const int k = find(coll, coll_names, CASE_COLL_COUNT);
    const int t = find(type, type_names, RONDO_TYPE_COUNT);
    const int o = find(op, op_names, RONDO_OP_COUNT);
    const int d = find(data, data_names, DATA_COUNT);
    if (k < 0 || t < 0 || o < 0 || d < 0 || in_place > 1 || c->root < 0 || c->root >= ranks ||
        c->count > CASES_MAX_COUNT || c->repeat < 0 || c->repeat > 1000) {
        return false;
    }
    c->coll = (enum case_coll)k;
    c->type = (rondo_type)t;
    c->op = (rondo_op)o;
    c->data = (enum case_data)d;
    c->in_place = in_place == 1;
    return true;
}

static uint64_t hash_text(uint64_t hash, const char *text) { // FNV-1a
    for (; *text != '\0'; text++) {
        hash = (hash ^ (unsigned char)*text) * 0x100000001b3u;
    }
    return hash;
}

static bool parse_plan(FILE *file, struct plan *plan) {
    char line[256];
    plan->hash = 0xcbf29ce484222325u;
    if (fgets(line, sizeof line, file) == NULL ||
        sscanf(line, "plan 1 %d %u", &plan->ranks, &plan->cases) != 2 || plan->ranks < 2 ||
        plan->ranks > CASES_MAX_RANKS || plan->cases > 100000) {
        return false;
    }
    plan->hash = hash_text(plan->hash, line);
    plan->list = calloc(plan->cases + 1, sizeof *plan->list);
    for (unsigned i = 0; plan->list != NULL && i < plan->cases; i++) {
        if (fgets(line, sizeof line, file) == NULL ||
            !parse_case(line, plan->ranks, &plan->list[i]) || plan->list[i].index != i) {
            return false;
        }
        plan->hash = hash_text(plan->hash, line);
    }
    return plan->list != NULL;
}

bool plan_read(const char *path, struct plan *plan) {
    memset(plan, 0, sizeof *plan);
    FILE *file = fopen(path, "r");
    if (file == NULL) {
        perror(path);
        return false;
    }
    const bool good = parse_plan(file, plan);
    fclose(file);
    if (!good) {
        fprintf(stderr, "%s is no plan of this program\n", path);
        plan_free(plan);
    }
    return good;
}

void plan_free(struct plan *plan) {
    free(plan->list);
    plan->list = NULL;
}
