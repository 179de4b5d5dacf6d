// SPDX-License-Identifier: MIT
// The hand-written backward against finite differences of the loss, tensor by tensor.
//
// Along a unit direction d the slope of the loss is gradient * d. It is measured with the
// fourth-order formula (8 (f(h) - f(-h)) - (f(2h) - f(-2h))) / 12h; the loss is a sum in double
// over float activations, which leaves a noise of about 1e-7 / h. One direction is the gradient's
// own, in which the slope must be its length: any error in it shows there, unless it is at a right
// angle to it. The others are random and show the rest.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "gpt_model.h"

#include <cmocka.h>

enum { BATCH = 3, LENGTH = 12, RANDOM_DIRECTIONS = 3 };
static const double tolerance = 3e-4; // of the gradient's length

struct checked {
    struct gpt_model model;
    struct gpt_activations *act;
    uint8_t in[BATCH * LENGTH], target[BATCH * LENGTH];
    int length;
    float *grad, *at_ready; // all tensors; and as each was when it was said to be ready
    size_t order[64], ready;
};

static float *where(void *arg, size_t i) {
    struct checked *c = arg;
    return c->grad + (c->model.tensor[i].data - c->model.params);
}

static void ready(void *arg, size_t i) {
    struct checked *c = arg;
    const struct gpt_tensor *t = &c->model.tensor[i];
    assert_true(c->ready < sizeof c->order / sizeof c->order[0]);
    c->order[c->ready++] = i;
    memcpy(c->at_ready + (t->data - c->model.params), where(c, i), t->count * sizeof(float));
}

// A width that leaves a rest in the vectorised loops, and values at which every term matters: fresh
// parameters have biases of 0, gains of 1, and hardly any attention.
static void create(struct checked *c, int length) {
    const struct gpt_shape shape = {.layers = 2, .heads = 3, .dim = 27, .context = LENGTH};
    struct gpt_error e;
    memset(c, 0, sizeof *c);
    c->length = length;
    assert_true(gpt_model_create(&c->model, &shape, 5, &e));
    for (size_t i = 0; i < c->model.tensors; i++) {
        struct gpt_tensor *t = &c->model.tensor[i];
        for (size_t j = 0; j < t->count; j++) {
            const double u = (double)(gpt_random(100 + i, j) >> 11) * 0x1p-52 - 1.0;
            t->data[j] = t->matrix ? (float)(0.5 * u) : t->data[j] + (float)(0.3 * u);
        }
    }
    c->act = gpt_activations_create(&c->model, BATCH, &e);
    assert_non_null(c->act);
    for (int i = 0; i < BATCH * LENGTH; i++) {
        // Few different bytes, so that the embedding's rows are hit several times.
        c->in[i] = (uint8_t)(gpt_random(1, (uint64_t)i) % 7);
        c->target[i] = (uint8_t)(gpt_random(2, (uint64_t)i) % 7);
    }
    c->grad = malloc(c->model.count * sizeof(float));
    c->at_ready = malloc(c->model.count * sizeof(float));
    for (size_t i = 0; i < c->model.count; i++) {
        c->grad[i] = NAN; // what was there before must not matter
    }
    const struct gpt_gradients g = {.where = where, .ready = ready, .arg = c};
    gpt_forward(&c->model, c->act, c->in, BATCH, length);
    gpt_backward(&c->model, c->act, c->target, 1.0f / (float)(BATCH * length), &g);
}

static void destroy(struct checked *c) {
    gpt_activations_free(c->act);
    gpt_model_free(&c->model);
    free(c->grad);
    free(c->at_ready);
}

// The mean loss with `step` times the direction added to a tensor.
static double loss_at(struct checked *c, struct gpt_tensor *t, const float *start, const double *d,
                      double step) {
    for (size_t i = 0; i < t->count; i++) {
        t->data[i] = (float)((double)start[i] + step * d[i]);
    }
    struct gpt_error e;
    double sum = NAN;
    gpt_forward(&c->model, c->act, c->in, BATCH, c->length);
    gpt_measure(c->act, c->target);
    assert_true(gpt_loss(c->act, &sum, &e));
    return sum / (BATCH * c->length);
}

static double measured_slope(struct checked *c, struct gpt_tensor *t, const double *d) {
    const double h = 0.01;
    float *start = malloc(t->count * sizeof *start);
    memcpy(start, t->data, t->count * sizeof *start);
    const double near = loss_at(c, t, start, d, h) - loss_at(c, t, start, d, -h);
    const double far = loss_at(c, t, start, d, 2.0 * h) - loss_at(c, t, start, d, -2.0 * h);
    memcpy(t->data, start, t->count * sizeof *start);
    free(start);
    return (8.0 * near - far) / (12.0 * h);
}

static double length_of(const double *d, size_t n) {
    double sum = 0.0;
    for (size_t i = 0; i < n; i++) {
        sum += d[i] * d[i];
    }
    return sqrt(sum);
}

// The error of the slope in a direction (which is brought to length 1), relative to the gradient.
static double error_along(struct checked *c, struct gpt_tensor *t, const float *grad, double size,
                          double *d) {
    const double length = length_of(d, t->count);
    double slope = 0.0;
    for (size_t i = 0; i < t->count; i++) {
        d[i] /= length;
        slope += d[i] * (double)grad[i];
    }
    return fabs(slope - measured_slope(c, t, d)) / size;
}

static double worst_error(struct checked *c, size_t i) {
    struct gpt_tensor *t = &c->model.tensor[i];
    const float *grad = where(c, i);
    double *d = malloc(t->count * sizeof *d), worst = 0.0;
    for (size_t j = 0; j < t->count; j++) {
        d[j] = (double)grad[j];
    }
    const double size = length_of(d, t->count);
    assert_true(size > 1e-3); // else there would be nothing to compare
    worst = error_along(c, t, grad, size, d);
    for (int k = 0; k < RANDOM_DIRECTIONS; k++) {
        for (size_t j = 0; j < t->count; j++) {
            d[j] = (double)(gpt_random(1000 + 10 * i + (uint64_t)k, j) >> 11) * 0x1p-52 - 1.0;
        }
        worst = fmax(worst, error_along(c, t, grad, size, d));
    }
    free(d);
    return worst;
}

static void check_all(int length) {
    struct checked c;
    create(&c, length);
    double worst = 0.0;
    for (size_t i = 0; i < c.model.tensors; i++) {
        const double error = worst_error(&c, i);
        print_message("  %-22s relative error %.1e\n", c.model.tensor[i].name, error);
        worst = fmax(worst, error);
    }
    print_message("largest relative error %.2g, allowed %.2g\n", worst, tolerance);
    assert_true(worst < tolerance);
    destroy(&c);
}

static void test_full_context(void **state) {
    (void)state;
    check_all(LENGTH);
}

static void test_short_sequences(void **state) {
    (void)state;
    check_all(LENGTH - 5);
}

// What DDP relies on: each gradient is announced once, from the last tensor to the first, and does
// not change any more afterwards.
static void test_ready_when_complete(void **state) {
    (void)state;
    struct checked c;
    create(&c, LENGTH);
    assert_int_equal(c.ready, c.model.tensors);
    for (size_t i = 0; i < c.ready; i++) {
        assert_int_equal(c.order[i], c.model.tensors - 1 - i);
    }
    assert_memory_equal(c.at_ready, c.grad, c.model.count * sizeof(float));
    destroy(&c);
}

// The gradient of a batch is the sum of those of its sequences, which is what makes it right to
// deal a batch out to ranks.
static void test_batch_is_sum(void **state) {
    (void)state;
    struct checked c;
    create(&c, LENGTH);
    double *sum = calloc(c.model.count, sizeof *sum);
    float *whole = malloc(c.model.count * sizeof *whole);
    memcpy(whole, c.grad, c.model.count * sizeof *whole);
    const struct gpt_gradients g = {.where = where, .ready = ready, .arg = &c};
    for (int b = 0; b < BATCH; b++) {
        c.ready = 0;
        gpt_forward(&c.model, c.act, c.in + b * LENGTH, 1, LENGTH);
        gpt_backward(&c.model, c.act, c.target + b * LENGTH, 1.0f / (BATCH * LENGTH), &g);
        for (size_t i = 0; i < c.model.count; i++) {
            sum[i] += (double)c.grad[i];
        }
    }
    for (size_t i = 0; i < c.model.count; i++) {
        assert_true(fabs(sum[i] - (double)whole[i]) < 1e-6);
    }
    free(sum);
    free(whole);
    destroy(&c);
}

static void all_logits(struct checked *c, const uint8_t *in, float *logits) {
    struct gpt_error e;
    gpt_forward(&c->model, c->act, in, 1, LENGTH);
    for (int i = 0; i < LENGTH; i++) {
        assert_true(gpt_logits(c->act, i, logits + i * GPT_VOCAB, &e));
    }
}

// A byte must not see what follows it.
static void test_causal(void **state) {
    (void)state;
    struct checked c;
    create(&c, LENGTH);
    float before[LENGTH * GPT_VOCAB], after[LENGTH * GPT_VOCAB];
    all_logits(&c, c.in, before);
    for (int at = 1; at < LENGTH; at++) {
        uint8_t in[LENGTH];
        memcpy(in, c.in, sizeof in);
        in[at] ^= 0x55;
        all_logits(&c, in, after);
        assert_memory_equal(after, before, (size_t)at * GPT_VOCAB * sizeof(float));
        assert_memory_not_equal(after + at * GPT_VOCAB, before + at * GPT_VOCAB,
                                GPT_VOCAB * sizeof(float));
    }
    destroy(&c);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_full_context),
        cmocka_unit_test(test_short_sequences),
        cmocka_unit_test(test_ready_when_complete),
        cmocka_unit_test(test_batch_is_sum),
        cmocka_unit_test(test_causal),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
