// SPDX-License-Identifier: MIT
// A peer that proved the job's key and then breaks the protocol: each end says so, and nothing of it arrives.
#include "verbs_pair.h"

#include <arpa/inet.h>

#define ONE "interface=lo,device=fake0,slots=4,chunk=4K"
#define SEND ONE ",verbs_mode=send"

struct forgery {
    const char *what;
    uint32_t len, has_sig; // as the header says
    uint32_t bytes;        // that are sent, with the header
    unsigned index, stripes;
    uint64_t seq;
    unsigned times;
};

static struct rdi_verbs_link *verbs_of(struct rdi_link *l) { return (struct rdi_verbs_link *)l; }

static void post(struct rdi_verbs_link *l, struct ibv_send_wr *wr, uint32_t bytes) {
    struct ibv_sge sge = {(uintptr_t)l->memory, bytes, l->mr[l->qps[0].rail]->lkey};
    wr->sg_list = &sge;
    wr->num_sge = bytes > 0;
    assert_true(rdi_verbs_qp_send(&l->qps[0], wr, 1, RDI_VERBS_NONE, true));
}

static void forge(struct rdi_verbs_link *l, const struct forgery *f) {
    struct rdi_verbs_header h = {.len = f->len, .has_sig = f->has_sig};
    struct ibv_send_wr wr = {.opcode = IBV_WR_SEND};
    memcpy(l->memory, &h, sizeof h);
    if (l->mode != RDI_VERBS_SEND) {
        wr.opcode = f->stripes > 0 ? IBV_WR_RDMA_WRITE_WITH_IMM : IBV_WR_SEND;
        wr.imm_data = htonl(f->index << 28 | (f->stripes - 1) << 24 | (uint32_t)f->seq);
        wr.wr.rdma.remote_addr = l->remote + f->seq % l->base.slots * l->stride;
        wr.wr.rdma.rkey = l->rkey[0];
    }
    post(l, &wr, f->bytes);
}

static void expect_refused(struct pair *p, const char *what, struct rdi_link *judge,
                           const char *words) {
    struct rdi_link *in = p->side[1].accepted;
    pair_drive_until(p, (assert_true(in->arrived == 0),
                         p->link->state == RDI_LINK_FAILED && in->state == RDI_LINK_FAILED));
    if (judge->status != RONDO_ERR_INTERNAL || strstr(judge->why, words) == NULL) {
        fail_msg("%s: \"%s\" does not say \"%s\"", what, judge->why, words);
    }
}

static void run(const char *options, const struct forgery *forgeries, size_t count) {
    for (size_t i = 0; i < count; i++) {
        const struct forgery *f = &forgeries[i];
        struct pair p;
        verbs_open(&p, options, options);
        pair_connect(&p);
        for (unsigned k = 0; k < f->times; k++) {
            struct forgery next = *f;
            next.index += k / 2; // the third is another
            forge(verbs_of(p.link), &next);
        }
        expect_refused(&p, f->what, p.side[1].accepted, "broke the protocol");
        pair_close(&p);
    }
}

static void test_messages(void **state) {
    (void)state;
    static const struct forgery forgeries[] = {
        {"longer than agreed", 4097, 0, 128, 0, 1, 0, 1},
        {"so long that sums overflow", UINT32_MAX, 0, 128, 0, 1, 0, 1},
        {"two signatures", 8, 2, 136, 0, 1, 0, 1},
        {"a stripe beyond the last", 8, 0, 136, 3, 2, 0, 1},
        {"without credit", 8, 0, 136, 0, 1, 4, 1},
        {"long ago", 8, 0, 136, 0, 1, 0xffffff, 1},
        {"a stripe twice", 8, 0, 136, 0, 2, 0, 2},
        {"without a number", 8, 0, 0, 0, 0, 0, 1},
    };
    run(ONE, forgeries, sizeof forgeries / sizeof *forgeries);
}

static void test_sent_messages(void **state) {
    (void)state;
    static const struct forgery forgeries[] = {
        {"longer than it is", 100, 0, 136, 0, 0, 0, 1},
        {"shorter than it is", 7, 0, 136, 0, 0, 0, 1},
        {"no header", 8, 0, 64, 0, 0, 0, 1},
        {"empty", 0, 0, 0, 0, 0, 0, 1},
        {"two signatures", 8, 2, 136, 0, 0, 0, 1},
    };
    run(SEND, forgeries, sizeof forgeries / sizeof *forgeries);
}

// Stripes of one message that disagree on how many there are.
static void test_stripes_disagree(void **state) {
    (void)state;
    struct pair p;
    verbs_open(&p, ONE, ONE);
    pair_connect(&p);
    forge(verbs_of(p.link), &(struct forgery){.len = 8, .bytes = 136, .stripes = 2});
    forge(verbs_of(p.link), &(struct forgery){.len = 8, .bytes = 136, .index = 1, .stripes = 3});
    expect_refused(&p, "stripes disagree", p.side[1].accepted, "broke the protocol");
    pair_close(&p);
}

// The receiver's words of credit: the sender would overwrite, or count, what was never there.
static void test_credit(void **state) {
    (void)state;
    static const struct {
        const char *options;
        uint64_t word;
        uint32_t bytes;
    } cases[] = {
        {ONE, 1, 0}, {ONE, 0xffffffff, 0}, {SEND, 1, 8}, {SEND, UINT64_MAX, 8}, {SEND, 0, 4}};
    for (unsigned i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct pair p;
        verbs_open(&p, cases[i].options, cases[i].options);
        pair_connect(&p);
        struct rdi_verbs_link *in = verbs_of(p.side[1].accepted);
        struct ibv_send_wr wr = {.opcode = cases[i].bytes > 0 ? IBV_WR_SEND : IBV_WR_SEND_WITH_IMM,
                                 .imm_data = htonl((uint32_t)cases[i].word)};
        memcpy(in->memory, &cases[i].word, sizeof cases[i].word);
        post(in, &wr, cases[i].bytes);
        expect_refused(&p, "credit", p.link, "released a message that was not sent");
        pair_close(&p);
    }
}

// Where nothing is to be written, nothing can be; nor beside the slots where it can.
static void test_write_where_one_may_not(void **state) {
    (void)state;
    for (int i = 0; i < 2; i++) {
        struct pair p;
        const char *options = i == 0 ? SEND : ONE;
        verbs_open(&p, options, options);
        pair_connect(&p);
        struct rdi_verbs_link *in = verbs_of(p.side[1].accepted), *l = verbs_of(p.link);
        uint8_t before = in->memory[0];
        struct ibv_send_wr wr = {.opcode = IBV_WR_RDMA_WRITE};
        wr.wr.rdma.remote_addr = (uintptr_t)in->memory + (i == 0 ? 0 : in->bytes - 64);
        wr.wr.rdma.rkey = in->mr[in->qps[0].rail]->rkey;
        memset(l->memory, ~before, 128);
        post(l, &wr, 128);
        pair_drive_until(&p, (assert_true(in->memory[0] == before && in->base.arrived == 0),
                              p.link->state == RDI_LINK_LOST && in->base.state == RDI_LINK_LOST));
        pair_close(&p);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_messages),
        cmocka_unit_test(test_sent_messages),
        cmocka_unit_test(test_stripes_disagree),
        cmocka_unit_test(test_credit),
        cmocka_unit_test(test_write_where_one_may_not),
    };
    if (fake_prepare("1") != 0) {
        return 1;
    }
    return cmocka_run_group_tests_name("verbs_forged", tests, NULL, fake_dir_remove);
}
