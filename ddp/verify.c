// SPDX-License-Identifier: MIT
// Before training: all ranks have the same parameters, and rank 0's values.
#include "ddp/internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// What ranks compare of one parameter.
struct shape {
    uint64_t name_hash, count, type, rows;
};

uint64_t rdi_ddp_hash(const char *s) {
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

#define NAME_MAX_SHOWN 64

// How rank r describes parameter i: "64 x float, 8 rows, "layer.w"".
static void describe(char *out, size_t cap, const struct shape *s, const char *name) {
    const char *type = rondo_type_name((rondo_type)s->type);
    int n = snprintf(out, cap, "%llu x %s", (unsigned long long)s->count, type ? type : "unknown");
    if (s->rows && n > 0 && (size_t)n < cap) {
        n += snprintf(out + n, cap - (size_t)n, ", %llu rows", (unsigned long long)s->rows);
    }
    if (n > 0 && (size_t)n < cap) {
        snprintf(out + n, cap - (size_t)n, ", \"%s\"", name);
    }
}

// All ranks have found the same difference, between ranks 0 and r; these two tell the others the names.
static rondo_status differs(struct rondo_ddp *d, size_t i, int r, const struct shape *a,
                            const struct shape *b) {
    char names[2][NAME_MAX_SHOWN], first[160], second[160];
    rondo_status s = RONDO_OK;
    for (int k = 0; k < 2 && s == RONDO_OK; k++) {
        snprintf(names[k], NAME_MAX_SHOWN, "%s", d->params[i].name);
        s = rondo_broadcast(names[k], names[k], NAME_MAX_SHOWN, RONDO_U8, k ? r : 0, d->comm);
        names[k][NAME_MAX_SHOWN - 1] = '\0';
    }
    if (s != RONDO_OK) {
        return s;
    }
    describe(first, sizeof first, a, names[0]);
    describe(second, sizeof second, b, names[1]);
    return rdi_fail(
        RONDO_ERR_MISMATCH,
        "the models differ at parameter %zu: rank 0 has %s; rank %d has %s. Build the same "
        "model, with parameters in the same order, on all ranks: does its size depend on the "
        "rank, or on what is random?",
        i, first, r, second);
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
        mine[i] = (struct shape){rdi_ddp_hash(p->name), p->count, p->type, p->rows};
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
