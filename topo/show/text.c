// SPDX-License-Identifier: MIT
// One host for people: a tree, and the table that nvidia-smi topo -m prints.
#include "topo/show/show.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *plural(int n) { return n == 1 ? "" : "s"; }

// "1 MiB", "503.5 GiB"
void ts_size(struct rdi_text *out, uint64_t bytes) {
    static const char *const units[] = {"bytes", "KiB", "MiB", "GiB", "TiB"};
    double v = (double)bytes;
    size_t u = 0;
    for (; v >= 1024 && u < 4; u++) {
        v /= 1024;
    }
    uint64_t tenths = (uint64_t)(v * 10 + 0.5);
    rdi_text_add(out, "%llu", (unsigned long long)(tenths / 10));
    if (tenths % 10) {
        rdi_text_add(out, ".%llu", (unsigned long long)(tenths % 10));
    }
    rdi_text_add(out, " %s", units[u]);
}

static void caches(struct rdi_text *out, const char *name, int count, uint64_t bytes) {
    if (count > 0) {
        rdi_text_add(out, ", %d %s cache%s", count, name, plural(count));
    }
    if (count > 0 && bytes > 0) {
        rdi_text_add(out, " of ");
        ts_size(out, bytes);
    }
}

static void machine(struct rdi_text *out, const rondo_topo_machine_info *m) {
    rdi_text_add(out, "%d package%s", m->packages, plural(m->packages));
    rdi_text_add(out, "%s%s%s", m->cpu[0] ? " (" : "", m->cpu, m->cpu[0] ? ")" : "");
    rdi_text_add(out, ", %d core%s, %d processor%s", m->cores, plural(m->cores), m->pus,
                 plural(m->pus));
    if (m->allowed_pus < m->pus) {
        rdi_text_add(out, " of which %d may be used (%s)", m->allowed_pus, m->allowed_cpus);
    }
    caches(out, "L2", m->l2_caches, m->l2_bytes);
    caches(out, "L3", m->l3_caches, m->l3_bytes);
    rdi_text_add(out, "\n\n");
}

// ---- The tree ------------------------------------------------------------------------------------

static void device(struct rdi_text *out, const rondo_topo_device_info *d) {
    rdi_text_add(out, "%s", d->name);
    rdi_text_add(out, "%s%s", d->pci[0] ? "  " : "", d->pci);
    if (d->kind == RONDO_TOPO_NIC) {
        rdi_text_add(out, "%s%s", d->rdma[0] ? "  " : "", d->rdma);
        rdi_text_add(out, "%s%s", d->net[0] ? "  " : "", d->net);
        if (d->link_gbps > 0) {
            rdi_text_add(out, "  %g Gbit/s", d->link_gbps);
        }
        if (d->virtual_functions > 0) {
            rdi_text_add(out, "  %d virtual function%s", d->virtual_functions,
                         plural(d->virtual_functions));
        }
    } else {
        rdi_text_add(out, "%s%s", d->runtimes[0] ? "  " : "", d->runtimes);
        if (d->memory > 0) {
            rdi_text_add(out, "  ");
            ts_size(out, d->memory);
        }
    }
    if (d->model[0]) {
        rdi_text_add(out, "  (%s)", d->model);
    } else if (d->vendor_id) {
        rdi_text_add(out, "  (%04x:%04x)", (unsigned)d->vendor_id, (unsigned)d->device_id);
    }
    rdi_text_add(out, "\n");
}

size_t ts_way_root(const char *way) { return strcspn(way, "/"); }

// The way without its last bridge, which is the device's own port: what it shares with others.
size_t ts_way_shared(const char *way) {
    const char *last = strrchr(way, '/');
    return last && last > way + ts_way_root(way) ? (size_t)(last - way) : 0;
}

static int by_way(const void *a, const void *b) {
    const rondo_topo_device_info *const *x = a, *const *y = b;
    size_t n = ts_way_root((*x)->bridges), m = ts_way_root((*y)->bridges);
    int order = strncmp((*x)->bridges, (*y)->bridges, n < m ? n : m);
    order = order ? order : (n > m) - (n < m);
    // Devices right below the host bridge first.
    n = ts_way_shared((*x)->bridges);
    m = ts_way_shared((*y)->bridges);
    order = order ? order : (n > 0) - (m > 0);
    order = order ? order : strncmp((*x)->bridges, (*y)->bridges, n < m ? n : m);
    order = order ? order : (n > m) - (n < m);
    return order                               ? order
           : (int)(*x)->kind - (int)(*y)->kind ? (int)(*x)->kind - (int)(*y)->kind
                                               : strcmp((*x)->pci, (*y)->pci);
}

const rondo_topo_device_info **ts_devices_at(const rondo_topo *t, int numa, int *n) {
    int all = rondo_topo_machine(t)->devices;
    const rondo_topo_device_info **at = malloc(((size_t)all + 1) * sizeof *at);
    *n = 0;
    for (int i = 0; at && i < all; i++) {
        const rondo_topo_device_info *d = rondo_topo_device(t, i);
        if (d->numa == numa) {
            at[(*n)++] = d;
        }
    }
    if (*n > 0) {
        qsort(at, (size_t)*n, sizeof(const rondo_topo_device_info *), by_way);
    }
    return at;
}

// All devices at one node, below their host bridges and switches.
static void devices(struct rdi_text *out, const rondo_topo *t, int numa) {
    int n;
    const rondo_topo_device_info **at = ts_devices_at(t, numa, &n);
    out->failed = out->failed || !at;
    const char *before = NULL;
    for (int i = 0; at && i < n; i++) {
        const char *way = at[i]->bridges;
        size_t root = ts_way_root(way), shared = ts_way_shared(way);
        bool same_root = before && root == ts_way_root(before) && strncmp(way, before, root) == 0;
        if (way[0] && !same_root) {
            rdi_text_add(out, "  host bridge %.*s\n", (int)root, way);
        }
        if (shared > 0 &&
            !(same_root && shared == ts_way_shared(before) && strncmp(way, before, shared) == 0)) {
            const char *slash = way + shared;
            while (slash[-1] != '/') {
                slash--;
            }
            rdi_text_add(out, "    bridge %.*s\n", (int)(way + shared - slash), slash);
        }
        rdi_text_add(out, "%s", shared ? "      " : way[0] ? "    " : "  ");
        device(out, at[i]);
        before = way;
    }
    free(at);
}

static void tree(struct rdi_text *out, const rondo_topo *t) {
    bool elsewhere = false;
    for (int i = 0; i < rondo_topo_machine(t)->devices; i++) {
        elsewhere = elsewhere || rondo_topo_device(t, i)->numa < 0;
    }
    for (int i = 0; i < rondo_topo_machine(t)->numas; i++) {
        const rondo_topo_numa_info *n = rondo_topo_numa(t, i);
        rdi_text_add(out, "NUMA node %d", n->os_index);
        if (n->package >= 0) {
            rdi_text_add(out, ", package %d", n->package);
        }
        if (n->memory > 0) {
            rdi_text_add(out, ", ");
            ts_size(out, n->memory);
        }
        rdi_text_add(out, n->pus > 0 ? ", processors %s" : ", no processor that may be used%s",
                     n->cpus);
        rdi_text_add(out, "%s\n", n->allowed ? "" : "; its memory may not be used");
        devices(out, t, i);
    }
    if (elsewhere) {
        rdi_text_add(out, "at no single NUMA node\n");
        devices(out, t, -1);
    }
}

// ---- The table -----------------------------------------------------------------------------------

static void table(struct rdi_text *out, const rondo_topo *t) {
    const rondo_topo_machine_info *m = rondo_topo_machine(t);
    rdi_text_add(out, "\n      ");
    for (int i = 0; i < m->devices; i++) {
        rdi_text_add(out, " %-5s", rondo_topo_device(t, i)->name);
    }
    for (int k = 0; k < m->numas; k++) {
        char name[24];
        snprintf(name, sizeof name, "NUMA%d", rondo_topo_numa(t, k)->os_index);
        rdi_text_add(out, k + 1 < m->numas ? " %-5s" : " %s", name);
    }
    rdi_text_add(out, "\n");
    for (int i = 0; i < m->devices; i++) {
        rdi_text_add(out, "%-6s", rondo_topo_device(t, i)->name);
        for (int k = 0; k < m->devices; k++) {
            rdi_text_add(out, " %-5s", rondo_topo_distance_name(rondo_topo_between(t, i, k)));
        }
        for (int k = 0; k < m->numas; k++) {
            rdi_text_add(out, k + 1 < m->numas ? " %-5s" : " %s",
                         rondo_topo_distance_name(rondo_topo_to_numa(t, i, k)));
        }
        rdi_text_add(out, "\n");
    }
}

void ts_legend(struct rdi_text *out) {
    for (rondo_topo_distance d = RONDO_TOPO_LOC; d <= RONDO_TOPO_SYS; d++) {
        rdi_text_add(out, "%s  %-5s %s\n", d ? "" : "\n", rondo_topo_distance_name(d),
                     rondo_topo_distance_text(d));
    }
}

void ts_text(struct rdi_text *out, const rondo_topo *t) {
    machine(out, rondo_topo_machine(t));
    tree(out, t);
    if (rondo_topo_machine(t)->devices > 0) {
        table(out, t);
    } else {
        rdi_text_add(out, "\nno NICs and no GPUs\n");
    }
}
