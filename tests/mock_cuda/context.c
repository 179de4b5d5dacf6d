// SPDX-License-Identifier: MIT
// Primary contexts, and what is current on a thread.
#include "tests/mock_cuda/mock.h"

#include <stdlib.h>

struct mc_ctx mc_ctxs[MC_MAX_DEVICES];

void mc_ctx_init(void) {
    for (int i = 0; i < MC_MAX_DEVICES; i++) {
        struct mc_ctx *c = &mc_ctxs[i];
        c->ordinal = i;
        pthread_mutex_init(&c->lock, NULL);
        for (unsigned q = 0; q < mc_config.queues; q++) {
            pthread_mutex_init(&c->queues[q].lock, NULL);
            mc_cond_init(&c->queues[q].moved);
        }
    }
}

struct mc_ctx *mc_ctx_current(void) {
    if (!mc_tls.depth)
        return NULL;
    struct mc_ctx *c = mc_tls.stack[mc_tls.depth - 1];
    return c->epoch == mc_tls.epoch[mc_tls.depth - 1] ? c : NULL;
}

struct mc_ctx *mc_ctx_of(rdi_cu_ctx handle) {
    return handle ? mc_handle_get(MC_CTX, handle) : NULL;
}

rdi_cu_result cuDevicePrimaryCtxRetain(rdi_cu_ctx *ctx, rdi_cu_device device) {
    MC_ENTER(cuDevicePrimaryCtxRetain, MC_NEED_INIT);
    if (!ctx)
        return RDI_CU_INVALID_VALUE;
    if (device < 0 || device >= mc_config.devices)
        return RDI_CU_INVALID_DEVICE;
    struct mc_ctx *c = &mc_ctxs[device];
    pthread_mutex_lock(&c->lock);
    if (c->retained++ == 0) {
        c->handle = mc_handle_new(MC_CTX, c);
        c->epoch++;
        atomic_store(&c->error, 0);
        atomic_store(&c->peers, 0);
    }
    *ctx = c->handle;
    pthread_mutex_unlock(&c->lock);
    return RDI_CU_OK;
}

static void find_left(struct mc_mem *m, void *arg) {
    const struct mc_mem **left = arg;
    if (m->ctx == left[1]->ctx && !left[0])
        left[0] = m;
}

// CUDA destroys what is left in the context. Whoever let that happen holds pointers to nothing.
static void check_empty(struct mc_ctx *c) {
    const struct mc_mem like = {.ctx = c}, *left[2] = {NULL, &like};
    mc_mem_each(find_left, left);
    if (left[0])
        mc_rule("context-in-use", "the last release of the context of device %d leaves %s 0x%llx",
                c->ordinal, mc_kind_name(left[0]->kind), (unsigned long long)left[0]->address);
    for (struct mc_stream *s = c->streams; s; s = s->next)
        if (s != c->legacy && !s->closing)
            mc_rule("context-in-use",
                    "the last release of the context of device %d leaves stream %u", c->ordinal,
                    s->number);
}

rdi_cu_result cuDevicePrimaryCtxRelease_v2(rdi_cu_device device) {
    MC_ENTER(cuDevicePrimaryCtxRelease_v2, MC_NEED_INIT);
    if (device < 0 || device >= mc_config.devices)
        return RDI_CU_INVALID_DEVICE;
    struct mc_ctx *c = &mc_ctxs[device];
    pthread_mutex_lock(&c->lock);
    unsigned left = c->retained;
    if (left == 1)
        check_empty(c);
    if (left && --c->retained == 0) {
        mc_handle_kill(c->handle);
        c->handle = NULL;
        c->epoch++;
    }
    pthread_mutex_unlock(&c->lock);
    return left ? RDI_CU_OK : RDI_CU_INVALID_CONTEXT;
}

rdi_cu_result cuCtxPushCurrent_v2(rdi_cu_ctx handle) {
    MC_ENTER(cuCtxPushCurrent_v2, MC_NEED_INIT);
    struct mc_ctx *c = mc_ctx_of(handle);
    if (!c)
        return RDI_CU_INVALID_CONTEXT;
    if (mc_tls.depth == sizeof mc_tls.stack / sizeof mc_tls.stack[0])
        mc_rule("context-stack-full", "%u contexts are pushed and not popped", mc_tls.depth);
    mc_watch_thread();
    mc_tls.epoch[mc_tls.depth] = c->epoch;
    mc_tls.stack[mc_tls.depth++] = c;
    return RDI_CU_OK;
}

rdi_cu_result cuCtxPopCurrent_v2(rdi_cu_ctx *ctx) {
    MC_ENTER(cuCtxPopCurrent_v2, MC_NEED_INIT);
    if (!mc_tls.depth)
        return RDI_CU_INVALID_CONTEXT;
    if (ctx)
        *ctx = mc_tls.stack[mc_tls.depth - 1]->handle;
    mc_tls.depth--;
    return RDI_CU_OK;
}

rdi_cu_result cuCtxGetCurrent(rdi_cu_ctx *ctx) {
    MC_ENTER(cuCtxGetCurrent, MC_NEED_INIT);
    if (!ctx)
        return RDI_CU_INVALID_VALUE;
    const struct mc_ctx *c = mc_ctx_current();
    *ctx = c ? c->handle : NULL;
    return RDI_CU_OK;
}

rdi_cu_result cuCtxGetDevice(rdi_cu_device *device) {
    MC_ENTER(cuCtxGetDevice, MC_NEED_CTX);
    if (!device)
        return RDI_CU_INVALID_VALUE;
    *device = mc_ctx_current()->ordinal;
    return RDI_CU_OK;
}

rdi_cu_result cuCtxGetStreamPriorityRange(int *least, int *greatest) {
    MC_ENTER(cuCtxGetStreamPriorityRange, MC_NEED_CTX);
    if (least)
        *least = 0;
    if (greatest)
        *greatest = -5;
    return RDI_CU_OK;
}

void mc_ctx_drain(struct mc_ctx *c, const char *what) {
    enum { MOST = 4096 };
    struct {
        struct mc_stream *s;
        uint64_t ticket;
    } *all = calloc(MOST, sizeof *all);
    unsigned n = 0;
    pthread_mutex_lock(&c->lock);
    for (struct mc_stream *s = c->streams; s && n < MOST; s = s->next, n++) {
        atomic_fetch_add(&s->refs, 1);
        all[n].s = s;
        all[n].ticket = mc_stream_last(s);
    }
    pthread_mutex_unlock(&c->lock);
    for (unsigned i = 0; i < n; i++) {
        mc_stream_wait(all[i].s, all[i].ticket, what);
        mc_stream_put(all[i].s);
    }
    free(all);
}

rdi_cu_result cuCtxSynchronize(void) {
    MC_ENTER(cuCtxSynchronize, MC_NEED_CTX);
    struct mc_ctx *c = mc_ctx_current();
    mc_ctx_drain(c, "cuCtxSynchronize()");
    return atomic_load(&c->error);
}
