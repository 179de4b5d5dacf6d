// SPDX-License-Identifier: MIT
// Paths that are lost while both ends live: every message arrives once, whole and in order, and no call returns
// an error. Over tcp the connections are broken; over verbs the device is cut off for a while, and the tcp
// connections beside it as well.
#include "tests/nccl_net/proxy.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define LONG_GRACE "30s" // what is tested is that paths come back, not how soon on a busy machine

static const size_t sizes[] = {300000, 1, 524288, 0, 2500000, 65536};

static bool over_verbs(void) {
    const char *wire = getenv("RONDO_TRANSPORT");
    return wire != NULL && strcmp(wire, "verbs") == 0;
}

// The fake library is loaded already, by the plugin.
static void cut_verbs(const char *faults) {
    void *lib = dlopen("libibverbs.so.1", RTLD_NOW | RTLD_LOCAL);
    px_check(lib != NULL);
    int (*control)(const char *, const char *);
    void *symbol = dlsym(lib, "fake_verbs_control");
    px_check(symbol != NULL);
    memcpy(&control, &symbol, sizeof control);
    px_check(control(NULL, faults) > 0);
    dlclose(lib);
}

struct cuts {
    unsigned every, count;
    bool tcp;
};

static void cut_now_and_then(void *arg, unsigned done) {
    struct cuts *c = arg;
    if (done % c->every != 0) {
        return;
    }
    if (over_verbs() && !c->tcp) {
        cut_verbs("cut=0:150");
        c->count++;
    } else {
        c->count += px_cut_tcp() > 0;
    }
}

struct plan {
    struct px_stream stream;
    struct cuts cuts;
    bool sender_cuts;
};

static int sender(int fd, void *arg) {
    struct plan *plan = arg;
    struct px p;
    uint8_t handle[RDI_NCCL_HANDLE];
    px_load(&p, 12);
    px_read(fd, handle, sizeof handle);
    void *comm = px_connected(&p, 0, handle);
    if (plan->sender_cuts) {
        plan->stream.each = cut_now_and_then;
        plan->stream.arg = &plan->cuts;
    }
    px_send_stream(&p, comm, &plan->stream);
    px_check(plan->stream.error == 0 && plan->stream.done == plan->stream.count);
    px_check(!plan->sender_cuts || plan->cuts.count > 0);
    px_check(px_logged("path lost, trying again", NULL));
    px_check(px_logged("is up again", NULL) || over_verbs());
    px_close_send(&p, comm);
    px_unload(&p);
    return 0;
}

static void run(bool sender_cuts, bool tcp) {
    struct plan plan = {.stream = {.seed = 9,
                                   .count = 200,
                                   .depth = 8,
                                   .sizes = sizes,
                                   .nsizes = sizeof sizes / sizeof *sizes},
                        .cuts = {.every = 47, .tcp = tcp},
                        .sender_cuts = sender_cuts};
    struct px_child child;
    struct px p;
    uint8_t handle[RDI_NCCL_HANDLE];
    void *listen = NULL;
    px_fork(&child, sender, &plan);
    px_load(&p, 12);
    px_listen(&p, 0, handle, &listen);
    px_write(child.fd, handle, sizeof handle);
    void *comm = px_accepted(&p, listen);
    px_close_listen(&p, listen);
    if (!sender_cuts) {
        plan.stream.each = cut_now_and_then;
        plan.stream.arg = &plan.cuts;
    }
    px_recv_stream(&p, comm, &plan.stream);
    assert_int_equal(plan.stream.error, 0);
    assert_int_equal(plan.stream.done, plan.stream.count);
    px_close_recv(&p, comm);
    px_unload(&p);
    assert_int_equal(px_wait(&child), 0);
}

static void test_sender_cuts(void **state) {
    (void)state;
    run(true, false);
}

static void test_receiver_cuts(void **state) {
    (void)state;
    run(false, false);
}

// ---- While NCCL is elsewhere ---------------------------------------------------------------------

struct pair {
    struct px p;
    uint8_t handle[RDI_NCCL_HANDLE];
    void *out;
};

static void *connect_thread(void *arg) {
    struct pair *q = arg;
    q->out = px_connected(&q->p, 0, q->handle);
    return NULL;
}

static int test_until(struct px *p, void *request, unsigned ms) {
    int done = 0, size = 0;
    unsigned idle = 0;
    for (uint64_t end = px_now() + ms * UINT64_C(1000000); !done && px_now() < end;) {
        px_check(px_test(p, request, &done, &size) == 0);
        px_idle(&idle);
    }
    return done;
}

// The receiving side makes no call for longer than a lost path may take to come back (path_grace). That a
// thread of the plugin looks after its links is what the sender lives by.
static void test_while_idle(void **state) {
    (void)state;
    struct pair q;
    pthread_t thread;
    void *listen = NULL, *request = NULL;
    char from[16] = "after the cut", to[16] = "";
    setenv("RONDO_PATH_GRACE", "1500ms", 1);
    px_load(&q.p, 12);
    setenv("RONDO_PATH_GRACE", LONG_GRACE, 1);
    px_listen(&q.p, 0, q.handle, &listen);
    px_check(pthread_create(&thread, NULL, connect_thread, &q) == 0);
    void *in = px_accepted(&q.p, listen);
    pthread_join(thread, NULL);
    px_close_listen(&q.p, listen);
    if (over_verbs()) {
        cut_verbs("cut=0:150");
    } else {
        assert_true(px_cut_tcp() > 0);
    }
    // Sent and acknowledged while nobody calls for the receiving comm.
    assert_int_equal(px_isend(&q.p, q.out, from, sizeof from, NULL, &request), 0);
    assert_non_null(request);
    assert_int_equal(test_until(&q.p, request, 10000), 1);
    usleep(3000000);
    assert_int_equal(px_irecv(&q.p, in, to, sizeof to, NULL, &request), 0);
    assert_non_null(request);
    assert_int_equal(test_until(&q.p, request, 10000), 1);
    assert_string_equal(to, from);
    px_close_send(&q.p, q.out);
    px_close_recv(&q.p, in);
    px_unload(&q.p);
}

int main(int argc, char **argv) {
    if (px_arguments(argc, argv) != 0) {
        return 2;
    }
    // So that a device which is cut off is noticed within the cut.
    setenv("RONDO_VERBS_TIMEOUT", "4ms", 1);
    setenv("RONDO_PATH_GRACE", LONG_GRACE, 1);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sender_cuts),
        cmocka_unit_test(test_receiver_cuts),
        cmocka_unit_test(test_while_idle),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
