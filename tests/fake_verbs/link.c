// SPDX-License-Identifier: MIT
// The wire: a listening socket for each opened device, connections to others, and who may reach whom.
#include "fake.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <linux/sockios.h>

#define MAGIC 0xfa4ecab1u
#define SPARE 64u

// Through the folder's descriptor, because a socket's path is short and the folder's may be long.
static void socket_path(const struct fv_nic *nic, uint32_t id, struct sockaddr_un *to) {
    memset(to, 0, sizeof *to);
    to->sun_family = AF_UNIX;
    snprintf(to->sun_path, sizeof to->sun_path, "/proc/self/fd/%d/nic.%u", nic->dirfd, id);
}

int fv_listen(struct fv_nic *nic) {
    struct sockaddr_un at;
    socket_path(nic, nic->id, &at);
    unlink(at.sun_path); // of a process that was killed
    nic->listen_fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (nic->listen_fd < 0 || bind(nic->listen_fd, (const struct sockaddr *)&at, sizeof at) != 0)
        return -1;
    return listen(nic->listen_fd, 1024);
}

bool fv_link_accept(struct fv_nic *nic) {
    int fd;
    while ((fd = accept4(nic->listen_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        if (nic->nin == nic->ncap_in) {
            unsigned cap = nic->ncap_in ? 2 * nic->ncap_in : 16;
            int *in = realloc(nic->in, cap * sizeof *in);
            if (!in) {
                close(fd);
                return false;
            }
            nic->in = in;
            nic->ncap_in = cap;
        }
        nic->in[nic->nin++] = fd;
    }
    return errno == EAGAIN || errno == EINTR || errno == ECONNABORTED;
}

int fv_link_receive(int fd, struct fv_buf *b) {
    ssize_t n = recv(fd, &b->p, sizeof b->p + FV_PIECE, 0);
    if (n < 0)
        return errno == EAGAIN || errno == EINTR ? 0 : -1;
    if ((size_t)n < sizeof b->p || b->p.magic != MAGIC || b->p.bytes != (size_t)n - sizeof b->p)
        return -1;
    return 1;
}

void fv_link_close(struct fv_nic *nic) {
    if (nic->listen_fd >= 0) {
        struct sockaddr_un at;
        socket_path(nic, nic->id, &at);
        unlink(at.sun_path);
        close(nic->listen_fd);
    }
    for (unsigned i = 0; i < nic->nin; i++)
        close(nic->in[i]);
    for (unsigned i = 0; i < nic->nout; i++)
        close(nic->out[i].fd);
    free(nic->in);
    free(nic->out);
    free(nic->bounce);
    while (nic->spare) {
        struct fv_buf *b = nic->spare;
        nic->spare = b->next;
        free(b);
    }
}

struct fv_buf *fv_buf_take(struct fv_nic *nic) {
    struct fv_buf *b = nic->spare;
    if (!b)
        return malloc(sizeof *b);
    nic->spare = b->next;
    nic->nspare--;
    return b;
}

void fv_buf_give(struct fv_nic *nic, struct fv_buf *b) {
    if (nic->nspare >= SPARE) {
        free(b);
        return;
    }
    b->next = nic->spare;
    nic->spare = b;
    nic->nspare++;
}

// ---- Sending -------------------------------------------------------------------------------------

static struct fv_out *find_out(const struct fv_nic *nic, uint32_t id) {
    for (unsigned i = 0; i < nic->nout; i++)
        if (nic->out[i].nic == id)
            return &nic->out[i];
    return NULL;
}

static struct fv_out *connect_out(struct fv_nic *nic, uint32_t id) {
    struct sockaddr_un at;
    socket_path(nic, id, &at);
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return NULL;
    if (nic->nout == nic->ncap_out) {
        unsigned cap = nic->ncap_out ? 2 * nic->ncap_out : 16;
        struct fv_out *out = realloc(nic->out, cap * sizeof *out);
        if (out) {
            nic->out = out;
            nic->ncap_out = cap;
        }
    }
    int size = 1 << 20;
    setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
    if (nic->nout == nic->ncap_out || connect(fd, (const struct sockaddr *)&at, sizeof at) != 0) {
        close(fd);
        return NULL; // the packet is lost
    }
    nic->out[nic->nout] = (struct fv_out){.nic = id, .fd = fd};
    return &nic->out[nic->nout++];
}

unsigned fv_link_unread(const struct fv_nic *nic, uint32_t id) {
    const struct fv_out *o = find_out(nic, id);
    int n = 0;
    return o && ioctl(o->fd, SIOCOUTQ, &n) == 0 && n > 0 ? (unsigned)n : 0;
}

void fv_packet_init(const struct fv_qp *q, struct fv_packet *p, enum fv_type type) {
    const struct fv_config *c = &q->nic->device.config;
    *p = (struct fv_packet){.magic = MAGIC,
                            .type = (uint8_t)type,
                            .global = q->attr.ah_attr.is_global,
                            .hop_limit = q->attr.ah_attr.grh.hop_limit,
                            .gid_type = q->gid_type,
                            .mtu = (uint8_t)q->attr.path_mtu,
                            .src_device = (uint8_t)q->nic->device.number,
                            .src_host = (uint16_t)c->host,
                            .slid = fv_lid(c, q->nic->device.number, q->attr.port_num),
                            .dlid = q->attr.ah_attr.dlid,
                            .subnet = (uint16_t)c->subnet,
                            .sqpn = q->v.qp_num,
                            .dqpn = q->attr.dest_qp_num};
    if (p->global) {
        memcpy(p->sgid, q->sgid, 16);
        memcpy(p->dgid, q->attr.ah_attr.grh.dgid.raw, 16);
    }
}

// The thread sanitizer notes what sendmsg() has read when it is over, and the other end may be quicker: it
// sees a copy.
static int bounce(struct fv_nic *nic, struct iovec *iov, int n) {
#ifdef __SANITIZE_THREAD__
    if (!nic->bounce)
        nic->bounce = malloc(FV_PIECE);
    size_t at = 0;
    for (int i = 0; i < n && nic->bounce; i++) {
        memcpy(nic->bounce + at, iov[i].iov_base, iov[i].iov_len);
        iov[i].iov_base = nic->bounce + at;
        at += iov[i].iov_len;
    }
#else
    (void)nic;
    (void)iov;
#endif
    return n;
}

enum fv_sent fv_send(struct fv_qp *q, struct fv_packet *p, const struct iovec *iov, int n) {
    struct fv_nic *nic = q->nic;
    if (nic->cut || nic->gone || nic->down[q->attr.port_num] ||
        p->mtu > (uint8_t)nic->device.config.mtu || fv_chance(&nic->rng, nic->faults.loss))
        return FV_SENT; // so it seems
    uint32_t id = p->dqpn >> FV_QPN_BITS;
    struct fv_out *o = find_out(nic, id);
    if (!o)
        o = connect_out(nic, id);
    if (!o)
        return FV_SENT;
    if (o->blocked)
        return FV_BLOCKED;
    struct iovec all[FV_SGE + 1] = {{.iov_base = p, .iov_len = sizeof *p}};
    for (int i = 0; i < n; i++)
        all[i + 1] = iov[i];
    struct msghdr m = {.msg_iov = all, .msg_iovlen = 1};
    m.msg_iovlen += (size_t)bounce(nic, all + 1, n);
    if (sendmsg(o->fd, &m, MSG_NOSIGNAL | MSG_DONTWAIT) >= 0)
        return FV_SENT;
    if (errno == EAGAIN || errno == ENOBUFS) {
        o->blocked = true;
        return FV_BLOCKED;
    }
    close(o->fd); // there is nobody any more
    *o = nic->out[--nic->nout];
    return FV_SENT;
}

// ---- Arriving ------------------------------------------------------------------------------------

static bool arrives_by_lid(const struct fv_config *c, unsigned device, const struct fv_packet *p,
                           unsigned port) {
    if (p->dlid != fv_lid(c, device, port) || (p->subnet != c->subnet && !p->global))
        return false;
    uint8_t gid[16], type;
    fv_gid(c, device, port, 0, gid, &type);
    return !p->global || memcmp(gid, p->dgid, 16) == 0;
}

// The network carries routable packets only: of version 2, between addresses that are not link-local.
static bool arrives_by_gid(const struct fv_config *c, unsigned device, const struct fv_packet *p,
                           unsigned port) {
    if (p->gid_type != IBV_GID_TYPE_ROCE_V2 || (p->src_host != c->host && p->hop_limit < 2))
        return false;
    uint8_t gid[16], type;
    fv_gid(c, device, port, 3, gid, &type);
    return memcmp(gid, p->dgid, 16) == 0;
}

struct fv_qp *fv_route(struct fv_nic *nic, const struct fv_packet *p) {
    const struct fv_config *c = &nic->device.config;
    struct fv_qp *q = nic->qp[p->dqpn % (1u << FV_QPN_BITS)];
    if (!q || q->v.qp_num != p->dqpn || nic->cut || nic->gone)
        return NULL;
    if (q->state != IBV_QPS_RTR && q->state != IBV_QPS_RTS)
        return NULL;
    unsigned port = q->attr.port_num;
    if (nic->down[port] || (c->isolate && p->src_device != nic->device.number))
        return NULL;
    bool there = c->link == FV_IB ? arrives_by_lid(c, nic->device.number, p, port)
                                  : arrives_by_gid(c, nic->device.number, p, port);
    if (!there || p->sqpn != q->attr.dest_qp_num || p->mtu != (uint8_t)q->attr.path_mtu ||
        p->mtu > (uint8_t)c->mtu)
        return NULL;
    if (p->global ? memcmp(p->sgid, q->attr.ah_attr.grh.dgid.raw, 16) != 0
                  : p->slid != q->attr.ah_attr.dlid)
        return NULL;
    return q;
}
