// SPDX-License-Identifier: MIT
// Lost paths and lost peers over the fake library: what is replayed, what is given up, and with which words.
#include "verbs_pair.h"

#include <signal.h>
#include <sys/wait.h>

#define LO "interface=lo,verbs_timeout=4ms,verbs_retries=5"
#define ONE LO ",device=fake0"

// ---- Paths that break under a stream -------------------------------------------------------------

static void run_cuts(const char *options, bool registered) {
    struct pair p;
    struct stream s;
    verbs_open(&p, options, options);
    pair_connect(&p);
    stream_begin(&s, &p, 200, registered);
    s.cuts = 6;
    pair_drive_until(&p, stream_step(&s));
    assert_true(s.resets > 0);
    assert_int_equal(p.side[1].accepts, 1); // it was the same link all the time
    assert_int_equal(p.link->epoch, p.side[1].accepted->epoch);
    assert_true(p.link->epoch > 0);
    pair_close(&p);
    stream_end(&s);
}

static void test_replay(void **state) {
    (void)state;
    run_cuts(ONE ",chunk=16K", false);
    run_cuts(ONE ",chunk=64K,verbs_mode=split", true);
    run_cuts(ONE ",chunk=64K,verbs_mode=send", false);
}

static void test_replay_several(void **state) {
    (void)state;
    run_cuts(LO ",chunk=64K,verbs_qps=2,verbs_stripe=4K", true);
    run_cuts(LO ",chunk=64K,verbs_qps=3,verbs_stripe=4K,slots=3", false);
    run_cuts(LO ",chunk=16K,verbs_qps=3,verbs_mode=send,slots=7", false);
}

static void test_replay_in_bad_weather(void **state) {
    (void)state;
    static const char *const faults[] = {"late,reorder=20,delay=300", "loss=2,late", "rnr=20"};
    for (int i = 0; i < 3; i++) {
        setenv("FAKE_VERBS_FAULTS", faults[i], 1);
        run_cuts(LO ",chunk=32K,verbs_qps=2,verbs_stripe=4K,verbs_mode=imm", true);
        run_cuts(LO ",chunk=32K,verbs_qps=2,verbs_mode=send", false);
    }
    unsetenv("FAKE_VERBS_FAULTS");
}

// ---- Ports that go -------------------------------------------------------------------------------

static unsigned nqps(const struct rdi_link *l) { return ((const struct rdi_verbs_link *)l)->nqps; }

// While messages flow something happens to the second device; they go on over the first.
static void one_rail_goes(const char *fault, const char *cause) {
    struct pair p;
    struct stream s;
    verbs_open(&p, LO ",chunk=32K,verbs_stripe=4K", LO ",chunk=32K,verbs_stripe=4K");
    pair_connect(&p);
    assert_int_equal(nqps(p.link), 2);
    stream_begin(&s, &p, 60, true);
    pair_drive_until(&p, stream_step(&s));
    assert_int_equal(s.resets, 0);
    fake_control("fake1", fault);
    s.count = 300;
    pair_drive_until(&p, p.link->state == RDI_LINK_LOST || (stream_step(&s), false));
    assert_non_null(strstr(p.link->why, "rank 0 on host hosta"));
    assert_non_null(strstr(p.link->why, "rank 1 on host hostb"));
    assert_non_null(strstr(p.link->why, "fake1 port 1"));
    if (strstr(p.link->why, cause) == NULL) {
        fail_msg("\"%s\" does not say \"%s\"", p.link->why, cause);
    }
    pair_drive_until(&p, stream_step(&s));
    assert_true(s.resets > 0);
    assert_int_equal(nqps(p.link), 1);
    pair_close(&p);
    stream_end(&s);
}

static void test_one_rail_is_cut(void **state) {
    (void)state;
    one_rail_goes("cut=0", "no acknowledgement");
}

static void test_one_port_goes_down(void **state) {
    (void)state;
    one_rail_goes("portdown=0", "port is down");
}

static void test_one_device_is_removed(void **state) {
    (void)state;
    one_rail_goes("gone=0", "");
}

// Both ranks have decided on the second device. When it goes the first one stands in for it.
static void test_the_decided_port_goes(void **state) {
    (void)state;
    static const struct rdi_rails rails = {.count = 1,
                                           .at = {{.rdma = "fake1", .why = "it is near"}}};
    struct pair p;
    struct stream s;
    char text[600] = "";
    memset(&p, 0, sizeof p);
    for (int i = 0; i < 2; i++) {
        side_prepare(&p.side[i], i, LO ",chunk=32K,verbs_stripe=4K");
        p.side[i].params.rails = &rails;
        setenv("FAKE_VERBS_HOST", i == 0 ? "1" : "2", 1);
        verbs_side_open(&p.side[i]);
        assert_non_null(strstr(p.side[i].last_line, "prefers fake1:1: it is near"));
    }
    pair_connect(&p);
    assert_int_equal(nqps(p.link), 1);
    p.link->ops->describe(p.link, text, sizeof text);
    assert_non_null(strstr(text, "fake1"));
    assert_non_null(strstr(text, "over the decided NICs"));
    stream_begin(&s, &p, 60, true);
    pair_drive_until(&p, stream_step(&s));
    fake_control("fake1", "cut=0");
    s.count = 200;
    pair_drive_until(&p, stream_step(&s));
    assert_true(s.resets > 0);
    assert_int_equal(nqps(p.link), 1);
    text[0] = '\0';
    p.link->ops->describe(p.link, text, sizeof text);
    assert_non_null(strstr(text, "fake0"));
    assert_non_null(strstr(text, "beside the decided NICs"));
    pair_close(&p);
    stream_end(&s);
}

static void test_all_devices_are_removed(void **state) {
    (void)state;
    struct pair p;
    verbs_open(&p, LO ",path_grace=1s", LO ",path_grace=1s");
    pair_connect(&p);
    fake_control(NULL, "gone=0");
    pair_drive_until(&p, p.link->state == RDI_LINK_LOST);
    p.link->ops->reset(p.link, 1);
    pair_drive_until(&p, p.link->state == RDI_LINK_FAILED);
    assert_int_equal(p.link->status, RONDO_ERR_PATH);
    pair_close(&p);
}

static void test_the_only_port_comes_back(void **state) {
    (void)state;
    struct pair p;
    struct stream s;
    verbs_open(&p, ONE ",path_grace=60s", ONE ",path_grace=60s");
    pair_connect(&p);
    stream_begin(&s, &p, 50, false);
    fake_control(NULL, "portdown=0:400");
    pair_drive_until(&p, stream_step(&s));
    assert_true(s.resets > 0);
    pair_close(&p);
    stream_end(&s);
}

static void test_gives_up(void **state) {
    (void)state;
    struct pair p;
    verbs_open(&p, ONE ",path_grace=600ms", ONE ",path_grace=600ms");
    pair_connect(&p);
    fake_control(NULL, "cut=0");
    struct rdi_put put = {.data = &p, .len = 8, .flags = RDI_PUT_ACK};
    assert_int_equal(p.link->ops->put(p.link, &put), RONDO_OK);
    pair_drive_until(&p, p.link->state == RDI_LINK_LOST);
    assert_int_equal(p.link->ops->put(p.link, &put), RONDO_ERR_PATH);
    assert_int_equal(p.link->ops->reset(p.link, p.link->epoch), RONDO_ERR_USAGE);
    assert_int_equal(p.link->ops->reset(p.link, p.link->epoch + 1), RONDO_OK);
    pair_drive_until(&p, p.link->state == RDI_LINK_FAILED);
    assert_int_equal(p.link->status, RONDO_ERR_PATH);
    assert_non_null(strstr(p.link->why, "which lives, did not come back within 600 ms"));
    assert_non_null(strstr(p.link->why, "10.77.0.1"));
    assert_non_null(strstr(p.link->why, "10.77.0.2"));
    struct rdi_link *in = p.side[1].accepted;
    pair_drive_until(&p, in->state == RDI_LINK_FAILED);
    assert_int_equal(in->status, RONDO_ERR_PATH);
    pair_close(&p);
}

static void turn_of(struct side *s) {
    if (s->net->ops->progress(s->net, false) == 0) {
        poll(NULL, 0, 1);
    }
}

// The path is lost and the peer's host with it: its connections stand, and nothing comes. Or it is only late.
static void lose_peer(struct pair *p, const char *options) {
    verbs_open(p, options, options);
    pair_connect(p);
    fake_control(NULL, "cut=0");
    struct rdi_put put = {.data = p, .len = 8, .flags = RDI_PUT_ACK};
    assert_int_equal(p->link->ops->put(p->link, &put), RONDO_OK);
    uint64_t end = pair_now() + PAIR_SECONDS * 1000 * RDI_MS;
    while (p->link->state == RDI_LINK_UP && pair_now() < end) {
        turn_of(&p->side[0]);
    }
    assert_int_equal(p->link->state, RDI_LINK_LOST);
    assert_int_equal(p->link->ops->reset(p->link, p->link->epoch + 1), RONDO_OK);
}

static void test_peer_is_silent(void **state) {
    (void)state;
    struct pair p;
    lose_peer(&p, ONE ",path_grace=1200ms");
    uint64_t end = pair_now() + PAIR_SECONDS * 1000 * RDI_MS;
    while (p.link->state != RDI_LINK_FAILED && pair_now() < end) {
        turn_of(&p.side[0]);
    }
    assert_int_equal(p.link->state, RDI_LINK_FAILED);
    assert_int_equal(p.link->status, RONDO_ERR_PEER);
    assert_non_null(strstr(p.link->why, "rank 1 on host hostb"));
    assert_non_null(strstr(p.link->why, "nothing answers there"));
    assert_null(strstr(p.link->why, "lives"));
    pair_close(&p);
}

static void test_peer_comes_back(void **state) {
    (void)state;
    struct pair p;
    lose_peer(&p, ONE ",path_grace=60s");
    const struct rdi_verbs_link *l = (const struct rdi_verbs_link *)p.link;
    uint64_t end = pair_now() + PAIR_SECONDS * 1000 * RDI_MS;
    while ((l->inner->epoch == 0 || l->inner->state != RDI_LINK_CONNECTING) && pair_now() < end) {
        turn_of(&p.side[0]); // the inner link is made anew, as it might wait for long otherwise
    }
    assert_int_equal(l->inner->state, RDI_LINK_CONNECTING);
    fake_control(NULL, "");
    pair_drive_until(&p, p.link->state == RDI_LINK_UP);
    assert_int_equal(p.side[1].accepts, 1);
    pair_drive_until(&p, p.side[1].accepted->state == RDI_LINK_UP);
    pair_close(&p);
}

// ---- Beginnings ----------------------------------------------------------------------------------

static void test_begins_with_what_works(void **state) {
    (void)state;
    struct pair p;
    struct stream s;
    setenv("FAKE_VERBS_FAULTS", "fake1.cut=0", 1);
    verbs_open(&p, LO, LO);
    unsetenv("FAKE_VERBS_FAULTS");
    pair_connect(&p);
    assert_int_equal(nqps(p.link), 1);
    stream_begin(&s, &p, 50, false);
    pair_drive_until(&p, stream_step(&s));
    pair_close(&p);
    stream_end(&s);
}

static void test_no_way_at_all(void **state) {
    (void)state;
    struct pair p;
    setenv("FAKE_VERBS_FAULTS", "cut=0", 1);
    verbs_open(&p, LO ",connect_timeout=900ms", LO ",connect_timeout=900ms");
    unsetenv("FAKE_VERBS_FAULTS");
    p.link = pair_begin_link(&p, 7);
    pair_drive_until(&p, p.link->state == RDI_LINK_FAILED);
    assert_int_equal(p.link->status, RONDO_ERR_PATH);
    assert_non_null(strstr(p.link->why, "no RDMA path to rank 1 on host hostb within 900 ms"));
    assert_non_null(strstr(p.link->why, "GID 10.77."));
    pair_close(&p);
}

static void test_registration_fails(void **state) {
    (void)state;
    for (int side = 0; side < 2; side++) {
        struct pair p;
        memset(&p, 0, sizeof p);
        side_prepare(&p.side[0], 0, ONE);
        side_prepare(&p.side[1], 1, ONE);
        for (int i = 0; i < 2; i++) {
            setenv("FAKE_VERBS_FAULTS", side == i ? "regfail=1" : "", 1);
            setenv("FAKE_VERBS_HOST", i == 0 ? "1" : "2", 1);
            verbs_side_open(&p.side[i]);
        }
        unsetenv("FAKE_VERBS_FAULTS");
        p.link = pair_begin_link(&p, 7);
        pair_drive_until(&p, p.link->state == RDI_LINK_FAILED);
        assert_int_equal(p.link->status, RONDO_ERR_NOMEM);
        assert_non_null(strstr(p.link->why, "fake0"));
        if (p.side[1].accepted != NULL) {
            struct rdi_link *in = p.side[1].accepted;
            pair_drive_until(&p, in->state == RDI_LINK_FAILED);
        }
        pair_close(&p);
    }
}

// ---- Processes -----------------------------------------------------------------------------------

// Rank 1 in a process of its own: tells its address, then serves until it is killed or the link ends.
static int serve(int fd) {
    struct pair p;
    uint8_t blob[RDI_BLOB_MAX];
    size_t len = 0;
    memset(&p, 0, sizeof p);
    side_prepare(&p.side[1], 1, LO);
    setenv("FAKE_VERBS_HOST", "2", 1);
    verbs_side_open(&p.side[1]);
    if (p.side[1].net->ops->address(p.side[1].net, blob, &len) != RONDO_OK ||
        write(fd, blob, len) != (ssize_t)len) {
        return 1;
    }
    uint64_t end = pair_now() + PAIR_SECONDS * 1000 * RDI_MS;
    while (pair_now() < end) {
        pair_turn(&p);
    }
    return 1;
}

static void test_peer_is_killed(void **state) {
    const char *self = *state;
    struct pair p;
    uint8_t blob[RDI_BLOB_MAX];
    int fds[2];
    char number[16];
    assert_int_equal(pipe(fds), 0);
    snprintf(number, sizeof number, "%d", fds[1]);
    pid_t child = fork();
    if (child == 0) {
        execl(self, self, number, (char *)NULL);
        _exit(127);
    }
    assert_true(child > 0);
    close(fds[1]);
    memset(&p, 0, sizeof p);
    side_prepare(&p.side[0], 0, LO);
    setenv("FAKE_VERBS_HOST", "1", 1);
    verbs_side_open(&p.side[0]);
    ssize_t len = read(fds[0], blob, sizeof blob);
    assert_true(len > 0);
    struct rdi_link_id id = {.comm = 1, .from = 0, .to = 1};
    const struct rdi_net_ops *ops = p.side[0].net->ops;
    assert_int_equal(ops->connect(p.side[0].net, &id, blob, (size_t)len, &p.link), RONDO_OK);
    pair_drive_until(&p, p.link->state == RDI_LINK_UP);
    struct rdi_put put = {.data = &put, .len = 8, .flags = RDI_PUT_ACK};
    assert_int_equal(ops->put(p.link, &put), RONDO_OK);
    pair_drive_until(&p, p.link->sent == 1);
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    assert_int_equal(ops->put(p.link, &put), RONDO_OK);
    uint64_t end = pair_now() + PAIR_SECONDS * 1000 * RDI_MS;
    while (p.link->state != RDI_LINK_FAILED && pair_now() < end) {
        pair_turn(&p);
        if (p.link->state == RDI_LINK_LOST) {
            (void)ops->reset(p.link, p.link->epoch + 1);
        }
    }
    assert_int_equal(p.link->state, RDI_LINK_FAILED);
    assert_int_equal(p.link->status, RONDO_ERR_PEER);
    assert_non_null(strstr(p.link->why, "rank 1 on host hostb"));
    pair_close(&p);
    close(fds[0]);
}

int main(int argc, char **argv) {
    if (argc == 2) {
        return serve(atoi(argv[1]));
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_replay),
        cmocka_unit_test(test_replay_several),
        cmocka_unit_test(test_replay_in_bad_weather),
        cmocka_unit_test(test_one_rail_is_cut),
        cmocka_unit_test(test_one_port_goes_down),
        cmocka_unit_test(test_one_device_is_removed),
        cmocka_unit_test(test_the_decided_port_goes),
        cmocka_unit_test(test_all_devices_are_removed),
        cmocka_unit_test(test_the_only_port_comes_back),
        cmocka_unit_test(test_gives_up),
        cmocka_unit_test(test_peer_is_silent),
        cmocka_unit_test(test_peer_comes_back),
        cmocka_unit_test(test_begins_with_what_works),
        cmocka_unit_test(test_no_way_at_all),
        cmocka_unit_test(test_registration_fails),
        cmocka_unit_test_prestate(test_peer_is_killed, argv[0]),
    };
    if (fake_prepare("2") != 0) {
        return 1;
    }
    return cmocka_run_group_tests_name("verbs_loss", tests, NULL, fake_dir_remove);
}
