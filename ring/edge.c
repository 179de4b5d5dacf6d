// SPDX-License-Identifier: MIT
// Edges: flows cut into messages, acknowledgement, replay after the loss of a path.
//
//   out-edge                                              in-edge
//   flow --cut--> window[seq % slots] --put--> ~~~~ --> slot / landed --> flow (peek, consume) --release-->
//                 kept until link->sent passes it
//
// When a path is lost (RDI_LINK_LOST) the sender resets the link under the next epoch; once it is UP again
// link->posted says what the receiver had whole, and everything after it is put again from the window.
#include "ring/internal.h"
#include "ring/record/hook.h"
#include "ring/work.h"

#include <stdlib.h>
#include <string.h>

#define TAG_OFFSET_BITS 48
#define TAG_OFFSET_MASK ((UINT64_C(1) << TAG_OFFSET_BITS) - 1)

static uint64_t make_tag(const struct rdi_flow *f, uint64_t off) {
    return f->req->sig.seq << TAG_OFFSET_BITS | off;
}

// ---- Flows ---------------------------------------------------------------------------------------

rondo_status rdi_flow_reserve(struct rondo_request *r, unsigned n) {
    r->flows = r->inline_flows;
    if (n > RDI_INLINE_FLOWS) {
        r->flows = malloc(n * sizeof *r->flows);
        if (!r->flows) {
            r->flows = r->inline_flows;
            return rdi_fail(RONDO_ERR_NOMEM, "out of memory for %u flows of an operation", n);
        }
    }
    return RONDO_OK;
}

rondo_status rdi_flow_add(struct rondo_request *r, bool out, int peer, int index, uint64_t total,
                          uint64_t ready) {
    return rdi_flow_add_on(r, out, peer, -1, index, total, ready);
}

rondo_status rdi_flow_add_on(struct rondo_request *r, bool out, int peer, int channel, int index,
                             uint64_t total, uint64_t ready) {
    if (total == 0) {
        return RONDO_OK;
    }
    struct rdi_edge *e;
    if (channel < 0) {
        channel = r->kind == RDI_SEND || r->kind == RDI_RECV ? RDI_CH_P2P : RDI_CH_COLL;
    }
    rondo_status s = rdi_comm_edge(r->comm, out, peer, (unsigned)channel, &e);
    if (s != RONDO_OK) {
        return s;
    }
    if (!out && channel == RDI_CH_P2P) {
        rdi_comm_note_sent(r->comm, peer, false);
    }
    struct rdi_flow *f = &r->flows[r->nflows++];
    *f = (struct rdi_flow){
        .req = r, .edge = e, .index = index, .out = out, .total = total, .ready = ready};
    r->flows_left++;
    if (e->tail) {
        e->tail->next = f;
    } else {
        e->head = f;
    }
    e->tail = f;
    return RONDO_OK;
}

static void pop_flow(struct rdi_edge *e) {
    e->head = e->head->next;
    if (!e->head) {
        e->tail = NULL;
    }
}

// ---- Receiving -----------------------------------------------------------------------------------

// A message that contradicts the local operation although signatures agree, or that is malformed.
static void protocol_error(struct rdi_edge *e, const char *what) {
    char a[128], b[128];
    rdi_comm_fail(e->comm, RONDO_ERR_INTERNAL, "%s sent %s a message that %s; please report this",
                  rdi_comm_who(e->comm, e->peer, a, sizeof a),
                  rdi_comm_who(e->comm, e->comm->rank, b, sizeof b), what);
}

bool rdi_flow_peek(struct rdi_flow *f, const char **data, uint64_t *len) {
    struct rdi_edge *e = f->edge;
    struct rdi_link *l = e->link;
    if (e->head != f || !l || l->arrived == l->released ||
        atomic_load_explicit(&e->comm->status, memory_order_relaxed) != RONDO_OK) {
        return false;
    }
    struct rdi_msg m;
    l->ops->peek(l, l->released, &m);
    if (!f->sig_done) {
        // The first message of an operation on an edge carries its signature.
        if (!m.sig) {
            protocol_error(e, "lacks a signature");
            return false;
        }
        struct rdi_sig sig;
        memcpy(&sig, m.sig, sizeof sig);
        if (memcmp(&sig, &f->req->sig, sizeof sig) != 0) {
            if (f->req->kind == RDI_RECV) {
                rdi_comm_mismatch(e->comm, e->peer, &sig, &f->req->sig);
                return false;
            }
            rdi_comm_check_sig(e->comm, e->peer, &sig);
            // A later operation's: the peer called something for this one that sends nothing here. What that
            // was, the ring of signatures tells.
            if (sig.seq <= f->req->sig.seq && atomic_load(&e->comm->status) == RONDO_OK) {
                protocol_error(e, "belongs to an operation that is over");
            }
            return false;
        }
        f->sig_done = true;
    }
    if (m.tag != make_tag(f, f->done - e->consumed) || m.len <= e->consumed ||
        m.len - e->consumed > f->total - f->done) {
        protocol_error(e, "does not continue its operation's data");
        return false;
    }
    *data = (const char *)m.data + e->consumed;
    *len = m.len - e->consumed;
    f->looked = rdi_trace_clock(e->comm);
    return true;
}

void rdi_flow_consume(struct rdi_flow *f, uint64_t n) {
    struct rdi_edge *e = f->edge;
    struct rdi_link *l = e->link;
    struct rdi_msg m;
    l->ops->peek(l, l->released, &m);
    e->consumed += (uint32_t)n;
    f->done += n;
    if (e->consumed == m.len) {
        e->consumed = 0;
        l->ops->release(l, l->released + 1);
        rdi_count(&e->comm->bytes_received, m.len);
        rdi_record_message(f, m.len, f->looked);
    }
    if (f->done == f->total) {
        pop_flow(e);
        f->req->flows_left--;
    }
}

void *rdi_edge_land(struct rdi_edge *e, uint64_t tag, uint32_t len) {
    if (atomic_load_explicit(&e->comm->status, memory_order_relaxed) != RONDO_OK) {
        return NULL;
    }
    uint64_t off = tag & TAG_OFFSET_MASK;
    for (struct rdi_flow *f = e->head; f; f = f->next) {
        if ((tag ^ make_tag(f, 0)) >> TAG_OFFSET_BITS) {
            continue;
        }
        // The tag names the operation: of several flows that it has here, one after the other, only the last is known.
        if (f->next && f->next->req == f->req) {
            return NULL;
        }
        uint64_t n = 0;
        if (!f->req->algo->land || off < f->done || off >= f->total || len > f->total - off) {
            return NULL;
        }
        char *p = f->req->algo->land(f->req, f, off, &n);
        return p && n >= len ? p : NULL;
    }
    return NULL;
}

// A message that no local flow waits for: either its operation was not submitted here yet, or the ranks
// called different things. The signature tells.
void rdi_edge_check_unclaimed(struct rdi_edge *e) {
    struct rdi_link *l = e->link;
    if (e->out || e->head || !l || l->arrived == l->released) {
        return;
    }
    struct rdi_msg m;
    l->ops->peek(l, l->released, &m);
    if (!m.sig) {
        protocol_error(e, "belongs to no operation");
        return;
    }
    struct rdi_sig sig;
    memcpy(&sig, m.sig, sizeof sig);
    rdi_comm_check_sig(e->comm, e->peer, &sig);
    if (e->channel == RDI_CH_P2P) {
        rdi_comm_note_sent(e->comm, e->peer, true);
    }
}

// ---- Sending -------------------------------------------------------------------------------------

static bool window_ready(struct rdi_edge *e) {
    if (e->window) {
        return true;
    }
    struct rdi_link *l = e->link;
    e->window = calloc(l->slots, sizeof *e->window);
    // A path that cannot be lost needs no copies: its `sent` advances at once for what it copied.
    e->copies = l->ops->reset ? malloc((size_t)l->slots * RDI_COPY_MAX) : NULL;
    if (!e->window || (l->ops->reset && !e->copies)) {
        rdi_comm_fail(e->comm, RONDO_ERR_NOMEM, "out of memory for the send window of %u slots",
                      l->slots);
        return false;
    }
    return true;
}

static rondo_status put_window(struct rdi_edge *e, uint64_t seq) {
    const struct rdi_sent *w = &e->window[seq % e->link->slots];
    struct rdi_put put = {.data = w->data,
                          .len = w->len,
                          .flags = w->flags,
                          .tag = w->tag,
                          .sig = w->has_sig ? &w->sig : NULL};
    return e->link->ops->put(e->link, &put);
}

static void count_sent(struct rdi_edge *e, uint32_t len) {
    struct rondo_comm *c = e->comm;
    const struct rdi_net_ops *ops = e->link->ops;
    _Atomic uint64_t *wire = ops == &rdi_shm_ops     ? &c->bytes_shm
                             : ops == &rdi_verbs_ops ? &c->bytes_verbs
                                                     : &c->bytes_tcp;
    rdi_count(&c->bytes_sent, len);
    rdi_count(&c->messages, 1);
    rdi_count(wire, len);
}

static void flow_sent(struct rdi_flow *f, uint32_t len) {
    f->done += len;
    if (f->done == f->total) {
        f->req->flows_left--;
    }
}

// Cuts the next message of the head flow and puts it. RONDO_AGAIN: nothing is ready or there is no room.
static rondo_status send_one(struct rdi_edge *e) {
    struct rdi_link *l = e->link;
    struct rdi_flow *f = e->head;
    // Credit is looked at here as well as in put(): the window must have room before it is written.
    if (!f || f->ready == f->posted || e->posted >= l->credit || e->posted - e->acked >= l->slots) {
        return RONDO_AGAIN;
    }
    uint64_t n;
    const char *src = f->req->algo->source(f->req, f, f->posted, &n);
    n = n > l->max_msg ? l->max_msg : n;
    if (f->ready - f->posted < n) {
        return RONDO_AGAIN;
    }
    struct rdi_sent *w = &e->window[e->posted % l->slots];
    // `done` counts from the front: what follows bytes that are not free yet cannot be free before them.
    bool copy = e->copies && n <= RDI_COPY_MAX && f->done == f->posted && !f->device,
         last = f->posted + n == f->total;
    w->flow = f;
    w->tag = make_tag(f, f->posted);
    w->len = (uint32_t)n;
    w->flags = ((last || f->ack) && !copy ? RDI_PUT_ACK : 0) | (f->copy ? RDI_PUT_COPY : 0) |
               (f->device ? RDI_PUT_DEVICE : 0);
    w->data = src;
    w->has_sig = !f->sig_done;
    if (w->has_sig) {
        w->sig = f->req->sig;
    }
    if (copy) {
        char *to = e->copies + (size_t)(e->posted % l->slots) * RDI_COPY_MAX;
        rdi_work_copy(f->req, to, src, n);
        w->data = to;
    }
    uint64_t began = rdi_trace_clock(e->comm);
    rondo_status s = put_window(e, e->posted);
    if (s != RONDO_OK) {
        return s;
    }
    e->posted++;
    count_sent(e, (uint32_t)n);
    rdi_record_message(f, n, began);
    f->sig_done = true;
    f->posted += n;
    if (last) {
        pop_flow(e);
    }
    if (copy) {
        w->flow = NULL;
        flow_sent(f, (uint32_t)n);
    }
    return RONDO_OK;
}

static int take_acks(struct rdi_edge *e) {
    int moved = 0;
    for (; e->acked < e->link->sent && e->acked < e->posted; e->acked++, moved++) {
        struct rdi_sent *w = &e->window[e->acked % e->link->slots];
        if (w->flow) {
            flow_sent(w->flow, w->len);
            w->flow = NULL;
        }
    }
    return moved;
}

int rdi_edge_send(struct rdi_edge *e) {
    struct rdi_link *l = e->link;
    int moved = 0;
    if (l->state != RDI_LINK_UP || (!e->head && e->acked == e->posted) || !window_ready(e)) {
        return 0;
    }
    moved += take_acks(e);
    // After a reset: first what the receiver has not got.
    while (l->posted < e->posted) {
        if (put_window(e, l->posted) != RONDO_OK) {
            return moved;
        }
        moved++;
    }
    while (send_one(e) == RONDO_OK) {
        moved++;
    }
    return moved + take_acks(e);
}

// ---- State of the link ---------------------------------------------------------------------------

// A flow that cannot end when nothing moves on this edge any more.
static const struct rdi_flow *unfinished(const struct rdi_edge *e) {
    for (uint64_t seq = e->acked; e->out && seq < e->posted; seq++) {
        const struct rdi_sent *w = &e->window[seq % e->link->slots];
        if (w->flow) {
            return w->flow;
        }
    }
    return e->out || e->link->arrived == e->link->released ? e->head : NULL;
}

int rdi_edge_progress(struct rdi_edge *e, uint64_t now) {
    struct rdi_link *l = e->link;
    int moved;
    if (!l) {
        return 0;
    }
    switch (l->state) {
    case RDI_LINK_UP:
        e->lost_since = 0;
        return e->out ? rdi_edge_send(e) : 0;
    case RDI_LINK_CONNECTING:
        return 0;
    case RDI_LINK_LOST:
        if (!e->lost_since) {
            e->lost_since = now;
            rdi_log(&e->comm->engine->env, RONDO_LOG_WARN, "path lost, trying again: %s", l->why);
        }
        if (e->out && l->ops->reset) {
            rdi_count(&e->comm->resets, 1);
            rondo_status s = l->ops->reset(l, l->epoch + 1);
            if (s != RONDO_OK) {
                rdi_comm_fail_link(e->comm, e->peer, s, "%s", rondo_last_error());
            }
            return 1;
        }
        return 0;
    case RDI_LINK_FAILED: {
        // A transport whose path does not come back cannot tell whether the peer or the path is gone. The watch can.
        bool unsure = e->lost_since && l->status == RONDO_ERR_PEER && e->comm->engine->watch;
        rdi_comm_fail_link(e->comm, e->peer, unsure ? RONDO_ERR_PATH : l->status, "%s", l->why);
        return 1;
    }
    case RDI_LINK_CLOSED:
        // What the receiver had whole is final now.
        moved = e->out ? take_acks(e) : 0;
        // In order after its last message: whatever was under way on this edge cannot end any more.
        if (unfinished(e)) {
            char a[128], what[256];
            rdi_comm_fail_link(e->comm, e->peer, RONDO_ERR_PEER,
                               "%s destroyed its communicator while %s was under way here",
                               rdi_comm_who(e->comm, e->peer, a, sizeof a),
                               rdi_op_describe(&unfinished(e)->req->sig, what, sizeof what));
            return 1;
        }
        return moved;
    }
    return 0;
}

void rdi_edge_free(struct rdi_edge *e, bool bye) {
    if (e->link) {
        e->link->ops->close_link(e->link, bye);
    }
    free(e->window);
    free(e->copies);
    free(e);
}
