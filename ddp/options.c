// SPDX-License-Identifier: MIT
// What a ddp object is created from: parameters and options, checked and copied.
#include "ddp/internal.h"
#include "ring/reduce.h"

#include <stdlib.h>
#include <string.h>

static rondo_status copy_params(struct rondo_ddp *d, const rondo_param *params, size_t n,
                                const size_t *rows) {
    d->params = calloc(n + 1, sizeof *d->params);
    d->order = calloc(n + 1, sizeof *d->order);
    d->layout = calloc(n + 1, sizeof *d->layout);
    d->moved = calloc(n + 1, sizeof *d->moved);
    d->used_map = malloc(n + 1);
    if (!d->params || !d->order || !d->layout || !d->moved || !d->used_map) {
        return rdi_fail(RONDO_ERR_NOMEM, "out of memory for %zu parameters", n);
    }
    memset(d->used_map, 1, n + 1);
    for (size_t i = 0; i < n; i++) {
        const rondo_param *p = &params[i];
        if (!p->name || !p->data || p->count == 0 || !rdi_type_is_float(p->type)) {
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
                                          .type = p->type,
                                          .rows = rows ? rows[i] : 0};
        d->nparams = i + 1;
        if (rows && rows[i] && p->count % rows[i] != 0) {
            return rdi_fail(
                RONDO_ERR_INVALID,
                "parameter %zu (\"%s\"): %zu elements are no matrix of options.rows = %zu rows; "
                "give a number that divides, or 0",
                i, p->name, p->count, rows[i]);
        }
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

// What does not go together, and why.
static rondo_status check_together(const struct rondo_ddp *d, const rondo_ddp_options *o) {
    const struct {
        bool both;
        const char *what, *why;
    } no[] = {
        {o->hook && o->device >= 0, "options.hook does not work with options.device",
         "hooks are given gradients in host memory; reduce without one there"},
        {o->nsparse && o->device >= 0, "options.sparse does not work with options.device",
         "rows are put together in host memory; use dense gradients there"},
        {o->shard && o->device >= 0, "options.shard does not work with options.device",
         "parameters are gathered in host memory; keep the whole state on each device"},
        {o->shard && o->elastic, "options.shard does not work with options.elastic",
         "the share of a rank that is lost would be lost; start the whole job again from a "
         "checkpoint "
         "(rondo-run --max-restarts, rondo_zero_save())"},
        {o->shard && o->bucket_bytes == RONDO_DDP_BUCKET_AUTO,
         "options.shard does not work with RONDO_DDP_BUCKET_AUTO",
         "shares would move with each size that is tried; give a size"},
        {o->device >= 0 && o->bucket_bytes == RONDO_DDP_BUCKET_AUTO,
         "options.device does not work with RONDO_DDP_BUCKET_AUTO",
         "the host does not see how long a step takes there; give a size"},
    };
    (void)d;
    for (size_t i = 0; i < sizeof no / sizeof no[0]; i++) {
        if (no[i].both) {
            return rdi_fail(RONDO_ERR_UNSUPPORTED, "%s: %s", no[i].what, no[i].why);
        }
    }
    return RONDO_OK;
}

static rondo_status copy_buffers(struct rondo_ddp *d, const rondo_ddp_options *o) {
    if (o->nbuffers && !o->buffers) {
        return rdi_fail(RONDO_ERR_INVALID, "options.buffers is NULL, but nbuffers is %zu",
                        o->nbuffers);
    }
    d->buffers = calloc(o->nbuffers + 1, sizeof *d->buffers);
    for (size_t i = 0; d->buffers && i < o->nbuffers; i++) {
        const rondo_ddp_buffer *b = &o->buffers[i];
        if (!b->name || !b->data || rondo_type_size(b->type) == 0) {
            return rdi_fail(RONDO_ERR_INVALID,
                            "options.buffers[%zu] (\"%s\"): it needs a name, data and a type", i,
                            b->name ? b->name : "NULL");
        }
        d->buffers[i] = (struct rdi_buffer){strdup(b->name), b->data, b->count, b->type};
        d->nbuffers = i + 1;
        if (!d->buffers[i].name) {
            return rdi_fail(RONDO_ERR_NOMEM, "out of memory for a buffer's name");
        }
    }
    return d->buffers
               ? RONDO_OK
               : rdi_fail(RONDO_ERR_NOMEM, "out of memory for a list of %zu buffers", o->nbuffers);
}

// Bucket sizes; RONDO_DDP_BUCKET_AUTO begins with the default.
static void set_sizes(struct rondo_ddp *d, const rondo_ddp_options *o) {
    const struct rdi_options *defaults = &d->world->engine->options;
    d->tune.on = o->bucket_bytes == RONDO_DDP_BUCKET_AUTO;
    d->first_bytes = o->first_bucket_bytes ? o->first_bucket_bytes
                                           : (size_t)defaults->num[RDI_OPT_DDP_FIRST_BUCKET];
    d->asked_bytes = o->bucket_bytes;
    d->cap_bytes = o->bucket_bytes && !d->tune.on ? o->bucket_bytes
                                                  : (size_t)defaults->num[RDI_OPT_DDP_BUCKET];
}

static rondo_status take_options(struct rondo_ddp *d, const rondo_ddp_options *o,
                                 rondo_ddp_options *opt) {
    // Programs that were built before a field was added leave it at its default.
    if (o && (o->size < offsetof(rondo_ddp_options, device) || o->size > sizeof *opt)) {
        return rdi_fail(RONDO_ERR_INVALID,
                        "rondo_ddp_options.size is not that of this version; start from "
                        "RONDO_DDP_OPTIONS_INIT");
    }
    if (o) {
        memcpy(opt, o, o->size);
    }
    if (opt->hook) {
        if (opt->hook->size != sizeof(rondo_ddp_hook) || !opt->hook->round || !opt->hook->name) {
            return rdi_fail(
                RONDO_ERR_INVALID,
                "options.hook: it needs size = sizeof(rondo_ddp_hook), a name and a round");
        }
        d->hook = *opt->hook;
    }
    return RONDO_OK;
}

// What a rank can do by itself.
rondo_status rdi_ddp_prepare(struct rondo_ddp *d, const rondo_param *params, size_t nparams,
                             const rondo_ddp_options *options, int *device, rondo_stream *stream) {
    rondo_ddp_options opt = RONDO_DDP_OPTIONS_INIT;
    rondo_status s = take_options(d, options, &opt);
    if (s != RONDO_OK) {
        return s;
    }
    set_sizes(d, &opt);
    d->average = opt.average != 0;
    d->rebuild = opt.rebuild != 0;
    d->find_unused = opt.find_unused != 0;
    d->static_graph = opt.static_graph != 0;
    d->shard = opt.shard != 0;
    *device = opt.device;
    *stream = opt.stream;
    s = opt.elastic ? set_elastic(d, &opt) : RONDO_OK;
    s = s == RONDO_OK ? check_together(d, &opt) : s;
    s = s == RONDO_OK ? copy_buffers(d, &opt) : s;
    s = s == RONDO_OK ? copy_params(d, params, nparams, opt.rows) : s;
    return s == RONDO_OK ? rdi_sparse_open(d, opt.sparse, opt.nsparse) : s;
}

void rdi_ddp_free_options(struct rondo_ddp *d) {
    for (size_t i = 0; i < d->nparams; i++) {
        free(d->params[i].name);
    }
    for (size_t i = 0; i < d->nbuffers; i++) {
        free(d->buffers[i].name);
    }
    if (d->hook.destroy) {
        d->hook.destroy(d->hook.state);
    }
    rdi_sparse_close(d);
    free(d->params);
    free(d->order);
    free(d->layout);
    free(d->moved);
    free(d->states);
    free(d->buffers);
    free(d->used_map);
    free(d->join.flags);
}
