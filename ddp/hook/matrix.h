// SPDX-License-Identifier: MIT
// The products of PowerSGD, of a large matrix with narrow ones, and their orthonormalisation.
//
// A matrix is row-major: rows * cols elements. A factor is `rank` columns, one after the other: element i of column k is
// at [k * n + i]. Elements are f32 or f64, as the table says. Every order of additions is fixed and nothing is fused, so
// all processors get the same bits. Pure; nothing here blocks or allocates.
#ifndef RDI_HOOK_MATRIX_H
#define RDI_HOOK_MATRIX_H

#include <stdbool.h>
#include <stddef.h>

struct rdi_matrix_ops {
    // m += e (NULL: nothing), then p = m q. Returns the sum of squares of m as it was before.
    double (*project)(void *m, const void *e, size_t rows, size_t cols, const void *q,
                      unsigned rank, void *p);
    // q = m' p
    void (*transposed)(const void *m, size_t rows, size_t cols, const void *p, unsigned rank,
                       void *q);
    // e = m - p q' (e NULL: not written). Returns its sum of squares.
    double (*residual)(void *e, const void *m, size_t rows, size_t cols, const void *p,
                       const void *q, unsigned rank);
    // m = p q'
    void (*expand)(void *m, size_t rows, size_t cols, const void *p, const void *q, unsigned rank);
    // Makes the columns of x orthonormal, by modified Gram-Schmidt. A column that depends on those before it becomes
    // zeros. False, and x undefined, where x is not finite.
    bool (*orthonormalise)(void *x, size_t n, unsigned rank);
};

// The table for this processor; `f64`: of doubles.
const struct rdi_matrix_ops *rdi_matrix_ops(bool f64);

#endif
