// SPDX-License-Identifier: MIT
// The hook in which others end: an all_reduce of the bucket as it is.
#include "ring/internal.h"

#include "ddp/hook/stage.h"

// bucket->work is the request while it is under way.
static rondo_status wait_for(rondo_ddp_bucket *b) {
    rondo_request *req = b->work;
    b->work = NULL;
    return rondo_wait(&req);
}

static rondo_status reduce(void *state, rondo_ddp_bucket *b, int round) {
    (void)state;
    if (round > 0) {
        return wait_for(b);
    }
    rondo_request *req = NULL;
    rondo_status s =
        rondo_all_reduce_start(b->data, b->data, b->count, b->type, RONDO_SUM, b->comm, &req);
    if (s != RONDO_OK) {
        return s;
    }
    b->work = req;
    b->bytes += b->count * rondo_type_size(b->type);
    return RONDO_AGAIN;
}

static void drain(void *state, rondo_ddp_bucket *b) {
    (void)state;
    (void)wait_for(b);
}

rondo_ddp_hook rondo_ddp_hook_all_reduce(void) {
    return (rondo_ddp_hook){
        .size = sizeof(rondo_ddp_hook), .name = "all_reduce", .round = reduce, .drain = drain};
}

void rondo_ddp_hook_destroy(rondo_ddp_hook *hook) {
    if (hook) {
        if (hook->destroy) {
            hook->destroy(hook->state);
        }
        *hook = (rondo_ddp_hook){.size = sizeof *hook};
    }
}
