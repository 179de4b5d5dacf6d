// SPDX-License-Identifier: MIT
// What the two halves of the store's client share: store_client.c connects and asks, store_member.c gives the signs
// of life of a rank that meets others.
#ifndef RDI_BOOTSTRAP_STORE_CLIENT_H
#define RDI_BOOTSTRAP_STORE_CLIENT_H

#include "transport/bootstrap/bootstrap.h"
#include "transport/bootstrap/store_wire.h"

#include <pthread.h>

struct rdi_store_pulse; // the thread

struct rdi_store {
    int fd; // -1: the connection broke
    struct rdi_env env;
    char where[320];  // "host port 29500"
    char server[128]; // "rank 0 (host a, pid 7)", once the store has said it
    unsigned grace_ms, silence_ms;
    bool mute;             // the server's host answers, its process did not for grace_ms
    pthread_mutex_t write; // held while a message is sent, so that no pulse gets into it
    struct rdi_store_pulse *pulse;
};

// RONDO_ERR_TIMEOUT or RONDO_ERR_PEER, with errno; no text.
rondo_status rdi_store_send(struct rdi_store *st, const struct rdi_store_request *q,
                            const char *key, const void *value, uint64_t deadline);
// Sends a request and waits for the answer; *got, from malloc, receives what came with it, with a NUL behind it.
// The status is the answer's; where none came it is the connection's, with a text.
rondo_status rdi_store_ask(struct rdi_store *st, unsigned op, const char *key, const void *value,
                           size_t len, int timeout_ms, uint64_t deadline, const char *doing,
                           bool *answered, void **got, size_t *got_len);
uint64_t rdi_store_after_ms(const struct rdi_store *st, int64_t ms);

void rdi_store_pulse_stop(struct rdi_store *st);

#endif
