// SPDX-License-Identifier: MIT
// The NCCL network plugin's private structs, and what its files call of each other.
//
//   plugin.c        what NCCL finds: one table of functions for each version, thin
//   context.c       init, finalize, log lines, which number this process has in texts
//   device.c        devices and their properties
//   handle.c        the 128 bytes that NCCL carries to the peer (pure)
//   hub.c keeper.c  nets shared by comms; the thread that looks after them while NCCL does not
//   listen.c connect.c rail.c  how a pair of comms comes to be
//   comm.c send.c recv.c mem.c  messages
//
// A *hub* is a net with a lock. Comms of one device whose links prove the same key share one:
//
//   process X (receives)                                     process Y (sends)
//   key Kx, made once; in every handle of X                  Kx, from the handle
//   hub DIR_SERVER   tcp: "where is listen 7?"   <---------  hub DIR_CLIENT, closed once it is answered
//                    answer: the data hub's address --->
//   hub DATA_SERVER  links of all peers          <=========  hub DATA_CLIENT, one for each key (peer process)
//
// Locks: registry (hub.c: list of hubs, counts) before hub->lock (its net, links, listens, comms).
#ifndef RDI_NCCL_CORE_H
#define RDI_NCCL_CORE_H

#include "transport/internal.h"
#include "transport/nccl/abi.h"

#include <pthread.h>

#define RDI_NCCL_NAME "Rondo"
#define RDI_NCCL_REQS 128u // of one comm
#define RDI_NCCL_DEVICES 32
#define RDI_NCCL_ALL_RAILS (-1) // as a device: all that Rondo's options permit
#define RDI_MS UINT64_C(1000000)

// ---- context.c -----------------------------------------------------------------------------------

// What init() makes for each communicator, from version 11 on.
struct rdi_nccl_context {
    int traffic_class;
};

// Loads options and devices at the first call; `context` NULL: a version that does not end what it begins.
int rdi_nccl_init(struct rdi_nccl_context **context, int traffic_class, rdi_nccl_log_fn log);
int rdi_nccl_finalize(struct rdi_nccl_context *context);
// The options as init() read them.
const struct rdi_options *rdi_nccl_options(void);
// Time, randomness, and NCCL's log.
const struct rdi_env *rdi_nccl_env(void);
void rdi_nccl_log(int level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
// Writes "what: text" of an error to NCCL's log and says which of NCCL's results it is.
int rdi_nccl_report(rondo_status s, const char *what, const char *text);
// This process' number where Rondo's texts say "rank": the launcher's, or else the process id. In NCCL no
// plugin learns a rank.
int rdi_nccl_self(void);
// "rank" or "process", accordingly.
const char *rdi_nccl_self_word(void);

// ---- device.c ------------------------------------------------------------------------------------

// Finds the devices. RONDO_ERR_UNSUPPORTED with the reasons when there is none.
rondo_status rdi_nccl_devices_open(void);
void rdi_nccl_devices_close(void);
int rdi_nccl_device_count(void);
int rdi_nccl_properties(int dev, struct rdi_nccl_props_v12 *out);
const struct rdi_net_ops *rdi_nccl_device_ops(void);
const char *rdi_nccl_device_name(int dev);
// Options that open a net on this device only.
void rdi_nccl_device_options(const struct rdi_net_ops *ops, int dev, int traffic_class,
                             struct rdi_options *out);
// Kinds of memory that this device can send from and receive into: RDI_NCCL_PTR_*.
int rdi_nccl_pointer_support(int dev);

// ---- handle.c ------------------------------------------------------------------------------------

struct rdi_tcp_blob;
struct rdi_nccl_handle {
    uint8_t key[RDI_KEY_BYTES];
    uint64_t listen; // random
    int number;      // of the listening process
};
// The address is that of the directory; as many of its addresses as there is room for. False: not one has.
bool rdi_nccl_handle_write(const struct rdi_nccl_handle *h, const struct rdi_tcp_blob *address,
                           uint8_t out[RDI_NCCL_HANDLE]);
// Checks every field.
bool rdi_nccl_handle_read(struct rdi_nccl_handle *h, struct rdi_tcp_blob *address,
                          const uint8_t in[RDI_NCCL_HANDLE]);
// The last eight bytes belong to connect(), which NCCL calls again with the same handle: which attempt this is.
uint64_t rdi_nccl_handle_token(const uint8_t handle[RDI_NCCL_HANDLE]);
void rdi_nccl_handle_set_token(uint8_t handle[RDI_NCCL_HANDLE], uint64_t token);

// ---- hub.c ---------------------------------------------------------------------------------------

enum rdi_nccl_role {
    RDI_NCCL_DIR_SERVER,
    RDI_NCCL_DATA_SERVER,
    RDI_NCCL_DIR_CLIENT,
    RDI_NCCL_DATA_CLIENT,
};
struct rdi_nccl_comm;
struct rdi_nccl_listen;

struct rdi_nccl_hub_key {
    const struct rdi_net_ops *ops;
    enum rdi_nccl_role role;
    int dev, traffic_class;
    uint8_t key[RDI_KEY_BYTES];
};

struct rdi_nccl_hub {
    struct rdi_nccl_hub *next; // under the registry's lock, as is `refs`
    unsigned refs;
    struct rdi_nccl_hub_key is;
    struct rdi_job job;
    struct rdi_options options;
    struct rdi_net_events events;

    pthread_mutex_t lock; // of all below
    struct rdi_net *net;
    struct rdi_nccl_listen *listens; // servers
    struct rdi_nccl_comm *comms;
    unsigned ncomms;
    uint64_t turns, turns_seen; // calls of rdi_nccl_hub_turn(); as the keeper saw them last
};

// The hub for a key, opened where there is none; give it back with unref(). Neither under a hub's lock.
rondo_status rdi_nccl_hub_ref(const struct rdi_nccl_hub_key *key, struct rdi_nccl_hub **out);
void rdi_nccl_hub_unref(struct rdi_nccl_hub *h);
// Moves what can move. `messages`: the caller waits for one, not for a connection. With the hub's lock.
void rdi_nccl_hub_turn(struct rdi_nccl_hub *h, bool messages);
void rdi_nccl_hub_add_comm(struct rdi_nccl_hub *h, struct rdi_nccl_comm *c);
void rdi_nccl_hub_remove_comm(struct rdi_nccl_hub *h, struct rdi_nccl_comm *c);
// One round of the keeper over all hubs that nobody has turned since the last one.
void rdi_nccl_hubs_keep(void);

// ---- keeper.c ------------------------------------------------------------------------------------

struct rdi_nccl_keeper;
// NULL: no thread can be had; then links rest while NCCL does not call, and recover when it does.
struct rdi_nccl_keeper *rdi_nccl_keeper_start(void);
void rdi_nccl_keeper_stop(struct rdi_nccl_keeper *k); // waits for its end

// ---- listen.c ------------------------------------------------------------------------------------

// A link to one of our listens that its connector has opened.
struct rdi_nccl_incoming {
    struct rdi_nccl_incoming *next;
    struct rdi_link *link;
    bool told; // directory: the answer was sent
};
enum { RDI_NCCL_DIR, RDI_NCCL_DATA, RDI_NCCL_KINDS };

struct rdi_nccl_listen {
    uint64_t id;
    int dev;
    uint64_t deadline; // 0 before the first accept()
    struct rdi_nccl_hub *hub[RDI_NCCL_KINDS];
    struct rdi_nccl_listen *next[RDI_NCCL_KINDS];       // the hub's lists
    struct rdi_nccl_incoming *incoming[RDI_NCCL_KINDS]; // under the hub's lock; oldest first
    size_t answer_len;
    uint8_t answer[RDI_CTRL_MAX];
};

// The directory's answer: 'version 1 | transport 1 | process 4 | address'.
#define RDI_NCCL_ANSWER 1u // type of the control message
#define RDI_NCCL_ANSWER_HEAD 6u
#define RDI_NCCL_WIRE_VERSION 1u
enum { RDI_NCCL_WIRE_TCP = 1, RDI_NCCL_WIRE_VERBS = 2 };

int rdi_nccl_listen(int traffic_class, int dev, void *handle, struct rdi_nccl_listen **out);
int rdi_nccl_accept(struct rdi_nccl_listen *l, struct rdi_nccl_comm **out);
int rdi_nccl_close_listen(struct rdi_nccl_listen *l);
// Upcall of a server hub: a peer has opened a link.
rondo_status rdi_nccl_listen_take(struct rdi_nccl_hub *h, struct rdi_link *link);
// Answers those who ask a directory. With the hub's lock.
void rdi_nccl_listen_answer(struct rdi_nccl_hub *h);

// ---- rail.c --------------------------------------------------------------------------------------

// Whether this tcp hub has an address in a subnet of the peer's, or is on the peer's host. Without its lock.
bool rdi_nccl_rail_leads(struct rdi_nccl_hub *h, const void *peer, size_t len);

// ---- connect.c -----------------------------------------------------------------------------------

int rdi_nccl_connect(int traffic_class, int dev, void *handle, struct rdi_nccl_comm **out);
// Upcall of a DIR_CLIENT hub: the answer.
void rdi_nccl_connect_answer(struct rdi_link *link, unsigned type, const void *msg, size_t len);
// Drops attempts that NCCL has not asked for since long, or all of them. With no lock.
void rdi_nccl_connect_sweep(bool all);

// ---- comm.c --------------------------------------------------------------------------------------

struct rdi_nccl_request {
    struct rdi_nccl_comm *comm;
    bool used, done;
    char *data;
    size_t size; // to send; room to receive
    size_t put;  // sender: bytes given to the link
    size_t got;  // bytes acknowledged, or received
    bool last_put;
};

// A message under way, in slot number % slots: what must be put again after the loss of a path.
struct rdi_nccl_sent {
    struct rdi_nccl_request *request;
    size_t off;
    uint32_t len;
    bool last;
    uint64_t number; // of the request
};

struct rdi_nccl_comm {
    struct rdi_nccl_hub *hub;
    struct rdi_nccl_comm *next; // the hub's list
    struct rdi_link *link;
    bool sender;
    int dev;
    uint32_t peer_pid;   // 0: not told
    rondo_status status; // the first error; all later calls say it again
    struct rdi_nccl_request requests[RDI_NCCL_REQS];
    uint64_t head; // first request that is not complete
    uint64_t next_request;
    // Sender.
    uint64_t put_request;   // first request that is not wholly put
    uint64_t posted, acked; // messages
    struct rdi_nccl_sent *window;
};

// The comm around a link that is UP. With the hub's lock; takes over a reference to the hub and the link.
struct rdi_nccl_comm *rdi_nccl_comm_new(struct rdi_nccl_hub *h, struct rdi_link *link, int dev);
int rdi_nccl_comm_close(struct rdi_nccl_comm *c);
// Moves messages as far as they go now; the comm's status. With the hub's lock.
rondo_status rdi_nccl_comm_pump(struct rdi_nccl_comm *c);
// Fails the comm, once, and tells NCCL's log. With the hub's lock.
rondo_status rdi_nccl_comm_fail(struct rdi_nccl_comm *c, rondo_status s, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
// NULL: there is no free one.
struct rdi_nccl_request *rdi_nccl_request_new(struct rdi_nccl_comm *c, void *data, size_t size);
int rdi_nccl_test(struct rdi_nccl_request *r, int *done, int *size);
int rdi_nccl_result(rondo_status s);

// The tag of a message: whether it is its request's last, the request's number, where it belongs.
#define RDI_NCCL_TAG_OFFSET 48
#define RDI_NCCL_TAG_NUMBER 15
static inline uint64_t rdi_nccl_tag(uint64_t number, size_t off, bool last) {
    uint64_t mask = (UINT64_C(1) << RDI_NCCL_TAG_NUMBER) - 1;
    return (uint64_t)last << 63 | (number & mask) << RDI_NCCL_TAG_OFFSET | off;
}
static inline uint64_t rdi_nccl_tag_offset(uint64_t tag) {
    return tag & ((UINT64_C(1) << RDI_NCCL_TAG_OFFSET) - 1);
}
static inline bool rdi_nccl_tag_last(uint64_t tag) { return tag >> 63; }

// ---- send.c recv.c -------------------------------------------------------------------------------

int rdi_nccl_isend(struct rdi_nccl_comm *c, void *data, size_t size, struct rdi_nccl_request **out);
int rdi_nccl_irecv(struct rdi_nccl_comm *c, int n, void **data, const size_t *sizes,
                   struct rdi_nccl_request **out);
void rdi_nccl_send_pump(struct rdi_nccl_comm *c);
void rdi_nccl_recv_pump(struct rdi_nccl_comm *c);
// Upcall: where a message that arrives belongs.
void *rdi_nccl_recv_land(struct rdi_nccl_comm *c, uint64_t tag, uint32_t len);

// ---- mem.c ---------------------------------------------------------------------------------------

int rdi_nccl_reg(struct rdi_nccl_comm *c, void *data, size_t size, int type, void **mhandle);
int rdi_nccl_reg_dmabuf(struct rdi_nccl_comm *c, void *data, size_t size, int type, uint64_t offset,
                        int fd, void **mhandle);
int rdi_nccl_dereg(struct rdi_nccl_comm *c, void *mhandle);

#endif
