// SPDX-License-Identifier: MIT
// Rondo, the ring layer's public header: communicators and collectives.
//
// Collectives. Every rank of a communicator calls the same collective with the same count, type, op and
// root, in the same order; ranks that differ all get RONDO_ERR_MISMATCH naming two ranks that differ.
// `count` is in elements of `type` and says per function whose elements it counts. Buffers are host memory,
// need no alignment beyond that of the type, and belong to Rondo from _start until the request completes:
// the caller must not write the send buffer nor touch the receive buffer in between. In place: pass
// recv == send where a function says so. count 0 is valid and still synchronises nothing.
//
// Two forms. `rondo_x_start(…, &req)` submits and returns at once; `rondo_x(…)` is start plus rondo_wait().
// Any thread may submit, test, wait or abort; operations of one communicator run in the order of submission,
// which therefore has to be the same on all ranks (send/recv: the same per pair).
//
// Deadlines. Each operation has one: `timeout_ms` of rondo_set_timeout(), default option op_timeout
// (10 min). An operation that expires aborts its communicator; the error names the rank and the counter that
// did not move. A communicator in error stays in error: destroy it and create another.
//
// Results. order=default: the algorithm and the order of additions are a pure function of (op, count, type, plan,
// layout), so bits are the same in every run and on every wire. The layout is which ranks share a host, and which NICs
// each found when it started: option topology=none, or a saved topology, keeps it where NICs come and go. order=strict
// depends on none of this: each element is the left fold over ranks 0, 1, … n-1, rounded to the type after every
// addition (f16/bf16/fp8 too), divided once at the end for RONDO_AVG. f16/bf16/fp8 are otherwise accumulated in f32
// within a rank and rounded when they travel. Integer sums wrap; integer AVG truncates toward zero. MIN/MAX propagate NaN and
// hold -0 < +0.
//
// fp8. F8E4M3 (1 sign, 4 exponent and 3 mantissa bits, bias 7, largest 448, no infinity, NaN 0x7f and 0xff) and
// F8E5M2 (1, 5, 2, bias 15, largest 57344, infinity 0x7c) are the formats of the Open Compute Project. SUM, PROD
// and AVG round to nearest, ties to even, and saturate: a result too large, or infinite, becomes the largest
// finite value of its sign. A NaN becomes 0x7f. MIN and MAX give one of the operands, infinities too.
#ifndef RONDO_RING_H
#define RONDO_RING_H

#include <rondo/transport.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum rondo_type {
    RONDO_F32 = 0,
    RONDO_F64 = 1,
    RONDO_F16 = 2,
    RONDO_BF16 = 3,
    RONDO_I8 = 4,
    RONDO_U8 = 5,
    RONDO_I32 = 6,
    RONDO_U32 = 7,
    RONDO_I64 = 8,
    RONDO_U64 = 9,
    RONDO_F8E4M3 = 10,
    RONDO_F8E5M2 = 11,
    RONDO_TYPE_COUNT
} rondo_type;

typedef enum rondo_op {
    RONDO_SUM = 0,
    RONDO_PROD = 1,
    RONDO_MIN = 2,
    RONDO_MAX = 3,
    RONDO_AVG = 4,
    RONDO_OP_COUNT
} rondo_op;

// Bytes of one element; 0 for a value that is no type. Names: "float", "half", "bfloat16", "int8", "sum" …
// as nccl-tests print them; NULL for a value out of range.
RONDO_API size_t rondo_type_size(rondo_type type);
RONDO_API const char *rondo_type_name(rondo_type type);
RONDO_API const char *rondo_op_name(rondo_op op);

typedef struct rondo_comm rondo_comm;
typedef struct rondo_request rondo_request;

// ---- Communicators -------------------------------------------------------------------------------

// Joins the job and creates the communicator of all ranks. `config` may be NULL: rank, size, store and key
// are then found as rondo-launchers(7) describes (rondo-run and torchrun's variables, launchers). Blocks until all
// ranks have come, at most option connect_timeout (60 s); the error then names the ranks that are missing.
// The caller owns *comm. May be called several times in a process, each with its own rank (threads as ranks).
RONDO_API rondo_status rondo_init(const rondo_config *config, rondo_comm **comm);

// Splits `comm`: ranks that pass the same colour (>= 0) form a new communicator, ordered by key, then by
// rank; colour -1 gives *out = NULL. Collective over comm; blocks. The result shares comm's threads and
// connections' security, has links and an order of operations of its own, and outlives comm if destroyed
// later.
RONDO_API rondo_status rondo_comm_split(rondo_comm *comm, int color, int key, rondo_comm **out);

// Waits for the operations that are under way (up to their deadlines), says good-bye to the peers and frees
// everything. Requests of the communicator that were not yet released are released. NULL is allowed. After an
// error or abort it does not wait for peers. Blocks briefly; must not race with other calls on `comm`.
RONDO_API rondo_status rondo_comm_destroy(rondo_comm *comm);

// Ends every operation of `comm` on all ranks with RONDO_ERR_ABORTED and `reason` (may be NULL). Any thread;
// does not block.
RONDO_API rondo_status rondo_comm_abort(rondo_comm *comm, const char *reason);

// RONDO_OK while the communicator works, else the first error that hit it (text: rondo_last_error()). Any
// thread; does not block.
RONDO_API rondo_status rondo_comm_error(const rondo_comm *comm);

// ---- Failure, and going on after it --------------------------------------------------------------
//
// Every rank watches others on connections of its own, beside the data paths, on a small thread: so a rank that
// computes without calling Rondo is alive, and a data path that is stuck hides nothing. A process that ends is known
// within milliseconds; a host that acknowledges nothing is declared lost after option peer_timeout (3 s); a process
// that is stopped (SIGSTOP, a debugger) is reported in the log and declared lost after stop_grace (10 s); a rank that
// is late is reported in the log and nothing else. Decisions are numbered (epochs) and the same on all ranks that
// are left: each makes a *failed set*, whose lowest rank is called the culprit. A side of a network partition without
// a majority of the ranks that may live (a tie goes to the lowest rank's side) gets RONDO_ERR_PARTITIONED and cannot
// shrink. A path that is lost between two live ranks is RONDO_ERR_PATH, and no rank is to blame.
//
// The first failure of a communicator is agreed on, too: all operations on all its ranks end with the same status.

// What ended a communicator. `cause` is the same text on all ranks; stage, operation, wait and waiting_for tell what
// this rank was doing then.
typedef struct rondo_failure {
    size_t size;         // sizeof(rondo_failure), set by the caller
    rondo_status status; // RONDO_OK while the communicator works; the rest is empty then
    uint64_t epoch;      // number of the decision that declared ranks lost; 0 if none did
    int culprit;         // lowest rank of the failed set; -1 if no rank is lost
    int nfailed;         // ranks of this communicator in the failed set
    const int *failed;   // they, ascending; the communicator's memory
    const char *host;    // the culprit's host
    const char *cause;   // "rank 3 (host b, pid 77) ended: its process is gone"
    const char *stage;   // operation that was under way here: "all_reduce" ...; "idle" if none
    uint64_t operation;  // its number
    const char *wait;    // the counter that stood still: "WIRE: nothing has arrived" ...; "NONE"
    int waiting_for;     // rank that it waited for; -1 if none
} rondo_failure;

// Fills *out (as many bytes as out->size says). Texts are the communicator's memory. Any thread; does not block.
RONDO_API rondo_status rondo_comm_failure(const rondo_comm *comm, rondo_failure *out);

// *flags = bitwise AND of the flags of all ranks of `comm` that live, the same on all of them, however many die
// while it runs. Also works on a communicator in error. Collective over the ranks that live, which all have to make
// the same calls of it in the same order; blocks up to the operations' deadline. Errors: RONDO_ERR_PARTITIONED,
// RONDO_ERR_PEER when the others have declared this rank lost, RONDO_ERR_TIMEOUT, RONDO_ERR_UNSUPPORTED when the job
// is not watched. After MPI_Comm_agree of ULFM (Bland et al., IJHPCA 2013).
RONDO_API rondo_status rondo_comm_agree(rondo_comm *comm, uint64_t *flags);

// A communicator of the ranks of `comm` that live, in the same order, whose paths were tried; `comm` stays as it is
// (in error, as a rule) and is to be destroyed. Collective over those ranks; blocks; tolerates further deaths while
// it runs: either all that are left get the same communicator, or all get an error. New links, memory and keys: a
// rank that was declared lost and wakes up can write nowhere. Errors as rondo_comm_agree().
RONDO_API rondo_status rondo_comm_shrink(rondo_comm *comm, rondo_comm **out);

// How many restarted ranks of the job wait to be admitted to a communicator like this one. What it says can differ
// from rank to rank for a moment; rondo_comm_grow() agrees on it. Any thread; does not block.
RONDO_API int rondo_comm_newcomers(const rondo_comm *comm);

// A communicator of the ranks of `comm` and of all restarted ranks that wait, ordered by their rank in the job; there
// rondo_init() returns it. Collective over `comm`, which must not be in error; blocks. RONDO_AGAIN and no communicator
// when nobody waits; otherwise errors as rondo_comm_shrink(). For a communicator that spanned the job.
RONDO_API rondo_status rondo_comm_grow(rondo_comm *comm, rondo_comm **out);

// 1 if this rank was started again and came to `comm` by rondo_init() of the restarted process, else 0.
RONDO_API int rondo_comm_is_newcomer(const rondo_comm *comm);

// Rank of the caller and number of ranks; local: among the ranks that share this host's memory. -1 for NULL.
RONDO_API int rondo_comm_rank(const rondo_comm *comm);
RONDO_API int rondo_comm_size(const rondo_comm *comm);
RONDO_API int rondo_comm_local_rank(const rondo_comm *comm);
RONDO_API int rondo_comm_local_size(const rondo_comm *comm);

// Deadline of operations submitted from now on by any thread, in milliseconds, >= 1. Any thread.
RONDO_API rondo_status rondo_set_timeout(rondo_comm *comm, int timeout_ms);

// Counters since creation. Any thread; a snapshot, not a consistent cut.
typedef struct rondo_comm_stats {
    size_t size;         // sizeof(rondo_comm_stats), set by the caller
    uint64_t operations; // completed
    uint64_t bytes_sent; // payload handed to transports by this rank, all wires
    uint64_t bytes_received;
    uint64_t bytes_sent_shm; // share of bytes_sent that went through shared memory
    uint64_t bytes_sent_tcp;
    uint64_t messages_sent;
    uint64_t resets;           // paths that were lost and replaced
    uint64_t sleeps;           // times that a thread of this rank slept while it waited
    uint64_t bytes_sent_verbs; // share of bytes_sent that went through RDMA
    // Connections to this rank that were dropped because they did not prove the job's key; of all of the rank's
    // communicators together. The store's are not among them.
    uint64_t strangers;
    // Encrypted connections (option encrypt) that this rank dropped because somebody changed what was sent on them, or
    // put something in; counted like strangers.
    uint64_t damaged;
} rondo_comm_stats;
RONDO_API rondo_status rondo_comm_get_stats(const rondo_comm *comm, rondo_comm_stats *out);

// One line that says how an all_reduce of `bytes` would run: algorithm, wires, segments. Writes at most
// `cap` bytes including the NUL.
RONDO_API rondo_status rondo_comm_plan(const rondo_comm *comm, size_t bytes, char *buf, size_t cap);

// ---- Looking in ----------------------------------------------------------------------------------
//
// Each rank remembers its last operations (option record), and serves them, with all counters and waits, to
// rondo-top(1) of the same user on the same host. With option dump it writes them to a file when a communicator
// fails, before the failing call returns; see rondo(7).

// Writes the rank's state, all communicators, to `path` as JSON: whole or not at all, mode 0600, an existing file
// is replaced. Any thread; blocks briefly, also while operations hang.
RONDO_API rondo_status rondo_dump(rondo_comm *comm, const char *path);

// Writes what the rank does from now on, all communicators, to `path`, in Chrome's trace event format: operations,
// messages, DDP's steps and buckets. One trace at a time: RONDO_ERR_USAGE. stop completes the file, as does the end
// of the rank's last communicator; rondo-top --merge puts those of several ranks together. An existing file is
// replaced. Any thread; block briefly.
RONDO_API rondo_status rondo_trace_start(rondo_comm *comm, const char *path);
RONDO_API rondo_status rondo_trace_stop(rondo_comm *comm);

// ---- Requests and progress -----------------------------------------------------------------------

// RONDO_OK when complete, RONDO_AGAIN while under way, else the operation's error. A completed request
// (OK or error) is released by the call that reports it and *req becomes NULL; testing NULL gives OK. A
// request completes, also with an error, only when nothing can touch its buffers any more. Does not block.
RONDO_API rondo_status rondo_test(rondo_request **req);

// As rondo_test(), but waits for completion, driving progress inline; returns at the latest when the
// operation's own deadline ends it.
RONDO_API rondo_status rondo_wait(rondo_request **req);

// Waits for all of reqs[0..n-1]; returns the first error by index, if any. All are released.
RONDO_API rondo_status rondo_wait_all(rondo_request **reqs, size_t n);

// Moves this rank's communicators forward once, without blocking; for option progress=caller or to overlap
// by hand. RONDO_OK when something moved, RONDO_AGAIN when not (or when another thread is at it).
RONDO_API rondo_status rondo_progress(rondo_comm *comm);

// ---- Collectives ---------------------------------------------------------------------------------

// recv[i] = op over ranks of send[i], on every rank. count: elements of send and of recv. In place:
// recv == send. Algorithm: direct for small, ring (reduce-scatter then all-gather; Patarasuk and Yuan, 2009)
// for large counts.
RONDO_API rondo_status rondo_all_reduce(const void *send, void *recv, size_t count, rondo_type type,
                                        rondo_op op, rondo_comm *comm);
RONDO_API rondo_status rondo_all_reduce_start(const void *send, void *recv, size_t count,
                                              rondo_type type, rondo_op op, rondo_comm *comm,
                                              rondo_request **req);

// recv = block `rank` of the reduction. count: elements of recv; send has count * size elements. In place:
// recv == send + rank * count elements.
RONDO_API rondo_status rondo_reduce_scatter(const void *send, void *recv, size_t count,
                                            rondo_type type, rondo_op op, rondo_comm *comm);
RONDO_API rondo_status rondo_reduce_scatter_start(const void *send, void *recv, size_t count,
                                                  rondo_type type, rondo_op op, rondo_comm *comm,
                                                  rondo_request **req);

// recv = the ranks' send buffers one after the other. count: elements of send; recv has count * size
// elements. In place: send == recv + rank * count elements.
RONDO_API rondo_status rondo_all_gather(const void *send, void *recv, size_t count, rondo_type type,
                                        rondo_comm *comm);
RONDO_API rondo_status rondo_all_gather_start(const void *send, void *recv, size_t count,
                                              rondo_type type, rondo_comm *comm,
                                              rondo_request **req);

// recv = root's send. count: elements of either. In place: recv == send. `send` is read on root only.
RONDO_API rondo_status rondo_broadcast(const void *send, void *recv, size_t count, rondo_type type,
                                       int root, rondo_comm *comm);
RONDO_API rondo_status rondo_broadcast_start(const void *send, void *recv, size_t count,
                                             rondo_type type, int root, rondo_comm *comm,
                                             rondo_request **req);

// On root: recv = op over ranks of send. `recv` is used on root only (may be NULL elsewhere). In place on
// root: recv == send.
RONDO_API rondo_status rondo_reduce(const void *send, void *recv, size_t count, rondo_type type,
                                    rondo_op op, int root, rondo_comm *comm);
RONDO_API rondo_status rondo_reduce_start(const void *send, void *recv, size_t count,
                                          rondo_type type, rondo_op op, int root, rondo_comm *comm,
                                          rondo_request **req);

// Block p of send goes to rank p; block p of recv comes from rank p. count: elements of one block; both
// buffers have count * size elements. Not in place.
RONDO_API rondo_status rondo_all_to_all(const void *send, void *recv, size_t count, rondo_type type,
                                        rondo_comm *comm);
RONDO_API rondo_status rondo_all_to_all_start(const void *send, void *recv, size_t count,
                                              rondo_type type, rondo_comm *comm,
                                              rondo_request **req);

// Returns when every rank has called it.
RONDO_API rondo_status rondo_barrier(rondo_comm *comm);
RONDO_API rondo_status rondo_barrier_start(rondo_comm *comm, rondo_request **req);

// Point to point: the k-th send from a to b meets the k-th recv at b from a, with the same count and type,
// else both get RONDO_ERR_MISMATCH. peer may not be the caller's own rank. Independent of the collectives'
// order.
RONDO_API rondo_status rondo_send(const void *buf, size_t count, rondo_type type, int peer,
                                  rondo_comm *comm);
RONDO_API rondo_status rondo_send_start(const void *buf, size_t count, rondo_type type, int peer,
                                        rondo_comm *comm, rondo_request **req);
RONDO_API rondo_status rondo_recv(void *buf, size_t count, rondo_type type, int peer,
                                  rondo_comm *comm);
RONDO_API rondo_status rondo_recv_start(void *buf, size_t count, rondo_type type, int peer,
                                        rondo_comm *comm, rondo_request **req);

// Waits until something from rank `peer`, or with peer -1 from any rank, has come that no recv was called for here yet, at
// most timeout_ms (0: only looks), driving progress inline; *from is the rank that sent it. So a program can receive
// from whoever sends first, or look before it knows where to put what comes. Sends of host memory only. Any thread; two
// that probe for the same peer may see the same send. RONDO_AGAIN when the time passed and nothing has come.
RONDO_API rondo_status rondo_probe(rondo_comm *comm, int peer, int timeout_ms, int *from);

// ---- Device memory (CUDA) ------------------------------------------------------------------------
//
// The calls below take buffers in device memory and a stream, and return at once: the collective is ordered
// with the stream's work as a kernel launch would be, and buffers are free again for work that is enqueued on
// the stream afterwards. The library finds the driver at run time; without one every call here says so with
// RONDO_ERR_UNSUPPORTED.
//
// - Communicator and device: all ranks attach their device first, rondo_comm_attach(). The first collective
//   does it by itself, with the device of its buffers (that first call then blocks until all ranks have come).
// - Order: operations of one communicator run in the order of their calls, also across streams: an operation
//   on another stream waits for the one before it. Two communicators in flight: call them in the same order
//   on all ranks.
// - send and recv occupy their stream until the peer has come; they are ordered among the sends to a rank and
//   among the receives from it, with nothing else. Ranks that send to each other need two streams, or the order
//   send, recv on one of them and recv, send on the other.
// - All buffers of a call are device memory of the attached device; managed memory is refused. All ranks of an
//   operation pass device memory (RONDO_ERR_MISMATCH otherwise).
// - Errors after the call: the stream never waits for ever. When the communicator fails (peer death, deadline,
//   abort), every stream that waits for it is released, what the buffers hold is then undefined, and
//   rondo_comm_error() and the next call tell why. What a stream that is held up, or a device in error, does not
//   come through within 10 s is given up, with the memory that it may touch. The deadline runs from the call, so it has to cover the work
//   that is on the stream before.
// - Somebody has to move operations while streams wait: the library's thread, or with progress=caller a thread
//   of the program in rondo_progress().
// - Streams that are being captured into a graph are refused: RONDO_ERR_UNSUPPORTED, nothing is enqueued.
//
// The blocking calls and their _start forms take device memory as well, once the communicator is attached: the
// data must be complete when the call is made, and is complete when the request is.
//
// Bits: with order=default the additions are those of algorithm=ring on the host, piece by piece; with order=strict the
// left fold over ranks. Kernels round as the host's do.

// A CUstream or cudaStream_t; NULL is the legacy default stream.
typedef void *rondo_stream;

// Binds `comm` to a CUDA device by ordinal (as the driver counts, after CUDA_VISIBLE_DEVICES), allocates
// staging memory there and finds out how each neighbour is reached: the same process, the same host (CUDA
// IPC), GPUDirect RDMA, or pinned host memory; each choice is logged with its reason. Collective over comm;
// blocks. Once per communicator: RONDO_ERR_USAGE for another device. A communicator from a split attaches by
// itself.
RONDO_API rondo_status rondo_comm_attach(rondo_comm *comm, int device);

// How this rank reaches each neighbour on devices, a line each, with the reasons. RONDO_ERR_USAGE when not
// attached. Writes at most `cap` bytes including the NUL.
RONDO_API rondo_status rondo_comm_reaches(const rondo_comm *comm, char *buf, size_t cap);

// As the calls of the same name without _stream; see above. Any thread; do not block (see attach) but while the
// stream's queue in the driver is full.
RONDO_API rondo_status rondo_all_reduce_stream(const void *send, void *recv, size_t count,
                                               rondo_type type, rondo_op op, rondo_comm *comm,
                                               rondo_stream stream);
RONDO_API rondo_status rondo_reduce_scatter_stream(const void *send, void *recv, size_t count,
                                                   rondo_type type, rondo_op op, rondo_comm *comm,
                                                   rondo_stream stream);
RONDO_API rondo_status rondo_all_gather_stream(const void *send, void *recv, size_t count,
                                               rondo_type type, rondo_comm *comm,
                                               rondo_stream stream);
RONDO_API rondo_status rondo_broadcast_stream(const void *send, void *recv, size_t count,
                                              rondo_type type, int root, rondo_comm *comm,
                                              rondo_stream stream);
RONDO_API rondo_status rondo_reduce_stream(const void *send, void *recv, size_t count,
                                           rondo_type type, rondo_op op, int root, rondo_comm *comm,
                                           rondo_stream stream);
RONDO_API rondo_status rondo_all_to_all_stream(const void *send, void *recv, size_t count,
                                               rondo_type type, rondo_comm *comm,
                                               rondo_stream stream);
RONDO_API rondo_status rondo_send_stream(const void *buf, size_t count, rondo_type type, int peer,
                                         rondo_comm *comm, rondo_stream stream);
RONDO_API rondo_status rondo_recv_stream(void *buf, size_t count, rondo_type type, int peer,
                                         rondo_comm *comm, rondo_stream stream);

#ifdef __cplusplus
}
#endif
#endif
