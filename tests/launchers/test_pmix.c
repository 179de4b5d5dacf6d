// SPDX-License-Identifier: MIT
// Ranks that meet through PMIx, with the mock in place of libpmix.so.2 (mock_pmix.c, on LD_LIBRARY_PATH): as processes,
// with nothing in their environment but what Open MPI, or a plain PMIx launcher, puts there.
#include "transport/bootstrap/exchange.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#define RANKS_MAX 4

static struct report {
    rondo_status status;
    int size, local_rank, port, again_port;
    uint8_t key[RDI_KEY_BYTES];
    char host[256], text[RDI_ERROR_TEXT], log[2048];
} * reports;

// What a test does differently.
struct job {
    int ranks, size; // started; in the job, ranks if 0
    int timeout_ms;
    bool apart; // the launcher does not say that all are on this host
    bool plain; // a launcher that is known by PMIx alone
    bool twice;
    const char *wrong, *who; // for the mock
    const char *options;
    void (*tweak)(int rank);
};

static char folder[256];

static int setup(void **state) {
    (void)state;
    const char *tmp = getenv("TMPDIR");
    snprintf(folder, sizeof folder, "%.200s/rondo-pmix-XXXXXX", tmp != NULL ? tmp : "/tmp");
    assert_non_null(mkdtemp(folder));
    setenv("HOME", folder, 1);
    return 0;
}

static void empty_folder(bool remove_it) {
    DIR *d = opendir(folder);
    char path[600];
    for (struct dirent *e; d != NULL && (e = readdir(d)) != NULL;) {
        snprintf(path, sizeof path, "%s/%s", folder, e->d_name);
        if (e->d_name[0] != '.') {
            unlink(path);
        }
    }
    closedir(d);
    if (remove_it) {
        const char *const left[] = {"/.config/rondo/key", "/.config/rondo", "/.config", ""};
        for (size_t i = 0; i < 4; i++) {
            snprintf(path, sizeof path, "%s%s", folder, left[i]);
            remove(path);
        }
    }
}

static int teardown(void **state) {
    (void)state;
    empty_folder(true);
    return 0;
}

static bool exists(const char *name, int rank) {
    char path[600];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    if (rank >= 0) {
        snprintf(path, sizeof path, "%s/%s.%d", folder, name, rank);
    }
    return access(path, F_OK) == 0;
}

// ---- Ranks --------------------------------------------------------------------------------------

static void set_number(const char *name, int value) {
    char text[16];
    snprintf(text, sizeof text, "%d", value);
    setenv(name, text, 1);
}

static void set_environment(const struct job *j, int rank) {
    int size = j->size > 0 ? j->size : j->ranks;
    setenv("PMIX_NAMESPACE", "prterun-here-7@1", 1);
    set_number("PMIX_RANK", rank);
    setenv("MOCK_PMIX", folder, 1);
    set_number("MOCK_PMIX_SIZE", size);
    setenv("MOCK_PMIX_WRONG", j->wrong != NULL ? j->wrong : "", 1);
    setenv("MOCK_PMIX_WHO", j->who != NULL ? j->who : "", 1);
    if (!j->plain) {
        set_number("OMPI_COMM_WORLD_RANK", rank);
        set_number("OMPI_COMM_WORLD_SIZE", size);
        set_number("OMPI_COMM_WORLD_LOCAL_RANK", rank);
        if (!j->apart) {
            set_number("OMPI_COMM_WORLD_LOCAL_SIZE", size);
        }
    } else if (!j->apart) {
        set_number("MOCK_PMIX_LOCAL_SIZE", size);
    }
    if (j->tweak != NULL) {
        j->tweak(rank);
    }
}

static char rank_log[2048];
static void keep_log(void *arg, rondo_log_level level, const char *line) {
    (void)arg;
    (void)level;
    size_t used = strlen(rank_log);
    snprintf(rank_log + used, sizeof rank_log - used, "%s\n", line);
}

static rondo_status open_once(const struct job *j, struct report *r, int *port) {
    struct rdi_options options;
    struct rdi_env env;
    struct rdi_job job = {.rank = -1};
    struct rdi_bootstrap *b = NULL;
    char text[300];
    snprintf(text, sizeof text, "connect_timeout=%d%s%s", j->timeout_ms > 0 ? j->timeout_ms : 60000,
             j->options != NULL ? "," : "", j->options != NULL ? j->options : "");
    rdi_env_system(&env, keep_log, NULL);
    rondo_status s = rdi_options_load(&options, text, getenv);
    if (s == RONDO_OK) {
        s = rdi_bootstrap_open(NULL, &options, &env, &job, &b);
    }
    if (s == RONDO_OK) {
        r->size = job.size;
        r->local_rank = job.local_rank;
        memcpy(r->key, job.key != NULL ? job.key : (uint8_t[RDI_KEY_BYTES]){0}, sizeof r->key);
        snprintf(r->host, sizeof r->host, "%s", b->host);
        *port = b->port;
        rdi_job_clear(&job);
        rdi_bootstrap_close(b);
    }
    return s;
}

static void run_rank(const struct job *j, int rank) {
    struct report *r = &reports[rank];
    set_environment(j, rank);
    r->status = open_once(j, r, &r->port);
    if (r->status == RONDO_OK && j->twice) {
        r->status = open_once(j, r, &r->again_port);
    }
    snprintf(r->text, sizeof r->text, "%s", rondo_last_error());
    memcpy(r->log, rank_log, sizeof r->log);
}

static void run(const struct job *j) {
    pid_t pids[RANKS_MAX];
    empty_folder(false);
    memset(reports, 0, RANKS_MAX * sizeof *reports);
    for (int r = 0; r < j->ranks; r++) {
        pids[r] = fork();
        assert_true(pids[r] >= 0);
        if (pids[r] == 0) {
            run_rank(j, r);
            exit(0);
        }
    }
    for (int r = 0; r < j->ranks; r++) {
        int status = -1;
        assert_int_equal(waitpid(pids[r], &status, 0), pids[r]);
        assert_int_equal(status, 0);
    }
}

static void expect_ok(const struct job *j) {
    run(j);
    for (int r = 0; r < j->ranks; r++) {
        if (reports[r].status != RONDO_OK) {
            fail_msg("rank %d: %s", r, reports[r].text);
        }
        assert_int_equal(reports[r].size, j->ranks);
        assert_int_equal(reports[r].local_rank, r);
        assert_memory_equal(reports[r].key, reports[0].key, RDI_KEY_BYTES);
        assert_int_equal(reports[r].port, reports[0].port);
        assert_string_equal(reports[r].host, reports[0].host);
    }
}

static void expect_failure(const struct job *j, rondo_status status, const char *word1,
                           const char *word2) {
    run(j);
    for (int r = 0; r < j->ranks; r++) {
        if (reports[r].status != status || strstr(reports[r].text, word1) == NULL ||
            strstr(reports[r].text, word2) == NULL) {
            fail_msg("rank %d: %d, %s", r, (int)reports[r].status, reports[r].text);
        }
    }
}

// ---- What works ---------------------------------------------------------------------------------

static void expect_met_by_pmix(int ranks) {
    for (int r = 0; r < ranks; r++) {
        assert_true(exists("finalized", r)); // or mpirun takes it for crashed
    }
    assert_true(exists("rondo-point.0", -1));
    assert_false(exists("rondo-point.1", -1));
    assert_false(exists(".config/rondo/key", -1)); // nothing was needed of it
}

static void test_one_host(void **state) {
    (void)state;
    static const uint8_t none[RDI_KEY_BYTES];
    uint8_t key[RDI_KEY_BYTES];
    expect_ok(&(struct job){.ranks = 4});
    expect_met_by_pmix(4);
    assert_string_equal(reports[0].host, "127.0.0.1");
    assert_memory_not_equal(reports[0].key, none, sizeof none);
    memcpy(key, reports[0].key, sizeof key);
    expect_ok(&(struct job){.ranks = 4});
    assert_memory_not_equal(reports[0].key, key, sizeof key); // each job has its own
}

static void test_several_hosts(void **state) {
    (void)state;
    expect_ok(&(struct job){.ranks = 3, .apart = true});
    expect_met_by_pmix(3);
    assert_true(reports[0].port > 0);
}

static void test_plain_launcher(void **state) {
    (void)state;
    expect_ok(&(struct job){.ranks = 3, .plain = true});
    expect_met_by_pmix(3);
    assert_string_equal(reports[0].host, "127.0.0.1");
    expect_ok(&(struct job){.ranks = 2, .plain = true, .apart = true});
    run(&(struct job){.ranks = 1, .plain = true}); // a job of one
    assert_int_equal(reports[0].status, RONDO_OK);
    assert_int_equal(reports[0].size, 1);
    assert_true(exists("finalized", 0));
    expect_failure(&(struct job){.ranks = 2, .plain = true, .wrong = "init"}, RONDO_ERR_BOOTSTRAP,
                   "PMIX_JOB_SIZE is not set", "libpmix.so.2");
}

static void test_twice(void **state) {
    (void)state;
    expect_ok(&(struct job){.ranks = 3, .twice = true});
    expect_met_by_pmix(3);
    assert_int_equal(reports[2].again_port, reports[2].port);
}

static void test_encrypted(void **state) {
    (void)state;
    expect_ok(&(struct job){.ranks = 2, .options = "encrypt=yes"});
}

static void no_auth(int rank) {
    (void)rank;
    setenv("RONDO_AUTH", "none", 1);
}

static void test_without_key(void **state) {
    (void)state;
    static const uint8_t none[RDI_KEY_BYTES];
    expect_ok(&(struct job){.ranks = 2, .tweak = no_auth});
    expect_met_by_pmix(2);
    assert_memory_equal(reports[0].key, none, sizeof none);
}

// Somebody who gives the address is obeyed.
static int given_port;
static void give_address(int rank) {
    (void)rank;
    setenv("MASTER_ADDR", "127.0.0.1", 1);
    set_number("MASTER_PORT", given_port);
}

static int free_port(int *fd) {
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof a;
    *fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(*fd, (struct sockaddr *)&a, sizeof a), 0);
    assert_int_equal(getsockname(*fd, (struct sockaddr *)&a, &len), 0);
    return ntohs(a.sin_port);
}

static void test_given_address(void **state) {
    (void)state;
    int fd;
    given_port = free_port(&fd);
    close(fd);
    expect_ok(&(struct job){.ranks = 2, .tweak = give_address});
    assert_int_equal(reports[1].port, given_port);
    assert_false(exists("rondo-point.0", -1));
}

// ---- What does not ------------------------------------------------------------------------------

static void test_no_server(void **state) {
    (void)state;
    // On one host there is another way.
    expect_ok(&(struct job){.ranks = 2, .wrong = "init"});
    assert_non_null(strstr(reports[1].log, "MOCK-UNREACH"));
    assert_string_equal(reports[1].host, "127.0.0.1");
    expect_failure(&(struct job){.ranks = 2, .wrong = "init", .apart = true}, RONDO_ERR_BOOTSTRAP,
                   "PMIx: PMIx_Init: MOCK-UNREACH", "MASTER_ADDR");
    expect_failure(
        &(struct job){
            .ranks = 1, .size = 2, .wrong = "init hangs", .apart = true, .timeout_ms = 300},
        RONDO_ERR_BOOTSTRAP, "did not come back within 0.3 s", "MASTER_ADDR");
}

static void test_calls_that_fail(void **state) {
    (void)state;
    expect_failure(&(struct job){.ranks = 2, .wrong = "fence"}, RONDO_ERR_BOOTSTRAP,
                   "PMIx_Fence: MOCK-UNREACH", "MASTER_ADDR");
    expect_failure(&(struct job){.ranks = 2, .wrong = "get"}, RONDO_ERR_BOOTSTRAP,
                   "PMIx_Get: MOCK-UNREACH", "rank");
    expect_failure(&(struct job){.ranks = 2, .wrong = "fence hangs", .timeout_ms = 300},
                   RONDO_ERR_TIMEOUT, "waited 0.3 s", "all of them have to start");
}

static void test_missing_rank(void **state) {
    (void)state;
    expect_failure(&(struct job){.ranks = 2, .size = 3, .timeout_ms = 500}, RONDO_ERR_TIMEOUT,
                   "waited 0.5 s", "rondo_init()");
}

static void give_port(int rank) {
    (void)rank;
    set_number("MASTER_PORT", given_port);
}

static void test_port_in_use(void **state) {
    (void)state;
    int fd;
    char words[64];
    given_port = free_port(&fd);
    assert_int_equal(listen(fd, 1), 0);
    snprintf(words, sizeof words, "port %d of this host is in use", given_port);
    expect_failure(&(struct job){.ranks = 3, .tweak = give_port}, RONDO_ERR_BOOTSTRAP, words,
                   "MASTER_PORT");
    assert_non_null(strstr(reports[2].text, "rank 0 cannot serve the store"));
    close(fd);
}

static void no_key_on_rank0(int rank) {
    if (rank == 0) {
        setenv("RONDO_AUTH", "none", 1);
    }
}

static void test_other_keys(void **state) {
    (void)state;
    run(&(struct job){.ranks = 2, .tweak = no_key_on_rank0, .timeout_ms = 500});
    assert_int_equal(reports[1].status, RONDO_ERR_AUTH);
    assert_non_null(strstr(reports[1].text, "give all ranks the same"));
    assert_int_not_equal(reports[0].status, RONDO_OK);
}

int main(void) {
    reports = mmap(NULL, RANKS_MAX * sizeof *reports, PROT_READ | PROT_WRITE,
                   MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (reports == MAP_FAILED) {
        return 1;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_one_host, setup, teardown),
        cmocka_unit_test_setup_teardown(test_several_hosts, setup, teardown),
        cmocka_unit_test_setup_teardown(test_plain_launcher, setup, teardown),
        cmocka_unit_test_setup_teardown(test_twice, setup, teardown),
        cmocka_unit_test_setup_teardown(test_encrypted, setup, teardown),
        cmocka_unit_test_setup_teardown(test_without_key, setup, teardown),
        cmocka_unit_test_setup_teardown(test_given_address, setup, teardown),
        cmocka_unit_test_setup_teardown(test_no_server, setup, teardown),
        cmocka_unit_test_setup_teardown(test_calls_that_fail, setup, teardown),
        cmocka_unit_test_setup_teardown(test_missing_rank, setup, teardown),
        cmocka_unit_test_setup_teardown(test_port_in_use, setup, teardown),
        cmocka_unit_test_setup_teardown(test_other_keys, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
