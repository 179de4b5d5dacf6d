// SPDX-License-Identifier: MIT
// The one timing loop that every driver shares: Rondo's, MPI's, Gloo's and the bare loopback
// exchange.
//
// A driver starts its ranks, fills in a loop_peer and calls loop_run() on each of them. Because the
// loop, the data, the barrier, the clock and the check are the same for all, a difference between
// two peers is a difference between the peers.
#ifndef PEERS_LOOP_H
#define PEERS_LOOP_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define LOOP_MAX_RANKS 64

typedef struct loop_peer {
    int rank;
    int size;
    void *state; // first argument of the functions below

    // Memory for the operation, page aligned, and its release; both NULL: private pages, as
    // malloc(3) gives.
    float *(*alloc)(void *state, size_t bytes);
    void (*release)(void *state, float *buffer);

    // Called once for each message size before its first operation, not timed; may be NULL.
    int (*prepare)(void *state, float *buffer, size_t count);

    // The operation under test: sum of `count` floats over all ranks, in place. 0 on success.
    int (*op)(void *state, float *buffer, size_t count);

    // How many elements the operation left wrong, looking at every `stride`-th; `round` as for
    // loop_value(). NULL: the loop checks that `buffer` holds the sum. A driver whose operation is
    // no sum (the loopback exchange) brings its own, and its operations are not run back to back.
    size_t (*wrong)(void *state, const float *buffer, size_t count, uint32_t round, size_t stride);
} loop_peer;

// Value of the option `name` ("--sizes") among the arguments, or `otherwise`.
const char *loop_argument(int argc, char **argv, const char *name, const char *otherwise);

// Runs all sizes on this rank. Options: --page FILE (shared by all ranks, zeroed, made by the
// caller, at least loop_page_bytes() long), --out FILE (rank 0 appends "kind,bytes,value" lines),
// --sizes A,B,…, --scale X (of the number of iterations), --budget SECONDS (a size), --deadline
// SECONDS (the rank is ended by SIGALRM then). Returns the process's exit code.
int loop_run(int argc, char **argv, const loop_peer *peer);

// Element i of rank's input in round `round`: a small integer, so that sums are exact in every
// order.
float loop_value(int rank, uint32_t round, size_t i);

size_t loop_page_bytes(void);

#ifdef __cplusplus
}
#endif
#endif
