// SPDX-License-Identifier: MIT
// What the reduce kernels are held against, made another way than they are: integers in 128 bits, floats below
// f32 rounded from a double by counting units in the last place, f32 and f64 one scalar operation at a time.
// Elements are handled as their bits, in the low end of a uint64_t.
#ifndef RDI_REDUCE_REFERENCE_H
#define RDI_REDUCE_REFERENCE_H

#include <math.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "ring/reduce.h"

// ---- Elements as bits ----------------------------------------------------------------------------

static inline uint64_t get(const void *p, size_t i, rondo_type type) {
    const unsigned char *at = (const unsigned char *)p + i * rdi_type_size(type);
    uint64_t u64;
    uint32_t u32;
    uint16_t u16;
    switch (rdi_type_size(type)) {
    case 8:
        return memcpy(&u64, at, 8), u64;
    case 4:
        return memcpy(&u32, at, 4), u32;
    case 2:
        return memcpy(&u16, at, 2), u16;
    default:
        return *at;
    }
}

static inline void put(void *p, size_t i, rondo_type type, uint64_t bits) {
    unsigned char *at = (unsigned char *)p + i * rdi_type_size(type);
    const uint32_t u32 = (uint32_t)bits;
    const uint16_t u16 = (uint16_t)bits;
    switch (rdi_type_size(type)) {
    case 8:
        memcpy(at, &bits, 8);
        break;
    case 4:
        memcpy(at, &u32, 4);
        break;
    case 2:
        memcpy(at, &u16, 2);
        break;
    default:
        *at = (unsigned char)bits;
    }
}

static inline uint64_t next_random(uint64_t *state) { // splitmix64
    uint64_t z = *state += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

// ---- The reference -------------------------------------------------------------------------------

// Shape of each floating type: bits of the mantissa with the hidden one, least normal exponent.
static const struct shape {
    int precision, emin, width;
} shapes[RONDO_TYPE_COUNT] = {
    [RONDO_F32] = {24, -126, 32}, [RONDO_F64] = {53, -1022, 64}, [RONDO_F16] = {11, -14, 16},
    [RONDO_BF16] = {8, -126, 16}, [RONDO_F8E4M3] = {4, -6, 8},   [RONDO_F8E5M2] = {3, -14, 8}};

static inline bool is_eight(rondo_type type) {
    return type == RONDO_F8E4M3 || type == RONDO_F8E5M2;
}

static inline bool is_float(rondo_type type) { return type <= RONDO_BF16 || is_eight(type); }

// Floats that are computed in f32.
static inline bool is_narrow(rondo_type type) {
    return is_float(type) && type != RONDO_F32 && type != RONDO_F64;
}

static inline bool is_signed(rondo_type type) {
    return type == RONDO_I8 || type == RONDO_I32 || type == RONDO_I64;
}

// Exponent all ones, mantissa 0: infinity, but 256 in f8e4m3.
static inline uint64_t inf_bits(rondo_type type) {
    const struct shape s = shapes[type];
    return ((UINT64_C(1) << (s.width - s.precision)) - 1) << (s.precision - 1);
}

static inline uint64_t nan_bits(rondo_type type) {
    return is_eight(type) ? 0x7f : inf_bits(type) | UINT64_C(1) << (shapes[type].precision - 2);
}

// The largest magnitude that is not NaN, and the largest that a result can have.
static inline uint64_t last_bits(rondo_type type) {
    return type == RONDO_F8E4M3 ? 0x7e : inf_bits(type);
}

static inline uint64_t result_limit(rondo_type type) {
    return type == RONDO_F8E5M2 ? 0x7b : last_bits(type);
}

static inline uint64_t sign_bit(rondo_type type) { return UINT64_C(1) << (shapes[type].width - 1); }

static inline double decode(rondo_type type, uint64_t bits) {
    const struct shape s = shapes[type];
    const uint64_t magnitude = bits & (sign_bit(type) - 1);
    const uint64_t hidden = UINT64_C(1) << (s.precision - 1);
    const int exponent = (int)(magnitude >> (s.precision - 1));
    const double fraction = (double)(magnitude & (hidden - 1));
    double v;
    if (magnitude > last_bits(type)) {
        return NAN;
    } else if (magnitude == inf_bits(type) && type != RONDO_F8E4M3) {
        v = INFINITY;
    } else if (exponent == 0) {
        v = ldexp(fraction, s.emin - s.precision + 1);
    } else {
        v = ldexp((double)hidden + fraction, s.emin + exponent - s.precision);
    }
    return bits & sign_bit(type) ? -v : v;
}

// Rounds a double to the type, to nearest, ties to even: counts units in the last place.
static inline uint64_t encode(rondo_type type, double v) {
    const struct shape s = shapes[type];
    const uint64_t sign = signbit(v) ? sign_bit(type) : 0;
    if (isnan(v)) {
        return nan_bits(type);
    }
    if (isinf(v) || v == 0) {
        return sign | (v == 0 ? 0 : result_limit(type));
    }
    const int exponent = ilogb(v) < s.emin ? s.emin : ilogb(v);
    const double units = ldexp(fabs(v), s.precision - 1 - exponent);
    const double rest = units - floor(units);
    uint64_t n = (uint64_t)floor(units);
    if (rest > 0.5 || (rest == 0.5 && n % 2 == 1)) {
        n++;
    }
    const uint64_t bits = n + ((uint64_t)(exponent - s.emin) << (s.precision - 1));
    return sign | (bits > result_limit(type) ? result_limit(type) : bits);
}

static inline __int128 integer(rondo_type type, uint64_t bits) {
    const unsigned width = 8 * (unsigned)rdi_type_size(type);
    __int128 v = bits;
    if (is_signed(type) && bits >> (width - 1) & 1) {
        v -= (__int128)1 << width;
    }
    return v;
}

static inline uint64_t wrap(rondo_type type, __int128 v) {
    const unsigned width = 8 * (unsigned)rdi_type_size(type);
    return (uint64_t)((unsigned __int128)v & (((unsigned __int128)1 << width) - 1));
}

// One operation in double or in float, as a scalar that the compiler cannot merge with others.
static inline double arithmetic(rondo_type type, rondo_op op, double x, double y) {
    if (type == RONDO_F64) {
        volatile double r = op == RONDO_PROD ? x * y : x + y;
        return r;
    }
    volatile float fx = (float)x, fy = (float)y;
    volatile float r = op == RONDO_PROD ? fx * fy : fx + fy;
    return r;
}

static inline uint64_t expected(rondo_type type, rondo_op op, uint64_t a, uint64_t b) {
    const bool order = op == RONDO_MIN || op == RONDO_MAX;
    if (!is_float(type)) {
        const __int128 x = integer(type, a), y = integer(type, b);
        if (order) {
            return (op == RONDO_MIN) == (x < y) ? a : b;
        }
        // A product of two 64-bit numbers may not fit 128 bits with a sign: take it modulo 2^128.
        return wrap(type, op == RONDO_PROD ? (__int128)((unsigned __int128)x * (unsigned __int128)y)
                                           : x + y);
    }
    const double x = decode(type, a), y = decode(type, b);
    if (isnan(x) || isnan(y)) {
        return nan_bits(type);
    }
    if (order) {
        const bool a_below = x < y || (x == y && signbit(x));
        return (op == RONDO_MIN) == a_below ? a : b;
    }
    return encode(type, arithmetic(type, op, x, y));
}

static inline uint64_t expected_fold(rondo_type type, rondo_op op, const void *const *src,
                                     unsigned nsrc, size_t i, bool strict) {
    const bool wide = !strict && is_narrow(type) && op != RONDO_MIN && op != RONDO_MAX && nsrc > 1;
    uint64_t bits = get(src[0], i, type);
    double acc = wide ? decode(type, bits) : 0;
    for (unsigned k = 1; k < nsrc; k++) {
        const uint64_t b = get(src[k], i, type);
        if (wide) {
            acc = arithmetic(type, op, acc, decode(type, b));
        } else {
            bits = expected(type, op, bits, b);
        }
    }
    return wide ? encode(type, acc) : bits;
}

#endif
