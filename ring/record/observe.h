// SPDX-License-Identifier: MIT
// Who looks at a process's engines from outside: one thread, which writes dumps, answers rondo-top and metrics, and
// empties the trace. It never drives an engine, and borrows one only for as long as copying its counters takes.
//
//   rdi_comm_fail() --- notice --+
//   SIGUSR1 ---------------------+--> eventfd --> [ the thread ] <-- abstract socket (rondo-top), metrics, trace
//   rondo_comm_destroy() --------+                  |
//                                                   +-- rdi_driver_lock_until(100 ms) -- rdi_snap_take()
//                                                       not to be had: the rings tell what they know
#ifndef RDI_RECORD_OBSERVE_H
#define RDI_RECORD_OBSERVE_H

#include "ring/internal.h"
#include "ring/record/dump.h"

#define RDI_OBSERVE_PATH 1024
#define RDI_VIEW_NAME "rondo-top." // abstract sockets: this, job, rank, pid, a random number

// One engine of this process.
struct rdi_trace_file;
struct rdi_observed {
    struct rdi_observed *next;
    struct rdi_engine *engine;
    uint64_t serial;
    char job[RDI_JOB_MAX], host[RDI_HOST_MAX], boot[40];
    int rank, size, local_rank, pid;
    char dump[RDI_OBSERVE_PATH]; // prefix of its files; "" = off
    int view, metrics;           // listeners, -1 = none
    char metrics_path[108];      // to be removed at the end; "" = none
    struct rdi_metrics last;     // the thread's
    struct rdi_trace_file *trace;
    _Atomic uint64_t noticed, written; // failures: taken down; on disk
    bool joined;                       // the thread knows of it
    bool draining;                     // the thread is at its trace, without the lock
    bool leaving, gone;
};

// For `world`, whose engine has a driver. Without options dump, metrics and trace a failure is only logged.
rondo_status rdi_observe_open(struct rondo_comm *world);
// Before the engine goes; writes what is still to be written.
void rdi_observe_close(struct rdi_engine *e);
// After an operation failed: returns once the dump is on disk, after a second at the latest.
void rdi_observe_settle(const struct rdi_engine *e);

// One trace at a time.
rondo_status rdi_observe_trace_begin(struct rdi_observed *o, const char *path);
rondo_status rdi_observe_trace_end(struct rdi_observed *o);

// The watch knows something. A rank that computes hears of a failure from nobody, and is the one whose state is
// wanted most: so the observer looks for it. Any thread, also a signal handler.
void rdi_observe_news(void);

// ---- Parts ---------------------------------------------------------------------------------------

// observe_state.c. The rank's state as text, in *t, to be freed also after an error.
rondo_status rdi_observe_text(const struct rdi_observed *o, const char *cause, uint64_t recent,
                              struct rdi_text *t);
rondo_status rdi_observe_metrics(struct rdi_observed *o, struct rdi_text *t);
void rdi_observe_identify(struct rdi_observed *o, const struct rondo_comm *world);

// observe_file.c. Whole or not at all, mode 0600.
rondo_status rdi_observe_write(const char *path, const struct rdi_text *t);
// Prefix of files from an option's value: absolute, and with a '/' when it is a folder.
rondo_status rdi_observe_prefix(const char *value, char out[RDI_OBSERVE_PATH]);
// <prefix>rondo-<what>.<host>.<rank>.<pid>.json
void rdi_observe_name(const struct rdi_observed *o, const char *prefix, const char *what,
                      char out[RDI_OBSERVE_PATH + 160]);

// observe_socket.c
rondo_status rdi_observe_listen_view(struct rdi_observed *o, const struct rdi_env *env);
rondo_status rdi_observe_listen_metrics(struct rdi_observed *o, const char *where, int local_size);

// observe_serve.c: connections. All by the thread.
struct rdi_observe_conn {
    int fd; // -1: free
    bool metrics;
    uint64_t serial; // of the engine that is asked about
    char in[2048];
    size_t in_len;
    struct rdi_text out;
    size_t sent;
    uint64_t deadline; // ns
};
#define RDI_OBSERVE_CONNS 16 // of each kind
void rdi_observe_accept(struct rdi_observe_conn *conns, struct rdi_observed *o, bool metrics,
                        uint64_t now);
// Whether there is a whole request and the answer is to be made.
bool rdi_observe_asked(const struct rdi_observe_conn *c);
void rdi_observe_answer(struct rdi_observe_conn *c, struct rdi_observed *o);
// Moves bytes; closes what is over.
void rdi_observe_conn_read(struct rdi_observe_conn *c);
void rdi_observe_conn_write(struct rdi_observe_conn *c);
void rdi_observe_conn_close(struct rdi_observe_conn *c);

// observe_signal.c: what makes `fd` readable.
void rdi_observe_wake_by(int fd);
void rdi_observe_wake_off(void);    // afterwards nobody uses it
void rdi_observe_signal_take(void); // SIGUSR1, if nobody else wants that signal
bool rdi_observe_signalled(void);   // since the last call
bool rdi_observe_has_news(void);    // since the last call

#endif
