// SPDX-License-Identifier: MIT
// Two ranks in the laboratory play ping-pong over one RC queue pair, with nothing of Rondo's: shows that the
// laboratory's network, devices and faults are what they should be.
//   roce_ping SECONDS      exit code 3: a send failed, 4: the other rank is silent, 5: no set-up
// The ranks find each other by files in $ROCE_SHARE.
#include <infiniband/verbs.h>
#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define SILENCE 3.0 // seconds, after which a rank that only listens asks; the device gives up in 2
#define BYTES 64

struct end {
    uint32_t qpn;
    union ibv_gid gid;
};

static struct side {
    struct ibv_context *context;
    struct ibv_cq *cq;
    struct ibv_qp *qp;
    struct ibv_mr *mr;
    struct end me, other;
    int rank, gid_index;
    enum ibv_mtu mtu;
    uint32_t buffer[2][BYTES / 4]; // to send, to receive
} side;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void need(bool fine, const char *what) {
    if (!fine) {
        perror(what);
        exit(5);
    }
}

static const char *variable(const char *name) {
    const char *value = getenv(name);
    need(value != NULL, name);
    return value;
}

static void open_device(void) {
    int n = 0;
    struct ibv_device **list = ibv_get_device_list(&n);
    for (int i = 0; list != NULL && i < n; i++) {
        if (strcmp(ibv_get_device_name(list[i]), variable("ROCE_DEVICE")) == 0) {
            side.context = ibv_open_device(list[i]);
        }
    }
    need(side.context != NULL, "ROCE_DEVICE");
    ibv_free_device_list(list);
    struct ibv_port_attr port;
    need(ibv_query_port(side.context, 1, &port) == 0, "ibv_query_port");
    side.mtu = port.active_mtu;
    // The entry of an IPv4 address: ::ffff:a.b.c.d.
    static const uint8_t mapped[12] = {[10] = 0xff, [11] = 0xff};
    side.gid_index = -1;
    for (int i = 0; i < port.gid_tbl_len && side.gid_index < 0; i++) {
        if (ibv_query_gid(side.context, 1, i, &side.me.gid) == 0 &&
            memcmp(side.me.gid.raw, mapped, sizeof mapped) == 0) {
            side.gid_index = i;
        }
    }
    need(side.gid_index >= 0, "a GID with an IPv4 address");
}

static void create(void) {
    struct ibv_pd *pd = ibv_alloc_pd(side.context);
    need(pd != NULL, "ibv_alloc_pd");
    side.cq = ibv_create_cq(side.context, 16, NULL, NULL, 0);
    need(side.cq != NULL, "ibv_create_cq");
    side.mr = ibv_reg_mr(pd, side.buffer, sizeof side.buffer, IBV_ACCESS_LOCAL_WRITE);
    need(side.mr != NULL, "ibv_reg_mr");
    struct ibv_qp_init_attr init = {.send_cq = side.cq,
                                    .recv_cq = side.cq,
                                    .cap = {4, 4, 1, 1, 0},
                                    .qp_type = IBV_QPT_RC,
                                    .sq_sig_all = 1};
    side.qp = ibv_create_qp(pd, &init);
    need(side.qp != NULL, "ibv_create_qp");
    side.me.qpn = side.qp->qp_num;
}

// Gives our own end to the other rank under a name, and waits for the other's.
static void exchange(const char *name) {
    char path[256], temporary[272];
    const char *share = variable("ROCE_SHARE");
    snprintf(path, sizeof path, "%s/%s.%d", share, name, side.rank);
    snprintf(temporary, sizeof temporary, "%s.new", path);
    FILE *f = fopen(temporary, "wb");
    need(f != NULL && fwrite(&side.me, sizeof side.me, 1, f) == 1 && fclose(f) == 0, temporary);
    need(rename(temporary, path) == 0, path);
    snprintf(path, sizeof path, "%s/%s.%d", share, name, 1 - side.rank);
    double until = now() + 30;
    while ((f = fopen(path, "rb")) == NULL) {
        need(now() < until, path);
        usleep(10000);
    }
    need(fread(&side.other, sizeof side.other, 1, f) == 1, path);
    fclose(f);
}

static void post_receive(void) {
    struct ibv_sge part = {(uintptr_t)side.buffer[1], BYTES, side.mr->lkey};
    struct ibv_recv_wr wr = {.wr_id = 1, .sg_list = &part, .num_sge = 1}, *bad;
    need(ibv_post_recv(side.qp, &wr, &bad) == 0, "ibv_post_recv");
}

static void post_send(uint32_t count, uint32_t last) {
    side.buffer[0][0] = count;
    side.buffer[0][1] = last;
    struct ibv_sge part = {(uintptr_t)side.buffer[0], BYTES, side.mr->lkey};
    struct ibv_send_wr wr = {.sg_list = &part, .num_sge = 1, .opcode = IBV_WR_SEND}, *bad;
    need(ibv_post_send(side.qp, &wr, &bad) == 0, "ibv_post_send");
}

static void connect_pair(void) {
    struct ibv_qp_attr a = {.qp_state = IBV_QPS_INIT, .port_num = 1};
    need(ibv_modify_qp(side.qp, &a,
                       IBV_QP_STATE | IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_ACCESS_FLAGS) == 0,
         "to INIT");
    post_receive();
    a = (struct ibv_qp_attr){.qp_state = IBV_QPS_RTR,
                             .path_mtu = side.mtu,
                             .dest_qp_num = side.other.qpn,
                             .min_rnr_timer = 12,
                             .ah_attr = {.is_global = 1, .port_num = 1}};
    a.ah_attr.grh = (struct ibv_global_route){
        .dgid = side.other.gid, .sgid_index = (uint8_t)side.gid_index, .hop_limit = 16};
    need(ibv_modify_qp(side.qp, &a,
                       IBV_QP_STATE | IBV_QP_AV | IBV_QP_PATH_MTU | IBV_QP_DEST_QPN |
                           IBV_QP_RQ_PSN | IBV_QP_MAX_DEST_RD_ATOMIC | IBV_QP_MIN_RNR_TIMER) == 0,
         "to RTR");
    a = (struct ibv_qp_attr){
        .qp_state = IBV_QPS_RTS, .timeout = 16, .retry_cnt = 6, .rnr_retry = 6};
    need(ibv_modify_qp(side.qp, &a,
                       IBV_QP_STATE | IBV_QP_TIMEOUT | IBV_QP_RETRY_CNT | IBV_QP_RNR_RETRY |
                           IBV_QP_SQ_PSN | IBV_QP_MAX_QP_RD_ATOMIC) == 0,
         "to RTS");
}

// Until the other's next message is in side.buffer[1]. Who has nothing on the way never learns from the
// device that the other is gone: after some silence a message is sent that nobody waits for.
static void wait_message(uint32_t count) {
    double until = now() + SILENCE;
    bool asked = false;
    struct ibv_wc wc;
    for (;;) {
        int n = ibv_poll_cq(side.cq, 1, &wc);
        need(n >= 0, "ibv_poll_cq");
        if (n > 0 && wc.status != IBV_WC_SUCCESS) {
            printf("after %u messages: %s\n", count, ibv_wc_status_str(wc.status));
            exit(3);
        }
        if (n > 0 && wc.wr_id == 1) {
            return;
        }
        if (n == 0 && now() > until) {
            if (asked) {
                printf("after %u messages: silence\n", count);
                exit(4);
            }
            post_send(UINT32_MAX, 0);
            asked = true;
            until = now() + 5 * SILENCE;
        }
        if (n == 0) {
            sched_yield();
        }
    }
}

int main(int argc, char **argv) {
    setvbuf(stdout, NULL, _IOLBF, 0);
    double seconds = argc == 2 ? strtod(argv[1], NULL) : 1;
    side.rank = atoi(variable("RANK"));
    open_device();
    create();
    exchange("end");
    connect_pair();
    exchange("ready"); // the device gives up soon on a queue pair that is not ready
    double begin = now(), last = begin, gap = 0;
    uint32_t count = 0;
    bool more = true;
    while (more) {
        if (side.rank == 0) {
            more = now() < begin + seconds;
            post_send(count, !more);
        }
        wait_message(count);
        need(side.buffer[1][0] == count, "the message that was due");
        if (side.rank == 1) {
            more = side.buffer[1][1] == 0;
        }
        count++;
        post_receive();
        if (side.rank == 1) {
            post_send(count - 1, !more);
        }
        gap = now() - last > gap ? now() - last : gap;
        last = now();
    }
    printf("%u messages, largest gap %.2f s\n", count, gap);
    usleep(300000); // the last one is to be acknowledged before the queue pair goes
    return 0;
}
