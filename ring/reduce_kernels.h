// SPDX-License-Identifier: MIT
// What one instruction set provides to ring/reduce.c: a table of loops. Each ring/reduce_<isa>.c fills one by
// including ring/reduce_template.h.
#ifndef RDI_REDUCE_KERNELS_H
#define RDI_REDUCE_KERNELS_H

#include <stddef.h>

#include <rondo/ring.h>

// AVG shares SUM's loops.
enum { RDI_KERNEL_OPS = RONDO_MAX + 1, RDI_KERNEL_NARROW = 4, RDI_KERNEL_FOLD_OPS = 2 };

// dst[i] = a[i] op b[i]; dst may equal a or b.
typedef void rdi_kernel2(void *dst, const void *a, const void *b, size_t n);
// dst[i] = src[i] * s or src[i] / s; dst may equal src.
typedef void rdi_kernel1(void *dst, const void *src, size_t n, double s);

// A fold of a type narrower than f32 that stays in f32. `first`: f32 = narrow op narrow; `next`: f32 = f32 op
// narrow; `last`: narrow = f32 op narrow.
struct rdi_fold_kernels {
    rdi_kernel2 *first, *next, *last;
};

struct rdi_kernels {
    const char *name;
    rdi_kernel2 *reduce[RONDO_TYPE_COUNT][RDI_KERNEL_OPS];
    // [f16, bf16, f8e4m3, f8e5m2][SUM, PROD]
    struct rdi_fold_kernels fold[RDI_KERNEL_NARROW][RDI_KERNEL_FOLD_OPS];
    rdi_kernel1 *divide[RONDO_TYPE_COUNT]; // NULL for i64 and u64
    rdi_kernel1 *scale[RONDO_TYPE_COUNT];  // NULL for integers
};

extern const struct rdi_kernels rdi_kernels_c;
#if defined(__x86_64__)
extern const struct rdi_kernels rdi_kernels_avx2;
extern const struct rdi_kernels rdi_kernels_avx512;
#elif defined(__aarch64__)
extern const struct rdi_kernels rdi_kernels_neon;
#endif

#endif
