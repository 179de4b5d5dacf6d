// SPDX-License-Identifier: MIT
// What the environment says. README.md lists the variables.
#include "tests/mock_cuda/mock.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct mc_config mc_config;

static unsigned long number(const char *name, unsigned long otherwise, unsigned long most) {
    const char *text = getenv(name);
    if (!text || !*text)
        return otherwise;
    char *end;
    unsigned long value = strtoul(text, &end, 0);
    if (*end || value > most)
        mc_rule("environment", "%s is '%s'; it can be 0 to %lu", name, text, most);
    return value;
}

// Devices that CUDA_VISIBLE_DEVICES lists, by number, until the first that is none: as CUDA reads it.
static void read_visible(struct mc_config *c, int there) {
    const char *text = getenv("CUDA_VISIBLE_DEVICES");
    c->devices = 0;
    if (!text) {
        for (int i = 0; i < there; i++)
            c->physical[c->devices++] = i;
        return;
    }
    while (*text && c->devices < MC_MAX_DEVICES) {
        char *end;
        long i = strtol(text, &end, 10);
        if (end == text || i < 0 || i >= there)
            return;
        for (int j = 0; j < c->devices; j++)
            if (c->physical[j] == i) { // named twice: none at all
                c->devices = 0;
                return;
            }
        c->physical[c->devices++] = (int)i;
        text = *end == ',' ? end + 1 : end;
        if (*end && *end != ',')
            return;
    }
}

static const struct mc_attributes defaults = {.multiprocessors = 16,
                                              .integrated = 0,
                                              .major = 9,
                                              .minor = 0,
                                              .can_flush = 1,
                                              .vmm = 1,
                                              .posix_fd = 1,
                                              .gdr_vmm = 1,
                                              .gdr = 1,
                                              .flush_options = 1,
                                              .ordering = 100,
                                              .dmabuf = 1,
                                              .ipc = 1,
                                              .memops = 1,
                                              .peer = 1,
                                              .memory_mib = 4096};

static const struct {
    const char *name;
    size_t at;
} names[] = {
#define NAME(field) \
    { #field, offsetof(struct mc_attributes, field) }
    NAME(multiprocessors),
    NAME(integrated),
    NAME(major),
    NAME(minor),
    NAME(can_flush),
    NAME(vmm),
    NAME(posix_fd),
    NAME(gdr_vmm),
    NAME(gdr),
    NAME(flush_options),
    NAME(ordering),
    NAME(dmabuf),
    NAME(ipc),
    NAME(memops),
    NAME(peer),
    NAME(memory_mib),
};

// "name=value" for all devices, or "N.name=value" for one ordinal.
static bool set(struct mc_config *c, const char *text) {
    int first = 0, last = MC_MAX_DEVICES - 1;
    char *end;
    long one = strtol(text, &end, 10);
    if (end != text) {
        if (*end != '.' || one < 0 || one >= MC_MAX_DEVICES)
            return false;
        first = last = (int)one;
        text = end + 1;
    }
    const char *equal = strchr(text, '=');
    if (!equal)
        return false;
    long value = strtol(equal + 1, &end, 0);
    if (end == equal + 1 || *end)
        return false;
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        size_t len = strlen(names[i].name);
        if (len != (size_t)(equal - text) || memcmp(names[i].name, text, len) != 0)
            continue;
        for (int d = first; d <= last; d++)
            *(int *)((char *)&c->attributes[d] + names[i].at) = (int)value;
        return true;
    }
    return false;
}

static void read_attributes(struct mc_config *c) {
    for (int i = 0; i < MC_MAX_DEVICES; i++)
        c->attributes[i] = defaults;
    const char *text = getenv("MOCK_CUDA_ATTR");
    char copy[512];
    if (!text)
        return;
    snprintf(copy, sizeof copy, "%s", text);
    char *save;
    for (char *one = strtok_r(copy, ", ", &save); one; one = strtok_r(NULL, ", ", &save))
        if (!set(c, one))
            mc_rule("environment", "'%s' in MOCK_CUDA_ATTR=\"%s\" is not known", one, text);
}

void mc_config_read(void) {
    struct mc_config *c = &mc_config;
    read_visible(c, (int)number("MOCK_CUDA_DEVICES", 1, MC_MAX_DEVICES));
    read_attributes(c);
    c->jitter_us = (unsigned)number("MOCK_CUDA_JITTER_US", 0, 1000000);
    c->queues = (unsigned)number("MOCK_CUDA_QUEUES", 0, 32);
    c->depth = (unsigned)number("MOCK_CUDA_DEPTH", 1024, 1u << 20);
    c->stuck_s = (unsigned)number("MOCK_CUDA_STUCK_S", 100, 1u << 20);
    c->seed = number("MOCK_CUDA_SEED", 1, UINT64_MAX);
    c->init = (int)number("MOCK_CUDA_INIT", 0, 999);
    c->version = (int)number("MOCK_CUDA_VERSION", 13000, 99990);
    c->strict = number("MOCK_CUDA_STRICT", 0, 1);
    c->leaks = number("MOCK_CUDA_LEAKS", 0, 1);
    mc_fault_parse(getenv("MOCK_CUDA_FAIL"));
}
