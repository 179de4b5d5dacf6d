// SPDX-License-Identifier: MIT
// Rules that hardware often forgives and then does not: sizes that both ends must agree on, when a source is
// free, which completions are asked for, what a reset must count and keys it must renew.
#include "verbs_pair.h"

#define LO "interface=lo"
#define ONE LO ",device=fake0"

static struct rdi_verbs_link *verbs_of(struct rdi_link *l) { return (struct rdi_verbs_link *)l; }

static void run_stream(struct pair *p, uint64_t count, bool registered) {
    struct stream s;
    pair_connect(p);
    stream_begin(&s, p, count, registered);
    pair_drive_until(p, stream_step(&s));
    assert_int_equal(s.resets, 0);
    stream_end(&s);
}

// ---- Agreement -----------------------------------------------------------------------------------

static void open_with_mtus(struct pair *p, const char *const options[2],
                           const char *const mtus[2]) {
    memset(p, 0, sizeof *p);
    for (int i = 0; i < 2; i++) {
        side_prepare(&p->side[i], i, options[i]);
        setenv("FAKE_VERBS_HOST", i == 0 ? "1" : "2", 1);
        setenv("FAKE_VERBS_MTU", mtus[i], 1);
        verbs_side_open(&p->side[i]);
    }
    unsetenv("FAKE_VERBS_MTU");
}

static void test_mtu(void **state) {
    (void)state;
    static const struct {
        const char *options[2], *mtus[2];
        uint8_t agreed;
    } cases[] = {
        {{ONE, ONE}, {"4096", "1024"}, IBV_MTU_1024},
        {{ONE, ONE}, {"512", "4096"}, IBV_MTU_512},
        {{ONE, ONE ",verbs_mtu=256"}, {"2048", "2048"}, IBV_MTU_256},
        {{ONE ",verbs_mtu=512", ONE}, {"4096", "4096"}, IBV_MTU_512},
    };
    for (unsigned i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct pair p;
        open_with_mtus(&p, cases[i].options, cases[i].mtus);
        run_stream(&p, 30, false);
        assert_int_equal(verbs_of(p.link)->mtu[0], cases[i].agreed);
        assert_int_equal(verbs_of(p.side[1].accepted)->mtu[0], cases[i].agreed);
        pair_close(&p);
    }
}

// What reliable connections repair is no reason to set up a link anew.
static void test_weather_breaks_nothing(void **state) {
    (void)state;
    static const char *const faults[] = {"rnr=20", "loss=2", "late,reorder=20,delay=300",
                                         "inline=60"};
    for (unsigned i = 0; i < sizeof faults / sizeof *faults; i++) {
        struct pair p;
        setenv("FAKE_VERBS_FAULTS", faults[i], 1);
        verbs_open(&p, LO ",chunk=16K,verbs_timeout=4ms", LO ",chunk=16K,verbs_timeout=4ms");
        unsetenv("FAKE_VERBS_FAULTS");
        run_stream(&p, 100, i % 2 == 0);
        pair_close(&p);
    }
}

// ---- Sources and completions ---------------------------------------------------------------------

// Puts until told to wait. The sender's own room is the limit, not what the caller keeps free.
static void put_all(struct rdi_link *l, uint8_t *data, uint64_t count) {
    while (l->posted < count) {
        struct rdi_put put = {.data = data + l->posted * 64, .len = 64, .tag = l->posted};
        uint64_t before = l->posted;
        if (l->ops->put(l, &put) != RONDO_OK) {
            assert_true(l->state == RDI_LINK_UP && l->posted == before);
            break;
        }
    }
    assert_true(l->posted - l->sent <= l->slots && l->posted <= l->credit);
}

static void take_all(struct rdi_link *in, uint64_t *taken) {
    for (; *taken < in->arrived; ++*taken) {
        struct rdi_msg m;
        in->ops->peek(in, *taken, &m);
        assert_true(m.tag == *taken && m.len == 64 && pair_matches(m.data, *taken, 64));
    }
    if (*taken > in->released) {
        in->ops->release(in, *taken);
    }
}

static void test_greedy(void **state) {
    (void)state;
    enum { COUNT = 3000 };
    static const char *const options[] = {
        ONE ",slots=32,verbs_inline=0", ONE ",slots=32,verbs_inline=0,verbs_mode=split",
        LO ",slots=64,verbs_qps=2", ONE ",slots=32,verbs_inline=0,verbs_mode=send"};
    uint8_t *data = malloc((size_t)COUNT * 64);
    assert_non_null(data);
    for (uint64_t seq = 0; seq < COUNT; seq++) {
        pair_fill(data + seq * 64, seq, 64);
    }
    for (unsigned i = 0; i < 2 * sizeof options / sizeof *options; i++) {
        struct pair p;
        uint64_t taken = 0;
        setenv("FAKE_VERBS_FAULTS", i % 2 == 0 ? "" : "late,delay=200", 1);
        verbs_open(&p, options[i / 2], options[i / 2]);
        unsetenv("FAKE_VERBS_FAULTS");
        pair_connect(&p);
        pair_drive_until(&p, (put_all(p.link, data, COUNT), take_all(p.side[1].accepted, &taken),
                              p.link->sent == COUNT && taken == COUNT));
        pair_close(&p);
    }
    free(data);
}

// Completions are asked for when somebody needs them: nothing but polling the completion queue is done here.
static void expect_sent(struct rdi_link *l, uint64_t upto) {
    uint64_t end = pair_now() + PAIR_SECONDS * 1000 * RDI_MS;
    while (l->sent < upto && pair_now() < end) {
        rdi_verbs_poll(rdi_verbs_net_of(verbs_of(l)));
    }
    assert_int_equal(l->sent, upto);
}

static void test_signaled(void **state) {
    (void)state;
    static const char *const options[] = {ONE ",slots=16", ONE ",slots=16,verbs_mode=split"};
    for (unsigned i = 0; i < 2; i++) {
        struct pair p;
        verbs_open(&p, options[i], options[i]);
        pair_connect(&p);
        struct rdi_link *l = p.link;
        struct rdi_put put = {.data = "eight by", .len = 8, .flags = RDI_PUT_ACK};
        assert_int_equal(l->ops->put(l, &put), RONDO_OK); // asked for
        expect_sent(l, 1);
        put.flags = 0;
        for (int k = 0; k < 4; k++) { // a quarter of the slots
            assert_int_equal(l->ops->put(l, &put), RONDO_OK);
        }
        expect_sent(l, 5);
        while (l->posted < l->credit) { // the last for which there is credit
            assert_int_equal(l->ops->put(l, &put), RONDO_OK);
        }
        expect_sent(l, 16);
        pair_close(&p);
    }
}

// One of two stripes is done, the other is on its way: the message is neither sent nor there.
static void test_every_stripe_counts(void **state) {
    (void)state;
    struct pair p;
    const char *options = LO ",chunk=32K,verbs_stripe=4K,verbs_timeout=500ms";
    verbs_open(&p, options, options);
    pair_connect(&p);
    struct rdi_verbs_link *l = verbs_of(p.link);
    struct rdi_link *in = p.side[1].accepted;
    assert_int_equal(l->nqps, 2);
    uint8_t *data = malloc(32768);
    assert_non_null(data);
    for (uint64_t seq = 0; seq < 2; seq++) {
        struct rdi_put put = {.data = data, .len = 32768, .flags = RDI_PUT_ACK};
        pair_fill(data, seq, put.len);
        fake_control(seq % 2 == 0 ? "fake0" : "fake1", "cut=0");
        assert_int_equal(p.link->ops->put(p.link, &put), RONDO_OK);
        const struct rdi_verbs_qp *other = &l->qps[l->qps[0].rail == seq % 2];
        pair_drive_until(&p, other->sq_head == other->sq_tail);
        for (int i = 0; i < 20; i++) { // the receiver gets its half as well
            pair_turn(&p);
        }
        assert_int_equal(p.link->sent, seq);
        assert_int_equal(in->arrived, seq);
        fake_control(NULL, "");
        pair_drive_until(&p, p.link->sent == seq + 1 && in->arrived == seq + 1);
        struct rdi_msg m;
        in->ops->peek(in, seq, &m);
        assert_true(m.len == put.len && pair_matches(m.data, seq, m.len));
    }
    free(data);
    pair_close(&p);
}

// A message is on its way and more ranges are registered and used than are kept: its own stays.
static void test_registration_is_held(void **state) {
    (void)state;
    enum { RANGES = 1100, PAGE = 4096 };
    struct pair p;
    void *block;
    struct rdi_verbs_mr *held;
    verbs_open(&p, ONE ",verbs_timeout=1s", ONE ",verbs_timeout=1s");
    pair_connect(&p);
    uint8_t *many = aligned_alloc(PAGE, (size_t)RANGES * PAGE);
    assert_non_null(many);
    assert_int_equal(rondo_mem_alloc(65536, &block), RONDO_OK);
    pair_fill(block, 0, 65536);
    fake_control(NULL, "cut=0");
    struct rdi_put put = {.data = block, .len = 65536, .flags = RDI_PUT_ACK};
    assert_int_equal(p.link->ops->put(p.link, &put), RONDO_OK);
    struct rdi_verbs_rail *r = &rdi_verbs_net_of(verbs_of(p.link))->rails[0];
    for (size_t i = 0; i < RANGES; i++) {
        assert_int_equal(rondo_mem_register(many + i * PAGE, PAGE), RONDO_OK);
        assert_non_null(rdi_verbs_mr_get(r, many + i * PAGE, PAGE, &held));
        rdi_verbs_mr_put(r, held);
    }
    assert_true(r->nmrs < RANGES);
    fake_control(NULL, "");
    struct rdi_link *in = p.side[1].accepted;
    pair_drive_until(&p, p.link->sent == 1 && in->arrived == 1);
    struct rdi_msg m;
    in->ops->peek(in, 0, &m);
    assert_true(pair_matches(m.data, 0, m.len));
    for (size_t i = 0; i < RANGES; i++) {
        assert_int_equal(rondo_mem_unregister(many + i * PAGE), RONDO_OK);
    }
    pair_close(&p);
    assert_int_equal(rondo_mem_free(block), RONDO_OK);
    free(many);
}

// ---- Loss and reset ------------------------------------------------------------------------------

// Of a receive that comes back by an error only its number and that error mean something, and all come back.
static void test_flushed_receives_are_counted(void **state) {
    (void)state;
    static const char *const options[] = {ONE ",slots=16,verbs_qps=3",
                                          ONE ",slots=16,verbs_mode=send"};
    for (int i = 0; i < 2; i++) {
        struct pair p;
        verbs_open(&p, options[i], options[i]);
        pair_connect(&p);
        struct rdi_verbs_link *in = verbs_of(p.side[1].accepted);
        assert_true(rdi_verbs_test_cut(&in->base, 0));
        pair_drive_until(&p, p.link->state == RDI_LINK_LOST && in->base.state == RDI_LINK_LOST);
        for (unsigned k = 0; k < in->nqps; k++) {
            pair_drive_until(&p, in->qps[k].rq_left == 0);
            assert_non_null(in->qps[k].qp); // not because it was given up
        }
        pair_close(&p);
    }
}

// A queue pair's flush tells nothing; what explains it may come later, and must not be hidden.
static void test_cause_behind_flushes(void **state) {
    (void)state;
    struct pair p;
    verbs_open(&p, ONE, ONE);
    pair_connect(&p);
    struct rdi_verbs_link *l = verbs_of(p.link);
    assert_true(rdi_verbs_test_cut(p.link, 0));
    uint64_t end = pair_now() + PAIR_SECONDS * 1000 * RDI_MS;
    while (!l->broken && pair_now() < end) {
        rdi_verbs_poll(rdi_verbs_net_of(l));
    }
    assert_true(l->broken);
    rdi_verbs_broken(&l->qps[0], "the cable is cut");
    pair_drive_until(&p, p.link->state == RDI_LINK_LOST);
    if (strstr(p.link->why, "the cable is cut") == NULL) {
        fail_msg("\"%s\" hides the cause", p.link->why);
    }
    pair_close(&p);
}

// The sender knows that all were delivered, the receiver has looked at none: more completions wait there than
// it takes in one turn, and the new epoch begins.
static void test_reset_counts_what_completed(void **state) {
    (void)state;
    struct pair p;
    struct stream s;
    const char *options = ONE ",slots=64,chunk=32K,verbs_qps=8,verbs_stripe=4K";
    verbs_open(&p, options, options);
    pair_connect(&p);
    stream_begin(&s, &p, 64, true);
    struct rdi_net *from = p.side[0].net;
    struct rdi_put put = {.data = s.data, .len = p.link->max_msg};
    pair_fill(s.data, 1, put.len);
    uint64_t end = pair_now() + PAIR_SECONDS * 1000 * RDI_MS;
    while (p.link->sent < 64 && pair_now() < end) {
        while (p.link->ops->put(p.link, &put) == RONDO_OK) {}
        from->ops->progress(from, false);
    }
    assert_int_equal(p.link->sent, 64);
    assert_int_equal(p.link->ops->reset(p.link, 1), RONDO_OK);
    struct rdi_link *in = p.side[1].accepted;
    assert_int_equal(in->arrived, 0);
    pair_drive_until(&p, p.link->state != RDI_LINK_CONNECTING);
    if (p.link->state != RDI_LINK_UP) {
        fail_msg("%s", p.link->why);
    }
    assert_int_equal(p.link->sent, 64);
    pair_drive_until(&p, in->state == RDI_LINK_UP);
    assert_int_equal(in->arrived, 64);
    for (uint64_t seq = 0; seq < 64; seq++) {
        struct rdi_msg m;
        in->ops->peek(in, seq, &m);
        assert_true(m.len == put.len && pair_matches(m.data, 1, m.len));
    }
    pair_close(&p);
    stream_end(&s);
}

// The first of two ways is lost and comes back: what belonged to it must not be used for the other.
static void test_first_rail_goes_and_comes(void **state) {
    (void)state;
    struct pair p;
    struct stream s;
    const char *options = LO ",chunk=32K,verbs_stripe=4K,verbs_timeout=4ms,verbs_retries=5";
    verbs_open(&p, options, options);
    pair_connect(&p);
    stream_begin(&s, &p, 60, true);
    pair_drive_until(&p, stream_step(&s));
    fake_control("fake0", "cut=0");
    s.count = 300;
    pair_drive_until(&p, (assert_true(s.resets < 20), stream_step(&s)));
    assert_true(s.resets > 0);
    assert_int_equal(verbs_of(p.link)->nqps, 1);
    fake_control("fake0", "");
    assert_int_equal(p.link->ops->reset(p.link, p.link->epoch + 1), RONDO_OK);
    s.count = 400;
    pair_drive_until(&p, (assert_true(s.resets < 20), stream_step(&s)));
    assert_int_equal(verbs_of(p.link)->nqps, 2);
    pair_close(&p);
    stream_end(&s);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_mtu),
        cmocka_unit_test(test_weather_breaks_nothing),
        cmocka_unit_test(test_greedy),
        cmocka_unit_test(test_signaled),
        cmocka_unit_test(test_every_stripe_counts),
        cmocka_unit_test(test_registration_is_held),
        cmocka_unit_test(test_flushed_receives_are_counted),
        cmocka_unit_test(test_cause_behind_flushes),
        cmocka_unit_test(test_reset_counts_what_completed),
        cmocka_unit_test(test_first_rail_goes_and_comes),
    };
    if (fake_prepare("2") != 0) {
        return 1;
    }
    return cmocka_run_group_tests_name("verbs_rules", tests, NULL, fake_dir_remove);
}
