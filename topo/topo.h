// SPDX-License-Identifier: MIT
// Rondo, the machine: packages, NUMA nodes, NICs and GPUs, and how far they are from each other.
//
// A topology is what hwloc sees on this host, or what a file says of another one (hwloc's XML, which lstopo writes,
// too). Looking and deciding are apart: everything here only looks, and what was seen on one host can be saved and be
// looked at on another.
#ifndef RONDO_TOPO_H
#define RONDO_TOPO_H

#include <rondo/transport.h>

#ifdef __cplusplus
extern "C" {
#endif

// Never changes after it was loaded: any number of threads may read it. All pointers that the functions below return
// live until rondo_topo_free().
typedef struct rondo_topo rondo_topo;

// What to load. Start from RONDO_TOPO_CONFIG_INIT; at most one of `file` and `synthetic`.
typedef struct rondo_topo_config {
    size_t size;
    const char *file; // hwloc's XML, formats 2 and 3; NULL = this host
    const char
        *synthetic; // hwloc's description of a machine without devices: "pack:2 numa:2 core:8 pu:2"
    int this_cpuset; // 1: of a file only what this process may use here is allowed
} rondo_topo_config;

#define RONDO_TOPO_CONFIG_INIT \
    { .size = sizeof(rondo_topo_config) }

// Loads a topology; config NULL = this host, and what of it the cgroup and the cpuset of this process allow. Reads
// files; may take a tenth of a second. Free it with rondo_topo_free().
// Errors: RONDO_ERR_INVALID: the file or description is not one, with the line and the reason; RONDO_ERR_SYSTEM: the
// file cannot be read; RONDO_ERR_NOMEM.
RONDO_API rondo_status rondo_topo_load(const rondo_topo_config *config, rondo_topo **topo);

// As rondo_topo_load() of a file, of text in memory. `name` stands for the file in errors.
RONDO_API rondo_status rondo_topo_parse(const char *text, size_t len, const char *name,
                                        rondo_topo **topo);

// Writes what was loaded as hwloc's XML, for rondo_topo_load(), rondo-topo and lstopo: the file is complete or, after a
// failure, what it was before. It has what only the host itself knows, as info attributes that begin with "Rondo".
// Errors: RONDO_ERR_SYSTEM.
RONDO_API rondo_status rondo_topo_save(const rondo_topo *topo, const char *path);

// NULL is allowed.
RONDO_API void rondo_topo_free(rondo_topo *topo);

// ---- The machine ---------------------------------------------------------------------------------

typedef struct rondo_topo_machine_info {
    size_t size;
    const char *host; // "" = the file does not say
    const char *cpu;  // model of the first package, or ""
    int packages, cores, pus;
    int allowed_pus;             // of these this process, or the one that saved the file, may use
    const char *allowed_cpus;    // the same as a list: "0-15,32-47"
    int l2_caches, l3_caches;    // how many there are
    uint64_t l2_bytes, l3_bytes; // of one of them
    int numas, devices;
} rondo_topo_machine_info;

RONDO_API const rondo_topo_machine_info *rondo_topo_machine(const rondo_topo *topo);

typedef struct rondo_topo_numa_info {
    size_t size;
    int os_index;     // the kernel's number
    int package;      // the package's number by the kernel; -1 = none, or several
    int allowed;      // 0: its memory may not be used here
    uint64_t memory;  // bytes; 0 = unknown
    int pus;          // allowed processors that belong to it; 0 for memory without processors
    const char *cpus; // the same as a list
} rondo_topo_numa_info;

// NUMA node i of 0 .. numas-1, in the order of their numbers; NULL when out of range.
RONDO_API const rondo_topo_numa_info *rondo_topo_numa(const rondo_topo *topo, int i);

// ---- Devices -------------------------------------------------------------------------------------

typedef enum rondo_topo_kind {
    RONDO_TOPO_GPU = 0,
    RONDO_TOPO_NIC = 1,
} rondo_topo_kind;

// A GPU, or a NIC: one PCI function. Virtual functions are counted with their port where that is seen, and are NICs
// where it is not (in a virtual machine). Interfaces without a device (lo, veth, bridges) are none.
typedef struct rondo_topo_device_info {
    size_t size;
    rondo_topo_kind kind;
    const char *name;  // "GPU0", "NIC3": numbered in the order of PCI addresses
    const char *pci;   // "0000:3b:00.0"; "" = it is not on PCI, or the machine hides that
    const char *model; // vendor and device in words, or ""
    int vendor_id, device_id;
    const char *bridges; // the way from the host bridge down to it: "0000:3a/0000:3a:00.0", or ""
    int numa;            // index of the NUMA node that it is at; -1 = unknown, or several
    const char *cpus;    // allowed processors near it
    double pci_gbps;     // of its PCI link, Gbit/s; 0 = unknown

    // NICs
    const char *rdma; // RDMA devices, with commas between: "mlx5_0"; "" = none
    const char *net;  // network interfaces, the same
    double link_gbps; // of the cable, Gbit/s; 0 = unknown, or no link
    int virtual_functions;

    // GPUs
    const char
        *runtimes; // their names in CUDA, NVML, RSMI, OpenCL: "cuda0,nvml0"; "" = hwloc knows none
    uint64_t memory; // bytes; 0 = unknown
} rondo_topo_device_info;

// Device i of 0 .. devices-1, the GPUs first; NULL when out of range.
RONDO_API const rondo_topo_device_info *rondo_topo_device(const rondo_topo *topo, int i);

// ---- Distances -----------------------------------------------------------------------------------

// What lies between two devices, in the names of nvidia-smi topo -m and of NCCL (NCCL_NET_GDR_LEVEL), nearest first.
typedef enum rondo_topo_distance {
    RONDO_TOPO_LOC = 0,  // the same device
    RONDO_TOPO_PIX = 1,  // at most one PCIe switch
    RONDO_TOPO_PXB = 2,  // several PCIe switches, but no host bridge
    RONDO_TOPO_PHB = 3,  // a PCIe host bridge
    RONDO_TOPO_NODE = 4, // the interconnect between host bridges of one NUMA node
    RONDO_TOPO_SYS =
        5, // the interconnect between NUMA nodes; also where it is not known how they are connected
} rondo_topo_distance;

// "PIX" and so on; and what it means in a few words. Never NULL.
RONDO_API const char *rondo_topo_distance_name(rondo_topo_distance d);
RONDO_API const char *rondo_topo_distance_text(rondo_topo_distance d);

// Between devices i and j; the same in both directions. RONDO_TOPO_SYS when out of range.
RONDO_API rondo_topo_distance rondo_topo_between(const rondo_topo *topo, int i, int j);

// From a device to a NUMA node: RONDO_TOPO_NODE when it is at this node, else RONDO_TOPO_SYS.
RONDO_API rondo_topo_distance rondo_topo_to_numa(const rondo_topo *topo, int device, int numa);

#ifdef __cplusplus
}
#endif

#endif
