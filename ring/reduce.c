// SPDX-License-Identifier: MIT
// Chooses the kernels for this processor, and builds the folds of several sources out of them: block by
// block, with the running result in the first-level cache, so that memory is passed over once.
#include "ring/reduce.h"

#include <stdatomic.h>
#include <string.h>

#include "ring/reduce_kernels.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

// Bytes of a running result; with a source beside it, well inside any first-level cache.
enum { BLOCK_BYTES = 4096 };

// ---- Choice of the instruction set ---------------------------------------------------------------

#if defined(__x86_64__)
static bool has_f16c(void) {
    unsigned eax, ebx, ecx, edx;
    return __get_cpuid(1, &eax, &ebx, &ecx, &edx) && (ecx & bit_F16C) != 0;
}

static bool has_avx2(void) { return __builtin_cpu_supports("avx2") && has_f16c(); }

static bool has_avx512(void) {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
#endif

static bool always(void) { return true; }

static const struct variant {
    const struct rdi_kernels *kernels;
    bool (*usable)(void);
} variants[] = {
// Best first.
#if defined(__x86_64__)
    {&rdi_kernels_avx512, has_avx512},
    {&rdi_kernels_avx2, has_avx2},
#elif defined(__aarch64__)
    {&rdi_kernels_neon, always},
#endif
    {&rdi_kernels_c, always},
};

// What every call uses; NULL until the first one. Threads that meet here at once find the same answer, so a
// plain atomic pointer to constant tables is enough.
static _Atomic(const struct rdi_kernels *) chosen;

static const struct rdi_kernels *best(void) {
    const struct variant *v = variants;
    while (!v->usable()) {
        v++;
    }
    return v->kernels;
}

static const struct rdi_kernels *kernels(void) {
    const struct rdi_kernels *k = atomic_load_explicit(&chosen, memory_order_relaxed);
    if (k == NULL) {
        k = best();
        atomic_store_explicit(&chosen, k, memory_order_relaxed);
    }
    return k;
}

const char *rdi_reduce_isa(void) { return kernels()->name; }

bool rdi_reduce_select(const char *isa) {
    if (isa == NULL) {
        atomic_store_explicit(&chosen, best(), memory_order_relaxed);
        return true;
    }
    for (size_t i = 0; i < sizeof variants / sizeof variants[0]; i++) {
        if (strcmp(isa, variants[i].kernels->name) == 0 && variants[i].usable()) {
            atomic_store_explicit(&chosen, variants[i].kernels, memory_order_relaxed);
            return true;
        }
    }
    return false;
}

// ---- Reductions ----------------------------------------------------------------------------------

bool rdi_type_is_float(rondo_type type) {
    return type == RONDO_F32 || type == RONDO_F64 || type == RONDO_F16 || type == RONDO_BF16 ||
           type == RONDO_F8E4M3 || type == RONDO_F8E5M2;
}

size_t rdi_type_size(rondo_type type) {
    static const unsigned char sizes[RONDO_TYPE_COUNT] = {
        [RONDO_F32] = 4, [RONDO_F64] = 8, [RONDO_F16] = 2,    [RONDO_BF16] = 2,
        [RONDO_I8] = 1,  [RONDO_U8] = 1,  [RONDO_I32] = 4,    [RONDO_U32] = 4,
        [RONDO_I64] = 8, [RONDO_U64] = 8, [RONDO_F8E4M3] = 1, [RONDO_F8E5M2] = 1,
    };
    return (unsigned)type < RONDO_TYPE_COUNT ? sizes[type] : 0;
}

static rdi_kernel2 *reduce_kernel(rondo_type type, rondo_op op) {
    return kernels()->reduce[type][op == RONDO_AVG ? RONDO_SUM : op];
}

static size_t at_most(size_t a, size_t b) { return a < b ? a : b; }

void rdi_reduce2(void *dst, const void *a, const void *b, size_t count, rondo_type type,
                 rondo_op op) {
    if (count != 0) {
        reduce_kernel(type, op)(dst, a, b, count);
    }
}

void rdi_reduce2_to2(void *dst1, void *dst2, const void *a, const void *b, size_t count,
                     rondo_type type, rondo_op op) {
    rdi_kernel2 *reduce = reduce_kernel(type, op);
    const size_t size = rdi_type_size(type);
    for (size_t n; count != 0; count -= n) {
        n = at_most(count, BLOCK_BYTES / size);
        reduce(dst1, a, b, n);
        memcpy(dst2, dst1, n * size);
        dst1 = (char *)dst1 + n * size;
        dst2 = (char *)dst2 + n * size;
        a = (const char *)a + n * size;
        b = (const char *)b + n * size;
    }
}

// Row of rdi_kernels.fold; -1 for types that f32 does not hold, or that it is.
static int narrow_row(rondo_type type) {
    switch (type) {
    case RONDO_F16:
        return 0;
    case RONDO_BF16:
        return 1;
    case RONDO_F8E4M3:
        return 2;
    case RONDO_F8E5M2:
        return 3;
    default:
        return -1;
    }
}

void rdi_reduce_n(void *dst, const void *const *src, unsigned nsrc, size_t count, rondo_type type,
                  rondo_op op, bool strict) {
    const size_t size = rdi_type_size(type);
    if (count == 0) {
        return;
    }
    if (nsrc == 1) {
        memmove(dst, src[0], count * size);
        return;
    }
    rdi_kernel2 *reduce = reduce_kernel(type, op);
    if (nsrc == 2) {
        reduce(dst, src[0], src[1], count);
        return;
    }
    struct rdi_fold_kernels fold = {reduce, reduce, reduce};
    size_t running = size; // bytes of an element between the first operation and the last
    if (!strict && narrow_row(type) >= 0 && op != RONDO_MIN && op != RONDO_MAX) {
        fold = kernels()->fold[narrow_row(type)][op == RONDO_PROD];
        running = sizeof(float);
    }
    // dst may be a source, even the last one: it is written by the block's last operation.
    _Alignas(64) unsigned char acc[BLOCK_BYTES];
    for (size_t n, done = 0; done < count; done += n) {
        n = at_most(count - done, BLOCK_BYTES / running);
        const size_t at = done * size;
        fold.first(acc, (const char *)src[0] + at, (const char *)src[1] + at, n);
        for (unsigned i = 2; i + 1 < nsrc; i++) {
            fold.next(acc, acc, (const char *)src[i] + at, n);
        }
        fold.last((char *)dst + at, acc, (const char *)src[nsrc - 1] + at, n);
    }
}

// ---- Division and scaling ------------------------------------------------------------------------

// No processor divides vectors of 64-bit integers, and a double does not hold them.
static void divide_i64(unsigned char *x, size_t count, uint64_t n) {
    for (size_t i = 0; i < count; i++, x += sizeof(int64_t)) {
        int64_t v;
        memcpy(&v, x, sizeof v);
        const uint64_t magnitude = (v < 0 ? 0 - (uint64_t)v : (uint64_t)v) / n;
        v = v < 0 ? -(int64_t)magnitude : (int64_t)magnitude;
        memcpy(x, &v, sizeof v);
    }
}

static void divide_u64(unsigned char *x, size_t count, uint64_t n) {
    for (size_t i = 0; i < count; i++, x += sizeof(uint64_t)) {
        uint64_t v;
        memcpy(&v, x, sizeof v);
        v /= n;
        memcpy(x, &v, sizeof v);
    }
}

void rdi_divide(void *x, size_t count, rondo_type type, uint64_t n) {
    if (count == 0 || n <= 1) {
        return;
    }
    if (type == RONDO_I64) {
        divide_i64(x, count, n);
    } else if (type == RONDO_U64) {
        divide_u64(x, count, n);
    } else {
        kernels()->divide[type](x, x, count, (double)n);
    }
}

bool rdi_scale_copy(void *dst, const void *src, size_t count, rondo_type type, double scale) {
    rdi_kernel1 *kernel = kernels()->scale[type];
    if (__builtin_isnan(scale)) {
        scale = __builtin_nan(""); // the kernels need a NaN without a payload
    }
    if (kernel != NULL && count != 0) {
        kernel(dst, src, count, scale);
    }
    return kernel != NULL;
}
