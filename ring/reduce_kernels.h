// SPDX-License-Identifier: MIT
// What one instruction set provides to ring/reduce.c: a table of loops. Each ring/reduce_<isa>.c fills one by
// including ring/reduce_template.h.
#ifndef RDI_REDUCE_KERNELS_H
#define RDI_REDUCE_KERNELS_H

#include <stddef.h>

#include <rondo/ring.h>

// AVG shares SUM's loops.
enum { RDI_KERNEL_OPS = RONDO_MAX + 1, RDI_KERNEL_HALVES = 2, RDI_KERNEL_FOLD_OPS = 2 };

// dst[i] = a[i] op b[i]; dst may equal a or b.
typedef void rdi_kernel2(void *dst, const void *a, const void *b, size_t n);
// dst[i] = src[i] * s or src[i] / s; dst may equal src.
typedef void rdi_kernel1(void *dst, const void *src, size_t n, double s);

// A fold of f16 or bf16 that stays in f32. `first`: f32 = half op half; `next`: f32 = f32 op half; `last`:
// half = f32 op half.
struct rdi_fold_kernels {
    rdi_kernel2 *first, *next, *last;
};

struct rdi_kernels {
    const char *name;
    rdi_kernel2 *reduce[RONDO_TYPE_COUNT][RDI_KERNEL_OPS];
    struct rdi_fold_kernels fold[RDI_KERNEL_HALVES][RDI_KERNEL_FOLD_OPS]; // [f16, bf16][SUM, PROD]
    rdi_kernel1 *divide[RONDO_TYPE_COUNT];                                // NULL for i64 and u64
    rdi_kernel1 *scale[RONDO_TYPE_COUNT];                                 // NULL for integers
};

extern const struct rdi_kernels rdi_kernels_c;
#if defined(__x86_64__)
extern const struct rdi_kernels rdi_kernels_avx2;
extern const struct rdi_kernels rdi_kernels_avx512;
#elif defined(__aarch64__)
extern const struct rdi_kernels rdi_kernels_neon;
#endif

#endif
