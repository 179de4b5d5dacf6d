// SPDX-License-Identifier: MIT
// What the tests of dp/ share: a model of a few parameters of several types, and random bits.
#ifndef RDI_DP_TEST_H
#define RDI_DP_TEST_H

#include <rondo/dp.h>

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { DT_PARAMS = 9 };
static const struct {
    const char *name;
    size_t count;
    rondo_type type;
} dt_shape[DT_PARAMS] = {
    {"a", 5, RONDO_F32},     {"b", 30001, RONDO_F32},  {"c", 1, RONDO_F32},
    {"d", 4099, RONDO_BF16}, {"e", 7, RONDO_F16},      {"f", 1023, RONDO_F64},
    {"g", 3, RONDO_F64},     {"h", 777, RONDO_F8E4M3}, {"i", 64, RONDO_F8E5M2},
};

static inline size_t dt_bytes(size_t i) {
    return dt_shape[i].count * rondo_type_size(dt_shape[i].type);
}

static inline uint64_t dt_mix(uint64_t x) {
    x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
    return x ^ (x >> 31);
}

// Any bits: infinities, NaNs, denormals, both zeros are among them.
static inline void dt_random(void *p, size_t bytes, uint64_t seed) {
    unsigned char *to = p;
    for (size_t i = 0; i < bytes; i += 8) {
        uint64_t v = dt_mix(seed * UINT64_C(0x9e3779b97f4a7c15) + i + 1);
        memcpy(to + i, &v, bytes - i < 8 ? bytes - i : 8);
    }
}

// What device k gives as the gradient of parameter i.
static inline void dt_gradient(void *to, int k, size_t i, uint64_t seed) {
    dt_random(to, dt_bytes(i), seed * 1000 + (uint64_t)k * 50 + i);
}

#endif
