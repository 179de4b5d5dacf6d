// SPDX-License-Identifier: MIT
// The one table of launchers, in the order in which they are looked for.
#ifndef RDI_BOOTSTRAP_LAUNCHERS_H
#define RDI_BOOTSTRAP_LAUNCHERS_H

#include "transport/bootstrap/bootstrap.h"
#include "transport/bootstrap/hostlist.h"

// Names of environment variables; NULL: the launcher tells no such thing.
struct rdi_launcher {
    const char *name;
    const char *detect; // set: a process of this launcher ...
    const char *except_for,
        *except;      // ... but where that variable has this value; "x*" is a beginning
    const char *also; // must be set as well
    const char *rank;
    int first; // number of rank 0
    const char *size, *local_rank, *local_size;
    const char *nodes;        // number of hosts
    const char *tasks, *node; // numbers of tasks on each host; number of this host
    const char *hosts;        // list of hosts, rank 0's first; of slots where it tells the size
    enum rdi_hosts_form form; // RDI_HOSTS_LINES: it names a file
    unsigned offers;          // enum rdi_via
    const char *job_id;       // equal on all ranks, differs between jobs
    const char *step_id;      // what differs within it: a number, or a name
    const char *remedy;       // what a user has to set besides, for errors
};
extern const struct rdi_launcher rdi_launchers[];
extern const size_t rdi_launcher_count;

// The value of a variable; NULL: not set, or empty.
const char *rdi_variable(rdi_getenv get, const char *name);
// The row that counts; NULL: none.
const struct rdi_launcher *rdi_launcher_find(rdi_getenv get);

// ---- Between discover.c and where.c --------------------------------------------------------------

#define RDI_RANKS_MAX (1 << 20)

// What stands around rdi_discover(): who asks, what was chosen, and the launcher's list of hosts.
struct rdi_search {
    const rondo_config *config;
    rdi_getenv get;
    const struct rdi_launcher *row; // NULL: no launcher
    char *file;                     // PBS's node file
    const char *hosts;              // NULL: none
    bool ours;                      // the rank that the launcher means is this one
};

// A variable that has to be a whole number of low..high.
rondo_status rdi_read_int(rdi_getenv get, const char *name, int low, int high, int *out);
// Adds to the last error what the launcher needs from the user; returns s.
rondo_status rdi_with_remedy(const struct rdi_search *f, rondo_status s);
// Host and port; rank, size and single_host are known.
rondo_status rdi_find_store(const struct rdi_search *f, struct rdi_launch *out);

#endif
