// SPDX-License-Identifier: MIT
// rondo-perf's life: it starts its ranks by itself, or is one rank of a job that a launcher started.
#include "ring/perf/pairs.h"
#include "ring/perf/perf.h"
#include "transport/internal.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

struct job {
    struct perf_options options;
    int *verdict; // shared by the ranks that we start: an exit code that needs no more words
};

// ---- Rows ----------------------------------------------------------------------------------------

static void choose(int wanted, int count, int *first, int *last) {
    *first = wanted == PERF_ALL ? 0 : wanted;
    *last = wanted == PERF_ALL ? count - 1 : wanted;
}

static rondo_status run_sizes(struct perf_run *r, struct perf_report *report, struct perf_row row) {
    const struct perf_options *o = r->options;
    size_t esize = rondo_type_size(row.type);
    // Memory may hold less than the smallest size that was asked for.
    size_t size = o->min_bytes < r->max_bytes ? o->min_bytes : r->max_bytes;
    for (; size <= r->max_bytes;
         size = o->step_factor > 1 ? size * (size_t)o->step_factor : size + o->step_bytes) {
        row.count = perf_count(r->coll, size, esize, r->ranks);
        size_t send = perf_send_elements(r->coll, row.count, r->ranks);
        size_t recv = perf_recv_elements(r->coll, row.count, r->ranks);
        row.bytes = (send > recv ? send : recv) * esize;
        row.iters = o->iters;
        rondo_status s = r->pair != NULL ? perf_pair_measure(r, &row) : perf_measure(r, &row);
        if (s == RONDO_OK && report != NULL && !perf_report_row(report, &row)) {
            s = rdi_fail(RONDO_ERR_NOMEM, "out of memory for the results");
        }
        if (s != RONDO_OK) {
            return s;
        }
    }
    return RONDO_OK;
}

static rondo_status run_rows(struct perf_run *r, struct perf_report *report) {
    const struct perf_options *o = r->options;
    int types[2], ops[2] = {PERF_NONE, PERF_NONE}, roots[2] = {PERF_NONE, PERF_NONE};
    // The messages of a pair are bytes.
    choose(r->pair != NULL ? (int)RONDO_U8 : o->type, RONDO_TYPE_COUNT, &types[0], &types[1]);
    if (r->coll->reduces) {
        choose(o->op, RONDO_OP_COUNT, &ops[0], &ops[1]);
    }
    if (r->coll->rooted) {
        choose(o->root, r->ranks, &roots[0], &roots[1]);
    }
    rondo_status s = RONDO_OK;
    struct perf_row row = {0};
    for (int type = types[0]; type <= types[1] && s == RONDO_OK; type++) {
        for (row.op = ops[0]; row.op <= ops[1] && s == RONDO_OK; row.op++) {
            for (row.root = roots[0]; row.root <= roots[1] && s == RONDO_OK; row.root++) {
                row.type = (rondo_type)type;
                s = run_sizes(r, report, row);
            }
        }
    }
    return s;
}

// ---- One rank ------------------------------------------------------------------------------------

// What can only be judged once the number of ranks is known. All ranks see the same; rank 0 says it.
static int check_ranks(const struct perf_run *r) {
    const struct perf_options *o = r->options;
    char why[160] = "";
    if (o->ranks > 0 && o->ranks != r->ranks) {
        snprintf(why, sizeof why, "--nranks %d: the launcher's job has %d ranks; leave it out",
                 o->ranks, r->ranks);
    } else if (r->coll->rooted && o->root >= r->ranks) {
        snprintf(why, sizeof why, "--root %d: allowed is 0 to %d, or all", o->root, r->ranks - 1);
    } else if (o->corrupt >= r->ranks) {
        snprintf(why, sizeof why, "--corrupt %d: allowed is 0 to %d", o->corrupt, r->ranks - 1);
    } else if (r->coll->two && r->ranks < 2) {
        snprintf(why, sizeof why, "--nranks 1: %s needs at least 2 ranks", r->coll->name);
    } else if (r->coll->kind != PERF_COLLECTIVE && o->corrupt >= 0 &&
               !perf_pair_receives(o, o->corrupt, r->ranks)) {
        snprintf(why, sizeof why, "--corrupt %d: this rank receives nothing in %s", o->corrupt,
                 r->coll->name);
    }
    if (why[0] == '\0') {
        return PERF_OK;
    }
    if (r->rank == 0) {
        (void)perf_fail("%s", why);
    }
    // The first rank to end makes the launcher end the others: not before rank 0 has said why.
    (void)rondo_barrier(r->comm);
    return PERF_USAGE;
}

static int open_reports(const struct perf_run *r, struct perf_report *report) {
    int32_t bad = 0;
    if (r->rank == 0 && !perf_report_open(report)) {
        bad = perf_fail("cannot write \"%s\": %s; name a file in a folder that you may write to",
                        report->opening, strerror(errno));
    }
    if (rondo_broadcast(&bad, &bad, 1, RONDO_I32, 0, r->comm) != RONDO_OK) {
        (void)perf_fail("rank %d: %s", r->rank, rondo_last_error());
        return PERF_FAILED;
    }
    return bad;
}

// From the header to the last row.
static rondo_status measure_all(struct perf_run *r, struct perf_report *report,
                                struct perf_pair *pair) {
    struct perf_device *devices = calloc((size_t)r->ranks, sizeof *devices);
    if (devices == NULL) {
        return rdi_fail(RONDO_ERR_NOMEM, "out of memory for the names of %d ranks", r->ranks);
    }
    bool pairs = r->coll->kind != PERF_COLLECTIVE;
    rondo_status s = pairs ? perf_pair_open(r, pair) : RONDO_OK;
    s = s == RONDO_OK ? perf_devices(r, devices) : s;
    s = s == RONDO_OK ? perf_fit(r, &r->max_bytes) : s;
    if (s == RONDO_OK && !pairs) {
        s = rondo_comm_plan(r->comm, r->max_bytes, report->plan, sizeof report->plan);
    } else if (s == RONDO_OK && r->rank == 0) {
        perf_pair_plan(r, report->plan, sizeof report->plan);
    }
    report->max_bytes = r->max_bytes;
    if (s == RONDO_OK && r->rank == 0) {
        perf_report_begin(report, devices);
    }
    free(devices);
    if (s == RONDO_OK && perf_alloc(r) != RONDO_OK) {
        s = rdi_fail(RONDO_ERR_NOMEM,
                     "no memory for two buffers of %zu bytes; use a smaller "
                     "--maxbytes, or fewer ranks on this host",
                     r->max_bytes);
    }
    return s == RONDO_OK ? run_rows(r, r->rank == 0 ? report : NULL) : s;
}

static int run_job(struct perf_run *r) {
    struct perf_report report = {.options = r->options, .coll = r->coll, .ranks = r->ranks};
    struct perf_pair pair = {.peer = -1};
    char error[RDI_ERROR_TEXT] = "";
    int64_t failures = 0;
    int code = open_reports(r, &report);
    if (code != PERF_OK) {
        return code;
    }
    rondo_status s = measure_all(r, &report, &pair);
    s = s == RONDO_OK ? rondo_all_reduce(&r->failures, &failures, 1, RONDO_I64, RONDO_SUM, r->comm)
                      : s;
    if (s != RONDO_OK) {
        snprintf(error, sizeof error, "%s", rondo_last_error());
        (void)perf_fail("rank %d: %s", r->rank, error);
        (void)rondo_comm_abort(r->comm, error);
        code = PERF_FAILED;
        failures = r->failures;
    }
    if (s == RONDO_OK && failures != 0) {
        code = PERF_FAILED;
        r->told = true;
    }
    if (r->rank == 0) {
        if (report.begun) {
            perf_report_end(&report, failures, s != RONDO_OK ? error : NULL);
        }
        if (!perf_report_close(&report)) {
            (void)perf_fail("cannot write \"%s\": %s", report.opening, strerror(errno));
            code = PERF_FAILED;
            r->told = true;
        }
    }
    // The first rank that ends in failure makes the launcher end the others: not before rank 0 has written
    // its reports. Without a working communicator, some time has to do.
    if (s == RONDO_OK) {
        (void)rondo_barrier(r->comm);
    } else if (r->rank != 0) {
        nanosleep(&(struct timespec){.tv_nsec = 500000000}, NULL);
    }
    perf_pair_close(&pair, s == RONDO_OK);
    perf_free(r);
    return code;
}

static int run_rank(int rank, int world, void *arg) {
    struct job *job = arg;
    const struct perf_options *o = &job->options;
    (void)rank;
    (void)world;
    rondo_comm *comm;
    int code = PERF_FAILED;
    if (rondo_init(NULL, &comm) != RONDO_OK) {
        (void)perf_fail("%s", rondo_last_error());
    } else {
        struct perf_run r = {.options = o,
                             .coll = &perf_colls[o->coll],
                             .comm = comm,
                             .rank = rondo_comm_rank(comm),
                             .ranks = rondo_comm_size(comm),
                             .max_bytes = o->max_bytes};
        (void)rondo_set_timeout(comm, o->timeout_s * 1000);
        code = check_ranks(&r);
        code = code == PERF_OK ? run_job(&r) : code;
        (void)rondo_comm_destroy(comm);
        if (job->verdict != NULL && (r.told || code == PERF_USAGE)) {
            __atomic_store_n(job->verdict, code, __ATOMIC_RELAXED);
        }
    }
    return code;
}

#define RANKS_HERE 1024

// ---- The program ---------------------------------------------------------------------------------

static bool launched(void) {
    static const char *const names[] = {"RANK", "SLURM_PROCID", "OMPI_COMM_WORLD_RANK", "PMI_RANK"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        const char *v = getenv(names[i]);
        if (v != NULL && *v != '\0') {
            return true;
        }
    }
    return false;
}

static bool set_option(const char *name, size_t n, const char *value, size_t len) {
    char variable[80] = "RONDO_", text[RDI_OPT_STRING_MAX];
    if (n + 7 > sizeof variable || len >= sizeof text) {
        return false;
    }
    for (size_t i = 0; i < n; i++) {
        variable[6 + i] = (char)toupper((unsigned char)name[i]);
    }
    variable[6 + n] = '\0';
    memcpy(text, value, len);
    text[len] = '\0';
    return setenv(variable, text, 1) == 0;
}

// The library's options go into the environment, where rondo_spawn(), which makes the job's key, finds them
// as well as the ranks. They are checked before: once, and not by every rank.
static int set_options(const struct perf_options *o) {
    struct rdi_options checked;
    if (o->transport != NULL && !set_option("transport", 9, o->transport, strlen(o->transport))) {
        return perf_fail("out of memory for the environment");
    }
    if (rdi_options_load(&checked, o->options, getenv) != RONDO_OK) {
        return perf_fail("%s", rondo_last_error());
    }
    for (const char *p = o->options; p != NULL && *p != '\0';) {
        p += strspn(p, " ");
        size_t n = strcspn(p, ","), name = strcspn(p, " =,"), sign = strcspn(p, "=,");
        if (sign < n && !set_option(p, name, p + sign + 1, n - sign - 1)) {
            return perf_fail("out of memory for the environment");
        }
        p += n + (p[n] == ',');
    }
    return PERF_OK;
}

int main(int argc, char **argv) {
    struct job job;
    int code = perf_parse(argc, argv, &job.options);
    if (code >= 0) {
        return code;
    }
    if (job.options.simulate) {
        return perf_simulate(&job.options);
    }
    job.verdict = NULL;
    if (job.options.ranks > RANKS_HERE) {
        return perf_fail(
            "--nranks %d: at most %d processes are started on a host; --simulate takes "
            "more",
            job.options.ranks, RANKS_HERE);
    }
    code = set_options(&job.options);
    if (code != PERF_OK) {
        return code;
    }
    if (launched()) {
        return run_rank(-1, -1, &job);
    }
    job.options.ranks = job.options.ranks > 0 ? job.options.ranks : 2;
    void *shared =
        mmap(NULL, sizeof *job.verdict, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (shared == MAP_FAILED) {
        (void)perf_fail("no memory: %s", strerror(errno));
        return PERF_FAILED;
    }
    job.verdict = shared;
    if (rondo_spawn(run_rank, job.options.ranks, &job) == RONDO_OK) {
        return PERF_OK;
    }
    code = __atomic_load_n(job.verdict, __ATOMIC_RELAXED);
    if (code == 0) {
        (void)perf_fail("%s", rondo_last_error());
        code = PERF_FAILED;
    }
    return code;
}
