// SPDX-License-Identifier: MIT
// The store's server and client on loopback: what is kept, who waits, and everything that may come to an
// open port.
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

static void sleep_ms(int ms) {
    struct timespec t = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000L};
    while (nanosleep(&t, &t) != 0) {}
}

static uint64_t now_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

static void start(const struct rdi_store_limits *limits) {
    assert_int_equal(rdi_key_set(&job, "0123456789abcdef", 16), RONDO_OK);
    job.size = 2;
    assert_int_equal(rdi_store_server_start_limited("127.0.0.1", 0, &job, limits, &server),
                     RONDO_OK);
    port = rdi_store_server_port(server);
    assert_in_range(port, 1, 65535);
}

static int setup(void **state) {
    (void)state;
    start(&rdi_store_default_limits);
    return 0;
}

static int setup_short(void **state) {
    (void)state;
    struct rdi_store_limits limits = rdi_store_default_limits;
    limits.handshake_ms = limits.stall_ms = 1000;
    start(&limits);
    return 0;
}

static int setup_crowd(void **state) {
    (void)state;
    struct rdi_store_limits limits = rdi_store_default_limits;
    limits.handshake_ms = 10 * PATIENCE;
    limits.strangers = 4;
    start(&limits);
    return 0;
}

static int setup_small(void **state) {
    (void)state;
    struct rdi_store_limits limits = rdi_store_default_limits;
    limits.clients = 3;
    limits.bytes = 10000;
    start(&limits);
    return 0;
}

static int teardown(void **state) {
    (void)state;
    rdi_store_server_stop(server);
    server = NULL;
    return 0;
}

static struct rdi_store *connect_client(void) {
    struct rdi_store *s;
    rondo_status status = rdi_store_connect("127.0.0.1", port, &job, PATIENCE, &s);
    if (status != RONDO_OK) {
        fail_msg("%s", rondo_last_error());
    }
    return s;
}

static rondo_status set(struct rdi_store *s, const char *key, const void *value, size_t len) {
    return rdi_store_tcp_ops.set(s, key, value, len, PATIENCE);
}

static void expect(struct rdi_store *s, const char *key, const void *value, size_t len) {
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

static rondo_status get_status(struct rdi_store *s, const char *key, int timeout_ms) {
    void *got = NULL;
    size_t len;
    rondo_status status = rdi_store_tcp_ops.get(s, key, &got, &len, timeout_ms);
    free(got);
    return status;
}

static uint64_t strangers(char *last, size_t cap) {
    return rdi_store_server_strangers(server, last, cap);
}

// Waits until the server has counted n strangers.
static void await_strangers(uint64_t n) {
    char last[320];
    for (int i = 0; i < PATIENCE / 10 && strangers(last, sizeof last) < n; i++) {
        sleep_ms(10);
    }
    assert_int_equal(strangers(last, sizeof last), n);
}

// A bare connection.
static int raw(void) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    assert_int_equal(connect(fd, (struct sockaddr *)&a, sizeof a), 0);
    return fd;
}

// Whether the server hangs up within PATIENCE.
static bool hangs_up(int fd) {
    struct timeval t = {.tv_sec = PATIENCE / 1000};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &t, sizeof t);
    char buf[256];
    ssize_t n;
    while ((n = recv(fd, buf, sizeof buf, 0)) > 0) {}
    return n == 0 || errno == ECONNRESET;
}

// A bare connection that has passed the handshake.
static int raw_client(void) {
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

// ---- Keys and values -----------------------------------------------------------------------------

static void test_set_and_get(void **state) {
    (void)state;
    struct rdi_store *a = connect_client(), *b = connect_client();
    assert_int_equal(set(a, "key", "value", 5), RONDO_OK);
    expect(a, "key", "value", 5);
    expect(b, "key", "value", 5);
    assert_int_equal(set(b, "key", "another", 7), RONDO_OK);
    expect(a, "key", "another", 7);
    assert_int_equal(set(b, "empty", NULL, 0), RONDO_OK);
    expect(a, "empty", "", 0);
    assert_int_equal(set(b, "key", "\0binary\0", 8), RONDO_OK);
    expect(a, "key", "\0binary\0", 8);

    char key[RDI_STORE_KEY_MAX + 2];
    memset(key, 'k', sizeof key);
    key[RDI_STORE_KEY_MAX + 1] = '\0';
    assert_int_equal(set(a, key, "x", 1), RONDO_ERR_INVALID);
    assert_non_null(strstr(rondo_last_error(), "255"));
    assert_int_equal(set(a, "", "x", 1), RONDO_ERR_INVALID);
    key[RDI_STORE_KEY_MAX] = '\0';
    assert_int_equal(set(a, key, "x", 1), RONDO_OK);
    expect(b, key, "x", 1);
    rdi_store_close(a);
    rdi_store_close(b);
}

static void test_large_values(void **state) {
    (void)state;
    struct rdi_store *a = connect_client(), *b = connect_client();
    size_t len = RDI_STORE_VALUE_MAX;
    char *big = malloc(len + 1);
    assert_non_null(big);
    for (size_t i = 0; i <= len; i++) {
        big[i] = (char)(i * 2654435761u >> 13);
    }
    assert_int_equal(set(a, "big", big, len), RONDO_OK);
    expect(b, "big", big, len);
    assert_int_equal(set(a, "big", big, len + 1), RONDO_ERR_INVALID);
    assert_non_null(strstr(rondo_last_error(), "16 MiB"));
    expect(a, "big", big, len); // nothing was changed, and the connection works
    free(big);
    rdi_store_close(a);
    rdi_store_close(b);
}

static void test_many_keys(void **state) {
    (void)state;
    struct rdi_store *a = connect_client();
    char key[32];
    for (int i = 0; i < 2000; i++) {
        snprintf(key, sizeof key, "key %d", i);
        assert_int_equal(set(a, key, key, strlen(key)), RONDO_OK);
    }
    for (int i = 1999; i >= 0; i--) {
        snprintf(key, sizeof key, "key %d", i);
        expect(a, key, key, strlen(key));
    }
    rdi_store_close(a);
}

static void test_timeout(void **state) {
    (void)state;
    struct rdi_store *a = connect_client();
    uint64_t before = now_ms();
    assert_int_equal(get_status(a, "never", 100), RONDO_ERR_TIMEOUT);
    assert_true(now_ms() - before >= 99);
    assert_non_null(strstr(rondo_last_error(), "'never'"));
    assert_int_equal(get_status(a, "never", 0), RONDO_ERR_TIMEOUT);
    assert_int_equal(get_status(a, "never", -5), RONDO_ERR_TIMEOUT);
    assert_int_equal(set(a, "never", "now", 3), RONDO_OK); // and the connection goes on
    expect(a, "never", "now", 3);
    rdi_store_close(a);
}

// ---- Many clients --------------------------------------------------------------------------------

#define CLIENTS 24

struct worker {
    pthread_t thread;
    int id;
    bool ok;
};

// Each waits for its left neighbour's key, then sets its own: a chain through all connections.
static void *chain(void *arg) {
    struct worker *w = arg;
    struct rdi_store *s;
    char key[32], wanted[32];
    void *value = NULL;
    size_t len = 0;
    if (rdi_store_connect("127.0.0.1", port, &job, PATIENCE, &s) != RONDO_OK) {
        return NULL;
    }
    snprintf(wanted, sizeof wanted, "link %d", w->id);
    snprintf(key, sizeof key, "link %d", w->id + 1);
    w->ok = rdi_store_tcp_ops.get(s, wanted, &value, &len, PATIENCE) == RONDO_OK &&
            len == strlen(wanted) && memcmp(value, wanted, len) == 0 &&
            rdi_store_tcp_ops.set(s, key, key, strlen(key), PATIENCE) == RONDO_OK;
    free(value);
    rdi_store_close(s);
    return NULL;
}

static void test_many_clients(void **state) {
    (void)state;
    struct worker w[CLIENTS];
    for (int i = 0; i < CLIENTS; i++) {
        w[i] = (struct worker){.id = i};
        assert_int_equal(pthread_create(&w[i].thread, NULL, chain, &w[i]), 0);
    }
    struct rdi_store *s = connect_client();
    assert_int_equal(set(s, "link 0", "link 0", 6), RONDO_OK);
    for (int i = 0; i < CLIENTS; i++) {
        pthread_join(w[i].thread, NULL);
        assert_true(w[i].ok);
    }
    rdi_store_close(s);
}

static void *wait_for_big(void *arg) {
    struct worker *w = arg;
    struct rdi_store *s;
    void *value = NULL;
    size_t len = 0;
    if (rdi_store_connect("127.0.0.1", port, &job, PATIENCE, &s) != RONDO_OK) {
        return NULL;
    }
    w->ok = rdi_store_tcp_ops.get(s, "big", &value, &len, PATIENCE) == RONDO_OK && len == 3000000;
    for (size_t i = 0; w->ok && i < len; i++) {
        w->ok = ((uint8_t *)value)[i] == (uint8_t)(i / 7);
    }
    free(value);
    rdi_store_close(s);
    return NULL;
}

// One set wakes all, with a value that no socket takes at once; meanwhile the key gets another value.
static void test_many_waiters(void **state) {
    (void)state;
    struct worker w[8];
    for (int i = 0; i < 8; i++) {
        w[i] = (struct worker){.id = i};
        assert_int_equal(pthread_create(&w[i].thread, NULL, wait_for_big, &w[i]), 0);
    }
    struct rdi_store *s = connect_client();
    for (int i = 0; i < 1000 && rdi_store_server_clients(server) < 9; i++) {
        sleep_ms(10);
    }
    sleep_ms(50); // so that they wait; if not, they find the key, which is as good
    uint8_t *big = malloc(3000000);
    assert_non_null(big);
    for (size_t i = 0; i < 3000000; i++) {
        big[i] = (uint8_t)(i / 7);
    }
    assert_int_equal(set(s, "big", big, 3000000), RONDO_OK);
    assert_int_equal(set(s, "other", "x", 1), RONDO_OK);
    for (int i = 0; i < 8; i++) {
        pthread_join(w[i].thread, NULL);
        assert_true(w[i].ok);
    }
    free(big);
    rdi_store_close(s);
}

// ---- Strangers -----------------------------------------------------------------------------------

static void test_garbage(void **state) {
    (void)state;
    struct rdi_store *s = connect_client();
    int a = raw(), b = raw(), c = raw();
    assert_int_equal(send(a, "GET / HTTP/1.0\r\n\r\n", 18, MSG_NOSIGNAL), 18);
    uint8_t noise[5000];
    memset(noise, 0xa5, sizeof noise);
    send(b, noise, sizeof noise, MSG_NOSIGNAL);
    assert_true(hangs_up(a));
    assert_true(hangs_up(b));
    close(c); // a port scanner
    await_strangers(3);
    char last[320];
    strangers(last, sizeof last);
    assert_memory_equal(last, "127.0.0.1: ", 11);
    assert_int_equal(set(s, "key", "value", 5), RONDO_OK); // nobody noticed
    expect(s, "key", "value", 5);
    assert_int_equal(rdi_store_server_clients(server), 1);
    close(a);
    close(b);
    rdi_store_close(s);
}

static void test_wrong_key(void **state) {
    (void)state;
    struct rdi_job other = {.rank = 7, .size = 8};
    struct rdi_store *s;
    assert_int_equal(rdi_key_set(&other, "0123456789abcdeF", 16), RONDO_OK);
    uint64_t before = now_ms();
    assert_int_equal(rdi_store_connect("127.0.0.1", port, &other, PATIENCE, &s), RONDO_ERR_AUTH);
    assert_true(now_ms() - before < PATIENCE / 2); // at once: it will not get better
    assert_non_null(strstr(rondo_last_error(), "rank 7"));
    assert_non_null(strstr(rondo_last_error(), "key"));
    await_strangers(1);
    char last[320];
    strangers(last, sizeof last);
    assert_non_null(strstr(last, "key"));
}

static void test_another_version(void **state) {
    (void)state;
    uint8_t hello[10 + 32] = {'R', 'N', 'D', 'O', 0, 9, 1, RDI_HS_STORE, 0, 32}, answer[64];
    int fd = raw();
    // More than the hello lies in the socket when the server hangs up, and still the answer gets through.
    for (int i = 0; i < 50; i++) {
        send(fd, hello, sizeof hello, MSG_NOSIGNAL);
    }
    ssize_t n = recv(fd, answer, sizeof answer, MSG_WAITALL);
    assert_int_equal(n, 10);
    assert_memory_equal(answer, "RNDO\0\1", 6);
    close(fd);
    await_strangers(1);
    char last[320];
    strangers(last, sizeof last);
    assert_non_null(strstr(last, "version 9"));
}

// A server of another version, and one that is none.
static void *answer_once(void *arg) {
    int *listener = arg;
    char buf[64];
    int fd = accept(*listener, NULL, NULL);
    recv(fd, buf, sizeof buf, 0);
    send(fd, listener[1] == 0 ? "RNDO\0\7\2\1\0\0" : "220 mail.example.org\r\n",
         listener[1] == 0 ? 10 : 22, MSG_NOSIGNAL);
    while (recv(fd, buf, sizeof buf, 0) > 0) {}
    close(fd);
    return NULL;
}

static void test_foreign_servers(void **state) {
    (void)state;
    for (int which = 0; which < 2; which++) {
        int listener[2] = {socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), which};
        struct sockaddr_in a = {.sin_family = AF_INET};
        a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        socklen_t len = sizeof a;
        assert_int_equal(bind(listener[0], (struct sockaddr *)&a, sizeof a), 0);
        assert_int_equal(listen(listener[0], 4), 0);
        assert_int_equal(getsockname(listener[0], (struct sockaddr *)&a, &len), 0);
        pthread_t thread;
        assert_int_equal(pthread_create(&thread, NULL, answer_once, listener), 0);
        struct rdi_store *s;
        rondo_status status = rdi_store_connect("127.0.0.1", ntohs(a.sin_port), &job, PATIENCE, &s);
        assert_int_equal(status, which == 0 ? RONDO_ERR_VERSION : RONDO_ERR_INVALID);
        assert_non_null(
            strstr(rondo_last_error(), which == 0 ? "version 7" : "does not speak Rondo"));
        pthread_join(thread, NULL);
        close(listener[0]);
    }
}

static void test_silent_strangers(void **state) {
    (void)state;
    struct rdi_store *s = connect_client();
    int silent = raw(), half = raw();
    assert_int_equal(send(half, "RNDO\0\1\1", 7, MSG_NOSIGNAL), 7);
    uint64_t before = now_ms();
    assert_true(hangs_up(silent)); // after handshake_ms
    assert_true(hangs_up(half));
    assert_true(now_ms() - before < PATIENCE / 2);
    await_strangers(2);
    assert_int_equal(set(s, "key", "value", 5), RONDO_OK);
    expect(s, "key", "value", 5);
    close(silent);
    close(half);
    rdi_store_close(s);
}

// A crowd of strangers, who have all the time in the world: the oldest go, and a rank still gets in.
static void test_crowd(void **state) {
    (void)state;
    int fds[40];
    for (int i = 0; i < 40; i++) {
        fds[i] = raw();
    }
    struct rdi_store *s = connect_client();
    assert_int_equal(set(s, "key", "value", 5), RONDO_OK);
    for (int i = 0; i < 40; i++) {
        if (i < 36) {
            assert_true(hangs_up(fds[i]));
        }
        close(fds[i]);
    }
    await_strangers(40);
    expect(s, "key", "value", 5);
    rdi_store_close(s);
}

// ---- Clients that misbehave ----------------------------------------------------------------------

static void test_half_a_request(void **state) {
    (void)state;
    struct rdi_store *s = connect_client();
    int a = raw_client(), b = raw_client();
    uint8_t head[RDI_STORE_REQUEST_HEAD];
    struct rdi_store_request r = {.op = RDI_STORE_SET, .key_len = 3, .value_len = 1000};
    rdi_store_encode_request(head, &r);
    assert_int_equal(send(a, head, 5, MSG_NOSIGNAL), 5);
    assert_int_equal(send(b, head, sizeof head, MSG_NOSIGNAL), sizeof head);
    assert_int_equal(send(b, "keyval", 6, MSG_NOSIGNAL), 6);
    assert_true(hangs_up(a)); // after stall_ms
    assert_true(hangs_up(b));
    assert_int_equal(get_status(s, "key", 0), RONDO_ERR_TIMEOUT); // half a value is none
    sleep_ms(1100); // longer than stall_ms: who has begun nothing may be idle
    assert_int_equal(set(s, "key", "value", 5), RONDO_OK);
    char last[320];
    assert_int_equal(strangers(last, sizeof last), 0); // these were clients
    close(a);
    close(b);
    rdi_store_close(s);
}

// Asks for a large value, and does not read it.
static void test_does_not_read(void **state) {
    (void)state;
    struct rdi_store *s = connect_client();
    char *big = calloc(1, RDI_STORE_VALUE_MAX);
    assert_non_null(big);
    assert_int_equal(set(s, "big", big, RDI_STORE_VALUE_MAX), RONDO_OK);
    int fd = raw_client();
    uint8_t head[RDI_STORE_REQUEST_HEAD];
    struct rdi_store_request r = {.op = RDI_STORE_GET, .key_len = 3};
    rdi_store_encode_request(head, &r);
    assert_int_equal(send(fd, head, sizeof head, MSG_NOSIGNAL), sizeof head);
    assert_int_equal(send(fd, "big", 3, MSG_NOSIGNAL), 3);
    expect(s, "big", big, RDI_STORE_VALUE_MAX); // does not disturb others
    for (int i = 0; i < PATIENCE / 10 && rdi_store_server_clients(server) > 1; i++) {
        sleep_ms(10);
    }
    assert_int_equal(rdi_store_server_clients(server), 1);
    close(fd);
    free(big);
    rdi_store_close(s);
}

static void test_nonsense_from_clients(void **state) {
    (void)state;
    static const uint8_t heads[][RDI_STORE_REQUEST_HEAD] = {
        {0, 0, 0, 9, 7, 1},                         // unknown operation
        {0, 0, 0, 8, RDI_STORE_GET, 0},             // no key
        {0, 0, 0, 8, RDI_STORE_GET, 5},             // too short for the key
        {0, 0, 0, 20, RDI_STORE_GET, 5},            // a get with a value
        {0xff, 0xff, 0xff, 0xff, RDI_STORE_SET, 5}, // more than any value has
        {0, 0, 0, 9, RDI_STORE_GET, 1, 1, 0},       // reserved
        {0, 0, 0x10, 0xa, RDI_STORE_WILL, 1},       // more than a will has
    };
    for (size_t i = 0; i < sizeof heads / sizeof heads[0]; i++) {
        int fd = raw_client();
        assert_int_equal(send(fd, heads[i], sizeof heads[i], MSG_NOSIGNAL), sizeof heads[i]);
        assert_true(hangs_up(fd));
        close(fd);
    }
    int fd = raw_client();
    uint8_t head[RDI_STORE_REQUEST_HEAD] = {0, 0, 0, 11, RDI_STORE_SET, 3};
    assert_int_equal(send(fd, head, sizeof head, MSG_NOSIGNAL), sizeof head);
    assert_int_equal(send(fd, "a\0b", 3, MSG_NOSIGNAL), 3); // a NUL in a key
    assert_true(hangs_up(fd));
    close(fd);
    struct rdi_store *s = connect_client();
    assert_int_equal(set(s, "key", "value", 5), RONDO_OK);
    rdi_store_close(s);
}

// Two requests at once, and a hang-up while waiting: the entry has no waiter left behind.
static void test_impatient(void **state) {
    (void)state;
    int fd = raw_client(), gone = raw_client();
    uint8_t head[RDI_STORE_REQUEST_HEAD];
    struct rdi_store_request r = {.op = RDI_STORE_GET, .key_len = 3, .timeout_ms = PATIENCE};
    rdi_store_encode_request(head, &r);
    assert_int_equal(send(gone, head, sizeof head, MSG_NOSIGNAL), sizeof head);
    assert_int_equal(send(gone, "key", 3, MSG_NOSIGNAL), 3);
    close(gone);
    assert_int_equal(send(fd, head, sizeof head, MSG_NOSIGNAL), sizeof head);
    assert_int_equal(send(fd, "key", 3, MSG_NOSIGNAL), 3);
    sleep_ms(50);
    send(fd, head, sizeof head, MSG_NOSIGNAL);
    assert_true(hangs_up(fd));
    struct rdi_store *s = connect_client();
    assert_int_equal(set(s, "key", "value", 5), RONDO_OK);
    expect(s, "key", "value", 5);
    close(fd);
    rdi_store_close(s);
}

static void test_limits(void **state) {
    (void)state;
    struct rdi_store *a = connect_client(), *b = connect_client(), *c = connect_client();
    int more = raw(); // the fourth
    assert_true(hangs_up(more));
    close(more);
    char value[6000] = {0};
    assert_int_equal(set(a, "one", value, sizeof value), RONDO_OK);
    assert_int_equal(set(a, "two", value, sizeof value), RONDO_ERR_NOMEM);
    assert_non_null(strstr(rondo_last_error(), "full"));
    expect(b, "one", value, sizeof value);
    assert_int_equal(set(c, "one", value, 10), RONDO_OK); // makes room
    assert_int_equal(set(a, "two", value, sizeof value), RONDO_OK);
    char key[32];
    rondo_status s = RONDO_OK;
    for (int i = 0; i < 1000 && s == RONDO_OK; i++) { // keys alone fill it too
        snprintf(key, sizeof key, "k%d", i);
        s = set(a, key, NULL, 0);
    }
    assert_int_equal(s, RONDO_ERR_NOMEM);
    assert_int_equal(get_status(a, "not there", 10), RONDO_ERR_NOMEM);
    expect(a, "one", value, 10);
    rdi_store_close(a);
    rdi_store_close(b);
    rdi_store_close(c);
    struct rdi_store *d = connect_client(); // there is room again
    rdi_store_close(d);
}

// What a client left with the server is set when its connection ends, however that comes about.
static void test_wills(void **state) {
    (void)state;
    struct rdi_store *a = connect_client(), *b = connect_client(), *c = connect_client();
    assert_int_equal(rdi_store_will(a, "end of a", "first", 5, PATIENCE), RONDO_OK);
    assert_int_equal(rdi_store_will(a, "end of a", "second", 6, PATIENCE), RONDO_OK); // replaces it
    assert_int_equal(rdi_store_will(b, "end of b", "b", 1, PATIENCE), RONDO_OK);
    assert_int_equal(rdi_store_will(b, "any key", NULL, 0, PATIENCE), RONDO_OK); // takes it back
    assert_int_equal(get_status(c, "end of a", 0), RONDO_ERR_TIMEOUT);
    rdi_store_close(a);
    expect(c, "end of a", "second", 6);
    rdi_store_close(b);
    char big[RDI_STORE_WILL_MAX + 1] = {0};
    b = connect_client();
    assert_int_equal(rdi_store_will(b, "big", big, sizeof big, PATIENCE), RONDO_ERR_INVALID);
    rdi_store_close(b);
    assert_int_equal(get_status(c, "end of b", 50), RONDO_ERR_TIMEOUT);
    rdi_store_close(c);
}

// ---- Ports and processes -------------------------------------------------------------------------

static void test_port_in_use(void **state) {
    (void)state;
    struct rdi_store_server *second = NULL;
    char number[16];
    snprintf(number, sizeof number, "port %d", port);
    assert_int_equal(rdi_store_server_start("127.0.0.1", port, &job, &second), RONDO_ERR_BOOTSTRAP);
    assert_null(second);
    assert_non_null(strstr(rondo_last_error(), number));
    assert_non_null(strstr(rondo_last_error(), "MASTER_PORT"));
    assert_non_null(strstr(rondo_last_error(), "EADDRINUSE"));
    assert_int_equal(rdi_store_server_start(NULL, port, &job, &second), RONDO_ERR_BOOTSTRAP);
    assert_non_null(strstr(rondo_last_error(), number));
    assert_int_equal(rdi_store_server_start("no such host.invalid", 0, &job, &second),
                     RONDO_ERR_BOOTSTRAP);
    assert_non_null(strstr(rondo_last_error(), "resolved"));
    assert_int_equal(rdi_store_server_start("192.0.2.1", 0, &job, &second), RONDO_ERR_BOOTSTRAP);
    assert_non_null(strstr(rondo_last_error(), "192.0.2.1"));
}

// A port is free again as soon as its server has stopped, also with connections that were open, and also
// while a forked child lives that has copies of all descriptors.
static void test_port_again(void **state) {
    (void)state;
    struct rdi_store *s = connect_client();
    int gate[2];
    assert_int_equal(pipe(gate), 0);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        char c;
        close(gate[1]);
        _exit(read(gate[0], &c, 1) == 0 ? 0 : 1);
    }
    rdi_store_server_stop(server);
    server = NULL;
    assert_int_equal(set(s, "key", "value", 5), RONDO_ERR_PEER);
    if (strstr(rondo_last_error(), "ended") == NULL) {
        fail_msg("%s", rondo_last_error());
    }
    assert_int_equal(set(s, "key", "value", 5), RONDO_ERR_USAGE); // broken once, broken for good
    rdi_store_close(s);
    assert_int_equal(rdi_store_server_start("127.0.0.1", port, &job, &server), RONDO_OK);
    s = connect_client();
    assert_int_equal(set(s, "key", "value", 5), RONDO_OK);
    rdi_store_close(s);
    close(gate[0]);
    close(gate[1]);
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
}

// A forked child has copies of the server's descriptors: a connection that the server drops ends all the
// same, and nothing of it is looked at again.
static void test_forked_child(void **state) {
    (void)state;
    int fd = raw_client(), gate[2];
    assert_int_equal(pipe(gate), 0);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        char c;
        close(gate[1]);
        _exit(read(gate[0], &c, 1) == 0 ? 0 : 1);
    }
    close(gate[0]);
    uint8_t nonsense[RDI_STORE_REQUEST_HEAD] = {0};
    assert_int_equal(send(fd, nonsense, sizeof nonsense, MSG_NOSIGNAL), sizeof nonsense);
    assert_true(hangs_up(fd));
    close(fd);
    struct rdi_store *s = connect_client(), *t = connect_client();
    assert_int_equal(set(s, "key", "value", 5), RONDO_OK);
    expect(t, "key", "value", 5);
    assert_int_equal(rdi_store_server_clients(server), 2);
    close(gate[1]);
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    rdi_store_close(s);
    rdi_store_close(t);
}

static void *start_late(void *arg) {
    (void)arg;
    sleep_ms(300);
    rondo_status s = rdi_store_server_start("127.0.0.1", port, &job, &server);
    return s == RONDO_OK ? server : NULL;
}

// A client that comes before the server waits for it; without one it gives up in time and says where it
// looked.
static void test_early_client(void **state) {
    (void)state;
    rdi_store_server_stop(server);
    server = NULL;
    struct rdi_store *s;
    uint64_t before = now_ms();
    assert_int_equal(rdi_store_connect("127.0.0.1", port, &job, 200, &s), RONDO_ERR_TIMEOUT);
    assert_true(now_ms() - before < PATIENCE / 2);
    assert_non_null(strstr(rondo_last_error(), "127.0.0.1, port "));
    assert_non_null(strstr(rondo_last_error(), "refused"));
    assert_non_null(strstr(rondo_last_error(), "MASTER_ADDR"));
    assert_int_equal(rdi_store_connect("no-such-host.invalid", port, &job, 50, &s),
                     RONDO_ERR_TIMEOUT);
    assert_non_null(strstr(rondo_last_error(), "no-such-host.invalid"));
    assert_non_null(strstr(rondo_last_error(), "resolved"));

    pthread_t thread;
    void *started;
    assert_int_equal(pthread_create(&thread, NULL, start_late, NULL), 0);
    s = connect_client();
    pthread_join(thread, &started);
    assert_non_null(started);
    rdi_store_close(s);
}

static void test_all_addresses(void **state) {
    (void)state;
    struct rdi_store_server *all;
    struct rdi_store *s;
    assert_int_equal(rdi_store_server_start(NULL, 0, &job, &all), RONDO_OK);
    int p = rdi_store_server_port(all);
    assert_int_equal(rdi_store_connect("127.0.0.1", p, &job, PATIENCE, &s), RONDO_OK);
    assert_int_equal(set(s, "key", "value", 5), RONDO_OK);
    rdi_store_close(s);
    int fd = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in6 a = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT};
    bool has_ipv6 = fd >= 0 && bind(fd, (struct sockaddr *)&a, sizeof a) == 0;
    if (has_ipv6) {
        assert_int_equal(rdi_store_connect("::1", p, &job, PATIENCE, &s), RONDO_OK);
        expect(s, "key", "value", 5);
        rdi_store_close(s);
        struct rdi_store_server *local;
        assert_int_equal(rdi_store_server_start("::1", 0, &job, &local), RONDO_OK);
        assert_int_equal(rdi_store_connect("::1", rdi_store_server_port(local), &job, PATIENCE, &s),
                         RONDO_OK);
        rdi_store_close(s);
        rdi_store_server_stop(local);
    } else {
        print_message("no IPv6 here: only IPv4 was tried\n");
    }
    close(fd);
    rdi_store_server_stop(all);
}

// Out of descriptors: the server neither spins nor dies, and serves again when there are some.
static void test_out_of_descriptors(void **state) {
    (void)state;
    struct rlimit before, tight;
    struct rdi_store *s = connect_client();
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
    int probe = raw();
    tight = before;
    tight.rlim_cur = (rlim_t)probe + 2; // one for a client socket, none for its other end
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &tight), 0);
    int fds[8], n = 0;
    while (n < 8) {
        fds[n] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (fds[n] < 0) {
            break;
        }
        struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
        a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        assert_int_equal(connect(fds[n++], (struct sockaddr *)&a, sizeof a), 0);
    }
    struct timespec cpu0, cpu1;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &cpu0);
    sleep_ms(1000);
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &cpu1);
    assert_int_equal(set(s, "key", "value", 5), RONDO_OK);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
    double spent = (double)(cpu1.tv_sec - cpu0.tv_sec) +
                   (double)(cpu1.tv_nsec - cpu0.tv_nsec) / 1e9;
    assert_true(spent < 0.05); // of 1 s
    struct rdi_store *t = connect_client();
    expect(t, "key", "value", 5);
    rdi_store_close(t);
    rdi_store_close(s);
    while (n > 0) {
        close(fds[--n]);
    }
    close(probe);
}

// ---- Encodings -----------------------------------------------------------------------------------

static void test_wire(void **state) {
    (void)state;
    struct rdi_store_request q = {.op = RDI_STORE_SET,
                                  .timeout_ms = 0xfffefdfc,
                                  .key_len = 255,
                                  .value_len = RDI_STORE_VALUE_MAX},
                             q2;
    uint8_t head[RDI_STORE_REQUEST_HEAD];
    rdi_store_encode_request(head, &q);
    assert_null(rdi_store_decode_request(head, &q2));
    assert_int_equal(q2.op, q.op);
    assert_int_equal(q2.timeout_ms, q.timeout_ms);
    assert_int_equal(q2.key_len, q.key_len);
    assert_int_equal(q2.value_len, q.value_len);
    q.value_len++;
    rdi_store_encode_request(head, &q);
    assert_non_null(rdi_store_decode_request(head, &q2));

    struct rdi_store_response r = {.status = RONDO_ERR_TIMEOUT}, r2;
    rdi_store_encode_response(head, &r);
    assert_null(rdi_store_decode_response(head, &r2));
    assert_int_equal(r2.status, RONDO_ERR_TIMEOUT);
    head[4] = 200; // a status of a later version
    assert_null(rdi_store_decode_response(head, &r2));
    assert_int_equal(r2.status, RONDO_ERR_INTERNAL);
    r = (struct rdi_store_response){.status = RONDO_ERR_NOMEM, .value_len = 1};
    rdi_store_encode_response(head, &r);
    assert_non_null(rdi_store_decode_response(head, &r2));
}

static void test_table(void **state) {
    (void)state;
    void *records[3] = {(char[]){"abc"}, NULL, (char[]){"defgh"}};
    size_t lens[3] = {3, 0, 5}, got[3], text_len;
    uint8_t *t = malloc(rdi_table_size(lens, 3));
    const uint8_t *first;
    const char *text;
    rondo_status failure;
    size_t len = rdi_table_size(lens, 3);
    rdi_table_encode(t, records, lens, 3);
    assert_null(rdi_table_decode(t, len, 3, got, &first, &failure, &text, &text_len));
    assert_int_equal(failure, RONDO_OK);
    assert_memory_equal(got, lens, sizeof lens);
    assert_memory_equal(first, "abcdefgh", 8);
    assert_non_null(rdi_table_decode(t, len, 2, got, &first, &failure, &text, &text_len));
    assert_non_null(rdi_table_decode(t, len, 4, got, &first, &failure, &text, &text_len));
    for (size_t n = 0; n < len;
         n++) { // every truncation, in a block of that size for the sanitizer
        uint8_t *cut = malloc(n > 0 ? n : 1);
        memcpy(cut, t, n);
        assert_non_null(rdi_table_decode(cut, n, 3, got, &first, &failure, &text, &text_len));
        free(cut);
    }
    free(t);

    uint8_t f[40];
    len = rdi_table_encode_failure(f, sizeof f, RONDO_ERR_PEER,
                                   "a text that is longer than what there is room for");
    assert_int_equal(len, sizeof f);
    assert_null(rdi_table_decode(f, len, 3, got, &first, &failure, &text, &text_len));
    assert_int_equal(failure, RONDO_ERR_PEER);
    assert_int_equal(text_len, sizeof f - RDI_TABLE_HEAD);
    assert_memory_equal(text, "a text that is", 14);
    assert_non_null(rdi_table_decode(f, len - 1, 3, got, &first, &failure, &text, &text_len));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_wire),
        cmocka_unit_test(test_table),
        cmocka_unit_test_setup_teardown(test_set_and_get, setup, teardown),
        cmocka_unit_test_setup_teardown(test_large_values, setup, teardown),
        cmocka_unit_test_setup_teardown(test_many_keys, setup, teardown),
        cmocka_unit_test_setup_teardown(test_timeout, setup, teardown),
        cmocka_unit_test_setup_teardown(test_many_clients, setup, teardown),
        cmocka_unit_test_setup_teardown(test_many_waiters, setup, teardown),
        cmocka_unit_test_setup_teardown(test_garbage, setup, teardown),
        cmocka_unit_test_setup_teardown(test_wrong_key, setup, teardown),
        cmocka_unit_test_setup_teardown(test_another_version, setup, teardown),
        cmocka_unit_test_setup_teardown(test_foreign_servers, setup, teardown),
        cmocka_unit_test_setup_teardown(test_silent_strangers, setup_short, teardown),
        cmocka_unit_test_setup_teardown(test_crowd, setup_crowd, teardown),
        cmocka_unit_test_setup_teardown(test_half_a_request, setup_short, teardown),
        cmocka_unit_test_setup_teardown(test_does_not_read, setup_short, teardown),
        cmocka_unit_test_setup_teardown(test_nonsense_from_clients, setup, teardown),
        cmocka_unit_test_setup_teardown(test_impatient, setup, teardown),
        cmocka_unit_test_setup_teardown(test_wills, setup, teardown),
        cmocka_unit_test_setup_teardown(test_limits, setup_small, teardown),
        cmocka_unit_test_setup_teardown(test_port_in_use, setup, teardown),
        cmocka_unit_test_setup_teardown(test_port_again, setup, teardown),
        cmocka_unit_test_setup_teardown(test_forked_child, setup, teardown),
        cmocka_unit_test_setup_teardown(test_early_client, setup, teardown),
        cmocka_unit_test_setup_teardown(test_all_addresses, setup, teardown),
        cmocka_unit_test_setup_teardown(test_out_of_descriptors, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
