// SPDX-License-Identifier: MIT
// Devices: each opened once per process and kept. The primary context is what the CUDA runtime and PyTorch use,
// too, so pointers, streams and events can be shared with the application.
#include "transport/cuda/cuda.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

static _Atomic(struct rdi_cuda_device *) devices[RDI_CUDA_MAX_DEVICES];
static struct rdi_cuda_device memory[RDI_CUDA_MAX_DEVICES];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static int attribute(const struct rdi_cuda_device *d, int what) {
    int value = 0;
    return d->cu->device_attribute(&value, what, d->device) == RDI_CU_OK ? value : 0;
}

static void load_kernels(struct rdi_cuda_device *d) {
    if (rdi_cuda_image_size == 0) {
        snprintf(d->why, sizeof d->why,
                 "this build of Rondo has no CUDA kernels; build it where nvcc is");
        return;
    }
    rdi_cu_result r = d->cu->module_load(&d->module, rdi_cuda_image);
    if (r != RDI_CU_OK) {
        const char *name = NULL;
        (void)d->cu->error_name(r, &name);
        snprintf(d->why, sizeof d->why,
                 "the kernels cannot be loaded on CUDA device %d (compute capability %d.%d): %s; "
                 "they need 8.0 or later and a driver as new as the toolkit they were built with",
                 d->ordinal, d->major, d->minor, name ? name : "unknown error");
        d->module = NULL;
    }
}

static rondo_status describe(struct rdi_cuda_device *d) {
    rdi_cu_result r = d->cu->device_name(d->name, sizeof d->name, d->device);
    r = r == RDI_CU_OK ? d->cu->device_pci(d->pci, sizeof d->pci, d->device) : r;
    r = r == RDI_CU_OK ? d->cu->device_uuid(&d->uuid, d->device) : r;
    if (r != RDI_CU_OK) {
        return rdi_cuda_fail(r, "CUDA device %d does not say what it is", d->ordinal);
    }
    d->multiprocessors = attribute(d, RDI_CU_ATTR_MULTIPROCESSORS);
    d->major = attribute(d, RDI_CU_ATTR_COMPUTE_MAJOR);
    d->minor = attribute(d, RDI_CU_ATTR_COMPUTE_MINOR);
    d->can_flush = attribute(d, RDI_CU_ATTR_CAN_FLUSH_REMOTE_WRITES) != 0;
    d->ordered = attribute(d, RDI_CU_ATTR_GDR_ORDERING) >= 100;
    d->gdr = attribute(d, RDI_CU_ATTR_GDR) != 0;
    d->dmabuf = attribute(d, RDI_CU_ATTR_DMA_BUF) != 0 && d->cu->mem_dmabuf != NULL;
    d->vmm = attribute(d, RDI_CU_ATTR_VMM) != 0 && d->cu->vmm_create != NULL &&
             d->cu->vmm_import != NULL;
    d->posix_fd = d->vmm && attribute(d, RDI_CU_ATTR_POSIX_FD) != 0;
    return RONDO_OK;
}

static rondo_status open_device(struct rdi_cuda_device *d, const struct rdi_cuda_api *cu,
                                int ordinal) {
    int n = 0;
    *d = (struct rdi_cuda_device){.cu = cu, .ordinal = ordinal};
    rdi_cu_result r = cu->device_count(&n);
    if (r != RDI_CU_OK) {
        return rdi_cuda_fail(r, "cannot count the CUDA devices");
    }
    if (ordinal >= n) {
        return rdi_fail(RONDO_ERR_INVALID,
                        "there is no CUDA device %d: this process sees %d (0 .. %d); see "
                        "CUDA_VISIBLE_DEVICES",
                        ordinal, n, n - 1);
    }
    r = cu->device_get(&d->device, ordinal);
    if (r != RDI_CU_OK) {
        return rdi_cuda_fail(r, "cannot open CUDA device %d", ordinal);
    }
    rondo_status s = describe(d);
    if (s != RONDO_OK) {
        return s;
    }
    r = cu->ctx_retain(&d->ctx, d->device);
    if (r != RDI_CU_OK) {
        return rdi_cuda_fail(r, "cannot use CUDA device %d (%s)", ordinal, d->name);
    }
    s = rdi_cuda_enter(d);
    if (s == RONDO_OK) {
        load_kernels(d);
        rdi_cuda_leave(d);
    }
    return s;
}

rondo_status rdi_cuda_device(int ordinal, struct rdi_cuda_device **out) {
    const struct rdi_cuda_api *cu = rdi_cuda(RDI_CUDA_LOAD);
    if (cu == NULL) {
        return rdi_fail(RONDO_ERR_UNSUPPORTED, "%s", rdi_cuda_state());
    }
    if (ordinal < 0 || ordinal >= RDI_CUDA_MAX_DEVICES) {
        return rdi_fail(RONDO_ERR_INVALID, "CUDA device %d is not in 0 .. %d", ordinal,
                        RDI_CUDA_MAX_DEVICES - 1);
    }
    struct rdi_cuda_device *d = atomic_load_explicit(&devices[ordinal], memory_order_acquire);
    rondo_status s = RONDO_OK;
    if (d == NULL) {
        pthread_mutex_lock(&lock);
        d = atomic_load(&devices[ordinal]);
        if (d == NULL) {
            d = &memory[ordinal];
            s = open_device(d, cu, ordinal);
            if (s == RONDO_OK) {
                atomic_store_explicit(&devices[ordinal], d, memory_order_release);
            }
        }
        pthread_mutex_unlock(&lock);
    }
    if (s == RONDO_OK) {
        *out = d;
    }
    return s;
}

rondo_status rdi_cuda_enter(const struct rdi_cuda_device *d) {
    rdi_cu_result r = d->cu->ctx_push(d->ctx);
    return r == RDI_CU_OK ? RONDO_OK
                          : rdi_cuda_fail(r, "cannot enter the context of CUDA device %d (%s)",
                                          d->ordinal, d->name);
}

void rdi_cuda_leave(const struct rdi_cuda_device *d) {
    rdi_cu_ctx ctx;
    (void)d->cu->ctx_pop(&ctx);
}

rondo_status rdi_cuda_kernel(struct rdi_cuda_device *d, const char *name, rdi_cu_function *out) {
    if (d->module == NULL) {
        return rdi_fail(RONDO_ERR_UNSUPPORTED, "%s", d->why);
    }
    rdi_cu_result r = d->cu->module_function(out, d->module, name);
    return r == RDI_CU_OK ? RONDO_OK : rdi_cuda_fail(r, "there is no kernel %s", name);
}
