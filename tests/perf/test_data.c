// SPDX-License-Identifier: MIT
// The check behind "#wrong": right results pass in whatever order they were computed, and what goes wrong in
// practice (a rank left out or counted twice, data at another place, data of an earlier operation) does not.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "ring/perf/perf.h"
#include "ring/reduce.h"

#define COUNT 3000
#define RANKS_MAX 300

enum order { FORWARD, BACKWARD, TREE };

static char (*inputs)[COUNT * 8];

static void fill_inputs(const struct perf_values *v, size_t first) {
    for (int r = 0; r < v->ranks; r++) {
        perf_fill(v, r, first, COUNT, inputs[r]);
    }
}

// Reduces inputs[0 .. n-1] into inputs[0].
static void reduce(const struct perf_values *v, int n, enum order order) {
    rondo_type t = v->type;
    rondo_op op = (rondo_op)v->op;
    if (order == TREE) {
        for (int step = 1; step < n; step *= 2) {
            for (int r = 0; r + step < n; r += 2 * step) {
                rdi_reduce2(inputs[r], inputs[r], inputs[r + step], COUNT, t, op);
            }
        }
    } else if (order == BACKWARD) {
        for (int r = n - 1; r > 0; r--) {
            rdi_reduce2(inputs[r - 1], inputs[r], inputs[r - 1], COUNT, t, op);
        }
    } else {
        for (int r = 1; r < n; r++) {
            rdi_reduce2(inputs[0], inputs[0], inputs[r], COUNT, t, op);
        }
    }
    if (op == RONDO_AVG) {
        rdi_divide(inputs[0], COUNT, t, (uint64_t)v->ranks);
    }
}

#define FOR_EACH_KIND(v)                          \
    for (int t_ = 0; t_ < RONDO_TYPE_COUNT; t_++) \
        for (int o_ = 0; (v).type = (rondo_type)t_, (v).op = o_, o_ < RONDO_OP_COUNT; o_++)

static void test_exact_in_any_order(void **state) {
    static const int ranks[] = {1, 2, 3, 4, 7, 8, 64, 127, RANKS_MAX};
    struct perf_values v = {.rep = 5};
    (void)state;
    FOR_EACH_KIND(v) {
        for (size_t i = 0; i < sizeof ranks / sizeof *ranks; i++) {
            v.ranks = ranks[i];
            for (enum order order = FORWARD; order <= TREE; order++) {
                fill_inputs(&v, 16000);
                reduce(&v, v.ranks, order);
                if (perf_check(&v, PERF_REDUCED, 16000, COUNT, inputs[0]) != 0) {
                    fail_msg("%s %s over %d ranks in order %d is not exact",
                             rondo_type_name(v.type), rondo_op_name((rondo_op)v.op), v.ranks,
                             (int)order);
                }
            }
        }
    }
}

static void expect_many(const struct perf_values *v, int rank, size_t first, const char *what) {
    int64_t wrong = perf_check(v, rank, first, COUNT, inputs[0]);
    if (wrong < COUNT / 10) {
        fail_msg("%s: only %lld of %d elements are found wrong (%s %s, %d ranks)", what,
                 (long long)wrong, COUNT, rondo_type_name(v->type),
                 v->op == PERF_NONE ? "none" : rondo_op_name((rondo_op)v->op), v->ranks);
    }
}

static void test_ranks_left_out_or_doubled(void **state) {
    (void)state;
    struct perf_values v = {.ranks = 4, .rep = 9};
    FOR_EACH_KIND(v) {
        fill_inputs(&v, 0);
        reduce(&v, 3, FORWARD);
        expect_many(&v, PERF_REDUCED, 0, "rank 3 left out");

        fill_inputs(&v, 0);
        memcpy(inputs[2], inputs[3], sizeof inputs[2]);
        reduce(&v, 4, FORWARD);
        expect_many(&v, PERF_REDUCED, 0, "rank 3 instead of rank 2");
    }
}

static void test_other_place_or_time(void **state) {
    static const size_t shifts[] = {1, 64, 1024, 65536, 1 << 20, (size_t)1 << 32};
    (void)state;
    struct perf_values v = {.ranks = 3, .rep = 1};
    FOR_EACH_KIND(v) {
        fill_inputs(&v, 0);
        reduce(&v, 3, FORWARD);
        for (size_t i = 0; i < sizeof shifts / sizeof *shifts; i++) {
            expect_many(&v, PERF_REDUCED, shifts[i], "data from another place");
        }
        struct perf_values next = v;
        next.rep++;
        expect_many(&next, PERF_REDUCED, 0, "data of the operation before");
        memset(inputs[0], 0xa5, sizeof inputs[0]);
        expect_many(&v, PERF_REDUCED, 0, "garbage");
        memset(inputs[0], 0, sizeof inputs[0]);
        expect_many(&v, PERF_REDUCED, 0, "zeros");
    }
}

static void test_moved_data(void **state) {
    (void)state;
    struct perf_values v = {.op = PERF_NONE, .ranks = 3, .rep = 2};
    for (int t = 0; t < RONDO_TYPE_COUNT; t++) {
        v.type = (rondo_type)t;
        perf_fill(&v, 1, 100, COUNT, inputs[0]);
        assert_int_equal(perf_check(&v, 1, 100, COUNT, inputs[0]), 0);
        expect_many(&v, 0, 100, "another rank's");
        expect_many(&v, 1, 101, "one element off");
    }
}

// Every single element counts, before, in and behind the period, however many are wrong.
static void test_counts(void **state) {
    (void)state;
    const size_t count = 100000;
    struct perf_values v = {.type = RONDO_F16, .op = RONDO_SUM, .ranks = 2, .rep = 3};
    uint16_t *x = malloc(count * sizeof *x);
    assert_non_null(x);
    perf_fill(&v, 0, 7, count, x);
    static const size_t at[] = {0, 1, 16380, 16381, 16382, 65536, 99999};
    for (size_t i = 0; i < sizeof at / sizeof *at; i++) {
        x[at[i]] ^= 0x8000;
        assert_int_equal(perf_check(&v, 0, 7, count, x), i + 1);
    }
    assert_int_equal(perf_check(&v, 0, 7, 0, x), 0);
    free(x);
}

static void test_sizes(void **state) {
    (void)state;
    const struct perf_coll *c = perf_colls;
    assert_string_equal(c[0].name, "all_reduce");
    assert_int_equal(perf_count(&c[0], 1000, 8, 3), 125);
    assert_string_equal(c[1].name, "reduce_scatter");
    // 1000 / 4 / 3 = 83 floats a block, down to 80.
    assert_int_equal(perf_count(&c[1], 1000, 4, 3), 80);
    assert_int_equal(perf_send_elements(&c[1], 80, 3), 240);
    assert_int_equal(perf_recv_elements(&c[1], 80, 3), 80);
    assert_int_equal(perf_count(&c[1], 8, 4, 2), 0);
    assert_int_equal(perf_count(&c[1], 100, 1, 3), 32);
    assert_true(perf_bus_factor(&c[0], 4) == 1.5);
    assert_true(perf_bus_factor(&c[1], 4) == 0.75);
    assert_true(perf_bus_factor(&c[3], 4) == 1);
    assert_true(perf_bus_factor(&c[0], 1) == 0);
}

int main(void) {
    inputs = calloc(RANKS_MAX, sizeof *inputs);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_exact_in_any_order),
        cmocka_unit_test(test_ranks_left_out_or_doubled),
        cmocka_unit_test(test_other_place_or_time),
        cmocka_unit_test(test_moved_data),
        cmocka_unit_test(test_counts),
        cmocka_unit_test(test_sizes),
    };
    int failed = inputs == NULL ? 1 : cmocka_run_group_tests(tests, NULL, NULL);
    free(inputs);
    return failed;
}
