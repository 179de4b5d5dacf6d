// SPDX-License-Identifier: MIT
// The operation whose result is checked: fresh inputs, outputs full of garbage, and guard bytes behind both.
// What must not change (the send buffer, a receive buffer that is not used) counts as well.
#include "ring/perf/perf.h"

#include <string.h>

#define GARBAGE 0xa5

static int64_t check_garbage(const char *at, size_t bytes, int byte) {
    // Comparing memory with itself, one byte on, is as fast as memcmp().
    if (bytes == 0 || ((unsigned char)at[0] == byte && memcmp(at, at + 1, bytes - 1) == 0)) {
        return 0;
    }
    int64_t wrong = 0;
    for (size_t i = 0; i < bytes; i++) {
        wrong += (unsigned char)at[i] != byte;
    }
    return wrong;
}

// Blocks of all ranks one after the other: block p is `count` elements from `first` of rank p's input.
static int64_t check_blocks(const struct perf_values *v, size_t first, size_t count,
                            const char *got) {
    int64_t wrong = 0;
    for (int p = 0; p < v->ranks; p++) {
        wrong += perf_check(v, p, first, count, got + (size_t)p * count * rondo_type_size(v->type));
    }
    return wrong;
}

static int64_t check_result(const struct perf_run *r, const struct perf_row *row, bool in_place,
                            const struct perf_values *v, const struct perf_buffers *b) {
    const struct perf_coll *c = r->coll;
    size_t count = row->count, mine = (size_t)r->rank * count;
    if (c->reduces && c->rooted && r->rank != row->root) {
        // Nothing for us: our input, or the garbage, is still there.
        return in_place ? perf_check(v, r->rank, 0, count, b->recv)
                        : check_garbage(b->recv, b->recv_bytes, GARBAGE);
    }
    if (c->reduces) {
        return perf_check(v, PERF_REDUCED, c->send_all ? mine : 0, count, b->recv);
    }
    if (c->recv_all) {
        return check_blocks(v, c->send_all ? mine : 0, count, b->recv);
    }
    int from = c->rooted ? row->root : (r->rank + r->ranks - 1) % r->ranks;
    return perf_check(v, from, 0, count, b->recv);
}

rondo_status perf_verify(struct perf_run *r, const struct perf_row *row, bool in_place,
                         int64_t *wrong) {
    struct perf_buffers b = perf_place(r, row, in_place);
    size_t esize = rondo_type_size(row->type);
    struct perf_values v = {.type = row->type, .op = row->op, .ranks = r->ranks, .rep = ++r->rep};
    char *behind = (in_place ? r->recv + row->bytes : b.recv + b.recv_bytes);
    char *behind_send = in_place ? NULL : b.send + b.send_bytes;

    memset(r->recv, GARBAGE, (in_place ? row->bytes : b.recv_bytes) + PERF_GUARD);
    if (behind_send != NULL) {
        memset(behind_send, GARBAGE, PERF_GUARD);
    }
    perf_fill(&v, r->rank, 0, b.send_bytes / esize, b.send);

    rondo_status s = perf_call(r, row, &b);
    if (s != RONDO_OK) {
        return s;
    }
    if (r->options->corrupt == r->rank && !r->corrupted && b.recv_bytes > 0) {
        b.recv[b.recv_bytes / 2] ^= 1;
        r->corrupted = true;
    }
    int64_t n = check_result(r, row, in_place, &v, &b) + check_garbage(behind, PERF_GUARD, GARBAGE);
    if (behind_send != NULL) {
        n += check_garbage(behind_send, PERF_GUARD, GARBAGE);
        n += perf_check(&v, r->rank, 0, b.send_bytes / esize, b.send);
    }
    *wrong = n;
    return RONDO_OK;
}
