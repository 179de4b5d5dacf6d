// SPDX-License-Identifier: MIT
// What the tests of collectives on devices share. They run over the mock driver in CI and over a real one by
// tests/gpu/run: the driver is whatever option cuda_driver names.
#ifndef RDI_CUDA_TEST_H
#define RDI_CUDA_TEST_H

#include "ring/cuda/gpu.h"
#include "ring/reduce.h"
#include "tests/ring/ring_test.h"

#include <pthread.h>

#define GUARD 256

static _Thread_local const struct rdi_cuda_api *cu;
#define CU(call) CHECK((call) == RDI_CU_OK)

// ---- Random data, the same wherever it is made ---------------------------------------------------

static inline uint64_t ct_mix(uint64_t x) {
    x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
    return x ^ (x >> 31);
}

// Any bits: infinities, NaNs, denormals, both zeros are among them.
static inline void ct_random(void *p, size_t bytes, uint64_t seed) {
    unsigned char *to = p;
    for (size_t i = 0; i < bytes; i += 8) {
        uint64_t v = ct_mix(seed * UINT64_C(0x9e3779b97f4a7c15) + i + 1);
        memcpy(to + i, &v, bytes - i < 8 ? bytes - i : 8);
    }
}

// ---- Device memory with a guard behind it --------------------------------------------------------
//
// Out of one allocation a rank, made before the first operation: to free memory is to wait for the whole device, on
// which the stream of another rank of this process may be waiting for us.

struct ct_buf {
    rdi_cu_ptr p;
    size_t bytes;
};

static _Thread_local struct {
    rdi_cu_ptr p;
    size_t bytes, used;
    unsigned live;
} ct_arena;

static inline int ct_new(struct ct_buf *b, size_t bytes) {
    static const unsigned char guard[GUARD] = {0xA5, 0x5A, 0xA5};
    b->bytes = bytes;
    b->p = ct_arena.p + ct_arena.used;
    ct_arena.used += (bytes + GUARD + 255) / 256 * 256;
    ct_arena.live++;
    CHECK(ct_arena.used <= ct_arena.bytes);
    CU(cu->copy_to_device(b->p + bytes, guard, GUARD));
    CU(cu->stream_sync(
        NULL)); // small copies of pageable memory may still be under way when the call returns
    return 0;
}

static inline int ct_put(const struct ct_buf *b, const void *from) {
    if (b->bytes) {
        CU(cu->copy_to_device(b->p, from, b->bytes));
        CU(cu->stream_sync(NULL));
    }
    return 0;
}

static inline int ct_get(const struct ct_buf *b, void *to) {
    static const unsigned char want[GUARD] = {0xA5, 0x5A, 0xA5};
    unsigned char guard[GUARD];
    if (b->bytes) {
        CU(cu->copy_to_host(to, b->p, b->bytes));
    }
    CU(cu->copy_to_host(guard, b->p + b->bytes, GUARD));
    CHECK(memcmp(guard, want, GUARD) == 0);
    return 0;
}

static inline int ct_free(struct ct_buf *b) {
    b->p = 0;
    ct_arena.used = --ct_arena.live ? ct_arena.used : 0;
    return 0;
}

#define RUN(call)        \
    do {                 \
        if ((call) != 0) \
            return 1;    \
    } while (0)

// ---- A rank and its device -----------------------------------------------------------------------

static inline int ct_begin(int local_rank, size_t bytes, int *ordinal, struct rdi_cuda_device **d) {
    cu = rdi_cuda(RDI_CUDA_LOAD);
    if (!cu) {
        fprintf(stderr, "no CUDA: %s\n", rdi_cuda_state());
        return 77;
    }
    int n = 0;
    CU(cu->device_count(&n));
    *ordinal = local_rank % n;
    OK(rdi_cuda_device(*ordinal, d));
    OK(rdi_cuda_enter(*d));
    ct_arena.bytes = bytes;
    CU(cu->mem_alloc(&ct_arena.p, bytes));
    return 0;
}

// All ranks have come here, and nothing is under way.
static inline int ct_end(rondo_comm *c, struct rdi_cuda_device *d) {
    OK(rondo_barrier(c));
    CU(cu->mem_free(ct_arena.p));
    OK(rondo_barrier(c));
    rdi_cuda_leave(d);
    return 0;
}

// ---- Ranks as threads ----------------------------------------------------------------------------

struct ct_thread {
    struct rt_body *body;
    int rank, world, port, rc;
    pthread_t thread;
};

static inline void *ct_thread_main(void *arg) {
    struct ct_thread *t = arg;
    static const char key[] = "a key for threads of one process";
    rondo_config config = RONDO_CONFIG_INIT;
    rondo_comm *comm = NULL;
    config.rank = t->rank;
    config.world_size = t->world;
    config.local_rank = t->rank;
    config.master_addr = "127.0.0.1";
    config.master_port = t->port;
    config.key = key;
    config.key_len = sizeof key;
    config.options = t->body->options;
    t->rc = 1;
    if (rondo_init(&config, &comm) != RONDO_OK) {
        fprintf(stderr, "rank %d: %s\n", t->rank, rondo_last_error());
        return NULL;
    }
    t->rc = t->body->fn(comm, t->body->arg);
    if (rondo_comm_destroy(comm) != RONDO_OK) {
        t->rc = 1;
    }
    return NULL;
}

static inline int ct_free_port(void) {
    struct rdi_job job = {.size = 1};
    struct rdi_store_server *s;
    if (rdi_store_server_start("127.0.0.1", 0, &job, &s) != RONDO_OK) {
        return -1;
    }
    int port = rdi_store_server_port(s);
    rdi_store_server_stop(s);
    return port;
}

static inline int ct_run_threads(int ranks, const char *options,
                                 int (*fn)(rondo_comm *comm, void *arg), void *arg) {
    struct rt_body body = {options, fn, arg};
    struct ct_thread t[16];
    int port = ct_free_port(), rc = 0;
    for (int r = 0; r < ranks; r++) {
        t[r] = (struct ct_thread){.body = &body, .rank = r, .world = ranks, .port = port};
        if (pthread_create(&t[r].thread, NULL, ct_thread_main, &t[r]) != 0) {
            return 1;
        }
    }
    for (int r = 0; r < ranks; r++) {
        pthread_join(t[r].thread, NULL);
        rc = rc ? rc : t[r].rc;
    }
    return rc;
}

// Without a driver or kernels the tests are skipped, with the reason. In a child: the parent must not use CUDA
// before it forks.
static inline int ct_probe(int rank, int world, void *arg) {
    struct rdi_cuda_device *d;
    (void)rank;
    (void)world;
    (void)arg;
    if (!rdi_cuda(RDI_CUDA_LOAD) || rdi_cuda_device(0, &d) != RONDO_OK || !d->module) {
        fprintf(stderr, "skipped: %s%s\n", rdi_cuda_state(),
                rdi_cuda_image_size ? "" : " (no kernels in this build)");
        return 77;
    }
    return 0;
}

static inline int ct_skips(void) { return rondo_spawn(ct_probe, 1, NULL) != RONDO_OK; }

#endif
