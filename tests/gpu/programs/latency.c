// SPDX-License-Identifier: MIT
// gpu_latency RANKS OPTIONS [threads]: small all_reduces on streams, as one JSON object: what the call costs the host,
// what one takes from call to end, and what each of many takes. Ranks share device 0 where there is only one.
#include "tests/gpu/programs/measure.h"

enum { BATCH = 16, ROUNDS = 31, WARM = 5, LARGEST = 4096 };

struct row {
    double call, complete, worst, each;
};

static int one(rondo_comm *c, const struct ct_buf *b, size_t count, rdi_cu_stream s) {
    void *p = (void *)(uintptr_t)b->p;
    OK(rondo_all_reduce_stream(p, p, count, RONDO_F32, RONDO_MAX, c, s));
    return 0;
}

static int measure(rondo_comm *c, const struct ct_buf *b, size_t count, rdi_cu_stream s,
                   struct row *row) {
    double call[ROUNDS], complete[ROUNDS], each[ROUNDS];
    for (int i = -WARM; i < ROUNDS; i++) {
        OK(rondo_barrier(c));
        double t0 = now_us();
        RUN(one(c, b, count, s));
        CU(cu->stream_sync(s));
        double t1 = now_us();
        for (int k = 0; k < BATCH; k++) {
            RUN(one(c, b, count, s));
        }
        double t2 = now_us();
        CU(cu->stream_sync(s));
        if (i >= 0) {
            complete[i] = t1 - t0;
            call[i] = (t2 - t1) / BATCH;
            each[i] = (now_us() - t1) / BATCH;
        }
    }
    *row = (struct row){quantile(call, ROUNDS, 0.5), quantile(complete, ROUNDS, 0.5),
                        quantile(complete, ROUNDS, 0.9), quantile(each, ROUNDS, 0.5)};
    return 0;
}

// The largest of all ranks' values is rank n - 1's.
static int prepare(rondo_comm *c, const struct ct_buf *b) {
    float v[LARGEST / 4];
    for (size_t i = 0; i < LARGEST / 4; i++) {
        v[i] = (float)rondo_comm_rank(c) + (float)i;
    }
    return ct_put(b, v);
}

static int verify(rondo_comm *c, const struct ct_buf *b) {
    float v[LARGEST / 4];
    RUN(ct_get(b, v));
    for (size_t i = 0; i < LARGEST / 4; i++) {
        CHECK(v[i] == (float)rondo_comm_size(c) - 1 + (float)i);
    }
    return 0;
}

static int body(rondo_comm *c, void *arg) {
    int ordinal;
    struct rdi_cuda_device *d;
    struct ct_buf b;
    rdi_cu_stream s;
    bool first = rondo_comm_rank(c) == 0;
    RUN(ct_begin(rondo_comm_local_rank(c), 1 << 20, &ordinal, &d));
    OK(rondo_comm_attach(c, ordinal));
    RUN(ct_new(&b, LARGEST));
    RUN(prepare(c, &b));
    CU(cu->stream_create(&s, RDI_CU_STREAM_NON_BLOCKING, 0));
    if (first) {
        printf("{\"ranks\": %d, \"threads\": %s, ", rondo_comm_size(c),
               *(bool *)arg ? "true" : "false");
        RUN(print_reaches(c));
        printf(", \"rows\": [");
    }
    for (size_t bytes = 8; bytes <= LARGEST; bytes *= 8) {
        struct row r;
        RUN(measure(c, &b, bytes / 4, s, &r));
        if (first) {
            printf("%s\n  {\"bytes\": %zu, \"call_us\": %.2f, \"complete_us\": %.2f, "
                   "\"complete_p90_us\": %.2f, \"each_us\": %.2f}",
                   bytes > 8 ? "," : "", bytes, r.call, r.complete, r.worst, r.each);
        }
    }
    RUN(one(c, &b, LARGEST / 4, s));
    CU(cu->stream_sync(s));
    RUN(verify(c, &b));
    if (first) {
        printf("]}\n");
        fflush(stdout);
    }
    OK(rondo_barrier(c));
    CU(cu->stream_destroy(s));
    return ct_end(c, d);
}

int main(int argc, char **argv) {
    if (argc < 3) {
        fprintf(stderr, "usage: %s RANKS OPTIONS [threads]\n", argv[0]);
        return 2;
    }
    if (ct_skips()) {
        return 77;
    }
    bool threads = argc > 3 && strcmp(argv[3], "threads") == 0;
    return (threads ? ct_run_threads : rt_run)(atoi(argv[1]), argv[2], body, &threads);
}
