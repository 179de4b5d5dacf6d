// SPDX-License-Identifier: MIT
// rondo-conform: checks that a transport keeps its contract on this machine and this fabric.
//
//   rondo-conform (or another launcher)      options.c main.c launch.c  report.c json.c
//     '-- a rank's keeper, one per rank      keeper.c watch.c: for every check it forks ...
//           '-- the checked process          child.c: ... a process that runs one check and ends
//
// A check that hangs, crashes or is killed thus ends alone; its keeper says how, and the next one begins. The
// checked processes of two ranks are partners (0 and 1, 2 and 3 ...). They meet through the job's store, and
// drive nets and links with nothing of the ring layer in between:
//
//   check_*.c  the checks  ->  flow.c  streams of messages that can be verified
//                              pair.c  two nets and the links between them
//                              drive.c nets, links, turns, sleep; what must hold at all times
//   table.c lists the checks, exclude.c what a transport is excused from
#ifndef RDI_CONFORM_H
#define RDI_CONFORM_H

#include "transport/internal.h"

#include <sys/types.h>

#define CF_MS UINT64_C(1000000)
#define CF_SECOND UINT64_C(1000000000)
#define CF_TEXT 3000 // longest text of a result

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
#define CF_SANITIZED 1
#else
#define CF_SANITIZED 0
#endif

// ---- Options -------------------------------------------------------------------------------------

#define CF_HOSTS 64
#define CF_OK 0 // exit codes
#define CF_FAILED 1
#define CF_USAGE 2

enum cf_format { CF_AUTO, CF_HUMAN, CF_TAP };
struct cf_options {
    const char *transport, *device, *options; // device and options: NULL = not given
    const char *only, *json, *ssh;            // NULL = not given
    const char *break_cmd, *heal_cmd;
    int ranks;     // 0 = not given
    int timeout_s; // 0 = each check's own
    int repeat;
    uint64_t seed;
    bool has_seed, list, longer;
    enum cf_format format;
    unsigned nhosts;
    const char *hosts[CF_HOSTS];
    int argc;
    char **argv;
};
// Returns -1 to go on, else the exit code (help, version, an error that was printed).
int cf_parse(int argc, char **argv, struct cf_options *o);
// Prints "rondo-conform: ..." on stderr in one write; returns CF_USAGE.
int cf_complain(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
// The options of the library that the command line stands for; NULL and an error of the library.
rondo_status cf_load_options(const struct cf_options *o, const char *more, struct rdi_options *out);

// ---- Checks --------------------------------------------------------------------------------------

enum {
    CF_ALL = 1,       // all ranks take part together, not pairs of partners
    CF_THREE = 2,     // needs three ranks
    CF_RESET = 4,     // needs a transport that can lose a path and reset it
    CF_CUT = 8,       // needs a way to cut the path
    CF_LONGER = 16,   // only with --long
    CF_OWN_TIME = 32, // --timeout does not shorten it: it is no check of the user's
};
struct cf;
struct cf_check {
    const char *id, *title, *rule;
    void (*run)(struct cf *c);
    unsigned needs;
    unsigned seconds; // deadline
};
extern const struct cf_check cf_checks[];
extern const unsigned cf_nchecks;
// How many of the checks "--only" and "--long" choose; chosen has room for cf_nchecks. -1: the error was
// printed.
int cf_choose(const struct cf_options *o, const struct cf_check **chosen);
void cf_list(const struct cf_check *const *chosen, int n);
// Why the transport of this name is excused from a check; NULL when it is not.
const char *cf_excuse(const char *transport, const struct cf_check *check);

// The checks, by file.
#define CF_CHECK(name) void cf_check_##name(struct cf *c)
CF_CHECK(connect_agree);
CF_CHECK(connect_late);
CF_CHECK(connect_together);
CF_CHECK(connect_links);
CF_CHECK(connect_peers);
CF_CHECK(connect_again);
CF_CHECK(connect_close);
CF_CHECK(connect_absent);
CF_CHECK(connect_deaf);
CF_CHECK(connect_refused);
CF_CHECK(connect_key);
CF_CHECK(connect_version_in);
CF_CHECK(connect_version_out);
CF_CHECK(connect_address);
CF_CHECK(stranger_garbage);
CF_CHECK(stranger_many);
CF_CHECK(message_sizes);
CF_CHECK(message_unaligned);
CF_CHECK(message_too_long);
CF_CHECK(message_order);
CF_CHECK(message_overtake);
CF_CHECK(message_flood);
CF_CHECK(message_links);
CF_CHECK(message_land);
CF_CHECK(message_sequence);
CF_CHECK(message_bytes);
CF_CHECK(credit_again);
CF_CHECK(credit_half);
CF_CHECK(credit_slow);
CF_CHECK(credit_counters);
CF_CHECK(sent_scribble);
CF_CHECK(sent_ack);
CF_CHECK(sent_copy);
CF_CHECK(sent_lazy);
CF_CHECK(ctrl_sizes);
CF_CHECK(ctrl_order);
CF_CHECK(ctrl_beside);
CF_CHECK(ctrl_blocked);
CF_CHECK(ctrl_connecting);
CF_CHECK(memory_sources);
CF_CHECK(memory_overlap);
CF_CHECK(memory_in_flight);
CF_CHECK(memory_remap);
CF_CHECK(memory_blocks);
CF_CHECK(sleep_message);
CF_CHECK(sleep_credit);
CF_CHECK(sleep_ctrl);
CF_CHECK(sleep_armed);
CF_CHECK(sleep_quiet);
CF_CHECK(sleep_connect);
CF_CHECK(sleep_end);
CF_CHECK(peer_bye);
CF_CHECK(peer_bye_back);
CF_CHECK(peer_drop);
CF_CHECK(peer_killed);
CF_CHECK(peer_killed_sending);
CF_CHECK(peer_exits);
CF_CHECK(peer_stopped);
CF_CHECK(peer_both_close);
CF_CHECK(abort_connecting);
CF_CHECK(abort_flood);
CF_CHECK(abort_sleeping);
CF_CHECK(path_reset);
CF_CHECK(path_epoch);
CF_CHECK(path_cut);
CF_CHECK(path_grace);
CF_CHECK(resource_leaks);
CF_CHECK(resource_fork);
CF_CHECK(resource_open_fds);
CF_CHECK(resource_connect_fds);
CF_CHECK(resource_accept_fds);
CF_CHECK(resource_memlock);

// ---- Results -------------------------------------------------------------------------------------

enum cf_verdict { CF_PASS, CF_FAIL, CF_SKIP, CF_ABSENT }; // absent: this rank had nothing to do
struct cf_outcome {
    enum cf_verdict verdict;
    double seconds;
    char text[CF_TEXT];
};
struct cf_result {
    const struct cf_check *check;
    int round; // of --repeat, from 0
    enum cf_verdict verdict;
    double seconds;           // of the slowest rank
    struct cf_outcome *ranks; // one a rank
};
// Outcomes of all ranks as bytes (*len), from malloc(); NULL when there is no memory.
char *cf_pack(const struct cf_outcome *ranks, int n, size_t *len);
// False: malformed.
bool cf_unpack(const void *bytes, size_t len, struct cf_outcome *ranks, int n);
void cf_judge(struct cf_result *r, int n);

struct cf_report {
    const struct cf_options *options;
    const struct cf_check *const *chosen;
    int nchosen, nranks;
    char (*hosts)[RDI_HOST_MAX]; // of the ranks; not owned
    uint64_t seed;
    bool tty, tap;
    int seq, passed, failed, skipped;
    void *json; // FILE
    double started;
};
// False: the JSON file cannot be written; the error was printed.
bool cf_report_begin(struct cf_report *r);
void cf_report_next(struct cf_report *r, const struct cf_check *check);
void cf_report_result(struct cf_report *r, const struct cf_result *result);
// `why` NULL or why the run ended early. Returns the exit code.
int cf_report_end(struct cf_report *r, const char *why);
void cf_json_begin(struct cf_report *r);
void cf_json_result(struct cf_report *r, const struct cf_result *result);
bool cf_json_end(struct cf_report *r, const char *why);

// ---- Ranks ---------------------------------------------------------------------------------------

// Environment that the ranks of our own launch see, besides a launcher's.
#define CF_ENV_REPORT "RONDO_CONFORM_REPORT" // "store": rank 0 puts results there
#define CF_ENV_KEY "RONDO_CONFORM_KEY"       // "stdin": the key's 64 hex digits come there
#define CF_ENV_SEED "RONDO_CONFORM_SEED"

// Whether a launcher started this process as a rank.
bool cf_is_rank(void);
// A rank's whole life; returns the exit code.
int cf_keep(const struct cf_options *o, const struct cf_check *const *chosen, int nchosen);
// Starts ranks here or on hosts, reports what they find; returns the exit code.
int cf_launch(const struct cf_options *o, const struct cf_check *const *chosen, int nchosen);

// What the keeper's end of the store is to a checked process.
struct cf_place {
    const struct cf_options *options;
    struct rdi_job job;
    char host[256];
    int port;
    char session[40];
    uint64_t seed;
    char (*hosts)[RDI_HOST_MAX];
};
// How long the check may take, in seconds.
unsigned cf_deadline(const struct cf_place *place, const struct cf_check *check);
// Runs the check in a child, ends it at its deadline, and says how it went.
void cf_run_child(const struct cf_place *place, const struct cf_check *check, int seq, int round,
                  struct cf_outcome *out);

// The process that forks the children: begun before the keeper has threads, told the rank's place, asked for one
// check after another.
struct cf_parent {
    pid_t pid;
    int wire;
};
rondo_status cf_parent_start(struct cf_parent *p);
rondo_status cf_parent_brief(struct cf_parent *p, const struct cf_place *place);
rondo_status cf_parent_run(struct cf_parent *p, const struct cf_check *check, int seq, int round,
                           struct cf_outcome *out);
void cf_parent_end(struct cf_parent *p);

#endif
