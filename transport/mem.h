// SPDX-License-Identifier: MIT
// What transports need to know of rondo_mem_alloc() memory beyond transport/internal.h.
#ifndef RDI_TRANSPORT_MEM_H
#define RDI_TRANSPORT_MEM_H

#include "transport/internal.h"

// Number of blocks that were freed so far: as long as it stays, every block that was alive is. Any thread,
// no lock.
uint64_t rdi_mem_frees(void);

// Whether the block of this id was not freed yet. Any thread.
bool rdi_mem_alive(uint64_t id);

#endif
