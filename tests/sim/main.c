// SPDX-License-Identifier: MIT
// Runs scenarios by seed:   sim_run [--seeds N] [--first S | --seed S] [-v] [--keep-going]
#include "tests/sim/sim_test.h"

#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static struct scenario scenario;
static jmp_buf next_seed;
static bool keep_going;

void give_up(const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    fflush(stdout);
    fprintf(stderr, "seed %llu (%d ranks, fault: %s): ", (unsigned long long)scenario.seed,
            scenario.n, fault_name(scenario.fault));
    vfprintf(stderr, fmt, ap);
    fprintf(stderr, "\nrepeat it with: tests/sim/run --seed %llu -v\n",
            (unsigned long long)scenario.seed);
    va_end(ap);
    if (!keep_going) {
        // No exit(): the leaks of a run that was broken off are no finding.
        _Exit(1);
    }
    longjmp(next_seed, 1);
}

static double seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void usage(void) {
    fprintf(stderr, "usage: sim_run [--seeds N] [--first S] [--seed S] [-v] [--keep-going]\n"
                    "  --seeds N      runs N scenarios (100)\n"
                    "  --first S      beginning with seed S (1)\n"
                    "  --seed S       runs that one\n"
                    "  -v             prints the scenario and all that happens\n"
                    "  --keep-going   does not stop at the first failure\n");
    exit(2);
}

static uint64_t number(const char *text) {
    char *end;
    if (!text || !*text) {
        usage();
    }
    uint64_t v = strtoull(text, &end, 10);
    if (*end) {
        usage();
    }
    return v;
}

static void summary(const struct totals *t, unsigned failures, double took) {
    printf("%llu seeds, %llu operations, %llu messages, %llu lost paths, %llu landed in place, "
           "%llu events, "
           "%.0f events/s, %.1f s; faults:",
           (unsigned long long)t->seeds, (unsigned long long)t->operations,
           (unsigned long long)t->messages, (unsigned long long)t->losses,
           (unsigned long long)t->landed, (unsigned long long)t->events, (double)t->events / took,
           took);
    for (int f = 0; f < FAULT_COUNT; f++) {
        printf(" %s %llu%s", fault_name((enum fault)f), (unsigned long long)t->faults[f],
               f + 1 < FAULT_COUNT ? "," : "");
    }
    printf("; failures: %u\n", failures);
}

int main(int argc, char **argv) {
    volatile uint64_t first = 1;
    volatile uint64_t seeds = 100;
    static struct totals totals;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--seeds") == 0) {
            seeds = number(argv[++i]);
        } else if (strcmp(argv[i], "--first") == 0) {
            first = number(argv[++i]);
        } else if (strcmp(argv[i], "--seed") == 0) {
            first = number(argv[++i]);
            seeds = 1;
        } else if (strcmp(argv[i], "-v") == 0) {
            scenario.verbose = true;
        } else if (strcmp(argv[i], "--keep-going") == 0) {
            keep_going = true;
        } else {
            usage();
        }
    }
    const double start = seconds();
    volatile unsigned failures = 0;
    for (volatile uint64_t s = first; s < first + seeds; s++) {
        if (setjmp(next_seed) != 0) {
            failures++;
            continue;
        }
        scenario_make(&scenario, s);
        if (scenario.verbose) {
            scenario_print(&scenario);
        }
        cluster_run(&scenario, &totals);
        scenario_free(&scenario);
    }
    summary(&totals, failures, seconds() - start + 1e-9);
    return failures != 0;
}
