// SPDX-License-Identifier: MIT
// The bodies of the device's kernels on the host, bit for bit against the host's own kernels: every type and op, with
// one operand and with two, to one place and to two, divided and not, aligned and not, by one thread and by many.
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <unistd.h>

#include <cmocka.h>

#include "transport/cuda/cuda.h"

#include "tests/unit/gpu_pieces.h"

static void rdi_pause(uint32_t *ns) { usleep(*ns / 1000 + 1); }

enum { MOST = 1200, ROOM = MOST * 8 + 64, GUARD = 32 };

static const char *type_text(rondo_type type) { return rondo_type_name(type); }

// ---- One step ------------------------------------------------------------------------------------

enum operands { BOTH, IN_ONLY, LOCAL_ONLY, OPERANDS };
enum targets { DST, OUT, DST_AND_OUT, DST_IS_LOCAL, DST_IS_IN, TARGETS };

struct trial {
    rondo_type type;
    rondo_op op;
    enum operands operands;
    enum targets targets;
    size_t count;
    uint32_t divisor, threads;
    unsigned offset[4]; // bytes by which in, local, dst and out are off 16
};

static unsigned char *buffers[4], *sources[2], *want;

static unsigned char *place(const struct trial *t, int which) {
    return buffers[which] + GUARD + t->offset[which];
}

static bool guarded(const struct trial *t, int which, size_t bytes) {
    const unsigned char *p = place(t, which);
    for (int i = 1; i <= 16; i++) {
        if (p[-i] != 0xa5 || p[bytes + (size_t)i - 1] != 0xa5) {
            return false;
        }
    }
    return true;
}

static void must_be(const struct trial *t, const char *what, const unsigned char *got,
                    const unsigned char *expect) {
    for (size_t i = 0; i < t->count; i++) {
        if (get(got, i, t->type) != get(expect, i, t->type)) {
            fail_msg("%s %s, operands %d, targets %d, divisor %u, %u threads, offsets %u %u %u %u: "
                     "%s: element "
                     "%zu of %zu is %#llx, expected %#llx",
                     type_text(t->type), rondo_op_name(t->op), t->operands, t->targets, t->divisor,
                     t->threads, t->offset[0], t->offset[1], t->offset[2], t->offset[3], what, i,
                     t->count, (unsigned long long)get(got, i, t->type),
                     (unsigned long long)get(expect, i, t->type));
        }
    }
}

static void try_step(const struct trial *t) {
    const size_t bytes = t->count * rdi_type_size(t->type);
    for (int k = 0; k < 4; k++) {
        memset(buffers[k], 0xa5, bytes + 3 * GUARD);
    }
    unsigned char *in = memcpy(place(t, 0), sources[0], bytes);
    unsigned char *local = memcpy(place(t, 1), sources[1], bytes);
    const bool has_in = t->operands != LOCAL_ONLY, has_local = t->operands != IN_ONLY;
    unsigned char *dst = t->targets == OUT            ? NULL
                         : t->targets == DST_IS_LOCAL ? local
                         : t->targets == DST_IS_IN    ? in
                                                      : place(t, 2);
    unsigned char *out = t->targets == OUT || t->targets == DST_AND_OUT ? place(t, 3) : NULL;
    const struct rdi_gpu_step s = {
        .in = has_in ? address_of(in) : 0,
        .local = has_local ? address_of(local) : 0,
        .dst = dst ? address_of(dst) : 0,
        .out = out ? address_of(out) : 0,
        .bytes = bytes,
        .flags = t->divisor ? RDI_STEP_DIVIDE : 0,
        .ranks = t->divisor,
    };
    expected_step(want, has_in ? sources[0] : NULL, has_local ? sources[1] : NULL, t->count,
                  t->type, t->op, t->divisor);
    run_step(t->type, t->op, s, t->threads);
    for (int k = 0; k < 4; k++) {
        assert_true(guarded(t, k, bytes));
    }
    if (dst) {
        must_be(t, "dst", dst, want);
    }
    if (out) {
        must_be(t, "out", out, want);
    }
    if (dst != in) {
        must_be(t, "in afterwards", in, sources[0]);
    }
    if (dst != local) {
        must_be(t, "local afterwards", local, sources[1]);
    }
}

static const size_t counts[] = {0, 1, 2, 3, 5, 8, 15, 16, 17, 31, 64, 65, 255, 1000, 1199};
enum { COUNTS = sizeof counts / sizeof counts[0] };

static void for_kernels(void (*f)(rondo_type type, rondo_op op)) {
    for (int v = 0; v < RONDO_TYPE_COUNT * (RONDO_MAX + 1); v++) {
        f((rondo_type)(v % RONDO_TYPE_COUNT), (rondo_op)(v / RONDO_TYPE_COUNT));
    }
}

// Aligned: all addresses, all but one, none; by elements and by bytes.
static void steps_of(rondo_type type, rondo_op op) {
    static const uint32_t divisors[] = {0, 1, 2, 3, 8, 255, 4097, 0x80000001};
    static const uint32_t threads[] = {1, 2, 7, 64};
    const unsigned size = (unsigned)rdi_type_size(type);
    const unsigned offsets[][4] = {{0, 0, 0, 0},
                                   {0, 0, 0, 0},
                                   {size % 16, 0, 0, 0},
                                   {0, 8, 0, 8},
                                   {0, 0, size, 4},
                                   {2, 2, 2, 2},
                                   {size, 3 * size % 16, size, 5 * size % 16},
                                   {1, 3, 5, 15}};
    fill_bits(sources[0], MOST, type, 11 + (uint64_t)op);
    fill_bits(sources[1], MOST, type, 23 + (uint64_t)type);
    unsigned n = 0;
    for (unsigned v = 0; v < OPERANDS * TARGETS * 8; v++) {
        for (unsigned c = 0; c < COUNTS; c++, n++) {
            struct trial t = {.type = type,
                              .op = op,
                              .operands = (enum operands)(v % OPERANDS),
                              .targets = (enum targets)(v / OPERANDS % TARGETS),
                              .count = counts[c],
                              .divisor = divisors[(n * 7 + n / 8) % 8],
                              .threads = threads[n % 4]};
            memcpy(t.offset, offsets[v / (OPERANDS * TARGETS)], sizeof t.offset);
            if ((t.targets == DST_IS_LOCAL && t.operands == IN_ONLY) ||
                (t.targets == DST_IS_IN && t.operands == LOCAL_ONLY)) {
                continue;
            }
            try_step(&t);
        }
    }
}

static void test_steps(void **state) {
    (void)state;
    for_kernels(steps_of);
}

// A copy keeps every bit, of NaNs too, whatever the type.
static void test_copy(void **state) {
    (void)state;
    for (int type = 0; type < RONDO_TYPE_COUNT; type++) {
        struct trial t = {.type = (rondo_type)type,
                          .operands = LOCAL_ONLY,
                          .targets = DST_AND_OUT,
                          .count = 64,
                          .divisor = 1,
                          .threads = 3};
        memset(sources[1], 0xff, ROOM);
        try_step(&t);
    }
}

static void test_nothing_to_do(void **state) {
    (void)state;
    const struct rdi_gpu_step nowhere = {.in = address_of(sources[0]), .bytes = 64};
    const struct rdi_gpu_step nothing = {.dst = address_of(buffers[0]), .bytes = 64};
    memset(buffers[0], 0xa5, 64);
    run_step(RONDO_F32, RONDO_SUM, nowhere, 2);
    run_step(RONDO_F32, RONDO_SUM, nothing, 2);
    assert_int_equal(buffers[0][0], 0xa5);
}

// ---- All pairs -----------------------------------------------------------------------------------

static void pairs_of(rondo_type type, rondo_op op) {
    static _Alignas(16) unsigned char a[65536], b[65536], got[65536], expect[65536];
    if (rdi_type_size(type) != 1) {
        return;
    }
    for (size_t i = 0; i < 65536; i++) {
        a[i] = (unsigned char)(i >> 8);
        b[i] = (unsigned char)i;
    }
    struct rdi_gpu_step s = {
        .in = address_of(a), .local = address_of(b), .dst = address_of(got), .bytes = 65536};
    run_step(type, op, s, 5);
    rdi_reduce2(expect, a, b, 65536, type, op);
    assert_memory_equal(got, expect, 65536);
    s.in = 0;
    s.flags = RDI_STEP_DIVIDE;
    s.bytes = 256;
    for (s.ranks = 2; s.ranks < 300 && op == RONDO_SUM; s.ranks++) {
        run_step(type, op, s, 1);
        memcpy(expect, b, 256);
        rdi_divide(expect, 256, type, s.ranks);
        assert_memory_equal(got, expect, 256);
    }
}

static void test_all_pairs(void **state) {
    (void)state;
    for_kernels(pairs_of);
}

// ---- What devices do otherwise -------------------------------------------------------------------

static uint64_t once(rondo_type type, rondo_op op, double x, double y) {
    return encode(type, op == RONDO_PROD ? x * y : x + y);
}

// Devices add and multiply 8-bit floats in f16, and round that: every pair.
static void test_eights_in_f16(void **state) {
    (void)state;
    for (rondo_type type = RONDO_F8E4M3; type <= RONDO_F8E5M2; type++) {
        for (unsigned v = 0; v < 2 * 65536; v++) {
            const rondo_op op = v >> 16 ? RONDO_PROD : RONDO_SUM;
            const double x = decode(type, v >> 8 & 0xff), y = decode(type, v & 0xff);
            const double half = decode(RONDO_F16, once(RONDO_F16, op, x, y));
            assert_int_equal(encode(type, half), expected(type, op, v >> 8 & 0xff, v & 0xff));
        }
    }
}

// They round sums and products of f16 and bf16 once; the host rounds to f32 before. Each of 65536 values with some
// others: of the same size, where sums round, and any.
static void test_halves_round_once(void **state) {
    (void)state;
    uint64_t seed = 5;
    for (rondo_type type = RONDO_F16; type <= RONDO_BF16; type++) {
        for (unsigned a = 0; a < 65536; a++) {
            for (int k = 0; k < 12; k++) {
                const uint64_t r = next_random(&seed);
                const uint64_t b = k % 3 ? r & 0xffff : (a + (r & 0x1fff) - 0x1000) & 0xffff;
                const rondo_op op = r >> 63 ? RONDO_PROD : RONDO_SUM;
                assert_int_equal(once(type, op, decode(type, a), decode(type, b)),
                                 expected(type, op, a, b));
            }
        }
    }
}

// The fix of NaNs in all lanes at once: every lane by itself.
static void test_quiet_lanes(void **state) {
    (void)state;
    for (uint32_t h = 0; h < 65536; h++) {
        const uint32_t f16 = (h & 0x7fff) > 0x7c00 ? 0x7e00 : h;
        const uint32_t bf16 = (h & 0x7fff) > 0x7f80 ? 0x7fc0 : h;
        assert_int_equal(rdi_quiet_halves(h | 0xffff0000u, 0x7c00, 0x7e00), f16 | 0x7e000000u);
        assert_int_equal(rdi_quiet_halves(h << 16 | 0x3c00, 0x7f80, 0x7fc0), bf16 << 16 | 0x3c00);
    }
    for (uint32_t b = 0; b < 256; b++) {
        const uint32_t e4m3 = (b & 0x7f) > 0x7e ? 0x7f : b, e5m2 = (b & 0x7f) > 0x7c ? 0x7f : b;
        assert_int_equal(rdi_quiet_eights(b << 8 | 0xff0100feu, 0x7e), e4m3 << 8 | 0x7f0100feu);
        assert_int_equal(rdi_quiet_eights(b | 0x00fc7d80u << 8, 0x7c), e5m2 | 0x00fc7f80u << 8);
    }
}

// ---- The image -----------------------------------------------------------------------------------

// tests/gpu/names looks into it, where there is a tool that can.
static void test_image(void **state) {
    (void)state;
    static const unsigned char fatbin[] = {0x50, 0xed, 0x55, 0xba};
    if (rdi_cuda_image_size == 0) {
        print_message("built without nvcc\n");
        skip();
    }
    assert_true(rdi_cuda_image_size > 1000);
    assert_memory_equal(rdi_cuda_image, fatbin, sizeof fatbin);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_steps),         cmocka_unit_test(test_copy),
        cmocka_unit_test(test_nothing_to_do), cmocka_unit_test(test_all_pairs),
        cmocka_unit_test(test_eights_in_f16), cmocka_unit_test(test_halves_round_once),
        cmocka_unit_test(test_quiet_lanes),   cmocka_unit_test(test_image),
    };
    unsigned char **const all[] = {&buffers[0], &buffers[1], &buffers[2], &buffers[3],
                                   &sources[0], &sources[1], &want};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        *all[i] = aligned_alloc(16, ROOM + 4 * GUARD);
        if (*all[i] == NULL) {
            return 1;
        }
    }
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        free(*all[i]);
    }
    return failed;
}
