// SPDX-License-Identifier: MIT
// The distributed sampler: a shuffled order without a table.
//
// The permutation is a balanced Feistel network over the smallest even number of bits that holds all samples,
// with cycle walking: a result outside the range is encrypted again until it falls inside (Black and Rogaway,
// 2002). Four rounds are enough for a shuffle; this is no cipher.
#include "ddp/internal.h"

#define ROUNDS 4

static uint64_t mix(uint64_t x) {
    x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9); // splitmix64
    x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
    return x ^ (x >> 31);
}

static uint64_t permute(uint64_t x, uint64_t n, uint64_t key) {
    unsigned half = 1;
    while (half < 32 && (UINT64_C(1) << (2 * half)) < n) {
        half++;
    }
    uint64_t mask = (UINT64_C(1) << half) - 1;
    do {
        uint64_t left = x >> half, right = x & mask;
        for (uint64_t i = 0; i < ROUNDS; i++) {
            uint64_t f = mix(right + key + i * UINT64_C(0x9e3779b97f4a7c15)) & mask;
            uint64_t t = left ^ f;
            left = right;
            right = t;
        }
        x = left << half | right;
    } while (x >= n);
    return x;
}

static bool valid(const rondo_sampler *s) {
    return s && s->world > 0 && s->rank >= 0 && s->rank < s->world && s->samples > 0 &&
           s->samples <= UINT64_C(1) << 62;
}

uint64_t rondo_sampler_count(const rondo_sampler *s) {
    if (!valid(s)) {
        return 0;
    }
    uint64_t w = (uint64_t)s->world;
    return s->drop_tail ? s->samples / w : (s->samples + w - 1) / w;
}

rondo_status rondo_sampler_share(uint64_t global_batch, int rank, int size, uint64_t *first,
                                 uint64_t *count) {
    if (size < 1 || rank < 0 || rank >= size || !first || !count) {
        return rdi_fail(
            RONDO_ERR_INVALID,
            "rondo_sampler_share: rank %d of %d; it needs a size above 0, a rank below it, "
            "and two places for the result",
            rank, size);
    }
    uint64_t r = (uint64_t)rank, n = (uint64_t)size, more = global_batch % n;
    // The first ones take one more each.
    *first = global_batch / n * r + (r < more ? r : more);
    *count = global_batch / n + (r < more);
    return RONDO_OK;
}

rondo_status rondo_sampler_get(const rondo_sampler *s, uint64_t i, uint64_t *sample) {
    if (!valid(s) || !sample || i >= rondo_sampler_count(s)) {
        return rdi_fail(RONDO_ERR_INVALID, "rondo_sampler_get: %s",
                        !valid(s)
                            ? "the sampler needs samples > 0, world > 0 and a rank below world"
                        : !sample ? "the pointer to the sample is NULL"
                                  : "the index is not below rondo_sampler_count()");
    }
    uint64_t pos = (i * (uint64_t)s->world + (uint64_t)s->rank) % s->samples;
    *sample = s->shuffle
                  ? permute(pos, s->samples, mix(s->seed * 2 + 1) + mix(s->epoch + 0x5bd1e995))
                  : pos;
    return RONDO_OK;
}
