// SPDX-License-Identifier: MIT
// Programs of collectives on devices, run by all ranks at once on a model of streams and staging rings: whatever
// rank goes first, nothing blocks for ever, and every element meets the ranks in the order that is promised.
//
// A value stands for the order in which it was folded: fold(a, b) = a * 1000003 + b, which is neither commutative
// nor associative.
#include "ring/cuda/gpu.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define MOST 9
#define SLOT_WORDS 64

static uint64_t rng;
static unsigned below(unsigned n) {
    rng = rng * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (unsigned)(rng >> 33) % n;
}

static uint64_t fold(uint64_t a, uint64_t b) { return a * 1000003 + b; }
static uint64_t value(int rank, size_t i) { return (uint64_t)rank * 1000 + i + 1; }

struct ring { // of slots, from one rank to another
    uint64_t slot[RDI_GPU_SLOTS][SLOT_WORDS];
    uint64_t bytes[RDI_GPU_SLOTS];
    uint64_t produced, consumed;
};

struct world {
    struct rdi_gpu_call call;
    int order[MOST]; // of the ring
    struct rdi_gpu_program p[MOST];
    size_t at[MOST];
    uint64_t *send[MOST], *recv[MOST];
    struct ring *rings; // [from * n + to]
    unsigned slots;
};

static bool may_run(struct world *w, int r, const struct rdi_gpu_move *m) {
    int n = w->call.size;
    const struct ring *in = m->in >= 0 ? &w->rings[m->in * n + r] : NULL;
    const struct ring *out = m->out >= 0 ? &w->rings[r * n + m->out] : NULL;
    return (!in || in->consumed < in->produced) &&
           (!out || out->produced < out->consumed + w->slots);
}

static void run_move(struct world *w, int r, const struct rdi_gpu_move *m) {
    int n = w->call.size;
    struct ring *in = m->in >= 0 ? &w->rings[m->in * n + r] : NULL;
    struct ring *out = m->out >= 0 ? &w->rings[r * n + m->out] : NULL;
    uint64_t slot_in = in ? in->consumed % w->slots : 0,
             slot_out = out ? out->produced % w->slots : 0;
    size_t words = m->bytes / 8;
    assert_true(in || m->has_local);
    if (in) {
        assert_int_equal(in->bytes[slot_in], m->bytes); // both ends cut alike
    }
    for (size_t i = 0; i < words; i++) {
        uint64_t own = m->has_local ? w->send[r][m->local / 8 + i] : 0;
        uint64_t v = in ? in->slot[slot_in][i] : own;
        v = in && m->has_local ? fold(v, own) : v;
        v = m->divide ? v + 7 : v;
        if (m->has_dst) {
            w->recv[r][m->dst / 8 + i] = v;
        }
        if (out) {
            out->slot[slot_out][i] = v;
        }
    }
    if (out) {
        out->bytes[slot_out] = m->bytes;
        out->produced++;
    }
    if (in) {
        in->consumed++;
    }
}

// Any rank that can move may be the next.
static void run(struct world *w) {
    int n = w->call.size;
    for (;;) {
        int can[MOST], k = 0;
        bool left = false;
        for (int r = 0; r < n; r++) {
            bool more = w->at[r] < w->p[r].n;
            left |= more;
            if (more && may_run(w, r, &w->p[r].moves[w->at[r]])) {
                can[k++] = r;
            }
        }
        if (k == 0) {
            assert_false(left); // else: blocked for ever
            return;
        }
        int r =
            can[below(3) ? below((unsigned)k) : 0]; // often the lowest, so that some are far ahead
        run_move(w, r, &w->p[r].moves[w->at[r]++]);
    }
}

static size_t blocks_in(const struct rdi_gpu_call *c, bool send) {
    bool many = c->kind == RDI_ALL_TO_ALL ||
                c->kind == (send ? RDI_REDUCE_SCATTER : RDI_ALL_GATHER);
    return many ? (size_t)c->size : 1;
}

static int place_of(const struct world *w, int rank) {
    int place = 0;
    while (w->order[place] != rank) {
        place++;
    }
    return place;
}

// From place `start` of the ring around; strict: from rank 0.
static uint64_t left_fold(const struct world *w, int start, size_t i) {
    uint64_t v = 0;
    for (int d = 0; d < w->call.size; d++) {
        int rank = w->call.strict ? d : w->order[(start + d) % w->call.size];
        v = d ? fold(v, w->send[rank][i]) : w->send[rank][i];
    }
    return w->call.divide ? v + 7 : v;
}

// The block of the ring on the host in which byte `at` of an all_reduce lies.
static int block_of(const struct rdi_gpu_call *c, uint64_t at) {
    uint64_t n = (uint64_t)c->size, seg = n * c->piece, base = at / seg * seg;
    uint64_t bytes = c->bytes - base < seg ? c->bytes - base : seg, len = c->piece;
    if (bytes < seg) {
        len = ((bytes + n - 1) / n + 63) / 64 * 64;
    }
    return (int)((at - base) / len);
}

static uint64_t expected(const struct world *w, int r, size_t i) {
    const struct rdi_gpu_call *c = &w->call;
    size_t words = c->bytes / 8, block = i / words, within = i % words;
    switch (c->kind) {
    case RDI_ALL_REDUCE:
        return left_fold(w, block_of(c, i * 8), i);
    case RDI_REDUCE_SCATTER:
        return left_fold(w, place_of(w, r) + 1, (size_t)r * words + i);
    case RDI_REDUCE:
        return left_fold(w, place_of(w, c->root) + 1, i);
    case RDI_BROADCAST:
        return w->send[c->root][i];
    case RDI_ALL_GATHER:
        return w->send[block][within];
    default:
        return w->send[block][(size_t)r * words + within];
    }
}

static void check(struct world *w) {
    const struct rdi_gpu_call *c = &w->call;
    for (int r = 0; r < c->size; r++) {
        if (c->kind == RDI_REDUCE && r != c->root) {
            continue;
        }
        for (size_t i = 0; i < c->bytes / 8 * blocks_in(c, false); i++) {
            assert_int_equal(w->recv[r][i], expected(w, r, i));
        }
    }
    for (int k = 0; k < c->size * c->size; k++) {
        assert_int_equal(w->rings[k].produced, w->rings[k].consumed);
    }
}

static void shuffle(int *order, int n, bool numbered) {
    for (int i = 0; i < n; i++) {
        order[i] = i;
    }
    for (int i = n - 1; i > 0 && !numbered; i--) {
        int with = (int)below((unsigned)i + 1), was = order[i];
        order[i] = order[with];
        order[with] = was;
    }
}

static void one(struct rdi_gpu_call call, unsigned slots, bool numbered) {
    struct world w = {.call = call, .slots = slots};
    int n = call.size;
    shuffle(w.order, n, numbered);
    call.order = numbered ? NULL : w.order;
    size_t words = call.bytes / 8;
    w.rings = calloc((size_t)n * (size_t)n, sizeof *w.rings);
    for (int r = 0; r < n; r++) {
        call.rank = r;
        size_t ns = words * blocks_in(&call, true), nr = words * blocks_in(&call, false);
        w.send[r] = malloc((ns + 1) * 8);
        w.recv[r] = calloc(nr + 1, 8);
        for (size_t i = 0; i < ns; i++) {
            w.send[r][i] = value(r, i);
        }
        assert_true(rdi_gpu_program(&call, &w.p[r]));
    }
    run(&w);
    check(&w);
    for (int r = 0; r < n; r++) {
        free(w.p[r].moves);
        free(w.send[r]);
        free(w.recv[r]);
    }
    free(w.rings);
}

static void every_kind(bool strict, bool numbered) {
    static const enum rdi_kind kinds[] = {RDI_ALL_REDUCE, RDI_REDUCE_SCATTER, RDI_ALL_GATHER,
                                          RDI_BROADCAST,  RDI_REDUCE,         RDI_ALL_TO_ALL};
    static const uint64_t sizes[] = {0, 8, 64, 120, 512, 520, 1024, 4096, 10000, 24000};
    for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++) {
        for (int n = 1; n <= MOST; n++) {
            for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
                struct rdi_gpu_call c = {.kind = kinds[k],
                                         .size = n,
                                         .root = (int)below((unsigned)n),
                                         .strict = strict,
                                         .divide = n > 1 && kinds[k] <= RDI_REDUCE_SCATTER &&
                                                   below(2),
                                         .bytes = sizes[s],
                                         .piece = 512};
                bool pairs = c.kind == RDI_ALL_TO_ALL || (rdi_gpu_by_rank(&c) && !numbered);
                one(c, pairs ? RDI_GPU_PAIR_SLOTS : RDI_GPU_SLOTS, numbered);
            }
        }
    }
}

static void test_default_order(void **state) {
    (void)state;
    for (rng = 1; rng < 6; rng++) {
        uint64_t seed = rng;
        every_kind(false, true);
        every_kind(false, false);
        rng = seed;
    }
}

static void test_strict_order(void **state) {
    (void)state;
    rng = 99;
    every_kind(true, true);
    every_kind(true, false);
}

static void test_send_and_recv(void **state) {
    (void)state;
    struct rdi_gpu_program s = {0}, r = {0};
    struct rdi_gpu_call c = {
        .kind = RDI_SEND, .rank = 2, .size = 4, .root = 1, .bytes = 1300, .piece = 512};
    assert_true(rdi_gpu_program(&c, &s));
    c.kind = RDI_RECV;
    assert_true(rdi_gpu_program(&c, &r));
    assert_int_equal(s.n, 3);
    assert_int_equal(r.n, 3);
    for (size_t i = 0; i < 3; i++) {
        assert_int_equal(s.moves[i].out, 1);
        assert_int_equal(s.moves[i].in, -1);
        assert_int_equal(s.moves[i].local, 512 * i);
        assert_int_equal(r.moves[i].in, 1);
        assert_int_equal(r.moves[i].dst, 512 * i);
        assert_int_equal(r.moves[i].bytes, i < 2 ? 512 : 276);
    }
    free(s.moves);
    free(r.moves);
}

static void test_reach(void **state) {
    (void)state;
    char why[256];
    struct rdi_gpu_facts f = {.same_host = true,
                              .forced = "auto",
                              .why_memory = "",
                              .why_direct = "no NIC",
                              .wire = "tcp"};
    assert_int_equal(rdi_gpu_choose(&f, why, sizeof why), RDI_REACH_MEMORY);
    assert_string_equal(why, "same host, CUDA IPC");
    f.forced = "staged";
    assert_int_equal(rdi_gpu_choose(&f, why, sizeof why), RDI_REACH_STAGED);
    f.forced = "direct";
    assert_int_equal(rdi_gpu_choose(&f, why, sizeof why), RDI_REACH_NONE);
    assert_non_null(strstr(why, "no NIC"));
    f.why_direct = "";
    assert_int_equal(rdi_gpu_choose(&f, why, sizeof why), RDI_REACH_DIRECT);
    f.forced = "auto";
    f.same_host = false;
    f.why_memory = "another host";
    f.wire = "verbs";
    assert_int_equal(rdi_gpu_choose(&f, why, sizeof why), RDI_REACH_DIRECT);
    assert_non_null(strstr(why, "verbs"));
    f.why_direct = "rxe0 has no DMA-BUF";
    assert_int_equal(rdi_gpu_choose(&f, why, sizeof why), RDI_REACH_STAGED);
    assert_non_null(strstr(why, "another host"));
    assert_non_null(strstr(why, "rxe0 has no DMA-BUF"));
    f.forced = "memory";
    assert_int_equal(rdi_gpu_choose(&f, why, sizeof why), RDI_REACH_NONE);
    f.same_process = true;
    f.why_memory = "";
    f.same_device = true;
    assert_int_equal(rdi_gpu_choose(&f, why, sizeof why), RDI_REACH_MEMORY);
    assert_string_equal(why, "same process, same device");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_default_order), cmocka_unit_test(test_strict_order),
        cmocka_unit_test(test_send_and_recv), cmocka_unit_test(test_reach)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
