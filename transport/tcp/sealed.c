// SPDX-License-Identifier: MIT
// The bytes of a sealed connection on their way: records that the kernel has no room for yet, and records that are
// not whole yet. Apart from its keys all of it is ciphertext.
#include "transport/tcp/tcp.h"

#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#define AHEAD (4u << 10)  // read behind a record that is not whole: the next one's beginning
#define SMALL (16u << 10) // read where no record was big lately

bool rdi_tcp_sealed_begin(struct rdi_tcp_path *p) {
    // The buffers need no zeros, and most of their pages will never be touched.
    struct rdi_tcp_sealed *s = malloc(sizeof *s);
    if (s == NULL) {
        return false;
    }
    memset(s, 0, offsetof(struct rdi_tcp_sealed, in));
    if (!rdi_seal_begin(&s->seal, &p->hs)) {
        free(s);
        return false;
    }
    // What came along with the handshake.
    s->in_fill = p->rx.fill;
    memcpy(s->in, p->rx.buf, s->in_fill);
    p->rx.fill = 0;
    p->sealed = s;
    return true;
}

void rdi_tcp_sealed_end(struct rdi_tcp_path *p) {
    if (p->sealed != NULL) {
        rdi_seal_end(&p->sealed->seal);
    }
}

// ---- In ------------------------------------------------------------------------------------------

ssize_t rdi_tcp_sealed_recv(struct rdi_tcp_path *p, size_t *asked) {
    struct rdi_tcp_sealed *s = p->sealed;
    if (s->in_off > 0) {
        s->in_fill -= s->in_off;
        memmove(s->in, s->in + s->in_off, s->in_fill);
        s->in_off = 0;
    }
    size_t room = sizeof s->in - s->in_fill;
    size_t want = s->in_want > s->in_fill + SMALL ? s->in_want - s->in_fill + AHEAD
                  : s->in_big                     ? AHEAD
                                                  : SMALL;
    *asked = want < room ? want : room;
    ssize_t k = recv(p->fd, s->in + s->in_fill, *asked, MSG_DONTWAIT);
    s->in_fill += k > 0 ? (uint32_t)k : 0;
    return k;
}

enum rdi_seal_found rdi_tcp_sealed_next(struct rdi_tcp_path *p, size_t *plain) {
    struct rdi_tcp_sealed *s = p->sealed;
    size_t skip, whole;
    enum rdi_seal_found found =
        rdi_seal_look(&s->seal, s->in + s->in_off, s->in_fill - s->in_off, &skip, &whole, plain);
    s->in_off += (uint32_t)skip;
    s->in_want = (uint32_t)whole;
    return found;
}

bool rdi_tcp_sealed_open(struct rdi_tcp_path *p, uint8_t *out) {
    struct rdi_tcp_sealed *s = p->sealed;
    if (!rdi_seal_read(&s->seal, s->in + s->in_off, s->in_want, out)) {
        return false;
    }
    s->in_off += s->in_want;
    s->in_big = s->in_want > SMALL;
    s->in_want = 0;
    return true;
}

// ---- Out -----------------------------------------------------------------------------------------

bool rdi_tcp_sealed_add(struct rdi_tcp_path *p, const void *plain, size_t n) {
    struct rdi_tcp_sealed *s = p->sealed;
    if (s->out_len == 0) {
        s->out_off = 0;
    }
    size_t used = s->out_off + s->out_len;
    if (used > 0 && used + n + RDI_SEAL_MORE > RDI_TCP_SEALED_FULL) {
        return false;
    }
    s->out_len += (uint32_t)rdi_seal_write(&s->seal, plain, n, s->out + used);
    return true;
}

ssize_t rdi_tcp_sealed_send(struct rdi_tcp_path *p) {
    struct rdi_tcp_sealed *s = p->sealed;
    ssize_t k = send(p->fd, s->out + s->out_off, s->out_len, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (k > 0) {
        s->out_off += (uint32_t)k;
        s->out_len -= (uint32_t)k;
    }
    return k;
}

void rdi_tcp_sealed_last(struct rdi_tcp_path *p) {
    struct rdi_tcp_sealed *s = p->sealed;
    struct rdi_tcp_tx *t = &p->tx;
    if (t->ctl_len > 0) {
        // There is room for it behind all that sealed_add() takes.
        s->out_len += (uint32_t)rdi_seal_write(&s->seal, t->ctl + t->ctl_off, t->ctl_len,
                                               s->out + s->out_off + s->out_len);
        t->ctl_len = 0;
    }
}
