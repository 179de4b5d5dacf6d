// SPDX-License-Identifier: MIT
// RDMA devices: whether they can be opened, their ports, and what a job would choose of them.
#include "transport/doctor/doctor.h"
#include "transport/verbs/device.h"

#include <stdlib.h>
#include <string.h>

// ---- What the kernel shows -----------------------------------------------------------------------

struct names {
    char *buf;
    size_t cap, used;
};

static void add_name(struct doctor *d, const char *name, void *arg) {
    struct names *n = arg;
    (void)d;
    if (n->used < n->cap) {
        n->used += (size_t)snprintf(n->buf + n->used, n->cap - n->used, "%s%s",
                                    n->used > 0 ? ", " : "", name);
    }
}

size_t dr_kernel_devices(struct doctor *d, char *names, size_t cap) {
    struct names n = {.buf = names, .cap = cap};
    names[0] = '\0';
    return dr_each(d, "/sys/class/infiniband", add_name, &n);
}

static enum dr_level missing(const struct doctor *d, bool kernel_has_some) {
    return dr_insists(d, "verbs") ? DR_ERROR : kernel_has_some ? DR_WARNING : DR_INFO;
}

static void not_wanted(struct doctor *d) {
    dr_add(d, DR_INFO, NULL, "transport=%s: RDMA is not used", d->options.str[RDI_OPT_TRANSPORT]);
}

void dr_rdma_library(struct doctor *d) {
    char why[512], names[256];
    if (!dr_wants(d, "verbs")) {
        not_wanted(d);
    } else if (rdi_ibv_load(why, sizeof why) != NULL) {
        dr_add(d, DR_OK, NULL, "libibverbs is there");
    } else {
        dr_add(d, missing(d, dr_kernel_devices(d, names, sizeof names) > 0), NULL, "%s", why);
        dr_means(d, "%s",
                 dr_insists(d, "verbs") ? "transport=verbs cannot be opened"
                                        : "ranks on different hosts talk TCP");
        dr_remedy(d, "install it with its drivers (Debian: apt install libibverbs1"
                     " ibverbs-providers; Red Hat: dnf install libibverbs)");
    }
}

void dr_rdma_files(struct doctor *d) {
    char names[256], nodes[256];
    struct names n = {.buf = nodes, .cap = sizeof nodes};
    size_t devices = dr_kernel_devices(d, names, sizeof names);
    nodes[0] = '\0';
    dr_each(d, "/dev/infiniband", add_name, &n);
    if (!dr_wants(d, "verbs")) {
        not_wanted(d);
    } else if (devices == 0 && strstr(nodes, "uverbs") != NULL) {
        dr_add(d, missing(d, true), NULL, "/dev/infiniband has %s, but no device is visible",
               nodes);
        dr_means(d,
                 "the devices belong to another network namespace: programs here cannot use them");
        dr_remedy(
            d, "start the container with the host's network (docker run --network=host), or on the"
               " host, as root: rdma system set netns shared");
    } else if (devices == 0) {
        dr_add(d, DR_INFO, NULL, "the kernel shows no RDMA device");
        dr_remedy(d,
                  "with such a card: load its driver (modprobe mlx5_ib, irdma, bnxt_re). On plain"
                  " Ethernet, to try: modprobe rdma_rxe; rdma link add rxe0 type rxe netdev eth0");
    } else if (strstr(nodes, "uverbs") == NULL) {
        dr_add(d, missing(d, true), NULL,
               "the kernel has %s, but /dev/infiniband has no uverbs file", names);
        dr_means(d, "programs here cannot open the devices: ranks on different hosts %s",
                 dr_insists(d, "verbs") ? "cannot connect" : "talk TCP");
        dr_remedy(d, "modprobe ib_uverbs; in a container: docker run --device=/dev/infiniband"
                     " --cap-add=IPC_LOCK --network=host, in Kubernetes an RDMA device plugin");
    } else {
        dr_add(d, DR_OK, NULL, "%s, with /dev/infiniband: %s", names, nodes);
    }
}

// ---- Ports ---------------------------------------------------------------------------------------

static const char *state_name(const struct rdi_verbs_port *p) {
    static const char *const names[] = {"NOP",   "down",   "initialising",
                                        "armed", "active", "active, deferred"};
    return p->state < sizeof names / sizeof names[0] ? names[p->state] : "in an unknown state";
}

static const char *link_name(const struct rdi_verbs_port *p) {
    return p->iwarp ? "iWARP" : p->roce ? "RoCE" : "InfiniBand";
}

static void say_down(struct doctor *d, const struct rdi_verbs_port *p, const char *subject) {
    dr_add(d, DR_INFO, subject, "%s, %s", link_name(p), state_name(p));
    dr_means(d, "it is not used");
    if (p->netdev[0] != '\0') {
        dr_remedy(d, "ip link set %s up; look at the cable and the switch port", p->netdev);
    } else if (p->phys_state == 5) {
        dr_remedy(d, "the link is up but no subnet manager has configured it: start opensm, or look"
                     " at the switch's");
    } else {
        dr_remedy(d, "look at the cable and the switch port (ibstat)");
    }
}

static void say_mtu(struct doctor *d, const struct rdi_verbs_port *p, const char *subject) {
    uint64_t netdev = 0;
    unsigned mtu = rdi_verbs_mtu_bytes(p->mtu), most = rdi_verbs_mtu_bytes(p->max_mtu);
    bool known = p->netdev[0] != '\0' &&
                 dr_read_number(d, &netdev, "/sys/class/net/%s/mtu", p->netdev);
    if (mtu >= most) {
        dr_add(d, DR_OK, subject, "MTU %u, the greatest of this port", mtu);
        return;
    }
    // A RoCE port's MTU follows from that of its interface, less the headers.
    dr_add(d, mtu < 1024 ? DR_WARNING : DR_INFO, subject, "MTU %u, while the port could %u%s", mtu,
           most, known ? "" : "; its interface is not visible");
    dr_means(d, "more packets for the same bytes; a connection takes the smaller MTU of both ends");
    if (known) {
        dr_remedy(d, "%s has MTU %llu; where switches and all hosts permit: ip link set %s mtu %u",
                  p->netdev, (unsigned long long)netdev, p->netdev, most >= 4096 ? 4200u : 2200u);
    }
}

static void say_gid(struct doctor *d, const struct rdi_verbs_port *p, const char *subject) {
    static const char *const types[] = {"InfiniBand", "RoCE v1", "RoCE v2"};
    const struct rdi_verbs_gid *best = NULL;
    char text[64];
    unsigned usable = 0;
    int rank = 0;
    for (unsigned i = 0; i < p->ngids; i++) {
        int r = rdi_verbs_gid_rank(&p->gids[i], &d->options);
        usable += r > 0;
        if (r > rank) {
            rank = r;
            best = &p->gids[i];
        }
    }
    if (best == NULL) {
        dr_add(d, missing(d, true), subject, "no GID of %u fits", p->gid_table);
        dr_means(d, "no connection through this port");
        dr_remedy(
            d, p->roce ? "give its interface an address (ip addr add), or correct RONDO_FAMILY and"
                         " RONDO_VERBS_GID"
                       : "start a subnet manager (opensm), or correct RONDO_VERBS_GID");
        return;
    }
    const char *type = best->type < 3 ? types[best->type] : "?";
    bool v1 = best->type == RDI_GID_ROCE_V1, local = p->roce && best->link_local;
    dr_add(d, v1 || local ? DR_WARNING : DR_OK, subject,
           "GID %u, %s, %s: the best of %u that fit (family=%s, verbs_gid=%s)", best->index,
           rdi_verbs_gid_text(best, text, sizeof text), type, usable,
           d->options.str[RDI_OPT_FAMILY],
           d->options.is_auto[RDI_OPT_VERBS_GID] ? "auto" : "given");
    if (v1) {
        dr_means(d, "RoCE v1 passes no router, and many switches do not look after it");
        dr_remedy(d, "give the interface %s an IP address; its v2 GID follows", p->netdev);
    } else if (local) {
        dr_means(d, "a link-local address reaches this segment only");
        dr_remedy(d, "give the interface %s an address of a subnet", p->netdev);
    }
}

// How the transport would reach GPU memory through this port; the GPU's driver has its own say.
static void say_device_memory(struct doctor *d, bool dmabuf, const char *subject) {
    bool peermem = rdi_verbs_has_peermem(d->root);
    if (strcmp(d->options.str[RDI_OPT_VERBS_MODE], "send") == 0) {
        dr_add(d, DR_INFO, subject, "GPU memory is copied through the host (verbs_mode=send)");
        dr_remedy(d, "where the port has immediate values: RONDO_VERBS_MODE=auto");
    } else if (dmabuf || peermem) {
        dr_add(d, DR_OK, subject, "registers GPU memory %s",
               dmabuf ? "by DMA-BUF, where the GPU's driver gives one"
                      : "by its address, with nvidia-peermem");
    } else {
        dr_add(d, DR_INFO, subject, "registers no GPU memory: no DMA-BUF, no nvidia-peermem");
        dr_means(d, "with GPUs, data is copied through pinned host memory");
        dr_remedy(d, "see gpu.peer_memory; DMA-BUF takes a card's driver that has it (mlx5, irdma,"
                     " bnxt_re, efa) and libibverbs 1.12");
    }
}

static void say_open(struct doctor *d, const struct rdi_ibv *v, const struct rdi_verbs_port *p,
                     const char *subject) {
    struct rdi_verbs_rail rail;
    if (rdi_verbs_rail_open(&rail, v, p, &d->options) != RONDO_OK) {
        dr_add(d, DR_ERROR, subject, "%s", rondo_last_error());
        dr_means(d, "rondo_init() fails with this text");
        dr_remedy(d, "as the text says; RONDO_TRANSPORT=tcp does without RDMA");
        return;
    }
    bool dmabuf = rdi_verbs_has_dmabuf(v, rail.pd);
    dr_add(d, DR_OK, subject, "opens; completion queue of %u entries, %s", rail.cq_size,
           rail.relaxed ? "relaxed ordering" : "strict ordering");
    rdi_verbs_rail_close(&rail);
    say_device_memory(d, dmabuf, subject);
}

static void say_port(struct doctor *d, const struct rdi_verbs_port *p, const char *subject) {
    char numa[48] = "";
    if (p->numa_node != UINT32_MAX) {
        snprintf(numa, sizeof numa, ", NUMA node %u", p->numa_node);
    }
    dr_add(d, DR_OK, subject, "%s, %s, %.3g Gb/s%s%s%s", link_name(p), state_name(p),
           (double)p->mbit_per_s / 1000, p->netdev[0] != '\0' ? ", on " : "", p->netdev, numa);
    // One pair of queues for each direction of each peer.
    uint64_t need = 2 * (uint64_t)d->per_node * (uint64_t)(d->ranks - 1) *
                    (uint64_t)d->options.num[RDI_OPT_VERBS_QPS];
    if (p->attr.max_qp > 0 && need > (uint64_t)p->attr.max_qp) {
        dr_add(d, DR_WARNING, subject, "%d queue pairs; an all_to_all of the job needs %llu",
               p->attr.max_qp, (unsigned long long)need);
        dr_means(d, "connections beyond that fail (ENOMEM)");
        dr_remedy(d, "RONDO_VERBS_QPS=1, or fewer ranks on this host");
    }
}

static void subject_of(const struct rdi_verbs_port *p, char *out, size_t cap) {
    snprintf(out, cap, "%s:%u", p->device, p->port);
}

static void say_choice(struct doctor *d, const struct rdi_ibv *v,
                       const struct rdi_verbs_port *ports, size_t n) {
    unsigned chosen[RDI_VERBS_RAILS], count = 0;
    char text[256] = "", subject[RDI_VERBS_NAME + 8];
    size_t used = 0;
    rondo_status s = rdi_verbs_choose_ports(ports, n, &d->options, NULL, chosen, &count);
    if (s != RONDO_OK) {
        dr_add(d, s == RONDO_ERR_INVALID ? DR_ERROR : missing(d, true), NULL, "%s",
               rondo_last_error());
        dr_means(d, s == RONDO_ERR_INVALID ? "rondo_init() fails with this text"
                                           : "RDMA cannot be used");
        dr_remedy(d, "bring a port up, or correct RONDO_DEVICE");
        return;
    }
    for (unsigned i = 0; i < count && used < sizeof text; i++) {
        subject_of(&ports[chosen[i]], subject, sizeof subject);
        used +=
            (size_t)snprintf(text + used, sizeof text - used, "%s%s", i > 0 ? ", " : "", subject);
    }
    dr_add(d, DR_OK, NULL, "a job uses %s (%s, at most %u)", text,
           d->options.str[RDI_OPT_DEVICE][0] != '\0'
               ? "option device says so"
               : "what is active, a rank's decided NICs first, then the fastest",
           RDI_VERBS_RAILS);
    for (unsigned i = 0; i < count; i++) {
        const struct rdi_verbs_port *p = &ports[chosen[i]];
        subject_of(p, subject, sizeof subject);
        say_gid(d, p, subject);
        say_mtu(d, p, subject);
        say_open(d, v, p, subject);
    }
}

void dr_rdma_ports(struct doctor *d) {
    struct rdi_verbs_port *ports = NULL;
    size_t n = 0;
    char why[512], names[256];
    if (!dr_wants(d, "verbs")) {
        not_wanted(d);
        return;
    }
    const struct rdi_ibv *v = rdi_ibv_load(why, sizeof why);
    if (v == NULL) {
        return; // rdma.library has said it
    }
    if (rdi_verbs_ports(v, &ports, &n) != RONDO_OK) {
        dr_add(d, missing(d, dr_kernel_devices(d, names, sizeof names) > 0), NULL, "%s",
               rondo_last_error());
        dr_means(d, "%s",
                 dr_insists(d, "verbs") ? "transport=verbs cannot be opened"
                                        : "ranks on different hosts talk TCP");
        dr_remedy(d, "see rdma.files");
        return;
    }
    for (size_t i = 0; i < n; i++) {
        char subject[RDI_VERBS_NAME + 8];
        subject_of(&ports[i], subject, sizeof subject);
        if (ports[i].active) {
            say_port(d, &ports[i], subject);
        } else {
            say_down(d, &ports[i], subject);
        }
    }
    say_choice(d, v, ports, n);
    free(ports);
}
