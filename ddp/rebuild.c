// SPDX-License-Identifier: MIT
// Buckets are laid out anew: in the order in which rank 0's gradients got ready, or of another size.
#include "ddp/internal.h"

#include <stdlib.h>
#include <string.h>

// The order in which rank 0's gradients got ready, to all.
rondo_status rdi_ddp_spread_order(struct rondo_ddp *d, size_t *order) {
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
rondo_status rdi_ddp_rearrange(struct rondo_ddp *d, const size_t *order, bool keep) {
    struct rdi_param *old = malloc((d->nparams + 1) * sizeof *old);
    struct rdi_bucket *buckets = NULL;
    size_t n = 0;
    if (!old) {
        return rdi_fail(RONDO_ERR_NOMEM, "out of memory to rebuild buckets");
    }
    memcpy(old, d->params, d->nparams * sizeof *old);
    rondo_status s =
        rdi_bucket_assign(d->params, d->nparams, order, d->first_bytes, d->cap_bytes, &buckets, &n);
    if (s == RONDO_OK) {
        rdi_bucket_pad(d, buckets, n);
        s = rdi_bucket_alloc(d, buckets, n);
        s = s == RONDO_OK ? rdi_hook_bucket(d, buckets, n) : s;
    }
    for (size_t i = 0; s == RONDO_OK && keep && i < d->nparams; i++) {
        if (d->params[i].sparse) {
            continue;
        }
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
    return rdi_ddp_rearrange(d, order, false);
}
