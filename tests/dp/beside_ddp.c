// SPDX-License-Identifier: MIT
// DP, DDP and one device train the same model on the same batches: beside_ddp RANKS
//
// Each rank also trains by DP, on as many devices as there are ranks. With order=strict the two give the same bits, step
// after step, whatever the gradients; with order=default, and beside one device, they agree to rounding.
#include "dp_test.h"
#include "tests/ring/ring_test.h"

#include <math.h>

enum { STEPS = 8, ROWS = 13, COUNT = 3001, TENSORS = 3 };
static const float rate = 0.05f;

// ---- A model: each row of the batch pulls each element towards a value of its own ----------------

struct model {
    float value[TENSORS][COUNT];
    rondo_param param[TENSORS];
};

static void make_model(struct model *m) {
    static const char *const names[TENSORS] = {"first", "second", "third"};
    for (size_t i = 0; i < TENSORS; i++) {
        for (size_t e = 0; e < COUNT; e++) {
            m->value[i][e] = (float)(dt_mix(i * COUNT + e + 1) >> 40) * 0x1p-24f - 0.5f;
        }
        m->param[i] = (rondo_param){names[i], m->value[i], COUNT, RONDO_F32};
    }
}

static float target(int step, uint64_t row, size_t i, size_t e) {
    const uint64_t n = (((uint64_t)step * ROWS + row) * TENSORS + i) * COUNT + e;
    return (float)(dt_mix(n + 12345) >> 40) * 0x1p-23f - 1.0f;
}

// The gradient of the mean over the batch, of the rows first .. first + count - 1.
static void backward(float *grad, const float *value, int step, uint64_t first, uint64_t count,
                     size_t i) {
    for (size_t e = 0; e < COUNT; e++) {
        grad[e] = 0.0f;
        for (uint64_t r = first; r < first + count; r++) {
            grad[e] += (value[e] - target(step, r, i, e)) * (1.0f / ROWS);
        }
    }
}

static void update(float *value, const float *grad) {
    for (size_t e = 0; e < COUNT; e++) {
        value[e] -= rate * grad[e];
    }
}

// ---- The three ways ------------------------------------------------------------------------------

static rondo_status compute(rondo_dp_part *p, void *arg) {
    for (size_t i = 0; i < TENSORS; i++) {
        backward(rondo_dp_grad(p->dp, p->device, i), rondo_dp_param(p->dp, p->device, i),
                 *(const int *)arg, p->first, p->count, i);
    }
    return RONDO_OK;
}

static int by_dp(struct model *m, int devices) {
    rondo_dp *dp;
    OK(rondo_dp_create(m->param, TENSORS, devices, NULL, &dp));
    for (int step = 0; step < STEPS; step++) {
        OK(rondo_dp_step(dp, ROWS, compute, &step));
        for (size_t i = 0; i < TENSORS; i++) {
            update(m->value[i], rondo_dp_grad(dp, 0, i));
        }
    }
    OK(rondo_dp_destroy(dp));
    return 0;
}

static int by_ddp(struct model *m, rondo_comm *c) {
    rondo_ddp *ddp;
    rondo_ddp_options o = RONDO_DDP_OPTIONS_INIT;
    o.average = 0;
    o.first_bucket_bytes = o.bucket_bytes = 16384;
    OK(rondo_ddp_create(c, m->param, TENSORS, &o, &ddp));
    for (int step = 0; step < STEPS; step++) {
        uint64_t first, count;
        OK(rondo_sampler_share(ROWS, rondo_comm_rank(c), rondo_comm_size(c), &first, &count));
        for (size_t i = TENSORS; i-- > 0;) {
            backward(rondo_ddp_grad(ddp, i), m->value[i], step, first, count, i);
            OK(rondo_ddp_grad_ready(ddp, i));
        }
        OK(rondo_ddp_finish(ddp));
        for (size_t i = 0; i < TENSORS; i++) {
            update(m->value[i], rondo_ddp_grad(ddp, i));
        }
    }
    OK(rondo_ddp_destroy(ddp));
    return 0;
}

// ---- Comparing -----------------------------------------------------------------------------------

static double farthest(const struct model *a, const struct model *b) {
    double most = 0;
    for (size_t i = 0; i < TENSORS; i++) {
        for (size_t e = 0; e < COUNT; e++) {
            most = fmax(most, fabs((double)a->value[i][e] - (double)b->value[i][e]));
        }
    }
    return most;
}

static struct model one, dp, ddp, first;

static int rank_main(rondo_comm *c, void *arg) {
    const int n = rondo_comm_size(c);
    const int strict = *(const int *)arg;
    make_model(&first);
    make_model(&one);
    make_model(&dp);
    make_model(&ddp);
    CHECK(by_dp(&one, 1) == 0 && by_dp(&dp, n) == 0 && by_ddp(&ddp, c) == 0);
    const double trained = farthest(&one, &first), a = farthest(&dp, &one), b = farthest(&dp, &ddp);
    if (rondo_comm_rank(c) == 0) {
        printf("%d ranks, order=%s: DP is %.1e from one device and %.1e from DDP\n", n,
               strict ? "strict" : "default", a, b);
    }
    CHECK(trained > 0.1 && a < 1e-6 && b < 1e-6);
    CHECK(!strict || memcmp(dp.value, ddp.value, sizeof dp.value) == 0);
    return 0;
}

// Any bits as gradients, of all types: the fold of DP is order=strict's.
static rondo_status give(rondo_dp_part *p, void *arg) {
    (void)arg;
    for (size_t i = 0; i < DT_PARAMS; i++) {
        dt_gradient(rondo_dp_grad(p->dp, p->device, i), p->device, i, 5);
    }
    return RONDO_OK;
}

static int same_bits(rondo_comm *c, void *arg) {
    rondo_param params[DT_PARAMS];
    rondo_dp *object;
    const int n = rondo_comm_size(c);
    (void)arg;
    for (size_t i = 0; i < DT_PARAMS; i++) {
        params[i] = (rondo_param){dt_shape[i].name, calloc(1, dt_bytes(i)), dt_shape[i].count,
                                  dt_shape[i].type};
    }
    OK(rondo_dp_create(params, DT_PARAMS, n, NULL, &object));
    OK(rondo_dp_step(object, (uint64_t)n, give, NULL));
    for (size_t i = 0; i < DT_PARAMS; i++) {
        void *sum = params[i].data;
        dt_gradient(sum, rondo_comm_rank(c), i, 5);
        OK(rondo_all_reduce(sum, sum, dt_shape[i].count, dt_shape[i].type, RONDO_SUM, c));
        CHECK(memcmp(sum, rondo_dp_grad(object, 0, i), dt_bytes(i)) == 0);
    }
    OK(rondo_dp_destroy(object));
    for (size_t i = 0; i < DT_PARAMS; i++) {
        free(params[i].data);
    }
    return 0;
}

int main(int argc, char **argv) {
    const int ranks = argc > 1 ? atoi(argv[1]) : 2;
    int yes = 1, no = 0;
    return rt_run(ranks, "order=strict", rank_main, &yes) ||
           rt_run(ranks, "order=default", rank_main, &no) ||
           rt_run(ranks, "order=strict", same_bits, NULL);
}
