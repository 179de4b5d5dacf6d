// SPDX-License-Identifier: MIT
// One rank of a job over several hosts that reduces within each host first: node RANKS_PER_HOST [bench]. What each host
// sends is what the least is, 2(H-1)/H of the data, as its interface's own counters say; the flat ring sends more. Both
// run in the same processes, in turns, as two jobs. With `bench` their times are printed, else only bytes are checked.
#include "tests/ring/ring_test.h"

#include <inttypes.h>
#include <stdint.h>
#include <time.h>

#define ROUNDS 15
#define ABOVE 1.06 // headers and acknowledgements of TCP and IP

enum { RING, NODE, WAYS };
static const char *const names[WAYS] = {"ring", "node"};

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static double sent_by_host(void) {
    uint64_t n = 0;
    FILE *f = fopen("/sys/class/net/eth0/statistics/tx_bytes", "r");
    if (!f || fscanf(f, "%" SCNu64, &n) != 1) {
        perror("eth0's counter");
        exit(1);
    }
    fclose(f);
    return (double)n;
}

static int check_sums(rondo_comm *c, size_t count) {
    int n = rondo_comm_size(c), me = rondo_comm_rank(c);
    int32_t *x = malloc(count * sizeof *x);
    for (size_t i = 0; i < count; i++) {
        x[i] = (int32_t)(i % 1000) + me;
    }
    OK(rondo_all_reduce(x, x, count, RONDO_I32, RONDO_SUM, c));
    for (size_t i = 0; i < count; i++) {
        CHECK(x[i] == (int32_t)(i % 1000) * n + n * (n - 1) / 2);
    }
    free(x);
    return 0;
}

// All hosts begin after the first barrier and end before the second.
static int check_bytes(rondo_comm *c, int way, int per_host) {
    const size_t count = 1 << 20;
    const int times = 4;
    int n = rondo_comm_size(c), hosts = n / per_host;
    double data = (double)count * sizeof(float) * times;
    double least = 2.0 * (hosts - 1) / hosts * data, flat = 2.0 * (n - 1) / n * data;
    float *x = calloc(count, sizeof *x);
    OK(rondo_all_reduce(x, x, count, RONDO_F32, RONDO_SUM, c)); // links are made
    OK(rondo_barrier(c));
    double before = sent_by_host();
    OK(rondo_barrier(c));
    for (int i = 0; i < times; i++) {
        OK(rondo_all_reduce(x, x, count, RONDO_F32, RONDO_SUM, c));
    }
    OK(rondo_barrier(c));
    double sent = sent_by_host() - before;
    OK(rondo_barrier(c));
    free(x);
    double wanted = way == NODE ? least : flat;
    if (sent < wanted || sent > wanted * ABOVE) {
        fprintf(stderr, "%s: the host sent %.0f bytes, not %.0f to %.0f\n", names[way], sent,
                wanted, wanted * ABOVE);
        return 1;
    }
    return 0;
}

static int by_value(const void *a, const void *b) {
    const double *x = a, *y = b;
    return (*x > *y) - (*x < *y);
}

static int bench(rondo_comm *const *c) {
    if (rondo_comm_rank(c[0]) == 0) {
        printf("| bytes | flat ring, ms | node first, ms | ratio |\n|--:|--:|--:|--:|\n");
    }
    for (size_t count = 1 << 14; count <= 16 << 20; count *= 4) {
        void *memory;
        OK(rondo_mem_alloc(count * sizeof(float), &memory));
        float *x = memory;
        double t[WAYS][ROUNDS];
        for (size_t i = 0; i < count; i++) {
            x[i] = 0;
        }
        for (int r = -1; r < ROUNDS; r++) { // the first one warms up
            for (int way = 0; way < WAYS; way++) {
                OK(rondo_barrier(c[way]));
                double start = now();
                OK(rondo_all_reduce(x, x, count, RONDO_F32, RONDO_SUM, c[way]));
                t[way][r < 0 ? 0 : r] = now() - start;
            }
        }
        for (int way = 0; way < WAYS; way++) {
            qsort(t[way], ROUNDS, sizeof **t, by_value);
        }
        double ring = t[RING][ROUNDS / 2] * 1e3, node = t[NODE][ROUNDS / 2] * 1e3;
        if (rondo_comm_rank(c[0]) == 0) {
            printf("| %zu | %.2f | %.2f | %.2f |\n", count * sizeof *x, ring, node, ring / node);
        }
        OK(rondo_mem_free(memory));
    }
    return 0;
}

int main(int argc, char **argv) {
    int per_host = argc >= 2 ? atoi(argv[1]) : 0;
    if (per_host < 2) {
        fprintf(stderr, "usage: node RANKS_PER_HOST [bench], at least 2 on a host\n");
        return 2;
    }
    rondo_comm *c[WAYS];
    for (int way = 0; way < WAYS; way++) {
        rondo_config config = RONDO_CONFIG_INIT;
        config.options = way == NODE ? "algorithm=auto" : "algorithm=ring";
        config.master_port = 29400 + way;
        OK(rondo_init(&config, &c[way]));
        char plan[200];
        OK(rondo_comm_plan(c[way], 1 << 20, plan, sizeof plan));
        CHECK(strstr(plan, names[way]));
        // Of the saved machine each rank has a GPU with a NIC of its own.
        CHECK(strstr(plan, getenv("RONDO_TOPOLOGY") ? "2 streams" : "1 stream)"));
    }
    int rc = argc > 2 ? bench(c) : 0;
    for (int way = 0; way < WAYS && argc == 2 && rc == 0; way++) {
        rc = check_sums(c[way], 1) || check_sums(c[way], 300007) ||
             check_bytes(c[way], way, per_host);
    }
    for (int way = 0; way < WAYS; way++) {
        OK(rondo_comm_destroy(c[way]));
    }
    return rc;
}
