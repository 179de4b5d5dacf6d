// SPDX-License-Identifier: MIT
// Many comms at once, each driven by a thread of its own, in both directions between two processes; and what is
// left of them when they are closed.
#include "tests/nccl_net/proxy.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define COMMS 12

static const size_t sizes[] = {4096, 0, 131072, 77, 524288, 1};

struct line {
    pthread_t thread;
    const struct px *p;
    unsigned index;
    bool sends;
    void *listen;
    uint8_t handle[RDI_NCCL_HANDLE];
    struct px_stream stream;
};

static void *drive(void *arg) {
    struct line *l = arg;
    void *comm = l->sends ? px_connected(l->p, 0, l->handle) : px_accepted(l->p, l->listen);
    l->stream = (struct px_stream){.seed = l->index * 1000u,
                                   .count = 60,
                                   .depth = 4 + l->index,
                                   .sizes = sizes,
                                   .nsizes = sizeof sizes / sizeof *sizes};
    if (l->sends) {
        px_send_stream(l->p, comm, &l->stream);
        px_close_send(l->p, comm);
    } else {
        px_close_listen(l->p, l->listen);
        px_recv_stream(l->p, comm, &l->stream);
        px_close_recv(l->p, comm);
    }
    return NULL;
}

// Lines of even number go from the child to the parent, the others back.
static void run(int fd, bool parent) {
    struct px p;
    static struct line lines[COMMS];
    memset(lines, 0, sizeof lines);
    px_load(&p, 12);
    for (unsigned i = 0; i < COMMS; i++) {
        lines[i] = (struct line){.p = &p, .index = i, .sends = parent == (i % 2 == 1)};
        if (!lines[i].sends) {
            px_listen(&p, 0, lines[i].handle, &lines[i].listen);
            px_write(fd, lines[i].handle, sizeof lines[i].handle);
        }
    }
    for (unsigned i = 0; i < COMMS; i++) {
        if (lines[i].sends) {
            px_read(fd, lines[i].handle, sizeof lines[i].handle);
        }
    }
    for (unsigned i = 0; i < COMMS; i++) {
        px_check(pthread_create(&lines[i].thread, NULL, drive, &lines[i]) == 0);
    }
    for (unsigned i = 0; i < COMMS; i++) {
        pthread_join(lines[i].thread, NULL);
        px_check(lines[i].stream.error == 0 && lines[i].stream.done == lines[i].stream.count);
    }
    px_unload(&p);
}

static int child_run(int fd, void *arg) {
    (void)arg;
    run(fd, false);
    return 0;
}

static void test_many(void **state) {
    (void)state;
    struct px_child child;
    px_fork(&child, child_run, NULL);
    run(child.fd, true);
    assert_int_equal(px_wait(&child), 0);
}

// Several processes' worth of connections to one listen: NCCL makes one, the interface allows more.
static void test_one_listen(void **state) {
    (void)state;
    struct px p;
    struct line out[3];
    uint8_t handle[RDI_NCCL_HANDLE];
    void *listen = NULL, *comms[3];
    px_load(&p, 12);
    px_listen(&p, 0, handle, &listen);
    for (unsigned i = 0; i < 3; i++) {
        out[i] = (struct line){.p = &p, .index = 7, .sends = true};
        memcpy(out[i].handle, handle, sizeof handle);
        px_check(pthread_create(&out[i].thread, NULL, drive, &out[i]) == 0);
    }
    for (unsigned i = 0; i < 3; i++) {
        comms[i] = px_accepted(&p, listen);
    }
    for (unsigned i = 0; i < 3; i++) {
        struct px_stream in = {.seed = 7000,
                               .count = 60,
                               .depth = 8,
                               .sizes = sizes,
                               .nsizes = sizeof sizes / sizeof *sizes};
        px_recv_stream(&p, comms[i], &in);
        assert_int_equal(in.error, 0);
        px_close_recv(&p, comms[i]);
    }
    for (unsigned i = 0; i < 3; i++) {
        pthread_join(out[i].thread, NULL);
    }
    px_close_listen(&p, listen);
    px_unload(&p);
}

static void once_within(int version) {
    struct px p;
    struct line out = {.p = &p, .index = 3, .sends = true};
    void *listen = NULL;
    px_load(&p, version);
    px_listen(&p, 0, out.handle, &listen);
    px_check(pthread_create(&out.thread, NULL, drive, &out) == 0);
    struct line in = {.p = &p, .index = 3, .listen = listen};
    drive(&in);
    pthread_join(out.thread, NULL);
    px_unload(&p);
}

// Threads and descriptors end with the last comm, also where the interface has no finalize().
static void test_nothing_left(void **state) {
    (void)state;
    once_within(12); // what is loaded once and stays, such as libibverbs
    unsigned fds = px_count_fds(), threads = px_count_threads();
    for (int version = 8; version <= 12; version++) {
        once_within(version);
        assert_int_equal(px_count_fds(), fds);
        assert_int_equal(px_count_threads(), threads);
    }
}

int main(int argc, char **argv) {
    if (px_arguments(argc, argv) != 0) {
        return 2;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_nothing_left),
        cmocka_unit_test(test_many),
        cmocka_unit_test(test_one_listen),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
