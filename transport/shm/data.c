// SPDX-License-Identifier: MIT
// Messages through the slots: put, look, release.
//
//   sender: fills slot q % slots, stores seq = q + 1      receiver: polls seq of slot arrived % slots
//   sender: polls `released`                              receiver: stores `released`, in batches
//
// A slot is written only with credit, so its `seq` is either q + 1 (message q is there) or what the round
// before left; any other value is damage. After a store that the peer may sleep for comes shm_peer_wake().
#include "transport/shm/shm.h"

#include <string.h>

// ---- Sender --------------------------------------------------------------------------------------

// A copy is sent at once, a reference when it is released; `sent` is the prefix of both.
static void advance_sent(struct shm_link *l) {
    struct rdi_link *b = &l->base;
    while (b->sent < b->posted &&
           (b->sent < l->told_released || l->used[b->sent % b->slots].flags != SHM_BY_REFERENCE)) {
        b->sent++;
    }
}

static int scan_released(struct shm_link *l) {
    struct rdi_link *b = &l->base;
    uint64_t released = shm_load(&l->theirs->released);
    if (released == l->told_released) {
        return 0;
    }
    if (released < l->told_released || released > b->posted) {
        shm_link_damaged(l, "counter of released messages", released);
        return 1;
    }
    for (uint64_t q = l->told_released; q < released; q++) {
        struct shm_used *u = &l->used[q % b->slots];
        if (u->flags == SHM_BY_REFERENCE) {
            shm_block_returned(l, u->handle);
        }
    }
    l->told_released = released;
    b->credit = released + b->slots;
    advance_sent(l);
    return 1;
}

static void copy_in(struct shm_link *l, uint8_t *to, const void *from, uint32_t len) {
    const struct rdi_env *env = &l->net->base.params.env;
    bool timed;
    enum shm_copy how = shm_copy_choose(&l->copier, len, l->base.slots, &timed);
    uint64_t start = timed ? rdi_now(env) : 0;
    shm_copy(how, to, from, len);
    if (timed) {
        shm_copy_learn(&l->copier, how, len, rdi_now(env) - start);
    }
}

// Writes the payload to where it fits best; returns the flag for that place.
static uint32_t fill(struct shm_link *l, struct shm_slot *slot, uint64_t index,
                     const struct rdi_put *put) {
    uint8_t *body = slot->body;
    if (put->sig != NULL) {
        memcpy(body, put->sig, RDI_SIG_BYTES);
        body += RDI_SIG_BYTES;
    }
    if (put->len <= SHM_INLINE) {
        if (put->len > 0) {
            memcpy(body, put->data, put->len);
        }
        return SHM_IN_HEADER;
    }
    struct shm_reference ref;
    if (put->len >= SHM_REFERENCE_MIN && !(put->flags & RDI_PUT_COPY) && l->net->zero_copy &&
        shm_block_lend(l, put->data, put->len, &ref)) {
        memcpy(body, &ref, sizeof ref);
        l->used[index].handle = (uint32_t)ref.handle;
        return SHM_BY_REFERENCE;
    }
    copy_in(l, l->region.data + index * l->region.data_stride, put->data, put->len);
    return SHM_IN_DATA;
}

rondo_status shm_put(struct rdi_link *link, const struct rdi_put *put) {
    struct shm_link *l = shm_link_of(link);
    if (l->phase != SHM_UP) {
        return shm_link_refusal(l);
    }
    if (put->len > link->max_msg) {
        return rdi_fail(RONDO_ERR_INVALID, "a message of %u bytes; this link takes at most %u",
                        put->len, link->max_msg);
    }
    if (link->posted == link->credit) {
        scan_released(l);
        if (l->phase != SHM_UP) {
            return shm_link_refusal(l);
        }
        if (link->posted == link->credit) {
            return RONDO_AGAIN;
        }
    }
    uint64_t q = link->posted, index = q % link->slots;
    struct shm_slot *slot = &l->region.slots[index];
    uint32_t where = fill(l, slot, index, put);
    l->used[index].flags = where;
    shm_write(&slot->tag, put->tag);
    shm_write(&slot->len, put->len);
    // A copy is sent as soon as all before it is; there is something to wait for only behind a reference.
    bool waits = where == SHM_BY_REFERENCE || link->sent < link->posted;
    bool ack = waits && (put->flags & RDI_PUT_ACK) != 0;
    shm_write(&slot->flags,
              where | (put->sig != NULL ? SHM_HAS_SIG : 0) | (ack ? SHM_WANTS_ACK : 0));
    shm_store(&slot->seq, q + 1);
    link->posted++;
    advance_sent(l);
    l->net->base.bytes_sent += put->len;
    l->net->base.messages_sent++;
    shm_peer_wake(l->peer);
    return RONDO_OK;
}

// ---- Receiver ------------------------------------------------------------------------------------

// Reads a message's header, once, and checks all of it.
static bool take(struct shm_link *l, struct shm_slot *slot, uint64_t index) {
    struct shm_used *u = &l->used[index];
    u->tag = shm_peek_word(&slot->tag);
    u->len = shm_peek_word(&slot->len);
    u->flags = shm_peek_word(&slot->flags);
    const uint8_t *body = slot->body;
    u->sig = NULL;
    if ((u->flags & SHM_HAS_SIG) != 0) {
        u->sig = body;
        body += RDI_SIG_BYTES;
    }
    if (u->len > l->base.max_msg) {
        return shm_link_damaged(l, "length of a message", u->len);
    }
    struct shm_reference ref;
    switch (u->flags & ~(uint32_t)(SHM_HAS_SIG | SHM_WANTS_ACK)) {
    case SHM_IN_HEADER:
        u->data = body;
        return u->len <= SHM_INLINE || shm_link_damaged(l, "length of a message", u->len);
    case SHM_IN_DATA:
        u->data = l->region.data + index * l->region.data_stride;
        return true;
    case SHM_BY_REFERENCE:
        memcpy(&ref, body, sizeof ref);
        u->data = shm_block_borrow(l, &ref, u->len);
        u->handle = (uint32_t)ref.handle;
        return u->data != NULL || shm_link_damaged(l, "reference to a block", ref.handle);
    default:
        return shm_link_damaged(l, "kind of message", u->flags);
    }
}

// What `seq` of the slot for message number `arrived` is as long as that is not there.
static uint64_t stale_seq(const struct rdi_link *b) {
    return b->arrived >= b->slots ? b->arrived + 1 - b->slots : 0;
}

static int scan_slots(struct shm_link *l) {
    struct rdi_link *b = &l->base;
    int moved = 0;
    while (b->arrived < b->released + b->slots) {
        uint64_t index = b->arrived % b->slots;
        struct shm_slot *slot = &l->region.slots[index];
        uint64_t seq = shm_load(&slot->seq);
        if (seq != b->arrived + 1) {
            if (seq != stale_seq(b)) {
                shm_link_damaged(l, "message number", seq);
                moved++;
            }
            break;
        }
        moved++;
        if (!take(l, slot, index)) {
            break;
        }
        b->arrived++;
        l->net->base.bytes_received += l->used[index].len;
    }
    return moved;
}

void shm_peek(struct rdi_link *link, uint64_t seq, struct rdi_msg *out) {
    const struct shm_used *u = &shm_link_of(link)->used[seq % link->slots];
    *out = (struct rdi_msg){.data = u->data, .len = u->len, .tag = u->tag, .sig = u->sig};
}

void shm_link_tell(struct shm_link *l) {
    if (l->told_released < l->base.released) {
        l->told_released = l->base.released;
        shm_store(&l->mine->released, l->told_released);
        shm_peer_wake(l->peer);
    }
}

// The sender polls the counter, so each store costs it a cache miss: it is told of half of the slots at once,
// or earlier when it waits for one message.
void shm_release(struct rdi_link *link, uint64_t upto) {
    struct shm_link *l = shm_link_of(link);
    bool prompt = false;
    for (; link->released < upto; link->released++) {
        const struct shm_used *u = &l->used[link->released % link->slots];
        prompt |= (u->flags & SHM_WANTS_ACK) != 0;
        if ((u->flags & SHM_WHERE) == SHM_BY_REFERENCE) {
            shm_block_release(l, u->handle);
        }
    }
    if (prompt || 2 * (link->released - l->told_released) >= link->slots) {
        shm_link_tell(l);
    }
}

// ---- Both ----------------------------------------------------------------------------------------

static void end_by_bye(struct shm_link *l, uint32_t bye) {
    char peer[128];
    if (bye == SHM_BYE_CLOSED) {
        l->base.state = RDI_LINK_CLOSED;
        shm_link_set_phase(l, SHM_OVER);
        shm_unwatch(l->net, l->fd);
    } else if (bye == SHM_BYE_ABORTED) {
        shm_link_fail(l, RONDO_ERR_PEER,
                      "%s aborted its communicator: look at its own output for the cause",
                      shm_link_peer(l, peer));
    } else {
        shm_link_damaged(l, "good-bye", bye);
    }
}

// The last word is read first: all that it follows is found then.
int shm_link_scan(struct shm_link *l) {
    if (l->phase != SHM_UP) {
        return 0;
    }
    uint32_t bye = shm_load(&l->theirs->bye);
    int moved = l->base.sender ? scan_released(l) : scan_slots(l);
    if (l->phase == SHM_UP) {
        moved += shm_ctrl_scan(l);
    }
    if (bye != SHM_BYE_NONE && l->phase == SHM_UP) {
        end_by_bye(l, bye);
        moved++;
    }
    return moved;
}

bool shm_link_has_news(const struct shm_link *l) {
    const struct rdi_link *b = &l->base;
    if (shm_load(&l->theirs->bye) != SHM_BYE_NONE || shm_ctrl_has_news(l)) {
        return true;
    }
    if (b->sender) {
        return shm_load(&l->theirs->released) != l->told_released;
    }
    return b->arrived < b->released + b->slots &&
           shm_load(&l->region.slots[b->arrived % b->slots].seq) != stale_seq(b);
}
