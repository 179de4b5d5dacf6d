// SPDX-License-Identifier: MIT
// Which path of a tcp link is silent for too long, and whether its rail is to blame.
#include "transport/tcp/tcp.h"

#include <setjmp.h>
#include <stdlib.h>
#include <cmocka.h>

#define MOST 3
#define S (1000 * RDI_MS)
#define COUNT(a) (sizeof(a) / sizeof(a)[0])

// Silent for long enough: the last answer is older still.
static const struct rdi_tcp_signs silent = {
    .known = true, .rail = 0, .tries = 3, .silent_for = 12 * S / 10, .heard_ms = 1500};
static const struct rdi_tcp_signs busy = {.known = true, .rail = 1, .heard_ms = 3};

static enum rdi_tcp_verdict judge(struct rdi_tcp_signs a, struct rdi_tcp_signs b) {
    const struct rdi_tcp_signs ab[] = {a, b}, ba[] = {b, a};
    unsigned first = 7, second = 7;
    enum rdi_tcp_verdict v = rdi_tcp_stall_judge(ab, 2, MOST, &first);
    // The order is no reason.
    assert_int_equal(rdi_tcp_stall_judge(ba, 2, MOST, &second), v);
    if (v == RDI_TCP_LIVELY || v == RDI_TCP_ALL_MUTE) {
        assert_true(v == RDI_TCP_ALL_MUTE || (first == 7 && second == 7));
    } else {
        assert_true(first == 0 && second == 1);
    }
    return v;
}

static void test_dead_rail(void **state) {
    (void)state;
    assert_int_equal(judge(silent, busy), RDI_TCP_RAIL_DEAD);
    struct rdi_tcp_signs long_dead = silent;
    long_dead.tries = 200;
    assert_int_equal(judge(long_dead, busy), RDI_TCP_RAIL_DEAD);
}

static void test_lively(void **state) {
    (void)state;
    struct rdi_tcp_signs few = silent, soon = silent, other = busy;
    few.tries = MOST - 1;
    few.silent_for = 60 * S;
    assert_int_equal(judge(few, busy), RDI_TCP_LIVELY);
    // A kernel that repeats itself early: often, but not for long.
    soon.tries = 5;
    soon.silent_for = S - 1;
    assert_int_equal(judge(soon, busy), RDI_TCP_LIVELY);
    soon.silent_for = S;
    assert_int_equal(judge(soon, busy), RDI_TCP_RAIL_DEAD);
    other.rail = 0;
    assert_int_equal(judge(busy, other), RDI_TCP_LIVELY);
    assert_int_equal(rdi_tcp_stall_judge(NULL, 0, MOST, &(unsigned){0}), RDI_TCP_LIVELY);
}

// What had nothing to say, or says nothing any more, blames no rail.
static void test_no_proof(void **state) {
    (void)state;
    struct rdi_tcp_signs idle = busy, unknown = {.rail = 1};
    idle.heard_ms =
        1400; // later than the silent one, but before it was silent: all may have ended then
    assert_int_equal(judge(silent, idle), RDI_TCP_UNSURE);
    idle.heard_ms = 1199;
    assert_int_equal(judge(silent, idle), RDI_TCP_RAIL_DEAD);
    idle.heard_ms = silent.heard_ms;
    assert_int_equal(judge(silent, idle), RDI_TCP_UNSURE);
    idle.heard_ms = 60000;
    assert_int_equal(judge(silent, idle), RDI_TCP_UNSURE);
    assert_int_equal(judge(silent, unknown), RDI_TCP_UNSURE);
    // Of two others one is proof enough, wherever it stands.
    for (unsigned i = 0; i < 3; i++) {
        struct rdi_tcp_signs s[3] = {unknown, unknown, unknown};
        unsigned which = 7;
        s[i] = silent;
        s[(i + 1) % 3] = busy;
        s[(i + 1) % 3].rail = 2;
        assert_int_equal(rdi_tcp_stall_judge(s, COUNT(s), MOST, &which), RDI_TCP_RAIL_DEAD);
        assert_int_equal(which, i);
    }
}

// With no answer by any rail, or with one rail, nothing is better than the kernel's patience.
static void test_all_mute(void **state) {
    (void)state;
    struct rdi_tcp_signs same = busy, trying = busy;
    same.rail = 0;
    assert_int_equal(judge(silent, same), RDI_TCP_ALL_MUTE);
    trying.tries = 1;
    assert_int_equal(judge(silent, trying), RDI_TCP_ALL_MUTE);
    trying = silent;
    trying.rail = 1;
    assert_int_equal(judge(silent, trying), RDI_TCP_ALL_MUTE);
    unsigned which = 7;
    assert_int_equal(rdi_tcp_stall_judge(&silent, 1, MOST, &which), RDI_TCP_ALL_MUTE);
    assert_int_equal(which, 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_dead_rail),
        cmocka_unit_test(test_lively),
        cmocka_unit_test(test_no_proof),
        cmocka_unit_test(test_all_mute),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
