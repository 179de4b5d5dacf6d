// SPDX-License-Identifier: MIT
// A peer that has the job's key and breaks the protocol on a link that was up: rank 1 of a job of two, against rank 0,
// which reduces meanwhile. Rank 0 must neither crash nor hang: it returns the error of the table, or, where what was
// sent has no meaning, goes on and gets the right sum.
#ifndef RDI_TESTS_ATTACK_PEER_H
#define RDI_TESTS_ATTACK_PEER_H

#include "jobs.h"

struct peer {
    struct rank *rank;
    // Its links with rank 0: the one on which it sends, the one on which it receives.
    struct rdi_link *out, *in;
    int held[8]; // descriptors that are to stay open for a while
    int nheld;
};

// The signature of the all_reduce that rank 0 has under way; `nonsense`: with fields that are out of their range.
void peer_signature(const struct peer *p, bool nonsense, uint8_t out[RDI_SIG_BYTES]);

enum verdict {
    FAILS, // rank 0 returns an error that says `text`, before any deadline
    TIMES_OUT, // rank 0 waits until the operation's deadline: the peer says nothing wrong, but too little
    GOES_ON,  // rank 0 is not impressed: the sum is right when the peer reduces as well
    SURVIVES, // whatever rank 0 returns, it returns
};

struct attack {
    const char *name;
    void (*act)(struct peer *p, unsigned variant);
    unsigned variant;
    enum verdict verdict;
    const char *text;
};

// Runs every attack whose name has `only` in it; `options` say the wire.
void peer_run(const struct attack *attacks, size_t n, const char *options, const char *only);

// The tables, one a wire.
void peer_tcp(const char *only);
void peer_shm(const char *only);
void peer_verbs(const char *only);

#endif
