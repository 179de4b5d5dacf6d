// SPDX-License-Identifier: MIT
// Does the loop that judges everybody notice what it is there to notice? Ranks sum through shared
// memory, correctly or in one of several wrong ways, and what the loop wrote about them is read
// back.
#include "../drivers/loop.h"
#include "../drivers/ranks.h"

#include <fcntl.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#define MAX_COUNT \
    ((size_t)600 << 10) // floats; more than the size up to which all elements are checked

enum fault { NONE, LAST_ELEMENT, ONE_ELEMENT_ONCE, NO_SUM, OTHER_ORDER, REFUSES, SLOW, STRAGGLER };

typedef struct shared {
    _Atomic int arrived;
    _Atomic int generation;
    float data[4][MAX_COUNT];
} shared;

typedef struct rank_state {
    int rank;
    int size;
    int operations;
} rank_state;

static shared *common;
static enum fault fault;

static void meet(int size) {
    int generation = atomic_load(&common->generation);
    if (atomic_fetch_add(&common->arrived, 1) + 1 == size) {
        atomic_store(&common->arrived, 0);
        atomic_fetch_add(&common->generation, 1);
        return;
    }
    while (atomic_load(&common->generation) == generation)
        sched_yield();
}

static int sum(void *state, float *buffer, size_t count) {
    rank_state *s = state;
    s->operations++;
    if (fault == REFUSES && s->rank == 1)
        return -1;
    if (fault == SLOW)
        nanosleep(&(struct timespec){.tv_nsec = 50000000}, NULL);
    if (fault == STRAGGLER) {
        if (s->rank == 0)
            nanosleep(&(struct timespec){.tv_nsec = 200000000}, NULL);
        return 0;
    }
    memcpy(common->data[s->rank], buffer, count * sizeof *buffer);
    meet(s->size);
    for (size_t i = 0; i < count && fault != NO_SUM; i++) {
        // Not two neighbours but two blocks are exchanged: the multiset of the values is right.
        size_t from = fault == OTHER_ORDER && count >= 4 ? (i + count / 2) % count : i;
        float total = 0;
        for (int r = 0; r < s->size; r++)
            total += common->data[r][from];
        buffer[i] = total;
    }
    meet(s->size);
    if (fault == LAST_ELEMENT && s->rank == 1)
        buffer[count - 1] += 1;
    if (fault == ONE_ELEMENT_ONCE && s->rank == s->size - 1 && s->operations == 5)
        buffer[count / 3] -= 1;
    return 0;
}

static double processor_seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static int run_rank(int argc, char **argv, int rank, int size) {
    rank_state state = {.rank = rank, .size = size};
    loop_peer peer = {.rank = rank, .size = size, .state = &state, .op = sum};
    int rc = loop_run(argc, argv, &peer);
    // A rank that waits for the last one must leave the processor alone: a spinning barrier starves
    // the helper threads that a peer may have.
    return fault == STRAGGLER && rank != 0 && processor_seconds() > 0.3 ? 9 : rc;
}

typedef struct outcome {
    int rc;
    int timed;
    int chained;
    int sizes;
    long wrong;
    double least_us;
} outcome;

static outcome read_back(int fd) {
    outcome o = {.least_us = 1e30};
    char line[128], what[16];
    double value;
    size_t bytes;
    FILE *f = fdopen(fd, "r");
    assert_non_null(f);
    rewind(f);
    while (fgets(line, sizeof line, f)) {
        assert_int_equal(sscanf(line, "%15[^,],%zu,%lf", what, &bytes, &value), 3);
        if (strcmp(what, "us") == 0) {
            o.timed++;
            o.least_us = value < o.least_us ? value : o.least_us;
        }
        o.chained += strcmp(what, "chained_us") == 0;
        if (strcmp(what, "wrong") == 0) {
            o.sizes++;
            o.wrong += (long)value;
        }
    }
    fclose(f);
    return o;
}

static outcome run(enum fault how, int ranks, const char *sizes, const char *scale,
                   const char *budget) {
    char page_path[64], out_path[64];
    int page = memfd_create("page", 0), out = memfd_create("out", 0);
    assert_true(page >= 0 && out >= 0);
    assert_int_equal(ftruncate(page, (off_t)loop_page_bytes()), 0);
    snprintf(page_path, sizeof page_path, "/proc/self/fd/%d", page);
    snprintf(out_path, sizeof out_path, "/proc/self/fd/%d", out);
    const char *const arguments[] = {"test",    "--page",     page_path, "--out", out_path,
                                     "--sizes", sizes,        "--scale", scale,   "--budget",
                                     budget,    "--deadline", "100"};
    fault = how;
    memset(common, 0, sizeof(int) * 2);
    int rc = ranks_run(sizeof arguments / sizeof arguments[0], (char **)(uintptr_t)arguments, ranks,
                       run_rank);
    outcome o = read_back(out);
    o.rc = rc;
    close(page);
    return o;
}

static void right_sums_pass(void **state) {
    (void)state;
    for (int ranks = 1; ranks <= 4; ranks++) {
        outcome o = run(NONE, ranks, "8,4096,2000000", "0.05", "20");
        assert_int_equal(o.rc, 0);
        assert_int_equal(o.sizes, 3);
        assert_int_equal(o.wrong, 0);
        assert_int_equal(o.timed, 10 + 5 + 2);
        // Chains are checked only where the sums stay exact: the loop knows that 3 is no power of
        // two.
        assert_int_equal(o.chained, ranks == 3 ? 0 : 2);
        assert_true(o.least_us > 0);
    }
}

static void wrong_sums_are_counted(void **state) {
    (void)state;
    assert_true(run(LAST_ELEMENT, 2, "8", "0.05", "20").wrong > 0);
    // Three operations, of which one is checked with a stride: the last element always counts.
    assert_int_equal(run(LAST_ELEMENT, 2, "2000000", "0.05", "20").wrong, 3);
    assert_int_equal(run(ONE_ELEMENT_ONCE, 3, "4096", "0.05", "20").wrong, 1);
    assert_true(run(NO_SUM, 2, "4096", "0.05", "20").wrong > 1000);
    assert_true(run(NO_SUM, 2, "2000000", "0.05", "20").wrong > 1000);
    assert_true(run(OTHER_ORDER, 2, "65536", "0.05", "20").wrong > 1000);
}

static void a_failure_ends_all_ranks(void **state) {
    (void)state;
    outcome o = run(REFUSES, 3, "8,4096", "0.05", "20");
    assert_int_equal(o.rc, 1);
    assert_int_equal(o.sizes, 0);
}

static void a_slow_peer_is_cut_short(void **state) {
    (void)state;
    outcome o = run(SLOW, 2, "131072", "1", "0.4");
    assert_int_equal(o.rc, 0);
    assert_int_equal(o.sizes, 1);
    assert_int_equal(o.wrong, 0);
    assert_true(o.timed >= 2 && o.timed < 20); // of 40
    assert_true(o.least_us >= 50000);
}

static void ranks_sleep_until_the_last_is_done(void **state) {
    (void)state;
    outcome o = run(STRAGGLER, 2, "131072", "0.05", "20");
    assert_int_equal(o.rc, 0);
    assert_true(o.least_us >= 200000);
}

static void bad_arguments_are_refused(void **state) {
    (void)state;
    assert_int_equal(run(NONE, 2, "8,abc", "0.05", "20").rc, 1);
    assert_int_equal(run(NONE, 2, "3", "0.05", "20").rc, 1);
    char *no_page[] = {"test", "--sizes", "8"};
    assert_int_equal(ranks_run(3, no_page, 2, run_rank), 1);
    assert_int_equal(ranks_run(3, no_page, LOOP_MAX_RANKS + 1, run_rank), 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(right_sums_pass),
                                       cmocka_unit_test(wrong_sums_are_counted),
                                       cmocka_unit_test(a_failure_ends_all_ranks),
                                       cmocka_unit_test(a_slow_peer_is_cut_short),
                                       cmocka_unit_test(ranks_sleep_until_the_last_is_done),
                                       cmocka_unit_test(bad_arguments_are_refused)};
    common = mmap(NULL, sizeof *common, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (common == MAP_FAILED) {
        perror("mmap");
        return 1;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
