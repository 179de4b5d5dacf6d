// SPDX-License-Identifier: MIT
// What the files of dp/ share.
//
//   dp.c       the calls: checks, order, statistics
//   team.c     a thread for each device, and one piece of work at a time for all of them
//   host.c     devices that are processors: memory, copies, the fold by ring/reduce.h
//   cuda.c     CUDA devices: the same with streams, and the kernels of ring/cuda
//   cores.c    which processors are whose, and whether the devices are alike
//
// Gradients and replicas are one block of memory a device, in which each parameter begins at a multiple of
// RDI_DP_ALIGN; neighbours of one type are one *run*, with zeros between them, and are copied and added as one.
#ifndef RDI_DP_INTERNAL_H
#define RDI_DP_INTERNAL_H

#include "dp/dp.h"
#include "topo/set.h"
#include "transport/internal.h"

#include <pthread.h>
#include <stdatomic.h>

#define RDI_DP_ALIGN 64

struct rdi_dp_param {
    void *data; // device 0's
    size_t at;  // in a block
    size_t bytes;
    rondo_type type;
};

struct rdi_dp_run {
    size_t at, bytes;
    rondo_type type;
};

struct rdi_dp_cuda;

// One device.
struct rdi_dp_device {
    struct rondo_dp *dp;
    int index;
    char name[160];
    // What it has, to compare; 0 = unknown.
    uint64_t memory;
    unsigned cores;
    const char *core_word;      // "cores", "multiprocessors"
    struct rdi_set cpus;        // that its thread is bound to; none: it is not
    unsigned char *params;      // a block; NULL on device 0
    unsigned char *grads;       // a block
    struct rdi_dp_cuda *cuda;   // NULL: processors
    pthread_t thread;           // of more than one device
    rondo_status status;        // of the work that it did last
    char error[RDI_ERROR_TEXT]; // the last error's text
    uint64_t first, count;      // rows of the batch under way
};

// What devices do in their own way; on the device's thread, and k is its own.
struct rdi_dp_place {
    rondo_status (*open)(struct rdi_dp_device *k); // memory, zeroed
    void (*close)(struct rdi_dp_device *k);        // also after open() failed
    rondo_status (*replicate)(struct rdi_dp_device *k);
    rondo_status (*zero)(struct rdi_dp_device *k);
    // Its share of the fold over devices 0 .. used-1, if it has one.
    rondo_status (*reduce)(struct rdi_dp_device *k, int used);
    // Copies its rows to their place.
    rondo_status (*gather)(struct rdi_dp_device *k, const void *part, void *to, size_t bytes);
    // Before the caller's function, and after it, when begin() succeeded: what it has begun is complete then.
    rondo_status (*begin)(struct rdi_dp_device *k, rondo_stream *stream);
    rondo_status (*settle)(struct rdi_dp_device *k);
};
extern const struct rdi_dp_place rdi_dp_place_host, rdi_dp_place_cuda;

// Work for one device, on its thread.
typedef rondo_status (*rdi_dp_work)(struct rdi_dp_device *k, void *arg);

struct rdi_dp_team {
    pthread_mutex_t lock;
    pthread_cond_t begin, end;
    uint64_t round; // grows with each piece of work
    rdi_dp_work work;
    void *arg;
    int width;   // devices 0 .. width-1 take part
    int left;    // of them are at it
    int threads; // that were started
    bool made, stop;
};

struct rondo_dp {
    struct rdi_env env;
    int pid; // of the process that made it
    const struct rdi_dp_place *place;
    struct rdi_dp_param *params;
    size_t nparams;
    struct rdi_dp_run *runs;
    size_t nruns;
    size_t block; // bytes of a block
    size_t bytes; // of all parameters
    struct rdi_dp_device *device;
    int devices;
    int used;    // devices that had rows since the last reduction
    bool opened; // devices have memory, or tried to have
    atomic_bool busy;
    rondo_dp_stats stats;
    struct rdi_dp_team team;
};

// ---- team.c --------------------------------------------------------------------------------------

// Threads of dp->devices; none for one.
rondo_status rdi_dp_team_start(struct rondo_dp *dp);
// Does `work` on devices 0 .. width-1, each on its own thread, and waits for all. Each device's status and error are
// left with it; returns the first that is not RONDO_OK, and sets its error here. With one device: right here.
rondo_status rdi_dp_team_run(struct rondo_dp *dp, int width, rdi_dp_work work, void *arg);
void rdi_dp_team_stop(struct rondo_dp *dp);

// ---- cores.c -------------------------------------------------------------------------------------

// A list as the kernel writes it: "0-3,8". False, with the reason: it is none, or a processor is above RDI_SET_BITS.
bool rdi_dp_read_cpus(const char *text, struct rdi_set *out, char why[80]);
// Deals out whole cores, neighbours together; sets of more devices than cores are all of them. Pure.
void rdi_dp_deal(const struct rdi_set *cores, int ncores, int devices, struct rdi_set *out);
// Gives each device its processors, memory, cores and name; `cpus` as in the options.
rondo_status rdi_dp_find_cores(struct rondo_dp *dp, const char *const *cpus);
// The warning for devices that are not alike; false: they are. Pure.
bool rdi_dp_unlike(const struct rdi_dp_device *d, int n, char *line, size_t cap);

// ---- cuda.c --------------------------------------------------------------------------------------

// Finds the devices: names, figures, kernels.
rondo_status rdi_dp_cuda_find(struct rondo_dp *dp, const int *ordinals);
void rdi_dp_cuda_forget(struct rondo_dp *dp);

#endif
