// SPDX-License-Identifier: MIT
// The host: container, processors, NUMA, and what the kernel permits.
#include "transport/doctor/doctor.h"

#include <stdlib.h>
#include <string.h>

// ---- Container -----------------------------------------------------------------------------------

// Its kind, or NULL.
static const char *container(struct doctor *d) {
    static const struct {
        const char *word, *kind;
    } words[] = {{"kubepods", "Kubernetes"},
                 {"docker", "Docker"},
                 {"libpod", "Podman"},
                 {"lxc", "LXC"},
                 {"containerd", "containerd"}};
    char text[DR_TEXT];
    if (dr_exists(d, "/.dockerenv")) {
        return "Docker";
    }
    if (dr_exists(d, "/run/.containerenv")) {
        return "Podman";
    }
    if (dr_exists(d, "/.singularity.d")) {
        return "Apptainer";
    }
    if (dr_exists(d, "/var/run/secrets/kubernetes.io")) {
        return "Kubernetes";
    }
    if (dr_read(d, text, sizeof text, "/proc/self/cgroup")) {
        for (size_t i = 0; i < sizeof words / sizeof words[0]; i++) {
            if (strstr(text, words[i].word) != NULL) {
                return words[i].kind;
            }
        }
    }
    return dr_read(d, text, sizeof text, "/run/systemd/container") && text[0] != '\0'
               ? "systemd-nspawn"
               : NULL;
}

void dr_host_container(struct doctor *d) {
    const char *kind = container(d);
    char text[256];
    unsigned inside, outside, count;
    if (kind == NULL) {
        dr_add(d, DR_OK, NULL, "not a container, as far as files tell");
    } else {
        dr_add(d, DR_INFO, NULL, "a container (%s)", kind);
        dr_means(d, "limits, devices and interfaces are the container's: what the host has may be"
                    " missing here");
    }
    if (dr_read(d, text, sizeof text, "/proc/self/uid_map") &&
        sscanf(text, "%u %u %u", &inside, &outside, &count) == 3 && count != UINT32_MAX) {
        dr_add(d, DR_INFO, NULL, "a user namespace: user %u here is user %u outside", inside,
               outside);
        dr_means(d, "being root here does not lift the limit on locked memory");
    }
}

// ---- Processors ----------------------------------------------------------------------------------

static bool allowed_cpus(const struct doctor *d, char *list, size_t cap) {
    char text[DR_TEXT];
    if (!dr_read(d, text, sizeof text, "/proc/self/status")) {
        return false;
    }
    const char *line = strstr(text, "Cpus_allowed_list:");
    if (line == NULL) {
        return false;
    }
    line += strlen("Cpus_allowed_list:");
    line += strspn(line, " \t");
    snprintf(list, cap, "%.*s", (int)strcspn(line, "\n"), line);
    return true;
}

void dr_host_cpus(struct doctor *d) {
    char allowed[1024], online[1024];
    if (!allowed_cpus(d, allowed, sizeof allowed)) {
        dr_add(d, DR_INFO, NULL, "/proc/self/status is not readable: processors are unknown");
        return;
    }
    unsigned mine = dr_list_count(allowed, 0, NULL), all = mine;
    if (dr_read(d, online, sizeof online, "/sys/devices/system/cpu/online")) {
        all = dr_list_count(online, 0, NULL);
    }
    bool few = mine < (unsigned)d->per_node;
    dr_add(d, few ? DR_WARNING : DR_OK, NULL, "%u of %u processors may be used (%s), for %d rank%s",
           mine, all, allowed, d->per_node, d->per_node == 1 ? "" : "s");
    if (few) {
        dr_means(d,
                 "ranks take turns: a rank that waits for another one waits for a processor too");
        dr_remedy(d, mine < all ? "give the job more processors (taskset, cpuset, srun"
                                  " --cpus-per-task, docker run --cpuset-cpus)"
                                : "start fewer ranks on this host");
    }
}

struct numa {
    const char *class; // of the cards that are looked at
    char allowed[1024];
    unsigned nodes, used; // that there are; that have an allowed processor
    bool mine[64];
};

static void visit_node(struct doctor *d, const char *name, void *arg) {
    struct numa *n = arg;
    char cpus[1024];
    unsigned node;
    if (sscanf(name, "node%u", &node) != 1 || node >= 64 ||
        !dr_read(d, cpus, sizeof cpus, "/sys/devices/system/node/%s/cpulist", name)) {
        return;
    }
    n->nodes++;
    for (unsigned cpu = 0; cpu < 4096 && !n->mine[node]; cpu++) {
        bool there, allowed;
        dr_list_count(cpus, cpu, &there);
        dr_list_count(n->allowed, cpu, &allowed);
        n->mine[node] = there && allowed;
    }
    n->used += n->mine[node];
}

static void visit_card(struct doctor *d, const char *name, void *arg) {
    struct numa *n = arg;
    uint64_t node;
    // "-1": the machine does not say.
    if (!dr_read_number(d, &node, "/sys/class/%s/%s/device/numa_node", n->class, name) ||
        node >= 64) {
        return;
    }
    dr_add(d, n->mine[node] ? DR_OK : DR_WARNING, name, "on NUMA node %u%s", (unsigned)node,
           n->mine[node] ? "" : ", where no processor may be used");
    if (!n->mine[node]) {
        dr_means(d, "all that it sends and receives crosses the link between the nodes");
        dr_remedy(d,
                  "run the job on node %u (numactl --cpunodebind=%u), or choose another card"
                  " with RONDO_INTERFACE and RONDO_DEVICE",
                  (unsigned)node, (unsigned)node);
    }
}

void dr_host_numa(struct doctor *d) {
    struct numa n = {.nodes = 0};
    if (!allowed_cpus(d, n.allowed, sizeof n.allowed) ||
        dr_each(d, "/sys/devices/system/node", visit_node, &n) == 0 || n.nodes < 2) {
        dr_add(d, DR_OK, NULL, "one NUMA node");
        return;
    }
    dr_add(d, DR_INFO, NULL, "%u NUMA nodes; processors of %u may be used", n.nodes, n.used);
    n.class = "net";
    dr_each(d, "/sys/class/net", visit_card, &n);
    n.class = "infiniband";
    dr_each(d, "/sys/class/infiniband", visit_card, &n);
}

// ---- Kernel settings -----------------------------------------------------------------------------

void dr_host_ptrace(struct doctor *d) {
    uint64_t scope;
    if (!dr_read_number(d, &scope, "/proc/sys/kernel/yama/ptrace_scope") || scope == 0) {
        dr_add(d, DR_OK, NULL, "a debugger of the same user may attach to a rank");
        return;
    }
    dr_add(d, DR_INFO, NULL, "kernel.yama.ptrace_scope is %u", (unsigned)scope);
    dr_means(d,
             "gdb -p and py-spy cannot look into a rank%s; Rondo does not need it: shared memory is"
             " passed as descriptors",
             scope == 1   ? " unless they are its parent or root"
             : scope == 2 ? " unless root"
                          : "");
    dr_remedy(d, scope < 3 ? "as root: sysctl kernel.yama.ptrace_scope=0"
                           : "it cannot be changed before the next boot");
}

void dr_host_hugepages(struct doctor *d) {
    char text[256], word[32];
    if (!dr_read(d, text, sizeof text, "/sys/kernel/mm/transparent_hugepage/shmem_enabled")) {
        dr_add(d, DR_INFO, NULL, "huge pages for shared memory: the kernel does not say");
        return;
    }
    const char *open = strchr(text, '[');
    snprintf(word, sizeof word, "%.*s", open != NULL ? (int)strcspn(open + 1, "]") : 0,
             open != NULL ? open + 1 : "");
    bool on = strcmp(word, "always") == 0 || strcmp(word, "within_size") == 0 ||
              strcmp(word, "force") == 0;
    dr_add(d, on ? DR_OK : DR_INFO, NULL, "huge pages for shared memory: %s", word);
    if (!on) {
        dr_means(d, "memory between ranks of this host has 4 KiB pages: more TLB misses with large"
                    " messages");
        dr_remedy(d, "as root: echo within_size >"
                     " /sys/kernel/mm/transparent_hugepage/shmem_enabled");
    }
}
