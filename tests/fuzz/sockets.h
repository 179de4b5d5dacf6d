// SPDX-License-Identifier: MIT
// Stream sockets, epoll and poll in memory, so that a target gives bytes to code that reads sockets without a system
// call, cut as it likes. The code calls what it always calls; the linker's --wrap leads it here (see CMakeLists.txt:
// SOCKET_CALLS).
//
//   the product                                  the target
//     recv() <------------- bytes ------------     sockets_give(), sockets_end()
//     send() -------------- bytes ----------->     sockets_take()
//     accept4() <------- a connection --------     sockets_knock()
//     connect() -------- a connection ------->     SOCKET_DIALING, sockets_answer()
#ifndef RDI_TESTS_SOCKETS_H
#define RDI_TESTS_SOCKETS_H

#include "fuzz.h"

#include <sys/socket.h>

#define SOCKETS 64
#define SOCKET_IN 16384u
#define SOCKET_OUT 32768u
#define SOCKET_FIRST_FD 5000 // no real descriptor

enum socket_kind {
    SOCKET_FREE,
    SOCKET_NEW,
    SOCKET_LISTENS,
    SOCKET_WAITS, // in a listener's queue
    SOCKET_DIALING,
    SOCKET_CONNECTED,
    SOCKET_EPOLL,
    SOCKET_FILE, // anything else; readable when it was given bytes or its end
};

struct sock {
    enum socket_kind kind;
    int fd, listener;
    struct sockaddr_storage local, remote;
    // Towards the product.
    size_t in_off, in_len;
    bool in_end;  // then the stream ends,
    int error;    // or fails
    size_t piece; // at most so many bytes a call; 0: no limit
    // From the product.
    size_t out_len, room; // room: bytes until send() has to wait
    bool out_end, closed; // closed: by the product
    // epoll
    uint8_t mark; // the target's
    bool watched;
    uint32_t events;
    uint64_t data;
    uint8_t *in,
        *out; // SOCKET_IN and SOCKET_OUT bytes: elsewhere, so that a look at all sockets is a short one
};

// A descriptor of any kind for the product; NULL: there are none left.
struct sock *sockets_new(enum socket_kind kind);
// Nothing may be open any more.
void sockets_check_closed(void);
// accept4(), socket() and open() fail with EMFILE.
extern bool sockets_no_descriptors;
// Told of each descriptor that the product closes; may be NULL.
extern void (*sockets_on_close)(struct sock *s);

struct sock *sockets_of(int fd);
// Number i of those that are connected, or else NULL.
struct sock *sockets_pick(enum socket_kind kind, unsigned i);
// A new connection in the queue of listener number i; NULL: there is no room.
struct sock *sockets_knock(unsigned i);
// Both ends of a connection that the product is given.
struct sock *sockets_connected(void);
void sockets_give(struct sock *s, const void *bytes, size_t n);
// Bytes that the product has sent, at most n.
size_t sockets_take(struct sock *s, void *bytes, size_t n);
// The peer closes (error 0), or the connection breaks.
void sockets_end(struct sock *s, int error);
// What becomes of a connection that the product asked for: error 0, it stands.
void sockets_answer(struct sock *s, int error);

#endif
