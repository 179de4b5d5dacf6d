// SPDX-License-Identifier: MIT
// 8-bit float conversion in integers: every byte there is, floats around every point where rounding changes its
// mind, and random ones, against a reference that counts units in the last place.
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "ring/fp8.h"
#include "tests/unit/reduce_reference.h"

static uint8_t to_eight(rondo_type type, float f) {
    return type == RONDO_F8E4M3 ? rdi_f32_to_f8e4m3(f) : rdi_f32_to_f8e5m2(f);
}

static float from_eight(rondo_type type, uint8_t b) {
    return type == RONDO_F8E4M3 ? rdi_f8e4m3_to_f32(b) : rdi_f8e5m2_to_f32(b);
}

// The formats' own tables, so that the reference is held against something, too.
static void test_known(void **state) {
    (void)state;
    assert_true(from_eight(RONDO_F8E4M3, 0x7e) == 448 && from_eight(RONDO_F8E4M3, 0xfe) == -448);
    assert_true(from_eight(RONDO_F8E4M3, 0x08) == 0x1p-6 && from_eight(RONDO_F8E4M3, 1) == 0x1p-9);
    assert_true(from_eight(RONDO_F8E4M3, 0x38) == 1 && from_eight(RONDO_F8E4M3, 0x78) == 256);
    assert_true(from_eight(RONDO_F8E5M2, 0x7b) == 57344 && from_eight(RONDO_F8E5M2, 0x3c) == 1);
    assert_true(from_eight(RONDO_F8E5M2, 4) == 0x1p-14 && from_eight(RONDO_F8E5M2, 1) == 0x1p-16);
    assert_true(from_eight(RONDO_F8E5M2, 0x7c) == INFINITY);
    assert_true(from_eight(RONDO_F8E5M2, 0xfc) == -INFINITY);
    static const float large[] = {464, 465, 1e5f, 1e30f, INFINITY};
    for (size_t i = 0; i < sizeof large / sizeof large[0]; i++) {
        assert_int_equal(to_eight(RONDO_F8E4M3, large[i]), 0x7e);
        assert_int_equal(to_eight(RONDO_F8E4M3, -large[i]), 0xfe);
        assert_int_equal(to_eight(RONDO_F8E5M2, large[i] * 1024), 0x7b);
        assert_int_equal(to_eight(RONDO_F8E5M2, -large[i] * 1024), 0xfb);
    }
    static const uint32_t nans[] = {0x7fc00000, 0xffc00000, 0x7f800001, 0xffffffff};
    for (size_t i = 0; i < sizeof nans / sizeof nans[0]; i++) {
        assert_int_equal(to_eight(RONDO_F8E4M3, rdi_f32_from_bits(nans[i])), 0x7f);
        assert_int_equal(to_eight(RONDO_F8E5M2, rdi_f32_from_bits(nans[i])), 0x7f);
    }
}

static void near(rondo_type type, double v) {
    const uint32_t bits = rdi_f32_bits((float)v);
    for (uint32_t d = 0; d < 5; d++) {
        const float f = rdi_f32_from_bits(bits + d - 2);
        if (!isnan(f)) {
            assert_int_equal(to_eight(type, f), encode(type, f));
        }
    }
}

static void test_eight(void **state) {
    (void)state;
    for (rondo_type type = RONDO_F8E4M3; type <= RONDO_F8E5M2; type++) {
        for (unsigned b = 0; b < 256; b++) {
            const float f = from_eight(type, (uint8_t)b);
            if ((b & 0x7f) > last_bits(type)) {
                assert_int_equal(rdi_f32_bits(f), 0x7fc00000);
                continue;
            }
            assert_int_equal(rdi_f32_bits(f), encode(RONDO_F32, decode(type, b)));
            assert_int_equal(to_eight(type, f), encode(type, f));
            if (isinf(f)) {
                continue;
            }
            assert_int_equal(to_eight(type, f), b);
            // Between this one and the next; past the largest, where the next would be.
            const double v = decode(type, b), below = decode(type, (b & 0x7f) ? b - 1 : b + 1);
            const bool largest = (b & 0x7f) == result_limit(type);
            const double gap = largest ? v - below : decode(type, b + 1) - v;
            near(type, v);
            near(type, v + gap / 2);
            near(type, v + gap);
        }
        uint64_t seed = 7;
        for (int i = 0; i < 300000; i++) {
            const uint64_t r = next_random(&seed);
            // Any bits; every other one within the range of the type.
            const float f = i % 2 ? rdi_f32_from_bits((uint32_t)r)
                                  : ldexpf((float)(int32_t)r, -20 - (int)(r >> 32 & 31));
            if (!isnan(f)) {
                assert_int_equal(to_eight(type, f), encode(type, f));
            }
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_known), cmocka_unit_test(test_eight)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
