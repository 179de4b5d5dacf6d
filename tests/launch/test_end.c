// SPDX-License-Identifier: MIT
// How a job ends: exit codes, who failed first, what happens to the others, signals, a killed
// launcher.
#include "harness.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

// Five seconds are promised; a machine under a sanitizer and other tests gets some more.
#define SOON_S 8.0

static void test_success(void **state) {
    (void)state;
    struct launched l;
    RUN(&l, 0, "-n", "3", RANK);
    assert_string_equal(l.text[1], "");
    release(&l);
}

static void test_exit_code_and_name(void **state) {
    (void)state;
    struct launched l;
    char expected[128];
    RUN(&l, 3, "-n", "4", RANK, "2:print=me\\n", "2:exit=3", "sleep=100000");
    assert_contains(l.text[0], "[2] me\n");
    assert_contains(l.text[1], "rondo-run: rank 2 (pid ");
    snprintf(expected, sizeof expected, ", local rank 2) failed: exit code 3\n");
    assert_contains(l.text[1], expected);
    assert_int_equal(count_text(l.text[1], "failed"), 1);
    assert_true(l.seconds < SOON_S);
    release(&l);
}

static void test_killed_by_signal(void **state) {
    (void)state;
    struct launched l;
    RUN(&l, 137, "-n", "3", RANK, "1:kill=KILL", "sleep=100000");
    assert_contains(l.text[1], "local rank 1) failed: killed by signal 9 (SIGKILL)");
    assert_contains(l.text[1], "memory ran out");
    release(&l);
    RUN(&l, 139, "-n", "2", RANK, "no-core", "0:kill=SEGV", "sleep=100000");
    assert_contains(l.text[1], "rank 0 (pid ");
    assert_contains(l.text[1], "killed by signal 11 (SIGSEGV)\n");
    release(&l);
}

// The others ignore SIGTERM and have children that do too, one of them in a process group of its
// own.
static void test_stubborn_ranks_are_killed(void **state) {
    (void)state;
    struct launched l;
    RUN(&l, 7, "-n", "4", RANK, "ignore=TERM", "child=same", "child=group", "3:exit=7",
        "sleep=100000");
    assert_contains(l.text[1], "rank 3 (pid ");
    assert_true(l.seconds >= 2.9);
    assert_true(l.seconds < SOON_S);
    release(&l);
}

static void test_no_grace(void **state) {
    (void)state;
    struct launched l;
    RUN(&l, 7, "-n", "2", "--grace", "0", RANK, "ignore=TERM", "1:exit=7", "sleep=100000");
    assert_true(l.seconds < 2.9);
    release(&l);
}

// A wrapper that dies of SIGTERM at once does not take the time away that the program below it
// needs.
static void test_grandchild_has_its_grace(void **state) {
    (void)state;
    struct launched l;
    char folder[64], slow[128], file[128];
    make_folder(folder);
    snprintf(file, sizeof file, "%s/saved", folder);
    snprintf(slow, sizeof slow, "0:slow-child=%s/saved", folder);
    RUN(&l, 5, "-n", "2", RANK, slow, "1:sleep=200", "1:exit=5", "sleep=100000");
    free(read_whole(file));
    remove_folder(folder);
    release(&l);
}

// When the ranks have ended well, what they left behind is ended too.
static void test_nothing_is_left_after_success(void **state) {
    (void)state;
    struct launched l;
    RUN(&l, 0, "-n", "2", RANK, "child=same", "child=group");
    assert_true(l.seconds < SOON_S);
    release(&l);
}

// Rank 1 fails, then rank 0, while the launcher is stopped and sees neither: it still blames rank
// 1.
static void test_first_of_several_is_named(void **state) {
    (void)state;
    struct launched l;
    char folder[64], pid0[128], pid1[128], wait1[128], go[128], gate[128];
    int status;
    make_folder(folder);
    snprintf(pid0, sizeof pid0, "0:pidfile=%s/0", folder);
    snprintf(pid1, sizeof pid1, "1:pidfile=%s/1", folder);
    snprintf(wait1, sizeof wait1, "0:await-exit=%s/1", folder);
    snprintf(go, sizeof go, "1:await-file=%s/go", folder);
    snprintf(gate, sizeof gate, "%s/go", folder);
    LAUNCH(&l, "-n", "2", RANK, pid0, pid1, "print=ready\\n", wait1, go, "0:exit=6", "1:exit=5");
    await_text(&l, "ready", 2);
    kill(l.pid, SIGSTOP);
    assert_int_equal(waitpid(l.pid, &status, WUNTRACED), l.pid);
    assert_true(WIFSTOPPED(status));
    fclose(fopen(gate, "w"));
    pause_for_ms(500);
    kill(l.pid, SIGCONT);
    finish(&l);
    assert_int_equal(l.status, 5);
    assert_contains(l.text[1], "rank 1 (pid ");
    assert_nothing_left(&l);
    remove_folder(folder);
    release(&l);
}

static void test_timeout(void **state) {
    (void)state;
    struct launched l;
    RUN(&l, 124, "-n", "3", "--timeout", "0.5", RANK, "1:exit=0", "sleep=100000");
    assert_contains(l.text[1], "did not end within 0.5 s; still running: rank 0, 2\n");
    release(&l);
    RUN(&l, 0, "-n", "2", "--timeout=50", RANK, "sleep=10");
    release(&l);
}

// ---- Signals ------------------------------------------------------------------------------------

static void test_signals_are_forwarded(void **state) {
    (void)state;
    static const struct {
        int number;
        const char *text;
    } list[] = {
        {SIGUSR1, "got USR1"}, {SIGHUP, "got HUP"}, {SIGTERM, "got TERM"}, {SIGINT, "got INT"}};
    struct launched l;
    LAUNCH(&l, "-n", "3", RANK, "signals");
    await_text(&l, "ready", 3);
    for (size_t i = 0; i < sizeof list / sizeof list[0]; i++) {
        kill(l.pid, list[i].number);
        await_text(&l, list[i].text, 3);
    }
    kill(l.pid, SIGUSR2);
    finish(&l);
    // The ranks have handled all of them and ended well.
    assert_int_equal(l.status, 0);
    for (size_t i = 0; i < sizeof list / sizeof list[0]; i++) {
        assert_int_equal(count_text(l.text[0], list[i].text), 3);
    }
    assert_nothing_left(&l);
    release(&l);
}

static void test_interrupt_ends_the_job(void **state) {
    (void)state;
    struct launched l;
    LAUNCH(&l, "-n", "2", RANK, "print=ready\\n", "sleep=100000");
    await_text(&l, "ready", 2);
    kill(l.pid, SIGINT);
    finish(&l);
    assert_int_equal(l.status, 130);
    assert_string_equal(l.text[1], "rondo-run: stopped by SIGINT\n");
    assert_nothing_left(&l);
    release(&l);
}

static void test_second_interrupt_kills(void **state) {
    (void)state;
    struct launched l;
    LAUNCH(&l, "-v", "-n", "2", "--grace=50", RANK, "ignore=INT", "ignore=TERM", "child=same",
           "print=ready\\n", "sleep=100000");
    await_text(&l, "ready", 2);
    kill(l.pid, SIGINT);
    await_text(&l, "SIGINT is passed on", 1);
    kill(l.pid, SIGINT);
    finish(&l);
    assert_int_equal(l.status, 130);
    assert_contains(l.text[1], "killed by a second SIGINT\n");
    assert_nothing_left(&l);
    release(&l);
}

// nohup(1) and a script's background jobs: what is ignored at the start is not passed on.
static void test_ignored_signals_stay_ignored(void **state) {
    (void)state;
    struct launched l;
    LAUNCH(&l, "/bin/sh", "-c", "trap '' HUP; exec \"$@\"", "sh", RONDO_RUN, "-n", "2", RANK,
           "signals");
    await_text(&l, "ready", 2);
    kill(l.pid, SIGHUP);
    kill(l.pid, SIGUSR1);
    await_text(&l, "got USR1", 2);
    kill(l.pid, SIGUSR2);
    finish(&l);
    assert_int_equal(l.status, 0);
    assert_int_equal(count_text(l.text[0], "got HUP"), 0);
    release(&l);
}

// ^C of a terminal reaches the ranks once, through the launcher.
static void test_terminal_interrupt(void **state) {
    (void)state;
    struct launched l;
    LAUNCH_ON_TERMINAL(&l, "-n", "2", RANK, "signals");
    await_text(&l, "ready\r\n", 2);
    dprintf(l.in, "\x03");
    await_text(&l, "got INT\r\n", 2);
    kill(l.pid, SIGUSR2);
    finish(&l);
    assert_int_equal(l.status, 0);
    assert_int_equal(count_text(l.text[0], "got INT\r\n"), 2);
    assert_nothing_left(&l);
    release(&l);
}

// ^Z stops the ranks with the launcher, and they go on with it.
static void test_terminal_stop(void **state) {
    (void)state;
    struct launched l;
    char folder[64], file[96], step[128], stat[64];
    int status, pid;
    make_folder(folder);
    snprintf(file, sizeof file, "%s/pid", folder);
    snprintf(step, sizeof step, "0:pidfile=%s/pid", folder);
    LAUNCH(&l, "-n", "2", RANK, step, "print=ready\\n", "signals");
    await_text(&l, "ready", 4);
    kill(l.pid, SIGTSTP);
    assert_int_equal(waitpid(l.pid, &status, WUNTRACED), l.pid);
    assert_true(WIFSTOPPED(status));
    char *text = read_whole(file);
    pid = atoi(text);
    free(text);
    snprintf(stat, sizeof stat, "/proc/%d/stat", pid);
    for (double until = seconds_now() + 10;;) {
        text = read_whole(stat);
        if (strstr(text, ") T ") != NULL || seconds_now() > until) {
            break;
        }
        free(text);
        pause_for_ms(5);
    }
    assert_contains(text, ") T ");
    free(text);
    kill(l.pid, SIGCONT);
    kill(l.pid, SIGUSR2);
    finish(&l);
    assert_int_equal(l.status, 0);
    assert_nothing_left(&l);
    remove_folder(folder);
    release(&l);
}

// SIGKILL cannot be handled: ranks, their children, and a child in its own process group end
// nevertheless.
static void test_killed_launcher_leaves_nothing(void **state) {
    (void)state;
    struct launched l;
    LAUNCH(&l, "-n", "4", RANK, "ignore=TERM", "child=same", "child=group", "print=ready\\n",
           "sleep=100000");
    await_text(&l, "ready", 4);
    kill(l.pid, SIGKILL);
    finish(&l);
    assert_int_equal(l.status, 128 + SIGKILL);
    assert_nothing_left(&l);
    release(&l);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_success),
        cmocka_unit_test(test_exit_code_and_name),
        cmocka_unit_test(test_killed_by_signal),
        cmocka_unit_test(test_stubborn_ranks_are_killed),
        cmocka_unit_test(test_no_grace),
        cmocka_unit_test(test_grandchild_has_its_grace),
        cmocka_unit_test(test_nothing_is_left_after_success),
        cmocka_unit_test(test_first_of_several_is_named),
        cmocka_unit_test(test_timeout),
        cmocka_unit_test(test_signals_are_forwarded),
        cmocka_unit_test(test_interrupt_ends_the_job),
        cmocka_unit_test(test_second_interrupt_kills),
        cmocka_unit_test(test_ignored_signals_stay_ignored),
        cmocka_unit_test(test_terminal_interrupt),
        cmocka_unit_test(test_terminal_stop),
        cmocka_unit_test(test_killed_launcher_leaves_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
