// SPDX-License-Identifier: MIT
// Frames: what travels on a TCP connection once its handshake is over.
//
//   0     2     3     4      8         16     20     24     32          96
//   magic type  flags epoch  seq       len    aux    tag    [signature] [payload, len bytes]
//
//   type   from      seq            len              aux        tag
//   DATA   sender    message        of the payload   0          the engine's
//   ACK    receiver  arrived        0                0          released
//   CTRL   both      0              of the payload   its type   0
//   BYE    sender    posted         0                0          0
//   BYE    receiver  arrived        0                0          released: the last ACK, which may
//                                                               travel on another path and come later
//
// Numbers are little-endian. The functions here are pure: bytes in, struct out, nothing believed.
#ifndef RDI_TRANSPORT_TCP_FRAME_H
#define RDI_TRANSPORT_TCP_FRAME_H

#include "transport/internal.h"

#define RDI_TCP_HEADER 32
#define RDI_TCP_HEAD_MAX (RDI_TCP_HEADER + RDI_SIG_BYTES)

enum rdi_tcp_frame_type { RDI_TCP_DATA = 1, RDI_TCP_ACK, RDI_TCP_CTRL, RDI_TCP_BYE };
enum { RDI_TCP_HAS_SIG = 1, RDI_TCP_WANTS_ACK = 2 };

struct rdi_tcp_frame {
    enum rdi_tcp_frame_type type;
    unsigned flags;
    uint32_t epoch, len, aux;
    uint64_t seq, tag;
};

// What the reader of a connection knows and holds each frame against.
struct rdi_tcp_expect {
    bool from_sender; // the peer is the link's sender
    uint32_t epoch, max_msg;
    uint64_t next, limit; // from_sender: number of the next message here; first one without credit
    uint64_t sendable;    // else: messages that the peer can have got
};

void rdi_tcp_frame_write(const struct rdi_tcp_frame *f, uint8_t out[RDI_TCP_HEADER]);

// Decodes a header. NULL: good; otherwise what is wrong with it (a constant text), and *f is undefined.
const char *rdi_tcp_frame_read(struct rdi_tcp_frame *f, const uint8_t in[RDI_TCP_HEADER],
                               const struct rdi_tcp_expect *expect);

#endif
