// SPDX-License-Identifier: MIT
// See sockets.h. What the product must not do, with a descriptor that it has not or has closed, ends the target.
#include "sockets.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdarg.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/uio.h>
#include <unistd.h>

bool sockets_no_descriptors;
void (*sockets_on_close)(struct sock *s);

static struct sock all[SOCKETS];
static uint8_t in_bytes[SOCKETS][SOCKET_IN], out_bytes[SOCKETS][SOCKET_OUT];
static int top; // none from here on has been used
static uint16_t last_port = 20000;

// ---- The target's side ---------------------------------------------------------------------------

struct sock *sockets_of(int fd) {
    int i = fd - SOCKET_FIRST_FD;
    MUST(i >= 0 && i < SOCKETS && all[i].kind != SOCKET_FREE && !all[i].closed);
    return &all[i];
}

struct sock *sockets_new(enum socket_kind kind) {
    for (int i = 0; i < SOCKETS; i++) {
        struct sock *s = &all[i];
        if (s->kind == SOCKET_FREE) {
            *s = (struct sock){.kind = kind,
                               .fd = SOCKET_FIRST_FD + i,
                               .room = SOCKET_OUT,
                               .in = in_bytes[i],
                               .out = out_bytes[i]};
            top = top > i ? top : i + 1;
            return s;
        }
    }
    return NULL;
}

void sockets_check_closed(void) {
    for (int i = 0; i < top; i++) {
        MUST(all[i].kind == SOCKET_FREE);
    }
    top = 0;
    sockets_no_descriptors = false;
    last_port = 20000;
}

struct sock *sockets_pick(enum socket_kind kind, unsigned number) {
    for (unsigned i = 0, n = (unsigned)top; i < n; i++) {
        struct sock *s = &all[(number + i) % n];
        if (s->kind == kind && !s->closed) {
            return s;
        }
    }
    return NULL;
}

static void name(struct sockaddr_storage *a, unsigned host) {
    struct sockaddr_in *in = (struct sockaddr_in *)a;
    memset(a, 0, sizeof *a);
    in->sin_family = AF_INET;
    in->sin_addr.s_addr = htonl(0x0a000000 + host);
    in->sin_port = htons(++last_port);
}

struct sock *sockets_knock(unsigned number) {
    struct sock *listener = sockets_pick(SOCKET_LISTENS, number);
    struct sock *s = listener != NULL ? sockets_new(SOCKET_WAITS) : NULL;
    if (s != NULL) {
        s->listener = listener->fd;
        s->local = listener->local;
        name(&s->remote, 2);
    }
    return s;
}

struct sock *sockets_connected(void) {
    struct sock *s = sockets_new(SOCKET_CONNECTED);
    if (s != NULL) {
        name(&s->local, 1);
        name(&s->remote, 2);
    }
    return s;
}

void sockets_give(struct sock *s, const void *bytes, size_t n) {
    if (s->in_off == s->in_len) {
        s->in_off = s->in_len = 0;
    }
    size_t room = SOCKET_IN - s->in_len;
    n = n < room ? n : room;
    if (n > 0 && !s->in_end && s->error == 0) {
        memcpy(s->in + s->in_len, bytes, n);
        s->in_len += n;
    }
}

size_t sockets_take(struct sock *s, void *bytes, size_t n) {
    n = n < s->out_len ? n : s->out_len;
    if (n > 0) {
        memcpy(bytes, s->out, n);
        memmove(s->out, s->out + n, s->out_len - n);
        s->out_len -= n;
    }
    return n;
}

void sockets_end(struct sock *s, int error) {
    s->in_end = error == 0 || s->in_end;
    s->error = s->error != 0 ? s->error : error;
}

void sockets_answer(struct sock *s, int error) {
    if (s->kind == SOCKET_DIALING) {
        s->kind = SOCKET_CONNECTED;
        sockets_end(s, error);
        s->in_end = false;
    }
}

// ---- Calls on one socket -------------------------------------------------------------------------

static int fail(int error) {
    errno = error;
    return -1;
}

int __wrap_socket(int family, int type, int protocol);
int __wrap_socket(int family, int type, int protocol) {
    (void)protocol;
    MUST((family == AF_INET || family == AF_INET6) && type & SOCK_STREAM);
    struct sock *s = sockets_no_descriptors ? NULL : sockets_new(SOCKET_NEW);
    return s != NULL ? s->fd : fail(EMFILE);
}

int __real_open(const char *path, int flags, mode_t mode);
int __wrap_open(const char *path, int flags, ...);
int __wrap_open(const char *path, int flags, ...) {
    if (strcmp(path, "/dev/null") != 0) {
        return __real_open(path, flags, 0);
    }
    struct sock *s = sockets_no_descriptors ? NULL : sockets_new(SOCKET_FILE);
    return s != NULL ? s->fd : fail(EMFILE);
}

int __wrap_bind(int fd, const struct sockaddr *a, socklen_t len);
int __wrap_bind(int fd, const struct sockaddr *a, socklen_t len) {
    struct sock *s = sockets_of(fd);
    MUST(len <= sizeof s->local);
    memcpy(&s->local, a, len);
    struct sockaddr_in *in = (struct sockaddr_in *)&s->local; // the port is where sin6_port is
    in->sin_port = in->sin_port != 0 ? in->sin_port : htons(++last_port);
    return 0;
}

int __wrap_listen(int fd, int backlog);
int __wrap_listen(int fd, int backlog) {
    MUST(backlog > 0);
    sockets_of(fd)->kind = SOCKET_LISTENS;
    return 0;
}

int __wrap_accept4(int fd, struct sockaddr *a, socklen_t *len, int flags);
int __wrap_accept4(int fd, struct sockaddr *a, socklen_t *len, int flags) {
    (void)flags;
    MUST(sockets_of(fd)->kind == SOCKET_LISTENS);
    for (int i = 0; i < top; i++) {
        struct sock *s = &all[i];
        if (s->kind == SOCKET_WAITS && s->listener == fd) {
            if (sockets_no_descriptors) {
                // The spare descriptor, given up for it, is the next call's.
                sockets_no_descriptors = false;
                return fail(EMFILE);
            }
            s->kind = SOCKET_CONNECTED;
            if (a != NULL) {
                memcpy(a, &s->remote, *len < sizeof s->remote ? *len : sizeof s->remote);
            }
            return s->fd;
        }
    }
    return fail(EAGAIN);
}

int __wrap_connect(int fd, const struct sockaddr *a, socklen_t len);
int __wrap_connect(int fd, const struct sockaddr *a, socklen_t len) {
    struct sock *s = sockets_of(fd);
    MUST(len <= sizeof s->remote && s->kind == SOCKET_NEW);
    memcpy(&s->remote, a, len);
    s->kind = SOCKET_DIALING;
    return fail(EINPROGRESS);
}

static int copy_name(const struct sockaddr_storage *from, struct sockaddr *a, socklen_t *len) {
    memcpy(a, from, *len < sizeof *from ? *len : sizeof *from);
    return 0;
}

int __wrap_getsockname(int fd, struct sockaddr *a, socklen_t *len);
int __wrap_getsockname(int fd, struct sockaddr *a, socklen_t *len) {
    return copy_name(&sockets_of(fd)->local, a, len);
}

int __wrap_getpeername(int fd, struct sockaddr *a, socklen_t *len);
int __wrap_getpeername(int fd, struct sockaddr *a, socklen_t *len) {
    return copy_name(&sockets_of(fd)->remote, a, len);
}

int __wrap_getsockopt(int fd, int level, int option, void *value, socklen_t *len);
int __wrap_getsockopt(int fd, int level, int option, void *value, socklen_t *len) {
    struct sock *s = sockets_of(fd);
    if (level == SOL_SOCKET && option == SO_ERROR) {
        memcpy(value, &s->error, sizeof s->error);
        s->error = 0;
        *len = sizeof s->error;
        return 0;
    }
    if (level == IPPROTO_TCP && option == TCP_INFO) {
        // Where there is no room, all is repeated in vain.
        struct tcp_info info = {.tcpi_retransmits = s->room == 0 ? 9 : 0};
        MUST(*len == sizeof info);
        memcpy(value, &info, sizeof info);
        return 0;
    }
    return fail(ENOPROTOOPT);
}

int __wrap_setsockopt(int fd, int level, int option, const void *value, socklen_t len);
int __wrap_setsockopt(int fd, int level, int option, const void *value, socklen_t len) {
    (void)level;
    (void)option;
    free(own_copy(value, len));
    (void)sockets_of(fd);
    return 0;
}

// How many descriptors there can be, which decides how many strangers may wait.
int __real_getrlimit(__rlimit_resource_t which, struct rlimit *out);
int __wrap_getrlimit(__rlimit_resource_t which, struct rlimit *out);
int __wrap_getrlimit(__rlimit_resource_t which, struct rlimit *out) {
    if (which != RLIMIT_NOFILE) {
        return __real_getrlimit(which, out);
    }
    *out = (struct rlimit){.rlim_cur = 1024, .rlim_max = 1024};
    return 0;
}

int __wrap_shutdown(int fd, int how);
int __wrap_shutdown(int fd, int how) {
    struct sock *s = sockets_of(fd);
    s->out_end = s->out_end || how != SHUT_RD;
    s->in_end = s->in_end || how != SHUT_WR;
    return 0;
}

int __real_close(int fd);
int __wrap_close(int fd);
int __wrap_close(int fd) {
    if (fd < SOCKET_FIRST_FD) {
        return __real_close(fd);
    }
    struct sock *s = sockets_of(fd);
    for (int i = 0; s->kind == SOCKET_LISTENS && i < top; i++) {
        if (all[i].kind == SOCKET_WAITS && all[i].listener == fd) {
            all[i].kind = SOCKET_FREE;
        }
    }
    if (sockets_on_close != NULL) {
        sockets_on_close(s);
    }
    s->kind = SOCKET_FREE;
    return 0;
}

// ---- Bytes ---------------------------------------------------------------------------------------

ssize_t __wrap_recv(int fd, void *buf, size_t n, int flags);
ssize_t __wrap_recv(int fd, void *buf, size_t n, int flags) {
    struct sock *s = sockets_of(fd);
    (void)flags;
    size_t have = s->in_len - s->in_off;
    MUST(s->kind == SOCKET_CONNECTED);
    if (have == 0 || n == 0) {
        return s->error != 0 ? fail(s->error) : s->in_end ? 0 : fail(EAGAIN);
    }
    n = n < have ? n : have;
    n = s->piece > 0 && n > s->piece ? s->piece : n;
    memcpy(buf, s->in + s->in_off, n);
    s->in_off += n;
    return (ssize_t)n;
}

ssize_t __wrap_readv(int fd, const struct iovec *iov, int count);
ssize_t __wrap_readv(int fd, const struct iovec *iov, int count) {
    ssize_t total = 0;
    for (int i = 0; i < count; i++) {
        ssize_t got = __wrap_recv(fd, iov[i].iov_base, iov[i].iov_len, 0);
        if (got <= 0) {
            return total > 0 ? total : got;
        }
        total += got;
        if ((size_t)got < iov[i].iov_len) {
            break;
        }
    }
    return total;
}

ssize_t __wrap_send(int fd, const void *buf, size_t n, int flags);
ssize_t __wrap_send(int fd, const void *buf, size_t n, int flags) {
    struct sock *s = sockets_of(fd);
    MUST(s->kind == SOCKET_CONNECTED && flags & MSG_NOSIGNAL);
    if (s->error != 0 || s->out_end) {
        return fail(s->error != 0 ? s->error : EPIPE);
    }
    size_t room = SOCKET_OUT - s->out_len;
    room = room < s->room ? room : s->room;
    if (room == 0) {
        return n > 0 ? fail(EAGAIN) : 0;
    }
    n = n < room ? n : room;
    memcpy(s->out + s->out_len, buf, n);
    s->out_len += n;
    s->room -= n;
    return (ssize_t)n;
}

ssize_t __wrap_sendmsg(int fd, const struct msghdr *m, int flags);
ssize_t __wrap_sendmsg(int fd, const struct msghdr *m, int flags) {
    ssize_t total = 0;
    for (size_t i = 0; i < m->msg_iovlen; i++) {
        ssize_t sent = __wrap_send(fd, m->msg_iov[i].iov_base, m->msg_iov[i].iov_len, flags);
        if (sent < 0) {
            return total > 0 ? total : -1;
        }
        total += sent;
        if ((size_t)sent < m->msg_iov[i].iov_len) {
            break;
        }
    }
    return total;
}

// ---- Waiting, which nobody does ------------------------------------------------------------------

static uint32_t ready(const struct sock *s) {
    uint32_t now = 0;
    switch (s->kind) {
    case SOCKET_LISTENS:
        for (int i = 0; i < top; i++) {
            now |= all[i].kind == SOCKET_WAITS && all[i].listener == s->fd ? EPOLLIN : 0;
        }
        return now;
    case SOCKET_FILE:
        return s->in_off < s->in_len || s->in_end ? EPOLLIN : 0;
    case SOCKET_CONNECTED:
        now |= s->in_off < s->in_len || s->in_end ? EPOLLIN : 0;
        now |= s->room > 0 ? EPOLLOUT : 0;
        now |= s->error != 0 ? EPOLLIN | EPOLLOUT | EPOLLERR | EPOLLHUP : 0;
        now |= s->in_end && s->out_end ? EPOLLHUP : 0;
        return now;
    default:
        return 0;
    }
}

int __wrap_epoll_create1(int flags);
int __wrap_epoll_create1(int flags) {
    (void)flags;
    struct sock *s = sockets_new(SOCKET_EPOLL);
    return s != NULL ? s->fd : fail(EMFILE);
}

int __wrap_epoll_ctl(int epoll, int op, int fd, struct epoll_event *e);
int __wrap_epoll_ctl(int epoll, int op, int fd, struct epoll_event *e) {
    struct sock *s = sockets_of(fd);
    MUST(sockets_of(epoll)->kind == SOCKET_EPOLL);
    if (s->watched != (op != EPOLL_CTL_ADD)) {
        return fail(s->watched ? EEXIST : ENOENT);
    }
    s->watched = op != EPOLL_CTL_DEL;
    if (s->watched) {
        s->events = e->events;
        s->data = e->data.u64;
    }
    return 0;
}

int __wrap_epoll_wait(int epoll, struct epoll_event *out, int max, int timeout);
int __wrap_epoll_wait(int epoll, struct epoll_event *out, int max, int timeout) {
    (void)timeout;
    int n = 0;
    MUST(sockets_of(epoll)->kind == SOCKET_EPOLL);
    for (int i = 0; i < top && n < max; i++) {
        uint32_t now = all[i].watched && all[i].kind != SOCKET_FREE ? ready(&all[i]) : 0;
        now &= all[i].events | EPOLLERR | EPOLLHUP;
        if (now != 0) {
            out[n].events = now;
            out[n++].data.u64 = all[i].data;
        }
    }
    return n;
}
