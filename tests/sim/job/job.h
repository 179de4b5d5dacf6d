// SPDX-License-Identifier: MIT
// The job test: a whole training job in one process, on a virtual clock, through the product's public calls.
//
//   fiber.c     a stack for each rank; whoever waits gives the processor to the clock
//   driver.c    the product's driver (ring/driver.c) for fibers
//   world.c     ranks: engine, watch, communicator; the clock
//   program.c   what each rank runs: steps, failures, shrink, as a user's program would
//   trainer.c   or elastic DDP, whose parameters have one right value at each step (model.c)
//   fault.c     what happens to the ranks and when, from the seed
//   scene.c     or a scene: faults that only together, and at the right moment, meet a certain part of the watch
//   verdict.c   what must hold at the end; steps.c: which steps counted, with whom and with which samples
//   main.c      seeds, each in a process of its own (a killed rank's memory is the process's)
//
// tests/sim/*.c drive the engine one progress at a time and check the data path; here blocking calls are run as they
// are, so the watch, agreement, shrink and DDP are the product's own code down to rondo_ddp_finish().
#ifndef RDI_TESTS_SIM_JOB_H
#define RDI_TESTS_SIM_JOB_H

#include "ddp/ddp.h"
#include "ring/internal.h"
#include "tests/sim/job/model.h"
#include "transport/sim/sim.h"

#define MS UINT64_C(1000000)
#define RANKS 24
#define STEPS 40
#define COMMS 24
#define RESTARTS 3
#define OUTCOMES 256
#define FOR_GOOD (UINT64_C(1) << 50) // ns: longer than any job

enum what { NOTHING, KILL, VANISH, STOP, CUT, PATH, FLAP, WHATS };

// One thing that happens to all ranks of `mask` (one, a host, a side); PATH: between them and those of `other`.
struct fault {
    enum what what;
    uint64_t at, lasts, lasted; // lasted: once it has begun
    int calls;    // not 0: so many calls of an agreement from now, `after` the last of them
    bool invited; // `after` a rank that was started again is invited, to that rank
    uint64_t after;
    uint32_t mask, other;
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

// What one call of rondo_ddp_finish() or _commit() said.
struct outcome {
    uint64_t id, at; // of the communicator that it was called on
    int step;
    bool evaluates; // _commit()
    rondo_status status;
};

// A step that counted, or is about to.
struct share {
    uint64_t id;
    int step, size, place; // of the communicator, and the rank there
    uint32_t members;      // ranks of the job
    uint64_t first, count; // its part of the batch
};

// One process. A rank that is started again is another one, see world.c.
struct rank {
    int rank;
    uint32_t incarnation;
    struct rdi_engine *engine;
    struct rdi_sim_node *node, *watch_node;
    struct fiber *fiber;
    bool dead, stopped, over;
    uint64_t inviting; // ranks that were started again
    uint64_t watch_at, longest_shrink;
    uint64_t restart_at; // 0: it is not to be started again
    rondo_status end;    // how its program ended
    char why[RDI_ERROR_TEXT];
    struct seen seen[COMMS];
    int nseen;
    struct {
        int step;
        uint32_t members;
        uint64_t sum;
    } committed[STEPS * 2];
    int ncommitted;
    uint64_t began_at, ended_at;

    // Of a job that trains with DDP.
    struct outcome outcomes[OUTCOMES];
    int noutcomes;
    struct share counted[STEPS], pending; // pending.size 0: none
    int ncounted, first_step;             // first_step -1 until it has the model's state
};

struct job {
    uint64_t seed, rng;
    bool verbose;
    const char *scene;
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

    // Training with DDP.
    bool ddp;
    int batch, accumulate, evaluate_every; // samples of a step, passes of a step, steps
    bool loss;                             // with a collective of the program's own in each step
    size_t bucket;
    uint64_t samples;                    // of the data set
    uint64_t right[STEPS + 1];           // hash of the model's state before each step
    int restarts, nlives;                // restarts that are left; lives that are over
    struct rank lives[RANKS + RESTARTS]; // of ranks that were started again
    int next_node;
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
// The launcher: starts a rank again that has failed, if the job has restarts left.
void world_fell(struct rank *k);
// program.c
void program(void *rank);
rondo_comm *program_world(struct rank *k);
void program_note(struct rank *k, const rondo_comm *c);
uint32_t program_members(const rondo_comm *c);
// trainer.c
void trainer(void *rank);
void trainer_prepare(void);
// fault.c
void job_make(uint64_t seed);
void job_print(void);
void fault_do(uint64_t now);
void fault_call(void); // a rank calls an agreement
void fault_invited(int rank);
void fault_started_again(const struct rank *k, uint64_t now); // it has new nodes
uint64_t fault_next(void);
// Some time while the job runs, or at its start, when links are only being made.
uint64_t fault_time(void);
// scene.c: false if this job has none.
bool scene_make(void);
// verdict.c
void verdict(void);
bool verdict_had(enum what w);
bool verdict_for_good(void); // a path was lost and does not come back
// A rank that the job goes on with: it neither died nor was given up, nor is on a side that had to stop.
bool verdict_stays(const struct rank *k);
// steps.c, for jobs that train with DDP; the first one before the others
void verdict_gather(void);
bool verdict_never_began(const struct rank *k);
void verdict_steps(void);

#endif
