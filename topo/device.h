// SPDX-License-Identifier: MIT
// What the files that find devices share: pci.c (PCI functions), os.c (what the system calls them), device.c.
#ifndef RDI_TOPO_DEVICE_H
#define RDI_TOPO_DEVICE_H

#include "topo/internal.h"

// A PCI function while the file is read.
struct rdi_topo_function {
    uint32_t element;
    struct rdi_topo_pci at;
    unsigned class, vendor, device;
};

// False: the reader's error.
bool rdi_topo_read_function(struct rdi_topo_reader *r, uint32_t e, struct rdi_topo_function *f);
// "15.753846" GB/s, without a locale; in Gbit/s. 0: unknown.
double rdi_topo_read_speed(const char *text);
bool rdi_topo_is_gpu(const struct rdi_topo_reader *r, const struct rdi_topo_function *f);

enum rdi_topo_os { RDI_OS_OTHER, RDI_OS_NET, RDI_OS_RDMA };
enum rdi_topo_os rdi_topo_os_type(const struct rdi_topo_reader *r, uint32_t e);
// An interface made by software, on top of devices or of none. hwloc shows none of them unless it is asked to.
bool rdi_topo_is_virtual(const char *net);
// `name` is one of a list with commas between.
bool rdi_topo_listed(const struct rdi_text *list, const char *name, size_t n);
// What OS device e adds to a NIC or a GPU.
void rdi_topo_add_os_nic(const struct rdi_topo_reader *r, uint32_t e, struct rdi_topo_device *d);
void rdi_topo_add_os_gpu(const struct rdi_topo_reader *r, uint32_t e, struct rdi_topo_device *d);
// Function e has a name in a programming interface.
bool rdi_topo_has_runtime(const struct rdi_topo_reader *r, uint32_t e);

#endif
