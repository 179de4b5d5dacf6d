// SPDX-License-Identifier: MIT
// The flight recorder: what each communicator did last, where it stands, and who is waited for.
//
//   engine's owner                        any thread
//     op.c, edge.c  --- words --->  ring of entries (seqlocks)  ---> rdi_record_read()
//                                   always readable, also while the engine is stuck
//     rdi_snap_take() --- a copy of every counter and wait, for those who own the engine for a moment
//
// All of this is pure: no clock but the engine's, no thread, no file. observe.c, outside the core, serves it.
#ifndef RDI_RECORD_H
#define RDI_RECORD_H

#include "ring/ring.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct rondo_comm;
struct rondo_request;
struct rdi_edge;
struct rdi_engine;
struct rdi_flow;
struct rdi_trace;

// ---- Waits ---------------------------------------------------------------------------------------

// The counter that stands still, see report.c. The names are part of dumps and metrics.
enum rdi_wait {
    RDI_WAIT_NONE,
    RDI_WAIT_CONNECT,
    RDI_WAIT_ORDER,
    RDI_WAIT_LOCAL_DATA,
    RDI_WAIT_PEER_CREDIT,
    RDI_WAIT_WIRE,
    RDI_WAIT_REDUCE,
    RDI_WAIT_DEVICE,
    RDI_WAIT_COUNT
};
const char *rdi_wait_name(enum rdi_wait w);
// Whether it is the peer that has to do something.
bool rdi_wait_is_for_peer(enum rdi_wait w);

// ---- One communicator's ring ---------------------------------------------------------------------

enum rdi_op_state { RDI_OP_STARTED, RDI_OP_DONE, RDI_OP_FAILED };

// What a request carries for the recorder: written by the engine, as messages go and come.
struct rdi_op_marks {
    uint64_t number; // in the ring: 1 is the communicator's first operation; 0: not begun
    uint64_t submitted, started;   // ns; submitted: by the caller, 0: when it was started
    uint64_t first, last;          // message of it, 0: none yet
    uint64_t sent, received, msgs; // payload bytes; messages both ways
};

// An operation as it is remembered.
struct rdi_op_entry {
    struct rdi_op_marks m;
    uint64_t seq; // of the collective, or of the send/recv between this pair
    uint64_t count, bytes;
    uint8_t kind, type, op, algo; // as in struct rdi_sig; kind tells send and recv apart
    int root;                     // or p2p peer
    enum rdi_op_state state;
    rondo_status status;
    uint64_t finished; // ns, 0: under way
};

// Two cache lines: one is written when an operation begins, the other when it ends.
enum {
    RDI_SLOT_NUMBER,
    RDI_SLOT_SEQ,
    RDI_SLOT_COUNT,
    RDI_SLOT_WHAT, // kind, type, op, algo, root from the lowest byte on
    RDI_SLOT_SUBMITTED,
    RDI_SLOT_STARTED,
    RDI_SLOT_STATE, // state, status
    RDI_SLOT_FINISHED,
    RDI_SLOT_FIRST,
    RDI_SLOT_LAST,
    RDI_SLOT_SENT,
    RDI_SLOT_RECEIVED,
    RDI_SLOT_MSGS,
    RDI_SLOT_WORDS
};
struct rdi_entry_slot {
    _Alignas(128) _Atomic uint64_t version; // odd: being written
    _Atomic uint64_t word[RDI_SLOT_WORDS];
};

// Never freed before the engine is: a record whose communicator is gone serves a later one.
struct rdi_record {
    struct rdi_record *_Atomic next; // all of the engine
    _Atomic uint64_t comm;           // id
    _Atomic int rank, size, used;
    _Atomic uint64_t head;  // operations that were ever begun
    _Atomic uint64_t calls; // collectives: number of the next one
    uint64_t cap;           // entries, 0: nothing is remembered
    struct rdi_entry_slot slots[];
};

#define RDI_TIME_BUCKETS 29 // of operation times: up to 1 us << i, the last one without a bound
#define RDI_FAILURES_KEPT 8

// What the engine keeps besides: embedded in it, zeroed at first.
struct rdi_recorder {
    struct rdi_record *_Atomic records;
    uint64_t now;                                            // when this pass began
    _Atomic uint64_t times[9][RDI_TIME_BUCKETS], seconds[9]; // by kind; ns
    _Atomic uint64_t waited[RDI_WAIT_COUNT];                 // ns asleep
    _Atomic uint64_t failures[32];                           // communicators, by -status
    // Of communicators that are gone: operations, bytes received, messages, resets; bytes sent by wire.
    uint64_t past[4], past_wire[3];
    struct rdi_snap_comm *failed[RDI_FAILURES_KEPT]; // how the last ones stood when they failed
    unsigned nfailed;                                // ever
    struct rdi_trace *_Atomic trace;                 // not NULL: once there was a trace
    // Called by the engine's owner after a failure was taken down; must not wait.
    void (*notice)(void *arg);
    void *notice_arg;
};

// The engine's hooks. None fails: without memory nothing is remembered.
struct rdi_record *rdi_record_open(struct rondo_comm *c);
void rdi_record_close(struct rondo_comm *c);
void rdi_record_begin(struct rondo_request *r);
void rdi_record_end(struct rondo_request *r);
// Before the communicator's links are touched: takes down how it stands, then calls notice().
void rdi_record_fail(struct rondo_comm *c, rondo_status s);
void rdi_recorder_free(struct rdi_recorder *k);
// What the oldest operation under way waits for; for those who are about to sleep, with the engine.
enum rdi_wait rdi_record_waiting(const struct rdi_engine *e);

// What is known of a request.
void rdi_record_entry(const struct rondo_request *r, struct rdi_op_entry *out);
// Entry `number` (1 .. head). False: overwritten meanwhile, or nothing is remembered. Any thread.
bool rdi_record_read(const struct rdi_record *k, uint64_t number, struct rdi_op_entry *out);

// ---- Snapshots -----------------------------------------------------------------------------------

struct rdi_counters {
    uint64_t credit, ready, posted, sent, arrived, released;
};

// Why one flow of an operation does not move.
struct rdi_snap_wait {
    enum rdi_wait wait;
    const char *text; // of constant memory
    bool out;
    int peer, world; // rank in the communicator, in the job
    uint64_t done, total;
};

struct rdi_snap_op {
    struct rdi_op_entry entry;
    uint64_t deadline;
    char device[160]; // what a device does, "" without one
    unsigned nwaits, left_out;
    struct rdi_snap_wait *waits;
};

struct rdi_snap_edge {
    bool out;
    int peer, world;
    unsigned channel;
    const char *wire, *state;
    struct rdi_counters n;
};

struct rdi_snap_comm {
    _Atomic int refs; // of those that failed: the recorder's, and one of each snapshot
    uint64_t id, at;  // ns
    int rank, size;
    int *world; // of each rank
    uint64_t calls;
    rondo_status status;
    char *why; // "" while it works
    uint64_t operations, bytes_received, messages, resets, wire[3];
    unsigned nops, nedges, edges_left_out, ops_left_out;
    struct rdi_snap_op *ops; // under way
    struct rdi_snap_edge *edges;
};

struct rdi_snap_peer {
    char host[64];
    int pid;
};

struct rdi_snap {
    uint64_t at; // ns
    bool whole;  // false: nobody could look into the engine; only the rings can be told
    int rank, size;
    char host[64];
    uint64_t strangers, damaged, inbox; // inbox: operations that the engine has not taken yet
    struct rdi_snap_peer *peers;
    unsigned ncomms;
    struct rdi_snap_comm *comms;
    unsigned nfailures;
    struct rdi_snap_comm *failures[RDI_FAILURES_KEPT]; // oldest first
    uint64_t past[4], past_wire[3];
};

// By the engine's owner. RONDO_ERR_NOMEM leaves nothing to free.
rondo_status rdi_snap_take(const struct rdi_engine *e, struct rdi_snap *out);
void rdi_snap_free(struct rdi_snap *s);
rondo_status rdi_snap_comm_take(const struct rondo_comm *c, uint64_t now,
                                struct rdi_snap_comm *out);
void rdi_snap_comm_free(struct rdi_snap_comm *s);

#endif
