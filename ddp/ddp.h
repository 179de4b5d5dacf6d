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

// What is broadcast from rank 0 besides parameters, as running means of a normalisation: any type. The memory stays the
// caller's and must be valid while the ddp object lives; `name` is copied.
typedef struct rondo_ddp_buffer {
    const char *name;
    void *data;
    size_t count;
    rondo_type type;
} rondo_ddp_buffer;

typedef struct rondo_ddp_hook rondo_ddp_hook;

#define RONDO_DDP_BUCKET_AUTO SIZE_MAX // bucket_bytes: tried out in the first steps, see below

typedef struct rondo_ddp_options {
    size_t size;
    size_t first_bucket_bytes; // size of the first bucket; 0 = option ddp_first_bucket (1 MiB)
    size_t bucket_bytes;       // cap of the others; 0 = option ddp_bucket (25 MiB). A single larger
                               //   parameter gets a bucket of its own. Or RONDO_DDP_BUCKET_AUTO
    int average;               // 1 = divide by the world size (default), 0 = sum
    int rebuild; // 1 = rebuild once after the first step (default), 0 = keep reverse order
    int device;  // -1 = parameters in host memory (default), else the CUDA device that holds them
    rondo_stream stream;     // device only: the stream on which the caller computes
    int elastic;             // 1 = go on when ranks fail (default 0); not with a device
    void (*save)(void *arg); // elastic, may be NULL: remember what a repetition of the step needs
    void (*restore)(void *arg); // elastic, may be NULL: go back to it
    void *hook_arg;
    const rondo_ddp_state
        *states;      // elastic: what a newcomer gets besides the parameters, nstates of
    size_t nstates;   //   them; the list is copied, the memory stays the caller's
    int find_unused;  // 1 = parameters that take no part in a step are found at its end (default 0)
    int static_graph; // 1 = each step marks the same parameters as often as the first (default 0)
    const size_t *
        rows; // NULL, or for each parameter the rows of it as a matrix; 0: it is none. For PowerSGD, for
              //   sparse gradients, and compared over ranks. Copied
    const size_t
        *sparse; // parameters whose gradients are rows of the matrix, nsparse of them; copied
    size_t nsparse;
    const rondo_ddp_buffer *buffers; // nbuffers of them; the list is copied
    size_t nbuffers;
    const rondo_ddp_hook
        *hook; // how buckets are reduced, NULL: all_reduce. Copied; what it holds becomes the ddp
               //   object's, also when creation fails, but for a NULL pointer or a wrong size
    int shard; // 1 = each rank gets the reduced gradients of its share only, for rondo_zero (default 0)
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

// ---- Parameters that take no part ----------------------------------------------------------------
//
// Every rank marks every parameter in every step, or:
//
// - rondo_ddp_grad_unused(i) says at once that parameter i takes no part here: its gradient counts as zeros.
// - options.find_unused: what is not marked when rondo_ddp_finish() is called took no part. Its bucket is launched only
//   then, so prefer rondo_ddp_grad_unused() where the program knows.
// - options.static_graph: the first step (its last pass, where gradients are accumulated) tells how often each parameter
//   is marked; every later pass is the same, which is checked. A gradient is complete at the last mark, so parameters that several layers
//   share, or that are computed again, may be marked several times; views then accumulate, and of several
//   rondo_ddp_grad_ready_copy() the last counts. What took no part in the first step is waited for no more. The first
//   step is reduced in rondo_ddp_finish() as a whole. All ranks must mark alike: RONDO_ERR_MISMATCH names the parameter.
//
// With find_unused or static_graph the ranks tell each other what they used, as one byte a parameter beside the last
// buckets, and wait for it only where it is asked for.

// Says that gradient i takes no part in this step on this rank; zeroes its view. Otherwise as rondo_ddp_grad_ready().
RONDO_API rondo_status rondo_ddp_grad_unused(rondo_ddp *ddp, size_t i);

// *used = 1 if any rank used parameter i in the last finished step, else 0: its gradient is zeros then, and an
// optimizer should leave it alone (momentum and weight decay too). With neither find_unused nor static_graph always 1.
// May block until the ranks have told; the same on all ranks, which need not all call it.
RONDO_API rondo_status rondo_ddp_grad_used(rondo_ddp *ddp, size_t i, int *used);

// ---- Buffers -------------------------------------------------------------------------------------

// Before forward: gives all ranks the buffers (options.buffers) of rank 0, in join mode of the lowest rank that has
// input. Creation does it, too. Nothing while sync is 0, or without buffers outside join mode. Collective; blocks.
RONDO_API rondo_status rondo_ddp_forward(rondo_ddp *ddp);

// ---- Uneven inputs -------------------------------------------------------------------------------
//
//   rondo_ddp_join_begin(ddp, NULL);                  // all ranks
//   while there is input: forward, backward, rondo_ddp_finish(), optimizer step      // some have more than others
//   rondo_ddp_join_end(ddp);                          // takes part in what the others still do, until all are here
//
// A rank that is through contributes zeros to every bucket of the others' steps. Each step begins by telling who has
// input (a byte a rank, which travels beside backward). The means are over the ranks of the communicator, or with
// divide_by_initial 0 over those that still have input. At the end parameters and buffers of the lowest rank that made
// the last step go to all. With options.buffers, rondo_ddp_forward() begins each step. A rank whose input ends between
// passes of sync 0 makes its last one with sync 1. Not with options.elastic (use rondo_sampler_share()) or a device.
typedef struct rondo_ddp_join_options {
    size_t size;
    int divide_by_initial; // 1 (default): by the world size; 0: by the ranks that have input
    int stop_early; // 1: the first rank that is through ends it for all: RONDO_END_OF_INPUT (default 0)
    rondo_status (*shadow)(
        void *arg); // NULL, or called after each step that this rank only takes part in: where
                    //   the optimizer has collectives of its own, as rondo_zero_step()
    void *arg;
} rondo_ddp_join_options;
#define RONDO_DDP_JOIN_OPTIONS_INIT \
    { .size = sizeof(rondo_ddp_join_options), .divide_by_initial = 1 }

// Begins join mode. Only between steps, on all ranks with the same options; NULL = defaults. Does not block.
RONDO_API rondo_status rondo_ddp_join_begin(rondo_ddp *ddp, const rondo_ddp_join_options *options);

// This rank has no more input. Returns when no rank has; ends join mode. RONDO_OK, or with stop_early
// RONDO_END_OF_INPUT as the others' rondo_ddp_finish() returns it, whose step does not count; join mode is over then.
// The text names the first rank that was through. Blocks, each step of the others up to the operations' deadline.
RONDO_API rondo_status rondo_ddp_join_end(rondo_ddp *ddp);

// ---- Sparse gradients ----------------------------------------------------------------------------
//
// Parameters listed in options.sparse (embeddings; options.rows says how many rows) have gradients of a few rows. They
// are in no bucket: rondo_ddp_finish() gathers indices and values from all ranks and adds up what meets in a row, rank
// by rank, so the bits depend on nothing else. rondo_ddp_grad() is NULL for them. In host memory only.

// Says that gradient i is `nrows` rows: row[k] (any order, repetitions are added up) has its values at values + k *
// (count / rows), in the parameter's type. Copies both, dividing on the way. nrows 0 is valid. Does not block.
RONDO_API rondo_status rondo_ddp_grad_ready_sparse(rondo_ddp *ddp, size_t i, const uint64_t *row,
                                                   const void *values, size_t nrows);

// After rondo_ddp_finish(): the rows of gradient i that any rank had, ascending, each once, and their values, reduced.
// Memory of the ddp object, until the next step's first mark. While sync is 0 rows pile up and are there after the next
// step with sync 1.
RONDO_API rondo_status rondo_ddp_grad_sparse(const rondo_ddp *ddp, size_t i, const uint64_t **row,
                                             const void **values, size_t *nrows);

// ---- Clipping ------------------------------------------------------------------------------------

// After rondo_ddp_finish(), in place of nothing else: scales all gradients by max_norm / (norm + 1e-6) when their norm
// is larger than max_norm. norm_type: 2 (Euclidean) or INFINITY (largest magnitude); adds up in f64 in the order of
// parameters, so all ranks do the same. *norm (may be NULL): the norm before. With options.shard: of all shares, and
// collective. RONDO_ERR_INVALID when the norm is not finite: nothing is scaled then. In host memory only.
RONDO_API rondo_status rondo_ddp_clip_grad_norm(rondo_ddp *ddp, double max_norm, double norm_type,
                                                double *norm);

// ---- Communication hooks -------------------------------------------------------------------------
//
// A hook reduces buckets in place of all_reduce, for example compressed. In each step it is called in rounds:
//
//   grad_ready …           round 0 of bucket 0 … round 0 of bucket 1 …         as soon as each is full, must not block
//   finish                 round 0 of the rest; round 1 of bucket 0, of bucket 1 …; round 2 of those that need it; …
//
// RONDO_AGAIN asks for another round, RONDO_OK says that bucket->data is the sum over ranks. A round starts what it
// communicates on bucket->comm and the next one waits for it: so the second stage of a bucket overlaps with the
// computation of the next. Rounds come in the same order on all ranks, which therefore must need the same number of them.
// Gradients are divided by the world size already (options.average). Hooks work on host memory.

// A parameter's gradient in a bucket.
typedef struct rondo_ddp_slice {
    size_t param;         // index of the parameter
    size_t offset, count; // elements
    size_t rows;          // as in options.rows; 0 where it is no matrix
} rondo_ddp_slice;

typedef struct rondo_ddp_bucket {
    size_t size;           // sizeof(rondo_ddp_bucket)
    size_t index, buckets; // which of how many
    void *data;            // gradients; what lies between slices is zeros
    size_t count;          // elements
    rondo_type type;
    size_t nslices;
    const rondo_ddp_slice *slices;
    uint64_t step;    // steps finished before this one
    rondo_comm *comm; // for the hook's operations
    void *work;       // the hook's own, kept from step to step; NULL in a new bucket
    // Filled in by the hook, for statistics; added up.
    uint64_t bytes;     // that it handed to collectives
    double error, norm; // sums of squares: what compression left out, and of the gradient before
} rondo_ddp_bucket;

struct rondo_ddp_hook {
    size_t size;
    const char *name; // for statistics; compared over ranks. Must stay valid
    rondo_status (*round)(void *state, rondo_ddp_bucket *bucket, int round);
    // Waits for requests that a step which is given up left behind; keeps what lasts. NULL: there are never any.
    void (*drain)(void *state, rondo_ddp_bucket *bucket);
    // The bucket goes away (after drain): frees bucket->work and sets it to NULL. NULL: there is nothing to free.
    void (*release)(void *state, rondo_ddp_bucket *bucket);
    void (*destroy)(void *state); // frees the hook's state; may be NULL
    void *state;
};

// The hook that all_reduces: what others may end in.
RONDO_API rondo_ddp_hook rondo_ddp_hook_all_reduce(void);

// Sends gradients as RONDO_F16 or RONDO_BF16, rounded to nearest; finite values saturate at 65504 in f16, infinities and
// NaNs stay (so does what overflows in the sum of f16: it is infinite). What goes through it is given
// to `inner` (NULL: all_reduce) in that type; *inner belongs to the result from here on. Buckets of a type that is no
// wider go to `inner` as they are. RONDO_ERR_INVALID for another type; *inner is destroyed then, if its size is right.
RONDO_API rondo_status rondo_ddp_hook_cast(rondo_type type, const rondo_ddp_hook *inner,
                                           rondo_ddp_hook *out);

typedef struct rondo_powersgd_options {
    size_t size;
    int rank;            // of the approximation, 1 to 64; default 1
    uint64_t start_step; // steps before are reduced whole; default 0
    int warm_start;      // 1 (default): begin with the last step's factor
    int error_feedback;  // 1 (default): what was left out is added to the next step's gradient
    double
        min_saving; // a matrix is compressed when rows * columns > min_saving * rank * (rows + columns); default 2
    uint64_t seed; // of the first factor; the same on all ranks
} rondo_powersgd_options;
#define RONDO_POWERSGD_OPTIONS_INIT                                                              \
    {                                                                                            \
        .size = sizeof(rondo_powersgd_options), .rank = 1, .warm_start = 1, .error_feedback = 1, \
        .min_saving = 2.0                                                                        \
    }

// Low-rank gradients: each matrix (options.rows) M becomes P Q', P = M Q orthogonalised, Q = M' P, where P and Q are
// reduced (Vogels, Karimireddy and Jaggi, "PowerSGD: Practical Low-Rank Gradient Compression for Distributed
// Optimization", NeurIPS 2019). The rest of a bucket is reduced whole. Both go through `inner` (NULL: all_reduce), so
// casting and PowerSGD compose either way round; *inner belongs to the result. options NULL = defaults. Buckets of f16 and
// bf16 are computed in f32; those of 8 bits go to `inner` as they are. With error feedback it keeps two copies of the
// matrices. Errors and factors end with their bucket: the rebuild after the first step drops those of that step. A matrix
// with an element that is not finite becomes NaNs on all ranks, in that step only. RONDO_ERR_INVALID for an option out of
// range; *inner is destroyed then, if its size is right.
RONDO_API rondo_status rondo_ddp_hook_powersgd(const rondo_powersgd_options *options,
                                               const rondo_ddp_hook *inner, rondo_ddp_hook *out);

// Destroys a hook that was given to nobody.
RONDO_API void rondo_ddp_hook_destroy(rondo_ddp_hook *hook);

// ---- Sharded optimizer ---------------------------------------------------------------------------
//
// ZeRO stage 1 (Rajbhandari et al., "ZeRO: Memory Optimizations Toward Training Trillion Parameter Models", SC 2020):
// with options.shard buckets are reduce-scattered, each rank updates its share of every bucket, whose optimizer state
// it alone keeps, and the parameters are gathered. Not with a device; not with bucket_bytes RONDO_DDP_BUCKET_AUTO.

typedef struct rondo_zero rondo_zero;

// `count` elements of parameter `param`, from `first` on, that this rank updates.
typedef struct rondo_zero_piece {
    size_t param, first, count;
    void *data;         // the parameter's memory, at `first`
    const void *grad;   // reduced
    void *const *state; // state_arrays arrays, each of count * state_bytes bytes; zeros at first
} rondo_zero_piece;

typedef struct rondo_zero_options {
    size_t size;
    size_t state_bytes;  // bytes of optimizer state an element, in one array; 4 for f32 momentum
    size_t state_arrays; // how many such arrays; 2 for Adam
    rondo_status (*update)(void *arg, const rondo_zero_piece *piece);
    void *arg;
} rondo_zero_options;

// Creates the sharded optimizer of a ddp object that was created with options.shard, one at a time, on all ranks with
// the same options; between steps. It ends before the ddp object. Does not communicate.
RONDO_API rondo_status rondo_zero_create(rondo_ddp *ddp, const rondo_zero_options *options,
                                         rondo_zero **zero);
RONDO_API rondo_status rondo_zero_destroy(rondo_zero *zero);

// After rondo_ddp_finish(): calls update() for each piece of this rank's share, then gathers the parameters. The
// gradients are zeros afterwards; before, only those of the share are reduced. Collective; blocks. The first error of update() is returned on the rank that has it,
// and aborts for the others.
RONDO_API rondo_status rondo_zero_step(rondo_zero *zero);

// Bytes of optimizer state that this rank keeps, and what it would keep unsharded.
RONDO_API rondo_status rondo_zero_bytes(const rondo_zero *zero, size_t *mine, size_t *whole);

// The state of parameter i, array `array`, put together on rank `root`, for a checkpoint: `out` (count * state_bytes;
// ignored elsewhere). save is collective and blocks. load takes this rank's part of it back from `from`, which is the
// whole; it does not communicate. Between steps.
RONDO_API rondo_status rondo_zero_save(rondo_zero *zero, size_t i, size_t array, int root,
                                       void *out);
RONDO_API rondo_status rondo_zero_load(rondo_zero *zero, size_t i, size_t array, const void *from);

// ---- Figures -------------------------------------------------------------------------------------

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
    uint64_t hook_bytes;     // hooks: handed to collectives, all steps, of bytes_reduced
    double
        hook_error; // hooks: what the last step's compression left out, here: a share of the gradient's norm; NaN where that is infinite
    size_t bucket_bytes; // cap of buckets in use; what RONDO_DDP_BUCKET_AUTO came to
    int tuning;          // 1 while bucket sizes are tried out
} rondo_ddp_stats;
RONDO_API rondo_status rondo_ddp_get_stats(const rondo_ddp *ddp, rondo_ddp_stats *out);

// What PyTorch calls DDP logging data: model, options, buckets before and after the rebuild, times of forward,
// backward and communication, their overlap, unused parameters, as one JSON object. Writes at most `cap` bytes with the
// NUL; RONDO_ERR_INVALID, with the size that is needed, when it does not fit. Does not block.
RONDO_API rondo_status rondo_ddp_logging_data(const rondo_ddp *ddp, char *buf, size_t cap);

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
