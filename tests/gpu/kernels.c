// SPDX-License-Identifier: MIT
// gpu_kernels [--quick]: every kernel bit for bit against the host, on device memory and on pinned host memory; the
// walkers with a host that feeds flags; bandwidth against the device's own copy. Prints one JSON object. Exit status 0,
// 1 when something is wrong, 77 with the reason where there is no device. --quick: small sizes, as over a driver for
// tests (tests/mock_cuda), whose times mean nothing.
#include "tests/gpu/kernels.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

void give_up(const char *format, ...) {
    va_list args;
    va_start(args, format);
    fputs("gpu_kernels: ", stderr);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    va_end(args);
    exit(1);
}

const char *op_text(rondo_op op) {
    static const char *const names[] = {"sum", "prod", "min", "max"};
    return names[op];
}

const char *type_text(rondo_type type) {
    static const char *const names[RONDO_TYPE_COUNT] = {
        "f32", "f64", "f16", "bf16", "i8", "u8", "i32", "u32", "i64", "u64", "f8e4m3", "f8e5m2"};
    return names[type];
}

rdi_cu_function kernel(struct gpu *g, bool walk, rondo_op op, rondo_type type) {
    char name[64];
    rdi_cu_function f;
    snprintf(name, sizeof name, "rdi_%s_%s_%s", walk ? "walk" : "step", op_text(op),
             type_text(type));
    if (rdi_cuda_kernel(g->device, name, &f) != RONDO_OK) {
        give_up("%s", rondo_last_error());
    }
    return f;
}

void launch_step(struct gpu *g, rdi_cu_function f, const struct rdi_gpu_step *s, unsigned blocks,
                 unsigned threads) {
    struct rdi_gpu_step copy = *s;
    void *args[] = {&copy};
    CU(g->cu->launch(f, blocks, 1, 1, threads, 1, 1, 0, g->stream, args, NULL));
}

struct pinned pinned_new(struct gpu *g, size_t bytes) {
    struct pinned p;
    void *host;
    CU(g->cu->host_alloc(&host, bytes, RDI_CU_HOST_PORTABLE | RDI_CU_HOST_DEVICEMAP));
    CU(g->cu->host_device_ptr(&p.device, host, 0));
    p.host = host;
    return p;
}

void pinned_free(struct gpu *g, struct pinned p) { CU(g->cu->host_free(p.host)); }

static int skip(const char *why) {
    printf("skipped: %s\n", why);
    return 77;
}

int main(int argc, char **argv) {
    struct gpu g = {0};
    const bool quick = argc > 1 && strcmp(argv[1], "--quick") == 0;
    if (argc > 1 + quick) {
        fprintf(stderr, "usage: gpu_kernels [--quick]\n");
        return 2;
    }
    g.cu = rdi_cuda(RDI_CUDA_LOAD);
    if (g.cu == NULL) {
        return skip(rdi_cuda_state());
    }
    if (rdi_cuda_device(0, &g.device) != RONDO_OK) {
        return skip(rondo_last_error());
    }
    if (g.device->module == NULL) {
        return skip(g.device->why);
    }
    if (rdi_cuda_enter(g.device) != RONDO_OK) {
        give_up("%s", rondo_last_error());
    }
    CU(g.cu->stream_create(&g.stream, RDI_CU_STREAM_NON_BLOCKING, 0));
    printf("{\"device\": \"%s\", \"driver\": \"%s\", \"multiprocessors\": %d", g.device->name,
           rdi_cuda_state(), g.device->multiprocessors);
    printf(", \"steps_checked\": %u", check_steps(&g, quick ? 700 : 60000));
    printf(", \"pairs_checked\": %u", check_eights(&g));
    printf(", \"walks_checked\": %u", check_walks(&g, quick ? 20 : 200, quick ? 500 : 40000));
    const double share = measure(&g, quick ? 1 << 16 : 64 << 20, quick ? 5 : 9);
    printf(", \"least_share_of_copy\": %.3f, \"goal\": 0.85}\n", share);
    CU(g.cu->stream_destroy(g.stream));
    rdi_cuda_leave(g.device);
    return fflush(stdout) == 0 ? 0 : 1;
}
