// SPDX-License-Identifier: MIT
// A small verbs program for the tests: one device, one completion queue, queue pairs between two of them.
#ifndef FAKE_VERBS_TEST_NODE_H
#define FAKE_VERBS_TEST_NODE_H

#include <infiniband/verbs.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#define NODE_BYTES (1u << 20)
#define NODE_ALL                                                                 \
    (IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_READ | \
     IBV_ACCESS_REMOTE_ATOMIC)

int fake_verbs_control(const char *device, const char *faults);
long fake_verbs_count(const char *what);
int fake_verbs_peer_memory(const void *addr, size_t length, int fd, uint64_t offset);

struct node {
    struct ibv_context *context;
    struct ibv_pd *pd;
    struct ibv_comp_channel *channel;
    struct ibv_cq *cq;
    struct ibv_mr *mr;
    uint8_t *memory; // NODE_BYTES of it
};

// What one end tells the other.
struct node_address {
    uint32_t qpn, psn, rkey;
    uint16_t lid;
    union ibv_gid gid;
    uint64_t memory;
};

// How a queue pair is connected. node_options() has the usual.
struct node_options {
    enum ibv_mtu mtu;
    uint8_t timeout, retries, rnr_retries, rnr_timer, gid_index, rd_atomic;
    uint32_t send_wr, recv_wr, inline_data;
    int access;
    bool sig_all;
};
struct node_options node_options(void);

// A new folder in FAKE_VERBS_DIR, and no other variable of the library set.
void node_fresh(void);
void node_open(struct node *n, unsigned device);
void node_close(struct node *n);
struct ibv_qp *node_qp(struct node *n, const struct node_options *o);
void node_address(const struct node *n, const struct ibv_qp *qp, const struct node_options *o,
                  struct node_address *a);
// INIT, RTR and RTS. The result of the first call that fails.
int node_init(struct ibv_qp *qp, const struct node_options *o);
int node_rtr(struct ibv_qp *qp, const struct node_options *o, const struct node_address *peer);
int node_rts(struct ibv_qp *qp, const struct node_options *o, uint32_t psn);
void node_connect(struct node *a, struct ibv_qp *qa, struct node *b, struct ibv_qp *qb,
                  const struct node_options *o);

struct ibv_send_wr node_wr(enum ibv_wr_opcode op, uint64_t id, struct ibv_sge *sge, unsigned flags);
struct ibv_sge node_sge(const struct node *n, size_t offset, size_t length);
void node_target(struct ibv_send_wr *wr, const struct node *n, size_t offset);
void node_post(struct ibv_qp *qp, struct ibv_send_wr *wr);
void node_recv(struct ibv_qp *qp, const struct node *n, uint64_t id, size_t offset, size_t length);
// Polls until there is one; fails the test after half a minute.
struct ibv_wc node_poll(struct node *n);
// As node_poll(), and it is a success.
struct ibv_wc node_done(struct node *n);
bool node_quiet(struct node *n, unsigned ms); // no completion comes
void node_sleep(unsigned ms);
void node_pattern(uint8_t *at, size_t bytes, uint32_t seed);
void node_check(const uint8_t *at, size_t bytes, uint32_t seed);

#endif
