// SPDX-License-Identifier: MIT
// What the programs of tests/gpu/run share: clocks, medians, and JSON on the standard output.
#ifndef GPU_MEASURE_H
#define GPU_MEASURE_H

#include "tests/cuda/cuda_test.h"

#include <time.h>

static inline double now_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec * 1e-3;
}

static inline int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

// The value below which `share` of all lie. Sorts.
static inline double quantile(double *v, size_t n, double share) {
    qsort(v, n, sizeof *v, by_value);
    return v[(size_t)((double)(n - 1) * share + 0.5)];
}

// A string as JSON has it.
static inline void print_text(const char *s) {
    putchar('"');
    for (; *s; s++) {
        if (*s == '"' || *s == '\\') {
            printf("\\%c", *s);
        } else if ((unsigned char)*s < 0x20) {
            printf("\\u%04x", (unsigned)*s);
        } else {
            putchar(*s);
        }
    }
    putchar('"');
}

// "reaches": "..." of a communicator.
static inline int print_reaches(const rondo_comm *c) {
    char text[1024];
    OK(rondo_comm_reaches(c, text, sizeof text));
    printf("\"reaches\": ");
    print_text(text);
    return 0;
}

// GB/s of bytes in a time in microseconds, which a mock may say is nothing.
static inline double rate(double bytes, double us) {
    return bytes / (us > 1e-3 ? us : 1e-3) * 1e-3;
}

#endif
