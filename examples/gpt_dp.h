// SPDX-License-Identifier: MIT
// Training with --dp: one process, a thread and a replica of the model for each device.
#ifndef GPT_DP_H
#define GPT_DP_H

#include <stdbool.h>

struct gpt_run;
struct gpt_dp;

// Sequences of `all` that the first device takes, which has the most.
int gpt_dp_most(const struct gpt_run *r, int all);

// Replicas of r->model on r->o.dp devices; r->model and r->act are the first one's. Sets r->dp and r->gradients.
bool gpt_dp_create(struct gpt_run *r);
void gpt_dp_free(struct gpt_run *r);

// Forward and backward of r->in[sequences]: afterwards r->gradients are the sums over all devices, times `scale`, and
// *loss is the sum of the losses.
bool gpt_dp_train(struct gpt_run *r, int sequences, float scale, double *loss);

// Forward alone, of at most as many sequences.
bool gpt_dp_test(struct gpt_run *r, int sequences, double *loss);

// Seconds that parameters were copied, and gradients added up, so far.
void gpt_dp_times(const struct gpt_run *r, double *replicating, double *reducing);

#endif
