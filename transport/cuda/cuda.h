// SPDX-License-Identifier: MIT
// The device layer: the CUDA driver found at run time, devices, classification of pointers, and memory that the
// reaches of ring/cuda/ need (pinned host memory, device memory that peers or NICs can use).
//
//   load.c     dlopen, the table of functions, the one-line state        once per process
//   device.c   primary contexts, the kernels' module, per device
//   pointer.c  whose memory is this?
//   share.c    device memory for other processes (IPC, VMM) and for NICs (DMA-BUF)
//
// Nothing here is called by the thread that owns the engine: only by threads that submit.
#ifndef RDI_CUDA_CUDA_H
#define RDI_CUDA_CUDA_H

#include "transport/cuda/driver.h"
#include "transport/internal.h"

#define RDI_CUDA_MAX_DEVICES 64

// ---- The driver ----------------------------------------------------------------------------------

enum rdi_cuda_want {
    RDI_CUDA_IF_LOADED, // only when the process has loaded the driver already (it may have device pointers)
    RDI_CUDA_LOAD, // load it
};
// The driver's functions, or NULL; then rdi_cuda_state() tells why. The first call decides for the process,
// except that IF_LOADED may become available later. Environment: RONDO_CUDA_DRIVER (option cuda_driver).
// Any thread.
const struct rdi_cuda_api *rdi_cuda(enum rdi_cuda_want want);
// Whether this process has used rdi_cuda() with success: calls that may get a device pointer then ask for it.
bool rdi_cuda_in_use(void);
// One line for people: "CUDA 13.0, 1 device" or why there is none. Static memory. Any thread.
const char *rdi_cuda_state(void);
// Sets the last error: "what: CUDA_ERROR_… (text)". `r` is not RDI_CU_OK.
rondo_status rdi_cuda_fail(rdi_cu_result r, const char *fmt, ...)
    __attribute__((format(printf, 2, 3), cold));

// ---- Devices -------------------------------------------------------------------------------------

struct rdi_cuda_device {
    const struct rdi_cuda_api *cu;
    int ordinal;
    rdi_cu_device device;
    rdi_cu_ctx
        ctx; // the primary context, retained for the life of the process: shared with the application
    rdi_cu_uuid uuid;
    char name[96], pci[24];
    int multiprocessors, major, minor;
    bool can_flush, ordered, gdr, dmabuf, vmm, posix_fd;
    rdi_cu_module module; // the reduce kernels; NULL with `why` when they cannot be loaded
    char why[256];
};
// Device by ordinal (as the CUDA driver counts, after CUDA_VISIBLE_DEVICES), opened once. Any thread.
rondo_status rdi_cuda_device(int ordinal, struct rdi_cuda_device **out);
// Makes the device's context current on this thread, and undoes it.
rondo_status rdi_cuda_enter(const struct rdi_cuda_device *d);
void rdi_cuda_leave(const struct rdi_cuda_device *d);
// A kernel of the embedded module by name.
rondo_status rdi_cuda_kernel(struct rdi_cuda_device *d, const char *name, rdi_cu_function *out);

// ---- Pointers ------------------------------------------------------------------------------------

enum rdi_cuda_kind { RDI_CUDA_HOST, RDI_CUDA_PINNED, RDI_CUDA_DEVICE };
struct rdi_cuda_where {
    enum rdi_cuda_kind kind;
    int ordinal; // device memory: whose
};
// Where [ptr, ptr + len) lies. RONDO_ERR_UNSUPPORTED, with the reason and the remedy, for managed memory;
// RONDO_ERR_INVALID when the range leaves its allocation. Without a driver in this process: host. Any thread.
rondo_status rdi_cuda_classify(const void *ptr, size_t len, struct rdi_cuda_where *out);

// ---- Memory --------------------------------------------------------------------------------------

// Page-locked host memory that devices can address, zeroed. Needs the device's context current.
struct rdi_cuda_pinned {
    void *host;
    rdi_cu_ptr device; // the same memory as the device sees it
    size_t bytes;
};
rondo_status rdi_cuda_pinned_alloc(const struct rdi_cuda_device *d, size_t bytes,
                                   struct rdi_cuda_pinned *out);
void rdi_cuda_pinned_free(const struct rdi_cuda_device *d, struct rdi_cuda_pinned *p);

// Whole units of 2 MiB of device memory that other processes of this host can map: by CUDA IPC, or, where the device has no such
// handles, by an allocation of virtual memory management whose descriptor a peer fetches.
struct rdi_cuda_block {
    rdi_cu_ptr ptr;
    size_t bytes;
    rdi_cu_mem mem; // VMM only
    int fd;         // VMM only: the exported descriptor, else -1
    bool vmm;
};
// How a peer gets at a block; plain bytes, unchecked when they come from a peer.
#define RDI_CUDA_TICKET 96
enum { RDI_CUDA_TICKET_NONE, RDI_CUDA_TICKET_IPC, RDI_CUDA_TICKET_FD };
struct rdi_cuda_ticket {
    uint32_t kind;
    uint32_t pid;
    int32_t fd;
    uint32_t pad;
    uint64_t bytes;
    uint8_t handle[64];
    uint64_t reserved;
};
_Static_assert(sizeof(struct rdi_cuda_ticket) == RDI_CUDA_TICKET, "travels");
rondo_status rdi_cuda_block_alloc(const struct rdi_cuda_device *d, size_t bytes,
                                  struct rdi_cuda_block *out);
// Keeps it for the next alloc of its size. Nothing of this process may touch it any more; peers may.
void rdi_cuda_block_free(const struct rdi_cuda_device *d, struct rdi_cuda_block *b);
void rdi_cuda_block_ticket(const struct rdi_cuda_device *d, const struct rdi_cuda_block *b,
                           struct rdi_cuda_ticket *out);
// Maps another process's block. Errors say why it cannot be; the caller then takes another reach.
struct rdi_cuda_map {
    rdi_cu_ptr ptr;
    size_t bytes;
    rdi_cu_mem mem;
    bool vmm;
};
rondo_status rdi_cuda_map_open(const struct rdi_cuda_device *d, const struct rdi_cuda_ticket *t,
                               struct rdi_cuda_map *out);
void rdi_cuda_map_close(const struct rdi_cuda_device *d, struct rdi_cuda_map *m);

// A DMA-BUF descriptor of [ptr, ptr + bytes) for ibv_reg_dmabuf_mr(); *offset is where ptr lies in it. The
// caller closes the descriptor.
rondo_status rdi_cuda_dmabuf(const struct rdi_cuda_device *d, rdi_cu_ptr ptr, size_t bytes, int *fd,
                             uint64_t *offset);

// The embedded kernels (a fatbin); size 0 in a build without nvcc.
extern const unsigned char rdi_cuda_image[];
extern const uint64_t rdi_cuda_image_size;

#endif
