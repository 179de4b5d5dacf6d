// SPDX-License-Identifier: MIT
// A verbs link over the fake library: every way to carry a message, every size, control, credit, good-bye.
#include "verbs_pair.h"

#define LO "interface=lo"
#define ONE LO ",device=fake0"

// ---- Messages ------------------------------------------------------------------------------------

static void run_stream(const char *options, bool registered) {
    struct pair p;
    struct stream s;
    verbs_open(&p, options, options);
    pair_connect(&p);
    stream_begin(&s, &p, 150, registered);
    pair_drive_until(&p, stream_step(&s));
    assert_int_equal(s.resets, 0);
    assert_int_equal(p.side[1].accepts, 1);
    pair_close(&p);
    stream_end(&s);
}

static void test_imm(void **state) {
    (void)state;
    run_stream(ONE, false);
    run_stream(ONE ",verbs_mode=imm,slots=2,chunk=4K", false);
    run_stream(ONE ",verbs_inline=0,slots=64,chunk=16K", false);
    run_stream(ONE ",verbs_qps=8,verbs_stripe=4K,chunk=64K", false);
    run_stream(LO ",verbs_qps=3,verbs_stripe=4K,chunk=64K,slots=3", false);
}

static void test_split(void **state) {
    (void)state;
    run_stream(ONE ",verbs_mode=split", false);
    run_stream(LO ",verbs_mode=split,verbs_qps=2,verbs_stripe=4K,chunk=64K,slots=2", false);
}

static void test_send(void **state) {
    (void)state;
    run_stream(ONE ",verbs_mode=send", false);
    run_stream(ONE ",verbs_mode=send,slots=2,chunk=4K,verbs_inline=0", false);
    run_stream(LO ",verbs_mode=send,verbs_qps=3,slots=7,chunk=16K", false);
}

static void test_registered(void **state) {
    (void)state;
    run_stream(ONE, true);
    run_stream(LO ",verbs_mode=split,verbs_qps=2,verbs_stripe=4K", true);
    run_stream(LO ",verbs_mode=send,verbs_qps=2", true);
}

// ---- What surrounds them -------------------------------------------------------------------------

static void test_attributes(void **state) {
    (void)state;
    struct pair p;
    verbs_open(&p, LO ",chunk=64K,slots=16", LO ",chunk=128K,slots=4");
    assert_int_equal(p.side[0].net->attr.chunk, 64 << 10);
    assert_true(p.side[0].net->attr.bytes_per_s > 0);
    assert_false(p.side[0].net->attr.lands);
    pair_connect(&p);
    for (int i = 0; i < 2; i++) {
        const struct rdi_link *l = i == 0 ? p.link : p.side[1].accepted;
        assert_int_equal(l->slots, 4);
        assert_int_equal(l->max_msg, 64 << 10);
        assert_int_equal(l->epoch, 0);
    }
    assert_int_equal(p.link->credit, 4);
    char text[1024] = "";
    p.link->ops->describe(p.link, text, sizeof text);
    assert_non_null(strstr(text, "rank 1 on host hostb"));
    assert_non_null(strstr(text, "fake0 port 1"));
    assert_non_null(strstr(text, "mode imm"));
    pair_close(&p);
}

static void test_reach(void **state) {
    (void)state;
    struct pair p;
    uint8_t blob[RDI_BLOB_MAX];
    size_t len = 0;
    verbs_open(&p, LO, LO);
    const struct rdi_net_ops *ops = p.side[0].net->ops;
    assert_int_equal(ops->address(p.side[1].net, blob, &len), RONDO_OK);
    assert_int_equal(ops->reach(p.side[0].net, blob, len), RONDO_OK);
    for (size_t cut = 0; cut < len; cut++) {
        assert_int_equal(ops->reach(p.side[0].net, blob, cut), RONDO_ERR_INVALID);
    }
    struct rdi_link_id id = {.from = 0, .to = 1};
    struct rdi_link *link = NULL;
    assert_int_equal(ops->connect(p.side[0].net, &id, blob, len - 1, &link), RONDO_ERR_INVALID);
    assert_null(link);
    pair_close(&p);
}

static void test_control(void **state) {
    (void)state;
    struct pair p;
    uint8_t bytes[RDI_CTRL_MAX];
    verbs_open(&p, ONE, ONE);
    p.link = pair_begin_link(&p, 7);
    assert_int_equal(p.link->ops->ctrl(p.link, 1, bytes, 1), RONDO_AGAIN);
    pair_drive_until(&p, pair_link_up(&p));
    struct rdi_link *in = p.side[1].accepted;
    pair_fill(bytes, 1, sizeof bytes);
    assert_int_equal(p.link->ops->ctrl(p.link, 5, bytes, sizeof bytes), RONDO_OK);
    assert_int_equal(in->ops->ctrl(in, 6, NULL, 0), RONDO_OK);
    assert_int_equal(in->ops->ctrl(in, 6, bytes, sizeof bytes + 1), RONDO_ERR_INVALID);
    assert_int_equal(in->ops->ctrl(in, RDI_VERBS_BYE, bytes, 1), RONDO_ERR_INVALID);
    p.link->owner = &p.side[0];
    pair_drive_until(&p, p.side[0].ctrls == 1 && p.side[1].ctrls == 1);
    assert_int_equal(p.side[1].ctrl[0].type, 5);
    assert_int_equal(p.side[1].ctrl[0].len, sizeof bytes);
    assert_memory_equal(p.side[1].ctrl[0].bytes, bytes, sizeof bytes);
    assert_int_equal(p.side[0].ctrl[0].type, 6);
    assert_int_equal(p.side[0].ctrl[0].len, 0);
    pair_close(&p);
}

static void test_credit(void **state) {
    (void)state;
    static const char *const options[] = {ONE ",slots=4", ONE ",slots=4,verbs_mode=send"};
    for (int i = 0; i < 2; i++) {
        struct pair p;
        verbs_open(&p, options[i], options[i]);
        pair_connect(&p);
        struct rdi_link *in = p.side[1].accepted;
        uint32_t word = 1;
        struct rdi_put put = {.data = &word, .len = sizeof word, .flags = RDI_PUT_ACK};
        for (int k = 0; k < 4; k++) {
            assert_int_equal(p.link->ops->put(p.link, &put), RONDO_OK);
        }
        assert_int_equal(p.link->ops->put(p.link, &put), RONDO_AGAIN);
        pair_drive_until(&p, in->arrived == 4 && p.link->sent == 4);
        assert_int_equal(p.link->credit, 4);
        put.len = p.link->max_msg + 1;
        assert_int_equal(p.link->ops->put(p.link, &put), RONDO_AGAIN);
        in->ops->release(in, 1); // told before sleep
        pair_drive_until(&p, p.link->credit == 5);
        assert_int_equal(p.link->ops->put(p.link, &put), RONDO_ERR_INVALID);
        in->ops->release(in, 3); // told at once
        uint64_t timeout = UINT64_MAX;
        while (p.link->credit != 7) { // so only the sender moves
            p.side[0].net->ops->progress(p.side[0].net, true);
            (void)p.side[0].net->ops->arm(p.side[0].net, &timeout);
            p.side[0].net->ops->disarm(p.side[0].net);
        }
        pair_close(&p);
    }
}

// A message that nobody waits for is acknowledged all the same, without sleep.
static void test_sent_without_asking(void **state) {
    (void)state;
    struct pair p;
    verbs_open(&p, ONE ",slots=64", ONE ",slots=64");
    pair_connect(&p);
    struct rdi_put put = {.data = &put, .len = 8};
    assert_int_equal(p.link->ops->put(p.link, &put), RONDO_OK);
    uint64_t end = pair_now() + PAIR_SECONDS * 1000 * RDI_MS;
    while (p.link->sent < 1 && pair_now() < end) {
        p.side[0].net->ops->progress(p.side[0].net, true);
    }
    assert_int_equal(p.link->sent, 1);
    pair_close(&p);
}

// ---- Beginnings and ends -------------------------------------------------------------------------

static void test_refused(void **state) {
    (void)state;
    struct pair p;
    verbs_open(&p, LO, LO);
    p.side[1].refuse = RONDO_ERR_MISMATCH;
    p.link = pair_begin_link(&p, 7);
    pair_drive_until(&p, p.link->state == RDI_LINK_FAILED);
    assert_int_equal(p.link->status, RONDO_ERR_MISMATCH);
    assert_non_null(strstr(p.link->why, "refused by rank 1 on host hostb: not today"));
    assert_int_equal(p.side[1].accepts, 1);
    struct rdi_put put = {.data = &p, .len = 1};
    assert_int_equal(p.link->ops->put(p.link, &put), RONDO_ERR_MISMATCH);
    pair_close(&p);
}

static void test_closed_at_accept(void **state) {
    (void)state;
    struct pair p;
    verbs_open(&p, LO, LO);
    p.side[1].close_on_accept = true;
    p.link = pair_begin_link(&p, 7);
    pair_drive_until(&p, p.link->state == RDI_LINK_FAILED || p.link->state == RDI_LINK_CLOSED);
    pair_close(&p);
}

// The last messages arrive although their sender has closed the link behind them.
static void test_bye(void **state) {
    (void)state;
    static const char *const options[] = {ONE, ONE ",verbs_mode=send", ONE ",verbs_mode=split"};
    for (int i = 0; i < 3; i++) {
        struct pair p;
        verbs_open(&p, options[i], options[i]);
        pair_connect(&p);
        struct rdi_link *in = p.side[1].accepted;
        uint8_t *data = malloc(p.link->max_msg);
        struct rdi_put put = {.data = data, .len = p.link->max_msg};
        pair_fill(data, 3, put.len);
        for (int k = 0; k < 5; k++) {
            assert_int_equal(p.link->ops->put(p.link, &put), RONDO_OK);
        }
        p.link->ops->close_link(p.link, true);
        p.link = NULL;
        free(data);
        pair_drive_until(&p, in->state == RDI_LINK_CLOSED);
        assert_int_equal(in->arrived, 5);
        for (uint64_t seq = 0; seq < 5; seq++) {
            struct rdi_msg m;
            in->ops->peek(in, seq, &m);
            assert_true(m.len == in->max_msg && pair_matches(m.data, 3, m.len));
        }
        in->ops->release(in, 5);
        pair_close(&p);
    }
}

static void test_receiver_says_bye(void **state) {
    (void)state;
    struct pair p;
    verbs_open(&p, LO, LO);
    pair_connect(&p);
    struct rdi_put put = {.data = &p, .len = 8};
    assert_int_equal(p.link->ops->put(p.link, &put), RONDO_OK);
    pair_drive_until(&p, p.side[1].accepted->arrived == 1);
    p.side[1].accepted->ops->close_link(p.side[1].accepted, true);
    p.side[1].accepted = NULL;
    pair_drive_until(&p, p.link->state == RDI_LINK_CLOSED);
    assert_int_equal(p.link->sent, 1);
    assert_int_equal(p.link->ops->put(p.link, &put), RONDO_ERR_PEER);
    pair_close(&p);
}

static void test_closed_without_bye(void **state) {
    (void)state;
    for (int i = 0; i < 2; i++) {
        struct pair p;
        verbs_open(&p, LO, LO);
        pair_connect(&p);
        struct rdi_link **gone = i == 0 ? &p.link : &p.side[1].accepted;
        struct rdi_link *left = i == 0 ? p.side[1].accepted : p.link;
        (*gone)->ops->close_link(*gone, false);
        *gone = NULL;
        pair_drive_until(&p, left->state == RDI_LINK_FAILED);
        assert_int_equal(left->status, RONDO_ERR_PEER);
        assert_non_null(strstr(left->why, i == 0 ? "hosta" : "hostb"));
        pair_close(&p);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_imm),
        cmocka_unit_test(test_split),
        cmocka_unit_test(test_send),
        cmocka_unit_test(test_registered),
        cmocka_unit_test(test_attributes),
        cmocka_unit_test(test_reach),
        cmocka_unit_test(test_control),
        cmocka_unit_test(test_credit),
        cmocka_unit_test(test_sent_without_asking),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_closed_at_accept),
        cmocka_unit_test(test_bye),
        cmocka_unit_test(test_receiver_says_bye),
        cmocka_unit_test(test_closed_without_bye),
    };
    if (fake_prepare("2") != 0) {
        return 1;
    }
    return cmocka_run_group_tests_name("verbs_link", tests, NULL, fake_dir_remove);
}
