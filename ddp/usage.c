// SPDX-License-Identifier: MIT
// Which parameters took part in a step, and what became of those that did not.
//
//   neither option     each is marked once, or finish() names those that were not
//   find_unused        what was not marked counts as zeros from finish() on
//   static_graph       the first pass counts marks, all later ones must have the same; compared over ranks once
//
// Whether any rank used a parameter is an all_reduce of a byte a parameter, which is waited for when somebody asks.
#include "ddp/internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool learning(const struct rondo_ddp *d) { return d->static_graph && !d->learned; }

static rondo_status marked_twice(const struct rondo_ddp *d, size_t i) {
    const struct rdi_param *p = &d->params[i];
    if (d->static_graph) {
        return rdi_fail(
            RONDO_ERR_USAGE,
            "the gradient of parameter %zu (\"%s\") was marked ready %u times in one step, but %u "
            "times in "
            "the first: options.static_graph demands that all steps are alike. Leave it out if "
            "layers "
            "are used or left out from step to step; call rondo_ddp_finish() between steps",
            i, p->name, p->marks + 1, p->expected);
    }
    return rdi_fail(
        RONDO_ERR_USAGE,
        "the gradient of parameter %zu (\"%s\") was marked ready twice in one step. Mark each "
        "once, when its last contribution is in; a parameter that several layers share is "
        "complete at the last of them (options.static_graph finds out which that is, also where "
        "activations are computed again); call rondo_ddp_finish() between steps",
        i, p->name);
}

rondo_status rdi_usage_mark(struct rondo_ddp *d, size_t i, bool used, bool *complete) {
    struct rdi_param *p = &d->params[i];
    if (p->ready || (d->static_graph && d->learned && p->marks >= p->expected && used)) {
        return marked_twice(d, i);
    }
    p->used = p->used || used;
    p->marks += used;
    p->last = d->nmarks;
    *complete = !learning(d) && (!d->static_graph || p->marks == p->expected);
    return RONDO_OK;
}

static rondo_status never_ready(const struct rondo_ddp *d) {
    char names[400] = "";
    size_t at = 0, missing = 0, shown = 0;
    for (size_t i = 0; i < d->nparams; i++) {
        const struct rdi_param *p = &d->params[i];
        if (p->ready || (d->static_graph && p->expected == 0)) {
            continue;
        }
        missing++;
        if (shown < 8 && at < sizeof names - 1) {
            int n = snprintf(names + at, sizeof names - at, "%s%zu \"%.40s\"", shown ? ", " : "", i,
                             p->name);
            at += n > 0 ? (size_t)n : 0;
            shown++;
        }
    }
    if (missing == 0) {
        return RONDO_OK;
    }
    return rdi_fail(
        RONDO_ERR_USAGE,
        "%zu of %zu gradients were never marked ready in this step on rank %d: %s%s. %s", missing,
        d->nparams, rondo_comm_rank(d->comm), names, shown < missing ? " …" : "",
        d->static_graph
            ? "The first step marked them, and options.static_graph demands that all steps are "
              "alike: "
              "leave it out if layers are left out from step to step"
            : "Mark every parameter; rondo_ddp_grad_unused() says that one takes no part, "
              "options.find_unused finds all that do not. If all should: does the loss depend on "
              "them, and does a layer return early?");
}

// ---- The end of a pass ---------------------------------------------------------------------------

// In the order of last marks; what was not marked comes at the end.
static int by_last(const void *a, const void *b) {
    const uint64_t *x = a, *y = b;
    return x[0] < y[0] ? -1 : x[0] > y[0] ? 1 : x[1] < y[1] ? -1 : 1;
}

static rondo_status complete_all(struct rondo_ddp *d) {
    uint64_t(*list)[2] = malloc((d->nparams + 1) * sizeof *list);
    if (!list) {
        return rdi_fail(RONDO_ERR_NOMEM, "out of memory for %zu parameters", d->nparams);
    }
    size_t n = 0;
    for (size_t i = 0; i < d->nparams; i++) {
        const struct rdi_param *p = &d->params[i];
        if (!p->ready) {
            list[n][0] = p->marks ? p->last : UINT64_MAX;
            list[n++][1] = i;
        }
    }
    qsort(list, n, sizeof *list, by_last);
    rondo_status s = RONDO_OK;
    for (size_t k = 0; k < n && s == RONDO_OK; k++) {
        size_t i = (size_t)list[k][1];
        const struct rdi_param *p = &d->params[i];
        // What takes no part in a static graph is zeros since the first step, and may be on its way already.
        if (rdi_usage_counts(d, p)) {
            // A pass before may have used it.
            s = p->used ? rdi_ddp_divide(d, i, NULL)
                        : d->place->zero(d, rdi_ddp_view(d, i), p->bytes);
        }
        rdi_ddp_complete(d, i);
    }
    free(list);
    return s;
}

rondo_status rdi_usage_end(struct rondo_ddp *d) {
    if (learning(d)) {
        for (size_t i = 0; i < d->nparams; i++) {
            d->params[i].expected = d->params[i].marks;
        }
        return d->sync ? complete_all(d) : RONDO_OK;
    }
    if (d->find_unused && !d->static_graph) {
        return d->sync ? complete_all(d) : RONDO_OK;
    }
    rondo_status s = d->nready < d->nparams ? never_ready(d) : RONDO_OK;
    return s == RONDO_OK && d->static_graph && d->sync ? complete_all(d) : s;
}

rondo_status rdi_usage_shadow(struct rondo_ddp *d) {
    for (size_t i = 0; i < d->nparams; i++) {
        d->params[i].used = false;
    }
    rondo_status s = rdi_ddp_zero(d);
    for (size_t k = 0; k < d->nparams; k++) {
        rdi_ddp_complete(d, d->layout[k]);
    }
    return s;
}

// ---- Telling the others --------------------------------------------------------------------------

static rondo_status marked_otherwise(const struct rondo_ddp *d, size_t i, uint32_t least,
                                     uint32_t most) {
    return rdi_fail(
        RONDO_ERR_MISMATCH,
        "the graphs differ: in the first step parameter %zu (\"%s\") was marked %u times on one "
        "rank and %u times on another (here: %u times). options.static_graph demands that "
        "all ranks use the same parameters as often; leave it out, or use "
        "options.find_unused",
        i, d->params[i].name, least, most, d->params[i].marks);
}

// After the first step: all ranks have marked alike. A rank without input has nothing to say, and learns it here.
static rondo_status compare_marks(struct rondo_ddp *d) {
    uint32_t *least = malloc((2 * d->nparams + 1) * sizeof *least);
    if (!least) {
        return rdi_fail(RONDO_ERR_NOMEM, "out of memory to compare %zu parameters", d->nparams);
    }
    uint32_t *most = least + d->nparams;
    for (size_t i = 0; i < d->nparams; i++) {
        least[i] = d->join.shadow ? UINT32_MAX : d->params[i].expected;
        most[i] = d->join.shadow ? 0 : d->params[i].expected;
    }
    rondo_status s = rondo_all_reduce(least, least, d->nparams, RONDO_U32, RONDO_MIN, d->comm);
    s = s == RONDO_OK ? rondo_all_reduce(most, most, d->nparams, RONDO_U32, RONDO_MAX, d->comm) : s;
    for (size_t i = 0; i < d->nparams && s == RONDO_OK; i++) {
        d->params[i].expected = most[i];
        d->used_map[i] = most[i] > 0;
        s = least[i] == most[i] ? s : marked_otherwise(d, i, least[i], most[i]);
    }
    free(least);
    d->learns = s == RONDO_OK;
    return s;
}

rondo_status rdi_usage_tell(struct rondo_ddp *d) {
    if (learning(d)) {
        return compare_marks(d);
    }
    if (!d->find_unused || d->static_graph) {
        return RONDO_OK;
    }
    (void)rdi_usage_wait(d); // of the step before: one that failed was repeated, or was the last
    d->used_status = RONDO_OK;
    for (size_t i = 0; i < d->nparams; i++) {
        d->used_map[i] = d->params[i].used;
    }
    return rondo_all_reduce_start(d->used_map, d->used_map, d->nparams, RONDO_U8, RONDO_MAX,
                                  d->comm, &d->used_req);
}

void rdi_usage_settled(struct rondo_ddp *d) { d->learned = d->learned || d->learns; }

void rdi_usage_reset(struct rondo_ddp *d, bool reduced) {
    d->learns = false;
    for (size_t i = 0; i < d->nparams; i++) {
        d->params[i].used = d->params[i].used && !reduced;
    }
}

rondo_status rdi_usage_wait(struct rondo_ddp *d) {
    rondo_status s = rondo_wait(&d->used_req);
    d->used_status = s == RONDO_OK ? d->used_status : s;
    return d->used_status;
}

rondo_status rondo_ddp_grad_used(rondo_ddp *d, size_t i, int *used) {
    if (!d || !used || i >= d->nparams) {
        return rdi_fail(RONDO_ERR_INVALID, "rondo_ddp_grad_used: a pointer is NULL, or there is no "
                                           "parameter with this index");
    }
    rondo_status s = rdi_usage_wait(d);
    *used = d->used_map[i] != 0;
    return s;
}
