// SPDX-License-Identifier: MIT
// Decisions for people: each kind of host once, with ranks by their number on it; then the rings.
#include "topo/show/decide.h"

#include <stdlib.h>
#include <string.h>

static const char *plural(int n) { return n == 1 ? "" : "s"; }

// "NIC2 mlx5_2"
static void nic_name(struct rdi_text *out, const rondo_topo *t, int nic) {
    const rondo_topo_device_info *i = rondo_topo_device(t, nic);
    const char *known = i->rdma[0] ? i->rdma : i->net;
    rdi_text_add(out, "%s%s%.*s", i->name, known[0] ? " " : "", (int)strcspn(known, ","), known);
}

// ---- A host --------------------------------------------------------------------------------------

static void rank(struct rdi_text *out, const rondo_topo *t, const struct rdi_decided_rank *r) {
    rdi_text_add(out, "  rank %d\n    ", r->local);
    if (r->gpu < 0) {
        rdi_text_add(out, "no GPU: %s\n", r->gpu_why);
    } else {
        const rondo_topo_device_info *gpu = rondo_topo_device(t, r->gpu);
        rdi_text_add(out, "%s%s%s: %s\n", gpu->name, gpu->pci[0] ? " " : "", gpu->pci, r->gpu_why);
    }
    rdi_text_add(out, "    memory of NUMA node %d: %s\n", rondo_topo_numa(t, r->numa)->os_index,
                 r->numa_why);
    if (r->cpu < 0) {
        rdi_text_add(out, "    thread anywhere: %s\n", r->cpu_why);
    } else {
        rdi_text_add(out, "    thread on processor %d: %s\n", r->cpu, r->cpu_why);
    }
    for (int i = 0; i < r->nrails; i++) {
        const struct rdi_decided_rail *rail = &r->rails[i];
        rdi_text_add(out, "    ");
        nic_name(out, t, rail->nic);
        rdi_text_add(out, ": %s\n", rail->why);
        if (r->gpu >= 0) {
            rdi_text_add(out, "      GPUDirect %s: %s\n", rail->gpudirect ? "yes" : "no",
                         rail->gpudirect_why);
        }
    }
    if (r->nrails == 0) {
        rdi_text_add(out, "    no NIC: the system finds the way\n");
    }
}

static void host(struct rdi_text *out, const struct rdi_decision *d,
                 const struct rdi_decided_host *h) {
    for (int i = 0; i < h->nnics; i++) {
        const struct rdi_decided_nic *n = &h->nics[i];
        if (n->ranks == 0 || (n->rail < 0 && d->nrails > 0)) {
            rdi_text_add(out, "  ");
            nic_name(out, h->topo, n->nic);
            rdi_text_add(out, "%s: %s\n", n->fit ? "" : " left out", n->why);
        }
    }
    for (int i = 0; i < h->nranks; i++) {
        rank(out, h->topo, &d->ranks[h->ranks[i]]);
    }
    rdi_text_add(out, "  chain:");
    for (int i = 0; i < h->nranks; i++) {
        rdi_text_add(out, " %d", d->ranks[h->chain[i]].local);
    }
    rdi_text_add(out, "\n");
    for (int r = 0; r < d->nrails; r++) {
        const struct rdi_decided_leg *leg = &d->rings[r].legs[h - d->hosts];
        rdi_text_add(out, "  rail %d: ", r);
        if (leg->nic >= 0) {
            nic_name(out, h->topo, leg->nic);
            rdi_text_add(out, ", ");
        }
        if (d->plan == RDI_DECIDED_NODE_FIRST && h->nranks > 1) {
            rdi_text_add(out, "rank %d for all; a ring of all ranks enters there and leaves by %d",
                         d->ranks[leg->enter].local, d->ranks[leg->leave].local);
        } else {
            rdi_text_add(out, "rank %d", d->ranks[leg->enter].local);
        }
        rdi_text_add(out, " (%s)\n", leg->why);
    }
}

void ts_ranks(struct rdi_text *out, const int *ranks, int n) {
    rdi_text_add(out, "rank%s %d", plural(n), ranks[0]);
    int from = ranks[0];
    for (int i = 1; i <= n; i++) {
        if (i < n && ranks[i] == ranks[i - 1] + 1) {
            continue;
        }
        if (ranks[i - 1] > from) {
            rdi_text_add(out, "-%d", ranks[i - 1]);
        }
        if (i < n) {
            rdi_text_add(out, ",%d", ranks[i]);
            from = ranks[i];
        }
    }
}

// ---- All -----------------------------------------------------------------------------------------

static void head(struct rdi_text *out, const struct rdi_decision *d) {
    rdi_text_add(out, "plan: %s: %s\n", rdi_decided_plan_name(d->plan), d->plan_why);
    rdi_text_add(out, "%d host%s, %d rank%s, %d rail%s: %s\n", d->nhosts, plural(d->nhosts),
                 d->nranks, plural(d->nranks), d->nrails, plural(d->nrails), d->rails_why);
    if (d->nrails > 0) {
        uint64_t bytes = (uint64_t)1 << 30;
        rdi_text_add(
            out,
            "an all_reduce of 1 GiB: each host sends at least %.1f MiB, each rail of it %.1f MiB\n",
            (double)rdi_decision_host_bytes(d, bytes) / 1048576,
            (double)rdi_decision_rail_bytes(d, bytes) / 1048576);
    }
}

void ts_decide_text(struct rdi_text *out, const struct rdi_decision *d) {
    struct rdi_text *texts = calloc((size_t)d->nhosts, sizeof *texts);
    head(out, d);
    out->failed = out->failed || !texts;
    for (int i = 0; texts && i < d->nhosts; i++) {
        const struct rdi_decided_host *h = &d->hosts[i];
        host(&texts[i], d, h);
        int same = 0;
        while (same < i && texts[i].buf &&
               !(texts[same].buf && strcmp(texts[same].buf, texts[i].buf) == 0)) {
            same++;
        }
        rdi_text_add(out, "\n%s%s", h->name, h->name[0] ? ": " : "");
        ts_ranks(out, h->ranks, h->nranks);
        if (same < i && texts[i].buf) {
            rdi_text_add(out, ", as on %s\n", d->hosts[same].name);
            rdi_text_free(&texts[i]);
        } else {
            rdi_text_add(out, "\n%s", texts[i].buf ? texts[i].buf : "");
            out->failed = out->failed || texts[i].failed;
        }
    }
    for (int i = 0; texts && i < d->nhosts; i++) {
        rdi_text_free(&texts[i]);
    }
    free(texts);
}
