// SPDX-License-Identifier: MIT
// Decisions: what is given is looked over, and each part is asked in turn.
#include "topo/decide.h"

#include "topo/internal.h"

#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

// ---- Memory --------------------------------------------------------------------------------------

struct rdi_decide_block {
    struct rdi_decide_block *next;
    max_align_t data[];
};

void *rdi_decide_alloc(struct rdi_decision *d, size_t n, size_t size) {
    struct rdi_decide_block *b =
        n > (SIZE_MAX - sizeof *b) / size ? NULL : calloc(1, sizeof *b + (n ? n * size : 1));
    if (!b) {
        d->nomem = true;
        return NULL;
    }
    b->next = d->blocks;
    d->blocks = b;
    return b->data;
}

const char *rdi_decide_say(struct rdi_decision *d, const char *fmt, ...) {
    va_list ap, again;
    va_start(ap, fmt);
    va_copy(again, ap);
    int n = vsnprintf(NULL, 0, fmt, ap);
    char *out = rdi_decide_alloc(d, n < 0 ? 1 : (size_t)n + 1, 1);
    if (out && n >= 0) {
        vsnprintf(out, (size_t)n + 1, fmt, again);
    }
    va_end(again);
    va_end(ap);
    return out ? out : "";
}

void rdi_decision_free(struct rdi_decision *d) {
    for (struct rdi_decide_block *b = d ? d->blocks : NULL, *next; b; b = next) {
        next = b->next;
        free(b);
    }
    free(d);
}

// ---- Small questions -----------------------------------------------------------------------------

int rdi_decide_gpus(const rondo_topo *topo) {
    int n = 0, all = rondo_topo_machine(topo)->devices;
    while (n < all && rondo_topo_device(topo, n)->kind == RONDO_TOPO_GPU) {
        n++; // they are the first
    }
    return n;
}

int rdi_decide_gpu_at(const rondo_topo *topo, const char *pci) {
    int n = rdi_decide_gpus(topo);
    for (int i = 0; i < n; i++) {
        const char *at = rondo_topo_device(topo, i)->pci;
        if (at[0] && strcasecmp(at, pci) == 0) {
            return i;
        }
    }
    return -1;
}

// Memory without processors of its own shares those of another node: ordinary ranks are not sent there.
bool rdi_decide_node_fits(const rondo_topo *topo, int k) {
    const struct rdi_topo_numa *n = topo->numas;
    if (!n[k].info.allowed || n[k].info.pus == 0) {
        return false;
    }
    for (int i = 0; i < k; i++) {
        if (n[i].info.allowed && rdi_set_equal(&n[i].cpus, &n[k].cpus)) {
            return false;
        }
    }
    return true;
}

int rdi_decide_default_ranks(const rondo_topo *topo) {
    int gpus = rdi_decide_gpus(topo), n = gpus;
    for (int k = 0; gpus == 0 && k < topo->machine.numas; k++) {
        n += rdi_decide_node_fits(topo, k);
    }
    return n < 1 ? 1 : n > RDI_DECIDE_LOCAL ? RDI_DECIDE_LOCAL : n;
}

struct rdi_decided_rank *rdi_decide_rank(const struct rdi_decision *d,
                                         const struct rdi_decided_host *h, int i) {
    return &d->ranks[h->ranks[i]];
}

const char *rdi_decided_plan_name(enum rdi_decided_plan plan) {
    static const char *const names[] = {"memory only", "flat", "node first"};
    return names[plan];
}

// Rounded up. A product of all bytes with 2(H-1) could leave 64 bits.
uint64_t rdi_decision_host_bytes(const struct rdi_decision *d, uint64_t bytes) {
    uint64_t h = (uint64_t)d->nhosts, parts = 2 * (h - 1);
    return bytes / h * parts + (bytes % h * parts + h - 1) / h;
}

uint64_t rdi_decision_rail_bytes(const struct rdi_decision *d, uint64_t bytes) {
    uint64_t all = rdi_decision_host_bytes(d, bytes), n = (uint64_t)d->nrails;
    return n ? all / n + (all % n != 0) : 0;
}

// ---- What is given -------------------------------------------------------------------------------

static rondo_status check_host(const struct rdi_decide_host *h, bool placed) {
    if (!h->topo || h->ranks < 1 || h->ranks > RDI_DECIDE_LOCAL) {
        return rdi_fail(RONDO_ERR_INVALID, "%s: %d ranks on a host; allowed is 1 to %d", h->name,
                        h->ranks, RDI_DECIDE_LOCAL);
    }
    if ((h->places != NULL) != placed) {
        return rdi_fail(RONDO_ERR_INVALID,
                        "%s: where ranks are must be said of all hosts, or of none", h->name);
    }
    int gpus = rdi_decide_gpus(h->topo);
    for (int i = 0; placed && i < h->ranks; i++) {
        if (h->places[i].gpu < RDI_DECIDE_NONE || h->places[i].gpu >= gpus) {
            return rdi_fail(RONDO_ERR_INVALID, "%s: rank %d on GPU %d, and the host has %d",
                            h->name, h->places[i].rank, h->places[i].gpu, gpus);
        }
    }
    return RONDO_OK;
}

static rondo_status check(const struct rdi_decide_host *hosts, int n, int *ranks) {
    *ranks = 0;
    if (n < 1 || n > RDI_DECIDE_HOSTS) {
        return rdi_fail(RONDO_ERR_INVALID, "a decision for %d hosts; allowed is 1 to %d", n,
                        RDI_DECIDE_HOSTS);
    }
    for (int i = 0; i < n; i++) {
        rondo_status s = check_host(&hosts[i], hosts[0].places != NULL);
        if (s != RONDO_OK) {
            return s;
        }
        *ranks += hosts[i].ranks;
    }
    return *ranks <= RDI_DECIDE_RANKS
               ? RONDO_OK
               : rdi_fail(RONDO_ERR_INVALID, "a decision for %d ranks; allowed is %d", *ranks,
                          RDI_DECIDE_RANKS);
}

// Says which rank is where. `next` is the first number for ranks without one.
static rondo_status number(struct rdi_decision *d, int host, const struct rdi_decide_host *in,
                           int *next) {
    struct rdi_decided_host *h = &d->hosts[host];
    *h = (struct rdi_decided_host){
        .name = rdi_decide_say(d, "%s", in->name), .topo = in->topo, .nranks = in->ranks};
    h->ranks = rdi_decide_alloc(d, (size_t)in->ranks, sizeof *h->ranks);
    for (int i = 0; h->ranks && i < in->ranks; i++) {
        int rank = in->places ? in->places[i].rank : (*next)++;
        if (rank < 0 || rank >= d->nranks || d->ranks[rank].host >= 0) {
            return rdi_fail(RONDO_ERR_INVALID, "%s: rank %d is there twice, or not below %d",
                            in->name, rank, d->nranks);
        }
        h->ranks[i] = rank;
        d->ranks[rank].host = host;
        d->ranks[rank].local = i;
    }
    return RONDO_OK;
}

static rondo_status decide(struct rdi_decision *d, const struct rdi_decide_host *hosts) {
    d->hosts = rdi_decide_alloc(d, (size_t)d->nhosts, sizeof *d->hosts);
    d->ranks = rdi_decide_alloc(d, (size_t)d->nranks, sizeof *d->ranks);
    for (int i = 0; d->ranks && i < d->nranks; i++) {
        d->ranks[i].host = -1;
    }
    rondo_status s = RONDO_OK;
    for (int i = 0, next = 0; s == RONDO_OK && !d->nomem && i < d->nhosts; i++) {
        s = number(d, i, &hosts[i], &next);
    }
    for (int i = 0; s == RONDO_OK && !d->nomem && i < d->nhosts; i++) {
        rdi_decide_places(d, &d->hosts[i], hosts[i].places);
        if (!d->nomem) {
            rdi_decide_nics(d, &d->hosts[i]);
        }
    }
    if (s == RONDO_OK && !d->nomem) {
        rdi_decide_rings(d);
    }
    return s == RONDO_OK && d->nomem ? rdi_fail(RONDO_ERR_NOMEM, "out of memory to decide") : s;
}

rondo_status rdi_decide(const struct rdi_decide_host *hosts, int n, struct rdi_decision **out) {
    int ranks;
    *out = NULL;
    rondo_status s = check(hosts, n, &ranks);
    if (s != RONDO_OK) {
        return s;
    }
    struct rdi_decision *d = calloc(1, sizeof *d);
    if (!d) {
        return rdi_fail(RONDO_ERR_NOMEM, "out of memory to decide");
    }
    d->nhosts = n;
    d->nranks = ranks;
    s = decide(d, hosts);
    if (s != RONDO_OK) {
        rdi_decision_free(d);
        return s;
    }
    *out = d;
    return RONDO_OK;
}
