// SPDX-License-Identifier: MIT
// The table of checks, in the order of the report. Ids are stable: programs that read the JSON know them.
#include "transport/doctor/doctor.h"

const struct dr_check dr_checks[] = {
    {"job.options", "job", "options that the environment sets, and whether they are valid",
     dr_job_options},
    {"job.variables", "job", "variables that look like options and are none", dr_job_variables},
    {"job.launcher", "job", "where rank, size and the store come from", dr_job_launcher},
    {"job.key", "job", "where the job's key comes from, and who can read it", dr_job_key},
    {"host.container", "host", "whether this is a container, and which", dr_host_container},
    {"host.cpus", "host", "processors that may be used, against local ranks", dr_host_cpus},
    {"host.numa", "host", "NUMA nodes of the processors and of the network cards", dr_host_numa},
    {"host.ptrace", "host", "whether debuggers may attach to a rank", dr_host_ptrace},
    {"host.hugepages", "host", "huge pages for shared memory", dr_host_hugepages},
    {"cgroup.memory", "cgroup", "memory that the cgroup permits", dr_cgroup_memory},
    {"cgroup.cpu", "cgroup", "processor time that the cgroup permits", dr_cgroup_cpu},
    {"cgroup.pids", "cgroup", "threads that the cgroup permits, against what ranks need",
     dr_cgroup_pids},
    {"cgroup.rdma", "cgroup", "RDMA objects that the cgroup permits", dr_cgroup_rdma},
    {"memory.memlock", "memory", "memory that may be locked, which RDMA needs", dr_memory_memlock},
    {"memory.memfd", "memory", "whether shared memory files can be made and sealed",
     dr_memory_memfd},
    {"memory.shm", "memory", "size of /dev/shm, and what is free", dr_memory_shm},
    {"memory.files", "memory", "limit on open files, against what ranks need", dr_memory_files},
    {"network.interfaces", "network", "interfaces, and which are used", dr_network_interfaces},
    {"network.buffers", "network", "largest buffers of a TCP connection", dr_network_buffers},
    {"network.ports", "network", "ports for connections, and the queue of the store's listener",
     dr_network_ports},
    {"rdma.library", "rdma", "libibverbs and its drivers", dr_rdma_library},
    {"rdma.files", "rdma", "device files of the RDMA devices that the kernel has", dr_rdma_files},
    {"rdma.ports", "rdma", "ports, link state, speed, GIDs, MTU; which are used and why",
     dr_rdma_ports},
    {"gpu.peer_memory", "gpu", "whether network cards can reach GPU memory", dr_gpu_peer_memory},
    {"gpu.pci", "gpu", "IOMMU and PCI access control, which slow devices that talk to each other",
     dr_gpu_pci},
};
const size_t dr_ncheck = sizeof dr_checks / sizeof dr_checks[0];

// With --peer and --listen only.
const struct dr_check dr_peer_checks[DR_PEER_CHECKS] = {
    [DR_PEER_CONNECT] = {"peer.connect", "peer", "rondo-doctor --listen answers and has the key",
                         NULL},
    [DR_PEER_CLOCK] = {"peer.clock", "peer", "difference of the clocks, round-trip time", NULL},
    [DR_PEER_PATH] = {"peer.path", "peer", "connections between all addresses, in both directions",
                      NULL},
    [DR_PEER_MTU] = {"peer.mtu", "peer", "MTU of the interfaces and of the ways between them",
                     NULL},
    [DR_PEER_SPEED] = {"peer.speed", "peer", "one connection's throughput for a second", NULL},
    [DR_PEER_LINK] = {"peer.link", "peer", "messages over the transports themselves", NULL},
};
