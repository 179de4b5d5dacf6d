// SPDX-License-Identifier: MIT
// A run of train_gpt on one rank: all that it holds, and how it is set up.
#ifndef GPT_RUN_H
#define GPT_RUN_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include <rondo/rondo.h>

#include "gpt_adamw.h"
#include "gpt_curve.h"
#include "gpt_data.h"
#include "gpt_device.h"
#include "gpt_model.h"
#include "gpt_options.h"
#include "gpt_report.h"

// What all ranks know alike of the run, and one that comes later is told.
struct gpt_course {
    uint64_t first_step;
    uint64_t begun;  // the loss before the first step was measured
    int64_t signal;  // that ended the run
    double fraction; // of the run that is done, as rank 0 sees it
    double seconds;  // since training began
    double tested;   // of these, spent on held-out text
    double held_first, held_last;
};

struct gpt_run {
    struct gpt_options o;
    struct gpt_corpus corpus;
    struct gpt_device *device; // that computes
    struct gpt_model model;
    struct gpt_adamw adamw;
    struct gpt_activations *act;
    int room;             // sequences for which there is memory
    uint8_t *in, *target; // this rank's sequences
    uint64_t *sample;     // and their numbers
    rondo_comm *job;      // from rondo_init()
    rondo_comm *comm;     // of the ranks that take part now
    rondo_ddp *ddp;
    rondo_zero *zero;       // with --zero
    float rate;             // with --zero: of the step that is made
    struct gpt_dp *dp;      // with --dp; there is no DDP then
    struct gpt_share share; // rank, world size, global batch
    struct gpt_gradients gradients;
    struct gpt_curve curve; // rank 0
    struct gpt_progress progress;
    struct gpt_course course;
    double began;  // clock at which training began
    double loss;   // with --dp: of the last pass
    double waited; // elastic: seconds waited for gradients before rondo_ddp_finish()
    FILE *samples; // log of windows; NULL = none
    bool elastic;
    bool shaken;     // elastic: a collective failed; gpt_agree() will tell what becomes of it
    int code;        // to exit with if it failed
    bool everywhere; // all ranks know of the failure by themselves
    bool failed;     // `error` says why
    struct gpt_error error;
};

// For a call of Rondo: true if it succeeded, else keeps its reason, unless there is an earlier one.
// In elastic training, what failed with the communicator only marks the run as shaken.
bool gpt_succeeded(struct gpt_run *r, rondo_status status, const char *doing);

// For everything else, which leaves its reason in r->error by itself: marks the run as failed
// unless ok.
bool gpt_worked(struct gpt_run *r, bool ok);

// Finds the first rank whose value is not that of rank 0, or 0 if there is none; *value becomes
// that of rank 0. Collective.
bool gpt_compare(struct gpt_run *r, uint64_t *value, int *odd);

// ---- Elastic training (gpt_elastic.c) -----------------------------------------------------------
//
// All that ranks do together between two steps, or before and after all steps, is done by all that
// are left or by none. GPT_AGAIN: repeat it; ranks, and this one's share, may have changed.

enum gpt_verdict { GPT_COUNTS, GPT_AGAIN, GPT_OVER };

// Ends such a part by rondo_ddp_finish() or rondo_ddp_commit(); without --elastic, too.
enum gpt_verdict gpt_agree(struct gpt_run *r, rondo_status (*call)(rondo_ddp *ddp),
                           const char *doing);

// The communicator as it is now, this rank's share and its duties in it.
bool gpt_regroup(struct gpt_run *r);

// Memory for this rank's share.
bool gpt_make_room(struct gpt_run *r);

// The rank in the job, which is the same in each life of a process; that in a communicator may not be.
int gpt_job_rank(const struct gpt_run *r);

// The file of windows, and a line of it for the step that has just counted.
bool gpt_samples_open(struct gpt_run *r);
bool gpt_samples_add(struct gpt_run *r, uint64_t step);

// From options, text and communicator to ranks that are ready to train, all with the same
// parameters. Collective.
bool gpt_set_up(struct gpt_run *r);

// ---- Sharded optimizer (gpt_zero.c) -------------------------------------------------------------
//
// All of it is collective. step: clips and updates; a norm that is no number is left to the caller.
// fetch: the moments of all to rank 0, for a checkpoint; gpt_adamw_drop() afterwards.
bool gpt_zero_create(struct gpt_run *r);
bool gpt_zero_step(struct gpt_run *r, double rate, double limit, double *norm);
bool gpt_zero_fetch(struct gpt_run *r);

#endif
