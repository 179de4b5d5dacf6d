// SPDX-License-Identifier: MIT
// The shared-memory transport as a whole against peers that are on this host and have the key, or have not: they say
// anything on their sockets, pass any descriptors, and write anything into the memory of a link; and what the engine
// may ask for meanwhile. Sockets and memory are fake_memory.h's, the clock is the input's.
//
// The input is a list of steps, each a byte and its arguments. Peers do what a rank does, apart from what the input
// changes. Whatever happens: counters keep their order, nothing outside of a link's memory is read or written, all
// descriptors and maps are given back, and when all peers are gone for long no link is up.
#include "fake_memory.h"
#include "owner.h"
#include "transport/mem.h"
#include "transport/shm/shm.h"
#include "world.h"

#include <errno.h>
#include <sys/stat.h>
#include <unistd.h>

#define STEPS 120
#define SLOTS 4u
#define MSG ((16u << 10) + 64)
#define BLOCK (32u << 10)
#define PEERS 16

struct peer { // the other end of a connection
    struct sock *s;
    bool raw;
    struct rdi_hs hs;
    struct shm_reply reply; // when the product has dialled
    uint8_t how;            // what it leaves out or gets wrong: enum wrong
};
enum wrong {
    WRONG_EVENT = 1,
    WRONG_BELL = 2,
    WRONG_COUNT = 4, // of descriptors
    WRONG_SIZE = 8,
    WRONG_TYPE = 16,
    WRONG_VERDICT = 32,
    SILENT = 64, // says nothing after the handshake
};

static struct rdi_net *net;
static struct peer peers[PEERS];
static struct rdi_options options;
static struct rdi_job job = {.rank = 0, .size = 3, .auth = true, .key = world_key, .host = "here"};
static uint64_t frees, first_alive;
static int dial_error;
static uint8_t dial_how;

// ---- Peers ---------------------------------------------------------------------------------------

static struct peer *add_peer(struct sock *s, uint8_t how) {
    for (unsigned i = 0; i < PEERS && s != NULL; i++) {
        if (peers[i].s == NULL) {
            memset(&peers[i], 0, sizeof peers[i]);
            peers[i].s = s;
            peers[i].how = how;
            return &peers[i];
        }
    }
    return NULL;
}

// The product's end is gone.
static void forget_closed(void) {
    for (unsigned i = 0; i < PEERS; i++) {
        struct sock *s = peers[i].s;
        if (s != NULL && s->kind != SOCKET_CONNECTED && s->kind != SOCKET_WAITS) {
            peers[i].s = NULL;
        }
    }
}

static struct peer *pick_peer(uint8_t number) {
    forget_closed();
    for (unsigned i = 0; i < PEERS; i++) {
        if (peers[(number + i) % PEERS].s != NULL) {
            return &peers[(number + i) % PEERS];
        }
    }
    return NULL;
}

// A record with the descriptors that belong to it.
static void give_record(struct peer *p, const struct shm_record *rec, size_t memory) {
    uint8_t bytes[SHM_RECORD_MAX];
    int fds[SHM_FDS_MAX];
    size_t n = 0, len = shm_record_write(rec, bytes);
    if (rec->type == SHM_REGION || rec->type == SHM_OFFER) {
        fds[n++] = memory_descriptor(DESCRIPTOR_MEMORY, memory);
    }
    if (rec->type == SHM_REGION || rec->type == SHM_BELL) {
        enum descriptor wrong = p->how & 128 ? DESCRIPTOR_PIPE : DESCRIPTOR_BLOCKS;
        fds[n++] = memory_descriptor(p->how & WRONG_EVENT ? wrong : DESCRIPTOR_EVENT, 0);
        fds[n++] = memory_descriptor(DESCRIPTOR_MEMORY,
                                     sizeof(struct shm_bell) - (p->how & WRONG_BELL ? 1 : 0));
    }
    if (n > 0 && p->how & WRONG_COUNT && fds[n - 1] >= 0) {
        close(fds[--n]);
    }
    for (size_t i = 0; i < n; i++) {
        if (fds[i] < 0) { // there are none left
            fds[i--] = fds[--n];
        }
    }
    packet_give(p->s, bytes, len, fds, n);
}

static void after_handshake(struct peer *p, size_t region) {
    uint8_t bytes[SHM_RECORD_MAX];
    size_t n;
    struct shm_record rec;
    if (p->hs.connector) {
        // The product has sent the region, or will; a bell is the answer, and then its verdict comes.
        while (packet_take(p->s, bytes, sizeof bytes, &n)) {
            if (n >= 4 && bytes[0] == SHM_REGION && !(p->how & SILENT)) {
                rec = (struct shm_record){.type = p->how & WRONG_TYPE ? SHM_VERDICT : SHM_BELL};
                give_record(p, &rec, 0);
            }
        }
        return;
    }
    while (packet_take(p->s, bytes, sizeof bytes, &n)) {
        if (n >= 4 && bytes[0] == SHM_BELL && !(p->how & (SILENT | WRONG_TYPE))) {
            rec = (struct shm_record){.type = SHM_VERDICT, .text = "because"};
            rec.value = p->how & WRONG_VERDICT ? (uint64_t) - (int64_t)RONDO_ERR_USAGE : 0;
            give_record(p, &rec, 0);
        }
    }
    if (region > 0 && !(p->how & SILENT)) {
        rec = (struct shm_record){.type = SHM_REGION, .value = region};
        give_record(p, &rec, region + (p->how & WRONG_SIZE ? 1 : 0));
    }
}

// How large the region is that this peer gives, once.
static size_t shake(struct peer *p) {
    uint8_t bytes[RDI_HS_BUFFER];
    size_t used, n, region = 0;
    while (p->hs.state == RDI_HS_RUNNING && packet_take(p->s, bytes, sizeof bytes, &n)) {
        rdi_hs_input(&p->hs, bytes, n, &used);
    }
    if (p->hs.state == RDI_HS_NEED_REPLY) {
        rdi_hs_reply(&p->hs, bytes, shm_reply_write(&p->reply, bytes));
        region = shm_region_bytes(p->reply.slots % 8, p->reply.max_msg);
    }
    if (p->hs.out_len > p->hs.out_off) {
        n = p->hs.out_len - p->hs.out_off;
        packet_give(p->s, p->hs.out + p->hs.out_off, n, NULL, 0);
        rdi_hs_sent(&p->hs, n);
    }
    return region;
}

// Carries on with what ranks say to each other before a link is up. Whether anybody said something.
static bool talk(void) {
    bool moved = false;
    forget_closed();
    for (unsigned i = 0; i < PEERS; i++) {
        struct peer *p = &peers[i];
        if (p->s == NULL || p->raw || p->s->kind != SOCKET_CONNECTED) {
            continue;
        }
        size_t had = p->s->out_len, region = p->hs.state != RDI_HS_DONE ? shake(p) : 0;
        moved |= had > 0 || region > 0 || p->s->in_off < p->s->in_len;
        if (p->hs.state == RDI_HS_DONE && (region > 0 || p->s->out_len > 0)) {
            after_handshake(p, region);
        }
    }
    return moved;
}

// Of /proc/self/ns/user: a call less.
int __real_stat(const char *path, struct stat *out);
int __wrap_stat(const char *path, struct stat *out);
int __wrap_stat(const char *path, struct stat *out) {
    if (strcmp(path, "/proc/self/ns/user") != 0) {
        return __real_stat(path, out);
    }
    *out = (struct stat){.st_ino = 4711};
    return 0;
}

int __wrap_shm_listen(const struct shm_address *a);
int __wrap_shm_listen(const struct shm_address *a) {
    struct sock *s = sockets_new(SOCKET_LISTENS);
    (void)a;
    errno = s == NULL ? EMFILE : 0;
    return s != NULL ? s->fd : -1;
}

int __wrap_shm_dial(const struct shm_address *a);
int __wrap_shm_dial(const struct shm_address *a) {
    struct sock *s = dial_error == 0 && !sockets_no_descriptors ? sockets_connected() : NULL;
    if (s == NULL) {
        errno = dial_error != 0 ? dial_error : EMFILE;
        return -1;
    }
    struct peer *p = add_peer(s, dial_how);
    if (p != NULL) {
        p->reply = (struct shm_reply){
            .status = RONDO_OK, .slots = SLOTS, .max_msg = MSG, .pid = a->pid, .text = "because"};
        memcpy(p->reply.name, a->name, sizeof a->name);
        p->reply.slots = dial_how & 128 ? SLOTS / 2 : SLOTS;
        p->reply.status = dial_how == 255 ? RONDO_ERR_NOMEM : RONDO_OK;
        rdi_hs_accept(&p->hs, RDI_HS_SHM, &job, &world_env);
    }
    return s->fd;
}

// Some run as another user; some are not seen by their process.
bool __wrap_shm_same_user(int fd, int32_t *pid);
bool __wrap_shm_same_user(int fd, int32_t *pid) {
    struct sock *s = sockets_of(fd);
    *pid = s->mark % 4 == 1 ? 0 : 77777;
    return s->mark % 4 != 2;
}

// ---- Blocks of rondo_mem_alloc(): all long messages lie in them -----------------------------------

uint64_t __wrap_rdi_mem_frees(void);
uint64_t __wrap_rdi_mem_frees(void) { return frees; }

bool __wrap_rdi_mem_alive(uint64_t id);
bool __wrap_rdi_mem_alive(uint64_t id) { return id >= first_alive; }

static int block_fd = -1;
bool __wrap_rdi_mem_find(const void *ptr, size_t len, int *fd, uint64_t *id, uint64_t *offset,
                         uint64_t *bytes);
bool __wrap_rdi_mem_find(const void *ptr, size_t len, int *fd, uint64_t *id, uint64_t *offset,
                         uint64_t *bytes) {
    (void)ptr;
    if (block_fd < 0) {
        return false;
    }
    *fd = block_fd;
    *id = first_alive + len % 3;
    *offset = len % 64;
    *bytes = BLOCK;
    return true;
}

// ---- The contract, beyond what owner.h holds it to -----------------------------------------------

static bool lies_in(const uint8_t *data, size_t n, const void *block, size_t bytes) {
    const uint8_t *start = block;
    return start != NULL && data >= start && n <= bytes && data <= start + (bytes - n);
}

// Messages lie in their slot, in the place for its payload, or in a block that the sender has lent.
static void check_messages(const struct shm_link *l) {
    for (uint64_t q = l->base.released; q < l->base.arrived; q++) {
        size_t i = q % l->base.slots;
        const struct shm_used *u = &l->used[i];
        bool inside =
            lies_in(u->data, u->len, l->region.slots[i].body, sizeof l->region.slots[i].body);
        inside |=
            lies_in(u->data, u->len, l->region.data + i * l->region.data_stride, l->base.max_msg);
        for (uint32_t k = 0; k < l->n_borrowed; k++) {
            inside |= lies_in(u->data, u->len, l->borrowed[k].map, l->borrowed[k].bytes);
        }
        MUST(inside);
    }
}

static void check(void) {
    struct shm_net *n = (struct shm_net *)net;
    owner_check();
    for (size_t i = 0; i < n->n_links; i++) {
        if (!n->links[i]->base.sender && n->links[i]->region.head != NULL) {
            check_messages(n->links[i]);
        }
    }
}

// ---- Steps ---------------------------------------------------------------------------------------

static void progress(struct input *in) {
    static const uint64_t steps[] = {0, 0, 1, 30, 250, 600, 2500, 11000};
    uint8_t how = take_byte(in);
    owner.how = how >> 5;
    clock_ns += steps[how % 8] * MS;
    bool moved = true;
    for (int i = 0; i < 3 && moved; i++) {
        moved = talk();
        moved |= net->ops->progress(net, how & 8) > 0 || how & 8;
        check();
    }
    if (how & 16) {
        uint64_t timeout = UINT64_MAX;
        net->ops->arm(net, &timeout);
        net->ops->disarm(net);
    }
}

static void stranger(struct input *in) {
    size_t n;
    uint8_t how = take_byte(in);
    struct sock *s = sockets_knock(0);
    struct peer *p = add_peer(s, 0);
    const uint8_t *bytes = take_bytes(in, how >> 2, &n);
    if (s != NULL) {
        s->mark = how & 3;
    }
    if (p != NULL) {
        p->raw = true;
        packet_give(s, bytes, n, NULL, 0);
    }
}

static void peer_connects(struct input *in) {
    uint8_t who = take_byte(in), how = take_byte(in), bytes[RDI_HS_PAYLOAD];
    struct shm_hello h = {.id = {.comm = 7, .from = who % 3, .channel = who >> 2 & 1},
                          .slots = who & 16 ? SLOTS / 2 : SLOTS,
                          .max_msg = who & 32 ? 128 : MSG,
                          .pid = 4711};
    struct peer *p = add_peer(sockets_knock(0), how);
    memset(h.name, who & 7, sizeof h.name);
    if (p == NULL) {
        return;
    }
    size_t n = shm_hello_write(&h, bytes);
    if (who & 0x80) {
        world_change(bytes, n, in);
    }
    p->s->mark = who >> 6 & 1;
    rdi_hs_connect(&p->hs, RDI_HS_SHM, &job, &world_env, bytes, n);
}

static void connect_to_peer(struct input *in) {
    static const int errors[] = {0, 0, 0, 0, 0, ECONNREFUSED, EAGAIN, EACCES};
    uint8_t how = take_byte(in), bytes[RDI_BLOB_MAX];
    struct shm_address a = {.pid = 4711, .uid = (uint32_t)geteuid()};
    struct rdi_link_id id = {.comm = 7, .to = 1 + (how & 1), .channel = how >> 1 & 1};
    struct held *h = owner_held(NULL);
    dial_error = errors[how >> 2 & 7];
    dial_how = take_byte(in);
    memset(a.name, how & 3, sizeof a.name);
    a.user_ns = ((struct shm_net *)net)->address.user_ns;
    size_t n = shm_address_write(&a, bytes);
    if (how & 0x80) {
        world_change(bytes, n, in);
    }
    if (h != NULL && net->ops->reach(net, bytes, n) == RONDO_OK) {
        rondo_status s = net->ops->connect(net, &id, bytes, n, &h->link);
        MUST(s == RONDO_OK);
    }
}

// Any bytes as a packet, with any descriptors.
static void give_packet(struct input *in) {
    struct peer *p = pick_peer(take_byte(in));
    uint8_t how = take_byte(in);
    size_t n, n_fds = how & 3;
    const uint8_t *bytes = take_bytes(in, how >> 2, &n);
    int fds[SHM_FDS_MAX];
    for (size_t i = 0; p != NULL && i < n_fds; i++) {
        fds[i] = memory_descriptor(DESCRIPTOR_MEMORY, sizeof(struct shm_bell));
        n_fds = fds[i] < 0 ? i : n_fds;
    }
    if (p != NULL) {
        packet_give(p->s, bytes, n, fds, n_fds);
    }
}

static void give_any_record(struct input *in) {
    struct peer *p = pick_peer(take_byte(in));
    uint8_t type = take_byte(in);
    struct shm_record rec = {.type = SHM_REGION + type % 6,
                             .handle = (uint32_t)take_number(in, 2),
                             .value = take_number(in, 2),
                             .text = "because"};
    if (p != NULL) {
        p->how = take_byte(in);
        give_record(p, &rec, type & 0x80 ? (size_t)take_number(in, 2) : rec.value);
    }
}

// A link whose memory both ends have.
static struct shm_link *pick_link(uint8_t number) {
    struct shm_net *n = (struct shm_net *)net;
    for (size_t i = 0; i < n->n_links; i++) {
        struct shm_link *l = n->links[(number + i) % n->n_links];
        if (l->region.head != NULL) {
            return l;
        }
    }
    return NULL;
}

// What a sender writes, or nearly that.
static void write_message(struct input *in) {
    struct shm_link *l = pick_link(take_byte(in));
    uint8_t flags = take_byte(in), tag = take_byte(in);
    uint32_t len = (uint32_t)take_number(in, 2);
    struct shm_reference ref = {.handle = take_byte(in), .offset = tag};
    if (l == NULL || l->base.sender) {
        return;
    }
    uint64_t q = l->base.arrived;
    while (q < l->base.arrived + l->base.slots - 1 &&
           l->region.slots[q % l->base.slots].seq == q + 1) {
        q++;
    }
    struct shm_slot *slot = &l->region.slots[q % l->base.slots];
    slot->tag = tag;
    slot->len = len;
    slot->flags = flags & 0x70 ? flags & 15u : flags;
    memcpy(slot->body + (flags & SHM_HAS_SIG ? RDI_SIG_BYTES : 0), &ref, sizeof ref);
    slot->seq = q + 1 + (flags & 0x70 ? 0 : tag & 1);
}

// What the other end says in its line, or nearly that.
static void write_side(struct input *in) {
    struct shm_link *l = pick_link(take_byte(in));
    uint8_t how = take_byte(in), n = take_byte(in);
    if (l == NULL) {
        return;
    }
    struct shm_side *side = (struct shm_side *)(uintptr_t)l->theirs;
    struct shm_ctrl *c =
        (struct shm_ctrl *)(uintptr_t)&l->ctrl_in[side->ctrl_posted % SHM_CTRL_RING];
    switch (how % 5) {
    case 0:
        side->released = how & 8 ? l->base.posted : l->base.sent + (uint64_t)(int8_t)n;
        break;
    case 1:
        c->type = n;
        c->len = how & 8 ? 40 : n * 8u;
        side->ctrl_posted++;
        break;
    case 2:
        side->ctrl_taken = how & 8 ? l->ctrl_posted : l->ctrl_posted + (uint64_t)(int8_t)n;
        break;
    case 3:
        side->bye = n;
        break;
    default:
        if (l->peer != NULL) {
            ((struct shm_bell *)(uintptr_t)l->peer->bell)->word = n;
        }
        break;
    }
}

static void write_anything(struct input *in) {
    struct shm_link *l = pick_link(take_byte(in));
    size_t at = take_number(in, 2), n;
    const uint8_t *bytes = take_bytes(in, 1 + take_byte(in) % 64, &n);
    if (l != NULL) {
        at %= l->region.bytes - n;
        memcpy((uint8_t *)l->region.head + at, bytes, n);
    }
}

static void end_peer(struct input *in) {
    static const int errors[] = {0, 0, ECONNRESET, ENOMEM};
    struct peer *p = pick_peer(take_byte(in));
    uint8_t how = take_byte(in);
    struct shm_link *l = pick_link(how >> 2);
    if (how & 0x80 && l != NULL && l->peer != NULL && l->peer->pidfd >= 0) {
        sockets_end(sockets_of(l->peer->pidfd), 0); // its process ends, and somebody has its socket
    } else if (p != NULL) {
        sockets_end(p->s, errors[how % 4]);
    }
}

// No room in a socket, no descriptors, blocks that their owner freed, somebody rings.
static void trouble(struct input *in) {
    struct peer *p = pick_peer(take_byte(in));
    uint8_t how = take_byte(in);
    sockets_no_descriptors = (how & 3) == 3;
    if (p != NULL && how & 4) {
        p->s->room = how >> 6;
    }
    if (how & 8) {
        frees++;
        first_alive += how >> 6;
    }
    if (how & 16) {
        sockets_give(sockets_of(((struct shm_net *)net)->eventfd), "8 bytes.", 8);
    }
}

// ---- The whole -----------------------------------------------------------------------------------

static void begin(uint8_t how) {
    struct rdi_net_params params = {
        .env = world_env, .options = &options, .job = &job, .events = &owner_events};
    job.auth = how & 1;
    options.num[RDI_OPT_SLOTS] = SLOTS;
    options.num[RDI_OPT_CHUNK] = MSG;
    options.num[RDI_OPT_ZERO_COPY] = !(how & 2);
    options.num[RDI_OPT_CONNECT_TIMEOUT] = 5000;
    world_begin();
    frees = 0;
    first_alive = 1;
    for (unsigned i = 0; i < PEERS; i++) {
        peers[i].s = NULL;
    }
    owner = (struct owner){
        .slots = SLOTS, .max_msg = MSG, .longest = MSG, .ranks = job.size, .rank = job.rank};
    memory_begin(shm_region_bytes(SLOTS, 0));
    block_fd = memory_descriptor(DESCRIPTOR_MEMORY, BLOCK);
    MUST(rdi_shm_ops.open(&params, &net) == RONDO_OK);
}

// Everybody ends, and time passes: no link may believe that it is up, or wait for ever.
static void end(void) {
    sockets_no_descriptors = false;
    owner.how = 0;
    dial_error = ECONNREFUSED;
    bool done = false;
    for (int i = 0; i < 6 && !done; i++) {
        for (unsigned k = 0; k < PEERS; k++) {
            if (peers[k].s != NULL) {
                peers[k].s->room = SOCKET_OUT;
                sockets_end(peers[k].s, 0);
            }
        }
        net->ops->progress(net, false);
        check();
        clock_ns += 2500 * MS;
        forget_closed();
        done = owner_is_idle() && sockets_pick(SOCKET_CONNECTED, 0) == NULL;
    }
    owner_end();
    net->ops->close(net);
    close(block_fd);
    memory_check_closed();
    sockets_check_closed();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static void (*const steps[])(struct input *) = {
        progress,  peer_connects, connect_to_peer, write_message,   write_side,  write_anything,
        owner_put, owner_ask,     end_peer,        stranger,        give_packet, give_any_record,
        trouble,   progress,      write_message,   give_any_record,
    };
    struct input in = {data, size};
    begin(take_byte(&in));
    for (int i = 0; i < STEPS && in.left > 0; i++) {
        steps[take_byte(&in) % (sizeof steps / sizeof steps[0])](&in);
        check();
    }
    end();
    return 0;
}
