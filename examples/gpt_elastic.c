// SPDX-License-Identifier: MIT
// Training with ranks that fail and come again: what a program has to do besides asking DDP for it.
//
// Its state is in three places: parameters and moments, which DDP hands to a newcomer; `course`, a few
// numbers, handed over as well; and what follows from the number of ranks: the share of each batch,
// the memory for it, and who writes files. The last is done here whenever the ranks have changed.
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "gpt_dp.h"
#include "gpt_run.h"

bool gpt_make_room(struct gpt_run *r) {
    const int sequences = gpt_share_count(&r->share);
    const size_t bytes = (size_t)sequences * (size_t)r->o.context;
    if (r->act && sequences <= r->room) {
        return true;
    }
    free(r->in);
    free(r->target);
    free(r->sample);
    gpt_activations_free(r->act);
    r->room = sequences;
    r->in = malloc(bytes);
    r->target = malloc(bytes);
    r->sample = malloc((size_t)sequences * sizeof *r->sample);
    r->act = NULL;
    const int most = r->o.dp ? gpt_dp_most(r, sequences) : sequences;
    return gpt_worked(r, (r->in && r->target && r->sample) ||
                             gpt_fail(&r->error, "no memory for a batch of %zu bytes", bytes)) &&
           gpt_worked(r, (r->act = gpt_activations_create(&r->model, most, &r->error)) != NULL);
}

// The lowest rank writes the figures; that may be another one now.
static bool share_roles(struct gpt_run *r) {
    if (r->share.rank != 0) {
        gpt_curve_hand_over(&r->curve);
    } else if (r->o.csv && !r->curve.csv) {
        return gpt_worked(r, gpt_curve_take_over(&r->curve, r->o.csv, &r->error));
    }
    return true;
}

bool gpt_regroup(struct gpt_run *r) {
    r->comm = rondo_ddp_comm(r->ddp);
    r->share.rank = rondo_comm_rank(r->comm);
    r->share.world = rondo_comm_size(r->comm);
    return gpt_make_room(r) && share_roles(r);
}

enum gpt_verdict gpt_agree(struct gpt_run *r, rondo_status (*call)(rondo_ddp *ddp),
                           const char *doing) {
    if (r->failed || r->dp) {
        return r->failed ? GPT_OVER : GPT_COUNTS; // DP is one process
    }
    rondo_status s = call(r->ddp);
    if (s == RONDO_RETRY_STEP) {
        r->shaken = false;
        return gpt_regroup(r) ? GPT_AGAIN : GPT_OVER;
    }
    if (s == RONDO_OK) {
        return GPT_COUNTS;
    }
    r->failed = true;
    gpt_fail(&r->error, "%s: %s", doing, rondo_last_error());
    return GPT_OVER;
}

// ---- Samples ------------------------------------------------------------------------------------

int gpt_job_rank(const struct gpt_run *r) {
    const char *rank = getenv("RANK");
    return rank ? atoi(rank) : rondo_comm_rank(r->job);
}

bool gpt_samples_open(struct gpt_run *r) {
    char name[4096];
    if (!r->o.samples) {
        return true;
    }
    snprintf(name, sizeof name, "%s.%d", r->o.samples, gpt_job_rank(r));
    r->samples = fopen(name, rondo_comm_is_newcomer(r->job) ? "ae" : "we");
    return gpt_worked(r, r->samples ||
                             gpt_fail(&r->error, "cannot write %s: %s", name, strerror(errno)));
}

// "step, ranks, rank: windows". Written at once and after the step counts: what is there was used.
bool gpt_samples_add(struct gpt_run *r, uint64_t step) {
    if (!r->samples) {
        return true;
    }
    fprintf(r->samples, "%" PRIu64 " %d %d:", step, r->share.world, r->share.rank);
    for (int i = 0; i < gpt_share_count(&r->share); i++) {
        fprintf(r->samples, " %" PRIu64, r->sample[i]);
    }
    fputc('\n', r->samples);
    return gpt_worked(r, fflush(r->samples) == 0 || gpt_fail(&r->error, "cannot write %s.*: %s",
                                                             r->o.samples, strerror(errno)));
}
