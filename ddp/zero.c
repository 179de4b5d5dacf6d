// SPDX-License-Identifier: MIT
// The sharded optimizer, ZeRO stage 1.
//
//   bucket, 3 ranks    |  share 0   |  share 1   |  share 2   |     reduce_scatter: rank r has share r
//                        p4    p3 .. |.. p3    p2 |.. p2   pad      its pieces, and their state
//                                                                   update(), then all_gather of parameters in the
//                                                                   bucket's memory, whose gradients are used up
#include "ddp/internal.h"

#include <stdlib.h>
#include <string.h>

#define MAX_ARRAYS 16

struct rondo_zero {
    struct rondo_ddp *d;
    size_t state_bytes, arrays;
    rondo_status (*update)(void *arg, const rondo_zero_piece *piece);
    void *arg;
    char **state; // of each bucket: `arrays` arrays of share(bucket) elements
    size_t nstate;
};

static size_t share(const struct rondo_ddp *d, const struct rdi_bucket *b) {
    return b->count / (size_t)rondo_comm_size(d->comm);
}

size_t rdi_ddp_part(const struct rondo_ddp *d, const struct rdi_param *p, int rank, size_t *first) {
    *first = 0;
    if (!d->shard) {
        return p->count;
    }
    size_t each = share(d, &d->buckets[p->bucket]), at = p->offset / rondo_type_size(p->type);
    size_t begin = each * (size_t)rank, end = begin + each;
    begin = begin > at ? begin : at;
    end = end < at + p->count ? end : at + p->count;
    *first = begin < end ? begin - at : 0;
    return begin < end ? end - begin : 0;
}

// Where array `a` of the state of parameter p lies, at element `first` of it, which is in this rank's share.
static char *state_of(const struct rondo_zero *z, const struct rdi_param *p, size_t first,
                      size_t a) {
    const struct rondo_ddp *d = z->d;
    size_t each = share(d, &d->buckets[p->bucket]);
    size_t at = p->offset / rondo_type_size(p->type) + first;
    return z->state[p->bucket] +
           (a * each + at - each * (size_t)rondo_comm_rank(d->comm)) * z->state_bytes;
}

// ---- Life ----------------------------------------------------------------------------------------

static void free_state(char **state, size_t n) {
    for (size_t b = 0; state && b < n; b++) {
        free(state[b]);
    }
    free(state);
}

static rondo_status new_state(struct rondo_zero *z) {
    const struct rondo_ddp *d = z->d;
    z->state = calloc(d->nbuckets + 1, sizeof *z->state);
    z->nstate = d->nbuckets;
    bool ok = z->state != NULL;
    for (size_t b = 0; ok && b < d->nbuckets; b++) {
        z->state[b] =
            calloc(share(d, &d->buckets[b]) * z->arrays + 1, z->state_bytes ? z->state_bytes : 1);
        ok = z->state[b] != NULL;
    }
    if (!ok) {
        free_state(z->state, z->nstate);
        z->state = NULL;
        return rdi_fail(RONDO_ERR_NOMEM,
                        "out of memory for the optimizer's state: %zu arrays of %zu "
                        "bytes an element",
                        z->arrays, z->state_bytes);
    }
    return RONDO_OK;
}

rondo_status rondo_zero_create(rondo_ddp *d, const rondo_zero_options *o, rondo_zero **out) {
    if (!d || !o || !out || o->size != sizeof *o || !o->update || o->state_arrays > MAX_ARRAYS) {
        return rdi_fail(RONDO_ERR_INVALID,
                        "rondo_zero_create: it needs a ddp object and options with size = "
                        "sizeof(rondo_zero_options), an update, and at most %d state_arrays",
                        MAX_ARRAYS);
    }
    if (!d->shard || d->zero || d->nsparse) {
        return rdi_fail(RONDO_ERR_USAGE, "rondo_zero_create: %s",
                        d->zero      ? "the ddp object has a sharded optimizer already"
                        : d->nsparse ? "sparse gradients are not sharded; leave options.sparse out"
                                     : "the ddp object was created without options.shard");
    }
    struct rondo_zero *z = calloc(1, sizeof *z);
    if (!z) {
        return rdi_fail(RONDO_ERR_NOMEM, "out of memory for a sharded optimizer");
    }
    *z = (struct rondo_zero){.d = d,
                             .state_bytes = o->state_bytes,
                             .arrays = o->state_arrays,
                             .update = o->update,
                             .arg = o->arg};
    rondo_status s = new_state(z);
    if (s != RONDO_OK) {
        free(z);
        return s;
    }
    d->zero = z;
    *out = z;
    return RONDO_OK;
}

rondo_status rondo_zero_destroy(rondo_zero *z) {
    if (z) {
        z->d->zero = NULL;
        free_state(z->state, z->nstate);
        free(z);
    }
    return RONDO_OK;
}

rondo_status rondo_zero_bytes(const rondo_zero *z, size_t *mine, size_t *whole) {
    if (!z || !mine || !whole) {
        return rdi_fail(RONDO_ERR_INVALID, "rondo_zero_bytes: a pointer is NULL");
    }
    *mine = *whole = 0;
    for (size_t b = 0; b < z->d->nbuckets; b++) {
        *mine += share(z->d, &z->d->buckets[b]) * z->arrays * z->state_bytes;
        *whole += z->d->buckets[b].count * z->arrays * z->state_bytes;
    }
    return RONDO_OK;
}

// ---- A step --------------------------------------------------------------------------------------

static rondo_status update_all(struct rondo_zero *z) {
    struct rondo_ddp *d = z->d;
    rondo_status s = RONDO_OK;
    for (size_t i = 0; i < d->nparams && s == RONDO_OK; i++) {
        const struct rdi_param *p = &d->params[i];
        size_t first, count = rdi_ddp_part(d, p, rondo_comm_rank(d->comm), &first);
        size_t at = first * rondo_type_size(p->type);
        void *state[MAX_ARRAYS];
        for (size_t a = 0; a < z->arrays && count; a++) {
            state[a] = state_of(z, p, first, a);
        }
        if (count) {
            s = z->update(z->arg, &(rondo_zero_piece){.param = i,
                                                      .first = first,
                                                      .count = count,
                                                      .data = (char *)p->data + at,
                                                      .grad = rdi_ddp_view(d, i) + at,
                                                      .state = state});
        }
    }
    return s;
}

// This rank's share of the parameters to the buckets, or all others' from there.
static void copy_parameters(struct rondo_ddp *d, bool out) {
    for (size_t i = 0; i < d->nparams; i++) {
        const struct rdi_param *p = &d->params[i];
        size_t size = rondo_type_size(p->type), first;
        size_t count = rdi_ddp_part(d, p, rondo_comm_rank(d->comm), &first);
        char *view = rdi_ddp_view(d, i), *data = p->data;
        if (!out) {
            memcpy(view + first * size, data + first * size, count * size);
            continue;
        }
        memcpy(data, view, first * size);
        size_t end = count ? first + count : 0;
        memcpy(data + end * size, view + end * size, (p->count - end) * size);
    }
}

static rondo_status gather(struct rondo_ddp *d) {
    rondo_status s = RONDO_OK;
    copy_parameters(d, false);
    for (size_t b = 0; b < d->nbuckets && s == RONDO_OK; b++) {
        struct rdi_bucket *k = &d->buckets[b];
        const char *mine = k->mem + share(d, k) * (size_t)rondo_comm_rank(d->comm) *
                                        rondo_type_size(k->type);
        s = rondo_all_gather_start(mine, k->mem, share(d, k), k->type, d->comm, &k->req);
    }
    for (size_t b = 0; b < d->nbuckets; b++) {
        rondo_status w = rondo_wait(&d->buckets[b].req);
        s = s == RONDO_OK ? w : s;
    }
    if (s == RONDO_OK) {
        copy_parameters(d, true);
    }
    return s == RONDO_OK ? rdi_ddp_zero(d) : s;
}

rondo_status rondo_zero_step(rondo_zero *z) {
    if (!z) {
        return rdi_fail(RONDO_ERR_INVALID, "rondo_zero_step: the optimizer is NULL");
    }
    rondo_status s = rdi_ddp_between_steps(z->d, "rondo_zero_step");
    if (s != RONDO_OK) {
        return s;
    }
    if (!z->state) {
        return rdi_fail(RONDO_ERR_USAGE, "the state of the optimizer was lost when memory ran out");
    }
    s = update_all(z);
    if (s != RONDO_OK) {
        // The others would wait for this rank's share.
        (void)rondo_comm_abort(z->d->comm, "the optimizer's update failed on a rank");
        return s;
    }
    s = gather(z->d);
    s = s == RONDO_OK && z->d->move ? rdi_zero_relayout(z->d) : s;
    rdi_ddp_tell_failure(z->d, s);
    return s;
}

// ---- Buckets that are laid out anew --------------------------------------------------------------

struct old_bucket {
    size_t count;
    char *state;
};

// One array of an old bucket's state, of all ranks, to where this rank's new pieces are.
static rondo_status move_array(struct rondo_zero *z, const struct rdi_param *old, size_t b,
                               const struct old_bucket *from, size_t a, char *all) {
    struct rondo_ddp *d = z->d;
    size_t bytes = from->count / (size_t)rondo_comm_size(d->comm) * z->state_bytes;
    rondo_status s = rondo_all_gather(from->state + a * bytes, all, bytes, RONDO_U8, d->comm);
    for (size_t i = 0; i < d->nparams && s == RONDO_OK; i++) {
        const struct rdi_param *p = &d->params[i];
        size_t first, count = rdi_ddp_part(d, p, rondo_comm_rank(d->comm), &first);
        if (old[i].bucket == b && count) {
            size_t at = old[i].offset / rondo_type_size(p->type) + first;
            memcpy(state_of(z, p, first, a), all + at * z->state_bytes, count * z->state_bytes);
        }
    }
    return s;
}

static rondo_status move_state(struct rondo_zero *z, const struct rdi_param *old,
                               const struct old_bucket *from, size_t n) {
    size_t most = 0;
    for (size_t b = 0; b < n; b++) {
        most = from[b].count > most ? from[b].count : most;
    }
    char *all = malloc(most * z->state_bytes + 1);
    rondo_status s = all ? new_state(z)
                         : rdi_fail(RONDO_ERR_NOMEM, "out of memory to move a bucket's state");
    for (size_t b = 0; b < n; b++) {
        for (size_t a = 0; a < z->arrays && s == RONDO_OK; a++) {
            s = move_array(z, old, b, &from[b], a, all);
        }
    }
    free(all);
    return s;
}

rondo_status rdi_zero_relayout(struct rondo_ddp *d) {
    struct rondo_zero *z = d->zero;
    size_t n = d->nbuckets;
    struct old_bucket *from = calloc(n + 1, sizeof *from);
    struct rdi_param *old = malloc((d->nparams + 1) * sizeof *old);
    rondo_status s = RONDO_OK;
    char **state = z->state;
    if (!from || !old) {
        s = rdi_fail(RONDO_ERR_NOMEM, "out of memory to rebuild buckets");
        goto out;
    }
    for (size_t b = 0; b < n; b++) {
        from[b] = (struct old_bucket){d->buckets[b].count, state[b]};
    }
    memcpy(old, d->params, d->nparams * sizeof *old);
    s = rdi_ddp_rearrange(d, d->moved, false);
    if (s == RONDO_OK) {
        d->move = false;
        rdi_ddp_reset_step(d);
        s = move_state(z, old, from, n);
        free_state(state, n);
    }
out:
    free(from);
    free(old);
    return s;
}

// ---- Checkpoints ---------------------------------------------------------------------------------

static rondo_status check(const struct rondo_zero *z, const char *name, size_t i, size_t array) {
    if (!z || !z->state || i >= z->d->nparams || array >= z->arrays) {
        return rdi_fail(
            RONDO_ERR_INVALID, "%s: %s", name,
            z ? "there is no such parameter or array, or the state was lost when memory ran out"
              : "the optimizer is NULL");
    }
    return rdi_ddp_between_steps(z->d, name);
}

rondo_status rondo_zero_save(rondo_zero *z, size_t i, size_t array, int root, void *out) {
    rondo_status s = check(z, "rondo_zero_save", i, array);
    if (s != RONDO_OK) {
        return s;
    }
    struct rondo_ddp *d = z->d;
    int me = rondo_comm_rank(d->comm), n = rondo_comm_size(d->comm);
    if (root < 0 || root >= n || (me == root && !out)) {
        return rdi_fail(RONDO_ERR_INVALID,
                        "rondo_zero_save: root is %d of %d ranks; there `out` must not be NULL",
                        root, n);
    }
    for (int r = 0; r < n && s == RONDO_OK; r++) {
        const struct rdi_param *p = &d->params[i];
        size_t first, count = rdi_ddp_part(d, p, r, &first), bytes = count * z->state_bytes;
        char *to = me == root ? (char *)out + first * z->state_bytes : NULL;
        if (bytes == 0 || (me != root && me != r)) {
            continue;
        }
        if (me == root && me == r) {
            memcpy(to, state_of(z, p, first, array), bytes);
        } else {
            s = me == root
                    ? rondo_recv(to, bytes, RONDO_U8, r, d->comm)
                    : rondo_send(state_of(z, p, first, array), bytes, RONDO_U8, root, d->comm);
        }
    }
    return s;
}

rondo_status rondo_zero_load(rondo_zero *z, size_t i, size_t array, const void *from) {
    rondo_status s = check(z, "rondo_zero_load", i, array);
    if (s != RONDO_OK || !from) {
        return s != RONDO_OK ? s : rdi_fail(RONDO_ERR_INVALID, "rondo_zero_load: `from` is NULL");
    }
    const struct rdi_param *p = &z->d->params[i];
    size_t first, count = rdi_ddp_part(z->d, p, rondo_comm_rank(z->d->comm), &first);
    if (count) {
        memcpy(state_of(z, p, first, array), (const char *)from + first * z->state_bytes,
               count * z->state_bytes);
    }
    return RONDO_OK;
}
