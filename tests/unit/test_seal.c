// SPDX-License-Identifier: MIT
// Sealed records over bytes: what was sealed opens, once, in its place, at the other end of its own connection; and
// nothing else does, whatever is done to it on the way.
#include "transport/tcp/seal.h"

#include <setjmp.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

// ---- Two ends ------------------------------------------------------------------------------------

static uint64_t seed = 1;

static void fake_random(void *self, void *buf, size_t n) {
    (void)self;
    for (size_t i = 0; i < n; i++) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        ((uint8_t *)buf)[i] = (uint8_t)(seed >> 56);
    }
}

static const struct rdi_env env = {.random = fake_random};
static struct rdi_job job;

struct ends {
    struct rdi_hs hs[2];
    struct rdi_seal seal[2]; // of the connector, of the acceptor
};

static void deliver(struct rdi_hs *from, struct rdi_hs *to) {
    size_t n = from->out_len - from->out_off, used;
    rdi_hs_input(to, from->out + from->out_off, n, &used);
    assert_int_equal(used, n);
    rdi_hs_sent(from, n);
}

static void connect_ends(struct ends *e) {
    rdi_hs_connect(&e->hs[0], RDI_HS_TCP, &job, &env, "hello", 5);
    rdi_hs_accept(&e->hs[1], RDI_HS_TCP, &job, &env);
    for (int i = 0; i < 3; i++) {
        deliver(&e->hs[i % 2], &e->hs[1 - i % 2]);
    }
    rdi_hs_reply(&e->hs[1], "reply", 5);
    deliver(&e->hs[1], &e->hs[0]);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(e->hs[i].state, RDI_HS_DONE);
        assert_true(rdi_seal_begin(&e->seal[i], &e->hs[i]));
    }
}

static void end_ends(struct ends *e) {
    rdi_seal_end(&e->seal[0]);
    rdi_seal_end(&e->seal[1]);
}

static int setup(void **state) {
    (void)state;
    memset(&job, 0, sizeof job);
    job.size = 2;
    return rdi_key_set(&job, "0123456789abcdef", 16) == RONDO_OK ? 0 : -1;
}

static int teardown(void **state) {
    (void)state;
    rdi_job_clear(&job);
    return 0;
}

// ---- A stream ------------------------------------------------------------------------------------

#define RECORDS 4
static const size_t lengths[RECORDS] = {1, 40, 300, 33};

// Records as they were sealed: record i is at[i] to at[i + 1], the prefix at[0] to begin.
struct stream {
    uint8_t bytes[2048];
    size_t begin, at[RECORDS + 1];
};

static void text_of(size_t i, uint8_t *out) { memset(out, 'A' + (int)i, lengths[i]); }

static void seal_stream(struct rdi_seal *s, struct stream *t) {
    uint8_t text[300];
    size_t used = 0;
    for (size_t i = 0; i < RECORDS; i++) {
        text_of(i, text);
        t->at[i] = used;
        used += rdi_seal_write(s, text, lengths[i], t->bytes + used);
    }
    t->at[RECORDS] = used;
    t->begin = RDI_SEAL_PREFIX;
    assert_int_equal(used, RDI_SEAL_PREFIX + RECORDS * RDI_SEAL_MORE + 1 + 40 + 300 + 33);
}

// How many records open, of which each must be the stream's next. The bytes lie at the end of a block of their own.
static size_t open_stream(struct rdi_seal *s, const uint8_t *bytes, size_t n, bool *broken) {
    uint8_t *copy = malloc(n > 0 ? n : 1), out[400], text[300];
    assert_non_null(copy);
    memcpy(copy, bytes, n);
    size_t opened = 0, off = 0;
    *broken = false;
    while (!*broken) {
        size_t skip, whole, plain;
        enum rdi_seal_found found = rdi_seal_look(s, copy + off, n - off, &skip, &whole, &plain);
        off += skip;
        if (found == RDI_SEAL_PART) {
            assert_true(whole > n - off);
            break;
        }
        memset(out, 0xee, sizeof out);
        *broken = found == RDI_SEAL_BROKEN || plain > sizeof out ||
                  !rdi_seal_read(s, copy + off, whole, out);
        if (*broken) {
            for (size_t i = 0; i < sizeof out; i++) {
                assert_int_equal(out[i], 0xee); // nothing was written
            }
        } else {
            assert_true(opened < RECORDS);
            assert_int_equal(plain, lengths[opened]);
            text_of(opened, text);
            assert_memory_equal(out, text, plain);
            opened++;
            off += whole;
        }
    }
    free(copy);
    return opened;
}

// What opens of these bytes at a fresh copy of that end.
static size_t try_bytes(const struct rdi_hs *hs, const uint8_t *bytes, size_t n, bool *broken) {
    struct rdi_seal s;
    assert_true(rdi_seal_begin(&s, hs));
    size_t opened = open_stream(&s, bytes, n, broken);
    rdi_seal_end(&s);
    return opened;
}

// ---- Tests ---------------------------------------------------------------------------------------

static void test_sizes(void **state) {
    (void)state;
    static const size_t sizes[] = {1, 2, 63, 64, 65, RDI_SEAL_MIX, RDI_SEAL_BIG - 1, RDI_SEAL_BIG};
    struct ends e;
    connect_ends(&e);
    uint8_t *text = malloc(RDI_SEAL_BIG), *out = malloc(RDI_SEAL_BIG);
    uint8_t *wire = malloc(RDI_SEAL_PREFIX + RDI_SEAL_BIG + RDI_SEAL_MORE);
    assert_true(text != NULL && out != NULL && wire != NULL);
    for (size_t i = 0; i < 2 * sizeof sizes / sizeof sizes[0]; i++) {
        size_t n = sizes[i / 2], skip, whole, plain;
        struct rdi_seal *from = &e.seal[i % 2], *to = &e.seal[1 - i % 2];
        fake_random(NULL, text, n);
        size_t len = rdi_seal_write(from, text, n, wire);
        assert_int_equal(len, n + RDI_SEAL_MORE + (i < 2 ? RDI_SEAL_PREFIX : 0));
        assert_int_equal(rdi_seal_look(to, wire, len, &skip, &whole, &plain), RDI_SEAL_WHOLE);
        assert_int_equal(skip, i < 2 ? RDI_SEAL_PREFIX : 0);
        assert_int_equal(skip + whole, len);
        assert_int_equal(plain, n);
        assert_true(rdi_seal_read(to, wire + skip, whole, out));
        assert_memory_equal(out, text, n);
        assert_true(n < 16 || memmem(wire, len, text, 16) == NULL);
    }
    free(wire);
    free(out);
    free(text);
    end_ends(&e);
}

static void test_each_byte_alone(void **state) {
    (void)state;
    struct ends e;
    struct stream t;
    connect_ends(&e);
    seal_stream(&e.seal[0], &t);
    for (size_t n = 0; n <= t.at[RECORDS]; n++) {
        bool broken;
        size_t opened = try_bytes(&e.hs[1], t.bytes, n, &broken), there = 0;
        while (there < RECORDS && t.at[there + 1] <= n) {
            there++;
        }
        assert_false(broken); // the layer above misses the rest
        assert_int_equal(opened, there);
    }
    end_ends(&e);
}

static void test_each_bit_flipped(void **state) {
    (void)state;
    struct ends e;
    struct stream t;
    // Behind the stream come more bytes than any length can ask for.
    const size_t room = 2048 + RDI_SEAL_BIG + RDI_SEAL_MORE;
    uint8_t *bytes = calloc(1, room);
    assert_non_null(bytes);
    connect_ends(&e);
    seal_stream(&e.seal[0], &t);
    memcpy(bytes, t.bytes, t.at[RECORDS]);
    for (size_t bit = 0; bit < 8 * t.at[RECORDS]; bit++) {
        bool broken;
        size_t hit = 0;
        while (t.at[hit + 1] <= bit / 8) {
            hit++;
        }
        bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
        assert_int_equal(try_bytes(&e.hs[1], bytes, room, &broken), hit);
        assert_true(broken);
        bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    free(bytes);
    end_ends(&e);
}

// The stream with record i replaced by a range of these bytes.
static size_t altered(const struct ends *e, const struct stream *t, size_t i, const uint8_t *with,
                      size_t n, bool *broken) {
    uint8_t bytes[4096];
    size_t from = i == 0 ? t->begin : t->at[i], used = from + n;
    memcpy(bytes, t->bytes, from);
    memcpy(bytes + from, with, n);
    memcpy(bytes + used, t->bytes + t->at[i + 1], t->at[RECORDS] - t->at[i + 1]);
    used += t->at[RECORDS] - t->at[i + 1];
    return try_bytes(&e->hs[1], bytes, used, broken);
}

static void test_dropped_repeated_swapped(void **state) {
    (void)state;
    struct ends e;
    struct stream t;
    bool broken;
    connect_ends(&e);
    seal_stream(&e.seal[0], &t);
    for (size_t i = 0; i + 1 < RECORDS; i++) {
        size_t from = i == 0 ? t.begin : t.at[i];
        assert_int_equal(altered(&e, &t, i, t.bytes, 0, &broken), i);
        assert_true(broken);
        uint8_t twice[1024];
        size_t n = t.at[i + 1] - from, next = t.at[i + 2] - t.at[i + 1];
        memcpy(twice, t.bytes + from, n);
        memcpy(twice + n, t.bytes + from, n);
        assert_int_equal(altered(&e, &t, i, twice, 2 * n, &broken), i + 1);
        assert_true(broken);
        uint8_t swapped[2048];
        memcpy(swapped, t.bytes, t.at[RECORDS]);
        memcpy(swapped + from, t.bytes + t.at[i + 1], next);
        memcpy(swapped + from + next, t.bytes + from, n);
        assert_int_equal(try_bytes(&e.hs[1], swapped, t.at[RECORDS], &broken), i);
        assert_true(broken);
    }
    // Opened once, nothing of it opens again.
    assert_int_equal(open_stream(&e.seal[1], t.bytes, t.at[RECORDS], &broken), RECORDS);
    assert_false(broken);
    assert_int_equal(open_stream(&e.seal[1], t.bytes + t.begin, t.at[RECORDS] - t.begin, &broken),
                     0);
    assert_true(broken);
    end_ends(&e);
}

static void test_other_connections(void **state) {
    (void)state;
    struct ends e, other;
    struct stream t;
    bool broken;
    connect_ends(&e);
    connect_ends(&other);
    seal_stream(&e.seal[0], &t);
    // Recorded, and said on a new connection of the same two; or back to the one that said it.
    assert_int_equal(try_bytes(&other.hs[1], t.bytes, t.at[RECORDS], &broken), 0);
    assert_true(broken);
    assert_int_equal(try_bytes(&e.hs[0], t.bytes, t.at[RECORDS], &broken), 0);
    assert_true(broken);
    assert_int_equal(try_bytes(&e.hs[1], t.bytes, t.at[RECORDS], &broken), RECORDS);
    end_ends(&e);
    end_ends(&other);
}

static void test_lengths(void **state) {
    (void)state;
    struct ends e;
    static const uint32_t bad[] = {0,          1,          16,        17, RDI_SEAL_BIG + 18,
                                   0x7fffffff, 0x80000000, 0xffffffff};
    static const uint32_t good[] = {18, RDI_SEAL_BIG + 17};
    size_t skip, whole, plain;
    connect_ends(&e);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0] + sizeof good / sizeof good[0]; i++) {
        struct rdi_seal s;
        const size_t nbad = sizeof bad / sizeof bad[0];
        uint32_t length = i < nbad ? bad[i] : good[i - nbad];
        uint8_t *bytes = calloc(1, RDI_SEAL_PREFIX + RDI_SEAL_LENGTH);
        assert_non_null(bytes);
        for (int k = 0; k < 4; k++) {
            bytes[RDI_SEAL_PREFIX + k] = (uint8_t)(length >> 8 * k);
        }
        assert_true(rdi_seal_begin(&s, &e.hs[1]));
        assert_int_equal(
            rdi_seal_look(&s, bytes, RDI_SEAL_PREFIX + RDI_SEAL_LENGTH, &skip, &whole, &plain),
            i < nbad ? RDI_SEAL_BROKEN : RDI_SEAL_PART);
        assert_true(i < nbad || whole == length + RDI_SEAL_LENGTH);
        rdi_seal_end(&s);
        free(bytes);
    }
    end_ends(&e);
}

static void test_keys(void **state) {
    (void)state;
    struct ends e, other;
    uint8_t key[2][2][2][RDI_KEY_BYTES];
    connect_ends(&e);
    connect_ends(&other);
    for (int end = 0; end < 2; end++) {
        for (int direction = 0; direction < 2; direction++) {
            rdi_hs_session_key(&e.hs[end], direction == 0, key[0][end][direction]);
            rdi_hs_session_key(&other.hs[end], direction == 0, key[1][end][direction]);
        }
    }
    for (int c = 0; c < 2; c++) {
        assert_memory_equal(key[c][0], key[c][1], sizeof key[c][0]); // both ends have the same
        assert_memory_not_equal(key[c][0][0], key[c][0][1], RDI_KEY_BYTES);
    }
    assert_memory_not_equal(key[0][0][0], key[1][0][0], RDI_KEY_BYTES);
    assert_memory_not_equal(key[0][0][1], key[1][0][1], RDI_KEY_BYTES);
    // Memory for secrets stays mapped when it is given back.
    const uint8_t *was = (const uint8_t *)e.seal[0].keys;
    static const uint8_t zeros[RDI_SECRET_BYTES];
    assert_memory_not_equal(was, zeros, RDI_SECRET_BYTES);
    end_ends(&e);
    assert_memory_equal(was, zeros, RDI_SECRET_BYTES);
    assert_null(e.seal[0].keys);
    end_ends(&e); // does no harm
    end_ends(&other);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sizes),
        cmocka_unit_test(test_each_byte_alone),
        cmocka_unit_test(test_each_bit_flipped),
        cmocka_unit_test(test_dropped_repeated_swapped),
        cmocka_unit_test(test_other_connections),
        cmocka_unit_test(test_lengths),
        cmocka_unit_test(test_keys),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
