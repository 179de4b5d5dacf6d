// SPDX-License-Identifier: MIT
// Sending. Payload goes to the kernel straight from the engine's memory; only headers and control frames are
// kept here. Messages that the kernel has no room for wait as descriptors, so that a big message goes on from
// progress() without the engine's help.
//
//   order on a path:   rest of the message under way | tx.ctl (ACK, CTRL, BYE) | further messages
#include "transport/tcp/tcp.h"

#include "transport/tcp/bytes.h"

#include <errno.h>
#include <linux/sockios.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/uio.h>

#define IOVS 16                 // pieces in one system call
#define CALL_BYTES (256u << 10) // after so many no further message is begun in the same call
#define CALLS 2                 // system calls before others get their turn
#define SEALED_CALLS 4          // the same of a sealed path, whose calls are smaller
#define CTL_RESERVE 128         // of tx.ctl, for ACK and BYE
#define ACK_PATIENCE 32 // idle calls of progress() before an ACK that nobody waits for is sent

// ---- What waits ----------------------------------------------------------------------------------

bool rdi_tcp_tx_frame(struct rdi_tcp_path *p, const struct rdi_tcp_frame *f, const void *payload) {
    struct rdi_tcp_tx *t = &p->tx;
    if (t->ctl_len == 0) {
        t->ctl_off = 0;
    } else if (t->ctl_off > 0) {
        memmove(t->ctl, t->ctl + t->ctl_off, t->ctl_len);
        t->ctl_off = 0;
    }
    size_t room = sizeof t->ctl - t->ctl_len;
    size_t want = RDI_TCP_HEADER + f->len + (f->type == RDI_TCP_CTRL ? CTL_RESERVE : 0);
    if (want > room) {
        return false;
    }
    rdi_tcp_frame_write(f, t->ctl + t->ctl_len);
    if (f->len > 0) {
        memcpy(t->ctl + t->ctl_len + RDI_TCP_HEADER, payload, f->len);
    }
    t->ctl_len += RDI_TCP_HEADER + f->len;
    return true;
}

static bool messages_wait(const struct rdi_tcp_path *p) {
    return p->link->base.sender && p->tx.next < p->link->base.posted;
}

bool rdi_tcp_tx_pending(const struct rdi_tcp_path *p) {
    return p->tx.ctl_len > 0 || messages_wait(p) || (p->sealed != NULL && p->sealed->out_len > 0);
}

// ---- Handing over to the kernel ------------------------------------------------------------------

struct pieces {
    struct iovec iov[IOVS];
    unsigned count;
    size_t bytes;
};

static void add_piece(struct pieces *g, const void *at, size_t n) {
    if (n > 0) {
        // sendmsg() only reads it.
        g->iov[g->count++] = (struct iovec){.iov_base = (void *)(uintptr_t)at, .iov_len = n};
        g->bytes += n;
    }
}

// What is left of message `o` after its first `off` bytes.
static void add_message(struct pieces *g, const struct rdi_tcp_out *o, uint32_t off) {
    if (off < o->head_len) {
        add_piece(g, o->head + off, o->head_len - off);
        add_piece(g, o->data, o->len);
    } else {
        uint32_t done = off - o->head_len;
        add_piece(g, (const uint8_t *)o->data + done, o->len - done);
    }
}

static void gather(const struct rdi_tcp_path *p, struct pieces *g) {
    const struct rdi_tcp_link *l = p->link;
    const struct rdi_tcp_tx *t = &p->tx;
    uint64_t seq = t->next;
    g->count = 0;
    g->bytes = 0;
    if (t->off > 0) {
        add_message(g, &l->out[seq % l->base.slots], t->off);
        seq += l->npaths;
    }
    add_piece(g, t->ctl + t->ctl_off, t->ctl_len);
    if (!l->base.sender) {
        return;
    }
    while (seq < l->base.posted && g->count + 2 <= IOVS && g->bytes < CALL_BYTES) {
        add_message(g, &l->out[seq % l->base.slots], 0);
        seq += l->npaths;
    }
}

// Counts k bytes of message `next` as gone. Returns those that belong to what follows.
static size_t pass_message(struct rdi_tcp_path *p, size_t k) {
    struct rdi_tcp_link *l = p->link;
    struct rdi_tcp_tx *t = &p->tx;
    const struct rdi_tcp_out *o = &l->out[t->next % l->base.slots];
    size_t rest = (size_t)o->head_len + o->len - t->off;
    if (k < rest) {
        t->off += (uint32_t)k;
        return 0;
    }
    t->off = 0;
    t->next += l->npaths;
    return k - rest;
}

static void pass(struct rdi_tcp_path *p, size_t k) {
    struct rdi_tcp_tx *t = &p->tx;
    if (t->off > 0) {
        k = pass_message(p, k);
    }
    size_t ctl = k < t->ctl_len ? k : t->ctl_len;
    t->ctl_off += (uint32_t)ctl;
    t->ctl_len -= (uint32_t)ctl;
    k -= ctl;
    while (k > 0) {
        k = pass_message(p, k);
    }
}

// One system call. *bytes is how many it was given.
static ssize_t send_some(struct rdi_tcp_path *p, size_t *bytes) {
    struct pieces g;
    gather(p, &g);
    struct msghdr m = {.msg_iov = g.iov, .msg_iovlen = g.count};
    ssize_t k = sendmsg(p->fd, &m, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (k > 0) {
        pass(p, (size_t)k);
    }
    *bytes = g.bytes;
    return k;
}

// The next record's bytes: whole pieces, put together in `mix`, or else one piece's own memory.
static size_t choose_record(const struct pieces *g, uint8_t mix[RDI_SEAL_MIX], const void **at) {
    size_t n = 0;
    for (unsigned i = 0; i < g->count && g->iov[i].iov_len <= RDI_SEAL_MIX - n; i++) {
        memcpy(mix + n, g->iov[i].iov_base, g->iov[i].iov_len);
        n += g->iov[i].iov_len;
    }
    if (n > 0) {
        *at = mix;
        return n;
    }
    *at = g->iov[0].iov_base;
    return g->iov[0].iov_len < RDI_SEAL_BIG ? g->iov[0].iov_len : RDI_SEAL_BIG;
}

// Seals what waits, unless the kernel still has to take what was sealed before: a message counts as sent from here.
static void seal_some(struct rdi_tcp_path *p) {
    uint8_t mix[RDI_SEAL_MIX];
    if (p->sealed->out_len > 0) {
        return;
    }
    while (p->tx.ctl_len > 0 || messages_wait(p)) {
        struct pieces g;
        const void *at;
        gather(p, &g);
        size_t n = choose_record(&g, mix, &at);
        if (!rdi_tcp_sealed_add(p, at, n)) {
            return;
        }
        pass(p, n);
    }
}

static ssize_t send_sealed(struct rdi_tcp_path *p, size_t *bytes) {
    seal_some(p);
    *bytes = p->sealed->out_len;
    return rdi_tcp_sealed_send(p);
}

int rdi_tcp_tx(struct rdi_tcp_path *p) {
    int moved = 0;
    if (p->stage != RDI_TCP_OPEN || p->tx.dead) {
        return 0;
    }
    p->tx.blocked = false;
    int most = p->sealed != NULL ? SEALED_CALLS : CALLS;
    for (int calls = 0; calls < most && rdi_tcp_tx_pending(p); calls++) {
        size_t bytes;
        ssize_t k = p->sealed != NULL ? send_sealed(p, &bytes) : send_some(p, &bytes);
        if (k > 0) {
            moved = 1;
        } else if (errno == EINTR) {
            continue;
        } else if (errno != EAGAIN && errno != ENOBUFS && errno != ENOMEM) {
            // The peer's last words may still wait to be read, good-bye among them: reading decides.
            p->tx.dead = true;
            p->tx.error = errno;
            break;
        }
        if (k < (ssize_t)bytes) {
            p->tx.blocked = true;
            break;
        }
    }
    if (p->tx.dead || rdi_tcp_tx_pending(p)) {
        rdi_tcp_link_dirty(p->link);
    }
    return moved;
}

// ---- Messages ------------------------------------------------------------------------------------

static rondo_status not_up(const struct rdi_link *link) {
    switch (link->state) {
    case RDI_LINK_FAILED:
        return rdi_fail(link->status, "%s", link->why);
    case RDI_LINK_LOST:
        return rdi_fail(RONDO_ERR_PATH, "%s", link->why);
    case RDI_LINK_CLOSED:
        return rdi_fail(RONDO_ERR_PEER, "rank %u has closed the link",
                        link->sender ? link->id.to : link->id.from);
    case RDI_LINK_CONNECTING:
    case RDI_LINK_UP:
        break;
    }
    return RONDO_AGAIN;
}

rondo_status rdi_tcp_op_put(struct rdi_link *link, const struct rdi_put *put) {
    struct rdi_tcp_link *l = (struct rdi_tcp_link *)link;
    if (link->state != RDI_LINK_UP) {
        return not_up(link);
    }
    if (link->posted >= link->credit) {
        return RONDO_AGAIN;
    }
    if (put->len > link->max_msg) {
        return rdi_fail(RONDO_ERR_INVALID, "a message of %u bytes on a link for %u", put->len,
                        link->max_msg);
    }
    uint64_t seq = link->posted;
    struct rdi_tcp_out *o = &l->out[seq % link->slots];
    struct rdi_tcp_frame f = {.type = RDI_TCP_DATA,
                              .flags = (put->sig != NULL ? RDI_TCP_HAS_SIG : 0u) |
                                       (put->flags & RDI_PUT_ACK ? RDI_TCP_WANTS_ACK : 0u),
                              .epoch = link->epoch,
                              .seq = seq,
                              .len = put->len,
                              .tag = put->tag};
    rdi_tcp_frame_write(&f, o->head);
    o->head_len = RDI_TCP_HEADER;
    if (put->sig != NULL) {
        memcpy(o->head + RDI_TCP_HEADER, put->sig, RDI_SIG_BYTES);
        o->head_len += RDI_SIG_BYTES;
    }
    o->data = put->data;
    o->len = put->len;
    link->posted++;
    l->ack_wanted = put->flags & RDI_PUT_ACK ? link->posted : l->ack_wanted;
    link->net->bytes_sent += put->len;
    link->net->messages_sent++;
    struct rdi_tcp_path *p = l->paths[seq % l->npaths];
    // What waits already is sent from progress(): another try now would find the kernel just as full.
    if (!p->tx.blocked) {
        rdi_tcp_tx(p);
    }
    return RONDO_OK;
}

rondo_status rdi_tcp_op_ctrl(struct rdi_link *link, unsigned type, const void *msg, size_t len) {
    struct rdi_tcp_link *l = (struct rdi_tcp_link *)link;
    if (link->state != RDI_LINK_UP) {
        return not_up(link);
    }
    if (len > RDI_CTRL_MAX) {
        return rdi_fail(RONDO_ERR_INVALID, "a control message of %zu bytes; at most %d are allowed",
                        len, RDI_CTRL_MAX);
    }
    struct rdi_tcp_frame f = {
        .type = RDI_TCP_CTRL, .epoch = link->epoch, .len = (uint32_t)len, .aux = type};
    if (!rdi_tcp_tx_frame(l->paths[0], &f, msg)) {
        return RONDO_AGAIN;
    }
    rdi_tcp_tx(l->paths[0]);
    return RONDO_OK;
}

// While a connection is being made the handshake's bytes count.
bool rdi_tcp_op_delivered(struct rdi_link *link) {
    const struct rdi_tcp_link *l = (struct rdi_tcp_link *)link;
    const struct rdi_tcp_path *p = l->npaths > 0 ? l->paths[0] : NULL;
    int unacknowledged = 1;
    return p != NULL && p->stage != RDI_TCP_CONNECTING && p->fd >= 0 && p->tx.ctl_len == 0 &&
           (p->sealed == NULL || p->sealed->out_len == 0) &&
           ioctl(p->fd, SIOCOUTQ, &unacknowledged) == 0 && unacknowledged == 0;
}

// ---- Acknowledgement -----------------------------------------------------------------------------

static bool untold(const struct rdi_tcp_link *l) {
    return !l->base.sender &&
           (l->told_arrived < l->base.arrived || l->told_released < l->base.released);
}

int rdi_tcp_tx_ack(struct rdi_tcp_link *l) {
    struct rdi_tcp_path *p = l->paths[0];
    if (l->base.state != RDI_LINK_UP || !untold(l)) {
        l->ack_now = false;
        return 0;
    }
    // One that waits for the kernel says nothing new soon enough; the next will say it all.
    if (p->tx.ctl_len == 0) {
        struct rdi_tcp_frame f = {.type = RDI_TCP_ACK,
                                  .epoch = l->base.epoch,
                                  .seq = l->base.arrived,
                                  .tag = l->base.released};
        rdi_tcp_tx_frame(p, &f, NULL);
        l->told_arrived = l->base.arrived;
        l->told_released = l->base.released;
        l->ack_now = false;
    }
    return rdi_tcp_tx(p);
}

int rdi_tcp_tx_flush(struct rdi_tcp_link *l, bool all) {
    int moved = 0;
    if (l->base.state != RDI_LINK_UP) {
        return 0;
    }
    if (untold(l)) {
        if (all || l->ack_now || rdi_tcp_net_of(l)->idle >= ACK_PATIENCE) {
            moved += rdi_tcp_tx_ack(l);
        }
        if (untold(l)) {
            rdi_tcp_link_dirty(l);
        }
    }
    for (unsigned i = 0; i < l->npaths && l->base.state == RDI_LINK_UP; i++) {
        struct rdi_tcp_path *p = l->paths[i];
        if (p->tx.dead && !all) {
            moved += rdi_tcp_rx(p);
        } else if (rdi_tcp_tx_pending(p)) {
            moved += rdi_tcp_tx(p);
        }
        if (l->gone) {
            return moved;
        }
    }
    return moved;
}
