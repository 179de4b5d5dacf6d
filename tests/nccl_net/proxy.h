// SPDX-License-Identifier: MIT
// What NCCL's proxy does with a network plugin, in any version of the interface: loads it, polls connect() and
// accept(), keeps messages in flight, tests them out of step. And two processes to do it in.
#ifndef RDI_TESTS_NCCL_NET_PROXY_H
#define RDI_TESTS_NCCL_NET_PROXY_H

#include "transport/nccl/abi.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include <cmocka.h>

#define PX_SECONDS 60 // longest wait; nothing takes that long unless it hangs
#define PX_DEPTH 32

// A failure ends the program, with what was logged: a jump to the test's beginning would be none from a thread,
// and a wrong one in a child.
#define px_check(c) ((c) ? (void)0 : px_die(__FILE__, __LINE__, "%s does not hold", #c))
_Noreturn void px_die(const char *file, int line, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

// The plugin's path, from the command line.
extern const char *px_path;
int px_arguments(int argc, char **argv); // 0 or an exit code

struct px {
    int version;
    void *lib;
    const void *table;
    void *context;
};
void px_load(struct px *p, int version); // and init()
void px_unload(struct px *p);            // finalize() where there is one, dlclose()
int px_try_init(struct px *p, int version);

int px_devices(const struct px *p);
void px_listen(const struct px *p, int dev, void *handle, void **listen);
// Each polls once; *comm is NULL while nothing is decided.
int px_connect(const struct px *p, int dev, void *handle, void **comm);
int px_accept(const struct px *p, void *listen, void **comm);
int px_isend(const struct px *p, void *comm, void *data, size_t size, void *mh, void **request);
int px_irecv(const struct px *p, void *comm, void *data, size_t size, void *mh, void **request);
int px_test(const struct px *p, void *request, int *done, int *size);
void *px_reg(const struct px *p, void *comm, void *data, size_t size);
int px_reg_type(const struct px *p, void *comm, void *data, size_t size, int type);
void px_dereg(const struct px *p, void *comm, void *mh);
void px_close_send(const struct px *p, void *comm);
void px_close_recv(const struct px *p, void *comm);
void px_close_listen(const struct px *p, void *listen);

// Until there is a comm; an error fails the test.
void *px_connected(const struct px *p, int dev, void *handle);
void *px_accepted(const struct px *p, void *listen);

// Whether a line that holds all of these words was logged since px_load(). Ends with NULL.
bool px_logged(const char *word, ...);

// ---- Streams of messages -------------------------------------------------------------------------

struct px_stream {
    uint64_t seed;
    unsigned count, depth; // messages in all; in flight at once
    const size_t *sizes;   // used in turn
    unsigned nsizes;
    size_t room;       // receiver: more room than the message has bytes
    bool unregistered; // no regMr()
    int error;         // the first one that a call returned; then the stream ends
    unsigned done;     // messages complete
    void (*each)(void *arg, unsigned done); // may be NULL
    void *arg;
};
void px_send_stream(const struct px *p, void *comm, struct px_stream *s);
void px_recv_stream(const struct px *p, void *comm, struct px_stream *s);
void px_fill(void *data, size_t size, uint64_t seed);
bool px_matches(const void *data, size_t size, uint64_t seed);
void px_idle(unsigned *idle); // nothing moved: gives the processor away
uint64_t px_now(void);        // ns

// ---- A second process ----------------------------------------------------------------------------

struct px_child {
    pid_t pid;
    int fd; // of a stream of bytes between both
};
// Runs body(fd) in a child that exits with its result.
void px_fork(struct px_child *c, int (*body)(int fd, void *arg), void *arg);
void px_write(int fd, const void *bytes, size_t n);
void px_read(int fd, void *bytes, size_t n);
int px_wait(struct px_child *c); // exit status, or 128 + signal

// Descriptors that are sockets or anything else but those there at the beginning; threads.
unsigned px_count_fds(void);
unsigned px_count_threads(void);
// Breaks all established TCP connections of this process as a failing network would. Returns how many.
unsigned px_cut_tcp(void);

#endif
