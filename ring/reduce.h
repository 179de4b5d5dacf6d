// SPDX-License-Identifier: MIT
// The CPU's part of a collective: elementwise reductions, in SIMD kernels chosen at run time.
//
// Every instruction set gives the same bits, so ranks on different processors agree:
// - f16, bf16 and the 8-bit floats are computed in f32 and rounded to nearest, ties to even (ring/half.h,
//   ring/fp8.h). 8-bit floats saturate: a result too large, or infinite, is the largest finite value.
// - Every NaN that SUM, PROD, MIN, MAX, division and scaling give is the quiet NaN with sign and payload 0
//   (f32 0x7fc00000, f64 0x7ff8000000000000, f16 0x7e00, bf16 0x7fc0; f8e4m3 and f8e5m2 0x7f), whatever NaN came in. Hence
//   a op b == b op a in all bits, for every op.
// - MIN and MAX give NaN if either operand is NaN, and hold -0 < +0: min(-0, +0) = -0, max(-0, +0) = +0.
// - Integers wrap.
// The caller's floating-point environment is used as it is: f32, f64 and bf16 results near zero depend on
// flush-to-zero modes, if the program sets them, and the rounding mode has to be to-nearest.
//
// Pointers need no alignment. `type` and `op` must be valid, counts are in elements; count 0 does nothing and
// then pointers are not looked at. No function here blocks, allocates or fails; all may be called from any
// thread.
#ifndef RDI_REDUCE_H
#define RDI_REDUCE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <rondo/ring.h>

#define RDI_REDUCE_MAX_SOURCES 64

// Bytes of one element; 0 for a value that is no type.
size_t rdi_type_size(rondo_type type);

// Whether it is one of f64, f32, f16, bf16 and the 8-bit floats.
bool rdi_type_is_float(rondo_type type);

// dst[i] = a[i] op b[i], rounded to the type. AVG adds (rdi_divide() ends it). dst may equal a or b; no other
// overlap.
void rdi_reduce2(void *dst, const void *a, const void *b, size_t count, rondo_type type,
                 rondo_op op);

// As rdi_reduce2(), with the result written to dst1 and dst2 in one pass over memory. dst1 may equal a or b;
// dst2 overlaps nothing.
void rdi_reduce2_to2(void *dst1, void *dst2, const void *a, const void *b, size_t count,
                     rondo_type type, rondo_op op);

// dst[i] = (((src[0][i] op src[1][i]) op src[2][i]) ...: the left fold over nsrc sources, 1 to
// RDI_REDUCE_MAX_SOURCES, in one pass over memory. `strict`: rounded to the type after every operation; else
// floats below f32 stay in f32 for SUM and PROD until the end (no difference for other types and ops). One source is
// copied, NaNs as they are. dst may equal any of the sources; no other overlap with dst; sources may overlap
// each other.
void rdi_reduce_n(void *dst, const void *const *src, unsigned nsrc, size_t count, rondo_type type,
                  rondo_op op, bool strict);

// x[i] = x[i] / n. Floating types divide by n rounded to the type (below f32: to f32); integers truncate
// toward zero. n 0 and n 1 leave x as it is.
void rdi_divide(void *x, size_t count, rondo_type type, uint64_t n);

// dst[i] = src[i] * scale, scale rounded to the type first (below f32: to f32). Floating types only: false,
// and nothing written, for an integer type. dst may equal src; no other overlap.
bool rdi_scale_copy(void *dst, const void *src, size_t count, rondo_type type, double scale);

// The instruction set in use: "avx512", "avx2", "neon" or "c". The best that the processor has, unless
// chosen below.
const char *rdi_reduce_isa(void);

// For tests: uses that instruction set in the whole process from now on (NULL: the best again). Results do
// not change. False, and nothing changed, where the name is unknown or the processor lacks it.
bool rdi_reduce_select(const char *isa);

#endif
