// SPDX-License-Identifier: MIT
// What stands between a network card and GPU memory: kernel modules, DMA-BUF, IOMMU, PCI access control.
#include "transport/doctor/doctor.h"

#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>

// ---- Modules -------------------------------------------------------------------------------------

static bool has_module(const char *modules, const char *name) {
    size_t n = strlen(name);
    for (const char *line = modules; line != NULL && *line != '\0';) {
        if (strncmp(line, name, n) == 0 && line[n] == ' ') {
            return true;
        }
        line = strchr(line, '\n');
        line = line != NULL ? line + 1 : NULL;
    }
    return false;
}

// Whether the kernel's configuration has an option; -1: it is not visible here.
static int kernel_config(const struct doctor *d, const char *option) {
    static char text[1 << 19];
    struct utsname u;
    char line[96];
    if (uname(&u) != 0 || !dr_read(d, text, sizeof text, "/boot/config-%s", u.release)) {
        return -1;
    }
    snprintf(line, sizeof line, "\n%s=", option);
    return strstr(text, line) != NULL;
}

void dr_gpu_peer_memory(struct doctor *d) {
    static char modules[1 << 16];
    bool known = dr_read(d, modules, sizeof modules, "/proc/modules");
    const char *peer = has_module(modules, "nvidia_peermem") ? "nvidia_peermem"
                       : has_module(modules, "nv_peer_mem")  ? "nv_peer_mem"
                                                             : NULL;
    bool driver = has_module(modules, "nvidia") || dr_exists(d, "/proc/driver/nvidia");
    int config = kernel_config(d, "CONFIG_DMABUF_MOVE_NOTIFY");
    if (!known || !driver) {
        dr_add(d, DR_INFO, NULL, "%s",
               known ? "no NVIDIA driver: there is no GPU memory to reach"
                     : "/proc/modules is not readable");
        return;
    }
    if (config != -1) {
        dr_add(d, DR_INFO, NULL, "the kernel is built %s DMA-BUF move notification",
               config == 1 ? "with" : "without");
    }
    if (peer != NULL) {
        dr_add(d, DR_OK, peer,
               "the module is loaded: GPU memory is reached where DMA-BUF is not to be had, too");
    } else {
        dr_add(d, DR_INFO, NULL, "neither nvidia_peermem nor nv_peer_mem is loaded");
        dr_means(d, "GPU memory is reached through DMA-BUF where the card's driver can (see"
                    " rdma.ports), else copied through pinned host memory");
        dr_remedy(d, "as root: modprobe nvidia_peermem");
    }
}

// ---- PCI -----------------------------------------------------------------------------------------

#define CAPABILITIES 0x100u // where the extended ones begin
#define ACS 0x000d
#define REDIRECT 0x0c // request and completion redirect: peer traffic goes up to the root

// Bytes of a device's configuration space; users other than root see the first 64 only.
static size_t configuration(const struct doctor *d, const char *name, uint8_t *out, size_t cap) {
    char path[512];
    int n = snprintf(path, sizeof path, "%s/sys/bus/pci/devices/%s/config", d->root, name);
    FILE *f = n > 0 && n < (int)sizeof path ? fopen(path, "re") : NULL;
    size_t got = f != NULL ? fread(out, 1, cap, f) : 0;
    if (f != NULL) {
        fclose(f);
    }
    return got;
}

struct bridges {
    unsigned seen, hidden, redirect;
    char first[32];
};

static void visit_device(struct doctor *d, const char *name, void *arg) {
    struct bridges *b = arg;
    char class[32];
    uint8_t c[4096] = {0};
    if (!dr_read(d, class, sizeof class, "/sys/bus/pci/devices/%s/class", name) ||
        strncmp(class, "0x0604", 6) != 0) {
        return;
    }
    b->seen++;
    size_t n = configuration(d, name, c, sizeof c);
    if (n < sizeof c) {
        b->hidden++;
        return;
    }
    size_t at = CAPABILITIES;
    for (unsigned i = 0; i < 64 && at >= CAPABILITIES && at + 8 <= sizeof c; i++) {
        unsigned id = c[at] | (unsigned)c[at + 1] << 8;
        if (id == ACS && (c[at + 6] & REDIRECT) != 0) {
            if (b->redirect++ == 0) {
                snprintf(b->first, sizeof b->first, "%s", name);
            }
            return;
        }
        at = ((unsigned)c[at + 3] << 4 | (unsigned)c[at + 2] >> 4) & 0xffcu;
    }
}

static void say_iommu(struct doctor *d) {
    char line[4096];
    size_t units = dr_each(d, "/sys/class/iommu", NULL, NULL);
    bool known = dr_read(d, line, sizeof line, "/proc/cmdline");
    bool through =
        known && (strstr(line, "iommu=pt") != NULL || strstr(line, "iommu.passthrough=1") != NULL);
    if (units == 0) {
        dr_add(d, DR_OK, NULL, "no IOMMU is visible");
    } else if (through) {
        dr_add(d, DR_OK, NULL, "an IOMMU, in pass-through mode");
    } else {
        dr_add(d, DR_INFO, NULL, "an IOMMU that may translate addresses (%zu unit%s)", units,
               units == 1 ? "" : "s");
        dr_means(d,
                 "transfers between a card and a GPU may be slow or fail; registration costs more");
        dr_remedy(d, "kernel option iommu=pt, or off in the firmware, where virtual machines do not"
                     " need it");
    }
}

void dr_gpu_pci(struct doctor *d) {
    struct bridges b = {.seen = 0};
    say_iommu(d);
    dr_each(d, "/sys/bus/pci/devices", visit_device, &b);
    if (b.redirect > 0) {
        dr_add(d, DR_WARNING, b.first,
               "%u of %u PCI bridges redirect traffic between devices (ACS)", b.redirect, b.seen);
        dr_means(d, "what a card and a GPU below one switch say to each other goes through the root"
                    " complex, at a fraction of the speed");
        dr_remedy(d,
                  "switch ACS off in the firmware, or as root for each bridge: setpci -s %s"
                  " ECAP_ACS+6.w=0000",
                  b.first);
    } else if (b.hidden > 0) {
        dr_add(d, DR_INFO, NULL, "access control (ACS) of %u PCI bridge%s is visible to root only",
               b.hidden, b.hidden == 1 ? "" : "s");
        dr_remedy(d, "sudo rondo-doctor --only gpu.pci");
    } else {
        dr_add(d, DR_OK, NULL, "no PCI bridge redirects traffic between devices (%u looked at)",
               b.seen);
    }
}
