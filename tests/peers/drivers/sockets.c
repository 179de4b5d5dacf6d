// SPDX-License-Identifier: MIT
// The least that a program can do to move bytes over TCP in both directions at once: non-blocking
// calls in turn, no framing, no copy of its own.
#include "sockets.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

static int checked(int result, const char *what) {
    if (result < 0) {
        perror(what);
        exit(1);
    }
    return result;
}

void sockets_pair(int *a, int *b) {
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof at;
    int one = 1;
    int listener = checked(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), "socket");
    checked(bind(listener, (struct sockaddr *)&at, length), "bind");
    checked(listen(listener, 1), "listen");
    checked(getsockname(listener, (struct sockaddr *)&at, &length), "getsockname");
    *a = checked(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), "socket");
    checked(connect(*a, (struct sockaddr *)&at, length), "connect");
    *b = checked(accept4(listener, NULL, NULL, SOCK_CLOEXEC), "accept");
    close(listener);
    setsockopt(*a, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    setsockopt(*b, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
}

// Length of the next call: no more than a chunk, than what is left, than up to the buffer's end.
static size_t piece(size_t done, size_t bytes, size_t size, size_t chunk) {
    size_t n = bytes - done < chunk ? bytes - done : chunk, room = size - done % size;
    return n < room ? n : room;
}

static int would_block(ssize_t n) { return n < 0 && (errno == EAGAIN || errno == EINTR); }

static void sleep_until_ready(const sockets_flow *f, size_t sent, size_t received) {
    struct pollfd fds[2] = {{.fd = sent < f->send_bytes ? f->out : -1, .events = POLLOUT},
                            {.fd = received < f->receive_bytes ? f->in : -1, .events = POLLIN}};
    poll(fds, 2, 1000);
}

int sockets_flow_run(const sockets_flow *f) {
    size_t sent = 0, received = 0;
    while (sent < f->send_bytes || received < f->receive_bytes) {
        int moved = 0;
        if (sent < f->send_bytes) {
            ssize_t n = send(f->out, f->send_from + sent % f->send_size,
                             piece(sent, f->send_bytes, f->send_size, f->chunk),
                             MSG_DONTWAIT | MSG_NOSIGNAL);
            if (n < 0 && !would_block(n))
                return -1;
            sent += n > 0 ? (size_t)n : 0;
            moved |= n > 0;
        }
        if (received < f->receive_bytes) {
            ssize_t n = recv(f->in, f->receive_to + received % f->receive_size,
                             piece(received, f->receive_bytes, f->receive_size, f->chunk),
                             MSG_DONTWAIT);
            if (n == 0 || (n < 0 && !would_block(n)))
                return -1;
            received += n > 0 ? (size_t)n : 0;
            moved |= n > 0;
        }
        if (!moved && f->sleep)
            sleep_until_ready(f, sent, received);
        else if (!moved)
            sched_yield();
    }
    return 0;
}
