// SPDX-License-Identifier: MIT
// The simulated network's private structs.
//
//   world.c   clock, events, randomness, nodes, faults
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

enum sim_kind {
    SIM_POKE,    // node
    SIM_CONNECT, // the first message of a link reaches the receiver's node
    SIM_REPLY,   // the receiver's answer: up (after connect or reset), with its counters
    SIM_ARRIVE,  // the oldest message under way
    SIM_SENT,    // to the sender: a = arrived
    SIM_CREDIT,  // to the sender: a = released
    SIM_CTRL,    // ptr = struct sim_ctrl
    SIM_LOST,    // an end notices the loss of the path
    SIM_RESET,   // the sender's request for a new path reaches the receiver
    SIM_GRACE,   // the path was lost for too long
    SIM_END,     // the other end was closed, or its node died: ptr = struct sim_ending
};

struct sim_event {
    uint64_t at, order;
    enum sim_kind kind;
    bool to_sender;
    uint32_t gen; // of the wire; events of an older one are void where it matters
    struct sim_wire *wire;
    struct rdi_sim_node *node;
    uint64_t a, b;
    void *ptr;
};

struct sim_message {
    struct sim_message *next;
    const void *source;  // the sender's memory; NULL once `bytes` holds the payload
    uint64_t sum;        // of the payload when it was put
    uint8_t *bytes;      // len bytes; `small` if they fit
    void *landing;       // land()'s answer
    uint64_t hold_until; // is here, but not counted yet
    uint64_t tag;
    uint32_t len, flags;
    bool has_sig, asked, placed;
    uint8_t small[64]; // this and what follows is not cleared
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
struct sim_host {
    uint64_t tx_free, rx_free;
    uint64_t core_free[SIM_CORES];
};

struct rdi_sim_node {
    struct rdi_sim *sim;
    int rank;
    struct sim_net *net; // NULL when not open
    bool dead, turn, closed, queued;
    struct rdi_sim_node *next_turn;
    bool silent; // dead, and its host too
    int side;
    uint64_t paused_until, tx_free;
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

struct rdi_sim {
    struct rdi_sim_config config;
    uint64_t now, random, order;
    struct sim_event *heap;
    size_t nheap, cap_heap;
    // Events in order of time that came in that order; the others are in the heap.
    struct sim_event *fifo;
    size_t fifo_head, fifo_n, fifo_cap;
    struct rdi_sim_node *turn_head, *turn_tail;
    struct sim_message *spare; // freed ones, kept
    struct sim_host *hosts;    // of a described cluster
    struct rdi_sim_node *nodes;
    struct rdi_sim_stats stats;
};

// ---- world.c -------------------------------------------------------------------------------------

uint64_t sim_random(struct rdi_sim *s);
uint64_t sim_below(struct rdi_sim *s, uint64_t n); // 0 .. n-1; 0 for n 0
bool sim_chance(struct rdi_sim *s, unsigned per_mille);
void sim_trace(struct rdi_sim *s, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void sim_broken(struct rdi_sim *s, const struct rdi_link *l, const char *rule);
// Memory of the simulation itself: a test cannot go on without it, so it ends in `broken`.
void *sim_alloc(struct rdi_sim *s, size_t n);
void sim_schedule(struct rdi_sim *s, struct sim_event e);
void sim_turn(struct rdi_sim_node *n);
void sim_poke_at(struct rdi_sim_node *n, uint64_t at);

// ---- wire.c --------------------------------------------------------------------------------------

void sim_event_do(struct rdi_sim *s, struct sim_event *e);
void sim_event_drop(struct sim_event *e);
void sim_wire_unref(struct sim_wire *w);
// Whether nothing passes between the ends' nodes.
static inline bool sim_wire_cut(const struct sim_wire *w) {
    return w->from->side != w->to->side || w->from->silent || w->to->silent;
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
// When a message that is put now is there, in a described cluster.
uint64_t sim_cluster_arrival(struct sim_wire *w, uint32_t len);
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
