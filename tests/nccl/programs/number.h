// SPDX-License-Identifier: MIT
// The element types as numbers: a second implementation of what they mean, made from the formats' definitions
// and slow on purpose, which shares nothing with the library's conversions that it is to judge.
//
// A real element is sign, exponent and mantissa; its magnitude bits order as its magnitude does, denormals are
// multiples of the smallest one. `wide` (binary128, 113 bits) holds every element of every type exactly, and
// sums and products of two of them exactly or with more than twice the bits of the type, so that rounding them
// once more gives the correctly rounded result (Figueroa, "When is double rounding innocuous?", SIGNUM 1995).
#ifndef NCCL_TEST_NUMBER_H
#define NCCL_TEST_NUMBER_H

#include <rondo/ring.h>
#include <stdbool.h>
#include <stdint.h>

#if __LDBL_MANT_DIG__ == 113
typedef long double wide;
#else
typedef __float128 wide;
#endif

struct number_format {
    unsigned bytes;
    bool real, has_sign;
    // Of real types:
    unsigned mantissa; // bits, without the leading one
    int least;         // exponent of the smallest normal number
    uint64_t top;      // bits of the largest finite magnitude
    bool infinity;     // has one: bits top + 1
    bool saturates;    // what is too large becomes top, not infinity
    uint64_t nan;      // the NaN that Rondo gives
};

const struct number_format *number_format(rondo_type type);

enum number_class { NUMBER_FINITE, NUMBER_INFINITE, NUMBER_NAN };

uint64_t number_sign_bit(const struct number_format *f);
uint64_t number_magnitude(const struct number_format *f, uint64_t bits);
bool number_negative(const struct number_format *f, uint64_t bits);
enum number_class number_class(const struct number_format *f, uint64_t bits);
// Of a finite real element.
wide number_value(const struct number_format *f, uint64_t bits);
// The element nearest to v, ties to even; finite v only. Keeps the sign of zero.
uint64_t number_round(const struct number_format *f, wide v);
// Magnitude bits of 2^exponent, which has to be a normal number of the type.
uint64_t number_power_bits(const struct number_format *f, int exponent);
// Exponent of the largest finite number.
int number_top_exponent(const struct number_format *f);

// Of an integer element, as a number modulo 2^64 with its sign extended.
uint64_t number_integer(const struct number_format *f, uint64_t bits);

wide number_power(int exponent); // 2^exponent, -16382 to 16383
int number_exponent(wide v);     // floor(log2 |v|), v normal and not 0
bool number_signbit(wide v);
static inline wide number_abs(wide v) { return v < 0 ? -v : v; }

// Elements in memory, at any address.
uint64_t number_load(const struct number_format *f, const void *array, size_t i);
void number_store(const struct number_format *f, void *array, size_t i, uint64_t bits);

#endif
