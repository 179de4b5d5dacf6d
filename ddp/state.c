// SPDX-License-Identifier: MIT
// What ranks tell each other before they train together, and how a rank that comes later gets what the others have.
//
//   all       hello: options, counters, whether this rank has a state        --> everybody can compare
//   nobody has one    the parameters of the first rank go to all             (the job begins)
//   some have         the lowest of them sends to each that has none:  order of buckets, parameters, states
//
// A newcomer's memory alone is written to: the others keep what they have.
#include "ddp/internal.h"

#include <stdlib.h>
#include <string.h>

struct hello {
    uint64_t fresh, origin, rebuilt, steps, learned, cap; // of this rank
    uint64_t elastic, average, rebuild, first_bytes, cap_bytes, nstates, state_bytes, find_unused,
        static_graph, shard, hook, buffers, sparse;
};
#define OPTIONS_AT offsetof(struct hello, elastic) // from here on the same on all ranks

static void fill(const struct rondo_ddp *d, struct hello *h) {
    *h = (struct hello){.fresh = d->fresh,
                        .origin = d->origin,
                        .rebuilt = d->rebuilt,
                        .steps = d->stats.steps,
                        .elastic = d->elastic,
                        .average = d->average,
                        .rebuild = d->rebuild,
                        .first_bytes = d->first_bytes,
                        .cap_bytes = d->asked_bytes,
                        .nstates = d->nstates,
                        .learned = d->learned,
                        .cap = d->cap_bytes,
                        .find_unused = d->find_unused,
                        .static_graph = d->static_graph,
                        .shard = d->shard,
                        .hook = d->hook.round ? rdi_ddp_hash(d->hook.name) : 0};
    for (size_t i = 0; i < d->nbuffers; i++) {
        h->buffers = rdi_mix(h->buffers, rdi_mix(d->buffers[i].count, d->buffers[i].type));
    }
    for (size_t i = 0; i < d->nsparse; i++) {
        h->sparse = rdi_mix(h->sparse, d->sparse[i].param + 1);
    }
    for (size_t i = 0; i < d->nstates; i++) {
        h->state_bytes = rdi_mix(h->state_bytes, d->states[i].bytes);
    }
}

static rondo_status compare(struct rondo_ddp *d, const struct hello *all, int n) {
    static const char *const names[] = {"elastic",
                                        "average",
                                        "rebuild",
                                        "first_bucket_bytes",
                                        "bucket_bytes",
                                        "nstates",
                                        "sizes of states",
                                        "find_unused",
                                        "static_graph",
                                        "shard",
                                        "hook",
                                        "number, sizes and types of buffers",
                                        "sparse"};
    const size_t words = (sizeof *all - OPTIONS_AT) / 8;
    _Static_assert(sizeof names / sizeof names[0] == (sizeof *all - OPTIONS_AT) / 8,
                   "a name for each option");
    for (size_t w = 0; w < words; w++) {
        for (int r = 1; r < n; r++) {
            uint64_t a, b;
            memcpy(&a, (const char *)&all[0] + OPTIONS_AT + 8 * w, 8);
            memcpy(&b, (const char *)&all[r] + OPTIONS_AT + 8 * w, 8);
            if (a != b) {
                d->hopeless = true;
                d->elastic = d->elastic && w > 0; // without it the others do not vote
                return rdi_fail(RONDO_ERR_MISMATCH,
                                "the options of rondo_ddp_create() differ: %s of ranks 0 and %d; "
                                "give all ranks the same",
                                names[w], r);
            }
        }
    }
    return RONDO_OK;
}

// ---- One rank's state to another -----------------------------------------------------------------

struct parcel {
    struct rondo_ddp *d;
    rondo_request **reqs;
    size_t n;
    int peer;
    bool out;
};

static rondo_status put(struct parcel *p, void *data, size_t count, rondo_type type) {
    if (count == 0) {
        return RONDO_OK;
    }
    rondo_request **req = &p->reqs[p->n];
    rondo_status s = p->out ? rondo_send_start(data, count, type, p->peer, p->d->comm, req)
                            : rondo_recv_start(data, count, type, p->peer, p->d->comm, req);
    p->n += s == RONDO_OK;
    return s;
}

static rondo_status put_all(struct parcel *p, uint64_t *order) {
    struct rondo_ddp *d = p->d;
    rondo_status s = put(p, order, 2 * d->nparams, RONDO_U64);
    for (size_t i = 0; i < d->nparams && s == RONDO_OK; i++) {
        s = put(p, d->params[i].data, d->params[i].count, d->params[i].type);
    }
    for (size_t i = 0; i < d->nbuffers && s == RONDO_OK; i++) {
        s = put(p, d->buffers[i].data, d->buffers[i].count, d->buffers[i].type);
    }
    for (size_t i = 0; i < d->nstates && s == RONDO_OK; i++) {
        s = put(p, d->states[i].data, d->states[i].bytes, RONDO_U8);
    }
    return s;
}

static rondo_status exchange(struct rondo_ddp *d, const struct hello *all, int root,
                             uint64_t *order) {
    int n = rondo_comm_size(d->comm), me = rondo_comm_rank(d->comm);
    size_t each = 1 + d->nparams + d->nbuffers + d->nstates;
    struct parcel p = {.d = d, .out = me == root, .peer = root};
    size_t peers = p.out ? (size_t)n : 1;
    rondo_status s = RONDO_OK;
    p.reqs = calloc(peers * each, sizeof(rondo_request *));
    if (!p.reqs) {
        return rdi_fail(RONDO_ERR_NOMEM, "out of memory for %zu requests", peers * each);
    }
    for (int r = 0; r < n && s == RONDO_OK; r++) {
        if (p.out ? all[r].fresh : r == me) {
            p.peer = p.out ? r : root;
            s = put_all(&p, order);
        }
    }
    rondo_status w = rondo_wait_all(p.reqs, p.n);
    free(p.reqs);
    return s == RONDO_OK ? w : s;
}

// This rank takes over what it was sent.
static rondo_status adopt(struct rondo_ddp *d, const struct hello *from, const uint64_t *order) {
    size_t *list = malloc((d->nparams + 1) * sizeof *list);
    rondo_status s = RONDO_OK;
    if (!list) {
        s = rdi_fail(RONDO_ERR_NOMEM, "out of memory for the order of %zu parameters", d->nparams);
    } else if (!rdi_bucket_order(order, d->nparams, list)) {
        s = rdi_fail(RONDO_ERR_INTERNAL, "the order of parameters that a peer sent is none");
    } else {
        d->cap_bytes = (size_t)from->cap;
        d->learned = from->learned != 0;
        for (size_t i = 0; i < d->nparams; i++) {
            d->params[i].expected = (uint32_t)order[d->nparams + i];
            d->used_map[i] = !d->learned || d->params[i].expected > 0;
        }
        d->tune.on = false;
        s = rdi_ddp_relayout(d, list);
        rdi_ddp_reset_step(d);
    }
    free(list);
    if (s == RONDO_OK) {
        d->rebuilt = from->rebuilt != 0;
        d->stats.steps = from->steps;
        d->joined = true;
    }
    return s;
}

static rondo_status hand_over(struct rondo_ddp *d, const struct hello *all, int root) {
    // Besides the order, how often a static graph marks each parameter.
    uint64_t *order = malloc((2 * d->nparams + 1) * sizeof *order);
    if (!order) {
        return rdi_fail(RONDO_ERR_NOMEM, "out of memory for the order of %zu parameters",
                        d->nparams);
    }
    for (size_t i = 0; i < d->nparams; i++) {
        order[i] = d->layout[i];
        order[d->nparams + i] = d->params[i].expected;
    }
    rondo_status s = RONDO_OK;
    if (d->fresh || rondo_comm_rank(d->comm) == root) {
        s = exchange(d, all, root, order);
    }
    if (s == RONDO_OK && d->fresh) {
        s = adopt(d, &all[root], order);
    }
    free(order);
    return s;
}

rondo_status rdi_ddp_hand_over(struct rondo_ddp *d) {
    int n = rondo_comm_size(d->comm), holder = -1, origin = -1, fresh = 0;
    struct hello mine, *all = malloc((size_t)n * sizeof *all);
    if (!all) {
        return rdi_fail(RONDO_ERR_NOMEM, "out of memory for the options of %d ranks", n);
    }
    fill(d, &mine);
    rondo_status s = rondo_all_gather(&mine, all, sizeof mine / 8, RONDO_U64, d->comm);
    s = s == RONDO_OK ? compare(d, all, n) : s;
    for (int r = n - 1; r >= 0 && s == RONDO_OK; r--) {
        holder = all[r].fresh ? holder : r;
        origin = all[r].origin ? r : origin;
        fresh += all[r].fresh != 0;
    }
    if (s != RONDO_OK || fresh == 0) {
        // Nothing to hand over.
    } else if (holder >= 0) {
        s = hand_over(d, all, holder);
    } else if (origin >= 0) {
        s = rdi_ddp_broadcast(d, origin);
        s = s == RONDO_OK ? rdi_ddp_broadcast_buffers(d, origin) : s;
    } else {
        d->hopeless = true;
        s = rdi_fail(RONDO_ERR_PEER,
                     "the rank whose parameters the training was to begin with was lost before all "
                     "had them: start the job again");
    }
    free(all);
    return s;
}
