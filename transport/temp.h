// SPDX-License-Identifier: MIT
// Temporary files that become others by link(2) or rename(2). Their names tell which process made them, so that what
// a killed one left behind can be told from what a living one is writing:
//
//   <path>.<host>-<pid>-<start>-<random>.tmp      all but the pid in hexadecimal
//
// `host` stands for the boot and the PID namespace in which the pid means something, `start` for the time at which the
// process began.
#ifndef RDI_TRANSPORT_TEMP_H
#define RDI_TRANSPORT_TEMP_H

#include "transport/internal.h"

#define RDI_TEMP_MORE 80 // bytes that a name has more than its path, with the NUL

struct rdi_temp_maker {
    uint64_t host, start;
    int pid;
};

// Who made the file of this name (without its folder), for a path whose last part begins with `prefix`. False: it is
// no name of ours. Pure.
bool rdi_temp_parse(const char *name, const char *prefix, struct rdi_temp_maker *out);

// A new name for this process; out has cap >= strlen(path) + RDI_TEMP_MORE bytes.
void rdi_temp_name(const char *path, char *out, size_t cap);

// Removes temporary files beside `path`, for it and for other paths that begin as it does up to the first dot of its
// last part, whose maker was of this user and this host and is dead.
void rdi_temp_sweep(const char *path);

// Writes a file that is complete, or, after a failure, what it was before: beside it, then renamed. Sweeps first.
rondo_status rdi_temp_replace(const char *path, const void *bytes, size_t len, unsigned mode);

#endif
