// SPDX-License-Identifier: MIT
// Counted intervals in one sorted array. `reach`, the largest end so far, tells a search that walks back
// through overlapping entries when to stop.
#include "transport/regcache.h"

#include <stdlib.h>
#include <string.h>

// Index of the first entry that is not before (start, bytes).
static size_t lower_bound(const struct rdi_intervals *t, uintptr_t start, size_t bytes) {
    size_t low = 0, high = t->n;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        const struct rdi_interval *e = &t->at[middle];
        if (e->start < start || (e->start == start && e->bytes < bytes)) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

static void renew_reach(struct rdi_intervals *t, size_t from) {
    uintptr_t reach = from > 0 ? t->at[from - 1].reach : 0;
    for (size_t i = from; i < t->n; i++) {
        uintptr_t end = t->at[i].start + t->at[i].bytes;
        reach = end > reach ? end : reach;
        t->at[i].reach = reach;
    }
}

struct rdi_interval *rdi_intervals_add(struct rdi_intervals *t, uintptr_t start, size_t bytes) {
    struct rdi_interval *e = rdi_intervals_exact(t, start, bytes);
    if (e != NULL) {
        e->count++;
        return e;
    }
    if (t->n == t->cap) {
        size_t cap = t->cap == 0 ? 16 : 2 * t->cap;
        struct rdi_interval *grown = realloc(t->at, cap * sizeof *grown);
        if (grown == NULL) {
            return NULL;
        }
        t->at = grown;
        t->cap = cap;
    }
    size_t i = lower_bound(t, start, bytes);
    memmove(&t->at[i + 1], &t->at[i], (t->n - i) * sizeof t->at[0]);
    t->at[i] = (struct rdi_interval){.start = start, .bytes = bytes, .count = 1, .fd = -1};
    t->n++;
    renew_reach(t, i);
    return &t->at[i];
}

void rdi_intervals_drop(struct rdi_intervals *t, struct rdi_interval *e) {
    if (--e->count > 0) {
        return;
    }
    size_t i = (size_t)(e - t->at);
    memmove(&t->at[i], &t->at[i + 1], (t->n - i - 1) * sizeof t->at[0]);
    t->n--;
    renew_reach(t, i);
}

struct rdi_interval *rdi_intervals_exact(struct rdi_intervals *t, uintptr_t start, size_t bytes) {
    size_t i = lower_bound(t, start, bytes);
    bool found = i < t->n && t->at[i].start == start && t->at[i].bytes == bytes;
    return found ? &t->at[i] : NULL;
}

struct rdi_interval *rdi_intervals_starting(struct rdi_intervals *t, uintptr_t start) {
    size_t i = lower_bound(t, start, 0);
    return i < t->n && t->at[i].start == start ? &t->at[i] : NULL;
}

struct rdi_interval *rdi_intervals_around(struct rdi_intervals *t, uintptr_t start, size_t bytes) {
    uintptr_t end;
    if (__builtin_add_overflow(start, bytes, &end)) {
        return NULL;
    }
    for (size_t i = lower_bound(t, start, SIZE_MAX); i > 0 && t->at[i - 1].reach >= end; i--) {
        struct rdi_interval *e = &t->at[i - 1];
        if (e->start + e->bytes >= end) {
            return e;
        }
    }
    return NULL;
}

bool rdi_intervals_touch(const struct rdi_intervals *t, uintptr_t start, size_t bytes) {
    uintptr_t end;
    if (bytes == 0 || __builtin_add_overflow(start, bytes, &end)) {
        return false;
    }
    size_t i = lower_bound(t, end, 0); // all before it start before the interval's end
    return i > 0 && t->at[i - 1].reach > start;
}

void rdi_intervals_free(struct rdi_intervals *t) {
    free(t->at);
    *t = (struct rdi_intervals){0};
}
