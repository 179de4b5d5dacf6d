// SPDX-License-Identifier: MIT
// Phases of a pair over two tcp nets in one process, a thread each: what arrives when paths are cut on the way,
// what is said when the two ends disagree, and when one of them does nothing.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include "ring/perf/pairs.h"
#include "tests/unit/tcp_pair.h"

#include <pthread.h>

#define BYTES ((size_t)300001)
#define OPS 40
#define CHUNK "chunk=64K,slots=4"
#define CUTS 3

struct half {
    struct side side;
    struct perf_options options;
    struct perf_run run;
    struct perf_pair pair;
    struct perf_phase phase;
    rondo_status status;
    char error[512];
    unsigned calls, cuts;
};

static struct half halves[2];

static void open_half(struct half *h, int rank) {
    memset(h, 0, sizeof *h);
    side_prepare(&h->side, rank, CHUNK);
    side_open(&h->side);
    h->run = (struct perf_run){.options = &h->options, .rank = rank, .ranks = 2};
    h->run.send = malloc(BYTES + PERF_SPREAD);
    h->run.recv = malloc(BYTES + PERF_SPREAD);
    assert_non_null(h->run.send);
    assert_non_null(h->run.recv);
    struct perf_values v = perf_pair_values(&h->run, 1);
    perf_fill(&v, rank, 0, BYTES + PERF_SPREAD, h->run.send);
    h->pair = (struct perf_pair){.run = &h->run,
                                 .first = rank == 0,
                                 .peer = 1 - rank,
                                 .net = h->side.net,
                                 .patience_ns = PAIR_SECONDS * 1000 * RDI_MS};
    h->phase = (struct perf_phase){.check = true, .rep = 1};
}

static void link_halves(void) {
    struct side *s[2] = {&halves[0].side, &halves[1].side};
    for (int i = 0; i < 2; i++) {
        uint8_t blob[RDI_BLOB_MAX];
        size_t len = sizeof blob;
        struct rdi_link_id id = {.comm = 9, .from = (uint32_t)i, .to = (uint32_t)(1 - i)};
        assert_int_equal(rdi_tcp_ops.address(s[1 - i]->net, blob, &len), RONDO_OK);
        assert_int_equal(rdi_tcp_ops.connect(s[i]->net, &id, blob, len, &halves[i].pair.out),
                         RONDO_OK);
    }
    uint64_t end = pair_now() + PAIR_SECONDS * 1000 * RDI_MS;
    while (halves[0].pair.out->state != RDI_LINK_UP || halves[1].pair.out->state != RDI_LINK_UP ||
           s[0]->accepted == NULL || s[1]->accepted == NULL) {
        for (int i = 0; i < 2; i++) {
            rdi_tcp_ops.progress(s[i]->net, false);
        }
        assert_true(pair_now() < end);
    }
    halves[0].pair.in = s[0]->accepted;
    halves[1].pair.in = s[1]->accepted;
}

static void open_halves(void) {
    open_half(&halves[0], 0);
    open_half(&halves[1], 1);
    link_halves();
}

static void close_halves(void) {
    for (int i = 0; i < 2; i++) {
        perf_pair_close(&halves[i].pair, true);
        free(halves[i].run.send);
        free(halves[i].run.recv);
    }
}

static void *run_half(void *arg) {
    struct half *h = arg;
    h->status = perf_pair_run(&h->pair, &h->phase);
    snprintf(h->error, sizeof h->error, "%s", h->status != RONDO_OK ? rondo_last_error() : "");
    return NULL;
}

static void run_halves(void) {
    pthread_t other;
    assert_int_equal(pthread_create(&other, NULL, run_half, &halves[1]), 0);
    run_half(&halves[0]);
    pthread_join(other, NULL);
}

static void expect_right(void) {
    for (int i = 0; i < 2; i++) {
        assert_string_equal(halves[i].error, "");
        assert_int_equal(halves[i].phase.wrong, 0);
    }
}

// ---- Paths that are cut --------------------------------------------------------------------------

// A net whose links lose their paths every now and then, on the thread that owns it.
static int cutting_progress(struct rdi_net *net, bool busy) {
    struct half *h = net == halves[0].pair.net ? &halves[0] : &halves[1];
    if (h->pair.out->posted - h->phase.out.base > 20 * (h->cuts + 1) && h->cuts < CUTS &&
        rdi_tcp_test_cut(h->pair.out, 0)) {
        h->cuts++;
    }
    return rdi_tcp_ops.progress(net, busy);
}

static void run_cut(bool turns, bool back) {
    struct rdi_net_ops cutting = rdi_tcp_ops;
    cutting.progress = cutting_progress;
    open_halves();
    for (int i = 0; i < 2; i++) {
        struct perf_phase *f = &halves[i].phase;
        f->turns = turns;
        f->out = (struct perf_flow){.bytes = BYTES, .ops = i == 0 || back ? OPS : 0};
        f->in = (struct perf_flow){.bytes = BYTES, .ops = i == 1 || back ? OPS : 0};
        halves[i].pair.net->ops = &cutting;
    }
    run_halves();
    expect_right();
    assert_int_equal(halves[0].cuts, CUTS);
    assert_true(halves[0].pair.out->epoch >= CUTS);
    assert_int_equal(halves[1].cuts, back ? CUTS : 0);
    close_halves();
}

static void test_put_is_resumed(void **state) {
    (void)state;
    run_cut(false, false);
}

static void test_both_ways_are_resumed(void **state) {
    (void)state;
    run_cut(false, true);
}

static void test_pingpong_is_resumed(void **state) {
    (void)state;
    run_cut(true, true);
}

// ---- Figures and faults --------------------------------------------------------------------------

static void test_get_is_timed(void **state) {
    (void)state;
    double times[OPS] = {0};
    open_halves();
    for (int i = 0; i < 2; i++) {
        struct perf_phase *f = &halves[i].phase;
        f->turns = true;
        f->skip = 2;
        f->out = (struct perf_flow){.bytes = i == 0 ? 0 : BYTES, .ops = OPS + 2};
        f->in = (struct perf_flow){.bytes = i == 0 ? BYTES : 0, .ops = OPS + 2};
    }
    halves[0].phase.times = times;
    run_halves();
    expect_right();
    double sum = 0;
    for (int i = 0; i < OPS; i++) {
        assert_true(times[i] > 0);
        sum += times[i];
    }
    double whole = halves[0].phase.end - halves[0].phase.begin;
    assert_true(sum > 0.999 * whole && sum < 1.001 * whole);
    close_halves();
}

static void test_a_damaged_byte_counts(void **state) {
    (void)state;
    open_halves();
    for (int i = 0; i < 2; i++) {
        halves[i].phase.out = (struct perf_flow){.bytes = BYTES, .ops = i == 0 ? OPS : 0};
        halves[i].phase.in = (struct perf_flow){.bytes = BYTES, .ops = i == 1 ? OPS : 0};
    }
    // One before it is sent, in the part that every operation sends: each of them has it wrong.
    halves[0].run.send[BYTES / 2] ^= 1;
    halves[1].phase.corrupt = true;
    run_halves();
    assert_string_equal(halves[1].error, "");
    assert_int_equal(halves[1].phase.wrong, OPS + 1);
    close_halves();
}

static void test_ends_that_disagree(void **state) {
    (void)state;
    open_halves();
    // Nobody will acknowledge it.
    halves[0].pair.patience_ns = 100 * RDI_MS;
    halves[0].phase.out = (struct perf_flow){.bytes = 1000, .ops = 1};
    halves[1].phase.in = (struct perf_flow){.bytes = 1001, .ops = 1};
    run_halves();
    assert_int_equal(halves[1].status, RONDO_ERR_INTERNAL);
    assert_non_null(strstr(halves[1].error, "1000 bytes"));
    close_halves();
}

static void test_a_peer_that_does_nothing(void **state) {
    (void)state;
    open_halves();
    halves[0].options.sleep = true;
    halves[0].pair.patience_ns = 50 * RDI_MS;
    halves[0].phase.in = (struct perf_flow){.bytes = 8, .ops = 1};
    run_half(&halves[0]);
    assert_int_equal(halves[0].status, RONDO_ERR_TIMEOUT);
    assert_non_null(strstr(halves[0].error, "rank 1"));
    close_halves();
}

static void test_a_peer_that_leaves(void **state) {
    (void)state;
    open_halves();
    perf_pair_close(&halves[1].pair, true);
    halves[0].phase.in = (struct perf_flow){.bytes = 8, .ops = 1};
    run_half(&halves[0]);
    assert_int_equal(halves[0].status, RONDO_ERR_PEER);
    close_halves();
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_put_is_resumed),
        cmocka_unit_test(test_both_ways_are_resumed),
        cmocka_unit_test(test_pingpong_is_resumed),
        cmocka_unit_test(test_get_is_timed),
        cmocka_unit_test(test_a_damaged_byte_counts),
        cmocka_unit_test(test_ends_that_disagree),
        cmocka_unit_test(test_a_peer_that_does_nothing),
        cmocka_unit_test(test_a_peer_that_leaves),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
