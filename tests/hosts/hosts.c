// SPDX-License-Identifier: MIT
// One rank of a job over several hosts: hosts RANKS_PER_HOST. Ranks on one host must find each other through
// shared memory by themselves, ranks on different hosts through TCP.
#include "tests/ring/ring_test.h"

#include <stdint.h>

static int traffic(rondo_comm *c, int per_host) {
    int n = rondo_comm_size(c), me = rondo_comm_rank(c), right = (me + 1) % n;
    rondo_comm_stats a = {.size = sizeof a}, b = a;
    size_t count = 100000;
    float *x = calloc(count, sizeof *x), *y = calloc(count, sizeof *y);
    rondo_request *q[2];
    OK(rondo_comm_get_stats(c, &a));
    OK(rondo_send_start(x, count, RONDO_F32, right, c, &q[0]));
    OK(rondo_recv_start(y, count, RONDO_F32, (me + n - 1) % n, c, &q[1]));
    OK(rondo_wait_all(q, 2));
    OK(rondo_comm_get_stats(c, &b));
    uint64_t shm = b.bytes_sent_shm - a.bytes_sent_shm, tcp = b.bytes_sent_tcp - a.bytes_sent_tcp;
    if (right / per_host == me / per_host) {
        CHECK(shm == count * sizeof *x && tcp == 0);
    } else {
        CHECK(tcp == count * sizeof *x && shm == 0);
    }
    free(x);
    free(y);
    return 0;
}

static int sums(rondo_comm *c) {
    int n = rondo_comm_size(c), me = rondo_comm_rank(c);
    static const size_t counts[] = {1, 1000, 70000, 1000003};
    for (size_t k = 0; k < 4; k++) {
        int32_t *x = malloc(counts[k] * sizeof *x);
        for (size_t i = 0; i < counts[k]; i++) {
            x[i] = (int32_t)i + me;
        }
        OK(rondo_all_reduce(x, x, counts[k], RONDO_I32, RONDO_SUM, c));
        for (size_t i = 0; i < counts[k]; i++) {
            CHECK(x[i] == (int32_t)i * n + n * (n - 1) / 2);
        }
        free(x);
    }
    return 0;
}

int main(int argc, char **argv) {
    int per_host = argc == 2 ? atoi(argv[1]) : 0;
    rondo_comm *c = NULL;
    if (per_host < 1) {
        fprintf(stderr, "usage: hosts RANKS_PER_HOST\n");
        return 2;
    }
    OK(rondo_init(NULL, &c));
    CHECK(rondo_comm_local_size(c) == per_host);
    CHECK(rondo_comm_local_rank(c) == rondo_comm_rank(c) % per_host);
    char plan[200];
    OK(rondo_comm_plan(c, 1 << 20, plan, sizeof plan));
    CHECK(strstr(plan, rondo_comm_size(c) == per_host ? "owner" : per_host > 1 ? "node" : "ring"));
    int rc = sums(c) || traffic(c, per_host);
    OK(rondo_comm_destroy(c));
    return rc;
}
