// SPDX-License-Identifier: MIT
// Control messages: a small ring in each direction, outside of slots and credit.
#include "transport/shm/shm.h"

#include <string.h>

rondo_status shm_ctrl(struct rdi_link *link, unsigned type, const void *msg, size_t len) {
    struct shm_link *l = shm_link_of(link);
    if (len > RDI_CTRL_MAX) {
        return rdi_fail(RONDO_ERR_INVALID, "a control message of %zu bytes; at most %d are allowed",
                        len, RDI_CTRL_MAX);
    }
    if (l->phase != SHM_UP) {
        return shm_link_refusal(l);
    }
    if (l->ctrl_posted == l->ctrl_room) {
        return RONDO_AGAIN; // a scan finds out about room
    }
    struct shm_ctrl *c = &l->ctrl_out[l->ctrl_posted % SHM_CTRL_RING];
    shm_write(&c->type, type);
    shm_write(&c->len, (uint32_t)len);
    if (len > 0) {
        memcpy(c->bytes, msg, len);
    }
    shm_store(&l->mine->ctrl_posted, ++l->ctrl_posted);
    shm_peer_wake(l->peer);
    return RONDO_OK;
}

// Takes the peer's count of consumed control messages.
static bool scan_room(struct shm_link *l, int *moved) {
    uint64_t taken = shm_load(&l->theirs->ctrl_taken);
    uint64_t known = l->ctrl_room - SHM_CTRL_RING;
    if (taken != known) {
        if (taken < known || taken > l->ctrl_posted) {
            return shm_link_damaged(l, "control counter", taken);
        }
        l->ctrl_room = taken + SHM_CTRL_RING;
        (*moved)++;
    }
    return true;
}

// The message is copied before its upcall, which may close the link.
static bool take_one(struct shm_link *l) {
    const struct shm_ctrl *c = &l->ctrl_in[l->ctrl_taken % SHM_CTRL_RING];
    uint32_t type = shm_peek_word(&c->type), len = shm_peek_word(&c->len);
    if (len > RDI_CTRL_MAX) {
        return shm_link_damaged(l, "length of a control message", len);
    }
    uint8_t copy[RDI_CTRL_MAX];
    memcpy(copy, c->bytes, len);
    shm_store(&l->mine->ctrl_taken, ++l->ctrl_taken);
    const struct rdi_net_events *events = l->net->base.params.events;
    events->ctrl(events->self, &l->base, type, copy, len);
    return l->phase == SHM_UP;
}

int shm_ctrl_scan(struct shm_link *l) {
    int moved = 0;
    if (!scan_room(l, &moved)) {
        return 1;
    }
    uint64_t posted = shm_load(&l->theirs->ctrl_posted);
    if (posted == l->ctrl_taken) {
        return moved;
    }
    if (posted < l->ctrl_taken || posted > l->ctrl_taken + SHM_CTRL_RING) {
        shm_link_damaged(l, "control counter", posted);
        return 1;
    }
    while (l->ctrl_taken < posted) {
        moved++;
        if (!take_one(l)) {
            return moved;
        }
    }
    shm_peer_wake(l->peer); // it may sleep until there is room
    return moved;
}

bool shm_ctrl_has_news(const struct shm_link *l) {
    return shm_load(&l->theirs->ctrl_posted) != l->ctrl_taken ||
           shm_load(&l->theirs->ctrl_taken) + SHM_CTRL_RING != l->ctrl_room;
}
