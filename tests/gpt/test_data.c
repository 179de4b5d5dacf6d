// SPDX-License-Identifier: MIT
// The text: how it is read, split and dealt out to ranks.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "gpt_data.h"
#include "gpt_file.h"

#include <cmocka.h>

enum { CONTEXT = 8, SIZE = 6000 };

static char folder[64], first[96], second[96];

// A file in which every three bytes tell where they are, so that a window can be found again.
static void write_file(const char *path, size_t size, unsigned mark) {
    uint8_t *bytes = malloc(size + 3);
    struct gpt_error e;
    for (size_t i = 0; i < size; i += 3) {
        bytes[i] = (uint8_t)mark;
        bytes[i + 1] = (uint8_t)(i / 3 / 200);
        bytes[i + 2] = (uint8_t)(i / 3 % 200);
    }
    const struct iovec part = {bytes, size};
    assert_true(gpt_file_replace(path, &part, 1, &e));
    free(bytes);
}

static void load(struct gpt_corpus *c) {
    const char *files[] = {first, second};
    struct gpt_error e;
    assert_true(gpt_corpus_load(c, files, 2, CONTEXT, &e));
}

static void test_split(void **state) {
    (void)state;
    struct gpt_corpus c;
    load(&c);
    assert_int_equal(c.held_len, SIZE / 20 + 2 * SIZE / 20);
    assert_int_equal(c.train_len + c.held_len, 3 * SIZE);
    uint8_t *a, *b;
    size_t len_a, len_b;
    struct gpt_error e;
    assert_true(gpt_file_read(first, "cannot read", &a, &len_a, &e));
    assert_true(gpt_file_read(second, "cannot read", &b, &len_b, &e));
    // The tail of each file is held out, and every byte is in exactly one of the two parts.
    const size_t cut_a = len_a - len_a / 20, cut_b = len_b - len_b / 20;
    assert_memory_equal(c.train, a, cut_a);
    assert_memory_equal(c.train + cut_a, b, cut_b);
    assert_memory_equal(c.held, a + cut_a, len_a - cut_a);
    assert_memory_equal(c.held + len_a - cut_a, b + cut_b, len_b - cut_b);
    free(a);
    free(b);
    gpt_corpus_free(&c);
}

static int by_content(const void *a, const void *b) { return memcmp(a, b, CONTEXT); }

// All sequences of a step, gathered from `world` ranks and sorted.
static void gather(const struct gpt_corpus *c, int world, int64_t batch, uint64_t step,
                   uint8_t *all) {
    int n = 0;
    for (int rank = 0; rank < world; rank++) {
        const struct gpt_share share = {.rank = rank, .world = world, .batch = batch};
        uint8_t target[64 * CONTEXT];
        const int count = gpt_share_count(&share);
        assert_true(count >= batch / world && count <= batch / world + 1);
        assert_true(gpt_train_batch(c, &share, 5, step, CONTEXT, all + n * CONTEXT, target, NULL));
        for (int i = 0; i < count; i++) {
            assert_memory_equal(all + (n + i) * CONTEXT + 1, target + i * CONTEXT, CONTEXT - 1);
        }
        n += count;
    }
    assert_int_equal(n, batch);
    qsort(all, (size_t)n, CONTEXT, by_content);
}

static void test_steps_do_not_depend_on_ranks(void **state) {
    (void)state;
    enum { BATCH = 10 };
    struct gpt_corpus c;
    load(&c);
    // Step 400 is in the second epoch.
    for (uint64_t step = 0; step <= 400; step += 50) {
        uint8_t one[BATCH * CONTEXT], many[BATCH * CONTEXT];
        gather(&c, 1, BATCH, step, one);
        for (int world = 2; world <= BATCH; world++) {
            gather(&c, world, BATCH, step, many);
            assert_memory_equal(one, many, sizeof one);
        }
    }
    gpt_corpus_free(&c);
}

// An epoch deals out every window once; another epoch cuts and orders the text anew.
static void test_epochs(void **state) {
    (void)state;
    struct gpt_corpus c;
    load(&c);
    const size_t windows = c.train_len / CONTEXT - 1;
    uint8_t *epoch[2];
    for (int i = 0; i < 2; i++) {
        const struct gpt_share all = {.rank = 0, .world = 1, .batch = (int64_t)windows};
        uint8_t *target = malloc(windows * CONTEXT);
        epoch[i] = malloc(windows * CONTEXT);
        assert_true(gpt_train_batch(&c, &all, 5, (uint64_t)i, CONTEXT, epoch[i], target, NULL));
        free(target);
    }
    assert_memory_not_equal(epoch[0], epoch[1], windows * CONTEXT);
    for (int i = 0; i < 2; i++) {
        qsort(epoch[i], windows, CONTEXT, by_content);
        for (size_t k = 1; k < windows; k++) {
            assert_memory_not_equal(epoch[i] + (k - 1) * CONTEXT, epoch[i] + k * CONTEXT, CONTEXT);
        }
    }
    assert_memory_not_equal(epoch[0], epoch[1], windows * CONTEXT);
    free(epoch[0]);
    free(epoch[1]);
    gpt_corpus_free(&c);
}

static void test_held_windows(void **state) {
    (void)state;
    struct gpt_corpus c;
    load(&c);
    uint8_t in[CONTEXT], target[CONTEXT];
    for (size_t limit = 1; limit <= 200; limit += 7) {
        const size_t n = gpt_held_count(&c, CONTEXT, limit);
        assert_int_equal(n,
                         limit < (c.held_len - 1) / CONTEXT ? limit : (c.held_len - 1) / CONTEXT);
        gpt_held_window(&c, CONTEXT, limit, 0, in, target);
        assert_memory_equal(in, c.held, CONTEXT);
        gpt_held_window(&c, CONTEXT, limit, n - 1, in, target);
        if (n > 1) {
            assert_memory_equal(target, c.held + c.held_len - CONTEXT, CONTEXT);
        }
    }
    gpt_corpus_free(&c);
}

static void test_hash(void **state) {
    (void)state;
    struct gpt_corpus c;
    load(&c);
    const uint64_t hash = gpt_corpus_hash(&c);
    c.train[c.train_len - 1] ^= 1;
    assert_true(gpt_corpus_hash(&c) != hash);
    c.train[c.train_len - 1] ^= 1;
    c.held[0] ^= 1;
    assert_true(gpt_corpus_hash(&c) != hash);
    gpt_corpus_free(&c);
}

static void expect_failure(const char *path, const char *words) {
    struct gpt_corpus c;
    struct gpt_error e;
    assert_false(gpt_corpus_load(&c, &path, 1, CONTEXT, &e));
    print_message("  %s\n", e.text);
    assert_non_null(strstr(e.text, words));
}

static void test_errors(void **state) {
    (void)state;
    struct gpt_error e;
    char odd[96];
    snprintf(odd, sizeof odd, "%s/odd", folder);
    expect_failure("/nonexistent/text", "cannot train on /nonexistent/text: No such file");
    expect_failure(folder, "a folder");
    assert_int_equal(mkfifo(odd, 0600), 0);
    expect_failure(odd, "a device or a pipe"); // and does not wait for a writer
    unlink(odd);
    assert_true(gpt_file_replace(odd, NULL, 0, &e));
    expect_failure(odd, "empty");
    write_file(odd, 17 * 20 - 1, 1);
    expect_failure(odd, "too short");
    unlink(odd);
    // The least that will do: 2 * context + 1 bytes in each part.
    write_file(odd, 17 * 20, 1);
    const char *name = odd;
    struct gpt_corpus c;
    assert_true(gpt_corpus_load(&c, &name, 1, CONTEXT, &e));
    const struct gpt_share share = {.rank = 0, .world = 1, .batch = 100};
    uint8_t in[100 * CONTEXT], target[100 * CONTEXT];
    assert_true(gpt_train_batch(&c, &share, 1, 3, CONTEXT, in, target, NULL));
    gpt_corpus_free(&c);
    unlink(odd);
}

static int make_files(void **state) {
    (void)state;
    snprintf(folder, sizeof folder, "/tmp/gpt_data.XXXXXX");
    if (!mkdtemp(folder)) {
        return -1;
    }
    snprintf(first, sizeof first, "%s/first", folder);
    snprintf(second, sizeof second, "%s/second", folder);
    write_file(first, SIZE, 201);
    write_file(second, 2 * SIZE, 202);
    return 0;
}

static int remove_files(void **state) {
    (void)state;
    unlink(first);
    unlink(second);
    return rmdir(folder);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_split),  cmocka_unit_test(test_steps_do_not_depend_on_ranks),
        cmocka_unit_test(test_epochs), cmocka_unit_test(test_held_windows),
        cmocka_unit_test(test_hash),   cmocka_unit_test(test_errors),
    };
    return cmocka_run_group_tests(tests, make_files, remove_files);
}
