// SPDX-License-Identifier: MIT
// Where a rank runs: the processor and wire that the header names, and the memory that its host can spare.
#include "ring/perf/pairs.h"

#include <ctype.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

// ---- Device --------------------------------------------------------------------------------------

// The value after "<key> … :" of a file such as /proc/cpuinfo or /proc/meminfo, into buf; false if none.
static bool find_line(const char *path, const char *key, char *buf, size_t cap) {
    char line[512];
    bool found = false;
    FILE *f = fopen(path, "re");
    while (f != NULL && !found && fgets(line, sizeof line, f) != NULL) {
        const char *colon = strchr(line, ':');
        found = colon != NULL && strncmp(line, key, strlen(key)) == 0;
        if (found) {
            colon += 1 + strspn(colon + 1, " \t");
            snprintf(buf, cap, "%.*s", (int)strcspn(colon, "\n"), colon);
        }
    }
    if (f != NULL) {
        fclose(f);
    }
    return found;
}

static void processor_name(char *buf, size_t cap) {
    struct utsname u;
    if (!find_line("/proc/cpuinfo", "model name", buf, cap)) {
        snprintf(buf, cap, "%s processor", uname(&u) == 0 ? u.machine : "unknown");
    }
    // Only what is safe in every report.
    for (char *c = buf; *c != '\0'; c++) {
        *c = (unsigned char)*c < 0x80 && isprint((unsigned char)*c) ? *c : '?';
    }
}

static uint32_t package_of(uint32_t cpu) {
    char path[96], text[16] = "";
    snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%u/topology/physical_package_id", cpu);
    FILE *f = fopen(path, "re");
    if (f != NULL) {
        (void)!fgets(text, sizeof text, f);
        fclose(f);
    }
    return (uint32_t)strtoul(text, NULL, 10);
}

// Which wires carry the data of a ring shows once some has gone around.
static void ring_wires(const rondo_comm_stats *before, const rondo_comm_stats *after, char *buf,
                       size_t cap) {
    const uint64_t moved[] = {after->bytes_sent_shm - before->bytes_sent_shm,
                              after->bytes_sent_verbs - before->bytes_sent_verbs,
                              after->bytes_sent_tcp - before->bytes_sent_tcp};
    static const char *const names[] = {"shm", "verbs", "tcp"};
    size_t n = 0;
    snprintf(buf, cap, "no wire");
    for (int i = 0; i < 3; i++) {
        if (moved[i] > 0 && n < cap) {
            n += (size_t)snprintf(buf + n, cap - n, "%s%s", n > 0 ? " and " : "", names[i]);
        }
    }
}

rondo_status perf_devices(const struct perf_run *r, struct perf_device *all) {
    struct perf_device mine = {
        .rank = r->rank, .pid = getpid(), .local_rank = rondo_comm_local_rank(r->comm)};
    (void)getcpu(&mine.cpu, &mine.node);
    mine.package = package_of(mine.cpu);
    if (gethostname(mine.host, sizeof mine.host - 1) != 0) {
        strcpy(mine.host, "unknown");
    }
    // The name up to the first dot, as nccl-tests have it.
    mine.host[strcspn(mine.host, ".")] = '\0';
    char name[96], wires[32];
    processor_name(name, sizeof name);

    rondo_comm_stats before = {.size = sizeof before}, after = {.size = sizeof after};
    rondo_status s = rondo_comm_get_stats(r->comm, &before);
    s = s == RONDO_OK ? rondo_all_gather(&mine, all, sizeof mine, RONDO_U8, r->comm) : s;
    s = s == RONDO_OK ? rondo_comm_get_stats(r->comm, &after) : s;
    if (s != RONDO_OK) {
        return s;
    }
    ring_wires(&before, &after, wires, sizeof wires);
    snprintf(mine.name, sizeof mine.name, "%s, %s", name,
             r->coll->kind == PERF_COLLECTIVE ? wires : perf_pair_wire(r->pair));
    return rondo_all_gather(&mine, all, sizeof mine, RONDO_U8, r->comm);
}

// ---- Memory --------------------------------------------------------------------------------------

static bool read_number(const char *path, const char *key, uint64_t *v) {
    char line[128];
    bool found = false;
    FILE *f = fopen(path, "re");
    size_t n = strlen(key);
    while (f != NULL && !found && fgets(line, sizeof line, f) != NULL) {
        char *end;
        if (strncmp(line, key, n) == 0) {
            *v = strtoull(line + n, &end, 10);
            found = end != line + n;
        }
    }
    if (f != NULL) {
        fclose(f);
    }
    return found;
}

// What the host, and the container if there is one, can still give; UINT64_MAX when they do not say.
static uint64_t available_bytes(void) {
    uint64_t available = UINT64_MAX, kib, limit, used, cache;
    if (read_number("/proc/meminfo", "MemAvailable:", &kib)) {
        available = kib * 1024;
    }
    if (read_number("/sys/fs/cgroup/memory.max", "", &limit) &&
        read_number("/sys/fs/cgroup/memory.current", "", &used)) {
        cache = 0;
        (void)read_number("/sys/fs/cgroup/memory.stat", "inactive_file ", &cache);
        used -= cache < used ? cache : used;
        limit = limit > used ? limit - used : 0;
        available = limit < available ? limit : available;
    }
    return available;
}

rondo_status perf_fit(const struct perf_run *r, size_t *max_bytes) {
    uint64_t available = available_bytes(), fits = UINT64_MAX;
    uint64_t ranks = (uint64_t)rondo_comm_local_size(r->comm);
    if (available != UINT64_MAX) {
        // An eighth stays for everybody else; the rest is for two buffers a rank.
        fits = (available - available / 8) / ranks / 2;
        fits = fits > PERF_GUARD ? fits - PERF_GUARD : 0;
    }
    uint64_t least;
    rondo_status s = rondo_all_reduce(&fits, &least, 1, RONDO_U64, RONDO_MIN, r->comm);
    if (s == RONDO_OK && least < *max_bytes) {
        *max_bytes = (size_t)least;
    }
    return s;
}
