// SPDX-License-Identifier: MIT
// What the files of rondo-run share.
//
//   main.c     the order of things        start.c   finds the program, starts the ranks
//   options.c  the command line           output.c  lines of the ranks, made whole
//   loop.c     waits and reacts           sink.c    our standard output and errors
//   meet.c     the nodes agree            input.c   our terminal, to rank 0
//   nodes.c    the nodes end together     guard.c   ends the ranks if this process is killed
//   elastic.c  starts failed ranks again  losses.c  node 0 counts what all nodes have lost
#ifndef RDI_DDP_RUN_RUN_H
#define RDI_DDP_RUN_RUN_H

#include "ddp/launch.h"

#include <sys/resource.h>

// What rondo-run itself exits with; otherwise it is the first failing rank's code.
enum {
    RUN_EXIT_ERROR = 1,
    RUN_EXIT_USAGE = 2,
    RUN_EXIT_TIMEOUT = 124,      // as timeout(1)
    RUN_EXIT_NOT_RUNNABLE = 126, // as a shell
    RUN_EXIT_NOT_FOUND = 127,
};

// ---- Command line -------------------------------------------------------------------------------

struct run_options {
    int nproc;                // ranks on this node
    int nnodes, node_rank;    // node_rank -1 = not given
    const char *master_addr;  // NULL = not given
    int master_port;          // -1 = not given
    const char *log_dir;      // NULL = lines with prefixes
    const char *dump, *trace; // folders for RONDO_DUMP and RONDO_TRACE; NULL = not given
    bool no_prefix;
    const char *prefix_format;              // NULL = not given
    double timeout, connect_timeout, grace; // seconds; timeout 0 = none
    bool stdin_to_rank0;
    int verbose;
    int elastic_min, elastic_max; // 0 = the job needs all its ranks
    int max_restarts;
    char elastic[24]; // both, as the ranks are told
    char **program;   // and its arguments; NULL-terminated
};
enum run_parse { RUN_PARSE_OK, RUN_PARSE_EXIT, RUN_PARSE_ERROR };
// Reads the command line. -x NAME=VALUE changes this process's environment at once, so that the
// launcher's own options and the ranks' agree. EXIT: help or version was printed. ERROR:
// rondo_last_error() says why.
enum run_parse run_options_parse(struct run_options *o, int argc, char **argv);
// Makes a folder that `option` names, with those above it.
rondo_status run_make_directory(const char *option, const char *path);
// Makes the folders of --dump and --trace, and hands them to the ranks.
rondo_status run_folders(const struct run_options *o);
// Number of cores that this process may use.
int run_usable_cores(void);

// ---- Output -------------------------------------------------------------------------------------

struct run_output;
struct run_rank_io {
    int in, out, err; // for the child, to become 0, 1, 2
};
// `epfd` is the loop's; events carry RUN_EV_STREAM or RUN_EV_SINK.
rondo_status run_output_open(const struct run_options *o, int n, int epfd, struct run_output **out);
// Makes the descriptors of one rank's output, to be closed after it was started. `again`: of one
// that is started again; what the one before has written is passed on first.
rondo_status run_output_rank(struct run_output *out, int local_rank, int rank, int node, bool again,
                             struct run_rank_io *io);
void run_output_event(struct run_output *out, uint32_t kind, uint32_t index);
// A line of the launcher's own, to standard error.
void run_output_say(struct run_output *out, const char *line);
// Reads what is left in the pipes without waiting, ends unfinished lines. Call it when the ranks
// are gone, until it returns true: everything has been written.
bool run_output_drain(struct run_output *out);
void run_output_close(struct run_output *out);

// ---- Input --------------------------------------------------------------------------------------

// Copies our terminal's input to a pipe. A rank cannot read the terminal itself: it is not in its
// session.
struct run_input {
    int epfd;
    int from, to; // -1 = closed
    size_t len, off;
    char buf[4096];
};
// What rank 0 reads: our own input if it is no terminal, else a pipe that is filled by
// run_input_event().
rondo_status run_input_open(struct run_input *in, int epfd, int *child_fd);
void run_input_event(struct run_input *in);
void run_input_close(struct run_input *in);

// ---- Starting -----------------------------------------------------------------------------------

struct run_program {
    char *path;
    char **argv; // borrowed
};
// Finds it as a shell would. On failure *exit_code is what a shell would exit with.
rondo_status run_program_find(struct run_program *p, char **argv, int *exit_code);

// What the launcher changed of itself and its ranks must not inherit.
struct run_inherited {
    struct sigaction pipe;
    struct rlimit files;
};
// Ignores SIGPIPE, and allows as many descriptors as n ranks need.
void run_prepare_self(struct run_inherited *was, int n);

// Starts the next rank of the group, or (place->restart > 0) one that failed. Returns when it runs
// the program, or cannot.
struct run_start {
    struct rdi_group *group;
    struct rdi_signals *signals;
    const struct run_program *program;
    const struct run_inherited *was;
};
rondo_status run_start_rank(const struct run_start *s, const struct rdi_place *place,
                            const struct run_rank_io *io, pid_t *pid, int *exit_code);

// ---- Events -------------------------------------------------------------------------------------

enum run_ev { RUN_EV_GROUP, RUN_EV_SIGNAL, RUN_EV_STREAM, RUN_EV_SINK, RUN_EV_INPUT, RUN_EV_NODES };
static inline uint64_t run_ev_pack(enum run_ev kind, uint32_t index) {
    return (uint64_t)kind << 32 | index;
}

// ---- Several nodes ------------------------------------------------------------------------------
//
// The launchers meet in the store, which that of node 0 serves. Keys and values (text):
//
//   launch/node/<r>   by r: who it is and how many ranks it has
//   launch/plan       by 0, when all came: rank numbers and the run's id; or why there is no job
//   launch/bye/<r>    by r: it has read that there is no job
//   launch/mail/<r>   to r, once: "fail …", or "done" when all nodes have ended well; to 0 also
//                     "gone …", the will of a launcher that was killed
//   launch/end/<r>    by r: its ranks have ended, "well", or "failed" (then there is mail too)
//   launch/lost/<r>   by r in an elastic job: "<ranks> <code> <text>", how many of its ranks are not
//                     started again, and the first of them to fail; or r's will, "gone <text>"
//
//      node 1: a rank fails --fail--> mail/0 --> node 0 --fail--> mail/2, mail/3 …
//
// The calls of the store block, so what is waited for while ranks run is waited for on threads: on
// every node one for its mail, on node 0 one for the others' ends. In an elastic job the server of the
// store, which lives in node 0's launcher, tells it of each end and loss as it is set.
//
// Without node 0's launcher there is no store: the others' ranks go on, but none can be started again.

#define RUN_TEXT 640
// News from the other nodes.
struct run_news {
    enum { RUN_NEWS_NONE, RUN_NEWS_FAIL, RUN_NEWS_DONE, RUN_NEWS_ALONE } kind;
    int code;            // FAIL: what to exit with
    char text[RUN_TEXT]; // FAIL: what happened
};
struct run_nodes;
// Meets the others; blocks until the connect timeout, with an error that names who is missing.
// `host` is where node 0's store is for this process; `server`: on node 0 itself.
rondo_status run_nodes_open(const struct run_options *o, const struct rdi_job *job,
                            const char *host, int port, const struct rdi_env *env,
                            struct rdi_store_server *server, struct run_nodes **out);
// What was agreed.
int run_nodes_first_rank(const struct run_nodes *nodes);
int run_nodes_world(const struct run_nodes *nodes);
const char *run_nodes_run_id(const struct run_nodes *nodes);
// Readable when run_nodes_read() has something.
int run_nodes_fd(const struct run_nodes *nodes);
void run_nodes_read(struct run_nodes *nodes, struct run_news *news);
// Tells the other nodes that the job has failed.
void run_nodes_fail(struct run_nodes *nodes, int code, const char *text);
// Tells node 0 that this node's ranks have ended.
void run_nodes_end(struct run_nodes *nodes, bool well);
// Node 0: whether the ranks of all other nodes have. FAILED: news of it are there or on their way.
enum run_ends { RUN_ENDS_NOT_YET, RUN_ENDS_WELL, RUN_ENDS_FAILED };
enum run_ends run_nodes_ends(struct run_nodes *nodes);
// Node 0: tells the others that all is well.
void run_nodes_done(struct run_nodes *nodes);
// Elastic: `ranks` of this node are not started again. `text`, `code`: the first that failed.
void run_nodes_lost(struct run_nodes *nodes, int ranks, int code, const char *text);
// Elastic, node 0: the ranks that the other nodes have lost; *code and text: of the first loss. `said`
// receives a line on each node that is gone and was not told of before, one a call; "" when none.
// Elastic: the restart of a rank of this node that has had a part in the job, 0 = none.
int run_nodes_admitted(struct run_nodes *nodes, int rank);
int run_nodes_losses(struct run_nodes *nodes, int *code, char text[RUN_TEXT], char said[RUN_TEXT]);
// NULL is allowed. On node 0 the server of the store must have been stopped before.
void run_nodes_close(struct run_nodes *nodes);

// ---- Guard --------------------------------------------------------------------------------------

// A process that waits for this one to end. If that happens without run_guard_close(), it kills
// what is left of the ranks' sessions: the kernel ends the ranks themselves (PR_SET_PDEATHSIG), but
// not their children.
struct run_guard {
    pid_t pid; // 0 = none
    int pipe;  // write end: ours alone
    int n;
    pid_t *leaders; // shared with the guard
};
rondo_status run_guard_open(struct run_guard *g, int n);
void run_guard_add(struct run_guard *g, int local_rank, pid_t pid);
void run_guard_close(struct run_guard *g);

// ---- Ranks that fail and come again -------------------------------------------------------------
//
//   fails --- restarts left? ---> starts again after a pause, which doubles for the same rank
//        +--- none left, or another rank has finished ---> lost;   all - lost < MIN: the job has failed

struct run_job;
struct run_elastic {
    bool on;
    int first_rank;        // of this node
    int left;              // restarts that were not used yet
    int lost;              // ranks of this node that are not started again
    int failures;          // of this node
    struct rdi_exit first; // the first of them
    bool
        spoiled; // `late` is set: a rank failed that had never failed before, when others had finished
    struct rdi_exit late;
    uint64_t
        over_at; // the job is over, and only ranks that were not admitted any more are left; 0 = no
    struct run_fate {
        int restarts;
        uint64_t due;      // when to start it again; 0 = not at all
        struct rdi_exit e; // how it failed last
        // The restart that has a part in the job, 0 = none; told by the store's thread.
        _Atomic int admitted;
    } * ranks; // by local rank
};
// `server`: of the store, NULL where another node's launcher serves it.
rondo_status run_elastic_open(struct run_job *job, struct rdi_store_server *server);
void run_elastic_close(struct run_job *job);
// Deals with ranks that failed, starts those whose time has come, and ends the job when too few are left.
void run_elastic_step(struct run_job *job, uint64_t now);
// When it wants to be called next; UINT64_MAX = not by the clock.
uint64_t run_elastic_next(const struct run_job *job);

// ---- The job ------------------------------------------------------------------------------------

struct run_job {
    const struct run_options *o;
    struct rdi_env env;
    int epfd;
    int world; // ranks of all nodes
    struct rdi_signals signals;
    struct rdi_group group;
    struct run_output *output;
    struct run_input input;
    struct run_guard guard;
    struct run_nodes *nodes; // NULL with one node
    uint64_t timeout_at;     // UINT64_MAX = none
    int forwarded; // the last signal that was passed on and asks a program to end; 0 = none
    bool decided;  // how the job ends is known before its end: it failed
    int exit_code;
    char verdict[RUN_TEXT];
    uint64_t leave_at; // node 0: no longer wait for nodes of a job that failed
    bool end_told, verdict_said, hurry;
    bool alone; // the launcher of node 0 is lost
    struct run_elastic elastic;
    // Starts a rank of this node once more.
    rondo_status (*start_rank)(void *arg, int local_rank, int restart, int *exit_code);
    void *start_arg;
};
// Says a line on standard error if -v was given at least `level` times.
void run_say(struct run_job *job, int level, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
// The job has failed: everything is ended, here and on the other nodes. Only the first call counts.
void run_decide(struct run_job *job, int exit_code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
// The same, because of a rank that failed.
void run_decide_failed(struct run_job *job, const struct rdi_exit *e);
// In words, with what helps to understand it.
void run_describe(const struct run_job *job, const struct rdi_exit *e, char text[RUN_TEXT]);
// Waits until all has ended and all output is written. Returns the exit code.
int run_loop(struct run_job *job);

#endif
