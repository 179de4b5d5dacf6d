// SPDX-License-Identifier: MIT
// What the files of topo/ share.
//
//   this host ----- hwloc --\   host.c (sysfs.c adds what hwloc does not look at)
//   a description - hwloc ---+--> XML --> xml.c --> machine.c, device.c (pci.c, os.c) --> distance.c --> tables, never changed
//   a file ------------------/            the only way in, whoever made the text
//
// topo/ knows nobody above it. Of transport/ it uses the status codes and the helpers for errors, text and files.
#ifndef RDI_TOPO_INTERNAL_H
#define RDI_TOPO_INTERNAL_H

#include "topo/set.h"
#include "topo/topo.h"
#include "topo/xml.h"
#include "transport/internal.h"
#include "transport/text.h"

#define RDI_TOPO_PACKAGES 1024
#define RDI_TOPO_NUMAS 1024
#define RDI_TOPO_DEVICES 1024
#define RDI_TOPO_BRIDGES 32 // one below the other
#define RDI_TOPO_NAMES 4000 // bytes of all names of one device

// Info attributes that we add to hwloc's objects.
#define RDI_TOPO_INFO_MBPS "RondoLinkMbps" // network and RDMA devices
#define RDI_TOPO_INFO_RDMA "RondoRDMA" // network devices: RDMA devices over it, with commas between
#define RDI_TOPO_INFO_PHYSFN \
    "RondoPhysfn" // PCI devices: the function that this one is a virtual one of

struct rdi_topo_numa {
    rondo_topo_numa_info info;
    struct rdi_set cpus; // of the machine, whether allowed or not
};

struct rdi_topo_pci {
    uint32_t domain, bus, device, function;
};

struct rdi_topo_device {
    rondo_topo_device_info info;
    bool on_pci;
    struct rdi_topo_pci pci;
    struct rdi_set cpus;               // of the place in the machine that it hangs at
    uint32_t bridge[RDI_TOPO_BRIDGES]; // elements, the one next to the processors first
    size_t bridges;
    bool below_host; // the first of them is a host bridge
    struct rdi_text rdma, net, runtimes;
};

struct rondo_topo {
    char *text; // the XML, for rondo_topo_save()
    size_t len;
    rondo_topo_machine_info machine;
    struct rdi_set cpus, allowed; // the machine's processors; those that may be used
    struct rdi_topo_numa *numas;
    struct rdi_topo_device *devices;
    uint8_t *between, *to_numa; // devices * devices, devices * numas
    char **strings;             // all text that infos point to
    size_t nstrings, strings_cap;
    bool nomem; // some string is missing
};

// A source while it is read.
struct rdi_topo_reader {
    struct rondo_topo *t;
    const struct rdi_xml *x;
    int format;                           // 2 or 3
    uint32_t packages[RDI_TOPO_PACKAGES]; // elements, as many as machine.packages
    char *why;
    size_t cap;
};

// Puts "line N: ..." where the reader's error goes; false.
bool rdi_topo_wrong(struct rdi_topo_reader *r, uint32_t e, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

// A copy that lives as long as t, of printable UTF-8; "" for NULL or when memory runs out.
const char *rdi_topo_string(struct rondo_topo *t, const char *text);

// Element e is <object type="...">.
bool rdi_topo_is(const struct rdi_xml *x, uint32_t e, const char *type);
// The value of <info name="..."> directly in e; NULL = none.
const char *rdi_topo_info(const struct rdi_xml *x, uint32_t e, const char *name);
// A decimal number of at most `max`, with nothing behind it but what `unit` says (NULL: nothing).
bool rdi_topo_number(const char *text, uint64_t max, const char *unit, uint64_t *out);
// The set in attribute `name`. False, and the reader's error: it is there and none. Absent: *s is empty.
bool rdi_topo_set(struct rdi_topo_reader *r, uint32_t e, const char *name, struct rdi_set *s);

// machine.c: the machine and its NUMA nodes; device.c: the devices; distance.c: the tables.
bool rdi_topo_read_machine(struct rdi_topo_reader *r, const struct rdi_set *only_cpus,
                           const struct rdi_set *only_nodes);
bool rdi_topo_read_devices(struct rdi_topo_reader *r);
bool rdi_topo_measure(struct rondo_topo *t);

// All of the above. `only` sets NULL = what the text itself says. The text is copied.
rondo_status rdi_topo_parse(const char *text, size_t len, const char *name,
                            const struct rdi_set *only_cpus, const struct rdi_set *only_nodes,
                            struct rondo_topo **out);

// host.c: XML from hwloc; free *text. `synthetic` NULL = this host.
rondo_status rdi_topo_host_text(const char *synthetic, char **text, size_t *len);
// What this process may use.
rondo_status rdi_topo_host_allowed(struct rdi_set *cpus, struct rdi_set *nodes);

// sysfs.c, below `root` ("" = this host's), for tests on prepared trees.
// Mbit/s of a network interface or of port 1 .. of an RDMA device; 0 = unknown or no link.
uint64_t rdi_topo_net_mbps(const char *root, const char *net);
uint64_t rdi_topo_rdma_mbps(const char *root, const char *rdma);
// RDMA devices that send over this interface, with commas between.
void rdi_topo_rdma_over(const char *root, const char *net, char *out, size_t cap);
// The physical function of a virtual one; "" = it is none.
void rdi_topo_physfn(const char *root, const char *pci, char *out, size_t cap);
// What the list `file` calls a device and its vendor, each with cap bytes; "" = it does not say. True: it has the vendor.
bool rdi_topo_pci_names(const char *file, unsigned vendor, unsigned device, char *vendor_name,
                        char *device_name, size_t cap);

#endif
