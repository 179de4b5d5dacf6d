// SPDX-License-Identifier: MIT
// How device memory travels from one rank to another: the one place that decides, from facts that others gathered.
#include "ring/cuda/gpu.h"

#include <stdio.h>
#include <string.h>

const char *rdi_gpu_reach_name(enum rdi_gpu_reach r) {
    static const char *const names[] = {"none", "memory", "direct", "staged"};
    return names[r];
}

static const char *memory_reason(const struct rdi_gpu_facts *f) {
    if (f->same_process) {
        return f->same_device ? "same process, same device" : "same process, peer access";
    }
    return f->same_device ? "same host, same device, CUDA IPC" : "same host, CUDA IPC";
}

enum rdi_gpu_reach rdi_gpu_choose(const struct rdi_gpu_facts *f, char *reason, size_t cap) {
    const char *no_memory = f->why_memory;
    if (!*no_memory && !f->same_process && !f->same_host) {
        no_memory = "another host";
    }
    bool automatic = strcmp(f->forced, "auto") == 0;
    if ((automatic || strcmp(f->forced, "memory") == 0) && !*no_memory) {
        snprintf(reason, cap, "%s", memory_reason(f));
        return RDI_REACH_MEMORY;
    }
    if ((automatic || strcmp(f->forced, "direct") == 0) && !*f->why_direct) {
        snprintf(reason, cap, "GPUDirect RDMA over %s%s%s", f->wire,
                 automatic ? "; not in place: " : "", automatic ? no_memory : "");
        return RDI_REACH_DIRECT;
    }
    if (automatic || strcmp(f->forced, "staged") == 0) {
        snprintf(reason, cap, "pinned host memory over %s%s%s%s%s", f->wire,
                 automatic ? "; not in place: " : "", automatic ? no_memory : "",
                 automatic ? "; not GPUDirect: " : "; by option cuda_reach",
                 automatic ? f->why_direct : "");
        return RDI_REACH_STAGED;
    }
    snprintf(reason, cap, "cuda_reach=%s does not work here: %s", f->forced,
             strcmp(f->forced, "memory") == 0 ? no_memory : f->why_direct);
    return RDI_REACH_NONE;
}
