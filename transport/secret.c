// SPDX-License-Identifier: MIT
// Memory for keys: left out of core dumps, kept out of swap where the limit on locked memory allows, wiped when it
// is given back. Pages of it are kept for the next key; a process rarely has more than one.
//
// Without a lock, so that a child of fork() can use it whatever the parent's other threads did at that moment: a
// block belongs to whoever takes its count from 0 to 1.
#include "transport/internal.h"

#include <errno.h>
#include <sodium.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define BLOCKS ((size_t)32)
#define WIPING UINT32_MAX

struct page {
    struct page *next;
    uint8_t *blocks;
    _Atomic uint32_t refs[BLOCKS];
};

static struct page *_Atomic pages;

static uint8_t *take_block(struct page *p) {
    for (size_t i = 0; i < BLOCKS; i++) {
        uint32_t none = 0;
        if (atomic_compare_exchange_strong(&p->refs[i], &none, 1)) {
            return p->blocks + i * RDI_SECRET_BYTES;
        }
    }
    return NULL;
}

static struct page *new_page(void) {
    struct page *p = calloc(1, sizeof *p);
    void *map = mmap(NULL, BLOCKS * RDI_SECRET_BYTES, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == NULL || map == MAP_FAILED) {
        if (map != MAP_FAILED) {
            munmap(map, BLOCKS * RDI_SECRET_BYTES);
        }
        free(p);
        return NULL;
    }
    // Neither can be had everywhere; the key serves all the same.
    (void)madvise(map, BLOCKS * RDI_SECRET_BYTES, MADV_DONTDUMP);
    (void)mlock(map, BLOCKS * RDI_SECRET_BYTES);
    p->blocks = map;
    return p;
}

void *rdi_secret_new(void) {
    for (struct page *p = atomic_load(&pages); p != NULL; p = p->next) {
        uint8_t *block = take_block(p);
        if (block != NULL) {
            return block;
        }
    }
    struct page *p = new_page();
    if (p == NULL) {
        rdi_fail_errno(RONDO_ERR_NOMEM, errno, "no memory for a key");
        return NULL;
    }
    uint8_t *block = take_block(p);
    p->next = atomic_load(&pages);
    while (!atomic_compare_exchange_weak(&pages, &p->next, p)) {}
    return block;
}

// The count of a block; NULL for memory that is not from here.
static _Atomic uint32_t *refs_of(const void *secret) {
    for (struct page *p = atomic_load(&pages); p != NULL; p = p->next) {
        uintptr_t from = (uintptr_t)p->blocks, at = (uintptr_t)secret;
        if (at >= from && at < from + BLOCKS * RDI_SECRET_BYTES) {
            return &p->refs[(at - from) / RDI_SECRET_BYTES];
        }
    }
    return NULL;
}

void rdi_secret_share(const void *secret) {
    _Atomic uint32_t *refs = refs_of(secret);
    if (refs != NULL) {
        atomic_fetch_add(refs, 1);
    }
}

void rdi_secret_free(const void *secret) {
    _Atomic uint32_t *refs = refs_of(secret);
    if (refs == NULL) {
        return;
    }
    uint32_t n = atomic_load(refs);
    while (!atomic_compare_exchange_weak(refs, &n, n == 1 ? WIPING : n - 1)) {}
    if (n == 1) {
        // It was ours to write to before it was given away.
        sodium_memzero((void *)(uintptr_t)secret, RDI_SECRET_BYTES);
        atomic_store(refs, 0);
    }
}

// ---- The job's key -------------------------------------------------------------------------------

rondo_status rdi_job_key(struct rdi_job *job, const uint8_t key[RDI_KEY_BYTES]) {
    uint8_t *own = rdi_secret_new();
    if (own == NULL) {
        return RONDO_ERR_NOMEM;
    }
    memcpy(own, key, RDI_KEY_BYTES);
    rdi_secret_free(job->key);
    job->key = own;
    return RONDO_OK;
}

void rdi_job_copy(struct rdi_job *to, const struct rdi_job *from) {
    rdi_secret_share(from->key);
    *to = *from;
}

void rdi_job_clear(struct rdi_job *job) {
    rdi_secret_free(job->key);
    job->key = NULL;
    job->auth = false;
}
