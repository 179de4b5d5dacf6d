// SPDX-License-Identifier: MIT
// The CUDA driver API as far as Rondo uses it: our own declarations (no cuda.h is needed to build) and one
// table of functions, from which transport/cuda/load.c fills struct rdi_cuda_api with dlsym(3) and
// tests/mock_cuda declares what it must define. Symbols carry the version suffix of the ABI declared here.
// Source: "CUDA Driver API Reference Manual", 13.0; the values are part of its ABI.
#ifndef RDI_CUDA_DRIVER_H
#define RDI_CUDA_DRIVER_H

#include <stddef.h>
#include <stdint.h>

typedef int rdi_cu_result;
typedef int rdi_cu_device;
typedef unsigned long long rdi_cu_ptr; // device address
typedef struct rdi_cu_ctx_s *rdi_cu_ctx;
typedef struct rdi_cu_stream_s *rdi_cu_stream; // NULL: the legacy default stream
typedef struct rdi_cu_event_s *rdi_cu_event;
typedef struct rdi_cu_module_s *rdi_cu_module;
typedef struct rdi_cu_function_s *rdi_cu_function;
typedef unsigned long long rdi_cu_mem; // a physical allocation (virtual memory management)

typedef struct rdi_cu_uuid {
    uint8_t bytes[16];
} rdi_cu_uuid;

typedef struct rdi_cu_ipc_mem {
    uint8_t reserved[64];
} rdi_cu_ipc_mem;

enum {
    RDI_CU_OK = 0,
    RDI_CU_INVALID_VALUE = 1,
    RDI_CU_OUT_OF_MEMORY = 2,
    RDI_CU_NOT_INITIALIZED = 3,
    RDI_CU_DEINITIALIZED = 4,
    RDI_CU_STUB_LIBRARY = 34,
    RDI_CU_NO_DEVICE = 100,
    RDI_CU_INVALID_DEVICE = 101,
    RDI_CU_INVALID_IMAGE = 200,
    RDI_CU_INVALID_CONTEXT = 201,
    RDI_CU_NO_BINARY_FOR_GPU = 209,
    RDI_CU_PEER_ACCESS_UNSUPPORTED = 217,
    RDI_CU_NOT_FOUND = 500,
    RDI_CU_NOT_READY = 600,
    RDI_CU_ILLEGAL_ADDRESS = 700,
    RDI_CU_PEER_ACCESS_ALREADY_ENABLED = 704,
    RDI_CU_HOST_MEMORY_ALREADY_REGISTERED = 712,
    RDI_CU_NOT_PERMITTED = 800,
    RDI_CU_NOT_SUPPORTED = 801,
    RDI_CU_STREAM_CAPTURE_UNSUPPORTED = 900,
};

enum { // cuDeviceGetAttribute
    RDI_CU_ATTR_MULTIPROCESSORS = 16,
    RDI_CU_ATTR_INTEGRATED = 18,
    RDI_CU_ATTR_UNIFIED_ADDRESSING = 41,
    RDI_CU_ATTR_COMPUTE_MAJOR = 75,
    RDI_CU_ATTR_COMPUTE_MINOR = 76,
    RDI_CU_ATTR_CAN_FLUSH_REMOTE_WRITES = 98,
    RDI_CU_ATTR_VMM = 102,
    RDI_CU_ATTR_POSIX_FD = 103,
    RDI_CU_ATTR_GDR_WITH_VMM = 110,
    RDI_CU_ATTR_GDR = 116,
    RDI_CU_ATTR_GDR_FLUSH_OPTIONS = 117,
    RDI_CU_ATTR_GDR_ORDERING = 118, // 0 none, 100 owner, 200 all devices
    RDI_CU_ATTR_DMA_BUF = 124,
};

enum { // cuPointerGetAttribute
    RDI_CU_PTR_CONTEXT = 1,
    RDI_CU_PTR_MEMORY_TYPE = 2,
    RDI_CU_PTR_HOST_POINTER = 4,
    RDI_CU_PTR_SYNC_MEMOPS = 6,
    RDI_CU_PTR_BUFFER_ID = 7,
    RDI_CU_PTR_IS_MANAGED = 8,
    RDI_CU_PTR_DEVICE_ORDINAL = 9,
    RDI_CU_PTR_LEGACY_IPC = 10,
    RDI_CU_PTR_RANGE_START = 11,
    RDI_CU_PTR_RANGE_SIZE = 12,
    RDI_CU_PTR_GDR_CAPABLE = 15,
};
enum { RDI_CU_MEM_HOST = 1, RDI_CU_MEM_DEVICE = 2 }; // RDI_CU_PTR_MEMORY_TYPE

enum { RDI_CU_STREAM_NON_BLOCKING = 1 };
enum { RDI_CU_EVENT_DISABLE_TIMING = 2, RDI_CU_EVENT_DEFAULT = 0 };
enum { RDI_CU_HOST_PORTABLE = 1, RDI_CU_HOST_DEVICEMAP = 2 }; // cuMemHostAlloc, cuMemHostRegister
enum { RDI_CU_IPC_LAZY_PEER_ACCESS = 1 };
enum { RDI_CU_WAIT_GEQ = 0, RDI_CU_WAIT_EQ = 1, RDI_CU_WAIT_FLUSH = 1 << 30 };
enum { RDI_CU_WRITE_DEFAULT = 0 };
enum { RDI_CU_HANDLE_DMA_BUF_FD = 1 }; // cuMemGetHandleForAddressRange
enum { RDI_CU_CAPTURE_NONE = 0, RDI_CU_CAPTURE_ACTIVE = 1, RDI_CU_CAPTURE_INVALIDATED = 2 };
enum { RDI_CU_FLUSH_CURRENT_CTX = 0, RDI_CU_FLUSH_TO_OWNER = 100 };

// CUstreamBatchMemOpParams: a union of 48 bytes whose first word tells the kind.
enum { RDI_CU_OP_WAIT32 = 1, RDI_CU_OP_WRITE32 = 2 };
typedef union rdi_cu_memop {
    struct {
        uint32_t kind, pad;
        rdi_cu_ptr address;
        uint32_t value, pad2;
        uint32_t flags, pad3;
        rdi_cu_ptr alias;
    } value32;
    uint64_t all[6];
} rdi_cu_memop;
_Static_assert(sizeof(rdi_cu_memop) == 48, "CUstreamBatchMemOpParams");

// Virtual memory management.
enum { RDI_CU_ALLOCATION_PINNED = 1, RDI_CU_LOCATION_DEVICE = 1, RDI_CU_SHARE_POSIX_FD = 1 };
enum { RDI_CU_ACCESS_READ = 1, RDI_CU_ACCESS_READ_WRITE = 3 };
typedef struct rdi_cu_location {
    int type, id;
} rdi_cu_location;
typedef struct rdi_cu_allocation { // CUmemAllocationProp
    int type, handle_types;
    rdi_cu_location location;
    void *win32;
    struct {
        uint8_t compression, gdr_capable;
        uint16_t usage;
        uint8_t reserved[4];
    } flags;
} rdi_cu_allocation;
_Static_assert(sizeof(rdi_cu_allocation) == 32, "CUmemAllocationProp");
typedef struct rdi_cu_access { // CUmemAccessDesc
    rdi_cu_location location;
    int flags;
} rdi_cu_access;

// X(need, name, symbol, arguments): need is 1 when Rondo does nothing with GPUs without it.
#define RDI_CUDA_FUNCTIONS(X)                                                                      \
    X(1, init, cuInit, (unsigned flags))                                                           \
    X(1, driver_version, cuDriverGetVersion, (int *version))                                       \
    X(1, error_name, cuGetErrorName, (rdi_cu_result r, const char **name))                         \
    X(1, error_string, cuGetErrorString, (rdi_cu_result r, const char **text))                     \
    X(1, device_count, cuDeviceGetCount, (int *n))                                                 \
    X(1, device_get, cuDeviceGet, (rdi_cu_device * device, int ordinal))                           \
    X(1, device_name, cuDeviceGetName, (char *name, int cap, rdi_cu_device device))                \
    X(1, device_attribute, cuDeviceGetAttribute, (int *value, int what, rdi_cu_device device))     \
    X(1, device_uuid, cuDeviceGetUuid_v2, (rdi_cu_uuid * uuid, rdi_cu_device device))              \
    X(1, device_pci, cuDeviceGetPCIBusId, (char *id, int cap, rdi_cu_device device))               \
    X(1, device_memory, cuDeviceTotalMem_v2, (size_t * bytes, rdi_cu_device device))               \
    X(1, peer_capable, cuDeviceCanAccessPeer, (int *yes, rdi_cu_device from, rdi_cu_device to))    \
    X(1, ctx_retain, cuDevicePrimaryCtxRetain, (rdi_cu_ctx * ctx, rdi_cu_device device))           \
    X(1, ctx_release, cuDevicePrimaryCtxRelease_v2, (rdi_cu_device device))                        \
    X(1, ctx_push, cuCtxPushCurrent_v2, (rdi_cu_ctx ctx))                                          \
    X(1, ctx_pop, cuCtxPopCurrent_v2, (rdi_cu_ctx * ctx))                                          \
    X(1, ctx_current, cuCtxGetCurrent, (rdi_cu_ctx * ctx))                                         \
    X(1, ctx_device, cuCtxGetDevice, (rdi_cu_device * device))                                     \
    X(1, ctx_sync, cuCtxSynchronize, (void))                                                       \
    X(1, ctx_enable_peer, cuCtxEnablePeerAccess, (rdi_cu_ctx peer, unsigned flags))                \
    X(1, module_load, cuModuleLoadData, (rdi_cu_module * module, const void *image))               \
    X(1, module_unload, cuModuleUnload, (rdi_cu_module module))                                    \
    X(1, module_function, cuModuleGetFunction,                                                     \
      (rdi_cu_function * f, rdi_cu_module module, const char *name))                               \
    X(1, launch, cuLaunchKernel,                                                                   \
      (rdi_cu_function f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by,         \
       unsigned bz, unsigned shared, rdi_cu_stream stream, void **args, void **extra))             \
    X(1, mem_alloc, cuMemAlloc_v2, (rdi_cu_ptr * p, size_t bytes))                                 \
    X(1, mem_free, cuMemFree_v2, (rdi_cu_ptr p))                                                   \
    X(1, mem_range, cuMemGetAddressRange_v2, (rdi_cu_ptr * base, size_t * bytes, rdi_cu_ptr p))    \
    X(1, host_alloc, cuMemHostAlloc, (void **p, size_t bytes, unsigned flags))                     \
    X(1, host_free, cuMemFreeHost, (void *p))                                                      \
    X(1, host_register, cuMemHostRegister_v2, (void *p, size_t bytes, unsigned flags))             \
    X(1, host_unregister, cuMemHostUnregister, (void *p))                                          \
    X(1, host_device_ptr, cuMemHostGetDevicePointer_v2,                                            \
      (rdi_cu_ptr * device, void *host, unsigned flags))                                           \
    X(1, copy_to_device, cuMemcpyHtoD_v2, (rdi_cu_ptr to, const void *from, size_t bytes))         \
    X(1, copy_to_host, cuMemcpyDtoH_v2, (void *to, rdi_cu_ptr from, size_t bytes))                 \
    X(1, copy_to_device_async, cuMemcpyHtoDAsync_v2,                                               \
      (rdi_cu_ptr to, const void *from, size_t bytes, rdi_cu_stream stream))                       \
    X(1, copy_to_host_async, cuMemcpyDtoHAsync_v2,                                                 \
      (void *to, rdi_cu_ptr from, size_t bytes, rdi_cu_stream stream))                             \
    X(1, copy_async, cuMemcpyDtoDAsync_v2,                                                         \
      (rdi_cu_ptr to, rdi_cu_ptr from, size_t bytes, rdi_cu_stream stream))                        \
    X(1, set_async, cuMemsetD8Async,                                                               \
      (rdi_cu_ptr to, unsigned char value, size_t bytes, rdi_cu_stream stream))                    \
    X(1, ptr_attribute, cuPointerGetAttribute, (void *value, int what, rdi_cu_ptr p))              \
    X(1, ptr_attributes, cuPointerGetAttributes,                                                   \
      (unsigned n, const int *what, void **values, rdi_cu_ptr p))                                  \
    X(1, ptr_set_attribute, cuPointerSetAttribute, (const void *value, int what, rdi_cu_ptr p))    \
    X(1, stream_create, cuStreamCreateWithPriority,                                                \
      (rdi_cu_stream * stream, unsigned flags, int priority))                                      \
    X(1, stream_priorities, cuCtxGetStreamPriorityRange, (int *least, int *greatest))              \
    X(1, stream_destroy, cuStreamDestroy_v2, (rdi_cu_stream stream))                               \
    X(1, stream_sync, cuStreamSynchronize, (rdi_cu_stream stream))                                 \
    X(1, stream_query, cuStreamQuery, (rdi_cu_stream stream))                                      \
    X(1, stream_wait_event, cuStreamWaitEvent,                                                     \
      (rdi_cu_stream stream, rdi_cu_event event, unsigned flags))                                  \
    X(1, stream_capturing, cuStreamIsCapturing, (rdi_cu_stream stream, int *status))               \
    X(1, stream_ctx, cuStreamGetCtx, (rdi_cu_stream stream, rdi_cu_ctx * ctx))                     \
    X(1, wait_value, cuStreamWaitValue32_v2,                                                       \
      (rdi_cu_stream stream, rdi_cu_ptr address, uint32_t value, unsigned flags))                  \
    X(1, write_value, cuStreamWriteValue32_v2,                                                     \
      (rdi_cu_stream stream, rdi_cu_ptr address, uint32_t value, unsigned flags))                  \
    X(1, batch_memop, cuStreamBatchMemOp_v2,                                                       \
      (rdi_cu_stream stream, unsigned n, rdi_cu_memop *ops, unsigned flags))                       \
    X(1, event_create, cuEventCreate, (rdi_cu_event * event, unsigned flags))                      \
    X(1, event_destroy, cuEventDestroy_v2, (rdi_cu_event event))                                   \
    X(1, event_record, cuEventRecord, (rdi_cu_event event, rdi_cu_stream stream))                  \
    X(1, event_query, cuEventQuery, (rdi_cu_event event))                                          \
    X(1, event_sync, cuEventSynchronize, (rdi_cu_event event))                                     \
    X(1, event_elapsed, cuEventElapsedTime, (float *ms, rdi_cu_event a, rdi_cu_event b))           \
    X(1, ipc_export, cuIpcGetMemHandle, (rdi_cu_ipc_mem * handle, rdi_cu_ptr p))                   \
    X(1, ipc_open, cuIpcOpenMemHandle_v2, (rdi_cu_ptr * p, rdi_cu_ipc_mem handle, unsigned flags)) \
    X(1, ipc_close, cuIpcCloseMemHandle, (rdi_cu_ptr p))                                           \
    X(0, vmm_create, cuMemCreate,                                                                  \
      (rdi_cu_mem * mem, size_t bytes, const rdi_cu_allocation *prop, uint64_t flags))             \
    X(0, vmm_release, cuMemRelease, (rdi_cu_mem mem))                                              \
    X(0, vmm_reserve, cuMemAddressReserve,                                                         \
      (rdi_cu_ptr * p, size_t bytes, size_t align, rdi_cu_ptr hint, uint64_t flags))               \
    X(0, vmm_unreserve, cuMemAddressFree, (rdi_cu_ptr p, size_t bytes))                            \
    X(0, vmm_map, cuMemMap,                                                                        \
      (rdi_cu_ptr p, size_t bytes, size_t offset, rdi_cu_mem mem, uint64_t flags))                 \
    X(0, vmm_unmap, cuMemUnmap, (rdi_cu_ptr p, size_t bytes))                                      \
    X(0, vmm_access, cuMemSetAccess,                                                               \
      (rdi_cu_ptr p, size_t bytes, const rdi_cu_access *access, size_t n))                         \
    X(0, vmm_granularity, cuMemGetAllocationGranularity,                                           \
      (size_t * bytes, const rdi_cu_allocation *prop, int option))                                 \
    X(0, vmm_export, cuMemExportToShareableHandle,                                                 \
      (void *handle, rdi_cu_mem mem, int type, uint64_t flags))                                    \
    X(0, vmm_import, cuMemImportFromShareableHandle, (rdi_cu_mem * mem, void *handle, int type))   \
    X(0, mem_dmabuf, cuMemGetHandleForAddressRange,                                                \
      (void *handle, rdi_cu_ptr p, size_t bytes, int type, uint64_t flags))                        \
    X(0, flush_writes, cuFlushGPUDirectRDMAWrites, (int target, int scope))

struct rdi_cuda_api {
#define RDI_CUDA_FIELD(need, name, symbol, arguments) rdi_cu_result(*name) arguments;
    RDI_CUDA_FUNCTIONS(RDI_CUDA_FIELD)
#undef RDI_CUDA_FIELD
};

#endif
