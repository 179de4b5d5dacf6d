// SPDX-License-Identifier: MIT
// Finds the CUDA driver and cuBLAS. The driver is the one that Rondo takes as well (RONDO_CUDA_DRIVER);
// cuBLAS is what GPT_CUBLAS names, what the loader finds, or what lies where the toolkit and Python's
// packages put it.
#include <dlfcn.h>
#include <glob.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gpt_cuda.h"

struct symbol {
    const char *name;
    size_t at;
};

// Fills a table of functions.
static bool resolve(void *library, const char *path, const struct symbol *symbol, size_t count,
                    void *table, struct gpt_error *e) {
    for (size_t i = 0; i < count; i++) {
        void *p = dlsym(library, symbol[i].name);
        if (!p) {
            return gpt_fail(e,
                            "--device cuda: %s has no function %s: it is too old, or not what "
                            "its name says",
                            path, symbol[i].name);
        }
        memcpy((char *)table + symbol[i].at, &p, sizeof p);
    }
    return true;
}

static bool load_driver(struct gpt_driver *cu, struct gpt_error *e) {
#define SYMBOL(name, symbol, arguments) {#symbol, offsetof(struct gpt_driver, name)},
    static const struct symbol symbols[] = {GPT_DRIVER(SYMBOL)};
#undef SYMBOL
    const char *named = getenv("RONDO_CUDA_DRIVER");
    const char *path = named && *named ? named : "libcuda.so.1";
    if (strcmp(path, "none") == 0) {
        return gpt_fail(e, "--device cuda: CUDA is switched off by RONDO_CUDA_DRIVER=none");
    }
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!library) {
        return gpt_fail(e, "--device cuda: no CUDA driver: %s", dlerror());
    }
    return resolve(library, path, symbols, sizeof symbols / sizeof symbols[0], cu, e);
}

// ---- cuBLAS -------------------------------------------------------------------------------------

// Tries what matches a pattern; newer versions sort behind older ones.
static void *load_match(const char *pattern, char path[512]) {
    glob_t found;
    void *library = NULL;
    if (glob(pattern, GLOB_BRACE, NULL, &found) == 0) {
        for (size_t i = found.gl_pathc; i > 0 && !library; i--) {
            snprintf(path, 512, "%s", found.gl_pathv[i - 1]);
            library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
        }
        globfree(&found);
    }
    return library;
}

static void *search_blas(char path[512]) {
    static const char *const names[] = {"libcublas.so.13", "libcublas.so.12", "libcublas.so.11"};
    static const char *const patterns[] = {
        "/usr/local/cuda/lib{64,}/libcublas.so.1[1-3]",
        "/usr/local/cuda-1[1-3]*/lib{64,}/libcublas.so.1[1-3]",
        ("/usr{/local,}/lib/python3*/{site,dist}-packages/nvidia/cu{blas,1[1-3]}/lib/"
         "libcublas.so.1[1-3]"),
    };
    void *library = NULL;
    for (size_t i = 0; i < sizeof names / sizeof names[0] && !library; i++) {
        snprintf(path, 512, "%s", names[i]);
        library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    }
    const char *environment = getenv("VIRTUAL_ENV");
    char pattern[512];
    if (environment && *environment) {
        snprintf(pattern, sizeof pattern,
                 "%s/lib/python3*/site-packages/nvidia/cu{blas,1[1-3]}/lib/libcublas.so.1[1-3]",
                 environment);
        library = library ? library : load_match(pattern, path);
    }
    for (size_t i = 0; i < sizeof patterns / sizeof patterns[0] && !library; i++) {
        library = load_match(patterns[i], path);
    }
    return library;
}

static bool load_blas(struct gpt_blas *blas, struct gpt_error *e) {
#define SYMBOL(name, symbol, arguments) {#symbol, offsetof(struct gpt_blas, name)},
    static const struct symbol symbols[] = {GPT_BLAS(SYMBOL)};
#undef SYMBOL
    const char *named = getenv("GPT_CUBLAS");
    char path[512];
    void *library;
    if (named && *named) {
        snprintf(path, sizeof path, "%s", named);
        library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
        if (!library) {
            return gpt_fail(e, "--device cuda: no cuBLAS: GPT_CUBLAS: %s", dlerror());
        }
    } else if (!(library = search_blas(path))) {
        return gpt_fail(e, "--device cuda: no cuBLAS: neither libcublas.so.13 nor .12 nor .11 is "
                           "there; install it, or name it in GPT_CUBLAS");
    }
    return resolve(library, path, symbols, sizeof symbols / sizeof symbols[0], blas, e);
}

bool gpt_cuda_load(struct gpt_driver *cu, struct gpt_blas *blas, struct gpt_error *e) {
    return load_driver(cu, e) && load_blas(blas, e);
}
