// SPDX-License-Identifier: MIT
// The watch: which processes of the job live, decided once and the same for all that survive.
//
// Each rank has one. It owns a net of its own (TCP; in tests the simulated one), whose links carry control
// messages only, so it works while the data path is stuck, and a thread of its own (thread.c), so that a rank
// which computes without calling Rondo is alive. Everything else here is a state machine over struct rdi_net_ops
// and struct rdi_env, without clock, sleep or thread, and runs on the simulator as it is.
//
//   evidence (links.c)                            agreement (member.c)                          who asks (ring/)
//     connection refused    DEAD
//     pidfd                 DEAD     --SUSPECT-->   lowest live rank --PROPOSE--> all survivors
//     nothing acknowledged  SILENT                    |   <----ACK/PRIOR/ALIVE----
//     acknowledged, mute    STOPPED                   +--COMMIT epoch, set--> all   -->   communicators fail
//
// An *epoch* is a decision's number: 0 at the start, each commit adds one and marks ranks as failed, or as joined
// again. A rank counts as failed only by a commit. All decisions about communicators (verdicts) and votes are
// ordered by the same coordinator, so that survivors see the same first cause of everything.
//
// Assumption: processes fail by ending, stopping or being cut off; they do not lie. Ranks are those that proved to
// know the job's key.
#ifndef RDI_TRANSPORT_WATCH_H
#define RDI_TRANSPORT_WATCH_H

#include "transport/internal.h"

#define RDI_WATCH_RANKS \
    4096 // more ranks than that are not watched: failures show at the data path only
#define RDI_WATCH_TEXT 256 // of a cause
#define RDI_WATCH_SET (RDI_WATCH_RANKS / 64)

struct rdi_watch;

enum rdi_watch_cause {
    RDI_CAUSE_NONE,
    RDI_CAUSE_DEAD,    // the process is gone
    RDI_CAUSE_SILENT,  // its host acknowledges nothing
    RDI_CAUSE_STOPPED, // its host acknowledges, the process does not run
};

// What the others have to know of a rank, from its record.
struct rdi_watch_peer {
    char host[RDI_HOST_MAX];
    uint8_t host_id[16];
    int pid;
    uint64_t pid_space;   // pids of equal spaces (on one host) can be compared; 0 unknown
    uint32_t incarnation; // 0, or how often the rank was started again
    uint8_t blob[RDI_BLOB_MAX];
    uint16_t blob_len; // 0: it has no watch
};

// Opens the net. RONDO_ERR_UNSUPPORTED: this machine or this size of job cannot be watched. `wake` is called on
// the thread that drives the watch, without its lock, when there is news; it must not call the watch.
rondo_status rdi_watch_open(const struct rdi_env *env, const struct rdi_options *options,
                            const struct rdi_job *job, uint32_t incarnation,
                            const struct rdi_net_ops *ops, void *extra, void (*wake)(void *arg),
                            void *arg, struct rdi_watch **out);
// This rank's own part of the record (constant).
void rdi_watch_self(struct rdi_watch *w, struct rdi_watch_peer *out);
// Tells of another rank, before rdi_watch_begin(). One that is told of with a higher incarnation than before is a
// newcomer, see below.
void rdi_watch_add(struct rdi_watch *w, int rank, const struct rdi_watch_peer *p);
// All ranks are known: connects and begins to watch. `threaded`: on a thread of its own.
rondo_status rdi_watch_begin(struct rdi_watch *w, bool threaded);
// Says good-bye, ends the thread, frees all. Waits for at most a second.
void rdi_watch_close(struct rdi_watch *w);

// Without a thread: moves everything, returns how many things moved; and when it wants to be called next.
int rdi_watch_progress(struct rdi_watch *w);
uint64_t rdi_watch_next(struct rdi_watch *w);

// ---- Questions, any thread -----------------------------------------------------------------------

// Grows with each thing that one of the functions below could tell.
uint64_t rdi_watch_news(const struct rdi_watch *w);
uint64_t rdi_watch_epoch(struct rdi_watch *w);
// The epoch that declared a rank failed, or let it join again; 0 never.
uint64_t rdi_watch_failed_at(struct rdi_watch *w, int rank);
uint64_t rdi_watch_joined_at(struct rdi_watch *w, int rank);
uint32_t rdi_watch_incarnation(struct rdi_watch *w, int rank);
// The lowest epoch above `birth` that declared one of these ranks failed; 0: none did.
uint64_t rdi_watch_first_failure(struct rdi_watch *w, const int *ranks, int n, uint64_t birth);
// The decision's words on a rank that failed: "ended: its process is gone".
void rdi_watch_text(struct rdi_watch *w, int rank, char buf[RDI_WATCH_TEXT]);
// Whether anything was heard of a rank after that time (of the env's clock). False for one not watched from here.
bool rdi_watch_heard(struct rdi_watch *w, int rank, uint64_t since);
// Whether another rank is known to have heard it after that time.
bool rdi_watch_vouched(struct rdi_watch *w, int rank, uint64_t since);
// RONDO_OK; RONDO_ERR_PARTITIONED: this side has no majority; RONDO_ERR_PEER: the others have declared this rank
// itself lost. Final. `why` receives the text.
rondo_status rdi_watch_state(struct rdi_watch *w, char why[RDI_ERROR_TEXT]);

// Connections to the watch that were dropped because they did not prove the job's key.
uint64_t rdi_watch_strangers(const struct rdi_watch *w);
// Those that were dropped because somebody changed what was said on them, see rdi_net_damaged().
uint64_t rdi_watch_damaged(const struct rdi_watch *w);
// What keeps this rank from watching the others (descriptors, memory); "" if nothing does.
void rdi_watch_trouble(struct rdi_watch *w, char buf[RDI_WATCH_TEXT]);
// Whether it said good-bye.
bool rdi_watch_has_left(struct rdi_watch *w, int rank);
// A data path to that rank failed: look at it now.
void rdi_watch_hint(struct rdi_watch *w, int rank);

// ---- Verdicts: the first failure of a communicator, for all of its ranks -------------------------

// Reports a failure that is no rank's death (abort, mismatch, timeout, path). The first report about a communicator
// becomes its verdict. `culprit`: the rank that ended its part, -1 if there is none.
void rdi_watch_report(struct rdi_watch *w, uint64_t comm, rondo_status s, int culprit,
                      const char *text);
// True: there is one. *epoch is the number of decisions that came before it.
bool rdi_watch_verdict(struct rdi_watch *w, uint64_t comm, uint64_t *epoch, rondo_status *s,
                       int *culprit, char text[RDI_ERROR_TEXT]);

// ---- Votes: agreement among the live members of a communicator -----------------------------------

struct rdi_watch_result {
    uint64_t flags;               // AND of all live members' flags
    uint64_t epoch;               // number of decisions at that time
    uint64_t live[RDI_WATCH_SET]; // members (by index) that had a part in it
};
// Votes in ballot (comm, tag). `members` are world ranks in order; a member that failed after epoch `birth` needs
// not vote. At most RDI_WATCH_BALLOTS ballots of a rank may be open.
#define RDI_WATCH_BALLOTS 32
rondo_status rdi_watch_vote(struct rdi_watch *w, uint64_t comm, uint64_t tag, const int *members,
                            int n, uint64_t birth, uint64_t flags);
// True: decided, the same for all that ask, also if the one that decided it has died since. The epoch of this rank
// has then reached out->epoch.
bool rdi_watch_result(struct rdi_watch *w, uint64_t comm, uint64_t tag,
                      struct rdi_watch_result *out);
// Gives a ballot up that was voted in (a deadline passed).
void rdi_watch_forget(struct rdi_watch *w, uint64_t comm, uint64_t tag);

// ---- Newcomers: a rank that was started again ----------------------------------------------------
//
//   newcomer, incarnation k            live ranks
//     JOIN, record  ------------------>  keep the record
//     <------------------ JOIN_ACK epoch, live set (each)
//     READY  ------------------------->  coordinator: PROPOSE/COMMIT epoch with the newcomer
//     <------------------------- COMMIT
//     <------------------------- INVITE  when a communicator grows (any member sends it)

// Newcomer, before begin(): `record` is what the others need to reach it (at most RDI_WATCH_RECORD bytes).
#define RDI_WATCH_RECORD 8192
void rdi_watch_join(struct rdi_watch *w, const void *record, size_t len);
// Newcomer: it has a communicator with the others. One that ends before says no good-bye, so that they declare it lost:
// they would wait for it.
void rdi_watch_entered(struct rdi_watch *w);
// The record that a newcomer sent; false if none. buf has RDI_WATCH_RECORD bytes.
bool rdi_watch_record(struct rdi_watch *w, int rank, uint32_t *incarnation, void *buf, size_t *len);

struct rdi_watch_invite {
    uint64_t comm, epoch;
    uint32_t n;
    uint64_t members[RDI_WATCH_SET]; // world ranks
    uint32_t extra_len;
    uint8_t extra[128]; // the ring layer's
};
// Member: sends an invitation to a newcomer. Newcomer: the latest one, false if none came after the last answer.
void rdi_watch_invite(struct rdi_watch *w, int rank, const struct rdi_watch_invite *in);
bool rdi_watch_invited(struct rdi_watch *w, struct rdi_watch_invite *out);

static inline bool rdi_ranks_has(const uint64_t *set, int i) {
    return (set[i / 64] >> (i % 64) & 1) != 0;
}
static inline void rdi_ranks_add(uint64_t *set, int i) { set[i / 64] |= UINT64_C(1) << (i % 64); }

#endif
