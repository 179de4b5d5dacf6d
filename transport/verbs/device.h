// SPDX-License-Identifier: MIT
// RDMA devices: what there is, what of it to use, and how peers are told.
//
// A *port* is one port of one device of this host, as the kernel describes it. A *rail* is a port that a net
// has opened and uses. Of the many GIDs of a RoCE port one is chosen for each pair of ports, by type, family
// and subnet, never by a fixed index.
#ifndef RDI_TRANSPORT_VERBS_DEVICE_H
#define RDI_TRANSPORT_VERBS_DEVICE_H

#include "transport/verbs/ibv.h"

#define RDI_VERBS_RAILS 4u // ports that one rank uses
#define RDI_VERBS_GIDS 8u  // candidates that a port tells its peers
#define RDI_VERBS_NAME 64

// ---- What there is -------------------------------------------------------------------------------

enum rdi_gid_type { RDI_GID_IB, RDI_GID_ROCE_V1, RDI_GID_ROCE_V2 };
struct rdi_verbs_gid {
    uint8_t raw[16];
    uint16_t index; // in the port's table
    uint8_t type;   // enum rdi_gid_type
    uint8_t family; // 4 for ::ffff:a.b.c.d, else 6; of no meaning for IB
    uint8_t prefix; // bits of the interface's subnet when known (RoCE), else 0
    bool link_local;
};

struct rdi_verbs_port {
    char device[RDI_VERBS_NAME];
    uint8_t port;
    bool active, roce, iwarp;
    uint8_t state;        // enum ibv_port_state
    uint8_t phys_state;   // 5 = link up
    uint8_t mtu, max_mtu; // enum ibv_mtu, active and greatest
    uint16_t lid, sm_lid;
    uint32_t mbit_per_s; // width * speed; 0 unknown
    char netdev[32];     // RoCE: the network interface below, "" unknown
    unsigned ngids;
    struct rdi_verbs_gid gids[RDI_VERBS_GIDS]; // usable ones, best first; see rdi_verbs_gid_rank()
    unsigned gid_table;                        // entries in the whole table
    unsigned numa_node;                        // UINT_MAX unknown
    struct ibv_device_attr attr;               // of the device
};

// All ports of all devices, active or not, in a stable order (device name, port). *out is malloc'ed.
// RONDO_ERR_UNSUPPORTED with the reason in one line: no library, no device, no permission for /dev/infiniband.
rondo_status rdi_verbs_ports(const struct rdi_ibv *v, struct rdi_verbs_port **out, size_t *n);

// The ports to use: those that option `device` names ("mlx5_0+mlx5_1:2"; without ":port" the device's active
// ports), or all active ones, at most RDI_VERBS_RAILS, those of `rails` (may be NULL) first, then the fastest. A name that matches nothing is
// RONDO_ERR_INVALID that lists what there is; nothing active is RONDO_ERR_UNSUPPORTED with each port's state.
rondo_status rdi_verbs_choose_ports(const struct rdi_verbs_port *all, size_t n,
                                    const struct rdi_options *o, const struct rdi_rails *rails,
                                    unsigned *chosen, unsigned *nchosen);

// How good a GID is for a connection to anybody, greater is better; 0 = not usable (empty, or against the
// options family and verbs_gid). RoCE v2 before v1, routable before link-local, IPv4 before IPv6 when the
// option says auto. Pure.
int rdi_verbs_gid_rank(const struct rdi_verbs_gid *g, const struct rdi_options *o);

// ---- What peers are told -------------------------------------------------------------------------

struct rdi_verbs_rail_info {
    char device[16];          // cut; for messages only
    uint8_t port, link_layer; // link_layer: 0 InfiniBand, 1 RoCE, 2 iWARP
    uint8_t mtu;              // enum ibv_mtu
    bool immediates;
    bool preferred; // of a NIC that was decided for the rank
    uint16_t lid;
    uint32_t mbit_per_s;
    unsigned ngids;
    struct rdi_verbs_gid gids[2]; // the best two, of different families where there are both
};
// What a port says of itself. p->gids is best first, as rdi_verbs_rail_open() leaves it in r->info.
void rdi_verbs_rail_tell(const struct rdi_verbs_port *p, struct rdi_verbs_rail_info *out);

struct rdi_verbs_address {
    unsigned nrails; // at least 1
    struct rdi_verbs_rail_info rails[RDI_VERBS_RAILS];
};
// Reading checks every field.
#define RDI_VERBS_ADDRESS_MAX 288
#define RDI_VERBS_ADDRESS_VERSION 2 // its first byte
size_t rdi_verbs_address_write(const struct rdi_verbs_address *a,
                               uint8_t out[RDI_VERBS_ADDRESS_MAX]);
bool rdi_verbs_address_read(struct rdi_verbs_address *a, const void *in, size_t len);

// A pair of ports that can reach each other, with the GIDs of both ends.
struct rdi_verbs_pair {
    uint8_t mine, theirs;      // rails
    uint8_t my_gid, their_gid; // index into rail_info.gids; of no meaning without GRH
    bool grh;                  // RoCE always; InfiniBand across subnets
    uint8_t mtu;               // the smaller of both
    bool immediates;           // both have them
    // Pairs of the greatest tier are used, and the next one where all of these fail: 4 both ports are preferred and in one
    // subnet, 3 one of them is, 2 both are preferred, 1 one of them is, 0 none.
    uint8_t tier;
};
// Pairs that can be used at the same time, best first: each rail in at most one pair; same link layer; by tier; same
// subnet (RoCE: GID family and prefix; InfiniBand: GID prefix) before others. Both ends, given the same two
// addresses, come to the same pairs. 0: `why` says for each combination what does not fit. Pure.
unsigned rdi_verbs_pairs(const struct rdi_verbs_address *mine,
                         const struct rdi_verbs_address *theirs,
                         struct rdi_verbs_pair out[RDI_VERBS_RAILS], char *why, size_t cap);

// "10.0.0.1" or "fe80::1" or "fe80:0000:…" for InfiniBand.
const char *rdi_verbs_gid_text(const struct rdi_verbs_gid *g, char *buf, size_t cap);

// ---- Rails ---------------------------------------------------------------------------------------

struct rdi_verbs_mr; // cached registration

struct rdi_verbs_rail {
    const struct rdi_ibv *v;
    struct rdi_verbs_port info;
    struct ibv_context *context;
    struct ibv_pd *pd;
    struct ibv_comp_channel *channel; // non-blocking descriptor
    struct ibv_cq *cq;
    unsigned cq_size, cq_used; // entries; those promised to queue pairs: cq_used <= cq_size
    unsigned events;           // got and not yet acknowledged
    bool relaxed;              // registers with relaxed ordering
    bool relaxed_wanted;       // and must: the option says yes
    bool down;                 // the port has reported an error and not yet come back
    bool fork_unsafe; // a child of this process could disturb transfers: worth a line in the log
    struct rdi_verbs_mr *mrs, *stale; // usable, last used first; of memory that is gone, but held
    unsigned nmrs;                    // in the first list
    uint64_t mr_frees; // rdi_mem_frees() when that list was last compared with the memory
};
// Opens a port: context, protection domain, completion channel and queue, all descriptors non-blocking.
// r->info is the port with its GIDs read anew, of which those remain that `o` permits.
// Decides ibv_fork_init() first (once in the process, before the first registration, not where the kernel
// copies on fork). Errors name the device, the call, the errno and the remedy (memlock, permissions).
rondo_status rdi_verbs_rail_open(struct rdi_verbs_rail *r, const struct rdi_ibv *v,
                                 const struct rdi_verbs_port *port, const struct rdi_options *o);
void rdi_verbs_rail_close(struct rdi_verbs_rail *r);
// Reads all asynchronous events that are there. Events of other ports are ignored. *fatal: the device is gone
// (why says so). Sets r->down. Returns how many were read. Events of queue pairs call `qp_event` (may be NULL).
int rdi_verbs_rail_async(struct rdi_verbs_rail *r, const struct rdi_env *env, bool *fatal,
                         char *why, size_t cap,
                         void (*qp_event)(void *self, struct ibv_qp *qp, enum ibv_event_type type),
                         void *self);

// ---- Registration --------------------------------------------------------------------------------

// Memory of the library's own (slots, staging), `access` as in ibv_reg_mr plus relaxed ordering where on.
rondo_status rdi_verbs_reg(struct rdi_verbs_rail *r, void *at, size_t bytes, int access,
                           struct ibv_mr **mr);
// The same without relaxed ordering, whatever the option says.
rondo_status rdi_verbs_reg_ordered(struct rdi_verbs_rail *r, void *at, size_t bytes, int access,
                                   struct ibv_mr **mr);
// The registration that covers [ptr, ptr+len) for local reading, from the cache: only memory from
// rondo_mem_alloc() or rondo_mem_register() is ever cached, keyed by its id, so that memory which was freed and
// mapped anew is never taken for the old. NULL: not such memory, or the device refuses; the caller copies.
// The answer is valid until put() is called, once for each get(). Registrations of memory that was freed or
// unregistered meanwhile are dropped at the next get() or sweep() when nobody holds them.
struct ibv_mr *rdi_verbs_mr_get(struct rdi_verbs_rail *r, const void *ptr, size_t len,
                                struct rdi_verbs_mr **held);
void rdi_verbs_mr_put(struct rdi_verbs_rail *r, struct rdi_verbs_mr *held);
void rdi_verbs_mr_sweep(struct rdi_verbs_rail *r);

// ---- Device memory -------------------------------------------------------------------------------

// Registers [ptr, ptr+len) of device memory that rdi_mem_register_device() was told of: by its DMA-BUF, else by
// its address where nvidia-peermem is loaded. RONDO_ERR_INVALID: not such memory. RONDO_ERR_UNSUPPORTED: neither
// way is there; the text names the port and what it lacks.
rondo_status rdi_verbs_reg_device(struct rdi_verbs_rail *r, const void *ptr, size_t len, int access,
                                  struct ibv_mr **mr);
// As rdi_verbs_mr_get(), for device memory. The whole range that was told of is registered and cached.
rondo_status rdi_verbs_mr_get_device(struct rdi_verbs_rail *r, const void *ptr, size_t len,
                                     struct rdi_verbs_mr **held, struct ibv_mr **mr);
// Whether the module is loaded that lets RDMA devices find GPU memory by its address, below `root` ("" or a
// test's folder); and on this host.
bool rdi_verbs_has_peermem(const char *root);
bool rdi_verbs_peermem(void);
// For tests: this host's is looked for below `root` from now on.
void rdi_verbs_test_root(const char *root);
// Registers device memory by its DMA-BUF descriptor (`offset` and `iova` share their offset in a page).
// RONDO_ERR_UNSUPPORTED where library, kernel or device cannot; rdi_verbs_has_dmabuf() asks without memory.
rondo_status rdi_verbs_reg_dmabuf(struct rdi_verbs_rail *r, int fd, uint64_t offset, size_t len,
                                  uint64_t iova, int access, struct ibv_mr **mr);
bool rdi_verbs_has_dmabuf(const struct rdi_ibv *v, struct ibv_pd *pd);

// ---- Words and units -----------------------------------------------------------------------------

// What a completion's status means, its likely cause and the remedy: "transport retry counter exceeded: no
// acknowledgement from the peer; …". Never NULL.
const char *rdi_verbs_status_text(enum ibv_wc_status s);
const char *rdi_verbs_status_remedy(enum ibv_wc_status s);
// Local ACK timeout exponent (4.096 us * 2^t, 1..31) of at least `ms`, and back; RNR timer code (1..31) of at
// least `us` (InfiniBand specification, volume 1, table 45).
uint8_t rdi_verbs_timeout_code(uint64_t ms);
uint64_t rdi_verbs_timeout_us(uint8_t code);
uint8_t rdi_verbs_rnr_code(uint64_t us);
// After how long a silent peer is given up, at the least, in ms: timeout * (retries + 1).
uint64_t rdi_verbs_giveup_ms(uint8_t timeout_code, unsigned retries);
static inline unsigned rdi_verbs_mtu_bytes(uint8_t mtu) { return 128u << mtu; }

#endif
