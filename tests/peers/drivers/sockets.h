// SPDX-License-Identifier: MIT
// TCP on the loopback interface for the two drivers that measure it bare.
#ifndef PEERS_SOCKETS_H
#define PEERS_SOCKETS_H

#include <stddef.h>

// Two ends of one TCP connection on 127.0.0.1, without Nagle's delay. Ends the process on failure:
// these are measuring programs, and without a connection there is nothing to measure.
void sockets_pair(int *a, int *b);

// Sends `send_bytes` to `out` and receives `receive_bytes` from `in` at once, `chunk` bytes a call;
// from and into buffers of `send_size` and `receive_size` bytes, begun again at their ends. When
// nothing moves it yields the processor and tries again, or sleeps in poll(2) if `sleep` is set. 0
// on success.
typedef struct sockets_flow {
    int in;
    int out;
    const char *send_from;
    char *receive_to;
    size_t send_size;
    size_t receive_size;
    size_t send_bytes;
    size_t receive_bytes;
    size_t chunk;
    int sleep;
} sockets_flow;
int sockets_flow_run(const sockets_flow *flow);

#endif
