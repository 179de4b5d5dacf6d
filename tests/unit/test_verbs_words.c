// SPDX-License-Identifier: MIT
// Completion statuses in words, and the codes of timeouts.
#include "transport/verbs/device.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <cmocka.h>

static void test_statuses_are_told_apart(void **state) {
    (void)state;
    for (unsigned i = 0; i <= IBV_WC_TM_RNDV_INCOMPLETE; i++) {
        const char *text = rdi_verbs_status_text((enum ibv_wc_status)i);
        assert_true(strlen(text) > 6);
        assert_true(strlen(rdi_verbs_status_remedy((enum ibv_wc_status)i)) > 6);
        for (unsigned k = 0; k < i; k++) {
            assert_string_not_equal(text, rdi_verbs_status_text((enum ibv_wc_status)k));
        }
    }
}

// What a reliable connection can meet wants a remedy of its own.
static void test_remedies_differ(void **state) {
    (void)state;
    static const enum ibv_wc_status met[] = {
        IBV_WC_LOC_LEN_ERR,      IBV_WC_LOC_QP_OP_ERR,     IBV_WC_LOC_PROT_ERR,
        IBV_WC_WR_FLUSH_ERR,     IBV_WC_BAD_RESP_ERR,      IBV_WC_LOC_ACCESS_ERR,
        IBV_WC_REM_INV_REQ_ERR,  IBV_WC_REM_ACCESS_ERR,    IBV_WC_REM_OP_ERR,
        IBV_WC_RETRY_EXC_ERR,    IBV_WC_RNR_RETRY_EXC_ERR, IBV_WC_FATAL_ERR,
        IBV_WC_RESP_TIMEOUT_ERR, IBV_WC_GENERAL_ERR,
    };
    for (unsigned i = 0; i < sizeof met / sizeof met[0]; i++) {
        for (unsigned k = 0; k < i; k++) {
            assert_string_not_equal(rdi_verbs_status_remedy(met[i]),
                                    rdi_verbs_status_remedy(met[k]));
        }
    }
    assert_non_null(strstr(rdi_verbs_status_text(IBV_WC_RETRY_EXC_ERR), "retries exceeded"));
    assert_non_null(strstr(rdi_verbs_status_remedy(IBV_WC_RETRY_EXC_ERR), "verbs_timeout"));
    assert_non_null(strstr(rdi_verbs_status_text(IBV_WC_WR_FLUSH_ERR), "flushed"));
}

static void test_unknown_status(void **state) {
    (void)state;
    const unsigned odd[] = {IBV_WC_TM_RNDV_INCOMPLETE + 1, 255, 0x7fffffff, 0xffffffff};
    for (unsigned i = 0; i < sizeof odd / sizeof odd[0]; i++) {
        assert_non_null(strstr(rdi_verbs_status_text((enum ibv_wc_status)odd[i]), "not know"));
        assert_true(strlen(rdi_verbs_status_remedy((enum ibv_wc_status)odd[i])) > 6);
    }
}

static void test_timeouts(void **state) {
    (void)state;
    assert_int_equal(rdi_verbs_timeout_us(14), 67108);
    assert_int_equal(rdi_verbs_timeout_us(1), 8);
    assert_true(rdi_verbs_timeout_us(0) == UINT64_MAX); // for ever
    assert_int_equal(rdi_verbs_timeout_code(0), 1);
    assert_int_equal(rdi_verbs_timeout_code(1), 8); // 1.05 ms
    assert_int_equal(rdi_verbs_timeout_code(67), 14);
    assert_int_equal(rdi_verbs_timeout_code(68), 15);
    assert_int_equal(rdi_verbs_timeout_code(70), 15);
    assert_int_equal(rdi_verbs_timeout_code(UINT64_MAX), 31);
    for (uint64_t ms = 1; ms < 8000000; ms += 1 + ms / 7) {
        uint8_t code = rdi_verbs_timeout_code(ms);
        assert_true(code >= 1 && code <= 31);
        assert_true(rdi_verbs_timeout_us(code) >= 1000 * ms);
        assert_true(rdi_verbs_timeout_us((uint8_t)(code - 1)) < 1000 * ms);
    }
    assert_int_equal(rdi_verbs_giveup_ms(14, 6), 469);
    assert_int_equal(rdi_verbs_giveup_ms(14, 0), 67);
    assert_true(rdi_verbs_giveup_ms(0, 7) == UINT64_MAX);
}

static void test_rnr_codes(void **state) {
    (void)state;
    assert_int_equal(rdi_verbs_rnr_code(0), 1);
    assert_int_equal(rdi_verbs_rnr_code(10), 1);
    assert_int_equal(rdi_verbs_rnr_code(11), 2);
    assert_int_equal(rdi_verbs_rnr_code(640), 12);
    assert_int_equal(rdi_verbs_rnr_code(641), 13);
    assert_int_equal(rdi_verbs_rnr_code(491520), 31);
    assert_int_equal(rdi_verbs_rnr_code(UINT64_MAX), 31);
    uint8_t last = 1;
    for (uint64_t us = 1; us < 600000; us += 1 + us / 50) {
        uint8_t code = rdi_verbs_rnr_code(us);
        assert_true(code == last || code == last + 1); // no code is left out, none comes twice
        last = code;
    }
    assert_int_equal(last, 31);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_statuses_are_told_apart),
        cmocka_unit_test(test_remedies_differ),
        cmocka_unit_test(test_unknown_status),
        cmocka_unit_test(test_timeouts),
        cmocka_unit_test(test_rnr_codes),
    };
    return cmocka_run_group_tests_name("verbs_words", tests, NULL, NULL);
}
