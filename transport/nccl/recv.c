// SPDX-License-Identifier: MIT
// Receiving: messages belong to requests by number and offset. Over tcp those whose request is posted land in
// its buffer; all others, and over verbs all, wait in the link's slots and are copied from there.
#include "transport/nccl/core.h"

#include <string.h>

#define NUMBERS (UINT64_C(1) << RDI_NCCL_TAG_NUMBER)

static uint64_t number_of(uint64_t tag) { return tag >> RDI_NCCL_TAG_OFFSET & (NUMBERS - 1); }

void *rdi_nccl_recv_land(struct rdi_nccl_comm *c, uint64_t tag, uint32_t len) {
    uint64_t ahead = (number_of(tag) - c->head) & (NUMBERS - 1);
    uint64_t off = rdi_nccl_tag_offset(tag);
    if (c->status != RONDO_OK || ahead >= c->next_request - c->head) {
        return NULL;
    }
    struct rdi_nccl_request *r = &c->requests[(c->head + ahead) % RDI_NCCL_REQS];
    return off >= r->got && off <= r->size && len <= r->size - off ? r->data + off : NULL;
}

// Takes the oldest message that arrived into the oldest request.
static void take_message(struct rdi_nccl_comm *c) {
    struct rdi_link *l = c->link;
    struct rdi_nccl_request *r = &c->requests[c->head % RDI_NCCL_REQS];
    struct rdi_msg m;
    l->ops->peek(l, l->released, &m);
    if (number_of(m.tag) != (c->head & (NUMBERS - 1)) || rdi_nccl_tag_offset(m.tag) != r->got) {
        rdi_nccl_comm_fail(c, RONDO_ERR_INTERNAL,
                           "a message of request %llu at %llu came where %llu at %zu was due; "
                           "please report this",
                           (unsigned long long)number_of(m.tag),
                           (unsigned long long)rdi_nccl_tag_offset(m.tag),
                           (unsigned long long)(c->head & (NUMBERS - 1)), r->got);
        return;
    }
    if (m.len > r->size - r->got) {
        rdi_nccl_comm_fail(c, RONDO_ERR_MISMATCH,
                           "the peer sends at least %zu bytes into a receive of %zu: the ranks "
                           "call different operations, or the same with different sizes",
                           r->got + m.len, r->size);
        return;
    }
    // Host memory only: see rdi_nccl_pointer_support().
    if (m.len > 0 && m.data != r->data + r->got) {
        memcpy(r->data + r->got, m.data, m.len);
    }
    r->got += m.len;
    bool last = rdi_nccl_tag_last(m.tag);
    l->ops->release(l, l->released + 1);
    if (last) {
        r->done = true;
        c->head++;
    }
}

void rdi_nccl_recv_pump(struct rdi_nccl_comm *c) {
    while (c->status == RONDO_OK && c->link->arrived > c->link->released &&
           c->head < c->next_request) {
        take_message(c);
    }
}

int rdi_nccl_irecv(struct rdi_nccl_comm *c, int n, void **data, const size_t *sizes,
                   struct rdi_nccl_request **out) {
    *out = NULL;
    if (n != 1 || sizes[0] > (size_t)RDI_NCCL_MAX_BYTES) {
        return RDI_NCCL_INTERNAL; // the properties say that one receive makes a group
    }
    pthread_mutex_lock(&c->hub->lock);
    rondo_status s = c->status;
    struct rdi_nccl_request *r = s == RONDO_OK ? rdi_nccl_request_new(c, data[0], sizes[0]) : NULL;
    if (r != NULL) {
        s = rdi_nccl_comm_pump(c);
    }
    pthread_mutex_unlock(&c->hub->lock);
    *out = s == RONDO_OK ? r : NULL;
    return rdi_nccl_result(s);
}
