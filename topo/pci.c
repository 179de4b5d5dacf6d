// SPDX-License-Identifier: MIT
// PCI functions in the words of hwloc's XML, and which of them are GPUs.
#include "topo/device.h"

#include <stdlib.h>
#include <string.h>

#define VENDOR_AMD 0x1002
#define VENDOR_NVIDIA 0x10de
#define VENDOR_INTEL 0x8086

// Exactly `digits` hexadecimal ones, and the character behind them, which is passed.
static bool hex(const char **at, size_t min, size_t max, char end, uint32_t *out) {
    size_t n = strspn(*at, "0123456789abcdefABCDEF");
    if (n < min || n > max || (*at)[n] != end) {
        return false;
    }
    *out = (uint32_t)strtoul(*at, NULL, 16);
    *at += n + (end != '\0');
    return true;
}

// "0000:3b:00.0"
static bool read_address(const char *text, struct rdi_topo_pci *p) {
    return text && hex(&text, 4, 8, ':', &p->domain) && hex(&text, 2, 2, ':', &p->bus) &&
           hex(&text, 2, 2, '.', &p->device) && hex(&text, 1, 1, '\0', &p->function) &&
           p->device < 32 && p->function < 8;
}

// "0200 [8086:1521] [1137:008b] 01 00"
static bool read_type(const char *text, struct rdi_topo_function *f) {
    if (!text || !hex(&text, 4, 4, ' ', &f->class) || *text++ != '[') {
        return false;
    }
    return hex(&text, 4, 4, ':', &f->vendor) && hex(&text, 4, 4, ']', &f->device);
}

bool rdi_topo_read_function(struct rdi_topo_reader *r, uint32_t e, struct rdi_topo_function *f) {
    const char *address = rdi_xml_get(r->x, e, "pci_busid"),
               *type = rdi_xml_get(r->x, e, "pci_type");
    *f = (struct rdi_topo_function){.element = e};
    if (!read_address(address, &f->at)) {
        return rdi_topo_wrong(r, e, "a PCI device with pci_busid \"%.24s\"",
                              address ? address : "");
    }
    if (!read_type(type, f)) {
        return rdi_topo_wrong(r, e, "PCI device %s with pci_type \"%.40s\"", address,
                              type ? type : "");
    }
    return true;
}

double rdi_topo_read_speed(const char *text) {
    double v = 0, unit = 1;
    if (!text || strlen(text) > 16) {
        return 0;
    }
    for (; *text >= '0' && *text <= '9'; text++) {
        v = 10 * v + (*text - '0');
    }
    if (*text == '.') {
        for (text++; *text >= '0' && *text <= '9'; text++) {
            unit /= 10;
            v += unit * (*text - '0');
        }
    }
    return *text == '\0' && v < 1e5 ? 8 * v : 0;
}

// ---- GPUs ----------------------------------------------------------------------------------------

// Chips that draw the console of a server; the others are told from GPUs by their vendor.
static bool is_console(const struct rdi_topo_function *f) {
    static const unsigned ati[] = {0x4752, 0x515e, 0x5969}; // Rage XL, ES1000
    for (size_t i = 0; i < sizeof ati / sizeof ati[0]; i++) {
        if (f->vendor == VENDOR_AMD && f->device == ati[i]) {
            return true;
        }
    }
    return false;
}

// 3D controllers; display controllers, VGA and accelerators of those who make GPUs, or with a driver for computing.
bool rdi_topo_is_gpu(const struct rdi_topo_reader *r, const struct rdi_topo_function *f) {
    bool amd = f->vendor == VENDOR_AMD && !is_console(f), nvidia = f->vendor == VENDOR_NVIDIA;
    switch (f->class) {
    case 0x0302:
        return true;
    case 0x0300: // of Intel: what processors have built in
        return amd || nvidia || rdi_topo_has_runtime(r, f->element);
    case 0x0380:
        return amd || nvidia || f->vendor == VENDOR_INTEL || rdi_topo_has_runtime(r, f->element);
    case 0x1200:
        return amd || rdi_topo_has_runtime(r, f->element);
    default:
        return false;
    }
}
