// SPDX-License-Identifier: MIT
// Which processors devices get, on this host and on machines that are described, and the warning for those unlike.
#include "dp/internal.h"
#include "topo/cores.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const char *list_of(const struct rdi_set *s) {
    static char text[256];
    char *list = rdi_set_list(s);
    snprintf(text, sizeof text, "%s", list);
    free(list);
    return text;
}

// ---- Lists ---------------------------------------------------------------------------------------

static void lists(void **state) {
    static const char *const good[][2] = {{"0", "0"},       {"0-3,8", "0-3,8"}, {"8,0-3", "0-3,8"},
                                          {"1,1-2", "1-2"}, {"8191", "8191"},   {"5-5", "5"}};
    static const char *const bad[] = {
        "",      ",",  "1,",   ",1",  "3-2",  "-1",    "1-",  "a",
        "1 ",    " 1", "8192", "0x1", "1--2", "1-2-3", "1,a", "99999999999999999999",
        "0-8192"};
    struct rdi_set s;
    char why[80];
    (void)state;
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        assert_true(rdi_dp_read_cpus(good[i][0], &s, why));
        assert_string_equal(list_of(&s), good[i][1]);
    }
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        if (rdi_dp_read_cpus(bad[i], &s, why)) {
            fail_msg("\"%s\" is accepted", bad[i]);
        }
        assert_non_null(strstr(why, "no processor"));
    }
}

// ---- Dealing out ---------------------------------------------------------------------------------

static void deal(const char *machine, int devices, const char *want) {
    struct rdi_set *cores, out[16];
    char text[512] = "";
    int n;
    assert_int_equal(rdi_topo_cores(machine, &cores, &n), RONDO_OK);
    rdi_dp_deal(cores, n, devices, out);
    for (int k = 0; k < devices; k++) {
        snprintf(text + strlen(text), sizeof text - strlen(text), "%s%s", k ? " | " : "",
                 list_of(&out[k]));
    }
    free(cores);
    assert_string_equal(text, want);
}

static void dealt(void **state) {
    (void)state;
    deal("pack:1 core:4 pu:1", 2, "0-1 | 2-3");
    deal("pack:1 core:4 pu:2", 2, "0-3 | 4-7"); // threads of a core stay together
    deal("pack:2 numa:1 core:2 pu:2", 4, "0-1 | 2-3 | 4-5 | 6-7");
    deal("pack:1 core:5 pu:1", 3, "0-1 | 2-3 | 4");
    deal("pack:1 core:2 pu:1", 3, "0-1 | 0-1 | 0-1"); // more devices than cores
    // Numbers that go around the packages.
    deal("pack:2(indexes=0,1) core:2 pu:1(indexes=0,2,1,3)", 2, "0,2 | 1,3");
    struct rdi_set *cores;
    int n = 0;
    assert_int_equal(rdi_topo_cores("pack:9999999", &cores, &n), RONDO_ERR_INVALID);
    assert_int_equal(rdi_topo_cores(NULL, &cores, &n), RONDO_OK);
    assert_true(n > 0 && rdi_set_first(&cores[0]) >= 0);
    free(cores);
}

// ---- Unlike devices ------------------------------------------------------------------------------

static void unlike(void **state) {
    struct rdi_dp_device d[3] = {
        {.name = "processors 0-3", .cores = 4, .memory = 64ull << 30, .core_word = "cores"},
        {.name = "processors 4-6", .cores = 3, .memory = 48ull << 30, .core_word = "cores"},
        {.name = "processors 8-11", .cores = 4, .memory = 64ull << 30, .core_word = "cores"}};
    char line[512];
    (void)state;
    assert_false(rdi_dp_unlike(d, 1, line, sizeof line));
    assert_false(rdi_dp_unlike(d, 3, line, sizeof line)); // three quarters are enough
    d[1].cores = 2;
    assert_true(rdi_dp_unlike(d, 3, line, sizeof line));
    assert_non_null(strstr(line, "device 1 (processors 4-6) has 2 cores, device 0 (processors 0-3) "
                                 "has 4: less than 75 %"));
    d[2].memory = 16ull << 30;
    assert_true(rdi_dp_unlike(d, 3, line, sizeof line)); // memory is told first
    assert_non_null(strstr(line, "device 2 (processors 8-11) has 16.0 GiB of memory, device 0"));
    d[2].memory = 0; // unknown
    d[1].cores = 4;
    assert_false(rdi_dp_unlike(d, 3, line, sizeof line));
}

static void count_warnings(void *arg, rondo_log_level level, const char *line) {
    int *n = arg;
    *n += level == RONDO_LOG_WARN && strstr(line, "less than 75 %") != NULL;
}

// The same through the library's log, where this host has two processors of two cores.
static void warned(void **state) {
    struct rdi_set *cores;
    int n, warnings = 0;
    (void)state;
    assert_int_equal(rdi_topo_cores(NULL, &cores, &n), RONDO_OK);
    if (n < 2) {
        free(cores);
        skip();
    }
    char one[8], two[24];
    snprintf(one, sizeof one, "%d", rdi_set_first(&cores[0]));
    snprintf(two, sizeof two, "%d,%d", rdi_set_first(&cores[0]), rdi_set_first(&cores[1]));
    free(cores);
    const char *unlike_cpus[] = {one, two}, *like[] = {two, two};
    float x[4] = {0};
    rondo_param p = {"x", x, 4, RONDO_F32};
    rondo_dp_options o = RONDO_DP_OPTIONS_INIT;
    rondo_dp *dp;
    o.log = count_warnings;
    o.log_arg = &warnings;
    o.cpus = like;
    assert_int_equal(rondo_dp_create(&p, 1, 2, &o, &dp), RONDO_OK);
    assert_int_equal(rondo_dp_destroy(dp), RONDO_OK);
    assert_int_equal(warnings, 0);
    o.cpus = unlike_cpus;
    assert_int_equal(rondo_dp_create(&p, 1, 2, &o, &dp), RONDO_OK);
    assert_int_equal(rondo_dp_destroy(dp), RONDO_OK);
    assert_int_equal(warnings, 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(lists), cmocka_unit_test(dealt),
                                       cmocka_unit_test(unlike), cmocka_unit_test(warned)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
