// SPDX-License-Identifier: MIT
// The table of options against itself, and every way to give a value rightly and wrongly; also the
// error texts and log lines that all layers share.
#include "transport/internal.h"

#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

// ---- A fake environment -------------------------------------------------------------------------

static const char *fake[8][2];

static char *fake_getenv(const char *name) {
    for (size_t i = 0; i < 8 && fake[i][0] != NULL; i++) {
        if (strcmp(fake[i][0], name) == 0) {
            return (char *)(uintptr_t)fake[i][1];
        }
    }
    return NULL;
}

static int clear(void **state) {
    (void)state;
    memset(fake, 0, sizeof fake);
    return 0;
}

static rondo_status load(struct rdi_options *o, const char *text) {
    return rdi_options_load(o, text, fake_getenv);
}

static void refuse(const char *text, const char *word1, const char *word2) {
    struct rdi_options o;
    memset(&o, 0x5a, sizeof o);
    assert_int_equal(load(&o, text), RONDO_ERR_INVALID);
    const char *error = rondo_last_error();
    if (strstr(error, word1) == NULL || strstr(error, word2) == NULL) {
        fail_msg("'%s' does not have '%s' and '%s'", error, word1, word2);
    }
    for (size_t i = 0; i < sizeof o; i++) {
        assert_int_equal(((unsigned char *)&o)[i], 0x5a); // untouched after an error
    }
}

// ---- Options ------------------------------------------------------------------------------------

static void test_defaults(void **state) {
    (void)state;
    struct rdi_options o;
    assert_int_equal(load(&o, NULL), RONDO_OK);
    assert_string_equal(o.str[RDI_OPT_TRANSPORT], "auto");
    assert_true(o.is_auto[RDI_OPT_TRANSPORT]);
    assert_string_equal(o.str[RDI_OPT_INTERFACE], "");
    assert_string_equal(o.str[RDI_OPT_FAMILY], "auto");
    assert_int_equal(o.num[RDI_OPT_TCP_SOCKETS], 1);
    assert_int_equal(o.num[RDI_OPT_SLOTS], 8);
    assert_int_equal(o.num[RDI_OPT_CHUNK], 0);
    assert_int_equal(o.num[RDI_OPT_CONNECT_TIMEOUT], 60000);
    assert_int_equal(o.num[RDI_OPT_OP_TIMEOUT], 600000);
    assert_int_equal(o.num[RDI_OPT_PATH_GRACE], 5000);
    assert_string_equal(o.str[RDI_OPT_PROGRESS], "auto");
    assert_true(o.is_auto[RDI_OPT_SPIN]);
    assert_int_equal(o.num[RDI_OPT_SPIN], 0);
    assert_string_equal(o.str[RDI_OPT_ORDER], "default");
    assert_false(o.is_auto[RDI_OPT_ORDER]);
    assert_string_equal(o.str[RDI_OPT_ALGORITHM], "auto");
    assert_int_equal(o.num[RDI_OPT_DIRECT_MAX], 32 << 10);
    assert_int_equal(o.num[RDI_OPT_ZERO_COPY], 1);
    assert_string_equal(o.str[RDI_OPT_AUTH], "key");
    assert_string_equal(o.str[RDI_OPT_KEY_FILE], "");
    assert_int_equal(o.num[RDI_OPT_DDP_FIRST_BUCKET], 1 << 20);
    assert_int_equal(o.num[RDI_OPT_DDP_BUCKET], 25 << 20);
}

static void test_text(void **state) {
    (void)state;
    struct rdi_options o;
    assert_int_equal(load(&o,
                          " transport = shm , chunk=1M,connect_timeout=500ms,op_timeout=2m,spin=17,"
                          "order=strict,algorithm=ring,zero_copy=off,interface=eth0+10.0.0.0/8,"
                          "direct_max=64KiB,path_grace=0,tcp_sockets=8,,"),
                     RONDO_OK);
    assert_string_equal(o.str[RDI_OPT_TRANSPORT], "shm");
    assert_int_equal(o.num[RDI_OPT_TRANSPORT], 1); // index of the word
    assert_false(o.is_auto[RDI_OPT_TRANSPORT]);
    assert_int_equal(o.num[RDI_OPT_CHUNK], 1 << 20);
    assert_int_equal(o.num[RDI_OPT_CONNECT_TIMEOUT], 500);
    assert_int_equal(o.num[RDI_OPT_OP_TIMEOUT], 120000);
    assert_int_equal(o.num[RDI_OPT_SPIN], 17);
    assert_false(o.is_auto[RDI_OPT_SPIN]);
    assert_int_equal(o.num[RDI_OPT_ORDER], 1);
    assert_int_equal(o.num[RDI_OPT_ALGORITHM], 3);
    assert_int_equal(o.num[RDI_OPT_ZERO_COPY], 0);
    assert_string_equal(o.str[RDI_OPT_INTERFACE], "eth0+10.0.0.0/8");
    assert_int_equal(o.num[RDI_OPT_DIRECT_MAX], 65536);
    assert_int_equal(o.num[RDI_OPT_PATH_GRACE], 0);
    assert_int_equal(o.num[RDI_OPT_TCP_SOCKETS], 8);

    assert_int_equal(load(&o, "slots=4,slots=5"), RONDO_OK); // the later wins
    assert_int_equal(o.num[RDI_OPT_SLOTS], 5);
    assert_int_equal(load(&o, "interface="), RONDO_OK);
    assert_int_equal(load(&o, ""), RONDO_OK);
}

static void test_environment(void **state) {
    (void)state;
    fake[0][0] = "RONDO_TRANSPORT", fake[0][1] = "tcp";
    fake[1][0] = "RONDO_SLOTS", fake[1][1] = " 16 ";
    fake[2][0] = "RONDO_KEY_FD", fake[2][1] = "3";          // a launcher's name, not an option
    fake[3][0] = "RONDO_SOMETHING_NEWER", fake[3][1] = "x"; // of another version: no error
    fake[4][0] = "RONDO_KEY_FILE", fake[4][1] = "/a,b=c";   // may hold what text could not
    fake[5][0] = "RONDO_CHUNK", fake[5][1] = "";            // as good as unset
    struct rdi_options o;
    assert_int_equal(load(&o, "slots=9"), RONDO_OK);
    assert_string_equal(o.str[RDI_OPT_TRANSPORT], "tcp");
    assert_int_equal(o.num[RDI_OPT_SLOTS], 9);
    assert_string_equal(o.str[RDI_OPT_KEY_FILE], "/a,b=c");
    assert_int_equal(o.num[RDI_OPT_CHUNK], 0);

    fake[1][1] = "many";
    refuse("", "slots=many", "RONDO_SLOTS");
    refuse("", "slots=many", "2..64");
    refuse("slots=4", "slots=many", "RONDO_SLOTS"); // an error even where it would be overruled
}

static void test_wrong_values(void **state) {
    (void)state;
    refuse("transport=rdma", "transport=rdma", "auto|shm|tcp");
    refuse("transport=", "transport=", "auto|shm|tcp");
    refuse("transport=shm|tcp", "transport=shm|tcp", "it can be");
    refuse("transport=au", "transport=au", "it can be");
    refuse("slots=1", "slots=1", "2..64");
    refuse("slots=65", "slots=65", "2..64");
    refuse("slots=-3", "slots=-3", "2..64");
    refuse("slots=8K", "slots=8K", "2..64");
    refuse("slots=0x10", "slots=0x10", "2..64");
    refuse("slots=18446744073709551618", "slots=18446744073709551618", "2..64");
    refuse("slots= 4 4", "slots=4 4", "2..64");
    refuse("chunk=4095", "chunk=4095", "0|4K..4M step 64");
    refuse("chunk=5000", "chunk=5000", "step 64");
    refuse("chunk=4M1", "chunk=4M1", "step 64");
    refuse("chunk=1.5M", "chunk=1.5M", "step 64");
    refuse("chunk=9007199254740993G", "chunk=9007", "step 64");
    refuse("connect_timeout=0", "connect_timeout=0", "1ms..168h");
    refuse("connect_timeout=1d", "connect_timeout=1d", "1ms..168h");
    refuse("spin=1000001", "spin=1000001", "auto|0..1000000");
    refuse("zero_copy=maybe", "zero_copy=maybe", "yes|no");
    refuse("ddp_bucket=0", "ddp_bucket=0", "4K..4G");
    refuse("slots", "slots has no value", "slots=8");

    char text[400] = "interface=";
    memset(text + 10, 'e', 300);
    refuse(text, "interface", "at most 255");
}

static void test_unknown_names(void **state) {
    (void)state;
    refuse("transprt=shm", "'transprt'", "'transport'");
    refuse("SLOTS=8", "'SLOTS'", "'slots'");
    refuse("slots=4,conect_timeout=3", "'conect_timeout'", "'connect_timeout'");
    refuse("key_fd=3", "'key_fd'", "'key_file'");
    refuse("=3", "''", "nearest");
    refuse("slots =4,x", "'x'", "nearest");
    char text[300];
    memset(text, 'q', sizeof text);
    text[299] = '\0';
    refuse(text, "qqqq", "nearest");
}

// What the table says is what is done: both ends of each range are taken, and what lies outside is
// not.
static void check_ends(const rondo_option_info *row) {
    char low[32], high[32], item[128];
    const char *range = strrchr(row->allowed, '|');
    range = range != NULL ? range + 1 : row->allowed;
    if (strcmp(row->type, "string") == 0 || sscanf(range, "%31[^.]..%31[^ ]", low, high) != 2) {
        return;
    }
    struct rdi_options o;
    snprintf(item, sizeof item, "%s=%s", row->name, low);
    assert_int_equal(load(&o, item), RONDO_OK);
    snprintf(item, sizeof item, "%s=%s", row->name, high);
    assert_int_equal(load(&o, item), RONDO_OK);
    char *unit;
    long long top = strtoll(high, &unit, 10);
    snprintf(item, sizeof item, "%s=%lld%s", row->name, top + 1, unit);
    refuse(item, row->name, row->allowed);
}

static void test_table(void **state) {
    (void)state;
    assert_int_equal(rondo_option_count(), RDI_OPT_COUNT);
    assert_null(rondo_option(RDI_OPT_COUNT));
    assert_null(rondo_option(SIZE_MAX));
    for (size_t i = 0; i < rondo_option_count(); i++) {
        const rondo_option_info *row = rondo_option(i);
        assert_non_null(row->name);
        assert_non_null(strstr("int size ms bool enum string", row->type));
        assert_true(strlen(row->allowed) > 0 && strlen(row->help) > 0);
        assert_true(strlen(row->name) < 40);

        char item[RDI_OPT_STRING_MAX];
        struct rdi_options o;
        snprintf(item, sizeof item, "%s=%s", row->name, row->default_value);
        assert_int_equal(load(&o, item), RONDO_OK);
        check_ends(row);
    }
}

// ---- Errors -------------------------------------------------------------------------------------

static void test_status_names(void **state) {
    (void)state;
    for (int s = RONDO_ERR_INTERNAL; s <= RONDO_END_OF_INPUT; s++) {
        assert_memory_equal(rondo_status_name((rondo_status)s), "RONDO_", 6);
        assert_string_not_equal(rondo_status_name((rondo_status)s), "RONDO_STATUS_UNKNOWN");
        assert_true(strlen(rondo_status_string((rondo_status)s)) > 0);
    }
    assert_string_equal(rondo_status_name(RONDO_ERR_PEER), "RONDO_ERR_PEER");
    assert_string_equal(rondo_status_name((rondo_status)99), "RONDO_STATUS_UNKNOWN");
    assert_non_null(rondo_status_string((rondo_status)-99));
}

static void test_last_error(void **state) {
    (void)state;
    errno = ENOENT;
    assert_int_equal(rdi_fail(RONDO_ERR_PEER, "rank %d", 7), RONDO_ERR_PEER);
    assert_int_equal(errno, ENOENT);
    assert_string_equal(rondo_last_error(), "rank 7");
    rdi_fail_prefix(RONDO_ERR_PEER, "link %d", 3);
    assert_string_equal(rondo_last_error(), "link 3: rank 7");
    rdi_fail(RONDO_ERR_PEER, "%s, again", rondo_last_error()); // may use the text that it replaces
    assert_string_equal(rondo_last_error(), "link 3: rank 7, again");
    rdi_set_last_error(rondo_last_error());
    assert_string_equal(rondo_last_error(), "link 3: rank 7, again");

    assert_int_equal(rdi_fail_errno(RONDO_ERR_SYSTEM, EADDRINUSE, "bind"), RONDO_ERR_SYSTEM);
    assert_non_null(strstr(rondo_last_error(), "bind: "));
    assert_non_null(strstr(rondo_last_error(), "(EADDRINUSE)"));
    rdi_fail_errno(RONDO_ERR_SYSTEM, EMFILE, "socket");
    assert_non_null(strstr(rondo_last_error(), "(ulimit -n)")); // cause and remedy
    rdi_fail_errno(RONDO_ERR_SYSTEM, 12345, "odd");
    assert_non_null(strstr(rondo_last_error(), "12345"));

    char text[3 * RDI_ERROR_TEXT];
    memset(text, 'x', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    rdi_fail(RONDO_ERR_PEER, "%s", text);
    assert_int_equal(strlen(rondo_last_error()), RDI_ERROR_TEXT - 1);
    rdi_fail_errno(RONDO_ERR_PEER, EPIPE, "%s", text); // the cause survives a long text
    assert_non_null(strstr(rondo_last_error(), "(EPIPE)"));
    rdi_fail_prefix(RONDO_ERR_PEER, "%s", text);
    assert_int_equal(strlen(rondo_last_error()), RDI_ERROR_TEXT - 1);
}

static void *other_thread(void *arg) {
    bool *empty = arg;
    *empty = rondo_last_error()[0] == '\0';
    rdi_fail(RONDO_ERR_PEER, "of the other thread");
    return NULL;
}

static void test_error_per_thread(void **state) {
    (void)state;
    rdi_fail(RONDO_ERR_PEER, "mine");
    pthread_t thread;
    bool empty = false;
    assert_int_equal(pthread_create(&thread, NULL, other_thread, &empty), 0);
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_true(empty);
    assert_string_equal(rondo_last_error(), "mine");
}

static void test_version(void **state) {
    (void)state;
    int major, minor, patch;
    assert_int_equal(sscanf(rondo_version(), "%d.%d.%d", &major, &minor, &patch), 3);
    assert_int_equal(rondo_version_number(), major * 10000 + minor * 100 + patch);
}

// ---- Log and clock ------------------------------------------------------------------------------

static char logged[2048];
static rondo_log_level logged_level;

static void keep_line(void *arg, rondo_log_level level, const char *line) {
    assert_ptr_equal(arg, logged);
    logged_level = level;
    snprintf(logged, sizeof logged, "%s", line);
}

static void test_env(void **state) {
    (void)state;
    struct rdi_env env;
    rdi_env_system(&env, keep_line, logged);
    rdi_log(&env, RONDO_LOG_WARN, "two\nlines\x1b[31m of %s", "a peer");
    assert_string_equal(logged, "two lines [31m of a peer");
    assert_int_equal(logged_level, RONDO_LOG_WARN);

    uint64_t before = rdi_now(&env);
    assert_true(before > 0 && rdi_now(&env) >= before);
    uint8_t a[32] = {0}, b[32] = {0};
    env.random(env.self, a, sizeof a);
    env.random(env.self, b, sizeof b);
    assert_memory_not_equal(a, b, sizeof a);

    rdi_env_system(&env, NULL, NULL);
    rdi_log(&env, RONDO_LOG_ERROR, "nobody listens");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_defaults, clear),
        cmocka_unit_test_setup(test_text, clear),
        cmocka_unit_test_setup(test_environment, clear),
        cmocka_unit_test_setup(test_wrong_values, clear),
        cmocka_unit_test_setup(test_unknown_names, clear),
        cmocka_unit_test_setup(test_table, clear),
        cmocka_unit_test(test_status_names),
        cmocka_unit_test(test_last_error),
        cmocka_unit_test(test_error_per_thread),
        cmocka_unit_test(test_version),
        cmocka_unit_test(test_env),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
