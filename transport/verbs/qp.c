// SPDX-License-Identifier: MIT
// Queue pairs: making, connecting, destroying; the account of their work requests.
//
//   sq_head <= sq_tail <= sq_head + sq_size      work requests are retired in order, by the next signaled one
//
// Queue sizes follow from the slots, so that neither a queue nor a completion queue can overrun: what is
// posted is bounded by credit, and a device whose completion queue is promised away takes no more queue pairs.
#include "transport/verbs/verbs.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define HOP_LIMIT 255
#define RNR_US 640 // how long the peer waits when no receive is posted, which credit prevents
#define RNR_FOREVER 7
#define PSN_MASK 0xffffffu

// ---- Finding -------------------------------------------------------------------------------------

static unsigned bucket(unsigned rail, uint32_t qpn) {
    return (qpn ^ qpn >> 8 ^ rail << 6) % RDI_VERBS_BUCKETS;
}

struct rdi_verbs_qp *rdi_verbs_qp_find(struct rdi_verbs_net *n, unsigned rail, uint32_t qpn) {
    struct rdi_verbs_qp *q = n->buckets[bucket(rail, qpn)];
    while (q != NULL && (q->rail != rail || q->qp->qp_num != qpn)) {
        q = q->hash_next;
    }
    return q;
}

// ---- Making --------------------------------------------------------------------------------------

static void choose_sizes(struct rdi_verbs_qp *q) {
    const struct rdi_verbs_link *l = q->link;
    uint32_t slots = l->base.slots != 0 ? l->base.slots : rdi_verbs_net_of(l)->slots;
    uint32_t stripes = rdi_verbs_may_part(l) ? 2 : 1; // of one message
    if (l->base.sender) {
        // Each message, and a request for completion behind it; credit comes on the first one only.
        q->sq_size = slots * ((l->mode == RDI_VERBS_SPLIT ? 2 : 1) * stripes + 1) + 4;
        q->rq_size = q->index == 0 ? slots + 1 : 1;
    } else {
        q->sq_size = q->index == 0 ? slots + 4 : 1;
        q->rq_size = l->mode == RDI_VERBS_SEND ? slots / l->nqps + 2 : slots * stripes + 1;
    }
}

static rondo_status check_sizes(const struct rdi_verbs_qp *q, const struct rdi_verbs_rail *r) {
    uint32_t most = (uint32_t)r->info.attr.max_qp_wr, slots = q->link->base.slots;
    if (q->sq_size > most || q->rq_size > most) {
        return rdi_fail(RONDO_ERR_UNSUPPORTED,
                        "%s has queue pairs of %u work requests, and a link of %u slots needs %u; "
                        "lower option slots",
                        r->info.device, most, slots != 0 ? slots : rdi_verbs_net_of(q->link)->slots,
                        q->sq_size > q->rq_size ? q->sq_size : q->rq_size);
    }
    if (q->sq_size + q->rq_size > r->cq_size - r->cq_used) {
        return rdi_fail(RONDO_ERR_NOMEM,
                        "the completion queue of %s has %u entries, all promised to links; lower "
                        "option slots or verbs_qps, or use more devices",
                        r->info.device, r->cq_size);
    }
    return RONDO_OK;
}

static struct ibv_qp *create(struct rdi_verbs_qp *q, struct rdi_verbs_net *n) {
    struct rdi_verbs_rail *r = &n->rails[q->rail];
    for (;;) {
        struct ibv_qp_init_attr a = {.qp_context = q,
                                     .send_cq = r->cq,
                                     .recv_cq = r->cq,
                                     .qp_type = IBV_QPT_RC,
                                     .cap = {.max_send_wr = q->sq_size,
                                             .max_recv_wr = q->rq_size,
                                             .max_send_sge = 2,
                                             .max_recv_sge = 1,
                                             .max_inline_data = n->inline_max[q->rail]}};
        struct ibv_qp *qp = n->v->create_qp(r->pd, &a);
        if (qp != NULL) {
            q->inline_max = a.cap.max_inline_data < n->inline_max[q->rail] ? a.cap.max_inline_data
                                                                           : n->inline_max[q->rail];
            return qp;
        }
        // Devices tell their limit for inline data only by refusing.
        if (n->inline_max[q->rail] == 0 || (errno != EINVAL && errno != ENOMEM)) {
            return NULL;
        }
        n->inline_max[q->rail] /= 2;
    }
}

static int initialize(struct rdi_verbs_qp *q, struct rdi_verbs_net *n) {
    const struct rdi_verbs_link *l = q->link;
    bool written = !l->base.sender && l->mode != RDI_VERBS_SEND;
    struct ibv_qp_attr a = {.qp_state = IBV_QPS_INIT,
                            .pkey_index = (uint16_t)n->base.params.options->num[RDI_OPT_VERBS_PKEY],
                            .port_num = n->rails[q->rail].info.port,
                            .qp_access_flags = IBV_ACCESS_LOCAL_WRITE |
                                               (written ? IBV_ACCESS_REMOTE_WRITE : 0u)};
    return n->v->modify_qp(q->qp, &a,
                           IBV_QP_STATE | IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_ACCESS_FLAGS);
}

rondo_status rdi_verbs_qp_make(struct rdi_verbs_link *l, unsigned index) {
    struct rdi_verbs_net *n = rdi_verbs_net_of(l);
    struct rdi_verbs_qp *q = &l->qps[index];
    *q = (struct rdi_verbs_qp){.link = l, .index = index};
    q->rail = l->pairs[rdi_verbs_pair_of(l, q)].mine;
    struct rdi_verbs_rail *r = &n->rails[q->rail];
    choose_sizes(q);
    rondo_status s = check_sizes(q, r);
    if (s != RONDO_OK) {
        return s;
    }
    q->sq = calloc(q->sq_size, sizeof *q->sq);
    if (q->sq == NULL) {
        return rdi_fail(RONDO_ERR_NOMEM, "no memory for a queue pair");
    }
    q->qp = create(q, n);
    if (q->qp == NULL) {
        int err = errno;
        free(q->sq);
        q->sq = NULL;
        return rdi_fail_errno(err == ENOMEM ? RONDO_ERR_NOMEM : RONDO_ERR_SYSTEM, err,
                              "%s makes no queue pair for %u sends and %u receives (ulimit -l, "
                              "option slots)",
                              r->info.device, q->sq_size, q->rq_size);
    }
    r->cq_used += q->sq_size + q->rq_size;
    q->generation = ++n->generation & 0x7fffffff;
    n->base.params.env.random(n->base.params.env.self, &q->psn, sizeof q->psn);
    q->psn &= PSN_MASK;
    struct rdi_verbs_qp **b = &n->buckets[bucket(q->rail, q->qp->qp_num)];
    q->hash_next = *b;
    *b = q;
    int err = initialize(q, n);
    if (err != 0) {
        return rdi_fail_errno(RONDO_ERR_SYSTEM, err,
                              "%s port %u takes no queue pair to INIT (option verbs_pkey %lld)",
                              r->info.device, r->info.port,
                              (long long)n->base.params.options->num[RDI_OPT_VERBS_PKEY]);
    }
    return RONDO_OK;
}

// ---- Connecting ----------------------------------------------------------------------------------

static void address_of_peer(const struct rdi_verbs_qp *q, struct ibv_ah_attr *ah) {
    const struct rdi_verbs_link *l = q->link;
    const struct rdi_verbs_net *n = rdi_verbs_net_of(l);
    const struct rdi_options *o = n->base.params.options;
    const struct rdi_verbs_pair *p = &l->pairs[rdi_verbs_pair_of(l, q)];
    const struct rdi_verbs_rail_info *peer = &l->peer.rails[p->theirs];
    *ah = (struct ibv_ah_attr){.dlid = peer->lid,
                               .sl = (uint8_t)o->num[RDI_OPT_VERBS_SL],
                               .port_num = n->rails[q->rail].info.port};
    if (p->grh) {
        ah->is_global = 1;
        ah->grh.sgid_index = (uint8_t)n->self.rails[p->mine].gids[p->my_gid].index;
        ah->grh.hop_limit = HOP_LIMIT;
        ah->grh.traffic_class = (uint8_t)o->num[RDI_OPT_VERBS_TC];
        memcpy(ah->grh.dgid.raw, peer->gids[p->their_gid].raw, sizeof ah->grh.dgid.raw);
    }
}

int rdi_verbs_qp_connect(struct rdi_verbs_qp *q, const char **what) {
    const struct rdi_verbs_net *n = rdi_verbs_net_of(q->link);
    struct ibv_qp_attr a = {.qp_state = IBV_QPS_RTR,
                            .path_mtu = (enum ibv_mtu)q->link->mtu[q->index % q->link->nused],
                            .dest_qp_num = q->peer_qpn,
                            .rq_psn = q->peer_psn,
                            .max_dest_rd_atomic = 1,
                            .min_rnr_timer = rdi_verbs_rnr_code(RNR_US)};
    address_of_peer(q, &a.ah_attr);
    *what = "ready to receive";
    int err = n->v->modify_qp(q->qp, &a,
                              IBV_QP_STATE | IBV_QP_AV | IBV_QP_PATH_MTU | IBV_QP_DEST_QPN |
                                  IBV_QP_RQ_PSN | IBV_QP_MAX_DEST_RD_ATOMIC | IBV_QP_MIN_RNR_TIMER);
    if (err != 0) {
        return err;
    }
    a = (struct ibv_qp_attr){.qp_state = IBV_QPS_RTS,
                             .sq_psn = q->psn,
                             .max_rd_atomic = 1,
                             .retry_cnt = (uint8_t)n->retries,
                             .rnr_retry = RNR_FOREVER,
                             .timeout = n->timeout};
    *what = "ready to send";
    return n->v->modify_qp(q->qp, &a,
                           IBV_QP_STATE | IBV_QP_SQ_PSN | IBV_QP_MAX_QP_RD_ATOMIC |
                               IBV_QP_RETRY_CNT | IBV_QP_RNR_RETRY | IBV_QP_TIMEOUT);
}

// ---- Ending --------------------------------------------------------------------------------------

void rdi_verbs_qp_error(struct rdi_verbs_qp *q) {
    if (q->qp != NULL && !q->error) {
        struct ibv_qp_attr a = {.qp_state = IBV_QPS_ERR};
        q->error = true;
        // When even that is refused the device is gone, and so is all that it could do.
        (void)rdi_verbs_net_of(q->link)->v->modify_qp(q->qp, &a, IBV_QP_STATE);
    }
}

void rdi_verbs_qp_destroy(struct rdi_verbs_qp *q) {
    if (q->qp == NULL) {
        return;
    }
    struct rdi_verbs_net *n = rdi_verbs_net_of(q->link);
    rdi_verbs_qp_error(q);
    struct rdi_verbs_qp **at = &n->buckets[bucket(q->rail, q->qp->qp_num)];
    while (*at != q) {
        at = &(*at)->hash_next;
    }
    *at = q->hash_next;
    int err = n->v->destroy_qp(q->qp);
    if (err != 0) {
        rdi_log(&n->base.params.env, RONDO_LOG_ERROR, "%s: cannot destroy queue pair: %s",
                n->rails[q->rail].info.device, strerrordesc_np(err));
    }
    n->rails[q->rail].cq_used -= q->sq_size + q->rq_size;
    free(q->sq);
    *q = (struct rdi_verbs_qp){.link = q->link, .index = q->index};
}

// ---- Work requests -------------------------------------------------------------------------------

static uint64_t id_of(const struct rdi_verbs_qp *q, uint64_t number) {
    return (uint64_t)q->generation << 32 | (uint32_t)number;
}

int rdi_verbs_qp_receive(struct rdi_verbs_qp *q, uint32_t id, void *to, uint32_t bytes) {
    struct ibv_sge sge = {.addr = (uintptr_t)to, .length = bytes};
    struct ibv_recv_wr wr = {.wr_id = RDI_VERBS_RECV | id_of(q, id)}, *bad;
    if (to != NULL) {
        sge.lkey = q->link->mr[q->rail]->lkey;
        wr.sg_list = &sge;
        wr.num_sge = 1;
    }
    int err = q->rq_left < q->rq_size ? ibv_post_recv(q->qp, &wr, &bad) : ENOMEM;
    if (err != 0) {
        rdi_verbs_broken(q, "a receive was refused: %s", strerrordesc_np(err));
        return err;
    }
    q->rq_left++;
    return 0;
}

bool rdi_verbs_qp_room(const struct rdi_verbs_qp *q, unsigned count) {
    return q->sq_tail - q->sq_head + count < q->sq_size;
}

bool rdi_verbs_qp_send(struct rdi_verbs_qp *q, struct ibv_send_wr *first, unsigned count,
                       uint64_t seq, bool signaled) {
    struct ibv_send_wr *bad = NULL, *wr = first;
    for (unsigned i = 0; i < count; i++) {
        bool last = i + 1 == count;
        wr->wr_id = id_of(q, q->sq_tail + i);
        wr->send_flags |= last && signaled ? (unsigned)IBV_SEND_SIGNALED : 0u;
        q->sq[(q->sq_tail + i) % q->sq_size] = last ? seq : RDI_VERBS_NONE;
        wr->next = last ? NULL : wr + 1;
        wr = last ? wr : wr + 1;
    }
    int err = ibv_post_send(q->qp, first, &bad);
    if (err != 0) {
        rdi_verbs_broken(q, "a work request was refused: %s", strerrordesc_np(err));
        return false;
    }
    q->sq_tail += count;
    q->unsignaled = signaled ? 0 : q->unsignaled + 1;
    return true;
}

void rdi_verbs_qp_retire(struct rdi_verbs_qp *q, uint32_t number) {
    uint64_t id = rdi_verbs_later(q->sq_head, number);
    if (id >= q->sq_tail) {
        rdi_verbs_broken(q, "a completion for a work request that was not posted");
        return;
    }
    while (q->sq_head <= id) {
        uint64_t seq = q->sq[q->sq_head % q->sq_size];
        q->sq_head++;
        if (seq == RDI_VERBS_PING) {
            rdi_verbs_pinged(q->link);
        } else if (seq != RDI_VERBS_NONE) {
            rdi_verbs_tx_done(q->link, seq);
        }
    }
}

// ---- Words ---------------------------------------------------------------------------------------

static void end_text(char *buf, size_t cap, const struct rdi_verbs_rail_info *r, uint8_t gid,
                     uint32_t qpn) {
    char text[48] = "-";
    if (gid < r->ngids) {
        rdi_verbs_gid_text(&r->gids[gid], text, sizeof text);
    }
    snprintf(buf, cap, "%s port %u, GID %s, QP %u", r->device, r->port, text, qpn);
}

const char *rdi_verbs_ends(const struct rdi_verbs_link *l, const struct rdi_verbs_qp *q, char *buf,
                           size_t cap) {
    const struct rdi_verbs_net *n = rdi_verbs_net_of(l);
    const struct rdi_verbs_pair *p = &l->pairs[rdi_verbs_pair_of(l, q)];
    char mine[128], theirs[128], who[128];
    end_text(mine, sizeof mine, &n->self.rails[p->mine], p->my_gid,
             q->qp != NULL ? q->qp->qp_num : 0);
    end_text(theirs, sizeof theirs, &l->peer.rails[p->theirs], p->their_gid, q->peer_qpn);
    snprintf(buf, cap, "rank %d on host %s (%s) and %s (%s)", n->base.params.job->rank,
             n->base.params.job->host, mine, rdi_verbs_peer_name(l, who, sizeof who), theirs);
    return buf;
}
