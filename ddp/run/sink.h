// SPDX-License-Identifier: MIT
// Our standard output and standard error as places where whole lines go.
//
// Nothing here blocks, so that signals and dying ranks are seen while the reader of our output is
// slow; what the reader has not taken yet is kept. The descriptors are not made non-blocking: they
// may be shared with the shell that started us.
#ifndef RDI_DDP_RUN_SINK_H
#define RDI_DDP_RUN_SINK_H

#include "ddp/run/run.h"

#define RUN_SINK_HIGH (256u << 10) // more than this waiting: no more is read from ranks
#define RUN_SINK_LOW (64u << 10)

struct run_sink {
    int epfd;
    uint32_t index;
    int fd;
    size_t piece;  // bytes that fit into one write without blocking once poll() says so
    bool terminal; // it understands cursor and colours
    bool armed;    // epoll tells when there is room
    bool broken;   // the reader has gone
    bool full;     // streams are paused until there is room
    char *buf;
    size_t off, len, cap;
    bool live; // an unfinished line stands at the bottom of the terminal
};
void run_sink_open(struct run_sink *k, int epfd, uint32_t index, int fd);
void run_sink_close(struct run_sink *k);
// Adds bytes to what waits.
void run_sink_put(struct run_sink *k, const char *bytes, size_t n);
// Shows text at the bottom of a terminal, in place of what is there; it goes when a line is
// printed.
void run_sink_show_live(struct run_sink *k, const char *prefix, size_t prefix_len, const char *text,
                        size_t len);
void run_sink_hide_live(struct run_sink *k);
// Writes as much as can be written now.
void run_sink_flush(struct run_sink *k);
static inline size_t run_sink_waiting(const struct run_sink *k) { return k->len - k->off; }

#endif
