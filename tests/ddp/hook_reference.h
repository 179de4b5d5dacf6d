// SPDX-License-Identifier: MIT
// PowerSGD as its paper has it, for all ranks in one process, in f64 and as plainly as can be: what the hook is held
// against.
#ifndef RDI_HOOK_REFERENCE_H
#define RDI_HOOK_REFERENCE_H

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { REF_RANKS = 4 };

struct ref_matrix {
    size_t param, rows, cols;
    int rank, feedback, begun;
    double *error[REF_RANKS]; // of each rank
    double *q;                // cols * rank, row-major
};

static inline struct ref_matrix ref_make(size_t param, size_t rows, size_t cols, int rank,
                                         int feedback) {
    struct ref_matrix m = {.param = param, .rows = rows, .cols = cols, .feedback = feedback};
    size_t least = rows < cols ? rows : cols;
    m.rank = least < (size_t)rank ? (int)least : rank;
    for (int r = 0; r < REF_RANKS; r++) {
        m.error[r] = calloc(rows * cols, sizeof(double));
    }
    m.q = calloc(cols * (size_t)m.rank, sizeof(double));
    return m;
}

static inline void ref_free(struct ref_matrix *m) {
    for (int r = 0; r < REF_RANKS; r++) {
        free(m->error[r]);
    }
    free(m->q);
}

static inline uint64_t ref_mix(uint64_t x) {
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

// The first factor: that of seed 0.
static inline void ref_first(struct ref_matrix *m, uint64_t step) {
    for (int k = 0; k < m->rank; k++) {
        uint64_t key = ref_mix(ref_mix(ref_mix(0) ^ m->param) ^ step) ^ (uint64_t)k;
        for (size_t i = 0; i < m->cols; i++) {
            m->q[i * (size_t)m->rank + (size_t)k] =
                (double)(int32_t)(ref_mix(ref_mix(key) + i) >> 32) / 2147483648.0;
        }
    }
}

// Gram-Schmidt, twice over, on an n x rank matrix.
static inline void ref_orthonormal(double *x, size_t n, int rank) {
    for (int k = 0; k < rank; k++) {
        for (int pass = 0; pass < 2; pass++) {
            for (int l = 0; l <= k; l++) {
                double dot = 0;
                for (size_t i = 0; i < n; i++) {
                    dot += x[i * (size_t)rank + (size_t)k] * x[i * (size_t)rank + (size_t)l];
                }
                for (size_t i = 0; i < n; i++) {
                    double *y = &x[i * (size_t)rank + (size_t)k];
                    *y = l == k ? *y / sqrt(dot) : *y - dot * x[i * (size_t)rank + (size_t)l];
                }
            }
        }
    }
}

// One step. grad[r]: rank r's part of the gradient, divided already; out: what the hook should give.
static inline void ref_step(struct ref_matrix *m, int ranks, double *const *grad, uint64_t step,
                            double *out) {
    size_t R = m->rows, C = m->cols, K = (size_t)m->rank;
    double *sum = calloc(R * C, sizeof *sum), *p = calloc(R * K, sizeof *p);
    if (!m->begun) {
        ref_first(m, step);
        m->begun = 1;
    }
    ref_orthonormal(m->q, C, m->rank);
    for (int r = 0; r < ranks; r++) {
        for (size_t i = 0; i < R * C; i++) {
            m->error[r][i] = grad[r][i] + (m->feedback ? m->error[r][i] : 0.0);
            sum[i] += m->error[r][i];
        }
    }
    for (size_t i = 0; i < R; i++) {
        for (size_t j = 0; j < C; j++) {
            for (size_t k = 0; k < K; k++) {
                p[i * K + k] += sum[i * C + j] * m->q[j * K + k];
            }
        }
    }
    ref_orthonormal(p, R, m->rank);
    // Of the sum first, whose Q is kept; then of each rank's part, for its error.
    double *q = calloc(C * K, sizeof *q);
    for (int r = -1; r < ranks; r++) {
        const double *of = r < 0 ? sum : m->error[r];
        memset(q, 0, C * K * sizeof *q);
        for (size_t i = 0; i < R * C * K; i++) {
            size_t row = i / (C * K), col = i / K % C, k = i % K;
            q[col * K + k] += of[row * C + col] * p[row * K + k];
        }
        for (size_t i = 0; i < R * C; i++) {
            double x = 0;
            for (size_t k = 0; k < K; k++) {
                x += p[i / C * K + k] * q[i % C * K + k];
            }
            if (r < 0) {
                out[i] = x;
            } else {
                m->error[r][i] -= x;
            }
        }
        if (r < 0) {
            memcpy(m->q, q, C * K * sizeof *q);
        }
    }
    free(sum);
    free(p);
    free(q);
}

#endif
