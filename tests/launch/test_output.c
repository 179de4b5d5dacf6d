// SPDX-License-Identifier: MIT
// What comes out of the ranks: whole lines with prefixes, files, a terminal's display, a slow
// reader.
#include "harness.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

// Checks a line of do_lines(), of rank `rank`, and that it is number `next` of that rank.
static void check_line(const char *line, size_t len, int rank, int next) {
    char expected[512];
    int fill = (next * 7919 + rank * 31) % 300;
    int n = snprintf(expected, sizeof expected, "[%d] rank %d line %d %0*d end", rank, rank, next,
                     fill + 1, 7);
    assert_int_equal(n, len);
    assert_memory_equal(line, expected, len);
}

// Eight ranks write at the same time, in pieces that do not end with lines: every line arrives
// once, whole, in order.
static void test_lines_are_whole(void **state) {
    (void)state;
    enum { RANKS = 8, LINES = 4000 };
    struct launched l;
    int next[RANKS] = {0};
    RUN(&l, 0, "-n", "8", RANK, "lines=4000");
    for (const char *at = l.text[0]; *at != '\0';) {
        // Not strchr(): with it a sanitizer measures all of the text for each line.
        const char *end = memchr(at, '\n', l.len[0] - (size_t)(at - l.text[0]));
        assert_non_null(end);
        size_t len = (size_t)(end - at);
        int rank = at[1] - '0';
        assert_true(rank >= 0 && rank < RANKS);
        check_line(at, len, rank, next[rank]++);
        at += len + 1;
    }
    for (int i = 0; i < RANKS; i++) {
        assert_int_equal(next[i], LINES);
    }
    release(&l);
}

static void test_streams_stay_apart(void **state) {
    (void)state;
    struct launched l;
    RUN(&l, 0, "-n", "2", RANK, "print=to output\\n", "error=to errors\\n");
    assert_int_equal(count_text(l.text[0], "to output\n"), 2);
    assert_int_equal(count_text(l.text[1], "to errors\n"), 2);
    assert_contains(l.text[1], "[1] to errors\n");
    assert_int_equal(strlen(l.text[0]), 2 * strlen("[0] to output\n"));
    assert_int_equal(strlen(l.text[1]), 2 * strlen("[0] to errors\n"));
    release(&l);
}

static void test_last_line_without_end(void **state) {
    (void)state;
    struct launched l;
    RUN(&l, 0, "-n", "2", RANK, "print=one\\ntwo");
    assert_contains(l.text[0], "[0] one\n");
    assert_contains(l.text[0], "[0] two\n");
    assert_contains(l.text[0], "[1] two\n");
    release(&l);
}

// Carriage returns pass unchanged where there is no terminal.
static void test_carriage_returns_in_a_pipe(void **state) {
    (void)state;
    struct launched l;
    RUN(&l, 0, "-n", "2", RANK, "print=10%\\r20%\\r30%\\ndone\\r\\n");
    assert_contains(l.text[0], "[0] 10%\r20%\r30%\n");
    assert_contains(l.text[0], "[1] done\r\n");
    release(&l);
}

static void test_long_lines(void **state) {
    (void)state;
    struct launched l;
    RUN(&l, 0, "-n", "2", RANK, "long=200000");
    assert_int_equal(l.len[0], 2 * (200000 + strlen("[0] \n")));
    release(&l);
    // Beyond 256 KiB a line is broken, so that memory stays bounded; nothing is lost.
    RUN(&l, 0, "-n", "2", RANK, "0:long=1000000");
    assert_int_equal(count_text(l.text[0], "\n"), 4);
    assert_int_equal(l.len[0], 1000000 + 4 * strlen("[0] \n"));
    release(&l);
}

static void test_prefix_options(void **state) {
    (void)state;
    struct launched l;
    RUN(&l, 0, "-n", "2", "--no-prefix", RANK, "print=plain\\n");
    assert_string_equal(l.text[0], "plain\nplain\n");
    release(&l);
    RUN(&l, 0, "-n", "2", "--prefix-format=<%l/%r@%n%%> ", RANK, "1:print=x\\n");
    assert_string_equal(l.text[0], "<1/1@0%> x\n");
    release(&l);
    // One rank alone has no prefix unless it is asked for.
    RUN(&l, 0, "-n1", RANK, "print=alone\\n");
    assert_string_equal(l.text[0], "alone\n");
    release(&l);
    RUN(&l, 0, "--prefix-format", "%r:", RANK, "print=alone\\n");
    assert_string_equal(l.text[0], "0:alone\n");
    release(&l);
}

static void check_file(const char *folder, const char *name, const char *expected) {
    char path[128];
    snprintf(path, sizeof path, "%s/logs/deep/%s", folder, name);
    char *text = read_whole(path);
    assert_string_equal(text, expected);
    free(text);
}

static void test_log_files(void **state) {
    (void)state;
    struct launched l;
    char folder[64], logs[96], hint[160];
    make_folder(folder);
    snprintf(logs, sizeof logs, "%s/logs/deep", folder);
    for (int again = 0; again < 2; again++) {
        RUN(&l, 4, "-n", "3", "--log-dir", logs, RANK, "print=out\\n", "error=err",
            "1:print=more\\n", "2:sleep=100", "2:exit=4");
        assert_string_equal(l.text[0], "");
        snprintf(hint, sizeof hint, "exit code 4; see %s/rank-2.err\n", logs);
        assert_contains(l.text[1], hint);
        release(&l);
        check_file(folder, "rank-0.out", "out\n");
        check_file(folder, "rank-1.out", "out\nmore\n");
        check_file(folder, "rank-2.err", "err");
    }
    snprintf(logs, sizeof logs, "%s/logs/deep/rank-0.out", folder);
    RUN(&l, 1, "-n", "2", "--log-dir", logs, RANK);
    assert_contains(l.text[1], "--log-dir: ");
    assert_contains(l.text[1], "is not a directory");
    release(&l);
    remove_folder(folder);
}

// The reader takes nothing for a while: ranks wait, and everything arrives in the end.
static void test_slow_reader(void **state) {
    (void)state;
    struct launched l;
    char path[64], *text;
    long kib = 0;
    LAUNCH(&l, "-n", "4", RANK, "lines=40000");
    pause_for_ms(700);
    // 24 MB are on their way; the launcher holds back a small part of them.
    snprintf(path, sizeof path, "/proc/%d/status", (int)l.pid);
    text = read_whole(path);
    if (strstr(text, "RssAnon:") != NULL) {
        kib = strtol(strstr(text, "RssAnon:") + 8, NULL, 10);
    }
    free(text);
    read_slowly(&l, 100, 3);
    finish(&l);
    assert_int_equal(l.status, 0);
    assert_int_equal(count_text(l.text[0], " end\n"), 4 * 40000);
    assert_true(kib > 0);
    if (!SANITIZED) {
        assert_true(kib < 8 << 10);
    }
    release(&l);
}

// While nobody reads, a rank fails: the others are ended all the same.
static void test_stuck_reader_does_not_hold_up_the_end(void **state) {
    (void)state;
    struct launched l;
    char folder[64], file[96], step[128], stat[64];
    make_folder(folder);
    snprintf(file, sizeof file, "%s/pid", folder);
    snprintf(step, sizeof step, "0:pidfile=%s/pid", folder);
    LAUNCH(&l, "-n", "2", RANK, step, "0:lines=100000", "0:sleep=100000", "1:sleep=500",
           "1:exit=9");
    pause_for_ms(500);
    while (access(file, R_OK) != 0) {
        pause_for_ms(10);
    }
    char *text = read_whole(file);
    snprintf(stat, sizeof stat, "/proc/%d/stat", atoi(text));
    free(text);
    for (double until = seconds_now() + 10;;) {
        text = read_whole(stat);
        bool ended = strstr(text, ") Z ") != NULL;
        free(text);
        if (ended) {
            break;
        }
        assert_true(seconds_now() < until);
        pause_for_ms(20);
    }
    finish(&l);
    assert_int_equal(l.status, 9);
    assert_contains(l.text[1], "rank 1 (pid ");
    remove_folder(folder);
    release(&l);
}

// A reader that goes away is felt by the ranks as if there were no launcher.
static void test_reader_that_has_gone(void **state) {
    (void)state;
    struct launched l;
    LAUNCH(&l, "/bin/sh", "-c", "\"$@\" | head -n 3; echo end", "sh", RONDO_RUN, "-n", "2", RANK,
           "lines=1000000");
    finish(&l);
    assert_int_equal(l.status, 0);
    assert_int_equal(count_text(l.text[0], "\n"), 4);
    assert_contains(l.text[1], "killed by signal 13 (SIGPIPE)");
    assert_nothing_left(&l);
    release(&l);
}

// ---- Terminals ----------------------------------------------------------------------------------

static void test_terminal_colours(void **state) {
    (void)state;
    struct launched l;
    LAUNCH_ON_TERMINAL(&l, "-n", "2", RANK, "print=x\\n");
    finish(&l);
    assert_contains(l.text[0], "\033[32m[0] \033[0mx\r\n");
    assert_contains(l.text[0], "\033[33m[1] \033[0mx\r\n");
    release(&l);
    LAUNCH_ON_TERMINAL(&l, "-x", "NO_COLOR=1", "-n", "2", RANK, "print=x\\n");
    finish(&l);
    assert_contains(l.text[0], "[0] x\r\n");
    assert_null(strstr(l.text[0], "\033[3"));
    release(&l);
}

// Rank 0's progress is shown as it comes, and again below a line of rank 1; what remains is its
// last state.
static void test_terminal_progress(void **state) {
    (void)state;
    struct launched l;
    LAUNCH_ON_TERMINAL(&l, "-x", "NO_COLOR=1", "-n", "2", RANK, "0:print=10%\\r", "0:sleep=300",
                       "0:print=20%\\r", "1:sleep=600", "1:print=hidden\\rshown\\n", "0:sleep=900",
                       "0:print=30%\\ndone\\n");
    finish(&l);
    assert_int_equal(l.status, 0);
    assert_contains(l.text[0], "\033[?7l[0] 10%\033[?7h");
    assert_contains(l.text[0], "\r\033[K\033[?7l[0] 20%\033[?7h");
    assert_contains(l.text[0], "\r\033[K[1] shown\r\n\033[?7l[0] 20%\033[?7h");
    assert_contains(l.text[0], "\r\033[K[0] 30%\r\n");
    assert_contains(l.text[0], "[0] done\r\n");
    assert_null(strstr(l.text[0], "hidden"));
    release(&l);
}

// ---- Input --------------------------------------------------------------------------------------

static void test_input_is_empty(void **state) {
    (void)state;
    struct launched l;
    LAUNCH_WITH_INPUT(&l, "-n", "2", RANK, "streams");
    finish(&l);
    assert_contains(l.text[0], "[0] stdin empty, terminal 0 0 0\n");
    assert_contains(l.text[0], "[1] stdin empty, terminal 0 0 0\n");
    release(&l);
}

static void test_input_for_rank_0(void **state) {
    (void)state;
    struct launched l;
    LAUNCH_WITH_INPUT(&l, "-n", "2", "--stdin", RANK, "cat");
    dprintf(l.in, "hello\nthere");
    close(l.in);
    l.in = -1;
    finish(&l);
    assert_string_equal(l.text[0], "[0] hello\n[0] there\n");
    release(&l);
}

static void test_input_from_a_terminal(void **state) {
    (void)state;
    struct launched l;
    LAUNCH_ON_TERMINAL(&l, "-x", "NO_COLOR=1", "-n", "2", "--stdin", RANK, "0:print=ready\\n",
                       "cat");
    await_text(&l, "ready\r\n", 1);
    dprintf(l.in, "typed\n");
    await_text(&l, "[0] typed\r\n", 1);
    dprintf(l.in, "\x04");
    finish(&l);
    assert_int_equal(l.status, 0);
    release(&l);
}

// One rank alone writes to the terminal itself.
static void test_one_rank_has_the_terminal(void **state) {
    (void)state;
    struct launched l;
    LAUNCH_ON_TERMINAL(&l, "-n", "1", RANK, "streams");
    finish(&l);
    assert_string_equal(l.text[0], "stdin empty, terminal 0 1 1\r\n");
    release(&l);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_lines_are_whole),
        cmocka_unit_test(test_streams_stay_apart),
        cmocka_unit_test(test_last_line_without_end),
        cmocka_unit_test(test_carriage_returns_in_a_pipe),
        cmocka_unit_test(test_long_lines),
        cmocka_unit_test(test_prefix_options),
        cmocka_unit_test(test_log_files),
        cmocka_unit_test(test_slow_reader),
        cmocka_unit_test(test_stuck_reader_does_not_hold_up_the_end),
        cmocka_unit_test(test_reader_that_has_gone),
        cmocka_unit_test(test_terminal_colours),
        cmocka_unit_test(test_terminal_progress),
        cmocka_unit_test(test_input_is_empty),
        cmocka_unit_test(test_input_for_rank_0),
        cmocka_unit_test(test_input_from_a_terminal),
        cmocka_unit_test(test_one_rank_has_the_terminal),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
