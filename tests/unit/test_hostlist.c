// SPDX-License-Identifier: MIT
// Lists of hosts: what scontrol would show of them, counts, places in the list, and errors with the place in the text.
#include "transport/bootstrap/hostlist.h"

#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

// All hosts, joined by blanks.
static void expect(enum rdi_hosts_form form, const char *list, const char *hosts) {
    char all[1024] = "", host[RDI_HOST_NAME];
    size_t n = SIZE_MAX, used = 0;
    if (rdi_hosts_count(form, list, &n) != RONDO_OK) {
        fail_msg("%s: %s", list, rondo_last_error());
    }
    for (size_t i = 0; i < n; i++) {
        assert_int_equal(rdi_hosts_at(form, list, i, host, sizeof host), RONDO_OK);
        used += (size_t)snprintf(all + used, sizeof all - used, "%s%s", i > 0 ? " " : "", host);
        assert_true(used < sizeof all);
    }
    assert_string_equal(all, hosts);
    assert_int_equal(rdi_hosts_at(form, list, n, host, sizeof host), RONDO_ERR_INVALID);
    assert_non_null(strstr(rondo_last_error(), "too short by 1"));
}

static void refuse(enum rdi_hosts_form form, const char *list, const char *words) {
    size_t n = 77;
    rdi_set_last_error("");
    if (rdi_hosts_count(form, list, &n) == RONDO_OK || strstr(rondo_last_error(), words) == NULL) {
        fail_msg("'%s': '%s' does not have '%s'", list, rondo_last_error(), words);
    }
    assert_int_equal(n, 77);
}

static void test_lists(void **state) {
    (void)state;
    expect(RDI_HOSTS_LIST, "login", "login");
    expect(RDI_HOSTS_LIST, "b,a,10.0.0.1,fd00::1", "b a 10.0.0.1 fd00::1");
    expect(RDI_HOSTS_LIST, "n[1-3,7],rack[01-02]node[3-4],login",
           "n1 n2 n3 n7 rack01node3 rack01node4 rack02node3 rack02node4 login");
    expect(RDI_HOSTS_LIST, "n[08-11]", "n08 n09 n10 n11");
    expect(RDI_HOSTS_LIST, "n[8-11]", "n8 n9 n10 n11");
    expect(RDI_HOSTS_LIST, "n[098-101]", "n098 n099 n100 n101");
    expect(RDI_HOSTS_LIST, "n[001,3,0005]-ib0.lab", "n001-ib0.lab n3-ib0.lab n0005-ib0.lab");
    expect(RDI_HOSTS_LIST, "[1-2]", "1 2");
    expect(RDI_HOSTS_LIST, "a[1-2][3-4]", "a13 a14 a23 a24");
    expect(RDI_HOSTS_LIST, "x[5]y[6]z[7-8]", "x5y6z7 x5y6z8");
}

static void test_large(void **state) {
    (void)state;
    char host[RDI_HOST_NAME];
    size_t n;
    const char *list = "r[1-1000]n[0001-1000],last[0-48575]";
    refuse(RDI_HOSTS_LIST, "r[1-1000]n[0001-1000],last[0-48576]", "more than 1048576 hosts");
    assert_int_equal(rdi_hosts_count(RDI_HOSTS_LIST, list, &n), RONDO_OK);
    assert_int_equal(n, RDI_HOSTS_MAX);
    assert_int_equal(rdi_hosts_at(RDI_HOSTS_LIST, list, 999999, host, sizeof host), RONDO_OK);
    assert_string_equal(host, "r1000n1000");
    assert_int_equal(rdi_hosts_at(RDI_HOSTS_LIST, list, 41023, host, sizeof host), RONDO_OK);
    assert_string_equal(host, "r42n0024");
    assert_int_equal(rdi_hosts_at(RDI_HOSTS_LIST, list, n - 1, host, sizeof host), RONDO_OK);
    assert_string_equal(host, "last48575");
    refuse(RDI_HOSTS_LIST, "n[0-1048576]", "more than 1048576 hosts in the bracket at character 2");
    refuse(RDI_HOSTS_LIST, "n[0-999999,0-999999]", "more than 1048576 hosts up to the bracket");
    refuse(RDI_HOSTS_LIST, "n[0-999999]m[1-2]", "at character 13");

    char name[300];
    memset(name, 'x', sizeof name);
    name[255] = '\0';
    assert_int_equal(rdi_hosts_count(RDI_HOSTS_LIST, name, &n), RONDO_OK);
    assert_int_equal(rdi_hosts_at(RDI_HOSTS_LIST, name, 0, host, sizeof host), RONDO_OK);
    assert_string_equal(host, name);
    assert_int_equal(rdi_hosts_at(RDI_HOSTS_LIST, name, 0, host, 255), RONDO_ERR_INVALID);
    name[255] = 'x';
    name[256] = '\0';
    refuse(RDI_HOSTS_LIST, name, "more than 255 bytes");
    refuse(RDI_HOSTS_LINES, name, "more than 255 bytes");
    memcpy(name + 252, "[9-10]", 7); // 252 + 2 digits
    assert_int_equal(rdi_hosts_count(RDI_HOSTS_LIST, name, &n), RONDO_OK);
    memcpy(name + 252, "[99-10000]", 11);
    refuse(RDI_HOSTS_LIST, name, "more than 255 bytes");
}

static void test_wrong_lists(void **state) {
    (void)state;
    static const struct {
        const char *list, *words;
    } bad[] = {
        {"", "a host's name is missing at character 1, where the end is"},
        {",a", "missing at character 1, where ',' is"},
        {"a,", "missing at character 3, where the end is"},
        {"a,,b", "missing at character 3, where ',' is"},
        {"n[", "a number is missing at character 3"},
        {"n[]", "a number is missing at character 3, where ']' is"},
        {"n[x]", "where 'x' is"},
        {"n[1", "a ',' or ']' is missing at character 4"},
        {"n[1-", "a number is missing at character 5"},
        {"n[1-2", "a ',' or ']' is missing at character 6"},
        {"n[1,]", "a number is missing at character 5"},
        {"n[1-2-3]", "a ',' or ']' is missing at character 6, where '-' is"},
        {"n[3-1]", "ends before it begins at character 5"},
        {"n[1-03]", "different widths at character 5"},
        {"n[1-2]]", "no character of a host's name at character 7"},
        {"n1]", "at character 3, where ']' is"},
        {"n[[1]]", "a number is missing at character 3"},
        {"n 1", "no character of a host's name at character 2, where byte 0x20 is"},
        {"n\x80", "byte 0x80"},
        {"n[1234567890]", "more than 9 digits at character 12"},
        {"a[1]b[1]c[1]d[1]e[1]f[1]g[1]h[1]i", "more than 16 parts"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        refuse(RDI_HOSTS_LIST, bad[i].list, bad[i].words);
    }
}

static void beside(enum rdi_hosts_form form, const char *list, size_t i, size_t before,
                   size_t all) {
    size_t b, a;
    assert_int_equal(rdi_hosts_beside(form, list, i, &b, &a), RONDO_OK);
    assert_int_equal(b, before);
    assert_int_equal(a, all);
}

static void test_slots(void **state) {
    (void)state;
    expect(RDI_HOSTS_SLOTS, "h1 2 h2 1", "h1 h1 h2");
    expect(RDI_HOSTS_SLOTS, "h1  1  h2.lab 1 ", "h1 h2.lab");
    const char *twice = "a 2 b 3 a 4";
    beside(RDI_HOSTS_SLOTS, twice, 0, 0, 6);
    beside(RDI_HOSTS_SLOTS, twice, 1, 1, 6);
    beside(RDI_HOSTS_SLOTS, twice, 4, 2, 3);
    beside(RDI_HOSTS_SLOTS, twice, 8, 5, 6);
    size_t b, a;
    assert_int_equal(rdi_hosts_beside(RDI_HOSTS_SLOTS, twice, 9, &b, &a), RONDO_ERR_INVALID);
    refuse(RDI_HOSTS_SLOTS, "h1", "a blank before the number of slots is missing at character 3");
    refuse(RDI_HOSTS_SLOTS, "h1 ", "a number is missing at character 4");
    refuse(RDI_HOSTS_SLOTS, "h1 x", "a number is missing at character 4, where 'x' is");
    refuse(RDI_HOSTS_SLOTS, "h1 2x", "no digit at character 5");
    refuse(RDI_HOSTS_SLOTS, "h1 0", "not 1 to 1048576 at character 4");
    refuse(RDI_HOSTS_SLOTS, "h1 1048577", "not 1 to 1048576");
    refuse(RDI_HOSTS_SLOTS, "h1 1048576 h2 1", "more than 1048576 hosts at character 12");
    refuse(RDI_HOSTS_SLOTS, "h[1-2] 2", "a blank before");
    refuse(RDI_HOSTS_SLOTS, "", "a host's name is missing at character 1");
}

static void test_lines(void **state) {
    (void)state;
    const char *file = "n1.lab\nn1.lab\nn2\nn1.lab\n";
    expect(RDI_HOSTS_LINES, file, "n1.lab n1.lab n2 n1.lab");
    expect(RDI_HOSTS_LINES, "n1\n\nn2", "n1 n2");
    beside(RDI_HOSTS_LINES, file, 3, 2, 3);
    beside(RDI_HOSTS_LINES, file, 2, 0, 1);
    refuse(RDI_HOSTS_LINES, "n1 n2", "character 3");
    refuse(RDI_HOSTS_LINES, "", "a host's name is missing");
}

static void test_tasks(void **state) {
    (void)state;
    static const int tasks[] = {4, 2, 1, 1, 8};
    int n;
    for (size_t i = 0; i < 5; i++) {
        assert_int_equal(rdi_tasks_on_node("4,2,1(x2),8", i, &n), RONDO_OK);
        assert_int_equal(n, tasks[i]);
    }
    assert_int_equal(rdi_tasks_on_node("2(x3)", 3, &n), RONDO_ERR_INVALID);
    assert_non_null(strstr(rondo_last_error(), "too short by 1 node"));
    static const char *const bad[] = {"", "x", "2(", "2(x", "2(x2", "2(x)", "2,", "2 3", "2(x1)3"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        assert_int_equal(rdi_tasks_on_node(bad[i], 5, &n), RONDO_ERR_INVALID);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_lists),       cmocka_unit_test(test_large),
        cmocka_unit_test(test_wrong_lists), cmocka_unit_test(test_slots),
        cmocka_unit_test(test_lines),       cmocka_unit_test(test_tasks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
