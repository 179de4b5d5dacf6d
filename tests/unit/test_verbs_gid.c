// SPDX-License-Identifier: MIT
// GIDs: their text, and which is better for what.
#include "transport/verbs/parts.h"

#include <arpa/inet.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static char *no_environment(const char *name) {
    (void)name;
    return NULL;
}

static struct rdi_options options(const char *text) {
    struct rdi_options o;
    assert_int_equal(rdi_options_load(&o, text, no_environment), RONDO_OK);
    return o;
}

static struct rdi_verbs_gid gid(uint8_t type, const char *text, uint8_t prefix) {
    struct rdi_verbs_gid g = {.prefix = prefix};
    uint8_t raw[16];
    assert_int_equal(inet_pton(AF_INET6, text, raw), 1);
    rdi_verbs_gid_set(&g, raw, type);
    return g;
}

static void test_text(void **state) {
    (void)state;
    const struct {
        uint8_t type;
        const char *in, *out;
    } cases[] = {
        {RDI_GID_ROCE_V2, "::ffff:10.0.0.1", "10.0.0.1"},
        {RDI_GID_ROCE_V1, "fe80::1", "fe80::1"},
        {RDI_GID_ROCE_V2, "2001:db8::ffff:a00:1", "2001:db8::ffff:a00:1"},
        {RDI_GID_IB, "fe80::2:c903:1:2", "fe80:0000:0000:0000:0002:c903:0001:0002"},
    };
    for (unsigned i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct rdi_verbs_gid g = gid(cases[i].type, cases[i].in, 0);
        char text[48], cut[6];
        assert_string_equal(rdi_verbs_gid_text(&g, text, sizeof text), cases[i].out);
        assert_int_equal(strlen(rdi_verbs_gid_text(&g, cut, sizeof cut)), 5);
    }
}

static void test_derived(void **state) {
    (void)state;
    struct rdi_verbs_gid g = gid(RDI_GID_ROCE_V2, "::ffff:169.254.3.4", 16);
    assert_true(g.family == 4 && g.link_local);
    g = gid(RDI_GID_ROCE_V2, "::ffff:10.254.3.4", 16);
    assert_true(g.family == 4 && !g.link_local);
    g = gid(RDI_GID_ROCE_V2, "fe80::5", 64);
    assert_true(g.family == 6 && g.link_local);
    g = gid(RDI_GID_ROCE_V2, "fd00::5", 64);
    assert_true(g.family == 6 && !g.link_local);
}

// Each of these is better than all after it.
static void test_rank_order(void **state) {
    (void)state;
    struct rdi_options o = options("");
    struct rdi_verbs_gid order[] = {
        gid(RDI_GID_ROCE_V2, "::ffff:10.0.0.1", 24),    gid(RDI_GID_ROCE_V2, "fd00::1", 64),
        gid(RDI_GID_ROCE_V2, "::ffff:169.254.0.1", 16), gid(RDI_GID_ROCE_V2, "fe80::1", 64),
        gid(RDI_GID_ROCE_V1, "::ffff:10.0.0.1", 24),    gid(RDI_GID_ROCE_V1, "fd00::1", 64),
        gid(RDI_GID_ROCE_V1, "::ffff:169.254.0.1", 16), gid(RDI_GID_ROCE_V1, "fe80::1", 64),
    };
    for (unsigned i = 1; i < sizeof order / sizeof order[0]; i++) {
        assert_true(rdi_verbs_gid_rank(&order[i - 1], &o) > rdi_verbs_gid_rank(&order[i], &o));
    }
    assert_true(rdi_verbs_gid_rank(&order[7], NULL) > 0);
    struct rdi_verbs_gid none = gid(RDI_GID_ROCE_V2, "::", 0);
    assert_int_equal(rdi_verbs_gid_rank(&none, &o), 0);
    none = gid(RDI_GID_ROCE_V2, "::ffff:0.0.0.0", 0);
    assert_int_equal(rdi_verbs_gid_rank(&none, &o), 0);
    struct rdi_verbs_gid ib = gid(RDI_GID_IB, "fe80::1", 0);
    assert_true(rdi_verbs_gid_rank(&ib, &o) > 0);
}

static void test_rank_options(void **state) {
    (void)state;
    struct rdi_verbs_gid v4 = gid(RDI_GID_ROCE_V2, "::ffff:10.0.0.1", 24);
    struct rdi_verbs_gid v6 = gid(RDI_GID_ROCE_V2, "fd00::1", 64);
    struct rdi_verbs_gid ib = gid(RDI_GID_IB, "fe80::1", 0);
    struct rdi_options o = options("family=ipv6");
    assert_int_equal(rdi_verbs_gid_rank(&v4, &o), 0);
    assert_true(rdi_verbs_gid_rank(&v6, &o) > 0);
    assert_true(rdi_verbs_gid_rank(&ib, &o) > 0);
    o = options("family=ipv4");
    assert_true(rdi_verbs_gid_rank(&v4, &o) > 0);
    assert_int_equal(rdi_verbs_gid_rank(&v6, &o), 0);
    o = options("verbs_gid=3");
    assert_int_equal(rdi_verbs_gid_rank(&v4, &o), 0);
    v4.index = 3;
    assert_true(rdi_verbs_gid_rank(&v4, &o) > 0);
    o = options("verbs_gid=0");
    assert_int_equal(rdi_verbs_gid_rank(&v4, &o), 0);
}

static void test_fit(void **state) {
    (void)state;
    struct rdi_verbs_gid a = gid(RDI_GID_ROCE_V2, "::ffff:10.0.0.1", 24);
    struct rdi_verbs_gid near = gid(RDI_GID_ROCE_V2, "::ffff:10.0.0.2", 24);
    struct rdi_verbs_gid far = gid(RDI_GID_ROCE_V2, "::ffff:10.0.1.2", 24);
    struct rdi_verbs_gid old = gid(RDI_GID_ROCE_V1, "::ffff:10.0.0.2", 24);
    struct rdi_verbs_gid six = gid(RDI_GID_ROCE_V2, "fd00::1", 64);
    struct rdi_verbs_gid local = gid(RDI_GID_ROCE_V2, "::ffff:169.254.0.2", 16);
    assert_true(rdi_verbs_gid_fit(&a, &near) > rdi_verbs_gid_fit(&a, &far));
    assert_true(rdi_verbs_gid_fit(&a, &far) > 0);
    assert_int_equal(rdi_verbs_gid_fit(&a, &old), 0);
    assert_int_equal(rdi_verbs_gid_fit(&a, &six), 0);
    assert_int_equal(rdi_verbs_gid_fit(&a, &local), 0);
    // Both must see each other in their subnet.
    near.prefix = 31;
    assert_int_equal(rdi_verbs_gid_fit(&a, &near), rdi_verbs_gid_fit(&a, &far));
    // Where nothing is known of the subnets, the usual sizes are taken.
    near.prefix = a.prefix = far.prefix = 0;
    assert_true(rdi_verbs_gid_fit(&a, &near) > rdi_verbs_gid_fit(&a, &far));
    struct rdi_verbs_gid six2 = gid(RDI_GID_ROCE_V2, "fd00::2", 0);
    struct rdi_verbs_gid six3 = gid(RDI_GID_ROCE_V2, "fd00:0:0:1::2", 0);
    assert_true(rdi_verbs_gid_fit(&six, &six2) > rdi_verbs_gid_fit(&six, &six3));
    // InfiniBand: the first half is the subnet.
    struct rdi_verbs_gid x = gid(RDI_GID_IB, "fe80::1", 0), y = gid(RDI_GID_IB, "fe80::2", 0);
    struct rdi_verbs_gid z = gid(RDI_GID_IB, "fec0::2", 0);
    assert_true(rdi_verbs_gid_fit(&x, &y) > rdi_verbs_gid_fit(&x, &z));
    assert_true(rdi_verbs_gid_fit(&x, &z) > 0);
    assert_int_equal(rdi_verbs_gid_fit(&x, &a), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_text),       cmocka_unit_test(test_derived),
        cmocka_unit_test(test_rank_order), cmocka_unit_test(test_rank_options),
        cmocka_unit_test(test_fit),
    };
    return cmocka_run_group_tests_name("verbs_gid", tests, NULL, NULL);
}
