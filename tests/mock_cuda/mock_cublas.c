// SPDX-License-Identifier: MIT
// cuBLAS as far as train_gpt uses it, on the mock driver's streams: products are enqueued and done by the host's BLAS
// when the stream comes to them. Stricter than the real one: wrong arguments end the program.
#include "tests/mock_cuda/mock_cuda.h"

#include <cblas.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))

enum { SUCCESS = 0, ALLOCATION_FAILED = 3, EXECUTION_FAILED = 13 };
enum { PEDANTIC = 2 };

struct handle {
    uint64_t magic;
    void *stream;
    int math;
};
static const uint64_t magic = 0x63426c6173486e64;

struct matrix {
    const float *at; // of the device
    int ld, rows, cols;
    long long stride;
};
struct work {
    CBLAS_TRANSPOSE ta, tb;
    int m, n, k, count;
    float alpha, beta;
    struct matrix a, b, c;
};

EXPORT int cublasCreate_v2(struct handle **out);
EXPORT int cublasDestroy_v2(struct handle *h);
EXPORT int cublasSetStream_v2(struct handle *h, void *stream);
EXPORT int cublasSetMathMode(struct handle *h, int mode);
EXPORT int cublasSgemmStridedBatched(struct handle *h, int ta, int tb, int m, int n, int k,
                                     const float *alpha, const float *a, int lda,
                                     long long stride_a, const float *b, int ldb,
                                     long long stride_b, const float *beta, float *c, int ldc,
                                     long long stride_c, int count);
EXPORT int cublasSgemm_v2(struct handle *h, int ta, int tb, int m, int n, int k, const float *alpha,
                          const float *a, int lda, const float *b, int ldb, const float *beta,
                          float *c, int ldc);

// Weak: another BLAS has no such function.
extern void openblas_set_num_threads(int threads) __attribute__((weak));

static void check(int ok, const char *what) {
    if (!ok) {
        fprintf(stderr, "mock cuBLAS: %s\n", what);
        abort();
    }
}

static void check_handle(const struct handle *h) {
    check(h && h->magic == magic, "the handle is none, or was destroyed");
}

int cublasCreate_v2(struct handle **out) {
    *out = calloc(1, sizeof **out);
    if (!*out) {
        return ALLOCATION_FAILED;
    }
    (*out)->magic = magic;
    if (openblas_set_num_threads) {
        openblas_set_num_threads(1);
    }
    return SUCCESS;
}

int cublasDestroy_v2(struct handle *h) {
    check_handle(h);
    h->magic = 0;
    free(h);
    return SUCCESS;
}

int cublasSetStream_v2(struct handle *h, void *stream) {
    check_handle(h);
    h->stream = stream;
    return SUCCESS;
}

int cublasSetMathMode(struct handle *h, int mode) {
    check_handle(h);
    h->math = mode;
    return SUCCESS;
}

// ---- Products ------------------------------------------------------------------------------------

static const float *there(const struct matrix *m, int i) {
    check(m->ld >= m->rows && m->rows > 0 && m->cols > 0, "a leading dimension is too small");
    const uint64_t floats = (uint64_t)m->ld * (uint64_t)(m->cols - 1) + (uint64_t)m->rows;
    return mock_cuda_range((uintptr_t)(m->at + i * m->stride), floats * sizeof(float));
}

// Streams are threads, and an OpenBLAS that is built for one mixes up their memory.
static pthread_mutex_t one_at_a_time = PTHREAD_MUTEX_INITIALIZER;

static void multiply(void *arg) {
    struct work *w = arg;
    for (int i = 0; i < w->count; i++) {
        float *c = (float *)(uintptr_t)there(&w->c, i);
        pthread_mutex_lock(&one_at_a_time);
        cblas_sgemm(CblasColMajor, w->ta, w->tb, w->m, w->n, w->k, w->alpha, there(&w->a, i),
                    w->a.ld, there(&w->b, i), w->b.ld, w->beta, c, w->c.ld);
        pthread_mutex_unlock(&one_at_a_time);
    }
    free(w);
}

static struct matrix shaped(const float *at, int ld, long long stride, int turned, int rows,
                            int cols) {
    return (struct matrix){at, ld, turned ? cols : rows, turned ? rows : cols, stride};
}

int cublasSgemmStridedBatched(struct handle *h, int ta, int tb, int m, int n, int k,
                              const float *alpha, const float *a, int lda, long long stride_a,
                              const float *b, int ldb, long long stride_b, const float *beta,
                              float *c, int ldc, long long stride_c, int count) {
    check_handle(h);
    check(h->math == PEDANTIC, "the math mode allows less than single precision");
    check(ta >= 0 && ta <= 1 && tb >= 0 && tb <= 1 && count > 0, "an argument is out of range");
    struct work *w = malloc(sizeof *w);
    if (!w) {
        return ALLOCATION_FAILED;
    }
    *w = (struct work){.ta = ta ? CblasTrans : CblasNoTrans,
                       .tb = tb ? CblasTrans : CblasNoTrans,
                       .m = m,
                       .n = n,
                       .k = k,
                       .count = count,
                       .alpha = *alpha,
                       .beta = *beta,
                       .a = shaped(a, lda, stride_a, ta, m, k),
                       .b = shaped(b, ldb, stride_b, tb, k, n),
                       .c = shaped(c, ldc, stride_c, 0, m, n)};
    if (mock_cuda_enqueue(h->stream, multiply, w) != 0) {
        free(w);
        return EXECUTION_FAILED;
    }
    return SUCCESS;
}

int cublasSgemm_v2(struct handle *h, int ta, int tb, int m, int n, int k, const float *alpha,
                   const float *a, int lda, const float *b, int ldb, const float *beta, float *c,
                   int ldc) {
    return cublasSgemmStridedBatched(h, ta, tb, m, n, k, alpha, a, lda, 0, b, ldb, 0, beta, c, ldc,
                                     0, 1);
}
