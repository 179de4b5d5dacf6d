// SPDX-License-Identifier: MIT
// Names of temporary files, and the sweep: what dead processes left goes, all else stays.
#include "transport/temp.h"

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

static char folder[256];

static int setup(void **state) {
    (void)state;
    const char *tmp = getenv("TMPDIR");
    snprintf(folder, sizeof folder, "%.200s/rondo-temp-XXXXXX", tmp != NULL ? tmp : "/tmp");
    assert_non_null(mkdtemp(folder));
    return 0;
}

static int teardown(void **state) {
    (void)state;
    char command[400];
    snprintf(command, sizeof command, "rm -r '%s'", folder);
    return system(command);
}

static const char *in_folder(const char *name) {
    static char path[4][512];
    static int turn;
    turn = (turn + 1) % 4;
    snprintf(path[turn], sizeof path[turn], "%s/%s", folder, name);
    return path[turn];
}

static void make(const char *path) {
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    close(fd);
}

static bool is_there(const char *path) {
    struct stat st;
    return lstat(path, &st) == 0;
}

static const char *last_part(const char *path) { return strrchr(path, '/') + 1; }

// ---- Names ---------------------------------------------------------------------------------------

static void test_name(void **state) {
    (void)state;
    char name[512], other[512];
    struct rdi_temp_maker m = {.pid = 0};
    rdi_temp_name(in_folder("key"), name, sizeof name);
    rdi_temp_name(in_folder("key"), other, sizeof other);
    assert_string_not_equal(name, other);
    assert_true(rdi_temp_parse(last_part(name), "key", &m));
    assert_int_equal(m.pid, getpid());
    assert_true(m.start != 0 && m.host != 0);
    assert_true(strlen(name) < strlen(in_folder("key")) + RDI_TEMP_MORE);
    rdi_temp_name("/f/rondo-dump.a.b.3.json", name, sizeof name);
    assert_true(rdi_temp_parse(last_part(name), "rondo-dump", &m));
    assert_false(rdi_temp_parse(last_part(name), "rondo-trace", &m));
}

static void test_other_names(void **state) {
    (void)state;
    static const char *const names[] = {
        "",
        "key",
        "key.tmp",
        "key..tmp",
        ".tmp",
        "key.abc.tmp",
        "key.1-2-3.tmp",
        "key.1-2-3-4",
        "key.1-2-3-4.tmp2",
        "key.1-0-3-4.tmp",
        "key.1--3-4.tmp",
        "key.-2-3-4.tmp",
        "key.1-2-3-.tmp",
        "key.1-2-3-4-5.tmp",
        "key.1-2x-3-4.tmp",
        "key.1-ff-3-4.tmp",
        "key.G-2-3-4.tmp",
        "key.1-99999999999-3-4.tmp",
        "key.11111111111111111-2-3-4.tmp",
        "kez.1-2-3-4.tmp",
    };
    struct rdi_temp_maker m;
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        if (rdi_temp_parse(names[i], "key", &m)) {
            fail_msg("'%s' was taken for a temporary file", names[i]);
        }
    }
    assert_true(rdi_temp_parse("key.fe-12-3a-b.tmp", "key", &m));
    assert_true(m.host == 0xfe && m.pid == 12 && m.start == 0x3a);
    assert_true(rdi_temp_parse("key.more.fe-12-3a-b.tmp", "key", &m));
}

// ---- The sweep -----------------------------------------------------------------------------------

// The name that a process which has ended gave to a file; nobody has waited for it yet.
static pid_t name_of_zombie(const char *path, char *name, size_t cap) {
    int ends[2];
    siginfo_t info;
    assert_int_equal(pipe(ends), 0);
    fflush(NULL);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        rdi_temp_name(path, name, cap);
        _exit(write(ends[1], name, cap) == (ssize_t)cap ? 0 : 1);
    }
    assert_int_equal(read(ends[0], name, cap), cap);
    assert_int_equal(waitid(P_PID, (id_t)pid, &info, WEXITED | WNOWAIT), 0);
    assert_int_equal(info.si_status, 0);
    close(ends[0]);
    close(ends[1]);
    return pid;
}

static void name_of_dead(const char *path, char *name, size_t cap) {
    pid_t pid = name_of_zombie(path, name, cap);
    assert_int_equal(waitpid(pid, NULL, 0), pid);
}

// What its parent has not waited for writes nothing any more.
static void test_sweep_after_zombie(void **state) {
    (void)state;
    char name[512];
    pid_t pid = name_of_zombie(in_folder("key"), name, sizeof name);
    make(name);
    rdi_temp_sweep(in_folder("key"));
    assert_false(is_there(name));
    assert_int_equal(waitpid(pid, NULL, 0), pid);
}

static void test_sweep(void **state) {
    (void)state;
    char dead[512], alive[512], other_start[512], other_host[512], other_file[512], dump[512];
    const char *key = in_folder("key");
    name_of_dead(key, dead, sizeof dead);
    make(dead);
    rdi_temp_name(key, alive, sizeof alive);
    make(alive);
    struct rdi_temp_maker m;
    assert_true(rdi_temp_parse(last_part(alive), "key", &m));
    // The pid lives, but is another process'.
    snprintf(other_start, sizeof other_start, "%s/key.%llx-%d-%llx-1.tmp", folder,
             (unsigned long long)m.host, m.pid, (unsigned long long)m.start + 1);
    make(other_start);
    // Of another host nothing is known here.
    snprintf(other_host, sizeof other_host, "%s/key.%llx-%d-%llx-1.tmp", folder,
             (unsigned long long)m.host + 1, m.pid, (unsigned long long)m.start + 1);
    make(other_host);
    name_of_dead(in_folder("other"), other_file, sizeof other_file);
    make(other_file);
    name_of_dead(in_folder("rondo-dump.a.0.7.json"), dump, sizeof dump);
    make(dump);
    make(in_folder("key"));
    make(in_folder("key.backup"));

    rdi_temp_sweep(key);
    assert_false(is_there(dead));
    assert_false(is_there(other_start));
    assert_true(is_there(alive) && is_there(other_host) && is_there(other_file) && is_there(dump));
    assert_true(is_there(in_folder("key")) && is_there(in_folder("key.backup")));
    rdi_temp_sweep(in_folder("rondo-dump.b.1.9.json"));
    assert_false(is_there(dump));
    assert_true(is_there(alive) && is_there(other_file));
}

// Only files go, and a link is not followed.
static void test_sweep_of_no_files(void **state) {
    (void)state;
    char link_name[512], folder_name[512];
    const char *key = in_folder("key");
    make(in_folder("precious"));
    name_of_dead(key, link_name, sizeof link_name);
    assert_int_equal(symlink(in_folder("precious"), link_name), 0);
    name_of_dead(key, folder_name, sizeof folder_name);
    assert_int_equal(mkdir(folder_name, 0700), 0);
    rdi_temp_sweep(key);
    assert_true(is_there(link_name) && is_there(folder_name) && is_there(in_folder("precious")));
    rdi_temp_sweep(in_folder("missing/key")); // no such folder
    rdi_temp_sweep("");
    rdi_temp_sweep("/");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_name, setup, teardown),
        cmocka_unit_test(test_other_names),
        cmocka_unit_test_setup_teardown(test_sweep, setup, teardown),
        cmocka_unit_test_setup_teardown(test_sweep_after_zombie, setup, teardown),
        cmocka_unit_test_setup_teardown(test_sweep_of_no_files, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
