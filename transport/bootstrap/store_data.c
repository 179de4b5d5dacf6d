// SPDX-License-Identifier: MIT
// The store server's table of keys; see the header.
#include "transport/bootstrap/store_data.h"

#include <sodium.h>
#include <stdlib.h>
#include <string.h>

#define BUCKETS_FIRST 256
// What an entry costs besides its key and value, in the account that the limit is held against.
#define ENTRY_COST (sizeof(struct rdi_entry) + 32)

struct rdi_value *rdi_value_new(size_t len) {
    struct rdi_value *v = malloc(sizeof *v + len);
    if (v != NULL) {
        v->refs = 1;
        v->len = len;
    }
    return v;
}

void rdi_value_unref(struct rdi_value *v) {
    if (v != NULL && --v->refs == 0) {
        // It may be the job's key.
        if (v->len <= 256) {
            sodium_memzero(v->bytes, v->len);
        }
        free(v);
    }
}

static uint64_t hash_key(const uint8_t *key, size_t n) {
    uint64_t h = 14695981039346656037u;
    for (size_t i = 0; i < n; i++) {
        h = (h ^ key[i]) * 1099511628211u;
    }
    return h;
}

bool rdi_data_init(struct rdi_data *d, size_t bytes_max) {
    *d = (struct rdi_data){.bucket_count = BUCKETS_FIRST, .bytes_max = bytes_max};
    d->buckets = calloc(BUCKETS_FIRST, sizeof d->buckets[0]);
    return d->buckets != NULL;
}

void rdi_data_free(struct rdi_data *d) {
    for (size_t i = 0; d->buckets != NULL && i < d->bucket_count; i++) {
        for (struct rdi_entry *e = d->buckets[i], *next; e != NULL; e = next) {
            next = e->next;
            rdi_value_unref(e->value);
            free(e);
        }
    }
    free(d->buckets);
    *d = (struct rdi_data){.buckets = NULL};
}

// Keeps chains short; without memory they get longer and nothing else happens.
static void grow(struct rdi_data *d) {
    size_t count = 2 * d->bucket_count;
    struct rdi_entry **buckets = calloc(count, sizeof buckets[0]);
    if (buckets == NULL) {
        return;
    }
    for (size_t i = 0; i < d->bucket_count; i++) {
        for (struct rdi_entry *e = d->buckets[i], *next; e != NULL; e = next) {
            next = e->next;
            e->next = buckets[e->hash % count];
            buckets[e->hash % count] = e;
        }
    }
    free(d->buckets);
    d->buckets = buckets;
    d->bucket_count = count;
}

struct rdi_entry *rdi_data_entry(struct rdi_data *d, const uint8_t *key, size_t key_len) {
    uint64_t hash = hash_key(key, key_len);
    for (struct rdi_entry *e = d->buckets[hash % d->bucket_count]; e != NULL; e = e->next) {
        if (e->hash == hash && e->key_len == key_len && memcmp(e->key, key, key_len) == 0) {
            return e;
        }
    }
    if (d->bytes_max - d->bytes < ENTRY_COST + key_len) {
        return NULL;
    }
    struct rdi_entry *e = malloc(sizeof *e + key_len);
    if (e == NULL) {
        return NULL;
    }
    if (d->entries >= d->bucket_count) {
        grow(d);
    }
    *e = (struct rdi_entry){.hash = hash, .key_len = key_len};
    e->waiters.next = e->waiters.previous = &e->waiters;
    memcpy(e->key, key, key_len);
    e->next = d->buckets[hash % d->bucket_count];
    d->buckets[hash % d->bucket_count] = e;
    d->entries++;
    d->bytes += ENTRY_COST + key_len;
    return e;
}

bool rdi_data_set(struct rdi_data *d, struct rdi_entry *e, struct rdi_value *v) {
    size_t old = e->value != NULL ? e->value->len : 0;
    if (v->len > old && v->len - old > d->bytes_max - d->bytes) {
        return false;
    }
    d->bytes = d->bytes - old + v->len;
    rdi_value_unref(e->value);
    e->value = v;
    return true;
}

void rdi_data_wait(struct rdi_entry *e, struct rdi_waiter *w) {
    w->next = &e->waiters;
    w->previous = e->waiters.previous;
    w->previous->next = w;
    e->waiters.previous = w;
}

void rdi_data_unwait(struct rdi_waiter *w) {
    if (w->next != NULL) {
        w->next->previous = w->previous;
        w->previous->next = w->next;
        w->next = w->previous = NULL;
    }
}
