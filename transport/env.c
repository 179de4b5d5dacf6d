// SPDX-License-Identifier: MIT
// The real clock, the kernel's randomness, and log lines.
#include "transport/internal.h"

#include <errno.h>
#include <sodium.h>
#include <stdio.h>
#include <time.h>

static uint64_t system_now(void *self) {
    (void)self;
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void system_random(void *self, void *buf, size_t n) {
    (void)self;
    randombytes_buf(buf, n);
}

void rdi_env_system(struct rdi_env *env, rondo_log_fn log, void *log_arg) {
    // Chooses libsodium's fastest code; the portable code serves where that fails.
    int chosen = sodium_init();
    (void)chosen;
    // Clock and randomness have no state, so `self` is free to be what the log function wants.
    *env =
        (struct rdi_env){.self = log_arg, .now = system_now, .random = system_random, .log = log};
}

void rdi_log(const struct rdi_env *env, rondo_log_level level, const char *fmt, ...) {
    if (env->log == NULL) {
        return;
    }
    int saved = errno;
    char line[1024];
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(line, sizeof line, fmt, ap);
    va_end(ap);
    if (n >= 0) {
        // One call is one line, whatever a peer or a file name put into it.
        for (char *c = line; *c != '\0'; c++) {
            if ((unsigned char)*c < 0x20 || *c == 0x7f) {
                *c = ' ';
            }
        }
        env->log(env->self, level, line);
    }
    errno = saved;
}
