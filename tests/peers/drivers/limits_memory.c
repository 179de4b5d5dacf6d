// SPDX-License-Identifier: MIT
// memcpy and float32 addition, by one processor and by two at once, for blocks inside and outside
// the caches. Figures are bytes of one operand (S) per second over all threads, as busbw is.
#include "limits.h"
#include "ranks.h"

#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define WIDE __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define WIDE
#endif

typedef void (*kernel)(float *a, float *b, size_t n);

static void copy(float *a, float *b, size_t n) { memcpy(a, b, n * sizeof *a); }

// What a rank does with the other's data.
WIDE static void add(float *a, float *b, size_t n) {
    for (size_t i = 0; i < n; i++)
        a[i] += b[i];
}

// What an all-reduce of two ranks in one shared memory has to do at the least: read both, write
// both.
WIDE static void add_both(float *restrict a, float *restrict b, size_t n) {
    for (size_t i = 0; i < n; i++)
        a[i] = b[i] = a[i] + b[i];
}

typedef struct worker {
    kernel run;
    int cpu;
    int repeats;
    int inner; // passes in a sample, so that small blocks last long enough for the clock
    size_t count;
    pthread_barrier_t *barrier;
    double *times;
} worker;

static float *block(size_t count) {
    float *p =
        mmap(NULL, count * sizeof *p, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) {
        perror("mmap");
        exit(1);
    }
    for (size_t i = 0; i < count; i++)
        p[i] = 0;
    return p;
}

static void *work(void *argument) {
    worker *w = argument;
    ranks_pin(w->cpu);
    float *a = block(w->count), *b = block(w->count);
    for (int r = -1; r < w->repeats; r++) {
        pthread_barrier_wait(w->barrier);
        double start = limits_now_us();
        for (int k = 0; k < w->inner; k++) {
            w->run(a, b, w->count);
            __asm__ volatile("" ::: "memory");
        }
        pthread_barrier_wait(w->barrier);
        if (r >= 0)
            w->times[r] = (limits_now_us() - start) / w->inner;
    }
    munmap(a, w->count * sizeof *a);
    munmap(b, w->count * sizeof *b);
    return NULL;
}

static void measure(const char *name, kernel run, size_t kib, int threads, int repeats) {
    double times[2][LIMITS_MAX_REPEATS];
    pthread_barrier_t barrier;
    pthread_t second;
    worker w[2];
    char parameter[32];
    size_t bytes = kib << 10;
    pthread_barrier_init(&barrier, NULL, (unsigned)threads);
    for (int i = 0; i < threads; i++) {
        w[i] = (worker){.run = run,
                        .cpu = i,
                        .repeats = repeats,
                        .inner = bytes < (1u << 20) ? 64 : 1,
                        .count = bytes / sizeof(float),
                        .barrier = &barrier,
                        .times = times[i]};
    }
    if (threads == 2 && pthread_create(&second, NULL, work, &w[1])) {
        fprintf(stderr, "pthread_create failed\n");
        exit(1);
    }
    work(&w[0]);
    if (threads == 2)
        pthread_join(second, NULL);
    pthread_barrier_destroy(&barrier);
    if (kib >= 1024)
        snprintf(parameter, sizeof parameter, "%zu MiB a thread", kib >> 10);
    else
        snprintf(parameter, sizeof parameter, "%zu KiB a thread", kib);
    limits_print(name, parameter, threads, times[0], repeats, (double)bytes * threads / 1e3,
                 "GB/s");
}

// Two threads with half of the buffer each: the blocks of an all-reduce of 512 KiB, 4, 16, 64, 256
// MiB.
void limits_memory(int repeats) {
    static const size_t kib[] = {256, 2 << 10, 8 << 10, 32 << 10, 128 << 10};
    int most = sysconf(_SC_NPROCESSORS_ONLN) > 1 ? 2 : 1;
    for (int threads = 1; threads <= most; threads++) {
        for (size_t i = 0; i < sizeof kib / sizeof kib[0]; i++) {
            if (threads < most &&
                i % 3 != 0) { // one processor alone: inside and outside the caches
                continue;
            }
            measure("memcpy", copy, kib[i], threads, repeats);
            measure("f32 add a+=b", add, kib[i], threads, repeats);
            measure("f32 add a=b=a+b", add_both, kib[i], threads, repeats);
        }
    }
}
