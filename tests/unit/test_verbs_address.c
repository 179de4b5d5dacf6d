// SPDX-License-Identifier: MIT
// What ranks tell each other of their ports, and which pairs of ports follow from it.
#include "transport/verbs/parts.h"

#include <arpa/inet.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

enum { IB, ROCE, IWARP };

static struct rdi_verbs_gid gid(uint8_t type, const char *text, uint8_t prefix, uint16_t index) {
    struct rdi_verbs_gid g = {.prefix = prefix, .index = index};
    uint8_t raw[16];
    assert_int_equal(inet_pton(AF_INET6, text, raw), 1);
    rdi_verbs_gid_set(&g, raw, type);
    return g;
}

// Adds a rail with up to two GIDs.
static struct rdi_verbs_rail_info *add(struct rdi_verbs_address *a, uint8_t layer, uint8_t type,
                                       const char *first, const char *second, uint8_t prefix) {
    struct rdi_verbs_rail_info *r = &a->rails[a->nrails];
    *r = (struct rdi_verbs_rail_info){
        .port = 1, .link_layer = layer, .mtu = IBV_MTU_4096, .mbit_per_s = 100000};
    snprintf(r->device, sizeof r->device, "mlx5_%u", a->nrails);
    r->immediates = layer != IWARP;
    r->lid = layer == IB ? (uint16_t)(10 + a->nrails) : 0;
    if (first != NULL) {
        r->gids[r->ngids++] = gid(type, first, prefix, 3);
    }
    if (second != NULL) {
        r->gids[r->ngids++] = gid(type, second, 64, 5);
    }
    a->nrails++;
    return r;
}

static unsigned pairs(const struct rdi_verbs_address *a, const struct rdi_verbs_address *b,
                      struct rdi_verbs_pair out[RDI_VERBS_RAILS]) {
    char why[2000] = "";
    unsigned n = rdi_verbs_pairs(a, b, out, why, sizeof why);
    assert_true(n > 0 ? why[0] == '\0' : strlen(why) > 10);
    return n;
}

// ---- Encoding ------------------------------------------------------------------------------------

static struct rdi_verbs_address largest(void) {
    struct rdi_verbs_address a = {.nrails = 0};
    for (unsigned i = 0; i < RDI_VERBS_RAILS; i++) {
        struct rdi_verbs_rail_info *r =
            add(&a, ROCE, RDI_GID_ROCE_V2, "fd00:1:2:3:4:5:6:7", "::ffff:10.1.2.3", 77);
        memset(r->device, 'x', sizeof r->device - 1);
        r->gids[1].prefix = 24;
        r->gids[0].index = 1023;
        r->lid = 0xfffe;
        r->mbit_per_s = UINT32_MAX;
        r->immediates = i % 2 == 0;
        r->preferred = i >= 2;
    }
    return a;
}

static void test_round_trip(void **state) {
    (void)state;
    struct rdi_verbs_address a = largest(), b;
    uint8_t bytes[RDI_VERBS_ADDRESS_MAX];
    size_t len = rdi_verbs_address_write(&a, bytes);
    assert_true(len > 0);
    assert_true(rdi_verbs_address_read(&b, bytes, len));
    assert_int_equal(b.nrails, a.nrails);
    for (unsigned i = 0; i < a.nrails; i++) {
        const struct rdi_verbs_rail_info *x = &a.rails[i], *y = &b.rails[i];
        assert_string_equal(x->device, y->device);
        assert_true(x->port == y->port && x->link_layer == y->link_layer && x->mtu == y->mtu);
        assert_true(x->immediates == y->immediates && x->lid == y->lid);
        assert_int_equal(x->preferred, y->preferred);
        assert_true(x->mbit_per_s == y->mbit_per_s && x->ngids == y->ngids);
        for (unsigned k = 0; k < x->ngids; k++) {
            const struct rdi_verbs_gid *g = &x->gids[k], *h = &y->gids[k];
            assert_memory_equal(g->raw, h->raw, 16);
            assert_true(g->index == h->index && g->type == h->type && g->prefix == h->prefix);
            assert_true(g->family == h->family && g->link_local == h->link_local);
        }
    }
    for (size_t n = 0; n < len; n++) {
        assert_false(rdi_verbs_address_read(&b, bytes, n));
    }
}

static void expect_refused(const struct rdi_verbs_address *a) {
    uint8_t bytes[RDI_VERBS_ADDRESS_MAX + 1];
    struct rdi_verbs_address b;
    size_t len = rdi_verbs_address_write(a, bytes);
    assert_true(len > 0);
    assert_false(rdi_verbs_address_read(&b, bytes, len));
}

static void test_bad_fields(void **state) {
    (void)state;
    struct rdi_verbs_address good = {.nrails = 0}, a;
    add(&good, ROCE, RDI_GID_ROCE_V2, "::ffff:10.1.2.3", NULL, 24);
    uint8_t bytes[RDI_VERBS_ADDRESS_MAX];
    size_t len = rdi_verbs_address_write(&good, bytes);
    assert_true(rdi_verbs_address_read(&a, bytes, len));
    bytes[len] = 0; // something behind the end
    assert_false(rdi_verbs_address_read(&a, bytes, len + 1));
    bytes[0]++; // another version
    assert_false(rdi_verbs_address_read(&a, bytes, len));
    expect_refused(&(struct rdi_verbs_address){.nrails = 0});
#define REFUSED(change) \
    a = good;           \
    a.rails[0].change;  \
    expect_refused(&a)
    REFUSED(device[0] = '\0');
    REFUSED(port = 0);
    REFUSED(link_layer = 3);
    REFUSED(link_layer = IB);
    REFUSED(mtu = 0);
    REFUSED(mtu = 6);
    REFUSED(gids[0].type = RDI_GID_IB);
    REFUSED(gids[0].type = 3);
    REFUSED(gids[0].prefix = 33);
    REFUSED(gids[0] = gid(RDI_GID_ROCE_V2, "::", 0, 0));
    REFUSED(gids[0] = gid(RDI_GID_ROCE_V2, "fd00::1", 129, 0));
#undef REFUSED
}

static void test_tell(void **state) {
    (void)state;
    struct rdi_verbs_port p = {
        .device = "a_very_long_device_name\x01", .port = 2, .roce = true, .mtu = 3, .ngids = 4};
    p.gids[0] = gid(RDI_GID_ROCE_V2, "::ffff:10.0.0.1", 24, 3);
    p.gids[1] = gid(RDI_GID_ROCE_V2, "::ffff:10.0.1.1", 24, 5);
    p.gids[2] = gid(RDI_GID_ROCE_V2, "fd00::1", 64, 7);
    p.gids[3] = gid(RDI_GID_ROCE_V2, "fe80::1", 64, 1);
    struct rdi_verbs_rail_info r;
    rdi_verbs_rail_tell(&p, &r);
    assert_string_equal(r.device, "a_very_long_dev");
    assert_true(r.port == 2 && r.link_layer == ROCE && r.mtu == 3 && r.immediates);
    assert_true(r.ngids == 2 && r.gids[0].index == 3 && r.gids[1].index == 7);
    p.ngids = 2; // of one family
    rdi_verbs_rail_tell(&p, &r);
    assert_true(r.ngids == 2 && r.gids[1].index == 5);
    p.ngids = 1;
    rdi_verbs_rail_tell(&p, &r);
    assert_int_equal(r.ngids, 1);
    p.roce = false;
    p.iwarp = true;
    p.ngids = 0;
    snprintf(p.device, sizeof p.device, "a\x7f\xc3");
    rdi_verbs_rail_tell(&p, &r);
    assert_true(r.ngids == 0 && r.link_layer == IWARP && !r.immediates);
    assert_string_equal(r.device, "a??");
}

// ---- Pairs ---------------------------------------------------------------------------------------

static void test_pairs_by_subnet(void **state) {
    (void)state;
    struct rdi_verbs_address a = {.nrails = 0}, b = {.nrails = 0};
    add(&a, ROCE, RDI_GID_ROCE_V2, "::ffff:10.0.0.1", "fd00::1", 24);
    add(&a, ROCE, RDI_GID_ROCE_V2, "::ffff:10.0.1.1", "fd00:0:0:1::1", 24)->mtu = IBV_MTU_1024;
    add(&b, ROCE, RDI_GID_ROCE_V2, "::ffff:10.0.1.2", "fd00:0:0:1::2", 24);
    add(&b, ROCE, RDI_GID_ROCE_V2, "::ffff:10.0.0.2", "fd00::2", 24);
    struct rdi_verbs_pair p[RDI_VERBS_RAILS];
    assert_int_equal(pairs(&a, &b, p), 2);
    assert_true(p[0].mine + p[0].theirs == 1 && p[1].mine + p[1].theirs == 1);
    for (unsigned i = 0; i < 2; i++) {
        assert_true(p[i].grh && p[i].immediates && p[i].my_gid == 0 && p[i].their_gid == 0);
        assert_int_equal(p[i].mtu, p[i].mine == 1 ? IBV_MTU_1024 : IBV_MTU_4096);
    }
    // Without IPv4 at one end.
    b.rails[0].gids[0] = b.rails[0].gids[1];
    b.rails[1].gids[0] = b.rails[1].gids[1];
    b.rails[0].ngids = b.rails[1].ngids = 1;
    assert_int_equal(pairs(&a, &b, p), 2);
    assert_true(p[0].mine + p[0].theirs == 1 && p[0].my_gid == 1 && p[0].their_gid == 0);
}

// All in one subnet: by name; else by place. Fastest first.
static void test_pairs_by_place(void **state) {
    (void)state;
    struct rdi_verbs_address a = {.nrails = 0}, b = {.nrails = 0};
    for (unsigned i = 0; i < 4; i++) {
        char text[32];
        snprintf(text, sizeof text, "::ffff:10.0.0.%u", 1 + i);
        add(&a, ROCE, RDI_GID_ROCE_V2, text, NULL, 16);
        snprintf(text, sizeof text, "::ffff:10.0.7.%u", 7 - i);
        add(&b, ROCE, RDI_GID_ROCE_V2, text, NULL, 16);
    }
    struct rdi_verbs_pair p[RDI_VERBS_RAILS];
    assert_int_equal(pairs(&a, &b, p), 4);
    for (unsigned i = 0; i < 4; i++) {
        assert_int_equal(p[i].mine, p[i].theirs);
        snprintf(b.rails[i].device, sizeof b.rails[i].device, "mlx5_%u", 3 - i);
    }
    a.rails[2].mbit_per_s = b.rails[1].mbit_per_s = 400000;
    assert_int_equal(pairs(&a, &b, p), 4);
    assert_true(p[0].mine == 2 && p[0].theirs == 1);
    for (unsigned i = 0; i < 4; i++) {
        assert_int_equal(p[i].mine, 3 - p[i].theirs);
    }
}

static void test_pairs_infiniband(void **state) {
    (void)state;
    struct rdi_verbs_address a = {.nrails = 0}, b = {.nrails = 0};
    add(&a, IB, RDI_GID_IB, "fe80::1", NULL, 0);
    add(&b, IB, RDI_GID_IB, "fe80::2", NULL, 0);
    struct rdi_verbs_pair p[RDI_VERBS_RAILS];
    assert_int_equal(pairs(&a, &b, p), 1);
    assert_false(p[0].grh);
    b.rails[0].gids[0] = gid(RDI_GID_IB, "fec0::2", 0, 0); // another subnet
    assert_int_equal(pairs(&a, &b, p), 1);
    assert_true(p[0].grh);
    b.rails[0].ngids = 0;
    assert_int_equal(pairs(&a, &b, p), 1);
    assert_false(p[0].grh);
    b.rails[0].lid = 0;
    assert_int_equal(pairs(&a, &b, p), 0);
    add(&b, IB, RDI_GID_IB, "fe80::3", NULL, 0); // the one in the same subnet is better
    b.rails[0] = b.rails[1];
    b.rails[0].gids[0] = gid(RDI_GID_IB, "fec0::2", 0, 0);
    assert_int_equal(pairs(&a, &b, p), 1);
    assert_true(p[0].theirs == 1 && !p[0].grh);
}

static void test_no_pair(void **state) {
    (void)state;
    struct rdi_verbs_address a = {.nrails = 0}, ib = {.nrails = 0}, v1 = {.nrails = 0};
    struct rdi_verbs_address six = {.nrails = 0}, none = {.nrails = 0};
    add(&a, ROCE, RDI_GID_ROCE_V2, "::ffff:10.0.0.1", NULL, 24);
    add(&ib, IB, RDI_GID_IB, "fe80::1", NULL, 0);
    add(&v1, ROCE, RDI_GID_ROCE_V1, "::ffff:10.0.0.2", NULL, 24);
    add(&six, ROCE, RDI_GID_ROCE_V2, "fd00::1", NULL, 64);
    add(&none, ROCE, RDI_GID_ROCE_V2, NULL, NULL, 0);
    const struct {
        const struct rdi_verbs_address *b;
        const char *word;
    } cases[] = {{&ib, "different link layers"},
                 {&v1, "no two GIDs of one RoCE version"},
                 {&six, "v2 fd00::1"},
                 {&none, "no GID"}};
    for (unsigned i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct rdi_verbs_pair p[RDI_VERBS_RAILS];
        char why[400];
        assert_int_equal(rdi_verbs_pairs(&a, cases[i].b, p, why, sizeof why), 0);
        assert_non_null(strstr(why, cases[i].word));
        assert_non_null(strstr(why, "10.0.0.1"));
        assert_int_equal(rdi_verbs_pairs(&a, cases[i].b, p, why, 7), 0); // cut
        assert_int_equal(strlen(why), 6);
        rdi_verbs_pairs(&a, cases[i].b, p, NULL, 0);
    }
}

// ---- Decided NICs --------------------------------------------------------------------------------

static void add_four(struct rdi_verbs_address *a, const char *form, uint8_t prefix) {
    for (unsigned i = 0; i < 4; i++) {
        char text[48];
        snprintf(text, sizeof text, form, i);
        add(a, ROCE, RDI_GID_ROCE_V2, text, NULL, prefix);
    }
}

static void test_one_nic_each(void **state) {
    (void)state;
    struct rdi_verbs_address a = {.nrails = 0}, b = {.nrails = 0};
    struct rdi_verbs_pair p[RDI_VERBS_RAILS];
    add_four(&a, "::ffff:10.0.%u.1", 16);
    add_four(&b, "::ffff:10.0.%u.2", 16);
    a.rails[1].preferred = b.rails[3].preferred = true;
    assert_int_equal(pairs(&a, &b, p), 4);
    assert_true(p[0].mine == 1 && p[0].theirs == 3 && p[0].tier == 4);
    // Those stand in for it; each port has one part only.
    assert_true(p[1].tier == 0 && p[2].tier == 0 && p[3].tier == 0);
    b.rails[3].preferred = false; // one end alone knows
    assert_int_equal(pairs(&a, &b, p), 4);
    assert_true(p[0].mine == 1 && p[0].theirs == 1 && p[0].tier == 3 && p[1].tier == 0);
}

// Each rail is a subnet. Whether there is a way between them nobody knows.
static void test_rails_apart(void **state) {
    (void)state;
    struct rdi_verbs_address a = {.nrails = 0}, b = {.nrails = 0};
    struct rdi_verbs_pair p[RDI_VERBS_RAILS];
    add_four(&a, "::ffff:10.0.%u.1", 24);
    add_four(&b, "::ffff:10.0.%u.2", 24);
    a.rails[1].preferred = b.rails[3].preferred = true;
    assert_int_equal(pairs(&a, &b, p), 4);
    for (unsigned i = 0; i < 4; i++) {
        assert_int_equal(p[i].mine, p[i].theirs);
        assert_int_equal(p[i].tier, i < 2 ? 3 : 0);
        assert_true(i >= 2 || p[i].mine == 1 || p[i].mine == 3);
    }
    // With routers between, a subnet for each port of each host: the decided ones.
    b.nrails = 0;
    add_four(&b, "::ffff:10.1.%u.2", 24);
    b.rails[3].preferred = true;
    assert_int_equal(pairs(&a, &b, p), 4);
    assert_true(p[0].mine == 1 && p[0].theirs == 3 && p[0].tier == 2 && p[1].tier == 0);
}

static void test_decided_infiniband(void **state) {
    (void)state;
    struct rdi_verbs_address a = {.nrails = 0}, b = {.nrails = 0};
    struct rdi_verbs_pair p[RDI_VERBS_RAILS];
    for (unsigned i = 0; i < 2; i++) {
        add(&a, IB, RDI_GID_IB, "fe80::1", NULL, 0);
        add(&b, IB, RDI_GID_IB, "fe80::2", NULL, 0);
    }
    a.rails[0].preferred = b.rails[1].preferred = true;
    assert_int_equal(pairs(&a, &b, p), 2);
    assert_true(p[0].mine == 0 && p[0].theirs == 1 && p[0].tier == 4 && !p[0].grh);
    assert_true(p[1].mine == 1 && p[1].theirs == 0 && p[1].tier == 0);
}

// ---- One host ------------------------------------------------------------------------------------

// Two processes of one host have the same ports.
static void test_pairs_with_oneself(void **state) {
    (void)state;
    struct rdi_verbs_address a = {.nrails = 0};
    add(&a, ROCE, RDI_GID_ROCE_V2, "::ffff:10.0.0.1", "fd00::1", 24);
    add(&a, ROCE, RDI_GID_ROCE_V2, "::ffff:10.0.0.2", "fd00::2", 24)->mbit_per_s = 400000;
    add(&a, IB, RDI_GID_IB, "fe80::1", NULL, 0);
    struct rdi_verbs_address b = a;
    struct rdi_verbs_pair p[RDI_VERBS_RAILS];
    assert_int_equal(pairs(&a, &b, p), 3);
    for (unsigned i = 0; i < 3; i++) {
        assert_int_equal(p[i].mine, p[i].theirs);
        assert_int_equal(p[i].my_gid, p[i].their_gid);
    }
}

// ---- Both ends come to the same pairs ------------------------------------------------------------

static uint32_t next(uint64_t *seed) {
    *seed = *seed * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(*seed >> 33);
}

// Few different values, so that there is much to choose between equals.
static struct rdi_verbs_address random_address(uint64_t *seed) {
    struct rdi_verbs_address a = {.nrails = 0};
    unsigned rails = 1 + next(seed) % RDI_VERBS_RAILS;
    while (a.nrails < rails) {
        uint8_t layer = next(seed) % 6 == 0 ? (uint8_t)(next(seed) % 3) : ROCE;
        uint8_t type = layer != ROCE         ? RDI_GID_IB
                       : next(seed) % 5 == 0 ? RDI_GID_ROCE_V1
                                             : RDI_GID_ROCE_V2;
        static const char *const texts[] = {
            "::ffff:10.0.0.%u", "::ffff:10.0.1.%u",    "fd00::%u", "fd00:0:0:1::%u",
            "fe80::%u",         "::ffff:169.254.0.%u", "fec0::%u"};
        char first[48], second[48];
        const char *form = texts[next(seed) % 7];
        snprintf(first, sizeof first, form, 1 + next(seed) % 4);
        form = texts[next(seed) % 7];
        snprintf(second, sizeof second, form, 1 + next(seed) % 4);
        struct rdi_verbs_rail_info *r =
            add(&a, layer, type, first, next(seed) % 2 == 0 ? second : NULL, 0);
        for (unsigned i = 0; i < r->ngids; i++) {
            r->gids[i].prefix = layer == ROCE ? (uint8_t)(8 * (next(seed) % 5)) : 0;
        }
        r->ngids = next(seed) % 8 == 0 ? 0 : r->ngids;
        r->lid = layer == IB ? (uint16_t)(next(seed) % 3) : 0;
        r->mbit_per_s = 100000u << next(seed) % 2;
        r->mtu = (uint8_t)(1 + next(seed) % 5);
        snprintf(r->device, sizeof r->device, "mlx5_%u", next(seed) % 4);
        r->port = (uint8_t)(1 + next(seed) % 2);
        r->preferred = next(seed) % 3 == 0;
    }
    return a;
}

// What the other end gets of an address.
static struct rdi_verbs_address sent(const struct rdi_verbs_address *a) {
    uint8_t bytes[RDI_VERBS_ADDRESS_MAX];
    struct rdi_verbs_address b;
    assert_true(rdi_verbs_address_read(&b, bytes, rdi_verbs_address_write(a, bytes)));
    return b;
}

static void test_both_ends_agree(void **state) {
    (void)state;
    uint64_t seed = 7;
    unsigned found[RDI_VERBS_RAILS + 1] = {0};
    for (unsigned i = 0; i < 20000; i++) {
        struct rdi_verbs_address a = random_address(&seed);
        struct rdi_verbs_address b = next(&seed) % 8 == 0 ? a : random_address(&seed);
        struct rdi_verbs_address a2 = sent(&a), b2 = sent(&b);
        struct rdi_verbs_pair p[RDI_VERBS_RAILS], q[RDI_VERBS_RAILS];
        unsigned n = pairs(&a, &b2, p), used = 0;
        assert_int_equal(pairs(&b, &a2, q), n);
        found[n]++;
        for (unsigned k = 0; k < n; k++) {
            const struct rdi_verbs_rail_info *x = &a.rails[p[k].mine], *y = &b.rails[p[k].theirs];
            assert_true(p[k].mine == q[k].theirs && p[k].theirs == q[k].mine);
            assert_true(p[k].grh == q[k].grh && p[k].mtu == q[k].mtu);
            assert_true(!p[k].grh ||
                        (p[k].my_gid == q[k].their_gid && p[k].their_gid == q[k].my_gid));
            assert_true(p[k].immediates == q[k].immediates && p[k].tier == q[k].tier);
            assert_true(k == 0 || p[k].tier <= p[k - 1].tier);
            assert_int_equal(p[k].tier > 0, x->preferred || y->preferred);
            assert_int_equal(p[k].tier == 2 || p[k].tier == 4, x->preferred && y->preferred);
            assert_int_equal(used & (1u << p[k].mine | 16u << p[k].theirs), 0);
            used |= 1u << p[k].mine | 16u << p[k].theirs;
            assert_int_equal(x->link_layer, y->link_layer);
            assert_true(p[k].grh || x->link_layer == IB);
            assert_true(!p[k].grh || (p[k].my_gid < x->ngids && p[k].their_gid < y->ngids));
        }
    }
    for (unsigned n = 0; n <= RDI_VERBS_RAILS; n++) {
        assert_true(found[n] > 100);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_bad_fields),
        cmocka_unit_test(test_tell),
        cmocka_unit_test(test_pairs_by_subnet),
        cmocka_unit_test(test_pairs_by_place),
        cmocka_unit_test(test_pairs_infiniband),
        cmocka_unit_test(test_no_pair),
        cmocka_unit_test(test_one_nic_each),
        cmocka_unit_test(test_rails_apart),
        cmocka_unit_test(test_decided_infiniband),
        cmocka_unit_test(test_pairs_with_oneself),
        cmocka_unit_test(test_both_ends_agree),
    };
    return cmocka_run_group_tests_name("verbs_address", tests, NULL, NULL);
}
