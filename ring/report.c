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

const char *rdi_wait_name(enum rdi_wait w) {
    static const char *const names[RDI_WAIT_COUNT] = {
        "NONE", "CONNECT", "ORDER", "LOCAL_DATA", "PEER_CREDIT", "WIRE", "REDUCE", "DEVICE"};
    return w < RDI_WAIT_COUNT ? names[w] : "NONE";
}

bool rdi_wait_is_for_peer(enum rdi_wait w) {
    return w == RDI_WAIT_CONNECT || w == RDI_WAIT_PEER_CREDIT || w == RDI_WAIT_WIRE;
}

static enum rdi_wait say(enum rdi_wait w, const char *words, const char **text) {
    *text = words;
    return w;
}

static enum rdi_wait out_wait(const struct rdi_flow *f, const char **text) {
    const struct rdi_edge *e = f->edge;
    const struct rdi_link *l = e->link;
    if (!l || l->state != RDI_LINK_UP) {
        return say(RDI_WAIT_CONNECT, "the link is not up", text);
    }
    if (f->posted == f->total) {
        return say(RDI_WAIT_WIRE, "data is sent but not acknowledged", text);
    }
    if (e->head != f) {
        return say(RDI_WAIT_ORDER, "an earlier operation uses the edge", text);
    }
    if (f->ready == f->posted) {
        return say(RDI_WAIT_LOCAL_DATA, "the next bytes are not reduced yet", text);
    }
    return e->posted >= l->credit ? say(RDI_WAIT_PEER_CREDIT, "the receiver has no free slot", text)
                                  : say(RDI_WAIT_WIRE, "the transport takes no more", text);
}

static enum rdi_wait in_wait(const struct rdi_flow *f, const char **text) {
    const struct rdi_edge *e = f->edge;
    if (!e->link) {
        return say(RDI_WAIT_CONNECT, "the peer has not connected", text);
    }
    if (e->head != f) {
        return say(RDI_WAIT_ORDER, "an earlier operation uses the edge", text);
    }
    return e->link->arrived == e->link->released
               ? say(RDI_WAIT_WIRE, "nothing has arrived", text)
               : say(RDI_WAIT_REDUCE, "data waits for other ranks' data", text);
}

enum rdi_wait rdi_flow_wait(const struct rdi_flow *f, const char **text) {
    if (f->done == f->total) {
        return say(RDI_WAIT_NONE, "", text);
    }
    return f->out ? out_wait(f, text) : in_wait(f, text);
}

enum rdi_wait rdi_op_wait(const struct rondo_request *r, int *peer, const char **text) {
    enum rdi_wait best = RDI_WAIT_NONE;
    *peer = -1;
    *text = "";
    for (int pass = 0; pass < 2; pass++) {
        for (unsigned i = 0; i < r->nflows && !rdi_wait_is_for_peer(best); i++) {
            const char *words;
            enum rdi_wait w = r->flows[i].out == (pass == 1) ? rdi_flow_wait(&r->flows[i], &words)
                                                             : RDI_WAIT_NONE;
            if (w != RDI_WAIT_NONE && (best == RDI_WAIT_NONE || rdi_wait_is_for_peer(w))) {
                best = w;
                *text = words;
                *peer = r->flows[i].edge->peer;
            }
        }
    }
    if (best == RDI_WAIT_NONE && r->sig_pending) {
        *peer = rdi_layout_next(&r->comm->layout, 1);
        return say(RDI_WAIT_CONNECT, "its signature is not sent yet", text);
    }
    if (best == RDI_WAIT_NONE && r->gpu) {
        return say(RDI_WAIT_DEVICE, "the device is at work", text);
    }
    return best;
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
            const char *text;
            enum rdi_wait w = rdi_flow_wait(f, &text);
            n += snprintf(
                buf + n, cap - (size_t)n,
                " %s %s: %s: %s (%llu of %llu bytes; credit %llu posted %llu sent %llu arrived "
                "%llu "
                "released %llu).",
                f->out ? "To" : "From", rdi_comm_who(r->comm, f->edge->peer, who, sizeof who),
                rdi_wait_name(w), text, (unsigned long long)f->done, (unsigned long long)f->total,
                (unsigned long long)(l ? l->credit : 0), (unsigned long long)f->edge->posted,
                (unsigned long long)(l ? l->sent : 0), (unsigned long long)(l ? l->arrived : 0),
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
