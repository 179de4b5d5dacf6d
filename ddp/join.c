// SPDX-License-Identifier: MIT
// Uneven inputs: a rank that is through takes part in the others' steps with zeros, until all are through.
//
//   rank 0   tell 1  step   tell 1  step   tell 0 --- all are through: parameters of the lowest rank of the last step
//   rank 1   tell 1  step   tell 0  zeros  tell 0 ---
//
// After PyTorch's join context; there an all_reduce counts ranks with input, here all ranks hear who they are, so that
// buffers have a root and errors a name.
#include "ddp/internal.h"

#include <stdlib.h>
#include <string.h>

rondo_status rdi_join_tell(struct rondo_ddp *d, bool input) {
    struct rdi_join *j = &d->join;
    if (j->told) {
        return RONDO_OK;
    }
    uint8_t *mine = &j->flags[rondo_comm_rank(d->comm)];
    *mine = input;
    rondo_status s = rondo_all_gather_start(mine, j->flags, 1, RONDO_U8, d->comm, &j->req);
    j->told = s == RONDO_OK;
    return s;
}

rondo_status rdi_join_hear(struct rondo_ddp *d) {
    struct rdi_join *j = &d->join;
    rondo_status s = rondo_wait(&j->req);
    int n = rondo_comm_size(d->comm), lowest = -1;
    j->active = 0;
    for (int r = n - 1; r >= 0 && s == RONDO_OK; r--) {
        lowest = j->flags[r] ? r : lowest;
        j->active += j->flags[r] != 0;
    }
    if (j->active > 0) {
        j->root = lowest;
    }
    for (int r = 0; r < n && s == RONDO_OK && j->out < 0; r++) {
        j->out = j->flags[r] ? -1 : r;
    }
    return s;
}

// Gradients were divided by the number of all ranks.
void rdi_join_scale(struct rondo_ddp *d) {
    const struct rdi_join *j = &d->join;
    int n = rondo_comm_size(d->comm);
    if (!j->options.divide_by_initial && d->average && j->active < n) {
        rdi_ddp_scale(d, (double)n / j->active);
    }
}

// The step of those that have input is over; with stop_early it may be the last, which does not count.
rondo_status rdi_join_end(struct rondo_ddp *d) {
    struct rdi_join *j = &d->join;
    if (!j->options.stop_early || j->active == rondo_comm_size(d->comm)) {
        return RONDO_OK;
    }
    j->on = false;
    return rdi_fail(
        RONDO_END_OF_INPUT,
        "rank %d has no more input, %d of %d ranks have; options.stop_early ends all of them",
        j->out, j->active, rondo_comm_size(d->comm));
}

rondo_status rondo_ddp_join_begin(rondo_ddp *d, const rondo_ddp_join_options *options) {
    rondo_status s = rdi_ddp_between_steps(d, "rondo_ddp_join_begin");
    if (s != RONDO_OK) {
        return s;
    }
    if (options && options->size != sizeof *options) {
        return rdi_fail(RONDO_ERR_INVALID,
                        "rondo_ddp_join_options.size is not that of this version; "
                        "start from RONDO_DDP_JOIN_OPTIONS_INIT");
    }
    if (d->elastic || d->device) {
        return rdi_fail(RONDO_ERR_UNSUPPORTED, "join mode does not work with options.%s",
                        d->elastic
                            ? "elastic: deal out the batch with rondo_sampler_share(), of which a "
                              "rank may get nothing"
                            : "device: the host does not wait for steps there. Give all ranks "
                              "as many batches (rondo_sampler pads or drops)");
    }
    struct rdi_join *j = &d->join;
    if (j->on) {
        return rdi_fail(RONDO_ERR_USAGE, "rondo_ddp_join_begin: join mode has begun already");
    }
    uint8_t *flags = realloc(j->flags, (size_t)rondo_comm_size(d->comm));
    if (!flags) {
        return rdi_fail(RONDO_ERR_NOMEM, "out of memory for join mode");
    }
    rondo_ddp_join_options initial = RONDO_DDP_JOIN_OPTIONS_INIT;
    *j = (struct rdi_join){
        .on = true, .options = options ? *options : initial, .flags = flags, .root = -1, .out = -1};
    return RONDO_OK;
}

// One step in which this rank only takes part.
static rondo_status shadow_step(struct rondo_ddp *d) {
    rondo_status s = rdi_ddp_broadcast_buffers(d, d->join.root);
    rdi_sparse_reset(d);
    s = s == RONDO_OK ? rdi_usage_shadow(d) : s;
    s = s == RONDO_OK ? rdi_ddp_end_step(d, false) : s;
    if (s == RONDO_OK) {
        s = rdi_join_end(d);
    }
    return s == RONDO_OK && d->join.options.shadow ? d->join.options.shadow(d->join.options.arg)
                                                   : s;
}

rondo_status rondo_ddp_join_end(rondo_ddp *d) {
    rondo_status s = rdi_ddp_between_steps(d, "rondo_ddp_join_end");
    if (s != RONDO_OK) {
        return s;
    }
    struct rdi_join *j = &d->join;
    if (!j->on || !d->sync || j->told) {
        return rdi_fail(RONDO_ERR_USAGE, "rondo_ddp_join_end: %s",
                        !j->on     ? "join mode has not begun, or is over"
                        : !d->sync ? "gradients wait for a step with sync 1; make it first"
                                   : "rondo_ddp_forward() has begun a step; finish it first");
    }
    do {
        j->shadow = true;
        s = rdi_join_tell(d, false);
        s = s == RONDO_OK ? rdi_join_hear(d) : s;
        if (s == RONDO_OK && j->active > 0) {
            s = shadow_step(d);
        }
        j->told = false;
    } while (s == RONDO_OK && j->active > 0);
    j->shadow = j->on = false;
    if (s == RONDO_OK && j->root >= 0) {
        s = rdi_ddp_broadcast(d, j->root);
        s = s == RONDO_OK ? rdi_ddp_broadcast_buffers(d, j->root) : s;
    }
    return s;
}
