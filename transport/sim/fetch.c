// SPDX-License-Identifier: MIT
// Asks the memory for what will soon be looked at, see rdi_sim_turn_ahead().
#include "transport/sim/world.h"

static void fetch(const void *at, size_t bytes) {
    for (size_t i = 0; i < bytes; i += 64) {
        __builtin_prefetch((const char *)at + i, 1);
    }
    __builtin_prefetch((const char *)at + bytes - 1, 1);
}

void rdi_sim_fetch_node(const struct rdi_sim_node *n) {
    fetch(n, sizeof *n);
    if (n->net) {
        __builtin_prefetch(n->net, 1);
        fetch(&n->net->base.attr, sizeof *n->net - offsetof(struct sim_net, base.attr));
    }
}

void rdi_sim_fetch_link(const struct rdi_link *link, bool next) {
    const struct sim_end *e = (const struct sim_end *)link;
    if (!next) {
        fetch(&e->base, offsetof(struct rdi_link, why));
        fetch(&e->wire, sizeof *e - offsetof(struct sim_end, wire));
        return;
    }
    fetch(e->wire, sizeof *e->wire);
    if (e->here.head) {
        fetch(e->here.head, offsetof(struct sim_message, sig));
    }
    if (e->kept) {
        __builtin_prefetch(&e->kept[e->base.arrived % e->base.slots], 1);
    }
}
