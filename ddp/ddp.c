// SPDX-License-Identifier: MIT
// The reducer: marks, launches, waits, rebuilds.
//
//   grad_ready(7) grad_ready(6) grad_ready(5)  …        finish()
//        |             |             |                     |
//   bucket 0 full -> launch     bucket 1 full -> launch    wait for all, oldest first
//
// Buckets are launched strictly in the order of their index, on every rank: that is what makes the ranks'
// collectives meet, whatever the order in which their gradients come.
#include "ddp/internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

uint64_t rdi_ddp_bytes_sent(const struct rondo_ddp *d) {
    rondo_comm_stats s = {.size = sizeof s};
    return d->comm && rondo_comm_get_stats(d->comm, &s) == RONDO_OK ? s.bytes_sent - d->sent_before
                                                                    : 0;
}

// ---- Life ----------------------------------------------------------------------------------------

static bool is_float(rondo_type t) {
    return t <= RONDO_BF16 || t == RONDO_F8E4M3 || t == RONDO_F8E5M2;
}

static rondo_status copy_params(struct rondo_ddp *d, const rondo_param *params, size_t n) {
    d->params = calloc(n + 1, sizeof *d->params);
    d->order = calloc(n + 1, sizeof *d->order);
    d->layout = calloc(n + 1, sizeof *d->layout);
    if (!d->params || !d->order || !d->layout) {
        return rdi_fail(RONDO_ERR_NOMEM, "out of memory for %zu parameters", n);
    }
    for (size_t i = 0; i < n; i++) {
        const rondo_param *p = &params[i];
        if (!p->name || !p->data || p->count == 0 || !is_float(p->type)) {
            return rdi_fail(
                RONDO_ERR_INVALID,
                "parameter %zu (\"%s\"): it needs a name, data, a count above 0 and a type of "
                "RONDO_F32, F64, F16, BF16, F8E4M3 or F8E5M2",
                i, p->name ? p->name : "NULL");
        }
        d->params[i] = (struct rdi_param){.name = strdup(p->name),
                                          .data = p->data,
                                          .count = p->count,
                                          .bytes = p->count * rondo_type_size(p->type),
                                          .type = p->type};
        d->nparams = i + 1;
        if (!d->params[i].name) {
            return rdi_fail(RONDO_ERR_NOMEM, "out of memory for a parameter's name");
        }
        // Gradients come in reverse of the definition.
        d->layout[i] = n - 1 - i;
    }
    return RONDO_OK;
}

static rondo_status set_elastic(struct rondo_ddp *d, const rondo_ddp_options *o) {
    d->elastic = true;
    d->save = o->save;
    d->restore = o->restore;
    d->hook_arg = o->hook_arg;
    if (o->device >= 0) {
        return rdi_fail(RONDO_ERR_UNSUPPORTED,
                        "options.elastic does not work with options.device %d: a step on a device "
                        "is not known to be over when rondo_ddp_finish() returns. Train without "
                        "elastic there, from checkpoints",
                        o->device);
    }
    if (o->nstates && !o->states) {
        return rdi_fail(RONDO_ERR_INVALID, "options.states is NULL, but nstates is %zu",
                        o->nstates);
    }
    d->states = calloc(o->nstates + 1, sizeof *d->states);
    if (!d->states) {
        return rdi_fail(RONDO_ERR_NOMEM, "out of memory for a list of %zu states", o->nstates);
    }
    for (size_t i = 0; i < o->nstates; i++) {
        if (o->states[i].bytes && !o->states[i].data) {
            return rdi_fail(RONDO_ERR_INVALID, "options.states[%zu] has %zu bytes and no data", i,
                            o->states[i].bytes);
        }
        d->states[i] = o->states[i];
    }
    d->nstates = o->nstates;
    return RONDO_OK;
}

static rondo_status set_options(struct rondo_ddp *d, const rondo_ddp_options *o, int *device,
                                rondo_stream *stream) {
    rondo_ddp_options opt = RONDO_DDP_OPTIONS_INIT;
    // Programs that were built before a field was added leave it at its default.
    if (o && (o->size < offsetof(rondo_ddp_options, device) || o->size > sizeof opt)) {
        return rdi_fail(RONDO_ERR_INVALID,
                        "rondo_ddp_options.size is not that of this version; start from "
                        "RONDO_DDP_OPTIONS_INIT");
    }
    if (o) {
        memcpy(&opt, o, o->size);
    }
    const struct rdi_options *defaults = &d->world->engine->options;
    d->first_bytes = opt.first_bucket_bytes ? opt.first_bucket_bytes
                                            : (size_t)defaults->num[RDI_OPT_DDP_FIRST_BUCKET];
    d->cap_bytes = opt.bucket_bytes ? opt.bucket_bytes : (size_t)defaults->num[RDI_OPT_DDP_BUCKET];
    d->average = opt.average != 0;
    d->rebuild = opt.rebuild != 0;
    *device = opt.device;
    *stream = opt.stream;
    return opt.elastic ? set_elastic(d, &opt) : RONDO_OK;
}

// What a rank can do by itself.
static rondo_status prepare(struct rondo_ddp *d, const rondo_param *params, size_t nparams,
                            const rondo_ddp_options *options, int *device, rondo_stream *stream) {
    rondo_status s = set_options(d, options, device, stream);
    return s == RONDO_OK ? copy_params(d, params, nparams) : s;
}

static rondo_status make_buckets(struct rondo_ddp *d) {
    rondo_status s = rdi_bucket_assign(d->params, d->nparams, d->layout, d->first_bytes,
                                       d->cap_bytes, &d->buckets, &d->nbuckets);
    return s == RONDO_OK ? rdi_bucket_alloc(d, d->buckets, d->nbuckets) : s;
}

// Its communicator, which all ranks split off before anything else can fail: a rank with bad arguments must not leave
// the others waiting, so it aborts that.
static rondo_status begin(struct rondo_ddp *d, rondo_status s, int device, rondo_stream stream) {
    char text[RDI_ERROR_TEXT];
    snprintf(text, sizeof text, "%s", rondo_last_error());
    rondo_status split = rondo_comm_split(d->world, 0, rondo_comm_rank(d->world), &d->comm);
    if (s != RONDO_OK) {
        rdi_set_last_error(text);
    } else if (device >= 0 && split == RONDO_OK) {
        d->place = &rdi_place_device;
        s = rdi_ddp_device_open(d, device, stream);
        s = s == RONDO_OK ? rdi_ddp_device_check(d) : s;
    }
    if (split != RONDO_OK) {
        return s != RONDO_OK ? s : split;
    }
    s = s == RONDO_OK ? make_buckets(d) : s;
    s = s == RONDO_OK ? rdi_comm_start_thread(d->comm) : s;
    if (s != RONDO_OK) {
        snprintf(text, sizeof text, "%s", rondo_last_error());
        rondo_comm_abort(d->comm, text);
        rdi_set_last_error(text);
        return s;
    }
    s = rdi_ddp_verify(d);
    s = s == RONDO_OK ? rdi_ddp_hand_over(d) : s;
    d->sent_before = rdi_ddp_bytes_sent(d);
    return s;
}

rondo_status rondo_ddp_create(rondo_comm *comm, const rondo_param *params, size_t nparams,
                              const rondo_ddp_options *options, rondo_ddp **ddp) {
    if (!comm || !ddp || (nparams && !params)) {
        return rdi_fail(RONDO_ERR_INVALID, "rondo_ddp_create: a pointer is NULL");
    }
    struct rondo_ddp *d = calloc(1, sizeof *d);
    if (!d) {
        return rdi_fail(RONDO_ERR_NOMEM, "out of memory for a ddp object");
    }
    d->sync = d->fresh = true;
    d->place = &rdi_place_host;
    d->world = comm;
    d->origin = rondo_comm_rank(comm) == 0 && !rondo_comm_is_newcomer(comm);
    int device = -1;
    rondo_stream stream = NULL;
    rondo_status s = prepare(d, params, nparams, options, &device, &stream);
    if (d->elastic) {
        s = s == RONDO_OK ? make_buckets(d) : s;
        s = rdi_ddp_begin(d, s);
    } else {
        s = begin(d, s, device, stream);
    }
    if (s != RONDO_OK) {
        char text[RDI_ERROR_TEXT];
        snprintf(text, sizeof text, "%s", rondo_last_error());
        (void)rondo_ddp_destroy(d);
        rdi_set_last_error(text);
        return s;
    }
    d->stats.buckets = d->nbuckets;
    *ddp = d;
    return RONDO_OK;
}

rondo_status rondo_ddp_destroy(rondo_ddp *d) {
    if (!d) {
        return RONDO_OK;
    }
    if (d->place == &rdi_place_host || d->device) {
        d->place->drain(d);
    }
    rondo_status s = rondo_comm_destroy(d->comm);
    if (d->own_world) {
        rondo_status w = rondo_comm_destroy(d->world);
        s = s == RONDO_OK ? w : s;
    }
    rdi_bucket_free(d, d->buckets, d->nbuckets);
    rdi_ddp_device_close(d);
    for (size_t i = 0; i < d->nparams; i++) {
        free(d->params[i].name);
    }
    free(d->params);
    free(d->order);
    free(d->layout);
    free(d->states);
    free(d);
    return s;
}

rondo_comm *rondo_ddp_comm(const rondo_ddp *d) { return d ? d->world : NULL; }

int rondo_ddp_joined(const rondo_ddp *d) { return d && d->joined; }

// ---- Views ---------------------------------------------------------------------------------------

static char *view(const struct rondo_ddp *d, size_t i) {
    return d->buckets[d->params[i].bucket].mem + d->params[i].offset;
}

void *rondo_ddp_grad(rondo_ddp *d, size_t i) { return d && i < d->nparams ? view(d, i) : NULL; }

static rondo_status between_steps(const struct rondo_ddp *d, const char *name) {
    if (!d || d->nready) {
        return rdi_fail(d ? RONDO_ERR_USAGE : RONDO_ERR_INVALID, "%s: %s", name,
                        d ? "a step is under way; finish it first" : "the ddp object is NULL");
    }
    return RONDO_OK;
}

rondo_status rdi_ddp_zero(struct rondo_ddp *d) {
    rondo_status s = RONDO_OK;
    for (size_t b = 0; b < d->nbuckets && s == RONDO_OK; b++) {
        const struct rdi_bucket *k = &d->buckets[b];
        s = d->place->zero(d, k->mem, k->count * rondo_type_size(k->type));
    }
    return s;
}

rondo_status rondo_ddp_zero_grad(rondo_ddp *d) {
    rondo_status s = between_steps(d, "rondo_ddp_zero_grad");
    return s == RONDO_OK ? rdi_ddp_zero(d) : s;
}

rondo_status rondo_ddp_set_sync(rondo_ddp *d, int sync) {
    rondo_status s = between_steps(d, "rondo_ddp_set_sync");
    if (s == RONDO_OK) {
        d->sync = sync != 0;
    }
    return s;
}

// ---- A step --------------------------------------------------------------------------------------

static rondo_status launch(struct rondo_ddp *d) {
    rondo_status s = RONDO_OK;
    while (s == RONDO_OK && d->next < d->nbuckets && d->buckets[d->next].pending == 0) {
        s = d->place->launch(d, &d->buckets[d->next]);
        d->next += s == RONDO_OK;
    }
    return s;
}

static rondo_status mark(struct rondo_ddp *d, size_t i, const void *grad) {
    if (!d || i >= d->nparams) {
        return rdi_fail(RONDO_ERR_INVALID, "rondo_ddp_grad_ready: %s",
                        d ? "there is no parameter with this index" : "the ddp object is NULL");
    }
    struct rdi_param *p = &d->params[i];
    if (p->ready) {
        return rdi_fail(
            RONDO_ERR_USAGE,
            "the gradient of parameter %zu (\"%s\") was marked ready twice in one step. Mark each "
            "once, when its last contribution is in; a parameter that several layers share is "
            "complete at the last of them; call rondo_ddp_finish() between steps",
            i, p->name);
    }
    if (d->sync) {
        rondo_status s =
            d->place->divide(d, view(d, i), grad ? grad : view(d, i), p->count, p->type);
        if (s != RONDO_OK) {
            return s;
        }
    }
    if (d->nready == 0) {
        rdi_ddp_trace_backward(d);
    }
    p->ready = true;
    d->order[d->nready++] = i;
    d->buckets[p->bucket].pending--;
    rondo_status s = d->sync ? launch(d) : RONDO_OK;
    // A step that cannot count any more goes on to its end, where all ranks hear of it.
    return s != RONDO_OK && d->elastic && rdi_ddp_is_broken(d) ? RONDO_OK : s;
}

rondo_status rondo_ddp_grad_ready(rondo_ddp *d, size_t i) { return mark(d, i, NULL); }

rondo_status rondo_ddp_grad_ready_copy(rondo_ddp *d, size_t i, const void *grad) {
    if (!grad) {
        return rdi_fail(RONDO_ERR_INVALID, "rondo_ddp_grad_ready_copy: the gradient is NULL");
    }
    return mark(d, i, grad);
}

static rondo_status never_ready(const struct rondo_ddp *d) {
    char names[400] = "";
    size_t at = 0, missing = d->nparams - d->nready, shown = 0;
    for (size_t i = 0; i < d->nparams && shown < 8; i++) {
        if (!d->params[i].ready && at < sizeof names - 1) {
            int n = snprintf(names + at, sizeof names - at, "%s%zu \"%.40s\"", shown ? ", " : "", i,
                             d->params[i].name);
            at += n > 0 ? (size_t)n : 0;
            shown++;
        }
    }
    return rdi_fail(
        RONDO_ERR_USAGE,
        "%zu of %zu gradients were never marked ready in this step on rank %d: %s%s. Mark every "
        "parameter; one that took no part in the step has a gradient of zeros",
        missing, d->nparams, rondo_comm_rank(d->comm), names, shown < missing ? " …" : "");
}

void rdi_ddp_reset_step(struct rondo_ddp *d) {
    for (size_t i = 0; i < d->nparams; i++) {
        d->params[i].ready = false;
    }
    for (size_t b = 0; b < d->nbuckets; b++) {
        d->buckets[b].pending = d->buckets[b].params;
    }
    d->nready = 0;
    d->next = 0;
}

// The order in which rank 0's gradients got ready, to all.
static rondo_status spread_order(struct rondo_ddp *d, size_t *order) {
    uint64_t *list = malloc((d->nparams + 1) * sizeof *list);
    if (!list) {
        return rdi_fail(RONDO_ERR_NOMEM, "out of memory to rebuild buckets");
    }
    for (size_t i = 0; i < d->nparams; i++) {
        list[i] = d->order[i];
    }
    rondo_status s = rondo_broadcast(list, list, d->nparams, RONDO_U64, 0, d->comm);
    if (s == RONDO_OK && !rdi_bucket_order(list, d->nparams, order)) {
        s = rdi_fail(RONDO_ERR_INTERNAL, "the order of parameters that rank 0 sent is none");
    }
    free(list);
    return s;
}

// Buckets by another order. `keep`: the old ones' contents move along.
static rondo_status relayout(struct rondo_ddp *d, const size_t *order, bool keep) {
    struct rdi_param *old = malloc((d->nparams + 1) * sizeof *old);
    struct rdi_bucket *buckets = NULL;
    size_t n = 0;
    if (!old) {
        return rdi_fail(RONDO_ERR_NOMEM, "out of memory to rebuild buckets");
    }
    memcpy(old, d->params, d->nparams * sizeof *old);
    rondo_status s =
        rdi_bucket_assign(d->params, d->nparams, order, d->first_bytes, d->cap_bytes, &buckets, &n);
    s = s == RONDO_OK ? rdi_bucket_alloc(d, buckets, n) : s;
    for (size_t i = 0; s == RONDO_OK && keep && i < d->nparams; i++) {
        s = d->place->copy(d, buckets[d->params[i].bucket].mem + d->params[i].offset,
                           d->buckets[old[i].bucket].mem + old[i].offset, old[i].bytes);
    }
    if (s != RONDO_OK) {
        memcpy(d->params, old, d->nparams * sizeof *old);
        rdi_bucket_free(d, buckets, n);
    } else {
        rdi_bucket_free(d, d->buckets, d->nbuckets);
        d->buckets = buckets;
        d->nbuckets = n;
        memcpy(d->layout, order, d->nparams * sizeof *order);
    }
    free(old);
    return s;
}

rondo_status rdi_ddp_relayout(struct rondo_ddp *d, const size_t *order) {
    return relayout(d, order, false);
}

static void count_step(struct rondo_ddp *d) {
    for (size_t b = 0; b < d->nbuckets; b++) {
        d->stats.bytes_reduced += d->buckets[b].count * rondo_type_size(d->buckets[b].type);
    }
    d->stats.steps++;
}

// Reduces what is there; where buckets will be rebuilt, *order is how, and the caller's to free.
static rondo_status reduce(struct rondo_ddp *d, size_t **order) {
    rondo_status s = launch(d), w = d->place->finish(d);
    s = s == RONDO_OK ? w : s;
    rdi_ddp_trace_end(d);
    if (s != RONDO_OK || !d->rebuild || d->rebuilt) {
        return s;
    }
    *order = malloc((d->nparams + 1) * sizeof **order);
    return *order ? spread_order(d, *order)
                  : rdi_fail(RONDO_ERR_NOMEM, "out of memory to rebuild buckets");
}

rondo_status rondo_ddp_finish(rondo_ddp *d) {
    if (!d) {
        return rdi_fail(RONDO_ERR_INVALID, "rondo_ddp_finish: the ddp object is NULL");
    }
    bool broken = d->elastic && rdi_ddp_is_broken(d);
    if (d->nready < d->nparams && !broken) {
        return never_ready(d);
    }
    rdi_ddp_trace_wait(d);
    if (!d->sync && !broken) {
        rdi_ddp_reset_step(d);
        return RONDO_OK;
    }
    size_t *order = NULL;
    rondo_status s = broken ? RONDO_OK : reduce(d, &order);
    s = d->elastic ? rdi_ddp_settle(d, s) : s;
    if (s == RONDO_OK) {
        count_step(d);
        if (order) {
            s = relayout(d, order, true);
            d->rebuilt = s == RONDO_OK;
        }
        rdi_ddp_reset_step(d);
    }
    if (s == RONDO_OK && d->save) {
        d->save(d->hook_arg);
    }
    free(order);
    return s;
}

rondo_status rondo_ddp_commit(rondo_ddp *d) {
    bool broken = d && d->elastic && rdi_ddp_is_broken(d);
    rondo_status s = broken ? RONDO_OK : between_steps(d, "rondo_ddp_commit");
    if (s != RONDO_OK || !d->elastic) {
        return s != RONDO_OK ? s : rondo_comm_error(d->world);
    }
    s = rdi_ddp_settle(d, RONDO_OK);
    if (s == RONDO_OK && d->save) {
        d->save(d->hook_arg);
    }
    return s;
}

rondo_status rondo_ddp_get_stats(const rondo_ddp *d, rondo_ddp_stats *out) {
    if (!d || !out || out->size < sizeof(size_t)) {
        return rdi_fail(RONDO_ERR_INVALID,
                        "rondo_ddp_get_stats: a pointer is NULL or out->size is not set");
    }
    rondo_ddp_stats s = d->stats;
    s.size = out->size;
    s.buckets = d->nbuckets;
    s.rebuilt = d->rebuilt;
    if (d->device) {
        rdi_ddp_device_times(d, &s);
    }
    s.bytes_sent = d->sent + rdi_ddp_bytes_sent(d);
    memcpy(out, &s, out->size < sizeof s ? out->size : sizeof s);
    return d->device ? rondo_comm_error(d->comm) : RONDO_OK; // finish() did not wait
}
