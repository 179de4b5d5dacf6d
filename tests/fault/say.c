// SPDX-License-Identifier: MIT
// See say.h.
#include "tests/fault/say.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * UINT64_C(1000000000) + (uint64_t)t.tv_nsec;
}

// What does not fit is left out as a whole; room for the end is always kept.
static void __attribute__((format(printf, 2, 3))) add(struct line *l, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    size_t room = sizeof l->text - l->len - 4;
    int n = vsnprintf(l->text + l->len, room, fmt, ap);
    va_end(ap);
    l->len += n > 0 && (size_t)n < room ? (size_t)n : 0;
}

void line_begin(struct line *l, const char *event, uint64_t t) {
    l->len = 0;
    add(l, "{\"t\": %" PRIu64 ", \"event\": \"%s\"", t ? t : now_ns(), event);
}

void line_int(struct line *l, const char *name, int64_t value) {
    add(l, ", \"%s\": %" PRId64, name, value);
}

void line_ints(struct line *l, const char *name, const int *values, int n) {
    add(l, ", \"%s\": [", name);
    for (int i = 0; i < n; i++) {
        add(l, "%s%d", i ? ", " : "", values[i]);
    }
    add(l, "]");
}

void line_text(struct line *l, const char *name, const char *value) {
    char escaped[3000];
    size_t n = 0;
    for (const char *c = value; *c && n + 8 < sizeof escaped; c++) {
        if (*c == '"' || *c == '\\') {
            escaped[n++] = '\\';
            escaped[n++] = *c;
        } else {
            escaped[n++] = (unsigned char)*c < 0x20 ? ' ' : *c;
        }
    }
    escaped[n] = '\0';
    add(l, ", \"%s\": \"%s\"", name, escaped);
}

void line_end(struct line *l) {
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    memcpy(l->text + l->len, "}\n", 2);
    l->len += 2;
    pthread_mutex_lock(&lock);
    for (size_t at = 0; at < l->len;) {
        ssize_t n = write(STDOUT_FILENO, l->text + at, l->len - at);
        if (n <= 0) {
            break; // the supervisor is gone, and ends us
        }
        at += (size_t)n;
    }
    pthread_mutex_unlock(&lock);
}

void say(const char *event) {
    struct line l;
    line_begin(&l, event, 0);
    line_end(&l);
}
