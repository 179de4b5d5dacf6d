// SPDX-License-Identifier: MIT
// The handshake over bytes: all the ways in which it may be cut, altered, replayed or begun by
// somebody else.
#include "transport/internal.h"

#include <setjmp.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#define HEADER 10

// ---- Two ends in one process --------------------------------------------------------------------

static uint64_t seed;

static void fake_random(void *self, void *buf, size_t n) {
    (void)self;
    for (size_t i = 0; i < n; i++) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        ((uint8_t *)buf)[i] = (uint8_t)(seed >> 56);
    }
}

static const struct rdi_env env = {.random = fake_random};
static struct rdi_job job_a, job_b;

static int setup(void **state) {
    (void)state;
    seed = 1;
    memset(&job_a, 0, sizeof job_a);
    job_a.size = 2;
    assert_int_equal(rdi_key_set(&job_a, "0123456789abcdef", 16), RONDO_OK);
    job_b = job_a;
    return 0;
}

static void feed(struct rdi_hs *hs, const uint8_t *bytes, size_t n) {
    size_t used;
    rdi_hs_input(hs, bytes, n, &used);
    assert_true(used <= n);
}

// Takes what waits to be sent, at most cap bytes, so that a test can look at it and deliver it.
static size_t take(struct rdi_hs *hs, uint8_t *out, size_t cap) {
    size_t n = hs->out_len - hs->out_off;
    assert_true(n <= cap);
    memcpy(out, hs->out + hs->out_off, n);
    rdi_hs_sent(hs, n);
    return n;
}

// The four messages of an undisturbed handshake between c and a.
struct talk {
    uint8_t bytes[4][RDI_HS_BUFFER];
    size_t len[4];
};

static void talk(struct rdi_hs *c, struct rdi_hs *a, struct talk *t, const char *hello,
                 const char *reply) {
    rdi_hs_connect(c, RDI_HS_TCP, &job_a, &env, hello, strlen(hello));
    rdi_hs_accept(a, RDI_HS_TCP, &job_b, &env);
    t->len[0] = take(c, t->bytes[0], RDI_HS_BUFFER);
    feed(a, t->bytes[0], t->len[0]);
    t->len[1] = take(a, t->bytes[1], RDI_HS_BUFFER);
    feed(c, t->bytes[1], t->len[1]);
    t->len[2] = take(c, t->bytes[2], RDI_HS_BUFFER);
    feed(a, t->bytes[2], t->len[2]);
    assert_int_equal(a->state, RDI_HS_NEED_REPLY);
    rdi_hs_reply(a, reply, strlen(reply));
    t->len[3] = take(a, t->bytes[3], RDI_HS_BUFFER);
    feed(c, t->bytes[3], t->len[3]);
}

// ---- Tests --------------------------------------------------------------------------------------

static void test_agree(void **state) {
    (void)state;
    struct rdi_hs c, a;
    struct talk t;
    talk(&c, &a, &t, "rank 3 here", "welcome");
    assert_int_equal(c.state, RDI_HS_DONE);
    assert_int_equal(a.state, RDI_HS_DONE);
    assert_int_equal(a.peer_len, 11);
    assert_memory_equal(a.peer, "rank 3 here", 11);
    assert_int_equal(c.peer_len, 7);
    assert_memory_equal(c.peer, "welcome", 7);

    talk(&c, &a, &t, "", "");
    assert_int_equal(c.state, RDI_HS_DONE);
    assert_int_equal(a.peer_len, 0);
    assert_int_equal(c.peer_len, 0);
}

static void test_largest_payloads(void **state) {
    (void)state;
    struct rdi_hs c, a;
    struct talk t;
    char big[RDI_HS_PAYLOAD + 2];
    memset(big, 'x', sizeof big);
    big[RDI_HS_PAYLOAD] = '\0';
    talk(&c, &a, &t, big, big);
    assert_int_equal(c.state, RDI_HS_DONE);
    assert_int_equal(a.peer_len, RDI_HS_PAYLOAD);
    assert_int_equal(c.peer_len, RDI_HS_PAYLOAD);

    rdi_hs_connect(&c, RDI_HS_TCP, &job_a, &env, big, RDI_HS_PAYLOAD + 1);
    assert_int_equal(c.state, RDI_HS_FAILED);
    assert_int_equal(c.error, RONDO_ERR_INVALID);
    assert_int_equal(c.out_len, 0);

    rdi_hs_accept(&a, RDI_HS_TCP, &job_b, &env);
    feed(&a, t.bytes[0], t.len[0]);
    rdi_hs_reply(&a, "too early", 9); // ignored: nobody has proved anything
    assert_int_equal(a.state, RDI_HS_RUNNING);
}

// Any cut of the stream gives the same result, and bytes after the handshake are left alone.
static void test_one_byte_at_a_time(void **state) {
    (void)state;
    struct rdi_hs c, a;
    rdi_hs_connect(&c, RDI_HS_SHM, &job_a, &env, "hi", 2);
    rdi_hs_accept(&a, RDI_HS_SHM, &job_b, &env);
    for (int turn = 0; turn < 4000 && !(c.state == RDI_HS_DONE && a.state == RDI_HS_DONE); turn++) {
        struct rdi_hs *from = turn % 2 == 0 ? &c : &a, *to = turn % 2 == 0 ? &a : &c;
        if (from->out_off < from->out_len) {
            uint8_t byte = from->out[from->out_off];
            rdi_hs_sent(from, 1);
            feed(to, &byte, 1);
        }
        if (a.state == RDI_HS_NEED_REPLY) {
            rdi_hs_reply(&a, "ho", 2);
            assert_int_not_equal(a.state, RDI_HS_DONE); // not before the bytes are on the wire
        }
    }
    assert_int_equal(c.state, RDI_HS_DONE);
    assert_int_equal(a.state, RDI_HS_DONE);
    assert_memory_equal(c.peer, "ho", 2);

    size_t used = 99;
    rdi_hs_input(&c, "data", 4, &used);
    assert_int_equal(used, 0);
    assert_int_equal(c.state, RDI_HS_DONE);
}

static void test_bytes_after_welcome(void **state) {
    (void)state;
    struct rdi_hs c, a;
    struct talk t;
    talk(&c, &a, &t, "hello", "reply");
    seed = 1; // the same nonces: the same messages
    rdi_hs_connect(&c, RDI_HS_TCP, &job_a, &env, "hello", 5);
    uint8_t sent[RDI_HS_BUFFER], in[RDI_HS_BUFFER];
    take(&c, sent, sizeof sent);
    feed(&c, t.bytes[1], t.len[1]);
    take(&c, sent, sizeof sent);
    memcpy(in, t.bytes[3], t.len[3]);
    memcpy(in + t.len[3], "data", 4);
    size_t used;
    rdi_hs_input(&c, in, t.len[3] + 4, &used);
    assert_int_equal(c.state, RDI_HS_DONE);
    assert_int_equal(used, t.len[3]);
}

// Each message, cut short anywhere: the receiver waits and believes nothing.
static void test_truncations(void **state) {
    (void)state;
    struct rdi_hs c, a, x;
    struct talk t;
    talk(&c, &a, &t, "hello", "reply");
    for (int m = 0; m < 4; m++) {
        for (size_t n = 0; n < t.len[m]; n++) {
            seed = 1;
            bool acceptor = m % 2 == 0;
            if (acceptor) {
                struct rdi_hs other; // takes the same nonces as in the talk
                rdi_hs_connect(&other, RDI_HS_TCP, &job_a, &env, "hello", 5);
                rdi_hs_accept(&x, RDI_HS_TCP, &job_b, &env);
            } else {
                rdi_hs_connect(&x, RDI_HS_TCP, &job_a, &env, "hello", 5);
            }
            if (m >= 2) {
                feed(&x, t.bytes[m - 2], t.len[m - 2]);
            }
            feed(&x, t.bytes[m], n);
            assert_int_equal(x.state, RDI_HS_RUNNING);
            feed(&x, t.bytes[m] + n, t.len[m] - n); // and goes on where it was
            enum rdi_hs_state after[] = {RDI_HS_RUNNING, RDI_HS_RUNNING, RDI_HS_NEED_REPLY,
                                         RDI_HS_DONE};
            assert_int_equal(x.state, after[m]);
        }
    }
}

// Any bit of any message, flipped: nobody gets to the end. (One in the hello is found by the other
// side.)
static void test_bit_flips(void **state) {
    (void)state;
    struct rdi_hs c, a;
    struct talk clean;
    talk(&c, &a, &clean, "hello", "reply");
    for (int m = 0; m < 4; m++) {
        for (size_t bit = 0; bit < 8 * clean.len[m]; bit++) {
            uint8_t wire[RDI_HS_BUFFER];
            rdi_hs_connect(&c, RDI_HS_TCP, &job_a, &env, "hello", 5);
            rdi_hs_accept(&a, RDI_HS_TCP, &job_b, &env);
            for (int step = 0; step < 4; step++) {
                struct rdi_hs *from = step % 2 == 0 ? &c : &a, *to = step % 2 == 0 ? &a : &c;
                size_t n = take(from, wire, sizeof wire);
                if (step == m && n > bit / 8) {
                    wire[bit / 8] ^= (uint8_t)(1u << bit % 8);
                }
                feed(to, wire, n);
                if (a.state == RDI_HS_NEED_REPLY) {
                    assert_true(m ==
                                3); // the connector's messages and the challenge were not touched
                    rdi_hs_reply(&a, "reply", 5);
                }
            }
            assert_int_not_equal(c.state, RDI_HS_DONE);
            if (m < 3) {
                assert_int_not_equal(a.state, RDI_HS_DONE);
            }
            if (c.state == RDI_HS_FAILED) {
                assert_int_equal(c.peer_len, 0);
                assert_true(strlen(c.why) > 0);
            }
            if (a.state == RDI_HS_FAILED) {
                assert_int_equal(a.peer_len, 0);
            }
        }
    }
}

static void test_wrong_key(void **state) {
    (void)state;
    struct rdi_hs c, a;
    uint8_t wire[RDI_HS_BUFFER];
    assert_int_equal(rdi_key_set(&job_b, "0123456789abcdeF", 16), RONDO_OK);
    rdi_hs_connect(&c, RDI_HS_TCP, &job_a, &env, "hello", 5);
    rdi_hs_accept(&a, RDI_HS_TCP, &job_b, &env);
    feed(&a, wire, take(&c, wire, sizeof wire));
    feed(&c, wire, take(&a, wire, sizeof wire));
    assert_int_equal(c.state, RDI_HS_FAILED);
    assert_int_equal(c.error, RONDO_ERR_AUTH);
    assert_non_null(strstr(c.why, "key"));
    assert_int_equal(c.out_len, c.out_off); // no proof goes to somebody who gave none

    // A connector that goes on without being able to check the challenge.
    uint8_t proof[HEADER + 32] = {'R', 'N', 'D', 'O', 0, 2, 3, RDI_HS_TCP, 0, 32};
    feed(&a, proof, sizeof proof);
    assert_int_equal(a.state, RDI_HS_FAILED);
    assert_int_equal(a.error, RONDO_ERR_AUTH);
}

// A job with a key and one without do not fit; two without do.
static void test_no_key(void **state) {
    (void)state;
    struct rdi_hs c, a;
    struct talk t;
    job_a.key = NULL;
    job_a.auth = false;
    uint8_t wire[RDI_HS_BUFFER];
    rdi_hs_connect(&c, RDI_HS_TCP, &job_a, &env, NULL, 0);
    rdi_hs_accept(&a, RDI_HS_TCP, &job_b, &env);
    feed(&a, wire, take(&c, wire, sizeof wire));
    feed(&c, wire, take(&a, wire, sizeof wire));
    assert_int_equal(c.error, RONDO_ERR_AUTH);
    assert_non_null(strstr(c.why, "auth"));
    job_b = job_a;
    talk(&c, &a, &t, "hello", "reply");
    assert_int_equal(c.state, RDI_HS_DONE);
}

// What was heard once is of no use later: both sides have a new nonce.
static void test_replay(void **state) {
    (void)state;
    struct rdi_hs c, a;
    struct talk old;
    talk(&c, &a, &old, "hello", "reply");
    rdi_hs_accept(&a, RDI_HS_TCP, &job_b, &env);
    feed(&a, old.bytes[0], old.len[0]);
    uint8_t wire[RDI_HS_BUFFER];
    take(&a, wire, sizeof wire);
    feed(&a, old.bytes[2], old.len[2]);
    assert_int_equal(a.state, RDI_HS_FAILED);
    assert_int_equal(a.error, RONDO_ERR_AUTH);

    rdi_hs_connect(&c, RDI_HS_TCP, &job_a, &env, "hello", 5);
    feed(&c, old.bytes[1], old.len[1]);
    assert_int_equal(c.state, RDI_HS_FAILED);
    assert_int_equal(c.error, RONDO_ERR_AUTH);
}

// Somebody without the key answers a connector with what an acceptor, or the connector itself,
// said.
static void test_reflection(void **state) {
    (void)state;
    struct rdi_hs c, a;
    uint8_t hello[RDI_HS_BUFFER], wire[RDI_HS_BUFFER];
    rdi_hs_connect(&c, RDI_HS_TCP, &job_a, &env, "hello", 5);
    size_t n = take(&c, hello, sizeof hello);
    feed(&c, hello, n); // its own hello
    assert_int_equal(c.state, RDI_HS_FAILED);

    // The challenge's MAC as a proof: another label.
    rdi_hs_accept(&a, RDI_HS_TCP, &job_b, &env);
    feed(&a, hello, n);
    n = take(&a, wire, sizeof wire);
    uint8_t proof[HEADER + 32] = {'R', 'N', 'D', 'O', 0, 2, 3, RDI_HS_TCP, 0, 32};
    memcpy(proof + HEADER, wire + n - 32, 32);
    feed(&a, proof, sizeof proof);
    assert_int_equal(a.state, RDI_HS_FAILED);
    assert_int_equal(a.error, RONDO_ERR_AUTH);
}

static void test_other_kind(void **state) {
    (void)state;
    struct rdi_hs c, a;
    uint8_t wire[RDI_HS_BUFFER];
    rdi_hs_connect(&c, RDI_HS_STORE, &job_a, &env, "hello", 5);
    rdi_hs_accept(&a, RDI_HS_TCP, &job_b, &env);
    size_t n = take(&c, wire, sizeof wire);
    feed(&a, wire, n);
    assert_int_equal(a.state, RDI_HS_FAILED);
    assert_int_equal(a.error, RONDO_ERR_INVALID);
    assert_non_null(strstr(a.why, "store"));
    assert_non_null(strstr(a.why, "tcp"));

    wire[7] = RDI_HS_TCP; // relabelled on the way: the acceptor answers, the connector sees it
    rdi_hs_accept(&a, RDI_HS_TCP, &job_b, &env);
    feed(&a, wire, n);
    n = take(&a, wire, sizeof wire);
    wire[7] = RDI_HS_STORE;
    feed(&c, wire, n);
    assert_int_equal(c.state, RDI_HS_FAILED);
    assert_int_equal(c.error, RONDO_ERR_AUTH);
}

static void test_other_version(void **state) {
    (void)state;
    struct rdi_hs c, a;
    uint8_t wire[RDI_HS_BUFFER];
    rdi_hs_connect(&c, RDI_HS_TCP, &job_a, &env, "hello", 5);
    rdi_hs_accept(&a, RDI_HS_TCP, &job_b, &env);
    size_t n = take(&c, wire, sizeof wire);
    wire[4] = 0x01, wire[5] = 0x41; // the hello of version 321
    feed(&a, wire, n);
    assert_int_equal(a.state, RDI_HS_FAILED);
    assert_int_equal(a.error, RONDO_ERR_VERSION);
    assert_non_null(strstr(a.why, "version 321"));
    assert_non_null(strstr(a.why, "version 2"));

    // The answer says which version the acceptor speaks; here a connector of ours gets such an
    // answer.
    n = take(&a, wire, sizeof wire);
    assert_int_equal(n, HEADER);
    assert_int_equal(wire[4] << 8 | wire[5], 2);
    wire[4] = 0x02, wire[5] = 0x00;
    feed(&c, wire, n);
    assert_int_equal(c.state, RDI_HS_FAILED);
    assert_int_equal(c.error, RONDO_ERR_VERSION);
    assert_non_null(strstr(c.why, "version 512"));
    assert_non_null(strstr(c.why, "version 2"));
    assert_non_null(strstr(c.why, "install"));
}

static void test_garbage(void **state) {
    (void)state;
    struct rdi_hs a;
    size_t used;
    rdi_hs_accept(&a, RDI_HS_STORE, &job_b, &env);
    rdi_hs_input(&a, "GET / HTTP/1.1\r\n\r\n", 18, &used);
    assert_int_equal(a.state, RDI_HS_FAILED);
    assert_int_equal(a.error, RONDO_ERR_INVALID);
    assert_int_equal(a.out_len, 0); // a stranger learns nothing
    rdi_hs_accept(&a, RDI_HS_STORE, &job_b, &env);
    feed(&a, (const uint8_t *)"S", 1); // at once
    assert_int_equal(a.state, RDI_HS_FAILED);

    // Lengths out of bounds are refused with the header, before a byte of the body.
    const uint8_t lengths[][2] = {{0, 0}, {0, 31}, {2, 33}, {0xff, 0xff}};
    for (size_t i = 0; i < 4; i++) {
        uint8_t head[HEADER] = {'R', 'N', 'D', 'O', 0, 2, 1, RDI_HS_STORE};
        memcpy(head + 8, lengths[i], 2);
        rdi_hs_accept(&a, RDI_HS_STORE, &job_b, &env);
        feed(&a, head, sizeof head);
        assert_int_equal(a.state, RDI_HS_FAILED);
        assert_int_equal(a.error, RONDO_ERR_INVALID);
    }
    for (int round = 0; round < 2000; round++) {
        uint8_t noise[300];
        fake_random(NULL, noise, sizeof noise);
        memcpy(noise, "RNDO\0\2", round % 3 == 0 ? 0 : 6);
        rdi_hs_accept(&a, RDI_HS_STORE, &job_b, &env);
        feed(&a, noise, sizeof noise);
        assert_int_not_equal(a.state, RDI_HS_DONE);
        assert_int_not_equal(a.state, RDI_HS_NEED_REPLY);
    }
}

// The texts are for logs: no byte of a key, a nonce or a MAC in them. Here the key is text.
static void test_texts_are_harmless(void **state) {
    (void)state;
    struct rdi_hs c, a;
    uint8_t wire[RDI_HS_BUFFER];
    uint8_t key_a[RDI_KEY_BYTES], key_b[RDI_KEY_BYTES];
    memset(key_a, 'K', sizeof key_a);
    memset(key_b, 'L', sizeof key_b);
    job_a.key = key_a;
    job_b.key = key_b;
    rdi_hs_connect(&c, RDI_HS_TCP, &job_a, &env, "hello", 5);
    rdi_hs_accept(&a, RDI_HS_TCP, &job_b, &env);
    feed(&a, wire, take(&c, wire, sizeof wire));
    feed(&c, wire, take(&a, wire, sizeof wire));
    assert_int_equal(c.state, RDI_HS_FAILED);
    assert_null(strstr(c.why, "KK"));
    assert_null(memmem(&c, sizeof c, "KKKK", 4));
    assert_null(memmem(&a, sizeof a, "LLLL", 4));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_agree, setup),
        cmocka_unit_test_setup(test_largest_payloads, setup),
        cmocka_unit_test_setup(test_one_byte_at_a_time, setup),
        cmocka_unit_test_setup(test_bytes_after_welcome, setup),
        cmocka_unit_test_setup(test_truncations, setup),
        cmocka_unit_test_setup(test_bit_flips, setup),
        cmocka_unit_test_setup(test_wrong_key, setup),
        cmocka_unit_test_setup(test_no_key, setup),
        cmocka_unit_test_setup(test_replay, setup),
        cmocka_unit_test_setup(test_reflection, setup),
        cmocka_unit_test_setup(test_other_kind, setup),
        cmocka_unit_test_setup(test_other_version, setup),
        cmocka_unit_test_setup(test_garbage, setup),
        cmocka_unit_test_setup(test_texts_are_harmless, setup),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
