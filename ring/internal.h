// SPDX-License-Identifier: MIT
// The ring layer's private header: engine, communicators, edges, flows, operations, algorithms.
//
//   thread A: start() --push--> inbox --\                      (any number of threads)
//   thread B: start() --push--> inbox ---> engine  --- one owner at a time (driver.c) --- nets
//
// An operation (rondo_request) is a set of *flows*: a flow is that operation's traffic on one edge in one
// direction, a stream of bytes in an order that both ends derive from the plan. An edge carries its flows
// one after the other in the order of submission. The engine cuts a flow into messages, sends each as soon as
// its bytes are ready and the receiver has granted a slot; the algorithm consumes what arrives and says
// which bytes became ready. Nothing here waits: everything is a counter that grows.
//
//     ready >= posted >= done          out-flow, bytes: may be sent, given to the wire, source free again
//     done                             in-flow, bytes: consumed (reduced or copied)
#ifndef RDI_RING_INTERNAL_H
#define RDI_RING_INTERNAL_H

#include "ring/layout.h"
#include "ring/record/record.h"
#include "ring/ring.h"
#include "transport/internal.h"
#include "transport/watch/watch.h"

#include <stdatomic.h>

#define RDI_MAX_NETS 4
#define RDI_INLINE_FLOWS 6
#define RDI_COPY_MAX \
    2048 // payloads up to this size are copied, so that their source is free at once
#define RDI_SLOW_NS UINT64_C(3000000000) // an operation that takes longer is told of
#define RDI_SIG_HISTORY 64               // operations whose signature is kept for comparison
#define RDI_EARLY_SIGS 64 // signatures of operations that this rank has not submitted yet

struct rdi_engine;
struct rdi_gpu;
struct rdi_gpu_op;
struct rdi_edge;
struct rdi_flow;
struct rdi_algo;

enum rdi_kind {
    RDI_ALL_REDUCE,
    RDI_REDUCE_SCATTER,
    RDI_ALL_GATHER,
    RDI_BROADCAST,
    RDI_REDUCE,
    RDI_ALL_TO_ALL,
    RDI_BARRIER,
    RDI_SEND,
    RDI_RECV,
    RDI_KIND_COUNT
};
// DEVICE: messages that a NIC writes into device memory (ring/cuda/).
// BACK: what a receiver on a device tells the sender, apart from what it sends to the same rank itself.
// RESULT: what a leader hands out in its host, apart from what it hands in to another one (ring/algo/node.c).
enum {
    RDI_CH_COLL = 0,
    RDI_CH_P2P = 1,
    RDI_CH_DEVICE = RDI_CHANNEL_DEVICE,
    RDI_CH_BACK = 3,
    RDI_CH_RESULT = 4,
    RDI_CHANNELS
};
enum { RDI_CTRL_SIG = 1, RDI_CTRL_ABORT = 2 };

// What an operation is, as peers compare it. Travels with the first message of an operation on each edge.
struct rdi_sig {
    uint64_t comm, seq, count;
    uint32_t root; // p2p: the sender's rank
    uint8_t kind, type, op, algo;
    uint64_t plan; // hash of the communicator's plan
    uint64_t reserved[3];
};
_Static_assert(sizeof(struct rdi_sig) == RDI_SIG_BYTES, "signature is one cache line");
#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "Rondo's signatures and tags are little-endian"
#endif

// ---- Plan ----------------------------------------------------------------------------------------

enum rdi_algo_id {
    RDI_ALGO_NONE,
    RDI_ALGO_DIRECT,   // everybody sends everything to everybody
    RDI_ALGO_OWNER,    // rank b reduces block b and sends it to everybody
    RDI_ALGO_DOUBLING, // recursive doubling
    RDI_ALGO_RING,
    RDI_ALGO_TREE,   // binomial tree
    RDI_ALGO_CHAIN,  // pipeline through the ranks in order
    RDI_ALGO_PAIRS,  // all_to_all, send/recv
    RDI_ALGO_DEVICE, // any of them on device memory, see ring/cuda/gpu.h
    RDI_ALGO_NODE,   // within each host first, then a ring of hosts a rail
    RDI_ALGO_COUNT
};

// Rank 0's choices, the same on all ranks of a communicator: with them and the operation's arguments
// everything about its order of additions is determined.
struct rdi_plan {
    uint32_t ranks, max_local; // ranks; most ranks on one host
    uint32_t strict;           // order=strict
    uint32_t algorithm;        // forced: 0 auto, 1 direct, 2 doubling, 3 ring, 4 node
    uint64_t direct_max;       // bytes up to which everybody sends everything
    uint64_t block;            // bytes of a block in one segment of ring, owner and node
    uint32_t hosts;            // that the ranks are on
    uint64_t layout;           // hash of where they are (ring/layout.h)
};
uint64_t rdi_plan_hash(const struct rdi_plan *p);
// Whether a plan that came from another rank can be followed. Of ranks, max_local, hosts and layout each rank has its own.
bool rdi_plan_valid(const struct rdi_plan *p);
enum rdi_algo_id rdi_plan_choose(const struct rdi_plan *p, enum rdi_kind kind, uint64_t bytes);
const struct rdi_algo *rdi_algo_get(enum rdi_algo_id id, enum rdi_kind kind);
const char *rdi_algo_name(enum rdi_algo_id id);

// ---- Flows and edges -----------------------------------------------------------------------------

struct rdi_flow {
    struct rondo_request *req;
    struct rdi_edge *edge;
    struct rdi_flow *next;  // on the edge
    int index;              // the algorithm's number for it
    bool out, sig_done;     // sig_done: signature sent (out) or compared (in)
    bool copy;              // out: the algorithm waits for `done` before it consumes: RDI_PUT_COPY
    bool device;            // out: in device memory that the NIC reads: RDI_PUT_DEVICE
    bool ack;               // out: the algorithm waits for each message's `done`: RDI_PUT_ACK
    uint64_t total;         // bytes of the stream, > 0
    uint64_t ready, posted; // out only
    uint64_t done;
    uint64_t looked; // in: when its next bytes were looked at, for a trace
};

// A message that may have to be sent again after the loss of a path.
struct rdi_sent {
    struct rdi_flow *flow; // NULL once its bytes are counted as done
    const void *data;
    uint64_t tag;
    uint32_t len, flags;
    bool has_sig;
    struct rdi_sig sig;
};

struct rdi_edge {
    struct rondo_comm *comm;
    struct rdi_edge *next; // all edges of the communicator
    struct rdi_edge *hash_next;
    struct rdi_link *link; // in-edge: NULL until the peer has connected
    int peer;              // rank in the communicator
    unsigned channel;
    bool out, abort_sent, abort_got;
    struct rdi_flow *head, *tail; // unfinished flows; out: head is the first not wholly posted
    uint64_t posted, acked;       // out: messages
    struct rdi_sent *window;      // out: slots entries
    char *copies;                 // out: slots * RDI_COPY_MAX bytes
    uint32_t consumed;            // in: bytes used of message link->released
    uint64_t lost_since;          // ns; 0 = not lost
};

// ---- Work ----------------------------------------------------------------------------------------

enum rdi_work_kind {
    RDI_WORK_COPY,
    RDI_WORK_REDUCE, // bytes: of each operand after the first
    RDI_WORK_KINDS
};
// What algorithms do to payload, as a simulation wants it: each copy and reduction is told, and may be spared
// (ring/work.h).
struct rdi_work {
    void *self;
    bool spare; // buffers are addresses only: nothing reads or writes them
    void (*done)(void *self, enum rdi_work_kind kind, uint64_t bytes);
};

// ---- Operations ----------------------------------------------------------------------------------

struct rondo_request {
    struct rondo_request *next, *prev; // active list; `next` also in the inbox
    struct rondo_comm *comm;
    const struct rdi_algo *algo;
    struct rdi_sig sig;
    enum rdi_kind kind;
    rondo_type type;
    rondo_op op;
    int root; // root or p2p peer
    size_t esize;
    uint64_t count, bytes; // bytes = count * esize
    const char *send;
    char *recv;
    char *scratch; // algorithm's memory, freed at completion
    uint64_t timeout_ns, deadline;
    uint64_t warn_at;       // when to say next that it is slow, and for whom it waits
    struct rdi_flow *flows; // nflows, inline_flows or from malloc
    struct rdi_flow inline_flows[RDI_INLINE_FLOWS];
    unsigned nflows, flows_left;
    bool sig_pending; // signature still to be sent to the right neighbour
    bool held_send, held_recv;
    bool detached;          // nobody waits for it: freed when it is complete
    struct rdi_gpu_op *gpu; // on a device
    uint64_t state[8];      // the algorithm's own numbers
    struct rdi_op_marks marks;
    // Written last by the engine, read by any thread: 0 under way, 1 complete.
    uint64_t finished; // ns, set before `complete`
    _Atomic int complete;
    rondo_status status;
};

// An algorithm. All functions run in the engine, none waits.
struct rdi_algo {
    enum rdi_algo_id id;
    // Declares the flows (rdi_flow_add) and fills `state`, `scratch`; local-only work may be done here. No
    // flow at all completes the operation.
    rondo_status (*setup)(struct rondo_request *r);
    // Out-flow: where byte `off` of the stream is read from; *len = bytes that follow contiguously.
    const char *(*source)(const struct rondo_request *r, const struct rdi_flow *f, uint64_t off,
                          uint64_t *len);
    // In-flow: where byte `off` of the stream may be received in place right now, NULL if it must not (it is
    // to be reduced); *len = bytes that follow contiguously. NULL function: never.
    char *(*land)(const struct rondo_request *r, const struct rdi_flow *f, uint64_t off,
                  uint64_t *len);
    // Consumes what arrived (rdi_flow_peek, rdi_flow_consume) and raises `ready` of out-flows. Returns how
    // many things moved.
    int (*advance)(struct rondo_request *r);
};

extern const struct rdi_algo rdi_algo_ring_ar, rdi_algo_ring_rs, rdi_algo_ring_ag;
extern const struct rdi_algo rdi_algo_direct, rdi_algo_owner, rdi_algo_doubling, rdi_algo_node;
extern const struct rdi_algo rdi_algo_bcast_tree, rdi_algo_bcast_chain;
extern const struct rdi_algo rdi_algo_reduce_tree, rdi_algo_reduce_chain;
extern const struct rdi_algo rdi_algo_pairs, rdi_algo_p2p, rdi_algo_barrier;

// Makes room for the flows of an operation; then each is added. `peer` is a rank of the communicator.
rondo_status rdi_flow_reserve(struct rondo_request *r, unsigned n);
rondo_status rdi_flow_add(struct rondo_request *r, bool out, int peer, int index, uint64_t total,
                          uint64_t ready);
// The same on a channel; -1: the operation's own.
rondo_status rdi_flow_add_on(struct rondo_request *r, bool out, int peer, int channel, int index,
                             uint64_t total, uint64_t ready);
// Bytes of an in-flow that arrived and are next in its stream: false if none.
bool rdi_flow_peek(struct rdi_flow *f, const char **data, uint64_t *len);
void rdi_flow_consume(struct rdi_flow *f, uint64_t n);
// Sends what is ready on an edge. Returns messages moved.
int rdi_edge_send(struct rdi_edge *e);

// ---- Communicators -------------------------------------------------------------------------------

struct rondo_comm {
    struct rdi_engine *engine;
    struct rondo_comm *next;
    uint64_t id;
    int rank, size, local_rank, local_size;
    int *world; // world rank of each rank
    struct rdi_layout layout;
    struct rdi_plan plan;
    uint64_t plan_hash;
    uint64_t seq, split_seq; // collectives seen by the engine; splits made by the caller
    uint64_t *p2p_seq;       // [2 * size]: sends to, receives from each rank; NULL until used
    _Atomic uint8_t
        *_Atomic sent; // [size]: what it sent waits for a recv here; NULL until that happens
    unsigned nearly;
    struct rdi_edge *edges; // all
    struct rdi_edge **hash; // chains by (peer, channel, direction)
    unsigned hash_size;
    struct rondo_request *head, *tail; // active operations in order
    _Atomic int64_t timeout_ms;
    // Failure: first writer wins. `status` is read by any thread; `why` is complete before it is set.
    _Atomic int status;
    bool drained, closing;
    uint64_t drain_until;
    uint64_t birth;                           // decisions of the watch that came before it
    uint64_t agree_seq, shrink_seq, grow_seq; // ballots so far
    bool newcomer;                            // this rank came to it by being started again
    struct rdi_gpu *_Atomic gpu;              // NULL: not attached to a device
    // Written by the engine's owner, read by any thread: rdi_count().
    _Atomic uint64_t operations, bytes_sent, bytes_received, messages, resets;
    _Atomic uint64_t bytes_shm, bytes_tcp, bytes_verbs; // shares of bytes_sent
    struct rdi_record *record;                          // NULL: nothing is remembered
    // Large, and hardly looked at while data moves, from here on.
    // What this rank holds for the failure until all ranks have agreed on one (fault.c).
    struct {
        enum { RDI_NOT_ACCUSED, RDI_HELD, RDI_REPORTED } stage;
        rondo_status status;
        int peer; // the rank whose link failed; -1
        uint64_t since, until;
        char why[RDI_ERROR_TEXT];
    } accused;
    // The failure as rondo_comm_failure() tells it; complete before `status` is set.
    struct {
        uint64_t epoch, operation;
        int culprit, nfailed, waiting_for;
        int *failed;
        char cause[RDI_ERROR_TEXT], wait[96];
        const char *stage;
    } failure;
    char why[RDI_ERROR_TEXT];
    struct rdi_sig history[RDI_SIG_HISTORY];
    struct {
        struct rdi_sig sig;
        int from;
    } early[RDI_EARLY_SIGS];
};

// Adds to an atomic that has one writer at a time: no locked instruction.
static inline void rdi_count(_Atomic uint64_t *to, uint64_t n) {
    atomic_store_explicit(to, atomic_load_explicit(to, memory_order_relaxed) + n,
                          memory_order_relaxed);
}

rondo_status rdi_comm_create(struct rdi_engine *e, uint64_t id, int rank, int size,
                             const int *world, const struct rdi_plan *plan,
                             struct rondo_comm **out);
// Frees a communicator that has no active operation; `bye` as in close_link.
void rdi_comm_free(struct rondo_comm *c, bool bye);
int rdi_comm_progress(struct rondo_comm *c, uint64_t now, bool links_only);
// A failure that this rank has seen. The first one wins: among the ranks by the watch's verdict, where there is a
// watch, else here. Wakes nobody by itself (progress completes the operations).
void rdi_comm_fail(struct rondo_comm *c, rondo_status s, const char *fmt, ...)
    __attribute__((format(printf, 3, 4), cold));
// The same where a link to a rank failed: the watch is given the time to find out whether that rank is lost.
void rdi_comm_fail_link(struct rondo_comm *c, int peer, rondo_status s, const char *fmt, ...)
    __attribute__((format(printf, 4, 5), cold));
rondo_status rdi_comm_edge(struct rondo_comm *c, bool out, int peer, unsigned channel,
                           struct rdi_edge **edge);
// Takes a link that a peer has opened; its edge. NULL: it was not to be, and is closed.
struct rdi_edge *rdi_comm_adopt(struct rondo_comm *c, struct rdi_link *link);
void rdi_comm_ctrl(struct rondo_comm *c, struct rdi_edge *e, unsigned type, const void *msg,
                   size_t len);
// Compares a peer's signature with the local operation of the same number, now or when it is submitted.
void rdi_comm_check_sig(struct rondo_comm *c, int from, const struct rdi_sig *sig);
// Fails the communicator naming both ranks and what each called.
void rdi_comm_mismatch(struct rondo_comm *c, int from, const struct rdi_sig *theirs,
                       const struct rdi_sig *ours);
// "rank 3 (host a, pid 7)" for messages.
const char *rdi_comm_who(const struct rondo_comm *c, int rank, char *buf, size_t cap);

// fault.c: from what this rank saw and what all agreed on to the communicator's one failure
void rdi_fault_accuse(struct rondo_comm *c, int peer, rondo_status s, const char *text);
// Sets the failure; `cause` is the same on all ranks, what this rank was doing is added.
void rdi_fault_decide(struct rondo_comm *c, rondo_status s, const char *cause);
// Whether that rank is in the failed set that ended the communicator.
bool rdi_fault_is_lost(const struct rondo_comm *c, int rank);
int rdi_fault_progress(struct rdi_engine *e, uint64_t now);
// When it wants to be called next at the latest.
uint64_t rdi_fault_next(const struct rdi_engine *e);

// elastic.c
struct rdi_agreement {
    uint64_t flags, epoch;
    uint64_t live[RDI_WATCH_SET]; // ranks of the communicator
};
// rondo_comm_agree(), with all that was agreed.
rondo_status rdi_comm_agree(struct rondo_comm *c, uint64_t flags, struct rdi_agreement *out);
// Restarted ranks that are not of this communicator and had joined the job by `epoch`; world ranks to `list`, if
// not NULL (room for job.size).
int rdi_comm_newcomers_at(const struct rondo_comm *c, uint64_t epoch, int *list);
// A restarted rank's way in: waits for an invitation and makes the communicator.
rondo_status rdi_elastic_enter(struct rdi_engine *e, struct rondo_comm **out);

// edge.c
void rdi_edge_free(struct rdi_edge *e, bool bye);
int rdi_edge_progress(struct rdi_edge *e, uint64_t now);
void *rdi_edge_land(struct rdi_edge *e, uint64_t tag, uint32_t len);
// A rank's send waits here for a recv, or does no more (probe.c).
void rdi_comm_note_sent(struct rondo_comm *c, int peer, bool waits);
void rdi_edge_check_unclaimed(struct rdi_edge *e);

// op.c
void rdi_op_submit(struct rondo_request *r); // engine's side of submission
void rdi_op_complete(struct rondo_request *r, rondo_status s);
const char *rdi_op_describe(const struct rdi_sig *s, char *buf, size_t cap);
const char *rdi_kind_name(enum rdi_kind k);
rondo_status rdi_request_new(struct rondo_comm *c, enum rdi_kind kind, const void *send, void *recv,
                             size_t count, rondo_type type, rondo_op op, int root,
                             struct rondo_request **out);
void rdi_request_free(struct rondo_request *r);
// One that was never pushed.
void rdi_request_drop(struct rondo_request *r);
// The bytes of the caller's buffers, by kind.
void rdi_buffer_sizes(const struct rondo_request *r, uint64_t *send, uint64_t *recv);

// report.c: which counter of which edge does not move, in words. *text is constant memory.
enum rdi_wait rdi_flow_wait(const struct rdi_flow *f, const char **text);
// Of a whole operation: waits for peers first. *peer is a rank of the communicator or -1.
enum rdi_wait rdi_op_wait(const struct rondo_request *r, int *peer, const char **text);
void rdi_op_report(const struct rondo_request *r, char *buf, size_t cap);

// ---- Engine --------------------------------------------------------------------------------------

struct rdi_peer {
    char host[RDI_HOST_MAX];
    uint8_t host_id[16];
    int first; // the lowest rank of its host; valid once engine->hosts_known
    int pid;
    struct rdi_seat seat;
    uint8_t net;                     // index of the net to use; 255 = not chosen yet
    uint16_t blob_len[RDI_MAX_NETS]; // by net, 0 = peer has none
    uint8_t *blob[RDI_MAX_NETS];     // of just that length, as there may be thousands of peers
};

struct rdi_orphan { // a link whose communicator does not exist here yet, or no more
    struct rdi_link *link;
    bool over; // no more: it is closed with a good-bye at the next progress
    bool has_sig;
    struct rdi_sig sig;
};

// A communicator that is gone: peers that still open links to it are told why.
#define RDI_TOMBS 32
struct rdi_tomb {
    uint64_t id;
    rondo_status status; // RONDO_OK: destroyed in good order
    char why[RDI_ERROR_TEXT];
};

struct rdi_engine {
    struct rdi_env env;
    struct rdi_job job;
    struct rdi_net_events events;
    struct rdi_net *nets[RDI_MAX_NETS];
    unsigned nnets;
    struct rdi_peer *peers; // job.size
    struct rdi_seat seat;   // this rank's, for its record
    int cpu;                // for its progress thread; -1 = anywhere
    struct rdi_gpu_way gpu_way;
    bool peers_added;            // any of them
    bool hosts_known;            // peers[].first is
    bool peers_lent;             // they are another engine's
    const struct rdi_work *work; // NULL: payload is worked on, and nobody counts it
    struct rondo_comm *comms;
    struct rdi_orphan *orphans;
    unsigned norphans, cap_orphans;
    _Atomic(struct rondo_request *) inbox;
    _Atomic uint64_t completions;  // grows with each completed operation
    _Atomic int active;            // operations submitted and not complete
    struct rdi_observed *observed; // observe.c's, NULL in the simulator
    struct rdi_driver *driver;     // whoever made the engine; not used by it
    struct rdi_watch *watch;       // NULL: nobody watches, failures show at the data path only
    uint64_t watch_seen;           // its news up to here are in
    bool all_watch;                // every peer that was added has one
    uint32_t incarnation;          // how often this rank was started again
    struct rdi_recorder recorder;
    // Large, and not looked at while data moves.
    struct rdi_options options;
    unsigned ntombs;
    struct rdi_tomb tombs[RDI_TOMBS]; // a ring of the last ones
};

// Opens the nets that `names` lists (ops pointers; those that are UNSUPPORTED are left out, with a log line).
// `extra` and `rails` (NULL: none were decided) go to every net's open().
rondo_status rdi_engine_create(const struct rdi_env *env, const struct rdi_options *options,
                               const struct rdi_job *job, const struct rdi_net_ops *const *ops,
                               unsigned n, void *extra, const struct rdi_rails *rails,
                               struct rdi_engine **out);
void rdi_engine_destroy(struct rdi_engine *e);
// This rank's record for the others, at most RDI_RECORD_MAX bytes, and the reading of a peer's (checked).
#define RDI_RECORD_MAX 6144
size_t rdi_engine_record(struct rdi_engine *e, const struct rdi_plan *plan, void *buf);
rondo_status rdi_engine_add_peer(struct rdi_engine *e, int rank, const void *record, size_t len,
                                 struct rdi_plan *plan);
// Finds out which peers share a host, after all were added. False: out of memory.
bool rdi_engine_know_hosts(struct rdi_engine *e);
// Simulations: this engine looks at another one's peers instead of having added them itself; the other one outlives it.
rondo_status rdi_engine_lend_peers(struct rdi_engine *from, struct rdi_engine *to);
// Once: drains the inbox, moves nets and communicators. Returns how many things moved.
int rdi_engine_progress(struct rdi_engine *e, bool busy);
// Gives the engine the watch that its record and its peers' records are to name.
rondo_status rdi_engine_watch(struct rdi_engine *e, const struct rdi_net_ops *ops, void *extra,
                              void (*wake)(void *arg), void *arg);
// All peers are added: the watch begins, or is dropped where one of them has none.
rondo_status rdi_engine_watch_begin(struct rdi_engine *e, bool threaded);
// The earliest deadline of any operation, or UINT64_MAX.
uint64_t rdi_engine_next_deadline(const struct rdi_engine *e);
// Whether a device is at work on an operation: what it says comes without waking anybody.
bool rdi_engine_device_busy(const struct rdi_engine *e);
// Any thread: hands a request to the engine.
void rdi_engine_push(struct rdi_engine *e, struct rondo_request *r);
// Which net reaches a peer, chosen once; RONDO_ERR_PATH with all reasons if none does.
rondo_status rdi_engine_route(struct rdi_engine *e, int world_rank, struct rdi_net **net);

// ---- Driver: threads, clock and sleep around an engine (driver.c) ---------------------------------

struct rdi_driver;
rondo_status rdi_driver_create(struct rdi_engine *e, struct rdi_driver **out);
// Ends the progress thread and frees the driver with its engine.
void rdi_driver_destroy(struct rdi_driver *d);
// RONDO_ERR_FORKED in a child of the process that made the driver.
rondo_status rdi_driver_check(const struct rdi_driver *d);
// Takes and gives back the ownership of the engine; blocks for as long as the present owner needs to notice.
void rdi_driver_lock(struct rdi_driver *d);
void rdi_driver_unlock(struct rdi_driver *d);
// The same, but gives up at a time: false, the present owner has not come back.
bool rdi_driver_lock_until(struct rdi_driver *d, uint64_t until);
// After rdi_engine_push() by a thread that will not wait now.
void rdi_driver_kick(struct rdi_driver *d);
// Drives or waits until done(arg) holds or the clock passes `until`.
bool rdi_driver_wait(struct rdi_driver *d, bool (*done)(const void *arg), const void *arg,
                     uint64_t until);
// The same for a condition that reads the engine's state: it is evaluated by the owner only.
bool rdi_driver_wait_owned(struct rdi_driver *d, bool (*done)(const void *arg), const void *arg,
                           uint64_t until);
// One pass, if nobody else is at it: RONDO_OK when something moved, else RONDO_AGAIN.
rondo_status rdi_driver_poll(struct rdi_driver *d);
// The engine has something to do that no descriptor tells. Any thread.
void rdi_driver_nudge(struct rdi_driver *d);
// Starts the progress thread, unless there is one or option progress=caller forbids it.
rondo_status rdi_driver_start_thread(struct rdi_driver *d);
uint64_t rdi_driver_sleeps(const struct rdi_driver *d);
// For the layers above: the same, by communicator.
rondo_status rdi_comm_start_thread(struct rondo_comm *c);
// The first barrier of a communicator: all members have it and its paths work (init.c). It takes connect_timeout and a
// second at most, and no longer than until that time; UINT64_MAX: that is no matter.
rondo_status rdi_comm_first_barrier(struct rondo_comm *c, uint64_t until);
// Says good-bye and frees a communicator; true if it was the engine's last one, which then has to go, too.
bool rdi_comm_leave(struct rondo_comm *c);
// Splits, shrinks and grows: an id that all members derive from the same numbers.
uint64_t rdi_mix(uint64_t a, uint64_t b);
// rondo_wait(), and when the operation was complete.
rondo_status rdi_wait_stamped(struct rondo_request **req, uint64_t *finished);

#endif
