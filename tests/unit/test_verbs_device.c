// SPDX-License-Identifier: MIT
// Ports, their choice, opening and events of devices, over a library that is not there.
#include "verbs_mock.h"

#include <limits.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <cmocka.h>

static struct rdi_verbs_port *ports(const struct rdi_ibv *v, size_t *n) {
    struct rdi_verbs_port *all = NULL;
    assert_int_equal(rdi_verbs_ports(v, &all, n), RONDO_OK);
    return all;
}

static void expect_error(rondo_status got, rondo_status want, const char *word) {
    assert_int_equal(got, want);
    if (strstr(rondo_last_error(), word) == NULL) {
        fail_msg("no '%s' in: %s", word, rondo_last_error());
    }
}

// ---- Ports ---------------------------------------------------------------------------------------

static void test_ports(void **state) {
    (void)state;
    struct rdi_ibv v = mock_ibv();
    size_t n;
    struct rdi_verbs_port *p = ports(&v, &n);
    assert_int_equal(n, 3);
    assert_string_equal(p[0].device, "mock0");
    assert_true(p[0].port == 1 && p[0].active && p[0].roce && !p[0].iwarp);
    assert_true(p[0].mbit_per_s == 100000 && p[0].mtu == IBV_MTU_4096 && p[0].phys_state == 5);
    assert_int_equal(p[0].numa_node, UINT_MAX);
    const uint16_t order[] = {3, 5, 1, 2, 0};
    assert_int_equal(p[0].ngids, 5);
    for (unsigned i = 0; i < 5; i++) {
        assert_int_equal(p[0].gids[i].index, order[i]);
    }
    assert_true(p[1].port == 2 && !p[1].active && p[1].ngids == 0);
    assert_string_equal(p[2].device, "mock1");
    assert_true(p[2].active && !p[2].roce && p[2].lid == 7 && p[2].mbit_per_s == 200000);
    assert_true(p[2].ngids == 1 && p[2].gids[0].type == RDI_GID_IB);
    free(p);
    assert_true(mock_is_clean());
}

// Without the newer call the kernel's files tell the versions; where they are not, all is RoCE v1.
static void test_old_gid_call(void **state) {
    (void)state;
    struct rdi_ibv v = mock_ibv();
    v.query_gid_ex = NULL;
    size_t n;
    struct rdi_verbs_port *p = ports(&v, &n);
    assert_true(p[0].ngids == 5 && p[0].gids[0].index == 2);
    assert_int_equal(p[0].gids[0].type, RDI_GID_ROCE_V1);
    assert_int_equal(p[2].gids[0].type, RDI_GID_IB);
    free(p);
}

static void test_no_ports(void **state) {
    (void)state;
    struct rdi_ibv v = mock_ibv();
    struct rdi_verbs_port *p;
    size_t n;
    mock.devices = 0;
    expect_error(rdi_verbs_ports(&v, &p, &n), RONDO_ERR_UNSUPPORTED, "no RDMA device");
    mock.list_errno = EPERM;
    expect_error(rdi_verbs_ports(&v, &p, &n), RONDO_ERR_UNSUPPORTED, "/dev/infiniband");
    mock.list_errno = 0;
    mock.devices = 2;
    mock.open_errno = EACCES;
    expect_error(rdi_verbs_ports(&v, &p, &n), RONDO_ERR_UNSUPPORTED, "permit this user");
    assert_true(mock_is_clean());
}

// ---- Choice --------------------------------------------------------------------------------------

static unsigned choose(const struct rdi_verbs_port *p, size_t n, const char *text,
                       unsigned *chosen) {
    struct rdi_options o = mock_options(text);
    unsigned count = 0;
    assert_int_equal(rdi_verbs_choose_ports(p, n, &o, NULL, chosen, &count), RONDO_OK);
    return count;
}

static void test_choice(void **state) {
    (void)state;
    struct rdi_ibv v = mock_ibv();
    size_t n;
    struct rdi_verbs_port *p = ports(&v, &n);
    unsigned c[RDI_VERBS_RAILS];
    assert_int_equal(choose(p, n, "", c), 2);
    assert_true(c[0] == 2 && c[1] == 0); // faster first
    assert_int_equal(choose(p, n, "device=mock0", c), 1);
    assert_int_equal(c[0], 0);
    assert_int_equal(choose(p, n, "device=mock0:1+mock1:1+mock1", c), 2);
    struct rdi_options o = mock_options("device=mock0:2");
    unsigned count;
    expect_error(rdi_verbs_choose_ports(p, n, &o, NULL, c, &count), RONDO_ERR_UNSUPPORTED,
                 "mock0:1 active, mock0:2 down, mock1:1 active");
    o = mock_options("device=mock0+mock");
    expect_error(rdi_verbs_choose_ports(p, n, &o, NULL, c, &count), RONDO_ERR_INVALID,
                 "'mock' is no RDMA port of this host, which has mock0:1, mock0:2, mock1:1");
    o = mock_options("device=mock0:3");
    expect_error(rdi_verbs_choose_ports(p, n, &o, NULL, c, &count), RONDO_ERR_INVALID, "'mock0:3'");
    assert_int_equal(choose(p, n, "family=ipv6", c), 2);
    p[0].ngids = 1; // IPv4 only
    assert_int_equal(choose(p, n, "family=ipv6", c), 1);
    assert_int_equal(c[0], 2);
    free(p);
}

static void test_at_most_four(void **state) {
    (void)state;
    struct rdi_verbs_port p[6];
    unsigned c[RDI_VERBS_RAILS];
    memset(p, 0, sizeof p);
    for (unsigned i = 0; i < 6; i++) {
        snprintf(p[i].device, sizeof p[i].device, "d%u", i);
        p[i].active = true;
        p[i].mbit_per_s = i == 5 ? 400000 : i == 1 ? 25000 : 100000;
    }
    assert_int_equal(choose(p, 6, "", c), 4);
    assert_true(c[0] == 5 && c[1] == 0 && c[2] == 2 && c[3] == 3);
}

// Of decided devices all ports come first, however slow.
static void test_decided_first(void **state) {
    (void)state;
    struct rdi_verbs_port p[6];
    unsigned c[RDI_VERBS_RAILS], count = 0;
    struct rdi_options o = mock_options("");
    const struct rdi_rails rails = {.count = 2, .at = {{.rdma = "d1"}, {.rdma = "e,d4,d40"}}};
    memset(p, 0, sizeof p);
    for (unsigned i = 0; i < 6; i++) {
        snprintf(p[i].device, sizeof p[i].device, "d%u", i);
        p[i].active = true;
        p[i].mbit_per_s = i == 5 ? 400000 : i == 1 ? 25000 : 100000;
    }
    assert_int_equal(rdi_verbs_choose_ports(p, 6, &o, &rails, c, &count), RONDO_OK);
    assert_int_equal(count, 4);
    assert_true(c[0] == 4 && c[1] == 1 && c[2] == 5 && c[3] == 0);
    o = mock_options("device=d2+d1"); // only what it says
    assert_int_equal(rdi_verbs_choose_ports(p, 6, &o, &rails, c, &count), RONDO_OK);
    assert_int_equal(count, 2);
}

// ---- Opening -------------------------------------------------------------------------------------

static void test_open(void **state) {
    (void)state;
    struct rdi_ibv v = mock_ibv();
    struct rdi_verbs_rail r;
    size_t n;
    struct rdi_verbs_port *p = ports(&v, &n);
    struct rdi_options o = mock_options("");
    assert_int_equal(rdi_verbs_rail_open(&r, &v, &p[0], &o), RONDO_OK);
    assert_true(r.cq_size == 1000 && r.relaxed && !r.down && !r.fork_unsafe);
    r.events = 3;
    rdi_verbs_rail_close(&r);
    assert_int_equal(mock.acked_cq_events, 3);
    assert_true(mock_is_clean());
    mock.max_cqe = 1 << 20;
    assert_int_equal(rdi_verbs_rail_open(&r, &v, &p[0], &o), RONDO_OK);
    // Both descriptors are read without waiting.
    assert_true((fcntl(r.context->async_fd, F_GETFL) & O_NONBLOCK) != 0);
    assert_true((fcntl(r.channel->fd, F_GETFL) & O_NONBLOCK) != 0);
    rdi_verbs_rail_close(&r);
    o = mock_options("verbs_gid=2");
    assert_int_equal(rdi_verbs_rail_open(&r, &v, &p[0], &o), RONDO_OK);
    assert_true(r.info.ngids == 1 && r.info.gids[0].index == 2);
    rdi_verbs_rail_close(&r);
    free(p);
    assert_true(mock_is_clean());
}

static void test_open_fails(void **state) {
    (void)state;
    struct rdi_ibv v = mock_ibv();
    struct rdi_verbs_rail r;
    size_t n;
    struct rdi_verbs_port *p = ports(&v, &n);
    struct rdi_options o = mock_options("verbs_gid=4");
    expect_error(rdi_verbs_rail_open(&r, &v, &p[0], &o), RONDO_ERR_INVALID, "verbs_gid=4");
    o = mock_options("");
    mock.fail_cq = ENOMEM;
    expect_error(rdi_verbs_rail_open(&r, &v, &p[0], &o), RONDO_ERR_NOMEM, "mock0:1");
    assert_non_null(strstr(rondo_last_error(), "completion queue"));
    mock.fail_cq = 0;
    mock.open_errno = EACCES;
    expect_error(rdi_verbs_rail_open(&r, &v, &p[0], &o), RONDO_ERR_SYSTEM, "EACCES");
    mock.open_errno = 0;
    mock.devices = 0;
    expect_error(rdi_verbs_rail_open(&r, &v, &p[0], &o), RONDO_ERR_SYSTEM, "ENODEV");
    v.reg_mr_iova2 = NULL;
    o = mock_options("verbs_relaxed=yes");
    expect_error(rdi_verbs_rail_open(&r, &v, &p[0], &o), RONDO_ERR_UNSUPPORTED, "verbs_relaxed");
    free(p);
    assert_true(mock_is_clean());
}

// ---- Registration --------------------------------------------------------------------------------

static struct rdi_verbs_rail rail(const struct rdi_ibv *v, const char *text) {
    struct rdi_verbs_rail r;
    size_t n;
    struct rdi_verbs_port *p = ports(v, &n);
    struct rdi_options o = mock_options(text);
    assert_int_equal(rdi_verbs_rail_open(&r, v, &p[0], &o), RONDO_OK);
    free(p);
    return r;
}

static void test_relaxed(void **state) {
    (void)state;
    char memory[64];
    struct ibv_mr *mr;
    struct rdi_ibv v = mock_ibv();
    struct rdi_verbs_rail r = rail(&v, "");
    assert_int_equal(rdi_verbs_reg(&r, memory, 64, IBV_ACCESS_LOCAL_WRITE, &mr), RONDO_OK);
    assert_int_equal(mock.last_access, IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_RELAXED_ORDERING);
    v.dereg_mr(mr);
    // A request that is wrong by itself says nothing of relaxed ordering.
    mock.reg_errno = EINVAL;
    expect_error(rdi_verbs_reg(&r, memory, 64, 0, &mr), RONDO_ERR_SYSTEM, "EINVAL");
    assert_true(r.relaxed);
    mock.reg_errno = 0;
    mock.relaxed_errno = EOPNOTSUPP;
    assert_int_equal(rdi_verbs_reg(&r, memory, 64, IBV_ACCESS_LOCAL_WRITE, &mr), RONDO_OK);
    assert_int_equal(mock.last_access, IBV_ACCESS_LOCAL_WRITE);
    assert_false(r.relaxed);
    v.dereg_mr(mr);
    rdi_verbs_rail_close(&r);
    r = rail(&v, "verbs_relaxed=yes");
    expect_error(rdi_verbs_reg(&r, memory, 64, 0, &mr), RONDO_ERR_UNSUPPORTED, "verbs_relaxed=yes");
    rdi_verbs_rail_close(&r);
    r = rail(&v, "verbs_relaxed=no");
    assert_int_equal(rdi_verbs_reg(&r, memory, 64, 0, &mr), RONDO_OK);
    v.dereg_mr(mr);
    rdi_verbs_rail_close(&r);
    assert_true(mock_is_clean());
}

// The text is about the limit that this process has; the limit is changed in a child.
static int memlock_text(void) {
    struct rlimit l = {.rlim_cur = 40960, .rlim_max = 49152};
    struct rdi_ibv v = mock_ibv();
    struct rdi_verbs_rail r = rail(&v, "");
    struct ibv_mr *mr;
    char memory[64];
    mock.reg_errno = ENOMEM;
    if (setrlimit(RLIMIT_MEMLOCK, &l) != 0 ||
        rdi_verbs_reg(&r, memory, 64, 0, &mr) != RONDO_ERR_NOMEM) {
        return 1;
    }
    // The soft limit was raised to the hard one, and the device asked again, before it was given up.
    int ok = mock.registrations == 2 && strstr(rondo_last_error(), "49152 bytes") != NULL &&
             strstr(rondo_last_error(), "ulimit -l") != NULL &&
             strstr(rondo_last_error(), "mock0:1") != NULL;
    rdi_verbs_rail_close(&r);
    return ok ? 0 : 2;
}

static void test_memlock(void **state) {
    (void)state;
    pid_t child = fork();
    if (child == 0) {
        _exit(memlock_text());
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    struct rdi_ibv v = mock_ibv();
    struct rdi_verbs_rail r = rail(&v, "");
    struct ibv_mr *mr;
    mock.reg_errno = EFAULT;
    expect_error(rdi_verbs_reg(&r, &v, 64, 0, &mr), RONDO_ERR_INVALID, "not mapped");
    rdi_verbs_rail_close(&r);
}

static void test_dmabuf(void **state) {
    (void)state;
    struct rdi_ibv v = mock_ibv();
    struct rdi_verbs_rail r = rail(&v, "");
    struct ibv_mr *mr;
    assert_true(rdi_verbs_has_dmabuf(&v, r.pd));
    assert_int_equal(rdi_verbs_reg_dmabuf(&r, 5, 4096 + 7, 100, 7, 0, &mr), RONDO_OK);
    v.dereg_mr(mr);
    expect_error(rdi_verbs_reg_dmabuf(&r, 5, 8, 100, 7, 0, &mr), RONDO_ERR_INVALID, "page");
    const int refusals[] = {EOPNOTSUPP, EPROTONOSUPPORT, ENOSYS, EINVAL};
    for (unsigned i = 0; i < 4; i++) {
        mock.dmabuf_errno = refusals[i];
        assert_false(rdi_verbs_has_dmabuf(&v, r.pd));
        expect_error(rdi_verbs_reg_dmabuf(&r, 5, 0, 100, 0, 0, &mr), RONDO_ERR_UNSUPPORTED,
                     "mock0:1");
    }
    v.reg_dmabuf_mr = NULL;
    assert_false(rdi_verbs_has_dmabuf(&v, r.pd));
    expect_error(rdi_verbs_reg_dmabuf(&r, 5, 0, 100, 0, 0, &mr), RONDO_ERR_UNSUPPORTED, "too old");
    rdi_verbs_rail_close(&r);
    assert_true(mock_is_clean());
}

// ---- Events --------------------------------------------------------------------------------------

static char log_text[1000];

static void take_log(void *self, rondo_log_level level, const char *line) {
    (void)self;
    size_t used = strlen(log_text);
    snprintf(log_text + used, sizeof log_text - used, "%d %s\n", (int)level, line);
}

static int qp_events;
static int acked_at_qp_event;
static void take_qp_event(void *self, struct ibv_qp *qp, enum ibv_event_type type) {
    assert_ptr_equal(self, &mock);
    assert_ptr_equal(qp, &qp_events);
    assert_int_equal(type, IBV_EVENT_QP_ACCESS_ERR);
    qp_events++;
    acked_at_qp_event = mock.acked;
}

static int push(enum ibv_event_type type, int port) {
    struct ibv_async_event *e = &mock.events[mock.nevents++];
    e->event_type = type;
    e->element.port_num = port;
    return mock.nevents;
}

static void test_events(void **state) {
    (void)state;
    struct rdi_ibv v = mock_ibv();
    struct rdi_verbs_rail r = rail(&v, "");
    const struct rdi_env env = {.log = take_log};
    bool fatal = true;
    char why[200] = "";
    assert_int_equal(rdi_verbs_rail_async(&r, &env, &fatal, why, sizeof why, NULL, NULL), 0);
    assert_false(fatal);
    push(IBV_EVENT_PORT_ERR, 2); // of the other port
    push(IBV_EVENT_GID_CHANGE, 1);
    assert_int_equal(rdi_verbs_rail_async(&r, &env, &fatal, why, sizeof why, NULL, NULL), 2);
    assert_true(!r.down && !fatal);
    assert_string_equal(log_text, "2 RDMA port mock0:1: some event\n");
    push(IBV_EVENT_PORT_ERR, 1);
    int n = push(IBV_EVENT_QP_ACCESS_ERR, 1);
    mock.events[n - 1].element.qp = (struct ibv_qp *)&qp_events;
    assert_int_equal(rdi_verbs_rail_async(&r, &env, &fatal, why, sizeof why, take_qp_event, &mock),
                     2);
    assert_true(r.down && !fatal && qp_events == 1);
    assert_int_equal(acked_at_qp_event, 4); // so that the receiver may destroy the queue pair
    assert_non_null(strstr(log_text, "1 RDMA port mock0:1: port error\n"));
    push(IBV_EVENT_PORT_ACTIVE, 1);
    push(IBV_EVENT_SRQ_LIMIT_REACHED, 1);
    push(IBV_EVENT_QP_FATAL, 1);
    assert_int_equal(rdi_verbs_rail_async(&r, &env, &fatal, why, sizeof why, NULL, NULL), 3);
    assert_true(!r.down && !fatal && why[0] == '\0');
    push(IBV_EVENT_DEVICE_FATAL, 1);
    push(IBV_EVENT_PORT_ERR, 1);
    assert_int_equal(rdi_verbs_rail_async(&r, &env, &fatal, why, sizeof why, NULL, NULL), 2);
    assert_true(fatal && r.down);
    assert_non_null(strstr(why, "mock0"));
    assert_int_equal(mock.acked, mock.nevents);
    rdi_verbs_rail_close(&r);
}

static void test_fatal(void **state) {
    (void)state;
    struct rdi_ibv v = mock_ibv();
    struct rdi_verbs_rail r = rail(&v, "");
    const struct rdi_env env = {.log = NULL};
    bool fatal = false;
    char why[200] = "";
    push(IBV_EVENT_CQ_ERR, 1);
    assert_int_equal(rdi_verbs_rail_async(&r, &env, &fatal, why, sizeof why, NULL, NULL), 1);
    assert_true(fatal);
    assert_non_null(strstr(why, "completion queue"));
    mock.event_errno = EIO; // the device was pulled out
    assert_int_equal(rdi_verbs_rail_async(&r, &env, &fatal, why, sizeof why, NULL, NULL), 0);
    assert_true(fatal);
    assert_non_null(strstr(why, "taken away"));
    rdi_verbs_rail_close(&r);
}

// ---- The library itself --------------------------------------------------------------------------

static void test_load(void **state) {
    (void)state;
    char why[300] = "", again[300] = "";
    const struct rdi_ibv *v = rdi_ibv_load(why, sizeof why);
    assert_ptr_equal(rdi_ibv_load(again, sizeof again), v);
    assert_string_equal(why, again);
    if (v == NULL) {
        assert_non_null(strstr(why, "libibverbs.so.1"));
        assert_non_null(strstr(why, "install"));
        return;
    }
    for (size_t i = 0; i < offsetof(struct rdi_ibv, reg_mr_iova2); i += sizeof(void *)) {
        void *at;
        memcpy(&at, (const char *)v + i, sizeof at);
        assert_non_null(at);
    }
    assert_non_null(v->wc_status_str(IBV_WC_RETRY_EXC_ERR));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ports),        cmocka_unit_test(test_old_gid_call),
        cmocka_unit_test(test_no_ports),     cmocka_unit_test(test_choice),
        cmocka_unit_test(test_at_most_four), cmocka_unit_test(test_decided_first),
        cmocka_unit_test(test_open),         cmocka_unit_test(test_open_fails),
        cmocka_unit_test(test_relaxed),      cmocka_unit_test(test_memlock),
        cmocka_unit_test(test_dmabuf),       cmocka_unit_test(test_events),
        cmocka_unit_test(test_fatal),        cmocka_unit_test(test_load),
    };
    return cmocka_run_group_tests_name("verbs_device", tests, NULL, NULL);
}
