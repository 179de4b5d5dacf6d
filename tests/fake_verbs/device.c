// SPDX-License-Identifier: MIT
// The list of devices; opening and closing one.
#include "fake.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

unsigned fv_generation;
struct fv_counters fv_counters;

static pthread_mutex_t opened_lock = PTHREAD_MUTEX_INITIALIZER;
static struct fv_nic *opened;
static pthread_once_t once = PTHREAD_ONCE_INIT;

// ---- fork() --------------------------------------------------------------------------------------

static void before_fork(void) {
    pthread_mutex_lock(&opened_lock);
    for (struct fv_nic *n = opened; n; n = n->next)
        pthread_mutex_lock(&n->lock);
}
static void parent_after_fork(void) {
    for (struct fv_nic *n = opened; n; n = n->next)
        pthread_mutex_unlock(&n->lock);
    pthread_mutex_unlock(&opened_lock);
}
static void child_after_fork(void) {
    fv_generation++;
    for (struct fv_nic *n = opened; n; n = n->next) {
        fv_nic_abandon(n);
        pthread_mutex_unlock(&n->lock);
    }
    opened = NULL;
    pthread_mutex_unlock(&opened_lock);
}
static void prepare(void) { pthread_atfork(before_fork, parent_after_fork, child_after_fork); }

struct fv_nic *fv_enter(const struct ibv_context *context) {
    struct fv_nic *nic = fv_nic_of(context);
    if (nic->generation != fv_generation)
        fv_rule("FORKED_CHILD", "%s was opened before fork() and is used in the child",
                nic->device.v.name);
    return nic;
}

struct fv_nic *fv_enter_locked(const struct ibv_context *context) {
    struct fv_nic *nic = fv_enter(context);
    pthread_mutex_lock(&nic->lock);
    return nic;
}

void fv_check_alive(uint32_t magic, const char *what, const char *call) {
    if (magic != FV_ALIVE)
        fv_rule("DEAD_OBJECT", "%s of a %s that was destroyed", call, what);
}

void fv_bury(struct fv_nic *nic, void *object) {
    void **graves = realloc(nic->graves, (nic->ngraves + 1) * sizeof *graves);
    if (!graves)
        return;
    nic->graves = graves;
    nic->graves[nic->ngraves++] = object;
}

int fv_pipe(int fds[2]) {
    if (pipe2(fds, O_CLOEXEC) != 0)
        return -1;
    return fcntl(fds[1], F_SETFL, O_NONBLOCK);
}

// ---- The list ------------------------------------------------------------------------------------

static struct fv_device *make_device(const struct fv_config *c, unsigned number) {
    struct fv_device *d = calloc(1, sizeof *d);
    if (!d)
        return NULL;
    d->config = *c;
    d->number = number;
    d->v.node_type = c->link == FV_IWARP ? IBV_NODE_RNIC : IBV_NODE_CA;
    d->v.transport_type = c->link == FV_IWARP ? IBV_TRANSPORT_IWARP : IBV_TRANSPORT_IB;
    snprintf(d->v.name, sizeof d->v.name, "fake%u", number);
    snprintf(d->v.dev_name, sizeof d->v.dev_name, "uverbs%u", number);
    snprintf(d->v.dev_path, sizeof d->v.dev_path, "/sys/class/infiniband_verbs/uverbs%u", number);
    snprintf(d->v.ibdev_path, sizeof d->v.ibdev_path, "/sys/class/infiniband/fake%u", number);
    return d;
}

FV_EXPORT struct ibv_device **ibv_get_device_list(int *n) {
    pthread_once(&once, prepare);
    struct fv_config c;
    if (!fv_config_read(&c))
        c.devices = 0;
    struct ibv_device **list = calloc(c.devices + 1, sizeof *list);
    if (!list)
        return NULL;
    unsigned made = 0;
    for (; made < c.devices; made++) {
        struct fv_device *d = make_device(&c, made);
        if (!d)
            break;
        list[made] = &d->v;
    }
    if (n)
        *n = (int)made;
    return list;
}

FV_EXPORT void ibv_free_device_list(struct ibv_device **list) {
    for (struct ibv_device **d = list; *d; d++)
        free(FV_CONTAINER(*d, struct fv_device, v));
    free(list);
}

FV_EXPORT const char *ibv_get_device_name(struct ibv_device *device) { return device->name; }

FV_EXPORT int ibv_get_device_index(struct ibv_device *device) {
    return (int)FV_CONTAINER(device, struct fv_device, v)->number;
}

FV_EXPORT __be64 ibv_get_device_guid(struct ibv_device *device) {
    const struct fv_device *d = FV_CONTAINER(device, struct fv_device, v);
    return htobe64(0x0200000000fe0000ull | d->number << 8 | d->config.host);
}

// ---- Open, close ---------------------------------------------------------------------------------

static int query_port_op(struct ibv_context *context, uint8_t port, struct ibv_port_attr *attr,
                         size_t size) {
    struct fv_nic *nic = fv_enter(context);
    if (port < 1 || port > nic->device.config.ports)
        return EINVAL;
    struct ibv_port_attr all;
    pthread_mutex_lock(&nic->lock);
    fv_port_attr(nic, port, &all);
    pthread_mutex_unlock(&nic->lock);
    memset(attr, 0, size);
    memcpy(attr, &all, size < sizeof all ? size : sizeof all);
    return 0;
}

static void fill_context(struct fv_nic *nic) {
    nic->v.query_port = query_port_op;
    nic->v.sz = sizeof nic->v;
    struct ibv_context *c = &nic->v.context;
    c->device = &nic->device.v;
    c->ops.poll_cq = fv_poll_cq;
    c->ops.req_notify_cq = fv_req_notify_cq;
    c->ops.post_send = fv_post_send;
    c->ops.post_recv = fv_post_recv;
    c->cmd_fd = c->async_fd = -1;
    c->num_comp_vectors = 1;
    c->abi_compat = __VERBS_ABI_IS_EXTENDED;
    pthread_mutex_init(&c->mutex, NULL);
}

static struct fv_nic *make_nic(const struct fv_device *device) {
    struct fv_nic *nic = calloc(1, sizeof *nic);
    if (!nic)
        return NULL;
    nic->device = *device;
    nic->generation = fv_generation;
    nic->dirfd = nic->event_fd = nic->listen_fd = nic->inotify_fd = nic->async_write = -1;
    nic->rng = (device->config.seed + 1) * 0x9e3779b97f4a7c15ull + device->config.host * 7919u +
               device->number * 104729u + 1;
    pthread_mutex_init(&nic->lock, NULL);
    fill_context(nic);
    fv_faults_parse(&nic->faults, getenv("FAKE_VERBS_FAULTS"), device->v.name);
    return nic;
}

static void close_if(int fd) {
    if (fd >= 0)
        close(fd);
}

static void free_nic(struct fv_nic *nic) {
    int error = errno;
    fv_link_close(nic);
    if (nic->slot)
        fv_registry_give(nic);
    close_if(nic->event_fd);
    close_if(nic->inotify_fd);
    close_if(nic->async_write);
    close_if(nic->v.context.async_fd);
    close_if(nic->dirfd);
    for (size_t i = 0; i < nic->ngraves; i++)
        free(nic->graves[i]);
    free(nic->graves);
    pthread_mutex_destroy(&nic->lock);
    pthread_mutex_destroy(&nic->v.context.mutex);
    free(nic);
    errno = error;
}

static bool open_files(struct fv_nic *nic) {
    const char *dir = nic->device.config.dir;
    if (mkdir(dir, 0700) != 0 && errno != EEXIST)
        return false;
    nic->dirfd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (nic->dirfd < 0)
        return false;
    nic->id = fv_registry_take(nic);
    nic->event_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    int fds[2];
    if (!nic->id || nic->event_fd < 0 || fv_pipe(fds) != 0)
        return false;
    nic->v.context.async_fd = fds[0];
    nic->async_write = fds[1];
    return fv_listen(nic) == 0;
}

FV_EXPORT struct ibv_context *ibv_open_device(struct ibv_device *device) {
    struct fv_nic *nic = make_nic(FV_CONTAINER(device, struct fv_device, v));
    if (!nic)
        return NULL;
    if (!open_files(nic)) {
        free_nic(nic);
        return NULL;
    }
    // The first numbers differ between opened devices, so that those of one are never right on another.
    nic->next_key = (nic->id & 0xff) << 16 | (fv_random(&nic->rng) & 0xfff);
    nic->next_qpn = (uint32_t)(fv_random(&nic->rng) % (1u << FV_QPN_BITS));
    nic->faults_since = fv_now();
    fv_faults_watch(nic);
    pthread_mutex_lock(&opened_lock);
    int failed = fv_nic_start(nic);
    if (failed == 0) {
        nic->next = opened;
        opened = nic;
    }
    pthread_mutex_unlock(&opened_lock);
    if (failed) {
        errno = failed;
        free_nic(nic);
        return NULL;
    }
    return &nic->v.context;
}

static void leak_check(const struct fv_nic *nic, const char *when) {
    const char *on = getenv("FAKE_VERBS_LEAKS");
    if (!on || strcmp(on, "1") != 0)
        return;
    if (nic->nqps || nic->ncqs || nic->nmrs || nic->npds || nic->nchannels)
        fv_rule("LEAK",
                "%s of %s leaves %u queue pairs, %u completion queues, %u memory regions, "
                "%u protection domains, %u completion channels",
                when, nic->device.v.name, nic->nqps, nic->ncqs, nic->nmrs, nic->npds,
                nic->nchannels);
}

static void free_mrs(struct fv_nic *nic) {
    for (size_t i = 0; i < sizeof nic->mrs / sizeof nic->mrs[0]; i++) {
        while (nic->mrs[i]) {
            struct fv_mr *m = nic->mrs[i];
            nic->mrs[i] = m->next;
            size_t in_page = (uintptr_t)m->base % 4096;
            if (m->mapped)
                munmap(m->base - in_page, m->v.length + in_page);
            fv_counters.registered_bytes -= (long)m->v.length;
            free(m);
        }
    }
}

// As the kernel does with what the application left.
static void free_objects(struct fv_nic *nic) {
    while (nic->qps) {
        struct fv_qp *q = nic->qps;
        nic->qps = q->next;
        fv_qp_free(q);
        free(q);
    }
    free_mrs(nic);
    while (nic->cqs) {
        struct fv_cq *c = nic->cqs;
        nic->cqs = c->next;
        free(c->entries);
        pthread_mutex_destroy(&c->lock);
        free(c);
    }
    while (nic->pds) {
        struct fv_pd *p = nic->pds;
        nic->pds = p->next;
        free(p);
    }
    while (nic->channels) {
        struct fv_channel *c = nic->channels;
        nic->channels = c->next;
        close(c->v.fd);
        close(c->write_fd);
        free(c);
    }
}

FV_EXPORT int ibv_close_device(struct ibv_context *context) {
    struct fv_nic *nic = fv_enter(context);
    pthread_mutex_lock(&opened_lock);
    for (struct fv_nic **at = &opened; *at; at = &(*at)->next) {
        if (*at == nic) {
            *at = nic->next;
            break;
        }
    }
    pthread_mutex_unlock(&opened_lock);
    leak_check(nic, "ibv_close_device()");
    fv_nic_stop(nic);
    free_objects(nic);
    free_nic(nic);
    return 0;
}

__attribute__((destructor)) static void at_exit(void) {
    pthread_mutex_lock(&opened_lock);
    for (struct fv_nic *n = opened; n; n = n->next) {
        leak_check(n, "exit");
        const char *on = getenv("FAKE_VERBS_LEAKS");
        if (on && strcmp(on, "1") == 0)
            fv_rule("LEAK", "%s is open at exit", n->device.v.name);
    }
    pthread_mutex_unlock(&opened_lock);
}

// ---- For tests -----------------------------------------------------------------------------------

FV_EXPORT int fake_verbs_control(const char *device, const char *faults);
FV_EXPORT long fake_verbs_count(const char *what);

static bool is_named(const struct fv_nic *nic, const char *device) {
    char with_host[96];
    snprintf(with_host, sizeof with_host, "%u/%s", nic->device.config.host, nic->device.v.name);
    return !device || strcmp(device, nic->device.v.name) == 0 || strcmp(device, with_host) == 0;
}

// Sets the faults of every opened device of that name ("fake0"; "2/fake0" of host 2; NULL: of all). Returns
// how many there were.
FV_EXPORT int fake_verbs_control(const char *device, const char *faults) {
    int n = 0;
    pthread_mutex_lock(&opened_lock);
    for (struct fv_nic *nic = opened; nic; nic = nic->next) {
        if (!is_named(nic, device))
            continue;
        struct fv_faults f;
        fv_faults_parse(&f, faults, nic->device.v.name);
        pthread_mutex_lock(&nic->lock);
        fv_faults_set(nic, &f);
        fv_faults_tick(nic, fv_now());
        pthread_mutex_unlock(&nic->lock);
        fv_kick(nic);
        n++;
    }
    pthread_mutex_unlock(&opened_lock);
    return n;
}

// What there is now ("devices", "objects", "regions", "queue_pairs") or was until now; -1: not known.
FV_EXPORT long fake_verbs_count(const char *what) {
    long devices = 0, regions = 0, queue_pairs = 0, others = 0;
    pthread_mutex_lock(&opened_lock);
    for (struct fv_nic *nic = opened; nic; nic = nic->next) {
        pthread_mutex_lock(&nic->lock);
        devices++;
        regions += nic->nmrs;
        queue_pairs += nic->nqps;
        others += nic->ncqs + nic->npds + nic->nchannels;
        pthread_mutex_unlock(&nic->lock);
    }
    pthread_mutex_unlock(&opened_lock);
    const struct {
        const char *name;
        long value;
    } all[] = {
        {"devices", devices},
        {"regions", regions},
        {"queue_pairs", queue_pairs},
        {"objects", devices + regions + queue_pairs + others},
        {"registrations", fv_counters.registrations},
        {"registered_bytes", fv_counters.registered_bytes},
        {"rnr_naks", fv_counters.rnr_naks},
        {"timeouts", fv_counters.timeouts},
        {"naks", fv_counters.naks},
    };
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        if (strcmp(all[i].name, what) == 0)
            return all[i].value;
    return -1;
}
