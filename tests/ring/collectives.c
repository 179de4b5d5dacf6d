// SPDX-License-Identifier: MIT
// Every collective, type and op against closed-form results: collectives RANKS OPTIONS
//
// Values are small integers (and for PROD powers of two) whose result is exact in every type and in any order
// of additions, so each element is compared for equality.
#include "ring_test.h"

#include <math.h>
#include <stdint.h>

#define GUARD 64

// Sanitizers make every copy an order of magnitude slower: the same paths, smaller and fewer.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#else
#define SANITIZED 0
#endif

// ---- Values --------------------------------------------------------------------------------------

static float half_to_float(uint16_t h) {
    int e = h >> 10 & 31, m = h & 1023;
    float v = e ? ldexpf((float)(m + 1024), e - 25) : ldexpf((float)m, -24);
    return h & 0x8000 ? -v : v;
}

static uint16_t float_to_half(float f) {
    // Exact small values only.
    if (f == 0.0f) {
        return 0;
    }
    int e;
    float m = frexpf(fabsf(f), &e);
    return (uint16_t)((f < 0) << 15 | (e + 14) << 10 | ((int)(m * 2048.0f) - 1024));
}

// 8-bit floats of `bits` bits of mantissa, an exponent of this bias. Finite ones only.
static double eight_to_double(uint8_t b, int bits, int bias) {
    int e = (b & 127) >> bits, m = b & ((1 << bits) - 1);
    double v = e ? ldexp(m + (1 << bits), e - bias - bits) : ldexp(m, 1 - bias - bits);
    return b & 128 ? -v : v;
}

static uint8_t double_to_eight(double v, int bits, int bias) {
    // Exact values only.
    for (unsigned b = 0; b < 256; b++) {
        if (eight_to_double((uint8_t)b, bits, bias) == v) {
            return (uint8_t)b;
        }
    }
    fprintf(stderr, "%g is no 8-bit float\n", v);
    exit(1);
}

static double get(const void *p, size_t i, rondo_type t) {
    switch (t) {
    case RONDO_F32:
        return ((const float *)p)[i];
    case RONDO_F64:
        return ((const double *)p)[i];
    case RONDO_F16:
        return half_to_float(((const uint16_t *)p)[i]);
    case RONDO_BF16: {
        uint32_t bits = (uint32_t)((const uint16_t *)p)[i] << 16;
        float f;
        memcpy(&f, &bits, 4);
        return f;
    }
    case RONDO_I8:
        return ((const int8_t *)p)[i];
    case RONDO_U8:
        return ((const uint8_t *)p)[i];
    case RONDO_I32:
        return ((const int32_t *)p)[i];
    case RONDO_U32:
        return ((const uint32_t *)p)[i];
    case RONDO_I64:
        return (double)((const int64_t *)p)[i];
    case RONDO_F8E4M3:
        return eight_to_double(((const uint8_t *)p)[i], 3, 7);
    case RONDO_F8E5M2:
        return eight_to_double(((const uint8_t *)p)[i], 2, 15);
    default:
        return (double)((const uint64_t *)p)[i];
    }
}

static void set(void *p, size_t i, rondo_type t, double v) {
    switch (t) {
    case RONDO_F32:
        ((float *)p)[i] = (float)v;
        break;
    case RONDO_F64:
        ((double *)p)[i] = v;
        break;
    case RONDO_F16:
        ((uint16_t *)p)[i] = float_to_half((float)v);
        break;
    case RONDO_BF16: {
        float f = (float)v;
        uint32_t bits;
        memcpy(&bits, &f, 4);
        ((uint16_t *)p)[i] = (uint16_t)(bits >> 16);
        break;
    }
    case RONDO_I8:
        ((int8_t *)p)[i] = (int8_t)v;
        break;
    case RONDO_U8:
        ((uint8_t *)p)[i] = (uint8_t)v;
        break;
    case RONDO_I32:
        ((int32_t *)p)[i] = (int32_t)v;
        break;
    case RONDO_U32:
        ((uint32_t *)p)[i] = (uint32_t)v;
        break;
    case RONDO_I64:
        ((int64_t *)p)[i] = (int64_t)v;
        break;
    case RONDO_F8E4M3:
        ((uint8_t *)p)[i] = double_to_eight(v, 3, 7);
        break;
    case RONDO_F8E5M2:
        ((uint8_t *)p)[i] = double_to_eight(v, 2, 15);
        break;
    default:
        ((uint64_t *)p)[i] = (uint64_t)v;
        break;
    }
}

// Element i of rank r's input. AVG's inputs are multiples of n, so that the mean is exact.
// 8-bit floats hold no large sums: there one rank has a number, the others 0.
static double input(int r, size_t i, rondo_op op, int n, rondo_type t) {
    int eight = t == RONDO_F8E4M3 || t == RONDO_F8E5M2;
    unsigned k = (unsigned)((i * 7 + (size_t)r * 3) % 5);
    if (op == RONDO_PROD) {
        return i % (size_t)n == (size_t)r ? 2.0 : 1.0;
    }
    if (eight && (op == RONDO_SUM || op == RONDO_AVG) && i % (size_t)n != (size_t)r) {
        return 0;
    }
    return op == RONDO_AVG ? (double)(k % 2) * n : (double)k;
}

static double expected(size_t i, rondo_op op, int n, rondo_type t) {
    double v = input(0, i, op, n, t);
    for (int r = 1; r < n; r++) {
        double x = input(r, i, op, n, t);
        v = op == RONDO_PROD  ? v * x
            : op == RONDO_MIN ? fmin(v, x)
            : op == RONDO_MAX ? fmax(v, x)
                              : v + x;
    }
    return op == RONDO_AVG ? v / n : v;
}

// ---- Buffers with a guard behind them ------------------------------------------------------------

struct buf {
    char *p;
    size_t bytes;
};

static struct buf new_buf(size_t bytes) {
    struct buf b = {malloc(bytes + GUARD), bytes};
    memset(b.p, 0xA5, bytes + GUARD);
    return b;
}

static int guard_ok(const struct buf *b) {
    for (size_t i = 0; i < GUARD; i++) {
        if ((unsigned char)b->p[b->bytes + i] != 0xA5) {
            fprintf(stderr, "byte %zu behind a buffer of %zu was written\n", i, b->bytes);
            return 0;
        }
    }
    return 1;
}

static void fill(struct buf *b, size_t at, size_t count, int rank, size_t first, rondo_type t,
                 rondo_op op, int n) {
    for (size_t i = 0; i < count; i++) {
        set(b->p, at + i, t, input(rank, first + i, op, n, t));
    }
}

static int same(const struct buf *b, size_t at, size_t i, double want, rondo_type t,
                const char *what) {
    double got = get(b->p, at, t);
    if (got != want) {
        fprintf(stderr, "%s of %s: element %zu is %g, not %g\n", what, rondo_type_name(t), i, got,
                want);
        return 0;
    }
    return 1;
}

// ---- One check per collective --------------------------------------------------------------------

static int all_reduce(rondo_comm *c, size_t count, rondo_type t, rondo_op op, int in_place) {
    int n = rondo_comm_size(c), me = rondo_comm_rank(c);
    size_t es = rondo_type_size(t);
    struct buf s = new_buf(count * es), r = new_buf(count * es);
    fill(&s, 0, count, me, 0, t, op, n);
    struct buf *out = in_place ? &s : &r;
    OK(rondo_all_reduce(s.p, out->p, count, t, op, c));
    for (size_t i = 0; i < count; i++) {
        CHECK(same(out, i, i, expected(i, op, n, t), t, "all_reduce"));
        CHECK(in_place || get(s.p, i, t) == input(me, i, op, n, t));
    }
    CHECK(guard_ok(&s) && guard_ok(&r));
    free(s.p);
    free(r.p);
    return 0;
}

static int reduce_scatter(rondo_comm *c, size_t count, rondo_type t, rondo_op op, int in_place) {
    int n = rondo_comm_size(c), me = rondo_comm_rank(c);
    size_t es = rondo_type_size(t), mine = (size_t)me * count;
    struct buf s = new_buf(count * es * (size_t)n), r = new_buf(count * es);
    fill(&s, 0, count * (size_t)n, me, 0, t, op, n);
    OK(rondo_reduce_scatter(s.p, in_place ? s.p + mine * es : r.p, count, t, op, c));
    for (size_t i = 0; i < count; i++) {
        CHECK(same(in_place ? &s : &r, in_place ? mine + i : i, i, expected(mine + i, op, n, t), t,
                   "reduce_scatter"));
    }
    CHECK(guard_ok(&s) && guard_ok(&r));
    free(s.p);
    free(r.p);
    return 0;
}

static int all_gather(rondo_comm *c, size_t count, rondo_type t, int in_place) {
    int n = rondo_comm_size(c), me = rondo_comm_rank(c);
    size_t es = rondo_type_size(t);
    struct buf s = new_buf(count * es), r = new_buf(count * es * (size_t)n);
    fill(&s, 0, count, me, 0, t, RONDO_SUM, n);
    fill(&r, (size_t)me * count, in_place ? count : 0, me, 0, t, RONDO_SUM, n);
    OK(rondo_all_gather(in_place ? r.p + (size_t)me * count * es : s.p, r.p, count, t, c));
    for (int p = 0; p < n; p++) {
        for (size_t i = 0; i < count; i++) {
            CHECK(
                same(&r, (size_t)p * count + i, i, input(p, i, RONDO_SUM, n, t), t, "all_gather"));
        }
    }
    CHECK(guard_ok(&s) && guard_ok(&r));
    free(s.p);
    free(r.p);
    return 0;
}

static int broadcast(rondo_comm *c, size_t count, rondo_type t, int root, int in_place) {
    int n = rondo_comm_size(c), me = rondo_comm_rank(c);
    size_t es = rondo_type_size(t);
    struct buf s = new_buf(count * es), r = new_buf(count * es);
    fill(&s, 0, count, me, 0, t, RONDO_SUM, n);
    struct buf *out = in_place ? &s : &r;
    OK(rondo_broadcast(me == root || in_place ? s.p : NULL, out->p, count, t, root, c));
    for (size_t i = 0; i < count; i++) {
        CHECK(same(out, i, i, input(root, i, RONDO_SUM, n, t), t, "broadcast"));
    }
    CHECK(guard_ok(&s) && guard_ok(&r));
    free(s.p);
    free(r.p);
    return 0;
}

static int reduce(rondo_comm *c, size_t count, rondo_type t, rondo_op op, int root, int in_place) {
    int n = rondo_comm_size(c), me = rondo_comm_rank(c);
    size_t es = rondo_type_size(t);
    struct buf s = new_buf(count * es), r = new_buf(count * es);
    fill(&s, 0, count, me, 0, t, op, n);
    struct buf *out = in_place ? &s : &r;
    OK(rondo_reduce(s.p, me == root ? out->p : NULL, count, t, op, root, c));
    for (size_t i = 0; i < count && me == root; i++) {
        CHECK(same(out, i, i, expected(i, op, n, t), t, "reduce"));
    }
    for (size_t i = 0; i < count && me != root; i++) {
        CHECK(get(s.p, i, t) == input(me, i, op, n, t));
    }
    CHECK(guard_ok(&s) && guard_ok(&r));
    free(s.p);
    free(r.p);
    return 0;
}

static int all_to_all(rondo_comm *c, size_t count, rondo_type t) {
    int n = rondo_comm_size(c), me = rondo_comm_rank(c);
    size_t es = rondo_type_size(t);
    struct buf s = new_buf(count * es * (size_t)n), r = new_buf(count * es * (size_t)n);
    for (int p = 0; p < n; p++) {
        fill(&s, (size_t)p * count, count, me, (size_t)p, t, RONDO_SUM, n);
    }
    OK(rondo_all_to_all(s.p, r.p, count, t, c));
    for (int p = 0; p < n; p++) {
        for (size_t i = 0; i < count; i++) {
            CHECK(same(&r, (size_t)p * count + i, i, input(p, (size_t)me + i, RONDO_SUM, n, t), t,
                       "all_to_all"));
        }
    }
    CHECK(guard_ok(&s) && guard_ok(&r));
    free(s.p);
    free(r.p);
    return 0;
}

// Around the ring and back, both directions at once.
static int send_recv(rondo_comm *c, size_t count, rondo_type t) {
    int n = rondo_comm_size(c), me = rondo_comm_rank(c), right = (me + 1) % n,
        left = (me + n - 1) % n;
    if (n == 1) {
        return 0;
    }
    size_t es = rondo_type_size(t);
    struct buf s = new_buf(count * es), a = new_buf(count * es), b = new_buf(count * es);
    fill(&s, 0, count, me, 0, t, RONDO_SUM, n);
    rondo_request *q[4];
    OK(rondo_recv_start(a.p, count, t, left, c, &q[0]));
    OK(rondo_send_start(s.p, count, t, right, c, &q[1]));
    OK(rondo_send_start(s.p, count, t, left, c, &q[2]));
    OK(rondo_recv_start(b.p, count, t, right, c, &q[3]));
    OK(rondo_wait_all(q, 4));
    for (size_t i = 0; i < count; i++) {
        CHECK(same(&a, i, i, input(left, i, RONDO_SUM, n, t), t, "recv from the left"));
        CHECK(same(&b, i, i, input(right, i, RONDO_SUM, n, t), t, "recv from the right"));
    }
    CHECK(guard_ok(&a) && guard_ok(&b));
    free(s.p);
    free(a.p);
    free(b.p);
    return 0;
}

static int one_size(rondo_comm *c, size_t count, rondo_type t, rondo_op op) {
    int n = rondo_comm_size(c), rc = 0;
    for (int in_place = 0; in_place < 2; in_place++) {
        rc |= all_reduce(c, count, t, op, in_place);
        rc |= reduce_scatter(c, count, t, op, in_place);
        rc |= reduce(c, count, t, op, (int)count % n, in_place);
        if (op == RONDO_SUM) {
            rc |= all_gather(c, count, t, in_place);
            rc |= broadcast(c, count, t, (int)(count + 1) % n, in_place);
        }
    }
    if (op == RONDO_SUM) {
        rc |= all_to_all(c, count, t) | send_recv(c, count, t);
        OK(rondo_barrier(c));
    }
    return rc;
}

static int body(rondo_comm *c, void *arg) {
    (void)arg;
    // Around the limits of the algorithms: empty, one, fewer than ranks, not divisible, small and large.
    static const size_t sizes[] = {0, 1, 2, 3, 7, 64, 1000, 8191, 50021, 700001};
    for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++) {
        for (int t = 0; t < RONDO_TYPE_COUNT; t++) {
            for (int op = 0; op < RONDO_OP_COUNT; op++) {
                if (SANITIZED && sizes[k] > 64 && (t + (int)k) % 3 != op % 3) {
                    continue;
                }
                if (SANITIZED && sizes[k] > 100000) {
                    continue;
                }
                // Large ones only for some types: every path is taken, the time stays short.
                if (sizes[k] > 8191 && !(t == (int)k % 4 + 0 || t == RONDO_I32) &&
                    op != (int)k % 5) {
                    continue;
                }
                if (sizes[k] > 100000 && t != RONDO_F32 && t != RONDO_I8) {
                    continue;
                }
                CHECK(one_size(c, sizes[k], (rondo_type)t, (rondo_op)op) == 0);
            }
        }
    }
    return 0;
}

int main(int argc, char **argv) {
    if (argc != 3) {
        fprintf(stderr, "usage: collectives RANKS OPTIONS\n");
        return 2;
    }
    return rt_run(atoi(argv[1]), argv[2], body, NULL);
}
