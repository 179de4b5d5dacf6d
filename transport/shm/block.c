// SPDX-License-Identifier: MIT
// Payload by reference: a message names a place in a block from rondo_mem_alloc() instead of carrying bytes.
//
// The first time that a link has payload in a block, the sender passes the block's memfd over the Unix socket;
// until the receiver has said that it mapped it, payload is copied. The memfd is sealed, so that the receiver
// cannot write into it and the sender cannot shorten it. The receiver reads in place; the message's `sent`
// advances when it is released.
//
// Fencing: a receiver may still be reading a block when the sender's end is closed or the sender ends. Nobody
// waits for that. It can only read, what it reads is memory that stays for as long as it is mapped, and by then
// its link has failed or was closed, so what it makes of it is thrown away. The sender's buffer is never
// written by a peer. That is why close_link() need not block.
//
// process_vm_readv() would do without the blocks, but was measured slower than copying through slots wherever
// ranks keep their cores busy: it reads 7.5 GB/s (pinning 4 KiB pages is what costs), so an all-reduce of
// 64 MiB takes 12.3 ms against 6.0 ms on 2 ranks, and 33.2 ms against 16.3 ms on 4 ranks on 2 cores (AMD EPYC,
// Linux 6.18). So it is not used.
#include "transport/mem.h"
#include "transport/memfile.h"
#include "transport/shm/shm.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

// ---- Sender --------------------------------------------------------------------------------------

static struct shm_lent *find_lent(struct shm_link *l, uint64_t id) {
    if (l->last_lent < l->n_lent && l->lent[l->last_lent].id == id &&
        l->lent[l->last_lent].state != SHM_LENT_NONE) {
        return &l->lent[l->last_lent];
    }
    for (uint32_t i = 0; i < l->n_lent; i++) {
        if (l->lent[i].id == id && l->lent[i].state != SHM_LENT_NONE) {
            l->last_lent = i;
            return &l->lent[i];
        }
    }
    return NULL;
}

// A free entry, or NULL when there are too many blocks (their payload is copied then).
static struct shm_lent *new_lent(struct shm_link *l) {
    for (uint32_t i = 0; i < l->n_lent; i++) {
        if (l->lent[i].state == SHM_LENT_NONE) {
            return &l->lent[i];
        }
    }
    if (l->n_lent == SHM_BLOCKS_MAX) {
        return NULL;
    }
    uint32_t n = l->n_lent == 0 ? 16 : 2 * l->n_lent;
    struct shm_lent *grown = realloc(l->lent, n * sizeof *grown);
    if (grown == NULL) {
        return NULL;
    }
    memset(grown + l->n_lent, 0, (n - l->n_lent) * sizeof *grown);
    l->lent = grown;
    struct shm_lent *e = &grown[l->n_lent];
    l->n_lent = n;
    return e;
}

// No room in the socket: the next payload in this block tries again.
static void offer(struct shm_link *l, int fd, uint64_t id, uint64_t bytes) {
    struct shm_lent *e = new_lent(l);
    if (e == NULL) {
        return;
    }
    struct shm_record rec = {SHM_OFFER, .handle = (uint32_t)(e - l->lent), .value = bytes};
    if (shm_link_send(l, &rec, &fd, 1)) {
        *e = (struct shm_lent){.state = SHM_LENT_OFFERED, .id = id};
    }
}

bool shm_block_lend(struct shm_link *l, const void *data, uint32_t len, struct shm_reference *out) {
    int fd;
    uint64_t id, offset, bytes;
    if (!rdi_mem_find(data, len, &fd, &id, &offset, &bytes)) {
        return false;
    }
    struct shm_lent *e = find_lent(l, id);
    if (e == NULL) {
        offer(l, fd, id, bytes);
        return false;
    }
    if (e->state != SHM_LENT_MAPPED) {
        return false;
    }
    e->in_flight++;
    *out = (struct shm_reference){.handle = (uint64_t)(e - l->lent), .offset = offset};
    return true;
}

void shm_block_returned(struct shm_link *l, uint32_t handle) {
    struct shm_lent *e = &l->lent[handle];
    e->in_flight--;
    l->net->chores |= e->freed;
}

static bool take_answer(struct shm_link *l, const struct shm_record *rec) {
    if (rec->handle >= l->n_lent || l->lent[rec->handle].state != SHM_LENT_OFFERED) {
        return false;
    }
    l->lent[rec->handle].state = rec->value == 1 ? SHM_LENT_MAPPED : SHM_LENT_REFUSED;
    l->net->chores |= l->lent[rec->handle].freed;
    return true;
}

// A block that its owner freed is taken back once no message refers to it and the receiver has answered the
// offer, so that its handle can serve again. Its id never comes back, so nothing is lent from it meanwhile.
static void take_back(struct shm_link *l, struct shm_lent *e) {
    if (e->in_flight > 0 || e->state == SHM_LENT_OFFERED) {
        return; // the release or the answer makes it a chore again
    }
    struct shm_record rec = {SHM_TAKE_BACK, .handle = (uint32_t)(e - l->lent)};
    if (e->state == SHM_LENT_REFUSED || shm_link_send(l, &rec, NULL, 0)) {
        *e = (struct shm_lent){.state = SHM_LENT_NONE};
    } else {
        l->net->chores = true;
    }
}

// ---- Receiver ------------------------------------------------------------------------------------

static struct shm_borrowed *find_borrowed(struct shm_link *l, uint64_t handle) {
    if (handle >= l->n_borrowed || l->borrowed[handle].map == NULL) {
        return NULL;
    }
    return &l->borrowed[handle];
}

static bool reserve_handle(struct shm_link *l, uint32_t handle) {
    if (handle < l->n_borrowed) {
        return true;
    }
    struct shm_borrowed *grown = realloc(l->borrowed, (handle + 1) * sizeof *grown);
    if (grown == NULL) {
        return false;
    }
    memset(grown + l->n_borrowed, 0, (handle + 1 - l->n_borrowed) * sizeof *grown);
    l->borrowed = grown;
    l->n_borrowed = handle + 1;
    return true;
}

static void answer(struct shm_link *l, struct shm_borrowed *b) {
    struct shm_record rec = {SHM_MAPPED, .handle = (uint32_t)(b - l->borrowed),
                             .value = b->answer == SHM_ANSWER_MAPPED};
    if (b->answer == SHM_ANSWER_NONE || shm_link_send(l, &rec, NULL, 0)) {
        b->answer = SHM_ANSWER_NONE;
    } else {
        l->due |= SHM_DUE_ANSWERS;
        l->net->chores = true;
    }
}

// A block that cannot be mapped because something ran out is refused: its payload is copied then. One that
// breaks the rules ends the link.
static bool take_offer(struct shm_link *l, const struct shm_record *rec, int fd) {
    if (rec->handle >= SHM_BLOCKS_MAX || find_borrowed(l, rec->handle) != NULL) {
        return false;
    }
    void *map = NULL;
    rondo_status s = rdi_memfile_map("a block", fd, (size_t)rec->value, RDI_MEMFILE_PRIVATE, &map);
    if (s == RONDO_ERR_PEER) {
        char peer[128];
        shm_link_fail(l, s, "%s: %s", shm_link_peer(l, peer), rondo_last_error());
        return true;
    }
    if (!reserve_handle(l, rec->handle)) {
        rdi_memfile_unmap(map, (size_t)rec->value);
        return false;
    }
    struct shm_borrowed *b = &l->borrowed[rec->handle];
    *b = (struct shm_borrowed){.map = map,
                               .bytes = (size_t)rec->value,
                               .answer = map != NULL ? SHM_ANSWER_MAPPED : SHM_ANSWER_REFUSED};
    answer(l, b);
    return true;
}

static bool give_back(struct shm_link *l, const struct shm_record *rec) {
    struct shm_borrowed *b = find_borrowed(l, rec->handle);
    if (b == NULL || b->refs > 0) {
        return false;
    }
    rdi_memfile_unmap((void *)(uintptr_t)b->map, b->bytes);
    *b = (struct shm_borrowed){.map = NULL};
    return true;
}

const void *shm_block_borrow(struct shm_link *l, const struct shm_reference *ref, uint32_t len) {
    struct shm_borrowed *b = find_borrowed(l, ref->handle);
    if (b == NULL || ref->offset > b->bytes || len > b->bytes - ref->offset) {
        return NULL;
    }
    b->refs++;
    return b->map + ref->offset;
}

void shm_block_release(struct shm_link *l, uint32_t handle) { l->borrowed[handle].refs--; }

// ---- Both ----------------------------------------------------------------------------------------

bool shm_block_record(struct shm_link *l, const struct shm_record *rec, const int *fds) {
    switch (rec->type) {
    case SHM_OFFER:
        return !l->base.sender && take_offer(l, rec, fds[0]);
    case SHM_TAKE_BACK:
        return !l->base.sender && give_back(l, rec);
    case SHM_MAPPED:
        return l->base.sender && take_answer(l, rec);
    default:
        return false;
    }
}

void shm_block_chores(struct shm_link *l, bool freed) {
    for (uint32_t i = 0; i < l->n_lent; i++) {
        struct shm_lent *e = &l->lent[i];
        if (e->state == SHM_LENT_NONE) {
            continue;
        }
        e->freed |= freed && !rdi_mem_alive(e->id);
        if (e->freed) {
            take_back(l, e);
        }
    }
    if ((l->due & SHM_DUE_ANSWERS) != 0) {
        l->due &= ~(unsigned)SHM_DUE_ANSWERS;
        for (uint32_t i = 0; i < l->n_borrowed; i++) {
            answer(l, &l->borrowed[i]);
        }
    }
}

void shm_block_drop_all(struct shm_link *l) {
    for (uint32_t i = 0; i < l->n_borrowed; i++) {
        rdi_memfile_unmap((void *)(uintptr_t)l->borrowed[i].map, l->borrowed[i].bytes);
    }
    free(l->borrowed);
    free(l->lent);
    l->borrowed = NULL;
    l->lent = NULL;
    l->n_borrowed = l->n_lent = l->last_lent = 0;
}
