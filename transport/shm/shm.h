// SPDX-License-Identifier: MIT
// The shared-memory transport's private header: net, link, peer.
//
// A link lives through these phases. Only rendezvous.c changes them up to UP.
//
//   sender    TRY -> SHAKE -> REGION -> VERDICT -> UP -> OVER        TRY again when the connection ends early
//   receiver         SHAKE -> BELL  ------------> UP -> OVER        dropped when the connection ends early
#ifndef RDI_SHM_SHM_H
#define RDI_SHM_SHM_H

#include "transport/shm/copy.h"
#include "transport/shm/layout.h"
#include "transport/shm/wire.h"

// Payload of at least this much goes by reference where that is possible: below it a copy, well under a
// microsecond, costs less than to wait until the receiver gives the source back.
#define SHM_REFERENCE_MIN (16u << 10)
#define SHM_BLOCKS_MAX 1024u // blocks that one link knows at a time

// What an epoll event belongs to. Objects are freed only when no event can name them any more.
enum shm_kind { SHM_LISTENER, SHM_OWN_BELL, SHM_PEER, SHM_LINK };
struct shm_source {
    enum shm_kind kind;
    void *object;
    struct shm_source *next_grave;
};

// Another process: how to wake it and how to see that it ended. Shared by all links to it.
struct shm_peer {
    struct shm_source source; // of pidfd
    struct shm_peer *next;
    uint8_t name[SHM_NAME_BYTES];
    uint32_t refs;
    int eventfd;
    int pidfd;                   // -1: not available; then a hang-up has to tell
    const struct shm_bell *bell; // read only
    uint64_t rang;               // the sleep that we have ended already
};

// A block of ours that a link's receiver may read (sender's end).
enum shm_lent_state { SHM_LENT_NONE, SHM_LENT_OFFERED, SHM_LENT_MAPPED, SHM_LENT_REFUSED };
struct shm_lent {
    enum shm_lent_state state;
    bool freed;         // by its owner: to be taken back
    uint32_t in_flight; // messages that refer to it and are not released
    uint64_t id;
};

// A block of the sender's, mapped by the receiver.
enum shm_answer { SHM_ANSWER_NONE, SHM_ANSWER_MAPPED, SHM_ANSWER_REFUSED };
struct shm_borrowed {
    const uint8_t *map; // NULL: the handle is not in use
    size_t bytes;
    uint32_t refs;          // messages that arrived, refer to it and are not released
    enum shm_answer answer; // still to be sent
};

// What either end remembers of a slot that is in use, so that nothing is read from shared memory twice.
struct shm_used {
    uint64_t tag;
    const void *data, *sig;
    uint32_t len;
    uint32_t flags;
    uint32_t handle; // when SHM_BY_REFERENCE
};

enum shm_phase {
    SHM_TRY,
    SHM_SHAKE,
    SHM_WAIT_REGION,
    SHM_WAIT_BELL,
    SHM_WAIT_VERDICT,
    SHM_UP,
    SHM_OVER, // FAILED, CLOSED or closed; maps stay until close_link()
};

// Records that wait for room in the socket.
enum { SHM_DUE_REGION = 1, SHM_DUE_BELL = 2, SHM_DUE_VERDICT = 4, SHM_DUE_ANSWERS = 8 };

struct shm_net;
struct shm_link {
    struct rdi_link base; // first, so that a pointer to it is a pointer to this
    struct shm_source source;
    struct shm_net *net;
    size_t index; // in net->links
    enum shm_phase phase;
    bool announced; // the engine knows it, and closes it
    int fd;
    uint32_t peer_pid; // as it says of itself
    int32_t cred_pid;  // as the kernel sees it from here; 0: in a PID namespace that we cannot see
    struct shm_peer *peer;

    struct shm_region region;
    struct shm_side *mine; // our line in the region
    const struct shm_side *theirs;
    struct shm_ctrl *ctrl_out;
    const struct shm_ctrl *ctrl_in;
    struct shm_used *used;           // one a slot
    uint64_t told_released;          // receiver: as last published; sender: as last seen
    uint64_t ctrl_posted, ctrl_room; // ours: written; written and consumed by the peer
    uint64_t ctrl_taken;             // the peer's that we consumed

    struct shm_copier copier; // sender
    struct shm_lent *lent;
    struct shm_borrowed *borrowed;
    uint32_t n_lent, n_borrowed, last_lent;

    // Rendezvous only.
    unsigned due;
    bool refused; // the reply says no: dropped once it is sent
    struct rdi_hs *hs;
    int region_fd;
    struct shm_address address; // of the peer; a receiver knows the name only
    uint64_t deadline, next_try, backoff;
    uint64_t refused_since; // nobody has listened where the peer was to; 0: somebody does
    char last_problem[128];
};

struct shm_net {
    struct rdi_net base;
    uint32_t slots, max_msg;
    bool zero_copy;
    uint64_t connect_ns;
    struct shm_address address;

    int epoll, listener, eventfd, bell_fd;
    int spare; // a descriptor to give up for accepting a connection when there are no others
    struct shm_source listen_source, bell_source;
    struct shm_bell *bell;
    uint64_t word; // as in *bell

    struct shm_link **links; // with holes while scanning
    size_t n_links, cap_links, holes, young;
    struct shm_peer *peers;
    struct shm_source *graves;
    unsigned scanning;
    unsigned skipped;   // calls of progress() since the last look at the clock
    uint64_t next_poll; // time of the next look at sockets
    uint64_t frees;     // rdi_mem_frees() when blocks were last looked through
    uint64_t hear_at;   // when to listen again; 0: we do
    bool chores;        // a link has something due
};

static inline struct shm_net *shm_net_of(struct rdi_net *n) { return (struct shm_net *)n; }
static inline struct shm_link *shm_link_of(struct rdi_link *l) { return (struct shm_link *)l; }

// ---- net.c ---------------------------------------------------------------------------------------

// Watches fd for input and hang-up; 0 or an errno.
int shm_watch(struct shm_net *net, int fd, struct shm_source *source);
void shm_unwatch(struct shm_net *net, int fd);
// Frees the object (its memory only) as soon as no event can name it any more.
void shm_bury(struct shm_net *net, struct shm_source *source);

// ---- link.c: life --------------------------------------------------------------------------------

struct shm_link *shm_link_new(struct shm_net *net, bool sender); // NULL: out of memory
// Takes the link out of the net, closes and unmaps all of it, and frees it.
void shm_link_free(struct shm_link *l);
void shm_link_set_phase(struct shm_link *l, enum shm_phase phase);
// Readies counters and pointers for the region of base.slots and base.max_msg at `map`, which is the link's
// from then on (on success).
rondo_status shm_link_set_region(struct shm_link *l, void *map);
void shm_link_drop_region(struct shm_link *l);
// The peer's name for texts: "rank 2 (pid 4711 on host a)".
const char *shm_link_peer(const struct shm_link *l, char buf[128]);
// Ends the link for good. The text is the whole sentence.
void shm_link_fail(struct shm_link *l, rondo_status s, const char *fmt, ...)
    __attribute__((format(printf, 3, 4), cold));
// Ends the link because of a value in shared memory that cannot be. Always false.
bool shm_link_damaged(struct shm_link *l, const char *what, uint64_t value) __attribute__((cold));
// What put() and ctrl() return for a link that is not UP.
rondo_status shm_link_refusal(const struct shm_link *l) __attribute__((cold));
// Takes closed links out of the net's array.
void shm_link_compact(struct shm_net *net);
// The connection or the process ended: takes what was published, then FAILED or, after a bye, CLOSED.
void shm_link_hang_up(struct shm_link *l);

// ---- data.c: messages ----------------------------------------------------------------------------

// Looks for all that the peer published; returns how much moved. May end or close the link.
int shm_link_scan(struct shm_link *l);
// Whether a scan would find something.
bool shm_link_has_news(const struct shm_link *l);
// Receiver: tells the sender of slots that were released and not told yet.
void shm_link_tell(struct shm_link *l);
rondo_status shm_put(struct rdi_link *link, const struct rdi_put *put);
void shm_peek(struct rdi_link *link, uint64_t seq, struct rdi_msg *out);
void shm_release(struct rdi_link *link, uint64_t upto);

// ---- ctrl.c --------------------------------------------------------------------------------------

rondo_status shm_ctrl(struct rdi_link *link, unsigned type, const void *msg, size_t len);
int shm_ctrl_scan(struct shm_link *l);
bool shm_ctrl_has_news(const struct shm_link *l);

// ---- peer.c --------------------------------------------------------------------------------------

// The peer of that name, one more reference. fds {eventfd, bell page} become the peer's or are closed.
rondo_status shm_peer_get(struct shm_net *net, const uint8_t name[SHM_NAME_BYTES], int32_t pid,
                          const int fds[2], struct shm_peer **out);
void shm_peer_put(struct shm_net *net, struct shm_peer *p);
void shm_peer_wake(struct shm_peer *p);

// ---- block.c: payload by reference ---------------------------------------------------------------

// Sender: whether these bytes can go by reference now. If they could once the receiver knows their block, it
// is offered the block. On true the block counts one more message in flight.
bool shm_block_lend(struct shm_link *l, const void *data, uint32_t len, struct shm_reference *out);
// Sender: a message that refers to this block was released.
void shm_block_returned(struct shm_link *l, uint32_t handle);
// Receiver: the memory that a message refers to, counted as in use; NULL: no such memory.
const void *shm_block_borrow(struct shm_link *l, const struct shm_reference *ref, uint32_t len);
void shm_block_release(struct shm_link *l, uint32_t handle);
// OFFER, MAPPED and TAKE_BACK. False: the peer broke the rules. The descriptor stays the caller's.
bool shm_block_record(struct shm_link *l, const struct shm_record *rec, const int *fds);
// Sends what is due: answers to offers; blocks that their owner freed are taken back.
void shm_block_chores(struct shm_link *l, bool freed);
void shm_block_drop_all(struct shm_link *l);

// ---- rendezvous.c --------------------------------------------------------------------------------

rondo_status shm_connect(struct rdi_net *net, const struct rdi_link_id *id, const void *blob,
                         size_t len, struct rdi_link **out);
void shm_accept_all(struct shm_net *net);
// The socket has input or hung up. Returns how much moved.
int shm_link_input(struct shm_link *l);
// A link that is not UP: tries to connect, gives up at its deadline.
int shm_link_timer(struct shm_link *l, uint64_t now);
// Sends what waits for room.
void shm_link_push(struct shm_link *l);
// Sends a record; true: sent, or it never can be. False: there is no room now.
bool shm_link_send(struct shm_link *l, const struct shm_record *rec, const int *fds, size_t n_fds);

// ---- socket.c ------------------------------------------------------------------------------------

// A listener under the abstract name of the address; -1 and errno.
int shm_listen(const struct shm_address *a);
// A connection to that name; -1 and errno.
int shm_dial(const struct shm_address *a);
// Whether the process at the other end runs as our user; *pid is its id as seen from here, 0 if unseen.
bool shm_same_user(int fd, int32_t *pid);

#endif
