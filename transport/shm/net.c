// SPDX-License-Identifier: MIT
// The shared-memory transport of one rank: opening, polling, sleeping, and its function table.
//
// Ranks of a host meet on Unix sockets, which stay open to pass descriptors and to show a peer's end. All else
// is memory. So progress() reads a line or two for each link, without system calls, and looks at the sockets
// every 50 us only.
#include "transport/mem.h"
#include "transport/memfile.h"
#include "transport/shm/shm.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <unistd.h>

#define US 1000ull
#define POLL_NS (50 * US)
#define CHORE_NS (1000 * US)
#define CLOCK_EVERY \
    8 // polls between two looks at the clock; they take far less than POLL_NS together
#define EVENTS 32

// As measured on one machine (two cores of an AMD EPYC, 1 MiB of second-level cache each); the layer above only
// compares them with those of the other transports.
#define LATENCY_NS 200
#define BYTES_PER_S 10000000000ull
// Measured from 16 KiB to 1 MiB with 8 slots: throughput both ways grows up to here and hardly beyond, and a
// shorter chunk fills the pipeline of a collective sooner.
#define CHUNK (128u << 10)

// ---- Watching ------------------------------------------------------------------------------------

int shm_watch(struct shm_net *net, int fd, struct shm_source *source) {
    struct epoll_event e = {.events = EPOLLIN | EPOLLRDHUP, .data.ptr = source};
    return epoll_ctl(net->epoll, EPOLL_CTL_ADD, fd, &e) == 0 ? 0 : errno;
}

void shm_unwatch(struct shm_net *net, int fd) { epoll_ctl(net->epoll, EPOLL_CTL_DEL, fd, NULL); }

void shm_bury(struct shm_net *net, struct shm_source *source) {
    if (net->scanning == 0) {
        free(source->object);
        return;
    }
    source->next_grave = net->graves;
    net->graves = source;
}

static void clean_up(struct shm_net *net) {
    while (net->graves != NULL) {
        struct shm_source *source = net->graves;
        net->graves = source->next_grave;
        free(source->object);
    }
    if (net->holes > 0) {
        shm_link_compact(net);
    }
}

// ---- Opening and closing -------------------------------------------------------------------------

// -1 in everything that close() closes.
static struct shm_net *new_net(const struct rdi_net_params *params) {
    struct shm_net *net = calloc(1, sizeof *net);
    if (net == NULL) {
        return NULL;
    }
    const struct rdi_options *o = params->options;
    net->base.ops = &rdi_shm_ops;
    net->base.params = *params;
    net->epoll = net->listener = net->eventfd = net->bell_fd = net->spare = -1;
    net->slots = (uint32_t)o->num[RDI_OPT_SLOTS];
    int64_t chunk = o->num[RDI_OPT_CHUNK];
    net->max_msg = chunk == 0 ? CHUNK : (uint32_t)chunk;
    net->zero_copy = o->num[RDI_OPT_ZERO_COPY] != 0;
    net->connect_ns = (uint64_t)o->num[RDI_OPT_CONNECT_TIMEOUT] * 1000 * US;
    net->base.attr = (struct rdi_net_attr){.latency_ns = LATENCY_NS,
                                           .bytes_per_s = BYTES_PER_S,
                                           .chunk = net->max_msg,
                                           .by_reference = net->zero_copy};
    net->listen_source.kind = SHM_LISTENER;
    net->bell_source.kind = SHM_OWN_BELL;
    net->frees = rdi_mem_frees();
    return net;
}

static void set_address(struct shm_net *net) {
    const struct rdi_net_params *p = &net->base.params;
    memcpy(net->address.host_id, p->job->host_id, sizeof net->address.host_id);
    p->env.random(p->env.self, net->address.name, sizeof net->address.name);
    net->address.pid = (uint32_t)getpid();
    net->address.uid = (uint32_t)geteuid();
    struct stat st;
    net->address.user_ns = stat("/proc/self/ns/user", &st) == 0 ? (uint64_t)st.st_ino : 0;
}

// Refused for good here, so that the other transports serve; a descriptor that is missing is an error.
static rondo_status fail_open(int err, const char *what) {
    rondo_status s = rdi_fail_resource(err, "%s", what);
    return err == EMFILE || err == ENFILE || err == ENOMEM
               ? s
               : rdi_fail_prefix(RONDO_ERR_UNSUPPORTED, "shared memory cannot be used here");
}

static rondo_status open_files(struct shm_net *net) {
    net->epoll = epoll_create1(EPOLL_CLOEXEC);
    net->eventfd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (net->epoll < 0 || net->eventfd < 0) {
        return fail_open(errno, "make an epoll or event descriptor");
    }
    void *page;
    rondo_status s = rdi_memfile_create("a bell page", sizeof(struct shm_bell), RDI_MEMFILE_PRIVATE,
                                        &net->bell_fd, &page);
    if (s != RONDO_OK) {
        bool passing = s == RONDO_ERR_SYSTEM && (errno == EMFILE || errno == ENFILE);
        return passing
                   ? s
                   : rdi_fail_prefix(RONDO_ERR_UNSUPPORTED, "shared memory cannot be used here");
    }
    net->bell = page;
    net->listener = shm_listen(&net->address);
    if (net->listener < 0) {
        return fail_open(errno, "listen on a Unix socket");
    }
    net->spare = fcntl(net->listener, F_DUPFD_CLOEXEC, 0);
    int err = net->spare < 0 ? errno : shm_watch(net, net->listener, &net->listen_source);
    if (err == 0) {
        err = shm_watch(net, net->eventfd, &net->bell_source);
    }
    return err == 0 ? RONDO_OK : fail_open(err, "watch a Unix socket");
}

static void close_fd(int fd) {
    if (fd >= 0) {
        close(fd);
    }
}

static void shm_close(struct rdi_net *base) {
    struct shm_net *net = shm_net_of(base);
    while (net->n_links > 0) { // those that never were the engine's
        shm_link_free(net->links[net->n_links - 1]);
    }
    close_fd(net->spare);
    close_fd(net->listener);
    close_fd(net->bell_fd);
    close_fd(net->eventfd);
    close_fd(net->epoll);
    rdi_memfile_unmap(net->bell, sizeof(struct shm_bell));
    free(net->links);
    free(net);
}

static rondo_status shm_open_net(const struct rdi_net_params *params, struct rdi_net **out) {
    struct shm_net *net = new_net(params);
    if (net == NULL) {
        return rdi_fail_resource(ENOMEM, "open the shared-memory transport");
    }
    set_address(net);
    rondo_status s = open_files(net);
    if (s != RONDO_OK) {
        shm_close(&net->base);
        return s;
    }
    *out = &net->base;
    return RONDO_OK;
}

// ---- Addresses -----------------------------------------------------------------------------------

static rondo_status shm_get_address(struct rdi_net *base, void *blob, size_t *len) {
    *len = shm_address_write(&shm_net_of(base)->address, blob);
    return RONDO_OK;
}

static rondo_status shm_reach(struct rdi_net *base, const void *blob, size_t len) {
    const struct shm_address *mine = &shm_net_of(base)->address;
    struct shm_address a;
    if (!shm_address_parse(blob, len, &a)) {
        return rdi_fail(RONDO_ERR_INVALID, "not an address for shared memory (%zu bytes)", len);
    }
    if (memcmp(a.host_id, mine->host_id, sizeof a.host_id) != 0) {
        return rdi_fail(RONDO_ERR_UNSUPPORTED, "the peer is on another host or in another network "
                                               "namespace, so there is no shared memory with it");
    }
    if (a.uid != mine->uid || a.user_ns != mine->user_ns) {
        return rdi_fail(RONDO_ERR_UNSUPPORTED,
                        "the peer runs as user %u or in another user namespace, we as user %u, so "
                        "there is no shared memory with it",
                        a.uid, mine->uid);
    }
    return RONDO_OK;
}

// ---- Progress ------------------------------------------------------------------------------------

static void set_word(struct shm_net *net, uint64_t word) {
    net->word = word;
    shm_store(&net->bell->word, word);
}

// Awake first, then the bell is silenced: a peer that rings for this sleep after that rings in vain, but
// rings; the other way round it would believe that it had rung for the next one.
static void wake_up(struct shm_net *net) {
    if ((net->word & 1) != 0) {
        set_word(net, net->word + 1);
    }
    uint64_t count;
    ssize_t rc;
    do {
        rc = read(net->eventfd, &count, sizeof count);
    } while (rc < 0 && errno == EINTR);
    net->next_poll = 0; // what woke us may be a socket
    net->skipped = CLOCK_EVERY;
}

// A process ended whose sockets somebody else may still hold open.
static int end_peer(struct shm_net *net, struct shm_peer *p) {
    int moved = 0;
    if (p->pidfd >= 0) {
        shm_unwatch(net, p->pidfd);
        close(p->pidfd);
        p->pidfd = -1;
    }
    for (size_t i = 0; i < net->n_links; i++) {
        struct shm_link *l = net->links[i];
        if (l != NULL && l->phase == SHM_UP && l->peer == p) {
            shm_link_hang_up(l);
            moved++;
        }
    }
    return moved;
}

static int handle_event(struct shm_net *net, struct shm_source *source) {
    switch (source->kind) {
    case SHM_LISTENER:
        shm_accept_all(net);
        return 1;
    case SHM_OWN_BELL:
        wake_up(net);
        return 0;
    case SHM_PEER:
        return end_peer(net, source->object);
    case SHM_LINK:
        return shm_link_input(source->object);
    }
    return 0;
}

static void do_chores(struct shm_net *net) {
    uint64_t frees = rdi_mem_frees();
    bool freed = frees != net->frees;
    if (!freed && !net->chores) {
        return;
    }
    net->frees = frees;
    net->chores = false;
    for (size_t i = 0; i < net->n_links; i++) {
        struct shm_link *l = net->links[i];
        if (l != NULL && l->phase != SHM_OVER && l->fd >= 0) {
            shm_link_push(l);
        }
        if (l != NULL && l->phase == SHM_UP) {
            shm_block_chores(l, freed);
        }
    }
}

static int run_timers(struct shm_net *net, uint64_t now) {
    int moved = 0;
    if (net->spare < 0) {
        net->spare = fcntl(net->listener, F_DUPFD_CLOEXEC, 0);
    }
    if (net->hear_at != 0 && now >= net->hear_at) {
        net->hear_at = 0;
        shm_watch(net, net->listener, &net->listen_source);
    }
    for (size_t i = 0; net->young > 0 && i < net->n_links; i++) {
        struct shm_link *l = net->links[i];
        if (l != NULL && l->phase != SHM_UP && l->phase != SHM_OVER) {
            moved += shm_link_timer(l, now);
        }
    }
    return moved;
}

static int poll_sockets(struct shm_net *net, uint64_t now) {
    struct epoll_event events[EVENTS];
    int moved = 0, n;
    do {
        n = epoll_wait(net->epoll, events, EVENTS, 0);
        for (int i = 0; i < n; i++) {
            moved += handle_event(net, events[i].data.ptr);
        }
    } while (n == EVENTS);
    moved += run_timers(net, now);
    do_chores(net);
    net->next_poll = now + POLL_NS;
    return moved;
}

static int shm_progress(struct rdi_net *base, bool busy) {
    struct shm_net *net = shm_net_of(base);
    int moved = 0;
    net->scanning++;
    for (size_t i = 0; i < net->n_links; i++) {
        struct shm_link *l = net->links[i];
        if (l != NULL && l->phase == SHM_UP) {
            moved += shm_link_scan(l);
        }
    }
    if (!busy || ++net->skipped >= CLOCK_EVERY) {
        net->skipped = 0;
        uint64_t now = rdi_now(&net->base.params.env);
        if (!busy || now >= net->next_poll) {
            moved += poll_sockets(net, now);
        }
    }
    net->scanning--;
    clean_up(net);
    return moved;
}

// ---- Sleeping ------------------------------------------------------------------------------------

static bool has_news(const struct shm_net *net) {
    for (size_t i = 0; i < net->n_links; i++) {
        if (net->links[i]->phase == SHM_UP && shm_link_has_news(net->links[i])) {
            return true;
        }
    }
    return false;
}

static uint64_t earlier(uint64_t a, uint64_t b) { return a < b ? a : b; }

// Time until something is to be done that no descriptor tells.
static uint64_t time_left(const struct shm_net *net) {
    uint64_t at = UINT64_MAX;
    if (net->young == 0 && net->hear_at == 0) {
        return net->chores ? CHORE_NS : UINT64_MAX;
    }
    for (size_t i = 0; i < net->n_links; i++) {
        const struct shm_link *l = net->links[i];
        if (l->phase != SHM_UP && l->phase != SHM_OVER) {
            at = earlier(at, l->phase == SHM_TRY ? earlier(l->next_try, l->deadline) : l->deadline);
        }
    }
    if (net->hear_at != 0) {
        at = earlier(at, net->hear_at);
    }
    uint64_t now = rdi_now(&net->base.params.env);
    uint64_t left = at > now ? at - now : 0;
    return net->chores ? earlier(left, CHORE_NS) : left;
}

static rondo_status shm_arm(struct rdi_net *base, uint64_t *timeout_ns) {
    struct shm_net *net = shm_net_of(base);
    for (size_t i = 0; i < net->n_links; i++) {
        if (!net->links[i]->base.sender && net->links[i]->phase == SHM_UP) {
            shm_link_tell(net->links[i]);
        }
    }
    net->scanning++;
    do_chores(net);
    net->scanning--;
    clean_up(net);
    uint64_t left = time_left(net);
    if (left == 0) {
        return RONDO_AGAIN;
    }
    set_word(net, (net->word + 1) | 1); // odd: asleep
    shm_fence();
    if (has_news(net)) {
        set_word(net, net->word + 1);
        return RONDO_AGAIN;
    }
    *timeout_ns = earlier(*timeout_ns, left);
    return RONDO_OK;
}

static void shm_disarm(struct rdi_net *base) { wake_up(shm_net_of(base)); }

static int shm_fd(struct rdi_net *base) { return shm_net_of(base)->epoll; }

// ---- Links' ends and reports ---------------------------------------------------------------------

// Nothing of the link is touched after the return. A peer may still read a block of ours, see block.c.
static void shm_close_link(struct rdi_link *link, bool bye) {
    struct shm_link *l = shm_link_of(link);
    if (l->region.head != NULL && l->peer != NULL) {
        if (!link->sender) {
            shm_link_tell(l);
        }
        shm_store(&l->mine->bye, (uint32_t)(bye ? SHM_BYE_CLOSED : SHM_BYE_ABORTED));
        shm_peer_wake(l->peer);
    }
    shm_link_free(l);
}

static void shm_describe(struct rdi_link *link, char *buf, size_t cap) {
    static const char *const phases[] = {
        "not connected", "greeting", "waits for memory", "waits for peer", "waits for accept", "up",
        "over"};
    const struct shm_link *l = shm_link_of(link);
    char peer[128];
    size_t used = strnlen(buf, cap);
    bool asleep = l->peer != NULL && (shm_peek_word(&l->peer->bell->word) & 1) != 0;
    if (link->sender) {
        snprintf(buf + used, cap - used,
                 "shm to %s: %s, posted %llu, sent %llu, credit %llu, peer %s\n",
                 shm_link_peer(l, peer), phases[l->phase], (unsigned long long)link->posted,
                 (unsigned long long)link->sent, (unsigned long long)link->credit,
                 asleep ? "asleep" : "awake");
    } else {
        snprintf(buf + used, cap - used, "shm from %s: %s, arrived %llu, released %llu, peer %s\n",
                 shm_link_peer(l, peer), phases[l->phase], (unsigned long long)link->arrived,
                 (unsigned long long)link->released, asleep ? "asleep" : "awake");
    }
}

const struct rdi_net_ops rdi_shm_ops = {
    .size = sizeof(struct rdi_net_ops),
    .name = "shm",
    .open = shm_open_net,
    .close = shm_close,
    .address = shm_get_address,
    .reach = shm_reach,
    .connect = shm_connect,
    .put = shm_put,
    .peek = shm_peek,
    .release = shm_release,
    .ctrl = shm_ctrl,
    .reset = NULL, // memory cannot be lost while both processes live
    .close_link = shm_close_link,
    .progress = shm_progress,
    .arm = shm_arm,
    .disarm = shm_disarm,
    .fd = shm_fd,
    .describe = shm_describe,
};
