// SPDX-License-Identifier: MIT
// Copying into slots: both ways copy exactly the bytes, and the choice between them follows what the memory
// costs, at a small price, and is not upset by copies that were interrupted.
#include "transport/shm/copy.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <cmocka.h>

#define WARM_UP 8

static void test_bytes(void **state) {
    (void)state;
    enum { N = 1000 };
    static _Alignas(64) uint8_t to[N + 64];
    static uint8_t from[N + 64];
    for (size_t i = 0; i < sizeof from; i++) {
        from[i] = (uint8_t)(i * 37 + (i >> 8));
    }
    for (int how = SHM_COPY_PLAIN; how <= SHM_COPY_STREAM; how++) {
        for (size_t n = 0; n <= N; n += n < 200 ? 1 : 37) {
            for (size_t shift = 0; shift < 20; shift += 3) {
                memset(to, 0xee, sizeof to);
                shm_copy((enum shm_copy)how, to + 16, from + shift, n);
                assert_memory_equal(to + 16, from + shift, n);
                for (size_t k = 0; k < 16; k++) {
                    assert_int_equal(to[k], 0xee);
                    assert_int_equal(to[16 + n + k], 0xee);
                }
            }
        }
    }
}

// A memory with given costs in ns per KiB; returns what all copies cost together.
struct memory {
    uint64_t cost[2];
    unsigned copies[2];
};

static uint64_t use(struct shm_copier *c, struct memory *m, unsigned copies,
                    unsigned interrupt_every) {
    uint64_t total = 0;
    for (unsigned i = 1; i <= copies; i++) {
        bool timed;
        enum shm_copy how = shm_copy_choose(c, 65536, WARM_UP, &timed);
        uint64_t ns = 64 * m->cost[how];
        if (interrupt_every != 0 && i % interrupt_every == 0) {
            ns += 4000000; // somebody else had the processor
        } else {
            total += ns;
        }
        m->copies[how]++;
        if (timed) {
            shm_copy_learn(c, how, 65536, ns);
        }
    }
    return total;
}

#ifdef __SSE2__
static void test_near(void **state) {
    (void)state;
    struct shm_copier c = {.n = 0};
    struct memory m = {
        .cost = {25, 21}}; // as measured: streaming is a little faster for the copier
    use(&c, &m, 10000, 0);
    assert_int_equal(c.how, SHM_COPY_PLAIN);
    assert_true(m.copies[SHM_COPY_STREAM] < 30);
}

static void test_far(void **state) {
    (void)state;
    struct shm_copier c = {.n = 0};
    struct memory m = {.cost = {500, 21}};
    use(&c, &m, WARM_UP + 4, 0);
    assert_int_equal(c.how, SHM_COPY_STREAM); // at once
    m.copies[SHM_COPY_PLAIN] = 0;
    uint64_t total = use(&c, &m, 10240, 0);
    assert_in_range(m.copies[SHM_COPY_PLAIN], 1, 20); // it still looks whether that has changed
    assert_true(total < 10240ull * 64 * 21 * 11 / 10);
}

// The machine changes under us, to and fro.
static void test_change(void **state) {
    (void)state;
    struct shm_copier c = {.n = 0};
    struct memory near = {.cost = {25, 21}}, far = {.cost = {500, 21}};
    for (int i = 0; i < 5; i++) {
        use(&c, &near, 1100, 0);
        assert_int_equal(c.how, SHM_COPY_PLAIN);
        use(&c, &far, 100, 0);
        assert_int_equal(c.how, SHM_COPY_STREAM);
    }
}

static void test_interrupted(void **state) {
    (void)state;
    static const unsigned every[] = {3, 5, 7, 13};
    for (unsigned i = 0; i < 4; i++) {
        struct shm_copier c = {.n = 0};
        struct memory near = {.cost = {25, 21}}, far = {.cost = {500, 21}};
        use(&c, &near, 20000, every[i]);
        assert_true(near.copies[SHM_COPY_STREAM] < 5000);
        memset(&c, 0, sizeof c);
        use(&c, &far, 20000, every[i]);
        assert_true(far.copies[SHM_COPY_PLAIN] < 5000);
    }
}
#endif

// Short copies are not timed, and processors without streaming stores never choose them.
static void test_untimed(void **state) {
    (void)state;
    struct shm_copier c = {.n = 0};
    for (int i = 0; i < 1000; i++) {
        bool timed;
        assert_int_equal(shm_copy_choose(&c, 2000, WARM_UP, &timed), SHM_COPY_PLAIN);
        assert_false(timed);
    }
    assert_int_equal(c.n, 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bytes),
#ifdef __SSE2__
        cmocka_unit_test(test_near),    cmocka_unit_test(test_far),
        cmocka_unit_test(test_change),  cmocka_unit_test(test_interrupted),
#endif
        cmocka_unit_test(test_untimed),
    };
    return cmocka_run_group_tests_name("shm_copy", tests, NULL, NULL);
}
