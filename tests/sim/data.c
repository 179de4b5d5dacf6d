// SPDX-License-Identifier: MIT
// Inputs, and the results that they must have: whole numbers and small exact floats in native arithmetic, odd
// floats by the reference of the kernels' own test.
#include "tests/sim/sim_test.h"

#include "ring/half.h"
#include "tests/unit/reduce_reference.h"

#include <stdlib.h>

#define PATTERN 0xee

void buffer_bytes(const struct call *c, int n, size_t *send, size_t *recv) {
    size_t b = c->count * rondo_type_size(c->type), all = b * (size_t)n;
    *send = c->kind == RDI_REDUCE_SCATTER || c->kind == RDI_ALL_TO_ALL ? all : b;
    *recv = c->kind == RDI_ALL_GATHER || c->kind == RDI_ALL_TO_ALL ? all : b;
    *send = c->kind == RDI_RECV || c->kind == RDI_BARRIER ? 0 : *send;
    *recv = c->kind == RDI_SEND || c->kind == RDI_BARRIER ? 0 : *recv;
}

static void *allocate(size_t n) {
    void *p = malloc(n ? n : 1);
    if (!p) {
        give_up("out of memory for %zu bytes", n);
    }
    return p;
}

// ---- Inputs --------------------------------------------------------------------------------------

static uint64_t exact_value(const struct op *op, uint64_t random, int rank) {
    // Sums of up to 40 of these are whole numbers below 256, products powers of two within f16 (and 2^8). 8-bit
    // floats do not hold such sums: there at most 7 ranks have a 1.
    double v = (double)(random % 7) - 3;
    if (is_eight(op->call.type)) {
        v = rank < 7 ? (double)(random % 3) - 1 : 0;
    }
    if (op->call.op == RONDO_PROD) {
        v = (random & 1 ? -1.0 : 1.0) * (rank < 8 && random & 2 ? 2.0 : 1.0);
    }
    return encode(op->call.type, v == 0 ? 0.0 : v);
}

static uint64_t wild_value(const struct op *op, uint64_t random) {
    rondo_type type = op->call.type;
    if (!is_float(type) || random % 8 == 0) {
        return random >> 3;
    }
    const double v = ((double)(random >> 40) - 8388608.0) / 65536;
    return random % 8 == 1 ? encode(type, v * 1e30) : encode(type, v);
}

static void fill_input(struct scenario *sc, int index, int r, char *to, size_t bytes) {
    const struct op *op = &sc->ops[index];
    const size_t esize = rondo_type_size(op->call.type);
    const uint64_t origin = (uint64_t)(op->repeats >= 0 ? op->repeats : index);
    uint64_t state = sc->seed * 1000003 + origin * 1009 + (uint64_t)r;
    if (op->values == WILD && (!is_float(op->call.type) || (r & 1))) {
        for (size_t i = 0; i < bytes; i++) {
            to[i] = (char)(i % 8 ? state >> 8 * (i % 8) : next_random(&state));
        }
        return;
    }
    for (size_t i = 0; i < bytes / esize; i++) {
        const uint64_t x = next_random(&state);
        put(to, i, op->call.type, op->values == EXACT ? exact_value(op, x, r) : wild_value(op, x));
    }
}

// What a rank sends, as it was before the operation.
static const char *input_of(struct scenario *sc, int index, int r) {
    struct op *op = &sc->ops[index];
    if (!op->input[r]) {
        struct call buf;
        const struct call *c = call_of(op, r, &buf);
        size_t ns, nr;
        buffer_bytes(c, sc->groups[op->group].n, &ns, &nr);
        op->input[r] = allocate(ns);
        fill_input(sc, index, r, op->input[r], ns);
    }
    return op->input[r];
}

// ---- Expected results ----------------------------------------------------------------------------

// Small integers are promoted in arithmetic and cut back to their type: wrapping is meant.
#pragma GCC diagnostic ignored "-Wconversion"
#define FOLD(T, U)                                                                           \
    static void fold_##T(T *out, const void *const *src, int n, size_t count, rondo_op op) { \
        for (size_t i = 0; i < count; i++) {                                                 \
            T a = ((const T *)src[0])[i];                                                    \
            for (int r = 1; r < n; r++) {                                                    \
                T b = ((const T *)src[r])[i];                                                \
                a = op == RONDO_PROD  ? (T)((U)a * (U)b)                                     \
                    : op == RONDO_MIN ? (a < b ? a : b)                                      \
                    : op == RONDO_MAX ? (a > b ? a : b)                                      \
                                      : (T)((U)a + (U)b);                                    \
            }                                                                                \
            out[i] = op == RONDO_AVG && n > 1 ? (T)(a / (T)n) : a;                           \
        }                                                                                    \
    }
FOLD(int8_t, uint32_t)
FOLD(uint8_t, uint32_t)
FOLD(int32_t, uint32_t)
FOLD(uint32_t, uint32_t)
FOLD(int64_t, uint64_t)
FOLD(uint64_t, uint64_t)

static void fold_integers(void *out, const void *const *src, int n, size_t count, rondo_type t,
                          rondo_op op) {
    switch (t) {
    case RONDO_I8:
        fold_int8_t(out, src, n, count, op);
        break;
    case RONDO_U8:
        fold_uint8_t(out, src, n, count, op);
        break;
    case RONDO_I32:
        fold_int32_t(out, src, n, count, op);
        break;
    case RONDO_U32:
        fold_uint32_t(out, src, n, count, op);
        break;
    case RONDO_I64:
        fold_int64_t(out, src, n, count, op);
        break;
    default:
        fold_uint64_t(out, src, n, count, op);
        break;
    }
}

static uint64_t divided(rondo_type type, uint64_t bits, int n) {
    const double v = decode(type, bits);
    if (n == 1 || isnan(v)) {
        return n == 1 ? bits : nan_bits(type);
    }
    if (type == RONDO_F64) {
        volatile double q = v / n;
        return encode(type, q);
    }
    volatile float q = (float)v / (float)n;
    return encode(type, (double)q);
}

static void fold_floats(void *out, const void *const *src, int n, size_t count, rondo_type t,
                        rondo_op op) {
    for (size_t i = 0; i < count; i++) {
        // Rounded after every addition: that is order=strict; exact values do not mind.
        uint64_t bits = expected_fold(t, op, src, (unsigned)n, i, true);
        put(out, i, t, op == RONDO_AVG ? divided(t, bits, n) : bits);
    }
}

static void make_expected(struct scenario *sc, int index) {
    struct op *op = &sc->ops[index];
    const struct call *c = &op->call;
    int n = sc->groups[op->group].n;
    size_t ns, nr;
    buffer_bytes(c, n, &ns, &nr);
    if (c->kind == RDI_ALL_GATHER || c->kind == RDI_BROADCAST) {
        op->expect = allocate(nr);
        for (int r = 0; r < n && c->kind == RDI_ALL_GATHER; r++) {
            memcpy(op->expect + (size_t)r * ns, input_of(sc, index, r), ns);
        }
        if (c->kind == RDI_BROADCAST) {
            memcpy(op->expect, input_of(sc, index, c->root), nr);
        }
        return;
    }
    const void *src[MAX_RANKS];
    for (int r = 0; r < n; r++) {
        src[r] = input_of(sc, index, r);
    }
    op->expect = allocate(ns);
    size_t count = ns / rondo_type_size(c->type);
    (is_float(c->type) ? fold_floats : fold_integers)(op->expect, src, n, count, c->type, c->op);
}

// ---- A rank's buffers ----------------------------------------------------------------------------

void part_make(struct scenario *sc, int index, int r) {
    struct op *op = &sc->ops[index];
    struct part *p = &op->part[r];
    struct call buf;
    const struct call *c = call_of(op, r, &buf);
    size_t ns, nr, n = (size_t)sc->groups[op->group].n;
    buffer_bytes(c, (int)n, &ns, &nr);
    bool at_root = c->root == r,
         alias = op->in_place && c->kind != RDI_ALL_TO_ALL && c->kind != RDI_BARRIER;
    if (c->kind == RDI_BROADCAST && !at_root) {
        ns = 0;
    }
    if (c->kind == RDI_REDUCE && !at_root) {
        nr = 0;
        alias = false;
    }
    size_t whole = ns > nr ? ns : nr;
    p->bytes[0] = alias ? whole : ns;
    p->bytes[1] = alias ? 0 : nr;
    p->memory[0] = allocate(p->bytes[0]);
    p->memory[1] = alias ? NULL : allocate(p->bytes[1]);
    p->send = p->memory[0];
    p->recv = alias ? p->memory[0] : p->memory[1];
    if (alias && c->kind == RDI_REDUCE_SCATTER) {
        p->recv = p->send + (size_t)r * (ns / n);
    } else if (alias && c->kind == RDI_ALL_GATHER) {
        p->send = p->recv + (size_t)r * ns;
    }
    memset(p->memory[0], 0x55, p->bytes[0]);
    if (p->memory[1]) {
        memset(p->memory[1], 0x55, p->bytes[1]);
    }
    if (ns) {
        memcpy(p->send, input_of(sc, index, r), ns);
    }
    if (c->kind == RDI_REDUCE && !at_root) {
        p->recv = NULL;
    }
}

static void compare(struct scenario *sc, int index, int r, const char *what, const char *got,
                    const char *want, size_t bytes) {
    size_t at = 0;
    if (memcmp(got, want, bytes) == 0) {
        return;
    }
    while (got[at] == want[at]) {
        at++;
    }
    const struct op *op = &sc->ops[index];
    const size_t i = at / rondo_type_size(op->call.type);
    char text[256];
    call_print(&op->call, text, sizeof text);
    give_up("op %d, %s, rank %d of communicator %d: %s is wrong at element %zu of %zu: %#llx "
            "instead of %#llx",
            index, text, r, op->group, what, i, bytes / rondo_type_size(op->call.type),
            (unsigned long long)get(got, i, op->call.type),
            (unsigned long long)get(want, i, op->call.type));
}

static void check_agreed(struct scenario *sc, int index, int r, size_t nr) {
    struct op *op = &sc->ops[index];
    const struct part *p = &op->part[r];
    struct op *owner = op->repeats >= 0 ? &sc->ops[op->repeats] : op;
    bool alone = op->call.kind == RDI_REDUCE_SCATTER;
    size_t at = alone ? (size_t)r * nr : 0,
           bytes = alone ? nr * (size_t)sc->groups[op->group].n : nr;
    if (!owner->agreed) {
        owner->agreed = allocate(bytes + MAX_RANKS);
        memset(owner->agreed + bytes, 0, MAX_RANKS);
    }
    char *have = owner->agreed + bytes + (alone ? r : 0);
    if (*have) {
        compare(sc, index, r, "the result (which others, or an earlier run, have too)", p->recv,
                owner->agreed + at, nr);
    } else {
        memcpy(owner->agreed + at, p->recv, nr);
        *have = 1;
    }
}

static void check_result(struct scenario *sc, int index, int r) {
    struct op *op = &sc->ops[index];
    const struct part *p = &op->part[r];
    struct call buf;
    const struct call *c = call_of(op, r, &buf);
    int n = sc->groups[op->group].n;
    size_t ns, nr;
    buffer_bytes(c, n, &ns, &nr);
    if (!(op->in_place && p->memory[1] == NULL) && p->bytes[0]) {
        compare(sc, index, r, "the send buffer after the operation", p->send,
                input_of(sc, index, r), p->bytes[0]);
    }
    if (c->kind == RDI_RECV) {
        compare(sc, index, r, "the result", p->recv, input_of(sc, index, op->from), nr);
        return;
    }
    if (c->kind == RDI_ALL_TO_ALL) {
        for (int s = 0; s < n; s++) {
            size_t b = nr / (size_t)n;
            compare(sc, index, r, "a block", p->recv + (size_t)s * b,
                    input_of(sc, index, s) + (size_t)r * b, b);
        }
        return;
    }
    if (nr == 0 || p->recv == NULL) {
        return;
    }
    if (op->values == AGREE && n > 1) {
        check_agreed(sc, index, r, nr);
        return;
    }
    if (!op->expect) {
        make_expected(sc, index);
    }
    compare(sc, index, r, "the result", p->recv,
            op->expect + (c->kind == RDI_REDUCE_SCATTER ? (size_t)r * nr : 0), nr);
}

void part_check(struct scenario *sc, int index, int r) {
    struct op *op = &sc->ops[index];
    struct part *p = &op->part[r];
    if (p->status == RONDO_OK && r != op->deviant) {
        check_result(sc, index, r);
    }
    // The request is complete: nothing may touch the buffers any more.
    memset(p->memory[0], PATTERN, p->bytes[0]);
    if (p->memory[1]) {
        memset(p->memory[1], PATTERN, p->bytes[1]);
    }
}

void part_check_untouched(struct scenario *sc, int index, int r) {
    const struct part *p = &sc->ops[index].part[r];
    for (int k = 0; k < 2; k++) {
        for (size_t i = 0; p->memory[k] && i < p->bytes[k]; i++) {
            if ((unsigned char)p->memory[k][i] != PATTERN) {
                give_up("op %d, rank %d: byte %zu of a buffer was written after the request was "
                        "complete",
                        index, r, i);
            }
        }
    }
}
