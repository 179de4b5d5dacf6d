// SPDX-License-Identifier: MIT
// A CUDA device: opened and closed, its memory, its errors, and the host's waiting for it. One thread
// uses it, with the device's primary context current from gpt_cuda_open() to close(); everything is
// enqueued on one stream.
#include "gpt_cuda.h"

#include <stdio.h>
#include <stdlib.h>

// The kernels, compiled by nvcc (cuda.cmake); absent from a build without it.
extern const unsigned char gpt_kernels_image[] __attribute__((weak));

enum { OUT_OF_MEMORY = 2, STUB = 34, NO_DEVICE = 100 }; // answers of the driver
enum { NON_BLOCKING = 1, DISABLE_TIMING = 2 };          // flags of streams, events
enum { PEDANTIC = 2 };                                  // cuBLAS: float is float, not TF32

static struct gpt_cuda *of(struct gpt_device *d) { return (struct gpt_cuda *)d; }

static gpt_address address(const void *p) { return (uintptr_t)p; }

// ---- Errors -------------------------------------------------------------------------------------

bool gpt_cuda_ok(struct gpt_cuda *g, int error, const char *doing) {
    const char *name = NULL, *text = NULL;
    if (error && !*g->error.text) {
        (void)g->cu.error_name(error, &name);
        (void)g->cu.error_string(error, &text);
        gpt_fail(&g->error, "CUDA device %d: %s: %s (%s)", g->device.ordinal, doing,
                 name ? name : "unknown error", text ? text : "the driver has no text for it");
    }
    return !error;
}

bool gpt_blas_ok(struct gpt_cuda *g, int error) {
    if (error && !*g->error.text) {
        gpt_fail(&g->error, "CUDA device %d: cuBLAS fails with status %d", g->device.ordinal,
                 error);
    }
    return !error;
}

// Tells of the first error, if there was one.
static bool told(const struct gpt_cuda *g, struct gpt_error *e) {
    return !*g->error.text || gpt_fail(e, "%.511s", g->error.text);
}

// ---- Memory -------------------------------------------------------------------------------------

// Only a lack of memory is no error to keep: the caller says what it was for.
static void *allocate(struct gpt_cuda *g, size_t bytes) {
    gpt_address p = 0;
    const int error = g->cu.allocate(&p, bytes);
    if (error != OUT_OF_MEMORY) {
        gpt_cuda_ok(g, error, "allocating memory");
    }
    return error ? NULL : (void *)(uintptr_t)p;
}

static float *cuda_allocate(struct gpt_device *d, size_t count) {
    return allocate(of(d), count * sizeof(float));
}

static float *cuda_place(struct gpt_device *d, float *host, size_t count) {
    (void)host;
    return cuda_allocate(d, count);
}

static void cuda_release(struct gpt_device *d, void *p) {
    struct gpt_cuda *g = of(d);
    if (p) {
        gpt_cuda_ok(g, g->cu.stream_wait(d->stream), "waiting");
        gpt_cuda_ok(g, g->cu.release(address(p)), "freeing memory");
    }
}

float *gpt_cuda_scratch(struct gpt_cuda *g, size_t count) {
    if (count > g->scratch_count) {
        cuda_release(&g->device, g->scratch);
        g->scratch = cuda_allocate(&g->device, count);
        g->scratch_count = g->scratch ? count : 0;
        if (!g->scratch) {
            gpt_cuda_ok(g, OUT_OF_MEMORY, "allocating memory");
        }
    }
    return g->scratch;
}

static void cuda_zero(struct gpt_device *d, float *x, size_t count) {
    struct gpt_cuda *g = of(d);
    gpt_cuda_ok(g, g->cu.set(address(x), 0, count * sizeof *x, d->stream), "clearing memory");
}

static void cuda_upload(struct gpt_device *d, void *to, const void *host, size_t bytes) {
    struct gpt_cuda *g = of(d);
    gpt_cuda_ok(g, g->cu.upload(address(to), host, bytes, d->stream), "copying to the device");
}

static void cuda_fetch(struct gpt_device *d, void *host, const void *from, size_t bytes) {
    struct gpt_cuda *g = of(d);
    gpt_cuda_ok(g, g->cu.fetch(host, address(from), bytes, d->stream), "copying from the device");
}

// ---- Waiting ------------------------------------------------------------------------------------

static bool cuda_loss(struct gpt_device *d, double *sum, struct gpt_error *e) {
    struct gpt_cuda *g = of(d);
    gpt_cuda_ok(g, g->cu.event_wait(g->loss_known), "computing the loss");
    *sum = g->results->loss;
    return told(g, e);
}

static bool cuda_norm(struct gpt_device *d, double *norm, struct gpt_error *e) {
    struct gpt_cuda *g = of(d);
    gpt_cuda_ok(g, g->cu.event_wait(g->norm_known), "computing gradients");
    *norm = g->results->norm;
    return told(g, e);
}

static bool cuda_wait(struct gpt_device *d, struct gpt_error *e) {
    struct gpt_cuda *g = of(d);
    gpt_cuda_ok(g, g->cu.stream_wait(d->stream), "computing");
    return told(g, e);
}

// ---- Opening ------------------------------------------------------------------------------------

static bool choose(struct gpt_cuda *g, int local_rank) {
    const int error = g->cu.init(0);
    int devices = 0;
    if (error == STUB) {
        return gpt_fail(&g->error,
                        "--device cuda: libcuda.so.1 is the toolkit's stub: install the driver");
    }
    if (error != NO_DEVICE && (!gpt_cuda_ok(g, error, "starting the driver") ||
                               !gpt_cuda_ok(g, g->cu.device_count(&devices), "counting devices"))) {
        return false;
    }
    if (devices < 1) {
        return gpt_fail(&g->error, "--device cuda: there is no device; see CUDA_VISIBLE_DEVICES");
    }
    char name[64] = "";
    g->device.ordinal = local_rank % devices;
    if (!gpt_cuda_ok(g, g->cu.device_get(&g->gpu, g->device.ordinal), "choosing a device") ||
        !gpt_cuda_ok(g, g->cu.device_name(name, sizeof name, g->gpu), "choosing a device")) {
        return false;
    }
    g->devices = devices;
    snprintf(g->device.name, sizeof g->device.name, "CUDA device %d, %s", g->device.ordinal, name);
    return true;
}

static bool load_kernels(struct gpt_cuda *g) {
#define NAME(kind, name) "gpt_" #name,
    static const char *const names[] = {GPT_KERNELS(NAME)};
#undef NAME
    if (!gpt_cuda_ok(g, g->cu.module_load(&g->module, gpt_kernels_image), "loading kernels")) {
        return false;
    }
    for (size_t i = 0; i < GPT_KERNEL_COUNT; i++) {
        if (!gpt_cuda_ok(g, g->cu.module_function(&g->kernel[i], g->module, names[i]), names[i])) {
            return false;
        }
    }
    return true;
}

static bool start_blas(struct gpt_cuda *g) {
    return gpt_blas_ok(g, g->blas.create(&g->handle)) &&
           gpt_blas_ok(g, g->blas.set_stream(g->handle, g->device.stream)) &&
           gpt_blas_ok(g, g->blas.set_math(g->handle, PEDANTIC));
}

// Everything but the libraries. What was made is left for close() when this fails.
static bool start(struct gpt_cuda *g, int local_rank) {
    const struct gpt_driver *cu = &g->cu;
    const size_t parts = GPT_PARTS * sizeof *g->part;
    void *context = NULL;
    if (!choose(g, local_rank) ||
        !gpt_cuda_ok(g, cu->context_retain(&context, g->gpu), "taking its context")) {
        return false;
    }
    g->context = context;
    if (!gpt_cuda_ok(g, cu->context_push(context), "taking its context") || !load_kernels(g) ||
        !gpt_cuda_ok(g, cu->stream_create(&g->device.stream, NON_BLOCKING, 0), "a stream") ||
        !gpt_cuda_ok(g, cu->event_create(&g->loss_known, DISABLE_TIMING), "an event") ||
        !gpt_cuda_ok(g, cu->event_create(&g->norm_known, DISABLE_TIMING), "an event") ||
        !gpt_cuda_ok(g, cu->host_allocate((void **)&g->results, sizeof *g->results, 0),
                     "allocating host memory")) {
        return false;
    }
    g->there = allocate(g, sizeof *g->there);
    g->part = allocate(g, parts);
    return gpt_cuda_ok(g, g->there && g->part ? 0 : OUT_OF_MEMORY, "allocating memory") &&
           gpt_cuda_ok(g, cu->set(address(g->part), 0, parts, g->device.stream), "clearing") &&
           start_blas(g);
}

// Also of a device that did not open.
static void cuda_close(struct gpt_device *d) {
    struct gpt_cuda *g = of(d);
    const struct gpt_driver *cu = &g->cu;
    if (g->context) {
        if (d->stream) {
            cuda_release(d, g->scratch);
            cuda_release(d, g->part);
            cuda_release(d, g->there);
        }
        if (g->handle) {
            (void)g->blas.destroy(g->handle);
        }
        if (g->results) {
            (void)cu->host_release(g->results);
        }
        if (g->loss_known) {
            (void)cu->event_destroy(g->loss_known);
        }
        if (g->norm_known) {
            (void)cu->event_destroy(g->norm_known);
        }
        if (d->stream) {
            (void)cu->stream_destroy(d->stream);
        }
        if (g->module) {
            (void)cu->module_unload(g->module);
        }
        void *popped;
        (void)cu->context_pop(&popped);
        (void)cu->context_release(g->gpu);
    }
    free(g);
}

struct gpt_device *gpt_cuda_open(int local_rank, struct gpt_error *e) {
    static struct gpt_operations does = {
        .at_once = true,
        .close = cuda_close,
        .allocate = cuda_allocate,
        .place = cuda_place,
        .release = cuda_release,
        .zero = cuda_zero,
        .upload = cuda_upload,
        .fetch = cuda_fetch,
        .loss = cuda_loss,
        .norm = cuda_norm,
        .wait = cuda_wait,
    };
    if (!gpt_kernels_image) {
        gpt_fail(e,
                 "--device cuda: this build has no kernels: nvcc was not there when it was made");
        return NULL;
    }
    struct gpt_cuda *g = calloc(1, sizeof *g);
    if (!g) {
        gpt_fail(e, "no memory for a device");
        return NULL;
    }
    gpt_cuda_fill(&does);
    g->device.does = &does;
    if (!gpt_cuda_load(&g->cu, &g->blas, e)) {
        free(g);
        return NULL;
    }
    if (!start(g, local_rank)) {
        (void)told(g, e);
        cuda_close(&g->device);
        return NULL;
    }
    return &g->device;
}

int gpt_cuda_count(struct gpt_device *d) { return of(d)->devices; }
