// SPDX-License-Identifier: MIT
// The simulated network's private structs.
//
//   world.c   clock, randomness, nodes, faults
//   queue.c   events, in order of time
//   cost.c    what things cost in a described cluster
//   wire.c    what travels between the ends of a link, and what happens to it
//   end.c     the ends of links: what the engine calls
//   net.c     a rank's net: progress(), sleep, the function table
//
// A wire joins the two ends of a link. Events change wires and leave *news* at an end; progress() of the
// rank that owns the end takes the news over into the counters that the engine sees. So between two calls of
// progress() nothing changes under the engine, and a paused rank sees everything late.
#ifndef RDI_TRANSPORT_SIM_WORLD_H
#define RDI_TRANSPORT_SIM_WORLD_H

#include "transport/sim/sim.h"

struct sim_wire;
struct sim_cost;

enum sim_kind {
    SIM_POKE,    // node
    SIM_CONNECT, // the first message of a link reaches the receiver's node
    SIM_REPLY,   // the receiver's answer: up (after connect or reset), with its counters
    SIM_ARRIVE,  // the oldest message under way
    SIM_SENT,    // to the sender: a = arrived
    SIM_CREDIT,  // to the sender: a = released
    SIM_BACK,    // both at once: a = arrived, b = released
    SIM_CTRL,    // ptr = struct sim_ctrl
    SIM_LOST,    // an end notices the loss of the path
    SIM_RESET,   // the sender's request for a new path reaches the receiver
    SIM_GRACE,   // the path was lost for too long
    SIM_END,     // the other end was closed, or its node died: ptr = struct sim_ending
};

// Millions of them are under way: small.
struct sim_event {
    uint64_t at, order;
    union {
        struct sim_wire *wire;
        struct rdi_sim_node *node; // SIM_POKE
    };
    uint64_t a;
    union {
        uint64_t b;
        void *ptr; // SIM_CTRL, SIM_END
    };
    uint32_t gen; // of the wire; events of an older one are void where it matters
    uint8_t kind;
    bool to_sender;
};

struct sim_message {
    struct sim_message *next;
    const void *source; // the sender's memory; NULL once `bytes` holds the payload
    uint8_t *bytes;     // len bytes; `small` if they fit; NULL where payload is not carried
    uint64_t tag;
    uint32_t len, flags;
    bool has_sig, asked, placed;
    uint64_t sum;        // of the payload when it was put
    void *landing;       // land()'s answer
    uint64_t hold_until; // is here, but not counted yet
    uint8_t small[64];   // this and what follows is not cleared
    uint8_t sig[RDI_SIG_BYTES];
};

struct sim_queue {
    struct sim_message *head, *tail;
    unsigned n;
};

struct sim_ctrl {
    struct sim_ctrl *next;
    unsigned type;
    size_t len;
    uint8_t bytes[];
};

struct sim_ending {
    bool bye;
    uint64_t arrived; // to the sender: all that the receiver had whole
    rondo_status status;
    char why[256];
};

// What a receiver holds of a message that is counted.
struct sim_slot {
    const void *data;
    uint64_t tag;
    uint32_t len;
    bool has_sig, in_place; // in_place: `sent` waits for the release
    uint8_t sig[RDI_SIG_BYTES];
};

struct sim_end {
    struct rdi_link base;
    struct sim_wire *wire;
    struct rdi_sim_node *node;
    struct sim_end *prev, *next; // of the node
    struct sim_end *next_dirty;
    bool dirty, gone;
    bool was_up;
    // News.
    bool reply, lost, rejoin;
    uint32_t rejoin_gen; // the wire's, when it was asked for
    uint64_t news_arrived, news_released;
    struct sim_ctrl *ctrl_head, *ctrl_tail;
    struct sim_ending *ending;
    // Receiver.
    struct sim_queue here; // whole, not counted
    struct sim_slot *slot;
    uint8_t *memory;
    struct sim_message **kept; // in a described cluster instead: the message of each slot
    uint64_t told_arrived, told_released;
    bool ack_due;
};

struct sim_wire {
    struct rdi_sim *sim;
    struct rdi_sim_node *from, *to;
    struct sim_end *sender, *receiver; // NULL when closed, or not there yet
    unsigned refs;                     // ends and events
    struct rdi_link_id id;
    uint32_t gen; // grows with each loss of the path
    bool answered, down;
    bool prompt; // the sender's net knows that the receiver listened before it connects
    uint32_t said[2], heard[2]; // ctrl messages by the receiver, by the sender: sent, arrived
    bool by_reference;          // the receiver reads large payload at the sender's
    uint32_t slots, max_msg;    // agreed
    uint64_t latency_ns, down_until, connect_until, patience_until;
    struct sim_queue under_way;
    uint64_t last_arrival, last_ctrl[2], last_back;
};

#define SIM_CORES 256
struct sim_core {
    uint64_t free;
    const struct rdi_sim_node *last; // ran here last
};
#define SIM_NICS 16
struct sim_host {
    uint64_t tx_free[SIM_NICS], rx_free[SIM_NICS]; // of each NIC
    struct sim_core *core;                         // NULL: there is one for each rank
};

struct rdi_sim_node {
    struct rdi_sim *sim;
    int rank;
    struct sim_net *net; // NULL when not open
    bool dead, turn, closed, queued;
    bool silent; // dead, and its host too
    int side;
    uint32_t path_ends[2]; // bit p: this node is at that end of cut path p
    uint64_t paused_until, tx_free;
    uint64_t poked_at; // when it is told at the latest that it may have its turn
    uint64_t
        busy_until; // in a described cluster: its thread is at work until then, or got there in this turn
    struct sim_core *core; // that its turn runs on
    struct sim_end *ends;
    struct sim_end *dirty_head, *dirty_tail;
    struct sim_end *graves;  // closed while progress() runs
    struct sim_wire **calls; // links that peers open
    unsigned ncalls, cap_calls;
};

struct sim_net {
    struct rdi_net base;
    struct rdi_sim_node *node;
    bool in_progress;
};

// Events that came in order of time, in a ring.
struct sim_lane {
    struct sim_event *ring;
    size_t head, n, cap; // cap: a power of two
    uint64_t last_at;    // of the newest, when there is one
};
// Travels of few lengths fill few lanes. What fits into none goes to a heap.
#define SIM_LANES 8
struct sim_events {
    struct sim_lane lane[SIM_LANES];
    struct sim_event *heap;
    size_t nheap, cap_heap;
    const struct sim_event *first; // in a lane or in the heap; NULL: there is none
    int first_lane;                // -1: in the heap
    uint64_t order;
};

struct rdi_sim {
    struct rdi_sim_config config;
    uint64_t now, random;
    struct sim_events events;
    struct sim_cost *cost; // of a described cluster
    struct rdi_sim_node **
        turns; // in a described cluster: who waits for a turn, a ring of as many as there are nodes
    size_t turn_head, nturns;
    struct rdi_sim_node *running; // in a described cluster: whose turn it is
    struct sim_message *spare;    // freed ones, kept
    struct sim_host *hosts;       // of a described cluster
    struct rdi_sim_node *nodes;
    struct rdi_sim_stats stats;
};

// ---- world.c -------------------------------------------------------------------------------------

uint64_t sim_random(struct rdi_sim *s);
uint64_t sim_below(struct rdi_sim *s, uint64_t n); // 0 .. n-1; 0 for n 0
bool sim_chance(struct rdi_sim *s, unsigned per_mille);
void sim_trace_line(struct rdi_sim *s, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
#define sim_trace(s, ...)                   \
    do {                                    \
        if ((s)->config.trace) {            \
            sim_trace_line(s, __VA_ARGS__); \
        }                                   \
    } while (0)
void sim_broken(struct rdi_sim *s, const struct rdi_link *l, const char *rule);
// Memory of the simulation itself: a test cannot go on without it, so it ends in `broken`.
void *sim_alloc(struct rdi_sim *s, size_t n);
void sim_turn(struct rdi_sim_node *n);
void sim_poke_at(struct rdi_sim_node *n, uint64_t at);

// ---- queue.c -------------------------------------------------------------------------------------

void sim_schedule(struct rdi_sim *s, struct sim_event e);
struct sim_event sim_take_event(struct rdi_sim *s);
// The wire of an event that is soon to come, so that it can be fetched from memory; NULL.
struct sim_wire *sim_wire_ahead(const struct rdi_sim *s, size_t events);
void sim_events_free(struct rdi_sim *s);
static inline const struct sim_event *sim_first_event(const struct rdi_sim *s) {
    return s->events.first;
}

// ---- cost.c --------------------------------------------------------------------------------------

// False: out of memory.
bool sim_cost_create(struct rdi_sim *s);
void sim_cost_free(struct rdi_sim *s);
// When a message that is put now is there; the sender has worked on it by then.
uint64_t sim_cost_put(struct sim_wire *w, uint32_t len);
// The rank's thread takes note of a message.
void sim_cost_message(struct rdi_sim_node *n);
// Begins a turn, false: not now, and the node is poked when it may be.
bool sim_cost_begin(struct rdi_sim_node *n);

// ---- wire.c --------------------------------------------------------------------------------------

void sim_event_do(struct rdi_sim *s, struct sim_event *e);
void sim_event_drop(struct sim_event *e);
void sim_wire_unref(struct sim_wire *w);
// Whether nothing passes between the ends' nodes.
static inline bool sim_wire_cut(const struct sim_wire *w) {
    const struct rdi_sim_node *a = w->from, *b = w->to;
    return a->side != b->side || a->silent || b->silent ||
           (a->path_ends[0] & b->path_ends[1]) != 0 || (a->path_ends[1] & b->path_ends[0]) != 0;
}
// A time of travel from now, for anything but messages.
uint64_t sim_travel(struct sim_wire *w);
void sim_wire_send(struct sim_wire *w, enum sim_kind kind, bool to_sender, uint64_t at, uint64_t a,
                   uint64_t b, void *ptr);
void sim_wire_lose(struct sim_wire *w, uint64_t down_ns);
void sim_wire_end(struct sim_wire *w, bool to_sender, uint64_t at, bool bye, uint64_t arrived,
                  rondo_status s, const char *why);
void sim_message_fetch(struct sim_wire *w, struct sim_message *m);
void sim_message_free(struct rdi_sim *s, struct sim_message *m);
struct sim_message *sim_message_new(struct rdi_sim *s);
void sim_message_room(struct rdi_sim *s, struct sim_message *m);
void sim_push(struct sim_queue *q, struct sim_message *m);
struct sim_message *sim_pop(struct sim_queue *q);
uint64_t sim_sum(const void *data, size_t n);

// ---- end.c ---------------------------------------------------------------------------------------

void sim_end_dirty(struct sim_end *e);
struct sim_end *sim_end_new(struct rdi_sim_node *n, struct sim_wire *w, bool sender);
void sim_end_free(struct sim_end *e);
// Takes the end off its node; its memory goes when nothing points to it any more.
void sim_end_discard(struct sim_end *e);
void sim_end_fail(struct sim_end *e, rondo_status s, const char *why);
// Receiver: tells the sender what arrived and what was released, if it has to be or `force`.
void sim_end_tell(struct sim_end *e, bool force);
void sim_end_open_slots(struct sim_end *e);

rondo_status sim_op_connect(struct rdi_net *net, const struct rdi_link_id *id, const void *blob,
                            size_t len, struct rdi_link **out);
rondo_status sim_op_put(struct rdi_link *link, const struct rdi_put *put);
void sim_op_peek(struct rdi_link *link, uint64_t seq, struct rdi_msg *out);
void sim_op_release(struct rdi_link *link, uint64_t upto);
rondo_status sim_op_ctrl(struct rdi_link *link, unsigned type, const void *msg, size_t len);
rondo_status sim_op_reset(struct rdi_link *link, uint32_t epoch);
void sim_op_close_link(struct rdi_link *link, bool bye);
bool sim_op_delivered(struct rdi_link *link);
void sim_op_describe(struct rdi_link *link, char *buf, size_t cap);

#endif
