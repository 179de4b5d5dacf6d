// SPDX-License-Identifier: MIT
// Every operation takes its data there and back, in one process.
#include "test_node.h"

#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <string.h>

static struct node a, b;
static struct ibv_qp *qa, *qb;

static int up(void **state) {
    node_fresh();
    const char *link = *state;
    if (link)
        setenv("FAKE_VERBS_LINK", link, 1);
    setenv("FAKE_VERBS_LEAKS", "1", 1);
    node_open(&a, 0);
    setenv("FAKE_VERBS_HOST", "2", 1);
    node_open(&b, 0);
    struct node_options o = node_options();
    qa = node_qp(&a, &o);
    qb = node_qp(&b, &o);
    node_connect(&a, qa, &b, qb, &o);
    return 0;
}

static int up_late(void **state) {
    up(state);
    fake_verbs_control(NULL, "late,delay=300,reorder=20,rnr=10,loss=2");
    return 0;
}

static int down(void **state) {
    (void)state;
    assert_int_equal(ibv_destroy_qp(qa), 0);
    assert_int_equal(ibv_destroy_qp(qb), 0);
    node_close(&a);
    node_close(&b);
    return 0;
}

static const size_t sizes[] = {
    0, 1, 7, 63, 64, 65, 4096, 32767, 32768, 32769, 65537, 262147, NODE_BYTES / 2};
#define SIZES (sizeof sizes / sizeof sizes[0])
#define HALF (NODE_BYTES / 2)

static void write_imm(void **state) {
    (void)state;
    for (size_t i = 0; i < SIZES; i++) {
        node_pattern(a.memory, sizes[i], (uint32_t)i);
        node_recv(qb, &b, 100 + i, 0, 0);
        struct ibv_sge sge = node_sge(&a, 0, sizes[i]);
        struct ibv_send_wr wr = node_wr(IBV_WR_RDMA_WRITE_WITH_IMM, i, &sge, IBV_SEND_SIGNALED);
        node_target(&wr, &b, 3);
        wr.imm_data = htonl(0xfffffff0u + (uint32_t)i);
        node_post(qa, &wr);
        struct ibv_wc wc = node_done(&b);
        assert_int_equal(wc.wr_id, 100 + i);
        assert_int_equal(wc.opcode, IBV_WC_RECV_RDMA_WITH_IMM);
        assert_true(wc.wc_flags & IBV_WC_WITH_IMM);
        assert_int_equal(ntohl(wc.imm_data), 0xfffffff0u + i);
        assert_int_equal(wc.byte_len, sizes[i]);
        assert_int_equal(wc.qp_num, qb->qp_num);
        node_check(b.memory + 3, sizes[i], (uint32_t)i);
        wc = node_done(&a);
        assert_int_equal(wc.wr_id, i);
        assert_int_equal(wc.opcode, IBV_WC_RDMA_WRITE);
    }
}

// A write and, behind it on the same queue pair, an immediate without data: its completion covers both.
static void write_then_imm(void **state) {
    (void)state;
    for (size_t i = 0; i < SIZES; i++) {
        node_pattern(a.memory, sizes[i], 50 + (uint32_t)i);
        node_recv(qb, &b, i, 0, 0);
        struct ibv_sge sge = node_sge(&a, 0, sizes[i]);
        struct ibv_send_wr first = node_wr(IBV_WR_RDMA_WRITE, 1, &sge, 0);
        struct ibv_send_wr then = node_wr(IBV_WR_RDMA_WRITE_WITH_IMM, 2, NULL, IBV_SEND_SIGNALED);
        first.next = &then;
        node_target(&first, &b, 0);
        node_post(qa, &first);
        assert_int_equal(node_done(&b).byte_len, 0);
        node_check(b.memory, sizes[i], 50 + (uint32_t)i);
        assert_int_equal(node_done(&a).wr_id, 2); // the first is unsignaled
    }
}

static void send_and_inline(void **state) {
    (void)state;
    for (size_t i = 0; i < SIZES; i++) {
        bool in_line = sizes[i] <= 128;
        node_pattern(a.memory, sizes[i], 10 + (uint32_t)i);
        node_recv(qb, &b, i, HALF, HALF);
        struct ibv_sge sge = node_sge(&a, 0, sizes[i]);
        struct ibv_send_wr wr = node_wr(IBV_WR_SEND, i, &sge, IBV_SEND_SIGNALED);
        if (in_line)
            wr.send_flags |= IBV_SEND_INLINE;
        node_post(qa, &wr);
        if (in_line)
            memset(a.memory, 0xee, sizes[i]); // is the application's again
        struct ibv_wc wc = node_done(&b);
        assert_int_equal(wc.opcode, IBV_WC_RECV);
        assert_int_equal(wc.byte_len, sizes[i]);
        assert_false(wc.wc_flags & IBV_WC_WITH_IMM);
        node_check(b.memory + HALF, sizes[i], 10 + (uint32_t)i);
        assert_int_equal(node_done(&a).opcode, IBV_WC_SEND);
    }
}

static void reads(void **state) {
    (void)state;
    for (size_t i = 0; i < SIZES; i++) {
        node_pattern(b.memory, sizes[i], 20 + (uint32_t)i);
        struct ibv_sge sge = node_sge(&a, 0, sizes[i]);
        struct ibv_send_wr wr = node_wr(IBV_WR_RDMA_READ, i, &sge, IBV_SEND_SIGNALED);
        node_target(&wr, &b, 0);
        node_post(qa, &wr);
        struct ibv_wc wc = node_done(&a);
        assert_int_equal(wc.opcode, IBV_WC_RDMA_READ);
        assert_int_equal(wc.byte_len, sizes[i]);
        node_check(a.memory, sizes[i], 20 + (uint32_t)i);
    }
}

static void atomics(void **state) {
    (void)state;
    uint64_t *there = (uint64_t *)(void *)b.memory, *here = (uint64_t *)(void *)a.memory;
    *there = 40;
    struct ibv_sge sge = node_sge(&a, 0, 8);
    for (uint64_t i = 0; i < 20; i++) {
        struct ibv_send_wr wr = node_wr(IBV_WR_ATOMIC_FETCH_AND_ADD, i, &sge, IBV_SEND_SIGNALED);
        wr.wr.atomic.remote_addr = (uintptr_t)there;
        wr.wr.atomic.rkey = b.mr->rkey;
        wr.wr.atomic.compare_add = 2;
        node_post(qa, &wr);
        assert_int_equal(node_done(&a).opcode, IBV_WC_FETCH_ADD);
        assert_int_equal(*here, 40 + 2 * i);
    }
    struct ibv_send_wr wr = node_wr(IBV_WR_ATOMIC_CMP_AND_SWP, 0, &sge, IBV_SEND_SIGNALED);
    wr.wr.atomic.remote_addr = (uintptr_t)there;
    wr.wr.atomic.rkey = b.mr->rkey;
    wr.wr.atomic.compare_add = 80;
    wr.wr.atomic.swap = 7;
    node_post(qa, &wr);
    assert_int_equal(node_done(&a).opcode, IBV_WC_COMP_SWAP);
    assert_int_equal(*here, 80);
    assert_int_equal(*there, 7);
}

// Many operations of all kinds at once; completions come in the order of posting.
static void mixed(void **state) {
    (void)state;
    enum { N = 400, SLOT = 9000 };
    size_t posted = 0, done = 0, got = 0;
    for (size_t i = 0; i < 32; i++)
        node_recv(qb, &b, i, 0, 0);
    while (done < N) {
        if (posted < N && posted - done < 32 && posted - got < 32) {
            size_t slot = posted % 32, bytes = posted * 37 % SLOT;
            node_pattern(a.memory + slot * SLOT, bytes, (uint32_t)posted);
            struct ibv_sge sge = node_sge(&a, slot * SLOT, bytes);
            struct ibv_sge back = node_sge(&a, NODE_BYTES - 64, 16);
            struct ibv_send_wr read = node_wr(IBV_WR_RDMA_READ, 0, &back, 0);
            struct ibv_send_wr wr =
                node_wr(IBV_WR_RDMA_WRITE_WITH_IMM, posted, &sge, IBV_SEND_SIGNALED);
            node_target(&wr, &b, slot * SLOT);
            node_target(&read, &b, NODE_BYTES - 64);
            read.next = &wr;
            wr.imm_data = htonl((uint32_t)posted);
            node_post(qa, posted % 3 ? &wr : &read);
            posted++;
        }
        struct ibv_wc wc;
        if (ibv_poll_cq(b.cq, 1, &wc) == 1) {
            assert_int_equal(wc.status, IBV_WC_SUCCESS);
            assert_int_equal(ntohl(wc.imm_data), got);
            node_check(b.memory + got % 32 * SLOT, got * 37 % SLOT, (uint32_t)got);
            node_recv(qb, &b, 0, 0, 0);
            got++;
        }
        if (ibv_poll_cq(a.cq, 1, &wc) == 1) {
            assert_int_equal(wc.status, IBV_WC_SUCCESS);
            assert_int_equal(wc.wr_id, done);
            done++;
        }
    }
    while (got < N) {
        assert_int_equal(ntohl(node_done(&b).imm_data), got);
        got++;
    }
}

static void scattered(void **state) {
    (void)state;
    node_pattern(a.memory, 70000, 5);
    struct ibv_sge to[3] = {node_sge(&b, 0, 10), node_sge(&b, 100, 40000),
                            node_sge(&b, 50000, 40000)};
    struct ibv_recv_wr r = {.wr_id = 1, .sg_list = to, .num_sge = 3}, *bad;
    assert_int_equal(ibv_post_recv(qb, &r, &bad), 0);
    struct ibv_sge from[4] = {node_sge(&a, 0, 33000), node_sge(&a, 33000, 0),
                              node_sge(&a, 33000, 5), node_sge(&a, 33005, 36995)};
    struct ibv_send_wr wr = node_wr(IBV_WR_SEND_WITH_IMM, 1, from, IBV_SEND_SIGNALED);
    wr.num_sge = 4;
    node_post(qa, &wr);
    assert_int_equal(node_done(&b).byte_len, 70000);
    node_done(&a);
    memmove(b.memory + 10, b.memory + 100, 40000);
    memmove(b.memory + 40010, b.memory + 50000, 29990);
    node_check(b.memory, 70000, 5);
}

// The event comes once, for what comes after it was asked for, and must be asked for again.
static void events(void **state) {
    (void)state;
    struct pollfd p = {.fd = b.channel->fd, .events = POLLIN};
    struct ibv_send_wr wr = node_wr(IBV_WR_SEND, 0, NULL, IBV_SEND_SIGNALED);
    unsigned spurious = 0;
    for (int i = 0; i < 100; i++) {
        node_recv(qb, &b, 0, 0, 64);
        assert_int_equal(ibv_req_notify_cq(b.cq, 0), 0);
        bool early = poll(&p, 1, 0) == 1; // without a reason
        spurious += early;
        node_post(qa, &wr);
        assert_int_equal(poll(&p, 1, 30000), 1);
        struct ibv_cq *cq;
        void *user;
        assert_int_equal(ibv_get_cq_event(b.channel, &cq, &user), 0);
        assert_ptr_equal(cq, b.cq);
        assert_ptr_equal(user, &b);
        ibv_ack_cq_events(cq, 1);
        node_done(&b);
        node_done(&a);
        assert_int_equal(poll(&p, 1, 0), 0);
    }
    assert_in_range(spurious, 1, 50);
}

static void iwarp_has_no_immediates(void **state) {
    (void)state;
    struct ibv_send_wr *bad, wr = node_wr(IBV_WR_RDMA_WRITE_WITH_IMM, 0, NULL, 0);
    assert_int_equal(ibv_post_send(qa, &wr, &bad), EINVAL);
    wr.opcode = IBV_WR_SEND_WITH_IMM;
    assert_int_equal(ibv_post_send(qa, &wr, &bad), EINVAL);
    assert_ptr_equal(bad, &wr);
    send_and_inline(state);
    reads(state);
}

#define DATA(f, set, link) \
    { #f " " #set " " link, f, set, down, link }
#define ALL(set, link)                                                                             \
    DATA(write_imm, set, link), DATA(write_then_imm, set, link), DATA(send_and_inline, set, link), \
        DATA(reads, set, link), DATA(atomics, set, link), DATA(mixed, set, link),                  \
        DATA(scattered, set, link)

int main(void) {
    const struct CMUnitTest tests[] = {
        ALL(up, "roce"),          ALL(up, "ib"),
        DATA(events, up, "roce"), DATA(iwarp_has_no_immediates, up, "iwarp"),
        ALL(up_late, "roce"),
    };
    return cmocka_run_group_tests_name("fake_verbs_data", tests, NULL, NULL);
}
