// SPDX-License-Identifier: MIT
// f16 and bf16 conversion in integers: every half there is, and floats around every point where rounding
// changes its mind, against a reference that counts units in the last place.
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "ring/half.h"
#include "tests/unit/reduce_reference.h"

static uint16_t to_half(rondo_type type, float f) {
    return type == RONDO_F16 ? rdi_f32_to_f16(f) : rdi_f32_to_bf16(f);
}

static float from_half(rondo_type type, uint16_t h) {
    return type == RONDO_F16 ? rdi_f16_to_f32(h) : rdi_bf16_to_f32(h);
}

static void test_half(void **state) {
    (void)state;
    for (rondo_type type = RONDO_F16; type <= RONDO_BF16; type++) {
        const uint64_t inf = inf_bits(type), quiet = nan_bits(type) - inf;
        for (uint32_t h = 0; h <= 0xffff; h++) {
            const float f = from_half(type, (uint16_t)h);
            if ((h & 0x7fff) > inf) {
                assert_true(isnan(f));
                assert_int_equal(signbit(f) != 0, h >> 15);
                assert_true(type == RONDO_BF16 || (rdi_f32_bits(f) & 0x400000) != 0);
                assert_int_equal(to_half(type, f), h | quiet);
                continue;
            }
            assert_int_equal(rdi_f32_bits(f), encode(RONDO_F32, decode(type, h)));
            assert_int_equal(to_half(type, f), h);
            if ((h & 0x7fff) == inf) {
                continue;
            }
            // Around the value and around the middle between it and the next one; the largest is
            // followed by infinity where the next one would be.
            const uint16_t next = (uint16_t)(h + 1), below = (uint16_t)(h - 1);
            const double v = decode(type, h);
            const double gap = (next & 0x7fff) == inf ? v - decode(type, below)
                                                      : decode(type, next) - v;
            const uint32_t low = rdi_f32_bits(f), middle = rdi_f32_bits((float)(v + gap / 2));
            for (uint32_t d = 0; d < 7; d++) {
                const float near = rdi_f32_from_bits((d & 1 ? low : middle) + d / 2 - 1);
                if (!isnan(near)) {
                    assert_int_equal(to_half(type, near), encode(type, near));
                }
            }
        }
        uint64_t seed = 7;
        for (int i = 0; i < 300000; i++) {
            const float f = rdi_f32_from_bits((uint32_t)next_random(&seed));
            if (!isnan(f)) {
                assert_int_equal(to_half(type, f), encode(type, f));
            }
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_half)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
