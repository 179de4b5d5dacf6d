// SPDX-License-Identifier: MIT
// What the ends of a verbs link tell each other: every message survives the wire, nothing else gets in, and
// stripes cover a message exactly.
#include "transport/verbs/wire.h"

#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static void sample_address(struct rdi_verbs_address *a) {
    memset(a, 0, sizeof *a);
    a->nrails = RDI_VERBS_RAILS;
    for (unsigned i = 0; i < a->nrails; i++) {
        struct rdi_verbs_rail_info *r = &a->rails[i];
        snprintf(r->device, sizeof r->device, "mlx5_%u", i);
        r->port = 1;
        r->link_layer = 1;
        r->mtu = IBV_MTU_4096;
        r->immediates = true;
        r->ngids = 2;
        for (unsigned k = 0; k < 2; k++) {
            struct rdi_verbs_gid *g = &r->gids[k];
            const uint8_t v4[16] = {[10] = 0xff, [11] = 0xff, 10, 0, (uint8_t)i, 1};
            const uint8_t v6[16] = {0xfd, 0, [14] = (uint8_t)i, 1};
            memcpy(g->raw, k == 0 ? v4 : v6, 16);
            g->index = (uint16_t)(3 + k);
            g->type = RDI_GID_ROCE_V2;
            g->family = k == 0 ? 4 : 6;
        }
    }
}

static struct rdi_verbs_msg sample(enum rdi_verbs_type type) {
    struct rdi_verbs_msg m = {.type = type, .epoch = 0x01020304, .attempt = 77};
    if (type == RDI_VERBS_OFFER || type == RDI_VERBS_GRANT) {
        m.mode = RDI_VERBS_SPLIT;
        m.slots = 64;
        m.max_msg = 4 << 20;
        m.npairs = RDI_VERBS_RAILS;
        m.nqps = RDI_VERBS_LINK_QPS;
        for (unsigned i = 0; i < m.npairs; i++) {
            m.pairs[i].from = (uint8_t)i;
            m.pairs[i].to = (uint8_t)(RDI_VERBS_RAILS - 1 - i);
            m.pairs[i].mtu = IBV_MTU_1024;
            m.pairs[i].rkey = 0xf0000000u + i;
        }
        for (unsigned i = 0; i < m.nqps; i++) {
            m.qps[i] = (struct rdi_verbs_qp_id){0xffffff - i, i * 3};
        }
    }
    if (type == RDI_VERBS_OFFER) {
        snprintf(m.host, sizeof m.host,
                 "a host with a name of sixty-three bytes, as long as it can be.");
        sample_address(&m.address);
    } else if (type == RDI_VERBS_GRANT) {
        m.base = 0x7fffdeadbeef0000;
        m.apart = true;
        m.payload = 0x7f0000000000;
        for (unsigned i = 0; i < m.npairs; i++) {
            m.pairs[i].payload_rkey = 0xe0000000u + i;
        }
        m.arrived = UINT64_C(1) << 40;
        m.released = m.arrived - 64;
    } else if (type == RDI_VERBS_BYE) {
        m.posted = 9;
        m.arrived = 8;
        m.released = 7;
    } else if (type == RDI_VERBS_AGAIN) {
        m.bad = 5;
    } else if (type == RDI_VERBS_FAIL) {
        m.status = RONDO_ERR_INTERNAL;
    }
    if (type == RDI_VERBS_AGAIN || type == RDI_VERBS_FAIL || type == RDI_VERBS_LOST) {
        memset(m.text, 'x', sizeof m.text - 1);
    }
    return m;
}

static void test_round_trip(void **state) {
    (void)state;
    for (unsigned type = RDI_VERBS_OFFER; type <= RDI_VERBS_BYE; type++) {
        struct rdi_verbs_msg m = sample((enum rdi_verbs_type)type), back;
        uint8_t bytes[RDI_CTRL_MAX], again[RDI_CTRL_MAX];
        size_t len = rdi_verbs_msg_write(&m, bytes);
        assert_true(len >= 10 && len < sizeof bytes);
        assert_true(rdi_verbs_msg_read(&back, type, bytes, len));
        assert_int_equal(rdi_verbs_msg_write(&back, again), len);
        assert_memory_equal(bytes, again, len);
        assert_int_equal(back.epoch, m.epoch);
        assert_int_equal(back.attempt, m.attempt);
        assert_string_equal(back.text, m.text);
        assert_string_equal(back.host, m.host);
        assert_int_equal(back.status, m.status);
        assert_memory_equal(back.qps, m.qps, sizeof m.qps);
        assert_memory_equal(back.pairs, m.pairs, sizeof m.pairs);
        assert_true(back.base == m.base && back.apart == m.apart && back.payload == m.payload);
        for (size_t cut = 0; cut < len; cut++) {
            assert_false(rdi_verbs_msg_read(&back, type, bytes, cut));
        }
        bytes[len] = 0;
        assert_false(rdi_verbs_msg_read(&back, type, bytes, len + 1));
    }
}

static void test_unknown(void **state) {
    (void)state;
    struct rdi_verbs_msg m = sample(RDI_VERBS_READY), back;
    uint8_t bytes[RDI_CTRL_MAX];
    size_t len = rdi_verbs_msg_write(&m, bytes);
    assert_false(rdi_verbs_msg_read(&back, RDI_VERBS_OFFER - 1, bytes, len));
    assert_false(rdi_verbs_msg_read(&back, RDI_VERBS_BYE + 1, bytes, len));
    bytes[0] ^= 1;
    assert_false(rdi_verbs_msg_read(&back, RDI_VERBS_READY, bytes, len));
}

static bool survives(const struct rdi_verbs_msg *m) {
    struct rdi_verbs_msg back;
    uint8_t bytes[RDI_CTRL_MAX];
    size_t len = rdi_verbs_msg_write(m, bytes);
    return rdi_verbs_msg_read(&back, m->type, bytes, len);
}

// One field at a time is wrong.
static void test_bad_fields(void **state) {
    (void)state;
    struct rdi_verbs_msg m;
#define BAD(type_, change)                        \
    do {                                          \
        m = sample(type_);                        \
        assert_true(survives(&m));                \
        change;                                   \
        if (survives(&m)) {                       \
            fail_msg("%s gets through", #change); \
        }                                         \
    } while (0)
    BAD(RDI_VERBS_OFFER, m.mode = (enum rdi_verbs_mode)3);
    BAD(RDI_VERBS_OFFER, m.slots = 0);
    BAD(RDI_VERBS_OFFER, m.slots = 1025);
    BAD(RDI_VERBS_OFFER, m.max_msg = 0);
    BAD(RDI_VERBS_OFFER, m.max_msg = 100);
    BAD(RDI_VERBS_OFFER, m.max_msg = 32 << 20);
    BAD(RDI_VERBS_OFFER, m.npairs = 0);
    BAD(RDI_VERBS_OFFER, m.nqps = 0);
    BAD(RDI_VERBS_OFFER, m.nqps = 31);
    BAD(RDI_VERBS_OFFER, (m.npairs = 1, m.nqps = 9));
    BAD(RDI_VERBS_OFFER, m.pairs[2].from = RDI_VERBS_RAILS);
    BAD(RDI_VERBS_OFFER, m.pairs[2].to = 200);
    BAD(RDI_VERBS_OFFER, m.pairs[3].mtu = 0);
    BAD(RDI_VERBS_OFFER, m.pairs[3].mtu = 6);
    BAD(RDI_VERBS_GRANT, m.released = m.arrived + 1);
    BAD(RDI_VERBS_GRANT, m.released = m.arrived - 65);
    BAD(RDI_VERBS_GRANT, m.mode = RDI_VERBS_SEND); // in which nothing lies apart
    BAD(RDI_VERBS_GRANT, m.base = UINT64_MAX - 64 * (128 + (4 << 20)) + 1);
    BAD(RDI_VERBS_GRANT, m.payload = UINT64_MAX - (UINT64_C(256) << 20) + 1);
    BAD(RDI_VERBS_BYE, m.released = m.arrived + 1);
    BAD(RDI_VERBS_FAIL, m.status = RONDO_OK);
#undef BAD
    // A text goes into log lines.
    struct rdi_verbs_msg back;
    uint8_t bytes[RDI_CTRL_MAX];
    m = sample(RDI_VERBS_LOST);
    memcpy(m.text, "a\nb\x1b", 4);
    assert_true(rdi_verbs_msg_read(&back, m.type, bytes, rdi_verbs_msg_write(&m, bytes)));
    assert_memory_equal(back.text, "a?b?", 4);
}

static void test_cut(void **state) {
    (void)state;
    uint32_t sizes[] = {
        128, 129, 4095, 4096, 4097, 65536 + 128, (256 << 10) + 128, (4 << 20) + 128};
    for (unsigned k = 0; k < sizeof sizes / sizeof *sizes; k++) {
        for (unsigned nqps = 1; nqps <= RDI_VERBS_LINK_QPS; nqps++) {
            struct rdi_verbs_cut c = rdi_verbs_cut(sizes[k], 4096, nqps);
            assert_in_range(c.stripes, 1, nqps < RDI_VERBS_STRIPES ? nqps : RDI_VERBS_STRIPES);
            assert_int_equal(c.piece % 64, 0);
            assert_true((uint64_t)c.piece * c.stripes >= sizes[k]);
            assert_true((uint64_t)c.piece * (c.stripes - 1) < sizes[k]);
            assert_true(c.stripes == 1 || c.piece >= 4096);
        }
    }
    assert_int_equal(rdi_verbs_cut((256 << 10) + 128, 128 << 10, 2).stripes, 2);
    assert_int_equal(rdi_verbs_cut(128 << 10, 128 << 10, 2).stripes, 1);
}

static void test_imm(void **state) {
    (void)state;
    const uint64_t from[] = {0, 5, 0xfffffe, 0xffffff, UINT64_C(1) << 24, (UINT64_C(3) << 40) - 3};
    unsigned index, stripes;
    uint64_t seq;
    for (unsigned k = 0; k < sizeof from / sizeof *from; k++) {
        for (unsigned ahead = 0; ahead < 8; ahead++) {
            uint32_t imm = rdi_verbs_imm(ahead % 4, 4 + ahead, from[k] + ahead);
            assert_true(rdi_verbs_imm_read(imm, from[k], from[k] + 8, &index, &stripes, &seq));
            assert_int_equal(index, ahead % 4);
            assert_int_equal(stripes, 4 + ahead);
            assert_true(seq == from[k] + ahead);
            assert_false(rdi_verbs_imm_read(imm, from[k], from[k] + ahead, &index, &stripes, &seq));
            assert_false(
                rdi_verbs_imm_read(imm, from[k] + ahead + 1, from[k] + 64, &index, &stripes, &seq));
        }
    }
    assert_int_equal(rdi_verbs_imm(15, 16, UINT64_MAX), 0xffffffff);
    assert_false(rdi_verbs_imm_read(rdi_verbs_imm(3, 3, 0), 0, 8, &index, &stripes, &seq));
    assert_true(rdi_verbs_later(7, 7) == 7);
    assert_true(rdi_verbs_later(0xfffffffe, 1) == UINT64_C(0x100000001));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip), cmocka_unit_test(test_unknown),
        cmocka_unit_test(test_bad_fields), cmocka_unit_test(test_cut),
        cmocka_unit_test(test_imm),
    };
    return cmocka_run_group_tests_name("verbs_wire", tests, NULL, NULL);
}
