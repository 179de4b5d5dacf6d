// SPDX-License-Identifier: MIT
// The loops of ddp/hook/matrix.h, written once. The file that includes this one defines
//
//   T             float or double
//   FN(name)      the name of a function of this type and instruction set
//   ATTR          attributes that every function needs (target)
//
// Rows are taken four at a time and columns in blocks, so that a row's piece stays in the first-level cache while it
// meets all columns of the factor: memory is passed over once.
#define VEC FN(vec)
typedef T VEC __attribute__((vector_size(32), aligned(__alignof__(T)), may_alias));
enum { FN(LANES) = 32 / sizeof(T) };
#define LANES FN(LANES)

// Sums over n elements of each row times q.
ATTR INLINE void FN(dot4)(const T *const *row, const T *q, size_t n, T *out) {
    VEC a0 = {0}, a1 = {0}, a2 = {0}, a3 = {0};
    size_t j = 0;
    for (; j + LANES <= n; j += LANES) {
        const VEC x = *(const VEC *)(const void *)(q + j);
        a0 += *(const VEC *)(const void *)(row[0] + j) * x;
        a1 += *(const VEC *)(const void *)(row[1] + j) * x;
        a2 += *(const VEC *)(const void *)(row[2] + j) * x;
        a3 += *(const VEC *)(const void *)(row[3] + j) * x;
    }
    T sum[4] = {0};
    for (size_t l = 0; l < LANES; l++) {
        sum[0] += a0[l];
        sum[1] += a1[l];
        sum[2] += a2[l];
        sum[3] += a3[l];
    }
    for (; j < n; j++) {
        for (size_t a = 0; a < 4; a++) {
            sum[a] += row[a][j] * q[j];
        }
    }
    for (size_t a = 0; a < 4; a++) {
        out[a] += sum[a];
    }
}

// y += c[0] x[0] + ... + c[n - 1] x[n - 1], n 1 to 4
ATTR INLINE void FN(axpy)(T *restrict y, const T *const *x, const T *c, size_t n, size_t count) {
    const T *restrict x0 = x[0], *restrict x1 = x[n > 1 ? 1 : 0], *restrict x2 = x[n > 2 ? 2 : 0],
                      *restrict x3 = x[n > 3 ? 3 : 0];
    const T c0 = c[0], c1 = c[n > 1 ? 1 : 0], c2 = c[n > 2 ? 2 : 0], c3 = c[n > 3 ? 3 : 0];
    if (n == 1) {
        INDEPENDENT for (size_t j = 0; j < count; j++) { y[j] += c0 * x0[j]; }
    } else if (n == 2) {
        INDEPENDENT for (size_t j = 0; j < count; j++) { y[j] += c0 * x0[j] + c1 * x1[j]; }
    } else if (n == 3) {
        INDEPENDENT for (size_t j = 0; j < count; j++) {
            y[j] += (c0 * x0[j] + c1 * x1[j]) + c2 * x2[j];
        }
    } else {
        INDEPENDENT for (size_t j = 0; j < count; j++) {
            y[j] += (c0 * x0[j] + c1 * x1[j]) + (c2 * x2[j] + c3 * x3[j]);
        }
    }
}

// m += e over one row's piece; the sum of squares of m before.
ATTR INLINE double FN(add)(T *restrict m, const T *restrict e, size_t n) {
    double sum[8] = {0};
    size_t j = 0;
    for (; j + 8 <= n; j += 8) {
        for (size_t l = 0; l < 8; l++) {
            sum[l] += (double)m[j + l] * (double)m[j + l];
        }
    }
    for (; j < n; j++) {
        sum[0] += (double)m[j] * (double)m[j];
    }
    if (e) {
        INDEPENDENT for (j = 0; j < n; j++) { m[j] += e[j]; }
    }
    return ((sum[0] + sum[4]) + (sum[1] + sum[5])) + ((sum[2] + sum[6]) + (sum[3] + sum[7]));
}

ATTR static double FN(project)(void *vm, const void *ve, size_t rows, size_t cols, const void *vq,
                               unsigned rank, void *vp) {
    T *m = vm, *p = vp;
    const T *e = ve, *q = vq;
    double norm = 0;
    memset(p, 0, rows * rank * sizeof *p);
    for (size_t i = 0; i < rows; i += 4) {
        const size_t nrows = rows - i < 4 ? rows - i : 4;
        for (size_t j = 0; j < cols; j += BLOCK) {
            const size_t n = cols - j < BLOCK ? cols - j : BLOCK;
            const T *row[4];
            for (size_t a = 0; a < 4; a++) {
                const size_t at = (i + (a < nrows ? a : 0)) * cols + j;
                row[a] = m + at;
                norm += a < nrows ? FN(add)(m + at, e ? e + at : NULL, n) : 0.0;
            }
            for (unsigned k = 0; k < rank; k++) {
                T sum[4] = {0};
                FN(dot4)(row, q + k * cols + j, n, sum);
                for (size_t a = 0; a < nrows; a++) {
                    p[k * rows + i + a] += sum[a];
                }
            }
        }
    }
    return norm;
}

ATTR static void FN(transposed)(const void *vm, size_t rows, size_t cols, const void *vp,
                                unsigned rank, void *vq) {
    const T *m = vm, *p = vp;
    T *q = vq;
    memset(q, 0, cols * rank * sizeof *q);
    for (size_t j = 0; j < cols; j += BLOCK) {
        const size_t n = cols - j < BLOCK ? cols - j : BLOCK;
        for (size_t i = 0; i < rows; i += 4) {
            const size_t nrows = rows - i < 4 ? rows - i : 4;
            const T *row[4];
            for (size_t a = 0; a < 4; a++) {
                row[a] = m + (i + (a < nrows ? a : 0)) * cols + j;
            }
            for (unsigned k = 0; k < rank; k++) {
                FN(axpy)(q + k * cols + j, row, p + k * rows + i, nrows, n);
            }
        }
    }
}

// One row's piece of p q', n elements from column j on.
ATTR INLINE void FN(piece)(T *out, size_t i, size_t rows, size_t cols, const T *p, const T *q,
                           unsigned rank, size_t j, size_t n) {
    memset(out, 0, n * sizeof *out);
    for (unsigned k = 0; k < rank; k += 4) {
        const size_t columns = rank - k < 4 ? rank - k : 4;
        const T *x[4] = {NULL, NULL, NULL, NULL};
        T c[4] = {0};
        for (size_t a = 0; a < columns; a++) {
            x[a] = q + (k + a) * cols + j;
            c[a] = p[(k + a) * rows + i];
        }
        FN(axpy)(out, x, c, columns, n);
    }
}

ATTR static double FN(residual)(void *ve, const void *vm, size_t rows, size_t cols, const void *p,
                                const void *q, unsigned rank) {
    T out[BLOCK], *e = ve;
    const T *m = vm;
    double norm = 0;
    for (size_t i = 0; i < rows; i++) {
        for (size_t j = 0; j < cols; j += BLOCK) {
            const size_t n = cols - j < BLOCK ? cols - j : BLOCK, at = i * cols + j;
            FN(piece)(out, i, rows, cols, p, q, rank, j, n);
            INDEPENDENT for (size_t l = 0; l < n; l++) { out[l] = m[at + l] - out[l]; }
            norm += FN(add)(out, NULL, n);
            if (e) {
                memcpy(e + at, out, n * sizeof *out);
            }
        }
    }
    return norm;
}

ATTR static void FN(expand)(void *vm, size_t rows, size_t cols, const void *p, const void *q,
                            unsigned rank) {
    T *m = vm;
    for (size_t i = 0; i < rows; i++) {
        for (size_t j = 0; j < cols; j += BLOCK) {
            const size_t n = cols - j < BLOCK ? cols - j : BLOCK;
            FN(piece)(m + i * cols + j, i, rows, cols, p, q, rank, j, n);
        }
    }
}

ATTR static double FN(inner)(const T *x, const T *y, size_t n) {
    double sum[8] = {0};
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        for (size_t l = 0; l < 8; l++) {
            sum[l] += (double)x[i + l] * (double)y[i + l];
        }
    }
    for (; i < n; i++) {
        sum[0] += (double)x[i] * (double)y[i];
    }
    return ((sum[0] + sum[4]) + (sum[1] + sum[5])) + ((sum[2] + sum[6]) + (sum[3] + sum[7]));
}

// Takes the columns before k out of column k; the sum of squares that is left.
ATTR static double FN(reduce_column)(T *x, size_t n, unsigned k) {
    T *restrict y = x + k * n;
    for (unsigned l = 0; l < k; l++) {
        const T *restrict z = x + l * n;
        const double d = FN(inner)(z, y, n);
        INDEPENDENT for (size_t i = 0; i < n; i++) { y[i] = (T)((double)y[i] - d * (double)z[i]); }
    }
    return FN(inner)(y, y, n);
}

ATTR static bool FN(orthonormalise)(void *vx, size_t n, unsigned rank) {
    T *x = vx;
    for (unsigned k = 0; k < rank; k++) {
        T *y = x + k * n;
        double whole = FN(inner)(y, y, n);
        if (!isfinite(whole)) {
            return false;
        }
        double left = FN(reduce_column)(x, n, k);
        // Where most of it went, what is left is rounding in good part, and not orthogonal: "twice is enough".
        for (int again = 0; again < 2 && k && left < 0.25 * whole && left > DEPENDENT * whole;
             again++) {
            const double scale = 1.0 / sqrt(left);
            for (size_t i = 0; i < n; i++) {
                y[i] = (T)((double)y[i] * scale);
            }
            whole = 1.0;
            left = FN(reduce_column)(x, n, k);
        }
        const bool depends = !(left > DEPENDENT * whole);
        const double scale = depends ? 0.0 : 1.0 / sqrt(left);
        for (size_t i = 0; i < n; i++) {
            y[i] = depends ? (T)0 : (T)((double)y[i] * scale);
        }
    }
    return true;
}

static const struct rdi_matrix_ops FN(ops) = {FN(project), FN(transposed), FN(residual), FN(expand),
                                              FN(orthonormalise)};

#undef VEC
#undef LANES
