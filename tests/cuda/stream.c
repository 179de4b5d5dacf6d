// SPDX-License-Identifier: MIT
// What a collective on a stream promises: stream RANKS OPTIONS [threads]
//
// Over the mock driver a stream can be held, so that "returns at once" and "waits for what is before it" are facts
// and not a matter of time; over a real one a long memset stands in for that.
#include "cuda_test.h"

#include "tests/mock_cuda/mock_cuda.h"

#include <dlfcn.h>
#include <time.h>
#include <unistd.h>

#define COUNT 100000u

struct job {
    rondo_comm *c;
    int n, me;
    struct rdi_cuda_device *d;
    rdi_cu_stream a, b;
    struct ct_buf x, y;
    struct rdi_cuda_pinned one; // COUNT ones
    rdi_cu_ptr small, big[2];   // 64 bytes; 6 MiB
    float *host;
    bool threads, driven;
    _Atomic int stop;
    pthread_t driver;
};

// The mock's own functions, when the driver is the mock.
static _Thread_local void (*hold_fn)(void *, bool);
static _Thread_local void (*capture_fn)(void *, int);
static _Thread_local void *(*managed_fn)(size_t);
static _Thread_local void (*forbid_fn)(bool);
static _Thread_local void (*managed_free_fn)(void *);

static void find_mock(void) {
    void *h = dlopen(getenv("RONDO_CUDA_DRIVER") ? getenv("RONDO_CUDA_DRIVER") : "libcuda.so.1",
                     RTLD_NOW | RTLD_NOLOAD);
    void *f[5] = {NULL};
    static const char *const names[] = {"mock_cuda_hold", "mock_cuda_set_capture",
                                        "mock_cuda_managed", "mock_cuda_managed_free",
                                        "mock_cuda_forbid_thread"};
    for (int i = 0; h && i < 5; i++) {
        f[i] = dlsym(h, names[i]);
    }
    memcpy(&hold_fn, &f[0], sizeof f[0]);
    memcpy(&capture_fn, &f[1], sizeof f[1]);
    memcpy(&managed_fn, &f[2], sizeof f[2]);
    memcpy(&managed_free_fn, &f[3], sizeof f[3]);
    memcpy(&forbid_fn, &f[4], sizeof f[4]);
}

static double seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static int put(const struct job *j, const struct ct_buf *b, float v) {
    for (size_t i = 0; i < COUNT; i++) {
        j->host[i] = v;
    }
    return ct_put(b, j->host);
}

static int all_are(const struct job *j, const struct ct_buf *b, float v) {
    RUN(ct_get(b, j->host));
    for (size_t i = 0; i < COUNT; i++) {
        if (j->host[i] != v) {
            fprintf(stderr, "rank %d: element %zu is %g, not %g\n", j->me, i, (double)j->host[i],
                    (double)v);
            return 1;
        }
    }
    return 0;
}

static rondo_status sum(const struct job *j, const struct ct_buf *from, const struct ct_buf *to,
                        rdi_cu_stream s) {
    return rondo_all_reduce_stream((void *)(uintptr_t)from->p, (void *)(uintptr_t)to->p, COUNT,
                                   RONDO_F32, RONDO_SUM, j->c, s);
}

#define P(b) ((void *)(uintptr_t)(b).p)

// The call returns while the stream is stopped, and what is enqueued around it keeps its order.
static int returns_at_once(struct job *j) {
    float n = (float)j->n;
    RUN(put(j, &j->x, 0));
    if (hold_fn) {
        hold_fn(j->a, true);
    }
    double t0 = seconds();
    // before: x = 1.0 in every element, by bytes of pinned memory
    float *one = j->one.host;
    for (size_t i = 0; i < COUNT; i++) {
        one[i] = 1.0f;
    }
    CU(cu->copy_to_device_async(j->x.p, one, COUNT * 4, j->a));
    OK(sum(j, &j->x, &j->y, j->a));
    OK(sum(j, &j->y, &j->y, j->a));
    // after: x may be overwritten, y may be read
    CU(cu->set_async(j->x.p, 0, COUNT * 4, j->a));
    CU(cu->copy_to_host_async(one, j->y.p, COUNT * 4, j->a));
    CHECK(seconds() - t0 < 5.0);
    if (hold_fn) {
        usleep(20000);
        CHECK(cu->stream_query(j->a) == RDI_CU_NOT_READY);
        hold_fn(j->a, false);
    }
    CU(cu->stream_sync(j->a));
    for (size_t i = 0; i < COUNT; i++) {
        CHECK(one[i] == n * n);
    }
    RUN(all_are(j, &j->x, 0));
    return all_are(j, &j->y, n * n);
}

// Operations on two streams: in the order of the calls.
static int two_streams(struct job *j) {
    float want = 1;
    RUN(put(j, &j->x, 1));
    for (int k = 0; k < 6; k++) {
        OK(sum(j, &j->x, &j->x, k % 2 ? j->a : j->b));
        want *= (float)j->n;
    }
    CU(cu->stream_sync(j->a));
    CU(cu->stream_sync(j->b));
    return all_are(j, &j->x, want);
}

// Many small ones at once, more than slots.
static int many(struct job *j) {
    RUN(put(j, &j->x, 1));
    for (int k = 0; k < 200; k++) {
        rdi_cu_ptr p = j->x.p + (rdi_cu_ptr)(k * 400);
        OK(rondo_all_reduce_stream((void *)(uintptr_t)p, (void *)(uintptr_t)p, 100, RONDO_F32,
                                   RONDO_SUM, j->c, j->a));
    }
    CU(cu->stream_sync(j->a));
    RUN(ct_get(&j->x, j->host));
    for (size_t i = 0; i < 20000; i++) {
        CHECK(j->host[i] == (float)j->n);
    }
    return 0;
}

// Rank 0 gives away one value after the other, and more than there are slots, while the others do not come to take
// them.
static int far_ahead(struct job *j) {
    enum { TURNS = 40, EACH = COUNT / TURNS };
    for (size_t i = 0; i < COUNT; i++) {
        j->host[i] = j->me == 0 ? (float)(i / EACH) : -1.0f;
    }
    RUN(ct_put(&j->x, j->host));
    OK(rondo_barrier(j->c));
    if (hold_fn && j->me != 0) {
        hold_fn(j->a, true);
    }
    for (size_t k = 0; k < TURNS; k++) {
        void *p = (void *)(uintptr_t)(j->x.p + k * EACH * 4);
        OK(rondo_broadcast_stream(p, p, EACH, RONDO_F32, 0, j->c, j->a));
    }
    if (hold_fn && j->me != 0) {
        usleep(30000);
        hold_fn(j->a, false);
    }
    CU(cu->stream_sync(j->a));
    RUN(ct_get(&j->x, j->host));
    for (size_t i = 0; i < TURNS * EACH; i++) {
        CHECK(j->host[i] == (float)(i / EACH));
    }
    return 0;
}

// To the right and from the left at once, more than there are slots: on two streams, and by requests.
static int both_ways(struct job *j) {
    // Two streams of one hardware queue are one: each rank's send would hold back its receive.
    if (j->n == 1 || getenv("MOCK_CUDA_QUEUES")) {
        return 0;
    }
    const size_t big = (6u << 20) / 4; // of rdi_gpu_edge rings, 6 rings' worth
    int right = (j->me + 1) % j->n, left = (j->me + j->n - 1) % j->n;
    float *host = malloc(big * 4);
    for (int turn = 0; turn < 3; turn++) {
        size_t count = turn == 0 ? 64 : big;
        for (size_t i = 0; i < count; i++) {
            host[i] = (float)(j->me * 100 + turn) + (float)(i % 64) / 64;
        }
        CU(cu->copy_to_device(j->big[0], host, count * 4));
        CU(cu->set_async(j->big[1], 0, count * 4, NULL));
        CU(cu->stream_sync(NULL));
        void *from = (void *)(uintptr_t)j->big[0], *to = (void *)(uintptr_t)j->big[1];
        if (turn < 2) {
            OK(rondo_send_stream(from, count, RONDO_F32, right, j->c, j->a));
            OK(rondo_recv_stream(to, count, RONDO_F32, left, j->c, j->b));
            CU(cu->stream_sync(j->a));
            CU(cu->stream_sync(j->b));
        } else {
            rondo_request *r[2];
            OK(rondo_recv_start(to, count, RONDO_F32, left, j->c, &r[0]));
            OK(rondo_send_start(from, count, RONDO_F32, right, j->c, &r[1]));
            OK(rondo_wait_all(r, 2));
        }
        CU(cu->copy_to_host(host, j->big[1], count * 4));
        for (size_t i = 0; i < count; i++) {
            CHECK(host[i] == (float)(left * 100 + turn) + (float)(i % 64) / 64);
        }
        OK(rondo_barrier(j->c));
    }
    free(host);
    return 0;
}

// A communicator ends while another one has work on a stream, which needs the engine that both share.
static int end_beside(struct job *j) {
    rondo_comm *other;
    if (j->threads) {
        return 0; // see cuda_test.h
    }
    OK(rondo_comm_split(j->c, 0, j->me, &other));
    OK(rondo_comm_attach(other, j->d->ordinal));
    RUN(put(j, &j->x, 1));
    OK(rondo_barrier(j->c));
    if (j->me == 0) {
        usleep(100000); // the others' operation waits for ours by now
    }
    OK(sum(j, &j->x, &j->y, j->a));
    OK(rondo_comm_destroy(other));
    CU(cu->stream_sync(j->a));
    return all_are(j, &j->y, (float)j->n);
}

// Device memory in the calls without a stream; the legacy stream; host and device operations in turns.
static int without_stream(struct job *j) {
    RUN(put(j, &j->x, 2));
    OK(rondo_all_reduce(P(j->x), P(j->y), COUNT, RONDO_F32, RONDO_SUM, j->c));
    RUN(all_are(j, &j->y, 2 * (float)j->n));
    rondo_request *r[2];
    float mine = 1, all = 0;
    OK(rondo_all_reduce_start(P(j->x), P(j->x), COUNT, RONDO_F32, RONDO_SUM, j->c, &r[0]));
    OK(rondo_all_reduce_start(&mine, &all, 1, RONDO_F32, RONDO_SUM, j->c, &r[1]));
    OK(rondo_wait_all(r, 2));
    CHECK(all == (float)j->n);
    RUN(all_are(j, &j->x, 2 * (float)j->n));
    if (j->threads) {
        return 0; // all ranks of a process share the legacy stream: the first would wait for the second
    }
    RUN(put(j, &j->x, 3));
    OK(sum(j, &j->x, &j->y, NULL));
    CU(cu->stream_sync(NULL));
    return all_are(j, &j->y, 3 * (float)j->n);
}

static int refused(rondo_status got, rondo_status want, const char *word) {
    CHECK(got == want);
    if (!strstr(rondo_last_error(), word)) {
        fprintf(stderr, "the error lacks \"%s\": %s\n", word, rondo_last_error());
        return 1;
    }
    return 0;
}

// What is wrong is said, enqueues nothing and leaves the communicator as it was.
static int refusals(struct job *j) {
    float host[16] = {0};
    void *small = (void *)(uintptr_t)j->small;
    RUN(refused(rondo_all_reduce_stream(host, P(j->y), 16, RONDO_F32, RONDO_SUM, j->c, j->a),
                RONDO_ERR_INVALID, "host memory"));
    RUN(refused(rondo_all_reduce_stream(P(j->x), host, 16, RONDO_F32, RONDO_SUM, j->c, j->a),
                RONDO_ERR_INVALID, "receive buffer"));
    RUN(refused(rondo_all_reduce_stream(small, P(j->y), COUNT, RONDO_F32, RONDO_SUM, j->c, j->a),
                RONDO_ERR_INVALID, "leave their allocation"));
    RUN(refused(rondo_comm_attach(j->c, j->d->ordinal + 1), RONDO_ERR_USAGE, "attached"));
    RUN(refused(rondo_comm_attach(NULL, 0), RONDO_ERR_INVALID, "NULL"));
    if (managed_fn) {
        void *m = managed_fn(4096);
        RUN(refused(rondo_all_reduce_stream(m, P(j->y), 16, RONDO_F32, RONDO_SUM, j->c, j->a),
                    RONDO_ERR_UNSUPPORTED, "managed memory"));
        RUN(refused(rondo_all_reduce(m, m, 16, RONDO_F32, RONDO_SUM, j->c), RONDO_ERR_UNSUPPORTED,
                    "managed memory"));
        managed_free_fn(m);
    }
    if (capture_fn) {
        capture_fn(j->a, RDI_CU_CAPTURE_ACTIVE);
        RUN(refused(sum(j, &j->x, &j->y, j->a), RONDO_ERR_UNSUPPORTED, "captured"));
        capture_fn(j->a, RDI_CU_CAPTURE_NONE);
    }
    return two_streams(j);
}

// A communicator from a split attaches by itself, with the device of the buffers.
static int split(struct job *j) {
    struct job k = *j;
    OK(rondo_comm_split(j->c, j->me % 2, j->me, &k.c));
    k.n = rondo_comm_size(k.c);
    RUN(put(&k, &j->x, 1));
    RUN(refused(rondo_all_reduce(P(j->x), P(j->y), 4, RONDO_F32, RONDO_SUM, k.c), RONDO_ERR_USAGE,
                "rondo_comm_attach"));
    RUN(refused(rondo_send_stream(P(j->x), 4, RONDO_F32, k.n > 1 && k.me == 0 ? 1 : 0, k.c, j->a),
                RONDO_ERR_USAGE, "rondo_comm_attach"));
    OK(sum(&k, &j->x, &j->y, j->a));
    CU(cu->stream_sync(j->a));
    RUN(all_are(&k, &j->y, (float)k.n));
    OK(rondo_comm_destroy(k.c));
    OK(rondo_barrier(
        j->c)); // destroy frees memory, which waits for the whole device: see cuda_test.h
    return 0;
}

// With progress=caller this thread is all that moves operations, and it may not call the driver.
static void *drive(void *arg) {
    struct job *j = arg;
    find_mock();
    if (forbid_fn) {
        forbid_fn(true);
    }
    while (!atomic_load(&j->stop)) {
        if (rondo_progress(j->c) != RONDO_OK) {
            usleep(50);
        }
    }
    return NULL;
}

struct run {
    bool threads, driven;
};

static int body(rondo_comm *c, void *arg) {
    int ordinal;
    struct job j = {.c = c, .n = rondo_comm_size(c), .me = rondo_comm_rank(c)};
    int rc = ct_begin(rondo_comm_local_rank(c), 4 * COUNT * 4, &ordinal, &j.d);
    if (rc) {
        return rc;
    }
    find_mock();
    j.threads = ((struct run *)arg)->threads;
    j.driven = ((struct run *)arg)->driven;
    // One rank that cannot is an error on all of them, which names it; later it may.
    RUN(refused(rondo_comm_attach(c, j.me == j.n - 1 ? 50 : ordinal), RONDO_ERR_INVALID,
                "no CUDA device 50"));
    OK(rondo_comm_attach(c, ordinal));
    CHECK(!j.driven || pthread_create(&j.driver, NULL, drive, &j) == 0);
    OK(rondo_comm_attach(c, ordinal)); // again is nothing
    j.host = malloc(COUNT * 4);
    CU(cu->mem_alloc(&j.small, 64));
    CU(cu->mem_alloc(&j.big[0], 6u << 20));
    CU(cu->mem_alloc(&j.big[1], 6u << 20));
    OK(rdi_cuda_pinned_alloc(j.d, COUNT * 4, &j.one));
    RUN(ct_new(&j.x, COUNT * 4));
    RUN(ct_new(&j.y, COUNT * 4));
    CU(cu->stream_create(&j.a, RDI_CU_STREAM_NON_BLOCKING, 0));
    CU(cu->stream_create(&j.b, RDI_CU_STREAM_NON_BLOCKING, 0));
    for (int k = 0; k < 3; k++) {
        RUN(returns_at_once(&j));
        RUN(two_streams(&j));
        RUN(many(&j));
        RUN(far_ahead(&j));
    }
    RUN(both_ways(&j));
    RUN(end_beside(&j));
    RUN(without_stream(&j));
    RUN(refusals(&j));
    RUN(split(&j));
    RUN(returns_at_once(&j));
    OK(rondo_barrier(c));
    if (j.driven) {
        atomic_store(&j.stop, 1);
        pthread_join(j.driver, NULL);
    }
    CU(cu->stream_destroy(j.a));
    CU(cu->stream_destroy(j.b));
    free(j.host);
    rdi_cuda_pinned_free(j.d, &j.one);
    CU(cu->mem_free(j.small));
    CU(cu->mem_free(j.big[0]));
    CU(cu->mem_free(j.big[1]));
    return ct_end(c, j.d);
}

int main(int argc, char **argv) {
    if (argc < 3) {
        fprintf(stderr, "usage: %s RANKS OPTIONS [threads]\n", argv[0]);
        return 2;
    }
    if (ct_skips()) {
        return 77;
    }
    struct run r = {.threads = argc > 3 && strcmp(argv[3], "threads") == 0,
                    .driven = strstr(argv[2], "progress=caller") != NULL};
    return (r.threads ? ct_run_threads : rt_run)(atoi(argv[1]), argv[2], body, &r);
}
