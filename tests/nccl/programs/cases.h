// SPDX-License-Identifier: MIT
// What is run: cases, and the plan file that lists them for every program, so that all see the same list:
//
//   plan 1 RANKS CASES
//   INDEX COLLECTIVE TYPE OP COUNT ROOT IN_PLACE DATA SEED REPEAT        one line a case, INDEX from 0
//
// COUNT is in elements and means what it means in ring.h; REPEAT is the number of timed repetitions, 0: none.
#ifndef NCCL_TEST_CASES_H
#define NCCL_TEST_CASES_H

#include <rondo/ring.h>
#include <stdbool.h>
#include <stdint.h>

#define CASES_MAX_RANKS 8 // more, and 8-bit floats have no sums that are exact in any order
#define CASES_MAX_COUNT ((size_t)1 << 28)

enum case_coll {
    CASE_ALL_REDUCE,
    CASE_REDUCE_SCATTER,
    CASE_REDUCE,
    CASE_ALL_GATHER,
    CASE_BROADCAST,
    CASE_ALL_TO_ALL,
    CASE_SEND_RECV, // to the next rank, from the one before
    CASE_COLL_COUNT
};

enum case_data {
    DATA_SMALL,    // sums and products are exact in any order
    DATA_UNIFORM,  // in [-1, 1], as gradients are; factors near 1
    DATA_WIDE,     // all exponents at which nothing can overflow
    DATA_CANCEL,   // two ranks' large values that nearly cancel
    DATA_DENORMAL, // denormal, or hardly not
    DATA_SPECIAL,  // zeros of either sign, infinities, NaNs, overflow, underflow
    DATA_BITS,     // any bits
    DATA_COUNT
};

struct test_case {
    unsigned index;
    enum case_coll coll;
    rondo_type type;
    rondo_op op;
    size_t count;
    int root;
    bool in_place;
    enum case_data data;
    uint64_t seed;
    int repeat;
};

struct plan {
    int ranks;
    unsigned cases;
    struct test_case *list;
    uint64_t hash; // of the file: results say which plan they belong to
};

// False after a message on stderr.
bool plan_read(const char *path, struct plan *plan);
void plan_free(struct plan *plan);

const char *case_coll_name(enum case_coll coll);
const char *case_data_name(enum case_data data);
const char *case_type_name(rondo_type type);
const char *case_op_name(rondo_op op);
bool case_reduces(const struct test_case *c);
// Whether a rank's send (receive) buffer has a block for each rank, and not one block.
bool case_sends_all(const struct test_case *c);
bool case_receives_all(const struct test_case *c);
// Whether this rank gets a result.
bool case_has_result(const struct test_case *c, int rank);

#endif
