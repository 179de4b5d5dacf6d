// SPDX-License-Identifier: MIT
// What the files of gpu_kernels share: every kernel on a device against the host's arithmetic, and how fast it is.
#ifndef GPU_KERNELS_H
#define GPU_KERNELS_H

#include "ring/cuda/step.h"
#include "ring/reduce.h"
#include "transport/cuda/cuda.h"

#include <stdlib.h>

struct gpu {
    struct rdi_cuda_device *device;
    const struct rdi_cuda_api *cu;
    rdi_cu_stream stream;
};

// Says what failed and exits: a program for people and for tests/gpu/run, not a library.
void give_up(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));
#define CU(call)                                                                \
    do {                                                                        \
        rdi_cu_result r_ = (call);                                              \
        if (r_ != RDI_CU_OK) {                                                  \
            give_up("%s:%d: %s: CUDA error %d", __FILE__, __LINE__, #call, r_); \
        }                                                                       \
    } while (0)

const char *op_text(rondo_op op);
const char *type_text(rondo_type type);
rdi_cu_function kernel(struct gpu *g, bool walk, rondo_op op, rondo_type type);
// One launch of a step.
void launch_step(struct gpu *g, rdi_cu_function f, const struct rdi_gpu_step *s, unsigned blocks,
                 unsigned threads);

// Pinned host memory, by the host's address and by the device's.
struct pinned {
    unsigned char *host;
    rdi_cu_ptr device;
};
struct pinned pinned_new(struct gpu *g, size_t bytes);
void pinned_free(struct gpu *g, struct pinned p);

// Each returns the number of checks; what is wrong ends the program.
unsigned check_steps(struct gpu *g, size_t count);
unsigned check_eights(struct gpu *g);
unsigned check_walks(struct gpu *g, uint32_t steps, size_t count);

// Prints "bandwidth": [...] of a JSON object; returns the least share of the copy's bandwidth at the largest size
// with the largest grid.
double measure(struct gpu *g, size_t most, int rounds);

#endif
