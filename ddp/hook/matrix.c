// SPDX-License-Identifier: MIT
// The loops of ddp/hook/matrix_loops.h for f32 and f64, for any processor and for x86-64 with AVX2.
#include "ddp/hook/matrix.h"

#include <math.h>
#include <string.h>

#include "ring/reduce.h"

#if defined(__clang__)
#pragma clang diagnostic ignored "-Wpass-failed"
#define OPTIMIZE
#define INDEPENDENT _Pragma("clang loop vectorize(assume_safety)")
#else
#define OPTIMIZE __attribute__((optimize("O3")))
#define INDEPENDENT _Pragma("GCC ivdep")
#endif
#define INLINE static inline __attribute__((always_inline))
// Columns of a block: four rows of it fit a first-level cache.
#define BLOCK 1024
// A column of whose square less than this share is left depends on those before it.
#define DEPENDENT 1e-28

#define ATTR OPTIMIZE
#define T float
#define FN(name) name##_f32
#include "ddp/hook/matrix_loops.h"
#undef T
#undef FN
#define T double
#define FN(name) name##_f64
#include "ddp/hook/matrix_loops.h"
#undef T
#undef FN
#undef ATTR

#if defined(__x86_64__)
#define ATTR OPTIMIZE __attribute__((target("avx2")))
#define T float
#define FN(name) name##_f32_avx2
#include "ddp/hook/matrix_loops.h"
#undef T
#undef FN
#define T double
#define FN(name) name##_f64_avx2
#include "ddp/hook/matrix_loops.h"
#undef T
#undef FN
#undef ATTR
#endif

const struct rdi_matrix_ops *rdi_matrix_ops(bool f64) {
#if defined(__x86_64__)
    if (strcmp(rdi_reduce_isa(), "c") != 0) {
        return f64 ? &ops_f64_avx2 : &ops_f32_avx2;
    }
#endif
    return f64 ? &ops_f64 : &ops_f32;
}
