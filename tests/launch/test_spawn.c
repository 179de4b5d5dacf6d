// SPDX-License-Identifier: MIT
// rondo_spawn(), and the parts below it that can be checked by themselves.
#include "harness.h"

#include "ddp/ddp.h"
#include "ddp/launch.h"

#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define WORLD_MAX 32
// What ranks leave behind for the test to look at.
struct shared {
    atomic_int ran[WORLD_MAX];
    atomic_int pids[WORLD_MAX];
    atomic_int grandchild;
    int fail_rank;
    char env[WORLD_MAX][4][64];
};
static struct shared *shared;

static int setup(void **state) {
    (void)state;
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    return shared == MAP_FAILED ? -1 : 0;
}

static int teardown(void **state) {
    (void)state;
    return munmap(shared, sizeof *shared);
}

// Alive, and no zombie.
static bool is_running(int pid) {
    char path[64], line[512] = "";
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    FILE *f = fopen(path, "r");
    if (f == NULL) {
        return false;
    }
    struct rdi_proc_stat st;
    bool running = fgets(line, sizeof line, f) != NULL && rdi_proc_stat_parse(line, &st) &&
                   st.state != 'Z';
    fclose(f);
    return running;
}

static bool ends_soon(int pid) {
    for (double until = seconds_now() + 2; is_running(pid);) {
        if (seconds_now() > until) {
            return false;
        }
        pause_for_ms(5);
    }
    return true;
}

// ---- Ranks --------------------------------------------------------------------------------------

static int say_who(int rank, int world, void *arg) {
    const char *const names[] = {"RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR"};
    char byte;
    for (int i = 0; i < 4; i++) {
        const char *value = getenv(names[i]);
        snprintf(shared->env[rank][i], sizeof shared->env[rank][i], "%s",
                 value != NULL ? value : "");
    }
    atomic_fetch_add(&shared->ran[rank], world);
    return arg == shared && read(STDIN_FILENO, &byte, 1) == 0 ? 0 : 1;
}

static int join_store(int rank, int world, void *arg) {
    (void)arg;
    struct rdi_job job = {.rank = rank, .size = world};
    struct rdi_options options;
    struct rdi_store *store;
    rondo_config config = RONDO_CONFIG_INIT;
    char key[32], *value;
    size_t len;
    if (rdi_options_load(&options, NULL, getenv) != RONDO_OK ||
        rdi_key_find(&config, &options, &job) != RONDO_OK || !job.auth ||
        rdi_store_connect(getenv("MASTER_ADDR"), atoi(getenv("MASTER_PORT")), &job, 10000,
                          &store) != RONDO_OK) {
        fprintf(stderr, "rank %d: %s\n", rank, rondo_last_error());
        return 1;
    }
    snprintf(key, sizeof key, "from %d", rank);
    int bad = rdi_store_tcp_ops.set(store, key, key, strlen(key), 10000);
    snprintf(key, sizeof key, "from %d", (rank + 1) % world);
    bad |= rdi_store_tcp_ops.get(store, key, (void **)&value, &len, 10000);
    bad = bad != 0 || len != strlen(key) || memcmp(value, key, len) != 0;
    free(value);
    rdi_store_close(store);
    return bad;
}

static int fail_one(int rank, int world, void *arg) {
    (void)world;
    atomic_store(&shared->pids[rank], getpid());
    if (rank == shared->fail_rank) {
        if (arg != NULL) {
            raise(*(int *)arg);
        }
        return 5;
    }
    signal(SIGTERM, SIG_IGN);
    if (rank == 0) {
        int pid = fork();
        if (pid == 0) {
            pause_for_ms(300000);
            _exit(0);
        }
        atomic_store(&shared->grandchild, pid);
    }
    pause_for_ms(300000);
    return 0;
}

static int return_arg(int rank, int world, void *arg) {
    (void)world;
    return rank == 1 ? *(int *)arg : 0;
}

static int print_unflushed(int rank, int world, void *arg) {
    (void)world;
    (void)arg;
    printf("from rank %d|", rank);
    return 0;
}

// ---- Tests --------------------------------------------------------------------------------------

static void test_all_ranks_run(void **state) {
    (void)state;
    assert_int_equal(rondo_spawn(say_who, 5, shared), RONDO_OK);
    for (int rank = 0; rank < 5; rank++) {
        char number[16];
        snprintf(number, sizeof number, "%d", rank);
        assert_int_equal(shared->ran[rank], 5);
        assert_string_equal(shared->env[rank][0], number);
        assert_string_equal(shared->env[rank][1], "5");
        assert_string_equal(shared->env[rank][2], number);
        assert_string_equal(shared->env[rank][3], "127.0.0.1");
    }
    // The parent is no rank.
    assert_null(getenv("RANK"));
}

static void test_many_ranks(void **state) {
    (void)state;
    assert_int_equal(rondo_spawn(say_who, WORLD_MAX, shared), RONDO_OK);
    for (int rank = 0; rank < WORLD_MAX; rank++) {
        assert_int_equal(shared->ran[rank], WORLD_MAX);
    }
}

static void test_store_and_key(void **state) {
    (void)state;
    assert_int_equal(rondo_spawn(join_store, 4, NULL), RONDO_OK);
}

static void test_first_to_fail_is_named(void **state) {
    (void)state;
    char expected[128];
    double begun = seconds_now();
    shared->fail_rank = 2;
    assert_int_equal(rondo_spawn(fail_one, 4, NULL), RONDO_ERR_PEER);
    assert_true(seconds_now() - begun < 8);
    snprintf(expected, sizeof expected, "rank 2 (pid %d, local rank 2) failed: exit code 5",
             shared->pids[2]);
    assert_string_equal(rondo_last_error(), expected);
    for (int rank = 0; rank < 4; rank++) {
        assert_false(is_running(shared->pids[rank]));
    }
    assert_true(ends_soon(shared->grandchild));
    // Nothing is left for the caller to wait for.
    assert_int_equal(waitpid(-1, NULL, WNOHANG), -1);
}

static void test_death_by_signal(void **state) {
    (void)state;
    int sig = SIGKILL;
    shared->fail_rank = 1;
    assert_int_equal(rondo_spawn(fail_one, 2, &sig), RONDO_ERR_PEER);
    assert_contains(rondo_last_error(), "rank 1 (pid ");
    assert_contains(rondo_last_error(), "failed: killed by signal 9 (SIGKILL)");
}

// An exit code has eight bits; what does not fit must not become 0.
static void test_values_are_clamped(void **state) {
    (void)state;
    static const struct {
        int value;
        const char *text;
    } list[] = {
        {1, "exit code 1"}, {255, "exit code 255"}, {256, "exit code 255"}, {-1, "exit code 255"}};
    for (size_t i = 0; i < sizeof list / sizeof list[0]; i++) {
        int value = list[i].value;
        assert_int_equal(rondo_spawn(return_arg, 2, &value), RONDO_ERR_PEER);
        assert_contains(rondo_last_error(), list[i].text);
    }
}

// What the parent has not flushed is written once; what a rank has not, at its end.
static void test_buffers(void **state) {
    (void)state;
    char folder[64], path[96];
    make_folder(folder);
    snprintf(path, sizeof path, "%s/out", folder);
    fflush(stdout);
    int saved = dup(STDOUT_FILENO), fd = open(path, O_WRONLY | O_CREAT | O_APPEND, 0600);
    dup2(fd, STDOUT_FILENO);
    printf("from parent|");
    rondo_status s = rondo_spawn(print_unflushed, 3, NULL);
    fflush(stdout);
    dup2(saved, STDOUT_FILENO);
    close(saved);
    close(fd);
    assert_int_equal(s, RONDO_OK);
    char *text = read_whole(path);
    assert_int_equal(count_text(text, "from parent|"), 1);
    assert_int_equal(count_text(text, "from rank"), 3);
    assert_contains(text, "from rank 2|");
    free(text);
    remove_folder(folder);
}

static void test_bad_arguments(void **state) {
    (void)state;
    assert_int_equal(rondo_spawn(NULL, 2, NULL), RONDO_ERR_INVALID);
    assert_int_equal(rondo_spawn(say_who, 0, NULL), RONDO_ERR_INVALID);
    assert_contains(rondo_last_error(), "nprocs is 0; it can be 1 to 4096");
    assert_int_equal(rondo_spawn(say_who, 4097, NULL), RONDO_ERR_INVALID);
    setenv("RONDO_KEY_FILE", "/no/such/key", 1);
    assert_int_equal(rondo_spawn(say_who, 2, NULL), RONDO_ERR_BOOTSTRAP);
    assert_contains(rondo_last_error(), "/no/such/key");
    unsetenv("RONDO_KEY_FILE");
    assert_int_equal(shared->ran[0], 0);
}

// A parent that has its own ideas of SIGCHLD, and gets them back.
static volatile sig_atomic_t children;
static void on_child(int sig) {
    (void)sig;
    while (waitpid(-1, NULL, WNOHANG) > 0) {
        children++;
    }
}

static void test_sigchld_of_the_caller(void **state) {
    (void)state;
    int value = 3;
    struct sigaction now;
    signal(SIGCHLD, on_child);
    assert_int_equal(rondo_spawn(return_arg, 2, &value), RONDO_ERR_PEER);
    assert_contains(rondo_last_error(), "exit code 3");
    assert_int_equal(children, 0);
    sigaction(SIGCHLD, NULL, &now);
    assert_true(now.sa_handler == on_child);
    signal(SIGCHLD, SIG_IGN);
    assert_int_equal(rondo_spawn(return_arg, 2, &value), RONDO_ERR_PEER);
    assert_contains(rondo_last_error(), "exit code 3");
    signal(SIGCHLD, SIG_DFL);
}

// A signal to the parent is passed on; when the ranks have ended, the parent gets it as it would
// have.
static int wait_for_term(int rank, int world, void *arg) {
    sigset_t set;
    int sig;
    (void)world;
    (void)arg;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigprocmask(SIG_BLOCK, &set, NULL);
    atomic_store(&shared->pids[rank], getpid());
    sigwait(&set, &sig);
    atomic_fetch_add(&shared->ran[rank], 1);
    return 0;
}

static void test_signal_to_the_parent(void **state) {
    (void)state;
    int status;
    pid_t parent = fork();
    if (parent == 0) {
        rondo_spawn(wait_for_term, 3, NULL);
        _exit(0);
    }
    for (int rank = 0; rank < 3; rank++) {
        while (shared->pids[rank] == 0) {
            pause_for_ms(5);
        }
    }
    kill(parent, SIGTERM);
    assert_int_equal(waitpid(parent, &status, 0), parent);
    assert_true(WIFSIGNALED(status));
    assert_int_equal(WTERMSIG(status), SIGTERM);
    for (int rank = 0; rank < 3; rank++) {
        assert_int_equal(shared->ran[rank], 1);
    }
}

static void test_killed_parent(void **state) {
    (void)state;
    shared->fail_rank = -1;
    pid_t parent = fork();
    if (parent == 0) {
        rondo_spawn(fail_one, 3, NULL);
        _exit(0);
    }
    for (int rank = 0; rank < 3; rank++) {
        while (shared->pids[rank] == 0) {
            pause_for_ms(5);
        }
    }
    while (shared->grandchild == 0) {
        pause_for_ms(5);
    }
    kill(parent, SIGKILL);
    waitpid(parent, NULL, 0);
    for (int rank = 0; rank < 3; rank++) {
        assert_true(ends_soon(shared->pids[rank]));
    }
    kill(shared->grandchild, SIGKILL);
}

static void test_proc_stat(void **state) {
    (void)state;
    struct rdi_proc_stat s;
    assert_true(rdi_proc_stat_parse("17 (sh) S 1 16 15 0 -1 4194304", &s));
    assert_int_equal(s.state, 'S');
    assert_int_equal(s.pgrp, 16);
    assert_int_equal(s.session, 15);
    assert_true(rdi_proc_stat_parse("17 (a) R 1 2 3) Z 1 16 15 0", &s));
    assert_int_equal(s.state, 'Z');
    assert_int_equal(s.session, 15);
    assert_false(rdi_proc_stat_parse("17 (sh) S 1 16", &s));
    assert_false(rdi_proc_stat_parse("", &s));
    assert_false(rdi_proc_stat_parse("17 sh S 1 16 15", &s));
}

#define WITH_SHARED(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void) {
    const struct CMUnitTest tests[] = {
        WITH_SHARED(test_all_ranks_run),
        WITH_SHARED(test_many_ranks),
        WITH_SHARED(test_store_and_key),
        WITH_SHARED(test_first_to_fail_is_named),
        WITH_SHARED(test_death_by_signal),
        WITH_SHARED(test_values_are_clamped),
        WITH_SHARED(test_buffers),
        WITH_SHARED(test_bad_arguments),
        WITH_SHARED(test_sigchld_of_the_caller),
        WITH_SHARED(test_signal_to_the_parent),
        WITH_SHARED(test_killed_parent),
        cmocka_unit_test(test_proc_stat),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
