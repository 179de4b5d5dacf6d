// SPDX-License-Identifier: MIT
// Real jobs whose ranks are forked processes, some of which mean no good. Each rank runs a function of the test and
// reports through a pipe how it went; a rank that crashed or does not come to an end is a failure of the test.
#ifndef RDI_TESTS_ATTACK_JOBS_H
#define RDI_TESTS_ATTACK_JOBS_H

#include "ring/internal.h"

#include <setjmp.h>
#include <string.h>
#include <sys/types.h>
#include <cmocka.h>

#define JOB_RANKS 3
#define JOB_LARGE 200000 // floats: several messages on every link
#define JOB_KEY "a key that only tests know......"

struct report {
    rondo_status status; // of the first call that failed
    double seconds;      // that the call took
    uint64_t strangers;
    uint64_t sum; // a hash of what all collectives gave
    char text[RDI_ERROR_TEXT];
};

struct rank {
    int rank, size;
    const char *options;
    void *arg;
    rondo_comm *comm;
    struct report report;
    int report_fd, gate; // `gate` ends when the test lets the rank go
    struct rdi_store *store;
    rondo_store_ops ops;
};

struct job {
    int size;
    const char *options[JOB_RANKS]; // NULL: those of rank 0
    void (*body[JOB_RANKS])(struct rank *r);
    void *arg;
    // Changes what ranks tell each other through the store, as an attacker on the way could; may be NULL.
    void (*alter)(void *arg, void *value, size_t len);
    void *alter_arg;

    struct rdi_job identity;
    pid_t pid[JOB_RANKS + 1]; // the last one serves the store
    int from[JOB_RANKS], gate[JOB_RANKS + 1];
};

double job_now(void);
// How much slower than a release build on an idle machine the tests may be.
double job_patience(void);

void job_start(struct job *j);
// The rank's report within `seconds`; fails the test when it is not there by then, or when the rank has crashed.
struct report job_report(struct job *j, int rank, double seconds);
// Lets all ranks go and waits for their ends. Those whose bits are set in `judged` must have ended with exit code 0.
void job_end(struct job *j, unsigned judged);

// ---- In a rank -----------------------------------------------------------------------------------

// rondo_init() and some collectives, so that all links are up; ends the process when that fails.
void rank_join(struct rank *r);
// One all_reduce of `count` floats whose sum is checked; a wrong sum is RONDO_RETRY_STEP.
rondo_status rank_reduce(struct rank *r, size_t count, int round);
// Fills the report with the status and the last error, and sends it.
void rank_report(struct rank *r, rondo_status s, double began);
// Until the test lets the rank go.
void rank_wait(struct rank *r);

// A rank that reduces once more than its peers, who attack it meanwhile, and reports how that ended.
void rank_victim(struct rank *r);

#endif
