// SPDX-License-Identifier: MIT
// What the two ends of a verbs link tell each other: set-up messages, the header of a message in its slot, and
// the 32 bits that come with a write. Encoders and checked, pure decoders.
//
// Set-up messages travel as control messages of the inner tcp link, so they are authenticated and ordered. All
// are idempotent: an end whose inner link came back says again what the other may have missed.
#ifndef RDI_TRANSPORT_VERBS_WIRE_H
#define RDI_TRANSPORT_VERBS_WIRE_H

#include "transport/verbs/device.h"

#define RDI_VERBS_QPS 8u // of one link on one pair of ports
#define RDI_VERBS_LINK_QPS (RDI_VERBS_RAILS * RDI_VERBS_QPS)
#define RDI_VERBS_STRIPES 16u
#define RDI_VERBS_TEXT 512
#define RDI_VERBS_MSG_MAX (16u << 20)

enum rdi_verbs_mode { RDI_VERBS_IMM, RDI_VERBS_SPLIT, RDI_VERBS_SEND };

// Types of control messages; the engine's own are below.
enum rdi_verbs_type {
    RDI_VERBS_OFFER = 64, // sender: these queue pairs, please
    RDI_VERBS_GRANT,      // receiver: and these of mine, this memory, so much has arrived
    RDI_VERBS_READY,      // sender: the way works, the link is up
    RDI_VERBS_AGAIN,      // receiver: not over those pairs of ports
    RDI_VERBS_LOST,       // both: the way does not work any more
    RDI_VERBS_FAIL,       // both: no link, for good
    RDI_VERBS_BYE,        // both: good-bye after that message
};

struct rdi_verbs_qp_id {
    uint32_t qpn, psn; // 24 bits each
};

struct rdi_verbs_msg {
    enum rdi_verbs_type type;
    uint32_t epoch, attempt; // of the link; a message of another one is out of date

    // OFFER and GRANT. Queue pair k belongs to pair k % npairs.
    enum rdi_verbs_mode mode;
    uint32_t slots, max_msg;
    unsigned npairs, nqps; // nqps of all pairs together
    struct {
        uint8_t from, to;      // rails of the sender and of the receiver
        uint8_t mtu;           // enum ibv_mtu
        uint32_t rkey;         // GRANT; of no meaning when nothing is written
        uint32_t payload_rkey; // GRANT, apart
    } pairs[RDI_VERBS_RAILS];
    struct rdi_verbs_qp_id qps[RDI_VERBS_LINK_QPS];

    char host[RDI_HOST_MAX];          // OFFER
    struct rdi_verbs_address address; // OFFER
    uint64_t base;                    // GRANT: address of the first slot
    bool apart;                       // GRANT: headers there, payloads in device memory
    uint64_t payload;                 // GRANT, apart: address of the first payload
    uint64_t arrived, released;       // GRANT, and the receiver's BYE
    uint64_t posted;                  // the sender's BYE
    unsigned bad;                     // AGAIN: bit per pair of the offer
    rondo_status status;              // FAIL
    char text[RDI_VERBS_TEXT];        // AGAIN, LOST, FAIL
};

// At most RDI_CTRL_MAX bytes.
size_t rdi_verbs_msg_write(const struct rdi_verbs_msg *m, uint8_t out[RDI_CTRL_MAX]);
// False: not a message of this type, or a field is out of its range whatever the state.
bool rdi_verbs_msg_read(struct rdi_verbs_msg *m, unsigned type, const void *in, size_t len);

// ---- Messages ------------------------------------------------------------------------------------

// In a slot: header, then the payload, or the header only where payloads lie apart from it (in device memory);
// then it is a stripe of its own, the first. Written by this machine and read by that one: little-endian both, as the
// payload is.
#define RDI_VERBS_HEADER 128u
struct rdi_verbs_header {
    uint64_t tag;
    uint32_t len, has_sig;
    uint8_t sig[RDI_SIG_BYTES];
    uint8_t rest[RDI_VERBS_HEADER - 16 - RDI_SIG_BYTES];
};
_Static_assert(sizeof(struct rdi_verbs_header) == RDI_VERBS_HEADER, "header without padding");

// Into how many stripes `bytes` are cut, and how long each is but the last.
struct rdi_verbs_cut {
    unsigned stripes;
    uint32_t piece;
};
struct rdi_verbs_cut rdi_verbs_cut(uint32_t bytes, uint32_t least, unsigned nqps);

// The immediate value of a stripe: index, number - 1, and the low bits of the message's number.
#define RDI_VERBS_SEQ_BITS 24
uint32_t rdi_verbs_imm(unsigned index, unsigned stripes, uint64_t seq);
// Finds the message, which is `from` or later. False: the stripe cannot be.
bool rdi_verbs_imm_read(uint32_t imm, uint64_t from, uint64_t limit, unsigned *index,
                        unsigned *stripes, uint64_t *seq);
// `known` or later, whose low 32 bits are `low`.
static inline uint64_t rdi_verbs_later(uint64_t known, uint32_t low) {
    return known + (uint32_t)(low - (uint32_t)known);
}

#endif
