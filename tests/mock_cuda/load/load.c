// SPDX-License-Identifier: MIT
// A program that is linked to no driver and finds the mock as it would the real one: dlopen(3), RTLD_LOCAL.
//   load PATH     PATH: libcuda.so.1
#include "transport/cuda/driver.h"

#include <dlfcn.h>
#include <stdio.h>

static int check(int r, const char *what) {
    if (r)
        fprintf(stderr, "%s: %d\n", what, r);
    return r;
}
#define DO(call)                   \
    do {                           \
        if (check(cu.call, #call)) \
            return 1;              \
    } while (0)

int main(int argc, char **argv) {
    static struct rdi_cuda_api cu;
    void *library = argc == 2 ? dlopen(argv[1], RTLD_NOW | RTLD_LOCAL) : NULL;
    if (!library) {
        fprintf(stderr, "%s\n", argc == 2 ? dlerror() : "usage: load libcuda.so.1");
        return 1;
    }
#define LOOK(need, name, symbol, arguments)       \
    *(void **)&cu.name = dlsym(library, #symbol); \
    if (need && !cu.name)                         \
        return check(500, #symbol);
    RDI_CUDA_FUNCTIONS(LOOK)

    const uint32_t image[4] = {0xba55ed50u};
    rdi_cu_ctx ctx;
    rdi_cu_module module;
    rdi_cu_function f;
    rdi_cu_ptr p;
    uint32_t word = 0;
    DO(init(0));
    DO(ctx_retain(&ctx, 0));
    DO(ctx_push(ctx));
    DO(module_load(&module, image));
    DO(module_function(&f, module, "load_set"));
    DO(mem_alloc(&p, 4));
    DO(launch(f, 3, 1, 1, 64, 1, 1, 0, NULL, (void *[]){&p}, NULL));
    DO(copy_to_host(&word, p, 4));
    DO(mem_free(p));
    DO(module_unload(module));
    DO(ctx_pop(NULL));
    return check(word != 192, "the kernel's result");
}
