// SPDX-License-Identifier: MIT
// The store's server and client on loopback: what is kept, who waits, ports, processes and limits
// of the system; and the bytes that travel. Who does not belong there: test_store_strangers.c.
#include "store_fixture.h"

// ---- Keys and values ----------------------------------------------------------------------------

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

// ---- Many clients -------------------------------------------------------------------------------

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

// One set wakes all, with a value that no socket takes at once; meanwhile the key gets another
// value.
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

// ---- Ports and processes ------------------------------------------------------------------------

static void *stop_soon(void *which) {
    const struct timespec pause = {.tv_nsec = 200000000};
    nanosleep(&pause, NULL);
    rdi_store_server_stop(which);
    return NULL;
}

// Another job's ranks have it as long as they meet.
static void test_port_soon_free(void **state) {
    (void)state;
    struct rdi_store_limits limits = rdi_store_default_limits;
    struct rdi_store_server *first, *second = NULL;
    pthread_t thread;
    assert_int_equal(rdi_store_server_start("127.0.0.1", 0, &job, &first), RONDO_OK);
    const int taken = rdi_store_server_port(first);
    limits.busy_ms = 50;
    assert_int_equal(rdi_store_server_start_limited("127.0.0.1", taken, &job, &limits, &second),
                     RONDO_ERR_BOOTSTRAP);
    assert_int_equal(pthread_create(&thread, NULL, stop_soon, first), 0);
    limits.busy_ms = 10000;
    assert_int_equal(rdi_store_server_start_limited("127.0.0.1", taken, &job, &limits, &second),
                     RONDO_OK);
    pthread_join(thread, NULL);
    rdi_store_server_stop(second);
}

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

// A port is free again as soon as its server has stopped, also with connections that were open, and
// also while a forked child lives that has copies of all descriptors.
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

// A forked child has copies of the server's descriptors: a connection that the server drops ends
// all the same, and nothing of it is looked at again.
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

// A client that comes before the server waits for it; without one it gives up in time and says
// where it looked.
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
    int fds[64], n = 0, last = dup(0);
    assert_true(last >= 0);
    tight = before;
    tight.rlim_cur = (rlim_t)last + 32;
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &tight), 0);
    while (n < 64 && (fds[n] = dup(0)) >= 0) {
        n++;
    }
    assert_in_range(n, 1, 63);
    close(fds[--n]);
    int knocking = raw(); // takes the last one; there is none for the server's end of it
    struct timespec cpu0, cpu1;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &cpu0);
    sleep_ms(1000);
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &cpu1);
    double spent = (double)(cpu1.tv_sec - cpu0.tv_sec) +
                   (double)(cpu1.tv_nsec - cpu0.tv_nsec) / 1e9;
    int starved = rdi_store_server_starved(server);
    assert_int_equal(set(s, "key", "value", 5), RONDO_OK);
    while (n > 0) {
        close(fds[--n]);
    }
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
    assert_true(spent < 0.05); // of 1 s
    assert_int_equal(starved, EMFILE);
    assert_int_equal(send(knocking, "?", 1, MSG_NOSIGNAL), 1);
    assert_true(hangs_up(knocking)); // it was let in at last
    struct rdi_store *t = connect_client();
    expect(t, "key", "value", 5);
    assert_int_equal(rdi_store_server_starved(server), 0);
    rdi_store_close(t);
    rdi_store_close(s);
    close(knocking);
    close(last);
}

// ---- Encodings ----------------------------------------------------------------------------------

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

// ---- Telling ------------------------------------------------------------------------------------

struct tale {
    pthread_mutex_t lock;
    char text[128];
};

static void hear(void *arg, const char *key, const void *value, size_t len) {
    struct tale *t = arg;
    pthread_mutex_lock(&t->lock);
    size_t used = strlen(t->text);
    snprintf(t->text + used, sizeof t->text - used, "%s=%.*s ", key, (int)len, (const char *)value);
    pthread_mutex_unlock(&t->lock);
}

// The server tells of what is set under a prefix, again when it is set again, and of a will.
static void test_tell(void **state) {
    (void)state;
    struct tale tale = {.lock = PTHREAD_MUTEX_INITIALIZER};
    rdi_store_server_tell(server, "a/", hear, &tale);
    struct rdi_store *s = connect_client(), *dying = connect_client();
    assert_int_equal(rdi_store_will(dying, "a/gone", "w", 1, PATIENCE), RONDO_OK);
    assert_int_equal(set(s, "a/1", "x", 1), RONDO_OK);
    assert_int_equal(set(s, "b/1", "y", 1), RONDO_OK);
    assert_int_equal(set(s, "a", "z", 1), RONDO_OK);
    assert_int_equal(set(s, "a/1", "", 0), RONDO_OK);
    rdi_store_close(dying);
    void *value;
    size_t len;
    assert_int_equal(rdi_store_tcp_ops.get(s, "a/gone", &value, &len, PATIENCE), RONDO_OK);
    free(value);
    pthread_mutex_lock(&tale.lock);
    assert_string_equal(tale.text, "a/1=x a/1= a/gone=w ");
    pthread_mutex_unlock(&tale.lock);
    rdi_store_close(s);
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
        cmocka_unit_test_setup_teardown(test_port_in_use, setup, teardown),
        cmocka_unit_test_setup_teardown(test_port_soon_free, setup, teardown),
        cmocka_unit_test_setup_teardown(test_port_again, setup, teardown),
        cmocka_unit_test_setup_teardown(test_forked_child, setup, teardown),
        cmocka_unit_test_setup_teardown(test_early_client, setup, teardown),
        cmocka_unit_test_setup_teardown(test_all_addresses, setup, teardown),
        cmocka_unit_test_setup_teardown(test_out_of_descriptors, setup, teardown),
        cmocka_unit_test_setup_teardown(test_tell, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
