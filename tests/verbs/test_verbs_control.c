// SPDX-License-Identifier: MIT
// The inner tcp link of a verbs link: it breaks and comes back, at every moment, and says what it must not.
#include "verbs_pair.h"

#define LO "interface=lo,verbs_timeout=4ms,verbs_retries=5"
#define ONE LO ",device=fake0"

static struct rdi_link *inner_of(struct rdi_link *l) { return ((struct rdi_verbs_link *)l)->inner; }

static bool cut_inner(struct rdi_link *l) {
    return l != NULL && inner_of(l) != NULL && rdi_tcp_test_cut(inner_of(l), 0);
}

// ---- Loss ----------------------------------------------------------------------------------------

// Messages do not care; control messages wait until it is back.
static void test_cut_under_a_stream(void **state) {
    (void)state;
    struct pair p;
    struct stream s;
    unsigned cuts = 0;
    verbs_open(&p, ONE ",chunk=16K", ONE ",chunk=16K");
    pair_connect(&p);
    stream_begin(&s, &p, 3000, false);
    while (!stream_step(&s)) {
        if (stream_random(&s, 40) == 0) {
            cuts += cut_inner(stream_random(&s, 2) ? p.link : p.side[1].accepted);
        }
        pair_turn(&p);
    }
    assert_true(cuts > 1);
    assert_int_equal(s.resets, 0);
    assert_int_equal(p.link->epoch, 0);
    pair_drive_until(&p, p.link->ops->ctrl(p.link, 3, "x", 1) == RONDO_OK);
    pair_drive_until(&p, p.side[1].ctrls == 1);
    pair_close(&p);
    stream_end(&s);
}

// What was said last may be lost at any step of set-up; both ends find together all the same.
static void test_cut_while_connecting(void **state) {
    (void)state;
    for (unsigned turns = 0; turns < 60; turns++) {
        struct pair p;
        verbs_open(&p, ONE, ONE);
        p.link = pair_begin_link(&p, turns);
        for (unsigned i = 0; i < turns; i++) {
            pair_turn(&p);
        }
        cut_inner(turns % 2 ? p.link : p.side[1].accepted);
        pair_drive_until(&p, pair_link_up(&p));
        assert_int_equal(p.side[1].accepts, 1);
        pair_close(&p);
    }
}

static void test_both_are_cut(void **state) {
    (void)state;
    struct pair p;
    struct stream s;
    verbs_open(&p, LO ",chunk=16K,verbs_qps=2,path_grace=60s",
               LO ",chunk=16K,verbs_qps=2,path_grace=60s");
    pair_connect(&p);
    stream_begin(&s, &p, 200, true);
    s.cuts = 6;
    while (!stream_step(&s)) {
        if (stream_random(&s, 100) == 0) {
            cut_inner(stream_random(&s, 2) ? p.link : p.side[1].accepted);
        }
        pair_turn(&p);
    }
    assert_true(s.resets > 0);
    assert_int_equal(p.side[1].accepts, 1);
    pair_close(&p);
    stream_end(&s);
}

// ---- Wrong words ---------------------------------------------------------------------------------

// An end that breaks the rules fails on both sides, with nothing worse.
static void wrong_word(bool to_receiver, unsigned type, const void *msg, size_t len) {
    struct pair p;
    verbs_open(&p, ONE, ONE);
    pair_connect(&p);
    struct rdi_link *from = to_receiver ? p.link : p.side[1].accepted;
    struct rdi_link *to = to_receiver ? p.side[1].accepted : p.link;
    assert_int_equal(inner_of(from)->ops->ctrl(inner_of(from), type, msg, len), RONDO_OK);
    pair_drive_until(&p, to->state == RDI_LINK_FAILED && from->state == RDI_LINK_FAILED);
    assert_int_equal(to->status, RONDO_ERR_INTERNAL);
    assert_int_equal(from->status, RONDO_ERR_INTERNAL);
    assert_non_null(strstr(to->why, "please report"));
    pair_close(&p);
}

static void test_wrong_words(void **state) {
    (void)state;
    uint8_t bytes[RDI_CTRL_MAX];
    struct rdi_verbs_msg m = {.type = RDI_VERBS_READY};
    size_t len = rdi_verbs_msg_write(&m, bytes);
    wrong_word(true, RDI_VERBS_OFFER, bytes, len);
    wrong_word(true, RDI_VERBS_GRANT, "", 0);
    wrong_word(false, RDI_VERBS_READY, bytes, len);
    wrong_word(false, RDI_VERBS_LOST, bytes, len);
    wrong_word(true, RDI_VERBS_BYE + 1, bytes, len);
    wrong_word(false, UINT32_MAX, bytes, len);
}

static void test_old_words(void **state) {
    (void)state;
    struct pair p;
    struct stream s;
    uint8_t bytes[RDI_CTRL_MAX];
    struct rdi_verbs_msg m = {.type = RDI_VERBS_LOST, .epoch = 7, .text = "of another time"};
    verbs_open(&p, ONE, ONE);
    pair_connect(&p);
    for (int i = 0; i < 2; i++) {
        struct rdi_link *from = i == 0 ? p.link : p.side[1].accepted;
        size_t len = rdi_verbs_msg_write(&m, bytes);
        assert_int_equal(inner_of(from)->ops->ctrl(inner_of(from), m.type, bytes, len), RONDO_OK);
    }
    stream_begin(&s, &p, 40, false);
    pair_drive_until(&p, stream_step(&s));
    assert_int_equal(s.resets, 0);
    pair_close(&p);
    stream_end(&s);
}

// ---- The end -------------------------------------------------------------------------------------

// The process may end right behind its last message.
static void test_last_words(void **state) {
    (void)state;
    for (int i = 0; i < 20; i++) {
        struct pair p;
        uint8_t data[3000];
        setenv("FAKE_VERBS_FAULTS", "late,delay=500", 1);
        verbs_open(&p, ONE, ONE);
        unsetenv("FAKE_VERBS_FAULTS");
        pair_connect(&p);
        struct rdi_link *in = p.side[1].accepted;
        struct rdi_put put = {.data = data, .len = sizeof data};
        pair_fill(data, 1, sizeof data);
        for (int k = 0; k < 4; k++) {
            assert_int_equal(p.link->ops->put(p.link, &put), RONDO_OK);
        }
        p.link->ops->close_link(p.link, true);
        p.side[0].net->ops->close(p.side[0].net);
        p.link = NULL;
        p.side[0].net = NULL;
        pair_drive_until(&p, in->state == RDI_LINK_CLOSED);
        assert_int_equal(in->arrived, 4);
        struct rdi_msg m;
        in->ops->peek(in, 3, &m);
        assert_true(m.len == sizeof data && pair_matches(m.data, 1, m.len));
        pair_close(&p);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cut_under_a_stream), cmocka_unit_test(test_cut_while_connecting),
        cmocka_unit_test(test_both_are_cut),       cmocka_unit_test(test_wrong_words),
        cmocka_unit_test(test_old_words),          cmocka_unit_test(test_last_words),
    };
    if (fake_prepare("2") != 0) {
        return 1;
    }
    return cmocka_run_group_tests_name("verbs_control", tests, NULL, fake_dir_remove);
}
