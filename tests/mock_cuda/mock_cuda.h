// SPDX-License-Identifier: MIT
// What a test, and a twin of a kernel, asks of the mock driver beyond the CUDA driver API. All of it is exported by
// our libcuda.so.1; a program that links the target mock_cuda, or finds the symbols with dlsym(3), can call it.
#ifndef MOCK_CUDA_H
#define MOCK_CUDA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// ---- Twins: kernels in C -------------------------------------------------------------------------

// Does what the whole grid does, on the stream's thread. args[i] points to a copy, made at launch, of argument i.
typedef void mock_cuda_twin_fn(void **args, const unsigned grid[3], const unsigned block[3]);

enum { MOCK_CUDA_ARGS = 16 };
struct mock_cuda_twin {
    const char *name; // the kernel's name, as cuModuleGetFunction() is asked for it
    mock_cuda_twin_fn *fn;
    unsigned nargs;
    unsigned size[MOCK_CUDA_ARGS]; // of each argument, bytes
};

// A library named in MOCK_CUDA_TWINS (paths, colon separated) exports its kernels as
//     const struct mock_cuda_twin mock_twin_table[];        the last one has name NULL
// with default visibility. It links the target mock_cuda for the functions below. A test program can register a
// table instead, which is looked at first and must stay.
void mock_cuda_register_twins(const struct mock_cuda_twin *table);

// For twins: the memory behind a device address, or behind pinned or registered host memory (as it is). A range
// that the calling stream's device may not touch aborts: kernel-address-unknown, kernel-out-of-bounds,
// use-after-free, vmm-no-access, peer-not-enabled. Any thread may ask.
void *mock_cuda_range(unsigned long long address, unsigned long long bytes);
// For twins that wait for a flag (with __atomic_load_n on what mock_cuda_range() gave): a short sleep between two
// looks. Aborts (stuck) when the kernel has waited longer than MOCK_CUDA_STUCK_S.
void mock_cuda_relax(void);

// Enqueues a host function in stream order (NULL: the legacy stream of the current context), for mock libraries
// that stand for others (cuBLAS). Inside it mock_cuda_range() works as in a twin. A CUresult.
int mock_cuda_enqueue(void *stream, void (*fn)(void *), void *arg);

// ---- Tests ---------------------------------------------------------------------------------------

struct mock_cuda_counters {
    uint64_t launches, host_functions;
    uint64_t waits, writes; // memory operations
    uint64_t to_device, to_host, on_device, sets;
    uint64_t to_device_bytes, to_host_bytes, on_device_bytes, set_bytes;
    uint64_t staged;                                       // copies from or to pageable memory
    uint64_t device_bytes, pinned_bytes, registered_bytes; // what lives now
    uint64_t allocations, streams, events, ipc_maps;       // what lives now
};
void mock_cuda_counters(struct mock_cuda_counters *out);
// How often a function of the driver was called, by its symbol ("cuMemAlloc_v2").
uint64_t mock_cuda_calls(const char *symbol);

// Reads and writes device memory at once, out of any order with streams.
void mock_cuda_peek(void *to, unsigned long long from, size_t bytes);
void mock_cuda_poke(unsigned long long to, const void *from, size_t bytes);

// From now on a call of the driver by this thread aborts (forbidden-thread).
void mock_cuda_forbid_thread(bool forbid);
// What cuStreamIsCapturing() says of a stream; work enqueued while it is active aborts (enqueued-in-capture).
void mock_cuda_set_capture(void *stream, int status);
// While it is held a stream starts no further operation.
void mock_cuda_hold(void *stream, bool hold);
// Replaces MOCK_CUDA_FAIL; NULL: no faults. Counts begin anew.
void mock_cuda_fail(const char *faults);
// Managed memory, which the driver API of driver.h cannot make: readable by the host, and told as managed.
void *mock_cuda_managed(size_t bytes);
void mock_cuda_managed_free(void *p);
// How many objects are left (memory, streams, events, maps), each named on stderr if `print`.
unsigned mock_cuda_leaks(bool print);

#endif
