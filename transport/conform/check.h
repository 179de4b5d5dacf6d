// SPDX-License-Identifier: MIT
// What a check has to work with: the process that runs it, nets and links, streams of messages, resources, and
// ways to be a stranger.
#ifndef RDI_CONFORM_CHECK_H
#define RDI_CONFORM_CHECK_H

#include "transport/conform/conform.h"

#include <stdatomic.h>

// ---- The checked process -------------------------------------------------------------------------

#define CF_NETS 3
#define CF_LINKS 256
#define CF_BOX 1024 // bytes of one exchange

// What the keeper can see of its child, in shared memory.
struct cf_note {
    char step[160];
    char links[1400];
    _Atomic int stops;  // how often the keeper has stopped and continued the child
    _Atomic int deadly; // the child kills itself now, and means it
};

struct cf_box {
    size_t len;
    uint8_t bytes[CF_BOX];
};

// A link under observation: its counters as they last were.
struct cf_seen {
    struct rdi_link *link;
    enum rdi_link_state state;
    uint32_t epoch;
    uint64_t credit, posted, sent, arrived, released;
};

struct cf_net;
struct cf {
    const struct cf_place *place;
    const struct cf_check *check;
    struct rdi_env env;
    const struct rdi_net_ops *ops;
    int rank, size, peer; // peer: the partner's rank
    bool first;           // of the two partners
    uint64_t deadline, random;
    uint64_t shared_random; // the same on all ranks
    int wire;               // to the keeper
    struct cf_note *note;
    struct rdi_store *store;
    char prefix[96];
    unsigned step;
    uint64_t watched;     // when the others were last asked whether they failed
    struct cf_box *boxes; // of the last exchange, one a rank
    struct cf_net *nets[CF_NETS];
    unsigned turns;
    bool restless; // turns poll only: no arm(), which flushes what was put off
    struct cf_seen seen[CF_LINKS];
    unsigned nseen;
};

// These two end the process.
void cf_fail(struct cf *c, const char *fmt, ...) __attribute__((format(printf, 2, 3), noreturn));
void cf_skip(struct cf *c, const char *fmt, ...) __attribute__((format(printf, 2, 3), noreturn));
#define cf_expect(c, condition, ...)   \
    do {                               \
        if (!(condition)) {            \
            cf_fail((c), __VA_ARGS__); \
        }                              \
    } while (0)
// Says what is being done, for the report of a check that hangs.
void cf_step(struct cf *c, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
uint64_t cf_random(struct cf *c);
// How many where `n` do for a quick look: ten times with --long, fewer under a sanitizer. The same on all ranks.
uint64_t cf_many(const struct cf *c, uint64_t n);
uint64_t cf_now(const struct cf *c);

// Gives `len` bytes to all that take part and fills c->boxes; drives the nets meanwhile. A barrier.
void cf_exchange(struct cf *c, const void *mine, size_t len);
void cf_sync(struct cf *c);
// Fails when one that takes part has failed; asks now and then only.
void cf_watch(struct cf *c);
bool cf_takes_part(const struct cf *c, int rank);

// The process dies here by SIGKILL, as the check wants it.
void cf_die(struct cf *c) __attribute__((noreturn));
// Ends here without closing anything, with a pass.
void cf_leave(struct cf *c) __attribute__((noreturn));
// The keeper stops this process for so long; returns afterwards.
void cf_be_stopped(struct cf *c, unsigned ms);
void cf_child_main(const struct cf_place *place, const struct cf_check *check, int seq, int round,
                   struct cf_note *note, int wire) __attribute__((noreturn));

// ---- Nets and links ------------------------------------------------------------------------------

struct cf_addr {
    uint8_t blob[RDI_BLOB_MAX];
    size_t len;
};

struct cf_net {
    struct cf *c;
    struct rdi_options options;
    struct rdi_job job;
    struct rdi_net_events events;
    struct rdi_net_params params;
    struct rdi_net *net;
    struct cf_addr own;
    struct cf_addr *peers; // by rank, after cf_meet()
    bool held;             // cf_turn() leaves it alone

    rondo_status refuse; // what accept() says
    unsigned accepts, naccepted;
    struct rdi_link *accepted[CF_LINKS]; // those that are open
    uint64_t ctrls;
    unsigned ctrl_type;
    size_t ctrl_len;
    uint8_t ctrl[RDI_CTRL_MAX];
    void (*on_ctrl)(struct cf_net *n, struct rdi_link *link, unsigned type, const uint8_t *msg,
                    size_t len);
    void *(*on_land)(struct cf_net *n, struct rdi_link *link, uint64_t tag, uint32_t len);
    void *arg;
    unsigned lines;
    char last_line[512]; // logged
};

// A net with the job's options and these in addition. `key` NULL or a secret other than the job's.
struct cf_net *cf_net_prepare(struct cf *c, const char *options);
rondo_status cf_net_start(struct cf_net *n);
struct cf_net *cf_net_open(struct cf *c, const char *options);
void cf_net_close(struct cf_net *n);
// All that take part learn each other's address. A rank without a net passes NULL.
void cf_meet(struct cf *c, struct cf_net *n);

struct rdi_link *cf_connect(struct cf_net *n, const struct cf_addr *to, int rank, uint64_t comm);
rondo_status cf_try_connect(struct cf_net *n, const struct cf_addr *to, int rank, uint64_t comm,
                            struct rdi_link **out);
// The link that `from` opened under this comm, once it was accepted and is open; else NULL.
struct rdi_link *cf_accepted(const struct cf_net *n, int from, uint64_t comm);
void cf_close(struct cf_net *n, struct rdi_link *link, bool bye);

// One turn of all nets; sleeps a moment when nothing moved.
void cf_turn(struct cf *c);
void cf_turns(struct cf *c, unsigned ms);
// Sleeps on the nets' descriptors as an engine does, at most so long. True: something may be there.
bool cf_sleep(struct cf *c, uint64_t ns);
// Checks what must hold at all times, on all links.
void cf_invariants(struct cf *c);
void cf_track(struct cf *c, struct rdi_link *link);
void cf_untrack(struct cf *c, const struct rdi_link *link);
// What is known of all links, for texts.
void cf_describe(struct cf *c, char *text, size_t cap);

// Turns until the condition holds, at most `seconds` (0: as long as the check may take).
uint64_t cf_wait_begin(struct cf *c, unsigned seconds, const char *what);
void cf_wait_turn(struct cf *c, uint64_t end, const char *what);
#define cf_await_for(c, seconds, what, condition)                \
    do {                                                         \
        uint64_t cf_end = cf_wait_begin((c), (seconds), (what)); \
        while (!(condition)) {                                   \
            cf_wait_turn((c), cf_end, (what));                   \
        }                                                        \
    } while (0)
#define cf_await(c, what, condition) cf_await_for(c, 0, what, condition)

// Waits for the link to fail with this status (or, if given, the other one), resetting a lost one as the
// engine does, and checks its text.
void cf_await_failed(struct cf *c, struct rdi_link *link, rondo_status s, rondo_status or_s);
// What an engine does for a lost link; true when it did.
bool cf_revive(struct cf *c, struct rdi_link *link);

enum {
    CF_TO = 1,
    CF_FRO = 2,
    CF_BOTH = 3
}; // links from the first partner to the second; back; both
struct cf_pair {
    struct cf_net *n;
    const struct cf_addr *peer;
    struct rdi_link *out, *in;
};
void cf_pair_open(struct cf_pair *p, struct cf *c, const char *options, unsigned links);
// Meets the partner, closes the links in order, and the net.
void cf_pair_close(struct cf_pair *p, struct cf *c);
// Brings up the links on a net that is open and has met.
void cf_pair_links(struct cf_pair *p, struct cf *c, unsigned links, uint64_t comm);

// ---- Streams of messages -------------------------------------------------------------------------

// Both ends make the same contents from (key, number, length), so a wrong byte, length or order shows.
void cf_fill(void *at, uint64_t key, uint64_t seq, uint32_t len);
bool cf_matches(const void *at, uint64_t key, uint64_t seq, uint32_t len);

typedef uint32_t (*cf_sizes)(uint64_t key, uint64_t seq, uint32_t max);
uint32_t cf_any_size(uint64_t key, uint64_t seq,
                     uint32_t max); // all sizes at which something changes
uint32_t cf_max_size(uint64_t key, uint64_t seq, uint32_t max);
uint32_t cf_small_size(uint64_t key, uint64_t seq, uint32_t max);
uint32_t cf_wild_size(uint64_t key, uint64_t seq, uint32_t max); // large and empty ones in turns

struct cf_flow {
    struct cf *c;
    struct rdi_link *link;
    uint64_t count; // messages in all
    cf_sizes size;
    uint64_t key;
    unsigned flags;
    bool signs;      // every second message has a signature
    bool scribble;   // the source is overwritten as soon as it is free
    bool may_end;    // the link may be lost or fail
    bool shifts;     // message q starts q % 64 bytes from alignment
    uint8_t *memory; // sender: slots * stride bytes; the flow's own unless `lent`
    bool lent;
    size_t stride;
    uint64_t scribbled;
    uint64_t taken, bytes; // receiver
    unsigned hold;         // messages that are kept unreleased
};
void cf_flow_begin(struct cf_flow *f, struct cf *c, struct rdi_link *link, uint64_t count,
                   cf_sizes size);
// Sender: puts what goes. Receiver: checks what is there. Returns how much moved.
unsigned cf_flow_move(struct cf_flow *f);
bool cf_flow_done(const struct cf_flow *f);
void cf_flow_end(struct cf_flow *f);
// From beginning to end; either flow's link may be NULL.
void cf_flow_run(struct cf *c, struct cf_flow *out, struct cf_flow *in);
// Streams over the pair's links, whichever there are.
void cf_pair_stream(struct cf_pair *p, struct cf *c, uint64_t count, cf_sizes size, bool signs);
// One message each way that there is a link, verified.
void cf_pair_hello(struct cf_pair *p, struct cf *c);

rondo_status cf_put(struct rdi_link *link, const void *data, uint32_t len, uint64_t tag,
                    unsigned flags);
// Puts when it goes; drives meanwhile.
void cf_put_wait(struct cf *c, struct rdi_link *link, const void *data, uint32_t len, uint64_t tag,
                 unsigned flags);

// ---- Resources -----------------------------------------------------------------------------------

struct cf_usage {
    unsigned fds, maps, threads;
    uint64_t memory;  // bytes of address space
    char names[4096]; // of descriptors, for texts
};
void cf_usage_take(struct cf_usage *u);
// Fails when there is more than before. `growth` bytes of address space are fine.
void cf_usage_expect(struct cf *c, const struct cf_usage *before, uint64_t growth,
                     const char *when);
// Leaves room for `more` descriptors beyond those that are open; -1: as many as may be.
void cf_limit_fds(struct cf *c, int more);

// ---- Ways to be a stranger, and to break things --------------------------------------------------

// A plain connection to a net's listener; -1 when it refuses.
int cf_dial(struct cf *c, const struct cf_addr *to);
// A listener of our own whose address looks like `like` with another port or name.
int cf_listen_like(struct cf *c, const struct cf_addr *like, struct cf_addr *out);
// A connection, or -1 after a moment.
int cf_accept_one(int listener);
enum rdi_hs_kind cf_handshake_kind(const struct cf *c);

// Why the path between the partners cannot be cut; NULL when it can.
const char *cf_cut_excuse(const struct cf *c);
// Cuts the path of this link for about `ms`, or, with 0, until cf_heal().
void cf_cut(struct cf *c, struct rdi_link *link, unsigned ms);
void cf_heal(struct cf *c);
// Makes a simulated device refuse to register memory; a real one is bound by the kernel's limit.
void cf_starve(struct cf *c);
// Whether the path stays cut until it is healed; else it only breaks for a moment.
bool cf_cut_lasts(const struct cf *c);

#endif
