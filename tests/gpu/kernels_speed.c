// SPDX-License-Identifier: MIT
// gpu_kernels: bandwidth, counted as bytes read and written. A sum reads two operands and writes one; it is held
// against the device's own copy, which reads one and writes one, of pieces as large, measured in turn with it.
#include "tests/gpu/kernels.h"

#include <stdio.h>

enum { MOST_ROUNDS = 15 };

struct bench {
    rdi_cu_event begin, end;
    rdi_cu_ptr a, b, d;
    size_t bytes;
    unsigned repeats; // in one measurement, so that launching does not count
};

static int by_size(const void *x, const void *y) {
    const double a = *(const double *)x, b = *(const double *)y;
    return (a > b) - (a < b);
}

static double median(double *v, int n) {
    qsort(v, (size_t)n, sizeof *v, by_size);
    return n % 2 ? v[n / 2] : (v[n / 2 - 1] + v[n / 2]) / 2;
}

// GB/s of `passes` times the bytes.
static double timed(struct gpu *g, const struct bench *b, rdi_cu_function f, unsigned blocks,
                    double passes) {
    const struct rdi_gpu_step s = {.in = b->a, .local = b->b, .dst = b->d, .bytes = b->bytes};
    float ms = 0;
    CU(g->cu->event_record(b->begin, g->stream));
    for (unsigned i = 0; i < b->repeats; i++) {
        if (f != NULL) {
            launch_step(g, f, &s, blocks, RDI_STEP_BLOCK);
        } else {
            CU(g->cu->copy_async(b->d, b->a, b->bytes, g->stream));
        }
    }
    CU(g->cu->event_record(b->end, g->stream));
    CU(g->cu->event_sync(b->end));
    CU(g->cu->event_elapsed(&ms, b->begin, b->end));
    return passes * (double)b->bytes * b->repeats / (ms > 0 ? ms : 1e-3) * 1e-6;
}

static double one_row(struct gpu *g, const struct bench *b, rondo_type type, unsigned blocks,
                      int rounds, bool first) {
    double kernel_rate[MOST_ROUNDS], copy_rate[MOST_ROUNDS];
    rdi_cu_function f = kernel(g, false, RONDO_SUM, type);
    (void)timed(g, b, f, blocks, 3);
    (void)timed(g, b, NULL, 0, 2);
    for (int i = 0; i < rounds; i++) {
        kernel_rate[i] = timed(g, b, f, blocks, 3);
        copy_rate[i] = timed(g, b, NULL, 0, 2);
    }
    const double k = median(kernel_rate, rounds), c = median(copy_rate, rounds);
    printf(
        "%s\n  {\"type\": \"%s\", \"bytes\": %zu, \"blocks\": %u, \"GB/s\": %.1f, \"copy GB/s\": "
        "%.1f, \"share\": %.3f, \"least\": %.1f, \"most\": %.1f}",
        first ? "" : ",", type_text(type), b->bytes, blocks, k, c, k / c, kernel_rate[0],
        kernel_rate[rounds - 1]);
    return k / c;
}

double measure(struct gpu *g, size_t most, int rounds) {
    const unsigned all = g->device->multiprocessors > 0 ? (unsigned)g->device->multiprocessors : 1;
    const unsigned grids[] = {8, 16, 32, all};
    struct bench b = {0};
    double least = 1e9;
    bool first = true;
    CU(g->cu->event_create(&b.begin, RDI_CU_EVENT_DEFAULT));
    CU(g->cu->event_create(&b.end, RDI_CU_EVENT_DEFAULT));
    CU(g->cu->mem_alloc(&b.a, most));
    CU(g->cu->mem_alloc(&b.b, most));
    CU(g->cu->mem_alloc(&b.d, most));
    CU(g->cu->set_async(b.a, 0, most, g->stream));
    CU(g->cu->set_async(b.b, 0, most, g->stream));
    printf(", \"bandwidth\": [");
    for (size_t bytes = most / 64; bytes <= most; bytes *= bytes == most / 64 ? 16 : 4) {
        for (int type = 0; type < RONDO_TYPE_COUNT; type++) {
            for (size_t k = 0; k < sizeof grids / sizeof grids[0]; k++, first = false) {
                b.bytes = bytes;
                b.repeats = most < (1 << 20) ? 2 : (unsigned)(most / bytes) + 4;
                const double share = one_row(g, &b, (rondo_type)type, grids[k], rounds, first);
                least = bytes == most && grids[k] == all && share < least ? share : least;
            }
        }
    }
    printf("]");
    CU(g->cu->stream_sync(g->stream));
    CU(g->cu->event_destroy(b.begin));
    CU(g->cu->event_destroy(b.end));
    CU(g->cu->mem_free(b.a));
    CU(g->cu->mem_free(b.b));
    CU(g->cu->mem_free(b.d));
    return least;
}
