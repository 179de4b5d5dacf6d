// SPDX-License-Identifier: MIT
// hwloc: this host, and machines that are described in a line. Both leave here as XML.
#include "topo/cores.h"
#include "topo/internal.h"

#include <errno.h>
#include <hwloc.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SYNTHETIC_LENGTH 1000
#define SYNTHETIC_OBJECTS 8192

// ---- A description in a line ---------------------------------------------------------------------

// A count at p: of a level, below each object of the level above it. Up to *product objects in all.
static bool count(const char *p, unsigned *product) {
    unsigned n = 0;
    for (const char *c = p; *c >= '0' && *c <= '9' && n <= SYNTHETIC_OBJECTS; c++) {
        n = 10 * n + (unsigned)(*c - '0');
    }
    *product *= n <= SYNTHETIC_OBJECTS ? n : 0;
    return *p != '0' && n > 0 && *product > 0 && *product <= SYNTHETIC_OBJECTS;
}

// Before hwloc allocates what the numbers say: no machine is larger than our tables.
static rondo_status check_synthetic(const char *text) {
    unsigned product = 1;
    int depth = 0;
    size_t len = strlen(text);
    bool ok = len > 0 && len <= SYNTHETIC_LENGTH;
    for (const char *p = text; ok && *p != '\0'; p++) {
        bool begin = p == text || p[-1] == ' ' || p[-1] == ':';
        depth += (*p == '(') - (*p == ')');
        ok = *p >= ' ' && *p <= '~' && depth >= 0 && depth <= 1 &&
             (depth > 0 || !begin || *p < '0' || *p > '9' || count(p, &product));
    }
    return ok && depth == 0
               ? RONDO_OK
               : rdi_fail(RONDO_ERR_INVALID,
                          "the synthetic topology \"%.60s\" has more than %d characters or %d "
                          "objects, or a count that is none; an example is "
                          "\"pack:2 numa:2 core:8 pu:2\"",
                          text, SYNTHETIC_LENGTH, SYNTHETIC_OBJECTS);
}

// ---- What hwloc does not look at -----------------------------------------------------------------

static void add_number(hwloc_obj_t o, const char *name, uint64_t v) {
    char text[24];
    snprintf(text, sizeof text, "%llu", (unsigned long long)v);
    if (v > 0) {
        (void)hwloc_obj_add_info(o, name, text);
    }
}

// hwloc has the names from a library that leaks the whole list, and only where its plugin is installed.
static void add_pci_names(hwloc_obj_t o) {
    static const char *const lists[] = {"/usr/share/misc/pci.ids", "/usr/share/hwdata/pci.ids"};
    char vendor[200], device[200];
    const struct hwloc_pcidev_attr_s *a = &o->attr->pcidev;
    bool found =
        rdi_topo_pci_names(lists[0], a->vendor_id, a->device_id, vendor, device, sizeof vendor) ||
        rdi_topo_pci_names(lists[1], a->vendor_id, a->device_id, vendor, device, sizeof vendor);
    if (found && !hwloc_obj_get_info_by_name(o, "PCIVendor")) {
        (void)hwloc_obj_add_info(o, "PCIVendor", vendor);
        if (device[0] != '\0') {
            (void)hwloc_obj_add_info(o, "PCIDevice", device);
        }
    }
}

static void annotate_pci(hwloc_obj_t o) {
    char pci[32], port[32];
    const struct hwloc_pcidev_attr_s *a = &o->attr->pcidev;
    unsigned kind = a->class_id >> 8; // networks, graphics, accelerators
    if (kind != 0x02 && kind != 0x03 && kind != 0x12) {
        return;
    }
    add_pci_names(o);
    snprintf(pci, sizeof pci, "%04x:%02x:%02x.%01x", a->domain, a->bus, a->dev, a->func);
    rdi_topo_physfn("", pci, port, sizeof port);
    if (port[0] != '\0') {
        (void)hwloc_obj_add_info(o, RDI_TOPO_INFO_PHYSFN, port);
    }
}

static void annotate_os(hwloc_obj_t o) {
    char rdma[256];
    if (o->name && o->attr->osdev.type == HWLOC_OBJ_OSDEV_NETWORK) {
        add_number(o, RDI_TOPO_INFO_MBPS, rdi_topo_net_mbps("", o->name));
        rdi_topo_rdma_over("", o->name, rdma, sizeof rdma);
        if (rdma[0] != '\0') {
            (void)hwloc_obj_add_info(o, RDI_TOPO_INFO_RDMA, rdma);
        }
    } else if (o->name && o->attr->osdev.type == HWLOC_OBJ_OSDEV_OPENFABRICS) {
        add_number(o, RDI_TOPO_INFO_MBPS, rdi_topo_rdma_mbps("", o->name));
    }
}

static void annotate(hwloc_topology_t h) {
    for (hwloc_obj_t o = NULL; (o = hwloc_get_next_pcidev(h, o)) != NULL;) {
        annotate_pci(o);
    }
    for (hwloc_obj_t o = NULL; (o = hwloc_get_next_osdev(h, o)) != NULL;) {
        annotate_os(o);
    }
}

// ---- Loading -------------------------------------------------------------------------------------

// A topology of hwloc; NULL: errno. `devices`: with NICs and GPUs.
static hwloc_topology_t load(const char *synthetic, bool devices) {
    hwloc_topology_t h;
    // It must not move the calling thread over all processors, which hwloc does on some. And what may not be used stays
    // in the tree: else a device at a node that a cpuset hides would seem to be at another one.
    unsigned long flags = HWLOC_TOPOLOGY_FLAG_DONT_CHANGE_BINDING |
                          HWLOC_TOPOLOGY_FLAG_INCLUDE_DISALLOWED;
    if (hwloc_topology_init(&h) != 0) {
        return NULL;
    }
    bool ok = hwloc_topology_set_flags(h, flags) == 0;
    if (synthetic) {
        ok = ok && hwloc_topology_set_synthetic(h, synthetic) == 0;
    } else {
        // Two that start graphics drivers and talk to X servers, and one that leaks: the devices are seen without
        // them. Fails where hwloc has no such component.
        static const char *const without[] = {"gl", "opencl", "pci"};
        for (size_t i = 0; i < sizeof without / sizeof without[0]; i++) {
            (void)hwloc_topology_set_components(h, HWLOC_TOPOLOGY_COMPONENTS_FLAG_BLACKLIST,
                                                without[i]);
        }
    }
    if (devices) {
        ok = ok && hwloc_topology_set_io_types_filter(h, HWLOC_TYPE_FILTER_KEEP_IMPORTANT) == 0;
    }
    if (ok && hwloc_topology_load(h) == 0) {
        return h;
    }
    int err = errno;
    hwloc_topology_destroy(h);
    errno = err;
    return NULL;
}

static rondo_status failed(const char *synthetic) {
    if (synthetic) {
        return rdi_fail(RONDO_ERR_INVALID,
                        "the synthetic topology \"%.60s\" is none that hwloc understands; an "
                        "example is \"pack:2 numa:2 core:8 pu:2\"",
                        synthetic);
    }
    return rdi_fail_errno(RONDO_ERR_SYSTEM, errno, "hwloc cannot look at this host");
}

rondo_status rdi_topo_host_text(const char *synthetic, char **text, size_t *len) {
    rondo_status s = synthetic ? check_synthetic(synthetic) : RONDO_OK;
    if (s != RONDO_OK) {
        return s;
    }
    hwloc_topology_t h = load(synthetic, !synthetic);
    if (!h) {
        return failed(synthetic);
    }
    // An environment with HWLOC_XMLFILE makes hwloc look at another machine.
    if (!synthetic && hwloc_topology_is_thissystem(h)) {
        annotate(h);
    }
    char *xml = NULL;
    int n = 0;
    if (hwloc_topology_export_xmlbuffer(h, &xml, &n, 0) != 0 || n <= 1) {
        hwloc_topology_destroy(h);
        return rdi_fail_errno(RONDO_ERR_SYSTEM, errno, "hwloc cannot write what it has seen");
    }
    *len = strlen(xml); // n counts the NUL
    *text = malloc(*len + 1);
    if (*text) {
        memcpy(*text, xml, *len + 1);
    }
    hwloc_free_xmlbuffer(h, xml);
    hwloc_topology_destroy(h);
    return *text ? RONDO_OK : rdi_fail(RONDO_ERR_NOMEM, "out of memory to load a topology");
}

static void copy_set(struct rdi_set *to, hwloc_const_bitmap_t from) {
    memset(to, 0, sizeof *to);
    for (unsigned i = 0; i < RDI_SET_BITS; i++) {
        to->word[i / 32] |= (uint32_t)(hwloc_bitmap_isset(from, i) != 0) << i % 32;
    }
}

rondo_status rdi_topo_host_allowed(struct rdi_set *cpus, struct rdi_set *nodes) {
    hwloc_topology_t h = load(NULL, false);
    if (!h) {
        return failed(NULL);
    }
    copy_set(cpus, hwloc_topology_get_allowed_cpuset(h));
    copy_set(nodes, hwloc_topology_get_allowed_nodeset(h));
    hwloc_topology_destroy(h);
    return RONDO_OK;
}

// ---- Cores ---------------------------------------------------------------------------------------

bool rdi_topo_own_cpus(struct rdi_set *cpus) {
    cpu_set_t *set = CPU_ALLOC(RDI_SET_BITS);
    size_t bytes = CPU_ALLOC_SIZE(RDI_SET_BITS);
    bool known = set && sched_getaffinity(0, bytes, set) == 0;
    memset(cpus, 0, sizeof *cpus);
    for (unsigned bit = 0; known && bit < RDI_SET_BITS; bit++) {
        cpus->word[bit / 32] |= CPU_ISSET_S(bit, bytes, set) ? 1U << (bit % 32) : 0;
    }
    CPU_FREE(set);
    return known;
}

rondo_status rdi_topo_cores(const char *synthetic, struct rdi_set **cores, int *n) {
    struct rdi_set allowed, own;
    rondo_status s = synthetic ? check_synthetic(synthetic) : RONDO_OK;
    if (s != RONDO_OK) {
        return s;
    }
    hwloc_topology_t h = load(synthetic, false);
    if (!h) {
        return failed(synthetic);
    }
    copy_set(&allowed, hwloc_topology_get_allowed_cpuset(h));
    if (!synthetic && rdi_topo_own_cpus(&own)) {
        rdi_set_keep(&allowed, &own);
    }
    // Some virtual machines say nothing of cores.
    int depth = hwloc_get_type_or_below_depth(h, HWLOC_OBJ_CORE), found = 0;
    unsigned all = hwloc_get_nbobjs_by_depth(h, depth);
    struct rdi_set *out = calloc(all + 1, sizeof *out);
    for (unsigned i = 0; out && i < all; i++) {
        copy_set(&out[found], hwloc_get_obj_by_depth(h, depth, i)->cpuset);
        rdi_set_keep(&out[found], &allowed);
        found += rdi_set_first(&out[found]) >= 0;
    }
    hwloc_topology_destroy(h);
    if (!out) {
        return rdi_fail(RONDO_ERR_NOMEM, "out of memory for %u cores", all);
    }
    if (found == 0) {
        free(out);
        return rdi_fail(RONDO_ERR_SYSTEM, "hwloc finds no processor that this process may use");
    }
    *cores = out;
    *n = found;
    return RONDO_OK;
}
