// SPDX-License-Identifier: MIT
// Receiving. One system call reads the rest of the message under way to where it belongs and, behind it, what
// follows into a small buffer, where the next header is found: so a big message costs about one call more
// than its own bytes do, and a small one costs one.
#include "transport/tcp/tcp.h"

#include <errno.h>
#include <string.h>
#include <sys/uio.h>

#define READ_AHEAD \
    ((4u << 10) + RDI_TCP_HEADER) // bytes read behind a message: more would be copied in vain
#define BUDGET (512u << 10)       // bytes before others get their turn

// ---- Frames --------------------------------------------------------------------------------------

static void violation(struct rdi_tcp_path *p, const char *what) {
    struct rdi_tcp_link *l = p->link;
    char who[128], remote[RDI_TCP_NAME];
    rdi_tcp_name(&p->remote, remote);
    rdi_tcp_link_fail(l, RONDO_ERR_INTERNAL, "%s (%s) broke the protocol: %s; please report this",
                      rdi_tcp_peer_name(l, who, sizeof who), remote, what);
}

// Counts the messages that are whole, in order.
static void advance_arrived(struct rdi_tcp_link *l) {
    struct rdi_link *b = &l->base;
    while (b->arrived < b->released + b->slots && l->in[b->arrived % b->slots].whole) {
        b->arrived++;
    }
}

static void check_bye(struct rdi_tcp_link *l) {
    if (l->bye && l->base.state == RDI_LINK_UP &&
        (l->base.sender || l->base.arrived >= l->bye_at)) {
        rdi_tcp_link_bye(l);
    }
}

static void message_complete(struct rdi_tcp_path *p) {
    struct rdi_tcp_link *l = p->link;
    const struct rdi_tcp_frame *f = &p->rx.head;
    l->in[f->seq % l->base.slots].whole = true;
    p->rx.next += l->npaths;
    advance_arrived(l);
    l->base.net->bytes_received += f->len;
    l->ack_now = l->ack_now || f->flags & RDI_TCP_WANTS_ACK ||
                 l->base.arrived - l->told_arrived >= l->base.slots / 2;
    rdi_tcp_link_dirty(l);
    check_bye(l);
}

// The header (and signature) of a message is there; decides where its payload goes. False: the link was
// closed meanwhile.
static bool begin_message(struct rdi_tcp_path *p, const struct rdi_tcp_frame *f,
                          const uint8_t *sig) {
    struct rdi_tcp_link *l = p->link;
    const struct rdi_net_events *events = l->base.net->params.events;
    void *to = events->land(events->self, &l->base, f->tag, f->len);
    if (p->stage != RDI_TCP_OPEN) {
        return false;
    }
    uint64_t slot = f->seq % l->base.slots;
    struct rdi_tcp_in *m = &l->in[slot];
    m->data = to != NULL ? to : l->memory + slot * l->base.max_msg;
    m->tag = f->tag;
    m->len = f->len;
    m->has_sig = f->flags & RDI_TCP_HAS_SIG;
    if (m->has_sig) {
        memcpy(m->sig, sig, sizeof m->sig);
    }
    p->rx.head = *f;
    p->rx.to = m->data;
    p->rx.left = f->len;
    if (f->len == 0) {
        message_complete(p);
    }
    return true;
}

static void take_ack(struct rdi_tcp_link *l, const struct rdi_tcp_frame *f) {
    struct rdi_link *b = &l->base;
    b->sent = f->seq > b->sent ? f->seq : b->sent;
    b->credit = f->tag + b->slots > b->credit ? f->tag + b->slots : b->credit;
}

// Messages that the kernel has wholly taken, without a gap: none beyond them can have arrived.
static uint64_t sendable(const struct rdi_tcp_link *l) {
    uint64_t n = l->base.posted;
    for (unsigned i = 0; i < l->npaths; i++) {
        n = l->paths[i]->tx.next < n ? l->paths[i]->tx.next : n;
    }
    return n;
}

// ---- Taking the buffer apart ---------------------------------------------------------------------

// Handles one whole header, and what belongs to it, at the start of the buffer. False: more bytes are needed
// first, or the path is not open any more.
static bool take_frame(struct rdi_tcp_path *p) {
    struct rdi_tcp_link *l = p->link;
    struct rdi_tcp_rx *r = &p->rx;
    const uint8_t *at = r->buf + r->off;
    size_t n = r->fill - r->off;
    struct rdi_tcp_frame f;
    if (n < RDI_TCP_HEADER) {
        return false;
    }
    struct rdi_tcp_expect expect = {.from_sender = !l->base.sender,
                                    .epoch = l->base.epoch,
                                    .max_msg = l->base.max_msg,
                                    .next = r->next,
                                    .limit = l->base.released + l->base.slots};
    if (l->base.sender) {
        expect.sendable = sendable(l);
    }
    const char *wrong = rdi_tcp_frame_read(&f, at, &expect);
    if (wrong != NULL) {
        violation(p, wrong);
        return false;
    }
    size_t whole = RDI_TCP_HEADER;
    whole += f.type == RDI_TCP_CTRL ? f.len : 0;
    whole += f.type == RDI_TCP_DATA && f.flags & RDI_TCP_HAS_SIG ? RDI_SIG_BYTES : 0;
    if (n < whole) {
        return false;
    }
    r->off += (uint32_t)whole;
    switch (f.type) {
    case RDI_TCP_DATA:
        return begin_message(p, &f, at + RDI_TCP_HEADER) && p->stage == RDI_TCP_OPEN;
    case RDI_TCP_ACK:
        take_ack(l, &f);
        break;
    case RDI_TCP_CTRL: {
        const struct rdi_net_events *events = l->base.net->params.events;
        events->ctrl(events->self, &l->base, f.aux, at + RDI_TCP_HEADER, f.len);
        break;
    }
    case RDI_TCP_BYE:
        if (l->base.sender) {
            take_ack(l, &f);
        }
        p->said_bye = true;
        // Control messages come on the first path: its good-bye is behind them.
        if (p->index == 0) {
            l->bye = true;
            l->bye_at = f.seq;
            check_bye(l);
        }
        break;
    }
    return p->stage == RDI_TCP_OPEN;
}

static void pass_payload(struct rdi_tcp_path *p, uint32_t n) {
    p->rx.to += n;
    p->rx.left -= n;
    if (p->rx.left == 0) {
        message_complete(p);
    }
}

// Takes apart all that the buffer holds; what stays is less than one frame's head.
static void take_buffer(struct rdi_tcp_path *p) {
    struct rdi_tcp_rx *r = &p->rx;
    while (p->stage == RDI_TCP_OPEN && r->off < r->fill) {
        if (r->left > 0) {
            uint32_t n = r->fill - r->off < r->left ? r->fill - r->off : r->left;
            memcpy(r->to, r->buf + r->off, n);
            r->off += n;
            pass_payload(p, n);
        } else if (!take_frame(p)) {
            break;
        }
    }
    if (p->stage != RDI_TCP_OPEN) {
        return;
    }
    if (r->off == r->fill) {
        r->off = r->fill = 0;
    } else if (r->off > 0) {
        memmove(r->buf, r->buf + r->off, r->fill - r->off);
        r->fill -= r->off;
        r->off = 0;
    }
}

// ---- Sealed paths --------------------------------------------------------------------------------

// Somebody on the way changed what was sent, or put something in. Nothing of it was believed: to the link it is a
// connection that broke.
static void damaged(struct rdi_tcp_path *p) {
    char remote[RDI_TCP_NAME];
    rdi_tcp_name(&p->remote, remote);
    rdi_net_damaged(&p->net->base, remote);
    rdi_tcp_link_lost(p->link, p, "what came was not what the other side had encrypted", 0);
}

// Opens all records that are whole: payload goes to where it belongs, all else into the buffer to be taken apart. No
// end that keeps to seal.h makes one for which the buffer has no room.
static void open_records(struct rdi_tcp_path *p) {
    struct rdi_tcp_rx *r = &p->rx;
    while (p->stage == RDI_TCP_OPEN) {
        size_t n = 0;
        enum rdi_seal_found found = rdi_tcp_sealed_next(p, &n);
        if (found == RDI_SEAL_PART) {
            return;
        }
        bool direct = n <= r->left;
        if (found == RDI_SEAL_BROKEN || (!direct && n > sizeof r->buf - r->fill) ||
            !rdi_tcp_sealed_open(p, direct ? r->to : r->buf + r->fill)) {
            damaged(p);
        } else if (direct) {
            pass_payload(p, (uint32_t)n);
        } else {
            r->fill += (uint32_t)n;
            take_buffer(p);
        }
    }
}

// ---- Reading -------------------------------------------------------------------------------------

// One system call of a path that is not sealed. *asked is how much there was room for.
static ssize_t read_some(struct rdi_tcp_path *p, size_t *asked) {
    struct rdi_tcp_rx *r = &p->rx;
    if (r->left == 0) {
        // Behind a big message comes another one, as a rule.
        size_t room = r->head.len > sizeof r->buf ? READ_AHEAD : sizeof r->buf;
        *asked = room - r->fill;
        return recv(p->fd, r->buf + r->fill, *asked, MSG_DONTWAIT);
    }
    // The buffer is empty while a payload is under way.
    struct iovec iov[2] = {{.iov_base = r->to, .iov_len = r->left},
                           {.iov_base = r->buf, .iov_len = READ_AHEAD}};
    *asked = r->left + READ_AHEAD;
    return readv(p->fd, iov, 2);
}

// All have said good-bye, and are gone: what the peer says to have sent, and has not come, never will.
static bool all_over(const struct rdi_tcp_link *l) {
    for (unsigned i = 0; i < l->npaths; i++) {
        if (l->paths[i] == NULL || !l->paths[i]->over) {
            return false;
        }
    }
    return true;
}

static void ended(struct rdi_tcp_path *p, int err) {
    if (p->said_bye) {
        rdi_tcp_path_cool(p);
        rdi_tcp_path_forget(p);
        p->over = true;
        if (!all_over(p->link)) { // the link's other paths have more to say
            return;
        }
    }
    err = err == 0 && p->tx.dead && p->tx.error != EPIPE ? p->tx.error : err;
    rdi_tcp_link_lost(p->link, p, err == 0 ? "closed by the other side" : "broken", err);
}

bool rdi_tcp_rx_waits(const struct rdi_tcp_path *p) {
    return p->rx.fill > 0 || (p->sealed != NULL && p->sealed->in_fill > p->sealed->in_off);
}

static void take_what_came(struct rdi_tcp_path *p) {
    if (p->sealed != NULL) {
        open_records(p);
    } else {
        take_buffer(p);
    }
}

// Of k bytes that read_some() got, the first ones are where they belong already.
static void sort_plain(struct rdi_tcp_path *p, size_t k) {
    struct rdi_tcp_rx *r = &p->rx;
    size_t direct = k < r->left ? k : r->left;
    r->fill += (uint32_t)(k - direct);
    if (direct > 0) {
        pass_payload(p, (uint32_t)direct);
    }
}

int rdi_tcp_rx(struct rdi_tcp_path *p) {
    size_t got = 0;
    if (p->stage == RDI_TCP_OPEN && rdi_tcp_rx_waits(p)) {
        take_what_came(p); // along with the handshake
    }
    while (p->stage == RDI_TCP_OPEN && got < BUDGET) {
        size_t asked;
        ssize_t k = p->sealed != NULL ? rdi_tcp_sealed_recv(p, &asked) : read_some(p, &asked);
        if (k < 0 && errno == EINTR) {
            continue;
        }
        if (k < 0 && errno == EAGAIN) {
            break;
        }
        if (k <= 0) {
            ended(p, k < 0 ? errno : 0);
            return 1;
        }
        got += (size_t)k;
        if (p->sealed == NULL) {
            sort_plain(p, (size_t)k);
        }
        take_what_came(p);
        if ((size_t)k < asked && !p->tx.dead) {
            break;
        }
    }
    return got > 0;
}

// ---- What the engine asks for --------------------------------------------------------------------

void rdi_tcp_op_peek(struct rdi_link *link, uint64_t seq, struct rdi_msg *out) {
    const struct rdi_tcp_in *m = &((struct rdi_tcp_link *)link)->in[seq % link->slots];
    *out = (struct rdi_msg){
        .data = m->data, .len = m->len, .tag = m->tag, .sig = m->has_sig ? m->sig : NULL};
}

void rdi_tcp_op_release(struct rdi_link *link, uint64_t upto) {
    struct rdi_tcp_link *l = (struct rdi_tcp_link *)link;
    for (uint64_t seq = link->released; seq < upto; seq++) {
        l->in[seq % link->slots].whole = false;
    }
    link->released = upto;
    if (link->state != RDI_LINK_UP) {
        return;
    }
    if (l->ack_now || upto - l->told_released >= link->slots / 2) {
        rdi_tcp_tx_ack(l);
    }
    rdi_tcp_link_dirty(l);
}
