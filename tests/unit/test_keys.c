// SPDX-License-Identifier: MIT
// Where the job's key comes from, in which order, and what is refused.
#include "transport/bootstrap/bootstrap.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

static char home[PATH_MAX / 4], path[PATH_MAX], key_fd[16];
static bool has_home;

static char *fake_getenv(const char *name) {
    if (strcmp(name, "HOME") == 0 && has_home) {
        return home;
    }
    return strcmp(name, RDI_ENV_KEY_FD) == 0 && key_fd[0] != '\0' ? key_fd : NULL;
}

static rondo_config config;
static struct rdi_options options;
static struct rdi_launch launch;
static struct rdi_job job;
static char source[RDI_KEY_SOURCE];

static rondo_status find(void) {
    memset(&job, 0x5a, sizeof job);
    job.rank = launch.rank;
    job.size = launch.size;
    return rdi_key_find_for(&config, &options, &launch, fake_getenv, &job, source);
}

static void refuse(rondo_status status, const char *word1, const char *word2) {
    assert_int_equal(find(), status);
    assert_false(job.auth);
    assert_null(job.key);
    if (strstr(rondo_last_error(), word1) == NULL || strstr(rondo_last_error(), word2) == NULL) {
        fail_msg("'%s' does not have '%s' and '%s'", rondo_last_error(), word1, word2);
    }
}

static int setup(void **state) {
    (void)state;
    const char *tmp = getenv("TMPDIR");
    snprintf(home, sizeof home, "%.900s/rondo-keys-XXXXXX", tmp != NULL ? tmp : "/tmp");
    assert_non_null(mkdtemp(home));
    has_home = true;
    key_fd[0] = '\0';
    config = (rondo_config)RONDO_CONFIG_INIT;
    launch = (struct rdi_launch){.rank = 0, .size = 2, .local_rank = -1};
    assert_int_equal(rdi_options_load(&options, "", fake_getenv), RONDO_OK);
    return 0;
}

static int teardown(void **state) {
    (void)state;
    const char *const left[] = {"/.config/rondo/key", "/file"}, *const dirs[] = {"/.config/rondo",
                                                                                 "/.config", ""};
    for (size_t i = 0; i < 2; i++) {
        snprintf(path, sizeof path, "%s%s", home, left[i]);
        unlink(path);
    }
    for (size_t i = 0; i < 3; i++) {
        snprintf(path, sizeof path, "%s%s", home, dirs[i]);
        rmdir(path);
    }
    assert_int_equal(access(home, F_OK), -1); // and nothing else was left there
    return 0;
}

static void write_file(const char *name, const void *bytes, size_t n, mode_t mode) {
    snprintf(path, sizeof path, "%s%s", home, name);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, bytes, n), n);
    assert_int_equal(fchmod(fd, mode), 0);
    close(fd);
}

static void expect_key_of(const char *secret) {
    struct rdi_job other = {.rank = 0};
    assert_int_equal(rdi_key_set(&other, secret, strlen(secret)), RONDO_OK);
    assert_true(job.auth);
    assert_memory_equal(job.key, other.key, RDI_KEY_BYTES);
}

// ---- Derivation ---------------------------------------------------------------------------------

static void test_derivation(void **state) {
    (void)state;
    struct rdi_job a = {.rank = 0}, b = {.rank = 0};
    assert_int_equal(rdi_key_set(&a, "0123456789abcdef", 16), RONDO_OK);
    assert_int_equal(rdi_key_set(&b, "0123456789abcdef", 16), RONDO_OK);
    assert_memory_equal(a.key, b.key, RDI_KEY_BYTES);
    assert_true(a.auth);
    assert_memory_not_equal(a.key, "0123456789abcdef", 16);
    assert_int_equal(rdi_key_set(&b, "0123456789abcdeg", 16), RONDO_OK);
    assert_memory_not_equal(a.key, b.key, RDI_KEY_BYTES);

    char big[4097] = {0};
    assert_int_equal(rdi_key_set(&b, big, 4096), RONDO_OK);
    assert_int_equal(rdi_key_set(&b, big, 4097), RONDO_ERR_INVALID);
    assert_int_equal(rdi_key_set(&b, big, 15), RONDO_ERR_INVALID);
    assert_int_equal(rdi_key_set(&b, NULL, 32), RONDO_ERR_INVALID);
}

// ---- Sources ------------------------------------------------------------------------------------

static void test_order(void **state) {
    (void)state;
    // Everything at once; then one after the other goes.
    write_file("/file", "the key in a file of mine\n", 26, 0600);
    snprintf(options.str[RDI_OPT_KEY_FILE], RDI_OPT_STRING_MAX, "%.250s", path);
    int fd = rdi_key_memfd();
    assert_true(fd >= 0);
    snprintf(key_fd, sizeof key_fd, "%d", fd);
    config.key = "the key of the caller";
    config.key_len = 21;
    snprintf(options.str[RDI_OPT_AUTH], RDI_OPT_STRING_MAX, "none");

    assert_int_equal(find(), RONDO_OK);
    assert_false(job.auth);
    assert_null(job.key);

    snprintf(options.str[RDI_OPT_AUTH], RDI_OPT_STRING_MAX, "key");
    assert_int_equal(find(), RONDO_OK);
    expect_key_of("the key of the caller");

    config.key = NULL;
    assert_int_equal(find(), RONDO_OK);
    expect_key_of("the key in a file of mine"); // the newline does not count
    assert_non_null(strstr(source, "/file"));

    options.str[RDI_OPT_KEY_FILE][0] = '\0';
    assert_int_equal(find(), RONDO_OK);
    uint8_t secret[RDI_KEY_BYTES];
    assert_int_equal(pread(fd, secret, sizeof secret, 0), sizeof secret);
    struct rdi_job other = {.rank = 0};
    assert_int_equal(rdi_key_set(&other, secret, sizeof secret), RONDO_OK);
    assert_memory_equal(job.key, other.key, RDI_KEY_BYTES);

    key_fd[0] = '\0';
    static const rondo_store_ops ops = {.size = sizeof ops};
    config.store_ops = &ops;
    assert_int_equal(find(), RONDO_AGAIN); // comes when the ranks meet
    config.store_ops = NULL;

    assert_int_equal(find(), RONDO_OK);
    assert_true(job.auth);
    assert_memory_not_equal(job.key, other.key, RDI_KEY_BYTES);
    assert_non_null(strstr(source, ".config/rondo/key"));
    close(fd);
}

static void test_one_rank_needs_none(void **state) {
    (void)state;
    launch.size = 1;
    assert_int_equal(find(), RONDO_OK);
    assert_true(job.auth);
    uint8_t first[RDI_KEY_BYTES];
    memcpy(first, job.key, sizeof first);
    assert_int_equal(find(), RONDO_OK);
    assert_memory_not_equal(first, job.key, sizeof first);
    snprintf(path, sizeof path, "%s/.config", home);
    assert_int_equal(access(path, F_OK), -1); // and leaves nothing behind
}

static void test_home(void **state) {
    (void)state;
    assert_int_equal(find(), RONDO_OK);
    struct rdi_job first = job;
    struct stat st;
    snprintf(path, sizeof path, "%s/.config/rondo", home);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 07777, 0700);
    snprintf(path, sizeof path, "%s/.config/rondo/key", home);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 07777, 0600);
    assert_int_equal(st.st_nlink, 1);
    assert_int_equal(st.st_size, 65);
    assert_int_equal(find(), RONDO_OK);
    assert_memory_equal(job.key, first.key, RDI_KEY_BYTES); // created once

    assert_int_equal(chmod(path, 0640), 0);
    refuse(RONDO_ERR_BOOTSTRAP, path, "chmod 600");
    assert_int_equal(chmod(path, 0604), 0);
    refuse(RONDO_ERR_BOOTSTRAP, "0604", "chmod 600");
    assert_int_equal(chmod(path, 0600), 0);
    assert_int_equal(truncate(path, 10), 0);
    refuse(RONDO_ERR_INVALID, path, "10 bytes");
}

// Many processes at once, none of which finds a key: one is made, and all have it.
static void test_home_race(void **state) {
    (void)state;
    int result[2], gate[2];
    assert_int_equal(pipe(result), 0);
    assert_int_equal(pipe(gate), 0);
    pid_t pids[16];
    for (int i = 0; i < 16; i++) {
        pids[i] = fork();
        assert_true(pids[i] >= 0);
        if (pids[i] == 0) {
            char c;
            close(gate[1]);
            _exit(read(gate[0], &c, 1) == 0 && find() == RONDO_OK &&
                          write(result[1], job.key, RDI_KEY_BYTES) == RDI_KEY_BYTES
                      ? 0
                      : 1);
        }
    }
    close(gate[0]);
    close(gate[1]); // go
    close(result[1]);
    uint8_t first[RDI_KEY_BYTES], key[RDI_KEY_BYTES];
    for (int i = 0; i < 16; i++) {
        int status;
        assert_int_equal(waitpid(pids[i], &status, 0), pids[i]);
        assert_int_equal(status, 0);
        assert_int_equal(read(result[0], i == 0 ? first : key, RDI_KEY_BYTES), RDI_KEY_BYTES);
        if (i > 0) {
            assert_memory_equal(first, key, RDI_KEY_BYTES);
        }
    }
    close(result[0]);
}

static void test_no_home(void **state) {
    (void)state;
    has_home = false;
    refuse(RONDO_ERR_AUTH, "RONDO_KEY_FILE", "auth=none");
    assert_non_null(strstr(rondo_last_error(), "rondo-run"));
    launch.single_host = true;
    assert_int_equal(find(), RONDO_OK);
    assert_false(job.auth);
    assert_string_equal(source, "none");

    // A home where nothing can be made: ".config" is a file.
    has_home = true;
    write_file("/.config", "x", 1, 0600);
    assert_int_equal(find(), RONDO_ERR_BOOTSTRAP);
    assert_non_null(strstr(rondo_last_error(), "ENOTDIR"));
    snprintf(path, sizeof path, "%s/.config", home);
    unlink(path);
}

static void test_key_file(void **state) {
    (void)state;
    snprintf(options.str[RDI_OPT_KEY_FILE], RDI_OPT_STRING_MAX, "%.240s/file", home);
    refuse(RONDO_ERR_BOOTSTRAP, "/file", "does not exist"); // no other source instead
    write_file("/file", "0123456789abcdef", 16, 0644);
    refuse(RONDO_ERR_BOOTSTRAP, "/file", "0644");
    assert_null(strstr(rondo_last_error(), "0123456789abcdef"));
    write_file("/file", "0123456789abcde", 15, 0600);
    refuse(RONDO_ERR_INVALID, "/file", "15 bytes");
    assert_null(strstr(rondo_last_error(), "0123456789abcde"));
    write_file("/file", "0123456789abcde\n\r\n", 18, 0600);
    refuse(RONDO_ERR_INVALID, "/file", "15 bytes");
    char big[5000];
    memset(big, 'x', sizeof big);
    write_file("/file", big, sizeof big, 0600);
    refuse(RONDO_ERR_INVALID, "/file", "16..4096");
    write_file("/file", "0123456789abcdef", 16, 0400);
    assert_int_equal(find(), RONDO_OK);
    expect_key_of("0123456789abcdef");

    unlink(path);
    assert_int_equal(mkfifo(path, 0600), 0); // and does not wait for a writer
    refuse(RONDO_ERR_BOOTSTRAP, "/file", "not a regular file");
    snprintf(options.str[RDI_OPT_KEY_FILE], RDI_OPT_STRING_MAX, "%.240s", home);
    refuse(RONDO_ERR_BOOTSTRAP, home, "not a regular file");
}

static void test_inherited(void **state) {
    (void)state;
    static const char *const wrong[] = {"x", "-1", "3x", "99999999999999999999", " 3"};
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        snprintf(key_fd, sizeof key_fd, "%.15s", wrong[i]);
        refuse(RONDO_ERR_BOOTSTRAP, RDI_ENV_KEY_FD, "number of a descriptor");
    }
    snprintf(key_fd, sizeof key_fd, "999");
    refuse(RONDO_ERR_BOOTSTRAP, "EBADF", "wrapper");

    int fd = rdi_key_memfd();
    assert_true(fd >= 0);
    assert_int_equal(fcntl(fd, F_GETFD) & FD_CLOEXEC, 0); // children get it
    assert_int_equal(pwrite(fd, "x", 1, 0), -1);          // and cannot change it
    assert_int_equal(ftruncate(fd, 0), -1);
    snprintf(key_fd, sizeof key_fd, "%d", fd);
    assert_int_equal(find(), RONDO_OK);
    uint8_t first[RDI_KEY_BYTES];
    memcpy(first, job.key, sizeof first);
    assert_int_equal(find(), RONDO_OK); // can be read again
    assert_memory_equal(first, job.key, sizeof first);
    close(fd);
    fd = rdi_key_memfd();
    snprintf(key_fd, sizeof key_fd, "%d", fd);
    assert_int_equal(find(), RONDO_OK);
    assert_memory_not_equal(first, job.key, sizeof first);
    close(fd);
}

static void test_public_form(void **state) {
    (void)state;
    config.rank = 1;
    config.world_size = 2;
    config.master_addr = "127.0.0.1";
    config.key = "0123456789abcdef";
    config.key_len = 16;
    memset(&job, 0, sizeof job);
    assert_int_equal(rdi_key_find(&config, &options, &job), RONDO_OK);
    expect_key_of("0123456789abcdef");
    config.key = NULL;
    static const rondo_store_ops ops = {.size = sizeof ops};
    config.store_ops = &ops;
    unsetenv(RDI_ENV_KEY_FD);
    assert_int_equal(rdi_key_find(&config, &options, &job), RONDO_ERR_USAGE);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_derivation, setup, teardown),
        cmocka_unit_test_setup_teardown(test_order, setup, teardown),
        cmocka_unit_test_setup_teardown(test_one_rank_needs_none, setup, teardown),
        cmocka_unit_test_setup_teardown(test_home, setup, teardown),
        cmocka_unit_test_setup_teardown(test_home_race, setup, teardown),
        cmocka_unit_test_setup_teardown(test_no_home, setup, teardown),
        cmocka_unit_test_setup_teardown(test_key_file, setup, teardown),
        cmocka_unit_test_setup_teardown(test_inherited, setup, teardown),
        cmocka_unit_test_setup_teardown(test_public_form, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
