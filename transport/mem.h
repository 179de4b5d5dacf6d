// SPDX-License-Identifier: MIT
// What transports need to know of rondo_mem_alloc() and rondo_mem_register() memory beyond
// transport/internal.h.
#ifndef RDI_TRANSPORT_MEM_H
#define RDI_TRANSPORT_MEM_H

#include "transport/internal.h"

// Number of blocks that were freed and of registrations that were undone (the last of several of one range)
// so far: as long as it stays, everything that was alive is. Any thread, no lock.
uint64_t rdi_mem_frees(void);

// Whether the block or registration of this id was not freed or undone yet. Any thread.
bool rdi_mem_alive(uint64_t id);

// Finds a block or else a registered range that wholly contains [ptr, ptr+len): where it starts, its size
// and its id (process wide, never reused). Any thread.
bool rdi_mem_region(const void *ptr, size_t len, void **start, size_t *bytes, uint64_t *id);

// A range of device memory that rdi_mem_register_device() was told of.
struct rdi_mem_device {
    void *start;
    size_t bytes;
    uint64_t id;     // of the same kind as those of blocks
    int fd;          // a DMA-BUF, a duplicate that the caller closes; -1: none
    uint64_t offset; // of the range in it
};
// Finds the one that wholly contains [ptr, ptr+len). RONDO_ERR_INVALID: there is none. Any thread.
rondo_status rdi_mem_find_device(const void *ptr, size_t len, struct rdi_mem_device *out);

#endif
