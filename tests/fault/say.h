// SPDX-License-Identifier: MIT
// What a rank tells the supervisor: one JSON object a line on the standard output, with the time of the clock that
// both read (CLOCK_MONOTONIC).
#ifndef TESTS_FAULT_SAY_H
#define TESTS_FAULT_SAY_H

#include <stddef.h>
#include <stdint.h>

uint64_t now_ns(void);

// A line that is put together piece by piece.
struct line {
    char text[8192];
    size_t len;
};

// At time `t`, 0 = now.
void line_begin(struct line *l, const char *event, uint64_t t);
void line_int(struct line *l, const char *name, int64_t value);
void line_ints(struct line *l, const char *name, const int *values, int n);
void line_text(struct line *l, const char *name, const char *value);
void line_end(struct line *l); // and says it

// An event without anything else.
void say(const char *event);

#endif
