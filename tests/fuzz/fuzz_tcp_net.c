// SPDX-License-Identifier: MIT
// The tcp transport as a whole against a network that holds strangers and peers: connections that say anything, prove
// the key and then claim any link, send any frames, cut anywhere, break at any time; and what the engine may ask for
// meanwhile. It runs over sockets in memory (sockets.h) and a clock of the input's.
//
// The input is a list of steps, each a byte and its arguments. Peers are as they should be, apart from the bits that
// the input changes. Whatever happens: counters keep their order, a message lands where it was told to and nowhere
// else, nothing that was closed is touched, and when all peers are silent for long no link is up.
#include "owner.h"
#include "sockets.h"
#include "transport/tcp/tcp.h"
#include "world.h"

#include <arpa/inet.h>
#include <errno.h>
#include <sys/mman.h>

#define STEPS 120
#define SLOTS 4
#define MSG 256u
#define PEERS 24

struct peer { // the other end of a connection
    struct sock *s;
    bool raw, accepts;
    struct rdi_hs hs;
    struct rdi_tcp_reply reply;
};

static struct rdi_net *net;
static struct peer peers[PEERS];
static struct rdi_options options;
static const struct rdi_job job = {
    .rank = 0, .size = 3, .auth = true, .key = world_key, .host = "here"};

// Two rails and loopback.
rondo_status __wrap_rdi_netif_list(const struct rdi_options *o, struct rdi_netif *out, size_t cap,
                                   size_t *n);
rondo_status __wrap_rdi_netif_list(const struct rdi_options *o, struct rdi_netif *out, size_t cap,
                                   size_t *n) {
    static const char *const addresses[] = {"10.0.0.1", "10.0.1.1", "127.0.0.1"};
    MUST(o != NULL && cap >= 3);
    for (unsigned i = 0; i < 3; i++) {
        out[i] = (struct rdi_netif){.family = AF_INET, .prefix = 24, .loopback = i == 2};
        snprintf(out[i].name, sizeof out[i].name, "eth%u", i);
        inet_pton(AF_INET, addresses[i], out[i].addr);
    }
    *n = 3;
    return RONDO_OK;
}

// A link's memory: a block of its own, so that a sanitizer sees a step beyond its end.
void *__wrap_mmap(void *at, size_t n, int protection, int flags, int fd, off_t offset);
void *__wrap_mmap(void *at, size_t n, int protection, int flags, int fd, off_t offset) {
    MUST(at == NULL && protection == (PROT_READ | PROT_WRITE) && fd == -1 && offset == 0);
    MUST(flags & MAP_ANONYMOUS && flags & MAP_PRIVATE);
    void *block = aligned_alloc(64, n);
    MUST(block != NULL && n % 64 == 0);
    return memset(block, 0, n);
}

int __wrap_munmap(void *at, size_t n);
int __wrap_munmap(void *at, size_t n) {
    (void)n;
    free(at);
    return 0;
}

// ---- Peers ---------------------------------------------------------------------------------------

static struct peer *add_peer(struct sock *s) {
    for (unsigned i = 0; i < PEERS && s != NULL; i++) {
        if (peers[i].s == NULL) {
            memset(&peers[i], 0, sizeof peers[i]);
            peers[i].s = s;
            return &peers[i];
        }
    }
    return NULL;
}

// The product's end is gone, or is another connection's by now.
static void forget_closed(void) {
    for (unsigned i = 0; i < PEERS; i++) {
        struct sock *s = peers[i].s;
        if (s != NULL && (s->kind == SOCKET_FREE || (s->kind != SOCKET_WAITS && !s->watched))) {
            peers[i].s = NULL;
        }
    }
}

// Whether it went on.
static bool shake(struct peer *p) {
    uint8_t bytes[RDI_HS_BUFFER];
    size_t used, n;
    while (p->hs.state == RDI_HS_RUNNING && (n = sockets_take(p->s, bytes, sizeof bytes)) > 0) {
        rdi_hs_input(&p->hs, bytes, n, &used);
    }
    if (p->hs.state == RDI_HS_NEED_REPLY) {
        rdi_hs_reply(&p->hs, bytes, rdi_tcp_reply_write(&p->reply, bytes));
    }
    n = p->hs.out_len - p->hs.out_off;
    sockets_give(p->s, p->hs.out + p->hs.out_off, n);
    rdi_hs_sent(&p->hs, n);
    return n > 0 || p->hs.state != RDI_HS_RUNNING;
}

// Carries the handshakes on. Whether one of them went on.
static bool talk(void) {
    bool moved = false;
    forget_closed();
    for (unsigned i = 0; i < PEERS; i++) {
        struct peer *p = &peers[i];
        if (p->s == NULL || p->raw || p->s->kind != SOCKET_CONNECTED) {
            continue;
        }
        if (p->hs.state != RDI_HS_DONE) {
            moved |= shake(p);
        }
        if (p->hs.state == RDI_HS_DONE) {
            p->s->out_len = 0; // frames, which are not looked at
        }
    }
    return moved;
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
        owner_check();
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
    struct peer *p = add_peer(sockets_knock(how & 3));
    const uint8_t *bytes = take_bytes(in, how >> 2, &n);
    if (p != NULL) {
        p->raw = true;
        sockets_give(p->s, bytes, n);
    }
}

// One connection, or all of a link.
static void peer_connects(struct input *in) {
    uint8_t who = take_byte(in), what = take_byte(in);
    struct rdi_tcp_hello h = {.flags = what & 1 ? RDI_TCP_RESUME : 0,
                              .id = {.comm = 7, .from = who % 3, .channel = who >> 2 & 1},
                              .session = what >> 1 & 1,
                              .epoch = what >> 2 & 3,
                              .attempt = what >> 4 & 1,
                              .paths = 1 + (who >> 4) % 3,
                              .slots = SLOTS,
                              .max_msg = MSG,
                              .port = 4711,
                              .host = "there"};
    uint8_t bytes[RDI_HS_PAYLOAD];
    unsigned first = what & 0x40 ? take_byte(in) : 0;
    unsigned last = what & 0x40 ? first + 1 : h.paths;
    for (h.path = first; h.path < last; h.path++) {
        struct peer *p = add_peer(sockets_knock(what >> 5 & 1));
        if (p == NULL) {
            return;
        }
        size_t n = rdi_tcp_hello_write(&h, bytes);
        if (what & 0x80) {
            world_change(bytes, n, in);
        }
        rdi_hs_connect(&p->hs, RDI_HS_TCP, &job, &world_env, bytes, n);
    }
}

static void give_bytes(struct input *in) {
    struct peer *p = pick_peer(take_byte(in));
    size_t n;
    const uint8_t *bytes = take_bytes(in, take_byte(in), &n);
    if (p != NULL) {
        sockets_give(p->s, bytes, n);
    }
}

static struct rdi_tcp_path *path_of(const struct sock *s) {
    struct rdi_tcp_net *n = (struct rdi_tcp_net *)net;
    for (struct rdi_tcp_link *l = n->links; l != NULL; l = l->next) {
        for (unsigned i = 0; i < l->npaths && i < RDI_TCP_PATHS; i++) {
            if (l->paths[i] != NULL && l->paths[i]->fd == s->fd) {
                return l->paths[i];
            }
        }
    }
    return NULL;
}

// A frame that its connection might well carry now.
static size_t right_frame(const struct rdi_tcp_path *p, uint8_t how, uint8_t len,
                          uint8_t out[RDI_TCP_HEAD_MAX]) {
    const struct rdi_link *l = &p->link->base;
    struct rdi_tcp_frame f = {.type = RDI_TCP_CTRL, .epoch = l->epoch, .len = len};
    size_t head = RDI_TCP_HEADER;
    if (how % 4 == 3) {
        f.type = RDI_TCP_BYE;
        f.len = 0;
        f.seq = l->sender ? l->posted : l->arrived;
        f.tag = l->sender ? f.seq : 0;
    } else if (how % 4 != 0 && l->sender) {
        f.type = RDI_TCP_ACK;
        f.len = 0;
        f.seq = how & 4 ? l->posted : l->sent;
        f.tag = how & 8 ? f.seq : f.seq / 2;
    } else if (how % 4 != 0) {
        f.type = RDI_TCP_DATA;
        f.flags = (how & 4 ? RDI_TCP_HAS_SIG : 0u) | (how & 8 ? RDI_TCP_WANTS_ACK : 0u);
        head += how & 4 ? RDI_SIG_BYTES : 0;
        f.seq = p->rx.next;
        f.tag = how >> 4;
    } else {
        f.aux = how >> 4;
    }
    memset(out, 's', RDI_TCP_HEAD_MAX);
    rdi_tcp_frame_write(&f, out);
    return head + f.len;
}

static void give_frame(struct input *in) {
    struct peer *p = pick_peer(take_byte(in));
    uint8_t how = take_byte(in), len = take_byte(in), bytes[RDI_TCP_HEAD_MAX + 256];
    if (p == NULL || p->s->kind != SOCKET_CONNECTED) {
        return;
    }
    const struct rdi_tcp_path *path = path_of(p->s);
    if (path == NULL || path->link->base.slots == 0) {
        return;
    }
    memset(bytes, 'p', sizeof bytes);
    size_t n = right_frame(path, how, len, bytes);
    if (how & 0x80) {
        world_change(bytes, RDI_TCP_HEADER, in);
    }
    sockets_give(p->s, bytes, n);
}

static void end_peer(struct input *in) {
    static const int errors[] = {0, 0, ECONNRESET, ETIMEDOUT};
    struct peer *p = pick_peer(take_byte(in));
    uint8_t how = take_byte(in);
    if (p != NULL) {
        sockets_end(p->s, errors[how % 4]);
    }
}

static void limit_peer(struct input *in) {
    struct peer *p = pick_peer(take_byte(in));
    if (p != NULL) {
        p->s->piece = take_byte(in);
        p->s->room = take_byte(in) * 8u;
    }
}

static void connect_to_peer(struct input *in) {
    struct rdi_tcp_blob blob = {.host = "there", .count = 2};
    uint8_t how = take_byte(in), bytes[RDI_BLOB_MAX];
    struct rdi_link_id id = {.comm = 7, .to = 1 + (how & 1), .channel = how >> 1 & 1};
    struct held *h = owner_held(NULL);
    blob.host_id[0] = how & 4 ? 1 : 0;
    for (unsigned i = 0; i < 2; i++) {
        blob.addr[i] = (struct rdi_tcp_addr){.family = 4,
                                             .device = (uint8_t)i,
                                             .prefix = 24,
                                             .port = 4711,
                                             .ip = {10, 0, (uint8_t)i, 2}};
    }
    size_t n = rdi_tcp_blob_write(&blob, bytes);
    if (how & 0x80) {
        world_change(bytes, n, in);
    }
    if (h != NULL && net->ops->reach(net, bytes, n) == RONDO_OK) {
        rondo_status s = net->ops->connect(net, &id, bytes, n, &h->link);
        MUST(s == RONDO_OK || rondo_last_error()[0] != '\0');
        h->link = s == RONDO_OK ? h->link : NULL;
    }
}

// Connections that we asked for stand, or do not.
static void answer_dials(struct input *in) {
    static const int errors[] = {0, 0, 0, 0, 0, ECONNREFUSED, EHOSTUNREACH, ETIMEDOUT};
    uint8_t how = take_byte(in);
    unsigned count = 1 + (how >> 6);
    struct rdi_tcp_reply reply = {
        .status = RONDO_OK, .slots = SLOTS, .max_msg = MSG, .text = "because"};
    if (how & 8) {
        reply.status = (rondo_status) - (take_byte(in) & 15);
        reply.slots = reply.max_msg = 0;
    }
    if (how & 16) {
        reply.arrived = take_byte(in) & 7;
        reply.released = take_byte(in) & 7;
        reply.slots = take_byte(in) & 7;
    }
    for (; count > 0; count--) {
        struct sock *s = sockets_pick(SOCKET_DIALING, 0);
        if (s == NULL) {
            return;
        }
        sockets_answer(s, errors[how % 8]);
        struct peer *p = add_peer(s);
        if (p != NULL) {
            p->accepts = true;
            p->reply = reply;
            rdi_hs_accept(&p->hs, RDI_HS_TCP, &job, &world_env);
        }
    }
}

// The network fails one of our connections, or this process has no descriptors left.
static void trouble(struct input *in) {
    struct held *h = owner_pick(take_byte(in));
    uint8_t how = take_byte(in);
    sockets_no_descriptors = how & 1;
    if (h != NULL && how & 2) {
        rdi_tcp_test_cut(h->link, how >> 2);
    }
}

// ---- The whole -----------------------------------------------------------------------------------

static void begin(uint8_t how) {
    struct rdi_net_params params = {.env = world_env,
                                    .options = &options,
                                    .job = &job,
                                    .events = &owner_events,
                                    .prompt = how & 2};
    options.num[RDI_OPT_SLOTS] = SLOTS;
    options.num[RDI_OPT_CHUNK] = MSG;
    options.num[RDI_OPT_TCP_SOCKETS] = 1 + (how & 1);
    options.num[RDI_OPT_CONNECT_TIMEOUT] = 5000;
    options.num[RDI_OPT_PATH_GRACE] = 2000;
    world_begin();
    for (unsigned i = 0; i < PEERS; i++) {
        peers[i].s = NULL;
    }
    owner = (struct owner){
        .slots = SLOTS, .max_msg = MSG, .longest = 2047, .ranks = job.size, .rank = job.rank};
    MUST(rdi_tcp_ops.open(&params, &net) == RONDO_OK);
}

// Everybody hangs up, and time passes: no link may believe that it is up, or wait for ever.
static void end(void) {
    sockets_no_descriptors = false;
    owner.how = 0;
    bool done = false;
    for (int i = 0; i < 12 && !done; i++) {
        struct sock *s;
        while ((s = sockets_pick(SOCKET_DIALING, 0)) != NULL) {
            sockets_answer(s, ECONNREFUSED);
        }
        for (unsigned k = 0; k < PEERS; k++) {
            if (peers[k].s != NULL) {
                peers[k].s->room = SOCKET_OUT;
                peers[k].s->piece = 0;
                sockets_end(peers[k].s, 0);
            }
        }
        talk();
        net->ops->progress(net, false);
        owner_check();
        clock_ns += 1500 * MS;
        done = owner_is_idle() && sockets_pick(SOCKET_CONNECTED, 0) == NULL;
    }
    owner_end();
    net->ops->close(net);
    sockets_check_closed();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static void (*const steps[])(struct input *) = {
        progress,  peer_connects, give_frame, connect_to_peer, answer_dials, owner_put,
        owner_ask, end_peer,      stranger,   give_bytes,      limit_peer,   trouble,
        progress,  give_frame,    give_frame, owner_ask,
    };
    struct input in = {data, size};
    begin(take_byte(&in));
    for (int i = 0; i < STEPS && in.left > 0; i++) {
        steps[take_byte(&in) % (sizeof steps / sizeof steps[0])](&in);
        owner_check();
    }
    end();
    return 0;
}
