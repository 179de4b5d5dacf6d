// SPDX-License-Identifier: MIT
// rondo-top: what the ranks of a job do, and whom they wait for.
//
//   find.c   sockets of this user's ranks --+
//                                           +-- text -- parse.c -- struct top_job -- analyse.c -- show.c, report.c
//   files    dumps, also of other hosts ----+
//
//   options.c  the command line
//   merge.c  traces of several ranks into one
#ifndef RDI_RING_TOP_H
#define RDI_RING_TOP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/types.h>

#define TOP_EXIT_ERROR 1
#define TOP_EXIT_USAGE 2
#define TOP_RANKS 65536 // a dump that says more is not believed
#define TOP_WORD 40

// ---- Command line --------------------------------------------------------------------------------

struct top_options {
    bool json, once, list;
    double delay;
    const char *dump, *merge, *what;
    char **files;
    size_t nfiles;
};
// -1: go on, else the exit code.
int top_options_parse(struct top_options *o, int argc, char **argv);
// Says it on standard error; returns `code`.
int top_fail(int code, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

// ---- What is known of a job ----------------------------------------------------------------------

struct top_wait {
    char wait[TOP_WORD], why[64], host[64];
    bool for_peer, out;
    int rank, pid; // of the peer; rank in the job
    uint64_t done, total;
};

struct top_op {
    char op[TOP_WORD], type[TOP_WORD], redop[TOP_WORD], algorithm[TOP_WORD];
    bool active, p2p;
    uint64_t number, seq, count, bytes;
    uint64_t submitted, finished; // ns of the rank's clock
    struct top_wait *waits;
    size_t nwaits;
};

struct top_edge {
    bool out;
    int rank;
    char channel[TOP_WORD], wire[TOP_WORD], state[TOP_WORD];
    uint64_t credit, ready, posted, sent, arrived, released;
};

struct top_comm {
    uint64_t id, calls;
    int rank, size;
    int *ranks;         // in the job; NULL = 0 .. size-1
    uint64_t failed_at; // ns of the rank's clock; 0 = it works, or nobody knows
    char status[TOP_WORD];
    char *error;
    uint64_t bytes_sent, bytes_received;
    struct top_op *active, *recent;
    size_t nactive, nrecent;
    struct top_edge *edges;
    size_t nedges;
};

struct top_rank {
    int rank, pid;
    char host[64], boot[64], program[64], cause[TOP_WORD];
    bool answered; // false: only what others and /proc say
    bool whole;
    bool local; // a process of this machine
    char state; // of the process, as in /proc; 0 = not known or gone
    uint64_t monotonic, unix_ns;
    struct top_comm *comms;
    size_t ncomms;
    double send_rate, receive_rate; // bytes/s, < 0: not known
};

struct top_job {
    char name[TOP_WORD];
    int size;
    struct top_rank *ranks; // those that something is known of, by rank
    size_t nranks;
};
void top_job_free(struct top_job *job);
struct top_rank *top_job_rank(struct top_job *job, int rank); // NULL: nothing is known
// For a rank that is not there yet; NULL without memory.
struct top_rank *top_job_add(struct top_job *job, int rank);
void top_rank_clear(struct top_rank *r);
// Rank in the job of a communicator's rank, -1: none.
int top_comm_world(const struct top_comm *c, int rank);

// ---- Reading -------------------------------------------------------------------------------------

// parse.c. Adds one rank's state. False: `why` says what is wrong with it. Text from a file or a process is not
// believed: numbers are checked, and what a terminal would take for a command is replaced.
bool top_parse(struct top_job *job, const char *text, size_t len, char *why, size_t cap);

// find.c. Who of this user's processes can be asked.
struct top_process {
    char job[TOP_WORD];
    int rank;
    pid_t pid;
    char name[108]; // abstract
    size_t name_len;
};
struct top_list {
    struct top_process *items;
    size_t n;
};
bool top_list_read(struct top_list *list);
void top_list_free(struct top_list *list);
// Keeps those of the job that `what` names: its name, a rank's pid, or the pid of a process above ranks
// (rondo-run). False: none, or several jobs.
bool top_list_choose(struct top_list *list, const char *what, char *why, size_t cap);
// Asks all of them at once; those that do not answer in time are known as such. `letter`: 't', or 'd' for all.
// `each` may be NULL; gets a rank's text.
bool top_ask(const struct top_list *list, char letter, struct top_job *job,
             bool (*each)(void *arg, const struct top_process *p, const char *text, size_t len),
             void *arg, char *why, size_t cap);
char top_process_state(pid_t pid);

// ---- Understanding -------------------------------------------------------------------------------

enum top_reason {
    TOP_NOBODY_WAITS,
    TOP_NOT_CALLED, // the culprit has not called what the others wait in
    TOP_LATE,       // it called when the others had given up
    TOP_NO_ANSWER,  // it does not answer
    TOP_NOT_SEEN,   // nothing is known of it here
    TOP_WORKING,    // it is in the operation and waits for nobody
    TOP_CIRCLE,     // a path: what one has sent the other has not got
    TOP_UNKNOWN,    // all wait for each other
};

struct top_verdict {
    enum top_reason reason;
    int culprit;       // rank, -1 none
    int other;         // CIRCLE: the other end
    size_t waiting;    // ranks that wait for it, also through others
    double seconds;    // how long the longest of them has waited
    char op[160];      // what they wait in
    char text[512];    // a sentence
    int straggler;     // rank that comes last most of the time, -1 none
    size_t last, seen; // so often; of so many operations
    double late;       // s after the median of the others, in the median
};
void top_analyse(struct top_job *job, bool post_mortem, struct top_verdict *v);
// How long an operation has been under way, in seconds; on a communicator that failed, until then.
double top_age(const struct top_rank *r, const struct top_comm *c, const struct top_op *o);
// "all_reduce no. 17 (1048576 x float, sum)"
void top_describe(const struct top_op *o, char *buf, size_t cap);
// The operation that a rank is in: the oldest. NULL: none. *comm may be NULL.
const struct top_op *top_current(const struct top_rank *r, const struct top_comm **comm);

// ---- Telling -------------------------------------------------------------------------------------

void top_show(FILE *f, const struct top_job *job, const struct top_verdict *v, int width,
              bool colour);
bool top_report(FILE *f, const struct top_job *job, const struct top_verdict *v); // JSON
// merge.c. Traces of ranks into one file, "-" for standard output.
bool top_merge(const char *out, char *const *files, size_t n, char *why, size_t cap);

#endif
