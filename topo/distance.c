// SPDX-License-Identifier: MIT
// How far devices are from each other and from NUMA nodes, out of the bridges above them.
//
// The names are those of nvidia-smi topo -m and of NCCL: PIX "at most a single PCIe bridge", PXB "multiple PCIe bridges
// (without traversing the PCIe host bridge)", PHB "PCIe as well as a PCIe host bridge (typically the CPU)", NODE "PCIe
// as well as the interconnect between PCIe host bridges within a NUMA node", SYS "PCIe as well as the SMP interconnect
// between NUMA nodes". What nvidia-smi calls a bridge is a switch. hwloc shows a switch as it is on PCI:
//
//            root port                          bridges above A: host, root port, upstream, downstream
//                |                              above B:         host, root port, upstream, downstream'
//        upstream port   \                      common: up to the upstream port; one more on either side: one switch
//         /           \    one switch
//  downstream port  downstream port
//        |               |
//        A               B
#include "topo/internal.h"

#include <stdlib.h>

const char *rondo_topo_distance_name(rondo_topo_distance d) {
    static const char *const names[] = {"LOC", "PIX", "PXB", "PHB", "NODE", "SYS"};
    return d <= RONDO_TOPO_SYS ? names[d] : "?";
}

const char *rondo_topo_distance_text(rondo_topo_distance d) {
    static const char *const texts[] = {
        "the same device",
        "at most one PCIe switch",
        "several PCIe switches, but no host bridge",
        "a PCIe host bridge (typically the CPU)",
        "the interconnect between host bridges within a NUMA node",
        "the interconnect between NUMA nodes, or unknown",
    };
    return d <= RONDO_TOPO_SYS ? texts[d] : "?";
}

// A device is at a node if its place has no other processors than the node's; hung at a package with several nodes, it
// is at all of them. A place that is the whole of a machine with several nodes says nothing.
static bool at_node(const struct rondo_topo *t, const struct rdi_topo_device *d,
                    const struct rdi_topo_numa *n) {
    return rdi_set_within(&d->cpus, &n->cpus) ||
           (!rdi_set_equal(&d->cpus, &t->cpus) && rdi_set_within(&n->cpus, &d->cpus));
}

static bool share_node(const struct rondo_topo *t, size_t i, size_t j) {
    size_t n = (size_t)t->machine.numas;
    for (size_t k = 0; k < n; k++) {
        if (t->to_numa[i * n + k] == RONDO_TOPO_NODE && t->to_numa[j * n + k] == RONDO_TOPO_NODE) {
            return true;
        }
    }
    return false;
}

// Functions of one device cross nothing, wherever it is plugged in.
static bool same_slot(const struct rdi_topo_device *a, const struct rdi_topo_device *b) {
    return a->on_pci && b->on_pci && a->pci.domain == b->pci.domain && a->pci.bus == b->pci.bus &&
           a->pci.device == b->pci.device;
}

static rondo_topo_distance measure(const struct rondo_topo *t, size_t i, size_t j) {
    const struct rdi_topo_device *a = &t->devices[i], *b = &t->devices[j];
    size_t common = 0;
    if (i == j) {
        return RONDO_TOPO_LOC;
    }
    if (same_slot(a, b)) {
        return RONDO_TOPO_PIX;
    }
    while (common < a->bridges && common < b->bridges && a->bridge[common] == b->bridge[common]) {
        common++;
    }
    if (common == 0) {
        return share_node(t, i, j) ? RONDO_TOPO_NODE : RONDO_TOPO_SYS;
    }
    if (common == 1 && a->below_host) {
        return RONDO_TOPO_PHB;
    }
    return a->bridges - common <= 1 && b->bridges - common <= 1 ? RONDO_TOPO_PIX : RONDO_TOPO_PXB;
}

// The node that a device is at: the first of those with the same processors, -1 if there are others.
static int node_of(const struct rondo_topo *t, size_t i) {
    int first = -1;
    for (int k = 0; k < t->machine.numas; k++) {
        if (t->to_numa[i * (size_t)t->machine.numas + (size_t)k] != RONDO_TOPO_NODE) {
            continue;
        }
        if (first >= 0 && !rdi_set_equal(&t->numas[first].cpus, &t->numas[k].cpus)) {
            return -1;
        }
        first = first < 0 ? k : first;
    }
    return first;
}

bool rdi_topo_measure(struct rondo_topo *t) {
    size_t n = (size_t)t->machine.devices, nodes = (size_t)t->machine.numas;
    t->between = malloc(n * n + 1);
    t->to_numa = malloc(n * nodes + 1);
    if (!t->between || !t->to_numa || !t->numas || (n > 0 && !t->devices)) {
        return false;
    }
    for (size_t i = 0; i < n; i++) {
        for (size_t k = 0; k < nodes; k++) {
            bool at = at_node(t, &t->devices[i], &t->numas[k]);
            t->to_numa[i * nodes + k] = at ? RONDO_TOPO_NODE : RONDO_TOPO_SYS;
        }
        t->devices[i].info.numa = node_of(t, i);
    }
    for (size_t i = 0; i < n; i++) {
        for (size_t j = 0; j < n; j++) {
            t->between[i * n + j] = (uint8_t)measure(t, i, j);
        }
    }
    return true;
}

rondo_topo_distance rondo_topo_between(const rondo_topo *t, int i, int j) {
    int n = t->machine.devices;
    return i >= 0 && j >= 0 && i < n && j < n ? (rondo_topo_distance)t->between[i * n + j]
                                              : RONDO_TOPO_SYS;
}

rondo_topo_distance rondo_topo_to_numa(const rondo_topo *t, int device, int numa) {
    int n = t->machine.numas;
    return device >= 0 && numa >= 0 && device < t->machine.devices && numa < n
               ? (rondo_topo_distance)t->to_numa[device * n + numa]
               : RONDO_TOPO_SYS;
}
