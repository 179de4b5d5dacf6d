// SPDX-License-Identifier: MIT
// Where a model lives: what the reducer does with gradients, in host memory (host.c) or on a CUDA device (device.c).
#ifndef RDI_DDP_PLACE_H
#define RDI_DDP_PLACE_H

#include "ddp/ddp.h"

#include <stdint.h>

struct rondo_ddp;
struct rdi_bucket;

struct rdi_place {
    // Memory of a bucket, zeroed, and its end. release() waits until nothing uses it any more.
    rondo_status (*alloc)(struct rondo_ddp *d, size_t bytes, void **mem);
    void (*release)(struct rondo_ddp *d, void *mem);
    rondo_status (*zero)(struct rondo_ddp *d, void *mem, size_t bytes);
    rondo_status (*copy)(struct rondo_ddp *d, void *to, const void *from, size_t bytes);
    // to = from / ranks, or from when the sum is wanted. `from` may be `to`.
    rondo_status (*divide)(struct rondo_ddp *d, void *to, const void *from, size_t count,
                           rondo_type type);
    // Begins the reduction of a bucket whose gradients are ready.
    rondo_status (*launch)(struct rondo_ddp *d, struct rdi_bucket *b);
    // The step's end: afterwards the caller may use the gradients (on its stream). Counts the times.
    rondo_status (*finish)(struct rondo_ddp *d);
    // Ends everything that launch() began.
    void (*drain)(struct rondo_ddp *d);
};

extern const struct rdi_place rdi_place_host, rdi_place_device;

// device.c: binds the ddp object's communicator to its device, before parameters are looked at.
rondo_status rdi_ddp_device_open(struct rondo_ddp *d, int ordinal, rondo_stream stream);
// After the communicator's end and the buckets'.
void rdi_ddp_device_close(struct rondo_ddp *d);
// RONDO_ERR_INVALID, naming the parameter, when its data is not on the device. Waits for what the caller has
// enqueued on the stream: the values are complete then.
rondo_status rdi_ddp_device_check(const struct rondo_ddp *d);
// Fills in the times of the steps that the device is through with.
void rdi_ddp_device_times(const struct rondo_ddp *d, rondo_ddp_stats *out);

#endif
