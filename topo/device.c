// SPDX-License-Identifier: MIT
// NICs and GPUs: PCI functions with what the system calls them, and NICs that are on no PCI bus that can be seen.
#include "topo/device.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// ---- A device ------------------------------------------------------------------------------------

// The bridges above a device in words: "0000:80/0000:80:01.0". A host bridge has no address, but the range of its buses.
static void describe_way(struct rdi_topo_reader *r, struct rdi_topo_device *d) {
    struct rdi_text way = {0};
    for (size_t i = 0; i < d->bridges; i++) {
        const char *name = rdi_xml_get(r->x, d->bridge[i], "pci_busid");
        const char *range = rdi_xml_get(r->x, d->bridge[i], "bridge_pci"); // "0000:[80-9f]"
        const char *open = range ? strchr(range, '[') : NULL;
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
}

// The bridges above an element, and the place in the machine where they begin.
static bool find_place(struct rdi_topo_reader *r, uint32_t e, struct rdi_topo_device *d) {
    const struct rdi_xml *x = r->x;
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
    d->below_host = d->bridges > 0 && !rdi_xml_get(x, d->bridge[0], "pci_busid");
    describe_way(r, d);
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
    size_t n = (size_t)t->machine.devices;
    if ((n & (n - 1)) == 0) { // full: there is room for as many as the next power of two
        struct rdi_topo_device *more = realloc(t->devices, (n ? 2 * n : 1) * sizeof *more);
        if (!more) {
            rdi_topo_wrong(r, e, "out of memory");
            return NULL;
        }
        t->devices = more;
    }
    struct rdi_topo_device *d = &t->devices[t->machine.devices];
    *d = (struct rdi_topo_device){
        .info = {
            .size = sizeof d->info, .kind = kind, .name = "", .pci = "", .model = "", .numa = -1}};
    t->machine.devices++; // before anything can fail: rondo_topo_free() frees what it owns
    return find_place(r, e, d) ? d : NULL;
}

static void describe(struct rdi_topo_reader *r, const struct rdi_topo_function *f,
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
    d->info.pci_gbps = rdi_topo_read_speed(rdi_xml_get(r->x, f->element, "pci_link_speed"));
}

// ---- Virtual functions ---------------------------------------------------------------------------

static bool says_virtual(const struct rdi_topo_reader *r, uint32_t e) {
    const char *device = rdi_topo_info(r->x, e, "PCIDevice");
    return device && strstr(device, "Virtual Function");
}

// The port that a virtual function is part of, if that can be seen; NULL: f is a port itself.
static const struct rdi_topo_function *port_of(const struct rdi_topo_reader *r,
                                               const struct rdi_topo_function *f,
                                               const struct rdi_topo_function *all, size_t n) {
    const char *port = rdi_topo_info(r->x, f->element, RDI_TOPO_INFO_PHYSFN);
    if (!port && !says_virtual(r, f->element)) {
        return NULL;
    }
    for (size_t i = 0; i < n; i++) {
        const struct rdi_topo_function *p = &all[i];
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

static void count_virtual(const struct rdi_topo_reader *r, const struct rdi_topo_function *all,
                          size_t n) {
    for (size_t i = 0; i < n; i++) {
        const struct rdi_topo_function *port = port_of(r, &all[i], all, n);
        for (int k = 0; port && k < r->t->machine.devices; k++) {
            struct rdi_topo_device *d = &r->t->devices[k];
            d->info.virtual_functions += d->on_pci &&
                                         memcmp(&d->pci, &port->at, sizeof d->pci) == 0;
        }
    }
}

// ---- Kinds ---------------------------------------------------------------------------------------

static bool add_gpu(struct rdi_topo_reader *r, const struct rdi_topo_function *f) {
    struct rdi_topo_device *d = add_device(r, f->element, RONDO_TOPO_GPU);
    if (!d) {
        return false;
    }
    for (uint32_t i = f->element + 1; i < r->x->elements[f->element].end; i++) {
        if (rdi_topo_is(r->x, i, "OSDev")) {
            rdi_topo_add_os_gpu(r, i, d);
        }
    }
    describe(r, f, d);
    return true;
}

// The last one is none after all, if it has no name: none at all, or only such as are too long to be one.
static bool drop_nameless(struct rdi_topo_reader *r, struct rdi_topo_device *d) {
    if (d->rdma.len + d->net.len > 0) {
        return false;
    }
    rdi_text_free(&d->rdma);
    rdi_text_free(&d->net);
    r->t->machine.devices--;
    return true;
}

// Only what the system has a driver for: nothing can be sent through the others.
static bool add_nic(struct rdi_topo_reader *r, const struct rdi_topo_function *f) {
    struct rdi_topo_device *d = add_device(r, f->element, RONDO_TOPO_NIC);
    if (!d) {
        return false;
    }
    for (uint32_t i = f->element + 1; i < r->x->elements[f->element].end; i++) {
        rdi_topo_add_os_nic(r, i, d);
    }
    if (!drop_nameless(r, d)) {
        describe(r, f, d);
    }
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
    enum rdi_topo_os type = rdi_topo_os_type(r, e);
    if (type == RDI_OS_OTHER || !name || *name == '\0' || strchr(name, ',') || below_pci(r->x, e) ||
        (type == RDI_OS_NET && rdi_topo_is_virtual(name))) {
        return true;
    }
    for (int i = 0; type == RDI_OS_RDMA && i < r->t->machine.devices; i++) {
        if (rdi_topo_listed(&r->t->devices[i].rdma, name, strlen(name))) {
            return true; // its network device has named it
        }
    }
    struct rdi_topo_device *d = add_device(r, e, RONDO_TOPO_NIC);
    if (d) {
        rdi_topo_add_os_nic(r, e, d);
        drop_nameless(r, d);
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
static bool collect(struct rdi_topo_reader *r, struct rdi_topo_function **out, size_t *n) {
    size_t cap = 0;
    *out = NULL;
    *n = 0;
    for (uint32_t i = 1; i < r->x->nelements; i++) {
        struct rdi_topo_function f;
        if (!rdi_topo_is(r->x, i, "PCIDev")) {
            continue;
        }
        if (!rdi_topo_read_function(r, i, &f)) {
            return false;
        }
        if (f.class >> 8 != 2 && !rdi_topo_is_gpu(r, &f)) {
            continue;
        }
        if (*n == (size_t)4 * RDI_TOPO_DEVICES) {
            return rdi_topo_wrong(r, i, "more than %d PCI devices for networks and graphics",
                                  4 * RDI_TOPO_DEVICES);
        }
        if (*n == cap) {
            cap = cap ? 2 * cap : 64;
            struct rdi_topo_function *more = realloc(*out, cap * sizeof *more);
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
    struct rdi_topo_function *all;
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
    for (int want = RDI_OS_NET; ok && want <= RDI_OS_RDMA; want++) {
        for (uint32_t i = 1; ok && i < r->x->nelements; i++) {
            ok = (int)rdi_topo_os_type(r, i) != want || add_lone_nic(r, i);
        }
    }
    if (ok && r->t->devices) {
        count_virtual(r, all, n);
        finish(r->t);
    }
    free(all);
    return ok;
}
