// SPDX-License-Identifier: MIT
// The command line: defaults, values, and errors that say what is allowed.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gpt_options.h"

#include <cmocka.h>

enum { MOST_WORDS = 16 };

// Parses "train_gpt" and the words.
static enum gpt_options_result parse(const char *const *words, struct gpt_options *o,
                                     struct gpt_error *e) {
    char *argv[MOST_WORDS + 1] = {(char *)(uintptr_t) "train_gpt"};
    int argc = 1;
    for (; words[argc - 1]; argc++) {
        argv[argc] = (char *)(uintptr_t)words[argc - 1];
    }
    return gpt_options_parse(argc, argv, o, e);
}

#define PARSE(o, e, ...) parse((const char *const[]){__VA_ARGS__, NULL}, (o), (e))

static void test_defaults(void **state) {
    (void)state;
    struct gpt_options o;
    struct gpt_error e;
    assert_int_equal(parse((const char *const[]){NULL}, &o, &e), GPT_OPTIONS_RUN);
    const struct gpt_shape shape = gpt_options_shape(&o);
    assert_true(gpt_shape_valid(&shape));
    assert_int_equal(o.files, 0);
    assert_int_equal(o.steps, 0);
    assert_true(o.minutes == 1.0);
    assert_int_equal(o.device, GPT_DEVICE_CPU);
    assert_int_equal(o.dp, 0);
    assert_null(o.checkpoint);
    assert_false(o.quiet);
    gpt_options_free(&o);
    // A number of steps lifts the limit of time, unless that is given, too.
    assert_int_equal(PARSE(&o, &e, "--steps", "5"), GPT_OPTIONS_RUN);
    assert_true(o.minutes == 0.0);
    gpt_options_free(&o);
    assert_int_equal(PARSE(&o, &e, "--minutes=0.5", "--steps", "5"), GPT_OPTIONS_RUN);
    assert_true(o.minutes == 0.5 && o.steps == 5);
    gpt_options_free(&o);
}

static void test_values(void **state) {
    (void)state;
    struct gpt_options o;
    struct gpt_error e;
    assert_int_equal(PARSE(&o, &e, "--data", "a", "b", "--seed=12", "--data", "c", "--lr", "1e-3",
                           "--quiet", "--plot", "p.svg"),
                     GPT_OPTIONS_RUN);
    assert_int_equal(o.files, 3);
    assert_string_equal(o.data[0], "a");
    assert_string_equal(o.data[1], "b");
    assert_string_equal(o.data[2], "c");
    assert_int_equal(o.seed, 12);
    assert_true(o.rate == 1e-3);
    assert_true(o.quiet && !o.live);
    assert_string_equal(o.plot, "p.svg");
    gpt_options_free(&o);
    assert_int_equal(PARSE(&o, &e, "--dp", "4"), GPT_OPTIONS_RUN);
    assert_true(o.dp == 4 && !o.ddp);
    const uint64_t plain = gpt_options_hash(&o);
    gpt_options_free(&o);
    assert_int_equal(PARSE(&o, &e, "--dp", "4", "--hook", "none"), GPT_OPTIONS_RUN);
    assert_true(gpt_options_hash(&o) == plain);
    gpt_options_free(&o);
    assert_int_equal(PARSE(&o, &e, "--hook", "powersgd:4+bf16"), GPT_OPTIONS_RUN);
    assert_string_equal(o.hook, "powersgd:4+bf16");
    const uint64_t low = gpt_options_hash(&o);
    gpt_options_free(&o);
    assert_int_equal(PARSE(&o, &e, "--hook=fp16+powersgd"), GPT_OPTIONS_RUN);
    assert_true(gpt_options_hash(&o) != low);
    gpt_options_free(&o);
    assert_int_equal(PARSE(&o, &e, "--ddp", "--elastic"), GPT_OPTIONS_RUN);
    assert_true(o.dp == 0 && o.ddp && o.elastic);
    gpt_options_free(&o);
    assert_int_equal(PARSE(&o, &e, "--seed", "1", "--help"), GPT_OPTIONS_HELP);
}

static void test_errors(void **state) {
    (void)state;
    static const struct {
        const char *words[4], *text;
    } wrong[] = {
        {{"--layers", "0"}, "--layers 0: allowed is an integer from 1 to 96"},
        {{"--layers", "97"}, "from 1 to 96"},
        {{"--layers", "1e1"}, "an integer"},
        {{"--layers", "2x"}, "an integer"},
        {{"--layers="}, "an integer"},
        {{"--seed", "99999999999999999999"}, "--seed 99999999999999999999: allowed is"},
        {{"--seed", "-1"}, "from 0 to"},
        {{"--lr", "nan"}, "--lr nan: allowed is a number from 0 to 10"},
        {{"--lr", "inf"}, "a number"},
        {{"--minutes", "-1"}, "a number from 0"},
        {{"--layers"}, "--layers: its value is missing"},
        {{"--data"}, "--data: its value is missing"},
        {{"--data", "--quiet"}, "--data: its value is missing"},
        {{"--plot="}, "the name of a file is missing"},
        {{"--quiet=1"}, "--quiet takes no value"},
        {{"--layer", "3"}, "--layer: there is no such option; --help"},
        {{"--layers=3=4"}, "an integer"},
        {{"text"}, "come after --data"},
        {{"--quiet", "text"}, "come after --data"},
        {{"-n"}, "-n: not an option"},
        {{"--heads", "5"}, "--heads 5 does not divide --dim 96"},
        {{"--save-every", "5"}, "--save-every needs --checkpoint"},
        {{"--minutes", "0"}, "would never end"},
        {{"--dp", "0"}, "--dp 0: allowed is an integer from 1 to 64"},
        {{"--dp=65"}, "from 1 to 64"},
        {{"--dp=2", "--ddp"}, "--dp 2 is one process, and does not go with --ddp"},
        {{"--elastic", "--dp=2"}, "does not go with --elastic"},
        {{"--ddp=2"}, "--ddp takes no value"},
        {{"--hook", "f16"}, "--hook f16: allowed is none, or fp16, bf16 and powersgd[:RANK]"},
        {{"--hook="}, "--hook : allowed is none"},
        {{"--hook=powersgd:0"},
         "--hook powersgd:0: the rank after powersgd: is an integer from 1 to 64"},
        {{"--hook=powersgd:65"}, "from 1 to 64"},
        {{"--hook=powersgd:"}, "--hook powersgd:: allowed is"},
        {{"--hook=powersgd:4x+bf16"}, "--hook powersgd:4x: the rank"},
        {{"--hook=powersgd:4+"}, "--hook : allowed is"},
        {{"--hook=none+fp16"}, "--hook none: allowed is"},
        {{"--hook=fp16+fp16+fp16+fp16+fp16+fp16+fp16+fp16+fp16"}, "more than 8 hooks"},
        {{"--hook=fp16", "--dp=2"}, "--hook fp16 does not go with --dp"},
        {{"--hook=fp16", "--device=cuda"}, "--hook fp16 does not go with --device cuda"},
        {{"--device", "gpu"}, "--device gpu: allowed is cpu or cuda"},
        {{"--device="}, "cpu or cuda"},
        {{"--device"}, "--device: its value is missing"},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        struct gpt_options o;
        struct gpt_error e = {""};
        if (parse(wrong[i].words, &o, &e) != GPT_OPTIONS_WRONG || !strstr(e.text, wrong[i].text)) {
            fail_msg("%s %s gives \"%s\"", wrong[i].words[0],
                     wrong[i].words[1] ? wrong[i].words[1] : "", e.text);
        }
    }
}

// Ranks that compute on different devices have different options.
static void test_device(void **state) {
    (void)state;
    struct gpt_options cpu, cuda;
    struct gpt_error e;
    assert_int_equal(PARSE(&cpu, &e, "--device", "cpu", "--steps=3"), GPT_OPTIONS_RUN);
    assert_int_equal(PARSE(&cuda, &e, "--device=cuda", "--steps=3"), GPT_OPTIONS_RUN);
    assert_int_equal(cuda.device, GPT_DEVICE_CUDA);
    assert_true(gpt_options_hash(&cpu) != gpt_options_hash(&cuda));
    cuda.device = GPT_DEVICE_CPU;
    assert_true(gpt_options_hash(&cpu) == gpt_options_hash(&cuda));
    gpt_options_free(&cpu);
    gpt_options_free(&cuda);
}

// Each option that --help names is understood, and none is wider than a terminal.
static void test_help(void **state) {
    (void)state;
    char *text = NULL, *next, *line;
    size_t len = 0;
    int options = 0;
    FILE *out = open_memstream(&text, &len);
    gpt_options_help(out);
    fclose(out);
    for (line = text; (next = strchr(line, '\n')) != NULL; line = next + 1) {
        char name[32];
        *next = '\0';
        assert_true(strlen(line) <= 100);
        if (sscanf(line, "  --%31[a-z-]", name) == 1 && strcmp(name, "help") != 0) {
            struct gpt_options o;
            struct gpt_error e = {""};
            char word[40];
            snprintf(word, sizeof word, "--%s", name);
            if (PARSE(&o, &e, word) == GPT_OPTIONS_RUN) {
                gpt_options_free(&o);
            } else {
                assert_non_null(strstr(e.text, "value is missing"));
            }
            options++;
        }
    }
    assert_true(options > 20);
    free(text);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_defaults), cmocka_unit_test(test_values),
        cmocka_unit_test(test_errors),   cmocka_unit_test(test_device),
        cmocka_unit_test(test_help),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
