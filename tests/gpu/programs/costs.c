// SPDX-License-Identifier: MIT
// gpu_costs [--quick]: what the device and its driver cost without Rondo, as one JSON object: launches, memory
// operations, the way of a flag from host to device and back, copies. The figures of other programs are held against these.
#include "tests/gpu/programs/measure.h"

#include <stdatomic.h>
#include <unistd.h>

enum { BATCH = 32, ROUNDS = 41, TRIPS = 500 };

struct gpu {
    struct rdi_cuda_device *d;
    rdi_cu_stream s;
    rdi_cu_function step;
    rdi_cu_ptr memory;
    struct rdi_cuda_pinned words; // 0: to the device, 1: from it
};

static rdi_cu_result launch(struct gpu *g) {
    struct rdi_gpu_step step = {
        .in = g->memory, .local = g->memory + 4096, .dst = g->memory + 8192, .bytes = 4096};
    void *args[] = {&step};
    return cu->launch(g->step, 1, 1, 1, RDI_STEP_BLOCK, 1, 1, 0, g->s, args, NULL);
}

static rdi_cu_result copy_small(struct gpu *g) {
    return cu->copy_async(g->memory + 8192, g->memory, 4096, g->s);
}

static rdi_cu_result write_word(struct gpu *g) {
    return cu->write_value(g->s, g->words.device + 4, 1, RDI_CU_WRITE_DEFAULT);
}

static rdi_cu_result wait_word(struct gpu *g) {
    return cu->wait_value(g->s, g->words.device + 8, 0, RDI_CU_WAIT_GEQ);
}

static rdi_cu_result both_words(struct gpu *g) {
    rdi_cu_memop op[2] = {{.all = {0}}, {.all = {0}}};
    op[0].value32.kind = RDI_CU_OP_WAIT32;
    op[0].value32.address = g->words.device + 8;
    op[1].value32.kind = RDI_CU_OP_WRITE32;
    op[1].value32.address = g->words.device + 4;
    op[1].value32.value = 1;
    return cu->batch_memop(g->s, 2, op, 0);
}

// Microseconds of the host for a call, of the stream for an operation among many, and of one from call to end.
static int cost(struct gpu *g, const char *name, rdi_cu_result (*call)(struct gpu *)) {
    double host[ROUNDS], each[ROUNDS], alone[ROUNDS];
    for (int i = -3; i < ROUNDS; i++) {
        double t0 = now_us();
        for (int k = 0; k < BATCH; k++) {
            CU(call(g));
        }
        double t1 = now_us();
        CU(cu->stream_sync(g->s));
        double t2 = now_us();
        CU(call(g));
        CU(cu->stream_sync(g->s));
        if (i >= 0) {
            host[i] = (t1 - t0) / BATCH;
            each[i] = (t2 - t0) / BATCH;
            alone[i] = now_us() - t2;
        }
    }
    printf(",\n  \"%s\": {\"call_us\": %.2f, \"each_us\": %.2f, \"complete_us\": %.2f}", name,
           quantile(host, ROUNDS, 0.5), quantile(each, ROUNDS, 0.5), quantile(alone, ROUNDS, 0.5));
    return 0;
}

// A flag of the host that the stream waits for, answered by one that the host waits for.
static int trips(struct gpu *g) {
    _Atomic uint32_t *to = g->words.host, *from = to + 1;
    double us[TRIPS];
    atomic_store(to, 0);
    atomic_store(from, 0);
    for (uint32_t k = 1; k <= TRIPS; k++) {
        CU(cu->wait_value(g->s, g->words.device, k, RDI_CU_WAIT_GEQ));
        CU(cu->write_value(g->s, g->words.device + 4, k, RDI_CU_WRITE_DEFAULT));
        usleep(20); // the stream shall be waiting
        double t0 = now_us();
        atomic_store_explicit(to, k, memory_order_release);
        while (atomic_load_explicit(from, memory_order_acquire) != k) {
            CHECK(now_us() - t0 < 2e6);
        }
        us[k - 1] = now_us() - t0;
    }
    CU(cu->stream_sync(g->s));
    printf(",\n  \"flag_round_trip_us\": %.2f, \"flag_round_trip_p99_us\": %.2f",
           quantile(us, TRIPS, 0.5), quantile(us, TRIPS, 0.99));
    return 0;
}

enum way { DEVICE, TO_HOST, TO_DEVICE };

static int copied(struct gpu *g, enum way way, rdi_cu_ptr p, void *host, size_t bytes,
                  double *rate_gb) {
    double us[7];
    int repeats = bytes > (64u << 20) ? 2 : 8;
    for (int i = -1; i < 7; i++) {
        double t0 = now_us();
        for (int k = 0; k < repeats; k++) {
            CU(way == DEVICE    ? cu->copy_async(p, p + bytes, bytes, g->s)
               : way == TO_HOST ? cu->copy_to_host_async(host, p, bytes, g->s)
                                : cu->copy_to_device_async(p, host, bytes, g->s));
        }
        CU(cu->stream_sync(g->s));
        if (i >= 0) {
            us[i] = (now_us() - t0) / repeats;
        }
    }
    *rate_gb = rate((double)bytes, quantile(us, 7, 0.5));
    return 0;
}

static int copies(struct gpu *g, size_t most) {
    struct rdi_cuda_pinned host;
    rdi_cu_ptr p;
    OK(rdi_cuda_pinned_alloc(g->d, most, &host));
    CU(cu->mem_alloc(&p, 2 * most));
    CU(cu->set_async(p, 1, 2 * most, g->s));
    printf(",\n  \"copies\": [");
    for (size_t bytes = 1 << 20; bytes <= most; bytes *= 4) {
        double gb[3];
        for (int way = DEVICE; way <= TO_DEVICE; way++) {
            RUN(copied(g, (enum way)way, p, host.host, bytes, &gb[way]));
        }
        printf("%s\n    {\"bytes\": %zu, \"device_gbs\": %.2f, \"to_host_gbs\": %.2f, "
               "\"to_device_gbs\": %.2f}",
               bytes > 1 << 20 ? "," : "", bytes, gb[DEVICE], gb[TO_HOST], gb[TO_DEVICE]);
    }
    printf("]");
    CU(cu->mem_free(p));
    rdi_cuda_pinned_free(g->d, &host);
    return 0;
}

static int measure(struct gpu *g, bool quick) {
    OK(rdi_cuda_device(0, &g->d));
    OK(rdi_cuda_enter(g->d));
    OK(rdi_cuda_kernel(g->d, "rdi_step_sum_f32", &g->step));
    OK(rdi_cuda_pinned_alloc(g->d, 4096, &g->words));
    CU(cu->mem_alloc(&g->memory, 3 * 4096));
    CU(cu->stream_create(&g->s, RDI_CU_STREAM_NON_BLOCKING, 0));
    CU(cu->set_async(g->memory, 0, 3 * 4096, g->s));
    printf("{\"device\": ");
    print_text(g->d->name);
    RUN(cost(g, "launch", launch));
    RUN(cost(g, "copy", copy_small));
    RUN(cost(g, "write", write_word));
    RUN(cost(g, "wait", wait_word));
    RUN(cost(g, "wait_and_write", both_words));
    RUN(trips(g));
    RUN(copies(g, quick ? 4 << 20 : 256 << 20));
    printf("}\n");
    CU(cu->stream_destroy(g->s));
    CU(cu->mem_free(g->memory));
    rdi_cuda_pinned_free(g->d, &g->words);
    rdi_cuda_leave(g->d);
    return fflush(stdout) == 0 ? 0 : 1;
}

int main(int argc, char **argv) {
    struct gpu g = {0};
    if (argc > 2 || (argc == 2 && strcmp(argv[1], "--quick") != 0)) {
        fprintf(stderr, "usage: %s [--quick]\n", argv[0]);
        return 2;
    }
    if (ct_skips()) {
        return 77;
    }
    cu = rdi_cuda(RDI_CUDA_LOAD);
    return cu ? measure(&g, argc == 2) : 1;
}
