// SPDX-License-Identifier: MIT
// A table of counted intervals of addresses: allocated blocks, registrations, ranges in use.
//
// Pure data: no lock, no system calls. Lookups are binary searches; the entries live in one sorted array,
// since there are tens of them and they are looked up a thousand times as often as they change.
#ifndef RDI_TRANSPORT_REGCACHE_H
#define RDI_TRANSPORT_REGCACHE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct rdi_interval {
    uintptr_t start;
    size_t bytes;
    uint32_t count; // how often it was added
    int fd;         // the owner's, as are id and offset
    uint64_t id, offset;
    uintptr_t reach; // the largest end of this and all entries before it
};

struct rdi_intervals {
    struct rdi_interval *at; // by start, then by bytes
    size_t n, cap;
};

// Adds [start, start + bytes), or counts it once more if that very interval is there. NULL: out of memory.
// The pointer is valid until the next change. The caller has checked that the end does not overflow.
struct rdi_interval *rdi_intervals_add(struct rdi_intervals *t, uintptr_t start, size_t bytes);

// Counts the entry down and removes it when that was the last time.
void rdi_intervals_drop(struct rdi_intervals *t, struct rdi_interval *e);

// The entry that is exactly this interval; the shortest that starts there; one that contains all of it.
// NULL: none.
struct rdi_interval *rdi_intervals_exact(struct rdi_intervals *t, uintptr_t start, size_t bytes);
struct rdi_interval *rdi_intervals_starting(struct rdi_intervals *t, uintptr_t start);
struct rdi_interval *rdi_intervals_around(struct rdi_intervals *t, uintptr_t start, size_t bytes);

// Whether an entry shares a byte with the interval.
bool rdi_intervals_touch(const struct rdi_intervals *t, uintptr_t start, size_t bytes);

void rdi_intervals_free(struct rdi_intervals *t);

#endif
