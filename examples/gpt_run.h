// SPDX-License-Identifier: MIT
// A run of train_gpt on one rank: all that it holds, and how it is set up.
#ifndef GPT_RUN_H
#define GPT_RUN_H

#include <stdbool.h>
#include <stdint.h>

#include <rondo/rondo.h>

#include "gpt_adamw.h"
#include "gpt_curve.h"
#include "gpt_data.h"
#include "gpt_device.h"
#include "gpt_model.h"
#include "gpt_options.h"
#include "gpt_report.h"

struct gpt_run {
    struct gpt_options o;
    struct gpt_corpus corpus;
    struct gpt_device *device; // that computes
    struct gpt_model model;
    struct gpt_adamw adamw;
    struct gpt_activations *act;
    uint8_t *in, *target; // this rank's sequences
    rondo_comm *comm;
    rondo_ddp *ddp;
    struct gpt_share share; // rank, world size, global batch
    struct gpt_gradients gradients;
    struct gpt_curve curve; // rank 0
    struct gpt_progress progress;
    double began;    // clock at which training began
    double tested;   // seconds of that spent on held-out text
    double fraction; // of the run that is done, as rank 0 sees it
    double held_first, held_last;
    uint64_t first_step;
    int signal;      // that ended the run
    int code;        // to exit with if it failed
    bool everywhere; // all ranks know of the failure by themselves
    bool failed;     // `error` says why
    struct gpt_error error;
};

// For a call of Rondo: true if it succeeded, else keeps its reason, unless there is an earlier one.
bool gpt_succeeded(struct gpt_run *r, rondo_status status, const char *doing);

// For everything else, which leaves its reason in r->error by itself: marks the run as failed
// unless ok.
bool gpt_worked(struct gpt_run *r, bool ok);

// Finds the first rank whose value is not that of rank 0, or 0 if there is none; *value becomes
// that of rank 0. Collective.
bool gpt_compare(struct gpt_run *r, uint64_t *value, int *odd);

// From options, text and communicator to ranks that are ready to train, all with the same
// parameters. Collective.
bool gpt_set_up(struct gpt_run *r);

#endif
