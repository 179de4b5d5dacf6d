// SPDX-License-Identifier: MIT
// Rondo, the DP layer's public header: data-parallel training in one process, a thread for each device.
//
//   rondo_dp_create(params, n, devices, NULL, &dp);       // memory of each device's replica, and its thread
//   for each step:
//       rondo_dp_step(dp, rows, forward_backward, arg);   // device 0 holds the sum of all devices' gradients
//       optimizer step on params with rondo_dp_grad(dp, 0, i)
//
// A device is a set of processors of this host, or a CUDA device. Device 0 computes on the caller's own parameters; each
// other one has a copy (a replica), and each device has gradients of its own. A step is four parts, which may also be
// called one by one: replicate the parameters of device 0, scatter the batch by its first dimension, apply the caller's
// function on all devices at a time, reduce the gradients to device 0. rondo_dp_gather() brings rows that devices
// computed together again.
//
// DP or DDP? DP needs no launcher and no second process, and that is what it is for: a program that has one process,
// and a few devices. DDP (<rondo/ddp.h>) is the faster one as a rule: in DP the parameters go out and the gradients come in while
// nothing is computed, and the optimizer runs on one device while the others wait. The API's steps are the same to
// rounding, so changing over changes no result.
//
// Bits. After rondo_dp_reduce() each element of a gradient on device 0 is the left fold ((g0 + g1) + g2) + …, over the
// devices that had rows, rounded to the type after every addition (f16, bf16 and fp8 too), on processors and on CUDA
// devices alike: what rondo_all_reduce() gives with order=strict and RONDO_SUM over as many ranks. It depends on the
// number of devices, as the rows are added up in other groups: between N devices and one, gradients differ by rounding.
//
// A dp object belongs to one thread at a time; RONDO_ERR_USAGE when its calls meet. In a child made by fork() all
// calls return RONDO_ERR_FORKED.
#ifndef RONDO_DP_H
#define RONDO_DP_H

#include <rondo/ddp.h> // rondo_param: DP and DDP take the same list of parameters

#ifdef __cplusplus
extern "C" {
#endif

#define RONDO_DP_MAX_DEVICES 64

typedef struct rondo_dp rondo_dp;

typedef struct rondo_dp_options {
    size_t size;
    // Processors of each device as the kernel lists them, "0-3,8"; as many as devices. NULL = the processors that this
    // process may use are dealt out, whole cores, neighbours together. Where there are more devices than cores, all
    // devices use all processors. With options.cuda: where the devices' threads run; NULL = anywhere.
    const char *const *cpus;
    // CUDA devices by ordinal, as many as devices; one may come twice, and is then two devices. NULL = processors.
    const int *cuda;
    rondo_log_fn log; // NULL = no logging
    void *log_arg;
} rondo_dp_options;
#define RONDO_DP_OPTIONS_INIT \
    { .size = sizeof(rondo_dp_options) }

// Makes replicas of `params` on `devices` devices, 1 to RONDO_DP_MAX_DEVICES, and starts a thread on each (none for
// one device), which sleeps while there is nothing to do. The parameters' memory stays the caller's, is device 0's
// from now on, and must stay valid while the dp object lives; with options.cuda it lies on that device. Gradients are
// zero. A device that has less than three quarters of the memory or of the cores (multiprocessors) of another one is
// named in a warning in the log, as every step lasts as long as the slowest device needs. options NULL = defaults.
// The caller owns *dp. Blocks briefly. Errors: RONDO_ERR_INVALID with the parameter, device or list of processors;
// RONDO_ERR_NOMEM; RONDO_ERR_SYSTEM; RONDO_ERR_UNSUPPORTED without a CUDA driver or kernels for the device.
RONDO_API rondo_status rondo_dp_create(const rondo_param *params, size_t nparams, int devices,
                                       const rondo_dp_options *options, rondo_dp **dp);

// Ends the threads and frees replicas and gradients. NULL is allowed. RONDO_ERR_USAGE, and nothing is freed, from the
// caller's function or while a call is under way.
RONDO_API rondo_status rondo_dp_destroy(rondo_dp *dp);

// Which rows of the first dimension device `device` of `devices` gets of a batch of `rows`: *first .. *first + *count -
// 1. Parts follow each other and differ by one row at most, the first ones being the larger ones; a batch of fewer rows
// than devices leaves the last devices without (*count 0). The same parts as rondo_sampler_share() gives to ranks. Pure
// function. RONDO_ERR_INVALID for a device that is not below devices.
RONDO_API rondo_status rondo_dp_scatter(uint64_t rows, int device, int devices, uint64_t *first,
                                        uint64_t *count);

// Number of devices; 0 for NULL. What a device is: "processors 0-3", or "CUDA device 1 (NVIDIA H100)"; NULL out of
// range; the text is the dp object's. Any thread.
RONDO_API int rondo_dp_devices(const rondo_dp *dp);
RONDO_API const char *rondo_dp_device_name(const rondo_dp *dp, int device);

// Parameter i on a device, the caller's own memory on device 0, and where its gradient goes there: `count` elements.
// The pointers stay the same while dp lives. NULL out of range. Any thread.
RONDO_API void *rondo_dp_param(const rondo_dp *dp, int device, size_t i);
RONDO_API void *rondo_dp_grad(const rondo_dp *dp, int device, size_t i);

// What a device is given to do.
typedef struct rondo_dp_part {
    size_t size;
    rondo_dp *dp;
    int device;            // that this thread is of
    int devices;           // that have rows of this batch
    uint64_t first, count; // its rows; count is never 0
    uint64_t rows;         // of the whole batch
    rondo_stream stream;   // CUDA: a stream of this device, whose context is current; else NULL
    char why[256];         // for the caller's function: why it failed, "" at first
} rondo_dp_part;

// Runs forward and backward on the rows of a part, with the device's parameters, which it only reads, and writes (or
// accumulates into) the device's gradients. On CUDA devices it may enqueue the work on part->stream and return. Returns
// RONDO_OK, or what went wrong. May call the functions above that any thread may call, and no other of the same dp.
typedef rondo_status (*rondo_dp_fn)(rondo_dp_part *part, void *arg);

// Copies the parameters of device 0 to all replicas. On CUDA devices: what writes them has to be complete. Blocks for
// as long as that takes.
RONDO_API rondo_status rondo_dp_replicate(rondo_dp *dp);

// Runs fn on each device that has rows of the batch, on its own thread, bound to the device's processors; with one device
// on the caller's thread, which is not bound. Returns when all have returned and, on CUDA devices, their streams are
// through: as long as fn runs, for no thread can be stopped that uses the caller's memory. If some fail, the status is
// that of the lowest device that did, and the error names it with its rows and part->why (or else the last error on its
// thread), and how many others failed; what the pass wrote to gradients does not count. rows is at least 1.
RONDO_API rondo_status rondo_dp_apply(rondo_dp *dp, uint64_t rows, rondo_dp_fn fn, void *arg);

// Sums the gradients of the devices that had rows since the last reduction into those of device 0 (see Bits); those of
// the other devices stay as they are. The sum, not the mean: let fn scale its gradients by 1 / rows, which is right for
// unequal parts, too. Before it, several passes may be accumulated; one that computes no gradients, as an evaluation
// does, counts as well, so rondo_dp_zero_grad() has to come after it. RONDO_ERR_USAGE when there was no pass. Blocks for
// as long as that takes.
RONDO_API rondo_status rondo_dp_reduce(rondo_dp *dp);

// rondo_dp_replicate(), rondo_dp_apply() and rondo_dp_reduce(), of this pass alone: passes before it that were not reduced
// do not count.
RONDO_API rondo_status rondo_dp_step(rondo_dp *dp, uint64_t rows, rondo_dp_fn fn, void *arg);

// Sets all gradients of all devices to zero, and forgets passes that were not reduced. For functions that accumulate.
RONDO_API rondo_status rondo_dp_zero_grad(rondo_dp *dp);

// Copies rows that devices computed, row_bytes each, to `out` in the order of the batch: parts[k] holds those of device
// k, or is NULL where it has none; it may lie in `out` at its place already. out is host memory, or on CUDA devices
// memory of device 0; parts[k] is memory of device k. Blocks for as long as that takes.
RONDO_API rondo_status rondo_dp_gather(rondo_dp *dp, uint64_t rows, size_t row_bytes,
                                       void *const *parts, void *out);

// Figures since creation; times in seconds.
typedef struct rondo_dp_stats {
    size_t size; // sizeof(rondo_dp_stats), set by the caller
    uint64_t replications, passes, reductions;
    double replicating, applying, reducing;
    uint64_t bytes_replicated; // parameters, of all replicas
    uint64_t bytes_reduced;    // gradients that devices but the first gave
} rondo_dp_stats;
RONDO_API rondo_status rondo_dp_get_stats(const rondo_dp *dp, rondo_dp_stats *out);

#ifdef __cplusplus
}
#endif
#endif
