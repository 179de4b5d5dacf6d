// SPDX-License-Identifier: MIT
// The kernels of ring/cuda/step.h: ring/cuda/body.h for devices. Compiled with -fmad=false, IEEE division and
// denormals, so that they have the host's bits.
#include "ring/cuda/body.h"

static __device__ __forceinline__ uint32_t thread_of_grid() {
    return blockIdx.x * blockDim.x + threadIdx.x;
}

static __device__ __forceinline__ struct rdi_piece my_piece(const struct rdi_gpu_step &s) {
    return rdi_piece_of(s, thread_of_grid(), gridDim.x * blockDim.x);
}

// What all walkers share. A step travels from thread 0 to its block through shared memory.
struct block_state {
    struct rdi_gpu_step step;
    struct rdi_walk walk; // thread 0's
    bool alive;
};

static __device__ __noinline__ void walk_begin(struct block_state *b,
                                               const struct rdi_gpu_step *steps, uint32_t k) {
    if (threadIdx.x == 0) {
        b->step = steps[k];
        b->alive = rdi_walk_before(&b->walk, k, b->step, k == 0 || b->alive);
    }
    __syncthreads();
}

static __device__ __noinline__ void walk_end(const struct block_state *b, uint32_t k) {
    __syncthreads();
    if (threadIdx.x == 0) {
        rdi_walk_after(&b->walk, k);
    }
}

#define KERNELS(op, t)                                                                    \
    extern "C" __global__ void __launch_bounds__(RDI_STEP_BLOCK)                          \
        rdi_step_##op##_##t(const struct rdi_gpu_step step) {                             \
        rdi_piece_##op##_##t(my_piece(step));                                             \
    }                                                                                     \
    extern "C" __global__ void __launch_bounds__(RDI_STEP_BLOCK) rdi_walk_##op##_##t(     \
        const struct rdi_gpu_step *steps, uint32_t n, uint32_t *done, uint32_t *arrive) { \
        __shared__ struct block_state b;                                                  \
        if (threadIdx.x == 0) {                                                           \
            b.walk = {(uint64_t)done, (uint64_t)arrive, n, gridDim.x};                    \
        }                                                                                 \
        for (uint32_t k = 0; k < n; k++) {                                                \
            walk_begin(&b, steps, k);                                                     \
            if (b.alive) {                                                                \
                rdi_piece_##op##_##t(my_piece(b.step));                                   \
            }                                                                             \
            walk_end(&b, k);                                                              \
        }                                                                                 \
    }
RDI_FOR_KERNELS(KERNELS)
