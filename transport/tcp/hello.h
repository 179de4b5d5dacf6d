// SPDX-License-Identifier: MIT
// What TCP nets and links say before frames flow: addresses, and the two payloads of the handshake.
// Encoders and checked, pure decoders.
#ifndef RDI_TRANSPORT_TCP_HELLO_H
#define RDI_TRANSPORT_TCP_HELLO_H

#include "transport/internal.h"

#define RDI_TCP_ADDRS 8u  // addresses of one rank
#define RDI_TCP_PATHS 64u // connections of one link
#define RDI_TCP_SLOTS_MAX 1024
#define RDI_TCP_MSG_MAX (16u << 20)
#define RDI_TCP_TEXT 256 // longest text in a reply, with NUL

// One listening address.
struct rdi_tcp_addr {
    uint8_t family; // 4 or 6
    uint8_t device; // addresses of one interface have one number
    uint8_t prefix; // bits of the subnet
    bool loopback;
    bool preferred; // of a NIC that was decided for the rank
    uint16_t port;  // host byte order
    uint32_t scope; // IPv6 zone, meaningful on its own host only
    uint8_t ip[16];
};

// A rank's address for its peers.
struct rdi_tcp_blob {
    uint8_t host_id[16];
    char host[RDI_HOST_MAX];
    unsigned count;
    struct rdi_tcp_addr addr[RDI_TCP_ADDRS];
};
size_t rdi_tcp_blob_write(const struct rdi_tcp_blob *b, uint8_t out[RDI_BLOB_MAX]);
bool rdi_tcp_blob_read(struct rdi_tcp_blob *b, const void *in, size_t len);
// Fails for an address that could not be read, of `whose`: of another version, or damaged.
rondo_status rdi_tcp_blob_fail(const void *in, size_t len, const char *whose);

// A way to a peer: from one of our addresses to one of its.
struct rdi_tcp_route {
    struct rdi_tcp_addr local, remote;
    uint8_t worth; // how many of both are preferred
};
#define RDI_TCP_ROUTES (3 * RDI_TCP_ADDRS)
// Ways to the peer, those of the greatest worth first; 0 = it cannot be reached. Those of one worth, at most
// RDI_TCP_ADDRS, can be used at the same time; those of less stand in for them.
unsigned rdi_tcp_routes(const struct rdi_tcp_blob *mine, const struct rdi_tcp_blob *peer,
                        struct rdi_tcp_route out[RDI_TCP_ROUTES]);

// The connector's payload: which connection of which link this is.
enum {
    RDI_TCP_RESUME = 1, // the link was UP before: not to be taken for a new one
    RDI_TCP_PROBE = 2,  // not a link: only asks whether the process lives
    RDI_TCP_SEALED = 4, // frames are to be sealed, see seal.h
};
struct rdi_tcp_hello {
    unsigned flags;
    struct rdi_link_id id;
    uint64_t session;        // random, one for each link of a sender's life
    uint32_t epoch, attempt; // later (epoch, attempt) replaces earlier
    uint32_t path, paths;
    uint32_t slots, max_msg;
    uint16_t port; // the connector's own listener on the interface it connects from; 0 = none
    char host[RDI_HOST_MAX];
};
size_t rdi_tcp_hello_write(const struct rdi_tcp_hello *h, uint8_t out[RDI_HS_PAYLOAD]);
bool rdi_tcp_hello_read(struct rdi_tcp_hello *h, const void *in, size_t len);

// The acceptor's answer.
struct rdi_tcp_reply {
    rondo_status status;        // RONDO_OK, RONDO_AGAIN (try later) or an error with its text
    uint32_t slots, max_msg;    // the smaller of both ends'
    uint64_t arrived, released; // what the receiver has
    char text[RDI_TCP_TEXT];
};
size_t rdi_tcp_reply_write(const struct rdi_tcp_reply *r, uint8_t out[RDI_HS_PAYLOAD]);
bool rdi_tcp_reply_read(struct rdi_tcp_reply *r, const void *in, size_t len);

#endif
