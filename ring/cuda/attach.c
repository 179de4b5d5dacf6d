// SPDX-License-Identifier: MIT
// A communicator and its device: staging memory, and what ranks tell each other before the first operation.
//
//   each rank      opens its device; allocates `block` (peers map it, NICs read it) and `inbound` (NICs write it);
//                  registers both with the NICs where they can
//   all_gather     records: who, where, a ticket for `block`, what stands against GPUDirect
//   each rank      maps the blocks of this host's ranks
//   all_gather     which of them it could map
//   each rank      chooses the reach of every edge of the ring, from the same facts as all others
//   barrier        now NICs may write
#include "ring/cuda/gpu.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAGIC 0x55504752u // "RGPU"

struct record {
    uint32_t magic;
    int32_t status; // of the rank's own part
    int32_t ordinal;
    uint32_t pid;
    uint64_t pid_space; // pids of different namespaces do not compare
    uint64_t block;     // device address
    uint8_t uuid[16];
    struct rdi_cuda_ticket ticket;
    char forced[16]; // option cuda_reach
    char no_direct_out
        [192]; // what stands against GPUDirect to the right, from the left; "": nothing
    char no_direct_in[192];
    char why[256]; // status is not OK
};

struct attach {
    struct rdi_gpu *g;
    struct rondo_comm *c;
    struct record *all; // of each rank
    uint8_t *maps;      // [r * size + p]: rank r has mapped rank p's block
};

static bool same_host(const struct rondo_comm *c, int a, int b) {
    const struct rdi_peer *p = c->engine->peers;
    return memcmp(p[c->world[a]].host_id, p[c->world[b]].host_id, 16) == 0;
}

static bool same_process(const struct rondo_comm *c, const struct record *a, const struct record *b,
                         int ra, int rb) {
    return a->pid == b->pid && a->pid_space != 0 && a->pid_space == b->pid_space &&
           same_host(c, ra, rb);
}

// ---- This rank's part ----------------------------------------------------------------------------

static size_t pair_bytes(const struct rdi_gpu *g) {
    return 2 * (size_t)RDI_GPU_PAIR_SLOTS * g->piece;
}

// Ranks of rank r's host before rank `peer`, without r itself: whose pair rings come first in r's block.
static uint64_t pairs_offset(const struct rdi_gpu *g, int r, int peer) {
    uint64_t before = 0;
    for (int q = 0; q < peer; q++) {
        before += q != r && same_host(g->comm, q, r);
    }
    return RDI_GPU_SLOTS * g->piece + before * pair_bytes(g);
}

// Registers a block with the NICs of the transport that reaches `peer`. `why`: what stands against it.
static bool register_block(struct rdi_gpu *g, int peer, const struct rdi_cuda_block *b, char *why,
                           size_t cap) {
    struct rondo_comm *c = g->comm;
    struct rdi_net *net = NULL;
    rdi_driver_lock(c->engine->driver);
    rondo_status s = rdi_engine_route(c->engine, c->world[peer], &net);
    rdi_driver_unlock(c->engine->driver);
    if (s != RONDO_OK || !net->ops->device_memory || !net->attr.device) {
        snprintf(why, cap, "%s",
                 s != RONDO_OK ? rondo_last_error() : "the transport knows no device memory");
        return false;
    }
    int fd = -1;
    uint64_t offset = 0;
    void *ptr = (void *)(uintptr_t)b->ptr;
    (void)rdi_cuda_dmabuf(g->device, b->ptr, b->bytes, &fd,
                          &offset); // else the kernel's peer memory
    s = rdi_mem_register_device(ptr, b->bytes, fd, offset);
    if (s == RONDO_OK) {
        rdi_driver_lock(c->engine->driver);
        s = net->ops->device_memory(net, ptr, b->bytes);
        rdi_driver_unlock(c->engine->driver);
        if (s != RONDO_OK) {
            snprintf(why, cap, "%s", rondo_last_error());
            (void)rdi_mem_unregister_device(ptr);
        }
    } else {
        snprintf(why, cap, "%s", rondo_last_error());
    }
    if (fd >= 0) {
        close(fd);
    }
    return s == RONDO_OK;
}

static void try_direct(struct rdi_gpu *g, struct record *me) {
    struct rondo_comm *c = g->comm;
    const struct rdi_cuda_device *d = g->device;
    const struct rdi_gpu_way *way = &c->engine->gpu_way;
    const char *no = NULL;
    if (!d->gdr) {
        no = "the device has no GPUDirect RDMA";
    } else if (c->engine->options.num[RDI_OPT_SLOTS] < RDI_GPU_SLOTS) {
        no = "option slots is below 8";
    } else if (strcmp(me->forced, "staged") == 0 || strcmp(me->forced, "memory") == 0) {
        no = "option cuda_reach";
    } else if (strcmp(me->forced, "auto") == 0 && strcasecmp(way->pci, d->pci) == 0 &&
               way->against[0]) {
        no = way->against;
    }
    if (no) {
        snprintf(me->no_direct_out, sizeof me->no_direct_out, "%s", no);
        snprintf(me->no_direct_in, sizeof me->no_direct_in, "%s", no);
        return;
    }
    g->block_registered = register_block(g, rdi_layout_next(&c->layout, 1), &g->block,
                                         me->no_direct_out, sizeof me->no_direct_out);
    if (!d->ordered && !d->can_flush) {
        snprintf(me->no_direct_in, sizeof me->no_direct_in,
                 "the device can neither order nor flush what NICs write");
        return;
    }
    // Only where it may serve: inbound memory is the device's, too.
    if (!g->block_registered) {
        snprintf(me->no_direct_in, sizeof me->no_direct_in, "%s", me->no_direct_out);
        return;
    }
    if (rdi_cuda_block_alloc(d, RDI_GPU_SLOTS * g->piece, &g->inbound) != RONDO_OK) {
        snprintf(me->no_direct_in, sizeof me->no_direct_in, "%.190s", rondo_last_error());
        return;
    }
    g->inbound_registered = register_block(g, rdi_layout_next(&c->layout, c->size - 1), &g->inbound,
                                           me->no_direct_in, sizeof me->no_direct_in);
}

// All of them now: at its first use a kernel is loaded, which may wait for the device.
static rondo_status load_kernels(struct rdi_gpu *g) {
    rdi_cu_function f;
    rondo_status s = RONDO_OK;
    for (unsigned k = 0; k < 4 * RONDO_TYPE_COUNT * 2 && s == RONDO_OK; k++) {
        s = rdi_gpu_kernel(g, k % 2, (rondo_type)(k / 2 % RONDO_TYPE_COUNT),
                           (rondo_op)(k / 2 / RONDO_TYPE_COUNT), &f);
    }
    return s;
}

static rondo_status own_part(struct rdi_gpu *g, int ordinal, struct record *me) {
    struct rondo_comm *c = g->comm;
    rondo_status s = rdi_cuda_device(ordinal, &g->device);
    if (s != RONDO_OK) {
        return s;
    }
    if (!g->device->module) {
        return rdi_fail(RONDO_ERR_UNSUPPORTED, "%s", g->device->why);
    }
    // A walker's blocks wait for each other, so all must find room, beside other work and other walkers.
    unsigned most = (unsigned)g->device->multiprocessors / 4;
    g->blocks = g->blocks > most ? (most ? most : 1) : g->blocks;
    s = rdi_cuda_enter(g->device);
    if (s != RONDO_OK) {
        return s;
    }
    const struct rdi_cuda_api *cu = g->device->cu;
    int least = 0, greatest = 0;
    (void)cu->stream_priorities(&least, &greatest);
    // Communication goes before computation: it is short, and others wait for it.
    rdi_cu_result r = cu->stream_create(&g->own, RDI_CU_STREAM_NON_BLOCKING, greatest);
    r = r == RDI_CU_OK ? cu->event_create(&g->ordered, RDI_CU_EVENT_DISABLE_TIMING) : r;
    s = r == RDI_CU_OK ? RONDO_OK
                       : rdi_cuda_fail(r, "cannot make a stream on CUDA device %d", ordinal);
    s = s == RONDO_OK ? rdi_gpu_words_open(g) : s;
    s = s == RONDO_OK ? load_kernels(g) : s;
    if (s == RONDO_OK && c->size > 1) {
        size_t pairs = (size_t)(c->local_size - 1) * pair_bytes(g);
        s = rdi_cuda_block_alloc(g->device, RDI_GPU_SLOTS * g->piece + pairs, &g->block);
    }
    if (s == RONDO_OK && c->size > 1) {
        rdi_cuda_block_ticket(g->device, &g->block, &me->ticket);
        me->block = g->block.ptr;
        memcpy(me->uuid, g->device->uuid.bytes, sizeof me->uuid);
        try_direct(g, me);
    }
    rdi_cuda_leave(g->device);
    return s;
}

// ---- What the others say -------------------------------------------------------------------------

static rondo_status check_records(const struct attach *a) {
    for (int r = 0; r < a->c->size; r++) {
        struct record *p = &a->all[r];
        rdi_printable(p->forced, sizeof p->forced);
        rdi_printable(p->why, sizeof p->why);
        rdi_printable(p->no_direct_out, sizeof p->no_direct_out);
        rdi_printable(p->no_direct_in, sizeof p->no_direct_in);
        if (p->magic != MAGIC) {
            return rdi_fail(RONDO_ERR_VERSION,
                            "rank %d attaches its device with another version of Rondo", r);
        }
        if (p->status != RONDO_OK) {
            char who[128];
            return rdi_fail(p->status < 0 ? (rondo_status)p->status : RONDO_ERR_INTERNAL,
                            "%s cannot use its CUDA device: %s",
                            rdi_comm_who(a->c, r, who, sizeof who), p->why);
        }
    }
    return RONDO_OK;
}

static rondo_status map_block(struct rdi_gpu *g, const struct record *me, const struct record *p,
                              int peer) {
    struct rondo_comm *c = g->comm;
    // Ranks of a host have blocks of one size; kernels will read up to the end of it.
    if (p->ticket.bytes != g->block.bytes) {
        return rdi_fail(RONDO_ERR_INVALID, "rank %d offers %llu bytes of device memory, not %zu",
                        peer, (unsigned long long)p->ticket.bytes, g->block.bytes);
    }
    // An allocation of virtual memory management is mapped by each device for itself.
    bool other_device = p->ordinal != g->device->ordinal;
    if (!same_process(c, me, p, c->rank, peer) ||
        (other_device && p->ticket.kind == RDI_CUDA_TICKET_FD)) {
        rondo_status s = rdi_cuda_map_open(g->device, &p->ticket, &g->maps[peer]);
        g->peer_block[peer] = s == RONDO_OK ? g->maps[peer].ptr : 0;
        return s;
    }
    struct rdi_cuda_device *other = NULL;
    rondo_status s = RONDO_OK;
    if (other_device) {
        s = rdi_cuda_device(p->ordinal, &other);
        rdi_cu_result r = s == RONDO_OK ? g->device->cu->ctx_enable_peer(other->ctx, 0) : RDI_CU_OK;
        if (r != RDI_CU_OK && r != RDI_CU_PEER_ACCESS_ALREADY_ENABLED) {
            s = rdi_cuda_fail(r, "CUDA device %d cannot read device %d", g->device->ordinal,
                              p->ordinal);
        }
    }
    g->peer_block[peer] = s == RONDO_OK ? p->block : 0;
    return s;
}

static rondo_status map_blocks(struct attach *a) {
    struct rdi_gpu *g = a->g;
    struct rondo_comm *c = a->c;
    size_t n = (size_t)c->size;
    uint8_t *mine = calloc(n, 1);
    if (!mine) {
        return rdi_gpu_give_up(c, rdi_fail(RONDO_ERR_NOMEM, "out of memory for %zu ranks", n));
    }
    rondo_status entered = rdi_cuda_enter(g->device);
    for (int p = 0; p < c->size && entered == RONDO_OK; p++) {
        const char *forced = a->all[p].forced; // the sender's option decides
        bool wanted = strcmp(forced, "auto") == 0 || strcmp(forced, "memory") == 0;
        g->staged_in[p] = !wanted;
        g->own_pairs[p] = pairs_offset(g, c->rank, p);
        g->peer_pairs[p] = pairs_offset(g, p, c->rank);
        if (p == c->rank || !same_host(c, p, c->rank)) {
            continue;
        }
        mine[p] = map_block(g, &a->all[c->rank], &a->all[p], p) == RONDO_OK;
        if (!mine[p]) {
            rdi_log(&c->engine->env, RONDO_LOG_INFO, "device memory of rank %d is not mapped: %s",
                    p, rondo_last_error());
        }
    }
    if (entered == RONDO_OK) {
        rdi_cuda_leave(g->device);
    }
    rondo_status s = rondo_all_gather(mine, a->maps, n, RONDO_U8, c);
    free(mine);
    return entered != RONDO_OK ? entered : s;
}

// ---- Choosing ------------------------------------------------------------------------------------

static const char *wire_between(const struct attach *a, int from, int to, char *buf, size_t cap) {
    struct rondo_comm *c = a->c;
    struct rdi_net *net = NULL;
    int other = from == c->rank ? to : from;
    if (from != c->rank && to != c->rank) {
        return "the wire"; // others know
    }
    rdi_driver_lock(c->engine->driver);
    rondo_status s = rdi_engine_route(c->engine, c->world[other], &net);
    rdi_driver_unlock(c->engine->driver);
    snprintf(buf, cap, "%s", s == RONDO_OK ? net->ops->name : "no wire");
    return buf;
}

static enum rdi_gpu_reach choose(const struct attach *a, int from, int to, char *reason,
                                 size_t cap) {
    const struct record *f = &a->all[from], *t = &a->all[to];
    char wire[16];
    bool here = same_host(a->c, from, to);
    bool mapped = a->maps[(size_t)to * (size_t)a->c->size + (size_t)from];
    struct rdi_gpu_facts facts = {
        .same_process = same_process(a->c, f, t, from, to),
        .same_host = here,
        .same_device = memcmp(f->uuid, t->uuid, sizeof f->uuid) == 0,
        .forced = f->forced,
        .why_memory = !here ? "another host"
                      : !mapped
                          ? "the receiver cannot map the sender's device memory (its log says why)"
                          : "",
        .why_direct = *f->no_direct_out ? f->no_direct_out : t->no_direct_in,
        .wire = wire_between(a, from, to, wire, sizeof wire)};
    return rdi_gpu_choose(&facts, reason, cap);
}

static void note_reach(struct attach *a, int peer, bool out, enum rdi_gpu_reach reach,
                       const char *reason) {
    char line[512], who[128];
    snprintf(line, sizeof line, "%s %s: %s (%s)\n", out ? "to" : "from",
             rdi_comm_who(a->c, peer, who, sizeof who), rdi_gpu_reach_name(reach), reason);
    size_t old = a->g->reasons ? strlen(a->g->reasons) : 0;
    char *more = realloc(a->g->reasons, old + strlen(line) + 1);
    if (more) {
        memcpy(more + old, line, strlen(line) + 1);
        a->g->reasons = more;
    }
    line[strlen(line) - 1] = '\0';
    rdi_log(&a->c->engine->env, RONDO_LOG_INFO, "device %d, %s", a->g->device->ordinal, line);
}

// All ranks go through all edges, so that what does not work fails on all of them.
static rondo_status choose_all(struct attach *a) {
    struct rondo_comm *c = a->c;
    rondo_status s = RONDO_OK;
    for (int pos = 0; pos < c->size && c->size > 1 && s == RONDO_OK; pos++) {
        int from = rdi_layout_rank(&c->layout, pos),
            to = rdi_layout_rank(&c->layout, (pos + 1) % c->size);
        char reason[384];
        enum rdi_gpu_reach reach = choose(a, from, to, reason, sizeof reason);
        if (reach == RDI_REACH_NONE) {
            return rdi_fail(RONDO_ERR_UNSUPPORTED, "from rank %d to rank %d: %s", from, to, reason);
        }
        if (from == c->rank) {
            note_reach(a, to, true, reach, reason);
            s = rdi_gpu_ring_edge(a->g, to, true, reach);
        }
        if (to == c->rank && s == RONDO_OK) {
            note_reach(a, from, false, reach, reason);
            s = rdi_gpu_ring_edge(a->g, from, false, reach);
        }
    }
    for (int p = 0; p < c->size; p++) {
        const char *forced = a->all[c->rank].forced;
        a->g->maps_us[p] = a->maps[(size_t)p * (size_t)c->size + (size_t)c->rank];
        a->g->staged_out[p] = strcmp(forced, "auto") != 0 && strcmp(forced, "memory") != 0;
    }
    return s;
}

// ---- All of it -----------------------------------------------------------------------------------

static rondo_status make_gpu(struct rondo_comm *c, struct rdi_gpu **out) {
    struct rdi_gpu *g = calloc(1, sizeof *g);
    size_t n = (size_t)c->size;
    if (!g) {
        return rdi_fail(RONDO_ERR_NOMEM, "out of memory for a device");
    }
    g->comm = c;
    g->size = c->size;
    g->piece = c->plan.block;
    g->blocks = (unsigned)c->engine->options.num[RDI_OPT_CUDA_BLOCKS];
    g->block.fd = g->inbound.fd = -1;
    pthread_mutex_init(&g->lock, NULL);
    g->maps = calloc(n, sizeof *g->maps);
    g->peer_block = calloc(n, sizeof *g->peer_block);
    g->peer_pairs = calloc(n, sizeof *g->peer_pairs);
    g->own_pairs = calloc(n, sizeof *g->own_pairs);
    g->maps_us = calloc(n, sizeof *g->maps_us);
    g->staged_out = calloc(n, sizeof *g->staged_out);
    g->staged_in = calloc(n, sizeof *g->staged_in);
    *out = g;
    return g->maps && g->peer_block && g->peer_pairs && g->own_pairs && g->maps_us &&
                   g->staged_out && g->staged_in
               ? RONDO_OK
               : rdi_fail(RONDO_ERR_NOMEM, "out of memory for a device and %zu ranks", n);
}

// A rank that cannot do its part says so to all: nobody is left waiting.
static rondo_status exchange(struct attach *a, int ordinal, rondo_status s) {
    struct rondo_comm *c = a->c;
    struct stat st;
    struct record *me = &a->all[c->rank];
    me->magic = MAGIC;
    me->ordinal = ordinal;
    me->pid = (uint32_t)getpid();
    me->pid_space = stat("/proc/self/ns/pid", &st) == 0 ? (uint64_t)st.st_ino : 0;
    snprintf(me->forced, sizeof me->forced, "%s", c->engine->options.str[RDI_OPT_CUDA_REACH]);
    s = s == RONDO_OK ? own_part(a->g, ordinal, me) : s;
    me->status = s;
    if (s != RONDO_OK) {
        snprintf(me->why, sizeof me->why, "%s", rondo_last_error());
    }
    struct record own = *me;
    s = rondo_all_gather(&own, a->all, sizeof own, RONDO_U8, c);
    return s == RONDO_OK ? check_records(a) : s;
}

static void set_gpu(struct rondo_comm *c, struct rdi_gpu *g) {
    rdi_driver_lock(c->engine->driver);
    c->gpu = g;
    rdi_driver_unlock(c->engine->driver);
}

// The end of it: all ranks are through, and all have what they need.
static rondo_status agree(struct rondo_comm *c, rondo_status s) {
    char text[RDI_ERROR_TEXT];
    int32_t mine = s, *all = calloc((size_t)c->size, sizeof *all);
    snprintf(text, sizeof text, "%s", rondo_last_error());
    if (!all) {
        return rdi_gpu_give_up(c, rdi_fail(RONDO_ERR_NOMEM, "out of memory for %d ranks", c->size));
    }
    rondo_status w = rondo_all_gather(&mine, all, 1, RONDO_I32, c);
    for (int r = 0; w == RONDO_OK && s == RONDO_OK && r < c->size; r++) {
        char who[128];
        if (all[r] != RONDO_OK) {
            s = rdi_fail(all[r] < 0 ? (rondo_status)all[r] : RONDO_ERR_INTERNAL,
                         "%s could not attach its CUDA device; its own error says why",
                         rdi_comm_who(c, r, who, sizeof who));
            snprintf(text, sizeof text, "%s", rondo_last_error());
        }
    }
    free(all);
    if (s != RONDO_OK) {
        rdi_set_last_error(text);
    }
    return s == RONDO_OK ? w : s;
}

rondo_status rdi_gpu_attach(struct rondo_comm *c, int ordinal) {
    size_t n = (size_t)c->size;
    struct attach a = {.c = c, .all = calloc(n, sizeof *a.all), .maps = calloc(n, n)};
    rondo_status s = RONDO_ERR_NOMEM;
    if (!a.all || !a.maps) {
        s = rdi_gpu_give_up(c, rdi_fail(s, "out of memory for the devices of %zu ranks", n));
        free(a.all);
        free(a.maps);
        return s;
    }
    s = make_gpu(c, &a.g);
    s = a.g ? exchange(&a, ordinal, s) : rdi_gpu_give_up(c, s);
    s = s == RONDO_OK ? map_blocks(&a) : s;
    if (s == RONDO_OK) {
        s = choose_all(&a);
        s = s == RONDO_OK ? rdi_comm_start_thread(c) : s;
        if (s == RONDO_OK) {
            set_gpu(c, a.g); // before the end: then the left neighbour may send
        }
        s = agree(c, s);
    }
    if (s != RONDO_OK && a.g) {
        char text[RDI_ERROR_TEXT];
        snprintf(text, sizeof text, "%s", rondo_last_error());
        set_gpu(c, NULL);
        rdi_gpu_free(a.g);
        rdi_set_last_error(text);
    }
    free(a.all);
    free(a.maps);
    return s;
}
