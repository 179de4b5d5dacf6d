// SPDX-License-Identifier: MIT
// Where each rank of a host is: its GPU, the NUMA node of its memory, the processor of its progress thread.
#include "topo/decide.h"
#include "topo/internal.h"

#include <stdlib.h>

static const char *name_of(const rondo_topo *t, int device) {
    return rondo_topo_device(t, device)->name;
}

static int node_number(const rondo_topo *t, int numa) { return t->numas[numa].info.os_index; }

// ---- GPUs ----------------------------------------------------------------------------------------

static void place_gpu(struct rdi_decision *d, const rondo_topo *t, struct rdi_decided_rank *r,
                      const struct rdi_decide_place *given) {
    int gpus = rdi_decide_gpus(t), wish = given ? given->gpu : RDI_DECIDE_ANY;
    r->gpu = wish >= 0 ? wish : wish == RDI_DECIDE_NONE || gpus == 0 ? -1 : r->local % gpus;
    if (wish >= 0) {
        r->gpu_why = "as given";
    } else if (r->gpu < 0) {
        r->gpu_why = gpus == 0 ? "the host has none" : "as given";
    } else {
        r->gpu_why = r->local < gpus
                         ? "it has the number of the local rank"
                         : rdi_decide_say(d, "shared: the host has %d for its ranks", gpus);
    }
}

// ---- Memory --------------------------------------------------------------------------------------

// The node with most of the processors that the rank is bound to; -1 = it is not bound.
static int node_of_binding(const rondo_topo *t, const struct rdi_set *bound, unsigned *there) {
    int best = -1;
    *there = 0;
    for (int k = 0; bound && k < t->machine.numas; k++) {
        struct rdi_set both = t->numas[k].cpus;
        rdi_set_keep(&both, bound);
        rdi_set_keep(&both, &t->allowed);
        unsigned n = rdi_decide_node_fits(t, k) ? rdi_set_count(&both) : 0;
        if (n > *there) {
            best = k;
            *there = n;
        }
    }
    return best;
}

// The next of ranks without a place: where most processors are left for each rank, so that in the end all nodes have
// as many ranks for their processors as they can.
static int emptiest(const rondo_topo *t, const int *ranks) {
    int best = -1;
    for (int k = 0; k < t->machine.numas; k++) {
        if (!rdi_decide_node_fits(t, k)) {
            continue;
        }
        int64_t mine = t->numas[k].info.pus, other = best < 0 ? 0 : t->numas[best].info.pus;
        if (best < 0 || mine * (ranks[best] + 1) > other * (ranks[k] + 1)) {
            best = k;
        }
    }
    return best;
}

// False: neither its GPU nor its processors say where its memory is.
static bool place_memory(struct rdi_decision *d, const rondo_topo *t, struct rdi_decided_rank *r,
                         const struct rdi_decide_place *given) {
    int at = r->gpu >= 0 ? rondo_topo_device(t, r->gpu)->numa : -1;
    unsigned there;
    if (at >= 0 && t->numas[at].info.allowed) {
        r->numa = at;
        r->numa_why = rdi_decide_say(d, "%s is at it", name_of(t, r->gpu));
        return true;
    }
    r->numa = node_of_binding(t, given ? given->cpus : NULL, &there);
    if (r->numa >= 0) {
        r->numa_why =
            rdi_decide_say(d, "%u processors that the rank is bound to belong to it", there);
    }
    return r->numa >= 0;
}

static const char *spread_why(struct rdi_decision *d, const rondo_topo *t,
                              const struct rdi_decided_rank *r) {
    if (r->gpu < 0) {
        return "ranks are spread by allowed processors";
    }
    return rondo_topo_device(t, r->gpu)->numa < 0
               ? rdi_decide_say(d, "it is not known which one %s is at; spread", name_of(t, r->gpu))
               : rdi_decide_say(d, "the one that %s is at may not be used; spread",
                                name_of(t, r->gpu));
}

static int first_allowed(const rondo_topo *t) {
    for (int k = 0; k < t->machine.numas; k++) {
        if (t->numas[k].info.allowed) {
            return k;
        }
    }
    return 0;
}

// Neighbours in number stay together: first it is counted how many go to each node, then they are filled in order.
static void spread(struct rdi_decision *d, struct rdi_decided_host *h, int homeless) {
    const rondo_topo *t = h->topo;
    int *ranks = rdi_decide_alloc(d, (size_t)t->machine.numas, sizeof *ranks);
    for (int i = 0, k; ranks && i < homeless && (k = emptiest(t, ranks)) >= 0; i++) {
        ranks[k]++;
    }
    for (int i = 0, k = 0; ranks && i < h->nranks; i++) {
        struct rdi_decided_rank *r = rdi_decide_rank(d, h, i);
        if (r->numa >= 0) {
            continue;
        }
        while (k < t->machine.numas && ranks[k] == 0) {
            k++;
        }
        if (k < t->machine.numas) {
            ranks[k]--;
            r->numa = k;
            r->numa_why = spread_why(d, t, r);
        } else {
            r->numa = first_allowed(t);
            r->numa_why = "no node has both memory and processors that may be used";
        }
    }
}

// ---- Progress threads ----------------------------------------------------------------------------

// The processors near each rank's memory that it may use; to be freed.
static struct rdi_set *near(struct rdi_decision *d, struct rdi_decided_host *h,
                            const struct rdi_decide_place *places) {
    struct rdi_set *s = calloc((size_t)h->nranks, sizeof *s);
    d->nomem = d->nomem || !s;
    for (int i = 0; s && i < h->nranks; i++) {
        s[i] = h->topo->numas[rdi_decide_rank(d, h, i)->numa].cpus;
        rdi_set_keep(&s[i], &h->topo->allowed);
        if (places && places[i].cpus) {
            rdi_set_keep(&s[i], places[i].cpus);
        }
    }
    return s;
}

// The last one that no other thread has: the first ones are where a program's own threads start.
static int last_free(const struct rdi_set *s, const struct rdi_set *taken) {
    for (unsigned bit = RDI_SET_BITS; bit-- > 0;) {
        if (rdi_set_has(s, bit) && !rdi_set_has(taken, bit)) {
            return (int)bit;
        }
    }
    return -1;
}

// Each rank has a thread of its own beside the progress thread: with less than two processors for a rank, threads that
// are bound would wait for each other, and the scheduler knows better.
static void place_thread(struct rdi_decision *d, struct rdi_decided_host *h,
                         const struct rdi_set *pools, int i, struct rdi_set *taken) {
    struct rdi_decided_rank *r = rdi_decide_rank(d, h, i);
    unsigned n = rdi_set_count(&pools[i]), sharers = 0;
    for (int k = 0; k < h->nranks; k++) {
        sharers += rdi_set_meet(&pools[i], &pools[k]);
    }
    int node = node_number(h->topo, r->numa);
    r->cpu = n >= 2 * sharers && n > 0 ? last_free(&pools[i], taken) : -1;
    if (r->cpu >= 0) {
        taken->word[r->cpu / 32] |= 1U << (r->cpu % 32);
        r->cpu_why = rdi_decide_say(d, "at NUMA node %d, and no other rank's", node);
    } else if (n == 0) {
        r->cpu_why = rdi_decide_say(d, "the rank may use no processor of NUMA node %d", node);
    } else {
        r->cpu_why =
            rdi_decide_say(d, "%u processor%s of NUMA node %d for %u rank%s: less than 2 each", n,
                           n == 1 ? "" : "s", node, sharers, sharers == 1 ? "" : "s");
    }
}

// ---- All -----------------------------------------------------------------------------------------

void rdi_decide_places(struct rdi_decision *d, struct rdi_decided_host *h,
                       const struct rdi_decide_place *places) {
    int homeless = 0;
    for (int i = 0; i < h->nranks; i++) {
        struct rdi_decided_rank *r = rdi_decide_rank(d, h, i);
        const struct rdi_decide_place *given = places ? &places[i] : NULL;
        place_gpu(d, h->topo, r, given);
        homeless += !place_memory(d, h->topo, r, given);
    }
    spread(d, h, homeless);
    if (d->nomem) {
        return;
    }
    struct rdi_set *pools = near(d, h, places);
    struct rdi_set taken = {{0}};
    for (int i = 0; pools && i < h->nranks; i++) {
        place_thread(d, h, pools, i, &taken);
    }
    free(pools);
}
