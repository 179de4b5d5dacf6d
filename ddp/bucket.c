// SPDX-License-Identifier: MIT
// Which gradient goes to which bucket.
//
// Parameters are taken in the order in which their gradients are expected: reverse definition at first, the
// observed order of rank 0 later. The first bucket is small, so that communication begins early.
#include "ddp/internal.h"

#include <stdlib.h>
#include <string.h>

// Gradients start on cache lines, so that two of them never share one.
#define ALIGN 64

struct open_bucket {
    bool used;
    size_t index, bytes;
};

static rondo_status add_bucket(struct rdi_bucket **list, size_t *n, rondo_type type) {
    struct rdi_bucket *more = realloc(*list, (*n + 1) * sizeof *more);
    if (!more) {
        return rdi_fail(RONDO_ERR_NOMEM, "out of memory for %zu gradient buckets", *n + 1);
    }
    *list = more;
    more[(*n)++] = (struct rdi_bucket){.type = type};
    return RONDO_OK;
}

// Buckets are numbered in the order in which they fill up: that is the order of launch.
static void number_by_completion(struct rdi_param *params, size_t n, const size_t *order,
                                 struct rdi_bucket *buckets, size_t nbuckets, size_t *map) {
    size_t *left = map + nbuckets, next = 0;
    for (size_t b = 0; b < nbuckets; b++) {
        left[b] = buckets[b].params;
    }
    for (size_t i = 0; i < n; i++) {
        if (params[order[i]].sparse) {
            continue;
        }
        size_t b = params[order[i]].bucket;
        if (--left[b] == 0) {
            map[b] = next++;
        }
    }
    struct rdi_bucket *sorted = (struct rdi_bucket *)(void *)(left + nbuckets);
    for (size_t b = 0; b < nbuckets; b++) {
        sorted[map[b]] = buckets[b];
    }
    memcpy(buckets, sorted, nbuckets * sizeof *buckets);
    for (size_t i = 0; i < n; i++) {
        params[i].bucket = params[i].sparse ? 0 : map[params[i].bucket];
    }
}

rondo_status rdi_bucket_assign(struct rdi_param *params, size_t n, const size_t *order,
                               size_t first, size_t cap, struct rdi_bucket **buckets,
                               size_t *nbuckets) {
    struct open_bucket open[RONDO_TYPE_COUNT] = {{0}};
    struct rdi_bucket *list = NULL;
    size_t count = 0, emitted = 0;
    rondo_status s = RONDO_OK;
    for (size_t i = 0; i < n && s == RONDO_OK; i++) {
        struct rdi_param *p = &params[order[i]];
        if (p->sparse) {
            continue;
        }
        struct open_bucket *o = &open[p->type];
        size_t limit = emitted == 0 ? first : cap;
        // A parameter that does not fit any more begins a new bucket; a large one gets one of its own.
        if (o->used && o->bytes > 0 && o->bytes + p->bytes > limit) {
            o->used = false;
            emitted++;
        }
        if (!o->used) {
            s = add_bucket(&list, &count, p->type);
            *o = (struct open_bucket){.used = true, .index = count - 1};
        }
        if (s == RONDO_OK) {
            p->bucket = o->index;
            p->offset = o->bytes;
            o->bytes = (o->bytes + p->bytes + ALIGN - 1) / ALIGN * ALIGN;
            list[o->index].params++;
            list[o->index].count = o->bytes / rondo_type_size(p->type);
        }
    }
    size_t *map = s == RONDO_OK ? malloc(count * (2 * sizeof *map + sizeof *list) + 1) : NULL;
    if (s == RONDO_OK && !map) {
        s = rdi_fail(RONDO_ERR_NOMEM, "out of memory for %zu gradient buckets", count);
    }
    if (s != RONDO_OK) {
        free(list);
        return s;
    }
    number_by_completion(params, n, order, list, count, map);
    free(map);
    *buckets = list;
    *nbuckets = count;
    return RONDO_OK;
}

bool rdi_bucket_order(const uint64_t *from, size_t n, size_t *order) {
    for (size_t i = 0; i < n; i++) {
        order[i] = SIZE_MAX;
    }
    for (size_t i = 0; i < n; i++) {
        if (from[i] >= n || order[from[i]] != SIZE_MAX) {
            return false;
        }
        order[from[i]] = 0;
    }
    for (size_t i = 0; i < n; i++) {
        order[i] = (size_t)from[i];
    }
    return true;
}

void rdi_bucket_pad(const struct rondo_ddp *d, struct rdi_bucket *b, size_t n) {
    for (size_t i = 0; i < n && d->shard; i++) {
        size_t share = (size_t)rondo_comm_size(d->world) * (ALIGN / rondo_type_size(b[i].type));
        b[i].count = (b[i].count + share - 1) / share * share;
    }
}

rondo_status rdi_bucket_alloc(struct rondo_ddp *d, struct rdi_bucket *b, size_t n) {
    rondo_status s = RONDO_OK;
    for (size_t i = 0; i < n && s == RONDO_OK; i++) {
        void *mem = NULL;
        s = d->place->alloc(d, b[i].count * rondo_type_size(b[i].type), &mem);
        b[i].mem = mem;
    }
    return s;
}

void rdi_bucket_free(struct rondo_ddp *d, struct rdi_bucket *b, size_t n) {
    rdi_hook_release(d, b, n);
    for (size_t i = 0; b && i < n; i++) {
        d->place->release(d, b[i].mem);
    }
    free(b);
}
