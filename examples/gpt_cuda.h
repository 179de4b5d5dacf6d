// SPDX-License-Identifier: MIT
// A CUDA device, inside: the driver and cuBLAS as far as the example uses them, declared here and
// loaded at run time, so that the example builds and runs where there is neither.
//
// Source of the declarations: "CUDA Driver API Reference Manual" and "cuBLAS Library User Guide".
#ifndef GPT_CUDA_H
#define GPT_CUDA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "gpt_device.h"
#include "gpt_kernels.h"

typedef unsigned long long gpt_address; // CUdeviceptr

// X(name, symbol, arguments); all return 0 when they succeed. Contexts, streams, events, modules and
// functions are pointers.
#define GPT_DRIVER(X)                                                                           \
    X(init, cuInit, (unsigned flags))                                                           \
    X(error_name, cuGetErrorName, (int error, const char **name))                               \
    X(error_string, cuGetErrorString, (int error, const char **text))                           \
    X(device_count, cuDeviceGetCount, (int *n))                                                 \
    X(device_get, cuDeviceGet, (int *device, int ordinal))                                      \
    X(device_name, cuDeviceGetName, (char *name, int size, int device))                         \
    X(context_retain, cuDevicePrimaryCtxRetain, (void **context, int device))                   \
    X(context_release, cuDevicePrimaryCtxRelease_v2, (int device))                              \
    X(context_push, cuCtxPushCurrent_v2, (void *context))                                       \
    X(context_pop, cuCtxPopCurrent_v2, (void **context))                                        \
    X(module_load, cuModuleLoadData, (void **module, const void *image))                        \
    X(module_unload, cuModuleUnload, (void *module))                                            \
    X(module_function, cuModuleGetFunction, (void **function, void *module, const char *name))  \
    X(launch, cuLaunchKernel,                                                                   \
      (void *function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by,         \
       unsigned bz, unsigned shared, void *stream, void **arguments, void **extra))             \
    X(allocate, cuMemAlloc_v2, (gpt_address * p, size_t bytes))                                 \
    X(release, cuMemFree_v2, (gpt_address p))                                                   \
    X(host_allocate, cuMemHostAlloc, (void **p, size_t bytes, unsigned flags))                  \
    X(host_release, cuMemFreeHost, (void *p))                                                   \
    X(upload, cuMemcpyHtoDAsync_v2,                                                             \
      (gpt_address to, const void *from, size_t bytes, void *stream))                           \
    X(fetch, cuMemcpyDtoHAsync_v2, (void *to, gpt_address from, size_t bytes, void *stream))    \
    X(set, cuMemsetD8Async, (gpt_address to, unsigned char value, size_t bytes, void *stream))  \
    X(stream_create, cuStreamCreateWithPriority, (void **stream, unsigned flags, int priority)) \
    X(stream_destroy, cuStreamDestroy_v2, (void *stream))                                       \
    X(stream_wait, cuStreamSynchronize, (void *stream))                                         \
    X(event_create, cuEventCreate, (void **event, unsigned flags))                              \
    X(event_destroy, cuEventDestroy_v2, (void *event))                                          \
    X(event_record, cuEventRecord, (void *event, void *stream))                                 \
    X(event_wait, cuEventSynchronize, (void *event))

#define GPT_BLAS(X)                                                                           \
    X(create, cublasCreate_v2, (void **handle))                                               \
    X(destroy, cublasDestroy_v2, (void *handle))                                              \
    X(set_stream, cublasSetStream_v2, (void *handle, void *stream))                           \
    X(set_math, cublasSetMathMode, (void *handle, int mode))                                  \
    X(sgemm, cublasSgemm_v2,                                                                  \
      (void *handle, int ta, int tb, int m, int n, int k, const float *alpha, const float *a, \
       int lda, const float *b, int ldb, const float *beta, float *c, int ldc))               \
    X(sgemm_batch, cublasSgemmStridedBatched,                                                 \
      (void *handle, int ta, int tb, int m, int n, int k, const float *alpha, const float *a, \
       int lda, long long stride_a, const float *b, int ldb, long long stride_b,              \
       const float *beta, float *c, int ldc, long long stride_c, int count))

#define GPT_FIELD(name, symbol, arguments) int(*name) arguments;
struct gpt_driver {
    GPT_DRIVER(GPT_FIELD)
};
struct gpt_blas {
    GPT_BLAS(GPT_FIELD)
};
#undef GPT_FIELD

enum gpt_kernel {
#define GPT_NAME(kind, name) GPT_KERNEL_##name,
    GPT_KERNELS(GPT_NAME)
#undef GPT_NAME
        GPT_KERNEL_COUNT
};

struct gpt_cuda {
    struct gpt_device device; // first: the table's functions get its address
    struct gpt_driver cu;
    struct gpt_blas blas;
    int gpu;     // the driver's handle
    int devices; // that it sees
    void *context, *module, *kernel[GPT_KERNEL_COUNT], *handle;
    void *loss_known, *norm_known;       // events
    struct gpt_results *results, *there; // pinned host memory; the device's
    double *part;                        // GPT_PARTS sums of squares
    float *scratch;                      // of one operation, then of the next
    size_t scratch_count;
    struct gpt_error error; // the first; empty while there is none
};

// Loads the two libraries. They stay loaded.
bool gpt_cuda_load(struct gpt_driver *cu, struct gpt_blas *blas, struct gpt_error *e);

// Notes that `doing` failed, unless the driver's answer is 0 or something failed before.
bool gpt_cuda_ok(struct gpt_cuda *g, int error, const char *doing);
bool gpt_blas_ok(struct gpt_cuda *g, int error);

// Room for `count` floats until the next call of this function; NULL if there is none, noted.
float *gpt_cuda_scratch(struct gpt_cuda *g, size_t count);

// The model and the optimizer of the table (gpt_cuda_math.c).
void gpt_cuda_fill(struct gpt_operations *does);

#endif
