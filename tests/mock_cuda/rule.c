// SPDX-License-Identifier: MIT
// How a misuse is reported, and waiting that never is for ever.
#include "tests/mock_cuda/mock.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

void mc_rule(const char *name, const char *format, ...) {
    static _Atomic bool told;
    if (atomic_exchange(&told, true)) // one is enough, and it ends the process
        for (;;)
            pause();
    char text[1024];
    int n = snprintf(text, sizeof text, "mock_cuda: RULE %s: ", name);
    va_list args;
    va_start(args, format);
    int m = vsnprintf(text + n, sizeof text - (size_t)n - 1, format, args);
    va_end(args);
    size_t len = (size_t)n + (size_t)(m < 0 ? 0 : m);
    if (len > sizeof text - 2)
        len = sizeof text - 2;
    text[len++] = '\n';
    if (write(2, text, len) < 0)
        len = 0; // nobody listens
    abort();
}

uint64_t mc_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

uint64_t mc_random(uint64_t *state) {
    uint64_t x = *state;
    x ^= x >> 12;
    x ^= x << 25;
    x ^= x >> 27;
    *state = x;
    return x * 0x2545f4914f6cdd1dull;
}

void mc_sleep_us(unsigned us) {
    struct timespec t = {us / 1000000, (long)(us % 1000000) * 1000};
    nanosleep(&t, NULL);
}

void mc_cond_init(pthread_cond_t *c) {
    pthread_condattr_t a;
    pthread_condattr_init(&a);
    pthread_condattr_setclock(&a, CLOCK_MONOTONIC);
    pthread_cond_init(c, &a);
    pthread_condattr_destroy(&a);
}

void mc_check_stuck(uint64_t since, const char *what) {
    if (mc_config.stuck_s && mc_now() - since > mc_config.stuck_s * 1000000000ull)
        mc_rule("stuck", "%s: nothing happened for %u s (MOCK_CUDA_STUCK_S)", what,
                mc_config.stuck_s);
}

void mc_cond_wait(pthread_cond_t *c, pthread_mutex_t *lock, uint64_t since, const char *what) {
    mc_check_stuck(since, what);
    uint64_t until = mc_now() + 1000000000u;
    struct timespec t = {(time_t)(until / 1000000000u), (long)(until % 1000000000u)};
    pthread_cond_timedwait(c, lock, &t);
}
