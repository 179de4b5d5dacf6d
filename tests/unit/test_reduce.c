// SPDX-License-Identifier: MIT
// The reduce kernels, each instruction set that this processor has, against a slow reference. Every comparison
// is of bits, so all instruction sets are also equal to each other.
#include <math.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "ring/half.h"
#include "ring/reduce.h"
#include "tests/unit/reduce_reference.h"

static const char *const isas[] = {"c", "avx2", "avx512", "neon"};
enum { ISA_COUNT = sizeof isas / sizeof isas[0] };

static const char *const type_names[RONDO_TYPE_COUNT] = {
    "f32", "f64", "f16", "bf16", "i8", "u8", "i32", "u32", "i64", "u64", "f8e4m3", "f8e5m2"};

// ---- Arrays --------------------------------------------------------------------------------------

// Memory whose end is the end of what may be touched: reading or writing one byte too far is a fault.
struct fence {
    unsigned char *base;
    size_t size;
};

static void fence_open(struct fence *f, size_t size) {
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    f->size = (size + page - 1) / page * page;
    f->base =
        mmap(NULL, f->size + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_ptr_not_equal(f->base, MAP_FAILED);
    assert_int_equal(mprotect(f->base + f->size, page, PROT_NONE), 0);
}

static void fence_close(struct fence *f) {
    munmap(f->base, f->size + (size_t)sysconf(_SC_PAGESIZE));
}

// The last `bytes` bytes, `slack` bytes before the end.
static unsigned char *fence_last(const struct fence *f, size_t bytes, size_t slack) {
    return f->base + f->size - slack - bytes;
}

// Awkward values of a type: zeros, ones, limits, denormals, infinities, NaNs of all kinds.
static size_t specials(rondo_type type, uint64_t out[64]) {
    size_t n = 0;
    if (!is_float(type)) {
        const uint64_t ones = wrap(type, -1), half = ones >> 1;
        const uint64_t list[] = {0,        1,        2,        3,       5,        half,
                                 half + 1, half + 2, half - 1, ones,    ones - 1, ones / 3,
                                 ones / 5, 100,      127,      ones - 6};
        memcpy(out, list, sizeof list);
        return sizeof list / sizeof list[0];
    }
    const uint64_t inf = inf_bits(type), hidden = UINT64_C(1) << (shapes[type].precision - 1);
    const uint64_t one = inf / 2 / hidden * hidden;
    const uint64_t list[] = {0,
                             1,
                             2,
                             3,
                             hidden - 1,
                             hidden,
                             hidden + 1,
                             one,
                             one + 1,
                             one - 1,
                             one / 2,
                             one + hidden,
                             inf - 1,
                             inf - 2,
                             inf,
                             inf + 1,
                             nan_bits(type),
                             nan_bits(type) + 5,
                             inf + hidden - 1,
                             one + 3 * hidden + 1};
    for (size_t i = 0; i < sizeof list / sizeof list[0]; i++) {
        out[n++] = list[i];
        out[n++] = list[i] | sign_bit(type);
    }
    return n;
}

// Random bits of all kinds; every other value of a floating type near 1, so that sums round, and one of
// eight special.
static void fill(void *p, size_t count, rondo_type type, uint64_t seed) {
    uint64_t special[64];
    const size_t n = specials(type, special);
    for (size_t i = 0; i < count; i++) {
        const uint64_t r = next_random(&seed);
        uint64_t bits = r;
        if (r >> 61 == 0) {
            bits = special[(r >> 8) % n];
        } else if (is_float(type) && r >> 63) {
            bits = encode(type, ldexp((double)(r & 0xffffff), -(int)(r >> 24 & 31)) *
                                    (r >> 30 & 1 ? 1 : -1));
        }
        put(p, i, type, bits);
    }
}

static void check(const void *got, const void *want, size_t count, rondo_type type,
                  const char *what, unsigned number) {
    if (memcmp(got, want, count * rdi_type_size(type)) == 0) {
        return;
    }
    for (size_t i = 0; i < count; i++) {
        if (get(got, i, type) != get(want, i, type)) {
            fail_msg("%s: %s %s %u, element %zu of %zu: %#llx, expected %#llx", rdi_reduce_isa(),
                     type_names[type], what, number, i, count,
                     (unsigned long long)get(got, i, type), (unsigned long long)get(want, i, type));
        }
    }
}

typedef void typed_test(rondo_type type);

// Runs `test` for every type under every instruction set that there is.
static void everywhere(typed_test *test) {
    for (int k = 0; k < ISA_COUNT; k++) {
        if (rdi_reduce_select(isas[k])) {
            for (int type = 0; type < RONDO_TYPE_COUNT; type++) {
                test((rondo_type)type);
            }
        }
    }
    assert_true(rdi_reduce_select(NULL));
}

// ---- Tests ---------------------------------------------------------------------------------------

static void test_type_size(void **state) {
    (void)state;
    static const size_t sizes[RONDO_TYPE_COUNT] = {4, 8, 2, 2, 1, 1, 4, 4, 8, 8, 1, 1};
    for (int t = 0; t < RONDO_TYPE_COUNT; t++) {
        assert_int_equal(rdi_type_size((rondo_type)t), sizes[t]);
    }
    assert_int_equal(rdi_type_size(RONDO_TYPE_COUNT), 0);
    assert_int_equal(rdi_type_size((rondo_type)-1), 0);
}

static void test_select(void **state) {
    (void)state;
    const char *best = rdi_reduce_isa();
    unsigned usable = 0;
    for (int k = 0; k < ISA_COUNT; k++) {
        if (rdi_reduce_select(isas[k])) {
            print_message("here: %s\n", isas[k]);
            assert_string_equal(rdi_reduce_isa(), isas[k]);
            usable++;
        }
    }
    assert_true(usable >= 1);
    assert_true(rdi_reduce_select("c"));
    assert_false(rdi_reduce_select("mmx"));
    assert_string_equal(rdi_reduce_isa(), "c");
    assert_true(rdi_reduce_select(NULL));
    assert_string_equal(rdi_reduce_isa(), best);
#if defined(__aarch64__)
    assert_string_equal(best, "neon");
#elif defined(__x86_64__)
    assert_string_equal(best, rdi_reduce_select("avx512") ? "avx512"
                              : rdi_reduce_select("avx2") ? "avx2"
                                                          : "c");
    assert_true(rdi_reduce_select(NULL));
#endif
}

enum { MAX_COUNT = 4099 };

static const size_t counts[] = {0,  1,  2,  3,  5,  7,  8,   9,   15,   16,   17,       31,
                                32, 33, 47, 63, 64, 65, 127, 129, 1000, 1027, MAX_COUNT};
enum { COUNT_COUNT = sizeof counts / sizeof counts[0] };

// Every count at the very end of memory, aligned and not, dst apart and equal to each source.
static void reduce2_type(rondo_type type) {
    const size_t size = rdi_type_size(type);
    unsigned char *a = malloc(MAX_COUNT * 8), *b = malloc(MAX_COUNT * 8),
                  *want = malloc(MAX_COUNT * 8);
    struct fence fa, fb, fd;
    fence_open(&fa, MAX_COUNT * 8 + 64);
    fence_open(&fb, MAX_COUNT * 8 + 64);
    fence_open(&fd, MAX_COUNT * 8 + 64);
    fill(a, MAX_COUNT, type, 1);
    fill(b, MAX_COUNT, type, 2);
    for (int op = 0; op < RONDO_OP_COUNT; op++) {
        for (size_t i = 0; i < MAX_COUNT; i++) {
            put(want, i, type, expected(type, (rondo_op)op, get(a, i, type), get(b, i, type)));
        }
        for (unsigned k = 0; k < COUNT_COUNT * 6; k++) {
            const size_t bytes = counts[k / 6] * size, slack = k % 2 ? 1 + k % 5 : 0;
            unsigned char *pa = memcpy(fence_last(&fa, bytes, slack), a, bytes);
            unsigned char *pb = memcpy(fence_last(&fb, bytes, 0), b, bytes);
            unsigned char *const dsts[] = {fence_last(&fd, bytes, slack), pa, pb};
            unsigned char *d = dsts[k % 3];
            memset(d - 64, 0xa5, 64);
            rdi_reduce2(d, pa, pb, counts[k / 6], type, (rondo_op)op);
            check(d, want, counts[k / 6], type, "op", (unsigned)op);
            for (int g = 1; g <= 64; g++) {
                assert_int_equal(d[-g], 0xa5);
            }
        }
    }
    fence_close(&fa);
    fence_close(&fb);
    fence_close(&fd);
    free(a);
    free(b);
    free(want);
}

static void test_reduce2(void **state) {
    (void)state;
    everywhere(reduce2_type);
}

// Each awkward value with each other one, both ways round.
static void specials_type(rondo_type type) {
    uint64_t s[64];
    const size_t n = specials(type, s);
    unsigned char a[4096 * 8], b[4096 * 8], want[4096 * 8], got[4096 * 8];
    for (size_t i = 0; i < n * n; i++) {
        put(a, i, type, s[i / n]);
        put(b, i, type, s[i % n]);
    }
    for (int op = 0; op < RONDO_OP_COUNT; op++) {
        for (size_t i = 0; i < n * n; i++) {
            put(want, i, type, expected(type, (rondo_op)op, s[i / n], s[i % n]));
        }
        rdi_reduce2(got, a, b, n * n, type, (rondo_op)op);
        check(got, want, n * n, type, "special, op", (unsigned)op);
        rdi_reduce2(got, b, a, n * n, type, (rondo_op)op);
        check(got, want, n * n, type, "special swapped, op", (unsigned)op);
    }
}

static void test_specials(void **state) {
    (void)state;
    everywhere(specials_type);
}

// Every pair of 8-bit floats: one operation in double, which is exact for sums and products of them, rounded
// once; then every one divided by every small divisor.
static void eights_type(rondo_type type) {
    unsigned char a[65536], b[65536], got[65536], want[65536];
    if (!is_eight(type)) {
        return;
    }
    for (size_t i = 0; i < 65536; i++) {
        a[i] = (unsigned char)(i >> 8);
        b[i] = (unsigned char)i;
    }
    for (int op = 0; op < RONDO_OP_COUNT; op++) {
        for (size_t i = 0; i < 65536; i++) {
            const double x = decode(type, a[i]), y = decode(type, b[i]);
            want[i] = op == RONDO_MIN || op == RONDO_MAX
                          ? (unsigned char)expected(type, (rondo_op)op, a[i], b[i])
                          : (unsigned char)encode(type, op == RONDO_PROD ? x * y : x + y);
        }
        rdi_reduce2(got, a, b, 65536, type, (rondo_op)op);
        check(got, want, 65536, type, "every pair, op", (unsigned)op);
    }
    for (unsigned n = 2; n < 256; n++) {
        for (size_t i = 0; i < 256; i++) {
            const float q = (float)decode(type, i) / (float)n;
            want[i] = (unsigned char)encode(type, q);
            got[i] = (unsigned char)i;
        }
        rdi_divide(got, 256, type, n);
        check(got, want, 256, type, "every one, divided by", n);
    }
}

static void test_eights(void **state) {
    (void)state;
    everywhere(eights_type);
}

enum { FOLD_COUNT = 4097 }; // of 1-byte elements, more than a block; wider types need fewer

struct folding {
    rondo_type type;
    rondo_op op;
    unsigned nsrc;
    bool strict;
    size_t count;
    unsigned char *data; // nsrc sources, count elements each
    const void *src[RDI_REDUCE_MAX_SOURCES];
    unsigned char *want;
};

static void fold_once(const struct folding *f) {
    const size_t size = rdi_type_size(f->type), bytes = f->count * size;
    const size_t lengths[] = {0, 1, f->count / 2 - 3, f->count};
    unsigned char *d = malloc(bytes + 1);
    for (size_t l = 0; l < 4; l++) {
        memset(d, 0x5a, bytes + 1);
        rdi_reduce_n(d, f->src, f->nsrc, lengths[l], f->type, f->op, f->strict);
        check(d, f->want, lengths[l], f->type, f->strict ? "strict, sources" : "sources", f->nsrc);
        assert_int_equal(d[lengths[l] * size], 0x5a);
    }
    // dst is one of the sources: the first, the last and one between.
    for (unsigned k = 0; k<f->nsrc; k += f->nsrc> 2 ? (f->nsrc - 1) / 2 : 1) {
        unsigned char *in_place = f->data + k * bytes;
        memcpy(d, in_place, bytes);
        rdi_reduce_n(in_place, f->src, f->nsrc, f->count, f->type, f->op, f->strict);
        check(in_place, f->want, f->count, f->type, "in place at source", k);
        memcpy(in_place, d, bytes);
    }
    free(d);
}

static void test_reduce_n(void **state) {
    (void)state;
    static const unsigned nsrcs[] = {1, 2, 3, 4, 5, 8, RDI_REDUCE_MAX_SOURCES};
    struct folding f = {.data = malloc(8 * FOLD_COUNT * 2), .want = malloc(FOLD_COUNT * 2)};
    for (unsigned v = 0; v < RONDO_TYPE_COUNT * RONDO_OP_COUNT * 2 * 7; v++) {
        f.nsrc = nsrcs[v % 7];
        f.strict = v / 7 % 2;
        f.op = (rondo_op)(v / 14 % RONDO_OP_COUNT);
        f.type = (rondo_type)(v / 14 / RONDO_OP_COUNT);
        const size_t size = rdi_type_size(f.type);
        f.count = f.nsrc > 8 ? 67 : (size == 1 ? 1u : 2u) * FOLD_COUNT / size;
        for (unsigned k = 0; k < f.nsrc; k++) {
            fill(f.data + k * f.count * size, f.count, f.type, 100 + k);
            f.src[k] = f.data + k * f.count * size;
        }
        for (size_t i = 0; i < f.count; i++) {
            put(f.want, i, f.type, expected_fold(f.type, f.op, f.src, f.nsrc, i, f.strict));
        }
        for (int k = 0; k < ISA_COUNT; k++) {
            if (rdi_reduce_select(isas[k])) {
                fold_once(&f);
            }
        }
    }
    assert_true(rdi_reduce_select(NULL));
    free(f.data);
    free(f.want);
}

// 2048 + 1 + 1: f16 has no 2049, so rounding at each step stays at 2048, rounding at the end gives 2050. So
// for 16 + 1 + 1 in f8e4m3.
static void test_two_roundings(void **state) {
    (void)state;
    const uint8_t sixteen = 0x58, unit = 0x38;
    const void *const eights[] = {&sixteen, &unit, &unit};
    const uint16_t big = 0x6800, one = 0x3c00;
    const void *const src[] = {&big, &one, &one};
    for (int k = 0; k < ISA_COUNT; k++) {
        if (rdi_reduce_select(isas[k])) {
            uint16_t r = 0;
            rdi_reduce_n(&r, src, 3, 1, RONDO_F16, RONDO_SUM, true);
            assert_int_equal(r, 0x6800);
            rdi_reduce_n(&r, src, 3, 1, RONDO_F16, RONDO_SUM, false);
            assert_int_equal(r, 0x6801);
            uint8_t e = 0;
            rdi_reduce_n(&e, eights, 3, 1, RONDO_F8E4M3, RONDO_SUM, true);
            assert_int_equal(e, 0x58);
            rdi_reduce_n(&e, eights, 3, 1, RONDO_F8E4M3, RONDO_SUM, false);
            assert_int_equal(e, 0x59);
        }
    }
    assert_true(rdi_reduce_select(NULL));
}

static void to2_type(rondo_type type) {
    const size_t size = rdi_type_size(type);
    unsigned char *a = malloc(MAX_COUNT * 8), *b = malloc(MAX_COUNT * 8),
                  *want = malloc(MAX_COUNT * 8);
    unsigned char *pa = malloc(MAX_COUNT * 8), *pb = malloc(MAX_COUNT * 8),
                  *d1 = malloc(MAX_COUNT * 8);
    unsigned char *d2 = malloc(MAX_COUNT * 8 + 1);
    fill(a, MAX_COUNT, type, 3);
    fill(b, MAX_COUNT, type, 4);
    for (unsigned k = 0; k < COUNT_COUNT * 3; k++) {
        const size_t count = counts[k / 3];
        const rondo_op op = (rondo_op)(k % RONDO_OP_COUNT);
        memcpy(pa, a, MAX_COUNT * size);
        memcpy(pb, b, MAX_COUNT * size);
        memset(d2, 0x5a, MAX_COUNT * 8 + 1);
        rdi_reduce2(want, a, b, count, type, op);
        unsigned char *const firsts[] = {d1, pa, pb};
        rdi_reduce2_to2(firsts[k % 3], d2, pa, pb, count, type, op);
        check(firsts[k % 3], want, count, type, "first of two, op", op);
        check(d2, want, count, type, "second of two, op", op);
        assert_int_equal(d2[count * size], 0x5a);
    }
    unsigned char *const all[] = {a, b, want, pa, pb, d1, d2};
    for (int i = 0; i < 7; i++) {
        free(all[i]);
    }
}

static void test_to2(void **state) {
    (void)state;
    everywhere(to2_type);
}

static uint64_t expected_quotient(rondo_type type, uint64_t bits, uint64_t n) {
    if (n <= 1) {
        return bits;
    }
    if (!is_float(type)) {
        return wrap(type, integer(type, bits) / (__int128)n);
    }
    const double v = decode(type, bits);
    if (type == RONDO_F64) {
        volatile double q = v / (double)n;
        return encode(type, q);
    }
    volatile float f = (float)v, divisor = (float)n;
    volatile float q = f / divisor;
    return encode(type, q);
}

static void divide_type(rondo_type type) {
    static const uint64_t ns[] = {0,
                                  1,
                                  2,
                                  3,
                                  5,
                                  7,
                                  64,
                                  127,
                                  128,
                                  255,
                                  256,
                                  1000,
                                  129,
                                  300,
                                  4097,
                                  0x7fffffff,
                                  0x80000000,
                                  0x80000001,
                                  UINT64_C(1) << 40,
                                  UINT64_C(1) << 63,
                                  UINT64_MAX};
    unsigned char *in = malloc(1027 * 8), *x = malloc(1027 * 8), *want = malloc(1027 * 8);
    for (unsigned k = 0; k < 3 * sizeof ns / sizeof ns[0]; k++) {
        const uint64_t n = ns[k / 3];
        const size_t count = k % 3 == 0 ? 1027 : k % 3 == 1 ? 3 : 0;
        fill(in, 1027, type, 5 + k);
        memcpy(x, in, 1027 * 8);
        memcpy(want, in, 1027 * 8);
        for (size_t i = 0; i < count; i++) {
            put(want, i, type, expected_quotient(type, get(in, i, type), n));
        }
        rdi_divide(x, count, type, n);
        check(x, want, 1027, type, "divided, case", k);
    }
    free(in);
    free(x);
    free(want);
}

static void test_divide(void **state) {
    (void)state;
    everywhere(divide_type);
}

// Every i8, u8 and a sweep of larger integers by every divisor up to 300: no quotient is off by one.
static void test_divide_integers(void **state) {
    (void)state;
    static const rondo_type types[] = {RONDO_I8, RONDO_U8, RONDO_I32, RONDO_U32};
    for (int k = 0; k < ISA_COUNT * 4; k++) {
        const rondo_type type = types[k % 4];
        if (!rdi_reduce_select(isas[k / 4])) {
            continue;
        }
        for (uint64_t n = 2; n <= 300; n++) {
            unsigned char in[256 * 4], x[256 * 4];
            for (size_t i = 0; i < 256; i++) {
                // Multiples of n and their neighbours, over the whole range of the type.
                const uint64_t multiple = (uint64_t)i * (UINT32_MAX / n / 256) * n + i % 3 - 1;
                put(in, i, type, rdi_type_size(type) == 1 ? i : multiple);
            }
            memcpy(x, in, sizeof x);
            rdi_divide(x, 256, type, n);
            for (size_t i = 0; i < 256; i++) {
                assert_int_equal(get(x, i, type), expected_quotient(type, get(in, i, type), n));
            }
        }
    }
    assert_true(rdi_reduce_select(NULL));
}

static void scale_type(rondo_type type) {
    // The last one: every bit of its payload set.
    const double scales[] = {1,
                             0.5,
                             1.0 / 3,
                             0.25,
                             -1e-3,
                             65504,
                             0,
                             1e300,
                             INFINITY,
                             -NAN,
                             (double)rdi_f32_from_bits(0x7fffffff)};
    unsigned char *in = malloc(1027 * 8), *d = malloc(1027 * 8), *want = malloc(1027 * 8);
    fill(in, 1027, type, 6);
    for (unsigned k = 0; k < 2 * sizeof scales / sizeof scales[0]; k++) {
        const double scale = scales[k / 2];
        unsigned char *dst = k % 2 ? memcpy(d, in, 1027 * 8) : d;
        memcpy(want, in, 1027 * 8);
        for (size_t i = 0; is_float(type) && i < 1027; i++) {
            const double v = decode(type, get(in, i, type));
            put(want, i, type, encode(type, arithmetic(type, RONDO_PROD, v, scale)));
        }
        memset(d, 0x5a, k % 2 ? 0 : 1027 * 8);
        assert_int_equal(rdi_scale_copy(dst, k % 2 ? d : in, 1027, type, scale), is_float(type));
        if (is_float(type)) {
            check(d, want, 1027, type, "scaled, case", k);
        } else {
            assert_int_equal(d[0], k % 2 ? in[0] : 0x5a);
        }
    }
    free(in);
    free(d);
    free(want);
}

static void test_scale(void **state) {
    (void)state;
    everywhere(scale_type);
}

static void *sum_often(void *arg) {
    float a[100], d[100];
    for (int i = 0; i < 100; i++) {
        a[i] = (float)i;
    }
    for (int round = 0; round < 200; round++) {
        rdi_reduce2(d, a, a, 100, RONDO_F32, RONDO_SUM);
        for (int i = 0; i < 100; i++) {
            if (d[i] != (float)(2 * i)) {
                return arg;
            }
        }
    }
    return NULL;
}

// The choice may be made and changed while others reduce.
static void test_threads(void **state) {
    (void)state;
    pthread_t threads[3];
    for (int i = 0; i < 3; i++) {
        assert_int_equal(pthread_create(&threads[i], NULL, sum_often, threads), 0);
    }
    for (int i = 0; i < 200; i++) {
        (void)rdi_reduce_select(isas[i % ISA_COUNT]);
    }
    assert_true(rdi_reduce_select(NULL));
    for (int i = 0; i < 3; i++) {
        void *bad;
        assert_int_equal(pthread_join(threads[i], &bad), 0);
        assert_null(bad);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_type_size),     cmocka_unit_test(test_select),
        cmocka_unit_test(test_reduce2),       cmocka_unit_test(test_specials),
        cmocka_unit_test(test_eights),        cmocka_unit_test(test_reduce_n),
        cmocka_unit_test(test_two_roundings), cmocka_unit_test(test_to2),
        cmocka_unit_test(test_divide),        cmocka_unit_test(test_divide_integers),
        cmocka_unit_test(test_scale),         cmocka_unit_test(test_threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
