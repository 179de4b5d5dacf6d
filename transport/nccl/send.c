// SPDX-License-Identifier: MIT
// Sending: requests are cut into messages; what the receiver has not acknowledged stays in the window, to be put
// again when the path was lost.
//
//   requests   head ......... put_request ......... next_request
//                             cut here
//   messages   acked ........ posted                (window[n % slots] of those between)
//
// A request is complete when the receiver has all of it: only then its memory may change.
#include "transport/nccl/core.h"

static rondo_status put(struct rdi_nccl_comm *c, const struct rdi_nccl_sent *w) {
    struct rdi_put p = {.data = w->request->data + w->off,
                        .len = w->len,
                        .flags = w->last ? RDI_PUT_ACK : 0,
                        .tag = rdi_nccl_tag(w->number, w->off, w->last)};
    return c->link->ops->put(c->link, &p);
}

static void take_acks(struct rdi_nccl_comm *c) {
    for (; c->acked < c->posted && c->acked < c->link->sent; c->acked++) {
        const struct rdi_nccl_sent *w = &c->window[c->acked % c->link->slots];
        w->request->got += w->len;
        if (w->last) {
            w->request->done = true;
            c->head++;
        }
    }
}

// False: nothing is left to put, or there is no room.
static bool put_next(struct rdi_nccl_comm *c) {
    struct rdi_link *l = c->link;
    if (c->put_request == c->next_request || c->posted >= l->credit ||
        c->posted - c->acked >= l->slots) {
        return false;
    }
    struct rdi_nccl_request *r = &c->requests[c->put_request % RDI_NCCL_REQS];
    size_t left = r->size - r->put;
    struct rdi_nccl_sent *w = &c->window[c->posted % l->slots];
    *w = (struct rdi_nccl_sent){.request = r,
                                .number = c->put_request,
                                .off = r->put,
                                .len = left > l->max_msg ? l->max_msg : (uint32_t)left,
                                .last = left <= l->max_msg};
    if (put(c, w) != RONDO_OK) {
        return false; // no room, or the link's state says more
    }
    c->posted++;
    r->put += w->len;
    c->put_request += w->last;
    return true;
}

void rdi_nccl_send_pump(struct rdi_nccl_comm *c) {
    struct rdi_link *l = c->link;
    take_acks(c);
    // After a reset `posted` of the link is what the receiver had.
    while (l->state == RDI_LINK_UP && l->posted < c->posted) {
        if (put(c, &c->window[l->posted % l->slots]) != RONDO_OK) {
            return;
        }
    }
    while (l->state == RDI_LINK_UP && put_next(c)) {}
    take_acks(c);
}

int rdi_nccl_isend(struct rdi_nccl_comm *c, void *data, size_t size,
                   struct rdi_nccl_request **out) {
    *out = NULL;
    if (size > (size_t)RDI_NCCL_MAX_BYTES) {
        return RDI_NCCL_INTERNAL;
    }
    pthread_mutex_lock(&c->hub->lock);
    rondo_status s = c->status;
    struct rdi_nccl_request *r = s == RONDO_OK ? rdi_nccl_request_new(c, data, size) : NULL;
    if (r != NULL) {
        s = rdi_nccl_comm_pump(c);
    }
    pthread_mutex_unlock(&c->hub->lock);
    *out = s == RONDO_OK ? r : NULL;
    return rdi_nccl_result(s);
}
