// SPDX-License-Identifier: MIT
// The judge judged: the types as numbers, bounds to the last unit, the rules for each side, and what of the data
// the judge relies on.
#include "ring/fp8.h"
#include "tests/nccl/programs/data.h"
#include "tests/nccl/programs/judge.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

enum { R = JUDGE_RONDO, N = JUDGE_NCCL, M = JUDGE_MPI };

static struct judgement ask(rondo_type type, rondo_op op, int side, bool exact, int n,
                            const uint64_t *x, uint64_t got) {
    const struct test_case c = {.coll = CASE_ALL_REDUCE, .type = type, .op = op};
    return judge(&c, (enum judge_side)side, exact, n, x, got);
}

static bool good2(rondo_type type, rondo_op op, int side, uint64_t a, uint64_t b, uint64_t got) {
    return ask(type, op, side, false, 2, (const uint64_t[]){a, b}, got).good;
}

static uint64_t f32(float f) { return rdi_f32_bits(f); }

// ---- Numbers -------------------------------------------------------------------------------------

typedef float to_f32(uint32_t bits);
static float f16_value(uint32_t b) { return rdi_f16_to_f32((uint16_t)b); }
static float bf16_value(uint32_t b) { return rdi_bf16_to_f32((uint16_t)b); }
static float f8e4m3_value(uint32_t b) { return rdi_f8e4m3_to_f32((uint8_t)b); }
static float f8e5m2_value(uint32_t b) { return rdi_f8e5m2_to_f32((uint8_t)b); }
static const struct {
    rondo_type type;
    to_f32 *value;
} narrow[] = {{RONDO_F16, f16_value},
              {RONDO_BF16, bf16_value},
              {RONDO_F8E4M3, f8e4m3_value},
              {RONDO_F8E5M2, f8e5m2_value}};

// Two implementations of the same formats, on every element there is.
static void test_narrow_types(void **state) {
    (void)state;
    for (size_t t = 0; t < sizeof narrow / sizeof narrow[0]; t++) {
        const struct number_format *f = number_format(narrow[t].type);
        for (uint32_t b = 0; b < 1u << 8 * f->bytes; b++) {
            const float v = narrow[t].value(b);
            const enum number_class class = number_class(f, b);
            assert_int_equal(class == NUMBER_NAN, __builtin_isnan(v) != 0);
            assert_int_equal(class == NUMBER_INFINITE, __builtin_isinf(v) != 0);
            if (class == NUMBER_FINITE) {
                assert_true((wide)v == number_value(f, b));
                assert_int_equal(number_round(f, (wide)v), b);
            }
        }
    }
}

static void test_rounding(void **state) {
    (void)state;
    const struct number_format *s = number_format(RONDO_F32), *d = number_format(RONDO_F64);
    const struct number_format *h = number_format(RONDO_F16), *q = number_format(RONDO_F8E4M3);
    const wide one = 1;
    // Ties go to even, and a trifle decides otherwise.
    assert_int_equal(number_round(s, one + number_power(-24)), f32(1));
    assert_int_equal(number_round(s, one + number_power(-24) + number_power(-100)), f32(1) + 1);
    assert_int_equal(number_round(s, one + 3 * number_power(-24)), f32(1) + 2);
    assert_true(number_round(d, one + 3 * number_power(-53)) == 0x3ff0000000000002);
    // Denormals, the smallest normal number, zero.
    assert_int_equal(number_round(s, number_power(-149)), 1);
    assert_int_equal(number_round(s, number_power(-150)), 0);
    assert_int_equal(number_round(s, -number_power(-150)), 0x80000000);
    assert_int_equal(number_round(s, number_power(-126) - number_power(-151)), 0x00800000);
    // Too large.
    assert_int_equal(number_round(h, 65519), 0x7bff);
    assert_int_equal(number_round(h, 65520), 0x7c00);
    assert_int_equal(number_round(q, 1000), 0x7e);
    assert_int_equal(number_round(q, -number_power(8000)), 0xfe);
    // A sum of doubles that only binary128 holds.
    assert_true(number_value(d, 0x3ff0000000000000) + number_value(d, 0x3bb0000000000001) != one);
}

// ---- Bounds --------------------------------------------------------------------------------------

// Moves an f32 by units of its last place.
static uint64_t moved(uint64_t bits, int units) { return bits + (uint64_t)(int64_t)units; }

static void test_bounds_to_the_last_unit(void **state) {
    (void)state;
    // 1 + 1 + 1 + 1, n - 1 = 3 roundings: 3 * 2^-24 * 4 and a trifle, 1.5 units of 4.
    const uint64_t ones[4] = {f32(1), f32(1), f32(1), f32(1)};
    for (int side = R; side <= M; side++) {
        assert_true(ask(RONDO_F32, RONDO_SUM, side, false, 4, ones, moved(f32(4), 1)).good);
        assert_false(ask(RONDO_F32, RONDO_SUM, side, false, 4, ones, moved(f32(4), 2)).good);
        assert_true(ask(RONDO_F32, RONDO_SUM, side, false, 4, ones, moved(f32(4), -3)).good);
        assert_false(ask(RONDO_F32, RONDO_SUM, side, false, 4, ones, moved(f32(4), -4)).good);
        assert_false(ask(RONDO_F32, RONDO_SUM, side, true, 4, ones, moved(f32(4), 1)).good);
    }
    // Averages: Rondo rounds 4 times (2 units of 1), NCCL 5 times (2.5 units).
    assert_true(ask(RONDO_F32, RONDO_AVG, R, false, 4, ones, moved(f32(1), 2)).good);
    assert_false(ask(RONDO_F32, RONDO_AVG, R, false, 4, ones, moved(f32(1), 3)).good);
    assert_true(ask(RONDO_F32, RONDO_AVG, N, false, 4, ones, moved(f32(1), -5)).good);
    assert_false(ask(RONDO_F32, RONDO_AVG, R, false, 4, ones, moved(f32(1), -5)).good);
    // A product of 4: 3 roundings, 1.5 units.
    assert_true(ask(RONDO_F32, RONDO_PROD, R, false, 4, ones, moved(f32(1), 1)).good);
    assert_false(ask(RONDO_F32, RONDO_PROD, R, false, 4, ones, moved(f32(1), 2)).good);
    // What cancels is measured by what was added: 3 terms, 2 * 2^-24 * (2^24 + 2^24 + 1), 4 and a trifle.
    const uint64_t cancel[3] = {f32(16777216), f32(-16777216), f32(1)};
    assert_true(ask(RONDO_F32, RONDO_SUM, R, false, 3, cancel, f32(0)).good);
    assert_true(ask(RONDO_F32, RONDO_SUM, R, false, 3, cancel, f32(5)).good);
    assert_false(ask(RONDO_F32, RONDO_SUM, R, false, 3, cancel, f32(5.5f)).good);
}

static void test_two_ranks_round_once(void **state) {
    (void)state;
    const uint64_t one = f32(1), tiny = f32(0x1.8p-24f); // 3/4 of a unit
    for (int side = R; side <= M; side++) {
        assert_true(good2(RONDO_F32, RONDO_SUM, side, one, tiny, moved(one, 1)));
        assert_false(good2(RONDO_F32, RONDO_SUM, side, one, tiny, one));
        assert_false(good2(RONDO_F32, RONDO_SUM, side, one, tiny, moved(one, 2)));
    }
    // bf16 1 * (1 + 2^-7) and its neighbour.
    assert_true(good2(RONDO_BF16, RONDO_PROD, R, 0x3f80, 0x3f81, 0x3f81));
    assert_false(good2(RONDO_BF16, RONDO_PROD, R, 0x3f80, 0x3f81, 0x3f80));
}

static void test_underflow(void **state) {
    (void)state;
    const uint64_t x[3] = {1, f32(0.5f), f32(0.5f)}; // 2^-151
    assert_true(ask(RONDO_F32, RONDO_PROD, R, false, 3, x, 0).good);
    assert_true(ask(RONDO_F32, RONDO_PROD, R, false, 3, x, 1).good);
    assert_false(ask(RONDO_F32, RONDO_PROD, R, false, 3, x, 2).good);
    assert_false(ask(RONDO_F32, RONDO_PROD, R, false, 3, x, 0x80000000).good);
}

// ---- Rules ---------------------------------------------------------------------------------------

#define F32_NAN 0x7fc00000u
#define F32_INF 0x7f800000u
#define F32_TOP 0x7f7fffffu
#define MINUS 0x80000000u

static void test_nan(void **state) {
    (void)state;
    const uint64_t one = f32(1), two = f32(2), other = F32_NAN | MINUS | 5;
    assert_true(good2(RONDO_F32, RONDO_SUM, R, one, other, F32_NAN));
    assert_false(good2(RONDO_F32, RONDO_SUM, R, one, other, other));
    assert_true(good2(RONDO_F32, RONDO_SUM, N, one, other, other));
    assert_false(good2(RONDO_F32, RONDO_SUM, N, one, other, one));
    assert_false(good2(RONDO_F32, RONDO_SUM, R, one, two, F32_NAN));
    assert_true(good2(RONDO_F32, RONDO_SUM, R, F32_INF, F32_INF | MINUS, F32_NAN));
    assert_true(good2(RONDO_F32, RONDO_PROD, R, F32_INF, 0, F32_NAN));
    // MIN: Rondo keeps the NaN, NCCL drops it, MPI may do either but invents nothing.
    assert_true(good2(RONDO_F32, RONDO_MIN, R, one, other, F32_NAN));
    assert_false(good2(RONDO_F32, RONDO_MIN, R, one, other, one));
    assert_true(good2(RONDO_F32, RONDO_MIN, N, one, other, one));
    assert_false(good2(RONDO_F32, RONDO_MIN, N, one, other, F32_NAN));
    assert_true(good2(RONDO_F32, RONDO_MIN, M, one, other, one));
    assert_true(good2(RONDO_F32, RONDO_MIN, M, one, other, F32_NAN));
    assert_false(good2(RONDO_F32, RONDO_MIN, M, one, other, two));
    assert_true(good2(RONDO_F32, RONDO_MIN, N, other, other, F32_NAN));
}

static void test_zeros(void **state) {
    (void)state;
    assert_true(good2(RONDO_F32, RONDO_MIN, R, 0, MINUS, MINUS));
    assert_false(good2(RONDO_F32, RONDO_MIN, R, MINUS, 0, 0));
    assert_true(good2(RONDO_F32, RONDO_MAX, R, MINUS, 0, 0));
    assert_true(good2(RONDO_F32, RONDO_MIN, M, MINUS, 0, 0));
    assert_false(good2(RONDO_F32, RONDO_MIN, M, 0, 0, MINUS));
    assert_true(good2(RONDO_F32, RONDO_SUM, R, MINUS, MINUS, MINUS));
    assert_false(good2(RONDO_F32, RONDO_SUM, R, MINUS, MINUS, 0));
    assert_false(good2(RONDO_F32, RONDO_SUM, R, f32(1), f32(-1), MINUS));
    assert_false(good2(RONDO_F32, RONDO_PROD, R, 0, f32(-1), 0));
    assert_true(good2(RONDO_F32, RONDO_MIN, R, f32(1), f32(2), f32(1)));
    assert_false(good2(RONDO_F32, RONDO_MAX, R, f32(-1), f32(-2), f32(-2)));
}

static void test_overflow(void **state) {
    (void)state;
    assert_true(good2(RONDO_F32, RONDO_SUM, R, F32_TOP, F32_TOP, F32_INF));
    assert_false(good2(RONDO_F32, RONDO_SUM, R, F32_TOP, F32_TOP, F32_TOP));
    assert_false(good2(RONDO_F32, RONDO_SUM, R, F32_TOP, F32_TOP, F32_INF | MINUS));
    assert_true(good2(RONDO_F8E4M3, RONDO_SUM, R, 0x7e, 0x7e, 0x7e));
    assert_false(good2(RONDO_F8E4M3, RONDO_SUM, R, 0x7e, 0x7e, 0x7f));
    assert_true(good2(RONDO_F8E5M2, RONDO_SUM, N, 0x7c, 0x3c, 0x7b));
    assert_false(good2(RONDO_F8E5M2, RONDO_SUM, R, 0x7c, 0x3c, 0x7c));
    assert_true(good2(RONDO_F8E5M2, RONDO_MAX, R, 0x7c, 0x3c, 0x7c));
    assert_true(good2(RONDO_F8E5M2, RONDO_MAX, N, 0x7c, 0x3c, 0x7b));
    assert_false(good2(RONDO_F8E5M2, RONDO_MAX, N, 0x7c, 0x3c, 0x7c));
    // An average whose sum is too large: infinity, or what it is; with saturation anything down to a half.
    assert_true(good2(RONDO_F32, RONDO_AVG, N, F32_TOP, F32_TOP, F32_TOP));
    assert_true(good2(RONDO_F32, RONDO_AVG, M, F32_TOP, F32_TOP, F32_INF));
    assert_false(good2(RONDO_F32, RONDO_AVG, M, F32_TOP, F32_TOP, f32(1)));
    assert_true(good2(RONDO_F8E4M3, RONDO_AVG, R, 0x7e, 0x7e, 0x76)); // 224
    assert_false(good2(RONDO_F8E4M3, RONDO_AVG, R, 0x7e, 0x7e, 0x70));
}

static void test_integers(void **state) {
    (void)state;
    assert_true(good2(RONDO_I32, RONDO_SUM, R, 0x7fffffff, 1, 0x80000000));
    assert_true(good2(RONDO_I8, RONDO_AVG, R, 0xff, 0xfe, 0xff)); // -3 / 2
    assert_false(good2(RONDO_I8, RONDO_AVG, R, 0xff, 0xfe, 0xfe));
    assert_true(good2(RONDO_I8, RONDO_MIN, R, 0xff, 1, 0xff));
    assert_true(good2(RONDO_U8, RONDO_MIN, R, 0xff, 1, 1));
    assert_true(good2(RONDO_U64, RONDO_PROD, R, 1ull << 63, 3, 1ull << 63));
    // Only MPI may saturate, and only where the sum leaves the type.
    assert_true(good2(RONDO_U8, RONDO_SUM, M, 200, 100, 255));
    assert_true(good2(RONDO_U8, RONDO_SUM, M, 200, 100, 44));
    assert_false(good2(RONDO_U8, RONDO_SUM, M, 200, 100, 254));
    assert_false(good2(RONDO_U8, RONDO_SUM, N, 200, 100, 255));
    assert_false(good2(RONDO_U8, RONDO_SUM, M, 20, 10, 255));
    // And only MPI may take an unsigned integer for a signed one.
    assert_true(good2(RONDO_U8, RONDO_MAX, M, 200, 100, 100));
    assert_false(good2(RONDO_U8, RONDO_MAX, R, 200, 100, 100));
    assert_false(good2(RONDO_U8, RONDO_MAX, M, 50, 100, 50));
}

// ---- Data ----------------------------------------------------------------------------------------

static wide fold(const struct test_case *c, int ranks, uint64_t i, bool backwards) {
    const struct number_format *f = number_format(c->type);
    wide v = 0;
    for (int k = 0; k < ranks; k++) {
        const int r = backwards ? ranks - 1 - k : k;
        const wide x = number_value(f, data_element(c, ranks, r, i));
        v = k == 0 ? x : c->op == RONDO_PROD ? v * x : v + x;
        v = number_value(f, number_round(f, v));
    }
    return v;
}

// Small data are exact: rounding after every step changes nothing. Wide data never overflow.
static void test_data_keeps_its_promises(void **state) {
    (void)state;
    for (int t = 0; t < RONDO_TYPE_COUNT; t++) {
        struct test_case c = {.type = (rondo_type)t, .data = DATA_SMALL, .seed = 7};
        const struct number_format *f = number_format(c.type);
        for (int n = 2; n <= CASES_MAX_RANKS && f->real; n++) {
            for (uint64_t i = 0; i < 300; i++) {
                c.op = i % 2 ? RONDO_PROD : RONDO_SUM;
                c.data = DATA_SMALL;
                wide exact = i % 2 ? 1 : 0;
                for (int r = 0; r < n; r++) {
                    const wide x = number_value(f, data_element(&c, n, r, i));
                    exact = i % 2 ? exact * x : exact + x;
                }
                assert_true(fold(&c, n, i, false) == exact && fold(&c, n, i, true) == exact);
                c.data = DATA_WIDE;
                assert_true(number_abs(fold(&c, n, i, false)) < number_value(f, f->top));
            }
        }
    }
}

static void test_data_differ(void **state) {
    (void)state;
    struct test_case c = {.type = RONDO_F32, .data = DATA_UNIFORM, .seed = 1};
    struct test_case d = {.type = RONDO_F32, .data = DATA_UNIFORM, .seed = 2};
    int same = 0;
    for (uint64_t i = 0; i < 1000; i++) {
        const uint64_t x = data_element(&c, 2, 0, i);
        assert_true(x == data_element(&c, 2, 0, i));
        same += x == data_element(&c, 2, 1, i);
        same += x == data_element(&d, 2, 0, i);
        same += x == data_element(&c, 2, 0, i + 1);
    }
    assert_int_equal(same, 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_narrow_types),
        cmocka_unit_test(test_rounding),
        cmocka_unit_test(test_bounds_to_the_last_unit),
        cmocka_unit_test(test_two_ranks_round_once),
        cmocka_unit_test(test_underflow),
        cmocka_unit_test(test_nan),
        cmocka_unit_test(test_zeros),
        cmocka_unit_test(test_overflow),
        cmocka_unit_test(test_integers),
        cmocka_unit_test(test_data_keeps_its_promises),
        cmocka_unit_test(test_data_differ),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
