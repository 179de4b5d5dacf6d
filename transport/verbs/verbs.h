// SPDX-License-Identifier: MIT
// The verbs transport's private structs, and what its files call of each other.
//
//   ibv.c device.c gid.c ...   the device layer, see device.h
//   wire.c                     pure: bytes and structs
//   qp.c cq.c                  queue pairs; completions and what a bad one means
//   offer.c grant.c            set-up: the sender's side, the receiver's side
//   link.c inner.c             a link's life: up, lost, failed, closed; words to the peer's end, and time
//   tx.c rx.c                  messages
//   net.c                      opening, the function table, progress, sleep
//
// For each link there is an *inner* link of the tcp transport with the same id: set-up, the engine's control
// messages and good-bye travel there, and it tells of the peer's death. Messages travel over reliable
// connections between queue pairs, of every pair of ports (rails) that can reach each other:
//
//   sender                                              receiver
//   CONNECTING
//     waits for the inner link
//     own queue pairs INIT       OFFER ->               (engine's accept)
//                                                       queue pairs ready, receives posted
//                             <- GRANT                  CONNECTING
//     queue pairs ready, an empty write or send on each: its completion proves the way
//   UP                           READY ->               UP, also at the first message
//
// A way that does not work is left out in the next attempt. A link that loses one is LOST as a whole and set
// up anew under the next epoch; the receiver first takes its old queue pairs to the error state and counts what
// completed until all their receives are back, so that it knows all that the sender was told had arrived.
//
//   posted:   SEND_WITH_IMM (imm = released) <------------ credit, on queue pair 0
//   message:  WRITE_WITH_IMM (imm = stripe, message) ----> slot        mode imm
//             WRITE, then empty WRITE_WITH_IMM ----------> slot        mode split
//             SEND ----> the slot that was posted for it;              mode send (8 bytes SENT for credit)
//
// On RDI_CHANNEL_DEVICE the receiver's payloads may lie apart, in device memory; then stripe 0 is the header, to a
// slot in host memory, and stripes 1.. are the payload (modes imm and split). Processors never touch the payload.
#ifndef RDI_TRANSPORT_VERBS_VERBS_H
#define RDI_TRANSPORT_VERBS_VERBS_H

#include "transport/verbs/wire.h"

#define RDI_MS UINT64_C(1000000)
#define RDI_VERBS_BUCKETS 256u
#define RDI_VERBS_HEAD 1024u // of the sender, for each slot: header and small payloads
#define RDI_VERBS_SMALL (RDI_VERBS_HEAD - RDI_VERBS_HEADER)
#define RDI_VERBS_RECV \
    (UINT64_C(1) << 63)                 // in wr_id: a receive; below: generation 31, number 32 bits
#define RDI_VERBS_NONE UINT64_MAX       // a work request that belongs to no message
#define RDI_VERBS_PING (UINT64_MAX - 1) // the one that proves the way

struct rdi_verbs_net;
struct rdi_verbs_link;

struct rdi_verbs_qp {
    struct rdi_verbs_link *link;
    struct rdi_verbs_qp *hash_next;
    struct ibv_qp *qp; // NULL: not made
    unsigned index;    // in its link
    unsigned rail;     // of ours
    uint32_t
        generation; // in wr_id, so that no completion of a queue pair before counts for this one
    uint32_t psn, peer_qpn, peer_psn;
    uint32_t inline_max;
    bool error; // we took it to the error state
    uint32_t sq_size, rq_size;
    uint64_t sq_tail, sq_head; // work requests posted, retired
    uint32_t unsignaled;       // since the last signaled one
    uint32_t rq_left;          // receives posted and not yet back
    uint64_t *sq;              // of each work request: its message, NONE or PING
};

// A message under way from us, in slot seq % slots.
struct rdi_verbs_out {
    unsigned left; // work requests that must complete
    bool foreign;  // memory that is not ours is read
    struct rdi_verbs_mr *held[RDI_VERBS_RAILS];
};

// A message that arrives or has arrived, in slot seq % slots. What the header says is copied: the peer can
// write there at any time.
struct rdi_verbs_in {
    uint64_t tag;
    uint32_t len;
    uint16_t seen, stripes;
    bool whole, has_sig;
};

enum rdi_verbs_step {
    RDI_VERBS_WAITING,  // sender: for the inner link or the next attempt; receiver: for an offer
    RDI_VERBS_OFFERED,  // sender: for the grant
    RDI_VERBS_PINGING,  // sender: for proof
    RDI_VERBS_DRAINING, // receiver: for the old queue pairs' receives
    RDI_VERBS_GRANTED,  // receiver: for the sender
    RDI_VERBS_RUNNING,
};

struct rdi_verbs_link {
    struct rdi_link base;
    struct rdi_verbs_link *prev, *next; // all links of the net; the graveyard
    struct rdi_link *inner;             // NULL: gone
    enum rdi_verbs_step step;
    uint32_t attempt;
    bool inner_up; // as last seen
    bool unsaid;   // the inner link had no room for what is to be said
    bool was_up;   // this end has been UP
    bool accepted; // receiver: the engine knows it
    bool closing;  // the engine has closed it; last messages are on their way
    bool gone;     // its memory waits for the end of progress()
    bool bye;      // the peer said good-bye after message bye_at
    bool heard;    // something of the peer since the path was lost
    uint64_t bye_at;
    uint64_t deadline, retry_at, ping_until;
    uint64_t quiet_since;  // sender: nothing of the peer came since
    unsigned inner_resets; // sender: since the path was lost, because no answer came
    unsigned backoff_ms;
    char host[RDI_HOST_MAX];     // the peer's
    char reason[RDI_VERBS_TEXT]; // why the last attempt failed

    struct rdi_verbs_address peer;
    struct rdi_verbs_pair pairs[RDI_VERBS_RAILS]; // all that there are
    unsigned npairs, down;                        // down: bits of those that failed
    uint8_t used[RDI_VERBS_RAILS];                // the attempt's, indices into pairs
    uint8_t mtu[RDI_VERBS_RAILS];                 // of those
    unsigned nused, nqps, npings;
    enum rdi_verbs_mode mode;
    struct rdi_verbs_qp *qps; // RDI_VERBS_LINK_QPS, nqps of them in use

    // A queue pair that failed. When all that was seen is its flush, the cause may still come.
    bool broken, cause_known;
    uint64_t broken_at;
    unsigned broken_pairs;
    char cause[RDI_VERBS_TEXT];

    // Sender: headers, small payloads, room for words of credit. Receiver: slots, words of credit.
    uint8_t *memory;
    size_t bytes, words; // words: offset
    struct ibv_mr *mr[RDI_VERBS_RAILS];
    bool apart; // the receiver's payload slots are in device memory, memory has the headers

    // Sender.
    struct rdi_verbs_out *out;
    uint8_t *staging; // slots * max_msg, for payloads in memory that is not registered
    struct ibv_mr *staging_mr[RDI_VERBS_RAILS];
    uint64_t remote, remote_payload;                               // payload: apart
    uint32_t rkey[RDI_VERBS_RAILS], payload_rkey[RDI_VERBS_RAILS]; // of `used`
    uint32_t stride;                                               // of `remote`
    uint64_t granted_arrived, granted_released;
    unsigned turn, period; // next queue pair; every how many messages on one is signaled

    // Receiver.
    struct rdi_verbs_in *in;
    uint8_t *payload; // apart: device memory, never touched here
    struct ibv_mr *payload_mr[RDI_VERBS_RAILS];
    uint64_t told_released;
    struct rdi_verbs_msg offer; // under way
};

struct rdi_verbs_net {
    struct rdi_net base;
    const struct rdi_ibv *v;
    struct rdi_net *inner;
    struct rdi_options inner_options;
    struct rdi_net_events inner_events;
    struct rdi_verbs_address self;
    struct rdi_verbs_rail rails[RDI_VERBS_RAILS];
    bool dead[RDI_VERBS_RAILS]; // the device is gone
    uint32_t inline_max[RDI_VERBS_RAILS];
    unsigned nrails;
    int epfd;
    uint32_t slots, max_msg, stripe;
    unsigned qps, mtu, grace_ms, connect_ms;
    uint8_t timeout;
    unsigned retries;
    enum rdi_verbs_mode mode;
    bool mode_auto;
    struct rdi_verbs_link *links, *dead_links;
    unsigned unsettled; // links that have timers
    unsigned nbroken;
    bool closing; // takes no new links
    struct rdi_verbs_qp *buckets[RDI_VERBS_BUCKETS];
    uint32_t generation; // of the last queue pair
    unsigned tick, idle;
    unsigned depth; // > 0: within progress(), so memory is kept
};

static inline struct rdi_verbs_net *rdi_verbs_net_of(const struct rdi_verbs_link *l) {
    return (struct rdi_verbs_net *)l->base.net;
}
static inline uint64_t rdi_verbs_now(const struct rdi_verbs_net *n) {
    return rdi_now(&n->base.params.env);
}
// How long the receiver of a lost link waits. It may have been the first to notice, and the news needs time to
// come to a sender that has nothing to send; then the sender has its own time.
static inline unsigned rdi_verbs_receiver_ms(const struct rdi_verbs_net *n) {
    return 2 * n->grace_ms + 2000;
}
// Whether a header may be a stripe of its own, beside as many others as there are queue pairs.
static inline bool rdi_verbs_may_part(const struct rdi_verbs_link *l) {
    return l->base.id.channel == RDI_CHANNEL_DEVICE && l->mode != RDI_VERBS_SEND;
}
static inline unsigned rdi_verbs_pair_of(const struct rdi_verbs_link *l,
                                         const struct rdi_verbs_qp *q) {
    return l->used[q->index % l->nused];
}

// ---- qp.c ----------------------------------------------------------------------------------------

// Makes queue pair `index` of the attempt (state INIT). Errors name the device and the remedy.
rondo_status rdi_verbs_qp_make(struct rdi_verbs_link *l, unsigned index);
// Connects it: RTR, RTS. An errno, and in *what which step it was.
int rdi_verbs_qp_connect(struct rdi_verbs_qp *q, const char **what);
void rdi_verbs_qp_error(struct rdi_verbs_qp *q);
// Once it returns the device neither reads nor writes for it.
void rdi_verbs_qp_destroy(struct rdi_verbs_qp *q);
struct rdi_verbs_qp *rdi_verbs_qp_find(struct rdi_verbs_net *n, unsigned rail, uint32_t qpn);
// Posts a receive for `bytes` at `to` (NULL: none). 0 or an errno; also tells the link of the latter.
int rdi_verbs_qp_receive(struct rdi_verbs_qp *q, uint32_t id, void *to, uint32_t bytes);
// Posts a list of `count` work requests, of which the last belongs to `seq`; `signaled`: asks for a
// completion. False: it was refused, the link is broken.
bool rdi_verbs_qp_send(struct rdi_verbs_qp *q, struct ibv_send_wr *first, unsigned count,
                       uint64_t seq, bool signaled);
// Whether `count` more fit, with one in reserve for flushing.
bool rdi_verbs_qp_room(const struct rdi_verbs_qp *q, unsigned count);
// All work requests up to this one are done.
void rdi_verbs_qp_retire(struct rdi_verbs_qp *q, uint32_t number);
// "rank 0 on host a (mlx5_0 port 1, GID 10.0.0.1, QP 17) and rank 1 on host b (...)".
const char *rdi_verbs_ends(const struct rdi_verbs_link *l, const struct rdi_verbs_qp *q, char *buf,
                           size_t cap);

// ---- cq.c ----------------------------------------------------------------------------------------

int rdi_verbs_poll(struct rdi_verbs_net *n);
// Something is wrong with a queue pair: it counts as broken.
void rdi_verbs_broken(struct rdi_verbs_qp *q, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));
// Decides what becomes of broken links.
int rdi_verbs_mend(struct rdi_verbs_net *n);
// Asynchronous events of all devices.
int rdi_verbs_async(struct rdi_verbs_net *n);
// Takes notifications off the channels.
void rdi_verbs_drain_channels(struct rdi_verbs_net *n);

// ---- offer.c (sender) ----------------------------------------------------------------------------

void rdi_verbs_offer_start(struct rdi_verbs_link *l);
void rdi_verbs_offer_failed(struct rdi_verbs_link *l, unsigned pairs, const char *reason);
void rdi_verbs_take_grant(struct rdi_verbs_link *l, const struct rdi_verbs_msg *m);
void rdi_verbs_pinged(struct rdi_verbs_link *l);
void rdi_verbs_offer_tick(struct rdi_verbs_link *l, uint64_t now);
// When tick() wants to be called next.
uint64_t rdi_verbs_offer_next(const struct rdi_verbs_link *l);

// ---- grant.c (receiver) --------------------------------------------------------------------------

void rdi_verbs_take_offer(struct rdi_verbs_link *l, const struct rdi_verbs_msg *m);
void rdi_verbs_grant_tick(struct rdi_verbs_link *l, uint64_t now);

// ---- link.c --------------------------------------------------------------------------------------

struct rdi_verbs_link *rdi_verbs_link_new(struct rdi_verbs_net *n, const struct rdi_link_id *id,
                                          bool sender);
rondo_status rdi_verbs_link_memory(struct rdi_verbs_link *l, uint32_t slots, uint32_t max_msg);
// Registers what the link's end needs on a rail.
rondo_status rdi_verbs_link_register(struct rdi_verbs_link *l, unsigned rail);
void rdi_verbs_link_state(struct rdi_verbs_link *l, enum rdi_link_state state);
void rdi_verbs_link_up(struct rdi_verbs_link *l);
void rdi_verbs_link_lost(struct rdi_verbs_link *l, const char *why);
// `tell`: the peer's end fails with the same words.
void rdi_verbs_link_fail(struct rdi_verbs_link *l, bool tell, rondo_status s, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
void rdi_verbs_link_drop(struct rdi_verbs_link *l); // its queue pairs
void rdi_verbs_link_free(struct rdi_verbs_link *l, bool bye);
void rdi_verbs_check_bye(struct rdi_verbs_link *l);
bool rdi_verbs_has_timers(enum rdi_link_state s);
void rdi_verbs_close_inner(struct rdi_verbs_link *l, bool bye);
void rdi_verbs_reap(struct rdi_verbs_net *n);

rondo_status rdi_verbs_op_connect(struct rdi_net *net, const struct rdi_link_id *id,
                                  const void *blob, size_t len, struct rdi_link **out);
rondo_status rdi_verbs_op_reset(struct rdi_link *link, uint32_t epoch);
void rdi_verbs_op_close_link(struct rdi_link *link, bool bye);
void rdi_verbs_op_describe(struct rdi_link *link, char *buf, size_t cap);

// ---- inner.c -------------------------------------------------------------------------------------

rondo_status rdi_verbs_inner_accept(void *self, struct rdi_link *inner);
void rdi_verbs_inner_ctrl(void *self, struct rdi_link *inner, unsigned type, const void *msg,
                          size_t len);
bool rdi_verbs_say(struct rdi_verbs_link *l, struct rdi_verbs_msg *m);
// Says what the other end waits for in this step.
void rdi_verbs_say_step(struct rdi_verbs_link *l);
// Looks at the inner link and at the clock.
void rdi_verbs_link_tick(struct rdi_verbs_link *l, uint64_t now);
uint64_t rdi_verbs_link_next(const struct rdi_verbs_link *l);
const char *rdi_verbs_peer_name(const struct rdi_verbs_link *l, char *buf, size_t cap);

// ---- net.c ---------------------------------------------------------------------------------------

// The two parts of a net's address. False: malformed.
bool rdi_verbs_blob_read(const void *blob, size_t len, const uint8_t **inner, size_t *inner_len,
                         struct rdi_verbs_address *address);
// Fails for an address that could not be read, of `whose`: of another version, or damaged.
rondo_status rdi_verbs_blob_fail(const void *blob, size_t len, const char *whose);

// ---- tx.c ----------------------------------------------------------------------------------------

rondo_status rdi_verbs_op_put(struct rdi_link *link, const struct rdi_put *put);
rondo_status rdi_verbs_op_ctrl(struct rdi_link *link, unsigned type, const void *msg, size_t len);
void rdi_verbs_tx_done(struct rdi_verbs_link *l, uint64_t seq);
// Forgets what was under way: its queue pairs are gone.
void rdi_verbs_tx_forget(struct rdi_verbs_link *l);
void rdi_verbs_take_credit(struct rdi_verbs_qp *q, const struct ibv_wc *wc);
int rdi_verbs_ping(struct rdi_verbs_qp *q);
// Sends what was put off: credit; a request for completion behind unsignaled messages.
int rdi_verbs_flush(struct rdi_verbs_link *l);

// ---- rx.c ----------------------------------------------------------------------------------------

// Posts the receives that a fresh queue pair begins with, either end. 0 or an errno.
int rdi_verbs_rx_fill(struct rdi_verbs_qp *q);
void rdi_verbs_rx(struct rdi_verbs_qp *q, const struct ibv_wc *wc);
int rdi_verbs_tell_credit(struct rdi_verbs_link *l);
void rdi_verbs_op_peek(struct rdi_link *link, uint64_t seq, struct rdi_msg *out);
void rdi_verbs_op_release(struct rdi_link *link, uint64_t upto);

// ---- For tests -----------------------------------------------------------------------------------

// Takes a queue pair of an UP link to the error state behind the link's back. False: no such queue pair.
bool rdi_verbs_test_cut(struct rdi_link *link, unsigned index);

#endif
