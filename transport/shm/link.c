// SPDX-License-Identifier: MIT
// A link's life outside of its rendezvous: making, mapping, failing, freeing.
#include "transport/memfile.h"
#include "transport/shm/shm.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

// ---- The net's array of links --------------------------------------------------------------------

static bool add_to_net(struct shm_net *net, struct shm_link *l) {
    if (net->n_links == net->cap_links) {
        size_t cap = net->cap_links == 0 ? 16 : 2 * net->cap_links;
        struct shm_link **grown = realloc(net->links, cap * sizeof(*grown));
        if (grown == NULL) {
            return false;
        }
        net->links = grown;
        net->cap_links = cap;
    }
    l->index = net->n_links;
    net->links[net->n_links++] = l;
    return true;
}

void shm_link_compact(struct shm_net *net) {
    size_t n = 0;
    for (size_t i = 0; i < net->n_links; i++) {
        if (net->links[i] != NULL) {
            net->links[n] = net->links[i];
            net->links[n]->index = n;
            n++;
        }
    }
    net->n_links = n;
    net->holes = 0;
}

// A scan walks through the array while upcalls close links: it finds holes then.
static void remove_from_net(struct shm_net *net, struct shm_link *l) {
    net->links[l->index] = NULL;
    net->holes++;
    if (net->scanning == 0) {
        shm_link_compact(net);
    }
}

// ---- Life ----------------------------------------------------------------------------------------

static bool is_young(enum shm_phase phase) { return phase != SHM_UP && phase != SHM_OVER; }

void shm_link_set_phase(struct shm_link *l, enum shm_phase phase) {
    l->net->young += is_young(phase);
    l->net->young -= is_young(l->phase);
    l->phase = phase;
}

struct shm_link *shm_link_new(struct shm_net *net, bool sender) {
    struct shm_link *l = calloc(1, sizeof *l);
    if (l == NULL || !add_to_net(net, l)) {
        free(l);
        return NULL;
    }
    l->base.ops = &rdi_shm_ops;
    l->base.net = &net->base;
    l->base.sender = sender;
    l->base.state = RDI_LINK_CONNECTING;
    l->source = (struct shm_source){.kind = SHM_LINK, .object = l};
    l->net = net;
    l->announced = sender;
    l->fd = l->region_fd = -1;
    l->phase = SHM_OVER;
    shm_link_set_phase(l, sender ? SHM_TRY : SHM_SHAKE);
    return l;
}

void shm_link_free(struct shm_link *l) {
    struct shm_net *net = l->net;
    shm_link_set_phase(l, SHM_OVER);
    shm_link_drop_region(l);
    shm_block_drop_all(l);
    if (l->fd >= 0) {
        shm_unwatch(net, l->fd);
        close(l->fd);
    }
    if (l->region_fd >= 0) {
        close(l->region_fd);
    }
    if (l->peer != NULL) {
        shm_peer_put(net, l->peer);
    }
    free(l->hs);
    remove_from_net(net, l);
    shm_bury(net, &l->source);
}

rondo_status shm_link_set_region(struct shm_link *l, void *map) {
    l->used = calloc(l->base.slots, sizeof *l->used);
    if (l->used == NULL) {
        return rdi_fail_resource(ENOMEM, "remember the slots of a link");
    }
    shm_region_set(&l->region, map, l->base.slots, l->base.max_msg);
    struct shm_head *head = l->region.head;
    l->mine = l->base.sender ? &head->sender : &head->receiver;
    l->theirs = l->base.sender ? &head->receiver : &head->sender;
    l->ctrl_out = l->base.sender ? head->to_receiver : head->to_sender;
    l->ctrl_in = l->base.sender ? head->to_sender : head->to_receiver;
    l->ctrl_room = SHM_CTRL_RING;
    l->base.credit = l->base.sender ? l->base.slots : 0;
    return RONDO_OK;
}

void shm_link_drop_region(struct shm_link *l) {
    rdi_memfile_unmap(l->region.head, l->region.bytes);
    free(l->used);
    l->used = NULL;
    l->region = (struct shm_region){.head = NULL};
    l->mine = NULL;
    l->theirs = NULL;
    l->ctrl_out = NULL;
    l->ctrl_in = NULL;
}

// ---- Endings -------------------------------------------------------------------------------------

const char *shm_link_peer(const struct shm_link *l, char buf[128]) {
    uint32_t rank = l->base.sender ? l->base.id.to : l->base.id.from;
    snprintf(buf, 128, "rank %u (pid %u on host %s)", rank, l->peer_pid,
             l->net->base.params.job->host);
    return buf;
}

void shm_link_fail(struct shm_link *l, rondo_status s, const char *fmt, ...) {
    if (l->phase == SHM_OVER) {
        return; // the first reason is the one that counts
    }
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(l->base.why, sizeof l->base.why, fmt, ap);
    va_end(ap);
    l->base.status = s;
    l->base.state = RDI_LINK_FAILED;
    shm_link_set_phase(l, SHM_OVER);
    if (l->fd >= 0) {
        shm_unwatch(l->net, l->fd); // a socket that hung up would stay readable for ever
    }
}

bool shm_link_damaged(struct shm_link *l, const char *what, uint64_t value) {
    char peer[128];
    shm_link_fail(l, RONDO_ERR_PEER,
                  "%s wrote a wrong %s (%llu) into the shared memory: it is broken; run the same "
                  "release of Rondo on all ranks and look for stray writes there",
                  shm_link_peer(l, peer), what, (unsigned long long)value);
    return false;
}

rondo_status shm_link_refusal(const struct shm_link *l) {
    char peer[128];
    switch (l->base.state) {
    case RDI_LINK_FAILED:
        return rdi_fail(l->base.status, "%s", l->base.why);
    case RDI_LINK_CLOSED:
        return rdi_fail(RONDO_ERR_PEER, "%s has closed its communicator", shm_link_peer(l, peer));
    default:
        return RONDO_AGAIN;
    }
}

void shm_link_hang_up(struct shm_link *l) {
    shm_link_scan(l);
    if (l->phase == SHM_UP) {
        char peer[128];
        shm_link_fail(
            l, RONDO_ERR_PEER,
            "%s ended without closing its communicator: look at its own output for the cause",
            shm_link_peer(l, peer));
    }
}
