// SPDX-License-Identifier: MIT
// Which gradient goes to which bucket, and the sampler's permutation.
#include "ddp/internal.h"

#include <setjmp.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static struct rdi_param param(size_t count, rondo_type t) {
    return (struct rdi_param){.count = count, .bytes = count * rondo_type_size(t), .type = t};
}

static void assign(struct rdi_param *p, size_t n, size_t first, size_t cap, struct rdi_bucket **b,
                   size_t *nb) {
    size_t order[64];
    for (size_t i = 0; i < n; i++) {
        order[i] = n - 1 - i;
    }
    assert_int_equal(rdi_bucket_assign(p, n, order, first, cap, b, nb), RONDO_OK);
}

static void fills_in_reverse(void **state) {
    (void)state;
    struct rdi_param p[6];
    for (size_t i = 0; i < 6; i++) {
        p[i] = param(256, RONDO_F32); // 1 KiB each
    }
    struct rdi_bucket *b;
    size_t n;
    assign(p, 6, 1024, 2048, &b, &n);
    assert_int_equal(n, 4); // 1 + 2 + 2 + 1
    assert_int_equal(p[5].bucket, 0);
    assert_int_equal(p[4].bucket, 1);
    assert_int_equal(p[3].bucket, 1);
    assert_int_equal(p[3].offset, 1024);
    assert_int_equal(p[1].bucket, 2);
    assert_int_equal(p[0].bucket, 3);
    assert_int_equal(b[1].params, 2);
    assert_int_equal(b[1].count, 512);
    free(b);
}

static void large_gets_its_own(void **state) {
    (void)state;
    struct rdi_param p[3] = {param(10, RONDO_F32), param(100000, RONDO_F32), param(10, RONDO_F32)};
    struct rdi_bucket *b;
    size_t n;
    assign(p, 3, 1024, 4096, &b, &n);
    assert_int_equal(n, 3);
    assert_int_equal(p[1].bucket, 1);
    assert_int_equal(b[1].params, 1);
    free(b);
}

// One bucket per type at a time; numbered by when they are full, so that the order of launch never waits for a
// bucket that fills later.
static void types_do_not_mix(void **state) {
    (void)state;
    struct rdi_param p[4] = {param(16, RONDO_BF16), param(16, RONDO_F32), param(16, RONDO_BF16),
                             param(16, RONDO_F32)};
    struct rdi_bucket *b;
    size_t n;
    assign(p, 4, 1 << 20, 1 << 20, &b, &n);
    assert_int_equal(n, 2);
    assert_int_equal(p[3].bucket, p[1].bucket);
    assert_int_equal(p[2].bucket, p[0].bucket);
    assert_int_equal(p[1].bucket, 0); // complete when parameter 1 is, before parameter 0
    assert_int_equal(b[0].type, RONDO_F32);
    assert_int_equal(b[1].type, RONDO_BF16);
    free(b);
}

static void views_do_not_overlap(void **state) {
    (void)state;
    struct rdi_param p[40];
    for (size_t i = 0; i < 40; i++) {
        p[i] = param(i * 13 % 101 + 1, i % 3 ? RONDO_F32 : RONDO_F64);
    }
    struct rdi_bucket *b;
    size_t n, total = 0;
    assign(p, 40, 256, 1000, &b, &n);
    for (size_t i = 0; i < 40; i++) {
        assert_int_equal(p[i].offset % 64, 0);
        assert_true(p[i].offset + p[i].bytes <= b[p[i].bucket].count * rondo_type_size(p[i].type));
        for (size_t k = 0; k < i; k++) {
            assert_true(p[k].bucket != p[i].bucket || p[k].offset + p[k].bytes <= p[i].offset ||
                        p[i].offset + p[i].bytes <= p[k].offset);
        }
    }
    for (size_t i = 0; i < n; i++) {
        total += b[i].params;
    }
    assert_int_equal(total, 40);
    free(b);
}

static void sampler_covers_each_once(void **state) {
    (void)state;
    static const uint64_t sizes[] = {1, 2, 3, 10, 97, 1000, 4097};
    for (size_t z = 0; z < 7; z++) {
        for (int world = 1; world <= 5; world++) {
            unsigned char *seen = calloc(sizes[z], 1);
            uint64_t total = 0, twice = 0;
            for (int r = 0; r < world; r++) {
                rondo_sampler s = {.samples = sizes[z],
                                   .seed = 7,
                                   .epoch = 3,
                                   .rank = r,
                                   .world = world,
                                   .shuffle = 1};
                for (uint64_t i = 0; i < rondo_sampler_count(&s); i++) {
                    uint64_t x;
                    assert_int_equal(rondo_sampler_get(&s, i, &x), RONDO_OK);
                    assert_true(x < sizes[z]);
                    twice += seen[x]++ > 0;
                    total++;
                }
            }
            assert_int_equal(total - twice, sizes[z]); // padded: all are there
            assert_true(twice < (uint64_t)world);
            free(seen);
        }
    }
}

static void sampler_shuffles(void **state) {
    (void)state;
    rondo_sampler a = {.samples = 1000, .seed = 1, .epoch = 0, .world = 1, .shuffle = 1};
    rondo_sampler b = a, c = a, d = a;
    b.epoch = 1;
    c.seed = 2;
    d.shuffle = 0;
    uint64_t same_b = 0, same_c = 0, in_order = 0;
    for (uint64_t i = 0; i < 1000; i++) {
        uint64_t x, y, z, w;
        rondo_sampler_get(&a, i, &x);
        rondo_sampler_get(&b, i, &y);
        rondo_sampler_get(&c, i, &z);
        rondo_sampler_get(&d, i, &w);
        same_b += x == y;
        same_c += x == z;
        in_order += x == i;
        assert_int_equal(w, i);
    }
    assert_true(same_b < 20 && same_c < 20 && in_order < 20);
}

static void sampler_drops_and_refuses(void **state) {
    (void)state;
    uint64_t x;
    rondo_sampler s = {.samples = 10, .rank = 2, .world = 3, .drop_tail = 1};
    assert_int_equal(rondo_sampler_count(&s), 3);
    assert_int_equal(rondo_sampler_get(&s, 3, &x), RONDO_ERR_INVALID);
    s.rank = 3;
    assert_int_equal(rondo_sampler_count(&s), 0);
    assert_int_equal(rondo_sampler_get(&s, 0, &x), RONDO_ERR_INVALID);
}

// For any number of ranks each sample of a batch is one rank's, in order, and nobody has two more than another.
static void sampler_shares_cover_the_batch(void **state) {
    (void)state;
    const uint64_t batches[] = {0, 1, 7, 32, 1000003};
    uint64_t first, count;
    for (size_t b = 0; b < sizeof batches / sizeof batches[0]; b++) {
        for (int size = 1; size < 12; size++) {
            uint64_t next = 0, least = UINT64_MAX, most = 0;
            for (int rank = 0; rank < size; rank++) {
                assert_int_equal(rondo_sampler_share(batches[b], rank, size, &first, &count),
                                 RONDO_OK);
                assert_int_equal(first, next);
                next += count;
                least = count < least ? count : least;
                most = count > most ? count : most;
            }
            assert_int_equal(next, batches[b]);
            assert_true(most - least <= 1);
        }
    }
    // No overflow.
    assert_int_equal(rondo_sampler_share(UINT64_MAX, 6, 7, &first, &count), RONDO_OK);
    assert_true(first + count == UINT64_MAX);
    assert_int_equal(rondo_sampler_share(10, 3, 3, &first, &count), RONDO_ERR_INVALID);
    assert_int_equal(rondo_sampler_share(10, -1, 3, &first, &count), RONDO_ERR_INVALID);
    assert_int_equal(rondo_sampler_share(10, 0, 0, &first, &count), RONDO_ERR_INVALID);
    assert_int_equal(rondo_sampler_share(10, 0, 1, NULL, &count), RONDO_ERR_INVALID);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(fills_in_reverse),
        cmocka_unit_test(large_gets_its_own),
        cmocka_unit_test(types_do_not_mix),
        cmocka_unit_test(views_do_not_overlap),
        cmocka_unit_test(sampler_covers_each_once),
        cmocka_unit_test(sampler_shuffles),
        cmocka_unit_test(sampler_drops_and_refuses),
        cmocka_unit_test(sampler_shares_cover_the_batch),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
