// SPDX-License-Identifier: MIT
// Copying payload into a slot that the receiver has read before: through the cache, or past it.
//
// A store to a line that another core holds must first take the line away from it. Where both cores share a
// third-level cache that goes unnoticed. Where they do not (another core complex, another socket, or two
// virtual processors that the host has put there), it was measured to take 30 ns a line, one after the other:
// 2 GB/s, however large the slots. Streaming stores need no line: 47 GB/s by the copier, and the reader still
// gets 22. Near each other, the reader finds 20 % less than with plain stores, since it reads from memory.
//
// Which of the two it is cannot be asked, and changes while a virtual machine runs. So it is measured: some
// copies are timed, and the copier streams while plain stores take more than twice as long.
#ifndef RDI_SHM_COPY_H
#define RDI_SHM_COPY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum shm_copy { SHM_COPY_PLAIN, SHM_COPY_STREAM };

// Zero is a valid start.
struct shm_copier {
    double cost[2]; // ns per byte, 0: not known
    uint32_t n;     // copies so far
    enum shm_copy how;
};

// How to do the next copy of n bytes; *timed: the time it takes is to be given to shm_copy_learn(). The first
// `warm_up` copies are not timed: they meet page faults.
enum shm_copy shm_copy_choose(struct shm_copier *c, size_t n, uint32_t warm_up, bool *timed);
void shm_copy_learn(struct shm_copier *c, enum shm_copy how, size_t n, uint64_t ns);

// Copies n bytes; `to` is aligned to 16 bytes. All of it is visible before any store that comes later.
void shm_copy(enum shm_copy how, void *restrict to, const void *restrict from, size_t n);

#endif
