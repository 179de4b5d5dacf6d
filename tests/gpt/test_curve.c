// SPDX-License-Identifier: MIT
// The file of figures and the picture, also of runs that are odd: no point, one point, flat, very
// long.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "gpt_curve.h"
#include "gpt_file.h"

#include <cmocka.h>

static char folder[64], csv[96], svg[96];
static const struct gpt_caption caption = {
    .ranks = 4, .parameters = 1234567, .shape = {1, 1, 8, 8}, .batch = 2, .text = 1000000};

static char *read_text(const char *path) {
    uint8_t *bytes;
    size_t len;
    struct gpt_error e;
    assert_true(gpt_file_read(path, "cannot read", &bytes, &len, &e));
    char *text = realloc(bytes, len + 1);
    text[len] = '\0';
    return text;
}

static void test_csv(void **state) {
    (void)state;
    struct gpt_curve c = {0};
    struct gpt_error e;
    assert_true(gpt_curve_open(&c, csv, &e));
    assert_true(gpt_curve_add(
        &c, &(struct gpt_point){.step = 0, .rate = 0.5, .train = 5.25, .norm = 2, .held = 5.5},
        &e));
    assert_true(gpt_curve_add(
        &c,
        &(struct gpt_point){
            .step = 1, .seconds = 1.5, .rate = NAN, .train = 0.1, .norm = NAN, .held = NAN},
        &e));
    assert_true(gpt_curve_close(&c, &e));
    char *text = read_text(csv);
    assert_string_equal(text, "step,seconds,learning_rate,train_loss,gradient_norm,held_out_loss\n"
                              "0,0.000,0.5,5.25,2,5.5\n"
                              "1,1.500,,0.1,,\n");
    free(text);
}

static void test_csv_errors(void **state) {
    (void)state;
    struct gpt_curve c = {0};
    struct gpt_error e;
    assert_false(gpt_curve_open(&c, "/nonexistent/figures", &e));
    assert_non_null(strstr(e.text, "/nonexistent/figures: No such file"));
    assert_true(gpt_curve_open(&c, "/dev/full", &e));
    assert_true(gpt_curve_add(&c, &(struct gpt_point){.held = 1.0}, &e));
    assert_false(gpt_curve_close(&c, &e));
    print_message("  %s\n", e.text);
    assert_non_null(strstr(e.text, "/dev/full: No space left"));
}

static size_t count(const char *text, const char *what) {
    size_t n = 0;
    for (; (text = strstr(text, what)) != NULL; text++) {
        n++;
    }
    return n;
}

// Draws `steps` points with losses from `high` down to `low`, held-out ones each 100 steps.
static char *draw(size_t steps, double high, double low) {
    struct gpt_curve c = {0};
    struct gpt_error e;
    assert_true(gpt_curve_open(&c, NULL, &e));
    for (size_t i = 0; i < steps; i++) {
        const double loss = low + (high - low) * exp(-8.0 * (double)i / (double)steps);
        const bool measured = i % 100 == 0 || i + 1 == steps;
        assert_true(gpt_curve_add(
            &c, &(struct gpt_point){.step = i, .train = loss, .held = measured ? loss : NAN}, &e));
    }
    assert_true(gpt_curve_save_svg(&c, svg, &caption, &e));
    assert_true(gpt_curve_close(&c, &e));
    char *text = read_text(svg);
    assert_int_equal(count(text, "nan"), 0);
    assert_int_equal(count(text, "inf"), 0);
    assert_int_equal(count(text, "<svg"), 1);
    assert_int_equal(count(text, "</svg>"), 1);
    return text;
}

static void test_svg(void **state) {
    (void)state;
    char *text = draw(1001, 6.0, 1.75);
    assert_non_null(strstr(text, "on 4 ranks"));
    assert_non_null(strstr(text, "1.23 M parameters"));
    assert_non_null(strstr(text, "nats/byte"));
    assert_non_null(strstr(text, "held-out text"));
    assert_non_null(strstr(text, "ends at 1.751 nats (2.527 bits)"));
    // Ten measured points in the frame (the first is above it), and one in the legend.
    assert_int_equal(count(text, "<circle"), 11);
    assert_int_equal(count(text, "<polyline"), 3);
    free(text);
}

static void test_odd_svg(void **state) {
    (void)state;
    free(draw(0, 1.0, 1.0));
    free(draw(1, 5.0, 5.0));
    free(draw(2, 5.0, 5.0));
    free(draw(50, 3.0, 3.0));
    free(draw(50, 1e9, 1e-9));
    char *text = draw(200000, 6.0, 2.0);
    assert_true(strlen(text) < 300000);
    free(text);
}

static int make_folder(void **state) {
    (void)state;
    snprintf(folder, sizeof folder, "/tmp/gpt_curve.XXXXXX");
    if (!mkdtemp(folder)) {
        return -1;
    }
    snprintf(csv, sizeof csv, "%s/figures.csv", folder);
    snprintf(svg, sizeof svg, "%s/picture.svg", folder);
    return 0;
}

static int remove_folder(void **state) {
    (void)state;
    unlink(csv);
    unlink(svg);
    return rmdir(folder);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_csv),
        cmocka_unit_test(test_csv_errors),
        cmocka_unit_test(test_svg),
        cmocka_unit_test(test_odd_svg),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
