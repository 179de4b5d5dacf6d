// SPDX-License-Identifier: MIT
#include "judge.h"

const struct judge_rule_text judge_rules[RULE_COUNT] = {
    [RULE_NAN_BITS] = {"nan-bits", "the one canonical NaN", "any NaN", "any NaN",
                       "Rondo makes ranks on different processors agree in all bits"},
    [RULE_NAN_MIN_MAX] = {"nan-min-max", "NaN", "the least or greatest of the others",
                          "NaN or any operand",
                          "Rondo does not hide a NaN; NCCL uses fminf, fmaxf; MPI leaves it open"},
    [RULE_ZERO_MIN_MAX] = {"zero-min-max", "-0 < +0", "either zero", "either zero",
                           "Rondo's result does not depend on the order of ranks"},
    [RULE_FP8_MIN_MAX] = {"fp8-min-max", "infinity", "the largest finite value", "infinity",
                          "NCCL converts the result from f16, which saturates"},
    [RULE_FP8_SATURATE] = {"fp8-saturate", "the largest finite value", "the largest finite value",
                           "the largest finite value",
                           "8-bit floats saturate instead of becoming infinite"},
    [RULE_AVG_SCALE] = {"avg-scale", "sum, then divided: n roundings",
                        "operands times 1/n rounded to the type: n + 1 roundings",
                        "sum, then divided: n roundings",
                        "1/n is exact for powers of two only; Rondo's is the closer one"},
    [RULE_AVG_OVERFLOW] = {"avg-overflow", "infinity, or the average within its bound",
                           "infinity, or the average within its bound", "infinity",
                           "a sum that is too large may be divided before it is rounded to the "
                           "type; 8-bit floats: between the largest value over n and that value"},
    [RULE_INT8_OVERFLOW] = {"int8-overflow", "wraps", "wraps",
                            "2 ranks: wraps or saturates; more: anything",
                            "MPI leaves it open; Open MPI's vector code adds 8-bit integers with "
                            "saturation, and the rest of an array without"},
    [RULE_UNSIGNED_ORDER] = {"unsigned-order", "as unsigned", "as unsigned",
                             "as unsigned, or by the sign",
                             "MPICH 4.0 takes unsigned integers for signed in MIN and MAX"},
};

struct task {
    const struct number_format *f;
    rondo_op op;
    enum judge_side side;
    bool exact;
    int n;
    const uint64_t *x;
    uint64_t got;
};

static unsigned rule(enum judge_rule r) { return 1u << r; }

static struct judgement expect_bits(const struct task *t, uint64_t bits) {
    return (struct judgement){.good = t->got == bits, .exact = true};
}

static struct judgement expect_nan(const struct task *t) {
    const bool nan = number_class(t->f, t->got) == NUMBER_NAN;
    return (struct judgement){.good = nan && (t->side != JUDGE_RONDO || t->got == t->f->nan),
                              .exact = true,
                              .rules = rule(RULE_NAN_BITS)};
}

static uint64_t signed_bits(const struct task *t, uint64_t magnitude, bool negative) {
    return magnitude | (negative ? number_sign_bit(t->f) : 0);
}

// `error` in units of the last place that a number as large as `scale` has.
static double in_ulps(const struct number_format *f, wide error, wide scale) {
    int exponent = f->least;
    if (scale != 0 && number_exponent(scale) > exponent) {
        exponent = number_exponent(scale);
    }
    return (double)(error * number_power((int)f->mantissa - exponent));
}

// ---- Bounds --------------------------------------------------------------------------------------

static wide accumulator(const struct task *t) {
    if (t->f->bytes >= 4) {
        return 0;
    }
    if (t->side == JUDGE_NCCL && t->f->saturates) {
        return number_power(-11);
    }
    return number_power(t->side == JUDGE_MPI ? -53 : -24);
}

static wide growth(const struct task *t, int k) {
    const wide once = (1 + number_power(-1 - (int)t->f->mantissa)) * (1 + accumulator(t));
    wide all = 1;
    for (int i = 0; i < k; i++) {
        all *= once;
    }
    return all - 1;
}

// What an underflow may add: half the smallest denormal, and as much in the accumulator, where that is f16.
static wide underflow(const struct task *t) {
    const wide eta = number_power(t->f->least - (int)t->f->mantissa);
    const wide inner = t->side == JUDGE_NCCL && t->f->saturates ? number_power(-24) : 0;
    return (eta + inner) / 2 * (1 + growth(t, 1));
}

// The exact result is `exact`, and what is computed lies within `bound` of it before it is too large: what lies
// half a unit of the last place above the largest finite value, or more. `scale`: see struct judgement.
static struct judgement expect_within(const struct task *t, wide exact, wide bound, wide scale) {
    const struct number_format *f = t->f;
    const wide top = number_value(f, f->top);
    const wide edge = top + number_power(number_top_exponent(f) - (int)f->mantissa - 1);
    const bool negative = exact < 0;
    struct judgement j = {.exact = t->exact, .good = true};
    if (number_abs(exact) + bound >= edge) {
        j.rules = f->saturates ? rule(RULE_FP8_SATURATE) : 0;
        if (t->got == signed_bits(t, f->saturates ? f->top : f->top + 1, negative)) {
            return j;
        }
    }
    if (number_class(f, t->got) != NUMBER_FINITE) {
        j.good = false;
        return j;
    }
    const wide got = number_value(f, t->got);
    const wide error = number_abs(got - exact);
    j.ulps = in_ulps(f, error, scale);
    if (t->exact) {
        j.good = t->got == number_round(f, exact);
    } else {
        j.share = bound > 0 ? (double)(error / bound) : error > 0 ? 1e9 : 0;
        j.good = error <= bound;
    }
    return j;
}

// ---- Sums and averages ---------------------------------------------------------------------------

struct terms {
    int nans, plus, minus; // NaNs, infinities of either sign
    int negative_zeros;
    wide sum, magnitudes;
};

static struct terms collect(const struct task *t) {
    struct terms s = {.sum = number_value(t->f, number_sign_bit(t->f))}; // -0 + x = x
    for (int r = 0; r < t->n; r++) {
        const bool negative = number_negative(t->f, t->x[r]);
        switch (number_class(t->f, t->x[r])) {
        case NUMBER_NAN:
            s.nans++;
            break;
        case NUMBER_INFINITE:
            s.plus += !negative;
            s.minus += negative;
            break;
        default:
            s.negative_zeros += negative && number_magnitude(t->f, t->x[r]) == 0;
            s.sum += number_value(t->f, t->x[r]);
            s.magnitudes += number_abs(number_value(t->f, t->x[r]));
        }
    }
    return s;
}

// A sum that has left the type, or an infinity that a type without has forgotten, may have been divided by n
// before or after.
static struct judgement average_too_large(const struct task *t, bool negative, wide exact,
                                          wide bound) {
    const struct number_format *f = t->f;
    struct judgement j = {.rules = rule(RULE_AVG_OVERFLOW)};
    const enum number_class class = number_class(f, t->got);
    if (!f->saturates && t->got == signed_bits(t, f->top + 1, negative)) {
        j.good = true;
    } else if (class == NUMBER_FINITE && number_negative(f, t->got) == negative) {
        const wide got = number_abs(number_value(f, t->got));
        if (f->saturates) {
            const wide least = number_value(f, f->top) / t->n;
            j.rules |= rule(RULE_FP8_SATURATE);
            j.good = got >= least - growth(t, 1) * least;
        } else {
            j.good = t->side != JUDGE_MPI && number_abs(got - number_abs(exact)) <= bound;
        }
    }
    return j;
}

// Only zeros that are all negative add up to -0; a negative average may underflow to it.
static bool zero_has_right_sign(const struct task *t, const struct terms *s, wide exact) {
    if (number_magnitude(t->f, t->got) != 0) {
        return true;
    }
    const bool negative = number_negative(t->f, t->got);
    if (s->negative_zeros == t->n) {
        return negative;
    }
    return !negative || (t->op == RONDO_AVG && exact < 0);
}

static struct judgement judge_sum(const struct task *t) {
    const bool average = t->op == RONDO_AVG, nccl = t->side == JUDGE_NCCL;
    const struct terms s = collect(t);
    if (s.nans > 0 || (s.plus > 0 && s.minus > 0)) {
        return expect_nan(t);
    }
    const int n = average ? t->n : 1;
    const wide exact = s.sum / n;
    wide bound = growth(t, t->n - 1 + (average ? 1 : 0) + (average && nccl ? 1 : 0)) *
                 (s.magnitudes / n);
    bound += average ? (nccl ? t->n : 1) * underflow(t) : 0;
    if (s.plus + s.minus > 0) {
        if (t->f->saturates && average) {
            return average_too_large(t, s.minus > 0, 0, 0);
        }
        struct judgement j = expect_bits(
            t, signed_bits(t, t->f->saturates ? t->f->top : t->f->top + 1, s.minus > 0));
        j.rules = t->f->saturates ? rule(RULE_FP8_SATURATE) : 0;
        return j;
    }
    if (average && number_abs(s.sum) > number_value(t->f, t->f->top)) {
        return average_too_large(t, s.sum < 0, exact, bound);
    }
    struct task mine = *t;
    mine.exact |= t->n == 2 && !average;
    struct judgement j = expect_within(&mine, exact, bound, s.magnitudes / n);
    j.good = j.good && zero_has_right_sign(t, &s, exact);
    j.rules |= average && (t->n & (t->n - 1)) != 0 ? rule(RULE_AVG_SCALE) : 0;
    return j;
}

// ---- Products ------------------------------------------------------------------------------------

static struct judgement judge_product(const struct task *t) {
    const struct number_format *f = t->f;
    bool negative = false, zero = false, infinite = false, nan = false;
    wide product = 1, small = 1, large = 1;
    for (int r = 0; r < t->n; r++) {
        negative ^= number_negative(f, t->x[r]);
        if (number_class(f, t->x[r]) != NUMBER_FINITE) {
            nan |= number_class(f, t->x[r]) == NUMBER_NAN;
            infinite = true;
            continue;
        }
        const wide v = number_abs(number_value(f, t->x[r]));
        zero |= v == 0;
        product *= v;
        small *= v < 1 ? v : 1;
        large *= v > 1 ? v : 1;
    }
    if (nan || (infinite && zero)) {
        return expect_nan(t);
    }
    if (infinite) {
        struct judgement j =
            expect_bits(t, signed_bits(t, f->saturates ? f->top : f->top + 1, negative));
        j.rules = f->saturates ? rule(RULE_FP8_SATURATE) : 0;
        return j;
    }
    if (zero) {
        return expect_bits(t, signed_bits(t, 0, negative));
    }
    struct task mine = *t;
    wide bound = growth(t, t->n - 1) * product;
    const bool underflows = small < number_power(f->least);
    if (underflows) {
        bound += (t->n - 1) * underflow(t) * large * (1 + growth(t, t->n - 1));
    }
    // f16 has too few bits below its normal numbers for an 8-bit product to be rounded once.
    const bool twice = underflows && t->side == JUDGE_NCCL && f->saturates;
    mine.exact |= t->n == 2 && !twice;
    struct judgement j = expect_within(&mine, negative ? -product : product, bound, product);
    j.good = j.good && number_negative(f, t->got) == negative;
    return j;
}

// ---- Least and greatest --------------------------------------------------------------------------

// Orders elements as numbers, -0 below +0.
static int64_t order_key(const struct number_format *f, uint64_t bits) {
    const int64_t magnitude = (int64_t)number_magnitude(f, bits);
    return number_negative(f, bits) ? -magnitude - 1 : magnitude;
}

static bool is_operand(const struct task *t) {
    for (int r = 0; r < t->n; r++) {
        if (t->x[r] == t->got) {
            return true;
        }
    }
    return false;
}

static struct judgement judge_order(const struct task *t) {
    const struct number_format *f = t->f;
    int nans = 0;
    bool any = false, zeros[2] = {false, false};
    uint64_t best = 0;
    for (int r = 0; r < t->n; r++) {
        if (number_class(f, t->x[r]) == NUMBER_NAN) {
            nans++;
            continue;
        }
        const bool less = order_key(f, t->x[r]) < order_key(f, best);
        if (!any || (t->x[r] != best && less == (t->op == RONDO_MIN))) {
            best = t->x[r];
        }
        any = true;
        zeros[number_negative(f, t->x[r])] |= number_magnitude(f, t->x[r]) == 0;
    }
    struct judgement j;
    if (nans > 0 && (t->side == JUDGE_RONDO || !any)) {
        j = expect_nan(t);
    } else if (nans > 0 && t->side == JUDGE_MPI) {
        const bool nan = number_class(f, t->got) == NUMBER_NAN;
        j = (struct judgement){.good = nan || is_operand(t), .exact = true};
    } else if (number_magnitude(f, best) == 0 && zeros[0] && zeros[1]) {
        const bool right = t->side == JUDGE_RONDO ? t->got == best : is_operand(t);
        j = (struct judgement){.good = right && number_magnitude(f, t->got) == 0,
                               .exact = true,
                               .rules = rule(RULE_ZERO_MIN_MAX)};
    } else if (f->saturates && number_class(f, best) == NUMBER_INFINITE) {
        const uint64_t top = signed_bits(t, f->top, number_negative(f, best));
        j = expect_bits(t, t->side == JUDGE_NCCL ? top : best);
        j.rules = rule(RULE_FP8_MIN_MAX);
    } else {
        j = expect_bits(t, best);
    }
    j.rules |= nans > 0 ? rule(RULE_NAN_MIN_MAX) : 0;
    return j;
}

// ---- Integers ------------------------------------------------------------------------------------

static uint64_t average(const struct number_format *f, uint64_t sum, uint64_t n) {
    return f->has_sign && (int64_t)sum < 0 ? 0 - (0 - sum) / n : sum / n;
}

// An 8-bit sum on MPI, where an addition has or may have left the type.
static void int8_overflow(const struct task *t, uint64_t mask, struct judgement *j) {
    const struct number_format *f = t->f;
    const int64_t most = f->has_sign ? 127 : 255, least = f->has_sign ? -128 : 0;
    int64_t plus = 0, minus = 0;
    if (t->side != JUDGE_MPI || f->bytes != 1) {
        return;
    }
    for (int r = 0; r < t->n; r++) {
        const int64_t v = (int64_t)number_integer(f, t->x[r]);
        *(v > 0 ? &plus : &minus) += v;
    }
    if (plus <= most && minus >= least) {
        return;
    }
    const int64_t sum = plus + minus;
    uint64_t clamped = (uint64_t)(sum > most ? most : sum < least ? least : sum);
    clamped = t->op == RONDO_AVG ? average(f, clamped, (uint64_t)t->n) : clamped;
    j->good = j->good || t->n > 2 || t->got == (clamped & mask);
    j->rules = rule(RULE_INT8_OVERFLOW);
}

// A least or greatest unsigned integer on MPI, where the top bits differ.
static void unsigned_order(const struct task *t, struct judgement *j) {
    const uint64_t sign = number_sign_bit(t->f);
    uint64_t best = t->x[0];
    bool tops[2] = {false, false};
    for (int r = 0; r < t->n; r++) {
        const bool less = (t->x[r] ^ sign) < (best ^ sign);
        tops[(t->x[r] & sign) != 0] = true;
        if (t->x[r] != best && less == (t->op == RONDO_MIN)) {
            best = t->x[r];
        }
    }
    if (t->side == JUDGE_MPI && !t->f->has_sign && tops[0] && tops[1]) {
        j->good = j->good || t->got == best;
        j->rules = rule(RULE_UNSIGNED_ORDER);
    }
}

static struct judgement judge_integer(const struct task *t) {
    const struct number_format *f = t->f;
    const uint64_t mask = f->bytes == 8 ? ~(uint64_t)0 : ((uint64_t)1 << 8 * f->bytes) - 1;
    const bool sum = t->op == RONDO_SUM || t->op == RONDO_AVG, least = t->op == RONDO_MIN;
    uint64_t v = number_integer(f, t->x[0]);
    for (int r = 1; r < t->n; r++) {
        const uint64_t w = number_integer(f, t->x[r]);
        const bool less = f->has_sign ? (int64_t)w < (int64_t)v : w < v;
        if (sum) {
            v += w;
        } else if (t->op == RONDO_PROD) {
            v *= w;
        } else if (w != v && less == least) {
            v = w;
        }
    }
    if (t->op == RONDO_AVG) { // of the sum as it has wrapped
        v = average(f, number_integer(f, v & mask), (uint64_t)t->n);
    }
    struct judgement j = expect_bits(t, v & mask);
    if (sum) {
        int8_overflow(t, mask, &j);
    } else if (t->op != RONDO_PROD) {
        unsigned_order(t, &j);
    }
    return j;
}

struct judgement judge(const struct test_case *c, enum judge_side side, bool exact, int ranks,
                       const uint64_t *operands, uint64_t got) {
    const struct task t = {.f = number_format(c->type),
                           .op = c->op,
                           .side = side,
                           .exact = exact,
                           .n = ranks,
                           .x = operands,
                           .got = got};
    if (!t.f->real) {
        return judge_integer(&t);
    }
    switch (c->op) {
    case RONDO_PROD:
        return judge_product(&t);
    case RONDO_MIN:
    case RONDO_MAX:
        return judge_order(&t);
    default:
        return judge_sum(&t);
    }
}
