// SPDX-License-Identifier: MIT
// Limits of the cgroup and of all groups above it, in both versions of the kernel's interface.
#include "transport/doctor/doctor.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

#define UNLIMITED_V1 (UINT64_C(1) << 60) // version 1 writes a number just below 2^63
#define THREADS_PER_RANK 4u
#define BYTES_PER_RANK (UINT64_C(256) << 20)
#define MANY 16u // groups above each other

// The group of this process for a controller of version 1 ("memory"), or of version 2 (""). False: none.
static bool group_of(const struct doctor *d, const char *controller, char *out, size_t cap) {
    char text[DR_TEXT];
    if (!dr_read(d, text, sizeof text, "/proc/self/cgroup")) {
        return false;
    }
    for (char *line = text; line != NULL && *line != '\0';) {
        char *next = strchr(line, '\n');
        if (next != NULL) {
            *next++ = '\0';
        }
        char *list = strchr(line, ':'), *path = list != NULL ? strchr(list + 1, ':') : NULL;
        if (path != NULL) {
            *path++ = '\0';
            for (char *name = list + 1; name != NULL;) {
                size_t n = strcspn(name, ",");
                if (strlen(controller) == n && memcmp(controller, name, n) == 0) {
                    snprintf(out, cap, "%s", strcmp(path, "/") == 0 ? "" : path);
                    return strstr(out, "..") == NULL;
                }
                name = name[n] == ',' ? name + n + 1 : NULL;
            }
        }
        line = next;
    }
    return false;
}

// Groups from this process's upwards, as folders below the root: version 2 first, then version 1.
struct groups {
    char folder[MANY][PATH_MAX / 4];
    unsigned n;
    bool v1;
};

static void add_upwards(struct groups *g, const char *base, char *path) {
    for (;;) {
        snprintf(g->folder[g->n++], sizeof g->folder[0], "%s%s", base, path);
        char *slash = strrchr(path, '/');
        if (slash == NULL || g->n == MANY) {
            return;
        }
        *slash = '\0';
    }
}

static bool find_groups(const struct doctor *d, const char *controller, const char *file1,
                        struct groups *g) {
    char path[PATH_MAX / 8], base[64];
    memset(g, 0, sizeof *g);
    // A group that lies outside what this container sees is not found; then the topmost one counts.
    snprintf(base, sizeof base, "/sys/fs/cgroup/%s", controller);
    g->v1 = dr_exists(d, "%s/%s", base, file1);
    if (g->v1) {
        if (!group_of(d, controller, path, sizeof path) || !dr_exists(d, "%s%s", base, path)) {
            path[0] = '\0';
        }
        add_upwards(g, base, path);
        return true;
    }
    if (!dr_exists(d, "/sys/fs/cgroup/cgroup.controllers")) {
        return false;
    }
    if (!group_of(d, "", path, sizeof path) || !dr_exists(d, "/sys/fs/cgroup%s", path)) {
        path[0] = '\0';
    }
    add_upwards(g, "/sys/fs/cgroup", path);
    return true;
}

// The least value of a file in all these groups, and where; UINT64_MAX: no limit.
static uint64_t least(const struct doctor *d, const struct groups *g, const char *file1,
                      const char *file2, unsigned *where) {
    uint64_t min = UINT64_MAX;
    for (unsigned i = 0; i < g->n; i++) {
        uint64_t v;
        if (dr_read_number(d, &v, "%s/%s", g->folder[i], g->v1 ? file1 : file2) && v < min &&
            !(g->v1 && v >= UNLIMITED_V1)) {
            min = v;
            *where = i;
        }
    }
    return min;
}

static void no_cgroup(struct doctor *d, const char *what) {
    dr_add(d, DR_OK, NULL, "no cgroup limits %s, as far as /sys/fs/cgroup tells", what);
}

void dr_cgroup_memory(struct doctor *d) {
    struct groups g;
    unsigned where = 0;
    uint64_t limit = UINT64_MAX, used = 0;
    if (find_groups(d, "memory", "memory.limit_in_bytes", &g)) {
        limit = least(d, &g, "memory.limit_in_bytes", "memory.max", &where);
    }
    if (limit == UINT64_MAX) {
        no_cgroup(d, "memory");
        return;
    }
    dr_read_number(d, &used, "%s/%s", g.folder[where],
                   g.v1 ? "memory.usage_in_bytes" : "memory.current");
    bool little = limit < (uint64_t)d->per_node * BYTES_PER_RANK;
    char a[32], b[32];
    dr_add(d, little ? DR_WARNING : DR_INFO, g.folder[where], "memory limit %s, %s of it used",
           dr_bytes(limit, a), dr_bytes(used, b));
    dr_means(d,
             "shared memory between ranks counts too, and what exceeds the limit is killed"
             " (signal 9)%s",
             little ? "; this is little for so many ranks" : "");
    if (little) {
        dr_remedy(d, "raise it (docker run --memory, srun --mem, Kubernetes resources.limits)");
    }
}

void dr_cgroup_cpu(struct doctor *d) {
    struct groups g;
    double least_cpus = 0;
    unsigned where = 0;
    bool any = find_groups(d, "cpu", "cpu.cfs_quota_us", &g);
    for (unsigned i = 0; any && i < g.n; i++) {
        uint64_t quota = UINT64_MAX, period = 100000;
        char text[128];
        if (g.v1) {
            if (dr_read_number(d, &quota, "%s/cpu.cfs_quota_us", g.folder[i])) {
                dr_read_number(d, &period, "%s/cpu.cfs_period_us", g.folder[i]);
            }
        } else if (dr_read(d, text, sizeof text, "%s/cpu.max", g.folder[i]) &&
                   sscanf(text, "%lu %lu", &quota, &period) != 2) {
            quota = UINT64_MAX; // "max 100000"
        }
        double cpus = quota != UINT64_MAX && period > 0 ? (double)quota / (double)period : 0;
        if (cpus > 0 && (least_cpus == 0 || cpus < least_cpus)) {
            least_cpus = cpus;
            where = i;
        }
    }
    if (least_cpus == 0) {
        no_cgroup(d, "processor time");
        return;
    }
    bool little = least_cpus < d->per_node;
    dr_add(d, little ? DR_WARNING : DR_INFO, g.folder[where],
           "processor time for %.3g processors, for %d rank%s", least_cpus, d->per_node,
           d->per_node == 1 ? "" : "s");
    if (little) {
        dr_means(d, "ranks are stopped for part of each period, and the others wait for them");
        dr_remedy(d, "raise it (docker run --cpus, Kubernetes resources.limits.cpu), or start fewer"
                     " ranks here");
    }
}

void dr_cgroup_pids(struct doctor *d) {
    struct groups g;
    unsigned where = 0;
    uint64_t limit = UINT64_MAX, used = 0, need = (uint64_t)d->per_node * THREADS_PER_RANK + 2;
    if (find_groups(d, "pids", "pids.max", &g)) {
        limit = least(d, &g, "pids.max", "pids.max", &where);
    }
    if (limit == UINT64_MAX) {
        no_cgroup(d, "the number of threads");
        return;
    }
    dr_read_number(d, &used, "%s/pids.current", g.folder[where]);
    bool few = limit < used || limit - used < need;
    dr_add(d, few ? DR_ERROR : DR_OK, g.folder[where],
           "%llu threads and processes, %llu of them in use; %d rank%s need some %llu",
           (unsigned long long)limit, (unsigned long long)used, d->per_node,
           d->per_node == 1 ? "" : "s", (unsigned long long)need);
    if (few) {
        dr_means(d, "ranks cannot be started, or cannot start their threads (EAGAIN)");
        dr_remedy(d,
                  "raise it (docker run --pids-limit, Kubernetes podPidsLimit, systemd TasksMax)");
    }
}

// A line of rdma.max: "mlx5_0 hca_handle=2 hca_object=max".
static void rdma_line(struct doctor *d, const char *folder, char *line) {
    char *name = strsep(&line, " ");
    for (char *item = strsep(&line, " "); item != NULL; item = strsep(&line, " ")) {
        char *value = strchr(item, '=');
        if (value == NULL || strcmp(value, "=max") == 0) {
            continue;
        }
        bool handles = strncmp(item, "hca_handle", 10) == 0;
        unsigned long long n = strtoull(value + 1, NULL, 10);
        unsigned long long need = (unsigned long long)d->per_node *
                                  (handles ? 1u : 4u * (unsigned)d->ranks + 16u);
        enum dr_level few = dr_insists(d, "verbs") ? DR_ERROR : DR_WARNING;
        dr_add(d, n < need ? few : DR_OK, name, "%s permits %s; the job needs some %llu", folder,
               item, need);
        if (n < need) {
            dr_means(d, "opening the device or connecting to a peer fails (ENOMEM or EAGAIN)");
            dr_remedy(d, "raise rdma.max of this group");
        }
    }
}

void dr_cgroup_rdma(struct doctor *d) {
    struct groups g;
    size_t before = d->n;
    bool any = find_groups(d, "rdma", "rdma.max", &g);
    for (unsigned i = 0; any && i < g.n; i++) {
        char text[DR_TEXT], *rest = text;
        if (dr_read(d, text, sizeof text, "%s/rdma.max", g.folder[i])) {
            for (char *line = strsep(&rest, "\n"); line != NULL; line = strsep(&rest, "\n")) {
                rdma_line(d, g.folder[i], line);
            }
        }
    }
    if (d->n == before) {
        no_cgroup(d, "RDMA objects");
    }
}
