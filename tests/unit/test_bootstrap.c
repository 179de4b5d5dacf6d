// SPDX-License-Identifier: MIT
// Ranks as processes that find each other: through Rondo's own store, a launcher's and the
// caller's; and what all of them are told when one is missing, leaves, or does not belong.
#include "transport/bootstrap/exchange.h"
#include "transport/bootstrap/store_wire.h"

#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>

#define RANKS_MAX 16

static char home[256];
static int port;

static uint64_t now_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

static void sleep_ms(int ms) {
    struct timespec t = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000L};
    while (nanosleep(&t, &t) != 0) {}
}

static bool is_free(int number) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)number)};
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    bool ok = bind(fd, (struct sockaddr *)&a, sizeof a) == 0;
    close(fd);
    return ok;
}

// Two ports in a row, below those that connections of other programs get by themselves.
static int free_ports(void) {
    static unsigned seed;
    for (;;) {
        seed = (seed + (unsigned)getpid()) * 1103515245u + 12345u;
        int number = 20000 + (int)(seed / 65536 % 5000) * 2;
        if (is_free(number) && is_free(number + 1)) {
            return number;
        }
    }
}

static int setup(void **state) {
    (void)state;
    const char *tmp = getenv("TMPDIR");
    snprintf(home, sizeof home, "%.200s/rondo-boot-XXXXXX", tmp != NULL ? tmp : "/tmp");
    assert_non_null(mkdtemp(home));
    setenv("HOME", home, 1);
    port = free_ports();
    return 0;
}

static int teardown(void **state) {
    (void)state;
    static const char *const left[] = {"/.config/rondo/key", "/.config/rondo", "/.config", ""};
    char path[512];
    for (size_t i = 0; i < 4; i++) {
        snprintf(path, sizeof path, "%s%s", home, left[i]);
        remove(path);
    }
    return 0;
}

// ---- Ranks as processes -------------------------------------------------------------------------

// What a rank has to say of itself; "ok", or an error's text.
struct report {
    rondo_status status;
    int took_ms;
    int local_rank;
    uint8_t key[RDI_KEY_BYTES];
    char text[RDI_ERROR_TEXT];
    char log[2048];
};
static struct report reports[RANKS_MAX];

// What a test does differently.
struct job {
    int ranks; // started: 0 .. ranks-1
    int world; // world size, ranks if 0
    int timeout_ms;
    int absent; // a rank that is not started; -1: none
    const char *options;
    const rondo_store_ops *store_ops;
    void *(*open_store)(int rank);
    void (*tweak)(int rank, rondo_config *config);
    rondo_status (*body)(struct rdi_bootstrap *b, int rank, int world);
};

static char rank_log[2048];
static int report_fd, store_gate;

static void keep_log(void *arg, rondo_log_level level, const char *line) {
    (void)arg;
    (void)level;
    size_t used = strlen(rank_log);
    snprintf(rank_log + used, sizeof rank_log - used, "%s\n", line);
}

static rondo_status run_rank(const struct job *t, int rank, struct report *r) {
    rondo_config config = RONDO_CONFIG_INIT;
    struct rdi_options options;
    struct rdi_env env;
    struct rdi_job job = {.rank = -1};
    struct rdi_bootstrap *b = NULL;
    char text[300];
    int world = t->world > 0 ? t->world : t->ranks;
    config.rank = rank;
    config.world_size = world;
    config.master_addr = "127.0.0.1";
    config.master_port = port;
    if (t->store_ops != NULL) {
        config.store_ops = t->store_ops;
        config.store = t->open_store(rank);
    }
    if (t->tweak != NULL) {
        t->tweak(rank, &config);
    }
    snprintf(text, sizeof text, "connect_timeout=%d,%s", t->timeout_ms > 0 ? t->timeout_ms : 60000,
             t->options != NULL ? t->options : "");
    rdi_env_system(&env, keep_log, NULL);
    rondo_status s = rdi_options_load(&options, text, getenv);
    if (s == RONDO_OK) {
        s = rdi_bootstrap_open(&config, &options, &env, &job, &b);
    }
    if (s == RONDO_OK) {
        r->local_rank = job.local_rank;
        memcpy(r->key, job.key != NULL ? job.key : (uint8_t[RDI_KEY_BYTES]){0}, sizeof r->key);
        rdi_job_clear(&job);
        if (job.rank != config.rank || job.size != world) {
            s = rdi_fail(RONDO_ERR_INTERNAL, "rank %d of %d", job.rank, job.size);
        } else if (t->body != NULL) {
            s = t->body(b, rank, world);
        }
        rdi_bootstrap_close(b);
    }
    if (config.store != NULL && t->store_ops != NULL) {
        rdi_store_close(config.store);
    }
    return s;
}

static void be_rank(const struct job *t, int rank, int fd) {
    struct report r = {.local_rank = -9};
    report_fd = fd;
    if (store_gate > 0) {
        close(store_gate);
    }
    alarm(100);
    uint64_t before = now_ms();
    rank_log[0] = '\0';
    r.status = run_rank(t, rank, &r);
    r.took_ms = (int)(now_ms() - before);
    snprintf(r.text, sizeof r.text, "%s", r.status == RONDO_OK ? "ok" : rondo_last_error());
    memcpy(r.log, rank_log, sizeof r.log);
    exit(write(fd, &r, sizeof r) == (ssize_t)sizeof r ? 0 : 1);
}

// Starts the ranks, the last one first, and collects what they say.
static void run(const struct job *t) {
    int fds[RANKS_MAX][2];
    pid_t pids[RANKS_MAX];
    fflush(NULL);
    for (int r = t->ranks - 1; r >= 0; r--) {
        pids[r] = -1;
        memset(&reports[r], 0, sizeof reports[r]);
        if (r == t->absent) {
            continue;
        }
        assert_int_equal(pipe(fds[r]), 0);
        pids[r] = fork();
        assert_true(pids[r] >= 0);
        if (pids[r] == 0) {
            be_rank(t, r, fds[r][1]);
        }
        close(fds[r][1]);
    }
    for (int r = 0; r < t->ranks; r++) {
        if (pids[r] < 0) {
            continue;
        }
        int status;
        ssize_t n = read(fds[r][0], &reports[r], sizeof reports[r]);
        close(fds[r][0]);
        assert_int_equal(waitpid(pids[r], &status, 0), pids[r]);
        if (n != (ssize_t)sizeof reports[r] || status != 0) {
            fail_msg("rank %d: %zd bytes of a report, wait status %d", r, n, status);
        }
    }
}

static void expect_ok(const struct job *t) {
    run(t);
    for (int r = 0; r < t->ranks; r++) {
        if (reports[r].status != RONDO_OK) {
            fail_msg("rank %d: %s", r, reports[r].text);
        }
        assert_memory_equal(reports[r].key, reports[0].key, RDI_KEY_BYTES);
    }
}

static void expect_error(int rank, rondo_status status, const char *word1, const char *word2) {
    const struct report *r = &reports[rank];
    if (r->status != status || strstr(r->text, word1) == NULL || strstr(r->text, word2) == NULL) {
        fail_msg("rank %d: %s '%s' is not %s with '%s' and '%s'", rank,
                 rondo_status_name(r->status), r->text, rondo_status_name(status), word1, word2);
    }
}

// ---- Exchanges ----------------------------------------------------------------------------------

// A record whose length and bytes follow from rank and round.
static size_t make_record(uint8_t *out, int rank, int round, int world) {
    size_t len = round == 0 ? 0 : round == 1 ? RDI_EXCHANGE_MAX : (size_t)(rank * 37 % 900);
    for (size_t i = 0; i < len; i++) {
        out[i] = (uint8_t)((size_t)(rank * 7 + round * 3 + world) + i * 13);
    }
    return len;
}

static rondo_status exchange(struct rdi_bootstrap *b, int rank, int world) {
    uint8_t mine[RDI_EXCHANGE_MAX], wanted[RDI_EXCHANGE_MAX];
    void *all[RANKS_MAX];
    size_t lens[RANKS_MAX];
    for (int round = 0; round < 4; round++) {
        char name[32];
        snprintf(name, sizeof name, "round %d", round);
        size_t len = make_record(mine, rank, round, world);
        rondo_status s = rdi_bootstrap_exchange(b, name, mine, len, all, lens);
        if (s != RONDO_OK) {
            return s;
        }
        for (int r = 0; r < world; r++) {
            len = make_record(wanted, r, round, world);
            bool same = lens[r] == len && memcmp(all[r], wanted, len) == 0;
            free(all[r]);
            if (!same) {
                s = rdi_fail(RONDO_ERR_INTERNAL, "round %d: another record of rank %d", round, r);
            }
        }
        if (s != RONDO_OK) {
            return s;
        }
    }
    return RONDO_OK;
}

static void test_ranks(void **state) {
    (void)state;
    static const int sizes[] = {1, 2, 3, 8};
    for (size_t i = 0; i < 4; i++) {
        struct job t = {.ranks = sizes[i], .absent = -1, .body = exchange};
        expect_ok(&t);
        for (int r = 0; r < sizes[i]; r++) {
            assert_int_equal(reports[r].local_rank, r); // counted: all are on this host
        }
    }
}

// A job of one rank neither opens a port nor leaves a file.
static rondo_status look_at_one(struct rdi_bootstrap *b, int rank, int world) {
    (void)world;
    struct stat st;
    char path[512];
    snprintf(path, sizeof path, "%s/.config", home);
    if (b->ops != NULL || b->server != NULL || b->own != NULL || stat(path, &st) == 0) {
        return rdi_fail(RONDO_ERR_INTERNAL, "rank %d of 1 has a store or a key file", rank);
    }
    return exchange(b, 0, 1);
}

static void test_one_rank_has_no_network(void **state) {
    (void)state;
    struct job t = {.ranks = 1, .absent = -1, .body = look_at_one};
    expect_ok(&t);
}

static rondo_status wrong_exchange(struct rdi_bootstrap *b, int rank, int world) {
    (void)rank;
    (void)world;
    char big[RDI_EXCHANGE_MAX + 1] = {0};
    void *all[RANKS_MAX];
    size_t lens[RANKS_MAX];
    rondo_status s = rdi_bootstrap_exchange(b, "big", big, sizeof big, all, lens);
    return s == RONDO_ERR_INVALID ? rdi_bootstrap_exchange(b, "", big, 1, all, lens)
                                  : RONDO_ERR_INTERNAL;
}

static void test_wrong_exchange(void **state) {
    (void)state;
    for (int n = 1; n <= 2; n++) {
        struct job t = {.ranks = n, .absent = -1, .body = wrong_exchange};
        run(&t);
        for (int r = 0; r < n; r++) {
            expect_error(r, RONDO_ERR_INVALID, "exchange ''", "8192");
        }
    }
}

// The environment alone, as a launcher makes it.
static void from_environment(int rank, rondo_config *config) {
    char text[16];
    *config = (rondo_config)RONDO_CONFIG_INIT;
    snprintf(text, sizeof text, "%d", rank);
    setenv("RANK", text, 1);
    setenv("WORLD_SIZE", "2", 1);
    setenv("MASTER_ADDR", "localhost", 1);
    snprintf(text, sizeof text, "%d", port);
    setenv("MASTER_PORT", text, 1);
    config->rank = rank; // the harness compares it
}

static void test_environment(void **state) {
    (void)state;
    struct job t = {.ranks = 2, .absent = -1, .body = exchange, .tweak = from_environment};
    expect_ok(&t);
}

static void test_no_authentication(void **state) {
    (void)state;
    struct job t = {.ranks = 2, .absent = -1, .body = exchange, .options = "auth=none"};
    expect_ok(&t);
    assert_memory_equal(reports[0].key, (uint8_t[RDI_KEY_BYTES]){0}, RDI_KEY_BYTES);
    assert_non_null(strstr(reports[0].log, "no key"));
}

// ---- Somebody is missing ------------------------------------------------------------------------

static void test_missing_rank(void **state) {
    (void)state;
    struct job t = {.ranks = 3, .absent = 1, .timeout_ms = 600};
    run(&t);
    expect_error(0, RONDO_ERR_TIMEOUT, "waiting for ranks 1 (1 of 3)", "connect_timeout");
    expect_error(2, RONDO_ERR_TIMEOUT, "waiting for ranks 1 (1 of 3)", "connect_timeout");
    assert_true(reports[0].took_ms >= 550);
    assert_true(reports[0].took_ms < 30000);

    t = (struct job){.ranks = 4, .world = 12, .absent = -1, .timeout_ms = 600};
    run(&t);
    for (int r = 0; r < 4; r++) {
        expect_error(r, RONDO_ERR_TIMEOUT, "waiting for ranks 4-11 (8 of 12)",
                     "gave up after 0.6 s");
    }
}

static void test_missing_rank_0(void **state) {
    (void)state;
    struct job t = {.ranks = 3, .absent = 0, .timeout_ms = 500};
    run(&t);
    for (int r = 1; r < 3; r++) {
        expect_error(r, RONDO_ERR_TIMEOUT, "could not reach the store at 127.0.0.1", "is rank 0");
        assert_true(reports[r].took_ms < 30000);
    }
}

static void test_progress_is_logged(void **state) {
    (void)state;
    struct job t = {.ranks = 3, .absent = 2, .timeout_ms = 1500};
    run(&t);
    if (strstr(reports[0].log, "waiting for ranks 2 (1 of 3) at ") == NULL ||
        strstr(reports[1].log, "rank 1 of 3 waits at ") == NULL) {
        fail_msg("'%s', '%s'", reports[0].log, reports[1].log);
    }
}

static void test_list_of_ranks(void **state) {
    (void)state;
    char text[256];
    bool here[200] = {false};
    memset(here, true, sizeof here);
    here[5] = here[9] = false;
    rdi_list_missing(here, 16, text, sizeof text);
    assert_string_equal(text, "5, 9 (2 of 16)");
    here[6] = here[15] = false;
    rdi_list_missing(here, 16, text, sizeof text);
    assert_string_equal(text, "5, 6, 9, 15 (4 of 16)");
    here[7] = here[14] = here[13] = false;
    rdi_list_missing(here, 16, text, sizeof text);
    assert_string_equal(text, "5-7, 9, 13-15 (7 of 16)");
    for (int i = 0; i < 200; i++) {
        here[i] = i % 2 == 0;
    }
    rdi_list_missing(here, 200, text, sizeof text);
    assert_non_null(strstr(text, ", ... (100 of 200)"));
}

// A rank that comes to an exchange and finds another one gone.
static rondo_status leave_early(struct rdi_bootstrap *b, int rank, int world) {
    if (rank == 1) {
        return rdi_fail(RONDO_ERR_INVALID, "no such interface on rank 1");
    }
    return exchange(b, rank, world);
}

static void test_rank_leaves(void **state) {
    (void)state;
    struct job t = {.ranks = 3, .absent = -1, .body = leave_early};
    run(&t);
    expect_error(1, RONDO_ERR_INVALID, "no such interface", "");
    expect_error(0, RONDO_ERR_PEER, "rank 1 (host ",
                 "left while the ranks were meeting: no such interface on rank 1");
    expect_error(2, RONDO_ERR_PEER, "rank 1 (host ",
                 "left while the ranks were meeting: no such interface on rank 1");
    assert_true(reports[2].took_ms < 30000);
}

static rondo_status be_killed(struct rdi_bootstrap *b, int rank, int world) {
    if (rank == 1) {
        struct report r = {.status = RONDO_OK};
        _exit(write(report_fd, &r, sizeof r) == (ssize_t)sizeof r ? 0 : 1);
    }
    return exchange(b, rank, world);
}

static void test_rank_is_killed(void **state) {
    (void)state;
    struct job t = {.ranks = 3, .absent = -1, .body = be_killed};
    run(&t);
    expect_error(0, RONDO_ERR_PEER, "rank 1 (host ", ") ended without a word");
    expect_error(2, RONDO_ERR_PEER, "rank 1 (host ", ") ended without a word");
    assert_true(reports[0].took_ms < 30000);
}

static rondo_status leave_as_0(struct rdi_bootstrap *b, int rank, int world) {
    return rank == 0 ? rdi_fail(RONDO_ERR_INVALID, "rank 0 has no memory for that")
                     : exchange(b, rank, world);
}

static void test_rank_0_leaves(void **state) {
    (void)state;
    struct job t = {.ranks = 3, .absent = -1, .body = leave_as_0};
    run(&t);
    for (int r = 1; r < 3; r++) {
        expect_error(r, RONDO_ERR_PEER, "rank 0 (host ",
                     ") left while the ranks were meeting: rank 0 has no memory for that");
        assert_true(reports[r].took_ms < 30000);
    }
}

static rondo_status die(struct rdi_bootstrap *b, int rank, int world) {
    if (rank == 0) {
        rdi_store_server_stop(b->server); // as the end of the process would
        b->server = NULL;
        rdi_store_close(b->own);
        b->own = NULL;
        b->ops = NULL;
        return RONDO_OK;
    }
    return exchange(b, rank, world);
}

static void test_rank_0_dies(void **state) {
    (void)state;
    struct job t = {.ranks = 3, .absent = -1, .body = die};
    run(&t);
    for (int r = 1; r < 3; r++) {
        expect_error(r, RONDO_ERR_PEER, "rank 0 (host ", "ended or gave up");
        assert_true(reports[r].took_ms < 30000);
    }
}

// ---- Somebody does not belong -------------------------------------------------------------------

static void another_size(int rank, rondo_config *config) {
    if (rank == 1) {
        config->world_size = 3;
    }
}

static void test_world_sizes_differ(void **state) {
    (void)state;
    struct job t = {.ranks = 2, .absent = -1, .tweak = another_size};
    run(&t);
    expect_error(0, RONDO_ERR_BOOTSTRAP, "rank 1", "world size 3");
    expect_error(1, RONDO_ERR_BOOTSTRAP, "rank 1", "rank 0");
}

static void another_key(int rank, rondo_config *config) {
    static char key[] = "the key of rank 0 .";
    key[sizeof key - 2] = (char)('0' + rank);
    config->key = key;
    config->key_len = sizeof key - 1;
}

static void test_keys_differ(void **state) {
    (void)state;
    struct job t = {.ranks = 2, .absent = -1, .tweak = another_key, .timeout_ms = 600};
    run(&t);
    expect_error(1, RONDO_ERR_AUTH, "key", "rondo_config.key");
    assert_true(reports[1].took_ms < 10000);
    expect_error(0, RONDO_ERR_TIMEOUT, "waiting for ranks 1 (1 of 2)", "1 connection was refused");
    for (int r = 0; r < 2; r++) {
        assert_null(strstr(reports[r].text, "the key of rank"));
        assert_null(strstr(reports[r].log, "the key of rank"));
    }
}

static void both_rank_0(int rank, rondo_config *config) {
    if (rank == 1) {
        sleep_ms(300);
        config->rank = 0;
    }
}

static void test_port_in_use(void **state) {
    (void)state;
    char number[16];
    snprintf(number, sizeof number, "port %d", port);
    struct job t = {.ranks = 2, .absent = -1, .tweak = both_rank_0, .timeout_ms = 800};
    run(&t);
    expect_error(1, RONDO_ERR_BOOTSTRAP, number, "MASTER_PORT");
}

// A port scanner, and a program that talks to every port, while a job starts.
static void test_strangers(void **state) {
    (void)state;
    fflush(NULL);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        alarm(60);
        int open[50] = {0};
        for (int i = 0; i < 50;) {
            int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
            struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
            a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
            if (connect(fd, (struct sockaddr *)&a, sizeof a) != 0) {
                close(fd);
                sleep_ms(2);
                continue;
            }
            if (i % 2 == 0) {
                send(fd, "GET / HTTP/1.0\r\n\r\n", 18, MSG_NOSIGNAL);
            }
            open[i++] = fd; // and hold on to it
        }
        for (int i = 0; i < 50; i++) {
            close(open[i]);
        }
        _exit(0);
    }
    struct job t = {.ranks = 3, .absent = 2, .timeout_ms = 800};
    run(&t); // long enough for all of them to come
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    expect_error(0, RONDO_ERR_TIMEOUT, "waiting for ranks 2 (1 of 3)", "connections were refused");
    t = (struct job){.ranks = 3, .absent = -1, .body = exchange};
    expect_ok(&t);
}

// ---- Jobs one after the other -------------------------------------------------------------------

static const rondo_store_ops *const tcp_ops = &rdi_store_tcp_ops;

static void test_same_port_again(void **state) {
    (void)state;
    struct job t = {.ranks = 3, .absent = -1, .body = exchange};
    for (int i = 0; i < 5; i++) {
        expect_ok(&t);
    }
}

static rondo_status init_again(struct rdi_bootstrap *b, int rank, int world) {
    rondo_status s = exchange(b, rank, world);
    struct report r;
    struct job t = {.ranks = world, .absent = -1, .body = exchange};
    port++; // another job of the same ranks, while this one is open
    for (int i = 0; i < 3 && s == RONDO_OK; i++) {
        s = run_rank(&t, rank, &r); // and three on one port, without a pause
    }
    return s;
}

static void test_several_in_one_process(void **state) {
    (void)state;
    struct job t = {.ranks = 3, .absent = -1, .body = init_again};
    expect_ok(&t);
}

// A store in a process of its own: the ranks are forks of this one, which therefore has no threads.
static struct rdi_job launcher_job;
static pid_t store_pid;

static void start_store(const char *secret) {
    int ready[2], gate[2];
    char c;
    assert_int_equal(rdi_key_set(&launcher_job, secret, strlen(secret)), RONDO_OK);
    assert_int_equal(pipe(ready), 0);
    assert_int_equal(pipe(gate), 0);
    fflush(NULL);
    store_pid = fork();
    assert_true(store_pid >= 0);
    if (store_pid == 0) {
        struct rdi_store_server *server;
        alarm(100);
        close(gate[1]);
        if (rdi_store_server_start("127.0.0.1", port, &launcher_job, &server) != RONDO_OK ||
            write(ready[1], "x", 1) != 1 || read(gate[0], &c, 1) != 0) {
            exit(1);
        }
        rdi_store_server_stop(server);
        exit(0);
    }
    close(gate[0]);
    close(ready[1]);
    store_gate = gate[1];
    assert_int_equal(read(ready[0], &c, 1), 1);
    close(ready[0]);
}

static void stop_store(void) {
    int status;
    close(store_gate);
    store_gate = 0;
    assert_int_equal(waitpid(store_pid, &status, 0), store_pid);
    assert_int_equal(status, 0);
}

// A launcher's store serves several jobs, and what one has left does not confuse the next.

static void launchers_store(int rank, rondo_config *config) {
    from_environment(rank, config);
    char text[16];
    snprintf(text, sizeof text, "%d", config->world_size);
    setenv("WORLD_SIZE", "3", 1);
    setenv(RDI_ENV_STORE, "launcher", 1);
    config->key = "the launcher's key";
    config->key_len = 18;
}

static void test_launchers_store(void **state) {
    (void)state;
    start_store("the launcher's key");
    struct job t = {.ranks = 3, .absent = -1, .body = exchange, .tweak = launchers_store};
    for (int i = 0; i < 4; i++) {
        expect_ok(&t);
    }
    t = (struct job){.ranks = 3, .absent = 1, .timeout_ms = 600, .tweak = launchers_store};
    run(&t);
    expect_error(0, RONDO_ERR_TIMEOUT, "waiting for ranks 1 (1 of 3)", "");
    expect_error(2, RONDO_ERR_TIMEOUT, "waiting for ranks 1 (1 of 3)", "");
    t.absent = 0;
    run(&t);
    // The one that gives up first tells the other one, which is as late.
    assert_true(reports[1].status == RONDO_ERR_TIMEOUT || reports[2].status == RONDO_ERR_TIMEOUT);
    for (int r = 1; r < 3; r++) {
        expect_error(r, reports[r].status, " of 3 waited 0.6 s", "did rank 0 start");
    }
    t = (struct job){.ranks = 3, .absent = -1, .body = leave_as_0, .tweak = launchers_store};
    run(&t);
    expect_error(2, RONDO_ERR_PEER, "rank 0 (host ",
                 ") left while the ranks were meeting: rank 0 has no memory for that");
    t.body = exchange;
    expect_ok(&t); // after all that
    stop_store();
}

// ---- The caller's own store ---------------------------------------------------------------------

// Rondo's client, with a key of its own, stands for whatever the caller has.
static void *open_callers_store(int rank) {
    (void)rank;
    struct rdi_store *s;
    return rdi_store_connect("127.0.0.1", port, &launcher_job, 20000, &s) == RONDO_OK ? s : NULL;
}

static rondo_status broken_set(void *store, const char *key, const void *value, size_t len,
                               int timeout_ms) {
    (void)store;
    (void)key;
    (void)value;
    (void)len;
    (void)timeout_ms;
    return RONDO_ERR_SYSTEM;
}

static void ranks_0_key(int rank, rondo_config *config) {
    if (rank == 0) {
        config->key = "a key that only rank 0 was given";
        config->key_len = 32;
    }
}

static void test_callers_store(void **state) {
    (void)state;
    start_store("the caller's secret");
    struct job t = {.ranks = 3,
                    .absent = -1,
                    .body = exchange,
                    .store_ops = tcp_ops,
                    .open_store = open_callers_store};
    uint8_t key[RDI_KEY_BYTES];
    expect_ok(&t);
    memcpy(key, reports[0].key, sizeof key);
    assert_memory_not_equal(key, (uint8_t[RDI_KEY_BYTES]){0}, sizeof key);
    expect_ok(&t); // again on the same store, with another key
    assert_memory_not_equal(key, reports[0].key, sizeof key);

    t.tweak = ranks_0_key;
    t.timeout_ms = 600;
    run(&t);
    expect_error(1, RONDO_ERR_AUTH, "rank 1", "in the same way");
    t.tweak = NULL;
    t.absent = 2;
    run(&t);
    expect_error(1, RONDO_ERR_TIMEOUT, "waiting for ranks 2 (1 of 3)", "the caller's store");

    rondo_store_ops broken = rdi_store_tcp_ops;
    broken.set = broken_set;
    t.store_ops = &broken;
    t.absent = 0;
    run(&t);
    expect_error(1, RONDO_ERR_SYSTEM, "the caller's store failed in set('rondo/hello/1')",
                 "RONDO_ERR_SYSTEM");
    broken.set = NULL;
    run(&t);
    expect_error(1, RONDO_ERR_INVALID, "store_ops", "");
    stop_store();
}

int main(void) {
    // What the surroundings say must not reach the ranks.
    static const char *const names[] = {"RANK",
                                        "WORLD_SIZE",
                                        "LOCAL_RANK",
                                        "LOCAL_WORLD_SIZE",
                                        "MASTER_ADDR",
                                        "MASTER_PORT",
                                        "OMPI_COMM_WORLD_RANK",
                                        "MPI_LOCALRANKID",
                                        "SLURM_STEP_NUM_TASKS",
                                        "RONDO_KEY_FILE",
                                        "RONDO_AUTH",
                                        RDI_ENV_KEY_FD,
                                        RDI_ENV_STORE};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        unsetenv(names[i]);
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_list_of_ranks),
        cmocka_unit_test_setup_teardown(test_one_rank_has_no_network, setup, teardown),
        cmocka_unit_test_setup_teardown(test_ranks, setup, teardown),
        cmocka_unit_test_setup_teardown(test_wrong_exchange, setup, teardown),
        cmocka_unit_test_setup_teardown(test_environment, setup, teardown),
        cmocka_unit_test_setup_teardown(test_no_authentication, setup, teardown),
        cmocka_unit_test_setup_teardown(test_missing_rank, setup, teardown),
        cmocka_unit_test_setup_teardown(test_missing_rank_0, setup, teardown),
        cmocka_unit_test_setup_teardown(test_progress_is_logged, setup, teardown),
        cmocka_unit_test_setup_teardown(test_rank_leaves, setup, teardown),
        cmocka_unit_test_setup_teardown(test_rank_is_killed, setup, teardown),
        cmocka_unit_test_setup_teardown(test_rank_0_leaves, setup, teardown),
        cmocka_unit_test_setup_teardown(test_rank_0_dies, setup, teardown),
        cmocka_unit_test_setup_teardown(test_world_sizes_differ, setup, teardown),
        cmocka_unit_test_setup_teardown(test_keys_differ, setup, teardown),
        cmocka_unit_test_setup_teardown(test_port_in_use, setup, teardown),
        cmocka_unit_test_setup_teardown(test_strangers, setup, teardown),
        cmocka_unit_test_setup_teardown(test_same_port_again, setup, teardown),
        cmocka_unit_test_setup_teardown(test_several_in_one_process, setup, teardown),
        cmocka_unit_test_setup_teardown(test_launchers_store, setup, teardown),
        cmocka_unit_test_setup_teardown(test_callers_store, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
