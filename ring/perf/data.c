// SPDX-License-Identifier: MIT
// Inputs whose result is exact in every type and in any order of operations, so that "#wrong" can count each
// element that differs in a single bit:
//
//   only moved                 any bits
//   integers, all but avg      any bits: sums and products wrap, which has no order
//   floats: sum                small integers; their sum over all ranks is still exact in the type
//           min, max           small integers
//           prod               one rank has a small factor, the others 1
//   avg                        multiples of the number of ranks, whose sum is exact; fp8, which has few of
//                              them: one rank has one, the others 0
//
// Values repeat after PERIOD elements. That makes checking as fast as memcmp(): what is right is computed for
// one period only. The period is a prime, so data that lands at a wrong place, a number of blocks, slots or
// pages off, does not look right.
#include "ring/fp8.h"
#include "ring/perf/perf.h"

#include <string.h>

#define PERIOD 16381
#define BLOCK 1024
#define HOLDER (-1) // bound of values of which only one rank has one

// Largest integer up to which every integer is exact in the type (and its sums do not wrap).
static int64_t exact_limit(rondo_type t) {
    switch (t) {
    case RONDO_F16:
        return 2048;
    case RONDO_BF16:
        return 256;
    case RONDO_I8:
        return 127;
    case RONDO_U8:
        return 255;
    case RONDO_F8E4M3:
        return 16;
    case RONDO_F8E5M2:
        return 8;
    default:
        return 1 << 20;
    }
}

static bool is_fp8(rondo_type t) { return t == RONDO_F8E4M3 || t == RONDO_F8E5M2; }

static bool is_float(rondo_type t) { return t <= RONDO_BF16 || is_fp8(t); }

// Whether n, and twice it, are exact in an fp8 type: their odd factor has to fit the mantissa.
static bool fits_fp8(rondo_type t, int64_t n) {
    if (!is_fp8(t) || n > 128) {
        return false;
    }
    while (n % 2 == 0) {
        n /= 2;
    }
    return n < exact_limit(t);
}

static bool is_unsigned(rondo_type t) { return t == RONDO_U8 || t == RONDO_U32 || t == RONDO_U64; }

// splitmix64's finaliser.
static uint64_t hash(uint64_t index, uint64_t salt) {
    uint64_t x = index * UINT64_C(0x9e3779b97f4a7c15) + salt;
    x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
    return x ^ x >> 31;
}

// Cuts 64 random bits down to a value of an integer type.
static uint64_t narrow(uint64_t x, rondo_type t) {
    switch (t) {
    case RONDO_I8:
        return (uint64_t)(int64_t)(int8_t)x;
    case RONDO_U8:
        return (uint8_t)x;
    case RONDO_I32:
        return (uint64_t)(int64_t)(int32_t)x;
    case RONDO_U32:
        return (uint32_t)x;
    default:
        return x;
    }
}

// A number in -bound .. bound, or 0 .. bound for an unsigned type.
static uint64_t small(uint64_t x, int64_t bound, rondo_type t) {
    uint64_t range = is_unsigned(t) ? (uint64_t)bound + 1 : 2 * (uint64_t)bound + 1;
    uint64_t v = ((x >> 32) * range) >> 32;
    return is_unsigned(t) ? v : v - (uint64_t)bound;
}

struct rule {
    const struct perf_values *v;
    uint64_t common, own; // salts: the same on all ranks, this rank's
    uint64_t rank, ranks, factor;
    int64_t bound;
};

static struct rule make_rule(const struct perf_values *v, int rank) {
    uint64_t common = hash(v->rep, UINT64_C(0x52f0c2b7a1d3e495));
    struct rule r = {.v = v,
                     .common = common,
                     .own = hash((uint64_t)rank, common),
                     .rank = (uint64_t)rank,
                     .ranks = (uint64_t)v->ranks,
                     .factor = 1};
    int64_t limit = exact_limit(v->type), n = v->ranks;
    if (v->op == RONDO_AVG && limit / n / n == 0 && fits_fp8(v->type, n)) {
        r.bound = HOLDER;
        r.factor = r.ranks;
    } else if (v->op == RONDO_AVG) {
        // Where not even n * n fits, all ranks have the same value, 0 at worst.
        r.bound = limit / n / n;
        r.factor = r.bound > 0 ? r.ranks : 1;
        r.own = r.bound > 0 ? r.own : common;
        r.bound = r.bound > 0 ? r.bound : limit / n;
    } else if (v->op == RONDO_SUM) {
        r.bound = limit / n > 0 ? limit / n : HOLDER;
    } else if (v->op == RONDO_PROD) {
        r.bound = HOLDER;
    } else {
        r.bound = limit;
    }
    r.bound = r.bound > 1000 ? 1000 : r.bound;
    return r;
}

static uint64_t value(const struct rule *r, uint64_t index) {
    const struct perf_values *v = r->v;
    if (v->op == PERF_NONE) {
        return hash(index, r->own);
    }
    if (!is_float(v->type) && v->op != RONDO_AVG) {
        // Products of odd numbers do not collapse to 0.
        return narrow(hash(index, r->own), v->type) | (v->op == RONDO_PROD);
    }
    if (r->bound == HOLDER) {
        uint64_t h = hash(index, r->common), neutral = v->op == RONDO_PROD;
        uint64_t held = v->op == RONDO_AVG ? (1 + (h >> 63)) * r->factor : 2 + (h >> 62);
        return (h & 0xffffffff) % r->ranks == r->rank ? held : neutral;
    }
    return small(hash(index, r->own), r->bound, v->type) * r->factor;
}

static void combine(uint64_t *a, const uint64_t *b, size_t n, int op, rondo_type t) {
    // Two's complement: unsigned sums and products are those of signed numbers too. Comparing needs the sign.
    uint64_t flip = t == RONDO_U64 ? UINT64_C(1) << 63 : 0;
    for (size_t i = 0; i < n; i++) {
        bool less = (int64_t)(b[i] ^ flip) < (int64_t)(a[i] ^ flip);
        switch (op) {
        case RONDO_PROD:
            a[i] *= b[i];
            break;
        case RONDO_MIN:
            a[i] = less ? b[i] : a[i];
            break;
        case RONDO_MAX:
            a[i] = less ? a[i] : b[i];
            break;
        default:
            a[i] += b[i];
        }
    }
}

#define STORE(ctype, expr)               \
    do {                                 \
        ctype *d = dst;                  \
        for (size_t i = 0; i < n; i++) { \
            d[i] = (ctype)(expr);        \
        }                                \
    } while (0)

static void store(void *dst, const uint64_t *v, size_t n, const struct perf_values *p) {
    size_t esize = rondo_type_size(p->type);
    if (p->op == PERF_NONE || !is_float(p->type)) {
        switch (esize) {
        case 1:
            STORE(uint8_t, v[i]);
            break;
        case 2:
            STORE(uint16_t, v[i]);
            break;
        case 4:
            STORE(uint32_t, v[i]);
            break;
        default:
            STORE(uint64_t, v[i]);
        }
        return;
    }
    switch (p->type) {
    case RONDO_F32:
        STORE(float, (int64_t)v[i]);
        break;
    case RONDO_F16:
        STORE(uint16_t, rdi_f32_to_f16((float)(int64_t)v[i]));
        break;
    case RONDO_BF16:
        STORE(uint16_t, rdi_f32_to_bf16((float)(int64_t)v[i]));
        break;
    case RONDO_F8E4M3:
        STORE(uint8_t, rdi_f32_to_f8e4m3((float)(int64_t)v[i]));
        break;
    case RONDO_F8E5M2:
        STORE(uint8_t, rdi_f32_to_f8e5m2((float)(int64_t)v[i]));
        break;
    default:
        STORE(double, (int64_t)v[i]);
    }
}

static void input(const struct perf_values *p, int rank, size_t first, size_t n, uint64_t *v) {
    struct rule rule = make_rule(p, rank);
    uint64_t at = first % PERIOD;
    for (size_t i = 0; i < n; i++) {
        v[i] = value(&rule, at);
        at = at + 1 == PERIOD ? 0 : at + 1;
    }
}

// Elements first … first + n - 1 of what a rank has, or of the reduction.
static void produce(const struct perf_values *p, int rank, size_t first, size_t n, char *dst) {
    uint64_t v[BLOCK], w[BLOCK];
    size_t esize = rondo_type_size(p->type);
    for (size_t at = 0; at < n; at += BLOCK) {
        size_t k = n - at < BLOCK ? n - at : BLOCK;
        input(p, rank == PERF_REDUCED ? 0 : rank, first + at, k, v);
        for (int r = 1; rank == PERF_REDUCED && r < p->ranks; r++) {
            input(p, r, first + at, k, w);
            combine(v, w, k, p->op, p->type);
        }
        for (size_t i = 0; rank == PERF_REDUCED && p->op == RONDO_AVG && i < k; i++) {
            v[i] = (uint64_t)((int64_t)v[i] / p->ranks);
        }
        store(dst + at * esize, v, k, p);
    }
}

struct period {
    _Alignas(16) char bytes[PERIOD * 8];
    size_t n; // elements
};

static void make_period(const struct perf_values *v, int rank, size_t first, size_t count,
                        struct period *p) {
    p->n = count < PERIOD ? count : PERIOD;
    produce(v, rank, first, p->n, p->bytes);
}

void perf_fill(const struct perf_values *v, int rank, size_t first, size_t count, void *dst) {
    struct period p;
    size_t esize = rondo_type_size(v->type);
    make_period(v, rank, first, count, &p);
    for (size_t at = 0; at < count; at += PERIOD) {
        size_t k = count - at < PERIOD ? count - at : PERIOD;
        memcpy((char *)dst + at * esize, p.bytes, k * esize);
    }
}

int64_t perf_check(const struct perf_values *v, int rank, size_t first, size_t count,
                   const void *got) {
    struct period p;
    size_t esize = rondo_type_size(v->type);
    int64_t wrong = 0;
    make_period(v, rank, first, count, &p);
    for (size_t at = 0; at < count; at += PERIOD) {
        size_t k = count - at < PERIOD ? count - at : PERIOD;
        const char *g = (const char *)got + at * esize;
        if (memcmp(g, p.bytes, k * esize) == 0) {
            continue;
        }
        for (size_t i = 0; i < k * esize; i += esize) {
            wrong += memcmp(g + i, p.bytes + i, esize) != 0;
        }
    }
    return wrong;
}
