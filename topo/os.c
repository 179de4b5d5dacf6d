// SPDX-License-Identifier: MIT
// What the system calls a device: network interfaces, RDMA devices, names of GPUs in programming interfaces.
#include "topo/device.h"

#include <string.h>

// hwloc 2 numbers the types of OS devices, hwloc 3 has a bit for each.
enum rdi_topo_os rdi_topo_os_type(const struct rdi_topo_reader *r, uint32_t e) {
    uint64_t v;
    if (!rdi_topo_is(r->x, e, "OSDev") ||
        !rdi_topo_number(rdi_xml_get(r->x, e, "osdev_type"), UINT32_MAX, NULL, &v)) {
        return RDI_OS_OTHER;
    }
    if (r->format == 2) {
        return v == 3 ? RDI_OS_RDMA : v == 2 ? RDI_OS_NET : RDI_OS_OTHER;
    }
    return v & 32 ? RDI_OS_RDMA : v & 16 ? RDI_OS_NET : RDI_OS_OTHER;
}

bool rdi_topo_is_virtual(const char *net) {
    static const char *const prefixes[] = {"veth",    "docker", "br-",   "virbr",  "vnet", "tap",
                                           "tun",     "dummy",  "cni",   "cali",   "wg",   "ifb",
                                           "flannel", "bond",   "vxlan", "macvtap"};
    for (size_t i = 0; i < sizeof prefixes / sizeof prefixes[0]; i++) {
        if (strncmp(net, prefixes[i], strlen(prefixes[i])) == 0) {
            return true;
        }
    }
    return strcmp(net, "lo") == 0;
}

bool rdi_topo_listed(const struct rdi_text *list, const char *name, size_t n) {
    for (const char *p = list->buf; p && *p != '\0'; p += strcspn(p, ",")) {
        p += *p == ',';
        if (strcspn(p, ",") == n && strncmp(p, name, n) == 0) {
            return true;
        }
    }
    return false;
}

// Each of the names in a list with commas, once.
static void add_names(struct rdi_text *list, const char *names) {
    while (names && *names != '\0' && list->len < RDI_TOPO_NAMES) {
        size_t n = strcspn(names, ",");
        if (n > 0 && n < 256 && !rdi_topo_listed(list, names, n)) {
            rdi_text_add(list, "%s%.*s", list->len ? "," : "", (int)n, names);
        }
        names += n + (names[n] == ',');
    }
}

static void add_speed(const struct rdi_topo_reader *r, uint32_t e, double *gbps) {
    uint64_t mbps;
    if (rdi_topo_number(rdi_topo_info(r->x, e, RDI_TOPO_INFO_MBPS), 100000000, NULL, &mbps) &&
        (double)mbps / 1000 > *gbps) {
        *gbps = (double)mbps / 1000;
    }
}

// A network or RDMA device of a NIC.
void rdi_topo_add_os_nic(const struct rdi_topo_reader *r, uint32_t e, struct rdi_topo_device *d) {
    enum rdi_topo_os type = rdi_topo_os_type(r, e);
    const char *name = rdi_xml_get(r->x, e, "name");
    if (type == RDI_OS_OTHER || !name || (type == RDI_OS_NET && rdi_topo_is_virtual(name))) {
        return;
    }
    add_names(type == RDI_OS_RDMA ? &d->rdma : &d->net, name);
    add_names(&d->rdma, rdi_topo_info(r->x, e, RDI_TOPO_INFO_RDMA));
    add_speed(r, e, &d->info.link_gbps);
}

// A name of a GPU in a programming interface, and the memory that this one says it has.
void rdi_topo_add_os_gpu(const struct rdi_topo_reader *r, uint32_t e, struct rdi_topo_device *d) {
    static const char *const kinds[] = {"CUDA", "NVML", "RSMI", "OpenCL", "LevelZero"};
    static const char *const sizes[] = {"CUDAGlobalMemorySize", "RSMIVRAMSize", "LevelZeroHBMSize",
                                        "LevelZeroDDRSize", "OpenCLGlobalMemorySize"};
    const char *kind = rdi_xml_get(r->x, e, "subtype"), *name = rdi_xml_get(r->x, e, "name");
    for (size_t i = 0; kind && name && i < sizeof kinds / sizeof kinds[0]; i++) {
        if (strcmp(kind, kinds[i]) == 0) {
            add_names(&d->runtimes, name);
        }
    }
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0] && d->info.memory == 0; i++) {
        uint64_t kib;
        if (rdi_topo_number(rdi_topo_info(r->x, e, sizes[i]), UINT64_C(1) << 40, "KiB", &kib)) {
            d->info.memory = kib << 10;
        }
    }
    const char *model = rdi_topo_info(r->x, e, "GPUModel");
    if (model && d->info.model[0] == '\0') {
        d->info.model = rdi_topo_string(r->t, model);
    }
}

bool rdi_topo_has_runtime(const struct rdi_topo_reader *r, uint32_t e) {
    struct rdi_topo_device d = {.info = {.model = "-"}};
    for (uint32_t i = e + 1; i < r->x->elements[e].end; i++) {
        if (rdi_topo_is(r->x, i, "OSDev")) {
            rdi_topo_add_os_gpu(r, i, &d);
        }
    }
    bool has = d.runtimes.len > 0;
    rdi_text_free(&d.runtimes);
    return has;
}
