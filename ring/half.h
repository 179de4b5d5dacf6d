// SPDX-License-Identifier: MIT
// f16 (IEEE binary16) and bf16 to and from f32 in integer arithmetic: the same bits on every machine, under
// any rounding mode and with denormals flushed, which is what the SIMD kernels are held against.
//
// To f32 is exact. From f32 rounds to nearest, ties to even; too large becomes infinity, too small becomes a
// denormal or zero of the same sign. A NaN keeps its sign and the top bits of its payload and becomes quiet
// (but not from bf16, which is half of an f32 as it stands), as the F16C and NEON instructions do.
#ifndef RDI_HALF_H
#define RDI_HALF_H

#include <stdint.h>
#include <string.h>

// Compiled by nvcc for devices, too.
#if defined(__CUDACC__)
#define RDI_FLOAT_FN static __host__ __device__ __forceinline__
#else
#define RDI_FLOAT_FN static inline __attribute__((always_inline, unused))
#endif

RDI_FLOAT_FN uint32_t rdi_f32_bits(float f) {
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    return u;
}

RDI_FLOAT_FN float rdi_f32_from_bits(uint32_t u) {
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

RDI_FLOAT_FN float rdi_f16_to_f32(uint16_t h) {
    const uint32_t sign = (uint32_t)(h & 0x8000u) << 16;
    const uint32_t exponent = (h >> 10) & 0x1fu;
    uint32_t mantissa = h & 0x3ffu;
    if (exponent == 0x1f) {
        const uint32_t quiet = mantissa ? 0x400000u : 0;
        return rdi_f32_from_bits(sign | 0x7f800000u | quiet | mantissa << 13);
    }
    if (exponent != 0) {
        return rdi_f32_from_bits(sign | (exponent + 112) << 23 | mantissa << 13);
    }
    if (mantissa == 0) {
        return rdi_f32_from_bits(sign);
    }
    // Denormal, mantissa * 2^-24: every one is a normal f32.
#if defined(__CUDA_ARCH__)
    const uint32_t shift = (uint32_t)__clz((int)mantissa) - 21;
#else
    const uint32_t shift = (uint32_t)__builtin_clz(mantissa) - 21;
#endif
    mantissa = (mantissa << shift) & 0x3ffu;
    return rdi_f32_from_bits(sign | (113 - shift) << 23 | mantissa << 13);
}

RDI_FLOAT_FN uint16_t rdi_f32_to_f16(float f) {
    const uint32_t bits = rdi_f32_bits(f);
    const uint32_t sign = (bits >> 16) & 0x8000u;
    const uint32_t magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) {
        return (uint16_t)(sign | 0x7e00u | (magnitude >> 13 & 0x3ffu));
    }
    if (magnitude >= 0x477ff000u) { // 65520 and above round to infinity
        return (uint16_t)(sign | 0x7c00u);
    }
    if (magnitude >= 0x38800000u) { // 2^-14, the smallest normal f16; a carry may step the exponent
        const uint32_t odd = magnitude >> 13 & 1;
        return (uint16_t)(sign | ((magnitude - 0x38000000u + 0xfffu + odd) >> 13));
    }
    if (magnitude <= 0x33000000u) { // 2^-25, half the smallest denormal, ties to zero
        return (uint16_t)sign;
    }
    const uint32_t mantissa = (magnitude & 0x7fffffu) | 0x800000u;
    const uint32_t shift = 126 - (magnitude >> 23); // 14..24
    const uint32_t odd = mantissa >> shift & 1;
    return (uint16_t)(sign | ((mantissa + (1u << (shift - 1)) - 1 + odd) >> shift));
}

RDI_FLOAT_FN float rdi_bf16_to_f32(uint16_t h) { return rdi_f32_from_bits((uint32_t)h << 16); }

RDI_FLOAT_FN uint16_t rdi_f32_to_bf16(float f) {
    const uint32_t bits = rdi_f32_bits(f);
    if ((bits & 0x7fffffffu) > 0x7f800000u) {
        return (uint16_t)(bits >> 16 | 0x40u);
    }
    return (uint16_t)((bits + 0x7fffu + (bits >> 16 & 1)) >> 16);
}

#endif
