// SPDX-License-Identifier: MIT
// The timing loop. Per operation:
//
//     fill with fresh values | rest | line up | op | rest | check | rest | fill …
//                                        ^start ^end
//
// "rest" is a barrier in which all ranks sleep: a rank that is done early leaves the processor to
// the others, and to the helper threads that some peers have. A barrier that spins there starves
// those threads and makes the peer look ten times slower than it is. "line up" follows because
// sleepers wake tens of microseconds apart: everyone is awake by then and waits for the last in
// short bursts of spinning with a sched_yield() after each. Time of the operation: first rank's
// start to last rank's end, read from one clock and kept in a page that the ranks share.
#include "loop.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define MAX_ITERATIONS 512
#define MIN_ITERATIONS 2
#define CHECK_ALL_BYTES ((size_t)1 << 20) // up to here every element of every result is checked
#define CHECK_STRIDE 1021              // above: first and last result, and every so many elements
#define CHAIN_BYTES ((size_t)64 << 10) // up to here operations are also run back to back
#define CHAIN_LENGTH 32
#define CHAINS 20

// Wide vectors where the processor has them, so that filling and checking stay short beside the
// operations. The sanitizers' start-up does not survive the resolver that this makes.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && \
    !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define WIDE __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define WIDE
#endif

typedef struct page {
    _Alignas(64) _Atomic uint32_t arrived;    // rest(): ranks that have come
    _Alignas(64) _Atomic uint32_t generation; // rest(): barriers that are over; slept on
    _Alignas(64) _Atomic uint32_t awake;      // line_up(): grows by `size` each time
    _Alignas(64) _Atomic uint64_t wrong;
    _Atomic uint32_t stop; // rank 0: no more iterations of this size
    _Alignas(64) double start[MAX_ITERATIONS][LOOP_MAX_RANKS];
    double end[MAX_ITERATIONS][LOOP_MAX_RANKS];
} page;

typedef struct loop {
    const loop_peer *peer;
    page *page;
    uint32_t line_ups;
    int crowded; // more ranks than processors
    double scale;
    double budget_us;
    FILE *out; // rank 0 only
} loop;

size_t loop_page_bytes(void) { return sizeof(page); }

const char *loop_argument(int argc, char **argv, const char *name, const char *otherwise) {
    for (int i = 1; i + 1 < argc; i++) {
        if (strcmp(argv[i], name) == 0)
            return argv[i + 1];
    }
    return otherwise;
}

static double now_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec * 1e-3;
}

static void relax(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#else
    __asm__ volatile("" ::: "memory");
#endif
}

static void rest(loop *l) {
    page *p = l->page;
    uint32_t generation = atomic_load(&p->generation);
    if (atomic_fetch_add(&p->arrived, 1) + 1 == (uint32_t)l->peer->size) {
        atomic_store(&p->arrived, 0);
        atomic_fetch_add(&p->generation, 1);
        syscall(SYS_futex, &p->generation, FUTEX_WAKE, LOOP_MAX_RANKS, NULL, NULL, 0);
        return;
    }
    while (atomic_load(&p->generation) == generation)
        syscall(SYS_futex, &p->generation, FUTEX_WAIT, generation, NULL, NULL, 0);
}

static void line_up(loop *l) {
    uint32_t all = ++l->line_ups * (uint32_t)l->peer->size;
    atomic_fetch_add(&l->page->awake, 1);
    for (;;) {
        for (int burst = l->crowded ? 1 : 100; burst > 0; burst--) {
            if ((int32_t)(atomic_load_explicit(&l->page->awake, memory_order_acquire) - all) >= 0)
                return;
            relax();
        }
        sched_yield();
    }
}

// ---- Data ---------------------------------------------------------------------------------------

static inline uint32_t seed_of(int rank, uint32_t round) {
    return (round * 977u + (uint32_t)rank) * 0x9E3779B1u + 12345u;
}

// An integer hash, so that neighbours, blocks and rounds all differ: an element in the wrong place,
// from the wrong rank or left over from the round before shows.
static inline float value(uint32_t seed, uint32_t i) {
    uint32_t x = i * 2654435761u + seed;
    x ^= x >> 15;
    x *= 0x2c1b3c6du;
    x ^= x >> 12;
    return (float)((int)(x & 1023u) - 512);
}

float loop_value(int rank, uint32_t round, size_t i) {
    return value(seed_of(rank, round), (uint32_t)i);
}

WIDE static void fill(float *buffer, size_t count, uint32_t seed) {
    for (size_t i = 0; i < count; i++)
        buffer[i] = value(seed, (uint32_t)i);
}

static inline int is_wrong(const float *buffer, size_t i, const uint32_t *seeds, int ranks,
                           float factor) {
    float sum = 0;
    for (int r = 0; r < ranks; r++)
        sum += value(seeds[r], (uint32_t)i);
    return buffer[i] != sum * factor;
}

// Adds into `wrong` a block at a time: the inner loops have no branch and become vector code.
WIDE static size_t count_wrong(const float *buffer, size_t count, const uint32_t *seeds, int ranks,
                               float factor) {
    enum { BLOCK = 1024 };
    size_t wrong = 0;
    float sum[BLOCK];
    for (size_t base = 0; base < count; base += BLOCK) {
        size_t n = count - base < BLOCK ? count - base : BLOCK;
        for (size_t i = 0; i < n; i++)
            sum[i] = 0;
        for (int r = 0; r < ranks; r++) {
            uint32_t seed = seeds[r];
            for (size_t i = 0; i < n; i++)
                sum[i] += value(seed, (uint32_t)(base + i));
        }
        uint32_t bad = 0;
        for (size_t i = 0; i < n; i++)
            bad += buffer[base + i] != sum[i] * factor;
        wrong += bad;
    }
    return wrong;
}

static size_t wrong_sums(const loop_peer *peer, const float *buffer, size_t count, uint32_t round,
                         size_t stride, float factor) {
    uint32_t seeds[LOOP_MAX_RANKS];
    for (int r = 0; r < peer->size; r++)
        seeds[r] = seed_of(r, round);
    if (stride == 1)
        return count_wrong(buffer, count, seeds, peer->size, factor);
    size_t wrong = 0;
    for (size_t i = 0; i < count; i += stride)
        wrong += (size_t)is_wrong(buffer, i, seeds, peer->size, factor);
    return wrong + (size_t)is_wrong(buffer, count - 1, seeds, peer->size, factor);
}

// ---- One size -----------------------------------------------------------------------------------

static int iterations_of(size_t bytes, double scale) {
    int n = bytes <= 1024               ? 200
            : bytes <= (size_t)64 << 10 ? 100
            : bytes <= (size_t)1 << 20  ? 40
            : bytes <= (size_t)16 << 20 ? 11
            : bytes <= (size_t)64 << 20 ? 5
                                        : 3;
    n = (int)((double)n * scale);
    return n < MIN_ITERATIONS ? MIN_ITERATIONS : n > MAX_ITERATIONS ? MAX_ITERATIONS : n;
}

static int fail(const loop *l, size_t bytes) {
    fprintf(stderr, "rank %d: the operation on %zu bytes failed\n", l->peer->rank, bytes);
    return 4;
}

static size_t check(loop *l, const float *buffer, size_t count, uint32_t round, size_t stride) {
    const loop_peer *peer = l->peer;
    if (peer->wrong)
        return peer->wrong(peer->state, buffer, count, round, stride);
    return wrong_sums(peer, buffer, count, round, stride, 1);
}

// Times up to `iterations` operations, after some that are not timed; *timed is how many there
// were.
static int time_singly(loop *l, float *buffer, size_t count, int iterations, int *timed) {
    const loop_peer *peer = l->peer;
    page *p = l->page;
    size_t bytes = count * sizeof(float), wrong = 0;
    int warm = iterations / 10 + 1;
    double begin = now_us();
    *timed = 0;
    for (int k = -warm; k < iterations; k++) {
        uint32_t round = (uint32_t)(k + warm) + 1;
        if (peer->rank == 0 && k >= MIN_ITERATIONS && now_us() - begin > l->budget_us)
            atomic_store(&p->stop, 1);
        fill(buffer, count, seed_of(peer->rank, round));
        rest(l);
        if (atomic_load(&p->stop))
            break;
        line_up(l);
        double start = now_us();
        if (peer->op(peer->state, buffer, count))
            return fail(l, bytes);
        double end = now_us();
        if (k >= 0) {
            p->start[k][peer->rank] = start;
            p->end[k][peer->rank] = end;
            *timed = k + 1;
        }
        rest(l);
        int all = bytes <= CHECK_ALL_BYTES || k == -warm || k == iterations - 1;
        wrong += check(l, buffer, count, round, all ? 1 : CHECK_STRIDE);
        rest(l);
    }
    atomic_fetch_add(&p->wrong, wrong);
    return 0;
}

// Small operations again, CHAIN_LENGTH of them with nothing in between: time per operation of the
// best of CHAINS. In place, the sum grows by the factor `size` each time; it stays exact where that
// is a power of 2.
static int time_chained(loop *l, float *buffer, size_t count, double *best_us) {
    const loop_peer *peer = l->peer;
    size_t wrong = 0;
    float factor = 1;
    for (int j = 1; j < CHAIN_LENGTH; j++)
        factor *= (float)peer->size;
    double begin = now_us();
    *best_us = 0;
    for (int k = 0; k < CHAINS; k++) {
        uint32_t round = 10000u + (uint32_t)k;
        if (peer->rank == 0 && k > 0 && now_us() - begin > l->budget_us)
            atomic_store(&l->page->stop, 1);
        fill(buffer, count, seed_of(peer->rank, round));
        rest(l);
        if (atomic_load(&l->page->stop))
            break;
        line_up(l);
        double start = now_us();
        for (int j = 0; j < CHAIN_LENGTH; j++) {
            if (peer->op(peer->state, buffer, count))
                return fail(l, count * sizeof(float));
        }
        double took = (now_us() - start) / CHAIN_LENGTH;
        if (k == 0 || took < *best_us)
            *best_us = took;
        rest(l);
        wrong += wrong_sums(peer, buffer, count, round, 1, factor);
        rest(l);
    }
    atomic_fetch_add(&l->page->wrong, wrong);
    return 0;
}

static void write_results(loop *l, size_t bytes, int timed, double chained_us) {
    const page *p = l->page;
    for (int k = 0; k < timed; k++) {
        double first = p->start[k][0], last = p->end[k][0];
        for (int r = 1; r < l->peer->size; r++) {
            first = p->start[k][r] < first ? p->start[k][r] : first;
            last = p->end[k][r] > last ? p->end[k][r] : last;
        }
        fprintf(l->out, "us,%zu,%.3f\n", bytes, last - first);
    }
    if (chained_us > 0)
        fprintf(l->out, "chained_us,%zu,%.3f\n", bytes, chained_us);
    fprintf(l->out, "wrong,%zu,%llu\n", bytes, (unsigned long long)atomic_load(&p->wrong));
    fflush(l->out);
}

// Between two rests, so that no rank still reads what is cleared, and none sets it too early.
static void clear_stop(loop *l) {
    rest(l);
    if (l->peer->rank == 0)
        atomic_store(&l->page->stop, 0);
    rest(l);
}

static int run_size(loop *l, float *buffer, size_t bytes) {
    const loop_peer *peer = l->peer;
    size_t count = bytes / sizeof(float);
    int power_of_2 = (peer->size & (peer->size - 1)) == 0, timed = 0, rc;
    double chained_us = 0;
    if (peer->prepare && peer->prepare(peer->state, buffer, count)) {
        fprintf(stderr, "rank %d: preparing for %zu bytes failed\n", peer->rank, bytes);
        return 3;
    }
    rest(l);
    rc = time_singly(l, buffer, count, iterations_of(bytes, l->scale), &timed);
    if (rc)
        return rc;
    clear_stop(l);
    if (bytes <= CHAIN_BYTES && power_of_2 && !peer->wrong)
        rc = time_chained(l, buffer, count, &chained_us);
    if (rc)
        return rc;
    rest(l);
    if (l->out)
        write_results(l, bytes, timed, chained_us);
    clear_stop(l);
    if (peer->rank == 0)
        atomic_store(&l->page->wrong, 0);
    return 0;
}

// ---- The run ------------------------------------------------------------------------------------

static page *map_page(const char *path) {
    struct stat st;
    int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    if (fd < 0 || fstat(fd, &st) || (size_t)st.st_size < sizeof(page)) {
        fprintf(stderr, "--page %s: not a file of at least %zu bytes\n", path ? path : "(missing)",
                sizeof(page));
        if (fd >= 0)
            close(fd);
        return NULL;
    }
    page *p = mmap(NULL, sizeof(page), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, 0);
    close(fd);
    if (p == MAP_FAILED) {
        fprintf(stderr, "--page %s: %s\n", path, strerror(errno));
        return NULL;
    }
    return p;
}

// What malloc(3) gives for large blocks, but not through malloc: its free() of a large block raises
// the size from which blocks are given back to the system, and would so tune the peer under test.
static float *private_pages(size_t bytes) {
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return p == MAP_FAILED ? NULL : p;
}

static int run_sizes(loop *l, const char *sizes) {
    for (const char *at = sizes; *at;) {
        char *end;
        size_t bytes = strtoull(at, &end, 10);
        if (end == at || (*end && *end != ',') || bytes < sizeof(float)) {
            fprintf(stderr, "--sizes %s: a list of bytes, at least 4 each, is expected\n", sizes);
            return 2;
        }
        at = *end ? end + 1 : end;
        const loop_peer *peer = l->peer;
        float *buffer = peer->alloc ? peer->alloc(peer->state, bytes) : private_pages(bytes);
        if (!buffer) {
            fprintf(stderr, "rank %d: no memory for %zu bytes\n", peer->rank, bytes);
            return 3;
        }
        int rc = run_size(l, buffer, bytes);
        if (peer->alloc)
            peer->release(peer->state, buffer);
        else
            munmap(buffer, bytes);
        if (rc)
            return rc;
    }
    return 0;
}

int loop_run(int argc, char **argv, const loop_peer *peer) {
    loop l = {.peer = peer};
    const char *out = loop_argument(argc, argv, "--out", NULL);
    alarm((unsigned)atoi(loop_argument(argc, argv, "--deadline", "120")));
    l.scale = atof(loop_argument(argc, argv, "--scale", "1"));
    l.budget_us = atof(loop_argument(argc, argv, "--budget", "5")) * 1e6;
    l.crowded = peer->size > (int)sysconf(_SC_NPROCESSORS_ONLN);
    if (peer->size < 1 || peer->size > LOOP_MAX_RANKS) {
        fprintf(stderr, "%d ranks: 1 to %d are possible\n", peer->size, LOOP_MAX_RANKS);
        return 2;
    }
    l.page = map_page(loop_argument(argc, argv, "--page", NULL));
    if (!l.page)
        return 2;
    if (peer->rank == 0 && out) {
        l.out = fopen(out, "ae");
        if (!l.out) {
            fprintf(stderr, "--out %s: %s\n", out, strerror(errno));
            return 2;
        }
    }
    int rc = run_sizes(&l, loop_argument(argc, argv, "--sizes", "8,65536,1048576"));
    if (l.out && fclose(l.out))
        rc = 2;
    munmap(l.page, sizeof(page));
    return rc;
}
