// SPDX-License-Identifier: MIT
// An engine for the nets under test: takes the links that peers open, puts, releases, resets and closes as the input
// says, and holds the net to the transport's contract. What the contract says is the owner's again is freed at once,
// so that an access to it is seen; what must stay, stays.
#ifndef RDI_TESTS_OWNER_H
#define RDI_TESTS_OWNER_H

#include "fuzz.h"
#include "transport/internal.h"

#define OWNER_SLOTS 8u
#define OWNER_LINKS 8
#define OWNER_LANDED 32
#define OWNER_LANDS 1 // tags that land where the owner says: bit 0
#define OWNER_CLOSES \
    6 // tags and types of control messages upon which the owner closes the link: low three bits

struct held {
    struct rdi_link *link;
    void *data[OWNER_SLOTS]; // sources of messages under way
    void *landed[OWNER_LANDED];
};

struct owner {
    struct held held[OWNER_LINKS];
    uint32_t slots, max_msg; // most that a link may have
    uint32_t longest;        // message to put
    int ranks, rank;
    uint8_t
        how; // what becomes of links that come: 1 refused, 2 closed at once (4: with a good-bye), else taken
};
extern struct owner owner;
extern const struct rdi_net_events owner_events;

// The link's; NULL: the owner has not got it. link NULL: a free place.
struct held *owner_held(const struct rdi_link *link);
// A link by a number of the input; NULL: there is none.
struct held *owner_pick(uint8_t number);
void owner_close(struct held *h, bool bye);
// It has no link.
bool owner_is_idle(void);
// After each step: counters are in order, and what is free is freed.
void owner_check(void);
// Steps.
void owner_put(struct input *in);
void owner_ask(struct input *in);
// All links are at their end (a sender may be lost); closes them.
void owner_end(void);

#endif
