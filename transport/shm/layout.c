// SPDX-License-Identifier: MIT
// Where the parts of a link's memory begin.
#include "transport/shm/layout.h"

#define PAGE 4096u // of the layout, whatever the machine's page size is
#define ROUND(n) (((size_t)(n) + PAGE - 1) / PAGE * PAGE)

_Static_assert(sizeof(struct shm_slot) % (2UL * SHM_LINE) == 0, "slots begin with a pair of lines");
_Static_assert(sizeof(_Atomic uint64_t) == 8 && ATOMIC_LLONG_LOCK_FREE == 2, "lock-free words");

size_t shm_region_bytes(uint32_t slots, uint32_t max_msg) {
    return ROUND(sizeof(struct shm_head)) + ROUND(slots * sizeof(struct shm_slot)) +
           slots * ROUND(max_msg);
}

void shm_region_set(struct shm_region *r, void *map, uint32_t slots, uint32_t max_msg) {
    uint8_t *at = map;
    r->head = map;
    r->slots = (struct shm_slot *)(void *)(at + ROUND(sizeof(struct shm_head)));
    r->data = at + ROUND(sizeof(struct shm_head)) + ROUND(slots * sizeof(struct shm_slot));
    r->data_stride = ROUND(max_msg);
    r->bytes = shm_region_bytes(slots, max_msg);
}
