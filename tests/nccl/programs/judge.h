// SPDX-License-Identifier: MIT
// Whether an element is right: from all ranks' operands, what the operation may give on one side.
//
// Bounds. With u = 2^-p the unit roundoff of the type (p bits, the leading one included), any order of additions
// that rounds k times on the way satisfies |computed - exact| <= ((1 + u)^k - 1) * sum |x_i| (Higham, "Accuracy and
// Stability of Numerical Algorithms", 2nd ed., 2002, lemma 3.1 and section 4.2; to first order k u sum |x_i|), and
// for products the same with |product| in the place of the sum. Here
//
//   sum, prod   k = n - 1
//   avg         k = n      Rondo, MPI: the sum is divided, which rounds once more
//               k = n + 1  NCCL: 1/n is rounded to the type, each operand's product with it is rounded
//
// A type narrower than f32 is added in an accumulator of unit roundoff v and rounded to the type afterwards, or
// not yet: the factor is (1 + u)^k (1 + v)^k, v = 2^-24 (Rondo's f32), 2^-11 (the f16 in which NCCL adds 8-bit
// floats), 2^-53 (MPI's double). Additions do not underflow (their results are multiples of the smallest
// denormal, eta); a product or quotient that does adds eta / 2, which later factors may magnify.
// Two ranks: sums and products round once on every side, so that they are the correctly rounded result.
//
// Differences that are documented, and what is asked of each side: judge_rules.
#ifndef NCCL_TEST_JUDGE_H
#define NCCL_TEST_JUDGE_H

#include "cases.h"
#include "number.h"

enum judge_side { JUDGE_RONDO, JUDGE_NCCL, JUDGE_MPI };

enum judge_rule {
    RULE_NAN_BITS,
    RULE_NAN_MIN_MAX,
    RULE_ZERO_MIN_MAX,
    RULE_FP8_MIN_MAX,
    RULE_FP8_SATURATE,
    RULE_AVG_SCALE,
    RULE_AVG_OVERFLOW,
    RULE_INT8_OVERFLOW,
    RULE_UNSIGNED_ORDER,
    RULE_COUNT
};
struct judge_rule_text {
    const char *name, *rondo, *nccl, *mpi, *reason;
};
extern const struct judge_rule_text judge_rules[RULE_COUNT];

struct judgement {
    bool good, exact; // exact: one result only is right
    // |got - exact result| in units of the last place of sum |x_i|, for averages / n, or of |product|: what cancels
    // loses digits of the result but not of the sum. 0 where there is no number.
    double ulps;
    double share;   // of the bound; 0 where it is exact
    unsigned rules; // bit set of the rules that applied
};

// `exact`: the data allow one result only.
struct judgement judge(const struct test_case *c, enum judge_side side, bool exact, int ranks,
                       const uint64_t *operands, uint64_t got);

#endif
