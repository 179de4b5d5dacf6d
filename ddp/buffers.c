// SPDX-License-Identifier: MIT
// What is the same on all ranks besides parameters, but changes in forward: one rank's goes to all.
#include "ddp/internal.h"

#include <stdlib.h>

rondo_status rdi_ddp_broadcast_buffers(struct rondo_ddp *d, int root) {
    if (d->nbuffers == 0) {
        return RONDO_OK;
    }
    rondo_request **reqs = calloc(d->nbuffers, sizeof *reqs);
    if (!reqs) {
        return rdi_fail(RONDO_ERR_NOMEM, "out of memory for %zu requests", d->nbuffers);
    }
    rondo_status s = RONDO_OK;
    for (size_t i = 0; i < d->nbuffers && s == RONDO_OK; i++) {
        const struct rdi_buffer *b = &d->buffers[i];
        s = rondo_broadcast_start(b->data, b->data, b->count, b->type, root, d->comm, &reqs[i]);
    }
    rondo_status w = rondo_wait_all(reqs, d->nbuffers);
    free(reqs);
    return s == RONDO_OK ? w : s;
}

rondo_status rondo_ddp_forward(rondo_ddp *d) {
    rondo_status s = rdi_ddp_between_steps(d, "rondo_ddp_forward");
    if (s != RONDO_OK || !d->sync) {
        return s;
    }
    int root = 0;
    if (d->join.on) {
        s = rdi_join_tell(d, true);
        s = s == RONDO_OK && d->nbuffers ? rdi_join_hear(d) : s;
        root = d->join.root;
    }
    s = s == RONDO_OK ? rdi_ddp_broadcast_buffers(d, root) : s;
    // A step that cannot count any more goes on to its end, where all ranks hear of it.
    return s != RONDO_OK && d->elastic && rdi_ddp_is_broken(d) ? RONDO_OK : s;
}
