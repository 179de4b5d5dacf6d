// SPDX-License-Identifier: MIT
// The cores of this host, for who gives processors to threads.
#ifndef RDI_TOPO_CORES_H
#define RDI_TOPO_CORES_H

#include "topo/set.h"
#include "transport/internal.h"

// Processors of each core that the calling thread may use (its cgroup's and its own affinity), cores without any left
// out; neighbours, by caches, packages and NUMA nodes, follow each other. `synthetic` NULL = this host, otherwise
// hwloc's description of a machine. At least one; free *cores. May take a tenth of a second.
rondo_status rdi_topo_cores(const char *synthetic, struct rdi_set **cores, int *n);

// *cpus = the processors that the calling thread may run on. False: not known, or more than a set has.
bool rdi_topo_own_cpus(struct rdi_set *cpus);

#endif
