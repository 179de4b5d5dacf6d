// SPDX-License-Identifier: MIT
// Lists of hosts as batch systems write them. Nothing is expanded: a list of a million hosts costs what its text costs.
#ifndef RDI_BOOTSTRAP_HOSTLIST_H
#define RDI_BOOTSTRAP_HOSTLIST_H

#include "transport/internal.h"

#define RDI_HOST_NAME 256     // a name and its NUL
#define RDI_HOSTS_MAX 1048576 // in one list

enum rdi_hosts_form {
    RDI_HOSTS_LIST,  // Slurm, Flux: "n[1-3,07],rack[1-2]node[3-4],login"; an entry is a host
    RDI_HOSTS_SLOTS, // LSF: "a 2 b 2"; an entry is a slot: a, a, b, b
    RDI_HOSTS_LINES, // PBS: a line of a file for each slot
};

// The number of entries, 1..RDI_HOSTS_MAX; the whole text is checked. An error tells the place in the text; the caller
// adds where the text came from. Pure.
rondo_status rdi_hosts_count(enum rdi_hosts_form form, const char *text, size_t *count);
// Entry number i of a list that was counted. RONDO_ERR_INVALID: there is none, or it does not fit.
rondo_status rdi_hosts_at(enum rdi_hosts_form form, const char *text, size_t i, char *out,
                          size_t cap);
// For slots: how many before entry i, and how many of all, are on its host.
rondo_status rdi_hosts_beside(enum rdi_hosts_form form, const char *text, size_t i, size_t *before,
                              size_t *all);

// Slurm's numbers of tasks on each node, "4,2,1(x2)": that of node number i.
rondo_status rdi_tasks_on_node(const char *text, size_t i, int *tasks);

#endif
