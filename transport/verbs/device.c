// SPDX-License-Identifier: MIT
// Which RDMA ports this host has, and which of them are to be used.
#include "transport/verbs/parts.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

// ---- One port ------------------------------------------------------------------------------------

// Mbit/s of one lane, by the bits of active_speed from SDR on: SDR, DDR, QDR, FDR10, FDR, EDR, HDR, NDR.
static uint32_t lane_speed(uint8_t bits) {
    static const uint32_t speeds[8] = {2500, 5000, 10000, 10000, 14000, 25000, 50000, 100000};
    for (unsigned i = 8; i-- > 0;) {
        if ((bits >> i & 1) != 0) {
            return speeds[i];
        }
    }
    return 0;
}

static uint32_t lanes(uint8_t width) {
    switch (width) {
    case 1:
        return 1;
    case 2:
        return 4;
    case 4:
        return 8;
    case 8:
        return 12;
    case 16:
        return 2;
    default:
        return 0;
    }
}

static unsigned read_numa_node(const char *device) {
    char path[160];
    int node = -1;
    snprintf(path, sizeof path, "/sys/class/infiniband/%s/device/numa_node", device);
    FILE *f = fopen(path, "re");
    if (f != NULL) {
        if (fscanf(f, "%d", &node) != 1) {
            node = -1;
        }
        fclose(f);
    }
    return node >= 0 ? (unsigned)node : UINT_MAX;
}

// False: the port does not answer.
static bool read_port(const struct rdi_ibv *v, struct ibv_context *context, uint8_t number,
                      struct rdi_verbs_port *p) {
    struct ibv_port_attr a;
    if (rdi_ibv_query_port(v, context, number, &a) != 0) {
        return false;
    }
    p->port = number;
    p->iwarp = context->device->transport_type == IBV_TRANSPORT_IWARP;
    p->roce = !p->iwarp && a.link_layer == IBV_LINK_LAYER_ETHERNET;
    p->state = (uint8_t)a.state;
    p->active = a.state == IBV_PORT_ACTIVE;
    p->phys_state = a.phys_state;
    p->mtu = (uint8_t)a.active_mtu;
    p->max_mtu = (uint8_t)a.max_mtu;
    p->lid = a.lid;
    p->sm_lid = a.sm_lid;
    p->mbit_per_s = lane_speed(a.active_speed) * lanes(a.active_width);
    p->gid_table = a.gid_tbl_len > 0 ? (unsigned)a.gid_tbl_len : 0;
    rdi_verbs_gids_read(v, context, NULL, p);
    return true;
}

// ---- All ports -----------------------------------------------------------------------------------

struct ports {
    struct rdi_verbs_port *at;
    size_t n, cap;
};

static struct rdi_verbs_port *add(struct ports *t) {
    if (t->n == t->cap) {
        size_t cap = t->cap == 0 ? 4 : 2 * t->cap;
        struct rdi_verbs_port *grown = realloc(t->at, cap * sizeof *grown);
        if (grown == NULL) {
            return NULL;
        }
        t->at = grown;
        t->cap = cap;
    }
    memset(&t->at[t->n], 0, sizeof t->at[0]);
    return &t->at[t->n];
}

// 0 or the errno for which the device cannot be looked at.
static int read_device(const struct rdi_ibv *v, struct ibv_device *device, struct ports *t) {
    errno = 0;
    struct ibv_context *context = v->open_device(device);
    if (context == NULL) {
        return errno != 0 ? errno : EIO;
    }
    struct ibv_device_attr attr;
    int err = v->query_device(context, &attr);
    const char *name = v->get_device_name(device);
    for (unsigned i = 1; err == 0 && i <= attr.phys_port_cnt; i++) {
        struct rdi_verbs_port *p = add(t);
        if (p == NULL) {
            err = ENOMEM;
            break;
        }
        snprintf(p->device, sizeof p->device, "%s", name != NULL ? name : "?");
        p->attr = attr;
        p->numa_node = read_numa_node(p->device);
        t->n += read_port(v, context, (uint8_t)i, p) ? 1 : 0;
    }
    v->close_device(context);
    return err;
}

static int by_name(const void *a, const void *b) {
    const struct rdi_verbs_port *x = a, *y = b;
    int order = strverscmp(x->device, y->device); // mlx5_2 before mlx5_10
    return order != 0 ? order : x->port - y->port;
}

static rondo_status fail_no_device(int err) {
    bool kernel_has = access("/sys/class/infiniband", F_OK) == 0;
    if (err == EACCES || err == EPERM) {
        return rdi_fail_errno(RONDO_ERR_UNSUPPORTED, err,
                              "no RDMA device can be opened; permit this user to read and write "
                              "/dev/infiniband/uverbs*");
    }
    if (kernel_has && access("/dev/infiniband", F_OK) != 0) {
        return rdi_fail(RONDO_ERR_UNSUPPORTED,
                        "no RDMA device can be opened: /dev/infiniband is not here; give it to the "
                        "container (docker run --device=/dev/infiniband), or load ib_uverbs");
    }
    if (err != 0 && err != ENOSYS && err != ENOENT) {
        return rdi_fail_errno(RONDO_ERR_UNSUPPORTED, err,
                              "no RDMA device can be opened; see the kernel log for it");
    }
    return rdi_fail(RONDO_ERR_UNSUPPORTED,
                    "this host has no RDMA device; if it should have one, load its driver (see "
                    "the kernel log) and install its provider (Debian: ibverbs-providers)");
}

rondo_status rdi_verbs_ports(const struct rdi_ibv *v, struct rdi_verbs_port **out, size_t *n) {
    int count = 0, err = 0;
    struct ports t = {.at = NULL};
    errno = 0;
    struct ibv_device **list = v->get_device_list(&count);
    if (list == NULL) {
        return fail_no_device(errno);
    }
    for (int i = 0; i < count && err != ENOMEM; i++) {
        int e = read_device(v, list[i], &t);
        err = e != 0 ? e : err;
    }
    v->free_device_list(list);
    if (err == ENOMEM) {
        free(t.at);
        return rdi_fail(RONDO_ERR_NOMEM, "no memory to list the RDMA ports");
    }
    // One that does not open, in a container that got only some, is no reason to leave out the others.
    if (t.n == 0) {
        free(t.at);
        return fail_no_device(err);
    }
    qsort(t.at, t.n, sizeof t.at[0], by_name);
    *out = t.at;
    *n = t.n;
    return RONDO_OK;
}

// ---- The choice ----------------------------------------------------------------------------------

static const char *state_text(const struct rdi_verbs_port *p) {
    static const char *const states[] = {"no change", "down", "initializing", "armed", "active"};
    return p->state < sizeof states / sizeof states[0] ? states[p->state] : "deferred";
}

static void list_ports(const struct rdi_verbs_port *all, size_t n, bool states, char *buf,
                       size_t cap) {
    size_t used = 0;
    buf[0] = '\0';
    for (size_t i = 0; i < n && used < cap; i++) {
        used += (size_t)snprintf(buf + used, cap - used, "%s%s:%u%s%s", i > 0 ? ", " : "",
                                 all[i].device, all[i].port, states ? " " : "",
                                 !states                              ? ""
                                 : all[i].active && all[i].ngids == 0 ? "active without a GID"
                                                                      : state_text(&all[i]));
    }
}

// Whether "name" or "name:port", `len` bytes, means this port.
static bool names(const char *word, size_t len, const struct rdi_verbs_port *p) {
    char full[RDI_VERBS_NAME + 8];
    size_t name = strlen(p->device);
    if (len == name && memcmp(word, p->device, len) == 0) {
        return true;
    }
    int n = snprintf(full, sizeof full, "%s:%u", p->device, p->port);
    return len == (size_t)n && memcmp(word, full, len) == 0;
}

// Marks the ports that the option's words mean; all for "".
static rondo_status mark(const struct rdi_verbs_port *all, size_t n, const char *words,
                         bool *wanted) {
    for (size_t i = 0; i < n; i++) {
        wanted[i] = words[0] == '\0';
    }
    while (words[0] != '\0') {
        size_t len = strcspn(words, "+");
        bool found = false;
        for (size_t i = 0; i < n; i++) {
            if (names(words, len, &all[i])) {
                wanted[i] = found = true;
            }
        }
        if (!found) {
            char there[400];
            list_ports(all, n, false, there, sizeof there);
            return rdi_fail(RONDO_ERR_INVALID,
                            "option device: '%.*s' is no RDMA port of this host, which has %s; "
                            "name some of these, or leave the option empty",
                            (int)len, words, there);
        }
        words += len;
        words += words[0] == '+' ? 1 : 0;
    }
    return RONDO_OK;
}

// What can be connected now. Where that takes more than the best GIDs, it turns out when the port is opened.
static bool is_usable(const struct rdi_verbs_port *p, const struct rdi_options *o) {
    if (!p->active || !p->roce || !o->is_auto[RDI_OPT_VERBS_GID] || p->ngids == RDI_VERBS_GIDS) {
        return p->active;
    }
    for (unsigned i = 0; i < p->ngids; i++) {
        if (rdi_verbs_gid_rank(&p->gids[i], o) > 0) {
            return true;
        }
    }
    return false;
}

static bool is_better(const struct rdi_verbs_port *a, const struct rdi_verbs_port *b,
                      const struct rdi_rails *rails) {
    bool first = rdi_rails_rdma(rails, a->device) != NULL;
    bool second = rdi_rails_rdma(rails, b->device) != NULL;
    return first != second ? first : a->mbit_per_s > b->mbit_per_s;
}

rondo_status rdi_verbs_choose_ports(const struct rdi_verbs_port *all, size_t n,
                                    const struct rdi_options *o, const struct rdi_rails *rails,
                                    unsigned *chosen, unsigned *nchosen) {
    bool *wanted = calloc(n > 0 ? n : 1, sizeof *wanted);
    if (wanted == NULL) {
        return rdi_fail(RONDO_ERR_NOMEM, "no memory to choose among RDMA ports");
    }
    rondo_status s = mark(all, n, o->str[RDI_OPT_DEVICE], wanted);
    unsigned count = 0;
    while (s == RONDO_OK && count < RDI_VERBS_RAILS) {
        size_t best = n;
        for (size_t i = 0; i < n; i++) {
            if (wanted[i] && is_usable(&all[i], o) &&
                (best == n || is_better(&all[i], &all[best], rails))) {
                best = i;
            }
        }
        if (best == n) {
            break;
        }
        wanted[best] = false;
        chosen[count++] = (unsigned)best;
    }
    free(wanted);
    if (s == RONDO_OK && count == 0) {
        char states[400];
        list_ports(all, n, true, states, sizeof states);
        s = rdi_fail(RONDO_ERR_UNSUPPORTED,
                     "no RDMA port can be used (option device=%s, family=%s): %s; bring a link up, "
                     "on RoCE with an IP address on its network interface",
                     o->str[RDI_OPT_DEVICE], o->str[RDI_OPT_FAMILY], states);
    }
    if (s == RONDO_OK) {
        *nchosen = count;
    }
    return s;
}
