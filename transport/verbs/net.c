// SPDX-License-Identifier: MIT
// The verbs transport: opening, addresses, progress and sleep.
//
// One completion queue for each rail is all that a caller who polls in a loop looks at, most of the time: no
// system call. The inner tcp net, asynchronous events and timers are looked at now and then, and on every call
// while a link is not settled.
#include "transport/verbs/verbs.h"

#include "transport/tcp/bytes.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#define DEFAULT_CHUNK (256u << 10)
#define LATENCY_NS 2000
#define BYTES_PER_S UINT64_C(10000000000) // of a port that does not tell its speed
#define INNER_CHUNK 4096
#define INNER_SLOTS 2
#define ROUND 64 // calls of progress(busy) between two looks around
#define LAST_WORDS (1000 * RDI_MS)
#define PATIENCE \
    32 // idle calls of progress() before completions that nobody waits for are asked for

// ---- Opening -------------------------------------------------------------------------------------

// Says once which ports come first, and why.
static void tell_rails(const struct rdi_verbs_net *n, const struct rdi_rails *rails) {
    const struct rdi_net_params *p = &n->base.params;
    unsigned found = 0;
    for (unsigned i = 0; i < n->nrails; i++) {
        const struct rdi_verbs_port *port = &n->rails[i].info;
        const struct rdi_rail *r = rdi_rails_rdma(rails, port->device);
        if (r != NULL) {
            rdi_log(&p->env, RONDO_LOG_INFO, "verbs: rank %d prefers %s:%u: %s", p->job->rank,
                    port->device, port->port, r->why);
            found++;
        }
    }
    if (found == 0 && rails != NULL && rails->count > 0) {
        rdi_log(&p->env, RONDO_LOG_INFO,
                "verbs: no active port is of a device that was decided for rank %d (%s%s); all are "
                "as good",
                p->job->rank, rails->at[0].rdma, rails->count > 1 ? ", ..." : "");
    }
}

static rondo_status open_rails(struct rdi_verbs_net *n) {
    const struct rdi_options *o = n->base.params.options;
    struct rdi_verbs_port *ports = NULL;
    size_t count = 0;
    unsigned chosen[RDI_VERBS_RAILS], nchosen = 0;
    char why[256];
    n->v = rdi_ibv_load(why, sizeof why);
    if (n->v == NULL) {
        return rdi_fail(RONDO_ERR_UNSUPPORTED, "verbs: %s", why);
    }
    rondo_status s = rdi_verbs_ports(n->v, &ports, &count);
    if (s != RONDO_OK) {
        return s;
    }
    // Who says which devices has decided.
    const struct rdi_rails *rails = o->str[RDI_OPT_DEVICE][0] == '\0' ? n->base.params.rails : NULL;
    s = rdi_verbs_choose_ports(ports, count, o, rails, chosen, &nchosen);
    for (unsigned i = 0; i < nchosen && s == RONDO_OK; i++) {
        const struct rdi_verbs_port *p = &ports[chosen[i]];
        if (p->iwarp) {
            continue; // its queue pairs cannot be connected by their numbers
        }
        n->inline_max[n->nrails] = (uint32_t)o->num[RDI_OPT_VERBS_INLINE];
        s = rdi_verbs_rail_open(&n->rails[n->nrails], n->v, p, o);
        n->self.rails[n->nrails].preferred = rdi_rails_rdma(rails, p->device) != NULL;
        n->nrails += s == RONDO_OK;
    }
    if (s == RONDO_OK) {
        tell_rails(n, rails);
    }
    if (s == RONDO_OK && n->nrails == 0) {
        s = rdi_fail(
            RONDO_ERR_UNSUPPORTED,
            "verbs: %s is an iWARP device, which takes connections from the RDMA connection "
            "manager only; tcp serves there",
            ports[chosen[0]].device);
    }
    free(ports);
    return s;
}

static bool watch(int epfd, int fd) {
    struct epoll_event e = {.events = EPOLLIN, .data.fd = fd};
    return epoll_ctl(epfd, EPOLL_CTL_ADD, fd, &e) == 0;
}

static rondo_status open_descriptors(struct rdi_verbs_net *n) {
    n->epfd = epoll_create1(EPOLL_CLOEXEC);
    bool ok = n->epfd >= 0 && watch(n->epfd, n->inner->ops->fd(n->inner));
    for (unsigned i = 0; i < n->nrails && ok; i++) {
        ok = watch(n->epfd, n->rails[i].context->async_fd) &&
             watch(n->epfd, n->rails[i].channel->fd);
    }
    return ok ? RONDO_OK
              : rdi_fail_errno(RONDO_ERR_SYSTEM, errno, "cannot open the verbs transport");
}

static rondo_status open_inner(struct rdi_verbs_net *n) {
    struct rdi_net_params p = n->base.params;
    n->inner_options = *n->base.params.options;
    n->inner_options.num[RDI_OPT_TCP_SOCKETS] = 1;
    n->inner_options.num[RDI_OPT_SLOTS] = INNER_SLOTS;
    n->inner_options.num[RDI_OPT_CHUNK] = INNER_CHUNK;
    n->inner_events = (struct rdi_net_events){
        .self = n, .accept = rdi_verbs_inner_accept, .ctrl = rdi_verbs_inner_ctrl};
    p.options = &n->inner_options;
    p.events = &n->inner_events;
    p.narrow = true;
    return rdi_tcp_ops.open(&p, &n->inner);
}

static uint8_t mtu_code(int64_t bytes) {
    uint8_t code = IBV_MTU_256;
    while (code < IBV_MTU_4096 && rdi_verbs_mtu_bytes(code) < bytes) {
        code++;
    }
    return code;
}

static void take_options(struct rdi_verbs_net *n) {
    const struct rdi_options *o = n->base.params.options;
    n->slots = (uint32_t)o->num[RDI_OPT_SLOTS];
    n->max_msg = o->num[RDI_OPT_CHUNK] != 0 ? (uint32_t)o->num[RDI_OPT_CHUNK] : DEFAULT_CHUNK;
    n->stripe = (uint32_t)o->num[RDI_OPT_VERBS_STRIPE];
    n->qps = (unsigned)o->num[RDI_OPT_VERBS_QPS];
    n->mtu = o->is_auto[RDI_OPT_VERBS_MTU] ? IBV_MTU_4096 : mtu_code(o->num[RDI_OPT_VERBS_MTU]);
    n->grace_ms = (unsigned)o->num[RDI_OPT_PATH_GRACE];
    n->connect_ms = (unsigned)o->num[RDI_OPT_CONNECT_TIMEOUT];
    n->timeout = rdi_verbs_timeout_code((uint64_t)o->num[RDI_OPT_VERBS_TIMEOUT]);
    n->retries = (unsigned)o->num[RDI_OPT_VERBS_RETRIES];
    const char *mode = o->str[RDI_OPT_VERBS_MODE];
    n->mode_auto = strcmp(mode, "auto") == 0;
    n->mode = strcmp(mode, "split") == 0  ? RDI_VERBS_SPLIT
              : strcmp(mode, "send") == 0 ? RDI_VERBS_SEND
                                          : RDI_VERBS_IMM;
}

// ---- Device memory -------------------------------------------------------------------------------

// Why payloads cannot go to device memory whatever the ports register; NULL: they can.
static const char *no_device_slots(const struct rdi_verbs_net *n) {
    if (n->mode == RDI_VERBS_SEND) {
        return "option verbs_mode=send puts headers and payloads into one receive, in host memory";
    }
    for (unsigned i = 0; i < n->nrails && n->mode_auto; i++) {
        if (!n->self.rails[i].immediates) {
            return "a port has no immediate values, so messages are sent and not written";
        }
    }
    return NULL;
}

static bool may_use_device_memory(const struct rdi_verbs_net *n) {
    bool peermem = rdi_verbs_peermem(), all = no_device_slots(n) == NULL;
    for (unsigned i = 0; i < n->nrails && all && !peermem; i++) {
        all = rdi_verbs_has_dmabuf(n->v, n->rails[i].pd);
    }
    return all;
}

// The range is registered for sending from it, and stays so. For writing links register what they use of it;
// that a port would do that is asked with a page of it.
static rondo_status try_rail(struct rdi_verbs_rail *r, const void *ptr, size_t bytes) {
    const int access = IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE;
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    struct rdi_verbs_mr *held;
    struct ibv_mr *mr;
    rondo_status s = rdi_verbs_mr_get_device(r, ptr, bytes, &held, &mr);
    if (s != RONDO_OK) {
        return s;
    }
    rdi_verbs_mr_put(r, held);
    s = rdi_verbs_reg_device(r, ptr, bytes < page ? bytes : page, access, &mr);
    if (s == RONDO_OK) {
        r->v->dereg_mr(mr);
    }
    return s;
}

static rondo_status net_device_memory(struct rdi_net *net, const void *ptr, size_t bytes) {
    struct rdi_verbs_net *n = (struct rdi_verbs_net *)net;
    static const char staged[] = "device memory is staged through host memory";
    const char *why = no_device_slots(n);
    if (why != NULL) {
        return rdi_fail(RONDO_ERR_UNSUPPORTED, "RDMA port %s:%u: %s; %s", n->rails[0].info.device,
                        n->rails[0].info.port, why, staged);
    }
    for (unsigned i = 0; i < n->nrails; i++) {
        rondo_status s = n->dead[i] ? RONDO_OK : try_rail(&n->rails[i], ptr, bytes);
        if (s == RONDO_ERR_INVALID) {
            return s; // the caller's mistake
        }
        if (s != RONDO_OK) {
            char text[RDI_VERBS_TEXT];
            snprintf(text, sizeof text, "%s", rondo_last_error());
            return rdi_fail(RONDO_ERR_UNSUPPORTED, "%s; %s", text, staged);
        }
    }
    return RONDO_OK;
}

// ---- Opened --------------------------------------------------------------------------------------

static void describe_rails(struct rdi_verbs_net *n) {
    uint64_t speed = 0;
    for (unsigned i = 0; i < n->nrails; i++) {
        uint64_t mbit = n->rails[i].info.mbit_per_s;
        speed += mbit != 0 ? mbit * 125000 : BYTES_PER_S;
        bool preferred = n->self.rails[i].preferred;
        rdi_verbs_rail_tell(&n->rails[i].info, &n->self.rails[i]);
        n->self.rails[i].preferred = preferred;
    }
    n->self.nrails = n->nrails;
    n->base.attr =
        (struct rdi_net_attr){.latency_ns = LATENCY_NS, .bytes_per_s = speed, .chunk = n->max_msg};
    n->base.attr.device = may_use_device_memory(n);
}

static int net_progress(struct rdi_net *net, bool busy);
static rondo_status net_arm(struct rdi_net *net, uint64_t *timeout_ns);
static void net_disarm(struct rdi_net *net);

// Last messages that the device still has to send: nobody else would wait for them.
static void finish_links(struct rdi_verbs_net *n) {
    uint64_t until = rdi_verbs_now(n) + LAST_WORDS;
    n->closing = true;
    for (struct rdi_verbs_link *l = n->links, *next; l != NULL; l = next) {
        next = l->next;
        if (!l->closing) {
            rdi_verbs_link_free(l, false); // one that the engine was never told of
        }
    }
    while (n->links != NULL && rdi_verbs_now(n) < until) {
        uint64_t wait = RDI_MS;
        if (net_progress(&n->base, false) == 0 && net_arm(&n->base, &wait) == RONDO_OK) {
            struct pollfd p = {.fd = n->epfd, .events = POLLIN};
            poll(&p, 1, 1);
            net_disarm(&n->base);
        }
    }
    while (n->links != NULL) {
        rdi_verbs_link_free(n->links, true);
    }
    rdi_verbs_reap(n);
}

// Blocks for a moment when the last messages of closed links are still on their way.
static void net_close(struct rdi_net *net) {
    struct rdi_verbs_net *n = (struct rdi_verbs_net *)net;
    if (n->links != NULL) {
        finish_links(n);
    }
    if (n->inner != NULL) {
        n->inner->ops->close(n->inner);
    }
    for (unsigned i = 0; i < n->nrails; i++) {
        rdi_verbs_rail_close(&n->rails[i]);
    }
    if (n->epfd >= 0) {
        close(n->epfd);
    }
    free(n);
}

// RDMA devices send memory as it is.
static rondo_status may_send_plain(const struct rdi_options *o) {
    if (o->num[RDI_OPT_ENCRYPT] == 0) {
        return RONDO_OK;
    }
    if (strcmp(o->str[RDI_OPT_TRANSPORT], "verbs") == 0) {
        return rdi_fail(
            RONDO_ERR_INVALID,
            "options transport=verbs and encrypt=yes exclude each other, as RDMA cannot encrypt: "
            "say "
            "transport=auto or tcp, or encrypt=no on a network that nobody else reaches");
    }
    return rdi_fail(RONDO_ERR_UNSUPPORTED,
                    "RDMA cannot encrypt, and option encrypt=yes asks for it; TCP serves instead");
}

static rondo_status net_open(const struct rdi_net_params *params, struct rdi_net **out) {
    struct rdi_verbs_net *n = calloc(1, sizeof *n);
    if (n == NULL) {
        return rdi_fail(RONDO_ERR_NOMEM, "no memory for the verbs transport");
    }
    n->base.ops = &rdi_verbs_ops;
    n->base.params = *params;
    n->epfd = -1;
    take_options(n);
    rondo_status s = may_send_plain(params->options);
    s = s == RONDO_OK ? open_rails(n) : s;
    if (s == RONDO_OK) {
        s = open_inner(n);
    }
    if (s == RONDO_OK) {
        s = open_descriptors(n);
    }
    if (s != RONDO_OK) {
        net_close(&n->base);
        return s;
    }
    describe_rails(n);
    if (n->rails[0].fork_unsafe) {
        rdi_log(&params->env, RONDO_LOG_WARN,
                "a child that this process forks could disturb RDMA transfers: the kernel and "
                "libibverbs do not protect their memory from it");
    }
    n->base.params.rails = NULL; // may end before the net does
    *out = &n->base;
    return RONDO_OK;
}

// ---- Addresses -----------------------------------------------------------------------------------

static rondo_status net_address(struct rdi_net *net, void *blob, size_t *len) {
    struct rdi_verbs_net *n = (struct rdi_verbs_net *)net;
    uint8_t inner[RDI_BLOB_MAX], address[RDI_VERBS_ADDRESS_MAX];
    size_t inner_len = 0;
    rondo_status s = n->inner->ops->address(n->inner, inner, &inner_len);
    if (s != RONDO_OK) {
        return s;
    }
    struct rdi_cursor c = {.at = blob, .size = RDI_BLOB_MAX, .ok = true};
    rdi_cursor_put(&c, inner_len, 2);
    rdi_cursor_put_bytes(&c, inner, inner_len);
    rdi_cursor_put_bytes(&c, address, rdi_verbs_address_write(&n->self, address));
    *len = c.used;
    return c.ok ? RONDO_OK : rdi_fail(RONDO_ERR_INTERNAL, "an address is too long for its place");
}

bool rdi_verbs_blob_read(const void *blob, size_t len, const uint8_t **inner, size_t *inner_len,
                         struct rdi_verbs_address *address) {
    // The cursor only reads it.
    struct rdi_cursor c = {.at = (uint8_t *)(uintptr_t)blob, .size = len, .ok = true};
    *inner_len = (size_t)rdi_cursor_get(&c, 2);
    *inner = rdi_cursor_take(&c, *inner_len);
    return c.ok && rdi_verbs_address_read(address, c.at + c.used, c.size - c.used);
}

rondo_status rdi_verbs_blob_fail(const void *blob, size_t len, const char *whose) {
    struct rdi_cursor c = {.at = (uint8_t *)(uintptr_t)blob, .size = len, .ok = true};
    (void)rdi_cursor_take(&c, (size_t)rdi_cursor_get(&c, 2));
    unsigned version = (unsigned)rdi_cursor_get(&c, 1);
    if (c.ok && version != RDI_VERBS_ADDRESS_VERSION) {
        return rdi_fail(RONDO_ERR_INVALID,
                        "the verbs address of %s has format %u, and this version of Rondo knows "
                        "format %d: use one version on all hosts",
                        whose, version, RDI_VERBS_ADDRESS_VERSION);
    }
    return rdi_fail(RONDO_ERR_INVALID, "the verbs address of %s, %zu bytes, is malformed", whose,
                    len);
}

static rondo_status net_reach(struct rdi_net *net, const void *blob, size_t len) {
    struct rdi_verbs_net *n = (struct rdi_verbs_net *)net;
    struct rdi_verbs_address peer;
    struct rdi_verbs_pair pairs[RDI_VERBS_RAILS];
    const uint8_t *inner;
    size_t inner_len;
    char why[512] = "";
    if (!rdi_verbs_blob_read(blob, len, &inner, &inner_len, &peer)) {
        return rdi_verbs_blob_fail(blob, len, "a peer");
    }
    rondo_status s = n->inner->ops->reach(n->inner, inner, inner_len);
    if (s != RONDO_OK) {
        return s;
    }
    if (rdi_verbs_pairs(&n->self, &peer, pairs, why, sizeof why) == 0) {
        return rdi_fail(RONDO_ERR_UNSUPPORTED, "verbs: %s", why);
    }
    return RONDO_OK;
}

// ---- Progress ------------------------------------------------------------------------------------

static int look_around(struct rdi_verbs_net *n) {
    struct epoll_event events[2 + 2 * RDI_VERBS_RAILS];
    int inner = n->inner->ops->fd(n->inner);
    int moved = 0, others = 0;
    int count = epoll_wait(n->epfd, events, sizeof events / sizeof *events, 0);
    for (int i = 0; i < count; i++) {
        others += events[i].data.fd != inner;
    }
    if (others > 0) {
        rdi_verbs_drain_channels(n);
        moved += rdi_verbs_async(n);
    }
    moved += n->inner->ops->progress(n->inner, false);
    n->base.strangers = (uint64_t)n->inner->strangers;
    for (unsigned i = 0; i < n->nrails; i++) {
        rdi_verbs_mr_sweep(&n->rails[i]);
    }
    uint64_t now = n->links != NULL ? rdi_verbs_now(n) : 0;
    for (struct rdi_verbs_link *l = n->links, *next; l != NULL; l = next) {
        next = l->next;
        rdi_verbs_link_tick(l, now);
    }
    return moved;
}

static int flush_all(struct rdi_verbs_net *n) {
    int moved = 0;
    for (struct rdi_verbs_link *l = n->links; l != NULL; l = l->next) {
        moved += rdi_verbs_flush(l);
    }
    return moved;
}

static int net_progress(struct rdi_net *net, bool busy) {
    struct rdi_verbs_net *n = (struct rdi_verbs_net *)net;
    n->depth++;
    n->tick++;
    int moved = rdi_verbs_poll(n);
    if (n->nbroken > 0) {
        moved += rdi_verbs_mend(n);
    }
    if (!busy || n->unsettled > 0 || n->tick % ROUND == 0) {
        moved += look_around(n);
    }
    n->idle = moved > 0 ? 0 : n->idle + 1;
    if (n->idle == PATIENCE) {
        flush_all(n);
    }
    n->depth--;
    if (n->depth == 0 && n->dead_links != NULL) {
        rdi_verbs_reap(n);
    }
    return moved;
}

// ---- Sleep ---------------------------------------------------------------------------------------

static void net_disarm(struct rdi_net *net) {
    struct rdi_verbs_net *n = (struct rdi_verbs_net *)net;
    rdi_verbs_drain_channels(n);
    n->inner->ops->disarm(n->inner);
}

static rondo_status net_arm(struct rdi_net *net, uint64_t *timeout_ns) {
    struct rdi_verbs_net *n = (struct rdi_verbs_net *)net;
    flush_all(n);
    bool something = n->inner->ops->arm(n->inner, timeout_ns) != RONDO_OK;
    for (unsigned i = 0; i < n->nrails; i++) {
        // A device that is gone tells nothing any more; that it is gone is known.
        (void)ibv_req_notify_cq(n->rails[i].cq, 0);
    }
    // What completed before the notification was asked for would not be told.
    if (something || rdi_verbs_poll(n) > 0 || n->nbroken > 0) {
        net_disarm(net);
        return RONDO_AGAIN;
    }
    uint64_t at = UINT64_MAX;
    for (const struct rdi_verbs_link *l = n->links; l != NULL; l = l->next) {
        uint64_t t = rdi_verbs_link_next(l);
        at = t < at ? t : at;
    }
    if (at != UINT64_MAX) {
        uint64_t now = rdi_verbs_now(n);
        uint64_t left = at > now ? at - now : 0;
        *timeout_ns = left < *timeout_ns ? left : *timeout_ns;
    }
    return RONDO_OK;
}

static int net_fd(struct rdi_net *net) { return ((struct rdi_verbs_net *)net)->epfd; }

// ---- For tests -----------------------------------------------------------------------------------

bool rdi_verbs_test_cut(struct rdi_link *link, unsigned index) {
    struct rdi_verbs_link *l = (struct rdi_verbs_link *)link;
    struct ibv_qp_attr a = {.qp_state = IBV_QPS_ERR};
    return link->state == RDI_LINK_UP && index < l->nqps &&
           rdi_verbs_net_of(l)->v->modify_qp(l->qps[index].qp, &a, IBV_QP_STATE) == 0;
}

const struct rdi_net_ops rdi_verbs_ops = {
    .size = sizeof(struct rdi_net_ops),
    .name = "verbs",
    .open = net_open,
    .close = net_close,
    .address = net_address,
    .reach = net_reach,
    .connect = rdi_verbs_op_connect,
    .put = rdi_verbs_op_put,
    .peek = rdi_verbs_op_peek,
    .release = rdi_verbs_op_release,
    .ctrl = rdi_verbs_op_ctrl,
    .reset = rdi_verbs_op_reset,
    .close_link = rdi_verbs_op_close_link,
    .progress = net_progress,
    .arm = net_arm,
    .disarm = net_disarm,
    .fd = net_fd,
    .device_memory = net_device_memory,
    .describe = rdi_verbs_op_describe,
};
