// SPDX-License-Identifier: MIT
// The job test: a whole training job in one process, on a virtual clock, through the product's public calls.
//
//   fiber.c     a stack for each rank; whoever waits gives the processor to the clock
//   driver.c    the product's driver (ring/driver.c) for fibers
//   world.c     ranks: engine, watch, communicator; the clock
//   program.c   what each rank runs: steps, failures, shrink, as a user's program would
//   fault.c     what happens to the ranks and when, from the seed
//   verdict.c   what must hold at the end
//   main.c      seeds, each in a process of its own (a killed rank's memory is the process's)
//
// tests/sim/*.c drive the engine one progress at a time and check the data path; here blocking calls are run as they
// are, so the watch, agreement, shrink and DDP are the product's own code down to rondo_ddp_finish().
#ifndef RDI_TESTS_SIM_JOB_H
#define RDI_TESTS_SIM_JOB_H

#include "ring/internal.h"
#include "transport/sim/sim.h"

#define MS UINT64_C(1000000)
#define RANKS 24
#define STEPS 40
#define COMMS 24

enum what { NOTHING, KILL, VANISH, STOP, CUT, FLAP, WHATS };

// One thing that happens: to `rank`, or to all ranks of `mask` (a host, a side).
struct fault {
    enum what what;
    uint64_t at, lasts;
    uint32_t mask;
    bool done;
};

// One communicator as one rank saw it end.
struct seen {
    uint64_t id;
    rondo_status status;
    uint64_t epoch, at;
    int culprit_world, nfailed, size;
    uint32_t failed; // world ranks
    uint32_t members;
};

struct fiber;

struct rank {
    int rank;
    struct rdi_engine *engine;
    struct rdi_sim_node *node, *watch_node;
    struct fiber *fiber;
    bool dead, stopped, over;
    uint64_t watch_at;
    rondo_status end; // how its program ended
    char why[RDI_ERROR_TEXT];
    struct seen seen[COMMS];
    int nseen;
    struct {
        int step;
        uint32_t members;
        uint64_t sum;
    } committed[STEPS * 2];
    int ncommitted;
    uint64_t ended_at;
};

struct job {
    uint64_t seed, rng;
    bool verbose;
    int n, steps, hosts[RANKS];
    int mesh; // ranks up to which all watch all
    struct rdi_sim *sim;
    struct rdi_sim_config net;
    struct rdi_options options;
    struct rdi_plan plan;
    struct rank ranks[RANKS];
    struct fault faults[4];
    int nfaults;
    uint64_t peer_timeout, stop_grace, compute;
};

extern struct job job; // one a process

uint64_t below(uint64_t n);
bool chance(unsigned percent);
void give_up(const char *fmt, ...) __attribute__((format(printf, 1, 2), noreturn));
void say(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
const char *what_name(enum what w);

// fiber.c
struct fiber *fiber_new(void (*fn)(void *arg), void *arg);
// Runs it until it sleeps or ends.
void fiber_run(struct fiber *f);
// In a fiber: sleeps until that time, or, if `light`, until fiber_wake().
void fiber_sleep(uint64_t until, bool light);
void fiber_wake(struct fiber *f);
bool fiber_is_due(const struct fiber *f, uint64_t now);
bool fiber_is_light(const struct fiber *f);
uint64_t fiber_until(const struct fiber *f);
bool fiber_is_over(const struct fiber *f);

// driver.c: progress of a rank whose fiber computes; true when something moved
bool driver_background(struct rdi_engine *e);

// world.c
void world_run(void);
// program.c
void program(void *rank);
// fault.c
void job_make(uint64_t seed);
void job_print(void);
void fault_do(uint64_t now);
uint64_t fault_next(void);
// verdict.c
void verdict(void);

#endif
