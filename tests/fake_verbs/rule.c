// SPDX-License-Identifier: MIT
// How a misuse is reported, and small things that every file needs.
#include "fake.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

void fv_rule(const char *name, const char *format, ...) {
    char text[1024];
    int n = snprintf(text, sizeof text, "fake_verbs: RULE %s: ", name);
    va_list args;
    va_start(args, format);
    int m = vsnprintf(text + n, sizeof text - (size_t)n - 1, format, args);
    va_end(args);
    size_t len = (size_t)n + (size_t)(m < 0 ? 0 : m);
    if (len > sizeof text - 2)
        len = sizeof text - 2;
    text[len++] = '\n';
    if (write(2, text, len) < 0)
        n = 0; // nobody listens
    const char *lenient = getenv("FAKE_VERBS_LENIENT");
    if (!lenient || strcmp(lenient, "1") != 0)
        abort();
}

uint64_t fv_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

uint64_t fv_random(uint64_t *state) {
    uint64_t x = *state;
    x ^= x >> 12;
    x ^= x << 25;
    x ^= x >> 27;
    *state = x;
    return x * 0x2545f4914f6cdd1dull;
}

bool fv_chance(uint64_t *state, unsigned percent) {
    return percent && fv_random(state) % 100 < percent;
}

// Reads what the application may be writing, against the rules; that is for the comparison to find.
__attribute__((no_sanitize("thread"), no_sanitize("address"))) uint64_t
fv_sum(uint64_t sum, const void *data, size_t bytes) {
    const uint8_t *at = data;
    uint64_t lane[4] = {sum, sum ^ 1, sum ^ 2, sum ^ 3};
    for (; bytes >= 32; at += 32, bytes -= 32) {
        for (int i = 0; i < 4; i++) {
            uint64_t word;
            __builtin_memcpy(&word, at + 8 * i, 8);
            lane[i] = (lane[i] ^ word) * 0x9e3779b97f4a7c15ull;
            lane[i] ^= lane[i] >> 29;
        }
    }
    for (; bytes; at++, bytes--)
        lane[0] = (lane[0] ^ *at) * 0x9e3779b97f4a7c15ull;
    for (int i = 1; i < 4; i++)
        lane[0] = (lane[0] ^ lane[i]) * 0x9e3779b97f4a7c15ull;
    return lane[0] ^ (lane[0] >> 32);
}

const char *fv_state_name(enum ibv_qp_state state) {
    static const char *const names[] = {"RESET", "INIT", "RTR", "RTS", "SQD", "SQE", "ERR"};
    return (unsigned)state < sizeof names / sizeof names[0] ? names[state] : "unknown";
}
