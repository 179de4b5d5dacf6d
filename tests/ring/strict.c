// SPDX-License-Identifier: MIT
// order=strict: the same bits for a tensor reduced whole, in 7 pieces, by permuted ranks and on every wire,
// and they are the left fold over ranks. order=default: the same bits in every run and on every wire.
#include "ring_test.h"

#include <stdint.h>
#include <sys/mman.h>

#define COUNT 300007

struct shared {
    uint64_t hash[16];
    float whole[COUNT];
};

static uint64_t hash_of(const float *x, size_t n) {
    uint64_t h = UINT64_C(0xcbf29ce484222325);
    for (size_t i = 0; i < n; i++) {
        uint32_t b;
        memcpy(&b, &x[i], 4);
        h = (h ^ b) * UINT64_C(0x100000001b3);
    }
    return h;
}

// Values of very different size, so that every order of additions gives other bits.
static float value(int rank, size_t i) {
    uint64_t x = (uint64_t)rank * UINT64_C(0x9e3779b97f4a7c15) + i * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ (x >> 31)) * UINT64_C(0x94d049bb133111eb);
    float m = (float)(int64_t)(x >> 40) / 1024.0f - 8000.0f;
    return x & 1 ? m * 1e-4f : m;
}

static void fill(float *x, int rank) {
    for (size_t i = 0; i < COUNT; i++) {
        x[i] = value(rank, i);
    }
}

static int whole(rondo_comm *c, void *arg) {
    uint64_t *out = arg;
    float *x = malloc(COUNT * sizeof *x);
    fill(x, rondo_comm_rank(c));
    OK(rondo_all_reduce(x, x, COUNT, RONDO_F32, RONDO_SUM, c));
    uint64_t h = hash_of(x, COUNT), all[64];
    OK(rondo_all_gather(&h, all, 1, RONDO_U64, c));
    for (int r = 0; r < rondo_comm_size(c); r++) {
        CHECK(all[r] == h);
    }
    *out = h;
    free(x);
    return 0;
}

static int pieces(rondo_comm *c, void *arg) {
    uint64_t *out = arg;
    float *x = malloc(COUNT * sizeof *x);
    rondo_request *q[7];
    fill(x, rondo_comm_rank(c));
    for (size_t p = 0; p < 7; p++) {
        size_t from = COUNT * p / 7, to = COUNT * (p + 1) / 7;
        OK(rondo_all_reduce_start(x + from, x + from, to - from, RONDO_F32, RONDO_SUM, c, &q[p]));
    }
    OK(rondo_wait_all(q, 7));
    *out = hash_of(x, COUNT);
    free(x);
    return 0;
}

// Other processes hold the contributions; the communicator's ranks are what counts.
static int permuted(rondo_comm *c, void *arg) {
    uint64_t *out = arg;
    rondo_comm *p = NULL;
    int n = rondo_comm_size(c);
    OK(rondo_comm_split(c, 0, (rondo_comm_rank(c) * 7 + 3) % n, &p));
    int rc = whole(p, out);
    OK(rondo_comm_destroy(p));
    return rc;
}

static uint64_t left_fold(int n) {
    float *x = malloc(COUNT * sizeof *x);
    for (size_t i = 0; i < COUNT; i++) {
        x[i] = value(0, i);
        for (int r = 1; r < n; r++) {
            x[i] += value(r, i);
        }
    }
    uint64_t h = hash_of(x, COUNT);
    free(x);
    return h;
}

int main(int argc, char **argv) {
    int n = argc == 2 ? atoi(argv[1]) : 0;
    if (n < 1) {
        fprintf(stderr, "usage: strict RANKS\n");
        return 2;
    }
    struct shared *m =
        mmap(NULL, sizeof *m, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    static const struct {
        const char *what, *options;
        int (*fn)(rondo_comm *c, void *arg);
    } runs[] = {
        {"whole, shm", "order=strict,transport=shm", whole},
        {"whole, tcp", "order=strict,transport=tcp", whole},
        {"whole, small chunks", "order=strict,transport=tcp,chunk=4K", whole},
        {"7 pieces, shm", "order=strict,transport=shm", pieces},
        {"7 pieces, tcp", "order=strict,transport=tcp", pieces},
        {"7 small pieces", "order=strict,transport=shm,direct_max=1M", pieces},
        {"permuted, shm", "order=strict,transport=shm", permuted},
        {"permuted, tcp", "order=strict,transport=tcp", permuted},
        {"ring asked for", "order=strict,transport=shm,algorithm=ring", whole},
    };
    uint64_t want = left_fold(n);
    int rc = 0;
    for (size_t i = 0; i < sizeof runs / sizeof *runs; i++) {
        if (rt_run(n, runs[i].options, runs[i].fn, &m->hash[i]) || m->hash[i] != want) {
            fprintf(stderr, "%s: the bits are not the left fold over %d ranks\n", runs[i].what, n);
            rc = 1;
        }
    }
    static const char *const defaults[] = {"transport=shm", "transport=tcp",
                                           "transport=tcp,chunk=8K",
                                           "transport=shm,chunk=4K,slots=3"};
    for (size_t i = 0; i < 4; i++) {
        if (rt_run(n, defaults[i], whole, &m->hash[i]) || m->hash[i] != m->hash[0]) {
            fprintf(stderr, "order=default: bits changed with %s\n", defaults[i]);
            rc = 1;
        }
    }
    return rc;
}
