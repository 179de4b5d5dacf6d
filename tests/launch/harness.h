// SPDX-License-Identifier: MIT
// Runs rondo-run in tests: collects what it prints, with a deadline, and looks for processes that
// it left.
#ifndef RONDO_TESTS_LAUNCH_HARNESS_H
#define RONDO_TESTS_LAUNCH_HARNESS_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include <cmocka.h>

// Everything ends well before this, also on a busy machine under a sanitizer.
#define LIMIT_S 60

struct launched {
    pid_t pid;
    int in, out, err; // our ends of its pipes; in -1 = /dev/null, err -1 = as out
    char token[40];   // in the environment of all that it starts
    char *text[2];    // output and errors so far, NUL-terminated
    size_t len[2], cap[2];
    double seconds; // from start to end
    double begun;
    int status; // exit code, or 128 + signal
};

// Words of a command line; the first one is RONDO_RUN unless it has a slash. NULL-terminated.
#define LAUNCH(l, ...) launch((l), (const char *const[]){__VA_ARGS__, NULL}, false)
#define LAUNCH_WITH_INPUT(l, ...) launch((l), (const char *const[]){__VA_ARGS__, NULL}, true)
void launch(struct launched *l, const char *const *words, bool input);
// The same with a terminal of 80 columns as its input, output and errors, and as its controlling
// one.
#define LAUNCH_ON_TERMINAL(l, ...) launch_on_terminal((l), (const char *const[]){__VA_ARGS__, NULL})
void launch_on_terminal(struct launched *l, const char *const *words);
// Reads until it has printed `text` `count` times; fails the test if it ends without.
void await_text(struct launched *l, const char *text, int count);
// Reads that many times, with pauses.
void read_slowly(struct launched *l, int times, long pause_ms);
// Waits until it has ended; fails the test after LIMIT_S.
void finish(struct launched *l);
// Fails if a process with the token in its environment is alive two seconds after the end.
void assert_nothing_left(const struct launched *l);
void release(struct launched *l);

// Launches, finishes, and checks the exit code and that nothing is left.
#define RUN(l, code, ...) run((l), (code), (const char *const[]){__VA_ARGS__, NULL})
void run(struct launched *l, int code, const char *const *words);

int count_text(const char *in, const char *text);
void assert_contains(const char *in, const char *text);
// A folder of the test's own, removed with what is in it by remove_folder().
void make_folder(char path[64]);
void remove_folder(const char *path);
char *read_whole(const char *path);
double seconds_now(void);
void pause_for_ms(long ms);

#endif
