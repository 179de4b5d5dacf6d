// SPDX-License-Identifier: MIT
// Staging rings: those between neighbours of the ring are made by attach, those of pairs when they are first used.
// A ring to a rank of this host lies in the block that the peer has mapped; all others in pinned memory of either
// end, which needs no word to the peer.
#include "ring/cuda/gpu.h"

#include <stdlib.h>
#include <string.h>

static struct rdi_gpu_edge *find(const struct rdi_gpu *g, int peer, bool out,
                                 enum rdi_gpu_class class) {
    struct rdi_gpu_edge *e = g->edges;
    while (e && (e->peer != peer || e->out != out || e->class != class)) {
        e = e->next;
    }
    return e;
}

static rondo_status stage(struct rdi_gpu *g, struct rdi_gpu_edge *e) {
    e->reach = RDI_REACH_STAGED;
    rondo_status s = rdi_cuda_pinned_alloc(g->device, e->slots * g->piece, &e->pinned);
    e->host = e->pinned.host;
    e->base = e->pinned.device;
    return s;
}

// Pairs know two reaches: memory and staged.
static rondo_status place(struct rdi_gpu *g, struct rdi_gpu_edge *e) {
    uint64_t offset = (uint64_t)(e->class - RDI_GPU_PAIRS) * RDI_GPU_PAIR_SLOTS * g->piece;
    bool mapped = e->out ? g->maps_us[e->peer] && !g->staged_out[e->peer]
                         : g->peer_block[e->peer] && !g->staged_in[e->peer];
    if (!mapped) {
        return stage(g, e);
    }
    e->reach = RDI_REACH_MEMORY;
    e->base = e->out ? g->block.ptr + g->own_pairs[e->peer] + offset
                     : g->peer_block[e->peer] + g->peer_pairs[e->peer] + offset;
    return RONDO_OK;
}

static rondo_status make(int peer, bool out, enum rdi_gpu_class class,
                         struct rdi_gpu_edge **out_edge) {
    struct rdi_gpu_edge *e = calloc(1, sizeof *e);
    if (!e) {
        return rdi_fail(RONDO_ERR_NOMEM, "out of memory for a staging ring");
    }
    *e = (struct rdi_gpu_edge){.peer = peer,
                               .out = out,
                               .class = class,
                               .slots = class == RDI_GPU_RING ? RDI_GPU_SLOTS : RDI_GPU_PAIR_SLOTS};
    *out_edge = e;
    return RONDO_OK;
}

// The engine reads the list (rdi_gpu_slots): whole edges go in at the front.
static void publish(struct rdi_gpu *g, struct rdi_gpu_edge *e) {
    struct rdi_driver *d = g->comm->engine->driver;
    rdi_driver_lock(d);
    e->next = g->edges;
    g->edges = e;
    rdi_driver_unlock(d);
}

rondo_status rdi_gpu_edge_get(struct rdi_gpu *g, int peer, bool out, enum rdi_gpu_class class,
                              struct rdi_gpu_edge **out_edge) {
    struct rdi_gpu_edge *e = find(g, peer, out, class);
    if (e) {
        *out_edge = e;
        return RONDO_OK;
    }
    rondo_status s = make(peer, out, class, &e);
    if (s == RONDO_OK) {
        s = place(g, e);
        if (s != RONDO_OK) {
            free(e);
            return s;
        }
        publish(g, e);
        *out_edge = e;
    }
    return s;
}

rondo_status rdi_gpu_ring_edge(struct rdi_gpu *g, int peer, bool out, enum rdi_gpu_reach reach) {
    struct rdi_gpu_edge *e = NULL;
    rondo_status s = make(peer, out, RDI_GPU_RING, &e);
    if (s != RONDO_OK) {
        return s;
    }
    e->reach = reach;
    if (reach == RDI_REACH_STAGED) {
        s = stage(g, e);
    } else if (out) {
        e->base = g->block.ptr;
    } else {
        e->base = reach == RDI_REACH_DIRECT ? g->inbound.ptr : g->peer_block[peer];
    }
    if (s != RONDO_OK) {
        free(e);
        return s;
    }
    publish(g, e);
    return RONDO_OK;
}

// ---- The end -------------------------------------------------------------------------------------

static void free_words(struct rdi_gpu *g) {
    for (unsigned i = 0; i < RDI_GPU_WORD_CLASSES; i++) {
        while (g->spare[i]) {
            struct rdi_gpu_words *w = g->spare[i];
            g->spare[i] = w->next;
            rdi_cuda_pinned_free(g->device, &w->memory);
            free(w);
        }
    }
}

static void free_edges(struct rdi_gpu *g) {
    const struct rdi_cuda_api *cu = g->device->cu;
    for (struct rdi_gpu_edge *e = g->edges; e; e = e->next) {
        rdi_cuda_pinned_free(g->device, &e->pinned);
        if (e->ordered) {
            (void)cu->event_destroy(e->ordered);
        }
        if (e->stream) {
            (void)cu->stream_destroy(e->stream);
        }
    }
}

static void free_device(struct rdi_gpu *g) {
    const struct rdi_cuda_api *cu = g->device->cu;
    if (rdi_cuda_enter(g->device) != RONDO_OK) {
        return;
    }
    // An operation's last word is written before the stream is through with it.
    if (g->used) {
        (void)cu->event_sync(g->ordered);
    }
    for (struct rdi_gpu_edge *e = g->edges; e; e = e->next) {
        if (e->used) {
            (void)cu->event_sync(e->ordered);
        }
    }
    free_edges(g);
    for (int r = 0; g->maps && r < g->size; r++) {
        rdi_cuda_map_close(g->device, &g->maps[r]);
    }
    rdi_cuda_block_free(g->device, &g->block);
    rdi_cuda_block_free(g->device, &g->inbound);
    free_words(g);
    if (g->counters) {
        (void)cu->mem_free(g->counters);
    }
    if (g->ordered) {
        (void)cu->event_destroy(g->ordered);
    }
    if (g->own) {
        (void)cu->stream_destroy(g->own);
    }
    rdi_cuda_leave(g->device);
}

void rdi_gpu_check_device(struct rondo_comm *c) {
    struct rdi_gpu *g = c->gpu;
    if (!g || rdi_cuda_enter(g->device) != RONDO_OK) {
        return;
    }
    rdi_cu_result r = g->device->cu->stream_query(g->own);
    rdi_cuda_leave(g->device);
    if (r != RDI_CU_OK && r != RDI_CU_NOT_READY) {
        rondo_status s = rdi_cuda_fail(
            r, "CUDA device %d (%s) is in error, by a kernel of this process or a fault",
            g->device->ordinal, g->device->name);
        (void)rdi_gpu_give_up(c, s);
    }
}

struct rdi_gpu *rdi_gpu_detach(struct rondo_comm *c) {
    struct rdi_gpu *g = c->gpu;
    c->gpu = NULL;
    if (g) {
        g->comm = NULL;
    }
    return g;
}

void rdi_gpu_free(struct rdi_gpu *g) {
    if (g->block_registered) {
        (void)rdi_mem_unregister_device((const void *)(uintptr_t)g->block.ptr);
    }
    if (g->inbound_registered) {
        (void)rdi_mem_unregister_device((const void *)(uintptr_t)g->inbound.ptr);
    }
    rdi_gpu_reclaim(g);
    // What a stream that was held up may still come to touch stays as it is, to the end of the process.
    if (g->device && !atomic_load(&g->abandoned)) {
        free_device(g);
    }
    while (g->edges) {
        struct rdi_gpu_edge *e = g->edges;
        g->edges = e->next;
        free(e);
    }
    free(g->maps);
    free(g->peer_block);
    free(g->peer_pairs);
    free(g->own_pairs);
    free(g->maps_us);
    free(g->staged_out);
    free(g->staged_in);
    free(g->reasons);
    pthread_mutex_destroy(&g->lock);
    free(g);
}
