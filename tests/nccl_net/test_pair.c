// SPDX-License-Identifier: MIT
// A sender and a receiver, in two processes and in two threads of one, in each version of the interface.
#include "tests/nccl_net/proxy.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

static const size_t mixed[] = {0,    1,     7,      63,     4095,   4096,
                               4097, 65537, 262144, 262145, 524288, 1000003};
#define COUNT(a) ((unsigned)(sizeof(a) / sizeof *(a)))

struct plan {
    int version;
    struct px_stream stream;
};

static struct plan plan_of(int version, unsigned count, unsigned depth, const size_t *sizes,
                           unsigned nsizes) {
    return (struct plan){.version = version,
                         .stream = {.seed = (uint64_t)version << 32,
                                    .count = count,
                                    .depth = depth,
                                    .sizes = sizes,
                                    .nsizes = nsizes}};
}

// ---- Two processes -------------------------------------------------------------------------------

static int sender(int fd, void *arg) {
    struct plan *plan = arg;
    struct px p;
    uint8_t handle[RDI_NCCL_HANDLE];
    px_load(&p, plan->version);
    px_read(fd, handle, sizeof handle);
    void *comm = px_connected(&p, 0, handle);
    px_send_stream(&p, comm, &plan->stream);
    px_close_send(&p, comm);
    px_unload(&p);
    return plan->stream.error;
}

static void run(struct plan plan) {
    struct px_child child;
    struct px p;
    uint8_t handle[RDI_NCCL_HANDLE];
    void *listen = NULL;
    px_fork(&child, sender, &plan);
    px_load(&p, plan.version);
    px_listen(&p, 0, handle, &listen);
    px_write(child.fd, handle, sizeof handle);
    void *comm = px_accepted(&p, listen);
    px_close_listen(&p, listen); // as NCCL does, before the first message
    px_recv_stream(&p, comm, &plan.stream);
    assert_int_equal(plan.stream.error, 0);
    assert_int_equal(plan.stream.done, plan.stream.count);
    px_close_recv(&p, comm);
    px_unload(&p);
    assert_int_equal(px_wait(&child), 0);
}

static void test_versions(void **state) {
    (void)state;
    for (int version = 8; version <= 12; version++) {
        struct plan plan = plan_of(version, 60, 8, mixed, COUNT(mixed));
        plan.stream.room = version == 10 ? 1000 : 0;
        run(plan);
    }
}

// As many as NCCL may have in flight, smaller than the room for them.
static void test_deep(void **state) {
    (void)state;
    static const size_t sizes[] = {100, 524288, 3};
    struct plan plan = plan_of(12, 300, PX_DEPTH, sizes, COUNT(sizes));
    plan.stream.room = 4096;
    run(plan);
}

static void test_big(void **state) {
    (void)state;
    static const size_t sizes[] = {64u << 20, 5, (64u << 20) + 1};
    run(plan_of(12, 3, 2, sizes, COUNT(sizes)));
}

// Memory that was not registered: slower at most.
static void test_unregistered(void **state) {
    (void)state;
    struct plan plan = plan_of(11, 40, 8, mixed, COUNT(mixed));
    plan.stream.unregistered = true;
    run(plan);
}

// ---- Two threads of one process ------------------------------------------------------------------

struct thread {
    pthread_t id;
    struct px *p;
    uint8_t handle[RDI_NCCL_HANDLE];
    struct px_stream stream;
};

static void *send_thread(void *arg) {
    struct thread *t = arg;
    void *comm = px_connected(t->p, 0, t->handle);
    px_send_stream(t->p, comm, &t->stream);
    px_close_send(t->p, comm);
    return NULL;
}

static void test_threads(void **state) {
    (void)state;
    struct px p;
    void *listen = NULL;
    struct thread t = {.p = &p};
    px_load(&p, 11);
    t.stream = plan_of(11, 80, 16, mixed, COUNT(mixed)).stream;
    struct px_stream in = t.stream;
    px_listen(&p, 0, t.handle, &listen);
    px_check(pthread_create(&t.id, NULL, send_thread, &t) == 0);
    void *comm = px_accepted(&p, listen);
    px_close_listen(&p, listen);
    px_recv_stream(&p, comm, &in);
    pthread_join(t.id, NULL);
    assert_int_equal(in.error, 0);
    assert_int_equal(t.stream.error, 0);
    px_close_recv(&p, comm);
    px_unload(&p);
}

// ---- What is not a message -----------------------------------------------------------------------

static void test_rest(void **state) {
    (void)state;
    struct px p;
    struct rdi_nccl_props_v12 props;
    uint8_t handle[RDI_NCCL_HANDLE];
    void *listen = NULL, *request = handle;
    px_load(&p, 12);
    const struct rdi_nccl_net_v12 *t = p.table;
    int n = px_devices(&p);
    assert_true(n >= 1);
    for (int i = 0; i < n; i++) {
        memset(&props, 0xff, sizeof props);
        assert_int_equal(t->get_properties(i, &props), RDI_NCCL_SUCCESS);
        assert_true(props.name != NULL && strlen(props.name) > 0);
        assert_true(props.pci_path == NULL || strncmp(props.pci_path, "/sys/", 5) == 0);
        assert_int_equal(props.ptr_support, RDI_NCCL_PTR_HOST);
        assert_true(props.speed > 0 && props.latency > 0 && props.max_comms > 1000);
        assert_int_equal(props.max_recvs, 1);
        assert_int_equal(props.fused.count, 1);
        assert_int_equal(props.fused.devices[0], i);
        assert_true(props.max_p2p > 0 && props.max_p2p <= (size_t)RDI_NCCL_MAX_BYTES);
        assert_true(px_logged("INFO", props.name, "option transport", NULL));
    }
    assert_int_not_equal(t->get_properties(n, &props), RDI_NCCL_SUCCESS);
    px_listen(&p, 0, handle, &listen);
    void *none = NULL;
    assert_int_equal(px_accept(&p, listen, &none), RDI_NCCL_SUCCESS);
    assert_null(none); // nobody is there, and it says so at once
    assert_int_equal(t->iflush(listen, 1, NULL, NULL, NULL, &request), RDI_NCCL_SUCCESS);
    assert_null(request);
    px_close_listen(&p, listen);
    px_unload(&p);
}

// CUDA memory is refused with words, not taken for host memory.
static void test_cuda_refused(void **state) {
    (void)state;
    struct px p;
    struct thread t = {.p = &p};
    void *listen = NULL;
    static const size_t one[] = {16};
    px_load(&p, 12);
    px_listen(&p, 0, t.handle, &listen);
    t.stream = (struct px_stream){.count = 1, .depth = 1, .sizes = one, .nsizes = 1};
    struct px_stream in = t.stream;
    px_check(pthread_create(&t.id, NULL, send_thread, &t) == 0);
    void *comm = px_accepted(&p, listen);
    assert_int_not_equal(px_reg_type(&p, comm, t.handle, 16, RDI_NCCL_PTR_CUDA), RDI_NCCL_SUCCESS);
    assert_true(px_logged("WARN", "type 2", NULL));
    px_recv_stream(&p, comm, &in);
    pthread_join(t.id, NULL);
    px_close_recv(&p, comm);
    px_close_listen(&p, listen);
    px_unload(&p);
}

int main(int argc, char **argv) {
    if (px_arguments(argc, argv) != 0) {
        return 2;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rest),         cmocka_unit_test(test_versions),
        cmocka_unit_test(test_deep),         cmocka_unit_test(test_big),
        cmocka_unit_test(test_unregistered), cmocka_unit_test(test_threads),
        cmocka_unit_test(test_cuda_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
