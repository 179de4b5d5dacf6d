// SPDX-License-Identifier: MIT
// Measures the reduce kernels: GB/s of destination bytes (count * size / time), the best of several rounds,
// for each instruction set that this processor has. Not a test: it judges nothing.
//
//   reduce_bench [bytes]...      default: 65536 and 67108864
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "ring/reduce.h"

enum { ROUNDS = 9, SOURCES = 4 };

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

enum what { ADD_TO, ADD, TO2, FOLD, FOLD_STRICT, MAX_TO, DIVIDE, SCALE, COPY, WHAT_COUNT };

static const char *const what_names[WHAT_COUNT] = {
    "a+=b", "d=a+b", "d,e=a+b", "fold4", "fold4 strict", "a=max(a,b)", "divide", "scale", "memcpy"};

static void once(enum what what, unsigned char *const buf[SOURCES + 2], size_t count,
                 rondo_type type) {
    const void *const src[SOURCES] = {buf[0], buf[1], buf[2], buf[3]};
    switch (what) {
    case ADD_TO:
        rdi_reduce2(buf[0], buf[0], buf[1], count, type, RONDO_SUM);
        break;
    case ADD:
        rdi_reduce2(buf[4], buf[0], buf[1], count, type, RONDO_SUM);
        break;
    case TO2:
        rdi_reduce2_to2(buf[0], buf[4], buf[0], buf[1], count, type, RONDO_SUM);
        break;
    case FOLD:
        rdi_reduce_n(buf[0], src, SOURCES, count, type, RONDO_SUM, false);
        break;
    case FOLD_STRICT:
        rdi_reduce_n(buf[0], src, SOURCES, count, type, RONDO_SUM, true);
        break;
    case MAX_TO:
        rdi_reduce2(buf[0], buf[0], buf[1], count, type, RONDO_MAX);
        break;
    case DIVIDE:
        rdi_divide(buf[0], count, type, 3);
        break;
    case SCALE:
        rdi_scale_copy(buf[4], buf[0], count, type, 0.5);
        break;
    default:
        memcpy(buf[4], buf[0], count * rdi_type_size(type));
    }
}

static double rate(enum what what, unsigned char *const buf[SOURCES + 2], size_t bytes,
                   rondo_type type) {
    const size_t repeats = bytes < (64u << 20) ? (16u << 20) / bytes + 1 : 1;
    double best = 1e9;
    for (int round = 0; round < ROUNDS; round++) {
        const double start = now();
        for (size_t i = 0; i < repeats; i++) {
            once(what, buf, bytes / rdi_type_size(type), type);
        }
        const double took = (now() - start) / (double)repeats;
        best = took < best ? took : best;
    }
    return (double)bytes / best * 1e-9;
}

static void table(size_t bytes) {
    static const struct {
        rondo_type type;
        const char *name;
    } types[] = {{RONDO_F32, "f32"},   {RONDO_F64, "f64"},       {RONDO_F16, "f16"},
                 {RONDO_BF16, "bf16"}, {RONDO_I8, "i8"},         {RONDO_I32, "i32"},
                 {RONDO_I64, "i64"},   {RONDO_F8E4M3, "f8e4m3"}, {RONDO_F8E5M2, "f8e5m2"}};
    unsigned char *buf[SOURCES + 2];
    for (int i = 0; i < SOURCES + 2; i++) {
        buf[i] = aligned_alloc(4096, (bytes + 4095) / 4096 * 4096);
        if (buf[i] == NULL) {
            fprintf(stderr, "no memory for %zu bytes\n", bytes);
            exit(1);
        }
        memset(buf[i], 0, bytes);
    }
    printf("%s, %zu bytes, GB/s\n%-6s", rdi_reduce_isa(), bytes, "");
    for (int w = 0; w < WHAT_COUNT; w++) {
        printf("%13s", what_names[w]);
    }
    printf("\n");
    for (size_t t = 0; t < sizeof types / sizeof types[0]; t++) {
        printf("%-6s", types[t].name);
        for (int w = 0; w < WHAT_COUNT; w++) {
            printf("%13.1f", rate((enum what)w, buf, bytes, types[t].type));
        }
        printf("\n");
    }
    for (int i = 0; i < SOURCES + 2; i++) {
        free(buf[i]);
    }
}

int main(int argc, char **argv) {
    static const char *const isas[] = {"avx512", "avx2", "neon", "c"};
    for (size_t i = 0; i < sizeof isas / sizeof isas[0]; i++) {
        if (!rdi_reduce_select(isas[i])) {
            continue;
        }
        if (argc < 2) {
            table(65536);
            table(64u << 20);
        }
        for (int a = 1; a < argc; a++) {
            table(strtoull(argv[a], NULL, 0));
        }
    }
    return 0;
}
