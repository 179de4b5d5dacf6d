// SPDX-License-Identifier: MIT
#include "load.h"

#include "number.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool problem(struct loaded_side *side, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));
static bool problem(struct loaded_side *side, const char *fmt, ...) {
    va_list args;
    if (side->problem[0] == '\0') { // the first is the cause of the others
        va_start(args, fmt);
        vsnprintf(side->problem, sizeof side->problem, fmt, args);
        va_end(args);
    }
    return false;
}

static bool read_file(const char *path, struct loaded_rank *r) {
    FILE *file = fopen(path, "rb");
    if (file == NULL) {
        return false;
    }
    long length = fseek(file, 0, SEEK_END) == 0 ? ftell(file) : -1;
    r->bytes = length >= 0 ? malloc((size_t)length + 1) : NULL;
    rewind(file);
    const bool good = r->bytes != NULL &&
                      fread(r->bytes, 1, (size_t)length, file) == (size_t)length;
    r->length = good ? (size_t)length : 0;
    fclose(file);
    return good;
}

static bool check_head(struct loaded_side *side, int rank, const struct plan *plan,
                       const char *path) {
    struct loaded_rank *r = &side->rank[rank];
    struct result_head head;
    if (r->length < sizeof head) {
        return problem(side, "%s is empty or cut off", path);
    }
    memcpy(&head, r->bytes, sizeof head);
    if (memcmp(head.magic, RESULT_MAGIC, sizeof head.magic) != 0) {
        return problem(side, "%s holds no results", path);
    }
    if (head.plan != plan->hash || head.cases != plan->cases || head.rank != (uint32_t)rank ||
        head.ranks != (uint32_t)plan->ranks) {
        return problem(side, "%s is of another plan, rank or number of ranks", path);
    }
    snprintf(r->version, sizeof r->version, "%.47s", head.version);
    return true;
}

// Bytes that a complete result of the case has on this rank.
static uint64_t result_bytes(const struct test_case *c, const struct plan *plan, int rank) {
    const uint64_t block = c->count * number_format(c->type)->bytes;
    return !case_has_result(c, rank) ? 0
           : case_receives_all(c)    ? block * (uint64_t)plan->ranks
                                     : block;
}

static bool index_records(struct loaded_side *side, int rank, const struct plan *plan,
                          const char *path) {
    struct loaded_rank *r = &side->rank[rank];
    size_t at = sizeof(struct result_head);
    for (unsigned i = 0; i < plan->cases; i++) {
        struct result_record record;
        if (r->length - at < sizeof record) {
            return problem(side, "%s ends before case %u of %u", path, i, plan->cases);
        }
        memcpy(&record, r->bytes + at, sizeof record);
        const uint64_t wanted =
            record.status == RESULT_OK ? result_bytes(&plan->list[i], plan, rank) : 0;
        if (record.index != i || record.bytes != wanted ||
            r->length - at - sizeof record < record.bytes) {
            return problem(side, "%s: the record of case %u is damaged", path, i);
        }
        r->at[i] = at;
        at += sizeof record + (size_t)record.bytes;
    }
    return at == r->length || problem(side, "%s has bytes behind its last case", path);
}

void load_side(const char *prefix, const struct plan *plan, struct loaded_side *side) {
    memset(side, 0, sizeof *side);
    side->ranks = plan->ranks;
    for (int rank = 0; rank < plan->ranks; rank++) {
        char path[4096];
        snprintf(path, sizeof path, "%s.%d", prefix, rank);
        side->rank[rank].at = calloc(plan->cases + 1, sizeof *side->rank[rank].at);
        if (side->rank[rank].at == NULL || !read_file(path, &side->rank[rank])) {
            problem(side, "%s cannot be read: that rank did not finish", path);
        } else if (check_head(side, rank, plan, path)) {
            index_records(side, rank, plan, path);
        }
    }
}

void load_free(struct loaded_side *side) {
    for (int rank = 0; rank < side->ranks; rank++) {
        free(side->rank[rank].bytes);
        free(side->rank[rank].at);
    }
}

bool load_case(const struct loaded_side *side, int rank, unsigned index,
               struct result_record *record, const unsigned char **result) {
    const struct loaded_rank *r = &side->rank[rank];
    if (r->at == NULL || r->at[index] == 0) {
        return false;
    }
    memcpy(record, r->bytes + r->at[index], sizeof *record);
    record->text[sizeof record->text - 1] = '\0';
    *result = r->bytes + r->at[index] + sizeof *record;
    return true;
}
