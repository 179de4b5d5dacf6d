// SPDX-License-Identifier: MIT
// From this host and this process to a decision, and from that to what transports, driver and layout want.
#include "ring/place.h"

#include "topo/cores.h"
#include "topo/internal.h"

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// ---- What this process may use -------------------------------------------------------------------

#define NVIDIA 0x10de

// GPUs of CUDA, in the order of PCI addresses. `same`: they are of one model.
static int find_gpus(const rondo_topo *topo, int gpus[RDI_DECIDE_LOCAL], bool *same) {
    int n = 0, all = rdi_decide_gpus(topo);
    *same = true;
    for (int i = 0; i < all && n < RDI_DECIDE_LOCAL; i++) {
        const rondo_topo_device_info *d = rondo_topo_device(topo, i);
        if (d->vendor_id == NVIDIA) {
            gpus[n++] = i;
            *same = *same && d->device_id == rondo_topo_device(topo, gpus[0])->device_id;
        }
    }
    return n;
}

int rdi_place_gpu(rdi_getenv get, int local_rank, const rondo_topo *topo) {
    int gpus[RDI_DECIDE_LOCAL], list[RDI_DECIDE_LOCAL], n = 0;
    bool same;
    int count = find_gpus(topo, gpus, &same);
    const char *visible = get("CUDA_VISIBLE_DEVICES"), *order = get("CUDA_DEVICE_ORDER");
    if (!same && (!order || strcmp(order, "PCI_BUS_ID") != 0)) {
        return RDI_DECIDE_ANY; // CUDA's own order is the fastest first
    }
    for (const char *at = visible; at && *at && n < RDI_DECIDE_LOCAL; n++) {
        char *end;
        long v = strtol(at, &end, 10);
        if (end == at || (*end != ',' && *end != '\0') || v < 0 || v >= count) {
            return RDI_DECIDE_ANY; // a UUID, or what does not belong to this machine
        }
        list[n] = gpus[v];
        at = *end ? end + 1 : end;
    }
    // Where each rank is shown only its own GPU, all call it 0.
    if (n == 0 || (n == 1 && list[0] == gpus[0] && local_rank > 0 && count > 1)) {
        return RDI_DECIDE_ANY;
    }
    return list[local_rank % n];
}

// ---- The decision --------------------------------------------------------------------------------

static rondo_status decide(const rondo_topo *topo, const struct rdi_job *job, rdi_getenv get,
                           const struct rdi_set *cpus, struct rdi_decision **out) {
    int n = job->local_size, me = job->local_rank;
    struct rdi_decide_place *places = calloc((size_t)n, sizeof *places);
    if (!places) {
        return rdi_fail(RONDO_ERR_NOMEM, "out of memory for the places of %d ranks", n);
    }
    for (int i = 0; i < n; i++) {
        places[i] = (struct rdi_decide_place){.rank = i, .gpu = RDI_DECIDE_ANY};
    }
    places[me].gpu = rdi_place_gpu(get, me, topo);
    // One that may run anywhere is bound to nothing.
    places[me].cpus = cpus && !rdi_set_equal(cpus, &topo->allowed) ? cpus : NULL;
    const struct rdi_decide_host host = {
        .name = job->host, .topo = topo, .ranks = n, .places = places};
    rondo_status s = rdi_decide(&host, 1, out);
    free(places);
    return s;
}

static void take_rails(const struct rdi_decided_host *h, const struct rdi_decided_rank *r,
                       struct rdi_rails *out) {
    for (int i = 0; i < r->nrails && out->count < RDI_RAILS; i++) {
        const rondo_topo_device_info *nic = rondo_topo_device(h->topo, r->rails[i].nic);
        struct rdi_rail *rail = &out->at[out->count++];
        snprintf(rail->net, sizeof rail->net, "%s", nic->net);
        snprintf(rail->rdma, sizeof rail->rdma, "%s", nic->rdma);
        snprintf(rail->why, sizeof rail->why, "%s: %s", nic->name, r->rails[i].why);
    }
}

static void take_seat(const struct rdi_decided_host *h, const struct rdi_decided_rank *r, int rank,
                      struct rdi_seat *out) {
    for (int i = 0; i < h->nranks; i++) {
        out->chain = h->chain[i] == rank ? (uint16_t)i : out->chain;
    }
    out->nics = (uint8_t)(h->nnics < RDI_SEAT_NICS ? h->nnics : RDI_SEAT_NICS);
    for (int i = 0; i < out->nics; i++) {
        out->to[i] = (uint8_t)rdi_decide_to_nic(h->topo, r, h->nics[i].nic);
    }
    for (int i = 0; i < r->nrails; i++) {
        int nic = r->rails[i].nic - h->nics[0].nic;
        out->uses |= (uint16_t)(nic < RDI_SEAT_NICS ? 1U << nic : 0);
    }
}

// A virtual machine may show all devices beside each other, below the host bridge itself: that says nothing of the way
// between them.
static bool hides_ways(const struct rdi_decided_host *h, const struct rdi_decided_rank *r) {
    return r->gpu < 0 || r->nrails == 0 ||
           (!strchr(rondo_topo_device(h->topo, r->gpu)->bridges, '/') &&
            !strchr(rondo_topo_device(h->topo, r->rails[0].nic)->bridges, '/'));
}

static void take_way(const struct rdi_decided_host *h, const struct rdi_decided_rank *r,
                     struct rdi_gpu_way *out) {
    bool direct = hides_ways(h, r);
    for (int i = 0; i < r->nrails; i++) {
        direct = direct || r->rails[i].gpudirect;
    }
    if (r->gpu >= 0) {
        snprintf(out->pci, sizeof out->pci, "%s", rondo_topo_device(h->topo, r->gpu)->pci);
    }
    if (!direct) {
        snprintf(out->against, sizeof out->against, "%s: %s",
                 rondo_topo_device(h->topo, r->rails[0].nic)->name, r->rails[0].gpudirect_why);
    }
}

void rdi_place_of(const struct rdi_decision *d, int rank, struct rdi_place *out) {
    const struct rdi_decided_rank *r = &d->ranks[rank];
    const struct rdi_decided_host *h = &d->hosts[r->host];
    const rondo_topo_numa_info *numa = rondo_topo_numa(h->topo, r->numa);
    bool several = rondo_topo_machine(h->topo)->numas > 1;
    *out = (struct rdi_place){.cpu = r->cpu, .node = several && numa ? numa->os_index : -1};
    take_rails(h, r, &out->rails);
    take_seat(h, r, rank, &out->seat);
    take_way(h, r, &out->way);
}

// ---- All -----------------------------------------------------------------------------------------

static rondo_status load(const struct rdi_options *o, const struct rdi_env *env,
                         rondo_topo **topo) {
    const char *file = o->str[RDI_OPT_TOPOLOGY];
    rondo_topo_config config = RONDO_TOPO_CONFIG_INIT;
    config.file = *file ? file : NULL;
    config.this_cpuset = *file != '\0';
    rondo_status s = rondo_topo_load(&config, topo);
    if (s != RONDO_OK && !*file) {
        rdi_log(env, RONDO_LOG_WARN, "this host's topology is not used: %s", rondo_last_error());
        s = RONDO_OK;
    }
    return s;
}

// On one host only a progress thread has a place to be decided, if there are processors to choose from.
static bool is_worth_it(const struct rdi_options *o, const struct rdi_job *job,
                        const struct rdi_set *cpus) {
    bool local = job->local_size >= 1 && job->local_size <= RDI_DECIDE_LOCAL &&
                 job->local_rank >= 0 && job->local_rank < job->local_size;
    bool thread = strcmp(o->str[RDI_OPT_PROGRESS], "caller") != 0 && cpus &&
                  rdi_set_count(cpus) >= 2 * (unsigned)job->local_size;
    return job->size > 1 && local && (job->local_size < job->size || thread) &&
           strcmp(o->str[RDI_OPT_TOPOLOGY], "none") != 0;
}

rondo_status rdi_place_find(const struct rdi_options *o, const struct rdi_job *job, rdi_getenv get,
                            const struct rdi_env *env, struct rdi_place *out) {
    struct rdi_set set = {{0}};
    const struct rdi_set *cpus = rdi_topo_own_cpus(&set) ? &set : NULL;
    *out = (struct rdi_place){.cpu = -1, .node = -1};
    rondo_topo *topo = NULL;
    if (!is_worth_it(o, job, cpus)) {
        return RONDO_OK;
    }
    rondo_status s = load(o, env, &topo);
    struct rdi_decision *d = NULL;
    s = s == RONDO_OK && topo ? decide(topo, job, get, cpus, &d) : s;
    if (d) {
        const struct rdi_decided_rank *r = &d->ranks[job->local_rank];
        rdi_place_of(d, job->local_rank, out);
        rdi_log(
            env, RONDO_LOG_DEBUG,
            "rank %d: GPU %d (%s), NUMA node %d (%s), processor of the progress thread %d (%s), "
            "%d NICs",
            job->rank, r->gpu, r->gpu_why, out->node, r->numa_why, r->cpu, r->cpu_why, r->nrails);
        rdi_decision_free(d);
    }
    rondo_topo_free(topo);
    return s;
}
