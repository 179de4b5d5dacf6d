// SPDX-License-Identifier: MIT
#include "gpu.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool check(struct gpu *g, rdi_cu_result r, const char *what) {
    const char *name = NULL;
    if (r == RDI_CU_OK) {
        return true;
    }
    g->cu.error_name(r, &name);
    snprintf(g->why, sizeof g->why, "%s: %s (%d)", what, name != NULL ? name : "unknown error", r);
    return false;
}

static bool load(struct gpu *g) {
    const char *path = getenv("RONDO_CUDA_DRIVER");
    void *library = dlopen(path != NULL ? path : "libcuda.so.1", RTLD_NOW | RTLD_GLOBAL);
    if (library == NULL) {
        snprintf(g->why, sizeof g->why, "no CUDA driver: %s", dlerror());
        return false;
    }
    void *symbol;
#define LOAD(need, field, name, arguments)                                   \
    symbol = dlsym(library, #name);                                          \
    if (symbol == NULL && need) {                                            \
        snprintf(g->why, sizeof g->why, "the CUDA driver has no %s", #name); \
        return false;                                                        \
    }                                                                        \
    memcpy(&g->cu.field, &symbol, sizeof symbol);
    RDI_CUDA_FUNCTIONS(LOAD)
#undef LOAD
    return true;
}

bool gpu_sync(struct gpu *g) {
    return check(g, g->cu.stream_sync(g->stream), "cuStreamSynchronize") &&
           check(g, g->cu.stream_sync(g->second), "cuStreamSynchronize");
}

// ---- The side's memory ---------------------------------------------------------------------------

static void *alloc(struct side *s, size_t bytes) {
    struct gpu *g = s->state;
    rdi_cu_ptr p = 0;
    if (!check(g, g->cu.mem_alloc(&p, bytes), "cuMemAlloc")) {
        fprintf(stderr, "%zu bytes of device memory: %s\n", bytes, g->why);
    }
    return (void *)(uintptr_t)p;
}

static void release(struct side *s, void *p) {
    struct gpu *g = s->state;
    if (p != NULL) {
        g->cu.mem_free((rdi_cu_ptr)(uintptr_t)p);
    }
}

// Ordered with the stream, whose work does not wait for the default stream.
static bool put(struct side *s, void *to, const void *from, size_t bytes) {
    struct gpu *g = s->state;
    const rdi_cu_result r =
        g->cu.copy_to_device_async((rdi_cu_ptr)(uintptr_t)to, from, bytes, g->stream);
    return check(g, r, "cuMemcpyHtoDAsync") && gpu_sync(g);
}

static bool get(struct side *s, void *to, const void *from, size_t bytes) {
    struct gpu *g = s->state;
    const rdi_cu_result r =
        g->cu.copy_to_host_async(to, (rdi_cu_ptr)(uintptr_t)from, bytes, g->stream);
    return check(g, r, "cuMemcpyDtoHAsync") && gpu_sync(g);
}

// ---- Open, close ---------------------------------------------------------------------------------

static bool open_device(struct gpu *g) {
    const struct rdi_cuda_api *cu = &g->cu;
    rdi_cu_device device;
    int count = 0;
    if (!check(g, cu->init(0), "cuInit") ||
        !check(g, cu->device_count(&count), "cuDeviceGetCount")) {
        return false;
    }
    if (g->ordinal < 0 || g->ordinal >= count) {
        snprintf(g->why, sizeof g->why, "there is no device %d: there are %d", g->ordinal, count);
        return false;
    }
    return check(g, cu->device_get(&device, g->ordinal), "cuDeviceGet") &&
           check(g, cu->device_attribute(&g->major, RDI_CU_ATTR_COMPUTE_MAJOR, device),
                 "cuDeviceGetAttribute") &&
           check(g, cu->ctx_retain(&g->context, device), "cuDevicePrimaryCtxRetain") &&
           check(g, cu->ctx_push(g->context), "cuCtxPushCurrent") &&
           check(g, cu->stream_create(&g->stream, RDI_CU_STREAM_NON_BLOCKING, 0),
                 "cuStreamCreate") &&
           check(g, cu->stream_create(&g->second, RDI_CU_STREAM_NON_BLOCKING, 0), "cuStreamCreate");
}

bool gpu_open(struct gpu *g, const char *device, struct side *s) {
    memset(g, 0, sizeof *g);
    g->ordinal = strcmp(device, "rank") == 0 ? s->rank : atoi(device);
    if (!load(g) || !open_device(g)) {
        return false;
    }
    s->alloc = alloc;
    s->release = release;
    s->put = put;
    s->get = get;
    return true;
}

void gpu_close(struct gpu *g) {
    if (g->context != NULL) {
        g->cu.stream_destroy(g->stream);
        g->cu.stream_destroy(g->second);
    }
}
