// SPDX-License-Identifier: MIT
// Device memory and streams for the sides that work there: the driver found at run time (RONDO_CUDA_DRIVER names
// another file than libcuda.so.1), apart from the library's own way to it.
#ifndef NCCL_TEST_GPU_H
#define NCCL_TEST_GPU_H

#include "side.h"
#include "transport/cuda/driver.h"

struct gpu {
    struct rdi_cuda_api cu;
    int ordinal, major; // compute capability
    rdi_cu_ctx context; // the device's primary one, current on the thread that opened it
    rdi_cu_stream stream, second;
    char why[256]; // after a failure
};

// `device`: an ordinal, or "rank". Makes the side's memory device memory. False with g->why.
bool gpu_open(struct gpu *g, const char *device, struct side *s);
void gpu_close(struct gpu *g);
// Waits for both streams.
bool gpu_sync(struct gpu *g);

#endif
