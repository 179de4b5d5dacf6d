// SPDX-License-Identifier: MIT
// Peers that are killed, listens that are closed, strangers, wrong keys, wrong sizes: an error within seconds
// that says what happened, and never a hang.
#include "tests/nccl_net/proxy.h"

#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define SECONDS(ns) ((double)(ns) / 1e9)
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
#define SOON 20.0
#else
#define SOON 8.0
#endif

static const size_t sizes[] = {100000, 17, 524288};
static const struct px_stream endless = {
    .seed = 5, .count = 1u << 30, .depth = 8, .sizes = sizes, .nsizes = 3};

// ---- A peer that is killed -----------------------------------------------------------------------

struct killed {
    bool child_sends;
};

static void die_after_some(void *arg, unsigned done) {
    (void)arg;
    if (done == 20) {
        kill(getpid(), SIGKILL);
    }
}

static int short_life(int fd, void *arg) {
    const struct killed *k = arg;
    struct px p;
    uint8_t handle[RDI_NCCL_HANDLE];
    void *listen = NULL;
    struct px_stream s = endless;
    s.each = die_after_some;
    px_load(&p, 12);
    if (k->child_sends) {
        px_read(fd, handle, sizeof handle);
        px_send_stream(&p, px_connected(&p, 0, handle), &s);
    } else {
        px_listen(&p, 0, handle, &listen);
        px_write(fd, handle, sizeof handle);
        px_recv_stream(&p, px_accepted(&p, listen), &s);
    }
    return 1; // not reached
}

static void run_killed(bool child_sends) {
    struct killed k = {.child_sends = child_sends};
    struct px_child child;
    struct px p;
    uint8_t handle[RDI_NCCL_HANDLE];
    void *listen = NULL, *comm;
    struct px_stream s = endless;
    char number[32];
    px_fork(&child, short_life, &k);
    snprintf(number, sizeof number, "process %d", (int)child.pid);
    px_load(&p, 12);
    if (child_sends) {
        px_listen(&p, 0, handle, &listen);
        px_write(child.fd, handle, sizeof handle);
        comm = px_accepted(&p, listen);
        px_close_listen(&p, listen);
    } else {
        px_read(child.fd, handle, sizeof handle);
        comm = px_connected(&p, 0, handle);
    }
    uint64_t begin = px_now();
    if (child_sends) {
        px_recv_stream(&p, comm, &s);
    } else {
        px_send_stream(&p, comm, &s);
    }
    double seconds = SECONDS(px_now() - begin);
    assert_int_equal(s.error, RDI_NCCL_REMOTE);
    // A sender that counts to 20 was told so; one that we are may not have been told of the last 8.
    assert_in_range(s.done, child_sends ? 20 : 12, 10000000);
    assert_true(seconds < SOON);
    assert_true(px_logged("WARN", number, "device 0", "RONDO_ERR_PEER", NULL));
    // It is over for good.
    void *request = NULL;
    assert_int_equal(child_sends ? px_irecv(&p, comm, handle, 1, NULL, &request)
                                 : px_isend(&p, comm, handle, 1, NULL, &request),
                     RDI_NCCL_REMOTE);
    assert_null(request);
    if (child_sends) {
        px_close_recv(&p, comm);
    } else {
        px_close_send(&p, comm);
    }
    px_unload(&p);
    assert_int_equal(px_wait(&child), 128 + SIGKILL);
}

static void test_sender_killed(void **state) {
    (void)state;
    run_killed(true);
}

static void test_receiver_killed(void **state) {
    (void)state;
    run_killed(false);
}

// ---- A comm in one process -----------------------------------------------------------------------

struct pair {
    struct px p;
    uint8_t handle[RDI_NCCL_HANDLE];
    void *listen, *out, *in;
    pthread_t thread;
};

static void *connect_thread(void *arg) {
    struct pair *q = arg;
    q->out = px_connected(&q->p, 0, q->handle);
    return NULL;
}

static void pair_open(struct pair *q) {
    memset(q, 0, sizeof *q);
    px_load(&q->p, 12);
    px_listen(&q->p, 0, q->handle, &q->listen);
    px_check(pthread_create(&q->thread, NULL, connect_thread, q) == 0);
    q->in = px_accepted(&q->p, q->listen);
    pthread_join(q->thread, NULL);
    px_close_listen(&q->p, q->listen);
}

static int wait_request(struct px *p, void *request) {
    int done = 0, size = 0, r = 0;
    unsigned idle = 0;
    uint64_t begin = px_now();
    while (!done && r == 0) {
        px_check(SECONDS(px_now() - begin) < SOON);
        r = px_test(p, request, &done, &size);
        px_idle(&idle);
    }
    return r;
}

// A peer that closes its end while we wait for it: as when NCCL aborts there.
static void test_closed_by_peer(void **state) {
    (void)state;
    struct pair q;
    char byte;
    void *request = NULL;
    pair_open(&q);
    assert_int_equal(px_irecv(&q.p, q.in, &byte, 1, NULL, &request), 0);
    px_close_send(&q.p, q.out);
    assert_int_equal(wait_request(&q.p, request), RDI_NCCL_REMOTE);
    assert_true(px_logged("WARN", "receiving from", "closed its end", NULL));
    px_close_recv(&q.p, q.in);
    px_unload(&q.p);

    pair_open(&q);
    char *big = calloc(1, 64u << 20);
    assert_int_equal(px_isend(&q.p, q.out, big, 64u << 20, NULL, &request), 0);
    px_close_recv(&q.p, q.in);
    assert_int_equal(wait_request(&q.p, request), RDI_NCCL_REMOTE);
    px_close_send(&q.p, q.out);
    px_unload(&q.p);
    free(big);
}

// More is sent than the receive has room for.
static void test_too_long(void **state) {
    (void)state;
    struct pair q;
    char to[64], from[65] = "";
    void *in = NULL, *out = NULL;
    pair_open(&q);
    memset(to, 0x55, sizeof to);
    assert_int_equal(px_irecv(&q.p, q.in, to, 64 - 8, NULL, &in), 0);
    assert_int_equal(px_isend(&q.p, q.out, from, 65, NULL, &out), 0);
    assert_int_equal(wait_request(&q.p, in), RDI_NCCL_USAGE);
    assert_true(px_logged("WARN", "65 bytes into a receive of 56", "RONDO_ERR_MISMATCH", NULL));
    assert_int_equal(to[56], 0x55);
    px_close_send(&q.p, q.out);
    px_close_recv(&q.p, q.in);
    px_unload(&q.p);
}

// What a request can be asked for in the end: no more than there is room for, and all of it in order.
static void test_no_room(void **state) {
    (void)state;
    struct pair q;
    static char from[1024], to[1024];
    void *in[1024], *out[1024];
    unsigned n = 0;
    pair_open(&q);
    do {
        assert_int_equal(px_irecv(&q.p, q.in, &to[n], 1, NULL, &in[n]), 0);
    } while (in[n] != NULL && ++n < 1024);
    assert_true(q.p.version == 12);
    const struct rdi_nccl_net_v12 *t = q.p.table;
    void *data[2] = {to, to}, *mhandles[2] = {NULL, NULL}, *request = to;
    size_t two[2] = {1, 1};
    int tags[2] = {0, 1};
    // A group of two receives is more than the properties promise.
    assert_int_equal(t->irecv(q.in, 2, data, two, tags, mhandles, NULL, &request),
                     RDI_NCCL_INTERNAL);
    assert_null(request);
    assert_in_range(n, RDI_NCCL_REQUESTS, 1023);
    for (unsigned i = 0; i < n; i++) {
        from[i] = (char)(i * 7);
        assert_int_equal(px_isend(&q.p, q.out, &from[i], 1, NULL, &out[i]), 0);
        assert_non_null(out[i]);
    }
    for (unsigned i = n; i-- > 0;) { // tested in any order
        int done = 0, size = 0;
        assert_int_equal(px_test(&q.p, out[i], &done, &size), 0);
        assert_int_equal(wait_request(&q.p, in[i]), 0);
        assert_int_equal(to[i], from[i]);
        if (!done) {
            assert_int_equal(wait_request(&q.p, out[i]), 0);
        }
    }
    px_close_send(&q.p, q.out);
    px_close_recv(&q.p, q.in);
    px_unload(&q.p);
}

// ---- Those who should not come in ----------------------------------------------------------------

static int connect_result(struct px *p, void *handle) {
    void *comm = NULL;
    int r = 0;
    unsigned idle = 0;
    uint64_t begin = px_now();
    while (comm == NULL && r == 0) {
        px_check(SECONDS(px_now() - begin) < SOON);
        r = px_connect(p, 0, handle, &comm);
        px_idle(&idle);
    }
    px_check(r != 0);
    return r;
}

struct polled {
    struct px *p;
    void *listen;
    _Atomic(void *) comm;
    _Atomic bool stop;
};

static void *poll_accept(void *arg) {
    struct polled *q = arg;
    unsigned idle = 0;
    void *comm = NULL;
    while (!q->stop && comm == NULL) {
        px_check(px_accept(q->p, q->listen, &comm) == 0);
        px_idle(&idle);
    }
    q->comm = comm;
    return NULL;
}

// Bytes of no protocol, to each port that this process listens on.
static unsigned bother_all_ports(void) {
    unsigned ports = 0;
    for (int fd = 3; fd < 256; fd++) {
        struct sockaddr_in a;
        socklen_t len = sizeof a;
        int listens = 0;
        socklen_t n = sizeof listens;
        if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &n) != 0 || !listens ||
            getsockname(fd, (struct sockaddr *)&a, &len) != 0 || a.sin_family != AF_INET) {
            continue;
        }
        int s = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        px_check(connect(s, (struct sockaddr *)&a, sizeof a) == 0);
        (void)!write(s, "GET / HTTP/1.1\r\n\r\n", 18);
        usleep(20000);
        close(s);
        ports++;
    }
    return ports;
}

static void test_strangers(void **state) {
    (void)state;
    struct px p;
    uint8_t handle[RDI_NCCL_HANDLE], wrong[RDI_NCCL_HANDLE];
    struct polled q = {.p = &p};
    pthread_t thread;
    px_load(&p, 12);
    px_listen(&p, 0, handle, &q.listen);
    px_check(pthread_create(&thread, NULL, poll_accept, &q) == 0);
    assert_true(bother_all_ports() > 0);
    // One bit of the key, somewhere behind the first word.
    memcpy(wrong, handle, sizeof wrong);
    wrong[20] ^= 1;
    assert_int_equal(connect_result(&p, wrong), RDI_NCCL_REMOTE);
    assert_true(px_logged("WARN", "cannot connect", "RONDO_ERR_AUTH", NULL));
    assert_null(q.comm);
    // A number in the place where the attempt's token goes leads nowhere.
    memset(handle + RDI_NCCL_HANDLE - 8, 0x41, 8);
    void *comm = px_connected(&p, 0, handle);
    pthread_join(thread, NULL);
    assert_non_null(q.comm);
    px_close_send(&p, comm);
    px_close_recv(&p, q.comm);
    px_close_listen(&p, q.listen);
    px_unload(&p);
}

static void test_closed_listen(void **state) {
    (void)state;
    struct px p;
    uint8_t handle[RDI_NCCL_HANDLE], other[RDI_NCCL_HANDLE];
    void *listen = NULL;
    struct polled q = {.p = &p};
    pthread_t thread;
    px_load(&p, 12);
    // The process has others: its directory knows this one no more.
    px_listen(&p, 0, handle, &listen);
    px_listen(&p, 0, other, &q.listen);
    px_close_listen(&p, listen);
    px_check(pthread_create(&thread, NULL, poll_accept, &q) == 0);
    assert_int_equal(connect_result(&p, handle), RDI_NCCL_REMOTE);
    assert_true(px_logged("WARN", "cannot connect", "listens no more", NULL));
    q.stop = true;
    pthread_join(thread, NULL);
    px_close_listen(&p, q.listen);
    px_unload(&p);
}

// A listen that is closed after somebody connected and before it was accepted. Until then nobody polls here: the
// plugin's thread answers.
static void test_never_accepted(void **state) {
    (void)state;
    struct pair q = {.out = NULL};
    uint8_t handle[RDI_NCCL_HANDLE];
    void *other = NULL, *request = NULL;
    char byte = 1;
    px_load(&q.p, 12);
    px_listen(&q.p, 0, handle, &other); // keeps what both share
    px_listen(&q.p, 0, q.handle, &q.listen);
    q.out = px_connected(&q.p, 0, q.handle);
    px_close_listen(&q.p, q.listen);
    int r = px_isend(&q.p, q.out, &byte, 1, NULL, &request);
    // The news may have come already.
    assert_int_equal(r == 0 ? wait_request(&q.p, request) : r, RDI_NCCL_REMOTE);
    px_close_send(&q.p, q.out);
    px_close_listen(&q.p, other);
    px_unload(&q.p);
}

static void test_foreign_handle(void **state) {
    (void)state;
    struct px p;
    uint8_t handle[RDI_NCCL_HANDLE] = {2, 0, 19, 137, 127, 0, 0, 1}; // a socket address
    void *comm = NULL;
    px_load(&p, 12);
    assert_int_equal(px_connect(&p, 0, handle, &comm), RDI_NCCL_USAGE);
    assert_null(comm);
    assert_true(px_logged("WARN", "not one of this plugin", NULL));
    px_unload(&p);
}

// ---- Options -------------------------------------------------------------------------------------

static void test_nobody_comes(void **state) {
    (void)state;
    struct px p;
    uint8_t handle[RDI_NCCL_HANDLE];
    void *listen = NULL, *comm = NULL;
    int r = 0;
    unsigned idle = 0;
    setenv("RONDO_CONNECT_TIMEOUT", "300ms", 1);
    px_load(&p, 12);
    unsetenv("RONDO_CONNECT_TIMEOUT");
    px_listen(&p, 0, handle, &listen);
    uint64_t begin = px_now();
    while (r == 0 && comm == NULL) {
        r = px_accept(&p, listen, &comm);
        px_idle(&idle);
        px_check(SECONDS(px_now() - begin) < SOON);
    }
    assert_int_equal(r, RDI_NCCL_REMOTE);
    assert_true(px_logged("WARN", "nobody connected", "connect_timeout", NULL));
    px_close_listen(&p, listen);
    px_unload(&p);
}

static void test_wrong_option(void **state) {
    (void)state;
    struct px p;
    const char *transport = getenv("RONDO_TRANSPORT");
    char *before = strdup(transport != NULL ? transport : "auto");
    setenv("RONDO_TRANSPORT", "shm", 1);
    assert_int_not_equal(px_try_init(&p, 12), 0);
    assert_true(px_logged("WARN", "shm is no wire for NCCL", NULL));
    setenv("RONDO_TRANSPORT", "pigeon", 1);
    assert_int_not_equal(px_try_init(&p, 12), 0);
    assert_true(px_logged("WARN", "pigeon", NULL));
    setenv("RONDO_TRANSPORT", before, 1);
    px_load(&p, 12); // and then it is as if nothing had been
    px_unload(&p);
    free(before);
}

int main(int argc, char **argv) {
    if (px_arguments(argc, argv) != 0) {
        return 2;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sender_killed),  cmocka_unit_test(test_receiver_killed),
        cmocka_unit_test(test_closed_by_peer), cmocka_unit_test(test_too_long),
        cmocka_unit_test(test_no_room),        cmocka_unit_test(test_strangers),
        cmocka_unit_test(test_closed_listen),  cmocka_unit_test(test_foreign_handle),
        cmocka_unit_test(test_never_accepted), cmocka_unit_test(test_nobody_comes),
        cmocka_unit_test(test_wrong_option),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
