// SPDX-License-Identifier: MIT
// A rank's record, as the others read it when they meet. What is accepted leads to addresses of the peer's, to a
// host's name that can be printed, and, from rank 0, to a plan with which every operation can be begun.
//
//   input[0]  bit 0: it is rank 0's, with the plan     the rest: the record
#include "fake_net.h"
#include "ring/internal.h"

static uint64_t now(void *self) {
    (void)self;
    return 1;
}

static void no_random(void *self, void *buf, size_t n) {
    (void)self;
    memset(buf, 5, n);
}

// Beginning an operation computes its whole course; nothing moves, as no link comes up.
static void follow(struct rdi_engine *e, const struct rdi_plan *plan) {
    static const int world[] = {0, 1, 2};
    static uint64_t send[300], recv[300];
    struct rondo_comm *c = NULL;
    MUST(rdi_comm_create(e, 7, 1, 3, world, plan, &c) == RONDO_OK);
    for (int kind = RDI_ALL_REDUCE; kind <= RDI_BARRIER; kind++) {
        struct rondo_request *r = NULL;
        size_t count = kind == RDI_BARRIER ? 0 : 100;
        MUST(rdi_request_new(c, (enum rdi_kind)kind, send, recv, count, RONDO_F64, RONDO_SUM,
                             kind == RDI_BROADCAST ? 1 : 0, &r) == RONDO_OK);
        r->detached = true;
        rdi_engine_push(e, r);
    }
    rdi_engine_progress(e, false);
    rdi_comm_fail(c, RONDO_ERR_ABORTED, "enough");
    c->drain_until = 0;
    rdi_engine_progress(e, false);
    MUST(c->head == NULL && atomic_load(&e->active) == 0);
    rdi_comm_free(c, false);
}

static bool taken;

bool fuzz_accepts(const uint8_t *data, size_t size) {
    LLVMFuzzerTestOneInput(data, size);
    return taken;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const struct rdi_options
        options; // nothing of an operation is remembered, no time is given
    static struct fake_net net;
    const struct rdi_env env = {.now = now, .random = no_random};
    const struct rdi_job job = {.rank = 1, .size = 3, .host = "here"};
    const struct rdi_net_ops *ops = &fake_net_ops;
    struct input in = {data, size};
    struct rdi_engine *e = NULL;
    struct rdi_plan plan = {.block = 0};
    bool first = take_byte(&in) & 1;
    MUST(rdi_engine_create(&env, &options, &job, &ops, 1, &net, NULL, &e) == RONDO_OK);
    uint8_t *record = own_copy(in.at, in.left);
    rdi_set_last_error("");
    rondo_status s = rdi_engine_add_peer(e, 0, record, in.left, first ? &plan : NULL);
    taken = s == RONDO_OK;
    if (s == RONDO_OK) {
        struct rdi_net *to = NULL;
        MUST(memchr(e->peers[0].host, 0, RDI_HOST_MAX) != NULL && is_clean(e->peers[0].host));
        MUST(e->peers[0].blob_len[0] <= RDI_BLOB_MAX);
        s = rdi_engine_route(e, 0, &to);
        MUST(s == RONDO_OK ? to == &net.base : s == RONDO_ERR_PATH);
        if (first) {
            follow(e, &plan);
        }
    } else {
        MUST((s == RONDO_ERR_VERSION || s == RONDO_ERR_INVALID) && rondo_last_error()[0] != '\0');
    }
    free(record);
    rdi_engine_destroy(e);
    return 0;
}
