// SPDX-License-Identifier: MIT
// Rondo, the DDP layer's public header: data-parallel training of one model replica per process, after
// Li et al., "PyTorch Distributed: Experiences on Accelerating Data Parallel Training", VLDB 2020.
//
//   rondo_ddp_create(comm, params, n, NULL, &ddp);        // verifies shapes, broadcasts rank 0's values
//   for each step:
//       forward; backward, last layer first:
//           write the gradient of i to rondo_ddp_grad(ddp, i); rondo_ddp_grad_ready(ddp, i);
//       rondo_ddp_finish(ddp);                             // gradients are now the mean over ranks
//       optimizer step
//
// Gradients live in buckets of contiguous, registered memory, in reverse order of the parameters; a bucket
// is reduced as soon as all its gradients are ready and all buckets before it were launched, so communication
// runs while backward goes on (the library's progress thread moves it). After the first step buckets are
// rebuilt once in the order in which rank 0's gradients became ready.
//
// On a CUDA device (options.device, options.stream) the same calls are ordered with the caller's stream and do not
// wait on the host: grad_ready() says that the work which is enqueued on the stream so far completes the gradient;
// buckets live in device memory and are reduced on a stream of the library's own, while the caller's goes on;
// finish() makes the caller's stream wait for them. What goes wrong later is reported by the next call here and
// by rondo_comm_error(). step_comm and step_exposed then are the device's times.
//
// Elastic training (options.elastic): ranks may fail, and restarted ones may come back, see below.
//
// A ddp object belongs to one thread at a time.
#ifndef RONDO_DDP_H
#define RONDO_DDP_H

#include <rondo/ring.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct rondo_ddp rondo_ddp;

// One parameter tensor of the model, in the order of definition. `data` is the caller's, `count` elements of
// `type` (float types only); it must stay valid while the ddp object lives. `name` is copied; used in errors.
typedef struct rondo_param {
    const char *name;
    void *data;
    size_t count;
    rondo_type type;
} rondo_param;

// Memory of the caller's own in which its training stands, besides the parameters.
typedef struct rondo_ddp_state {
    void *data; // in host memory; NULL only with bytes 0
    size_t bytes;
} rondo_ddp_state;

typedef struct rondo_ddp_options {
    size_t size;
    size_t first_bucket_bytes; // size of the first bucket; 0 = option ddp_first_bucket (1 MiB)
    size_t bucket_bytes;       // cap of the others; 0 = option ddp_bucket (25 MiB). A single larger
                               //   parameter gets a bucket of its own.
    int average;               // 1 = divide by the world size (default), 0 = sum
    int rebuild; // 1 = rebuild once after the first step (default), 0 = keep reverse order
    int device;  // -1 = parameters in host memory (default), else the CUDA device that holds them
    rondo_stream stream;     // device only: the stream on which the caller computes
    int elastic;             // 1 = go on when ranks fail (default 0); not with a device
    void (*save)(void *arg); // elastic, may be NULL: remember what a repetition of the step needs
    void (*restore)(void *arg); // elastic, may be NULL: go back to it
    void *hook_arg;
    const rondo_ddp_state
        *states;    // elastic: what a newcomer gets besides the parameters, nstates of
    size_t nstates; //   them; the list is copied, the memory stays the caller's
} rondo_ddp_options;
#define RONDO_DDP_OPTIONS_INIT \
    { .size = sizeof(rondo_ddp_options), .average = 1, .rebuild = 1, .device = -1 }

// Creates a replica set over `comm` (a communicator of its own is split off). Verifies that number, names,
// counts and types of the parameters are the same on all ranks (the error names the first parameter that
// differs and both ranks), then broadcasts rank 0's parameter values into `data` on all ranks. Collective;
// blocks. options NULL = defaults. The caller owns *ddp.
RONDO_API rondo_status rondo_ddp_create(rondo_comm *comm, const rondo_param *params, size_t nparams,
                                        const rondo_ddp_options *options, rondo_ddp **ddp);

// Frees it; outstanding communication is waited for. NULL is allowed. Collective in the sense of
// rondo_comm_destroy().
RONDO_API rondo_status rondo_ddp_destroy(rondo_ddp *ddp);

// Where the gradient of parameter i lives: a view of its bucket, `count` elements. Write (or accumulate)
// there between the steps' start and rondo_ddp_grad_ready(i); after rondo_ddp_finish() it holds the reduced
// gradient until the next step. The pointer can change once, in the rondo_ddp_finish() that rebuilds: ask
// again each step. Contents are kept across the rebuild. NULL for an index out of range.
RONDO_API void *rondo_ddp_grad(rondo_ddp *ddp, size_t i);

// Sets all gradients to zero. Only between steps.
RONDO_API rondo_status rondo_ddp_zero_grad(rondo_ddp *ddp);

// Says that gradient i of this step is complete in its view. The division by the world size happens here, in
// place. Starts the communication of every bucket that became ready, in order. Does not block.
// RONDO_ERR_USAGE with the parameter's name when i is marked twice in a step.
RONDO_API rondo_status rondo_ddp_grad_ready(rondo_ddp *ddp, size_t i);

// As above for a gradient that lives elsewhere: copies `grad` (count elements of the parameter's type) into
// the bucket, dividing on the way. Does not block.
RONDO_API rondo_status rondo_ddp_grad_ready_copy(rondo_ddp *ddp, size_t i, const void *grad);

// Ends the step: waits until all buckets are reduced. RONDO_ERR_USAGE naming the parameters that were never
// marked ready (nothing is launched for them; call again after marking them). Blocks up to the operations'
// deadline. Elastic: also agrees, see below; RONDO_RETRY_STEP.
RONDO_API rondo_status rondo_ddp_finish(rondo_ddp *ddp);

// ---- Elastic training ----------------------------------------------------------------------------
//
// With options.elastic a step counts only when all ranks that are left agree that it did, and they agree before
// rondo_ddp_finish() returns, so before any optimizer runs. If it did not, because ranks failed, the rest go on as a
// smaller communicator; if restarted ranks wait, they are admitted. Either way all get RONDO_RETRY_STEP, and do
// forward and backward once more:
//
//   do {
//       rank = rondo_comm_rank(rondo_ddp_comm(ddp)), size = …;           // may be others than before
//       rondo_sampler_share(global_batch, rank, size, &first, &count);   // may be more than before
//       forward; backward of sum of losses / global_batch                // options.average = 0
//       s = rondo_ddp_finish(ddp);
//   } while (s == RONDO_RETRY_STEP);
//   if (s == RONDO_OK) optimizer step; else stop, and write nothing
//
// - What is lost is the step that was under way; what it had accumulated is zeroed. With passes under sync 0 all passes
//   since the last RONDO_OK of a finish() with sync 1 are to be repeated.
// - save() is called when creation is done and in each finish() that returns RONDO_OK, restore() before each
//   RONDO_RETRY_STEP: for what forward and backward change besides gradients, as random generators, or statistics.
// - A newcomer, whose rondo_init() has returned in the middle of a job, calls rondo_ddp_create() with the same model
//   and options. It gets parameters, states, buckets and counters from the lowest rank that was there before, as they
//   were before the step that is repeated, and goes on with that step. rondo_ddp_joined() then says 1: no collective of
//   its own may come between rondo_init() and there, as the others wait in rondo_ddp_finish().
// - Collectives of the caller's own use rondo_ddp_comm(), and their requests must be complete before finish() or
//   commit() is called. When one of them fails, call finish() or commit() all the same: it finds out what it was.
// - An optimizer that is a pure function of reduced gradients, parameters and states keeps all ranks equal, bit by bit.
//   Gradients reduced over fewer ranks are rounded otherwise: the last bits of a run depend on what happened in it.
// - RONDO_ERR_PARTITIONED: this side has no majority; RONDO_ERR_PEER: the others have declared this rank lost. Both are
//   final here, and nothing may be written any more. Other errors end the training of all ranks: what is no rank's or
//   path's loss (a mismatch, a deadline, an abort) would only happen again.
// - If rank 0 is lost while the job's first ddp object is created, before its parameters are with all, that is an error.

// The communicator of the ranks that take part now: that which was given to rondo_ddp_create() until the first
// RONDO_RETRY_STEP, afterwards one that belongs to the ddp object, and ends with it or at the next RONDO_RETRY_STEP.
// NULL for NULL. rondo_comm_agree(), _shrink() and _grow() on it are the ddp object's to call.
RONDO_API rondo_comm *rondo_ddp_comm(const rondo_ddp *ddp);

// 1 if this object got its state from ranks that were training already, else 0.
RONDO_API int rondo_ddp_joined(const rondo_ddp *ddp);

// Agrees as rondo_ddp_finish() does on work that has no gradients, such as a last evaluation: RONDO_OK on all ranks, or
// RONDO_RETRY_STEP on all that are left, which then repeat it. Only between steps, the same on all ranks. Not elastic:
// rondo_comm_error() of the communicator. Blocks up to the operations' deadline.
RONDO_API rondo_status rondo_ddp_commit(rondo_ddp *ddp);

// While sync is 0 (PyTorch's no_sync), grad_ready only counts and finish does not communicate: gradients stay
// local and may be accumulated over several passes. The first step with sync 1 reduces the accumulated sum.
// Only between steps; must be the same on all ranks. Views are not divided while sync is 0.
RONDO_API rondo_status rondo_ddp_set_sync(rondo_ddp *ddp, int sync);

// Figures of the last finished step and of all steps so far; times in seconds.
typedef struct rondo_ddp_stats {
    size_t size; // sizeof(rondo_ddp_stats), set by the caller
    uint64_t steps;
    size_t buckets;
    int rebuilt;         // 1 after the rebuild
    double step_comm;    // first launch to last completion, last step
    double step_exposed; // time that finish waited, last step
    double total_comm;
    double total_exposed;    // hidden share = 1 - exposed / comm
    uint64_t bytes_reduced;  // gradient bytes, all steps, this rank
    uint64_t bytes_sent;     // payload that this rank sent since creation was done, all wires
    uint64_t retries;        // elastic: steps that were repeated
    uint64_t shrinks, grows; // elastic: how often ranks were lost, and were admitted
} rondo_ddp_stats;
RONDO_API rondo_status rondo_ddp_get_stats(const rondo_ddp *ddp, rondo_ddp_stats *out);

// ---- Sampler -------------------------------------------------------------------------------------

// Which samples this rank trains on: a permutation of 0 .. samples-1 shuffled by (seed, epoch), rank r takes
// positions r, r + world, … The tail is dropped or padded by repeating from the start, so that every rank
// gets the same number.
typedef struct rondo_sampler {
    uint64_t samples; // of the data set
    uint64_t seed;
    uint64_t epoch;
    int rank, world;
    int shuffle;   // 0 = in order
    int drop_tail; // 1 = drop, 0 = pad
} rondo_sampler;

// Number of samples per rank and epoch. 0 for a sampler that is invalid. Pure function.
RONDO_API uint64_t rondo_sampler_count(const rondo_sampler *s);

// The i-th sample of this rank, 0 <= i < count. Pure function, O(1) memory: a keyed Feistel permutation with
// cycle walking (Black and Rogaway, "Ciphers with Arbitrary Finite Domains", 2002).
RONDO_API rondo_status rondo_sampler_get(const rondo_sampler *s, uint64_t i, uint64_t *sample);

// The part of a step's global batch that rank `rank` of `size` takes: samples *first .. *first + *count - 1 of 0 ..
// global_batch - 1, in parts that follow each other and differ by one sample at most, so a batch of fewer samples than
// ranks leaves some without. A step's batch is a range of positions of the whole run, step * global_batch onwards, each
// looked up by rondo_sampler_get() with rank 0 of world 1: then the samples of a step depend on nothing but its number,
// and those who are left take over what a lost rank would have done. Parts are of unequal size: weigh gradients by
// samples (sum of the samples' gradients / global_batch, and options.average = 0). Pure function. RONDO_ERR_INVALID for
// a rank that is not below size.
RONDO_API rondo_status rondo_sampler_share(uint64_t global_batch, int rank, int size,
                                           uint64_t *first, uint64_t *count);

// ---- Launching from inside a program -------------------------------------------------------------

// Runs fn(rank, world, arg) in nprocs forked processes of this host, with the environment that rondo-run
// would set, and waits for all. When one fails (returns non-zero, exits or dies by a signal) the others are
// ended within 5 s and the error names the first to fail. Call it before threads exist and before
// rondo_init() in the parent. Blocks until all have ended.
RONDO_API rondo_status rondo_spawn(int (*fn)(int rank, int world, void *arg), int nprocs,
                                   void *arg);

#ifdef __cplusplus
}
#endif
#endif
