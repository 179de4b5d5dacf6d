// SPDX-License-Identifier: MIT
// Before training: all ranks have the same parameters, and rank 0's values.
#include "ddp/internal.h"

#include <stdlib.h>
#include <string.h>

// What ranks compare of one parameter.
struct shape {
    uint64_t name_hash, count, type;
};

static uint64_t hash_name(const char *s) {
    uint64_t h = UINT64_C(0xcbf29ce484222325); // FNV-1a
    for (; *s; s++) {
        h = (h ^ (unsigned char)*s) * UINT64_C(0x100000001b3);
    }
    return h;
}

static rondo_status same_number(struct rondo_ddp *d) {
    int n = rondo_comm_size(d->comm);
    uint64_t mine = d->nparams, *all = malloc((size_t)n * sizeof *all);
    if (!all) {
        return rdi_fail(RONDO_ERR_NOMEM, "out of memory for %d ranks", n);
    }
    rondo_status s = rondo_all_gather(&mine, all, 1, RONDO_U64, d->comm);
    for (int r = 1; r < n && s == RONDO_OK; r++) {
        if (all[r] != all[0]) {
            s = rdi_fail(RONDO_ERR_MISMATCH,
                         "the models differ: rank 0 has %llu parameters, rank %d has %llu; build "
                         "the same model "
                         "on all ranks",
                         (unsigned long long)all[0], r, (unsigned long long)all[r]);
        }
    }
    free(all);
    return s;
}

static rondo_status differs(const struct rondo_ddp *d, size_t i, int r, const struct shape *a,
                            const struct shape *b) {
    const char *ta = rondo_type_name((rondo_type)a->type),
               *tb = rondo_type_name((rondo_type)b->type);
    return rdi_fail(
        RONDO_ERR_MISMATCH,
        "the models differ at parameter %zu (\"%s\" on rank %d): rank 0 has %llu x %s, rank %d has "
        "%llu x %s%s; build the same model on all ranks",
        i, d->params[i].name, rondo_comm_rank(d->comm), (unsigned long long)a->count,
        ta ? ta : "unknown", r, (unsigned long long)b->count, tb ? tb : "unknown",
        a->name_hash != b->name_hash ? " and another name" : "");
}

rondo_status rdi_ddp_verify(struct rondo_ddp *d) {
    rondo_status s = same_number(d);
    if (s != RONDO_OK) {
        return s;
    }
    size_t n = (size_t)rondo_comm_size(d->comm), words = sizeof(struct shape) / 8;
    struct shape *mine = malloc((d->nparams + 1) * sizeof *mine);
    struct shape *all = malloc((n * d->nparams + 1) * sizeof *all);
    if (!mine || !all) {
        s = rdi_fail(RONDO_ERR_NOMEM, "out of memory to compare %zu parameters of %zu ranks",
                     d->nparams, n);
        goto out;
    }
    for (size_t i = 0; i < d->nparams; i++) {
        const struct rdi_param *p = &d->params[i];
        mine[i] = (struct shape){hash_name(p->name), p->count, p->type};
    }
    s = rondo_all_gather(mine, all, d->nparams * words, RONDO_U64, d->comm);
    // Every rank looks at everything, so that all give the same error for the same parameter.
    for (size_t i = 0; i < d->nparams && s == RONDO_OK; i++) {
        for (size_t r = 1; r < n && s == RONDO_OK; r++) {
            if (memcmp(&all[r * d->nparams + i], &all[i], sizeof *all) != 0) {
                s = differs(d, i, (int)r, &all[i], &all[r * d->nparams + i]);
            }
        }
    }
out:
    free(mine);
    free(all);
    return s;
}

rondo_status rdi_ddp_broadcast(struct rondo_ddp *d, int root) {
    rondo_request **reqs = calloc(d->nparams + 1, sizeof(rondo_request *));
    if (!reqs) {
        return rdi_fail(RONDO_ERR_NOMEM, "out of memory for %zu requests", d->nparams);
    }
    rondo_status s = RONDO_OK;
    for (size_t i = 0; i < d->nparams && s == RONDO_OK; i++) {
        struct rdi_param *p = &d->params[i];
        s = rondo_broadcast_start(p->data, p->data, p->count, p->type, root, d->comm, &reqs[i]);
    }
    rondo_status w = rondo_wait_all(reqs, d->nparams);
    free(reqs);
    return s == RONDO_OK ? w : s;
}
