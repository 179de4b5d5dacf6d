// SPDX-License-Identifier: MIT
// Links whose payloads come from device memory, go to it, or both: no processor touches it, and all arrives.
#include "verbs_gpu.h"

#include <arpa/inet.h>

#define LO "interface=lo"
#define ONE LO ",device=fake0"

// ---- A stream of messages ------------------------------------------------------------------------

struct flow {
    struct pair p;
    struct gpu from, to;
    uint8_t *source;    // the device's address, or host memory
    bool device_source; // it is the former
    uint64_t count, checked;
    unsigned cuts, resets;
    uint32_t random;
};

struct kind {
    const char *options;
    bool device_source, device_slots;
    unsigned cuts;
    const char *faults;
    uint64_t count;
};

#define BOTH .device_source = true, .device_slots = true

static unsigned chance(struct flow *f, unsigned below) {
    f->random = f->random * 1664525u + 1013904223u;
    return (f->random >> 8) % below;
}

static void flow_send(struct flow *f) {
    struct rdi_link *l = f->p.link;
    if (l->state == RDI_LINK_LOST) {
        assert_int_equal(l->ops->reset(l, l->epoch + 1), RONDO_OK);
        f->resets++;
        return;
    }
    while (l->state == RDI_LINK_UP && l->posted < f->count && l->posted < l->credit &&
           l->posted - l->sent < l->slots) {
        uint64_t seq = l->posted;
        uint8_t sig[RDI_SIG_BYTES];
        size_t at = (seq % l->slots) * l->max_msg;
        struct rdi_put put = {
            .data = f->source + at, .len = stream_size(seq, l->max_msg), .tag = seq};
        put.flags = (seq % 5 == 0 ? RDI_PUT_ACK : 0) | (f->device_source ? RDI_PUT_DEVICE : 0);
        pair_fill(f->device_source ? f->from.view + at : f->source + at, seq, put.len);
        if (seq % 3 == 0) {
            pair_fill(sig, ~seq, sizeof sig);
            put.sig = sig;
        }
        if (l->ops->put(l, &put) != RONDO_OK) {
            return;
        }
    }
}

static void flow_receive(struct flow *f) {
    struct rdi_link *in = f->p.side[1].accepted;
    while (f->checked < in->arrived) {
        struct rdi_msg m;
        uint64_t seq = f->checked++;
        size_t at = (seq % in->slots) * in->max_msg;
        in->ops->peek(in, seq, &m);
        assert_true(m.tag == seq);
        assert_int_equal(m.len, stream_size(seq, in->max_msg));
        if (gpu_answer.yes && gpu_answer.calls > 0) {
            assert_ptr_equal(m.data, f->to.at + at);
            m.data = f->to.view + at;
        }
        assert_true(pair_matches(m.data, seq, m.len));
        assert_true((m.sig != NULL) == (seq % 3 == 0));
        assert_true(m.sig == NULL || pair_matches(m.sig, ~seq, RDI_SIG_BYTES));
        if (chance(f, 3) != 0 || f->checked - in->released > in->slots / 2) {
            in->ops->release(in, f->checked);
        }
    }
}

static bool flow_step(struct flow *f) {
    struct rdi_link *end = chance(f, 2) ? f->p.link : f->p.side[1].accepted;
    if (f->cuts > 0 && chance(f, 12) == 0 && end->state == RDI_LINK_UP) {
        f->cuts -= rdi_verbs_test_cut(end, chance(f, ((struct rdi_verbs_link *)end)->nqps));
    }
    if (f->p.link->state == RDI_LINK_FAILED) {
        fail_msg("%s", f->p.link->why);
    }
    flow_send(f);
    flow_receive(f);
    return f->checked == f->count && f->p.link->sent == f->count;
}

static void flow_open(struct flow *f, const struct kind *k) {
    *f = (struct flow){.count = k->count != 0 ? k->count : 120, .cuts = k->cuts, .random = 7};
    verbs_open(&f->p, k->options, k->options);
    gpu_make(&f->to, 32 << 20);
    gpu_make(&f->from, 32 << 20);
    gpu_register(&f->to);
    gpu_register(&f->from);
    gpu_answer = (struct gpu_answer){.yes = k->device_slots, .slots.ptr = f->to.at};
    f->device_source = k->device_source;
    f->source = k->device_source ? f->from.at : malloc(f->from.bytes);
    assert_non_null(f->source);
}

static void flow_close(struct flow *f) {
    pair_close(&f->p);
    assert_int_equal(rdi_mem_unregister_device(f->to.at), RONDO_OK);
    assert_int_equal(rdi_mem_unregister_device(f->from.at), RONDO_OK);
    if (!f->device_source) {
        free(f->source);
    }
    gpu_free(&f->to);
    gpu_free(&f->from);
}

static void run(const struct kind *k) {
    struct flow f;
    flow_open(&f, k);
    gpu_connect(&f.p);
    fake_control(NULL, k->faults != NULL ? k->faults : "");
    long refused = fake_count("rnr_naks");
    pair_drive_until(&f.p, flow_step(&f));
    // Every stripe finds its receive.
    assert_true(k->faults != NULL || fake_count("rnr_naks") == refused);
    assert_true(f.resets >= (k->cuts > 0)); // the last cuts may come too late
    assert_true(f.p.side[0].net->bytes_sent > 0);
    fake_control(NULL, "");
    flow_close(&f);
}

// ---- Ways ----------------------------------------------------------------------------------------

static const char *const ways[] = {
    ONE,
    ONE ",slots=2,chunk=4K",
    ONE ",verbs_inline=0,slots=64,chunk=16K",
    ONE ",verbs_qps=8,verbs_stripe=4K,chunk=64K,slots=3",
    LO
    ",verbs_qps=8,verbs_stripe=4K,chunk=128K", // 16 queue pairs: no more stripes than can be named
    LO ",verbs_qps=3,verbs_stripe=4K,chunk=64K",
    ONE ",verbs_mode=split",
    ONE ",verbs_mode=split,slots=2,chunk=4K",
    LO ",verbs_mode=split,verbs_qps=2,verbs_stripe=4K,chunk=64K,slots=2",
    LO ",verbs_relaxed=no",
};
#define WAYS (sizeof ways / sizeof *ways)

static void test_both(void **state) {
    (void)state;
    for (size_t i = 0; i < WAYS; i++) {
        run(&(struct kind){ways[i], .device_source = true, .device_slots = true});
    }
}

static void test_one_end(void **state) {
    (void)state;
    for (size_t i = 0; i < WAYS; i += 3) {
        run(&(struct kind){ways[i], .device_slots = true});
        run(&(struct kind){ways[i], .device_source = true});
    }
}

// Headers and pieces of payloads come in any order, long after one another.
static void test_weather(void **state) {
    (void)state;
    for (size_t i = 3; i < WAYS; i++) {
        run(&(struct kind){.options = ways[i], BOTH, .faults = "late,reorder=20,delay=300"});
    }
    run(&(struct kind){.options = ways[5], BOTH, .faults = "late,loss=1,rnr=5"});
}

// Nothing of the payload is there before the header, or the other way round.
static void test_lost(void **state) {
    (void)state;
    for (size_t i = 0; i < WAYS; i++) {
        run(&(struct kind){.options = ways[i], BOTH, .cuts = 5, .faults = "late", .count = 400});
    }
}

// Where messages are sent and not written, payloads can come from device memory but not go there.
static void test_send(void **state) {
    (void)state;
    run(&(struct kind){ONE ",verbs_mode=send", .device_source = true, .device_slots = true});
    assert_int_equal(gpu_answer.calls, 0);
    run(&(struct kind){LO ",verbs_mode=send,verbs_qps=2,slots=4,chunk=16K", .device_source = true,
                       .device_slots = true, .cuts = 3});
}

// ---- What is agreed ------------------------------------------------------------------------------

static void test_sizes(void **state) {
    (void)state;
    struct flow f;
    flow_open(&f, &(struct kind){.options = ONE ",slots=8,chunk=64K", BOTH});
    gpu_answer.slots.slots = 3;
    gpu_answer.slots.max_msg = 1 << 20; // larger than the option says
    gpu_connect(&f.p);
    assert_int_equal(gpu_answer.calls, 1);
    assert_null(gpu_answer.asked.ptr);
    assert_int_equal(gpu_answer.asked.slots, 8);
    assert_int_equal(gpu_answer.asked.max_msg, 64 << 10);
    assert_int_equal(f.p.link->slots, 3);
    assert_int_equal(f.p.link->max_msg, 1 << 20);
    char text[1024] = "";
    f.p.link->ops->describe(f.p.link, text, sizeof text);
    assert_non_null(strstr(text, "into device memory"));
    f.cuts = 2;
    pair_drive_until(&f.p, flow_step(&f));
    assert_int_equal(gpu_answer.calls, 1); // the slots are what they were
    flow_close(&f);
}

static void expect_failure(struct rdi_device_slots slots, const char *word) {
    struct flow f;
    flow_open(&f, &(struct kind){.options = ONE ",slots=8,chunk=64K", BOTH});
    slots.ptr = slots.ptr != NULL ? slots.ptr : f.to.at;
    gpu_answer.slots = slots;
    gpu_begin_link(&f.p);
    pair_drive_until(&f.p, f.p.link->state == RDI_LINK_FAILED);
    assert_int_equal(f.p.link->status, RONDO_ERR_INVALID);
    if (strstr(f.p.link->why, word) == NULL) {
        fail_msg("no '%s' in: %s", word, f.p.link->why);
    }
    assert_int_equal(f.p.side[1].accepts, 0);
    flow_close(&f);
}

static void test_wrong_answers(void **state) {
    (void)state;
    static uint8_t host[64];
    expect_failure((struct rdi_device_slots){.slots = 9}, "9 slots");
    expect_failure((struct rdi_device_slots){.max_msg = 100}, "slots of 100 bytes");
    expect_failure((struct rdi_device_slots){.max_msg = 32 << 20}, "up to 16777216");
    expect_failure((struct rdi_device_slots){.max_msg = 16 << 20}, "not within registered");
    expect_failure((struct rdi_device_slots){.ptr = host}, "not within registered");
}

static void test_unregistered_source(void **state) {
    (void)state;
    struct flow f;
    flow_open(&f, &(struct kind){.options = ONE, BOTH});
    gpu_connect(&f.p);
    struct rdi_link *l = f.p.link;
    static uint8_t host[64];
    struct rdi_put put = {.data = host, .len = 64, .flags = RDI_PUT_DEVICE};
    assert_int_equal(l->ops->put(l, &put), RONDO_ERR_INVALID);
    assert_non_null(strstr(rondo_last_error(), "registered device memory"));
    put.data = f.from.at + f.from.bytes - 63;
    assert_int_equal(l->ops->put(l, &put), RONDO_ERR_INVALID);
    assert_int_equal(l->posted, 0);
    put.len = 63; // and the link is as good as before
    assert_int_equal(l->ops->put(l, &put), RONDO_OK);
    put = (struct rdi_put){.flags = RDI_PUT_DEVICE | RDI_PUT_ACK, .tag = 4}; // nothing
    assert_int_equal(l->ops->put(l, &put), RONDO_OK);
    pair_drive_until(&f.p, l->sent == 2 && f.p.side[1].accepted->arrived == 2);
    flow_close(&f);
}

// A peer that sends a header for a payload that never comes, or a payload for nothing.
static void test_forged(void **state) {
    (void)state;
    static const struct {
        uint32_t len;
        unsigned stripes;
    } forgeries[] = {{64, 1}, {0, 2}};
    for (int i = 0; i < 2; i++) {
        struct flow f;
        flow_open(&f, &(struct kind){.options = ONE, BOTH});
        gpu_connect(&f.p);
        struct rdi_verbs_link *l = (struct rdi_verbs_link *)f.p.link;
        struct rdi_link *in = f.p.side[1].accepted;
        struct rdi_verbs_header h = {.len = forgeries[i].len};
        memcpy(l->memory, &h, sizeof h);
        for (unsigned k = 0; k < forgeries[i].stripes; k++) {
            struct ibv_sge sge = {(uintptr_t)l->memory, sizeof h, l->mr[0]->lkey};
            struct ibv_send_wr wr = {.opcode = IBV_WR_RDMA_WRITE_WITH_IMM,
                                     .sg_list = &sge,
                                     .num_sge = 1,
                                     .imm_data = htonl(rdi_verbs_imm(k, forgeries[i].stripes, 0)),
                                     .wr.rdma = {l->remote, l->rkey[0]}};
            assert_true(rdi_verbs_qp_send(&l->qps[0], &wr, 1, RDI_VERBS_NONE, true));
        }
        pair_drive_until(&f.p, (assert_true(in->arrived == 0), in->state == RDI_LINK_FAILED));
        assert_int_equal(in->status, RONDO_ERR_INTERNAL);
        assert_non_null(strstr(in->why, "broke the protocol"));
        flow_close(&f);
    }
}

// ---- Ends ----------------------------------------------------------------------------------------

// Once the receiver has closed its end, nothing writes there any more, however much is under way.
static void test_fence(void **state) {
    (void)state;
    for (int bye = 0; bye < 2; bye++) {
        struct flow f;
        long regions = fake_count("regions");
        flow_open(&f, &(struct kind){.options = ONE ",verbs_qps=4,verbs_stripe=4K", BOTH});
        gpu_connect(&f.p);
        struct rdi_link *l = f.p.link, *in = f.p.side[1].accepted;
        fake_control(NULL, "late,delay=2000");
        flow_send(&f);
        assert_true(l->posted > 2);
        long with = fake_count("regions");
        in->ops->close_link(in, bye);
        assert_int_equal(fake_count("regions"), with - 2); // headers, payloads
        f.p.side[1].accepted = NULL;
        memset(f.to.view, 0x11, f.to.bytes);
        pair_drive_until(&f.p, l->state == RDI_LINK_CLOSED || l->state == RDI_LINK_FAILED);
        fake_control(NULL, "");
        for (size_t i = 0; i < f.to.bytes; i++) {
            assert_int_equal(f.to.view[i], 0x11);
        }
        flow_close(&f);
        assert_int_equal(fake_count("regions"), regions);
    }
}

// A sender that is closed reads its source no more, though not all was sent.
static void test_source_fence(void **state) {
    (void)state;
    struct flow f;
    flow_open(&f, &(struct kind){.options = ONE, BOTH});
    gpu_connect(&f.p);
    fake_control(NULL, "delay=5000");
    flow_send(&f);
    assert_true(f.p.link->sent < f.p.link->posted);
    f.p.link->ops->close_link(f.p.link, true);
    f.p.link = NULL;
    memset(f.from.view, 0x22, f.from.bytes); // rule SOURCE_CHANGED
    long regions = fake_count("regions");
    assert_int_equal(rdi_mem_unregister_device(f.from.at), RONDO_OK);
    f.p.side[0].net->ops->progress(f.p.side[0].net, false);
    assert_int_equal(fake_count("regions"), regions - 1);
    struct rdi_link *in = f.p.side[1].accepted;
    pair_drive_until(&f.p, in->state == RDI_LINK_CLOSED || in->state == RDI_LINK_FAILED);
    fake_control(NULL, "");
    gpu_register(&f.from);
    flow_close(&f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_both),          cmocka_unit_test(test_one_end),
        cmocka_unit_test(test_weather),       cmocka_unit_test(test_lost),
        cmocka_unit_test(test_send),          cmocka_unit_test(test_sizes),
        cmocka_unit_test(test_wrong_answers), cmocka_unit_test(test_unregistered_source),
        cmocka_unit_test(test_forged),        cmocka_unit_test(test_fence),
        cmocka_unit_test(test_source_fence),
    };
    if (fake_prepare("2") != 0 || setenv("FAKE_VERBS_LEAKS", "1", 1) != 0) {
        return 1;
    }
    return cmocka_run_group_tests_name("verbs_device_link", tests, NULL, fake_dir_remove);
}
