// SPDX-License-Identifier: MIT
// The watch's private structs.
//
//   wire.c     messages
//   links.c    connections, heartbeats, evidence
//   member.c   suspicions, proposals, commits
//   agree.c    verdicts and votes
//   join.c     newcomers
//   relay.c    messages to ranks that only others reach
//   watch.c    life, questions
//   thread.c   the thread, and what only a process has: pidfds, /proc
#ifndef RDI_TRANSPORT_WATCH_CORE_H
#define RDI_TRANSPORT_WATCH_CORE_H

#include "transport/watch/wire.h"

#include <pthread.h>
#include <stdatomic.h>

#define RDI_W_MESH 64                     // up to so many ranks everybody watches everybody
#define RDI_W_WINDOW 8                    // of more, everybody watches so many of the lowest ranks
#define RDI_W_VERDICTS 64                 // remembered
#define RDI_W_RESULTS 128                 // remembered
#define RDI_W_LOG 64                      // decisions that are told again to who missed them
#define RDI_W_COMM UINT64_C(0x6863746177) // "watch": the communicator id of its links
#define RDI_W_MS UINT64_C(1000000)

struct rdi_w_out { // a message that waits for its link
    struct rdi_w_out *next;
    unsigned type;
    size_t len;
    uint8_t bytes[];
};

// What this rank knows of another one.
struct rdi_w_rank {
    struct rdi_watch_peer peer;
    struct rdi_link *link; // to or from it, at most one in use
    struct rdi_w_out *out, *out_tail;
    unsigned nout;
    uint64_t heard;        // ns, anything from it
    uint64_t acknowledged; // all that was sent to it, when that was looked at last
    uint64_t connect_at;   // not linked: when to try again
    bool wanted;           // a link to it is to be kept
    bool was_up;           // the link has been UP
    bool up;               // it is, on the path of up_epoch, since up_at
    uint32_t up_epoch;
    uint64_t up_at;
    bool doubt;          // a link to it failed: whoever may, connects at once
    bool watched;        // it is one of those whose silence this rank looks at
    bool left;           // said good-bye
    uint64_t left_since; // then
    bool beat_due;
    bool told_stopped, told_silent;
    // Nothing came through for so long that it may have decided without this rank; and the last beat until then. What
    // comes when a path is back may be old: only who has heard a later beat is known to be here.
    bool apart;
    uint32_t apart_at;
    uint32_t beat_heard; // number of its latest beat
    int via;             // rank + 1 of one that hears it while this rank does not; 0: none
    uint64_t asked_epoch, asked_at; // its first question about silent ranks for that epoch
    uint64_t failed_at, joined_at;  // epochs
    uint32_t failed_incarnation;
    // Suspicion, by this rank or by others; void once the epoch has taken it in.
    enum rdi_watch_cause cause;
    bool own; // this rank's own evidence
    uint64_t since, refreshed;
    char text[RDI_WATCH_TEXT];
    char verdict[RDI_WATCH_TEXT]; // of the decision that failed it
    // A newcomer at work to join: its record, and who has it.
    uint8_t *record;
    uint32_t record_len, record_total, record_incarnation;
    bool ready;
    uint64_t alive_until; // somebody hears it: silence is no evidence until then
    uint64_t lived_at;    // another rank heard it then or later
};

struct rdi_w_verdict_entry {
    uint64_t comm, epoch;
    rondo_status status;
    uint32_t culprit;
    bool decided;
    char text[RDI_ERROR_TEXT];
};

struct rdi_w_ballot {
    bool open, mine; // mine: this rank has voted
    uint64_t comm, tag, flags, birth, told_epoch, sent_at;
    int n;
    int *members; // NULL until this rank votes
    struct {
        int rank;
        uint64_t flags, epoch;
    } * votes; // by others, cap_votes
    unsigned nvotes, cap_votes;
    uint64_t queried_epoch;
    bool queried;
};

struct rdi_w_final {
    uint64_t comm, tag, flags, epoch;
    uint64_t *live; // words
    unsigned words;
};

struct rdi_watch {
    pthread_mutex_t lock;
    struct rdi_env env;
    struct rdi_options options; // the net's own
    struct rdi_job job;
    int rank, size, mesh;
    uint32_t incarnation;
    struct rdi_net_events events;
    struct rdi_net *net;
    void (*wake)(void *arg);
    void *wake_arg;
    bool begun, closing, woken; // woken: wake() is due
    uint64_t began, ran_at;     // ran_at: the last progress
    uint64_t
        unsure_since; // not 0: this process did not run for so long that others may have given it up
    uint64_t timeout_ns, grace_ns, beat_ns; // silence, stop, interval
    struct rdi_w_rank *ranks;
    struct rdi_watch_peer self;

    uint64_t epoch, beat_at, tick_at, report_at;
    uint32_t beats; // said
    _Atomic uint64_t news;
    rondo_status state;
    char why[RDI_ERROR_TEXT];
    char trouble[RDI_WATCH_TEXT]; // why this rank cannot make a link: descriptors, memory

    // As coordinator.
    bool proposing;
    struct rdi_w_decision proposal;
    uint64_t acked[RDI_WATCH_SET], proposed_at, round;
    uint64_t prior[RDI_WATCH_SET]; // who had accepted `prior_decision` of another coordinator
    bool has_prior, prior_differs;
    struct rdi_w_decision prior_decision;
    // As member: what this rank has accepted for epoch + 1.
    bool has_accepted;
    struct rdi_w_decision accepted;
    struct rdi_w_decision log[RDI_W_LOG]; // decision e at e % RDI_W_LOG

    struct rdi_w_verdict_entry verdicts[RDI_W_VERDICTS];
    unsigned nverdicts;
    struct rdi_w_ballot ballots[RDI_WATCH_BALLOTS];
    struct rdi_w_final finals[RDI_W_RESULTS];
    unsigned nfinals;

    // As member: an invitation that is said again until its communicator's ballot is over.
    struct rdi_watch_invite inviting;
    uint64_t invited[RDI_WATCH_SET], invite_at; // ranks

    // As newcomer.
    bool joining;
    bool outsider; // it has no communicator with the others yet
    uint8_t *record;
    size_t record_len;
    bool has_live;
    uint64_t acked_join[RDI_WATCH_SET], live_join[RDI_WATCH_SET], join_at, join_epoch, join_heard;
    bool has_invite;
    struct rdi_watch_invite invite;

    struct rdi_w_thread *thread; // NULL in the simulator
};

// ---- links.c -------------------------------------------------------------------------------------

extern const struct rdi_net_events rdi_w_events_template;
rondo_status rdi_w_accept(void *self, struct rdi_link *link);
void rdi_w_ctrl(void *self, struct rdi_link *link, unsigned type, const void *msg, size_t len);
// Sends now or as soon as there is a link, which is made if need be. To itself: handled at once.
void rdi_w_send(struct rdi_watch *w, int to, unsigned type, const void *msg, size_t len);
// A message that was read is acted upon, if its sender has a part in the job.
void rdi_w_receive(struct rdi_watch *w, int from, unsigned type, const union rdi_w_any *m);
int rdi_w_links_progress(struct rdi_watch *w, uint64_t now);
void rdi_w_watch_choose(struct rdi_watch *w);
void rdi_w_unlink(struct rdi_watch *w, int rank, bool bye);
bool rdi_w_linked(const struct rdi_watch *w, int rank);
void rdi_w_drop_out(struct rdi_w_rank *r);

// ---- member.c ------------------------------------------------------------------------------------

// Neither failed nor gone with a good-bye.
static inline bool rdi_w_live(const struct rdi_watch *w, int rank) {
    const struct rdi_w_rank *r = &w->ranks[rank];
    return !r->left && r->failed_at <= r->joined_at &&
           (r->joined_at > 0 || r->peer.incarnation == 0 || rank == w->rank);
}
// The lowest live rank that nobody suspects, as this rank knows.
int rdi_w_coordinator(const struct rdi_watch *w);
void rdi_w_evidence(struct rdi_watch *w, int rank, enum rdi_watch_cause cause, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
void rdi_w_clear(struct rdi_watch *w, int rank);
// A rank has left, perhaps the one that knew that those live who are silent here: they are given a beat to be heard.
void rdi_w_look_again(struct rdi_watch *w);
// This process did not run for that long.
void rdi_w_gap(struct rdi_watch *w, uint64_t now, uint64_t gap);
int rdi_w_member_progress(struct rdi_watch *w, uint64_t now);
void rdi_w_on_suspect(struct rdi_watch *w, int from, const struct rdi_w_suspect *m);
void rdi_w_on_propose(struct rdi_watch *w, int from, const struct rdi_w_decision *m);
void rdi_w_on_ack(struct rdi_watch *w, int from, uint64_t epoch, uint64_t round);
void rdi_w_on_prior(struct rdi_watch *w, int from, const struct rdi_w_decision *m);
void rdi_w_on_alive(struct rdi_watch *w, int from, const struct rdi_w_alive *m);
void rdi_w_on_commit(struct rdi_watch *w, int from, const struct rdi_w_decision *m);
void rdi_w_on_cut(struct rdi_watch *w, int from, const struct rdi_w_cut *m);
void rdi_w_end(struct rdi_watch *w, rondo_status s, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

// ---- agree.c -------------------------------------------------------------------------------------

int rdi_w_agree_progress(struct rdi_watch *w, uint64_t now);
void rdi_w_on_report(struct rdi_watch *w, int from, const struct rdi_w_verdict *m);
void rdi_w_on_verdict(struct rdi_watch *w, int from, const struct rdi_w_verdict *m);
void rdi_w_on_vote(struct rdi_watch *w, int from, const struct rdi_w_vote *m);
void rdi_w_on_query(struct rdi_watch *w, int from, const struct rdi_w_vote *m);
void rdi_w_on_result(struct rdi_watch *w, int from, const struct rdi_w_result *m);

// ---- join.c --------------------------------------------------------------------------------------

int rdi_w_join_progress(struct rdi_watch *w, uint64_t now);
void rdi_w_on_join(struct rdi_watch *w, int from, const struct rdi_w_join *m);
void rdi_w_on_join_ack(struct rdi_watch *w, int from, const struct rdi_w_live *m);
void rdi_w_on_invite(struct rdi_watch *w, const struct rdi_watch_invite *m);
// A ballot about that communicator is over.
void rdi_w_invited(struct rdi_watch *w, uint64_t comm);
void rdi_w_on_ready(struct rdi_watch *w, int from, const struct rdi_w_live *m);

// ---- relay.c -------------------------------------------------------------------------------------

// Whether this rank has heard that one so lately that it cannot be silent.
bool rdi_w_hears(const struct rdi_watch *w, int rank);
// It lives: `via` hears it, if that is known (not -1).
void rdi_w_lives_behind(struct rdi_watch *w, int rank, int via);
// False: there is no need, or no way, to send that through another rank.
bool rdi_w_relay(struct rdi_watch *w, int to, unsigned type, const void *msg, size_t len);
void rdi_w_on_relay(struct rdi_watch *w, int from, const struct rdi_w_relay *m);

// ---- thread.c ------------------------------------------------------------------------------------

rondo_status rdi_w_thread_start(struct rdi_watch *w);
void rdi_w_thread_stop(struct rdi_watch *w);
void rdi_w_thread_wake(struct rdi_watch *w);
void rdi_w_thread_pause(void); // a millisecond
// "is stopped (state T)" for a process of this host, or what its host's acknowledgements tell.
void rdi_w_stopped_text(const struct rdi_watch *w, int rank, char *buf, size_t cap);
uint64_t rdi_w_pid_space(void);
int rdi_w_pid(void);

static inline void rdi_w_tell(struct rdi_watch *w) { // with the lock
    atomic_fetch_add(&w->news, 1);
    w->woken = true;
}
static inline uint64_t rdi_w_now(const struct rdi_watch *w) { return rdi_now(&w->env); }
// Silence for less than that says nothing.
static inline uint64_t rdi_w_lately(const struct rdi_watch *w) {
    return (w->timeout_ns < w->grace_ns ? w->timeout_ns : w->grace_ns) / 2;
}
const char *rdi_w_who(const struct rdi_watch *w, int rank, char *buf, size_t cap);

#endif
