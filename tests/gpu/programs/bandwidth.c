// SPDX-License-Identifier: MIT
// gpu_bandwidth RANKS OPTIONS MIB [threads]: all_reduce of 1 MiB to MIB on streams, out of place, every result
// checked, as one JSON object. algbw: bytes of the buffer by time; busbw: times 2(n-1)/n, as nccl-tests count.
#include "tests/gpu/programs/measure.h"

#define PART ((size_t)1 << 20) // what is checked at both ends

struct job {
    rondo_comm *c;
    rdi_cu_stream s;
    rdi_cu_ptr send, recv;
    size_t most;
    bool threads;
};

static int prepare(struct job *j) {
    float *v = malloc(PART);
    for (size_t i = 0; i < PART / 4; i++) {
        v[i] = (float)(rondo_comm_rank(j->c) + 1) * (float)(i % 1000);
    }
    for (size_t at = 0; at < j->most; at += PART) {
        CU(cu->copy_to_device(j->send + at, v, PART));
    }
    CU(cu->stream_sync(NULL));
    free(v);
    return 0;
}

static int verify(struct job *j, size_t bytes) {
    int n = rondo_comm_size(j->c);
    float *v = malloc(PART), sum = (float)(n * (n + 1) / 2);
    for (int end = 0; end < 2; end++) {
        CU(cu->copy_to_host(v, j->recv + (end ? bytes - PART : 0), PART));
        for (size_t i = 0; i < PART / 4; i++) {
            CHECK(v[i] == sum * (float)(i % 1000));
        }
    }
    free(v);
    return 0;
}

static int timed(struct job *j, size_t bytes, int repeats, double *us) {
    OK(rondo_barrier(j->c));
    double t0 = now_us();
    for (int k = 0; k < repeats; k++) {
        OK(rondo_all_reduce_stream((void *)(uintptr_t)j->send, (void *)(uintptr_t)j->recv,
                                   bytes / 4, RONDO_F32, RONDO_SUM, j->c, j->s));
    }
    CU(cu->stream_sync(j->s));
    *us = (now_us() - t0) / repeats;
    return 0;
}

static int one_size(struct job *j, size_t bytes) {
    enum { ROUNDS = 5 };
    double us[ROUNDS], n = rondo_comm_size(j->c);
    int repeats = bytes > (64u << 20) ? 2 : bytes > (8u << 20) ? 4 : 10;
    CU(cu->set_async(j->recv, 0xff, bytes, j->s));
    RUN(timed(j, bytes, 1, &us[0]));
    RUN(verify(j, bytes));
    for (int i = 0; i < ROUNDS; i++) {
        RUN(timed(j, bytes, repeats, &us[i]));
    }
    if (rondo_comm_rank(j->c) == 0) {
        double t = quantile(us, ROUNDS, 0.5), alg = rate((double)bytes, t);
        printf("%s\n  {\"bytes\": %zu, \"us\": %.1f, \"algbw_gbs\": %.2f, \"busbw_gbs\": %.2f}",
               bytes > PART ? "," : "", bytes, t, alg, alg * 2 * (n - 1) / n);
    }
    return 0;
}

static int body(rondo_comm *c, void *arg) {
    int ordinal;
    struct rdi_cuda_device *d;
    struct job j = *(struct job *)arg;
    bool first = rondo_comm_rank(c) == 0;
    j.c = c;
    RUN(ct_begin(rondo_comm_local_rank(c), 2 * j.most, &ordinal, &d));
    j.send = ct_arena.p;
    j.recv = ct_arena.p + j.most;
    OK(rondo_comm_attach(c, ordinal));
    CU(cu->stream_create(&j.s, RDI_CU_STREAM_NON_BLOCKING, 0));
    RUN(prepare(&j));
    if (first) {
        printf("{\"ranks\": %d, \"threads\": %s, ", rondo_comm_size(c),
               j.threads ? "true" : "false");
        RUN(print_reaches(c));
        printf(", \"rows\": [");
    }
    for (size_t bytes = PART; bytes <= j.most; bytes *= 4) {
        RUN(one_size(&j, bytes));
    }
    if (first) {
        printf("]}\n");
        fflush(stdout);
    }
    OK(rondo_barrier(c));
    CU(cu->stream_destroy(j.s));
    return ct_end(c, d);
}

int main(int argc, char **argv) {
    int mib = argc > 3 ? atoi(argv[3]) : 0;
    if (mib < 1 || mib > 4096) {
        fprintf(stderr, "usage: %s RANKS OPTIONS MIB [threads]\n", argv[0]);
        return 2;
    }
    if (ct_skips()) {
        return 77;
    }
    struct job j = {.most = (size_t)mib << 20,
                    .threads = argc > 4 && strcmp(argv[4], "threads") == 0};
    return (j.threads ? ct_run_threads : rt_run)(atoi(argv[1]), argv[2], body, &j);
}
