// SPDX-License-Identifier: MIT
// What a stream's thread does with an operation.
#include "tests/mock_cuda/mock.h"

#include <stdio.h>
#include <string.h>

bool mc_wait_met(uint32_t now, uint32_t value, uint32_t flags) {
    return (flags & 3) == RDI_CU_WAIT_EQ ? now == value : (int32_t)(now - value) >= 0;
}

static bool failed(const struct mc_stream *s) {
    return atomic_load_explicit(&s->ctx->error, memory_order_relaxed) != 0;
}

static void wait32(struct mc_stream *s, const struct mc_op *op) {
    const uint32_t *word = mc_translate(op->to, 4, s->ctx);
    uint64_t since = mc_now();
    unsigned pause = 10;
    uint32_t now;
    while (!mc_wait_met(now = __atomic_load_n(word, __ATOMIC_ACQUIRE), op->value, op->flags)) {
        char what[120];
        snprintf(what, sizeof what, "stream %u waits until 0x%llx is %s %u; it is %u", s->number,
                 (unsigned long long)op->to, op->flags & 1 ? "==" : ">=", op->value, now);
        mc_check_stuck(since, what);
        if (failed(s))
            return;
        mc_sleep_us(pause);
        if (pause < 200)
            pause += pause / 2;
        word = mc_translate(op->to, 4, s->ctx); // it may have been freed
    }
}

static void copy(const struct mc_op *op) {
    void *to = op->host_to ? op->host_to : mc_translate(op->to, op->bytes, NULL);
    const void *from = op->host_from ? op->host_from : mc_translate(op->from, op->bytes, NULL);
    memmove(to, from, op->bytes);
}

static void kernel(struct mc_stream *s, struct mc_op *op) {
    int code = mc_fault("kernel");
    if (code) {
        atomic_store(&s->ctx->error, code);
        return;
    }
    mc_tls.relaxed_since = 0;
    op->twin->fn(op->args, op->grid, op->block);
}

void mc_execute(struct mc_stream *s, struct mc_op *op) {
    // After a fault nothing runs any more, and nothing waits.
    if (failed(s) && op->work != MC_RECORD)
        return;
    switch (op->work) {
    case MC_COPY:
        copy(op);
        break;
    case MC_SET:
        memset(mc_translate(op->to, op->bytes, NULL), (int)op->value, op->bytes);
        break;
    case MC_WAIT32:
        wait32(s, op);
        break;
    case MC_WRITE32:
        __atomic_store_n((uint32_t *)mc_translate(op->to, 4, s->ctx), op->value, __ATOMIC_RELEASE);
        break;
    case MC_KERNEL:
        kernel(s, op);
        break;
    case MC_HOST:
        mc_tls.relaxed_since = 0;
        op->fn(op->fn_arg);
        break;
    case MC_RECORD:
        mc_mark_set(op->mark);
        break;
    case MC_WAIT_MARK:
        mc_mark_wait(op->mark, "a stream that waits for an event");
        break;
    case MC_WAIT_STREAM:
        mc_stream_wait(op->other, op->other_ticket, "a stream");
        break;
    }
}

// ---- What twins call -----------------------------------------------------------------------------

void *mock_cuda_range(unsigned long long address, unsigned long long bytes) {
    return mc_translate(address, bytes, mc_tls.running ? mc_tls.running->ctx : NULL);
}

void mock_cuda_relax(void) {
    if (!mc_tls.relaxed_since)
        mc_tls.relaxed_since = mc_now();
    mc_check_stuck(mc_tls.relaxed_since, "a kernel that waits");
    mc_sleep_us(50);
}
