// SPDX-License-Identifier: MIT
// Pinned memory for the flags and steps of operations. It is kept by size: pinning is slow, and may wait for the
// device.
#include "ring/cuda/gpu.h"

#include <stdlib.h>
#include <string.h>

#define SMALLEST 4096u
#define READY 16u      // made by attach, of four sizes
#define COUNTERS 8192u // operations in flight at most

rondo_status rdi_gpu_words_open(struct rdi_gpu *g) {
    const struct rdi_cuda_api *cu = g->device->cu;
    rdi_cu_result r = cu->mem_alloc(&g->counters, COUNTERS * sizeof(uint32_t));
    if (r == RDI_CU_OK) {
        r = cu->set_async(g->counters, 0, COUNTERS * sizeof(uint32_t), g->own);
        r = r == RDI_CU_OK ? cu->stream_sync(g->own) : r;
    }
    if (r != RDI_CU_OK) {
        return rdi_cuda_fail(r, "cannot make counters on CUDA device %d", g->device->ordinal);
    }
    // To pin memory may wait for the device, too: what the first operations need is made now.
    struct rdi_gpu_words *w[READY] = {NULL};
    rondo_status s = RONDO_OK;
    for (unsigned i = 0; i < READY && s == RONDO_OK; i++) {
        s = rdi_gpu_words_get(g, (size_t)SMALLEST << i % 4, &w[i]);
    }
    for (unsigned i = 0; i < READY && w[i]; i++) {
        rdi_gpu_words_put(g, w[i]);
    }
    return s;
}

rondo_status rdi_gpu_words_get(struct rdi_gpu *g, size_t bytes, struct rdi_gpu_words **out) {
    unsigned class = 0;
    while (class < RDI_GPU_WORD_CLASSES && (size_t)SMALLEST << class < bytes) {
        class ++;
    }
    if (class == RDI_GPU_WORD_CLASSES) {
        return rdi_fail(RONDO_ERR_INVALID,
                        "the operation has too many steps (%zu bytes of them); cut it in several",
                        bytes);
    }
    struct rdi_gpu_words *w = g->spare[class];
    if (w) {
        g->spare[class] = w->next;
        *out = w;
        return RONDO_OK;
    }
    rondo_status s = RONDO_OK;
    if (g->ncounters == COUNTERS) {
        s = rdi_fail(RONDO_ERR_NOMEM, "%u operations are under way on this communicator's device",
                     COUNTERS);
    }
    w = s == RONDO_OK ? calloc(1, sizeof *w) : NULL;
    if (s == RONDO_OK && !w) {
        s = rdi_fail(RONDO_ERR_NOMEM, "out of memory for an operation's flags");
    }
    if (s == RONDO_OK) {
        s = rdi_cuda_pinned_alloc(g->device, (size_t)SMALLEST << class, &w->memory);
    }
    if (s != RONDO_OK) {
        free(w);
        return s;
    }
    w->class = class;
    w->arrive = g->counters + sizeof(uint32_t) * g->ncounters++;
    *out = w;
    return RONDO_OK;
}

void rdi_gpu_words_put(struct rdi_gpu *g, struct rdi_gpu_words *w) {
    w->next = g->spare[w->class];
    g->spare[w->class] = w;
}
