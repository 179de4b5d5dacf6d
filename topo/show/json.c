// SPDX-License-Identifier: MIT
// One host for programs. Members may be added; their meanings stay.
#include "topo/show/show.h"

static void machine(struct rdi_text *out, const rondo_topo_machine_info *m) {
    rdi_json_string(out, "host", m->host);
    rdi_json_string(out, "cpu", m->cpu);
    rdi_json_int(out, "packages", m->packages);
    rdi_json_int(out, "cores", m->cores);
    rdi_json_int(out, "processors", m->pus);
    rdi_json_int(out, "allowed_processors", m->allowed_pus);
    rdi_json_string(out, "allowed", m->allowed_cpus);
    rdi_json_int(out, "l2_caches", m->l2_caches);
    rdi_json_u64(out, "l2_bytes", m->l2_bytes);
    rdi_json_int(out, "l3_caches", m->l3_caches);
    rdi_json_u64(out, "l3_bytes", m->l3_bytes);
}

static void numa(struct rdi_text *out, const rondo_topo_numa_info *n) {
    rdi_json_line(out);
    rdi_json_begin(out, NULL, '{');
    rdi_json_int(out, "node", n->os_index);
    rdi_json_int(out, "package", n->package);
    rdi_json_u64(out, "memory_bytes", n->memory);
    rdi_json_bool(out, "memory_allowed", n->allowed != 0);
    rdi_json_int(out, "processors", n->pus);
    rdi_json_string(out, "cpus", n->cpus);
    rdi_json_end(out, '}');
}

// Of links: Mbit/s, so that the number is whole.
static void rate(struct rdi_text *out, const char *key, double gbps) {
    rdi_json_u64(out, key, (uint64_t)(gbps * 1000 + 0.5));
}

static void device(struct rdi_text *out, const rondo_topo *t, int i) {
    const rondo_topo_device_info *d = rondo_topo_device(t, i);
    const rondo_topo_numa_info *at = rondo_topo_numa(t, d->numa);
    rdi_json_line(out);
    rdi_json_begin(out, NULL, '{');
    rdi_json_string(out, "name", d->name);
    rdi_json_string(out, "kind", d->kind == RONDO_TOPO_GPU ? "gpu" : "nic");
    rdi_json_string(out, "pci", d->pci);
    rdi_json_string(out, "model", d->model);
    rdi_json_int(out, "vendor_id", d->vendor_id);
    rdi_json_int(out, "device_id", d->device_id);
    rdi_json_string(out, "bridges", d->bridges);
    rdi_json_int(out, "node", at ? at->os_index : -1);
    rdi_json_string(out, "cpus", d->cpus);
    rate(out, "pci_mbps", d->pci_gbps);
    if (d->kind == RONDO_TOPO_GPU) {
        rdi_json_string(out, "runtimes", d->runtimes);
        rdi_json_u64(out, "memory_bytes", d->memory);
    } else {
        rdi_json_string(out, "rdma", d->rdma);
        rdi_json_string(out, "net", d->net);
        rate(out, "link_mbps", d->link_gbps);
        rdi_json_int(out, "virtual_functions", d->virtual_functions);
    }
    rdi_json_begin(out, "to_devices", '[');
    for (int k = 0; k < rondo_topo_machine(t)->devices; k++) {
        rdi_json_string(out, NULL, rondo_topo_distance_name(rondo_topo_between(t, i, k)));
    }
    rdi_json_end(out, ']');
    rdi_json_begin(out, "to_numa", '[');
    for (int k = 0; k < rondo_topo_machine(t)->numas; k++) {
        rdi_json_string(out, NULL, rondo_topo_distance_name(rondo_topo_to_numa(t, i, k)));
    }
    rdi_json_end(out, ']');
    rdi_json_end(out, '}');
}

void ts_json(struct rdi_text *out, const rondo_topo *t) {
    const rondo_topo_machine_info *m = rondo_topo_machine(t);
    machine(out, m);
    rdi_json_begin(out, "numa", '[');
    for (int i = 0; i < m->numas; i++) {
        numa(out, rondo_topo_numa(t, i));
    }
    rdi_json_end(out, ']');
    rdi_json_line(out);
    rdi_json_begin(out, "devices", '[');
    for (int i = 0; i < m->devices; i++) {
        device(out, t, i);
    }
    rdi_json_end(out, ']');
}
