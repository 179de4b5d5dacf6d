// SPDX-License-Identifier: MIT
// What a peer with the key can say on a tcp link, and on connections that it opens besides.
#include "peer.h"

#include "transport/tcp/tcp.h"

#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static struct rdi_tcp_link *tcp(struct rdi_link *l) { return (struct rdi_tcp_link *)l; }

// ---- Bytes on the link ---------------------------------------------------------------------------

static void say(int fd, const void *bytes, size_t n) {
    for (size_t done = 0; done < n;) {
        ssize_t k = send(fd, (const uint8_t *)bytes + done, n - done, MSG_NOSIGNAL);
        if (k > 0) {
            done += (size_t)k;
        } else if (errno == EAGAIN) {
            struct pollfd p = {.fd = fd, .events = POLLOUT};
            poll(&p, 1, 100);
        } else if (errno != EINTR) {
            return; // rank 0 has had enough
        }
    }
}

static void frame(struct rdi_link *l, const struct rdi_tcp_frame *f, const void *rest, size_t n) {
    uint8_t head[RDI_TCP_HEADER];
    int fd = tcp(l)->paths[0]->fd;
    rdi_tcp_frame_write(f, head);
    say(fd, head, sizeof head);
    say(fd, rest, n);
}

// A message that would be right, but for what the variant says.
enum {
    SEQ_AHEAD,
    SEQ_BEHIND,
    SEQ_HUGE,
    EPOCH,
    TOO_LONG,
    LEN_MAX,
    FLAGS,
    AUX,
    NO_SIGNATURE,
    OTHER_SIGNATURE,
    WRONG_SIGNATURE,
    WRONG_TAG,
    LANDING_TAG,
    EMPTY,
};
static void message(struct peer *p, unsigned variant) {
    struct rdi_link *l = p->out;
    static uint8_t rest[RDI_SIG_BYTES + 4096];
    struct rdi_tcp_frame f = {.type = RDI_TCP_DATA,
                              .flags = RDI_TCP_HAS_SIG,
                              .epoch = l->epoch,
                              .seq = l->posted,
                              .len = 4096};
    memset(rest, 0xee, sizeof rest);
    if (variant != OTHER_SIGNATURE) {
        peer_signature(p, variant == WRONG_SIGNATURE, rest);
    }
    switch (variant) {
    case SEQ_AHEAD:
        f.seq++;
        break;
    case SEQ_BEHIND:
        f.seq--;
        break;
    case SEQ_HUGE:
        f.seq = UINT64_MAX;
        break;
    case EPOCH:
        f.epoch++;
        break;
    case TOO_LONG:
        f.len = l->max_msg + 1;
        break;
    case LEN_MAX:
        f.len = UINT32_MAX;
        break;
    case FLAGS:
        f.flags = 0xff;
        break;
    case AUX:
        f.aux = 1;
        break;
    case NO_SIGNATURE:
        f.flags = 0;
        break;
    case OTHER_SIGNATURE:
    case WRONG_SIGNATURE:
        break;
    case WRONG_TAG:
        f.tag = UINT64_C(0x00ffffffffffff);
        break;
    case LANDING_TAG: { // of the operation that runs, with an offset beyond its buffer
        f.tag = (p->rank->comm->seq << 48) | UINT64_C(0xfffffff0);
        break;
    }
    case EMPTY:
        f.len = 0;
        break;
    }
    size_t sig = f.flags & RDI_TCP_HAS_SIG ? (size_t)RDI_SIG_BYTES : 0;
    frame(l, &f, rest, sig + (f.len <= 4096 ? f.len : 4096));
}

// More messages than there are slots.
static void no_credit(struct peer *p, unsigned variant) {
    struct rdi_link *l = p->out;
    static uint8_t sig[RDI_SIG_BYTES];
    (void)variant;
    for (uint64_t i = 0; i <= 2 * l->slots; i++) {
        struct rdi_tcp_frame f = {.type = RDI_TCP_DATA,
                                  .flags = RDI_TCP_HAS_SIG,
                                  .epoch = l->epoch,
                                  .seq = l->posted + i};
        frame(l, &f, sig, sizeof sig);
    }
}

enum { ACK_AHEAD, ACK_RELEASED, ACK_FIELDS, ACK_BEHIND };
static void acknowledge(struct peer *p, unsigned variant) {
    struct rdi_link *l = p->in;
    struct rdi_tcp_frame f = {.type = RDI_TCP_ACK, .epoch = l->epoch, .seq = l->arrived};
    f.tag = l->released;
    f.seq += variant == ACK_AHEAD ? 1000 : 0;
    f.tag = variant == ACK_RELEASED ? f.seq + 1 : variant == ACK_BEHIND ? 0 : f.tag;
    f.seq = variant == ACK_BEHIND ? 0 : f.seq;
    f.len = variant == ACK_FIELDS ? 8 : 0;
    frame(l, &f, "12345678", f.len);
}

// A message to the sender, an acknowledgement to the receiver.
static void against(struct peer *p, unsigned variant) {
    struct rdi_tcp_frame f = {.type = variant == 0 ? RDI_TCP_DATA : RDI_TCP_ACK};
    struct rdi_link *l = variant == 0 ? p->in : p->out;
    f.epoch = l->epoch;
    frame(l, &f, NULL, 0);
}

static void unknown_type(struct peer *p, unsigned variant) {
    struct rdi_tcp_frame f = {.type = (enum rdi_tcp_frame_type)variant, .epoch = p->out->epoch};
    frame(p->out, &f, NULL, 0);
}

static void garbage(struct peer *p, unsigned variant) {
    static uint8_t bytes[100000];
    for (size_t i = 0; i < sizeof bytes; i++) {
        bytes[i] = (uint8_t)(i * 2654435761u >> 13);
    }
    say(tcp(p->out)->paths[0]->fd, bytes, variant);
}

// ---- Control messages ----------------------------------------------------------------------------

enum { CTRL_LONG, CTRL_TYPE, CTRL_SIG, CTRL_SIG_SHORT, CTRL_ABORT };
static void control(struct peer *p, unsigned variant) {
    static uint8_t bytes[2 * RDI_CTRL_MAX];
    memset(bytes, 0xee, sizeof bytes);
    peer_signature(p, true, bytes);
    struct rdi_tcp_frame f = {.type = RDI_TCP_CTRL, .epoch = p->out->epoch, .len = RDI_SIG_BYTES};
    switch (variant) {
    case CTRL_LONG:
        f.len = RDI_CTRL_MAX + 1;
        break;
    case CTRL_TYPE:
        f.aux = 63;
        break;
    case CTRL_SIG:
        f.aux = RDI_CTRL_SIG;
        break;
    case CTRL_SIG_SHORT:
        f.aux = RDI_CTRL_SIG;
        f.len = 3;
        break;
    case CTRL_ABORT: // status, then text without an end
        f.aux = RDI_CTRL_ABORT;
        for (f.len = 0; f.len <= RDI_CTRL_MAX; f.len += 4) { // one of the lengths is the right one
            frame(p->out, &f, bytes, f.len);
        }
        return;
    }
    frame(p->out, &f, bytes, f.len);
}

enum { BYE_AHEAD, BYE_NOW, BYE_FIELDS };
static void good_bye(struct peer *p, unsigned variant) {
    struct rdi_tcp_frame f = {.type = RDI_TCP_BYE, .epoch = p->out->epoch, .seq = p->out->posted};
    f.seq += variant == BYE_AHEAD ? UINT64_C(1) << 40 : 0;
    f.tag = variant == BYE_FIELDS;
    frame(p->out, &f, NULL, 0);
    shutdown(tcp(p->out)->paths[0]->fd, SHUT_WR);
}

// Half a header, or a header and half of its payload; then nothing, or the end.
enum { HALF_HEADER = 1, HALF_PAYLOAD = 2, AND_END = 4 };
static void half(struct peer *p, unsigned variant) {
    struct rdi_link *l = p->out;
    struct rdi_tcp_frame f = {
        .type = RDI_TCP_DATA, .epoch = l->epoch, .seq = l->posted, .len = 4096};
    uint8_t bytes[RDI_TCP_HEADER + 100] = {0};
    rdi_tcp_frame_write(&f, bytes);
    say(tcp(l)->paths[0]->fd, bytes, variant & HALF_HEADER ? 7 : sizeof bytes);
    if (variant & AND_END) {
        shutdown(tcp(l)->paths[0]->fd, SHUT_RDWR);
    }
}

// ---- Further connections -------------------------------------------------------------------------

// A connection to rank 0's listener that proves the key with this hello; -1: rank 0 does not want it.
static int knock(struct peer *p, const void *hello, size_t len) {
    struct rdi_env env;
    struct rdi_hs hs;
    const struct sockaddr_storage *to = &tcp(p->out)->paths[0]->remote;
    rdi_env_system(&env, NULL, NULL);
    int fd = socket(to->ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || connect(fd, (const struct sockaddr *)to,
                          to->ss_family == AF_INET ? sizeof(struct sockaddr_in)
                                                   : sizeof(struct sockaddr_in6)) != 0) {
        fprintf(stderr, "cannot connect to rank 0\n");
        _exit(9);
    }
    // Where the link has other connections to come there is no answer yet.
    struct timeval t = {.tv_usec = 500000};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &t, sizeof t);
    rdi_hs_connect(&hs, RDI_HS_TCP, &p->rank->comm->engine->job, &env, hello, len);
    while (hs.state == RDI_HS_RUNNING) {
        uint8_t bytes[RDI_HS_BUFFER];
        size_t used;
        say(fd, hs.out + hs.out_off, hs.out_len - hs.out_off);
        rdi_hs_sent(&hs, hs.out_len - hs.out_off);
        ssize_t k = recv(fd, bytes, sizeof bytes, 0);
        if (k <= 0) {
            break;
        }
        rdi_hs_input(&hs, bytes, (size_t)k, &used);
    }
    return fd;
}

static struct rdi_tcp_hello hello_of(const struct peer *p) {
    const struct rdi_tcp_link *l = tcp(p->out);
    return (struct rdi_tcp_hello){.id = l->base.id,
                                  .session = l->session,
                                  .epoch = l->base.epoch,
                                  .attempt = l->attempt,
                                  .paths = 1,
                                  .slots = l->base.slots,
                                  .max_msg = l->base.max_msg,
                                  .host = "nowhere"};
}

enum {
    HELLO_ANEW,
    HELLO_EPOCH,
    HELLO_PATHS,
    HELLO_STRANGE_COMM,
    HELLO_PROBE,
    HELLO_OTHER_RANK,
    HELLO_GARBAGE,
    HELLO_LARGE,
    HELLO_FROM_SELF,
};
static void greet(struct peer *p, unsigned variant) {
    struct rdi_tcp_hello h = hello_of(p);
    uint8_t bytes[RDI_HS_PAYLOAD];
    int times = 1;
    switch (variant) {
    case HELLO_ANEW:
        h.session++;
        break;
    case HELLO_EPOCH:
        h.epoch = UINT32_MAX;
        h.flags = RDI_TCP_RESUME;
        break;
    case HELLO_PATHS:
        h.epoch++;
        h.flags = RDI_TCP_RESUME;
        h.paths = RDI_TCP_PATHS;
        h.path = 63;
        break;
    case HELLO_STRANGE_COMM:
        h.id.comm ^= 0x5555;
        times = 60;
        break;
    case HELLO_PROBE:
        h.flags = RDI_TCP_PROBE;
        times = 60;
        break;
    case HELLO_OTHER_RANK:
        h.id.to = 1;
        break;
    case HELLO_LARGE:
        h.slots = UINT32_MAX;
        h.max_msg = UINT32_MAX;
        break;
    case HELLO_FROM_SELF:
        h.id.from = 0;
        break;
    }
    for (int i = 0; i < times; i++) {
        h.id.comm += variant == HELLO_STRANGE_COMM;
        size_t len = rdi_tcp_hello_write(&h, bytes);
        if (variant == HELLO_GARBAGE) {
            memset(bytes, 0xee, len = sizeof bytes);
        }
        int fd = knock(p, bytes, len);
        if (p->nheld < 8) {
            p->held[p->nheld++] = fd;
        } else {
            close(fd);
        }
    }
}

// ---- The table -----------------------------------------------------------------------------------

static const struct attack attacks[] = {
    {"tcp: message out of order", message, SEQ_AHEAD, FAILS, "out of order"},
    {"tcp: message once more", message, SEQ_BEHIND, FAILS, "out of order"},
    {"tcp: message number 2^64-1", message, SEQ_HUGE, FAILS, "out of order"},
    {"tcp: message of another epoch", message, EPOCH, FAILS, "another epoch"},
    {"tcp: message longer than a slot", message, TOO_LONG, FAILS, "longer than agreed"},
    {"tcp: message of 4 GiB", message, LEN_MAX, FAILS, "longer than agreed"},
    {"tcp: unknown flags", message, FLAGS, FAILS, "unknown flags"},
    {"tcp: unknown field", message, AUX, FAILS, "unknown flags"},
    {"tcp: message without signature", message, NO_SIGNATURE, FAILS, "signature"},
    {"tcp: signature of nonsense", message, WRONG_SIGNATURE, FAILS, "unknown"},
    {"tcp: signature of another communicator", message, OTHER_SIGNATURE, FAILS, "another comm"},
    {"tcp: tag of nonsense", message, WRONG_TAG, FAILS, "does not continue"},
    {"tcp: tag beyond the buffer", message, LANDING_TAG, FAILS, "does not continue"},
    {"tcp: empty message", message, EMPTY, FAILS, "does not continue"},
    {"tcp: messages without credit", no_credit, 0, FAILS, ""},
    {"tcp: acknowledgement of the future", acknowledge, ACK_AHEAD, FAILS, "not sent"},
    {"tcp: release of the future", acknowledge, ACK_RELEASED, FAILS, "did not arrive"},
    {"tcp: acknowledgement with payload", acknowledge, ACK_FIELDS, FAILS, "unknown fields"},
    {"tcp: acknowledgement of the past", acknowledge, ACK_BEHIND, GOES_ON, NULL},
    {"tcp: message to a sender", against, 0, FAILS, "against the link's direction"},
    {"tcp: acknowledgement to a receiver", against, 1, FAILS, "against the link's direction"},
    {"tcp: frame of type 0", unknown_type, 0, FAILS, "unknown type"},
    {"tcp: frame of type 255", unknown_type, 255, FAILS, "unknown type"},
    {"tcp: 32 random bytes", garbage, 32, FAILS, "no frame"},
    {"tcp: 100000 random bytes", garbage, 100000, FAILS, "no frame"},
    {"tcp: long control message", control, CTRL_LONG, FAILS, "too long"},
    {"tcp: unknown control message", control, CTRL_TYPE, GOES_ON, NULL},
    {"tcp: control message with a nonsense signature", control, CTRL_SIG, FAILS, "unknown"},
    {"tcp: control message with half a signature", control, CTRL_SIG_SHORT, GOES_ON, NULL},
    {"tcp: abort without an end of its text", control, CTRL_ABORT, SURVIVES, NULL},
    {"tcp: good-bye before the last message", good_bye, BYE_AHEAD, FAILS, "did not come"},
    {"tcp: good-bye in the middle", good_bye, BYE_NOW, FAILS, "rank 1"},
    {"tcp: good-bye with unknown fields", good_bye, BYE_FIELDS, FAILS, "unknown fields"},
    {"tcp: half a header and silence", half, HALF_HEADER, TIMES_OUT, NULL},
    {"tcp: half a message and silence", half, HALF_PAYLOAD, TIMES_OUT, NULL},
    {"tcp: half a header and the end", half, HALF_HEADER | AND_END, SURVIVES, NULL},
    {"tcp: half a message and the end", half, HALF_PAYLOAD | AND_END, SURVIVES, NULL},
    {"tcp: the link opened anew", greet, HELLO_ANEW, FAILS, "anew"},
    {"tcp: epoch 2^32-1", greet, HELLO_EPOCH, SURVIVES, NULL},
    {"tcp: one of 64 connections", greet, HELLO_PATHS, FAILS, "did not come back"},
    {"tcp: links of 60 other communicators", greet, HELLO_STRANGE_COMM, GOES_ON, NULL},
    {"tcp: 60 questions", greet, HELLO_PROBE, GOES_ON, NULL},
    {"tcp: a link to another rank", greet, HELLO_OTHER_RANK, GOES_ON, NULL},
    {"tcp: a link from the rank itself", greet, HELLO_FROM_SELF, GOES_ON, NULL},
    {"tcp: greeting of nonsense", greet, HELLO_GARBAGE, GOES_ON, NULL},
    {"tcp: slots of 2^32-1 bytes", greet, HELLO_LARGE, GOES_ON, NULL},
};

void peer_tcp(const char *only) {
    peer_run(attacks, sizeof attacks / sizeof attacks[0], "transport=tcp,interface=lo", only);
}
