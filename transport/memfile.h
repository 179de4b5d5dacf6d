// SPDX-License-Identifier: MIT
// Memory that processes share by passing its descriptor, and the words for a resource that ran out.
#ifndef RDI_TRANSPORT_MEMFILE_H
#define RDI_TRANSPORT_MEMFILE_H

#include "transport/internal.h"

// Who may write into a memory file besides its maker.
enum rdi_memfile_use {
    RDI_MEMFILE_PRIVATE, // nobody: peers can map it for reading only
    RDI_MEMFILE_COMMON,  // whoever gets the descriptor
};

// Fails with the status, the cause and the remedy that fit `err`: "cannot <what>: <cause>; <remedy>".
rondo_status rdi_fail_resource(int err, const char *fmt, ...)
    __attribute__((format(printf, 2, 3), cold));

// `bytes` rounded up to whole pages; at least one page. 0 when that overflows.
size_t rdi_memfile_size(size_t bytes);

// The NUMA node, by the kernel's number, that this process' memory files are to come from as far as it has room; -1 = as
// it comes. Any thread.
void rdi_memfile_prefer_node(int node);

// Makes a file of rdi_memfile_size(bytes) zeroed bytes without a name, maps it writable and seals it: its
// size never changes, so whoever maps it cannot be hurt by a shorter file (SIGBUS). `what` names it in errors;
// errno has the cause of a failure.
rondo_status rdi_memfile_create(const char *what, size_t bytes, enum rdi_memfile_use use, int *fd,
                                void **map);

// Maps a descriptor that came from a peer, after checking that it is a sealed memory file of exactly
// rdi_memfile_size(bytes) bytes. The descriptor stays the caller's. `what` names it in errors.
rondo_status rdi_memfile_map(const char *what, int fd, size_t bytes, enum rdi_memfile_use use,
                             void **map);

void rdi_memfile_unmap(void *map, size_t bytes);

#endif
