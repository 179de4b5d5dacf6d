// SPDX-License-Identifier: MIT
// A net whose other end is the input: links that a fuzz target opens, fills and breaks as it likes, within what the
// transport's contract (transport/internal.h) allows, and that hold the caller to its own part of it.
#ifndef RDI_TESTS_FAKE_NET_H
#define RDI_TESTS_FAKE_NET_H

#include "fuzz.h"
#include "transport/internal.h"

#define FAKE_SLOTS 4u
#define FAKE_MSG_MAX 256u
#define FAKE_LINKS 32

struct fake_message {
    void *data,
        *sig; // of the receiver: blocks of their own, unless the caller says where data lands
    bool landed;
    uint32_t len;
    uint64_t tag;
};

struct fake_link {
    struct rdi_link base;
    unsigned number; // in its net
    struct fake_message messages[FAKE_SLOTS];
};

struct fake_net {
    struct rdi_net base;
    struct fake_link *links[FAKE_LINKS]; // NULL: none
    bool full;                           // ctrl() and put() find no room
    unsigned ctrls, connects, resets;
};

// Give it a struct fake_net as `extra`.
extern const struct rdi_net_ops fake_net_ops;

// The links that there are, by a number of the input; NULL: none.
struct fake_link *fake_net_pick(struct fake_net *n, uint8_t number);
// What the peer does. Each does nothing where the link's state does not let it happen.
// Opens a link to us. Whether it was taken.
bool fake_net_accept(struct fake_net *n, const struct rdi_link_id *id);
void fake_net_state(struct fake_link *l, enum rdi_link_state state, rondo_status status);
// A message; sig NULL: none.
void fake_net_deliver(struct fake_link *l, uint64_t tag, uint32_t len, const void *sig);
void fake_net_ctrl(struct fake_link *l, unsigned type, const void *msg, size_t len);
// Takes so many messages off the sender's hands, and frees so many slots.
void fake_net_take(struct fake_link *l, uint32_t messages, uint32_t slots);
// The path is back: the receiver had `have` of the messages that were not acknowledged.
void fake_net_back(struct fake_link *l, uint32_t have);

#endif
