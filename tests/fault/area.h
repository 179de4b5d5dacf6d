// SPDX-License-Identifier: MIT
// Buffers that show who writes where they must not: each lies between two guards, and those of an operation that
// failed are kept and may never change again, whoever wakes up later.
#ifndef TESTS_FAULT_AREA_H
#define TESTS_FAULT_AREA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct area {
    struct area *next; // of the frozen ones
    uint8_t *base;
    size_t bytes; // of values
    int32_t *x;
    bool shared; // from rondo_mem_alloc()
    uint64_t hash;
};

// NULL without memory. `shared`: memory that peers of this host can map.
struct area *area_new(size_t count, bool shared);
// NULL, or what is wrong with its guards.
const char *area_guards(const struct area *a);
// Keeps it for area_frozen_check(). NULL is allowed.
void area_freeze(struct area *a);
// Says an event "wrong" for each frozen area that changed; returns how many, and frees all.
int area_frozen_check(void);
void area_free(struct area *a);

#endif
