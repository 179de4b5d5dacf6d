// SPDX-License-Identifier: MIT
// NICs and GPUs: PCI functions with what the system calls them, and NICs that are on no PCI bus that can be seen.
#include "topo/internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define VENDOR_AMD 0x1002
#define VENDOR_NVIDIA 0x10de
#define VENDOR_INTEL 0x8086

// A PCI function while the file is read.
struct function {
    uint32_t element;
    struct rdi_topo_pci at;
    unsigned class, vendor, device;
};

// ---- Words of PCI --------------------------------------------------------------------------------

// Exactly `digits` hexadecimal ones, and the character behind them, which is passed.
static bool hex(const char **at, size_t min, size_t max, char end, uint32_t *out) {
    size_t n = strspn(*at, "0123456789abcdefABCDEF");
    if (n < min || n > max || (*at)[n] != end) {
        return false;
    }
    *out = (uint32_t)strtoul(*at, NULL, 16);
    *at += n + (end != '\0');
    return true;
}

// "0000:3b:00.0"
static bool read_address(const char *text, struct rdi_topo_pci *p) {
    return text && hex(&text, 4, 8, ':', &p->domain) && hex(&text, 2, 2, ':', &p->bus) &&
           hex(&text, 2, 2, '.', &p->device) && hex(&text, 1, 1, '\0', &p->function) &&
           p->device < 32 && p->function < 8;
}

// "0200 [8086:1521] [1137:008b] 01 00"
static bool read_type(const char *text, struct function *f) {
    if (!text || !hex(&text, 4, 4, ' ', &f->class) || *text++ != '[') {
        return false;
    }
    return hex(&text, 4, 4, ':', &f->vendor) && hex(&text, 4, 4, ']', &f->device);
}

static bool read_function(struct rdi_topo_reader *r, uint32_t e, struct function *f) {
    const char *address = rdi_xml_get(r->x, e, "pci_busid"),
               *type = rdi_xml_get(r->x, e, "pci_type");
    *f = (struct function){.element = e};
    if (!read_address(address, &f->at)) {
        return rdi_topo_wrong(r, e, "a PCI device with pci_busid \"%.24s\"",
                              address ? address : "");
    }
    if (!read_type(type, f)) {
        return rdi_topo_wrong(r, e, "PCI device %s with pci_type \"%.40s\"", address,
                              type ? type : "");
    }
    return true;
}

// "15.753846" GB/s, without a locale; in Gbit/s. 0: unknown.
static double read_speed(const char *text) {
    double v = 0, unit = 1;
    if (!text || strlen(text) > 16) {
        return 0;
    }
    for (; *text >= '0' && *text <= '9'; text++) {
        v = 10 * v + (*text - '0');
    }
    if (*text == '.') {
        for (text++; *text >= '0' && *text <= '9'; text++) {
            unit /= 10;
            v += unit * (*text - '0');
        }
    }
    return *text == '\0' && v < 1e5 ? 8 * v : 0;
}

// ---- What the system calls a device --------------------------------------------------------------

enum os { OS_OTHER, OS_NET, OS_RDMA };

// hwloc 2 numbers the types of OS devices, hwloc 3 has a bit for each.
static enum os os_type(const struct rdi_topo_reader *r, uint32_t e) {
    uint64_t v;
    if (!rdi_topo_is(r->x, e, "OSDev") ||
        !rdi_topo_number(rdi_xml_get(r->x, e, "osdev_type"), UINT32_MAX, NULL, &v)) {
        return OS_OTHER;
    }
    if (r->format == 2) {
        return v == 3 ? OS_RDMA : v == 2 ? OS_NET : OS_OTHER;
    }
    return v & 32 ? OS_RDMA : v & 16 ? OS_NET : OS_OTHER;
}

// Made by software on top of other devices, or of none. hwloc shows none of them unless it is asked to.
static bool is_virtual(const char *net) {
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

static bool listed(const struct rdi_text *list, const char *name, size_t n) {
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
    while (names && *names != '\0') {
        size_t n = strcspn(names, ",");
        if (n > 0 && n < 256 && !listed(list, names, n)) {
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
static void add_os_nic(const struct rdi_topo_reader *r, uint32_t e, struct rdi_topo_device *d) {
    enum os type = os_type(r, e);
    const char *name = rdi_xml_get(r->x, e, "name");
    if (type == OS_OTHER || !name || (type == OS_NET && is_virtual(name))) {
        return;
    }
    add_names(type == OS_RDMA ? &d->rdma : &d->net, name);
    add_names(&d->rdma, rdi_topo_info(r->x, e, RDI_TOPO_INFO_RDMA));
    add_speed(r, e, &d->info.link_gbps);
}

// A name of a GPU in a programming interface, and the memory that this one says it has.
static void add_os_gpu(const struct rdi_topo_reader *r, uint32_t e, struct rdi_topo_device *d) {
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

// ---- A device ------------------------------------------------------------------------------------

// The bridges above an element, and the place in the machine where they begin.
static bool find_place(struct rdi_topo_reader *r, uint32_t e, struct rdi_topo_device *d) {
    const struct rdi_xml *x = r->x;
    struct rdi_text way = {0};
    uint32_t up = x->elements[e].parent;
    for (; up != RDI_XML_NONE && !rdi_xml_get(x, up, "cpuset"); up = x->elements[up].parent) {
        if (!rdi_topo_is(x, up, "Bridge")) {
            continue;
        }
        if (d->bridges == RDI_TOPO_BRIDGES) {
            return rdi_topo_wrong(r, e, "a device below more than %d bridges", RDI_TOPO_BRIDGES);
        }
        d->bridge[d->bridges++] = up;
    }
    if (up != RDI_XML_NONE && !rdi_topo_set(r, up, "cpuset", &d->cpus)) {
        return false;
    }
    for (size_t i = 0; i < d->bridges / 2; i++) {
        uint32_t low = d->bridge[i];
        d->bridge[i] = d->bridge[d->bridges - 1 - i];
        d->bridge[d->bridges - 1 - i] = low;
    }
    for (size_t i = 0; i < d->bridges; i++) {
        const char *name = rdi_xml_get(x, d->bridge[i], "pci_busid");
        const char *range = rdi_xml_get(x, d->bridge[i], "bridge_pci"); // "0000:[80-9f]"
        const char *open = range ? strchr(range, '[') : NULL;
        d->below_host = d->below_host || (i == 0 && !name);
        if (name) {
            rdi_text_add(&way, "%s%.16s", i ? "/" : "", name);
        } else if (open && open - range < 10) {
            rdi_text_add(&way, "%s%.*s%.2s", i ? "/" : "", (int)(open - range), range, open + 1);
        } else {
            rdi_text_add(&way, "%s?", i ? "/" : "");
        }
    }
    d->info.bridges = rdi_topo_string(r->t, way.buf);
    r->t->nomem = r->t->nomem || way.failed;
    rdi_text_free(&way);
    return true;
}

// The next free one, at its place. NULL: the reader's error, or memory that ran out (nomem).
static struct rdi_topo_device *add_device(struct rdi_topo_reader *r, uint32_t e,
                                          rondo_topo_kind kind) {
    struct rondo_topo *t = r->t;
    if (t->machine.devices == RDI_TOPO_DEVICES) {
        rdi_topo_wrong(r, e, "more than %d NICs and GPUs", RDI_TOPO_DEVICES);
        return NULL;
    }
    if (!t->devices) {
        t->devices = calloc(RDI_TOPO_DEVICES, sizeof *t->devices);
        if (!t->devices) {
            rdi_topo_wrong(r, e, "out of memory");
            return NULL;
        }
    }
    struct rdi_topo_device *d = &t->devices[t->machine.devices];
    *d = (struct rdi_topo_device){
        .info = {
            .size = sizeof d->info, .kind = kind, .name = "", .pci = "", .model = "", .numa = -1}};
    t->machine.devices++; // before anything can fail: rondo_topo_free() frees what it owns
    return find_place(r, e, d) ? d : NULL;
}

static void describe(struct rdi_topo_reader *r, const struct function *f,
                     struct rdi_topo_device *d) {
    const char *vendor = rdi_topo_info(r->x, f->element, "PCIVendor");
    const char *device = rdi_topo_info(r->x, f->element, "PCIDevice");
    struct rdi_text words = {0};
    rdi_text_add(&words, "%s%s%s", vendor ? vendor : "", vendor && device ? " " : "",
                 device ? device : "");
    if (d->info.model[0] == '\0') {
        d->info.model = rdi_topo_string(r->t, words.buf);
    }
    r->t->nomem = r->t->nomem || words.failed;
    rdi_text_free(&words);
    d->on_pci = true;
    d->pci = f->at;
    d->info.pci = rdi_topo_string(r->t, rdi_xml_get(r->x, f->element, "pci_busid"));
    d->info.vendor_id = (int)f->vendor;
    d->info.device_id = (int)f->device;
    d->info.pci_gbps = read_speed(rdi_xml_get(r->x, f->element, "pci_link_speed"));
}

// ---- Virtual functions ---------------------------------------------------------------------------

static bool says_virtual(const struct rdi_topo_reader *r, uint32_t e) {
    const char *device = rdi_topo_info(r->x, e, "PCIDevice");
    return device && strstr(device, "Virtual Function");
}

// The port that a virtual function is part of, if that can be seen; NULL: f is a port itself.
static const struct function *port_of(const struct rdi_topo_reader *r, const struct function *f,
                                      const struct function *all, size_t n) {
    const char *port = rdi_topo_info(r->x, f->element, RDI_TOPO_INFO_PHYSFN);
    if (!port && !says_virtual(r, f->element)) {
        return NULL;
    }
    for (size_t i = 0; i < n; i++) {
        const struct function *p = &all[i];
        const char *address = rdi_xml_get(r->x, p->element, "pci_busid");
        if (p == f || (port && strcmp(port, address) != 0)) {
            continue;
        }
        if (port || (p->at.domain == f->at.domain && p->at.bus == f->at.bus &&
                     p->vendor == f->vendor && !says_virtual(r, p->element))) {
            return p;
        }
    }
    return NULL;
}

static void count_virtual(const struct rdi_topo_reader *r, const struct function *all, size_t n) {
    for (size_t i = 0; i < n; i++) {
        const struct function *port = port_of(r, &all[i], all, n);
        for (int k = 0; port && k < r->t->machine.devices; k++) {
            struct rdi_topo_device *d = &r->t->devices[k];
            d->info.virtual_functions += d->on_pci &&
                                         memcmp(&d->pci, &port->at, sizeof d->pci) == 0;
        }
    }
}

// ---- Kinds ---------------------------------------------------------------------------------------

static bool has_runtime(const struct rdi_topo_reader *r, uint32_t e) {
    struct rdi_topo_device d = {.info = {.model = "-"}};
    for (uint32_t i = e + 1; i < r->x->elements[e].end; i++) {
        if (rdi_topo_is(r->x, i, "OSDev")) {
            add_os_gpu(r, i, &d);
        }
    }
    bool has = d.runtimes.len > 0;
    rdi_text_free(&d.runtimes);
    return has;
}

// Chips that draw the console of a server; the others are told from GPUs by their vendor.
static bool is_console(const struct function *f) {
    static const unsigned ati[] = {0x4752, 0x515e, 0x5969}; // Rage XL, ES1000
    for (size_t i = 0; i < sizeof ati / sizeof ati[0]; i++) {
        if (f->vendor == VENDOR_AMD && f->device == ati[i]) {
            return true;
        }
    }
    return false;
}

// 3D controllers; display controllers, VGA and accelerators of those who make GPUs, or with a driver for computing.
static bool is_gpu(const struct rdi_topo_reader *r, const struct function *f) {
    bool amd = f->vendor == VENDOR_AMD && !is_console(f), nvidia = f->vendor == VENDOR_NVIDIA;
    switch (f->class) {
    case 0x0302:
        return true;
    case 0x0300: // of Intel: what processors have built in
        return amd || nvidia || has_runtime(r, f->element);
    case 0x0380:
        return amd || nvidia || f->vendor == VENDOR_INTEL || has_runtime(r, f->element);
    case 0x1200:
        return amd || has_runtime(r, f->element);
    default:
        return false;
    }
}

static bool add_gpu(struct rdi_topo_reader *r, const struct function *f) {
    struct rdi_topo_device *d = add_device(r, f->element, RONDO_TOPO_GPU);
    if (!d) {
        return false;
    }
    for (uint32_t i = f->element + 1; i < r->x->elements[f->element].end; i++) {
        if (rdi_topo_is(r->x, i, "OSDev")) {
            add_os_gpu(r, i, d);
        }
    }
    describe(r, f, d);
    return true;
}

// Only what the system has a driver for: nothing can be sent through the others.
static bool add_nic(struct rdi_topo_reader *r, const struct function *f) {
    struct rdi_topo_device *d = add_device(r, f->element, RONDO_TOPO_NIC);
    if (!d) {
        return false;
    }
    for (uint32_t i = f->element + 1; i < r->x->elements[f->element].end; i++) {
        add_os_nic(r, i, d);
    }
    if (d->rdma.len + d->net.len == 0) {
        rdi_text_free(&d->rdma);
        rdi_text_free(&d->net);
        r->t->machine.devices--;
        return true;
    }
    describe(r, f, d);
    return true;
}

static bool below_pci(const struct rdi_xml *x, uint32_t e) {
    while ((e = x->elements[e].parent) != RDI_XML_NONE) {
        if (rdi_topo_is(x, e, "PCIDev")) {
            return true;
        }
    }
    return false;
}

// A network device on no PCI bus: another bus, or a virtual machine that shows none.
static bool add_lone_nic(struct rdi_topo_reader *r, uint32_t e) {
    const char *name = rdi_xml_get(r->x, e, "name");
    enum os type = os_type(r, e);
    if (type == OS_OTHER || !name || *name == '\0' || strchr(name, ',') || below_pci(r->x, e) ||
        (type == OS_NET && is_virtual(name))) {
        return true;
    }
    for (int i = 0; type == OS_RDMA && i < r->t->machine.devices; i++) {
        if (listed(&r->t->devices[i].rdma, name, strlen(name))) {
            return true; // its network device has named it
        }
    }
    struct rdi_topo_device *d = add_device(r, e, RONDO_TOPO_NIC);
    if (d) {
        add_os_nic(r, e, d);
    }
    return d != NULL;
}

// ---- All of them ---------------------------------------------------------------------------------

static int by_address(const void *a, const void *b) {
    const struct rdi_topo_device *x = a, *y = b;
    if (x->info.kind != y->info.kind) {
        return x->info.kind < y->info.kind ? -1 : 1;
    }
    if (x->on_pci != y->on_pci) {
        return x->on_pci ? -1 : 1;
    }
    const uint32_t k[][2] = {{x->pci.domain, y->pci.domain},
                             {x->pci.bus, y->pci.bus},
                             {x->pci.device, y->pci.device},
                             {x->pci.function, y->pci.function}};
    for (size_t i = 0; i < sizeof k / sizeof k[0]; i++) {
        if (k[i][0] != k[i][1]) {
            return k[i][0] < k[i][1] ? -1 : 1;
        }
    }
    const char *s = x->net.buf ? x->net.buf : "", *u = y->net.buf ? y->net.buf : "";
    return strcmp(s, u);
}

// Numbers, and the texts that are whole now.
static void finish(struct rondo_topo *t) {
    int count[2] = {0};
    qsort(t->devices, (size_t)t->machine.devices, sizeof *t->devices, by_address);
    for (int i = 0; i < t->machine.devices; i++) {
        struct rdi_topo_device *d = &t->devices[i];
        struct rdi_set usable = d->cpus;
        rdi_set_keep(&usable, &t->allowed);
        char name[24], *list = rdi_set_list(&usable);
        snprintf(name, sizeof name, "%s%d", d->info.kind == RONDO_TOPO_GPU ? "GPU" : "NIC",
                 count[d->info.kind]++);
        d->info.name = rdi_topo_string(t, name);
        d->info.cpus = rdi_topo_string(t, list);
        d->info.rdma = rdi_topo_string(t, d->rdma.buf);
        d->info.net = rdi_topo_string(t, d->net.buf);
        d->info.runtimes = rdi_topo_string(t, d->runtimes.buf);
        t->nomem = t->nomem || !list || d->rdma.failed || d->net.failed || d->runtimes.failed;
        free(list);
    }
}

// The PCI devices of the classes that count; *n of them in a new array.
static bool collect(struct rdi_topo_reader *r, struct function **out, size_t *n) {
    size_t cap = 0;
    *out = NULL;
    *n = 0;
    for (uint32_t i = 1; i < r->x->nelements; i++) {
        struct function f;
        if (!rdi_topo_is(r->x, i, "PCIDev")) {
            continue;
        }
        if (!read_function(r, i, &f)) {
            return false;
        }
        if (f.class >> 8 != 2 && !is_gpu(r, &f)) {
            continue;
        }
        if (*n == (size_t)4 * RDI_TOPO_DEVICES) {
            return rdi_topo_wrong(r, i, "more than %d PCI devices for networks and graphics",
                                  4 * RDI_TOPO_DEVICES);
        }
        if (*n == cap) {
            cap = cap ? 2 * cap : 64;
            struct function *more = realloc(*out, cap * sizeof *more);
            if (!more) {
                return rdi_topo_wrong(r, i, "out of memory");
            }
            *out = more;
        }
        (*out)[(*n)++] = f;
    }
    return true;
}

bool rdi_topo_read_devices(struct rdi_topo_reader *r) {
    struct function *all;
    size_t n;
    bool ok = collect(r, &all, &n);
    for (size_t i = 0; ok && i < n; i++) {
        if (all[i].class >> 8 != 2) {
            ok = add_gpu(r, &all[i]);
        } else if (!port_of(r, &all[i], all, n)) {
            ok = add_nic(r, &all[i]);
        }
    }
    // RDMA devices after the network devices that may name them.
    for (int want = OS_NET; ok && want <= OS_RDMA; want++) {
        for (uint32_t i = 1; ok && i < r->x->nelements; i++) {
            ok = (int)os_type(r, i) != want || add_lone_nic(r, i);
        }
    }
    if (ok && r->t->devices) {
        count_virtual(r, all, n);
        finish(r->t);
    }
    free(all);
    return ok;
}
