// SPDX-License-Identifier: MIT
// The life of a ddp object, and what can be asked of it. Steps: step.c.
#include "ddp/internal.h"
#include "ring/reduce.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

uint64_t rdi_ddp_bytes_sent(const struct rondo_ddp *d) {
    rondo_comm_stats s = {.size = sizeof s};
    return d->comm && rondo_comm_get_stats(d->comm, &s) == RONDO_OK ? s.bytes_sent - d->sent_before
                                                                    : 0;
}

// ---- Life ----------------------------------------------------------------------------------------

static rondo_status make_buckets(struct rondo_ddp *d) {
    rondo_status s = rdi_bucket_assign(d->params, d->nparams, d->layout, d->first_bytes,
                                       d->cap_bytes, &d->buckets, &d->nbuckets);
    if (s == RONDO_OK) {
        rdi_bucket_pad(d, d->buckets, d->nbuckets);
        s = rdi_bucket_alloc(d, d->buckets, d->nbuckets);
    }
    return s == RONDO_OK ? rdi_hook_bucket(d, d->buckets, d->nbuckets) : s;
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
    rondo_status s = rdi_ddp_prepare(d, params, nparams, options, &device, &stream);
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
    rdi_ddp_reset_step(d);
    d->first_buckets = d->nbuckets;
    *ddp = d;
    return RONDO_OK;
}

rondo_status rondo_ddp_destroy(rondo_ddp *d) {
    if (!d) {
        return RONDO_OK;
    }
    if (d->place == &rdi_place_host || d->device) {
        rdi_ddp_drain(d);
    }
    rondo_status s = rondo_comm_destroy(d->comm);
    if (d->own_world) {
        rondo_status w = rondo_comm_destroy(d->world);
        s = s == RONDO_OK ? w : s;
    }
    rdi_bucket_free(d, d->buckets, d->nbuckets);
    rdi_ddp_device_close(d);
    rdi_ddp_free_options(d);
    free(d);
    return s;
}

rondo_comm *rondo_ddp_comm(const rondo_ddp *d) { return d ? d->world : NULL; }

int rondo_ddp_joined(const rondo_ddp *d) { return d && d->joined; }

// ---- Views ---------------------------------------------------------------------------------------

char *rdi_ddp_view(const struct rondo_ddp *d, size_t i) {
    return d->buckets[d->params[i].bucket].mem + d->params[i].offset;
}

void *rondo_ddp_grad(rondo_ddp *d, size_t i) {
    return d && i < d->nparams && !d->params[i].sparse ? rdi_ddp_view(d, i) : NULL;
}

rondo_status rdi_ddp_between_steps(const struct rondo_ddp *d, const char *name) {
    if (!d || d->nmarks) {
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
    for (size_t k = 0; k < d->nsparse; k++) {
        d->sparse[k].mine.n = 0;
    }
    return s;
}

void rdi_ddp_scale(struct rondo_ddp *d, double scale) {
    for (size_t b = 0; b < d->nbuckets; b++) {
        const struct rdi_bucket *k = &d->buckets[b];
        rdi_scale_copy(k->mem, k->mem, k->count, k->type, scale);
    }
    for (size_t k = 0; k < d->nsparse; k++) {
        const struct rdi_sparse *p = &d->sparse[k];
        rdi_scale_copy(p->sum.values, p->sum.values, p->sum.n * p->width, d->params[p->param].type,
                       scale);
    }
}

rondo_status rondo_ddp_zero_grad(rondo_ddp *d) {
    rondo_status s = rdi_ddp_between_steps(d, "rondo_ddp_zero_grad");
    return s == RONDO_OK ? rdi_ddp_zero(d) : s;
}

rondo_status rondo_ddp_set_sync(rondo_ddp *d, int sync) {
    rondo_status s = rdi_ddp_between_steps(d, "rondo_ddp_set_sync");
    if (s == RONDO_OK) {
        d->sync = sync != 0;
    }
    return s;
}

// ---- Figures -------------------------------------------------------------------------------------

rondo_status rondo_ddp_get_stats(const rondo_ddp *d, rondo_ddp_stats *out) {
    if (!d || !out || out->size < sizeof(size_t)) {
        return rdi_fail(RONDO_ERR_INVALID,
                        "rondo_ddp_get_stats: a pointer is NULL or out->size is not set");
    }
    rondo_ddp_stats s = d->stats;
    s.size = out->size;
    s.buckets = d->nbuckets;
    s.rebuilt = d->rebuilt;
    s.bucket_bytes = d->cap_bytes;
    s.tuning = d->tune.on;
    if (d->device) {
        rdi_ddp_device_times(d, &s);
    }
    s.bytes_sent = d->sent + rdi_ddp_bytes_sent(d);
    memcpy(out, &s, out->size < sizeof s ? out->size : sizeof s);
    return d->device ? rondo_comm_error(d->comm) : RONDO_OK; // finish() did not wait
}
