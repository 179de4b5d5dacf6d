// SPDX-License-Identifier: MIT
// The walk of ring/cuda/body.h with threads for blocks: the order of steps, *done as another thread sees it, flags that
// come late, poison.
#include <math.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/unit/gpu_pieces.h"

static void rdi_pause(uint32_t *ns) { usleep(*ns / 1000 + 1); }

enum { STEPS = 60, COUNT = 500, MOST_BLOCKS = 5 };

// A chain of sums: step k adds `arrived[k]` to what step k - 1 left in one of two buffers, and sends it on.
struct job {
    struct rdi_gpu_step steps[STEPS];
    struct rdi_walk walk;
    uint32_t in_flag, out_flag, done, arrive;
    float arrived[STEPS][COUNT], sums[2][COUNT], sent[STEPS][COUNT];
    atomic_uint shares; // of steps that blocks did
    uint32_t fed;       // steps that are allowed; then poison comes
    _Atomic bool stop;
    _Atomic bool poisoned; // set before: from then on a step may be done with nothing in it
    uint32_t went_back;
};

static void *block(void *arg) {
    static atomic_uint next;
    struct job *j = arg;
    const uint32_t b = atomic_fetch_add(&next, 1) % j->walk.blocks;
    bool alive = true;
    for (uint32_t k = 0; k < j->walk.n; k++) {
        alive = rdi_walk_before(&j->walk, k, j->steps[k], alive);
        if (alive) {
            pieces[RONDO_SUM][RONDO_F32](rdi_piece_of(j->steps[k], b, j->walk.blocks));
            atomic_fetch_add(&j->shares, 1);
        }
        rdi_walk_after(&j->walk, k);
    }
    return NULL;
}

// Looks at *done all the time; what it tells must be there, and it never goes back.
static void *watch(void *arg) {
    struct job *j = arg;
    for (uint32_t seen = 0; !atomic_load(&j->stop);) {
        const uint32_t now = __atomic_load_n(&j->done, __ATOMIC_ACQUIRE);
        const bool whole = !atomic_load(&j->poisoned);
        j->went_back += now < seen;
        for (; whole && seen < now && seen < j->fed; seen++) {
            j->went_back += j->sent[seen][COUNT - 2] == 0;
        }
        seen = now;
        usleep(1);
    }
    return NULL;
}

static struct job *new_job(uint32_t blocks, bool early) {
    struct job *j = calloc(1, sizeof *j);
    assert_non_null(j);
    for (uint32_t k = 0; k < STEPS; k++) {
        for (size_t i = 0; i < COUNT; i++) {
            j->arrived[k][i] = (float)(k + 1 + i % 7);
        }
        j->steps[k] = (struct rdi_gpu_step){
            .in = address_of(j->arrived[k]),
            .local = early ? address_of(j->arrived[k]) : address_of(j->sums[k % 2]),
            .dst = early ? 0 : address_of(j->sums[(k + 1) % 2]),
            .out = address_of(j->sent[k]),
            .bytes = sizeof j->sent[k],
            .in_flag = address_of(&j->in_flag),
            .in_value = k + 1,
            .out_flag = k % 3 ? address_of(&j->out_flag) : 0,
            .out_value = k,
            .flags = early ? RDI_STEP_EARLY : 0,
        };
        // Another cut of the chunks for each: who computes an element is not who computed it before.
        if (k % 2) {
            j->steps[k].bytes -= 4;
        }
    }
    j->walk = (struct rdi_walk){address_of(&j->done), address_of(&j->arrive), STEPS, blocks};
    return j;
}

static void feed(uint32_t *flag, uint32_t value) {
    __atomic_store_n(flag, value, __ATOMIC_RELEASE);
}

static void run(struct job *j, uint32_t fed) {
    pthread_t blocks[MOST_BLOCKS], watcher;
    j->fed = fed;
    assert_int_equal(pthread_create(&watcher, NULL, watch, j), 0);
    for (uint32_t b = 0; b < j->walk.blocks; b++) {
        assert_int_equal(pthread_create(&blocks[b], NULL, block, j), 0);
    }
    uint64_t seed = j->walk.blocks;
    for (uint32_t in = 0, out = 0; in < fed || out < fed;) {
        const uint64_t r = next_random(&seed);
        in += in < fed && r & 1 ? 1 + (uint32_t)(r >> 8) % 2 : 0;
        out += out < fed && r & 2 ? 1 : 0;
        feed(&j->in_flag, in < fed ? in : fed);
        feed(&j->out_flag, out);
        usleep((useconds_t)(r >> 16 & 127));
    }
    if (fed < STEPS) {
        atomic_store(&j->poisoned, true);
        feed(&j->in_flag, RDI_STEP_POISON);
        feed(&j->out_flag, RDI_STEP_POISON);
    }
    for (uint32_t b = 0; b < j->walk.blocks; b++) {
        pthread_join(blocks[b], NULL);
    }
    atomic_store(&j->stop, true);
    pthread_join(watcher, NULL);
    assert_int_equal(j->done, STEPS);
    assert_int_equal(j->arrive, 0);
    assert_int_equal(j->went_back, 0);
}

static void test_in_order(void **state) {
    (void)state;
    for (uint32_t blocks = 1; blocks <= MOST_BLOCKS; blocks += 2) {
        struct job *j = new_job(blocks, false);
        float sum[COUNT] = {0};
        run(j, STEPS);
        assert_int_equal(j->shares, STEPS * blocks);
        // The last element takes part in every other step only, each time from the same of the two buffers.
        for (uint32_t k = 0; k < STEPS; k++) {
            for (size_t i = 0; i + 1 < COUNT; i++) {
                sum[i] += j->arrived[k][i];
                assert_true(j->sent[k][i] == sum[i]);
            }
        }
        free(j);
    }
}

static void test_early(void **state) {
    (void)state;
    struct job *j = new_job(4, true);
    run(j, STEPS);
    assert_int_equal(j->shares, STEPS * 4);
    for (uint32_t k = 0; k < STEPS; k++) {
        for (size_t i = 0; i + 1 < COUNT; i++) {
            assert_true(j->sent[k][i] == 2 * j->arrived[k][i]);
        }
    }
    free(j);
}

static void test_poison(void **state) {
    (void)state;
    for (uint32_t fed = 0; fed < STEPS; fed += 29) {
        struct job *j = new_job(3, fed & 1);
        run(j, fed);
        assert_true(j->shares <= 3 * fed + 3);
        free(j);
    }
}

// Flags may wrap: "not before" is a difference of less than 2^31.
static void test_wrapping_flag(void **state) {
    (void)state;
    uint32_t flag = 2;
    assert_true(rdi_wait_flag(address_of(&flag), 0xfffffff0u));
    assert_true(rdi_wait_flag(0, 7));
    flag = RDI_STEP_POISON;
    assert_false(rdi_wait_flag(address_of(&flag), 0));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_in_order),
        cmocka_unit_test(test_early),
        cmocka_unit_test(test_poison),
        cmocka_unit_test(test_wrapping_flag),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
