// SPDX-License-Identifier: MIT
// The transport layer's private header: what the ring layer and the transports themselves share.
//
//   ring/ (engine: flows, messages, replay)                     upcalls: struct rdi_net_events
//     |   put, peek, release, ctrl, reset, progress, arm               ^
//     v                                                                |
//   struct rdi_net_ops  ---  tcp/ | shm/ | sim/ (| verbs/) ------------+
//
// A *net* is one transport opened by one rank. A *link* is one direction of one edge: it goes from a sender
// to a receiver, was opened by the sender, and belongs to one communicator and channel. Messages on a link
// are numbered 0, 1, 2 …; message q travels into slot q % slots of the receiver. Its counters only grow:
//
//   sender                                   receiver
//   posted <= credit                         released <= arrived <= released + slots
//     posted: given to put()                   arrived:  longest prefix that is whole and visible
//     sent:   source free, never replayed      released: consumed; the sender may fill the slot again
//     credit: released (as known) + slots
//
// (The design's names for an edge: credit, ready, posted, sent | arrived, visible, reduced. `ready` belongs to
// the engine; on CPU memory visible == arrived; `reduced` is `released`.)
#ifndef RDI_TRANSPORT_INTERNAL_H
#define RDI_TRANSPORT_INTERNAL_H

#include "transport/transport.h"

#include <stdarg.h>
#include <stdbool.h>

// ---- Errors --------------------------------------------------------------------------------------

#define RDI_ERROR_TEXT 768

// Sets the calling thread's last error and returns `s`. The function that decides the error calls this, once.
rondo_status rdi_fail(rondo_status s, const char *fmt, ...)
    __attribute__((format(printf, 2, 3), cold));
// The same with ": <strerror(err)> (<NAME>)" appended.
rondo_status rdi_fail_errno(rondo_status s, int err, const char *fmt, ...)
    __attribute__((format(printf, 3, 4), cold));
// Puts text into the thread's last error as it is (an error that happened on another thread).
void rdi_set_last_error(const char *text);
// Puts "prefix: " before the last error's text; returns s.
rondo_status rdi_fail_prefix(rondo_status s, const char *fmt, ...)
    __attribute__((format(printf, 2, 3), cold));

// Ends text that came from a peer, at the latest at its last byte, and makes spaces of its control characters: after
// that it can stand in an error or a log line.
void rdi_printable(char *text, size_t cap);

// ---- The world outside ---------------------------------------------------------------------------

// Time, randomness and logging are passed in, so that the core runs on a virtual clock in the simulator.
struct rdi_env {
    void *self;
    uint64_t (*now)(void *self); // nanoseconds, monotonic
    void (*random)(void *self, void *buf, size_t n);
    void (*log)(void *self, rondo_log_level level, const char *line); // may be NULL
};
// The real clock and the kernel's randomness.
void rdi_env_system(struct rdi_env *env, rondo_log_fn log, void *log_arg);
void rdi_log(const struct rdi_env *env, rondo_log_level level, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
static inline uint64_t rdi_now(const struct rdi_env *env) { return env->now(env->self); }

// ---- Options -------------------------------------------------------------------------------------

enum rdi_opt {
    RDI_OPT_TRANSPORT,        // enum auto shm tcp verbs
    RDI_OPT_INTERFACE,        // string: names or subnets joined by '+', "" = choose
    RDI_OPT_FAMILY,           // enum auto ipv4 ipv6
    RDI_OPT_TOPOLOGY,         // string: file, "none", "" = this host
    RDI_OPT_TCP_SOCKETS,      // int, sockets per link and rail
    RDI_OPT_SLOTS,            // int, slots per link
    RDI_OPT_CHUNK,            // size, bytes per message; 0 = the transport's own
    RDI_OPT_CONNECT_TIMEOUT,  // ms
    RDI_OPT_OP_TIMEOUT,       // ms
    RDI_OPT_PATH_GRACE,       // ms
    RDI_OPT_PEER_TIMEOUT,     // ms, silence of a host until its ranks are given up
    RDI_OPT_STOP_GRACE,       // ms, the same of a process that is stopped
    RDI_OPT_PROGRESS,         // enum auto thread caller
    RDI_OPT_SPIN,             // us, busy polling before sleep; "auto"
    RDI_OPT_ORDER,            // enum default strict
    RDI_OPT_ALGORITHM,        // enum auto direct doubling ring
    RDI_OPT_DIRECT_MAX,       // size
    RDI_OPT_ZERO_COPY,        // bool, shm peers read rondo_mem_alloc() memory in place
    RDI_OPT_AUTH,             // enum key none
    RDI_OPT_KEY_FILE,         // string
    RDI_OPT_ENCRYPT,          // bool, connections of the tcp transport
    RDI_OPT_DEVICE,           // string: device[:port] joined by '+', "" = choose
    RDI_OPT_VERBS_MODE,       // enum auto imm split send
    RDI_OPT_VERBS_QPS,        // int, queue pairs per link and rail
    RDI_OPT_VERBS_STRIPE,     // size, a message is cut into stripes of at least so many bytes
    RDI_OPT_VERBS_MTU,        // int, bytes; "auto"
    RDI_OPT_VERBS_GID,        // int, index; "auto"
    RDI_OPT_VERBS_PKEY,       // int, index
    RDI_OPT_VERBS_SL,         // int
    RDI_OPT_VERBS_TC,         // int
    RDI_OPT_VERBS_TIMEOUT,    // ms, of one acknowledgement
    RDI_OPT_VERBS_RETRIES,    // int
    RDI_OPT_VERBS_INLINE,     // size
    RDI_OPT_VERBS_RELAXED,    // enum auto yes no
    RDI_OPT_CUDA_DRIVER,      // string: path of libcuda, "none", "" = the loader's
    RDI_OPT_CUDA_REACH,       // enum auto memory direct staged
    RDI_OPT_CUDA_BLOCKS,      // int, thread blocks of a reduce kernel
    RDI_OPT_RECORD,           // int, operations that are remembered
    RDI_OPT_DUMP,             // string: folder or prefix, "" = off
    RDI_OPT_TRACE,            // string: folder or prefix, "" = off
    RDI_OPT_METRICS,          // string: port or unix:path, "" = off
    RDI_OPT_DDP_FIRST_BUCKET, // size
    RDI_OPT_DDP_BUCKET,       // size
    RDI_OPT_COUNT
};

#define RDI_OPT_STRING_MAX 256
struct rdi_options {
    int64_t num[RDI_OPT_COUNT];                  // int, size, ms, us, bool; enum: index of the word
    char str[RDI_OPT_COUNT][RDI_OPT_STRING_MAX]; // string and enum: the word
    bool is_auto[RDI_OPT_COUNT];                 // value is the word "auto" (num 0 then)
};
// Defaults, then the environment's RONDO_<NAME>, then `text` ("name=value,…", may be NULL). The error names
// the option, the value, where it came from and what is allowed. `get` is getenv(3) or a test's own.
rondo_status rdi_options_load(struct rdi_options *o, const char *text,
                              char *(*get)(const char *name));

// ---- The job -------------------------------------------------------------------------------------

#define RDI_KEY_BYTES 32
#define RDI_HOST_MAX 64
// Who this process is in the job, and the secret that all of its connections prove to know.
struct rdi_job {
    int rank, size, local_rank; // local_rank -1 when unknown
    int local_size;             // ranks of this host; 0 when unknown
    bool auth;                  // false only with auth=none
    const uint8_t *key; // RDI_KEY_BYTES derived from the job's key, in secret memory; NULL: zeros
    char host[RDI_HOST_MAX]; // this host's name, for messages
    uint8_t host_id[16]; // equal for processes that can share memory: boot id + network namespace
    uint64_t
        launch; // of what the launcher calls the job: other jobs of it have another one; 0: it does not tell
};

// Gives the job this key as it is, in place of the one that it has (which may be NULL).
rondo_status rdi_job_key(struct rdi_job *job, const uint8_t key[RDI_KEY_BYTES]);
// A copy that shares the key, for whoever keeps a job longer than his caller does; and its end.
void rdi_job_copy(struct rdi_job *to, const struct rdi_job *from);
void rdi_job_clear(struct rdi_job *job);

// Memory for key material that lives longer than a call: RDI_SECRET_BYTES zeros that no core dump has. The last
// rdi_secret_free() wipes them. NULL: out of memory, the text is set. Both others leave alone what is not from here.
// Any thread, also in a child of fork().
#define RDI_SECRET_BYTES 128
// Bytes of stack that libsodium's functions may have left key material in, for sodium_stackzero() after them.
#define RDI_STACK_WIPE 4096
void *rdi_secret_new(void);
void rdi_secret_share(const void *secret);
void rdi_secret_free(const void *secret);

// ---- Authenticated handshake ---------------------------------------------------------------------
//
// Every connection of Rondo (store, tcp data, shm control) begins with it; nothing that the other side said
// is believed before both have proved to know the job's key.
//
//   connector                                       acceptor
//     HELLO  magic, version, kind, nonce_c, hello ->
//                                     <- CHALLENGE  magic, version, nonce_a, MAC(key, "A", hello msg, nonce_a)
//     PROOF  MAC(key, "C", hello msg, challenge)  ->
//                                     <- WELCOME    reply, MAC(key, "W", all before, reply)
//
// MAC = keyed BLAKE2b-256 (libsodium crypto_generichash) with the label above first. `hello` and `reply` are
// up to RDI_HS_PAYLOAD bytes that belong to the caller; `hello` may be believed once the state is DONE on the
// acceptor, `reply` once DONE on the connector. A peer of another version is told so by a CHALLENGE that
// carries the acceptor's version, so that both sides can name both versions.

#define RDI_HS_PAYLOAD 512
#define RDI_HS_BUFFER 1024
enum rdi_hs_kind { RDI_HS_STORE = 1, RDI_HS_TCP = 2, RDI_HS_SHM = 3, RDI_HS_DOCTOR = 4 };
enum rdi_hs_state { RDI_HS_RUNNING, RDI_HS_NEED_REPLY, RDI_HS_DONE, RDI_HS_FAILED };
struct rdi_hs {
    enum rdi_hs_state state;
    bool connector;
    int step;
    enum rdi_hs_kind kind;
    const struct rdi_job *job;
    uint8_t peer[RDI_HS_PAYLOAD]; // acceptor: the hello payload; connector: the reply payload
    size_t peer_len;
    rondo_status error; // when FAILED: RONDO_ERR_AUTH or RONDO_ERR_VERSION or _INVALID
    char why[192];      // when FAILED: for a log line or an error; never holds key material
    uint8_t in[RDI_HS_BUFFER], out[RDI_HS_BUFFER];
    size_t in_len, out_len, out_off;
    uint8_t transcript[32]; // running hash of all messages so far
    uint8_t nonce[32];
};
void rdi_hs_connect(struct rdi_hs *hs, enum rdi_hs_kind kind, const struct rdi_job *job,
                    const struct rdi_env *env, const void *hello, size_t len);
void rdi_hs_accept(struct rdi_hs *hs, enum rdi_hs_kind kind, const struct rdi_job *job,
                   const struct rdi_env *env);
// Feeds received bytes; *used tells how many belonged to the handshake (bytes after WELCOME do not). The
// state moves to NEED_REPLY on the acceptor once the connector has proved itself.
void rdi_hs_input(struct rdi_hs *hs, const void *bytes, size_t n, size_t *used);
// Acceptor in NEED_REPLY: gives the reply; state is DONE when out_off == out_len afterwards or at once.
void rdi_hs_reply(struct rdi_hs *hs, const void *reply, size_t len);
// Bytes that wait to be sent: out + out_off, out_len - out_off; call after sending n of them.
void rdi_hs_sent(struct rdi_hs *hs, size_t n);
// In state DONE: the key of this connection for one of its directions, equal on both ends and never used before.
// From the job's key, so secret only where there is one. The caller wipes it.
void rdi_hs_session_key(const struct rdi_hs *hs, bool from_connector, uint8_t key[RDI_KEY_BYTES]);

// ---- Messages and links --------------------------------------------------------------------------

#define RDI_SIG_BYTES 64
#define RDI_CTRL_MAX 896 // bytes of one control message
#define RDI_BLOB_MAX 768 // bytes of a net's address

struct rdi_link_id {
    uint64_t comm;     // communicator's id
    uint32_t from, to; // world ranks
    uint32_t channel;  // the engine's, RDI_CHANNEL_DEVICE among them
};
#define RDI_CHANNEL_DEVICE 2 // payloads come from and go to device memory

enum rdi_link_state {
    RDI_LINK_CONNECTING, // put() gives RONDO_AGAIN
    RDI_LINK_UP,
    RDI_LINK_LOST,   // path lost, peer may live: the engine calls reset()
    RDI_LINK_FAILED, // for good: status and why say the reason
    RDI_LINK_CLOSED, // the peer said good-bye (in order, after its last message)
};

struct rdi_net;
struct rdi_net_ops;

// The part of a link that the engine reads; a transport's own link begins with it. Only the thread that owns
// the engine touches it.
struct rdi_link {
    const struct rdi_net_ops *ops;
    struct rdi_net *net;
    void *owner; // the engine's edge
    struct rdi_link_id id;
    bool sender; // which end this is
    enum rdi_link_state state;
    uint32_t epoch;                // grows with each reset
    uint32_t slots, max_msg;       // agreed at connect; max_msg is a multiple of 64
    uint64_t credit, posted, sent; // sender's side
    uint64_t arrived, released;    // receiver's side
    rondo_status status;           // when FAILED
    bool answered;                 // when FAILED: the peer's process itself refused, so it lives
    char why[512];                 // when LOST or FAILED: both endpoints, cause, remedy
};

enum {
    RDI_PUT_ACK = 1,    // the sender waits for `sent` of this message: acknowledge promptly
    RDI_PUT_COPY = 2,   // `sent` must not wait for release(): no reading of the source in place
    RDI_PUT_DEVICE = 4, // the source is device memory that was registered (rdi_mem_register_device)
};

// One message to send.
struct rdi_put {
    // len bytes; stay unchanged until link->sent passes this message, or until the caller has other proof that
    // the receiver has consumed it (what is sent once more after that, is dropped there as repeated).
    const void *data;
    uint32_t len; // 0 .. max_msg
    uint32_t flags;
    uint64_t tag;    // the engine's; comes out unchanged at peek() and land()
    const void *sig; // RDI_SIG_BYTES or NULL; copied by put()
};

// One message that arrived.
struct rdi_msg {
    const void *data; // valid until release(); equals land()'s answer when that was used
    uint32_t len;
    uint64_t tag;
    const void *sig; // or NULL
};

// Latency and bandwidth as the layer above weighs them, and what the transport can do.
struct rdi_net_attr {
    uint64_t latency_ns;
    uint64_t bytes_per_s;
    uint32_t chunk;    // preferred max_msg
    bool lands;        // asks land() and receives in place
    bool by_reference; // peers can read registered memory without a copy
    bool device;       // may send from and receive into device memory, see device_memory()
};

// Where the payloads of a link's messages are to be written: slot q % slots at ptr + q % slots * max_msg.
struct rdi_device_slots {
    void *ptr; // device address, registered
    uint32_t slots, max_msg;
};

// Upcalls of a net into the engine, on the thread that called into the net.
struct rdi_net_events {
    void *self;
    // A peer has opened a link to us and proved itself. The engine sets link->owner (now or later) and from
    // then on owns the link and closes it. Any status but OK refuses it; the transport then closes it and the
    // peer's end FAILS with the last error's text.
    rondo_status (*accept)(void *self, struct rdi_link *link);
    // Message `tag` of `len` bytes is about to be received on `link`: where shall it land? NULL = in a slot.
    // The answer must stay writable until the message is released, or the link was reset or closed.
    void *(*land)(void *self, struct rdi_link *link, uint64_t tag, uint32_t len);
    // A control message. Not ordered with messages; ordered among themselves.
    void (*ctrl)(void *self, struct rdi_link *link, unsigned type, const void *msg, size_t len);
    // The slots of a link on RDI_CHANNEL_DEVICE are to be made, on the receiver, before accept(). True: in the device
    // memory that the engine says; *io comes with what the transport would take, and goes with at most as many slots
    // of any size (a multiple of 64, up to 16 MiB). False, or no function: in host memory, as always where a device
    // has no immediates (mode send). The memory is the link's until that is closed; where accept() does not follow,
    // until slots() is called again for the same id.
    bool (*slots)(void *self, struct rdi_link *link, struct rdi_device_slots *io);
};

// NICs that were decided for a rank, the nearest first. A wish: peers that none of them leads to are reached by others.
#define RDI_RAILS 8
struct rdi_rail {
    char net[64],
        rdma[64];  // names of its interface and RDMA device, with commas between several; "" = none
    char why[160]; // for the log
};
struct rdi_rails {
    unsigned count;
    struct rdi_rail at[RDI_RAILS];
};
// The one that has this interface or RDMA device; NULL. `rails` may be NULL.
const struct rdi_rail *rdi_rails_net(const struct rdi_rails *rails, const char *name);
const struct rdi_rail *rdi_rails_rdma(const struct rdi_rails *rails, const char *name);

struct rdi_net_params {
    struct rdi_env env;
    const struct rdi_options *options;
    const struct rdi_job *job; // outlives the net
    const struct rdi_net_events *events;
    const struct rdi_rails *rails; // outlives open(); NULL: all NICs are as good
    void *extra;                   // sim: the simulated host to live on
    bool
        prompt; // peers listened before their address was given to us: who refuses a connection is gone
    bool narrow; // tcp: little is said, so each link keeps to one way and the others stand in
};

// Base of every net.
struct rdi_net {
    const struct rdi_net_ops *ops;
    struct rdi_net_params params;
    struct rdi_net_attr attr;
    uint64_t bytes_sent, bytes_received, messages_sent; // payload
    // Connections dropped because they did not prove the job's key: read by any thread, see rdi_net_stranger().
    _Atomic uint64_t strangers;
    // Encrypted connections dropped because what came on them was not what the peer had sealed.
    _Atomic uint64_t damaged;
    uint64_t strangers_told, stranger_told_at, damage_told, damage_told_at;
};
// Counts one more of them and says so, in a line a second at most.
void rdi_net_stranger(struct rdi_net *net, const char *who, const char *why);
void rdi_net_damaged(struct rdi_net *net, const char *who);
// So many connections that have proved nothing may be open at a time: few enough to leave the program most of its
// descriptors, whoever comes.
unsigned rdi_strangers_max(unsigned most);

// The contract of a transport. All functions are called by the one thread that owns the engine at that time
// (ownership moves with a lock in between). None blocks, except where it says so. None calls the engine back,
// except progress() (all upcalls) and connect() (none).
struct rdi_net_ops {
    size_t size;
    const char *name;

    // Opens the transport for this rank: devices, listener. RONDO_ERR_UNSUPPORTED with the reason when this
    // machine or container has no such thing (the others then serve), RONDO_ERR_INVALID for a wrong option.
    // Afterwards close() must be called.
    rondo_status (*open)(const struct rdi_net_params *params, struct rdi_net **out);

    // Closes what open() made. All links were closed before. Nothing of it is left (fds, maps, threads, files).
    // Waits for at most a second where last messages would otherwise be lost.
    void (*close)(struct rdi_net *net);

    // This net's address for peers: at most RDI_BLOB_MAX bytes, no pointers, readable on other machines.
    // Constant during the net's life.
    rondo_status (*address)(struct rdi_net *net, void *blob, size_t *len);

    // Whether a peer with this address (unchecked bytes from the store) can be reached: RONDO_OK or
    // RONDO_ERR_UNSUPPORTED (other host, other family); RONDO_ERR_INVALID for a malformed address.
    rondo_status (*reach)(struct rdi_net *net, const void *blob, size_t len);

    // Starts a link to a peer; the caller is the sender. Returns at once, state CONNECTING. It becomes UP, or
    // FAILED after connect_timeout at the latest, in later calls of progress(). A peer that is not there yet
    // is tried again until then.
    rondo_status (*connect)(struct rdi_net *net, const struct rdi_link_id *id, const void *blob,
                            size_t len, struct rdi_link **out);

    // Sends message number link->posted. `sent` passes it once the receiver has it (arrived) or, where the
    // receiver reads the source in place and RDI_PUT_COPY is not set, once it is released; the news may be put
    // off without RDI_PUT_ACK, at the latest to the next credit or the receiver's next arm().
    // RONDO_OK: taken, posted grew by one. RONDO_AGAIN: no credit, or the
    // wire is full, or not UP: nothing happened, try after progress(). Errors: the link is FAILED or LOST.
    rondo_status (*put)(struct rdi_link *link, const struct rdi_put *put);

    // Looks at message number `seq`, released <= seq < arrived. Never fails for such a seq.
    void (*peek)(struct rdi_link *link, uint64_t seq, struct rdi_msg *out);

    // Gives back all messages below `upto` (released < upto <= arrived). Credit reaches the sender at the
    // latest when half of the slots are free or at the next arm(), whichever is first.
    void (*release)(struct rdi_link *link, uint64_t upto);

    // Sends a control message of at most RDI_CTRL_MAX bytes, outside credit and in either direction. Types from
    // 64 on belong to the transports.
    // RONDO_AGAIN when there is no room (try after progress()) or while CONNECTING.
    rondo_status (*ctrl)(struct rdi_link *link, unsigned type, const void *msg, size_t len);

    // Whether the peer's host has taken all that ctrl() sent on this link (or, while CONNECTING, all that was said to
    // make it), which says nothing about its process. NULL: the transport cannot tell.
    bool (*delivered)(struct rdi_link *link);

    // Sender, state LOST: makes sure that nothing of the old epoch can be delivered or written any more and
    // starts a new path under `epoch`. State is CONNECTING afterwards; once UP, link->posted, link->sent equal
    // the number of messages that the receiver had whole (its `arrived`), and the engine puts the rest again.
    // The receiver's end survives (same link, epoch raised by the transport). NULL for a transport whose path
    // cannot be lost while the peer lives.
    rondo_status (*reset)(struct rdi_link *link, uint32_t epoch);

    // Ends a link from either side and frees it. Sender: pending small output is given to the wire first as
    // far as possible without blocking; `bye` tells the peer that this is no failure (its state becomes
    // CLOSED). After the return nothing writes into or reads from memory of ours for this link.
    void (*close_link)(struct rdi_link *link, bool bye);

    // Moves everything that can move; updates counters, makes upcalls. Returns how many things moved (0 =
    // nothing). `busy` tells that the caller polls in a loop: a transport may then skip system calls that
    // rarely find something on most calls, but a state change must be seen within 50 us of polling.
    int (*progress)(struct rdi_net *net, bool busy);

    // Prepares to sleep on fd(): flushes what was put off (credit), asks peers to wake us. RONDO_OK: fd() gets
    // readable (level triggered) as soon as progress() would find something. RONDO_AGAIN: something is there
    // already (counters may have moved), do not sleep. *timeout_ns is lowered if the transport wants progress() by a time of its own.
    rondo_status (*arm)(struct rdi_net *net, uint64_t *timeout_ns);
    // After sleeping, or after arm() by another net said RONDO_AGAIN.
    void (*disarm)(struct rdi_net *net);
    int (*fd)(struct rdi_net *net); // an fd for epoll; -1 if there is none (sim)

    // Registers a range of device memory (rdi_mem_register_device() has been told of it) with every device of this
    // transport, so that links on RDI_CHANNEL_DEVICE may use it. RONDO_ERR_UNSUPPORTED names the device and what
    // it lacks. NULL: this transport knows no device memory.
    rondo_status (*device_memory)(struct rdi_net *net, const void *ptr, size_t bytes);

    // Appends a line per link for hang reports: which peer, address, what is queued.
    void (*describe)(struct rdi_link *link, char *buf, size_t cap);
};

extern const struct rdi_net_ops rdi_tcp_ops;
extern const struct rdi_net_ops rdi_shm_ops;
extern const struct rdi_net_ops rdi_verbs_ops;
extern const struct rdi_net_ops rdi_sim_ops;

// ---- Memory --------------------------------------------------------------------------------------

// Finds the shareable block (from rondo_mem_alloc) that wholly contains [ptr, ptr+len). True: *fd is a
// borrowed descriptor of the block's memfd, *id its process-wide id (never reused), *offset the offset of ptr,
// *bytes the block's size. Any thread.
bool rdi_mem_find(const void *ptr, size_t len, int *fd, uint64_t *id, uint64_t *offset,
                  uint64_t *bytes);
// Marks the registered or allocated memory that contains the range as in use by an operation (so that
// unregister and free refuse) and undoes it; unknown memory is fine (returns false, nothing to undo).
bool rdi_mem_hold(const void *ptr, size_t len);
void rdi_mem_unhold(const void *ptr, size_t len);
// Device memory for NICs: `fd` is a DMA-BUF in which the range begins at `offset` (duplicated: the caller may close
// it at once), or -1 where the kernel finds device memory by its address. Once undone, devices let go of it at their
// nets' next progress(); links that have slots there are closed before. Any thread.
rondo_status rdi_mem_register_device(const void *ptr, size_t bytes, int fd, uint64_t offset);
rondo_status rdi_mem_unregister_device(const void *ptr);

// ---- Bootstrap -----------------------------------------------------------------------------------

// Environment that rondo-run (and rondo_spawn) gives to its children, besides torchrun's names RANK,
// LOCAL_RANK, WORLD_SIZE, LOCAL_WORLD_SIZE, GROUP_RANK, MASTER_ADDR, MASTER_PORT:
// - the number of an inherited descriptor from which the key can be read by pread() at offset 0 (a sealed memfd);
#define RDI_ENV_KEY_FD "RONDO_KEY_FD"
// - "launcher": the launcher serves the store at MASTER_*; unset: rank 0 does.
#define RDI_ENV_STORE "RONDO_STORE"

// A TCP key-value server on a thread of its own. `addr` NULL = all addresses of both families. `port` 0 = any.
struct rdi_store_server;
rondo_status rdi_store_server_start(const char *addr, int port, const struct rdi_job *job,
                                    struct rdi_store_server **out);
int rdi_store_server_port(const struct rdi_store_server *s);
void rdi_store_server_stop(struct rdi_store_server *s);

// A client. connect() tries again until timeout_ms. The ops fit rondo_store_ops.
struct rdi_store;
rondo_status rdi_store_connect(const char *host, int port, const struct rdi_job *job,
                               int timeout_ms, struct rdi_store **out);
void rdi_store_close(struct rdi_store *s);
extern const rondo_store_ops rdi_store_tcp_ops;

// Reads or makes the job's key: caller's bytes, key_file, inherited fd, the caller's store, ~/.config/rondo/key.
// Derives job->key (the job must be initialised). `single_host` allows a job without any key only when nothing else is found and all
// ranks share the host.
rondo_status rdi_key_find(const rondo_config *config, const struct rdi_options *options,
                          struct rdi_job *job);
// For launchers: fresh random key in a sealed memfd that children inherit (no CLOEXEC); -1 and last error.
int rdi_key_memfd(void);
// Derives job->key from raw secret bytes; the key that the job had is given back.
rondo_status rdi_key_set(struct rdi_job *job, const void *secret, size_t len);

// Everything that happens before links exist: finds rank, size, key and store, connects to the store (rank 0
// serves it if nobody else does), and exchanges one record per rank.
struct rdi_bootstrap;
rondo_status rdi_bootstrap_open(const rondo_config *config, const struct rdi_options *options,
                                const struct rdi_env *env, struct rdi_job *job,
                                struct rdi_bootstrap **out);
// All ranks give `len` (<= 8 KiB) bytes; all[r] and lens[r] (caller's arrays of job->size) receive malloc'ed
// copies, freed by the caller. Blocks until connect_timeout; the error names the ranks that are missing.
// `name` tells exchanges apart (unique in the job).
rondo_status rdi_bootstrap_exchange(struct rdi_bootstrap *b, const char *name, const void *mine,
                                    size_t len, void **all, size_t *lens);
// How often this rank was started again, from the environment (0 when unset). A rank for which that is not 0 does
// not meet the others in rdi_bootstrap_open(), and must not exchange: it finds them by their records, below.
#define RDI_ENV_RESTART "RONDO_RESTART"
rondo_status rdi_bootstrap_restart_number(char *(*get)(const char *name), uint32_t *number);
// Whether the store is there as long as the job, whichever rank ends.
bool rdi_bootstrap_outlives(const struct rdi_bootstrap *b);
// Leaves this rank's record (<= 8 KiB) with the store for ranks that are started again; replaces the one before.
rondo_status rdi_bootstrap_publish(struct rdi_bootstrap *b, uint32_t number, const void *record,
                                   size_t len);
// Tells the launcher that this rank, which was started again, has a part in the job: "<key><rank>" is the number.
#define RDI_STORE_ADMITTED "rondo/admitted/"
rondo_status rdi_bootstrap_admitted(struct rdi_bootstrap *b, uint32_t number);
// The latest record of a rank, from malloc, and how often that rank was started again. RONDO_AGAIN: it left none.
rondo_status rdi_bootstrap_member(struct rdi_bootstrap *b, int rank, uint32_t *number,
                                  void **record, size_t *len);
// Who was lost first since the ranks began to meet, in the store's words, the same on all ranks. RONDO_AGAIN: nobody as far
// as the store knows, but for such as left without a reason, or it does not answer at once. Sets no last error that counts.
rondo_status rdi_bootstrap_first_lost(struct rdi_bootstrap *b, char text[RDI_ERROR_TEXT]);
// Ends the store connection; on the rank that serves the store it waits briefly until the others have read.
void rdi_bootstrap_close(struct rdi_bootstrap *b);
// The same without waiting, when all that live are known to have read: a rank that is stopped delays nobody.
void rdi_bootstrap_drop(struct rdi_bootstrap *b);

// ---- Interfaces ----------------------------------------------------------------------------------

struct rdi_netif {
    char name[32];
    int family;       // AF_INET or AF_INET6
    uint8_t addr[16]; // network byte order; 4 bytes used for AF_INET
    unsigned prefix;  // bits
    uint32_t scope;   // IPv6 zone index, link-local only
    bool loopback;
};
// Lists the addresses to use, in order of preference, for option interface/family: by default all up
// interfaces except loopback, docker*, veth pairs' bridges and link-local addresses, loopback last (it serves
// only peers on this host). A name or subnet that matches nothing is an error that lists what there is.
rondo_status rdi_netif_list(const struct rdi_options *options, struct rdi_netif *out, size_t cap,
                            size_t *n);

#endif
