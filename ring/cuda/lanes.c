// SPDX-License-Identifier: MIT
// An operation on a device as the engine sees it: an algorithm whose data is produced and consumed by a stream.
// Runs on the thread that owns the engine and touches pinned words and the engine's flows only, never CUDA.
//
//   out-lane                                            in-lane
//   device counts moves: produced ---> flow ready       flow: arrived ---> flag ---> device may read the slot
//   flow: sent, or tokens of the peer: freed            device counts moves: consumed ---> slot may be filled
//         ---> flag ---> device may fill the slot             (memory: ---> token to the peer)
#include "ring/cuda/gpu.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TOKEN_PIECE = 1, TOKEN_FREE = 2, TOKEN_BYTES = 8 };
// A flow's index: below, of its lane; from here on, of its talk.
enum { TALK = 1 << 20 };

static uint64_t start_of(const struct rdi_gpu_lane *l, uint32_t piece) {
    return piece ? l->ends[piece - 1] : 0;
}

static uint32_t slot_of(const struct rdi_gpu_lane *l, uint32_t piece) {
    return (uint32_t)((l->base + piece) % l->edge->slots);
}

// The piece in which byte `off` of the lane lies: a binary search, as land() may ask for any.
static uint32_t piece_at(const struct rdi_gpu_lane *l, uint64_t off) {
    uint32_t low = 0, high = l->count;
    while (low + 1 < high) {
        uint32_t mid = low + (high - low) / 2;
        *(start_of(l, mid) <= off ? &low : &high) = mid;
    }
    return low;
}

static void tell(struct rdi_gpu_lane *l, uint32_t value) {
    if (value != l->told) {
        l->told = value;
        atomic_store_explicit(l->flag, value, memory_order_release);
    }
}

// ---- Set-up --------------------------------------------------------------------------------------

static bool by_tokens(const struct rdi_gpu_lane *l) { return l->edge->reach == RDI_REACH_MEMORY; }

static rondo_status add_lane(struct rondo_request *r, struct rdi_gpu_lane *l, int index) {
    bool direct = l->edge->reach == RDI_REACH_DIRECT;
    rondo_status s = rdi_flow_add_on(r, l->edge->out, l->edge->peer, direct ? RDI_CH_DEVICE : -1,
                                     index, l->ends[l->count - 1], 0);
    if (s == RONDO_OK) {
        l->flow = &r->flows[r->nflows - 1];
        l->flow->device = direct;
        l->flow->ack = l->edge->out;
    }
    return s;
}

static rondo_status add_talk(struct rondo_request *r, struct rdi_gpu_talk *t, int index) {
    uint32_t in = t->in ? t->in->count : 0, out = t->out ? t->out->count : 0;
    uint64_t total = (uint64_t)TOKEN_BYTES * (in + out); // the same in both directions
    // Sends to a rank and receives from it are each in an order that the peer shares, but not among each other.
    int says = r->kind == RDI_RECV ? RDI_CH_BACK : -1,
        hears = r->kind == RDI_SEND ? RDI_CH_BACK : -1;
    t->words = (uint64_t *)(void *)(r->scratch + t->first * TOKEN_BYTES);
    rondo_status s = rdi_flow_add_on(r, true, t->peer, says, TALK + index, total, 0);
    if (s == RONDO_OK) {
        t->says = &r->flows[r->nflows - 1];
        s = rdi_flow_add_on(r, false, t->peer, hears, TALK + index, total, 0);
    }
    if (s == RONDO_OK) {
        t->hears = &r->flows[r->nflows - 1];
    }
    return s;
}

static rondo_status setup(struct rondo_request *r) {
    struct rdi_gpu_op *op = r->gpu;
    uint64_t words = 0;
    for (unsigned i = 0; i < op->ntalks; i++) {
        struct rdi_gpu_talk *t = &op->talks[i];
        t->first = words;
        words += (t->in ? t->in->count : 0) + (t->out ? t->out->count : 0);
    }
    r->scratch = words ? malloc(words * TOKEN_BYTES) : NULL;
    if (words && !r->scratch) {
        return rdi_fail(RONDO_ERR_NOMEM, "out of memory for the tokens of an operation");
    }
    rondo_status s = rdi_flow_reserve(r, op->nlanes + 2 * op->ntalks);
    for (unsigned i = 0; i < op->nlanes && s == RONDO_OK; i++) {
        if (!by_tokens(&op->lanes[i])) {
            s = add_lane(r, &op->lanes[i], (int)i);
        }
    }
    for (unsigned i = 0; i < op->ntalks && s == RONDO_OK; i++) {
        s = add_talk(r, &op->talks[i], (int)i);
    }
    return s;
}

// ---- Where bytes are -----------------------------------------------------------------------------

static const char *source(const struct rondo_request *r, const struct rdi_flow *f, uint64_t off,
                          uint64_t *len) {
    if (f->index >= TALK) {
        *len = f->ready -
               off; // so far; never split within a token, as messages hold multiples of 64
        return (const char *)r->gpu->talks[f->index - TALK].words + off;
    }
    const struct rdi_gpu_lane *l = &r->gpu->lanes[f->index];
    uint32_t piece = piece_at(l, off);
    uint64_t at = slot_of(l, piece) * r->gpu->gpu->piece + off - start_of(l, piece);
    *len = l->ends[piece] - off;
    return l->edge->host ? l->edge->host + at : (const char *)(uintptr_t)(l->edge->base + at);
}

// Whether the device has consumed what was in the piece's slot before.
static bool slot_is_free(const struct rdi_gpu_lane *l, uint32_t piece) {
    return l->base + piece < l->edge->over + l->edge->slots;
}

static char *land(const struct rondo_request *r, const struct rdi_flow *f, uint64_t off,
                  uint64_t *len) {
    if (f->index >= TALK) {
        return NULL;
    }
    const struct rdi_gpu_lane *l = &r->gpu->lanes[f->index];
    uint32_t piece = piece_at(l, off);
    if (!l->edge->host || !slot_is_free(l, piece)) {
        return NULL;
    }
    *len = l->ends[piece] - off;
    return l->edge->host + slot_of(l, piece) * r->gpu->gpu->piece + off - start_of(l, piece);
}

bool rdi_gpu_slots(struct rondo_comm *c, const struct rdi_link *link, struct rdi_device_slots *io) {
    for (struct rdi_gpu_edge *e = c->gpu ? c->gpu->edges : NULL; e; e = e->next) {
        if (!e->out && e->reach == RDI_REACH_DIRECT && e->class == RDI_GPU_RING &&
            (uint32_t)c->world[e->peer] == link->id.from) {
            io->ptr = (void *)(uintptr_t)e->base;
            io->slots = e->slots;
            io->max_msg = (uint32_t)c->gpu->piece;
            return true;
        }
    }
    return false;
}

// ---- What the device did -------------------------------------------------------------------------

static void say(struct rdi_gpu_talk *t, uint64_t token) {
    t->words[t->says->ready / TOKEN_BYTES] = token;
    t->says->ready += TOKEN_BYTES;
}

static struct rdi_gpu_talk *talk_with(struct rdi_gpu_op *op, int peer) {
    for (unsigned i = 0; i < op->ntalks; i++) {
        if (op->talks[i].peer == peer) {
            return &op->talks[i];
        }
    }
    return NULL;
}

static void produced(struct rdi_gpu_op *op, struct rdi_gpu_lane *l) {
    l->device++;
    if (l->flow) {
        l->flow->ready = l->ends[l->device - 1];
    } else {
        // The peer's device reads the piece itself.
        rdi_count(&op->gpu->comm->bytes_sent, l->ends[l->device - 1] - start_of(l, l->device - 1));
        say(talk_with(op, l->edge->peer), TOKEN_PIECE);
    }
}

static void consumed(struct rdi_gpu_op *op, struct rdi_gpu_lane *l) {
    l->device++;
    l->edge->over++;
    if (!l->flow) {
        say(talk_with(op, l->edge->peer), TOKEN_FREE);
        return;
    }
    const char *data;
    uint64_t len;
    // Direct: the message lay in its slot until now.
    if (l->flow->device && rdi_flow_peek(l->flow, &data, &len)) {
        rdi_flow_consume(l->flow, len);
    }
}

static int take_moves(struct rdi_gpu_op *op) {
    uint32_t done = atomic_load_explicit(op->done, memory_order_acquire);
    size_t before = op->seen;
    while (op->seen < done && op->seen < op->program.n) {
        const struct rdi_gpu_move *m = &op->program.moves[op->seen++];
        if (m->in >= 0) {
            consumed(op, &op->lanes[op->in_lane[m->in]]);
        }
        if (m->out >= 0) {
            produced(op, &op->lanes[op->out_lane[m->out]]);
        }
    }
    return (int)(op->seen - before);
}

// ---- What the wire did ---------------------------------------------------------------------------

static int take_staged(struct rdi_gpu_op *op, struct rdi_gpu_lane *l) {
    struct rdi_flow *f = l->flow;
    const char *data;
    uint64_t len;
    int moved = 0;
    while (f->done < f->total && slot_is_free(l, l->wire) && rdi_flow_peek(f, &data, &len)) {
        uint64_t left = l->ends[l->wire] - f->done;
        char *to = l->edge->host + slot_of(l, l->wire) * op->gpu->piece + f->done -
                   start_of(l, l->wire);
        len = len < left ? len : left;
        if (data != to) {
            memcpy(to, data, len);
        }
        rdi_flow_consume(f, len);
        l->wire += len == left;
        moved++;
    }
    return moved;
}

// Messages stay in the device's slots: what is whole there may be read. The first one's signature is compared before
// anything is.
static int take_direct(struct rdi_gpu_op *op, struct rdi_gpu_lane *l) {
    const char *data;
    uint64_t len;
    if (l->device == l->count || !rdi_flow_peek(l->flow, &data, &len)) {
        return 0;
    }
    struct rdi_link *link = l->flow->edge->link;
    uint64_t whole = l->device + (link->arrived - link->released);
    uint32_t before = l->wire;
    for (; l->wire < l->count && l->wire < whole; l->wire++) {
        struct rdi_msg m;
        link->ops->peek(link, link->released + (l->wire - l->device), &m);
        uint64_t at = l->edge->base + slot_of(l, l->wire) * op->gpu->piece;
        if ((uintptr_t)m.data != at || m.len != l->ends[l->wire] - start_of(l, l->wire)) {
            char who[128];
            rdi_comm_fail(
                op->gpu->comm, RONDO_ERR_INTERNAL,
                "%s sent a piece that is in another slot, or shorter, than the plan says; "
                "please report this",
                rdi_comm_who(op->gpu->comm, l->edge->peer, who, sizeof who));
            break;
        }
    }
    return (int)(l->wire - before);
}

static void bad_token(struct rdi_gpu_op *op, int peer) {
    char who[128];
    rdi_comm_fail(op->gpu->comm, RONDO_ERR_INTERNAL,
                  "%s sent a token that does not belong to the operation; please report this",
                  rdi_comm_who(op->gpu->comm, peer, who, sizeof who));
}

static int take_tokens(struct rdi_gpu_op *op, struct rdi_gpu_talk *t) {
    const char *data;
    uint64_t len;
    int moved = 0;
    while (t->hears->done < t->hears->total && rdi_flow_peek(t->hears, &data, &len)) {
        uint64_t token = 0;
        memcpy(&token, data, len < sizeof token ? len : sizeof token);
        if (len < sizeof token) {
            bad_token(op, t->peer);
            return moved;
        }
        if (token == TOKEN_PIECE && t->in && t->in->wire < t->in->count) {
            t->in->wire++;
        } else if (token == TOKEN_FREE && t->out && t->out->wire < t->out->device) {
            t->out->wire++;
            t->out->edge->over++;
        } else {
            bad_token(op, t->peer);
            return moved;
        }
        rdi_flow_consume(t->hears, sizeof token);
        moved++;
    }
    return moved;
}

// Slots whose bytes have left for good.
static int take_sent(struct rdi_gpu_lane *l) {
    uint32_t before = l->wire;
    while (l->wire < l->device && l->ends[l->wire] <= l->flow->done) {
        l->wire++;
        l->edge->over++;
    }
    return (int)(l->wire - before);
}

static void tell_device(struct rdi_gpu_lane *l) {
    if (!l->edge->out) {
        tell(l, l->wire);
        return;
    }
    // Of the edge's slots as many pieces may be in use; earlier operations' come first.
    uint64_t may = l->edge->over + l->edge->slots;
    may = may > l->base ? may - l->base : 0;
    tell(l, may < l->count ? (uint32_t)may : l->count);
}

static int advance(struct rondo_request *r) {
    struct rdi_gpu_op *op = r->gpu;
    int moved = take_moves(op);
    for (unsigned i = 0; i < r->nflows; i++) {
        if (r->flows[i].out && r->flows[i].posted < r->flows[i].ready) {
            rdi_edge_send(r->flows[i].edge);
        }
    }
    for (unsigned i = 0; i < op->ntalks; i++) {
        moved += take_tokens(op, &op->talks[i]);
    }
    for (unsigned i = 0; i < op->nlanes; i++) {
        struct rdi_gpu_lane *l = &op->lanes[i];
        if (l->flow && l->edge->out) {
            moved += take_sent(l);
        } else if (l->flow) {
            moved += l->flow->device ? take_direct(op, l) : take_staged(op, l);
        }
        tell_device(l);
    }
    return moved;
}

const struct rdi_algo rdi_algo_device = {
    .id = RDI_ALGO_DEVICE, .setup = setup, .source = source, .land = land, .advance = advance};

// ---- The end -------------------------------------------------------------------------------------

static bool enqueuing(const struct rdi_gpu_op *op) {
    return atomic_load_explicit(&op->limit, memory_order_acquire) == RDI_GPU_ENQUEUING;
}

// The device may be through before the thread that enqueues the operation is back from the driver.
bool rdi_gpu_over(const struct rondo_request *r) {
    return r->gpu->seen == r->gpu->program.n && !enqueuing(r->gpu);
}

bool rdi_gpu_idle(const struct rondo_request *r) {
    // Less than all when the stream did not take all; none of it before the caller's thread is through.
    size_t limit = atomic_load_explicit(&r->gpu->limit, memory_order_acquire);
    return limit != RDI_GPU_ENQUEUING &&
           atomic_load_explicit(r->gpu->done, memory_order_acquire) >= limit;
}

// Pieces of the lane that moves before `seen` have used.
static bool move_may_run(const struct rdi_gpu_op *op, const struct rdi_gpu_move *m) {
    const struct rdi_gpu_lane *in = m->in >= 0 ? &op->lanes[op->in_lane[m->in]] : NULL;
    const struct rdi_gpu_lane *out = m->out >= 0 ? &op->lanes[op->out_lane[m->out]] : NULL;
    return (!in || in->device < in->told) && (!out || out->device < out->told);
}

bool rdi_gpu_busy(const struct rondo_request *r) {
    const struct rdi_gpu_op *op = r->gpu;
    return enqueuing(op) ||
           (op->seen < op->program.n && move_may_run(op, &op->program.moves[op->seen]));
}

void rdi_gpu_poison(struct rondo_request *r) {
    for (unsigned i = 0; i < r->gpu->nlanes; i++) {
        tell(&r->gpu->lanes[i], RDI_STEP_POISON);
    }
}

void rdi_gpu_release(struct rondo_request *r) {
    struct rdi_gpu_op *op = r->gpu, *top;
    // An operation that the device never came through is not used again, and all that it may touch stays.
    bool idle = rdi_gpu_idle(r);
    r->gpu = NULL;
    _Atomic(struct rdi_gpu_op *) *finished = idle ? &op->gpu->finished : &op->gpu->abandoned;
    top = atomic_load_explicit(finished, memory_order_relaxed);
    do {
        op->next = top;
    } while (!atomic_compare_exchange_weak(finished, &top, op));
}

int rdi_gpu_report(const struct rondo_request *r, char *buf, size_t cap) {
    const struct rdi_gpu_op *op = r->gpu;
    if (op->seen == op->program.n) {
        return snprintf(buf, cap, " The device has finished its part.");
    }
    const struct rdi_gpu_move *m = &op->program.moves[op->seen];
    if (move_may_run(op, m)) {
        return snprintf(buf, cap,
                        " On the device: step %zu of %zu can run but has not: the stream is busy "
                        "with earlier work, or waits for something else.",
                        op->seen + 1, op->program.n);
    }
    bool in = m->in >= 0 &&
              op->lanes[op->in_lane[m->in]].device >= op->lanes[op->in_lane[m->in]].told;
    return snprintf(buf, cap, " On the device: step %zu of %zu waits for %s rank %d.", op->seen + 1,
                    op->program.n, in ? "data of" : "a free slot to", in ? m->in : m->out);
}
