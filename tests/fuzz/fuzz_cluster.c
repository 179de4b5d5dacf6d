// SPDX-License-Identifier: MIT
// The description of a cluster that rondo-perf --simulate is given: any text. What is accepted must be within the
// bounds of the simulation; what is not must be told with the line.
#include "fuzz.h"
#include "ring/perf/cluster.h"

static bool within(double v, double min, double max) { return v >= min && v <= max; }

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct cluster c;
    char why[160];
    char *text = own_copy(data, size); // without a NUL
    memset(&c, 0x5a, sizeof c);
    why[0] = '\0';
    if (cluster_read(text, size, &c, why, sizeof why)) {
        MUST(memchr(c.name, 0, sizeof c.name) != NULL);
        MUST(c.hosts >= 1 && c.ranks_per_host >= 1 && c.ranks_per_host <= 256);
        MUST((int64_t)c.hosts * c.ranks_per_host <= CLUSTER_RANKS);
        MUST(c.cores_per_host >= 1 && c.cores_per_host <= 256);
        MUST(c.nics_per_host >= 1 && c.nics_per_host <= 16);
        MUST(within(c.nic_gbps, 0.001, 1e4) && within(c.nic_us, 0.01, 1e6));
        MUST(within(c.inner_gbps, 0.001, 1e5) && within(c.inner_us, 0.001, 1e6));
        MUST(within(c.touch_gbps, 0.001, 1e5) && within(c.message_us, 0, 1e6));
        MUST(within(c.jitter_us, 0, 1e6) && c.seed <= UINT64_C(1) << 53);
    } else {
        MUST(why[0] != '\0' && memchr(why, 0, sizeof why) != NULL);
    }
    free(text);
    return 0;
}
