// SPDX-License-Identifier: MIT
// Operations: made and checked on the caller's thread, numbered and set up in the engine, completed once.
#include "ring/cuda/gpu.h"
#include "ring/internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const kind_names[RDI_KIND_COUNT] = {"all_reduce", "reduce_scatter", "all_gather",
                                                       "broadcast",  "reduce",         "all_to_all",
                                                       "barrier",    "send/recv",      "send/recv"};

const char *rdi_kind_name(enum rdi_kind k) {
    return k < RDI_KIND_COUNT ? kind_names[k] : "unknown";
}

const char *rdi_op_describe(const struct rdi_sig *s, char *buf, size_t cap) {
    const char *type = rondo_type_name((rondo_type)s->type), *op = rondo_op_name((rondo_op)s->op);
    int n = snprintf(buf, cap, "%s(count %llu, %s", rdi_kind_name(s->kind),
                     (unsigned long long)s->count, type ? type : "unknown type");
    bool reduces = s->kind == RDI_ALL_REDUCE || s->kind == RDI_REDUCE_SCATTER ||
                   s->kind == RDI_REDUCE;
    if (reduces && n > 0 && (size_t)n < cap) {
        n += snprintf(buf + n, cap - (size_t)n, ", %s", op ? op : "unknown op");
    }
    if ((s->kind == RDI_BROADCAST || s->kind == RDI_REDUCE) && n > 0 && (size_t)n < cap) {
        n += snprintf(buf + n, cap - (size_t)n, ", root %u", s->root);
    }
    if (n > 0 && (size_t)n < cap) {
        snprintf(buf + n, cap - (size_t)n, s->algo == RDI_ALGO_DEVICE ? ") on device memory" : ")");
    }
    return buf;
}

// ---- On the caller's thread ----------------------------------------------------------------------

static rondo_status check_args(const struct rondo_comm *c, enum rdi_kind kind, const void *send,
                               const void *recv, size_t count, rondo_type type, rondo_op op,
                               int root) {
    const char *name = rdi_kind_name(kind);
    if (!c) {
        return rdi_fail(RONDO_ERR_INVALID, "%s: the communicator is NULL", name);
    }
    if ((unsigned)type >= RONDO_TYPE_COUNT) {
        return rdi_fail(RONDO_ERR_INVALID,
                        "%s: type %d is none of RONDO_F32 (0) .. RONDO_F8E5M2 (%d)", name,
                        (int)type, RONDO_TYPE_COUNT - 1);
    }
    if ((unsigned)op >= RONDO_OP_COUNT) {
        return rdi_fail(RONDO_ERR_INVALID, "%s: op %d is none of RONDO_SUM (0) .. RONDO_AVG (%d)",
                        name, (int)op, RONDO_OP_COUNT - 1);
    }
    if (root < 0 || root >= c->size) {
        return rdi_fail(RONDO_ERR_INVALID, "%s: rank %d is not in 0 .. %d", name, root,
                        c->size - 1);
    }
    if ((kind == RDI_SEND || kind == RDI_RECV) && root == c->rank) {
        return rdi_fail(RONDO_ERR_INVALID, "%s: rank %d cannot send to itself; copy instead", name,
                        root);
    }
    // Offsets travel in 48 bits; blocks of all ranks together have to fit, too.
    if (count > (UINT64_C(1) << 47) / 8 / (uint64_t)c->size) {
        return rdi_fail(RONDO_ERR_INVALID, "%s: count %zu is too large", name, count);
    }
    bool need_send = kind != RDI_BARRIER && kind != RDI_RECV &&
                     !(kind == RDI_BROADCAST && root != c->rank);
    bool need_recv = kind != RDI_BARRIER && kind != RDI_SEND &&
                     !(kind == RDI_REDUCE && root != c->rank);
    if (count > 0 && ((need_send && !send) || (need_recv && !recv))) {
        return rdi_fail(RONDO_ERR_INVALID, "%s: the %s buffer is NULL but count is %zu", name,
                        need_send && !send ? "send" : "receive", count);
    }
    if (kind == RDI_ALL_TO_ALL && count > 0 && send == recv) {
        return rdi_fail(RONDO_ERR_INVALID,
                        "all_to_all does not work in place: give it two buffers");
    }
    int s = atomic_load(&c->status);
    if (s != RONDO_OK) {
        rdi_set_last_error(c->why);
        return (rondo_status)s;
    }
    return RONDO_OK;
}

void rdi_buffer_sizes(const struct rondo_request *r, uint64_t *send, uint64_t *recv) {
    uint64_t n = (uint64_t)r->comm->size;
    *send = r->bytes * (r->kind == RDI_REDUCE_SCATTER || r->kind == RDI_ALL_TO_ALL ? n : 1);
    *recv = r->bytes * (r->kind == RDI_ALL_GATHER || r->kind == RDI_ALL_TO_ALL ? n : 1);
}

rondo_status rdi_request_new(struct rondo_comm *c, enum rdi_kind kind, const void *send, void *recv,
                             size_t count, rondo_type type, rondo_op op, int root,
                             struct rondo_request **out) {
    rondo_status s = check_args(c, kind, send, recv, count, type, op, root);
    if (s != RONDO_OK) {
        return s;
    }
    struct rondo_request *r = malloc(sizeof *r);
    if (!r) {
        return rdi_fail(RONDO_ERR_NOMEM, "%s: out of memory for a request", rdi_kind_name(kind));
    }
    memset(r, 0, offsetof(struct rondo_request, inline_flows));
    memset(r->state, 0, sizeof r->state);
    r->nflows = r->flows_left = 0;
    r->sig_pending = r->held_send = r->held_recv = r->detached = false;
    r->gpu = NULL;
    r->comm = c;
    r->kind = kind;
    r->type = type;
    r->op = op;
    r->root = root;
    r->esize = rondo_type_size(type);
    r->count = count;
    r->bytes = count * r->esize;
    r->send = send;
    r->recv = recv;
    r->timeout_ns = (uint64_t)atomic_load(&c->timeout_ms) * UINT64_C(1000000);
    r->marks.number = r->marks.submitted = 0;
    r->flows = r->inline_flows;
    r->status = RONDO_OK;
    atomic_init(&r->complete, 0);
    // From here on, not only once the engine has taken it: the memory may not go away.
    uint64_t ns, nr;
    rdi_buffer_sizes(r, &ns, &nr);
    r->held_send = r->send && ns && rdi_mem_hold(r->send, ns);
    r->held_recv = r->recv && nr && rdi_mem_hold(r->recv, nr);
    *out = r;
    return RONDO_OK;
}

static void unhold(const struct rondo_request *r) {
    uint64_t ns, nr;
    rdi_buffer_sizes(r, &ns, &nr);
    if (r->held_send) {
        rdi_mem_unhold(r->send, ns);
    }
    if (r->held_recv) {
        rdi_mem_unhold(r->recv, nr);
    }
}

void rdi_request_free(struct rondo_request *r) { free(r); }

void rdi_request_drop(struct rondo_request *r) {
    unhold(r);
    rdi_request_free(r);
}

// ---- In the engine -------------------------------------------------------------------------------

static rondo_status number_p2p(struct rondo_request *r) {
    struct rondo_comm *c = r->comm;
    if (!c->p2p_seq) {
        c->p2p_seq = calloc(2 * (size_t)c->size, sizeof *c->p2p_seq);
        if (!c->p2p_seq) {
            return rdi_fail(RONDO_ERR_NOMEM, "out of memory for send/recv between %d ranks",
                            c->size);
        }
    }
    r->sig.kind = RDI_SEND;
    r->sig.root = (uint32_t)(r->kind == RDI_SEND ? c->rank : r->root);
    r->sig.seq = c->p2p_seq[2 * r->root + (r->kind == RDI_RECV)]++;
    return RONDO_OK;
}

static void number_collective(struct rondo_request *r) {
    struct rondo_comm *c = r->comm;
    r->sig.kind = (uint8_t)r->kind;
    r->sig.root = (uint32_t)r->root;
    r->sig.seq = c->seq++;
    c->history[r->sig.seq % RDI_SIG_HISTORY] = r->sig;
    // Peers that were ahead of us have said what they called.
    for (unsigned i = 0; i < c->nearly;) {
        if (c->early[i].sig.seq != r->sig.seq) {
            i++;
            continue;
        }
        struct rdi_sig theirs = c->early[i].sig;
        int from = c->early[i].from;
        c->early[i] = c->early[--c->nearly];
        rdi_comm_check_sig(c, from, &theirs);
    }
}

// Whether the right neighbour learns of this operation by its data: otherwise it gets a signature alone, so
// that the ring of signatures is closed for every operation and any two ranks that differ are found.
static bool tells_right(const struct rondo_request *r) {
    int right = rdi_layout_next(&r->comm->layout, 1);
    for (unsigned i = 0; i < r->nflows; i++) {
        const struct rdi_flow *f = &r->flows[i];
        bool told = f->sig_done || (f->ready > 0 && f->edge->head == f);
        if (f->out && f->edge->peer == right && told) {
            return true;
        }
    }
    return false;
}

static rondo_status start_op(struct rondo_request *r) {
    struct rondo_comm *c = r->comm;
    bool p2p = r->kind == RDI_SEND || r->kind == RDI_RECV;
    enum rdi_algo_id id = RDI_ALGO_PAIRS;
    if (r->gpu) {
        id = RDI_ALGO_DEVICE;
    } else if (!p2p) {
        id = rdi_plan_choose(&c->plan, r->kind, r->bytes);
    }
    r->algo = r->gpu ? &rdi_algo_device : rdi_algo_get(id, r->kind);
    r->sig = (struct rdi_sig){.comm = c->id,
                              .count = r->count,
                              .type = (uint8_t)r->type,
                              .op = (uint8_t)r->op,
                              .algo = (uint8_t)id,
                              .plan = c->plan_hash};
    if (p2p) {
        rondo_status s = number_p2p(r);
        if (s != RONDO_OK) {
            return s;
        }
    } else {
        number_collective(r);
    }
    rdi_record_begin(r);
    if (atomic_load(&c->status) != RONDO_OK) {
        return RONDO_OK; // the drain completes it
    }
    rondo_status s = r->algo->setup(r);
    if (s == RONDO_OK && !p2p && c->size > 1) {
        r->sig_pending = !tells_right(r);
    }
    return s;
}

void rdi_op_submit(struct rondo_request *r) {
    struct rondo_comm *c = r->comm;
    r->deadline = rdi_now(&c->engine->env) + r->timeout_ns;
    r->warn_at = rdi_now(&c->engine->env) + RDI_SLOW_NS;
    r->next = NULL;
    r->prev = c->tail;
    if (c->tail) {
        c->tail->next = r;
    } else {
        c->head = r;
    }
    c->tail = r;
    rondo_status s = start_op(r);
    if (s != RONDO_OK) {
        // Others wait for our part of it: an operation that cannot start here fails everywhere.
        rdi_comm_fail(c, s, "%s", rondo_last_error());
    }
}

void rdi_op_complete(struct rondo_request *r, rondo_status s) {
    struct rondo_comm *c = r->comm;
    if (r->prev) {
        r->prev->next = r->next;
    } else {
        c->head = r->next;
    }
    if (r->next) {
        r->next->prev = r->prev;
    } else {
        c->tail = r->prev;
    }
    unhold(r);
    if (r->flows != r->inline_flows) {
        free(r->flows);
    }
    free(r->scratch);
    if (r->gpu) {
        rdi_gpu_release(r);
    }
    bool detached = r->detached;
    struct rdi_engine *g = c->engine;
    r->status = s;
    r->finished = rdi_now(&g->env);
    rdi_record_end(r);
    rdi_count(&c->operations, 1);
    atomic_fetch_sub(&g->active, 1);
    // After this store the request belongs to whoever waits for it.
    atomic_store_explicit(&r->complete, 1, memory_order_release);
    atomic_fetch_add(&g->completions, 1);
    if (detached) {
        rdi_request_free(r);
    }
}
