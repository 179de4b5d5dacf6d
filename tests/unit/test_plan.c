// SPDX-License-Identifier: MIT
// The plan: which algorithm is chosen; and the arithmetic of the streams, seen from outside: each algorithm moves
// exactly the bytes that it should, gives the right sums at every awkward count, and rounds its window.
//
// Runs whole clusters in this process, over the simulated network with all mischief off.
#include "ring/internal.h"
#include "ring/reduce.h"
#include "transport/sim/sim.h"

#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#define MAX 72

// ---- Choice --------------------------------------------------------------------------------------

static void test_choice(void **state) {
    (void)state;
    struct rdi_plan p = {.ranks = 4, .max_local = 1, .hosts = 4, .direct_max = 1000, .block = 4096};
    assert_int_equal(rdi_plan_choose(&p, RDI_ALL_REDUCE, 1000), RDI_ALGO_DIRECT);
    assert_int_equal(rdi_plan_choose(&p, RDI_ALL_REDUCE, 1001), RDI_ALGO_RING);
    assert_int_equal(rdi_plan_choose(&p, RDI_BROADCAST, 1000), RDI_ALGO_TREE);
    assert_int_equal(rdi_plan_choose(&p, RDI_BROADCAST, 1001), RDI_ALGO_CHAIN);
    assert_int_equal(rdi_plan_choose(&p, RDI_REDUCE, 1000), RDI_ALGO_TREE);
    assert_int_equal(rdi_plan_choose(&p, RDI_REDUCE, 1001), RDI_ALGO_CHAIN);
    assert_int_equal(rdi_plan_choose(&p, RDI_REDUCE_SCATTER, 1), RDI_ALGO_RING);
    assert_int_equal(rdi_plan_choose(&p, RDI_ALL_GATHER, 1), RDI_ALGO_RING);
    p.max_local = p.hosts = 2; // two on each of two hosts
    assert_int_equal(rdi_plan_choose(&p, RDI_ALL_REDUCE, 1000), RDI_ALGO_DIRECT);
    assert_int_equal(rdi_plan_choose(&p, RDI_ALL_REDUCE, 1001), RDI_ALGO_NODE);
    assert_int_equal(rdi_plan_choose(&p, RDI_REDUCE_SCATTER, 1001), RDI_ALGO_RING);
    p.max_local = 64; // more than can be added up at once with what comes from the network
    assert_int_equal(rdi_plan_choose(&p, RDI_ALL_REDUCE, 1001), RDI_ALGO_RING);
    p.max_local = 4; // all on one host
    p.hosts = 1;
    assert_int_equal(rdi_plan_choose(&p, RDI_ALL_REDUCE, 1001), RDI_ALGO_OWNER);
    p.ranks = p.max_local = 9; // too many for everybody to everybody
    assert_int_equal(rdi_plan_choose(&p, RDI_ALL_REDUCE, 1000), RDI_ALGO_DOUBLING);
    p.ranks = p.max_local = 65;
    assert_int_equal(rdi_plan_choose(&p, RDI_ALL_REDUCE, 1001), RDI_ALGO_RING);
}

// order=strict must never get an algorithm that adds in another order than that of ranks.
static void test_strict_choice(void **state) {
    (void)state;
    for (uint32_t forced = 0; forced <= 4; forced++) {
        for (uint32_t ranks = 2; ranks <= 64; ranks++) {
            struct rdi_plan p = {.ranks = ranks,
                                 .max_local = 1,
                                 .strict = 1,
                                 .algorithm = forced,
                                 .direct_max = 100,
                                 .block = 64};
            for (uint64_t bytes = 1; bytes < 1000; bytes += 99) {
                enum rdi_algo_id ar = rdi_plan_choose(&p, RDI_ALL_REDUCE, bytes);
                assert_true(ar == RDI_ALGO_DIRECT || ar == RDI_ALGO_OWNER);
                assert_int_equal(rdi_plan_choose(&p, RDI_REDUCE_SCATTER, bytes), RDI_ALGO_OWNER);
                assert_int_equal(rdi_plan_choose(&p, RDI_REDUCE, bytes), RDI_ALGO_CHAIN);
            }
        }
    }
}

static void test_every_choice_exists(void **state) {
    (void)state;
    for (int k = 0; k < RDI_KIND_COUNT; k++) {
        for (uint32_t forced = 0; forced <= 4; forced++) {
            struct rdi_plan p = {.ranks = 5,
                                 .max_local = 3,
                                 .hosts = 2,
                                 .algorithm = forced,
                                 .direct_max = 10,
                                 .block = 64};
            for (uint64_t bytes = 1; bytes < 100; bytes += 90) {
                enum rdi_algo_id id = rdi_plan_choose(&p, (enum rdi_kind)k, bytes);
                const struct rdi_algo *a = rdi_algo_get(id, (enum rdi_kind)k);
                assert_non_null(a);
                assert_int_equal(a->id, id);
                assert_int_equal(id == RDI_ALGO_NONE, strcmp(rdi_algo_name(id), "none") == 0);
            }
        }
    }
}

static void test_hash(void **state) {
    (void)state;
    struct rdi_plan a, b;
    memset(&a, 0xff, sizeof a); // padding, should there be any, must not count
    memset(&b, 0, sizeof b);
    a = (struct rdi_plan){.ranks = 4, .direct_max = 7, .block = 64};
    b.ranks = 4, b.direct_max = 7, b.block = 64;
    assert_int_equal(rdi_plan_hash(&a), rdi_plan_hash(&b));
    struct rdi_plan changed[8] = {a, a, a, a, a, a, a, a};
    changed[0].ranks++, changed[1].max_local++, changed[2].strict++;
    changed[3].algorithm++, changed[4].direct_max++, changed[5].block++;
    changed[6].hosts++, changed[7].layout++;
    for (int i = 0; i < 8; i++) {
        assert_int_not_equal(rdi_plan_hash(&changed[i]), rdi_plan_hash(&a));
    }
}

// ---- A cluster -----------------------------------------------------------------------------------

struct world {
    int n;
    struct rdi_sim *sim;
    struct rdi_engine *engine[MAX];
    struct rondo_comm *comm[MAX];
};

static void broken(void *arg, const char *rule, const char *detail) {
    (void)arg;
    fail_msg("%s: %s", rule, detail);
}

static char *no_environment(const char *name) {
    (void)name;
    return NULL;
}

static void open_world(struct world *w, int n, const struct rdi_plan *plan, int64_t chunk) {
    struct rdi_options o;
    struct rdi_env env;
    struct rdi_sim_config config = {.seed = 1,
                                    .nodes = n,
                                    .latency_ns = 1000,
                                    .bytes_per_s = 1000000000,
                                    .land = 500,
                                    .broken = broken};
    int ranks[MAX];
    uint8_t record[RDI_RECORD_MAX];
    const struct rdi_net_ops *ops = &rdi_sim_ops;
    w->n = n;
    w->sim = rdi_sim_create(&config);
    assert_non_null(w->sim);
    assert_int_equal(rdi_options_load(&o, NULL, no_environment), RONDO_OK);
    o.num[RDI_OPT_CHUNK] = chunk;
    o.num[RDI_OPT_SLOTS] = 4;
    rdi_sim_env(w->sim, &env);
    for (int r = 0; r < n; r++) {
        struct rdi_job job = {
            .rank = r, .size = n, .local_rank = -1, .host_id = {(uint8_t)(r + 1)}};
        snprintf(job.host, sizeof job.host, "host%d", r);
        assert_int_equal(rdi_engine_create(&env, &o, &job, &ops, 1, rdi_sim_node(w->sim, r), NULL,
                                           &w->engine[r]),
                         RONDO_OK);
        ranks[r] = r;
    }
    for (int r = 0; r < n; r++) {
        size_t len = rdi_engine_record(w->engine[r], plan, record);
        for (int q = 0; q < n; q++) {
            assert_int_equal(rdi_engine_add_peer(w->engine[q], r, record, len, NULL), RONDO_OK);
        }
    }
    for (int r = 0; r < n; r++) {
        assert_int_equal(rdi_comm_create(w->engine[r], 1, r, n, ranks, plan, &w->comm[r]),
                         RONDO_OK);
    }
}

static void close_world(struct world *w) {
    for (int r = 0; r < w->n; r++) {
        rdi_engine_destroy(w->engine[r]);
    }
    rdi_sim_destroy(w->sim);
}

// Runs one operation on all ranks. Returns the bytes that all ranks together have sent for it; *status is rank
// 0's result, and all ranks must have the same.
static uint64_t run_op(struct world *w, enum rdi_kind kind, char *const *send, char *const *recv,
                       size_t count, rondo_type type, rondo_op op, int root, rondo_status *status) {
    struct rondo_request *req[MAX];
    uint64_t before = 0, after = 0;
    int left = w->n;
    for (int r = 0; r < w->n; r++) {
        before += atomic_load(&w->comm[r]->bytes_sent);
        assert_int_equal(
            rdi_request_new(w->comm[r], kind, send[r], recv[r], count, type, op, root, &req[r]),
            RONDO_OK);
        rdi_engine_push(w->engine[r], req[r]);
    }
    while (left) {
        int moved = 0;
        left = 0;
        for (int r = 0; r < w->n; r++) {
            uint64_t timeout = UINT64_MAX;
            moved += rdi_engine_progress(w->engine[r], true);
            moved += w->engine[r]->nets[0]->ops->arm(w->engine[r]->nets[0], &timeout) != RONDO_OK;
            left += !atomic_load(&req[r]->complete);
        }
        if (!moved && left) {
            assert_int_not_equal(rdi_sim_next(w->sim), UINT64_MAX);
            rdi_sim_advance(w->sim, rdi_sim_next(w->sim));
        }
    }
    *status = req[0]->status;
    for (int r = 0; r < w->n; r++) {
        assert_int_equal(req[r]->status, *status);
        rdi_request_free(req[r]);
        after += atomic_load(&w->comm[r]->bytes_sent);
    }
    return after - before;
}

struct buffers {
    char *send[MAX], *recv[MAX];
};

static uint32_t value(int rank, size_t i) {
    return (uint32_t)(rank + 1) * 2654435761u + (uint32_t)i * 40503u;
}

static void make_buffers(struct buffers *b, int n, size_t send, size_t recv) {
    for (int r = 0; r < n; r++) {
        b->send[r] = malloc(4 * send + 1);
        b->recv[r] = malloc(4 * recv + 1);
        for (size_t i = 0; i < send; i++) {
            uint32_t v = value(r, i);
            memcpy(b->send[r] + 4 * i, &v, 4);
        }
    }
}

static void free_buffers(struct buffers *b, int n) {
    for (int r = 0; r < n; r++) {
        free(b->send[r]);
        free(b->recv[r]);
    }
}

// recv[i] is the sum over ranks of element `from + i`.
static void check_sums(const char *recv, int n, size_t from, size_t count) {
    for (size_t i = 0; i < count; i++) {
        uint32_t want = 0, got;
        for (int r = 0; r < n; r++) {
            want += value(r, from + i);
        }
        memcpy(&got, recv + 4 * i, 4);
        if (got != want) {
            fail_msg("element %zu of %zu (%d ranks): %u instead of %u", i, count, n, got, want);
        }
    }
}

// ---- Bytes and sums ------------------------------------------------------------------------------

#define BLOCK 128 // bytes: 32 elements

// Counts around everything that could be off by one: ranks, cache lines, blocks, segments.
static size_t awkward(int n, int which) {
    const size_t u = BLOCK / 4, s = u * (size_t)n,
                 edges[] = {1, (size_t)n, 16, u, s, 2 * s, 2 * s + u, 5 * s + 16};
    return edges[which / 3] + (size_t)(which % 3) - 1;
}
#define AWKWARD 24

// Thread sanitizer makes the small-message simulation two orders of magnitude slower.
#ifdef __SANITIZE_THREAD__
#define NEXT(n) ((n) < 3 ? (n) + 1 : (n) + 5)
#else
#define NEXT(n) ((n) + 1)
#endif

static void all_reduce_moves(uint32_t algorithm, bool strict,
                             uint64_t (*expected)(uint64_t n, uint64_t bytes)) {
    struct rdi_plan plan = {
        .algorithm = algorithm, .strict = strict, .direct_max = 0, .block = BLOCK};
    for (int n = 1; n <= 8; n = NEXT(n)) {
        struct world w;
        struct buffers b;
        rondo_status s;
        open_world(&w, n, &plan, 64);
        for (int k = 0; k < AWKWARD; k++) {
            size_t count = awkward(n, k);
            make_buffers(&b, n, count, count);
            uint64_t sent =
                run_op(&w, RDI_ALL_REDUCE, b.send, b.recv, count, RONDO_U32, RONDO_SUM, 0, &s);
            assert_int_equal(s, RONDO_OK);
            assert_int_equal(sent, expected((uint64_t)n, 4 * count));
            for (int r = 0; r < n; r++) {
                check_sums(b.recv[r], n, 0, count);
            }
            free_buffers(&b, n);
        }
        close_world(&w);
    }
}

// Of all ranks together: 2(n-1)/n of the data from each.
static uint64_t ring_bound(uint64_t n, uint64_t bytes) { return 2 * (n - 1) * bytes; }
static uint64_t everybody(uint64_t n, uint64_t bytes) { return n * (n - 1) * bytes; }
static uint64_t halves(uint64_t n, uint64_t bytes) {
    uint64_t rounds = 0, power = 1;
    while (2 * power <= n) {
        power *= 2;
        rounds++;
    }
    return (power * rounds + 2 * (n - power)) * bytes;
}

static void test_ring(void **state) {
    (void)state;
    all_reduce_moves(3, false, ring_bound);
}

static void test_owner(void **state) {
    (void)state;
    all_reduce_moves(0, true, ring_bound);
}

static void test_direct(void **state) {
    (void)state;
    all_reduce_moves(1, false, everybody);
}

static void test_doubling(void **state) {
    (void)state;
    all_reduce_moves(2, false, halves);
}

static void reduce_scatter_moves(bool strict) {
    struct rdi_plan plan = {.strict = strict, .block = BLOCK};
    for (int n = 1; n <= 8; n = NEXT(n)) {
        struct world w;
        struct buffers b;
        rondo_status s;
        open_world(&w, n, &plan, 64);
        for (int k = 0; k < AWKWARD; k++) {
            size_t count = awkward(n, k);
            make_buffers(&b, n, count * (size_t)n, count);
            uint64_t sent =
                run_op(&w, RDI_REDUCE_SCATTER, b.send, b.recv, count, RONDO_I32, RONDO_SUM, 0, &s);
            assert_int_equal(s, RONDO_OK);
            assert_int_equal(sent, (uint64_t)n * (uint64_t)(n - 1) * 4 * count);
            for (int r = 0; r < n; r++) {
                check_sums(b.recv[r], n, (size_t)r * count, count);
            }
            free_buffers(&b, n);
        }
        close_world(&w);
    }
}

static void test_reduce_scatter(void **state) {
    (void)state;
    reduce_scatter_moves(false);
    reduce_scatter_moves(true);
}

// The chain's partial sums live in a window of 4 MiB that is used round and round.
static void test_reduce_window(void **state) {
    (void)state;
    const size_t count = 2500000 + 7;
    struct rdi_plan plan = {.block = 65536};
    for (int root = 0; root < 3; root++) {
        struct world w;
        struct buffers b;
        rondo_status s;
        open_world(&w, 3, &plan, 65472);
        make_buffers(&b, 3, count, count);
        uint64_t sent =
            run_op(&w, RDI_REDUCE, b.send, b.recv, count, RONDO_U32, RONDO_SUM, root, &s);
        assert_int_equal(s, RONDO_OK);
        assert_int_equal(sent, (root == 2 ? 8u : 12u) * (uint64_t)count);
        check_sums(b.recv[root], 3, 0, count);
        free_buffers(&b, 3);
        close_world(&w);
    }
}

static void test_barrier(void **state) {
    (void)state;
    for (int n = 1; n <= 17; n++) {
        struct world w;
        struct buffers b;
        rondo_status s;
        struct rdi_plan plan = {.block = BLOCK};
        uint64_t rounds = 0;
        while (1 << rounds < n) {
            rounds++;
        }
        open_world(&w, n, &plan, 64);
        make_buffers(&b, n, 0, 0);
        assert_int_equal(run_op(&w, RDI_BARRIER, b.send, b.recv, 0, RONDO_U8, RONDO_SUM, 0, &s),
                         (uint64_t)n * rounds);
        assert_int_equal(s, RONDO_OK);
        free_buffers(&b, n);
        close_world(&w);
    }
}

// More ranks than one pass over the sources serves: an error with the remedy on every rank, not a crash.
static void test_too_many(void **state) {
    (void)state;
    enum { n = RDI_REDUCE_MAX_SOURCES + 1 };
    struct world w;
    struct buffers b;
    rondo_status s;
    struct rdi_plan plan = {.algorithm = 1, .block = BLOCK};
    open_world(&w, n, &plan, 64);
    make_buffers(&b, n, 1, 1);
    (void)run_op(&w, RDI_ALL_REDUCE, b.send, b.recv, 1, RONDO_U32, RONDO_SUM, 0, &s);
    assert_int_equal(s, RONDO_ERR_INVALID);
    assert_non_null(strstr(w.comm[0]->why, "algorithm=direct"));
    free_buffers(&b, n);
    close_world(&w);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_choice),
        cmocka_unit_test(test_strict_choice),
        cmocka_unit_test(test_every_choice_exists),
        cmocka_unit_test(test_hash),
        cmocka_unit_test(test_ring),
        cmocka_unit_test(test_owner),
        cmocka_unit_test(test_direct),
        cmocka_unit_test(test_doubling),
        cmocka_unit_test(test_reduce_scatter),
        cmocka_unit_test(test_reduce_window),
        cmocka_unit_test(test_barrier),
        cmocka_unit_test(test_too_many),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
