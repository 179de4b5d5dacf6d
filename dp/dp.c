// SPDX-License-Identifier: MIT
// The calls of <rondo/dp.h>: what may be called when, and how a step is put together.
#include "dp/internal.h"
#include "ring/reduce.h"

#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

// ---- Pure ----------------------------------------------------------------------------------------

rondo_status rondo_dp_scatter(uint64_t rows, int device, int devices, uint64_t *first,
                              uint64_t *count) {
    if (devices < 1 || device < 0 || device >= devices || !first || !count) {
        return rdi_fail(RONDO_ERR_INVALID,
                        "rondo_dp_scatter: device %d of %d devices, or a pointer is NULL", device,
                        devices);
    }
    const uint64_t n = (uint64_t)devices, k = (uint64_t)device, part = rows / n, more = rows % n;
    *first = k * part + (k < more ? k : more);
    *count = part + (k < more);
    return RONDO_OK;
}

// ---- Parameters ----------------------------------------------------------------------------------

static bool aligned(size_t *at) {
    const size_t up = (*at + RDI_DP_ALIGN - 1) & ~(size_t)(RDI_DP_ALIGN - 1);
    const bool ok = up >= *at;
    *at = up;
    return ok;
}

// Gives parameter i its place in a block, and lengthens or begins a run. False: no block is that large.
static bool lay_out(struct rondo_dp *dp, const rondo_param *p) {
    const size_t element = rondo_type_size(p->type);
    struct rdi_dp_run *last = dp->nruns ? &dp->runs[dp->nruns - 1] : NULL;
    if (p->count > (SIZE_MAX - dp->block) / element) {
        return false;
    }
    const size_t bytes = p->count * element;
    dp->params[dp->nparams++] =
        (struct rdi_dp_param){.data = p->data, .at = dp->block, .bytes = bytes, .type = p->type};
    if (last && last->type == p->type) {
        last->bytes = dp->block + bytes - last->at;
    } else {
        dp->runs[dp->nruns++] =
            (struct rdi_dp_run){.at = dp->block, .bytes = bytes, .type = p->type};
    }
    dp->bytes += bytes;
    dp->block += bytes;
    return aligned(&dp->block);
}

static rondo_status take_params(struct rondo_dp *dp, const rondo_param *params, size_t n) {
    dp->params = calloc(n, sizeof *dp->params);
    dp->runs = calloc(n, sizeof *dp->runs);
    if (!dp->params || !dp->runs) {
        return rdi_fail(RONDO_ERR_NOMEM, "out of memory for a list of %zu parameters", n);
    }
    for (size_t i = 0; i < n; i++) {
        const rondo_param *p = &params[i];
        if (!p->name || !p->data || p->count == 0 || !rdi_type_is_float(p->type)) {
            return rdi_fail(
                RONDO_ERR_INVALID,
                "parameter %zu (\"%s\"): it needs a name, data, a count above 0 and a type of "
                "RONDO_F32, F64, F16, BF16, F8E4M3 or F8E5M2",
                i, p->name ? p->name : "NULL");
        }
        if (!lay_out(dp, p)) {
            return rdi_fail(RONDO_ERR_INVALID,
                            "parameter %zu (\"%s\"): %zu elements are more than memory can hold", i,
                            p->name, p->count);
        }
    }
    return RONDO_OK;
}

// ---- Life ----------------------------------------------------------------------------------------

static rondo_status open_device(struct rdi_dp_device *k, void *arg) {
    (void)arg;
    return k->dp->place->open(k);
}

static rondo_status close_device(struct rdi_dp_device *k, void *arg) {
    (void)arg;
    k->dp->place->close(k);
    return RONDO_OK;
}

static void take_apart(struct rondo_dp *dp) {
    if (dp->opened) {
        (void)rdi_dp_team_run(dp, dp->devices, close_device, NULL);
    }
    rdi_dp_team_stop(dp);
    rdi_dp_cuda_forget(dp);
    free(dp->device);
    free(dp->params);
    free(dp->runs);
    free(dp);
}

static rondo_status make_devices(struct rondo_dp *dp, int devices, const rondo_dp_options *o) {
    dp->device = calloc((size_t)devices, sizeof *dp->device);
    if (!dp->device) {
        return rdi_fail(RONDO_ERR_NOMEM, "out of memory for %d devices", devices);
    }
    for (int k = 0; k < devices; k++) {
        dp->device[k].dp = dp;
        dp->device[k].index = k;
    }
    dp->place = o->cuda ? &rdi_dp_place_cuda : &rdi_dp_place_host;
    rondo_status s = RONDO_OK;
    if (!o->cuda || o->cpus) {
        s = rdi_dp_find_cores(dp, o->cpus);
    }
    return s == RONDO_OK && o->cuda ? rdi_dp_cuda_find(dp, o->cuda) : s;
}

static rondo_status build(struct rondo_dp *dp, const rondo_param *params, size_t nparams,
                          const rondo_dp_options *o) {
    char line[512];
    rondo_status s = take_params(dp, params, nparams);
    s = s == RONDO_OK ? make_devices(dp, dp->devices, o) : s;
    s = s == RONDO_OK ? rdi_dp_team_start(dp) : s;
    if (s == RONDO_OK) {
        dp->opened = true;
        s = rdi_dp_team_run(dp, dp->devices, open_device, NULL);
    }
    if (s == RONDO_OK && rdi_dp_unlike(dp->device, dp->devices, line, sizeof line)) {
        rdi_log(&dp->env, RONDO_LOG_WARN, "%s", line);
    }
    return s;
}

rondo_status rondo_dp_create(const rondo_param *params, size_t nparams, int devices,
                             const rondo_dp_options *options, rondo_dp **dp) {
    rondo_dp_options o = RONDO_DP_OPTIONS_INIT;
    if (!params || nparams == 0 || !dp) {
        return rdi_fail(RONDO_ERR_INVALID,
                        "rondo_dp_create: a pointer is NULL, or there is no parameter");
    }
    if (devices < 1 || devices > RONDO_DP_MAX_DEVICES) {
        return rdi_fail(RONDO_ERR_INVALID, "rondo_dp_create: %d devices; allowed is 1 to %d",
                        devices, RONDO_DP_MAX_DEVICES);
    }
    // Programs that were built before a field was added leave it at its default.
    if (options && (options->size < offsetof(rondo_dp_options, log) || options->size > sizeof o)) {
        return rdi_fail(RONDO_ERR_INVALID,
                        "rondo_dp_options.size is not that of this version; start from "
                        "RONDO_DP_OPTIONS_INIT");
    }
    if (options) {
        memcpy(&o, options, options->size);
    }
    struct rondo_dp *d = calloc(1, sizeof *d);
    if (!d) {
        return rdi_fail(RONDO_ERR_NOMEM, "out of memory for a dp object");
    }
    rdi_env_system(&d->env, o.log, o.log_arg);
    d->pid = (int)getpid();
    d->devices = devices;
    rondo_status s = build(d, params, nparams, &o);
    if (s != RONDO_OK) {
        char text[RDI_ERROR_TEXT];
        snprintf(text, sizeof text, "%s", rondo_last_error());
        take_apart(d);
        rdi_set_last_error(text);
        return s;
    }
    *dp = d;
    return RONDO_OK;
}

// ---- One call at a time --------------------------------------------------------------------------

static rondo_status enter(rondo_dp *dp, const char *call) {
    if (!dp) {
        return rdi_fail(RONDO_ERR_INVALID, "%s: the dp object is NULL", call);
    }
    if (dp->pid != (int)getpid()) {
        return rdi_fail(RONDO_ERR_FORKED,
                        "%s: this dp object and its threads belong to the parent process; a forked "
                        "child must create its own",
                        call);
    }
    if (atomic_exchange(&dp->busy, true)) {
        return rdi_fail(RONDO_ERR_USAGE,
                        "%s: another call of this dp object is under way; it belongs to one thread "
                        "at a time, and the function that a device runs may not call it",
                        call);
    }
    return RONDO_OK;
}

static rondo_status leave(rondo_dp *dp, rondo_status s) {
    atomic_store(&dp->busy, false);
    return s;
}

rondo_status rondo_dp_destroy(rondo_dp *dp) {
    rondo_status s = dp ? enter(dp, "rondo_dp_destroy") : RONDO_OK;
    if (dp && s == RONDO_OK) {
        take_apart(dp);
    }
    return s;
}

static double seconds_since(const rondo_dp *dp, uint64_t began) {
    return (double)(rdi_now(&dp->env) - began) * 1e-9;
}

// ---- The parts of a step -------------------------------------------------------------------------

static rondo_status replicate_to(struct rdi_dp_device *k, void *arg) {
    (void)arg;
    return k->dp->place->replicate(k);
}

static rondo_status replicate(rondo_dp *dp) {
    const uint64_t began = rdi_now(&dp->env);
    rondo_status s = dp->devices > 1 ? rdi_dp_team_run(dp, dp->devices, replicate_to, NULL)
                                     : RONDO_OK;
    if (s == RONDO_OK) {
        dp->stats.replications++;
        dp->stats.replicating += seconds_since(dp, began);
        dp->stats.bytes_replicated += (uint64_t)dp->bytes * (uint64_t)(dp->devices - 1);
    }
    return s;
}

rondo_status rondo_dp_replicate(rondo_dp *dp) {
    rondo_status s = enter(dp, "rondo_dp_replicate");
    return s == RONDO_OK ? leave(dp, replicate(dp)) : s;
}

struct pass {
    uint64_t rows;
    int width;
    rondo_dp_fn fn;
    void *arg;
};

// The caller's function on the rows of a device.
static rondo_status call(struct rdi_dp_device *k, void *arg) {
    const struct pass *p = arg;
    rondo_dp_part part = {
        .size = sizeof part, .dp = k->dp, .device = k->index, .devices = p->width, .rows = p->rows};
    (void)rondo_dp_scatter(p->rows, k->index, k->dp->devices, &part.first, &part.count);
    k->first = part.first;
    k->count = part.count;
    rondo_status s = k->dp->place->begin(k, &part.stream);
    if (s != RONDO_OK) {
        return s;
    }
    char text[RDI_ERROR_TEXT];
    s = p->fn(&part, p->arg);
    part.why[sizeof part.why - 1] = '\0';
    snprintf(text, sizeof text, "%s", part.why[0] ? part.why : rondo_last_error());
    // Whatever it has begun uses the caller's memory.
    rondo_status settled = k->dp->place->settle(k);
    if (s != RONDO_OK) {
        rdi_set_last_error(text);
    }
    return s == RONDO_OK ? settled : s;
}

static rondo_status complain(const rondo_dp *dp, int width, rondo_status s) {
    const struct rdi_dp_device *first = NULL;
    int failed = 0;
    for (int i = width - 1; i >= 0; i--) {
        if (dp->device[i].status != RONDO_OK) {
            failed++;
            first = &dp->device[i];
        }
    }
    char others[48] = "";
    if (failed > 1) {
        snprintf(others, sizeof others, " (%d other device%s failed, too)", failed - 1,
                 failed == 2 ? "" : "s");
    }
    return !first ? s
                  : rdi_fail(s, "device %d (%s), rows %llu to %llu: %s%s", first->index,
                             first->name, (unsigned long long)first->first,
                             (unsigned long long)(first->first + first->count - 1),
                             first->error[0] ? first->error : rondo_status_string(s), others);
}

static rondo_status apply(rondo_dp *dp, uint64_t rows, rondo_dp_fn fn, void *arg) {
    if (rows == 0 || !fn) {
        return rdi_fail(RONDO_ERR_INVALID,
                        "rondo_dp_apply: a batch of %llu rows, or the function is NULL",
                        (unsigned long long)rows);
    }
    const uint64_t began = rdi_now(&dp->env);
    struct pass pass = {.rows = rows, .fn = fn, .arg = arg};
    pass.width = rows < (uint64_t)dp->devices ? (int)rows : dp->devices;
    rondo_status s = rdi_dp_team_run(dp, pass.width, call, &pass);
    if (s != RONDO_OK) {
        return complain(dp, pass.width, s);
    }
    dp->used = pass.width > dp->used ? pass.width : dp->used;
    dp->stats.passes++;
    dp->stats.applying += seconds_since(dp, began);
    return RONDO_OK;
}

rondo_status rondo_dp_apply(rondo_dp *dp, uint64_t rows, rondo_dp_fn fn, void *arg) {
    rondo_status s = enter(dp, "rondo_dp_apply");
    return s == RONDO_OK ? leave(dp, apply(dp, rows, fn, arg)) : s;
}

static rondo_status reduce_on(struct rdi_dp_device *k, void *arg) {
    return k->dp->place->reduce(k, *(const int *)arg);
}

static rondo_status reduce(rondo_dp *dp) {
    if (dp->used == 0) {
        return rdi_fail(RONDO_ERR_USAGE, "rondo_dp_reduce: no device had rows since the last "
                                         "reduction; call rondo_dp_apply() before");
    }
    const uint64_t began = rdi_now(&dp->env);
    rondo_status s = dp->used > 1 ? rdi_dp_team_run(dp, dp->devices, reduce_on, &dp->used)
                                  : RONDO_OK;
    if (s == RONDO_OK) {
        dp->stats.reductions++;
        dp->stats.reducing += seconds_since(dp, began);
        dp->stats.bytes_reduced += (uint64_t)dp->bytes * (uint64_t)(dp->used - 1);
        dp->used = 0;
    }
    return s;
}

rondo_status rondo_dp_reduce(rondo_dp *dp) {
    rondo_status s = enter(dp, "rondo_dp_reduce");
    return s == RONDO_OK ? leave(dp, reduce(dp)) : s;
}

rondo_status rondo_dp_step(rondo_dp *dp, uint64_t rows, rondo_dp_fn fn, void *arg) {
    rondo_status s = enter(dp, "rondo_dp_step");
    if (s != RONDO_OK) {
        return s;
    }
    dp->used = 0;
    s = replicate(dp);
    s = s == RONDO_OK ? apply(dp, rows, fn, arg) : s;
    return leave(dp, s == RONDO_OK ? reduce(dp) : s);
}

// ---- Gradients, rows -----------------------------------------------------------------------------

static rondo_status zero_on(struct rdi_dp_device *k, void *arg) {
    (void)arg;
    return k->dp->place->zero(k);
}

rondo_status rondo_dp_zero_grad(rondo_dp *dp) {
    rondo_status s = enter(dp, "rondo_dp_zero_grad");
    if (s != RONDO_OK) {
        return s;
    }
    dp->used = 0;
    return leave(dp, rdi_dp_team_run(dp, dp->devices, zero_on, NULL));
}

struct rows {
    uint64_t rows;
    size_t row_bytes;
    void *const *parts;
    unsigned char *out;
};

static rondo_status gather_from(struct rdi_dp_device *k, void *arg) {
    const struct rows *r = arg;
    uint64_t first = 0, count = 0;
    (void)rondo_dp_scatter(r->rows, k->index, k->dp->devices, &first, &count);
    return count == 0 ? RONDO_OK
                      : k->dp->place->gather(k, r->parts[k->index], r->out + first * r->row_bytes,
                                             (size_t)count * r->row_bytes);
}

static rondo_status check_rows(const rondo_dp *dp, const struct rows *r) {
    if (!r->parts || !r->out || r->rows == 0 || r->row_bytes == 0 ||
        r->rows > SIZE_MAX / r->row_bytes) {
        return rdi_fail(RONDO_ERR_INVALID,
                        "rondo_dp_gather: %llu rows of %zu bytes, or a pointer is NULL",
                        (unsigned long long)r->rows, r->row_bytes);
    }
    for (int k = 0; k < dp->devices; k++) {
        if (!r->parts[k] && (uint64_t)k < r->rows) {
            return rdi_fail(RONDO_ERR_INVALID,
                            "rondo_dp_gather: parts[%d] is NULL, and device %d has rows of a batch "
                            "of %llu",
                            k, k, (unsigned long long)r->rows);
        }
    }
    return RONDO_OK;
}

rondo_status rondo_dp_gather(rondo_dp *dp, uint64_t rows, size_t row_bytes, void *const *parts,
                             void *out) {
    struct rows r = {.rows = rows, .row_bytes = row_bytes, .parts = parts, .out = out};
    rondo_status s = enter(dp, "rondo_dp_gather");
    if (s != RONDO_OK) {
        return s;
    }
    s = check_rows(dp, &r);
    return leave(dp, s == RONDO_OK ? rdi_dp_team_run(dp, dp->devices, gather_from, &r) : s);
}

// ---- Looking -------------------------------------------------------------------------------------

static const struct rdi_dp_device *device_of(const rondo_dp *dp, int device) {
    return dp && device >= 0 && device < dp->devices ? &dp->device[device] : NULL;
}

int rondo_dp_devices(const rondo_dp *dp) { return dp ? dp->devices : 0; }

const char *rondo_dp_device_name(const rondo_dp *dp, int device) {
    const struct rdi_dp_device *k = device_of(dp, device);
    return k ? k->name : NULL;
}

void *rondo_dp_param(const rondo_dp *dp, int device, size_t i) {
    const struct rdi_dp_device *k = device_of(dp, device);
    if (!k || i >= dp->nparams) {
        return NULL;
    }
    return k->params ? k->params + dp->params[i].at : dp->params[i].data;
}

void *rondo_dp_grad(const rondo_dp *dp, int device, size_t i) {
    const struct rdi_dp_device *k = device_of(dp, device);
    return k && i < dp->nparams ? k->grads + dp->params[i].at : NULL;
}

rondo_status rondo_dp_get_stats(const rondo_dp *dp, rondo_dp_stats *out) {
    if (!dp || !out || out->size < sizeof(size_t)) {
        return rdi_fail(RONDO_ERR_INVALID,
                        "rondo_dp_get_stats: a pointer is NULL or out->size is not set");
    }
    rondo_dp_stats s = dp->stats;
    s.size = out->size;
    memcpy(out, &s, out->size < sizeof s ? out->size : sizeof s);
    return RONDO_OK;
}
