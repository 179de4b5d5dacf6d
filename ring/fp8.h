// SPDX-License-Identifier: MIT
// f8e4m3 and f8e5m2 (the 8-bit floats of the Open Compute Project) to and from f32, without branches, so
// that compilers make vectors of it; for C and for CUDA devices. Besides integers there are sums of f32 whose
// operands and results are zero or normal: they are the same on every machine, rounded to nearest.
//
//            bits     bias  largest  smallest  smallest denormal  infinity  NaN
//   f8e4m3   1 4 3    7     448      2^-6      2^-9               none      0x7f, 0xff
//   f8e5m2   1 5 2    15    57344    2^-14     2^-16              0x7c      0x7d to 0x7f, 0xfd to 0xff
//
// To f32 is exact; every NaN becomes 0x7fc00000. From f32 rounds to nearest, ties to even; what is too large,
// infinity too, becomes the largest finite value of the same sign; too small becomes a denormal or zero of the
// same sign; every NaN becomes 0x7f.
#ifndef RDI_FP8_H
#define RDI_FP8_H

#include "ring/half.h"

// yes ? a : b for values that are at hand, so that a compiler does not move what leads to them into a branch,
// where it would make no vectors.
RDI_FLOAT_FN uint32_t rdi_f8_pick(uint32_t yes, uint32_t a, uint32_t b) {
    return b ^ ((a ^ b) & (0u - yes));
}

// What both have in common. `bits`: of the mantissa; `last`: the largest magnitude that is a number.
RDI_FLOAT_FN float rdi_f8_to_f32(uint32_t b, uint32_t bits, uint32_t bias, uint32_t last) {
    const uint32_t magnitude = b & 0x7fu, sign = (b & 0x80u) << 24;
    // A denormal lacks the leading one: it is given one, which is subtracted again.
    const uint32_t denormal = magnitude >> bits == 0;
    const uint32_t one = ((128 - bias) << 23) & (0u - denormal);
    const uint32_t full = (magnitude << (23 - bits)) + ((127 - bias + denormal) << 23);
    const uint32_t number = rdi_f32_bits(rdi_f32_from_bits(full) - rdi_f32_from_bits(one));
    return rdi_f32_from_bits(rdi_f8_pick(magnitude > last, 0x7fc00000u, number | sign));
}

// `limit`: the largest finite value.
RDI_FLOAT_FN uint8_t rdi_f32_to_f8(float f, uint32_t bits, uint32_t bias, uint32_t limit) {
    const uint32_t word = rdi_f32_bits(f), full = word & 0x7fffffffu, sign = (word >> 24) & 0x80u;
    const uint32_t magnitude = full < limit ? full : limit;
    // Added to this power of two, the value is rounded to units of its last place in the narrow type.
    const uint32_t least = (128 - bias) << 23, exponent = magnitude & 0x7f800000u;
    const uint32_t scale = exponent > least ? exponent : least,
                   shifter = scale + ((23 - bits) << 23);
    const float shifted = rdi_f32_from_bits(magnitude) + rdi_f32_from_bits(shifter);
    const uint32_t units = rdi_f32_bits(shifted) - shifter;
    const uint32_t number = units + ((scale - least) >> (23 - bits));
    return (uint8_t)rdi_f8_pick(full > 0x7f800000u, 0x7fu, number | sign);
}

RDI_FLOAT_FN float rdi_f8e4m3_to_f32(uint8_t b) { return rdi_f8_to_f32(b, 3, 7, 0x7e); }

RDI_FLOAT_FN float rdi_f8e5m2_to_f32(uint8_t b) {
    const uint32_t word = rdi_f32_bits(rdi_f8_to_f32(b, 2, 15, 0x7c));
    const uint32_t infinite = (b & 0x7fu) == 0x7c;
    return rdi_f32_from_bits(rdi_f8_pick(infinite, (b & 0x80u) << 24 | 0x7f800000u, word));
}

RDI_FLOAT_FN uint8_t rdi_f32_to_f8e4m3(float f) { return rdi_f32_to_f8(f, 3, 7, 0x43e00000u); }

RDI_FLOAT_FN uint8_t rdi_f32_to_f8e5m2(float f) { return rdi_f32_to_f8(f, 2, 15, 0x47600000u); }

#endif
