// SPDX-License-Identifier: MIT
// The watch's messages: fixed structs, little-endian, one a control message; and the check of what came.
#ifndef RDI_TRANSPORT_WATCH_WIRE_H
#define RDI_TRANSPORT_WATCH_WIRE_H

#include "transport/watch/watch.h"

enum rdi_watch_type {
    RDI_W_BEAT = 1,
    RDI_W_SUSPECT,
    RDI_W_PROPOSE,
    RDI_W_ACK,
    RDI_W_PRIOR, // an ACK of somebody who had accepted another coordinator's proposal: that one
    RDI_W_ALIVE, // no: I hear a rank that is said to be silent
    RDI_W_COMMIT,
    RDI_W_REPORT,
    RDI_W_VERDICT,
    RDI_W_VOTE,
    RDI_W_RESULT,
    RDI_W_QUERY,
    RDI_W_JOIN,
    RDI_W_JOIN_ACK,
    RDI_W_READY,
    RDI_W_INVITE,
    RDI_W_CUT,   // the sender's side has no majority
    RDI_W_RELAY, // one of the others, for a rank that the sender's path to is lost
    RDI_W_TYPES
};

#define RDI_W_JOINED 8 // newcomers of one decision
#define RDI_W_PART 768 // bytes of a record in one JOIN

struct rdi_w_beat {
    uint64_t epoch;
    uint32_t incarnation;
    uint32_t number; // of the sender's beats
    uint32_t heard;  // the number of the receiver's latest beat that the sender has heard; 0: none
    uint32_t reserved;
};
struct rdi_w_suspect {
    uint64_t epoch;
    uint32_t rank, incarnation, cause, reserved;
    char text[RDI_WATCH_TEXT];
};
struct rdi_w_decision { // PROPOSE, PRIOR, COMMIT
    uint64_t epoch, round;
    uint32_t coordinator, cause; // cause of the lowest failed rank
    uint32_t soft, ask; // soft: not all are known to be dead; who hears one says so. ask: only
                        // that is asked, nothing to accept
    uint32_t joined[RDI_W_JOINED][2]; // rank + 1, incarnation; 0 = none
    uint64_t failed[RDI_WATCH_SET];
    char text[RDI_WATCH_TEXT]; // of the lowest failed rank
};
struct rdi_w_ack { // ACK, and PRIOR is one as well
    uint64_t epoch, round;
};
struct rdi_w_alive {
    uint64_t epoch, round;
    uint32_t rank, via; // via: rank + 1 of one that hears it; 0: the sender knows none
};
struct rdi_w_verdict { // REPORT, VERDICT
    uint64_t comm, epoch;
    int32_t status;
    uint32_t culprit; // world rank + 1; 0: none
    char text[RDI_ERROR_TEXT];
};
struct rdi_w_vote { // VOTE, QUERY
    uint64_t comm, tag, flags, epoch;
};
struct rdi_w_result {
    uint64_t comm, tag, flags, epoch;
    uint64_t live[RDI_WATCH_SET];
};
struct rdi_w_join {
    uint32_t incarnation, total, offset, len;
    uint8_t bytes[RDI_W_PART];
};
struct rdi_w_live { // JOIN_ACK: who lives; READY: who has acknowledged
    uint64_t epoch;
    uint32_t incarnation, reserved;
    uint64_t live[RDI_WATCH_SET];
};
struct rdi_w_cut {
    uint64_t epoch;
};
struct rdi_w_relay {
    uint32_t from, to, type, len;
    uint8_t bytes[RDI_CTRL_MAX - 16];
};

union rdi_w_any {
    struct rdi_w_beat beat;
    struct rdi_w_suspect suspect;
    struct rdi_w_decision decision;
    struct rdi_w_ack ack;
    struct rdi_w_alive alive;
    struct rdi_w_verdict verdict;
    struct rdi_w_vote vote;
    struct rdi_w_result result;
    struct rdi_w_join join;
    struct rdi_w_live live;
    struct rdi_watch_invite invite;
    struct rdi_w_cut cut;
    struct rdi_w_relay relay;
};

// Checks a message of a job of `size` ranks and copies it to *out (aligned, texts ended). False: malformed.
bool rdi_w_read(unsigned type, const void *msg, size_t len, int size, union rdi_w_any *out);
// Bytes of a message of that type; 0: no such type.
size_t rdi_w_size(unsigned type);

#endif
