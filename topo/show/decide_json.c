// SPDX-License-Identifier: MIT
// Decisions for programs, and to be kept: ranks by their number in the job. Members may be added; their meanings stay.
#include "topo/show/decide.h"

static const char *device(const rondo_topo *t, int i) {
    return i < 0 ? "" : rondo_topo_device(t, i)->name;
}

static void ints(struct rdi_text *out, const char *key, const int *values, int n) {
    rdi_json_begin(out, key, '[');
    for (int i = 0; i < n; i++) {
        rdi_json_int(out, NULL, values[i]);
    }
    rdi_json_end(out, ']');
}

static void nic(struct rdi_text *out, const rondo_topo *t, const struct rdi_decided_nic *n) {
    rdi_json_begin(out, NULL, '{');
    rdi_json_string(out, "nic", device(t, n->nic));
    rdi_json_bool(out, "fit", n->fit);
    rdi_json_int(out, "ranks", n->ranks);
    rdi_json_int(out, "rail", n->rail);
    rdi_json_string(out, "why", n->why);
    rdi_json_end(out, '}');
}

static void host(struct rdi_text *out, const struct rdi_decided_host *h) {
    rdi_json_line(out);
    rdi_json_begin(out, NULL, '{');
    rdi_json_string(out, "name", h->name);
    ints(out, "ranks", h->ranks, h->nranks);
    ints(out, "chain", h->chain, h->nranks);
    rdi_json_begin(out, "nics", '[');
    for (int i = 0; i < h->nnics; i++) {
        nic(out, h->topo, &h->nics[i]);
    }
    rdi_json_end(out, ']');
    rdi_json_end(out, '}');
}

static void rail(struct rdi_text *out, const rondo_topo *t, const struct rdi_decided_rail *r) {
    const rondo_topo_device_info *info = rondo_topo_device(t, r->nic);
    rdi_json_begin(out, NULL, '{');
    rdi_json_string(out, "nic", info->name);
    rdi_json_string(out, "pci", info->pci);
    rdi_json_string(out, "rdma", info->rdma);
    rdi_json_string(out, "net", info->net);
    rdi_json_string(out, "distance", rondo_topo_distance_name(r->distance));
    rdi_json_int(out, "rail", r->rail);
    rdi_json_string(out, "why", r->why);
    rdi_json_bool(out, "gpudirect", r->gpudirect);
    rdi_json_string(out, "gpudirect_why", r->gpudirect_why);
    rdi_json_end(out, '}');
}

static void rank(struct rdi_text *out, const struct rdi_decision *d, int number) {
    const struct rdi_decided_rank *r = &d->ranks[number];
    const rondo_topo *t = d->hosts[r->host].topo;
    rdi_json_line(out);
    rdi_json_begin(out, NULL, '{');
    rdi_json_int(out, "rank", number);
    rdi_json_int(out, "host", r->host);
    rdi_json_int(out, "local_rank", r->local);
    rdi_json_string(out, "gpu", device(t, r->gpu));
    rdi_json_string(out, "gpu_pci", r->gpu < 0 ? "" : rondo_topo_device(t, r->gpu)->pci);
    rdi_json_string(out, "gpu_why", r->gpu_why);
    rdi_json_int(out, "node", rondo_topo_numa(t, r->numa)->os_index);
    rdi_json_string(out, "node_why", r->numa_why);
    rdi_json_int(out, "processor", r->cpu);
    rdi_json_string(out, "processor_why", r->cpu_why);
    rdi_json_begin(out, "nics", '[');
    for (int i = 0; i < r->nrails; i++) {
        rail(out, t, &r->rails[i]);
    }
    rdi_json_end(out, ']');
    rdi_json_end(out, '}');
}

static void ring(struct rdi_text *out, const struct rdi_decision *d,
                 const struct rdi_decided_ring *r) {
    rdi_json_line(out);
    rdi_json_begin(out, NULL, '{');
    ints(out, "order", r->order, d->nranks);
    rdi_json_begin(out, "hosts", '[');
    for (int i = 0; i < d->nhosts; i++) {
        const struct rdi_decided_leg *leg = &r->legs[i];
        rdi_json_begin(out, NULL, '{');
        rdi_json_string(out, "nic", device(d->hosts[i].topo, leg->nic));
        rdi_json_int(out, "enter", leg->enter);
        rdi_json_int(out, "leave", leg->leave);
        rdi_json_string(out, "why", leg->why);
        rdi_json_end(out, '}');
    }
    rdi_json_end(out, ']');
    rdi_json_end(out, '}');
}

void ts_decide_json(struct rdi_text *out, const struct rdi_decision *d) {
    uint64_t gib = (uint64_t)1 << 30;
    rdi_json_begin(out, NULL, '{');
    rdi_json_string(out, "format", "rondo-decision 1");
    rdi_json_string(out, "plan", rdi_decided_plan_name(d->plan));
    rdi_json_string(out, "plan_why", d->plan_why);
    rdi_json_int(out, "rails", d->nrails);
    rdi_json_string(out, "rails_why", d->rails_why);
    rdi_json_u64(out, "host_bytes_of_gib", rdi_decision_host_bytes(d, gib));
    rdi_json_u64(out, "rail_bytes_of_gib", rdi_decision_rail_bytes(d, gib));
    rdi_json_begin(out, "hosts", '[');
    for (int i = 0; i < d->nhosts; i++) {
        host(out, &d->hosts[i]);
    }
    rdi_json_end(out, ']');
    rdi_json_line(out);
    rdi_json_begin(out, "ranks", '[');
    for (int i = 0; i < d->nranks; i++) {
        rank(out, d, i);
    }
    rdi_json_end(out, ']');
    rdi_json_line(out);
    rdi_json_begin(out, "rings", '[');
    for (int i = 0; i < d->nrings; i++) {
        ring(out, d, &d->rings[i]);
    }
    rdi_json_end(out, ']');
    rdi_json_end(out, '}');
    rdi_text_add(out, "\n");
}
