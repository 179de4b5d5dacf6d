// SPDX-License-Identifier: MIT
// The driver's functions on streams and events.
#include "tests/mock_cuda/mock.h"

#include <stdlib.h>

#define LEGACY ((rdi_cu_stream)(uintptr_t)1) // CU_STREAM_LEGACY

struct event {
    struct mc_ctx *ctx;
    unsigned flags;
    pthread_mutex_t lock;
    struct mc_mark *mark; // the last recording
};

rdi_cu_result mc_stream_of(rdi_cu_stream handle, struct mc_stream **out) {
    if (handle && handle != LEGACY) {
        *out = mc_handle_get(MC_STREAM, handle);
        return *out ? RDI_CU_OK : MC_INVALID_HANDLE;
    }
    struct mc_ctx *c = mc_ctx_current();
    if (!c)
        return RDI_CU_INVALID_CONTEXT;
    *out = mc_stream_legacy(c);
    return RDI_CU_OK;
}

static rdi_cu_result error_of(const struct mc_ctx *c) { return atomic_load(&c->error); }

rdi_cu_result cuStreamCreateWithPriority(rdi_cu_stream *stream, unsigned flags, int priority) {
    MC_ENTER(cuStreamCreateWithPriority, MC_NEED_CTX);
    if (!stream || (flags & ~(unsigned)RDI_CU_STREAM_NON_BLOCKING))
        return RDI_CU_INVALID_VALUE;
    struct mc_stream *s = mc_stream_new(mc_ctx_current(), flags, priority);
    s->handle = mc_handle_new(MC_STREAM, s);
    *stream = s->handle;
    return RDI_CU_OK;
}

rdi_cu_result cuStreamDestroy_v2(rdi_cu_stream stream) {
    MC_ENTER(cuStreamDestroy_v2, MC_NEED_INIT);
    struct mc_stream *s = mc_handle_get(MC_STREAM, stream);
    if (!s)
        return MC_INVALID_HANDLE;
    mc_handle_kill(stream);
    pthread_mutex_lock(&s->lock); // what it has still to do is done
    s->closing = true;
    s->held = false;
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->lock);
    mc_stream_put(s);
    return RDI_CU_OK;
}

rdi_cu_result cuStreamSynchronize(rdi_cu_stream stream) {
    MC_ENTER(cuStreamSynchronize, MC_NEED_CTX);
    struct mc_stream *s;
    rdi_cu_result r = mc_stream_of(stream, &s);
    if (r)
        return r;
    if (atomic_load(&s->capture) != RDI_CU_CAPTURE_NONE)
        return RDI_CU_STREAM_CAPTURE_UNSUPPORTED;
    mc_stream_wait(s, mc_stream_last(s), "cuStreamSynchronize()");
    return error_of(s->ctx);
}

rdi_cu_result cuStreamQuery(rdi_cu_stream stream) {
    MC_ENTER(cuStreamQuery, MC_NEED_CTX);
    struct mc_stream *s;
    rdi_cu_result r = mc_stream_of(stream, &s);
    if (r)
        return r;
    if (atomic_load(&s->capture) != RDI_CU_CAPTURE_NONE)
        return RDI_CU_STREAM_CAPTURE_UNSUPPORTED;
    if (!mc_stream_idle(s))
        return RDI_CU_NOT_READY;
    return error_of(s->ctx);
}

rdi_cu_result cuStreamIsCapturing(rdi_cu_stream stream, int *status) {
    MC_ENTER(cuStreamIsCapturing, MC_NEED_CTX);
    struct mc_stream *s;
    rdi_cu_result r = mc_stream_of(stream, &s);
    if (r)
        return r;
    if (!status)
        return RDI_CU_INVALID_VALUE;
    *status = atomic_load(&s->capture);
    return RDI_CU_OK;
}

rdi_cu_result cuStreamGetCtx(rdi_cu_stream stream, rdi_cu_ctx *ctx) {
    MC_ENTER(cuStreamGetCtx, MC_NEED_INIT);
    struct mc_stream *s;
    rdi_cu_result r = mc_stream_of(stream, &s);
    if (r)
        return r;
    if (!ctx)
        return RDI_CU_INVALID_VALUE;
    *ctx = s->ctx->handle;
    return RDI_CU_OK;
}

// ---- Events --------------------------------------------------------------------------------------

rdi_cu_result cuEventCreate(rdi_cu_event *event, unsigned flags) {
    MC_ENTER(cuEventCreate, MC_NEED_CTX);
    if (!event || flags > 7)
        return RDI_CU_INVALID_VALUE;
    struct event *e = calloc(1, sizeof *e);
    if (!e)
        return RDI_CU_OUT_OF_MEMORY;
    e->ctx = mc_ctx_current();
    e->flags = flags;
    pthread_mutex_init(&e->lock, NULL);
    *event = mc_handle_new(MC_EVENT, e);
    return RDI_CU_OK;
}

rdi_cu_result cuEventDestroy_v2(rdi_cu_event event) {
    MC_ENTER(cuEventDestroy_v2, MC_NEED_INIT);
    struct event *e = mc_handle_get(MC_EVENT, event);
    if (!e)
        return MC_INVALID_HANDLE;
    mc_handle_kill(event);
    mc_mark_put(e->mark); // operations that wait for it have their own reference
    pthread_mutex_destroy(&e->lock);
    free(e);
    return RDI_CU_OK;
}

static struct mc_mark *mark_of(struct event *e) {
    pthread_mutex_lock(&e->lock);
    struct mc_mark *m = e->mark ? mc_mark_get(e->mark) : NULL;
    pthread_mutex_unlock(&e->lock);
    return m;
}

rdi_cu_result cuEventRecord(rdi_cu_event event, rdi_cu_stream stream) {
    MC_ENTER(cuEventRecord, MC_NEED_CTX);
    struct event *e = mc_handle_get(MC_EVENT, event);
    struct mc_stream *s;
    rdi_cu_result r = e ? mc_stream_of(stream, &s) : MC_INVALID_HANDLE;
    if (r)
        return r;
    if (e->ctx != s->ctx)
        return MC_INVALID_HANDLE;
    struct mc_op *op = mc_op_new(MC_RECORD);
    op->mark = mc_mark_new();
    struct mc_mark *m = mc_mark_get(op->mark);
    mc_enqueue(s, op);
    pthread_mutex_lock(&e->lock);
    struct mc_mark *before = e->mark;
    e->mark = m;
    pthread_mutex_unlock(&e->lock);
    mc_mark_put(before);
    return RDI_CU_OK;
}

rdi_cu_result cuStreamWaitEvent(rdi_cu_stream stream, rdi_cu_event event, unsigned flags) {
    MC_ENTER(cuStreamWaitEvent, MC_NEED_CTX);
    struct event *e = mc_handle_get(MC_EVENT, event);
    struct mc_stream *s;
    rdi_cu_result r = e ? mc_stream_of(stream, &s) : MC_INVALID_HANDLE;
    if (r)
        return r;
    if (flags > 1)
        return RDI_CU_INVALID_VALUE;
    struct mc_mark *m = mark_of(e);
    if (!m) // never recorded: nothing to wait for, not even what is recorded later
        return RDI_CU_OK;
    struct mc_op *op = mc_op_new(MC_WAIT_MARK);
    op->mark = m;
    mc_enqueue(s, op);
    return RDI_CU_OK;
}

rdi_cu_result cuEventQuery(rdi_cu_event event) {
    MC_ENTER(cuEventQuery, MC_NEED_INIT);
    struct event *e = mc_handle_get(MC_EVENT, event);
    if (!e)
        return MC_INVALID_HANDLE;
    struct mc_mark *m = mark_of(e);
    bool done = !m || mc_mark_done(m, NULL);
    mc_mark_put(m);
    return done ? error_of(e->ctx) : RDI_CU_NOT_READY;
}

rdi_cu_result cuEventSynchronize(rdi_cu_event event) {
    MC_ENTER(cuEventSynchronize, MC_NEED_INIT);
    struct event *e = mc_handle_get(MC_EVENT, event);
    if (!e)
        return MC_INVALID_HANDLE;
    struct mc_mark *m = mark_of(e);
    if (m)
        mc_mark_wait(m, "cuEventSynchronize()");
    mc_mark_put(m);
    return error_of(e->ctx);
}

rdi_cu_result cuEventElapsedTime(float *ms, rdi_cu_event a, rdi_cu_event b) {
    MC_ENTER(cuEventElapsedTime, MC_NEED_INIT);
    struct event *ea = mc_handle_get(MC_EVENT, a), *eb = mc_handle_get(MC_EVENT, b);
    if (!ea || !eb || ((ea->flags | eb->flags) & RDI_CU_EVENT_DISABLE_TIMING))
        return MC_INVALID_HANDLE;
    struct mc_mark *ma = mark_of(ea), *mb = mark_of(eb);
    rdi_cu_result r = ma && mb ? RDI_CU_OK : MC_INVALID_HANDLE;
    uint64_t ta = 0, tb = 0;
    if (r == RDI_CU_OK && (!mc_mark_done(ma, &ta) || !mc_mark_done(mb, &tb)))
        r = RDI_CU_NOT_READY;
    if (r == RDI_CU_OK && !ms)
        r = RDI_CU_INVALID_VALUE;
    if (r == RDI_CU_OK)
        *ms = (float)((double)(int64_t)(tb - ta) / 1e6);
    mc_mark_put(ma);
    mc_mark_put(mb);
    return r;
}
