// SPDX-License-Identifier: MIT
// Memory that is passed by descriptor, for targets of the shared-memory transport: each descriptor is one of
// sockets.h with a file of memory, or with none. Packets carry descriptors. The linker's --wrap leads the product here.
#ifndef RDI_TESTS_FAKE_MEMORY_H
#define RDI_TESTS_FAKE_MEMORY_H

#include "sockets.h"

#define MEMORY_FILES 64

struct memory {
    uint8_t *bytes; // NULL: nobody has it mapped
    size_t size;
    unsigned maps, fds;
};

enum descriptor { // that a peer passes
    DESCRIPTOR_MEMORY,
    DESCRIPTOR_EVENT,
    DESCRIPTOR_BLOCKS, // a write would wait
    DESCRIPTOR_PIPE,   // a write may end the process
};

// Of a file that is mapped so many bytes are zeros, as the kernel gives them. Payload is behind them, and is not read
// before somebody has written it.
void memory_begin(size_t zeros);
// A descriptor of that kind in the product's hands. -1: there are none left.
int memory_descriptor(enum descriptor kind, size_t size);

// A packet for the product. Descriptors in it are the product's from the moment that it takes the packet.
void packet_give(struct sock *s, const void *bytes, size_t n, const int *fds, size_t n_fds);
// The next packet that the product sent. False: there is none.
bool packet_take(struct sock *s, void *bytes, size_t cap, size_t *n);

// All that the product made or mapped is gone.
void memory_check_closed(void);

#endif
