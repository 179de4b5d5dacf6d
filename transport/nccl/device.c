// SPDX-License-Identifier: MIT
// Devices, as NCCL sees them: over verbs one for each RDMA port that can be used, over tcp one for each network
// interface. A device is opened as a net whose options name it alone; NCCL spreads its channels over devices.
#include "transport/verbs/device.h"
#include "transport/nccl/core.h"

#include <arpa/inet.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NETIFS 64
#define DEFAULT_MBIT 10000 // of an interface that does not tell, as virtual ones do not
#define MAX_COMMS 65536

struct device {
    char name[RDI_VERBS_NAME + 8];
    char path[PATH_MAX];             // "" = not on PCI
    char choice[RDI_OPT_STRING_MAX]; // value of option device, or interface
    uint64_t guid;
    int mbit, port;
    float latency_us;
};

static const struct rdi_net_ops *ops;
static struct device devices[RDI_NCCL_DEVICES];
static int count;

const struct rdi_net_ops *rdi_nccl_device_ops(void) { return ops; }
int rdi_nccl_device_count(void) { return count; }

const char *rdi_nccl_device_name(int dev) {
    return dev >= 0 && dev < count ? devices[dev].name : "all devices";
}

// ---- What the system says ------------------------------------------------------------------------

static void find_path(struct device *d, const char *fmt, const char *name) {
    char link[PATH_MAX];
    snprintf(link, sizeof link, fmt, name);
    if (realpath(link, d->path) == NULL || strncmp(d->path, "/sys/", 5) != 0) {
        d->path[0] = '\0';
    }
}

static int read_speed(const char *name) {
    char path[PATH_MAX];
    int mbit = 0;
    snprintf(path, sizeof path, "/sys/class/net/%s/speed", name);
    FILE *f = fopen(path, "re");
    if (f != NULL) {
        if (fscanf(f, "%d", &mbit) != 1) {
            mbit = 0;
        }
        fclose(f);
    }
    return mbit > 0 ? mbit : DEFAULT_MBIT;
}

// Whether the net opens with this device alone; takes what the net says of itself.
static rondo_status try_device(const struct rdi_net_ops *o, int dev) {
    struct rdi_job job = {.rank = rdi_nccl_self(), .size = INT_MAX, .local_rank = -1, .auth = true};
    struct rdi_options opt;
    struct rdi_net_events none = {.self = NULL};
    struct rdi_net *net;
    struct rdi_env env = *rdi_nccl_env();
    uint8_t key[RDI_KEY_BYTES]; // for the moment
    env.random(env.self, key, sizeof key);
    job.key = key;
    rdi_nccl_device_options(o, dev, RDI_NCCL_UNDEFINED, &opt);
    struct rdi_net_params params = {.env = env, .options = &opt, .job = &job, .events = &none};
    rondo_status s = o->open(&params, &net);
    if (s == RONDO_OK) {
        devices[dev].latency_us = (float)net->attr.latency_ns / 1000.0f;
        o->close(net);
    }
    return s;
}

// ---- RDMA ports ----------------------------------------------------------------------------------

static void take_port(const struct rdi_verbs_port *p) {
    struct device *d = &devices[count];
    memset(d, 0, sizeof *d);
    snprintf(d->name, sizeof d->name, "%s:%u", p->device, p->port);
    snprintf(d->choice, sizeof d->choice, "%s:%u", p->device, p->port);
    find_path(d, "/sys/class/infiniband/%s/device", p->device);
    // Of the card, not of one of its functions: ports of one card share what it has.
    d->guid = p->attr.sys_image_guid != 0 ? p->attr.sys_image_guid : p->attr.node_guid;
    d->mbit = p->mbit_per_s != 0 ? (int)p->mbit_per_s : DEFAULT_MBIT;
    d->port = p->port;
    rondo_status s = try_device(&rdi_verbs_ops, count);
    if (s != RONDO_OK) {
        rdi_nccl_log(RDI_NCCL_LOG_INFO, "NET/" RDI_NCCL_NAME ": %s is left out: %s", d->name,
                     rondo_last_error());
        return;
    }
    count++;
}

static rondo_status open_verbs(void) {
    char why[256];
    struct rdi_verbs_port *ports = NULL;
    size_t n = 0;
    unsigned chosen[RDI_VERBS_RAILS], nchosen = 0;
    const struct rdi_ibv *v = rdi_ibv_load(why, sizeof why);
    ops = &rdi_verbs_ops;
    if (v == NULL) {
        return rdi_fail(RONDO_ERR_UNSUPPORTED, "verbs: %s", why);
    }
    rondo_status s = rdi_verbs_ports(v, &ports, &n);
    if (s == RONDO_OK) {
        s = rdi_verbs_choose_ports(ports, n, rdi_nccl_options(), NULL, chosen, &nchosen);
    }
    for (unsigned i = 0; i < nchosen && s == RONDO_OK && count < RDI_NCCL_DEVICES; i++) {
        take_port(&ports[chosen[i]]);
    }
    free(ports);
    if (s == RONDO_OK && count == 0) {
        // The text is that of the last port which did not open.
        s = rdi_fail_prefix(RONDO_ERR_UNSUPPORTED, "no RDMA port can be opened");
    }
    return s;
}

// ---- Network interfaces --------------------------------------------------------------------------

static struct device *find_device(const char *name) {
    for (int i = 0; i < count; i++) {
        if (strcmp(devices[i].name, name) == 0) {
            return &devices[i];
        }
    }
    return NULL;
}

static void take_interface(const struct rdi_netif *a) {
    char text[INET6_ADDRSTRLEN];
    inet_ntop(a->family, a->addr, text, sizeof text);
    struct device *d = find_device(a->name);
    if (d == NULL && count < RDI_NCCL_DEVICES) {
        d = &devices[count];
        memset(d, 0, sizeof *d);
        snprintf(d->name, sizeof d->name, "%s", a->name);
        find_path(d, "/sys/class/net/%s/device", a->name);
        d->guid = (uint64_t)count;
        d->mbit = read_speed(a->name);
        count++;
    }
    if (d != NULL && strlen(d->choice) + strlen(text) + 2 < sizeof d->choice) {
        size_t used = strlen(d->choice);
        snprintf(d->choice + used, sizeof d->choice - used, "%s%s", used > 0 ? "+" : "", text);
    }
}

static rondo_status open_tcp(void) {
    struct rdi_netif list[NETIFS];
    size_t n = 0;
    rondo_status s = rdi_netif_list(rdi_nccl_options(), list, NETIFS, &n);
    if (s != RONDO_OK) {
        return s;
    }
    // Loopback leads nowhere else: it is a device where there is no other.
    for (int loopback = 0; loopback <= 1 && count == 0; loopback++) {
        for (size_t i = 0; i < n; i++) {
            if (list[i].loopback == (loopback == 1)) {
                take_interface(&list[i]);
            }
        }
    }
    ops = &rdi_tcp_ops;
    if (count == 0) {
        return rdi_fail(RONDO_ERR_UNSUPPORTED, "tcp: no network interface is up");
    }
    for (int i = 0; i < count && s == RONDO_OK; i++) {
        s = try_device(ops, i);
    }
    return s;
}

// ---- The choice ----------------------------------------------------------------------------------

static void tell(const char *why) {
    for (int i = 0; i < count; i++) {
        const struct device *d = &devices[i];
        rdi_nccl_log(RDI_NCCL_LOG_INFO,
                     "NET/" RDI_NCCL_NAME ": device %d: %s over %s, %d Mbit/s, %s (%s)", i, d->name,
                     ops->name, d->mbit, d->path[0] != '\0' ? d->path : "not on PCI", why);
    }
}

rondo_status rdi_nccl_devices_open(void) {
    const char *wanted = rdi_nccl_options()->str[RDI_OPT_TRANSPORT];
    char why[RDI_ERROR_TEXT + 64];
    rondo_status s;
    count = 0;
    if (strcmp(wanted, "shm") == 0) {
        return rdi_fail(RONDO_ERR_UNSUPPORTED,
                        "option transport: shm is no wire for NCCL, which has its own within a "
                        "host; choose auto, tcp or verbs (environment variable RONDO_TRANSPORT)");
    }
    snprintf(why, sizeof why, "option transport=%s", wanted);
    if (strcmp(wanted, "tcp") != 0) {
        s = open_verbs();
        if (s == RONDO_OK || strcmp(wanted, "verbs") == 0 || s == RONDO_ERR_INVALID) {
            goto out;
        }
        snprintf(why, sizeof why, "transport=auto and %s", rondo_last_error());
    }
    s = open_tcp();

out:
    if (s == RONDO_OK) {
        tell(why);
    } else {
        count = 0;
    }
    return s;
}

void rdi_nccl_devices_close(void) { count = 0; }

void rdi_nccl_device_options(const struct rdi_net_ops *o, int dev, int traffic_class,
                             struct rdi_options *out) {
    *out = *rdi_nccl_options();
    if (o == ops && dev >= 0 && dev < RDI_NCCL_DEVICES) {
        enum rdi_opt which = o == &rdi_verbs_ops ? RDI_OPT_DEVICE : RDI_OPT_INTERFACE;
        memcpy(out->str[which], devices[dev].choice, sizeof out->str[which]);
    }
    if (traffic_class >= 0 && traffic_class <= 255) {
        out->num[RDI_OPT_VERBS_TC] = traffic_class;
    }
}

// ---- Properties ----------------------------------------------------------------------------------

// The one place that says from which memory messages are sent and into which they are received. Transports that
// reach GPU memory add RDI_NCCL_PTR_CUDA and RDI_NCCL_PTR_DMABUF here; mem.c then registers it.
int rdi_nccl_pointer_support(int dev) {
    (void)dev;
    return RDI_NCCL_PTR_HOST;
}

int rdi_nccl_properties(int dev, struct rdi_nccl_props_v12 *out) {
    if (dev < 0 || dev >= count) {
        rdi_nccl_log(RDI_NCCL_LOG_WARN, "NET/" RDI_NCCL_NAME ": there is no device %d of %d", dev,
                     count);
        return RDI_NCCL_INTERNAL;
    }
    struct device *d = &devices[dev];
    *out = (struct rdi_nccl_props_v12){
        .name = d->name,
        .pci_path = d->path[0] != '\0' ? d->path : NULL,
        .guid = d->guid,
        .ptr_support = rdi_nccl_pointer_support(dev),
        .speed = d->mbit,
        .port = d->port,
        .latency = d->latency_us,
        .max_comms = MAX_COMMS,
        .max_recvs = 1,
        .device_type = RDI_NCCL_DEVICE_HOST,
        .fused = {.count = 1, .devices = {dev}},
        .max_p2p = (size_t)RDI_NCCL_MAX_BYTES,
        .max_coll = (size_t)RDI_NCCL_MAX_BYTES,
        .max_multi_request = 1,
        .rail = RDI_NCCL_UNDEFINED,
        .plane = RDI_NCCL_UNDEFINED,
    };
    return RDI_NCCL_SUCCESS;
}
