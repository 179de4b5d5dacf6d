// SPDX-License-Identifier: MIT
// Ranks that are killed or stopped while they meet: everybody else is told who, at once; and what must not be taken
// for that: a rank that is busy, a job that is suspended as a whole, a rank that comes twice.
#include "transport/bootstrap/exchange.h"

#include <arpa/inet.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>

#define RANKS 3
#define LAUNCHER RANKS // its place among the processes
#define GRACE_MS 400
#define CONNECT_S 60 // connect_timeout: nobody may need it
#define SECRET "a key of this test's own"

// Where a rank is when its end comes.
enum stage {
    ON_THE_ROLL, // known to the store, has said no hello
    WELCOME,     // has said hello, and reads nothing
    HAS_MET,     // between two exchanges
};

// What the ranks of a case do.
struct script {
    bool launcher; // serves the store, as process LAUNCHER
    int victim;    // -1: nobody
    enum stage stage;
    int busy_ms;  // rank 1, between two exchanges, without asking anything
    bool held;    // rank 1 goes on between two exchanges when it is let
    bool through; // rank 1 leaves when all have met, and the others ask whether anybody was lost
};

struct report {
    rondo_status status;
    char text[RDI_ERROR_TEXT];
};

static struct process {
    pid_t pid;
    int ready, report, gate; // this end
} all[RANKS + 1];
static int port;

static void sleep_ms(int ms) {
    struct timespec t = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000L};
    while (nanosleep(&t, &t) != 0) {}
}

static uint64_t now_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

// ---- A rank --------------------------------------------------------------------------------------

static int ready_fd, gate_fd;

static void say_ready(void) {
    if (write(ready_fd, "r", 1) != 1) {
        _exit(2);
    }
}

// Until the test ends this process, or lets it go on.
static void wait_at_gate(void) {
    char c;
    while (read(gate_fd, &c, 1) < 0) {}
}

static void job_of(struct rdi_job *job, int rank) {
    *job = (struct rdi_job){.rank = rank, .size = RANKS};
    rdi_host_find(job);
    if (rdi_key_set(job, SECRET, strlen(SECRET)) != RONDO_OK) {
        _exit(2);
    }
}

// A rank that is on its way into the meeting and goes no further than its stage.
static void half_a_rank(const struct script *t, int rank) {
    struct rdi_store_limits limits = rdi_store_default_limits;
    struct rdi_store_server *server;
    struct rdi_store *st;
    struct rdi_job job;
    char key[32];
    bool serves = rank == 0 && !t->launcher;
    job_of(&job, rank);
    limits.one_meeting = true;
    if ((serves &&
         rdi_store_server_start_limited("127.0.0.1", port, &job, &limits, &server) != RONDO_OK) ||
        rdi_store_connect_vigilant("127.0.0.1", port, &job, 1000 * CONNECT_S, serves ? 0 : GRACE_MS,
                                   3000, &st) != RONDO_OK ||
        rdi_store_come(st, &job) != RONDO_OK) {
        _exit(3);
    }
    if (t->stage == WELCOME) {
        snprintf(key, sizeof key, "rondo/hello/%d", rank);
        if (rdi_store_tcp_ops.set(st, key, "a nonce of mine.", RDI_NONCE_BYTES, 5000) != RONDO_OK) {
            _exit(3);
        }
    }
    say_ready();
    wait_at_gate();
    _exit(0);
}

static rondo_status exchange(struct rdi_bootstrap *b, const char *name) {
    void *records[RANKS];
    size_t lens[RANKS];
    rondo_status s = rdi_bootstrap_exchange(b, name, name, strlen(name), records, lens);
    for (int r = 0; r < RANKS && s == RONDO_OK; r++) {
        free(records[r]);
    }
    return s;
}

// Who asks later, when others have ended as well, hears of the same rank.
static rondo_status ask_again(const struct script *t, struct rdi_bootstrap *b) {
    char said[RDI_ERROR_TEXT], first[RDI_ERROR_TEXT];
    snprintf(said, sizeof said, "%s", rondo_last_error());
    rondo_status s = rdi_bootstrap_first_lost(b, first);
    bool store_lives = t->victim > 0 || (t->launcher && t->victim == 0);
    if (store_lives && (s != RONDO_OK || strncmp(first, said, strcspn(said, ")")) != 0)) {
        return rdi_fail(RONDO_ERR_INTERNAL, "the store said '%s', and then '%s'", said, first);
    }
    rdi_set_last_error(said);
    return RONDO_ERR_PEER;
}

// Place and store come from the environment, as a launcher has it.
static rondo_status meet(const struct script *t, int rank) {
    rondo_config config = RONDO_CONFIG_INIT;
    struct rdi_options options;
    struct rdi_env env;
    struct rdi_job job;
    struct rdi_bootstrap *b = NULL;
    char text[128];
    config.key = SECRET;
    config.key_len = strlen(SECRET);
    snprintf(text, sizeof text, "connect_timeout=%ds,stop_grace=%dms", CONNECT_S, GRACE_MS);
    rdi_env_system(&env, NULL, NULL);
    rondo_status s = rdi_options_load(&options, text, getenv);
    s = s == RONDO_OK ? rdi_bootstrap_open(&config, &options, &env, &job, &b) : s;
    if (s != RONDO_OK) {
        return s;
    }
    s = exchange(b, "first");
    if (s == RONDO_OK && (rank == t->victim || (t->held && rank == 1))) {
        say_ready();
        wait_at_gate();
    }
    if (s == RONDO_OK && rank == 1) {
        sleep_ms(t->busy_ms);
    }
    s = s == RONDO_OK ? exchange(b, "second") : s;
    s = s == RONDO_ERR_PEER && rank != t->victim ? ask_again(t, b) : s;
    if (s == RONDO_OK && t->through && rank != 1) {
        char first[RDI_ERROR_TEXT];
        wait_at_gate();
        s = rdi_bootstrap_first_lost(b, first) == RONDO_AGAIN
                ? RONDO_OK
                : rdi_fail(RONDO_ERR_INTERNAL, "the store said '%s'", first);
    } else if (t->through) {
        rdi_set_last_error("");
    }
    rdi_bootstrap_close(b);
    rdi_job_clear(&job);
    return s;
}

static void be_rank(const struct script *t, int rank, int report_fd) {
    struct report r = {.status = RONDO_OK};
    char text[16];
    snprintf(text, sizeof text, "%d", rank);
    setenv("RANK", text, 1);
    setenv("WORLD_SIZE", "3", 1);
    setenv("MASTER_ADDR", "127.0.0.1", 1);
    snprintf(text, sizeof text, "%d", port);
    setenv("MASTER_PORT", text, 1);
    if (t->launcher) {
        setenv(RDI_ENV_STORE, "launcher", 1);
    }
    if (rank == t->victim && t->stage != HAS_MET) {
        half_a_rank(t, rank);
    }
    r.status = meet(t, rank);
    snprintf(r.text, sizeof r.text, "%s", r.status == RONDO_OK ? "" : rondo_last_error());
    exit(write(report_fd, &r, sizeof r) == (ssize_t)sizeof r ? 0 : 1);
}

static void be_launcher(void) {
    struct rdi_store_server *server;
    struct rdi_job job;
    job_of(&job, -1);
    if (rdi_store_server_start("127.0.0.1", port, &job, &server) != RONDO_OK) {
        _exit(3);
    }
    say_ready();
    wait_at_gate();
    rdi_store_server_stop(server);
    rdi_job_clear(&job);
    exit(0);
}

// ---- The test's side -----------------------------------------------------------------------------

static void start(const struct script *t, int who) {
    int ready[2], report[2], gate[2];
    assert_int_equal(pipe(ready), 0);
    assert_int_equal(pipe(report), 0);
    assert_int_equal(pipe(gate), 0);
    fflush(NULL);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        alarm(100);
        for (int i = 0; i <= RANKS; i++) {
            close(all[i].gate);
        }
        close(gate[1]);
        ready_fd = ready[1];
        gate_fd = gate[0];
        if (who == LAUNCHER) {
            be_launcher();
        }
        be_rank(t, who, report[1]);
    }
    close(ready[1]);
    close(report[1]);
    close(gate[0]);
    all[who] = (struct process){pid, ready[0], report[0], gate[1]};
}

static void await_ready(int who) {
    char c;
    assert_int_equal(read(all[who].ready, &c, 1), 1);
}

// Waits until so many connections to the port stand: those that wait there show it nowhere else.
static void await_connections(int n) {
    char line[256];
    for (int found = 0; found < n; sleep_ms(5)) {
        FILE *f = fopen("/proc/net/tcp", "re");
        assert_non_null(f);
        found = 0;
        while (fgets(line, sizeof line, f) != NULL) {
            unsigned local, state;
            if (sscanf(line, " %*u: %*x:%x %*x:%*x %x", &local, &state) == 2) {
                found += (int)local == port && state == 1;
            }
        }
        fclose(f);
    }
    sleep_ms(30);
}

static void let_go(int who) {
    if (all[who].gate >= 0) {
        close(all[who].gate);
        all[who].gate = -1;
    }
}

static void reap(int who) {
    int status;
    if (all[who].pid > 0) {
        let_go(who);
        close(all[who].ready);
        close(all[who].report);
        assert_int_equal(waitpid(all[who].pid, &status, 0), all[who].pid);
        all[who].pid = 0;
    }
}

static void begin(const struct script *t) {
    for (int i = 0; i <= RANKS; i++) {
        all[i] = (struct process){.ready = -1, .report = -1, .gate = -1};
    }
    if (t->launcher) {
        start(t, LAUNCHER);
        await_ready(LAUNCHER);
    }
    for (int r = RANKS - 1; r >= 0; r--) {
        start(t, r);
    }
}

static void end(void) {
    for (int i = 0; i <= RANKS; i++) {
        reap(i);
    }
}

static struct report report_of(int rank) {
    struct report r;
    assert_int_equal(read(all[rank].report, &r, sizeof r), sizeof r);
    return r;
}

static void expect_named(int rank, int culprit, const char *what) {
    struct report r = report_of(rank);
    char who[64];
    if (culprit == LAUNCHER) {
        snprintf(who, sizeof who, "the launcher (host ");
    } else {
        snprintf(who, sizeof who, "rank %d (host ", culprit);
    }
    char pid[32];
    snprintf(pid, sizeof pid, ", pid %d)", (int)all[culprit].pid);
    if (r.status != RONDO_ERR_PEER || strncmp(r.text, who, strlen(who)) != 0 ||
        strstr(r.text, pid) == NULL || strstr(r.text, what) == NULL) {
        fail_msg("rank %d: %s '%s' does not begin with '%s', pid %d, '%s'", rank,
                 rondo_status_name(r.status), r.text, who, (int)all[culprit].pid, what);
    }
}

// Returns when it does no more.
static void strike(int who, int number) {
    int status;
    assert_int_equal(kill(all[who].pid, number), 0);
    if (number == SIGSTOP) {
        assert_int_equal(waitpid(all[who].pid, &status, WUNTRACED), all[who].pid);
        assert_true(WIFSTOPPED(status));
    } else {
        siginfo_t info;
        assert_int_equal(waitid(P_PID, (id_t)all[who].pid, &info, WEXITED | WNOWAIT), 0);
    }
}

// All that are left name `victim`, long before connect_timeout.
static void lose(const struct script *t, int victim, int signal_number, const char *what) {
    begin(t);
    if (victim != LAUNCHER) {
        await_ready(victim);
    }
    await_connections(RANKS);
    uint64_t before = now_ms();
    strike(victim, signal_number);
    for (int r = 0; r < RANKS; r++) {
        if (r != victim) {
            expect_named(r, victim, what);
        }
    }
    assert_in_range(now_ms() - before, 0, 1000 * CONNECT_S / 4);
    if (signal_number == SIGSTOP && t->stage == HAS_MET && (victim > 0 || t->launcher)) {
        // Awake, it learns that the others went on without it; one that serves the store has all that they said, and
        // learns it from the watch.
        kill(all[victim].pid, SIGCONT);
        let_go(victim);
        assert_int_equal(report_of(victim).status, RONDO_ERR_PEER);
    }
    kill(all[victim].pid, SIGKILL);
    end();
}

static void test_killed(void **state) {
    (void)state;
    for (int launcher = 0; launcher < 2; launcher++) {
        for (int stage = ON_THE_ROLL; stage <= HAS_MET; stage++) {
            for (int victim = 0; victim < RANKS; victim += 1 + launcher) {
                struct script t = {launcher, victim, (enum stage)stage, 0, false, false};
                lose(&t, victim, SIGKILL,
                     victim == 0 && !launcher ? "ended" : "ended without a word");
            }
        }
    }
}

static void test_stopped(void **state) {
    (void)state;
    for (int launcher = 0; launcher < 2; launcher++) {
        for (int stage = ON_THE_ROLL; stage <= HAS_MET; stage += HAS_MET) {
            for (int victim = 0; victim < 2; victim++) {
                struct script t = {launcher, victim, (enum stage)stage, 0, false, false};
                lose(&t, victim, SIGSTOP, "stopped");
            }
        }
    }
}

// One that is through leaves before the others are: that is no loss.
static void test_through(void **state) {
    (void)state;
    for (int launcher = 0; launcher < 2; launcher++) {
        struct script t = {.launcher = launcher, .victim = -1, .stage = HAS_MET, .through = true};
        begin(&t);
        assert_int_equal(report_of(1).status, RONDO_OK); // it has left
        for (int r = 0; r < RANKS; r += 2) {
            let_go(r);
            struct report got = report_of(r);
            if (got.status != RONDO_OK) {
                fail_msg("rank %d: %s", r, got.text);
            }
        }
        end();
    }
}

static void test_launcher_lost(void **state) {
    (void)state;
    struct script t = {.launcher = true, .victim = -1, .stage = HAS_MET, .held = true};
    for (int i = 0; i < 2; i++) {
        begin(&t);
        await_ready(1);
        strike(LAUNCHER, i == 0 ? SIGKILL : SIGSTOP);
        let_go(1);
        for (int r = 0; r < RANKS; r++) {
            expect_named(r, LAUNCHER, i == 0 ? "ended" : "stopped");
        }
        kill(all[LAUNCHER].pid, SIGKILL);
        end();
    }
}

// A store that accepts connections, as its kernel does, and says nothing.
static void test_stopped_before_hello(void **state) {
    (void)state;
    struct script t = {.launcher = true, .victim = -1};
    for (int i = 0; i <= RANKS; i++) {
        all[i] = (struct process){.ready = -1, .report = -1, .gate = -1};
    }
    start(&t, LAUNCHER);
    await_ready(LAUNCHER);
    strike(LAUNCHER, SIGSTOP);
    start(&t, 1);
    struct report r = report_of(1);
    if (r.status != RONDO_ERR_PEER || strstr(r.text, "is stopped") == NULL) {
        fail_msg("%s %s", rondo_status_name(r.status), r.text);
    }
    kill(all[LAUNCHER].pid, SIGKILL);
    end();
}

static void expect_ok(void) {
    for (int r = 0; r < RANKS; r++) {
        struct report got = report_of(r);
        if (got.status != RONDO_OK) {
            fail_msg("rank %d: %s", r, got.text);
        }
    }
    end();
}

static void test_busy_is_alive(void **state) {
    (void)state;
    for (int launcher = 0; launcher < 2; launcher++) {
        struct script t = {.launcher = launcher, .victim = -1, .busy_ms = 3 * GRACE_MS};
        begin(&t);
        expect_ok();
    }
}

// Ctrl-Z, or a batch system that suspends the job.
static void test_all_are_suspended(void **state) {
    (void)state;
    for (int launcher = 0; launcher < 2; launcher++) {
        struct script t = {.launcher = launcher, .victim = -1, .held = true};
        begin(&t);
        await_ready(1);
        await_connections(RANKS);
        for (int i = 0; i < RANKS + launcher; i++) {
            strike(i, SIGSTOP);
        }
        sleep_ms(3 * GRACE_MS);
        for (int i = 0; i < RANKS + launcher; i++) {
            kill(all[i].pid, SIGCONT);
        }
        let_go(1);
        expect_ok();
    }
}

// Whoever comes as a rank that is there already waits for the next meeting, and disturbs nobody.
static void test_twice(void **state) {
    (void)state;
    struct script t = {.victim = -1, .held = true};
    begin(&t);
    await_ready(1);
    struct rdi_job job;
    struct rdi_store *st;
    job_of(&job, 1);
    assert_int_equal(rdi_store_connect("127.0.0.1", port, &job, 10000, &st), RONDO_OK);
    assert_int_equal(rdi_store_come(st, &job), RONDO_AGAIN);
    rdi_store_close(st);
    let_go(1);
    rdi_job_clear(&job);
    expect_ok();
}

// Another job of the launcher has the same address, port and key.
static void test_other_job(void **state) {
    (void)state;
    struct rdi_store_limits limits = rdi_store_default_limits;
    struct rdi_store_server *server;
    struct rdi_store *st;
    struct rdi_job job;
    static const uint64_t others[] = {8, 7,
                                      0}; // another job, the same, one that nothing is told of
    limits.one_meeting = true;
    job_of(&job, 0);
    job.launch = 7;
    assert_int_equal(rdi_store_server_start_limited("127.0.0.1", port, &job, &limits, &server),
                     RONDO_OK);
    for (int i = 0; i < 3; i++) {
        job.rank = i;
        job.launch = others[i];
        assert_int_equal(rdi_store_connect("127.0.0.1", port, &job, 10000, &st), RONDO_OK);
        assert_int_equal(rdi_store_come(st, &job), i == 0 ? RONDO_AGAIN : RONDO_OK);
        assert_true(i > 0 || strstr(rondo_last_error(), "another job") != NULL);
        rdi_store_close(st);
    }
    rdi_store_server_stop(server);
    rdi_job_clear(&job);
}

// ---- A port ---------------------------------------------------------------------------------------

static int setup(void **state) {
    (void)state;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), on = 1;
    struct sockaddr_in a = {.sin_family = AF_INET};
    socklen_t len = sizeof a;
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    // Below those that other programs' connections get.
    for (port = 15000 + (int)(getpid() % 5000);; port++) {
        a.sin_port = htons((uint16_t)port);
        if (bind(fd, (struct sockaddr *)&a, len) == 0) {
            break;
        }
    }
    close(fd);
    return 0;
}

int main(void) {
    static const char *const names[] = {"LOCAL_RANK",   "LOCAL_WORLD_SIZE", "MASTER_ADDR",
                                        "MASTER_PORT",  "RONDO_KEY_FILE",   "RONDO_AUTH",
                                        RDI_ENV_KEY_FD, RDI_ENV_STORE,      RDI_ENV_RESTART};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        unsetenv(names[i]);
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_killed, setup),
        cmocka_unit_test_setup(test_stopped, setup),
        cmocka_unit_test_setup(test_through, setup),
        cmocka_unit_test_setup(test_launcher_lost, setup),
        cmocka_unit_test_setup(test_stopped_before_hello, setup),
        cmocka_unit_test_setup(test_busy_is_alive, setup),
        cmocka_unit_test_setup(test_all_are_suspended, setup),
        cmocka_unit_test_setup(test_twice, setup),
        cmocka_unit_test_setup(test_other_job, setup),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
