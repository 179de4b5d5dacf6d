// SPDX-License-Identifier: MIT
// The keys and values of the store server: a hash table, values that several replies share, and who
// waits for which key. Used by the server's one thread.
#ifndef RDI_BOOTSTRAP_STORE_DATA_H
#define RDI_BOOTSTRAP_STORE_DATA_H

#include "transport/internal.h"

// Bytes that do not change any more. A reply that is being sent keeps its value also when the key
// has got another one meanwhile.
struct rdi_value {
    size_t refs, len;
    uint8_t bytes[];
};
struct rdi_value *rdi_value_new(size_t len); // one reference; NULL: no memory
void rdi_value_unref(struct rdi_value *v);   // NULL is allowed

// One who waits, linked into the key's entry; part of a connection.
struct rdi_waiter {
    struct rdi_waiter *next, *previous; // NULL when it waits for nothing
};

struct rdi_entry {
    struct rdi_entry *next;
    struct rdi_value *value;   // NULL: not set yet, but somebody waits
    struct rdi_waiter waiters; // head of a ring
    uint64_t hash;
    size_t key_len;
    uint8_t key[];
};

struct rdi_data {
    struct rdi_entry **buckets;
    size_t bucket_count, entries, bytes, bytes_max;
};

bool rdi_data_init(struct rdi_data *d, size_t bytes_max);
void rdi_data_free(struct rdi_data *d); // nobody waits any more

// The key's entry, made if it is not there; NULL: no memory, or the store's limit.
struct rdi_entry *rdi_data_entry(struct rdi_data *d, const uint8_t *key, size_t key_len);
// Gives the entry another value; takes over the reference. False (and the reference is the caller's
// still): over the limit.
bool rdi_data_set(struct rdi_data *d, struct rdi_entry *e, struct rdi_value *v);

void rdi_data_wait(struct rdi_entry *e, struct rdi_waiter *w);
void rdi_data_unwait(struct rdi_waiter *w); // one that waits for nothing is allowed

#endif
