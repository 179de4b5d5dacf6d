// SPDX-License-Identifier: MIT
// The checked operation against collectives that misbehave: each fault is one count of wrong elements.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "ring/perf/perf.h"

#define COUNT 1000
#define CAPACITY (4 * COUNT * sizeof(float))

enum fault { NOTHING, PAST_RECV, FAR_PAST_RECV, PAST_SEND, SEND_WRITTEN, NOT_RUN, HALF_RUN };

static enum fault fault;
static struct perf_run run;
static struct perf_coll coll;

// With one rank every reduction is a copy.
static rondo_status fake(const void *send, void *recv, size_t count, rondo_type type, rondo_op op,
                         int root, rondo_comm *comm) {
    (void)op;
    (void)root;
    (void)comm;
    size_t bytes = count * rondo_type_size(type);
    bool copies = run.rank == 0 && send != recv;
    if (copies && fault != NOT_RUN) {
        memcpy(recv, send, fault == HALF_RUN ? bytes / 2 : bytes);
    }
    if (fault == PAST_RECV || fault == FAR_PAST_RECV) {
        ((char *)recv)[bytes + (fault == PAST_RECV ? 0 : PERF_GUARD - 1)] ^= 1;
    }
    if (fault == PAST_SEND || fault == SEND_WRITTEN) {
        // What a collective must not do, and what its const does not prevent.
        char *s = (char *)(uintptr_t)send;
        s[fault == PAST_SEND ? bytes : bytes - 1] ^= 1;
    }
    return RONDO_OK;
}

static int64_t verify(const char *name, bool in_place, enum fault f) {
    for (int i = 0; i < perf_ncolls; i++) {
        if (strcmp(perf_colls[i].name, name) == 0) {
            coll = perf_colls[i];
        }
    }
    assert_string_equal(coll.name, name);
    coll.run = fake;
    fault = f;
    struct perf_row row = {.bytes = COUNT * sizeof(float),
                           .count = COUNT,
                           .type = RONDO_F32,
                           .op = coll.reduces ? RONDO_SUM : PERF_NONE,
                           .root = 0};
    int64_t wrong = -1;
    assert_int_equal(perf_verify(&run, &row, in_place, &wrong), RONDO_OK);
    return wrong;
}

static void test_faults(void **state) {
    (void)state;
    static const char *const names[] = {"all_reduce", "reduce_scatter", "all_gather",
                                        "broadcast",  "reduce",         "all_to_all"};
    run.rank = 0;
    run.ranks = 1;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        assert_int_equal(verify(names[i], false, NOTHING), 0);
        assert_int_equal(verify(names[i], false, PAST_RECV), 1);
        assert_int_equal(verify(names[i], false, FAR_PAST_RECV), 1);
        assert_int_equal(verify(names[i], false, PAST_SEND), 1);
        assert_int_equal(verify(names[i], false, SEND_WRITTEN), 1);
        assert_int_equal(verify(names[i], false, NOT_RUN), COUNT);
        assert_int_equal(verify(names[i], false, HALF_RUN), COUNT / 2);
    }
}

static void test_faults_in_place(void **state) {
    (void)state;
    run.rank = 0;
    run.ranks = 1;
    assert_int_equal(verify("all_reduce", true, NOTHING), 0);
    assert_int_equal(verify("all_reduce", true, PAST_RECV), 1);
    assert_int_equal(verify("all_reduce", true, FAR_PAST_RECV), 1);
    assert_int_equal(verify("broadcast", true, SEND_WRITTEN), 1);
}

// Ranks other than the root get nothing, and nothing of theirs may change.
static void test_not_root(void **state) {
    (void)state;
    run.rank = 1;
    run.ranks = 2;
    assert_int_equal(verify("reduce", false, NOTHING), 0);
    assert_int_equal(verify("reduce", false, SEND_WRITTEN), 1);
    assert_int_equal(verify("reduce", true, NOTHING), 0);
    assert_int_equal(verify("reduce", true, SEND_WRITTEN), 1);
    run.rank = 0;
    fault = NOTHING;
    // The root needs the other rank's part: a copy of its own is not the sum.
    assert_true(verify("reduce", false, NOTHING) > COUNT / 2);
}

// Where the blocks lie in place, as ring.h says.
static void test_places(void **state) {
    (void)state;
    run.rank = 2;
    run.ranks = 4;
    struct perf_row row = {.count = 10, .type = RONDO_F32};
    for (int i = 0; i < perf_ncolls; i++) {
        run.coll = &perf_colls[i];
        const char *name = run.coll->name;
        struct perf_buffers b = perf_place(&run, &row, false);
        assert_ptr_equal(b.send, run.send);
        assert_ptr_equal(b.recv, run.recv);
        b = perf_place(&run, &row, true);
        ptrdiff_t send = b.send - run.recv, recv = b.recv - run.recv;
        assert_int_equal(send, strcmp(name, "all_gather") == 0 ? 80 : 0);
        assert_int_equal(recv, strcmp(name, "reduce_scatter") == 0 ? 80 : 0);
    }
    run.coll = &coll;
}

int main(void) {
    static const struct perf_options options = {.corrupt = PERF_NONE};
    run = (struct perf_run){.options = &options,
                            .coll = &coll,
                            .send = malloc(CAPACITY + PERF_GUARD),
                            .recv = malloc(CAPACITY + PERF_GUARD)};
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_faults),
        cmocka_unit_test(test_faults_in_place),
        cmocka_unit_test(test_not_root),
        cmocka_unit_test(test_places),
    };
    int failed = run.send == NULL || run.recv == NULL ? 1
                                                      : cmocka_run_group_tests(tests, NULL, NULL);
    free(run.send);
    free(run.recv);
    return failed;
}
