// SPDX-License-Identifier: MIT
// Thousands of ranks in one process:   sim_big [--check | --empty] RANKS RANKS_PER_HOST ALGORITHM [BYTES]
//   --check   a ring all_reduce of one element per segment (or BYTES), every element of every result compared
//   --empty   messages without payload, as rondo-perf --simulate does
// Times, events and messages are of one operation; the whole time has the making of the ranks and their links, too.
#include "ring/perf/cluster.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

static void usage(void) {
    fprintf(stderr, "usage: sim_big [--check | --empty] RANKS RANKS_PER_HOST ALGORITHM [BYTES]\n");
    exit(2);
}

static int number(const char *text, int max) {
    char *end;
    long v = strtol(text, &end, 10);
    if (*end || v < 1 || v > max) {
        usage();
    }
    return (int)v;
}

int main(int argc, char **argv) {
    struct cluster c = {.cores_per_host = 64,
                        .nic_gbps = 50,
                        .nic_us = 3,
                        .inner_gbps = 100,
                        .inner_us = 1,
                        .touch_gbps = 20,
                        .message_us = 0.3,
                        .seed = 1};
    struct cluster_job j = {.cluster = &c, .kind = RDI_ALL_REDUCE};
    struct cluster_result r;
    if (argc < 5 || argc > 6) {
        usage();
    }
    j.check = strcmp(argv[1], "--check") == 0;
    j.ranks = number(argv[2], CLUSTER_RANKS);
    c.ranks_per_host = number(argv[3], 256);
    c.hosts = (j.ranks + c.ranks_per_host - 1) / c.ranks_per_host;
    j.way = CLUSTER_WAYS;
    for (int w = 0; w < CLUSTER_WAYS; w++) {
        j.way = strcmp(argv[4], cluster_way_name((enum cluster_way)w)) == 0 ? (enum cluster_way)w
                                                                            : j.way;
    }
    // Operations that the algorithm is there for.
    j.kind = j.way == CLUSTER_TREE || j.way == CLUSTER_CHAIN ? RDI_BROADCAST
             : j.way == CLUSTER_PAIRS                        ? RDI_ALL_TO_ALL
                                                             : RDI_ALL_REDUCE;
    if (j.way == CLUSTER_WAYS || !cluster_can(j.kind, j.way, j.ranks, c.ranks_per_host)) {
        usage();
    }
    j.bytes = argc > 5 ? (uint64_t)number(argv[5], 1 << 30)
                       : 64 * (uint64_t)j.ranks; // blocks are multiples of 64 bytes
    if (cluster_run(&j, &r) != RONDO_OK) {
        fprintf(stderr, "sim_big: %s\n", rondo_last_error());
        return 1;
    }
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    printf(
        "%d ranks, %d a host, %s, %llu bytes: %.3f ms of virtual time, %llu messages, %llu events "
        "in %.1f s, %.0f events/s; %.1f s in all, %ld MiB; wrong elements: %llu%s\n",
        j.ranks, c.ranks_per_host, cluster_way_name(j.way), (unsigned long long)j.bytes,
        r.seconds * 1e3, (unsigned long long)r.messages, (unsigned long long)r.events,
        r.real_seconds, (double)r.events / r.real_seconds, r.whole_seconds, u.ru_maxrss / 1024,
        (unsigned long long)r.wrong, j.check ? "" : " (not checked)");
    return r.wrong != 0;
}
