// SPDX-License-Identifier: MIT
// put, get and pingpong: what two ranks get out of a transport by its own messages, credit and slots, with
// no engine, flow or reduction above. The job's communicator only brings the ranks together: it carries
// addresses, barriers and figures, while each pair has a net and two links of its own.
//
//   rank 2k (first)   -- out ---------------> in --   rank 2k + 1
//                     -- in <--------------- out --
//
//   put       first sends, as many messages in flight as credit allows; the last asks to be acknowledged
//   get       first asks with an empty message, the other answers with the data
//   pingpong  first sends, the other sends as much back
#ifndef RDI_PERF_PAIRS_H
#define RDI_PERF_PAIRS_H

#include "ring/perf/perf.h"
#include "transport/internal.h"

// ---- A pair, link.c ------------------------------------------------------------------------------

struct perf_pair {
    const struct perf_run *run;
    bool first;
    int peer; // world rank, or -1: the last rank of an odd number has none
    uint64_t comm;
    struct rdi_net_events events;
    struct rdi_net *net;
    struct rdi_link *out, *in;
    uint64_t patience_ns;                 // after which a pair in which nothing moves has failed
    uint64_t idle_since, yielded, phases; // of flow.c
};
// Collective: opens what this rank's pair needs and waits until both links are up.
rondo_status perf_pair_open(struct perf_run *r, struct perf_pair *p);
// `bye`: nothing went wrong, so the peer shall not wonder.
void perf_pair_close(struct perf_pair *p, bool bye);
const char *perf_pair_wire(const struct perf_pair *p);
// Nothing moved: spins, gives the core away, or sleeps, as the options say. Fails when patience ends.
rondo_status perf_pair_idle(struct perf_pair *p);
// Replaces a lost path; fails with the link's own words.
rondo_status perf_pair_check(struct perf_pair *p);

// ---- Messages over its links, flow.c -------------------------------------------------------------

// `ops` operations of `bytes` each in one direction; each is cut into messages of at most link->max_msg.
struct perf_flow {
    size_t bytes;
    uint64_t ops;
    uint64_t base,
        chunks; // set by perf_pair_run(): the first message's number, messages of an operation
};

struct perf_phase {
    struct perf_flow out, in;
    bool turns;    // an operation begins when the one before has been answered
    uint64_t skip; // operations before the clock starts, with turns
    double *times; // of each operation after them, us; NULL = not wanted
    bool
        check; // contents, from different places of the buffers; else all come from their beginning
    bool corrupt;      // damages the first that is received
    uint32_t rep;      // of perf_values, with check
    double begin, end; // us
    int64_t wrong;     // bytes
};
rondo_status perf_pair_run(struct perf_pair *p, struct perf_phase *f);
// How many operations of a size use every slot of both links twice.
uint64_t perf_pair_rounds(const struct perf_pair *p, size_t bytes);
struct perf_values perf_pair_values(const struct perf_run *r, uint32_t rep);

// ---- Rows, pairs.c -------------------------------------------------------------------------------

// Collective: fills in row->iters and row->half[0].
rondo_status perf_pair_measure(struct perf_run *r, struct perf_row *row);
// Whether a rank's results can be wrong at all.
bool perf_pair_receives(const struct perf_options *o, int rank, int ranks);
// One line: what runs over which wire.
void perf_pair_plan(const struct perf_run *r, char *buf, size_t cap);

#endif
