// SPDX-License-Identifier: MIT
// The reducer: marks, launches, waits.
//
//   grad_ready(7) grad_ready(6) grad_ready(5)  …        finish()
//        |             |             |                     |
//   bucket 0 full -> launch     bucket 1 full -> launch    wait for all, oldest first
//
// Buckets are launched strictly in the order of their index, on every rank: that is what makes the ranks'
// collectives meet, whatever the order in which their gradients come. Everything that a step sends goes in one order:
//
//   who has input (join.c) | buffers | buckets 0, 1, … | used parameters (usage.c) | sparse gradients | order, sizes
#include "ddp/internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// ---- Marks ---------------------------------------------------------------------------------------

rondo_status rdi_ddp_launch(struct rondo_ddp *d) {
    rondo_status s = RONDO_OK;
    while (s == RONDO_OK && d->next < d->nbuckets && d->buckets[d->next].pending == 0) {
        s = d->place->launch(d, &d->buckets[d->next]);
        d->next += s == RONDO_OK;
    }
    return s;
}

// The gradient of i to its view, from there or elsewhere, as it is reduced.
rondo_status rdi_ddp_divide(struct rondo_ddp *d, size_t i, const void *grad) {
    char *view = rdi_ddp_view(d, i);
    return d->place->divide(d, view, grad ? grad : view, d->params[i].count, d->params[i].type);
}

void rdi_ddp_complete(struct rondo_ddp *d, size_t i) {
    struct rdi_param *p = &d->params[i];
    p->ready = true;
    d->order[d->nready++] = i;
    if (rdi_usage_counts(d, p)) {
        d->buckets[p->bucket].pending--;
    }
}

rondo_status rdi_ddp_begin_step(struct rondo_ddp *d) {
    if (d->nmarks++ > 0) {
        return RONDO_OK;
    }
    rdi_ddp_trace_backward(d);
    rdi_sparse_reset(d);
    if (!d->join.on || !d->sync) {
        return RONDO_OK;
    }
    if (!d->join.told && d->nbuffers) {
        d->nmarks = 0;
        return rdi_fail(RONDO_ERR_USAGE,
                        "with buffers, each step in join mode begins with rondo_ddp_forward()");
    }
    return rdi_join_tell(d, true);
}

// What went wrong with a step that cannot count any more is for the step's end, where all ranks hear of it.
static rondo_status unless_broken(const struct rondo_ddp *d, rondo_status s) {
    return s != RONDO_OK && d->elastic && rdi_ddp_is_broken(d) ? RONDO_OK : s;
}

static rondo_status take(struct rondo_ddp *d, size_t i, const void *grad, bool used) {
    bool complete = false;
    rondo_status s = rdi_usage_mark(d, i, used, &complete);
    if (s != RONDO_OK) {
        return s;
    }
    // Also what an earlier pass, or an earlier mark, has left there counts.
    bool filled = d->params[i].used;
    if (!filled && rdi_usage_counts(d, &d->params[i])) {
        s = d->place->zero(d, rdi_ddp_view(d, i), d->params[i].bytes);
    } else if (filled && d->sync && complete) {
        s = rdi_ddp_divide(d, i, grad);
    } else if (grad) {
        s = d->place->copy(d, rdi_ddp_view(d, i), grad, d->params[i].bytes);
    }
    if (s != RONDO_OK || !complete) {
        return s;
    }
    rdi_ddp_complete(d, i);
    return d->sync ? rdi_ddp_launch(d) : RONDO_OK;
}

static rondo_status mark(struct rondo_ddp *d, size_t i, const void *grad, bool used) {
    if (!d || i >= d->nparams) {
        return rdi_fail(RONDO_ERR_INVALID, "rondo_ddp_grad_ready: %s",
                        d ? "there is no parameter with this index" : "the ddp object is NULL");
    }
    if (d->params[i].sparse && used) {
        return rdi_fail(RONDO_ERR_USAGE,
                        "parameter %zu (\"%s\") has sparse gradients (options.sparse): use "
                        "rondo_ddp_grad_ready_sparse()",
                        i, d->params[i].name);
    }
    if (d->params[i].sparse) {
        return rondo_ddp_grad_ready_sparse(d, i, NULL, NULL, 0);
    }
    rondo_status s = rdi_ddp_begin_step(d);
    return unless_broken(d, s == RONDO_OK ? take(d, i, grad, used) : s);
}

rondo_status rondo_ddp_grad_ready(rondo_ddp *d, size_t i) { return mark(d, i, NULL, true); }

rondo_status rondo_ddp_grad_unused(rondo_ddp *d, size_t i) { return mark(d, i, NULL, false); }

rondo_status rondo_ddp_grad_ready_copy(rondo_ddp *d, size_t i, const void *grad) {
    if (!grad) {
        return rdi_fail(RONDO_ERR_INVALID, "rondo_ddp_grad_ready_copy: the gradient is NULL");
    }
    return mark(d, i, grad, true);
}

// ---- The end of a step ---------------------------------------------------------------------------

void rdi_ddp_reset_step(struct rondo_ddp *d) {
    for (size_t b = 0; b < d->nbuckets; b++) {
        d->buckets[b].pending = 0;
    }
    for (size_t i = 0; i < d->nparams; i++) {
        struct rdi_param *p = &d->params[i];
        p->ready = false;
        p->marks = 0;
        if (rdi_usage_counts(d, p)) {
            d->buckets[p->bucket].pending++;
        }
    }
    d->nready = d->nmarks = 0;
    d->next = 0;
    d->join.told = false;
}

void rdi_ddp_drain(struct rondo_ddp *d) {
    if (d->hook.round) {
        rdi_hook_drain(d);
    }
    d->place->drain(d);
    (void)rdi_usage_wait(d);
    (void)rondo_wait(&d->join.req);
}

// What goes wrong on this rank alone would leave the others waiting.
void rdi_ddp_tell_failure(struct rondo_ddp *d, rondo_status s) {
    if ((s != RONDO_ERR_NOMEM && s != RONDO_ERR_INTERNAL) || !d->comm ||
        rondo_comm_error(d->comm) != RONDO_OK) {
        return;
    }
    char text[RDI_ERROR_TEXT];
    snprintf(text, sizeof text, "%s", rondo_last_error());
    (void)rondo_comm_abort(d->comm, text);
    rdi_set_last_error(text);
}

static void count_step(struct rondo_ddp *d) {
    for (size_t b = 0; b < d->nbuckets; b++) {
        d->stats.bytes_reduced += d->buckets[b].count * rondo_type_size(d->buckets[b].type);
    }
    d->stats.steps++;
}

// Everything between the last mark and the agreement on the step.
rondo_status rdi_ddp_step(struct rondo_ddp *d) {
    rondo_status s = rdi_ddp_launch(d);
    s = s == RONDO_OK ? rdi_usage_tell(d) : s;
    rondo_status w = d->place->finish(d);
    s = s == RONDO_OK ? w : s;
    // What fails has to show before ranks agree on the step.
    s = s == RONDO_OK && d->elastic ? rdi_usage_wait(d) : s;
    s = s == RONDO_OK ? rdi_sparse_reduce(d) : s;
    if (s == RONDO_OK && d->join.on) {
        rdi_join_scale(d);
    }
    rdi_ddp_trace_end(d);
    return s;
}

// Another order or size of buckets, where it is due. All ranks come to the same.
static rondo_status plan(struct rondo_ddp *d, size_t **order, size_t *cap) {
    bool rebuild = d->rebuild && !d->rebuilt;
    rondo_status s = rdi_tune_step(d, cap);
    if (s != RONDO_OK || (!rebuild && *cap == 0)) {
        return s;
    }
    *order = malloc((d->nparams + 1) * sizeof **order);
    if (!*order) {
        return rdi_fail(RONDO_ERR_NOMEM, "out of memory to rebuild buckets");
    }
    if (!rebuild) {
        memcpy(*order, d->layout, d->nparams * sizeof **order);
        return RONDO_OK;
    }
    return rdi_ddp_spread_order(d, *order);
}

static rondo_status follow(struct rondo_ddp *d, const size_t *order, size_t cap) {
    d->cap_bytes = cap ? cap : d->cap_bytes;
    if (!order) {
        return RONDO_OK;
    }
    // A share of a bucket is worth nothing in another bucket: moved when the optimizer is through with it.
    if (d->shard) {
        memcpy(d->moved, order, d->nparams * sizeof *order);
        d->move = true;
        d->rebuilt = true;
        return RONDO_OK;
    }
    rondo_status s = rdi_ddp_rearrange(d, order, true);
    d->rebuilt = d->rebuilt || s == RONDO_OK;
    return s;
}

rondo_status rdi_ddp_end_step(struct rondo_ddp *d, bool broken) {
    size_t *order = NULL, cap = 0;
    rondo_status s = broken ? RONDO_OK : rdi_ddp_step(d);
    s = s == RONDO_OK && !broken ? plan(d, &order, &cap) : s;
    s = d->elastic ? rdi_ddp_settle(d, s) : s;
    if (s == RONDO_OK) {
        count_step(d);
        rdi_usage_settled(d);
        s = follow(d, order, cap);
        rdi_usage_reset(d, true);
        rdi_ddp_reset_step(d);
    }
    free(order);
    rdi_ddp_tell_failure(d, s);
    return s;
}

rondo_status rondo_ddp_finish(rondo_ddp *d) {
    if (!d) {
        return rdi_fail(RONDO_ERR_INVALID, "rondo_ddp_finish: the ddp object is NULL");
    }
    bool broken = d->elastic && rdi_ddp_is_broken(d);
    if (!broken) {
        // Of a model that has no gradients at all, too.
        rondo_status s = d->nmarks ? RONDO_OK : unless_broken(d, rdi_ddp_begin_step(d));
        s = s == RONDO_OK ? rdi_usage_end(d) : s;
        if (s != RONDO_OK) {
            return s;
        }
    }
    rdi_ddp_trace_wait(d);
    if (!d->sync && !broken) {
        rdi_usage_reset(d, false);
        rdi_ddp_reset_step(d);
        return RONDO_OK;
    }
    rondo_status s = d->join.on && !broken ? rdi_join_hear(d) : RONDO_OK;
    s = s == RONDO_OK ? rdi_ddp_end_step(d, broken) : s;
    if (s == RONDO_OK && d->join.on) {
        s = rdi_join_end(d);
    }
    if (s == RONDO_OK && d->save) {
        d->save(d->hook_arg);
    }
    return s;
}

rondo_status rondo_ddp_commit(rondo_ddp *d) {
    bool broken = d && d->elastic && rdi_ddp_is_broken(d);
    rondo_status s = broken ? RONDO_OK : rdi_ddp_between_steps(d, "rondo_ddp_commit");
    if (s != RONDO_OK || !d || !d->elastic) {
        return s != RONDO_OK || !d ? s : rondo_comm_error(d->world);
    }
    s = rdi_ddp_settle(d, RONDO_OK);
    if (s == RONDO_OK && d->save) {
        d->save(d->hook_arg);
    }
    return s;
}
