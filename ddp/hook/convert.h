// SPDX-License-Identifier: MIT
// Gradients to and from f16 and bf16, with the account of what rounding left out.
//
// Rounds to nearest, ties to even, once, also from f64. Finite values beyond the largest f16 become it, with their sign;
// infinities stay, and NaNs stay NaNs. Every instruction set gives the same halves. Pure; counts are in elements.
#ifndef RDI_HOOK_CONVERT_H
#define RDI_HOOK_CONVERT_H

#include <rondo/ring.h>

// half[i] = from[i]; `type` is RONDO_F16 or RONDO_BF16, `from_type` RONDO_F32 or RONDO_F64. Adds the sums of squares of
// the rounding errors and of from[] to *error and *norm; either may be NULL.
void rdi_to_half(rondo_type type, void *half, rondo_type from_type, const void *from, size_t count,
                 double *error, double *norm);

// to[i] = half[i], exactly.
void rdi_from_half(rondo_type type, const void *half, rondo_type to_type, void *to, size_t count);

// The sum of the squares, added up in f64. `type` is RONDO_F32, F64, F16 or BF16.
double rdi_sum_squares(rondo_type type, const void *x, size_t count);

#endif
