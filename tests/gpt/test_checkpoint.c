// SPDX-License-Identifier: MIT
// Checkpoints: what is saved comes back, and nothing else is ever taken for a checkpoint.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "gpt_checkpoint.h"
#include "gpt_file.h"

#include <cmocka.h>

static char folder[64], path[96];
static const struct gpt_shape shape = {.layers = 1, .heads = 2, .dim = 4, .context = 3};

struct saved {
    struct gpt_model model;
    struct gpt_adamw adamw;
};

static void create(struct saved *s, uint64_t seed, uint64_t steps) {
    struct gpt_error e;
    assert_true(gpt_model_create(&s->model, &shape, seed, &e));
    assert_true(gpt_adamw_create(&s->adamw, &s->model, 0.1, &e));
    for (size_t i = 0; i < s->adamw.count; i++) {
        s->adamw.m[i] = (float)(gpt_random(seed + 1, i) >> 40);
        s->adamw.v[i] = (float)(gpt_random(seed + 2, i) >> 40);
    }
    s->adamw.steps = steps;
}

static void destroy(struct saved *s) {
    gpt_model_free(&s->model);
    gpt_adamw_free(&s->adamw);
}

static void assert_same(const struct saved *a, const struct saved *b) {
    const size_t size = a->model.count * sizeof(float);
    assert_memory_equal(a->model.params, b->model.params, size);
    assert_memory_equal(a->adamw.m, b->adamw.m, size);
    assert_memory_equal(a->adamw.v, b->adamw.v, size);
    assert_true(a->adamw.steps == b->adamw.steps);
}

// The bytes of a good checkpoint.
static uint8_t *good(size_t *len) {
    struct saved s;
    struct gpt_error e;
    uint8_t *bytes;
    create(&s, 1, 77);
    assert_true(gpt_checkpoint_save(path, &s.model, &s.adamw, &e));
    assert_true(gpt_file_read(path, "cannot read", &bytes, len, &e));
    destroy(&s);
    return bytes;
}

static void test_round_trip(void **state) {
    (void)state;
    struct saved a, b;
    struct gpt_error e;
    create(&a, 1, UINT64_C(1) << 40);
    create(&b, 9, 0);
    assert_true(gpt_checkpoint_save(path, &b.model, &b.adamw, &e));
    assert_true(gpt_checkpoint_save(path, &a.model, &a.adamw, &e)); // replaces it
    assert_true(gpt_checkpoint_load(path, &b.model, &b.adamw, &e));
    assert_same(&a, &b);
    char beside[128];
    snprintf(beside, sizeof beside, "%s.new", path);
    assert_int_equal(access(beside, F_OK), -1);
    destroy(&a);
    destroy(&b);
}

static void test_every_damaged_byte_is_seen(void **state) {
    (void)state;
    size_t len;
    struct gpt_checkpoint c;
    struct gpt_error e;
    uint8_t *bytes = good(&len);
    assert_true(gpt_checkpoint_parse(bytes, len, &c, &e));
    assert_int_equal(c.step, 77);
    for (size_t i = 0; i < len; i++) {
        bytes[i] ^= (uint8_t)(1u << i % 8);
        e.text[0] = '\0';
        if (gpt_checkpoint_parse(bytes, len, &c, &e) || !e.text[0]) {
            fail_msg("byte %zu of %zu was changed and nobody saw it", i, len);
        }
        bytes[i] ^= (uint8_t)(1u << i % 8);
    }
    free(bytes);
}

// The bytes are copied to a block of their exact size, so that a sanitizer sees a read behind the
// end.
static bool parses(const uint8_t *bytes, size_t len) {
    struct gpt_checkpoint c;
    struct gpt_error e;
    uint8_t *exact = malloc(len + !len);
    memcpy(exact, bytes, len);
    const bool ok = gpt_checkpoint_parse(exact, len, &c, &e);
    free(exact);
    return ok;
}

static void test_every_wrong_length_is_seen(void **state) {
    (void)state;
    size_t len;
    uint8_t *bytes = good(&len), *longer = calloc(len + 4, 1);
    memcpy(longer, bytes, len);
    assert_true(parses(longer, len));
    for (size_t n = 0; n < len + 4; n++) {
        assert_true(n == len || !parses(longer, n));
    }
    free(bytes);
    free(longer);
}

// Headers with a right checksum and absurd sizes, which somebody would have to make on purpose.
static void test_absurd_headers(void **state) {
    (void)state;
    static const uint32_t odd[] = {0, 3, 0x7fffffff, 0x80000000, 0xffffffff, 8193};
    size_t len;
    uint8_t *bytes = good(&len);
    for (size_t at = 12; at < 32; at += 4) {
        for (size_t i = 0; i < sizeof odd / sizeof odd[0]; i++) {
            uint8_t keep[4];
            memcpy(keep, bytes + at, 4);
            memcpy(bytes + at, &odd[i], 4);
            uint64_t hash = gpt_hash(GPT_HASH_START, bytes, 48);
            hash = gpt_hash(hash, bytes + GPT_CHECKPOINT_HEADER, len - GPT_CHECKPOINT_HEADER);
            memcpy(bytes + 48, &hash, 8);
            assert_true(memcmp(keep, bytes + at, 4) == 0 || !parses(bytes, len));
            memcpy(bytes + at, keep, 4);
        }
    }
    free(bytes);
}

static void test_random_bytes(void **state) {
    (void)state;
    for (uint64_t n = 0; n < 2000; n++) {
        uint8_t bytes[128];
        const size_t len = gpt_random(n, 0) % sizeof bytes;
        for (size_t i = 0; i < len; i++) {
            bytes[i] = (uint8_t)gpt_random(n, i + 1);
        }
        memcpy(bytes, "rondogpt\1\0\0\0", len < 12 ? len : n % 13);
        assert_false(parses(bytes, len));
    }
}

static void expect_failure(const char *name, const struct gpt_shape *want, const char *words) {
    struct saved a, before;
    struct gpt_error e;
    create(&a, 3, 5);
    create(&before, 3, 5);
    a.model.shape = *want;
    assert_false(gpt_checkpoint_load(name, &a.model, &a.adamw, &e));
    print_message("  %s\n", e.text);
    assert_non_null(strstr(e.text, words));
    assert_non_null(strstr(e.text, name));
    assert_same(&a, &before);
    destroy(&a);
    destroy(&before);
}

static void test_load_errors(void **state) {
    (void)state;
    size_t len;
    struct gpt_error e;
    uint8_t *bytes = good(&len);
    const struct gpt_shape wider = {.layers = 1, .heads = 2, .dim = 8, .context = 3};
    expect_failure(path, &wider, "--layers 1 --heads 2 --dim 4 --context 3");
    expect_failure("/nonexistent/checkpoint", &shape, "No such file");
    expect_failure(folder, &shape, "a folder");
    expect_failure("/dev/null", &shape, "not a file");

    struct iovec part = {bytes, len / 2};
    assert_true(gpt_file_replace(path, &part, 1, &e));
    expect_failure(path, &shape, "damaged");
    part.iov_len = 0;
    assert_true(gpt_file_replace(path, &part, 1, &e));
    expect_failure(path, &shape, "empty");
    part = (struct iovec){(void *)(uintptr_t) "hello, world", 12};
    assert_true(gpt_file_replace(path, &part, 1, &e));
    expect_failure(path, &shape, "not a checkpoint");
    free(bytes);
}

// A failed save must leave the checkpoint that was there.
static void test_save_errors(void **state) {
    (void)state;
    struct saved s, back;
    struct gpt_error e;
    char beside[128];
    create(&s, 1, 2);
    create(&back, 4, 4);
    assert_false(gpt_checkpoint_save("/nonexistent/checkpoint", &s.model, &s.adamw, &e));
    assert_non_null(strstr(e.text, "/nonexistent/checkpoint: No such file"));
    assert_false(gpt_file_probe("/nonexistent/checkpoint", &e));
    assert_false(gpt_checkpoint_save(folder, &s.model, &s.adamw, &e));
    assert_non_null(strstr(e.text, "not a file"));

    assert_true(gpt_checkpoint_save(path, &s.model, &s.adamw, &e));
    snprintf(beside, sizeof beside, "%s.new", path);
    assert_int_equal(mkdir(beside, 0700), 0); // in the way of the new file
    assert_false(gpt_file_probe(path, &e));
    s.adamw.steps = 3;
    assert_false(gpt_checkpoint_save(path, &s.model, &s.adamw, &e));
    assert_int_equal(rmdir(beside), 0);
    assert_true(gpt_checkpoint_load(path, &back.model, &back.adamw, &e));
    assert_int_equal(back.adamw.steps, 2);

    assert_true(gpt_file_probe(path, &e)); // and this leaves it, too
    assert_true(gpt_checkpoint_load(path, &back.model, &back.adamw, &e));
    destroy(&s);
    destroy(&back);
}

static int make_folder(void **state) {
    (void)state;
    snprintf(folder, sizeof folder, "/tmp/gpt_checkpoint.XXXXXX");
    if (!mkdtemp(folder)) {
        return -1;
    }
    snprintf(path, sizeof path, "%s/checkpoint", folder);
    return 0;
}

static int remove_folder(void **state) {
    (void)state;
    unlink(path);
    return rmdir(folder);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_every_damaged_byte_is_seen),
        cmocka_unit_test(test_every_wrong_length_is_seen),
        cmocka_unit_test(test_absurd_headers),
        cmocka_unit_test(test_random_bytes),
        cmocka_unit_test(test_load_errors),
        cmocka_unit_test(test_save_errors),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
