// SPDX-License-Identifier: MIT
// Starting the ranks of one host, watching them, and ending all of them when one fails: what
// rondo-run and rondo_spawn() share.
//
//   RUNNING --- a rank fails, or rdi_group_end() ---> TERM --- grace is over ---> KILL
//      |                                               |                           |
//      +--- the last rank ended --> (anything left?) --+                           |
//                                         | no         | nothing is left           | nothing is left,
//                                         v            v                           v or it cannot be killed
//                                       DONE          DONE                        DONE
//
// Each rank leads a session of its own. So a terminal's ^C reaches it only through its launcher,
// its children can be found whichever process group they moved to (timeout(1) and shells make
// groups), and the session's number is not given to anybody else while the rank is not reaped,
// which happens last. A process that starts a session of its own (a daemon) has left the job and is
// not ended.
//
// In a group that keeps on (`keep`), a rank that fails ends nobody: its owner takes it with
// rdi_group_take_fallen() and starts it again, or lets it go.
//
//   runs --- fails ---> fallen --- take ---> held --- rdi_group_fork_again() ---> runs
//                                              +----- rdi_group_let_go() -------> gone
//
// Nothing here blocks: the group has a descriptor to sleep on and a next deadline; time is passed
// in.
#ifndef RDI_DDP_LAUNCH_H
#define RDI_DDP_LAUNCH_H

#include "transport/internal.h"

#include <signal.h>
#include <sys/types.h>

// ---- Signals ------------------------------------------------------------------------------------

// The launcher's signals, taken from a descriptor instead of by handlers. SIGCHLD has its default
// meaning meanwhile, since a handler of the program's own, or SIG_IGN, would take the ranks' exit
// codes away.
struct rdi_signals {
    int fd;       // readable when a signal came; -1 = closed
    sigset_t set; // what is taken
    sigset_t saved;
    struct sigaction saved_chld;
};
// Takes the `n` signals of `list` except those that are ignored (nohup, background jobs of a
// script). Call it before threads exist: a thread of the library inherits the mask.
rondo_status rdi_signals_open(struct rdi_signals *s, const int *list, size_t n);
// The next signal that came, 0 if none.
int rdi_signals_next(struct rdi_signals *s);
// Puts mask and SIGCHLD back as they were; in a forked child, or at the end.
void rdi_signals_close(struct rdi_signals *s);

// ---- Processes ----------------------------------------------------------------------------------

// How a rank ended.
struct rdi_exit {
    int rank, local_rank;
    pid_t pid;
    int code;   // 0 .. 255, if signal is 0
    int signal; // 0 = it exited; -1 = somebody else took its status with wait(2)
    bool core;  // it left a core dump
};
// "rank 2 (pid 4711, local rank 2) failed: exit code 3", "… killed by signal 9 (SIGKILL), core
// dumped".
void rdi_exit_describe(const struct rdi_exit *e, char *buf, size_t cap);
// What a launcher exits with: the code, or 128 + signal.
int rdi_exit_code(const struct rdi_exit *e);

// What /proc/<pid>/stat tells of a process.
struct rdi_proc_stat {
    char state; // 'Z' = zombie
    pid_t pgrp, session;
};
// Pure. False when `text` is not such a line.
bool rdi_proc_stat_parse(const char *text, struct rdi_proc_stat *out);
// Calls `visit` for every process, zombies excepted, of the sessions that `leaders` lead. `visit`
// owns the pidfd. Without /proc it finds nothing.
struct rdi_member {
    pid_t pid, pgrp, session;
    int pidfd;
};
void rdi_sessions_scan(const pid_t *leaders, size_t n,
                       void (*visit)(void *arg, struct rdi_member m), void *arg);

// ---- The group ----------------------------------------------------------------------------------

#define RDI_GRACE_NS 3000000000u // from SIGTERM to SIGKILL, unless the user says otherwise
#define RDI_KILL_NS 1500000000u  // how long SIGKILL may take before the launcher gives up

enum rdi_group_state { RDI_GROUP_RUNNING, RDI_GROUP_TERM, RDI_GROUP_KILL, RDI_GROUP_DONE };

struct rdi_group {
    enum rdi_group_state state;
    int n;          // local ranks 0 .. n-1
    int first_rank; // rank of local rank 0
    int started, alive;
    pid_t *pids;       // of the ranks, by local rank; [0, started) are valid
    int *pidfds;       // -1 = ended
    int epfd;          // readable when rdi_group_progress() would find something
    uint64_t grace;    // ns
    uint64_t deadline; // of the state; UINT64_MAX = none
    bool failed;       // `first` is set: the first rank that failed by itself
    bool ending;       // some rank's end is due to us and no failure any more
    struct rdi_exit first;
    bool keep;               // set by the owner, before the first rank is started
    struct rdi_exit *fallen; // failed and not taken yet, in the order of their ends
    int nfallen, held;       // held: fallen or taken, and nobody has said what comes of them
    int finished;            // ranks that exited with 0
    int watched;             // processes other than ranks that still have to end
    int *members, nmembers, members_cap; // their pidfds, -1 = ended
};

rondo_status rdi_group_open(struct rdi_group *g, int n, int first_rank);
// fork(2) for the next local rank. In the child it returns 0 with *pid == 0: signals are as before
// rdi_signals_open(), the session is its own, it dies with the parent, and the group is closed.
rondo_status rdi_group_fork(struct rdi_group *g, struct rdi_signals *signals, pid_t *pid);
// The next one that failed in a group that keeps on. What it left running is killed, so that
// nothing of it meets its successor.
bool rdi_group_take_fallen(struct rdi_group *g, struct rdi_exit *out);
// As rdi_group_fork() in the place of one that was taken.
rondo_status rdi_group_fork_again(struct rdi_group *g, struct rdi_signals *signals, int local_rank,
                                  pid_t *pid);
// One that was taken is not started again.
void rdi_group_let_go(struct rdi_group *g);
// Notes who ended, takes the next step of the pictures above.
void rdi_group_progress(struct rdi_group *g, uint64_t now);
// Begins to end all; later calls do nothing, except that grace 0 kills at once.
void rdi_group_end(struct rdi_group *g, uint64_t now, uint64_t grace);
// Sends a signal to each rank: to its process only, or to its whole process group as a terminal
// does.
void rdi_group_signal(struct rdi_group *g, int sig, bool whole_group);
// Number of ranks that did not end even after SIGKILL, and the first of them; in state DONE.
int rdi_group_stuck(const struct rdi_group *g, int *local_rank);
// Frees it. In a parent: reaps the ranks; those that still run are killed.
void rdi_group_close(struct rdi_group *g);

// ---- What a rank is told ------------------------------------------------------------------------

#define RDI_ENV_ELASTIC "RONDO_ELASTIC" // MIN:MAX

#define RDI_RUN_ID_CAP 32
struct rdi_place {
    int rank, world;
    int local_rank, local_world;
    int node, nodes;
    const char *master_addr;
    int master_port;
    const char *run_id;
    int key_fd;          // -1 = the rank finds the key by itself
    bool one_thread;     // OMP_NUM_THREADS=1
    int restart;         // how often this rank was started again
    int max_restarts;    // of the job
    const char *elastic; // "MIN:MAX"; NULL = the job needs all its ranks
};
// Calls `set` for each variable of a rank's environment; value NULL = it must be unset. Stops when
// `set` returns non-zero, and returns that.
int rdi_place_env(const struct rdi_place *p,
                  int (*set)(void *arg, const char *name, const char *value), void *arg);
// Whether a launcher should give each rank one OpenMP thread: several ranks, and the user said
// nothing.
bool rdi_place_one_thread(int local_world);
// A name for the job, of letters and digits.
void rdi_run_id(const struct rdi_env *env, char id[RDI_RUN_ID_CAP]);

// The key under which a launcher serves the store. On a single host a fresh random one, in *key_fd
// for the ranks, unless the user named a key file; on several, the one that the ranks will find too
// (*key_fd -1).
rondo_status rdi_launch_key(const struct rdi_options *options, bool single_host,
                            struct rdi_job *job, int *key_fd);

#endif
