// SPDX-License-Identifier: MIT
// How connections fail, and what survives.
#include "test_node.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

static struct node a, b;
static struct ibv_qp *qa, *qb;

static int up(void **state) {
    (void)state;
    node_fresh();
    setenv("FAKE_VERBS_LEAKS", "1", 1);
    node_open(&a, 0);
    setenv("FAKE_VERBS_HOST", "2", 1);
    node_open(&b, 0);
    return 0;
}

// Queue pairs that give up after about 0.13 s.
static struct node_options quick(void) {
    struct node_options o = node_options();
    o.timeout = 13;
    o.retries = 3;
    return o;
}

static void connect_both(const struct node_options *o) {
    qa = node_qp(&a, o);
    qb = node_qp(&b, o);
    assert_non_null(qa);
    assert_non_null(qb);
    node_connect(&a, qa, &b, qb, o);
}

static void drop_events(struct node *n) {
    struct pollfd p = {.fd = n->context->async_fd, .events = POLLIN};
    struct ibv_async_event e;
    while (poll(&p, 1, 0) == 1 && ibv_get_async_event(n->context, &e) == 0)
        ibv_ack_async_event(&e);
}

static int down(void **state) {
    (void)state;
    drop_events(&a);
    drop_events(&b);
    if (qa)
        assert_int_equal(ibv_destroy_qp(qa), 0);
    if (qb)
        assert_int_equal(ibv_destroy_qp(qb), 0);
    qa = qb = NULL;
    node_close(&a);
    node_close(&b);
    return 0;
}

static struct ibv_async_event event(struct node *n) {
    struct pollfd p = {.fd = n->context->async_fd, .events = POLLIN};
    struct ibv_async_event e;
    assert_int_equal(poll(&p, 1, 30000), 1);
    assert_int_equal(ibv_get_async_event(n->context, &e), 0);
    ibv_ack_async_event(&e);
    return e;
}

static void expect(struct node *n, enum ibv_wc_status status, uint64_t id) {
    struct ibv_wc wc = node_poll(n);
    if (wc.status != status)
        fail_msg("%s, not %s", ibv_wc_status_str(wc.status), ibv_wc_status_str(status));
    assert_int_equal(wc.wr_id, id);
}

static void send_empty(uint64_t id, unsigned flags) {
    struct ibv_send_wr wr = node_wr(IBV_WR_SEND, id, NULL, flags);
    node_post(qa, &wr);
}

static void write_bytes(uint64_t id, size_t bytes, size_t offset, uint32_t rkey) {
    struct ibv_sge sge = node_sge(&a, 0, bytes);
    struct ibv_send_wr wr = node_wr(IBV_WR_RDMA_WRITE, id, &sge, IBV_SEND_SIGNALED);
    node_target(&wr, &b, offset);
    wr.wr.rdma.rkey = rkey;
    node_post(qa, &wr);
}

static enum ibv_qp_state state_of(struct ibv_qp *qp) {
    struct ibv_qp_attr attr;
    struct ibv_qp_init_attr init;
    assert_int_equal(ibv_query_qp(qp, &attr, IBV_QP_STATE, &init), 0);
    return attr.qp_state;
}

// ---- Receiver not ready --------------------------------------------------------------------------

static void rnr_waits(void **state) {
    (void)state;
    struct node_options o = node_options();
    connect_both(&o);
    send_empty(1, IBV_SEND_SIGNALED);
    assert_true(node_quiet(&a, 100));
    node_recv(qb, &b, 2, 0, 64);
    expect(&b, IBV_WC_SUCCESS, 2);
    expect(&a, IBV_WC_SUCCESS, 1);
}

static void rnr_gives_up(void **state) {
    (void)state;
    struct node_options o = node_options();
    o.rnr_retries = 2;
    connect_both(&o);
    send_empty(1, 0);
    send_empty(2, 0);
    expect(&a, IBV_WC_RNR_RETRY_EXC_ERR, 1);
    expect(&a, IBV_WC_WR_FLUSH_ERR, 2);
    assert_int_equal(state_of(qa), IBV_QPS_ERR);
    assert_int_equal(state_of(qb), IBV_QPS_RTS);
}

// ---- Silence -------------------------------------------------------------------------------------

static void peer_destroyed(void **state) {
    (void)state;
    struct node_options o = quick();
    connect_both(&o);
    assert_int_equal(ibv_destroy_qp(qb), 0);
    qb = NULL;
    send_empty(1, 0);
    send_empty(2, 0);
    expect(&a, IBV_WC_RETRY_EXC_ERR, 1);
    expect(&a, IBV_WC_WR_FLUSH_ERR, 2);
}

static void cut_and_healed(void **state) {
    (void)state;
    struct node_options o = node_options();
    o.timeout = 16;
    connect_both(&o);
    assert_int_equal(fake_verbs_control("fake0", "cut=0:300"), 2);
    node_recv(qb, &b, 2, 0, 64);
    send_empty(1, IBV_SEND_SIGNALED);
    assert_true(node_quiet(&a, 100));
    expect(&b, IBV_WC_SUCCESS, 2);
    expect(&a, IBV_WC_SUCCESS, 1);
}

static void cut_by_file(void **state) {
    (void)state;
    struct node_options o = quick();
    connect_both(&o);
    char name[128];
    snprintf(name, sizeof name, "%s/faults.2.fake0", getenv("FAKE_VERBS_DIR"));
    FILE *f = fopen(name, "w");
    assert_non_null(f);
    fputs("cut=0\n", f);
    fclose(f);
    node_sleep(100);
    node_recv(qb, &b, 2, 0, 64);
    send_empty(1, IBV_SEND_SIGNALED);
    expect(&a, IBV_WC_RETRY_EXC_ERR, 1);
    assert_true(node_quiet(&b, 50));
}

// Each way to get the other's address or the path wrong is silence.
static void wrong_paths(void **state) {
    (void)state;
    struct node_options o = quick();
    for (int way = 0; way < 8; way++) {
        struct node_options oa = o, ob = o;
        struct node_address to_a, to_b;
        oa.gid_index = way < 3 ? (uint8_t)way : 3;
        ob.gid_index = oa.gid_index;
        if (way == 3)
            oa.mtu = IBV_MTU_512;
        if (way == 4)
            oa.mtu = ob.mtu = IBV_MTU_4096; // greater than the port's
        qa = node_qp(&a, &oa);
        qb = node_qp(&b, &ob);
        node_address(&a, qa, &oa, &to_a);
        node_address(&b, qb, &ob, &to_b);
        uint32_t psn = to_a.psn;
        if (way == 5)
            psn ^= 0x100;
        if (way == 6)
            to_a.qpn ^= 1;
        if (way == 7)
            to_a.gid.raw[15] ^= 1;
        assert_int_equal(node_init(qa, &oa) | node_init(qb, &ob), 0);
        assert_int_equal(node_rtr(qa, &oa, &to_b) | node_rtr(qb, &ob, &to_a), 0);
        assert_int_equal(node_rts(qa, &oa, psn), 0);
        node_recv(qb, &b, 9, 0, 64);
        send_empty(1, 0);
        expect(&a, IBV_WC_RETRY_EXC_ERR, 1);
        assert_true(node_quiet(&b, 1));
        assert_int_equal(ibv_destroy_qp(qa), 0);
        assert_int_equal(ibv_destroy_qp(qb), 0);
        qa = qb = NULL;
    }
}

// ---- Errors at the responder ---------------------------------------------------------------------

static void access_error(uint32_t rkey, size_t offset, int access, enum ibv_wc_status status) {
    struct node_options o = node_options();
    o.access = access;
    connect_both(&o);
    node_recv(qb, &b, 5, 0, 64);
    memset(b.memory, 0x11, 1000);
    memset(a.memory, 0x22, 1000);
    write_bytes(1, 0, offset, rkey); // nothing is written, nothing is checked
    write_bytes(2, 100, offset, rkey);
    write_bytes(3, 100, 0, b.mr->rkey);
    if (!(access & IBV_ACCESS_REMOTE_WRITE))
        expect(&a, status, 1);
    else
        expect(&a, IBV_WC_SUCCESS, 1);
    expect(&a, access & IBV_ACCESS_REMOTE_WRITE ? status : IBV_WC_WR_FLUSH_ERR, 2);
    expect(&a, IBV_WC_WR_FLUSH_ERR, 3);
    expect(&b, IBV_WC_WR_FLUSH_ERR, 5);
    struct ibv_async_event e = event(&b);
    assert_int_equal(e.event_type, status == IBV_WC_REM_ACCESS_ERR ? IBV_EVENT_QP_ACCESS_ERR
                                                                   : IBV_EVENT_QP_REQ_ERR);
    assert_ptr_equal(e.element.qp, qb);
    assert_int_equal(state_of(qa), IBV_QPS_ERR);
    assert_int_equal(state_of(qb), IBV_QPS_ERR);
    for (int i = 0; i < 1000; i++)
        assert_int_equal(b.memory[i], 0x11);
    assert_int_equal(ibv_destroy_qp(qa), 0);
    assert_int_equal(ibv_destroy_qp(qb), 0);
    qa = qb = NULL;
}

static void access_errors(void **state) {
    (void)state;
    access_error(b.mr->rkey ^ 0x100, 0, NODE_ALL, IBV_WC_REM_ACCESS_ERR);
    access_error(b.mr->lkey, 0, NODE_ALL, IBV_WC_REM_ACCESS_ERR);
    access_error(a.mr->rkey, 0, NODE_ALL, IBV_WC_REM_ACCESS_ERR);
    access_error(b.mr->rkey, NODE_BYTES - 99, NODE_ALL, IBV_WC_REM_ACCESS_ERR);
    access_error(b.mr->rkey, (size_t)-1, NODE_ALL, IBV_WC_REM_ACCESS_ERR);
    access_error(b.mr->rkey, 0, IBV_ACCESS_LOCAL_WRITE, IBV_WC_REM_INV_REQ_ERR);
    struct ibv_mr *mr =
        ibv_reg_mr(b.pd, b.memory, 4096, IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_READ);
    assert_non_null(mr);
    access_error(mr->rkey, 0, NODE_ALL, IBV_WC_REM_ACCESS_ERR);
    uint32_t old = mr->rkey;
    assert_int_equal(ibv_dereg_mr(mr), 0);
    access_error(old, 0, NODE_ALL, IBV_WC_REM_ACCESS_ERR);
}

static void too_long(void **state) {
    (void)state;
    struct node_options o = node_options();
    connect_both(&o);
    node_recv(qb, &b, 5, 0, 64);
    struct ibv_sge sge = node_sge(&a, 0, 65);
    struct ibv_send_wr wr = node_wr(IBV_WR_SEND, 1, &sge, 0);
    node_post(qa, &wr);
    expect(&b, IBV_WC_LOC_LEN_ERR, 5);
    expect(&a, IBV_WC_REM_INV_REQ_ERR, 1);
}

// ---- Flushing ------------------------------------------------------------------------------------

static void flush_all(void **state) {
    (void)state;
    struct node_options o = node_options();
    connect_both(&o);
    for (uint64_t i = 0; i < 3; i++)
        send_empty(i, 0); // nothing is there to receive it
    for (uint64_t i = 10; i < 13; i++)
        node_recv(qa, &a, i, 0, 64);
    struct ibv_qp_attr attr = {.qp_state = IBV_QPS_ERR};
    assert_int_equal(ibv_modify_qp(qa, &attr, IBV_QP_STATE), 0);
    send_empty(3, 0); // is flushed as well
    unsigned sends = 0, receives = 0;
    for (int i = 0; i < 7; i++) {
        struct ibv_wc wc = node_poll(&a);
        assert_int_equal(wc.status, IBV_WC_WR_FLUSH_ERR);
        assert_int_equal(wc.qp_num, qa->qp_num);
        if (wc.wr_id < 10)
            assert_int_equal(wc.wr_id, sends++);
        else
            assert_int_equal(wc.wr_id, 10 + receives++);
    }
    assert_int_equal(sends, 4);
    assert_int_equal(receives, 3);
    // RESET forgets everything, and the queue pair can be used anew.
    attr.qp_state = IBV_QPS_RESET;
    assert_int_equal(ibv_modify_qp(qa, &attr, IBV_QP_STATE), 0);
    assert_int_equal(ibv_modify_qp(qb, &attr, IBV_QP_STATE), 0);
    node_connect(&a, qa, &b, qb, &o);
    node_recv(qb, &b, 20, 0, 64);
    send_empty(21, IBV_SEND_SIGNALED);
    expect(&b, IBV_WC_SUCCESS, 20);
    expect(&a, IBV_WC_SUCCESS, 21);
}

static void queue_full(void **state) {
    (void)state;
    struct node_options o = node_options();
    o.send_wr = 3;
    connect_both(&o);
    for (uint64_t i = 0; i < 3; i++)
        send_empty(i, i == 0 ? IBV_SEND_SIGNALED : 0);
    struct ibv_send_wr *bad, wr[2] = {node_wr(IBV_WR_SEND, 3, NULL, IBV_SEND_SIGNALED),
                                      node_wr(IBV_WR_SEND, 4, NULL, 0)};
    wr[0].next = &wr[1];
    assert_int_equal(ibv_post_send(qa, wr, &bad), ENOMEM);
    assert_ptr_equal(bad, &wr[0]);
    for (int i = 0; i < 3; i++)
        node_recv(qb, &b, 0, 0, 64);
    node_sleep(50); // done, but not polled: the queue's places are not free yet
    assert_int_equal(ibv_post_send(qa, wr, &bad), ENOMEM);
    expect(&a, IBV_WC_SUCCESS, 0);
    assert_int_equal(ibv_post_send(qa, wr, &bad), ENOMEM); // one is free
    assert_ptr_equal(bad, &wr[1]);
    assert_int_equal(node_poll(&b).status, IBV_WC_SUCCESS);
}

// ---- Late placement ------------------------------------------------------------------------------

// The last byte is there long before the others now and then, and the completion only after all.
static void last_byte_first(void **state) {
    (void)state;
    struct node_options o = node_options();
    connect_both(&o);
    fake_verbs_control(NULL, "late,delay=100");
    enum { BYTES = 200000 };
    unsigned seen = 0;
    for (int i = 0; i < 200 && seen < 3; i++) {
        memset(a.memory, i % 100, BYTES);
        node_recv(qb, &b, 0, 0, 0);
        struct ibv_sge sge = node_sge(&a, 0, BYTES);
        struct ibv_send_wr wr = node_wr(IBV_WR_RDMA_WRITE_WITH_IMM, 1, &sge, IBV_SEND_SIGNALED);
        node_target(&wr, &b, 0);
        node_post(qa, &wr);
        struct ibv_wc wc;
        bool early = false;
        while (ibv_poll_cq(b.cq, 1, &wc) == 0) {
#ifndef __SANITIZE_THREAD__ // which sees what this does
            const volatile uint8_t *there = b.memory;
            early = early || (there[BYTES - 1] == i % 100 && there[0] != i % 100);
#else
            early = true;
#endif
        }
        assert_int_equal(wc.status, IBV_WC_SUCCESS);
        for (int k = 0; k < BYTES; k += 100)
            assert_int_equal(b.memory[k], i % 100);
        expect(&a, IBV_WC_SUCCESS, 1);
        seen += early;
    }
    assert_true(seen > 0);
}

// ---- Ports and devices ---------------------------------------------------------------------------

static void port_down(void **state) {
    (void)state;
    struct node_options o = node_options();
    o.timeout = 16;
    connect_both(&o);
    char name[128];
    snprintf(name, sizeof name, "%s/faults.1.fake0", getenv("FAKE_VERBS_DIR"));
    FILE *f = fopen(name, "w");
    assert_non_null(f);
    fputs("portdown=0:300", f);
    fclose(f);
    struct ibv_async_event e = event(&a);
    assert_int_equal(e.event_type, IBV_EVENT_PORT_ERR);
    assert_int_equal(e.element.port_num, 1);
    struct ibv_port_attr port;
    node_recv(qb, &b, 2, 0, 64);
    send_empty(1, IBV_SEND_SIGNALED);
    e = event(&a);
    assert_int_equal(e.event_type, IBV_EVENT_PORT_ACTIVE);
    assert_int_equal(ibv_query_port(a.context, 1, &port), 0);
    assert_int_equal(port.state, IBV_PORT_ACTIVE);
    expect(&b, IBV_WC_SUCCESS, 2);
    expect(&a, IBV_WC_SUCCESS, 1);
}

static void device_gone(void **state) {
    (void)state;
    struct node_options o = quick();
    connect_both(&o);
    node_recv(qa, &a, 7, 0, 64);
    char name[128];
    snprintf(name, sizeof name, "%s/faults.1.fake0", getenv("FAKE_VERBS_DIR"));
    FILE *f = fopen(name, "w");
    assert_non_null(f);
    fputs("gone=0", f);
    fclose(f);
    assert_int_equal(event(&a).event_type, IBV_EVENT_DEVICE_FATAL);
    expect(&a, IBV_WC_WR_FLUSH_ERR, 7);
    assert_null(ibv_reg_mr(a.pd, a.memory, 64, 0));
    assert_int_equal(errno, EIO);
    struct ibv_send_wr *bad, wr = node_wr(IBV_WR_SEND, 1, NULL, 0);
    assert_int_equal(ibv_post_send(qa, &wr, &bad), EIO);
    assert_int_equal(ibv_post_send(qb, &wr, &bad), 0);
    expect(&b, IBV_WC_RETRY_EXC_ERR, 1);
}

// ---- Limits and registration ---------------------------------------------------------------------

static void limits(void **state) {
    (void)state;
    fake_verbs_control(NULL, "inline=16,max_wr=8,max_cqe=4,regfail=2");
    struct ibv_device_attr attr;
    assert_int_equal(ibv_query_device(a.context, &attr), 0);
    assert_int_equal(attr.max_qp_wr, 8);
    assert_int_equal(attr.max_cqe, 4);
    assert_null(ibv_create_cq(a.context, 5, NULL, NULL, 0));
    struct node_options o = node_options();
    o.send_wr = 8;
    o.recv_wr = 8;
    o.inline_data = 17;
    assert_null(node_qp(&a, &o));
    o.inline_data = 16;
    o.send_wr = 9;
    assert_null(node_qp(&a, &o));
    o.send_wr = 8;
    qa = node_qp(&a, &o);
    assert_non_null(qa);
    struct ibv_mr *mr = ibv_reg_mr(a.pd, a.memory, 64, 0);
    assert_non_null(mr);
    assert_null(ibv_reg_mr(a.pd, a.memory, 64, 0));
    assert_int_equal(errno, ENOMEM);
    assert_int_equal(ibv_dereg_mr(mr), 0);
    assert_null(ibv_reg_mr(a.pd, NULL, 4096, 0));
    assert_int_equal(errno, EFAULT);
    assert_int_equal(ibv_fork_init(), EINVAL);
    assert_int_equal(ibv_dealloc_pd(a.pd), EBUSY);
    assert_int_equal(ibv_destroy_cq(a.cq), EBUSY);
}

static void memlock(void **state) {
    (void)state;
    setenv("FAKE_VERBS_MEMLOCK", "1", 1);
    struct node c;
    struct rlimit before, little;
    assert_int_equal(getrlimit(RLIMIT_MEMLOCK, &before), 0);
    little = before;
    little.rlim_cur = (rlim_t)fake_verbs_count("registered_bytes") + NODE_BYTES + 4096;
    if (setrlimit(RLIMIT_MEMLOCK, &little) != 0) {
        print_message("RLIMIT_MEMLOCK cannot be set to %llu\n",
                      (unsigned long long)little.rlim_cur);
        skip();
    }
    node_open(&c, 0);
    struct ibv_mr *mr = ibv_reg_mr(c.pd, c.memory, 4096, 0);
    assert_non_null(mr);
    assert_null(ibv_reg_mr(c.pd, c.memory, 1, 0));
    assert_int_equal(errno, ENOMEM);
    assert_int_equal(ibv_dereg_mr(mr), 0);
    assert_int_equal(setrlimit(RLIMIT_MEMLOCK, &before), 0);
    node_close(&c);
    assert_int_equal(fake_verbs_count("devices"), 2);
    assert_int_equal(fake_verbs_count("objects"), 2 * 5);
    assert_int_equal(fake_verbs_count("regions"), 2);
    assert_int_equal(fake_verbs_count("registered_bytes"), 2 * NODE_BYTES);
    assert_int_equal(fake_verbs_count("nonsense"), -1);
}

// A message that comes before the receiver is ready to send says so by an event, which is not an error.
static void early_message(void **state) {
    (void)state;
    struct node_options o = node_options();
    struct node_address to_a, to_b;
    qa = node_qp(&a, &o);
    qb = node_qp(&b, &o);
    node_address(&a, qa, &o, &to_a);
    node_address(&b, qb, &o, &to_b);
    assert_int_equal(node_init(qa, &o) | node_init(qb, &o), 0);
    assert_int_equal(node_rtr(qa, &o, &to_b) | node_rtr(qb, &o, &to_a), 0);
    assert_int_equal(node_rts(qa, &o, to_a.psn), 0);
    node_recv(qb, &b, 2, 0, 64);
    send_empty(1, IBV_SEND_SIGNALED);
    expect(&b, IBV_WC_SUCCESS, 2);
    expect(&a, IBV_WC_SUCCESS, 1);
    assert_int_equal(event(&b).event_type, IBV_EVENT_COMM_EST);
    assert_int_equal(node_rts(qb, &o, to_b.psn), 0);
}

// As with nvidia-peermem: the NIC finds by its address what the process cannot read.
static void peer_memory(void **state) {
    (void)state;
    int fd = memfd_create("other", 0);
    assert_int_equal(ftruncate(fd, 16384), 0);
    struct node_options o = node_options();
    connect_both(&o);
    uint8_t *own = mmap(NULL, 16384, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    uint8_t *at = mmap(NULL, 8192, PROT_NONE, MAP_SHARED, fd, 8192);
    assert_int_equal(fake_verbs_peer_memory(at, 8192, fd, 8192), 0);
    struct ibv_mr *mr = ibv_reg_mr(a.pd, at + 100, 5000, IBV_ACCESS_LOCAL_WRITE);
    assert_non_null(mr);
    memset(own + 8192 + 100, 0x5a, 5000);
    struct ibv_sge sge = {(uintptr_t)at + 100, 5000, mr->lkey};
    struct ibv_send_wr wr = node_wr(IBV_WR_RDMA_WRITE, 1, &sge, IBV_SEND_SIGNALED);
    node_target(&wr, &b, 0);
    node_post(qa, &wr);
    expect(&a, IBV_WC_SUCCESS, 1);
    assert_int_equal(b.memory[0], 0x5a);
    assert_int_equal(b.memory[4999], 0x5a);
    assert_int_equal(ibv_dereg_mr(mr), 0);
    assert_int_equal(fake_verbs_peer_memory(NULL, 0, -1, 0), 0);
    munmap(at, 8192);
    munmap(own, 16384);
    close(fd);
}

static void dmabuf(void **state) {
    (void)state;
    assert_null(ibv_reg_dmabuf_mr(b.pd, 0, 4096, 0, -1, 0));
    assert_int_equal(errno, EBADF);
    int fd = memfd_create("memory", 0);
    assert_int_equal(ftruncate(fd, 16384), 0);
    uint8_t *map = mmap(NULL, 16384, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    assert_null(
        ibv_reg_dmabuf_mr(b.pd, 8, 4096, 0x1000, fd, NODE_ALL)); // the offsets in the page differ
    struct ibv_mr *mr = ibv_reg_dmabuf_mr(b.pd, 4096 + 8, 4096, 0x100008, fd, NODE_ALL);
    assert_non_null(mr);
    struct node_options o = node_options();
    connect_both(&o);
    memset(a.memory, 0x77, 100);
    struct ibv_sge sge = node_sge(&a, 0, 100);
    struct ibv_send_wr wr = node_wr(IBV_WR_RDMA_WRITE, 1, &sge, IBV_SEND_SIGNALED);
    wr.wr.rdma.remote_addr = 0x100008 + 50;
    wr.wr.rdma.rkey = mr->rkey;
    node_post(qa, &wr);
    expect(&a, IBV_WC_SUCCESS, 1);
    wr.opcode = IBV_WR_RDMA_READ; // sees the write
    node_post(qa, &wr);
    expect(&a, IBV_WC_SUCCESS, 1);
    assert_int_equal(map[4096 + 8 + 50], 0x77);
    assert_int_equal(map[4096 + 8 + 49], 0);
    assert_int_equal(ibv_dereg_mr(mr), 0);
    assert_int_equal(lseek(fd, 8192, SEEK_SET), 8192); // a part of it, that begins there
    mr = ibv_reg_dmabuf_mr(b.pd, 8, 4096, 0x100008, fd, NODE_ALL);
    assert_non_null(mr);
    wr.opcode = IBV_WR_RDMA_WRITE;
    wr.wr.rdma.rkey = mr->rkey;
    node_post(qa, &wr);
    expect(&a, IBV_WC_SUCCESS, 1);
    wr.opcode = IBV_WR_RDMA_READ;
    node_post(qa, &wr);
    expect(&a, IBV_WC_SUCCESS, 1);
    assert_int_equal(map[8192 + 8 + 50], 0x77);
    assert_int_equal(ibv_dereg_mr(mr), 0);
    munmap(map, 16384);
    close(fd);
}

#define FAILURE(f) cmocka_unit_test_setup_teardown(f, up, down)

int main(void) {
    const struct CMUnitTest tests[] = {
        FAILURE(rnr_waits),      FAILURE(rnr_gives_up),    FAILURE(peer_destroyed),
        FAILURE(cut_and_healed), FAILURE(cut_by_file),     FAILURE(wrong_paths),
        FAILURE(access_errors),  FAILURE(too_long),        FAILURE(flush_all),
        FAILURE(queue_full),     FAILURE(last_byte_first), FAILURE(port_down),
        FAILURE(device_gone),    FAILURE(limits),          FAILURE(memlock),
        FAILURE(early_message),  FAILURE(dmabuf),          FAILURE(peer_memory),
    };
    return cmocka_run_group_tests_name("fake_verbs_failure", tests, NULL, NULL);
}
