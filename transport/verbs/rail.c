// SPDX-License-Identifier: MIT
// Opening a port for use, and what the device reports of its own accord.
#include "transport/verbs/parts.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#define CQ_ENTRIES 16384
#define EVENTS_MAX 1024 // read in one go; the rest at the next call

// ---- Fork ----------------------------------------------------------------------------------------

// After fork() the first write to a page gives the parent, too, a new page, while the device goes on with the
// old one. Newer kernels copy registered pages for the child at once; elsewhere libibverbs has to keep them
// out of the child, and must be told before the first registration in the process.
static bool fork_is_safe(const struct rdi_ibv *v) {
    static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
    static enum { UNKNOWN, SAFE, UNSAFE } answer;
    pthread_mutex_lock(&mutex);
    if (answer == UNKNOWN) {
        bool done = v->is_fork_initialized != NULL && v->is_fork_initialized() != IBV_FORK_DISABLED;
        // Fails when somebody else in this process has registered memory before.
        answer = done || v->fork_init() == 0 ? SAFE : UNSAFE;
    }
    bool safe = answer == SAFE;
    pthread_mutex_unlock(&mutex);
    return safe;
}

// ---- Opening -------------------------------------------------------------------------------------

static rondo_status open_device(struct rdi_verbs_rail *r) {
    int n = 0;
    errno = 0;
    struct ibv_device **list = r->v->get_device_list(&n);
    int err = list == NULL && errno != 0 ? errno : ENODEV;
    for (int i = 0; list != NULL && i < n && r->context == NULL; i++) {
        const char *name = r->v->get_device_name(list[i]);
        if (name != NULL && strcmp(name, r->info.device) == 0) {
            errno = 0;
            r->context = r->v->open_device(list[i]);
            err = errno != 0 ? errno : EIO;
        }
    }
    if (list != NULL) {
        r->v->free_device_list(list);
    }
    if (r->context != NULL) {
        return RONDO_OK;
    }
    if (err == EACCES || err == EPERM) {
        return rdi_fail_errno(RONDO_ERR_SYSTEM, err,
                              "cannot open RDMA device %s; permit this user to read and write "
                              "/dev/infiniband/uverbs*",
                              r->info.device);
    }
    return rdi_verbs_fail_device(r, err, "open the device");
}

static rondo_status choose_gids(struct rdi_verbs_rail *r, const struct rdi_options *o) {
    rdi_verbs_gids_read(r->v, r->context, o, &r->info);
    if (r->info.ngids > 0 || (!r->info.roce && o->is_auto[RDI_OPT_VERBS_GID])) {
        return RONDO_OK; // InfiniBand does with LIDs
    }
    if (!o->is_auto[RDI_OPT_VERBS_GID]) {
        return rdi_fail(RONDO_ERR_INVALID,
                        "option verbs_gid=%lld: RDMA port %s:%u has no GID there (of %u entries) "
                        "that family=%s permits; leave it at auto, which chooses by version and "
                        "subnet",
                        (long long)o->num[RDI_OPT_VERBS_GID], r->info.device, r->info.port,
                        r->info.gid_table, o->str[RDI_OPT_FAMILY]);
    }
    return rdi_fail(RONDO_ERR_UNSUPPORTED,
                    "RDMA port %s:%u has no GID of family=%s; give its network interface an "
                    "address, or change the option",
                    r->info.device, r->info.port, o->str[RDI_OPT_FAMILY]);
}

static bool set_nonblocking(int fd) {
    int flags = fcntl(fd, F_GETFL);
    return flags >= 0 && fcntl(fd, F_SETFL, flags | O_NONBLOCK) == 0;
}

static rondo_status make_queue(struct rdi_verbs_rail *r) {
    errno = 0;
    r->channel = r->v->create_comp_channel(r->context);
    if (r->channel == NULL) {
        return rdi_verbs_fail_device(r, errno, "create a completion channel");
    }
    if (!set_nonblocking(r->context->async_fd) || !set_nonblocking(r->channel->fd)) {
        return rdi_fail_errno(RONDO_ERR_SYSTEM, errno,
                              "cannot make the descriptors of RDMA device %s non-blocking",
                              r->info.device);
    }
    int most = r->info.attr.max_cqe, want = most > 0 && most < CQ_ENTRIES ? most : CQ_ENTRIES;
    errno = 0;
    r->cq = r->v->create_cq(r->context, want, NULL, r->channel, 0);
    if (r->cq == NULL) {
        return rdi_verbs_fail_device(r, errno, "create a completion queue of %d entries", want);
    }
    r->cq_size = (unsigned)(r->cq->cqe > 0 ? r->cq->cqe : want);
    return RONDO_OK;
}

static rondo_status decide_relaxed(struct rdi_verbs_rail *r, const struct rdi_options *o) {
    const char *word = o->str[RDI_OPT_VERBS_RELAXED];
    r->relaxed = strcmp(word, "no") != 0 && r->v->reg_mr_iova2 != NULL;
    r->relaxed_wanted = strcmp(word, "yes") == 0;
    if (r->relaxed_wanted && !r->relaxed) {
        return rdi_fail(RONDO_ERR_UNSUPPORTED,
                        "option verbs_relaxed=yes: libibverbs is too old for it; install 1.9 or "
                        "later, or set it to auto");
    }
    return RONDO_OK;
}

rondo_status rdi_verbs_rail_open(struct rdi_verbs_rail *r, const struct rdi_ibv *v,
                                 const struct rdi_verbs_port *port, const struct rdi_options *o) {
    *r = (struct rdi_verbs_rail){.v = v, .info = *port};
    r->fork_unsafe = !fork_is_safe(v);
    rondo_status s = decide_relaxed(r, o);
    if (s == RONDO_OK) {
        s = open_device(r);
    }
    if (s == RONDO_OK) {
        s = choose_gids(r, o);
    }
    if (s == RONDO_OK) {
        errno = 0;
        r->pd = v->alloc_pd(r->context);
        s = r->pd != NULL ? make_queue(r)
                          : rdi_verbs_fail_device(r, errno, "allocate a protection domain");
    }
    if (s != RONDO_OK) {
        rdi_verbs_rail_close(r);
    }
    return s;
}

void rdi_verbs_rail_close(struct rdi_verbs_rail *r) {
    if (r->cq != NULL) {
        if (r->events > 0) { // the destruction would wait for their acknowledgement
            r->v->ack_cq_events(r->cq, r->events);
            r->events = 0;
        }
        r->v->destroy_cq(r->cq);
    }
    if (r->pd != NULL) {
        rdi_verbs_mr_drop_all(r);
        r->v->dealloc_pd(r->pd);
    }
    if (r->channel != NULL) {
        r->v->destroy_comp_channel(r->channel);
    }
    if (r->context != NULL) {
        r->v->close_device(r->context);
    }
    *r = (struct rdi_verbs_rail){.v = NULL};
}

// ---- Events --------------------------------------------------------------------------------------

static const char *event_text(const struct rdi_verbs_rail *r, enum ibv_event_type type) {
    const char *text = r->v->event_type_str(type);
    return text != NULL ? text : "?";
}

static void take_port_event(struct rdi_verbs_rail *r, const struct rdi_env *env,
                            enum ibv_event_type type, int port) {
    // A device reports on all of its ports to everybody.
    if (port != r->info.port) {
        return;
    }
    bool lost = type == IBV_EVENT_PORT_ERR;
    if (lost || type == IBV_EVENT_PORT_ACTIVE) {
        r->down = lost;
    }
    rdi_log(env, lost ? RONDO_LOG_WARN : RONDO_LOG_INFO, "RDMA port %s:%u: %s", r->info.device,
            r->info.port, event_text(r, type));
}

static void set_fatal(const struct rdi_verbs_rail *r, const char *what, bool *fatal, char *why,
                      size_t cap) {
    if (!*fatal) {
        snprintf(why, cap,
                 "RDMA device %s: %s; see the kernel log for the device; reset it, or leave it "
                 "out (option device)",
                 r->info.device, what);
    }
    *fatal = true;
}

// Waits for nothing: the descriptor is non-blocking. 0 or an errno, EAGAIN when there is no event.
static int read_event(struct rdi_verbs_rail *r, struct ibv_async_event *e) {
    int rc;
    do {
        errno = 0;
        rc = r->v->get_async_event(r->context, e);
    } while (rc != 0 && errno == EINTR);
    if (rc != 0) {
        return errno == EWOULDBLOCK ? EAGAIN : errno != 0 ? errno : EIO;
    }
    return 0;
}

int rdi_verbs_rail_async(struct rdi_verbs_rail *r, const struct rdi_env *env, bool *fatal,
                         char *why, size_t cap,
                         void (*qp_event)(void *self, struct ibv_qp *qp, enum ibv_event_type type),
                         void *self) {
    *fatal = false;
    for (int n = 0; n < EVENTS_MAX; n++) {
        struct ibv_async_event e;
        int err = read_event(r, &e);
        if (err != 0) {
            if (err != EAGAIN) {
                set_fatal(r, "it was taken away", fatal, why, cap);
            }
            return n;
        }
        // At once: whoever is told may destroy the queue pair, which would wait for this.
        r->v->ack_async_event(&e);
        switch (e.event_type) {
        case IBV_EVENT_DEVICE_FATAL:
            set_fatal(r, event_text(r, e.event_type), fatal, why, cap);
            break;
        case IBV_EVENT_CQ_ERR:
            set_fatal(r, "a completion queue overran or failed", fatal, why, cap);
            break;
        case IBV_EVENT_PORT_ERR:
        case IBV_EVENT_PORT_ACTIVE:
        case IBV_EVENT_LID_CHANGE:
        case IBV_EVENT_PKEY_CHANGE:
        case IBV_EVENT_SM_CHANGE:
        case IBV_EVENT_CLIENT_REREGISTER:
        case IBV_EVENT_GID_CHANGE:
            take_port_event(r, env, e.event_type, e.element.port_num);
            break;
        case IBV_EVENT_QP_FATAL:
        case IBV_EVENT_QP_REQ_ERR:
        case IBV_EVENT_QP_ACCESS_ERR:
        case IBV_EVENT_QP_LAST_WQE_REACHED:
        case IBV_EVENT_COMM_EST:
        case IBV_EVENT_SQ_DRAINED:
        case IBV_EVENT_PATH_MIG:
        case IBV_EVENT_PATH_MIG_ERR:
            if (qp_event != NULL) {
                qp_event(self, e.element.qp, e.event_type);
            }
            break;
        default: // shared receive queues and work queues: there are none
            break;
        }
    }
    return EVENTS_MAX;
}
