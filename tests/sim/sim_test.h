// SPDX-License-Identifier: MIT
// The simulation test: one seed makes one scenario (a cluster, a plan, operations, faults), which is run on the
// product's own engine over the simulated transport, on a virtual clock.
//
//   scenario.c   what happens: all of it follows from the seed
//   data.c       inputs, and the results that they must have
//   cluster.c    the ranks: engines, their programs, the clock
//   verdict.c    what must hold after each step and at the end
//   main.c       seeds, arguments, the summary
#ifndef RDI_TESTS_SIM_H
#define RDI_TESTS_SIM_H

#include "ring/internal.h"
#include "transport/sim/sim.h"

#define MAX_RANKS 40
#define MAX_OPS 160
#define MAX_GROUPS 8

#define MS UINT64_C(1000000)
#define US UINT64_C(1000)

enum fault {
    FAULT_NONE,
    FAULT_PATH,
    FAULT_PAUSE,
    FAULT_DEATH,
    FAULT_MISMATCH,
    FAULT_CUT,
    FAULT_ABORT,
    FAULT_COUNT
};

enum values {
    EXACT, // results are the same in any order of additions
    WILD,  // any bits; checked against the left fold
    AGREE, // any bits; only checked to be equal on all ranks
};

// A communicator: 0 is the world, others come from splits.
struct group {
    uint64_t id;
    int n, world[MAX_RANKS];
};

// What one rank passes to a call.
struct call {
    enum rdi_kind kind;
    size_t count;
    rondo_type type;
    rondo_op op;
    int root;
};

// One rank's part in an operation.
struct part {
    enum { NOT_YET, RUNNING, DONE } state;
    struct rondo_request *req;
    rondo_status status;
    uint64_t submitted;
    char *memory[2]; // what was allocated; [1] NULL in place
    size_t bytes[2];
    char *send, *recv;
};

struct op {
    int group;
    struct call call;
    int from, to;        // send/recv: ranks of the group
    bool in_place, wait; // wait: for everything before
    bool split;          // an all_gather, after which communicators are made
    int repeats;         // same inputs as that operation: same bits; -1
    int deviant;         // rank of the group that calls something else; -1
    struct call other;
    enum values values;
    int groups[MAX_RANKS];  // split: the group that each rank goes to; -1
    char *input[MAX_RANKS]; // by rank of the group
    char *expect;           // made when first needed
    char *agreed;           // AGREE: the first rank's result
    struct part part[MAX_RANKS];
};

struct scenario {
    uint64_t seed, rng;
    bool verbose;
    enum fault fault;
    int n, hosts[MAX_RANKS];
    struct rdi_seat seats[MAX_RANKS];
    struct rdi_plan plan;
    struct rdi_options options;
    struct rdi_sim_config net;
    int ngroups, nops;
    struct group groups[MAX_GROUPS];
    struct op ops[MAX_OPS];
    uint64_t max_delay;    // before an operation, ns
    bool small;            // many operations of hardly any data
    bool greets;           // every communicator begins with a barrier, as rondo_init() does
    bool exits;            // a rank's process ends when its last communicator is destroyed
    unsigned fault_chance; // PATH, PAUSE: of 100000, a step
    uint64_t fault_step;   // DEATH, CUT, ABORT: after so many steps
    int victim, mismatch_op;
};

struct rank {
    int rank;
    struct rdi_engine *engine;
    struct rdi_sim_node *node;
    struct rondo_comm *comm[MAX_GROUPS];
    enum { NONE, MADE, FAILED } made[MAX_GROUPS];
    // The first failure of each communicator, as seen from outside.
    rondo_status failed[MAX_GROUPS];
    uint64_t failed_at[MAX_GROUPS];
    char why[MAX_GROUPS][RDI_ERROR_TEXT];
    enum { PROGRAM, LEAVING, GONE } phase;
    int pc;
    uint64_t next_at, leave_at, wake_at;
};

struct cluster {
    struct scenario *sc;
    struct rdi_sim *sim;
    struct rank ranks[MAX_RANKS];
    uint64_t steps, fault_at; // fault_at: ns, 0 = not yet
    uint64_t completed;
    int losses;
};

struct totals {
    uint64_t seeds, operations, events, messages, losses, landed, steps;
    uint64_t faults[FAULT_COUNT];
};

// main.c: the run cannot go on. Prints the text and how to repeat it.
void give_up(const char *fmt, ...) __attribute__((format(printf, 1, 2), noreturn));

// scenario.c
uint64_t below(struct scenario *sc, uint64_t n);
bool chance(struct scenario *sc, unsigned percent);
void scenario_make(struct scenario *sc, uint64_t seed);
void scenario_free(struct scenario *sc);
void scenario_print(const struct scenario *sc);
const char *fault_name(enum fault f);
// What a rank of the group passes; a rank that has no part in it: NULL.
const struct call *call_of(const struct op *op, int group_rank, struct call *buf);
int rank_in(const struct group *g, int world_rank);
void call_print(const struct call *c, char *buf, size_t cap);

// data.c
void buffer_bytes(const struct call *c, int n, size_t *send, size_t *recv);
void part_make(struct scenario *sc, int op, int group_rank);
// After an operation completed: the result when it says OK; then the buffers get a pattern that must last.
void part_check(struct scenario *sc, int op, int group_rank);
void part_check_untouched(struct scenario *sc, int op, int group_rank);

// cluster.c
void cluster_run(struct scenario *sc, struct totals *t);
// What each rank waits for.
void cluster_report(const struct cluster *c);

// verdict.c
void verdict_step(struct cluster *c, struct rank *r);
void verdict_end(struct cluster *c);

#endif
