// SPDX-License-Identifier: MIT
#include "number.h"

#include <string.h>

static const struct number_format formats[RONDO_TYPE_COUNT] = {
    [RONDO_F32] = {4, true, true, 23, -126, 0x7f7fffff, true, false, 0x7fc00000},
    [RONDO_F64] = {8, true, true, 52, -1022, 0x7fefffffffffffff, true, false, 0x7ff8000000000000},
    [RONDO_F16] = {2, true, true, 10, -14, 0x7bff, true, false, 0x7e00},
    [RONDO_BF16] = {2, true, true, 7, -126, 0x7f7f, true, false, 0x7fc0},
    [RONDO_F8E4M3] = {1, true, true, 3, -6, 0x7e, false, true, 0x7f},
    [RONDO_F8E5M2] = {1, true, true, 2, -14, 0x7b, true, true, 0x7f},
    [RONDO_I8] = {.bytes = 1, .has_sign = true},
    [RONDO_U8] = {.bytes = 1},
    [RONDO_I32] = {.bytes = 4, .has_sign = true},
    [RONDO_U32] = {.bytes = 4},
    [RONDO_I64] = {.bytes = 8, .has_sign = true},
    [RONDO_U64] = {.bytes = 8},
};

const struct number_format *number_format(rondo_type type) { return &formats[type]; }

uint64_t number_sign_bit(const struct number_format *f) {
    return (uint64_t)1 << (8 * f->bytes - 1);
}

uint64_t number_magnitude(const struct number_format *f, uint64_t bits) {
    return bits & (number_sign_bit(f) - 1);
}

bool number_negative(const struct number_format *f, uint64_t bits) {
    return (bits & number_sign_bit(f)) != 0;
}

enum number_class number_class(const struct number_format *f, uint64_t bits) {
    const uint64_t magnitude = number_magnitude(f, bits);
    if (!f->real || magnitude <= f->top) {
        return NUMBER_FINITE;
    }
    return f->infinity && magnitude == f->top + 1 ? NUMBER_INFINITE : NUMBER_NAN;
}

// ---- binary128 -----------------------------------------------------------------------------------

typedef unsigned __int128 word128;
_Static_assert(sizeof(word128) == sizeof(wide), "binary128");

static word128 wide_bits(wide v) {
    word128 w;
    memcpy(&w, &v, sizeof w);
    return w;
}

wide number_power(int exponent) {
    const word128 w = (word128)(unsigned)(exponent + 16383) << 112;
    wide v;
    memcpy(&v, &w, sizeof v);
    return v;
}

int number_exponent(wide v) { return (int)(wide_bits(v) >> 112 & 0x7fff) - 16383; }

bool number_signbit(wide v) { return wide_bits(v) >> 127 != 0; }

// ---- Elements and numbers ------------------------------------------------------------------------

wide number_value(const struct number_format *f, uint64_t bits) {
    const uint64_t magnitude = number_magnitude(f, bits);
    const uint64_t exponent = magnitude >> f->mantissa;
    uint64_t units = magnitude & (((uint64_t)1 << f->mantissa) - 1);
    int unit = f->least - (int)f->mantissa;
    if (exponent != 0) {
        units |= (uint64_t)1 << f->mantissa;
        unit += (int)exponent - 1;
    }
    const wide v = (wide)units * number_power(unit);
    return number_negative(f, bits) ? -v : v;
}

uint64_t number_round(const struct number_format *f, wide v) {
    const uint64_t sign = number_signbit(v) ? number_sign_bit(f) : 0;
    if (v == 0) {
        return sign;
    }
    int exponent = number_exponent(v);
    exponent = exponent < f->least ? f->least : exponent;
    // v in units of the type's last place there; integer part, and what is left over.
    const wide scaled = number_abs(v) * number_power((int)f->mantissa - exponent);
    uint64_t units = (uint64_t)scaled;
    const wide left = scaled - (wide)units, half = (wide)0.5;
    if (left > half || (left == half && (units & 1) != 0)) {
        units++;
    }
    // A normal number's leading one adds one to the exponent field, and so does a carry out of the mantissa.
    const bool large = exponent > number_top_exponent(f);
    const uint64_t bits = large ? 0 : ((uint64_t)(exponent - f->least) << f->mantissa) + units;
    if (large || bits > f->top) {
        return sign | (f->saturates ? f->top : f->top + 1);
    }
    return sign | bits;
}

uint64_t number_power_bits(const struct number_format *f, int exponent) {
    return (uint64_t)(exponent - f->least + 1) << f->mantissa;
}

int number_top_exponent(const struct number_format *f) {
    return (int)(f->top >> f->mantissa) - 1 + f->least;
}

uint64_t number_integer(const struct number_format *f, uint64_t bits) {
    if (f->bytes == 8 || !f->has_sign || !number_negative(f, bits)) {
        return bits;
    }
    return bits | ~(uint64_t)0 << (8 * f->bytes);
}

// ---- Memory --------------------------------------------------------------------------------------

uint64_t number_load(const struct number_format *f, const void *array, size_t i) {
    const unsigned char *at = (const unsigned char *)array + i * f->bytes;
    uint32_t u32;
    uint16_t u16;
    uint64_t u64;
    switch (f->bytes) {
    case 1:
        return *at;
    case 2:
        memcpy(&u16, at, sizeof u16);
        return u16;
    case 4:
        memcpy(&u32, at, sizeof u32);
        return u32;
    default:
        memcpy(&u64, at, sizeof u64);
        return u64;
    }
}

void number_store(const struct number_format *f, void *array, size_t i, uint64_t bits) {
    unsigned char *at = (unsigned char *)array + i * f->bytes;
    const uint32_t u32 = (uint32_t)bits;
    const uint16_t u16 = (uint16_t)bits;
    switch (f->bytes) {
    case 1:
        *at = (unsigned char)bits;
        break;
    case 2:
        memcpy(at, &u16, sizeof u16);
        break;
    case 4:
        memcpy(at, &u32, sizeof u32);
        break;
    default:
        memcpy(at, &bits, sizeof bits);
        break;
    }
}
