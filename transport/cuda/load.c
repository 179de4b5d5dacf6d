// SPDX-License-Identifier: MIT
// The CUDA driver, loaded at run time, so that one binary starts on hosts with and without it.
//
// A program that has device pointers has loaded the driver itself. So calls that may see such a pointer, but need
// not, only look whether it is there (RDI_CUDA_IF_LOADED) and cost a program without GPUs nothing but that.
#include "transport/cuda/cuda.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LIBRARY "libcuda.so.1"

enum { UNKNOWN, READY, BROKEN };

static struct rdi_cuda_api api;
static char state[384] = "no CUDA driver was looked for yet";
static _Atomic int known = UNKNOWN;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

#define ENTRY(need, name, symbol, arguments) {#symbol, offsetof(struct rdi_cuda_api, name), need},
static const struct {
    const char *symbol;
    size_t at;
    int need;
} entries[] = {RDI_CUDA_FUNCTIONS(ENTRY)};
#undef ENTRY

// What option cuda_driver says; NULL when the options cannot be read, with `state` set.
static const char *library_name(void) {
    static struct rdi_options options; // large; guarded by `lock`
    if (rdi_options_load(&options, NULL, getenv) != RONDO_OK) {
        snprintf(state, sizeof state, "%s", rondo_last_error());
        return NULL;
    }
    const char *name = options.str[RDI_OPT_CUDA_DRIVER];
    if (strcmp(name, "none") == 0) {
        snprintf(state, sizeof state, "CUDA is switched off by option cuda_driver=none");
        return NULL;
    }
    return *name ? name : LIBRARY;
}

static bool resolve(void *library, const char *name) {
    for (size_t i = 0; i < sizeof entries / sizeof entries[0]; i++) {
        void *symbol = dlsym(library, entries[i].symbol);
        if (symbol == NULL && entries[i].need) {
            snprintf(state, sizeof state,
                     "%s has no function %s: the driver is too old; install 535 or later", name,
                     entries[i].symbol);
            return false;
        }
        memcpy((char *)&api + entries[i].at, &symbol, sizeof symbol);
    }
    return true;
}

static bool start(void) {
    rdi_cu_result r = api.init(0);
    const char *name = NULL, *text = NULL;
    if (r == RDI_CU_STUB_LIBRARY) {
        snprintf(state, sizeof state,
                 "no CUDA driver: " LIBRARY " is the toolkit's stub; install the NVIDIA driver");
        return false;
    }
    if (r != RDI_CU_OK) {
        (void)api.error_name(r, &name);
        (void)api.error_string(r, &text);
        snprintf(state, sizeof state, "the CUDA driver does not start: %s (%s)",
                 name ? name : "unknown error", text ? text : "no text");
        return false;
    }
    int version = 0, devices = 0;
    if (api.driver_version(&version) != RDI_CU_OK || api.device_count(&devices) != RDI_CU_OK) {
        snprintf(state, sizeof state, "the CUDA driver does not tell its version or devices");
        return false;
    }
    if (devices == 0) {
        snprintf(state, sizeof state, "CUDA %d.%d, but no device; see CUDA_VISIBLE_DEVICES",
                 version / 1000, version % 1000 / 10);
        return false;
    }
    snprintf(state, sizeof state, "CUDA %d.%d, %d device%s%s", version / 1000, version % 1000 / 10,
             devices, devices == 1 ? "" : "s",
             rdi_cuda_image_size ? ""
                                 : "; this build has no kernels for them (nvcc was not there)");
    return true;
}

static int load(enum rdi_cuda_want want) {
    const char *name = library_name();
    if (name == NULL) {
        return BROKEN;
    }
    void *library = dlopen(name, RTLD_NOW | RTLD_LOCAL | (want == RDI_CUDA_LOAD ? 0 : RTLD_NOLOAD));
    if (library == NULL && want == RDI_CUDA_IF_LOADED) {
        return UNKNOWN;
    }
    if (library == NULL) {
        const char *text = dlerror(); // begins with the library's name
        snprintf(state, sizeof state, "no CUDA driver: %s", text ? text : name);
        return BROKEN;
    }
    return resolve(library, name) && start() ? READY : BROKEN; // it stays loaded
}

const struct rdi_cuda_api *rdi_cuda(enum rdi_cuda_want want) {
    int s = atomic_load_explicit(&known, memory_order_acquire);
    if (s == UNKNOWN) {
        pthread_mutex_lock(&lock);
        s = atomic_load(&known);
        if (s == UNKNOWN) {
            s = load(want);
            atomic_store_explicit(&known, s, memory_order_release);
        }
        pthread_mutex_unlock(&lock);
    }
    return s == READY ? &api : NULL;
}

bool rdi_cuda_in_use(void) { return atomic_load_explicit(&known, memory_order_acquire) == READY; }

const char *rdi_cuda_state(void) { return state; }

const char *rondo_cuda_state(void) {
    (void)rdi_cuda(RDI_CUDA_LOAD);
    return state;
}

rondo_status rdi_cuda_fail(rdi_cu_result r, const char *fmt, ...) {
    char what[RDI_ERROR_TEXT];
    const char *name = NULL, *text = NULL;
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(what, sizeof what, fmt, ap);
    va_end(ap);
    (void)api.error_name(r, &name);
    (void)api.error_string(r, &text);
    rondo_status s = r == RDI_CU_OUT_OF_MEMORY   ? RONDO_ERR_NOMEM
                     : r == RDI_CU_NOT_SUPPORTED ? RONDO_ERR_UNSUPPORTED
                                                 : RONDO_ERR_SYSTEM;
    return rdi_fail(s, "%s: %s (%s)", what, name ? name : "unknown CUDA error",
                    text ? text : "the driver has no text for it");
}
