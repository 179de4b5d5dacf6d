// SPDX-License-Identifier: MIT
// Verbs links over other fabrics than RoCE, and over devices that cannot do what is wanted of them.
#include "verbs_pair.h"

#define LO "interface=lo"

static enum rdi_verbs_mode mode_of(const struct rdi_link *l) {
    return ((const struct rdi_verbs_link *)l)->mode;
}

static void run_stream(const char *link, const char *options, enum rdi_verbs_mode mode) {
    struct pair p;
    struct stream s;
    setenv("FAKE_VERBS_LINK", link, 1);
    verbs_open(&p, options, options);
    setenv("FAKE_VERBS_LINK", "roce", 1);
    pair_connect(&p);
    assert_int_equal(mode_of(p.link), mode);
    assert_int_equal(mode_of(p.side[1].accepted), mode);
    stream_begin(&s, &p, 60, true);
    pair_drive_until(&p, stream_step(&s));
    pair_close(&p);
    stream_end(&s);
}

static void test_infiniband(void **state) {
    (void)state;
    run_stream("ib", LO, RDI_VERBS_IMM);
    run_stream("ib", LO ",verbs_sl=3,verbs_mtu=256,verbs_mode=split", RDI_VERBS_SPLIT);
}

// Only the connection manager connects its queue pairs: the job must fall back to tcp, not fail later.
static void test_iwarp(void **state) {
    (void)state;
    struct side s;
    setenv("FAKE_VERBS_LINK", "iwarp", 1);
    side_prepare(&s, 0, LO);
    assert_int_equal(rdi_verbs_ops.open(&s.params, &s.net), RONDO_ERR_UNSUPPORTED);
    assert_null(s.net);
    assert_non_null(strstr(rondo_last_error(), "iWARP"));
    setenv("FAKE_VERBS_LINK", "roce", 1);
}

// Two fabrics that do not meet.
static void test_mixed(void **state) {
    (void)state;
    struct pair p;
    uint8_t blob[RDI_BLOB_MAX];
    size_t len = 0;
    memset(&p, 0, sizeof p);
    side_prepare(&p.side[0], 0, LO);
    side_prepare(&p.side[1], 1, LO);
    verbs_side_open(&p.side[0]);
    setenv("FAKE_VERBS_LINK", "ib", 1);
    verbs_side_open(&p.side[1]);
    setenv("FAKE_VERBS_LINK", "roce", 1);
    struct rdi_net *net = p.side[0].net;
    assert_int_equal(p.side[1].net->ops->address(p.side[1].net, blob, &len), RONDO_OK);
    assert_int_equal(net->ops->reach(net, blob, len), RONDO_ERR_UNSUPPORTED);
    assert_non_null(strstr(rondo_last_error(), "verbs: "));
    struct rdi_link_id id = {.from = 0, .to = 1};
    struct rdi_link *link = NULL;
    assert_int_equal(net->ops->connect(net, &id, blob, len, &link), RONDO_ERR_UNSUPPORTED);
    assert_null(link);
    pair_close(&p);
}

static void test_small_device(void **state) {
    (void)state;
    static const struct {
        const char *faults, *words;
        rondo_status status;
    } cases[] = {
        {"max_wr=12", "lower option slots", RONDO_ERR_UNSUPPORTED},
        {"max_cqe=20", "completion queue", RONDO_ERR_NOMEM},
    };
    for (int i = 0; i < 2; i++) {
        struct pair p;
        setenv("FAKE_VERBS_FAULTS", cases[i].faults, 1);
        verbs_open(&p, LO, LO);
        unsetenv("FAKE_VERBS_FAULTS");
        p.link = pair_begin_link(&p, 7);
        pair_drive_until(&p, p.link->state == RDI_LINK_FAILED);
        assert_int_equal(p.link->status, cases[i].status);
        if (strstr(p.link->why, cases[i].words) == NULL) {
            fail_msg("\"%s\" does not say \"%s\"", p.link->why, cases[i].words);
        }
        pair_close(&p);
    }
}

// A device takes links until its completion queue is promised away, and again when one has ended.
static void test_completion_queue_is_shared(void **state) {
    (void)state;
    enum { MOST = 16 };
    struct pair p;
    struct rdi_link *links[MOST], *in[MOST];
    unsigned up = 0;
    setenv("FAKE_VERBS_FAULTS", "max_cqe=64", 1);
    verbs_open(&p, LO ",device=fake0,slots=2", LO ",device=fake0,slots=2");
    unsetenv("FAKE_VERBS_FAULTS");
    for (;; up++) {
        assert_true(up < MOST);
        links[up] = p.link = pair_begin_link(&p, up);
        pair_drive_until(&p, p.link->state != RDI_LINK_CONNECTING);
        if (p.link->state == RDI_LINK_FAILED) {
            break;
        }
        in[up] = p.side[1].accepted;
    }
    assert_true(up >= 2);
    assert_int_equal(p.link->status, RONDO_ERR_NOMEM);
    p.link->ops->close_link(p.link, true);
    links[0]->ops->close_link(links[0], true);
    in[0]->ops->close_link(in[0], true);
    links[0] = p.link = pair_begin_link(&p, 99);
    pair_drive_until(&p, p.link->state == RDI_LINK_UP);
    in[0] = p.side[1].accepted;
    for (unsigned i = 0; i < up; i++) {
        links[i]->ops->close_link(links[i], true);
        in[i]->ops->close_link(in[i], true);
    }
    p.link = p.side[1].accepted = NULL;
    pair_close(&p);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_infiniband),
        cmocka_unit_test(test_iwarp),
        cmocka_unit_test(test_mixed),
        cmocka_unit_test(test_small_device),
        cmocka_unit_test(test_completion_queue_is_shared),
    };
    if (fake_prepare("2") != 0) {
        return 1;
    }
    return cmocka_run_group_tests_name("verbs_fabric", tests, NULL, fake_dir_remove);
}
