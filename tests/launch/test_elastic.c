// SPDX-License-Identifier: MIT
// Elastic jobs: failed ranks are started again, the others go on, and what ends the job all the same.
#include "harness.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SOON_S 8.0

static void test_restart(void **state) {
    (void)state;
    struct launched l;
    RUN(&l, 0, "--elastic", "1:3", "--max-restarts", "2", RANK, "0/0:env=RONDO_RESTART",
        "0/0:env=RONDO_ELASTIC", "0/0:print=half", "0/0:kill=KILL", "0/1:print=end\\n",
        "0/1:env=RONDO_RESTART", "0/1:env=TORCHELASTIC_RESTART_COUNT",
        "0/1:env=TORCHELASTIC_MAX_RESTARTS", "0/1:env=RANK", "0/1:env=LOCAL_RANK",
        "0/1:env=WORLD_SIZE", "0/1:streams", "0/1:inherited", "sleep=700", "print=on\\n");
    static const char *const lines[] = {"[0] RONDO_RESTART=(unset)\n",
                                        "[0] RONDO_ELASTIC=1:3\n",
                                        "[0] half\n[0] end\n",
                                        "[0] RONDO_RESTART=1\n",
                                        "[0] RANK=0\n",
                                        "[0] LOCAL_RANK=0\n",
                                        "[0] WORLD_SIZE=3\n",
                                        "[0] on\n",
                                        "[1] on\n",
                                        "[0] stdin empty",
                                        "[2] on\n"};
    for (size_t i = 0; i < sizeof lines / sizeof lines[0]; i++) {
        assert_contains(l.text[0], lines[i]);
    }
    assert_contains(l.text[0], "[0] fds 1 masked 0 ignored 0 files "); // only the key
    assert_contains(l.text[0], "[0] TORCHELASTIC_RESTART_COUNT=1\n");
    assert_contains(l.text[0], "[0] TORCHELASTIC_MAX_RESTARTS=2\n");
    assert_contains(l.text[1], "rondo-run: rank 0 (pid ");
    assert_contains(l.text[1], "killed by signal 9 (SIGKILL)");
    assert_contains(l.text[1], "; restarted (1 of 2)\n");
    assert_int_equal(count_text(l.text[1], "rondo-run:"), 1);
    release(&l);
}

// The job's restarts are counted together, a rank's own in its environment.
static void test_several_restarts(void **state) {
    (void)state;
    struct launched l;
    RUN(&l, 0, "--elastic", "1:2", "--max-restarts", "3", RANK, "0/0:exit=1", "0/1:exit=2",
        "1/0:sleep=800", "1/0:kill=KILL", "sleep=1200", "env=RONDO_RESTART");
    assert_contains(l.text[0], "[0] RONDO_RESTART=2\n");
    assert_contains(l.text[0], "[1] RONDO_RESTART=1\n");
    assert_contains(l.text[1], "exit code 1; restarted (1 of 3)\n");
    assert_contains(l.text[1], "exit code 2; restarted (2 of 3)\n");
    assert_contains(l.text[1], "see dmesg; restarted (3 of 3)\n");
    release(&l);
}

// Rank 0 fails for good with 7; the job goes on, until rank 2 fails with 8: too few.
static void test_too_few(void **state) {
    (void)state;
    struct launched l;
    char expected[128];
    RUN(&l, 7, "--elastic", "2:3", "--max-restarts", "1", RANK, "0:exit=7", "2:sleep=1000",
        "2:exit=8", "sleep=100000");
    assert_contains(l.text[1], "exit code 7; restarted (1 of 1)\n");
    assert_contains(
        l.text[1],
        "exit code 7; it is not started again: all restarts of --max-restarts are used\n");
    assert_contains(l.text[1], "local rank 2) failed: exit code 8; it is not started again");
    snprintf(
        expected, sizeof expected,
        "local rank 0) failed: exit code 7; it was the first to fail. 1 of 3 ranks are left, fewer "
        "than --elastic 2:3 needs\n");
    assert_contains(l.text[1], expected);
    release(&l);
}

// Fewer ranks than at the start, but enough: all is well.
static void test_enough_left(void **state) {
    (void)state;
    struct launched l;
    RUN(&l, 0, "--elastic", "2:3", RANK, "1:exit=4", "sleep=500", "print=on\\n");
    assert_contains(l.text[1], "exit code 4; it is not started again: --max-restarts is 0\n");
    assert_int_equal(count_text(l.text[0], "on\n"), 2);
    release(&l);
}

// One that always fails uses up all restarts and then is the end, as there is nobody else.
static void test_all_restarts_used(void **state) {
    (void)state;
    struct launched l;
    RUN(&l, 9, "--elastic=1:1", "--max-restarts=2", RANK, "exit=9");
    assert_int_equal(count_text(l.text[1], "restarted ("), 2);
    assert_contains(l.text[1], "0 of 1 ranks are left");
    // Pauses of 0.1 and 0.2 s.
    assert_true(l.seconds > 0.3);
    release(&l);
}

// A rank that had not failed before fails when another has finished: nobody can take over, and the
// job's exit code tells of it; the others are left to finish.
static void test_late_failure(void **state) {
    (void)state;
    struct launched l;
    RUN(&l, 6, "--elastic", "1:3", "--max-restarts", "5", RANK, "1:sleep=300", "1:exit=6",
        "2:sleep=800", "2:print=done\\n");
    assert_contains(l.text[0], "[2] done\n");
    assert_contains(l.text[1], "it is not started again: another rank has finished\n");
    assert_int_equal(count_text(l.text[1], "restarted"), 0);
    release(&l);
    // One that was started again may just have come too late to be admitted.
    RUN(&l, 0, "--elastic", "1:2", "--max-restarts", "5", RANK, "1/0:exit=6", "1/1:sleep=500",
        "1/1:exit=6", "0:sleep=300");
    assert_contains(l.text[1], "restarted (1 of 5)\n");
    assert_contains(l.text[1], "another rank has finished\n");
    release(&l);
}

// Ranks that wait to be admitted to a job which is over are ended, and do not spoil it.
static void test_latecomers(void **state) {
    (void)state;
    struct launched l;
    RUN(&l, 0, "--elastic", "1:3", "--max-restarts", "5", "--grace", "0.3", RANK, "1/0:exit=6",
        "1/1:sleep=100000", "sleep=500");
    assert_contains(l.text[1], "the job is over; 1 ranks that were started again came too late");
    assert_true(l.seconds < SOON_S);
    release(&l);
}

// What a failed rank left running ends before its successor begins.
static void test_nothing_of_the_predecessor_is_left(void **state) {
    (void)state;
    struct launched l;
    char folder[64], pid[128], gone[128];
    make_folder(folder);
    snprintf(pid, sizeof pid, "0/0:child-pid=%s/pid", folder);
    snprintf(gone, sizeof gone, "0/1:await-exit=%s/pid", folder);
    // Were the child left alone, the successor would wait for 300 s.
    RUN(&l, 0, "--elastic", "1:2", "--max-restarts", "1", RANK, "0/0:child=group", pid,
        "0/0:exit=3", gone, "0/1:print=alone\\n", "1:sleep=1000");
    assert_contains(l.text[0], "[0] alone\n");
    remove_folder(folder);
    release(&l);
}

static void test_signals_end_it(void **state) {
    (void)state;
    struct launched l;
    LAUNCH(&l, "--elastic", "1:3", "--max-restarts", "9", RANK, "print=ready\\n", "sleep=100000");
    await_text(&l, "ready", 3);
    kill(l.pid, SIGTERM);
    finish(&l);
    assert_int_equal(l.status, 143);
    assert_string_equal(l.text[1], "rondo-run: stopped by SIGTERM\n");
    assert_nothing_left(&l);
    release(&l);
}

static void test_timeout_ends_it(void **state) {
    (void)state;
    struct launched l;
    RUN(&l, 124, "--elastic", "1:2", "--max-restarts", "9", "--timeout", "0.7", RANK, "0/0:exit=1",
        "sleep=100000");
    assert_contains(l.text[1], "still running: rank 0, 1\n");
    release(&l);
}

static void test_killed_launcher_leaves_nothing(void **state) {
    (void)state;
    struct launched l;
    LAUNCH(&l, "--elastic", "1:2", "--max-restarts", "1", RANK, "0/0:exit=1", "child=group",
           "print=ready\\n", "sleep=100000");
    await_text(&l, "[0] ready", 1);
    kill(l.pid, SIGKILL);
    finish(&l);
    assert_nothing_left(&l);
    release(&l);
}

static void test_logs_go_on(void **state) {
    (void)state;
    struct launched l;
    char folder[64], file[128];
    make_folder(folder);
    RUN(&l, 0, "--elastic", "1:2", "--max-restarts", "1", "--log-dir", folder, RANK,
        "1/0:print=first\\n", "1/0:exit=1", "1/1:print=second\\n", "sleep=500");
    snprintf(file, sizeof file, "%s/rank-1.out", folder);
    char *text = read_whole(file);
    assert_string_equal(text, "first\nsecond\n");
    free(text);
    assert_contains(l.text[1], "/rank-1.err; restarted (1 of 1)\n");
    remove_folder(folder);
    release(&l);
}

static void test_wrong_options(void **state) {
    (void)state;
    static const struct {
        const char *const words[5];
        const char *why;
    } wrong[] = {
        {{"--max-restarts", "1", RANK}, "--max-restarts needs --elastic MIN:MAX"},
        {{"--elastic", "2", RANK}, "--elastic=2 is not allowed; it can be MIN:MAX"},
        {{"--elastic", "3:2", RANK}, "MIN:MAX with MIN at most MAX"},
        {{"--elastic", "0:2", RANK}, "--elastic=0 is not allowed; it can be a number from 1"},
        {{"--elastic", "1:2x", RANK}, "--elastic=2x is not allowed"},
        {{"--elastic=2:4", "-n", "3", RANK}, "--elastic 2:4 starts 4 ranks, -n says 3"},
        {{"--elastic=1:5000", RANK}, "one node can have 4096 ranks at most"},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        struct launched l;
        run(&l, 2, wrong[i].words);
        assert_contains(l.text[1], wrong[i].why);
        release(&l);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_restart),
        cmocka_unit_test(test_several_restarts),
        cmocka_unit_test(test_too_few),
        cmocka_unit_test(test_enough_left),
        cmocka_unit_test(test_all_restarts_used),
        cmocka_unit_test(test_late_failure),
        cmocka_unit_test(test_latecomers),
        cmocka_unit_test(test_nothing_of_the_predecessor_is_left),
        cmocka_unit_test(test_signals_end_it),
        cmocka_unit_test(test_timeout_ends_it),
        cmocka_unit_test(test_killed_launcher_leaves_nothing),
        cmocka_unit_test(test_logs_go_on),
        cmocka_unit_test(test_wrong_options),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
