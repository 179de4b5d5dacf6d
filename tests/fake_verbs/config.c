// SPDX-License-Identifier: MIT
// What the environment says, and the addresses that follow from it.
#include "fake.h"

#include <stdlib.h>
#include <string.h>

static unsigned long number(const char *name, unsigned long otherwise, unsigned long least,
                            unsigned long most) {
    const char *text = getenv(name);
    if (!text || !*text)
        return otherwise;
    char *end;
    unsigned long value = strtoul(text, &end, 0);
    if (*end || value < least || value > most)
        fv_rule("ENVIRONMENT", "%s is '%s'; it can be %lu to %lu", name, text, least, most);
    return value;
}

static enum fv_link read_link(void) {
    const char *text = getenv("FAKE_VERBS_LINK");
    if (!text || !*text || strcmp(text, "roce") == 0)
        return FV_ROCE;
    if (strcmp(text, "ib") == 0)
        return FV_IB;
    if (strcmp(text, "iwarp") != 0)
        fv_rule("ENVIRONMENT", "FAKE_VERBS_LINK is '%s'; it can be roce, ib or iwarp", text);
    return FV_IWARP;
}

bool fv_config_read(struct fv_config *c) {
    memset(c, 0, sizeof *c);
    const char *dir = getenv("FAKE_VERBS_DIR");
    if (!dir || !*dir)
        return false;
    if (strlen(dir) >= sizeof c->dir) {
        fv_rule("ENVIRONMENT", "FAKE_VERBS_DIR is longer than %zu bytes", sizeof c->dir - 1);
        return false;
    }
    strcpy(c->dir, dir);
    c->devices = (unsigned)number("FAKE_VERBS_DEVICES", 1, 0, 16);
    c->ports = (unsigned)number("FAKE_VERBS_PORTS", 1, 1, 2);
    c->host = (unsigned)number("FAKE_VERBS_HOST", 1, 1, 254);
    c->subnet = (unsigned)number("FAKE_VERBS_SUBNET", 0, 0, 65535);
    c->seed = number("FAKE_VERBS_SEED", 1, 0, UINT64_MAX);
    c->isolate = number("FAKE_VERBS_ISOLATE", 0, 0, 1);
    c->memlock = number("FAKE_VERBS_MEMLOCK", 0, 0, 1);
    c->dmabuf = number("FAKE_VERBS_DMABUF", 1, 0, 1);
    c->source_strict = number("FAKE_VERBS_SOURCE_STRICT", 1, 0, 1);
    c->link = read_link();
    unsigned long mtu = number("FAKE_VERBS_MTU", c->link == FV_IB ? 4096 : 1024, 256, 4096);
    c->mtu = IBV_MTU_256;
    while (c->mtu < IBV_MTU_4096 && (128ul << (c->mtu + 1)) <= mtu)
        c->mtu++;
    return true;
}

// Index 0, which so many programs take, is not one that works on RoCE.
void fv_gid(const struct fv_config *c, unsigned device, unsigned port, unsigned index,
            uint8_t gid[16], uint8_t *type) {
    memset(gid, 0, 16);
    *type = IBV_GID_TYPE_IB;
    if (index >= FV_GIDS || (c->link == FV_IB && index > 0))
        return;
    if (c->link == FV_IB || index < 2) {
        const uint8_t id[16] = {0xfe, 0x80, [8] = 2, [11] = 0xff, [12] = 0xfe};
        memcpy(gid, id, 16);
        gid[13] = (uint8_t)device;
        gid[14] = (uint8_t)port;
        gid[15] = (uint8_t)c->host;
        if (c->link == FV_IB) {
            gid[6] = (uint8_t)(c->subnet >> 8);
            gid[7] = (uint8_t)c->subnet;
            return;
        }
    } else {
        gid[10] = gid[11] = 0xff;
        gid[12] = 10;
        gid[13] = (uint8_t)(76 + port);
        gid[14] = (uint8_t)device;
        gid[15] = (uint8_t)c->host;
    }
    *type = index % 2 ? IBV_GID_TYPE_ROCE_V2 : IBV_GID_TYPE_ROCE_V1;
}

uint16_t fv_lid(const struct fv_config *c, unsigned device, unsigned port) {
    return c->link == FV_IB ? (uint16_t)(c->host * 64 + device * 4 + port) : 0;
}
