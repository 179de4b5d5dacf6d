// SPDX-License-Identifier: MIT
// See world.h.
#include "world.h"

#include <sodium.h>

uint64_t clock_ns;
const uint8_t world_key[RDI_KEY_BYTES] = "a key that all ranks have";
static uint8_t next_random;

static uint64_t now(void *self) {
    (void)self;
    return clock_ns;
}

static void count_up(void *self, void *buf, size_t n) {
    (void)self;
    for (size_t i = 0; i < n; i++) {
        ((uint8_t *)buf)[i] = next_random++;
    }
}

static void check_line(void *self, rondo_log_level level, const char *line) {
    (void)self;
    (void)level;
    MUST(is_clean(line));
}

const struct rdi_env world_env = {.now = now, .random = count_up, .log = check_line};

// ---- The hash ------------------------------------------------------------------------------------

static uint64_t *sum_of(crypto_generichash_state *state) { return (uint64_t *)(void *)state; }

static uint64_t mix(uint64_t sum, uint64_t word) {
    sum = (sum ^ word) * UINT64_C(0x9e3779b97f4a7c15);
    return sum ^ sum >> 29;
}

int __wrap_crypto_generichash_update(crypto_generichash_state *state, const unsigned char *in,
                                     unsigned long long n);
int __wrap_crypto_generichash_update(crypto_generichash_state *state, const unsigned char *in,
                                     unsigned long long n) {
    uint64_t sum = mix(*sum_of(state), n), word;
    for (; n >= sizeof word; n -= sizeof word, in += sizeof word) {
        memcpy(&word, in, sizeof word);
        sum = mix(sum, word);
    }
    for (; n > 0; n--) {
        sum = mix(sum, *in++);
    }
    *sum_of(state) = sum;
    return 0;
}

int __wrap_crypto_generichash_init(crypto_generichash_state *state, const unsigned char *key,
                                   size_t n, size_t out_len);
int __wrap_crypto_generichash_init(crypto_generichash_state *state, const unsigned char *key,
                                   size_t n, size_t out_len) {
    *sum_of(state) = out_len;
    return __wrap_crypto_generichash_update(state, key, n);
}

int __wrap_crypto_generichash_final(crypto_generichash_state *state, unsigned char *out, size_t n);
int __wrap_crypto_generichash_final(crypto_generichash_state *state, unsigned char *out, size_t n) {
    uint64_t sum = *sum_of(state);
    MUST(n % sizeof sum == 0);
    for (size_t i = 0; i < n; i += sizeof sum) {
        sum = mix(sum, i);
        memcpy(out + i, &sum, sizeof sum);
    }
    return 0;
}

// ---- The whole -----------------------------------------------------------------------------------

void world_begin(void) {
    clock_ns = 1000 * MS;
    next_random = 0;
}

void world_change(void *bytes, size_t n, struct input *in) {
    for (unsigned times = take_byte(in) % 4; times > 0; times--) {
        uint8_t at = take_byte(in);
        ((uint8_t *)bytes)[at % n] ^= take_byte(in);
    }
}
