// SPDX-License-Identifier: MIT
#include "jobs.h"

#include "transport/bootstrap/bootstrap.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define STORE_MS 20000

double job_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

double job_patience(void) {
    const char *text = getenv("RONDO_TEST_PATIENCE");
    double x = text != NULL ? atof(text) : 1;
    return x >= 1 ? x : 1;
}

// ---- In a rank -----------------------------------------------------------------------------------

// The store's functions, with the test's hand in what is set.
static rondo_status altered_set(void *store, const char *key, const void *value, size_t len,
                                int timeout_ms) {
    struct job *j = ((struct rank *)store)->arg;
    void *copy = malloc(len > 0 ? len : 1);
    if (copy == NULL) {
        return RONDO_ERR_NOMEM;
    }
    memcpy(copy, value, len);
    if (j->alter != NULL) {
        j->alter(j->alter_arg, copy, len);
    }
    rondo_status s =
        rdi_store_tcp_ops.set(((struct rank *)store)->store, key, copy, len, timeout_ms);
    free(copy);
    return s;
}

static rondo_status plain_get(void *store, const char *key, void **value, size_t *len,
                              int timeout_ms) {
    return rdi_store_tcp_ops.get(((struct rank *)store)->store, key, value, len, timeout_ms);
}

static void print_line(void *arg, rondo_log_level level, const char *line) {
    const struct rank *r = arg;
    if (getenv("ATTACK_VERBOSE") != NULL) {
        fprintf(stderr, "    rank %d, log %d: %s\n", r->rank, (int)level, line);
    }
}

static rondo_status init(struct rank *r, struct job *j, int port) {
    rondo_config config = RONDO_CONFIG_INIT;
    config.rank = r->rank;
    config.world_size = r->size;
    config.local_rank = r->rank;
    config.key = JOB_KEY;
    config.key_len = sizeof JOB_KEY - 1;
    config.options = r->options;
    config.log = print_line;
    config.log_arg = r;
    rondo_status s = rdi_store_connect("127.0.0.1", port, &j->identity, STORE_MS, &r->store);
    if (s != RONDO_OK) {
        return s;
    }
    r->ops = (rondo_store_ops){.size = sizeof r->ops, .set = altered_set, .get = plain_get};
    r->arg = j;
    config.store_ops = &r->ops;
    config.store = r;
    return rondo_init(&config, &r->comm);
}

static uint64_t mix(uint64_t hash, const void *bytes, size_t n) {
    const uint8_t *p = bytes;
    for (size_t i = 0; i < n; i++) {
        hash = (hash ^ p[i]) * UINT64_C(0x100000001b3);
    }
    return hash;
}

rondo_status rank_reduce(struct rank *r, size_t count, int round) {
    float *x = calloc(count, sizeof *x), *sum = calloc(count, sizeof *sum);
    if (x == NULL || sum == NULL) {
        abort();
    }
    for (size_t i = 0; i < count; i++) {
        x[i] = (float)((int)(i % 97) + round % 5 + r->rank);
    }
    rondo_status s = rondo_all_reduce(x, sum, count, RONDO_F32, RONDO_SUM, r->comm);
    for (size_t i = 0; i < count && s == RONDO_OK; i++) {
        float right = (float)(r->size * ((int)(i % 97) + round % 5) + r->size * (r->size - 1) / 2);
        s = sum[i] == right ? RONDO_OK : RONDO_RETRY_STEP;
    }
    r->report.sum = mix(r->report.sum, sum, s == RONDO_OK ? count * sizeof *sum : 0);
    free(x);
    free(sum);
    return s;
}

void rank_report(struct rank *r, rondo_status s, double began) {
    rondo_comm_stats stats = {.size = sizeof stats};
    r->report.status = s;
    r->report.seconds = job_now() - began;
    snprintf(r->report.text, sizeof r->report.text, "%s", s == RONDO_OK ? "" : rondo_last_error());
    if (r->comm != NULL && rondo_comm_get_stats(r->comm, &stats) == RONDO_OK) {
        r->report.strangers = stats.strangers;
    }
    char bytes[sizeof r->report];
    memcpy(bytes, &r->report, sizeof bytes);
    if (write(r->report_fd, bytes, sizeof bytes) != (ssize_t)sizeof bytes) {
        abort();
    }
}

void rank_join(struct rank *r) {
    double began = job_now();
    rondo_status s = RONDO_OK;
    for (int round = 0; round < 3 && s == RONDO_OK; round++) {
        s = rank_reduce(r, round == 1 ? JOB_LARGE : 500, round);
    }
    if (s != RONDO_OK) {
        rank_report(r, s, began);
        _exit(9);
    }
}

void rank_wait(struct rank *r) {
    char c;
    while (read(r->gate, &c, 1) < 0 && errno == EINTR) {}
}

void rank_victim(struct rank *r) {
    rank_join(r);
    double began = job_now();
    rank_report(r, rank_reduce(r, JOB_LARGE, 7), began);
    rank_wait(r);
}

// ---- The job -------------------------------------------------------------------------------------

static void run_rank(struct job *j, int rank, int port, int report_fd, int gate) {
    struct rank r = {.rank = rank, .size = j->size, .report_fd = report_fd, .gate = gate};
    r.options = j->options[rank] != NULL ? j->options[rank] : j->options[0];
    r.report.sum = UINT64_C(0xcbf29ce484222325);
    double began = job_now();
    rondo_status s = init(&r, j, port);
    if (s != RONDO_OK) {
        rank_report(&r, s, began);
    } else {
        j->body[rank](&r);
        (void)rondo_comm_destroy(r.comm); // a spoiled one may say so
    }
    rdi_store_close(r.store);
    rdi_job_clear(&j->identity);
    exit(0); // and not _exit(): the leak checker has its say
}

// In a child: closes all descriptors but these, which become 50 to 52, lest other jobs' pipes stay open.
static void keep_only(const int keep[3]) {
    int fds[3];
    for (int k = 0; k < 3; k++) {
        fds[k] = fcntl(keep[k], F_DUPFD, 200);
    }
    for (int k = 0; k < 3; k++) {
        dup2(fds[k], 50 + k);
    }
    close_range(3, 49, 0);
    close_range(53, ~0u, 0);
}

static void start_rank(struct job *j, int rank, const int keep[3]) {
    int port = 0;
    keep_only(keep);
    if (read(50, &port, sizeof port) != (ssize_t)sizeof port) {
        _exit(9);
    }
    close(50);
    run_rank(j, rank, port, 51, 52);
}

// In a process of its own: the test has no threads, so that it can fork ranks at any time.
static void serve(struct job *j, int ports, int gate) {
    struct rdi_store_server *server;
    char c;
    if (rdi_store_server_start("127.0.0.1", 0, &j->identity, &server) != RONDO_OK) {
        _exit(9);
    }
    int port = rdi_store_server_port(server);
    for (int i = 0; i < j->size; i++) {
        if (write(ports, &port, sizeof port) != (ssize_t)sizeof port) {
            _exit(9);
        }
    }
    while (read(gate, &c, 1) < 0 && errno == EINTR) {}
    rdi_store_server_stop(server);
    rdi_job_clear(&j->identity);
    exit(0);
}

void job_start(struct job *j) {
    int report[JOB_RANKS][2], gate[JOB_RANKS + 1][2];
    assert_true(j->size <= JOB_RANKS);
    j->identity = (struct rdi_job){.rank = 0, .size = j->size};
    assert_int_equal(rdi_key_set(&j->identity, JOB_KEY, sizeof JOB_KEY - 1), RONDO_OK);
    for (int i = 0; i < j->size; i++) {
        assert_int_equal(pipe(report[i]), 0);
        assert_int_equal(pipe(gate[i]), 0);
        j->from[i] = report[i][0];
        j->gate[i] = gate[i][1];
    }
    int ports[2];
    assert_int_equal(pipe(ports), 0);
    assert_int_equal(pipe(gate[j->size]), 0);
    fflush(NULL);
    j->gate[j->size] = gate[j->size][1];
    j->pid[j->size] = fork();
    assert_true(j->pid[j->size] >= 0);
    if (j->pid[j->size] == 0) {
        const int keep[3] = {ports[1], ports[1], gate[j->size][0]};
        keep_only(keep);
        serve(j, 50, 52);
    }
    for (int i = 0; i < j->size; i++) {
        j->pid[i] = fork();
        assert_true(j->pid[i] >= 0);
        if (j->pid[i] == 0) {
            const int keep[3] = {ports[0], report[i][1], gate[i][0]};
            start_rank(j, i, keep);
        }
    }
    for (int i = 0; i < j->size; i++) {
        close(report[i][1]);
        close(gate[i][0]);
    }
    close(gate[j->size][0]);
    close(ports[0]);
    close(ports[1]);
}

// Ends what still runs, so that a failed test leaves nothing.
static void kill_all(struct job *j) {
    for (int i = 0; i <= j->size; i++) {
        if (j->pid[i] > 0) {
            kill(j->pid[i], SIGKILL);
        }
    }
}

struct report job_report(struct job *j, int rank, double seconds) {
    struct report r = {0};
    struct pollfd p = {.fd = j->from[rank], .events = POLLIN};
    double end = job_now() + seconds * job_patience();
    int n = 0;
    while (n == 0 && job_now() < end) {
        n = poll(&p, 1, 100);
    }
    ssize_t got = n > 0 ? read(j->from[rank], &r, sizeof r) : -1;
    if (got != (ssize_t)sizeof r) {
        kill_all(j);
        if (got == 0) {
            int status = 0;
            waitpid(j->pid[rank], &status, 0);
            j->pid[rank] = -1;
            fail_msg("rank %d ended without a report (%s %d)", rank,
                     WIFSIGNALED(status) ? "signal" : "exit code",
                     WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
        }
        fail_msg("rank %d still hangs after %.0f s", rank, seconds * job_patience());
    }
    return r;
}

void job_end(struct job *j, unsigned judged) {
    int failed = -1, how = 0;
    for (int i = 0; i < j->size; i++) {
        close(j->gate[i]);
    }
    double end = job_now() + 20 * job_patience();
    for (int i = 0; i < j->size; i++) {
        int status = 0;
        pid_t got = 0;
        while (j->pid[i] > 0 && (got = waitpid(j->pid[i], &status, WNOHANG)) == 0) {
            if (job_now() > end) {
                kill(j->pid[i], SIGKILL);
            }
            poll(NULL, 0, 5);
        }
        if (got > 0 && status != 0 && failed < 0 && (judged & 1u << i)) {
            failed = i;
            how = status;
        }
        close(j->from[i]);
    }
    // The store has nobody to serve any more.
    close(j->gate[j->size]);
    waitpid(j->pid[j->size], NULL, 0);
    rdi_job_clear(&j->identity);
    if (failed >= 0) {
        fail_msg("rank %d ended badly: %s %d", failed, WIFSIGNALED(how) ? "signal" : "exit code",
                 WIFSIGNALED(how) ? WTERMSIG(how) : WEXITSTATUS(how));
    }
}
