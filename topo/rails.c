// SPDX-License-Identifier: MIT
// Which NICs each rank of a host uses, and whether they read and write its GPU's memory themselves.
#include "topo/decide.h"
#include "topo/internal.h"

#include <stdio.h>

// Below this part of the fastest NIC's speed, a NIC is there to manage the host.
#define SLOW_PART 4

// What NCCL does by default (ncclTopoCheckGdr() in its src/graph/paths.cc; NCCL_NET_GDR_LEVEL changes it): through
// switches alone a NIC reaches a GPU at full speed, while many processors' host bridges forward between devices at a part
// of it, some not at all. Its exception, Grace, has GPUs that are not behind PCI, which PCI bridges do not show.
#define GPUDIRECT_UP_TO RONDO_TOPO_PXB

rondo_topo_distance rdi_decide_to_nic(const rondo_topo *topo, const struct rdi_decided_rank *r,
                                      int nic) {
    return r->gpu >= 0 ? rondo_topo_between(topo, r->gpu, nic)
                       : rondo_topo_to_numa(topo, nic, r->numa);
}

// ---- Which NICs are fit --------------------------------------------------------------------------

static const rondo_topo_device_info *info_of(const struct rdi_decided_host *h,
                                             const struct rdi_decided_nic *n) {
    return rondo_topo_device(h->topo, n->nic);
}

static void leave_out_slow(struct rdi_decision *d, struct rdi_decided_host *h) {
    double fastest = 0;
    for (int i = 0; i < h->nnics; i++) {
        double speed = info_of(h, &h->nics[i])->link_gbps;
        fastest = speed > fastest ? speed : fastest;
    }
    for (int i = 0; i < h->nnics; i++) {
        struct rdi_decided_nic *n = &h->nics[i];
        double speed = info_of(h, n)->link_gbps;
        if (fastest > 0 && speed <= 0) {
            n->fit = false;
            n->why = "no link, while others have one";
        } else if (speed * SLOW_PART < fastest) {
            n->fit = false;
            n->why = rdi_decide_say(d, "%g Gbit/s, less than a quarter of the fastest (%g)", speed,
                                    fastest);
        }
    }
}

// Rails carry equal parts, so the slowest kind of them sets the pace of all.
static void leave_out_without_rdma(struct rdi_decided_host *h) {
    bool some = false;
    for (int i = 0; i < h->nnics; i++) {
        some = some || (h->nics[i].fit && info_of(h, &h->nics[i])->rdma[0]);
    }
    for (int i = 0; some && i < h->nnics; i++) {
        struct rdi_decided_nic *n = &h->nics[i];
        if (n->fit && !info_of(h, n)->rdma[0]) {
            n->fit = false;
            n->why = "no RDMA device, while others have one";
        }
    }
}

static void list_nics(struct rdi_decision *d, struct rdi_decided_host *h) {
    int gpus = rdi_decide_gpus(h->topo);
    h->nnics = h->topo->machine.devices - gpus;
    h->nics = rdi_decide_alloc(d, (size_t)h->nnics, sizeof *h->nics);
    for (int i = 0; h->nics && i < h->nnics; i++) {
        h->nics[i] = (struct rdi_decided_nic){.nic = gpus + i, .fit = true, .rail = -1, .why = ""};
    }
}

// ---- Which rank uses which -----------------------------------------------------------------------

// What one rank sees while the NICs of its host are given out.
struct seat {
    rondo_topo_distance nearest;
    int ties; // NICs that near
    int own;  // the one that it has anyway, an index of nics; -1 = the host has none
    int more; // that it gets besides
};

static bool is_tie(const struct rdi_decided_host *h, const struct rdi_decided_rank *r,
                   const struct seat *s, int nic) {
    return h->nics[nic].fit && rdi_decide_to_nic(h->topo, r, h->nics[nic].nic) == s->nearest;
}

static struct seat look(const struct rdi_decided_host *h, const struct rdi_decided_rank *r) {
    struct seat s = {.nearest = RONDO_TOPO_SYS, .own = -1};
    for (int i = 0; i < h->nnics; i++) {
        rondo_topo_distance to = rdi_decide_to_nic(h->topo, r, h->nics[i].nic);
        if (h->nics[i].fit && to <= s.nearest) {
            s.ties = to < s.nearest ? 1 : s.ties + 1;
            s.nearest = to;
        }
    }
    return s;
}

// The least used of those that are as near as any.
static int least_used(const struct rdi_decided_host *h, const struct rdi_decided_rank *r,
                      const struct seat *s) {
    int best = -1;
    for (int i = 0; i < h->nnics; i++) {
        if (is_tie(h, r, s, i) && (best < 0 || h->nics[i].ranks < h->nics[best].ranks)) {
            best = i;
        }
    }
    return best;
}

// In the order of ranks first; later ones may have had less to choose from, so whoever can go where two less are does.
// Each such move makes the loads more even, hence it ends.
static void give_one_each(struct rdi_decision *d, struct rdi_decided_host *h, struct seat *seats) {
    for (int i = 0; i < h->nranks; i++) {
        struct rdi_decided_rank *r = rdi_decide_rank(d, h, i);
        seats[i] = look(h, r);
        seats[i].own = least_used(h, r, &seats[i]);
        if (seats[i].own >= 0) {
            h->nics[seats[i].own].ranks++;
        }
    }
    for (bool moved = true; moved;) {
        moved = false;
        for (int i = 0; i < h->nranks; i++) {
            struct seat *s = &seats[i];
            int to = s->own < 0 ? -1 : least_used(h, rdi_decide_rank(d, h, i), s);
            if (to >= 0 && h->nics[to].ranks + 1 < h->nics[s->own].ranks) {
                h->nics[s->own].ranks--;
                h->nics[to].ranks++;
                s->own = to;
                moved = true;
            }
        }
    }
}

// A NIC that is nobody's goes to the rank with the fewest of those that have none nearer. `extra` gets the local rank,
// or -1: to all ranks it is farther than what they have, and would only make them wait.
static void give_the_rest(struct rdi_decision *d, struct rdi_decided_host *h, struct seat *seats,
                          int *extra) {
    for (int n = 0; n < h->nnics; n++) {
        extra[n] = -1;
        for (int i = 0; h->nics[n].fit && h->nics[n].ranks == 0 && i < h->nranks; i++) {
            if (is_tie(h, rdi_decide_rank(d, h, i), &seats[i], n) &&
                (extra[n] < 0 || seats[i].more < seats[extra[n]].more)) {
                extra[n] = i;
            }
        }
        if (extra[n] >= 0) {
            seats[extra[n]].more++;
            h->nics[n].ranks = 1;
        } else if (h->nics[n].fit && h->nics[n].ranks == 0) {
            h->nics[n].why = "idle: each rank has a nearer one";
        }
    }
}

// ---- What is said of it --------------------------------------------------------------------------

static void gpudirect(struct rdi_decision *d, const struct rdi_decided_host *h,
                      const struct rdi_decided_rank *r, struct rdi_decided_rail *rail) {
    const char *name = rondo_topo_distance_name(rail->distance);
    if (r->gpu < 0) {
        rail->gpudirect_why = "the rank has no GPU";
    } else if (!rondo_topo_device(h->topo, rail->nic)->rdma[0]) {
        rail->gpudirect_why = "the NIC has no RDMA device";
    } else if (rail->distance <= GPUDIRECT_UP_TO) {
        rail->gpudirect = true;
        rail->gpudirect_why = rdi_decide_say(d, "%s, through switches alone", name);
    } else {
        rail->gpudirect_why =
            rdi_decide_say(d, "%s is beyond PXB: through the processor, or unknown", name);
    }
}

static const char *rail_why(struct rdi_decision *d, const struct rdi_decided_host *h,
                            const struct seat *s, const struct rdi_decided_nic *n) {
    const char *name = rondo_topo_distance_name(s->nearest);
    char choice[64], share[64];
    int fit = 0;
    for (int i = 0; i < h->nnics; i++) {
        fit += h->nics[i].fit;
    }
    if (s->ties > 1) {
        snprintf(choice, sizeof choice, "one of %d that near", s->ties);
    } else if (fit > 1) {
        snprintf(choice, sizeof choice, "nearest of %d", fit);
    } else {
        snprintf(choice, sizeof choice, "the only one");
    }
    if (n->ranks == 1) {
        snprintf(share, sizeof share, "shared with no other rank");
    } else {
        snprintf(share, sizeof share, "shared with %d other rank%s", n->ranks - 1,
                 n->ranks == 2 ? "" : "s");
    }
    return rdi_decide_say(d, "%s, %s; %s", name, choice, share);
}

static void write_down(struct rdi_decision *d, struct rdi_decided_host *h, const struct seat *seats,
                       const int *extra, int i) {
    struct rdi_decided_rank *r = rdi_decide_rank(d, h, i);
    const struct seat *s = &seats[i];
    r->rails = rdi_decide_alloc(d, (size_t)s->more + 1, sizeof *r->rails);
    for (int n = -1; r->rails && s->own >= 0 && n < h->nnics; n++) {
        int at = n < 0 ? s->own : n; // its own first
        if (n >= 0 && extra[n] != i) {
            continue;
        }
        struct rdi_decided_rail *rail = &r->rails[r->nrails++];
        *rail =
            (struct rdi_decided_rail){.nic = h->nics[at].nic, .distance = s->nearest, .rail = -1};
        rail->why = rail_why(d, h, s, &h->nics[at]);
        gpudirect(d, h, r, rail);
    }
}

void rdi_decide_nics(struct rdi_decision *d, struct rdi_decided_host *h) {
    list_nics(d, h);
    if (!h->nics) {
        return;
    }
    leave_out_slow(d, h);
    leave_out_without_rdma(h);
    struct seat *seats = rdi_decide_alloc(d, (size_t)h->nranks, sizeof *seats);
    int *extra = rdi_decide_alloc(d, (size_t)h->nnics, sizeof *extra);
    if (!seats || !extra) {
        return;
    }
    give_one_each(d, h, seats);
    give_the_rest(d, h, seats, extra);
    for (int i = 0; i < h->nranks; i++) {
        write_down(d, h, seats, extra, i);
    }
}
