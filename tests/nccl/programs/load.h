// SPDX-License-Identifier: MIT
// The results of one side, read and checked: nothing in the files is believed.
#ifndef NCCL_TEST_LOAD_H
#define NCCL_TEST_LOAD_H

#include "cases.h"
#include "results.h"

#include <stddef.h>

struct loaded_rank {
    unsigned char *bytes;
    size_t length;
    size_t *at; // for each case where its record begins; 0: there is none
    char version[48];
};

struct loaded_side {
    int ranks;
    struct loaded_rank rank[CASES_MAX_RANKS];
    char problem[512]; // empty: all files are complete
};

// Reads PREFIX.0, PREFIX.1 ... What is missing or damaged is told in `problem`, and the cases up to there are
// loaded all the same.
void load_side(const char *prefix, const struct plan *plan, struct loaded_side *side);
void load_free(struct loaded_side *side);
// The record of a case and its result; false when there is none.
bool load_case(const struct loaded_side *side, int rank, unsigned index,
               struct result_record *record, const unsigned char **result);

#endif
