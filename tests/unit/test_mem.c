// SPDX-License-Identifier: MIT
// Memory functions: blocks, registrations, holds; the interval table against a model; memory files that come
// from elsewhere; and every limit that an allocation can meet.
#include "transport/mem.h"
#include "transport/memfile.h"
#include "transport/regcache.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/mempolicy.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
#define SANITIZED 1
#else
#define SANITIZED 0
#endif

static uint8_t *alloc(size_t bytes) {
    void *at = NULL;
    assert_int_equal(rondo_mem_alloc(bytes, &at), RONDO_OK);
    assert_non_null(at);
    return at;
}

// ---- Blocks --------------------------------------------------------------------------------------

static void test_alloc(void **state) {
    (void)state;
    const size_t sizes[] = {0, 1, 4095, 4096, 4097, 3 << 20};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        uint8_t *at = alloc(sizes[i]);
        assert_int_equal((uintptr_t)at % 4096, 0);
        for (size_t k = 0; k < sizes[i]; k++) {
            assert_int_equal(at[k], 0);
        }
        memset(at, 0xab, sizes[i]);
        assert_int_equal(rondo_mem_free(at), RONDO_OK);
    }
    assert_int_equal(rondo_mem_free(NULL), RONDO_OK);
    assert_int_equal(rondo_mem_alloc(1, NULL), RONDO_ERR_INVALID);
}

static void test_free_twice(void **state) {
    (void)state;
    uint8_t *at = alloc(8192);
    assert_int_equal(rondo_mem_free(at + 1), RONDO_ERR_USAGE);
    assert_int_equal(rondo_mem_free(at), RONDO_OK);
    assert_int_equal(rondo_mem_free(at), RONDO_ERR_USAGE);
    assert_non_null(strstr(rondo_last_error(), "freed before"));
}

static void test_find(void **state) {
    (void)state;
    uint8_t *a = alloc(8192), *b = alloc(100);
    int fd = -1, fd2 = -1;
    uint64_t id, id2, offset, bytes;
    assert_true(rdi_mem_find(a, 8192, &fd, &id, &offset, &bytes));
    assert_int_equal(offset, 0);
    assert_int_equal(bytes, 8192);
    assert_true(rdi_mem_find(a + 5000, 3192, &fd, &id, &offset, &bytes));
    assert_int_equal(offset, 5000);
    assert_false(rdi_mem_find(a + 5000, 3193, &fd, &id, &offset, &bytes));
    assert_false(rdi_mem_find(a - 1, 2, &fd, &id, &offset, &bytes)); // another block may lie there
    assert_false(rdi_mem_find(&id, 8, &fd, &id, &offset, &bytes));
    assert_false(rdi_mem_find(a, SIZE_MAX - 10, &fd, &id, &offset, &bytes));
    assert_true(rdi_mem_find(b, 100, &fd2, &id2, &offset, &bytes));
    assert_int_not_equal(id, id2);
    // The descriptor is the block.
    a[5000] = 77;
    uint8_t byte;
    assert_int_equal(pread(fd, &byte, 1, 5000), 1);
    assert_int_equal(byte, 77);
    // Ids are never used again.
    uint64_t frees = rdi_mem_frees();
    assert_true(rdi_mem_alive(id));
    rondo_mem_free(a);
    assert_int_equal(rdi_mem_frees(), frees + 1);
    assert_false(rdi_mem_alive(id));
    a = alloc(8192);
    assert_true(rdi_mem_find(a, 1, &fd, &offset, &bytes, &bytes));
    assert_true(offset > id2);
    rondo_mem_free(a);
    rondo_mem_free(b);
}

// Whoever gets the descriptor can read the block, but neither write it nor change its size.
static void test_seals(void **state) {
    (void)state;
    uint8_t *at = alloc(8192);
    int fd;
    uint64_t id, offset, bytes;
    assert_true(rdi_mem_find(at, 1, &fd, &id, &offset, &bytes));
    assert_int_equal(ftruncate(fd, 4096), -1);
    assert_int_equal(errno, EPERM);
    assert_int_equal(ftruncate(fd, 16384), -1);
    assert_int_equal(pwrite(fd, "x", 1, 0), -1);
    assert_ptr_equal(mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0), MAP_FAILED);
    assert_int_equal(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096), -1);
    void *view;
    assert_int_equal(rdi_memfile_map("a block", fd, 8192, RDI_MEMFILE_PRIVATE, &view), RONDO_OK);
    at[8191] = 5; // the owner's mapping is from before the seal
    assert_int_equal(((uint8_t *)view)[8191], 5);
    rdi_memfile_unmap(view, 8192);
    rondo_mem_free(at);
}

// ---- Registrations and holds ---------------------------------------------------------------------

static uint8_t own[10000];

static void test_register(void **state) {
    (void)state;
    assert_int_equal(rondo_mem_unregister(own), RONDO_ERR_USAGE);
    assert_int_equal(rondo_mem_register(own, 1000), RONDO_OK);
    assert_int_equal(rondo_mem_register(own, 1000), RONDO_OK);
    assert_int_equal(rondo_mem_register(own, 5000), RONDO_OK);
    assert_int_equal(rondo_mem_register(own + 500, 1000), RONDO_OK);
    assert_true(rdi_mem_hold(own + 4000, 1000)); // in the long one only
    assert_false(rdi_mem_hold(own + 4000, 1001));
    assert_int_equal(rondo_mem_unregister(own), RONDO_OK);
    assert_int_equal(rondo_mem_unregister(own), RONDO_OK); // both short ones are gone now
    assert_int_equal(rondo_mem_unregister(own + 500), RONDO_OK);
    assert_int_equal(rondo_mem_unregister(own), RONDO_ERR_USAGE);
    assert_non_null(strstr(rondo_last_error(), "still uses"));
    rdi_mem_unhold(own + 4000, 1000);
    assert_int_equal(rondo_mem_unregister(own), RONDO_OK);
    assert_int_equal(rondo_mem_unregister(own), RONDO_ERR_USAGE);
    assert_int_equal(rondo_mem_register(NULL, 8), RONDO_ERR_INVALID);
    assert_int_equal(rondo_mem_register(own, SIZE_MAX), RONDO_ERR_INVALID);
}

static void test_hold(void **state) {
    (void)state;
    uint8_t *at = alloc(8192);
    assert_false(rdi_mem_hold(at, 0));
    assert_false(rdi_mem_hold(own, 10));
    rdi_mem_unhold(own, 10); // nothing to undo
    assert_true(rdi_mem_hold(at + 10, 100));
    assert_true(rdi_mem_hold(at + 10, 100));
    assert_true(rdi_mem_hold(at, 8192));
    assert_int_equal(rondo_mem_free(at), RONDO_ERR_USAGE);
    rdi_mem_unhold(at, 8192);
    rdi_mem_unhold(at + 10, 100);
    assert_int_equal(rondo_mem_free(at), RONDO_ERR_USAGE);
    at[0] = 1; // nothing was freed
    rdi_mem_unhold(at + 10, 100);
    assert_int_equal(rondo_mem_free(at), RONDO_OK);
}

// A hold stays what it is when other registrations come and go in between.
static void test_hold_among_others(void **state) {
    (void)state;
    assert_int_equal(rondo_mem_register(own + 1000, 1000), RONDO_OK);
    assert_true(rdi_mem_hold(own + 1200, 100));
    assert_int_equal(rondo_mem_register(own + 1100, 300), RONDO_OK);
    rdi_mem_unhold(own + 1200, 100);
    assert_int_equal(rondo_mem_unregister(own + 1100), RONDO_OK);
    assert_int_equal(rondo_mem_unregister(own + 1000), RONDO_OK);
}

// ---- The interval table against a model ----------------------------------------------------------

struct model {
    uintptr_t start[64];
    size_t bytes[64];
    unsigned count[64];
};

static bool model_around(const struct model *m, uintptr_t start, size_t bytes) {
    for (unsigned i = 0; i < 64; i++) {
        if (m->count[i] > 0 && m->start[i] <= start && m->start[i] + m->bytes[i] >= start + bytes) {
            return true;
        }
    }
    return false;
}

static bool model_touch(const struct model *m, uintptr_t start, size_t bytes) {
    for (unsigned i = 0; i < 64; i++) {
        if (m->count[i] > 0 && m->bytes[i] > 0 && m->start[i] < start + bytes &&
            m->start[i] + m->bytes[i] > start) {
            return true;
        }
    }
    return false;
}

static void test_intervals(void **state) {
    (void)state;
    struct rdi_intervals t = {0};
    struct model m = {.count = {0}};
    uint64_t random = 12345;
    for (unsigned step = 0; step < 20000; step++) {
        random = random * 6364136223846793005u + 1442695040888963407u;
        uintptr_t start = 1000 + (random >> 33) % 40;
        size_t bytes = 1 + (random >> 43) % 25;
        unsigned slot = (unsigned)(random >> 50) % 64;
        if (m.count[slot] == 0) {
            // An interval has one slot in the model, as it has one entry in the table.
            bool twin = rdi_intervals_exact(&t, start, bytes) != NULL;
            if (!twin) {
                m.start[slot] = start;
                m.bytes[slot] = bytes;
                m.count[slot] = 1;
                assert_non_null(rdi_intervals_add(&t, start, bytes));
            }
        } else {
            struct rdi_interval *e = rdi_intervals_exact(&t, m.start[slot], m.bytes[slot]);
            assert_non_null(e);
            assert_int_equal(e->count, m.count[slot]);
            if ((random >> 20) % 3 == 0) {
                rdi_intervals_add(&t, m.start[slot], m.bytes[slot]);
                m.count[slot]++;
            } else {
                rdi_intervals_drop(&t, e);
                m.count[slot]--;
            }
        }
        uintptr_t from = 995 + (random >> 13) % 60;
        size_t len = 1 + (random >> 7) % 30;
        const struct rdi_interval *e = rdi_intervals_around(&t, from, len);
        assert_int_equal(e != NULL, model_around(&m, from, len));
        assert_true(e == NULL || (e->start <= from && e->start + e->bytes >= from + len));
        assert_int_equal(rdi_intervals_touch(&t, from, len), model_touch(&m, from, len));
    }
    rdi_intervals_free(&t);
    assert_int_equal(t.n, 0);
}

// ---- Descriptors from elsewhere ------------------------------------------------------------------

static void expect_refused(int fd, size_t bytes, const char *word) {
    void *map = NULL;
    assert_int_equal(rdi_memfile_map("a thing", fd, bytes, RDI_MEMFILE_PRIVATE, &map),
                     RONDO_ERR_PEER);
    assert_null(map);
    assert_non_null(strstr(rondo_last_error(), "a thing"));
    assert_non_null(strstr(rondo_last_error(), word));
}

static void test_foreign(void **state) {
    (void)state;
    int fd = memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    assert_int_equal(ftruncate(fd, 8192), 0);
    expect_refused(fd, 8192, "not sealed");
    assert_int_equal(fcntl(fd, F_ADD_SEALS, F_SEAL_GROW), 0);
    expect_refused(fd, 8192, "not sealed");
    assert_int_equal(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK), 0);
    expect_refused(fd, 4096, "8192 bytes");
    expect_refused(fd, 8193, "8192 bytes");
    expect_refused(fd, SIZE_MAX - 5, "claims");
    void *map;
    assert_int_equal(rdi_memfile_map("a thing", fd, 8000, RDI_MEMFILE_COMMON, &map), RONDO_OK);
    rdi_memfile_unmap(map, 8000);
    close(fd);
    int wire[2];
    assert_int_equal(pipe2(wire, O_CLOEXEC), 0);
    expect_refused(wire[0], 4096, "bytes");
    close(wire[0]);
    close(wire[1]);
    char name[] = "/tmp/rondo-test-XXXXXX";
    fd = mkstemp(name);
    unlink(name);
    assert_int_equal(ftruncate(fd, 4096), 0);
    expect_refused(fd, 4096, "not sealed");
    close(fd);
}

// ---- Limits --------------------------------------------------------------------------------------

// Runs `body` in a child, whose exit status is the number of the check that failed.
static int in_child(int (*body)(void)) {
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        _exit(body());
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    return status;
}

static int fails_with(size_t bytes, rondo_status s, const char *word) {
    void *at = NULL;
    if (rondo_mem_alloc(bytes, &at) != s || at != NULL) {
        return 1;
    }
    if (strstr(rondo_last_error(), word) == NULL) {
        fprintf(stderr, "expected '%s' in: %s\n", word, rondo_last_error());
        return 2;
    }
    return 0;
}

static void set_limit(__rlimit_resource_t which, rlim_t value) {
    struct rlimit r;
    getrlimit(which, &r);
    r.rlim_cur = value;
    setrlimit(which, &r);
}

static int no_descriptors(void) {
    set_limit(RLIMIT_NOFILE, 3);
    return fails_with(4096, RONDO_ERR_SYSTEM, "ulimit -n");
}

static int no_file_size(void) { // would end the process by SIGXFSZ
    set_limit(RLIMIT_FSIZE, 1 << 20);
    return fails_with(2 << 20, RONDO_ERR_NOMEM, "ulimit -f");
}

static int no_address_space(void) {
    set_limit(RLIMIT_AS, 200 << 20);
    return fails_with(400 << 20, RONDO_ERR_NOMEM, "ulimit -v");
}

static void test_limits(void **state) {
    (void)state;
    assert_int_equal(fails_with((size_t)1 << 46, RONDO_ERR_NOMEM, "this machine has"), 0);
    assert_int_equal(fails_with(SIZE_MAX, RONDO_ERR_NOMEM, "bytes"), 0);
    assert_int_equal(in_child(no_descriptors), 0);
    assert_int_equal(in_child(no_file_size), 0);
    if (!SANITIZED) { // sanitizers need address space of their own
        assert_int_equal(in_child(no_address_space), 0);
    }
}

// ---- Threads -------------------------------------------------------------------------------------

static void *churn(void *arg) {
    unsigned seed = (unsigned)(uintptr_t)arg;
    for (unsigned i = 0; i < 300; i++) {
        void *at;
        int fd;
        uint64_t id, offset, bytes;
        if (rondo_mem_alloc(4096 * (1 + (seed + i) % 5), &at) != RONDO_OK ||
            !rdi_mem_find(at, 4096, &fd, &id, &offset, &bytes) || !rdi_mem_alive(id) ||
            !rdi_mem_hold(at, 100) || rondo_mem_free(at) != RONDO_ERR_USAGE) {
            return arg;
        }
        rdi_mem_unhold(at, 100);
        if (rondo_mem_register(own, 100 + seed) != RONDO_OK || rondo_mem_free(at) != RONDO_OK ||
            rdi_mem_alive(id) || rondo_mem_unregister(own) != RONDO_OK) {
            return arg;
        }
    }
    return NULL;
}

static void test_threads(void **state) {
    (void)state;
    pthread_t threads[4];
    for (uintptr_t i = 0; i < 4; i++) {
        assert_int_equal(pthread_create(&threads[i], NULL, churn, (void *)(i + 1)), 0);
    }
    for (int i = 0; i < 4; i++) {
        void *result;
        pthread_join(threads[i], &result);
        assert_null(result);
    }
    assert_int_equal(rondo_mem_unregister(own), RONDO_ERR_USAGE);
}

// Blocks made after the wish come from that node, those before and after it as they come.
static void test_node(void **state) {
    (void)state;
    unsigned long mask[16];
    int mode = -1;
    if (syscall(SYS_get_mempolicy, &mode, mask, 1025UL, NULL, 0UL) != 0) {
        print_message("the kernel has no policies for memory\n");
        skip();
    }
    for (int node = -1; node <= 1; node++) {
        rdi_memfile_prefer_node(node == 1 ? 100000 : node); // one that there is not
        void *at = alloc(100000);
        memset(mask, 0, sizeof mask);
        assert_int_equal(
            syscall(SYS_get_mempolicy, &mode, mask, 1025UL, at, (unsigned long)MPOL_F_ADDR), 0);
        assert_int_equal(mode, node == 0 ? MPOL_PREFERRED : MPOL_DEFAULT);
        assert_int_equal(mask[0], node == 0);
        memset(at, 1, 100000);
        assert_int_equal(rondo_mem_free(at), RONDO_OK);
    }
    rdi_memfile_prefer_node(-1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_alloc),
        cmocka_unit_test(test_free_twice),
        cmocka_unit_test(test_find),
        cmocka_unit_test(test_seals),
        cmocka_unit_test(test_register),
        cmocka_unit_test(test_hold),
        cmocka_unit_test(test_hold_among_others),
        cmocka_unit_test(test_intervals),
        cmocka_unit_test(test_foreign),
        cmocka_unit_test(test_limits),
        cmocka_unit_test(test_node),
        cmocka_unit_test(test_threads),
    };
    return cmocka_run_group_tests_name("mem", tests, NULL, NULL);
}
