// SPDX-License-Identifier: MIT
// Starts the ranks of a driver that has no launcher of its own.
#ifndef PEERS_RANKS_H
#define PEERS_RANKS_H

#ifdef __cplusplus
extern "C" {
#endif

// Forks `size` processes that each return run(argc, argv, rank, size) as their exit code, and waits
// for them; when one fails the others are ended. Returns 0 when all succeeded, else 1.
int ranks_run(int argc, char **argv, int size,
              int (*run)(int argc, char **argv, int rank, int size));

// Binds the calling thread to the n-th, counted round, of the processors that the process was
// allowed when it (or an ancestor by fork) called this first; no effect when that fails. The first
// call must have returned before another thread calls.
void ranks_pin(int n);

#ifdef __cplusplus
}
#endif
#endif
