// SPDX-License-Identifier: MIT
// What is used of NCCL's interface, in our own declarations: the library is found at run time and nothing of it
// is needed to build. Numbers and types are part of its ABI since 2.10, the 8-bit floats since 2.24.
#ifndef NCCL_TEST_ABI_H
#define NCCL_TEST_ABI_H

#include <stddef.h>

typedef struct nccl_comm_s *nccl_comm;
typedef struct nccl_id {
    char bytes[128];
} nccl_id;

enum { NCCL_OK = 0, NCCL_IN_PROGRESS = 7 };
enum {
    NCCL_INT8,
    NCCL_UINT8,
    NCCL_INT32,
    NCCL_UINT32,
    NCCL_INT64,
    NCCL_UINT64,
    NCCL_FLOAT16,
    NCCL_FLOAT32,
    NCCL_FLOAT64,
    NCCL_BFLOAT16,
    NCCL_FLOAT8E4M3,
    NCCL_FLOAT8E5M2
};
enum { NCCL_SUM, NCCL_PROD, NCCL_MAX, NCCL_MIN, NCCL_AVG };
#define NCCL_FLOAT8_VERSION 22400

// X(field, symbol, arguments); a stream is a CUstream.
#define NCCL_FUNCTIONS(X)                                                                          \
    X(version, ncclGetVersion, (int *version))                                                     \
    X(unique_id, ncclGetUniqueId, (nccl_id * id))                                                  \
    X(init, ncclCommInitRank, (nccl_comm * comm, int ranks, nccl_id id, int rank))                 \
    X(destroy, ncclCommDestroy, (nccl_comm comm))                                                  \
    X(async_error, ncclCommGetAsyncError, (nccl_comm comm, int *error))                            \
    X(all_reduce, ncclAllReduce,                                                                   \
      (const void *send, void *recv, size_t count, int type, int op, nccl_comm comm,               \
       void *stream))                                                                              \
    X(reduce_scatter, ncclReduceScatter,                                                           \
      (const void *send, void *recv, size_t count, int type, int op, nccl_comm comm,               \
       void *stream))                                                                              \
    X(reduce, ncclReduce,                                                                          \
      (const void *send, void *recv, size_t count, int type, int op, int root, nccl_comm comm,     \
       void *stream))                                                                              \
    X(all_gather, ncclAllGather,                                                                   \
      (const void *send, void *recv, size_t count, int type, nccl_comm comm, void *stream))        \
    X(broadcast, ncclBroadcast,                                                                    \
      (const void *send, void *recv, size_t count, int type, int root, nccl_comm comm,             \
       void *stream))                                                                              \
    X(send, ncclSend,                                                                              \
      (const void *buf, size_t count, int type, int peer, nccl_comm comm, void *stream))           \
    X(recv, ncclRecv, (void *buf, size_t count, int type, int peer, nccl_comm comm, void *stream)) \
    X(group_start, ncclGroupStart, (void))                                                         \
    X(group_end, ncclGroupEnd, (void))

struct nccl_api {
#define NCCL_FIELD(field, symbol, arguments) int(*field) arguments;
    NCCL_FUNCTIONS(NCCL_FIELD)
#undef NCCL_FIELD
    const char *(*error_string)(int result);
};

#endif
