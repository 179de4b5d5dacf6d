// SPDX-License-Identifier: MIT
// The order of the rings: hosts after each other, each host's ranks in a chain, one ring for each rail.
//
//   rail 0      host a: NIC0 -> rank 0 1 2 3 -> NIC0 ---> host b: NIC0 -> rank 4 5 6 7 -> NIC0 ---> back
//   rail 1      host a: NIC1 -> rank 2 3 0 1 -> NIC1 ---> host b: NIC1 -> rank 6 7 4 5 -> NIC1 ---> back
//
// A rail has the same number at both ends: where NICs of that number are at one switch, no stream leaves it.
#include "topo/decide.h"
#include "topo/internal.h"

#include <stdlib.h>

// ---- Chains --------------------------------------------------------------------------------------

// Between ranks of a host: by their GPUs; among those as near, and without GPUs, the same NUMA node is nearer.
static int apart(const rondo_topo *t, const struct rdi_decided_rank *a,
                 const struct rdi_decided_rank *b) {
    bool gpus = a->gpu >= 0 && b->gpu >= 0;
    int far = gpus ? (int)rondo_topo_between(t, a->gpu, b->gpu) : RONDO_TOPO_SYS;
    return 2 * far + (a->numa != b->numa);
}

// Begins with the first rank; each time the nearest that is left is next, of those the one with the lowest number.
static void chain(struct rdi_decision *d, struct rdi_decided_host *h) {
    int n = h->nranks;
    h->chain = rdi_decide_alloc(d, (size_t)n, sizeof *h->chain);
    bool *done = calloc((size_t)n, sizeof *done);
    d->nomem = d->nomem || !done;
    for (int at = 0, next = 0; !d->nomem && at < n; at++) {
        const struct rdi_decided_rank *last = rdi_decide_rank(d, h, next);
        h->chain[at] = h->ranks[next];
        done[next] = true;
        next = -1;
        for (int i = 0, nearest = 0; i < n; i++) {
            int far = apart(h->topo, last, rdi_decide_rank(d, h, i));
            if (!done[i] && (next < 0 || far < nearest)) {
                next = i;
                nearest = far;
            }
        }
    }
    free(done);
}

// ---- Rails ---------------------------------------------------------------------------------------

static int used_nics(const struct rdi_decided_host *h) {
    int n = 0;
    for (int i = 0; i < h->nnics; i++) {
        n += h->nics[i].ranks > 0;
    }
    return n;
}

// As many as the host with the fewest has.
static void count_rails(struct rdi_decision *d) {
    int fewest = 0;
    for (int i = 1; i < d->nhosts; i++) {
        fewest = used_nics(&d->hosts[i]) < used_nics(&d->hosts[fewest]) ? i : fewest;
    }
    int n = used_nics(&d->hosts[fewest]);
    if (d->nhosts == 1) {
        d->rails_why = "nothing crosses the network";
    } else if (n == 0) {
        d->nrails = 1;
        d->rails_why = rdi_decide_say(d, "%s has no NIC that is seen: the system finds the way",
                                      d->hosts[fewest].name);
    } else {
        d->nrails = n;
        d->rails_why = rdi_decide_say(d, "NICs that ranks use on %s, and on no host less",
                                      d->hosts[fewest].name);
    }
    d->nrings = d->nrails > 0 ? d->nrails : 1;
}

// A host with more NICs than there are rails spreads those it uses over all of its own.
static void align(struct rdi_decision *d, struct rdi_decided_host *h) {
    int used = used_nics(h), at = 0, rail = 0;
    for (int i = 0; i < h->nnics; i++) {
        struct rdi_decided_nic *n = &h->nics[i];
        if (n->ranks == 0) {
            continue;
        }
        if (rail < d->nrails && at == rail * used / d->nrails) {
            n->rail = rail++;
            n->why = "used";
        } else {
            n->why = d->nrails == 0 ? "used, by what leaves the job"
                                    : "used, but no ring: another host has fewer";
        }
        at++;
    }
    for (int i = 0; i < h->nranks; i++) {
        struct rdi_decided_rank *r = rdi_decide_rank(d, h, i);
        for (int k = 0; k < r->nrails; k++) {
            r->rails[k].rail = h->nics[r->rails[k].nic - h->nics[0].nic].rail;
        }
    }
}

// ---- Rings ---------------------------------------------------------------------------------------

static bool uses(const struct rdi_decided_rank *r, int nic) {
    for (int i = 0; i < r->nrails; i++) {
        if (r->rails[i].nic == nic) {
            return true;
        }
    }
    return false;
}

static int nic_of_rail(const struct rdi_decided_host *h, int rail) {
    for (int i = 0; i < h->nnics; i++) {
        if (h->nics[i].rail == rail) {
            return h->nics[i].nic;
        }
    }
    return -1;
}

static int to_nic(const struct rdi_decision *d, const struct rdi_decided_host *h, int rank,
                  int nic) {
    return nic < 0 ? 0 : (int)rdi_decide_to_nic(h->topo, &d->ranks[rank], nic);
}

// Position in the chain of the nearest of the ranks that use the NIC, and of those the first.
static int gate(const struct rdi_decision *d, const struct rdi_decided_host *h, int nic) {
    int best = -1, nearest = 0;
    for (int i = 0; nic >= 0 && i < h->nranks; i++) {
        int to = to_nic(d, h, h->chain[i], nic);
        if (uses(&d->ranks[h->chain[i]], nic) && (best < 0 || to < nearest)) {
            best = i;
            nearest = to;
        }
    }
    return best < 0 ? 0 : best;
}

// From the gate around the chain, in the direction that ends nearer to the NIC.
static void pass_host(struct rdi_decision *d, int host, int rail, int *order,
                      struct rdi_decided_leg *leg) {
    const struct rdi_decided_host *h = &d->hosts[host];
    int n = h->nranks, nic = nic_of_rail(h, rail), first = gate(d, h, nic);
    int ahead = h->chain[(first + n - 1) % n], back = h->chain[(first + 1) % n];
    bool reverse = to_nic(d, h, back, nic) < to_nic(d, h, ahead, nic);
    for (int i = 0; i < n; i++) {
        order[i] = h->chain[reverse ? (first + n - i) % n : (first + i) % n];
    }
    leg->nic = nic;
    leg->enter = order[0];
    leg->leave = order[n - 1];
    if (nic < 0) {
        leg->why = d->nrails ? "the system finds the way" : "through memory";
        return;
    }
    leg->why = rdi_decide_say(
        d, "in at %s, out at %s",
        rondo_topo_distance_name(rdi_decide_to_nic(h->topo, &d->ranks[leg->enter], nic)),
        rondo_topo_distance_name(rdi_decide_to_nic(h->topo, &d->ranks[leg->leave], nic)));
}

static void choose_plan(struct rdi_decision *d) {
    if (d->nhosts == 1) {
        d->plan = RDI_DECIDED_MEMORY;
        d->plan_why = "all ranks share a host";
    } else if (d->nhosts == d->nranks) {
        d->plan = RDI_DECIDED_FLAT;
        d->plan_why = "one rank on each host";
    } else {
        d->plan = RDI_DECIDED_NODE_FIRST;
        d->plan_why = "ranks that share a host reduce through memory; one stream for each rail "
                      "crosses the network";
    }
}

void rdi_decide_rings(struct rdi_decision *d) {
    choose_plan(d);
    count_rails(d);
    for (int i = 0; i < d->nhosts; i++) {
        chain(d, &d->hosts[i]);
        align(d, &d->hosts[i]);
    }
    d->rings = rdi_decide_alloc(d, (size_t)d->nrings, sizeof *d->rings);
    for (int r = 0; !d->nomem && r < d->nrings; r++) {
        struct rdi_decided_ring *ring = &d->rings[r];
        ring->order = rdi_decide_alloc(d, (size_t)d->nranks, sizeof *ring->order);
        ring->legs = rdi_decide_alloc(d, (size_t)d->nhosts, sizeof *ring->legs);
        for (int i = 0, at = 0; !d->nomem && i < d->nhosts; at += d->hosts[i++].nranks) {
            pass_host(d, i, r, ring->order + at, &ring->legs[i]);
        }
    }
}
