// SPDX-License-Identifier: MIT
// The TCP transport's private structs, and what its files call of each other.
//
//   hello.c frame.c route.c    pure: bytes and structs
//   sock.c                     sockets: options, names
//   path.c                     one connection: life, epoll, handshake
//   connect.c accept.c         how a link's connections come to be, on either end
//   stall.c                    ways that are silent, where a link has others
//   link.c                     a link's life: up, lost, failed, closed
//   tx.c rx.c                  frames
//   seal.c sealed.c            encryption: records; what of them is on its way (option encrypt)
//   net.c                      the function table, progress, sleep
//
// A link is a bundle of *paths* (connections). A path's life:
//
//   connector   CONNECTING -> SHAKING -> READY ------------> OPEN -> (CLOSING)
//   acceptor                  SHAKING -> PARKED -> SHAKING -> OPEN -> (CLOSING)
//                                    \-> ANSWERED     (refused, or only a probe)
//
// The paths of a link come and go together: it is UP when all are OPEN, and when one is lost all are closed
// and a new set is built under the next epoch (or the next attempt within an epoch).
#ifndef RDI_TRANSPORT_TCP_TCP_H
#define RDI_TRANSPORT_TCP_TCP_H

#include "transport/tcp/frame.h"
#include "transport/tcp/hello.h"
#include "transport/tcp/seal.h"

#include <sys/socket.h>

#define RDI_TCP_STAGING (16u << 10) // bytes read ahead of the frame that they belong to
#define RDI_TCP_CTL (8u << 10)      // bytes of ACK, CTRL and BYE frames that wait for the kernel
#define RDI_TCP_HOT 4               // paths that are read without asking epoll first
#define RDI_TCP_NAME 72             // "[address%scope]:port"

#define RDI_MS UINT64_C(1000000)

struct rdi_tcp_net;
struct rdi_tcp_link;

enum rdi_tcp_stage {
    RDI_TCP_CLOSED,     // no socket
    RDI_TCP_CONNECTING, // waits for connect()
    RDI_TCP_SHAKING,    // handshake under way
    RDI_TCP_PARKED,     // proven; waits for the link's other paths
    RDI_TCP_ANSWERED,   // was told all there is to tell; waits for the peer to close
    RDI_TCP_READY,      // welcomed; waits for the link's other paths
    RDI_TCP_OPEN,       // frames flow
    RDI_TCP_CLOSING,    // its link is gone; last bytes are on their way
};

// What an epoll event points to.
enum rdi_tcp_source { RDI_TCP_LISTENER, RDI_TCP_PATH };

struct rdi_tcp_listener {
    enum rdi_tcp_source source;
    int fd;
};

// Receiving: `buf` holds the bytes [off, fill) of frames that are not taken apart yet; while `left` > 0 the
// stream continues with that many bytes of message `head`, which belong at `to`.
struct rdi_tcp_rx {
    uint64_t next; // receiver: number of the next message on this path
    struct rdi_tcp_frame head;
    uint8_t *to;
    uint32_t left;
    uint32_t off, fill;
    uint8_t buf[RDI_TCP_STAGING];
};

// Sending. `off` bytes of message `next` (header, signature, payload) are in the kernel already.
struct rdi_tcp_tx {
    uint64_t next; // sender: first message of this path that is not wholly in the kernel
    uint32_t off;
    bool blocked; // the kernel's buffer was full
    bool dead;    // sending failed; reading will tell how the connection ended
    int error;    // errno of that
    uint32_t ctl_off, ctl_len;
    uint8_t ctl[RDI_TCP_CTL];
};

// What a sealed connection has besides: `in` holds the bytes [in_off, in_fill) of records that are not opened yet,
// `out` those of out_len bytes from out_off on that are not in the kernel yet. Behind what is out there is always room
// for the last record, which holds all of tx.ctl.
#define RDI_TCP_SEALED_FULL (RDI_SEAL_PREFIX + RDI_SEAL_MIX + RDI_SEAL_BIG + 2 * RDI_SEAL_MORE)
struct rdi_tcp_sealed {
    struct rdi_seal seal;
    uint32_t in_off, in_fill;
    uint32_t in_want; // bytes that the record at in_off has, or more than are there
    bool in_big;      // the one before was big
    uint32_t out_off, out_len;
    uint8_t in[RDI_TCP_SEALED_FULL + RDI_TCP_STAGING];
    uint8_t out[RDI_TCP_SEALED_FULL + RDI_TCP_CTL + RDI_SEAL_MORE];
};
_Static_assert(RDI_TCP_CTL <= RDI_SEAL_MIX, "tx.ctl fits into one record");

struct rdi_tcp_path {
    enum rdi_tcp_source source;
    enum rdi_tcp_stage stage;
    int fd;
    uint32_t events; // that epoll watches for
    struct rdi_tcp_net *net;
    struct rdi_tcp_link *link; // NULL while nothing is proven, and when CLOSING
    unsigned index;            // which of the link's paths
    unsigned route;            // connector: which of the link's routes
    bool probe;                // connector: only asks whether the peer lives
    bool reserve;              // acceptor: lives on the spare descriptor
    bool hot;
    bool said_bye;         // nothing follows on this path, and its end is no loss
    bool over;             // it has ended after that
    unsigned misses;       // reads in a row that found nothing, while hot
    uint64_t silent_since; // when the kernel was first seen to repeat itself; 0 = it does not
    uint64_t deadline;     // while on the net's list
    struct rdi_tcp_path *prev, *next; // the net's list of paths without a link; the graveyard
    struct sockaddr_storage local, remote;
    struct rdi_tcp_sealed *sealed; // OPEN and CLOSING with option encrypt; else NULL
    struct rdi_hs hs;
    struct rdi_tcp_rx rx;
    struct rdi_tcp_tx tx;
};

// A message under way from us, in slot seq % slots.
struct rdi_tcp_out {
    const void *data;
    uint32_t len;
    uint32_t head_len;
    uint8_t head[RDI_TCP_HEAD_MAX];
};

// A message that arrives or has arrived, in slot seq % slots.
struct rdi_tcp_in {
    void *data;
    uint64_t tag;
    uint32_t len;
    bool whole, has_sig;
    uint8_t sig[RDI_SIG_BYTES];
};

struct rdi_tcp_link {
    struct rdi_link base;
    struct rdi_tcp_link *prev, *next; // all links of the net; the graveyard
    struct rdi_tcp_link *next_dirty;
    bool dirty;  // on the net's list of links that want attention
    bool gone;   // closed; its memory waits for the end of progress()
    bool was_up; // this end has been UP: the peer must remember the link
    bool railed; // while UP: its paths leave by several addresses
    bool stalls; // while UP: there are other ways when one is silent
    uint64_t session;
    uint32_t attempt;
    char host[RDI_HOST_MAX]; // the peer's
    unsigned npaths;
    struct rdi_tcp_path *paths[RDI_TCP_PATHS];
    uint64_t deadline; // CONNECTING, and LOST on the receiver: when to give up
    bool bye;          // the peer said good-bye after message bye_at
    uint64_t bye_at;
    char reason
        [RDI_TCP_TEXT]; // sender: why the last attempt failed; receiver: the ways that were lost

    // Sender.
    struct rdi_tcp_out *out;
    uint64_t ack_wanted; // messages up to here are waited for
    struct rdi_tcp_route routes[RDI_TCP_ROUTES];
    unsigned nroutes;
    bool down[RDI_TCP_ROUTES]; // routes that could not be used
    bool others;               // there are more than those in use
    uint32_t told;             // bits of those of which it was logged
    unsigned suspect;          // 1 + the route that the path was lost on; 0 = not known
    struct sockaddr_storage
        unsure; // the rail that was silent, with no proof against it, at unsure_at (0: never)
    uint64_t unsure_at;
    uint64_t attempt_at, retry_at, refused_since;
    uint64_t tried_at; // when the present ones were first tried
    unsigned backoff_ms, refused_route;
    rondo_status reason_status;

    // Receiver.
    struct rdi_tcp_in *in;
    uint8_t *memory; // slots * max_msg bytes, mapped
    bool accepted;   // the engine owns it
    bool ack_now;    // acknowledge at release() or the next progress()
    uint64_t told_arrived, told_released;
    struct rdi_tcp_path *probe; // while LOST: asks whether the sender's process lives
    struct sockaddr_storage probe_to, probe_from;
    uint64_t probe_at;
    bool probe_answered;
};

struct rdi_tcp_net {
    struct rdi_net base;
    int epfd;
    int spare;         // a descriptor kept for telling a peer that we have no more; -1 = in use
    uint64_t spare_at; // when to try to get it back; 0 = it is there or in use
    struct rdi_tcp_blob self; // our addresses
    struct rdi_tcp_listener listeners[RDI_TCP_ADDRS];
    bool listening; // listeners are watched
    bool encrypt;
    uint32_t slots, max_msg, sockets;
    unsigned grace_ms, connect_ms;
    struct rdi_tcp_link *links, *dirty, *dead_links;
    unsigned unsettled; // links CONNECTING or LOST: they have timers
    unsigned stalls;    // links UP that have several ways
    uint64_t look_at;   // when to look for silent ones
    struct rdi_tcp_path *loose_head, *loose_tail, *dead_paths; // loose: oldest first
    unsigned half_open; // loose paths that have proved nothing yet
    struct rdi_tcp_path *hot[RDI_TCP_HOT];
    unsigned tick;  // calls of progress()
    unsigned idle;  // such calls in a row that moved nothing
    unsigned depth; // > 0: within progress(), so memory is kept
    uint64_t limit_logged;
};

static inline struct rdi_tcp_net *rdi_tcp_net_of(const struct rdi_tcp_link *l) {
    return (struct rdi_tcp_net *)l->base.net;
}
static inline uint64_t rdi_tcp_now(const struct rdi_tcp_net *n) {
    return rdi_now(&n->base.params.env);
}

// ---- sock.c --------------------------------------------------------------------------------------

socklen_t rdi_tcp_sockaddr(const struct rdi_tcp_addr *a, uint16_t port,
                           struct sockaddr_storage *out);
// "10.0.0.1:4711", "[fe80::1%2]:4711".
void rdi_tcp_name(const struct sockaddr_storage *a, char out[RDI_TCP_NAME]);
// "10.0.0.1", "[fe80::1%2]".
void rdi_tcp_ip_name(const struct sockaddr_storage *a, char out[RDI_TCP_NAME]);
void rdi_tcp_ip(const struct rdi_tcp_addr *a, char out[RDI_TCP_NAME]);
// A listening socket on a->ip; sets a->port. The descriptor, or -errno.
int rdi_tcp_listen(struct rdi_tcp_addr *a);
// Starts to connect from one address (its port is ignored) to another. The descriptor, or -errno.
int rdi_tcp_dial(const struct sockaddr_storage *from, const struct sockaddr_storage *to);
// Options that every data connection has.
void rdi_tcp_tune(int fd, const struct rdi_tcp_net *n, bool own_host);
bool rdi_tcp_same_ip(const struct sockaddr_storage *a, const struct sockaddr_storage *b);
// Says that descriptors ran out and what to do, for any error text.
void rdi_tcp_limit_text(char *out, size_t cap);

// ---- path.c --------------------------------------------------------------------------------------

// A path around a socket that it owns from now on; NULL when memory or epoll refuses (then fd is closed).
struct rdi_tcp_path *rdi_tcp_path_new(struct rdi_tcp_net *n, int fd, enum rdi_tcp_stage stage);
// Closes the socket now; the memory goes at the end of progress(). Takes it off every list but link->paths.
void rdi_tcp_path_close(struct rdi_tcp_path *p);
void rdi_tcp_path_watch(struct rdi_tcp_path *p, uint32_t events);
// Nothing of it is of interest any more. Without events a reset would still be told, again and again.
void rdi_tcp_path_forget(struct rdi_tcp_path *p);
// Has the path read by progress(busy) without asking epoll, and no more.
void rdi_tcp_path_heat(struct rdi_tcp_path *p);
void rdi_tcp_path_cool(struct rdi_tcp_path *p);
void rdi_tcp_loose_add(struct rdi_tcp_path *p, uint64_t deadline);
void rdi_tcp_loose_remove(struct rdi_tcp_path *p);
// Frees what was closed. Not within progress().
void rdi_tcp_reap(struct rdi_tcp_net *n);

enum rdi_tcp_shaken { RDI_TCP_WAIT, RDI_TCP_PROVEN, RDI_TCP_DONE, RDI_TCP_REFUSED, RDI_TCP_BROKEN };
// Moves the handshake as far as it goes now. REFUSED: hs.error and hs.why tell. BROKEN: the socket failed
// (*err) or was closed by the peer (*err 0).
enum rdi_tcp_shaken rdi_tcp_shake(struct rdi_tcp_path *p, int *err);

// Gives a path that said all it had to the kernel and forgets it: remaining bytes of tx.ctl, then an orderly
// end, all within seconds.
void rdi_tcp_path_linger(struct rdi_tcp_path *p);
int rdi_tcp_linger_event(struct rdi_tcp_path *p);

// ---- connect.c -----------------------------------------------------------------------------------

// Builds a new set of paths for a CONNECTING sender.
void rdi_tcp_connect_start(struct rdi_tcp_link *l);
int rdi_tcp_connect_event(struct rdi_tcp_path *p, uint32_t events);
void rdi_tcp_connect_tick(struct rdi_tcp_link *l, uint64_t now);
// When tick() wants to be called next.
uint64_t rdi_tcp_connect_next(const struct rdi_tcp_link *l);
// The next attempt does without the rail whose loss was the link's.
void rdi_tcp_leave_suspect(struct rdi_tcp_link *l);
// A LOST receiver asks whether the sender's process lives.
void rdi_tcp_probe_tick(struct rdi_tcp_link *l, uint64_t now);

// ---- stall.c -------------------------------------------------------------------------------------

// What a look at a path of an UP link shows.
struct rdi_tcp_signs {
    bool known;     // it is in use, has not said good-bye, and the kernel told; else tries is 0
    unsigned rail;  // the same for those that leave by the same address
    unsigned tries; // how often the kernel has repeated in vain what is first in line
    uint64_t silent_for; // ns since that was first seen
    unsigned heard_ms;   // since anything was acknowledged
};
enum rdi_tcp_verdict {
    RDI_TCP_LIVELY,    // none is silent for too long
    RDI_TCP_RAIL_DEAD, // path *which is, and another rail works
    RDI_TCP_UNSURE,    // path *which is, and nothing is known of some path by another rail
    RDI_TCP_ALL_MUTE,  // path *which is, and those by other rails, if any, get no answer either
};
// Pure. `most`: tries that are too many.
enum rdi_tcp_verdict rdi_tcp_stall_judge(const struct rdi_tcp_signs *s, unsigned count,
                                         unsigned most, unsigned *which);
// A link comes up: whether it has several ways.
void rdi_tcp_stall_begin(struct rdi_tcp_link *l);
// Takes links for LOST that have several ways, one of which is silent.
void rdi_tcp_stall_tick(struct rdi_tcp_net *n, uint64_t now);

// ---- accept.c ------------------------------------------------------------------------------------

int rdi_tcp_accept(struct rdi_tcp_net *n, struct rdi_tcp_listener *from);
int rdi_tcp_accept_event(struct rdi_tcp_path *p);
// Drops paths without a link whose time is over, and listens again after descriptors ran out.
void rdi_tcp_accept_tick(struct rdi_tcp_net *n, uint64_t now);
void rdi_tcp_accept_timeout(struct rdi_tcp_link *l, uint64_t now);
void rdi_tcp_spare_returned(struct rdi_tcp_net *n);

// ---- link.c --------------------------------------------------------------------------------------

struct rdi_tcp_link *rdi_tcp_link_new(struct rdi_tcp_net *n, const struct rdi_link_id *id,
                                      bool sender);
// Memory for slots, once their number and size are agreed.
rondo_status rdi_tcp_link_slots(struct rdi_tcp_link *l, uint32_t slots, uint32_t max_msg);
void rdi_tcp_link_state(struct rdi_tcp_link *l, enum rdi_link_state state);
void rdi_tcp_link_up(struct rdi_tcp_link *l);
void rdi_tcp_link_lost(struct rdi_tcp_link *l, const struct rdi_tcp_path *p, const char *what,
                       int err);
void rdi_tcp_link_fail(struct rdi_tcp_link *l, rondo_status s, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
void rdi_tcp_link_bye(struct rdi_tcp_link *l);
void rdi_tcp_link_drop_paths(struct rdi_tcp_link *l);
void rdi_tcp_link_free(struct rdi_tcp_link *l);
void rdi_tcp_link_dirty(struct rdi_tcp_link *l);
int rdi_tcp_peer_rank(const struct rdi_tcp_link *l);
// "rank 3 on host b".
const char *rdi_tcp_peer_name(const struct rdi_tcp_link *l, char *buf, size_t cap);

rondo_status rdi_tcp_op_connect(struct rdi_net *net, const struct rdi_link_id *id, const void *blob,
                                size_t len, struct rdi_link **out);
rondo_status rdi_tcp_op_reset(struct rdi_link *link, uint32_t epoch);
void rdi_tcp_op_close_link(struct rdi_link *link, bool bye);
void rdi_tcp_op_describe(struct rdi_link *link, char *buf, size_t cap);

// ---- tx.c ----------------------------------------------------------------------------------------

rondo_status rdi_tcp_op_put(struct rdi_link *link, const struct rdi_put *put);
bool rdi_tcp_op_delivered(struct rdi_link *link);
rondo_status rdi_tcp_op_ctrl(struct rdi_link *link, unsigned type, const void *msg, size_t len);
bool rdi_tcp_tx_frame(struct rdi_tcp_path *p, const struct rdi_tcp_frame *f, const void *payload);
bool rdi_tcp_tx_pending(const struct rdi_tcp_path *p);
int rdi_tcp_tx(struct rdi_tcp_path *p);
// Tells the sender what arrived and what was released.
int rdi_tcp_tx_ack(struct rdi_tcp_link *l);
// What a dirty link wants. `all`: before sleep, also what may be put off, and without upcalls.
int rdi_tcp_tx_flush(struct rdi_tcp_link *l, bool all);

// ---- sealed.c ------------------------------------------------------------------------------------

// Its handshake is DONE: all that follows is sealed. False: no memory.
bool rdi_tcp_sealed_begin(struct rdi_tcp_path *p);
// Wipes the keys.
void rdi_tcp_sealed_end(struct rdi_tcp_path *p);
// As recv(); *asked is how much there was room for.
ssize_t rdi_tcp_sealed_recv(struct rdi_tcp_path *p, size_t *asked);
// The next record; *plain is how much it holds if it is WHOLE. Then sealed_open() has it once it has proved itself.
enum rdi_seal_found rdi_tcp_sealed_next(struct rdi_tcp_path *p, size_t *plain);
bool rdi_tcp_sealed_open(struct rdi_tcp_path *p, uint8_t *out);
// Seals at most RDI_SEAL_BIG bytes; false: there is no room until more has gone. send() as its namesake.
bool rdi_tcp_sealed_add(struct rdi_tcp_path *p, const void *plain, size_t n);
ssize_t rdi_tcp_sealed_send(struct rdi_tcp_path *p);
// Seals what is in tx.ctl, after which nothing more can be added.
void rdi_tcp_sealed_last(struct rdi_tcp_path *p);

// ---- rx.c ----------------------------------------------------------------------------------------

void rdi_tcp_op_peek(struct rdi_link *link, uint64_t seq, struct rdi_msg *out);
void rdi_tcp_op_release(struct rdi_link *link, uint64_t upto);
// Reads what is there, up to a budget. Makes upcalls; the path may be closed afterwards.
int rdi_tcp_rx(struct rdi_tcp_path *p);
// Whether bytes were read that are not taken apart.
bool rdi_tcp_rx_waits(const struct rdi_tcp_path *p);

// ---- For tests -----------------------------------------------------------------------------------

// Breaks a path of an UP link as a failing network would, without telling either end. False: no such path.
bool rdi_tcp_test_cut(struct rdi_link *link, unsigned path);
unsigned rdi_tcp_test_paths(const struct rdi_link *link);

#endif
