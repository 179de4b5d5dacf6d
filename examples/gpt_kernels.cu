// SPDX-License-Identifier: MIT
// The kernels of train_gpt: gpt_kernels_body.h for devices. A grid may be smaller than the work.
#include "gpt_kernels_body.h"

#define element_threads 1
#define row_threads GPT_WARP

#define KERNEL(kind, name)                                                              \
    extern "C" __global__ void __launch_bounds__(GPT_BLOCK)                             \
        gpt_##name(const struct gpt_##name##_args a) {                                  \
        const uint64_t thread = (uint64_t)blockIdx.x * blockDim.x + threadIdx.x;        \
        const uint64_t step = (uint64_t)gridDim.x * blockDim.x / kind##_threads;        \
        for (uint64_t i = thread / kind##_threads; i < a.count; i += step) {            \
            gpt_do_##name(&a, i);                                                       \
        }                                                                               \
    }
GPT_KERNELS(KERNEL)
