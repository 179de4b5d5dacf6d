// SPDX-License-Identifier: MIT
// Collectives on CUDA devices.
//
//   submit.c   a call on a stream: checks, order, enqueues              caller's thread, calls CUDA
//   program.c  the operation as a list of moves, a pure function        caller's thread
//   enqueue.c  moves as stream operations, or as one walking kernel     caller's thread, calls CUDA
//   lanes.c    flags and bytes while it runs: an algorithm of the engine  the engine's owner, never calls CUDA
//   attach.c   staging memory, what neighbours know of each other       caller's thread, calls CUDA
//   reach.c    how a neighbour is reached: the one place that decides
//
// A *move* is one piece (at most plan.block bytes) through one rank: it may wait for a piece that arrives, combine
// it with the rank's own data, store it for the caller and hand it to the wire. All moves of an operation run in
// order on the stream. A *lane* is an operation's traffic with one rank in one direction; its pieces go through
// the slots of a staging ring (struct rdi_gpu_edge), which consecutive operations share. Per lane the host tells
// the device one number, and the device tells the host one number for the whole operation:
//
//     in-lane   flag = pieces that have arrived         \                        +--> chain or kernel on the stream
//     out-lane  flag = pieces that may be produced       >-- pinned words ------/
//     done      = moves that are over                   <-- written by the device after the move's data
//
//  reach     slots of an out-lane              what travels on the engine's flow
//  memory    device memory that the peer       tokens of 8 bytes: "one more piece", "one more slot free"
//            maps or, in one process, shares
//  direct    device memory, read by the NIC    the pieces, one message each, into device memory of the peer
//  staged    pinned host memory                the pieces, cut as the wire likes, into pinned memory of the peer
//
// No deadlock: moves are sorted by a time that grows by one from rank to rank along a piece's way, at most
// RDI_GPU_WIDTH pieces a lane have the same time, and a ring has at least twice as many slots. So a move waits
// only for moves of earlier times: of its left neighbour by one, of its right one (which frees the slot) too.
#ifndef RDI_RING_CUDA_GPU_H
#define RDI_RING_CUDA_GPU_H

#include "ring/cuda/step.h"
#include "ring/internal.h"
#include "transport/cuda/cuda.h"

#include <pthread.h>

#define RDI_GPU_WIDTH 4 // segments that share a ring's time steps
#define RDI_GPU_SLOTS 8 // of a ring between neighbours, >= 2 * RDI_GPU_WIDTH
#define RDI_GPU_PAIR_SLOTS \
    4 // of a ring for pairs, send and recv; >= 2 * 2, the items of ways that share a time
#define RDI_GPU_CHAIN_OPS 256 // stream operations of a chain; beyond that one kernel walks
#define RDI_GPU_THREADS RDI_STEP_BLOCK

// ---- Programs ------------------------------------------------------------------------------------

struct rdi_gpu_move {
    uint64_t bytes;
    uint64_t local, dst; // offsets in the caller's buffers
    int32_t in, out;     // ranks; -1: none
    bool has_local, has_dst, divide;
};

struct rdi_gpu_program {
    struct rdi_gpu_move *moves;
    size_t n, cap;
};

struct rdi_gpu_call { // what a program is a function of
    enum rdi_kind kind;
    int rank, size, root; // root: or the peer of send and recv
    const int *order;     // the rank at each place of the ring; NULL: as they are numbered
    bool strict, divide;
    uint64_t bytes; // as request->bytes: of one block
    uint64_t piece;
};
// Whether its ways go by the ranks' numbers, whatever the order of the ring.
bool rdi_gpu_by_rank(const struct rdi_gpu_call *c);
// False: out of memory. The caller frees p->moves.
bool rdi_gpu_program(const struct rdi_gpu_call *c, struct rdi_gpu_program *p);

// ---- Reaches -------------------------------------------------------------------------------------

enum rdi_gpu_reach { RDI_REACH_NONE, RDI_REACH_MEMORY, RDI_REACH_DIRECT, RDI_REACH_STAGED };

// All that the choice of a reach from one rank to another depends on. `why_*` say what stands against it, "" is
// nothing. The distances that a topology knows are to come in here.
struct rdi_gpu_facts {
    bool same_process, same_host, same_device;
    const char *forced;     // option cuda_reach
    const char *why_memory; // the receiver cannot map the sender's memory
    const char *why_direct; // NIC or device of either end cannot
    const char *wire;       // the transport between the two: "tcp", "shm", "verbs"
};
// The reach, or NONE when option cuda_reach asks for one that does not work. `reason`: one line, always written.
enum rdi_gpu_reach rdi_gpu_choose(const struct rdi_gpu_facts *f, char *reason, size_t cap);
const char *rdi_gpu_reach_name(enum rdi_gpu_reach r);

// ---- Staging rings -------------------------------------------------------------------------------

// RING: to the next rank of the ring. PAIRS: to any, for all_to_all, and for ways by number where the ring goes otherwise.
enum rdi_gpu_class { RDI_GPU_RING, RDI_GPU_PAIRS, RDI_GPU_P2P };

struct rdi_gpu_edge {
    struct rdi_gpu_edge *next;
    int peer;
    bool out;
    enum rdi_gpu_class class;
    enum rdi_gpu_reach reach;
    uint32_t slots;
    rdi_cu_ptr base; // slot q at base + q * piece, as the device sees it
    char *host;      // staged: as the host sees it
    struct rdi_cuda_pinned pinned;
    // The engine's. out: slots that were freed; in: pieces that the device has consumed.
    uint64_t over;
    // Guarded by gpu->lock, as is what follows: pieces of all operations that were submitted.
    uint64_t given;
    // send and recv: order of the ring's operations, and the stream of calls without one
    rdi_cu_event ordered;
    rdi_cu_stream stream;
    bool used;
};

// ---- Operations ----------------------------------------------------------------------------------

#define RDI_GPU_ENQUEUING SIZE_MAX // rdi_gpu_op.limit while the caller's thread is at it

struct rdi_gpu_lane {
    struct rdi_gpu_edge *edge;
    struct rdi_flow *flow; // of pieces; NULL: tokens
    uint64_t base;         // pieces of earlier operations on the edge
    uint32_t count;
    uint64_t *ends;  // bytes of the lane's pieces 0 .. i
    uint32_t device; // in: consumed by the device; out: produced by it
    uint32_t wire;   // in: arrived; out: freed
    uint32_t told;   // value of the flag
    _Atomic uint32_t *flag;
    rdi_cu_ptr flag_device;
};

// Tokens to and from one rank. For two ranks both lanes are with the same one.
struct rdi_gpu_talk {
    int peer;
    struct rdi_gpu_lane *in, *out; // or NULL
    struct rdi_flow *says, *hears;
    uint64_t *words; // what was said so far, says->ready / 8 of them
    uint64_t first;  // of the words, in r->scratch
};

struct rdi_gpu_op {
    struct rdi_gpu_op *next; // in gpu->finished
    struct rdi_gpu *gpu;
    struct rdi_gpu_program program;
    size_t seen;          // moves that are over, as the engine has noticed
    _Atomic size_t limit; // moves that are on the stream, once no more come
    struct rdi_gpu_lane *lanes;
    struct rdi_gpu_talk *talks;
    unsigned nlanes, ntalks;
    int32_t *in_lane, *out_lane; // of each rank; -1: none
    struct rdi_gpu_step *steps;  // in `words`, behind the flags
    rdi_cu_ptr steps_device;
    struct rdi_gpu_words *words; // pinned
    _Atomic uint32_t *done;
    rdi_cu_ptr done_device;
};

// Pinned memory for the flags and steps of an operation, kept for later ones.
struct rdi_gpu_words {
    struct rdi_gpu_words *next;
    struct rdi_cuda_pinned memory;
    rdi_cu_ptr arrive; // a zeroed counter in device memory, for the walker
    unsigned class;    // 4 KiB << class
};
#define RDI_GPU_WORD_CLASSES 20

struct rdi_gpu {
    struct rondo_comm *comm; // NULL: it is gone
    int size;
    struct rdi_cuda_device *device;
    uint64_t piece;
    unsigned blocks;
    pthread_mutex_t lock; // submission: order of calls, `given`, the lists below
    struct rdi_gpu_edge *edges;
    struct rdi_cuda_block block;   // device memory that peers map, and NICs read
    struct rdi_cuda_block inbound; // device memory that NICs write; empty without
    bool block_registered, inbound_registered;
    struct rdi_cuda_map *maps;    // of each rank
    rdi_cu_ptr *peer_block;       // of each rank: its `block`, as seen here; 0: not mapped
    uint64_t *peer_pairs;         // of each rank: where our pair rings begin in it
    uint64_t *own_pairs;          // of each rank: where its pair rings begin in `block`
    bool *maps_us;                // of each rank: it has mapped our block
    bool *staged_out, *staged_in; // of each rank: option cuda_reach keeps us from its memory
    char *reasons;                // lines for rondo_comm_reaches()
    rdi_cu_stream own;            // for calls without a stream
    rdi_cu_event ordered;         // end of the last collective
    bool used;                    // there was one
    rdi_cu_function step[4][RONDO_TYPE_COUNT], walk[4][RONDO_TYPE_COUNT];
    struct rdi_gpu_words *spare[RDI_GPU_WORD_CLASSES];
    rdi_cu_ptr counters; // device memory, one per rdi_gpu_words
    unsigned ncounters;
    _Atomic(struct rdi_gpu_op *) finished, abandoned;
};

// ---- submit.c ------------------------------------------------------------------------------------

// A collective of device memory on a stream. `req` NULL: detached, nobody waits for it. Otherwise `stream` is not
// looked at: a stream of the communicator's own serves.
rondo_status rdi_gpu_submit(struct rondo_comm *c, enum rdi_kind kind, const void *send, void *recv,
                            size_t count, rondo_type type, rondo_op op, int root,
                            rdi_cu_stream stream, struct rondo_request **req);
// Fails the communicator with the last error, and says it again: other ranks wait for what cannot be done here.
rondo_status rdi_gpu_give_up(struct rondo_comm *c, rondo_status s);
// Frees what the engine is done with. Holding gpu->lock.
void rdi_gpu_reclaim(struct rdi_gpu *g);
void rdi_gpu_op_free(struct rdi_gpu_op *op);

// ---- attach.c ------------------------------------------------------------------------------------

// Collective over the communicator; see rondo_comm_attach().
rondo_status rdi_gpu_attach(struct rondo_comm *c, int ordinal);

// ---- edges.c -------------------------------------------------------------------------------------

// The staging ring to or from a rank, made if it has to be. Holding gpu->lock, device entered.
rondo_status rdi_gpu_edge_get(struct rdi_gpu *g, int peer, bool out, enum rdi_gpu_class class,
                              struct rdi_gpu_edge **out_edge);
// The ring between neighbours, by attach.
rondo_status rdi_gpu_ring_edge(struct rdi_gpu *g, int peer, bool out, enum rdi_gpu_reach reach);
// At the end of a communicator: makes it forget the device. Then, without the engine, as freeing memory waits for
// the device, on which other communicators' operations need the engine: the rest.
struct rdi_gpu *rdi_gpu_detach(struct rondo_comm *c);
// Fails the communicator when its device is in error, for then no operation on it ends any more.
void rdi_gpu_check_device(struct rondo_comm *c);
void rdi_gpu_free(struct rdi_gpu *g);

// ---- words.c -------------------------------------------------------------------------------------

// Once, by attach: it waits for the device, which a submission must not.
rondo_status rdi_gpu_words_open(struct rdi_gpu *g);
// Holding gpu->lock, device entered.
rondo_status rdi_gpu_words_get(struct rdi_gpu *g, size_t bytes, struct rdi_gpu_words **out);
void rdi_gpu_words_put(struct rdi_gpu *g, struct rdi_gpu_words *w);

// ---- enqueue.c -----------------------------------------------------------------------------------

// Puts the operation's moves on the stream, and says in op->limit how many it took. Blocks while the driver's queue
// is full: the engine must know the operation by then.
rondo_status rdi_gpu_enqueue(struct rdi_gpu *g, struct rdi_gpu_op *op, rondo_type type,
                             rondo_op what, rdi_cu_stream stream);
// A kernel of the module. All are asked for by attach, as loading one may wait for the device.
rondo_status rdi_gpu_kernel(struct rdi_gpu *g, bool walk, rondo_type type, rondo_op op,
                            rdi_cu_function *out);
// dst = src / divisor on a stream (divisor 1: a copy); for DDP.
rondo_status rdi_gpu_scale(struct rdi_gpu *g, rdi_cu_ptr dst, rdi_cu_ptr src, size_t count,
                           rondo_type type, uint32_t divisor, rdi_cu_stream stream);

// ---- lanes.c (the engine's owner) ----------------------------------------------------------------

extern const struct rdi_algo rdi_algo_device;
// Whether the device is through with an operation, and the engine has noticed all that it did.
bool rdi_gpu_over(const struct rondo_request *r);
// The first half of that: nothing of the operation is left on the stream.
bool rdi_gpu_idle(const struct rondo_request *r);
// Whether the device may be at work on it, so that its words have to be looked at.
bool rdi_gpu_busy(const struct rondo_request *r);
// Releases every wait of the operation on its stream: its communicator has failed.
void rdi_gpu_poison(struct rondo_request *r);
// The engine is done with the operation.
void rdi_gpu_release(struct rondo_request *r);
// Where it stands, for reports.
int rdi_gpu_report(const struct rondo_request *r, char *buf, size_t cap);
// Where a transport may put what arrives on a link to this communicator's device.
bool rdi_gpu_slots(struct rondo_comm *c, const struct rdi_link *link, struct rdi_device_slots *io);

#endif
