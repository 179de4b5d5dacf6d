// SPDX-License-Identifier: MIT
// Sets of processors or NUMA nodes, by the kernel's numbers.
#ifndef RDI_TOPO_SET_H
#define RDI_TOPO_SET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define RDI_SET_BITS 8192
#define RDI_SET_WORDS (RDI_SET_BITS / 32)

struct rdi_set {
    uint32_t word[RDI_SET_WORDS];
};

// hwloc's form: "0x00000003", "0x00000303,,0x03030303". False: it is none, or has members beyond RDI_SET_BITS.
bool rdi_set_read(struct rdi_set *s, const char *text);

bool rdi_set_has(const struct rdi_set *s, unsigned bit);
unsigned rdi_set_count(const struct rdi_set *s);
int rdi_set_first(const struct rdi_set *s); // -1: it is empty
bool rdi_set_equal(const struct rdi_set *a, const struct rdi_set *b);
bool rdi_set_within(const struct rdi_set *a,
                    const struct rdi_set *b); // a is not empty, and a part of b
bool rdi_set_meet(const struct rdi_set *a, const struct rdi_set *b);
void rdi_set_keep(struct rdi_set *s, const struct rdi_set *only);

// "0-15,32"; a new string, NULL when memory ran out.
char *rdi_set_list(const struct rdi_set *s);

#endif
