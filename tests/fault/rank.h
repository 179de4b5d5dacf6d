// SPDX-License-Identifier: MIT
// One rank of a job that is spoiled: see rank.c.
//
//   rank.c    life: join, work until something fails, shrink, go on
//   loop.c    the work: all_reduces, checked
//   train.c   the work: DDP steps, checked
//   said.c    what it tells of failures, and what it leaves behind
#ifndef TESTS_FAULT_RANK_H
#define TESTS_FAULT_RANK_H

#include "tests/fault/say.h"

#include <rondo/rondo.h>
#include <stdbool.h>

enum { MAX_RANKS = 64, MAX_COUNTS = 8, EXIT_USAGE = 2, EXIT_WRONG = 4 };

struct wish {
    const char *netns, *host, *options;
    bool ddp, elastic, shared, hold;
    int async; // operations in flight
    size_t counts[MAX_COUNTS];
    int ncounts;
    uint64_t join_after_ms;
    // This rank computes so long before that step, without a call of Rondo.
    int pause_step;
    uint64_t pause_ms;
    uint64_t abort_ms; // another thread of it aborts so long after "ready"
    bool forks;        // a child of it outlives it by some seconds, and holds its sockets open
};

struct job {
    struct wish wish;
    rondo_comm *comm;
    int me;                    // rank in the job
    int members[MAX_RANKS], n; // ranks of `comm` by their rank in the job; -1 unknown
    int generation;            // communicators before this one
    bool is_wrong, stop, go;   // stop, go: what the supervisor said
};

// Works until something fails or all shall stop (RONDO_OK). On failure *t is when the call returned, *call its name,
// and rondo_last_error() is its.
rondo_status work_loop(struct job *j, uint64_t *t, const char **call);
rondo_status work_train(struct job *j, uint64_t *t, const char **call);

// Element 0 of what the lowest rank sends: whether all shall stop.
int32_t stop_wish(struct job *j);
// Value of element i that a member gives, and the sum of all members.
int32_t value_of(uint64_t step, size_t i, int member);
int32_t sum_of(const struct job *j, uint64_t step, size_t i);
void wrong(struct job *j, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void pause_at(const struct job *j, uint64_t step);

void log_line(void *arg, rondo_log_level level, const char *text);
void say_ready(const struct job *j, const char *event, uint64_t t);
void say_failed(const struct job *j, rondo_status s, const char *call, uint64_t t, uint64_t steps);
// Descriptors and threads of this process.
void say_open(const char *event);
// Reads what the supervisor wrote to the standard input; waits up to `ms` for more.
void listen_to(struct job *j, int ms);

#endif
