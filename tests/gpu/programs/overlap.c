// SPDX-License-Identifier: MIT
// gpu_overlap OPTIONS [--quick]: what a collective and a computation do to each other on one device, as one JSON object.
// Two ranks are threads of one process, whose streams run side by side; rank 0 also computes. The computation is
// multiply-adds on all multiprocessors in many short blocks, as a matrix product has them. Times are from events.
#include "tests/gpu/programs/measure.h"

#define COUNT ((size_t)16 << 20) // f32 of the collective: 64 MiB

// What the driver compiles at run time. A block takes a time that grows with
// `rounds` and touches no memory but its one result.
static const char computing[] = ".version 7.0\n.target sm_70\n.address_size 64\n"
                                ".visible .entry compute(.param .u64 out, .param .u32 rounds)\n"
                                "{\n"
                                "  .reg .pred %p<2>;\n  .reg .u32 %r<3>;\n  .reg .f32 %f<5>;\n"
                                "  .reg .u64 %rd<2>;\n"
                                "  ld.param.u64 %rd0, [out];\n"
                                "  ld.param.u32 %r0, [rounds];\n"
                                "  mov.u32 %r1, %tid.x;\n"
                                "  cvt.rn.f32.u32 %f0, %r1;\n"
                                "  mov.f32 %f1, 0f3F000000;\n"
                                "  mov.f32 %f2, %f0;\n"
                                "  mov.f32 %f3, %f1;\n"
                                "again:\n"
                                "  fma.rn.f32 %f0, %f0, %f1, %f1;\n"
                                "  fma.rn.f32 %f2, %f2, %f1, %f1;\n"
                                "  fma.rn.f32 %f3, %f3, %f1, %f1;\n"
                                "  sub.u32 %r0, %r0, 1;\n"
                                "  setp.ne.u32 %p0, %r0, 0;\n"
                                "  @%p0 bra again;\n"
                                "  add.f32 %f0, %f0, %f2;\n"
                                "  add.f32 %f0, %f0, %f3;\n"
                                "  st.global.f32 [%rd0], %f0;\n"
                                "  ret;\n"
                                "}\n";

struct job {
    rondo_comm *c;
    struct rdi_cuda_device *d;
    size_t count;
    unsigned launches, rounds;
    rdi_cu_stream talk, work;
    rdi_cu_event begin[2], end[2]; // of talk and work
    rdi_cu_function compute;
    bool reads_memory; // the driver compiles nothing, as a mock does: a reduce kernel stands in
    rdi_cu_ptr x, out;
};

static rdi_cu_result compute(struct job *j) {
    unsigned blocks = (unsigned)j->d->multiprocessors * 32;
    if (j->reads_memory) {
        struct rdi_gpu_step s = {.in = j->out, .local = j->out, .dst = j->out, .bytes = 4096};
        void *args[] = {&s};
        return cu->launch(j->compute, 1, 1, 1, RDI_STEP_BLOCK, 1, 1, 0, j->work, args, NULL);
    }
    void *args[] = {&j->out, &j->rounds};
    return cu->launch(j->compute, blocks, 1, 1, 256, 1, 1, 0, j->work, args, NULL);
}

static int find_compute(struct job *j) {
    rdi_cu_module m;
    j->rounds = 4000;
    j->reads_memory = cu->module_load(&m, computing) != RDI_CU_OK;
    if (j->reads_memory) {
        OK(rdi_cuda_kernel(j->d, "rdi_step_prod_f32", &j->compute));
        return 0;
    }
    CU(cu->module_function(&j->compute, m, "compute"));
    return 0;
}

static int enqueue(struct job *j, bool talk, bool work) {
    if (work) {
        CU(cu->event_record(j->begin[1], j->work));
        for (unsigned k = 0; k < j->launches; k++) {
            CU(compute(j));
        }
        CU(cu->event_record(j->end[1], j->work));
    }
    if (talk) {
        CU(cu->event_record(j->begin[0], j->talk));
        for (int k = 0; k < 4; k++) {
            void *p = (void *)(uintptr_t)j->x;
            OK(rondo_all_reduce_stream(p, p, j->count, RONDO_F32, RONDO_MAX, j->c, j->talk));
        }
        CU(cu->event_record(j->end[0], j->talk));
    }
    return 0;
}

// Milliseconds of both, medians of several goes. What is not asked for is 0.
static int timed(struct job *j, bool talk, bool work, double ms[2]) {
    enum { GOES = 5 };
    double go[2][GOES] = {{0}};
    bool mine = rondo_comm_rank(j->c) == 0;
    for (int i = -1; i < GOES; i++) {
        OK(rondo_barrier(j->c));
        RUN(enqueue(j, talk, work && mine));
        CU(cu->stream_sync(j->talk));
        CU(cu->stream_sync(j->work));
        for (int what = 0; what < 2 && i >= 0; what++) {
            float t = 0;
            if (what == 0 ? talk : work && mine) {
                CU(cu->event_elapsed(&t, j->begin[what], j->end[what]));
            }
            go[what][i] = (double)t;
        }
    }
    ms[0] = quantile(go[0], GOES, 0.5);
    ms[1] = quantile(go[1], GOES, 0.5);
    return 0;
}

static int prepare(struct job *j) {
    int least, most;
    CU(cu->stream_priorities(&least, &most));
    CU(cu->stream_create(&j->talk, RDI_CU_STREAM_NON_BLOCKING, most));
    CU(cu->stream_create(&j->work, RDI_CU_STREAM_NON_BLOCKING, least));
    for (int k = 0; k < 2; k++) {
        CU(cu->event_create(&j->begin[k], RDI_CU_EVENT_DEFAULT));
        CU(cu->event_create(&j->end[k], RDI_CU_EVENT_DEFAULT));
    }
    RUN(find_compute(j));
    j->x = ct_arena.p;
    j->out = ct_arena.p + j->count * 4;
    CU(cu->set_async(j->x, 0, j->count * 4 + 4096, j->talk));
    CU(cu->stream_sync(j->talk));
    return 0;
}

// The computation is to take about as long as the collectives: half to twice.
static int balance(struct job *j, double talk) {
    double ms[2];
    for (int k = 0; k < 6; k++) {
        RUN(timed(j, false, true, ms));
        if (rondo_comm_rank(j->c) == 0 && !j->reads_memory && ms[1] < talk && j->launches < 4096) {
            j->launches *= 2;
        }
    }
    return 0;
}

static int body(rondo_comm *c, void *arg) {
    int ordinal = 0;
    double talk[2], work[2], both[2];
    struct job j = *(struct job *)arg;
    j.c = c;
    RUN(ct_begin(0, j.count * 4 + 8192, &ordinal, &j.d));
    OK(rondo_comm_attach(c, ordinal));
    RUN(prepare(&j));
    RUN(timed(&j, true, false, talk));
    RUN(balance(&j, talk[0]));
    RUN(timed(&j, false, true, work));
    RUN(timed(&j, true, true, both));
    if (rondo_comm_rank(c) == 0) {
        printf("{\"bytes\": %zu, \"computation\": \"%s\", \"all_reduce_ms\": %.3f, \"compute_ms\": "
               "%.3f, \"all_reduce_beside_ms\": %.3f, \"compute_beside_ms\": %.3f}\n",
               j.count * 4, j.reads_memory ? "reduce kernel" : "multiply-adds", talk[0] / 4,
               work[1], both[0] / 4, both[1]);
        fflush(stdout);
    }
    OK(rondo_barrier(c));
    for (int k = 0; k < 2; k++) {
        CU(cu->event_destroy(j.begin[k]));
        CU(cu->event_destroy(j.end[k]));
    }
    CU(cu->stream_destroy(j.talk));
    CU(cu->stream_destroy(j.work));
    return ct_end(c, j.d);
}

int main(int argc, char **argv) {
    bool quick = argc == 3 && strcmp(argv[2], "--quick") == 0;
    if (argc != 2 + quick) {
        fprintf(stderr, "usage: %s OPTIONS [--quick]\n", argv[0]);
        return 2;
    }
    if (ct_skips()) {
        return 77;
    }
    struct job j = {.count = quick ? COUNT / 64 : COUNT, .launches = quick ? 4 : 16};
    return ct_run_threads(2, argv[1], body, &j);
}
