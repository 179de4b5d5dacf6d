// SPDX-License-Identifier: MIT
// Two processes: data, a peer that is killed, one that is stopped, and what fork() leaves intact.
#include "test_node.h"

#include <arpa/inet.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static struct node n;
static struct ibv_qp *qp;
static pid_t child;
static int to_child, from_child;

static void put(int fd, const void *data, size_t bytes) {
    assert_int_equal(write(fd, data, bytes), bytes);
}
static void get(int fd, void *data, size_t bytes) {
    for (size_t at = 0; at < bytes;) {
        ssize_t got = read(fd, (char *)data + at, bytes - at);
        assert_true(got > 0);
        at += (size_t)got;
    }
}

// Exchanges addresses and connects.
static struct node_address meet(const struct node_options *o, int in, int out) {
    struct node_address mine, theirs;
    qp = node_qp(&n, o);
    assert_non_null(qp);
    node_address(&n, qp, o, &mine);
    put(out, &mine, sizeof mine);
    get(in, &theirs, sizeof theirs);
    assert_int_equal(node_init(qp, o), 0);
    assert_int_equal(node_rtr(qp, o, &theirs), 0);
    assert_int_equal(node_rts(qp, o, mine.psn), 0);
    char ready = 1;
    put(out, &ready, 1);
    get(in, &ready, 1);
    return theirs;
}

static struct node_options options(void) {
    struct node_options o = node_options();
    o.timeout = 13; // about 0.13 s until a peer is given up
    o.retries = 3;
    return o;
}

// ---- The child: sends back each message that it gets ---------------------------------------------

static int echo(void) {
    struct node_options o = options();
    node_open(&n, 0);
    struct node_address peer = meet(&o, 0, 1);
    for (int i = 0; i < 16; i++)
        node_recv(qp, &n, 0, 0, 0);
    char ready = 2;
    put(1, &ready, 1);
    for (;;) {
        struct ibv_wc wc = node_done(&n);
        if (wc.opcode != IBV_WC_RECV_RDMA_WITH_IMM)
            continue;
        uint32_t bytes = ntohl(wc.imm_data);
        node_recv(qp, &n, 0, 0, 0);
        if (bytes == UINT32_MAX)
            break;
        struct ibv_sge sge = node_sge(&n, 0, bytes);
        struct ibv_send_wr wr = node_wr(IBV_WR_RDMA_WRITE_WITH_IMM, 1, &sge, IBV_SEND_SIGNALED);
        wr.wr.rdma.remote_addr = peer.memory + NODE_BYTES / 2;
        wr.wr.rdma.rkey = peer.rkey;
        wr.imm_data = wc.imm_data;
        node_post(qp, &wr);
    }
    assert_int_equal(ibv_destroy_qp(qp), 0);
    node_close(&n);
    return 0;
}

static struct node_address peer;

static int up(void **state) {
    (void)state;
    int down_fds[2], up_fds[2];
    node_fresh();
    setenv("FAKE_VERBS_LEAKS", "1", 1);
    assert_int_equal(pipe(down_fds) | pipe(up_fds), 0);
    setenv("FAKE_VERBS_HOST", "2", 1);
    child = fork();
    if (child == 0) {
        dup2(down_fds[0], 0);
        dup2(up_fds[1], 1);
        for (int fd = 3; fd < 64; fd++)
            close(fd);
        execl("/proc/self/exe", "fake_verbs_process", "echo", (char *)NULL);
        _exit(126);
    }
    setenv("FAKE_VERBS_HOST", "1", 1);
    close(down_fds[0]);
    close(up_fds[1]);
    to_child = down_fds[1];
    from_child = up_fds[0];
    node_open(&n, 0);
    struct node_options o = options();
    peer = meet(&o, from_child, to_child);
    char ready;
    get(from_child, &ready, 1);
    for (int i = 0; i < 16; i++)
        node_recv(qp, &n, 100, 0, 0);
    return 0;
}

static int down(void **state) {
    (void)state;
    int status;
    if (child > 0) {
        kill(child, SIGKILL);
        waitpid(child, &status, 0);
    }
    child = 0;
    close(to_child);
    close(from_child);
    assert_int_equal(ibv_destroy_qp(qp), 0);
    node_close(&n);
    return 0;
}

static void write_to_child(size_t bytes, uint32_t imm) {
    struct ibv_sge sge = node_sge(&n, 0, bytes);
    struct ibv_send_wr wr = node_wr(IBV_WR_RDMA_WRITE_WITH_IMM, 1, &sge, IBV_SEND_SIGNALED);
    wr.wr.rdma.remote_addr = peer.memory;
    wr.wr.rdma.rkey = peer.rkey;
    wr.imm_data = htonl(imm);
    node_post(qp, &wr);
}

static void round_trip(size_t bytes, uint32_t seed) {
    node_pattern(n.memory, bytes, seed);
    write_to_child(bytes, (uint32_t)bytes);
    for (int i = 0; i < 2; i++) { // the answer and our own completion, in any order
        struct ibv_wc wc = node_done(&n);
        if (wc.opcode != IBV_WC_RECV_RDMA_WITH_IMM)
            continue;
        assert_int_equal(ntohl(wc.imm_data), bytes);
        node_recv(qp, &n, 100, 0, 0);
    }
    node_check(n.memory + NODE_BYTES / 2, bytes, seed);
}

static void round_trips(void **state) {
    (void)state;
    for (uint32_t i = 0; i < 200; i++)
        round_trip(i * i * 13 % (NODE_BYTES / 2), i);
    write_to_child(0, UINT32_MAX);
    node_done(&n);
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    child = 0;
}

static void peer_killed(void **state) {
    (void)state;
    round_trip(1000, 1);
    kill(child, SIGKILL);
    write_to_child(1000, 1000);
    struct ibv_wc wc = node_poll(&n);
    assert_int_equal(wc.status, IBV_WC_RETRY_EXC_ERR);
    assert_int_equal(wc.wr_id, 1);
}

// A stopped process's hardware would go on; this one's cannot, but is not taken for dead.
static void peer_stopped(void **state) {
    (void)state;
    round_trip(1000, 1);
    kill(child, SIGSTOP);
    node_sleep(20);
    node_pattern(n.memory, 100000, 7);
    write_to_child(100000, 100000);
    assert_true(node_quiet(&n, 500));
    kill(child, SIGCONT);
    assert_int_equal(node_done(&n).status, IBV_WC_SUCCESS);
    assert_int_equal(node_done(&n).status, IBV_WC_SUCCESS);
    node_check(n.memory + NODE_BYTES / 2, 100000, 7);
}

// A child that never uses the device does it no harm, even when it lives on.
static void child_lives_on(void **state) {
    (void)state;
    pid_t other = fork();
    if (other == 0) {
        sleep(60);
        _exit(0);
    }
    round_trip(5000, 3);
    kill(child, SIGKILL);
    write_to_child(1000, 1000);
    assert_int_equal(node_poll(&n).status, IBV_WC_RETRY_EXC_ERR);
    int status;
    kill(other, SIGKILL);
    waitpid(other, &status, 0);
}

#define PROCESS(f) cmocka_unit_test_setup_teardown(f, up, down)

int main(int argc, char **argv) {
    if (argc > 1 && strcmp(argv[1], "echo") == 0)
        return echo();
    const struct CMUnitTest tests[] = {PROCESS(round_trips), PROCESS(peer_killed),
                                       PROCESS(peer_stopped), PROCESS(child_lives_on)};
    return cmocka_run_group_tests_name("fake_verbs_process", tests, NULL, NULL);
}
