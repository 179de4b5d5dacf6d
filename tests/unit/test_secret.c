// SPDX-License-Identifier: MIT
// Memory for keys: zeroed, counted, wiped with the last reference, and not in a core dump.
#include "transport/internal.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static bool is_zero(const uint8_t *p) {
    for (size_t i = 0; i < RDI_SECRET_BYTES; i++) {
        if (p[i] != 0) {
            return false;
        }
    }
    return true;
}

static void test_wiped(void **state) {
    (void)state;
    uint8_t *a = rdi_secret_new(), *b = rdi_secret_new();
    assert_non_null(a);
    assert_non_null(b);
    assert_ptr_not_equal(a, b);
    memset(a, 0x5a, RDI_SECRET_BYTES);
    memset(b, 0xa5, RDI_SECRET_BYTES);
    rdi_secret_share(a);
    rdi_secret_free(a);
    assert_int_equal(a[0], 0x5a); // somebody still has it
    rdi_secret_free(a);
    assert_true(is_zero(a)); // the page stays
    assert_int_equal(b[RDI_SECRET_BYTES - 1], 0xa5);
    rdi_secret_free(b);
}

static void test_many(void **state) {
    (void)state;
    enum { MANY = 200 }; // of more than one page
    static uint8_t *s[MANY];
    for (int i = 0; i < MANY; i++) {
        s[i] = rdi_secret_new();
        assert_non_null(s[i]);
        assert_true(is_zero(s[i]));
        memset(s[i], i + 1, RDI_SECRET_BYTES);
    }
    for (int i = 0; i < MANY; i++) {
        assert_int_equal(s[i][0], (uint8_t)(i + 1));
        assert_int_equal(s[i][RDI_SECRET_BYTES - 1], (uint8_t)(i + 1));
        rdi_secret_free(s[i]);
    }
    // What was given back is given out again.
    uint8_t *again = rdi_secret_new();
    bool known = false;
    for (int i = 0; i < MANY; i++) {
        known = known || again == s[i];
    }
    assert_true(known);
    rdi_secret_free(again);
}

static void test_strange_memory(void **state) {
    (void)state;
    uint8_t own[RDI_SECRET_BYTES];
    memset(own, 7, sizeof own);
    rdi_secret_share(own);
    rdi_secret_free(own);
    rdi_secret_free(NULL);
    assert_int_equal(own[0], 7);
}

// "VmFlags: rd wr mr mw me dd ac" of the mapping that has this address; false: it cannot be told.
static bool flags_of(const void *at, char *flags, size_t cap) {
    FILE *f = fopen("/proc/self/smaps", "re");
    char line[512];
    bool here = false, found = false;
    while (f != NULL && !found && fgets(line, sizeof line, f) != NULL) {
        unsigned long from, to;
        if (sscanf(line, "%lx-%lx ", &from, &to) == 2) {
            here = (unsigned long)(uintptr_t)at >= from && (unsigned long)(uintptr_t)at < to;
        } else if (here && strncmp(line, "VmFlags:", 8) == 0) {
            snprintf(flags, cap, "%s", line + 8);
            found = true;
        }
    }
    if (f != NULL) {
        fclose(f);
    }
    return found;
}

static void test_not_dumped(void **state) {
    (void)state;
    char flags[512];
    struct rdi_job job = {.rank = 0};
    assert_int_equal(rdi_key_set(&job, "0123456789abcdef", 16), RONDO_OK);
    if (!flags_of(job.key, flags, sizeof flags)) {
        skip();
    }
    assert_non_null(strstr(flags, " dd"));
    rdi_job_clear(&job);
    assert_null(job.key);
}

// A job's copy has a share in the key.
static void test_job_copies(void **state) {
    (void)state;
    struct rdi_job a = {.rank = 3}, b;
    assert_int_equal(rdi_key_set(&a, "0123456789abcdef", 16), RONDO_OK);
    uint8_t key[RDI_KEY_BYTES];
    memcpy(key, a.key, sizeof key);
    rdi_job_copy(&b, &a);
    assert_int_equal(b.rank, 3);
    rdi_job_clear(&a);
    assert_memory_equal(b.key, key, sizeof key);
    const uint8_t *was = b.key;
    assert_int_equal(rdi_key_set(&b, "another key of 2", 16), RONDO_OK);
    assert_true(is_zero(was) || was == b.key);
    rdi_job_clear(&b);
    assert_true(is_zero(was));
}

static void *churn(void *arg) {
    bool *ok = arg;
    for (unsigned i = 0; i < 20000 && *ok; i++) {
        uint8_t *s = rdi_secret_new();
        *ok = s != NULL && is_zero(s);
        if (*ok) {
            memset(s, (int)i | 1, RDI_SECRET_BYTES);
            rdi_secret_share(s);
            rdi_secret_free(s);
            *ok = s[0] == (uint8_t)(i | 1) && s[RDI_SECRET_BYTES - 1] == (uint8_t)(i | 1);
            rdi_secret_free(s);
        }
    }
    return NULL;
}

static void test_threads(void **state) {
    (void)state;
    enum { THREADS = 4 };
    pthread_t t[THREADS];
    bool ok[THREADS];
    for (int i = 0; i < THREADS; i++) {
        ok[i] = true;
        assert_int_equal(pthread_create(&t[i], NULL, churn, &ok[i]), 0);
    }
    for (int i = 0; i < THREADS; i++) {
        pthread_join(t[i], NULL);
        assert_true(ok[i]);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_wiped),          cmocka_unit_test(test_many),
        cmocka_unit_test(test_strange_memory), cmocka_unit_test(test_not_dumped),
        cmocka_unit_test(test_job_copies),     cmocka_unit_test(test_threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
