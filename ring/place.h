// SPDX-License-Identifier: MIT
// A rank's own place on its host, decided before its transports are opened.
#ifndef RDI_RING_PLACE_H
#define RDI_RING_PLACE_H

#include "ring/layout.h"
#include "topo/decide.h"
#include "transport/bootstrap/bootstrap.h"
#include "transport/internal.h"

struct rdi_place {
    struct rdi_rails rails; // NICs that its transports prefer
    struct rdi_seat seat;   // what the other ranks are told
    struct rdi_gpu_way way; // of its GPU's memory
    int cpu;                // for its progress thread; -1 = anywhere
    int node;               // kernel's number of the NUMA node for its memory; -1 = as it comes
};

// Looks at this host, or at the file that option topology names, and decides as if the other ranks of the host were
// told nothing; each rank's decision stands for itself, so it does no harm should they differ. Nothing is known where
// there is nothing to decide, or this host cannot be looked at (a log line says why). Reads files; may take a tenth of
// a second. RONDO_ERR_INVALID, RONDO_ERR_SYSTEM: the file.
rondo_status rdi_place_find(const struct rdi_options *o, const struct rdi_job *job, rdi_getenv get,
                            const struct rdi_env *env, struct rdi_place *out);

// What a decision says of a rank.
void rdi_place_of(const struct rdi_decision *d, int rank, struct rdi_place *out);

// The GPU that CUDA_VISIBLE_DEVICES leaves this rank, RDI_DECIDE_ANY where it says nothing that is a number of one, where
// CUDA may count otherwise than by PCI addresses (GPUs of several models, and not CUDA_DEVICE_ORDER=PCI_BUS_ID), or where
// it says 0 alone to a rank that is not the first: schedulers that keep other ranks' GPUs out of sight number what is left.
int rdi_place_gpu(rdi_getenv get, int local_rank, const rondo_topo *topo);

#endif
