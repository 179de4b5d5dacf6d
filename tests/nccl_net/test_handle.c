// SPDX-License-Identifier: MIT
// The handle: what is written is read again, and no bytes that anybody could have put there do harm.
#include "transport/nccl/core.h"
#include "transport/tcp/hello.h"

#include <setjmp.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static struct rdi_tcp_blob address_of(unsigned v4, unsigned v6) {
    struct rdi_tcp_blob b = {.host = "a"};
    memset(b.host_id, 0xab, sizeof b.host_id);
    for (; b.count < v4 + v6; b.count++) {
        struct rdi_tcp_addr *a = &b.addr[b.count];
        *a = (struct rdi_tcp_addr){.family = b.count < v4 ? 4 : 6,
                                   .prefix = 24,
                                   .loopback = b.count == 0,
                                   .port = (uint16_t)(40000 + b.count)};
        memset(a->ip, (int)b.count + 1, a->family == 4 ? 4 : 16);
        a->scope = a->family == 6 ? 7 : 0;
    }
    return b;
}

static void check(unsigned v4, unsigned v6, unsigned expected) {
    uint8_t bytes[RDI_NCCL_HANDLE];
    struct rdi_nccl_handle h = {.listen = UINT64_C(0x1234567890abcdef), .number = 4711}, r;
    struct rdi_tcp_blob from = address_of(v4, v6), to;
    memset(h.key, 0x5c, sizeof h.key);
    assert_true(rdi_nccl_handle_write(&h, &from, bytes));
    assert_true(rdi_nccl_handle_token(bytes) == 0);
    rdi_nccl_handle_set_token(bytes, UINT64_MAX); // touches nothing else
    assert_true(rdi_nccl_handle_read(&r, &to, bytes));
    assert_memory_equal(r.key, h.key, sizeof h.key);
    assert_true(r.listen == h.listen && r.number == h.number);
    assert_memory_equal(to.host_id, from.host_id, sizeof to.host_id);
    assert_int_equal(to.count, expected);
    for (unsigned i = 0; i < to.count; i++) {
        assert_int_equal(to.addr[i].port, from.addr[i].port);
        assert_int_equal(to.addr[i].family, from.addr[i].family);
        assert_int_equal(to.addr[i].loopback, from.addr[i].loopback);
        assert_memory_equal(to.addr[i].ip, from.addr[i].ip, 16);
        assert_int_equal(to.addr[i].scope, from.addr[i].scope);
    }
}

static void test_round_trip(void **state) {
    (void)state;
    check(1, 0, 1);
    check(6, 0, 6);
    check(8, 0, 6); // as many as there is room for
    check(0, 1, 1);
    check(0, 5, 2);
    check(2, 1, 3);
}

static void test_no_address(void **state) {
    (void)state;
    uint8_t bytes[RDI_NCCL_HANDLE];
    struct rdi_nccl_handle h = {.listen = 1};
    struct rdi_tcp_blob none = {.count = 0};
    assert_false(rdi_nccl_handle_write(&h, &none, bytes));
}

// Each byte of a good handle, changed to each value: read or refused, and what is read is in its bounds.
static void test_changed(void **state) {
    (void)state;
    uint8_t good[RDI_NCCL_HANDLE];
    struct rdi_nccl_handle h = {.listen = 1, .number = 1}, r;
    struct rdi_tcp_blob from = address_of(3, 1), to;
    unsigned refused = 0;
    assert_true(rdi_nccl_handle_write(&h, &from, good));
    for (unsigned i = 0; i < sizeof good; i++) {
        for (unsigned v = 0; v < 256; v++) {
            uint8_t bytes[RDI_NCCL_HANDLE];
            memcpy(bytes, good, sizeof bytes);
            bytes[i] = (uint8_t)v;
            if (!rdi_nccl_handle_read(&r, &to, bytes)) {
                refused++;
                continue;
            }
            assert_true(to.count >= 1 && to.count <= RDI_TCP_ADDRS && r.number >= 0);
            assert_true(memchr(to.host, '\0', sizeof to.host) != NULL);
            for (unsigned k = 0; k < to.count; k++) {
                const struct rdi_tcp_addr *a = &to.addr[k];
                assert_true((a->family == 4 && a->prefix <= 32) ||
                            (a->family == 6 && a->prefix <= 128));
                assert_true(a->port != 0);
            }
        }
    }
    assert_true(refused > 4 * 255);
}

static void test_garbage(void **state) {
    (void)state;
    uint8_t bytes[RDI_NCCL_HANDLE];
    struct rdi_nccl_handle r;
    struct rdi_tcp_blob to;
    memset(bytes, 0, sizeof bytes);
    assert_false(rdi_nccl_handle_read(&r, &to, bytes));
    memset(bytes, 0xff, sizeof bytes);
    assert_false(rdi_nccl_handle_read(&r, &to, bytes));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_no_address),
        cmocka_unit_test(test_changed),
        cmocka_unit_test(test_garbage),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
