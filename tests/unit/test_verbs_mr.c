// SPDX-License-Identifier: MIT
// The cache of registrations: what is found again, and what must never be.
#include "transport/mem.h"
#include "verbs_mock.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <sys/mman.h>
#include <cmocka.h>

static struct rdi_ibv v;

static struct rdi_verbs_rail rail(void) {
    struct rdi_verbs_rail r;
    struct rdi_verbs_port *p;
    size_t n;
    v = mock_ibv();
    struct rdi_options o = mock_options("");
    assert_int_equal(rdi_verbs_ports(&v, &p, &n), RONDO_OK);
    assert_int_equal(rdi_verbs_rail_open(&r, &v, &p[0], &o), RONDO_OK);
    free(p);
    return r;
}

static void done(struct rdi_verbs_rail *r) {
    rdi_verbs_rail_close(r);
    assert_true(mock_is_clean());
}

static char *alloc(size_t bytes) {
    void *at;
    assert_int_equal(rondo_mem_alloc(bytes, &at), RONDO_OK);
    return at;
}

// Gets and gives back.
static struct ibv_mr *touch(struct rdi_verbs_rail *r, const void *at, size_t len) {
    struct rdi_verbs_mr *held;
    struct ibv_mr *mr = rdi_verbs_mr_get(r, at, len, &held);
    if (mr != NULL) {
        assert_true((char *)mr->addr <= (const char *)at &&
                    (char *)mr->addr + mr->length >= (const char *)at + len);
        rdi_verbs_mr_put(r, held);
    }
    return mr;
}

static char own[10000];

static void test_region(void **state) {
    (void)state;
    char *a = alloc(8192);
    void *start;
    size_t bytes;
    uint64_t id, id2, frees = rdi_mem_frees();
    assert_true(rdi_mem_region(a + 5000, 3192, &start, &bytes, &id));
    assert_true(start == a && bytes == 8192);
    assert_false(rdi_mem_region(a + 5000, 3193, &start, &bytes, &id));
    assert_false(rdi_mem_region(own, 1, &start, &bytes, &id));
    assert_int_equal(rondo_mem_register(own, 1000), RONDO_OK);
    assert_int_equal(rondo_mem_register(own, 1000), RONDO_OK);
    assert_true(rdi_mem_region(own + 10, 990, &start, &bytes, &id2));
    assert_true(start == own && bytes == 1000 && id2 != id && rdi_mem_alive(id2));
    assert_int_equal(rondo_mem_unregister(own), RONDO_OK);
    assert_true(rdi_mem_alive(id2) && rdi_mem_frees() == frees);
    assert_int_equal(rondo_mem_unregister(own), RONDO_OK);
    assert_true(!rdi_mem_alive(id2) && rdi_mem_frees() == frees + 1);
    assert_int_equal(rondo_mem_register(own, 1000), RONDO_OK);
    assert_true(rdi_mem_region(own, 1, &start, &bytes, &id));
    assert_true(id > id2); // never used again
    assert_int_equal(rondo_mem_unregister(own), RONDO_OK);
    rondo_mem_free(a);
}

static void test_found_again(void **state) {
    (void)state;
    struct rdi_verbs_rail r = rail();
    char *a = alloc(100000), *b = alloc(100000);
    struct ibv_mr *mr = touch(&r, a + 50, 10);
    assert_non_null(mr);
    assert_true(mr->addr == a && mr->length >= 100000);
    assert_int_equal(mock.last_access & ~IBV_ACCESS_RELAXED_ORDERING, 0); // nobody may write there
    assert_ptr_equal(touch(&r, a + 99000, 1000), mr);
    assert_ptr_not_equal(touch(&r, b, 1), mr);
    assert_ptr_equal(touch(&r, a, 1), mr);
    assert_int_equal(mock.registrations, 2);
    assert_null(touch(&r, own, 1));
    assert_null(touch(&r, a, 0));
    assert_null(touch(&r, a - 1, 2));
    assert_null(touch(&r, a, 1 << 20));
    assert_null(touch(&r, a, SIZE_MAX));
    assert_int_equal(mock.registrations, 2);
    rondo_mem_free(a);
    rondo_mem_free(b);
    done(&r);
}

static void test_registered_range(void **state) {
    (void)state;
    struct rdi_verbs_rail r = rail();
    assert_int_equal(rondo_mem_register(own, 5000), RONDO_OK);
    struct ibv_mr *mr = touch(&r, own + 100, 100);
    assert_true(mr != NULL && mr->addr == own && mr->length == 5000);
    assert_null(touch(&r, own, 5001));
    assert_int_equal(rondo_mem_unregister(own), RONDO_OK);
    assert_null(touch(&r, own + 100, 100));
    assert_int_equal(mock.mrs, 0);
    done(&r);
}

// Memory that was freed and mapped anew at the same place is other memory.
static void test_remapped(void **state) {
    (void)state;
    struct rdi_verbs_rail r = rail();
    char *at = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_ptr_not_equal(at, MAP_FAILED);
    assert_int_equal(rondo_mem_register(at, 8192), RONDO_OK);
    assert_non_null(touch(&r, at, 8192));
    assert_int_equal(rondo_mem_unregister(at), RONDO_OK);
    assert_ptr_equal(
        mmap(at, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0), at);
    assert_int_equal(rondo_mem_register(at, 8192), RONDO_OK);
    assert_non_null(touch(&r, at, 8192));
    assert_int_equal(mock.registrations, 2);
    assert_int_equal(mock.mrs, 1);
    rondo_mem_unregister(at);
    munmap(at, 8192);
    rdi_verbs_mr_sweep(&r);
    assert_int_equal(mock.mrs, 0);
    done(&r);
}

// What is held outlives its memory's registration, and goes with the last put().
static void test_held(void **state) {
    (void)state;
    struct rdi_verbs_rail r = rail();
    struct rdi_verbs_mr *one, *two, *other;
    assert_int_equal(rondo_mem_register(own, 5000), RONDO_OK);
    assert_int_equal(rondo_mem_register(own + 5000, 5000), RONDO_OK);
    struct ibv_mr *mr = rdi_verbs_mr_get(&r, own, 10, &one);
    assert_ptr_equal(rdi_verbs_mr_get(&r, own, 20, &two), mr);
    assert_non_null(rdi_verbs_mr_get(&r, own + 6000, 20, &other));
    assert_int_equal(rondo_mem_unregister(own), RONDO_OK);
    assert_int_equal(rondo_mem_unregister(own + 5000), RONDO_OK);
    rdi_verbs_mr_sweep(&r);
    assert_int_equal(mock.mrs, 2);
    assert_null(touch(&r, own, 10)); // not for new messages
    rdi_verbs_mr_put(&r, one);
    assert_int_equal(mock.mrs, 2);
    rdi_verbs_mr_put(&r, two);
    assert_int_equal(mock.mrs, 1);
    rdi_verbs_mr_put(&r, other);
    assert_int_equal(mock.mrs, 0);
    done(&r);
}

static void test_refused(void **state) {
    (void)state;
    struct rdi_verbs_rail r = rail();
    char *a = alloc(4096);
    mock.reg_errno = EFAULT;
    assert_null(touch(&r, a, 10));
    assert_null(touch(&r, a + 10, 10));
    assert_int_equal(mock.registrations, 1); // asked once, not for each message
    mock.reg_errno = 0;
    rondo_mem_free(a);
    a = alloc(4096);
    assert_non_null(touch(&r, a, 10));
    rondo_mem_free(a);
    done(&r);
}

#define MANY 1100

static void test_many(void **state) {
    (void)state;
    static char memory[MANY * 8];
    static struct rdi_verbs_mr *held[MANY];
    struct rdi_verbs_rail r = rail();
    for (int i = 0; i < MANY; i++) {
        assert_int_equal(rondo_mem_register(memory + 8 * i, 8), RONDO_OK);
        assert_non_null(touch(&r, memory + 8 * i, 8));
    }
    assert_int_equal(mock.mrs, 1024);
    int before = mock.registrations;
    assert_non_null(touch(&r, memory + 8 * (MANY - 1), 8));
    assert_int_equal(mock.registrations, before);
    assert_non_null(touch(&r, memory, 8)); // the oldest had gone
    assert_int_equal(mock.registrations, before + 1);
    // When all are in use, the next one is copied.
    int n = 0;
    while (n < MANY && rdi_verbs_mr_get(&r, memory + 8 * n, 8, &held[n]) != NULL) {
        n++;
    }
    assert_int_equal(n, 1024);
    assert_int_equal(mock.mrs, 1024);
    rdi_verbs_mr_put(&r, held[5]);
    assert_non_null(rdi_verbs_mr_get(&r, memory + 8 * n, 8, &held[5]));
    for (int i = 0; i < n; i++) {
        rdi_verbs_mr_put(&r, held[i]);
    }
    for (int i = 0; i < MANY; i++) {
        assert_int_equal(rondo_mem_unregister(memory + 8 * i), RONDO_OK);
    }
    done(&r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_region),
        cmocka_unit_test(test_found_again),
        cmocka_unit_test(test_registered_range),
        cmocka_unit_test(test_remapped),
        cmocka_unit_test(test_held),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_many),
    };
    return cmocka_run_group_tests_name("verbs_mr", tests, NULL, NULL);
}
