// SPDX-License-Identifier: MIT
// A store's server and ways to come to it: what the tests of the store share.
#ifndef RDI_TESTS_STORE_FIXTURE_H
#define RDI_TESTS_STORE_FIXTURE_H

#include "transport/bootstrap/bootstrap.h"
#include "transport/bootstrap/store_wire.h"

#include <arpa/inet.h>
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>

#define PATIENCE 20000 // ms; nothing here takes that long unless it is broken

static struct rdi_job job;
static struct rdi_store_server *server;
static int port;

static inline void sleep_ms(int ms) {
    struct timespec t = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000L};
    while (nanosleep(&t, &t) != 0) {}
}

static inline uint64_t now_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

static inline void start(const struct rdi_store_limits *limits) {
    assert_int_equal(rdi_key_set(&job, "0123456789abcdef", 16), RONDO_OK);
    job.size = 2;
    assert_int_equal(rdi_store_server_start_limited("127.0.0.1", 0, &job, limits, &server),
                     RONDO_OK);
    port = rdi_store_server_port(server);
    assert_in_range(port, 1, 65535);
}

static inline int setup(void **state) {
    (void)state;
    start(&rdi_store_default_limits);
    return 0;
}

static inline int setup_short(void **state) {
    (void)state;
    struct rdi_store_limits limits = rdi_store_default_limits;
    limits.handshake_ms = limits.stall_ms = 1000;
    start(&limits);
    return 0;
}

static inline int setup_crowd(void **state) {
    (void)state;
    struct rdi_store_limits limits = rdi_store_default_limits;
    limits.handshake_ms = 10 * PATIENCE;
    limits.strangers = 4;
    start(&limits);
    return 0;
}

static inline int setup_small(void **state) {
    (void)state;
    struct rdi_store_limits limits = rdi_store_default_limits;
    limits.clients = 3;
    limits.bytes = 10000;
    start(&limits);
    return 0;
}

static inline int teardown(void **state) {
    (void)state;
    rdi_store_server_stop(server);
    server = NULL;
    return 0;
}

static inline struct rdi_store *connect_client(void) {
    struct rdi_store *s;
    rondo_status status = rdi_store_connect("127.0.0.1", port, &job, PATIENCE, &s);
    if (status != RONDO_OK) {
        fail_msg("%s", rondo_last_error());
    }
    return s;
}

static inline rondo_status set(struct rdi_store *s, const char *key, const void *value,
                               size_t len) {
    return rdi_store_tcp_ops.set(s, key, value, len, PATIENCE);
}

static inline void expect(struct rdi_store *s, const char *key, const void *value, size_t len) {
    void *got;
    size_t got_len;
    rondo_status status = rdi_store_tcp_ops.get(s, key, &got, &got_len, PATIENCE);
    if (status != RONDO_OK) {
        fail_msg("%s", rondo_last_error());
    }
    assert_int_equal(got_len, len);
    assert_memory_equal(got, value, len);
    free(got);
}

static inline rondo_status get_status(struct rdi_store *s, const char *key, int timeout_ms) {
    void *got = NULL;
    size_t len;
    rondo_status status = rdi_store_tcp_ops.get(s, key, &got, &len, timeout_ms);
    free(got);
    return status;
}

static inline uint64_t strangers(char *last, size_t cap) {
    return rdi_store_server_strangers(server, last, cap);
}

// Waits until the server has counted n strangers.
static inline void await_strangers(uint64_t n) {
    char last[320];
    for (int i = 0; i < PATIENCE / 10 && strangers(last, sizeof last) < n; i++) {
        sleep_ms(10);
    }
    assert_int_equal(strangers(last, sizeof last), n);
}

// A bare connection.
static inline int raw(void) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    assert_int_equal(connect(fd, (struct sockaddr *)&a, sizeof a), 0);
    return fd;
}

// Whether the server hangs up within PATIENCE.
static inline bool hangs_up(int fd) {
    struct timeval t = {.tv_sec = PATIENCE / 1000};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &t, sizeof t);
    char buf[256];
    ssize_t n;
    while ((n = recv(fd, buf, sizeof buf, 0)) > 0) {}
    return n == 0 || errno == ECONNRESET;
}

// A bare connection that has passed the handshake.
static inline int raw_client(void) {
    struct rdi_env env;
    struct rdi_hs hs;
    uint8_t buf[RDI_HS_BUFFER];
    rdi_env_system(&env, NULL, NULL);
    int fd = raw();
    rdi_hs_connect(&hs, RDI_HS_STORE, &job, &env, NULL, 0);
    while (hs.state == RDI_HS_RUNNING) {
        if (hs.out_off < hs.out_len) {
            ssize_t n = send(fd, hs.out + hs.out_off, hs.out_len - hs.out_off, MSG_NOSIGNAL);
            assert_true(n > 0);
            rdi_hs_sent(&hs, (size_t)n);
        } else {
            size_t used;
            ssize_t n = recv(fd, buf, sizeof buf, 0);
            assert_true(n > 0);
            rdi_hs_input(&hs, buf, (size_t)n, &used);
        }
    }
    assert_int_equal(hs.state, RDI_HS_DONE);
    return fd;
}

#endif
