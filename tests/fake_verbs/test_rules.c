// SPDX-License-Identifier: MIT
// Every misuse is found: each runs in a process of its own, which must abort with the rule's name.
#include "test_node.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

static struct node a, b;
static struct ibv_qp *qa, *qb;
static struct node_options o;
static struct ibv_send_wr *bad;
static struct ibv_sge sge;

static void post(struct ibv_send_wr wr) {
    if (wr.opcode == IBV_WR_RDMA_WRITE || wr.opcode == IBV_WR_RDMA_READ)
        node_target(&wr, &b, 0);
    ibv_post_send(qa, &wr, &bad);
}
static void post_sge(struct ibv_sge s, enum ibv_wr_opcode op, unsigned flags) {
    sge = s;
    post(node_wr(op, 1, &sge, flags));
}
static void modify(enum ibv_qp_state state, int mask) {
    struct ibv_qp_attr attr = {.qp_state = state, .port_num = 1};
    ibv_modify_qp(qa, &attr, IBV_QP_STATE | mask);
}
static void wait_for_nic(void) { node_sleep(30000); } // it aborts meanwhile

// ---- States --------------------------------------------------------------------------------------

static void state_skipped(void) {
    qa = node_qp(&a, &o);
    modify(IBV_QPS_RTS, 0);
}
static void mask_lacks(void) {
    qa = node_qp(&a, &o);
    modify(IBV_QPS_INIT, IBV_QP_PKEY_INDEX | IBV_QP_PORT);
}
static void mask_superfluous(void) {
    qa = node_qp(&a, &o);
    modify(IBV_QPS_INIT, IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_ACCESS_FLAGS | IBV_QP_TIMEOUT);
}
static void mask_of_error(void) { modify(IBV_QPS_ERR, IBV_QP_PORT); }
static void value_of_timeout(void) {
    struct node_address to;
    qa = node_qp(&a, &o);
    node_address(&b, qb, &o, &to);
    o.timeout = 32;
    node_init(qa, &o);
    node_rtr(qa, &o, &to);
    node_rts(qa, &o, 0);
}
static void grh_missing(void) {
    struct node_address to;
    qa = node_qp(&a, &o);
    node_address(&b, qb, &o, &to);
    to.lid = 5; // as on InfiniBand
    node_init(qa, &o);
    node_rtr(qa, &o, &to);
}
static void send_too_soon(void) {
    qa = node_qp(&a, &o);
    post(node_wr(IBV_WR_SEND, 1, NULL, 0));
}
static void receive_too_soon(void) {
    struct ibv_recv_wr wr = {.wr_id = 1}, *bad_recv;
    qa = node_qp(&a, &o);
    ibv_post_recv(qa, &wr, &bad_recv);
}

// ---- Work requests -------------------------------------------------------------------------------

static void opcode(void) { post(node_wr(IBV_WR_LOCAL_INV, 1, NULL, 0)); }
static void flags(void) { post(node_wr(IBV_WR_SEND, 1, NULL, IBV_SEND_IP_CSUM)); }
static void too_many_entries(void) {
    struct ibv_sge many[5];
    for (int i = 0; i < 5; i++)
        many[i] = node_sge(&a, 0, 1);
    struct ibv_send_wr wr = node_wr(IBV_WR_SEND, 1, many, 0);
    wr.num_sge = 5;
    post(wr);
}
static void inline_too_long(void) { post_sge(node_sge(&a, 0, 129), IBV_WR_SEND, IBV_SEND_INLINE); }
static void inline_read(void) { post_sge(node_sge(&a, 0, 8), IBV_WR_RDMA_READ, IBV_SEND_INLINE); }
static void never_signaled(void) {
    for (unsigned i = 0; i <= o.send_wr; i++)
        post(node_wr(IBV_WR_RDMA_WRITE, i, NULL, 0));
}
static void read_not_agreed(void) {
    o.rd_atomic = 0;
    qa = node_qp(&a, &o);
    qb = node_qp(&b, &o);
    node_connect(&a, qa, &b, qb, &o);
    post_sge(node_sge(&a, 0, 8), IBV_WR_RDMA_READ, 0);
}

// ---- Completions ---------------------------------------------------------------------------------

static void cq_too_small(void) {
    struct ibv_cq *big = a.cq;
    a.cq = ibv_create_cq(a.context, 3, NULL, NULL, 0);
    qa = node_qp(&a, &o);
    a.cq = big;
    qb = node_qp(&b, &o);
    node_connect(&a, qa, &b, qb, &o);
    for (int i = 0; i < 4; i++)
        post(node_wr(IBV_WR_RDMA_WRITE, 1, NULL, IBV_SEND_SIGNALED));
    wait_for_nic();
}
static void cq_flushed(void) { // also what is flushed needs its place
    struct ibv_cq *big = a.cq;
    a.cq = ibv_create_cq(a.context, 3, NULL, NULL, 0);
    qa = node_qp(&a, &o);
    a.cq = big;
    node_init(qa, &o);
    for (int i = 0; i < 4; i++)
        node_recv(qa, &a, 1, 0, 64);
    modify(IBV_QPS_ERR, 0);
    wait_for_nic();
}
static void event_not_acked(void) {
    struct ibv_cq *cq = ibv_create_cq(a.context, 16, NULL, a.channel, 0), *got;
    struct ibv_cq *usual = a.cq;
    void *user;
    a.cq = cq;
    qa = node_qp(&a, &o);
    a.cq = usual;
    qb = node_qp(&b, &o);
    node_connect(&a, qa, &b, qb, &o);
    ibv_req_notify_cq(cq, 0);
    post(node_wr(IBV_WR_RDMA_WRITE, 1, NULL, IBV_SEND_SIGNALED));
    ibv_get_cq_event(a.channel, &got, &user);
    ibv_destroy_qp(qa);
    ibv_destroy_cq(cq);
}
static void acked_twice(void) { ibv_ack_cq_events(a.cq, 1); }
static void async_not_acked(void) {
    struct ibv_async_event e;
    struct ibv_send_wr wr = node_wr(IBV_WR_RDMA_WRITE, 1, &sge, 0);
    sge = node_sge(&a, 0, 8);
    node_target(&wr, &b, 0);
    wr.wr.rdma.rkey ^= 0x100;
    ibv_post_send(qa, &wr, &bad);
    ibv_get_async_event(b.context, &e);
    ibv_destroy_qp(qb);
}

// ---- Memory --------------------------------------------------------------------------------------

static void lkey_unknown(void) {
    struct ibv_sge s = node_sge(&a, 0, 8);
    s.lkey ^= 0x100;
    post_sge(s, IBV_WR_SEND, 0);
}
static void lkey_of_other_device(void) {
    struct ibv_sge s = node_sge(&a, 0, 8);
    s.lkey = b.mr->lkey;
    post_sge(s, IBV_WR_SEND, 0);
}
static void lkey_is_rkey(void) {
    struct ibv_sge s = node_sge(&a, 0, 8);
    s.lkey = a.mr->rkey;
    post_sge(s, IBV_WR_SEND, 0);
}
static void range_too_long(void) { post_sge(node_sge(&a, NODE_BYTES - 7, 8), IBV_WR_SEND, 0); }
static void receive_read_only(void) {
    struct ibv_mr *mr = ibv_reg_mr(a.pd, a.memory, 64, 0);
    struct ibv_sge s = {.addr = (uintptr_t)a.memory, .length = 64, .lkey = mr->lkey};
    struct ibv_recv_wr wr = {.sg_list = &s, .num_sge = 1}, *bad_recv;
    ibv_post_recv(qa, &wr, &bad_recv);
}
static void deregistered_in_flight(void) {
    post_sge(node_sge(&a, 0, 64), IBV_WR_SEND, IBV_SEND_SIGNALED); // waits for a receiver
    ibv_dereg_mr(a.mr);
}
static void deregistered_not_polled(void) {
    post_sge(node_sge(&a, 0, 64), IBV_WR_RDMA_WRITE, IBV_SEND_SIGNALED);
    node_sleep(100);
    ibv_dereg_mr(a.mr);
}
static void deregistered_receive(void) {
    node_recv(qa, &a, 1, 0, 64);
    ibv_dereg_mr(a.mr);
}
static void source_changed(void) {
    node_sleep(10);
    post_sge(node_sge(&a, 0, 64), IBV_WR_SEND, IBV_SEND_SIGNALED); // waits for a receiver
    a.memory[63] ^= 1;
    node_recv(qb, &b, 1, 0, 64);
    wait_for_nic();
}
static void remote_without_local(void) { ibv_reg_mr(a.pd, a.memory, 64, IBV_ACCESS_REMOTE_WRITE); }
static void unmapped(void) {
    // Where nothing else is put when it is free again.
    void *map = mmap((void *)0x7e9000000000, 8192, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    struct ibv_mr *mr = ibv_reg_mr(b.pd, map, 8192, NODE_ALL);
    munmap(map, 8192);
    struct ibv_send_wr wr = node_wr(IBV_WR_RDMA_WRITE, 1, &sge, IBV_SEND_SIGNALED);
    sge = node_sge(&a, 0, 8);
    wr.wr.rdma.remote_addr = (uintptr_t)map;
    wr.wr.rdma.rkey = mr->rkey;
    ibv_post_send(qa, &wr, &bad);
    wait_for_nic();
}

// ---- Life ----------------------------------------------------------------------------------------

static void dead_cq(void) {
    struct ibv_wc wc;
    struct ibv_cq *cq = ibv_create_cq(a.context, 16, NULL, NULL, 0);
    ibv_destroy_cq(cq);
    ibv_poll_cq(cq, 1, &wc);
}
static void dead_qp(void) {
    ibv_destroy_qp(qa);
    post(node_wr(IBV_WR_SEND, 1, NULL, 0));
}
static void dead_mr(void) {
    ibv_dereg_mr(a.mr);
    ibv_dereg_mr(a.mr);
}
static void child_uses(void) {
    int status;
    struct ibv_wc wc;
    pid_t pid = fork();
    if (pid == 0) {
        ibv_poll_cq(a.cq, 1, &wc);
        _exit(0);
    }
    waitpid(pid, &status, 0);
    if (WIFSIGNALED(status))
        abort();
}
static void leak(void) {
    setenv("FAKE_VERBS_LEAKS", "1", 1);
    ibv_close_device(a.context);
}
static void leak_at_exit(void) {
    setenv("FAKE_VERBS_LEAKS", "1", 1);
    exit(0);
}
static void environment(void) {
    setenv("FAKE_VERBS_HOST", "255", 1);
    ibv_get_device_list(NULL);
}
static void faults(void) { fake_verbs_control(NULL, "delya=3"); }

// Memory as a GPU's is: a file, of which this process sees nothing.
static uint8_t *other_memory(int *fd) {
    *fd = memfd_create("other", MFD_CLOEXEC);
    if (*fd < 0 || ftruncate(*fd, 8192) != 0)
        _exit(1);
    return mmap(NULL, 8192, PROT_NONE, MAP_SHARED, *fd, 0);
}
static void not_readable(void) {
    int fd;
    ibv_reg_mr(a.pd, other_memory(&fd), 8192, NODE_ALL);
}
static void inline_memory(void) {
    int fd;
    uint8_t *at = other_memory(&fd);
    struct ibv_mr *mr = ibv_reg_dmabuf_mr(a.pd, 0, 8192, (uintptr_t)at, fd, NODE_ALL);
    post_sge((struct ibv_sge){(uintptr_t)at, 8, mr->lkey}, IBV_WR_RDMA_WRITE, IBV_SEND_INLINE);
}

static const struct misuse {
    const char *rule, *name;
    void (*run)(void);
} misuses[] = {
#define MISUSE(rule, f) \
    { rule, #f, f }
    MISUSE("QP_STATE", state_skipped),
    MISUSE("QP_MASK", mask_lacks),
    MISUSE("QP_MASK", mask_superfluous),
    MISUSE("QP_MASK", mask_of_error),
    MISUSE("QP_VALUE", value_of_timeout),
    MISUSE("GRH_REQUIRED", grh_missing),
    MISUSE("SEND_STATE", send_too_soon),
    MISUSE("RECV_STATE", receive_too_soon),
    MISUSE("SEND_OPCODE", opcode),
    MISUSE("SEND_FLAGS", flags),
    MISUSE("SGE_LIMIT", too_many_entries),
    MISUSE("INLINE_LIMIT", inline_too_long),
    MISUSE("INLINE_OPCODE", inline_read),
    MISUSE("SQ_NEVER_SIGNALED", never_signaled),
    MISUSE("READ_DEPTH", read_not_agreed),
    MISUSE("CQ_OVERRUN", cq_too_small),
    MISUSE("CQ_OVERRUN", cq_flushed),
    MISUSE("UNACKED_EVENTS", event_not_acked),
    MISUSE("UNACKED_EVENTS", async_not_acked),
    MISUSE("ACKED_TWICE", acked_twice),
    MISUSE("BAD_LKEY", lkey_unknown),
    MISUSE("BAD_LKEY", lkey_of_other_device),
    MISUSE("BAD_LKEY", lkey_is_rkey),
    MISUSE("BAD_LKEY", range_too_long),
    MISUSE("BAD_LKEY", receive_read_only),
    MISUSE("DEREG_IN_FLIGHT", deregistered_in_flight),
    MISUSE("DEREG_IN_FLIGHT", deregistered_not_polled),
    MISUSE("DEREG_IN_FLIGHT", deregistered_receive),
    MISUSE("SOURCE_CHANGED", source_changed),
    MISUSE("REMOTE_NEEDS_LOCAL_WRITE", remote_without_local),
    MISUSE("UNMAPPED", unmapped),
    MISUSE("NOT_READABLE", not_readable),
    MISUSE("INLINE_MEMORY", inline_memory),
    MISUSE("DEAD_OBJECT", dead_cq),
    MISUSE("DEAD_OBJECT", dead_qp),
    MISUSE("DEAD_OBJECT", dead_mr),
    MISUSE("FORKED_CHILD", child_uses),
    MISUSE("LEAK", leak),
    MISUSE("LEAK", leak_at_exit),
    MISUSE("ENVIRONMENT", environment),
    MISUSE("FAULTS", faults),
};
#define MISUSES (sizeof misuses / sizeof misuses[0])

static int run(const char *name) {
    const struct rlimit none = {0, 0};
    setrlimit(RLIMIT_CORE, &none);
    o = node_options();
    node_open(&a, 0);
    setenv("FAKE_VERBS_HOST", "2", 1);
    node_open(&b, 0);
    qa = node_qp(&a, &o);
    qb = node_qp(&b, &o);
    node_connect(&a, qa, &b, qb, &o);
    for (size_t i = 0; i < MISUSES; i++)
        if (strcmp(misuses[i].name, name) == 0)
            misuses[i].run();
    return 0;
}

static int in_process(const char *name, char *text, size_t cap) {
    int fds[2], status;
    size_t n = 0;
    assert_int_equal(pipe(fds), 0);
    pid_t pid = fork();
    if (pid == 0) {
        setenv("TSAN_OPTIONS", "report_bugs=0", 1); // some of it is a race, too
        dup2(fds[1], 2);
        close(fds[0]);
        close(fds[1]);
        execl("/proc/self/exe", "fake_verbs_rules", name, (char *)NULL);
        _exit(126);
    }
    close(fds[1]);
    ssize_t got;
    while (n < cap - 1 && (got = read(fds[0], text + n, cap - 1 - n)) > 0)
        n += (size_t)got;
    text[n] = '\0';
    close(fds[0]);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return status;
}

static void aborts(void **state) {
    const struct misuse *m = *state;
    char text[4096], want[64];
    node_fresh();
    int status = in_process(m->name, text, sizeof text);
    snprintf(want, sizeof want, "fake_verbs: RULE %s: ", m->rule);
    if (!strstr(text, want) || !WIFSIGNALED(status) || WTERMSIG(status) != SIGABRT)
        fail_msg("status 0x%x, and it says: %s", status, text);
    assert_null(strstr(strstr(text, want) + strlen(want), "RULE")); // no other rule
}

static void good_program_is_silent(void **state) {
    (void)state;
    char text[4096];
    node_fresh();
    assert_int_equal(in_process("nothing", text, sizeof text), 0);
    assert_string_equal(text, "");
}

static void lenient_goes_on(void **state) {
    (void)state;
    node_fresh();
    setenv("FAKE_VERBS_LENIENT", "1", 1);
    char text[4096];
    assert_int_equal(in_process("inline_too_long", text, sizeof text), 0);
    assert_non_null(strstr(text, "RULE INLINE_LIMIT"));
}

int main(int argc, char **argv) {
    if (argc > 1)
        return run(argv[1]);
    struct CMUnitTest tests[MISUSES + 2] = {cmocka_unit_test(good_program_is_silent),
                                            cmocka_unit_test(lenient_goes_on)};
    for (size_t i = 0; i < MISUSES; i++)
        tests[i + 2] = (struct CMUnitTest){.name = misuses[i].name,
                                           .test_func = aborts,
                                           .initial_state = (void *)(uintptr_t)&misuses[i]};
    return cmocka_run_group_tests_name("fake_verbs_rules", tests, NULL, NULL);
}
