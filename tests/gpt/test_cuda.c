// SPDX-License-Identifier: MIT
// The model and the optimizer on a CUDA device against those on the CPU: logits, loss, every gradient, the norm, and
// the parameters after some steps. Over the mock driver (tests/mock_cuda), where the kernels are those of the device
// compiled as C; on a machine with a GPU, without further ado, on that.
//
// The two differ in the order of additions, in fused multiply-adds and in the exponential function: each gradient is
// wrong by some 1e-7 of its length on either side.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "gpt_adamw.h"
#include "gpt_device.h"
#include "gpt_model.h"

#include <cmocka.h>

static const double tolerance = 2e-5; // of a tensor's length
enum { BATCH = 5, STEPS = 4 };

static struct gpt_device *device;

// One model with all that training it needs.
struct side {
    struct gpt_model model;
    struct gpt_adamw adamw;
    struct gpt_activations *act;
    float *grad; // on the device
    size_t order[64], ready;
};

static float *where(void *arg, size_t i) {
    const struct side *s = arg;
    return s->grad + (s->model.tensor[i].data - s->model.params);
}

static void ready(void *arg, size_t i) {
    struct side *s = arg;
    assert_true(s->ready < sizeof s->order / sizeof s->order[0]);
    s->order[s->ready++] = i;
}

// Values at which every term matters: fresh parameters have biases of 0 and hardly any attention.
static void create(struct side *s, struct gpt_device *d, const struct gpt_shape *shape) {
    struct gpt_error e;
    memset(s, 0, sizeof *s);
    assert_true(gpt_model_create(&s->model, shape, 5, &e));
    for (size_t i = 0; i < s->model.tensors; i++) {
        struct gpt_tensor *t = &s->model.tensor[i];
        for (size_t j = 0; j < t->count; j++) {
            const double u = (double)(gpt_random(100 + i, j) >> 11) * 0x1p-52 - 1.0;
            t->data[j] = t->matrix ? (float)(0.5 * u) : t->data[j] + (float)(0.3 * u);
        }
    }
    assert_true(gpt_model_move(&s->model, d, &e));
    assert_true(gpt_adamw_create(&s->adamw, &s->model, 0.1, &e));
    gpt_model_upload(&s->model);
    gpt_adamw_upload(&s->adamw);
    s->act = gpt_activations_create(&s->model, BATCH, &e);
    s->grad = d->does->allocate(d, s->model.count);
    assert_true(s->act && s->grad);
}

static void destroy(struct side *s) {
    struct gpt_device *d = s->model.device;
    d->does->release(d, s->grad);
    gpt_activations_free(s->act);
    gpt_adamw_free(&s->adamw);
    gpt_model_free(&s->model);
}

struct input {
    int batch, length;
    uint8_t in[BATCH * 64], target[BATCH * 64];
};

// Few different bytes, so that the embedding's rows are hit several times.
static void fill(struct input *i, int batch, int length, uint64_t seed) {
    *i = (struct input){.batch = batch, .length = length};
    for (int k = 0; k < batch * length; k++) {
        i->in[k] = (uint8_t)(gpt_random(seed, (uint64_t)k) % 7);
        i->target[k] = (uint8_t)(gpt_random(seed + 1, (uint64_t)k) % 7);
    }
}

static void assert_near(const char *what, const float *cpu, const float *gpu, size_t n) {
    double error = 0.0, size = 0.0;
    for (size_t i = 0; i < n; i++) {
        error += ((double)cpu[i] - (double)gpu[i]) * ((double)cpu[i] - (double)gpu[i]);
        size += (double)cpu[i] * (double)cpu[i];
    }
    const double relative = sqrt(error / size);
    print_message("  %-22s %.1e\n", what, relative);
    if (!(relative < tolerance)) {
        fail_msg("%s differs by %.2g of its length, allowed is %.2g", what, relative, tolerance);
    }
}

// Forward and backward; returns the loss. Gradients come to *host.
static double pass(struct side *s, const struct input *i, float *host) {
    struct gpt_device *d = s->model.device;
    struct gpt_error e = {""};
    const struct gpt_gradients g = {.where = where, .ready = ready, .arg = s};
    double sum = NAN;
    s->ready = 0;
    gpt_forward(&s->model, s->act, i->in, i->batch, i->length);
    gpt_backward(&s->model, s->act, i->target, 1.0f / (float)(i->batch * i->length), &g);
    d->does->fetch(d, host, s->grad, s->model.count * sizeof *host);
    assert_true(gpt_loss(s->act, &sum, &e));
    assert_true(d->does->wait(d, &e));
    return sum;
}

static void check_gradients(const struct gpt_shape *shape, int batch, int length) {
    struct side cpu, gpu;
    struct input i;
    create(&cpu, gpt_cpu(), shape);
    create(&gpu, device, shape);
    fill(&i, batch, length, 1);
    float *a = malloc(cpu.model.count * sizeof *a), *b = malloc(cpu.model.count * sizeof *b);
    memset(b, 0xff, gpu.model.count * sizeof *b); // what was there before must not matter
    device->does->upload(device, gpu.grad, b, gpu.model.count * sizeof *b);
    const double loss = pass(&cpu, &i, a), other = pass(&gpu, &i, b);
    print_message("loss %.7f and %.7f; relative errors of gradients:\n", loss, other);
    assert_true(fabs(loss - other) < 1e-6 * loss);
    for (size_t k = 0; k < cpu.model.tensors; k++) {
        const struct gpt_tensor *t = &cpu.model.tensor[k];
        const size_t at = (size_t)(t->data - cpu.model.params);
        // Positions behind the sequences' end have a gradient of 0.
        assert_near(t->name, a + at, b + at, t->count);
        assert_int_equal(gpu.order[k], cpu.order[k]);
    }
    assert_int_equal(gpu.ready, gpu.model.tensors);
    // The same again gives the same bits.
    memcpy(a, b, gpu.model.count * sizeof *a);
    assert_true(pass(&gpu, &i, b) == other);
    assert_memory_equal(a, b, gpu.model.count * sizeof *a);
    free(a);
    free(b);
    destroy(&cpu);
    destroy(&gpu);
}

// A width that leaves a rest in rows of 32 lanes, more sequences than heads, more rows than a chunk.
static void test_gradients(void **state) {
    (void)state;
    check_gradients(&(struct gpt_shape){.layers = 2, .heads = 3, .dim = 39, .context = 12}, BATCH,
                    12);
}

// Sequences shorter than the context, longer than 32, and more heads than sequences.
static void test_few_long_sequences(void **state) {
    (void)state;
    check_gradients(&(struct gpt_shape){.layers = 1, .heads = 4, .dim = 72, .context = 64}, 2, 45);
}

static void test_logits_and_measure(void **state) {
    (void)state;
    const struct gpt_shape shape = {.layers = 1, .heads = 2, .dim = 34, .context = 40};
    struct side cpu, gpu;
    struct input i;
    struct gpt_error e;
    create(&cpu, gpt_cpu(), &shape);
    create(&gpu, device, &shape);
    fill(&i, 3, 40, 11);
    gpt_forward(&cpu.model, cpu.act, i.in, i.batch, i.length);
    gpt_forward(&gpu.model, gpu.act, i.in, i.batch, i.length);
    double a = NAN, b = NAN;
    for (int again = 0; again < 2; again++) { // measuring leaves the logits as they are
        gpt_measure(cpu.act, i.target);
        gpt_measure(gpu.act, i.target);
        assert_true(gpt_loss(cpu.act, &a, &e) && gpt_loss(gpu.act, &b, &e));
        assert_true(fabs(a - b) < 1e-6 * a);
    }
    for (int row = 0; row < i.batch * i.length; row += 37) {
        float x[GPT_VOCAB], y[GPT_VOCAB];
        assert_true(gpt_logits(cpu.act, row, x, &e) && gpt_logits(gpu.act, row, y, &e));
        assert_near("logits of a row", x, y, GPT_VOCAB);
    }
    destroy(&cpu);
    destroy(&gpu);
}

// Some steps, of which the norm is clipped in some: norms, and parameters and moments at the end.
static void test_steps(void **state) {
    (void)state;
    const struct gpt_shape shape = {.layers = 1, .heads = 2, .dim = 32, .context = 16};
    struct side side[2];
    create(&side[0], gpt_cpu(), &shape);
    create(&side[1], device, &shape);
    float *host = malloc(side[0].model.count * sizeof *host);
    for (int step = 0; step < STEPS; step++) {
        struct input i;
        double norm[2] = {NAN, NAN};
        fill(&i, BATCH, 16, 20 + (uint64_t)step);
        for (int k = 0; k < 2; k++) {
            struct side *s = &side[k];
            struct gpt_error e;
            const struct gpt_gradients g = {.where = where, .ready = ready, .arg = s};
            pass(s, &i, host);
            gpt_adamw_step(&s->adamw, &s->model, &g, 0.01f, step == 0 ? 0.0 : 0.7);
            assert_true(gpt_adamw_norm(&s->adamw, &norm[k], &e));
        }
        print_message("norm %.8f and %.8f\n", norm[0], norm[1]);
        assert_true(norm[0] > 0.7 && fabs(norm[0] - norm[1]) < 1e-4 * norm[0]);
    }
    struct gpt_error e;
    gpt_model_fetch(&side[1].model);
    gpt_adamw_fetch(&side[1].adamw);
    assert_true(device->does->wait(device, &e));
    const size_t n = side[0].model.count;
    assert_near("parameters", side[0].model.host, side[1].model.host, n);
    assert_near("first moments", side[0].adamw.host_m, side[1].adamw.host_m, n);
    assert_near("second moments", side[0].adamw.host_v, side[1].adamw.host_v, n);
    free(host);
    destroy(&side[0]);
    destroy(&side[1]);
}

// Where a driver is named, as the mock is, there must be a device; else there may be none.
static int open_device(void **state) {
    struct gpt_error e;
    (void)state;
    device = gpt_cuda_open(0, &e);
    if (!device) {
        print_message("%s\n", e.text);
        if (!getenv("RONDO_CUDA_DRIVER")) {
            exit(77);
        }
        return -1;
    }
    print_message("%s\n", device->name);
    return 0;
}

static int close_device(void **state) {
    (void)state;
    device->does->close(device);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gradients),
        cmocka_unit_test(test_few_long_sequences),
        cmocka_unit_test(test_logits_and_measure),
        cmocka_unit_test(test_steps),
    };
    return cmocka_run_group_tests(tests, open_device, close_device);
}
