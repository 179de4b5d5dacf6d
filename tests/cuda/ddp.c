// SPDX-License-Identifier: MIT
// DDP with its model on a device, the host far ahead of the streams: ddp RANKS OPTIONS
//
// "Backward" is copies from pinned memory on the compute stream, "the optimizer" a copy of the reduced gradients into
// a place per step. Nothing waits until all steps are enqueued; then every step's place holds what one process would
// have computed.
#include "cuda_test.h"

enum { PARAMS = 7, STEPS = 5 };
static const size_t counts[PARAMS] = {5, 60000, 1, 64, 70001, 1000, 30000};

struct model {
    struct ct_buf value[PARAMS];
    char name[PARAMS][16];
    rondo_param param[PARAMS];
};

struct run {
    rondo_comm *c;
    rondo_ddp *d;
    rdi_cu_stream compute;
    struct rdi_cuda_device *device;
    int n, me, ordinal;
    size_t total; // elements of all gradients
    struct ct_buf elsewhere;
    struct rdi_cuda_pinned given, taken; // STEPS * total floats each
};

#define P(b) ((void *)(uintptr_t)(b).p)

// Multiples of the number of ranks, so that the divided sum is exact.
static float gradient(int rank, int n, int step, size_t i, size_t k) {
    return (float)(n * ((rank + 1) * (step + 1) + (int)i + (int)(k % 11)));
}

static float mean(int n, int step, size_t i, size_t k) {
    float sum = 0;
    for (int r = 0; r < n; r++) {
        sum += gradient(r, n, step, i, k) / (float)n;
    }
    return sum;
}

static size_t first_of(size_t param) {
    size_t at = 0;
    for (size_t i = 0; i < param; i++) {
        at += counts[i];
    }
    return at;
}

static int make_model(struct run *r, struct model *m) {
    for (size_t i = 0; i < PARAMS; i++) {
        float *v = malloc(counts[i] * 4);
        for (size_t k = 0; k < counts[i]; k++) {
            v[k] = (float)r->me * 1000.0f + (float)i + (float)(k % 7);
        }
        RUN(ct_new(&m->value[i], counts[i] * 4));
        RUN(ct_put(&m->value[i], v));
        free(v);
        snprintf(m->name[i], sizeof m->name[i], "layer%zu.w", i);
        m->param[i] = (rondo_param){m->name[i], P(m->value[i]), counts[i], RONDO_F32};
    }
    return 0;
}

static int is_rank_0s(const struct model *m) {
    for (size_t i = 0; i < PARAMS; i++) {
        float *v = malloc(counts[i] * 4);
        RUN(ct_get(&m->value[i], v));
        for (size_t k = 0; k < counts[i]; k++) {
            CHECK(v[k] == (float)i + (float)(k % 7));
        }
        free(v);
    }
    return 0;
}

static int backward(struct run *r, int step) {
    for (size_t j = 0; j < PARAMS; j++) {
        size_t i = (j * (size_t)(r->me % 2 ? 3 : 5) + (size_t)(step + r->me)) % PARAMS;
        float *g = (float *)r->given.host + (size_t)step * r->total + first_of(i);
        for (size_t k = 0; k < counts[i]; k++) {
            g[k] = gradient(r->me, r->n, step, i, k);
        }
        bool copied = i % 2;
        rdi_cu_ptr to = copied ? r->elsewhere.p : (uintptr_t)rondo_ddp_grad(r->d, i);
        CU(cu->copy_to_device_async(to, g, counts[i] * 4, r->compute));
        if (copied) {
            OK(rondo_ddp_grad_ready_copy(r->d, i, P(r->elsewhere)));
        } else {
            OK(rondo_ddp_grad_ready(r->d, i));
        }
    }
    return 0;
}

static int optimizer(struct run *r, int step) {
    for (size_t i = 0; i < PARAMS; i++) {
        float *to = (float *)r->taken.host + (size_t)step * r->total + first_of(i);
        CU(cu->copy_to_host_async(to, (uintptr_t)rondo_ddp_grad(r->d, i), counts[i] * 4,
                                  r->compute));
    }
    return 0;
}

static int steps(struct run *r) {
    for (int step = 0; step < STEPS; step++) {
        RUN(backward(r, step));
        OK(rondo_ddp_finish(r->d));
        RUN(optimizer(r, step));
    }
    CU(cu->stream_sync(r->compute));
    for (int step = 0; step < STEPS; step++) {
        for (size_t i = 0; i < PARAMS; i++) {
            const float *g = (float *)r->taken.host + (size_t)step * r->total + first_of(i);
            for (size_t k = 0; k < counts[i]; k++) {
                if (g[k] != mean(r->n, step, i, k)) {
                    fprintf(stderr, "step %d: gradient %zu[%zu] is %g, not %g\n", step, i, k,
                            (double)g[k], (double)mean(r->n, step, i, k));
                    return 1;
                }
            }
        }
    }
    rondo_ddp_stats s = {.size = sizeof s};
    OK(rondo_ddp_get_stats(r->d, &s));
    CHECK(s.steps == STEPS && s.rebuilt == 1 && s.buckets >= 2);
    CHECK(s.total_comm >= s.step_comm && s.step_comm >= 0 && s.total_exposed >= 0);
    return 0;
}

// Accumulated over two passes, of which the second is reduced; zeroed first.
static int no_sync(struct run *r) {
    OK(rondo_ddp_zero_grad(r->d));
    for (int pass = 0; pass < 2; pass++) {
        OK(rondo_ddp_set_sync(r->d, pass == 1));
        for (size_t i = 0; i < PARAMS; i++) {
            float *g = (float *)r->given.host + first_of(i);
            if (pass == 0) {
                for (size_t k = 0; k < counts[i]; k++) {
                    g[k] = gradient(r->me, r->n, 1, i, k);
                }
                CU(cu->copy_to_device_async((uintptr_t)rondo_ddp_grad(r->d, i), g, counts[i] * 4,
                                            r->compute));
            }
            OK(rondo_ddp_grad_ready(r->d, i));
        }
        OK(rondo_ddp_finish(r->d));
    }
    RUN(optimizer(r, 0));
    CU(cu->stream_sync(r->compute));
    for (size_t i = 0; i < PARAMS; i++) {
        const float *g = (float *)r->taken.host + first_of(i);
        for (size_t k = 0; k < counts[i]; k++) {
            CHECK(g[k] == mean(r->n, 1, i, k));
        }
    }
    return 0;
}

static int host_parameters(struct run *r, const rondo_ddp_options *o) {
    float x[4] = {0};
    rondo_param p = {"lost", x, 4, RONDO_F32};
    rondo_ddp *d = NULL;
    CHECK(rondo_ddp_create(r->c, &p, 1, o, &d) != RONDO_OK && d == NULL);
    CHECK(strstr(rondo_last_error(), "lost") && strstr(rondo_last_error(), "host memory"));
    return 0;
}

static int body(rondo_comm *c, void *arg) {
    struct run r = {.c = c, .n = rondo_comm_size(c), .me = rondo_comm_rank(c)};
    struct model m;
    (void)arg;
    int rc = ct_begin(rondo_comm_local_rank(c), 4 << 20, &r.ordinal, &r.device);
    if (rc) {
        return rc;
    }
    r.total = first_of(PARAMS);
    CU(cu->stream_create(&r.compute, RDI_CU_STREAM_NON_BLOCKING, 0));
    OK(rdi_cuda_pinned_alloc(r.device, STEPS * r.total * 4, &r.given));
    OK(rdi_cuda_pinned_alloc(r.device, STEPS * r.total * 4, &r.taken));
    RUN(ct_new(&r.elsewhere, 70001 * 4));
    RUN(make_model(&r, &m));
    rondo_ddp_options o = RONDO_DDP_OPTIONS_INIT;
    o.first_bucket_bytes = 16 << 10;
    o.bucket_bytes = 256 << 10;
    o.device = r.ordinal;
    o.stream = r.compute;
    RUN(host_parameters(&r, &o));
    OK(rondo_ddp_create(c, m.param, PARAMS, &o, &r.d));
    RUN(is_rank_0s(&m));
    RUN(steps(&r));
    RUN(no_sync(&r));
    OK(rondo_ddp_destroy(r.d));
    rdi_cuda_pinned_free(r.device, &r.given);
    rdi_cuda_pinned_free(r.device, &r.taken);
    CU(cu->stream_destroy(r.compute));
    return ct_end(c, r.device);
}

int main(int argc, char **argv) {
    if (argc != 3) {
        fprintf(stderr, "usage: %s RANKS OPTIONS\n", argv[0]);
        return 2;
    }
    if (ct_skips()) {
        return 77;
    }
    return rt_run(atoi(argv[1]), argv[2], body, NULL);
}
