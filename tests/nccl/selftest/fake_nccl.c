// SPDX-License-Identifier: MIT
// A libnccl for tests without a GPU: over the mock CUDA driver, with the ranks' data in a shared file. It is as slow
// as it is simple, but it rounds, averages, orders and saturates as programs/judge.h says of NCCL, so that a run
// against it exercises NCCL's side from the id to the verdict. FAKE_NCCL_WRONG=1: the last rank adds one unit too
// much to the first element of every sum.
#include "tests/mock_cuda/mock_cuda.h"
#include "tests/nccl/programs/cases.h"
#include "tests/nccl/programs/nccl_abi.h"
#include "tests/nccl/programs/number.h"
#include "transport/cuda/driver.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define SLOT ((size_t)4 << 20) // the largest buffer of a rank

struct shared {
    pthread_barrier_t barrier;
    _Alignas(64) unsigned char slot[CASES_MAX_RANKS][SLOT];
};

struct nccl_comm_s {
    struct shared *shared;
    int rank, ranks;
    unsigned char *result;
};

static const rondo_type types[] = {RONDO_I8,  RONDO_U8,   RONDO_I32,    RONDO_U32,
                                   RONDO_I64, RONDO_U64,  RONDO_F16,    RONDO_F32,
                                   RONDO_F64, RONDO_BF16, RONDO_F8E4M3, RONDO_F8E5M2};
enum { INVALID = 4, SYSTEM = 2 };

// What a group has collected: one communicator, all to all.
static struct {
    int depth;
    nccl_comm comm;
    const void *send[CASES_MAX_RANKS];
    void *recv[CASES_MAX_RANKS], *stream;
    size_t bytes;
} group;

// As NCCL declares them, and the driver.
#define DECLARE(field, symbol, arguments) \
    __attribute__((visibility("default"))) int symbol arguments;
NCCL_FUNCTIONS(DECLARE)
rdi_cu_result cuStreamSynchronize(rdi_cu_stream stream);

// ---- Arithmetic ----------------------------------------------------------------------------------

static uint64_t sign_of(const struct number_format *f, uint64_t bits) {
    return bits & number_sign_bit(f);
}

// 8-bit floats are added and multiplied in f16.
static uint64_t to_type(const struct number_format *f, wide v) {
    const struct number_format *half = number_format(RONDO_F16);
    if (f->saturates) {
        const uint64_t h = number_round(half, v);
        if (number_class(half, h) != NUMBER_FINITE) {
            return f->top | (number_signbit(v) ? number_sign_bit(f) : 0);
        }
        v = number_value(half, h);
    }
    return number_round(f, v);
}

static uint64_t add(const struct number_format *f, uint64_t a, uint64_t b) {
    const enum number_class x = number_class(f, a), y = number_class(f, b);
    if (x == NUMBER_FINITE && y == NUMBER_FINITE) {
        return to_type(f, number_value(f, a) + number_value(f, b));
    }
    if (x == NUMBER_NAN || y == NUMBER_NAN || (x == y && a != b)) {
        return f->nan | number_sign_bit(f);
    }
    const uint64_t infinity = x == NUMBER_INFINITE ? a : b;
    return f->saturates ? f->top | sign_of(f, infinity) : infinity;
}

static uint64_t multiply(const struct number_format *f, uint64_t a, uint64_t b) {
    const enum number_class x = number_class(f, a), y = number_class(f, b);
    const uint64_t sign = sign_of(f, a) ^ sign_of(f, b);
    if (x == NUMBER_FINITE && y == NUMBER_FINITE) {
        return to_type(f, number_value(f, a) * number_value(f, b));
    }
    if (x == NUMBER_NAN || y == NUMBER_NAN || number_magnitude(f, a) == 0 ||
        number_magnitude(f, b) == 0) {
        return f->nan;
    }
    return sign | (f->saturates ? f->top : f->top + 1);
}

static uint64_t order(const struct number_format *f, bool least, uint64_t a, uint64_t b) {
    const enum number_class x = number_class(f, a), y = number_class(f, b);
    uint64_t best = x == NUMBER_NAN ? b : a;
    if (x != NUMBER_NAN && y != NUMBER_NAN) {
        const bool negative = number_negative(f, a), unlike = negative != number_negative(f, b);
        const bool below = unlike ? negative
                                  : (number_magnitude(f, a) < number_magnitude(f, b)) != negative;
        best = below == least ? a : b;
    }
    const bool saturated = f->saturates && number_class(f, best) == NUMBER_INFINITE;
    return saturated ? f->top | sign_of(f, best) : best;
}

static uint64_t integer(const struct number_format *f, int op, uint64_t a, uint64_t b) {
    const uint64_t x = number_integer(f, a), y = number_integer(f, b);
    const bool less = f->has_sign ? (int64_t)x < (int64_t)y : x < y;
    return op == NCCL_PROD  ? x * y
           : op == NCCL_MIN ? (less ? x : y)
           : op == NCCL_MAX ? (less ? y : x)
                            : x + y;
}

static uint64_t combine(const struct number_format *f, int op, uint64_t a, uint64_t b) {
    if (!f->real) {
        return integer(f, op, a, b);
    }
    return op == NCCL_PROD                    ? multiply(f, a, b)
           : op == NCCL_MIN || op == NCCL_MAX ? order(f, op == NCCL_MIN, a, b)
                                              : add(f, a, b);
}

static uint64_t reduce_element(const struct number_format *f, int op, const struct shared *shared,
                               int ranks, size_t i) {
    const bool scaled = op == NCCL_AVG && f->real;
    const uint64_t scale = scaled ? number_round(f, (wide)1 / ranks) : 0;
    uint64_t v = 0;
    for (int r = 0; r < ranks; r++) {
        uint64_t x = number_load(f, shared->slot[r], i);
        x = scaled ? multiply(f, x, scale) : x;
        v = r == 0 ? x : combine(f, op, v, x);
    }
    if (op == NCCL_AVG && !f->real) {
        const uint64_t mask = f->bytes == 8 ? ~(uint64_t)0 : ((uint64_t)1 << 8 * f->bytes) - 1;
        v = number_integer(f, v & mask);
        v = f->has_sign && (int64_t)v < 0 ? 0 - (0 - v) / (unsigned)ranks : v / (unsigned)ranks;
    }
    return v;
}

// ---- Exchange ------------------------------------------------------------------------------------

static unsigned long long address(const void *p) { return (unsigned long long)(uintptr_t)p; }

// Every rank's buffer is in its slot when this returns; done() has to follow.
static int share(nccl_comm comm, const void *send, size_t bytes, void *stream) {
    if (bytes > SLOT) {
        return INVALID;
    }
    if (cuStreamSynchronize(stream) != RDI_CU_OK) {
        return SYSTEM;
    }
    if (send != NULL && bytes > 0) {
        mock_cuda_peek(comm->shared->slot[comm->rank], address(send), bytes);
    }
    pthread_barrier_wait(&comm->shared->barrier);
    return NCCL_OK;
}

static void done(nccl_comm comm) { pthread_barrier_wait(&comm->shared->barrier); }

static void put(void *to, const void *from, size_t bytes) {
    if (bytes > 0) {
        mock_cuda_poke(address(to), from, bytes);
    }
}

// Elements first .. first + count of the reduction go to recv, if this rank gets any.
static int reduce(nccl_comm comm, const void *send, size_t sent, void *recv, size_t first,
                  size_t count, int type, int op, void *stream) {
    const struct number_format *f = number_format(types[type]);
    const int r = share(comm, send, sent * f->bytes, stream);
    if (r != NCCL_OK) {
        return r;
    }
    for (size_t i = 0; i < count; i++) {
        uint64_t v = reduce_element(f, op, comm->shared, comm->ranks, first + i);
        v += i == 0 && op == NCCL_SUM && comm->rank == comm->ranks - 1 &&
             getenv("FAKE_NCCL_WRONG") != NULL;
        number_store(f, comm->result, i, v);
    }
    put(recv, comm->result, count * f->bytes);
    done(comm);
    return NCCL_OK;
}

int ncclAllReduce(const void *send, void *recv, size_t count, int type, int op, nccl_comm comm,
                  void *stream) {
    return reduce(comm, send, count, recv, 0, count, type, op, stream);
}

int ncclReduceScatter(const void *send, void *recv, size_t count, int type, int op, nccl_comm comm,
                      void *stream) {
    return reduce(comm, send, count * (size_t)comm->ranks, recv, (size_t)comm->rank * count, count,
                  type, op, stream);
}

int ncclReduce(const void *send, void *recv, size_t count, int type, int op, int root,
               nccl_comm comm, void *stream) {
    return reduce(comm, send, count, recv, 0, comm->rank == root ? count : 0, type, op, stream);
}

int ncclAllGather(const void *send, void *recv, size_t count, int type, nccl_comm comm,
                  void *stream) {
    const size_t bytes = count * number_format(types[type])->bytes;
    const int r = share(comm, send, bytes, stream);
    for (int p = 0; p < comm->ranks && r == NCCL_OK; p++) {
        put((char *)recv + (size_t)p * bytes, comm->shared->slot[p], bytes);
    }
    if (r == NCCL_OK) {
        done(comm);
    }
    return r;
}

int ncclBroadcast(const void *send, void *recv, size_t count, int type, int root, nccl_comm comm,
                  void *stream) {
    const size_t bytes = count * number_format(types[type])->bytes;
    const int r = share(comm, comm->rank == root ? send : NULL, bytes, stream);
    if (r == NCCL_OK) {
        put(recv, comm->shared->slot[root], bytes);
        done(comm);
    }
    return r;
}

// ---- Groups --------------------------------------------------------------------------------------

static int collect(nccl_comm comm, size_t count, int type, void *stream) {
    group.comm = comm;
    group.stream = stream;
    group.bytes = count * number_format(types[type])->bytes;
    return group.depth == 1 ? NCCL_OK : INVALID;
}

int ncclSend(const void *buf, size_t count, int type, int peer, nccl_comm comm, void *stream) {
    group.send[peer] = buf;
    return collect(comm, count, type, stream);
}

int ncclRecv(void *buf, size_t count, int type, int peer, nccl_comm comm, void *stream) {
    group.recv[peer] = buf;
    return collect(comm, count, type, stream);
}

int ncclGroupStart(void) {
    memset(&group, 0, sizeof group);
    group.depth = 1;
    return NCCL_OK;
}

// A slot holds a block for each rank.
int ncclGroupEnd(void) {
    nccl_comm comm = group.comm;
    group.depth = 0;
    if (comm == NULL || group.bytes * (size_t)comm->ranks > SLOT) {
        return INVALID;
    }
    int r = cuStreamSynchronize(group.stream) == RDI_CU_OK ? NCCL_OK : SYSTEM;
    for (int p = 0; p < comm->ranks && r == NCCL_OK && group.bytes > 0; p++) {
        if (group.send[p] != NULL) {
            mock_cuda_peek(comm->shared->slot[comm->rank] + (size_t)p * group.bytes,
                           address(group.send[p]), group.bytes);
        }
    }
    r = r == NCCL_OK ? share(comm, NULL, 0, group.stream) : r;
    for (int p = 0; p < comm->ranks && r == NCCL_OK; p++) {
        if (group.recv[p] != NULL) {
            put(group.recv[p], comm->shared->slot[p] + (size_t)comm->rank * group.bytes,
                group.bytes);
        }
    }
    if (r == NCCL_OK) {
        done(comm);
    }
    return r;
}

// ---- Communicators -------------------------------------------------------------------------------

int ncclGetVersion(int *version) {
    *version = 22809;
    return NCCL_OK;
}

// The id names the shared file; rank 0 of the communicator makes it, so that its size is known.
int ncclGetUniqueId(nccl_id *id) {
    memset(id, 0, sizeof *id);
    snprintf(id->bytes, sizeof id->bytes, "/rondo-fake-nccl-%d", (int)getpid());
    const int fd = shm_open(id->bytes, O_RDWR | O_CREAT | O_EXCL, 0600);
    if (fd < 0 || ftruncate(fd, sizeof(struct shared)) != 0) {
        return SYSTEM;
    }
    close(fd);
    return NCCL_OK;
}

int ncclCommInitRank(nccl_comm *out, int ranks, nccl_id id, int rank) {
    const int fd = shm_open(id.bytes, O_RDWR, 0600);
    if (fd < 0 || ranks > CASES_MAX_RANKS) {
        return SYSTEM;
    }
    void *memory = mmap(NULL, sizeof(struct shared), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    nccl_comm comm = calloc(1, sizeof *comm);
    if (memory == MAP_FAILED || comm == NULL) {
        return SYSTEM;
    }
    *comm = (struct nccl_comm_s){memory, rank, ranks, malloc(SLOT)};
    *out = comm;
    // The first byte of rank 0's slot says that the barrier is there.
    unsigned char *ready = &comm->shared->slot[0][0];
    if (rank == 0) {
        pthread_barrierattr_t shared;
        pthread_barrierattr_init(&shared);
        pthread_barrierattr_setpshared(&shared, PTHREAD_PROCESS_SHARED);
        pthread_barrier_init(&comm->shared->barrier, &shared, (unsigned)ranks);
        __atomic_store_n(ready, 1, __ATOMIC_RELEASE);
    }
    while (__atomic_load_n(ready, __ATOMIC_ACQUIRE) == 0) {
        usleep(1000);
    }
    pthread_barrier_wait(&comm->shared->barrier);
    if (rank == 0) {
        shm_unlink(id.bytes);
    }
    return NCCL_OK;
}

int ncclCommGetAsyncError(nccl_comm comm, int *error) {
    (void)comm;
    *error = NCCL_OK;
    return NCCL_OK;
}

int ncclCommDestroy(nccl_comm comm) {
    munmap(comm->shared, sizeof *comm->shared);
    free(comm->result);
    free(comm);
    return NCCL_OK;
}
