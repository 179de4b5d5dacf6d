// SPDX-License-Identifier: MIT
// What only verbs has: a device for each port, and sources that the device reads in place. Over the fake library,
// with two ports that, as separate rails do, reach those of their own number only.
#include "tests/nccl_net/proxy.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define BIG (8u << 20)

static long count(const char *what) {
    void *lib = dlopen("libibverbs.so.1", RTLD_NOW | RTLD_LOCAL);
    px_check(lib != NULL);
    long (*fake_verbs_count)(const char *);
    void *symbol = dlsym(lib, "fake_verbs_count");
    px_check(symbol != NULL);
    memcpy(&fake_verbs_count, &symbol, sizeof fake_verbs_count);
    long n = fake_verbs_count(what);
    dlclose(lib);
    return n;
}

struct pair {
    struct px p;
    int dev;
    uint8_t handle[RDI_NCCL_HANDLE];
    void *out, *in;
};

static void *connect_thread(void *arg) {
    struct pair *q = arg;
    q->out = px_connected(&q->p, q->dev, q->handle);
    return NULL;
}

static void pair_open(struct pair *q, int dev) {
    pthread_t thread;
    void *listen = NULL;
    q->dev = dev;
    px_listen(&q->p, dev, q->handle, &listen);
    px_check(pthread_create(&thread, NULL, connect_thread, q) == 0);
    q->in = px_accepted(&q->p, listen);
    pthread_join(thread, NULL);
    px_close_listen(&q->p, listen);
}

static void pair_close(struct pair *q) {
    px_close_send(&q->p, q->out);
    px_close_recv(&q->p, q->in);
}

static void move(struct pair *q, char *from, char *to, void *mh) {
    void *in = NULL, *out = NULL;
    int din = 0, dout = 0, size = 0;
    unsigned idle = 0;
    px_fill(from, BIG, 77);
    memset(to, 0, BIG);
    px_check(px_irecv(&q->p, q->in, to, BIG, NULL, &in) == 0);
    px_check(px_isend(&q->p, q->out, from, BIG, mh, &out) == 0);
    while (!din || !dout) {
        px_check(din || px_test(&q->p, in, &din, &size) == 0);
        px_check(dout || px_test(&q->p, out, &dout, &size) == 0);
        px_idle(&idle);
    }
    px_check(px_matches(to, BIG, 77));
}

// Registered memory is registered with the device as a whole and nothing beside it; other memory is not, and
// goes through a staging buffer.
static void test_in_place(void **state) {
    (void)state;
    struct pair q;
    char *from = malloc(BIG), *to = malloc(BIG);
    px_load(&q.p, 12);
    pair_open(&q, 0);
    void *mh = px_reg(&q.p, q.out, from, BIG);
    long before = count("registered_bytes");
    move(&q, from, to, mh);
    assert_int_equal(count("registered_bytes") - before, BIG);
    move(&q, from, to, mh); // once for all
    assert_int_equal(count("registered_bytes") - before, BIG);
    px_dereg(&q.p, q.out, mh);
    move(&q, from, to, NULL);
    long staged = count("registered_bytes") - before;
    assert_true(staged > 0 && staged < BIG);
    pair_close(&q);
    px_unload(&q.p);
    free(from);
    free(to);
}

static void test_rails(void **state) {
    (void)state;
    struct rdi_nccl_props_v12 props[2];
    struct pair q[2];
    px_load(&q[0].p, 12);
    q[1].p = q[0].p;
    const struct rdi_nccl_net_v12 *t = q[0].p.table;
    assert_int_equal(px_devices(&q[0].p), 2);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(t->get_properties(i, &props[i]), 0);
        assert_int_equal(props[i].port, 1);
        pair_open(&q[i], i);
    }
    assert_string_equal(props[0].name, "fake0:1");
    assert_string_equal(props[1].name, "fake1:1");
    assert_true(px_logged("connected device 1 (fake1:1)", NULL));
    char *from = malloc(BIG), *to = malloc(BIG);
    move(&q[0], from, to, NULL);
    move(&q[1], from, to, NULL);
    pair_close(&q[0]);
    pair_close(&q[1]);
    px_unload(&q[0].p);
    free(from);
    free(to);
}

// ---- Hosts that differ ---------------------------------------------------------------------------

static const size_t sizes[] = {100000, 3};
static const struct px_stream some = {
    .seed = 8, .count = 20, .depth = 4, .sizes = sizes, .nsizes = 2};

static int tcp_receiver(int fd, void *arg) {
    (void)arg;
    struct px p;
    uint8_t handle[RDI_NCCL_HANDLE];
    void *listen = NULL;
    struct px_stream s = some;
    unsetenv("FAKE_VERBS_DIR"); // no device
    setenv("RONDO_TRANSPORT", "auto", 1);
    px_load(&p, 12);
    px_check(px_logged("over tcp", "transport=auto and", "RDMA", NULL));
    px_listen(&p, 0, handle, &listen);
    px_write(fd, handle, sizeof handle);
    void *comm = px_accepted(&p, listen);
    px_recv_stream(&p, comm, &s);
    px_close_recv(&p, comm);
    px_close_listen(&p, listen);
    px_unload(&p);
    return s.error;
}

// Who has RDMA sends over TCP to those that have none.
static void test_tcp_receiver(void **state) {
    (void)state;
    struct px_child child;
    struct px p;
    uint8_t handle[RDI_NCCL_HANDLE];
    struct px_stream s = some;
    px_fork(&child, tcp_receiver, NULL);
    setenv("RONDO_TRANSPORT", "auto", 1);
    px_load(&p, 12);
    setenv("RONDO_TRANSPORT", "verbs", 1);
    assert_true(px_logged("device 0: fake0:1 over verbs", NULL));
    px_read(child.fd, handle, sizeof handle);
    void *comm = px_connected(&p, 0, handle);
    px_send_stream(&p, comm, &s);
    assert_int_equal(s.error, 0);
    px_close_send(&p, comm);
    px_unload(&p);
    assert_int_equal(px_wait(&child), 0);
}

static int tcp_sender(int fd, void *arg) {
    struct px p;
    uint8_t handle[RDI_NCCL_HANDLE];
    void *comm = NULL;
    int r = 0;
    unsigned idle = 0;
    const char *transport = arg;
    if (strcmp(transport, "auto") == 0) {
        unsetenv("FAKE_VERBS_DIR");
    }
    setenv("RONDO_TRANSPORT", transport, 1);
    px_load(&p, 12);
    px_read(fd, handle, sizeof handle);
    for (uint64_t end = px_now() + UINT64_C(20000000000); r == 0 && comm == NULL;) {
        px_check(px_now() < end);
        r = px_connect(&p, 0, handle, &comm);
        px_idle(&idle);
    }
    px_check(r == RDI_NCCL_SYSTEM);
    px_check(px_logged("WARN", "RONDO_TRANSPORT", "on all", NULL));
    px_unload(&p);
    return 0;
}

// The other way round there is no way, and a choice that was made is not overruled.
static void test_tcp_sender(void **state) {
    (void)state;
    static char *const transports[] = {"auto", "tcp"};
    for (unsigned i = 0; i < 2; i++) {
        struct px_child child;
        struct px p;
        uint8_t handle[RDI_NCCL_HANDLE];
        void *listen = NULL;
        px_fork(&child, tcp_sender, transports[i]);
        px_load(&p, 12);
        px_listen(&p, 0, handle, &listen);
        px_write(child.fd, handle, sizeof handle);
        assert_int_equal(px_wait(&child), 0); // the plugin's thread answers it
        px_close_listen(&p, listen);
        px_unload(&p);
    }
}

int main(int argc, char **argv) {
    if (px_arguments(argc, argv) != 0) {
        return 2;
    }
    setenv("FAKE_VERBS_DEVICES", "2", 1);
    setenv("FAKE_VERBS_ISOLATE", "1", 1);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_in_place),
        cmocka_unit_test(test_rails),
        cmocka_unit_test(test_tcp_receiver),
        cmocka_unit_test(test_tcp_sender),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
