// SPDX-License-Identifier: MIT
// Speeds of links, what RDMA device sends over which interface, and whose virtual functions are which: from sysfs. And
// the names of PCI devices, from pci.ids.
#include "topo/internal.h"

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PORTS 8
#define GIDS 8 // of a port; the first ones are those of the interface itself

// One line of a file, without its end. False: it is not there, or the kernel has nothing to say.
static bool read_line(char *out, size_t cap, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

static bool read_line(char *out, size_t cap, const char *fmt, ...) {
    char path[PATH_MAX];
    va_list ap;
    va_start(ap, fmt);
    int len = vsnprintf(path, sizeof path, fmt, ap);
    va_end(ap);
    int fd = len > 0 && (size_t)len < sizeof path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    ssize_t n = fd >= 0 ? read(fd, out, cap - 1) : -1;
    if (fd >= 0) {
        close(fd);
    }
    out[n > 0 ? n : 0] = '\0';
    out[strcspn(out, "\n")] = '\0';
    return n > 0;
}

uint64_t rdi_topo_net_mbps(const char *root, const char *net) {
    char text[32];
    uint64_t mbps;
    // "-1": no link
    return read_line(text, sizeof text, "%s/sys/class/net/%s/speed", root, net) &&
                   rdi_topo_number(text, 100000000, NULL, &mbps)
               ? mbps
               : 0;
}

uint64_t rdi_topo_rdma_mbps(const char *root, const char *rdma) {
    uint64_t best = 0;
    for (int port = 1; port <= PORTS; port++) {
        char state[64], rate[64];
        unsigned whole, tenth = 0;
        if (!read_line(state, sizeof state, "%s/sys/class/infiniband/%s/ports/%d/state", root, rdma,
                       port) ||
            !strstr(state, "ACTIVE") ||
            !read_line(rate, sizeof rate, "%s/sys/class/infiniband/%s/ports/%d/rate", root, rdma,
                       port) ||
            !strstr(rate, " Gb/sec") || sscanf(rate, "%6u.%1u", &whole, &tenth) < 1) {
            continue; // "2.5 Gb/sec (1X SDR)"
        }
        uint64_t mbps = (uint64_t)whole * 1000 + (uint64_t)tenth * 100;
        best = mbps > best ? mbps : best;
    }
    return best;
}

static bool is_over(const char *root, const char *rdma, const char *net) {
    char name[64];
    // soft-RoCE
    if (read_line(name, sizeof name, "%s/sys/class/infiniband/%s/parent", root, rdma) &&
        strcmp(name, net) == 0) {
        return true;
    }
    for (int port = 1; port <= PORTS; port++) {
        for (int gid = 0; gid < GIDS; gid++) {
            if (read_line(name, sizeof name,
                          "%s/sys/class/infiniband/%s/ports/%d/gid_attrs/ndevs/%d", root, rdma,
                          port, gid) &&
                strcmp(name, net) == 0) {
                return true;
            }
        }
    }
    return false;
}

static int by_name(const struct dirent **a, const struct dirent **b) {
    return strcmp((*a)->d_name, (*b)->d_name);
}

void rdi_topo_rdma_over(const char *root, const char *net, char *out, size_t cap) {
    char path[PATH_MAX];
    struct dirent **names = NULL;
    out[0] = '\0';
    snprintf(path, sizeof path, "%s/sys/class/infiniband", root);
    int n = scandir(path, &names, NULL, by_name);
    for (int i = 0; i < n; i++) {
        const char *rdma = names[i]->d_name;
        size_t len = strlen(out);
        if (rdma[0] != '.' && is_over(root, rdma, net) && len + strlen(rdma) + 2 <= cap) {
            snprintf(out + len, cap - len, "%s%s", len ? "," : "", rdma);
        }
        free(names[i]);
    }
    free(names);
}

void rdi_topo_physfn(const char *root, const char *pci, char *out, size_t cap) {
    char path[PATH_MAX], to[PATH_MAX];
    snprintf(path, sizeof path, "%s/sys/bus/pci/devices/%s/physfn", root, pci);
    ssize_t n = readlink(path, to, sizeof to - 1);
    to[n > 0 ? n : 0] = '\0';
    const char *last = strrchr(to, '/');
    snprintf(out, cap, "%s", last ? last + 1 : to);
}

// ---- Names ---------------------------------------------------------------------------------------

// "15b3  Mellanox Technologies" behind `tabs` tabs: the name, if the number is this one.
static bool is_entry(const char *line, size_t tabs, unsigned id, char *name, size_t cap) {
    unsigned is;
    int at = 0;
    if (strspn(line, "\t") != tabs || sscanf(line + tabs, "%4x %n", &is, &at) != 1 || at < 5 ||
        is != id) {
        return false;
    }
    snprintf(name, cap, "%.*s", (int)strcspn(line + tabs + at, "\n"), line + tabs + at);
    return true;
}

bool rdi_topo_pci_names(const char *file, unsigned vendor, unsigned device, char *vendor_name,
                        char *device_name, size_t cap) {
    char line[512];
    bool inside = false;
    FILE *f = fopen(file, "re");
    vendor_name[0] = device_name[0] = '\0';
    while (f && fgets(line, sizeof line, f)) {
        if (line[0] == '#' || line[0] == '\n') {
            continue;
        }
        if (!inside) {
            inside = is_entry(line, 0, vendor, vendor_name, cap);
        } else if (line[0] != '\t' || is_entry(line, 1, device, device_name, cap)) {
            break;
        }
    }
    if (f) {
        fclose(f);
    }
    return inside;
}
