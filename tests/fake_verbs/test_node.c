// SPDX-License-Identifier: MIT
// See test_node.h.
#include "test_node.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

struct node_options node_options(void) {
    return (struct node_options){.mtu = IBV_MTU_1024,
                                 .timeout = 14,
                                 .retries = 7,
                                 .rnr_retries = 7,
                                 .rnr_timer = 1,
                                 .gid_index = 3,
                                 .rd_atomic = 4,
                                 .send_wr = 64,
                                 .recv_wr = 64,
                                 .inline_data = 128,
                                 .access = NODE_ALL};
}

static char folder[64];

static void remove_folder(void) {
    char command[128];
    snprintf(command, sizeof command, "rm -rf %s", folder);
    if (folder[0] && system(command) != 0)
        fprintf(stderr, "%s: not removed\n", folder);
}

void node_fresh(void) {
    static const char *const names[] = {"DEVICES", "PORTS",  "HOST", "LINK",    "SEED",
                                        "FAULTS",  "LEAKS",  "MTU",  "SUBNET",  "ISOLATE",
                                        "LENIENT", "DMABUF", "FORK", "MEMLOCK", "SOURCE_STRICT"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        char name[64];
        snprintf(name, sizeof name, "FAKE_VERBS_%s", names[i]);
        unsetenv(name);
    }
    if (!folder[0])
        atexit(remove_folder);
    else
        remove_folder();
    strcpy(folder, "/tmp/fake_verbs.XXXXXX");
    assert_non_null(mkdtemp(folder));
    setenv("FAKE_VERBS_DIR", folder, 1);
}

void node_open(struct node *n, unsigned device) {
    int count;
    struct ibv_device **list = ibv_get_device_list(&count);
    assert_non_null(list);
    assert_true(count > (int)device);
    memset(n, 0, sizeof *n);
    n->context = ibv_open_device(list[device]);
    assert_non_null(n->context);
    ibv_free_device_list(list);
    n->pd = ibv_alloc_pd(n->context);
    n->channel = ibv_create_comp_channel(n->context);
    assert_non_null(n->pd);
    assert_non_null(n->channel);
    n->cq = ibv_create_cq(n->context, 512, n, n->channel, 0);
    assert_non_null(n->cq);
    n->memory = calloc(1, NODE_BYTES);
    n->mr = ibv_reg_mr(n->pd, n->memory, NODE_BYTES, NODE_ALL);
    assert_non_null(n->mr);
}

void node_close(struct node *n) {
    assert_int_equal(ibv_dereg_mr(n->mr), 0);
    assert_int_equal(ibv_destroy_cq(n->cq), 0);
    assert_int_equal(ibv_destroy_comp_channel(n->channel), 0);
    assert_int_equal(ibv_dealloc_pd(n->pd), 0);
    assert_int_equal(ibv_close_device(n->context), 0);
    free(n->memory);
}

struct ibv_qp *node_qp(struct node *n, const struct node_options *o) {
    struct ibv_qp_init_attr a = {.send_cq = n->cq,
                                 .recv_cq = n->cq,
                                 .qp_type = IBV_QPT_RC,
                                 .sq_sig_all = o->sig_all,
                                 .cap = {.max_send_wr = o->send_wr,
                                         .max_recv_wr = o->recv_wr,
                                         .max_send_sge = 4,
                                         .max_recv_sge = 4,
                                         .max_inline_data = o->inline_data}};
    return ibv_create_qp(n->pd, &a);
}

void node_address(const struct node *n, const struct ibv_qp *qp, const struct node_options *o,
                  struct node_address *a) {
    struct ibv_port_attr port;
    *a = (struct node_address){.qpn = qp->qp_num,
                               .psn = (qp->qp_num * 77) & 0xffffff,
                               .rkey = n->mr->rkey,
                               .memory = (uintptr_t)n->memory};
    assert_int_equal(ibv_query_port(n->context, 1, &port), 0);
    a->lid = port.lid;
    assert_int_equal(ibv_query_gid(n->context, 1, port.lid ? 0 : o->gid_index, &a->gid), 0);
}

int node_init(struct ibv_qp *qp, const struct node_options *o) {
    struct ibv_qp_attr a = {
        .qp_state = IBV_QPS_INIT, .port_num = 1, .qp_access_flags = (unsigned)o->access};
    return ibv_modify_qp(qp, &a,
                         IBV_QP_STATE | IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_ACCESS_FLAGS);
}

int node_rtr(struct ibv_qp *qp, const struct node_options *o, const struct node_address *peer) {
    struct ibv_qp_attr a = {.qp_state = IBV_QPS_RTR,
                            .path_mtu = o->mtu,
                            .dest_qp_num = peer->qpn,
                            .rq_psn = peer->psn,
                            .max_dest_rd_atomic = o->rd_atomic,
                            .min_rnr_timer = o->rnr_timer,
                            .ah_attr = {.port_num = 1, .dlid = peer->lid}};
    if (!peer->lid) {
        a.ah_attr.is_global = 1;
        a.ah_attr.grh = (struct ibv_global_route){
            .dgid = peer->gid, .sgid_index = o->gid_index, .hop_limit = 64};
    }
    return ibv_modify_qp(qp, &a,
                         IBV_QP_STATE | IBV_QP_AV | IBV_QP_PATH_MTU | IBV_QP_DEST_QPN |
                             IBV_QP_RQ_PSN | IBV_QP_MAX_DEST_RD_ATOMIC | IBV_QP_MIN_RNR_TIMER);
}

int node_rts(struct ibv_qp *qp, const struct node_options *o, uint32_t psn) {
    struct ibv_qp_attr a = {.qp_state = IBV_QPS_RTS,
                            .timeout = o->timeout,
                            .retry_cnt = o->retries,
                            .rnr_retry = o->rnr_retries,
                            .sq_psn = psn,
                            .max_rd_atomic = o->rd_atomic};
    return ibv_modify_qp(qp, &a,
                         IBV_QP_STATE | IBV_QP_TIMEOUT | IBV_QP_RETRY_CNT | IBV_QP_RNR_RETRY |
                             IBV_QP_SQ_PSN | IBV_QP_MAX_QP_RD_ATOMIC);
}

void node_connect(struct node *a, struct ibv_qp *qa, struct node *b, struct ibv_qp *qb,
                  const struct node_options *o) {
    struct node_address aa, ab;
    node_address(a, qa, o, &aa);
    node_address(b, qb, o, &ab);
    assert_int_equal(node_init(qa, o), 0);
    assert_int_equal(node_init(qb, o), 0);
    assert_int_equal(node_rtr(qa, o, &ab), 0);
    assert_int_equal(node_rtr(qb, o, &aa), 0);
    assert_int_equal(node_rts(qa, o, aa.psn), 0);
    assert_int_equal(node_rts(qb, o, ab.psn), 0);
}

struct ibv_send_wr node_wr(enum ibv_wr_opcode op, uint64_t id, struct ibv_sge *sge,
                           unsigned flags) {
    return (struct ibv_send_wr){
        .wr_id = id, .opcode = op, .sg_list = sge, .num_sge = sge ? 1 : 0, .send_flags = flags};
}

struct ibv_sge node_sge(const struct node *n, size_t offset, size_t length) {
    return (struct ibv_sge){
        .addr = (uintptr_t)n->memory + offset, .length = (uint32_t)length, .lkey = n->mr->lkey};
}

void node_target(struct ibv_send_wr *wr, const struct node *n, size_t offset) {
    wr->wr.rdma.remote_addr = (uintptr_t)n->memory + offset;
    wr->wr.rdma.rkey = n->mr->rkey;
}

void node_post(struct ibv_qp *qp, struct ibv_send_wr *wr) {
    struct ibv_send_wr *bad;
    assert_int_equal(ibv_post_send(qp, wr, &bad), 0);
}

void node_recv(struct ibv_qp *qp, const struct node *n, uint64_t id, size_t offset, size_t length) {
    struct ibv_sge sge = node_sge(n, offset, length);
    struct ibv_recv_wr wr = {.wr_id = id, .sg_list = &sge, .num_sge = length ? 1 : 0}, *bad;
    assert_int_equal(ibv_post_recv(qp, &wr, &bad), 0);
}

void node_sleep(unsigned ms) {
    struct timespec t = {.tv_sec = ms / 1000, .tv_nsec = (long)(ms % 1000) * 1000000};
    nanosleep(&t, NULL);
}

struct ibv_wc node_poll(struct node *n) {
    struct ibv_wc wc;
    for (int i = 0; i < 300000; i++) {
        int rc = ibv_poll_cq(n->cq, 1, &wc);
        assert_true(rc >= 0);
        if (rc == 1)
            return wc;
        struct timespec t = {.tv_nsec = 100000};
        nanosleep(&t, NULL);
    }
    fail_msg("no completion came");
    abort();
}

struct ibv_wc node_done(struct node *n) {
    struct ibv_wc wc = node_poll(n);
    if (wc.status != IBV_WC_SUCCESS)
        fail_msg("%s", ibv_wc_status_str(wc.status));
    return wc;
}

bool node_quiet(struct node *n, unsigned ms) {
    struct ibv_wc wc;
    for (unsigned i = 0; i < ms; i++) {
        if (ibv_poll_cq(n->cq, 1, &wc) != 0)
            return false;
        node_sleep(1);
    }
    return true;
}

void node_pattern(uint8_t *at, size_t bytes, uint32_t seed) {
    for (size_t i = 0; i < bytes; i++)
        at[i] = (uint8_t)((seed = seed * 1664525u + 1013904223u) >> 24);
}

void node_check(const uint8_t *at, size_t bytes, uint32_t seed) {
    for (size_t i = 0; i < bytes; i++) {
        uint8_t want = (uint8_t)((seed = seed * 1664525u + 1013904223u) >> 24);
        if (at[i] != want)
            fail_msg("byte %zu of %zu is 0x%02x, not 0x%02x", i, bytes, at[i], want);
    }
}
