// SPDX-License-Identifier: MIT
// Registrations of the caller's memory, kept from one message to the next.
//
// One entry a block or registered range, made at its first use and found by address afterwards. An address
// alone would not do: memory can be freed and other memory appear in its place. So as soon as anything was
// freed, all entries are compared with what still lives, by ids that are never used again.
#include "transport/mem.h"
#include "transport/verbs/parts.h"

#include <stdlib.h>
#include <unistd.h>

#define ENTRIES_MAX 1024u

struct rdi_verbs_mr {
    struct rdi_verbs_mr *next;
    uintptr_t start;
    size_t bytes;
    uint64_t id;
    struct ibv_mr *mr; // NULL: the device refused it, so it need not be asked for each message
    bool device;       // device memory, which may have addresses that host memory has, too
    unsigned held;
};

static void destroy(struct rdi_verbs_rail *r, struct rdi_verbs_mr *e) {
    if (e->mr != NULL) {
        r->v->dereg_mr(e->mr);
    }
    free(e);
}

void rdi_verbs_mr_sweep(struct rdi_verbs_rail *r) {
    uint64_t frees = rdi_mem_frees();
    if (frees == r->mr_frees) {
        return;
    }
    r->mr_frees = frees;
    for (struct rdi_verbs_mr **at = &r->mrs; *at != NULL;) {
        struct rdi_verbs_mr *e = *at;
        if (rdi_mem_alive(e->id)) {
            at = &e->next;
            continue;
        }
        *at = e->next;
        r->nmrs--;
        if (e->held == 0) {
            destroy(r, e);
        } else {
            e->next = r->stale;
            r->stale = e;
        }
    }
}

// Takes the entry around a range out of the list.
static struct rdi_verbs_mr *take(struct rdi_verbs_rail *r, uintptr_t from, size_t len,
                                 bool device) {
    for (struct rdi_verbs_mr **at = &r->mrs; *at != NULL; at = &(*at)->next) {
        struct rdi_verbs_mr *e = *at;
        if (e->device == device && e->start <= from && from - e->start <= e->bytes &&
            len <= e->bytes - (from - e->start)) {
            *at = e->next;
            return e;
        }
    }
    return NULL;
}

// Makes room for one more. False: all are in use.
static bool evict(struct rdi_verbs_rail *r) {
    struct rdi_verbs_mr **oldest = NULL;
    for (struct rdi_verbs_mr **at = &r->mrs; *at != NULL; at = &(*at)->next) {
        oldest = (*at)->held == 0 ? at : oldest;
    }
    if (oldest == NULL) {
        return false;
    }
    struct rdi_verbs_mr *e = *oldest;
    *oldest = e->next;
    r->nmrs--;
    destroy(r, e);
    return true;
}

static struct rdi_verbs_mr *make(struct rdi_verbs_rail *r, const void *ptr, size_t len) {
    void *start;
    size_t bytes;
    uint64_t id;
    if (!rdi_mem_region(ptr, len, &start, &bytes, &id) || (r->nmrs >= ENTRIES_MAX && !evict(r))) {
        return NULL;
    }
    struct rdi_verbs_mr *e = malloc(sizeof *e);
    if (e == NULL) {
        return NULL;
    }
    *e = (struct rdi_verbs_mr){.start = (uintptr_t)start, .bytes = bytes, .id = id};
    if (rdi_verbs_try_reg(r, start, bytes, 0, &e->mr) != 0) {
        e->mr = NULL;
    }
    r->nmrs++;
    return e;
}

// What is used last is found first and evicted last.
static void push(struct rdi_verbs_rail *r, struct rdi_verbs_mr *e) {
    e->next = r->mrs;
    r->mrs = e;
}

struct ibv_mr *rdi_verbs_mr_get(struct rdi_verbs_rail *r, const void *ptr, size_t len,
                                struct rdi_verbs_mr **held) {
    rdi_verbs_mr_sweep(r);
    struct rdi_verbs_mr *e = len > 0 ? take(r, (uintptr_t)ptr, len, false) : NULL;
    if (e == NULL && len > 0) {
        e = make(r, ptr, len);
    }
    if (e == NULL) {
        return NULL;
    }
    push(r, e);
    if (e->mr == NULL) {
        return NULL;
    }
    e->held++;
    *held = e;
    return e->mr;
}

static rondo_status make_device(struct rdi_verbs_rail *r, const void *ptr, size_t len,
                                struct rdi_verbs_mr **out) {
    struct rdi_mem_device m;
    rondo_status s = rdi_mem_find_device(ptr, len, &m);
    if (s != RONDO_OK) {
        return s;
    }
    if (m.fd >= 0) {
        close(m.fd);
    }
    struct rdi_verbs_mr *e = r->nmrs < ENTRIES_MAX || evict(r) ? malloc(sizeof *e) : NULL;
    if (e == NULL) {
        return rdi_fail(RONDO_ERR_NOMEM, "no memory for a registration of device memory");
    }
    *e = (struct rdi_verbs_mr){
        .start = (uintptr_t)m.start, .bytes = m.bytes, .id = m.id, .device = true};
    s = rdi_verbs_reg_device(r, m.start, m.bytes, 0, &e->mr);
    if (s != RONDO_OK) {
        free(e);
        return s;
    }
    r->nmrs++;
    *out = e;
    return RONDO_OK;
}

rondo_status rdi_verbs_mr_get_device(struct rdi_verbs_rail *r, const void *ptr, size_t len,
                                     struct rdi_verbs_mr **held, struct ibv_mr **mr) {
    rdi_verbs_mr_sweep(r);
    struct rdi_verbs_mr *e = take(r, (uintptr_t)ptr, len, true);
    if (e == NULL) {
        rondo_status s = make_device(r, ptr, len, &e);
        if (s != RONDO_OK) {
            return s;
        }
    }
    push(r, e);
    e->held++;
    *held = e;
    *mr = e->mr;
    return RONDO_OK;
}

void rdi_verbs_mr_put(struct rdi_verbs_rail *r, struct rdi_verbs_mr *held) {
    if (--held->held > 0) {
        return;
    }
    for (struct rdi_verbs_mr **at = &r->stale; *at != NULL; at = &(*at)->next) {
        if (*at == held) {
            *at = held->next;
            destroy(r, held);
            return;
        }
    }
}

static void drop(struct rdi_verbs_rail *r, struct rdi_verbs_mr **list) {
    while (*list != NULL) {
        struct rdi_verbs_mr *e = *list;
        *list = e->next;
        destroy(r, e);
    }
}

void rdi_verbs_mr_drop_all(struct rdi_verbs_rail *r) {
    drop(r, &r->mrs);
    drop(r, &r->stale);
    r->nmrs = 0;
}
