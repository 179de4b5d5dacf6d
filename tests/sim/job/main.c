// SPDX-License-Identifier: MIT
// Runs jobs by seed:   sim_job [--seeds N] [--first S | --seed S] [-v] [--keep-going]
#include "tests/sim/job/job.h"

#include <errno.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

struct job job;

// Shared with the processes that run the seeds.
static struct totals {
    uint64_t events, steps, failures, faults[WHATS], partitioned, trained, repeated, joined;
} * totals;

void give_up(const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    fflush(stdout);
    fprintf(stderr, "seed %llu (%d ranks", (unsigned long long)job.seed, job.n);
    for (int i = 0; i < job.nfaults; i++) {
        fprintf(stderr, ", %s", what_name(job.faults[i].what));
    }
    fprintf(stderr, ") at %.3f ms: ", job.sim ? (double)rdi_sim_now(job.sim) / 1e6 : 0.0);
    vfprintf(stderr, fmt, ap);
    fprintf(stderr, "\nrepeat it with: tests/sim/run --job-seed %llu -v\n",
            (unsigned long long)job.seed);
    va_end(ap);
    _Exit(1);
}

void say(const char *fmt, ...) {
    if (job.verbose) {
        va_list ap;
        va_start(ap, fmt);
        printf("%12.3f us  # ", (double)rdi_sim_now(job.sim) / 1000);
        vprintf(fmt, ap);
        printf("\n");
        va_end(ap);
    }
}

static void run(uint64_t seed) {
    struct rdi_sim_stats st;
    job_make(seed);
    if (job.verbose) {
        job_print();
    }
    world_run();
    verdict();
    rdi_sim_get_stats(job.sim, &st);
    totals->events += st.events;
    for (int i = 0; i < job.nfaults; i++) {
        totals->faults[job.faults[i].what] += job.faults[i].done;
    }
    for (int r = 0; r < job.n; r++) {
        totals->steps += (uint64_t)job.ranks[r].ncommitted;
        totals->failures += (uint64_t)job.ranks[r].nseen;
        totals->partitioned += job.ranks[r].end == RONDO_ERR_PARTITIONED;
        totals->trained += (uint64_t)job.ranks[r].ncounted;
        totals->joined += job.ranks[r].incarnation > 0 && job.ranks[r].first_step >= 0;
        for (int i = 0; i < job.ranks[r].noutcomes; i++) {
            totals->repeated += job.ranks[r].outcomes[i].status == RONDO_RETRY_STEP;
        }
    }
}

static bool run_apart(uint64_t seed) {
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        run(seed);
        fflush(NULL);
        _Exit(0);
    }
    int status = 0;
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {}
    if (WIFSIGNALED(status)) {
        fprintf(stderr, "seed %llu: killed by signal %d\n", (unsigned long long)seed,
                WTERMSIG(status));
    }
    return status == 0;
}

static uint64_t number(const char *text) {
    char *end;
    uint64_t v = text && *text ? strtoull(text, &end, 10) : 0;
    if (!text || !*text || *end) {
        fprintf(stderr, "usage: sim_job [--seeds N] [--first S] [--seed S] [-v] [--keep-going]\n");
        exit(2);
    }
    return v;
}

int main(int argc, char **argv) {
    uint64_t first = 1, seeds = 100, failures = 0;
    bool keep_going = false;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--seeds") == 0) {
            seeds = number(argv[++i]);
        } else if (strcmp(argv[i], "--first") == 0) {
            first = number(argv[++i]);
        } else if (strcmp(argv[i], "--seed") == 0) {
            first = number(argv[++i]);
            seeds = 1;
        } else if (strcmp(argv[i], "-v") == 0) {
            job.verbose = true;
        } else if (strcmp(argv[i], "--keep-going") == 0) {
            keep_going = true;
        } else {
            (void)number(NULL);
        }
    }
    // A seed's memory ends with its process; half of its time would go into giving pages back before.
    (void)mallopt(M_MMAP_THRESHOLD, 32 << 20);
    (void)mallopt(M_TRIM_THRESHOLD, 1 << 30);
    (void)mallopt(M_TOP_PAD, 16 << 20);
    totals = mmap(NULL, sizeof *totals, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (totals == MAP_FAILED) {
        perror("mmap");
        return 2;
    }
    struct timespec a, b;
    clock_gettime(CLOCK_MONOTONIC, &a);
    uint64_t done = 0;
    for (uint64_t s = first; s < first + seeds; s++, done++) {
        if (!run_apart(s)) {
            failures++;
            if (!keep_going) {
                done++;
                break;
            }
        }
    }
    clock_gettime(CLOCK_MONOTONIC, &b);
    double took = (double)(b.tv_sec - a.tv_sec) + (double)(b.tv_nsec - a.tv_nsec) / 1e9;
    printf("%llu jobs, %llu steps committed, %llu failures of communicators seen, %llu events, "
           "%.0f events/s, %.1f s;",
           (unsigned long long)done, (unsigned long long)totals->steps,
           (unsigned long long)totals->failures, (unsigned long long)totals->events,
           (double)totals->events / (took + 1e-9), took);
    for (int w = 1; w < WHATS; w++) {
        printf(" %s %llu,", what_name((enum what)w), (unsigned long long)totals->faults[w]);
    }
    printf(
        " ranks partitioned %llu; DDP: %llu steps, %llu repetitions, %llu restarted ranks trained; "
        "failures: %llu\n",
        (unsigned long long)totals->partitioned, (unsigned long long)totals->trained,
        (unsigned long long)totals->repeated, (unsigned long long)totals->joined,
        (unsigned long long)failures);
    return failures != 0;
}
