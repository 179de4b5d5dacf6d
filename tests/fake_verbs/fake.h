// SPDX-License-Identifier: MIT
// A libibverbs without hardware: what its files share.
//
//     application threads                         NIC thread (one for each opened device)
//     ibv_post_send -> send queue  ---------->    requester.c: cuts messages into packets  --+
//     ibv_post_recv -> receive queue              responder.c: checks, places, answers  <----+-- sockets
//     ibv_poll_cq   <- completion queue <------   both                                       +-- (link.c)
//
// Locks: nic->lock guards everything of an opened device but the completion queues' entries, which have
// a lock of their own each, so that an application that polls does not stand in the way of its NIC.
// Order: nic->lock, then cq->lock.
#ifndef FAKE_VERBS_FAKE_H
#define FAKE_VERBS_FAKE_H

#include <infiniband/verbs.h>

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#define FV_EXPORT __attribute__((visibility("default")))
#define FV_PRINTF(a, b) __attribute__((format(printf, a, b)))

#define FV_PIECE 32768u // payload of one packet
#define FV_WINDOW 32u   // packets of a queue pair that wait for an acknowledgement
#define FV_ACK_EVERY 8u // packets of a long message between acknowledgements
#define FV_SGE 6        // entries of a scatter/gather list
#define FV_QPN_BITS \
    12u // queue pairs of an opened device; the other half of the number names the device
#define FV_NICS (1u << (24 - FV_QPN_BITS))
#define FV_MSG_MAX (1u << 31)
#define FV_GIDS 4
#define FV_RD_ATOMIC 16

enum fv_link { FV_ROCE, FV_IB, FV_IWARP };

// What the environment says; a copy for each device.
struct fv_config {
    char dir[256];
    unsigned devices, ports, host, subnet;
    enum fv_link link;
    enum ibv_mtu mtu;
    uint64_t seed;
    bool isolate, dmabuf, memlock;
    bool source_strict; // a source stays as it is until its completion, not only until it was read
};

struct fv_device {
    struct ibv_device v;
    struct fv_config config;
    unsigned number;
};

struct fv_faults {
    unsigned delay_us, reorder, loss, rnr;
    bool late, no_imm;
    unsigned inline_max, max_wr, max_cqe, regfail;
    int event;
    // In ms since the faults were set; -1: not at all, or for ever.
    int64_t gone, down_from, down_to, cut_from, cut_to;
    unsigned down_port; // 0: all
};

// ---- Packets -------------------------------------------------------------------------------------

enum fv_type { FV_REQUEST = 1, FV_ACK, FV_NAK, FV_RESPONSE };
enum fv_nak { FV_NAK_SEQUENCE = 1, FV_NAK_RNR, FV_NAK_ACCESS, FV_NAK_INVALID, FV_NAK_OPERATION };

struct fv_packet {
    uint32_t magic;
    uint8_t type, op, code, rnr_code;
    uint8_t first, last, solicited, global;
    uint8_t hop_limit, gid_type, mtu, src_device;
    uint16_t src_host, slid, dlid, subnet;
    uint8_t sgid[16], dgid[16];
    uint32_t sqpn, dqpn, psn;
    uint32_t imm; // as the application gave it
    uint32_t rkey;
    uint32_t length, offset, bytes; // of the message; of this packet in it
    uint64_t raddr, compare_add, swap;
};

struct fv_buf {
    struct fv_buf *next;
    uint64_t due; // not looked at before this time
    struct fv_packet p;
    uint8_t data[FV_PIECE];
};

// ---- Objects -------------------------------------------------------------------------------------

// Objects that were destroyed stay, marked dead, until the device is closed, so that their use is noticed.
#define FV_ALIVE 0x600dcafeu
#define FV_DEAD 0xdeadbeefu

struct fv_nic;

struct fv_pd {
    struct ibv_pd v;
    uint32_t magic;
    unsigned users;
    struct fv_pd *next;
};

struct fv_mr {
    struct ibv_mr v;
    uint32_t magic;
    uint8_t *base; // where `iova` lies in this process
    uint64_t iova;
    int access;
    bool mapped; // by us, from a descriptor
    struct fv_mr *next;
};

struct fv_channel {
    struct ibv_comp_channel v;
    uint32_t magic;
    int write_fd;
    struct fv_channel *next;
};

struct fv_qp;
struct fv_cqe {
    struct ibv_wc wc;
    struct fv_qp *qp;
    uint64_t retires; // this entry gives the queue's work requests before this one back
    bool send, signaled, solicited;
};

struct fv_cq {
    struct ibv_cq v;
    uint32_t magic, id;
    unsigned users; // queue pairs
    unsigned events_got, events_acked, async_got, async_acked;
    struct fv_cq *next;

    pthread_mutex_t lock; // for all below
    struct fv_cqe *entries;
    unsigned head, capacity;
    _Atomic unsigned count;
    int armed; // 0 no, 1 any entry, 2 solicited only
    bool broken;
    uint64_t rng;
};

// A send work request.
struct fv_wqe {
    uint64_t wr_id, raddr, compare_add, swap;
    enum ibv_wr_opcode op;
    uint32_t imm, rkey, length;
    uint32_t psn, packets;
    bool signaled, solicited, fence, inlined, answered;
    uint32_t got; // bytes of the answer to a read
    int nsge;
    struct ibv_sge sge[FV_SGE];
    uint64_t sum;  // of the source, when it was posted
    uint8_t *data; // of an inline request
};

struct fv_rqe {
    uint64_t wr_id;
    int nsge;
    uint64_t length;
    struct ibv_sge sge[FV_SGE];
};

// A message that arrives. Its pieces may be placed at any time before it is delivered.
struct fv_piece {
    struct fv_piece *next;
    struct fv_buf *buf;
    struct iovec to[FV_SGE];
    struct fv_mr *mr[FV_SGE];
    int n;
    uint64_t due;
};
struct fv_msg {
    struct fv_msg *next;
    struct fv_piece *pieces;
    bool complete, has_cqe, ack_late;
    struct fv_cqe cqe;
    uint64_t due;
    uint32_t last_psn;
};

// The answer to a read or an atomic operation, to be sent.
struct fv_answer {
    struct fv_answer *next;
    uint32_t psn, length, offset, rkey;
    uint64_t raddr, value;
    bool atomic, again;
};

struct fv_qp {
    struct ibv_qp v;
    uint32_t magic;
    struct fv_nic *nic;
    struct fv_qp *next;
    enum ibv_qp_state state;
    struct ibv_qp_attr attr;
    struct ibv_qp_init_attr init;
    unsigned async_got, async_acked;
    uint8_t gid_type;
    uint8_t sgid[16];

    // Requester. Counters of work requests: tail <= una <= tx <= head.
    struct fv_wqe *sq;
    uint64_t sq_head, sq_tx, sq_una;
    _Atomic uint64_t sq_tail; // before it everything is the application's again
    _Atomic int signaled;     // between tail and head
    uint32_t tx_packet;       // of the request `sq_tx`
    uint32_t next_psn, acked, sent_psn;
    unsigned reads, retries, rnr_retries;
    uint64_t timer, rnr_until; // 0: none
    bool flush;

    // Responder.
    struct fv_rqe *rq;
    uint64_t rq_head, rq_next;
    _Atomic uint64_t rq_tail;
    uint32_t epsn;
    bool nak_sent, ack_due, established;
    uint8_t nak_due, rnr_code;
    struct fv_msg *msgs, **msgs_end, *msg; // msg: the one whose packets arrive now
    uint64_t last_due;
    unsigned since_ack;
    struct fv_answer *answers, **answers_end;
    unsigned nanswers; // without those that are given again
    struct {
        uint32_t psn;
        uint64_t value;
        bool valid;
    } atomics[FV_RD_ATOMIC];
    unsigned next_atomic;

    struct fv_buf *queue, **queue_end; // arrived, but delayed
    uint64_t queue_due;
};

struct fv_out {
    uint32_t nic;
    int fd;
    bool blocked;
};

struct fv_slot; // registry.c

// An opened device.
struct fv_nic {
    struct verbs_context v;
    struct fv_device device;
    uint32_t id;
    unsigned generation; // of the process: a child's differs
    struct fv_slot *slot;
    struct fv_nic *next;
    int dirfd, event_fd, listen_fd, inotify_fd, async_write;
    _Atomic bool kicked;
    bool stop, stopped;

    pthread_mutex_t lock; // for all below
    struct fv_faults faults;
    uint64_t faults_since, faults_seen;
    bool cut, gone, down[256];
    uint64_t rng;
    unsigned registrations, open_async;
    uint32_t next_qpn, next_key, next_cq;
    struct fv_qp *qp[1u << FV_QPN_BITS];
    struct fv_qp *qps;
    struct fv_mr *mrs[256];
    struct fv_pd *pds;
    struct fv_cq *cqs;
    struct fv_channel *channels;
    unsigned nqps, nmrs, npds, ncqs, nchannels;
    void **graves;
    size_t ngraves;

    // The NIC thread's own.
    struct fv_out *out;
    unsigned nout, ncap_out;
    int *in;
    unsigned nin, ncap_in;
    struct fv_buf *spare;
    unsigned nspare;
    uint8_t *bounce; // only with the thread sanitizer
};

#define FV_CONTAINER(ptr, type, member) ((type *)(void *)((char *)(ptr)-offsetof(type, member)))

// Of this process, for fake_verbs_count().
struct fv_counters {
    _Atomic long registrations, registered_bytes, rnr_naks, timeouts, naks;
};
extern struct fv_counters fv_counters;

// ---- rule.c --------------------------------------------------------------------------------------

// A misuse: says so and aborts, or returns where FAKE_VERBS_LENIENT is 1.
void fv_rule(const char *name, const char *format, ...) FV_PRINTF(2, 3);
uint64_t fv_now(void); // ns, monotonic
uint64_t fv_random(uint64_t *state);
// True for `percent` of the calls.
bool fv_chance(uint64_t *state, unsigned percent);
uint64_t fv_sum(uint64_t sum, const void *data, size_t bytes);
const char *fv_state_name(enum ibv_qp_state state);

// ---- config.c, faults.c, registry.c --------------------------------------------------------------

// False: FAKE_VERBS_DIR is not set.
bool fv_config_read(struct fv_config *c);
void fv_gid(const struct fv_config *c, unsigned device, unsigned port, unsigned index,
            uint8_t gid[16], uint8_t *type);
uint16_t fv_lid(const struct fv_config *c, unsigned device, unsigned port);

void fv_faults_default(struct fv_faults *f);
// Reads "key=value,..."; keys may have a device in front: "fake1.cut=0:500". Unknown ones are a misuse.
void fv_faults_parse(struct fv_faults *f, const char *text, const char *device);
void fv_faults_set(struct fv_nic *nic, const struct fv_faults *f);
// What is due by time. Returns when to look again.
uint64_t fv_faults_tick(struct fv_nic *nic, uint64_t now);
void fv_faults_watch(struct fv_nic *nic);
void fv_faults_read_file(struct fv_nic *nic);

// Takes a number for an opened device; 0 and errno when there is none.
uint32_t fv_registry_take(struct fv_nic *nic);
void fv_registry_give(struct fv_nic *nic);
void fv_registry_awake(struct fv_nic *nic, bool awake);
// The process behind a number: answers, is stopped or at work and will answer, is gone.
enum fv_life { FV_IDLE, FV_BUSY, FV_GONE };
enum fv_life fv_registry_life(const struct fv_nic *nic, uint32_t id);

// ---- device.c ------------------------------------------------------------------------------------

static inline struct fv_nic *fv_nic_of(const struct ibv_context *context) {
    return FV_CONTAINER(context, struct fv_nic, v.context);
}
// For every call: the context was not made before a fork(). Locks where it says so.
struct fv_nic *fv_enter(const struct ibv_context *context);
struct fv_nic *fv_enter_locked(const struct ibv_context *context);
static inline void fv_leave(struct fv_nic *nic) { pthread_mutex_unlock(&nic->lock); }
void fv_check_alive(uint32_t magic, const char *what, const char *call);
// Keeps a destroyed object's memory.
void fv_bury(struct fv_nic *nic, void *object);
// fcntl() and all; -1 on error.
int fv_pipe(int fds[2]);
void fv_port_attr(struct fv_nic *nic, unsigned port, struct ibv_port_attr *attr);
extern unsigned fv_generation;

// ---- mr.c ----------------------------------------------------------------------------------------

// The memory behind [addr, addr+bytes) of a key; NULL: `why` says what is wrong.
uint8_t *fv_mr_local(struct fv_nic *nic, struct ibv_pd *pd, const struct ibv_sge *sge, int access,
                     struct fv_mr **mr, const char **why);
uint8_t *fv_mr_remote(struct fv_nic *nic, struct ibv_pd *pd, uint32_t rkey, uint64_t addr,
                      uint64_t bytes, int access, struct fv_mr **mr);

// ---- peer.c --------------------------------------------------------------------------------------

// A mapping of ours of memory that devices find by its address; NULL: it is not such.
uint8_t *fv_peer_map(const void *addr, size_t length);
// Whether a processor may read it.
bool fv_readable(const void *addr, size_t length);

// ---- cq.c, event.c -------------------------------------------------------------------------------

void fv_cq_push(struct fv_cq *cq, const struct fv_cqe *e);
// Removes a queue pair's entries.
void fv_cq_clean(struct fv_cq *cq, const struct fv_qp *qp);
int fv_poll_cq(struct ibv_cq *cq, int n, struct ibv_wc *wc);
int fv_req_notify_cq(struct ibv_cq *cq, int solicited_only);
void fv_event_port(struct fv_nic *nic, enum ibv_event_type type, unsigned port);
void fv_event_qp(struct fv_qp *qp, enum ibv_event_type type);
void fv_event_cq(struct fv_cq *cq, enum ibv_event_type type);
// Removes the records of a pipe that name `id`, so that nobody reads of what is destroyed.
void fv_pipe_remove(int read_fd, int write_fd, size_t record, size_t at, uint32_t id);

// ---- post.c, qp.c --------------------------------------------------------------------------------

int fv_post_send(struct ibv_qp *qp, struct ibv_send_wr *wr, struct ibv_send_wr **bad);
int fv_post_recv(struct ibv_qp *qp, struct ibv_recv_wr *wr, struct ibv_recv_wr **bad);
// Whether the queue pair's requests that are not the application's again use the key.
bool fv_qp_uses(const struct fv_qp *qp, uint32_t lkey);
// To the error state. Everything that is posted is flushed by the NIC thread, a little later.
void fv_qp_fail(struct fv_qp *qp);
void fv_qp_free(struct fv_qp *qp);

// ---- nic.c, link.c -------------------------------------------------------------------------------

int fv_nic_start(struct fv_nic *nic);
void fv_nic_stop(struct fv_nic *nic);
void fv_kick(struct fv_nic *nic);
// In a child: nothing of the parent's may stay open in it.
void fv_nic_abandon(struct fv_nic *nic);

enum fv_sent { FV_SENT, FV_BLOCKED };
// Fills what every packet of a queue pair has.
void fv_packet_init(const struct fv_qp *qp, struct fv_packet *p, enum fv_type type);
// Sends, or loses as a network does. FV_BLOCKED: later, when the NIC thread says so.
enum fv_sent fv_send(struct fv_qp *qp, struct fv_packet *p, const struct iovec *iov, int n);
struct fv_buf *fv_buf_take(struct fv_nic *nic);
void fv_buf_give(struct fv_nic *nic, struct fv_buf *b);
int fv_listen(struct fv_nic *nic);
// False: there are no descriptors left.
bool fv_link_accept(struct fv_nic *nic);
// Reads one packet; 0 nothing there, -1 the connection is closed.
int fv_link_receive(int fd, struct fv_buf *b);
// Bytes that the other end has not read yet.
unsigned fv_link_unread(const struct fv_nic *nic, uint32_t id);
void fv_link_close(struct fv_nic *nic);
// The queue pair that a packet is for, when it gets there and is right; else NULL: it is dropped.
struct fv_qp *fv_route(struct fv_nic *nic, const struct fv_packet *p);

static inline uint32_t fv_psn(uint32_t n) { return n & 0xffffffu; }
// a - b of two packet numbers
static inline int32_t fv_psn_diff(uint32_t a, uint32_t b) {
    return (int32_t)(fv_psn(a - b) << 8) >> 8;
}

// ---- requester.c ---------------------------------------------------------------------------------

// Sends one packet if it may; true if it did.
bool fv_requester_send(struct fv_qp *qp, uint64_t now);
void fv_requester_answer(struct fv_qp *qp, struct fv_buf *b, uint64_t now);
// What the clock asks for; and when it will.
void fv_requester_timer(struct fv_qp *qp, uint64_t now);
uint64_t fv_requester_due(const struct fv_qp *qp);
void fv_requester_flush(struct fv_qp *qp);
void fv_requester_free(struct fv_qp *qp);
struct fv_cqe fv_send_cqe(struct fv_qp *qp, const struct fv_wqe *w, enum ibv_wc_status status);

// ---- responder.c, place.c ------------------------------------------------------------------------

// Takes the buffer when it returns true.
bool fv_responder_request(struct fv_qp *qp, struct fv_buf *b, uint64_t now);
// Sends acknowledgements and answers; true if it sent something.
bool fv_responder_send(struct fv_qp *qp);
void fv_responder_error(struct fv_qp *qp, enum fv_nak code, enum ibv_event_type event);
void fv_responder_flush(struct fv_qp *qp);
struct fv_cqe fv_recv_cqe(struct fv_qp *qp, const struct fv_rqe *r, enum ibv_wc_status status);

struct fv_msg *fv_msg_begin(struct fv_qp *qp);
// Takes the buffer.
void fv_msg_piece(struct fv_qp *qp, struct fv_msg *m, struct fv_buf *b, const struct iovec *to,
                  struct fv_mr *const *mr, int n, uint64_t now);
void fv_msg_end(struct fv_qp *qp, struct fv_msg *m, uint64_t now);
// What is due is placed and delivered; returns when to look again.
uint64_t fv_msg_tick(struct fv_qp *qp, uint64_t now);
// Places everything that has arrived, now.
void fv_msg_place(struct fv_qp *qp);
// Delivers what is complete, forgets the rest.
void fv_msg_flush(struct fv_qp *qp);

// ---- Unordered time ------------------------------------------------------------------------------

#define FV_NEVER UINT64_MAX
static inline uint64_t fv_min(uint64_t a, uint64_t b) { return a < b ? a : b; }

#endif
