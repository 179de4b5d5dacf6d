// SPDX-License-Identifier: MIT
// Everything that may come to the store's port: strangers, other jobs, other versions, and clients
// that misbehave. Those who belong there must not notice.
#include "store_fixture.h"

// ---- Strangers ----------------------------------------------------------------------------------

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
    // More than the hello lies in the socket when the server hangs up, and still the answer gets
    // through.
    for (int i = 0; i < 50; i++) {
        send(fd, hello, sizeof hello, MSG_NOSIGNAL);
    }
    ssize_t n = recv(fd, answer, sizeof answer, MSG_WAITALL);
    assert_int_equal(n, 10);
    assert_memory_equal(answer, "RNDO\0\2", 6);
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
    assert_int_equal(send(half, "RNDO\0\2\1", 7, MSG_NOSIGNAL), 7);
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

// A crowd of strangers, who have all the time in the world: the oldest go, and a rank still gets
// in.
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

// ---- Clients that misbehave ---------------------------------------------------------------------

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

int main(void) {
    const struct CMUnitTest tests[] = {
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
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
