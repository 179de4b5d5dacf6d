// SPDX-License-Identifier: MIT
// Why an operation does not move: the counter that stands still on each of its edges, in words.
//
//   out:  LOCAL_DATA   posted == ready    this rank has not produced the next bytes yet
//         PEER_CREDIT  posted == credit   the receiver has not freed a slot: it is slow, or not in the operation
//         WIRE         sent < posted      on its way, not acknowledged
//         CONNECT      link is not up
//   in:   WIRE         arrived == released   nothing has come from the sender
//         REDUCE       released < arrived    data is here and waits for another edge's
#include "ring/cuda/gpu.h"
#include "ring/internal.h"

#include <stdio.h>
#include <string.h>

static const char *out_wait(const struct rdi_flow *f) {
    const struct rdi_edge *e = f->edge;
    const struct rdi_link *l = e->link;
    if (!l || l->state != RDI_LINK_UP) {
        return "CONNECT: the link is not up";
    }
    if (f->posted == f->total) {
        return "WIRE: data is sent but not acknowledged";
    }
    if (e->head != f) {
        return "ORDER: an earlier operation uses the edge";
    }
    if (f->ready == f->posted) {
        return "LOCAL_DATA: the next bytes are not reduced yet";
    }
    return e->posted >= l->credit ? "PEER_CREDIT: the receiver has no free slot"
                                  : "WIRE: the transport takes no more";
}

static const char *in_wait(const struct rdi_flow *f) {
    const struct rdi_edge *e = f->edge;
    if (!e->link) {
        return "CONNECT: the peer has not connected";
    }
    if (e->head != f) {
        return "ORDER: an earlier operation uses the edge";
    }
    return e->link->arrived == e->link->released ? "WIRE: nothing has arrived"
                                                 : "REDUCE: data waits for other ranks' data";
}

void rdi_op_report(const struct rondo_request *r, char *buf, size_t cap) {
    char what[256], who[128];
    int n = snprintf(buf, cap, "%s no. %llu did not finish within %llu ms on rank %d.",
                     rdi_op_describe(&r->sig, what, sizeof what), (unsigned long long)r->sig.seq,
                     (unsigned long long)(r->timeout_ns / 1000000), r->comm->rank);
    // Waits for a peer come first: they name who is late.
    for (int pass = 0; pass < 2; pass++) {
        for (unsigned i = 0; i < r->nflows && n > 0 && (size_t)n < cap; i++) {
            const struct rdi_flow *f = &r->flows[i];
            if (f->done == f->total || f->out != (pass == 1)) {
                continue;
            }
            const struct rdi_link *l = f->edge->link;
            n += snprintf(
                buf + n, cap - (size_t)n,
                " %s %s: %s (%llu of %llu bytes; credit %llu posted %llu sent %llu arrived %llu "
                "released %llu).",
                f->out ? "To" : "From", rdi_comm_who(r->comm, f->edge->peer, who, sizeof who),
                f->out ? out_wait(f) : in_wait(f), (unsigned long long)f->done,
                (unsigned long long)f->total, (unsigned long long)(l ? l->credit : 0),
                (unsigned long long)f->edge->posted, (unsigned long long)(l ? l->sent : 0),
                (unsigned long long)(l ? l->arrived : 0),
                (unsigned long long)(l ? l->released : 0));
        }
    }
    if (r->gpu && n > 0 && (size_t)n < cap) {
        n += rdi_gpu_report(r, buf + n, cap - (size_t)n);
    }
    if (n > 0 && (size_t)n < cap) {
        snprintf(
            buf + n, cap - (size_t)n,
            " Did all ranks call it? Raise the time with rondo_set_timeout() or RONDO_OP_TIMEOUT");
    }
}
