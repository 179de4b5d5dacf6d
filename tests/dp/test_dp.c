// SPDX-License-Identifier: MIT
// The DP layer on processors: parts of a batch, replicas, the fold, errors, threads.
#include "dp_test.h"
#include "ring/reduce.h"

#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define ok(call)                                           \
    do {                                                   \
        if ((call) != RONDO_OK)                            \
            fail_msg("%s: %s", #call, rondo_last_error()); \
    } while (0)
#define fails(call, status, words)                                                 \
    do {                                                                           \
        assert_int_equal(call, status);                                            \
        if (!strstr(rondo_last_error(), words))                                    \
            fail_msg("%s: \"%s\" lacks \"%s\"", #call, rondo_last_error(), words); \
    } while (0)

// ---- A model -------------------------------------------------------------------------------------

static const int many[] = {1, 2, 3, 4, 7};
#define MANY (sizeof many / sizeof many[0])

static void *value[DT_PARAMS];
static rondo_param params[DT_PARAMS];

static int set_up(void **state) {
    (void)state;
    for (size_t i = 0; i < DT_PARAMS; i++) {
        value[i] = malloc(dt_bytes(i));
        dt_random(value[i], dt_bytes(i), 4711 + i);
        params[i] = (rondo_param){dt_shape[i].name, value[i], dt_shape[i].count, dt_shape[i].type};
    }
    return 0;
}

static int take_down(void **state) {
    (void)state;
    for (size_t i = 0; i < DT_PARAMS; i++) {
        free(value[i]);
    }
    return 0;
}

static rondo_dp *make(int devices) {
    rondo_dp *dp = NULL;
    ok(rondo_dp_create(params, DT_PARAMS, devices, NULL, &dp));
    return dp;
}

// ---- Parts of a batch ----------------------------------------------------------------------------

// Parts follow each other, cover the batch, differ by one row at most, and are those of DDP's ranks.
static void parts(void **state) {
    static const uint64_t sizes[] = {0, 1, 2, 3, 7, 8, 9, 10, 64, 1000003, UINT64_MAX};
    (void)state;
    for (size_t s = 0; s < sizeof sizes / sizeof sizes[0]; s++) {
        for (int n = 1; n <= 12; n++) {
            uint64_t next = 0, least = UINT64_MAX, most = 0;
            for (int k = 0; k < n; k++) {
                uint64_t first, count, theirs, their_count;
                ok(rondo_dp_scatter(sizes[s], k, n, &first, &count));
                assert_true(first == next);
                next += count;
                least = count < least ? count : least;
                most = count > most ? count : most;
                if (sizes[s] < UINT64_MAX) {
                    ok(rondo_sampler_share(sizes[s], k, n, &theirs, &their_count));
                    assert_true(first == theirs && count == their_count);
                }
            }
            assert_true(next == sizes[s] && most - least <= 1);
        }
    }
    uint64_t a, b;
    fails(rondo_dp_scatter(4, 2, 2, &a, &b), RONDO_ERR_INVALID, "device 2 of 2");
    fails(rondo_dp_scatter(4, -1, 2, &a, &b), RONDO_ERR_INVALID, "device -1");
    fails(rondo_dp_scatter(4, 0, 0, &a, &b), RONDO_ERR_INVALID, "of 0");
}

struct seen {
    atomic_int calls[8];
    _Atomic uint64_t first[8], count[8];
    pthread_t thread[8];
    unsigned char *rows[8]; // what each device computed
};

enum { ROW = 24 };

static rondo_status look(rondo_dp_part *p, void *arg) {
    struct seen *s = arg;
    atomic_fetch_add(&s->calls[p->device], 1);
    s->first[p->device] = p->first;
    s->count[p->device] = p->count;
    s->thread[p->device] = pthread_self();
    for (uint64_t i = 0; s->rows[p->device] && i < p->count; i++) {
        dt_random(s->rows[p->device] + i * ROW, ROW, p->first + i);
    }
    return p->count > 0 && p->first + p->count <= p->rows ? RONDO_OK : RONDO_ERR_INTERNAL;
}

// Each device is called once with its own part, those without rows not at all; rows come back in order.
static void scatter_apply_gather(void **state) {
    (void)state;
    for (size_t m = 0; m < MANY; m++) {
        const int n = many[m];
        rondo_dp *dp = make(n);
        assert_int_equal(rondo_dp_devices(dp), n);
        for (uint64_t rows = 1; rows <= 17; rows++) {
            struct seen s = {0};
            unsigned char out[17 * ROW], want[17 * ROW];
            void *part[8];
            for (int k = 0; k < 8; k++) {
                part[k] = s.rows[k] = malloc(17 * ROW);
            }
            ok(rondo_dp_apply(dp, rows, look, &s));
            for (int k = 0; k < n; k++) {
                uint64_t first, count;
                ok(rondo_dp_scatter(rows, k, n, &first, &count));
                assert_int_equal(s.calls[k], count > 0);
                assert_true(count == 0 || (s.first[k] == first && s.count[k] == count));
            }
            for (uint64_t i = 0; i < rows; i++) {
                dt_random(want + i * ROW, ROW, i);
            }
            memset(out, 0, sizeof out);
            ok(rondo_dp_gather(dp, rows, ROW, part, out));
            assert_memory_equal(out, want, rows * ROW);
            for (int k = 0; k < 8; k++) {
                free(part[k]);
            }
        }
        ok(rondo_dp_destroy(dp));
    }
}

// ---- Replicas, gradients -------------------------------------------------------------------------

static void replicas(void **state) {
    (void)state;
    for (size_t m = 0; m < MANY; m++) {
        rondo_dp *dp = make(many[m]);
        for (int round = 0; round < 2; round++) {
            for (size_t i = 0; i < DT_PARAMS; i++) {
                dt_random(value[i], dt_bytes(i), (uint64_t)round * 100 + i);
            }
            ok(rondo_dp_replicate(dp));
            for (int k = 0; k < many[m]; k++) {
                for (size_t i = 0; i < DT_PARAMS; i++) {
                    void *p = rondo_dp_param(dp, k, i);
                    assert_true((p == value[i]) == (k == 0));
                    assert_memory_equal(p, value[i], dt_bytes(i));
                }
            }
        }
        assert_null(rondo_dp_param(dp, many[m], 0));
        assert_null(rondo_dp_param(dp, 0, DT_PARAMS));
        assert_null(rondo_dp_grad(dp, -1, 0));
        assert_null(rondo_dp_device_name(dp, many[m]));
        assert_non_null(strstr(rondo_dp_device_name(dp, 0), "processors "));
        ok(rondo_dp_destroy(dp));
    }
}

struct pass {
    uint64_t seed;
};

static rondo_status write_gradients(rondo_dp_part *p, void *arg) {
    const struct pass *pass = arg;
    for (size_t i = 0; i < DT_PARAMS; i++) {
        dt_gradient(rondo_dp_grad(p->dp, p->device, i), p->device, i, pass->seed);
    }
    return RONDO_OK;
}

// The left fold over `n` devices, rounded after every addition, one element at a time.
static void fold(void *to, int n, size_t i, uint64_t seed) {
    const size_t size = rondo_type_size(dt_shape[i].type);
    unsigned char *other = malloc(dt_bytes(i)), *sum = to;
    dt_gradient(sum, 0, i, seed);
    for (int k = 1; k < n; k++) {
        dt_gradient(other, k, i, seed);
        for (size_t e = 0; e < dt_shape[i].count; e++) {
            rdi_reduce2(sum + e * size, sum + e * size, other + e * size, 1, dt_shape[i].type,
                        RONDO_SUM);
        }
    }
    free(other);
}

static void compare(const rondo_dp *dp, int n, uint64_t seed) {
    for (size_t i = 0; i < DT_PARAMS; i++) {
        unsigned char *want = malloc(dt_bytes(i));
        fold(want, n, i, seed);
        assert_memory_equal(rondo_dp_grad(dp, 0, i), want, dt_bytes(i));
        // The others' stay as they were.
        for (int k = 1; k < n; k++) {
            dt_gradient(want, k, i, seed);
            assert_memory_equal(rondo_dp_grad(dp, k, i), want, dt_bytes(i));
        }
        free(want);
    }
}

// Bits of the fold, also where the batch has fewer rows than devices: those without have no part in it.
static void reduction(void **state) {
    (void)state;
    for (size_t m = 0; m < MANY; m++) {
        const int n = many[m];
        rondo_dp *dp = make(n);
        for (uint64_t rows = 1; rows <= 9; rows++) {
            struct pass pass = {.seed = rows};
            struct seen seen = {0};
            ok(rondo_dp_apply(dp, 9, look, &seen)); // an evaluation, on all devices
            ok(rondo_dp_step(dp, rows, write_gradients, &pass));
            compare(dp, rows < (uint64_t)n ? (int)rows : n, rows);
        }
        rondo_dp_stats s = {.size = sizeof s};
        ok(rondo_dp_get_stats(dp, &s));
        assert_true(s.passes == 18 && s.reductions == 9 && s.replications == 9);
        assert_true(s.applying > 0 && (n == 1) == (s.bytes_replicated == 0));
        fails(rondo_dp_reduce(dp), RONDO_ERR_USAGE, "no device had rows");
        ok(rondo_dp_zero_grad(dp));
        for (int k = 0; k < n; k++) {
            for (size_t i = 0; i < DT_PARAMS; i++) {
                const unsigned char *g = rondo_dp_grad(dp, k, i);
                for (size_t b = 0; b < dt_bytes(i); b++) {
                    assert_int_equal(g[b], 0);
                }
            }
        }
        ok(rondo_dp_destroy(dp));
    }
}

static rondo_status accumulate(rondo_dp_part *p, void *arg) {
    float *g = rondo_dp_grad(p->dp, p->device, 1);
    (void)arg;
    for (uint64_t r = p->first; r < p->first + p->count; r++) {
        g[r % 100] += (float)(r + 1);
    }
    return RONDO_OK;
}

// Two passes and one reduction; the second one has rows for one device only.
static void accumulation(void **state) {
    (void)state;
    rondo_dp *dp = make(3);
    ok(rondo_dp_apply(dp, 9, accumulate, NULL));
    ok(rondo_dp_zero_grad(dp));
    fails(rondo_dp_reduce(dp), RONDO_ERR_USAGE, "no device had rows");
    ok(rondo_dp_apply(dp, 30, accumulate, NULL));
    ok(rondo_dp_apply(dp, 1, accumulate, NULL));
    ok(rondo_dp_reduce(dp));
    const float *g = rondo_dp_grad(dp, 0, 1);
    for (int r = 0; r < 30; r++) {
        assert_true(g[r] == (float)(r + 1) * (r == 0 ? 2.0f : 1.0f));
    }
    ok(rondo_dp_destroy(dp));
}

// ---- Threads -------------------------------------------------------------------------------------

// Each device has its own thread for as long as the object lives, bound to its processors; one device has none.
static rondo_status bound(rondo_dp_part *p, void *arg) {
    cpu_set_t set;
    char list[64];
    (void)look(p, arg);
    if (sched_getaffinity(0, sizeof set, &set) != 0) {
        return RONDO_ERR_SYSTEM;
    }
    snprintf(list, sizeof list, "processors %d", sched_getcpu());
    return CPU_COUNT(&set) == 1 && strcmp(list, rondo_dp_device_name(p->dp, p->device)) == 0
               ? RONDO_OK
               : RONDO_ERR_INTERNAL;
}

static void threads(void **state) {
    cpu_set_t set;
    char name[3][16];
    const char *cpus[3];
    unsigned at = 0;
    (void)state;
    assert_int_equal(sched_getaffinity(0, sizeof set, &set), 0);
    for (int k = 0; k < 3; k++) { // again and again, if there are fewer
        do {
            at = (at + 1) % CPU_SETSIZE;
        } while (!CPU_ISSET(at, &set));
        snprintf(name[k], sizeof name[k], "%u", at);
        cpus[k] = name[k];
    }
    rondo_dp_options o = RONDO_DP_OPTIONS_INIT;
    o.cpus = cpus;
    rondo_dp *dp;
    struct seen a = {0}, b = {0};
    ok(rondo_dp_create(params, DT_PARAMS, 3, &o, &dp));
    ok(rondo_dp_apply(dp, 3, bound, &a));
    ok(rondo_dp_apply(dp, 3, bound, &b));
    for (int k = 0; k < 3; k++) {
        assert_true(pthread_equal(a.thread[k], b.thread[k]));
        assert_false(pthread_equal(a.thread[k], pthread_self()));
        assert_false(pthread_equal(a.thread[k], a.thread[(k + 1) % 3]));
    }
    ok(rondo_dp_destroy(dp));
    dp = make(1);
    ok(rondo_dp_apply(dp, 3, look, &a));
    assert_true(pthread_equal(a.thread[0], pthread_self()));
    ok(rondo_dp_destroy(dp));
}

// ---- Errors --------------------------------------------------------------------------------------

static rondo_status fail_some(rondo_dp_part *p, void *arg) {
    const unsigned which = *(const unsigned *)arg;
    if (p->device == 1) {
        usleep(20000); // not the first in time, but by number
    }
    if (which >> p->device & 1) {
        if (p->device != 3) {
            snprintf(p->why, sizeof p->why, "row %llu is bad", (unsigned long long)p->first);
        }
        return p->device == 2 ? RONDO_ERR_SYSTEM : RONDO_ERR_UNSUPPORTED;
    }
    return RONDO_OK;
}

static rondo_status fail_inside(rondo_dp_part *p, void *arg) {
    uint64_t a;
    (void)p;
    (void)arg;
    return rondo_dp_scatter(1, 5, 3, &a, &a);
}

static rondo_status call_back(rondo_dp_part *p, void *arg) {
    (void)arg;
    return rondo_dp_replicate(p->dp);
}

static void failing(void **state) {
    unsigned which = 1 << 1 | 1 << 2 | 1 << 3;
    (void)state;
    rondo_dp *dp = make(4);
    fails(rondo_dp_apply(dp, 10, fail_some, &which), RONDO_ERR_UNSUPPORTED,
          "device 1 (processors ");
    fails(rondo_dp_apply(dp, 10, fail_some, &which), RONDO_ERR_UNSUPPORTED,
          "rows 3 to 5: row 3 is bad (2 other devices failed, too)");
    which = 1 << 2 | 1 << 3;
    fails(rondo_dp_apply(dp, 10, fail_some, &which), RONDO_ERR_SYSTEM,
          "rows 6 to 7: row 6 is bad (1 other device failed, too)");
    which = 1 << 3;
    fails(rondo_dp_step(dp, 10, fail_some, &which), RONDO_ERR_UNSUPPORTED,
          rondo_status_string(RONDO_ERR_UNSUPPORTED));
    fails(rondo_dp_apply(dp, 10, fail_inside, NULL), RONDO_ERR_INVALID, "device 5 of 3");
    fails(rondo_dp_apply(dp, 10, call_back, NULL), RONDO_ERR_USAGE, "under way");
    // What failed does not count, and the object goes on working.
    fails(rondo_dp_reduce(dp), RONDO_ERR_USAGE, "no device had rows");
    struct pass pass = {.seed = 3};
    ok(rondo_dp_step(dp, 10, write_gradients, &pass));
    compare(dp, 4, 3);
    fails(rondo_dp_apply(dp, 0, look, NULL), RONDO_ERR_INVALID, "0 rows");
    fails(rondo_dp_apply(dp, 1, NULL, NULL), RONDO_ERR_INVALID, "NULL");
    void *none[4] = {0};
    fails(rondo_dp_gather(dp, 2, 4, none, none), RONDO_ERR_INVALID, "parts[0]");
    fails(rondo_dp_gather(dp, UINT64_MAX, 4, none, none), RONDO_ERR_INVALID, "rows of 4 bytes");
    ok(rondo_dp_destroy(dp));
    dp = make(1);
    which = 1;
    fails(rondo_dp_apply(dp, 10, fail_some, &which), RONDO_ERR_UNSUPPORTED, "rows 0 to 9");
    ok(rondo_dp_destroy(dp));
    ok(rondo_dp_destroy(NULL));
}

static void wrong_arguments(void **state) {
    rondo_dp *dp = NULL;
    rondo_dp_options o = RONDO_DP_OPTIONS_INIT;
    rondo_param p = params[0];
    (void)state;
    fails(rondo_dp_create(NULL, 1, 1, NULL, &dp), RONDO_ERR_INVALID, "NULL");
    fails(rondo_dp_create(params, 0, 1, NULL, &dp), RONDO_ERR_INVALID, "no parameter");
    fails(rondo_dp_create(params, DT_PARAMS, 0, NULL, &dp), RONDO_ERR_INVALID, "0 devices");
    fails(rondo_dp_create(params, DT_PARAMS, 65, NULL, &dp), RONDO_ERR_INVALID, "1 to 64");
    o.size = 4;
    fails(rondo_dp_create(params, DT_PARAMS, 1, &o, &dp), RONDO_ERR_INVALID, "INIT");
    p.type = RONDO_I32;
    fails(rondo_dp_create(&p, 1, 1, NULL, &dp), RONDO_ERR_INVALID, "parameter 0 (\"a\")");
    p = params[0];
    p.count = SIZE_MAX / 2;
    fails(rondo_dp_create(&p, 1, 1, NULL, &dp), RONDO_ERR_INVALID, "more than memory");
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__) // they end the program instead
    p.count = (size_t)1 << 60;                                      // fits a size, but no memory
    fails(rondo_dp_create(&p, 1, 2, NULL, &dp), RONDO_ERR_NOMEM, "gradients on device 0");
#endif
    const char *lists[2] = {"0", "x"};
    o = (rondo_dp_options)RONDO_DP_OPTIONS_INIT;
    o.cpus = lists;
    fails(rondo_dp_create(params, DT_PARAMS, 2, &o, &dp), RONDO_ERR_INVALID, "options.cpus[1]");
    lists[1] = "8191";
    fails(rondo_dp_create(params, DT_PARAMS, 2, &o, &dp), RONDO_ERR_INVALID, "is not within");
    assert_null(dp);
}

// A child may not use what its parent has, nor wait for threads that it does not have.
static void forked(void **state) {
    (void)state;
    rondo_dp *dp = make(3);
    pid_t child = fork();
    if (child == 0) {
        bool all = rondo_dp_replicate(dp) == RONDO_ERR_FORKED &&
                   rondo_dp_apply(dp, 1, look, NULL) == RONDO_ERR_FORKED &&
                   rondo_dp_reduce(dp) == RONDO_ERR_FORKED &&
                   rondo_dp_destroy(dp) == RONDO_ERR_FORKED;
        _exit(all ? 0 : 1);
    }
    int status = -1;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    struct pass pass = {.seed = 9};
    ok(rondo_dp_step(dp, 3, write_gradients, &pass));
    compare(dp, 3, 9);
    ok(rondo_dp_destroy(dp));
}

// Many short rounds: a thread that misses one, or does one twice, is seen.
static void rounds(void **state) {
    struct seen s = {0};
    (void)state;
    rondo_dp *dp = make(4);
    for (int i = 0; i < 2000; i++) {
        ok(rondo_dp_apply(dp, 1 + (uint64_t)i % 4, look, &s));
    }
    for (int k = 0; k < 4; k++) {
        assert_int_equal(s.calls[k], 2000 - 500 * k);
    }
    ok(rondo_dp_destroy(dp));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(parts),        cmocka_unit_test(scatter_apply_gather),
        cmocka_unit_test(replicas),     cmocka_unit_test(reduction),
        cmocka_unit_test(accumulation), cmocka_unit_test(threads),
        cmocka_unit_test(failing),      cmocka_unit_test(wrong_arguments),
        cmocka_unit_test(forked),       cmocka_unit_test(rounds),
    };
    return cmocka_run_group_tests(tests, set_up, take_down);
}
