// SPDX-License-Identifier: MIT
// What ranks are started with, and what is refused before any is.
#include "harness.h"

#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

static void check_variable(const struct launched *l, int rank, const char *name,
                           const char *value) {
    char line[256];
    snprintf(line, sizeof line, "[%d] %s=%s\n", rank, name, value);
    assert_contains(l->text[0], line);
}

static void test_environment(void **state) {
    (void)state;
    struct launched l;
    RUN(&l, 0, "-n", "3", "-x", "MINE=a=b", RANK, "env=RANK", "env=LOCAL_RANK", "env=WORLD_SIZE",
        "env=LOCAL_WORLD_SIZE", "env=GROUP_RANK", "env=GROUP_WORLD_SIZE", "env=ROLE_RANK",
        "env=ROLE_WORLD_SIZE", "env=MASTER_ADDR", "env=MASTER_PORT",
        "env=TORCHELASTIC_RESTART_COUNT", "env=TORCHELASTIC_MAX_RESTARTS",
        "env=TORCHELASTIC_RUN_ID", "env=RONDO_STORE", "env=RONDO_KEY_FD", "env=OMP_NUM_THREADS",
        "env=MINE");
    for (int rank = 0; rank < 3; rank++) {
        char number[16];
        snprintf(number, sizeof number, "%d", rank);
        check_variable(&l, rank, "RANK", number);
        check_variable(&l, rank, "LOCAL_RANK", number);
        check_variable(&l, rank, "ROLE_RANK", number);
        check_variable(&l, rank, "WORLD_SIZE", "3");
        check_variable(&l, rank, "LOCAL_WORLD_SIZE", "3");
        check_variable(&l, rank, "ROLE_WORLD_SIZE", "3");
        check_variable(&l, rank, "GROUP_RANK", "0");
        check_variable(&l, rank, "GROUP_WORLD_SIZE", "1");
        check_variable(&l, rank, "MASTER_ADDR", "127.0.0.1");
        check_variable(&l, rank, "TORCHELASTIC_RESTART_COUNT", "0");
        check_variable(&l, rank, "TORCHELASTIC_MAX_RESTARTS", "0");
        check_variable(&l, rank, "RONDO_STORE", "launcher");
        check_variable(&l, rank, "OMP_NUM_THREADS", "1");
        check_variable(&l, rank, "MINE", "a=b");
    }
    assert_int_equal(count_text(l.text[0], "TORCHELASTIC_RUN_ID=rondo"), 3);
    assert_null(strstr(l.text[0], "MASTER_PORT=0"));
    assert_null(strstr(l.text[0], "unset"));
    release(&l);
}

// Variables of a job around this one are replaced, not added to; the user's own threads are left
// alone.
static void test_environment_of_another_job(void **state) {
    (void)state;
    struct launched l;
    RUN(&l, 0, "-x", "RANK=7", "-x", "OMP_NUM_THREADS=5", "-x", "RONDO_KEY_FD=99", "-x",
        "TORCHELASTIC_USE_AGENT_STORE=True", "-n", "2", "/usr/bin/env");
    assert_int_equal(count_text(l.text[0], "] RANK="), 2);
    assert_contains(l.text[0], "[1] RANK=1\n");
    assert_int_equal(count_text(l.text[0], "OMP_NUM_THREADS=5\n"), 2);
    assert_null(strstr(l.text[0], "RONDO_KEY_FD=99"));
    assert_null(strstr(l.text[0], "TORCHELASTIC_USE_AGENT_STORE"));
    release(&l);
}

static void test_what_is_inherited(void **state) {
    (void)state;
    struct launched l;
    // The key is the only descriptor; the launcher's own limit, signal mask and dispositions stay
    // with it.
    RUN(&l, 0, "/bin/sh", "-c", "ulimit -Sn 100; exec \"$@\"", "sh", RONDO_RUN, "-n", "40", RANK,
        "inherited");
    assert_int_equal(count_text(l.text[0], "] fds 1 masked 0 ignored 0 files 100 leader 1\n"), 40);
    release(&l);
}

static void test_many_ranks(void **state) {
    (void)state;
    struct launched l;
    RUN(&l, 0, "-n", "64", RANK, "print=here\\n");
    assert_int_equal(count_text(l.text[0], "here\n"), 64);
    assert_contains(l.text[0], "[63] here\n");
    release(&l);
    RUN(&l, 11, "-n", "16", RANK, "13:exit=11", "sleep=100000");
    assert_contains(l.text[1], "rank 13 (pid ");
    release(&l);
}

static void test_auto(void **state) {
    (void)state;
    struct launched l;
    char expected[32];
    int cores = 0;
    FILE *f = popen("env -u OMP_NUM_THREADS nproc", "r");
    assert_int_equal(fscanf(f, "%d", &cores), 1);
    pclose(f);
    snprintf(expected, sizeof expected, "WORLD_SIZE=%d\n", cores);
    RUN(&l, 0, "-n", "auto", "--prefix-format=", RANK, "0:env=WORLD_SIZE");
    assert_string_equal(l.text[0], expected);
    release(&l);
}

static void test_verbose(void **state) {
    (void)state;
    struct launched l;
    RUN(&l, 0, "-v", "-n", "2", RANK);
    assert_int_equal(count_text(l.text[1], "OMP_NUM_THREADS=1"), 1);
    assert_contains(l.text[1], "rondo-run: rank 1 is process ");
    release(&l);
}

// ---- Programs that cannot run -------------------------------------------------------------------

static void check_program(int code, const char *program, const char *text) {
    struct launched l;
    RUN(&l, code, "-n", "2", program);
    assert_string_equal(l.text[0], "");
    assert_contains(l.text[1], "rondo-run: ");
    assert_contains(l.text[1], text);
    assert_int_equal(count_text(l.text[1], "\n"), 1);
    release(&l);
}

static void write_script(char path[128], const char *folder, const char *name, const char *text,
                         int mode) {
    snprintf(path, 128, "%s/%s", folder, name);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
    assert_int_equal(chmod(path, (mode_t)mode), 0);
}

static void test_programs_that_cannot_run(void **state) {
    (void)state;
    char folder[64], path[128];
    make_folder(folder);
    check_program(127, "no-such-program", "there is no program 'no-such-program' in PATH");
    check_program(127, "/no/such/program", "there is no program /no/such/program");
    check_program(126, "/", "cannot run /: Is a directory");
    write_script(path, folder, "bare", "echo hello\n", 0755);
    check_program(126, path, "a script needs a first line such as #!/bin/sh");
    write_script(path, folder, "lost", "#!/no/such/interpreter\n", 0755);
    check_program(127, path, "the interpreter in its first line is missing");
    write_script(path, folder, "plain", "#!/bin/sh\n", 0644);
    check_program(126, path, "Permission denied");
    remove_folder(folder);
}

// ---- Options ------------------------------------------------------------------------------------

static void test_bad_options(void **state) {
    (void)state;
    static const struct {
        const char *words[5], *text;
    } bad[] = {
        {{"-n", "0"},
         "--nproc-per-node=0 is not allowed; it can be 'auto' or a number from 1 to 4096"},
        {{"-n", "4x"}, "--nproc-per-node=4x is not allowed"},
        {{"-n", "-1"}, "--nproc-per-node=-1 is not allowed"},
        {{"-n"}, "--nproc-per-node needs a value: --nproc-per-node N"},
        {{"--nnodes=0"}, "--nnodes=0 is not allowed; it can be a number from 1 to 65536"},
        {{"--nnodes", "2", "true"}, "--nnodes=2 needs --node-rank: 0 to 1"},
        {{"--nnodes=2", "--node-rank=1", "true"}, "--nnodes=2 needs --master-addr"},
        {{"--nnodes=2", "--node-rank=2", "--master-addr=h", "true"},
         "--node-rank=2 is not allowed with --nnodes=2; it can be 0 to 1"},
        {{"--node-rank=1", "true"}, "--node-rank=1 needs --nnodes"},
        {{"--master-port=0", "true"},
         "--master-port=0 is not allowed; it can be a number from 1 to 65535"},
        {{"--master-port=65536", "true"}, "--master-port=65536 is not allowed"},
        {{"--master-addr=", "true"}, "--master-addr= is not allowed"},
        {{"--timeout=0", "true"}, "--timeout=0 is not allowed; it can be seconds from 0.001"},
        {{"--timeout=1e9", "true"}, "--timeout=1e9 is not allowed"},
        {{"--grace=-1", "true"}, "--grace=-1 is not allowed"},
        {{"--connect-timeout=nan", "true"}, "--connect-timeout=nan is not allowed"},
        {{"-x", "NAME", "true"}, "--env=NAME is not allowed; it can be NAME=VALUE"},
        {{"-x", "=v", "true"}, "--env==v is not allowed"},
        {{"--prefix-format=%q", "true"}, "--prefix-format=%q is not allowed; it can be text"},
        {{"--prefix-format=100%", "true"}, "--prefix-format=100% is not allowed"},
        {{"--no-prefix", "--prefix-format=x", "true"}, "exclude each other"},
        {{"--log-dir=x", "--no-prefix", "true"}, "leave out --no-prefix"},
        {{"--no-prefix=1", "true"}, "--no-prefix takes no value"},
        {{"--nproc", "2", "true"}, "there is no option --nproc; 'rondo-run --help' lists them"},
        {{"-q", "true"}, "there is no option -q"},
        {{"-vq", "true"}, "there is no option -q"},
        {{"-v"}, "which program?"},
        {{"--"}, "which program?"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct launched l;
        run(&l, 2, bad[i].words);
        assert_contains(l.text[1], bad[i].text);
        assert_int_equal(count_text(l.text[1], "\n"), 1);
        release(&l);
    }
}

static void test_good_options(void **state) {
    (void)state;
    static const char *const good[][6] = {
        {"-n", "2", RANK, "env=WORLD_SIZE"},
        {"-n2", RANK, "env=WORLD_SIZE"},
        {"-vn2", RANK, "env=WORLD_SIZE"},
        {"--nproc-per-node=2", RANK, "env=WORLD_SIZE"},
        {"--nproc_per_node", "2", RANK, "env=WORLD_SIZE"},
        {"-n", "2", "--", RANK, "env=WORLD_SIZE"},
        // What follows the program is the program's.
        {"-n", "2", RANK, "env=WORLD_SIZE", "sleep=-n"},
    };
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        struct launched l;
        run(&l, 0, good[i]);
        assert_int_equal(count_text(l.text[0], "WORLD_SIZE=2\n"), 2);
        release(&l);
    }
}

static void test_help_and_version(void **state) {
    (void)state;
    struct launched l;
    RUN(&l, 0, "--help");
    assert_contains(l.text[0], "usage: rondo-run [OPTION...] PROGRAM [ARGUMENT...]");
    assert_contains(l.text[0], "--nproc-per-node N");
    assert_string_equal(l.text[1], "");
    release(&l);
    RUN(&l, 0, "--version");
    assert_int_equal(strncmp(l.text[0], "rondo-run ", 10), 0);
    release(&l);
}

// ---- The store and the key ----------------------------------------------------------------------

static void test_port_in_use(void **state) {
    (void)state;
    struct launched l;
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof a;
    char option[32], port[16];
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&a, len), 0);
    assert_int_equal(listen(fd, 1), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&a, &len), 0);
    snprintf(port, sizeof port, "%d", ntohs(a.sin_port));
    snprintf(option, sizeof option, "--master-port=%s", port);
    RUN(&l, 1, "-n", "2", option, RANK, "print=never\\n");
    assert_string_equal(l.text[0], "");
    assert_contains(l.text[1], port);
    assert_contains(l.text[1], "in use");
    release(&l);
    close(fd);
    RUN(&l, 0, "-n", "2", option, RANK, "env=MASTER_PORT");
    assert_int_equal(count_text(l.text[0], port), 2);
    release(&l);
}

static void test_key_file(void **state) {
    (void)state;
    struct launched l;
    char folder[64], path[128], variable[160];
    make_folder(folder);
    write_script(path, folder, "key", "0123456789abcdef0123456789abcdef\n", 0600);
    snprintf(variable, sizeof variable, "RONDO_KEY_FILE=%s", path);
    RUN(&l, 0, "-x", variable, "-n", "2", RANK, "env=RONDO_KEY_FD", "env=RONDO_KEY_FILE");
    assert_int_equal(count_text(l.text[0], "RONDO_KEY_FD=(unset)\n"), 2);
    assert_int_equal(count_text(l.text[0], path), 2);
    release(&l);
    chmod(path, 0644);
    RUN(&l, 1, "-x", variable, "-n", "2", RANK, "print=never\\n");
    assert_contains(l.text[1], path);
    assert_string_equal(l.text[0], "");
    release(&l);
    RUN(&l, 1, "-x", "RONDO_AUTH=maybe", "-n", "2", RANK);
    assert_contains(l.text[1], "key|none");
    release(&l);
    RUN(&l, 0, "-x", "RONDO_AUTH=none", "-n", "2", RANK, "env=RONDO_KEY_FD");
    assert_int_equal(count_text(l.text[0], "RONDO_KEY_FD=(unset)\n"), 2);
    release(&l);
    remove_folder(folder);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_environment),
        cmocka_unit_test(test_environment_of_another_job),
        cmocka_unit_test(test_what_is_inherited),
        cmocka_unit_test(test_many_ranks),
        cmocka_unit_test(test_auto),
        cmocka_unit_test(test_verbose),
        cmocka_unit_test(test_programs_that_cannot_run),
        cmocka_unit_test(test_bad_options),
        cmocka_unit_test(test_good_options),
        cmocka_unit_test(test_help_and_version),
        cmocka_unit_test(test_port_in_use),
        cmocka_unit_test(test_key_file),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
